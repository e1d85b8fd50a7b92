"""The ranking page: the file that it shows, what is refused in it, and what a browser shows of it."""

import json
import re
from contextlib import contextmanager

import numpy as np
import pytest
from browser import CONTRASTS, chromium_or_skip, watched_page
from PIL import Image

from imagernn import view
from imagernn.errors import InputError
from imagernn.ranking.results import ranking_struct
from imagernn.web.ranking_page import checked_ranking, page_data, title_of
from imagernn.web.results_page import default_places
from imagernn.web.server import serving

EVIL = '<script>document.title="x"</script><img/src=x/onerror=alert(1)>'
BOXES = [[0, 0, 1, 1], [0, 0, .5, .5], [.5, .5, 1, 1]]
WIDE = {'width': 1300, 'height': 900}
M = 8    # images, two sentences each
MEASURES = {'sentence to image': {'R@1': 50., 'median rank': 2.5}, 'recall sum': 123.45}


def grounding(image, sentence):
    """Regions and scores of the three known words of a sentence, and of END."""
    return np.array([1, 2, 0, 0]), np.array([.5, .25, -.1, image / 100])


def struct(ground=grounding, boxes=BOXES, **more):
    """Sentence s is of image s // 2, and fits image (s // 2 + s % 2 · 6) mod 8 best, then the next ones.

    The scores fall from 1 by a tenth, those of odd sentences from .95.
    """
    image_of = np.arange(2 * M) // 2
    best = (image_of + 6 * (np.arange(2 * M) % 2)) % M
    scores = 1 - .05 * (np.arange(2 * M) % 2) - (np.arange(M)[:, None] - best) % M / 10    # (M, N)
    sentences = [['dog', 'number', f'w{s}', 'zyx'] for s in range(2 * M)]
    sentences[2] = [EVIL, 'a', 'cat', 'zyx']
    return {**ranking_struct(scores, image_of, [f'{i}.png' for i in range(M)], sentences, [[0, 1, 2]] * (2 * M), ground,
                             boxes, {'dataset': EVIL, 'split': 'test'}, {'ranker': 'regions'}, MEASURES), **more}


def write_ranking(folder, data=None):
    """A ranking file with its pictures, of which the last one is not there."""
    for i in range(M - 1):
        Image.new('RGB', (60, 40), (30 * i, 90, 90)).save(folder / f'{i}.png')
    (folder / 'ranking_struct.json').write_text(json.dumps(data or struct()), encoding='utf-8')
    return folder / 'ranking_struct.json'


# ---- the file

def test_the_struct_has_the_best_images_and_sentences_and_the_true_image():
    data = struct()
    first, second = data['sentences'][:2]
    assert [pair['image'] for pair in first['images']] == [0, 1, 2, 3, 4] and first['rank'] == 1
    assert 'true_image' not in first and first['images'][1] == {
        'image': 1, 'score': .9, 'scores': [.5, .25, -.1, .01], 'regions': [1, 2, 0, 0]}
    assert [pair['image'] for pair in second['images']] == [6, 7, 0, 1, 2] and second['rank'] == 3
    other = ranking_struct(np.arange(7.)[:, None], [1], list('abcdefg'), [['a']], [[0]])
    assert other['sentences'][0]['rank'] == 6 and other['sentences'][0]['true_image'] == {'image': 1, 'score': 1.}
    assert [image['rank'] for image in other['images']] == [None, 1, *[None] * 5] and other['regions'] == []
    assert [pair['sentence'] for pair in data['images'][0]['sentences']] == [0, 5, 14, 3, 12]
    assert checked_ranking('r', json.loads(json.dumps(data))).images[0]['rank'] == 1


def test_of_equal_scores_the_right_one_comes_last():
    data = ranking_struct(np.zeros((7, 14)), np.arange(14) // 2, [''] * 7, [[]] * 14, [[]] * 14)
    assert all(sentence['rank'] == 7 and 'true_image' in sentence for sentence in data['sentences'])
    assert [image['rank'] for image in data['images']] == [13] * 7


def test_a_large_split_takes_a_few_megabytes():
    """As many words and regions as at full size, for a hundredth of the pairs."""
    rng = np.random.default_rng(0)
    data = ranking_struct(rng.normal(size=(100, 50)), rng.integers(100, size=50), ['imgs/1234567890_a.jpg'] * 100,
                          [['word'] * 11] * 50, [list(range(11))] * 50,
                          lambda i, s: (rng.integers(26, size=12), rng.normal(size=12)), np.array(BOXES))
    pairs = sum(len(one.get('images', one.get('sentences'))) + ('true_image' in one)
                for one in data['images'] + data['sentences'])
    assert len(json.dumps(data)) / pairs < 250    # of 35,000 at full size


def test_arrays_that_do_not_fit_are_an_error():
    with pytest.raises(ValueError, match=r'\(2, 3\) with 2 img_paths and 3 image_of, 2 sentences'):
        ranking_struct(np.zeros((2, 3)), [0, 0, 1], ['a', 'b'], [[]] * 2, [[]] * 3)


def changed(change):
    data = json.loads(json.dumps(struct()))
    change(data)
    return data


PAIR = ('sentences', 0, 'images', 0)


def put(*path):
    """A change: the last of path is the new value at the others."""
    *parents, key, value = path

    def change(data):
        for one in parents:
            data = data[one]
        data[key] = value

    return change


@pytest.mark.parametrize('change, words', [
    (put('images', []), ['images is empty']),
    (put('sentences', {}), ['sentences is an object', 'expected a list']),
    (put('sentences', 1, 3), ['sentences[1] is 3']),
    (put('sentences', 0, 'tokens', ['a', 1]), ['sentences[0].tokens', 'not a string']),
    (put('sentences', 0, 'known', [0, 9]), ['sentences[0].known', '0 to 3']),
    (put('sentences', 0, 'known', [1, 0]), ['sentences[0].known', 'rising']),
    (put('sentences', 0, 'known', [True]), ['sentences[0].known']),
    (put('sentences', 0, 'image', M), ['sentences[0].image is 8', '0 to 7']),
    (put('sentences', 0, 'rank', 0), ['sentences[0].rank is 0', '1 to 8']),
    (put('sentences', 0, 'images', None), ['sentences[0].images', 'expected a list']),
    (put('sentences', 0, 'true_image', []), ['sentences[0].true_image']),
    (put(*PAIR, 'image', -1), ['sentences[0].images[0].image is -1']),
    (put(*PAIR, 'image', 1.5), ['sentences[0].images[0]', '"image"', '1.5']),
    (put(*PAIR, 'score', 'x'), ['sentences[0].images[0].score is "x"', 'a number']),
    (put(*PAIR, 'score', float('nan')), ['sentences[0].images[0].score']),
    (put(*PAIR, 'scores', [1, 2]), ['sentences[0].images[0].scores', 'expected 3 numbers']),
    (put(*PAIR, 'scores', [1, 2, None]), ['sentences[0].images[0].scores']),
    (put(*PAIR, 'regions', [0, 1, 2, 3]), ['sentences[0].images[0].regions', '0 to 2']),
    (put(*PAIR, 'regions', [0, 1]), ['sentences[0].images[0].regions', 'as many']),
    (put('regions', []), ['sentences[0].images[0].regions']),
    (put('regions', [[0, 0, 2, 1]]), ['regions[0] is not a box']),
    (put('images', 1, 'img_path', None), ['images[1]', 'img_path']),
    (put('images', 1, 'rank', 'x'), ['images[1]', 'rank']),
    (put('images', 1, 'sentences', 0, 'sentence', 99), ['images[1].sentences[0].sentence is 99']),
], ids=range(24))
def test_a_file_that_is_wrong_is_named_with_the_place(tmp_path, change, words):
    path = write_ranking(tmp_path, changed(change))
    with pytest.raises(InputError) as raised:
        view.read(path)
    assert all(word in str(raised.value) for word in (str(path), *words)), raised.value
    assert len(str(raised.value)) < 500


def test_what_should_be_a_setting_and_is_none_is_left_out():
    data = struct(params=[], checkpoint_params='x', measures={'a': 'x', 'b': {'c': None, 'd': 1}, 'e': float('inf')})
    ranking = checked_ranking('r', data)
    assert (ranking.params, ranking.trained, ranking.measures) == ({}, {}, {'b': {'d': 1}})
    assert title_of(ranking) == '8 images, 16 sentences'
    json.dumps(page_data([ranking], [(None, 'x')] * M), allow_nan=False)


def test_files_of_another_kind_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_ranking(tmp_path)
    captions = {'imgblobs': [{'img_path': '0.png', 'candidate': {'text': 'a'}}]}
    (tmp_path / 'r.json').write_text(json.dumps(captions), encoding='utf-8')
    (tmp_path / 'dataset.json').write_text('{"images": []}', encoding='utf-8')
    for flags, words in ((['ranking_struct.json', 'r.json'], 'ranking_struct.json: is a ranking, which is shown alone'),
                         (['dataset.json'], 'dataset.json: has neither "imgblobs"'),
                         (['ranking_struct.json', '--export', 'ranking_struct.json'], 'would overwrite it')):
        assert view.main(flags) == 2
        assert words in capsys.readouterr().err


def test_an_exported_page_has_each_picture_once_and_names_no_folder(tmp_path, capsys):
    path = write_ranking(tmp_path, struct(params={'checkpoint_path': '/home/me/cv/ranker.h5'}))
    assert view.main([str(path), '--export', str(tmp_path / 'p.html')]) == 0
    page = (tmp_path / 'p.html').read_text(encoding='utf-8')
    assert page.count('data:image/jpeg') == M - 1 and 'ranker.h5' in page and '/home/me' not in page
    assert EVIL not in page and not re.search(r'<link rel="stylesheet"|<script src', page)
    assert 'note: 1 of 8 pictures cannot be shown; the first: 7.png' in capsys.readouterr().err


# ---- the page

@pytest.fixture(scope='module')
def browser():
    with chromium_or_skip() as browser:
        yield browser


@contextmanager
def shown(browser, folder, data=None, exported=False, viewport=WIDE, **options):
    """A watched page of a ranking, its first rows there."""
    path = write_ranking(folder, data)
    rankings, places = [view.read(path)], default_places(path)
    with watched_page(browser, viewport=viewport, reduced_motion='reduce', **options) as page:
        if exported:
            view.page_of(rankings).write_page(folder / 'page.html', rankings, places)
            page.goto((folder / 'page.html').as_uri())
            page.wait_for_selector('article')
            yield page
            return
        with serving(view.routes(rankings, places)) as address:
            page.goto(address)
            page.wait_for_selector('article')
            yield page


def labels(page):
    return page.locator('#cards article').evaluate_all('all => all.map(one => one.ariaLabel)')


def search(page, pattern):
    page.fill('input[type=search]', pattern)
    page.wait_for_selector('#cards:not([aria-busy])', state='attached')
    return page.inner_text('#count')


def focused(page):
    return page.evaluate('document.activeElement.ariaLabel ?? document.activeElement.textContent')


def words(page):
    return page.locator('.words .word').evaluate_all('all => all.map(one => one.innerText.split("\\n"))')


@pytest.mark.parametrize('exported', [False, True], ids=['served', 'one file'])
def test_each_sentence_has_its_images_with_scores_and_borders(browser, tmp_path, exported):
    data = changed(lambda data: data['sentences'][1].update(
        rank=7, image=5, true_image={**data['sentences'][1]['images'][0], 'image': 5, 'score': -.5}))
    with shown(browser, tmp_path, data, exported) as page:
        assert page.title() == f'{EVIL} test: 8 images, 16 sentences – ranking'
        assert labels(page)[2] == f'{EVIL} a cat zyx' and page.locator('article script, article [onerror]').count() == 0
        rows = [row.locator('.shot') for row in page.locator('#cards article').all()[:2]]
        kinds = [shots.evaluate_all('all => all.map(one => one.className)') for shots in rows]
        assert kinds == [['shot right', *['shot wrong'] * 4], [*['shot wrong'] * 5, 'shot true']]
        assert rows[0].all_inner_texts() == ['1.000\n✓', '0.900', '0.800', '0.700', '0.600']
        assert rows[1].last.inner_text() == '−0.500\nrank 7'
        colours = [shot.evaluate('one => getComputedStyle(one).borderColor')
                   for shot in (rows[0].first, rows[1].first, rows[1].last)]
        red, green, blue = zip(*(map(int, re.findall(r'\d+', colour)[:3]) for colour in colours), strict=True)
        assert green[0] > 2 * red[0] and red[1] > 2 * green[1] and min(red[2], green[2]) > 2 * blue[2]
        assert rows[0].first.get_attribute('aria-label') == 'Image 1, the right one, score 1.000: dog number w0 zyx'
        assert page.locator('#measures').inner_text().split() == (
            'R@1 median rank sentence to image 50 2.5 recall sum 123.5').split()
        assert '7.png: is not there' in page.inner_text('#notices')
        page.wait_for_function('() => [...document.images].every(image => image.naturalWidth)')


def test_sentences_are_filtered_and_ordered(browser, tmp_path):
    with shown(browser, tmp_path) as page:
        assert page.inner_text('#count') == (
            '16 sentences; the right image is first for 50%, among the best 5 for 100%')
        assert search(page, r'\bw(1|3|4)\b').startswith('3 of 16 sentences; the right image is first for 33%')
        assert page.locator('mark').all_text_contents() == ['w1', 'w3', 'w4']
        for order, names in ('worst', [1, 3, 4]), ('best', [4, 1, 3]), ('file', [1, 3, 4]):
            page.select_option('[aria-label=Order]', order)
            assert labels(page) == [f'dog number w{i} zyx' for i in names]
        assert 'Not a regular expression' in search(page, '(w')
        assert len(labels(page)) == 3
        assert search(page, 'nothing') == 'No sentence matches; change or clear the search.'
        assert search(page, '').startswith('16 sentences')


@pytest.mark.parametrize('exported', [False, True], ids=['served', 'one file'])
def test_an_image_opens_with_the_scores_and_regions_of_words(browser, tmp_path, exported):
    with shown(browser, tmp_path, exported=exported) as page:
        page.locator('.shot').nth(1).click()
        page.wait_for_selector('dialog[open]')
        assert page.inner_text('#heading') == 'Image 2, a wrong one'
        assert words(page) == [['dog', '0.500'], ['number', '0.250'], ['w0', '−0.100'], ['zyx', 'unknown'],
                               ['(end)', '0.010']]
        shades = page.locator('.words .word').evaluate_all('all => all.map(one => one.className.match(/s\\d/)?.[0])')
        assert shades == ['s4', 's2', 's0', None, 's0']
        page.wait_for_function('() => document.querySelector("canvas.regions").width !== 300')
        drawn = """([x, y]) => { const canvas = document.querySelector('canvas.regions');
          return canvas.getContext('2d').getImageData(x * canvas.width, y * canvas.height, 8, 8).data.some(Boolean) }"""
        assert page.evaluate(drawn, [.495, .25]) and page.evaluate(drawn, [.495, .75])
        assert not page.evaluate(drawn, [.25, .25]) and not page.evaluate(drawn, [.3, .75])
        page.locator('.look').nth(1).hover()
        assert page.text_content('#looked') == '‘number’ fits the lower right, score 0.250'
        assert page.locator('canvas.light').count() == 1
        page.locator('h3').first.hover()
        assert page.locator('canvas.light').count() == 0
        page.locator('.look').first.focus()
        page.keyboard.press('End')
        assert page.text_content('#looked') == '‘(end)’ fits the whole picture, score 0.010'


def test_the_best_sentences_of_an_image_show_their_words(browser, tmp_path):
    with shown(browser, tmp_path) as page:
        page.locator('.shot').first.click()
        others = page.locator('.others button')
        assert others.count() == 6 and page.locator('.others [aria-pressed=true]').count() == 2    # it is the best one
        assert others.nth(1).inner_text().startswith('dog number w0 zyx\n✓ 1.000')
        assert others.nth(2).get_attribute('class') == 'wrong'
        others.nth(2).focus()
        page.keyboard.press('Enter')
        assert words(page)[2][0] == 'w5' and page.inner_text('.total').startswith('score 0.950')
        assert page.locator('.others [aria-pressed=true]').all_inner_texts() == [others.nth(2).inner_text()]


def test_keys_go_from_image_to_image_and_from_sentence_to_sentence(browser, tmp_path):
    with shown(browser, tmp_path) as page:
        page.locator('.shot').first.focus()
        for key, label in (('ArrowRight', 'Image 2, a wrong'), ('ArrowDown', 'Image 2, a wrong'), ('End', 'Image 5'),
                           ('ArrowRight', 'Image 5'), ('ArrowUp', 'Image 5'), ('Home', 'Image 1, the right')):
            page.keyboard.press(key)
            assert focused(page).startswith(label)
        page.keyboard.press('Enter')
        for key, heading, word in (('Right', 'Image 2, a wrong one', 'w0'), ('Down', 'Image 2, a wrong one', 'w1'),
                                   ('Right', 'Image 3, the right one', 'w1'), ('Up', 'Image 3, a wrong one', 'w0'),
                                   ('Up', 'Image 3, a wrong one', 'w0')):
            page.keyboard.press(f'Arrow{key}')
            assert (page.inner_text('#heading'), words(page)[2][0]) == (heading, word)
        page.locator('.look').first.focus()
        page.keyboard.press('ArrowRight')                                       # to the next word
        assert page.text_content('#looked').startswith('‘number’') and page.inner_text('#heading').startswith('Image 3')
        page.keyboard.press('Escape')
        page.wait_for_function('() => document.activeElement.ariaLabel?.startsWith("Image 3, a wrong one")')
        page.keyboard.press('Tab')                                              # to the next row, where it was left
        assert focused(page).startswith('Image 5')
        page.keyboard.press('/')
        assert page.evaluate('document.activeElement.type') == 'search'


def test_a_ranker_of_sentences_shows_no_words_scores(browser, tmp_path):
    with shown(browser, tmp_path, struct(ground=None, boxes=None)) as page:
        page.locator('.shot').first.click()
        assert words(page) == [['dog'], ['number'], ['w0'], ['zyx', 'unknown']]
        assert page.locator('.look').count() == 0 and page.inner_text('.total') == 'score 1.000'


def test_a_picture_that_is_not_there_still_opens(browser, tmp_path):
    with shown(browser, tmp_path) as page:
        page.locator('.shot:has(.problem)').first.click()
        assert '7.png: is not there' in page.inner_text('dialog .problem')
        page.locator('.look').first.focus()
        assert page.text_content('#looked') == '‘dog’ fits the upper left, score 0.500'


def test_on_a_phone_all_fits_and_a_tap_shows_a_region(browser, tmp_path):
    data = struct()
    data['sentences'][0]['tokens'][2] = 'w' * 200
    with shown(browser, tmp_path, data, viewport={'width': 360, 'height': 740}, has_touch=True, is_mobile=True) as page:
        overflow = 'document.documentElement.scrollWidth - innerWidth'
        assert page.evaluate(overflow) <= 0
        page.locator('.shot').first.tap()
        page.locator('.look').first.tap()
        page.locator('canvas.light').wait_for(state='attached')
        assert page.evaluate(overflow) <= 0
        assert page.locator('dialog').evaluate('one => one.scrollWidth - one.clientWidth') <= 0
        page.get_by_role('button', name='Close').tap()
        assert page.locator('dialog[open]').count() == 0


def test_of_five_thousand_rows_only_those_near_the_window_are_there(browser, tmp_path):
    data = struct(ground=None, boxes=None)
    data['sentences'] = [{**data['sentences'][s % 16], 'tokens': [f's{s}'], 'known': []} for s in range(5000)]
    with shown(browser, tmp_path, data) as page:
        for part in .3, .7, 1:
            page.evaluate('part => scrollTo(0, part * document.body.scrollHeight)', part)
            page.wait_for_timeout(100)
            assert page.locator('#cards article').count() < 100
        page.keyboard.press('End')
        page.wait_for_selector('[aria-label=s4999]')
        page.locator('[aria-label=s4999] .shot').first.click()
        page.keyboard.press('ArrowUp')
        page.keyboard.press('Escape')
        page.wait_for_function('() => document.activeElement.closest("article")?.ariaLabel === "s4998"')
        page.select_option('[aria-label=Order]', 'worst')
        assert 0 < page.locator('#cards article').first.bounding_box()['y'] < WIDE['height']


def test_every_text_has_the_contrast_that_aa_asks_for(browser, tmp_path):
    levels = np.array([.9, .6, .4, .1])
    with shown(browser, tmp_path, struct(lambda i, s: (np.arange(4) % 3, levels if s % 2 else levels - .2))) as page:
        search(page, 'w|cat')
        for at in 0, 5:
            page.locator('.shot').nth(at).click()
            for scheme in 'light', 'dark':
                page.emulate_media(color_scheme=scheme)
                page.locator('.look').nth(at % 3).focus()
                found = page.evaluate(CONTRASTS)
                assert any('looking' in classes for *_, classes in found)
                assert len(found) > 40 and min(found)[0] >= 4.5, (scheme, min(found))
            page.keyboard.press('Escape')
            page.wait_for_selector('dialog:not([open])', state='attached')

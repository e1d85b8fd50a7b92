"""The results page as a browser shows it: served by imagernn.view, and as one file."""

import json
import re
import time
from contextlib import contextmanager

import pytest
from browser import chromium_or_skip, watched_page
from PIL import Image

from imagernn import view
from imagernn.web.results_page import default_places, read_result, write_page
from imagernn.web.server import serving

EVIL = ('<script>document.title="x"</script></script><!-- <img src=x onerror=alert(1)> "q" \'q\' & größer 🙂 שלום '
        '\\u003c')
PHONE, WIDE = {'width': 390, 'height': 800}, {'width': 1300, 'height': 900}
CAPTIONS = ['a dog runs on grass', 'a cat sleeps', EVIL, 'two men in red', 'a b', f'{"a" * 36}! x', '']
SCORES = {0: {'Bleu_4': .2, 'CIDEr': 1.5}, 3: {'Bleu_4': .3, 'CIDEr': .5}, 6: {'Bleu_4': .1, 'CIDEr': 0.}}


@pytest.fixture(scope='module')
def browser():
    with chromium_or_skip() as browser:
        yield browser


def caption(text, logprob):
    """Each word as likely as the others, and as END."""
    n = len(text.split(' ')) + 1 if text else 1
    return {'text': text, 'logprob': logprob, 'word_logprobs': [logprob / n] * n}


def write_results(path, captions=CAPTIONS, **more):
    """A result file of pictures 0.png, 1.png, … beside it. The last picture is not there, the one before it is none."""
    blobs = []
    for i, text in enumerate(captions):
        blob = {'img_path': f'{i} {EVIL[:8]}.png'.replace('/', '') if i == 2 else f'{i}.png', 'imgid': i,
                'candidate': caption(text, -1. - i), 'references': [{'text': f'reference {i}'}, {'text': EVIL}]}
        blob['nbest'] = [blob['candidate'], caption('second best', -20.)]
        blobs.append(blob | ({'scores': SCORES[i]} if i in SCORES else {}))
        if i < len(captions) - 2:
            Image.new('RGB', (60, 40), (30 * i % 255, 90, 90)).save(path.parent / blob['img_path'])
    (path.parent / f'{len(captions) - 2}.png').write_bytes(b'<html>')
    data = {'params': {'dataset': EVIL, 'split': 'test', 'beam_size': 3}, 'imgblobs': blobs, 'gtppl': 12.34,
            'checkpoint_params': {'generator': 'lstm', 'hidden_size': 8}, 'scores': {'Bleu_4': .25, 'multi_bleu_1': 9.}}
    path.write_text(json.dumps(data | more), encoding='utf-8')
    return path


@contextmanager
def shown(browser, folder, *paths, exported=False, viewport=WIDE, **options):
    """A watched page of result files, all of its first cards there."""
    results, places = [read_result(path) for path in paths], default_places(paths[0])
    with watched_page(browser, viewport=viewport, **options) as page:
        if exported:
            write_page(folder / 'page.html', results, places)
            page.goto((folder / 'page.html').as_uri())
            page.wait_for_selector('article')
            yield page
            return
        with serving(view.routes(results, places)) as address:
            page.goto(address)
            page.wait_for_selector('article')
            yield page


@pytest.fixture
def results(tmp_path):
    return write_results(tmp_path / 'result_struct.json')


def texts(page):
    """The captions on the page, in order, without END."""
    return [label for label in page.locator('article').evaluate_all('all => all.map(one => one.ariaLabel)')]


def order(page, value):
    page.select_option('[aria-label=Order]', value)


def search(page, pattern):
    """Search, and wait for the answer."""
    page.fill('input[type=search]', pattern)
    page.wait_for_selector('#cards:not([aria-busy])', state='attached')
    return page.inner_text('#count')


@pytest.mark.parametrize('exported', [False, True], ids=['served', 'one file'])
def test_every_card_shows_its_picture_caption_and_figures_as_text(browser, results, tmp_path, exported):
    with shown(browser, tmp_path, results, exported=exported) as page:
        assert page.title() == f'{EVIL} test: 7 images – captions' and page.inner_text('h1') == f'{EVIL} test: 7 images'
        assert texts(page) == [text or 'no words' for text in CAPTIONS]
        words = page.locator('.words').all_text_contents()
        assert words == [f'{text}.' for text in CAPTIONS]                         # the full stop is END
        assert page.locator('article script, article [onerror]').count() == 0
        page.wait_for_function("() => document.querySelectorAll('.problem').length === 2"
                               ' && [...document.images].every(image => image.complete)')
        images = page.locator('img').evaluate_all('all => all.map(one => [one.alt, one.naturalWidth])')
        assert images == [[text, 60] for text in CAPTIONS[:5]]
        broken, missing = page.locator('.problem').all_text_contents()
        assert '5.png' in broken and 'not a picture' in broken and '6.png: is not there' in missing
        assert page.locator('.figures').nth(0).inner_text().split() == 'log p −1.00 BLEU-4 20.0 CIDEr 150.0'.split()
        assert page.locator('.name').nth(2).inner_text() == f'2 {EVIL[:8]}.png'
        assert page.locator('#measures').inner_text().split() == ['perplexity', '12.3', 'BLEU-4', '25.0']
        page.locator('#settings summary').click()
        settings = page.locator('#settings').inner_text()
        assert EVIL[:40] in settings and 'multi_bleu_1' in settings


def test_cards_are_ordered_and_those_without_the_score_come_last(browser, results, tmp_path):
    names = [text or 'no words' for text in CAPTIONS]
    of_a_word = sorted(range(7), key=lambda i: -caption(CAPTIONS[i], -1. - i)['word_logprobs'][0])
    with shown(browser, tmp_path, results) as page:
        for value, highest_first in (('file', range(7)), ('logprob 0', range(7)), ('perWord 0', of_a_word),
                                     ('score 0 CIDEr', [0, 3, 6]), ('score 0 Bleu_4', [3, 0, 6])):
            rest = [i for i in range(7) if i not in highest_first]
            order(page, value)
            assert texts(page) == [names[i] for i in [*highest_first, *rest]]
            other_way = page.get_by_role('button', name=re.compile('First to last|Highest first'))
            other_way.click()
            assert texts(page) == [names[i] for i in [*highest_first[::-1], *rest]]
            page.get_by_role('button', name=re.compile('Last to first|Lowest first')).click()


def test_a_shuffle_is_the_same_for_the_same_seed(browser, results, tmp_path):
    with shown(browser, tmp_path, results) as page:
        order(page, 'shuffle')
        seen = []
        for seed in '1', '2', '1', '3':
            page.fill('input[type=number]', seed)
            seen.append(texts(page))
        one, two, again, three = seen
        assert one == again and len({tuple(each) for each in seen}) == 3
        assert all(sorted(each) == sorted(text or 'no words' for text in CAPTIONS) for each in seen)


@pytest.mark.parametrize('exported', [False, True], ids=['served', 'one file'])
def test_a_search_finds_by_regular_expression_and_marks(browser, results, tmp_path, exported):
    with shown(browser, tmp_path, results, exported=exported) as page:
        assert search(page, r'\b(dog|cat)\b') == '2 of 7 images'
        assert page.locator('.word.found').all_text_contents() == ['dog', 'cat']
        assert search(page, '🙂 שלום') == '7 images'                          # in the references
        assert search(page, 'reference [35]') == '2 of 7 images'
        assert page.locator('article li mark').all_text_contents() == ['reference 3', 'reference 5']   # folded out
        page.select_option('[aria-label="Where to search"]', 'captions')
        page.wait_for_selector('#cards:not([aria-busy])', state='attached')
        assert page.inner_text('#count') == 'No image matches; change or clear the search.'
        assert search(page, 'GRÖßER') == '1 of 7 images'
        page.select_option('[aria-label="Where to search"]', 'name')
        assert search(page, r'^[01]\.png') == '2 of 7 images'
        assert search(page, '') == '7 images'


@contextmanager
def shown_with_short_searches(browser, results, late=0.):
    """A watched page where a search may take half a second; its script comes that many seconds late."""
    routes = view.routes([read_result(results)], default_places(results))
    (kind, path), script = routes['/results.js'], routes['/search.js']
    text = path.read_text(encoding='utf-8')
    assert 'SEARCH_ENDS = 2000;' in text
    short = text.replace('SEARCH_ENDS = 2000;', 'SEARCH_ENDS = 500;').encode()
    routes['/results.js'] = lambda: (kind, short)
    routes['/search.js'] = lambda: time.sleep(late) or script
    with serving(routes) as address, watched_page(browser) as page:
        page.goto(address)
        page.wait_for_selector('article')
        yield page


def test_a_search_whose_thread_starts_late_is_waited_for(browser, results):
    with shown_with_short_searches(browser, results, late=.8) as page:
        assert search(page, 'dog') == '1 of 7 images'


def test_a_bad_or_endless_expression_is_said_and_the_page_goes_on(browser, results):
    with shown_with_short_searches(browser, results) as page:
        assert 'Not a regular expression' in search(page, '(dog')
        assert len(texts(page)) == 7                                            # what was shown stays
        order(page, 'logprob 0')
        assert 'Not a regular expression' in page.inner_text('#count')
        assert search(page, 'dog') == '1 of 7 images'
        page.fill('input[type=search]', r'^(a+)+$')
        page.evaluate('window.ticks = 0; setInterval(() => window.ticks++, 10)')
        page.wait_for_selector('#count:has-text("takes too long")')
        assert page.evaluate('window.ticks') > 5                                # it never froze
        deadline = time.monotonic() + 5
        while page.workers and time.monotonic() < deadline:
            page.wait_for_timeout(20)
        assert not page.workers                                                 # nor does it go on unseen
        assert search(page, 'cat') == '1 of 7 images'


def test_lists_fold_out_by_keyboard_and_stay_open_in_another_order(browser, results, tmp_path):
    with shown(browser, tmp_path, results) as page:
        first = page.locator('article').first
        for name, items in ('2 best captions', ['a dog runs on grass. −1.00', 'second best. −20.00']), (
                '2 references', ['reference 0', EVIL]):
            summary = first.locator('summary', has_text=name)
            summary.focus()
            page.keyboard.press('Enter')
            listed = first.locator('details', has_text=name).locator('li')
            listed.first.wait_for()
            assert listed.all_text_contents() == items
        first.locator('summary', has_text='Word by word').click()
        first.locator('.bars tr:nth-child(6)').wait_for()                       # END
        page.get_by_role('button', name='First to last').click()
        assert page.locator('article').last.locator('details[open]').count() == 3
        page.get_by_role('button', name='References').click()
        assert page.locator('article details[open]', has_text='reference').count() == 7


def test_words_are_shaded_by_probability_and_say_it(browser, tmp_path):
    path = write_results(tmp_path / 'r.json', ['a b c d e', '', ''])
    data = json.loads(path.read_text(encoding='utf-8'))
    data['imgblobs'][0]['candidate'] |= {'logprob': -11.7, 'word_logprobs': [-.01, -1.2, -2.3, -3.9, -4.7, None]}
    path.write_text(json.dumps(data), encoding='utf-8')
    with shown(browser, tmp_path, path) as page:
        words = page.locator('article').first.locator('.word')
        assert [word.split() for word in words.evaluate_all('all => all.map(one => one.className)')] == [
            ['word', 'p0'], ['word', 'p1'], ['word', 'p2'], ['word', 'p3'], ['word', 'p4'], ['word']]
        assert [words.nth(i).get_attribute('title') for i in (1, 5)] == ['b: 30%, ln p −1.20', None]
        legend = page.locator('#legend .word').all_inner_texts()
        assert legend == ['over 50%', '20–50%', '5–20%', '1–5%', 'under 1%']
        colour = 'one => getComputedStyle(one).backgroundColor'
        assert len({words.nth(i).evaluate(colour) for i in range(5)}) == 5
        page.get_by_role('button', name='Probabilities').click()
        assert len({words.nth(i).evaluate(colour) for i in range(5)}) == 1 and not page.locator('#legend .word').count()


@pytest.mark.parametrize('exported', [False, True], ids=['served', 'one file'])
def test_two_files_stand_side_by_side_with_their_differences(browser, results, tmp_path, exported):
    (tmp_path / 'other').mkdir()
    other = write_results(tmp_path / 'other' / 'second.json', ['a big dog on grass', *CAPTIONS[1:4]], gtppl=11.)
    with shown(browser, tmp_path, results, other, exported=exported) as page:
        first = page.locator('article').first
        assert first.locator('del').all_text_contents() == ['runs']
        assert first.locator('ins').all_text_contents() == ['big']
        assert page.locator('del:not(#legend del), ins:not(#legend ins)').count() == 2
        assert page.locator('article').nth(5).locator('.caption').nth(1).text_content() == 'Bno caption'
        assert 'B has no caption for 3 images' in page.locator('#notices').inner_text()
        assert '−1.3' in page.locator('#measures .gain').first.inner_text()
        order(page, 'gain 1 CIDEr')
        page.get_by_role('button', name='Differing only').click()
        assert texts(page) == [CAPTIONS[0]] and page.inner_text('#count') == '1 of 7 images'


def test_a_picture_that_goes_while_it_is_looked_at_is_said(browser, results, tmp_path):
    for name in '0.png', '1.png':
        (tmp_path / name).unlink()
    (tmp_path / '0.png').symlink_to('2.png')
    data, places = read_result(results), default_places(results)
    (tmp_path / '1.png').write_bytes((tmp_path / '3.png').read_bytes())
    routes = view.routes([data], places)
    (tmp_path / '1.png').unlink()
    with serving(routes) as address, watched_page(browser) as page:
        page.goto(address)
        page.wait_for_selector('article:nth-child(2) .problem')
        assert '1.png: is not there' in page.locator('article').nth(1).locator('.problem').inner_text()
        assert '0.png: cannot be found' in page.locator('article').nth(0).locator('.problem').inner_text()


def test_keys_search_and_go_from_card_to_card(browser, tmp_path):
    path = write_results(tmp_path / 'r.json', [f'caption {i}' for i in range(30)])
    with shown(browser, tmp_path, path, viewport=PHONE) as page:
        focused = '() => document.activeElement.ariaLabel'
        for key, label in [('j', 'caption 0'), ('j', 'caption 1'), ('k', 'caption 0'), ('k', 'caption 0')]:
            page.keyboard.press(key)
            assert page.evaluate(focused) == label
        for _ in range(14):                                                      # into the next chunk
            page.keyboard.press('j')
        assert page.evaluate(focused) == 'caption 14'
        page.keyboard.press('/')
        assert page.evaluate(focused).startswith('Search in captions')
        page.keyboard.type('j/k')
        assert page.input_value('input[type=search]') == 'j/k'


def test_of_many_cards_only_those_near_the_window_are_there(browser, tmp_path):
    path = write_results(tmp_path / 'r.json', ['a dog', 'a cat', 'a bird'])
    data = json.loads(path.read_text(encoding='utf-8'))
    data['imgblobs'] = [{**data['imgblobs'][2], 'candidate': {'text': f'caption {i}', 'logprob': -i}}
                        for i in range(3000)]
    path.write_text(json.dumps(data), encoding='utf-8')
    with shown(browser, tmp_path, path) as page:
        most = []
        for i in range(0, 3000, 500):
            page.evaluate('part => scrollTo(0, part * document.body.scrollHeight)', i / 3000)
            page.wait_for_timeout(100)
            most.append(page.locator('article').count())
        page.keyboard.press('End')
        page.wait_for_selector('[aria-label="caption 2999"]')
        assert max(most) < 150 and page.locator('article').last.get_attribute('aria-setsize') == '3000'
        order(page, 'logprob 0')                                                # from where it begins
        page.wait_for_selector('[aria-label="caption 0"]')
        assert 0 < page.locator('article').first.bounding_box()['y'] < WIDE['height']


def test_nothing_is_wider_than_the_window(browser, results, tmp_path):
    long = json.loads(results.read_text(encoding='utf-8'))
    long['imgblobs'][0]['candidate']['text'] = 'w' * 300
    long['imgblobs'][1]['img_path'] = 'n' * 300
    results.write_text(json.dumps(long), encoding='utf-8')
    with shown(browser, tmp_path, results) as page:
        for summary in page.locator('article').first.locator('summary').all():
            summary.click()
        for width in 320, 390, 800, 1300, 2600:
            page.set_viewport_size({'width': width, 'height': 800})
            assert page.evaluate('document.documentElement.scrollWidth - innerWidth') <= 0, width


CONTRASTS = '''() => {    // of every text, over the nearest background that is not transparent
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
  const rgb = colour => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
                          return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const linear = c => (c /= 255) <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
  const light = colour => rgb(colour).slice(0, 3).reduce((sum, c, i) => sum + linear(c) * [.2126, .7152, .0722][i], 0);
  const ground = node => getComputedStyle(node).backgroundColor;
  const under = node => { while (node.parentElement && rgb(ground(node))[3] < 255) node = node.parentElement;
                          return ground(node); };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text; text = walker.nextNode();) {
    const node = text.parentElement;
    if (!text.textContent.trim() || !node.checkVisibility() || ['SCRIPT', 'OPTION'].includes(node.tagName)) continue;
    const [a, b] = [light(getComputedStyle(node).color), light(under(node))].sort((x, y) => y - x);
    found.push([(a + .05) / (b + .05), text.textContent.slice(0, 40), node.className]);
  }
  return found; }'''


def test_every_text_has_the_contrast_that_aa_asks_for(browser, tmp_path):
    path = write_results(tmp_path / 'r.json', ['a b c d e', 'cat', ''])
    data = json.loads(path.read_text(encoding='utf-8'))
    data['imgblobs'][0]['candidate']['word_logprobs'] = [-.01, -1.2, -2.3, -3.9, -4.7, -1.]
    path.write_text(json.dumps(data), encoding='utf-8')
    (tmp_path / 'other').mkdir()
    other = write_results(tmp_path / 'other' / 'o.json', ['a b c d f', 'cat', ''])
    with shown(browser, tmp_path, path, other, reduced_motion='reduce') as page:
        search(page, 'b|cat')
        for summary in page.locator('article summary, #settings summary').all():
            summary.click()
        for scheme in 'light', 'dark':
            page.emulate_media(color_scheme=scheme)
            found = page.evaluate(CONTRASTS)
            assert len(found) > 40 and min(found)[0] >= 4.5, (scheme, min(found))


def test_the_switch_of_colours_beats_the_systems(browser, results, tmp_path):
    background = 'getComputedStyle(document.documentElement).backgroundColor'
    with shown(browser, tmp_path, results, color_scheme='light') as page:
        light = page.evaluate(background)
        for _ in range(2):
            page.get_by_role('button', name='Colours').click()
        assert page.evaluate(background) != light
        page.emulate_media(color_scheme='dark')
        dark = page.evaluate(background)
        page.get_by_role('button', name='Colours').click()                      # as the system again
        assert page.evaluate(background) == dark != light


def test_a_result_file_of_the_original_shows(browser, tmp_path):
    """No references, no perplexity, no scores, no word probabilities, no pictures."""
    blobs = [{'img_path': f'{i}.jpg', 'candidate': {'text': f'dog {i}', 'logprob': -1.}} for i in range(5)]
    (tmp_path / 'r.json').write_text(json.dumps({'params': {}, 'checkpoint_params': {}, 'imgblobs': blobs}))
    with shown(browser, tmp_path, tmp_path / 'r.json') as page:
        assert texts(page) == [blob['candidate']['text'] for blob in blobs]
        assert page.locator('article summary, #tools button:text-matches("Ref|Prob")').count() == 0
        assert page.locator('#measures, #settings').evaluate_all('all => all.every(one => one.hidden)')

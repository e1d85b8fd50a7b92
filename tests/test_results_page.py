"""The results page as a browser shows it: served by imagernn.view, and as one file."""

import json
import re
import time
from contextlib import contextmanager

import pytest
from browser import CONTRASTS, chromium_or_skip, watched_page
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
    (kind, path), script = routes['/feed.js'], routes['/search.js']
    text = path.read_text(encoding='utf-8')
    assert 'SEARCH_ENDS = 2000;' in text
    short = text.replace('SEARCH_ENDS = 2000;', 'SEARCH_ENDS = 500;').encode()
    routes['/feed.js'] = lambda: (kind, short)
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


# ---- where words looked

WINDOWS = [[x, y, x + .5, y + .5] for y in (0, .25, .5) for x in (0, .25, .5)]    # nine, from left to right
CELLS = [[x / 4, y / 4, (x + 1) / 4, (y + 1) / 4] for y in range(4) for x in range(4)]


def attentive(path, text='a dog runs', looks=(0, 2, 6, 4), regions=WINDOWS, size=(120, 80), **more):
    """A result file of one white picture. looks: for each word and END, the region that it looks at, or the weights."""
    rows = [look if isinstance(look, list) else [round(.6 * (r == look) + .4 / len(regions), 4)
                                                 for r in range(len(regions))] for look in looks]
    found = caption(text, -2.) | {'attention': rows}
    found['word_logprobs'] = found['word_logprobs'][:1] * len(rows)
    second = caption('two', -3.) | {'attention': rows[:1] * 2}
    blob = {'img_path': 'white.png', 'candidate': found, 'nbest': [found, second], 'references': [{'text': 'a dog'}]}
    Image.new('RGB', size, 'white').save(path.parent / 'white.png')
    path.write_text(json.dumps({'params': {}, 'regions': regions, 'imgblobs': [blob], **more}), encoding='utf-8')
    return path


# a canvas of another size than it has at first; the picture may have to load before
DRAWN = '''() => {
  const canvas = document.querySelector('canvas.light');
  return canvas && (canvas.width !== 300 || canvas.height !== 150); }'''

# how dark the canvas is at a place of the picture, from 0 to 1
DARKNESS = """([x, y]) => {
  const canvas = document.querySelector('canvas.light'), context = canvas.getContext('2d');
  return context.getImageData(x * canvas.width, y * canvas.height, 1, 1).data[3] / 255; }"""


def darkness(page, x, y):
    page.wait_for_function(DRAWN)
    return page.evaluate(DARKNESS, [x, y])


def said(page):
    return page.text_content('#looked')


@pytest.mark.parametrize('exported', [False, True], ids=['served', 'one file'])
def test_keys_step_through_the_words_and_light_up_where_each_looked(browser, tmp_path, exported):
    path = attentive(tmp_path / 'r.json')
    with shown(browser, tmp_path, path, exported=exported, reduced_motion='reduce') as page:
        page.locator('article').focus()
        page.keyboard.press('Tab')
        words = page.locator('.words .look')
        assert words.all_text_contents() == ['a', 'dog', 'runs', '.']
        page.wait_for_selector('canvas.light')
        assert said(page) == '‘a’ looked mostly at the upper left, 64%'
        assert darkness(page, .3, .3) < .1 and darkness(page, .8, .8) > .6
        for key, word, place, bright, dark in (
                ('ArrowRight', 'dog', 'the upper right', (.7, .3), (.2, .8)),
                ('ArrowRight', 'runs', 'the lower left', (.3, .7), (.8, .2)),
                ('ArrowLeft', 'dog', 'the upper right', (.7, .3), (.2, .8)),
                ('Home', 'a', 'the upper left', (.3, .3), (.8, .8)),
                ('ArrowLeft', 'a', 'the upper left', (.3, .3), (.8, .8))):
            page.keyboard.press(key)
            assert page.evaluate('document.activeElement.textContent') == word
            assert said(page) == f'‘{word}’ looked mostly at {place}, 64%'
            assert darkness(page, *bright) < .1 and darkness(page, *dark) > .6, word
            assert page.locator('.looking').all_text_contents() == [word]
        page.keyboard.press('End')
        assert said(page) == 'The end looked mostly at the middle, 64%'
        assert page.evaluate('document.activeElement.ariaLabel') == 'the end of the caption'
        page.keyboard.press('ArrowRight')                                       # there is no further word
        assert said(page).startswith('The end')
        page.keyboard.press('Escape')
        assert page.locator('canvas.light, .looking').count() == 0 and said(page) == ''
        page.keyboard.press('ArrowRight')
        assert said(page).startswith('The end') and page.locator('canvas.light').count() == 1
        page.keyboard.press('Escape')
        for shown_again in True, False, True:
            page.keyboard.press('Enter')
            assert page.locator('canvas.light').count() == shown_again
        page.keyboard.press('Tab')                                              # past all words, to the details
        assert page.evaluate('document.activeElement.tagName') == 'SUMMARY'
        assert page.locator('canvas.light').count() == 0


def test_the_light_covers_the_picture_and_nothing_beside_it(browser, tmp_path):
    path = attentive(tmp_path / 'r.json', size=(50, 100))
    with shown(browser, tmp_path, path, reduced_motion='reduce', viewport=PHONE, device_scale_factor=2) as page:
        for width in 390, 1300:
            page.set_viewport_size({'width': width, 'height': 800})
            page.locator('.look').first.focus()
            page.wait_for_function(DRAWN)
            box = page.locator('.picture').bounding_box()
            height = page.evaluate('document.querySelector("canvas.light").height')
            canvas_width = page.evaluate('document.querySelector("canvas.light").width')
            assert abs(height - 2 * box['height']) <= 2 and abs(canvas_width - height / 2) <= 2    # at 2 pixels a point
            assert page.locator('canvas.light').bounding_box() == box           # which object-fit draws as the picture
            assert page.locator('canvas.light').evaluate('one => getComputedStyle(one).objectFit') == 'contain'


def test_the_pointer_lights_up_words_and_a_click_keeps_the_light(browser, tmp_path):
    with shown(browser, tmp_path, attentive(tmp_path / 'r.json'), reduced_motion='reduce') as page:
        words, light = page.locator('.words .look'), page.locator('canvas.light')
        words.nth(1).hover()
        assert said(page).startswith('‘dog’') and light.count() == 1
        one, other = words.nth(1).bounding_box(), words.nth(2).bounding_box()
        page.mouse.move((one['x'] + one['width'] + other['x']) / 2, one['y'] + 5)    # between two words
        assert light.count() == 1
        page.locator('.figures').hover()
        assert light.count() == 0 and said(page) == ''
        words.nth(2).click()
        words.nth(0).hover()
        assert said(page).startswith('‘a’')
        page.locator('h1').hover()
        assert said(page).startswith('‘runs’')                                  # it has the focus
        words.nth(2).click()
        page.locator('h1').hover()
        assert light.count() == 0
        words.nth(2).hover()
        page.keyboard.press('Escape')
        assert light.count() == 0


def test_a_tap_shows_where_a_word_looked_and_another_one_clears_it(browser, tmp_path):
    path = attentive(tmp_path / 'r.json')
    with shown(browser, tmp_path, path, viewport={'width': 360, 'height': 740}, has_touch=True, is_mobile=True,
               exported=True) as page:
        words, light = page.locator('.words .look'), page.locator('canvas.light')
        for tapped in 0, 1, 3:
            words.nth(tapped).tap()
            light.wait_for(state='attached')
            assert page.locator('.looking').all_text_contents() == [['a', 'dog', 'runs', '.'][tapped]]
        words.nth(3).tap()
        light.wait_for(state='detached')
        words.nth(3).tap()
        light.wait_for(state='attached')
        page.locator('.figures').tap()
        light.wait_for(state='detached')
        assert page.evaluate('document.documentElement.scrollWidth - innerWidth') <= 0


def test_the_light_glides_unless_reduced_motion_is_asked_for(browser, tmp_path):
    drawn = """index => new Promise(done => {
      document.querySelectorAll('.words .look')[index].focus();
      const seen = [];
      const look = () => {
        const canvas = document.querySelector('canvas.light');
        seen.push(canvas.getContext('2d').getImageData(.9 * canvas.width, .9 * canvas.height, 1, 1).data[3]);
        if (seen.length < 40) requestAnimationFrame(look); else done(seen);
      };
      look(); })"""
    for motion, kinds in ('reduce', 1), ('no-preference', 4):
        with shown(browser, tmp_path, attentive(tmp_path / 'r.json'), reduced_motion=motion) as page:
            page.wait_for_function('() => document.querySelector(".picture img").naturalWidth')
            seen = page.evaluate(drawn, 0)
            assert seen[-1] > 150 and seen == sorted(seen)
            assert len(set(seen)) == 1 if kinds == 1 else len(set(seen)) >= kinds
            page.keyboard.press('Escape')
            page.locator('canvas.light').wait_for(state='detached')


def test_every_region_has_a_name(browser, tmp_path):
    named = {'the upper left': [0, 0, .5, .5], 'the top': [.25, 0, .75, .5], 'the upper right': [.57, 0, 1, .43],
             'the left': [0, .25, .5, .75], 'the middle': [.43, .43, .57, .57], 'the right': [.86, .4, 1, .6],
             'the lower left': [0, .86, .14, 1], 'the bottom': [0, .5, 1, 1], 'the lower right': [.6, .6, 1, 1],
             'the whole picture': [0, 0, 1, .99]}
    path = attentive(tmp_path / 'r.json', ' '.join('w' * len(named)), [*range(len(named)), [.1] * len(named)],
                     list(named.values()))
    with shown(browser, tmp_path, path, reduced_motion='reduce') as page:
        for i, name in enumerate(named):
            page.locator('.words .look').nth(i).focus()
            assert said(page) == f'‘w’ looked mostly at {name}, 64%'
        page.locator('.words .look').nth(len(named)).focus()
        assert said(page) == 'The end looked all over the picture, at most 10% in one place'


def test_attention_that_is_the_same_everywhere_darkens_nothing(browser, tmp_path):
    path = attentive(tmp_path / 'r.json', 'a', [[.0625] * 16, [1, *[0] * 15]], CELLS)
    with shown(browser, tmp_path, path, reduced_motion='reduce') as page:
        page.locator('.words .look').nth(0).focus()
        assert max(darkness(page, x / 10, y / 10) for x in range(4, 10) for y in range(4, 10)) < .05
        page.locator('.words .look').nth(1).focus()
        assert darkness(page, .6, .6) > .7


def test_the_second_best_caption_and_the_strip_show_it_too(browser, tmp_path):
    with shown(browser, tmp_path, attentive(tmp_path / 'r.json'), reduced_motion='reduce') as page:
        page.locator('summary', has_text='2 best captions').click()
        page.locator('li .look').last.focus()
        assert said(page) == 'The end looked mostly at the upper left, 64%'
        assert page.locator('canvas.light').count() == 1
        page.keyboard.press('ArrowLeft')
        assert page.evaluate('document.activeElement.textContent') == 'two'
        page.locator('summary', has_text='Where each word looked').click()
        page.wait_for_selector('.strip li')
        assert page.locator('.strip li').all_inner_texts() == [
            'a\nupper left 64%', 'dog\nupper right 64%', 'runs\nlower left 64%', '(end)\nmiddle 64%']
        page.wait_for_function('() => document.querySelector(".strip canvas").height')
        grey = page.evaluate("""() => [...document.querySelectorAll('.strip canvas')].map(canvas =>
          [[.3, .3], [.7, .3], [.3, .7], [.5, .5]].map(([x, y]) =>
            canvas.getContext('2d').getImageData(x * canvas.width, y * canvas.height, 1, 1).data[0]))""")
        assert all(row[i] == max(row) > 240 and min(row) < 200 for i, row in enumerate(grey)), grey
        page.get_by_role('button', name='First to last').click()                 # builds the cards again
        page.wait_for_function('() => [...document.querySelectorAll(".strip canvas")].every(one => one.height === 160)')


def test_each_of_two_files_has_its_own_light(browser, tmp_path):
    one, other = attentive(tmp_path / 'one.json'), attentive(tmp_path / 'other.json', 'a cat', (0, 15, 3), CELLS)
    with shown(browser, tmp_path, one, other, reduced_motion='reduce') as page:
        page.locator('.words').nth(0).locator('.look').first.focus()
        assert said(page) == '‘a’ looked mostly at the upper left, 64%' and darkness(page, .3, .3) < .1
        colour = 'getComputedStyle(document.querySelector("canvas.light")).color'
        colours = [page.evaluate(colour)]
        cat = page.locator('.words').nth(1).locator('ins.look')
        cat.focus()
        assert said(page) == '‘cat’ looked mostly at the lower right, 62%'
        assert darkness(page, .9, .9) < .2 and darkness(page, .4, .4) > .6
        assert page.locator('canvas.light').count() == 1 and page.evaluate(colour) not in colours
        assert [line.get_attribute('aria-label') for line in page.locator('.looks').all()] == [
            'The words of A', 'The words of B']


def test_words_without_attention_are_no_controls(browser, results, tmp_path):
    other = write_results(tmp_path / 'r.json')
    with shown(browser, tmp_path, other) as page:
        assert page.locator('.looks, .look, article [role=button], .strip, canvas').count() == 0
        assert 'Point at' not in page.inner_text('#legend') and 'Esc' not in page.inner_text('#keys')
        assert page.locator('summary', has_text='looked').count() == 0


def test_arrow_keys_go_the_way_they_point_in_right_to_left_captions(browser, tmp_path):
    with shown(browser, tmp_path, attentive(tmp_path / 'r.json', 'כלב רץ מהר'), reduced_motion='reduce') as page:
        page.locator('.look').first.focus()
        page.keyboard.press('ArrowLeft')
        assert page.evaluate('document.activeElement.textContent') == 'רץ'
        page.keyboard.press('ArrowRight')
        assert page.evaluate('document.activeElement.textContent') == 'כלב'


@pytest.mark.parametrize('exported', [False, True], ids=['served', 'one file'])
@pytest.mark.parametrize('size, regions, text', [
    ((60, 40), [[i / 1000, 0, (i + 1) / 1000, 1] for i in range(1000)], 'a dog runs'),
    ((60, 40), [[0, 0, 1, 1], [0, 0, 1e-9, 1e-9], [1 - 1e-9, .5, 1, .50001], [0, 1 - 1e-12, 1, 1], [0, 0, 1, 1e-300]],
     'a dog runs'),
    ((2000, 1), WINDOWS, 'a dog runs'), ((1, 2000), WINDOWS, 'a dog runs'), ((1, 1), WINDOWS, ' '.join([EVIL[:9]] * 3)),
    ((60, 40), WINDOWS, f'{"w" * 5000} {EVIL.replace(" ", "_")} \u202e\ud83d')], ids=range(6))
def test_hostile_regions_pictures_and_words_are_drawn(browser, tmp_path, exported, size, regions, text):
    path = attentive(tmp_path / 'r.json', text, (0, 1, 2, 3), regions, size)
    with shown(browser, tmp_path, path, exported=exported, viewport=PHONE) as page:
        page.wait_for_function('() => document.querySelector(".picture img")?.naturalWidth')
        page.locator('summary', has_text='Where each word looked').click()
        page.wait_for_selector('.strip li')
        for i in range(4):
            page.locator('.words .look').nth(i).focus()
            page.wait_for_selector('canvas.light', state='attached')
            assert 'looked' in said(page)
        assert page.locator('.strip canvas').count() == 4
        assert page.evaluate('Math.max(...[...document.querySelectorAll("canvas")].map(one => one.height))') <= 2000
        assert page.evaluate('document.documentElement.scrollWidth - innerWidth') <= 0
        assert page.title() == '1 picture – captions'


def test_a_picture_that_cannot_be_shown_still_has_words_that_say_where_they_looked(browser, tmp_path):
    path = attentive(tmp_path / 'r.json')
    (tmp_path / 'white.png').write_bytes(b'no picture')
    for exported in False, True:
        with shown(browser, tmp_path, path, exported=exported) as page:
            page.wait_for_selector('.problem')
            page.locator('summary', has_text='Where each word looked').click()
            page.wait_for_selector('.strip li')
            page.locator('.words .look').nth(1).focus()
            assert said(page) == '‘dog’ looked mostly at the upper right, 64%'
            page.keyboard.press('Escape')
            assert said(page) == '' and page.locator('.strip li').count() == 4


def test_a_word_whose_picture_is_above_the_window_brings_it_in(browser, tmp_path):
    path = attentive(tmp_path / 'r.json')
    with shown(browser, tmp_path, path, viewport={'width': 390, 'height': 600}) as page:
        for summary in page.locator('article summary').all():
            summary.click()
        page.evaluate('scrollTo(0, document.querySelector(".figures").getBoundingClientRect().top + scrollY)')
        page.locator('.words .look').first.focus()
        assert page.locator('.picture').bounding_box()['y'] > -60


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



def test_every_text_has_the_contrast_that_aa_asks_for(browser, tmp_path):
    path = write_results(tmp_path / 'r.json', ['a b c d e', 'cat', ''])
    data = json.loads(path.read_text(encoding='utf-8'))
    data['imgblobs'][0]['candidate']['word_logprobs'] = [-.01, -1.2, -2.3, -3.9, -4.7, -1.]
    path.write_text(json.dumps(data), encoding='utf-8')
    (tmp_path / 'other').mkdir()
    other = write_results(tmp_path / 'other' / 'o.json', ['a b c d f', 'cat', ''])
    for one in path, other:
        data = json.loads(one.read_text(encoding='utf-8'))
        data['regions'] = WINDOWS
        for blob in data['imgblobs']:
            blob['candidate']['attention'] = [[1, *[0] * 8]] * len(blob['candidate']['word_logprobs'])
        one.write_text(json.dumps(data), encoding='utf-8')
    with shown(browser, tmp_path, path, other, reduced_motion='reduce') as page:
        search(page, 'b|cat')
        for summary in page.locator('article summary, #settings summary').all():
            summary.click()
        for scheme in 'light', 'dark':
            page.emulate_media(color_scheme=scheme)
            page.locator('.words .look').nth(4 if scheme == 'light' else 1).focus()
            found = page.evaluate(CONTRASTS)
            assert any('looking' in classes for *_, classes in found)
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

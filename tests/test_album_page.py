"""The album's page as a browser shows it, over routes that answer as imagernn.gallery.pages does, from a few lines."""

import io
import json
import time
from contextlib import contextmanager

import pytest
from browser import CONTRASTS, chromium_or_skip, watched_page
from PIL import Image

from imagernn.gallery.pages import FILES
from imagernn.web.server import page_routes, serving

EVIL = '<script>document.title="x"</script><img src=x onerror=alert(1)> "q" \'q\' & größer 🙂 שלום'
PHONE, WIDE = {'width': 360, 'height': 740}, {'width': 1300, 'height': 800}
CAPTIONS = ['a dog runs', 'a cat sleeps', EVIL, '', 'two dogs in the snow', 'a red train', 'snow on a hill']
WORDS = ['a', 'cat', 'dog', 'dogs', 'hill', 'in', 'red', 'runs', 'snow', 'the', 'train', 'two']
NEAREST = {'dgo': ['dog', 'dogs'], 'tra(in': ['train']}
BOXES = {'dog': [.5, .25, 1, .75], 'snow': [0, .5, 1, 1]}
SENTENCES = [{'text': 'a red train', 'score': .61}, {'text': EVIL, 'score': -.004}]


@pytest.fixture(scope='module')
def browser():
    with chromium_or_skip() as browser:
        yield browser


def as_json(value):
    return 'application/json', json.dumps(value).encode()


def picture(photo, size):
    """A JPEG, a third as high as it is wide or, of an odd number, the other way round."""
    file = io.BytesIO()
    shape = (size, size // 3) if photo % 2 == 0 else (size // 3, size)
    Image.new('RGB', shape, (40 * photo % 255, 120, 160)).save(file, 'JPEG')
    return 'image/jpeg', file.getvalue()


def found(text, captions):
    """A photo's score: half of the share of the known words that its caption has."""
    known, unknown = ([word for word in text.lower().split() if (word in WORDS) == wanted] for wanted in (True, False))
    scores = [sum(word in caption.split() for word in known) / 2 / max(1, len(known)) for caption in captions]
    best = sorted(range(len(captions)), key=lambda photo: -scores[photo])[:200] if known else []
    return {'query': text, 'known': known, 'unknown': unknown,
            'nearest': {word: NEAREST[word] for word in unknown if word in NEAREST},
            'error': None if known else f'No word of <b>{text}</b> is known.',
            'results': [{'photo': photo, 'score': scores[photo]} for photo in best]}


def explained(text):
    return {'words': [{'word': word, 'score': .4 if word in BOXES else -.13, 'box': BOXES.get(word, [0, 0, 1, 1])}
                      for word in text.split() if word in WORDS], 'sentences': SENTENCES}


def album_routes(captions=CAPTIONS, problems=(f'{EVIL}: cannot be read',)):
    photos = [{'name': f'{i} {EVIL}.jpg' if i == 2 else f'{i}.jpg', 'caption': caption,
               'width': 600 if i % 2 == 0 else 200, 'height': 200 if i % 2 == 0 else 600}
              for i, caption in enumerate(captions)]
    return {**page_routes('album.html', *FILES),
            '/album.json': lambda: as_json({'folder': f'Holidays {EVIL}', 'photos': photos, 'problems': [*problems]}),
            '/thumbnail?': lambda parameters: picture(int(parameters['photo']), 30),
            '/picture?': lambda parameters: picture(int(parameters['photo']), 600),
            '/search?': lambda parameters: as_json(found(parameters['q'], captions)),
            '/photo?': lambda parameters: as_json(explained(parameters['q']))}


@contextmanager
def shown(browser, captions=CAPTIONS, viewport=WIDE, thumbnail=None, fragment='', **options):
    routes = album_routes(captions)
    routes['/thumbnail?'] = thumbnail or routes['/thumbnail?']
    with serving(routes) as address, \
            watched_page(browser, viewport=viewport, reduced_motion='reduce', **options) as page:
        page.goto(f'{address}/#{fragment}')
        page.wait_for_selector('#number:not(:has-text("…"))')
        yield page
        page.goto('about:blank')


def captions_of(page):
    return page.locator('#grid .line').all_inner_texts()


def count(page):
    return page.inner_text('#number')


def search(page, text):
    page.fill('#query', text)
    page.keyboard.press('Enter')
    settle(page)


def settle(page):
    page.wait_for_selector('#photos:not([aria-busy])', state='attached')


def focused(page):
    return page.evaluate('document.activeElement.closest("#grid li, [id]").dataset.at ?? document.activeElement.id')


def open_photo(page, at):
    page.locator('#grid .card').nth(at).click()
    page.wait_for_selector('#sentences:not([hidden])')


def test_all_photos_are_shown_with_their_captions_as_text(browser):
    with shown(browser) as page:
        assert page.inner_text('h1') == f'Holidays {EVIL}' == page.title() and count(page) == '7 photos'
        assert captions_of(page) == [caption or 'no caption' for caption in CAPTIONS]
        assert page.locator('.score').count() == 0
        page.wait_for_function('() => document.images.length === 7 && [...document.images].every(one => one.complete)')
        assert page.evaluate('[...document.images].map(one => [one.naturalWidth, one.naturalHeight])') == \
            [[30, 10], [10, 30]] * 3 + [[30, 10]]
        page.get_by_text('1 problem with this folder').click()
        assert page.locator('#problems li').all_inner_texts() == [f'{EVIL}: cannot be read']
        open_photo(page, 2)
        assert page.inner_text('#caption') == EVIL and page.inner_text('#name') == f'2 {EVIL}.jpg'
        assert page.locator('body script, body img[src=x], body b').count() == 0


def test_enter_searches_and_an_empty_field_shows_all_photos_again(browser):
    with shown(browser) as page:
        page.keyboard.press('/')
        assert focused(page) == 'query'
        page.keyboard.type('two dogs snow')
        assert count(page) == '7 photos'                                        # not while one types
        page.keyboard.press('Enter')
        page.wait_for_selector('.score')
        assert captions_of(page)[:2] == ['two dogs in the snow', 'snow on a hill']
        assert page.locator('.score').all_text_contents()[:3] == ['score 0.50', 'score 0.17', 'score 0.00']
        assert count(page) == '7 photos, best first' and page.title().startswith('two dogs snow – Holidays')
        assert page.get_attribute('#number', 'role') == 'status' and 'q=two+dogs+snow' in page.url
        for clear in (lambda: page.fill('#query', ''), lambda: page.get_by_text('Show all photos').click()):
            clear()
            page.wait_for_selector('.score', state='detached')
            assert count(page) == '7 photos' and page.get_by_text('Show all photos').is_hidden()
            search(page, 'cat')
            assert captions_of(page)[0] == 'a cat sleeps'


def test_unknown_words_are_named_and_a_near_one_replaces_them(browser):
    with shown(browser) as page:
        search(page, 'Dgo runs tra(in dgoes')
        notices = page.locator('.notice:not(#problems)')
        assert [text.replace('\u2068', '').replace('\u2069', '') for text in notices.all_inner_texts()] == [
            'The search does not know the word ‘dgo’. Try dog dogs',
            'The search does not know the word ‘tra(in’. Try train', 'The search does not know the word ‘dgoes’.']
        assert count(page) == '7 photos, best first, without 3 unknown words'
        for near, query in ('dog', 'dog runs tra(in dgoes'), ('train', 'dog runs train dgoes'):
            page.get_by_role('button', name=near, exact=True).click()
            settle(page)
            assert page.input_value('#query') == query and focused(page) == 'query'
        search(page, '<i>dgo')
        assert notices.first.inner_text() == 'No word of <b><i>dgo</b> is known.'
        assert count(page) == 'No photo was found.' and captions_of(page) == []
        assert page.get_attribute('#notices', 'aria-live') == 'polite'
        search(page, 'cat')
        assert notices.count() == 0 and len(captions_of(page)) == 7


def test_the_address_holds_the_search_and_the_photo(browser):
    with shown(browser) as page:
        for text in 'red train', 'dogs & "snow" #1 100%':
            search(page, text)
        open_photo(page, 0)
        assert page.inner_text('#caption') == 'two dogs in the snow'
        page.reload()
        page.wait_for_selector('#words .word')
        assert page.input_value('#query') == 'dogs & "snow" #1 100%' and page.inner_text('#place').startswith('1 of 7')
        page.keyboard.press('Escape')
        page.wait_for_selector('#panel', state='hidden')
        assert focused(page) == '0' and 'photo' not in page.url
        for go, query, first in ((page.go_back, 'red train', 'a red train'), (page.go_back, '', 'a dog runs'),
                                 (page.go_forward, 'red train', 'a red train')):
            go()
            page.wait_for_function('text => document.querySelector("#grid .line")?.textContent === text', arg=first)
            assert page.input_value('#query') == query


@pytest.mark.parametrize('fragment', ['photo=99', 'photo=-1&q=', 'photo=__proto__', '%', 'q=%00%ff', f'q={"w" * 5000}'],
                         ids=range(6))
def test_an_address_that_makes_no_sense_opens_no_photo(browser, fragment):
    with shown(browser, fragment=fragment) as page:
        settle(page)
        assert 'hoto' in count(page) and page.locator('#panel').is_hidden()


def test_the_list_is_as_far_down_as_before_after_a_search_was_left(browser):
    with shown(browser, [f'photo {i}' for i in range(400)]) as page:
        page.evaluate('scrollTo(0, 5000)')
        search(page, 'cat')
        page.wait_for_selector('.score')
        assert page.evaluate('scrollY') == 0 and count(page) == 'The best 200 of 400 photos'
        page.go_back()
        page.wait_for_selector('.score', state='detached')
        assert page.evaluate('scrollY') == 5000


SEEN = '''() => [...document.querySelectorAll('.region')].filter(one => getComputedStyle(one).opacity > 0)
    .map(one => [one.textContent, getComputedStyle(one.firstChild).display !== 'none'])'''


def test_a_word_shows_its_region_on_the_photo(browser):
    with shown(browser) as page:
        search(page, 'dog in snow')
        open_photo(page, 0)
        words = page.locator('.word')
        assert words.all_inner_texts() == ['dog\n0.40', 'in\n−0.13', 'snow\n0.40']
        assert words.evaluate_all('all => all.map(one => one.ariaLabel)') == [
            'dog, score 0.40, seen in the right', 'in, score −0.13, seen in the whole picture',
            'snow, score 0.40, seen in the bottom']
        everything = [['dog', False], ['in', False], ['snow', False]]
        assert page.evaluate(SEEN) == everything
        page.wait_for_function('() => document.querySelector("#frame img").naturalWidth')
        frame, region = page.locator('#frame').bounding_box(), page.locator('.region').first.bounding_box()
        assert frame['width'] / frame['height'] == pytest.approx(3, rel=.01)      # the photo's shape
        assert region['x'] == pytest.approx(frame['x'] + frame['width'] / 2, abs=1)
        assert region['y'] == pytest.approx(frame['y'] + frame['height'] / 4, abs=1)
        assert region['height'] == pytest.approx(frame['height'] / 2, abs=1)
        words.nth(0).hover()
        assert page.evaluate(SEEN) == [['dog', True]]
        page.mouse.move(0, 0)
        assert page.evaluate(SEEN) == everything
        words.nth(2).focus()
        assert page.evaluate(SEEN) == [['snow', True]]
        page.keyboard.press('Enter')                                             # keeps it
        page.keyboard.press('Tab')
        assert page.evaluate(SEEN) == [['snow', True]] and words.nth(2).get_attribute('aria-pressed') == 'true'
        words.nth(2).focus()
        page.keyboard.press('Enter')
        page.keyboard.press('Tab')
        assert page.evaluate(SEEN) == everything


def test_a_sentence_that_fits_starts_a_search(browser):
    with shown(browser) as page:
        open_photo(page, 1)
        assert page.locator('.sentence').all_inner_texts() == ['a red train\n0.61', f'{EVIL}\n0.00']
        assert page.locator('#words').is_hidden()                                # there is no query yet
        page.locator('.sentence').first.click()
        page.wait_for_selector('.score')
        assert captions_of(page)[0] == 'a red train' and page.input_value('#query') == 'a red train'
        assert page.locator('#panel').is_hidden() and focused(page) == 'photos'
        page.go_back()
        page.wait_for_selector('#panel[open]')
        assert page.inner_text('#caption') == 'a cat sleeps' and page.input_value('#query') == ''


def test_the_keyboard_reaches_all(browser):
    with shown(browser, [f'photo {i}' for i in range(1000)]) as page:
        columns = page.evaluate('grid.columns')
        page.keyboard.press('/')
        page.keyboard.press('ArrowDown')
        assert focused(page) == '0' and columns == 5
        for key, at in (('ArrowRight', 1), ('ArrowDown', 6), ('ArrowUp', 1), ('ArrowUp', 1), ('ArrowLeft', 0),
                        ('ArrowLeft', 0), ('End', 999), ('ArrowDown', 999), ('ArrowUp', 994), ('Home', 0)):
            page.keyboard.press(key)
            assert focused(page) == str(at), key
            box = page.locator(':focus').bounding_box()
            assert box['y'] > 60 and box['y'] + box['height'] < 800, key          # below the search, in the window
        page.keyboard.press('PageDown')
        page.keyboard.press('Enter')
        page.wait_for_selector('#sentences:not([hidden])')
        at = int(page.inner_text('#caption').split()[1])
        assert at in (5, 10, 15) and page.inner_text('#place') == f'{at + 1} of 1,000' and focused(page) == 'caption'
        for key, by in ('ArrowRight', 1), ('ArrowRight', 2), ('ArrowLeft', 1):
            page.keyboard.press(key)
            page.wait_for_selector(f'#caption:text-is("photo {at + by}")')
        page.wait_for_selector('#sentences:not([hidden])')
        for key, text in (('Tab', 'a red train'), ('Tab', '<script>'), ('Shift+Tab', 'a red train'),
                          ('Shift+Tab', 'Close'), ('Shift+Tab', '→')):
            page.keyboard.press(key)
            assert page.evaluate('document.activeElement.textContent').startswith(text)
        page.keyboard.press('Enter')
        page.wait_for_selector(f'#caption:text-is("photo {at + 2}")')
        assert focused(page) == 'next'
        page.keyboard.press('Escape')
        page.wait_for_selector('#panel', state='hidden')
        assert focused(page) == str(at + 2)
        page.keyboard.press('Shift+Tab')
        assert page.evaluate('document.activeElement.textContent') == 'Search'   # the Tab key enters the grid once


def test_of_100_000_photos_only_those_near_the_window_are_there(browser):
    loading, at_once = set(), []

    def slowly(parameters):
        loading.add(parameters['photo'])
        at_once.append(len(loading))
        time.sleep(.05)
        loading.discard(parameters['photo'])
        return picture(int(parameters['photo']), 30)

    with shown(browser, [f'photo {i}' for i in range(100_000)], viewport=PHONE, thumbnail=slowly) as page:
        for part in range(20):
            page.evaluate('part => scrollTo(0, part * document.body.scrollHeight)', part / 20)
            page.wait_for_timeout(20)
            assert page.locator('#grid li').count() < 60
        page.evaluate('scrollTo(0, document.body.scrollHeight)')
        page.wait_for_selector('[aria-posinset="100000"][aria-setsize="100000"]')
        page.wait_for_function('() => [...document.images].every(one => one.naturalWidth)')
        assert max(at_once) <= 6 and len(at_once) < 500                          # not for all that it passed
        visible = page.evaluate('''() => [...document.querySelectorAll('#grid li')].map(one =>
            one.getBoundingClientRect()).filter(({top, bottom}) => bottom > 0 && top < innerHeight).length''')
        assert visible >= 4
        page.set_viewport_size(WIDE)
        page.wait_for_function('() => grid.columns === 5')
        page.wait_for_function('() => Math.min(...cards.keys()) > 99000')          # it stays where it was


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_a_phone_shows_everything_and_every_text_has_contrast(browser, scheme):
    captions = [*CAPTIONS, 'w' * 300]
    with shown(browser, captions, viewport=PHONE, color_scheme=scheme, has_touch=True, is_mobile=True) as page:
        search(page, 'dgo in the snow')
        page.get_by_text('1 problem').tap()
        overflow = 'document.documentElement.scrollWidth - innerWidth'
        assert page.evaluate(overflow) <= 0 and page.evaluate('grid.columns') == 2
        grid = page.evaluate(CONTRASTS)
        page.locator('#grid .card').first.tap()
        page.wait_for_selector('.word')
        page.locator('.word').last.tap()
        assert page.evaluate(SEEN) == [['snow', True]]
        panel = page.evaluate(CONTRASTS)
        assert len(grid) > 20 and len(panel) > len(grid) and min(grid + panel)[0] >= 4.5, min(grid + panel)
        page.locator('.word').last.tap()
        page.get_by_role('button', name='Next photo').tap()
        page.wait_for_selector('#place:has-text("2 of 8")')
        for one in page.locator('#panel button').all():
            box = one.bounding_box()
            assert box['x'] >= 0 and box['x'] + box['width'] <= 360 and box['height'] >= 24
        assert page.evaluate(overflow) <= 0
        page.get_by_role('button', name='Close').tap()
        page.wait_for_selector('#panel', state='hidden')


def test_what_fails_is_said_and_the_page_goes_on(browser):
    routes = album_routes()
    del routes['/photo?'], routes['/search?']
    routes['/thumbnail?'] = routes['/picture?'] = lambda parameters: ('image/jpeg', b'none')
    context = browser.new_context()
    page = context.new_page()
    with serving(routes) as address:
        page.goto(address)
        page.wait_for_function('() => document.querySelectorAll("#grid .problem").length === 7')
        search(page, 'dog')
        assert 'The album cannot answer: 404' in page.inner_text('#notices') and count(page) == 'No photo was found.'
        search(page, '')
        open_photo(page, 0)
        page.wait_for_selector('#frame .problem')
        assert 'cannot answer' in page.inner_text('#sentences') and page.inner_text('#caption') == 'a dog runs'
        page.keyboard.press('Escape')
    search(page, 'dog')
    assert page.inner_text('#notices') == 'The album does not answer. Start python -m imagernn.album again.'
    context.close()

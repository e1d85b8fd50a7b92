"""Take screenshots of the web pages, on a phone and on a desktop screen, in light and in dark mode.

    python docs/screenshots.py monitor STATUS_DIR [--output shots/]
    python docs/screenshots.py results RESULT_STRUCT.json [OTHER.json]
    python docs/screenshots.py results_found RESULT_STRUCT.json [OTHER.json]    after a search, scrolled down
    python docs/screenshots.py results_attention RESULT_STRUCT.json [OTHER.json]    where a word of each caption looked
    python docs/screenshots.py ranking RANKING_STRUCT.json                     sentences with their best images
    python docs/screenshots.py ranking_open RANKING_STRUCT.json                with the panel of an image
    python docs/screenshots.py album PHOTOS "a dog in the snow"                a search in an album
    python docs/screenshots.py album_open PHOTOS "a dog in the snow"           with the panel of a photo
    python docs/screenshots.py text_page CHECKPOINT ["The "]                   a text that a language model has written
    python docs/screenshots.py text_page_unit CHECKPOINT ["The "]              with the unit that follows its lines best
    python docs/screenshots.py translation CHECKPOINT "un homme court ."       a sentence, its translation, the weights

Writes OUTPUT/PAGE_desktop_light.png and so on. Needs the extra [browser] and Chromium.
"""

import argparse
import sys
from pathlib import Path

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))    # a checkout need not be installed

from imagernn import album, view
from imagernn.errors import script
from imagernn.gallery.opening import open_album
from imagernn.gallery.pages import album_routes
from imagernn.monitor import monitor_routes
from imagernn.textgen.load import load_text_model
from imagernn.textgen.page import about, text_routes
from imagernn.translation import page as translation_page
from imagernn.translation.translator import Translator
from imagernn.web.results_page import Places
from imagernn.web.server import serving

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / 'tests'))
from browser import chromium, watched_page  # noqa: E402  where the tests find it too

SCREENS = {'desktop': {'viewport': {'width': 1280, 'height': 900}},
           'phone': {'viewport': {'width': 390, 'height': 844}, 'device_scale_factor': 2, 'has_touch': True}}


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('page', choices=PAGES,
                        help='The page: the training monitor; the results page as it opens, after a search, or with '
                             'the attention of a word; the ranking page or an album, as they open or with a panel; '
                             'the page of a language model with a text, or with a unit over the text; the page of '
                             'a translation model.')
    parser.add_argument('sources', nargs='+',
                        help='The data that it shows: a status folder, one or two result files, a ranking file, a '
                             'folder of photos and a sentence, a checkpoint of a language model and a beginning, or '
                             'one of a translation model and a sentence.')
    parser.add_argument('--output', default='shots/', help='The folder for the screenshots.')
    return parser


@script
def main(argv=None):
    args = build_parser().parse_args(argv)
    routes, ready = PAGES[args.page](args.sources)
    Path(args.output).mkdir(parents=True, exist_ok=True)
    with serving(routes) as address, chromium() as browser:
        for screen, options in SCREENS.items():
            for scheme in 'light', 'dark':
                path = Path(args.output) / f'{args.page}_{screen}_{scheme}.png'
                with watched_page(browser, color_scheme=scheme, **options) as page:
                    page.goto(address)
                    ready(page)
                    page.screenshot(path=path, full_page=args.page == 'monitor')
                    page.goto('about:blank')
                print(path)
    return 0


def monitor(sources):
    """The training monitor of one status folder with the pointer on a curve: (routes, function that prepares it)."""
    def ready(page):
        page.wait_for_selector('#table tbody tr')
        box = page.locator('.u-over').first.bounding_box()
        page.mouse.move(box['x'] + .3 * box['width'], box['y'] + .6 * box['height'])
        page.wait_for_timeout(300)

    folder, = sources
    return monitor_routes(folder), ready


def results(sources):
    """The results page of one or two result files: (routes, function that prepares it)."""
    places = Places((Path(sources[0]).parent, Path()), None)
    return view.routes([view.read(path) for path in sources], places), shown


def results_found(sources):
    """The results page after a search, with the first card unfolded: (routes, function that prepares it)."""
    def ready(page):
        shown(page)
        page.fill('input[type=search]', r'\bred\b')
        page.wait_for_timeout(1000)
        for text in 'Word by word', 'best captions':
            for summary in page.locator('article').first.locator('summary', has_text=text).all():
                summary.click()
        page.evaluate('scrollTo(0, document.getElementById("tools").offsetTop)')
        page.wait_for_load_state('networkidle')

    return results(sources)[0], ready


def results_attention(sources):
    """The results page with the light of the fifth word of the first caption, or the last one, and its strip."""
    def ready(page):
        shown(page)
        card = page.locator('article').first
        card.locator('summary', has_text='Where each word looked').first.click()
        page.evaluate('scrollTo(0, document.getElementById("tools").offsetTop)')
        words = card.locator('.looks').first.locator('.look')
        words.nth(min(4, words.count() - 1)).focus()
        page.wait_for_timeout(500)

    return results(sources)[0], ready


def shown(page):
    """Wait until the cards and their pictures are there."""
    page.wait_for_selector('article')
    page.wait_for_load_state('networkidle')


def ranking(sources):
    """The ranking page: (routes, function that prepares it)."""
    return results(sources)[0], ranked


def ranking_open(sources):
    """The ranking page with the panel of the first sentence's best image, and the region of its second word."""
    def ready(page):
        ranked(page)
        page.locator('button.shot').first.click()
        page.wait_for_timeout(800)

    return results(sources)[0], ready


def ranked(page):
    page.wait_for_selector('img')
    page.wait_for_load_state('networkidle')
    page.wait_for_timeout(500)


def search_in_album(sources):
    """The album of a folder after a search: (routes, function that prepares it)."""
    def ready(page):
        page.fill('input[type=search]', query)
        page.press('input[type=search]', 'Enter')
        ranked(page)

    folder, query = sources
    params = vars(album.build_parser().parse_args([folder]))
    return album_routes(folder, *open_album(params)), ready


def album_open(sources):
    """The same with the panel of the best photo."""
    def ready(page):
        search(page)
        page.keyboard.press('ArrowDown')
        page.keyboard.press('Enter')
        page.wait_for_timeout(1000)

    routes, search = search_in_album(sources)
    return routes, ready


def text_page(sources):
    """The page of a language model with a text, and the pointer on one of its characters or words."""
    def ready(page):
        page.click('#start')
        page.wait_for_function('() => view.run === null')
        page.locator('#text > span').nth(30).hover()

    path, *beginning = sources
    checkpoint = load_text_model(path, 'float32')
    return text_routes(checkpoint, about(checkpoint, path, ''.join(beginning))), ready


def text_page_unit(sources):
    """The same with the unit that follows the position in the line best."""
    def ready(page):
        write(page)
        page.select_option('#order', 'position in the line')
        page.locator('.list .unit').first.click()

    routes, write = text_page(sources)
    return routes, ready


def translation(sources):
    """The page of a translation model with a sentence, and the focus on one of the weights."""
    def ready(page):
        page.fill('#line', sentence)
        page.press('#line', 'Enter')
        page.wait_for_selector('#main:not([hidden])')
        if page.locator('.weight').count():
            page.locator('.weight').nth(2).focus()

    path, sentence = sources
    translator = Translator.load([path])
    return translation_page.translation_routes(translator, translation_page.about(translator, path)), ready


PAGES = {'monitor': monitor, 'results': results, 'results_found': results_found,
         'results_attention': results_attention, 'ranking': ranking, 'ranking_open': ranking_open,
         'album': search_in_album, 'album_open': album_open, 'text_page': text_page, 'text_page_unit': text_page_unit,
         'translation': translation}

if __name__ == '__main__':
    sys.exit(main())

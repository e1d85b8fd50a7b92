"""Look at captions: python -m imagernn.view result_struct.json

Serves the results page (vis/results.html) to this machine's browser, or writes it as one file. Two result files of the
same pictures are shown side by side.
"""

import argparse
import json
import sys

from imagernn.errors import InputError, script
from imagernn.formats.writing import refuse_to_replace, require_writable
from imagernn.web.results_page import (
    FILES,
    PAGE,
    THUMBNAIL,
    default_places,
    find_picture,
    note_problems,
    page_data,
    read_result,
    thumbnail,
    write_page,
)
from imagernn.web.server import page_routes, serve

SHOWN = 800    # pixels of the longer side of a picture that is served


def build_parser():
    parser = argparse.ArgumentParser(prog='imagernn view', description='Look at captions in a browser.')
    add = parser.add_argument
    add('results', nargs='+', metavar='RESULT_STRUCT.json', help='one result file, or two to compare')
    add('--root', default=None, help='the pictures\' folder: they are looked for there, and none outside it is shown '
                                     '(default: the working directory and the folder of the result file)')
    add('--export', default=None, metavar='FILE.html', help='write the page as one file instead of serving it')
    add('--thumbnail_size', type=int, default=THUMBNAIL,
        help='pixels of the longer side of the pictures in that file (default: %(default)s)')
    add('--port', type=int, default=0, help='port to serve at; 0: any (default: %(default)s)')
    add('--no_browser', action='store_true', help='print the address, open no browser')
    return parser


@script
def main(argv=None):
    params = vars(build_parser().parse_intermixed_args(argv))
    paths, export, size = params['results'], params['export'], params['thumbnail_size']
    if len(paths) > 2:
        raise InputError(f'{len(paths)} result files are named; name one, or two to compare')
    if not 16 <= size <= 4096:
        raise InputError(f'--thumbnail_size {size}: must be at least 16 and at most 4096')
    if export:
        refuse_to_replace(paths, [export])
        require_writable(export)
    results, places = [read_result(path) for path in paths], default_places(paths[0], params['root'])
    if export:
        write_page(export, results, places, size)
        print(f'written: {export}')
    else:
        serve(routes(results, places), params['port'], not params['no_browser'])
    return 0


def routes(results, places):
    """Every URL of the page: its files, its data, the pictures that may be shown."""
    found = [find_picture(image['img_path'], places) for image in results[0].images]
    urls = [(None if problem else f'/picture/{i}', problem) for i, (_, problem) in enumerate(found)]
    note_problems([problem for _, problem in found])
    data = json.dumps(page_data(results, urls)).encode()
    served = {**page_routes(PAGE, *FILES), '/results.json': lambda: ('application/json', data)}
    for image, (url, _) in zip(results[0].images, urls, strict=True):
        if url:
            served[url] = lambda name=image['img_path']: picture_or_reason(name, places)
    return served


def picture_or_reason(img_path, places):
    """The picture for the browser, or a text that says what is wrong with it.

    It is looked for anew each time, so a link that is changed meanwhile leads nowhere.
    """
    path, problem = find_picture(img_path, places)
    try:
        if path:
            return 'image/jpeg', thumbnail(path, SHOWN)
    except InputError as error:
        problem = str(error)
    return 'text/plain; charset=utf-8', problem.encode('utf-8', 'backslashreplace')


if __name__ == '__main__':
    sys.exit(main())

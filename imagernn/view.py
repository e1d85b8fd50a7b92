"""Look at captions or at rankings: python -m imagernn.view result_struct.json

Serves a page to a browser on this computer, or writes it as a single file: the results page (vis/results.html) of
captions, where two files with the same pictures are shown side by side, or the ranking page (vis/ranking.html) of a
ranking_struct.json. What they contain is in imagernn/web/results_page.py and ranking_page.py.
"""

import argparse
import json
import sys

from imagernn.errors import InputError, command, loading, script
from imagernn.web import THUMBNAIL
from imagernn.web.flags import add_server_flags


def build_parser():
    parser = argparse.ArgumentParser(prog='imagernn view', description='Look at captions or at rankings in a browser.')

    group = parser.add_argument_group('input')
    group.add_argument('results', nargs='+', metavar='RESULT_STRUCT.json',
        help='A file with captions, as the evaluation and the captioning of photos write it, or a ranking_struct.json, '
             'as the evaluation of a ranker writes it. Give two files with captions of the same pictures to compare '
             'them.')
    group.add_argument('--root', default=None,
        help='The folder of the pictures. Relative paths are looked up in it first, pictures of a file from another '
             'computer are found in it by the end of their path, and no picture outside it is shown. Set it if '
             'pictures are missing from the page (default: the folder of the result file and the working directory).')

    group = parser.add_argument_group('output')
    group.add_argument('--export', default=None, metavar='FILE.html',
        help='Write the page to this file, with the pictures inside, instead of serving it. Use it to share or keep '
             'the page.')
    group.add_argument('--thumbnail_size', type=int, default=THUMBNAIL,
        help='The longer side, in pixels, of the pictures in an exported file. Decrease it if the file is too large '
             '(default: %(default)s).')
    add_server_flags(parser)
    return parser


with loading(__name__, build_parser):    # --help does not wait for these
    from imagernn.formats.caption_files import parse
    from imagernn.formats.writing import refuse_to_replace, require_writable
    from imagernn.web import ranking_page, results_page
    from imagernn.web.results_page import default_places, find_picture, find_pictures, note_problems, thumbnail
    from imagernn.web.server import page_routes, serve

SERVED_SIZE = 800    # pixels of the longer side of a served picture
SMALL = 320          # of one in a row of pictures


@script
def main(argv=None):
    params = vars(build_parser().parse_intermixed_args(argv))
    paths = params['results']
    export = params['export']
    size = params['thumbnail_size']
    if len(paths) > 2:
        raise InputError(f'{len(paths)} result files were given; give one, or two to compare')
    if not 16 <= size <= 4096:
        raise InputError(f'--thumbnail_size {size}: must be at least 16 and at most 4096')
    if export:
        refuse_to_replace(paths, [export])
        require_writable(export)
    results = [read(path) for path in paths]
    places = default_places(paths[0], params['root'])
    if export:
        page_of(results).write_page(export, results, places, size)
        print(f'written: {export}')
    else:
        serve(routes(results, places), params['port'], not params['no_browser'])
    return 0


def read(path):
    """Read a file with captions or with a ranking -> Result or Ranking. Raises InputError if it is neither."""
    kind, data = parse(path)
    if kind == 'result_struct':
        return results_page.checked_result(path, data)
    if ranking_page.is_ranking(data):
        return ranking_page.checked_ranking(path, data)
    raise InputError(f'{path}: has neither "imgblobs", the pictures with captions, nor "images" with "sentences"; '
                     f'expected a result_struct.json of {command("evaluate")} or {command("caption")}, or a '
                     f'ranking_struct.json of {command("evaluate-ranker")}')


def page_of(results):
    """The module of the page that shows these files: a list of one Result or two, or of one Ranking."""
    rankings = [result for result in results if isinstance(result, ranking_page.Ranking)]
    if rankings and len(results) > 1:
        raise InputError(f'{rankings[0].name}: is a ranking, which is shown alone; two files can be compared only if '
                         'both hold captions')
    return ranking_page if rankings else results_page


def routes(results, places):
    """The routes of the page, for web.server: its files, its data, and the pictures that may be shown."""
    page = page_of(results)
    found = find_pictures([image['img_path'] for image in results[0].images], places)
    urls = [(None if problem else f'/picture/{i}', problem) for i, (_, problem) in enumerate(found)]
    note_problems([problem for _, problem in found])
    data = json.dumps(page.page_data(results, urls)).encode()
    served = {**page_routes(page.PAGE, *page.FILES), '/results.json': lambda: ('application/json', data)}
    for (path, _), (url, _) in zip(found, urls, strict=True):
        if url:
            served[url] = lambda name=str(path): picture_or_reason(name, places)
            served[f'{url}/small'] = lambda name=str(path): picture_or_reason(name, places, SMALL)
    return served


def picture_or_reason(path, places, size=SERVED_SIZE):
    """The picture at a path as (content type, bytes), or as a text that says what is wrong with it.

    The path is resolved again for each request, so that a link which changed meanwhile is not followed out of the
    folders that may be shown.
    """
    real, problem = find_picture(path, places)
    try:
        if real:
            return 'image/jpeg', thumbnail(real, size)
    except InputError as error:
        problem = str(error)
    return 'text/plain; charset=utf-8', problem.encode('utf-8', 'backslashreplace')


if __name__ == '__main__':
    sys.exit(main())

"""Look at your photos, and search them by sentences: python -m imagernn.album PHOTOS/

Indexes the folder, which the next run continues or brings up to date, then serves the page (vis/album.html) to a
browser on this computer. How it works is in imagernn/gallery; imagernn.find searches in the terminal.
"""

import argparse
import sys
from pathlib import Path

from imagernn.errors import loading, script, shown
from imagernn.gallery.flags import add_album_flags, check_album_flags


def build_parser():
    parser = argparse.ArgumentParser(prog='imagernn album', description='Look at a folder of photos in a browser, with '
                                                                        'captions, and search it by sentences.')
    add_album_flags(parser)
    group = parser.add_argument_group('server')
    group.add_argument('--port', type=int, default=0,
        help='The port to serve the page on; if it is taken, the next free one is used. Set it to keep the same '
             'address each time; 0 is any free port (default: %(default)s).')
    group.add_argument('--no_browser', action='store_true',
        help='Print the address of the page without opening a browser, for example on a remote computer.')
    return parser


with loading(__name__, build_parser):    # --help does not wait for these
    from imagernn.gallery.opening import open_album
    from imagernn.gallery.pages import album_routes
    from imagernn.web.server import serve


@script
def main(argv=None):
    params = vars(build_parser().parse_args(argv))
    check_album_flags(params)
    index, search = open_album(params)
    problems = f'; {len(index.broken):,} others cannot be read' if index.broken else ''
    print(shown(f'{params["photos"]}: {len(index.entries):,} photos{problems}'))
    serve(album_routes(Path(params['photos']), index, search), params['port'], not params['no_browser'])
    return 0


if __name__ == '__main__':
    sys.exit(main())

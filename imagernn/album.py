"""Look at your photos, and search them by sentences: python -m imagernn.album PHOTOS/

Indexes the folder, which the next run continues or brings up to date, then serves the page (vis/album.html) to a
browser on this computer. How it works is in imagernn/gallery; imagernn.find searches in the terminal.
"""

import argparse
import sys
from pathlib import Path

from imagernn.errors import loading, script, shown
from imagernn.gallery.flags import add_album_flags, check_album_flags
from imagernn.web.flags import add_server_flags


def build_parser():
    parser = argparse.ArgumentParser(prog='imagernn album', description='Look at a folder of photos in a browser, with '
                                                                        'captions, and search it by sentences.')
    add_album_flags(parser)
    add_server_flags(parser)
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

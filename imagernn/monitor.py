"""Watch training runs: python -m imagernn.monitor status/

Serves a page (vis/monitor.html) with the learning curves of all runs whose status files are in a folder, including
NeuralTalk's. The files are read again as they change (imagernn/web/status_folder.py); the page lists those that cannot
be used.
"""

import argparse
import json
import sys
from pathlib import Path

from imagernn.errors import InputError, loading, script
from imagernn.web.flags import add_server_flags


def build_parser():
    parser = argparse.ArgumentParser(prog='imagernn monitor', description='Watch training runs in a browser.')
    parser.add_argument('status_dir', nargs='?', default='status/', metavar='STATUS_DIR',
        help='The folder that training runs write their status files to, their --worker_status_output_directory '
             '(default: %(default)s).')
    add_server_flags(parser, port=8123)
    return parser


with loading(__name__, build_parser):    # --help does not wait for these
    from imagernn.web.server import page_routes, serve
    from imagernn.web.status_folder import StatusFolder

FILES = ('common.css', 'common.js', 'monitor.css', 'monitor.js', 'curves.js', 'vendor/uPlot-1.6.32.iife.min.js',
         'vendor/uPlot-1.6.32.min.css')


@script
def main(argv=None):
    args = build_parser().parse_args(argv)
    serve(monitor_routes(args.status_dir), args.port, not args.no_browser)
    return 0


def monitor_routes(folder):
    """The routes of the page, for web.server: its files, /status.json and, as runs appear, /worker/NUMBER.json.

    Raises InputError if there is no such folder.
    """
    if not Path(folder).is_dir():
        raise InputError(f'{folder}: is not a folder; name the one that a training run writes its status '
                         'file to, its --worker_status_output_directory')
    routes = page_routes('monitor.html', *FILES)
    watched = StatusFolder(folder)

    def status():
        listing = watched.look()
        for entry in listing['workers']:
            number = entry['number']
            routes[f'/worker/{number}.json'] = lambda number=number: as_json(watched.worker(number))
        return as_json(listing)

    routes['/status.json'] = status
    return routes


def as_json(value):
    """A value as (content type, bytes) of JSON."""
    return 'application/json', json.dumps(value, allow_nan=False, separators=(',', ':')).encode()


if __name__ == '__main__':
    sys.exit(main())

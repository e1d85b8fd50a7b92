"""Watch training runs: python -m imagernn.monitor status/

Serves a page with the curves of all workers whose status files are in a folder, NeuralTalk's among them. Reads the
files as they change, believes nothing in them, and says in the page which it cannot use.
"""

import argparse
import json
import sys
from pathlib import Path

from imagernn.errors import InputError, script
from imagernn.web.server import page_routes, serve
from imagernn.web.status_folder import StatusFolder

FILES = ('common.css', 'common.js', 'monitor.css', 'monitor.js', 'curves.js', 'vendor/uPlot-1.6.32.iife.min.js',
         'vendor/uPlot-1.6.32.min.css')


@script
def main(argv=None):
    parser = argparse.ArgumentParser(prog='imagernn monitor', description='Watch training runs in a browser.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('status_dir', nargs='?', default='status/', metavar='STATUS_DIR',
                        help='the folder of status files: the training\'s --worker_status_output_directory')
    parser.add_argument('--port', type=int, default=8123, help='where to serve; 0: any; the next free one if taken')
    parser.add_argument('--no_browser', action='store_true', help='only print the address')
    args = parser.parse_args(argv)
    serve(monitor_routes(args.status_dir), args.port, not args.no_browser)
    return 0


def monitor_routes(folder):
    """The routes of the page, of /status.json and, as workers appear, of /worker/NUMBER.json.

    InputError where there is no such folder.
    """
    if not Path(folder).is_dir():
        raise InputError(f'{folder}: is no folder; name the one that a training run writes its status '
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
    return 'application/json', json.dumps(value, allow_nan=False, separators=(',', ':')).encode()


if __name__ == '__main__':
    sys.exit(main())

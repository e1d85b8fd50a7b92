"""Search photos by a sentence in the terminal: python -m imagernn.find PHOTOS/ "two dogs play in the snow" -n 5

Indexes the folder first where that is needed, as imagernn.album does. Results go to stdout, all else to stderr.
"""

import argparse
import json
import sys

from imagernn.errors import InputError, loading, script, shown
from imagernn.gallery.flags import add_album_flags, check_album_flags

MOST_RESULTS = 10_000


def build_parser():
    parser = argparse.ArgumentParser(prog='imagernn find', description='Search a folder of photos by a sentence.')
    add_album_flags(parser).add_argument('sentence', nargs='+', metavar='SENTENCE',
        help='What the photo shows: "two dogs play in the snow". The quotes may be left out.')
    group = parser.add_argument_group('output')
    group.add_argument('-n', type=int, default=10, dest='number',
        help='How many photos to list (default: %(default)s).')
    group.add_argument('--json', action='store_true',
        help='Print a JSON list of {"rank", "score", "path", "caption"} for other programs, where paths are relative '
             'to the folder of the photos.')
    return parser


with loading(__name__, build_parser):    # --help does not wait for these
    from imagernn.gallery.opening import open_album


@script
def main(argv=None):
    params = vars(build_parser().parse_intermixed_args(argv))
    check_album_flags(params)
    if not 1 <= params['number'] <= MOST_RESULTS:
        raise InputError(f'-n {params["number"]}: must be from 1 to {MOST_RESULTS:,}')
    index, search = open_album(params)
    found = search.find(' '.join(params['sentence']), params['number'])
    if found['error']:
        raise InputError(found['error'])
    for word in found['unknown']:
        similar = f'; known words that look like it: {", ".join(near)}' if (near := found['nearest'].get(word)) else ''
        print(shown(f'note: the models do not know the word "{word}", which is left out{similar}'), file=sys.stderr)
    rows = [{'rank': rank, 'score': result['score'], 'path': index.entries[result['photo']].name,
             'caption': index.entries[result['photo']].caption} for rank, result in enumerate(found['results'], 1)]
    if params['json']:
        print(json.dumps(rows, indent=1))
    else:
        for row in rows:
            print(shown(f'{row["rank"]:4}  {row["score"]:7.3f}  {row["path"]}  {row["caption"]}'))
    return 0


if __name__ == '__main__':
    sys.exit(main())

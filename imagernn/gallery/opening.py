"""An album as the command line asks for it: models, index and search, in this order."""

import sys
from functools import partial
from pathlib import Path

from imagernn.gallery.index import FOLDER, open_index
from imagernn.gallery.models import describe, load_models
from imagernn.gallery.search import CANDIDATES, EXACT, Search
from imagernn.nn.workers import Workers


def open_album(params):
    """The Index of the folder params['photos'], up to date, and a Search in it. params: the flags of gallery.flags.

    Raises InputError as load_models, open_index and Search do. After Ctrl-C, which is raised as well, the same command
    continues.
    """
    models = load_models(params)
    folder = Path(params['photos'])
    index_folder = Path(params['index_folder'] or folder / FOLDER)
    try:
        index = open_index(folder, index_folder, models, partial(describe, models, Workers(params['num_threads'])))
    except KeyboardInterrupt:
        print('stopped; the same command continues', file=sys.stderr)
        raise
    search = Search(index, models, params['index'] == 'faiss')
    if params['index'] == 'faiss':
        print(f'note: --index faiss finds {100 * search.recall():.1f} % of the {CANDIDATES} best candidates that exact '
              'search finds, in a sample', file=sys.stderr)
    elif len(index.entries) > EXACT:
        print(f'note: exact search in {len(index.entries):,} photos is slow; --index faiss is faster', file=sys.stderr)
    return index, search

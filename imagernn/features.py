"""Feature files, one row of D numbers for each imgid, read when the rows are asked for.

Knows the formats (.mat v5 and v7.3, .h5, .npy) and nothing of images, sentences or splits.
In a .mat a column of `feats` is an image (D x N, as MATLAB sees it); in .h5 and .npy a row is (N x D).
h5py shows MATLAB's column-major D x N as N x D, so a v7.3 .mat and an .h5 are read alike.
"""

from collections import OrderedDict
from contextlib import nullcontext
from pathlib import Path

import h5py
import numpy as np
import scipy.io

from imagernn.errors import InputError

DEFAULT_NAMES = ('vgg_feats.mat', 'vgg_feats.h5', 'vgg_feats.npy')
LAYOUT = 'one image per column in .mat, one image per row in .h5 and .npy'
ORIGIN = ('network', 'layer', 'weights_sha256', 'preprocessing')
CACHE_BYTES = 1 << 30  # decoded chunks of a compressed file kept in memory


class Features:
    """The features of all images of a data set: `num_images` rows of `dim` numbers, stored as `dtype` in `path`.

    origin: what the file says of where they come from, those of ORIGIN that it names.
    """

    def __init__(self, path, source):
        self.path, self.origin = path, _origin(path)
        self.num_images, self.dim = source.shape
        self.dtype = source.dtype.newbyteorder('=')
        self._source = source

    def rows(self, imgids, dtype=np.float32):
        """The features of these images, in the order given, repeats allowed: (len(imgids), D), a new array.

        imgids: a sequence of ints. dtype: of the result; asked for in the file's own dtype the numbers are exact.
        Raises InputError when an imgid is outside the file, or a value is NaN, infinite or too large for dtype.
        """
        ids = np.asarray(imgids)
        if ids.size == 0:
            return np.empty((0, self.dim), dtype)
        if ids.ndim != 1 or ids.dtype.kind not in 'iu':
            raise TypeError(f'imgids must be a sequence of ints, not {ids.dtype} of shape {ids.shape}')
        outside = ids[(ids < 0) | (ids >= self.num_images)]
        if outside.size:
            raise InputError(f'{self.path}: there are no features of imgid {outside[0]}; the file holds '
                             f'imgids 0 to {self.num_images - 1}. Use the feature file made for this data set.')
        try:
            with np.errstate(over='ignore'):  # an overflow becomes inf, which is reported below
                out = np.ascontiguousarray(self._source[ids], dtype=dtype)  # (n, D)
        except OSError as error:  # a damaged chunk shows only when it is read
            raise _unreadable(self.path, error) from None
        finite = np.isfinite(out)
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            raise InputError(f'{self.path}: the features of imgid {ids[row]} hold a value that is not finite in '
                             f'{out.dtype}: number {column} is {self._source[ids[row:row + 1]][0, column]}. '
                             'Extract the features of that image again, or leave it out of dataset.json.')
        return out


def open_features(path):
    """Open a feature file: .mat (v5 read whole; v7.3 when needed), .h5/.hdf5 or .npy. Returns Features.

    Raises InputError naming the file when it is missing, damaged, of an unknown kind, or holds no 2-D array of
    real numbers (`feats` in .mat and .h5).
    """
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: unknown kind of feature file '{path.suffix}'; expected one of "
                         f"{', '.join(READERS)}. Store the features as one of these ({LAYOUT}).")
    if not path.is_file():
        raise InputError(f'{path}: there is no such feature file. Extract the features first, or name another file '
                         'with --features.')
    try:
        source = reader(path)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # a damaged file makes these readers raise anything from zlib.error to KeyError
        raise _unreadable(path, error) from None
    return Features(path, source)


def _origin(path):
    """As extract_features writes it: into the attributes of an .h5, into a .mat beside the features."""
    if path.suffix == '.npy':
        return {}
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path, 'r') as file:
                found = dict(file.attrs)
        else:
            found = {name: value.item() for name, value in scipy.io.loadmat(path, variable_names=ORIGIN).items()
                     if name in ORIGIN}
    except Exception:    # whatever else stands there under these names
        return {}
    return {name: found[name] for name in ORIGIN if isinstance(found.get(name), str)}


def default_features(folder):
    """The feature file of a data set when none is named: the first of vgg_feats.mat, .h5, .npy in its folder.

    Raises InputError, with what was looked for and which feature files are there, when there is none.
    """
    folder = Path(folder)
    for name in DEFAULT_NAMES:
        if (folder / name).is_file():
            return folder / name
    others = sorted(p.name for p in folder.glob('*') if p.suffix.lower() in READERS and p.is_file())
    if others:
        way_out = f"It has {', '.join(others)}: name the one to use with --features, as in --features {others[0]}."
    else:
        way_out = 'It has no feature file at all: extract the features, or name a file elsewhere with --features.'
    raise InputError(f"{folder}: looked for {', '.join(DEFAULT_NAMES)} and found none. {way_out}")


def _unreadable(path, error):
    reason = ' '.join(str(error).split()) or 'no reason given'
    return InputError(f'{path}: cannot be read as a feature file ({type(error).__name__}: {reason}). '
                      'It may be cut short or not be what its name says: copy or extract it again.')


def _checked(path, shape, dtype, transposed=False):
    """Raise InputError unless this is a 2-D array of real numbers with something in it."""
    if dtype.kind not in 'fiu':  # integers too: MATLAB packs doubles that happen to be whole into them
        raise InputError(f'{path}: the features are of type {dtype}; expected real numbers '
                         '(float16, float32 or float64). Store them as a plain numeric array.')
    shape = () if shape is None else tuple(shape)
    layout = 'D x N' if transposed else 'N x D'
    if len(shape) != 2:
        raise InputError(f'{path}: the features have shape {shape}, {len(shape)} axes; expected 2, {layout}. '
                         f'Store them with {LAYOUT}.')
    if 0 in shape:
        raise InputError(f'{path}: the features are empty, of shape {shape}; expected {layout} with at least '
                         'one image and one number. Extract them again.')


def _no_feats(path, found):
    found = ', '.join(sorted(found)) or 'nothing'
    return InputError(f"{path}: holds no array called 'feats'; found: {found}. Store the features under that name.")


def _read_mat(path):
    if h5py.is_hdf5(path):
        return _read_h5(path)
    found = scipy.io.loadmat(path, variable_names=['feats'])
    if 'feats' not in found:
        raise _no_feats(path, [name for name, _, _ in scipy.io.whosmat(path)])
    feats = found['feats']  # (D, N)
    if not isinstance(feats, np.ndarray):
        raise InputError(f"{path}: 'feats' is a {type(feats).__name__}; expected a full matrix, D x N. "
                         'In MATLAB: feats = full(feats).')
    _checked(path, feats.shape, feats.dtype, transposed=True)
    return np.ascontiguousarray(feats.T)  # (N, D)


def _read_h5(path):
    with h5py.File(path, 'r') as file:
        feats = file.get('feats')
        if feats is None:
            raise _no_feats(path, [name for name in file if not name.startswith('#')])
        if not isinstance(feats, h5py.Dataset):
            raise InputError(f"{path}: 'feats' is a group (MATLAB's sparse matrix or struct); expected a full "
                             'matrix. In MATLAB: feats = full(feats).')
        if feats.attrs.get('MATLAB_class') in (b'char', 'char'):  # kept as integers
            _checked(path, feats.shape, np.dtype('S1'))
        if feats.attrs.get('MATLAB_empty'):  # then the data are the size
            _checked(path, tuple(feats[()].tolist()), np.dtype('f4'))
        _checked(path, feats.shape, feats.dtype)
        offset = feats.id.get_offset()
        if offset is None:
            return _Blocks(path, feats)
        # in one piece and uncompressed: mapped, as h5py is slow for scattered rows
        return np.memmap(path, dtype=feats.dtype, mode='r', offset=offset, shape=feats.shape)


def _read_npy(path):
    with path.open('rb') as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
    _checked(path, shape, dtype)
    return np.load(path, mmap_mode='r', allow_pickle=False)


READERS = {'.mat': _read_mat, '.h5': _read_h5, '.hdf5': _read_h5, '.npy': _read_npy}


class _Blocks:
    """A chunked HDF5 dataset, indexed by an array of rows like a numpy array.

    HDF5 can only decode whole chunks, and decodes them again at every visit. So it is read a block of rows at a
    time, a block being as high as a chunk, and the blocks last used stay in memory up to CACHE_BYTES.
    """

    def __init__(self, path, dataset):
        self.shape, self.dtype = dataset.shape, dataset.dtype
        self._path = path
        self._height = dataset.chunks[0] if dataset.chunks else 1
        self._cache = OrderedDict()  # block number -> (height, D), least recently used first
        self._cached_bytes = 0

    def __getitem__(self, ids):
        numbers = ids // self._height
        wanted = np.unique(numbers).tolist()
        out = np.empty((len(ids), self.shape[1]), self.dtype)
        # opened anew each time, not kept open: HDF5's handles do not survive a fork
        with nullcontext() if self._cache.keys() >= set(wanted) else h5py.File(self._path, 'r') as file:
            for number in wanted:
                here = np.flatnonzero(numbers == number)
                out[here] = self._block(number, file)[ids[here] - number * self._height]
        return out

    def _block(self, number, file):
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        block = file['feats'][number * self._height:(number + 1) * self._height]  # (height, D)
        self._cache[number] = block
        self._cached_bytes += block.nbytes
        while self._cached_bytes > CACHE_BYTES and len(self._cache) > 1:
            self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return block

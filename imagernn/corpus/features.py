"""Feature files: one row of D numbers per imgid, read when the rows are asked for.

Knows the formats .mat (v5 and v7.3), .h5 and .npy. Knows nothing of images, sentences or splits.
In a .mat an image is a column of `feats` (D x N, as MATLAB shows it); in .h5 and .npy it is a row (N x D).
h5py shows MATLAB's column-major D x N as N x D, so that a v7.3 .mat and an .h5 are read in the same way.
"""

import os
from collections import OrderedDict
from pathlib import Path

import h5py
import numpy as np

from imagernn.errors import InputError
from imagernn.formats import hdf5, matlab
from imagernn.formats.npy import read_header

DEFAULT_NAMES = ('vgg_feats.mat', 'vgg_feats.h5', 'vgg_feats.npy')
LAYOUT = 'one image per column in .mat, one image per row in .h5 and .npy'
ORIGIN = ('network', 'layer', 'weights_sha256', 'preprocessing')    # what a file may record of its origin
CACHE_BYTES = 1 << 30    # of decompressed chunks kept in memory


class Features:
    """The features of all images of a data set: num_images rows of dim numbers, stored as dtype in the file at path.

    origin: how they were made, a dict of those entries of ORIGIN that the file records. extract_features writes them
    as attributes of an .h5, and as variables beside the features in a .mat.
    """

    def __init__(self, path, source, origin):
        self.path = path
        self.origin = {name: value for name, value in origin.items() if isinstance(value, str)}
        self.num_images, self.dim = source.shape
        self.dtype = source.dtype.newbyteorder('=')
        self._source = source

    def rows(self, imgids, dtype=np.float32):
        """The features of these images, in the given order, as a new array (len(imgids), D).

        imgids: a sequence of ints, which may repeat. dtype: of the result; in the file's own dtype the values are
        exact. Raises InputError if the file has no row for an imgid, or a value is NaN, infinite or too large for
        dtype; TypeError if imgids are not ints.
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
            with np.errstate(over='ignore'):    # an overflow becomes inf, which is reported below
                out = np.ascontiguousarray(self._source[ids], dtype=dtype)    # (n, D)
        except MemoryError:
            raise
        except Exception as error:    # damage to a chunk shows only when the chunk is read
            raise _unreadable(self.path, error) from None
        finite = np.isfinite(out)
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            raise InputError(f'{self.path}: the features of imgid {ids[row]} hold a value that is not finite in '
                             f'{out.dtype}: number {column} is {self._source[ids[row:row + 1]][0, column]}. '
                             'Extract the features of that image again, or remove it from dataset.json.')
        return out


def open_features(path):
    """Open a feature file: .mat (v5 or v7.3), .h5/.hdf5 or .npy. Returns Features.

    Uncompressed data are memory-mapped; a compressed v5 .mat is decompressed at once, HDF5 chunks when they are needed.
    No code in the file can run, and the sizes that it claims are checked against its own size.
    Raises InputError naming the file if it is missing, damaged, of an unknown kind, or holds no 2-D array of real
    numbers (called `feats` in .mat and .h5).
    """
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: unknown kind of feature file '{path.suffix}'; expected one of {', '.join(READERS)}. "
                         f'Store the features in one of these formats ({LAYOUT}).')
    if not path.is_file():
        raise InputError(f'{path}: there is no such feature file. Extract the features first, or name another file '
                         'with --features.')
    try:
        source, origin = reader(path)
    except (InputError, MemoryError):
        raise
    except Exception as error:    # a damaged file makes these readers raise anything from zlib.error to KeyError
        raise _unreadable(path, error) from None
    return Features(path, source, origin)


def default_features(folder):
    """The feature file of a data set if none is named: the first of vgg_feats.mat, .h5, .npy in its folder.

    Raises InputError if there is none of these; it lists them and the feature files that are there.
    """
    folder = Path(folder)
    for name in DEFAULT_NAMES:
        if (folder / name).is_file():
            return folder / name
    others = sorted(p.name for p in folder.glob('*') if p.suffix.lower() in READERS and p.is_file())
    if others:
        advice = f"It has {', '.join(others)}: name the one to use with --features, as in --features {others[0]}."
    else:
        advice = 'It has no feature file at all: extract the features, or name a file elsewhere with --features.'
    raise InputError(f"{folder}: looked for {', '.join(DEFAULT_NAMES)} and found none. {advice}")


def _unreadable(path, error):
    """An InputError for a file whose reader failed with this error."""
    reason = ' '.join(str(error).split()) or 'no reason given'
    return InputError(f'{path}: cannot be read as a feature file ({type(error).__name__}: {reason:.200}). '
                      'It may be truncated, or be of another kind than its name says: copy or extract it again.')


def _require_real(path, dtype):
    """Raise InputError unless dtype is one of real numbers."""
    if dtype.kind not in 'fiu':    # integers too, because MATLAB stores doubles with whole values as integers
        raise InputError(f'{path}: the features are of type {dtype}; expected real numbers '
                         '(float16, float32 or float64). Store them as a plain numeric array.')


def _require_matrix(path, shape, dtype, transposed=False):
    """Raise InputError unless shape and dtype are those of a 2-D array of real numbers that is not empty."""
    _require_real(path, dtype)
    shape = () if shape is None else tuple(shape)
    layout = 'D x N' if transposed else 'N x D'
    if len(shape) != 2:
        raise InputError(f'{path}: the features have shape {shape!s:.60}, {len(shape)} axes; expected 2, {layout}. '
                         f'Store them with {LAYOUT}.')
    if 0 in shape:
        raise InputError(f'{path}: the features are empty, of shape {shape}; expected {layout} with at least '
                         'one image and one number. Extract them again.')


def _no_feats(path, found):
    """An InputError for a file whose arrays have the names found, but none of them is `feats`."""
    found = ascii(', '.join(sorted(found)))[1:-1][:300] or 'nothing'
    return InputError(f"{path}: holds no array called 'feats'; found: {found}. Store the features under that name.")


MATLAB_KINDS = {str: 'text', list: 'cell or struct', type(None): 'matrix that is empty'}


def _read_mat(path):
    """The features of a .mat as an array-like (N, D), and their origin. So do the other readers."""
    if hdf5.looks_like_hdf5(path):
        return _read_hdf5(path)
    variables = matlab.read_variables(path)
    if 'feats' not in variables:
        raise _no_feats(path, variables)
    feats = variables['feats']()  # (D, N)
    if not isinstance(feats, matlab.Numbers):
        kind = feats.what if isinstance(feats, matlab.Other) else MATLAB_KINDS[type(feats)]
        raise InputError(f"{path}: 'feats' is a {kind}; expected a full matrix of real numbers, D x N. "
                         'In MATLAB: feats = full(feats).')
    _require_matrix(path, feats.shape, feats.dtype, transposed=True)
    return feats.read().T, {name: variables[name]() for name in ORIGIN if name in variables}    # (N, D), in C order


def _read_hdf5(path):
    described, origin = hdf5.in_child(lambda: _describe_hdf5(path))
    numbers = hdf5.Numbers(path, described)
    return _Blocks(numbers) if numbers.chunks else numbers.whole(), origin


def _describe_hdf5(path):
    """What hdf5.Numbers needs to read `feats`, and the origin of the features. Runs in a child process."""
    with h5py.File(path, 'r') as file:
        feats = hdf5.member(file, 'feats')
        if feats is None:
            raise _no_feats(path, [name for name in file if not name.startswith('#')])
        if not isinstance(feats, h5py.Dataset):
            raise InputError(f"{path}: 'feats' is a group (MATLAB's sparse matrix or struct); expected a full "
                             'matrix. In MATLAB: feats = full(feats).')
        is_text = hdf5.small_attribute(feats, 'MATLAB_class') in (b'char', 'char')    # MATLAB stores text as integers
        _require_real(path, np.dtype('S1') if is_text else feats.dtype)
        if hdf5.small_attribute(feats, 'MATLAB_empty') and feats.shape and feats.shape[0] <= 32:
            _require_matrix(path, tuple(feats[()].tolist()), np.dtype('f4'))    # of an empty one the data are the shape
        _require_matrix(path, feats.shape, feats.dtype)
        return hdf5.describe(feats), {name: value for name in ORIGIN
                                      if isinstance(value := hdf5.small_attribute(file, name), str)}


def _read_npy(path):
    with path.open('rb') as file:
        shape, dtype, order, offset = header = read_header(file)
    _require_matrix(path, shape, dtype)
    size = os.path.getsize(path)
    if offset + header.size > size:
        raise ValueError(f'an array of shape {shape!s:.60} takes {header.size:,} bytes, but the file has {size:,}')
    return np.memmap(path, dtype=dtype, mode='r', offset=offset, shape=shape, order=order), {}


READERS = {'.mat': _read_mat, '.h5': _read_hdf5, '.hdf5': _read_hdf5, '.npy': _read_npy}


class _Blocks:
    """A chunked HDF5 dataset, indexed by an array of row numbers like a numpy array.

    Chunks can only be decompressed as a whole. So it is read in blocks of as many rows as a chunk has, and the blocks
    used last stay in memory, up to CACHE_BYTES.
    """

    def __init__(self, numbers):
        self.shape = numbers.shape
        self.dtype = numbers.dtype
        self._numbers = numbers
        self._height = numbers.chunks[0]
        self._cache = OrderedDict()    # block number -> (height, D), least recently used first
        self._cached_bytes = 0

    def __getitem__(self, ids):
        block_numbers = ids // self._height                                         # (n,)
        out = np.empty((len(ids), self.shape[1]), self.dtype)                       # (n, D)
        for number in np.unique(block_numbers).tolist():
            here = np.flatnonzero(block_numbers == number)
            out[here] = self._block(number)[ids[here] - number * self._height]
        return out

    def _block(self, number):
        """The block of this number, (height, D), from the cache or the file."""
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        block = self._numbers.rows(number * self._height, (number + 1) * self._height)    # (height, D)
        self._cache[number] = block
        self._cached_bytes += block.nbytes
        while self._cached_bytes > CACHE_BYTES and len(self._cache) > 1:
            self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return block

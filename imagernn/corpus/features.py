"""Feature files, one row of D numbers for each imgid, read when the rows are asked for.

Knows the formats (.mat v5 and v7.3, .h5, .npy) and nothing of images, sentences or splits.
In a .mat a column of `feats` is an image (D x N, as MATLAB sees it); in .h5 and .npy a row is (N x D).
h5py shows MATLAB's column-major D x N as N x D, so a v7.3 .mat and an .h5 are read alike.
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
ORIGIN = ('network', 'layer', 'weights_sha256', 'preprocessing')
CACHE_BYTES = 1 << 30  # decoded chunks of a compressed file kept in memory


class Features:
    """The features of all images of a data set: `num_images` rows of `dim` numbers, stored as `dtype` in `path`.

    origin: what the file says of where they come from, those of ORIGIN that it names, as extract_features writes it:
    into the attributes of an .h5, into a .mat beside the features.
    """

    def __init__(self, path, source, origin):
        self.path, self.origin = path, {name: value for name, value in origin.items() if isinstance(value, str)}
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
        except MemoryError:
            raise
        except Exception as error:  # a damaged chunk shows only when it is read
            raise _unreadable(self.path, error) from None
        finite = np.isfinite(out)
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            raise InputError(f'{self.path}: the features of imgid {ids[row]} hold a value that is not finite in '
                             f'{out.dtype}: number {column} is {self._source[ids[row:row + 1]][0, column]}. '
                             'Extract the features of that image again, or leave it out of dataset.json.')
        return out


def open_features(path):
    """Open a feature file: .mat (v5 or v7.3), .h5/.hdf5 or .npy. Returns Features.

    What is not compressed is mapped, a compressed .mat of v5 is unpacked at once, chunks of HDF5 when they are needed.
    Nothing in the file can run; what it says of sizes is held against its own.
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
        source, origin = reader(path)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # a damaged file makes these readers raise anything from zlib.error to KeyError
        raise _unreadable(path, error) from None
    return Features(path, source, origin)


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
    return InputError(f'{path}: cannot be read as a feature file ({type(error).__name__}: {reason:.200}). '
                      'It may be cut short or not be what its name says: copy or extract it again.')


def _checked_kind(path, dtype):
    """Raise InputError unless these are real numbers."""
    if dtype.kind not in 'fiu':  # integers too: MATLAB packs doubles that happen to be whole into them
        raise InputError(f'{path}: the features are of type {dtype}; expected real numbers '
                         '(float16, float32 or float64). Store them as a plain numeric array.')


def _checked(path, shape, dtype, transposed=False):
    """Raise InputError unless this is a 2-D array of real numbers with something in it."""
    _checked_kind(path, dtype)
    shape = () if shape is None else tuple(shape)
    layout = 'D x N' if transposed else 'N x D'
    if len(shape) != 2:
        raise InputError(f'{path}: the features have shape {shape!s:.60}, {len(shape)} axes; expected 2, {layout}. '
                         f'Store them with {LAYOUT}.')
    if 0 in shape:
        raise InputError(f'{path}: the features are empty, of shape {shape}; expected {layout} with at least '
                         'one image and one number. Extract them again.')


def _no_feats(path, found):
    found = ascii(', '.join(sorted(found)))[1:-1][:300] or 'nothing'
    return InputError(f"{path}: holds no array called 'feats'; found: {found}. Store the features under that name.")


def _read_mat(path):
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
    _checked(path, feats.shape, feats.dtype, transposed=True)
    return feats.read().T, {name: variables[name]() for name in ORIGIN if name in variables}    # (N, D), in C order


MATLAB_KINDS = {str: 'text', list: 'cell or struct', type(None): 'matrix that is empty'}


def _read_hdf5(path):
    described, origin = hdf5.in_child(lambda: _describe_hdf5(path))
    numbers = hdf5.Numbers(path, described)
    return _Blocks(numbers) if numbers.chunks else numbers.whole(), origin


def _describe_hdf5(path):
    with h5py.File(path, 'r') as file:
        feats = hdf5.member(file, 'feats')
        if feats is None:
            raise _no_feats(path, [name for name in file if not name.startswith('#')])
        if not isinstance(feats, h5py.Dataset):
            raise InputError(f"{path}: 'feats' is a group (MATLAB's sparse matrix or struct); expected a full "
                             'matrix. In MATLAB: feats = full(feats).')
        is_text = hdf5.small_attribute(feats, 'MATLAB_class') in (b'char', 'char')    # kept as integers
        _checked_kind(path, np.dtype('S1') if is_text else feats.dtype)
        if hdf5.small_attribute(feats, 'MATLAB_empty') and feats.shape and feats.shape[0] <= 32:
            _checked(path, tuple(feats[()].tolist()), np.dtype('f4'))    # then the data are the size
        _checked(path, feats.shape, feats.dtype)
        return hdf5.describe(feats), {name: value for name in ORIGIN
                                      if isinstance(value := hdf5.small_attribute(file, name), str)}


def _read_npy(path):
    with path.open('rb') as file:
        shape, dtype, order, offset = header = read_header(file)
    _checked(path, shape, dtype)
    size = os.path.getsize(path)
    if offset + header.size > size:
        raise ValueError(f'numbers of shape {shape!s:.60} would be {header.size:,} bytes, and the file has {size:,}')
    return np.memmap(path, dtype=dtype, mode='r', offset=offset, shape=shape, order=order), {}


READERS = {'.mat': _read_mat, '.h5': _read_hdf5, '.hdf5': _read_hdf5, '.npy': _read_npy}


class _Blocks:
    """A chunked HDF5 dataset, indexed by an array of rows like a numpy array.

    Only whole chunks can be unpacked. So it is read a block of rows at a time, a block being as high as a chunk, and
    the blocks last used stay in memory up to CACHE_BYTES.
    """

    def __init__(self, numbers):
        self.shape, self.dtype, self._numbers, self._height = numbers.shape, numbers.dtype, numbers, numbers.chunks[0]
        self._cache = OrderedDict()  # block number -> (height, D), least recently used first
        self._cached_bytes = 0

    def __getitem__(self, ids):
        numbers = ids // self._height
        wanted = np.unique(numbers).tolist()
        out = np.empty((len(ids), self.shape[1]), self.dtype)
        for number in wanted:
            here = np.flatnonzero(numbers == number)
            out[here] = self._block(number)[ids[here] - number * self._height]
        return out

    def _block(self, number):
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        block = self._numbers.rows(number * self._height, (number + 1) * self._height)  # (height, D)
        self._cache[number] = block
        self._cached_bytes += block.nbytes
        while self._cached_bytes > CACHE_BYTES and len(self._cache) > 1:
            self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return block

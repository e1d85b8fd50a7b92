"""Feature files: one row of D numbers per picture, read when the rows are asked for.

Knows the formats .mat (v5 and v7.3), .h5 and .npy, and what a file records of its rows: the names of the pictures,
which rows were extracted, and their origin. Knows nothing of sentences or splits.
In a .mat an image is a column of `feats` (D x N, as MATLAB shows it); in .h5 and .npy it is a row (N x D).
h5py shows MATLAB's column-major D x N as N x D, so that a v7.3 .mat and an .h5 are read in the same way.
"""

import copy
import hashlib
import os
import posixpath
import sys
import unicodedata
from collections import Counter, OrderedDict
from pathlib import Path
from shlex import quote

import h5py
import numpy as np

from imagernn.errors import InputError, command, from_system, unreadable
from imagernn.formats import hdf5, matlab
from imagernn.formats.npy import read_header

DEFAULT_NAMES = ('vgg_feats.mat', 'vgg_feats.h5', 'vgg_feats.npy')
LAYOUT = 'one image per column in .mat, one image per row in .h5 and .npy'
ORIGIN = ('network', 'layer', 'weights_sha256', 'preprocessing')    # what a file may record of its origin
ORIGIN_OF_REGIONS = 'regions'    # and of its regions: the kind that extract_features was asked for
MOST_REGIONS = 1000      # for each picture; the results page shows no more
CACHE_BYTES = 1 << 30    # of decompressed chunks kept in memory
SAMPLE_ROWS = 4          # whose values identify a feature file


class Features:
    """The features of all images of a data set: num_images rows of dim numbers, stored as dtype in the file at path.

    As with_regions() gives them, a row of dim numbers has the whole_dim features of the whole picture, and after them
    the region_dim features of each of num_regions regions. boxes (num_regions, 4): x0, y0, x1, y1 of the regions as
    shares of the picture's width and height; None if the file does not say where they are.

    What extract_features records in the file:
    origin: how they were made, a dict of those entries of ORIGIN that the file has (attributes of an .h5, variables
    beside the features in a .mat); with regions, also their kind. pictures: the names of the pictures, a list with one
    for each row, '' for a row without a picture; None in a file without names. extracted: (num_images,) bool, False for
    a row that holds zeros because its picture could not be read; all True in a file that does not say.
    """

    def __init__(self, path, source, origin, pictures=None, extracted=None):
        self.path = path
        self.origin = {name: origin[name] for name in ORIGIN if isinstance(origin.get(name), str)}
        self.num_images, self.dim = source.shape
        self.whole_dim, self.num_regions, self.region_dim, self.boxes = self.dim, 0, 0, None
        self.dtype = source.dtype.newbyteorder('=')
        self.pictures = pictures
        self.extracted = np.ones(self.num_images, bool) if extracted is None else extracted
        self._source = source
        self._kind = origin.get(ORIGIN_OF_REGIONS) or ''    # of the regions that the file has
        self._imgids = None    # sorted; where they are not the numbers of the rows
        self._row_of = None    # the row of each of them

    def rows(self, imgids, dtype=np.float32):
        """The features of these images, in the given order, as a new array (len(imgids), D).

        imgids: a sequence of ints, which may repeat: the numbers of the rows, unless numbered() gave the rows others.
        dtype: of the result; in the file's own dtype the values are exact. Raises InputError if the file has no row
        for an imgid, or a value is NaN, infinite or too large for dtype; TypeError if imgids are not ints.
        """
        ids = np.asarray(imgids)
        if ids.size == 0:
            return np.empty((0, self.dim), dtype)
        if ids.ndim != 1 or ids.dtype.kind not in 'iu':
            raise TypeError(f'imgids must be a sequence of ints, not {ids.dtype} of shape {ids.shape}')
        rows = self._rows_of_imgids(ids)
        out = self._read(rows, dtype)                                           # (n, D)
        finite = np.isfinite(out)
        if not finite.all():
            number, column = np.argwhere(~finite)[0]
            value = self._source[rows[number:number + 1]][0, column]
            raise InputError(f'{self.path}: the features of imgid {ids[number]} hold a value that is not finite in '
                             f'{out.dtype}: number {column} is {value}. '
                             'Extract the features of that image again, or remove it from dataset.json.')
        return out

    def with_regions(self):
        """The same features with those of the regions after them.

        Raises InputError if the file has no regions, or if they or their boxes do not fit the features.
        """
        regions, boxes = _read_regions(self.path, self.num_images)
        same = copy.copy(self)
        same._source = _Joined(self._source, regions)
        same.dim, same.dtype = same._source.shape[1], same._source.dtype.newbyteorder('=')
        _, same.num_regions, same.region_dim = regions.shape
        same.boxes = boxes
        if self._kind:
            same.origin = {**self.origin, ORIGIN_OF_REGIONS: self._kind}
        return same

    def _read(self, rows, dtype):
        """These rows as a new array (n, D). InputError where the file is damaged there."""
        try:
            with np.errstate(over='ignore'):    # an overflow becomes inf, which rows() reports
                return np.ascontiguousarray(self._source[rows], dtype=dtype)
        except MemoryError:
            raise
        except Exception as error:    # damage to a chunk shows only when the chunk is read
            raise _unreadable(self.path, error) from None

    def _rows_of_imgids(self, ids):
        if self._imgids is None:
            rows, held = ids, f'the file holds imgids 0 to {self.num_images - 1}'
        else:
            places = np.minimum(np.searchsorted(self._imgids, ids), len(self._imgids) - 1)
            rows = np.where(self._imgids[places] == ids, self._row_of[places], -1)
            held = f'the data set has {len(self._imgids)} imgids from {self._imgids[0]} to {self._imgids[-1]}'
        outside = ids[(rows < 0) | (rows >= self.num_images)]
        if outside.size:
            raise InputError(f'{self.path}: there are no features of imgid {outside[0]}; {held}. '
                             'Use the feature file made for this data set.')
        return rows

    def numbered(self, imgids, rows):
        """The same features for a data set whose images imgids (n,), all different, have these rows (n,)."""
        same = copy.copy(self)
        order = np.argsort(imgids)
        same._imgids, same._row_of = imgids[order], rows[order]
        return same

    def rows_of_pictures(self, names, likely):
        """The rows of pictures by name, (n,) int64; -1 for a picture that the file does not list. Needs `pictures`.

        likely (n,): the row that a picture has by its number, which is taken where the file lists it there, as it may
        list a picture more than once. Where the spelling differs, "x.jpg" is "./x.jpg" and "imgs\\x.jpg" is
        "imgs/x.jpg"; and "x.jpg" is "imgs/x.jpg" if either side has only one name that ends so.
        """
        rows = np.array([row if 0 <= row < self.num_images and name and self.pictures[row] == name else -1
                         for name, row in zip(names, np.asarray(likely).tolist(), strict=True)], np.int64)
        if (rows >= 0).all():
            return rows
        listed, wanted = [_spelled(name) for name in self.pictures], [_spelled(name) for name in names]
        row_of = {name: row for row, name in reversed([*enumerate(listed)])}    # the first of several
        by_ending, endings = {}, Counter(map(posixpath.basename, wanted))
        for row, name in enumerate(listed):
            by_ending.setdefault(posixpath.basename(name), []).append(row)
        for number in np.flatnonzero(rows < 0).tolist():
            name = wanted[number]
            ending = posixpath.basename(name)
            alike = by_ending.get(ending, ())
            if not ending:
                continue
            if name in row_of:
                rows[number] = row_of[name]
            elif len(alike) == endings[ending] == 1 and _ends_alike(name, listed[alike[0]]):
                rows[number] = alike[0]
        return rows

    def lacks(self, names, rows, source):
        """An InputError for those pictures of a source, a dataset.json or tasks.txt, that have no row, rows (n,) < 0.

        It says which picture the first row is of, and how to extract the features of the source's pictures.
        """
        missing = [name for name, row in zip(names, rows.tolist(), strict=True) if row < 0]
        row = next((row for row, name in enumerate(self.pictures) if name), 0)
        wanted = set(names)
        if all(name in wanted or not name for name in self.pictures):
            advice = f'Extract the missing ones: {self.again(source)}'
        else:
            advice = (f'It was made for other pictures: extract the features again, {self.again(source)} --force, or '
                      'name the right file with --features')
        return InputError(f'{self.path}: has no features of {len(missing)} of the {len(names)} pictures in {source}, '
                          f'the first is {missing[0]!r:.100}; its row {row} is of {self.pictures[row]!r:.100}. '
                          f'{advice}.')

    def again(self, source):
        """The command that extracts the features of a source, a dataset.json or tasks.txt, into this file.

        What the file has of these pictures is kept; with --force it is extracted again.
        """
        network, layer = self.origin.get('network', 'lite0'), self.origin.get('layer', '')
        flags = '' if network == 'lite0' else f' --weights WEIGHTS_OF_{network.upper()}'
        if layer not in ('', 'features', 'fc7'):    # the defaults
            flags += f' --layer {quote(layer)}'
        if self.dtype == np.float32 and self.path.suffix != '.mat':
            flags += ' --dtype float32'
        if self._kind:
            flags += f' --regions {quote(self._kind)}'
        return f'{command("extract")} {quote(str(source))}{flags} --output {quote(str(self.path))}'

    def identities(self, imgids):
        """Which pictures the rows of these images are of, as bytes: their names if the file lists them, or imgids."""
        if self.pictures is None:
            return np.asarray(imgids, np.int64).tobytes()
        names = [_spelled(self.pictures[row]) for row in self._rows_of_imgids(imgids).tolist()]
        return '\0'.join(names).encode('utf-8', 'surrogatepass')

    def fingerprint(self, imgids):
        """What identifies the features of a data set's images: size, origin, and a digest of the values of a few."""
        some = imgids[np.linspace(0, len(imgids) - 1, SAMPLE_ROWS).astype(np.int64)]
        values = self._read(self._rows_of_imgids(some), np.float64)             # (SAMPLE_ROWS, D)
        return {'dim': self.dim, 'origin': self.origin, 'values': hashlib.blake2b(values, digest_size=16).hexdigest()}


def _spelled(name):
    """A picture's name in the one form that is compared: /, no ./, and ü as one character, which macOS makes two."""
    name = unicodedata.normalize('NFC', name.replace('\\', '/'))
    return posixpath.normpath(name) if name else ''


def _ends_alike(one, other):
    """Whether one path is the end of the other: x.jpg and imgs/x.jpg."""
    return f'/{one}'.endswith(f'/{other}') or f'/{other}'.endswith(f'/{one}')


def open_features(path):
    """Open a feature file: .mat (v5 or v7.3), .h5/.hdf5 or .npy. Returns Features.

    Uncompressed data are memory-mapped; a compressed v5 .mat is decompressed at once, HDF5 chunks when they are needed.
    No code in the file can run, and the sizes that it claims are checked against its own size.
    Raises InputError naming the file if it is missing, damaged, of an unknown kind, or holds no 2-D array of real
    numbers (called `feats` in .mat and .h5).
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f'{path}: is a folder; name the feature file in it')
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: unknown kind of feature file '{path.suffix}'; expected one of {', '.join(READERS)}. "
                         f'Store the features in one of these formats ({LAYOUT}).')
    if not path.is_file():
        raise InputError(f'{path}: there is no such feature file. Extract the features first, or name another file '
                         'with --features.')
    try:
        source, *recorded = reader(path)
    except (InputError, MemoryError):
        raise
    except Exception as error:    # a damaged file makes these readers raise anything from zlib.error to KeyError
        raise _unreadable(path, error) from None
    return Features(path, source, *recorded)


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
    if from_system(error):
        return unreadable(path, error)
    if hdf5.being_written(path):
        return hdf5.written_elsewhere(path)
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
    """The features of a .mat as an array-like (N, D); their origin, pictures and extracted. So the other readers."""
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
    origin = {name: variables[name]() for name in ORIGIN if name in variables}
    return feats.read().T, origin, *_marks_of_mat(path, variables, feats.shape[1])    # (N, D), in C order


def _marks_of_mat(path, variables, num_images):
    """The pictures and extracted of a .mat of version 5, None where they are not there or of no use."""
    pictures = extracted = None
    if 'pictures' in variables:
        try:
            pictures = _names_of_mat(variables['pictures'](), num_images)
        except Exception as error:    # too many names for the reader, or damage, which raises errors of many kinds
            _note_no_pictures(path, error)
    if 'extracted' in variables:
        try:
            found = variables['extracted']()
            if not isinstance(found, matlab.Numbers):
                raise _Unusable(found.what if isinstance(found, matlab.Other) else MATLAB_KINDS[type(found)])
            extracted = _marks(found.read())
        except _Unusable as error:
            _note_no_extracted(path, error)
    _require_one_each(path, num_images, pictures, extracted)
    return pictures, extracted


def _names_of_mat(found, num_images):
    """The names in a variable: a cell of texts, or a char matrix, which is a list, too, unless it has one row."""
    if isinstance(found, str) and num_images == 1:
        return [found]
    if not isinstance(found, list) or not all(isinstance(name, str | None) for name in found):
        raise _Unusable('it holds no texts' if isinstance(found, list) else 'it is not a list')
    return [name or '' for name in found]


class _Unusable(ValueError):
    """Why a list beside the features, pictures or extracted, is of no use."""


def _note_no_pictures(path, reason):
    print(f'note: {path}: its list of pictures cannot be read ({reason}), so that nothing can check whether the rows '
          'are in the order of the images; extract the features into an .h5 instead', file=sys.stderr)


def _note_no_extracted(path, reason):
    print(f"note: {path}: its list 'extracted' cannot be read ({reason}; expected 0 or 1 for each row), so that rows "
          'of zeros, of pictures that could not be read, are not left out; extract the features into an .h5 instead',
          file=sys.stderr)


def _marks(values):
    """The values of `extracted`, 0 and 1 of any type and in any shape with one long axis, as bool (N,)."""
    if values.size != max(values.shape, default=0):
        raise _Unusable(f'its shape is {values.shape}')
    if not ((values == 0) | (values == 1)).all():
        raise _Unusable('it holds other values')
    return values.ravel() != 0


def _require_one_each(path, num_images, pictures, extracted):
    """Raise InputError unless the lists, where they are there, have an entry for each row."""
    for name, values in (('pictures', pictures), ('extracted', extracted)):
        if values is not None and len(values) != num_images:
            raise InputError(f"{path}: holds features of {num_images} images, but '{name}' has {len(values)} entries; "
                             'expected one for each. Extract the features again.')


def _read_hdf5(path):
    described, origin, (pictures, no_pictures), (extracted, no_extracted) = hdf5.in_child(lambda: _describe_hdf5(path))
    numbers = hdf5.Numbers(path, described)
    if no_pictures:
        _note_no_pictures(path, no_pictures)
    if no_extracted:
        _note_no_extracted(path, no_extracted)
    if extracted is not None:
        extracted = np.frombuffer(extracted.encode(), np.uint8) == ord('1')
    _require_one_each(path, numbers.shape[0], pictures, extracted)
    return _Blocks(numbers) if numbers.chunks else numbers.whole(), origin, pictures, extracted


def _describe_hdf5(path):
    """What hdf5.Numbers needs to read `feats`; their origin, pictures and extracted. Runs in a child process."""
    with hdf5.opened(path) as file:
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
        origin = {name: value for name in (*ORIGIN, ORIGIN_OF_REGIONS)
                  if isinstance(value := hdf5.small_attribute(file, name), str)}
        lists = [_list_in(file, name, read) for name, read in (('pictures', _pictures), ('extracted', _extracted))]
        return hdf5.describe(feats), origin, *lists


def _read_regions(path, num_images):
    """The regions of a feature file as an array-like (N, R, D'), and their boxes (R, 4) float32 or None."""
    regions = boxes = None
    try:
        if hdf5.looks_like_hdf5(path):
            regions, boxes = (described and hdf5.Numbers(path, described)
                              for described in hdf5.in_child(lambda: _describe_regions(path, num_images)))
        if regions is None:
            raise InputError(f'{path}: has no features of regions, which a model with attention and a ranker of '
                             'regions need. Extract them with --regions windows into an .h5, and name that file with '
                             '--features.')
        if boxes is not None:
            with np.errstate(over='ignore'):
                boxes = boxes.whole().astype(np.float32)
            if not ((0 <= boxes).all() and (boxes[:, :2] < boxes[:, 2:]).all() and (boxes <= 1).all()):
                raise _wrong_boxes(path, regions.shape[1])
        if regions.chunks:
            return _Blocks(regions), boxes
        return regions if regions.on_disk else regions.whole(), boxes    # a memory map would grow to the whole file
    except (InputError, MemoryError):
        raise
    except Exception as error:    # damage, as in open_features
        raise _unreadable(path, error) from None


def _describe_regions(path, num_images):
    """What hdf5.Numbers needs to read `regions` and `boxes`, None for one that is not there. Runs in a child process.
    """
    with hdf5.opened(path) as file:
        regions, boxes = hdf5.member(file, 'regions'), hdf5.member(file, 'boxes')
        if not isinstance(regions, h5py.Dataset):
            return None, None
        _require_real(path, regions.dtype)
        shape = regions.shape or ()
        if len(shape) != 3 or shape[0] != num_images or not 1 <= shape[1] <= MOST_REGIONS or not shape[2]:
            raise InputError(f"{path}: its 'regions' have shape {shape!s:.60}; expected N x R x D, for the N = "
                             f'{num_images} images that it has features of, and R from 1 to {MOST_REGIONS}. '
                             'Extract the features again.')
        if boxes is None:
            return hdf5.describe(regions), None
        if not isinstance(boxes, h5py.Dataset) or boxes.shape != (shape[1], 4) or boxes.dtype.kind not in 'fiu':
            raise _wrong_boxes(path, shape[1])
        return hdf5.describe(regions), hdf5.describe(boxes)


def _wrong_boxes(path, num_regions):
    return InputError(f"{path}: its 'boxes' are not those of its regions; expected {num_regions} rows x0, y0, x1, y1 "
                      'with 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1, shares of the width and height of the picture. '
                      'Extract the features again.')


def _list_in(file, name, read):
    """What read() makes of the dataset of this name, and '': or None, and why it is of no use, '' if it is not there.
    """
    dataset = hdf5.member(file, name)
    if dataset is None:
        return None, ''
    try:
        if not isinstance(dataset, h5py.Dataset):
            raise _Unusable('it is a group')
        if dataset.shape is None or hdf5.small_attribute(dataset, 'MATLAB_empty'):
            raise _Unusable('it is empty')
        _require_small(dataset)
        return read(dataset), ''
    except _Unusable as error:
        return None, str(error)


def _pictures(dataset):
    """The names of the pictures, a list, in texts or in MATLAB's char matrix, which HDF5 shows as (letters, N)."""
    if h5py.check_ref_dtype(dataset.dtype):
        raise _Unusable('it is a cell of MATLAB 7.3; in MATLAB: pictures = char(pictures)')
    if hdf5.small_attribute(dataset, 'MATLAB_class') in (b'char', 'char') and dataset.ndim == 2:
        letters = dataset[()].astype('<u2').T                                   # (N, letters)
        return [row.tobytes().decode('utf-16-le', 'surrogatepass').rstrip(' \0') for row in letters]
    if not h5py.check_string_dtype(dataset.dtype):
        raise _Unusable(f'it is of type {dataset.dtype}')
    if not dataset.ndim or dataset.size != max(dataset.shape):
        raise _Unusable(f'its shape is {dataset.shape}')
    return [name.decode('utf-8', 'surrogatepass') for name in dataset[()].ravel().tolist()]


def _extracted(dataset):
    """Which rows hold features, as a text of '0' and '1'."""
    if dataset.dtype.kind not in 'biuf':
        raise _Unusable(f'it is of type {dataset.dtype}')
    return (_marks(np.asarray(dataset[()])).astype(np.uint8) + ord('0')).tobytes().decode('ascii')


def _require_small(dataset):
    """Raise ValueError if a list of the rows claims more than the file, or a small multiple of it, can hold."""
    claimed, size = dataset.size * dataset.dtype.itemsize, os.path.getsize(dataset.file.filename)
    if claimed > size + hdf5.ALWAYS_ALLOWED:
        raise ValueError(f'{dataset.name} claims {claimed:,} bytes in a file of {size:,}')


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
        out = np.empty((len(ids), *self.shape[1:]), self.dtype)                     # (n, D) or (n, R, D)
        for number in np.unique(block_numbers).tolist():
            here = np.flatnonzero(block_numbers == number)
            out[here] = self._block(number)[ids[here] - number * self._height]
        return out

    def _block(self, number):
        """The block of this number, (height, …), from the cache or the file."""
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        block = self._numbers.rows(number * self._height, (number + 1) * self._height)    # (height, D)
        self._cache[number] = block
        self._cached_bytes += block.nbytes
        while self._cached_bytes > CACHE_BYTES and len(self._cache) > 1:
            self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return block


class _Joined:
    """Two array-likes of N rows, (N, D) and (N, R, D'), as one, (N, D + R · D')."""

    def __init__(self, feats, regions):
        self._feats, self._regions = feats, regions
        (N, D), (_, R, D_region) = feats.shape, regions.shape
        self.shape = N, D + R * D_region
        self.dtype = np.result_type(feats.dtype, regions.dtype)

    def __getitem__(self, ids):
        out = np.empty((len(ids), self.shape[1]), self.dtype)
        D = self._feats.shape[1]
        out[:, :D] = self._feats[ids]
        out[:, D:] = self._regions[ids].reshape(len(ids), -1)
        return out

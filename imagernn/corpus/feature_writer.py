"""Feature files, written row by row, so that an interrupted run can be resumed, and rows can be filled in later.

Knows what such a file holds and when a row counts as written. Knows nothing of networks: the settings that it records
are given to it.
"""

import errno
import os
from contextlib import contextmanager
from typing import NamedTuple

import h5py
import numpy as np
import scipy.io

from imagernn.corpus.features import ORIGIN, open_features
from imagernn.errors import InputError, from_system, unreadable
from imagernn.formats import hdf5, matlab
from imagernn.formats.writing import replacing

FORMAT = 'imagernn features'
VERSION = 1
MAT_BYTES = 1 << 31    # a variable in a .mat of version 5 must be smaller
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)    # of a file system without locks


class Begun(NamedTuple):
    """A feature file that was made with the settings of this run, and what it has of this run's pictures."""

    path: object
    rows: np.ndarray         # (N,) the row of each picture there; -1: none
    extracted: np.ndarray    # (N,) whether that row holds features
    same_list: bool          # its pictures are this run's, in the same order
    num_dropped: int         # rows with features of pictures that this run does not have

    def lacking(self, names):
        """The numbers of the pictures whose features it does not have."""
        return [number for number, name in enumerate(names) if name and not self.extracted[number]]


def encode_names(names):
    """Names as an array of UTF-8 strings of one length, for an HDF5 dataset: an attribute is too small for many."""
    encoded = [name.encode('utf-8', 'surrogatepass') for name in names]
    return np.array(encoded, h5py.string_dtype('utf-8', max(1, *map(len, encoded))))


@contextmanager
def feature_file(path):
    """An unfinished feature file, open for writing. An error of the operating system becomes an InputError."""
    try:
        with _opened(path, 'r+') as file:
            yield file
    except OSError as error:
        raise InputError(f'{path}: cannot be written ({error}); free some disk space, or wait until the other run that '
                         'uses it has ended, then run the same command without --force to resume') from None


def _opened(path, mode):
    """An HDF5 file, locked by the library as long as it is open, unless its file system has no locks."""
    try:
        return h5py.File(path, mode)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return h5py.File(path, mode, locking=False)


def create_file(path, settings, names, dtype, example, boxes=None, copy_into=None):
    """Create a feature file in which no row is extracted yet, except those that copy_into(file) writes.

    It is an .h5 with the datasets `feats` (N, D), one row per picture, and for regions `regions` (N, R, D'), both
    given by example: name -> an array of any number of rows; `pictures` (N,), the names; `extracted` (N,), 1 where the
    row holds features, 0 where it is zero because there is no picture or it is broken; and, where they are given,
    `boxes` (R, 4), the x0, y0, x1, y1 of each region as shares of the picture's width and height. The attributes are
    format, version, the settings and, once it is finished, `skipped`, the number of broken pictures.
    """
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)    # all rows have their place on the disk at once, as zeros
    with replacing(path) as target, h5py.File(target, 'w') as file:
        for name, array in example.items():
            file.create_dataset(name, (len(names), *array.shape[1:]), dtype, dcpl=creation, track_times=False)
        file.create_dataset('pictures', data=encode_names(names), track_times=False)
        file.create_dataset('extracted', (len(names),), np.uint8, dcpl=creation, track_times=False)
        if boxes is not None:
            file.create_dataset('boxes', data=boxes, track_times=False)
        file.attrs.update({'format': FORMAT, 'version': VERSION, **settings})
        if copy_into:
            copy_into(file)


def read_begun(path, settings, names, dtype):
    """What the feature file at path, an .h5 or a .mat, finished or not, has of the pictures called names -> Begun.

    Raises InputError if it was made with other settings or another dtype, is no feature file of this program, or is
    open for writing elsewhere. The name of the weight file may differ; its checksum may not.
    """
    if hdf5.being_written(path):
        raise hdf5.written_elsewhere(path)
    if reason := not_ours(path):
        raise InputError(f'{path}: {reason}; name another --output')
    try:
        found, pictures, extracted = (_read_mat if path.suffix == '.mat' else _read_h5)(path)
    except InputError:
        raise
    except Exception as error:    # a damaged file raises errors of many kinds
        raise InputError(f'{path}: cannot be read as a feature file of this program ({error}); name another --output '
                         'or, if no other run is using it, replace it with --force') from None
    wanted = {**settings, 'dtype': dtype}
    del wanted['weights']
    different = [f'{name} {found.get(name)}, not {value}' for name, value in wanted.items() if found.get(name) != value]
    if different:
        raise InputError(f'{path}: was made with other settings ({"; ".join(different)}); give the same flags as '
                         'before, start over with --force, or name another --output')
    rows, same_list = np.arange(len(names)), pictures == names
    if not same_list:
        row_of = {name: row for row, name in enumerate(pictures) if name}
        row_of |= {name: row for row, name in enumerate(pictures) if extracted[row]}
        rows = np.array([row_of.get(name, -1) for name in names])               # (N,)
    wanted_pictures = set(names)
    num_dropped = sum(has and name not in wanted_pictures for name, has in zip(pictures, extracted.tolist(),
                                                                               strict=True))
    return Begun(path, rows, np.where(rows < 0, False, extracted[rows]), same_list, num_dropped)


def not_ours(path):
    """Why the file at path is no feature file of this program, or ''.

    A damaged HDF5 or MATLAB file counts as one of this program's: nothing else would be lost with it.
    """
    try:
        if hdf5.looks_like_hdf5(path):
            found, kind = hdf5.in_child(lambda: _format_of(path))
        elif path.suffix == '.mat':
            variables = matlab.read_variables(path)
            found, kind = variables.get('format', str)(), 'MATLAB'
        else:
            return 'is no feature file of this program, as it is no HDF5 file' if path.stat().st_size else ''
    except (InputError, MemoryError):
        raise
    except Exception as error:    # damage of many kinds, which whoever reads the file reports
        if from_system(error):
            raise unreadable(path, error) from None
        return ''
    return '' if found == FORMAT else (f'is no feature file of this program, but {_other(found)} '
                                       f'({kind} without `format = {FORMAT}`)')


def _format_of(path):
    """The attribute `format` of an HDF5 file, '' if there is none or it is no text; and the kind of file."""
    with hdf5.opened(path) as file:
        found = hdf5.small_attribute(file, 'format')
        found = found.decode('utf-8', 'replace') if isinstance(found, bytes) else found
        return found if isinstance(found, str) else '', 'HDF5'


def _other(found):
    return f'one of the format {found!r:.60}' if isinstance(found, str) and found else "another program's file"


def refuse_to_lose(path):
    """Raise InputError if --force would replace the file at path, and it is not one of this program or is in use."""
    if hdf5.being_written(path):
        raise hdf5.written_elsewhere(path)
    if reason := not_ours(path):
        raise InputError(f'{path}: {reason}; --force does not replace it: name another --output')


def _read_h5(path):
    """The settings of a feature file, its list of pictures, and which of its rows are extracted, (N,) bool."""
    with hdf5.opened(path) as file:
        pictures = [name.decode('utf-8', 'surrogatepass') for name in file['pictures'][:].tolist()]
        return {**file.attrs, 'dtype': file['feats'].dtype.name}, pictures, file['extracted'][:] != 0


def _read_mat(path):
    """The same of a .mat. It has no regions."""
    features = open_features(path)
    if features.pictures is None or not features.origin.keys() >= set(ORIGIN):
        raise ValueError('it does not record its pictures and how it was made')
    return {**features.origin, 'regions': '', 'dtype': features.dtype.name}, features.pictures, features.extracted


def copy_begun(begun, partial, settings, names, dtype, boxes=None):
    """Create an unfinished file at partial with the rows of begun, a Begun, whole or not at all. boxes: of its regions.
    """
    if begun.path.suffix == '.mat':
        features = open_features(begun.path)
        _copy_rows(begun, partial, settings, names, dtype, {'feats': (features.dim,)},
                   lambda _, row: features.rows([row], dtype)[0])
        return
    with hdf5.opened(begun.path) as source:
        shapes = {name: source[name].shape[1:] for name in ('feats', 'regions') if name in source}
        _copy_rows(begun, partial, settings, names, dtype, shapes, lambda name, row: source[name][row], boxes)


def _copy_rows(begun, partial, settings, names, dtype, shapes, row_of, boxes=None):
    """Create the file of copy_begun. shapes: those of a row of each dataset; row_of(dataset, row): the values."""

    def copy_into(file):
        for number in np.flatnonzero(begun.extracted).tolist():
            for name in shapes:
                file[name][number] = row_of(name, begun.rows[number])
        file['extracted'][:] = begun.extracted

    example = {name: np.empty((1, *shape)) for name, shape in shapes.items()}
    create_file(partial, settings, names, dtype, example, boxes, copy_into)


def write_rows(file, numbers, arrays, names):
    """Write the rows of a batch, and only then mark them as extracted: the process may be killed at any time.

    arrays: dataset -> (n, ...), a row for each of numbers. Raises InputError if a value is not finite in the file's
    dtype.
    """
    for name, array in arrays.items():
        with np.errstate(over='ignore'):    # an overflow becomes inf, which is reported next
            rows = array.astype(file[name].dtype)
        bad = [number for number, row in zip(numbers, rows, strict=True) if not np.isfinite(row).all()]
        if bad:
            other_dtype = 'use --dtype float32 or, if that does not help, ' if rows.dtype == np.float16 else 'use '
            raise InputError(f'{names[bad[0]]}: its features are not finite in {rows.dtype}; {other_dtype}another copy '
                             'of the weight file')
        for number, row in zip(numbers, rows, strict=True):
            file[name][number] = row
    file.flush()
    for number in numbers:
        file['extracted'][number] = 1
    file.flush()


def finish(partial, output, num_skipped):
    """Give the completed file at partial its final name; if that is a .mat, write one and remove partial."""
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

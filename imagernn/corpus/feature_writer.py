"""Feature files, written row by row, so that an interrupted run can be resumed.

Knows what such a file holds and when a row counts as written. Knows nothing of networks: the settings that it records
are given to it.
"""

import os
from contextlib import contextmanager

import h5py
import numpy as np
import scipy.io

from imagernn.errors import InputError
from imagernn.formats.writing import replacing

FORMAT = 'imagernn features'
VERSION = 1
MAT_BYTES = 1 << 31    # a variable in a .mat of version 5 must be smaller


def encode_names(names):
    """Names as an array of UTF-8 strings of one length, for an HDF5 dataset: an attribute is too small for many."""
    encoded = [name.encode('utf-8', 'surrogatepass') for name in names]
    return np.array(encoded, h5py.string_dtype('utf-8', max(1, *map(len, encoded))))


@contextmanager
def feature_file(path):
    """An unfinished feature file, open for writing. An error of the operating system becomes an InputError."""
    try:
        with h5py.File(path, 'r+') as file:
            yield file
    except OSError as error:
        raise InputError(f'{path}: cannot be written ({error}); free some disk space, or wait until the other run that '
                         'uses it has ended, then run the same command without --force to resume') from None


def create_file(path, settings, names, dtype, example):
    """Create a feature file in which no row is extracted yet.

    It is an .h5 with the datasets `feats` (N, D), one row per picture, and for regions `regions` (N, R, D'), both
    given by example: name -> an array of any number of rows; `pictures` (N,), the names; `extracted` (N,), 1 where the
    row holds features, 0 where it is zero because there is no picture or it is broken. The attributes are format,
    version, the settings and, once it is finished, `skipped`, the number of broken pictures.
    """
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)    # all rows have their place on the disk at once, as zeros
    with replacing(path) as target, h5py.File(target, 'w') as file:
        for name, array in example.items():
            file.create_dataset(name, (len(names), *array.shape[1:]), dtype, dcpl=creation, track_times=False)
        file.create_dataset('pictures', data=encode_names(names), track_times=False)
        file.create_dataset('extracted', (len(names),), np.uint8, dcpl=creation, track_times=False)
        file.attrs.update({'format': FORMAT, 'version': VERSION, **settings})


def require_same_settings(path, settings, names, dtype):
    """Raise InputError unless the feature file at path was made with these settings, names and dtype.

    The name of the weight file may differ; its checksum may not.
    """
    wanted = {**settings, 'dtype': dtype}
    del wanted['weights']
    try:
        with h5py.File(path, 'r') as file:
            found = {**file.attrs, 'dtype': file['feats'].dtype.name}
            same_pictures = np.array_equal(file['pictures'][:], encode_names(names))
    except Exception as error:    # a damaged file, or one that another process has open, raises errors of many kinds
        raise InputError(f'{path}: cannot be read as a feature file of this program ({error}); name another --output '
                         'or, if no other run is using it, replace it with --force') from None
    different = [f'{name} {found.get(name)}, not {value}' for name, value in wanted.items() if found.get(name) != value]
    if not same_pictures:
        different.append('another list of pictures')
    if different:
        raise InputError(f'{path}: was made with other settings ({"; ".join(different)}); give the same flags as '
                         'before, start over with --force, or name another --output')


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


def completeness(path):
    """How complete a finished feature file is, as the words of a message."""
    with h5py.File(path, 'r') as file:
        skipped = int(file.attrs.get('skipped', 0))
    return f'complete but for {skipped} broken pictures, whose rows are zero' if skipped else 'complete'

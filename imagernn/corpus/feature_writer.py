"""A feature file, written row by row and gone on with where it was."""

import os
from contextlib import contextmanager

# isort: split
import h5py
import numpy as np
import scipy.io

from imagernn.errors import InputError
from imagernn.formats.writing import replacing

FORMAT, VERSION = 'imagernn features', 1
MAT_BYTES = 1 << 31                         # a variable of MATLAB's v5 is smaller


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


def require_same_settings(path, settings, names, dtype):
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


def completeness(path):
    """What a finished feature file says of the pictures that could not be read."""
    with h5py.File(path, 'r') as file:
        skipped = int(file.attrs.get('skipped', 0))
    return f'complete but for {skipped} broken pictures, whose rows are zero' if skipped else 'complete'

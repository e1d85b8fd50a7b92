"""Checkpoint files: saved whole or not at all, loaded without trust. Reads the original NeuralTalk's pickles as well.

Knows the file formats and what every checkpoint must hold; nothing of vocabularies, networks, solvers or training.

A checkpoint is a dict. It must have these two entries:

    model       parameter name -> array of 1 to 4 axes, float16 (in published checkpoints), float32 or float64
    params      the flags it was trained with

Its entry kind names the task that wrote it, one of KINDS; without one it is 'captioning'. Any further entry (wordtoix,
ixtoword, solver, history, rng_state, features, it, epoch, perplexity, …) is kept as it is, if it consists of what JSON
knows, or is a dict of such things and of numeric arrays, nested at most 16 deep.

The file is HDF5, with the root attributes format = 'imagernn checkpoint' and version = 2:

    /model/We, /model/Ws, …     arrays
    /params, /history, /it, …   one JSON text each, a string in UTF-8
    /solver/…                   a dict that holds arrays is a group, whose members follow these same rules
    /ixtoword                   JSON too, the indices written as text

Every dataset is contiguous, uncompressed and without a time stamp; groups keep the order of the dict. After the HDF5
follows the seal, a line with the CRC-32 of all bytes before it. Equal checkpoints make equal files. Version 1, which is
read too, had no seal; each of its datasets has its CRC-32 in the attribute crc32.
"""

import errno
import io
import json
import math
import os
import pickle
import re
import zlib
from pathlib import Path

import h5py
import numpy as np

from imagernn.errors import InputError, command, from_system, unreadable
from imagernn.formats.hdf5 import being_written, in_child, written_elsewhere
from imagernn.formats.pickles import looks_like_pickle, read_pickle
from imagernn.formats.writing import replacing

FORMAT = b'imagernn checkpoint'
VERSION = 2
MAX_DEPTH = 16
SEAL = b'\nimagernn CRC-32 %08x\n'
SEAL_BYTES = len(SEAL % 0)
KINDS = {    # what writes a checkpoint -> the subcommands of imagernn that take it
    'captioning': ('train', 'caption', 'evaluate', 'publish'),
    'convnet': ('train-convnet',),
    'textgen': ('train-text', 'sample-text'),
    'translation': ('train-translator', 'translate'),
    'ranking': ('train-ranker', 'evaluate-ranker', 'publish', 'album', 'find'),
}
FLOATS = (np.float16, np.float32, np.float64)
MOST_AXES = 4    # of a parameter: a convolution's filters
HDF5_SIGNATURE = b'\x89HDF\r\n\x1a\n'
ANOTHER_COPY = 'copy it again, or use an earlier checkpoint'
NOT_A_CHECKPOINT = 'give a checkpoint, such as training writes to cv/'


class _Refused(ValueError):
    """A checkpoint that is not what it should be: the message says why, advice what to do."""

    def __init__(self, reason, advice=ANOTHER_COPY):
        super().__init__(reason)
        self.advice = advice


def save_checkpoint(path, checkpoint):
    """Write a checkpoint (see above) so that path holds the old file or the new one, never a part.

    Makes missing folders. Tuples become lists; numpy's numbers become Python's. Raises InputError if the file cannot
    be written, and ValueError if the checkpoint is not one that load_checkpoint would give back.
    """
    write_checkpoint(path, checkpoint_bytes(checkpoint))


def write_checkpoint(path, contents):
    """Write what checkpoint_bytes made, so that path holds the old file or the new one. InputError as above."""
    with replacing(path) as file:
        file.write(contents)


def load_checkpoint(path, *kinds):
    """The checkpoint in a file that save_checkpoint or the original NeuralTalk (a pickle, .p) wrote.

    kinds: those of KINDS that the caller can use; without any, 'captioning'. Which file format it is, is seen from the
    content. Nothing in the file is executed, no other file is read on its behalf, and no more memory is taken than its
    size justifies. From a pickle, history is [] and solver, rng_state and features are None. Raises InputError for
    anything that is not a valid checkpoint, and for a checkpoint of another kind, with the commands that take it. Where
    the operating system, a limit or another program is the reason, and not the file, the error's cause is an OSError or
    a MemoryError.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise InputError(f'{path}: is a folder; give the checkpoint file inside it')
        if not path.exists():
            raise InputError(f'{path}: no such file; {NOT_A_CHECKPOINT}')
        if not path.is_file():
            raise InputError(f'{path}: not a regular file; {NOT_A_CHECKPOINT}')
        with path.open('rb') as file:
            start = file.read(64)
            file.seek(0)
            checkpoint = _reader(start)(file)
        _check_kind(checkpoint, kinds or ('captioning',))
        _check(checkpoint)
    except OSError as error:
        raise unreadable(path, error) from error
    except MemoryError as error:
        raise unreadable(path, OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))) from error
    except _Refused as error:
        if being_written(path):
            raise written_elsewhere(path) from BlockingIOError(error)
        raise InputError(f'{path}: {error}; {error.advice}') from error
    return checkpoint


def _check_kind(checkpoint, kinds):
    """_Refused unless the checkpoint is of one of these kinds."""
    found = checkpoint.get('kind', 'captioning')
    if found in kinds:
        return
    if not isinstance(found, str) or found not in KINDS:
        raise _Refused(f'is a checkpoint of the kind {found!r:.60}, which this version does not know',
                       'update the program')
    raise _Refused(f'is a checkpoint of the kind {found}, and one of the kind {" or ".join(kinds)} is needed here',
                   f'use it with: {", ".join(command(name) for name in KINDS[found])}')


def _reader(start):
    if not start:
        raise _Refused('is empty')
    if start.startswith(HDF5_SIGNATURE):
        return _read_hdf5
    if looks_like_pickle(start):
        return _read_neuraltalk
    raise _Refused(
        f'begins with {start[:8]!r}, but a checkpoint is HDF5, or a pickle (.p) of the original NeuralTalk',
        'give a checkpoint that training wrote',
    )


def _check(checkpoint):
    """Raise _Refused unless the parts that every checkpoint has are there and of the right kind."""
    for name in ('model', 'params'):
        if name not in checkpoint:
            raise _Refused(f'has no {name!r}: not a checkpoint, or one that has lost a part')
        if not isinstance(checkpoint[name], dict):
            raise _Refused(f'its {name!r} is a {type(checkpoint[name]).__name__}, expected a dict')
    if not checkpoint['model']:
        raise _Refused('its model has no parameters')
    for name, W in checkpoint['model'].items():
        if not isinstance(W, np.ndarray) or not 1 <= W.ndim <= MOST_AXES or W.dtype not in FLOATS:
            found = f'{W.dtype} of shape {W.shape}' if isinstance(W, np.ndarray) else type(W).__name__
            raise _Refused(f'its model parameter {name!r} is {found}, expected an array of 1 to {MOST_AXES} axes of '
                           'float16, float32 or float64')


# ---- writing


def checkpoint_bytes(checkpoint):
    """The bytes of the file, made in memory, so that a full disk is met by plain file writing and not inside HDF5.

    They take as much memory again as the checkpoint's arrays. Raises ValueError as save_checkpoint does, and
    MemoryError.
    """
    _check(checkpoint)
    if 'ixtoword' in checkpoint:
        checkpoint = checkpoint | {'ixtoword': {_index_text(ix): word for ix, word in checkpoint['ixtoword'].items()}}
    contents = _Memory()
    try:
        _write_hdf5(contents, checkpoint)
    except Exception as error:
        if contents.refused or not isinstance(error, _Refused) and re.search('allocat|memory', str(error)):
            raise MemoryError(*contents.refused) from error
        raise
    contents.seek(0, os.SEEK_END)
    contents.write(SEAL % zlib.crc32(contents.getbuffer()))
    return contents.getbuffer()


class _Memory(io.BytesIO):
    """A file in memory that remembers that memory was refused: HDF5 continues, and fails elsewhere for other reasons.

    refused: the arguments of the MemoryErrors, as text.
    """

    def __init__(self):
        super().__init__()
        self.refused = []

    def write(self, data):
        try:
            return super().write(data)
        except MemoryError as error:
            self.refused = [str(error) or 'to build the checkpoint']
            raise

    def truncate(self, size=None):
        try:
            return super().truncate(size)
        except MemoryError as error:
            self.refused = [str(error) or 'to build the checkpoint']
            raise


def _write_hdf5(contents, checkpoint):
    # v108: object headers with checksums, readable by every HDF5 of the last decade
    with h5py.File(contents, 'w', libver=('v108', 'v108'), track_order=True) as root:
        root.attrs['format'] = np.bytes_(FORMAT)
        root.attrs['version'] = np.int64(VERSION)
        for name, value in checkpoint.items():
            _write(root, name, value, 1)


def _write(group, name, value, depth):
    if not isinstance(name, str) or not name.isprintable() or '/' in name or name in ('', '.'):
        raise _Refused(f'{name!r} under {group.name} cannot be a name in a checkpoint: printable text without / only')
    if depth > MAX_DEPTH:
        raise _Refused(f'{group.name} is nested more than {MAX_DEPTH} deep')
    if isinstance(value, np.ndarray):
        _write_array(group, name, value)
    elif _holds_arrays(value):
        inner = group.create_group(name, track_order=True)
        for key, item in value.items():
            _write(inner, key, item, depth + 1)
    else:
        _write_json(group, name, value)


def _holds_arrays(value):
    return isinstance(value, dict) and any(isinstance(v, np.ndarray) or _holds_arrays(v) for v in value.values())


def _write_array(group, name, array):
    if array.dtype.kind not in 'biuf' or array.dtype.itemsize > 8:
        raise _Refused(f'{name!r} under {group.name} is an array of {array.dtype}, expected numbers of up to 64 bits')
    array = np.asarray(array, order='C')
    group.create_dataset(name, data=array, track_times=False)


def _write_json(group, name, value):
    try:
        _check_keys(value)
        text = json.dumps(value, ensure_ascii=False, default=_python_number).encode('utf-8', 'surrogatepass')
    except (TypeError, ValueError, RecursionError) as error:
        raise _Refused(f'{name!r} under {group.name} cannot be written as JSON ({error})') from error
    kind = h5py.string_dtype('utf-8', len(text))
    group.create_dataset(name, shape=(), data=np.bytes_(text), dtype=kind, track_times=False)


def _check_keys(value):
    """JSON would turn a key that is no text into one in silence."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f'the key {key!r} is not text')
            _check_keys(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_keys(item)


def _python_number(value):
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f'{type(value).__name__} is not JSON')


# ---- reading our own


def _read_hdf5(file):
    sealed = _check_seal(file)
    try:
        found, refused = in_child(lambda: _survey(file, sealed))
    except Exception as error:  # h5py meets damage with errors of many kinds
        if from_system(error):
            raise
        reason = str(error).partition('\n')[0]
        raise _Refused(f'damaged or cut short (HDF5: {reason:.200})') from error
    if refused:
        raise _Refused(*refused)
    with open(file.fileno(), 'rb', closefd=False) as again:    # as the child has moved the old one's place
        checkpoint = _read_parts(again, found)
    if isinstance(checkpoint.get('ixtoword'), dict):
        checkpoint['ixtoword'] = {_index(text): word for text, word in checkpoint['ixtoword'].items()}
    return checkpoint


def _check_seal(file):
    """Whether the file ends with a seal; _Refused if it is not the seal of what stands before it."""
    left = file.seek(0, os.SEEK_END) - SEAL_BYTES
    file.seek(max(0, left))
    found = re.fullmatch(rb'\nimagernn CRC-32 ([0-9a-f]{8})\n', file.read(SEAL_BYTES))
    if not found:
        return False
    file.seek(0)
    checksum = 0
    while left > 0 and (block := file.read(min(left, 1 << 20))):
        checksum, left = zlib.crc32(block, checksum), left - len(block)
    if checksum != int(found[1], 16):
        raise _Refused('is damaged or was altered: the checksum differs')
    return True


def _index_text(ix):
    if isinstance(ix, bool) or not isinstance(ix, (int, np.integer)) or ix < 0:
        raise _Refused(f'its ixtoword has the index {ix!r:.60}, expected a whole number')
    return str(ix)


def _index(text):
    if not text.isdecimal() or len(text) > 18:
        raise _Refused(f'its ixtoword has the index {text!r:.60}, expected a whole number')
    return int(text)


def _check_format(root):
    """The version of the format; _Refused if this program does not read it."""
    if _attribute(root, 'format', 'S') != FORMAT:
        raise _Refused(
            'is HDF5, but no checkpoint (it lacks the attribute format = imagernn checkpoint)',
            'give one that training wrote',
        )
    version = _attribute(root, 'version', 'iu')
    if version is not None and version > VERSION:
        raise _Refused(
            f'is of version {version}, and this program reads versions up to {VERSION}',
            'update the program',
        )
    if version is None or version < 1:
        raise _Refused(f'has the version {version}, expected 1 to {VERSION}')
    return version


def _attribute(item, name, kinds):
    """A small scalar attribute whose dtype is of these kinds, or None."""
    if name not in item.attrs:
        return None
    attribute = item.attrs.get_id(name)
    if attribute.shape != () or attribute.dtype.kind not in kinds or attribute.dtype.itemsize > 64:
        return None
    return item.attrs[name]


def _survey(file, sealed):
    """Where everything is, by the HDF5 library, for _read_parts -> a tree and None, or None and why it is refused."""
    try:
        # h5py reads through this open file, so HDF5 itself opens nothing
        with h5py.File(file, 'r') as root:
            version = _check_format(root)
            if version > 1 and not sealed:
                raise _Refused('is cut short, or its end was altered: the checksum is not there')
            return _Survey(os.fstat(file.fileno()).st_size, version).tree(root, 0), None
    except _Refused as error:
        return None, (str(error), error.advice)


class _Survey:
    """One look at a file that may be hostile: what it has met, and how many bytes it may still claim."""

    def __init__(self, file_size, version):
        self.file_size = self.left = file_size
        self.version = version
        self.seen = set()

    def tree(self, group, depth):
        if depth > MAX_DEPTH:
            raise _Refused(f'{group.name!r:.60} is nested more than {MAX_DEPTH} deep')
        result = {}
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise _Refused(f'its {name!r:.60} is a link to another place or file')
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in self.seen:
                raise _Refused(f'its {name!r:.60} is a second name of another part')
            self.seen.add(address)
            result[name] = self.tree(item, depth + 1) if isinstance(item, h5py.Group) else self.part(item)
        return result

    def part(self, dataset):
        """What _read_parts wants to know. Refused: odd types, data elsewhere, and sizes that the file cannot hold."""
        if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
            raise _Refused(f'its part {dataset.name!r:.60} holds no data')
        dtype = dataset.dtype
        if dtype.kind not in 'biufS' or dtype.kind == 'S' and dataset.shape != ():
            raise _Refused(f'its part {dataset.name!r:.60} is of type {dtype}, expected numbers or one JSON text')
        layout = dataset.id.get_create_plist()
        if layout.get_layout() != h5py.h5d.CONTIGUOUS or layout.get_external_count() or layout.get_nfilters():
            raise _Refused(f'its part {dataset.name!r:.60} is compressed, in chunks or kept elsewhere')
        size = dtype.itemsize * math.prod(dataset.shape)
        offset = dataset.id.get_offset() if size else 0
        if offset is None or dataset.id.get_storage_size() != size or offset + size > self.file_size:
            raise _Refused(f'its part {dataset.name!r:.60} claims {size} bytes that the file does not hold')
        self.left -= size
        if self.left < 0:
            raise _Refused('its parts claim more bytes than the file has')
        checksum = _attribute(dataset, 'crc32', 'u') if self.version == 1 else None
        checksum = None if checksum is None else int(checksum)
        return dataset.name, dtype.str, dataset.shape, offset, checksum, int(self.version)


def _read_parts(file, found):
    """What _Survey.tree found, with the arrays and texts themselves."""
    if isinstance(found, dict):
        return {name: _read_parts(file, inner) for name, inner in found.items()}
    name, dtype, shape, offset, checksum, version = found
    array = np.empty(shape, dtype)
    file.seek(offset)
    file.readinto(array.reshape(-1).view(np.uint8))
    if version == 1 and checksum != zlib.crc32(array):
        raise _Refused(f'its part {name!r:.60} is damaged: the CRC-32 differs')
    if array.dtype.kind != 'S':
        return array
    try:
        return json.loads(array.item().decode('utf-8', 'surrogatepass'))
    except (ValueError, RecursionError) as error:
        raise _Refused(f'its part {name!r:.60} is not JSON ({error})') from error


# ---- reading the original's


def _read_neuraltalk(file):
    try:
        found = read_pickle(file.read())
    except pickle.UnpicklingError as error:
        raise _Refused(f'not a valid NeuralTalk checkpoint (a pickle): {error}') from error
    if not isinstance(found, dict):
        raise _Refused(f'a pickle of a {type(found).__name__}, expected the dict of a NeuralTalk checkpoint')
    return found | {'history': [], 'solver': None, 'rng_state': None, 'features': None}

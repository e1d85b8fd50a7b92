"""The arrays in other frameworks' weight files, found and read without those frameworks and without running anything.

Knows the formats, told from a file's first bytes, and nothing of networks: {name in the file: Stored}. What a file says
of sizes is held against the file's own size before any memory is taken; only arrays that are asked for are read.

PyTorch's files are pickles around plain numbers; the machine of formats.pickles reads them. Caffe's and ONNX's are
protocol buffers, of which two or three kinds of fields are needed: a reader of these few lines is less to carry than
Caffe, which pip does not have, or than onnx with protobuf, for files that these packages would copy into memory twice.
"""

import math
import mmap
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from numpy.lib.stride_tricks import as_strided

from imagernn.errors import InputError
from imagernn.formats import hdf5
from imagernn.formats.matlab import Numbers, looks_like_matlab, read_variables
from imagernn.formats.npy import array_of, open_archive, read_header
from imagernn.formats.pickles import OPCODES, PickleMachine, refuse

MAX_ARRAYS, MAX_FIELDS = 10_000, 1_000_000    # more than any network here could need
MAX_PICKLE_BYTES = 64 << 20                   # of the description of the arrays in a .pth
MAX_NAME, MAX_NAMES = 1000, 1_000_000         # characters of a layer's name, and of those of all arrays
MAX_AXES = 32
TORCH_MAGIC = b'\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.'    # of a .pth before PyTorch 1.6
TYPES = {'FloatStorage': 'f4', 'DoubleStorage': 'f8', 'HalfStorage': 'f2', 'LongStorage': 'i8', 'IntStorage': 'i4',
         'ShortStorage': 'i2', 'CharStorage': 'i1', 'ByteStorage': 'u1', 'BoolStorage': '?'}
ONNX_TYPES = {1: 'f4', 10: 'f2', 11: 'f8'}


class Stored(NamedTuple):
    """An array in a file: its shape, known before it is read, and the function that reads it."""

    shape: tuple
    read: object


def stored_arrays(path):
    """What is in a weight file -> (format, a key of READERS; {name: Stored}).

    Raises InputError naming the file where it is missing, of no known format, damaged or cut short. So may reading.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f'{path}: there is no such weight file; name the file that holds the weights')
    with readable(path):
        form = _format(path)
        if form is None:
            raise InputError(f'{path}: is not a weight file of a known format; expected one of '
                             f'{", ".join(READERS)}')
        arrays = READERS[form](path)
    if len(arrays) > MAX_ARRAYS or sum(map(len, arrays)) > MAX_NAMES:
        raise InputError(f'{path}: holds {len(arrays):,} arrays, or names so long, as no network has; name a file of '
                         'weights')
    return form, arrays


@contextmanager
def readable(path):
    """Whatever a damaged file makes its reader raise becomes an InputError that names the file."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        reason = ' '.join(str(error).split()) or 'no reason given'
        raise InputError(f'{path}: cannot be read as a weight file ({type(error).__name__}: {reason:.200}). It may be '
                         'cut short or not be what its name says: copy or download it again.') from None


def _format(path):
    with path.open('rb') as file:
        start = file.read(128)
    if zipfile.is_zipfile(path):
        with open_archive(path) as archive:
            return '.pth' if any(name.endswith('data.pkl') for name in archive.namelist()) else '.npz'
    if hdf5.looks_like_hdf5(path):
        return '.h5'
    if start.startswith(TORCH_MAGIC):
        return '.pth'
    if looks_like_matlab(start):
        return '.mat'
    if start.startswith(b'PK'):
        raise InputError(f'{path}: is a zip archive (.pth or .npz) that ends too early; copy or download it again')
    suffix = path.suffix.lower()
    return suffix if suffix in ('.caffemodel', '.onnx') else None    # protocol buffers have no mark of their own


# -- HDF5 (Keras)

def _read_h5(path):
    return {name: Stored(tuple(shape), lambda described=described: _h5_array(path, described))
            for name, (shape, described) in hdf5.in_child(lambda: _describe_h5(path)).items()}


def _describe_h5(path):
    """{name: (shape, how to read it, or why it cannot be read)}."""
    found = {}

    def visit(name, item):    # of what is in the file itself: links elsewhere are not followed
        if len(found) > MAX_ARRAYS:
            return True
        if isinstance(item, h5py.Dataset) and item.shape is not None and item.dtype.kind == 'f' \
                and not name.startswith('optimizer'):
            try:
                found[name] = item.shape, hdf5.describe(item)
            except ValueError as error:
                found[name] = item.shape, str(error)
        return None

    with h5py.File(path, 'r') as file:
        file.visititems(visit)
    return found


def _h5_array(path, described):
    if isinstance(described, str):
        raise ValueError(described)
    return hdf5.Numbers(path, described).whole()


# -- numpy

def _read_npz(path):
    found = {}
    with open_archive(path) as archive:
        for info in archive.infolist():
            if not info.filename.endswith('.npy'):
                continue
            with archive.open(info) as file:
                header = read_header(file)
            if header.dtype.kind == 'f':
                if header.offset + header.size != info.file_size:
                    raise ValueError(f'{ascii(info.filename):.60} claims an array of shape {header.shape!s:.60} and '
                                     f'holds {info.file_size:,} bytes')
                found[info.filename.removesuffix('.npy')] = Stored(
                    header.shape, lambda member=info.filename: _npz_array(path, member))
    return found


def _npz_array(path, member):
    with zipfile.ZipFile(path) as archive:    # open_archive has found it sound
        return array_of(archive.read(member))


# -- MATLAB v5 (MatConvNet)

def _read_mat(path):
    """A MatConvNet network: `layers`, a cell of structs, each with a name and weights, or in old files filters, biases.

    The weights of a layer are called name.0, name.1.
    """
    network = variables = read_variables(path)
    if 'net' in variables:
        network, = variables['net']()
    layers, found = network['layers'], {}
    for layer, in layers() if callable(layers) else layers:
        weights = layer.get('weights') or [layer[field] for field in ('filters', 'biases') if field in layer]
        for i, w in enumerate(weights):
            if isinstance(w, Numbers):
                found[_name(layer['name'], i)] = Stored(w.shape, w.read)
    return found


def _name(layer, number):
    """What the arrays of a layer are called here. A long name, repeated for each of them, would fill the memory."""
    if len(layer) > MAX_NAME:
        raise ValueError(f'a layer whose name is of {len(layer):,} characters')
    return f'{layer}.{number}'


# -- PyTorch

class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    size: int     # numbers


class _Tensor(NamedTuple):
    """A part of a storage: offset and strides in numbers."""

    storage: _Storage
    offset: int
    shape: tuple
    strides: tuple

    def extent(self):
        """How many numbers of the storage it reaches over."""
        if 0 in self.shape:
            return 0
        return 1 + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))

    def stored(self, read):
        """read(first, count) of the storage's numbers."""
        def array():
            numbers = read(self.offset, self.extent())
            strides = [stride * numbers.itemsize for stride in self.strides]
            return np.ascontiguousarray(as_strided(numbers, self.shape, strides, writeable=False))

        return Stored(self.shape, array)


class _TorchPickle(PickleMachine):
    """formats.pickles's machine with what torch.save names: storages, tensors, ordered dicts. Still nothing can run."""

    def __init__(self, data, position=0):
        super().__init__(data, position)
        self.opcodes = {**OPCODES, b'Q': _TorchPickle.push_persistent, b'b': _TorchPickle.build}    # BINPERSID, BUILD
        self.storages = {}    # in the order in which they are met

    def push_global(self, module, name):
        if module == 'torch' and name in TYPES:
            self.push(np.dtype('<' + TYPES[name]))
        elif (module, name) in TORCH_GLOBALS:
            self.push(TORCH_GLOBALS[module, name])
        else:
            refuse(f'it asks for {ascii(module)[1:-1]:.60}.{ascii(name)[1:-1]:.60}, which weights do not need; '
                    'in PyTorch, save the state_dict() alone')

    def push_persistent(self):
        what, dtype, key, _, size, *_ = self.stack.pop()
        if what != 'storage' or not isinstance(dtype, np.dtype) or type(key) is not str or not _is_count(size):
            refuse('a storage that is none')
        storage = _Storage(key, dtype, size)
        if self.storages.setdefault(key, storage) != storage:
            refuse('a storage of two sizes')
        self.push(storage)

    def build(self):
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is not dict or type(state) is not dict:    # the _metadata of a state_dict, which says nothing
            refuse('it sets the state of what has none')

    def tensor(self, storage, offset, shape, strides, *_):
        sound = isinstance(storage, _Storage) and len(shape) == len(strides) <= MAX_AXES
        if not sound or not all(map(_is_count, [offset, *shape, *strides])):
            refuse('a tensor that is none')
        tensor = _Tensor(storage, offset, shape, strides)
        if offset + tensor.extent() > storage.size or math.prod(shape) > storage.size:
            refuse(f'a tensor of shape {shape!s:.60} in a storage of {storage.size} numbers')
        return tensor

    def parameter(self, data, *_):
        return data

    def ordered_dict(self, *items):
        if items:
            refuse('a dict with contents of its own')
        return {}


TORCH_GLOBALS = {
    ('collections', 'OrderedDict'): _TorchPickle.ordered_dict,
    ('torch._utils', '_rebuild_tensor_v2'): _TorchPickle.tensor,
    ('torch._utils', '_rebuild_tensor'): _TorchPickle.tensor,
    ('torch._utils', '_rebuild_parameter'): _TorchPickle.parameter,
}


def _is_count(value):
    return type(value) is int and 0 <= value < 1 << 48


def _tensors(value):
    """{name: _Tensor} of a state_dict, or of a training checkpoint around one."""
    for wrapper in ('state_dict', 'model'):
        if type(value) is dict and type(value.get(wrapper)) is dict:
            value = value[wrapper]
    if type(value) is not dict:
        refuse('it holds no dict of tensors; in PyTorch, save the state_dict()')
    return {name: tensor for name, tensor in value.items() if isinstance(tensor, _Tensor)}


def _read_pth(path):
    return _read_torch_zip(path) if zipfile.is_zipfile(path) else _read_torch_legacy(path)


def _read_torch_zip(path):
    """A zip: <folder>/data.pkl describes the tensors, <folder>/data/<key> are the numbers of each storage."""
    with open_archive(path) as archive:
        description = next(name for name in archive.namelist() if name.endswith('data.pkl'))
        folder, size = description.removesuffix('data.pkl'), archive.getinfo(description).file_size
        if size > MAX_PICKLE_BYTES:
            refuse(f'a description of {size:,} bytes')
        sizes = {info.filename: info.file_size for info in archive.infolist()}
        if f'{folder}byteorder' in sizes and archive.open(f'{folder}byteorder').read(9) != b'little':
            refuse('numbers in big-endian order')
        machine = _TorchPickle(archive.read(description))
    tensors = _tensors(machine.result(machine.run))
    for storage in machine.storages.values():
        if sizes.get(f'{folder}data/{storage.key}') != storage.size * storage.dtype.itemsize:
            refuse(f'storage {ascii(storage.key)[:60]} is missing or not as long as it should be')

    def reader(storage):
        def read(first, count):
            with zipfile.ZipFile(path) as archive, archive.open(f'{folder}data/{storage.key}') as file:
                file.seek(first * storage.dtype.itemsize)
                return np.frombuffer(file.read(count * storage.dtype.itemsize), storage.dtype)

        return read

    return {name: tensor.stored(reader(tensor.storage)) for name, tensor in tensors.items()}


def _read_torch_legacy(path):
    """Five pickles, the fourth the state_dict, the fifth the order of the storages, which follow: a count, numbers."""
    with _mapped(path) as data:
        position = len(TORCH_MAGIC)
        values = []
        for _ in range(4):
            machine = _TorchPickle(data, position)
            values.append(machine.result(machine.run))
            position = machine.position
            if len(values) == 3:
                storages = machine.storages
        _, system, value, keys = values
        if type(system) is not dict or not system.get('little_endian'):
            refuse('numbers in big-endian order')
        tensors, places = _tensors(value), {}
        for key in keys:
            storage = storages[key]
            places[key] = position + 8
            position += 8 + storage.size * storage.dtype.itemsize
            if position > len(data):
                refuse('cut short')
            if int.from_bytes(data[places[key] - 8:places[key]], 'little') != storage.size:
                refuse(f'storage {ascii(key)[:60]} is not as long as it should be')

    def reader(storage):
        return lambda first, count: np.fromfile(path, storage.dtype, count,
                                                offset=places[storage.key] + first * storage.dtype.itemsize)

    return {name: tensor.stored(reader(tensor.storage)) for name, tensor in tensors.items()}


# -- protocol buffers: https://protobuf.dev/programming-guides/encoding

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class _Wire:
    """The fields of messages in a mapped file. A message is a range (start, stop) of bytes."""

    def __init__(self, data):
        self.data, self.left = data, MAX_FIELDS

    def fields(self, message):
        """(number, kind, value) of each field: an int, or the range of what it holds."""
        position, stop = message
        while position < stop:
            self.left -= 1
            if self.left < 0:
                raise ValueError(f'more than {MAX_FIELDS:,} fields')
            key, position = self._varint(position, stop)
            number, kind = key >> 3, key & 7
            if kind == VARINT:
                value, position = self._varint(position, stop)
            else:
                if kind == BYTES:
                    size, position = self._varint(position, stop)
                else:
                    size = {FIXED64: 8, FIXED32: 4}[kind]
                value = (position, position + size)
                position += size
                if position > stop:
                    raise ValueError(f'field {number} reaches beyond its message: cut short')
            yield number, kind, value

    def _varint(self, position, stop):
        value = shift = 0
        while position < stop and shift < 64:
            byte = self.data[position]
            position += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, position
            shift += 7
        raise ValueError('a broken number: cut short, or not of this format')

    def all(self, message, number):
        """The ranges of all fields of this number."""
        return [value for n, kind, value in self.fields(message) if n == number and kind == BYTES]

    def text(self, message, number):
        """The last field of this number as text."""
        texts = self.all(message, number)
        return bytes(self.data[slice(*texts[-1])]).decode('utf-8', 'replace') if texts else ''

    def numbers(self, message, number):
        """A repeated whole number, packed or not: the sizes of an array's axes."""
        found = []
        for n, kind, value in self.fields(message):
            if n == number and kind == VARINT:
                found.append(value)
            elif n == number and kind == BYTES:
                position, stop = value
                while position < stop and len(found) <= MAX_AXES:
                    one, position = self._varint(position, stop)
                    found.append(one)
            if len(found) > MAX_AXES:
                raise ValueError(f'an array of more than {MAX_AXES} axes')
        return tuple(found)


def _numbers_at(path, place, dtype, shape):
    """Stored of plain numbers at a range of bytes of the file. ValueError unless they are as many as the shape says."""
    start, stop = place
    dtype = np.dtype('<' + dtype)
    if math.prod(shape) * dtype.itemsize != stop - start:
        raise ValueError(f'an array of shape {shape!s:.60} with {stop - start} bytes')
    return Stored(shape, lambda: np.fromfile(path, dtype, math.prod(shape), offset=start).reshape(shape))


def _read_caffemodel(path):
    """NetParameter: layer = 100 (name 1, blobs 7), or before Caffe 1.0 layers = 2 (name 4, blobs 6).

    BlobProto: data = 5, packed floats; shape = 7 (dim 1), or num, channels, height, width = 1 to 4, where ones in
    front mean nothing. The blobs of a layer are called name.0, name.1. (caffe.proto)
    """
    found = {}
    with _mapped(path) as data:
        wire = _Wire(data)
        for number, kind, layer in wire.fields((0, len(data))):
            if kind != BYTES or number not in (2, 100):
                continue
            name_field, blobs_field = (4, 6) if number == 2 else (1, 7)
            name = wire.text(layer, name_field)
            for i, blob in enumerate(wire.all(layer, blobs_field)):
                fields = {number: value for number, _, value in wire.fields(blob)}
                if not isinstance(fields.get(5), tuple):
                    raise ValueError(f'layer {ascii(name)[:60]} holds no packed 32-bit numbers')
                if 7 in fields:
                    shape = wire.numbers(fields[7], 1)
                else:
                    shape = tuple(fields.get(axis, 1) for axis in (1, 2, 3, 4))
                    while len(shape) > 1 and shape[0] == 1:
                        shape = shape[1:]
                found[_name(name, i)] = _numbers_at(path, fields[5], 'f4', shape)
    return found


def _read_onnx(path):
    """ModelProto: graph = 7; its initializer = 5: TensorProto: dims 1, data_type 2, float_data 4, name 8, raw_data 9,
    data_location 14. (onnx.proto)
    """
    found = {}
    with _mapped(path) as data:
        wire = _Wire(data)
        for graph in wire.all((0, len(data)), 7):
            for tensor in wire.all(graph, 5):
                fields = {number: value for number, _, value in wire.fields(tensor)}
                name, dtype = wire.text(tensor, 8), ONNX_TYPES.get(fields.get(2))
                if dtype is None:
                    continue    # whole numbers, such as the shapes that a graph computes with
                if fields.get(14):
                    raise InputError(f'{path}: keeps its weights in another file; save it as one file')
                place = fields.get(9, fields.get(4) if dtype == 'f4' else None)
                if isinstance(place, tuple):
                    found[name] = _numbers_at(path, place, dtype, wire.numbers(tensor, 1))
    return found


@contextmanager
def _mapped(path):
    with path.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


READERS = {'.h5': _read_h5, '.mat': _read_mat, '.npz': _read_npz, '.pth': _read_pth, '.caffemodel': _read_caffemodel,
           '.onnx': _read_onnx}

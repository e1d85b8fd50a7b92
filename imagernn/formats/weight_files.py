"""The arrays in other frameworks' weight files, read without those frameworks and without running anything.

Knows the formats, recognized from a file's first bytes, and nothing of networks: a file is {name: Stored}. Sizes that a
file claims are checked against the file's own size before memory is allocated, and only requested arrays are read.
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

from imagernn.errors import InputError, from_system, unreadable
from imagernn.formats import hdf5
from imagernn.formats.matlab import Numbers, looks_like_matlab, read_variables
from imagernn.formats.npy import array_of, open_archive, read_header
from imagernn.formats.pickles import OPCODES, PickleMachine, refuse

MAX_ARRAYS = 10_000             # more than any network here needs
MAX_FIELDS = 1_000_000          # of protocol buffers, likewise
MAX_PICKLE_BYTES = 64 << 20     # of the pickle that describes the arrays in a .pth
MAX_NAME = 1000                 # characters of a layer's name
MAX_NAMES = 1_000_000           # characters of the names of all arrays together
MAX_AXES = 32
TORCH_MAGIC = b'\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.'    # starts a .pth before PyTorch 1.6
TYPES = {'FloatStorage': 'f4', 'DoubleStorage': 'f8', 'HalfStorage': 'f2', 'LongStorage': 'i8', 'IntStorage': 'i4',
         'ShortStorage': 'i2', 'CharStorage': 'i1', 'ByteStorage': 'u1', 'BoolStorage': '?'}
ONNX_TYPES = {1: 'f4', 10: 'f2', 11: 'f8'}


class Stored(NamedTuple):
    """An array in a file, whose shape is known before it is read."""

    shape: tuple
    read: object     # read() -> the array


def stored_arrays(path):
    """The arrays in a weight file -> its format (a key of READERS), {name: Stored}.

    Raises InputError that names the file if it is missing, of an unknown format, damaged or truncated. Stored.read may
    raise other exceptions for damage found only then: call it within readable(path).
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f'{path}: is a folder; name the file in it that holds the weights')
    if not path.is_file():
        raise InputError(f'{path}: there is no such weight file; name the file that holds the weights')
    with readable(path):
        form = _format(path)
        if form is None:
            raise InputError(f'{path}: is not a weight file of a known format; expected one of '
                             f'{", ".join(READERS)}')
        arrays = READERS[form](path)
    if len(arrays) > MAX_ARRAYS or sum(map(len, arrays)) > MAX_NAMES:
        raise InputError(f'{path}: holds {len(arrays):,} arrays, or very long names of arrays, as no network '
                         'does; name a file of weights')
    return form, arrays


@contextmanager
def readable(path):
    """Turn any exception that a damaged file causes in its reader into an InputError that names the file."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        if from_system(error):
            raise unreadable(path, error) from None
        if hdf5.being_written(path):
            raise hdf5.written_elsewhere(path) from None
        reason = ' '.join(str(error).split()) or 'no reason given'
        raise InputError(f'{path}: cannot be read as a weight file ({type(error).__name__}: {reason:.200}). It may be '
                         'truncated, or not be what its name says: copy or download it again.') from None


def _format(path):
    """The format of a weight file, a key of READERS, or None."""
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
        raise InputError(f'{path}: is a truncated zip archive (.pth or .npz); copy or download it again')
    suffix = path.suffix.lower()
    return suffix if suffix in ('.caffemodel', '.onnx') else None    # protocol buffers have no signature


# -- HDF5 (Keras)

def _read_h5(path):
    """The floating-point datasets in an HDF5 file, without those of an optimizer."""
    return {name: Stored(tuple(shape), lambda described=described: _h5_array(path, described))
            for name, (shape, described) in hdf5.in_child(lambda: _describe_h5(path)).items()}


def _describe_h5(path):
    """{name: (shape, description for hdf5.Numbers, or the reason why it cannot be read)}; runs in a child process."""
    found = {}

    def visit(name, item):    # visititems does not follow links to other files
        if len(found) > MAX_ARRAYS:
            return True
        if isinstance(item, h5py.Dataset) and item.shape is not None and item.dtype.kind == 'f' \
                and not name.startswith('optimizer'):
            try:
                found[name] = item.shape, hdf5.describe(item)
            except ValueError as error:
                found[name] = item.shape, str(error)
        return None

    with hdf5.opened(path) as file:
        file.visititems(visit)
    return found


def _h5_array(path, described):
    if isinstance(described, str):
        raise ValueError(described)
    return hdf5.Numbers(path, described).whole()


# -- numpy

def _read_npz(path):
    """The floating-point arrays in an .npz."""
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
    with zipfile.ZipFile(path) as archive:    # open_archive has validated it
        return array_of(archive.read(member))


# -- MATLAB v5 (MatConvNet)

def _read_mat(path):
    """A MatConvNet network: `layers` is a cell of structs with a name and weights, or in old files filters and biases.

    The arrays of a layer are named name.0, name.1.
    """
    network = variables = read_variables(path)
    if 'net' in variables:
        network, = variables['net']()
    layers = network['layers']
    found = {}
    for layer, in layers() if callable(layers) else layers:
        weights = layer.get('weights') or [layer[field] for field in ('filters', 'biases') if field in layer]
        for i, w in enumerate(weights):
            if isinstance(w, Numbers):
                found[_name(layer['name'], i)] = Stored(w.shape, w.read)
    return found


def _name(layer, number):
    """The name of a layer's array. Raises ValueError for a long name, which repeated would fill the memory."""
    if len(layer) > MAX_NAME:
        raise ValueError(f'a layer whose name has {len(layer):,} characters')
    return f'{layer}.{number}'


# -- PyTorch: pickles around plain numbers

class _Storage(NamedTuple):
    """A one-dimensional array in the file, of which tensors are views."""

    key: str
    dtype: np.dtype
    size: int     # in elements


class _Tensor(NamedTuple):
    """A view of a storage. offset and strides are in elements."""

    storage: _Storage
    offset: int
    shape: tuple
    strides: tuple

    def extent(self):
        """How many elements of the storage it spans, from its first to its last."""
        if 0 in self.shape:
            return 0
        return 1 + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))

    def stored(self, read):
        """The tensor as Stored. read(first, count) -> those elements of its storage."""
        def array():
            elements = read(self.offset, self.extent())
            strides = [stride * elements.itemsize for stride in self.strides]
            return np.ascontiguousarray(as_strided(elements, self.shape, strides, writeable=False))

        return Stored(self.shape, array)


class _TorchPickle(PickleMachine):
    """The machine of formats.pickles plus what torch.save uses: storages, tensors, OrderedDict. Nothing can run."""

    def __init__(self, data, position=0):
        super().__init__(data, position)
        self.opcodes = {**OPCODES, b'Q': _TorchPickle.push_persistent, b'b': _TorchPickle.build}    # BINPERSID, BUILD
        self.storages = {}    # key -> _Storage, in the order in which they occur

    def push_global(self, module, name):
        if module == 'torch' and name in TYPES:
            self.push(np.dtype('<' + TYPES[name]))
        elif (module, name) in TORCH_GLOBALS:
            self.push(TORCH_GLOBALS[module, name])
        else:
            refuse(f'it asks for {ascii(module)[1:-1]:.60}.{ascii(name)[1:-1]:.60}, which weights do not need; '
                   'in PyTorch, save the state_dict() alone')

    def push_persistent(self):
        """Push the storage that a persistent id describes."""
        what, dtype, key, _, size, *_ = self.stack.pop()
        if what != 'storage' or not isinstance(dtype, np.dtype) or type(key) is not str or not _is_count(size):
            refuse('an invalid storage')
        storage = _Storage(key, dtype, size)
        if self.storages.setdefault(key, storage) != storage:
            refuse('a storage with two sizes or types')
        self.push(storage)

    def build(self):
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is not dict or type(state) is not dict:    # a state_dict's _metadata, which is ignored
            refuse('it sets the state of something that has none')

    def tensor(self, storage, offset, shape, strides, *_):
        """Stands in for _rebuild_tensor_v2. Refuses a tensor that reaches beyond its storage or repeats elements."""
        valid = isinstance(storage, _Storage) and len(shape) == len(strides) <= MAX_AXES
        if not valid or not all(map(_is_count, [offset, *shape, *strides])):
            refuse('an invalid tensor')
        tensor = _Tensor(storage, offset, shape, strides)
        if offset + tensor.extent() > storage.size or math.prod(shape) > storage.size:
            refuse(f'a tensor of shape {shape!s:.60} in a storage of {storage.size} elements')
        return tensor

    def parameter(self, data, *_):
        """Stands in for _rebuild_parameter: a parameter is its tensor."""
        return data

    def ordered_dict(self, *items):
        """Stands in for OrderedDict(): an empty dict."""
        if items:
            refuse('an OrderedDict that is created with contents')
        return {}


TORCH_GLOBALS = {
    ('collections', 'OrderedDict'): _TorchPickle.ordered_dict,
    ('torch._utils', '_rebuild_tensor_v2'): _TorchPickle.tensor,
    ('torch._utils', '_rebuild_tensor'): _TorchPickle.tensor,
    ('torch._utils', '_rebuild_parameter'): _TorchPickle.parameter,
}


def _is_count(value):
    """Whether a value can be a number of elements, an axis or a stride."""
    return type(value) is int and 0 <= value < 1 << 48


def _tensors(value):
    """{name: _Tensor} in a state_dict, or in a training checkpoint that contains one."""
    for wrapper in ('state_dict', 'model'):
        if type(value) is dict and type(value.get(wrapper)) is dict:
            value = value[wrapper]
    if type(value) is not dict:
        refuse('it holds no dict of tensors; in PyTorch, save the state_dict()')
    return {name: tensor for name, tensor in value.items() if isinstance(tensor, _Tensor)}


def _read_pth(path):
    """The tensors in a .pth, in the format since PyTorch 1.6 or the one before it."""
    return _read_torch_zip(path) if zipfile.is_zipfile(path) else _read_torch_legacy(path)


def _read_torch_zip(path):
    """A zip archive: <folder>/data.pkl describes the tensors, <folder>/data/<key> holds the elements of a storage."""
    with open_archive(path) as archive:
        description = next(name for name in archive.namelist() if name.endswith('data.pkl'))
        folder = description.removesuffix('data.pkl')
        size = archive.getinfo(description).file_size
        if size > MAX_PICKLE_BYTES:
            refuse(f'a description of {size:,} bytes; at most {MAX_PICKLE_BYTES:,} are read')
        sizes = {info.filename: info.file_size for info in archive.infolist()}
        if f'{folder}byteorder' in sizes and archive.open(f'{folder}byteorder').read(9) != b'little':
            refuse('big-endian numbers, which are not supported')
        machine = _TorchPickle(archive.read(description))
    tensors = _tensors(machine.result(machine.run))
    for storage in machine.storages.values():
        if sizes.get(f'{folder}data/{storage.key}') != storage.size * storage.dtype.itemsize:
            refuse(f'storage {ascii(storage.key)[:60]} is missing or has the wrong length')

    def reader(storage):
        def read(first, count):
            with zipfile.ZipFile(path) as archive, archive.open(f'{folder}data/{storage.key}') as file:
                file.seek(first * storage.dtype.itemsize)
                return np.frombuffer(file.read(count * storage.dtype.itemsize), storage.dtype)

        return read

    return {name: tensor.stored(reader(tensor.storage)) for name, tensor in tensors.items()}


def _read_torch_legacy(path):
    """Five pickles, the fourth the state_dict, the fifth the order of the storages, which follow (size, elements)."""
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
            refuse('big-endian numbers, which are not supported')
        tensors = _tensors(value)
        places = {}    # key of a storage -> position of its elements
        for key in keys:
            storage = storages[key]
            places[key] = position + 8
            position += 8 + storage.size * storage.dtype.itemsize
            if position > len(data):
                refuse('truncated')
            if int.from_bytes(data[places[key] - 8:places[key]], 'little') != storage.size:
                refuse(f'storage {ascii(key)[:60]} has the wrong length')

    def reader(storage):
        return lambda first, count: np.fromfile(path, storage.dtype, count,
                                                offset=places[storage.key] + first * storage.dtype.itemsize)

    return {name: tensor.stored(reader(tensor.storage)) for name, tensor in tensors.items()}


# -- protocol buffers (Caffe, ONNX): https://protobuf.dev/programming-guides/encoding
#
# Only two or three kinds of fields are needed. These few lines are a smaller dependency than Caffe, which pip does not
# offer, or onnx with protobuf, which would copy a file into memory twice.

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class _Wire:
    """The fields of messages in a memory-mapped file. A message is a range (start, stop) of bytes."""

    def __init__(self, data):
        self.data = data
        self.left = MAX_FIELDS    # how many more may be read

    def fields(self, message):
        """Yield (number, kind, value) of each field; the value is an int, or the range (start, stop) of its bytes."""
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
                    raise ValueError(f'field {number} reaches beyond its message: the file is truncated')
            yield number, kind, value

    def _varint(self, position, stop):
        """The integer of variable length at position -> its value, the position after it."""
        value = shift = 0
        while position < stop and shift < 64:
            byte = self.data[position]
            position += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, position
            shift += 7
        raise ValueError('an invalid integer: the file is truncated or not of this format')

    def all(self, message, number):
        """The ranges of all fields with this number that hold bytes."""
        return [value for n, kind, value in self.fields(message) if n == number and kind == BYTES]

    def text(self, message, number):
        """The last field with this number as text, or an empty string."""
        texts = self.all(message, number)
        return bytes(self.data[slice(*texts[-1])]).decode('utf-8', 'replace') if texts else ''

    def numbers(self, message, number):
        """The values of a repeated integer field, packed or not: the sizes of an array's axes."""
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
    """Numbers at a range of bytes in the file, as Stored. Raises ValueError unless the size fits the shape."""
    start, stop = place
    dtype = np.dtype('<' + dtype)
    if math.prod(shape) * dtype.itemsize != stop - start:
        raise ValueError(f'an array of shape {shape!s:.60} with {stop - start} bytes')
    return Stored(shape, lambda: np.fromfile(path, dtype, math.prod(shape), offset=start).reshape(shape))


def _read_caffemodel(path):
    """The blobs of a .caffemodel, named name.0, name.1 after their layer. The format is in caffe.proto:

    NetParameter: layer = 100 (name 1, blobs 7), or before Caffe 1.0 layers = 2 (name 4, blobs 6).
    BlobProto: data = 5, packed floats; shape = 7 (dim 1), or num, channels, height, width = 1 to 4, without leading
    ones.
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
                    raise ValueError(f'layer {ascii(name)[:60]} has no packed 32-bit numbers')
                if 7 in fields:
                    shape = wire.numbers(fields[7], 1)
                else:
                    shape = tuple(fields.get(axis, 1) for axis in (1, 2, 3, 4))
                    while len(shape) > 1 and shape[0] == 1:
                        shape = shape[1:]
                found[_name(name, i)] = _numbers_at(path, fields[5], 'f4', shape)
    return found


def _read_onnx(path):
    """The floating-point initializers of an .onnx file. The format is in onnx.proto:

    ModelProto: graph = 7. GraphProto: initializer = 5. TensorProto: dims 1, data_type 2, float_data 4, name 8,
    raw_data 9, data_location 14.
    """
    found = {}
    with _mapped(path) as data:
        wire = _Wire(data)
        for graph in wire.all((0, len(data)), 7):
            for tensor in wire.all(graph, 5):
                fields = {number: value for number, _, value in wire.fields(tensor)}
                name = wire.text(tensor, 8)
                dtype = ONNX_TYPES.get(fields.get(2))
                if dtype is None:
                    continue    # integers, for example the shapes that a graph computes with
                if fields.get(14):
                    raise InputError(f'{path}: keeps its weights in another file; save the model as a single file')
                place = fields.get(9, fields.get(4) if dtype == 'f4' else None)
                if isinstance(place, tuple):
                    found[name] = _numbers_at(path, place, dtype, wire.numbers(tensor, 1))
    return found


@contextmanager
def _mapped(path):
    """The bytes of a file, memory-mapped for the with-block."""
    with path.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


READERS = {'.h5': _read_h5, '.mat': _read_mat, '.npz': _read_npz, '.pth': _read_pth, '.caffemodel': _read_caffemodel,
           '.onnx': _read_onnx}

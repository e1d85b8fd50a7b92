"""Reads pickles of plain data and numpy arrays, and cannot run anything.

A pickle is a program for a small stack machine. pickle.Unpickler with a strict find_class would keep it from calling
foreign code, but not from filling the memory: a few bytes can ask for a memo of 2^32 places, or for a key whose hash
takes years. So here is the machine itself, with only the instructions that build plain data, and numpy's pickled
form taken as a description of an array. Knows nothing of files or checkpoints.
"""

import codecs
import math
import pickle
import re
import struct

import numpy as np

MAX_DEPTH = 32
MAX_DIGITS = 64
MAX_STEPS = 2_000_000    # instructions, and parts of what they describe, of some 80 bytes each; COCO's need 100,000


def looks_like_pickle(start):
    """Whether a file that begins with these bytes is worth calling a pickle (protocols 0 to 5)."""
    return re.match(rb'\x80[\x02-\x05]|[(\]}]|c[\w.]+\r?\n[\w.]+\r?\n', start) is not None


def read_pickle(data):
    """The value a pickle (bytes) describes, made of dict, list, str, int, float, bool, None and numpy arrays.

    Python 2's strings and Python 3's bytes both come out as str (UTF-8 where it is valid, else latin-1), tuples as
    lists, numpy's numbers as Python's, arrays in C order and native byte order.
    Raises pickle.UnpicklingError for anything damaged, forbidden, or larger in memory than the pickle can honestly be.
    """
    machine = PickleMachine(data)
    return machine.result(lambda: machine.plain(machine.run()))


def refuse(reason):
    """Raise UnpicklingError."""
    raise pickle.UnpicklingError(reason)


class _Dtype:
    """What a pickle says of a numpy dtype: a code such as 'f8' and a byte order."""

    def __init__(self, code):
        self.code, self.order = code, '='

    def build(self, state):
        order, *details = state[1:5]
        if isinstance(order, bytes):
            order = order.decode('latin-1')
        if order not in ('<', '>', '|', '=') or details != [None, None, None]:
            refuse('an array of records, where only numbers are allowed')
        self.order = order

    def numpy(self):
        return np.dtype(self.order + self.code)


class _Array:
    """What a pickle says of an array; checked here, made only where it is used."""

    def __init__(self):
        self.dtype = None

    def build(self, state):
        _, shape, dtype, is_fortran, data = state
        self.describe(shape, dtype, 'F' if is_fortran else 'C', data)

    def describe(self, shape, dtype, order, data):
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            refuse('an array of objects, where only numbers are allowed')
        if not isinstance(shape, tuple) or len(shape) > MAX_DEPTH or not all(type(n) is int and n >= 0 for n in shape):
            refuse('an array of impossible shape')
        if math.prod(shape) * dtype.numpy().itemsize != len(data):
            refuse(f'an array of shape {shape!s:.60} and type {dtype.code!r} with {len(data)} bytes')
        self.dtype, self.shape, self.order, self.data = dtype, shape, order, data

    def numpy(self):
        dtype = self.dtype.numpy()
        array = np.frombuffer(self.data, dtype).reshape(self.shape, order=self.order)
        return np.array(array, dtype.newbyteorder('='), order='C')


def _short(value):
    return (
        ascii(value[:60])[1:-1] if isinstance(value, str) else type(value).__name__
    )  # the repr of a nest can be endless


class PickleMachine:
    """The stack machine. Nothing callable can get on its stack save the stand-ins in GLOBALS.

    data: bytes or a mapped file, where the program begins at position; after run() its end is there.
    """

    def __init__(self, data, position=0):
        self.data, self.position, self.opcodes = data, position, OPCODES
        self.stack, self.outer_stacks, self.memo = [], [], {}
        self.texts, self.parts = {}, 0
        self.allowance = 4 * len(data)  # honest pickles stay below 3: a node, a decoded and a copied byte per byte

    def run(self):
        """The value that the program describes, of plain data and stand-ins."""
        for _ in range(MAX_STEPS):
            at = self.position
            opcode = self.take(1)
            if opcode == b'.':
                return self.stack.pop()
            if opcode not in self.opcodes:
                refuse(f'instruction {opcode!r} at byte {at} is not allowed here')
            self.opcodes[opcode](self)
        refuse(f'more than {MAX_STEPS:,} instructions')

    def result(self, function):
        """function(), where whatever a nonsensical program makes it stumble over becomes an UnpicklingError."""
        try:
            return function()
        except (pickle.UnpicklingError, MemoryError):
            raise
        except Exception as error:  # an empty stack, a wrong type, …
            raise pickle.UnpicklingError(f'damaged at byte {self.position} ({type(error).__name__})') from error

    # -- reading the program

    def take(self, count):
        end = self.position + count
        if not self.position <= end <= len(self.data):
            refuse('cut short')
        part = self.data[self.position : end]
        self.position = end
        return part

    def unpack(self, layout):
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self):
        end = self.data.find(b'\n', self.position)
        if end < 0:
            refuse('cut short')
        part = self.take(end - self.position)
        self.position += 1
        return part

    def digits(self):
        line = self.line()
        if len(line) > MAX_DIGITS:
            refuse(f'a number of {len(line)} digits')
        return line

    def spend(self, count):
        self.allowance -= count
        if self.allowance < 0:
            refuse('it claims more memory than a file of its size can fill')

    # -- instructions

    def push(self, value):
        self.stack.append(value)

    def push_int_line(self):
        line = self.digits()
        self.push({b'00': False, b'01': True}[line] if line in (b'00', b'01') else int(line))

    def push_string_line(self):
        line = self.line().strip()
        if len(line) < 2 or line[0] != line[-1] or line[:1] not in (b'"', b"'"):
            refuse('a string without quotation marks')
        self.push(codecs.escape_decode(line[1:-1])[0])

    def mark(self):
        if len(self.outer_stacks) > 4 * MAX_DEPTH:
            refuse(f'nested more than {4 * MAX_DEPTH} deep')
        self.outer_stacks.append(self.stack)
        self.stack = []

    def since_mark(self):
        items, self.stack = self.stack, self.outer_stacks.pop()
        return items

    def push_tuple(self, count):
        items = [self.stack.pop() for _ in range(count)]
        self.push(tuple(reversed(items)))

    def append(self, items):
        target = self.stack[-1]
        if type(target) is not list:
            refuse('appends to what is not a list')
        target.extend(items)

    def set_items(self, items):
        target = self.stack[-1]
        if type(target) is not dict:
            refuse('sets items of what is not a dict')
        for key, value in zip(items[::2], items[1::2], strict=True):
            # no tuples: the hash of nested ones can take for ever; no huge integers: they can be made to collide
            if type(key) not in (str, bytes) and not (type(key) is int and abs(key) < 2**63):
                refuse(f'a key of type {type(key).__name__}')
            target[key] = value

    def set_item(self):
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def push_dict(self):
        items = self.since_mark()
        self.push({})
        self.set_items(items)

    def remember(self, key):
        if not 0 <= key < 2**32:
            refuse('a memo place out of range')
        self.memo[key] = self.stack[-1]

    def push_global(self, module, name):
        if (module, name) not in GLOBALS:
            refuse(f'it asks for {_short(module)}.{_short(name)}, which a checkpoint does not need')
        self.push(GLOBALS[module, name])

    def push_global_line(self):
        self.push_global(self.line().decode('utf-8', 'replace'), self.line().decode('utf-8', 'replace'))

    def push_global_stack(self):
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            refuse('a global without a name')
        self.push_global(module, name)

    def reduce(self):
        arguments, function = self.stack.pop(), self.stack.pop()
        if not callable(function) or not isinstance(arguments, tuple):
            refuse('it calls what is not a function')
        self.push(function(self, *arguments))

    def build(self):
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, (_Array, _Dtype)) or not isinstance(state, tuple):
            refuse('it sets the state of what has none')
        target.build(state)

    # -- stand-ins for the few functions that numpy's pickled form names

    def stand_in_reconstruct(self, subtype, shape, typecode):
        return _Array()

    def stand_in_frombuffer(self, data, dtype, shape, order):
        array = _Array()
        array.describe(shape, dtype, 'F' if order == 'F' else 'C', data)
        return array

    def stand_in_dtype(self, code, align=0, copy=0):
        code = self.text(code) if isinstance(code, bytes) else code
        if not isinstance(code, str) or not re.fullmatch('b1|[iu][1248]|f[248]', code):
            refuse(f'an array or number of type {_short(code)!r}, where only plain numbers are allowed')
        return _Dtype(code)

    def stand_in_scalar(self, dtype, data):
        array = _Array()
        array.describe((), dtype, 'C', data)
        return array.numpy().item()

    def stand_in_encode(self, text, encoding):
        if encoding != 'latin1':
            refuse(f'a text encoding {_short(encoding)!r}')
        self.spend(len(text))
        return text.encode('latin-1')

    # -- from what the program built to plain data

    def text(self, raw):
        if raw not in self.texts:
            try:
                self.texts[raw] = raw.decode('utf-8')
            except UnicodeDecodeError:
                self.texts[raw] = raw.decode('latin-1')
        return self.texts[raw]

    def plain(self, value, depth=0):
        self.spend(1)  # shared parts can make a small program describe an endless tree
        self.parts += 1
        if self.parts > MAX_STEPS:
            refuse(f'more than {MAX_STEPS:,} parts')
        if depth > MAX_DEPTH:
            refuse(f'nested more than {MAX_DEPTH} deep')
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, bytes):
            return self.text(value)
        if isinstance(value, (list, tuple)):
            return [self.plain(item, depth + 1) for item in value]
        if isinstance(value, dict):
            result = {self.plain(key): self.plain(item, depth + 1) for key, item in value.items()}
            if len(result) != len(value):
                refuse('two keys that read the same')
            return result
        if isinstance(value, _Array) and value.dtype is not None:
            self.spend(len(value.data))
            return value.numpy()
        refuse('something other than plain data and arrays')


# A Python 2 pickle says numpy.core.multiarray, a recent Python 3 one numpy._core.multiarray; bytes before protocol 3 go
# through _codecs.encode; protocol 5 has numpy.core.numeric._frombuffer.
GLOBALS = {
    ('numpy', 'ndarray'): 'numpy.ndarray',
    ('numpy', 'dtype'): PickleMachine.stand_in_dtype,
    ('numpy.core.multiarray', '_reconstruct'): PickleMachine.stand_in_reconstruct,
    ('numpy._core.multiarray', '_reconstruct'): PickleMachine.stand_in_reconstruct,
    ('numpy.core.multiarray', 'scalar'): PickleMachine.stand_in_scalar,
    ('numpy._core.multiarray', 'scalar'): PickleMachine.stand_in_scalar,
    ('numpy.core.numeric', '_frombuffer'): PickleMachine.stand_in_frombuffer,
    ('numpy._core.numeric', '_frombuffer'): PickleMachine.stand_in_frombuffer,
    ('_codecs', 'encode'): PickleMachine.stand_in_encode,
}

# fmt: off
# The names are those of the pickletools module.
OPCODES = {
    b'\x80': lambda m: m.take(1),                                                             # PROTO
    b'\x95': lambda m: m.take(8),                                                             # FRAME
    b'N': lambda m: m.push(None),                                                             # NONE
    b'\x88': lambda m: m.push(True),                                                          # NEWTRUE
    b'\x89': lambda m: m.push(False),                                                         # NEWFALSE
    b'I': PickleMachine.push_int_line,                                                        # INT
    b'L': lambda m: m.push(int(m.digits().rstrip(b'L'))),                                     # LONG
    b'J': lambda m: m.push(m.unpack('<i')),                                                   # BININT
    b'K': lambda m: m.push(m.unpack('<B')),                                                   # BININT1
    b'M': lambda m: m.push(m.unpack('<H')),                                                   # BININT2
    b'\x8a': lambda m: m.push(int.from_bytes(m.take(m.unpack('<B')), 'little', signed=True)), # LONG1
    b'F': lambda m: m.push(float(m.digits())),                                                # FLOAT
    b'G': lambda m: m.push(m.unpack('>d')),                                                   # BINFLOAT
    b'S': PickleMachine.push_string_line,                                                     # STRING
    b'T': lambda m: m.push(m.take(m.unpack('<i'))),                                           # BINSTRING
    b'U': lambda m: m.push(m.take(m.unpack('<B'))),                                           # SHORT_BINSTRING
    b'C': lambda m: m.push(m.take(m.unpack('<B'))),                                           # SHORT_BINBYTES
    b'B': lambda m: m.push(m.take(m.unpack('<I'))),                                           # BINBYTES
    b'\x8e': lambda m: m.push(m.take(m.unpack('<Q'))),                                        # BINBYTES8
    b'\x96': lambda m: m.push(m.take(m.unpack('<Q'))),                                        # BYTEARRAY8
    b'V': lambda m: m.push(m.line().decode('raw-unicode-escape')),                            # UNICODE
    b'X': lambda m: m.push(m.take(m.unpack('<I')).decode('utf-8', 'surrogatepass')),          # BINUNICODE
    b'\x8c': lambda m: m.push(m.take(m.unpack('<B')).decode('utf-8', 'surrogatepass')),       # SHORT_BINUNICODE
    b'\x8d': lambda m: m.push(m.take(m.unpack('<Q')).decode('utf-8', 'surrogatepass')),       # BINUNICODE8
    b'(': PickleMachine.mark,                                                                 # MARK
    b'}': lambda m: m.push({}),                                                               # EMPTY_DICT
    b']': lambda m: m.push([]),                                                               # EMPTY_LIST
    b')': lambda m: m.push(()),                                                               # EMPTY_TUPLE
    b'd': PickleMachine.push_dict,                                                            # DICT
    b'l': lambda m: m.push(m.since_mark()),                                                   # LIST
    b't': lambda m: m.push(tuple(m.since_mark())),                                            # TUPLE
    b'\x85': lambda m: m.push_tuple(1),                                                       # TUPLE1
    b'\x86': lambda m: m.push_tuple(2),                                                       # TUPLE2
    b'\x87': lambda m: m.push_tuple(3),                                                       # TUPLE3
    b'a': lambda m: m.append([m.stack.pop()]),                                                # APPEND
    b'e': lambda m: m.append(m.since_mark()),                                                 # APPENDS
    b's': PickleMachine.set_item,                                                             # SETITEM
    b'u': lambda m: m.set_items(m.since_mark()),                                              # SETITEMS
    b'p': lambda m: m.remember(int(m.digits())),                                              # PUT
    b'q': lambda m: m.remember(m.unpack('<B')),                                               # BINPUT
    b'r': lambda m: m.remember(m.unpack('<I')),                                               # LONG_BINPUT
    b'\x94': lambda m: m.remember(len(m.memo)),                                               # MEMOIZE
    b'g': lambda m: m.push(m.memo[int(m.digits())]),                                          # GET
    b'h': lambda m: m.push(m.memo[m.unpack('<B')]),                                           # BINGET
    b'j': lambda m: m.push(m.memo[m.unpack('<I')]),                                           # LONG_BINGET
    b'c': PickleMachine.push_global_line,                                                     # GLOBAL
    b'\x93': PickleMachine.push_global_stack,                                                 # STACK_GLOBAL
    b'R': PickleMachine.reduce,                                                               # REDUCE
    b'b': PickleMachine.build,                                                                # BUILD
}

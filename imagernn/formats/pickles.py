"""Reads pickles of plain data and numpy arrays, and cannot run anything.

A pickle is a program for a small stack machine. pickle.Unpickler with a strict find_class would not call foreign code,
but a few bytes could still fill the memory (a memo of 2^32 entries) or keep it busy for years (the hash of a nested
key). So this module is the machine itself, with only the instructions that build plain data; numpy's pickled form is
taken as a description of an array. Knows nothing of files or checkpoints.
"""

import codecs
import math
import pickle
import re
import struct

import numpy as np

MAX_DEPTH = 32           # of lists and dicts inside one another, and axes of an array
MAX_DIGITS = 64
MAX_STEPS = 2_000_000    # instructions, and values they describe, of some 80 bytes each; a COCO checkpoint has 100,000


def looks_like_pickle(start):
    """Whether a file that begins with these bytes may be a pickle (protocols 0 to 5)."""
    return re.match(rb'\x80[\x02-\x05]|[(\]}]|c[\w.]+\r?\n[\w.]+\r?\n', start) is not None


def read_pickle(data):
    """The value that a pickle (bytes) describes: dict, list, str, int, float, bool, None and numpy arrays.

    Python 2's strings and Python 3's bytes both become str (as UTF-8 if valid, else as latin-1), tuples become lists,
    numpy scalars Python numbers, and arrays are in C order and native byte order.
    Raises pickle.UnpicklingError if the pickle is damaged, contains anything else, or describes more than its size can
    explain.
    """
    machine = PickleMachine(data)
    return machine.result(lambda: machine.plain(machine.run()))


def refuse(reason):
    """Raise UnpicklingError with this reason."""
    raise pickle.UnpicklingError(reason)


class _Dtype:
    """A numpy dtype as a pickle describes it: a code such as 'f8' and a byte order."""

    def __init__(self, code):
        self.code = code
        self.order = '='

    def build(self, state):
        """Take the byte order from the state that dtype.__reduce__ gives."""
        order, *details = state[1:5]
        if isinstance(order, bytes):
            order = order.decode('latin-1')
        if order not in ('<', '>', '|', '=') or details != [None, None, None]:
            refuse('an array of records, where only numbers are allowed')
        self.order = order

    def numpy(self):
        return np.dtype(self.order + self.code)


class _Array:
    """An array as a pickle describes it: validated here, created only by numpy()."""

    def __init__(self):
        self.dtype = None

    def build(self, state):
        """Take the description from the state that ndarray.__reduce__ gives."""
        _, shape, dtype, is_fortran, data = state
        self.describe(shape, dtype, 'F' if is_fortran else 'C', data)

    def describe(self, shape, dtype, order, data):
        """Set the description. Refuses it unless it is plain numbers, with exactly as much data as the shape needs."""
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            refuse('an array of objects, where only numbers are allowed')
        if not isinstance(shape, tuple) or len(shape) > MAX_DEPTH or not all(type(n) is int and n >= 0 for n in shape):
            refuse('an array with an invalid shape')
        if math.prod(shape) * dtype.numpy().itemsize != len(data):
            refuse(f'an array of shape {shape!s:.60} and type {dtype.code!r} with {len(data)} bytes')
        self.dtype, self.shape, self.order, self.data = dtype, shape, order, data

    def numpy(self):
        dtype = self.dtype.numpy()
        array = np.frombuffer(self.data, dtype).reshape(self.shape, order=self.order)
        return np.array(array, dtype.newbyteorder('='), order='C')


def _short(value):
    """A string for a message. Of any other value only its type is shown, since the repr of a nest can be endless."""
    return ascii(value[:60])[1:-1] if isinstance(value, str) else type(value).__name__


class PickleMachine:
    """The stack machine. Nothing callable can get onto its stack except the stand-ins in GLOBALS.

    data: bytes or a memory-mapped file. position: where the program begins; after run(), where it ends.
    """

    def __init__(self, data, position=0):
        self.data = data
        self.position = position
        self.opcodes = OPCODES
        self.stack = []
        self.outer_stacks = []          # below the marks
        self.memo = {}
        self.texts = {}                 # bytes -> str, so that equal strings share memory
        self.parts = 0                  # values that plain() has converted
        self.allowance = 4 * len(data)  # real pickles stay below 3: a node, a decoded and a copied byte per byte

    def run(self):
        """Run the program -> the value that it describes, of plain data and stand-ins."""
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
        """Call function(); any exception that a nonsensical program causes becomes an UnpicklingError."""
        try:
            return function()
        except (pickle.UnpicklingError, MemoryError):
            raise
        except Exception as error:  # an empty stack, a wrong type, …
            raise pickle.UnpicklingError(f'damaged at byte {self.position} ({type(error).__name__})') from error

    # -- reading the program

    def take(self, count):
        """The next `count` bytes of the program."""
        end = self.position + count
        if not self.position <= end <= len(self.data):
            refuse('truncated')
        part = self.data[self.position:end]
        self.position = end
        return part

    def unpack(self, layout):
        """The next number of the program, in a layout of the struct module."""
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self):
        """The program's bytes up to the next newline, which is skipped."""
        end = self.data.find(b'\n', self.position)
        if end < 0:
            refuse('truncated')
        part = self.take(end - self.position)
        self.position += 1
        return part

    def digits(self):
        """A line that holds a number. Refused if it is long, since the time to parse it grows with its square."""
        line = self.line()
        if len(line) > MAX_DIGITS:
            refuse(f'a number of {len(line)} digits; at most {MAX_DIGITS} are allowed')
        return line

    def spend(self, count):
        """Count memory against what a pickle of this size may describe."""
        self.allowance -= count
        if self.allowance < 0:
            refuse('it describes more memory than a file of its size can fill')

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
            refuse(f'nested more than {4 * MAX_DEPTH} levels deep')
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
            refuse('it appends to something that is not a list')
        target.extend(items)

    def set_items(self, items):
        target = self.stack[-1]
        if type(target) is not dict:
            refuse('it sets items of something that is not a dict')
        for key, value in zip(items[::2], items[1::2], strict=True):
            # no tuples: hashing nested ones can take forever; no huge integers: their hashes can be made to collide
            if type(key) not in (str, bytes) and not (type(key) is int and abs(key) < 2**63):
                refuse(f'a key of type {type(key).__name__}, where only strings and integers of 64 bits are allowed')
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
            refuse('a memo index that is out of range')
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
            refuse('it calls something that is not a function')
        self.push(function(self, *arguments))

    def build(self):
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, (_Array, _Dtype)) or not isinstance(state, tuple):
            refuse('it sets the state of something that has none')
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
            refuse(f'the text encoding {_short(encoding)!r}, where only latin1 is allowed')
        self.spend(len(text))
        return text.encode('latin-1')

    # -- from what the program built to plain data

    def text(self, raw):
        """Bytes as str: UTF-8 if that is valid, else latin-1."""
        if raw not in self.texts:
            try:
                self.texts[raw] = raw.decode('utf-8')
            except UnicodeDecodeError:
                self.texts[raw] = raw.decode('latin-1')
        return self.texts[raw]

    def plain(self, value, depth=0):
        """Plain data for a value of the machine; see read_pickle. Refuses what is too deep or too large."""
        self.spend(1)  # shared parts can make a small program describe an endless tree
        self.parts += 1
        if self.parts > MAX_STEPS:
            refuse(f'more than {MAX_STEPS:,} values')
        if depth > MAX_DEPTH:
            refuse(f'nested more than {MAX_DEPTH} levels deep')
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, bytes):
            return self.text(value)
        if isinstance(value, (list, tuple)):
            return [self.plain(item, depth + 1) for item in value]
        if isinstance(value, dict):
            result = {self.plain(key): self.plain(item, depth + 1) for key, item in value.items()}
            if len(result) != len(value):
                refuse('two keys that decode to the same string')
            return result
        if isinstance(value, _Array) and value.dtype is not None:
            self.spend(len(value.data))
            return value.numpy()
        refuse('it holds something other than plain data and arrays')


# Pickles from Python 2 name numpy.core.multiarray, recent ones from Python 3 numpy._core.multiarray. Before protocol 3,
# bytes are pickled by way of _codecs.encode. Protocol 5 names numpy.core.numeric._frombuffer.
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
# The comments give the names of the instructions in the pickletools module.
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

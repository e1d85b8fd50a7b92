"""MATLAB files of version 5: numbers, text, cells and structs, each read when it is asked for.

scipy.io is not used: a damaged file can crash Python through it, and a hostile one can fill the memory. Knows nothing
of what the variables mean. The format: https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf
"""

import math
import mmap
import struct
import zlib
from typing import NamedTuple

import numpy as np

TYPES = {1: 'i1', 2: 'u1', 3: 'i2', 4: 'u2', 5: 'i4', 6: 'u4', 7: 'f4', 9: 'f8', 12: 'i8', 13: 'u8'}
MATRIX, COMPRESSED = 14, 15                            # kinds of elements
CELL, STRUCT, CHAR, NUMBERS = 1, 2, 4, range(6, 16)    # classes of matrices
UINT16, UTF16 = 4, 17                                  # types of letters of two bytes
OTHERS = {3: 'object', 5: 'sparse matrix', 16: 'function', 17: 'object'}
COMPLEX = 0x800                                        # a flag
MAX_RATIO = 100              # a variable may decompress to this many times the file's size,
ALWAYS_ALLOWED = 16 << 20    # or to this many bytes, whichever is more
MAX_ELEMENTS = 1_000_000
MAX_DEPTH = 16               # of cells and structs inside one another
MAX_AXES = 32
MAX_NAME = 1000              # bytes
ENOUGH = 4096                # decompressed bytes that are certain to include a matrix's name


class Numbers(NamedTuple):
    """A matrix of numbers whose shape and type are known before it is read."""

    shape: tuple
    dtype: np.dtype
    read: object     # read() -> the array, in Fortran order, as MATLAB stores it


class Other(NamedTuple):
    """A matrix of an unsupported class."""

    what: str     # the class, for a message


def looks_like_matlab(start):
    """Whether a file that begins with these 128 bytes is a MATLAB file of version 5."""
    return len(start) == 128 and start[124:] in (b'\0\1IM', b'\1\0MI')


def read_variables(path):
    """The variables in a file -> {name: function() that returns the variable}.

    A variable is Numbers, a str, a list (cell, or the rows of a char matrix), a list of dicts (struct) or Other; None
    if empty or nested too deep.
    Uncompressed numbers stay in the memory-mapped file until they are used. Raises ValueError, struct.error, zlib.error
    or KeyError, as do the functions, if the file is damaged, claims more than it holds, or decompresses to more than
    MAX_RATIO times its size.
    """
    with open(path, 'rb') as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)    # stays open while an array needs it
    if not looks_like_matlab(data[:128]):
        raise ValueError('it is not a MATLAB file of version 5; in MATLAB, save it with -v7')
    order = '<' if data[126:128] == b'IM' else '>'
    whole = _Elements(data, order)
    variables = {}
    position = 128
    while position < len(data):
        kind, start, stop, _ = whole.element(position, len(data))
        position = stop if kind == COMPRESSED else stop + -stop % 8
        if kind == COMPRESSED:
            head = _Elements(_decompressed(memoryview(data)[start:min(stop, start + ENOUGH)], ENOUGH), order)
            kind, begin, _, _ = head.element(0, 1 << 63)
            if kind == MATRIX:
                variables[head.name(begin)] = lambda start=start, stop=stop: _decompressed_matrix(
                    data, start, stop, order)
        elif kind == MATRIX:
            variables[whole.name(start)] = lambda start=start, stop=stop: whole.matrix(start, stop)
    return variables


def _decompressed_matrix(data, start, stop, order):
    """The matrix in a compressed element. Raises ValueError if it decompresses to more than MAX_RATIO allows."""
    bound = max(ALWAYS_ALLOWED, MAX_RATIO * len(data))
    decompressed = _decompressed(memoryview(data)[start:stop], bound + 1)
    if len(decompressed) > bound:
        raise ValueError(f'it decompresses to more than {bound:,} bytes, from a file of {len(data):,}')
    elements = _Elements(decompressed, order)
    _, begin, end, _ = elements.element(0, len(decompressed))
    return elements.matrix(begin, end)


def _decompressed(packed, most):
    """The first bytes, at most `most`, that compressed bytes decompress to."""
    return zlib.decompressobj().decompress(packed, most)


class _Elements:
    """The elements in a sequence of bytes. order: the byte order, '<' or '>'."""

    def __init__(self, data, order):
        self.data = data
        self.order = order
        self.left = MAX_ELEMENTS    # how many more may be read

    def element(self, position, stop):
        """The element at position -> kind, start and stop of its content, position of the next element.

        Raises ValueError if the content reaches beyond stop.
        """
        self.left -= 1
        if self.left < 0:
            raise ValueError(f'more than {MAX_ELEMENTS:,} elements')
        kind, size = struct.unpack_from(f'{self.order}2I', self.data, position)
        start, after = position + 8, position + 8 + size + -size % 8
        if kind >> 16:                                             # a small element, all in eight bytes
            kind, size = kind & 0xffff, kind >> 16
            start, after = position + 4, position + 8
        if start + size > stop:
            raise ValueError('an element reaches beyond the one that contains it: the file is truncated')
        return kind, start, start + size, after

    def head(self, start):
        """The head of a matrix -> class, whether it is complex, shape, position of its name (its content follows)."""
        stop = len(self.data)
        _, flags, _, position = self.element(start, stop)
        _, begin, end, position = self.element(position, stop)
        if end - begin > 4 * MAX_AXES:
            raise ValueError(f'a matrix of {(end - begin) // 4:,} axes')
        size = tuple(np.frombuffer(self.data[begin:end], f'{self.order}i4').tolist())
        if min(size, default=0) < 0:
            raise ValueError(f'a matrix of shape {size!s:.60}')
        flags, = struct.unpack_from(f'{self.order}I', self.data, flags)
        return flags & 255, bool(flags & COMPLEX), size, position

    def name(self, start):
        """The name of the matrix that begins at start. Raises ValueError if it is too long."""
        *_, position = self.head(start)
        _, begin, end, _ = self.element(position, len(self.data))
        if end - begin > MAX_NAME:
            raise ValueError(f'a name of {end - begin:,} bytes')
        return bytes(self.data[begin:end]).decode('latin-1')

    def matrix(self, start, stop, depth=0):
        """The variable in a matrix element; see read_variables."""
        if start == stop or depth > MAX_DEPTH:
            return None
        kind, is_complex, size, position = self.head(start)
        _, _, _, position = self.element(position, stop)           # its name
        if kind == CELL:
            return self._matrices(math.prod(size), position, stop, depth)[0]
        if kind == STRUCT:
            return self._structs(math.prod(size), position, stop, depth)
        if kind != CHAR and kind not in NUMBERS:
            return Other(OTHERS.get(kind, f'matrix of class {kind}'))
        what, begin, end, _ = self.element(position, stop)
        if kind == CHAR and len(size) == 2 and size[0] > 1:
            return self._rows_of_text(size, what, begin, end)
        if kind == CHAR:
            return bytes(self.data[begin:end]).replace(b'\0', b'').decode('utf-8', 'replace')
        dtype = np.dtype(self.order + TYPES[what])                 # MATLAB stores integral values in fewer bytes
        if math.prod(size) * dtype.itemsize != end - begin:
            raise ValueError(f'a matrix of shape {size!s:.60} with {end - begin:,} bytes')
        if is_complex:
            return Other('matrix of complex numbers')
        return Numbers(size, dtype, lambda: np.frombuffer(self.data, dtype, math.prod(size), begin)
                       .reshape(size, order='F'))

    def _rows_of_text(self, size, what, begin, end):
        """The rows of a char matrix, which is stored by columns -> a list, without the blanks that pad them."""
        wide = what in (UINT16, UTF16)
        encoding = 'utf-8' if not wide else 'utf-16-le' if self.order == '<' else 'utf-16-be'
        text = bytes(self.data[begin:end]).decode(encoding, 'replace')
        if len(text) != math.prod(size):
            raise ValueError(f'a char matrix of shape {size!s:.60} with {len(text):,} letters')
        return [text[row::size[0]].rstrip(' \0') for row in range(size[0])]

    def _matrices(self, count, position, stop, depth):
        """The next `count` matrices from position on -> a list, the position after them."""
        values = []
        for _ in range(count):
            _, begin, end, position = self.element(position, stop)
            values.append(self.matrix(begin, end, depth + 1))
        return values, position

    def _structs(self, count, position, stop, depth):
        """An array of `count` structs -> a list of dicts."""
        _, begin, end, position = self.element(position, stop)
        width = int.from_bytes(self.data[begin:end], {'<': 'little', '>': 'big'}[self.order])
        _, begin, end, position = self.element(position, stop)
        if width == 0 or end - begin > width * MAX_ELEMENTS:
            raise ValueError('a struct with invalid field names')
        fields = [bytes(self.data[i:i + width]).rstrip(b'\0').decode('latin-1') for i in range(begin, end, width)]
        structs = []
        for _ in range(count if fields else 0):
            values, position = self._matrices(len(fields), position, stop, depth)
            structs.append(dict(zip(fields, values, strict=True)))
        return structs

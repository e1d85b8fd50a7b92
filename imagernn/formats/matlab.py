"""MATLAB's files of version 5: numbers, text, cells and structs, read where they are asked for.

Not by scipy.io, which a damaged file can make crash Python, and a hostile one fill the memory. Knows nothing of what
the variables mean. The format: https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf
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
OTHERS = {3: 'object', 5: 'sparse matrix', 16: 'function', 17: 'object'}
COMPLEX = 0x800                                        # a flag
MAX_RATIO, ALWAYS = 100, 16 << 20    # a file may unpack to so many times its size, or to so many bytes
MAX_ELEMENTS, MAX_DEPTH, MAX_AXES, MAX_NAME = 100_000, 16, 32, 1000
ENOUGH = 4096                        # unpacked bytes that hold a matrix's name


class Numbers(NamedTuple):
    """A matrix of numbers, known before it is read: read() gives it in Fortran order, as MATLAB stores it."""

    shape: tuple
    dtype: np.dtype
    read: object


class Other(NamedTuple):
    """A matrix of a class that is not read here."""

    what: str


def looks_like_matlab(start):
    """Whether a file that begins with these 128 bytes is of this format."""
    return len(start) == 128 and start[124:] in (b'\0\1IM', b'\1\0MI')


def read_variables(path):
    """{name: function that gives the variable} of a file: Numbers, str, a list (cell), a list of dicts (struct), Other,
    or None of what is empty or nested too deep.

    Plain numbers stay in the file, mapped, until they are used. Raises ValueError, struct.error, zlib.error, KeyError
    where the file is damaged, claims what it does not hold, or unpacks to more than MAX_RATIO times its size.
    """
    with open(path, 'rb') as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)    # closed when no array needs it any more
    if not looks_like_matlab(data[:128]):
        raise ValueError('it does not begin as a MATLAB file of version 5 does; in MATLAB, save it with -v7')
    order = '<' if data[126:128] == b'IM' else '>'
    whole, variables, position = _Elements(data, order), {}, 128
    while position < len(data):
        kind, start, stop, _ = whole.element(position, len(data))
        position = stop if kind == COMPRESSED else stop + -stop % 8
        if kind == COMPRESSED:
            head = _Elements(_unpacked(memoryview(data)[start:min(stop, start + ENOUGH)], ENOUGH), order)
            kind, begin, _, _ = head.element(0, 1 << 63)
            if kind == MATRIX:
                variables[head.name(begin)] = lambda start=start, stop=stop: _unpack(data, start, stop, order)
        elif kind == MATRIX:
            variables[whole.name(start)] = lambda start=start, stop=stop: whole.matrix(start, stop)
    return variables


def _unpack(data, start, stop, order):
    """The matrix in a compressed element."""
    bound = max(ALWAYS, MAX_RATIO * len(data))
    unpacked = _unpacked(memoryview(data)[start:stop], bound + 1)
    if len(unpacked) > bound:
        raise ValueError(f'it unpacks to more than {bound:,} bytes, and has {len(data):,}')
    place = _Elements(unpacked, order)
    _, begin, end, _ = place.element(0, len(unpacked))
    return place.matrix(begin, end)


def _unpacked(packed, most):
    return zlib.decompressobj().decompress(packed, most)


class _Elements:
    """The elements in a run of bytes."""

    def __init__(self, data, order):
        self.data, self.order, self.left = data, order, MAX_ELEMENTS

    def element(self, position, stop):
        """-> kind, start and stop of its content, where the next one begins. ValueError where it is cut short."""
        self.left -= 1
        if self.left < 0:
            raise ValueError(f'more than {MAX_ELEMENTS:,} elements')
        kind, size = struct.unpack_from(f'{self.order}2I', self.data, position)
        start, after = position + 8, position + 8 + size + -size % 8
        if kind >> 16:                                             # a small one: all in eight bytes
            kind, size, start, after = kind & 0xffff, kind >> 16, position + 4, position + 8
        if start + size > stop:
            raise ValueError('an element reaches beyond what it is in: cut short')
        return kind, start, start + size, after

    def head(self, start):
        """Of a matrix: its class, whether it is complex, its size, where its name and then its content begin."""
        stop = len(self.data)
        _, flags, _, position = self.element(start, stop)
        _, begin, end, position = self.element(position, stop)
        if end - begin > 4 * MAX_AXES:
            raise ValueError(f'a matrix of {(end - begin) // 4:,} axes')
        size = tuple(np.frombuffer(self.data[begin:end], f'{self.order}i4').tolist())
        if min(size, default=0) < 0:
            raise ValueError(f'a matrix of size {size!s:.60}')
        flags, = struct.unpack_from(f'{self.order}I', self.data, flags)
        return flags & 255, bool(flags & COMPLEX), size, position

    def name(self, start):
        *_, position = self.head(start)
        _, begin, end, _ = self.element(position, len(self.data))
        if end - begin > MAX_NAME:
            raise ValueError(f'a name of {end - begin:,} bytes')
        return bytes(self.data[begin:end]).decode('latin-1')

    def matrix(self, start, stop, depth=0):
        """See read_variables."""
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
        if kind == CHAR:
            return bytes(self.data[begin:end]).replace(b'\0', b'').decode('utf-8', 'replace')
        dtype = np.dtype(self.order + TYPES[what])                 # MATLAB stores whole numbers in fewer bytes
        if math.prod(size) * dtype.itemsize != end - begin:
            raise ValueError(f'a matrix of size {size!s:.60} with {end - begin:,} bytes')
        if is_complex:
            return Other('matrix of complex numbers')
        return Numbers(size, dtype, lambda: np.frombuffer(self.data, dtype, math.prod(size), begin)
                       .reshape(size, order='F'))

    def _matrices(self, count, position, stop, depth):
        """The next so many matrices, and where they end."""
        values = []
        for _ in range(count):
            _, begin, end, position = self.element(position, stop)
            values.append(self.matrix(begin, end, depth + 1))
        return values, position

    def _structs(self, count, position, stop, depth):
        _, begin, end, position = self.element(position, stop)
        width = int.from_bytes(self.data[begin:end], {'<': 'little', '>': 'big'}[self.order])
        _, begin, end, position = self.element(position, stop)
        if width == 0 or end - begin > width * MAX_ELEMENTS:
            raise ValueError('a struct of impossible fields')
        fields = [bytes(self.data[i:i + width]).rstrip(b'\0').decode('latin-1') for i in range(begin, end, width)]
        structs = []
        for _ in range(count if fields else 0):
            values, position = self._matrices(len(fields), position, stop, depth)
            structs.append(dict(zip(fields, values, strict=True)))
        return structs

"""numpy's .npy and .npz, and other zip archives, of unknown origin: opened only where what they claim can be true.

numpy.load takes an array's size, and a header's, on trust, and zipfile that of what it unpacks. Knows nothing of what
the arrays mean.
"""

import io
import itertools
import math
import mmap
import os
import re
import zipfile
from typing import NamedTuple

import numpy as np

MAX_RATIO, ALWAYS = 100, 16 << 20    # an archive may unpack to so many times its size, or to so many bytes
MAX_MEMBERS = 10_000
MAX_HEADER = 10_000                  # bytes, as in numpy itself


class Header(NamedTuple):
    """What stands before the numbers of a .npy."""

    shape: tuple
    dtype: np.dtype
    order: str     # 'C' or 'F'
    offset: int    # where the numbers begin

    @property
    def size(self):
        """Of the numbers, in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file):
    """The Header at the start of a binary file of the .npy format. ValueError where it is none.

    https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html; the dict in it is not evaluated.
    """
    start = file.read(12)
    version = tuple(start[6:8])
    if start[:6] != b'\x93NUMPY' or version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError('it does not begin as a .npy does')
    begin = 10 if version == (1, 0) else 12
    size = int.from_bytes(start[8:begin], 'little')
    if size > MAX_HEADER:
        raise ValueError(f'a header of {size:,} bytes')
    text = (start[begin:] + file.read(begin + size - len(start))).decode('latin-1')
    found = [re.search(pattern, text) for pattern in (r"'descr': *'([<>|=]?[?\w]{1,10})'",
                                                      r"'fortran_order': *(True|False)",
                                                      r"'shape': *\(([\dL, ]{0,1000})\)")]
    if not all(found) or len(text) < size:
        raise ValueError('a header that does not describe plain numbers, or cut short')
    dtype, is_fortran, shape = (match[1] for match in found)
    shape = tuple(int(n.rstrip('L ')) for n in shape.split(',') if n.strip())
    return Header(shape, np.dtype(dtype), 'F' if is_fortran == 'True' else 'C', begin + size)


def array_of(data):
    """The array in the bytes of a .npy, read-only. ValueError unless it is whole, and of plain numbers or text."""
    header = read_header(io.BytesIO(data))
    if header.dtype.kind not in 'biufU':
        raise ValueError(f'an array of {header.dtype}')
    if header.size != len(data) - header.offset:
        raise ValueError(f'an array of shape {header.shape!s:.60} with {len(data) - header.offset:,} bytes')
    return np.frombuffer(data, header.dtype, math.prod(header.shape), header.offset).reshape(header.shape,
                                                                                             order=header.order)


def open_archive(path):
    """A zipfile.ZipFile of a path, to be read. ValueError where it has too many members, or claims to unpack to more
    than can be, or is packed otherwise than by the usual way (deflate), whose unpacking alone is bounded.
    """
    with open(path, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        # before zipfile makes an object of each
        members = sum(1 for _ in itertools.islice(re.finditer(b'PK\x01\x02', data), MAX_MEMBERS + 1))
    if members > MAX_MEMBERS:
        raise ValueError(f'an archive of more than {MAX_MEMBERS:,} members')
    archive = zipfile.ZipFile(path)
    try:
        claimed, size = sum(info.file_size for info in archive.infolist()), os.path.getsize(path)
        if claimed > max(ALWAYS, MAX_RATIO * size):
            raise ValueError(f'an archive of {size:,} bytes that claims to unpack to {claimed:,}; expected at most '
                             f'{MAX_RATIO} times as many')
        for info in archive.infolist():
            if info.compress_size > size:    # for which Python would make room before it reads
                raise ValueError(f'{ascii(info.filename):.60} claims {info.compress_size:,} bytes of a file of '
                                 f'{size:,}')
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f'{ascii(info.filename):.60} is packed in a way that is not read here; pack it as zip')
    except ValueError:
        archive.close()
        raise
    return archive

"""numpy's .npy and .npz files and other zip archives, of unknown origin: only what they can really hold is read.

numpy.load trusts the sizes that an array and its header claim, and zipfile trusts the sizes of the members. Knows
nothing of what the arrays mean.
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

MAX_RATIO = 100              # an archive may decompress to this many times its size,
ALWAYS_ALLOWED = 16 << 20    # or to this many bytes, whichever is more
MAX_MEMBERS = 10_000
MAX_HEADER = 10_000          # bytes, as in numpy itself


class Header(NamedTuple):
    """What the header of a .npy file says of its array."""

    shape: tuple
    dtype: np.dtype
    order: str     # 'C' or 'F'
    offset: int    # of the array's data, in bytes

    @property
    def size(self):
        """The size of the array's data in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file):
    """Read the Header at the start of a binary file in the .npy format. Raises ValueError if there is none.

    The format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html. The dict in the header is not
    evaluated.
    """
    start = file.read(12)
    version = tuple(start[6:8])
    if start[:6] != b'\x93NUMPY' or version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError('it does not begin like a .npy file')
    begin = 10 if version == (1, 0) else 12
    size = int.from_bytes(start[8:begin], 'little')
    if size > MAX_HEADER:
        raise ValueError(f'a header of {size:,} bytes')
    text = (start[begin:] + file.read(begin + size - len(start))).decode('latin-1')
    found = [re.search(pattern, text) for pattern in (r"'descr': *'([<>|=]?[?\w]{1,10})'",
                                                      r"'fortran_order': *(True|False)",
                                                      r"'shape': *\(([\dL, ]{0,1000})\)")]
    if not all(found) or len(text) < size:
        raise ValueError('a header that is truncated or does not describe plain numbers')
    dtype, is_fortran, shape = (match[1] for match in found)
    shape = tuple(int(n.rstrip('L ')) for n in shape.split(',') if n.strip())
    return Header(shape, np.dtype(dtype), 'F' if is_fortran == 'True' else 'C', begin + size)


def array_of(data):
    """The array in the bytes of a .npy file, read-only.

    Raises ValueError if it is truncated or holds anything but plain numbers or text.
    """
    header = read_header(io.BytesIO(data))
    if header.dtype.kind not in 'biufU':
        raise ValueError(f'an array of type {header.dtype}, where only plain numbers or text are allowed')
    if header.size != len(data) - header.offset:
        raise ValueError(f'an array of shape {header.shape!s:.60} with {len(data) - header.offset:,} bytes')
    return np.frombuffer(data, header.dtype, math.prod(header.shape), header.offset).reshape(header.shape,
                                                                                             order=header.order)


def open_archive(path):
    """Open a zip archive for reading -> a zipfile.ZipFile.

    Raises ValueError if it has too many members, claims to decompress to more than MAX_RATIO allows, or uses a
    compression other than deflate: only for deflate does zipfile bound what it decompresses at once.
    """
    with open(path, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        # counted before zipfile creates an object for each
        members = sum(1 for _ in itertools.islice(re.finditer(b'PK\x01\x02', data), MAX_MEMBERS + 1))
    if members > MAX_MEMBERS:
        raise ValueError(f'an archive of more than {MAX_MEMBERS:,} members')
    archive = zipfile.ZipFile(path)
    try:
        claimed = sum(info.file_size for info in archive.infolist())
        size = os.path.getsize(path)
        if claimed > max(ALWAYS_ALLOWED, MAX_RATIO * size):
            raise ValueError(f'an archive of {size:,} bytes that claims to decompress to {claimed:,}; expected at most '
                             f'{MAX_RATIO} times as many')
        for info in archive.infolist():
            if info.compress_size > size:    # Python would allocate that much before it reads
                raise ValueError(f'{ascii(info.filename):.60} claims {info.compress_size:,} bytes of a file of '
                                 f'{size:,}')
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f'{ascii(info.filename):.60} uses an unsupported compression; compress it with '
                                 'deflate, the usual method of zip')
    except ValueError:
        archive.close()
        raise
    return archive

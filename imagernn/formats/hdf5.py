"""HDF5 files of unknown origin: described by a child process, their numbers read here.

Damaged files make the HDF5 library crash, turn in circles and write where they should not. So a child process opens
them, and says what is where; the numbers are then read, and unpacked, without the library, once the places are held
against the file's size. A data set may also lie in another file, be claimed without being there, or unpack to a
thousand times its size: only what is in the file itself is described, whole or in chunks, plain or packed by gzip or
LZF and shuffle. Knows nothing of what it means.
"""

import itertools
import json
import math
import os
import signal
import sys
import warnings
import zlib

import h5py
import numpy as np

from imagernn.errors import InputError

MAX_RATIO, ALWAYS = 100, 16 << 20    # a packed data set may be so many times its size in the file, or so many bytes
MAX_ATTRIBUTE = 4096
SIGNATURE = b'\x89HDF\r\n\x1a\n'
GZIP, SHUFFLE, LZF = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_LZF
FLETCHER32 = h5py.h5z.FILTER_FLETCHER32    # four bytes of checksum after the data
MAX_SECONDS, MAX_WAIT, MAX_MEMORY = 4, 60, 1 << 29    # of a child: processor time, time, bytes beyond what there was


def looks_like_hdf5(path):
    """Whether a file begins as HDF5 does, a block of the user's own before it aside."""
    with open(path, 'rb') as file:
        place, size = 0, file.seek(0, os.SEEK_END)
        while place < size:
            file.seek(place)
            if file.read(8) == SIGNATURE:
                return True
            place = 2 * place or 512
    return False


# ---- in a child process

def in_child(function):
    """What function() returns, which a child process calls: what JSON knows, tuples as lists.

    Its errors come back: an InputError as it is, any other as a ValueError; so is a crash, or a need for too much
    memory or time. On Linux a fork is made, elsewhere function is called as it is. Other threads may run: what they had
    locked, Python, h5py and the C library put right in the child, and one that hung all the same would be timed out.
    """
    if sys.platform != 'linux':
        return json.loads(json.dumps(function()))
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)    # Python 3.12 and later, of the threads
        child = os.fork()
    if child == 0:
        _run_limited(function, writing)
    os.close(writing)
    with open(reading, 'rb') as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        raise ValueError('the HDF5 library does not come to an end with it' if name in ('SIGPROF', 'SIGALRM')
                         else f'it makes the HDF5 library crash ({name})')
    kind, value = json.loads(said or '["ValueError", "the HDF5 library gives up"]')
    if kind:
        raise (InputError if kind == InputError.__name__ else ValueError)(value)
    return value


def _run_limited(function, pipe):
    """Writes into the pipe what function() gives, within the limits above. Ends the process."""
    import resource  # which Windows has not
    try:
        for timer, number, limit in ((signal.ITIMER_PROF, signal.SIGPROF, MAX_SECONDS),
                                     (signal.ITIMER_REAL, signal.SIGALRM, MAX_WAIT)):
            signal.signal(number, signal.SIG_DFL)
            signal.setitimer(timer, limit)
        with open('/proc/self/statm', encoding='ascii') as file:
            in_use = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (in_use + MAX_MEMORY,) * 2)
        try:
            said = json.dumps(['', function()])
        except Exception as error:
            said = json.dumps([type(error).__name__, (str(error) or type(error).__name__)[:10_000]])
        with open(pipe, 'w', encoding='ascii') as file:
            file.write(said)
    finally:
        os._exit(0)


def member(group, name):
    """What the group holds under this name, or None. ValueError where it is a link to another place or file."""
    if name not in group:
        return None
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"'{name}' is a link to another place or file, which is not followed")
    return group[name]


def small_attribute(item, name):
    """A small attribute, number or text, or None where there is none."""
    if name not in item.attrs:
        return None
    attribute = item.attrs.get_id(name)
    if attribute.shape != () or attribute.get_storage_size() > MAX_ATTRIBUTE:
        return None
    return item.attrs[name]


def describe(dataset):
    """Where the numbers of a data set are, for Numbers. ValueError unless they are in the file, all of them."""
    name, file_size = ascii(dataset.name)[1:-1][:60], os.path.getsize(dataset.file.filename)
    creation = dataset.id.get_create_plist()
    layout, stored = creation.get_layout(), dataset.id.get_storage_size()
    if creation.get_external_count() or layout not in (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED):
        raise ValueError(f'{name} is kept in other files, which are not opened')
    if dataset.dtype.kind not in 'iuf' or dataset.id.get_type() != h5py.h5t.py_create(dataset.dtype):
        raise ValueError(f'{name} holds numbers of a kind that is not known here')
    claimed = math.prod(dataset.shape) * dataset.dtype.itemsize
    found = {'name': name, 'shape': dataset.shape, 'dtype': dataset.dtype.str}
    if layout != h5py.h5d.CHUNKED:
        offset = dataset.id.get_offset()
        if claimed != stored or (offset or 0) + claimed > file_size:
            raise ValueError(f'{name} claims {claimed:,} bytes, which the file, of {file_size:,}, does not hold')
        # without an offset it is kept in the header, which is small
        return found | ({'numbers': dataset[()].tolist()} if offset is None else {'offset': offset})
    filters = [creation.get_filter(i)[0] for i in range(creation.get_nfilters())]
    if strange := [code for code in filters if code not in (GZIP, SHUFFLE, LZF, FLETCHER32)]:
        raise ValueError(f'{name} is packed in a way that is not read here (HDF5 filter {strange[0]}); '
                         'store it plain or with gzip')
    if stored > file_size or claimed > max(ALWAYS, MAX_RATIO * stored):
        raise ValueError(f'{name} claims {claimed:,} bytes, of which the file holds {stored:,}, packed; expected at '
                         f'most {MAX_RATIO} times as many')
    return found | {'chunks': dataset.chunks, 'filters': filters, 'places': _places(dataset, file_size)}


def _places(dataset, file_size):
    """[corner, offset, size, filters left out] of each chunk."""
    places = []
    dataset.id.chunk_iter(lambda chunk: places.append(
        [chunk.chunk_offset, chunk.byte_offset, chunk.size, chunk.filter_mask]))
    if places:    # not every version of HDF5 counts the user's block at the start of the file
        corner, offset, size, _ = places[0]
        if size > file_size:
            raise ValueError(f'its part at {corner} is of {size:,} bytes, more than the file has')
        with open(dataset.file.filename, 'rb') as file:
            file.seek(offset)
            if file.read(size) != dataset.id.read_direct_chunk(corner)[1]:
                base = dataset.file.userblock_size
                places = [[corner, offset + base, size, mask] for corner, offset, size, mask in places]
    return places


# ---- from what the child said to numbers

class Numbers:
    """The numbers of a described data set. What is in one piece is mapped; of chunks rows() reads what is asked for."""

    def __init__(self, path, described):
        self._path, self._name = path, described['name']
        self.shape, self.dtype = tuple(described['shape']), np.dtype(described['dtype'])
        self.chunks, self._filters = described.get('chunks'), described.get('filters')
        self._offset, self._numbers = described.get('offset'), described.get('numbers')
        self._places = {tuple(corner): place for corner, *place in described.get('places', ())}

    def whole(self):
        """All of it, an array or a mapped one."""
        if self.chunks:
            return self.rows(0, self.shape[0])
        if self._offset is None:
            return np.array(self._numbers, self.dtype).reshape(self.shape)
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        return np.memmap(self._path, self.dtype, 'r', self._offset, self.shape)

    def rows(self, start, stop):
        """Rows of what is in chunks, all axes but the first whole: a new array.

        Raises ValueError, IndexError, zlib.error or OSError where a chunk is missing or damaged.
        """
        stop, (height, *others) = min(stop, self.shape[0]), self.chunks
        corners = itertools.product(range(start // height * height, stop, height),
                                    *(range(0, n, step) for n, step in zip(self.shape[1:], others, strict=True)))
        out = None
        with open(self._path, 'rb') as file:
            for corner in corners:
                chunk = self._chunk(file, corner)
                if out is None:    # only now: a file without chunks takes no memory
                    out = np.empty((stop - start, *self.shape[1:]), self.dtype)
                skipped = max(0, start - corner[0])
                target = out[(slice(corner[0] + skipped - start, corner[0] + height - start),
                              *(slice(begin, begin + step) for begin, step in zip(corner[1:], others, strict=True)))]
                target[...] = chunk[skipped:][tuple(slice(n) for n in target.shape)]
        return np.empty((0, *self.shape[1:]), self.dtype) if out is None else out

    def _chunk(self, file, corner):
        """The chunk that begins at this corner."""
        if corner not in self._places:
            raise ValueError(f'{self._name}: its part at {corner} is missing')
        (offset, stored, left_out), size = self._places[corner], math.prod(self.chunks) * self.dtype.itemsize
        if stored > size + size // 8 + 4096 or size > max(ALWAYS, MAX_RATIO * stored):
            raise ValueError(f'{self._name}: its part at {corner} is of {stored:,} bytes, which cannot be {size:,}')
        file.seek(offset)
        data = file.read(stored)
        for i, code in reversed(list(enumerate(self._filters))):
            if left_out >> i & 1:
                continue
            if code == GZIP:
                data = zlib.decompressobj().decompress(data, size + 1)
            elif code == LZF:
                data = _unpacked_lzf(data, size)
            elif code == FLETCHER32:
                data = data[:-4]
            elif len(data) == size:
                data = np.frombuffer(data, np.uint8).reshape(self.dtype.itemsize, -1).T.tobytes()
        if len(data) != size:
            raise ValueError(f'{self._name}: its part at {corner} is of {len(data):,} bytes, expected {size:,}')
        return np.frombuffer(data, self.dtype).reshape(self.chunks)


def _unpacked_lzf(data, size):
    """What h5py's compression='lzf' packed, bytes; a little more than size at most.

    A byte below 32 is followed by so many bytes and one as they are. Of any other one the upper three bits, and a byte
    more where all are set, are a length less 2, the lower five and the next byte how far back, less 1, a repeat begins.
    """
    out, place = bytearray(), 0
    while place < len(data) and len(out) <= size:
        control, place = data[place], place + 1
        if control < 32:
            out += data[place:place + control + 1]
            place += control + 1
            continue
        length = (control >> 5) + 2
        if length == 9:
            length, place = length + data[place], place + 1
        start, place = len(out) - ((control & 31) << 8) - data[place] - 1, place + 1
        if start < 0:
            raise ValueError('it repeats what is before its start')
        repeated = out[start:start + length]
        out += (repeated * (length // len(repeated) + 1))[:length]    # may go on into what it writes
    return bytes(out)

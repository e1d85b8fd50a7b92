"""HDF5 files of unknown origin: a child process describes the datasets, and their values are read here.

A damaged file can make the HDF5 library crash, loop forever or write out of bounds. So only a child process opens the
file with the library and reports where the data is; the values are then read and decompressed without the library, once
these positions have been checked against the file's size. Knows nothing of what the values mean.
"""

import itertools
import json
import math
import os
import re
import signal
import sys
import warnings
import zlib
from contextlib import contextmanager
from shlex import quote

import h5py
import numpy as np

from imagernn.errors import InputError, NotChecked, from_system, unreadable

MAX_RATIO = 100              # a compressed dataset may decompress to this many times its size in the file,
ALWAYS_ALLOWED = 16 << 20    # or to this many bytes, whichever is more
MAX_ATTRIBUTE = 4096         # bytes
SIGNATURE = b'\x89HDF\r\n\x1a\n'
GZIP = h5py.h5z.FILTER_DEFLATE
SHUFFLE = h5py.h5z.FILTER_SHUFFLE
LZF = h5py.h5z.FILTER_LZF
FLETCHER32 = h5py.h5z.FILTER_FLETCHER32    # appends a checksum of four bytes to the data
# limits of a child process
MAX_SECONDS = 4              # of processor time
MAX_WAIT = 60                # seconds that may pass
MAX_MEMORY = 1 << 29         # bytes beyond what this process uses already
# why a child gives no answer, although that says nothing about the file, and what to do
LARGER = 'copy it again or, if it has millions of small chunks, store it in larger ones'
TOO_LARGE = f'to describe it takes the HDF5 library more than {MAX_MEMORY >> 20} MB of memory', LARGER
NO_MEMORY = ('there is not enough memory to read it', 'close other programs, or raise the limit on memory (ulimit -v, '
                                                       'ulimit -d)')
ENDINGS = {    # by the signal that ends it
    'SIGPROF': (f'the HDF5 library does not finish reading it in {MAX_SECONDS} s of processor time', LARGER),
    'SIGALRM': (f'it could not be read in {MAX_WAIT} s', 'see whether its disk or network is slow, and try again'),
    'SIGXCPU': ('the limit on processor time ended the process that reads it', 'raise that limit (ulimit -t)'),
    'SIGKILL': ('the process that reads it was killed, as happens when memory runs out', 'close other programs, and '
                                                                                          'try again'),
}
CRASHES = ('SIGSEGV', 'SIGBUS', 'SIGABRT', 'SIGFPE', 'SIGILL')


def looks_like_hdf5(path):
    """Whether a file begins as HDF5 does, possibly after a user block."""
    with open(path, 'rb') as file:
        size = file.seek(0, os.SEEK_END)
        place = 0
        while place < size:
            file.seek(place)
            if file.read(8) == SIGNATURE:
                return True
            place = 2 * place or 512
    return False


# ---- in a child process

def in_child(function):
    """Call function() in a child process and return what it returns: JSON values, tuples as lists.

    Raises InputError if function() does; an OSError, often NotChecked, if a limit, the system or the end of the child
    is the reason that there is no answer, which says nothing about the file; and ValueError for any other exception and
    for a crash. The child is forked on Linux; on other systems function() runs in this process.
    Other threads may be running: Python, h5py and the C library reset their locks in the child, and a child that hangs
    nevertheless is ended by its time limit.
    """
    if sys.platform != 'linux':
        return json.loads(json.dumps(function()))
    memory, limited = _memory_limits()
    reading, writing = os.pipe()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', DeprecationWarning)    # Python 3.12 and later warn of other threads
            child = os.fork()
    except OSError as error:
        os.close(reading)
        os.close(writing)
        raise NotChecked(f'no process can be started to read it: {error.strerror}',
                         'close other programs, or raise the limit on processes (ulimit -u)') from error
    if child == 0:
        _run_limited(function, writing, memory)
    os.close(writing)
    with open(reading, 'rb') as pipe:
        answer = pipe.read()
    try:
        _, status = os.waitpid(child, 0)
    except ChildProcessError:    # where SIGCHLD is ignored, the system does not keep it
        status = 0
    return _value(answer, status, limited)


def _value(answer, status, limited):
    """What function() returned, from the answer of a child and its exit status; raises as in_child does.

    limited: whether the user's limits leave it less memory than it is meant to have.
    """
    ending = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else ''
    if ending in ENDINGS:
        raise NotChecked(*ENDINGS[ending])
    if limited and ending in CRASHES:    # the library does not notice each time that memory is refused
        raise NotChecked(*NO_MEMORY)
    if ending in CRASHES:
        raise ValueError(f'it makes the HDF5 library crash ({ending})')
    if ending:
        raise NotChecked(f'the process that reads it was ended by {ending}', 'try again')
    try:
        kind, value = json.loads(answer)
    except ValueError:
        raise NotChecked('the process that reads it ended without an answer', 'try again') from None
    if kind == MemoryError.__name__:
        raise NotChecked(*(NO_MEMORY if limited else TOO_LARGE))
    if kind == OSError.__name__:
        raise OSError(value, os.strerror(value))
    if kind:
        raise (InputError if kind == InputError.__name__ else ValueError)(value)
    return value


def _memory_limits():
    """What setrlimit is to limit the address space of a child to, and whether the user's own limits leave it less.

    They are respected: where they are lower, the child has what they allow.
    """
    import resource  # absent on Windows
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limited = resource.getrlimit(resource.RLIMIT_DATA)[0] != resource.RLIM_INFINITY
    try:
        with open('/proc/self/statm', encoding='ascii') as file:
            wanted = int(file.read().split()[0]) * resource.getpagesize() + MAX_MEMORY
    except OSError:    # there is no /proc
        return (soft, hard), True
    if soft != resource.RLIM_INFINITY and soft < wanted:
        return (soft, hard), True
    return (wanted, hard), limited


def _run_limited(function, pipe, memory):
    """Write the result of function() to the pipe, within the limits above, and end the process."""
    import resource
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if callable(signal.getsignal(number)):    # a handler of the parent, which would not end the child
                signal.signal(number, signal.SIG_DFL)
        for timer, number, limit in ((signal.ITIMER_PROF, signal.SIGPROF, MAX_SECONDS),
                                     (signal.ITIMER_REAL, signal.SIGALRM, MAX_WAIT)):
            signal.signal(number, signal.SIG_DFL)
            signal.setitimer(timer, limit)
        resource.setrlimit(resource.RLIMIT_AS, memory)
        try:
            answer = json.dumps(['', function()])
        except Exception as error:
            answer = json.dumps(_described(error))
        with open(pipe, 'w', encoding='ascii') as file:
            file.write(answer)
    finally:
        os._exit(0)


def _described(error):
    """An exception in a child as its kind and a text, or for OSError its errno. See _value."""
    text = (str(error) or type(error).__name__)[:10_000]
    if isinstance(error, InputError):
        return [InputError.__name__, text]
    if isinstance(error, MemoryError) or re.search('allocat|memory', text):    # as the library calls it
        return [MemoryError.__name__, text]
    if from_system(error):
        return [OSError.__name__, error.errno]
    return [ValueError.__name__, text]


@contextmanager
def opened(path):
    """The HDF5 file at path, open for reading: to be used in a child process.

    It is not locked, because some file systems have no locks, and a program that only has the file open would lock this
    one out. Raises InputError if the system, or a program that is writing the file, is the reason that it cannot be
    read; or as h5py does.
    """
    try:
        with h5py.File(path, 'r', locking=False) as file:
            yield file
    except Exception as error:
        if being_written(path):
            raise written_elsewhere(path) from error
        if 'already open for write' in str(error):    # a mark in the file, which is there until it is closed
            raise InputError(f'{path}: was not closed by the program that wrote it; write it again or, if you know '
                             f'that it is complete, run: h5clear -s {quote(str(path))}') from error
        number = re.search(r'errno = (\d+)', str(error))    # of a read inside the library
        system = OSError(int(number[1]), os.strerror(int(number[1]))) if number else error
        if from_system(system):
            raise unreadable(path, system) from error
        raise


def being_written(path):
    """Whether a program has locked a file for writing, as HDF5 does."""
    try:
        import fcntl  # absent on Windows
        with open(path, 'rb') as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):
        pass
    return False


def written_elsewhere(path):
    """An InputError for a file that cannot be read because a program is writing it."""
    return InputError(f'{path}: is open for writing elsewhere; close it there, or wait until the program that writes '
                      'it has ended')


def member(group, name):
    """The member of a group with this name, or None. Raises ValueError if it is a soft or external link."""
    if name not in group:
        return None
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"'{name}' is a link to another location or file; links are not followed")
    return group[name]


def small_attribute(item, name):
    """A scalar attribute of at most MAX_ATTRIBUTE bytes, a number or text; None if there is no such attribute."""
    if name not in item.attrs:
        return None
    attribute = item.attrs.get_id(name)
    if attribute.shape != () or attribute.get_storage_size() > MAX_ATTRIBUTE:
        return None
    return item.attrs[name]


def describe(dataset):
    """Where in the file the values of a dataset are -> a dict for Numbers.

    Raises ValueError unless the dataset holds real numbers that are all in this file: contiguous or chunked,
    uncompressed or compressed with gzip or LZF and shuffle, by a factor of at most MAX_RATIO.
    """
    name = ascii(dataset.name)[1:-1][:60]
    file_size = os.path.getsize(dataset.file.filename)
    creation = dataset.id.get_create_plist()
    layout = creation.get_layout()
    stored = dataset.id.get_storage_size()
    if creation.get_external_count() or layout not in (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED):
        raise ValueError(f'{name} is stored in other files, which are not opened')
    if dataset.dtype.kind not in 'iuf' or dataset.id.get_type() != h5py.h5t.py_create(dataset.dtype):
        raise ValueError(f'{name} has an unsupported data type; expected integers or floating-point numbers')
    claimed = math.prod(dataset.shape) * dataset.dtype.itemsize
    found = {'name': name, 'shape': dataset.shape, 'dtype': dataset.dtype.str}
    if layout != h5py.h5d.CHUNKED:
        offset = dataset.id.get_offset()
        if claimed != stored or (offset or 0) + claimed > file_size:
            raise ValueError(f'{name} claims {claimed:,} bytes, which the file, of {file_size:,}, does not hold')
        # a dataset without an offset is stored in its header, which is small
        return found | ({'numbers': dataset[()].tolist()} if offset is None else {'offset': offset})
    filters = [creation.get_filter(i)[0] for i in range(creation.get_nfilters())]
    if unsupported := [code for code in filters if code not in (GZIP, SHUFFLE, LZF, FLETCHER32)]:
        raise ValueError(f'{name} is compressed with HDF5 filter {unsupported[0]}, which is not supported; '
                         'store it uncompressed or with gzip')
    if stored > file_size or claimed > max(ALWAYS_ALLOWED, MAX_RATIO * stored):
        raise ValueError(f'{name} claims {claimed:,} bytes from {stored:,} compressed ones in a file of '
                         f'{file_size:,}; expected at most {MAX_RATIO} times as many')
    return found | {'chunks': dataset.chunks, 'filters': filters, 'places': _places(dataset, file_size)}


def _places(dataset, file_size):
    """[corner, byte offset, size in bytes, mask of skipped filters] of each chunk."""
    places = []
    dataset.id.chunk_iter(lambda chunk: places.append(
        [chunk.chunk_offset, chunk.byte_offset, chunk.size, chunk.filter_mask]))
    if places:    # whether offsets include the user block depends on the version of HDF5: compare the first chunk
        corner, offset, size, _ = places[0]
        if size > file_size:
            raise ValueError(f'its chunk at {corner} claims {size:,} bytes, more than the file has')
        with open(dataset.file.filename, 'rb') as file:
            file.seek(offset)
            if file.read(size) != dataset.id.read_direct_chunk(corner)[1]:
                base = dataset.file.userblock_size
                places = [[corner, offset + base, size, mask] for corner, offset, size, mask in places]
    return places


# ---- from a description to values

class Numbers:
    """The values of a dataset that describe() has described: memory-mapped if contiguous, read by rows() if chunked.

    shape, dtype: of the dataset. chunks: the shape of a chunk, or None if the dataset is contiguous. on_disk: whether
    it is contiguous and can be indexed by row numbers without a memory map.
    """

    def __init__(self, path, described):
        self._path = path
        self._name = described['name']
        self.shape = tuple(described['shape'])
        self.dtype = np.dtype(described['dtype'])
        self.chunks = described.get('chunks')
        self._filters = described.get('filters')
        self._offset = described.get('offset')
        self._numbers = described.get('numbers')
        self.on_disk = self._offset is not None and 0 not in self.shape
        self._places = {tuple(corner): place for corner, *place in described.get('places', ())}

    def whole(self):
        """The whole dataset, as an array or a memory map. Raises as rows() does if it is chunked."""
        if self.chunks:
            return self.rows(0, self.shape[0])
        if self._offset is None:
            return np.array(self._numbers, self.dtype).reshape(self.shape)
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        return np.memmap(self._path, self.dtype, 'r', self._offset, self.shape)

    def __getitem__(self, ids):
        """The rows with these numbers (n,) of a contiguous dataset, read from the file -> a new array (n, …).

        Unlike pages of a memory map, what was read before does not count as memory of this process. Raises OSError,
        or ValueError if the file has been truncated.
        """
        out = np.empty((len(ids), *self.shape[1:]), self.dtype)
        with open(self._path, 'rb', buffering=0) as file:
            for row, number in zip(out, ids.tolist(), strict=True):
                file.seek(self._offset + number * row.nbytes)
                if file.readinto(row) != row.nbytes:
                    raise ValueError(f'{self._name}: row {number} is missing')
        return out

    def rows(self, start, stop):
        """Rows start to stop of a chunked dataset -> a new array, (stop - start, *shape[1:]).

        Raises ValueError, IndexError, zlib.error or OSError if a chunk is missing or damaged.
        """
        stop, (height, *others) = min(stop, self.shape[0]), self.chunks
        corners = itertools.product(range(start // height * height, stop, height),
                                    *(range(0, n, step) for n, step in zip(self.shape[1:], others, strict=True)))
        out = None
        with open(self._path, 'rb') as file:
            for corner in corners:
                chunk = self._chunk(file, corner)
                if out is None:    # allocated only now, so that a file without chunks takes no memory
                    out = np.empty((stop - start, *self.shape[1:]), self.dtype)
                skipped = max(0, start - corner[0])
                target = out[(slice(corner[0] + skipped - start, corner[0] + height - start),
                              *(slice(begin, begin + step) for begin, step in zip(corner[1:], others, strict=True)))]
                target[...] = chunk[skipped:][tuple(slice(n) for n in target.shape)]
        return np.empty((0, *self.shape[1:]), self.dtype) if out is None else out

    def _chunk(self, file, corner):
        """The chunk that begins at this corner, decompressed -> an array of shape self.chunks."""
        if corner not in self._places:
            raise ValueError(f'{self._name}: the chunk at {corner} is missing')
        offset, stored, skipped = self._places[corner]
        size = math.prod(self.chunks) * self.dtype.itemsize
        if stored > size + size // 8 + 4096 or size > max(ALWAYS_ALLOWED, MAX_RATIO * stored):
            raise ValueError(f'{self._name}: the chunk at {corner} has {stored:,} bytes in the file, which cannot '
                             f'decompress to {size:,}')
        file.seek(offset)
        data = file.read(stored)
        for i, code in reversed(list(enumerate(self._filters))):
            if skipped >> i & 1:
                continue
            if code == GZIP:
                data = zlib.decompressobj().decompress(data, size + 1)
            elif code == LZF:
                data = _decompressed_lzf(data, size)
            elif code == FLETCHER32:
                data = data[:-4]
            elif len(data) == size:    # SHUFFLE
                data = np.frombuffer(data, np.uint8).reshape(self.dtype.itemsize, -1).T.tobytes()
        if len(data) != size:
            raise ValueError(f'{self._name}: the chunk at {corner} has {len(data):,} bytes, expected {size:,}')
        return np.frombuffer(data, self.dtype).reshape(self.chunks)


def _decompressed_lzf(data, size):
    """Decompress what h5py wrote with compression='lzf' -> bytes, stopping soon after size is exceeded.

    A control byte below 32 is followed by that many literal bytes and one more. Any other control byte repeats earlier
    output. Its upper three bits are the length of the repeat minus 2; if all three are set, another byte is added to
    the length. Its lower five bits and one more byte are how far back the repeat begins, minus 1.
    """
    out = bytearray()
    place = 0
    while place < len(data) and len(out) <= size:
        control = data[place]
        place += 1
        if control < 32:
            out += data[place:place + control + 1]
            place += control + 1
            continue
        length = (control >> 5) + 2
        if length == 9:
            length += data[place]
            place += 1
        start = len(out) - ((control & 31) << 8) - data[place] - 1
        place += 1
        if start < 0:
            raise ValueError('its LZF data repeats bytes from before its start')
        repeated = out[start:start + length]
        out += (repeated * (length // len(repeated) + 1))[:length]    # a repeat may extend into its own output
    return bytes(out)

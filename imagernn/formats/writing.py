"""Writing files so that a reader sees the old one or the new one, never a part; and whose they are.

Knows nothing of what is in them.
"""

import datetime
import errno
import os
import re
import secrets
import shutil
import socket
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

from imagernn.errors import InputError

try:
    import fcntl
except ImportError:    # Windows
    fcntl = None

NAME_BYTES = 255    # what file systems allow


@contextmanager
def replacing(path):
    """Gives a binary file to write; once it is written in full, on the disk, it takes path's place.

    Makes missing folders. If anything fails, path stays as it was and, unless the process is killed, nothing is left
    beside it; what the operating system refuses becomes an InputError that names path. A link is followed; a device,
    such as /dev/null, is written.
    """
    try:
        target = Path(os.path.realpath(path))
        if target.exists() and not target.is_file():
            with target.open('wb') as file:
                yield file
            return
        _make_folder(target.parent)
        temporary = _temporary(target)
        try:
            with open(temporary, 'xb') as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            with suppress(OSError):    # a new target, or a file system without modes
                shutil.copymode(target, temporary)
            os.replace(temporary, target)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(target.parent)
    except OSError as error:
        raise InputError(f'{path}: cannot be written ({error.strerror or error}); '
                         'make room, make the folder writable, or name another place') from error


def require_writable(path):
    """InputError, before hours of work and not after, unless such a file can be written. Makes its folder."""
    try:
        target = Path(os.path.realpath(path))
        if target.is_dir():
            raise InputError(f'{path}: is a folder; name a file')
        if not target.exists() or target.is_file():
            _make_folder(target.parent)
            temporary = _temporary(target)
            temporary.touch(exist_ok=False)
            temporary.unlink()
    except OSError as error:
        raise InputError(f'{path}: cannot be written ({error.strerror or error}); '
                         'make the folder writable, or name another place') from error


def _temporary(target):
    """A new name beside target, which tells remove_leftovers whose it is wherever there is room for that."""
    name = f'.{target.name}.{secrets.token_hex(4)}.tmp'
    return target.with_name(name if len(os.fsencode(name)) <= NAME_BYTES else f'.{secrets.token_hex(8)}.tmp')


def _make_folder(folder):
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        _sync_folder(path.parent)


def _sync_folder(folder):
    """A new name outlives a power cut only when its folder, too, is on the disk. A system that cannot is let be."""
    if os.name == 'nt':
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:    # a folder that may be written, but not read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def remove_leftovers(folder, pattern):
    """Remove the temporary files that writers of the files whose names match pattern left when they were killed.

    For one who knows that no such writer is alive: see claimed.
    """
    with suppress(OSError):
        for path in Path(folder).iterdir():
            found = re.fullmatch(r'\.(.+)\.[0-9a-f]{8}\.tmp', path.name, re.DOTALL)
            if found and re.fullmatch(pattern, found[1]):
                path.unlink(missing_ok=True)


@contextmanager
def claimed(path, way_out):
    """For the time of the with-block path, be it a file or the beginning of files' names, is this process's alone.

    InputError, ending with way_out, where a process that is alive has it. The claim is a lock on the file .<name>.lock,
    which the operating system lets go of when its process ends, however it ends. Where the file system keeps no locks,
    nobody is kept out, and that is said.
    """
    lock = path.with_name(f'.{path.name}.lock')
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = _locked(lock)
    except BlockingIOError:
        with suppress(OSError):
            way_out = f'{lock.read_text(encoding="utf-8", errors="replace")[:200].strip()}; {way_out}'
        raise InputError(f'{path}: belongs to a run that is alive, {way_out}') from None
    except OSError as error:
        raise InputError(f'{lock}: cannot be written ({error.strerror or error}); '
                         'make the folder writable, or name another place') from error
    try:
        yield
    finally:
        with suppress(OSError):
            lock.unlink()    # while it is still locked: see _locked
        with suppress(OSError):
            file.close()


def _locked(path):
    """The file at path, locked, open; BlockingIOError if another process has locked it."""
    while True:
        file = path.open('a+', encoding='utf-8', errors='backslashreplace')
        try:
            if fcntl is None:
                raise OSError(errno.ENOTSUP, 'locks are not known here')
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise
        except OSError as error:
            print(f'note: {path.parent} keeps no locks ({error.strerror}): see to it yourself that no other run at the '
                  'same time has the same names', file=sys.stderr)
            return file
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        file.close()    # its owner removed it in the meantime
    with suppress(OSError):    # a full disk: only the message that names the owner is poorer
        file.truncate(0)
        file.write(f'process {os.getpid()} on {socket.gethostname()}, '
                   f'since {datetime.datetime.now().isoformat(" ", "seconds")}\n')
        file.flush()
    return file


def write_text(path, text):
    """Write text as UTF-8, half a surrogate pair as its escape; see replacing."""
    with replacing(path) as file:
        file.write(text.encode('utf-8', 'backslashreplace'))




def refuse_to_replace(inputs, outputs):
    """InputError when a result would take the place of a file that is read."""
    read = {os.path.realpath(path) for path in inputs}
    if lost := [path for path in outputs if os.path.realpath(path) in read]:
        raise InputError(f'{lost[0]}: is read here, and would be replaced by a result; name another file')

"""Writing files so that a reader sees the old file or the new one, never a part of it; and claiming names for a run.

Knows temporary names, syncing to disk and locks. Knows nothing of what is in the files.
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

from imagernn.errors import InputError, unwritable, web_address

try:
    import fcntl
except ImportError:    # Windows
    fcntl = None

NAME_BYTES = 255    # the longest file name that common file systems allow


@contextmanager
def replacing(path, follow_links=True):
    """Yield a binary file to write; once it is complete and synced to disk, it replaces the file at path.

    Creates missing folders. If anything fails, the file at path is unchanged and no temporary file remains, unless the
    process is killed. Follows links, or else replaces a link at path; writes directly to a device such as /dev/null.
    Raises InputError that names path in place of any OSError.
    """
    _require_name(path)
    try:
        target = Path(os.path.realpath(path)) if follow_links else Path(path)
        if target.exists() and not target.is_file() and not target.is_symlink():
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
        raise unwritable(path, error) from error


def require_writable(path):
    """Raise InputError if path cannot be written: before hours of work, not after. Creates its folder."""
    _require_name(path)
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
        raise unwritable(path, error) from error


def require_folder(path):
    """Create the folder at path and its missing parents. Raises InputError if no file can be written there."""
    _require_name(path)
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        temporary = _temporary(Path(path, 'file'))
        temporary.touch(exist_ok=False)
        temporary.unlink()
    except OSError as error:
        raise unwritable(path, error) from None


def _require_name(path):
    """Raise InputError if path is empty or a web address: it would be the current folder, or a new one called https:"""
    if not str(path):
        raise InputError('the name of the file to write is empty; name a file')
    if address := web_address(path):
        raise InputError(f'{address}: is a web address, where nothing can be written; name a file')


def _temporary(target):
    """A new name beside target. It contains target's name, for remove_leftovers, unless that would be too long."""
    name = f'.{target.name}.{secrets.token_hex(4)}.tmp'
    return target.with_name(name if len(os.fsencode(name)) <= NAME_BYTES else f'.{secrets.token_hex(8)}.tmp')


def _make_folder(folder):
    """Create a folder and its missing parents, all synced to disk."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        _sync_folder(path.parent)


def _sync_folder(folder):
    """Sync a folder to disk: otherwise a power failure may lose a new name in it. Does nothing where unsupported."""
    if os.name == 'nt':
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:    # the folder is writable but not readable
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def remove_leftovers(folder, pattern):
    """Remove the temporary files that killed processes left while writing files whose names match pattern.

    The caller must know that no process is writing such a file: see claimed.
    """
    with suppress(OSError):
        for path in Path(folder).iterdir():
            found = re.fullmatch(r'\.(.+)\.[0-9a-f]{8}\.tmp', path.name, re.DOTALL)
            if found and re.fullmatch(pattern, found[1]):
                path.unlink(missing_ok=True)


@contextmanager
def claimed(path, advice):
    """Reserve path, a file or the common beginning of several file names, for this process during the with-block.

    Raises InputError, ending with this advice, if a running process has reserved it. The claim is a lock on the
    file .<name>.lock, which the operating system releases when its process ends, however it ends. On a file system
    without locks nothing is reserved, and a note on stderr reports that.
    """
    lock = path.with_name(f'.{path.name}.lock')
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = _locked(lock)
    except BlockingIOError:
        owner = ''
        with suppress(OSError):
            owner = f' ({lock.read_text(encoding="utf-8", errors="replace")[:200].strip()})'
        raise InputError(f'{path}: is in use by a run that is alive{owner}; {advice}') from None
    except OSError as error:
        raise unwritable(lock, error) from error
    try:
        yield
    finally:
        with suppress(OSError):
            lock.unlink()    # while it is still locked: see _locked
        with suppress(OSError):
            file.close()


def _locked(path):
    """Open and lock the file at path. Raises BlockingIOError if another process has locked it."""
    while True:
        file = path.open('a+', encoding='utf-8', errors='backslashreplace')
        try:
            if fcntl is None:
                raise OSError(errno.ENOTSUP, 'this system has no file locks')
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise
        except OSError as error:
            print(f'note: files in {path.parent} cannot be locked ({error.strerror}); make sure yourself that no other '
                  'run uses the same names at the same time', file=sys.stderr)
            return file
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        file.close()    # its owner removed the file before it was locked here: try again with a new one
    with suppress(OSError):    # on a full disk, only the message that names the owner is missing
        file.truncate(0)
        file.write(f'process {os.getpid()} on {socket.gethostname()}, '
                   f'since {datetime.datetime.now().isoformat(" ", "seconds")}\n')
        file.flush()
    return file


def write_text(path, text):
    """Write text as UTF-8, lone surrogates as escapes; see replacing."""
    with replacing(path) as file:
        file.write(text.encode('utf-8', 'backslashreplace'))


def refuse_to_replace(inputs, outputs):
    """Raise InputError if writing one of outputs would overwrite one of inputs."""
    read = {os.path.realpath(path) for path in inputs}
    if lost := [path for path in outputs if os.path.realpath(path) in read]:
        raise InputError(f'{lost[0]}: is an input file, and the output would overwrite it; name another output file')

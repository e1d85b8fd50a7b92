"""Writing files so that a reader sees the old one or the new one, never a part. Knows nothing of what is in them."""

import json
import math
import os
import secrets
import shutil
from contextlib import contextmanager
from pathlib import Path

from imagernn.errors import InputError


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
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(target)
        try:
            with temporary.open('xb') as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                shutil.copymode(target, temporary)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
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
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = _temporary(target)
            temporary.touch(exist_ok=False)
            temporary.unlink()
    except OSError as error:
        raise InputError(f'{path}: cannot be written ({error.strerror or error}); '
                         'make the folder writable, or name another place') from error


def _temporary(target):
    return target.with_name(f'.{secrets.token_hex(8)}.tmp')


def write_text(path, text):
    """Write text as UTF-8, half a surrogate pair as its escape; see replacing."""
    with replacing(path) as file:
        file.write(text.encode('utf-8', 'backslashreplace'))


def write_json(path, value):
    """Write value as JSON that any reader takes: a number that is not finite becomes null. See replacing."""
    write_text(path, json.dumps(_finite(value), ensure_ascii=False, allow_nan=False))


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

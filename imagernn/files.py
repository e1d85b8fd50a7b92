"""Writing files so that a reader sees the old one or the new one, never a part. Knows nothing of what is in them."""

import json
import os
import secrets
from contextlib import contextmanager
from pathlib import Path

from imagernn.errors import InputError


@contextmanager
def replacing(path):
    """Gives a binary file to write; once it is written in full, on the disk, it takes path's place.

    Makes missing folders. If anything fails, path stays as it was and nothing is left beside it; what the operating
    system refuses becomes an InputError that names path.
    """
    path = Path(path)
    temporary = path.parent / f'.{path.name[:64]}-{secrets.token_hex(8)}.tmp'
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open('xb') as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f'{path}: cannot be written ({error.strerror or error}); '
                         'make room, make the folder writable, or name another place') from error


def write_text(path, text):
    """Write text as UTF-8; see replacing."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path, value):
    """Write value as JSON; see replacing."""
    write_text(path, json.dumps(value, ensure_ascii=False))

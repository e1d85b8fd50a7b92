"""Writing files so that a reader never sees half of one. Knows nothing of what is in them."""

import json
import os
import tempfile
from pathlib import Path

from imagernn.errors import InputError


def write_text(path, text):
    """Write text (UTF-8) to a temporary name beside path, then rename. InputError names the file if it cannot."""
    path, temporary = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile('w', encoding='utf-8', dir=path.parent, prefix=f'.{path.name}.',
                                         delete=False) as file:
            temporary = file.name
            file.write(text)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f'{path}: cannot be written ({error.strerror}); free some space, mend its permissions, '
                         'or name another place') from None
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)


def write_json(path, value):
    """Write value as JSON; see write_text."""
    write_text(path, json.dumps(value, ensure_ascii=False))


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask

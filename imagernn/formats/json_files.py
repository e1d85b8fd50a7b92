"""JSON files: read without trust, written completely or not at all.

Knows that the top level of every file read here is an object; knows nothing of what is in it.
"""

import json
import math

from imagernn.errors import InputError, unreadable
from imagernn.formats.writing import write_text

PACKED = (b'\x1f\x8b', b'PK\x03\x04', b'BZh', b'\xfd7zXZ', b'7z\xbc\xaf')    # gzip, zip, bzip2, xz, 7z

def write_json(path, value):
    """Write value as standard JSON, with null for numbers that are not finite. See replacing for what may be raised."""
    write_text(path, json.dumps(_finite(value), ensure_ascii=False, allow_nan=False))


def _finite(value):
    """A copy of a JSON value with None in place of inf and nan."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def load_json(path):
    """The dict in a UTF-8 JSON file. Raises InputError that names the place where the file is damaged."""
    return parsed(path, contents_of(path))


def contents_of(path):
    """The bytes of a file. Raises InputError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None


def parsed(path, contents):
    """The dict in the bytes of a UTF-8 JSON file; path is for messages. Raises InputError as load_json does."""
    try:
        data = json.loads(contents.decode('utf-8-sig'))
    except UnicodeDecodeError as error:
        if contents.startswith(PACKED):
            raise InputError(f'{path}: is compressed. Unpack it, and name the file that was inside.') from None
        raise InputError(f'{path}: is not UTF-8 at byte {error.start} ({error.reason}). Save it as UTF-8.') from None
    except json.JSONDecodeError as error:
        raise InputError(f'{path}: is not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}. '
                         'Correct that place, or create the file again.') from None
    except (ValueError, RecursionError) as error:      # for example 5,000 digits, or brackets nested 10,000 deep
        raise InputError(f'{path}: cannot be read as JSON ({error}). Create the file again.') from None
    if not isinstance(data, dict):
        raise InputError(f'{path}: the top level is {json_type(data)}; expected an object, {{...}}.')
    return data


def json_type(value):
    """The JSON type of a parsed value, with its article, for a message."""
    return {dict: 'an object', list: 'a list', str: 'a string', bool: 'a boolean', int: 'a number', float: 'a number',
            type(None): 'null'}[type(value)]

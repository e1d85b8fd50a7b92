"""JSON files: read without trust, written whole or not at all."""

import json
import math

from imagernn.errors import InputError
from imagernn.formats.writing import write_text


def write_json(path, value):
    """Write value as JSON that any reader takes: a number that is not finite becomes null. See replacing."""
    write_text(path, json.dumps(_finite(value), ensure_ascii=False, allow_nan=False))


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value




def load_json(path):
    """The dict in a JSON file of encoding UTF-8. Raises InputError with the place where it is damaged."""
    return parsed(path, contents_of(path))


def contents_of(path):
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f'{path}: cannot be read ({error.strerror}). Check its name and permissions.') from None


def parsed(path, contents):
    try:
        data = json.loads(contents.decode('utf-8-sig'))
    except UnicodeDecodeError as error:
        raise InputError(f'{path}: not UTF-8 at byte {error.start} ({error.reason}). '
                         'Save it again with encoding UTF-8.') from None
    except json.JSONDecodeError as error:
        raise InputError(f'{path}: not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}. '
                         'Mend that place, or make the file again.') from None
    except (ValueError, RecursionError) as error:      # a number of 5,000 digits, brackets 10,000 deep
        raise InputError(f'{path}: cannot be read as JSON ({error}). Make the file again.') from None
    if not isinstance(data, dict):
        raise InputError(f'{path}: the top level is {json_type(data)}; expected an object, {{...}}.')
    return data


def json_type(value):
    return {dict: 'an object', list: 'a list', str: 'a string', bool: 'a boolean', int: 'a number', float: 'a number',
            type(None): 'null'}[type(value)]

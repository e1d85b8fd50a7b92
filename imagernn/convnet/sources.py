"""Which pictures are to be extracted: a folder, a tasks.txt or a dataset.json."""

import sys
from pathlib import Path
from typing import NamedTuple

# isort: split
from imagernn.corpus.features import READERS
from imagernn.errors import InputError
from imagernn.formats.json_files import load_json
from imagernn.formats.pictures import SUFFIXES

NAMES_SHOWN = 10


# ---- which pictures -------------------------------------------------------------------------------------------------

class Source(NamedTuple):
    """The pictures of a feature file, one for each row. A row without a picture has the name ''."""

    folder: Path    # where the features belong
    names: list     # as the source gives them
    paths: list     # of files


def read_source(source):
    """A folder, a tasks.txt or a dataset.json -> Source. InputError where it is none, or names no picture."""
    source = Path(source)
    if source.is_dir():
        paths = pictures_in(source)
        if not paths:
            lists = [source / name for name in ('dataset.json', 'tasks.txt') if (source / name).is_file()]
            way_out = f'did you mean {lists[0]}?' if lists else f'names of pictures end in {", ".join(SUFFIXES)}'
            raise InputError(f'{source}: holds no pictures; {way_out}')
        return Source(source, [path.name for path in paths], paths)
    if source.suffix.lower() in SUFFIXES:
        raise InputError(f'{source}: is a picture; give the folder it is in, or a tasks.txt that lists it')
    if source.suffix.lower() == '.json':
        return _read_dataset(source)
    names = read_tasks(source)
    return Source(source.parent, names, [source.parent / name for name in names])


def pictures_in(folder):
    """The paths of a folder's pictures in the order of their names; what else lies there is named on stderr."""
    entries = [path for path in sorted(folder.iterdir()) if not path.name.startswith('.')]
    pictures = [path for path in entries if path.suffix.lower() in SUFFIXES and not path.is_dir()]
    known = {*pictures, *(path for path in entries if path.suffix.lower() in READERS)}    # those are our own
    if others := [path.name for path in entries if path not in known]:
        print(f'note: {folder}: passed over, as not named like pictures: {shortened(others)}', file=sys.stderr)
    return pictures


def expanded(path):
    """A folder's pictures; anything else, and a folder without any, as it is: it will be said to be no picture."""
    return (pictures_in(path) if path.is_dir() else []) or [path]


def shortened(names):
    """The first names of a list, and how many more there are."""
    more = len(names) - NAMES_SHOWN
    return ', '.join(names[:NAMES_SHOWN]) + (f' and {more} more' if more > 0 else '')


def read_tasks(path):
    """The picture names of a tasks.txt, one a line, in order; blank lines do not count."""
    try:
        lines = path.read_text(encoding='utf-8-sig').split('\n')    # not splitlines: names may hold its other ends
    except OSError as error:
        raise InputError(f'{path}: cannot be read ({error.strerror}); it must list the pictures, a file name a line, '
                         'in the order of the features') from None
    except UnicodeDecodeError as error:
        raise InputError(f'{path}: not UTF-8 at byte {error.start}; it must list the pictures, a file name a line: '
                         'save it with that encoding, or name another file') from None
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise InputError(f'{path}: is empty; it must list the pictures, a file name a line')
    if bad := [name for name in names if '\0' in name]:
        raise InputError(f'{path}: {bad[0]!r:.60} cannot be the name of a file; mend that line')
    return names


def _read_dataset(path):
    images, folder, names = load_json(path).get('images'), path.parent / 'imgs', {}
    if not isinstance(images, list) or not images:
        raise InputError(f'{path}: there is no list "images" with anything in it; expected a dataset.json')
    for number, image in enumerate(images):
        try:
            row, name = image['imgid'], str(Path(image.get('filepath', ''), image['filename']))
        except (TypeError, KeyError):
            row, name = None, ''
        if type(row) is not int or row < 0 or row in names:
            raise InputError(f'{path}: image {number}: expected a filename, and an imgid of 0 or more that no other '
                             'image has; mend that entry')
        names[row] = name
    if max(names) >= 100 * len(images) + 1000:
        raise InputError(f'{path}: the imgid {max(names)} would be a row, but there are only {len(images)} pictures; '
                         'number them from 0')
    if not folder.is_dir():
        raise InputError(f'{folder}: there is no such folder; put the pictures of {path} there')
    names = [names.get(row, '') for row in range(max(names) + 1)]
    return Source(path.parent, names, [folder / name for name in names])

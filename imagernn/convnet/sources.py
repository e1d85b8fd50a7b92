"""The list of pictures to work on: from a folder, a tasks.txt or a dataset.json.

Knows names and paths, one for each row of a feature file. Opens no picture: what is in one is not known here.
"""

import os
import sys
from pathlib import Path
from typing import NamedTuple

from imagernn.corpus.dataset_file import imagined_problem, place_of
from imagernn.corpus.features import READERS
from imagernn.errors import InputError, unreadable
from imagernn.formats.json_files import load_json
from imagernn.formats.names import path_inside, picture_name
from imagernn.formats.pictures import SUFFIXES

NAMES_SHOWN = 10    # a message lists no more names than this


class Source(NamedTuple):
    """The pictures of a feature file, one for each row. A row without a picture has the name ''."""

    folder: Path    # where the feature file goes unless another place is named
    names: list     # as the source spells them
    paths: list     # of the picture files; Refused for a name that leads out of the folder of the pictures


def read_source(source):
    """The pictures of a folder, a tasks.txt or a dataset.json, as a Source.

    Raises InputError if it is none of these, or names no picture.
    """
    source = Path(source)
    if not source.exists():
        raise InputError(f'{source}: does not exist; name a folder of pictures, a tasks.txt or a dataset.json')
    if source.is_dir():
        paths = pictures_in(source)
        if not paths:
            lists = [source / name for name in ('dataset.json', 'tasks.txt') if (source / name).is_file()]
            advice = f'did you mean {lists[0]}?' if lists else f'their names must end in {", ".join(SUFFIXES)}'
            raise InputError(f'{source}: holds no pictures; {advice}')
        return Source(source, [path.name for path in paths], paths)
    if source.suffix.lower() in SUFFIXES:
        raise InputError(f'{source}: is a picture; name its folder, or a tasks.txt that lists it')
    if source.suffix.lower() == '.json':
        return _read_dataset(source)
    names = read_tasks(source)
    return Source(source.parent, names, [path_inside(source.parent, name) for name in names])


def pictures_in(folder):
    """The paths of the pictures in a folder, sorted by name. A note on stderr lists the files that are ignored."""
    entries = [path for path in sorted(folder.iterdir()) if not path.name.startswith('.')]
    pictures = [path for path in entries if path.suffix.lower() in SUFFIXES and not path.is_dir()]
    known = {*pictures, *(path for path in entries if path.suffix.lower() in READERS)}    # feature files are expected
    if others := [path.name for path in entries if path not in known]:
        print(f'note: {folder}: ignored, as their names are not those of picture files: {shortened(others)}',
              file=sys.stderr)
    return pictures


def expanded(path):
    """The pictures in a folder, as a list of paths.

    Any other path, and a folder without pictures, becomes [path]: whoever loads it reports what is wrong.
    """
    is_folder = os.path.isdir(path)    # Path.is_dir would raise for a name that is too long
    return (pictures_in(path) if is_folder else []) or [path]


def shortened(names):
    """The first names of a list, and how many more there are, as text."""
    more = len(names) - NAMES_SHOWN
    return ', '.join(names[:NAMES_SHOWN]) + (f' and {more} more' if more > 0 else '')


def read_tasks(path):
    """The picture names in a tasks.txt, one per line, in order. Blank lines are skipped.

    Raises InputError if the file cannot be read, is not UTF-8, or names no picture.
    """
    try:
        lines = path.read_text(encoding='utf-8-sig').split('\n')    # splitlines would also split inside odd names
    except FileNotFoundError:
        raise InputError(f'{path}: there is no such file; expected a text file that lists the pictures, one file name '
                         'per line, in the order of the features') from None
    except OSError as error:
        raise unreadable(path, error) from None
    except UnicodeDecodeError as error:
        raise InputError(f'{path}: not UTF-8 at byte {error.start}; expected a text file that lists the pictures, one '
                         'file name per line: save it as UTF-8, or name another file') from None
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise InputError(f'{path}: is empty; expected a list of the pictures, one file name per line')
    if bad := [name for name in names if '\0' in name]:
        raise InputError(f'{path}: {bad[0]!r:.60} contains a null character, which no file name can; correct that line')
    return names


def _read_dataset(path):
    """The pictures of a dataset.json as a Source: row = imgid."""
    images = load_json(path).get('images')
    if not isinstance(images, list) or not images:
        raise InputError(f'{path}: "images" is missing or empty; expected the dataset.json of a data set, which lists '
                         'its images there')
    name_of = {}    # imgid -> name; '' for images of which no picture exists
    for number, image in enumerate(images):
        try:
            row = image['imgid']
            name = picture_name(image)
        except (TypeError, KeyError):
            row, name = None, ''
        if type(row) is not int or row < 0 or row in name_of:
            raise InputError(f'{path}: image {number}: expected a filename, and an imgid of 0 or more that no other '
                             'image has; correct that entry')
        if problem := imagined_problem(image):
            raise InputError(f'{path}: {place_of(number, image)}: {problem}; correct that entry')
        name_of[row] = '' if image.get('imagined') else name
    if not any(name_of.values()):
        raise InputError(f'{path}: all its images are imagined from words, and have no pictures; name the dataset.json '
                         'of a data set with pictures')
    num_rows = max(row for row, name in name_of.items() if name) + 1
    if num_rows > 100 * len(images) + 1000:
        raise InputError(f'{path}: imgid {num_rows - 1} would make a feature file of {num_rows} rows for '
                         f'{len(images)} images; number them from 0')
    folder = path.parent / 'imgs'
    if not folder.is_dir():
        raise InputError(f'{folder}: there is no such folder; put the pictures of {path} there')
    names = [name_of.get(row, '') for row in range(num_rows)]
    return Source(path.parent, names, [path_inside(folder, name) for name in names])

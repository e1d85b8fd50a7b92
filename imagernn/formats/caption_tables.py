"""Files with the captions of named pictures: Flickr8k.token.txt, and tables such as Kaggle's, one caption a line.

Recognizes the form by the first line. data/prepare_flickr.py shows the forms. Knows nothing of tokens.
"""

import csv
import json
import re
from typing import NamedTuple

from imagernn.errors import InputError, command, unreadable
from imagernn.formats.json_files import PACKED

EXPECTED = 'expected picture.jpg#0<TAB>caption on each line, or a table whose first line is image,caption'
DELIMITERS = ',|;\t'
COLUMNS = {    # what a column holds: the names that it has in published tables, in lower case
    'image': ('image', 'image_name', 'filename', 'file_name'),
    'caption': ('caption', 'comment', 'sentence', 'raw'),
    'number': ('comment_number', 'caption_number'),
    'split': ('split',)}
TOKEN_LINE = r'([^\t]+)#(\d+)[ ]*\t(.*)'
MOST_LINES = 100    # of one caption in quotes; beyond it, a quote was never closed


class Row(NamedTuple):
    """A caption in a file of captions."""

    line: int             # where it is
    name: str             # of the picture
    number: int | None    # which of the picture's captions it is; None: the next one
    caption: str
    split: str = ''


def read_table(path, known_splits=None):
    """The captions in a file, by picture: a dict of file name -> list of captions in the order of their numbers.

    Also returns a dict of file name -> split, empty unless the file is a table with that column; and a list of notes.
    Raises InputError if the file is not as expected, also for a split that is not in known_splits, if given.
    """
    lines = numbered_lines(path)
    if lines and lines[0][1].lstrip().startswith(('{', '[')):
        raise InputError(f'{path}: is JSON, not a file of captions. {_advice_on_json(lines)}')
    columns, delimiter = columns_of(lines[0][1]) if lines else ([], '')
    notes = []
    rows = table_rows(path, lines[1:], columns, delimiter, notes) if columns else token_rows(path, lines)
    numbered = {}    # file name -> {number: (line, caption)}
    splits = {}      # file name -> (split, line)
    for line, name, number, caption, split in rows:
        found = numbered.setdefault(name, {})
        number = len(found) if number is None else number
        earlier, _ = found.setdefault(number, (line, caption))
        if earlier != line:
            raise InputError(f'{path}, line {line}: {name}#{number} is already on line {earlier}; expected each once. '
                             'Remove one of the two lines.')
        if split and split not in (known_splits or [split]):
            raise InputError(f'{path}, line {line}: split is {split[:60]!r}; expected one of '
                             f'{", ".join(known_splits)}. Correct that line.')
        if split and splits.setdefault(name, (split, line))[0] != split:
            raise InputError(f'{path}, line {line}: {name} is in the {split} split, but on line {splits[name][1]} in '
                             f'the {splits[name][0]} split; expected one for each picture. Correct one of them.')
    if not numbered:
        raise InputError(f'{path}: holds no captions; {EXPECTED}. Name the file as it was distributed.')
    captions = {name: [found[number][1] for number in sorted(found)] for name, found in numbered.items()}
    return captions, {name: split for name, (split, _) in splits.items()}, notes


def token_rows(path, lines):
    """The Rows of lines of picture.jpg#0<TAB>caption."""
    for line, text in lines:
        match = re.fullmatch(TOKEN_LINE, text)
        if match is None:
            raise InputError(f'{path}, line {line}: {EXPECTED}; found {text[:60]!r}. Name the file of captions as it '
                             'was distributed, or correct that line.')
        yield Row(line, match[1].strip(), int(match[2]), match[3])


def columns_of(header):
    """What the columns of a table hold, keys of COLUMNS or '', and its delimiter; [] and '' if this is no header."""
    for delimiter in DELIMITERS:
        names = [name.strip(' "').lower() for name in header.split(delimiter)]
        columns = [next((key for key, known in COLUMNS.items() if name in known), '') for name in names]
        if columns.count('image') == columns.count('caption') == 1:
            return columns, delimiter
    return [], ''


def table_rows(path, lines, columns, delimiter, notes):
    """The Rows of a table; adds to notes what was repaired or left out."""
    short = []    # lines without a caption
    for line, text in records(lines, delimiter):
        cells, repaired = cells_of(path, line, text, columns, delimiter)
        if len(cells) < len(columns):
            short.append(line)
            continue
        if repaired:
            notes.append(f'line {line}: the delimiter after the number of the caption is missing; read as '
                         f'{" | ".join(cells)}')
        row = dict(zip(columns, cells, strict=True))
        number, split = row.get('number', ''), row.get('split', '')
        if not row['image']:
            raise InputError(f'{path}, line {line}: the name of the picture is empty. Correct that line, or remove it.')
        if not re.fullmatch('[0-9]{0,9}', number):
            raise InputError(f'{path}, line {line}: the number of the caption is {number[:60]!r}; expected digits. '
                             'Correct that line.')
        for caption in captions_in(row['caption']):
            yield Row(line, row['image'], int(number) if number else None, caption, split)
    if short:
        notes.append(f'left out: {len(short)} lines of {path.name} without a caption, such as line {short[0]}')


def records(lines, delimiter):
    """The lines of a table as (line number, text), those that a line break in double quotes separates as one."""
    lines = iter(lines)
    for line, text in lines:
        parts = [text]
        while delimiter in ',;' and _is_open(parts, delimiter) and len(parts) < MOST_LINES:
            following = next(lines, None)
            if following is None:
                break
            parts.append(following[1])
        yield line, '\n'.join(parts)


def _is_open(parts, delimiter):
    """Whether the lines of a table end within double quotes."""
    if sum(part.count('"') for part in parts) % 2 == 0:
        return False
    try:
        next(csv.reader([f'{part}\n' for part in parts], delimiter=delimiter, strict=True, skipinitialspace=True))
    except csv.Error as error:
        return 'unexpected end' in str(error)
    return False


def cells_of(path, line, text, columns, delimiter):
    """The cells of a line of a table, fewer than columns if some are missing; and whether it had to be repaired."""
    quoting = csv.QUOTE_MINIMAL if delimiter in ',;' else csv.QUOTE_NONE    # in results.csv, quotes belong to captions
    try:
        lines = [f'{part}\n' for part in text.split('\n')]
        parsed = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True, skipinitialspace=True)
        cells = [cell.strip().replace('\n', ' ') for cell in next(parsed)]
    except csv.Error as error:
        raise InputError(f'{path}, line {line}: is not valid CSV ({error}). Write a caption with quotes as '
                         '"A sign says ""stop"".".') from None
    last = len(columns) - 1
    if len(cells) > len(columns) and columns[last] == 'caption':    # a caption with commas that is not quoted
        cells[last:] = [text.split(delimiter, last)[last].strip()]
    if len(cells) > len(columns):
        raise InputError(f'{path}, line {line}: has {len(cells)} cells, but the first line names {len(columns)} '
                         'columns. Put a caption that contains the delimiter into double quotes.')
    if len(cells) == len(columns) and columns[last] == 'caption' and not cells[last]:
        cells.pop()
    # Kaggle's results.csv has one line like this: 2199200615.jpg| 4   A dog runs across the grass .
    joined = re.fullmatch(r'(\d+)\s+(\S.*)', cells[-1]) if columns[len(cells) - 1:] == ['number', 'caption'] else None
    return (cells[:-1] + [joined[1], joined[2]], True) if joined else (cells, False)


def captions_in(cell):
    """The captions in a cell: a list in JSON, as in a table with a line for each picture, or the cell itself."""
    if cell.startswith('["'):
        try:
            captions = json.loads(cell)
        except ValueError:
            return [cell]
        if all(isinstance(caption, str) for caption in captions):
            return captions
    return [cell]


def _advice_on_json(lines):
    """What to do with a file of JSON instead."""
    start = ''.join(text for _, text in lines)
    if '"annotations"' in start or '"image_id"' in start:
        return f'Annotations of COCO are read by {command("prepare-coco")} --annotations.'
    if '"file_name"' in start[:10_000]:
        return ('A metadata.jsonl is not read: write its names and captions to a table whose first line is '
                'image,caption.')
    return ('A dataset_flickr8k.json of Karpathy, with "images" and "sentences", needs no preparation: copy it to '
            'data/flickr8k/dataset.json.')


def is_table(text):
    """Whether a text is of a form that read_table reads, by its first line that is not blank."""
    first = next((line for line in text.split('\n') if line.strip()), '').removesuffix('\r')
    return bool(re.fullmatch(TOKEN_LINE, first) or columns_of(first)[0])


def numbered_lines(path):
    """The lines of a UTF-8 text file that are not blank, as (line number, text). A line may end in CRLF.

    Raises InputError if the file cannot be read.
    """
    try:
        text = path.read_text(encoding='utf-8-sig')
    except UnicodeDecodeError as error:
        require_unpacked(path)
        line = path.read_bytes()[:error.start].count(b'\n') + 1
        raise InputError(f'{path}, line {line}: not UTF-8 ({error.reason}). Save it as UTF-8.') from None
    except OSError as error:
        raise unreadable(path, error) from None
    return [(number, line) for number, line in enumerate(text.split('\n'), 1) if line.strip()]


def require_unpacked(path):
    """Raise InputError if the file at path is compressed or an archive."""
    with open(path, 'rb') as file:
        start = file.read(6)
    if start.startswith(PACKED):
        raise InputError(f'{path}: is compressed; unpack it, and name the file of captions that was inside')

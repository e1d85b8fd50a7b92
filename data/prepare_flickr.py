r"""Make dataset.json of Flickr8K or Flickr30K, or of pictures of your own, from a file of captions.

    python data/prepare_flickr.py --tokens Flickr8k.token.txt --train Flickr_8k.trainImages.txt \
        --val Flickr_8k.devImages.txt --test Flickr_8k.testImages.txt --output data/flickr8k
    python data/prepare_flickr.py --tokens captions.txt --output data/flickr8k

The file of captions is one of these; its first line tells which:

    picture.jpg#0<TAB>A child in a pink dress .      Flickr8k.token.txt, results_20130124.token of Flickr30K
    image,caption                                    Kaggle's captions.txt of Flickr8K, and other tables (CSV) whose
                                                     first line names the columns
    image_name| comment_number| comment              Kaggle's results.csv of Flickr30K

A line of a list is `picture.jpg` or `picture`. Without lists, the split is the one in the table's column `split`, or
else it is drawn. imgids follow the order of the file names, as in NeuralTalk's own dataset.json, so that its feature
files fit. Pictures that are in no list are left out and counted, such as the stray `2258277193_586949ec62.jpg.1` of
Flickr8K.
"""

import argparse
import csv
import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))    # a checkout need not be installed

from imagernn.corpus.dataset_writer import add_tokenizer_flag, draw_splits, make_dataset, summary, write_dataset
from imagernn.corpus.names import SPLITS
from imagernn.errors import InputError, script, unreadable

EXPECTED = 'expected picture.jpg#0<TAB>caption on each line, or a table whose first line is image,caption'
DELIMITERS = ',|;\t'
COLUMNS = {    # what a column holds: the names that it has in published tables, in lower case
    'image': ('image', 'image_name', 'filename', 'file_name'),
    'caption': ('caption', 'comment', 'sentence', 'raw'),
    'number': ('comment_number', 'caption_number'),
    'split': ('split',)}
HELD_OUT = 1000    # images in val and in test if the split is drawn, as in Flickr8K; or a tenth, if that is less


class Row(NamedTuple):
    """A caption in a file of captions."""

    line: int             # where it is
    name: str             # of the picture
    number: int | None    # which of the picture's captions it is; None: the next one
    caption: str
    split: str = ''


@script
def main(argv=None):
    args = build_parser().parse_args(argv)
    lists = {'train': args.train, 'val': args.val, 'test': args.test}
    drawing = (args.val_images, args.test_images, args.seed)
    require_lists_or_a_draw(lists, drawing)
    captions, splits, notes = read_captions(args.tokens)
    if any(lists.values()):
        splits = read_splits(lists, captions, args.tokens)
    elif not splits or drawing != (None, None, None):
        splits, note = drawn_splits(captions, *drawing)
        notes.append(note)
    images = [({'filename': name, 'split': splits[name]}, captions[name]) for name in sorted(splits)]
    dataset, left_out = make_dataset(args.output.resolve().name, images, args.tokenizer)
    notes += left_out
    unlisted = sorted(captions.keys() - splits.keys())
    if unlisted:
        notes.append(f'left out: {len(unlisted)} images with captions that are in no list, such as {unlisted[0]}')
    done = write_dataset(args.output, dataset)
    print('\n'.join([*summary(dataset), *notes, done]))
    return 0


def build_parser():
    parser = argparse.ArgumentParser(description='Make dataset.json of Flickr8K or Flickr30K, or of pictures of your '
                                                 'own, from a file of captions.')

    group = parser.add_argument_group('input')
    group.add_argument('--tokens', type=Path, required=True,
        help="The file of captions: Flickr8k.token.txt, results_20130124.token of Flickr30K, Kaggle's captions.txt or "
             'results.csv, or a table of your own whose first line is image,caption.')
    add_tokenizer_flag(group)

    group = parser.add_argument_group('split', 'either from three lists, or drawn')
    group.add_argument('--train', type=Path,
        help='The list of the training pictures, one file name per line, such as Flickr_8k.trainImages.txt. Give the '
             'lists to compare with published results.')
    group.add_argument('--val', type=Path, help='The list of the validation pictures.')
    group.add_argument('--test', type=Path, help='The list of the test pictures.')
    group.add_argument('--val_images', type=int,
        help=f'Without lists: how many validation pictures to draw (default: {HELD_OUT}, or a tenth if that is less).')
    group.add_argument('--test_images', type=int, help='How many test pictures to draw (default: as for validation).')
    group.add_argument('--seed', type=int, help='The seed of the draw. Change it for another split (default: 0).')

    group = parser.add_argument_group('output')
    group.add_argument('--output', type=Path, required=True,
        help='The folder for dataset.json, such as data/flickr8k. A dataset.json that is already there is replaced.')
    return parser


# ---- captions

def read_captions(path):
    """The captions in a file: a dict of file name -> list of captions in the order of their numbers.

    Also returns a dict of file name -> split, empty unless the file is a table with that column; and a list of notes.
    Raises InputError if the file is not as expected.
    """
    lines = numbered_lines(path)
    if lines and lines[0][1].lstrip().startswith('{'):
        raise InputError(f'{path}: is JSON, not a file of captions. A dataset_flickr8k.json of Karpathy, with "images" '
                         'and "sentences", needs no preparation: copy it to data/flickr8k/dataset.json.')
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
        match = re.fullmatch(r'([^\t]+)#(\d+)[ ]*\t(.*)', text)
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
    """The Rows of a table, one line each; adds to notes what was repaired or left out."""
    short = []    # lines without a caption
    for line, text in lines:
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
        if split not in ('', *SPLITS):
            raise InputError(f"{path}, line {line}: split is {split[:60]!r}; expected one of {', '.join(SPLITS)}. "
                             'Correct that line.')
        for caption in captions_in(row['caption']):
            yield Row(line, row['image'], int(number) if number else None, caption, split)
    if short:
        notes.append(f'left out: {len(short)} lines of {path.name} without a caption, such as line {short[0]}')


def cells_of(path, line, text, columns, delimiter):
    """The cells of a line of a table, fewer than columns if some are missing; and whether it had to be repaired."""
    quoting = csv.QUOTE_MINIMAL if delimiter in ',;' else csv.QUOTE_NONE    # in results.csv, quotes belong to captions
    try:
        parsed = csv.reader([text], delimiter=delimiter, quoting=quoting, strict=True, skipinitialspace=True)
        cells = [cell.strip() for cell in next(parsed)]
    except csv.Error as error:
        raise InputError(f'{path}, line {line}: is not valid CSV ({error}). Write a caption with quotes as '
                         '"A sign says ""stop"".", on one line.') from None
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


# ---- splits

def require_lists_or_a_draw(lists, drawing):
    """Raise InputError unless all three lists are given, or none of them."""
    given = [f'--{split}' for split, path in lists.items() if path]
    missing = [f'--{split}' for split, path in lists.items() if not path]
    if given and missing:
        raise InputError(f'{" and ".join(given)} given without {" and ".join(missing)}: give all three lists, or none '
                         'of them to draw the split')
    if given and drawing != (None, None, None):
        raise InputError(f'{", ".join(given)} settle the split, and --val_images, --test_images and --seed draw one; '
                         'give the one or the others')


def drawn_splits(captions, val, test, seed):
    """A split drawn from the names of the pictures, a dict of file name -> split, and a note that says so.

    None stands for the default. Raises InputError if no picture is left for train.
    """
    val = max(1, min(HELD_OUT, len(captions) // 10)) if val is None else val
    test = val if test is None else test
    seed = 0 if seed is None else seed
    if min(val, test) < 0 or val + test >= len(captions):
        raise InputError(f'--val_images {val} and --test_images {test} do not fit {len(captions)} pictures; expected '
                         'numbers from 0 that leave some pictures for train: give smaller ones')
    return draw_splits(captions, val, test, seed), (
        f'split: drawn with --seed {seed}, {val:,} val and {test:,} test; to compare with published scores, give the '
        'lists of the published split')


def read_splits(lists, captions, tokens_path):
    """The split of each picture, a dict of file name -> split, from lists, a dict of split -> path.

    Raises InputError if a picture has no captions or is in two lists, or if a list is empty.
    """
    placed = {}    # file name -> (split, path, line)
    for split, path in lists.items():
        for line, text in numbered_lines(path):
            name = next((n for n in (text.strip(), text.strip() + '.jpg') if n in captions), None)
            if name is None:
                raise InputError(f'{path}, line {line}: {text.strip()[:60]!r} has no captions in {tokens_path}. '
                                 'Name the lists and the token file of the same data set, or remove the line.')
            earlier_split, earlier_path, earlier_line = placed.setdefault(name, (split, path, line))
            if earlier_split != split:
                raise InputError(f'{path}, line {line}: {name} is already in the {earlier_split} split '
                                 f'({earlier_path}, line {earlier_line}); expected each picture in one list. Remove '
                                 'one of the two lines.')
        if split not in {found for found, _, _ in placed.values()}:
            raise InputError(f'{path}: names no pictures; expected one per line, for the {split} split. Name another '
                             'list.')
    return {name: split for name, (split, _, _) in placed.items()}


def numbered_lines(path):
    """The lines of a UTF-8 text file that are not blank, as (line number, text). A line may end in CRLF.

    Raises InputError if the file cannot be read.
    """
    try:
        text = path.read_text(encoding='utf-8-sig')
    except UnicodeDecodeError as error:
        line = path.read_bytes()[:error.start].count(b'\n') + 1
        raise InputError(f'{path}, line {line}: not UTF-8 ({error.reason}). Save it as UTF-8.') from None
    except OSError as error:
        raise unreadable(path, error) from None
    return [(number, line) for number, line in enumerate(text.split('\n'), 1) if line.strip()]


if __name__ == '__main__':
    sys.exit(main())

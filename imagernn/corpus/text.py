"""A text as integers: characters or words, one stream or lines, split into train, val and test.

Knows files and tokens; nothing of models.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from imagernn.corpus.vocab import START
from imagernn.errors import InputError, unreadable

SPLITS = ('train', 'val', 'test')
UNKNOWN = '<unk>'    # a word of the stream that is not in the vocabulary; in lines such words are dropped
LINE_END = '\n'      # a word of its own where a text is a stream of words; END of lines, which cannot contain it
LONGEST_LINE = 10 ** 4    # characters or words of a line that is read as a whole: memory grows with its length


class Text(NamedTuple):
    """The tokens of each split. In lines, START and END are index 0 and no part of the arrays."""

    ixtoword: dict       # index -> character or word
    splits: dict         # split -> (tokens (K,) int64, lengths (N,): of each line; of a stream one length, K)


def read_text(path):
    """The text of a UTF-8 file. InputError for anything else, and for an empty file."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f'{path}: is a folder; name a text file')
    try:
        text = path.read_text(encoding='utf-8-sig')
    except OSError as error:
        raise unreadable(path, error) from None
    except UnicodeDecodeError as error:
        raise InputError(f'{path}: is not UTF-8 at byte {error.start}; expected plain text. Convert it first, with '
                         'iconv for example') from None
    if '\0' in text:
        raise InputError(f'{path}: has a zero byte, as binary files do; expected plain text')
    if not text.strip():
        raise InputError(f'{path}: is empty; expected text to learn from')
    return text


def texts_of(path, shares, files):
    """The text of each split: of one file, divided by shares (train, val, test), or of files of their own.

    shares: three numbers; files: split -> path, for val and test, or an empty dict. The text is divided in its order,
    at exactly these shares of its characters. InputError where a split would be empty.
    """
    text = read_text(path)
    if files:
        return {'train': text, **{split: read_text(file) for split, file in files.items()}}
    total, places = sum(shares), [0]
    for share in np.cumsum(shares)[:-1]:
        places.append(round(len(text) * float(share) / total))
    found = {split: text[start:end] for split, start, end in zip(SPLITS, places, [*places[1:], len(text)], strict=True)}
    found = {split: part for split, part in found.items() if shares[SPLITS.index(split)] > 0}
    if empty := [split for split, part in found.items() if not part.strip()]:
        raise InputError(f'{path}: has {len(text)} characters, of which none are left for {empty[0]}; give a longer '
                         'text, or other --split_shares')
    return found


def units_of(text, level):
    """The characters or words of a text, a list. In words, the end of a line is one."""
    if level == 'char':
        return list(text)
    return [word for line in text.split('\n') for word in (*line.split(), LINE_END)][:-1]


def lines_of(text, level):
    """The lines of a text that are not empty, each a list of characters or words."""
    found = (line.strip() for line in text.split('\n'))
    return [list(line) if level == 'char' else line.split() for line in found if line]


def encode_texts(texts, level, lines, threshold, ixtoword=None):
    """Texts of the splits -> Text.

    level: 'char' or 'word'; lines: whether each line is a sentence of its own. The vocabulary, unless ixtoword gives
    one, has the units of train that occur at least threshold times, in the order of their first occurrence. InputError
    where no unit of a split is known, a stream is too short to predict anything, or a line is longer than LONGEST_LINE.
    """
    cut = lines_of if lines else lambda text, level: [units_of(text, level)]
    parts = {split: cut(text, level) for split, text in texts.items()}
    if ixtoword is None:
        counts = {}
        for part in parts['train']:
            for unit in part:
                counts[unit] = counts.get(unit, 0) + 1
        kept = [unit for unit, count in counts.items() if count >= threshold]
        first = LINE_END if lines else UNKNOWN
        ixtoword = dict(enumerate([first, *(unit for unit in kept if unit not in (first, START))]))
    index_of = {unit: ix for ix, unit in ixtoword.items() if ix or not lines}
    return Text(ixtoword, {split: _indices(split, part, index_of, lines) for split, part in parts.items()})


def _indices(split, parts, index_of, lines):
    """The tokens of a split and the length of each line; in a stream unknown units are index 0, in lines they go."""
    found = [[index_of[unit] for unit in part if unit in index_of] if lines
             else [index_of.get(unit, 0) for unit in part] for part in parts]
    if lines and (longest := max(map(len, found), default=0)) > LONGEST_LINE:
        raise InputError(f'a line of the {split} text has {longest:,} characters or words; each line is read as a '
                         f'whole, so give lines of at most {LONGEST_LINE:,}, or read a stream, without --lines')
    tokens = np.array([ix for part in found for ix in part], np.int64)
    if not lines and len(tokens) < 2:
        raise InputError(f'the {split} text has a single character or word, and so none to predict; give a longer one')
    if not (tokens.any() or lines and len(tokens)):
        raise InputError(f'of the {split} text no character or word is in the vocabulary; lower '
                         '--word_count_threshold, or give a text like the one of the training')
    return tokens, np.array([len(part) for part in found], np.int64)

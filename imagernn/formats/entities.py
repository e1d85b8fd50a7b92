"""Flickr30k Entities as JSON Lines: the boxes that people drew for the phrases of captions; read without trust.

One object a line and picture: imgid, filename, split; boxes {entity: [[x0, y0, x1, y1], ...]} as fractions of width
and height; sentences [{words, phrases [{id, type, start, end}], sentid}], sentid only where the text is that of
dataset.json. Other fields are ignored. Knows nothing of tokens.

Source: Plummer et al., "Flickr30k Entities: Collecting Region-to-Phrase Correspondences for Richer Image-to-Sentence
Models", ICCV 2015.
"""

import gzip
import json
import zlib
from typing import NamedTuple

import numpy as np

from imagernn.errors import InputError, unreadable
from imagernn.formats.json_files import json_type

LONGEST_LINE = 1 << 20     # bytes; those of Flickr8K have at most 4,176
MOST_BYTES = 1 << 29       # of the whole file, decompressed; Flickr8K's has 17 MB
SENTENCES = 5              # of each image, by which sentid counts
EXPECTED = {int: 'an integer', str: 'a string', list: 'a list', dict: 'an object'}


class Phrase(NamedTuple):
    """A phrase of a sentence: words[start:end]."""

    entity: str       # what it names; the phrases of all sentences that name the same thing share it
    types: tuple      # people, clothing, bodyparts, animals, vehicles, instruments, scene, other, notvisual; often one
    start: int
    end: int


class MarkedSentence(NamedTuple):
    """A sentence whose phrases are marked."""

    words: list           # with their case; a punctuation mark is a word
    place: int | None     # in its image's list of sentences in dataset.json; None where the texts differ
    phrases: list         # of Phrase


class MarkedImage(NamedTuple):
    """An image, with boxes of the entities that its sentences name."""

    imgid: int
    filename: str
    split: str
    boxes: dict           # entity -> (n, 4) x0, y0, x1, y1 as fractions of width and height, n >= 1; many have none
    sentences: list       # of MarkedSentence


def read_entities(path):
    """A list of the MarkedImages in a file, which may be compressed by gzip.

    path: a Path. Raises InputError that names the line which is not as it should be.
    """
    found = []
    for number, line in enumerate(map(bytes.strip, _lines(path)), 1):
        if not line:
            continue
        try:
            found.append(_image(json.loads(line)))
            continue
        except json.JSONDecodeError as error:
            problem = f'is not valid JSON at column {error.colno} ({error.msg})'
        except (ValueError, RecursionError) as error:    # ours; not UTF-8; 5,000 digits; brackets nested 10,000 deep
            problem = error
        raise InputError(f'{path}, line {number}: {problem}. Correct that line, or get the file again.')
    if not found:
        raise InputError(f'{path}: is empty; expected an object of JSON on each line, one for each image.')
    return found


def _lines(path):
    """The lines of a file as bytes, decompressed. Raises InputError where it cannot be read, or is too large."""
    try:
        with open(path, 'rb') as file:
            is_packed = file.read(2) == b'\x1f\x8b'
        size = 0
        with (gzip.open if is_packed else open)(path, 'rb') as file:
            while line := file.readline(LONGEST_LINE + 1):
                size += len(line)
                if len(line) > LONGEST_LINE or size > MOST_BYTES:
                    raise InputError(f'{path}: has a line of more than {LONGEST_LINE:,} bytes, or more than '
                                     f'{MOST_BYTES:,} bytes in all; expected an object of JSON on each line.')
                yield line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f'{path}: its compression is damaged ({error}). Get the file again.') from None
    except OSError as error:
        raise unreadable(path, error) from None


def _image(entry):
    """The MarkedImage of a line. Raises ValueError with what is wrong."""
    imgid = _field(entry, 'imgid', int)
    boxes = {entity: _boxes(entity, rows) for entity, rows in _field(entry, 'boxes', dict).items() if rows != []}
    sentences = [_sentence(sentence, imgid) for sentence in _field(entry, 'sentences', list)]
    return MarkedImage(imgid, _field(entry, 'filename', str), _field(entry, 'split', str), boxes, sentences)


def _sentence(entry, imgid):
    words, place = _strings(entry, 'words'), None
    if entry.get('sentid') is not None:
        place = _field(entry, 'sentid', int) - SENTENCES * imgid
        if not 0 <= place < SENTENCES:
            raise ValueError(f'sentid is {entry["sentid"]!s:.60}; expected {SENTENCES} times the imgid {imgid!s:.60}, '
                             f'plus 0 to {SENTENCES - 1}')
    return MarkedSentence(words, place, [_phrase(phrase, words) for phrase in _field(entry, 'phrases', list)])


def _phrase(entry, words):
    start, end = _field(entry, 'start', int), _field(entry, 'end', int)
    if not 0 <= start < end <= len(words):
        raise ValueError(f'a phrase has start {start!s:.60} and end {end!s:.60}; expected 0 <= start < end <= '
                         f'{len(words)}, the number of words')
    return Phrase(str(_field(entry, 'id', int)), tuple(_strings(entry, 'type')), start, end)


def _boxes(entity, rows):
    """The boxes of an entity, (n, 4)."""
    for box in rows if type(rows) is list else [rows]:
        if not (type(box) is list and len(box) == 4 and {int, float}.issuperset(map(type, box))
                and 0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
            raise ValueError(f'a box of entity {entity!r:.60} is {box!r:.60}; expected [x0, y0, x1, y1] as fractions, '
                             '0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1')
    return np.array(rows, float)


def _strings(entry, key):
    """The list of strings called key."""
    found = _field(entry, key, list)
    if not {str}.issuperset(map(type, found)):
        raise ValueError(f'{key!r} is {found!r:.60}; expected a list of strings')
    return found


def _field(entry, key, kind):
    """The value called key in an object, of a type in EXPECTED."""
    if type(entry) is not dict:
        raise ValueError(f'{json_type(entry)} is where an object with {key!r} was expected')
    if key not in entry:
        raise ValueError(f'{key!r} is missing; expected {EXPECTED[kind]}')
    if type(entry[key]) is not kind:    # bool is an int to isinstance
        raise ValueError(f'{key!r} is {json_type(entry[key])}; expected {EXPECTED[kind]}')
    return entry[key]

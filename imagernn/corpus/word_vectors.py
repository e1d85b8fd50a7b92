"""Vectors of words that were trained elsewhere, as GloVe, word2vec and numpy store them; read without trust.

Knows four forms, which it recognizes by what a file begins with:

    GloVe's text       a word and its numbers on each line
    word2vec's text    the same, after a line 'N D': the numbers of words and of numbers for each
    word2vec's .bin    after such a line: a word, a space, D numbers of 4 bytes, and perhaps a newline
    .npy               a row for each word, and beside it a list of the words (see _vocabulary_beside)

Files are read row by row, and only the vectors of the words that are needed are kept. Knows nothing of models.
"""

import os
import re
from pathlib import Path

import numpy as np

from imagernn.errors import InputError, unreadable
from imagernn.formats.json_files import PACKED
from imagernn.formats.npy import read_header

LONGEST_LINE = 1 << 22    # bytes; 300 numbers take about 3,000
LONGEST_WORD = 1 << 14    # bytes, in a .bin
FORMS = 'expected GloVe or word2vec text, word2vec .bin, or a .npy'
AGAIN = 'get the file again'
MOST_SHOWN = 8            # of the words without a vector


def word_vectors_for(path, ixtoword, log_frequencies, size, rng, flags=('word_encoding_size',)):
    """The initial vectors of a vocabulary: Ws (V, size) float64; a line to print about them, and warnings.

    path: a file of one of the forms above. ixtoword, log_frequencies (V,): as vocab.build_vocab gives them. Words that
    the file has take its vectors. The others, and index 0, which stands for START and END, are drawn from normal
    distributions with the mean and the standard deviation that each number has over the words found. flags: the names
    of the flags that must be equal to the size of the vectors. InputError as from read_vectors, and where the file has
    none of the words.
    """
    V = len(ixtoword)
    vectors, warnings = read_vectors(path, [ixtoword[ix] for ix in range(1, V)], size, flags)
    known = np.array([ix > 0 and ixtoword[ix] in vectors for ix in range(V)])                  # (V,)
    if not known.any():
        raise InputError(f'{path}: has none of the {V - 1:,} words of the vocabulary; expected words of the language '
                         'and tokenization of the training sentences')
    found = np.array([vectors[ixtoword[ix]] for ix in np.flatnonzero(known)], np.float64)      # (number found, size)
    Ws = rng.normal(found.mean(axis=0), found.std(axis=0), (V, size))                          # (V, size)
    Ws[known] = found
    line = f'{path}: has vectors of {len(found):,} of the {V - 1:,} words of the vocabulary'
    order = np.argsort(-log_frequencies, kind='stable')
    if missing := [ixtoword[ix] for ix in order if ix > 0 and not known[ix]]:
        shares = np.exp(log_frequencies) * (np.arange(V) > 0)
        line += (f'; those of the others, {shares[~known].sum() / shares.sum():.1%} of the text, are drawn at random: '
                 f'{", ".join(missing[:MOST_SHOWN])}{", …" if len(missing) > MOST_SHOWN else ""}')
    return Ws, line, warnings


def read_vectors(path, words, size, flags=('word_encoding_size',)):
    """The vectors of those of words that a file has: a dict word -> (size,) float32; and notes to print.

    A word that the file does not have as it is takes the vector of its form in lower case. Where the file has a word
    twice, the first vector counts, and a note says so. flags: see word_vectors_for. Raises InputError, which names the
    line, byte or row, for a file that is damaged, cut short or of another form, whose vectors have another size, or
    that has numbers which are not finite in the vector of one of the words; other vectors are not looked at.
    """
    path = Path(path)
    wanted = {form.encode('utf-8', 'surrogatepass') for word in words for form in (word, word.lower())}
    found, repeated = {}, {}
    try:
        with open(path, 'rb') as file:
            D, rows = _opened(path, file, wanted)
            if D != size:
                raise InputError(f'{path}: has vectors of {D} numbers, but --{flags[-1]} is {size}; give '
                                 + ' '.join(f'--{name} {D}' for name in flags))
            for word, place, vector in rows:
                with np.errstate(over='ignore'):
                    vector = np.asarray(vector).astype(np.float32)
                if not np.isfinite(vector).all():
                    raise InputError(f'{path}, {place}: the vector of {word.decode()!r:.60} has a number that is not '
                                     f'finite or too large for float32; {AGAIN}')
                if found.setdefault(word, vector) is not vector:
                    repeated.setdefault(word, place)
    except OSError as error:
        raise unreadable(path, error) from None
    notes = [f'{path}: has {len(repeated):,} of the words more than once, such as {word.decode()!r:.60}, again at '
             f'{place}; the first vector of each is used' for word, place in [*repeated.items()][:1]]
    keys = {word: [form.encode('utf-8', 'surrogatepass') for form in (word, word.lower())] for word in words}
    return {word: found.get(exact, found.get(lower)) for word, (exact, lower) in keys.items()
            if exact in found or lower in found}, notes


# ---- the forms: each gives, for the rows of wanted words, the word as bytes, where it is, and its numbers

def _opened(path, file, wanted):
    """The size of the vectors in an open file, and an iterator of the rows that are wanted."""
    first = file.readline(LONGEST_LINE)
    if not first:
        raise InputError(f'{path}: is empty; {FORMS}')
    if first.startswith(PACKED):
        raise InputError(f'{path}: is compressed; unpack it, and name the file of vectors that was inside')
    if first.startswith(b'\x93NUMPY'):
        return _npy(path, file, wanted)
    if header := re.fullmatch(rb'(\d{1,18})[ \t]+(\d{1,18})\s*', first):
        N, D = map(int, header.groups())
        start = file.read(1 << 16)
        file.seek(len(first))
        is_text = not re.search(rb'[\x00-\x08\x0e-\x1f]', start)    # numbers of 4 bytes have such bytes
        _require_room(path, N, D, 2 * D + 1 if is_text else 4 * D + 2, os.fstat(file.fileno()).st_size - len(first))
        return D, (_text_rows(path, file, 2, N, D, wanted) if is_text else _binary_rows(path, file, N, D, wanted))
    fields = first.split()
    if len(fields) < 2 or not all(map(_is_number, fields[1:])):
        raise InputError(f'{path}, line 1: begins with {first[:40]!r}, not with a word and its numbers or the line of '
                         f'two numbers of word2vec; {FORMS}')
    file.seek(0)
    return len(fields) - 1, _text_rows(path, file, 1, None, len(fields) - 1, wanted)


def _require_room(path, N, D, least, room):
    """InputError unless N rows of D numbers, each of `least` bytes or more, can be in as many bytes as room."""
    if not N or not D:
        raise InputError(f'{path}, line 1: says {N} words of {D} numbers; expected at least one of each')
    if N * least > room:
        raise InputError(f'{path}, line 1: says {N:,} words of {D:,} numbers, which take {N * least:,} bytes or more, '
                         f'but {room:,} follow: it was cut short, or its first line is wrong; {AGAIN}')


def _text_rows(path, file, first, N, D, wanted):
    """The rows of text from the next line on, which has the number first. N: how many there must be, or None."""
    count, number = 0, first
    for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b''), first):
        fields = line.split()
        if not fields and len(line) < LONGEST_LINE:
            continue
        # a few of GloVe's words have spaces inside, such as ". . ."
        if len(fields) <= D or (len(fields) > D + 1 and _is_number(fields[-D - 1])) or len(line) == LONGEST_LINE:
            raise InputError(f'{path}, line {number}: has {len(fields):,} columns; expected a word and {D:,} numbers. '
                             f'The file may have been cut short; {AGAIN}')
        word = b' '.join(fields[:-D])
        if word in wanted:
            if not all(map(_is_number, fields[-D:])):
                raise InputError(f'{path}, line {number}: has something other than numbers after '
                                 f'{word.decode()!r:.60}; {AGAIN}')
            yield word, f'line {number}', list(map(float, fields[-D:]))
        count += 1
    if N is not None and count != N:
        raise InputError(f'{path}, line {number}: is where it ends, after {count:,} words, but line 1 says {N:,}; '
                         f'{AGAIN}')


def _is_number(field):
    try:
        float(field)
    except ValueError:
        return False
    return True


def _binary_rows(path, file, N, D, wanted):
    place = file.tell()
    for count in range(N):
        row = file.read(4 * D + 2)    # as much as a row has with a word of one letter
        while (end := row.find(b' ')) < 0 and len(row) < LONGEST_WORD and (more := file.read(4 * D)):
            row += more
        row += file.read(max(0, end + 1 + 4 * D - len(row)))
        if end < 1 or len(row) != end + 1 + 4 * D:
            raise InputError(f'{path}, byte {place}: no word with {D:,} numbers of 4 bytes follows, the one after '
                             f'{count:,} of the {N:,} that line 1 says: it was cut short, or line 1 is wrong; {AGAIN}')
        word = row[:end].lstrip(b'\n')
        if word in wanted:
            yield word, f'byte {place}', np.frombuffer(row, '<f4', D, end + 1)
        place += len(row)
    if file.read(2).strip():
        raise InputError(f'{path}, byte {place}: more follows than the {N:,} words of {D:,} numbers that line 1 says; '
                         f'{AGAIN}')


def _npy(path, file, wanted):
    file.seek(0)
    try:
        header = read_header(file)
    except (ValueError, TypeError) as error:
        raise InputError(f'{path}: cannot be read as .npy ({error}); {AGAIN}') from None
    shape, size = header.shape, os.fstat(file.fileno()).st_size - header.offset
    if len(shape) != 2 or 0 in shape or header.dtype.kind != 'f':
        raise InputError(f'{path}: is an array of shape {shape!s:.60} and type {header.dtype}; expected a matrix of '
                         'floating-point numbers with a row for each word')
    if header.size != size:
        raise InputError(f'{path}, byte {header.offset}: an array of shape {shape!s:.60} takes {header.size:,} bytes, '
                         f'but {size:,} follow; {AGAIN}')
    return shape[1], _npy_rows(path, header, wanted)


def _npy_rows(path, header, wanted):
    vocabulary, row = _vocabulary_beside(path), 0
    array = np.memmap(path, header.dtype, 'r', header.offset, header.shape, header.order)    # (N, D)
    try:
        with open(vocabulary, 'rb') as file:
            for row, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b''), 1):
                word = (line.split() or [b''])[0]
                if row <= len(array) and word in wanted:
                    yield word, f'row {row}', array[row - 1]
    except OSError as error:
        raise unreadable(vocabulary, error) from None
    if row != len(array):
        raise InputError(f'{vocabulary}: has {row:,} lines, but {path} has {len(array):,} rows; expected the word of '
                         'each row, in the same order')


def _vocabulary_beside(path):
    """The list of the words of a .npy: NAME.txt beside NAME.npy, or words.txt or vocab.txt in its folder.

    A word a line; what follows a space is ignored, as the counts in the vocab.txt of GloVe's own tool.
    """
    names = [path.with_suffix('.txt').name, 'words.txt', 'vocab.txt']
    for name in names:
        if path.with_name(name).is_file():
            return path.with_name(name)
    raise InputError(f'{path}: the list of its words is missing; expected {names[0]}, {names[1]} or {names[2]} in its '
                     'folder, with a word a line')

"""Sentence pairs as integers: lines of two parallel files to words, and words to indices of two vocabularies.

Index 0 stands for START in the inputs and for END in the targets; index 1 is the unknown word. Knows nothing of models.
"""

import re
import sys
import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from imagernn.corpus.text import UNKNOWN
from imagernn.corpus.vocab import START
from imagernn.errors import InputError, install_command
from imagernn.translation.lines import lines_of_file

END = '#END#'          # index 0 of the target; unlike the '.' of captions it is no word of a text
UNKNOWN_INDEX = 1
SPECIAL = {START, END, UNKNOWN}    # are read as unknown words where a text has them
JOINER = '￭'           # on the side of a mark where no space is, as in OpenNMT's tokenizer (Klein et al. 2017)
LONGEST_SIDE = 250     # words; with attention, the memory of a batch grows with the product of both lengths
POOL = 50              # batches of pairs that are sorted by length together


class Pairs(NamedTuple):
    """Sentence pairs. Each side is (tokens (K,) int64, one sentence after another, and their lengths (N,))."""

    source: tuple
    target: tuple


# ---- lines to words and back


def read_pairs(source_path, target_path, how, lower_case=False, languages=('', '')):
    """The words of two files' lines, a list of lists for each; and how many pairs were left out because a side was
    empty, and how many because a side had more than LONGEST_SIDE words.

    how: a key of TOKENIZERS; languages: of source and target, for sacremoses. InputError for a file that is not text,
    for different numbers of lines, and where no pair is left.
    """
    sides = []
    for path, language in zip((source_path, target_path), languages, strict=True):
        lines = lines_of_file(path)
        if not any(map(str.strip, lines)):
            raise InputError(f'{path}: is empty; expected a sentence on each line')
        sides.append(tokenize(lines, how, language, lower_case))
    source, target = sides
    if len(source) != len(target):
        raise InputError(f'{source_path} has {len(source):,} lines, and {target_path} has {len(target):,}; expected '
                         'that line n of one translates line n of the other')
    full = [pair for pair in zip(source, target, strict=True) if all(pair)]
    kept = [pair for pair in full if max(map(len, pair)) <= LONGEST_SIDE]
    if not kept:
        raise InputError(f'{source_path} and {target_path}: none of the {len(source):,} lines has 1 to '
                         f'{LONGEST_SIDE} words on both sides')
    return [one for one, _ in kept], [other for _, other in kept], len(source) - len(full), len(full) - len(kept)


def language_of(path):
    """What the name of a file ends with: train.fr -> fr."""
    return Path(path).suffix[1:]


def tokenize(lines, how, language='', lower_case=False):
    """Lines -> their words, a list of lists of str. how: a key of TOKENIZERS; language: two letters, for sacremoses."""
    split, _ = TOKENIZERS[how](language)
    return [split(line.lower() if lower_case else line) for line in lines]


def detokenize(sentences, how, language=''):
    """Words, a list of lists of str -> lines, as tokenize took them but for lower case."""
    _, join = TOKENIZERS[how](language)
    return [join(words) for words in sentences]


def _none(language):
    return str.split, ' '.join


def _words(language):
    return _separated, _joined


@lru_cache
def _unit():
    """The pattern of a word or a single mark. 1,000.50 is one word; a combining mark belongs to the word before it."""
    combining = ''.join(c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c)[0] == 'M')
    return re.compile(rf'[0-9]+(?:[.,:][0-9]+)+|\w[\w{combining}]*|\S')


def _separated(line):
    """Words and single marks, in NFC. A mark has the JOINER on each side where it touches a neighbour.

    "L'eau, ici." gives L ￭'￭ eau ￭, ici ￭.
    """
    found = list(_unit().finditer(unicodedata.normalize('NFC', line.replace(JOINER, ' '))))
    units = [match[0] for match in found]
    is_word = [unit[0].isalnum() or unit[0] == '_' for unit in units]
    for i in range(1, len(units)):
        if found[i - 1].end() == found[i].start():
            if is_word[i]:
                units[i - 1] += JOINER
            else:
                units[i] = JOINER + units[i]
    return units


def _joined(words):
    return re.sub(f' ?{JOINER} ?', '', ' '.join(words))


@lru_cache
def _sacremoses(language):
    try:
        from sacremoses import MosesDetokenizer, MosesTokenizer
    except ModuleNotFoundError:
        raise InputError(f'--tokenizer sacremoses needs a package that is not installed; run: '
                         f'{install_command("translation")}') from None
    tokenizer, detokenizer = MosesTokenizer(lang=language or 'en'), MosesDetokenizer(lang=language or 'en')
    return (lambda line: tokenizer.tokenize(line, escape=False)), (lambda words: detokenizer.detokenize(words))


TOKENIZERS = {'none': _none, 'words': _words, 'sacremoses': _sacremoses}    # language -> split(line), join(words)


# ---- words to indices


def vocabulary(sentences, threshold, first):
    """Index -> word for the words that occur at least threshold times, in the order of their first occurrence.

    first: the name of index 0. InputError where no word stays.
    """
    counts = {}
    for words in sentences:
        for word in words:
            counts[word] = counts.get(word, 0) + 1
    kept = [word for word, count in counts.items() if count >= threshold and word not in SPECIAL]
    if not kept:
        raise InputError(f'--word_count_threshold {threshold}: no training word occurs that often (the most frequent '
                         f'one: {max(counts.values(), default=0)} times); lower it')
    return dict(enumerate([first, UNKNOWN, *kept]))


def encode(sentences, ixtoword):
    """Words, a list of lists of str -> (tokens (K,) int64, lengths (N,)); words outside the vocabulary become 1."""
    index_of = {word: ix for ix, word in ixtoword.items() if ix > UNKNOWN_INDEX}
    tokens = [index_of.get(word, UNKNOWN_INDEX) for words in sentences for word in words]
    return np.array(tokens, np.int64), np.array([len(words) for words in sentences], np.int64)


def unknown_share(side):
    """The share of a side's words that are outside the vocabulary."""
    tokens, _ = side
    return float(np.mean(tokens == UNKNOWN_INDEX)) if len(tokens) else 0.


# ---- pairs to batches


def chosen(pairs, numbers):
    """The Pairs of these numbers (n,)."""
    return Pairs(*(_sentences(*side, numbers) for side in pairs))


def _sentences(tokens, lengths, numbers):
    ends = np.cumsum(lengths)
    parts = [tokens[end - length:end] for end, length in zip(ends[numbers], lengths[numbers], strict=True)]
    return np.concatenate(parts), lengths[numbers]


def batches_of_epoch(pairs, batch_size, seed, epoch):
    """The pairs of each batch of an epoch, a list of arrays of numbers: every pair once.

    The pairs are shuffled, and those of POOL batches sorted by length, so that the sentences of a batch are of similar
    length; then the batches are shuffled. The same seed and epoch give the same batches.
    """
    rng = np.random.default_rng([seed, epoch])
    source_lengths, target_lengths = pairs.source[1], pairs.target[1]
    order = rng.permutation(len(source_lengths))
    batches = []
    for start in range(0, len(order), POOL * batch_size):
        pool = order[start:start + POOL * batch_size]
        pool = pool[np.lexsort((target_lengths[pool], source_lengths[pool]))]
        batches += [pool[first:first + batch_size] for first in range(0, len(pool), batch_size)]
    return [batches[k] for k in rng.permutation(len(batches))]


def batch_chooser(pairs, batch_size, seed):
    """A function iteration (from 0) -> the numbers of the pairs of its batch; and how many batches an epoch has."""
    of_epoch = lru_cache(1)(lambda epoch: batches_of_epoch(pairs, batch_size, seed, epoch))
    num_batches = -(-len(pairs.source[1]) // batch_size)
    return (lambda it: of_epoch(it // num_batches)[it % num_batches]), num_batches

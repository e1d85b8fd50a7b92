"""Which words a model knows, and their indices.

Index 0 is START ('#START#') on the way in and END ('.') on the way out; words follow from 1 in the order of their first
occurrence. Tokens become indices by one lookup table; indices become words for pages and results only. Knows nothing of
images or models.
"""

from typing import NamedTuple

import numpy as np

from imagernn.errors import InputError

START = '#START#'
END = '.'
MOST_DROPPED = .1    # of the tokens of a text: more is worth a warning


class Coverage(NamedTuple):
    """How much of a text a vocabulary knows."""

    num_words: int           # different words
    unknown_words: int       # those of them that it does not know
    num_tokens: int
    unknown_tokens: int

    @property
    def unknown_share(self):
        """The share of the tokens that it does not know."""
        return self.unknown_tokens / max(1, self.num_tokens)


def build_vocab(tokens, words, num_sentences, word_count_threshold):
    """Choose the vocabulary of a training split.

    tokens (P,): the split's tokens as places in words, a list of the different strings; num_sentences: how many
    sentences they make; word_count_threshold: the least number of occurrences of a word that stays.
    Returns wordtoix (word -> index), ixtoword (index -> word) and bias_init_vector, (V,) float64: the log frequency of
    each word minus the largest, END counted once a sentence. (Karpathy & Fei-Fei 2015, released code.)
    Raises InputError where no word stays.
    """
    counts = np.bincount(tokens, minlength=len(words))                          # (len(words),)
    places, first = np.unique(tokens, return_index=True)
    places = places[np.argsort(first)]                                          # in the order of first occurrence
    kept = [place for place in places[counts[places] >= word_count_threshold].tolist() if words[place] != START]
    if not kept:
        raise InputError(f'--word_count_threshold {word_count_threshold}: no training word occurs that often '
                         f'(the most frequent one: {counts.max(initial=0)} times); lower it to '
                         f'{threshold_for(counts, MOST_DROPPED)}')
    chosen = [words[place] for place in kept]
    wordtoix = {START: 0, **{word: ix for ix, word in enumerate(chosen, start=1)}}
    ixtoword = {0: END, **dict(enumerate(chosen, start=1))}
    frequencies = np.array([num_sentences, *counts[kept]], np.float64)
    bias_init_vector = np.log(frequencies / frequencies.sum())
    return wordtoix, ixtoword, bias_init_vector - bias_init_vector.max()


def lookup_table(words, wordtoix):
    """The index of each of a list of words, -1 for those outside the vocabulary: (len(words),) int64."""
    return np.array([-1 if word == START else wordtoix.get(word, -1) for word in words], np.int64)


def coverage(counts, lookup):
    """The Coverage of a text by a vocabulary's lookup_table (W,); counts (W,): how often each word occurs."""
    unknown = lookup < 0
    words = counts > 0
    return Coverage(int(words.sum()), int(words[unknown].sum()), int(counts.sum()), int(counts[unknown].sum()))


def threshold_for(counts, most_dropped):
    """The word_count_threshold that drops most of the rare words, but at most this share of the tokens; 1 drops none.

    counts (W,): how often each word occurs.
    """
    occurrences, words = np.unique(counts[counts > 0], return_counts=True)
    dropped = np.cumsum(occurrences * words)    # by a threshold above each
    below = occurrences[dropped <= most_dropped * counts.sum()]
    return int(below.max(initial=0)) + 1


def decode(indices, ixtoword):
    """Word indices -> list of words; index 0, which is END, is left out wherever it stands."""
    return [ixtoword[ix] for ix in indices if ix != 0]


def check_vocab(checkpoint):
    """InputError unless a checkpoint's wordtoix and ixtoword are there, and number its words from 0 without a gap."""
    for name in ('wordtoix', 'ixtoword'):
        if name not in checkpoint:
            raise InputError(f'has no {name!r}: not a checkpoint of a model of words, or one that has lost a part')
        if not isinstance(checkpoint[name], dict):
            raise InputError(f'its {name!r} is a {type(checkpoint[name]).__name__}, expected a dict')
    wordtoix, ixtoword = checkpoint['wordtoix'], checkpoint['ixtoword']
    for word, ix in [*wordtoix.items(), *((word, ix) for ix, word in ixtoword.items())]:
        if not isinstance(word, str) or not isinstance(ix, (int, np.integer)) or isinstance(ix, bool) or ix < 0:
            word, ix = (' '.join(f'{value!r:.60}'.split()) for value in (word, ix))    # an array has several lines
            raise InputError(f'its vocabulary pairs {word} with {ix}, expected a word and a whole number')
    if strays := [word for word, ix in wordtoix.items() if ix not in ixtoword]:
        raise InputError(f'its word {strays[0]!r:.60} has an index that ixtoword lacks')
    if set(ixtoword) != set(range(len(ixtoword))):
        raise InputError(f'its {len(ixtoword)} words are not numbered from 0 to {len(ixtoword) - 1}')

"""Which words the model knows, and where they stand.

Index 0 is START ('#START#') on the way in and END ('.') on the way out; words follow from 1 in the order of
their first occurrence. Knows nothing of images or models.
"""

from collections import Counter

import numpy as np

from imagernn.errors import InputError

START = '#START#'
END = '.'


def build_vocab(sentences, word_count_threshold):
    """Choose the vocabulary of a training split.

    sentences: an iterable of token lists; word_count_threshold: the least number of occurrences of a word that stays.
    Returns wordtoix (word -> index), ixtoword (index -> word) and bias_init_vector, (V,) float64: the log frequency
    of each word minus the largest, END counted once a sentence. (Karpathy & Fei-Fei 2015, released code.)
    Raises InputError where no word stays.
    """
    counts, num_sentences = Counter(), 0
    for tokens in sentences:
        counts.update(tokens)
        num_sentences += 1
    words = [word for word, count in counts.items() if count >= word_count_threshold and word != START]
    if not words:
        raise InputError(f'--word_count_threshold {word_count_threshold}: no training word occurs so often '
                         f'(the most frequent one: {max(counts.values(), default=0)} times); lower it')
    wordtoix = {START: 0, **{word: ix for ix, word in enumerate(words, start=1)}}
    ixtoword = {0: END, **dict(enumerate(words, start=1))}
    frequencies = np.array([num_sentences] + [counts[word] for word in words], dtype=np.float64)
    bias_init_vector = np.log(frequencies / frequencies.sum())
    return wordtoix, ixtoword, bias_init_vector - bias_init_vector.max()


def encode(tokens, wordtoix):
    """Token list -> list of word indices; words outside the vocabulary are dropped, as in NeuralTalk."""
    return [wordtoix[word] for word in tokens if word in wordtoix and word != START]


def decode(indices, ixtoword):
    """Word indices -> list of words; a closing END is left out."""
    return [ixtoword[ix] for ix in indices if ix != 0]

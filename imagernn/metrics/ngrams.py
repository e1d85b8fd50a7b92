"""Captions as integers, and the n-grams that BLEU and CIDEr count, counted once for both.

Knows captions as lists of tokens, compared as they are: no lower-casing, no stemming. Knows no score.
"""

from collections import defaultdict
from itertools import chain, count
from typing import NamedTuple

import numpy as np

ORDERS = range(1, 5)  # every metric here uses 1- to 4-grams


class Captions(NamedTuple):
    """C captions of n images, T words in all: image after image, its candidate first and then its references."""

    words: np.ndarray  # (T,) the same number for the same token, from 0
    lengths: np.ndarray  # (C,) words in each caption
    image: np.ndarray  # (C,) whose it is
    is_candidate: np.ndarray  # (C,) bool


class Ngrams(NamedTuple):
    """Every different n-gram of every caption, for one n: K entries sorted by n-gram, then by caption.

    An image's captions follow each other, so the entries of one n-gram in one image do, too: a group of entries, first
    the candidate's if it has one.
    """

    ngram: np.ndarray  # (K,) which, from 0
    caption: np.ndarray  # (K,) in which caption
    count: np.ndarray  # (K,) how often
    starts: np.ndarray  # (G,) the first entry of each group


def read_captions(candidates, references):
    """Captions of n token lists and n lists of token lists. Raises ValueError for input that cannot be scored."""
    check_captions(candidates, references)
    captions = list(chain.from_iterable((candidate, *image_references)
                                        for candidate, image_references in zip(candidates, references, strict=True)))
    lengths = np.array([len(caption) for caption in captions])
    number = defaultdict(count().__next__)  # a token that is new gets the next number
    words = np.fromiter(map(number.__getitem__, chain.from_iterable(captions)), np.int64, lengths.sum())
    sizes = np.array([1 + len(image_references) for image_references in references])
    is_candidate = np.zeros(len(captions), bool)
    is_candidate[np.cumsum(sizes) - sizes] = True
    return Captions(words, lengths, np.repeat(np.arange(len(sizes)), sizes), is_candidate)


def count_ngrams(captions):
    """Ngrams for n = 1..4, a list of four.

    An n-gram is known by the number of its first n - 1 words together, and its last word. The sort is stable and the
    occurrences come caption by caption, so equal ones lie side by side and are counted by where the next begins.
    """
    words, ends = captions.words, np.cumsum(captions.lengths)  # (T,), (C,)
    caption_of = np.repeat(np.arange(len(ends)), captions.lengths)  # (T,)
    left = ends[caption_of] - np.arange(len(words))  # (T,) words from here to the caption's end
    number_of = np.zeros(len(words), np.int64)  # (T,) of the n-gram that begins here
    counted = []
    for n in ORDERS:
        places = np.flatnonzero(left >= n)  # (P,) where an n-gram begins
        keys = number_of[places] * (len(words) + 1) + words[places + n - 1]
        order = np.argsort(keys, kind='stable')
        places, new = places[order], begins(keys[order])
        numbers = np.cumsum(new) - 1
        number_of[places] = numbers
        entries = np.flatnonzero(new | begins(caption_of[places]))  # (K,)
        ngram, caption = numbers[entries], caption_of[places[entries]]
        starts = np.flatnonzero(begins(ngram) | begins(captions.image[caption]))
        counted.append(Ngrams(ngram, caption, np.diff(entries, append=len(places)), starts))
    return counted


def begins(values):
    """Where a run of equal values begins: bool, of the same shape (m,). values are at least 0."""
    return np.diff(values, prepend=-1) != 0


def check_captions(candidates, references):
    """Refuse what no metric can score.

    candidates: list of n token lists, one an image (a token list may be empty).
    references: list of n lists of token lists; at least one an image, any number.
    Raises ValueError: no candidates; lists of different length; an image without references; a string where a token
    list belongs (its letters would be scored as words). The message names the index of the image.
    """
    if len(candidates) != len(references):
        raise ValueError(f'{len(candidates)} candidates but references for {len(references)} images: '
                         'give one candidate and one list of references for each image')
    if len(candidates) == 0:
        raise ValueError('no candidates to score: give at least one caption')
    for index, (candidate, image_references) in enumerate(zip(candidates, references, strict=True)):
        if not image_references:
            raise ValueError(f'image {index} has no references: each image needs at least one')
        if isinstance(image_references, str) or any(isinstance(caption, str)
                                                    for caption in [candidate, *image_references]):
            raise ValueError(f'image {index} has a caption that is a string, not a list of tokens: split it first')

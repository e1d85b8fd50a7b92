"""Captions as integers, and their n-grams, counted once for both BLEU and CIDEr.

A caption is a list of tokens, which are compared as they are: no lower-casing, no stemming. Computes no score.
"""

from collections import defaultdict
from itertools import chain, count
from typing import NamedTuple

import numpy as np

ORDERS = range(1, 5)  # every metric here uses 1- to 4-grams


class Captions(NamedTuple):
    """C captions of n images with T words in total. Each image's candidate comes first, followed by its references."""

    words: np.ndarray  # (T,) integers from 0: equal tokens have equal numbers
    lengths: np.ndarray  # (C,) number of words in each caption
    image: np.ndarray  # (C,) index of the image that the caption belongs to
    is_candidate: np.ndarray  # (C,) bool


class Ngrams(NamedTuple):
    """The distinct n-grams of every caption, for one n: K entries sorted by n-gram, then by caption.

    The captions of an image are adjacent, and so the entries of one n-gram in one image are adjacent too. They form one
    of G groups. If the candidate contains the n-gram, its entry is the first of the group.
    """

    ngram: np.ndarray  # (K,) number of the n-gram, from 0
    caption: np.ndarray  # (K,) index of the caption
    count: np.ndarray  # (K,) how often the caption contains the n-gram
    starts: np.ndarray  # (G,) index of the first entry of each group
    first: np.ndarray  # for each n-gram, where in Captions.words it occurs first


def read_captions(candidates, references):
    """The Captions of n token lists and n lists of token lists. Arguments and errors as in check_captions."""
    check_captions(candidates, references)
    captions = list(chain.from_iterable((candidate, *image_references)
                                        for candidate, image_references in zip(candidates, references, strict=True)))
    lengths = np.array([len(caption) for caption in captions])
    number = defaultdict(count().__next__)  # a new token gets the next number
    words = np.fromiter(map(number.__getitem__, chain.from_iterable(captions)), np.int64, lengths.sum())
    sizes = np.array([1 + len(image_references) for image_references in references])
    is_candidate = np.zeros(len(captions), bool)
    is_candidate[np.cumsum(sizes) - sizes] = True
    return Captions(words, lengths, np.repeat(np.arange(len(sizes)), sizes), is_candidate)


def count_ngrams(captions):
    """The n-grams of all captions: a list of four Ngrams, for n = 1 to 4.

    The key of an n-gram is the number of the (n-1)-gram at its start together with its last word. Sorting by this key
    makes equal n-grams adjacent. The sort is stable and the occurrences come caption by caption, so those in the same
    caption stay adjacent too, and their number is the distance to the next such run.
    """
    words = captions.words  # (T,)
    ends = np.cumsum(captions.lengths)  # (C,)
    caption_of = np.repeat(np.arange(len(ends)), captions.lengths)  # (T,)
    left = ends[caption_of] - np.arange(len(words))  # (T,) words from here to the caption's end
    number_of = np.zeros(len(words), np.int64)  # (T,) number of the (n-1)-gram that begins here
    counted = []
    for n in ORDERS:
        places = np.flatnonzero(left >= n)  # (P,) where an n-gram begins
        keys = number_of[places] * (len(words) + 1) + words[places + n - 1]  # (P,)
        order = np.argsort(keys, kind='stable')
        places = places[order]
        new = begins(keys[order])  # (P,) bool
        numbers = np.cumsum(new) - 1
        number_of[places] = numbers
        entries = np.flatnonzero(new | begins(caption_of[places]))  # (K,)
        ngram = numbers[entries]
        caption = caption_of[places[entries]]
        starts = np.flatnonzero(begins(ngram) | begins(captions.image[caption]))
        counted.append(Ngrams(ngram, caption, np.diff(entries, append=len(places)), starts, places[new]))
    return counted


def begins(values):
    """True where a run of equal values begins: (m,). values: (m,), none of them negative."""
    return np.diff(values, prepend=-1) != 0


def check_captions(candidates, references):
    """Raise ValueError for input that no metric can score.

    candidates: a list of n token lists, one per image; a token list may be empty.
    references: a list of n lists of token lists, one or more per image.
    The errors are: no candidates; lists of different lengths; an image without references; a string in place of a token
    list, whose letters would be scored as words. The message gives the index of the image.
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

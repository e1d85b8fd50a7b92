"""Pairs of sentences as one Batch of packed integers, and a Batch dealt to several threads."""

from typing import NamedTuple

import numpy as np

from imagernn.nn.packing import Packed, pack, split, take


class Batch(NamedTuple):
    """N pairs of sentences, the sides packed each by its own lengths. The order of both is that of the pairs given."""

    source: Packed    # its inputs are read: START, w1, …, wn
    target: Packed


def make_batch(source_words, source_lengths, target_words, target_lengths):
    """A Batch of N pairs: of each side the word indices of its sentences (K,), one after another, and the number of
    words of each (N,), 0 allowed.
    """
    return Batch(pack(source_words, source_lengths), pack(target_words, target_lengths))


def target_places(batch):
    """The place among the packed targets of each packed source's pair, (N,)."""
    by_pair = np.argsort(batch.target.order)
    return by_pair[np.argsort(np.argsort(batch.source.order))]


def deal(batch, n):
    """Deal the pairs to n Batches of similar lengths; to fewer if there are fewer.

    Returns a list of (part, source rows, target rows): a Batch, and which packed rows of each side it took.
    """
    parts = split(batch.target, n)
    if len(parts) == 1:
        return [(batch, slice(None), slice(None))]
    dealt, places = [], target_places(batch)
    for target, sentences, target_rows in parts:
        source, source_rows = take(batch.source, np.flatnonzero(np.isin(places, sentences)))
        dealt.append((Batch(source, target), source_rows, target_rows))
    return dealt

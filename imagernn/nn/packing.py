"""Sequences of unequal lengths as packed arrays, in which no row is padding.

Sentences are sorted by length, longest first, and laid out time-major: the rows of all sentences that are alive at step
t stand together, and they continue the first batch_sizes[t] rows of the step before. PyTorch calls this a
PackedSequence. Knows nothing of what the words mean, except that index 0 is START on input and END on output.
"""

from typing import NamedTuple

import numpy as np


class Packed(NamedTuple):
    """N sentences of T steps at most; P = sum of (words + 1) over the sentences, because END is a step too."""

    inputs: np.ndarray        # (P,), START, w1, w2, … : the word that goes in
    targets: np.ndarray       # (P,), w1, w2, …, END : the word that should come out
    batch_sizes: np.ndarray   # (T,), sentences alive at each step, never increasing
    order: np.ndarray         # (N,), where each packed sentence stood in what was given


def pack(words, lengths):
    """Pack N sentences of word indices.

    words (K,) holds the sentences one after another, lengths (N,) the number of words of each, 0 allowed.
    Returns Packed. Sentences of equal length keep their order.
    """
    N = len(lengths)
    order = np.argsort(-lengths, kind='stable')
    steps = lengths[order] + 1                                                  # (N,)
    alive = np.arange(steps[0])[:, None] < steps                                # (T, N)

    # a table of T + 1 rows and a column for each packed sentence: START, its words, END; 0 is both
    column = np.empty(N, np.int64)
    column[order] = np.arange(N)
    sentence = np.repeat(np.arange(N), lengths)                                 # (K,)
    position = np.arange(len(words)) - (np.cumsum(lengths) - lengths)[sentence]
    table = np.zeros((steps[0] + 1, N), np.int64)
    table[position + 1, column[sentence]] = words
    return Packed(table[:-1][alive], table[1:][alive], alive.sum(axis=1), order)


def unpack(values, packed):
    """Values (P, …) of packed words -> a list with each sentence's own, (length + 1, …), in the order given to pack."""
    alive = np.arange(packed.batch_sizes[0]) < packed.batch_sizes[:, None]      # (T, N)
    table = np.zeros((*alive.shape, *values.shape[1:]), values.dtype)
    table[alive] = values
    steps = alive.sum(axis=0)                                                   # (N,)
    return [table[:steps[column], column] for column in np.argsort(packed.order)]


def split(packed, n):
    """Deal the sentences to n parts like cards, so that the parts have similar lengths; fewer if there are fewer.

    Returns a list of (part, sentences, rows): a Packed, and which packed sentences and which of the P rows it took.
    """
    N = len(packed.order)
    n = min(n, N)
    if n == 1:
        return [(packed, slice(None), slice(None))]
    parts = []
    for k in range(n):
        sentences = np.arange(k, N, n)
        part, rows = take(packed, sentences)
        parts.append((part, sentences, rows))
    return parts


def take(packed, sentences):
    """Some of the packed sentences.

    sentences (n,): their places, in ascending order. Returns a Packed, and which of the P rows it took.
    """
    taken = np.zeros(len(packed.order), bool)
    taken[sentences] = True
    rows = np.flatnonzero(np.concatenate([taken[:alive] for alive in packed.batch_sizes]))
    batch_sizes = np.cumsum(taken)[packed.batch_sizes - 1]                      # (T,)
    return Packed(packed.inputs[rows], packed.targets[rows], batch_sizes[batch_sizes > 0],
                  packed.order[sentences]), rows


def packed_steps(batch_sizes):
    """The rows of every step but the first, beside the rows of the step before that they continue.

    batch_sizes (T,), never increasing -> T - 1 pairs (before, now) of slices of equal length.
    """
    stops = np.cumsum(batch_sizes)
    return [(slice(int(start), int(start + n)), slice(int(stop - n), int(stop)))
            for start, n, stop in zip(stops - batch_sizes, batch_sizes[1:], stops[1:], strict=False)]


def last_rows(batch_sizes):
    """The row of each sentence's last step: batch_sizes (T,) -> (N,)."""
    batch_sizes = np.asarray(batch_sizes)
    columns = np.arange(batch_sizes[0])
    last_step = (batch_sizes[:, None] > columns).sum(axis=0) - 1                # (N,)
    return (np.cumsum(batch_sizes) - batch_sizes)[last_step] + columns


def columns_and_steps(batch_sizes):
    """Where the rows of a packed batch stand in a padded one: batch_sizes (T,) -> columns (P,), steps (P,).

    padded[columns, steps] are the packed rows of padded (N, T, …).
    """
    return (np.concatenate([np.arange(alive) for alive in batch_sizes]),
            np.repeat(np.arange(len(batch_sizes)), batch_sizes))


def reversing(batch_sizes):
    """The rows that turn each sentence of a packed batch round: batch_sizes (T,) -> (P,).

    X[rows] has every sentence's steps in reverse order, packed by the same batch_sizes; applied twice it changes
    nothing.
    """
    batch_sizes = np.asarray(batch_sizes)
    columns, steps = columns_and_steps(batch_sizes)
    lengths = (batch_sizes[:, None] > np.arange(batch_sizes[0])).sum(axis=0)    # (N,)
    starts = np.cumsum(batch_sizes) - batch_sizes                               # (T,)
    return starts[lengths[columns] - 1 - steps] + columns


def by_sentence(batch_sizes):
    """The packed rows sentence by sentence: batch_sizes (T,) -> rows (P,), starts (N + 1,).

    X[rows] has the steps of the first packed sentence, then those of the second, …; sentence i's are at starts[i] to
    starts[i + 1].
    """
    alive = np.arange(batch_sizes[0]) < np.asarray(batch_sizes)[:, None]        # (T, N)
    places = np.zeros(alive.shape, np.int64)
    places[alive] = np.arange(alive.sum())
    return places.T[alive.T], np.concatenate([[0], np.cumsum(alive.sum(axis=0))])

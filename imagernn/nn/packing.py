"""Sequences of unequal lengths as packed arrays: no row is padding.

Sentences are sorted by length, longest first, and laid out time-major: the rows alive at step t stand together, and
they are the first batch_sizes[t] rows of the step before. (PyTorch calls this a PackedSequence.)
"""

import numpy as np


def packed_steps(batch_sizes):
    """Of a packed batch, the rows of every step but the first, beside the rows they follow from in the step before.

    batch_sizes (T,), never increasing -> T - 1 pairs (before, now) of slices of equal length.
    """
    stops = np.cumsum(batch_sizes)
    return [(slice(int(start), int(start + n)), slice(int(stop - n), int(stop)))
            for start, n, stop in zip(stops - batch_sizes, batch_sizes[1:], stops[1:], strict=False)]




def pack(sentences):
    """Lists of word indices -> inputs (P,), targets (P,), batch_sizes (T,), order (N,); equal lengths stay in order."""
    steps = np.array([len(sentence) + 1 for sentence in sentences])             # END is a step too
    order = np.argsort(-steps, kind='stable')
    steps = steps[order]
    alive = np.arange(steps[0])[:, None] < steps                                # (T, N)
    words = np.zeros((steps[0] + 1, len(steps)), dtype=np.int64)                # START, the words, END: 0 is both
    for column, index in enumerate(order):
        words[1:steps[column], column] = sentences[index]
    return words[:-1][alive], words[1:][alive], alive.sum(axis=1), order


def unpack(values, batch_sizes, order):
    """Of each word that pack laid out a value (P,) -> for each sentence, in the order that pack was given, its own."""
    alive = np.arange(batch_sizes[0]) < batch_sizes[:, None]                    # (T, N)
    table = np.zeros(alive.shape, values.dtype)
    table[alive] = values
    steps = alive.sum(axis=0)                                                   # (N,)
    return [table[:steps[column], column] for column in np.argsort(order)]

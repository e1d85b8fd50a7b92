"""How well a language model predicts a text."""

import numpy as np

from imagernn.nn.packing import pack
from imagernn.textgen.model import forward, windows

LINES_AT_ONCE = 100
LENGTH = 200       # of a window; the state is carried on, so that it changes nothing but the memory
MOST_PARTS = 64    # of a stream, read side by side: each starts without what stands before it
LEAST_PART = 2000  # tokens: the start is then a small part of it


def nats_of(split, model, params, workers=None):
    """The mean of -ln p over the characters or words of a split, (tokens, lengths); END counts in lines.

    A stream is read in up to MOST_PARTS parts side by side, each of which starts from the state of zeros.
    """
    tokens, lengths = split
    total, count = 0., 0
    if params['lines']:
        for first in range(0, len(lengths), LINES_AT_ONCE):
            numbers = np.arange(first, min(first + LINES_AT_ONCE, len(lengths)))
            logprobs, _, _ = forward(pack(*lines_from(tokens, lengths, numbers)), model, params)
            total, count = total + float(logprobs.sum(dtype=np.float64)), count + len(logprobs)
        return -total / max(1, count)
    state, parts = None, max(1, min(MOST_PARTS, len(tokens) // LEAST_PART))
    for batch in windows(tokens, parts, LENGTH):
        logprobs, state, _ = forward(batch, model, params, state)
        state = [tuple(array.copy() for array in part) for part in state]
        total, count = total + float(logprobs.sum(dtype=np.float64)), count + len(logprobs)
    return -total / max(1, count)


def lines_from(tokens, lengths, numbers):
    """The tokens of lines, by number (n,), one after another, and their lengths."""
    starts = np.cumsum(lengths) - lengths
    chosen = [tokens[starts[number]:starts[number] + lengths[number]] for number in numbers]
    return np.concatenate(chosen), lengths[numbers]

"""How well a language model predicts a text."""

import numpy as np

from imagernn.nn.packing import pack, split
from imagernn.nn.workers import Workers
from imagernn.textgen.model import forward, windows

LINES_AT_ONCE = 100
LENGTH = 50        # of a window; the state is carried on, so that it changes nothing but the memory
MOST_PARTS = 64    # of a stream, read side by side: each starts without what stands before it
LEAST_PART = 2000  # tokens: the start is then a small part of it


def nats_of(part, model, params, workers=None):
    """The mean of -ln p over the characters or words of a split, (tokens, lengths); END counts in lines.

    A stream is read in up to MOST_PARTS parts side by side, each of which starts from the state of zeros. Each thread
    takes some of the parts, or of the lines.
    """
    workers = workers or Workers()
    total, count = 0., 0

    def run(work):
        ((packed, _, _), state), scratch = work
        logprobs, last, _ = forward(packed, model, params, state, scratch=scratch)
        return float(logprobs.sum(dtype=np.float64)), [tuple(array.copy() for array in layer) for layer in last]

    states = nothing = [None] * workers.num_parts
    for batch in _batches(*part, params['lines']):
        work = list(zip(split(batch, workers.num_parts), states, strict=False))
        sums, lasts = zip(*workers.ranks.gather(workers.run_share(run, work)), strict=True)
        states = nothing if params['lines'] else lasts
        total, count = total + sum(sums), count + len(batch.targets)
    return -total / max(1, count)


def _batches(tokens, lengths, lines):
    """Packed batches of all lines, or the windows of a stream in their order."""
    if not lines:
        return windows(tokens, max(1, min(MOST_PARTS, len(tokens) // LEAST_PART)), LENGTH)
    return (pack(*lines_from(tokens, lengths, np.arange(first, min(first + LINES_AT_ONCE, len(lengths)))))
            for first in range(0, len(lengths), LINES_AT_ONCE))


def lines_from(tokens, lengths, numbers):
    """The tokens of lines, by number (n,), one after another, and their lengths."""
    starts = np.cumsum(lengths) - lengths
    chosen = [tokens[starts[number]:starts[number] + lengths[number]] for number in numbers]
    return np.concatenate(chosen), lengths[numbers]

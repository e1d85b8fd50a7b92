"""How well a translation model predicts given translations."""

import numpy as np

from imagernn.nn.workers import Workers
from imagernn.translation.batch import make_batch
from imagernn.translation.model import sum_of_logprobs
from imagernn.translation.text import chosen

PAIRS_AT_ONCE = 100


def nats_of(pairs, model, params, workers=None):
    """The mean of -ln p over the target words of Pairs, END included. The threads share the pairs."""
    order = np.lexsort((pairs.target[1], pairs.source[1]))    # of similar lengths together
    parts = [order[first:first + PAIRS_AT_ONCE] for first in range(0, len(order), PAIRS_AT_ONCE)]

    def run(numbers):
        part = chosen(pairs, numbers)
        return sum_of_logprobs(make_batch(*part.source, *part.target), model, params)

    sums, counts = zip(*(workers or Workers()).run(run, parts), strict=True)
    return -sum(sums) / sum(counts)

"""The work that is given to both: sizes, batches, images; and how many operations a step takes."""

from typing import NamedTuple

import numpy as np

from imagernn.captioning.batch import Batch
from imagernn.nn.packing import pack


class Size(NamedTuple):
    name: str
    words: int              # of the vocabulary, END not counted
    hidden: int             # of the hidden state and of both encodings
    sentences: int = 100    # of a batch
    features: int = 4096    # of an image

    @property
    def V(self):
        return self.words + 1


SIZES = {
    'flickr8k': Size('Flickr8K', 2537, 256),
    'coco': Size('COCO', 8800, 512),
    'large': Size('larger', 8800, 1024),
}


def random_batch(size, rng):
    """A Batch of random sentences, of COCO's lengths (mean 10.5 words), words by Zipf's law, and an image for each."""
    N = size.sentences
    lengths = np.clip(rng.normal(10.5, 2.4, N).round().astype(int), 5, 25)
    inputs, targets, batch_sizes, order = pack([_zipf_words(size.words, length, rng) for length in lengths])
    return Batch(_features(N, size.features, rng), np.arange(N), inputs, targets, batch_sizes, order)


def _zipf_words(words, n, rng):
    """n indices from 1 to words, k with a probability about as 1/k."""
    return np.floor((words + 1) ** rng.random(n)).astype(int)


def _features(n, D, rng):
    """As a ReLU leaves them, (n, D): one in ten is positive."""
    return np.where(rng.random((n, D)) < .1, rng.exponential(.5, (n, D)), 0).astype(np.float32)


def blended_features(features, n, rng):
    """n images (n, D), each somewhere between two of features (M, D)."""
    one, other = features[rng.integers(len(features), size=(2, n))]
    share = rng.random((n, 1), np.float32)
    return share * one + (1 - share) * other


def step_operations(P, size, generator):
    """Floating-point operations in the matrix products of a training step on P words.

    Two a weight and row, once forward and twice backward. The features need no gradient: they take one backward. Before
    a sentence's first step there is no hidden state to multiply; the LSTM's gradient alone takes these zeros along.
    """
    N, H = size.sentences, size.hidden
    if generator == 'lstm':
        recurrent = 3 * (P + N) * 8 * H * H - 2 * N * 4 * H * H      # the image is a step, too
    else:
        recurrent = 3 * P * 2 * H * H - 3 * N * H * H
    return 2 * (3 * P * H * size.V + recurrent + 2 * N * size.features * H)

"""The work that both sides are given: sizes, random batches and images, and the operations of a training step.

Knows the shapes of the data; runs no model.
"""

from typing import NamedTuple

import numpy as np
from coco_shaped import SENTENCES, draw_sentences

from imagernn.captioning.batch import make_batch


class Size(NamedTuple):
    name: str
    words: int              # in the vocabulary, without END
    hidden: int             # size of the hidden state and of both encodings
    sentences: int = 100    # in a batch
    features: int = 4096    # numbers per image, and per region of an image
    regions: int = 0        # of an image, at which attention looks
    attention: int = 0      # size of the keys of attention

    @property
    def V(self):
        return self.words + 1


SIZES = {
    'flickr8k': Size('Flickr8K', 2537, 256),
    'coco': Size('COCO', 8800, 512),
    'large': Size('larger', 8800, 1024),
}
# of the jobs attention and self_critical: the features of EfficientNet-Lite0
PICTURES = Size('Flickr8K, 512', 2535, 512, features=1280)
REGIONS = PICTURES._replace(regions=26, attention=256)


def random_batch(size, rng):
    """A Batch of random sentences, each with an image of its own.

    The lengths are like those of COCO (10.5 words on average), and the words follow Zipf's law.
    """
    N = size.sentences
    lengths = np.clip(rng.normal(10.5, 2.4, N).round().astype(int), 5, 25)
    words = np.concatenate([_zipf_words(size.words, length, rng) for length in lengths])
    batch = make_batch(random_images(size, N, rng), np.arange(N), words, lengths)
    return batch._replace(image_rows=np.arange(N))    # the longest sentence has the first image, and so on


def random_references(images, rng):
    """Five sentences of each image, as coco_shaped.py draws them: lists of word indices from 1, rare ones included."""
    ranks, lengths = draw_sentences(np.repeat(rng.random(images), SENTENCES), rng)
    sentences = [sentence.tolist() for sentence in np.split(ranks + 1, np.cumsum(lengths)[:-1])]
    return [sentences[start:start + SENTENCES] for start in range(0, len(sentences), SENTENCES)]


def random_images(size, n, rng):
    """The features of n images of this size, (n, D)."""
    return _features(n, (1 + size.regions) * size.features, rng)


def first_references(references, size, features):
    """The Batch of one sentence of each image, without its words outside the vocabulary."""
    known = [[ix for ix in sentences[0] if ix <= size.words] for sentences in references[:len(features)]]
    words, lengths = np.concatenate(known).astype(int), np.array(list(map(len, known)))
    return make_batch(features, np.arange(len(features)), words, lengths)


def _zipf_words(words, n, rng):
    """n word indices from 1 to words; the probability of index k is about proportional to 1/k."""
    return np.floor((words + 1) ** rng.random(n)).astype(int)


def _features(n, D, rng):
    """Features (n, D) like the output of a ReLU: one in ten is positive, the others are 0."""
    return np.where(rng.random((n, D)) < .1, rng.exponential(.5, (n, D)), 0).astype(np.float32)


def blended_features(features, n, rng):
    """n images (n, D), each a random blend of two rows of features (M, D)."""
    one, other = features[rng.integers(len(features), size=(2, n))]
    share = rng.random((n, 1), np.float32)
    return share * one + (1 - share) * other


def step_operations(P, size, generator):
    """Floating-point operations in the matrix products of one training step on P words (END included).

    A product takes two operations per weight and row. For each product forward there are two backward: the gradient of
    the weights and that of the input. The features need no gradient, so for them there is one. At a sentence's first
    step there is no hidden state to multiply; only the LSTM's weight gradient includes these rows of zeros.
    """
    N = size.sentences
    H = size.hidden
    if generator == 'lstm':
        recurrent = 3 * (P + N) * 8 * H * H - 2 * N * 4 * H * H      # the image is a step too
    else:
        recurrent = 3 * P * 2 * H * H - 3 * N * H * H
    return 2 * (3 * P * H * size.V + recurrent + 2 * N * size.features * H)

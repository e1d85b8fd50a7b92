"""The work that both sides are given: sizes, random batches and images, and the operations of a training step.

Knows the shapes of the data; runs no model.
"""

from typing import NamedTuple

import numpy as np
from coco_shaped import SENTENCES, draw_sentences

from imagernn.captioning.batch import make_batch
from imagernn.nn.packing import pack
from imagernn.ranking.model import Batch


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
# of the rankers, whose words are encoded as WORD_ENCODING numbers: batches and sizes of train-ranker in docs/ranking.md
RANKERS = {'sentences': Size('sentence vectors', 2537, 1024, sentences=128, features=1280, regions=1),
           'regions': Size('words and regions', 2537, 512, sentences=128, features=1280, regions=26)}
WORD_ENCODING = 300
# length in words, without words that occur fewer than five times: how many of the 30,000 training sentences of
# Flickr8K have it
FLICKR8K_LENGTHS = {1: 2, 2: 35, 3: 181, 4: 435, 5: 1033, 6: 2084, 7: 2743, 8: 3076, 9: 3382, 10: 3316, 11: 3118,
                    12: 2665, 13: 2159, 14: 1731, 15: 1234, 16: 871, 17: 629, 18: 431, 19: 317, 20: 172, 21: 109,
                    22: 97, 23: 63, 24: 44, 25: 31, 26: 13, 27: 7, 28: 9, 29: 5, 30: 3, 31: 2, 32: 1, 33: 1, 35: 1}


def random_batch(size, rng):
    """A Batch of random sentences, each with an image of its own.

    The lengths are like those of COCO (10.5 words on average), and the words follow Zipf's law.
    """
    N = size.sentences
    lengths = np.clip(rng.normal(10.5, 2.4, N).round().astype(int), 5, 25)
    words = np.concatenate([_zipf_words(size.words, length, rng) for length in lengths])
    batch = make_batch(random_images(size, N, rng), np.arange(N), words, lengths)
    return batch._replace(image_rows=np.arange(N))    # the longest sentence has the first image, and so on


def random_ranking_batch(size, rng):
    """A Batch of a ranker: random sentences with the lengths of Flickr8K's, and standardized features."""
    N, shares = size.sentences, np.array(list(FLICKR8K_LENGTHS.values())) / sum(FLICKR8K_LENGTHS.values())
    lengths = rng.choice(list(FLICKR8K_LENGTHS), N, p=shares)
    words = _zipf_words(size.words, lengths.sum(), rng)
    return Batch(rng.standard_normal((N, size.regions, size.features), np.float32), pack(words, lengths))


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

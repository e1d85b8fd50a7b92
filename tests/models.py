"""Small models and batches that several tests share."""

import numpy as np

from imagernn.captioning.batch import make_batch
from imagernn.captioning.model import init_model
from imagernn.corpus.vocab import START

VARIANTS = {
    'lstm': {'generator': 'lstm', 'tanhC_version': 0},
    'lstm_tanhC': {'generator': 'lstm', 'tanhC_version': 1},
    'rnn': {'generator': 'rnn', 'rnn_relu_encoders': 0, 'rnn_feed_once': 0},
    'rnn_relu': {'generator': 'rnn', 'rnn_relu_encoders': 1, 'rnn_feed_once': 0},
    'rnn_once': {'generator': 'rnn', 'rnn_relu_encoders': 0, 'rnn_feed_once': 1},
    'rnn_relu_once': {'generator': 'rnn', 'rnn_relu_encoders': 1, 'rnn_feed_once': 1},
}
# as unequal as each generator's equations allow
SIZES = {
    'lstm': {'image_encoding_size': 5, 'word_encoding_size': 5, 'hidden_size': 3},
    'rnn': {'image_encoding_size': 4, 'word_encoding_size': 6, 'hidden_size': 4},
}
D, V = 7, 11
# unequal lengths, one empty, one of a single word, two equal, repeated words; the second word list is the longest
SENTENCES = [[3, 1], [2, 5, 5, 9, 1, 4], [], [7], [10, 8, 6], [1, 1]]
IMAGES = [2, 0, 2, 1, 0, 2]    # images 0 and 2 have several sentences


class Rows:
    """In place of a feature file: imgid -> numbers."""

    def __init__(self, of_imgid):
        self.of_imgid = of_imgid

    def rows(self, imgids, dtype=np.float32):
        return np.array([self.of_imgid[imgid] for imgid in imgids], dtype)


def make_params(variant, **more):
    flags = VARIANTS[variant]
    return {**flags, **SIZES[flags['generator']], 'regc': .01, **more}


def make_model(params, seed, dtype=np.float64):
    """A model whose every parameter, the biases among them, is large enough to matter."""
    rng = np.random.default_rng(seed)
    model = init_model(params, D, np.zeros(V), rng, dtype)
    return {name: rng.uniform(-.6, .6, W.shape).astype(dtype) for name, W in model.items()}


def make_pairs(sentences=SENTENCES, images=IMAGES):
    return [{'image': {'imgid': imgid}, 'sentence': {'tokens': [str(ix) for ix in sentence]}}
            for sentence, imgid in zip(sentences, images, strict=True)]


def pack_pairs(pairs, dtype=np.float64):
    wordtoix = {START: 0, **{str(ix): ix for ix in range(1, V)}}
    features = Rows(np.random.default_rng(42).normal(size=(3, D)))
    return make_batch(pairs, features, wordtoix, dtype)

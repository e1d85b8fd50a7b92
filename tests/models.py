"""Small models and batches that several tests share."""

import numpy as np

from imagernn.captioning.batch import batch_of_pairs
from imagernn.captioning.model import init_model
from imagernn.corpus.captioned_images import DataProvider, Pairs
from imagernn.corpus.token_store import build_store
from imagernn.corpus.vocab import START, build_vocab, lookup_table

VARIANTS = {
    'lstm': {'generator': 'lstm', 'tanhC_version': 0},
    'lstm_tanhC': {'generator': 'lstm', 'tanhC_version': 1},
    'lstm_every': {'generator': 'lstm', 'image_at': 'every', 'tanhC_version': 1},
    'lstm_both': {'generator': 'lstm', 'image_at': 'both', 'tanhC_version': 0},
    'attention': {'generator': 'attention', 'image_at': 'first', 'tanhC_version': 1},
    'attention_every': {'generator': 'attention', 'image_at': 'every', 'tanhC_version': 0},
    'rnn': {'generator': 'rnn', 'rnn_relu_encoders': 0, 'rnn_feed_once': 0},
    'rnn_relu': {'generator': 'rnn', 'rnn_relu_encoders': 1, 'rnn_feed_once': 0},
    'rnn_once': {'generator': 'rnn', 'rnn_relu_encoders': 0, 'rnn_feed_once': 1},
    'rnn_relu_once': {'generator': 'rnn', 'rnn_relu_encoders': 1, 'rnn_feed_once': 1},
}
# as unequal as each generator's equations allow
SIZES = {
    'lstm': {'image_encoding_size': 5, 'word_encoding_size': 5, 'hidden_size': 3},
    'lstm_every': {'image_encoding_size': 4, 'word_encoding_size': 6, 'hidden_size': 3},
    'attention': {'image_encoding_size': 5, 'word_encoding_size': 5, 'hidden_size': 3, 'attention_size': 4},
    'attention_every': {'image_encoding_size': 4, 'word_encoding_size': 6, 'hidden_size': 3, 'attention_size': 5},
    'rnn': {'image_encoding_size': 4, 'word_encoding_size': 6, 'hidden_size': 4},
}
# the variants of NeuralTalk itself
NEURALTALK = [name for name, flags in VARIANTS.items() if 'image_at' not in flags]
D, V = 7, 11
R, D_REGION = 3, 6    # an image's regions, and their features
ROW = D + R * D_REGION    # all features of an image; models without attention leave out those of the regions
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
    return {**flags, **SIZES.get(variant, SIZES[flags['generator']]), 'regc': .01, **more}


def make_model(params, seed, dtype=np.float64):
    """A model whose every parameter, the biases among them, is large enough to matter."""
    rng = np.random.default_rng(seed)
    model = init_model(params, D, np.zeros(V), rng, dtype, D_REGION)
    return {name: rng.uniform(-.6, .6, W.shape).astype(dtype) for name, W in model.items()}


def make_pairs(sentences=SENTENCES, images=IMAGES):
    return [{'image': {'imgid': imgid}, 'sentence': {'tokens': [str(ix) for ix in sentence]}}
            for sentence, imgid in zip(sentences, images, strict=True)]


def make_provider(pairs, features, split='test'):
    """A DataProvider of pairs as NeuralTalk has them, each an image of its own with one sentence."""
    images = [{'filename': 'a.jpg', 'imgid': pair['image']['imgid'], 'split': split, 'sentences': [dict(sentence)]}
              for pair in pairs for sentence in [pair['sentence']]]
    return DataProvider(None, build_store(images), features)


def batch_of(pairs, features, wordtoix, dtype=np.float32):
    """The Batch of pairs as NeuralTalk has them."""
    provider, numbers = make_provider(pairs, features), np.arange(len(pairs))
    return batch_of_pairs(Pairs(numbers, numbers), provider, lookup_table(provider.words, wordtoix), dtype)


def pack_pairs(pairs, dtype=np.float64):
    wordtoix = {START: 0, **{str(ix): ix for ix in range(1, V)}}
    features = Rows(np.random.default_rng(42).normal(size=(3, ROW)))
    return batch_of(pairs, features, wordtoix, dtype)


def flat(sentences):
    """Lists of word indices as pack takes them: the words one after another, and the lengths."""
    words = [word for sentence in sentences for word in sentence]
    return np.array(words, np.int64), np.array([len(sentence) for sentence in sentences])


def vocab_of(sentences, threshold):
    """build_vocab of a list of token lists."""
    words = list(dict.fromkeys(word for sentence in sentences for word in sentence))
    tokens = np.array([words.index(word) for sentence in sentences for word in sentence], np.int64)
    return build_vocab(tokens, words, len(sentences), threshold)

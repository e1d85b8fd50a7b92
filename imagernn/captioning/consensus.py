"""Minimum Bayes risk decoding: of the captions drawn from a model, the one that is expected to score best.

(Kumar & Byrne 2004; the gain in place of a loss is CIDEr-D.) The drawn captions are both the candidates and, with equal
chances, the references that a candidate is scored against. Knows the decision; draws nothing.
"""

from collections import Counter
from itertools import chain

import numpy as np

from imagernn.metrics.cider import pairwise_cider
from imagernn.metrics.ngrams import ORDERS, Captions, count_ngrams
from imagernn.nn.layers import log_softmax


def word_rarity(models):
    """-ln p of each word (V,), float64, where p is what the models predict on average where the hidden state is zero.

    That is softmax(bd), which starts as the frequencies of the training words and stays close to them.
    """
    logprobs = [log_softmax(model['bd'].astype(np.float64))[0] for model in models]              # each (V,)
    return np.log(len(models)) - np.logaddexp.reduce(logprobs)


def by_expected_cider(sentences, rarity):
    """The different ones of some drawn search.Sentences of one image, the one with the least risk first.

    They are ordered by their mean CIDEr-D against all other sentences, equal ones counted as often as they were drawn,
    then by logprob. There are at least two sentences. In place of document frequencies, which a checkpoint lacks, an
    n-gram weighs as much as its words together, rarity (V,) each, as if they occurred independently of each other. So
    an image's caption depends on no other image.
    """
    drawn = Counter(tuple(sentence.words) for sentence in sentences)
    different = list({tuple(sentence.words): sentence for sentence in sentences}.values())    # in the order of drawn
    captions = _captions([[word for word in words if word] for words in drawn])
    ngrams = count_ngrams(captions)
    weights = [sum(rarity[captions.words[found.first + k]] for k in range(n))
               for n, found in zip(ORDERS, ngrams, strict=True)]
    gains = pairwise_cider(captions, ngrams, weights)                                            # (C, C)
    expected = (gains @ np.array(list(drawn.values())) - gains.diagonal()) / (len(sentences) - 1)
    logprobs = np.array([sentence.logprob for sentence in different])
    order = np.lexsort((-logprobs, -expected.round(9)))    # rounded, so that the order of a sum makes no difference
    return [different[place] for place in order]


def _captions(word_lists):
    """metrics' Captions of lists of word indices, all of the same image."""
    lengths = np.array(list(map(len, word_lists)))
    words = np.fromiter(chain.from_iterable(word_lists), np.int64, lengths.sum())
    return Captions(words, lengths, np.zeros(len(lengths), np.int64), np.zeros(len(lengths), bool))

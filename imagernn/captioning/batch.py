"""Image-sentence pairs as one Batch of integer arrays, and a Batch dealt to several threads."""

from typing import NamedTuple

import numpy as np

from imagernn.nn.packing import Packed, pack, split


class Batch(NamedTuple):
    """N sentences over M images."""

    features: np.ndarray      # (M, D), a row for each image
    image_rows: np.ndarray    # (N,), the row of features that each packed sentence belongs to
    sentences: Packed


def make_batch(features, image_rows, words, lengths):
    """A Batch of N sentences.

    features (M, D); image_rows (N,), the row of each sentence's image; words (K,), the word indices of the sentences
    one after another; lengths (N,), the number of words of each.
    """
    packed = pack(words, lengths)
    return Batch(features, image_rows[packed.order], packed)


def batch_of_pairs(pairs, provider, lookup, dtype=np.float32):
    """The Batch of a DataProvider's Pairs.

    lookup: vocab.lookup_table of the provider's words; words outside the vocabulary are dropped. An image that several
    pairs share is read and encoded once.
    """
    words, lengths = provider.indices(pairs.sentences, lookup)
    imgids, image_rows = np.unique(provider.imgids[pairs.images], return_inverse=True)
    return make_batch(provider.features.rows(imgids, dtype=dtype), image_rows, words, lengths)


def deal(batch, n):
    """Deal a Batch's sentences to n Batches of similar lengths; to fewer if there are fewer sentences.

    Returns a list of (part, sentences, rows): a Batch, and which packed sentences and packed rows it took.
    """
    parts = split(batch.sentences, n)
    if len(parts) == 1:
        return [(batch, *parts[0][1:])]
    dealt = []
    for packed, sentences, rows in parts:
        images, image_rows = np.unique(batch.image_rows[sentences], return_inverse=True)
        dealt.append((Batch(batch.features[images], image_rows, packed), sentences, rows))
    return dealt

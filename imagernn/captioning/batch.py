"""Image-sentence pairs -> one Batch of packed integer arrays."""

from typing import NamedTuple

import numpy as np

from imagernn.corpus.vocab import encode
from imagernn.nn.packing import pack


class Batch(NamedTuple):
    """N sentences over M images; P = sum of (words + 1) over the sentences; T = the longest one's steps."""

    features: np.ndarray      # (M, D), one row an image
    image_rows: np.ndarray    # (N,), which row of features each packed sentence belongs to
    inputs: np.ndarray        # (P,), START, w1, w2, … : the word that goes in
    targets: np.ndarray       # (P,), w1, w2, …, END : the word that must come out
    batch_sizes: np.ndarray   # (T,), sentences alive at each step, never increasing
    order: np.ndarray         # (N,), the packed sentences' places in what was given

    @property
    def num_sentences(self):
        return len(self.order)


def deal(batch, n):
    """Share a Batch's sentences out to n Batches, of like lengths, as one deals cards; to fewer if it has fewer.

    Returns a list of (part, sentences, words): the packed sentences and the packed rows that went into each part.
    """
    if n == 1 or batch.num_sentences == 1:
        return [(batch, slice(None), slice(None))]
    column = np.concatenate([np.arange(alive) for alive in batch.batch_sizes])  # (P,), each row's packed sentence
    n, parts = min(n, batch.num_sentences), []
    for k in range(n):
        sentences, words = slice(k, None, n), np.flatnonzero(column % n == k)
        images, image_rows = np.unique(batch.image_rows[sentences], return_inverse=True)
        batch_sizes = (batch.batch_sizes - k + n - 1) // n
        parts.append((Batch(batch.features[images], image_rows, batch.inputs[words], batch.targets[words],
                            batch_sizes[batch_sizes > 0], batch.order[sentences]), sentences, words))
    return parts


def make_batch(pairs, features, wordtoix, dtype=np.float32):
    """Image-sentence pairs of a data provider -> Batch.

    features: an object whose rows(imgids, dtype) gives (len(imgids), D); wordtoix: the vocabulary; words outside it
    are dropped. An image that several pairs share is read and encoded once.
    """
    inputs, targets, batch_sizes, order = pack([encode(pair['sentence']['tokens'], wordtoix) for pair in pairs])
    imgids, rows = np.unique([pair['image']['imgid'] for pair in pairs], return_inverse=True)
    return Batch(features.rows(imgids, dtype=dtype), rows[order], inputs, targets, batch_sizes, order)

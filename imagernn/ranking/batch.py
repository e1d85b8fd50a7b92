"""From a data provider to arrays of the ranking model: features, standardized, and packed sentences."""

import numpy as np

from imagernn.nn.packing import pack
from imagernn.ranking.model import Batch

STANDARD_IMAGES = 2000    # whose features give the mean and the scale
AT_ONCE = 200


def features_of(provider, images, ranker, dtype=np.float32):
    """The features of images, by number (n,): (n, R, D), of their regions, or with R = 1 of the whole pictures."""
    return split_rows(provider.features.rows(provider.imgids[images], dtype), provider.features.whole_dim,
                      provider.features.region_dim, ranker)


def split_rows(rows, whole_dim, region_dim, ranker):
    """Rows of Features (n, whole_dim + R·region_dim) -> what a ranker takes of them, (n, R, D)."""
    if ranker == 'sentences':
        return rows[:, None, :whole_dim]
    return rows[:, whole_dim:].reshape(len(rows), -1, region_dim)


def standard_of(provider, ranker):
    """The mean and the standard deviation of the features of (at most) STANDARD_IMAGES training images, spread over
    the split: a dict of 'mean' and 'scale', (1, D) float32. A feature that never varies has scale 1.
    """
    images = provider.image_numbers('train')
    images = images[np.linspace(0, len(images) - 1, min(len(images), STANDARD_IMAGES)).astype(np.int64)]
    count, total, squares = 0, 0., 0.
    for start in range(0, len(images), AT_ONCE):
        found = features_of(provider, images[start:start + AT_ONCE], ranker, np.float64)
        found = found.reshape(-1, found.shape[2])
        count, total, squares = count + len(found), total + found.sum(axis=0), squares + (found * found).sum(axis=0)
    mean = total / count
    scale = np.sqrt(np.maximum(squares / count - mean * mean, 0))
    scale[scale < 1e-6 * max(scale.max(), 1e-30)] = 1
    return {'mean': mean[None].astype(np.float32), 'scale': scale[None].astype(np.float32)}


def standardized(features, standard):
    """features (n, R, D), overwritten: minus the mean, divided by the scale."""
    features -= standard['mean'].astype(features.dtype)
    features /= standard['scale'].astype(features.dtype)
    return features


def batch_of_pairs(pairs, provider, lookup, ranker, standard, dtype):
    """The Batch of n Pairs whose images are all different. Words outside the vocabulary are dropped."""
    words, lengths = provider.indices(pairs.sentences, lookup)
    packed = pack(words, lengths)
    features = standardized(features_of(provider, pairs.images[packed.order], ranker, dtype), standard)
    return Batch(features, packed)

"""The score of an image and a sentence from their vectors: each vector of the sentence takes the best of the image's.

    S(image, sentence) = Σ_t max_i v_i·s_t        or the mean over t

(Karpathy & Fei-Fei 2015, equation 8.) With one vector each it is their dot product.
"""

import numpy as np

BLOCK_BYTES = 1 << 25    # of products of vectors in memory at once


def scores_forward(V, words, starts, mean, scratch):
    """V (M, R, E): the vectors of images; words (P, E): those of N sentences, one after another; starts (N + 1,): where
    each begins. mean: whether to divide by the number of a sentence's vectors. Returns S (M, N), cache.
    """
    M, R, E = V.shape
    P, share = len(words), _shares(starts, mean, V.dtype)                       # share (P,)
    products = np.matmul(V.reshape(M * R, E), words.T, out=scratch('products', (M * R, P), V.dtype))
    products = products.reshape(M, R, P)
    best, chosen = products[:, 0].copy(), np.zeros((M, P), np.int64)
    for i in range(1, R):    # the first among equals
        better = products[:, i] > best
        np.copyto(best, products[:, i], where=better)
        chosen[better] = i
    best *= share
    return np.add.reduceat(best, starts[:-1], axis=1), (V, words, starts, share, chosen, products)


def scores_backward(dS, cache):
    """dS (M, N) -> dV (M, R, E), dwords (P, E). Overwrites the cache."""
    V, words, starts, share, chosen, products = cache
    M, R, E = V.shape
    dbest = np.repeat(dS, np.diff(starts), axis=1) * share                      # (M, P)
    dproducts = products
    dproducts[:] = 0
    np.put_along_axis(dproducts, chosen[:, None], dbest[:, None], axis=1)
    dproducts = dproducts.reshape(M * R, -1)
    return (dproducts @ words).reshape(V.shape), dproducts.T @ V.reshape(M * R, E)


def scores_of(V, words, starts, mean):
    """The scores alone, S (M, N), in blocks of images."""
    (M, R, E), P, share = V.shape, len(words), _shares(starts, mean, V.dtype)
    step = max(1, BLOCK_BYTES // max(1, R * P * V.itemsize))
    S = np.empty((M, len(starts) - 1), V.dtype)
    for start in range(0, M, step):
        block = V[start:start + step]
        products = block.reshape(-1, E) @ words.T                               # (m·R, P)
        best = products.reshape(len(block), R, P).max(axis=1) if R > 1 else products
        S[start:start + step] = np.add.reduceat(best * share, starts[:-1], axis=1)
    return S


def _shares(starts, mean, dtype):
    """What each vector of a sentence counts: 1, or one part of its sentence's number of vectors. (P,)"""
    lengths = np.diff(starts)
    return np.repeat(1 / lengths if mean else np.ones(len(lengths)), lengths).astype(dtype)

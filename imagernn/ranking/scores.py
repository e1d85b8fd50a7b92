"""The score of an image and a sentence from their vectors: each vector of the sentence takes the best of the image's.

    S(image, sentence) = Σ_t max_i v_i·s_t        or the mean over t

(Karpathy & Fei-Fei 2015, equation 8.) With one vector each it is their dot product.
"""

import numpy as np
from scipy.sparse import csr_array

BLOCK_BYTES = 1 << 25    # of products of vectors in memory at once
SPARSE = 16              # from so many regions on, a sparse product is faster than a dense one


def scores_forward(V, words, starts, mean, scratch):
    """V (M, R, E): the vectors of images; words (P, E): those of N sentences, one after another; starts (N + 1,): where
    each begins. mean: whether to divide by the number of a sentence's vectors. Returns S (M, N), cache.
    """
    M, R, E = V.shape
    P, share = len(words), _shares(starts, mean, V.dtype)                       # share (P,)
    products = np.matmul(V.reshape(M * R, E), words.T, out=scratch('products', (M * R, P), V.dtype))
    products = products.reshape(M, R, P)
    best = products.max(axis=1)                                                 # (M, P)
    # the first region that is the best has the largest number of regions after it
    after = np.arange(R, dtype=np.int16)[::-1, None]                            # (R, 1)
    chosen = R - 1 - ((products == best[:, None]) * after).max(axis=1)          # (M, P)
    return np.add.reduceat(best * share, starts[:-1], axis=1), (V, words, starts, share, chosen)


def scores_backward(dS, cache):
    """dS (M, N) -> dV (M, R, E), dwords (P, E)."""
    V, words, starts, share, chosen = cache
    (M, R, E), P = V.shape, len(words)
    dbest = np.repeat(dS, np.diff(starts), axis=1) * share                      # (M, P)
    # the gradient by the products has one number for each word and image: where the word takes a region
    columns = chosen + np.arange(0, M * R, R)[:, None]                          # (M, P)
    dproducts = csr_array((dbest.T.ravel(), columns.T.ravel(), np.arange(0, M * P + 1, M)), shape=(P, M * R))
    if R < SPARSE:
        dproducts = dproducts.toarray()
    return (dproducts.T @ words).reshape(V.shape), dproducts @ V.reshape(M * R, E)


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

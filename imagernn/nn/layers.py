"""Forward/backward pairs that several models share, on arrays alone.

Rows are examples. A forward returns its result and a cache that holds only what its backward reads; d<name> is the
gradient of the loss by <name>. Everything follows the dtype of the parameters.
"""

from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

BLOCK_BYTES = 1 << 18    # rows of a large matrix are worked on in blocks of about this size, so that they stay in cache


def row_blocks(array):
    """Slices over the rows of a 2-D array, about BLOCK_BYTES each."""
    step = max(1, BLOCK_BYTES // max(1, array.strides[0]))
    return [slice(start, start + step) for start in range(0, len(array), step)]


def affine_forward(x, W, b, out=None):
    """x (N, D), W (D, M), b (1, M) -> x·W + b (N, M), in out where it is given, cache."""
    out = np.matmul(x, W, out=out)                                              # (N, M)
    out += b
    return out, (x, W)


def affine_backward(dout, cache):
    """dout (N, M) -> dx (N, D), dW (D, M), db (1, M)."""
    _, W = cache
    return dout @ W.T, *affine_parameters_backward(dout, cache)


def affine_parameters_backward(dout, cache, out=None):
    """dout (N, M) -> dW (D, M), in out where it is given, db (1, M), for an x that is data and needs no gradient."""
    x, _ = cache
    return np.matmul(x.T, dout, out=out), dout.sum(axis=0, keepdims=True)


def relu_forward(x):
    """max(x, 0), any shape; the cache is the result."""
    out = np.maximum(x, 0)
    return out, out


def relu_backward(dout, out):
    """dout where the unit was on, 0 elsewhere."""
    return dout * (out > 0)


def normalize_forward(x):
    """Rows of x (N, D) divided by their lengths. A row of zeros stays one. Returns the result, cache."""
    norms = np.sqrt((x * x).sum(axis=1, keepdims=True) + 1e-16)                 # (N, 1)
    out = x / norms
    return out, (out, norms)


def normalize_backward(dout, cache):
    """dout (N, D) -> dx (N, D)."""
    out, norms = cache
    return (dout - out * (out * dout).sum(axis=1, keepdims=True)) / norms


def dropout_draw(num_rows, num_columns, drop_prob, rng):
    """Draws which elements stay: bits, each row's packed into bytes, (num_rows, ⌈num_columns / 8⌉) uint8.

    An element goes with probability drop_prob. None, all stay, where that is 0 or rng is None (prediction).
    """
    if drop_prob == 0 or rng is None:
        return None
    if drop_prob == .5:
        num_bytes = -(-num_columns // 8)
        return np.frombuffer(rng.bytes(num_rows * num_bytes), np.uint8).reshape(num_rows, num_bytes)
    return np.packbits(rng.random((num_rows, num_columns), dtype=np.float32) < 1 - drop_prob, axis=1)


def dropout_forward(x, kept, drop_prob):
    """Inverted dropout of x (N, M): what dropout_draw kept is divided by 1 - drop_prob, everything else becomes 0.

    Returns the result and the mask, which is the cache. Where kept is None, nothing is dropped, and the mask is None.
    """
    if kept is None:
        return x, None
    mask = np.multiply(np.unpackbits(kept, axis=1, count=x.shape[1]), 1 / (1 - drop_prob), dtype=x.dtype)    # (N, M)
    return x * mask, mask


def dropout_backward(dout, mask, out=None):
    """dout through the same mask, written to out where it is given (dout itself will do)."""
    return dout if mask is None else np.multiply(dout, mask, out=out)


class SparseRows(NamedTuple):
    """A gradient that is 0 in all rows but some: of a matrix (V, E) the rows (U,), sorted, and their values (U, E)."""

    rows: np.ndarray
    values: np.ndarray


def embedding_forward(W, ix):
    """Rows ix (P,) of W (V, E) -> (P, E), cache."""
    return W[ix], ix


def embedding_backward(dout, ix):
    """dout (P, E) -> SparseRows: the rows of W that occur, sorted (U,), and their gradients (U, E).

    Rows of the same index are summed, by a sparse product with the one-hot matrix.
    """
    rows, place = np.unique(ix, return_inverse=True)
    one_hot = csr_array((np.ones(len(ix), dout.dtype), (place, np.arange(len(ix)))), shape=(len(rows), len(ix)))
    return SparseRows(rows, one_hot @ dout)


def softmax_cost_forward(x, W, b, targets, scratch, smoothing=0.):
    """Decoder and softmax: ln p of each target word under softmax(x·W + b).

    x (P, H), W (H, V), b (1, V), targets (P,) -> logprobs (P,), cache. The exponentials stay unnormalised, here and in
    the backward pass: dividing by their sum is left to arrays of H columns, which are far narrower than V.

    smoothing: the share s of the target distribution that label smoothing spreads evenly over all V words, target
    included: (1 - s) · onehot + s / V (Szegedy et al. 2016, section 7). Where s > 0, logprobs are (2, P): the second
    row is the mean of ln p over the target distribution.
    """
    expy = scratch('expy', (len(x), W.shape[1]), W.dtype)                       # (P, V)
    np.matmul(x, W, out=expy)
    logprobs, sums, means = (np.empty(len(x), W.dtype) for _ in range(3))
    for rows in row_blocks(expy):
        y = expy[rows]
        y += b
        y -= y.max(axis=1, keepdims=True)
        logprobs[rows] = y[np.arange(len(y)), targets[rows]]
        if smoothing:
            y.mean(axis=1, out=means[rows])
        np.exp(y, out=y)
        y.sum(axis=1, out=sums[rows])
    log_sums = np.log(sums)
    logprobs -= log_sums
    if smoothing:
        means -= log_sums
        logprobs = np.stack([logprobs, (1 - smoothing) * logprobs + smoothing * means])     # (2, P)
    return logprobs, (x, W, targets, expy, sums, smoothing, scratch)


def softmax_cost_backward(scale, cache, out=None):
    """Gradients of -sum(scale · logprobs) -> dx (P, H), in out where it is given; dW (H, V), in scratch; db (1, V).

    scale is one number, or a weight for each word (P,). With y = x·W + b, the gradient by y is
    dy = scale · (softmax(y) - onehot(targets)). With label smoothing, the second row of logprobs takes their place, and
    the target distribution that of onehot. The cache is overwritten.
    """
    x, W, targets, expy, sums, smoothing, scratch = cache
    dy, row_scale = expy, scale / sums                                          # (P, V), (P,): their product is dy
    dy[np.arange(len(dy)), targets] -= (1 - smoothing) * sums
    if smoothing:
        dy -= (smoothing / W.shape[1] * sums)[:, None]
    db = (row_scale @ dy)[None]                                                 # (1, V)
    dW = np.matmul((x * row_scale[:, None]).T, dy, out=scratch('dW', W.shape, W.dtype))    # (H, V)
    dx = np.matmul(dy, W.T, out=out)                                            # (P, H)
    dx *= row_scale[:, None]
    return dx, dW, db


def likeliest_words(y):
    """The largest element of each row of y (R, V), the first if there are several, and its log softmax: (R,), (R,).

    Uses up y; no row is normalised as a whole.
    """
    words, logprobs = np.empty(len(y), np.int64), np.empty(len(y), y.dtype)
    for rows in row_blocks(y):
        block = y[rows]
        words[rows] = block.argmax(axis=1)
        block -= block[np.arange(len(block)), words[rows]][:, None]
        np.exp(block, out=block)
        block.sum(axis=1, out=logprobs[rows])
    return words, -np.log(logprobs)


def log_softmax(y):
    """y (R, V) becomes its own log softmax, in place; natural logarithms, nothing can overflow."""
    for rows in row_blocks(y):
        block = y[rows]
        block -= block.max(axis=1, keepdims=True)
        block -= np.log(np.exp(block).sum(axis=1, keepdims=True))
    return y

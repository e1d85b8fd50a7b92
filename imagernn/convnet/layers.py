"""Forward/backward pairs of convolutional networks. Knows nothing of networks, weight files or training.

Pictures are (n, h, w, c), channels last. padding is ((top, bottom), (left, right)), in rows and columns of the input;
sizes round down: ⌊(h + top + bottom − kernel) / stride⌋ + 1. The work is done on a band of output rows at a time, or on
several whole pictures if they are small, so that the im2col matrix of a large picture is never in memory as a whole.
"""

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from imagernn.nn.scratch import Scratch

BAND_BYTES = 1 << 20     # about the scratch memory of a band, so that it stays in the cache of a core
BAND_PIXELS = 256        # a matrix product of fewer rows spends its time reading W
LANE = 1024              # the least number of elements that numpy's innermost loop should process in one call
NO_PADDING = ((0, 0), (0, 0))


class Window(NamedTuple):
    """The places of a kh × kw kernel on a padded picture."""

    kh: int
    kw: int
    stride: int
    padding: tuple

    def out_size(self, h, w):
        """How many places there are, vertically and horizontally. ValueError if there are none."""
        (top, bottom), (left, right) = self.padding
        rows = (h + top + bottom - self.kh) // self.stride + 1
        columns = (w + left + right - self.kw) // self.stride + 1
        if rows < 1 or columns < 1:
            raise ValueError(f'a kernel of {self.kh} × {self.kw} does not fit a picture of {h} × {w} with padding '
                             f'{self.padding}')
        return rows, columns

    def bands(self, shape, bytes_per_place):
        """The bands for an input of this shape, as pairs of slices: pictures, output rows."""
        n, h, w, _ = shape
        rows, columns = self.out_size(h, w)
        at_once = -(-max(BAND_PIXELS, BAND_BYTES // bytes_per_place) // columns)
        if at_once < rows:
            return [(slice(k, k + 1), slice(row, min(row + at_once, rows)))
                    for k in range(n) for row in range(0, rows, at_once)]
        step = at_once // rows
        return [(slice(k, min(k + step, n)), slice(0, rows)) for k in range(0, n, step)]

    def reach(self, rows, h):
        """Which padded rows the output rows of a band see, as (in_picture, in_seen, number).

        Those that are rows of the picture, not padding, as a slice of the picture and as a slice of the rows seen; and
        the number of rows seen, padding included.
        """
        start = rows.start * self.stride - self.padding[0][0]
        number = (rows.stop - rows.start - 1) * self.stride + self.kh
        first, last = (min(max(row, 0), h) for row in (start, start + number))
        return slice(first, last), slice(first - start, last - start), number

    def seen(self, x, band, fill, scratch):
        """All that the kernel sees in a band, padded with fill: (p, rows, left + w + right, c).

        A view of x if no padding is needed, else an array in scratch.
        """
        pictures, rows = band
        _, h, w, c = x.shape
        left, right = self.padding[1]
        in_picture, in_seen, number = self.reach(rows, h)
        inside = x[pictures, in_picture]
        if inside.shape[1] == number and left == right == 0:
            return inside
        seen = scratch('seen', (len(inside), number, left + w + right, c), x.dtype)
        seen[:, :in_seen.start] = seen[:, in_seen.stop:] = fill
        seen[:, in_seen, :left] = seen[:, in_seen, left + w:] = fill
        seen[:, in_seen, left:left + w] = inside
        return seen

    def blank(self, x, band, scratch):
        """Zeros of the shape that seen() returns, to accumulate a gradient in."""
        pictures, rows = band
        _, h, w, c = x.shape
        left, right = self.padding[1]
        blank = scratch('dseen', (len(x[pictures]), self.reach(rows, h)[2], left + w + right, c), x.dtype)
        blank[:] = 0
        return blank

    def unpad(self, dseen, dx, band):
        """Add the gradient by what was seen in a band to dx, without the padding. Changes dx."""
        pictures, rows = band
        w = dx.shape[2]
        left = self.padding[1][0]
        in_picture, in_seen, _ = self.reach(rows, dx.shape[1])
        dx[pictures, in_picture] += dseen[:, in_seen, left:left + w]

    def tap(self, seen, i, j, shape):
        """What element (i, j) of the kernel sees: a view (p, r, w', c). shape is that of the band's output."""
        _, rows, columns, _ = shape
        stride = self.stride
        return seen[:, i:i + (rows - 1) * stride + 1:stride, j:j + (columns - 1) * stride + 1:stride]

    def taps(self):
        """The elements (i, j) of the kernel, row by row."""
        return [(i, j) for i in range(self.kh) for j in range(self.kw)]

    def places(self, seen, tile=1):
        """What the kernel sees at each place: a view (p, r, w', kh, kw, c).

        With stride 1, `tile` neighbouring places are adjacent in memory and can be taken together; tile divides w':
        (p, r, w' / tile, kh, kw, tile · c).
        """
        p, height, width, c = seen.shape
        rows = (height - self.kh) // self.stride + 1
        columns = (width - self.kw) // self.stride + 1
        picture, row, pixel, channel = seen.strides
        return as_strided(seen, (p, rows, columns // tile, self.kh, self.kw, tile * c),
                          (picture, row * self.stride, pixel * self.stride * tile, row, pixel, channel),
                          writeable=False)


def same_padding(size, kernel, stride):
    """The padding (before, after) of TensorFlow's "same": it makes ⌈size / stride⌉ places.

    If the total is odd, after is larger by one.
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def ceil_padding(size, kernel, stride, padding=0):
    """The padding (before, after) of Caffe's pooling: it makes sizes round up. No window begins outside the picture.

    Use it for max pooling only: an average would count the padding that rounds up.
    """
    places = -(-(size + 2 * padding - kernel) // stride) + 1
    if (places - 1) * stride >= size + padding:
        places -= 1
    return padding, max((places - 1) * stride + kernel - size - padding, 0)


def conv_forward(x, W, b, stride=1, padding=NO_PADDING, groups=1, scratch=None, out=None):
    """x (n, h, w, c) ⋆ W (kh, kw, c / groups, m) + b (1, m) -> (n, h', w', m), cache.

    The kernel is not flipped: this is a correlation, as in all frameworks. The channels are divided into groups of
    equal size, in order, and so are the filters; a filter sees the channels of its own group only. groups = c = m is a
    depthwise convolution. b may be None. The result is written to out, which must be C-contiguous, if it is given.
    scratch is memory of this thread, to be reused. Raises ValueError if channels, filters and groups do not fit.
    """
    x = np.ascontiguousarray(x)
    window = Window(*W.shape[:2], stride, padding)
    scratch = scratch or Scratch()
    if x.shape[3] != groups * W.shape[2] or W.shape[3] % groups:
        raise ValueError(f'{x.shape[3]} channels in {groups} groups do not fit filters of shape {W.shape}')
    if out is None:
        out = np.empty((len(x), *window.out_size(*x.shape[1:3]), W.shape[3]), x.dtype)    # (n, h', w', m)
    forward = _depthwise_forward if _is_depthwise(W, groups) else _grouped_forward
    forward(x, W, b, window, groups, scratch, out)
    return out, (x, W, window, groups, scratch)


def conv_backward(dout, cache):
    """dout (n, h', w', m) -> dx (n, h, w, c), dW (kh, kw, c / groups, m), db (1, m)."""
    _, W, _, groups, _ = cache
    backward = _depthwise_backward if _is_depthwise(W, groups) else _grouped_backward
    return backward(dout, *cache), *conv_parameters_backward(dout, cache)


def conv_parameters_backward(dout, cache):
    """dout (n, h', w', m) -> dW (kh, kw, c / groups, m), db (1, m), when x is data and needs no gradient."""
    _, W, _, groups, _ = cache
    parameters_backward = _depthwise_parameters_backward if _is_depthwise(W, groups) else _grouped_parameters_backward
    return parameters_backward(dout, *cache), dout.sum(axis=(0, 1, 2))[None]


def _is_depthwise(W, groups):
    return W.shape[2] == 1 and W.shape[3] == groups


def _grouped_forward(x, W, b, window, groups, scratch, out):
    flat = W.reshape(-1, W.shape[3])                                               # (kh·kw·c / groups, m)
    for band in window.bands(x.shape, W[..., 0].nbytes):
        seen = window.seen(x, band, 0, scratch)
        y = out[band].reshape(-1, out.shape[3])                                    # (P, m): the band has P places
        for group, filters in _groups(W, groups):
            np.matmul(_columns(seen[..., group], window, scratch), flat[:, filters], out=y[:, filters])
        if b is not None:
            y += b


def _grouped_backward(dout, x, W, window, groups, scratch):
    dx = np.zeros_like(x)
    for band in window.bands(x.shape, W[0, 0, :, 0].nbytes):
        dy = dout[band]                                                            # (p, r, w', m)
        dseen = window.blank(x, band, scratch)
        product = scratch('product', (*dy.shape[:3], W.shape[2]), W.dtype)         # (p, r, w', c / groups)
        for i, j in window.taps():
            for group, filters in _groups(W, groups):
                np.matmul(dy[..., filters].reshape(-1, filters.stop - filters.start), W[i, j][:, filters].T,
                          out=product.reshape(-1, W.shape[2]))
                window.tap(dseen, i, j, dy.shape)[..., group] += product
        window.unpad(dseen, dx, band)
    return dx


def _grouped_parameters_backward(dout, x, W, window, groups, scratch):
    dW = np.zeros((W[..., 0].size, W.shape[3]), W.dtype)                           # (kh·kw·c / groups, m)
    for band in window.bands(x.shape, W[..., 0].nbytes):
        seen = window.seen(x, band, 0, scratch)
        dy = dout[band].reshape(-1, W.shape[3])                                    # (P, m)
        for group, filters in _groups(W, groups):
            dW[:, filters] += _columns(seen[..., group], window, scratch).T @ dy[:, filters]
    return dW.reshape(W.shape)


def _groups(W, groups):
    """The channels and the filters of each group, as pairs of slices."""
    c = W.shape[2]
    m = W.shape[3] // groups
    return [(slice(g * c, (g + 1) * c), slice(g * m, (g + 1) * m)) for g in range(groups)]


def _columns(seen, window, scratch):
    """im2col: what the kernel sees at each of the P places of a band, one row each, (P, kh·kw·c)."""
    places = window.places(seen)
    num_columns = window.kh * window.kw * seen.shape[3]
    if window.kh == window.kw == window.stride == 1:
        return places.reshape(-1, num_columns)                                     # a view, no copy
    columns = scratch('columns', places.shape, seen.dtype)
    columns[:] = places
    return columns.reshape(-1, num_columns)


def _depthwise_forward(x, W, b, window, groups, scratch, out):
    """Multiplies and adds rows of all channels: a matrix product for each channel would have a single column."""
    tile = _tile(out.shape[2], groups) if window.stride == 1 else 1
    tiled = np.tile(W[:, :, 0], tile)                                              # (kh, kw, tile · c)
    for band in window.bands(x.shape, W[0, 0].nbytes):
        y = out[band]                                                              # (p, r, w', c)
        np.einsum('prwijc,ijc->prwc', window.places(window.seen(x, band, 0, scratch), tile), tiled,
                  out=y.reshape(*y.shape[:2], -1, tile * groups))
        if b is not None:
            y += b


def _depthwise_backward(dout, x, W, window, groups, scratch):
    dx = np.zeros_like(x)
    for band in window.bands(x.shape, W[0, 0].nbytes):
        dy = dout[band]                                                            # (p, r, w', c)
        dseen = window.blank(x, band, scratch)
        for i, j in window.taps():
            window.tap(dseen, i, j, dy.shape)[:] += dy * W[i, j, 0]
        window.unpad(dseen, dx, band)
    return dx


def _depthwise_parameters_backward(dout, x, W, window, groups, scratch):
    dW = np.zeros_like(W)
    for band in window.bands(x.shape, W[0, 0].nbytes):
        places = window.places(window.seen(x, band, 0, scratch))                   # (p, r, w', kh, kw, c)
        dW[:, :, 0] += np.einsum('prwijc,prwc->ijc', places, dout[band])
    return dW


def _tile(columns, c):
    """The least divisor of columns that makes tile · c at least LANE, or columns if none does."""
    return next(tile for tile in range(1, columns + 1) if columns % tile == 0 and (tile * c >= LANE or tile == columns))


def max_pool_forward(x, size, stride, padding=NO_PADDING, scratch=None):
    """The maximum over windows of size × size: x (n, h, w, c) -> (n, h', w', c), cache.

    Padding never counts; size must exceed it on every side.
    """
    window = Window(size, size, stride, padding)
    scratch = scratch or Scratch()
    out = _pool(np.maximum, x, window, -np.inf, scratch)
    return out, (x, out, window, scratch)


def max_pool_backward(dout, cache):
    """dout (n, h', w', c) -> dx (n, h, w, c). Of equal maxima in a window the first, row by row, gets the gradient."""
    x, out, window, scratch = cache
    dx = np.zeros_like(x)
    for band in window.bands(x.shape, 4 * x[0, 0, 0].nbytes):
        y = out[band]                                                              # (p, r, w', c)
        remaining = dout[band].copy()                                              # (p, r, w', c)
        seen = window.seen(x, band, -np.inf, scratch)
        dseen = window.blank(x, band, scratch)
        for i, j in window.taps():
            here = np.where(window.tap(seen, i, j, y.shape) == y, remaining, 0)
            window.tap(dseen, i, j, y.shape)[:] += here
            remaining -= here
        window.unpad(dseen, dx, band)
    return dx


def average_pool_forward(x, size, stride, padding=NO_PADDING, count_padding=True, scratch=None):
    """The mean over windows of size × size: x (n, h, w, c) -> (n, h', w', c), cache.

    The zeros of the padding count, as in Caffe; with count_padding false they do not, as in TensorFlow's "same".
    """
    window = Window(size, size, stride, padding)
    scratch = scratch or Scratch()
    out = _pool(np.add, x, window, 0, scratch)
    weight = (1 / _counts(x.shape, window, count_padding)).astype(x.dtype)         # (h', w', 1)
    out *= weight
    return out, (x.shape, window, weight, scratch)


def average_pool_backward(dout, cache):
    """dout (n, h', w', c) -> dx (n, h, w, c)."""
    shape, window, weight, scratch = cache
    dout = dout * weight
    dx = np.zeros(shape, dout.dtype)                                               # (n, h, w, c)
    for band in window.bands(shape, 4 * dx[0, 0, 0].nbytes):
        dy = dout[band]
        dseen = window.blank(dx, band, scratch)
        for i, j in window.taps():
            window.tap(dseen, i, j, dy.shape)[:] += dy
        window.unpad(dseen, dx, band)
    return dx


def _pool(ufunc, x, window, fill, scratch):
    """Reduce what each window sees by ufunc, first over its rows, then over its columns: (n, h', w', c)."""
    n, h, w, c = x.shape
    rows, columns = window.out_size(h, w)
    out = np.empty((n, rows, columns, c), x.dtype)
    stride = window.stride
    for band in window.bands(x.shape, 4 * x[0, 0, 0].nbytes):
        seen = window.seen(x, band, fill, scratch)
        y = out[band]                                                              # (p, r, w', c)
        height = (y.shape[1] - 1) * stride + 1
        folded = seen[:, :height:stride]                                           # (p, r, left + w + right, c)
        if window.kh > 1:
            folded = ufunc(folded, seen[:, 1:1 + height:stride],
                           out=scratch('folded', folded.shape, x.dtype))
        for i in range(2, window.kh):
            ufunc(folded, seen[:, i:i + height:stride], out=folded)
        width = (columns - 1) * stride + 1
        y[:] = folded[:, :, :width:stride]
        for j in range(1, window.kw):
            ufunc(y, folded[:, :, j:j + width:stride], out=y)
    return out


def _counts(shape, window, count_padding):
    """How many pixels each mean is taken over: (h', w', 1), or (1, 1, 1) if it is the same for all."""
    if count_padding:
        return np.full((1, 1, 1), float(window.kh * window.kw))
    ones = np.ones((1, *shape[1:3], 1))
    return _pool(np.add, ones, window, 0, Scratch())[0]


def relu6(x, out=None):
    """min(max(x, 0), 6), for any shape, written to out if it is given. (Krizhevsky 2010)"""
    return np.clip(x, 0, 6, out=out)


def softmax(y):
    """y (..., m) -> probabilities that sum to 1 over the last axis. Cannot overflow."""
    exponentials = np.exp(y - y.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def fold_batch_norm(W, b, gamma, beta, mean, variance, eps):
    """A convolution and the batch normalization after it as one convolution: W (kh, kw, c / groups, m), b (1, m).

    The two compute γ·(x ⋆ W + b − mean) / √(variance + ε) + β, where γ, β, mean and variance (m,) are those of the
    trained network; b (1, m) may be None. Computed in float64; the result has the dtype of W.
    (Ioffe & Szegedy 2015, algorithm 2)
    """
    scale = np.asarray(gamma, np.float64) / np.sqrt(np.asarray(variance, np.float64) + eps)    # (m,)
    shift = beta + ((0. if b is None else b) - np.asarray(mean, np.float64)) * scale
    return (W * scale).astype(W.dtype), shift.reshape(1, -1).astype(W.dtype)

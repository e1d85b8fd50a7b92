"""The convolutional layers against their definitions in plain loops, and every gradient against finite differences."""

import math
import tracemalloc

import numpy as np
import pytest

from imagernn.convnet import layers
from imagernn.convnet.layers import (
    average_pool_backward,
    average_pool_forward,
    ceil_padding,
    conv_backward,
    conv_forward,
    conv_parameters_backward,
    fold_batch_norm,
    max_pool_backward,
    max_pool_forward,
    relu6,
    same_padding,
    softmax,
)
from imagernn.nn.gradcheck import directional_error, element_errors
from imagernn.nn.scratch import Scratch

TOLERANCE = 1e-6
CAUGHT = 10 * TOLERANCE
STEP = 1e-4
EXACT = 1e-12

# pictures, height, width, channels, groups, filters, kernel, stride, padding: unequal sizes
CONVS = {
    'same': (2, 7, 9, 3, 1, 4, (3, 3), 1, ((1, 1), (1, 1))),
    'uneven': (3, 9, 6, 2, 1, 5, (3, 2), 2, ((2, 0), (0, 1))),
    'valid': (2, 6, 5, 4, 1, 3, (4, 3), 1, ((0, 0), (0, 0))),
    'last rows unused': (1, 8, 9, 2, 1, 3, (2, 2), 3, ((0, 0), (0, 0))),
    'kernel as large as the picture': (2, 5, 4, 3, 1, 6, (5, 4), 1, ((0, 0), (0, 0))),
    'padding larger than the kernel': (2, 4, 3, 2, 1, 2, (2, 2), 1, ((3, 4), (2, 5))),
    'pointwise': (2, 5, 7, 6, 1, 4, (1, 1), 1, ((0, 0), (0, 0))),
    'pointwise, stride 2': (2, 5, 7, 6, 1, 4, (1, 1), 2, ((0, 0), (0, 0))),
    'pointwise, padded': (2, 4, 3, 2, 1, 4, (1, 1), 1, ((1, 0), (0, 1))),
    'groups': (2, 6, 7, 6, 2, 4, (3, 3), 1, ((1, 1), (1, 1))),
    'groups, stride 2': (2, 7, 6, 6, 3, 9, (2, 3), 2, ((1, 0), (1, 2))),
    'pointwise groups': (2, 4, 3, 6, 3, 6, (1, 1), 1, ((0, 0), (0, 0))),
    'depthwise': (2, 6, 8, 5, 5, 5, (3, 3), 1, ((1, 1), (1, 1))),
    'depthwise, stride 2': (2, 9, 8, 5, 5, 5, (5, 5), 2, ((2, 2), (1, 2))),
    'depthwise, two filters per channel': (2, 6, 5, 3, 3, 6, (3, 3), 1, ((1, 1), (1, 1))),
    'one channel': (2, 6, 5, 1, 1, 1, (3, 2), 1, ((1, 1), (0, 1))),
}
# pictures, height, width, channels, size, stride, padding
POOLS = {
    'halves': (2, 6, 8, 3, 2, 2, ((0, 0), (0, 0))),
    'odd sizes': (2, 7, 5, 3, 2, 2, ((0, 0), (0, 0))),
    'rounded up': (2, 7, 5, 3, 2, 2, ((0, 1), (0, 1))),
    'overlapping': (2, 7, 9, 2, 3, 2, ((1, 0), (0, 1))),
    'stride 1': (1, 5, 6, 3, 3, 1, ((1, 1), (1, 1))),
    'gaps between windows': (2, 8, 7, 2, 2, 3, ((0, 1), (0, 0))),
    'the whole picture': (3, 4, 4, 2, 4, 4, ((0, 0), (0, 0))),
    'size 1': (2, 4, 5, 2, 1, 2, ((0, 0), (0, 0))),
}


@pytest.fixture
def rng():
    return np.random.default_rng(1)


@pytest.fixture(params=[1, 1 << 20], ids=['small bands', 'large bands'])
def bands(request, monkeypatch):
    """The smallest possible bands, a row at a time, and the usual ones."""
    if request.param == 1:
        monkeypatch.setattr(layers, 'BAND_BYTES', 1)
        monkeypatch.setattr(layers, 'BAND_PIXELS', 1)


def conv_arrays(name, rng):
    n, h, w, c, groups, m, kernel, stride, padding = CONVS[name]
    x, W, b = rng.normal(size=(n, h, w, c)), rng.normal(size=(*kernel, c // groups, m)), rng.normal(size=(1, m))
    return x, W, b, dict(stride=stride, padding=padding, groups=groups)


def pool_arrays(name, rng):
    n, h, w, c, size, stride, padding = POOLS[name]
    return rng.normal(size=(n, h, w, c)), dict(size=size, stride=stride, padding=padding)


def windows(x, kernel, stride, padding, fill):
    """Yield the row, the column and what the kernel sees there, (n, kh, kw, c), for every place."""
    padded = np.pad(x, ((0, 0), *padding, (0, 0)), constant_values=fill)
    for row in range((padded.shape[1] - kernel[0]) // stride + 1):
        for column in range((padded.shape[2] - kernel[1]) // stride + 1):
            top, left = row * stride, column * stride
            yield row, column, padded[:, top:top + kernel[0], left:left + kernel[1]]


def plain_conv(x, W, b, stride, padding, groups):
    """The definition: a sum of products for each picture, place and filter, {(k, row, column, f): value}."""
    m, channels = W.shape[3], W.shape[2]
    out = {}
    for row, column, seen in windows(x, W.shape[:2], stride, padding, 0):
        for k in range(len(x)):
            for f in range(m):
                group = f // (m // groups)
                part = seen[k, :, :, group * channels:(group + 1) * channels]
                out[k, row, column, f] = math.fsum((part * W[..., f]).ravel()) + b[0, f]
    return out


def check(f, arrays, grads, num_checks=8):
    rng = np.random.default_rng(0)
    for _ in range(2):
        assert directional_error(f, arrays, grads, rng, STEP) < TOLERANCE
    for x, grad in zip(arrays, grads, strict=True):
        assert x.shape == grad.shape and x.dtype == grad.dtype == np.float64
        assert element_errors(f, x, grad, rng, num_checks, STEP).max() < TOLERANCE


# ---- convolution

@pytest.mark.parametrize('name', CONVS)
def test_a_convolution_follows_its_definition(name, rng, bands):
    x, W, b, how = conv_arrays(name, rng)
    out, _ = conv_forward(x, W, b, **how)
    expected = plain_conv(x, W, b, **how)
    assert out.dtype == x.dtype and out.flags.c_contiguous
    assert len(expected) == out.size
    for place, value in expected.items():
        assert abs(out[place] - value) < EXACT, place
    without, _ = conv_forward(x, W, None, **how)
    np.testing.assert_allclose(without, out - b, atol=EXACT)


@pytest.mark.parametrize('name', CONVS)
def test_convolution_gradients(name, rng, bands):
    x, W, b, how = conv_arrays(name, rng)
    out, cache = conv_forward(x, W, b, **how)
    weights = rng.normal(size=out.shape)
    grads = conv_backward(weights, cache)
    check(lambda: float(np.vdot(conv_forward(x, W, b, **how)[0], weights)), [x, W, b], grads)
    for grad, again in zip(grads[1:], conv_parameters_backward(weights, cache), strict=True):
        np.testing.assert_array_equal(grad, again)


@pytest.mark.parametrize('name', ['uneven', 'groups', 'depthwise, stride 2'])
def test_a_wrong_gradient_of_a_convolution_is_caught(name, rng):
    x, W, b, how = conv_arrays(name, rng)
    out, cache = conv_forward(x, W, b, **how)
    weights = rng.normal(size=out.shape)
    grads = conv_backward(weights, cache)
    mirrored = conv_backward(weights, (x, W[::-1, ::-1], *cache[2:]))[0]                   # a flipped kernel
    unpadded = grads[0].copy()
    unpadded[:, -1] = 0                                                                    # the last row missing
    for wrong, planted in ((0, mirrored), (0, unpadded), (1, grads[1] * 1.01), (2, grads[2] / len(x))):
        arrays = [x, W, b]
        given = [*grads[:wrong], planted, *grads[wrong + 1:]]

        def f():
            return float(np.vdot(conv_forward(x, W, b, **how)[0], weights))

        checker = np.random.default_rng(0)
        assert directional_error(f, arrays, given, checker, STEP) > CAUGHT
        assert element_errors(f, arrays[wrong], planted, checker, 40, STEP).max() > CAUGHT


@pytest.mark.parametrize('name', CONVS)
def test_float32_stays_float32_and_scratch_can_be_reused(name, rng):
    x, W, b, how = conv_arrays(name, rng)
    scratch = Scratch()
    exact, _ = conv_forward(x, W, b, **how)
    x, W, b = (a.astype(np.float32) for a in (x, W, b))
    place = np.full(exact.shape, np.nan, np.float32)
    for _ in range(2):
        out, cache = conv_forward(x, W, b, **how, scratch=scratch, out=place)
        assert out is place
        np.testing.assert_allclose(out, exact, atol=1e-5)
        place[:] = np.nan
    assert {grad.dtype for grad in conv_backward(out, cache)} == {np.dtype(np.float32)}


def test_a_convolution_does_not_change_its_arguments_and_takes_any_memory_layout(rng):
    for name in ('same', 'depthwise'):
        x, W, b, how = conv_arrays(name, rng)
        out, cache = conv_forward(x, W, b, **how)
        dout = rng.normal(size=out.shape)
        before = [a.copy() for a in (x, W, b, dout)]
        grads = conv_backward(dout, cache)
        for a, original in zip((x, W, b, dout), before, strict=True):
            np.testing.assert_array_equal(a, original)
        channels_first = np.ascontiguousarray(x.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
        again, cache = conv_forward(channels_first, np.asfortranarray(W), b, **how)
        np.testing.assert_allclose(again, out, atol=EXACT)
        for grad, other in zip(grads, conv_backward(np.asfortranarray(dout), cache), strict=True):
            np.testing.assert_allclose(grad, other, atol=EXACT)


def test_sizes_that_do_not_fit_raise_value_error(rng):
    x, W = rng.normal(size=(1, 4, 4, 6)), rng.normal(size=(3, 3, 3, 4))
    with pytest.raises(ValueError, match='6 channels in 1 groups'):
        conv_forward(x, W, None)
    with pytest.raises(ValueError, match='groups'):
        conv_forward(x, rng.normal(size=(3, 3, 3, 5)), None, groups=2)
    with pytest.raises(ValueError, match='5 × 5 does not fit a picture of 4 × 4'):
        max_pool_forward(x, 5, 1)


def test_a_large_picture_takes_little_memory(rng):
    """The im2col matrix of all of it would take 9 · 12.8 MB."""
    x, W = rng.random((1, 224, 224, 64), np.float32), rng.random((3, 3, 64, 8), np.float32)
    tracemalloc.start()
    out, _ = conv_forward(x, W, None, padding=((1, 1), (1, 1)))
    peak = tracemalloc.get_traced_memory()[1] - out.nbytes
    tracemalloc.stop()
    assert peak < 4e6


# ---- pooling

@pytest.mark.parametrize('name', POOLS)
def test_pooling_follows_its_definition(name, rng, bands):
    x, how = pool_arrays(name, rng)
    size, stride, padding = how.values()
    largest, _ = max_pool_forward(x, **how)
    mean, _ = average_pool_forward(x, **how)
    inside_mean, _ = average_pool_forward(x, **how, count_padding=False)
    places = 0
    for row, column, seen in windows(x, (size, size), stride, padding, np.nan):
        places += 1
        np.testing.assert_array_equal(largest[:, row, column], np.nanmax(seen, axis=(1, 2)))
        np.testing.assert_allclose(mean[:, row, column], np.nansum(seen, axis=(1, 2)) / size ** 2, atol=EXACT)
        np.testing.assert_allclose(inside_mean[:, row, column], np.nanmean(seen, axis=(1, 2)), atol=EXACT)
    assert len(x) * places * x.shape[3] == largest.size == mean.size == inside_mean.size


AVERAGE = (average_pool_forward, average_pool_backward)
PAIRS = {
    'max': (max_pool_forward, max_pool_backward, {}),
    'average': (*AVERAGE, {}),
    'average without padding': (*AVERAGE, {'count_padding': False}),
}


def pool_cost(kind, name, rng):
    """A random linear combination of the pooled values as a function f() of x, then x, then its gradient."""
    forward, backward, more = PAIRS[kind]
    x, how = pool_arrays(name, rng)
    out, cache = forward(x, **how, **more)
    weights = rng.normal(size=out.shape)
    before = weights.copy()
    grad = backward(weights, cache)
    np.testing.assert_array_equal(weights, before)
    return lambda: float(np.vdot(forward(x, **how, **more)[0], weights)), x, grad


@pytest.mark.parametrize('name', POOLS)
@pytest.mark.parametrize('kind', PAIRS)
def test_pooling_gradients(kind, name, rng, bands):
    f, x, grad = pool_cost(kind, name, rng)
    check(f, [x], [grad])


@pytest.mark.parametrize('kind', PAIRS)
def test_a_wrong_gradient_of_pooling_is_caught(kind, rng):
    f, x, grad = pool_cost(kind, 'overlapping', rng)
    for planted in (np.roll(grad, 1, axis=1), grad * 1.01):                                # shifted by a row; 1 % off
        checker = np.random.default_rng(0)
        assert directional_error(f, [x], [planted], checker, STEP) > CAUGHT
        assert element_errors(f, x, planted, checker, 20, STEP).max() > CAUGHT


def test_of_equal_maxima_the_first_gets_the_gradient():
    x = np.zeros((1, 2, 4, 1))
    x[0, 1, 1] = x[0, 1, 0] = 5
    _, cache = max_pool_forward(x, 2, 2)
    dx = max_pool_backward(np.array([3., 7.]).reshape(1, 1, 2, 1), cache)
    assert dx[0, :, :, 0].tolist() == [[0, 0, 7, 0], [3, 0, 0, 0]]


def test_a_negative_maximum_beats_the_padding():
    out, _ = max_pool_forward(np.full((1, 3, 3, 1), -2, np.float32), 2, 2, ((1, 0), (1, 0)))
    assert out.dtype == np.float32 and np.unique(out) == -2


# ---- sizes

@pytest.mark.parametrize('kernel', [1, 2, 3, 5, 7])
@pytest.mark.parametrize('stride', [1, 2, 3])
def test_same_padding(kernel, stride):
    for size in range(1, 20):
        before, after = same_padding(size, kernel, stride)
        assert 0 <= after - before <= 1
        places = (size + before + after - kernel) // stride + 1
        assert places == math.ceil(size / stride)
        if before + after:                                                                 # and no larger than needed
            assert (places - 1) * stride + kernel == size + before + after


def test_same_padding_of_a_known_network():
    assert same_padding(224, 3, 2) == (0, 1)                                               # EfficientNet's first layer
    assert same_padding(112, 3, 1) == (1, 1) and same_padding(56, 5, 2) == (1, 2)


@pytest.mark.parametrize('kernel, stride', [(1, 1), (1, 2), (2, 2), (3, 2), (3, 1), (2, 3), (5, 3)])
def test_ceil_padding(kernel, stride):
    for padding in range(kernel):
        for size in range(max(1, kernel - 2 * padding), 20):
            before, after = ceil_padding(size, kernel, stride, padding)
            starts = [start for start in range(-padding, size, stride)
                      if start == -padding or start - stride + kernel < size + padding]    # something is left to see
            assert before == padding and after >= 0
            assert (size + before + after - kernel) // stride + 1 == len(starts), (size, padding)


def test_ceil_padding_of_known_networks():
    assert ceil_padding(112, 3, 2) == (0, 1)                                               # GoogLeNet: 112 to 56
    assert ceil_padding(224, 2, 2) == (0, 0) and ceil_padding(7, 2, 2) == (0, 1)


# ---- activations and batch normalization

def test_relu6():
    x = np.array([[-1, 0, 3, 6, 7]], np.float32)
    assert relu6(x).tolist() == [[0, 0, 3, 6, 6]] and x[0, 0] == -1
    assert relu6(x, out=x) is x and x.tolist() == [[0, 0, 3, 6, 6]] and x.dtype == np.float32


def test_softmax():
    y = np.array([[0., np.log(3)], [1e4, 0]])
    np.testing.assert_allclose(softmax(y), [[.25, .75], [1, 0]], atol=EXACT)


@pytest.mark.parametrize('name', ['same', 'depthwise', 'groups, stride 2'])
def test_a_folded_batch_normalization_equals_the_two_layers(name, rng):
    x, W, b, how = conv_arrays(name, rng)
    gamma, beta, mean, variance = rng.normal(size=(4, W.shape[3]))
    for bias in (b, None):
        y, _ = conv_forward(x, W, bias, **how)
        expected = gamma * (y - mean) / np.sqrt(variance ** 2 + 1e-3) + beta
        folded = fold_batch_norm(W, bias, gamma, beta, mean, variance ** 2, 1e-3)
        np.testing.assert_allclose(conv_forward(x, *folded, **how)[0], expected, atol=1e-11)
        assert folded[1].shape == (1, W.shape[3])
    single = fold_batch_norm(*(a.astype(np.float32) for a in (W, b, gamma, beta, mean, variance ** 2)), 1e-3)
    assert {a.dtype for a in single} == {np.dtype(np.float32)}

"""The layers beside their gradients: values, masks, memory, and numbers that could overflow."""

import numpy as np
import pytest

from imagernn.nn import layers
from imagernn.nn.layers import (
    dropout_draw,
    dropout_forward,
    embedding_backward,
    embedding_forward,
    log_softmax,
    relu_backward,
    relu_forward,
    row_blocks,
    softmax_cost_backward,
    softmax_cost_forward,
)
from imagernn.nn.packing import packed_steps
from imagernn.nn.scratch import Scratch


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_the_steps_of_a_packed_batch():
    # rows 0-2 are step 0, rows 3-4 step 1, rows 5-6 step 2, row 7 step 3
    assert packed_steps([3, 2, 2, 1]) == [(slice(0, 2), slice(3, 5)), (slice(3, 5), slice(5, 7)),
                                          (slice(5, 6), slice(7, 8))]
    assert packed_steps(np.array([4])) == []


@pytest.mark.parametrize('num_rows, width', [(0, 3), (1, 3), (10, 1), (100, 7), (3, 1 << 17)])
def test_row_blocks_cover_every_row_once(num_rows, width):
    array = np.zeros((num_rows, width), np.float32)
    rows = [i for block in row_blocks(array) for i in range(num_rows)[block]]
    assert rows == list(range(num_rows))


def test_relu_is_off_at_zero():
    out, cache = relu_forward(np.array([[-1., 0, 2]]))
    assert out.tolist() == [[0, 0, 2]]
    assert relu_backward(np.ones((1, 3)), cache).tolist() == [[0, 0, 1]]


# ---- dropout

@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('drop_prob', [.1, .5, .75])
def test_dropout_keeps_the_mean_and_drops_the_share_it_should(rng, drop_prob, dtype):
    out, mask = dropout_forward(np.full((300, 401), 3, dtype), dropout_draw(300, 401, drop_prob, rng), drop_prob)
    np.testing.assert_array_equal(out, 3 * mask)
    assert mask.shape == (300, 401) and mask.dtype == dtype
    assert set(np.unique(mask)) == {0, dtype(1 / (1 - drop_prob))}
    standard_error = np.sqrt(drop_prob * (1 - drop_prob) / mask.size)
    assert abs((mask == 0).mean() - drop_prob) < 4 * standard_error
    assert np.abs((mask == 0).mean(axis=0) - drop_prob).max() < 6 * standard_error * np.sqrt(401)   # in every column


@pytest.mark.parametrize('drop_prob', [.3, .5])
def test_the_seed_decides_the_mask(drop_prob):
    one, same, other = (dropout_draw(9, 5, drop_prob, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_dropout_of_some_rows_is_what_was_drawn_for_them(rng):
    x = rng.normal(size=(6, 11))
    for drop_prob in (.5, .3):
        kept = dropout_draw(6, 11, drop_prob, rng)
        out, _ = dropout_forward(x, kept, drop_prob)
        np.testing.assert_array_equal(dropout_forward(x[[4, 1]], kept[[4, 1]], drop_prob)[0], out[[4, 1]])


def test_dropout_without_a_stream_or_a_probability_does_nothing(rng):
    x = rng.normal(size=(4, 3))
    for drop_prob, stream in ((.5, None), (0, rng)):
        out, mask = dropout_forward(x, dropout_draw(4, 3, drop_prob, stream), drop_prob)
        assert out is x and mask is None


# ---- embedding

def test_embedding_looks_up_and_sums(rng):
    W, ix = rng.normal(size=(5, 2)), np.array([3, 0, 3])
    out, cache = embedding_forward(W, ix)
    np.testing.assert_array_equal(out, W[[3, 0, 3]])
    dout = np.array([[1., 2], [4, 8], [16, 32]])
    rows, drows = embedding_backward(dout, cache)
    assert rows.tolist() == [0, 3] and drows.tolist() == [[4, 8], [17, 34]]


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_embedding_gradient_is_a_plain_array_of_the_same_dtype(dtype):
    _, dW = embedding_backward(np.ones((4, 3), dtype), np.array([1, 1, 2, 1]))
    assert type(dW) is np.ndarray and dW.dtype == dtype and dW.shape == (2, 3)


# ---- softmax

def plain_logprobs(y, targets):
    y = y.astype(np.float64)
    y = y - y.max(axis=1, keepdims=True)
    return (y - np.log(np.exp(y).sum(axis=1, keepdims=True)))[np.arange(len(y)), targets]


@pytest.mark.parametrize('block_bytes', [1, 100, 1 << 18])
def test_softmax_in_blocks_is_softmax(rng, monkeypatch, block_bytes):
    monkeypatch.setattr(layers, 'BLOCK_BYTES', block_bytes)
    x, W, b = rng.normal(size=(9, 4)), rng.normal(size=(4, 5)), rng.normal(size=(1, 5))
    targets = rng.integers(5, size=9)
    logprobs, _ = softmax_cost_forward(x, W, b, targets, Scratch())
    np.testing.assert_allclose(logprobs, plain_logprobs(x @ W + b, targets), rtol=1e-13)
    y = x @ W + b
    np.testing.assert_allclose(log_softmax(y)[np.arange(9), targets], logprobs, rtol=1e-13)
    np.testing.assert_allclose(np.exp(y).sum(axis=1), 1, rtol=1e-13)                  # in place


@pytest.mark.parametrize('block_bytes', [1, 100, 1 << 18])
@pytest.mark.parametrize('dtype, rtol', [(np.float32, 1e-5), (np.float64, 1e-13)])
def test_label_smoothing_is_the_mean_over_the_smoothed_targets(rng, monkeypatch, block_bytes, dtype, rtol):
    monkeypatch.setattr(layers, 'BLOCK_BYTES', block_bytes)
    x, W, b = (rng.normal(size=shape).astype(dtype) for shape in ((9, 4), (4, 5), (1, 5)))
    targets = rng.integers(5, size=9)
    (words, smoothed), _ = softmax_cost_forward(x, W, b, targets, Scratch(), .2)
    assert words.dtype == smoothed.dtype == dtype
    np.testing.assert_array_equal(words, softmax_cost_forward(x, W, b, targets, Scratch())[0])
    every = np.array([plain_logprobs(x.astype(np.float64) @ W + b, np.full(9, word)) for word in range(5)])    # (V, P)
    distribution = .2 / 5 + .8 * (targets == np.arange(5)[:, None])
    np.testing.assert_allclose(distribution.sum(axis=0), 1)
    np.testing.assert_allclose(smoothed, (distribution * every).sum(axis=0), rtol=rtol)


def test_where_label_smoothing_has_found_its_targets_there_is_no_gradient():
    """The smallest cost is that of a model whose probabilities are the target distribution."""
    b, targets = np.log(np.array([[.84, .04, .04, .04, .04]])), np.zeros(3, int)
    _, cache = softmax_cost_forward(np.zeros((3, 2)), np.zeros((2, 5)), b, targets, Scratch(), .2)
    np.testing.assert_allclose(softmax_cost_backward(1., cache)[2], 0, atol=1e-15)


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('smoothing', [0, .1])
def test_huge_scores_overflow_nowhere(dtype, smoothing):
    x = np.array([[1e4], [-1e4]], dtype)
    W, b = np.array([[1, 0, -1]], dtype), np.zeros((1, 3), dtype)
    targets = np.array([0, 0])
    logprobs, cache = softmax_cost_forward(x, W, b, targets, Scratch(), smoothing)
    np.testing.assert_allclose(np.atleast_2d(logprobs)[0], [0, -2e4])
    if smoothing:
        np.testing.assert_allclose(logprobs[1], [-1e3, -1.9e4])
    for grad in softmax_cost_backward(1., cache):
        assert np.isfinite(grad).all()
    np.testing.assert_allclose(log_softmax(x @ W)[:, 0], [0, -2e4])


@pytest.mark.parametrize('smoothing, shape', [(0, (0,)), (.1, (2, 0))])
def test_softmax_of_no_rows(smoothing, shape):
    x, targets = np.zeros((0, 2)), np.zeros(0, int)
    logprobs, cache = softmax_cost_forward(x, np.ones((2, 3)), np.ones((1, 3)), targets, Scratch(), smoothing)
    assert logprobs.shape == shape
    dx, dW, db = softmax_cost_backward(1., cache)
    assert dx.shape == (0, 2) and not dW.any() and not db.any()
    assert log_softmax(np.zeros((0, 3))).shape == (0, 3)


# ---- scratch

def test_scratch_lends_the_same_memory_again():
    scratch = Scratch()
    first = scratch('a', (10, 10), np.float32)
    assert np.shares_memory(first, scratch('a', (3, 4), np.float32))
    assert np.shares_memory(first, scratch('a', (11, 10), np.float32))       # there is a little room to grow
    assert not np.shares_memory(first, scratch('b', (3, 4), np.float32))
    assert not np.shares_memory(first, scratch('a', (1000, 10), np.float32))


def test_scratch_has_the_shape_and_dtype_asked_for():
    scratch = Scratch()
    for shape, dtype in (((2, 3), np.float32), ((0, 3), np.float32), ((2, 3), np.float64), ((5,), np.float64)):
        array = scratch('a', shape, dtype)
        assert array.shape == shape and array.dtype == dtype and array.flags.c_contiguous and array.flags.writeable

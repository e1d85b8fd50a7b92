"""Global attention: against the formula and finite differences, in float64, where vectors are absent; and in search."""

import numpy as np
import pytest
from test_gradients import check

from imagernn.nn import global_attention
from imagernn.nn.global_attention import Memory, backward, forward
from imagernn.nn.packing import columns_and_steps
from imagernn.nn.scratch import Scratch

BATCH_SIZES = np.array([3, 2, 2, 1])
E, H, R, P = 5, 4, 4, 8
ABSENT = np.array([[False] * 4, [False, False, True, True], [False, True, True, True]])


@pytest.fixture
def given():
    """States H (P, H), vectors (N, R, E) and a model."""
    rng = np.random.default_rng(1)
    model = {name: rng.normal(size=shape) for name, shape in global_attention.shapes(E, H).items()}
    return rng.normal(size=(P, H)), rng.normal(size=(3, R, E)), model


def test_every_step_has_the_formula(given):
    states, values, model = given
    out, weights, _ = forward(states, BATCH_SIZES, values, ABSENT, model)
    for h, own, weight, column in zip(states, out, weights, columns_and_steps(BATCH_SIZES)[0], strict=True):
        vectors = values[column, ~ABSENT[column]]
        scores = np.exp([h @ model['Wscore'] @ v for v in vectors])
        np.testing.assert_allclose(weight[:len(scores)], scores / scores.sum(), rtol=1e-12)
        assert not weight[len(scores):].any()
        context = scores / scores.sum() @ vectors
        expected = np.tanh(np.concatenate([h, context]) @ model['Wcombine'] + model['bcombine'][0])
        np.testing.assert_allclose(own, expected, rtol=1e-12)


def test_gradients(given):
    states, values, model = given
    mix, scratch = np.random.default_rng(2).normal(size=(P, H)), Scratch()
    _, _, cache = forward(states, BATCH_SIZES, values, ABSENT, model, scratch)
    dH, dvalues, grads = backward(mix.copy(), cache)
    assert not dvalues[ABSENT].any()
    check(lambda: float(np.vdot(forward(states, BATCH_SIZES, values, ABSENT, model)[0], mix)),
          [states, values, *model.values()], [dH, dvalues, *(grads[name] for name in model)])


def test_scratch_that_was_used_before_changes_nothing(given):
    states, values, model = given
    scratch = Scratch()
    for sizes in np.array([3, 3, 2]), BATCH_SIZES:    # others first
        out, _, cache = forward(states, sizes, values, ABSENT, model, scratch)
        dH, dvalues, _ = backward(np.ones((P, H)), cache)
    alone, _, cache = forward(states, BATCH_SIZES, values, ABSENT, model)
    np.testing.assert_array_equal(out, alone)
    for found, expected in zip((dH, dvalues), backward(np.ones((P, H)), cache), strict=False):
        np.testing.assert_array_equal(found, expected)


def test_a_search_looks_as_training_does(given):
    """From any rows, and rows of rows, at once."""
    states, values, model = given
    expected, _, _ = forward(states, BATCH_SIZES, values, ABSENT, model)
    columns, _ = columns_and_steps(BATCH_SIZES)
    memory, order = Memory(values, ABSENT, model), np.array([5, 0, 7, 2, 2])
    assert len(memory) == 3 and len(memory[columns]) == P
    np.testing.assert_allclose(memory[columns].look(states), expected, rtol=1e-12)
    np.testing.assert_allclose(memory[columns][order].look(states[order]), expected[order], rtol=1e-12)


def test_a_new_model_has_weights_by_the_number_of_their_rows_and_no_bias():
    model = global_attention.init(200, 100, np.random.default_rng(0))
    assert {name: w.shape for name, w in model.items()} == global_attention.shapes(200, 100)
    for name in global_attention.REGULARIZE:
        most = len(model[name]) ** -.5
        assert .99 * most < abs(model[name]).max() <= most and abs(model[name].mean()) < .02 * most
    assert not model['bcombine'].any()

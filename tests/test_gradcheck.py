"""The gradient checker itself: right gradients pass, wrong ones are flagged, and the arrays are put back."""

import numpy as np
import pytest

from imagernn.nn.gradcheck import central_difference, derivative_error, directional_error, element_errors


@pytest.fixture
def problem():
    """f(x, W) = sum(sin(x·W)) + ½·sum(x⁴), its arrays and its gradients."""
    rng = np.random.default_rng(0)
    x, W = rng.normal(size=(6, 4)), rng.normal(size=(4, 5))

    def f():
        return float(np.sin(x @ W).sum() + .5 * (x ** 4).sum())

    cos = np.cos(x @ W)
    return f, [x, W], [cos @ W.T + 2 * x ** 3, x.T @ cos]


def both(f, arrays, grads, seed=1):
    rng = np.random.default_rng(seed)
    return directional_error(f, arrays, grads, rng), [element_errors(f, x, grad, rng).max()
                                                      for x, grad in zip(arrays, grads, strict=True)]


def test_the_error_of_a_derivative_is_relative():
    assert derivative_error(0., lambda s: 7.) == 0
    assert derivative_error(2., lambda s: 2 * s) < 1e-12
    assert derivative_error(3., lambda s: s) == pytest.approx(.5)
    assert derivative_error(1., lambda s: -s) == pytest.approx(1)
    assert derivative_error(2., lambda s: s, floor=100.) == pytest.approx(.01)


def test_a_kink_within_reach_is_left_behind_and_nan_never_agrees():
    assert derivative_error(1., lambda s: max(s, -1e-4)) < 1e-8
    assert derivative_error(0., lambda s: max(s, -1e-4)) == pytest.approx(1)
    assert np.isnan(derivative_error(np.nan, lambda s: s)) and np.isnan(derivative_error(1., lambda s: np.nan))


def test_central_difference_is_exact_up_to_the_fourth_power():
    assert central_difference(lambda s: 7 + 3 * s - 2 * s ** 2 + 5 * s ** 3 + s ** 4, .5) == pytest.approx(3, rel=1e-14)
    assert central_difference(np.exp) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize('seed', range(5))
def test_right_gradients_pass(problem, seed):
    along, each = both(*problem, seed)
    assert along < 1e-9 and max(each) < 1e-9


@pytest.mark.parametrize('which', [0, 1])
def test_a_gradient_that_is_one_percent_off_is_flagged(problem, which):
    f, arrays, grads = problem
    grads[which] = grads[which] * 1.01
    along, each = both(f, arrays, grads)
    assert along > 1e-5 and each[which] == pytest.approx(.01 / 2.01, rel=1e-4)
    assert each[1 - which] < 1e-9


@pytest.mark.parametrize('wrong', [lambda g: -g, lambda g: g * 0, lambda g: 2 * g, lambda g: np.abs(g),
                                   lambda g: g + .01, lambda g: np.roll(g, 1, axis=0)])
def test_other_wrong_gradients_are_flagged(problem, wrong):
    f, arrays, grads = problem
    along, each = both(f, arrays, [wrong(grad) for grad in grads])
    assert along > 1e-5 and min(each) > 1e-5


def test_one_wrong_element_shows_along_a_direction(problem):
    f, arrays, grads = problem
    for x, grad in zip(arrays, grads, strict=True):
        for index in range(x.size):
            right = grad.flat[index]
            grad.flat[index] += 1e-3
            assert directional_error(f, arrays, grads, np.random.default_rng(0)) > 1e-6
            grad.flat[index] = right


def test_the_largest_elements_are_among_those_checked(problem):
    f, (x, _), (grad, _) = problem
    largest = np.argsort(-np.abs(grad), axis=None)[:5]
    for index in largest:
        wrong = grad.copy()
        wrong.flat[index] *= 1.01
        assert element_errors(f, x, wrong, np.random.default_rng(0), num_checks=10).max() > 1e-3


def test_no_element_is_left_out_where_all_are_asked_for(problem):
    f, (x, _), (grad, _) = problem
    for index in range(x.size):
        wrong = grad.copy()
        wrong.flat[index] += .1
        assert element_errors(f, x, wrong, np.random.default_rng(0), num_checks=2 * x.size).max() > 1e-3
    assert len(element_errors(f, x, grad, np.random.default_rng(0), num_checks=2 * x.size)) == x.size
    assert 5 <= len(element_errors(f, x, grad, np.random.default_rng(0), num_checks=10)) <= 10


def test_a_nan_is_no_small_error(problem):
    f, arrays, grads = problem
    grads[0] = np.full_like(grads[0], np.nan)
    assert not directional_error(f, arrays, grads, np.random.default_rng(0)) < 1e-3
    assert not element_errors(f, arrays[0], grads[0], np.random.default_rng(0)).max() < 1e-3


def test_a_single_nan_is_among_the_elements_checked(problem):
    f, (x, _), (grad, _) = problem
    for seed in range(5):
        wrong = grad.copy()
        wrong.flat[seed * 4] = np.nan
        assert not element_errors(f, x, wrong, np.random.default_rng(seed)).max() < 1e-3


def test_the_arrays_are_put_back_exactly(problem):
    f, arrays, grads = problem
    arrays[0][0, 0] = 1e-17          # adding and subtracting a step would lose this
    before, rng = [x.tobytes() for x in arrays], np.random.default_rng(0)
    directional_error(f, arrays, grads, rng)
    assert [x.tobytes() for x in arrays] == before
    for x, grad in zip(arrays, grads, strict=True):
        element_errors(f, x, grad, rng, num_checks=2 * x.size)
    assert [x.tobytes() for x in arrays] == before


def test_a_parameter_without_influence_passes():
    x = np.ones((2, 2))
    assert directional_error(lambda: 3., [x], [np.zeros((2, 2))], np.random.default_rng(0)) == 0
    assert element_errors(lambda: 3., x, np.zeros((2, 2)), np.random.default_rng(0)).tolist() == [0] * 4


def test_a_kink_within_reach_is_no_error_but_a_wrong_gradient_there_is():
    x = np.array([[5e-4, -1., 2.]])          # the first is nearer to the kink of |x| than a step

    def f():
        return float(np.abs(x).sum())

    assert element_errors(f, x, np.array([[1., -1, 1]]), np.random.default_rng(0)).max() < 1e-6
    assert element_errors(f, x, np.array([[1.01, -1, 1]]), np.random.default_rng(0)).max() > 1e-3


def test_the_seed_decides_what_is_checked(problem):
    f, (x, _), (grad, _) = problem
    one, same, other = (element_errors(f, x, grad * 1.01, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(one, same) and not np.array_equal(one, other)

"""Gradients compared with finite differences of the cost. Knows no models, only a function and its arrays.

Use float64. The function must return the same value at each call: fix dropout masks by restarting the random stream.
"""

import numpy as np

STEP = 1e-3
SMALLER = (1, .3, .1, .03, .01, .003, .001)
AGREED = 1e-8


def central_difference(f_at, step=STEP):
    """The derivative at 0 of f_at(s) -> float, as (8·(f(s) − f(−s)) − (f(2s) − f(−2s))) / 12s; its error is O(s⁴)."""
    return (8 * (f_at(step) - f_at(-step)) - (f_at(2 * step) - f_at(-2 * step))) / (12 * step)


def derivative_error(analytic, f_at, step=STEP, floor=0.):
    """The relative error of an analytic derivative a against the finite difference n of f_at(s) at 0.

    It is |a − n| / max(|a| + |n|, floor), and 0 where both are 0. Where they disagree, steps down to a thousand times
    smaller are tried as well, and the least error counts: a smaller step no longer reaches over the kink of a ReLU. A
    derivative that is wrong by more than rounding stays wrong at every step.
    """
    least = np.inf
    for smaller in SMALLER:
        numeric = central_difference(f_at, step * smaller)
        scale = max(abs(analytic) + abs(numeric), floor)
        error = abs(analytic - numeric) / scale if scale else 0.
        least = error if np.isnan(error) else min(least, error)    # NaN is not an agreement
        if not least >= AGREED:
            break
    return least


def directional_error(f, arrays, grads, rng, step=STEP):
    """Relative error of the gradients along one random direction through all arrays at once.

    f() -> float reads the arrays, which are changed for a moment and restored. Any wrong element changes this one
    number. (The method of autograd's test_util.)
    """
    originals = [x.copy() for x in arrays]
    directions = [rng.choice([-1., 1.], x.shape) for x in arrays]

    def f_at(s):
        for x, original, direction in zip(arrays, originals, directions, strict=True):
            x[...] = original + s * direction
        value = f()
        for x, original in zip(arrays, originals, strict=True):
            x[...] = original
        return value

    analytic = sum(float(np.vdot(g, d)) for g, d in zip(grads, directions, strict=True))
    return derivative_error(analytic, f_at, step)


def element_errors(f, x, grad, rng, num_checks=10, step=STEP):
    """Relative errors of up to num_checks elements of grad, half of them the largest, half drawn at random.

    f() -> float reads the array x, which is changed for a moment and restored. Errors are relative to the element, or
    to a hundredth of the largest element if that is more, because the difference of two costs has few digits left for
    smaller ones.
    """
    magnitudes = np.nan_to_num(np.abs(grad).ravel(), nan=np.inf)
    largest = np.argsort(-magnitudes, kind='stable')[:num_checks // 2]
    drawn = rng.choice(x.size, min(num_checks - len(largest), x.size), replace=False)
    errors = []
    for index in dict.fromkeys([*largest.tolist(), *drawn.tolist()]):
        original = x.flat[index]

        def f_at(s, index=index, original=original):
            x.flat[index] = original + s
            value = f()
            x.flat[index] = original
            return value

        errors.append(derivative_error(float(grad.flat[index]), f_at, step, 1e-2 * magnitudes.max()))
    return np.array(errors)

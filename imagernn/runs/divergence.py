"""Watching a run's numbers: what is not finite, and a perplexity that runs away; and going back to when they were good.

Knows nothing of files or layers.
"""

import math

import numpy as np

RISE = 5    # times the lowest perplexity so far; training that went well was seen to rise by a hundredth at most
WINDOW = 1000    # sentences over which a perplexity is taken to be recent


def first_not_finite(arrays):
    """The name of the first array in a dict that holds NaN or an infinity; None if there is none."""
    return next((name for name, array in arrays.items() if not np.isfinite(array).all()), None)


def spoiled_cost(cost, model, grads):
    """The reason to end a run whose cost is not finite, with the name of the parameter to blame; or None."""
    if math.isfinite(cost):
        return None
    if name := first_not_finite(model):
        return f'the cost is {cost}: the parameter {name} holds numbers that are not finite'
    if name := first_not_finite(grads):
        return f'the cost is {cost}, and the gradient of {name} is not finite'
    return f'the cost is {cost}, though all parameters are finite: they are too large'


def spoiled_state(model, solver_state):
    """The reason not to save a model and its solver's state_dict(): what in them is not finite; or None."""
    if name := first_not_finite(model):
        return f'the parameter {name} holds numbers that are not finite'
    for slot, arrays in solver_state['cache'].items():
        if name := first_not_finite(arrays):
            return f'the solver\'s {slot} of {name} hold numbers that are not finite'
    return None


def ran_away(trend, ppl2, batch_size):
    """The reason to end a run whose perplexity has become RISE times the lowest that it was; or None.

    trend is the run's memory, empty at first, and is changed: of ln perplexity the moving means over the last WINDOW
    sentences ('recent') and over ten times as many ('slow'), and the lowest that the slow one has been.
    """
    share, nats = min(.5, batch_size / WINDOW), math.log(max(ppl2, 1e-300))
    for name, part in (('recent', share), ('slow', share / 10)):
        before = trend.get(name, nats)
        trend[name] = before + part * (nats - before)
    trend['lowest'] = min(trend.get('lowest', nats), trend['slow'])
    if trend['recent'] <= trend['lowest'] + math.log(RISE):
        return None
    return (f'the perplexity of the last {WINDOW} sentences or so, {_exp(trend["recent"])}, is more than {RISE} times '
            f'the lowest before, {_exp(trend["lowest"])}')


def _exp(nats):
    return f'{math.exp(nats):.4g}' if nats < 700 else 'inf'

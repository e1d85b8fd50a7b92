"""When a run has diverged: a number that is not finite, a cost or a perplexity that has grown too large.

Every run checks that its numbers are finite. Which further checks apply is the trainer's choice: a check is a function
(state, cost, stats) -> the reason why the run has diverged, or None. Knows nothing of files, and nothing of what is
done about it.
"""

import math

import numpy as np

RISE = 5         # times the lowest perplexity so far; in training that goes well it rises by a hundredth at most
WINDOW = 1000    # sentences over which a perplexity counts as recent


def cost_not_finite(cost, model, grads):
    """Why the cost of a batch is not finite, with the name of the parameter to blame; None where it is finite."""
    if math.isfinite(cost):
        return None
    if name := first_not_finite(model):
        return f'the cost is {cost}: the parameter {name} holds numbers that are not finite'
    if name := first_not_finite(grads):
        return f'the cost is {cost}, and the gradient of {name} is not finite; try a smaller --learning_rate'
    return f'the cost is {cost}, though all parameters are finite: they are too large; try a smaller --learning_rate'


def state_not_finite(model, solver_state, average=None):
    """What in a model, its solver's state_dict() or the average of its weights is not finite, or None."""
    if name := first_not_finite(model):
        return f'the parameter {name} holds numbers that are not finite'
    for slot, arrays in solver_state['cache'].items():
        if name := first_not_finite(arrays):
            return f'the solver\'s {slot} of {name} hold numbers that are not finite'
    if name := first_not_finite(average or {}):
        return f'the average of the parameter {name} holds numbers that are not finite'
    return None


def first_not_finite(arrays):
    """The name of the first array in a dict that holds NaN or an infinity; None if there is none."""
    return next((name for name, array in arrays.items() if not np.isfinite(array).all()), None)


def cost_doubled(state, cost, stats=None):
    """A check, as in NeuralTalk: the cost of a batch is more than twice that of the first batch."""
    if state.cost0 is None or cost <= 2 * state.cost0:    # NaN is not
        return None
    return (f'the cost, {cost:.4g}, is more than twice the first one, {state.cost0:.4g}; try a smaller '
            '--learning_rate or --grad_clip, or a larger --batch_size')


def perplexity_rose(batch_size):
    """A check: the perplexity of the last WINDOW sentences or so is RISE times the lowest that it was before.

    It keeps in state.trend moving means of ln perplexity, over the last WINDOW sentences ('recent') and over ten times
    as many ('slow'), and the lowest value of the slow one.
    """
    share = min(.5, batch_size / WINDOW)

    def check(state, cost, stats):
        trend = state.trend
        nats = math.log(max(stats['ppl2'], 1e-300))
        for name, part in (('recent', share), ('slow', share / 10)):
            before = trend.get(name, nats)
            trend[name] = before + part * (nats - before)
        trend['lowest'] = min(trend.get('lowest', nats), trend['slow'])
        if trend['recent'] <= trend['lowest'] + math.log(RISE):
            return None
        return (f'the perplexity of the last {WINDOW} sentences or so, {_exp(trend["recent"])}, is more than {RISE} '
                f'times the lowest before, {_exp(trend["lowest"])}')

    return check


def _exp(nats):
    return f'{math.exp(nats):.4g}' if nats < 700 else 'inf'

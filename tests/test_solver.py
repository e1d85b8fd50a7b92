"""Every update rule against its formula in a line of plain float64, on more than one block; clipping; state."""

import copy

import numpy as np
import pytest

from imagernn.nn.solver import BLOCK, SOLVERS, OtherSolver, Solver
from imagernn.nn.workers import Workers

PARAMS = {'learning_rate': .02, 'decay_rate': .9, 'smooth_eps': 1e-3, 'momentum': 0, 'adam_beta1': .7}
SHAPES = {'W': (3, BLOCK // 2 + 11), 'b': (1, 5)}    # one of more than one block, the last of them not full
STEPS = 4


def sqrt(x):
    return x ** .5


# each rule in plain arithmetic: w, g, p, the step from 1, and what it remembers (x, y: 0 at first) -> w, x, y

def vanilla(w, g, p, t, x, y):
    return w - p['learning_rate'] * g, x, y


def momentum(w, g, p, t, v, y):
    v = p['momentum'] * v - p['learning_rate'] * g
    return w + v, v, y


def adagrad(w, g, p, t, s, y):
    s = s + g ** 2
    return w - p['learning_rate'] * g / sqrt(s + p['smooth_eps']), s, y


def rmsprop(w, g, p, t, s, y):
    s = p['decay_rate'] * s + (1 - p['decay_rate']) * g ** 2
    return w - p['learning_rate'] * g / sqrt(s + p['smooth_eps']), s, y


def adadelta(w, g, p, t, s, x):
    s = p['decay_rate'] * s + (1 - p['decay_rate']) * g ** 2
    d = -g * sqrt(x + p['smooth_eps']) / sqrt(s + p['smooth_eps'])
    return w + d, s, p['decay_rate'] * x + (1 - p['decay_rate']) * d ** 2


def adam(w, g, p, t, m, s):
    m = p['adam_beta1'] * m + (1 - p['adam_beta1']) * g
    s = p['decay_rate'] * s + (1 - p['decay_rate']) * g ** 2
    m_hat, s_hat = m / (1 - p['adam_beta1'] ** t), s / (1 - p['decay_rate'] ** t)
    return w - p['learning_rate'] * m_hat / (sqrt(s_hat) + p['smooth_eps']), m, s


FORMULAS = {'vanilla': vanilla, 'momentum': momentum, 'adagrad': adagrad, 'rmsprop': rmsprop, 'adadelta': adadelta,
            'adam': adam}


def params_of(rule, **more):
    named = {'solver': 'vanilla', 'momentum': .8} if rule == 'momentum' else {'solver': rule}
    return {**PARAMS, **named, **more}


def random_arrays(seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in SHAPES.items()}


def clip_by_value(grads, clip):
    return {name: np.minimum(np.maximum(g, -clip), clip) for name, g in grads.items()}


def clip_by_norm(grads, clip):
    norm = sqrt(sum((g ** 2).sum() for g in grads.values()))
    return {name: g * min(1, clip / norm) for name, g in grads.items()}


def no_clipping(grads, clip):
    return grads


def plain_updates(rule, params, clipping=no_clipping, learning_rates=None):
    model = random_arrays(0)
    memory = {name: (np.zeros_like(w), np.zeros_like(w)) for name, w in model.items()}
    for step in range(1, STEPS + 1):
        p = {**params, 'learning_rate': learning_rates[step - 1]} if learning_rates else params
        for name, g in clipping(random_arrays(step), params.get('grad_clip')).items():
            model[name], *memory[name] = FORMULAS[rule](model[name], g, p, step, *memory[name])
    return model


def updates(solver, first=1, model=None, dtype=np.float64):
    """The model after the steps from `first` on."""
    model = model or random_arrays(0, dtype)
    for step in range(first, STEPS + 1):
        solver.step(model, random_arrays(step, dtype))
    return model


def assert_close(model, expected, rtol=1e-12):
    for name, w in model.items():
        np.testing.assert_allclose(w, expected[name], rtol=rtol, atol=rtol, err_msg=name)


# ---- the rules

@pytest.mark.parametrize('rule', FORMULAS)
def test_a_rule_is_its_formula(rule):
    assert_close(updates(Solver(params_of(rule))), plain_updates(rule, params_of(rule)))


@pytest.mark.parametrize('rule', FORMULAS)
def test_a_rule_in_single_precision(rule):
    model = updates(Solver(params_of(rule)), dtype=np.float32)
    assert {w.dtype for w in model.values()} == {np.dtype(np.float32)}
    assert_close(model, plain_updates(rule, params_of(rule)), rtol=1e-4)


def test_every_solver_that_can_be_chosen_is_tested():
    assert set(SOLVERS) == set(FORMULAS) - {'momentum'}


@pytest.mark.parametrize('rule', FORMULAS)
def test_the_model_is_updated_in_place(rule):
    model = random_arrays(0)
    arrays = dict(model)
    Solver(params_of(rule)).step(model, random_arrays(1))
    assert all(model[name] is w for name, w in arrays.items())
    assert all((w != original).all() for w, original in zip(arrays.values(), random_arrays(0).values(), strict=True))


@pytest.mark.parametrize('rule', ['vanilla', 'rmsprop'])
def test_a_model_in_column_order_is_refused_rather_than_left_as_it_is(rule):
    model = {name: np.asfortranarray(w) for name, w in random_arrays(0).items()}
    with pytest.raises(ValueError, match='C-contiguous'):
        updates(Solver(params_of(rule)), model=model)


@pytest.mark.parametrize('rule', FORMULAS)
def test_gradients_in_column_order(rule):
    solver, model = Solver(params_of(rule, grad_clip=.5)), random_arrays(0)
    for step in range(1, STEPS + 1):
        solver.step(model, {name: np.asfortranarray(g) for name, g in random_arrays(step).items()})
    assert_close(model, plain_updates(rule, params_of(rule, grad_clip=.5), clip_by_value))


# ---- clipping

@pytest.mark.parametrize('rule', FORMULAS)
def test_each_element_is_clipped(rule):
    params = params_of(rule, grad_clip=.5)
    assert_close(updates(Solver(params)), plain_updates(rule, params, clip_by_value))


@pytest.mark.parametrize('grad_clip', [.5, 1e9], ids=['clipped', 'below'])
@pytest.mark.parametrize('rule', FORMULAS)
def test_all_gradients_are_scaled_together_to_the_norm(rule, grad_clip):
    params = params_of(rule, grad_clip=grad_clip, grad_clip_by='norm')
    assert_close(updates(Solver(params)), plain_updates(rule, params, clip_by_norm))


@pytest.mark.parametrize('grad_clip_by', ['value', 'norm'])
@pytest.mark.parametrize('grad_clip', [0, -1])
def test_a_clip_of_nothing_does_not_clip(grad_clip, grad_clip_by):
    params = params_of('vanilla', grad_clip=grad_clip, grad_clip_by=grad_clip_by)
    assert_close(updates(Solver(params)), plain_updates('vanilla', params))


# ---- parameters that are fixed

@pytest.mark.parametrize('rule', FORMULAS)
def test_a_fixed_parameter_stays_and_the_others_learn_as_if_it_were_not_there(rule):
    params = params_of(rule, grad_clip=.5, grad_clip_by='norm')
    solver, model = Solver(params, ['W']), random_arrays(0)
    alone, others = Solver(params), {'b': random_arrays(0)['b']}
    for step in range(1, STEPS + 1):
        solver.step(model, random_arrays(step))
        alone.step(others, {'b': random_arrays(step)['b']})
    np.testing.assert_array_equal(model['W'], random_arrays(0)['W'])
    np.testing.assert_array_equal(model['b'], others['b'])
    assert all('W' not in arrays for arrays in solver.state_dict()['cache'].values())
    second = Solver(params, ['W'])
    second.load_state_dict(solver.state_dict(), model)
    if solver.state_dict()['cache']:
        with pytest.raises(OtherSolver, match='do not fit the model'):
            Solver(params).load_state_dict(solver.state_dict(), model)


# ---- learning rate

@pytest.mark.parametrize('rule', sorted(set(FORMULAS) - {'adadelta'}))
def test_a_step_takes_the_learning_rate_that_it_is_given(rule):
    rates, solver, model = [.1, .05, .01, .2], Solver(params_of(rule)), random_arrays(0)
    for step, rate in enumerate(rates, start=1):
        solver.step(model, random_arrays(step), learning_rate=rate)
    assert_close(model, plain_updates(rule, params_of(rule), learning_rates=rates))


def test_a_learning_rate_that_is_given_is_for_that_step_alone():
    solver, model = Solver(params_of('vanilla')), random_arrays(0)
    for step, rate in enumerate([.5, None, .5, None], start=1):
        solver.step(model, random_arrays(step), rate)
    lr = PARAMS['learning_rate']
    assert_close(model, plain_updates('vanilla', params_of('vanilla'), learning_rates=[.5, lr, .5, lr]))


def test_the_callers_params_are_left_alone():
    params = params_of('rmsprop')
    before = dict(params)
    Solver(params).step(random_arrays(0), random_arrays(1), learning_rate=.5)
    assert params == before


# ---- state

@pytest.mark.parametrize('rule', FORMULAS)
def test_a_saved_state_goes_on_exactly(rule):
    params = params_of(rule, grad_clip=1)
    expected = updates(Solver(params))
    first, model = Solver(params), random_arrays(0)
    for step in (1, 2):
        first.step(model, random_arrays(step))
    state = copy.deepcopy(first.state_dict())
    first.step(copy.deepcopy(model), random_arrays(9))                # what the first does now concerns nobody else
    second = Solver(params)
    second.load_state_dict(state, model)
    found = updates(second, first=3, model=model)
    for name, w in found.items():
        np.testing.assert_array_equal(w, expected[name])
    assert second.state_dict()['step'] == STEPS


def test_a_loaded_state_is_not_shared():
    first = Solver(params_of('adam'))
    first.step(random_arrays(0), random_arrays(1))
    second = Solver(params_of('adam'))
    second.load_state_dict(first.state_dict(), random_arrays(0))
    before = copy.deepcopy(first.state_dict())
    second.step(random_arrays(0), random_arrays(2))
    assert first.state_dict()['step'] == before['step']
    for slot, arrays in before['cache'].items():
        for name, a in arrays.items():
            np.testing.assert_array_equal(first.state_dict()['cache'][slot][name], a)


@pytest.mark.parametrize('saved, loading', [(saved, loading) for saved in FORMULAS for loading in FORMULAS
                                            if saved != loading])
def test_the_state_of_another_rule_is_refused(saved, loading):
    solver = Solver(params_of(saved))
    solver.step({'b': np.ones((1, 5))}, {'b': np.ones((1, 5))})
    other = Solver(params_of(loading))
    with pytest.raises(OtherSolver, match="the update rule .*--solver"):
        other.load_state_dict(solver.state_dict(), {'b': np.ones((1, 5))})


def test_the_state_of_another_model_is_refused():
    solver, other = Solver(params_of('adam')), Solver(params_of('adam'))
    solver.step({'b': np.ones((1, 5))}, {'b': np.ones((1, 5))})
    for model in {'b': np.ones((1, 4))}, {'b': np.ones((1, 5)), 'W': np.ones((2, 2))}:
        with pytest.raises(OtherSolver, match="do not fit"):
            other.load_state_dict(solver.state_dict(), model)


# ---- mistakes

def test_an_unknown_solver_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=f'--solver sgd: .*{", ".join(SOLVERS)}'):
        Solver(params_of('sgd'))


def test_an_unknown_way_of_clipping_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match='--grad_clip_by size: .*value, norm'):
        Solver(params_of('vanilla', grad_clip_by='size'))


@pytest.mark.parametrize('rule', FORMULAS)
def test_threads_update_the_same_numbers(rule):
    first, second = random_arrays(0), random_arrays(0)
    alone, together, workers = Solver(params_of(rule)), Solver(params_of(rule)), Workers(3)
    for step in range(1, 3):
        alone.step(first, random_arrays(step))
        together.step(second, random_arrays(step), workers=workers)
    for name in SHAPES:
        np.testing.assert_array_equal(first[name], second[name])

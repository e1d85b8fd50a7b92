"""The translation model's backward pass against finite differences, in float64, dropout on with its masks fixed; and
planted errors. The random stream of the dropout masks restarts at every call, so that the cost is one function.
"""

import numpy as np
import pytest
from test_gradients import CAUGHT, check, errors

from imagernn.nn import global_attention
from imagernn.nn.search import greedy_search
from imagernn.nn.workers import Workers
from imagernn.translation import model as translation
from imagernn.translation.batch import deal, make_batch
from imagernn.translation.model import (
    attention_of,
    cost_and_grads,
    draw_dropout,
    forward,
    make_tick,
    read_sources,
    regularized,
    shapes,
    sum_of_logprobs,
)

SOURCES = [[2, 3], [4, 2, 5, 3], [], [3], [2, 2, 4]]
TARGETS = [[3, 2, 4], [2], [4, 3], [], [2, 5, 3, 4]]
SOURCE_V, V = 6, 7
VARIANTS = {
    'plain': {},
    'forward': {'source_order': 'forward'},
    'two layers': {'hidden_sizes': '4,3'},
    'gru': {'layer': 'gru', 'hidden_sizes': '4,3'},
    'attention': {'attention': True},
    'attention, forward, two layers': {'attention': True, 'source_order': 'forward', 'hidden_sizes': '4,3'},
    'attention, gru': {'attention': True, 'layer': 'gru', 'hidden_sizes': '4,3'},
    'smoothing': {'attention': True, 'label_smoothing': .2},
}


def make_params(**more):
    return {'layer': 'lstm', 'embedding_size': 3, 'hidden_sizes': '4', 'attention': False,
            'source_order': 'reversed', 'drop_prob': 0., 'regc': 0., 'tanhC_version': 1, 'label_smoothing': 0., **more}


def joined(sentences):
    return np.array([word for sentence in sentences for word in sentence], np.int64), np.array(
        [len(sentence) for sentence in sentences])


def some_batch(sources=SOURCES, targets=TARGETS):
    return make_batch(*joined(sources), *joined(targets))


def some_model(params):
    rng = np.random.default_rng(1)
    return {name: rng.normal(size=shape) for name, shape in shapes(params, SOURCE_V, V).items()}


def whole_cost(num_threads=1, **more):
    """The cost as a function of a model, and its gradients: f, names, arrays, grads."""
    params = make_params(**more)
    batch, model = some_batch(), some_model(params)

    def f():
        dropout = draw_dropout(batch, params, np.random.default_rng(9))
        logprobs, _, _ = forward(batch, model, params, dropout, smoothing=params['label_smoothing'])
        squares = sum(float(np.vdot(model[name], model[name])) for name in regularized(params))
        return (-float(np.atleast_2d(logprobs)[-1].sum()) + .5 * params['regc'] * squares) / len(batch.target.inputs)

    cost, grads, _ = cost_and_grads(batch, model, params, np.random.default_rng(9), Workers(num_threads))
    assert cost == pytest.approx(f(), rel=1e-13)
    return f, list(model), list(model.values()), [grads[name].copy() for name in model]


@pytest.mark.parametrize('more', [{}, {'drop_prob': .4, 'regc': .1}], ids=['', 'dropout and decay'])
@pytest.mark.parametrize('variant', VARIANTS)
def test_the_gradients_of_the_cost(variant, more):
    f, _, arrays, grads = whole_cost(**VARIANTS[variant], **more)
    check(f, arrays, grads)


@pytest.mark.parametrize('variant', ['two layers', 'attention', 'attention, gru'])
def test_the_gradients_from_several_threads(variant):
    f, _, arrays, grads = whole_cost(3, **VARIANTS[variant], drop_prob=.4)
    check(f, arrays, grads)


def caught(suspects, **more):
    """Whether the checker finds an error in the gradients, by the elements of these parameters and by all at once."""
    f, names, arrays, grads = whole_cost(**more)
    return min(errors(f, arrays, grads, list(map(names.index, suspects)))) > CAUGHT


@pytest.mark.parametrize('part', [0, 1], ids=['h', 'c'])
@pytest.mark.parametrize('attends', [False, True], ids=['', 'attention'])
def test_an_error_on_the_bridge_is_caught(part, attends, monkeypatch):
    backward, suspects = translation.stacked.backward, ['backward_layer0_WLSTM', 'source_Ws']
    assert not caught(suspects, attention=attends)

    def spoilt(dH, cache, dlast=None):
        dX, dstart, grads = backward(dH, cache, dlast)
        if dlast is None and dstart[0][0] is not None:    # of the decoder, whose start is not zeros
            dstart = [tuple(half * (.5 if number == part else 1) for number, half in enumerate(dstart[0]))]
        return dX, dstart, grads

    monkeypatch.setattr(translation.stacked, 'backward', spoilt)
    assert caught(suspects, attention=attends)


@pytest.mark.parametrize('layer', translation.LAYERS)
@pytest.mark.parametrize('part', [0, 1], ids=['states', 'what is attended to'])
def test_an_error_in_what_attention_hands_back_is_caught(part, layer, monkeypatch):
    backward = global_attention.backward

    def spoilt(dout, cache):
        found = list(backward(dout, cache))
        found[part] = found[part] * .9
        return found

    monkeypatch.setattr(global_attention, 'backward', spoilt)
    assert caught(['Ws'] if part == 0 else ['source_Ws'], attention=True, layer=layer)


@pytest.mark.parametrize('where', ['softmax', 'scores'])
def test_an_error_in_the_gradient_of_the_weights_is_caught(where, monkeypatch):
    def spoilt(dcontexts, values, weights):
        dweights = dcontexts @ values.transpose(0, 2, 1)
        return weights * dweights if where == 'softmax' else 0 * dweights

    monkeypatch.setattr(global_attention, 'weighted_mean_backward', spoilt)
    assert caught(['attention_Wscore', 'source_Ws'], attention=True)


@pytest.mark.parametrize('variant', VARIANTS)
def test_a_pair_has_the_same_probability_alone_in_any_batch_and_on_any_thread(variant):
    params = make_params(**VARIANTS[variant])
    model = some_model(params)
    alone = [sum_of_logprobs(some_batch([source], [target]), model, params)[0]
             for source, target in zip(SOURCES, TARGETS, strict=True)]
    for num_threads in 1, 2, 5:
        total, count = sum_of_logprobs(some_batch(), model, params, Workers(num_threads))
        assert total == pytest.approx(sum(alone), rel=1e-12) and count == sum(map(len, TARGETS)) + len(TARGETS)
    for part, _, _ in deal(some_batch(), 2):
        assert sorted(part.source.order) == sorted(part.target.order)


@pytest.mark.parametrize('variant', VARIANTS)
def test_search_steps_what_training_computes(variant):
    """Teacher forcing, word by word through the tick, gives the logprobs of the packed pass."""
    params = make_params(**VARIANTS[variant])
    model = some_model(params)
    tick, state = make_tick(model, params), read_sources(*joined(SOURCES), model, params)
    for number, target in enumerate(TARGETS):
        own, total, word = tuple(part[number:number + 1] for part in state), 0., 0
        for following in [*target, 0]:
            logprobs, own = tick(np.array([word]), own)
            total, word = total + logprobs[0, following], following
        expected, _ = sum_of_logprobs(some_batch([SOURCES[number]], [target]), model, params)
        assert total == pytest.approx(expected, abs=1e-10)


def test_no_search_writes_an_unknown_word():
    params = make_params()
    model = some_model(params)
    model['bd'][0, translation.UNKNOWN] = 100
    found = greedy_search(make_tick(model, params), read_sources(*joined(SOURCES), model, params), 6)
    assert not any(translation.UNKNOWN in sentences[0].words for sentences in found)


def test_attention_is_handed_out_for_each_pair_in_the_order_given():
    params = make_params(attention=True)
    weights = attention_of(some_batch(), some_model(params), params)
    assert [one.shape for one in weights] == [(len(target) + 1, len(source) + 1)
                                              for source, target in zip(SOURCES, TARGETS, strict=True)]
    assert all(np.allclose(one.sum(axis=1), 1) for one in weights)

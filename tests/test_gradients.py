"""Every backward pass against finite differences, in float64, dropout on with its masks fixed; and planted errors.

The random stream of the dropout masks starts anew at every call, so that the cost is one and the same function.
"""

import numpy as np
import pytest
from models import IMAGES, SENTENCES, VARIANTS, make_model, make_pairs, make_params, pack_pairs

from imagernn.captioning import model
from imagernn.captioning.generators import GENERATORS
from imagernn.captioning.model import cost_and_grads, cost_of, draw_dropout, forward
from imagernn.nn import attention, layers, lstm, plain_lstm, rnn
from imagernn.nn.attention import attend_backward, attend_forward
from imagernn.nn.gradcheck import directional_error, element_errors
from imagernn.nn.layers import (
    SparseRows,
    affine_backward,
    affine_forward,
    dropout_backward,
    dropout_draw,
    dropout_forward,
    embedding_backward,
    embedding_forward,
    relu_backward,
    relu_forward,
    softmax_cost_backward,
    softmax_cost_forward,
)
from imagernn.nn.scratch import Scratch
from imagernn.nn.workers import Workers

TOLERANCE = 1e-6
CAUGHT = 10 * TOLERANCE
STEP = 1e-4    # a kink of a ReLU is seldom this near
DROPOUTS = [(.5, .5), (.3, .6), (0, .5), (.3, 0)]    # encoder, decoder; one half has a way of its own to draw masks


def check(f, arrays, grads, num_checks=6):
    """Along two random directions through all arrays at once, and some elements of every array."""
    rng = np.random.default_rng(0)
    for _ in range(2):
        assert directional_error(f, arrays, grads, rng, STEP) < TOLERANCE
    for x, grad in zip(arrays, grads, strict=True):
        assert x.shape == grad.shape and x.dtype == grad.dtype == np.float64
        assert element_errors(f, x, grad, rng, num_checks, STEP).max() < TOLERANCE


def errors(f, arrays, grads, suspects):
    """The error along a random direction, and the largest of an element among the arrays that are suspected."""
    rng = np.random.default_rng(0)
    along = directional_error(f, arrays, grads, rng, STEP)
    return along, max(element_errors(f, arrays[i], grads[i], rng, 10, STEP).max() for i in suspects)


# ---- layers: f is a fixed random combination of what comes out, so that its gradient by the output is `weights`

@pytest.fixture
def rng():
    return np.random.default_rng(1)


def test_affine(rng):
    x, W, b, weights = (rng.normal(size=shape) for shape in ((5, 3), (3, 4), (1, 4), (5, 4)))
    _, cache = affine_forward(x, W, b)
    check(lambda: float(np.vdot(affine_forward(x, W, b)[0], weights)), [x, W, b], affine_backward(weights, cache))


def test_relu(rng):
    x, weights = rng.normal(size=(6, 5)), rng.normal(size=(6, 5))
    _, cache = relu_forward(x)
    check(lambda: float(np.vdot(relu_forward(x)[0], weights)), [x], [relu_backward(weights, cache)])


@pytest.mark.parametrize('drop_prob', [.5, .2, 0])
def test_dropout(rng, drop_prob):
    x, weights = rng.normal(size=(7, 5)), rng.normal(size=(7, 5))
    kept = dropout_draw(*x.shape, drop_prob, np.random.default_rng(3))
    _, mask = dropout_forward(x, kept, drop_prob)
    check(lambda: float(np.vdot(dropout_forward(x, kept, drop_prob)[0], weights)),
          [x], [dropout_backward(weights, mask)])


def test_embedding_sums_the_rows_of_a_word_that_occurs_again(rng):
    W, ix, weights = rng.normal(size=(5, 3)), np.array([4, 0, 4, 2, 4]), rng.normal(size=(5, 3))
    _, cache = embedding_forward(W, ix)
    rows, drows = embedding_backward(weights, cache)
    dW = np.zeros_like(W)
    dW[rows] = drows
    check(lambda: float(np.vdot(embedding_forward(W, ix)[0], weights)), [W], [dW])


@pytest.mark.parametrize('smoothing', [0, .1, .5])
@pytest.mark.parametrize('block_bytes', [1, 1 << 18])
def test_softmax_cost(rng, monkeypatch, block_bytes, smoothing):
    monkeypatch.setattr(layers, 'BLOCK_BYTES', block_bytes)
    x, W, b = rng.normal(size=(6, 3)), rng.normal(size=(3, 4)), rng.normal(size=(1, 4))
    targets = np.array([0, 3, 3, 1, 2, 0])
    for scale in (.7, rng.uniform(.5, 1, size=6)):
        def f(scale=scale):
            logprobs, _ = softmax_cost_forward(x, W, b, targets, Scratch(), smoothing)
            return -float((scale * np.atleast_2d(logprobs)[-1]).sum())

        _, cache = softmax_cost_forward(x, W, b, targets, Scratch(), smoothing)
        check(f, [x, W, b], softmax_cost_backward(scale, cache))


# ---- recurrent layers

RECURRENT = {'lstm': (lstm, {}), 'lstm_tanhC': (lstm, {'tanhC_version': 1}), 'rnn': (rnn, {}),
             'rnn_relu': (rnn, {'rnn_relu_encoders': 1}), 'rnn_once': (rnn, {'rnn_feed_once': 1})}
E, H = 4, 3


@pytest.mark.parametrize('given', [(), (0,), (1,), (0, 1)], ids=['no start', 'h', 'c or context', 'both'])
@pytest.mark.parametrize('batch_sizes', [[4, 3, 3, 1], [3], [1, 1, 1], [1]], ids=str)
@pytest.mark.parametrize('name', RECURRENT)
def test_recurrent_layer_through_its_start_and_its_last_state(rng, name, batch_sizes, given):
    layer, params = RECURRENT[name]
    model = {key: rng.normal(size=shape) for key, shape in layer.shapes(E, H).items()}
    X = rng.normal(size=(sum(batch_sizes), E))
    start = tuple(rng.normal(size=(batch_sizes[0], H)) if i in given else None for i in range(2))
    weights = rng.normal(size=(sum(batch_sizes), H))
    _, last, cache = layer.forward(X, batch_sizes, model, params, start)
    of_last = tuple(None if part is None else rng.normal(size=part.shape) for part in last)

    def f():
        hidden, last, _ = layer.forward(X, batch_sizes, model, params, start)
        return float(np.vdot(hidden, weights) + sum(np.vdot(part, of_part) for part, of_part
                                                    in zip(last, of_last, strict=True) if part is not None))

    dX, dstart, grads = layer.backward(weights.copy(), cache, of_last)
    assert [part is not None for part in dstart] == [i in given for i in range(2)]
    arrays = [X, *(start[i] for i in given), *(model[key] for key in grads)]
    found = [dX.copy(), *(dstart[i] for i in given), *(grad.copy() for grad in grads.values())]
    check(f, arrays, found, num_checks=4)

    # an error of a percent in any of them is caught
    for wrong in range(len(found)):
        if not found[wrong].any():    # a single ReLU that is off
            continue
        planted = [grad * 1.01 if i == wrong else grad for i, grad in enumerate(found)]
        assert max(errors(f, arrays, planted, [wrong])) > CAUGHT


@pytest.mark.parametrize('name', RECURRENT)
def test_a_part_of_dlast_that_is_none_is_zeros(rng, name):
    layer, params = RECURRENT[name]
    model = {key: rng.normal(size=shape) for key, shape in layer.shapes(E, H).items()}
    X, weights, dh = rng.normal(size=(6, E)), rng.normal(size=(6, H)), rng.normal(size=(3, H))
    dX = []
    for dlast in ((dh, None), (dh, np.zeros((3, H))), (None, None), None):
        _, _, cache = layer.forward(X, [3, 2, 1], model, params)
        dX.append(layer.backward(weights.copy(), cache, dlast)[0].copy())
    np.testing.assert_array_equal(dX[0], dX[1])
    np.testing.assert_array_equal(dX[2], dX[3])
    assert np.isfinite(dX).all() and not np.array_equal(dX[0], dX[2])


@pytest.mark.parametrize('name', RECURRENT)
def test_the_last_state_of_a_pass_without_a_start_can_be_continued(rng, name):
    layer, params = RECURRENT[name]
    model = {key: rng.normal(size=shape) for key, shape in layer.shapes(E, H).items()}
    X = rng.normal(size=(8, E))
    whole, _, _ = layer.forward(X, [2] * 4, model, params)
    _, last, _ = layer.forward(X[:6], [2] * 3, model, params)
    h, _ = layer.tick(layer.project(X[6:], model, params), last, model, params)
    np.testing.assert_allclose(h, whole[6:], rtol=1e-13)


def test_two_layers_on_parts_of_one_scratch_keep_their_caches(rng):
    """Two LSTMs, one above the other."""
    models = [{'WLSTM': rng.normal(size=(1 + size + H, 4 * H))} for size in (E, H)]
    X, weights, scratch = rng.normal(size=(6, E)), rng.normal(size=(6, H)), Scratch()

    def f():
        hidden = X
        for each in models:
            hidden, _, _ = lstm.forward(hidden, [3, 2, 1], each, {})
        return float(np.vdot(hidden, weights))

    lower, _, lower_cache = lstm.forward(X, [3, 2, 1], models[0], {}, scratch=scratch.part('lower'))
    _, _, upper_cache = lstm.forward(lower, [3, 2, 1], models[1], {}, scratch=scratch.part('upper'))
    dlower, _, upper_grads = lstm.backward(weights, upper_cache)
    dX, _, lower_grads = lstm.backward(dlower, lower_cache)
    check(f, [X, models[0]['WLSTM'], models[1]['WLSTM']], [dX, lower_grads['WLSTM'], upper_grads['WLSTM']])


@pytest.mark.parametrize('batch_sizes', [[4, 3, 3, 1], [1]], ids=str)
def test_lstm_through_a_context_that_is_added_at_every_step(rng, batch_sizes):
    model = {'WLSTM': rng.normal(size=(1 + E + H, 4 * H))}
    X, weights = rng.normal(size=(sum(batch_sizes), E)), rng.normal(size=(sum(batch_sizes), H))
    start = rng.normal(size=(batch_sizes[0], H)), None, rng.normal(size=(batch_sizes[0], 4 * H))
    _, last, cache = lstm.forward(X, batch_sizes, model, {}, start)
    assert last[2] is start[2]

    def f():
        hidden, last, _ = lstm.forward(X, batch_sizes, model, {}, start)
        return float(np.vdot(hidden, weights) + last[2].sum())

    dX, dstart, grads = lstm.backward(weights, cache, (0, 0, 1))
    check(f, [X, start[0], start[2], model['WLSTM']], [dX.copy(), dstart[0], dstart[2], grads['WLSTM'].copy()])


@pytest.mark.parametrize('name', RECURRENT)
def test_a_sequence_in_two_pieces_is_the_sequence_in_one(rng, name):
    """The state that is carried over continues where the first piece ended, and tick takes the same steps."""
    layer, params = RECURRENT[name]
    model = {key: rng.normal(size=shape) for key, shape in layer.shapes(E, H).items()}
    X = rng.normal(size=(12, E))
    start = rng.normal(size=(2, H)), rng.normal(size=(2, H))
    whole, last, _ = layer.forward(X, [2] * 6, model, params, start)
    first, between, _ = layer.forward(X[:4], [2] * 2, model, params, start)
    second, again, _ = layer.forward(X[4:], [2] * 4, model, params, between)
    np.testing.assert_allclose(np.concatenate([first, second]), whole, rtol=1e-13)
    np.testing.assert_allclose(again, last, rtol=1e-13)
    state = start
    for step in range(6):
        h, state = layer.tick(layer.project(X[2 * step:2 * step + 2], model, params), state, model, params)
        np.testing.assert_allclose(h, whole[2 * step:2 * step + 2], rtol=1e-13)


def test_the_fast_lstm_is_the_plain_one(rng):
    """Each sentence of a packed batch, forward and back, start and last state included."""
    lengths = [5, 4, 4, 1]
    batch_sizes = [sum(length > step for length in lengths) for step in range(5)]
    rows = [[sum(batch_sizes[:step]) + i for step in range(length)] for i, length in enumerate(lengths)]
    model = {'WLSTM': rng.normal(size=(1 + E + H, 4 * H))}
    X, weights = rng.normal(size=(14, E)), rng.normal(size=(14, H))
    start, dlast = rng.normal(size=(2, 4, H)), rng.normal(size=(2, 4, H))
    hidden, last, cache = lstm.forward(X, batch_sizes, model, {}, tuple(start))
    dX, dstart, grads = lstm.backward(weights, cache, tuple(dlast))
    dW = np.zeros_like(model['WLSTM'])
    for i, own in enumerate(rows):
        plain, state, steps = plain_lstm.forward(X[own], model['WLSTM'], *start[:, i])
        plain_dX, plain_dW, plain_dstart = plain_lstm.backward(weights[own], model['WLSTM'], steps, *dlast[:, i])
        dW += plain_dW
        for ours, plains in ((hidden[own], plain), ([part[i] for part in last], state), (dX[own], plain_dX),
                             ([part[i] for part in dstart], plain_dstart)):
            np.testing.assert_allclose(ours, plains, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(grads['WLSTM'], dW, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize('batch_sizes', [[4, 3, 3, 1], [3], [1, 1, 1], [1]], ids=str)
@pytest.mark.parametrize('variant', VARIANTS)
def test_how_the_image_enters(rng, variant, batch_sizes):
    params = make_params(variant)
    generator, model = GENERATORS[params['generator']], make_model(params, seed=2)
    Xi = rng.normal(size=(batch_sizes[0], params['image_encoding_size']))
    Xs = rng.normal(size=(sum(batch_sizes), params['word_encoding_size']))
    weights = rng.normal(size=(sum(batch_sizes), params['hidden_size']))
    values = rng.normal(size=(batch_sizes[0], 3, params['image_encoding_size']))

    def hidden():
        attended = values if generator.attends_to_regions else None
        return generator.forward(Xi, Xs, attended, batch_sizes, model, params, Scratch())

    _, attention_weights, cache = hidden()
    assert (None if attention_weights is None else attention_weights.shape) == (
        (len(Xs), 3) if generator.attends_to_regions else None)
    dXi, dXs, dvalues, grads = generator.backward(weights.copy(), cache)
    assert set(grads) == set(model) - {'We', 'be', 'Wregion', 'bregion', 'Ws', 'Wd', 'bd'}
    by_values = [] if dvalues is None else [dvalues.copy()]
    check(lambda: float(np.vdot(hidden()[0], weights)), [Xi, Xs, *[values][:len(by_values)], *map(model.get, grads)],
          [dXi.copy(), dXs.copy(), *by_values, *grads.values()])


# ---- attention

def attended(rng):
    """One step for three states and four vectors each: arrays that its result depends on, and a model."""
    model = {name: rng.normal(size=shape) for name, shape in attention.shapes(5, H, 6, 4 * H).items()}
    return rng.normal(size=(3, H)), rng.normal(size=(3, 4, 5)), model


def test_one_step_of_attention(rng):
    h, values, model = attended(rng)
    keys, weights = attention.keys_of(values, model), rng.normal(size=(3, 5))
    _, cache = attend_forward(h, keys, values, model)
    dquery, dkeys, dWscore = attend_backward(weights, values, model, cache)
    check(lambda: float(np.vdot(attend_forward(h, keys, values, model)[0], weights)),
          [keys, model['Wquery'], model['Wscore'], h],
          [dkeys, h.T @ dquery, dWscore, dquery @ model['Wquery'].T])


def test_attention_is_a_weighted_mean_by_the_formula(rng):
    h, values, model = attended(rng)
    context, (weights, _) = attend_forward(h, attention.keys_of(values, model), values, model)
    for i in range(3):
        scores = [float(np.tanh(v @ model['Wkey'] + model['bkey'][0] + h[i] @ model['Wquery']) @ model['Wscore'][:, 0])
                  for v in values[i]]
        expected = np.exp(scores) / np.exp(scores).sum()
        np.testing.assert_allclose(weights[i], expected, rtol=1e-12)
        np.testing.assert_allclose(context[i], expected @ values[i], rtol=1e-12)


# ---- the whole cost

def whole_cost(variant, drop_probs, sentences=SENTENCES, num_threads=1, smoothing=0.):
    """The cost as a function of a model, and its gradients: f, names, arrays, grads."""
    params = make_params(variant, drop_prob_encoder=drop_probs[0], drop_prob_decoder=drop_probs[1],
                         label_smoothing=smoothing)
    model = make_model(params, seed=5)
    batch = pack_pairs(make_pairs(sentences, IMAGES[:len(sentences)]))

    def f():
        dropout = draw_dropout(batch, model, params, np.random.default_rng(9))
        logprobs, _ = forward(batch, model, params, dropout, smoothing=smoothing)
        return cost_of(logprobs, len(batch.image_rows), model, params)[0]

    cost, grads, _ = cost_and_grads(batch, model, params, np.random.default_rng(9), Workers(num_threads))
    assert cost == pytest.approx(f(), rel=1e-14)
    return f, list(model), list(model.values()), [grads[name] for name in model]


@pytest.mark.parametrize('drop_probs', DROPOUTS)
@pytest.mark.parametrize('variant', VARIANTS)
def test_cost(variant, drop_probs):
    f, _, arrays, grads = whole_cost(variant, drop_probs)
    check(f, arrays, grads)


@pytest.mark.parametrize('variant', VARIANTS)
def test_cost_on_several_threads(variant):
    f, _, arrays, grads = whole_cost(variant, (.5, .3), num_threads=3)
    check(f, arrays, grads)


@pytest.mark.parametrize('num_threads', [1, 3])
@pytest.mark.parametrize('variant', VARIANTS)
def test_cost_with_label_smoothing(variant, num_threads):
    f, _, arrays, grads = whole_cost(variant, (.5, .3), num_threads=num_threads, smoothing=.2)
    check(f, arrays, grads)


@pytest.mark.parametrize('sentences', [[[]], [[4]], [[], []], [[2, 2, 2, 2]], [[1], [], [3, 4, 5]]],
                         ids=['empty', 'one word', 'two empty', 'one sentence', 'three'])
@pytest.mark.parametrize('variant', VARIANTS)
def test_cost_of_small_batches(variant, sentences):
    f, _, arrays, grads = whole_cost(variant, (.5, .3), sentences)
    check(f, arrays, grads, num_checks=2)


@pytest.mark.parametrize('variant', VARIANTS)
def test_no_check_is_passed_by_a_gradient_that_has_nothing_in_it(variant):
    params = make_params(variant, regc=0, drop_prob_encoder=.5, drop_prob_decoder=.5)
    model = make_model(params, seed=5)
    _, grads, _ = cost_and_grads(pack_pairs(make_pairs()), model, params, np.random.default_rng(8))
    for name, grad in grads.items():
        assert np.count_nonzero(grad) > grad.size / 4, name


def test_dropout_is_on_and_its_masks_are_fixed():
    params = make_params('lstm', drop_prob_encoder=.5, drop_prob_decoder=.5)
    batch, model = pack_pairs(make_pairs()), make_model(params, seed=5)
    first, again, other, without = (
        cost_and_grads(batch, model, params, rng)[0]
        for rng in (np.random.default_rng(9), np.random.default_rng(9), np.random.default_rng(10), None))
    assert first == again and len({first, other, without}) == 3


# ---- planted errors

@pytest.mark.parametrize('variant', VARIANTS)
def test_a_gradient_that_is_one_percent_off_is_caught(variant):
    f, names, arrays, grads = whole_cost(variant, (.5, .5))
    for wrong, name in enumerate(names):
        planted = [grad * 1.01 if i == wrong else grad for i, grad in enumerate(grads)]
        along, single = errors(f, arrays, planted, [wrong])
        assert single > CAUGHT, name
        # bkey moves the scores of all regions alike, but for tanh: it is a hundredth of the way along all arrays
        assert along > CAUGHT / (5 if name == 'bkey' else 1), name


def drop_in_place(x, kept, drop_prob):
    out, mask = dropout_forward(x, kept, drop_prob)
    x[...] = out
    return x, mask


@pytest.mark.parametrize('variant', ['rnn', 'rnn_relu', 'rnn_once', 'rnn_relu_once'])
def test_the_originals_bug_is_caught(variant, monkeypatch):
    """NeuralTalk's RNN dropped its hidden states in place, and took the dropped ones for the ReLU test and dWhh."""
    cost = whole_cost(variant, (0, .5))[0]()
    monkeypatch.setattr(model, 'dropout_forward', drop_in_place)
    f, names, arrays, grads = whole_cost(variant, (0, .5))
    assert f() == cost                                   # forward it is the same model
    assert min(errors(f, arrays, grads, [names.index('Whh')])) > CAUGHT
    assert min(errors(f, arrays, grads, [names.index('Wxh')])) > CAUGHT


def keep_the_last(dout, ix):
    rows, last = np.unique(ix[::-1], return_index=True)
    return SparseRows(rows, dout[::-1][last])


# what is wrong, and a parameter that shows it
PLANTED = {
    'embedding_backward': (keep_the_last, 'Ws'),                                          # a word's rows not summed
    'dropout_backward': (lambda dout, mask, out=None: dout, 'Ws'),                                  # the mask forgotten
    'affine_parameters_backward': (lambda dout, cache, out: (cache[0].T @ dout, dout[:1]), 'be'),    # db of one row
}


@pytest.mark.parametrize('layer', PLANTED)
@pytest.mark.parametrize('variant', ['lstm', 'rnn'])
def test_a_wrong_layer_is_caught(variant, layer, monkeypatch):
    wrong, name = PLANTED[layer]
    monkeypatch.setattr(model, layer, wrong)
    f, names, arrays, grads = whole_cost(variant, (.5, .5))
    assert min(errors(f, arrays, grads, [names.index(name)])) > CAUGHT


def only_the_word(scale, cache):
    """The even part of the target distribution forgotten."""
    x, W, targets, expy, sums, smoothing, scratch = cache
    uneven = expy + (smoothing / W.shape[1] * sums)[:, None]    # which softmax_cost_backward takes away
    return softmax_cost_backward(scale, (x, W, targets, uneven, sums, smoothing, scratch))


def the_word_in_full(scale, cache):
    """The word itself keeps its whole weight."""
    x, W, targets, expy, sums, smoothing, scratch = cache
    expy[np.arange(len(expy)), targets] -= smoothing * sums
    return softmax_cost_backward(scale, (x, W, targets, expy, sums, smoothing, scratch))


def not_smoothed(scale, cache):
    *others, smoothing, scratch = cache
    return softmax_cost_backward(scale, (*others, 0., scratch))


@pytest.mark.parametrize('wrong', [only_the_word, the_word_in_full, not_smoothed])
@pytest.mark.parametrize('variant', ['lstm', 'rnn'])
def test_wrong_label_smoothing_is_caught(variant, wrong, monkeypatch):
    monkeypatch.setattr(model, 'softmax_cost_backward', wrong)
    f, names, arrays, grads = whole_cost(variant, (.5, .5), smoothing=.1)
    for name in ('Wd', 'bd'):
        assert min(errors(f, arrays, grads, [names.index(name)])) > CAUGHT


@pytest.mark.parametrize('variant', VARIANTS)
def test_a_backward_pass_that_half_forgets_the_later_words_is_caught(variant, monkeypatch):
    """Half of what should flow from a step to the one before is lost on the way."""
    name = VARIANTS[variant]['generator']
    recurrent, generator = {'rnn': 'Whh'}.get(name, 'WLSTM'), GENERATORS[name]
    shape = make_model(make_params(variant), seed=5)[recurrent].shape
    hidden = make_params(variant)['hidden_size']

    def halved(part):
        if isinstance(part, tuple):
            return tuple(map(halved, part))
        if isinstance(part, np.ndarray) and part.shape == shape:
            part = part.copy()
            part[-hidden:] *= .5                         # the rows of the hidden state, on the way back only
        return part

    leaky = generator._replace(backward=lambda dH, cache: generator.backward(dH, halved(cache)))
    monkeypatch.setitem(GENERATORS, name, leaky)
    f, names, arrays, grads = whole_cost(variant, (.5, .5))
    assert min(errors(f, arrays, grads, [names.index(recurrent)])) > CAUGHT


def test_the_forward_pass_does_not_change_the_model_or_the_batch():
    for variant in VARIANTS:
        params = make_params(variant, drop_prob_encoder=.5, drop_prob_decoder=.5)
        model, batch = make_model(params, seed=5), pack_pairs(make_pairs())
        before = [x.copy() for x in (*model.values(), *batch[:2], *batch.sentences)]
        cost_and_grads(batch, model, params, np.random.default_rng(0))
        forward(batch, model, params)
        for x, original in zip((*model.values(), *batch[:2], *batch.sentences), before, strict=True):
            np.testing.assert_array_equal(x, original)

"""The ranker's backward passes against finite differences, in float64, dropout on with its masks fixed; planted errors.

The random stream of the dropout masks restarts at every call, so that the cost is one and the same function.
"""

import numpy as np
import pytest
from models import SENTENCES, D, R, V, flat
from test_gradients import CAUGHT, STEP, TOLERANCE, check, errors

from imagernn.nn import bidirectional, gru, layers, lstm, rnn
from imagernn.nn.gradcheck import element_errors
from imagernn.nn.layers import normalize_backward, normalize_forward
from imagernn.nn.packing import by_sentence, last_rows, pack, reversing
from imagernn.nn.scratch import Scratch
from imagernn.nn.workers import Workers
from imagernn.ranking import model as ranking
from imagernn.ranking.losses import LOSSES
from imagernn.ranking.model import Batch, cost_and_grads
from imagernn.ranking.names import ENCODERS, RANKERS
from imagernn.ranking.scores import SPARSE, scores_backward, scores_forward, scores_of

LAYERS = {'gru': (gru, {}), 'lstm': (lstm, {'tanhC_version': 1}), 'rnn': (rnn, {})}
BATCH_SIZES = [[4, 3, 3, 1], [3], [1, 1, 1], [1]]
E, H = 4, 3
LOSS = {'margin': .1, 'temperature': .4}


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def random_model(shapes, rng):
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


# ---- the GRU

def gru_pass(rng, batch_sizes, with_start, with_dlast):
    """f, arrays and their gradients: the sum of weighted hidden states, and maybe of the weighted last ones."""
    model, X = random_model(gru.shapes(E, H), rng), rng.normal(size=(sum(batch_sizes), E))
    start = (rng.normal(size=(batch_sizes[0], H)),) if with_start else None
    weights, of_last = rng.normal(size=(len(X), H)), rng.normal(size=(batch_sizes[0], H))
    dlast = (of_last,) if with_dlast else None

    def f():
        hidden, last, _ = gru.forward(X, batch_sizes, model, {}, start)
        return float(np.vdot(hidden, weights) + (np.vdot(last[0], of_last) if with_dlast else 0))

    _, _, cache = gru.forward(X, batch_sizes, model, {}, start)
    dX, dstart, grads = gru.backward(weights.copy(), cache, dlast)
    assert (dstart[0] is not None) == with_start
    return f, [X, *(start or ()), *model.values()], [dX, *(dstart if with_start else ()), *map(grads.get, model)]


@pytest.mark.parametrize('with_dlast', [False, True], ids=['', 'last state'])
@pytest.mark.parametrize('with_start', [False, True], ids=['', 'start'])
@pytest.mark.parametrize('batch_sizes', BATCH_SIZES, ids=str)
def test_gru_through_its_start_and_its_last_state(rng, batch_sizes, with_start, with_dlast):
    f, arrays, grads = gru_pass(rng, batch_sizes, with_start, with_dlast)
    check(f, arrays, grads, num_checks=4)

    # an error of a percent in any of them is caught
    for array, grad in zip(arrays, grads, strict=True):
        assert element_errors(f, array, grad * 1.01, rng, 2, STEP).max() > CAUGHT


def test_gru_through_its_last_state_alone(rng):
    """dH None: no hidden state was used."""
    model, X, of_last = random_model(gru.shapes(E, H), rng), rng.normal(size=(6, E)), rng.normal(size=(3, H))
    _, _, cache = gru.forward(X, [3, 2, 1], model, {})
    dX, _, grads = gru.backward(None, cache, (of_last,))
    check(lambda: float(np.vdot(gru.forward(X, [3, 2, 1], model, {})[1][0], of_last)), [X, *model.values()],
          [dX, *map(grads.get, model)])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def plain_gru(X, h, model):
    """The hidden states of one sentence, word by word: X (T, E) -> (T, H)."""
    (bW, W), (bU, U) = ((w[0].reshape(3, H), w[1:]) for w in (model['WGRU'], model['UGRU']))
    states = []
    for x in X:
        (ir, iz, i_n), (hr, hz, hn) = (x @ W).reshape(3, H) + bW, (h @ U).reshape(3, H) + bU
        r, z = sigmoid(ir + hr), sigmoid(iz + hz)
        h = (1 - z) * np.tanh(i_n + r * hn) + z * h
        states.append(h)
    return np.array(states)


def test_gru_is_the_plain_one(rng):
    batch_sizes, model = [4, 3, 3, 1], random_model(gru.shapes(E, H), rng)
    X, start = rng.normal(size=(11, E)), rng.normal(size=(4, H))
    hidden, last, _ = gru.forward(X, batch_sizes, model, {}, (start,))
    rows, starts = by_sentence(batch_sizes)
    for i in range(4):
        own = rows[starts[i]:starts[i + 1]]
        np.testing.assert_allclose(hidden[own], plain_gru(X[own], start[i], model), rtol=1e-12)
        np.testing.assert_array_equal(last[0][i], hidden[own[-1]])


@pytest.mark.parametrize('with_start', [False, True], ids=['zeros', 'start'])
def test_gru_in_two_pieces_and_tick_by_tick_is_the_same(rng, with_start):
    model, X = random_model(gru.shapes(E, H), rng), rng.normal(size=(12, E))
    start = (rng.normal(size=(2, H)),) if with_start else gru.zero_state(2, model, X.dtype)
    whole, last, _ = gru.forward(X, [2] * 6, model, {}, start if with_start else None)
    _, between, _ = gru.forward(X[:4], [2] * 2, model, {}, start)
    second, again, _ = gru.forward(X[4:], [2] * 4, model, {}, between)
    np.testing.assert_allclose(second, whole[4:], rtol=1e-13)
    np.testing.assert_allclose(again[0], last[0], rtol=1e-13)
    state = start
    for step in range(6):
        h, state = gru.tick(gru.project(X[2 * step:2 * step + 2], model, {}), state, model, {})
        np.testing.assert_allclose(h, whole[2 * step:2 * step + 2], rtol=1e-13)


def forget_the_reset_gate(dh, gates, recurrent, h_before, dgates, drecurrent):
    STEP_BACKWARD(dh, gates, recurrent, h_before, dgates, drecurrent)
    drecurrent[:, 2 * H:] = dgates[:, 2 * H:]


def forget_the_update_gate(dh, gates, recurrent, h_before, dgates, drecurrent):
    before = dh.copy()
    STEP_BACKWARD(dh, gates, recurrent, h_before, dgates, drecurrent)
    dh[:] = before


def forget_the_state_in_the_update(dh, gates, recurrent, h_before, dgates, drecurrent):
    STEP_BACKWARD(dh, gates, recurrent, np.zeros_like(h_before), dgates, drecurrent)


STEP_BACKWARD = gru._step_backward
WRONG_STEPS = [forget_the_reset_gate, forget_the_update_gate, forget_the_state_in_the_update]


@pytest.mark.parametrize('wrong', WRONG_STEPS)
def test_a_wrong_term_in_the_backward_pass_of_the_gru_is_caught(rng, wrong, monkeypatch):
    monkeypatch.setattr(gru, '_step_backward', wrong)
    f, arrays, grads = gru_pass(rng, [4, 3, 3, 1], True, True)
    assert min(errors(f, arrays, grads, range(len(arrays)))) > CAUGHT


# ---- both directions

@pytest.mark.parametrize('batch_sizes', BATCH_SIZES, ids=str)
def test_rows_that_turn_sentences_round_and_put_them_one_after_another(batch_sizes):
    rows, starts = by_sentence(batch_sizes)
    turned = reversing(batch_sizes)
    np.testing.assert_array_equal(turned[turned], np.arange(sum(batch_sizes)))
    assert starts.tolist() == [0, *np.cumsum([sum(alive > i for alive in batch_sizes) for i in range(batch_sizes[0])])]
    for i in range(batch_sizes[0]):
        own = rows[starts[i]:starts[i + 1]]
        assert own.tolist() == [sum(batch_sizes[:step]) + i for step in range(len(own))]
        np.testing.assert_array_equal(turned[own], own[::-1])
        assert own[-1] == last_rows(batch_sizes)[i]


@pytest.mark.parametrize('batch_sizes', BATCH_SIZES, ids=str)
@pytest.mark.parametrize('name', LAYERS)
def test_both_directions(rng, name, batch_sizes):
    layer, params = LAYERS[name]
    model, X = random_model(bidirectional.shapes(layer, E, H), rng), rng.normal(size=(sum(batch_sizes), E))
    weights = rng.normal(size=(len(X), H))

    def hidden():
        return bidirectional.forward(layer, X, batch_sizes, model, params)

    dX, grads = bidirectional.backward(weights.copy(), hidden()[1])
    assert set(grads) == set(model)
    check(lambda: float(np.vdot(hidden()[0], weights)), [X, *model.values()], [dX, *map(grads.get, model)], 4)


@pytest.mark.parametrize('name', LAYERS)
def test_the_state_of_a_word_depends_on_what_comes_before_and_after_it_in_its_sentence(rng, name):
    layer, params = LAYERS[name]
    batch_sizes, model = [3, 2, 2], random_model(bidirectional.shapes(layer, E, H), rng)
    X = rng.uniform(.1, .9, size=(7, E))
    model = {key: abs(w) for key, w in model.items()}    # no ReLU is off
    hidden, _ = bidirectional.forward(layer, X, batch_sizes, model, params)
    for changed, sentence in ((5, (0, 3, 5)), (0, (0, 3, 5)), (2, (2,)), (4, (1, 4, 6))):
        other = X.copy()
        other[changed] += .5
        differs = (bidirectional.forward(layer, other, batch_sizes, model, params)[0] != hidden).any(axis=1)
        assert tuple(np.flatnonzero(differs)) == sentence


def test_a_sentence_has_the_sum_of_the_layers_states_in_both_directions(rng):
    model, X = random_model(bidirectional.shapes(gru, E, H), rng), rng.normal(size=(5, E))
    hidden, _ = bidirectional.forward(gru, X, [1] * 5, model, {})
    onward, back = ({name.removeprefix(way): w for name, w in model.items() if name.startswith(way)}
                    for way in bidirectional.DIRECTIONS)
    np.testing.assert_allclose(hidden, plain_gru(X, np.zeros(H), onward)
                               + plain_gru(X[::-1], np.zeros(H), back)[::-1], rtol=1e-12)


def test_a_gradient_that_is_not_turned_round_is_caught(rng):
    model, X = random_model(bidirectional.shapes(gru, E, H), rng), rng.normal(size=(6, E))
    weights = rng.normal(size=(6, H))

    def hidden():
        return bidirectional.forward(gru, X, [3, 2, 1], model, {})

    layer, _, *caches = hidden()[1]
    dX, grads = bidirectional.backward(weights, (layer, np.arange(6), *caches))
    backward_names = [name for name in model if name.startswith('backward')]
    assert min(errors(lambda: float(np.vdot(hidden()[0], weights)), [X, *map(model.get, backward_names)],
                      [dX, *map(grads.get, backward_names)], [0, 1, 2])) > CAUGHT


# ---- vectors of length 1, and scores

def test_normalize(rng):
    x, weights = rng.normal(size=(5, 4)), rng.normal(size=(5, 4))
    x[2] *= 100
    out, cache = normalize_forward(x)
    np.testing.assert_allclose((out * out).sum(axis=1), 1)
    check(lambda: float(np.vdot(normalize_forward(x)[0], weights)), [x], [normalize_backward(weights, cache)])
    wrong = weights / cache[1]    # without the part along the vector
    assert min(errors(lambda: float(np.vdot(normalize_forward(x)[0], weights)), [x], [wrong], [0])) > CAUGHT


def test_normalize_keeps_a_row_of_zeros_and_its_gradient_is_finite():
    for dtype in (np.float32, np.float64):
        out, cache = normalize_forward(np.zeros((2, 3), dtype))
        assert not out.any() and np.isfinite(normalize_backward(np.ones((2, 3), dtype), cache)).all()
        assert out.dtype == dtype


def vectors(rng, M=3, num_regions=R, lengths=(2, 1, 4, 1)):
    """V (M, R, E), words (P, E), starts."""
    return (rng.normal(size=(M, num_regions, E)), rng.normal(size=(sum(lengths), E)),
            np.concatenate([[0], np.cumsum(lengths)]))


def scores_pass(rng, mean, num_regions=R, backward=scores_backward):
    images, words, starts = vectors(rng, num_regions=num_regions)
    weights = rng.normal(size=(3, 4))
    S, cache = scores_forward(images, words, starts, mean, Scratch())
    np.testing.assert_allclose(scores_of(images, words, starts, mean), S, rtol=1e-12)
    return (lambda: float(np.vdot(scores_forward(images, words, starts, mean, Scratch())[0], weights)),
            [images, words], backward(weights, cache))


@pytest.mark.parametrize('num_regions', [R, 1, SPARSE])
@pytest.mark.parametrize('mean', [True, False], ids=['mean', 'sum'])
def test_scores(rng, mean, num_regions):
    check(*scores_pass(rng, mean, num_regions), num_checks=10)


def test_the_first_of_equal_regions_takes_the_gradient(rng):
    images, words, starts = vectors(rng)
    images[:, 1:] = images[:, :1]
    _, cache = scores_forward(images, words, starts, True, Scratch())
    dV, _ = scores_backward(np.ones((3, 4)), cache)
    assert dV[:, 0].all() and not dV[:, 1:].any()


def of_the_next_region(dS, cache):
    V, words, starts, share, chosen = cache
    return scores_backward(dS, (V, words, starts, share, (chosen + 1) % V.shape[1]))


def of_all_regions(dS, cache):
    V, words, starts, share, _ = cache
    dbest = np.repeat(dS, np.diff(starts), axis=1) * share
    return np.repeat((dbest @ words)[:, None], V.shape[1], axis=1), dbest.T @ V.sum(axis=1)


def of_a_sum(dS, cache):
    V, words, starts, share, chosen = cache
    return scores_backward(dS, (V, words, starts, np.ones_like(share), chosen))


WRONG_SCORES = [of_the_next_region, of_all_regions, of_a_sum]


@pytest.mark.parametrize('wrong', WRONG_SCORES)
def test_a_gradient_of_the_wrong_regions_or_shares_is_caught(rng, wrong):
    f, arrays, grads = scores_pass(rng, True, backward=wrong)
    assert min(errors(f, arrays, grads, [0, 1])) > CAUGHT


# ---- losses

def plain_loss(name, S):
    """By loops over the pairs, as the papers have it."""
    costs, N = [], len(S)
    for k in range(N):
        for row in (S[k], S[:, k]):
            over = [max(0, row[j] - row[k] + LOSS['margin']) for j in range(N) if j != k]
            exps = np.exp(row / LOSS['temperature'])
            costs.append({'hinge': sum(over), 'hardest': max(over, default=0),
                          'infonce': -np.log(exps[k] / exps.sum()) / 2}[name])
    return sum(costs) / N


@pytest.mark.parametrize('N', [1, 2, 5])
@pytest.mark.parametrize('name', LOSSES)
def test_losses(rng, name, N):
    S = rng.normal(size=(N, N))
    cost, dS = LOSSES[name](S, LOSS)
    assert cost == pytest.approx(plain_loss(name, S), rel=1e-12)
    # element by element: along a direction, the whole numbers of a hinge may cancel
    assert element_errors(lambda: LOSSES[name](S, LOSS)[0], S, dS, rng, 25, STEP).max() < TOLERANCE


@pytest.mark.parametrize('name', LOSSES)
def test_losses_where_all_is_well_and_where_scores_are_huge(name):
    for scale in (1e3, 1e30):
        cost, dS = LOSSES[name](np.eye(4, dtype=np.float32) * np.float32(scale), LOSS)
        assert cost == 0 and not dS.any() and dS.dtype == np.float32
        cost, dS = LOSSES[name](-np.eye(4, dtype=np.float32) * np.float32(scale), LOSS)
        assert np.isfinite(cost) and cost > scale and np.isfinite(dS).all()


def forget_images(name):
    """A loss whose gradient is that over the sentences alone."""
    right = LOSSES[name]

    def loss(S, params):
        cost, _ = right(S, params)
        k, exps = np.arange(len(S)), np.exp(S / params['temperature'])
        over = np.maximum(0, S - S[k, k][:, None] + params['margin'])
        over[k, k] = 0
        dS = {'hinge': over > 0, 'hardest': (over > 0) & (over == over.max(axis=1, keepdims=True)),
              'infonce': exps / exps.sum(axis=1, keepdims=True) * .5 / params['temperature']}[name].astype(S.dtype)
        dS[k, k] -= dS.sum(axis=1)
        return cost, dS / len(S)
    return loss


def forget_the_right_one(name):
    """A loss whose gradient lacks that by the scores of the right pairs."""
    right = LOSSES[name]

    def loss(S, params):
        cost, dS = right(S, params)
        return cost, dS * (1 - np.eye(len(S)))
    return loss


@pytest.mark.parametrize('forget', [forget_images, forget_the_right_one])
@pytest.mark.parametrize('name', LOSSES)
def test_a_loss_that_forgets_a_direction_or_the_right_pairs_is_caught(rng, name, forget):
    S, wrong = rng.normal(size=(5, 5)), forget(name)
    assert min(errors(lambda: wrong(S, LOSS)[0], [S], [wrong(S, LOSS)[1]], [0])) > CAUGHT


# ---- the whole cost

def make_batch(sentences, num_regions):
    features = np.random.default_rng(42).normal(size=(len(sentences), num_regions, D))
    return Batch(features, pack(*flat(sentences)))


def whole_cost(ranker, encoder, similarity='cosine', pool='mean', loss='infonce', num_threads=1, sentences=SENTENCES,
               drop_prob=.3, regc=.01):
    """The cost as a function of a model, and its gradients: f, names, arrays, grads."""
    params = {'ranker': ranker, 'encoder': encoder, 'similarity': similarity, 'pool': pool, 'loss': loss,
              'word_encoding_size': 5, 'hidden_size': 4, 'tanhC_version': 1, 'regc': regc, 'drop_prob_image': drop_prob,
              'drop_prob_word': drop_prob, **LOSS}
    rng, batch = np.random.default_rng(5), make_batch(sentences, R if ranker == 'regions' else 1)
    model = {name: rng.uniform(-.6, .6, w.shape)    # the biases, too
             for name, w in ranking.init_model(params, D, V, rng, np.float64).items()}

    def cost_of(workers=None):
        return cost_and_grads(batch, model, params, np.random.default_rng(9), workers)

    cost, grads, stats = cost_of(Workers(num_threads))
    grads = {name: grad.copy() for name, grad in grads.items()}
    assert cost == pytest.approx(cost_of()[0], rel=1e-14) and (stats['loss'] < cost or not regc)
    assert list(grads) == list(model) == list(ranking.shapes(params, D, 5, 4, V))
    return (lambda: cost_of()[0]), list(model), list(model.values()), list(grads.values())


# each of the encoders, similarities, pools and losses with either ranker
COSTS = [('gru', 'cosine', 'mean', 'infonce'), ('lstm', 'dot', 'sum', 'hinge'), ('rnn', 'dot', 'mean', 'hardest'),
         ('rnn', 'cosine', 'sum', 'infonce'), ('gru', 'dot', 'sum', 'hardest')]


@pytest.mark.parametrize('flags', COSTS, ids=' '.join)
@pytest.mark.parametrize('ranker', RANKERS)
def test_cost(ranker, flags):
    f, _, arrays, grads = whole_cost(ranker, *flags)
    check(f, arrays, grads, num_checks=4)


@pytest.mark.parametrize('num_threads', [2, 3])
@pytest.mark.parametrize('ranker', RANKERS)
def test_cost_on_several_threads_is_that_on_one(ranker, num_threads):
    one, other = (whole_cost(ranker, 'gru', num_threads=number) for number in (1, num_threads))
    assert one[0]() == other[0]()
    for name, grad, same in zip(one[1], one[3], other[3], strict=True):
        np.testing.assert_allclose(same, grad, rtol=1e-10, atol=1e-13, err_msg=name)


@pytest.mark.parametrize('sentences', [[[], []], [[2, 2], [2, 2]], [[1], [], [3, 4, 5]], [[4]]],
                         ids=['empty', 'one sentence', 'three', 'one image'])
@pytest.mark.parametrize('ranker', RANKERS)
def test_cost_of_small_batches(ranker, sentences):
    f, _, arrays, grads = whole_cost(ranker, 'gru', loss='infonce', sentences=sentences, num_threads=2)
    check(f, arrays, grads, num_checks=2)


@pytest.mark.parametrize('encoder', ENCODERS)
@pytest.mark.parametrize('ranker', RANKERS)
def test_no_check_is_passed_by_a_gradient_that_has_nothing_in_it(ranker, encoder):
    _, names, _, grads = whole_cost(ranker, encoder, regc=0)
    for name, grad in zip(names, grads, strict=True):
        assert np.count_nonzero(grad) > grad.size / 4, name


@pytest.mark.parametrize('ranker', RANKERS)
def test_dropout_is_on_and_its_masks_are_fixed(ranker):
    first, again, without = (whole_cost(ranker, 'gru', drop_prob=drop_prob)[0] for drop_prob in (.3, .3, 0))
    assert first() == first() == again() != without()


def test_an_image_drops_the_same_features_in_all_regions():
    features = np.ones((2, R, D))
    model = {'We': np.eye(D), 'be': np.zeros((1, D))}
    params = {'drop_prob_image': .5, 'similarity': 'dot'}
    kept = layers.dropout_draw(2, D, .5, np.random.default_rng(0))
    dropped, _ = ranking.images_forward(features, kept, model, params)
    assert set(np.unique(dropped)) == {0, 2} and (dropped == dropped[:, :1]).all()


# ---- planted errors in the whole

@pytest.mark.parametrize('ranker', RANKERS)
def test_a_gradient_that_is_one_percent_off_is_caught(ranker):
    f, names, arrays, grads = whole_cost(ranker, 'gru')
    for name, array, grad in zip(names, arrays, grads, strict=True):
        assert element_errors(f, array, grad * 1.01, np.random.default_rng(0), 2, STEP).max() > CAUGHT, name


# which ranker, where, what is wrong there, and a parameter that shows it
PLANTED = {
    'a step of the GRU': ('regions', gru, '_step_backward', forget_the_reset_gate, 'backward_WGRU'),
    'the region': ('regions', ranking, 'scores_backward', of_the_next_region, 'We'),
    'the mean over words': ('regions', ranking, 'scores_backward', of_a_sum, 'Wd'),
    'a direction of the loss': ('regions', LOSSES, 'infonce', forget_images('infonce'), 'We'),
    'the length of vectors': ('sentences', ranking, 'normalize_backward', lambda dout, cache: dout / cache[1], 'be'),
    'the mask': ('sentences', ranking, 'dropout_backward', lambda dout, mask: dout, 'Ws'),
    'the last word': ('sentences', ranking, 'last_rows', lambda batch_sizes: np.arange(batch_sizes[0]), 'Ws'),
}


@pytest.mark.parametrize('what', PLANTED)
def test_a_wrong_part_is_caught(what, monkeypatch):
    ranker, where, function, wrong, name = PLANTED[what]
    cost = whole_cost(ranker, 'gru')[0]()
    (monkeypatch.setitem if where is LOSSES else monkeypatch.setattr)(where, function, wrong)
    f, names, arrays, grads = whole_cost(ranker, 'gru')
    assert f() == cost                                   # forward it is the same model
    assert min(errors(f, arrays, grads, [names.index(name)])) > CAUGHT


@pytest.mark.parametrize('ranker', RANKERS)
def test_neither_the_model_nor_the_batch_is_changed(ranker):
    params = {'ranker': ranker, 'encoder': 'rnn', 'similarity': 'cosine', 'pool': 'sum', 'loss': 'hinge', 'regc': .01,
              'word_encoding_size': 5, 'hidden_size': 4, 'drop_prob_image': .5, 'drop_prob_word': .5, **LOSS}
    model = ranking.init_model(params, D, V, np.random.default_rng(0), np.float64)
    batch = make_batch(SENTENCES, 1 if ranker == 'sentences' else R)
    before = [x.copy() for x in (*model.values(), batch.features, *batch.sentences)]
    cost_and_grads(batch, model, params, np.random.default_rng(0), Workers(2))
    for x, original in zip((*model.values(), batch.features, *batch.sentences), before, strict=True):
        np.testing.assert_array_equal(x, original)

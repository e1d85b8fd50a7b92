"""The captioner: packed batches equal one sentence at a time, reused memory equals fresh, and tick equals forward."""

import math

import numpy as np
import pytest
from models import IMAGES, ROW, SENTENCES, VARIANTS, D, V, make_model, make_pairs, make_params, pack_pairs

from imagernn.captioning.model import (
    EVERYTHING,
    cost_and_grads,
    cost_of,
    draw_dropout,
    encode_images,
    forward,
    get_generator,
    init_model,
    make_tick,
)
from imagernn.corpus.vocab import START
from imagernn.metrics.perplexity import perplexity
from imagernn.nn.attention import Sight
from imagernn.nn.workers import Workers

PAIRS = make_pairs()


def assert_close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


@pytest.fixture(params=VARIANTS)
def params(request):
    return make_params(request.param)


# ---- packing is a layout, not another model

def test_a_packed_batch_equals_its_sentences_one_at_a_time(params):
    params, model = {**params, 'regc': 0}, make_model(params, seed=1)
    cost, grads, stats = cost_and_grads(pack_pairs(PAIRS), model, params)
    singles = [cost_and_grads(pack_pairs([pair]), model, params) for pair in PAIRS]
    assert_close(cost * len(PAIRS), sum(single_cost for single_cost, _, _ in singles))
    for name in model:
        assert_close(grads[name] * len(PAIRS), sum(single_grads[name] for _, single_grads, _ in singles))
    num_words = sum(len(sentence) + 1 for sentence in SENTENCES)
    assert_close(stats['ppl2'], 2 ** (cost * len(PAIRS) / num_words / math.log(2)))


def test_the_order_of_the_pairs_does_not_matter(params):
    model = make_model(params, seed=2)
    cost, grads, _ = cost_and_grads(pack_pairs(PAIRS), model, params)
    for seed in range(3):
        shuffled = [PAIRS[i] for i in np.random.default_rng(seed).permutation(len(PAIRS))]
        other_cost, other_grads, _ = cost_and_grads(pack_pairs(shuffled), model, params)
        assert_close(other_cost, cost)
        for name in model:
            assert_close(other_grads[name], grads[name])


def test_an_image_that_is_repeated_counts_once_for_each_of_its_sentences(params):
    params = {**params, 'regc': 0}
    model = make_model(params, seed=4)
    one_cost, one_grads, _ = cost_and_grads(pack_pairs([PAIRS[1]]), model, params)
    batch = pack_pairs([PAIRS[1]] * 3)
    assert batch.features.shape == (1, ROW)
    cost, grads, _ = cost_and_grads(batch, model, params)
    assert_close(cost, one_cost)
    for name in model:
        assert_close(grads[name], one_grads[name])


@pytest.mark.parametrize('num_threads', [1, 3])
@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_memory_used_again_gives_the_same_numbers_to_the_last_bit(params, dtype, num_threads):
    params = {**params, 'drop_prob_encoder': .5, 'drop_prob_decoder': .3}
    model, workers = make_model(params, seed=5, dtype=dtype), Workers(num_threads)
    small, large = pack_pairs(PAIRS[1:4], dtype), pack_pairs(PAIRS * 2, dtype)
    for batch in (small, large, small, small, large):
        fresh = cost_and_grads(batch, model, params, np.random.default_rng(0), Workers(num_threads))
        again = cost_and_grads(batch, model, params, np.random.default_rng(0), workers)
        assert again[0] == fresh[0] and again[2] == fresh[2]
        for name in model:
            np.testing.assert_array_equal(again[1][name], fresh[1][name], err_msg=name)


# ---- threads

@pytest.mark.parametrize('drop_prob', [.5, .3])
def test_the_number_of_threads_changes_nothing_but_the_rounding(params, drop_prob):
    params = {**params, 'drop_prob_encoder': drop_prob, 'drop_prob_decoder': drop_prob}
    model, batch = make_model(params, seed=6), pack_pairs(PAIRS)
    cost, grads, stats = cost_and_grads(batch, model, params, np.random.default_rng(0))
    for num_threads in (2, 3, len(PAIRS), len(PAIRS) + 1):
        others = cost_and_grads(batch, model, params, np.random.default_rng(0), Workers(num_threads))
        assert_close(others[0], cost)
        assert_close(others[2]['ppl2'], stats['ppl2'])
        for name in model:
            assert_close(others[1][name], grads[name])


def test_a_part_that_fails_fails_the_whole(params):
    batch = pack_pairs(PAIRS)
    wrong = batch._replace(sentences=batch.sentences._replace(
        targets=np.where(batch.sentences.targets == 6, V, batch.sentences.targets)))     # a word of one part alone
    with pytest.raises(IndexError):
        cost_and_grads(wrong, make_model(params, seed=6), params, workers=Workers(2))


# ---- what predicts is what was trained

def test_tick_along_a_sentence_gives_the_logprobs_of_the_forward_pass(params):
    model = make_model(params, seed=7)
    tick = make_tick(model, params)
    for pair, sentence in zip(PAIRS, SENTENCES, strict=True):
        batch = pack_pairs([pair])
        expected, _ = forward(batch, model, params)
        state = encode_images(batch.features, model, params)
        for step, (word, target) in enumerate(zip([0, *sentence], [*sentence, 0], strict=True)):
            logprobs, state = tick(np.array([word]), state)
            assert logprobs.shape == (1, V)
            assert_close(np.exp(logprobs).sum(), 1)
            assert_close(logprobs[0, target], expected[step])


def test_tick_treats_its_rows_apart_and_leaves_the_state_it_was_given(params):
    model = make_model(params, seed=8)
    tick = make_tick(model, params)
    features = np.random.default_rng(0).normal(size=(4, ROW))
    state = encode_images(features, model, params)
    _, state = tick(np.zeros(4, np.int64), state)
    arrays = [rows for rows in state if not isinstance(rows, Sight)]
    before, words = [rows.copy() for rows in arrays], np.array([3, 1, 3, 9])
    together, after = tick(words, state)
    for rows, original in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(rows, original)
    for i in range(4):
        alone, alone_after = tick(words[i:i + 1], tuple(rows[i:i + 1] for rows in state))
        assert_close(alone[0], together[i])
        for one, all_of_them in zip(alone_after[:len(arrays)], after, strict=False):
            assert_close(one[0], all_of_them[i])


def test_prediction_drops_nothing(params):
    model, batch = make_model(params, seed=9), pack_pairs(PAIRS)
    dropping = {**params, 'drop_prob_encoder': .5, 'drop_prob_decoder': .5}
    expected, _ = forward(batch, model, params)
    np.testing.assert_array_equal(forward(batch, model, dropping)[0], expected)
    dropout = draw_dropout(batch, model, dropping, np.random.default_rng(0))
    assert not np.allclose(forward(batch, model, dropping, dropout)[0], expected)
    assert draw_dropout(batch, model, dropping, None) == EVERYTHING


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_the_dtype_is_that_of_the_parameters(params, dtype):
    params = {**params, 'drop_prob_encoder': .5, 'drop_prob_decoder': .3}
    model, batch = make_model(params, seed=10, dtype=dtype), pack_pairs(PAIRS, dtype)
    _, grads, _ = cost_and_grads(batch, model, params, np.random.default_rng(0))
    assert {grad.dtype for grad in grads.values()} == {np.dtype(dtype)}
    state = encode_images(batch.features, model, params)
    logprobs, state = make_tick(model, params)(np.zeros(len(batch.features), np.int64), state)
    assert {logprobs.dtype, *(rows.dtype for rows in state if not isinstance(rows, Sight))} == {np.dtype(dtype)}


# ---- the cost's parts

def test_weight_decay_is_half_the_squares_of_the_weights_over_the_batch_size(params):
    model, batch = make_model(params, seed=11), pack_pairs(PAIRS)
    weights = {'lstm': ['WLSTM'], 'rnn': ['Whh', 'Wxh'],
               'attention': ['WLSTM', 'Wregion', 'Wkey', 'Wquery', 'Wscore', 'Wcontext']}[params['generator']]
    weights += ['We', 'Ws', 'Wd'] + (['Wimage'] if params.get('image_at', 'first') != 'first' else [])
    logprobs, _ = forward(batch, model, params)
    cost, stats = cost_of(logprobs, len(PAIRS), model, {**params, 'regc': .3})
    assert_close(stats['reg_cost'], .15 * sum((model[name] ** 2).sum() for name in weights) / len(PAIRS))
    assert_close(stats['loss_cost'], -logprobs.sum() / len(PAIRS))
    assert_close(cost, stats['loss_cost'] + stats['reg_cost'])


def test_perplexity_of_even_chances_is_the_number_of_words():
    assert perplexity(10 * math.log(1 / 37), 10) == pytest.approx(37)
    assert perplexity(-1e6, 10) == math.inf


# ---- a new model

def test_a_new_model_begins_as_neuraltalks_did(params):
    bias_init_vector = -np.arange(500.)
    sizes = dict.fromkeys(('image_encoding_size', 'word_encoding_size', 'hidden_size'), 20)
    model = init_model({**params, **sizes, 'attention_size': 300}, 30, bias_init_vector, np.random.default_rng(0),
                       D_region=25)
    np.testing.assert_array_equal(model['bd'], bias_init_vector[None].astype(np.float32))
    for name, W in model.items():
        assert W.dtype == np.float32 and W.ndim == 2
        if name.startswith('W'):
            inner = W[1:] if name == 'WLSTM' else W
            bound = .01 if name == 'Wd' and params['generator'] == 'rnn' else .1
            assert .9 * bound < np.abs(inner).max() <= bound * (1 + 1e-6) and abs(inner.mean()) < .2 * bound, name
        elif name != 'bd':
            assert not W.any(), name
    if 'WLSTM' in model:
        assert not model['WLSTM'][0].any()


def test_the_seed_decides_the_new_model(params):
    one, same, other = (init_model(params, D, np.zeros(V), np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one['Ws'], other['Ws'])


@pytest.mark.parametrize('variant, clash', [('lstm', ('image_encoding_size', 'word_encoding_size')),
                                            ('rnn', ('image_encoding_size', 'hidden_size'))])
def test_sizes_that_cannot_work_together_are_refused_by_name(variant, clash):
    sizes = {'image_encoding_size': 4, 'word_encoding_size': 4, 'hidden_size': 4, clash[1]: 5}
    with pytest.raises(ValueError, match=f'--{clash[0]} 4 and --{clash[1]} 5'):
        init_model({**make_params(variant), **sizes}, D, np.zeros(V), np.random.default_rng(0))
    with pytest.raises(ValueError, match='--hidden_size 0: must be at least 1'):
        init_model({**make_params(variant), 'hidden_size': 0}, D, np.zeros(V), np.random.default_rng(0))


def test_an_unknown_generator_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match='--generator gru.*lstm, rnn'):
        get_generator({'generator': 'gru'})


def test_the_batches_of_these_tests_are_what_they_are_meant_to_be():
    batch = pack_pairs(PAIRS)
    assert START not in {word for pair in PAIRS for word in pair['sentence']['tokens']}
    assert batch.features.shape == (3, ROW) and len(batch.image_rows) == len(IMAGES)
    assert batch.sentences.batch_sizes.tolist() == [6, 5, 4, 2, 1, 1, 1]

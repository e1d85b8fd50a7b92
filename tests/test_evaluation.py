"""What the scripts share: captions and perplexity on any number of threads are the same."""

import numpy as np
import pytest
from models import D_REGION, ROW, VARIANTS, D, R, V, flat, make_model, make_pairs, make_params, pack_pairs

from imagernn.captioning import evaluate
from imagernn.captioning.batch import make_batch
from imagernn.captioning.consensus import by_expected_cider, word_rarity
from imagernn.captioning.evaluate import SENTENCES_AT_ONCE, batches_perplexity, caption_images
from imagernn.captioning.generators import sees_image
from imagernn.captioning.model import encode_images, forward, make_tick
from imagernn.corpus.vocab import decode
from imagernn.nn.packing import unpack
from imagernn.nn.search import Sentence, sample_search
from imagernn.nn.workers import Workers

IXTOWORD = {ix: f'w{ix}' for ix in range(V)}
FEATURES = np.random.default_rng(0).normal(size=(23, ROW))
NUM_THREADS = [1, 2, 5]


def captions(params, num_threads, attention=False, **options):
    options = {'beam_size': 1, 'temperature': 0, 'nbest': 1, 'seed': 0, **options}
    return list(caption_images(lambda i, j: FEATURES[i:j], len(FEATURES), make_model(params, seed=1), params, IXTOWORD,
                               options, Workers(num_threads), attention=attention))


MBR = {'temperature': 1., 'mbr_samples': 8, 'nbest': 3, 'seed': 4}


@pytest.mark.parametrize('options', [{}, {'beam_size': 3}, {'beam_size': 4, 'nbest': 3}, {'temperature': 1.5}, MBR],
                         ids=str)
@pytest.mark.parametrize('variant', VARIANTS)
def test_captions_are_the_same_on_any_number_of_threads(variant, options, monkeypatch):
    monkeypatch.setattr(evaluate, 'ROWS_AT_ONCE', 4)         # many groups, for threads to take in turn
    one, *others = (captions(make_params(variant), num_threads, **options) for num_threads in NUM_THREADS)
    assert len(one) == len(FEATURES)
    for other in others:
        assert [[each.words for each in found] for found in other] == [[each.words for each in found] for found in one]
        np.testing.assert_allclose([found[0].logprob for found in other], [found[0].logprob for found in one],
                                   rtol=1e-12)


def test_captions_do_not_depend_on_how_images_are_grouped(monkeypatch):
    params = make_params('lstm')
    whole = captions(params, 1, beam_size=5)
    monkeypatch.setattr(evaluate, 'ROWS_AT_ONCE', 1)
    assert [found[0].words for found in captions(params, 1, beam_size=5)] == [found[0].words for found in whole]


@pytest.mark.parametrize('options', [{}, {'beam_size': 4, 'nbest': 3}, {'temperature': 1.5}, MBR], ids=str)
@pytest.mark.parametrize('variant', VARIANTS)
def test_the_words_log_probabilities_are_those_of_the_forward_pass_and_add_up(variant, options):
    params = make_params(variant, drop_prob_decoder=.5)
    model, found = make_model(params, seed=1), captions(params, 1, **options)
    assert any(len(each.words) == 20 for some in found for each in some) or variant != 'lstm'    # without END
    for features, some in zip(FEATURES, found, strict=True):
        sentences = [[int(word[1:]) for word in each.words] for each in some]
        batch = make_batch(features[None], np.zeros(len(some), np.int64), *flat(sentences))
        expected = unpack(forward(batch, model, params)[0], batch.sentences)
        for each, logprobs in zip(some, expected, strict=True):
            assert len(each.word_logprobs) == min(len(each.words) + 1, 20)
            np.testing.assert_allclose(each.word_logprobs, logprobs[:20], rtol=1e-9)
            assert sum(each.word_logprobs) == pytest.approx(each.logprob, rel=1e-12)


def plain_attention(features, words, model, params):
    """Where a model looks before each word and END, by the formulas, a step at a time: (len(words) + 1, R)."""
    W = model
    v = features[D:].reshape(R, D_REGION) @ W['Wregion'] + W['bregion']         # (R, E)
    image, (first, every) = features[:D] @ W['We'] + W['be'][0], sees_image(params)
    h = c = np.zeros(params['hidden_size'])
    weights = []
    for x in ([image] if first else []) + [W['Ws'][word] for word in [0, *words]]:
        scores = np.tanh(v @ W['Wkey'] + W['bkey'] + h @ W['Wquery']) @ W['Wscore'][:, 0]
        weights.append(np.exp(scores) / np.exp(scores).sum())
        sums = np.concatenate([[1], x, h]) @ W['WLSTM'] + weights[-1] @ v @ W['Wcontext']
        i, f, o, g = np.split(sums + image @ W['Wimage'] if every else sums, 4)
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        c = i * np.tanh(g) + f * c
        h = o * (np.tanh(c) if params['tanhC_version'] else c)
    return np.array(weights[1:] if first else weights)


@pytest.mark.parametrize('options', [{}, {'beam_size': 6, 'nbest': 6}, {'temperature': 1.5}, MBR], ids=str)
@pytest.mark.parametrize('variant', ['attention', 'attention_every'])
def test_the_attention_of_a_caption_is_that_of_its_steps(variant, options):
    params = make_params(variant, drop_prob_encoder=.5)
    model, found = make_model(params, seed=1), captions(params, 1, **options, attention=True)
    if 'nbest' in options and 'mbr_samples' not in options:
        assert sum(map(len, found)) > SENTENCES_AT_ONCE
    for features, some in zip(FEATURES, found, strict=True):
        for each in some:
            weights = plain_attention(features, [int(word[1:]) for word in each.words], model, params)
            np.testing.assert_allclose(each.attention, weights[:len(each.word_logprobs)], rtol=1e-9)
    without = captions(params, 1, **options)
    assert without == [[each._replace(attention=None) for each in some] for some in found]


def test_a_model_without_attention_has_none_to_show():
    assert captions(make_params('lstm'), 1, attention=True) == captions(make_params('lstm'), 1)


def test_the_search_is_told_how_many_captions_are_wanted(monkeypatch):
    asked = []

    def search(tick, state, beam_size, nbest):
        asked.append((beam_size, nbest))
        return [[Sentence(-1., [1, 0], [-.5, -.5])]] * len(state[0])

    monkeypatch.setattr(evaluate, 'beam_search', search)
    captions(make_params('lstm'), 1, beam_size=5, nbest=2)
    assert set(asked) == {(5, 2)}


@pytest.mark.parametrize('variant', VARIANTS)
def test_perplexity_is_the_same_on_any_number_of_threads(variant):
    params, pairs = make_params(variant), make_pairs()
    model, batches = make_model(params, seed=2), [pack_pairs(pairs[i:j]) for i in range(6) for j in range(i + 1, 7)]
    one, *others = (batches_perplexity(batches, model, params, Workers(num_threads)) for num_threads in NUM_THREADS)
    assert others == [one] * len(others)
    assert batches_perplexity([], model, params, Workers(2)) is None


# ---- decoding: ensembles, and rankings by length

def ensemble_of(*variants):
    return [(make_model(params, seed=seed), params) for seed, params in enumerate(map(make_params, variants))]


@pytest.mark.parametrize('options', [{}, {'beam_size': 4, 'nbest': 3}, {'temperature': 1.5}, MBR,
                                     {'beam_size': 4, 'beam_kind': 'pool', 'length_penalty': 1.}], ids=str)
def test_an_ensemble_averages_probabilities_at_each_word(options):
    options = {'beam_size': 1, 'temperature': 0, 'nbest': 1, 'seed': 0, **options}
    members = ensemble_of('attention_every', 'lstm', 'rnn', 'lstm_both', 'attention')    # their states differ in length
    found = list(caption_images(lambda i, j: FEATURES[i:j], len(FEATURES), *members[0], IXTOWORD, options, Workers(2),
                                members[1:]))
    for features, some in zip(FEATURES, found, strict=True):
        sentences = [[int(word[1:]) for word in each.words] for each in some]
        batch = make_batch(features[None], np.zeros(len(some), np.int64), *flat(sentences))
        mean = np.log(np.mean([np.exp(forward(batch, *member)[0]) for member in members], axis=0))
        for each, logprobs in zip(some, unpack(mean, batch.sentences), strict=True):
            np.testing.assert_allclose(each.word_logprobs, logprobs[:20], rtol=1e-9)


def test_an_ensemble_of_one_model_twice_is_that_model():
    (member,), options = ensemble_of('lstm'), {'beam_size': 3, 'temperature': 0, 'nbest': 3, 'seed': 0}
    alone, twice = (list(caption_images(lambda i, j: FEATURES[i:j], 5, *member, IXTOWORD, options, ensemble=others))
                    for others in ([], [member]))
    assert [[each.words for each in found] for found in twice] == [[each.words for each in found] for found in alone]
    batches = [pack_pairs(make_pairs())]
    assert batches_perplexity(batches, *member, Workers(), [member]) == pytest.approx(
        batches_perplexity(batches, *member, Workers()))


@pytest.mark.parametrize('options', [{}, {'beam_size': 3, 'nbest': 3}, {'temperature': 1.}, MBR], ids=str)
def test_an_ensemble_of_models_that_are_sure_of_a_word_has_finite_log_probabilities(options):
    """Probabilities of e^-300 are 0 in float32."""
    options = {'beam_size': 1, 'temperature': 0, 'nbest': 1, 'seed': 0, **options}
    members = [({**model, 'bd': model['bd'] - 300 * (np.arange(V) > 0)}, params) for model, params in ensemble_of(
        'lstm', 'rnn')]
    members = [({name: w.astype(np.float32) for name, w in model.items()}, params) for model, params in members]
    with np.errstate(all='raise', under='ignore'):
        found = list(caption_images(lambda i, j: np.float32(FEATURES[i:j]), 5, *members[0], IXTOWORD, options,
                                    ensemble=members[1:]))
    assert [some[0].words for some in found] == [[]] * 5
    assert all(-400 < each.logprob <= 0 for some in found for each in some)


def test_a_pool_of_one_beam_is_no_greedy_search():
    """It goes on beyond END while that may give a better rank."""
    params, options = make_params('rnn'), {'beam_size': 1, 'temperature': 0, 'nbest': 1, 'seed': 0}
    model = make_model(params, seed=1)
    model['bd'][0, 0] += 2    # END is often the likeliest
    greedy, pooled = (list(caption_images(lambda i, j: FEATURES[i:j], len(FEATURES), model, params, IXTOWORD,
                                          {**options, **more}))
                      for more in ({}, {'beam_kind': 'pool', 'length_penalty': 1.}))
    assert greedy != pooled
    for one, other in zip(greedy, pooled, strict=True):
        assert one == other or one[0].logprob / len(one[0].word_logprobs) < other[0].logprob / len(
            other[0].word_logprobs)


@pytest.mark.parametrize('beam_kind', ['neuraltalk', 'pool'])
def test_captions_are_ranked_by_the_length_penalty(beam_kind):
    params = make_params('lstm')
    options = {'beam_size': 5, 'nbest': 5, 'beam_kind': beam_kind}
    for penalty in 0., 1.:
        for some in captions(params, 1, **options, length_penalty=penalty):
            ranks = [each.logprob / len(each.word_logprobs) ** penalty for each in some]
            assert ranks == sorted(ranks, reverse=True)
    short, long = (sum(len(found[0].words) for found in captions(params, 1, **options, length_penalty=penalty))
                   for penalty in (0., 1.))
    assert short < long


def test_captions_by_minimum_bayes_risk_are_the_drawn_ones_by_expected_score():
    """Each image's are those of its own draws, whichever images are captioned along with it."""
    params = make_params('rnn')
    model = make_model(params, seed=1)
    rarity = word_rarity([model])
    tick, found = make_tick(model, params), captions(params, 2, **MBR)
    for number, some in enumerate(found):
        state = encode_images(FEATURES[[number] * 8], model, params)
        rng = np.random.default_rng([4, *np.argsort(-FEATURES[number])[:8]])
        drawn = [sentence for sentence, in sample_search(tick, state, rng, 1.)]
        expected = [decode(sentence.words, IXTOWORD) for sentence in by_expected_cider(drawn, rarity)]
        assert [each.words for each in some] == expected[:3]
    options = {'beam_size': 1, **MBR}
    alone, = caption_images(lambda i, j: FEATURES[7:8], 1, model, params, IXTOWORD, options)
    assert alone == found[7]
    assert {' '.join(some[0].words) for some in captions(params, 1, **{**MBR, 'seed': 5})} != {
        ' '.join(some[0].words) for some in found}

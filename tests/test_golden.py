"""Agreement with the original NeuralTalk: costs, gradients, solver steps, perplexity, captions, to the last digits."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from models import NEURALTALK, Rows, batch_of, make_provider, vocab_of

from imagernn.captioning.evaluate import split_perplexity
from imagernn.captioning.model import cost_and_grads, encode_images, init_model, make_tick, regularized
from imagernn.corpus.features import open_features
from imagernn.nn.search import beam_search, greedy_search
from imagernn.nn.solver import Solver
from imagernn.runs.checkpoint_file import load_checkpoint

TINY = Path(__file__).parent / 'tiny'
SHARED = Path(__file__).resolve().parents[1].parent / 'shared'
BEAM_SIZES = [1, 2, 5, 20]
RULES = ['vanilla', 'momentum', 'adagrad', 'adadelta', 'rmsprop']
TOLERANCE = {'float64': 1e-9, 'float32': 1e-4}

pytestmark = pytest.mark.filterwarnings('error')


def read_json(path):
    return json.loads(path.read_text(encoding='utf-8'))


@pytest.fixture(scope='module')
def tiny():
    data = read_json(TINY / 'golden.json')
    features = Rows({int(imgid): numbers for imgid, numbers in data['features'].items()})
    return SimpleNamespace(folder=TINY, data=data, features=features, train_sentences=data['train_sentences'],
                           test_sentences=data['test_sentences'])


@pytest.fixture(scope='module')
def neuraltalk():
    folder, flickr8k = SHARED / 'golden' / 'neuraltalk', SHARED / 'data' / 'flickr8k'
    for path in (folder / 'golden.json', flickr8k / 'dataset.json', flickr8k / 'vgg_feats.mat'):
        if not path.is_file():
            pytest.skip(f'no {path.relative_to(SHARED.parent)} beside the checkout')
    data = read_json(folder / 'golden.json')
    sentences = {str(image['imgid']): [sentence['tokens'] for sentence in image['sentences']]
                 for image in read_json(flickr8k / 'dataset.json')['images']}
    return SimpleNamespace(folder=folder, data=data, features=open_features(flickr8k / 'vgg_feats.mat'),
                           train_sentences=sentences, test_sentences=sentences)


@pytest.fixture(scope='module', params=['tiny', 'neuraltalk'])
def golden(request):
    """The numbers of one folder. They are read, and the feature file parsed, once for all tests of this module."""
    return request.getfixturevalue(request.param)


def stored(golden, variant, kind):
    with np.load(golden.folder / f'{variant}.npz') as arrays:
        return {name.removeprefix(f'{kind}/'): arrays[name] for name in arrays if name.startswith(f'{kind}/')}


def load_model(golden, variant, dtype):
    model = stored(golden, variant, 'model')
    return {name: model[name].astype(dtype) for name in golden.data['configs'][variant]['update']}


def golden_batch(golden, variant, dtype):
    pairs = [{'image': {'imgid': imgid}, 'sentence': {'tokens': tokens}}
             for imgid, tokens in golden.data['configs'][variant]['batch']]
    return batch_of(pairs, golden.features, golden.data['wordtoix'], dtype)


def assert_costs(golden, variant, model, params, dtype):
    expected, rtol = golden.data['configs'][variant], TOLERANCE[dtype]
    cost, grads, stats = cost_and_grads(golden_batch(golden, variant, dtype), model, params)
    np.testing.assert_allclose(cost, expected['cost']['total_cost'], rtol=rtol)
    np.testing.assert_allclose(stats['loss_cost'], expected['cost']['loss_cost'], rtol=rtol)
    np.testing.assert_allclose(stats['reg_cost'], expected['cost']['reg_cost'], rtol=rtol)
    np.testing.assert_allclose(stats['ppl2'], expected['ppl2'], rtol=rtol)
    return grads


def assert_predictions(golden, variant, model, params, beam_size, dtype):
    """The same captions in the same order, and their scores."""
    features = golden.features.rows(golden.data['test_imgids'], dtype=dtype)
    tick, state = make_tick(model, params), encode_images(features, model, params)
    found = greedy_search(tick, state) if beam_size == 1 else beam_search(tick, state, beam_size)
    expected = golden.data['configs'][variant]['predictions'][str(beam_size)]
    assert [[sentence.words for sentence in image] for image in found] == [
        [words for _, words in image] for image in expected]
    np.testing.assert_allclose([sentence.logprob for image in found for sentence in image],
                               [score for image in expected for score, _ in image], rtol=TOLERANCE[dtype])


def test_the_vocabulary_and_the_first_bias_are_those_of_the_original(golden):
    data = golden.data
    sentences = [tokens for imgid in data['train_imgids'] for tokens in golden.train_sentences[str(imgid)]]
    wordtoix, ixtoword, bias_init_vector = vocab_of(sentences, data['word_count_threshold'])
    assert list(wordtoix.items()) == list(data['wordtoix'].items())
    assert ixtoword == {int(ix): word for ix, word in data['ixtoword'].items()}
    np.testing.assert_allclose(bias_init_vector, data['bias_init_vector'], rtol=1e-12)


@pytest.mark.parametrize('variant', NEURALTALK)
def test_a_model_has_the_parameters_of_the_original(golden, variant):
    config, weights = golden.data['configs'][variant], stored(golden, variant, 'model')
    bias_init_vector = np.array(golden.data['bias_init_vector'])
    model = init_model(config['params'], len(weights['We']), bias_init_vector, np.random.default_rng(0))
    assert {name: W.shape for name, W in model.items()} == {name: W.shape for name, W in weights.items()}
    assert sorted(model) == sorted(config['update'])
    assert sorted(regularized(config['params'])) == sorted(config['regularize'])


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('variant', NEURALTALK)
def test_cost_and_every_gradient(golden, variant, dtype):
    model, params = load_model(golden, variant, dtype), golden.data['configs'][variant]['params']
    grads = assert_costs(golden, variant, model, params, dtype)
    expected = stored(golden, variant, 'grad')
    assert list(grads) == list(model) and set(grads) == set(expected)
    for name, grad in grads.items():
        assert grad.dtype == dtype
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(grad, expected[name], rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * scale,
                                   err_msg=name)


@pytest.mark.parametrize('rule', RULES)
@pytest.mark.parametrize('variant', ['lstm', 'rnn'])
def test_three_steps_of_the_solver(golden, variant, rule):
    config = golden.data['configs'][variant]
    expected = config['solver'][rule]
    params = {**config['params'], **{key: expected[key] for key in expected.keys() - {'after'}}}
    model, batch = load_model(golden, variant, 'float64'), golden_batch(golden, variant, 'float64')
    solver, costs = Solver(params), []
    for _ in expected['total_cost_before_each_step']:
        cost, grads, _ = cost_and_grads(batch, model, params)
        costs.append(cost)
        solver.step(model, grads)
    np.testing.assert_allclose(costs, expected['total_cost_before_each_step'], rtol=1e-9)
    assert len(costs) == 3 and set(expected['after']) == set(model)
    for name, (total, absolute, first, last) in expected['after'].items():
        W = model[name]
        np.testing.assert_allclose([np.abs(W).sum(), W.flat[0], W.flat[-1]], [absolute, first, last], rtol=1e-9,
                                   err_msg=name)
        np.testing.assert_allclose(W.sum(), total, rtol=1e-9, atol=1e-9 * absolute, err_msg=name)


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('variant', NEURALTALK)
def test_perplexity_of_all_sentences_of_the_test_images(golden, variant, dtype):
    pairs = [{'image': {'imgid': imgid}, 'sentence': {'tokens': tokens}}
             for imgid in golden.data['test_imgids'] for tokens in golden.test_sentences[str(imgid)]]
    provider = make_provider(pairs, golden.features)
    config = golden.data['configs'][variant]
    ppl2 = split_perplexity(provider, 'test', load_model(golden, variant, dtype), config['params'],
                            golden.data['wordtoix'], batch_size=17)
    np.testing.assert_allclose(ppl2, config['perplexity_20_test_images'], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('beam_size', BEAM_SIZES)
@pytest.mark.parametrize('variant', NEURALTALK)
def test_captions_word_for_word(golden, variant, beam_size, dtype):
    params = golden.data['configs'][variant]['params']
    assert_predictions(golden, variant, load_model(golden, variant, dtype), params, beam_size, dtype)


@pytest.mark.parametrize('variant', ['lstm_tanhC', 'rnn_relu'])
def test_a_checkpoint_that_the_original_wrote(neuraltalk, variant):
    checkpoint = load_checkpoint(neuraltalk.folder / f'original_checkpoint_{variant}.p')
    assert checkpoint['wordtoix'] == neuraltalk.data['wordtoix']
    assert checkpoint['ixtoword'] == {int(ix): word for ix, word in neuraltalk.data['ixtoword'].items()}
    weights = stored(neuraltalk, variant, 'model')
    assert checkpoint['model'].keys() == weights.keys()
    for name, W in checkpoint['model'].items():
        np.testing.assert_array_equal(W, weights[name], err_msg=name)
    for dtype in TOLERANCE:
        model = {name: W.astype(dtype) for name, W in checkpoint['model'].items()}
        assert_costs(neuraltalk, variant, model, checkpoint['params'], dtype)
        for beam_size in BEAM_SIZES:
            assert_predictions(neuraltalk, variant, model, checkpoint['params'], beam_size, dtype)

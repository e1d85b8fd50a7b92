"""Self-critical training: the rewards are the metrics', the gradient is that of the expected reward."""

import itertools
import json
import signal

import numpy as np
import pytest
from datasets import checkpoint_named, train_flags, write_tiny_dataset
from driving import at, drive, signalling
from models import ROW, VARIANTS, make_model, make_pairs, make_params, make_provider

import driver
from imagernn.captioning.model import encode_images, logprobs_and_grads, make_tick
from imagernn.captioning.self_critical import (
    Reward,
    draw_captions,
    self_critical_cost_and_grads,
    weighted_batch,
    weights_of,
)
from imagernn.corpus.captioned_images import DataProvider
from imagernn.corpus.token_store import build_store
from imagernn.corpus.vocab import START, lookup_table
from imagernn.metrics import cider
from imagernn.nn.gradcheck import directional_error
from imagernn.nn.workers import Workers
from imagernn.runs.checkpoint_file import load_checkpoint

WORDS = ['a', 'dog', 'runs', 'cat', 'sits', 'on', 'grass', 'rare']
SENTENCES = {    # of each image, its references
    0: ['a dog runs on grass', 'a dog runs', 'dog on grass'],
    1: ['a cat sits on grass', 'cat sits'],
    2: ['a dog sits', 'a dog sits on a cat', 'rare dog', 'a a a'],
    3: ['grass', 'a rare cat runs on a dog on grass'],
}
WORDTOIX = {START: 0, **{word: ix for ix, word in enumerate(WORDS[:-1], start=1)}}    # 'rare' is not known


@pytest.fixture
def provider():
    images = [{'filename': f'{imgid}.jpg', 'imgid': imgid, 'split': 'train',
               'sentences': [{'tokens': sentence.split()} for sentence in sentences]}
              for imgid, sentences in SENTENCES.items()]
    return DataProvider(None, build_store(images), None)


def reward_of(provider, bleu_weight=0.):
    return Reward(provider, 'train', lookup_table(provider.words, WORDTOIX), bleu_weight)


def flat(captions):
    """Captions as text, END where they end in a full stop, as the words and lengths that Reward takes."""
    indices = [[WORDTOIX.get(word, 0) for word in caption.split()] for caption in captions]
    return np.array([ix for each in indices for ix in each]), np.array(list(map(len, indices)))


def test_the_reward_is_the_metrics_cider_with_end_as_a_token(provider):
    """A caption of every image, so that the document frequencies of the metric are those of training."""
    captions = ['a dog runs on grass .', 'a dog sits .', 'a a a a', 'cat .']
    expected = cider([caption.split() for caption in captions],
                     [[f'{sentence} .'.split() for sentence in sentences] for sentences in SENTENCES.values()])[1]
    np.testing.assert_allclose(reward_of(provider)(np.arange(4), *flat(captions)), expected, rtol=1e-12)
    some = reward_of(provider)(np.array([2, 0, 2]), *flat([captions[2], captions[0], captions[2]]))
    np.testing.assert_allclose(some, expected[[2, 0, 2]], rtol=1e-12)


def test_an_unknown_word_of_a_reference_matches_nothing(provider):
    reward = reward_of(provider)
    assert len(reward.images) == 4
    close, far = reward(np.array([2, 2]), *flat(['dog .', 'cat .']))
    assert close > far >= 0


def test_bleu_is_added_by_its_weight(provider):
    captions = flat(['a dog runs on grass .', 'a dog on grass .'])
    without, with_bleu = (reward_of(provider, weight)(np.array([0, 0]), *captions) for weight in (0., 3.))
    # the second caption has 5 of 5, 4 of 4, 2 of 3 and 1 of 2 n-grams, and a reference that is shorter
    np.testing.assert_allclose(with_bleu - without, [3, 3 * (2 / 3 * 1 / 2) ** .25], rtol=1e-12)


# ---- the gradient, where every sentence can be enumerated

V, LENGTH = 4, 3


def small(variant):
    """A model of three words and END, and the features of one image."""
    params = make_params(variant, regc=0)
    model = make_model(params, seed=1)
    for name in ('Ws', 'Wd', 'bd'):
        model[name] = np.ascontiguousarray(model[name][:V] if name == 'Ws' else model[name][:, :V])
    return params, model, np.random.default_rng(3).normal(size=(1, ROW))


def every_sentence():
    """All that can be drawn in LENGTH steps: sentences with END, and those that are cut off."""
    return [list(words) + [0] * (length < LENGTH) for length in range(LENGTH + 1)
            for words in itertools.product(range(1, V), repeat=length)]


def probabilities(sentences, features, model, params):
    tick, found = make_tick(model, params), []
    for sentence in sentences:
        state, total = encode_images(features, model, params), 0.
        for before, word in zip([0, *sentence[:-1]], sentence, strict=True):
            logprobs, state = tick(np.array([before]), state)
            total += logprobs[0, word]
        found.append(np.exp(total))
    return np.array(found)


def gradient_of(weights_of_sentences, sentences, features, model, params):
    """Through weighted_batch: the gradient of -sum(weight · ln p of the sentence), each weight on all its words."""
    words, lengths = np.array([ix for each in sentences for ix in each]), np.array(list(map(len, sentences)))
    batch, weights = weighted_batch(features, len(sentences), words, lengths,
                                    np.repeat(weights_of_sentences, lengths))
    return logprobs_and_grads(batch, model, params, weights)[1]


@pytest.mark.parametrize('variant', VARIANTS)
def test_the_gradient_is_that_of_the_expected_reward(variant):
    params, model, features = small(variant)
    sentences = every_sentence()
    rewards = np.random.default_rng(0).normal(size=len(sentences))

    def expected_cost():
        return -float(probabilities(sentences, features, model, params) @ rewards)

    p = probabilities(sentences, features, model, params)
    assert p.sum() == pytest.approx(1)
    grads = gradient_of(p * rewards, sentences, features, model, params)
    rng = np.random.default_rng(5)
    assert directional_error(expected_cost, list(model.values()), [grads[name] for name in model], rng) < 1e-6
    wrong = gradient_of(p * rewards, sentences, features, model, params)
    wrong['Wd'] = wrong['Wd'] * 1.01
    assert directional_error(expected_cost, list(model.values()), [wrong[name] for name in model], rng) > 1e-5


def test_the_baseline_of_the_other_samples_leaves_it_unbiased():
    """The mean over all pairs of samples, by their probabilities, of the weights that training gives them."""
    params, model, features = small('lstm_both')
    sentences = every_sentence()
    p = probabilities(sentences, features, model, params)
    rewards = np.random.default_rng(0).normal(size=len(sentences))
    total = np.zeros(len(sentences))
    for (one, p_one), (other, p_other) in itertools.product(enumerate(p), enumerate(p)):
        lengths = np.array([len(sentences[one]), len(sentences[other])])
        weights = weights_of(rewards[[one, other]], 2, lengths) * lengths.sum() / 2    # a mean over captions, here
        total[one] += p_one * p_other * weights[0]
        total[other] += p_one * p_other * weights[-1]
    found = gradient_of(total, sentences, features, model, params)
    expected = gradient_of(p * rewards, sentences, features, model, params)
    for name in model:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9, atol=1e-12, err_msg=name)


# ---- a step

@pytest.mark.parametrize('num_threads', [1, 2])
def test_captions_are_drawn_for_every_image_and_end_or_are_cut_off(num_threads):
    params = make_params('rnn')
    model = make_model(params, seed=2)
    features = np.random.default_rng(0).normal(size=(7, ROW))
    words, lengths = draw_captions(features, 5, model, params, np.random.default_rng(1), Workers(num_threads))
    assert len(lengths) == 35 and len(words) == lengths.sum() and lengths.max() <= 20
    ends = words[np.cumsum(lengths) - 1]
    assert ((ends == 0) | (lengths == 20)).all()
    again = draw_captions(features, 5, model, params, np.random.default_rng(1), Workers(num_threads))
    np.testing.assert_array_equal(again[0], words)


@pytest.mark.parametrize('variant', ['lstm_both', 'rnn', 'attention'])
def test_steps_raise_the_reward(variant):
    """A few hundred steps by plain gradient descent, on four images."""
    pairs = make_pairs()
    params = make_params(variant, regc=0)
    provider = make_provider(pairs, None, 'train')
    reward = Reward(provider, 'train', lookup_table(provider.words, {START: 0, **{str(ix): ix for ix in range(1, 11)}}),
                    bleu_weight=0.)
    model, rng = make_model(params, seed=5), np.random.default_rng(0)
    images, features = np.array([0, 1, 3, 4]), np.random.default_rng(8).normal(size=(4, ROW))
    seen = []
    for _ in range(200):
        _, grads, stats = self_critical_cost_and_grads(images, features, reward, 8, model, params, rng)
        seen.append(stats['reward'])
        for name in model:
            model[name] -= .3 * grads[name]
    assert np.mean(seen[-20:]) > 1.25 * np.mean(seen[:20])


# ---- driver.py

def test_a_self_critical_run_resumes_exactly_and_is_judged_by_cider(tmp_path):
    """From a trained model; stopped in the middle of an epoch."""
    write_tiny_dataset(tmp_path)
    assert driver.main(train_flags(tmp_path, '--max_epochs', '3', '-l', '.01')) == 0
    flags = train_flags(tmp_path, '--init_model_from', str(checkpoint_named(tmp_path, '')), '--fappend', 'rewarded',
                        '--self_critical_after', '0', '--self_critical_images', '6', '--max_epochs', '2')
    assert driver.main(flags) == 0
    last = checkpoint_named(tmp_path, '_rewarded_last')
    whole = load_checkpoint(last)
    assert whole['kind'] == 'captioning' and whole['top_val_cider'] == max(h['val_cider'] for h in whole['history'])
    assert [path.name for path in last.parent.glob('*_rewarded_cider*.h5')]
    assert np.isfinite([h['train_reward'] for h in whole['history']]).all()
    status, = (tmp_path / 'status').glob('*_rewarded_status.json')
    assert json.loads(status.read_text(encoding='utf-8'))['score'] == {
        'name': 'CIDEr', 'val': 'val_cider', 'train': 'smooth_train_reward', 'higher_is_better': True}

    for path in last.parent.glob('*_rewarded_*'):
        path.unlink()
    assert drive(flags, before_update=at(9, signalling(signal.SIGTERM))) == 143
    assert driver.main(['--resume', str(last)]) == 0
    resumed = load_checkpoint(last)
    assert resumed['it'] == whole['it'] and resumed['rng_state'] == whole['rng_state']
    for name, w in whole['model'].items():
        np.testing.assert_array_equal(resumed['model'][name], w, err_msg=name)


@pytest.mark.parametrize(('flag', 'value'), [('self_critical_after', '-.5'), ('self_critical_after', 'nan'),
                                             ('self_critical_after', '2'),
                                             ('self_critical_samples', '1'), ('bleu_weight', '-1')])
def test_a_flag_that_cannot_be_is_refused(tmp_path, flag, value, capsys):
    write_tiny_dataset(tmp_path)
    assert driver.main(train_flags(tmp_path, '--self_critical_after', '0', f'--{flag}={value}')) == 2
    err = capsys.readouterr().err
    assert err.startswith(f'error: --{flag} ') and 'must be ' in err and not (tmp_path / 'cv').exists()


def test_words_first_and_rewards_later_in_one_run(tmp_path, capsys):
    write_tiny_dataset(tmp_path)
    assert driver.main(train_flags(tmp_path, '--self_critical_after', '1', '--self_critical_images', '6')) == 0
    first, second = load_checkpoint(checkpoint_named(tmp_path, 'last'))['history']
    assert first['train_reward'] is None and second['train_reward'] >= 0
    assert driver.main(['--resume', str(checkpoint_named(tmp_path, 'last')), '--self_critical_after', '-1']) == 2
    assert '--self_critical_after -1' in capsys.readouterr().err

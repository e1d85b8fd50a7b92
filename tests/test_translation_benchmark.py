"""benchmarks/translation.py: both sides compute the same, and the recipe trains either. No time is asserted."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from imagernn.translation.load import load_translator
from imagernn.translation.text import Pairs

BENCHMARKS = str(Path(__file__).resolve().parents[1] / 'benchmarks')
TINY = ['--embedding_size', '5', '--hidden_sizes', '7,7', '-b', '4', '--num_threads', '1']
WAYS = {
    False: [{}, {'encoder': 'loop', 'decoder': 'padded', 'adam': 'for each', 'softmax': 'chunked softmax'},
            {'encoder': 'scripted loop', 'decoder': 'scripted loop', 'adam': 'fused'}],
    True: [{}, {'attention': 'F.scaled_dot_product_attention', 'decoder': 'loop', 'softmax': 'chunked softmax'}],
}

pytestmark = pytest.mark.filterwarnings('ignore:.torch.jit.script. is deprecated')


@pytest.fixture
def translation(monkeypatch):
    """The module translation; skips without PyTorch."""
    torch = pytest.importorskip('torch', reason='PyTorch is not installed; it comes with the extra [bench]')
    torch.set_num_threads(1)
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module('translation')


@pytest.fixture
def sides(translation):
    """A function of more flags: both sides, with 12 and 10 words, and three batches."""

    def build(*more, larger=8):    # in tiny models, small weights would make small differences
        params = translation.params_of(translation.parse([*TINY, *more]))
        pairs = translation.random_pairs(10, 12, np.random.default_rng(1))
        return *translation.contestants(params, 12, 10, larger), translation.batches_of(pairs, params, 3)

    return build


@pytest.mark.parametrize('more', [[], ['--attention'], ['--attention', '--hidden_sizes', '7'],
                                  ['--source_order', 'forward', '--label_smoothing', '.1'],
                                  ['--source_order', 'forward', '--attention', '--hidden_sizes', '7,7,7']])
def test_cost_and_gradients_equal_pytorchs(translation, sides, more):
    ours, peer, batches = sides(*more)
    assert len(set(batches[0].target.batch_sizes)) > 1    # so that sentences end at different steps
    for batch in batches:
        checks = translation.check_training(ours, peer, batch, list(peer.options))
        assert checks['cost'] < 1e-5 and checks['gradients'] < 1e-4


@pytest.mark.parametrize(('attention', 'way'), [(attention, way) for attention, ways in WAYS.items() for way in ways])
def test_pytorchs_steps_make_our_updates(sides, attention, way):
    ours, peer, batches = sides('--drop_prob', '0', '--grad_clip', '.1', *['--attention'] * attention)
    peer.use(way)
    for batch in batches:
        assert abs(ours.train_step(batch) - peer.train_step(batch)) < 1e-5
    for name, w in peer.weights().items():
        np.testing.assert_allclose(w, ours.model[name], atol=1e-4)


def test_a_planted_difference_is_found(translation, sides):
    ours, peer, batches = sides('--attention')
    ours.model['attention_Wscore'][0] += .5
    with pytest.raises(RuntimeError, match='differ'):
        translation.check_training(ours, peer, batches[0], ['decoder'])


def test_pytorch_drops_as_much_as_we_do(sides):
    """Costs of a batch with dropout, before anything is learned, scatter around the same mean, above that without."""
    ours, peer, batches = sides('--attention', '-l', '1e-12', '--seed', '1')    # weights that dropout harms clearly
    assert [lstm.dropout for lstm in peer.lstm.values()] == [.4] * 3
    costs = [[who.train_step(batches[0]) for _ in range(50)] for who in (ours, peer)]
    means, errors = np.mean(costs, axis=1), np.std(costs, axis=1) / np.sqrt(50)
    assert abs(means[0] - means[1]) < 4 * np.hypot(*errors)
    assert means[1] - peer.cost_and_grads(batches[0])[0] > 4 * errors[1]


def test_random_pairs_are_as_long_as_multi30ks(translation):
    pairs = translation.random_pairs(50, 2000, np.random.default_rng(0))
    assert isinstance(pairs, Pairs)
    assert 13.5 < pairs.source[1].mean() < 14.8 and 12.5 < pairs.target[1].mean() < 13.6
    for tokens, lengths in pairs:
        assert len(tokens) == lengths.sum() and 1 <= tokens.min() and tokens.max() < 50


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Six files of sentences whose translations are the same letters in upper case."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for split, n in ('train', 40), ('val', 8), ('test', 8):
        text = '\n'.join(' '.join(rng.choice(list('abcd'), rng.integers(2, 6))) for _ in range(n))
        Path(f'{split}.xx').write_text(text, encoding='utf-8')
        Path(f'{split}.yy').write_text(text.upper(), encoding='utf-8')
    return [f'{split}.{end}' for split in ('train', 'val', 'test') for end in ('xx', 'yy')]


@pytest.mark.parametrize('side', ['ours', 'torch'])
def test_the_recipe_saves_a_checkpoint_and_scores_it(translation, files, side, capsys):
    args = translation.parse([*TINY, '--only', 'recipe', *files, '--side', side, '-m', '2', '--attention', '-l', '.01'])
    found = translation.recipe(args)
    checkpoint = load_translator(found['checkpoint'])
    assert checkpoint['params']['seed'] == 0 and checkpoint['perplexity'] == pytest.approx(found['perplexity'])
    assert 1 < found['perplexity'] < 6 and 0 <= found['bleu']['bleu'] <= 100
    assert 'BLEU = ' in capsys.readouterr().out
    translations = Path(found['checkpoint']).with_suffix('.translations.txt').read_text(encoding='utf-8')
    assert translations.count('\n') == 8


def test_without_dropout_the_recipes_of_both_sides_end_alike(translation, files):
    models = []
    for side in 'ours', 'torch':
        args = translation.parse([*TINY, '--only', 'recipe', *files, '--side', side, '-m', '1', '--drop_prob', '0'])
        models.append(load_translator(translation.recipe(args)['checkpoint'])['model'])
    for name, w in models[0].items():
        np.testing.assert_allclose(models[1][name], w, atol=1e-3)


def test_the_job_step_prints_a_table(translation, files, capsys):
    pytest.importorskip('threadpoolctl', reason='threadpoolctl is not installed; it comes with the extra [bench]')
    flags = ['--embedding_size', '32', '--hidden_sizes', '64', '--num_threads', '1', '--pairs', '1', '--attention']
    found = translation.step(translation.parse([*files[:4], *flags]))
    assert [row['size'] for row in found['step']] == ['with attention'] and found['vocabularies'] == [6, 6]
    assert '| with attention |' in capsys.readouterr().out


@pytest.mark.parametrize(('flags', 'message'), [
    (['--only', 'recipe', 'a', 'b'], '2 files'), (['a'], '1 files'), (['--layer', 'gru'], '--layer gru'),
    (['--hidden_sizes', '7,8'], 'same size'), (['--regc', '1'], '--regc 1'), (['--pairs', '0'], '--pairs 0')])
def test_what_cannot_be_compared_is_refused(translation, flags, message):
    with pytest.raises(translation.InputError, match=message):
        translation.parse(flags)

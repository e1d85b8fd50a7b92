"""Language models: gradients through stacked layers and carried state, resuming, sampling, and texts that cannot be."""

import numpy as np
import pytest
from driving import Stepper, nothing

from imagernn.corpus.text import encode_texts
from imagernn.errors import InputError
from imagernn.nn import stacked
from imagernn.nn.gradcheck import directional_error, element_errors
from imagernn.nn.layers import dropout_draw
from imagernn.nn.packing import pack
from imagernn.nn.workers import Workers
from imagernn.runs.checkpoint_file import load_checkpoint
from imagernn.textgen import sample, train
from imagernn.textgen.evaluate import nats_of
from imagernn.textgen.model import LAYERS, cost_and_grads, forward, init_model, make_tick, windows

TOLERANCE = 1e-6
V = 7


def make(layer, lines=False, **more):
    params = {'level': 'char', 'layer': layer, 'hidden_sizes': '5,4', 'embedding_size': 3, 'drop_prob': .3,
              'input_drop_prob': .2, 'lines': lines, 'regc': .01, 'tanhC_version': 1, **more}
    rng = np.random.default_rng(0)
    model = {name: rng.uniform(-.6, .6, w.shape) for name, w in init_model(params, V, rng, np.float64).items()}
    return params, model, rng


def batch_of(lines, layer, model, rng):
    """A batch, and the states that it starts from: random ones in a stream."""
    if lines:
        return pack(rng.integers(1, V, 9), np.array([3, 0, 2, 4])), None
    batch = list(windows(rng.integers(0, V, 60), 4, 5))[1]
    return batch, [tuple(rng.normal(size=part.shape) for part in state)
                   for state in stacked.zero_state(LAYERS[layer], 4, model, np.float64)]


@pytest.mark.parametrize('lines', [False, True])
@pytest.mark.parametrize('layer', LAYERS)
def test_gradients_through_stacked_layers_and_carried_state(layer, lines):
    params, model, rng = make(layer, lines)
    batch, start = batch_of(lines, layer, model, rng)

    def cost():
        return cost_and_grads(batch, model, params, start, np.random.default_rng(1))[0]

    _, grads, _, last = cost_and_grads(batch, model, params, start, np.random.default_rng(1))
    grads = {name: grad.copy() for name, grad in grads.items()}
    assert directional_error(cost, list(model.values()), [grads[name] for name in model], rng, 1e-4) < TOLERANCE
    for name, w in model.items():
        assert element_errors(cost, w, grads[name], rng, 4, 1e-4).max() < TOLERANCE
    grads['layer0_' + LAYERS[layer].REGULARIZE[0]] *= 1.01    # a planted error
    assert directional_error(cost, list(model.values()), [grads[name] for name in model], rng, 1e-4) > 10 * TOLERANCE

    _, two, _, last_of_two = cost_and_grads(batch, model, params, start, np.random.default_rng(1), Workers(2))
    np.testing.assert_allclose(two['Wd'], grads['Wd'], atol=1e-12)
    for one, other in zip(last, last_of_two, strict=True):
        np.testing.assert_allclose(one[0], other[0], atol=1e-12)


@pytest.mark.parametrize('layer', LAYERS)
def test_the_states_of_stacked_layers_have_gradients(layer):
    layer, rng = LAYERS[layer], np.random.default_rng(2)
    model = {name: rng.normal(size=w.shape) * .4 for name, w in stacked.init(layer, 3, [5, 4], rng).items()}
    sizes = [4, 4, 3, 1]
    X, weights = rng.normal(size=(sum(sizes), 3)), rng.normal(size=(sum(sizes), 4))
    kept, params = [dropout_draw(sum(sizes), 5, .3, rng)], {'tanhC_version': 1}
    start = [tuple(rng.normal(size=part.shape) for part in state)
             for state in stacked.zero_state(layer, 4, model, np.float64)]
    H, _, cache = stacked.forward(layer, X, sizes, model, params, start, kept, .3)
    dX, dstart, _ = stacked.backward(weights.copy(), cache)

    def f():
        return float((stacked.forward(layer, X, sizes, model, params, start, kept, .3)[0] * weights).sum())

    arrays, grads = [X, *(state[0] for state in start)], [dX, *(state[0] for state in dstart)]
    assert directional_error(f, arrays, grads, rng, 1e-4) < TOLERANCE


@pytest.mark.parametrize('layer', LAYERS)
def test_sampling_takes_the_steps_of_training(layer):
    params, model, rng = make(layer)
    tokens = rng.integers(0, V, 30)
    whole = []
    state = None
    for batch in windows(tokens, 1, 4):
        logprobs, state, _ = forward(batch, model, params, state)
        whole += logprobs.tolist()
    tick, state = make_tick(model, params), stacked.zero_state(LAYERS[layer], 1, model, np.float64)
    stepped = []
    for word, following in zip(tokens, tokens[1:], strict=False):
        logprobs, state = tick(np.array([word]), state)
        stepped.append(logprobs[0, following])
    np.testing.assert_allclose(whole, stepped, atol=1e-10)
    assert nats_of((tokens, np.array([30])), model, params) == pytest.approx(-np.mean(whole), abs=1e-12)


@pytest.mark.parametrize('lines', [False, True])
def test_the_number_of_threads_changes_no_score(lines):
    params, model, rng = make('lstm', lines)
    lengths = rng.integers(0, 9, 230) if lines else np.array([5000])
    part = rng.integers(1, V, lengths.sum()), lengths
    assert nats_of(part, model, params, Workers(3)) == pytest.approx(nats_of(part, model, params), abs=1e-12)


def test_windows_continue_each_other_and_miss_nothing():
    tokens = np.arange(23)
    found = list(windows(tokens, 2, 4))
    columns = [np.concatenate([batch.inputs.reshape(-1, 2)[:, k] for batch in found]) for k in (0, 1)]
    assert columns[0].tolist() == list(range(11)) and columns[1].tolist() == list(range(11, 22))
    assert all((batch.targets == batch.inputs + 1).all() for batch in found)


@pytest.fixture
def book(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'book.txt').write_text('the cat sat on the mat.\nthe dog ate the cat.\n' * 60, encoding='utf-8')
    return 'book.txt'


FLAGS = ['--hidden_sizes', '8,6', '--embedding_size', '4', '-b', '4', '--window', '10', '-l', '.01', '--num_threads',
         '1']


def last_of(tmp_path):
    path, = (tmp_path / 'cv').glob('*_last.h5')
    return path, load_checkpoint(path, 'textgen')


@pytest.mark.parametrize('more', [[], ['--lines'], ['--level', 'word', '--layer', 'gru', '--weight_average', '.9']])
def test_a_run_learns_and_resumed_equals_uninterrupted(book, tmp_path, more, capsys):
    flags = [book, *FLAGS, *more, '--checkpoint_every', '7']
    assert train.main([*flags, '-m', '3']) == 0
    path, whole = last_of(tmp_path)
    values = [report['val_nats'] for report in whole['history'] if report['evaluated']]
    assert values[-1] < values[0]
    # again, and resumed from the middle of an epoch: the schedule is that of the whole run
    path.unlink()
    state, solver, *rest = train.prepare([*flags, '-m', '3'])

    def halt(state):
        if state.it == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train.train(state, Stepper(solver, state, nothing, halt), *rest)
    _, middle = last_of(tmp_path)
    assert middle['it'] == 14
    assert train.main([book, '--resume', 'auto']) == 0
    _, resumed = last_of(tmp_path)
    for name, w in whole['model'].items():
        np.testing.assert_array_equal(resumed['model'][name], w, err_msg=name)


def test_a_model_writes_and_scores_text(book, tmp_path, capsys):
    assert train.main([book, *FLAGS, '-m', '6']) == 0
    best = str(max((tmp_path / 'cv').glob('*nats*.h5'), key=lambda path: path.stat().st_mtime_ns))
    capsys.readouterr()
    assert sample.main([best, '--prime', 'the ', '--length', '20', '-n', '2', '--seed', '1']) == 0
    out = capsys.readouterr().out
    assert sample.main([best, '--prime', 'the ', '--length', '20', '-n', '2', '--seed', '1']) == 0
    assert capsys.readouterr().out == out and out.count('the ') >= 2
    assert sample.main([best, '--length', '5', '--bias', '0', '10']) == 0
    assert capsys.readouterr().out.startswith('bias 0:\n')
    assert sample.main([best, '--score', book]) == 0
    assert 'bits a character' in capsys.readouterr().out
    assert sample.main([best, '--prime', 'ü']) == 2 and "never seen 'ü'" in capsys.readouterr().err


@pytest.mark.parametrize('more', [[], ['--lines'], ['--val', 'val.txt']])
def test_the_splits_of_the_training_are_scored(book, tmp_path, more, capsys):
    text = (tmp_path / 'book.txt').read_text()
    (tmp_path / 'val.txt').write_text(text[:99])
    assert train.main([book, *FLAGS, *more, '-m', '1']) == 0
    best = str(last_of(tmp_path)[0])
    capsys.readouterr()

    def said(*flags):
        code = sample.main([best, *flags])
        out, err = capsys.readouterr()
        assert code == (2 if 'error: ' in err else 0)
        return out or err

    value = f'{last_of(tmp_path)[1]["val_nats"]:.4f} nats'
    assert value in said('--split', 'val')
    (tmp_path / 'book.txt').rename('moved.txt')
    assert 'is not a file here' in said('--split', 'val') and '--text' in said('--split', 'val')
    assert value in said('--split', 'val', '--text', 'moved.txt', '--num_threads', '2')
    if '--val' in more:
        assert 'was trained without one' in said('--split', 'test', '--text', 'moved.txt')
    else:
        (tmp_path / 'last.txt').write_text(text[-round(len(text) * .05):])
        assert said('--split', 'test', '--text', 'moved.txt') == said('--score', 'last.txt')
        (tmp_path / 'last.txt').write_text(text[round(len(text) * .9):])
        both = said('--split', 'val', 'test', '--text', 'moved.txt')
        assert both == said('--score', 'last.txt') or '--lines' in more    # a line on the border is cut in two
    (tmp_path / 'moved.txt').write_text(text[1:])
    assert 'moved.txt: is not as it was' in said('--split', 'val', '--text', 'moved.txt')
    assert 'give one of them' in said('--split', 'val', '--score', 'moved.txt')
    assert 'for --split' in said('--text', 'moved.txt')


@pytest.mark.parametrize(('contents', 'words'), [
    (b'', 'is empty'), (b'\n \n', 'is empty'), (b'a', 'none are left for val'), (b'one line', 'none are left for test'),
    (b'one line of some twenty letters and more', 'lower these'),
    (b'\xff\xfe\x00', 'not UTF-8'), (b'ab\0cd' * 99, 'zero byte')])
def test_a_text_that_cannot_be_learned_from_is_one_line(tmp_path, monkeypatch, contents, words, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'x.txt').write_bytes(contents)
    assert train.main(['x.txt', *FLAGS]) == 2
    err = capsys.readouterr().err
    assert err.startswith('error: ') and words in err and err.count('\n') == 1


@pytest.mark.parametrize(('flags', 'words'), [
    (['--hidden_sizes', '8,'], '--hidden_sizes 8,'), (['--split_shares', '90'], '--split_shares 90'),
    (['--window', '0'], '--window 0'), (['--drop_prob', '1'], '--drop_prob 1'), (['--val', 'absent.txt'], 'absent.txt'),
    (['--test', 'book.txt'], 'needs --val')])
def test_flags_that_cannot_be(book, flags, words, capsys):
    assert train.main([book, *FLAGS, *flags]) == 2
    assert words in capsys.readouterr().err


def test_words_outside_the_vocabulary():
    texts = {'train': 'a b a c', 'val': 'a d b'}
    stream = encode_texts(texts, 'word', False, 2)
    assert stream.ixtoword == {0: '<unk>', 1: 'a'} and stream.splits['val'][0].tolist() == [1, 0, 0]
    lines = encode_texts(texts, 'word', True, 1)
    assert lines.splits['val'][0].tolist() == [1, 2] and lines.splits['val'][1].tolist() == [2]
    with pytest.raises(InputError, match='of the val text'):
        encode_texts({'train': 'a a', 'val': 'b'}, 'word', True, 1)

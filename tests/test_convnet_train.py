"""The small network: its whole gradient, what training does to it, and the script as a user runs it."""

import importlib.util
import json
import math
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import kill_driver
import numpy as np
import pytest
from datasets import checkpoint_named, train_flags, write_tiny_dataset
from driving import Stepper, at, nothing, signalling
from PIL import Image
from programs import running

import driver
from imagernn.convnet import small, train
from imagernn.convnet.plots import mosaic, stretched, write_learning_curve
from imagernn.convnet.small import (
    Labelled,
    Sizes,
    check_model,
    cost_and_grads,
    cost_of,
    forward,
    init_model,
    predict,
    shares,
    stages,
)
from imagernn.errors import script
from imagernn.nn.gradcheck import directional_error, element_errors
from imagernn.nn.layers import dropout_draw, log_softmax
from imagernn.nn.solver import Solver
from imagernn.nn.workers import Workers
from imagernn.runs.checkpoint_file import load_checkpoint, save_checkpoint
from imagernn.runs.run import Run
from imagernn.runs.state import ACCURACY, RunState
from imagernn.web.status_folder import parse_status

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = 1e-6
CAUGHT = 10 * TOLERANCE
STEP = 1e-4
HEADS = {'shape': 3, 'hue': 4}
TINY = ['--size', '16', '--filters', '3', '4', '--hidden_size', '8', '-m', '2', '-b', '3', '--num_threads', '2']


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    """A data root with a few scenes."""
    spec = importlib.util.spec_from_file_location('make_scenes', ROOT / 'data' / 'make_scenes.py')
    make_scenes = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_scenes)
    root = tmp_path_factory.mktemp('data')
    assert make_scenes.main(['--output', str(root / 'scenes'), '--images', '40']) == 0
    return root


def folders(root):
    """The flags that make every file of a run go under root: the outputs to root/out."""
    return ['-o', str(root / 'out'), '--checkpoint_output_directory', str(root / 'cv'),
            '--worker_status_output_directory', str(root / 'status')]


def flags_of(scenes, root, *more):
    """The flags of a short run on scenes whose every file goes under root."""
    return ['--data', 'scenes', '--data_root', str(scenes), *folders(root), *TINY, *more]


def problem(dtype=np.float64, pool_all=False):
    """Pictures of odd sizes, their labels under two heads, and a model of two stages."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(5, 9, 9 if pool_all else 6, 3)).astype(dtype)
    labels = {head: rng.integers(0, classes, len(x)) for head, classes in HEADS.items()}
    model = init_model(Sizes(x.shape[1:], [4, 5], 7, HEADS, pool_all), rng, dtype)
    for name, w in model.items():
        if name.startswith('b'):
            w[:] = rng.uniform(-.1, .1, w.shape)
    return Labelled(x, labels), model


def whole_cost(drop_prob=.4, num_threads=1, pool_all=False):
    """The cost as a function of a model, dropout on and its mask fixed; the model; its gradients."""
    (x, labels), model = problem(pool_all=pool_all)

    def f():
        kept = dropout_draw(len(x), 7, drop_prob, np.random.default_rng(3))
        hidden, _ = forward(x, model, kept, drop_prob)
        return -sum(log_softmax(hidden @ model[f'W{head}'] + model[f'b{head}'])[np.arange(len(x)), of].sum()
                    for head, of in labels.items()) / len(x)

    cost, grads, _ = cost_and_grads(Labelled(x, labels), model, {'drop_prob': drop_prob}, np.random.default_rng(3),
                                    Workers(num_threads))
    assert cost == pytest.approx(f(), rel=1e-13)
    return f, model, grads


@pytest.mark.parametrize('pool_all', [False, True])
@pytest.mark.parametrize('drop_prob, num_threads', [(.4, 1), (.5, 3), (0, 8)])
def test_the_whole_gradient(drop_prob, num_threads, pool_all):
    f, model, grads = whole_cost(drop_prob, num_threads, pool_all)
    rng = np.random.default_rng(0)
    assert set(grads) == set(model)
    for _ in range(2):
        assert directional_error(f, list(model.values()), [grads[name] for name in model], rng, STEP) < TOLERANCE
    for name, w in model.items():
        assert np.count_nonzero(grads[name]) > w.size / 4, name
        assert element_errors(f, w, grads[name], rng, 6, STEP).max() < TOLERANCE, name


# what is wrong, and a parameter that shows it
PLANTED = {
    'max_pool_backward': (lambda dout, cache: small_average(dout, cache), 'Wconv2_2'),
    'relu_backward': (lambda dout, out: dout, 'Wconv1_1'),
    'dropout_backward': (lambda dout, mask: dout, 'Wfc'),
    'conv_parameters_backward': (lambda dout, cache: (dout.sum() * cache[1], dout[:1].sum(axis=(0, 1, 2))[None]),
                                 'bconv1_1'),
}


def small_average(dout, cache):
    """The gradient of a max pool spread over all that it saw, as if it were a mean."""
    dx = np.zeros_like(cache[0])
    spread = np.repeat(np.repeat(dout, 2, axis=1), 2, axis=2) / 4
    dx[:, :spread.shape[1], :spread.shape[2]] = spread
    return dx


@pytest.mark.parametrize('layer', PLANTED)
def test_a_wrong_layer_is_caught(layer, monkeypatch):
    wrong, name = PLANTED[layer]
    monkeypatch.setattr(small, layer, wrong)
    f, model, grads = whole_cost()
    rng = np.random.default_rng(0)
    assert directional_error(f, list(model.values()), [grads[name] for name in model], rng, STEP) > CAUGHT
    assert element_errors(f, model[name], grads[name], rng, 10, STEP).max() > CAUGHT


def test_the_model_has_the_layers_of_a_vggnet():
    _, model = problem()
    assert stages(model) == [['conv1_1', 'conv1_2'], ['conv2_1', 'conv2_2']]
    assert model['Wfc'].shape == (2 * 1 * 5, 7) and model['Whue'].shape == (7, 4)
    assert 1.6 < model['Wconv2_2'].std() * np.sqrt(9 * 5 / 2) * 2 < 2.4


def test_where_a_thing_is_does_not_matter_if_the_last_pool_takes_all():
    x = np.zeros((2, 24, 24, 3))
    x[0, 8:10, 8:10] = x[1, 12:14, 8:10] = np.random.default_rng(0).normal(size=(2, 2, 3))
    for pool_all in (True, False):
        model = init_model(Sizes(x.shape[1:], [4, 5], 7, HEADS, pool_all), np.random.default_rng(1))
        hidden, _ = forward(x, model)
        assert len(model['Wfc']) == (5 if pool_all else 6 * 6 * 5)
        assert np.allclose(hidden[0], hidden[1]) == pool_all


def test_threads_change_nothing_but_the_rounding_and_blocks_nothing_at_all():
    batch, model = problem(np.float32)
    one, three = (cost_and_grads(batch, model, {'drop_prob': .5}, np.random.default_rng(0), Workers(n)) for n in (1, 3))
    assert one[0] == pytest.approx(three[0], rel=1e-5) and one[2] == three[2]
    for name in model:
        assert one[1][name].dtype == np.float32
        np.testing.assert_allclose(one[1][name], three[1][name], atol=1e-5)
    x = batch.pictures
    whole, blocks = predict(x, model, HEADS), predict(x, model, HEADS, Workers(2), at_once=2)
    assert set(whole) == set(HEADS)
    for head in HEADS:
        np.testing.assert_array_equal(whole[head], blocks[head])


def test_the_accuracy_of_a_batch_is_the_share_of_right_answers():
    batch, model = problem()
    found = predict(batch.pictures, model, HEADS)
    right = [(found[head] == batch.labels[head]).mean() for head in HEADS]
    for num_threads in (1, 2):
        cost, _, stats = cost_and_grads(batch, model, {'drop_prob': .5}, workers=Workers(num_threads))
        assert stats == {'accuracy': pytest.approx(np.mean(right))} and cost == pytest.approx(cost_of(batch, model))
    all_right = batch._replace(labels=found)
    assert cost_and_grads(all_right, model, {})[2] == {'accuracy': 1.}


def test_a_model_is_checked_against_its_sizes():
    batch, model = problem()
    sizes = Sizes(batch.pictures.shape[1:], [4, 5], 7, HEADS, False)
    check_model(model, sizes)
    for wrong, words in (({**model, 'Wfc': model['Wfc'][1:]}, 'Wfc has the shape'), ({**model, 'x': model['Wfc']}, 'x'),
                         ({name: w for name, w in model.items() if name != 'bhue'}, 'expected .*bhue'),
                         ({**model, 'bfc': model['bfc'] * np.nan}, 'bfc holds values that are not finite')):
        with pytest.raises(ValueError, match=words):
            check_model(wrong, sizes)


def test_shares_cover_all():
    for n, k in ((5, 2), (3, 3), (100, 7), (1, 1)):
        lengths = [part.stop - part.start for part in shares(n, k)]
        assert sum(lengths) == n and max(lengths) - min(lengths) <= 1 and len(lengths) == k


# ---- training

def striped(num_pictures, rng):
    """Pictures of horizontal or vertical stripes in noise."""
    classes = rng.integers(0, 2, num_pictures)
    x = rng.normal(scale=.5, size=(num_pictures, 8, 8, 1)).astype(np.float32)
    x[classes == 0, ::2] += 1
    x[classes == 1, :, ::2] += 1
    return x, {'stripes': classes}


@pytest.fixture
def stripes(tmp_path):
    """stripes(num_train, num_val, filters, hidden_size, *flags) -> what train() takes, of a run on striped pictures."""
    def made(num_train, num_val, filters, hidden_size, *flags):
        rng = np.random.default_rng(0)
        data = train.Data({split: Labelled(*striped(number, rng)) for split, number in
                           zip(train.SPLITS, (num_train, num_val, 1), strict=True)},
                          {'stripes': ['across', 'down']}, mirrored=True, shift=1)
        params, _ = train.main_params([*folders(tmp_path), '--filters', *map(str, filters), '--hidden_size',
                                       str(hidden_size), *flags])
        return *train.start(params, None, data), data, params

    return made


def test_training_learns(stripes):
    state, solver, rng, data, params = stripes(100, 60, [8, 8], 16, '-b', '20', '-m', '16', '-l', '1e-2',
                                               '--num_threads', '2')
    pictures = train.standardized(data.splits['train'], state.extra)
    before = cost_of(pictures, state.model)
    assert train.train(state, solver, rng, data, params) == 0
    assert cost_of(pictures, state.model) < before / 2
    curves = state.extra['curves']
    assert list(curves) == ['epoch', 'train, stripes', 'val, stripes'] and curves['epoch'] == list(range(17))
    assert {len(curve) for curve in curves.values()} == {17} and curves['val, stripes'][-1] > .95
    val = train.standardized(data.splits['val'], state.extra)
    assert train.accuracies(state.model, val, Workers()) == {'stripes': curves['val, stripes'][-1]}
    assert [entry['val_accuracy'] for entry in state.history] == curves['val, stripes'][1:]
    assert state.best == max(curves['val, stripes'][1:])


def test_the_learning_rate_falls_along_a_cosine_to_0(stripes):
    state, solver, rng, data, params = stripes(10, 3, [2], 3, '-b', '4', '-m', '3', '-l', '.1')
    rates = []

    class Watched:
        def step(self, model, grads, learning_rate, workers):
            rates.append(learning_rate)

        def __getattr__(self, name):
            return getattr(solver, name)

    train.train(state, Watched(), rng, data, params)
    np.testing.assert_allclose(rates, .05 * (1 + np.cos(np.pi * np.arange(9) / 9)))


def test_an_epoch_shows_every_picture_once_and_each_epoch_another_order():
    params = {'seed': 0, 'batch_size': 4}
    epochs = [[train.batch_at(3 * epoch + i, 10, params) for i in range(3)] for epoch in range(2)]
    assert [[len(batch) for batch in epoch] for epoch in epochs] == [[4, 4, 2]] * 2
    one, other = (np.concatenate(epoch) for epoch in epochs)
    assert sorted(one) == sorted(other) == list(range(10)) and list(one) != list(other)
    again = np.concatenate([train.batch_at(i, 10, {**params, 'seed': 1}) for i in range(3)])
    assert list(one) != list(again)


def test_the_smoothed_accuracy_may_be_0(tmp_path):
    params, _ = train.main_params([*folders(tmp_path), '-m', '1'])
    state, smoothed = RunState({'W': np.zeros((1, 1))}, ACCURACY, {'kind': 'convnet'}), []
    solver, rng = Solver({'solver': 'vanilla'}), np.random.default_rng(0)
    with Run(state, solver, rng, params, 3, lambda epoch: 0.) as run:
        for _, accuracy in zip(run.iterations(), (0., 0., 1.), strict=False):
            assert run.passes(1., {}, {'accuracy': accuracy})
            run.update({'W': np.zeros((1, 1))})
            smoothed.append(state.smooth_train)
            if run.evaluates():
                run.evaluated(.5)
    assert smoothed == [0, 0, .01] and run.exit_code == 0


def test_pictures_are_moved_about_whole():
    x = np.arange(6 * 5 * 4, dtype=np.float32).reshape(1, 6, 5, 4).repeat(200, axis=0)
    data = train.Data({}, {}, mirrored=False, shift=1)
    moved = train.moved(x, data, np.random.default_rng(0))
    places = {tuple(picture[2, 2]) for picture in moved}
    assert places == {tuple(x[0, row, column]) for row in (1, 2, 3) for column in (1, 2, 3)}
    assert np.array_equal(train.moved(x, data._replace(shift=0), np.random.default_rng(0)), x)
    mirrored = train.moved(x, data._replace(shift=0, mirrored=True), np.random.default_rng(0))
    flipped = [np.array_equal(picture, x[0, :, ::-1]) for picture in mirrored]
    assert 70 < sum(flipped) < 130
    assert all(np.array_equal(picture, x[0]) for picture, yes in zip(mirrored, flipped, strict=True) if not yes)


def test_digits_are_learnt(tmp_path, capsys):
    pytest.importorskip('sklearn', reason="scikit-learn (the extra [demo]) is not installed")
    assert train.main(['-m', '2', '--filters', '8', '16', *folders(tmp_path), '--num_threads', '2']) == 0
    out = capsys.readouterr().out
    assert '1199 train, 299 val, 299 test pictures of 8 × 8 × 1' in out
    test, = (line for line in out.splitlines() if line.startswith('test'))
    assert float(test.split()[2].rstrip('%')) > 80


# ---- the script

def test_the_script_as_a_user_runs_it(scenes, tmp_path):
    done = subprocess.run([sys.executable, '-m', 'imagernn.convnet.train', *flags_of(scenes, tmp_path)], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, *_, best, train_line, val_line, test_line, last = done.stdout.splitlines()
    assert 'pictures of 16 × 16 × 3' in first and last.startswith(f'in {tmp_path / "out"}')
    assert best.startswith('best accuracy on val: 0.') and 'model_checkpoint_scenes_' in best
    assert [line.split()[0] for line in (train_line, val_line, test_line)] == ['train', 'val', 'test']
    assert all('object ' in line and 'colour ' in line for line in (train_line, val_line, test_line))
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == sorted(train.OUTPUTS)
    check_outputs(scenes, tmp_path / 'out', test_line)


def check_outputs(scenes, folder, test_line):
    """The weights give the accuracy that was printed; the pictures can be opened."""
    with np.load(folder / 'model.npz', allow_pickle=False) as file:
        saved = dict(file)
    mean, deviation = saved.pop('mean'), saved.pop('deviation')
    names = {name[6:]: saved.pop(name).tolist() for name in list(saved) if name.startswith('names_')}
    data = train.read_scenes({'data_root': scenes, 'size': 16})
    assert names == data.names and list(names) == ['object', 'colour']
    x, labels = data.splits['test']
    assert len(data.splits['train'].pictures) > 12                                # five batches an epoch, at least
    found = predict((x - mean) / deviation, saved, names)
    for head, right in labels.items():
        assert f'{head} {(found[head] == right).mean():.2%}' in test_line
    for name, width in (('filters.png', 4 + 2 * 52), ('activations.png', 4 + 4 * 68)):
        with Image.open(folder / name) as picture:
            picture.load()
            assert picture.mode == 'RGB' and picture.width == width
    svg = ElementTree.parse(folder / 'learning_curve.svg').getroot()
    lines = [line.get('points').split() for line in svg.iter('{http://www.w3.org/2000/svg}polyline')]
    assert [len(points) for points in lines] == [3] * 4                          # two epochs; train and val, two heads


def test_the_seed_decides_everything(scenes, tmp_path):
    for name, seed in (('one', 1), ('same', 1), ('other', 2)):
        assert train.main(flags_of(scenes, tmp_path / name, '--seed', str(seed))) == 0
    one, same, other = (np.load(tmp_path / name / 'out' / 'model.npz')['Wfc'] for name in ('one', 'same', 'other'))
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_the_labels_are_what_was_drawn(scenes):
    dataset = json.loads((scenes / 'scenes' / 'dataset.json').read_text(encoding='utf-8'))
    alike = [image for image in dataset['images'] if len(image['scene']['groups']) == 1]
    data = train.read_scenes({'data_root': scenes, 'size': 8})
    assert sum(len(x) for x, _ in data.splits.values()) == len(alike) < len(dataset['images'])
    for split, (x, labels) in data.splits.items():
        images = [image for image in alike if image['split'] == split]
        for k, image in enumerate(images):
            group = image['scene']['groups'][0]
            assert data.names['object'][labels['object'][k]] == group['kind']
            assert data.names['colour'][labels['colour'][k]] == group['colour']
            with Image.open(scenes / 'scenes' / 'imgs' / image['filename']) as picture:
                np.testing.assert_allclose(x[k].mean(), np.asarray(picture).mean() / 255, atol=.01)
        assert x.dtype == np.float32 and 0 <= x.min() < x.max() <= 1


@pytest.mark.parametrize('flags, message', [
    (['--filters', '4', '4', '4', '4', '4'], '5 stages halve a picture of 16 × 16 to nothing'),
    (['--filters', '0'], '--filters 0'),
    (['--size', '0'], '--size 0: must be at least 1'),
    (['-m', '0'], '--max_epochs 0'),
    (['--drop_prob', '1'], '--drop_prob 1.0'),
    (['-l', 'nan'], '--learning_rate nan'),
    (['--seed', '-1'], '--seed -1'),
    (['--data_root', '/nowhere/at all'], 'python data/make_scenes.py'),
    (['--checkpoint_every', 'often'], '--checkpoint_every often'),
    (['--fappend', 'a/b'], '--fappend a/b'),
    (['--eval_period', '0'], '--eval_period 0'),
    (['--solver', 'adadelta', '--on_divergence', 'rollback'], '--on_divergence rollback'),
    (['--resume', 'absent.h5'], 'absent.h5'),
])
def test_mistakes_are_named(scenes, tmp_path, capsys, flags, message):
    assert train.main(flags_of(scenes, tmp_path, *flags)) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.rglob('*.*'))


def test_too_many_stages_for_digits(capsys):
    assert train.main(['--filters', '2', '2', '2', '2']) == 2
    assert 'picture of 8 × 8' in capsys.readouterr().err


def test_scikit_learn_is_asked_for_by_its_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'sklearn', None)
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    assert train.main(['--data', 'digits', *folders(tmp_path)]) == 2
    assert "[demo]'" in capsys.readouterr().err


def test_other_data_sets_and_broken_ones_are_refused(tmp_path, capsys):
    (tmp_path / 'scenes').mkdir()
    path = tmp_path / 'scenes' / 'dataset.json'
    image = {'filename': 'a.jpg', 'split': 'train', 'scene': {'groups': [{'kind': 'cat', 'colour': 'red'}]}}
    for text, message in (('{"images": [{"filename": "1.jpg"}]}', "'scene'"), ('[', 'does not say'),
                          ('[]', 'does not say'), (json.dumps({'images': [image]}), 'no scene of one kind'),
                          (json.dumps({'images': [{**image, 'split': split} for split in train.SPLITS]}), 'a.jpg')):
        path.write_text(text, encoding='utf-8')
        assert train.main(flags_of(tmp_path, tmp_path)) == 2
        error = capsys.readouterr().err
        assert message in error and str(tmp_path) in error


def test_an_output_that_cannot_be_written_is_said_before_training(scenes, tmp_path, capsys):
    (tmp_path / 'file').write_text('', encoding='utf-8')
    assert train.main(flags_of(scenes, tmp_path, '-o', str(tmp_path / 'file'))) == 2
    assert 'cannot be written' in capsys.readouterr().err


# ---- how a run ends, and resumes

def drive(flags, before=nothing, after=nothing):
    """train.main(flags) up to the outputs, with these functions called before and after each step of the solver."""
    @script
    def main(argv):
        state, solver, rng, data, params = train.prepare(argv)
        return train.train(state, Stepper(solver, state, before, after), rng, data, params)

    return main(flags)


class Killed(BaseException):
    pass


def kill(*args):
    """As kill -9 would."""
    raise Killed


def ending(root):
    """All that a finished run leaves under root, but for times and names of folders."""
    last = load_checkpoint(checkpoint_named(root, 'last'), 'convnet')
    best = load_checkpoint(root / 'cv' / Path(last['best_checkpoint']).name, 'convnet')
    params = {name: value for name, value in last['params'].items()
              if str(root) not in str(value) and name not in ('resume', 'checkpoint_every')}
    history = [{name: entry[name] for name in ('iter', 'val_accuracy', 'train_accuracy')} for entry in last['history']]
    with np.load(root / 'out' / 'model.npz') as file:
        weights = dict(file)
    pictures = {name: (root / 'out' / name).read_bytes() for name in train.OUTPUTS if name != 'model.npz'}
    return {**last, 'best_checkpoint': Path(last['best_checkpoint']).name, 'params': params, 'history': history,
            'best model': best['model'], 'weights': weights, 'pictures': pictures}


@pytest.fixture(scope='module')
def whole(scenes, tmp_path_factory):
    """The ending of a run that was never stopped. An epoch has five iterations at least."""
    root = tmp_path_factory.mktemp('whole')
    assert train.main(flags_of(scenes, root)) == 0
    return ending(root)


@pytest.mark.parametrize('moment', [0, 2, 4, 8])
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_resumes_as_if_never_stopped(scenes, tmp_path, whole, number, moment, capsys):
    assert drive(flags_of(scenes, tmp_path), after=at(moment, signalling(number))) == 128 + number
    last = checkpoint_named(tmp_path, 'last')
    out = capsys.readouterr().out
    assert f'stopped at iteration {moment + 1}; resume with: ' in out and f'train-convnet --resume {last}' in out
    assert load_checkpoint(last, 'convnet')['it'] == moment + 1 and not list((tmp_path / 'out').iterdir())
    assert train.main(['--resume', str(last)]) == 0
    assert kill_driver.differences(whole, ending(tmp_path)) == []


@pytest.mark.parametrize(('every', 'moment', 'saved'), [('1', 3, 3), ('2', 3, 2), ('2', 7, 6), ('0.00001m', 8, 8)])
def test_a_killed_run_resumes_from_its_last_checkpoint_as_if_never_stopped(scenes, tmp_path, whole, every, moment,
                                                                           saved, capsys):
    flags = flags_of(scenes, tmp_path, '--checkpoint_every', every, '--resume', 'auto')
    with pytest.raises(Killed):
        drive(flags, before=at(moment, kill))
    assert 'a new run starts' in capsys.readouterr().out
    assert train.main(flags) == 0
    assert f'iteration {saved}' in capsys.readouterr().out
    assert kill_driver.differences(whole, ending(tmp_path)) == []


def test_with_an_average_of_the_weights_it_resumes_and_leaves_the_average(scenes, tmp_path):
    flags = ['--weight_average', '.9', '--learning_rate_schedule', 'halving', '--warmup', '.5']
    for folder in 'whole', 'stopped':
        (tmp_path / folder).mkdir()
    assert train.main(flags_of(scenes, tmp_path / 'whole', *flags)) == 0
    expected = ending(tmp_path / 'whole')
    assert {name: w.tobytes() for name, w in expected['model'].items()}.items() <= {
        name: w.tobytes() for name, w in expected['weights'].items()}.items()
    assert not np.array_equal(expected['raw_model']['Wfc'], expected['model']['Wfc'])
    assert drive(flags_of(scenes, tmp_path / 'stopped', *flags), after=at(6, signalling(signal.SIGTERM))) == 143
    assert train.main(['--resume', str(checkpoint_named(tmp_path / 'stopped', 'last'))]) == 0
    assert kill_driver.differences(expected, ending(tmp_path / 'stopped')) == []


def test_the_comparison_of_endings_sees_a_single_bit(whole):
    other = {**whole, 'model': {name: w.copy() for name, w in whole['model'].items()}}
    other['model']['Wfc'].view(np.uint32)[0, 0] ^= 1
    assert kill_driver.differences(whole, other) == ['/model/Wfc']


def test_a_run_is_stopped_and_resumed_by_what_it_prints(scenes, tmp_path):
    flags = flags_of(scenes, tmp_path, '-m', '50')
    with running('-m', 'imagernn.convnet.train', *flags, cwd=tmp_path) as process:
        for line in process.stdout:
            if line.startswith('epoch 2.00'):
                process.send_signal(signal.SIGTERM)
            if 'resume with: ' in line:
                resume = line.partition('train-convnet ')[2].split()
        assert process.wait() == 143, process.stderr.read()
    assert not list((tmp_path / 'out').iterdir())
    assert train.main(resume) == 0
    other = tmp_path / 'other'
    assert train.main(flags_of(scenes, other, '-m', '50')) == 0
    assert kill_driver.differences(ending(other), ending(tmp_path)) == []


def test_the_profile_names_the_functions(scenes, tmp_path, capsys):
    assert train.main(flags_of(scenes, tmp_path, '--profile', '--num_threads', '1')) == 0
    out = capsys.readouterr().out
    assert 'convnet.layers.' in out and 'ms each; of which' in out


def test_the_monitor_reads_the_status_file(scenes, tmp_path):
    def status():
        path, = (tmp_path / 'status').glob('*_status.json')
        return parse_status(path.read_bytes())

    assert drive(flags_of(scenes, tmp_path), after=at(10, signalling(signal.SIGTERM))) == 143
    run = status()
    assert (run['state'], run['reason'], run['score']['name']) == ('stopped', 'by SIGTERM', 'accuracy')
    assert train.main(['--resume', str(checkpoint_named(tmp_path, 'last'))]) == 0
    run, last = status(), load_checkpoint(checkpoint_named(tmp_path, 'last'), 'convnet')
    assert run['state'] == 'finished' and run['iter'] == run['max_iter'] == last['it']
    assert run['points']['epoch'] == last['curves']['epoch'][1:] == [1, 2]
    curves = [last['curves'][f'val, {head}'][1:] for head in ('object', 'colour')]
    assert run['points']['val'] == [sum(pair) / 2 for pair in zip(*curves, strict=True)]
    assert run['best_val'] == max(run['points']['val']) == last['top_val_accuracy']
    assert run['points']['train'][-1] == run['train'] == last['smooth_train_accuracy']
    assert run['settings']['dataset'] == 'scenes' and run['settings']['filters'] == '[3, 4]'
    assert train.main(flags_of(scenes, tmp_path, '-l', '1e30')) == 1
    assert status()['state'] == 'aborted' and 'the cost is ' in status()['reason']


def test_a_resumed_run_may_train_longer_and_a_finished_one_only_writes_its_outputs(scenes, tmp_path):
    assert train.main(flags_of(scenes, tmp_path)) == 0
    before = ending(tmp_path)
    shutil.rmtree(tmp_path / 'out')
    last = str(checkpoint_named(tmp_path, 'last'))
    assert train.main(['--resume', last]) == 0
    assert kill_driver.differences(before, ending(tmp_path)) == []
    assert train.main(['--resume', last, '-m', '3']) == 0
    longer = ending(tmp_path)
    assert longer['it'] == before['it'] * 3 / 2 and longer['curves']['epoch'] == [0, 1, 2, 3]


def test_a_run_that_is_stopped_before_its_first_evaluation_can_be_ended_there(scenes, tmp_path, capsys):
    assert drive(flags_of(scenes, tmp_path), after=at(1, signalling(signal.SIGTERM))) == 143
    assert train.main(['--resume', str(checkpoint_named(tmp_path, 'last')), '-m', '.1']) == 0
    assert 'no evaluation before; the last model is in' in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == sorted(train.OUTPUTS)


@pytest.mark.filterwarnings('error')
def test_a_learning_rate_that_explodes_aborts_the_run_and_leaves_what_was_there(scenes, tmp_path, capsys):
    assert train.main(flags_of(scenes, tmp_path)) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / 'out').iterdir()}
    capsys.readouterr()
    assert train.main(flags_of(scenes, tmp_path, '-l', '1e30', '--fappend', 'other')) == 1
    error, = [line for line in capsys.readouterr().err.splitlines() if line.startswith('aborted ')]
    assert 'at iteration 1: the cost is ' in error and 'try a smaller --learning_rate' in error
    assert 'the best checkpoint so far: none' in error and not list((tmp_path / 'cv').glob('*other*.h5'))
    assert {path.name: path.read_bytes() for path in (tmp_path / 'out').iterdir()} == before


ROLLING_BACK = ['--on_divergence', 'rollback', '--solver', 'vanilla', '-l', '30']


@pytest.mark.parametrize('moment', [2, 7, 12])
def test_a_run_that_rolls_back_does_so_also_when_it_is_killed_in_between(scenes, tmp_path, moment, capsys):
    assert train.main(flags_of(scenes, tmp_path / 'whole', *ROLLING_BACK)) == 0
    whole = ending(tmp_path / 'whole')
    assert 'rolled back to iteration 0' in capsys.readouterr().err and 1 <= whole['rollbacks'] < 10
    flags = flags_of(scenes, tmp_path, *ROLLING_BACK, '--checkpoint_every', '0.00001m', '--resume', 'auto')
    with pytest.raises(Killed):
        drive(flags, before=at(moment, kill))
    assert train.main(flags) == 0
    assert kill_driver.differences(whole, ending(tmp_path)) == []


def test_a_checkpoint_of_another_task_names_the_command_that_takes_it(scenes, tmp_path, capsys):
    write_tiny_dataset(tmp_path / 'captions')
    assert driver.main(train_flags(tmp_path / 'captions', '--max_epochs', '.2')) == 0
    assert train.main(flags_of(scenes, tmp_path)) == 0
    capsys.readouterr()
    assert train.main(['--resume', str(checkpoint_named(tmp_path / 'captions', 'last'))]) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and 'of the kind captioning' in error and 'driver.py' in error
    assert driver.main(['--resume', str(checkpoint_named(tmp_path, 'last'))]) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and 'of the kind convnet' in error and 'imagernn train-convnet' in error


def test_by_default_no_file_has_a_name_that_driver_py_would_use():
    convnet, _ = train.main_params(['--data', 'scenes'])
    captioner = vars(driver.build_parser().parse_args(['-d', 'scenes']))
    assert convnet['dataset'] == captioner['dataset'] and convnet['fappend'] != captioner['fappend']


@pytest.mark.parametrize('flags', [['--filters', '5'], ['--hidden_size', '9'], ['--size', '17'], ['--seed', '9'],
                                   ['-b', '4'], ['--solver', 'rmsprop'], ['--last_pool', '2x2'], ['-d', 'digits']])
def test_what_a_resumed_run_cannot_choose_is_refused(scenes, tmp_path, flags, capsys):
    assert drive(flags_of(scenes, tmp_path), after=at(1, signalling(signal.SIGTERM))) == 143
    capsys.readouterr()
    assert train.main(['--resume', str(checkpoint_named(tmp_path, 'last')), *flags]) == 2
    error = capsys.readouterr().err
    assert flags[1] in error and 'leave the flag out' in error and error.count('\n') == 1


def shuffle_labels(images):
    scenes = [image['scene'] for image in images]
    for image, scene in zip(images, [*scenes[1:], scenes[0]], strict=True):
        image['scene'] = scene


def swap_splits(images):
    for image in images:
        image['split'] = {'val': 'test', 'test': 'val'}.get(image['split'], image['split'])


@pytest.mark.parametrize(('change', 'words'), [
    (shuffle_labels, 'train has'),
    (swap_splits, 'val has'),
    (lambda images: images.reverse(), 'train has pictures with other names'),
    (lambda images: images.remove(next(image for image in images if image['split'] == 'train'
                                       and len(image['scene']['groups']) == 1)), 'pictures, not '),
    (None, 'train has pictures with other pixels, or'),
])
def test_a_run_does_not_resume_on_other_data(scenes, tmp_path, change, words, capsys):
    copy = tmp_path / 'data'
    shutil.copytree(scenes, copy)
    assert drive(flags_of(copy, tmp_path), after=at(1, signalling(signal.SIGTERM))) == 143
    if change:
        file = copy / 'scenes' / 'dataset.json'
        contents = json.loads(file.read_text(encoding='utf-8'))
        change(contents['images'])
        file.write_text(json.dumps(contents), encoding='utf-8')
    else:
        for picture in (copy / 'scenes' / 'imgs').iterdir():
            Image.new('RGB', (64, 64)).save(picture)
    capsys.readouterr()
    last = str(checkpoint_named(tmp_path, 'last'))
    assert train.main(['--resume', last]) == 2
    error = capsys.readouterr().err
    assert words in error and '--allow_changed_data' in error and error.count('\n') == 1
    assert train.main(['--resume', last, '--allow_changed_data']) == 0
    assert 'note: ' in (said := capsys.readouterr().err) and words in said
    assert train.main(['--resume', last]) == 0    # it is the run's data now


def test_a_checkpoint_that_does_not_record_its_data_is_noted(scenes, tmp_path, capsys):
    assert drive(flags_of(scenes, tmp_path), after=at(1, signalling(signal.SIGTERM))) == 143
    checkpoint = load_checkpoint(checkpoint_named(tmp_path, 'last'), 'convnet')
    del checkpoint['fingerprint']
    save_checkpoint(tmp_path / 'cv' / 'early.h5', checkpoint)
    capsys.readouterr()
    assert train.main(['--resume', str(tmp_path / 'cv' / 'early.h5')]) == 0
    assert 'early.h5: does not record its training data' in capsys.readouterr().err


@pytest.mark.parametrize(('change', 'words'), [
    (lambda c: c.pop('solver'), ['solver']),
    (lambda c: c.pop('val_accuracy'), ['val_accuracy']),
    (lambda c: c.pop('classes'), ['classes']),
    (lambda c: c['classes']['colour'].pop(), ['classes', 'object, colour']),
    (lambda c: c.pop('mean'), ['mean']),
    (lambda c: c.update(mean=c['mean'] * math.nan), ['mean']),
    (lambda c: c.update(deviation=c['deviation'] * 0), ['deviation']),
    (lambda c: c.update(deviation=c['deviation'][:2]), ['deviation']),
    (lambda c: c.pop('curves'), ['curves']),
    (lambda c: c['curves'].pop('val, object'), ['curves']),
    (lambda c: c['curves']['epoch'].append(2.), ['curves']),
    (lambda c: c['curves'].update(epoch=['x'] * len(c['curves']['epoch'])), ['curves']),
    (lambda c: c['model'].pop('Wfc'), ['Wfc']),
    (lambda c: c['model']['Wfc'].fill(math.nan), ['Wfc', 'not finite']),
    (lambda c: c['params'].update(filters=[3, 5]), ['Wconv2_1']),
    (lambda c: c['params'].update(filters=[3, 'x']), ['filters']),
    (lambda c: c['params'].update(filters=[]), ['filters']),
    (lambda c: c['params'].update(dataset='mnist'), ['mnist']),
    (lambda c: c['params'].update(size=10 ** 6), ['size']),
    (lambda c: c['params'].update(output_directory='/elsewhere'), ['/elsewhere', '--output_directory']),
    (lambda c: c['solver']['cache']['means'].pop('Wfc'), ['means', 'start a new run']),
    (lambda c: c['rng_state'].update(bit_generator='nonsense'), ['random state']),
])
def test_a_checkpoint_that_cannot_be_resumed_is_one_line(scenes, tmp_path, change, words, capsys):
    assert drive(flags_of(scenes, tmp_path), after=at(1, signalling(signal.SIGTERM))) == 143
    checkpoint = load_checkpoint(checkpoint_named(tmp_path, 'last'), 'convnet')
    change(checkpoint)
    save_checkpoint(tmp_path / 'cv' / 'bad.h5', checkpoint)
    capsys.readouterr()
    assert train.main(['--resume', str(tmp_path / 'cv' / 'bad.h5')]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words) and error.startswith('error: ') and error.count('\n') == 1, error
    assert '--init_model_from' not in error


# ---- plots

def test_a_learning_curve_has_its_points_at_their_epochs(tmp_path):
    write_learning_curve(tmp_path / 'a.svg', [0, 1, 4], {'val': [0., .5, 1.], '<b>': [1., 1., 1.]}, 'accuracy')
    svg = ElementTree.parse(tmp_path / 'a.svg').getroot()
    points = [line.get('points') for line in svg.iter('{http://www.w3.org/2000/svg}polyline')]
    assert points == ['50.0,280.0 170.0,150.0 530.0,20.0', '50.0,20.0 170.0,20.0 530.0,20.0']
    write_learning_curve(tmp_path / 'a.svg', [0], {'val': [.5]}, 'accuracy')
    ElementTree.parse(tmp_path / 'a.svg')


def test_a_mosaic_has_every_tile_at_its_place():
    tiles = [np.full((2, 2, 1), value, np.uint8) for value in (10, 20, 30)]
    sheet = np.asarray(mosaic(tiles, 8))
    assert sheet.shape == (4 + 2 * 12, 4 + 2 * 12, 3)
    assert [int(sheet[y, x, 0]) for y, x in ((8, 8), (8, 20), (20, 8), (20, 20))] == [10, 20, 30, 255]


def test_maps_are_stretched_to_all_greys_and_flat_ones_are_black():
    assert stretched(np.array([[[1.], [2.], [3.]]])).ravel().tolist() == [0, 127, 255]
    assert stretched(np.full((2, 2, 1), 7.)).max() == 0

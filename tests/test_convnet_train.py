"""The small network: its whole gradient, what training does to it, and the script as a user runs it."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from imagernn.convnet import small, train
from imagernn.convnet.plots import mosaic, stretched
from imagernn.convnet.small import cost_and_grads, forward, init_model, predict, shares, stages
from imagernn.nn.gradcheck import directional_error, element_errors
from imagernn.nn.layers import dropout_draw, log_softmax
from imagernn.nn.workers import Workers

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = 1e-6
CAUGHT = 10 * TOLERANCE
STEP = 1e-4
HEADS = {'shape': 3, 'hue': 4}
TINY = ['--size', '16', '--filters', '3', '4', '--hidden_size', '8', '-m', '2', '--num_threads', '2']


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    """A data root with a few scenes."""
    spec = importlib.util.spec_from_file_location('make_scenes', ROOT / 'data' / 'make_scenes.py')
    make_scenes = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_scenes)
    root = tmp_path_factory.mktemp('data')
    assert make_scenes.main(['--output', str(root / 'scenes'), '--images', '40']) == 0
    return root


def problem(dtype=np.float64, pool_all=False):
    """Pictures of odd sizes, their labels under two heads, and a model of two stages."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(5, 9, 9 if pool_all else 6, 3)).astype(dtype)
    labels = {head: rng.integers(0, classes, len(x)) for head, classes in HEADS.items()}
    model = init_model(x.shape[1:], [4, 5], 7, HEADS, rng, dtype, pool_all)
    for name, w in model.items():
        if name.startswith('b'):
            w[:] = rng.uniform(-.1, .1, w.shape)
    return x, labels, model


def whole_cost(drop_prob=.4, num_threads=1, pool_all=False):
    """The cost as a function of a model, dropout on and its mask fixed; the model; its gradients."""
    x, labels, model = problem(pool_all=pool_all)

    def f():
        kept = dropout_draw(len(x), 7, drop_prob, np.random.default_rng(3))
        hidden, _ = forward(x, model, kept, drop_prob)
        return -sum(log_softmax(hidden @ model[f'W{head}'] + model[f'b{head}'])[np.arange(len(x)), of].sum()
                    for head, of in labels.items()) / len(x)

    cost, grads = cost_and_grads(x, labels, model, drop_prob, np.random.default_rng(3), Workers(num_threads))
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
    _, _, model = problem()
    assert stages(model) == [['conv1_1', 'conv1_2'], ['conv2_1', 'conv2_2']]
    assert model['Wfc'].shape == (2 * 1 * 5, 7) and model['Whue'].shape == (7, 4)
    assert 1.6 < model['Wconv2_2'].std() * np.sqrt(9 * 5 / 2) * 2 < 2.4


def test_where_a_thing_is_does_not_matter_if_the_last_pool_takes_all():
    x = np.zeros((2, 24, 24, 3))
    x[0, 8:10, 8:10] = x[1, 12:14, 8:10] = np.random.default_rng(0).normal(size=(2, 2, 3))
    for pool_all in (True, False):
        model = init_model(x.shape[1:], [4, 5], 7, HEADS, np.random.default_rng(1), pool_all=pool_all)
        hidden, _ = forward(x, model)
        assert len(model['Wfc']) == (5 if pool_all else 6 * 6 * 5)
        assert np.allclose(hidden[0], hidden[1]) == pool_all


def test_threads_change_nothing_but_the_rounding_and_blocks_nothing_at_all():
    x, labels, model = problem(np.float32)
    one, three = (cost_and_grads(x, labels, model, .5, np.random.default_rng(0), Workers(n)) for n in (1, 3))
    assert one[0] == pytest.approx(three[0], rel=1e-5)
    for name in model:
        assert one[1][name].dtype == np.float32
        np.testing.assert_allclose(one[1][name], three[1][name], atol=1e-5)
    whole, blocks = predict(x, model, HEADS), predict(x, model, HEADS, Workers(2), at_once=2)
    assert set(whole) == set(HEADS)
    for head in HEADS:
        np.testing.assert_array_equal(whole[head], blocks[head])


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


def test_training_learns():
    rng = np.random.default_rng(0)
    splits = {'train': striped(100, rng), 'val': striped(60, rng)}
    params = train.main_params(['--batch_size', '20', '--max_epochs', '16', '--learning_rate', '1e-2'])
    data = train.Data(splits, {'stripes': ['across', 'down']}, mirrored=True, shift=1)
    model = init_model((8, 8, 1), [8, 8], 16, {'stripes': 2}, rng)
    before, _ = cost_and_grads(*splits['train'], model)
    curves = train.train(model, splits, data, params, rng, Workers(2))
    after, _ = cost_and_grads(*splits['train'], model)
    assert after < before / 2
    assert list(curves) == ['train, stripes', 'val, stripes'] and [len(curve) for curve in curves.values()] == [17, 17]
    assert curves['val, stripes'][-1] > .95
    assert train.accuracies(model, *splits['val'], Workers()) == {'stripes': curves['val, stripes'][-1]}


def test_the_learning_rate_falls_along_a_cosine_to_0(monkeypatch):
    rates = []

    class Watched(train.Solver):
        def step(self, model, grads, learning_rate, workers):
            rates.append(learning_rate)

    monkeypatch.setattr(train, 'Solver', Watched)
    rng = np.random.default_rng(0)
    splits = {'train': striped(10, rng), 'val': striped(3, rng)}
    params = train.main_params(['--batch_size', '4', '--max_epochs', '3', '--learning_rate', '.1'])
    data = train.Data(splits, {'stripes': ['across', 'down']}, mirrored=False, shift=0)
    train.train(init_model((8, 8, 1), [2], 3, {'stripes': 2}, rng), splits, data, params, rng, Workers())
    np.testing.assert_allclose(rates, .05 * (1 + np.cos(np.pi * np.arange(9) / 9)))


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


@pytest.mark.filterwarnings('error')
def test_a_learning_rate_that_explodes_stops_the_run_with_no_more_than_a_message(scenes, tmp_path, capsys):
    assert run(scenes, tmp_path, '-l', '1e30', '-b', '10') == 2
    error, = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
    assert 'after 1 steps' in error and '--learning_rate' in error and not list(tmp_path.iterdir())


def test_digits_are_learnt(tmp_path, capsys):
    pytest.importorskip('sklearn', reason="scikit-learn (the extra [demo]) is not installed")
    assert train.main(['-m', '2', '--filters', '8', '16', '-o', str(tmp_path), '--num_threads', '2']) == 0
    out = capsys.readouterr().out
    assert '1199 train, 299 val, 299 test pictures of 8 × 8 × 1' in out
    test, = (line for line in out.splitlines() if line.startswith('test'))
    assert float(test.split()[2].rstrip('%')) > 80


# ---- the script

def run(scenes, output, *flags):
    return train.main(['--data', 'scenes', '--data_root', str(scenes), '-o', str(output), *TINY, *flags])


def test_the_script_as_a_user_runs_it(scenes, tmp_path):
    done = subprocess.run([sys.executable, '-m', 'imagernn.convnet.train', '--data', 'scenes', '--data_root',
                           str(scenes), '-o', str(tmp_path / 'out'), *TINY], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, *shares_, last = done.stdout.splitlines()
    assert 'pictures of 16 × 16 × 3' in first and last.startswith(f'in {tmp_path / "out"}')
    assert [line.split()[0] for line in shares_] == ['train', 'val', 'test']
    assert all('object ' in line and 'colour ' in line for line in shares_)
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == sorted(train.OUTPUTS)
    check_outputs(scenes, tmp_path / 'out', shares_[-1])


def check_outputs(scenes, folder, test_line):
    """The weights give the accuracy that was printed; the pictures can be opened."""
    with np.load(folder / 'model.npz', allow_pickle=False) as file:
        saved = dict(file)
    mean, deviation = saved.pop('mean'), saved.pop('deviation')
    names = {name[6:]: saved.pop(name).tolist() for name in list(saved) if name.startswith('names_')}
    data = train.read_scenes({'data_root': scenes, 'size': 16})
    assert names == data.names and list(names) == ['object', 'colour']
    x, labels = data.splits['test']
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
        assert run(scenes, tmp_path / name, '--seed', str(seed)) == 0
    one, same, other = (np.load(tmp_path / name / 'model.npz')['Wfc'] for name in ('one', 'same', 'other'))
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


def test_what_was_there_stays_when_a_run_is_interrupted(scenes, tmp_path, monkeypatch, capsys):
    assert run(scenes, tmp_path) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    calls = []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return cost_and_grads(*args)

    monkeypatch.setattr(train, 'cost_and_grads', interrupted)
    assert run(scenes, tmp_path, '-b', '5') == 130
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize('flags, message', [
    (['--filters', '4', '4', '4', '4', '4'], '5 stages halve a picture of 16 × 16 to nothing'),
    (['--filters', '0'], '--filters 0'),
    (['--size', '0'], '--size 0: must be at least 1'),
    (['-m', '0'], '--max_epochs 0'),
    (['--drop_prob', '1'], '--drop_prob 1.0'),
    (['-l', 'nan'], '--learning_rate nan'),
    (['--seed', '-1'], '--seed -1'),
    (['--data_root', '/nowhere/at all'], 'python data/make_scenes.py'),
])
def test_mistakes_are_named(scenes, tmp_path, capsys, flags, message):
    assert run(scenes, tmp_path, *flags) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_too_many_stages_for_digits(capsys):
    assert train.main(['--filters', '2', '2', '2', '2']) == 2
    assert 'picture of 8 × 8' in capsys.readouterr().err


def test_scikit_learn_is_asked_for_by_its_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'sklearn', None)
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    assert train.main(['--data', 'digits', '-o', str(tmp_path)]) == 2
    assert "[demo]'" in capsys.readouterr().err


def test_other_data_sets_and_broken_ones_are_refused(tmp_path, capsys):
    (tmp_path / 'scenes').mkdir()
    path = tmp_path / 'scenes' / 'dataset.json'
    image = {'filename': 'a.jpg', 'split': 'train', 'scene': {'groups': [{'kind': 'cat', 'colour': 'red'}]}}
    for text, message in (('{"images": [{"filename": "1.jpg"}]}', "'scene'"), ('[', 'does not say'),
                          ('[]', 'does not say'), (json.dumps({'images': [image]}), 'no scene of one kind'),
                          (json.dumps({'images': [{**image, 'split': split} for split in train.SPLITS]}), 'a.jpg')):
        path.write_text(text, encoding='utf-8')
        assert run(tmp_path, tmp_path / 'out') == 2
        error = capsys.readouterr().err
        assert message in error and str(tmp_path) in error


def test_an_output_that_cannot_be_written_is_said_before_training(scenes, tmp_path, capsys):
    (tmp_path / 'file').write_text('', encoding='utf-8')
    assert run(scenes, tmp_path / 'file') == 2
    assert 'cannot be written' in capsys.readouterr().err


# ---- plots

def test_a_mosaic_has_every_tile_at_its_place():
    tiles = [np.full((2, 2, 1), value, np.uint8) for value in (10, 20, 30)]
    sheet = np.asarray(mosaic(tiles, 8))
    assert sheet.shape == (4 + 2 * 12, 4 + 2 * 12, 3)
    assert [int(sheet[y, x, 0]) for y, x in ((8, 8), (8, 20), (20, 8), (20, 20))] == [10, 20, 30, 255]


def test_maps_are_stretched_to_all_greys_and_flat_ones_are_black():
    assert stretched(np.array([[[1.], [2.], [3.]]])).ravel().tolist() == [0, 127, 255]
    assert stretched(np.full((2, 2, 1), 7.)).max() == 0

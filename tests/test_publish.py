"""A checkpoint made small: the same captioner or ranker, half the size, and what it needs to take photographs."""

import h5py
import numpy as np
import pytest
from albums import D, write_models
from datasets import checkpoint_named, train_flags, write_tiny_dataset

import driver
import eval_sentence_predictions
from imagernn import publish
from imagernn.captioning.load import load_captioner
from imagernn.formats import names
from imagernn.ranking.load import load_ranker
from imagernn.ranking.names import RANKERS
from imagernn.ranking.ranker import Ranker
from imagernn.runs.checkpoint_file import load_checkpoint, save_checkpoint

ORIGIN = {'network': 'lite0', 'layer': 'features', 'weights_sha256': 'ab', 'preprocessing': '{}'}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """A model trained on features that say where they come from."""
    root = tmp_path_factory.mktemp('published')
    folder = write_tiny_dataset(root)
    with h5py.File(folder / 'named.h5', 'w') as file:
        file['feats'] = np.load(folder / 'vgg_feats.npy')
        file.attrs.update({**ORIGIN, 'version': 1})
    assert driver.main(train_flags(root, '--features', 'named.h5')) == 0
    return root


def test_a_checkpoint_remembers_where_its_features_come_from(root):
    assert load_checkpoint(checkpoint_named(root, 'last'))['features'].items() >= ORIGIN.items()


def test_what_is_published_is_the_same_captioner_and_no_more(root, tmp_path):
    source, small = checkpoint_named(root, 'last'), tmp_path / 'small.h5'
    assert publish.main([str(source), str(small)]) == 0
    before, after = load_captioner(source, 'float32'), load_captioner(small, 'float32')
    for name, w in before['model'].items():
        np.testing.assert_array_equal(after['model'][name], w.astype(np.float16).astype(np.float32))
    assert after['ixtoword'] == before['ixtoword'] and after['features'] == before['features']
    assert not {'solver', 'rng_state', 'history'} & set(after)
    assert not any(str(root) in str(value) for value in after['params'].values())


def test_a_weight_that_float16_cannot_hold_is_refused(root, tmp_path, capsys):
    checkpoint = load_checkpoint(checkpoint_named(root, 'last'))
    checkpoint['model']['We'][0, 0] = 1e6
    save_checkpoint(tmp_path / 'large.h5', checkpoint)
    assert publish.main([str(tmp_path / 'large.h5'), str(tmp_path / 'small.h5')]) == 2
    assert 'We: holds a number that is too large for float16' in capsys.readouterr().err
    assert not (tmp_path / 'small.h5').exists()


@pytest.mark.parametrize('said', [None, {'file': 'f.h5', 'dim': 6}, 'nothing'])
def test_a_feature_file_says_what_the_checkpoint_does_not(root, tmp_path, said):
    """As one of NeuralTalk, which has no features at all."""
    checkpoint = load_checkpoint(checkpoint_named(root, 'last'))
    save_checkpoint(tmp_path / 'mute.h5', {**checkpoint, 'features': said})
    flags = [str(tmp_path / 'mute.h5'), str(tmp_path / 'small.h5')]
    assert publish.main([*flags, '--features', str(root / 'tiny' / 'named.h5')]) == 0
    found = load_checkpoint(tmp_path / 'small.h5')['features']
    assert found == {**(said if isinstance(said, dict) else {}), **ORIGIN}


@pytest.mark.parametrize('change', [{'network': 'vgg16'}, {'layer': 'logits'}, {'weights_sha256': 'cd'},
                                    {'preprocessing': '[]'}])
def test_a_recorded_origin_is_not_replaced_by_that_of_another_network(root, tmp_path, change, capsys):
    path = tmp_path / 'other.h5'
    path.write_bytes((root / 'tiny' / 'named.h5').read_bytes())
    with h5py.File(path, 'r+') as file:
        file.attrs.update(change)
    assert publish.main([str(checkpoint_named(root, 'last')), str(tmp_path / 'small.h5'), '--features', str(path)]) == 2
    message, (name, value) = capsys.readouterr().err, *change.items()
    assert f'{path}: was not made as' in message and f'{name} is {value}, but was {ORIGIN[name]}' in message
    assert not (tmp_path / 'small.h5').exists()


@pytest.mark.parametrize('width, attributes, words', [(0, {}, 'does not say which network'), (1, ORIGIN, 'size')])
def test_a_feature_file_that_does_not_help_is_refused(root, tmp_path, width, attributes, words, capsys):
    rows = np.load(root / 'tiny' / 'vgg_feats.npy')
    with h5py.File(tmp_path / 'f.h5', 'w') as file:
        file['feats'] = np.pad(rows, ((0, 0), (0, width)))
        file.attrs.update(attributes)
    assert publish.main([str(checkpoint_named(root, 'last')), str(tmp_path / 'small.h5'), '--features',
                         str(tmp_path / 'f.h5')]) == 2
    assert str(tmp_path / 'f.h5') in (message := capsys.readouterr().err) and words in message
    assert not (tmp_path / 'small.h5').exists()


def test_a_published_checkpoint_starts_a_new_run(root, tmp_path):
    assert publish.main([str(checkpoint_named(root, 'last')), str(tmp_path / 'small.h5')]) == 0
    assert driver.main(train_flags(root, '--init_model_from', str(tmp_path / 'small.h5'), '--fappend', 'again')) == 0


def texts_of(path):
    """Every text in an HDF5 file: names, attributes and values."""
    found = []
    with h5py.File(path, 'r') as file:
        def visit(name, item):
            found.extend([name, *map(str, item.attrs), *map(str, item.attrs.values())])
            if isinstance(item, h5py.Dataset) and item.shape == ():
                found.append(str(item.asstr()[()] if item.dtype.kind in 'OS' else item[()]))
        visit('', file)
        file.visititems(visit)
    return found


@pytest.mark.parametrize('data', ['absolute', 'relative', 'above'])
def test_no_folder_of_this_machine_is_in_the_file_to_give_away(root, tmp_path, monkeypatch, data):
    """Neither where the data and the features are, nor where the run wrote, nor where it was started from."""
    home = tmp_path / 'secret_home'
    place = home / 'secret_project'
    for folder in ('data', 'elsewhere', 'start'):
        (place / f'secret_{folder}').mkdir(parents=True)
    monkeypatch.setenv('HOME', str(home))
    monkeypatch.chdir(place / 'secret_start')
    write_tiny_dataset(place / 'secret_data')
    features = place / 'secret_elsewhere' / 'named.h5'
    features.write_bytes((root / 'tiny' / 'named.h5').read_bytes())
    into = {'absolute': f'{place}/', 'relative': '../', 'above': '../../secret_project/'}[data]
    flags = train_flags(place, '--features', f'{into}secret_elsewhere/named.h5', '--max_epochs', '1')
    flags += {'absolute': ['--dataset', f'{into}secret_data/tiny'],
              'relative': ['--data_root', '../secret_data'],
              'above': ['--data_root', '..', '--dataset', 'secret_data/tiny']}[data]
    assert driver.main(flags) == 0
    last = checkpoint_named(place, 'last')
    assert driver.main(['--resume', str(last), '--max_epochs', '2']) == 0
    assert driver.main([*flags, '--init_model_from', str(last), '--fappend', 'second']) == 0
    for which, more in (('_test_last', []), ('second_last', []), ('second_last', ['--features', str(features)])):
        source = checkpoint_named(place, which)
        assert any('secret' in text for text in texts_of(source))    # so that this test can see it
        small = tmp_path / 'small.h5'
        assert publish.main([str(source), str(small), *more]) == 0
        assert b'secret' not in small.read_bytes() and str(tmp_path).encode() not in small.read_bytes()
        kept = load_captioner(small)
        assert (kept['params']['dataset'], kept['features']['file']) == ('tiny', 'named.h5')
        assert kept['features']['preprocessing'] == '{}' and kept['params']['checkpoint_every'] == '10m'
    shared = tmp_path / 'of_somebody_else'
    write_tiny_dataset(shared)
    (shared / 'tiny' / 'named.h5').write_bytes(features.read_bytes())
    monkeypatch.chdir(shared)
    assert eval_sentence_predictions.main([str(small), '--data_root', str(shared)]) == 0


@pytest.mark.parametrize(('value', 'kept'), [
    ('/home/ada/feats.h5', 'feats.h5'), ('C:\\Users\\Ada\\feats.h5', 'feats.h5'), ('C:/Users/Ada/f.h5', 'f.h5'),
    ('\\\\server\\ada\\f.h5', 'f.h5'), ('~ada/f.h5', 'f.h5'), ('../ada/f.h5', 'f.h5'), ('./ada/f.h5', 'f.h5'),
    ('file:///home/ada/f.h5', 'f.h5'), ('/home/ada/', 'ada'), ('lstm', 'lstm'), ('a/b', 'a/b'), (1.5, 1.5),
    (['/home/ada/x', 2], ['x', 2]),
    ({'file': 'ada/f.h5', 'x': {'dataset': 'ada\\d'}}, {'file': 'f.h5', 'x': {'dataset': 'd'}}),
])
def test_of_a_path_from_any_system_the_name_is_kept(value, kept):
    assert names.without_folders(value) == kept


# ---- rankers

@pytest.fixture(params=RANKERS)
def ranker(request, tmp_path):
    """The path of a checkpoint as train-ranker writes it, but for its random weights."""
    flags = write_models(tmp_path)
    path = flags[flags.index(f'--{request.param}_ranker') + 1]
    found = load_checkpoint(path, 'ranking')
    found['features'] = {'file': '/secret/named.h5', 'dim': D, **ORIGIN, 'regions': 'windows'}
    found['params'] |= {'dataset': '/secret/tiny', 'data_root': '/secret', 'resume': '/secret/last.h5'}
    save_checkpoint(path, {**found, 'it': 7, 'epoch': 1., 'recall sum': 321.5, 'solver': {}, 'rng_state': {},
                           'history': [], 'fingerprint': {}, 'raw_model': found['model']})
    return path


def test_a_published_ranker_is_the_same_and_no_more(ranker, tmp_path, capsys):
    small = tmp_path / 'small.h5'
    assert publish.main([ranker, str(small)]) == 0
    before, after = load_ranker(ranker), load_ranker(small)
    assert after['kind'] == 'ranking' and (after['it'], after['epoch'], after['recall sum']) == (7, 1, 321.5)
    for name, w in before['model'].items():
        np.testing.assert_array_equal(after['model'][name], w.astype(np.float16))
    for name, values in before['standard'].items():
        np.testing.assert_array_equal(after['standard'][name], values)
        assert after['standard'][name].dtype == np.float32
    assert after['ixtoword'] == before['ixtoword'] and after['wordtoix'] == before['wordtoix']
    assert after['features'] == {**before['features'], 'file': 'named.h5'}
    assert not {'solver', 'rng_state', 'history', 'fingerprint', 'raw_model'} & set(after)
    assert b'secret' not in small.read_bytes() and after['params']['dataset'] == 'tiny'

    features, tokens = np.random.default_rng(0).normal(size=(5, 4 * D)), [['a', 'dog'], ['red', 'car', 'plays'], []]
    found = []
    for path in ranker, small:
        loaded = Ranker.load(path)
        found.append(loaded.scores(loaded.encode_images(features), loaded.encode_sentences(tokens)))
    np.testing.assert_allclose(found[1], found[0], atol=5e-3)


def write_features(path, dim, **attributes):
    with h5py.File(path, 'w') as file:
        file['feats'], file['regions'] = np.ones((2, dim)), np.ones((2, 3, dim))
        file.attrs.update(attributes)
    return path


def test_a_feature_file_says_what_a_ranker_does_not(ranker, tmp_path, capsys):
    small, path = tmp_path / 'small.h5', tmp_path / 'f.h5'
    save_checkpoint(tmp_path / 'mute.h5', {**load_checkpoint(ranker, 'ranking'), 'features': None})
    kind = load_ranker(ranker)['params']['ranker']
    flags = [str(tmp_path / 'mute.h5'), str(small), '--features', str(path)]
    write_features(path, D, **ORIGIN, regions='grid:1x3')
    assert publish.main(flags) == 0
    assert load_ranker(small)['features'] == {**ORIGIN, **({'regions': 'grid:1x3'} if kind == 'regions' else {})}
    small.unlink()

    for dim, attributes, words in ((D + 1, ORIGIN, f'of size {D + 1}, but the checkpoint was trained on size {D}'),
                                   (D, {}, 'does not say which network')):
        write_features(path, dim, **attributes)
        assert publish.main(flags) == 2
        assert str(path) in (message := capsys.readouterr().err) and words in message and not small.exists()
    write_features(path, D, **{**ORIGIN, 'network': 'vgg16'})
    assert publish.main([ranker, *flags[1:]]) == 2
    assert 'network is vgg16, but was lite0' in capsys.readouterr().err and not small.exists()


def test_a_ranker_that_cannot_be_published_is_refused(ranker, tmp_path, capsys):
    found, small = load_checkpoint(ranker, 'ranking'), tmp_path / 'small.h5'
    large = {**found['model'], 'be': np.full_like(found['model']['be'], 1e6)}
    for name, change, words in (('large', {'model': large}, 'be: holds a number that is too large for float16'),
                                ('raw', {'standard': None}, "raw.h5: its 'standard' holds no mean and scale"),
                                ('other', {'kind': 'convnet'}, 'one of the kind captioning or ranking is needed')):
        save_checkpoint(tmp_path / f'{name}.h5', {**found, **change})
        assert publish.main([str(tmp_path / f'{name}.h5'), str(small)]) == 2
        assert words in capsys.readouterr().err and not small.exists()
    assert publish.main([ranker, ranker]) == 2
    assert 'is an input file' in capsys.readouterr().err

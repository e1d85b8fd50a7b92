"""A checkpoint made small: the same captioner, half the size, and what it needs to take photographs."""

import h5py
import numpy as np
import pytest
from datasets import checkpoint_named, train_flags, write_tiny_dataset

import driver
from imagernn import publish
from imagernn.captioning.load import load_captioner
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

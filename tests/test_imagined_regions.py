"""data/pictures_from_words.py with a feature file that has regions: those of imagined images are imagined, too."""

import importlib.util
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from datasets import SMALL

import driver
from imagernn.convnet import imagined, weights
from imagernn.convnet.classes import class_names
from imagernn.convnet.extraction import boxes_of, parse_regions
from imagernn.convnet.networks import VGG_OUTPUTS, Architecture, vgg, weight_shapes
from imagernn.corpus.captioned_images import getDataProvider
from imagernn.corpus.features import open_features

ROOT = Path(__file__).resolve().parents[1]
D, WIDTHS = 24, (2,) * 5    # the size of the small network's layer fc7, the channels of its convolutions
REAL, SEEN = 20, 16         # images with pictures; of these, the training images
R, BOXES = 26, boxes_of(parse_regions('windows'))
LARGE = 17                  # of these cover a quarter of the picture or more, and come first
CAPTIONS = ['a pizza and a zebra', 'a dog and a boy', 'a boy has a pizza', 'a zebra', 'a pizza']

spec = importlib.util.spec_from_file_location('pictures_from_words', ROOT / 'data' / 'pictures_from_words.py')
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


class Small:
    """A data set whose feature file has windows, a weight file of a small VGG that it fits, and captions."""

    def __init__(self, folder):
        self.folder, rng = folder, np.random.default_rng(0)
        (folder / 'real').mkdir()
        arrays = {}
        for name, shape in weight_shapes(vgg((2, 2, 3, 3, 3), WIDTHS, D), 32).items():
            arrays |= {f'{name}_W': rng.standard_normal(shape, np.float32),
                       f'{name}_b': rng.standard_normal(shape[-1:], np.float32)}
        np.savez(folder / 'vgg16.npz', **arrays)
        self.W = arrays['fc8_W'].astype(float)                                  # (D, 1000)
        self.tokens = [f'a {noun} runs'.split() for noun in rng.choice(['dog', 'boy', 'girl'], REAL)]
        self.images = [{'filename': f'{imgid}.jpg', 'imgid': imgid, 'split': 'train' if imgid < SEEN else 'val',
                        'sentences': [{'tokens': tokens}]} for imgid, tokens in enumerate(self.tokens)]
        (folder / 'real' / 'dataset.json').write_text(json.dumps({'images': self.images}), encoding='utf-8')
        (folder / 'captions.txt').write_text('\n'.join(CAPTIONS), encoding='utf-8')
        self.regions = rng.random((REAL, R, D), np.float32) * 2
        self.F = self.regions[:, 0]
        self.write_features()

    def write_features(self, **changed):
        """The feature file, with changed datasets; those that are None are left out."""
        with h5py.File(self.folder / 'real' / 'vgg_feats.h5', 'w') as file:
            for name, array in ({'feats': self.F, 'regions': self.regions, 'boxes': BOXES} | changed).items():
                if array is not None:
                    file[name] = array
            file.attrs['regions'] = 'windows'

    def made(self, *flags, output='mix'):
        """The features that the script writes, opened without regions."""
        assert script.main(['--dataset', str(self.folder / 'real'), '--captions', str(self.folder / 'captions.txt'),
                            '--weights', str(self.folder / 'vgg16.npz'), '--min_images', '3', '--dtype', 'float32',
                            '--output', str(self.folder / output), *map(str, flags)]) == 0
        return open_features(self.folder / output / 'vgg_feats.h5')


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, 'ARCHITECTURES', {
        **weights.ARCHITECTURES, 'vgg16': Architecture(vgg((2, 2, 3, 3, 3), WIDTHS, D), VGG_OUTPUTS)})
    monkeypatch.setattr(weights, 'SIZE', 32)
    return Small(tmp_path)


# ---- where a class is

def test_presence_is_the_share_of_the_region_relative_to_that_of_the_picture():
    whole, left, right, corner = [0, 0, 1, 1], [0, 0, .5, 1], [.5, 0, 1, 1], [0, 0, .5, .5]
    upper = [0, 0, 1, .5]
    presence = imagined.presence_in(np.array([whole, left, right, corner, upper]),
                                    np.array([whole, left, corner]))
    assert presence.tolist() == [[1, 1, 1], [1, 2, 2], [1, 0, 0], [1, 2, imagined.MOST_PRESENCE], [1, 1, 2]]


def test_a_class_is_more_present_in_windows_at_its_place_and_less_elsewhere():
    presence = imagined.presence_in(BOXES, BOXES[:LARGE])
    assert (presence[0] == 1).all() and presence.max() == 2.5 and presence.min() == 0
    left, right = presence[3], presence[4]    # they share the middle column of the grid's seven
    assert np.allclose(left[:5], [1, 1, 1, 7 / 4, 7 / 16]) and np.allclose(right[:5], [1, 1, 1, 7 / 16, 7 / 4])


# ---- what is written

def test_real_regions_are_copied_and_whole_pictures_are_as_without_regions(small, capsys):
    made = small.made().with_regions()
    assert 'with features of 26 regions of each image' in capsys.readouterr().out
    assert np.array_equal(made.boxes, BOXES) and made.origin['regions'] == 'windows'
    rows = made.rows(range(REAL)).reshape(REAL, 1 + R, D)
    assert np.array_equal(rows[:, 0], small.F) and np.array_equal(rows[:, 1:], small.regions)
    small.write_features(regions=None, boxes=None)
    whole = small.made(output='whole')
    new = range(REAL + len(CAPTIONS))
    assert np.array_equal(whole.rows(new), made.rows(new)[:, :D])


def test_the_regions_are_those_of_the_formula(small):
    """Step by step in plain numpy, with the draws in their order, those of places from a generator of their own."""
    made = small.made('--seed', 4, '--strength', 2, '--ridge', 1.5, '--residual', .5).with_regions()
    words = sorted({word for tokens in small.tokens[:SEEN] for word in tokens})
    X = np.array([[word in tokens for word in words] for tokens in small.tokens[:SEEN]], float)
    F, G = small.F[:SEEN].astype(float), small.regions[:SEEN].astype(float)
    centred = X - X.mean(axis=0)
    B = np.linalg.solve(centred.T @ centred + 1.5 * np.eye(len(words)), centred.T @ (F - F.mean(axis=0)))
    table = imagined.read_table(imagined.TABLE, class_names())
    rng, place_rng = np.random.default_rng(4), np.random.default_rng([4, 1])
    named = [['pizza', 'zebra'], [], ['pizza'], ['zebra'], ['pizza']]           # dog and boy are frequent
    for number, caption in enumerate(CAPTIONS):
        classes = [table[term][rng.integers(len(table[term]))] for term in named[number]]
        donor = rng.integers(SEEN)
        places = BOXES[place_rng.integers(LARGE, size=len(classes))].astype(float)
        x = np.array([word in caption.split() for word in words]) - X.mean(axis=0)
        for w, (x0, y0, x1, y1) in enumerate(BOXES.astype(float)):
            f = G[:, w].mean(axis=0) + x @ B
            for one, (a0, b0, a1, b1) in zip(classes, places, strict=True):
                overlap = max(0, min(x1, a1) - max(x0, a0)) * max(0, min(y1, b1) - max(y0, b0))
                share = overlap / ((x1 - x0) * (y1 - y0)) / ((a1 - a0) * (b1 - b0))
                d = small.W[:, one] - small.W.mean(axis=1)
                f += 2 / (1.3 if len(classes) > 1 else 1) * min(share, 2.5) * d / np.linalg.norm(d)
            f += .5 * (G[donor, w] - G[:, w].mean(axis=0) - centred[donor] @ B)
            found = made.rows([REAL + number]).reshape(1 + R, D)[1 + w]
            assert np.allclose(found, np.maximum(f, 0), atol=1e-5), (number, w)


def test_the_region_that_is_the_whole_picture_has_its_features(small):
    made = small.made().with_regions()
    rows = made.rows(range(REAL, REAL + len(CAPTIONS))).reshape(-1, 1 + R, D)
    assert np.allclose(rows[:, 0], rows[:, 1], atol=1e-6) and not np.allclose(rows[:, 0], rows[:, 2], atol=.1)


def test_the_size_of_a_block_changes_nothing(small, monkeypatch):
    made, numbers = small.made().with_regions(), range(REAL + len(CAPTIONS))
    monkeypatch.setattr(imagined, 'BLOCK', 3 * (1 + R))
    assert np.allclose(small.made(output='blocks').with_regions().rows(numbers), made.rows(numbers), atol=1e-5)


@pytest.mark.parametrize('changed, reason', [
    ({'regions': None}, 'has no features of regions'),
    ({'boxes': None}, 'vgg_feats.h5 does not say where they are'),
    ({'regions': np.ones((REAL, R, 8))}, 'have 8 numbers each, and whole pictures 24')])
def test_without_regions_of_the_right_kind_whole_pictures_are_made_and_the_reason_is_printed(
        small, capsys, changed, reason):
    small.write_features(**changed)
    made = small.made()
    assert made.num_images == REAL + len(CAPTIONS)
    with h5py.File(made.path) as file:
        assert 'regions' not in file and 'regions' not in file.attrs and 'boxes' not in file
    note, = [line for line in capsys.readouterr().out.splitlines() if line.startswith('without regions: ')]
    assert reason in note


def test_a_captioner_with_attention_trains_on_them(small, capsys):
    small.made()
    provider = getDataProvider('mix', small.folder, regions=True)
    assert provider.getSplitSizes() == {'train': SEEN + len(CAPTIONS), 'val': REAL - SEEN}
    assert provider.features.num_regions == R
    flags = ['-d', 'mix', '--data_root', small.folder, '-o', small.folder / 'cv', '--worker_status_output_directory',
             small.folder / 'status', *SMALL, '-m', 1, '--generator', 'attention', '--attention_size', 6]
    assert driver.main([*map(str, flags)]) == 0
    assert f'{SEEN + len(CAPTIONS)} training sentences' in capsys.readouterr().out

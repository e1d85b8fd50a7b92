"""The command prints the most probable classes; with real weights and photos, the right ones."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stub_network import StubNetwork, loader

from imagernn.convnet import classify, extraction
from imagernn.convnet.preprocess import prepare
from imagernn.convnet.weights import load_network
from imagernn.errors import InputError
from imagernn.formats.pictures import load_picture

DATA = Path(__file__).resolve().parents[2] / 'shared' / 'data'


@pytest.fixture
def stub(monkeypatch):
    network = StubNetwork(dim=1000)
    monkeypatch.setattr(extraction, 'load_network', loader(network))
    return network


@pytest.fixture(scope='module')
def lite0():
    try:
        return load_network(name='lite0')
    except InputError as error:
        pytest.skip(str(error))


def shared(*parts):
    path = DATA.joinpath(*parts)
    return path if path.exists() else pytest.skip(f'needs shared/data/{"/".join(parts)} beside the checkout')


def test_the_thousand_classes_have_names():
    names = classify.class_names()
    assert len(names) == len(set(names)) == 1000
    assert [names[i] for i in (0, 30, 105, 150, 999)] == ['tench', 'bullfrog', 'koala', 'sea lion', 'toilet tissue']


def test_the_most_probable_classes_are_printed_and_broken_pictures_skipped(stub, tmp_path, capsys):
    Image.new('RGB', (50, 40), 'teal').save(tmp_path / 'a.png')
    (tmp_path / 'b.jpg').write_bytes(b'no picture')
    assert classify.main([str(tmp_path), '--top', '2']) == 0
    out, err = capsys.readouterr()
    probabilities = stub.of([load_picture(tmp_path / 'a.png')], 'prob')[0]
    first, second = np.argsort(-probabilities)[:2]
    names = classify.class_names()
    assert out == (f'{tmp_path / "a.png"}: {names[first]} {probabilities[first]:.0%}, '
                   f'{names[second]} {probabilities[second]:.0%}\n')
    assert 'b.jpg' in err


@pytest.mark.parametrize('flags, words', [(['--top', '0', 'a.png'], '--top 0'), (['nowhere.png'], 'nowhere.png'),
                                         (['empty'], 'skipped: empty: is a folder')])
def test_mistakes_are_reported(stub, capsys, tmp_path, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty').mkdir()
    assert classify.main(flags) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize('picture, name', [('koala', 'koala'), ('frog', 'bullfrog'), ('seal', 'sea lion')])
def test_lite0_recognizes_the_animals(lite0, picture, name):
    x = prepare(load_picture(shared('example_images', f'{picture}.jpg')), 'lite0')
    assert classify.class_names()[lite0.forward(x[None], 'prob').argmax()] == name

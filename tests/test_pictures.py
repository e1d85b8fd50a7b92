"""Pictures of every kind are read right, and a broken one is a message that names it."""

import json
import os

import numpy as np
import odd_pictures
import pytest
from PIL import Image

from imagernn.convnet.preprocess import PREPROCESSING, prepare
from imagernn.errors import InputError
from imagernn.formats.pictures import FORMATS, SUFFIXES, load_picture


@pytest.fixture(scope='module')
def odd(tmp_path_factory):
    folder = tmp_path_factory.mktemp('odd')
    return folder, odd_pictures.make(folder)


SOUND = list(odd_pictures.sound())
BROKEN = [*odd_pictures.broken(), 'folder.jpg', 'nowhere.jpg', 'circle.jpg', 'absent.jpg']


@pytest.mark.parametrize('name', SOUND)
def test_an_odd_picture_has_its_colours_where_they_belong(odd, name):
    folder, outcomes = odd
    picture, outcome = load_picture(folder / name), outcomes[name]
    width, height = outcome.size
    assert picture.shape == (height, width, 3) and picture.dtype == np.uint8
    quarters = [picture[h * height // 4, w * width // 4] for h in (1, 3) for w in (1, 3)]
    np.testing.assert_allclose(np.array(quarters, int), outcome.colours, atol=outcome.off_by)


@pytest.mark.parametrize('name', BROKEN)
def test_a_broken_picture_is_named_with_what_is_wrong(odd, name):
    folder, outcomes = odd
    with pytest.raises(InputError) as raised:
        load_picture(folder / name)
    assert all(word in str(raised.value) for word in (str(folder / name), *outcomes[name].words)), raised.value
    assert '; ' in str(raised.value)    # the way out


def test_there_are_fifty_of_them(odd):
    assert len(odd[1]) >= 50 and set(odd[1]) == {*SOUND, *BROKEN}


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no pipes here')
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / 'pipe.jpg')
    with pytest.raises(InputError, match='not a regular file'):
        load_picture(tmp_path / 'pipe.jpg')


def test_a_picture_without_permission_is_said(tmp_path):
    path = tmp_path / 'mine.png'
    Image.new('RGB', (4, 4)).save(path)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip('this user may read everything')
    with pytest.raises(InputError, match='mine.png.*Permission denied'):
        load_picture(path)


def test_a_name_that_cannot_be_is_said():
    with pytest.raises(InputError, match='null'):
        load_picture('a\0b.jpg')


def test_half_transparent_is_half_white(tmp_path):
    Image.new('RGBA', (2, 2), (0, 0, 0, 51)).save(tmp_path / 'a.png')
    assert (load_picture(tmp_path / 'a.png') == 204).all()


def test_greys_of_16_bits_are_scaled_not_clipped(tmp_path):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(values).save(tmp_path / 'a.png')
    np.testing.assert_array_equal(load_picture(tmp_path / 'a.png')[..., 0], np.rint(values / 257))


def test_real_numbers_that_are_none_are_black(tmp_path):
    Image.fromarray(np.array([[np.nan, 0, .5, 1]], np.float32)).save(tmp_path / 'a.tif')
    assert load_picture(tmp_path / 'a.tif')[0, :, 0].tolist() == [0, 0, 128, 255]
    Image.fromarray(np.array([[-1, 0, 1, np.inf]], np.float32)).save(tmp_path / 'a.tif')
    assert load_picture(tmp_path / 'a.tif')[0, :, 0].tolist() == [0, 128, 255, 128]
    Image.fromarray(np.array([[-3e38, 3e38]], np.float32)).save(tmp_path / 'a.tif')
    assert not load_picture(tmp_path / 'a.tif').any()


@pytest.mark.parametrize('name', PREPROCESSING)
def test_prepared_as_the_network_was_trained(name):
    """Each formula written out again, on a picture that is shrunk one way and stretched the other."""
    picture = np.random.default_rng(0).integers(0, 256, (100, 300, 3)).astype(np.uint8)
    pixels = np.asarray(Image.fromarray(picture).resize((224, 224), Image.Resampling.BICUBIC), float)
    red, green, blue = np.moveaxis(pixels, -1, 0)
    want = (np.stack([red - 127, green - 127, blue - 127], -1) / 128 if name == 'lite0'
            else np.stack([blue - 103.939, green - 116.779, red - 123.68], -1))
    got = prepare(picture, name)
    assert got.shape == (224, 224, 3) and got.dtype == np.float32 and got.flags.c_contiguous
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def test_shrinking_is_antialiased():
    picture = np.zeros((224, 8 * 224, 3), np.uint8)
    picture[:, ::8] = 255    # one column in eight
    assert abs((prepare(picture, 'lite0') * 128 + 127)[:, 2:-2] - 255 / 8).max() < 2


def test_a_picture_of_the_right_size_stays_as_it_is():
    picture = np.random.default_rng(0).integers(0, 256, (224, 224, 3)).astype(np.uint8)
    np.testing.assert_array_equal(prepare(picture, 'lite0'), (picture - np.float32(127)) / 128)


def test_another_network_is_an_error_that_lists_the_known_ones():
    with pytest.raises(InputError, match='resnet.*vgg16, vgg19, lite0'):
        prepare(np.zeros((1, 1, 3), np.uint8), 'resnet')


def test_the_description_can_be_written_down():
    assert json.loads(json.dumps(PREPROCESSING)) == PREPROCESSING


def test_names_of_pictures_end_as_pillow_knows_them():
    Image.init()
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS}
    assert {suffix for suffix in SUFFIXES if suffix not in ('.heic', '.heif', '.avif', '.mpo', '.dib')} <= known

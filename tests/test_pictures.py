"""Pictures of every kind are read correctly; the error for a broken one names it and says what is wrong."""

import os

import numpy as np
import odd_pictures
import pytest
from PIL import Image

from imagernn.errors import InputError
from imagernn.formats.pictures import FORMATS, SUFFIXES, load_picture


@pytest.fixture(scope='module')
def odd(tmp_path_factory):
    folder = tmp_path_factory.mktemp('odd')
    return folder, odd_pictures.make(folder)


INTACT = list(odd_pictures.sound())
BROKEN = [*odd_pictures.broken(), 'folder.jpg', 'nowhere.jpg', 'circle.jpg', 'absent.jpg']


@pytest.mark.parametrize('name', INTACT)
def test_an_odd_picture_has_its_colours_in_the_right_places(odd, name):
    folder, outcomes = odd
    picture = load_picture(folder / name)
    outcome = outcomes[name]
    width, height = outcome.size
    assert picture.shape == (height, width, 3) and picture.dtype == np.uint8
    quarters = [picture[h * height // 4, w * width // 4] for h in (1, 3) for w in (1, 3)]
    np.testing.assert_allclose(np.array(quarters, int), outcome.colours, atol=outcome.off_by)


@pytest.mark.parametrize('name', BROKEN)
def test_the_error_for_a_broken_picture_says_what_is_wrong(odd, name):
    folder, outcomes = odd
    with pytest.raises(InputError) as raised:
        load_picture(folder / name)
    assert all(word in str(raised.value) for word in (str(folder / name), *outcomes[name].words)), raised.value
    assert '; ' in str(raised.value)    # what to do follows


def test_at_least_fifty_pictures_are_tried(odd):
    assert len(odd[1]) >= 50 and set(odd[1]) == {*INTACT, *BROKEN}


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='needs a system with named pipes')
def test_a_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / 'pipe.jpg')
    with pytest.raises(InputError, match='not a regular file'):
        load_picture(tmp_path / 'pipe.jpg')


def test_a_picture_without_read_permission_is_an_error(tmp_path):
    path = tmp_path / 'mine.png'
    Image.new('RGB', (4, 4)).save(path)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip('this user may read every file')
    with pytest.raises(InputError, match='mine.png.*Permission denied'):
        load_picture(path)


def test_an_impossible_file_name_is_an_error():
    with pytest.raises(InputError, match='null'):
        load_picture('a\0b.jpg')


def test_a_half_transparent_picture_is_half_white(tmp_path):
    Image.new('RGBA', (2, 2), (0, 0, 0, 51)).save(tmp_path / 'a.png')
    assert (load_picture(tmp_path / 'a.png') == 204).all()


def test_grey_of_16_bits_is_scaled_not_clipped(tmp_path):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(values).save(tmp_path / 'a.png')
    np.testing.assert_array_equal(load_picture(tmp_path / 'a.png')[..., 0], np.rint(values / 257))


def test_values_that_are_not_finite_are_black(tmp_path):
    Image.fromarray(np.array([[np.nan, 0, .5, 1]], np.float32)).save(tmp_path / 'a.tif')
    assert load_picture(tmp_path / 'a.tif')[0, :, 0].tolist() == [0, 0, 128, 255]
    Image.fromarray(np.array([[-1, 0, 1, np.inf]], np.float32)).save(tmp_path / 'a.tif')
    assert load_picture(tmp_path / 'a.tif')[0, :, 0].tolist() == [0, 128, 255, 128]
    Image.fromarray(np.array([[-3e38, 3e38]], np.float32)).save(tmp_path / 'a.tif')
    assert not load_picture(tmp_path / 'a.tif').any()


def test_pillow_knows_the_suffixes_of_picture_files():
    Image.init()
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS}
    assert {suffix for suffix in SUFFIXES if suffix not in ('.heic', '.heif', '.avif', '.mpo', '.dib')} <= known

"""Pictures are prepared exactly as each network expects them."""

import json

import numpy as np
import pytest
from PIL import Image

from imagernn.convnet.preprocess import PREPROCESSING, description, prepare
from imagernn.errors import InputError


@pytest.mark.parametrize('name', PREPROCESSING)
def test_a_picture_is_prepared_as_the_network_expects(name):
    """The formulas, written out again, for a picture that is reduced along one axis and enlarged along the other."""
    picture = np.random.default_rng(0).integers(0, 256, (100, 300, 3)).astype(np.uint8)
    pixels = np.asarray(Image.fromarray(picture).resize((224, 224), Image.Resampling.BICUBIC), float)
    red, green, blue = np.moveaxis(pixels, -1, 0)
    want = (np.stack([red - 127, green - 127, blue - 127], -1) / 128 if name == 'lite0'
            else np.stack([blue - 103.939, green - 116.779, red - 123.68], -1))
    got = prepare(picture, name)
    assert got.shape == (224, 224, 3) and got.dtype == np.float32 and got.flags.c_contiguous
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def test_reducing_a_picture_is_antialiased():
    picture = np.zeros((224, 8 * 224, 3), np.uint8)
    picture[:, ::8] = 255    # one column in eight
    assert abs((prepare(picture, 'lite0') * 128 + 127)[:, 2:-2] - 255 / 8).max() < 2


def test_a_picture_of_the_right_size_is_not_resized():
    picture = np.random.default_rng(0).integers(0, 256, (224, 224, 3)).astype(np.uint8)
    np.testing.assert_array_equal(prepare(picture, 'lite0'), (picture - np.float32(127)) / 128)


def test_the_error_for_an_unknown_network_lists_the_known_ones():
    with pytest.raises(InputError, match="unknown network 'resnet'.*vgg16, vgg19, lite0"):
        prepare(np.zeros((1, 1, 3), np.uint8), 'resnet')


@pytest.mark.parametrize('name', PREPROCESSING)
def test_the_description_is_the_preprocessing_as_json(name):
    assert json.loads(description(name)) == PREPROCESSING[name]

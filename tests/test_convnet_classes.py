"""The classes of ImageNet that a network finds, from its features as from the pictures."""

import numpy as np
import pytest

from imagernn.convnet.classes import class_names, classifier_of, described, most_probable
from imagernn.convnet.networks import ARCHITECTURES, VGG_OUTPUTS, Architecture, Layer, Network, vgg, weight_shapes
from imagernn.convnet.weights import without_top
from imagernn.errors import InputError

SIZE = 32
SMALL = {'vgg16': Architecture(vgg((1, 1, 1, 1, 1), widths=(16, 16, 16, 16, 8), hidden=12), VGG_OUTPUTS),
         'lite0': Architecture([Layer('conv', 'head', 12, 3, 2, 'relu6'), Layer('mean', 'pool', 12),
                                ARCHITECTURES['lite0'].layers[-1]], ARCHITECTURES['lite0'].outputs)}


def network_of(name, architecture=None):
    architecture = architecture or SMALL[name]
    rng = np.random.default_rng(0)
    weights = {layer: tuple(rng.normal(0, .2, size).astype(np.float32) for size in (shape, (1, shape[-1])))
               for layer, shape in weight_shapes(architecture.layers, SIZE).items()}
    return Network(name, weights, architecture=architecture, size=SIZE)


@pytest.mark.parametrize('name, layer', [('vgg16', 'fc7'), ('lite0', 'features')])
def test_the_classes_from_features_are_those_of_the_pictures(name, layer):
    network = network_of(name)
    x = np.random.default_rng(1).standard_normal((5, SIZE, SIZE, 3)).astype(np.float32)
    feats, probabilities = network.forward(x, (layer, 'prob'))
    found = classifier_of(network, layer, 12, 3)(feats)
    for classes, row in zip(found, probabilities, strict=True):
        best = np.argsort(-row)[:3]
        assert [each for each, _ in classes] == [class_names()[number] for number in best]
        np.testing.assert_allclose([probability for _, probability in classes], row[best], rtol=1e-4)
    regions_behind = np.hstack([feats, np.ones_like(feats)]).astype(np.float64)
    assert classifier_of(network, layer, 12, 3)(regions_behind) == found


def test_the_most_probable_classes_come_first_and_as_text():
    probabilities = np.zeros((1, 1000))
    probabilities[0, [105, 150, 0]] = .7, .26, .04
    found, = most_probable(probabilities, 2)
    assert found == [('koala', .7), ('sea lion', .26)] and described(found) == 'koala 70%, sea lion 26%'


@pytest.mark.parametrize('network, layer, dim, top, words', [
    (network_of('vgg16', without_top(SMALL['vgg16'])), 'pool5', 8, 3, ['vgg16 lack', '--weights']),
    (network_of('vgg16'), 'fc6', 12, 3, ['the 12 features of its layer fc7', '12 of its layer fc6']),
    (network_of('lite0'), 'features', 7, 3, ['the 12 features', 'not from 7']),
    (network_of('lite0'), 'features', 12, 0, ['0 classes', 'from 1 to 1000'])])
def test_features_without_classes_are_an_input_error(network, layer, dim, top, words):
    with pytest.raises(InputError) as raised:
        classifier_of(network, layer, dim, top)
    assert all(word in str(raised.value) for word in words)

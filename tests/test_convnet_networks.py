"""The fast convolutions against plain ones; each network, layer by layer, against plain layers and against PyTorch."""

import numpy as np
import pytest

from imagernn.convnet import networks, winograd
from imagernn.convnet.layers import conv_forward, same_padding, softmax
from imagernn.convnet.networks import ARCHITECTURES, Architecture, Layer, Network, lite0, vgg, weight_shapes
from imagernn.nn.scratch import Scratch
from imagernn.nn.workers import Workers

SMALL_VGG = vgg((2, 2, 3, 3, 3), widths=(16, 18, 20, 24, 16), hidden=30)
SMALL_LITE0 = [layer for layer in lite0()
               if layer.name in ('stem', 'block0', 'block1', 'block2', 'block3', 'block8', 'head', 'pool', 'fc')]


def random_weights(layers, size, dtype=np.float32, seed=0):
    """Weights that keep the activations at about the same size from layer to layer."""
    rng = np.random.default_rng(seed)
    return {name: ((rng.standard_normal(shape) * (2 / np.prod(shape[:-1])) ** .5).astype(dtype),
                   rng.normal(0, .5, (1, shape[-1])).astype(dtype))
            for name, shape in weight_shapes(layers, size).items()}


def all_outputs(layers):
    return Architecture(layers, {layer.name: layer.name for layer in layers})


def pictures(n, size, dtype=np.float32):
    return np.random.default_rng(1).standard_normal((n, size, size, 3)).astype(dtype)


def plain(layers, weights, x):
    """{layer: its activations}, computed by plain operations."""
    found = {}
    for layer in layers:
        x = found[layer.name] = PLAIN[layer.kind](x, layer, weights)
    return found


def plain_convolution(x, W, b, stride, activation='', groups=1):
    padding = tuple(same_padding(size, W.shape[0], stride) for size in x.shape[1:3])
    y = conv_forward(x, W, b, stride, padding, groups)[0]
    return {'relu': lambda y: y.clip(0), 'relu6': lambda y: y.clip(0, 6), '': lambda y: y}[activation](y)


def plain_mbconv(x, layer, weights):
    y = x
    if layer.expand > 1:
        y = plain_convolution(y, *weights[f'{layer.name}.expand'], 1, 'relu6')
    y = plain_convolution(y, *weights[f'{layer.name}.depthwise'], layer.stride, 'relu6', groups=y.shape[3])
    y = plain_convolution(y, *weights[f'{layer.name}.project'], 1)
    return y + x if layer.stride == 1 and layer.channels == x.shape[3] else y


def plain_affine(x, layer, weights):
    W, b = weights[layer.name]
    y = x.reshape(len(x), -1) @ W + b
    return softmax(y) if layer.activation == 'softmax' else y.clip(0)


PLAIN = {
    'conv': lambda x, layer, weights: plain_convolution(x, *weights[layer.name], layer.stride, layer.activation),
    'mbconv': plain_mbconv,
    'max_pool': lambda x, layer, weights: np.maximum(np.maximum(x[:, ::2, ::2], x[:, 1::2, ::2]),
                                                     np.maximum(x[:, ::2, 1::2], x[:, 1::2, 1::2])),
    'mean': lambda x, layer, weights: x.mean(axis=(1, 2)),
    'affine': plain_affine,
}


@pytest.mark.parametrize('block', [1, 7, 1000])
@pytest.mark.parametrize('shape', [(1, 8, 8, 3, 5), (3, 14, 14, 8, 6), (5, 9, 7, 4, 3), (2, 1, 1, 2, 2),
                                   (1, 30, 13, 5, 7)])
def test_winograd_equals_a_plain_convolution(monkeypatch, shape, block):
    monkeypatch.setattr(winograd, 'BLOCK', block)
    n, h, w, c, m = shape
    rng = np.random.default_rng(0)
    x, W, b = rng.standard_normal((n, h, w, c)), rng.standard_normal((3, 3, c, m)), rng.standard_normal((1, m))
    expected = plain_convolution(x, W, b, 1, 'relu')
    scratch = Scratch()
    for name in ('padded', 'half', 'spare', 'patches', 'products', 'whole'):
        scratch(name, 40_000, x.dtype)[:] = np.nan                   # old contents must not matter
    U = winograd.transform_filters(W)
    out = winograd.convolve_relu(x, U, b, np.full((n, h, w, m), np.nan), scratch)
    np.testing.assert_allclose(out, expected, atol=1e-11)
    x, b = x.astype(np.float32), b.astype(np.float32)
    U = winograd.transform_filters(W.astype(np.float32))
    out = winograd.convolve_relu(x, U, b, np.empty((n, h, w, m), np.float32), Scratch())
    assert U.dtype == out.dtype == np.float32
    np.testing.assert_allclose(out, expected, atol=1e-5 * max(1, expected.max()))


@pytest.mark.parametrize('layers, size', [(SMALL_VGG, 64), (SMALL_LITE0, 48)])
def test_a_network_equals_plain_layers_layer_by_layer(layers, size):
    weights, x = random_weights(layers, size, np.float64), pictures(3, size, np.float64)
    network = Network('small', weights, architecture=all_outputs(layers), size=size)
    for name, expected in plain(layers, weights, x).items():
        np.testing.assert_allclose(network.forward(x, name), expected, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize('layers, size', [(SMALL_VGG, 64), (SMALL_LITE0, 48)])
def test_results_depend_neither_on_threads_nor_on_the_other_pictures(layers, size):
    network = Network('small', random_weights(layers, size), architecture=all_outputs(layers), size=size)
    x, before = pictures(11, size), pictures(11, size)
    last = layers[-1].name
    alone = np.concatenate([network.forward(x[i:i + 1], last) for i in range(len(x))])
    assert alone.dtype == np.float32
    np.testing.assert_allclose(alone.sum(axis=1), 1, rtol=1e-5)
    for threads in (1, 2, 3):
        workers = Workers(threads)
        np.testing.assert_allclose(network.forward(x, last, workers), alone, rtol=1e-4, atol=1e-7)
        again = network.forward(x, last, workers)
        np.testing.assert_array_equal(network.forward(x, last, workers), again)
    np.testing.assert_array_equal(x, before)


def test_results_belong_to_the_caller():
    """The next call does not overwrite them."""
    network = Network('small', random_weights(SMALL_VGG, 32), architecture=all_outputs(SMALL_VGG), size=32)
    x = pictures(2, 32)
    for name in ('conv1_1', 'pool1', 'conv3_2', 'fc6'):
        first = network.forward(x, name)
        kept = first.copy()
        network.forward(-x, name)
        np.testing.assert_array_equal(first, kept)


def test_a_shift_is_added_to_the_picture_but_not_to_its_padding():
    layers = SMALL_VGG[:1]
    weights, x = random_weights(layers, 8, np.float64), pictures(1, 8, np.float64)
    shift = np.array([.5, -1, 2])
    shifted = Network('small', weights, shift=shift, architecture=all_outputs(layers), size=8)
    network = Network('small', weights, architecture=all_outputs(layers), size=8)
    np.testing.assert_allclose(shifted.forward(x, 'conv1_1'), network.forward(x + shift, 'conv1_1'), rtol=1e-12)


@pytest.mark.parametrize('name, parameters', [('vgg16', 138_357_544), ('vgg19', 143_667_240)])
def test_vgg_has_as_many_parameters_as_in_the_paper(name, parameters):
    shapes = weight_shapes(ARCHITECTURES[name].layers)
    assert sum(np.prod(shape) + shape[-1] for shape in shapes.values()) == parameters
    assert shapes['conv5_1'] == (3, 3, 512, 512)
    assert shapes['fc6'] == (25088, 4096)
    assert sum(layer.kind != 'max_pool' for layer in ARCHITECTURES[name].layers) == int(name[3:])


def test_lite0_has_as_many_parameters_as_its_release():
    shapes = weight_shapes(ARCHITECTURES['lite0'].layers)
    normalized = sum(shape[-1] for name, shape in shapes.items() if name != 'fc')
    folded = sum(np.prod(shape) + shape[-1] for shape in shapes.values())
    assert folded + normalized == 4_652_008    # folding leaves one of two parameters
    assert shapes['block5.depthwise'] == (3, 3, 1, 240)
    assert shapes['block15.project'] == (1, 1, 1152, 320)


def test_outputs_and_their_defaults():
    for name, outputs in (('vgg16', {'fc7', 'fc6', 'pool5', 'prob'}), ('lite0', {'features', 'grid', 'prob'})):
        assert set(ARCHITECTURES[name].outputs) == outputs
    network = Network('vgg16', random_weights(SMALL_VGG, 32), 'abc', size=32,
                      architecture=Architecture(SMALL_VGG, networks.VGG_OUTPUTS))
    assert (network.default_output, network.checksum, network.size) == ('fc7', 'abc', 32)
    shapes = {output: network.forward(pictures(2, 32), output).shape for output in network.outputs}
    assert shapes == {'fc7': (2, 30), 'fc6': (2, 30), 'pool5': (2, 1, 1, 16), 'prob': (2, 1000)}
    np.testing.assert_array_equal(network.forward(pictures(2, 32)), network.forward(pictures(2, 32), 'fc7'))
    names = ('prob', 'pool5', 'fc6', 'prob')
    for name, found in zip(names, network.forward(pictures(2, 32), names), strict=True):
        np.testing.assert_array_equal(found, network.forward(pictures(2, 32), name))


def test_pictures_of_another_size_are_refused():
    network = Network('small', random_weights(SMALL_VGG[:1], 8), architecture=all_outputs(SMALL_VGG[:1]), size=8)
    with pytest.raises(ValueError, match=r'shape \(1, 9, 8, 3\); expected \(n, 8, 8, 3\)'):
        network.forward(np.zeros((1, 9, 8, 3), np.float32))


def test_convolutions_that_winograd_cannot_do_are_computed_directly():
    layers = [Layer('conv', 'a', 16, 3, 2, 'relu'), Layer('conv', 'b', 16, 3, 1, ''),
              Layer('conv', 'c', 16, 5, 1, 'relu')]
    weights, x = random_weights(layers, 9, np.float64), pictures(2, 9, np.float64)
    network = Network('small', weights, architecture=all_outputs(layers), size=9)
    np.testing.assert_allclose(network.forward(x, 'c'), plain(layers, weights, x)['c'], rtol=1e-10)


# ---- against PyTorch

def torch_network(layers, weights, x):
    """{layer: its activations}, by PyTorch's modules with the same weights."""
    import torch
    from torch import nn

    def module(W, b, stride=1, groups=1):
        made = nn.Conv2d(W.shape[2] * groups, W.shape[3], W.shape[:2], stride, groups=groups)
        load(made, W.transpose(3, 2, 0, 1), b)
        return made

    def load(made, W, b):
        with torch.no_grad():
            made.weight.copy_(torch.from_numpy(np.ascontiguousarray(W)))
            made.bias.copy_(torch.from_numpy(b[0]))

    def convolve(y, W, b, stride=1, groups=1):
        (top, bottom), (left, right) = (same_padding(size, W.shape[0], stride) for size in y.shape[2:])
        return module(W, b, stride, groups)(nn.functional.pad(y, (left, right, top, bottom)))

    y = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    found = {}
    with torch.no_grad():
        for layer in layers:
            before = y
            if layer.kind == 'conv':
                y = convolve(y, *weights[layer.name], layer.stride)
                y = nn.ReLU()(y) if layer.activation == 'relu' else nn.ReLU6()(y)
            elif layer.kind == 'mbconv':
                if layer.expand > 1:
                    y = nn.ReLU6()(convolve(y, *weights[f'{layer.name}.expand']))
                y = nn.ReLU6()(convolve(y, *weights[f'{layer.name}.depthwise'], layer.stride, y.shape[1]))
                y = convolve(y, *weights[f'{layer.name}.project'])
                y = y + before if layer.stride == 1 and before.shape == y.shape else y
            elif layer.kind == 'max_pool':
                y = nn.MaxPool2d(2)(y)
            elif layer.kind == 'mean':
                y = nn.AdaptiveAvgPool2d(1)(y)
            else:
                W, b = weights[layer.name]
                dense = nn.Linear(*W.shape)
                load(dense, W.T, b)
                y = dense(y.permute(0, 2, 3, 1).flatten(1) if y.ndim == 4 else y)
                y = nn.ReLU()(y) if layer.activation == 'relu' else nn.Softmax(dim=1)(y)
            found[layer.name] = y.numpy() if y.ndim == 2 else y.permute(0, 2, 3, 1).numpy()
    return found


@pytest.mark.parametrize('layers, size', [(SMALL_VGG, 64), (lite0(), 224)])
def test_a_network_equals_pytorchs_layer_by_layer(layers, size):
    pytest.importorskip('torch', reason='needs PyTorch, from the extra [bench]')
    weights, x = random_weights(layers, size), pictures(2, size)
    network = Network('random', weights, architecture=all_outputs(layers), size=size)
    for name, expected in torch_network(layers, weights, x).items():
        found = network.forward(x, name)
        assert np.abs(found - expected.reshape(found.shape)).max() <= 1e-4 * np.abs(expected).max(), name

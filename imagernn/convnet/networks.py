"""VGG-16, VGG-19 and EfficientNet-Lite0 as tables of layers, and the code that runs them: forward only, made for speed.

Knows nothing of files: weights come as arrays with batch normalization folded into them, pictures as prepared pixels
(n, size, size, 3). Each thread takes a few pictures through all layers before the fully connected ones. Those have so
many weights that they should be read only once for all pictures: there each thread computes a part of the outputs.
"""

from typing import NamedTuple

import numpy as np

from imagernn.convnet.layers import conv_forward, max_pool_forward, relu6, same_padding, softmax
from imagernn.convnet.winograd import convolve_relu, transform_filters
from imagernn.nn.layers import affine_forward
from imagernn.nn.workers import Workers

SIZE = 224                 # rows, and columns, of a picture
CHANNELS = 3
CLASSES = 1000             # of ImageNet
PICTURES = 4               # per thread at once: more than one makes the matrix products of the small last layers faster
WINOGRAD_CHANNELS = 16     # with fewer input channels, a convolution is faster as one matrix product


class Layer(NamedTuple):
    """One row of a table. Convolutions have TensorFlow's "same" padding, which gives ⌈h / stride⌉ rows."""

    kind: str                 # a key of KINDS
    name: str                 # also the name of its weights
    channels: int = 0         # of the output
    kernel: int = 1
    stride: int = 1
    activation: str = ''      # a key of ACTIVATIONS
    expand: int = 1           # for 'mbconv': the factor by which it expands the channels inside


def vgg(depths, widths=(64, 128, 256, 512, 512), hidden=4096):
    """A VGG: stages of 3 × 3 convolutions, as many as depths says, and a max pool; then three fully connected layers.

    (Simonyan & Zisserman 2015)
    """
    layers = []
    for stage, (depth, channels) in enumerate(zip(depths, widths, strict=True), 1):
        layers += [Layer('conv', f'conv{stage}_{i + 1}', channels, 3, 1, 'relu') for i in range(depth)]
        layers += [Layer('max_pool', f'pool{stage}', channels, 2, 2)]
    return [*layers,
            Layer('affine', 'fc6', hidden, activation='relu'),
            Layer('affine', 'fc7', hidden, activation='relu'),
            Layer('affine', 'fc8', CLASSES, activation='softmax')]


def lite0():
    """EfficientNet-Lite0: inverted bottlenecks without squeeze-and-excitation. (Tan & Le 2019; Liu 2020)"""
    stages = [    # expand, kernel, stride, channels, repeats
        (1, 3, 1, 16, 1),
        (6, 3, 2, 24, 2),
        (6, 5, 2, 40, 2),
        (6, 3, 2, 80, 3),
        (6, 5, 1, 112, 3),
        (6, 5, 2, 192, 4),
        (6, 3, 1, 320, 1),
    ]
    blocks = [(channels, kernel, stride if i == 0 else 1, 'relu6', expand)
              for expand, kernel, stride, channels, repeats in stages for i in range(repeats)]
    return [Layer('conv', 'stem', 32, 3, 2, 'relu6'),
            *(Layer('mbconv', f'block{i}', *block) for i, block in enumerate(blocks)),
            Layer('conv', 'head', 1280, 1, 1, 'relu6'),
            Layer('mean', 'pool', 1280),
            Layer('affine', 'fc', CLASSES, activation='softmax')]


class Architecture(NamedTuple):
    """A table of layers, and the outputs that it offers."""

    layers: list
    outputs: dict    # {output: layer}; the first one is the default


VGG_OUTPUTS = {'fc7': 'fc7', 'fc6': 'fc6', 'pool5': 'pool5', 'prob': 'fc8'}
ARCHITECTURES = {
    'vgg16': Architecture(vgg((2, 2, 3, 3, 3)), VGG_OUTPUTS),
    'vgg19': Architecture(vgg((2, 2, 4, 4, 4)), VGG_OUTPUTS),
    'lite0': Architecture(lite0(), {'features': 'pool', 'grid': 'head', 'prob': 'fc'}),
}


def weight_shapes(layers, size=SIZE):
    """The shapes of all weights that a table needs: {name: shape of W}. Each W has a bias of shape (1, W.shape[-1]).

    Convolutions are (kernel, kernel, channels, filters); depthwise ones (kernel, kernel, 1, channels); fully connected
    layers (inputs, outputs), with the inputs of a grid in the order rows, columns, channels. A layer of kind 'mbconv'
    has up to three weights: name.expand, name.depthwise, name.project.
    """
    shapes = {}
    c = CHANNELS
    for layer in layers:
        if layer.kind == 'conv':
            shapes[layer.name] = (layer.kernel, layer.kernel, c, layer.channels)
        elif layer.kind == 'mbconv':
            inside = c * layer.expand
            if layer.expand > 1:
                shapes[f'{layer.name}.expand'] = (1, 1, c, inside)
            shapes[f'{layer.name}.depthwise'] = (layer.kernel, layer.kernel, 1, inside)
            shapes[f'{layer.name}.project'] = (1, 1, inside, layer.channels)
        elif layer.kind == 'affine':
            shapes[layer.name] = (size * size * c, layer.channels)
        c = layer.channels
        size = 1 if layer.kind in ('mean', 'affine') else -(-size // layer.stride)
    return shapes


class Network:
    """A network with its weights: forward() gives the activations of a layer for prepared pictures.

    weights: {name: (W, b)}, of the shapes given by weight_shapes. checksum: of their file. shift: (3,) or None, what
    has to be added to each pixel of a prepared picture for these weights, but not to the zero padding around it.
    The attribute classifier is the pair (W (D, classes), b) that turns the default output (n, D) into the scores of the
    classes, or None in a network without fully connected layers.
    """

    def __init__(self, name, weights, checksum=None, shift=None, architecture=None, size=SIZE):
        self.name = name
        self.checksum = checksum
        self.size = size
        self.layers, self._layer_of = architecture or ARCHITECTURES[name]
        self.outputs = list(self._layer_of)
        self.default_output = self.outputs[0]
        self.classifier = weights.get(self._layer_of.get('prob'))
        self._shift = shift
        self._steps = [KINDS[layer.kind](layer, weights) for layer in self.layers]
        self._alone = Workers()

    def forward(self, x, output=None, workers=None):
        """The activations called output (None: default_output) for prepared pictures x (n, size, size, 3).

        They have x's dtype and are (n, h, w, channels) for a grid, else (n, features); 'prob' gives the probabilities
        of the classes. For a tuple of names the result is a list, computed in one pass. workers: a nn.workers.Workers,
        whose threads share the work; None uses this thread alone. Raises ValueError for pictures of another size, and
        KeyError for an unknown output.
        """
        if x.shape[1:] != (self.size, self.size, CHANNELS):
            raise ValueError(f'pictures of shape {x.shape}; expected (n, {self.size}, {self.size}, {CHANNELS})')
        workers = workers or self._alone
        names = output if isinstance(output, tuple) else (output or self.default_output,)
        wanted = [self._layer_of[name] for name in names]
        last = max(i for i, layer in enumerate(self.layers) if layer.name in wanted)
        convolutional = [i for i in range(last + 1) if self.layers[i].kind != 'affine']
        top = convolutional[-1]
        kept = [i for i in convolutional if i == top or self.layers[i].name in wanted]
        activations = self._convolutional_part(x, convolutional, kept, workers)
        found = {self.layers[i].name: array for i, array in zip(kept, activations, strict=True)}
        x = found[self.layers[top].name]
        if last > top:
            x = x.reshape(len(x), -1)                                           # (n, features)
        for i in range(top + 1, last + 1):
            x = found[self.layers[i].name] = self._steps[i](x, workers)
        results = [found[layer] for layer in wanted]
        return results if isinstance(output, tuple) else results[0]

    def _convolutional_part(self, x, numbers, kept, workers):
        """Run the layers with these numbers, a few pictures per thread. Returns the activations of those in kept."""
        threads = len(workers.scratches)
        at_once = max(1, min(PICTURES, -(-len(x) // threads)))

        def run(start):
            with workers.scratch() as scratch:
                y = x[start:start + at_once]
                results = []
                if self._shift is not None:
                    y = y + self._shift
                for i in numbers:
                    y = self._steps[i](y, scratch, f'result{i % 2}')    # the next step but one may overwrite it
                    if i in kept:
                        results.append(y.copy())
                return results

        parts = workers.map(run, range(0, len(x), at_once))
        return [np.concatenate(layer_parts) for layer_parts in zip(*parts, strict=True)]


def convolution(x, W, b, stride, activation, scratch, name, groups=1):
    """The activation of x ⋆ W + b, "same"-padded, as the scratch array `name`: (n, ⌈h / stride⌉, ⌈w / stride⌉, m)."""
    n, h, w, _ = x.shape
    padding = tuple(same_padding(size, kernel, stride) for size, kernel in zip((h, w), W.shape[:2], strict=True))
    out = scratch(name, (n, -(-h // stride), -(-w // stride), W.shape[3]), x.dtype)
    conv_forward(x, W, b, stride, padding, groups, scratch, out)
    return ACTIVATIONS[activation](out)


def conv(layer, weights):
    """A step for a convolution: (x, scratch, the name in scratch for the result) -> result."""
    W, b = weights[layer.name]
    if W.shape[:2] == (3, 3) and layer.stride == 1 and layer.activation == 'relu' and W.shape[2] >= WINOGRAD_CHANNELS:
        U = transform_filters(W)
        return lambda x, scratch, name: convolve_relu(
            x, U, b, scratch(name, (*x.shape[:3], layer.channels), x.dtype), scratch)
    return lambda x, scratch, name: convolution(x, W, b, layer.stride, layer.activation, scratch, name)


def mbconv(layer, weights):
    """A step for an inverted bottleneck: expand (1 × 1), filter each channel, project (1 × 1).

    The input is added to the result if their shapes are equal.
    """
    expand, depthwise, project = (weights.get(f'{layer.name}.{part}') for part in ('expand', 'depthwise', 'project'))

    def step(x, scratch, name):
        y = x if expand is None else convolution(x, *expand, 1, layer.activation, scratch, 'expanded')
        y = convolution(y, *depthwise, layer.stride, layer.activation, scratch, 'filtered', groups=y.shape[3])
        y = convolution(y, *project, 1, '', scratch, name)
        if y.shape == x.shape:
            y += x
        return y

    return step


def max_pool(layer, weights):
    return lambda x, scratch, name: max_pool_forward(x, layer.kernel, layer.stride, scratch=scratch)[0]


def mean(layer, weights):
    return lambda x, scratch, name: x.mean(axis=(1, 2))


def affine(layer, weights):
    """A step for a fully connected layer, for all pictures at once: (x (n, features), workers) -> (n, channels)."""
    W, b = weights[layer.name]

    def step(x, workers):
        m = layer.channels
        parts = workers.num_parts
        out = np.empty((len(x), m), x.dtype)                                    # (n, channels)
        columns = [slice(m * i // parts, m * (i + 1) // parts) for i in range(parts)]
        for _ in workers.map(lambda part: affine_forward(x, W[:, part], b[:, part], out=out[:, part]), columns):
            pass
        return ACTIVATIONS[layer.activation](out)

    return step


KINDS = {'conv': conv, 'mbconv': mbconv, 'max_pool': max_pool, 'mean': mean, 'affine': affine}
ACTIVATIONS = {
    '': lambda y: y,
    'relu': lambda y: np.clip(y, 0, np.inf, out=y),    # three times as fast as np.maximum(y, 0)
    'relu6': lambda y: relu6(y, out=y),
    'softmax': softmax,
}

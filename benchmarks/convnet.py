"""Compare the convolutional networks with PyTorch on a CPU, in one process, with the same random weights.

    python benchmarks/convnet.py [--jobs vgg16:8,vgg16:1,lite0:8,lite0:32] [--pairs 7] [--check_only]

A job is a network and a number of pictures at once. First, both sides must agree on every layer. Then pairs are timed:
each side runs once, from pictures to features (fc7 for VGG), and the side that goes first alternates. The ratio of a
job is the median ratio of its pairs; above 1, ours is faster. Prints a Markdown table, and the peak memory of a process
that loads VGG-16 from a file and extracts features.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))    # a checkout need not be installed

from imagernn.nn.blas import NUM_THREADS  # before numpy

# isort: split
import machine
import numpy as np
from compare import WARM_UP, summary
from machine import seconds_of
from report import require

from imagernn.convnet.layers import same_padding
from imagernn.convnet.networks import ARCHITECTURES, SIZE, Architecture, Network, weight_shapes
from imagernn.convnet.weights import load_network
from imagernn.errors import InputError, script
from imagernn.nn.workers import Workers

JOBS = 'vgg16:8,vgg16:1,lite0:8,lite0:32'
THREADS = 2             # of either side
SAME = 1e-4             # the largest difference from PyTorch that is accepted, relative to a layer's largest activation
MEMORY_PICTURES = 16    # pictures at once, where memory is measured


@script
def main(argv=None):
    args = parse(argv)
    if args.memory_of:
        print(peak_memory(args.memory_of))
        return 0
    for package in ('torch', 'threadpoolctl'):
        require(package)
    import torch

    torch.set_num_threads(THREADS)
    print('machine:', machine.describe(machine.Products()))
    for name in dict.fromkeys([name for name, _ in args.jobs] + ['vgg19'] * args.check_only):
        print(f'{name}: differs from PyTorch by at most {check(name):.1e} of a layer\'s largest activation')
    if args.check_only:
        return 0
    print('\n| network | pictures at once | ours, ms per picture | PyTorch, ms per picture | times as fast |\n'
          '|---|---|---|---|---|')
    for name, pictures in args.jobs:
        print(job_line(name, pictures, *measure(name, pictures, args.pairs)), flush=True)
    print(f'\nPeak memory of VGG-16, loaded from .npz, with {MEMORY_PICTURES} pictures at once: '
          f'{memory() / 1e9:.2f} GB')
    return 0


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--jobs', default=JOBS,
                        help=f'What to time, separated by commas: each is network:pictures at once (default: {JOBS}).')
    parser.add_argument('--pairs', type=int, default=7,
                        help='The number of pairs per job that are timed (default: 7). More give a steadier median.')
    parser.add_argument('--check_only', action='store_true',
                        help='Check that both sides agree, VGG-19 included, and time nothing.')
    parser.add_argument('--memory_of', help=argparse.SUPPRESS)    # used by memory()
    args = parser.parse_args(argv)
    jobs = [job.partition(':') for job in args.jobs.split(',')]
    for name, _, pictures in jobs:
        if name not in ARCHITECTURES or not pictures.isdecimal() or not int(pictures):
            raise InputError(f'--jobs {args.jobs}: expected network:pictures, with a network of '
                             f'{", ".join(ARCHITECTURES)}')
    if args.pairs < 1:
        raise InputError(f'--pairs {args.pairs}: must be at least 1')
    args.jobs = [(name, int(pictures)) for name, _, pictures in jobs]
    return args


def random_weights(name):
    """Random weights that keep the activations at about the same scale from layer to layer: {layer: (W, b)}."""
    rng = np.random.default_rng(0)
    return {layer: (rng.standard_normal(shape, np.float32) * np.float32(2 / np.prod(shape[:-1])) ** .5,
                    rng.standard_normal((1, shape[-1]), np.float32))
            for layer, shape in weight_shapes(ARCHITECTURES[name].layers).items()}


def random_pictures(count):
    """Preprocessed pictures of noise, (count, SIZE, SIZE, 3)."""
    return np.random.default_rng(1).standard_normal((count, SIZE, SIZE, 3), np.float32)


class Peer:
    """The same network in PyTorch, with channels last."""

    def __init__(self, layers, weights):
        import torch

        self.torch, self.layers = torch, layers
        self.weights = {}
        for name, (W, b) in weights.items():
            W = torch.from_numpy(np.ascontiguousarray(W.transpose(3, 2, 0, 1) if W.ndim == 4 else W.T))
            self.weights[name] = (W.contiguous(memory_format=torch.channels_last) if W.ndim == 4 else W,
                                  torch.from_numpy(b[0]))

    def pictures(self, x):
        return self.torch.from_numpy(x).permute(0, 3, 1, 2)    # a view: in memory the channels stay last

    def forward(self, x, last, each=None):
        """The activations of the layer named last. each(name, activations) is called for every layer up to it."""
        with self.torch.inference_mode():
            for layer in self.layers:
                x = getattr(self, layer.kind)(x, layer)
                if each:
                    each(layer.name, x.permute(0, 2, 3, 1) if x.ndim == 4 else x)
                if layer.name == last:
                    return x

    def conv(self, x, layer):
        return self._convolve(x, layer.name, layer.stride, layer.activation)

    def mbconv(self, x, layer):
        y = self._convolve(x, f'{layer.name}.expand', 1, 'relu6') if layer.expand > 1 else x
        y = self._convolve(y, f'{layer.name}.depthwise', layer.stride, 'relu6', groups=y.shape[1])
        y = self._convolve(y, f'{layer.name}.project', 1, '')
        return y.add_(x) if y.shape == x.shape else y

    def max_pool(self, x, layer):
        return self.torch.nn.functional.max_pool2d(x, layer.kernel, layer.stride)

    def mean(self, x, layer):
        return x.mean(dim=(2, 3))

    def affine(self, x, layer):
        y = self.torch.nn.functional.linear(x.permute(0, 2, 3, 1).flatten(1) if x.ndim == 4 else x,
                                            *self.weights[layer.name])
        return y.relu_() if layer.activation == 'relu' else y.softmax(dim=1)

    def _convolve(self, x, name, stride, activation, groups=1):
        W, b = self.weights[name]
        functional, kernel = self.torch.nn.functional, W.shape[2]
        (top, bottom), (left, right) = (same_padding(size, kernel, stride) for size in x.shape[2:])
        if top == bottom == left == right:
            y = functional.conv2d(x, W, b, stride, top, groups=groups)
        else:
            y = functional.conv2d(functional.pad(x, (left, right, top, bottom)), W, b, stride, groups=groups)
        return {'relu': self.torch.relu_, 'relu6': lambda y: y.clamp_(0, 6), '': lambda y: y}[activation](y)


def check(name):
    """The largest difference of any layer from PyTorch's. Raises RuntimeError if it is above SAME."""
    layers = ARCHITECTURES[name].layers
    weights = random_weights(name)
    x = random_pictures(2)
    ours = Network(name, weights, architecture=Architecture(layers, {layer.name: layer.name for layer in layers}))
    differences = {}

    def compare(layer, theirs):
        theirs = theirs.numpy()
        found = ours.forward(x, layer).reshape(theirs.shape)
        differences[layer] = float(np.abs(found - theirs).max() / np.abs(theirs).max())

    peer = Peer(layers, weights)
    peer.forward(peer.pictures(x), layers[-1].name, compare)
    layer = max(differences, key=differences.get)
    if not differences[layer] <= SAME:
        raise RuntimeError(f'{name}: {layer} differs from PyTorch by {differences[layer]:.2g}, more than {SAME:g}')
    return differences[layer]


def measure(name, pictures, pairs):
    """Time both sides in pairs: our seconds and PyTorch's seconds, without the WARM_UP pairs."""
    weights = random_weights(name)
    x = random_pictures(pictures)
    architecture = ARCHITECTURES[name]
    network = Network(name, weights)
    workers = Workers(THREADS)
    peer = Peer(architecture.layers, weights)
    last = architecture.outputs[network.default_output]
    their_x = peer.pictures(x)
    runs = [('ours', lambda: network.forward(x, workers=workers)), ('torch', lambda: peer.forward(their_x, last))]
    seconds = {'ours': [], 'torch': []}
    for i in range(WARM_UP + pairs):
        for who, run in runs[::1 if i % 2 else -1]:
            seconds[who].append(seconds_of(run))
    return seconds['ours'][WARM_UP:], seconds['torch'][WARM_UP:]


def job_line(name, pictures, ours, theirs):
    """A row of the table. ours, theirs: seconds of each pair."""
    ratio = summary([b / a for a, b in zip(ours, theirs, strict=True)])
    ours, theirs = (1e3 / pictures * statistics.median(seconds) for seconds in (ours, theirs))
    return (f'| {name} | {pictures} | {ours:.1f} | {theirs:.1f} | '
            f'{ratio["median"]:.2f} ({ratio["low"]:.2f} to {ratio["high"]:.2f}) |')


def memory():
    """Peak memory in bytes of a new process that loads VGG-16 and extracts features."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'vgg16.npz'
        np.savez(path, **{f'{name}_{part}': array for name, pair in random_weights('vgg16').items()
                          for part, array in zip('Wb', pair, strict=True)})
        result = subprocess.run([sys.executable, __file__, '--memory_of', path], check=True, capture_output=True,
                                text=True)
    return int(result.stdout)


def peak_memory(path):
    """Load VGG-16 from path and extract features: the peak memory of this process, in bytes."""
    load_network(path).forward(random_pictures(MEMORY_PICTURES), workers=Workers(NUM_THREADS))
    status = Path('/proc/self/status')
    if status.exists():    # on Linux, getrusage would include the memory of the parent process
        line, = (line for line in status.read_text(encoding='utf-8').splitlines() if line.startswith('VmHWM:'))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)


if __name__ == '__main__':
    sys.exit(main())

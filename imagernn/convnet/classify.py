"""What a network itself says is in pictures, of ImageNet's 1,000 classes: python -m imagernn.convnet.classify a.jpg

The quickest way to see that weights and pictures are read rightly, before features are made of them.
"""

import argparse
import sys
from pathlib import Path

from imagernn.nn.blas import NUM_THREADS  # before numpy

# isort: split
import numpy as np

from imagernn.convnet.extraction import extract, open_network
from imagernn.convnet.sources import expanded
from imagernn.errors import InputError, script
from imagernn.nn.workers import Workers

CLASSES = Path(__file__).with_name('imagenet_classes.txt')


def class_names():
    """The names of ImageNet's classes, in the order of the networks' output 'prob': a list of 1,000."""
    lines = CLASSES.read_text(encoding='utf-8').splitlines()
    return [line for line in lines if not line.startswith('#')]


def build_parser():
    parser = argparse.ArgumentParser(prog='python -m imagernn.convnet.classify',
                                     description="Name ImageNet's classes that a network sees in pictures.")
    add = parser.add_argument
    add('pictures', nargs='+', help='pictures, and folders of pictures')
    add('--weights', default=None, help='weight file of the network (default: the installed lite0, [lite0])')
    add('--top', type=int, default=5, help='how many classes of each picture (default: %(default)s)')
    add('--num_threads', type=int, default=NUM_THREADS,
        help='threads that share out the pictures (default: %(default)s)')
    return parser


@script
def main(argv=None):
    args = build_parser().parse_args(argv)
    for name in ('top', 'num_threads'):
        if getattr(args, name) < 1:
            raise InputError(f'--{name} {getattr(args, name)}: must be at least 1')
    names, network = class_names(), open_network(args.weights, None)
    if 'prob' not in network.outputs:
        raise InputError(f'{args.weights}: holds no fully connected layers, so it knows no classes; name a whole one')
    paths = [path for name in args.pictures for path in expanded(Path(name))]
    num_read = 0
    for numbers, arrays, broken in extract(paths, network, 'prob', Workers(args.num_threads)):
        for _, error in broken:
            print(f'skipped: {error}', file=sys.stderr)
        for i, probabilities in zip(numbers, arrays.get('feats', ()), strict=True):
            best = np.argsort(-probabilities, kind='stable')[:args.top]
            print(f'{paths[i]}: ' + ', '.join(f'{names[c]} {probabilities[c]:.0%}' for c in best), flush=True)
        num_read += len(numbers)
    if not num_read:
        raise InputError(f'none of the {len(paths)} pictures can be read; what is wrong stands above')
    return 0


if __name__ == '__main__':
    sys.exit(main())

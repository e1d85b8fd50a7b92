"""Classify pictures with a pretrained network: python -m imagernn.convnet.classify a.jpg

Prints the most probable of ImageNet's 1,000 classes. This is the quickest way to see that weights and pictures are
read correctly, before features are extracted from them.
"""

import argparse
import sys
from pathlib import Path

from imagernn.errors import InputError, loading, script
from imagernn.nn.blas import NUM_THREADS


def build_parser():
    parser = argparse.ArgumentParser(prog='imagernn classify',
                                     description='Classify pictures with a pretrained network.')
    add = parser.add_argument
    add('pictures', nargs='+', help='Pictures, and folders of pictures.')
    add('--weights', default=None,
        help='The weight file of the network: .h5 (Keras), .mat (MatConvNet), .npz, .pth (torchvision), .caffemodel or '
             '.onnx. Give one to check it before you extract features with it (default: the weights of lite0 that the '
             'extra [lite0] installs).')
    add('--top', type=int, default=5, help='How many classes to print for each picture (default: %(default)s).')
    add('--num_threads', type=int, default=NUM_THREADS,
        help='How many threads share the pictures. Lower it to leave cores to other programs (default: %(default)s).')
    return parser


with loading(__name__, build_parser):    # --help does not wait for these
    from imagernn.convnet.classes import class_names, described, most_probable  # noqa: F401  class_names: for others
    from imagernn.convnet.extraction import extract, open_network
    from imagernn.convnet.sources import expanded
    from imagernn.nn.workers import Workers


@script
def main(argv=None):
    args = build_parser().parse_args(argv)
    for name in ('top', 'num_threads'):
        if getattr(args, name) < 1:
            raise InputError(f'--{name} {getattr(args, name)}: must be at least 1')
    network = open_network(args.weights, None)
    if 'prob' not in network.outputs:
        raise InputError(f'{args.weights}: holds no fully connected layers, so that it cannot classify; name a file '
                         'with all layers of the network')
    paths = [path for name in args.pictures for path in expanded(Path(name))]
    num_read = 0
    for numbers, arrays, broken in extract(paths, network, 'prob', Workers(args.num_threads)):
        for _, error in broken:
            print(f'skipped: {error}', file=sys.stderr)
        classes = most_probable(arrays['feats'], args.top) if numbers else []
        for i, found in zip(numbers, classes, strict=True):
            print(f'{paths[i]}: {described(found)}', flush=True)
        num_read += len(numbers)
    if not num_read:
        raise InputError(f'none of the {len(paths)} pictures can be read, for the reasons printed above; name other '
                         'pictures')
    return 0


if __name__ == '__main__':
    sys.exit(main())

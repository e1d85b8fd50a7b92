"""Measure features imagined from words: do the features made from a photo's captions find that photo?

    python benchmarks/imagined.py --dataset data/flickr8k --features lite0_feats.h5 --photos data/photos \
        --photo_features lite0_feats.h5

The data set shows how words and features go together, as in data/pictures_from_words.py. The photos are another data
set, with captions and features of the same network, none of which is used before. Each draw takes 80 photos; features
are imagined from the captions of each, and all 80 photos are ranked by the cosine similarity of mean-centred features.
Printed are the shares of photos that their captions find at the first place, and among the first five, for the parts
of the formula alone and together, averaged over the draws.
"""

import argparse
import importlib.util
import json
import sys
from pathlib import Path

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))    # a checkout need not be installed

import imagernn.nn.blas  # noqa: F401  before numpy

# isort: split
import numpy as np

from imagernn.convnet import imagined
from imagernn.convnet.classes import class_names
from imagernn.corpus.captioned_images import getDataProvider
from imagernn.errors import InputError, script

SCRIPT = Path(__file__).resolve().parents[1] / 'data' / 'pictures_from_words.py'
WAYS = {    # (whether the regression takes part, the strength of the classes, the share of the residual)
    'regression alone': (True, 0, 0),
    'classes alone': (False, 1, 0),
    'regression and classes': (True, 1, 0),
    'with the residual of another picture': (True, 1, .8),
}


@script
def main(argv=None):
    args = build_parser().parse_args(argv)
    maker = load_maker()
    flags = maker.build_parser().parse_args(['--dataset', str(args.dataset), '--captions', '-', '--output', '-',
                                             *(['--features', args.features] if args.features else []),
                                             *(['--weights', args.weights] if args.weights else [])])
    data = maker.read_real(flags)
    directions = maker.classifier_directions(args.weights, data.provider.features)
    world = maker.learn(flags, data, imagined.read_table(imagined.TABLE, class_names()), directions)
    captions, photos = photos_of(args.photos.resolve(), args.photo_features)
    if len(photos) < args.among:
        raise InputError(f'{args.photos}: has {len(photos)} photos, and --among is {args.among}; give a smaller number')
    if photos.shape[1] != data.provider.features.dim:
        raise InputError(f'{args.photos}: features of size {photos.shape[1]}, but those of {args.dataset} have '
                         f'{data.provider.features.dim}; extract both with the same network')
    found = {}
    for name, way in WAYS.items():
        places = []
        for rng in map(np.random.default_rng, range(args.draws)):
            chosen = rng.permutation(len(photos))[:args.among]
            places.append(places_of(made(world, data, [captions[i] for i in chosen], way, rng), photos[chosen]))
        found[name] = [float(np.mean(np.array(places) < first)) for first in (1, 5)]
        print(f'{name:40}first {found[name][0]:6.1%}    first five {found[name][1]:6.1%}', flush=True)
    print(json.dumps({'photos': len(photos), 'among': args.among, 'draws': args.draws, 'found': found}))
    return 0


def build_parser():
    parser = argparse.ArgumentParser(description='Measure features imagined from words.')
    add = parser.add_argument
    add('--dataset', type=Path, required=True, help='The folder of the data set that the formula learns from.')
    add('--features', default=None, help='Its feature file (default: vgg_feats.mat, .h5 or .npy there).')
    add('--photos', type=Path, required=True, help='The folder of a data set with other photos.')
    add('--photo_features', default=None, help='Its feature file (default: vgg_feats.mat, .h5 or .npy there).')
    add('--weights', default=None, help='The weight file of the network (default: the installed weights of lite0).')
    add('--among', type=int, default=80, help='How many photos are ranked at once (default: %(default)s).')
    add('--draws', type=int, default=40, help='How many draws of so many photos (default: %(default)s).')
    return parser


def load_maker():
    """The script data/pictures_from_words.py as a module."""
    spec = importlib.util.spec_from_file_location('pictures_from_words', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def photos_of(folder, features):
    """The captions of all photos of a data set, lists of lists of tokens, and their features (n, D)."""
    provider = getDataProvider(folder.name, folder.parent, features)
    images = [image for split in provider.getSplitSizes() for image in provider.iterImages(split)]
    captions = [[sentence['tokens'] for sentence in image['sentences']] for image in images]
    return captions, provider.features.rows([image['imgid'] for image in images], np.float64)


def made(world, data, captions, way, rng):
    """Features (n, D) imagined from the captions of n photos in one of WAYS."""
    with_regression, strength, residual = way
    regression = world.regression if with_regression else world.regression._replace(B=0 * world.regression.B)
    weights = [imagined.draw_classes(imagined.named_terms(each, world.table), world.table, rng) for each in captions]
    donors = rng.integers(len(world.imgids), size=len(captions))
    real = data.provider.features.rows(world.imgids[donors], np.float64)        # (n, D)
    residuals = residual * (real - world.regression.predict(world.X[donors]))
    X = imagined.shares_of(captions, regression.column_of)
    return imagined.imagine(regression, X, weights, world.directions, residuals, strength * world.strength)


def places_of(features, photos):
    """At which place, from 0, each photo is among all (n, D) for the features (n, D) from its captions: (n,)."""
    similar = directions_of(features) @ directions_of(photos).T                 # (n captions, n photos)
    return (similar > similar.diagonal()[:, None]).sum(axis=1)


def directions_of(F):
    """Mean-centred rows of length 1."""
    F = F - F.mean(axis=0)
    return F / np.linalg.norm(F, axis=1, keepdims=True)


if __name__ == '__main__':
    sys.exit(main())

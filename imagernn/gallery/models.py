"""The models of an album put to use: photos through the network once, to vectors and captions.

Knows that the captioner and both ranking models take features of the same network. Knows nothing of the index.
"""

from itertools import islice
from typing import NamedTuple

import numpy as np

from imagernn.captioner import features_of, network_of, pretrained_path, regions_of
from imagernn.captioning.evaluate import caption_images
from imagernn.captioning.load import load_captioner
from imagernn.convnet.extraction import (
    BATCH_SIZE,
    NO_REGIONS,
    Regions,
    boxes_of,
    open_network,
    parse_regions,
    prepared_views,
    through_network,
)
from imagernn.convnet.weights import sha256
from imagernn.corpus.features import ORIGIN_OF_REGIONS
from imagernn.errors import InputError
from imagernn.formats.pictures import load_picture
from imagernn.ranking.ranker import Ranker

PRETRAINED = {'sentences': 'ranker_sentences_lite0.h5', 'regions': 'ranker_regions_lite0.h5'}
SEARCH = {'beam_size': 4, 'nbest': 1, 'temperature': 0, 'seed': 0}    # for captions


class Models(NamedTuple):
    """What indexes and searches an album."""

    network: object       # a convnet.networks.Network
    layer: str            # whose activations are the features of whole pictures
    regions: Regions
    captioner: dict       # a checkpoint
    by_sentence: Ranker   # one vector for each photo
    by_region: Ranker     # one for each region
    identity: dict        # checksums; the index is valid for the same ones alone

    @property
    def boxes(self):
        """Where the regions are, (R, 4), as extraction.boxes_of gives them."""
        return boxes_of(self.regions)

    @property
    def width(self):
        """How many numbers a photo takes in the index."""
        return self.by_sentence.dim + len(self.boxes) * self.by_region.dim


class Described(NamedTuple):
    """What the models say of a photo."""

    caption: str
    size: tuple           # its width and height in pixels, upright
    vectors: np.ndarray   # (width,) float16: its vector for sentences, then those of its regions


def load_models(params):
    """The Models that the flags of gallery.flags name.

    Raises InputError for a checkpoint of another kind, and unless all of them take features of the same network,
    layer and regions.
    """
    paths = {kind: params[f'{kind}_ranker'] or pretrained_path(name, f'--{kind}_ranker')
             for kind, name in PRETRAINED.items()}
    path = params['captioner'] or pretrained_path(flag='--captioner')
    rankers = {kind: load_ranker_of(kind, ranker_path) for kind, ranker_path in paths.items()}
    captioner = load_captioner(path, 'float32')
    network, layer = network_of(captioner, path, params['weights'], open_network)
    regions = parse_regions(recorded(rankers['regions'].checkpoint, ORIGIN_OF_REGIONS) or '')
    if regions == NO_REGIONS:
        raise InputError(f'{paths["regions"]}: does not say which regions its features came from; name another '
                         'checkpoint with --regions_ranker')
    if regions_of(captioner, path) not in (NO_REGIONS, regions):
        raise InputError(f'{path}: attends to the regions {regions_of(captioner, path)}, and {paths["regions"]} to '
                         f'{regions}; an album needs the same: name another checkpoint with --captioner')
    for kind, ranker in rankers.items():
        found = recorded(ranker.checkpoint, 'network'), recorded(ranker.checkpoint, 'layer')
        if found != (network.name, layer):
            raise InputError(f'{paths[kind]}: takes features of the network and layer {" ".join(map(str, found))}, and '
                             f'{path} those of {network.name} {layer}; an album needs the same: name another '
                             f'checkpoint with --{kind}_ranker or --captioner')
    identity = {'network': network.checksum, 'captioner': sha256(path),
                **{kind: sha256(ranker_path) for kind, ranker_path in paths.items()}}
    return Models(network, layer, regions, captioner, rankers['sentences'], rankers['regions'], identity)


def load_ranker_of(kind, path):
    """The Ranker at path. Raises InputError unless it is of this kind."""
    ranker = Ranker.load(path)
    if ranker.kind != kind:
        raise InputError(f'{path}: is a ranking model of the kind {ranker.kind}, expected {kind}; name another '
                         f'checkpoint with --{kind}_ranker')
    return ranker


def recorded(checkpoint, name):
    """What a checkpoint records of its features under this name; None if it does not."""
    features = checkpoint.get('features')
    return features.get(name) if isinstance(features, dict) else None


def describe(models, workers, paths, progress):
    """What the models say of the photos at paths, a list: a Described of each, or the InputError why it cannot be read.

    progress(n) is called whenever n more are through the network.
    """
    def load(path):
        try:
            picture = load_picture(path)
            return prepared_views(picture, models.network, models.regions), picture.shape[1::-1]
        except InputError as error:
            return error

    found, rows, loaded = [], [], workers.map(load, paths)    # found: sizes or errors
    while batch := list(islice(loaded, BATCH_SIZE)):
        good = [one[0] for one in batch if not isinstance(one, InputError)]
        if good:
            rows.append(features_of(through_network(np.stack(good), models.network, models.layer, models.regions,
                                                    workers)))
        found += [one if isinstance(one, InputError) else one[1] for one in batch]
        progress(len(batch))
    if not rows:
        return found
    features = np.concatenate(rows)                                             # (n, D + R·D')
    captions = captions_of(features, models.captioner, workers)
    following = zip(captions, vectors_of(features, models, workers), strict=True)
    described = []
    for one in found:
        if not isinstance(one, InputError):
            caption, vectors = next(following)
            one = Described(caption, one, vectors)
        described.append(one)
    return described


def captions_of(features, captioner, workers):
    """The texts of the best captions of photos with these features (n, D + R·D')."""
    found = caption_images(lambda i, j: features[i:j], len(features), captioner['model'], captioner['params'],
                           captioner['ixtoword'], SEARCH, workers)
    return [' '.join(captions[0].words) for captions in found]


def vectors_of(features, models, workers):
    """features (n, D + R·D') -> the rows of the index, (n, width) float16."""
    def encode(some):
        return np.concatenate([ranker.encode_images(some).reshape(len(some), -1)
                               for ranker in (models.by_sentence, models.by_region)], axis=1).astype(np.float16)

    blocks = (features[start:start + BATCH_SIZE] for start in range(0, len(features), BATCH_SIZE))
    return np.concatenate(list(workers.map(encode, blocks)))

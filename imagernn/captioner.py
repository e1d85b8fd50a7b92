"""Captions of pictures in one call: a captioning model together with the convolutional network that feeds it.

Knows which network a checkpoint's features came from, and where the pretrained models are. Prints no results.
"""

import os
import sys
from itertools import islice
from typing import NamedTuple

import numpy as np
from PIL import Image

from imagernn.captioning.evaluate import caption_images
from imagernn.captioning.flags import MAX_BEAM_SIZE
from imagernn.captioning.load import load_captioner
from imagernn.captioning.model import attends_to_regions
from imagernn.convnet.classes import classifier_of
from imagernn.convnet.extraction import (
    BATCH_SIZE,
    NO_REGIONS,
    boxes_of,
    chosen_layer,
    parse_regions,
    prepared_views,
    through_network,
)
from imagernn.convnet.preprocess import PREPROCESSING, description
from imagernn.convnet.weights import load_network
from imagernn.corpus.features import ORIGIN_OF_REGIONS
from imagernn.corpus.trained_on import note_other_origin
from imagernn.errors import PACKAGE, InputError
from imagernn.formats.pictures import load_picture, pixels_of
from imagernn.nn.blas import NUM_THREADS
from imagernn.nn.workers import Workers

PRETRAINED = 'captioner_lite0.h5'
GUESSES = {1280: ('lite0', 'features'), 4096: ('vgg16', 'fc7')}    # size of the features -> their probable network


class Result(NamedTuple):
    """A caption of a picture."""

    text: str               # its words, separated by spaces
    logprob: float          # the sum of ln p over its words, and over END where it came to its end
    word_logprobs: list     # ln p of each word, and last that of END where it came to its end


class Captioner:
    """Captions pictures: Captioner.load().caption('photo.jpg').

    A picture is the path of a file, a Pillow image, or an (h, w, 3) uint8 array of RGB pixels.
    """

    def __init__(self, checkpoint, network, layer, num_threads=NUM_THREADS):
        """checkpoint: what load_captioner returns; network and layer: the ones that its features came from. Raises
        InputError where a model with attention does not say which regions it attends to.
        """
        self.checkpoint, self.network, self.layer = checkpoint, network, layer
        self.regions = regions_of(checkpoint, 'the checkpoint')
        self.workers = Workers(num_threads)

    @classmethod
    def load(cls, path=None, weights=None, num_threads=NUM_THREADS):
        """The captioner in a checkpoint, in float32.

        path: the checkpoint; None is the pretrained captioner that comes with the package. weights: the weight file of
        the convolutional network; None, for EfficientNet-Lite0, is the one that the extra [lite0] installs.
        Raises InputError for a file that is missing or damaged, for features of an unknown network or of unknown
        regions, and for weights that are missing or belong to another network. A note on stderr reports weights or a
        preprocessing that are not the ones of the training.
        """
        path = pretrained_path() if path is None else path
        checkpoint = load_captioner(path, 'float32')
        regions_of(checkpoint, path)    # what is wrong with the checkpoint is reported before what is missing beside it
        return cls(checkpoint, *network_of(checkpoint, path, weights), num_threads)

    def caption(self, picture, beam_size=1):
        """The text of the best caption that captions finds for a picture. Raises the same errors."""
        return self.captions([picture], beam_size)[0][0].text

    def captions(self, pictures, beam_size=1, nbest=1):
        """For each picture, in order, a list of its nbest most probable captions, as Results, best first.

        beam_size 1 is greedy search. A beam can find fewer than nbest captions. The captions are those that
        predict_on_images.py prints with the same settings.
        Raises InputError for a picture that cannot be read, for another kind of object, and for sizes out of range.
        """
        if isinstance(pictures, (str, os.PathLike, Image.Image)):
            raise InputError(f'captions takes a list of pictures, but was given {pictures!r}; put it in a list, or '
                             'call caption')
        if not 1 <= nbest <= beam_size <= MAX_BEAM_SIZE:
            raise InputError(f'beam_size {beam_size}, nbest {nbest}: expected 1 <= nbest <= beam_size <= '
                             f'{MAX_BEAM_SIZE}')
        model, params, ixtoword = (self.checkpoint[key] for key in ('model', 'params', 'ixtoword'))
        feats = self.features(pictures)
        options = {'beam_size': beam_size, 'nbest': nbest, 'temperature': 0, 'seed': 0}
        found = caption_images(lambda i, j: feats[i:j], len(feats), model, params, ixtoword, options, self.workers)
        return [[Result(' '.join(caption.words), caption.logprob, caption.word_logprobs) for caption in captions]
                for captions in found]

    def classes(self, pictures, top=5):
        """For each picture, in order, its `top` most probable ImageNet classes: a list of pairs, name and probability.

        They are what the convolutional network itself finds in the picture, by the features that captions uses.
        Raises InputError for a picture that cannot be read, and for a network or a layer that does not classify.
        """
        classify = classifier_of(self.network, self.layer, len(self.checkpoint['model']['We']), top)
        return classify(self.features(pictures))

    def features(self, pictures):
        """The features of pictures by the convolutional network, (n, D) in the dtype of the model. For a model with
        attention, those of the R regions follow: (n, D + R·D').

        Raises InputError for a picture that cannot be read, and for features of another size than the model's.
        """
        model = self.checkpoint['model']
        prepared = self.workers.map(lambda picture: prepared_views(pixels(picture), self.network, self.regions),
                                    pictures)
        boxes = boxes_of(self.regions)
        dim = len(model['We']) + (0 if boxes is None else len(boxes) * len(model['Wregion']))
        found = [np.empty((0, dim), np.float32)]
        while batch := list(islice(prepared, BATCH_SIZE)):
            arrays = through_network(np.stack(batch), self.network, self.layer, self.regions, self.workers)
            check_size(arrays, self.network, self.layer, model)
            found.append(features_of(arrays))
        return np.concatenate(found).astype(model['We'].dtype)


def pixels(picture):
    """A picture, as Captioner takes it, as an (h, w, 3) uint8 array. Raises InputError for anything else."""
    if isinstance(picture, (str, os.PathLike)):
        return load_picture(picture)
    if isinstance(picture, Image.Image):
        try:
            picture.load()
        except OSError as error:
            raise InputError(f'{picture!r}: cannot be read ({error}); load it from another copy of its file') from None
        return pixels_of(picture)
    if not isinstance(picture, np.ndarray):
        raise InputError(f'{picture!r:.60} is a {type(picture).__name__}; expected a path, a Pillow image, or an array')
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:
        raise InputError(f'a picture is an array of shape {picture.shape} and dtype {picture.dtype}; expected RGB '
                         'pixels, (h, w, 3) uint8')
    return picture


def pretrained_path(name=PRETRAINED, flag=None):
    """The path of a model that comes with the package: in cv/ of a checkout, else in the installed package.

    Raises InputError if it is in neither. flag: the one that names another checkpoint, for this message.
    """
    places = [PACKAGE.parent / 'cv' / name, PACKAGE / 'pretrained' / name]
    for path in places:
        if path.is_file():
            return path
    raise InputError(f'the pretrained model is neither at {places[0]} nor at {places[1]}; name a checkpoint'
                     + (f' with {flag}' if flag else ''))


def network_of(checkpoint, path, weights=None, load=load_network):
    """The network and the layer that the features of a checkpoint came from.

    path: of the checkpoint, for messages; weights: the network's weight file, or None; load(weights, name) opens it.
    A checkpoint that does not name its network gets the usual one for its features' size, and a note on stderr says
    so. Another note reports weights or a preprocessing that differ from those of the training.
    Raises InputError if no network is known to give such features, or its weights are missing or another network's.
    """
    recorded, D = checkpoint.get('features'), len(checkpoint['model']['We'])
    recorded = recorded if isinstance(recorded, dict) else {}
    name, layer = recorded.get('network'), recorded.get('layer')
    if name is None and D in GUESSES:
        name, layer = GUESSES[D]
        print(f'note: {path}: does not say which network its features came from; their size, {D}, suggests {name}, '
              f'layer {layer}', file=sys.stderr)
    if name not in tuple(PREPROCESSING):
        source = f'the network {name!r}' if name else 'a network that it does not name'
        raise InputError(f'{path}: its features, of size {D}, came from {source}; pictures can be captioned with '
                         f'features of {", ".join(PREPROCESSING)}')
    network = load(weights, recorded.get('network') or (None if weights else name))
    note_other_origin(checkpoint, {'weights_sha256': network.checksum, 'preprocessing': description(network.name)})
    return network, chosen_layer(network, layer)


def regions_of(checkpoint, path):
    """The Regions that the model of a checkpoint attends to, as its features record them.

    path: of the checkpoint, for messages. Raises InputError for a model with attention that does not record them.
    """
    if not attends_to_regions(checkpoint['params']):
        return NO_REGIONS
    recorded = checkpoint.get('features')
    kind = recorded.get(ORIGIN_OF_REGIONS) if isinstance(recorded, dict) else None
    try:
        regions = parse_regions(kind if isinstance(kind, str) else '')
    except InputError:
        regions = NO_REGIONS
    if regions == NO_REGIONS:
        what = f'the regions {kind!r:.60}, which are not known' if kind else 'regions that it does not name'
        raise InputError(f'{path}: attends to {what}; pictures cannot be captioned with it, only data sets and folders '
                         'with a feature file')
    return regions


def features_of(arrays):
    """What through_network gives for n pictures, as rows: features of the whole pictures (n, D), or with those of their
    regions after them (n, D + R·D').
    """
    return np.concatenate([array.reshape(len(array), -1) for array in arrays.values()], axis=1)


def check_size(arrays, network, layer, model):
    """InputError unless the model was made for features of these sizes, as through_network gives them."""
    for name, weights in (('feats', 'We'), ('regions', 'Wregion')):
        if name in arrays and arrays[name].shape[-1] != len(model[weights]):
            raise InputError(f'{network.name} gives {"features" if name == "feats" else "regions"} of size '
                             f'{arrays[name].shape[-1]} by its layer {layer}, but the checkpoint was trained on size '
                             f'{len(model[weights])}; name the weights of the network that it was trained with')

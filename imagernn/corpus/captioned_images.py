"""A data set's images, sentences and image-sentence pairs, sampled or in order, with their features.

Knows the layout of data/<name>/, whose dataset.json dataset_file.py reads and checks. Knows nothing of models. What
stays in memory are token_store's integer arrays, in which images and sentences are numbered in the order of
dataset.json; training and evaluation use these numbers (Pairs). An image's dict is made when it is asked for.
"""

from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from imagernn.corpus.dataset_file import SPLITS, place_of, read_dataset
from imagernn.corpus.features import LAYOUT, default_features, open_features
from imagernn.errors import InputError, command


def getDataProvider(dataset, data_root='data', features=None):
    """Load and check data_root/dataset/dataset.json and its features. Returns a DataProvider.

    features: a file name in that folder, or else a path; by default vgg_feats.mat, .h5 or .npy.
    Raises InputError naming the file and the place when anything is missing or is not as it should be.
    """
    folder = _dataset_folder(Path(data_root), dataset)
    path = folder / 'dataset.json'
    store = read_dataset(path)
    opened = open_features(_features_path(folder, features))
    _check_imgids(path, store, opened)
    return DataProvider(folder, store, opened)


class Pairs(NamedTuple):
    """n image-sentence pairs by number."""

    images: np.ndarray       # (n,)
    sentences: np.ndarray    # (n,)


class DataProvider:
    """The images of a data set by split, their sentences as integers, and their `features`.

    words: the different tokens of all sentences; imgids (N,): the row of the features of each image.
    Randomness comes in as a numpy Generator. max_images: None or a negative number is all, 0 is none. A split
    without images raises InputError with the splits that there are; `restval` is never part of `train`.

    The methods in camel case are those of NeuralTalk's provider: there an image is its dict in dataset.json, and a pair
    is {'image': image, 'sentence': sentence}.
    """

    def __init__(self, folder, store, features):
        self.folder = folder
        self.features = features
        self.words = store.words
        self.imgids = store.imgids
        self._store = store
        self._images = {split: np.flatnonzero(store.splits == split) for split in SPLITS}    # their numbers

    def getSplitSizes(self, ofwhat='images'):
        """Dict of split -> number of images (or sentences), of the splits that have any."""
        return {split: self.getSplitSize(split, ofwhat) for split in SPLITS if len(self._images[split])}

    def getSplitSize(self, split, ofwhat='sentences'):
        """The number of 'sentences' or of 'images' in a split."""
        images = self._split(split)
        sizes = {'sentences': lambda: int(self._store.num_sentences(images).sum()), 'images': lambda: len(images)}
        if ofwhat not in sizes:
            raise ValueError(f"ofwhat is '{ofwhat}'; expected one of {', '.join(sizes)}")
        return sizes[ofwhat]()

    def sample_pairs(self, split, n, rng):
        """n Pairs, with replacement: uniform over images, then over that image's sentences."""
        images = self._split(split)
        chosen = images[rng.integers(len(images), size=n)]                      # (n,)
        sentences = self._store.image_starts[chosen] + rng.integers(self._store.num_sentences(chosen))
        return Pairs(chosen, sentences)

    def iter_pairs(self, split, max_images=None, batch_size=100):
        """An iterator over Pairs of at most batch_size: a split image by image, each image's sentences in order."""
        images = self._first(split, max_images)
        counts = self._store.num_sentences(images)
        sentences = np.repeat(self._store.image_starts[images] - (np.cumsum(counts) - counts), counts)
        sentences += np.arange(counts.sum())
        images = np.repeat(images, counts)
        return (Pairs(images[start:start + batch_size], sentences[start:start + batch_size])
                for start in range(0, len(images), batch_size))

    def indices(self, sentences, lookup):
        """The words of sentences, by number (n,), as indices of a vocabulary; see ImageStore.indices."""
        return self._store.indices(sentences, lookup)

    def tokens(self, split):
        """A split's tokens as places in words, sentence after sentence (P,), and how many sentences they make."""
        num_sentences = self.getSplitSize(split)
        everything, = self.iter_pairs(split, batch_size=num_sentences)
        tokens, _ = self._store.indices(everything.sentences, np.arange(len(self.words)))
        return tokens, num_sentences

    def sampleImageSentencePairs(self, split, n, rng):
        """A list of n pairs, drawn as in sample_pairs. Their images come without the list of all 'sentences'."""
        images, sentences = self.sample_pairs(split, n, rng)
        return list(map(_pair, self._store.fields(images), self._store.sentences(sentences)))

    def sampleImageSentencePair(self, split, rng):
        """One pair, drawn as in sample_pairs."""
        return self.sampleImageSentencePairs(split, 1, rng)[0]

    def sampleImage(self, split, rng):
        """One image, uniformly."""
        images = self._split(split)
        return self._store.image(images[rng.integers(len(images))])

    def iterImages(self, split, max_images=None, rng=None):
        """An iterator over the images of a split in the order of dataset.json, or shuffled by rng.

        With both rng and max_images these are max_images images drawn without replacement.
        """
        return map(self._store.image, self._first(split, max_images, rng))

    def iterImageSentencePair(self, split, max_images=None, rng=None):
        """An iterator over all pairs of a split, image by image, each image's sentences in their order."""
        images = self.iterImages(split, max_images, rng)
        return (_pair(image, sentence) for image in images for sentence in image['sentences'])

    def iterImageSentencePairBatch(self, split, max_images=None, max_batch_size=100, rng=None):
        """An iterator over lists of at most max_batch_size pairs, in the order of iterImageSentencePair."""
        if max_batch_size < 1:
            raise InputError(f'batch size is {max_batch_size}; expected at least 1')
        pairs = self.iterImageSentencePair(split, max_images, rng)
        return iter(lambda: list(islice(pairs, max_batch_size)), [])

    def iterSentences(self, split, max_images=None):
        """An iterator over the sentences (dicts with 'tokens') of a split in the order of dataset.json."""
        return (sentence for image in self.iterImages(split, max_images) for sentence in image['sentences'])

    def image_path(self, image):
        """Where the picture of an image should be: imgs/[filepath/]filename in the data set's folder."""
        return self.folder / 'imgs' / image.get('filepath', '') / image['filename']

    def _first(self, split, max_images, rng=None):
        """The numbers of a split's first max_images images, in order or shuffled."""
        images = self._split(split)
        chosen = images if rng is None else images[rng.permutation(len(images))]
        return chosen if max_images is None or max_images < 0 else chosen[:max_images]

    def _split(self, split):
        if not len(self._images.get(split, ())):
            sizes = ', '.join(f'{name} ({len(images)} images)' for name, images in self._images.items() if len(images))
            raise InputError(f"{self.folder / 'dataset.json'}: there are no images in split '{split}'; "
                             f'it has {sizes}. Choose one of these.')
        return self._images[split]


def _pair(image, sentence):
    return {'image': image, 'sentence': sentence}


def _dataset_folder(data_root, dataset):
    folder = data_root / dataset
    if (folder / 'dataset.json').is_file():
        return folder
    what = 'has no dataset.json' if folder.is_dir() else 'there is no such folder'
    there = sorted(p.parent.name for p in data_root.glob('*/dataset.json'))
    hint = f"has the data sets {', '.join(there)}" if there else 'has no data sets'
    raise InputError(f'{folder}: {what}; expected a dataset.json in it. {data_root} {hint}: choose one with '
                     '--dataset, another root with --data_root, or make one with '
                     f'{command("make-scenes")}, {command("prepare-flickr")} or {command("prepare-coco")}.')


def _features_path(folder, features):
    if features is None:
        return default_features(folder)
    for path in (folder / features, Path(features)):
        if path.is_file():
            return path
    raise InputError(f'{features}: there is no such feature file, neither in {folder} nor as a path. '
                     'Name one that exists with --features.')


def _check_imgids(path, store, features):
    """Raise InputError unless the feature file has a row for every image, and does not look transposed."""
    listed, highest = len(store.splits), int(store.imgids.argmax())
    image = store.image(highest)
    enough = features.num_images > image['imgid']
    held = f'{features.path}: holds features of {features.num_images} images, {features.dim} numbers each'
    if features.dim == listed != features.num_images:
        advice = f'Store {LAYOUT}' + (f'; if it is right as it is, keep only the first {listed} images in it.'
                                       if enough else '.')
        raise InputError(f'{held}, while {path} lists {listed} images: it looks transposed. {advice}')
    if features.num_images < listed:
        raise InputError(f'{held}, while {path} lists {listed} images; expected at least as many. '
                         'Use the feature file made for this data set (--features).')
    if not enough:
        raise InputError(f"{path}: {place_of(highest, image)}: imgid {image['imgid']!s:.60} is beyond the "
                         f'feature file, and {held}; expected an imgid from 0 to {features.num_images - 1}. '
                         'Use the feature file made for this data set (--features), or correct the imgid.')

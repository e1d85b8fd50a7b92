"""dataset.json and its feature file as images, sentences and image-sentence pairs, sampled or in order.

Knows the layout of data/<name>/ and checks all of it once, on loading. Knows nothing of models. What stays in memory
are token_store's integer arrays, in which images and sentences are numbered in the order of dataset.json; training and
evaluation use these numbers (Pairs). An image's dict, as it is in dataset.json, is made when it is asked for.
"""

from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from imagernn.corpus.features import LAYOUT, default_features, open_features
from imagernn.corpus.token_store import build_store, fingerprint, load_store, save_store
from imagernn.errors import InputError, command
from imagernn.formats.json_files import contents_of, json_type, parsed

SPLITS = ('train', 'val', 'test', 'restval')
STORE_NAME = 'dataset.cache.npz'    # beside dataset.json, which may be changed or replaced at any time
MAX_NESTING = 100                   # of fields that are kept as they are
STORE_FROM = 16 << 20               # bytes of dataset.json: a smaller one is read as it is, in about a second


def getDataProvider(dataset, data_root='data', features=None):
    """Load and check data_root/dataset/dataset.json and its features. Returns a DataProvider.

    features: a file name in that folder, or else a path; by default vgg_feats.mat, .h5 or .npy.
    Raises InputError naming the file and the place when anything is missing or is not as it should be.
    """
    folder = _dataset_folder(Path(data_root), dataset)
    path = folder / 'dataset.json'
    store = _load_images(path)
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


def _load_images(path):
    """dataset.json as an ImageStore: from the file beside it that keeps this of a large one, or read and checked."""
    contents = contents_of(path)
    if len(contents) < STORE_FROM:
        return build_store(_checked_images(path, parsed(path, contents)))
    stored, key = path.with_name(STORE_NAME), fingerprint(contents)
    store = load_store(stored, key)
    if store is None:
        store = build_store(_checked_images(path, parsed(path, contents)))
        save_store(stored, store, key)
    return store


def _checked_images(path, data):
    """The list of images, each checked in full but for its imgid's range.

    An empty token list is allowed: a caption whose words are all rare is empty too once the vocabulary is applied.
    'raw' and 'filepath' are optional; other fields are left alone.
    """
    images = data.get('images')
    if not isinstance(images, list):
        found = ascii(', '.join(sorted(data)))[1:-1] or 'nothing'
        raise InputError(f'{path}: there is no list "images" at the top level; found: {found:.300}. '
                         'Expected {"images": [{"filename", "imgid", "split", "sentences"}, ...]}.')
    if not images:
        raise InputError(f'{path}: the list "images" is empty; expected at least one image.')
    first_with = {}  # imgid -> index of the image that has it
    for index, image in enumerate(images):
        problem = _image_problem(image)
        if problem is None and image['imgid'] in first_with:
            first = first_with[image['imgid']]
            problem = (f"imgid {image['imgid']!s:.60} is that of {_place(first, images[first])} too; "
                       'expected each imgid once')
        if problem is not None:
            raise InputError(f'{path}: {_place(index, image)}: {problem}. Mend that entry or take it out.')
        first_with[image['imgid']] = index
    return images


def _image_problem(image):
    """What is wrong with an image's entry, or None."""
    if not isinstance(image, dict):
        return f'is {json_type(image)}; expected an object'
    missing = [key for key in ('filename', 'imgid', 'split', 'sentences') if key not in image]
    if missing:
        return f"has no '{missing[0]}'; expected filename, imgid, split and sentences"
    for key in ('filename', 'filepath'):
        if not isinstance(image.get(key, ''), str):
            return f"'{key}' is {json_type(image[key])}; expected a string"
    if type(image['imgid']) is not int:  # bool is an int to isinstance
        return f"imgid is {image['imgid']!r:.60}; expected an integer, the image's row in the feature file"
    if image['imgid'] < 0:
        return f"imgid is {image['imgid']!s:.60}; expected 0 or more, the image's row in the feature file"
    if image['split'] not in SPLITS:
        return f"split is {image['split']!r:.60}; expected one of {', '.join(SPLITS)}"
    if not isinstance(image['sentences'], list):
        return f"'sentences' is {json_type(image['sentences'])}; expected a list"
    if not image['sentences']:
        return 'has no sentences; expected at least one'
    if deep := _too_deep(image, 'sentences'):
        return f'{deep!r:.60} is nested more than {MAX_NESTING} deep'
    for number, sentence in enumerate(image['sentences']):
        problem = _sentence_problem(sentence)
        if problem is not None:
            return f'sentence {number} {problem}'
    return None


def _sentence_problem(sentence):
    if not isinstance(sentence, dict):
        return f'is {json_type(sentence)}; expected an object with a list "tokens"'
    if 'tokens' not in sentence:
        return "has no 'tokens'; expected a list of strings"
    tokens = sentence['tokens']
    if not isinstance(tokens, list):
        return f"'tokens' is {json_type(tokens)}; expected a list of strings"
    if not {str}.issuperset(map(type, tokens)):
        number, token = next((n, t) for n, t in enumerate(tokens) if type(t) is not str)
        return f'token {number} is {json_type(token)}, {token!r:.60}; expected a string'
    if deep := _too_deep(sentence, 'tokens'):
        return f'{deep!r:.60} is nested more than {MAX_NESTING} deep'
    return None


def _too_deep(fields, besides):
    """The first key whose value is so nested that to write or read it again may fail; or None."""
    return next((key for key, value in fields.items()
                 if type(value) in (dict, list) and key != besides and _deeper(value, MAX_NESTING)), None)


def _deeper(value, levels):
    return type(value) in (dict, list) and (levels == 0 or any(
        _deeper(inner, levels - 1) for inner in (value.values() if type(value) is dict else value)))


def _check_imgids(path, store, features):
    """Raise InputError unless the feature file has a row for every image, and does not look transposed."""
    listed, highest = len(store.splits), int(store.imgids.argmax())
    image = store.image(highest)
    enough = features.num_images > image['imgid']
    held = f'{features.path}: holds features of {features.num_images} images, {features.dim} numbers each'
    if features.dim == listed != features.num_images:
        way_out = f'Store {LAYOUT}' + (f'; if it is right as it is, keep only the first {listed} images in it.'
                                       if enough else '.')
        raise InputError(f'{held}, while {path} lists {listed} images: it looks transposed. {way_out}')
    if features.num_images < listed:
        raise InputError(f'{held}, while {path} lists {listed} images; expected at least as many. '
                         'Use the feature file made for this data set (--features).')
    if not enough:
        raise InputError(f"{path}: {_place(highest, image)}: imgid {image['imgid']!s:.60} is beyond the "
                         f'feature file, and {held}; expected an imgid from 0 to {features.num_images - 1}. '
                         'Use the feature file made for this data set (--features), or mend the imgid.')


def _place(index, image):
    name = image.get('filename') if isinstance(image, dict) else None
    return f'image {index}' + (f' ({name!r:.100})' if isinstance(name, str) else '')

"""A data set's images, sentences and image-sentence pairs, sampled or in order, with their features.

Knows the layout of data/<name>/, whose dataset.json dataset_file.py reads and checks. Knows nothing of models. What
stays in memory are token_store's integer arrays, in which images and sentences are numbered in the order of
dataset.json; training and evaluation use these numbers (Pairs). An image's dict is made when it is asked for.
"""

import hashlib
import sys
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from imagernn.corpus.dataset_file import SPLITS, place_of, read_dataset
from imagernn.corpus.features import LAYOUT, default_features, open_features
from imagernn.errors import InputError, command
from imagernn.formats.names import path_inside, picture_name, refused


def getDataProvider(dataset, data_root='data', features=None, on_error='skip', regions=False):
    """Load and check data_root/dataset/dataset.json and its features. Returns a DataProvider.

    features: a file name in that folder, or else a path; by default vgg_feats.mat, .h5 or .npy. Where the file lists
    its pictures, rows are matched to images by name, else by imgid. on_error: what to do where the file marks images'
    rows as not extracted: 'skip' leaves these images out, with a warning on stderr that counts them; 'stop' raises.
    regions: whether the features of an image are those of its regions, too; see Features.
    Raises InputError naming the file and the place when anything is missing or is not as it should be.
    """
    folder = _dataset_folder(Path(data_root), dataset)
    path = folder / 'dataset.json'
    store = read_dataset(path)
    opened = open_features(_features_path(folder, features))
    if regions:
        opened = opened.with_regions()
    if opened.pictures is None:
        _check_imgids(path, store, opened)
        rows = store.imgids
    else:
        rows = _matched_rows(path, store, opened)
        if not np.array_equal(rows, store.imgids):
            opened = opened.numbered(store.imgids, rows)
    if (unused := store.imagined & (store.splits != 'train')).any():
        print(f'note: {path}: {np.count_nonzero(unused)} images imagined from words are in other splits than train, '
              'where they are left out', file=sys.stderr)
    there = opened.extracted[rows]
    if not there.all():
        _report_missing(path, store, opened, there, on_error)
    return DataProvider(folder, store, opened, there)


class Pairs(NamedTuple):
    """n image-sentence pairs by number."""

    images: np.ndarray       # (n,)
    sentences: np.ndarray    # (n,)


class DataProvider:
    """The images of a data set by split, their sentences as integers, and their `features`.

    words: the different tokens of all sentences; imgids (N,): by which `features` knows each image.
    Randomness comes in as a numpy Generator. max_images: None or a negative number is all, 0 is none. A split
    without images raises InputError with the splits that there are; `restval` is never part of `train`. Images that are
    marked as imagined, whose features were made from words, are in no split but `train`.

    The methods in camel case are those of NeuralTalk's provider: there an image is its dict in dataset.json, and a pair
    is {'image': image, 'sentence': sentence}.
    """

    def __init__(self, folder, store, features, there=True):
        """there: (N,) bool, False for images that belong to no split, because they have no features."""
        self.folder = folder
        self.features = features
        self.words = store.words
        self.imgids = store.imgids
        self._store = store
        there = there & ~(store.imagined & (store.splits != 'train'))
        self._images = {split: np.flatnonzero((store.splits == split) & there) for split in SPLITS}    # their numbers

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

    def image_numbers(self, split, max_images=None):
        """The numbers of the images of a split, (n,), in the order of dataset.json."""
        return self._first(split, max_images)

    def sample_pairs(self, split, n, rng, distinct=False):
        """n Pairs, with replacement: uniform over images, then over that image's sentences.

        distinct: images without replacement, so that all are different; fewer pairs if there are fewer images.
        """
        images = self._split(split)
        if distinct:
            chosen = rng.choice(images, min(n, len(images)), replace=False)
        else:
            chosen = images[rng.integers(len(images), size=n)]                  # (n,)
        sentences = self._store.image_starts[chosen] + rng.integers(self._store.num_sentences(chosen))
        return Pairs(chosen, sentences)

    def iter_pairs(self, split, max_images=None, batch_size=100):
        """An iterator over Pairs of at most batch_size: a split image by image, each image's sentences in order."""
        images = self._first(split, max_images)
        places, sentences = self.sentences_of(images)
        images = images[places]
        return (Pairs(images[start:start + batch_size], sentences[start:start + batch_size])
                for start in range(0, len(images), batch_size))

    def sentences_of(self, images):
        """All sentences of images, by number (n,): of each its place among the images, and its number; two (N,)."""
        counts = self._store.num_sentences(images)
        sentences = np.repeat(self._store.image_starts[images] - (np.cumsum(counts) - counts), counts)
        return np.repeat(np.arange(len(images)), counts), sentences + np.arange(counts.sum())

    def hold_out_val(self, share, seed):
        """Move a share of the training images to the split val, chosen by the seed; at least one each way.

        Imagined images all stay in train. Raises InputError where the data set has a val split of its own, or too few
        training images.
        """
        path, train = self.folder / 'dataset.json', self._split('train')
        images = train[~self._store.imagined[train]]
        if len(self._images['val']):
            raise InputError(f'{path}: has a val split of {len(self._images["val"])} images; '
                             'omit --val_share, which takes one from the training images')
        count = max(1, round(share * len(images)))
        if count >= len(images):
            raise InputError(f'--val_share {share:g}: takes {count} of the {len(images)} training images in {path}, '
                             'and leaves none to train on; lower it')
        held_out = np.random.default_rng(seed).permutation(len(images))[:count]
        val = np.isin(train, images[held_out])
        self._images |= {'train': train[~val], 'val': train[val]}

    def leave_out_imagined(self, split):
        """Leave imagined images out of a split that is to be evaluated; a note on stderr counts them.

        Raises InputError where no other image is left.
        """
        images = self._split(split)
        imagined = self._store.imagined[images]
        if imagined.all():
            raise InputError(f"{self.folder / 'dataset.json'}: all {len(images)} images in split '{split}' are "
                             'imagined from words, and have no pictures that could be captioned; choose another split')
        if imagined.any():
            print(f'note: {np.count_nonzero(imagined)} of the {len(images)} images in split {split} are imagined from '
                  'words, and are left out', file=sys.stderr)
        self._images[split] = images[~imagined]

    def require_split(self, split, advice):
        """Raise InputError that ends with this advice where a split has no images."""
        if not len(self._images.get(split, ())):
            sizes = ', '.join(f'{name} ({len(images)} images)' for name, images in self._images.items() if len(images))
            raise InputError(f"{self.folder / 'dataset.json'}: there are no images in split '{split}'; "
                             f'it has {sizes}. {advice}')

    def word_counts(self, split, max_images=None):
        """How often each of `words` occurs in the sentences of a split: (len(words),) int64."""
        tokens, _ = self._store.tokens_of(self._first(split, max_images))
        return np.bincount(tokens, minlength=len(self.words))

    def fingerprint(self):
        """What identifies the data of a training run, as a dict for JSON: the splits train and val, and the features.

        Of a split, how many images, sentences and tokens it has, a digest of its sentences in their order, and one of
        its pictures: their names where the feature file lists these, else their imgids. Values of the features are
        sampled.
        """
        splits = {split: self._split_fingerprint(split) for split in ('train', 'val') if len(self._images[split])}
        used = np.concatenate([self._images[split] for split in splits])
        return {**splits, 'features': self.features.fingerprint(self.imgids[used])}

    def _split_fingerprint(self, split):
        images = self._images[split]
        tokens, lengths = self._store.tokens_of(images)
        words = np.array([hashlib.blake2b(word.encode('utf-8', 'surrogatepass'), digest_size=8).digest()
                          for word in self.words], 'S8').view(np.uint64)    # independent of the words' places
        text = hashlib.blake2b(words[tokens], digest_size=16)
        for counts in (lengths, self._store.num_sentences(images)):
            text.update(counts.astype(np.int64))
        pictures = hashlib.blake2b(self.features.identities(self.imgids[images]), digest_size=16)
        return {'images': len(images), 'sentences': len(lengths), 'tokens': len(tokens),
                'text': text.hexdigest(), 'pictures': pictures.hexdigest()}

    def indices(self, sentences, lookup):
        """The words of sentences, by number (n,), as indices of a vocabulary; see ImageStore.indices."""
        return self._store.indices(sentences, lookup)

    def tokens(self, split):
        """A split's tokens as places in words, sentence after sentence (P,), and how many sentences they make."""
        tokens, lengths = self._store.tokens_of(self._split(split))
        return tokens, len(lengths)

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
        """Where the picture of an image should be: imgs/[filepath/]filename in the data set's folder -> Path.

        It is a formats.names.Refused if the names in dataset.json lead out of imgs/: such a picture must not be opened.
        So it is for an imagined image, which has no picture.
        """
        if image.get('imagined'):
            return refused(self.folder / 'imgs', image['filename'], f"{image['filename']}: has no picture, as its "
                           'features are imagined from words')
        return path_inside(self.folder / 'imgs', picture_name(image))

    def _first(self, split, max_images, rng=None):
        """The numbers of a split's first max_images images, in order or shuffled."""
        images = self._split(split)
        chosen = images if rng is None else images[rng.permutation(len(images))]
        return chosen if max_images is None or max_images < 0 else chosen[:max_images]

    def _split(self, split):
        self.require_split(split, 'Choose one of these.')
        return self._images[split]


def _pair(image, sentence):
    return {'image': image, 'sentence': sentence}


def _dataset_folder(data_root, dataset):
    folder = data_root / dataset
    if (folder / 'dataset.json').is_file():
        return folder
    if alike := sorted(path.name for path in folder.glob('dataset_*.json')):
        raise InputError(f'{folder}: has no dataset.json, but {alike[0]}; if that is one of Karpathy\'s data sets, '
                         f'copy it to {folder / "dataset.json"}')
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


def _matched_rows(path, store, features):
    """The row of each image, by the names in the feature file: (N,). InputError where it does not list all of them."""
    highest = int(store.imgids.argmax())
    if store.imgids[highest] == np.iinfo(np.int64).max:    # or more: see build_store
        image = store.image(highest)
        raise InputError(f"{path}: {place_of(highest, image)}: imgid {image['imgid']!s:.60} is too large; number the "
                         'images from 0')
    names = store.picture_names()
    rows = features.rows_of_pictures(names, store.imgids)
    if (missing := rows < 0).any():
        if store.imagined[missing].all():
            raise InputError(f'{path}: {np.count_nonzero(missing)} of its images are imagined from words, and '
                             f'{features.path} has no features of them; name the feature file that '
                             f'{command("pictures-from-words")} wrote with this dataset.json')
        raise features.lacks(names, rows, path)
    return rows


def _report_missing(path, store, features, there, on_error):
    """A warning that counts the images without features, in each split; an InputError if on_error is 'stop'."""
    missing = np.flatnonzero(~there)
    name = store.picture_names()[missing[0]]
    splits = ', '.join(f'{count} of {split}' for split in SPLITS
                       if (count := np.count_nonzero(store.splits[missing] == split)))
    message = (f'{features.path}: {missing.size} of the {len(there)} images in {path} have no features, because their '
               f'pictures were not extracted ({splits}); the first is {name!r:.100}')
    advice = f'put pictures that can be read in their place and extract again: {features.again(path)}'
    if on_error == 'stop':
        raise InputError(f'{message}; {advice}, or leave these images out with --on_error skip')
    if not there.any():
        raise InputError(f'{message}; {advice}')
    print(f'warning: {message}; they are left out. To have them, {advice}', file=sys.stderr)


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

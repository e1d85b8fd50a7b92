"""The images and sentences of a data set as a few arrays, and a file that keeps these from one run to the next.

Holds the entries of a dataset.json in little memory, and returns them one by one as they were, or their tokens as
integers. Does not check them, and knows nothing of splits, features or models.
"""

import hashlib
import json
from array import array
from typing import NamedTuple

import numpy as np

from imagernn.errors import InputError
from imagernn.formats.names import picture_name
from imagernn.formats.npy import array_of, open_archive
from imagernn.formats.writing import replacing

# to be increased when the meaning of the arrays changes, or when dataset.json is checked for more than before
VERSION = 4

_to_json = json.JSONEncoder(separators=(',', ':')).encode    # -> ASCII
_from_json = json.JSONDecoder().raw_decode                   # text, place -> the value that begins there, its end


class ImageStore(NamedTuple):
    """N images with S sentences of P words in all. Images and sentences are numbered in the order of dataset.json."""

    words: list                  # the different tokens, in the order of their first occurrence
    tokens: np.ndarray           # (P,) int32, places in words
    token_starts: np.ndarray     # (S+1,), where each sentence begins in tokens, and the end of the last
    image_starts: np.ndarray     # (N+1,), the first sentence of each image, and the number of them all
    text: str                    # in JSON: each image's fields but 'sentences', each sentence's fields but 'tokens'
    image_texts: np.ndarray      # (N,), where in text an image's fields begin
    sentence_texts: np.ndarray   # (S,), where in text a sentence's fields begin
    splits: np.ndarray           # (N,) str
    imgids: np.ndarray           # (N,)
    imagined: np.ndarray         # (N,) bool, True for images of which no picture exists
    names: str                   # in JSON: the list of the names of the pictures

    def num_sentences(self, numbers):
        """How many sentences images have: numbers (n,) -> (n,)."""
        return self.image_starts[numbers + 1] - self.image_starts[numbers]

    def indices(self, numbers, lookup):
        """The words of sentences, numbers (n,), as indices of a vocabulary.

        lookup (len(words),): the index of each word, -1 for those that are to be dropped.
        Returns the indices (K,), one sentence after another, and the number of them in each sentence (n,).
        """
        starts = self.token_starts[numbers]
        lengths = self.token_starts[numbers + 1] - starts                       # (n,)
        sentence = np.repeat(np.arange(len(numbers)), lengths)
        places = np.arange(len(sentence)) + (starts - (np.cumsum(lengths) - lengths))[sentence]
        found = lookup[self.tokens[places]]
        known = found >= 0
        return found[known], np.bincount(sentence[known], minlength=len(numbers))

    def tokens_of(self, numbers):
        """The tokens of images, by their numbers in ascending order: (K,), and the length of each sentence."""
        chosen = np.zeros(len(self.imgids), bool)
        chosen[numbers] = True
        sentences = np.repeat(chosen, np.diff(self.image_starts))               # (S,)
        lengths = np.diff(self.token_starts)
        return self.tokens[np.repeat(sentences, lengths)], lengths[sentences]

    def picture_names(self):
        """The name of each image's picture in imgs/, a list."""
        return json.loads(self.names)

    def image(self, number):
        """An image's dict as it is in dataset.json, a new one."""
        image, _ = _from_json(self.text, self.image_texts[number])
        image['sentences'] = self.sentences(slice(self.image_starts[number], self.image_starts[number + 1]))
        return image

    def fields(self, numbers):
        """A list of images' dicts without their sentences."""
        return [_from_json(self.text, start)[0] for start in self.image_texts[numbers].tolist()]

    def sentences(self, numbers):
        """The dicts of sentences, as in dataset.json. numbers: an array of them, or a slice."""
        places = zip(self.token_starts[:-1][numbers].tolist(), self.token_starts[1:][numbers].tolist(),
                     self.sentence_texts[numbers].tolist(), strict=True)
        return [{'tokens': [self.words[ix] for ix in self.tokens[start:end].tolist()],
                 **_from_json(self.text, text)[0]} for start, end, text in places]


def build_store(images):
    """The ImageStore of a list of image dicts that were checked. Empties the list, to free its memory early."""
    numbers, tokens, token_starts, image_starts = {}, array('i'), array('q', [0]), array('q', [0])
    names = _to_json(_picture_names(images))
    text, image_texts, sentence_texts = bytearray(), array('q'), array('q')
    splits = np.array([image['split'] for image in images])
    imgids = np.array([min(image['imgid'], 2 ** 63 - 1) for image in images])
    imagined = np.array([image.get('imagined', False) for image in images])
    images.reverse()
    while images:
        image = images.pop()
        sentences = image.pop('sentences')
        image_texts.append(len(text))
        text += _to_json(image).encode()
        for sentence in sentences:
            tokens.extend([numbers.setdefault(word, len(numbers)) for word in sentence.pop('tokens')])
            token_starts.append(len(tokens))
            sentence_texts.append(len(text))
            text += _to_json(sentence).encode()
        image_starts.append(len(sentence_texts))
    words = _to_json(list(numbers))
    del numbers    # words parsed again do not keep the memory of everything that was parsed with the first ones
    return ImageStore(json.loads(words), np.array(tokens), np.array(token_starts), np.array(image_starts),
                      text.decode(), np.array(image_texts), np.array(sentence_texts), splits, imgids, imagined,
                      names)


def _picture_names(images):
    """names.picture_name of each image, a list. Its work is done once for each folder, and for names that need it."""
    before = {}    # filepath -> what stands before a plain filename
    names = []
    for image in images:
        folder, name = image.get('filepath', ''), image['filename']
        if '/' in name or '\\' in name or not name.strip('.'):
            names.append(picture_name(image))
            continue
        if folder not in before:
            before[folder] = picture_name({'filepath': folder, 'filename': 'x'})[:-1]
        names.append(before[folder] + name)
    return names


def fingerprint(contents):
    """A digest of the contents of a dataset.json, bytes, which identifies its stored form."""
    return hashlib.blake2b(contents).digest()


def save_store(path, store, key):
    """Save the store of the dataset.json whose fingerprint is key. If the file cannot be written, nothing happens."""
    arrays = store._asdict()
    for name, value in (('words', _to_json(store.words)), ('text', store.text), ('names', store.names)):
        arrays[name] = np.frombuffer(value.encode(), np.uint8)
    try:
        with replacing(path) as file:
            np.savez(file, seal=_seal(arrays, key), **arrays)
    except InputError:      # a folder that cannot be written: the next run reads dataset.json again
        pass


def load_store(path, key):
    """The store that was saved under this key. None if there is none, or if any bit of it has changed."""
    try:
        with open_archive(path) as archive:
            arrays = {name: array_of(archive.read(f'{name}.npy')) for name in (*ImageStore._fields, 'seal')}
        if not np.array_equal(arrays.pop('seal'), _seal(arrays, key)):
            return None
        for name in ('words', 'text', 'names'):
            arrays[name] = str(arrays[name].data, 'ascii')
        return _sound(ImageStore(**arrays | {'words': json.loads(arrays['words'])}))
    except Exception:       # a damaged file makes the readers raise anything from zlib.error to KeyError
        return None


def _sound(store):
    """The store; ValueError where an index points outside its array, which a forged seal would not show."""
    N, S, P = len(store.image_texts), len(store.sentence_texts), len(store.tokens)
    names = store.picture_names()
    within = [(store.tokens, len(store.words)), (store.image_texts, len(store.text)),
              (store.sentence_texts, len(store.text)), (store.token_starts, P + 1),
              (store.image_starts, S + 1)]
    starts = [(store.token_starts, S, P), (store.image_starts, N, S)]
    if (any(type(each) is not list or not {str}.issuperset(map(type, each)) for each in (store.words, names))
            or len(names) != N
            or store.imagined.shape != (N,) or store.imagined.dtype != bool
            or store.splits.shape != (N,) or store.imgids.shape != (N,) or store.imgids.dtype.kind != 'i'
            or any(values.ndim != 1 or values.dtype.kind != 'i' or ((values < 0) | (values >= stop)).any()
                   for values, stop in within)
            or any(len(first) != count + 1 or first[0] != 0 or first[-1] != end or (np.diff(first) < 0).any()
                   for first, count, end in starts)):
        raise ValueError('an index points outside its array')
    return store


def _seal(arrays, key):
    """A digest of the arrays, of the dataset.json that they were made from, and of VERSION.

    It protects against accidents, not against forgers.
    """
    digest = hashlib.blake2b(key + bytes([VERSION]))
    for name, values in arrays.items():
        digest.update(f'{name} {values.dtype.str} {values.shape} '.encode())
        digest.update(np.ascontiguousarray(values).data)
    return np.frombuffer(digest.digest(), np.uint8)

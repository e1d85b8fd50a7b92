"""The encoded form of a data set: it gives back what went in, and its file is taken only as it was written."""

import copy
import errno
import os

import numpy as np
import pytest

from imagernn.corpus import token_store
from imagernn.corpus.token_store import ImageStore, build_store, fingerprint, load_store, save_store
from imagernn.formats.names import picture_name

IMAGES = [
    {'filename': 'größe 犬 🐕.jpg', 'imgid': 7, 'split': 'train', 'cocoid': 391895, 'sentids': [4, 5], 'sentences': [
        {'tokens': ['ein', 'hund', '犬'], 'raw': 'Ein Hund: "犬" \\ 🐕\n\x7f', 'imgid': 7, 'sentid': 4},
        {'tokens': []}]},
    {'filename': '', 'imgid': 10 ** 30, 'split': 'restval', 'filepath': 'a/b', 'box': [1.5, -1e-300, float('inf')],
     'sentences': [{'tokens': ['', 'hund', ' ', 'hund'], 'raw': ''}]},
    {'filename': 'x', 'imgid': 0, 'split': 'train', 'imagined': True, 'more': {'a': [None, True, {}], 'text': ''},
     'sentences': [
        {'tokens': ['half a pair \ud83d', '"', 'null'], 'raw': None, 'text': {'tokens': 3}},
        {'tokens': ['hund'], 'raw': ['not', 'a', 'string']},
        {'raw': '\udc15', 'tokens': ['ein']}]},
]
KEY = fingerprint(b'{"images": []}')


@pytest.fixture
def store():
    return build_store(copy.deepcopy(IMAGES))


@pytest.fixture
def path(store, tmp_path):
    save_store(tmp_path / 'kept.npz', store, KEY)
    return tmp_path / 'kept.npz'


def arrays_of(path):
    with np.load(path) as file:
        return dict(file)


def assert_same(a, b):
    for name, one, other in zip(ImageStore._fields, a, b, strict=True):
        assert type(one) is type(other), name
        if isinstance(one, np.ndarray):
            assert (one.dtype, one.shape) == (other.dtype, other.shape), name
        assert np.all(one == other), name


def test_tokens_of_some_images(store):
    for numbers in ([0, 2], [1], [], [0, 1, 2]):
        tokens, lengths = store.tokens_of(np.array(numbers, int))
        sentences = [sentence['tokens'] for number in numbers for sentence in IMAGES[number]['sentences']]
        assert [store.words[token] for token in tokens] == [word for words in sentences for word in words]
        assert lengths.tolist() == [len(words) for words in sentences]


@pytest.mark.parametrize('folder', ['', 'a/b', './a//b/', '/a', 'a\\b', '..'])
@pytest.mark.parametrize('name', [
    'x.jpg', 'a/b/x.jpg', 'c/x.jpg', '/x.jpg', './x.jpg', 'a\\b\\x.jpg', '', '.', '..', '...', '..x', 'ü'])
def test_picture_names_are_those_of_picture_name(folder, name):
    images = [{'filepath': folder, 'filename': name}, {'filepath': folder, 'filename': 'y'}, {'filename': name}]
    store = build_store([{**image, 'imgid': 0, 'split': 'val', 'sentences': []} for image in images])
    assert store.picture_names() == [picture_name(image) for image in images]


def test_what_went_in_comes_out(store):
    assert [store.image(number) for number in range(3)] == IMAGES
    assert store.fields(np.array([2, 0, 2])) == [
        {key: value for key, value in IMAGES[number].items() if key != 'sentences'} for number in (2, 0, 2)]
    sentences = [sentence for image in IMAGES for sentence in image['sentences']]
    assert store.sentences(slice(None)) == sentences
    assert store.sentences(np.array([5, 1, 1])) == [sentences[5], sentences[1], sentences[1]]
    assert store.sentences(np.array([], int)) == store.fields(np.array([], int)) == []
    assert store.num_sentences(np.array([2, 1, 0])).tolist() == [3, 1, 2]
    assert store.splits.tolist() == ['train', 'restval', 'train']
    assert store.imgids.tolist() == [min(image['imgid'], 2 ** 63 - 1) for image in IMAGES]


def test_words_are_held_once_and_tokens_as_numbers(store):
    assert store.words == ['ein', 'hund', '犬', '', ' ', 'half a pair \ud83d', '"', 'null']
    assert store.tokens.dtype == np.int32
    assert store.tokens.tolist() == [0, 1, 2, 3, 1, 4, 1, 5, 6, 7, 1, 0]
    assert store.token_starts.tolist() == [0, 3, 3, 7, 10, 11, 12]


def test_what_is_handed_out_is_new_every_time(store):
    image = store.image(0)
    image['sentences'][0]['tokens'].clear()
    image.clear()
    assert store.image(0) == IMAGES[0]


def test_encoding_empties_the_list():
    images = copy.deepcopy(IMAGES)
    build_store(images)
    assert images == []


def test_kept_and_loaded_it_is_the_same(store, path):
    assert_same(load_store(path, KEY), store)
    assert os.listdir(path.parent) == [path.name]


def test_of_another_dataset_json_it_is_not_taken(path):
    assert load_store(path, fingerprint(b'{"images": [] }')) is None


def test_of_another_version_it_is_not_taken(path, monkeypatch):
    monkeypatch.setattr(token_store, 'VERSION', token_store.VERSION + 1)
    assert load_store(path, KEY) is None


def test_cut_short_it_is_not_taken(path):
    whole = path.read_bytes()
    for size in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:size])
        assert load_store(path, KEY) is None


def test_with_any_byte_changed_it_is_not_taken_or_the_same(store, path):
    """A byte of the archive's own, such as a date, may change nothing."""
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        path.write_bytes(damaged)
        found = load_store(path, KEY)
        if found is not None:
            assert_same(found, store)


@pytest.mark.parametrize('name', ImageStore._fields)
@pytest.mark.parametrize('change', [
    lambda a: np.roll(a, 1) if a.size > 1 else a + 1, lambda a: a[:-1] if a.ndim else a[None],
    lambda a: np.concatenate([a, a]) if a.ndim else a - 1, lambda a: a.astype(object), lambda a: np.array('x'),
    lambda a: a[None], lambda a: a.astype('U9') if a.dtype.kind == 'U' else a.astype(np.float64), None],
    ids=['rolled', 'cut', 'doubled', 'pickled', 'text', 'one axis more', 'another type', 'absent'])
def test_written_again_with_one_array_changed_it_is_not_taken(path, name, change):
    arrays = arrays_of(path)
    if change is None:
        del arrays[name]
    else:
        arrays[name] = change(arrays[name])
    np.savez(path, **arrays)
    assert load_store(path, KEY) is None


def test_with_another_seal_it_is_not_taken(path):
    arrays = arrays_of(path)
    for seal in (arrays['seal'][::-1], arrays['seal'][:-1], np.array(1)):
        np.savez(path, **arrays | {'seal': seal})
        assert load_store(path, KEY) is None


@pytest.mark.parametrize('make', [
    lambda path: path.write_text('{"images": []}'), lambda path: path.write_bytes(b''),
    lambda path: np.savez(path, feats=np.ones(3)), lambda path: path.write_bytes(b'PK\x03\x04' + bytes(99)),
    lambda path: np.save(path.open('wb'), np.ones(3)), lambda path: path.write_bytes(b'\x80\x04\x95' + b'x' * 99),
    lambda path: path.mkdir(), lambda path: path.symlink_to('nowhere')],
    ids=['json', 'empty', 'other arrays', 'no archive', 'npy', 'pickle', 'folder', 'dangling link'])
def test_another_file_of_its_name_is_not_taken(path, make):
    path.unlink()
    make(path)
    assert load_store(path, KEY) is None


def test_absent_it_is_not_taken(tmp_path):
    assert load_store(tmp_path / 'kept.npz', KEY) is None


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize('function', ['fsync', 'replace'])
def test_a_full_disk_is_no_error_and_leaves_nothing(store, path, monkeypatch, function):
    before = path.read_bytes()
    monkeypatch.setattr(os, function, full_disk)
    save_store(path, store, KEY + b'x')
    assert (path.read_bytes(), os.listdir(path.parent)) == (before, [path.name])


def test_a_place_that_cannot_be_written_is_no_error(store, tmp_path):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'file').write_text('')
    save_store(tmp_path / 'folder', store, KEY)
    save_store(tmp_path / 'file' / 'kept.npz', store, KEY)
    assert sorted(os.listdir(tmp_path)) == ['file', 'folder'] and os.listdir(tmp_path / 'folder') == []

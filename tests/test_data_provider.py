"""The data provider: what it draws and in which order, and what it says of every mistake in a data folder."""

import copy
import json
import os
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from imagernn.corpus import dataset_file
from imagernn.corpus.captioned_images import getDataProvider
from imagernn.corpus.dataset_file import STORE_NAME
from imagernn.corpus.token_store import fingerprint, load_store
from imagernn.errors import InputError

SHARED = Path(__file__).resolve().parents[1].parent / 'shared'
SPLITS = ['train', 'val', 'train', 'restval', 'train', 'val']
COUNTS = [1, 2, 3, 1, 5, 4]  # sentences of each image
FEATS = np.arange(8 * 3, dtype=np.float32).reshape(8, 3)


def make_data():
    return {'dataset': 'tiny', 'images': [
        {'filename': f'{i}.jpg', 'imgid': i, 'split': split,
         'sentences': [{'tokens': ['image', str(i), 'sentence', str(k)], 'raw': f'Image {i}, sentence {k}.'}
                       for k in range(count)]}
        for i, (split, count) in enumerate(zip(SPLITS, COUNTS, strict=True))]}


def write(root, data, feats=FEATS, encoding='utf-8'):
    folder = root / 'tiny'
    folder.mkdir(parents=True, exist_ok=True)
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    (folder / 'dataset.json').write_text(text, encoding=encoding)
    np.save(folder / 'vgg_feats.npy', feats)


@pytest.fixture
def keep_all(monkeypatch):
    """Even the smallest dataset.json gets a file beside it that keeps its encoded form."""
    monkeypatch.setattr(dataset_file, 'STORE_FROM', 0)


@pytest.fixture(params=['read', 'kept'])
def provider(tmp_path, request):
    """From dataset.json itself, and from what is kept beside it."""
    write(tmp_path, make_data())
    if request.param == 'kept':
        request.getfixturevalue('keep_all')
        getDataProvider('tiny', tmp_path)
        request.getfixturevalue('monkeypatch').setattr(dataset_file, 'parsed', None)
    return getDataProvider('tiny', tmp_path)


def places(pairs):
    """(image, sentence) numbers of pairs."""
    return [(pair['image']['imgid'], int(pair['sentence']['tokens'][3])) for pair in pairs]


TRAIN_PAIRS = [(i, k) for i in (0, 2, 4) for k in range(COUNTS[i])]


def test_sizes(provider):
    assert [provider.getSplitSize(split) for split in ('train', 'val', 'restval')] == [9, 6, 1]
    assert [provider.getSplitSize(split, 'images') for split in ('train', 'val', 'restval')] == [3, 2, 1]
    assert provider.getSplitSizes() == {'train': 3, 'val': 2, 'restval': 1}
    assert provider.getSplitSizes('sentences') == {'train': 9, 'val': 6, 'restval': 1}
    with pytest.raises(ValueError, match="'words'; expected one of sentences, images"):
        provider.getSplitSize('train', 'words')


def test_iteration_in_order(provider):
    assert [image['imgid'] for image in provider.iterImages('train')] == [0, 2, 4]
    assert places(provider.iterImageSentencePair('train')) == TRAIN_PAIRS
    assert [sentence['tokens'][1] for sentence in provider.iterSentences('val')] == list('115555')
    assert [sentence['raw'] for sentence in provider.iterSentences('restval')] == ['Image 3, sentence 0.']


@pytest.mark.parametrize('max_images, images', [(None, 3), (-1, 3), (-7, 3), (0, 0), (1, 1), (2, 2), (3, 3), (99, 3)])
def test_max_images_means_the_same_everywhere(provider, max_images, images):
    imgids = [0, 2, 4][:images]
    pairs = [(i, k) for i, k in TRAIN_PAIRS if i in imgids]
    assert [image['imgid'] for image in provider.iterImages('train', max_images)] == imgids
    assert len(list(provider.iterImages('train', max_images, np.random.default_rng(0)))) == images
    assert places(provider.iterImageSentencePair('train', max_images)) == pairs
    assert len(list(provider.iterSentences('train', max_images))) == len(pairs)
    assert sum(map(places, provider.iterImageSentencePairBatch('train', max_images, 2)), []) == pairs


@pytest.mark.parametrize('size', [1, 2, 3, 4, 9, 10, 100])
def test_batches(provider, size):
    batches = [places(batch) for batch in provider.iterImageSentencePairBatch('train', max_batch_size=size)]
    assert batches == [TRAIN_PAIRS[start:start + size] for start in range(0, 9, size)]


@pytest.mark.parametrize('size', [0, -1])
def test_a_batch_of_nothing_is_refused(provider, size):
    with pytest.raises(InputError, match=f'batch size is {size}; expected at least 1'):
        provider.iterImageSentencePairBatch('train', max_batch_size=size)


def test_shuffled_iteration_comes_from_the_generator(provider):
    def order(seed):
        return [image['imgid'] for image in provider.iterImages('train', rng=np.random.default_rng(seed))]

    assert all(sorted(order(seed)) == [0, 2, 4] for seed in range(9))
    assert order(3) == order(3) and len({tuple(order(seed)) for seed in range(50)}) == 6
    shuffled = places(provider.iterImageSentencePair('train', rng=np.random.default_rng(1)))
    assert sorted(shuffled) == TRAIN_PAIRS and [k for i, k in shuffled if i == 4] == [0, 1, 2, 3, 4]


def test_sampling_is_uniform_over_images_then_over_their_sentences(provider):
    n = 20000
    drawn = Counter(places(provider.sampleImageSentencePairs('train', n, np.random.default_rng(0))))
    assert sorted(drawn) == TRAIN_PAIRS
    for (imgid, _), count in drawn.items():
        share = 1 / (3 * COUNTS[imgid])
        assert abs(count - n * share) < 5 * np.sqrt(n * share * (1 - share))
    assert {provider.sampleImage('val', np.random.default_rng(seed))['imgid'] for seed in range(20)} == {1, 5}


def test_sampling_repeats_with_the_seed(provider):
    pairs = [provider.sampleImageSentencePairs('train', 50, np.random.default_rng(4)) for _ in range(2)]
    assert places(pairs[0]) == places(pairs[1])
    assert provider.sampleImageSentencePairs('train', 0, np.random.default_rng(0)) == []


def test_what_is_drawn_is_as_in_dataset_json(provider):
    images = [image for image in make_data()['images'] if image['split'] == 'train']
    rng, same = np.random.default_rng(5), np.random.default_rng(5)
    for n in (1, 7, 100):
        chosen = same.integers(3, size=n)
        sentences = same.integers([[1, 3, 5][i] for i in chosen])
        expected = [{'image': {key: value for key, value in images[i].items() if key != 'sentences'},
                     'sentence': images[i]['sentences'][k]} for i, k in zip(chosen, sentences, strict=True)]
        assert provider.sampleImageSentencePairs('train', n, rng) == expected
    assert provider.sampleImage('train', rng) == images[same.integers(3)]
    assert list(provider.iterImages('train', rng=rng)) == [images[i] for i in same.permutation(3)]


def test_features_of_a_batch_at_once(provider):
    batch = next(provider.iterImageSentencePairBatch('val', max_batch_size=3))
    rows = provider.features.rows([pair['image']['imgid'] for pair in batch])
    np.testing.assert_array_equal(rows, FEATS[[1, 1, 5]])


@pytest.mark.parametrize('use', [
    lambda p, s: p.getSplitSize(s), lambda p, s: p.iterImages(s), lambda p, s: p.iterImageSentencePair(s),
    lambda p, s: p.iterImageSentencePairBatch(s), lambda p, s: p.iterSentences(s),
    lambda p, s: p.sampleImage(s, np.random.default_rng(0)),
    lambda p, s: p.sampleImageSentencePair(s, np.random.default_rng(0)),
    lambda p, s: p.sampleImageSentencePairs(s, 3, np.random.default_rng(0))])
@pytest.mark.parametrize('split', ['test', 'dev'])
def test_a_split_without_images_names_those_that_there_are(provider, use, split):
    told = rf"dataset.json: there are no images in split '{split}'; it has train \(3 images\), val \(2.*restval \(1"
    with pytest.raises(InputError, match=told):
        use(provider, split)


def test_image_path(tmp_path):
    data = make_data()
    data['images'][1]['filepath'] = 'val2014'
    write(tmp_path, data)
    provider = getDataProvider('tiny', str(tmp_path))
    paths = [provider.image_path(image) for image in data['images'][:2]]
    assert paths == [tmp_path / 'tiny' / 'imgs' / '0.jpg', tmp_path / 'tiny' / 'imgs' / 'val2014' / '1.jpg']


def test_features_are_looked_up_in_the_folder_first(tmp_path):
    write(tmp_path, make_data())
    np.save(tmp_path / 'tiny' / 'other.npy', FEATS + 1)
    np.save(tmp_path / 'elsewhere.npy', FEATS + 2)
    first = [getDataProvider('tiny', tmp_path, name).features.rows([0])[0, 0]
             for name in (None, 'other.npy', tmp_path / 'elsewhere.npy', str(tmp_path / 'elsewhere.npy'))]
    assert first == [0, 1, 2, 2]
    with pytest.raises(InputError, match='nowhere.npy: there is no such feature file, neither in .*tiny nor as a path'):
        getDataProvider('tiny', tmp_path, 'nowhere.npy')
    (tmp_path / 'tiny' / 'vgg_feats.npy').unlink()
    with pytest.raises(InputError, match='looked for vgg_feats.mat.*It has other.npy.*--features'):
        getDataProvider('tiny', tmp_path)


@pytest.mark.parametrize('change', [
    lambda d: d['images'][0]['sentences'][0].update(tokens=[]),  # an empty caption is allowed
    lambda d: d['images'][0]['sentences'][0].pop('raw'),
    lambda d: d['images'][0].update(imgid=7),
    lambda d: d['images'].reverse(),
    lambda d: d['images'][0].update(filename='größe 犬.jpg', extra=None)])
def test_what_is_allowed(tmp_path, change):
    data = make_data()
    change(data)
    for encoding in ('utf-8', 'utf-8-sig'):
        write(tmp_path, data, encoding=encoding)
        provider = getDataProvider('tiny', tmp_path)
        assert list(provider.iterImages('train')) == [image for image in data['images'] if image['split'] == 'train']


def first(data):
    return data['images'][0]


def sentence(data):
    return data['images'][2]['sentences'][1]


BAD = {
    'no images': (lambda d: d.pop('images'), ['no list "images"', 'found: dataset']),
    'images not a list': (lambda d: d.update(images={}), ['no list "images"']),
    'images empty': (lambda d: d.update(images=[]), ['"images" is empty', 'at least one']),
    'image not an object': (lambda d: d['images'].insert(1, 'x'), ['image 1: is a string', 'expected an object']),
    'no filename': (lambda d: first(d).pop('filename'), ["image 0: has no 'filename'"]),
    'filename not a string': (lambda d: first(d).update(filename=3), ["image 0: 'filename' is a number"]),
    'filepath not a string': (lambda d: first(d).update(filepath=None), ["'filepath' is null", 'a string']),
    'no imgid': (lambda d: first(d).pop('imgid'), ["image 0 ('0.jpg'): has no 'imgid'"]),
    'no split': (lambda d: first(d).pop('split'), ["image 0 ('0.jpg'): has no 'split'"]),
    'no sentences': (lambda d: first(d).pop('sentences'), ["image 0 ('0.jpg'): has no 'sentences'"]),
    'imgid a string': (lambda d: first(d).update(imgid='0'), ["imgid is '0'", 'expected an integer']),
    'imgid a fraction': (lambda d: first(d).update(imgid=0.5), ['imgid is 0.5', 'expected an integer']),
    'imgid true': (lambda d: first(d).update(imgid=True), ['imgid is True', 'expected an integer']),
    'imgid null': (lambda d: first(d).update(imgid=None), ['imgid is None', 'expected an integer']),
    'imgid negative': (lambda d: first(d).update(imgid=-1), ['imgid is -1', '0 or more']),
    'imgid too high': (lambda d: first(d).update(imgid=8), ["image 0 ('0.jpg'): imgid 8", 'from 0 to 7', 'npy']),
    'imgid beyond all': (lambda d: first(d).update(imgid=10 ** 30), ['imgid 1000000', 'from 0 to 7']),
    'imgid twice': (lambda d: d['images'][4].update(imgid=0),
                    ["image 4 ('4.jpg'): imgid 0 is that of image 0 ('0.jpg') too", 'each imgid once']),
    'unknown split': (lambda d: first(d).update(split='dev'), ["split is 'dev'", 'train, val, test, restval']),
    'split a list': (lambda d: first(d).update(split=[]), ['split is []', 'train, val, test, restval']),
    'sentences not a list': (lambda d: first(d).update(sentences={}), ["'sentences' is an object", 'a list']),
    'sentences empty': (lambda d: first(d).update(sentences=[]), ['has no sentences', 'at least one']),
    'sentence a string': (lambda d: d['images'][2]['sentences'].insert(1, 'a'), ["('2.jpg'): sentence 1 is a string"]),
    'no tokens': (lambda d: sentence(d).pop('tokens'), ["image 2 ('2.jpg'): sentence 1 has no 'tokens'"]),
    'tokens a string': (lambda d: sentence(d).update(tokens='a dog'), ["sentence 1 'tokens' is a string"]),
    'token a number': (lambda d: sentence(d).update(tokens=['a', 2]), ['sentence 1 token 1 is a number, 2']),
    'token null': (lambda d: sentence(d).update(tokens=[None]), ['token 0 is null', 'expected a string']),
}


@pytest.mark.parametrize('change, told', BAD.values(), ids=BAD)
def test_a_bad_entry_is_named(tmp_path, change, told):
    data = make_data()
    change(data)
    write(tmp_path, data)
    with pytest.raises(InputError) as caught:
        getDataProvider('tiny', tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'tiny' / 'dataset.json'}: ")
    assert [part for part in told if part not in message] == []


@pytest.mark.parametrize('text, encoding, told', [
    ('{"images": [\n  {"imgid": }]}', 'utf-8', 'is not valid JSON at line 2, column 13'),
    ('', 'utf-8', 'is not valid JSON at line 1, column 1'),
    ('{"images": [{"filename": "größe.jpg"}]}', 'latin-1', 'is not UTF-8 at byte 28'),
    ('[]', 'utf-8', 'the top level is a list; expected an object'),
    ('null', 'utf-8', 'the top level is null; expected an object')])
def test_a_bad_file_is_named(tmp_path, text, encoding, told):
    write(tmp_path, text, encoding=encoding)
    with pytest.raises(InputError, match=f'dataset.json: {told}'):
        getDataProvider('tiny', tmp_path)


def test_a_missing_data_set_names_those_that_there_are(tmp_path):
    with pytest.raises(InputError, match='absent: there is no such folder; .* has no data sets.*--data_root'):
        getDataProvider('absent', tmp_path)
    write(tmp_path, make_data())
    with pytest.raises(InputError, match='absent: there is no such folder; .* has the data sets tiny: .*--dataset'):
        getDataProvider('absent', tmp_path)
    (tmp_path / 'hollow').mkdir()
    with pytest.raises(InputError, match='hollow: has no dataset.json; .* the data sets tiny: .*prepare_coco.py'):
        getDataProvider('hollow', tmp_path)


@pytest.mark.parametrize('shape, told', [
    ((5, 3), ['of 5 images, 3 numbers each', 'lists 6 images', 'at least as many', '--features']),
    ((3, 6), ['of 3 images, 6 numbers each', 'lists 6 images', 'looks transposed', 'one image per column in .mat']),
    ((4096, 6), ['of 4096 images, 6 numbers', 'lists 6 images', 'looks transposed', 'keep only the first 6 images'])])
def test_features_that_do_not_fit(tmp_path, shape, told):
    write(tmp_path, make_data(), np.ones(shape))
    with pytest.raises(InputError) as caught:
        getDataProvider('tiny', tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'tiny' / 'vgg_feats.npy'}: ")
    assert [part for part in told if part not in str(caught.value)] == []


def test_a_subset_of_the_images_may_use_the_whole_feature_file(tmp_path):
    data = make_data()
    data['images'] = data['images'][3:]
    write(tmp_path, data, np.ones((6, 5)))
    assert getDataProvider('tiny', tmp_path).getSplitSizes() == {'train': 1, 'val': 1, 'restval': 1}


def test_loading_changes_nothing(tmp_path):
    data = make_data()
    data['images'] = [{**copy.deepcopy(data['images'][4]), 'imgid': i} for i in range(8000)]
    write(tmp_path, data, np.ones((8000, 2), np.float32))
    provider = getDataProvider('tiny', tmp_path)
    assert list(provider.iterImages('train')) == data['images']


def test_a_provider_holds_no_object_a_word(tmp_path):
    data = make_data()
    sentence = {'tokens': [f'word{k}' for k in range(50)], 'raw': 'Words.'}
    data['images'] = [{**data['images'][0], 'imgid': i, 'sentences': [sentence] * 5} for i in range(1000)]
    write(tmp_path, data, np.ones((1000, 2), np.float32))
    tracemalloc.start()
    try:
        provider = getDataProvider('tiny', tmp_path)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    words = 50 * provider.getSplitSize('train')
    assert 4 * words < held < 6 * words    # an int32 is 4 bytes, a word and its place in a list 60


def test_a_small_data_set_gets_no_file(provider, tmp_path, request):
    kept = [STORE_NAME] if 'kept' in request.node.name else []
    assert sorted(os.listdir(tmp_path / 'tiny')) == [*kept, 'dataset.json', 'vgg_feats.npy']


def test_a_large_data_set_gets_one(tmp_path, monkeypatch):
    write(tmp_path, make_data())
    path = tmp_path / 'tiny' / 'dataset.json'
    for size, there in ((path.stat().st_size + 1, False), (path.stat().st_size, True)):
        monkeypatch.setattr(dataset_file, 'STORE_FROM', size)
        getDataProvider('tiny', tmp_path)
        assert (tmp_path / 'tiny' / STORE_NAME).is_file() == there


def captions(provider):
    return [sentence['raw'] for sentence in provider.iterSentences('train')]


def test_an_edit_is_seen_even_if_size_and_time_stay(tmp_path, keep_all):
    write(tmp_path, make_data())
    before, path = captions(getDataProvider('tiny', tmp_path)), tmp_path / 'tiny' / 'dataset.json'
    status, text = path.stat(), path.read_text(encoding='utf-8')
    for caption in ('Image 4, sentence 2!', 'Image 4, sentence 2.'):    # there, and back again
        path.write_text(text.replace('Image 4, sentence 2.', caption), encoding='utf-8')
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert path.stat().st_size == status.st_size
        for _ in range(2):
            assert captions(getDataProvider('tiny', tmp_path)) == [*before[:-3], caption, *before[-2:]]


def test_an_edit_is_checked(tmp_path, keep_all):
    write(tmp_path, make_data())
    getDataProvider('tiny', tmp_path)
    data = make_data()
    sentence(data)['tokens'][1] = 2
    write(tmp_path, data)
    for _ in range(2):
        with pytest.raises(InputError, match='sentence 1 token 1 is a number, 2'):
            getDataProvider('tiny', tmp_path)


def test_other_features_are_checked(tmp_path, keep_all):
    write(tmp_path, make_data())
    getDataProvider('tiny', tmp_path)
    np.save(tmp_path / 'tiny' / 'vgg_feats.npy', FEATS[:5])
    with pytest.raises(InputError, match='of 5 images, 3 numbers each, .* lists 6 images'):
        getDataProvider('tiny', tmp_path)


def test_what_is_kept_is_made_anew_when_it_is_damaged(tmp_path, keep_all):
    write(tmp_path, make_data())
    expected, kept = captions(getDataProvider('tiny', tmp_path)), tmp_path / 'tiny' / STORE_NAME
    key, whole = fingerprint((tmp_path / 'tiny' / 'dataset.json').read_bytes()), kept.read_bytes()
    for damaged in (b'', whole[:-1], whole[:1000] + bytes(1000) + whole[2000:], b'{}'):
        kept.write_bytes(damaged)
        assert load_store(kept, key) is None
        assert captions(getDataProvider('tiny', tmp_path)) == expected
        assert load_store(kept, key) is not None


def test_where_nothing_can_be_kept_the_data_load_all_the_same(tmp_path, keep_all):
    write(tmp_path, make_data())
    (tmp_path / 'tiny' / STORE_NAME).mkdir()
    assert len(captions(getDataProvider('tiny', tmp_path))) == 9
    assert sorted(os.listdir(tmp_path / 'tiny')) == [STORE_NAME, 'dataset.json', 'vgg_feats.npy']


def test_several_may_start_at_the_same_time(tmp_path, keep_all):
    write(tmp_path, make_data())
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: captions(getDataProvider('tiny', tmp_path)), range(40)))
    assert found == [found[0]] * 40 and len(found[0]) == 9
    assert sorted(os.listdir(tmp_path / 'tiny')) == [STORE_NAME, 'dataset.json', 'vgg_feats.npy']


def test_flickr8k():
    if not (SHARED / 'data' / 'flickr8k' / 'dataset.json').is_file():
        pytest.skip('the shared data folder is absent')
    provider = getDataProvider('flickr8k', SHARED / 'data', 'lite0_feats.h5')
    assert provider.getSplitSizes() == {'train': 6000, 'val': 1000, 'test': 1000}
    assert provider.getSplitSize('train') == 30000
    assert (provider.features.num_images, provider.features.dim) == (8000, 1280)
    assert all(provider.image_path(image).is_file() for image in provider.iterImages('test', 5))
    words = Counter(word for s in provider.iterSentences('train') for word in s['tokens'])
    assert sum(count >= 5 for count in words.values()) == 2537


@pytest.mark.parametrize('text', ['[' * 100000, '{"images": ' + '9' * 5000 + '}'])
def test_json_that_breaks_the_reader_is_a_message(tmp_path, text):
    folder = tmp_path / 'tiny'
    folder.mkdir()
    (folder / 'dataset.json').write_text(text, encoding='utf-8')
    with pytest.raises(InputError, match='dataset.json'):
        getDataProvider('tiny', tmp_path)


def test_karpathys_file_name_is_named(tmp_path):
    (tmp_path / 'flickr8k').mkdir()
    (tmp_path / 'flickr8k' / 'dataset_flickr8k.json').touch()
    with pytest.raises(InputError, match=r'dataset_flickr8k\.json; .* copy it to .*dataset\.json'):
        getDataProvider('flickr8k', tmp_path)

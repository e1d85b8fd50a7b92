"""data/make_scenes.py: the folder that it makes, the truth of its sentences, and what it refuses."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat

from imagernn.corpus.captioned_images import getDataProvider

SCRIPT = Path(__file__).parent.parent / 'data' / 'make_scenes.py'
spec = importlib.util.spec_from_file_location('make_scenes', SCRIPT)
make_scenes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_scenes)

COUNT = 24


def make(folder, *flags, images=COUNT):
    return make_scenes.main(['--output', str(folder), '--images', str(images), *flags])


def contents(folder):
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.rglob('*')}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data') / 'scenes'
    assert make(folder) == 0
    return folder


@pytest.fixture(scope='module')
def dataset(folder):
    return json.loads((folder / 'dataset.json').read_text(encoding='utf-8'))


@pytest.fixture(scope='module')
def features(folder):
    return loadmat(folder / 'vgg_feats.mat')['feats']


def test_layout(folder, dataset):
    assert sorted(path.name for path in folder.iterdir()) == ['dataset.json', 'imgs', 'vgg_feats.mat']
    assert (dataset['dataset'], dataset['seed'], dataset['count']) == ('scenes', 0, COUNT)
    assert [image['imgid'] for image in dataset['images']] == list(range(COUNT))
    sentids = [sentid for image in dataset['images'] for sentid in image['sentids']]
    assert sentids == [s['sentid'] for image in dataset['images'] for s in image['sentences']]
    assert sentids == list(range(5 * COUNT))
    assert all(s['imgid'] == image['imgid'] for image in dataset['images'] for s in image['sentences'])


def test_the_data_provider_reads_the_folder(folder):
    provider = getDataProvider(folder.name, data_root=str(folder.parent))
    assert provider.getSplitSize('train', ofwhat='images') == 16


def test_splits(dataset):
    splits = [image['split'] for image in dataset['images']]
    assert {name: splits.count(name) for name in set(splits)} == {'train': 16, 'val': 4, 'test': 4}


def test_three_images_fill_three_splits():
    splits = make_scenes.draw_splits(3, np.random.default_rng(0))
    assert sorted(splits) == ['test', 'train', 'val']


def test_each_image_has_five_different_sentences_of_plain_words(dataset):
    for image in dataset['images']:
        assert len({tuple(s['tokens']) for s in image['sentences']}) == len(image['sentences']) == 5
        for sentence in image['sentences']:
            tokens, raw = sentence['tokens'], sentence['raw']
            assert 5 <= len(tokens) <= 16
            assert all(re.fullmatch('[a-z]+', token) for token in tokens)
            assert raw == ' '.join(tokens).capitalize() + '.'


def test_articles_and_verbs_agree():
    rng = np.random.default_rng(1)
    for _ in range(300):
        for tokens in make_scenes.describe(make_scenes.compose(rng), rng):
            text = ' '.join(tokens)
            assert not re.search(r'\ba [aeiou]|\ban [^aeiou]', text), text
            assert not re.search(r'\bthere (is (two|three|four)|are an?)\b', text), text


def test_sentences_name_only_what_is_there():
    rng = np.random.default_rng(2)
    kinds = {word: (kind, number > 0) for kind, entry in make_scenes.KINDS.items()
             for words in entry.nouns for number, word in enumerate(words)}
    numbers = {word: number for number, word in make_scenes.NUMBERS.items()} | {'a': 1, 'an': 1, 'the': 1}
    adjectives = [*make_scenes.COLOURS, *(word for *_, words in make_scenes.SIZES.values() for word in words)]
    phrase = re.compile(rf'\b({"|".join(numbers)})((?: (?:{"|".join(adjectives)}))*) ({"|".join(kinds)})\b')
    for _ in range(300):
        scene = make_scenes.compose(rng)
        there = {(group.kind, group.count): group for group in scene.groups}
        for tokens in make_scenes.describe(scene, rng):
            found = phrase.findall(' '.join(tokens))
            assert found, tokens
            for number, adjectives, noun in found:
                kind, many = kinds[noun]
                group = there[kind, numbers[number]]
                assert many == (group.count > 1) or kind == 'fish', tokens
                assert set(adjectives.split()) <= {group.colour, *make_scenes.SIZES[group.size][2]}, tokens


def test_objects_stay_in_the_picture_and_apart():
    rng = np.random.default_rng(3)
    for _ in range(500):
        scene = make_scenes.compose(rng)
        for group in scene.groups:
            assert len(group.boxes) == group.count
            for x, y, w, h in group.boxes:
                assert min(x, y) >= 0 and max(x + w, y + h) <= make_scenes.SIDE
        if scene.relation == 'left':
            left, right = scene.groups
            assert max(x + w for x, _, w, _ in left.boxes) < min(x for x, *_ in right.boxes)
        if scene.relation == 'above':
            over, under = scene.groups
            assert max(y + h for _, y, _, h in over.boxes) < min(y for _, y, *_ in under.boxes)


def test_every_image_has_a_picture_and_a_column(folder, dataset, features):
    assert features.shape == (4096, COUNT) and features.dtype == np.float32
    assert np.isfinite(features).all() and features.min() >= 0
    assert len({column.tobytes() for column in features.T}) == COUNT
    for image in dataset['images']:
        with Image.open(folder / 'imgs' / image['filename']) as picture:
            assert picture.size == (160, 160)
            again = make_scenes.image_features(picture)
        np.testing.assert_array_equal(again, features[:, image['imgid']])


def test_features_of_any_picture():
    for picture in (Image.new('L', (37, 90)), Image.new('RGBA', (1, 1)), Image.new('RGB', (200, 100), 'white')):
        assert np.isfinite(make_scenes.image_features(picture)).all()


def test_regions_are_the_objects():
    mask = np.zeros((80, 80), bool)
    mask[10:20, 5:15] = mask[10:20, 30:50] = mask[40:60, 8:12] = True
    boxes = [(y.start, y.stop, x.start, x.stop) for y, x in make_scenes.region_boxes(mask)]
    assert boxes == [(10, 20, 5, 15), (40, 60, 8, 12), (10, 20, 30, 50)]


def test_the_seed_determines_everything(folder, features, tmp_path):
    assert make(tmp_path / 'again') == 0
    assert (tmp_path / 'again' / 'dataset.json').read_bytes() == (folder / 'dataset.json').read_bytes()
    np.testing.assert_array_equal(loadmat(tmp_path / 'again' / 'vgg_feats.mat')['feats'], features)
    assert make(tmp_path / 'other', '--seed', '1', images=3) == 0
    assert ((tmp_path / 'other' / 'imgs' / 'scene_0000.jpg').read_bytes()
            != (folder / 'imgs' / 'scene_0000.jpg').read_bytes())


def test_a_complete_folder_is_left_as_it_is(folder, capsys):
    before = contents(folder)
    assert make(folder) == 0
    assert contents(folder) == before
    assert 'already complete' in capsys.readouterr().out


def test_other_scenes_are_replaced_only_with_force(tmp_path, capsys):
    folder = tmp_path / 'scenes'
    assert make(folder, images=3) == 0
    before = contents(folder)
    assert make(folder, images=4) == 2
    assert '--force' in capsys.readouterr().err
    assert contents(folder) == before
    assert make(folder, '--force', images=4) == 0
    assert len(list((folder / 'imgs').iterdir())) == 4
    assert [path.name for path in tmp_path.iterdir()] == ['scenes']


@pytest.mark.parametrize('flags', [(), ('--force',)])
@pytest.mark.parametrize('text', ['{"images": []}', '[]', 'not json', None])
def test_a_folder_that_the_script_did_not_make_is_refused(tmp_path, capsys, text, flags):
    (tmp_path / 'notes.txt').write_text('mine')
    if text is not None:
        (tmp_path / 'dataset.json').write_text(text)
    before = contents(tmp_path)
    assert make(tmp_path, *flags) == 2
    assert contents(tmp_path) == before
    assert 'not made by this script' in capsys.readouterr().err


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / 'file').write_text('mine')
    assert make(tmp_path / 'file') == 2
    assert make(tmp_path / 'file' / 'scenes') == 2
    assert (tmp_path / 'file').read_text() == 'mine'


@pytest.mark.parametrize('flags, name', [(('--images', '0'), '--images'), (('--images', '-5'), '--images'),
                                         (('--images', '2'), '--images'), (('--seed', '-1'), '--seed')])
def test_invalid_values_are_refused(tmp_path, capsys, flags, name):
    assert make_scenes.main(['--output', str(tmp_path / 'scenes'), *flags]) == 2
    assert name in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_nothing_is_left_after_a_failure(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(make_scenes, 'savemat', full)
    assert make(tmp_path / 'scenes', images=3) == 2
    assert not any(tmp_path.iterdir())

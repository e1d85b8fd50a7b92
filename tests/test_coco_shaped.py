"""benchmarks/coco_shaped.py: a data set with COCO's size and statistics, always the same."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import poisson

from imagernn.corpus.captioned_images import getDataProvider

SCRIPT = Path(__file__).parent.parent / 'benchmarks' / 'coco_shaped.py'
spec = importlib.util.spec_from_file_location('coco_shaped', SCRIPT)
coco_shaped = importlib.util.module_from_spec(spec)
spec.loader.exec_module(coco_shaped)


def make(folder, *flags, images=500):
    return coco_shaped.main(['--output', str(folder), '--images', str(images), *flags])


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data') / 'coco_shaped'
    assert make(folder) == 0
    return folder


def test_it_is_a_data_set(folder):
    assert sorted(path.name for path in folder.iterdir()) == ['dataset.json', 'vgg_feats.h5']
    provider = getDataProvider(folder.name, folder.parent)
    assert provider.getSplitSizes() == {'train': 460, 'val': 20, 'test': 20} == coco_shaped.split_sizes(500)
    assert provider.getSplitSize('train') == 5 * 460
    assert {len(sentence['tokens']) for sentence in provider.iterSentences('train')} <= set(coco_shaped.LENGTHS)
    features = provider.features.rows(range(500))
    assert (features.shape, provider.features.dtype) == ((500, 4096), np.float16)
    assert features.min() == 0 and .6 < (features == 0).mean() < .75 and features.max() < 20


def test_it_is_always_the_same(folder, tmp_path):
    make(tmp_path / 'again')
    for name in coco_shaped.FILES:
        assert (tmp_path / 'again' / name).read_bytes() == (folder / name).read_bytes()


def test_at_full_size_it_has_coco_s_splits_and_vocabulary():
    sizes = coco_shaped.split_sizes(coco_shaped.IMAGES)
    assert sizes == {'val': 5000, 'test': 5000, 'train': 113287}
    shares = coco_shaped.word_shares()
    mean = np.average(list(coco_shaped.LENGTHS), weights=list(coco_shaped.LENGTHS.values()))
    expected = poisson.sf(4, shares * mean * 5 * sizes['train']).sum()    # words that occur five times
    assert abs(expected / 8800 - 1) < .02 and len(shares) > 25000


def test_the_words_are_different():
    names = coco_shaped.word_names(30000)
    assert len(set(names)) == 30000 and all(map(str.isalpha, names))


def test_words_keep_their_frequencies_and_narrow_down_the_next():
    rng = np.random.default_rng(1)
    words, lengths = coco_shaped.draw_sentences(rng.random(20000), rng)
    assert len(words) == lengths.sum()
    shares = coco_shaped.word_shares()
    np.testing.assert_allclose(np.bincount(words)[:10] / len(words), shares[:10], rtol=.05)
    after = [words[1:][words[:-1] == word] for word in np.flatnonzero(np.bincount(words) > 500)]
    assert len(after) > 20
    assert np.mean([np.bincount(a).max() / len(a) for a in after]) > 1.5 * shares[0]


def test_what_is_there_stays_unless_forced(folder, tmp_path, capsys):
    before = (folder / 'dataset.json').stat().st_mtime_ns
    assert make(folder) == 0 and 'exists already with 500 images' in capsys.readouterr().out
    assert make(folder, images=20) == 2 and 'contains 500 images, but --images is 20' in capsys.readouterr().err
    assert (folder / 'dataset.json').stat().st_mtime_ns == before
    (tmp_path / 'mine').write_text('')
    assert make(tmp_path, '--force') == 2 and 'was not made by this script' in capsys.readouterr().err
    assert make(tmp_path / 'new', images=2) == 2 and 'must be at least 3' in capsys.readouterr().err
    assert make(tmp_path / 'new', images=20) == make(tmp_path / 'new', '--force', images=30) == 0
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith('.')] == []
    assert coco_shaped.images_there(tmp_path / 'new') == 30

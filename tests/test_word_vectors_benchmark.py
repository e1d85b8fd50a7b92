"""benchmarks/word_vectors.py: the share of the images, and the intervals of its table. Nothing is trained."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = str(Path(__file__).resolve().parents[1] / 'benchmarks')
VALUES = {'scratch': [20., 21., 22.], 'fixed': [22., 23., 24.], 'fine-tuned': [19., 20., 21.]}


@pytest.fixture
def word_vectors(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module('word_vectors')


def test_a_tenth_leaves_out_training_images_alone_and_is_always_the_same(word_vectors, tmp_path):
    images = [{'imgid': i, 'split': 'train' if i < 40 else 'val' if i < 45 else 'test'} for i in range(50)]
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/dataset.json').write_text(json.dumps({'images': images}), encoding='utf-8')
    args = word_vectors.parse([str(tmp_path / 'data'), 'glove.txt', '--output', str(tmp_path)])
    assert word_vectors.data_of(args, 1) == tmp_path / 'data'
    found = [json.loads((word_vectors.data_of(args, .1) / 'dataset.json').read_text(encoding='utf-8'))['images']
             for _ in range(2)]
    assert found[0] == found[1]
    assert [image['split'] for image in found[0]] == ['train'] * 4 + ['val'] * 5 + ['test'] * 5


def test_the_interval_over_seeds_is_students(word_vectors):
    # the variance is 1 in each arm, t with 6 degrees of freedom 2.4469
    half = 2.4469 * np.sqrt(2 / 3)
    np.testing.assert_allclose(word_vectors.seed_interval(VALUES, 'fixed'), (2 - half, 2 + half), atol=1e-4)
    assert np.isnan(word_vectors.seed_interval({arm: [1.] for arm in VALUES}, 'fixed')).all()


def test_the_table_has_the_seeds_of_which_all_arms_have_results(word_vectors, tmp_path, capsys):
    argv = [str(tmp_path), 'glove.txt', '--output', str(tmp_path), '--only_table', '--shares', '1']
    for arm, values in VALUES.items():
        for seed, value in enumerate(values[:2] if arm == 'fixed' else values):
            (tmp_path / f'{arm}_1_seed{seed}.json').write_text(json.dumps(
                {'val_perplexity': value, 'test_perplexity': value, 'Bleu_4': .2, 'CIDEr': .5}), encoding='utf-8')
            caption = 'a dog runs' if arm == 'scratch' else 'a dog runs fast'
            (tmp_path / f'{arm}_1_seed{seed}_captions.json').write_text(json.dumps({'imgblobs': [
                {'candidate': {'text': caption}, 'references': [{'text': f'a dog runs fast {i}'}]}
                for i in range(3)]}), encoding='utf-8')
    assert word_vectors.main(argv) == 0
    printed = capsys.readouterr().out
    assert 'seeds: 0, 1\n' in printed
    assert '| perplexity on val | scratch | 20.50 |' in printed and '| fixed | 22.50 | +2.00 |' in printed

"""benchmarks/scores.py: its jobs run on a small file, both sides agree, errors are reported. No time is asserted."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from imagernn.errors import InputError
from imagernn.metrics import CaptionStatistics
from imagernn.metrics.meteor import MeteorUnavailable, find_jar

BENCHMARKS = str(Path(__file__).resolve().parents[1] / 'benchmarks')
sys.path.append(BENCHMARKS)
scores = importlib.import_module('scores')
sys.path.remove(BENCHMARKS)


@pytest.fixture
def captions(tmp_path):
    """A file of annotations: 60 images with 3 captions, each with a token that contains a no-break space."""
    rng = np.random.default_rng(0)
    annotations = [{'image_id': image, 'id': 3 * image + k,
                    'caption': ' '.join(['A', *(f'w{word}' for word in rng.integers(0, 9, 6)), 'near 22 3/4 streets.'])}
                   for image in range(60) for k in range(3)]
    path = tmp_path / 'captions.json'
    path.write_text(json.dumps({'annotations': annotations}), encoding='utf-8')
    return path


def test_coverage_and_large(captions, capsys, monkeypatch):
    monkeypatch.setattr(scores, 'SAMPLES', 3)
    monkeypatch.setattr(scores, 'SAMPLE', 20)
    monkeypatch.setattr(scores, 'VAL2014', 100)
    assert scores.main([str(captions), '--jobs', 'coverage']) == 0
    printed = capsys.readouterr().out
    assert printed.count('%') == 4 * 11 + 1 and 'a person, or noise' in printed
    assert scores.main([str(captions), '--large_here']) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found['seconds']) == 4 and found['peak'] >= found['before'] > 1e7
    assert found['words'] == 100 * 5 * 10    # "22 3/4" is one token


def test_both_sides_agree(captions):
    try:
        find_jar()
    except MeteorUnavailable as error:
        pytest.skip(str(error))
    same, after = scores.check(*scores.systems(scores.read_references(captions))['odd'])
    assert same < scores.SAME and after < 1


def test_images_are_exchanged():
    one, other = (CaptionStatistics(np.full((3, 10), value), *np.full((3, 3), value)) for value in (1, 2))
    found = scores.exchanged(one, other, np.array([True, False, True]))
    assert found.rouge_l.tolist() == found.bleu[:, 9].tolist() == [2, 1, 2] and found.meteor is None


@pytest.mark.parametrize('text, problem', [('[]', 'not a file of COCO'), ('{', 'not a file of COCO'),
                                           ('{"annotations": [{"id": 1}]}', "KeyError: 'image_id'"),
                                           ('{"annotations": []}', 'has 0 images')])
def test_a_file_of_another_kind(tmp_path, capsys, text, problem):
    (tmp_path / 'x.json').write_text(text, encoding='utf-8')
    assert scores.main([str(tmp_path / 'x.json')]) == 2
    assert problem in capsys.readouterr().err


def test_without_pycocoevalcap(captions, capsys, monkeypatch):
    monkeypatch.setattr(scores.importlib.util, 'find_spec', lambda name: None)
    assert scores.main([str(captions)]) == 2
    assert "pip install -e '.[metrics]'" in capsys.readouterr().err
    monkeypatch.setattr(scores.importlib.util, 'find_spec', lambda name: True)
    monkeypatch.setattr(scores.shutil, 'which', lambda name: None)
    with pytest.raises(InputError, match='no `java`'):
        scores.require_peer()

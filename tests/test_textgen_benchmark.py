"""benchmarks/textgen.py and recurrentjs.py: both sides compute the same, curves are read right. No time is asserted."""

import importlib
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = str(Path(__file__).resolve().parents[1] / 'benchmarks')

pytestmark = pytest.mark.filterwarnings('ignore:.torch.jit.script. is deprecated')


@pytest.fixture
def textgen(monkeypatch):
    """The module textgen; skips without PyTorch."""
    torch = pytest.importorskip('torch', reason='PyTorch is not installed; it comes with the extra [bench]')
    torch.set_num_threads(1)
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module('textgen')


@pytest.fixture
def sides(textgen):
    size = textgen.Size('tiny', words=12, embedding=5, hidden=7, window=4, sentences=3)
    ours, peer = textgen.contestants(size, num_threads=1)[:2]
    return ours, peer, textgen.random_windows(size, 3, np.random.default_rng(1))


def test_cost_and_gradients_equal_pytorchs_with_a_carried_state(textgen, sides):
    ours, peer, batches = sides
    checks = textgen.check_carried(ours, peer, batches, list(peer.options))
    assert checks['cost'] < 1e-5 and checks['gradients'] < 1e-5

    ours.state = None
    with pytest.raises(RuntimeError, match='differ'):
        textgen.check_training(ours, peer, batches[1], ['recurrence'])


@pytest.mark.parametrize('way', [{}, {'recurrence': 'scripted loop', 'adam': 'fused'},
                                 {'recurrence': 'loop', 'adam': 'for each', 'softmax': 'chunked softmax'}])
def test_pytorchs_steps_make_our_updates(sides, way):
    ours, peer, batches = sides
    ours.params['drop_prob'] = peer.params['drop_prob'] = peer.lstm.dropout = 0
    peer.use(way)
    for batch in batches:
        assert abs(ours.train_step(batch) - peer.train_step(batch)) < 1e-5
    cost, grads = ours.cost_and_grads(batches[0])
    its_cost, its_grads = peer.cost_and_grads(batches[0])
    assert abs(cost - its_cost) < 1e-5
    for name, grad in grads.items():
        np.testing.assert_allclose(its_grads[name], grad, atol=1e-5)


def test_the_stream_has_tokens_of_the_vocabulary(textgen, sides):
    tokens = np.concatenate([batch.inputs for batch in sides[2]])
    assert tokens.min() >= 0 and tokens.max() < 12


def test_recurrentjs_curve_and_speed(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    recurrentjs = importlib.import_module('recurrentjs')
    monkeypatch.setattr(recurrentjs, 'CURVE', {(1, 5): 3., (61, 80): 2.})
    monkeypatch.setattr(recurrentjs, 'STEPS', {1: 2, 4: 1})
    path = tmp_path / 'sentences.txt'
    path.write_text('abab\nabababab\nab\n', encoding='utf-8')
    early, late = recurrentjs.curves(recurrentjs.parse([str(path), '--seeds', '0']))[0]
    assert 2 > early > late
    assert recurrentjs.main([str(path), '--seeds', '0', '1', '--turns', '1']) == 0
    printed = capsys.readouterr().out
    assert '| 61 to 80 | 2.00 |' in printed and '| 4 |' in printed

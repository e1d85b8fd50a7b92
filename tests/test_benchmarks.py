"""benchmarks/: both sides compute the same, the operations are counted correctly, the page shows the results.

No time is asserted.
"""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from imagernn.convnet.networks import ARCHITECTURES, Architecture, Layer, vgg
from imagernn.errors import InputError

BENCHMARKS = str(Path(__file__).resolve().parents[1] / 'benchmarks')
sys.path.append(BENCHMARKS)
compare, report, work, ours, convnet = (importlib.import_module(name)
                                        for name in ('compare', 'report', 'work', 'ours', 'convnet'))
sys.path.remove(BENCHMARKS)

pytestmark = pytest.mark.filterwarnings('ignore:.torch.jit.script. is deprecated')
TINY = work.Size('tiny', words=40, hidden=16, sentences=6, features=40)


NETWORKS = {
    'VGG': vgg((1, 2, 1, 1, 1), (4, 16, 4, 4, 4), 9),
    'Lite': [Layer('conv', 'stem', 4, 3, 4, 'relu6'), Layer('mbconv', 'a', 4, 5, 1, 'relu6'),
             Layer('mbconv', 'b', 6, 5, 2, 'relu6', 3), Layer('mean', 'pool', 6),
             Layer('affine', 'fc', 7, activation='softmax')],
}


@pytest.fixture
def torch_peer(monkeypatch):
    """The module torch_peer; skips without PyTorch."""
    torch = pytest.importorskip('torch', reason='PyTorch is not installed; it comes with the extra [bench]')
    torch.set_num_threads(1)
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module('torch_peer')


def large(model, seed=3):
    """Weights so large that every one of them matters."""
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(-.8, .8, w.shape).astype(np.float32) for name, w in model.items()}


def found(median):
    return {'median': median, 'low': .9 * median, 'high': 1.1 * median}


def job(name, size='COCO', **more):
    return {'job': name, 'size': size, 'words': 8800, 'hidden': 512, 'sentences': 100, 'ours': found(300.),
            'torch': found(450.), 'usual': found(600.), 'ratio': found(1.5), 'usual_ratio': found(2.),
            'way': {'recurrence': 'loop'}, 'checks': {'cost': 1e-7}, **more}


@pytest.fixture
def results():
    rates = {name: found(200.) for name in report.PRODUCTS}
    shares = {name: found(.7) for name in report.PRODUCTS}
    both = {'quiet': found(50.), 'busy': found(90.), 'ratio': found(1.8)}
    return {'command': 'python benchmarks/compare.py', 'date': '2024-01-02',
            'machine': {'cpu': 'A CPU', 'cores': 2, 'python': '3.11', 'numpy': '2', 'blas': 'blas', 'torch': '2.13.0'},
            'jobs': [job('step', products=rates, share=shares), job('beam5', size='larger', length=9.8)],
            'pairs': 7, 'busy': [{'size': 'COCO', 'way': {}, 'ours': both, 'torch': both}],
            'sweeps': {'words': [{'x': x, **job('step')} for x in (1000, 2000)],
                       'beam': [{'x': x, **job('beam')} for x in (1, 5)]}}


def test_operations_of_a_step_are_those_of_its_products():
    P, V, H, N, D = 11, TINY.V, TINY.hidden, TINY.sentences, TINY.features
    decoder, image = 3 * 2 * P * V * H, 2 * 2 * N * D * H
    lstm = 3 * 2 * (P + N) * (H + H) * 4 * H - 2 * 2 * N * H * 4 * H    # the image is a step too, with no h before it
    assert work.step_operations(P, TINY, 'lstm') == decoder + image + lstm
    assert work.step_operations(P, TINY, 'rnn') == decoder + image + 3 * 2 * P * H * H * 2 - 3 * 2 * N * H * H


def test_a_random_batch_has_the_lengths_and_words_it_should():
    batch = work.random_batch(work.Size('', 500, 4, sentences=400, features=3), np.random.default_rng(0))
    targets = batch.sentences.targets
    words = targets[targets > 0]
    assert len(targets) - len(words) == len(batch.image_rows) == 400
    assert 10 < len(words) / 400 < 11
    assert words.max() <= 500
    assert np.bincount(words).argmax() == 1
    assert batch.features.shape == (400, 3)


def test_blended_features_lie_between_two():
    corners = np.eye(3, dtype=np.float32)
    blended = work.blended_features(corners, 20, np.random.default_rng(0))
    assert blended.dtype == np.float32
    np.testing.assert_allclose(blended.sum(axis=1), 1, rtol=1e-6)
    assert ((blended > 0).sum(axis=1) <= 2).all()


def test_pairs_alternate_and_warm_up_pairs_do_not_count(monkeypatch):
    calls, clock = [], iter(range(100))
    monkeypatch.setattr(compare, 'seconds_of', lambda run, times: run() or next(clock))
    runs = {who: lambda i, who=who: calls.append((who, i)) for who in ('ours', 'torch')}
    seconds, others = compare.measure(runs, 2, beside=lambda: len(calls))
    assert compare.WARM_UP == 2
    assert calls[:4] == [('torch', 0), ('ours', 0), ('ours', 1), ('torch', 1)]
    assert seconds == {'ours': [5, 6], 'torch': [4, 7]}
    assert others == [6, 8]


def test_the_ratio_of_a_job_is_the_median_of_its_pairs():
    row = compare.job_row(TINY, {'ours': [1., 2., 4.], 'torch': [3., 2., 6.], 'usual': [2., 4., 8.]}, units=8)
    assert row['ours'] == {'median': 4, 'low': 2, 'high': 8}
    assert row['ratio'] == {'median': 1.5, 'low': 1, 'high': 3}
    assert row['usual_ratio'] == {'median': 2, 'low': 2, 'high': 2}
    row = compare.job_row(TINY, {'ours': [1.], 'torch': [2.], 'usual': [3.]})
    assert row['torch']['median'] == 2000    # milliseconds


def test_sides_that_disagree_are_not_compared():
    assert compare.agree('cost', 1e-5, 1e-4) == 1e-5
    for difference in (2e-4, np.nan):
        with pytest.raises(RuntimeError, match='cost: ours and PyTorch differ'):
            compare.agree('cost', difference, 1e-4)


def test_a_missing_package_is_named_with_its_extra(monkeypatch, capsys):
    monkeypatch.setattr(report.importlib.util, 'find_spec', lambda package: None)
    assert compare.main([]) == 2
    assert capsys.readouterr().err == ('error: torch is not installed, and the benchmark needs it; install the extra: '
                                       "pip install -e '.[bench]'\n")


@pytest.mark.parametrize(('flags', 'message'), [
    (['--only', 'step,walk'], '--only walk: unknown; choose from step, rnn, perplexity, greedy, beam5, beam20, busy'),
    (['--sizes', 'huge'], '--sizes huge: unknown; choose from flickr8k, coco, large'),
    (['--pairs', '0'], '--pairs 0: must be at least 1'),
])
def test_invalid_flags(flags, message):
    with pytest.raises(InputError, match=message):
        compare.parse(flags)


def test_only_a_full_run_replaces_the_pages():
    assert compare.parse([]).folders == (compare.ROOT / 'docs', compare.ROOT / 'benchmarks')
    for flags in (['--quick'], ['--only', 'step'], ['--sizes', 'coco']):
        assert compare.parse(flags).folders is None
        assert compare.parse([*flags, '--output', 'here']).folders == (Path('here'), Path('here'))
    assert compare.parse(['--quick', '--pairs', '5']).plan.pairs == 5


def test_the_page_shows_every_number(results):
    page = ' '.join(report.markdown(results).split())
    row = ('| training step, LSTM, ms | COCO | 300 (270 to 330) | 600 (540 to 660) | **2.00** (1.80 to 2.20) | '
           '450 (405 to 495) | **1.50** (1.35 to 1.65) | loop |')
    assert row in page
    assert '| beam 5, captions/s | larger |' in page
    assert 'The captions have 9.8 to 9.8 words' in page
    assert '| numpy, two threads | 200 (180 to 220) |' in page
    assert '**70%** (63% to 77%)' in page
    assert '**1.80** (1.62 to 1.98)' in page
    assert '1,000 to 2,000 words in the vocabulary: 1.50, 1.50; 1 to 5 beam size: 1.50, 1.50' in page
    assert 'A CPU, 2 cores' in page and '2024-01-02' in page


def test_a_partial_run_makes_a_page_too(results):
    results['jobs'], results['sweeps'] = results['jobs'][1:], {}
    page = report.markdown(results)
    assert '## Our training step' not in page and '## What a larger' not in page
    assert '## Ours against PyTorch' in page


def test_the_plots_are_the_same_for_the_same_numbers(results, tmp_path):
    pytest.importorskip('matplotlib', reason='matplotlib is not installed; it comes with the extra [bench]')
    report.write(results, tmp_path / 'a', tmp_path)
    assert report.main([str(tmp_path / 'results.json'), '--output', str(tmp_path / 'b')]) == 0
    names = ['benchmark_sweeps.svg', 'benchmarks.md', 'benchmarks.svg']
    assert sorted(path.name for path in (tmp_path / 'a').iterdir()) == names
    for name in names:
        assert (tmp_path / 'a' / name).read_bytes() == (tmp_path / 'b' / name).read_bytes()
    assert json.loads((tmp_path / 'results.json').read_text(encoding='utf-8')) == results


@pytest.mark.parametrize('generator', ['lstm', 'rnn'])
def test_cost_and_gradients_equal_pytorchs(torch_peer, generator):
    one, peer, rng = compare.contestants(TINY, generator)
    one.model = large(one.model)
    peer.load(one.model)
    checks = compare.check_training(one, peer, work.random_batch(TINY, rng), ('recurrence', 'library', 'softmax'))
    assert max(checks.values()) < 1e-5


@pytest.mark.parametrize('generator', ['lstm', 'rnn'])
def test_the_check_finds_a_wrong_gradient(torch_peer, generator, monkeypatch):
    one, peer, rng = compare.contestants(TINY, generator)
    batch = work.random_batch(TINY, rng)
    cost, grads = one.cost_and_grads(batch)
    monkeypatch.setattr(one, 'cost_and_grads', lambda batch: (cost, {**grads, 'Ws': 1.01 * grads['Ws']}))
    with pytest.raises(RuntimeError, match='gradients: ours and PyTorch differ'):
        compare.check_training(one, peer, batch, ('update',))


@pytest.mark.parametrize('generator', ['lstm', 'rnn'])
def test_weights_survive_the_conversion_to_pytorch_and_back(torch_peer, generator):
    weights = large(ours.Ours(TINY, generator, np.random.default_rng(0)).model)
    back = torch_peer.from_torch(torch_peer.to_torch(weights, generator), generator)
    assert set(back) == set(weights)
    for name, w in weights.items():
        np.testing.assert_array_equal(back[name], w)


def test_pytorchs_steps_learn_and_decay_the_same_weights_as_ours(torch_peer):
    one, peer, rng = compare.contestants(TINY, 'lstm')
    batch = work.random_batch(TINY, rng)
    for group in peer.optimizer.param_groups:
        group['lr'] = .01
    costs = [peer.train_step(batch) for _ in range(12)]
    assert costs[-1] < .8 * costs[0]
    names = {id(parameter): name for name, parameter in peer.named_parameters()}
    decayed = {names[id(parameter)] for parameter in peer.optimizer.param_groups[0]['params']}
    assert decayed == {'image.weight', 'word.weight', 'decoder.weight', 'recurrent.weight_ih_l0',
                       'recurrent.weight_hh_l0', 'recurrent.bias_ih_l0'}


def test_perplexity_equals_pytorchs(torch_peer):
    one, peer, rng = compare.contestants(TINY, 'lstm')
    batches = [work.random_batch(TINY, rng) for _ in range(2)]
    assert peer.perplexity(batches) == pytest.approx(one.perplexity(batches), rel=1e-5)


def test_captions_equal_pytorchs(torch_peer):
    one, peer, rng = compare.contestants(TINY, 'lstm')
    batch = work.random_batch(TINY, rng)
    one.learn(batch, ppl=2, max_steps=300)
    peer.load(one.model)
    features = work.blended_features(batch.features, 30, rng)
    for beam_size in (1, 3, 7):
        expected = one.beam(features, beam_size)
        for way in ({'rows': '100 rows'}, {'library': 'oneDNN'}):
            peer.use(way)
            assert (peer.greedy(features) if beam_size == 1 else peer.beam(features, beam_size)) == expected
        lengths = {len(caption) for caption in expected}
        assert 20 in lengths and len(lengths) > 5    # captions end at different steps, some never


def test_grouped_topk_finds_the_largest(torch_peer):
    import torch

    y = torch.from_numpy(np.random.default_rng(0).normal(size=(9, 67)).astype(np.float32))
    for k in (1, 3, 8):
        values, at = torch_peer._grouped_topk(y, k, width=4)
        expected, _ = y.topk(k)
        torch.testing.assert_close(values.sort(descending=True).values, expected)
        torch.testing.assert_close(y.gather(1, at), values)


# ---- the convolutional networks

@pytest.fixture(params=NETWORKS)
def small_network(request, monkeypatch, torch_peer):
    """The name of a small network that is added to those that the benchmark knows."""
    layers = NETWORKS[request.param]
    monkeypatch.setitem(ARCHITECTURES, 'small', Architecture(layers, {'out': layers[-2].name}))
    return 'small'


def test_every_layer_equals_pytorchs(small_network):
    assert 0 < convnet.check(small_network) < convnet.SAME


def test_a_layer_that_differs_from_pytorchs_is_found(small_network, monkeypatch):
    convolve = convnet.Peer._convolve
    monkeypatch.setattr(convnet.Peer, '_convolve', lambda *args, **more: 1.01 * convolve(*args, **more))
    with pytest.raises(RuntimeError, match=r'small: .* differs from PyTorch by 0\.'):
        convnet.check(small_network)


def test_the_networks_are_timed_in_pairs(small_network, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(convnet, 'seconds_of', lambda run: run() is None or next(clock))
    assert convnet.measure(small_network, 2, 2) == ([5, 6], [4, 7])


def test_the_ratio_of_a_network_is_the_median_of_its_pairs():
    line = convnet.job_line('lite0', 10, [1., 2., 4.], [3., 2., 6.])
    assert line == '| lite0 | 10 | 200.0 | 300.0 | 1.50 (1.00 to 3.00) |'


@pytest.mark.parametrize(('flags', 'message'), [
    (['--jobs', 'resnet:8'], '--jobs resnet:8: expected network:pictures, with a network of vgg16, vgg19, lite0'),
    (['--jobs', 'lite0'], 'expected network:pictures'),
    (['--jobs', 'lite0:8,vgg16:0'], 'expected network:pictures'),
    (['--pairs', '0'], '--pairs 0: must be at least 1'),
])
def test_invalid_jobs(flags, message):
    with pytest.raises(InputError, match=message):
        convnet.parse(flags)


def test_a_process_reports_its_peak_memory(monkeypatch, tmp_path):
    class Nothing:
        def forward(self, x, workers):
            return x

    monkeypatch.setattr(convnet, 'load_network', lambda path: Nothing())
    assert 10e6 < convnet.peak_memory(tmp_path / 'vgg16.npz') < 10e9

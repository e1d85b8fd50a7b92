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
compare, report, work, ours, convnet, python_reward, ranking = (importlib.import_module(name) for name in (
    'compare', 'report', 'work', 'ours', 'convnet', 'python_reward', 'ranking'))
sys.path.remove(BENCHMARKS)

pytestmark = pytest.mark.filterwarnings('ignore:.torch.jit.script. is deprecated')
TINY = work.Size('tiny', words=40, hidden=16, sentences=6, features=40)
TINY_REGIONS = TINY._replace(regions=3, attention=5)
RANKERS = {'sentences': 1, 'regions': 3}    # the regions of a tiny ranker of each kind

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
    (['--only', 'step,walk'], '--only walk: unknown; choose from step, rnn, perplexity, greedy, beam5, beam20, '
                               'attention, self_critical, busy, sweeps'),
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


def test_the_page_shows_the_parts_of_a_self_critical_step(results):
    parts = {'drawing': found(100.), 'reward': found(10.), 'gradients and update': found(190.), 'length': found(9.7)}
    row = job('self_critical', our_reward=found(420.), our_reward_ratio=found(1.4), reward_share=found(.02),
              parts={who: parts for who in ('ours', 'torch', 'usual', 'our_reward')})
    page = ' '.join(report.markdown({**results, 'jobs': [row]}).split())
    assert '| self-critical step, ms | COCO | 300 (270 to 330) |' in page
    assert '| gradients and update, ms | 190 (171 to 209) |' in page
    assert '| times as long as ours | | **2.00** (1.80 to 2.20) | **1.50** (1.35 to 1.65) | **1.40**' in page
    assert 'The reward takes **2.0%** (1.8% to 2.2%) of our step.' in page
    assert 'five captions of each of 100 images' in page
    assert 'five captions' not in report.markdown(results) and 'part by part' not in report.markdown(results)


def test_results_of_several_runs_are_put_together(results, tmp_path):
    pytest.importorskip('matplotlib', reason='matplotlib is not installed; it comes with the extra [bench]')
    later = {'command': 'python benchmarks/compare.py --only step', 'date': '2024-02-03', 'pairs': 9, 'busy': [],
             'machine': {**results['machine'], 'cpu': 'Another CPU'}, 'sweeps': {},
             'jobs': [job('step', ratio=found(1.9)), job('attention', size='Flickr8K, 512')]}
    paths = [tmp_path / 'one.json', tmp_path / 'two.json', tmp_path / 'both.json']
    for path, run in zip(paths, (results, later), strict=False):
        path.write_text(json.dumps(run), encoding='utf-8')
    assert report.main([str(paths[0]), str(paths[1]), '--output', str(tmp_path), '--json', str(paths[2])]) == 0
    both = json.loads(paths[2].read_text(encoding='utf-8'))
    assert [(row['job'], row['ratio']['median']) for row in both['jobs']] == [
        ('step', 1.9), ('beam5', 1.5), ('attention', 1.5)]
    page = (tmp_path / 'benchmarks.md').read_text(encoding='utf-8')
    assert report.markdown(both) == page == report.markdown(report.merged([both]))
    heading = ' '.join(page.split())
    assert '`python benchmarks/compare.py` on 2024-01-02: A CPU, 2 cores' in heading
    assert '`python benchmarks/compare.py --only step` on 2024-02-03: Another CPU, 2 cores' in heading
    assert 'medians of 7 or 9 turns' in heading


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


def test_cost_and_gradients_of_attention_equal_pytorchs(torch_peer):
    one, peer, rng = compare.contestants(TINY_REGIONS, 'attention', compare.ATTENTION_FLAGS)
    one.model = large(one.model)
    peer.load(one.model)
    batch = work.random_batch(TINY_REGIONS, rng)
    assert batch.features.shape == (6, 4 * 40)
    assert max(compare.check_training(one, peer, batch, ('attention', 'library', 'softmax', 'adam')).values()) < 1e-5


@pytest.mark.parametrize('generator', ['lstm', 'rnn'])
def test_the_check_finds_a_wrong_gradient(torch_peer, generator, monkeypatch):
    one, peer, rng = compare.contestants(TINY, generator)
    batch = work.random_batch(TINY, rng)
    cost, grads = one.cost_and_grads(batch)
    monkeypatch.setattr(one, 'cost_and_grads', lambda batch: (cost, {**grads, 'Ws': 1.01 * grads['Ws']}))
    with pytest.raises(RuntimeError, match='gradients: ours and PyTorch differ'):
        compare.check_training(one, peer, batch, ('update',))


@pytest.mark.parametrize(('generator', 'image_at'), [
    ('lstm', 'first'), ('lstm', 'both'), ('rnn', 'first'), ('attention', 'first')])
def test_weights_survive_the_conversion_to_pytorch_and_back(torch_peer, generator, image_at):
    weights = large(ours.Ours(TINY_REGIONS, generator, np.random.default_rng(0), {'image_at': image_at}).model)
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


@pytest.mark.parametrize('way', ['foreach', 'for each', 'fused'])
def test_pytorchs_adam_makes_our_update(torch_peer, way):
    """The first step of Adam moves each weight by the learning rate, wherever the gradient is not tiny."""
    one, peer, rng = compare.contestants(TINY_REGIONS, 'attention', {**compare.ATTENTION_FLAGS, 'learning_rate': .01,
                                                                    'drop_prob_encoder': 0, 'drop_prob_decoder': 0})
    peer.use({'adam': way})
    batch = work.random_batch(TINY_REGIONS, rng)
    _, grads = one.cost_and_grads(batch)
    grads = {name: g.copy() for name, g in grads.items()}
    for who in (one, peer):
        who.train_step(batch)
    its_model = torch_peer.from_torch({name: w.detach().numpy() for name, w in peer.named_parameters()}, 'attention')
    for name, w in one.model.items():
        sure = np.abs(grads[name]) > 1e-4
        np.testing.assert_allclose(its_model[name][sure], w[sure], atol=1e-4)


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


# ---- self-critical training

def test_the_reward_in_plain_python_equals_ours():
    references = work.random_references(30, np.random.default_rng(0))
    assert {len(sentences) for sentences in references} == {5}
    reward = ours.our_reward(references, TINY.words, 3.)
    # a reference, one without END, one word again and again, only END
    known = [[ix for ix in references[image][0] if ix <= TINY.words] for image in (4, 7)]
    captions = [[*known[0], 0], known[1], [1] * 20, [0]]
    images, words = np.array([4, 7, 4, 9]), np.concatenate(captions)
    lengths = np.array(list(map(len, captions)))
    expected = reward(images, words, lengths)
    assert expected[0] > expected[1] > 0
    for keep in (False, True):
        in_python = python_reward.PythonReward(references, 3., keep)
        for _ in range(2):
            np.testing.assert_allclose(in_python(images, words, lengths), expected, rtol=1e-12)


def drawers(seed=3):
    """Both sides of a self-critical step with the same large weights, features of two images, their references."""
    one, peer, rng = compare.contestants(TINY, 'lstm', compare.SELF_CRITICAL_FLAGS)
    one.model = {name: 1.5 * w for name, w in large(one.model, seed).items()}
    one.model['bd'][0, 0] += 4    # so that captions end
    peer.load(one.model)
    return one, peer, work.random_images(TINY, 2, rng), work.random_references(12, rng)


def test_rewards_and_gradients_of_drawn_captions_equal_pytorchs(torch_peer):
    one, peer, features, references = drawers()
    rewards = {'ours': ours.our_reward(references, TINY.words, 3.),
               'Python': python_reward.PythonReward(references, 3., False)}
    features = np.tile(features, (100, 1))    # so that the mean length is a stable one
    rewards = {name: lambda images, *captions, reward=reward: reward(images % 12, *captions)
               for name, reward in rewards.items()}
    checks = compare.check_self_critical(one, peer, features, rewards)
    assert max(checks['rewards'], checks['gradients']) < 2e-5
    rewards['Python'] = lambda *captions: 1.01 * rewards['ours'](*captions)
    with pytest.raises(RuntimeError, match='rewards: ours and PyTorch differ'):
        compare.check_self_critical(one, peer, features, rewards)


@pytest.mark.parametrize('way', [{}, {'draw': 'cumulative sums'}, {'ended': 'ended dropped'}])
def test_pytorch_draws_captions_with_the_probabilities_of_ours(torch_peer, way):
    import torch

    torch.manual_seed(0)
    one, peer, features, _ = drawers()
    peer.use(way)
    found = []
    for who in (one, peer):
        words, lengths = who.sample(features, 10000)
        assert len(lengths) == 20000 and lengths.sum() == len(words) and 2 < lengths.mean() < 19
        starts = np.cumsum(lengths) - lengths
        ends = starts + lengths - 1
        assert (np.flatnonzero(words == 0) == ends[words[ends] == 0]).all() and (lengths[words[ends] > 0] == 20).all()
        first, second = words[starts][:10000], words[np.minimum(starts + 1, ends)][10000:]
        found.append(np.concatenate([np.bincount(first, minlength=41), np.bincount(second, minlength=41),
                                     np.bincount(lengths[:10000], minlength=21)]) / 10000)
    np.testing.assert_allclose(*found, atol=.025)    # five standard deviations of a difference


@pytest.mark.parametrize('way', [{}, {'ended': 'ended dropped'}, {'gradients': 'second pass, nn packed'},
                                 {'gradients': 'second pass, loop'}])
def test_pytorchs_self_critical_step_makes_the_rewarded_word_likelier(torch_peer, way):
    one, peer, features, _ = drawers()

    def share_of_word_1(images, words, lengths):
        sentence = np.repeat(np.arange(len(lengths)), lengths)
        return np.bincount(sentence, words == 1, len(lengths)) / lengths

    one.solver.params['learning_rate'] = .02
    for group in peer.optimizer.param_groups:
        group['lr'] = .02
    peer.use(way)
    for who in (one, peer):
        means = []

        def reward(*captions, means=means):
            shares = share_of_word_1(*captions)
            means.append(shares.mean())
            return shares

        for _ in range(30):
            seconds, lengths = who.self_critical_step(np.arange(2), features, 40, reward)
            assert list(seconds) == ['drawing', 'reward', 'gradients and update'] and len(lengths) == 80
        assert np.mean(means[-5:]) > np.mean(means[:5]) + .2


def test_the_jobs_of_one_size_give_a_row(torch_peer, monkeypatch):
    plan = compare.Plan(2, 1, 1.)
    # gradients near 0 and the lengths of a few captions differ by more than at the full size
    monkeypatch.setattr(compare, 'agree', lambda what, difference, limit: difference)
    row = compare.attention_job(plan, TINY_REGIONS)
    assert row['way'].keys() == {'attention', 'library', 'softmax', 'adam'} and row['ratio']['low'] > 0
    row = compare.self_critical_job(plan, TINY, training_images=20, drawn=6)
    assert row['way'].keys() == {'ended', 'gradients', 'library', 'draw', 'reward', 'adam'}
    assert {'ratio', 'usual_ratio', 'our_reward_ratio', 'ours', 'torch', 'usual', 'our_reward'} <= row.keys()
    assert 0 < row['reward_share']['low'] <= row['reward_share']['high'] < 1
    assert row['parts'].keys() == {'ours', 'torch', 'usual', 'our_reward'}
    assert 'self-critical step, tiny: ours' in report.job_line({'job': 'self_critical', **row})


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


# ---- ranking

@pytest.mark.parametrize('kind', RANKERS)
def test_cost_and_gradients_of_rankers_equal_pytorchs(torch_peer, kind):
    one, peer, rng = ranking.contestants(kind, TINY._replace(regions=RANKERS[kind]))
    one.model = large(one.model)
    peer.load(one.model)
    batch = work.random_ranking_batch(TINY._replace(regions=RANKERS[kind]), rng)
    assert batch.features.shape == (6, RANKERS[kind], 40)
    assert max(compare.check_training(one, peer, batch, peer.options).values()) < 1e-5


@pytest.mark.parametrize('kind', RANKERS)
def test_a_ranker_in_pytorch_learns_and_decays_the_same_weights_as_ours(torch_peer, kind):
    one, peer, rng = ranking.contestants(kind, TINY._replace(regions=RANKERS[kind]))
    batch = work.random_ranking_batch(TINY._replace(regions=RANKERS[kind]), rng)
    costs = [peer.train_step(batch) for _ in range(12)]
    assert costs[-1] < .8 * costs[0]
    names = {id(parameter): name for name, parameter in peer.named_parameters()}
    kept = {names[id(parameter)] for parameter in peer.optimizer.param_groups[1]['params']}
    assert kept == {'image.bias', *(['out.bias'] if kind == 'regions' else [])}


def test_the_made_up_album_is_searched(tmp_path):
    models = ranking.made_up_models(np.random.default_rng(0))
    index = ranking.made_up_index(tmp_path, 300, models, np.random.default_rng(0))
    assert len(index.entries) == 300 and len(index.shards) == 2
    words = sorted(models.by_sentence.checkpoint['wordtoix'])[:5]
    assert len(ranking.Search(index, models).find(' '.join(words))['results']) == 100


@pytest.mark.parametrize(('flags', 'message'), [
    (['--only', 'step,walk'], '--only walk: unknown; choose from memory, step, search, indexing'),
    (['--pairs', '0'], '--pairs 0: must be at least 1'),
    (['--only', 'indexing'], '--only indexing: needs photos'),
])
def test_invalid_flags_of_the_ranking_benchmark(flags, message):
    with pytest.raises(InputError, match=message):
        ranking.parse(flags)

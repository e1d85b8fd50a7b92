"""Compare the captioner with PyTorch on a CPU, in one process and on the same batches.

    python benchmarks/compare.py [--quick] [--only step,rnn,…] [--sizes flickr8k,coco,large] [--pairs 7] [--output DIR]

A job is a kind of work at a size. First, both sides must compute the same. Then PyTorch's options for the work are
tried, and the fastest are kept. Then pairs are timed: each side runs once, and the side that goes first alternates. The
ratio of a job is the median ratio of its pairs; above 1, ours is faster. PyTorch as it is usually written (nn.LSTM on a
packed sequence, its default library) is timed too. A full run writes docs/benchmarks.md with two plots and
benchmarks/results.json; a partial run only prints, unless --output names a folder; report.py puts several together.
"""

import argparse
import datetime
import functools
import math
import shlex
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))    # a checkout need not be installed

import imagernn.nn.blas  # noqa: F401  before numpy

# isort: split
import machine
import numpy as np
import report
from machine import busy_loops, seconds_of
from ours import Ours, our_reward
from python_reward import PythonReward
from work import (
    PICTURES,
    REGIONS,
    SIZES,
    blended_features,
    first_references,
    random_batch,
    random_images,
    random_references,
    step_operations,
)

from imagernn.captioning.self_critical import weighted_batch, weights_of
from imagernn.errors import InputError, script

ROOT = Path(__file__).resolve().parents[1]
THREADS, WARM_UP = 2, 2         # PyTorch's threads; untimed pairs before those that count
BY_HEART, PERPLEXITY = 50, 3    # for caption jobs, the model overfits this many sentences down to this perplexity
BUSY_LOOPS, BUSY_STEPS = 2, 3   # in the job busy: other processes that spin; training steps per run

# The work of one run: batches for perplexity; for captions, by beam size, enough images to share between two threads
BATCHES = {'Flickr8K': 10, 'COCO': 4, 'larger': 2}
IMAGES = {1: {'Flickr8K': 1600, 'COCO': 800, 'larger': 400},
          5: {'Flickr8K': 320, 'COCO': 160, 'larger': 160},
          20: {'Flickr8K': 120, 'COCO': 80, 'larger': 40}}
# The flags of the jobs attention and self_critical. The second draws SAMPLES captions of each of DRAWN images; their
# rewards are CIDEr-D plus BLEU-4 by its weight, with the references of a training split of Flickr8K's size.
ATTENTION_FLAGS = {'solver': 'adam', 'image_at': 'first'}
SELF_CRITICAL_FLAGS = {'solver': 'adam', 'image_at': 'both'}
TRAINING_IMAGES, DRAWN, SAMPLES, BLEU_WEIGHT = 6000, 100, 5, 3.
# What the sweeps vary. BEAM_SWEEP is {beam size: images}.
SWEEPS = {'words': (1000, 2000, 4000, 8000, 16000), 'hidden': (128, 256, 512, 1024),
          'sentences': (10, 30, 100, 400)}
BEAM_SWEEP = {1: 400, 2: 400, 5: 160, 10: 80, 20: 40, 50: 16}


# the names of the ratios of a job's row: the time of which side is divided by ours
RATIOS = {'ratio': 'torch', 'usual_ratio': 'usual', 'our_reward_ratio': 'our_reward'}
PYTHON_REWARDS = {'Python reward': False, 'references kept': True}    # whether the PythonReward keeps them


class Plan(NamedTuple):
    pairs: int      # timed pairs per job
    rounds: int     # how often each of PyTorch's options is tried
    part: float     # the part of the batches and images above that is used


FULL, QUICK, SWEEP, QUICK_SWEEP = Plan(7, 3, 1.), Plan(3, 2, .5), Plan(3, 2, 1.), Plan(3, 2, 1.)


@script
def main(argv=None):
    args = parse(argv)
    for package in ('torch', 'threadpoolctl', 'matplotlib'):
        report.require(package)
    if args.folders:
        report.require_writable_folders(*args.folders)
    import torch

    torch.set_num_threads(THREADS)
    products, results = machine.Products(), {'jobs': [], 'busy': [], 'sweeps': {}}
    results['command'] = shlex.join(['python', 'benchmarks/compare.py', *(sys.argv[1:] if argv is None else argv)])
    results['date'] = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    results['machine'], results['pairs'] = machine.describe(products), args.plan.pairs
    for size in args.sizes:
        for name in args.only:
            if name in JOBS:
                results['jobs'].append({'job': name, **JOBS[name](size, args.plan, products)})
                print(report.job_line(results['jobs'][-1]), flush=True)
        if 'busy' in args.only and size != SIZES['large']:
            results['busy'].append(busy_job(size, args.plan))
            print(report.busy_line(results['busy'][-1]), flush=True)
    for name in args.only:
        if name in OF_ONE_SIZE:
            results['jobs'].append({'job': name, **OF_ONE_SIZE[name](args.plan)})
            print(report.job_line(results['jobs'][-1]), flush=True)
    if 'sweeps' in args.only:
        results['sweeps'] = sweeps(args.quick)
    print('\n' + report.markdown(results))
    if args.folders:
        report.write(results, *args.folders)
    return 0


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--only', default=','.join(ALL),
                        help=f'The jobs, separated by commas (default: all of {",".join(ALL)}).')
    parser.add_argument('--sizes',
                        help=f'The sizes, separated by commas (default: all of {",".join(SIZES)}; with --quick: '
                             f'flickr8k). {" and ".join(OF_ONE_SIZE)} have one size of their own.')
    parser.add_argument('--pairs', type=int,
                        help=f'The number of timed pairs per job (default: {FULL.pairs}; with --quick: {QUICK.pairs}). '
                             'More give a steadier median.')
    parser.add_argument('--quick', action='store_true',
                        help='Measure less of everything, in a minute or two. Use it to see that all works.')
    parser.add_argument('--output', type=Path,
                        help='A folder for the table, the plots and results.json, for a partial run too.')
    args = parser.parse_args(argv)
    args.sizes = args.sizes or ','.join(['flickr8k'] if args.quick else SIZES)
    args.only, sizes = chosen('--only', args.only, ALL), chosen('--sizes', args.sizes, SIZES)
    args.sizes = [SIZES[name] for name in sizes]
    everything = not args.quick and set(args.only) == set(ALL) and set(sizes) == set(SIZES)
    args.folders = (args.output,) * 2 if args.output else (ROOT / 'docs', ROOT / 'benchmarks') if everything else None
    args.plan = QUICK if args.quick else FULL
    if args.pairs is not None:
        if args.pairs < 1:
            raise InputError(f'--pairs {args.pairs}: must be at least 1')
        args.plan = args.plan._replace(pairs=args.pairs)
    return args


def chosen(flag, text, known):
    """The names in a comma-separated flag. Raises InputError for an unknown one."""
    names = text.split(',')
    if unknown := [name for name in names if name not in known]:
        raise InputError(f'{flag} {unknown[0]}: unknown; choose from {", ".join(known)}')
    return names


def training_job(generator, size, plan, products=None, choices=('recurrence', 'library', 'softmax', 'update'),
                 flags=None):
    """Time training steps: forward, backward and update, with dropout, in milliseconds."""
    ours, peer, rng = contestants(size, generator, flags)
    batches = [random_batch(size, rng) for _ in range(WARM_UP + plan.pairs)]
    checks = check_training(ours, peer, batches[0], choices)
    way = fastest_way(peer, choices, lambda: peer.train_step(batches[0]), plan.rounds)
    runs = contest(peer, way, lambda i: ours.train_step(batches[i]), lambda i: peer.train_step(batches[i]))
    seconds, rates = measure(runs, plan.pairs, report.STEPS, products.rates if products else None)
    if not all(math.isfinite(who.cost_and_grads(batches[0])[0]) for who in (ours, peer)):
        raise RuntimeError(f'{size.name}, {generator}: the weights exploded, so the times mean nothing')
    row = {**job_row(size, seconds), 'way': way, 'checks': checks}
    if products:
        operations = [step_operations(len(batch.sentences.targets), size, generator) for batch in batches[WARM_UP:]]
        row['products'] = {name: summary([some[name] for some in rates]) for name in rates[0]}
        row['share'] = {name: summary([1e-9 * count / second / some[name] for count, second, some
                                       in zip(operations, seconds['ours'], rates, strict=True)]) for name in rates[0]}
    return row


def perplexity_job(size, plan, products=None):
    """Time the perplexity of random sentences, without dropout, in sentences per second."""
    ours, peer, rng = contestants(size, 'lstm')
    batches = [random_batch(size, rng) for _ in range(amount(BATCHES[size.name], plan))]
    way = fastest_way(peer, ('recurrence', 'library', 'softmax'), lambda: peer.perplexity(batches), plan.rounds)
    checks = {'perplexity': agree('perplexity', relative(peer.perplexity(batches), ours.perplexity(batches)), 1e-4)}
    seconds, _ = measure(contest(peer, way, lambda i: ours.perplexity(batches), lambda i: peer.perplexity(batches)),
                         plan.pairs)
    return {**job_row(size, seconds, size.sentences * len(batches)), 'way': way, 'checks': checks}


def captions_job(beam_size, size, plan, products=None, images=None, choices=('library', 'topk', 'rows')):
    """Time greedy search (beam_size 1) or beam search, in captions per second."""
    ours, peer, learnt = captioners(size)
    images = images or amount(IMAGES[beam_size][size.name], plan)
    features = blended_features(learnt, images, np.random.default_rng(2))
    if beam_size == 1:
        by_ours, by_peer = (functools.partial(who.greedy, features) for who in (ours, peer))
        choices = [name for name in choices if name != 'topk']
    else:
        by_ours, by_peer = (functools.partial(who.beam, features, beam_size) for who in (ours, peer))
    way = fastest_way(peer, choices, by_peer, plan.rounds)
    captions = by_ours()
    same = statistics.mean(one == other for one, other in zip(captions, by_peer(), strict=True))
    checks = {'captions': agree('captions', 1 - same, .05)}
    seconds, _ = measure(contest(peer, way, lambda i: by_ours(), lambda i: by_peer()), plan.pairs)
    return {**job_row(size, seconds, images), 'way': way, 'checks': checks,
            'length': statistics.mean(map(len, captions))}


def attention_job(plan, size=REGIONS):
    """Time the training step of the attention generator, in milliseconds."""
    return training_job('attention', size, plan, choices=('attention', 'library', 'softmax', 'adam'),
                        flags=ATTENTION_FLAGS)


def self_critical_job(plan, size=PICTURES, training_images=TRAINING_IMAGES, drawn=DRAWN):
    """Time steps of self-critical training: captions drawn, rewards, weighted gradients and update, in milliseconds.

    'torch' and 'usual' compute the reward in plain Python, 'our_reward' is PyTorch's fastest way with our reward.
    """
    ours, peer, rng = contestants(size, 'lstm', SELF_CRITICAL_FLAGS)
    references, features = random_references(training_images, rng), random_images(size, drawn, rng)
    ours.learn(first_references(references, size, features), PERPLEXITY)    # else a caption hardly ever ends
    peer.load(ours.model)
    rewards = {'ours': our_reward(references, size.words, BLEU_WEIGHT),
               **{name: PythonReward(references, BLEU_WEIGHT, keep) for name, keep in PYTHON_REWARDS.items()}}
    checks = check_self_critical(ours, peer, features, rewards)

    parts = {'ours': [], 'torch': [], 'usual': [], 'our_reward': []}

    def step(side, reward):
        seconds, lengths = side.self_critical_step(np.arange(drawn), features, SAMPLES, rewards[reward])
        return {**seconds, 'length': float(lengths.mean())}

    def its_step(who, way, reward, i):
        peer.use(way)
        parts[who].append(step(peer, reward))

    way = fastest_way(peer, ('ended', 'gradients', 'library', 'draw', 'reward', 'adam'),
                      lambda: step(peer, peer.way['reward']), min(plan.rounds, 2))
    runs = {'ours': lambda i: parts['ours'].append(step(ours, 'ours')),
            'torch': functools.partial(its_step, 'torch', way, way['reward']),
            'usual': functools.partial(its_step, 'usual', {}, peer.options['reward'][0]),
            'our_reward': functools.partial(its_step, 'our_reward', way, 'ours')}
    seconds, _ = measure(runs, plan.pairs)
    parts = {who: turns[WARM_UP:] for who, turns in parts.items()}
    return {**job_row(size, seconds), 'way': way, 'checks': checks,
            'parts': {who: {name: summary([(1 if name == 'length' else 1e3) * turn[name] for turn in turns])
                            for name in turns[0]} for who, turns in parts.items()},
            'reward_share': summary([turn['reward'] / second for turn, second
                                     in zip(parts['ours'], seconds['ours'], strict=True)])}


JOBS = {
    'step': functools.partial(training_job, 'lstm'),
    'rnn': functools.partial(training_job, 'rnn'),
    'perplexity': perplexity_job,
    'greedy': functools.partial(captions_job, 1),
    'beam5': functools.partial(captions_job, 5),
    'beam20': functools.partial(captions_job, 20),
}
OF_ONE_SIZE = {'attention': attention_job, 'self_critical': self_critical_job}
ALL = [*JOBS, *OF_ONE_SIZE, 'busy', 'sweeps']


def busy_job(size, plan):
    """Time the LSTM's training step alternately on a quiet machine and while other processes spin."""
    ours, peer, rng = contestants(size, 'lstm')
    batch = random_batch(size, rng)
    way = fastest_way(peer, ('recurrence', 'library'), lambda: peer.train_step(batch), plan.rounds)
    runs = {'ours': lambda: [ours.train_step(batch) for _ in range(BUSY_STEPS)],
            'torch': lambda: [peer.train_step(batch) for _ in range(BUSY_STEPS)]}
    quiet, busy = {'ours': [], 'torch': []}, {'ours': [], 'torch': []}
    for _ in range(1 + plan.pairs):
        for who, run in runs.items():
            quiet[who].append(1e3 / BUSY_STEPS * seconds_of(run))
        with busy_loops(BUSY_LOOPS):
            for who, run in runs.items():
                busy[who].append(1e3 / BUSY_STEPS * seconds_of(run))
    return {'size': size.name, 'way': way,
            **{who: {'quiet': summary(quiet[who][1:]), 'busy': summary(busy[who][1:]),
                     'ratio': summary([b / q for b, q in zip(busy[who][1:], quiet[who][1:], strict=True)])}
               for who in runs}}


def sweeps(quick):
    """Time the LSTM's training step by vocabulary, hidden size and batch size, and captions by beam size.

    Returns {what varies: the rows of its points}.
    """
    base, every, plan = (SIZES['flickr8k'], 2, QUICK_SWEEP) if quick else (SIZES['coco'], 1, SWEEP)
    found = {}
    for what, values in SWEEPS.items():
        found[what] = []
        for value in values[::every]:
            row = training_job('lstm', base._replace(**{what: value}), plan, choices=('recurrence', 'library'))
            found[what].append({'x': value, **row})
            print(report.sweep_line(what, found[what][-1]), flush=True)
    found['beam'] = []
    for value, images in list(BEAM_SWEEP.items())[::every]:
        row = captions_job(value, base, plan, images=images, choices=('library', 'topk'))
        found['beam'].append({'x': value, **row})
        print(report.sweep_line('beam', found['beam'][-1]), flush=True)
    return found


def contestants(size, generator, flags=None):
    """Our side and PyTorch's with the same initial weights, and a random number generator."""
    from torch_peer import Peer

    rng = np.random.default_rng(0)
    ours = Ours(size, generator, rng, flags)
    return ours, Peer(ours.model, generator, ours.params), rng


@functools.lru_cache(maxsize=1)
def captioners(size):
    """Both sides with weights that give captions of a realistic length, and features of the images they have learnt.

    With random weights, a caption ends at once or never. These weights overfit random sentences; the images to caption
    are blends of the images of these sentences.
    """
    ours, peer, rng = contestants(size, 'lstm')
    batch = random_batch(size._replace(sentences=BY_HEART), rng)
    ours.learn(batch, PERPLEXITY)
    peer.load(ours.model)
    return ours, peer, batch.features


def check_training(ours, peer, batch, choices):
    """Check PyTorch's cost and gradients against ours with every option: the largest relative differences."""
    cost, grads = ours.cost_and_grads(batch)
    costs, gradients = [], []
    for choice in choices:
        for option in peer.options[choice]:
            peer.use({choice: option})
            its_cost, its_grads = peer.cost_and_grads(batch)
            costs.append(relative(its_cost, cost))
            gradients += [relative(its_grads[name], g) for name, g in grads.items()]
    return {'cost': agree('cost', max(costs), 1e-4), 'gradients': agree('gradients', max(gradients), 1e-3)}


def check_self_critical(ours, peer, features, rewards):
    """Check PyTorch's rewards and weighted gradients against ours, on the same captions: the largest relative
    differences. What both sides draw is random, so of that, only the captions' mean lengths are compared.
    """
    (words, lengths), (_, its_lengths) = (who.sample(features, SAMPLES) for who in (ours, peer))
    images = np.repeat(np.arange(len(features)), SAMPLES)
    expected = rewards['ours'](images, words, lengths)
    differences = [relative(reward(images, words, lengths), expected) for reward in rewards.values()]
    batch, weights = weighted_batch(features, SAMPLES, words, lengths, weights_of(expected, SAMPLES, lengths))
    weights = weights.astype(features.dtype)
    grads, gradients = ours.weighted_grads(batch, weights), []
    for option in peer.options['recurrence']:
        peer.use({'recurrence': option})
        its_grads = peer.weighted_grads(batch, weights)
        gradients += [relative(its_grads[name], g) for name, g in grads.items()]
    for option in peer.options['ended']:
        peer.use({'ended': option})
        words, lengths, its_grads = peer.drawn_grads(features, SAMPLES)
        batch, weights = weighted_batch(features, SAMPLES, words, lengths, np.ones(len(words), features.dtype))
        gradients += [relative(its_grads[name], g) for name, g in ours.weighted_grads(batch, weights).items()]
    return {'rewards': agree('rewards', max(differences), 1e-6),
            'gradients': agree('gradients', max(gradients), 1e-3),
            'mean length of drawn captions': agree('lengths', relative(its_lengths.mean(), lengths.mean()), .1)}


def relative(value, expected):
    return float(np.linalg.norm(value - expected) / np.linalg.norm(expected))


def agree(what, difference, limit):
    """Return the difference. Raises RuntimeError if it is above limit, because the times could not be compared."""
    if not difference <= limit:
        raise RuntimeError(f'{what}: ours and PyTorch differ by {difference:.2g}, more than {limit:g}')
    return difference


def fastest_way(peer, choices, run, rounds):
    """Try the options of one choice after the other: {choice: its fastest option}, which the peer then uses."""
    way = {}
    for choice in choices:
        best = dict.fromkeys(peer.options[choice], math.inf)
        for _ in range(rounds):
            for option in best:
                peer.use({**way, choice: option})
                best[option] = min(best[option], seconds_of(run))
        way[choice] = min(best, key=best.get)
    peer.use(way)
    return way


def contest(peer, way, ours, theirs):
    """The runs for measure: ours, PyTorch with its fastest options, and PyTorch as it is usually written."""

    def in_way(chosen):
        def run(i):
            peer.use(chosen)
            return theirs(i)
        return run

    return {'ours': ours, 'torch': in_way(way), 'usual': in_way({})}


def measure(runs, pairs, times=1, beside=None):
    """Time runs, {who: run(i)}, in turn for every i: the seconds of each, and the results of beside() after each turn.

    The first WARM_UP turns are left out.
    """
    seconds, others = {who: [] for who in runs}, []
    for i in range(WARM_UP + pairs):
        for who, run in list(runs.items())[::1 if i % 2 else -1]:
            seconds[who].append(seconds_of(functools.partial(run, i), times))
        others.append(beside() if beside else None)
    return {who: values[WARM_UP:] for who, values in seconds.items()}, others[WARM_UP:]


def job_row(size, seconds, units=None):
    """The row of a job: milliseconds of each side, or with units, units of work per second; and the ratios of speed."""
    values = {who: [units / second if units else 1e3 * second for second in some] for who, some in seconds.items()}
    ratios = {name: summary([b / a for a, b in zip(seconds['ours'], seconds[who], strict=True)])
              for name, who in RATIOS.items() if who in seconds}
    return {'size': size.name, 'words': size.words, 'hidden': size.hidden, 'sentences': size.sentences,
            **{who: summary(some) for who, some in values.items()}, **ratios}


def summary(values):
    """Median, lowest and highest value."""
    return {'median': statistics.median(values), 'low': min(values), 'high': max(values)}


def amount(full, plan):
    return max(1, round(full * plan.part))


if __name__ == '__main__':
    sys.exit(main())

"""How fast many machines train together: what is measured, and what follows for machines that are not here.

    python benchmarks/clusters.py compute [--output compute.json]
    mpirun -n 2 python benchmarks/clusters.py exchange [--output exchange.json]
    mpirun -n 2 python benchmarks/clusters.py step
    python benchmarks/clusters.py predict compute.json exchange.json [--plot docs/clusters.svg]

compute times a training step of one of n ranks without the others: its share of the work, and what every rank does for
the whole batch. exchange times the sum of an array over the ranks of this mpirun, of several lengths. step times steps
of these ranks with 100 sentences in all. predict puts compute and exchange together for networks of other speeds:

    step(n, B) = compute(n, B) + exchange(n, 4 bytes of each parameter)
    exchange(n, m) = 2 (n - 1) latency + 2 (n - 1) / n · m / bandwidth
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))    # a checkout need not be installed

import imagernn.nn.blas  # noqa: F401  before numpy

# isort: split
import numpy as np
from machine import describe_cpu
from ours import PARAMS
from work import SIZES, random_batch

from imagernn.captioning.model import cost_and_grads, init_model
from imagernn.errors import InputError, script
from imagernn.formats.json_files import write_json
from imagernn.nn.scratch import Scratch
from imagernn.nn.solver import Solver
from imagernn.nn.workers import Alone, Workers
from imagernn.runs.ranks import world

NAMES = ('flickr8k', 'coco')
HOSTS = (1, 2, 4, 8, 16, 32, 64)
SENTENCES = (100, 400, 1600)                  # in a batch, of all hosts together
LENGTHS = (1, 10 ** 4, 10 ** 5, 10 ** 6, 3 * 10 ** 6, 10 ** 7)    # of exchanged arrays
SPEEDS = (1, 10, 25)                          # of networks, in Gbit/s
IMAGES = 8000                                 # in the features that batches are drawn from
GOAL = .85                                    # of the efficiency that is worth while


class OneOf(Alone):
    """Ranks of which only the first exists: it does its share, and exchanges nothing."""

    def __init__(self, size):
        self.size = size


@script
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('job', choices=JOBS)
    parser.add_argument('files', nargs='*', help='Of predict: what compute and exchange have written.')
    parser.add_argument('--num_threads', type=int, default=1, help='The number of threads of each rank.')
    parser.add_argument('--turns', type=int, default=9, help='How often each step and exchange is timed.')
    parser.add_argument('--output', type=Path, help='A file for the values, as JSON.')
    parser.add_argument('--plot', type=Path, help='Of predict: an SVG file for the efficiency by the number of hosts.')
    args = parser.parse_args(argv)
    if (args.job == 'predict') != (len(args.files) == 2):
        raise InputError('predict takes the two files that compute and exchange have written, the others take none')
    found = JOBS[args.job](args)
    if args.output and found is not None:
        write_json(args.output, found)
    return 0


def compute(args):
    """The seconds of a step of one of n ranks, for batches of B sentences, and what fits them."""
    found = {'processor': describe_cpu()['cpu'], 'num_threads': args.num_threads, 'sizes': {}}
    for name in NAMES:
        size, work = SIZES[name], work_of(SIZES[name])
        times = [(n, B, step_seconds(OneOf(n), size._replace(sentences=B), *work, args))
                 for B in SENTENCES for n in HOSTS if 4 <= B // n <= 200]
        _, model, _ = work
        parameters = sum(w.size for w in model.values())
        found['sizes'][name] = {'parameters': parameters, 'times': times, 'fit': fit(times)}
        print(f'{size.name}, {parameters:,} parameters: {describe(fit(times))}')
        for n, B, seconds in times:
            print(f'  {B:5} sentences, share 1/{n:<2}  {1000 * seconds:8.1f} ms')
    return found


def work_of(size):
    """Features to draw from, a new model, and its params."""
    rng = np.random.default_rng(0)
    features = rng.random((IMAGES, size.features), np.float32)
    params = {**PARAMS, 'generator': 'lstm', 'image_encoding_size': size.hidden, 'word_encoding_size': size.hidden,
              'hidden_size': size.hidden}
    return features, init_model(params, size.features, np.zeros(size.V), rng), params


def step_seconds(ranks, size, features, model, params, args):
    """The median seconds of a step: drawing a batch, the share of each of the ranks, the update."""
    rng, workers, solver = np.random.default_rng(0), Workers(args.num_threads, ranks), Solver(params)
    batch, times = random_batch(size, rng), []
    model = {name: w.copy() for name, w in model.items()}
    for _ in range(2 + args.turns):
        ranks.gather([])    # all begin at once
        started = time.perf_counter()
        batch = batch._replace(features=features[rng.integers(len(features), size=size.sentences)])
        _, grads, _ = cost_and_grads(batch, model, params, rng, workers)
        solver.step(model, grads, workers=workers)
        times.append(time.perf_counter() - started)
    return statistics.median(times[2:])


def steps(args):
    """The seconds of a step of all ranks of this mpirun, with 100 sentences in all."""
    found = {SIZES[name].name: step_seconds(world(), SIZES[name], *work_of(SIZES[name]), args) for name in NAMES}
    for name, seconds in found.items():
        print(f'{name}: {world().size} ranks, {args.num_threads} threads each: {1000 * seconds:.1f} ms')
    return None if world().rank else found


def fit(times):
    """The three numbers of seconds = update + B · drawn + B / n · share, by least squares of relative errors."""
    table = np.array([(1, B, B / n) for n, B, _ in times])
    seconds = np.array([seconds for *_, seconds in times])
    found, *_ = np.linalg.lstsq(table / seconds[:, None], np.ones(len(seconds)), rcond=None)
    return found.tolist()


def describe(fitted):
    update, drawn, share = fitted
    return (f'a step takes {1000 * update:.1f} ms, {1e6 * drawn:.0f} µs for each sentence of the batch, and '
            f'{1e6 * share:.0f} µs for each of a rank\'s own')


def exchange(args):
    """The seconds in which the ranks of this mpirun add up arrays, and the latency and bandwidth that fit them."""
    ranks, scratch, times = world(), Scratch(), []
    if ranks.size == 1:
        raise InputError('exchange needs several processes: mpirun -n 2 python benchmarks/clusters.py exchange')
    for length in LENGTHS:
        flat, laps = np.ones(length, np.float32), []
        for _ in range(3 + args.turns):
            ranks.gather([])    # all begin at once
            started = time.perf_counter()
            ranks.add_up(flat, scratch)
            laps.append(max(ranks.gather([time.perf_counter() - started])))
        times.append((4 * length, statistics.median(laps[3:])))
    steps, sent = 2 * (ranks.size - 1), 2 * (ranks.size - 1) / ranks.size
    latency = times[0][1] / steps
    large, small = times[-1], times[-3]
    bandwidth = sent * (large[0] - small[0]) / (large[1] - small[1])
    for size, seconds in times:
        model = steps * latency + sent * size / bandwidth
        print(f'{size:11,} bytes  {1000 * seconds:9.3f} ms  by the model {1000 * model:9.3f} ms')
    print(f'{ranks.size} ranks: latency {1e6 * latency:.0f} µs, bandwidth {8e-9 * bandwidth:.2f} Gbit/s')
    found = {'ranks': ranks.size, 'latency': latency, 'bandwidth': bandwidth, 'times': times}
    return None if ranks.rank else found


def predict(args):
    """The efficiency of n hosts on networks of several speeds, and the batches that keep GOAL of it."""
    computed, exchanged = (json.loads(Path(path).read_text(encoding='utf-8')) for path in args.files)
    latency, curves = exchanged['latency'], {}
    print(f'latency {1e6 * latency:.0f} µs; a rank with {computed["num_threads"]} threads on each host; '
          f'{computed["processor"]}\n')
    for name, found in computed['sizes'].items():
        message = 4 * found['parameters']
        print(f'{SIZES[name].name}, {message / 1e6:.1f} MB a step: efficiency with 100 sentences a host; '
              f'sentences a host for {GOAL:.0%}')
        print('| Gbit/s |' + ''.join(f' {n} |' for n in HOSTS[1:]))
        print('|---' * len(HOSTS) + '|')
        for speed in SPEEDS:
            def efficiency(n, own, speed=speed, found=found, message=message):
                return step(1, own, found['fit'], message, latency, speed) / step(n, own, found['fit'], message,
                                                                                  latency, speed)
            curves[SIZES[name].name, speed] = [efficiency(n, 100) for n in HOSTS]
            print(f'| {speed} |' + ''.join(f' {efficiency(n, 100):.0%}; {enough(n, efficiency)} |' for n in HOSTS[1:]))
        print()
    if args.plot:
        plot(curves, args.plot)


def step(n, own, fitted, message, latency, speed):
    """The seconds of a step of n hosts with so many sentences each, on a network of this speed in Gbit/s."""
    update, drawn, share = fitted
    return (update + drawn * own * n + share * own + 2 * (n - 1) * latency
            + 2 * (n - 1) / n * message / (speed * 1e9 / 8))


def enough(n, efficiency):
    """The fewest sentences a host, in steps of 10, with which n hosts are GOAL efficient; '-' if none are."""
    return next((own for own in range(10, 20_001, 10) if efficiency(n, own) >= GOAL), '-')


def plot(curves, path):
    """Efficiency by the number of hosts, a line for each model and network."""
    import matplotlib
    matplotlib.use('svg')
    from matplotlib import pyplot

    matplotlib.rcParams.update({'svg.hashsalt': 'clusters', 'svg.fonttype': 'none', 'font.size': 11})
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for (name, speed), values in curves.items():
        axes.plot(HOSTS, values, 'o-' if name == 'COCO' else 's--', color={1: '#b3412e', 10: '#2f6f9f',
                                                                           25: '#3c8a4e'}[speed],
                  label=f'{name}, {speed} Gbit/s')
    axes.axhline(GOAL, color='#888', linewidth=.8)
    axes.set(xscale='log', xlabel='hosts', ylabel='efficiency', ylim=(0, 1.02), title='100 sentences a host')
    axes.set_xticks(HOSTS, map(str, HOSTS), minor=False)
    axes.set_xticks([], minor=True)
    axes.legend(fontsize=9)
    figure.tight_layout()
    figure.savefig(path, metadata={'Date': None})


JOBS = {'compute': compute, 'exchange': exchange, 'step': steps, 'predict': predict}

if __name__ == '__main__':
    sys.exit(main())

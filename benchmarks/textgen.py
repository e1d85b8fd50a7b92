"""Time a training step of the language models beside PyTorch's nn.LSTM on the same stream.

    python benchmarks/textgen.py [--only characters,words,word_windows] [--pairs 7] [--output FILE]

A step is a window of a stream: embedding, two LSTM layers that start from the state which the last window left, dropout
between the layers and of the top, decoder, softmax cross-entropy, backward, clipping by the norm, Adam.
As in compare.py, both sides must first compute the same cost and gradients without dropout, PyTorch's options are tried
(textgen_peer.py), then all take turns in one process, with the same number of threads. Prints a Markdown table.
"""

import argparse
import math
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
from compare import WARM_UP, agree, check_training, chosen, contest, fastest_way, job_row, measure
from report import bold, spread, table

from imagernn.errors import InputError, script
from imagernn.formats.json_files import write_json
from imagernn.formats.writing import require_writable
from imagernn.nn.solver import Solver
from imagernn.nn.workers import Workers
from imagernn.textgen import train
from imagernn.textgen.model import cost_and_grads, init_model, window

SAME = 1e-4    # the largest relative difference of the cost and of any gradient from PyTorch's


class Size(NamedTuple):
    name: str
    words: int        # characters or words in the vocabulary
    embedding: int
    hidden: int       # of each of the two layers
    window: int       # steps
    sentences: int    # parts of the stream, side by side


SIZES = {
    'characters': Size('characters, 50 × 50', 66, 128, 256, 50, 50),    # as many as Shakespeare's in tinyshakespeare
    'words': Size('words, 20 parts × 35', 10_000, 200, 200, 35, 20),    # PyTorch's example word_language_model
    'word_windows': Size('words, 50 × 50', 10_000, 200, 200, 50, 50),
}


@script
def main(argv=None):
    args = parse(argv)
    for package in ('torch', 'threadpoolctl', 'matplotlib'):
        report.require(package)
    if args.output:
        require_writable(args.output)
    import torch

    torch.set_num_threads(args.num_threads)
    found = {'machine': machine.describe(machine.Products()), 'num_threads': args.num_threads,
             'step': [step_job(SIZES[name], args.pairs, args.num_threads) for name in args.only]}
    print(step_table(found['step']))
    if args.output:
        write_json(args.output, found)
    return 0


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--only', default=','.join(SIZES),
                        help=f'The sizes, separated by commas (default: all of {",".join(SIZES)}).')
    parser.add_argument('--pairs', type=int, default=7,
                        help='The number of timed turns (default: 7). More give a steadier median.')
    parser.add_argument('--num_threads', type=int, default=2, help='The threads of either side (default: 2).')
    parser.add_argument('--output', type=Path, help='A file for all values, as JSON (default: none).')
    args = parser.parse_args(argv)
    args.only = chosen('--only', args.only, SIZES)
    for name in ('pairs', 'num_threads'):
        if getattr(args, name) < 1:
            raise InputError(f'--{name} {getattr(args, name)}: must be at least 1')
    return args


class Ours:
    """Our side: a language model with the defaults of train-text, its solver and its threads."""

    def __init__(self, size, num_threads, rng):
        self.params = vars(train.build_parser().parse_args([
            '--embedding_size', str(size.embedding), '--hidden_sizes', f'{size.hidden},{size.hidden}']))
        self.model = init_model(self.params, size.words, rng)
        self.rng, self.workers, self.solver = rng, Workers(num_threads), Solver(self.params)
        self.state = None

    def train_step(self, batch):
        """Make one update, with dropout, from the state that the last window left. Returns the cost."""
        cost, grads, _, self.state = cost_and_grads(batch, self.model, self.params, self.state, self.rng, self.workers)
        self.solver.step(self.model, grads, workers=self.workers)
        return cost

    def read(self, batch):
        """Carry the state over a window, without dropout."""
        self.state = cost_and_grads(batch, self.model, self.params, self.state, workers=self.workers)[3]

    def cost_and_grads(self, batch):
        """The cost of a window and its gradients, without dropout. Leaves the state."""
        return cost_and_grads(batch, self.model, self.params, self.state, workers=self.workers)[:2]


def contestants(size, num_threads):
    """Our side and PyTorch's with the same initial weights, and a random number generator."""
    from textgen_peer import TextPeer

    rng = np.random.default_rng(0)
    ours = Ours(size, num_threads, rng)
    return ours, TextPeer(ours.model, ours.params), rng


def random_windows(size, count, rng):
    """The batches of a stream of random tokens, whose probabilities are about proportional to 1/rank."""
    tokens = np.floor((size.words + 1) ** rng.random(size.sentences * size.window * count + 1)).astype(int) - 1
    return [window(tokens, size.sentences, size.window, place) for place in range(count)]


def step_job(size, pairs, num_threads, rounds=3):
    """Time training steps of a size: forward, backward and update, with dropout, in milliseconds."""
    ours, peer, rng = contestants(size, num_threads)
    batches = random_windows(size, WARM_UP + pairs, rng)
    choices = list(peer.options)
    checks = check_carried(ours, peer, batches, choices)
    way = fastest_way(peer, choices, lambda: peer.train_step(batches[0]), rounds)
    runs = contest(peer, way, lambda i: ours.train_step(batches[i]), lambda i: peer.train_step(batches[i]))
    seconds, _ = measure(runs, pairs, report.STEPS)
    if not all(math.isfinite(who.cost_and_grads(batches[0])[0]) for who in (ours, peer)):
        raise RuntimeError(f'{size.name}: the weights exploded, so the times mean nothing')
    return {**job_row(size, seconds), 'way': way, 'checks': checks}


def check_carried(ours, peer, batches, choices):
    """As check_training, of a window that starts from the state which the one before left on either side."""
    for who in (ours, peer):
        who.read(batches[0])
    checks = check_training(ours, peer, batches[1], choices)
    return {name: agree(name, difference, SAME) for name, difference in checks.items()}


def step_table(rows):
    head = ('training step', 'ours, ms', 'PyTorch as usual, ms', 'times as fast', 'PyTorch at its best, ms',
            'times as fast', 'its best way')
    differences = '; '.join(f'{row["size"]}: cost {row["checks"]["cost"]:.0e}, gradients '
                            f'{row["checks"]["gradients"]:.0e}' for row in rows)
    return table(head, [(row['size'], spread(row['ours']), spread(row['usual']), bold(row['usual_ratio']),
                         spread(row['torch']), bold(row['ratio']), report.way(row)) for row in rows]) + (
        f'\n\nLargest relative differences from PyTorch: {differences}.')


if __name__ == '__main__':
    sys.exit(main())

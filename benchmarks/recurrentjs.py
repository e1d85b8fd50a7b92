"""Train RecurrentJS's character model in its own setting: its learning curve, and characters a second.

    python benchmarks/recurrentjs.py pg_sentences.txt [--seeds 0 1 2 3 4] [--only curve,speed] [--output FILE]

RecurrentJS (Karpathy 2014, character_demo.html) trains an LSTM with layers of 20 and 20 and letters of 5 numbers on
sentences with START and END, one at a time, drawn at random: RMSprop with a decay of .999, a learning rate of .01,
gradients clipped to ±5, L2 of 1e-6. Other than here, it draws weights from ±.08, not ±.1; it averages the squares of
gradients before they are clipped; and its L2 shrinks the weights directly, not through the gradient.

curve  mean nats a character, END counted, over parts of the run, for each seed
speed  training steps one sentence at a time and in batches, on one thread: characters a second, END not counted
"""

import argparse
import sys
import time
from pathlib import Path

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))    # a checkout need not be installed

import imagernn.nn.blas  # noqa: F401  before numpy

# isort: split
import numpy as np
from compare import chosen, summary
from machine import describe_cpu
from report import spread, table

from imagernn.errors import InputError, script
from imagernn.formats.json_files import write_json
from imagernn.formats.writing import require_writable
from imagernn.nn.packing import pack
from imagernn.nn.workers import Workers
from imagernn.textgen import train
from imagernn.textgen.evaluate import lines_from
from imagernn.textgen.load import text_of
from imagernn.textgen.model import cost_and_grads

FLAGS = ['--lines', '--hidden_sizes', '20,20', '--embedding_size', '5', '-b', '1', '--drop_prob', '0', '-c', '1e-6',
         '--solver', 'rmsprop', '--decay_rate', '.999', '-l', '.01', '--learning_rate_schedule', 'halving',
         '--grad_clip', '5', '--grad_clip_by', 'value']
# parts of the run, from the first sentence to the last, and what RecurrentJS reaches there in nats a character
CURVE = {(1, 50): 2.91, (271, 370): 2.44, (1901, 2100): 2.06}
THEIR_SPEED = '3,700 to 4,500'      # characters a second of RecurrentJS, on a core of an Intel Xeon
STEPS = {1: 300, 100: 10, 500: 3}   # of each turn, by batch size


@script
def main(argv=None):
    args = parse(argv)
    if args.output:
        require_writable(args.output)
    found = {'machine': describe_cpu()}
    for name in args.only:
        found[name] = JOBS[name](args)
        print(f'{TABLES[name](found[name])}\n', flush=True)
    if args.output:
        write_json(args.output, found)
    return 0


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('text', help="RecurrentJS's sentences, one on each line.")
    parser.add_argument('--only', default=','.join(JOBS), help=f'The jobs (default: all of {",".join(JOBS)}).')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2, 3, 4],
                        help='The seeds of the curve (default: 0 1 2 3 4).')
    parser.add_argument('--turns', type=int, default=7, help='The number of timed turns (default: 7).')
    parser.add_argument('--output', type=Path, help='A file for all values, as JSON (default: none).')
    args = parser.parse_args(argv)
    args.only = chosen('--only', args.only, JOBS)
    if args.turns < 1:
        raise InputError(f'--turns {args.turns}: must be at least 1')
    return args


class Training:
    """A new run of train-text with FLAGS, all sentences in its training split."""

    def __init__(self, path, seed):
        self.params = vars(train.build_parser().parse_args([path, '--val', path, *FLAGS, '--seed', str(seed)]))
        text = text_of(self.params)
        self.tokens, self.lengths = text.splits['train']
        self.state, self.solver, self.rng = train.start(self.params, None, text)
        self.state.model['Ws'] *= .08    # RecurrentJS's scale of letters
        self.workers = Workers(1)

    def step(self, batch_size=1):
        """Learn from a batch of sentences. Returns the sum of -ln p over its characters, and their number, with END."""
        numbers = self.rng.integers(len(self.lengths), size=batch_size)
        batch = pack(*lines_from(self.tokens, self.lengths, numbers))
        _, grads, stats, _ = cost_and_grads(batch, self.state.model, self.params, None, self.rng, self.workers)
        self.solver.step(self.state.model, grads, workers=self.workers)
        return stats['nats'] * len(batch.targets), len(batch.targets)


# ---- the curve ------------------------------------------------------------------------------------------------------

def curves(args):
    """For each seed, the mean nats a character over the parts of CURVE."""
    last = max(end for _, end in CURVE)
    found = []
    for seed in args.seeds:
        training = Training(args.text, seed)
        steps = np.array([training.step() for _ in range(last)])                # (steps, 2)
        found.append([float(np.divide(*steps[start - 1:end].sum(axis=0))) for start, end in CURVE])
    return found


def curve_table(found):
    rows = [(f'{start:,} to {end:,}', f'{theirs:.2f}', f'{np.mean(ours):.2f}', f'{min(ours):.2f} to {max(ours):.2f}')
            for (start, end), theirs, *ours in zip(CURVE, CURVE.values(), *found, strict=True)]
    return table(('sentences', 'RecurrentJS', f'ours, mean of {len(found)} seeds', 'lowest to highest'), rows)


# ---- speed ----------------------------------------------------------------------------------------------------------

def speeds(args):
    """{batch size: characters a second}, each a median with the lowest and highest of the turns."""
    training = Training(args.text, args.seeds[0])
    rates = {size: [] for size in STEPS}
    for turn in range(1 + args.turns):    # the first is not counted
        for size, steps in STEPS.items():
            start = time.perf_counter()
            counted = sum(training.step(size)[1] for _ in range(steps)) - steps * size
            if turn:
                rates[size].append(counted / (time.perf_counter() - start))
    return {size: summary(some) for size, some in rates.items()}


def speed_table(found):
    rows = [(f'{size}', spread(rate)) for size, rate in found.items()]
    return table(('sentences a step', 'characters a second'), [('1, RecurrentJS', THEIR_SPEED), *rows])


JOBS = {'curve': curves, 'speed': speeds}
TABLES = {'curve': curve_table, 'speed': speed_table}


if __name__ == '__main__':
    sys.exit(main())

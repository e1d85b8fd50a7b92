"""Measure what the safety of a training run costs, at COCO's size: python benchmarks/safety_cost.py [--folder .]

Trains an LSTM of 512 with 8,800 words on batches of 100 that are in memory. Prints median times, on the clock and as
processor time of all threads, of a training step and of its check for values that are not finite; of saving a
checkpoint, which means checking its values and the cost of a batch, making its bytes and writing them; of loading one
and of verifying its checksum. The clock times give the share of a training hour under the default settings: a
checkpoint every ten minutes and at every evaluation.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))    # a checkout need not be installed

import imagernn.nn.blas  # noqa: F401  before numpy

# isort: split
import numpy as np
from machine import describe_cpu
from ours import Ours
from work import SIZES, random_batch

import imagernn.nn.solver
from imagernn.captioning.model import cost_of, forward
from imagernn.errors import script
from imagernn.nn.solver import Solver
from imagernn.runs.checkpoint_file import _check_seal, checkpoint_bytes, load_checkpoint, write_checkpoint
from imagernn.runs.divergence import state_not_finite

EVERY_MINUTES = 10                    # --checkpoint_every
ITERATIONS_AN_EPOCH = 5664            # then an evaluation, a checkpoint and, if it is the best one, a copy of it


def timed(run, times):
    """Call run() repeatedly: the medians of its wall-clock seconds and of its processor seconds."""
    clock, processor = [], []
    for _ in range(times):
        started, used = time.perf_counter(), time.process_time()
        run()
        clock.append(time.perf_counter() - started)
        processor.append(time.process_time() - used)
    return float(np.median(clock)), float(np.median(processor))


class NoDot:
    """numpy with a dot that does nothing: with it, the solver's step does not check for values that are not finite."""

    @staticmethod
    def dot(one, other):
        return 0.

    def __getattr__(self, name):
        return getattr(np, name)


def watch_of_an_update(update, times):
    """What the check adds to the solver's update: median seconds with the check minus without it, measured in turn."""
    took = {np: [], NoDot(): []}
    for _ in range(times):
        for module, each in took.items():
            with mock.patch.object(imagernn.nn.solver, 'np', module):
                each.append(timed(update, 1))
    watched, unwatched = (np.median(each, axis=0) for each in took.values())
    return tuple(watched - unwatched)


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--steps', type=int, default=40, help='The number of training steps to time.')
    parser.add_argument('--saves', type=int, default=7, help='The number of checkpoints to save and load.')
    parser.add_argument('--solver', default='rmsprop',
                        help='The solver, whose state is saved too. That of adam is twice as large.')
    parser.add_argument('--folder', default='.',
                        help='A folder on the disk where checkpoints would be written.')
    return parser


@script
def main(argv=None):
    args = build_parser().parse_args(argv)
    rng = np.random.default_rng(0)
    ours, batches = Ours(SIZES['coco'], 'lstm', rng), [random_batch(SIZES['coco'], rng) for _ in range(5)]
    turn = iter(range(10 ** 9))
    solver = Solver({**ours.params, 'solver': args.solver, 'learning_rate': 1e-5, 'decay_rate': .999,
                     'smooth_eps': 1e-8, 'grad_clip': 5})
    grads = {name: rng.standard_normal(w.shape, np.float32) for name, w in ours.model.items()}

    def update():
        solver.step(ours.model, grads, workers=ours.workers)    # overwrites grads; the next update uses what is left

    update()

    def step():
        ours.train_step(batches[next(turn) % len(batches)])

    def look_before_saving():
        state_not_finite(ours.model, solver.state_dict())
        logprobs, _ = forward(batches[0], ours.model, ours.params)
        cost_of(logprobs, len(batches[0].image_rows), ours.model, ours.params)

    def make_bytes():
        return checkpoint_bytes({'model': ours.model, 'params': ours.params, 'wordtoix': {'#START#': 0},
                                 'ixtoword': ours.ixtoword, 'solver': solver.state_dict(), 'history': []})

    took = {}
    timed(step, 5)
    took['a step'] = timed(step, args.steps)
    took['the check for values that are not finite, in a step'] = watch_of_an_update(update, 2 * args.steps)
    took['the check before saving'] = timed(look_before_saving, args.saves)
    took['making the bytes of a checkpoint'] = timed(make_bytes, args.saves)
    contents = make_bytes()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / 'checkpoint.h5'
        took['writing them to the disk'] = timed(lambda: write_checkpoint(path, contents), args.saves)
        size = os.path.getsize(path)
        took['loading a checkpoint'] = timed(lambda: load_checkpoint(path), args.saves)

        def verify():
            with path.open('rb') as file:
                _check_seal(file)

        took['verifying its checksum, in loading'] = timed(verify, args.saves)

    print(f'{describe_cpu()}; a checkpoint of {size / 1e6:.0f} MB\n')
    print('| | ms | ms of processor time |\n|---|---:|---:|')
    for name, seconds in took.items():
        print(f'| {name} | {1e3 * seconds[0]:.1f} | {1e3 * seconds[1]:.1f} |')
    save = sum(took[name][0] for name in took if name in ('the check before saving', 'making the bytes of a checkpoint',
                                                          'writing them to the disk'))
    best = took['writing them to the disk'][0]    # the copy of the best checkpoint
    steps = 3600 / took['a step'][0]
    by_clock, at_epochs = 60 / EVERY_MINUTES, steps / ITERATIONS_AN_EPOCH
    shares = {'checks in steps': took['the check for values that are not finite, in a step'][0] / took['a step'][0],
              'checkpoints': ((by_clock + at_epochs) * save + at_epochs * best) / 3600}
    print(f'\nShares of an hour of training, which has {steps:.0f} steps and {by_clock + at_epochs:.1f} checkpoints: '
          + ', '.join(f'{name} {share:.2%}' for name, share in shares.items())
          + f', together {sum(shares.values()):.2%}')
    return 0


if __name__ == '__main__':
    sys.exit(main())

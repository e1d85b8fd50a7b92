"""How long a training step takes, and what share of this machine's matrix product that is.

    python benchmarks/step_time.py [--words 2537] [--size 256] [--generator lstm]

Batches of 100 random sentences of Flickr8K's lengths; forward, backward and update, rmsprop, dropout on.
"""

import argparse
import statistics
import sys
import time

import numpy as np

from imagernn.batch import Batch, pack
from imagernn.captioner import cost_and_grads, init_model
from imagernn.layers import Scratch
from imagernn.solver import Solver

N, D, WARM_UP, STEPS = 100, 4096, 5, 25


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--words', type=int, default=2537, help='vocabulary (COCO: 8800)')
    parser.add_argument('--size', type=int, default=256, help='encodings and hidden state (COCO: 512)')
    parser.add_argument('--generator', default='lstm', help='lstm or rnn')
    args = parser.parse_args(argv)
    V, S, rng = args.words + 1, args.size, np.random.default_rng(0)
    params = {'generator': args.generator, 'image_encoding_size': S, 'word_encoding_size': S, 'hidden_size': S,
              'regc': 1e-8, 'drop_prob_encoder': .5, 'drop_prob_decoder': .5, 'solver': 'rmsprop',
              'learning_rate': 1e-3, 'decay_rate': .999, 'smooth_eps': 1e-8, 'grad_clip': 5}
    model, solver, scratch = init_model(params, D, np.zeros(V), rng), Solver(params), Scratch()

    seconds, operations, products = [], [], []
    for _ in range(WARM_UP + STEPS):
        batch = random_batch(V, rng)
        start = time.perf_counter()
        _, grads, _ = cost_and_grads(batch, model, params, rng, scratch)
        solver.step(model, grads)
        seconds.append(time.perf_counter() - start)
        operations.append(step_operations(len(batch.inputs), V, S, args.generator))
        products.append(product_rate(rng))
    rates = [count / second for count, second in zip(operations, seconds, strict=True)][WARM_UP:]
    step, peak = statistics.median(seconds[WARM_UP:]), statistics.median(products[WARM_UP:])
    print(f'{args.generator}, {args.words} words, size {S}, batch {N}: {1e3 * step:.1f} ms a step '
          f'({1e3 * min(seconds[WARM_UP:]):.1f} to {1e3 * max(seconds[WARM_UP:]):.1f}), medians of {STEPS}; '
          f'{statistics.median(rates) / 1e9:.0f} of {peak / 1e9:.0f} GFLOP/s: {statistics.median(rates) / peak:.0%} '
          'of a float32 matrix product of 2048 × 2048')
    return 0


def random_batch(V, rng):
    lengths = np.clip(rng.normal(10.8, 3.5, N).round().astype(int), 4, 25)
    inputs, targets, batch_sizes, order = pack([np.minimum(rng.zipf(1.3, length), V - 1) for length in lengths])
    return Batch(rng.random((N, D), np.float32), np.arange(N), inputs, targets, batch_sizes, order)


def step_operations(P, V, S, generator):
    """Operations of the matrix products of a step: two a weight and row, once forward and twice backward."""
    recurrent = (P + N) * 8 * S * S if generator == 'lstm' else P * 2 * S * S
    return 2 * (3 * (P * S * V + recurrent) + 2 * N * D * S)


def product_rate(rng, size=2048):
    A = rng.random((size, size), np.float32)
    start = time.perf_counter()
    A @ A
    return 2 * size ** 3 / (time.perf_counter() - start)


if __name__ == '__main__':
    sys.exit(main())

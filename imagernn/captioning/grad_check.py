"""The gradient check of a captioning run: every gradient of the cost against finite differences, on the user's data."""

import numpy as np

from imagernn.captioning.batch import batch_of_pairs
from imagernn.captioning.model import cost_and_grads, cost_of, draw_dropout, forward
from imagernn.corpus.vocab import lookup_table
from imagernn.nn import gradcheck
from imagernn.nn.workers import Workers

PAIRS = 5
BOUND = 1e-6


def grad_check(model, provider, wordtoix, params, rng):
    """Compare all gradients with finite differences, with dropout on and its masks fixed. Returns the exit code.

    The model is changed first, because a new one is a bad place to compare. Zeros, its biases, are moved away from 0: a
    unit whose inputs are all dropped would otherwise lie exactly at the kink of its ReLU, where there is no derivative.
    The columns of its weights are scaled up to a norm of 1: with small ones attention is the same everywhere, and its
    gradients drown in the rounding of the cost.
    """
    for w in model.values():
        w[w == 0] = rng.uniform(-.1, .1, np.count_nonzero(w == 0))
        if len(w) > 1:
            w *= np.maximum(1 / np.linalg.norm(w, axis=0), 1)
    pairs = provider.sample_pairs('train', PAIRS, rng)
    batch = batch_of_pairs(pairs, provider, lookup_table(provider.words, wordtoix), np.float64)
    rng_state = rng.bit_generator.state
    dropout = draw_dropout(batch, model, params, rng)

    def cost():
        logprobs, _ = forward(batch, model, params, dropout, smoothing=params['label_smoothing'])
        return cost_of(logprobs, PAIRS, model, params)[0]

    rng.bit_generator.state = rng_state
    _, grads, _ = cost_and_grads(batch, model, params, rng, Workers(params['num_threads']))
    chooser, all_right, width = np.random.default_rng(params['seed'] + 1), True, max(6, *map(len, model))
    print(f'dropout {params["drop_prob_encoder"]} / {params["drop_prob_decoder"]}, float64; '
          f'largest relative error of 10 elements, bound {BOUND:g}')
    for name in model:
        error = gradcheck.element_errors(cost, model[name], grads[name], chooser).max()
        right = bool(error < BOUND)    # NaN is not
        all_right &= right
        shape = '×'.join(map(str, model[name].shape))
        print(f'{name:{width}} {shape:12} {error:.1e}  {"ok" if right else "WRONG"}', flush=True)
    return 0 if all_right else 1

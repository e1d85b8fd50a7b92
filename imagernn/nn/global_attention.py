"""Global attention: a recurrent layer's states, all steps at once, each look at R vectors, such as an encoder's states.

Knows no words. The equations are those of Luong, Pham & Manning (2015, sections 3 and 3.1) with the score that they
call general, and without input feeding: nothing goes back into the recurrent layer, so no step waits for another. With
the vectors v_i and the state h after the step:

    score_i = h·Wscore·v_i      weight = softmax(score)      context = Σ_i weight_i v_i
    out = tanh([h; context]·Wcombine + bcombine)

Where some have fewer vectors than others, the score of an absent one is -inf, and so its weight is 0.
"""

import numpy as np

from imagernn.nn.attention import Seen, weighted_mean_backward, weighted_mean_forward
from imagernn.nn.packing import columns_and_steps
from imagernn.nn.scratch import Scratch

REGULARIZE = ('Wscore', 'Wcombine')


def shapes(E, H):
    """Parameter name -> shape, for vectors of size E and states of size H."""
    return {'Wscore': (H, E), 'Wcombine': (H + E, H), 'bcombine': (1, H)}


def init(E, H, rng):
    """New parameters: uniform in ±1/√(number of rows), biases 0."""
    model = {name: rng.uniform(-1, 1, shape) * shape[0] ** -.5 for name, shape in shapes(E, H).items()}
    model['bcombine'][:] = 0
    return model


def forward(H, batch_sizes, values, absent, model, scratch=None):
    """All steps of a packed batch.

    H (P, H): the states, packed by batch_sizes (T,). values (N, R, E): the vectors of each sentence, in packed order.
    absent (N, R): True for vectors that are not there; each sentence has one at least.
    Returns out (P, H); weights (P, R), where each step looked; and the cache. out and the cache live in scratch: they
    are valid until the next forward pass with the same scratch.
    """
    scratch = scratch or Scratch()
    (P, size), (N, _, E), T, dtype = H.shape, values.shape, len(batch_sizes), H.dtype
    rows = columns_and_steps(batch_sizes)
    queries = scratch('queries', (N, T, E), dtype)
    queries[:] = 0                                                              # behind the end of a sentence
    queries[rows] = np.matmul(H, model['Wscore'], out=scratch('packed', (P, E), dtype))
    scores = queries @ values.transpose(0, 2, 1)                                # (N, T, R)
    np.copyto(scores, -np.inf, where=absent[:, None])
    contexts, weights = weighted_mean_forward(scores, values)                   # (N, T, E)

    Xin = scratch('Xin', (P, size + E), dtype)                                  # a row: h, context
    Xin[:, :size] = H
    Xin[:, size:] = contexts[rows]
    out = np.matmul(Xin, model['Wcombine'], out=scratch('out', (P, size), dtype))
    out += model['bcombine']
    np.tanh(out, out=out)
    return out, weights[rows], (rows, queries, values, weights, Xin, out, model, scratch)


def backward(dout, cache):
    """The mirror of forward: dout (P, H), overwritten -> dH (P, H), dvalues (N, R, E), grads.

    dvalues and the gradients by the large parameters live in scratch.
    """
    rows, queries, values, weights, Xin, out, model, scratch = cache
    size, dtype = out.shape[1], out.dtype
    dout *= 1 - out * out                                                       # by tanh
    dXin = np.matmul(dout, model['Wcombine'].T, out=scratch('dXin', Xin.shape, dtype))
    grads = {'Wcombine': np.matmul(Xin.T, dout, out=scratch('dWcombine', model['Wcombine'].shape, dtype)),
             'bcombine': dout.sum(axis=0, keepdims=True)}

    dcontexts = scratch('dcontexts', queries.shape, dtype)                      # (N, T, E)
    dcontexts[:] = 0
    dcontexts[rows] = dXin[:, size:]
    dscores = weighted_mean_backward(dcontexts, values, weights)                # (N, T, R)
    dvalues = np.matmul(weights.transpose(0, 2, 1), dcontexts, out=scratch('dvalues', values.shape, dtype))
    dvalues += dscores.transpose(0, 2, 1) @ queries                             # through the scores

    dqueries = (dscores @ values)[rows]                                         # (P, E)
    grads['Wscore'] = np.matmul(Xin[:, :size].T, dqueries, out=scratch('dWscore', model['Wscore'].shape, dtype))
    dH = dqueries @ model['Wscore'].T                                           # (P, H)
    dH += dXin[:, :size]
    return dH, dvalues, grads


class Memory(Seen):
    """What global attention looks at: values (M, R, E); absent (M, R): True for vectors that are not there."""

    def __init__(self, values, absent, model):
        super().__init__(len(values))
        self._model, size = model, model['Wcombine'].shape[1]
        # once for all steps: h·(Wscore·v) is the score, and the mean of v·Wcombine that of v times Wcombine
        self._keys = values @ model['Wscore'].T                                 # (M, R, H)
        self._shares = values @ model['Wcombine'][size:]                        # (M, R, H)
        self._absent = absent                                                   # (M, R)

    def look(self, h):
        """One step, what forward computes: the state after it, h (n, H) -> out (n, H)."""
        row, model = self._row, self._model
        scores = (self._keys[row] @ h[:, :, None])[:, None, :, 0]               # (n, 1, R)
        np.copyto(scores, -np.inf, where=self._absent[row, None])
        shares, _ = weighted_mean_forward(scores, self._shares[row])            # (n, 1, H)
        out = h @ model['Wcombine'][:h.shape[1]]
        out += shares[:, 0]
        out += model['bcombine']
        return np.tanh(out, out=out)

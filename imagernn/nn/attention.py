"""Soft attention: at each step a recurrent layer looks at some of R vectors, and decides which from its own state.

Knows no image and no words: the vectors may be regions of a picture, or the states of an encoder. The equations are
those of Bahdanau et al. (2015), which Xu et al. (2015, "Show, Attend and Tell") took over for pictures. With the
vectors v_i, their keys k_i = v_i·Wkey + bkey and the state h before the step:

    score_i = tanh(k_i + h·Wquery)·Wscore        weight = softmax(score)        context = Σ_i weight_i v_i

and context·Wcontext is added to the sums that go into the layer's units. global_attention.py has other scores, and
shares with this what follows from scores.
"""

from copy import copy

import numpy as np

from imagernn.nn.scratch import Scratch


def shapes(E, H, K, S):
    """Parameter name -> shape, for vectors of size E, states of size H, keys of size K and S sums of the layer."""
    return {'Wkey': (E, K), 'bkey': (1, K), 'Wquery': (H, K), 'Wscore': (K, 1), 'Wcontext': (E, S)}


REGULARIZE = ('Wkey', 'Wquery', 'Wscore', 'Wcontext')


def init(E, H, K, S, rng):
    """New parameters: uniform in ±0.1, biases 0."""
    model = {name: rng.uniform(-.1, .1, shape) for name, shape in shapes(E, H, K, S).items()}
    model['bkey'][:] = 0
    return model


def weighted_mean_forward(scores, values):
    """The mean of the vectors by the softmax of their scores.

    scores (n, T, R): of the R vectors at each of T steps; they are overwritten by the weights. values (n, R, E).
    Returns contexts (n, T, E) and weights (n, T, R).
    """
    scores -= scores.max(axis=-1, keepdims=True)
    weights = np.exp(scores, out=scores)
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights @ values, weights


def weighted_mean_backward(dcontexts, values, weights):
    """dcontexts (n, T, E) -> dscores (n, T, R). The gradient by the vectors is weightsᵀ·dcontexts."""
    dweights = dcontexts @ values.transpose(0, 2, 1)                            # (n, T, R)
    return weights * (dweights - (weights * dweights).sum(axis=-1, keepdims=True))


def keys_of(values, model):
    """values (N, R, E) -> keys (N, R, K), which are the same at all steps."""
    N, R, E = values.shape
    keys = values.reshape(N * R, E) @ model['Wkey']
    keys += model['bkey']
    return keys.reshape(N, R, keys.shape[1])


def attend_forward(h, keys, values, model, out=None):
    """One step: h (n, H), keys (n, R, K), values (n, R, E) -> context (n, E), cache.

    out: an array (n, R, K) for the cache. The cache is (weights (n, R), tanh(k + h·Wquery) (n, R, K)).
    """
    units = np.add(keys, (h @ model['Wquery'])[:, None], out=out)               # (n, R, K)
    np.tanh(units, out=units)
    scores = (units @ model['Wscore'])[:, :, 0]                                 # (n, R)
    contexts, weights = weighted_mean_forward(scores[:, None], values)
    return contexts[:, 0], (weights[:, 0], units)


def attend_backward(dcontext, values, model, cache):
    """The mirror of attend_forward, but for what is summed over the steps: dcontext (n, E) ->

    dquery (n, K), the gradient by h·Wquery; dkeys (n, R, K), which overwrites the cache; dWscore (K, 1).
    """
    weights, units = cache
    n, R, K = units.shape
    dscores = weighted_mean_backward(dcontext[:, None], values, weights[:, None])[:, 0]    # (n, R)
    dWscore = units.reshape(n * R, K).T @ dscores.reshape(n * R, 1)
    dkeys = np.multiply(units, units, out=units)    # by tanh: 1 - tanh²
    np.subtract(1, dkeys, out=dkeys)
    dkeys *= model['Wscore'][:, 0]
    dquery = (dscores[:, None] @ dkeys)[:, 0]                                   # (n, K), summed over the vectors
    dkeys *= dscores[:, :, None]
    return dquery, dkeys, dWscore


class Attention:
    """Attention over all steps of a packed batch: a forward and a backward pass that a recurrent layer steps through.

    values (N, R, E): the vectors of each sentence, in packed order. P: the number of packed rows.
    """

    def __init__(self, values, P, model, scratch=None):
        (_, R, E), dtype = values.shape, values.dtype
        self._model, self._values, self._scratch = model, values, scratch or Scratch()
        K, H = model['Wkey'].shape[1], len(model['Wquery'])
        self._keys = keys_of(values, model)                                     # (N, R, K)
        self._h = self._scratch('h before', (P, H), dtype)
        self._contexts = self._scratch('contexts', (P, E), dtype)
        self._units = self._scratch('units', (P, R, K), dtype)
        self.weights = np.empty((P, R), dtype)                                  # where each step looked

    def forward(self, rows, h):
        """The step of these packed rows, a slice of n: h (n, H), the state before -> what the sums get (n, S)."""
        n = len(h)
        self._h[rows] = h
        context, (self.weights[rows], _) = attend_forward(h, self._keys[:n], self._values[:n], self._model,
                                                          self._units[rows])
        self._contexts[rows] = context
        return context @ self._model['Wcontext']

    def start_backward(self, steps):
        """Prepare the backward pass. steps: the slice of packed rows of each step."""
        N, R, K = self._keys.shape
        (P, E), dtype = self._contexts.shape, self._contexts.dtype
        self._steps = steps
        self._dkeys = self._scratch('dkeys', (N, R, K), dtype)
        self._dkeys[:] = 0
        self._dqueries = self._scratch('dqueries', (P, K), dtype)
        self._dcontexts = self._scratch('dcontexts', (P, E), dtype)
        self._dWscore = np.zeros_like(self._model['Wscore'])

    def backward(self, rows, dsums):
        """The mirror of forward: dsums (n, S) -> dh (n, H). The steps come in reverse order."""
        n, dcontext = len(dsums), self._dcontexts[rows]
        dcontext[:] = (self._model['Wcontext'] @ dsums.T).T                     # for few rows the fastest order
        dquery, dkeys, dWscore = attend_backward(dcontext, self._values[:n], self._model,
                                                 (self.weights[rows], self._units[rows]))
        self._dkeys[:n] += dkeys
        self._dqueries[rows] = dquery
        self._dWscore += dWscore
        return (self._model['Wquery'] @ dquery.T).T

    def gradients(self, dsums):
        """After the last step, from dsums (P, S) of all steps: dvalues (N, R, E), and the parameters' gradients."""
        N, R, K = self._keys.shape
        E, T, dtype = self._values.shape[2], len(self._steps), self._contexts.dtype
        # by the values through the contexts, the steps of each sentence in one product
        weights = np.zeros((N, T, R), dtype)
        dcontexts = self._scratch('dcontexts by sentence', (N, T, E), dtype)
        for t, rows in enumerate(self._steps):
            n = rows.stop - rows.start
            weights[:n, t] = self.weights[rows]
            dcontexts[:n, t] = self._dcontexts[rows]
            dcontexts[n:, t] = 0
        dvalues = weights.transpose(0, 2, 1) @ dcontexts                        # (N, R, E)
        # and through the keys
        dkeys, values = self._dkeys.reshape(N * R, K), self._values.reshape(N * R, E)
        dvalues += (dkeys @ self._model['Wkey'].T).reshape(N, R, E)
        return dvalues, {
            'Wkey': values.T @ dkeys, 'bkey': dkeys.sum(axis=0, keepdims=True),
            'Wquery': self._h.T @ self._dqueries, 'Wscore': self._dWscore, 'Wcontext': self._contexts.T @ dsums}


class Seen:
    """What a search may look at: the vectors of M images or sentences, and for each of its n beams the row of its own.

    It is a part of the state that search carries: indexing and len are those of the rows, so the vectors themselves are
    never copied from beam to beam.
    """

    def __init__(self, M):
        self._row = np.arange(M)                                                # (n,)

    def __len__(self):
        return len(self._row)

    def __getitem__(self, rows):
        other = copy(self)
        other._row = self._row[rows]
        return other


class Sight(Seen):
    """What soft attention looks at: vectors (M, R, E)."""

    def __init__(self, values, model):
        super().__init__(len(values))
        self._values = values                                                   # (M, R, E)
        self._keys = keys_of(values, model)                                     # (M, R, K)

    def look(self, h, model):
        """What the sums of the layer get at this step, (n, S), from the state before it, h (n, H)."""
        context, _ = attend_forward(h, self._keys[self._row], self._values[self._row], model)
        return context @ model['Wcontext']

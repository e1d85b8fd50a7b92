"""The ReLU recurrent layer (Karpathy & Fei-Fei 2015): h = ReLU((x·Wxh + bxh) + h'·Whh + bhh + context).

Knows no image, no words and no decoder: vectors come in, hidden states go out, all sentences of a packed batch at once.

A state is (h, context), two arrays (N, H) whose rows are the sentences. The context is a vector of each sentence that
is added at every step, or at the first alone with the flag rnn_feed_once. With rnn_relu_encoders the bracket passes a
ReLU of its own first.
"""

import numpy as np

from imagernn.nn.layers import affine_backward, affine_forward, relu_backward, relu_forward
from imagernn.nn.packing import last_rows, packed_steps
from imagernn.nn.scratch import Scratch

REGULARIZE = ('Whh', 'Wxh')


def shapes(E, H):
    """Parameter name -> shape, for inputs of size E and a hidden state of size H."""
    return {'Whh': (H, H), 'bhh': (1, H), 'Wxh': (E, H), 'bxh': (1, H)}


def init(E, H, rng):
    """New parameters: uniform in ±0.1, biases 0."""
    model = {name: rng.uniform(-.1, .1, shape) for name, shape in shapes(E, H).items()}
    model['bhh'][:] = 0
    model['bxh'][:] = 0
    return model


def forward(X, batch_sizes, model, params, start=None, scratch=None):
    """All steps of a packed batch.

    X (P, E): inputs, packed time-major by batch_sizes (T,). start: the state before the first step, (h, context), each
    (N, H); a part that is None, or no start at all, is zeros.
    Returns H (P, H), the hidden state after each step; last, the state of each sentence after its last step; and the
    cache for backward. H lives in scratch: it is valid until the next forward pass with the same scratch.
    """
    scratch = scratch or Scratch()
    Whh, feed_once = model['Whh'], params.get('rnn_feed_once')
    h0, context = start or (None, None)
    N = int(batch_sizes[0])

    sums, inputs_cache = _inputs_forward(X, model, params)                      # (P, H)
    H = scratch('H', sums.shape, X.dtype)
    recurrent = scratch('recurrent', (N, sums.shape[1]), X.dtype)
    if context is not None:
        sums[:N] += context
    if h0 is not None:
        sums[:N] += h0 @ Whh
    _step(sums[:N], H[:N])
    steps = packed_steps(batch_sizes)
    for before, now in steps:
        n = now.stop - now.start
        if context is not None and not feed_once:
            sums[now] += context[:n]
        sums[now] += np.matmul(H[before], Whh, out=recurrent[:n])
        _step(sums[now], H[now])

    no_more = context is None or feed_once    # the context has no effect on later steps
    last = H[last_rows(batch_sizes)], np.zeros((N, H.shape[1]), X.dtype) if no_more else context
    return H, last, (H, h0, Whh, batch_sizes, steps, context is None, feed_once, inputs_cache)


def backward(dH, cache, dlast=None):
    """The mirror of forward.

    dH (P, H): the gradient by H; it is overwritten. dlast: the gradient by last; a part that is None, or no dlast at
    all, is zeros.
    Returns dX (P, E); dstart, (dh, dcontext), each (N, H), or None where start was zeros; and grads {'Whh', 'bhh',
    'Wxh', 'bxh'}.
    """
    H, h0, Whh, batch_sizes, steps, no_context, feed_once, inputs_cache = cache
    N = int(batch_sizes[0])
    WhhT = np.ascontiguousarray(Whh.T)                                          # few rows multiply it faster
    dh_last, dcontext_last = dlast or (None, None)
    dcontext = None if no_context else np.zeros((N, H.shape[1]), dH.dtype)
    if dh_last is not None:
        dH[last_rows(batch_sizes)] += dh_last
    if dcontext is not None and dcontext_last is not None and not feed_once:
        dcontext += dcontext_last

    for before, now in reversed(steps):
        dsums = _step_backward(dH[now], H[now])
        dH[before] += dsums @ WhhT
        if dcontext is not None and not feed_once:
            dcontext[:now.stop - now.start] += dsums
    dsums = _step_backward(dH[:N], H[:N])
    dh0 = None if h0 is None else dsums @ WhhT
    if dcontext is not None:
        dcontext += dsums

    dX, grads = _inputs_backward(dH, inputs_cache)
    H_before = np.concatenate([H[before] for before, _ in steps]) if steps else H[:0]    # (P - N, H)
    grads['Whh'] = H_before.T @ dH[N:]
    if h0 is not None:
        grads['Whh'] += h0.T @ dH[:N]
    return dX, (dh0, dcontext), grads


def project(X, model, params):
    """The inputs' share of the sums, (x·Wxh + bxh) + bhh, X (n, E) -> (n, H). Search computes it once for all words."""
    return _inputs_forward(X, model, params)[0]


def tick(sums, state, model, params):
    """One step, the very step that training takes.

    sums (n, H): project() of the inputs; they are overwritten. state: (h, context), each (n, H).
    Returns h (n, H) and the new state.
    """
    h_before, context = state
    sums += context
    sums += h_before @ model['Whh']
    h = np.empty_like(h_before)
    _step(sums, h)
    return h, (h, np.zeros_like(context) if params.get('rnn_feed_once') else context)


def zero_state(n, model, dtype):
    """The state before anything was seen, n rows of zeros."""
    H = len(model['Whh'])
    return np.zeros((n, H), dtype), np.zeros((n, H), dtype)


def _inputs_forward(X, model, params):
    """[ReLU](X·Wxh + bxh) + bhh: X (n, E) -> (n, H), cache."""
    encoded, affine_cache = affine_forward(X, model['Wxh'], model['bxh'])
    on = None
    if params.get('rnn_relu_encoders'):
        encoded, on = relu_forward(encoded)
    return encoded + model['bhh'], (affine_cache, on)


def _inputs_backward(dsums, cache):
    """dsums (n, H) -> dX (n, E), grads {'Wxh', 'bxh', 'bhh'}."""
    affine_cache, on = cache
    dencoded = dsums if on is None else relu_backward(dsums, on)
    dX, dWxh, dbxh = affine_backward(dencoded, affine_cache)
    return dX, {'Wxh': dWxh, 'bxh': dbxh, 'bhh': dsums.sum(axis=0, keepdims=True)}


def _step(sums, h):
    """h = ReLU(sums), written into h."""
    np.maximum(sums, 0, out=h)


def _step_backward(dh, h):
    """The gradient by the sums, in place of dh. h is the state before any dropout: a dropped unit was still on."""
    dh *= h > 0
    return dh

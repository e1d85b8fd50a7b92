"""The GRU layer (Cho et al. 2014): all sentences of a packed batch at once.

Knows no image, no words and no decoder: vectors come in, hidden states go out. With the state h' before a step and the
gates r (reset) and z (update):

    r = sigmoid(x·Wr + h'·Ur)    z = sigmoid(x·Wz + h'·Uz)    n = tanh(x·Wn + r·(h'·Un))    h = (1 - z)·n + z·h'

each product with its bias. The reset gate acts behind the product with Un, as in cuDNN and PyTorch, so that one product
serves all three. WGRU (1 + E, 3H) and UGRU (1 + H, 3H) hold W and U: their rows are bias and input, or bias and hidden
state; their columns r, z, n. A state is (h,), with an array (N, H) whose rows are the sentences.
"""

import numpy as np

from imagernn.nn.packing import last_rows, packed_steps
from imagernn.nn.scratch import Scratch

REGULARIZE = ('WGRU', 'UGRU')


def shapes(E, H):
    """Parameter name -> shape, for inputs of size E and a hidden state of size H."""
    return {'WGRU': (1 + E, 3 * H), 'UGRU': (1 + H, 3 * H)}


def init(E, H, rng):
    """New parameters: uniform in ±1/√H, biases 0. (With the ±0.1 of the other layers, large states oscillate.)"""
    model = {name: rng.uniform(-H ** -.5, H ** -.5, shape) for name, shape in shapes(E, H).items()}
    for w in model.values():
        w[0] = 0
    return model


def forward(X, batch_sizes, model, params, start=None, scratch=None):
    """All steps of a packed batch.

    X (P, E): inputs, packed time-major by batch_sizes (T,). start: the state before the first step, (h,) with h (N, H);
    None is zeros.
    Returns H (P, H), the hidden state after each step; last, the state of each sentence after its last step; and the
    cache for backward. H lives in scratch: it is valid until the next forward pass with the same scratch.
    """
    scratch = scratch or Scratch()
    UGRU, dtype = model['UGRU'], X.dtype
    P, N, H = len(X), int(batch_sizes[0]), UGRU.shape[1] // 3
    h0, = start or (None,)

    # the inputs' share of the sums in one product; the share of h' follows step by step
    gates = project(X, model, params, out=scratch('gates', (P, 3 * H), dtype))  # r, z, n
    recurrent = scratch('recurrent', (P, 3 * H), dtype)                         # h'·U; backward needs its n
    # the first N rows are the start, so that every step finds the one before in the same array
    Hs = scratch('Hs', (N + P, H), dtype)
    Hs[:N] = 0 if h0 is None else h0
    steps = packed_steps([N, *batch_sizes])
    for before, now in steps:
        rows = slice(now.start - N, now.stop - N)
        if before.start > 0 or h0 is not None:                                  # else h' is 0
            np.matmul(Hs[before], UGRU[1:], out=recurrent[rows])
            recurrent[rows] += UGRU[0]
        else:
            recurrent[rows] = UGRU[0]
        _step(gates[rows], recurrent[rows], Hs[before], Hs[now])
    return Hs[N:], (Hs[N + last_rows(batch_sizes)],), (X, gates, recurrent, Hs, model, steps, h0 is None, scratch)


def backward(dH, cache, dlast=None):
    """The mirror of forward.

    dH (P, H): the gradient by H, or None where H was not used. dlast: the gradient by last, (dh,); None is zeros.
    Returns dX (P, E); dstart, (dh,) or (None,) where start was zeros; and grads {'WGRU', 'UGRU'}. dX and the gradients
    by the parameters live in scratch.
    """
    X, gates, recurrent, Hs, model, steps, no_h0, scratch = cache
    WGRU, UGRU = model['WGRU'], model['UGRU']
    P, N, H, dtype = len(X), len(Hs) - len(X), Hs.shape[1], X.dtype
    dgates = scratch('dgates', (P, 3 * H), dtype)                               # by the inputs' share of the sums
    drecurrent = scratch('drecurrent', (P, 3 * H), dtype)                       # by that of h'
    H_before = scratch('H_before', (P, H), dtype)                               # the h' of each row

    # the gradient by the state, running backward; the rows of sentences that end earlier wait with their dlast
    dh = scratch('dh', (N, H), dtype)
    dh[:] = 0 if dlast is None else dlast[0]
    for before, now in reversed(steps):
        n = now.stop - now.start
        rows = slice(now.start - N, now.stop - N)
        if dH is not None:
            dh[:n] += dH[rows]
        _step_backward(dh[:n], gates[rows], recurrent[rows], Hs[before], dgates[rows], drecurrent[rows])
        H_before[rows] = Hs[before]
        if before.start > 0 or not no_h0:
            dh[:n] += (UGRU[1:] @ drecurrent[rows].T).T                         # the fastest order for few rows

    dX = np.matmul(dgates, WGRU[1:].T, out=scratch('dX', X.shape, dtype))
    dWGRU, dUGRU = scratch('dWGRU', WGRU.shape, dtype), scratch('dUGRU', UGRU.shape, dtype)
    np.matmul(X.T, dgates, out=dWGRU[1:])
    dgates.sum(axis=0, out=dWGRU[0])
    with_h = slice(N if no_h0 else 0, P)                                        # the others' h' is 0
    np.matmul(H_before[with_h].T, drecurrent[with_h], out=dUGRU[1:])
    drecurrent.sum(axis=0, out=dUGRU[0])
    return dX, (None if no_h0 else dh.copy(),), {'WGRU': dWGRU, 'UGRU': dUGRU}


def project(X, model, params, out=None):
    """The inputs' share of the sums: X·W + b, X (n, E) -> (n, 3H). Search computes it once for the vocabulary."""
    sums = np.matmul(X, model['WGRU'][1:], out=out)
    sums += model['WGRU'][0]
    return sums


def tick(sums, state, model, params):
    """One step, the very step that training takes.

    sums (n, 3H): project() of the inputs; they are overwritten. state: (h,), n rows. Returns h (n, H), the new state.
    """
    h_before, = state
    h = np.empty_like(h_before)
    _step(sums, h_before @ model['UGRU'][1:] + model['UGRU'][0], h_before, h)
    return h, (h,)


def zero_state(n, model, dtype):
    """The state before anything was seen, n rows of zeros."""
    return np.zeros((n, model['UGRU'].shape[1] // 3), dtype),


def _step(gates, recurrent, h_before, h):
    """h = (1 - z)·n + z·h', written into h; n sentences, in place.

    gates (n, 3H) holds the inputs' share of the sums and becomes the values of r, z, n; recurrent (n, 3H) is the share
    of h'. sigmoid(x) = (1 + tanh(x/2))/2, which cannot overflow.
    """
    H = h.shape[1]
    rz, n = gates[:, :2 * H], gates[:, 2 * H:]
    rz += recurrent[:, :2 * H]
    rz *= .5
    np.tanh(rz, out=rz)
    rz *= .5
    rz += .5
    r, z = rz[:, :H], rz[:, H:]
    n += r * recurrent[:, 2 * H:]
    np.tanh(n, out=n)
    np.subtract(h_before, n, out=h)
    h *= z
    h += n


def _step_backward(dh, gates, recurrent, h_before, dgates, drecurrent):
    """From dh (n, H) to dgates and drecurrent (n, 3H), the gradients by the two shares of the sums, which are written.

    dh becomes the gradient by h' as far as it does not pass the gates.
    """
    H = dh.shape[1]
    r, z, n = gates[:, :H], gates[:, H:2 * H], gates[:, 2 * H:]
    dr, dz, dn = dgates[:, :H], dgates[:, H:2 * H], dgates[:, 2 * H:]
    np.subtract(h_before, n, out=dz)
    dz *= dh
    np.subtract(1, z, out=dn)
    dn *= dh
    dn *= 1 - n * n                                                             # of a tanh
    np.multiply(dn, recurrent[:, 2 * H:], out=dr)
    dgates[:, :2 * H] *= gates[:, :2 * H] * (1 - gates[:, :2 * H])              # of a sigmoid
    drecurrent[:, :2 * H] = dgates[:, :2 * H]
    np.multiply(dn, r, out=drecurrent[:, 2 * H:])
    dh *= z

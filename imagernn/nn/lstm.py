"""The LSTM layer: one step follows from the one before, all sentences of a packed batch at once.

Knows no image, no words and no decoder: vectors come in, hidden states go out. plain_lstm.py has the same equations
written for one sentence, a step at a time; read that first. Both follow NeuralTalk (Vinyals et al., "Show and Tell",
2015): c = i·g + f·c' and h = o·c, or h = o·tanh(c) with the flag tanhC_version.

A state is (h, c), two arrays (N, H) whose rows are the sentences. Two more parts may follow, which add to the sums of
the gates at every step: a context (N, 4H), the same at all steps, and vectors for the step to attend to (see
attention.py). WLSTM (1 + E + H, 4H) holds all weights: its rows are bias, input and hidden state, its columns the gates
i, f, o, g.
"""

import numpy as np

from imagernn.nn.attention import Sight
from imagernn.nn.packing import last_rows, packed_steps
from imagernn.nn.scratch import Scratch

REGULARIZE = ('WLSTM',)


def shapes(E, H):
    """Parameter name -> shape, for inputs of size E and a hidden state of size H."""
    return {'WLSTM': (1 + E + H, 4 * H)}


def init(E, H, rng):
    """New parameters: uniform in ±0.1, biases 0."""
    model = {name: rng.uniform(-.1, .1, shape) for name, shape in shapes(E, H).items()}
    model['WLSTM'][0] = 0
    return model


def forward(X, batch_sizes, model, params, start=None, scratch=None):
    """All steps of a packed batch.

    X (P, E): inputs, packed time-major by batch_sizes (T,). start: the state before the first step, (h, c, context,
    attention) or the first of these; a part that is None, or no start at all, is zeros. The attention is an
    attention.Attention, which the steps attend with.
    Returns H (P, H), the hidden state after each step; last, the state of each sentence after its last step, without
    the attention; and the cache for backward. H lives in scratch: it is valid until the next forward pass with the same
    scratch.
    """
    scratch = scratch or Scratch()
    WLSTM, dtype = model['WLSTM'], X.dtype
    P, E = X.shape
    N, H = int(batch_sizes[0]), WLSTM.shape[1] // 4
    h0, c0, context, attention = (*(start or ()), None, None, None, None)[:4]
    Wh = WLSTM[1 + E:]                                                          # (H, 4H)

    # the inputs' share of all gates in one product; the share of h' follows step by step
    Xin = scratch('Xin', (P, 1 + E + H), dtype)                                 # a row: 1, input, h'
    Xin[:, 0] = 1
    Xin[:, 1:1 + E] = X
    gates = scratch('gates', (P, 4 * H), dtype)                                 # i, f, o, g
    np.matmul(Xin[:, :1 + E], WLSTM[:1 + E], out=gates)

    # the first N rows are the start, so that every step finds the one before in the same array
    Hs = scratch('Hs', (N + P, H), dtype)
    C = scratch('C', (N + P, H), dtype)
    tanhC = scratch('tanhC', (N + P, H), dtype) if params.get('tanhC_version') else None
    Hs[:N] = 0 if h0 is None else h0
    C[:N] = 0 if c0 is None else c0
    recurrent = scratch('recurrent', (N, 4 * H), dtype)
    steps = packed_steps([N, *batch_sizes])
    for before, now in steps:
        rows = slice(now.start - N, now.stop - N)
        Xin[rows, 1 + E:] = Hs[before]
        if before.start > 0 or h0 is not None:                                  # else h' is 0
            gates[rows] += np.matmul(Hs[before], Wh, out=recurrent[:now.stop - now.start])
        if context is not None:
            gates[rows] += context[:now.stop - now.start]
        if attention is not None:
            gates[rows] += attention.forward(rows, Hs[before])
        _step(gates[rows], C[before], C[now], Hs[now], _rows(tanhC, now))

    ends = N + last_rows(batch_sizes)
    last = (Hs[ends], C[ends]) if context is None else (Hs[ends], C[ends], context)
    return Hs[N:], last, (Xin, gates, C, tanhC, WLSTM, steps, h0 is None, c0 is None, context is None, attention,
                          scratch)


def backward(dH, cache, dlast=None):
    """The mirror of forward.

    dH (P, H): the gradient by H. dlast: the gradient by last; a part that is None, or no dlast at all, is zeros.
    Returns dX (P, E); dstart, the gradient by start, whose parts are None where those of start were zeros, and whose
    last part is the gradient by the attention's vectors (N, R, E) where there is an attention; and grads, {'WLSTM'} and
    the attention's parameters. dX and the gradient by WLSTM live in scratch.
    """
    Xin, gates, C, tanhC, WLSTM, steps, no_h0, no_c0, no_context, attention, scratch = cache
    N, dtype = len(C) - len(Xin), dH.dtype
    P, H = dH.shape
    E = Xin.shape[1] - 1 - H
    WhT = np.ascontiguousarray(WLSTM[1 + E:].T)                                 # (4H, H): few rows multiply it faster
    dgates = scratch('dgates', (P, 4 * H), dtype)

    # the gradient by the state, running backward; the rows of sentences that end earlier wait with their dlast
    dh = scratch('dh', (N, H), dtype)
    dc = scratch('dc', (N, H), dtype)
    dh_last, dc_last, dcontext_last = (*(dlast or ()), None, None, None)[:3]
    dh[:] = 0 if dh_last is None else dh_last
    dc[:] = 0 if dc_last is None else dc_last
    dcontext = None if no_context else np.zeros((N, 4 * H), dtype)
    if attention is not None:
        attention.start_backward([slice(now.start - N, now.stop - N) for _, now in steps])
    for before, now in reversed(steps):
        n = now.stop - now.start
        rows = slice(now.start - N, now.stop - N)
        dh[:n] += dH[rows]
        _step_backward(dh[:n], dc[:n], gates[rows], C[before], C[now], _rows(tanhC, now), dgates[rows])
        if dcontext is not None:
            dcontext[:n] += dgates[rows]
        if before.start > 0 or not no_h0:
            np.matmul(dgates[rows], WhT, out=dh[:n])
        if attention is not None:
            dh[:n] += attention.backward(rows, dgates[rows])

    dX = np.matmul(dgates, WLSTM[1:1 + E].T, out=scratch('dX', (P, E), dtype))
    dWLSTM = np.matmul(Xin.T, dgates, out=scratch('dWLSTM', WLSTM.shape, dtype))
    dstart, grads = (None if no_h0 else dh.copy(), None if no_c0 else dc.copy()), {'WLSTM': dWLSTM}
    if dcontext is not None and dcontext_last is not None:
        dcontext += dcontext_last
    if attention is not None:
        dvalues, attention_grads = attention.gradients(dgates)
        return dX, (*dstart, dcontext, dvalues), grads | attention_grads
    return dX, dstart if dcontext is None else (*dstart, dcontext), grads


def project(X, model, params):
    """The inputs' share of the gates: X·Wx + b, X (n, E) -> (n, 4H). Search computes it once for the vocabulary."""
    sums = X @ model['WLSTM'][1:1 + X.shape[1]]
    sums += model['WLSTM'][0]
    return sums


def tick(sums, state, model, params):
    """One step, the very step that training takes.

    sums (n, 4H): project() of the inputs; they are overwritten. state: as above, n rows; what it attends to is an
    attention.Sight. Returns h (n, H) and the new state.
    """
    h_before, c_before, *context = state
    H = h_before.shape[1]
    sums += h_before @ model['WLSTM'][-H:]
    for each in context:
        sums += each.look(h_before, model) if isinstance(each, Sight) else each
    c, h = np.empty_like(c_before), np.empty_like(h_before)
    _step(sums, c_before, c, h, np.empty_like(c) if params.get('tanhC_version') else None)
    return h, (h, c, *context)


def zero_state(n, model, dtype):
    """The state before anything was seen, n rows of zeros."""
    H = model['WLSTM'].shape[1] // 4
    return np.zeros((n, H), dtype), np.zeros((n, H), dtype)


def _rows(array, rows):
    return None if array is None else array[rows]


def _step(gates, c_before, c, h, tanhc):
    """c = i·g + f·c', h = o·c, or o·tanh(c) where there is an array tanhc to keep tanh(c) in; n sentences, in place.

    gates (n, 4H) holds the sums that go into i, f, o, g and becomes their values; c, h and tanhc are written.
    One tanh serves all gates: sigmoid(x) = (1 + tanh(x/2))/2, which cannot overflow.
    """
    H = c.shape[1]
    ifo = gates[:, :3 * H]
    ifo *= .5
    np.tanh(gates, out=gates)
    ifo *= .5
    ifo += .5
    i, f, o, g = gates[:, :H], gates[:, H:2 * H], gates[:, 2 * H:3 * H], gates[:, 3 * H:]
    np.multiply(f, c_before, out=c)
    c += i * g
    np.multiply(o, c if tanhc is None else np.tanh(c, out=tanhc), out=h)


def _step_backward(dh, dc, gates, c_before, c, tanhc, dgates):
    """From dh and dc (n, H) to dgates (n, 4H), the gradient by the sums that go into the gates, which is written.

    dc becomes the gradient by c'; dh is overwritten.
    """
    H = dc.shape[1]
    i, f, o, g = gates[:, :H], gates[:, H:2 * H], gates[:, 2 * H:3 * H], gates[:, 3 * H:]
    di, df, do, dg = dgates[:, :H], dgates[:, H:2 * H], dgates[:, 2 * H:3 * H], dgates[:, 3 * H:]
    np.multiply(dh, c if tanhc is None else tanhc, out=do)                      # by the output gate
    dh *= o
    if tanhc is not None:
        dh *= 1 - tanhc * tanhc
    dc += dh
    np.multiply(dc, i, out=dg)
    np.multiply(dc, g, out=di)
    np.multiply(dc, c_before, out=df)                                           # by the forget gate
    dc *= f
    ifo = gates[:, :3 * H]
    dgates[:, :3 * H] *= ifo * (1 - ifo)                                        # of a sigmoid
    dg *= 1 - g * g                                                             # of a tanh

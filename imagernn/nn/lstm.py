"""The LSTM that generates a sentence (Vinyals et al., "Show and Tell", 2015): init, forward, backward, tick.

Inputs are the image, START, w1, w2, …; what comes out at the image's step is discarded. Knows how a hidden state
follows from the one before; encodings, dropout and the decoder are the captioner's.
"""

import numpy as np

from imagernn.nn.packing import packed_steps
from imagernn.nn.scratch import Scratch


class LSTMGenerator:
    REGULARIZE = ('WLSTM', 'Wd')

    @staticmethod
    def shapes(sizes, V):
        """Parameter name -> shape. WLSTM's rows are bias, input, hidden; its columns the gates i, f, o, g."""
        E, H = sizes['word_encoding_size'], sizes['hidden_size']
        return {'WLSTM': (1 + E + H, 4 * H), 'Wd': (H, V), 'bd': (1, V)}

    @staticmethod
    def init(sizes, V, rng):
        """Uniform in ±0.1, biases 0."""
        model = {name: rng.uniform(-.1, .1, shape) for name, shape in LSTMGenerator.shapes(sizes, V).items()}
        model['WLSTM'][0] = 0
        model['bd'][:] = 0
        return model

    @staticmethod
    def check_sizes(sizes):
        """Names the two sizes that the equations hold together, or None: image and words enter by the same rows."""
        if sizes['image_encoding_size'] != sizes['word_encoding_size']:
            return 'image_encoding_size', 'word_encoding_size'
        return None

    @staticmethod
    def forward(Xi, Xs, batch_sizes, model, params, scratch=None):
        """All steps of a packed batch.

        Xi (N, E) image encodings, Xs (P, E) word encodings, packed time-major by batch_sizes.
        Returns H (P, H), the hidden state after each word, and cache. Both live in scratch.
        """
        WLSTM, dtype = model['WLSTM'], Xs.dtype
        N, E = Xi.shape
        P, H = N + len(Xs), WLSTM.shape[1] // 4
        scratch = scratch or Scratch()
        steps = packed_steps([N, *batch_sizes])

        Xin = scratch('Xin', (P, 1 + E + H), dtype)                             # one row a step: 1, input, h'
        Xin[:, 0] = 1
        Xin[:N, 1:1 + E] = Xi
        Xin[N:, 1:1 + E] = Xs
        Xin[:N, 1 + E:] = 0
        gates = scratch('gates', (P, 4 * H), dtype)                             # i, f, o, g
        np.matmul(Xin[:, :1 + E], WLSTM[:1 + E], out=gates)
        C, Hout = scratch('C', (P, H), dtype), scratch('Hout', (P, H), dtype)
        tanhC = scratch('tanhC', (P, H), dtype) if params.get('tanhC_version') else None

        recurrent, zeros = scratch('recurrent', (N, 4 * H), dtype), np.zeros((N, H), dtype)
        _step(gates[:N], zeros, C[:N], Hout[:N], _rows(tanhC, slice(N)))         # the image's step
        for before, now in steps:
            Xin[now, 1 + E:] = Hout[before]
            gates[now] += np.matmul(Hout[before], WLSTM[1 + E:], out=recurrent[:now.stop - now.start])
            _step(gates[now], C[before], C[now], Hout[now], _rows(tanhC, now))
        return Hout[N:], (Xin, gates, C, tanhC, WLSTM, N, steps, scratch)

    @staticmethod
    def backward(dH, cache):
        """dH (P, H) -> dXi (N, E), dXs (P, E), grads {'WLSTM'}; all in scratch."""
        Xin, gates, C, tanhC, WLSTM, N, steps, scratch = cache
        P, H = C.shape
        E, dtype = Xin.shape[1] - 1 - H, dH.dtype
        dgates = scratch('dgates', (P, 4 * H), dtype)
        dh, dc = scratch('dh', (N, H), dtype), scratch('dc', (N, H), dtype)    # of a sentence not yet begun: 0
        dh[:], dc[:] = 0, 0
        WhT = np.ascontiguousarray(WLSTM[1 + E:].T)                            # (4H, H): few rows multiply it faster so

        for before, now in reversed(steps):
            n = now.stop - now.start
            dh[:n] += dH[now.start - N:now.stop - N]
            _step_backward(dh[:n], dc[:n], gates[now], C[before], C[now], _rows(tanhC, now), dgates[now])
            np.matmul(dgates[now], WhT, out=dh[:n])
        _step_backward(dh, dc, gates[:N], np.zeros_like(dc), C[:N], _rows(tanhC, slice(N)), dgates[:N])

        dX = np.matmul(dgates, WLSTM[1:1 + E].T, out=scratch('dX', (P, E), dtype))
        dWLSTM = np.matmul(Xin.T, dgates, out=scratch('dWLSTM', WLSTM.shape, dtype))
        return dX[:N], dX[N:], {'WLSTM': dWLSTM}

    @staticmethod
    def project(X, model, params):
        """What inputs X (n, E) add to the sums of the gates: X·Wx + b, (n, 4H). For words it is done once for all."""
        gates = X @ model['WLSTM'][1:1 + X.shape[1]]
        gates += model['WLSTM'][0]
        return gates

    @staticmethod
    def start(Xi, model, params):
        """The state after the image: (h, c), each (n, H), from image encodings Xi (n, E)."""
        zeros = np.zeros((len(Xi), model['WLSTM'].shape[1] // 4), Xi.dtype)
        _, state = LSTMGenerator.tick(LSTMGenerator.project(Xi, model, params), (zeros, zeros), model, params)
        return state

    @staticmethod
    def tick(projected, state, model, params):
        """One step, the very one that training takes.

        projected (n, 4H): project() of the words, used up; state (h, c), each (n, H). Returns h (n, H) and the state.
        """
        h_before, c_before = state
        H = h_before.shape[1]
        projected += h_before @ model['WLSTM'][-H:]
        c, h = np.empty_like(c_before), np.empty_like(h_before)
        _step(projected, c_before, c, h, np.empty_like(c) if params.get('tanhC_version') else None)
        return h, (h, c)


def _rows(array, rows):
    return None if array is None else array[rows]


def _step(gates, c_before, c, h, tanhc):
    """c = i·g + f·c', h = o·c, or o·tanh(c) where there is an array tanhc to keep it; n sentences, in place.

    gates (n, 4H) holds the sums that go into i, f, o, g and becomes their values; c, h and tanhc are written.
    All gates take one tanh: sigmoid(x) = (1 + tanh(x/2))/2, which cannot overflow.
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
    """From dh and dc (n, H) of a step to dgates (n, 4H), written, by the sums into the gates.

    dc becomes the gradient by c'; dh is used up.
    """
    H = dc.shape[1]
    i, f, o, g = gates[:, :H], gates[:, H:2 * H], gates[:, 2 * H:3 * H], gates[:, 3 * H:]
    di, df, do, dg = dgates[:, :H], dgates[:, H:2 * H], dgates[:, 2 * H:3 * H], dgates[:, 3 * H:]
    np.multiply(dh, c if tanhc is None else tanhc, out=do)
    dh *= o
    if tanhc is not None:
        dh *= 1 - tanhc * tanhc
    dc += dh
    np.multiply(dc, i, out=dg)
    np.multiply(dc, g, out=di)
    np.multiply(dc, c_before, out=df)
    dc *= f
    ifo = gates[:, :3 * H]
    dgates[:, :3 * H] *= ifo * (1 - ifo)
    dg *= 1 - g * g

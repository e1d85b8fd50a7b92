"""The ReLU recurrent network that generates a sentence (Karpathy & Fei-Fei, 2015): init, forward, backward, tick.

The image is added to the hidden state at every step, or at the first alone (rnn_feed_once). Knows how a hidden state
follows from the one before; encodings, dropout and the decoder are the captioner's.
"""

import numpy as np

from imagernn.nn.layers import affine_backward, affine_forward, relu_backward, relu_forward
from imagernn.nn.packing import packed_steps
from imagernn.nn.scratch import Scratch


class RNNGenerator:
    REGULARIZE = ('Whh', 'Wxh', 'Wd')

    @staticmethod
    def shapes(sizes, V):
        """Parameter name -> shape."""
        E, H = sizes['word_encoding_size'], sizes['hidden_size']
        return {'Whh': (H, H), 'bhh': (1, H), 'Wxh': (E, H), 'bxh': (1, H), 'Wd': (H, V), 'bd': (1, V)}

    @staticmethod
    def init(sizes, V, rng):
        """Uniform in ±0.1, the decoder in ±0.01, biases 0."""
        model = {name: rng.uniform(-.1, .1, shape) for name, shape in RNNGenerator.shapes(sizes, V).items()}
        model['Wd'] *= .1
        for name in ('bhh', 'bxh', 'bd'):
            model[name][:] = 0
        return model

    @staticmethod
    def check_sizes(sizes):
        """Names the two sizes that the equations hold together, or None: the image is added to the hidden state."""
        if sizes['image_encoding_size'] != sizes['hidden_size']:
            return 'image_encoding_size', 'hidden_size'
        return None

    @staticmethod
    def forward(Xi, Xs, batch_sizes, model, params, scratch=None):
        """All steps of a packed batch: h = ReLU(image + (x·Wxh + bxh) + h'·Whh + bhh).

        With rnn_relu_encoders the image and the bracket pass a ReLU of their own first.
        Xi (N, H) image encodings, Xs (P, E) word encodings, packed time-major by batch_sizes.
        Returns H (P, H), the hidden state after each word, and cache. H lives in scratch.
        """
        Whh, N = model['Whh'], len(Xi)
        scratch = scratch or Scratch()
        steps = packed_steps(batch_sizes)
        feed_once = params.get('rnn_feed_once')

        sums, words_cache = _words_forward(Xs, model, params)                   # (P, H)
        Xi, images_on = _relu_encoder_forward(Xi, params)
        H, recurrent = scratch('H', sums.shape, Xs.dtype), scratch('recurrent', Xi.shape, Xs.dtype)
        sums[:N] += Xi
        _step(sums[:N], H[:N])
        for before, now in steps:
            n = now.stop - now.start
            if not feed_once:
                sums[now] += Xi[:n]
            sums[now] += np.matmul(H[before], Whh, out=recurrent[:n])
            _step(sums[now], H[now])
        return H, (H, Whh, N, steps, feed_once, images_on, words_cache)

    @staticmethod
    def backward(dH, cache):
        """dH (P, H), used up -> dXi (N, H), dXs (P, E), grads {'Whh', 'bhh', 'Wxh', 'bxh'}."""
        H, Whh, N, steps, feed_once, images_on, words_cache = cache
        dXi = np.zeros((N, H.shape[1]), dH.dtype)
        WhhT = np.ascontiguousarray(Whh.T)                                     # few rows multiply it faster so

        for before, now in reversed(steps):
            dsums = _step_backward(dH[now], H[now])
            dH[before] += dsums @ WhhT
            if not feed_once:
                dXi[:now.stop - now.start] += dsums
        dXi += _step_backward(dH[:N], H[:N])

        dXi = _relu_encoder_backward(dXi, images_on)
        dXs, grads = _words_backward(dH, words_cache)
        H_before = np.concatenate([H[before] for before, _ in steps]) if steps else H[:0]    # (P - N, H)
        return dXi, dXs, {'Whh': H_before.T @ dH[N:], **grads}

    @staticmethod
    def project(X, model, params):
        """What inputs X (n, E) add to the sums: [ReLU](X·Wxh + bxh) + bhh, (n, H). For words, done once for all."""
        return _words_forward(X, model, params)[0]

    @staticmethod
    def start(Xi, model, params):
        """The state before the first word: (h, image), each (n, H), from image encodings Xi (n, H)."""
        return np.zeros_like(Xi), _relu_encoder_forward(Xi, params)[0]

    @staticmethod
    def tick(projected, state, model, params):
        """One step, the very one that training takes.

        projected (n, H): project() of the words, used up; state (h, image), each (n, H). Returns h and the state.
        """
        h_before, image = state
        projected += image
        projected += h_before @ model['Whh']
        h = np.empty_like(h_before)
        _step(projected, h)
        return h, (h, np.zeros_like(image) if params.get('rnn_feed_once') else image)


def _words_forward(X, model, params):
    """[ReLU](X·Wxh + bxh) + bhh: words X (n, E) -> (n, H), cache."""
    encoded, affine_cache = affine_forward(X, model['Wxh'], model['bxh'])
    encoded, on = _relu_encoder_forward(encoded, params)
    return encoded + model['bhh'], (affine_cache, on)


def _words_backward(dsums, cache):
    """dsums (n, H) -> dX (n, E), grads {'Wxh', 'bxh', 'bhh'}."""
    affine_cache, on = cache
    dX, dWxh, dbxh = affine_backward(_relu_encoder_backward(dsums, on), affine_cache)
    return dX, {'Wxh': dWxh, 'bxh': dbxh, 'bhh': dsums.sum(axis=0, keepdims=True)}


def _relu_encoder_forward(x, params):
    """The ReLU on an encoding, where rnn_relu_encoders asks for it; else x as it is, and None."""
    return relu_forward(x) if params.get('rnn_relu_encoders') else (x, None)


def _relu_encoder_backward(dout, on):
    return dout if on is None else relu_backward(dout, on)


def _step(sums, h):
    """h = ReLU(sums), written into h."""
    np.maximum(sums, 0, out=h)


def _step_backward(dh, h):
    """The gradient by the sums, in place of dh; h as it was before any dropout: a dropped unit was still on."""
    dh *= h > 0
    return dh

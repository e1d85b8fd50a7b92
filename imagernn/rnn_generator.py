"""The ReLU recurrent network that generates a sentence (Karpathy & Fei-Fei, 2015): init, forward, backward, tick.

The image is added to the hidden state at every step, or at the first alone (rnn_feed_once). Knows how a hidden state
follows from the one before; encodings, dropout and the decoder are the captioner's.
"""

import numpy as np

from imagernn.layers import Scratch, affine_backward, affine_forward, packed_steps, relu_backward, relu_forward


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
        feed_once, relu = params.get('rnn_feed_once'), params.get('rnn_relu_encoders')

        sums, input_cache = affine_forward(Xs, model['Wxh'], model['bxh'])
        words_on = images_on = None
        if relu:
            (sums, words_on), (Xi, images_on) = relu_forward(sums), relu_forward(Xi)
        sums = sums + model['bhh']
        H, recurrent = scratch('H', sums.shape, Xs.dtype), scratch('recurrent', Xi.shape, Xs.dtype)
        sums[:N] += Xi
        _step(sums[:N], H[:N])
        for before, now in steps:
            n = now.stop - now.start
            if not feed_once:
                sums[now] += Xi[:n]
            sums[now] += np.matmul(H[before], Whh, out=recurrent[:n])
            _step(sums[now], H[now])
        return H, (H, Whh, N, steps, feed_once, words_on, images_on, input_cache)

    @staticmethod
    def backward(dH, cache):
        """dH (P, H), used up -> dXi (N, H), dXs (P, E), grads {'Whh', 'bhh', 'Wxh', 'bxh'}."""
        H, Whh, N, steps, feed_once, words_on, images_on, input_cache = cache
        dXi = np.zeros((N, H.shape[1]), dH.dtype)

        for before, now in reversed(steps):
            dsums = _step_backward(dH[now], H[now])
            dH[before] += dsums @ Whh.T
            if not feed_once:
                dXi[:now.stop - now.start] += dsums
        dXi += _step_backward(dH[:N], H[:N])

        H_before = np.concatenate([H[before] for before, _ in steps]) if steps else H[:0]    # (P - N, H)
        grads = {'Whh': H_before.T @ dH[N:], 'bhh': dH.sum(axis=0, keepdims=True)}
        if words_on is not None:
            dH, dXi = relu_backward(dH, words_on), relu_backward(dXi, images_on)
        dXs, grads['Wxh'], grads['bxh'] = affine_backward(dH, input_cache)
        return dXi, dXs, grads

    @staticmethod
    def project(X, model, params):
        """What inputs X (n, E) add to the sums: [ReLU](X·Wxh + bxh) + bhh, (n, H). For words, done once for all."""
        encoded, _ = affine_forward(X, model['Wxh'], model['bxh'])
        if params.get('rnn_relu_encoders'):
            encoded, _ = relu_forward(encoded)
        return encoded + model['bhh']

    @staticmethod
    def start(Xi, model, params):
        """The state before the first word: (h, image), each (n, H), from image encodings Xi (n, H)."""
        return np.zeros_like(Xi), relu_forward(Xi)[0] if params.get('rnn_relu_encoders') else Xi

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


def _step(sums, h):
    """h = ReLU(sums), written into h."""
    np.maximum(sums, 0, out=h)


def _step_backward(dh, h):
    """The gradient by the sums, in place of dh; h as it was before any dropout: a dropped unit was still on."""
    dh *= h > 0
    return dh

"""How the image enters: the generators of captions, each a recurrent layer and what it does with an image.

Of the sentences of a packed batch they take encoded images, encoded words and perhaps encoded regions, and give hidden
states. What differs between them stands here and nowhere else; encoders, decoder and cost are those of model.py.
"""

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import numpy as np

from imagernn.nn import lstm, rnn
from imagernn.nn.attention import Attention
from imagernn.nn.layers import (
    affine_forward,
    affine_parameters_backward,
    dropout_forward,
    embedding_backward,
    relu_backward,
    relu_forward,
)


def lstm_forward(Xi, Xs, values, batch_sizes, model, params, scratch):
    """As in NeuralTalk the image is the first input, before START (Vinyals et al. 2015); what comes out is discarded.

    With image_at 'every' it is seen at every step instead, through its own rows of the input weights, Wimage; with
    'both' it is both. Xi (N, E): encoded images; Xs (P, F): encoded words; values (N, R, E): encoded regions, which
    each step attends to, or None. Returns H (P, H), the hidden state after each word; the attention before each word,
    the weights of the regions (P, R), or None; and the cache.
    """
    first, every = sees_image(params)
    N = len(Xi)
    X = Xs
    if first:
        batch_sizes = [N, *batch_sizes]
        X = scratch('image and words', (N + len(Xs), Xs.shape[1]), Xs.dtype)
        X[:N] = Xi
        X[N:] = Xs
    context = Xi @ model['Wimage'] if every else None                           # (N, 4H), added at every step
    attention = None if values is None else Attention(values, len(X), model, scratch.part('attention'))
    H, _, cache = lstm.forward(X, batch_sizes, model, params, (None, None, context, attention), scratch)
    words = slice(N if first else 0, None)    # without the step of the image
    return (H[words], None if attention is None else attention.weights[words],
            (Xi, model.get('Wimage'), first, every, cache, scratch))


def lstm_backward(dH, cache):
    """dH (P, H) -> dXi (N, E), dXs (P, F), dvalues (N, R, E) or None, grads."""
    Xi, Wimage, first, every, cache, scratch = cache
    N = len(Xi)
    if first:
        dH_all = scratch('dH of image and words', (N + len(dH), dH.shape[1]), dH.dtype)
        dH_all[:N] = 0
        dH_all[N:] = dH
        dH = dH_all
    dX, dstart, grads = lstm.backward(dH, cache)
    dXi, dXs = (dX[:N], dX[N:]) if first else (0, dX)
    if every:
        dsums = dstart[2]                                                       # (N, 4H)
        grads['Wimage'] = Xi.T @ dsums
        dXi = dXi + dsums @ Wimage.T
    return dXi, dXs, dstart[3] if len(dstart) > 3 else None, grads


def lstm_start(Xi, sight, model, params):
    """The state before START, from encoded images Xi (n, E) and the Sight of their regions, or None."""
    first, every = sees_image(params)
    state = lstm.zero_state(len(Xi), model, Xi.dtype)
    if every:
        state = *state, Xi @ model['Wimage']
    if sight is not None:
        state = *state, sight
    if first:
        _, state = lstm.tick(lstm.project(Xi, model, params), state, model, params)
    return state


def sees_image(params):
    """Whether the LSTM sees the image as its first input, and whether at every step."""
    where = params.get('image_at', 'first')
    return where in ('first', 'both'), where in ('every', 'both')


def regions_forward(regions, image_rows, kept, drop_prob, model):
    """Encode the regions that a sentence's steps attend to: regions (M, R, D'), image_rows (N,) -> values (N, R, E),
    cache. Dropout keeps the same elements in all regions of a sentence.
    """
    M, R, D = regions.shape
    encoded, cache = affine_forward(regions.reshape(M * R, D), model['Wregion'], model['bregion'])    # (M·R, E)
    values = encoded.reshape(M, R, encoded.shape[1])[image_rows]                # (N, R, E)
    _, mask = dropout_forward(values[:, 0], kept, drop_prob)                    # (N, E)
    if mask is not None:
        values *= mask[:, None]
    return values, (cache, image_rows, mask)


def regions_backward(dvalues, cache):
    """dvalues (N, R, E), overwritten -> grads."""
    cache, image_rows, mask = cache
    N, R, E = dvalues.shape
    if mask is not None:
        dvalues *= mask[:, None]
    _, dencoded = embedding_backward(dvalues.reshape(N, R * E), image_rows)     # (M, R·E)
    dWregion, dbregion = affine_parameters_backward(dencoded.reshape(-1, E), cache)
    return {'Wregion': dWregion, 'bregion': dbregion}


def rnn_forward(Xi, Xs, _, batch_sizes, model, params, scratch):
    """The image is added to the hidden state's sums at every step, or at the first (Karpathy & Fei-Fei 2015).

    Xi (N, H): encoded images; Xs (P, E): encoded words. Returns H (P, H), the hidden state after each word; None, as it
    attends to no regions; and the cache.
    """
    on = None
    if params.get('rnn_relu_encoders'):
        Xi, on = relu_forward(Xi)
    H, _, cache = rnn.forward(Xs, batch_sizes, model, params, start=(None, Xi), scratch=scratch)
    return H, None, (on, cache)


def rnn_backward(dH, cache):
    """dH (P, H), overwritten -> dXi (N, H), dXs (P, E), None, grads."""
    on, cache = cache
    dXs, (_, dXi), grads = rnn.backward(dH, cache)
    if on is not None:
        dXi = relu_backward(dXi, on)
    return dXi, dXs, None, grads


def rnn_start(Xi, _, model, params):
    """The state before START: no hidden state, and the encoded images Xi (n, H) as the context."""
    if params.get('rnn_relu_encoders'):
        Xi, _ = relu_forward(Xi)
    return np.zeros_like(Xi), Xi


class Generator(NamedTuple):
    """A recurrent layer, and how the image enters it."""

    layer: ModuleType         # nn.lstm or nn.rnn
    equal_sizes: tuple        # the two of SIZES that its equations need to be equal
    decoder_scale: float      # of Wd's initial values; as in NeuralTalk, the RNN's are a tenth of the LSTM's
    forward: Callable
    backward: Callable
    start: Callable
    attends_to_regions: bool = False


GENERATORS = {
    'lstm': Generator(lstm, ('image_encoding_size', 'word_encoding_size'), 1., lstm_forward, lstm_backward, lstm_start),
    'rnn': Generator(rnn, ('image_encoding_size', 'hidden_size'), .1, rnn_forward, rnn_backward, rnn_start),
    # the LSTM with soft attention (Xu et al. 2015)
    'attention': Generator(lstm, ('image_encoding_size', 'word_encoding_size'), 1., lstm_forward, lstm_backward,
                           lstm_start, attends_to_regions=True),
}


def get_generator(params):
    """The Generator that params names; ValueError lists the known ones."""
    name = params.get('generator')
    if not isinstance(name, str) or name not in GENERATORS:
        raise ValueError(f'--generator {name}: not known; choose one of {", ".join(GENERATORS)}')
    return GENERATORS[name]

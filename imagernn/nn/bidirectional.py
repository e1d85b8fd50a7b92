"""A recurrent layer over a sentence in both directions (Schuster & Paliwal 1997): each word sees what follows, too.

Works with any layer of the common interface, lstm, rnn or gru. Its parameters are the layer's twice, under the names
forward_<name> and backward_<name>.
"""

from imagernn.nn.packing import reversing
from imagernn.nn.scratch import Scratch

DIRECTIONS = ('forward_', 'backward_')


def shapes(layer, E, H):
    """Parameter name -> shape."""
    return {prefix + name: shape for prefix in DIRECTIONS for name, shape in layer.shapes(E, H).items()}


def regularized(layer):
    """Names of the parameters that weight decay acts on."""
    return tuple(prefix + name for prefix in DIRECTIONS for name in layer.REGULARIZE)


def init(layer, E, H, rng):
    """New parameters, those of the layer for each direction."""
    return {prefix + name: w for prefix in DIRECTIONS for name, w in layer.init(E, H, rng).items()}


def forward(layer, X, batch_sizes, model, params, scratch=None):
    """X (P, E), packed by batch_sizes (T,) -> H (P, H), the sum of the hidden states of both directions; cache.

    The sum, rather than both side by side, is that of Karpathy & Fei-Fei (2015), equation 4.
    """
    scratch = scratch or Scratch()
    turned = reversing(batch_sizes)                                             # (P,)
    onward, backward_ = (_part(model, prefix) for prefix in DIRECTIONS)
    H_onward, _, cache_onward = layer.forward(X, batch_sizes, onward, params, scratch=scratch.part('forward'))
    H_backward, _, cache_backward = layer.forward(X[turned], batch_sizes, backward_, params,
                                                  scratch=scratch.part('backward'))
    return H_onward + H_backward[turned], (layer, turned, cache_onward, cache_backward)


def backward(dH, cache):
    """dH (P, H) -> dX (P, E), grads."""
    layer, turned, cache_onward, cache_backward = cache
    dX, _, grads_onward = layer.backward(dH.copy(), cache_onward)               # a layer may overwrite dH
    dX_turned, _, grads_backward = layer.backward(dH[turned], cache_backward)
    grads = {prefix + name: grad for prefix, each in zip(DIRECTIONS, (grads_onward, grads_backward), strict=True)
             for name, grad in each.items()}
    return dX + dX_turned[turned], grads


def _part(model, prefix):
    return {name.removeprefix(prefix): w for name, w in model.items() if name.startswith(prefix)}

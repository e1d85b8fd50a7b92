"""Recurrent layers on top of each other, with dropout between them (Zaremba, Sutskever & Vinyals 2014).

Works with any layer of the common interface, lstm, rnn or gru. The parameters of layer k, from 0 at the bottom, are the
layer's own under the names layer<k>_<name>. The state is a list of the layers' states. Dropout acts on what goes from
one layer into the next, never on what a layer hands on to its next step.
"""

import numpy as np

from imagernn.nn.layers import dropout_backward, dropout_forward
from imagernn.nn.scratch import Scratch


def shapes(layer, E, sizes):
    """Parameter name -> shape, for inputs of size E and layers with hidden states of these sizes."""
    return {_prefix(k) + name: shape for k, (below, H) in enumerate(_sizes(E, sizes))
            for name, shape in layer.shapes(below, H).items()}


def init(layer, E, sizes, rng):
    """New parameters, those of each layer."""
    return {_prefix(k) + name: w for k, (below, H) in enumerate(_sizes(E, sizes))
            for name, w in layer.init(below, H, rng).items()}


def regularized(layer, sizes):
    """Names of the parameters that weight decay acts on."""
    return tuple(_prefix(k) + name for k in range(len(sizes)) for name in layer.REGULARIZE)


def forward(layer, X, batch_sizes, model, params, start=None, kept=None, drop_prob=0, scratch=None):
    """All steps of a packed batch through all layers.

    X (P, E), packed by batch_sizes (T,). start: the state before the first step, a list of the layers' states; None is
    zeros. kept: what dropout keeps of the inputs of layer 1, 2, …, a list as of layers.dropout_draw; None keeps all.
    Returns H (P, H) of the top layer; last, the list of the layers' states after each sentence's last step; cache.
    """
    scratch = scratch or Scratch()
    number = depth(model)
    H, last, caches = X, [], []
    for k in range(number):
        mask = None
        if k > 0:
            H, mask = dropout_forward(H, None if kept is None else kept[k - 1], drop_prob)
        H, state, cache = layer.forward(H, batch_sizes, part_of(model, k), params, start and start[k],
                                        scratch.part(_prefix(k)))
        last.append(state)
        caches.append((mask, cache))
    return H, last, (layer, caches)


def backward(dH, cache, dlast=None):
    """The mirror of forward. dH (P, H), overwritten; dlast: the gradient by last, a list; None is zeros.

    Returns dX (P, E); dstart, the list of the gradients by the layers' states; and grads.
    """
    layer, caches = cache
    grads, dstart = {}, []
    for k in reversed(range(len(caches))):
        mask, cache = caches[k]
        dH, dstate, layer_grads = layer.backward(dH, cache, dlast and dlast[k])
        dH = dropout_backward(dH, mask)
        dstart.insert(0, dstate)
        grads |= {_prefix(k) + name: grad for name, grad in layer_grads.items()}
    return dH, dstart, grads


def project(layer, X, model, params):
    """What inputs X (n, E) add to the sums of the lowest layer. Search computes it once for the vocabulary."""
    return layer.project(X, part_of(model, 0), params)


def tick(layer, sums, state, model, params):
    """One step of all layers. sums: project() of the inputs, overwritten. Returns h (n, H) of the top, new state."""
    h, first = layer.tick(sums, state[0], part_of(model, 0), params)
    after = [first]
    for k, before in enumerate(state[1:], start=1):
        own = part_of(model, k)
        h, new = layer.tick(layer.project(h, own, params), before, own, params)
        after.append(new)
    return h, after


def zero_state(layer, n, model, dtype=np.float32):
    """The state before anything was seen, n rows of zeros in each part."""
    return [layer.zero_state(n, part_of(model, k), dtype) for k in range(depth(model))]


def depth(model):
    """The number of layers in a model."""
    return len({name.partition('_')[0] for name in model if name.startswith('layer')})


def part_of(model, k):
    """The parameters of layer k under the layer's own names."""
    return {name.removeprefix(_prefix(k)): w for name, w in model.items() if name.startswith(_prefix(k))}


def _prefix(k):
    return f'layer{k}_'


def _sizes(E, sizes):
    return list(zip((E, *sizes), sizes, strict=False))

"""A small VGGNet to be trained from nothing: its parameters, its cost and their gradients.

Stages of two 3 × 3 convolutions with ReLU and a 2 × 2 max pool, a fully connected layer with ReLU and dropout, and a
softmax for each head, a question asked of the picture. The last pool may take all that is left instead, so that it does
not matter where in the picture a thing is. The model is a flat dict of arrays: Wconv1_1, bconv1_1, …, Wfc, bfc, and
W<head>, b<head>. Knows nothing of files or of how training goes.
"""

from itertools import groupby

import numpy as np

from imagernn.convnet.layers import (
    conv_backward,
    conv_forward,
    conv_parameters_backward,
    max_pool_backward,
    max_pool_forward,
)
from imagernn.nn.layers import (
    affine_backward,
    affine_forward,
    dropout_backward,
    dropout_draw,
    dropout_forward,
    relu_backward,
    relu_forward,
    softmax_cost_backward,
    softmax_cost_forward,
)
from imagernn.nn.workers import Workers

AROUND = ((1, 1), (1, 1))    # the padding under which a 3 × 3 convolution keeps the picture's size


def init_model(shape, filters, hidden_size, heads, rng, dtype=np.float32, pool_all=False):
    """A new model for pictures of shape (h, w, c): normal with variance 2 / (inputs of a unit), biases 0.

    filters: of the convolutions of each stage; heads: name -> number of classes; pool_all: the last pool takes all, of
    square pictures. (He et al. 2015, equation 10)
    """
    h, w, c = shape
    shapes = {}
    for stage, m in enumerate(filters, start=1):
        shapes[f'conv{stage}_1'], shapes[f'conv{stage}_2'] = (3, 3, c, m), (3, 3, m, m)
        h, w, c = h // 2, w // 2, m
    shapes['fc'] = (c if pool_all else h * w * c, hidden_size)
    shapes.update({head: (hidden_size, classes) for head, classes in heads.items()})
    model = {}
    for name, of in shapes.items():
        model[f'W{name}'] = (rng.normal(size=of) * np.sqrt(2 / np.prod(of[:-1]))).astype(dtype)
        model[f'b{name}'] = np.zeros((1, of[-1]), dtype)
    return model


def stages(model):
    """The convolutions of each stage: [['conv1_1', 'conv1_2'], …]."""
    names = [name[1:] for name in model if name.startswith('Wconv')]
    return [list(stage) for _, stage in groupby(names, key=lambda name: name.partition('_')[0])]


def forward(x, model, kept=None, drop_prob=0., scratch=None):
    """What the heads see of pictures x (n, h, w, c): (n, hidden_size), cache. kept: of layers.dropout_draw.

    cache[0] has for each convolution its own cache and its activations, after the ReLU (n, h', w', m).
    """
    convs, pools = {}, []
    *_, last = all_stages = stages(model)
    for stage in all_stages:
        for name in stage:
            x, conv_cache = conv_forward(x, model[f'W{name}'], model[f'b{name}'], padding=AROUND, scratch=scratch)
            x, activations = relu_forward(x)
            convs[name] = conv_cache, activations
        pool_all = stage is last and len(model['Wfc']) == x.shape[3]
        size = x.shape[1] if pool_all else 2
        x, pool_cache = max_pool_forward(x, size, size, scratch=scratch)         # (n, h' / size, w' / size, m)
        pools.append(pool_cache)
    hidden, fc_cache = affine_forward(x.reshape(len(x), -1), model['Wfc'], model['bfc'])      # (n, hidden_size)
    hidden, on = relu_forward(hidden)
    hidden, mask = dropout_forward(hidden, kept, drop_prob)
    return hidden, (convs, pools, fc_cache, on, mask, x.shape)


def backward(dhidden, cache, model):
    """dhidden (n, hidden_size) -> the gradient by every parameter but the heads'."""
    convs, pools, fc_cache, on, mask, shape = cache
    grads = {}
    dhidden = relu_backward(dropout_backward(dhidden, mask), on)
    dx, grads['Wfc'], grads['bfc'] = affine_backward(dhidden, fc_cache)
    dx = dx.reshape(shape)
    for stage, pool_cache in zip(reversed(stages(model)), reversed(pools), strict=True):
        dx = max_pool_backward(dx, pool_cache)
        for name in reversed(stage):
            conv_cache, activations = convs[name]
            dx = relu_backward(dx, activations)
            if name == 'conv1_1':                                                # the picture needs no gradient
                grads[f'W{name}'], grads[f'b{name}'] = conv_parameters_backward(dx, conv_cache)
            else:
                dx, grads[f'W{name}'], grads[f'b{name}'] = conv_backward(dx, conv_cache)
    return grads


def cost_and_grads(x, labels, model, drop_prob=0., rng=None, workers=None):
    """The mean over pictures x (n, h, w, c) of −ln p, summed over the heads; and its gradient by every parameter.

    labels: head -> the right classes (n,). rng draws the dropout; without one nothing is dropped. Each thread takes a
    part of the pictures forward and back; the number of threads changes nothing but the rounding.
    """
    workers = workers or Workers()
    kept = dropout_draw(len(x), model['Wfc'].shape[1], drop_prob, rng)

    @np.errstate(over='ignore', invalid='ignore')    # the cost shows it
    def run(part_and_scratch):
        part, scratch = part_and_scratch
        hidden, cache = forward(x[part], model, None if kept is None else kept[part], drop_prob, scratch)
        cost, dhidden, grads = 0., 0., {}
        for head, targets in labels.items():
            logprobs, head_cache = softmax_cost_forward(hidden, model[f'W{head}'], model[f'b{head}'], targets[part],
                                                        scratch)
            dh, dW, grads[f'b{head}'] = softmax_cost_backward(1 / len(x), head_cache)
            cost, dhidden = cost - float(logprobs.sum()) / len(x), dhidden + dh
            grads[f'W{head}'] = dW.copy()                                        # the next head has the same scratch
        grads.update(backward(dhidden, cache, model))
        return cost, grads

    parts = shares(len(x), min(len(x), len(workers.scratches)))
    costs, grads = zip(*workers.map(run, zip(parts, workers.scratches, strict=False)), strict=True)
    return sum(costs), {name: sum(part[name] for part in grads) for name in model}


def predict(x, model, heads, workers=None, at_once=50):
    """The likeliest class of pictures x (n, h, w, c) for each head: head -> (n,)."""
    workers = workers or Workers()

    def run(part):
        with workers.scratch() as scratch:
            hidden, _ = forward(x[part], model, scratch=scratch)
        return [affine_forward(hidden, model[f'W{head}'], model[f'b{head}'])[0].argmax(axis=1) for head in heads]

    found = list(workers.map(run, shares(len(x), -(-len(x) // at_once))))
    return {head: np.concatenate(classes) for head, classes in zip(heads, zip(*found, strict=True), strict=True)}


def shares(n, k):
    """k slices over n pictures, of like lengths."""
    edges = [n * i // k for i in range(k + 1)]
    return [slice(*edge) for edge in zip(edges[:-1], edges[1:], strict=True)]

"""A small VGGNet to be trained from nothing: its parameters, its cost and their gradients.

Stages of two 3 × 3 convolutions with ReLU and a 2 × 2 max pool, a fully connected layer with ReLU and dropout, and a
softmax for each head, a question asked of the picture. The last pool may take all that is left instead, so that it does
not matter where in the picture a thing is. The model is a flat dict of arrays: Wconv1_1, bconv1_1, …, Wfc, bfc, and
W<head>, b<head>. Knows nothing of files or of how training goes.
"""

from itertools import groupby
from typing import NamedTuple

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
from imagernn.nn.scratch import Scratch
from imagernn.nn.sharing import add_up
from imagernn.nn.workers import Workers

AROUND = ((1, 1), (1, 1))    # the padding under which a 3 × 3 convolution keeps the picture's size


class Labelled(NamedTuple):
    """Pictures and what is right about them: a batch, or a whole split."""

    pictures: np.ndarray    # (n, h, w, c)
    labels: dict            # head -> the right classes (n,)


class Sizes(NamedTuple):
    """What the shapes of a model's parameters follow from."""

    picture: tuple          # (h, w, c)
    filters: list           # of the two convolutions of each stage
    hidden_size: int
    heads: dict             # name -> number of classes
    pool_all: bool          # whether the last pool takes all that is left, of square pictures


def layer_shapes(sizes):
    """The shape of each layer's weights, (…, inputs, outputs): name -> shape."""
    h, w, c = sizes.picture
    shapes = {}
    for stage, m in enumerate(sizes.filters, start=1):
        shapes[f'conv{stage}_1'], shapes[f'conv{stage}_2'] = (3, 3, c, m), (3, 3, m, m)
        h, w, c = h // 2, w // 2, m
    shapes['fc'] = (c if sizes.pool_all else h * w * c, sizes.hidden_size)
    return {**shapes, **{head: (sizes.hidden_size, classes) for head, classes in sizes.heads.items()}}


def init_model(sizes, rng, dtype=np.float32):
    """A new model: weights normal with variance 2 / (inputs of a unit), biases 0. (He et al. 2015, equation 10)"""
    model = {}
    for name, shape in layer_shapes(sizes).items():
        model[f'W{name}'] = (rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1]))).astype(dtype)
        model[f'b{name}'] = np.zeros((1, shape[-1]), dtype)
    return model


def check_model(model, sizes):
    """ValueError unless the model has the parameters of these sizes, no others, and all values are finite."""
    expected = {}
    for name, shape in layer_shapes(sizes).items():
        expected[f'W{name}'], expected[f'b{name}'] = shape, (1, shape[-1])
    if model.keys() != expected.keys():
        raise ValueError(f'the model has the parameters {", ".join(model)}, expected {", ".join(expected)}')
    for name, shape in expected.items():
        if model[name].shape != shape:
            raise ValueError(f'the parameter {name} has the shape {model[name].shape}, expected {shape}')
        if not np.isfinite(model[name]).all():
            raise ValueError(f'the parameter {name} holds values that are not finite')


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


def cost_and_grads(batch, model, params, rng=None, workers=None):
    """The cost of a Labelled batch, its gradients by every parameter (names and shapes of model), and stats.

    The cost is the mean over the pictures of −ln p of the right class, summed over the heads. stats['accuracy'] is the
    share of right answers, the mean over the heads. rng draws the dropout, with the probability params['drop_prob'];
    without rng nothing is dropped. Each of the workers' threads takes a part of the pictures forward and back, then all
    of them add up the gradients. The number of threads changes nothing but the rounding.
    """
    workers = workers or Workers()
    n, drop_prob = len(batch.pictures), params.get('drop_prob', 0)
    kept = dropout_draw(n, model['Wfc'].shape[1], drop_prob, rng)

    @np.errstate(over='ignore', invalid='ignore')    # the cost shows it
    def run(part_and_scratch):
        part, scratch = part_and_scratch
        hidden, cache = forward(batch.pictures[part], model, None if kept is None else kept[part], drop_prob, scratch)
        cost, right, dhidden, grads = 0., 0, 0., {}
        for head, classes in batch.labels.items():
            right += np.count_nonzero(answers(hidden, model, head) == classes[part])
            logprobs, head_cache = softmax_cost_forward(hidden, model[f'W{head}'], model[f'b{head}'], classes[part],
                                                        scratch.part(head))
            dh, grads[f'W{head}'], grads[f'b{head}'] = softmax_cost_backward(1 / n, head_cache)
            cost -= float(logprobs.sum()) / n
            dhidden = dhidden + dh
        grads.update(backward(dhidden, cache, model))
        return (cost, right), grads

    found = workers.run_share(run, shares(n, min(n, workers.num_parts)))
    costs, right = zip(*workers.ranks.gather([cost_and_right for cost_and_right, _ in found]), strict=True)
    grads = add_up([grads for _, grads in found], model, {}, workers)
    return sum(costs), grads, {'accuracy': sum(right) / (n * len(batch.labels))}


@np.errstate(over='ignore', invalid='ignore')
def cost_of(batch, model):
    """The cost of a Labelled batch as in cost_and_grads, without dropout."""
    hidden, _ = forward(batch.pictures, model)
    return -sum(float(softmax_cost_forward(hidden, model[f'W{head}'], model[f'b{head}'], classes, Scratch())[0].sum())
                for head, classes in batch.labels.items()) / len(batch.pictures)


def answers(hidden, model, head):
    """The likeliest class under a head, from hidden (n, hidden_size): (n,)."""
    return affine_forward(hidden, model[f'W{head}'], model[f'b{head}'])[0].argmax(axis=1)


def predict(x, model, heads, workers=None, at_once=50):
    """The likeliest class of pictures x (n, h, w, c) for each head: head -> (n,)."""
    workers = workers or Workers()

    @np.errstate(over='ignore', invalid='ignore')    # of a network that diverges
    def run(part):
        with workers.scratch() as scratch:
            hidden, _ = forward(x[part], model, scratch=scratch)
        return [answers(hidden, model, head) for head in heads]

    found = list(workers.map_shared(run, shares(len(x), -(-len(x) // at_once))))
    return {head: np.concatenate(classes) for head, classes in zip(heads, zip(*found, strict=True), strict=True)}


def shares(n, k):
    """k slices over n pictures, of like lengths."""
    edges = [n * i // k for i in range(k + 1)]
    return [slice(*edge) for edge in zip(edges[:-1], edges[1:], strict=True)]

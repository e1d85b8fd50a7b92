"""ImageNet's 1,000 classes: their names, and which of them a network finds in pictures.

Works on probabilities, or on features that were extracted before, so that no picture passes through a network again.
"""

from functools import cache
from pathlib import Path

import numpy as np

from imagernn.convnet.layers import softmax
from imagernn.errors import InputError
from imagernn.nn.layers import affine_forward

CLASSES = Path(__file__).with_name('imagenet_classes.txt')


@cache
def class_names():
    """The names of the classes, in the order of the networks' output 'prob'."""
    lines = CLASSES.read_text(encoding='utf-8').splitlines()
    return tuple(line for line in lines if not line.startswith('#'))


def most_probable(probabilities, top):
    """Probabilities (n, classes) -> for each picture, its `top` most probable classes: pairs of name and probability.
    """
    best = np.argsort(-probabilities, axis=1, kind='stable')[:, :top]                            # (n, top)
    return [[(class_names()[number], float(row[number])) for number in numbers]
            for row, numbers in zip(probabilities, best.tolist(), strict=True)]


def described(found):
    """One picture's classes, as most_probable gives them, as text: 'koala 26%, sea lion 3%'."""
    return ', '.join(f'{name} {probability:.0%}' for name, probability in found)


def classifier_of(network, layer, dim, top):
    """The function feats (n, D) -> what most_probable gives for the n pictures with these features.

    network, layer, dim: where the features come from, and how many a picture has; those of regions may follow them.
    Raises InputError unless the network's last layer computes the classes from them, and 1 <= top <= 1000.
    """
    if not 1 <= top <= len(class_names()):
        raise InputError(f'{top} classes: expected a number from 1 to {len(class_names())}')
    if network.classifier is None:
        raise InputError(f'the weights of {network.name} lack the fully connected layers, which classify; name a file '
                         'with all layers of the network with --weights')
    W, b = network.classifier                                                   # (D, classes), (1, classes)
    if layer != network.default_output or dim != len(W):
        raise InputError(f'{network.name} finds the classes from the {len(W)} features of its layer '
                         f'{network.default_output}, not from {dim} of its layer {layer}; use a captioner that was '
                         'trained on the former')

    def classes(feats):
        scores, _ = affine_forward(feats[:, :dim].astype(W.dtype), W, b)        # (n, classes)
        return most_probable(softmax(scores), top)

    return classes

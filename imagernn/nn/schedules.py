"""How the learning rate changes over the epochs of a run: functions of the epoch, a float that starts at 0."""

import math


def halving(learning_rate, start, every):
    """Constant up to the epoch start; then halved, smoothly, in each period of every epochs. start < 0: constant."""

    def at(epoch):
        late = max(0., epoch - start) if start >= 0 else 0.
        return learning_rate * .5 ** (late / every)

    return at


def cosine(learning_rate, max_epochs):
    """From learning_rate at epoch 0 along half a cosine to 0 at max_epochs. (Loshchilov & Hutter 2017, no restarts.)"""

    def at(epoch):
        return learning_rate * .5 * (1 + math.cos(math.pi * min(1., epoch / max_epochs)))

    return at

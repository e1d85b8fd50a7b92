"""Memory that is allocated once and lent again: fresh memory pages cost more than the arithmetic on them."""

import numpy as np


class Scratch:
    """Large arrays by name.

    scratch(name, shape, dtype) gives an uninitialised array that is valid until the same name is asked for again.
    Layers use fixed names, so two layers of a model need a scratch each: scratch.part('lower'), scratch.part('upper').
    """

    def __init__(self):
        self._buffers, self._parts = {}, {}

    def __call__(self, name, shape, dtype):
        size = int(np.prod(shape))
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < size or buffer.dtype != dtype:
            buffer = self._buffers[name] = np.empty(size + size // 4, dtype)
        return buffer[:size].reshape(shape)

    def part(self, name):
        """A Scratch of its own for one layer of a model, the same one for the same name."""
        return self._parts.setdefault(name, Scratch())

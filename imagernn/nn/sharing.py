"""A batch shared out to threads: adding up the gradients of its parts."""

import numpy as np

from imagernn.nn.layers import (
    row_blocks,
)


def add_up(parts, model, decay, workers):
    """The parts' gradients, summed; and decay[name]·W, that of the regularization. Uses up the parts.

    Returns name -> array of model's shapes; blocks of rows are dealt to the threads.
    """
    Ws = model['Ws']
    total = {**parts[0], 'Ws': workers.scratches[0]('dWs', Ws.shape, Ws.dtype)}

    def add(name_and_rows):
        name, rows = name_and_rows
        grad, first = total[name][rows], 1
        if name == 'Ws':
            grad[:], first = 0, 0
        for part in parts[first:]:
            if name == 'Ws':
                words, dwords = part[name]
                here = slice(*np.searchsorted(words, (rows.start, rows.stop)))
                grad[words[here] - rows.start] += dwords[here]
            else:
                grad += part[name][rows]
        if decay.get(name):
            grad += model[name][rows] * decay[name]

    workers.run(add, [(name, rows) for name, W in model.items() for rows in row_blocks(W)])
    return {name: total[name] for name in model}

"""The gradients of the parts of a batch, which threads computed at the same time, added up by all of them.

Knows nothing of what the parameters mean.
"""

import numpy as np

from imagernn.nn.layers import SparseRows, row_blocks


def add_up(parts, model, decay, workers):
    """The sum of the parts' gradients, plus decay[name] · W for the parameters that decay names (L2 regularization).

    parts: a list of dicts name -> array of model's shapes, or SparseRows; they are overwritten. Blocks of rows are
    dealt to the threads. Returns a dict in the order of model, all arrays of model's shapes.
    """
    total = {}
    for name, W in model.items():
        grad = parts[0][name]
        total[name] = workers.scratches[0](f'd{name}, all rows', W.shape, W.dtype) if _is_sparse(grad) else grad

    def add(name_and_rows):
        name, rows = name_and_rows
        grad = total[name][rows]
        if _is_sparse(parts[0][name]):
            grad[:] = 0
            for part in parts:
                _add_sparse(grad, part[name], rows)
        else:
            for part in parts[1:]:
                grad += part[name][rows]
        if decay.get(name):
            grad += model[name][rows] * decay[name]

    workers.run(add, [(name, rows) for name, W in model.items() for rows in row_blocks(W)])
    return total


def _is_sparse(grad):
    return isinstance(grad, SparseRows)


def _add_sparse(grad, sparse, rows):
    """Add to grad, the block of these rows, what of a SparseRows lies in it."""
    here = slice(*np.searchsorted(sparse.rows, (rows.start, rows.stop)))
    grad[sparse.rows[here] - rows.start] += sparse.values[here]

"""The gradients of the parts of a batch, which threads and processes computed at the same time, added up.

Knows nothing of what the parameters mean.
"""

import numpy as np

from imagernn.nn.layers import SparseRows, row_blocks


def add_up(parts, model, decay, workers):
    """The sum of the parts' gradients, plus decay[name] · W for the parameters that decay names (L2 regularization).

    parts: a list of dicts name -> array of model's shapes, or SparseRows; they are overwritten. Blocks of rows are
    dealt to the threads. With several processes it is the sum over the parts of all, and one may have none. Returns a
    dict in the order of model, all arrays of model's shapes.
    """
    blocks = [(name, rows) for name, W in model.items() for rows in row_blocks(W)]
    ranks, scratch, total = workers.ranks, workers.scratches[0], {}
    if ranks.size > 1:
        flat, total = _flat(model, scratch)
    else:
        for name, W in model.items():
            grad = parts[0][name]
            total[name] = scratch(f'd{name}, all rows', W.shape, W.dtype) if _is_sparse(grad) else grad

    def add(name_and_rows):
        name, rows = name_and_rows
        grad, own = total[name][rows], [part[name] for part in parts]
        if not own or _is_sparse(own[0]):
            grad[:] = 0
        else:
            first = own.pop(0)
            if first is not total[name]:
                grad[:] = first[rows]
        for part in own:
            if _is_sparse(part):
                _add_sparse(grad, part, rows)
            else:
                grad += part[rows]
        if ranks.size == 1:
            regularize(name_and_rows)

    def regularize(name_and_rows):
        name, rows = name_and_rows
        if decay.get(name):
            grad = total[name][rows]
            grad += model[name][rows] * decay[name]

    workers.run(add, blocks)
    if ranks.size > 1:
        ranks.add_up(flat, scratch)    # over the processes
        workers.run(regularize, blocks)
    return total


def _flat(model, scratch):
    """An array with room for one of each of model's arrays, and these as views of it."""
    flat = scratch('gradients', (sum(W.size for W in model.values()),), next(iter(model.values())).dtype)
    views, start = {}, 0
    for name, W in model.items():
        views[name] = flat[start:start + W.size].reshape(W.shape)
        start += W.size
    return flat, views


def _is_sparse(grad):
    return isinstance(grad, SparseRows)


def _add_sparse(grad, sparse, rows):
    """Add to grad, the block of these rows, what of a SparseRows lies in it."""
    here = slice(*np.searchsorted(sparse.rows, (rows.start, rows.stop)))
    grad[sparse.rows[here] - rows.start] += sparse.values[here]

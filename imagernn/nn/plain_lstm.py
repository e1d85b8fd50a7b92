"""An LSTM for reading: one sentence, a step at a time, in the order of the equations.

lstm.py computes the same for whole batches, many times as fast; tests/test_gradients.py compares the two.
"""

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def forward(X, W, h, c):
    """X (T, E), a vector for each step; W (1 + E + H, 4H); h, c (H,), the state at the start.

    Returns the hidden states (T, H), the last state (h, c), and what backward needs of each step.
    """
    H, steps, hidden = len(h), [], []
    for x in X:
        row = np.concatenate([[1], x, h])           # bias, input, hidden state before: one row of W each
        sums = row @ W                              # (4H,)
        i = sigmoid(sums[:H])                       # input gate: how much of g enters the cell
        f = sigmoid(sums[H:2 * H])                  # forget gate: how much of the cell stays
        o = sigmoid(sums[2 * H:3 * H])              # output gate: how much of the cell shows
        g = np.tanh(sums[3 * H:])                   # the new content
        c_before, c = c, i * g + f * c
        h = o * c
        steps.append((row, i, f, o, g, c_before, c))
        hidden.append(h)
    return np.array(hidden), (h, c), steps


def backward(dhidden, W, steps, dh, dc):
    """dhidden (T, H), the gradient by each hidden state; dh, dc (H,), by the last state.

    Returns dX (T, E), dW, and the gradient by the state at the start (dh, dc).
    """
    H, dX, dW = dhidden.shape[1], [], np.zeros_like(W)
    for (row, i, f, o, g, c_before, c), dh_here in zip(reversed(steps), dhidden[::-1], strict=True):
        dh = dh + dh_here                           # h shows in the output and in the next step
        do = dh * c
        dc = dc + dh * o                            # c shows in h and in the next step's c
        di, dg = dc * g, dc * i
        df = dc * c_before                          # the gradient by the forget gate
        dc = dc * f                                 # on to the step before
        dsums = np.concatenate([di * i * (1 - i), df * f * (1 - f), do * o * (1 - o), dg * (1 - g * g)])
        dW += np.outer(row, dsums)
        drow = W @ dsums
        dX.append(drow[1:-H])
        dh = drow[-H:]
    return np.array(dX[::-1]), dW, (dh, dc)

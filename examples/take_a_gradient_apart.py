"""Check an LSTM's gradient by hand, and see what one mistake does to it: python examples/take_a_gradient_apart.py

The LSTM is imagernn/nn/plain_lstm.py, which you may want to read beside this. Everything is in float64.
"""

import argparse
import sys

sys.path.insert(0, f'{sys.path[0]}/..')    # a checkout need not be installed
import numpy as np

from imagernn.nn import plain_lstm

parser = argparse.ArgumentParser(description='Compare the gradients of a tiny LSTM with finite differences.')
parser.add_argument('--seed', type=int, default=0, help='Determines the weights, the inputs and the targets.')
rng = np.random.default_rng(parser.parse_args().seed)

# A tiny LSTM. W has a row for the bias, each input and each hidden value, and columns for the four gates i, f, o, g.
E, H, T = 3, 4, 5    # the sizes of an input and of the hidden state, and the number of steps
X, W = rng.normal(size=(T, E)), rng.normal(size=(1 + E + H, 4 * H))
targets, zeros = rng.normal(size=(T, H)), np.zeros(H)


def loss():
    """Half the squared distance between the hidden states and the targets."""
    return .5 * ((plain_lstm.forward(X, W, zeros, zeros)[0] - targets) ** 2).sum()


def slope(row, column, step):
    """The derivative of the loss by one weight, measured: move it up and down a little, and divide the difference."""
    value, losses = W[row, column], []
    for nudged in (value + step, value - step):
        W[row, column] = nudged
        losses.append(loss())
    W[row, column] = value
    return (losses[0] - losses[1]) / (2 * step)


# The backward pass computes all derivatives at once, from the derivative by each hidden state: hidden - targets.
hidden, _, steps = plain_lstm.forward(X, W, zeros, zeros)
_, dW, _ = plain_lstm.backward(hidden - targets, W, steps, zeros, zeros)

# Which step is right? A large one sees the curve bend; a tiny one loses its digits in rounding. In between is a valley.
print(f'the gradient by W[1, 2] is {dW[1, 2]:.12f}')
for step in (1e-1, 1e-3, 1e-5, 1e-7, 1e-9, 1e-11):
    print(f'  measured with step {step:g}: {slope(1, 2, step):.12f}')

# A planted mistake: a backward pass that takes every forget gate for 1. It is the kind of slip that one does not see.
wrong_steps = [(row, i, np.ones(H), o, g, c_before, c) for row, i, f, o, g, c_before, c in steps]
_, dW_wrong, _ = plain_lstm.backward(hidden - targets, W, wrong_steps, zeros, zeros)

# Compare every weight with its measured slope, gate by gate. Right gradients agree to about nine digits.
measured = np.array([[slope(row, column, 1e-5) for column in range(4 * H)] for row in range(1 + E + H)])
for name, gradient in (('right', dW), ('with the mistake', dW_wrong)):
    i, f, o, g = (part.max() / np.abs(measured).max() for part in np.split(np.abs(gradient - measured), 4, axis=1))
    print(f'\nlargest error, {name}: i {i:.0e}, f {f:.0e}, o {o:.0e}, g {g:.0e}')
    # Positive: even the wrong gradient leads downhill, and training, only slower with it, does not reveal the mistake.
    cosine = (gradient * measured).sum() / np.linalg.norm(gradient) / np.linalg.norm(measured)
    print(f'cosine of the angle to the measured gradient: {cosine:.3f}')

"""Update rules, gradient clipping and the average of weights, on flat dicts of arrays.

Knows nothing of what the parameters mean.
"""

import math

import numpy as np

from imagernn.nn.names import CLIPS, SOLVERS

BLOCK = 1 << 16    # elements updated at a time: weights, gradients and caches of a block stay in the processor's cache


def vanilla(w, g, params, step):
    """w ← w − lr·g."""
    g *= params['learning_rate']
    w -= g


def momentum(w, g, params, step, velocity):
    """v ← μ·v − lr·g; w ← w + v."""
    g *= params['learning_rate']
    velocity *= params['momentum']
    velocity -= g
    w += velocity


def adagrad(w, g, params, step, squares):
    """s ← s + g²; w ← w − lr·g/√(s + ε). (Duchi, Hazan, Singer 2011)"""
    squares += g * g
    _scaled_step(w, g, squares, params)


def rmsprop(w, g, params, step, squares):
    """s ← ρ·s + (1 − ρ)·g²; w ← w − lr·g/√(s + ε), ε inside the root, s from 0. (Tieleman & Hinton 2012)"""
    _moving_mean(squares, g * g, params['decay_rate'])
    _scaled_step(w, g, squares, params)


def adadelta(w, g, params, step, squares, step_squares):
    """s ← ρ·s + (1 − ρ)·g²; d = −g·√(x + ε)/√(s + ε); x ← ρ·x + (1 − ρ)·d²; w ← w + d. (Zeiler 2012)

    It has no learning rate.
    """
    rho, eps = params['decay_rate'], params['smooth_eps']
    _moving_mean(squares, g * g, rho)
    g *= np.sqrt((step_squares + eps) / (squares + eps))
    _moving_mean(step_squares, g * g, rho)
    w -= g


def adam(w, g, params, step, means, squares):
    """m, s: moving means of g, g² without their bias towards 0; w ← w − lr·m/(√s + ε), ε outside. (Kingma & Ba 2015)

    β2 is decay_rate; β1 is adam_beta1.
    """
    beta1, beta2 = params['adam_beta1'], params['decay_rate']
    _moving_mean(squares, g * g, beta2)
    _moving_mean(means, g, beta1)
    root = np.sqrt(squares)
    root *= 1 / math.sqrt(1 - beta2 ** step)
    root += params['smooth_eps']
    np.divide(means, root, out=root)
    root *= params['learning_rate'] / (1 - beta1 ** step)
    w -= root


def _moving_mean(mean, new, rho):
    mean *= rho
    new = new * (1 - rho)
    mean += new


def _scaled_step(w, g, squares, params):
    root = squares + params['smooth_eps']
    np.sqrt(root, out=root)
    np.divide(g, root, out=root)
    root *= params['learning_rate']
    w -= root


def _require_finite(name, w, g):
    for array, what in ((w, 'the parameter'), (g, 'the gradient of')):
        if not np.isfinite(array).all():
            raise FloatingPointError(f'{what} {name} holds numbers that are not finite')


# each rule, and the arrays it keeps for every parameter; all start at 0
RULES = {
    'vanilla': (vanilla, ()),
    'momentum': (momentum, ('velocity',)),
    'adagrad': (adagrad, ('squares',)),
    'adadelta': (adadelta, ('squares', 'step_squares')),
    'rmsprop': (rmsprop, ('squares',)),
    'adam': (adam, ('means', 'squares')),
}


class OtherSolver(ValueError):
    """A saved state that belongs to another update rule or another model."""


class Solver:
    """Clips gradients and applies one update rule.

    params: solver, learning_rate, momentum (vanilla with momentum > 0), decay_rate, smooth_eps, adam_beta1;
    grad_clip with grad_clip_by 'value': each element into ±grad_clip, as in NeuralTalk; 'norm': all gradients scaled
    together so that their joint Euclidean norm is at most grad_clip; 0 or less does not clip. fixed: the names of
    parameters that no step changes; their gradients do not count.
    """

    def __init__(self, params, fixed=()):
        self.params = {'momentum': 0, 'adam_beta1': .9, 'grad_clip': 0, 'grad_clip_by': 'value', **params}
        if self.params['solver'] not in SOLVERS:
            raise ValueError(f'--solver {self.params["solver"]}: not known; choose one of {", ".join(SOLVERS)}')
        if self.params['grad_clip_by'] not in CLIPS:
            raise ValueError(f'--grad_clip_by {self.params["grad_clip_by"]}: choose one of {", ".join(CLIPS)}')
        with_momentum = self.params['solver'] == 'vanilla' and self.params['momentum'] > 0
        self._name = 'momentum' if with_momentum else self.params['solver']
        self._rule, self._slots = RULES[self._name]
        self._steps, self._cache, self._fixed = 0, {slot: {} for slot in self._slots}, fixed

    def step(self, model, grads, learning_rate=None, workers=None):
        """One update of model, in place, with the learning rate of params or the one given. grads is overwritten.

        The threads of workers, where they are given, take the blocks in turn; the result is the same. Raises
        FloatingPointError, which names the parameter, where it or its gradient is not finite: parts of model are then
        updated already. Raises ValueError for a parameter that is not C-contiguous, because its blocks would be copies.
        """
        params = self.params if learning_rate is None else {**self.params, 'learning_rate': learning_rate}
        model, grads = self._trained(model), self._trained(grads)
        clip = self.params['grad_clip']
        if clip > 0 and self.params['grad_clip_by'] == 'norm':
            norm = math.sqrt(sum(float(np.vdot(g, g)) for g in grads.values()))
            if workers:    # on processors of another kind its last bits are others
                norm = workers.ranks.from_first(lambda: norm)
            if norm > clip:
                for g in grads.values():
                    g *= clip / norm
        self._steps += 1
        blocks = []
        for name, w in model.items():
            if not w.flags.c_contiguous:
                raise ValueError(f'{name}: the parameter must be a C-contiguous array')
            for cache in self._cache.values():
                if name not in cache:
                    cache[name] = np.zeros_like(w)
            arrays = [a.reshape(-1) for a in (w, grads[name], *(cache[name] for cache in self._cache.values()))]
            blocks += [(name, [a[start:start + BLOCK] for a in arrays]) for start in range(0, w.size, BLOCK)]

        def update(block):
            name, (w, g, *slots) = block
            with np.errstate(all='ignore'):
                product = np.dot(w, g)    # cheap: NaN or an infinity on either side leaves nothing finite
            if not math.isfinite(product):
                _require_finite(name, w, g)
            if clip > 0 and self.params['grad_clip_by'] == 'value':
                np.clip(g, -clip, clip, out=g)
            self._rule(w, g, params, self._steps, *slots)

        _run(update, blocks, workers)

    def _trained(self, arrays):
        return {name: array for name, array in arrays.items() if name not in self._fixed}

    def state_dict(self):
        """{'rule': its name, 'step': updates made, 'cache': {slot: {parameter: array}}}, the very arrays."""
        return {'rule': self._name, 'step': self._steps, 'cache': self._cache}

    def load_state_dict(self, state, model):
        """Continue from a state_dict() with model, in its dtype.

        OtherSolver where the state is that of another update rule or model; KeyError, TypeError, ValueError or
        AttributeError where it is no state_dict().
        """
        if state['rule'] != self._name:
            raise OtherSolver(f'the saved state is that of the update rule {state["rule"]}, and --solver '
                              f'{self.params["solver"]} --momentum {self.params["momentum"]} is {self._name}')
        if type(state['step']) is not int or state['step'] < 0:
            raise ValueError(f'the step {state["step"]!r:.60}')
        for slot in self._slots:
            shapes = {name: array.shape for name, array in state['cache'][slot].items()}
            if (state['step'] or shapes) and shapes != {name: w.shape for name, w in self._trained(model).items()}:
                raise OtherSolver(f'the saved {slot} of the solver do not fit the model')
        self._steps = state['step']
        self._cache = {slot: {name: array.astype(model[name].dtype) for name, array in state['cache'][slot].items()}
                       for slot in self._slots}


def average_weights(average, model, decay, workers=None):
    """One step of the moving average of a model's weights: a ← a + (1 − decay)·(w − a). (after Polyak & Juditsky 1992)

    average: the arrays of the parameters of model, C-contiguous and of the same shapes; they are changed in place. The
    threads of workers, where they are given, take the blocks in turn; the result is the same.
    """
    blocks = []
    for name, w in model.items():
        a, w = average[name].reshape(-1), w.reshape(-1)
        blocks += [(a[start:start + BLOCK], w[start:start + BLOCK]) for start in range(0, w.size, BLOCK)]

    def update(block):
        a, w = block
        with np.errstate(all='ignore'):    # a weight that has become infinite: the next batch shows it
            change = w - a
            change *= 1 - decay
            a += change

    _run(update, blocks, workers)


def _run(function, blocks, workers):
    if workers:
        workers.run(function, blocks)
    else:
        for block in blocks:
            function(block)

"""driver.py with something happening at a chosen moment: through the provider and the solver that train() is given."""

import os
import signal

import driver
from imagernn.errors import script


class Provider:
    """A DataProvider that calls step(state) when a training batch is drawn, evaluation(state) when val is read."""

    def __init__(self, provider, state, rng, step, evaluation):
        self._provider, self._state, self._rng, self._step, self._evaluation = provider, state, rng, step, evaluation

    def __getattr__(self, name):
        return getattr(self._provider, name)

    def sample_pairs(self, split, n, rng, **more):
        if rng is self._rng:    # else it is the batch that is drawn apart before a checkpoint
            self._step(self._state)
        return self._provider.sample_pairs(split, n, rng, **more)

    def iter_pairs(self, split, *args, **more):
        if split == 'val':
            self._evaluation(self._state)
        return self._provider.iter_pairs(split, *args, **more)


class Stepper:
    """A Solver that calls before(grads, workers) and after(state) each step."""

    def __init__(self, solver, state, before, after):
        self._solver, self._state, self._before, self._after = solver, state, before, after

    def __getattr__(self, name):
        return getattr(self._solver, name)

    def step(self, model, grads, learning_rate, workers):
        self._before(grads, workers)
        self._solver.step(model, grads, learning_rate, workers)
        self._after(self._state)


def nothing(*args):
    pass


def drive(flags, step=nothing, evaluation=nothing, before_update=nothing, after_update=nothing):
    """driver.main(flags), with these functions called at their moments."""

    @script
    def main(argv):
        state, solver, rng, provider, params = driver.prepare(driver.build_parser(), argv)
        return driver.train(state, Stepper(solver, state, before_update, after_update), rng,
                            Provider(provider, state, rng, step, evaluation), params)

    return main(flags)


def signalling(number):
    """A function that sends this process a signal."""
    return lambda *args: os.kill(os.getpid(), number)


def at(number, action):
    """A function that does action(*its arguments) the number-th time that it is called, counted from 0."""
    count = iter(range(10 ** 6))
    return lambda *args: action(*args) if next(count) == number else None


def stop(*args):
    signalling(signal.SIGTERM)()

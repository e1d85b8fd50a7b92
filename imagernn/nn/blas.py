"""Limits each of numpy's matrix products to one thread, because workers.py has threads of its own.

The limit takes effect when numpy is loaded, by whatever imports it first, so this module has to be imported before; if
numpy is loaded already, nothing changes. It does not load numpy itself, because --help does not need it. Two threads
that each multiply their half of a batch are as fast as one product on two threads while the machine is quiet, and far
faster while it is busy: they wait for each other once a step, not hundreds of times.
"""

import os
import sys
from contextlib import contextmanager

# what OpenBLAS, MKL, Accelerate, BLIS and OpenMP read when they are loaded or first called
VARIABLES = ('OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS', 'VECLIB_MAXIMUM_THREADS', 'BLIS_NUM_THREADS',
             'OMP_NUM_THREADS')


def cores():
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def threads_asked_for():
    """How many threads to use: what the environment asks of the libraries above, and at most the number of cores."""
    asked = [os.environ.get(name, '').partition(',')[0].strip() for name in VARIABLES]
    return min([int(number) for number in asked if number.isdecimal() and int(number)] + [cores()])


@contextmanager
def one_thread():
    """While the with-block runs, the environment asks for one thread. Afterwards it is as before, so that a program
    that is started from here chooses for itself.
    """
    before = {name: os.environ.get(name) for name in VARIABLES}
    os.environ.update(dict.fromkeys(VARIABLES, '1'))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def multiply(numpy):
    """A product, at which the libraries that have not done so when they were loaded read the environment."""
    _ = numpy.ones((64, 64)) @ numpy.ones((64, 64))


class NumpyFinder:
    """Stands before the other finders of modules until numpy has been loaded under the limit."""

    def find_spec(self, name, path=None, target=None):
        if name != 'numpy':
            return None
        with one_thread():
            others = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, 'find_spec')]
            specs = (finder.find_spec(name, path, target) for finder in others)
            spec = next(filter(None, specs), None)
        if spec and spec.loader:
            load = spec.loader.exec_module

            def load_limited(module):
                with one_thread():
                    load(module)
                    multiply(module)
                sys.meta_path.remove(self)

            spec.loader.exec_module = load_limited
        return spec


NUM_THREADS = threads_asked_for()
if 'numpy' in sys.modules:
    with one_thread():
        multiply(sys.modules['numpy'])
else:
    sys.meta_path.insert(0, NumpyFinder())

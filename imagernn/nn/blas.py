"""Limits each of numpy's matrix products to one thread, because workers.py has threads of its own.

To be imported before numpy; if numpy is loaded already, nothing changes. Two threads that each multiply their half of a
batch are as fast as one product on two threads while the machine is quiet, and far faster while it is busy: they wait
for each other once a step, not hundreds of times.
"""

import os

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


NUM_THREADS = threads_asked_for()
_before = {name: os.environ.get(name) for name in VARIABLES}
os.environ.update(dict.fromkeys(VARIABLES, '1'))
import numpy as np  # noqa: E402  reads them

_ = np.ones((64, 64)) @ np.ones((64, 64))
for _name, _value in _before.items():    # a program that is started from here chooses for itself
    if _value is None:
        del os.environ[_name]
    else:
        os.environ[_name] = _value

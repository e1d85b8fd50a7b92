"""The machine that a benchmark runs on: its description, its speed at matrix products, and load to put on it.

Knows how to time a function; knows nothing of models.
"""

import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from imagernn.nn.blas import cores

PRODUCT = 2048    # rows and columns of the matrices
REST = .05        # seconds of sleep before anything is timed, so that threads of earlier work stop spinning
SPIN = 'import os, sys\nwhile os.getppid() == int(sys.argv[1]):\n    for _ in range(10 ** 6):\n        pass'


class Products:
    """Measures the speed of float32 matrix products with numpy's BLAS and with PyTorch's libraries."""

    def __init__(self):
        import threadpoolctl
        import torch

        self._linear = torch.nn.functional.linear
        self._pools = threadpoolctl.ThreadpoolController()
        self.blas = ', '.join(sorted({f'{pool["internal_api"]} {pool["version"]} {pool.get("architecture", "")}'.strip()
                                      for pool in self._pools.info() if pool['user_api'] == 'blas'}))
        self._A = np.random.default_rng(0).random((PRODUCT, PRODUCT), np.float32)
        self._tensor = torch.from_numpy(self._A)

    def rates(self):
        """Measure every kind of product once: {name: GFLOP/s}. Leaves numpy's number of BLAS threads as it was.

        The names are one and two (numpy with one or two threads), one_and_one (two numpy products at the same time, one
        thread each), mkl and onednn (PyTorch).
        """
        rates = {}
        with self._pools.limit(limits=1, user_api='blas'), ThreadPoolExecutor(2) as threads:
            rates['one'] = self._rate(lambda: self._A @ self._A)
            rates['one_and_one'] = 2 * self._rate(lambda: list(threads.map(lambda A: A @ A, (self._A, self._A))))
        with self._pools.limit(limits=2, user_api='blas'):
            rates['two'] = self._rate(lambda: self._A @ self._A)
        rates['mkl'] = self._rate(lambda: self._linear(self._tensor, self._tensor))
        rates['onednn'] = self._rate(lambda: self._linear(self._tensor.to_mkldnn(), self._tensor).to_dense())
        return rates

    @staticmethod
    def _rate(product):
        return 2e-9 * PRODUCT ** 3 / seconds_of(product)


def seconds_of(run, times=1):
    """Seconds that run() takes. With times above 1: the mean of that many runs, after one that is not timed.

    The untimed run fills the processor's caches, which hold the data of other work before.
    """
    time.sleep(REST)
    if times > 1:
        run()
    start = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - start) / times


class Stopwatch:
    """The seconds of the parts of some work: each lap is the time since the one before."""

    def __init__(self):
        self.seconds, self._last = {}, time.perf_counter()

    def lap(self, name):
        now = time.perf_counter()
        self.seconds[name], self._last = now - self._last, now


@contextmanager
def busy_loops(count):
    """While the with-block runs, so do count processes that only spin. They end with this process, however it ends."""
    loops = [subprocess.Popen([sys.executable, '-S', '-c', SPIN, str(os.getpid())]) for _ in range(count)]
    try:
        time.sleep(.3)    # until they have started
        yield
    finally:
        for loop in loops:
            loop.kill()
        for loop in loops:
            loop.wait()


def describe(products):
    """describe_cpu() together with the versions of PyTorch and of numpy's BLAS. products: a Products."""
    import torch

    return {**describe_cpu(), 'blas': products.blas, 'torch': torch.__version__}


def describe_cpu():
    """The processor, the number of cores that this process may use, and the versions of Python and numpy."""
    return {'cpu': _cpu_name(), 'cores': cores(), 'python': platform.python_version(), 'numpy': np.__version__}


def _cpu_name():
    cpuinfo = Path('/proc/cpuinfo')
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding='utf-8').splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    return platform.processor() or platform.machine()

"""The machine: what it is, how fast it multiplies matrices, and other work to load it with."""

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
REST = .05        # seconds before anything is timed, in which the idle threads of what ran before fall asleep
SPIN = 'import os, sys\nwhile os.getppid() == int(sys.argv[1]):\n    for _ in range(10 ** 6):\n        pass'


class Products:
    """GFLOP/s of float32 matrix products, by numpy's BLAS and by PyTorch's."""

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
        """{what: GFLOP/s}, each measured once, now. numpy's BLAS has as many threads afterwards as before."""
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
    """Seconds of a run; of several their mean, after one that does not count: it finds another's data in the caches."""
    time.sleep(REST)
    if times > 1:
        run()
    start = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - start) / times


@contextmanager
def busy_loops(count):
    """Meanwhile, as many other processes that do nothing but spin; they end with this one, however it ends."""
    loops = [subprocess.Popen([sys.executable, '-S', '-c', SPIN, str(os.getpid())]) for _ in range(count)]
    try:
        time.sleep(.3)    # until they run
        yield
    finally:
        for loop in loops:
            loop.kill()
        for loop in loops:
            loop.wait()


def describe(products):
    """The processor, the cores that this process may use, and the versions that matter."""
    import torch

    return {**describe_cpu(), 'blas': products.blas, 'torch': torch.__version__}


def describe_cpu():
    """The processor, the cores, Python and numpy."""
    return {'cpu': _cpu_name(), 'cores': cores(), 'python': platform.python_version(), 'numpy': np.__version__}


def _cpu_name():
    cpuinfo = Path('/proc/cpuinfo')
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding='utf-8').splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    return platform.processor() or platform.machine()

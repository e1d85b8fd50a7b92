"""Threads: order, laziness, errors; and BLAS held to one thread when a script starts."""

import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from imagernn.workers import Workers

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize('num_threads', [1, 2, 5])
def test_results_come_in_the_order_of_the_items(num_threads):
    first_may_end = threading.Event()

    def square(n):
        if n == 0 and num_threads > 1:
            first_may_end.wait(10)
        if n == 1:
            first_may_end.set()
        return n * n

    assert list(Workers(num_threads).map(square, range(50))) == [n * n for n in range(50)]


@pytest.mark.parametrize('num_threads', [1, 2])
def test_items_are_taken_as_they_are_needed(num_threads):
    results = Workers(num_threads).map(str, itertools.count())
    assert [next(results) for _ in range(100)] == [str(n) for n in range(100)]
    results.close()


@pytest.mark.parametrize('num_threads', [1, 3])
def test_an_error_comes_through_and_ends_the_work(num_threads):
    done = []

    def work(n):
        if n == 4:
            raise KeyError('of item 4')
        done.append(n)

    with pytest.raises(KeyError, match='of item 4'):
        list(Workers(num_threads).map(work, range(1000)))
    assert len(done) < 100


def test_each_thread_borrows_a_scratch_of_its_own():
    workers, together = Workers(3), threading.Barrier(3, timeout=10)

    def work(_):
        with workers.scratch() as scratch:
            together.wait()                                 # all three hold one at this moment
            return id(scratch)

    assert len(set(workers.map(work, range(3)))) == 3
    assert {id(scratch) for scratch in workers.scratches} == set(workers.map(work, range(3)))


def run_python(code, **environment):
    base = {name: value for name, value in os.environ.items() if not name.endswith('_NUM_THREADS')}
    return subprocess.run([sys.executable, '-c', code], cwd=ROOT, env={**base, **environment}, check=True,
                          capture_output=True, text=True).stdout.split()


def test_the_environment_chooses_the_number_of_threads():
    code = 'from imagernn.blas import NUM_THREADS, cores; print(NUM_THREADS, cores())'
    plain, cores = run_python(code)
    assert plain == cores
    assert run_python(code, OPENBLAS_NUM_THREADS='1') == ['1', cores]
    assert run_python(code, OMP_NUM_THREADS='1') == ['1', cores]
    assert run_python(code, OMP_NUM_THREADS='9999') == [cores, cores]
    assert run_python(code, OMP_NUM_THREADS='nonsense', MKL_NUM_THREADS='') == [cores, cores]


@pytest.mark.parametrize('script', ['driver', 'eval_sentence_predictions', 'predict_on_images'])
def test_a_script_holds_blas_to_one_thread_before_numpy_is_loaded(script):
    """And the programs that it starts find the environment as it was."""
    code = f'''
import os, sys
at_loading = {{}}
class Watch:
    def find_spec(self, name, *_):
        if name == 'numpy':
            at_loading.update(os.environ)
sys.meta_path.insert(0, Watch())
import {script}
print(at_loading['OPENBLAS_NUM_THREADS'], at_loading['MKL_NUM_THREADS'], os.environ['OPENBLAS_NUM_THREADS'],
      'MKL_NUM_THREADS' in os.environ)
'''
    assert run_python(code, OPENBLAS_NUM_THREADS='7') == ['1', '1', '7', 'False']

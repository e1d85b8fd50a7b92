"""Threads: order, laziness, errors; and BLAS held to one thread when a script starts."""

import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from imagernn.nn.workers import Workers

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
    assert len(done) < 4 + 3 * num_threads


def test_what_has_begun_ends_before_an_error_comes_through():
    """Or it would go on to write where the next ones write."""
    begun, may_end, ended = threading.Event(), threading.Event(), []

    def work(n):
        if n == 0:
            begun.wait(10)
            threading.Timer(.05, may_end.set).start()
            raise KeyError
        begun.set()
        may_end.wait(10)
        ended.append(n)

    with pytest.raises(KeyError):
        list(Workers(2).map(work, range(2)))
    assert ended == [1]


def test_long_work_can_learn_that_nobody_waits_for_it():
    workers, begun = Workers(2), threading.Event()

    def work(n):
        if n == 0:
            begun.wait(10)
            raise KeyError
        begun.set()
        while True:
            workers.go_on()

    with pytest.raises(KeyError):
        workers.run(work, range(2))
    workers.go_on()                                         # the next work is asked for
    assert list(workers.map(str, range(3))) == ['0', '1', '2']


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
    code = 'from imagernn.nn.blas import NUM_THREADS, cores; print(NUM_THREADS, cores())'
    plain, cores = run_python(code)
    assert plain == cores
    assert run_python(code, OPENBLAS_NUM_THREADS='1') == ['1', cores]
    assert run_python(code, OMP_NUM_THREADS='1') == ['1', cores]
    assert run_python(code, OMP_NUM_THREADS='9999') == [cores, cores]
    assert run_python(code, OMP_NUM_THREADS='1,4') == ['1', cores]      # OpenMP's list for nested regions
    assert run_python(code, OMP_NUM_THREADS='nonsense', MKL_NUM_THREADS='', BLIS_NUM_THREADS='0') == [cores, cores]


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


@pytest.mark.parametrize('before', ['', 'import importlib.util; importlib.util.find_spec("numpy")'])
def test_numpy_is_held_to_one_thread_whoever_loads_it(before):
    """imagernn does not load it; the user's own import, or another package's, does."""
    code = f'''
import os, sys
import imagernn
assert 'numpy' not in sys.modules
{before}
import numpy
print(len(os.listdir('/proc/self/task')), 'OPENBLAS_NUM_THREADS' in os.environ)
print(sum(type(finder).__module__ == 'imagernn.nn.blas' for finder in sys.meta_path), numpy.__spec__.name)
'''
    threads, left, finders, name = run_python(code)
    assert (left, finders, name) == ('False', '0', 'numpy')
    if sys.platform == 'linux':
        assert threads == '1'


def test_where_numpy_is_loaded_already_nothing_changes():
    code = '''
import os, sys
import numpy
before = len(os.listdir('/proc/self/task'))
import imagernn
print(len(os.listdir('/proc/self/task')) == before, any('blas' in type(finder).__module__ for finder in sys.meta_path))
'''
    if sys.platform == 'linux':
        assert run_python(code) == ['True', 'False']

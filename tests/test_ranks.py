"""mpirun: several processes train as one does, stop together, and end together when one of them dies."""

import os
import platform
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from datasets import checkpoint_named, last_of, train_flags, write_tiny_dataset
from ranks import ROOT, SECONDS, command, environment, mpirun, needs_mpi, python
from test_train_ranker import ranker_flags
from test_train_ranker import write_dataset as write_ranking_dataset

from imagernn.runs.checkpoint_file import load_checkpoint

pytestmark = needs_mpi
CORPUS = 'the quick brown fox jumps over the lazy dog and runs away from it again\n' * 40


def driver(root, *more):
    return [ROOT / 'driver.py', *train_flags(root, '--num_threads', '1', *more)]


@pytest.fixture
def root(tmp_path):
    write_tiny_dataset(tmp_path)
    return tmp_path


def ending(root, kind='captioning'):
    """Take the last checkpoint of a run under root, and what it wrote, away."""
    found = load_checkpoint(checkpoint_named(root, 'last'), kind)
    shutil.rmtree(root / 'cv')
    return found


def largest_difference(one, other):
    """Of the parameters and the solver's arrays, by the size of the parameter."""
    assert one['it'] == other['it'] and one['model'].keys() == other['model'].keys()
    slots = one['solver']['cache']
    pairs = [(one['model'][name], other['model'][name]) for name in one['model']]
    pairs += [(slots[slot][name], other['solver']['cache'][slot][name]) for slot in slots for name in slots[slot]]
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs)


def scores(checkpoint):
    return [checkpoint[name] for name in ('cost0', 'smooth_train_ppl2', 'top_val_ppl2')]


@pytest.mark.parametrize('dtype, rounding', [('float64', 1e-12), ('float32', 1e-5)])
def test_several_ranks_are_one_process_to_rounding(root, dtype, rounding):
    """50 steps, with dropout and regularization; the norm of the gradients is clipped."""
    flags = driver(root, '--dtype', dtype, '--max_epochs', '7.2', '--drop_prob_encoder', '.3', '--drop_prob_decoder',
                   '.3', '--grad_clip_by', 'norm', '--grad_clip', '1')
    python(*flags)
    alone = ending(root)
    assert alone['it'] == 50
    for n in 2, 3:
        out, _ = mpirun(n, *flags)
        assert out.count('50 in all') == 1    # the first rank alone speaks
        together = ending(root)
        assert largest_difference(alone, together) < rounding
        assert scores(together) == pytest.approx(scores(alone), rel=rounding)


def test_ranks_are_the_threads_of_one_process_bit_for_bit(root):
    """And so the same bits from run to run."""
    python(*driver(root, '--num_threads', '3'))
    threads = ending(root)
    for _ in range(2):
        mpirun(3, *driver(root))
        assert largest_difference(threads, ending(root)) == 0


def text_flags(root):
    (root / 'text.txt').write_text(CORPUS)
    return ['train-text', root / 'text.txt', '--hidden_sizes', '8,8', '--embedding_size', '4', '-b', '5', '--window',
            '9', '--drop_prob', '.2', '--max_epochs', '1']


def line_flags(root):
    return [*text_flags(root), '--lines', '--level', 'word', '--layer', 'gru']


def translation_flags(root):
    for name in 'train.fr', 'train.en', 'val.fr', 'val.en':
        (root / name).write_text(CORPUS)
    files = [part for flag, name in (('source', 'train.fr'), ('target', 'train.en'), ('val_source', 'val.fr'),
                                     ('val_target', 'val.en')) for part in (f'--{flag}', root / name)]
    return ['train-translator', *files, '--hidden_sizes', '8', '--embedding_size', '4', '--attention', '-b', '7',
            '--max_epochs', '1']


def convnet_flags(root):
    return ['train-convnet', '--dataset', 'digits', '--max_epochs', '1', '--output_directory', root / 'out']


def self_critical_flags(root):
    write_tiny_dataset(root)
    return ['train', *train_flags(root, '--self_critical_after', '0', '--self_critical_images', '4', '--max_epochs',
                                  '.5')]


def flags_of_ranker(ranker):
    def flags(root):
        write_ranking_dataset(root)
        return ['train-ranker', *ranker_flags(root, ranker)]
    return flags


TRAINERS = {'text': text_flags, 'lines': line_flags, 'translation': translation_flags, 'convnet': convnet_flags,
            'sentences': flags_of_ranker('sentences'), 'regions': flags_of_ranker('regions'),
            'self-critical': self_critical_flags}
KINDS = {'text': 'textgen', 'lines': 'textgen', 'translation': 'translation', 'convnet': 'convnet',
         'sentences': 'ranking', 'regions': 'ranking', 'self-critical': 'captioning'}


@pytest.mark.parametrize('trainer', TRAINERS)
def test_every_trainer_works_in_the_same_way(tmp_path, trainer):
    if trainer == 'convnet':
        pytest.importorskip('sklearn')
    flags = ['-m', 'imagernn', *TRAINERS[trainer](tmp_path), '--checkpoint_output_directory', tmp_path / 'cv',
             '--worker_status_output_directory', tmp_path]
    python(*flags, '--num_threads', '2')
    threads = ending(tmp_path, KINDS[trainer])
    mpirun(2, *flags, '--num_threads', '1')
    together = ending(tmp_path, KINDS[trainer])
    assert largest_difference(threads, together) == 0
    assert together['history'][-1].keys() == threads['history'][-1].keys()


def test_a_run_goes_on_with_another_number_of_ranks(root):
    flags = driver(root, '--dtype', 'float64')
    python(*flags, '--max_epochs', '3')
    whole = ending(root)
    for n, epochs in (2, 1), (1, 2), (3, 3):
        mpirun(n, *flags, '--resume', 'auto', '--max_epochs', epochs)
    assert largest_difference(whole, ending(root)) < 1e-12


# what a rank does once its run has made two steps; the name of the program is that of the driver in messages
PROGRAM = '''
import os, signal, sys, time
import driver
from driving import at, drive
from imagernn.runs import checkpoints
from imagernn.runs.ranks import world
chosen = int(sys.argv.pop(1))
action = sys.argv.pop(1)
def act(*args):
    if world().rank == chosen:
        exec(action, globals())
sys.exit(drive(sys.argv[1:], step=at(2, act)))
'''


def with_action(rank, action, flags):
    return ['-c', PROGRAM, rank, action, *flags[1:]]


@pytest.mark.parametrize('rank', [0, 1])
def test_a_signal_to_one_rank_stops_all_after_the_step(root, rank):
    flags = driver(root)
    mpirun(2, *flags)
    whole = ending(root)
    out, _ = mpirun(2, *with_action(rank, 'os.kill(os.getpid(), signal.SIGTERM)', flags), code=143)
    assert 'stopped at iteration 3' in out and last_of(root)['it'] == 3
    mpirun(2, *flags, '--resume', 'auto')
    assert largest_difference(whole, ending(root)) == 0


def test_mpirun_hands_a_signal_on_to_all(root):
    flags = driver(root)
    action = 'os.kill(os.getppid(), signal.SIGUSR1); time.sleep(1)'    # the process that started this one: mpirun
    mpirun(2, *with_action(1, action, flags), code=128 + signal.SIGUSR1)
    assert last_of(root)['it'] == 3


@pytest.mark.parametrize('rank', [0, 1])
def test_when_one_rank_is_killed_the_job_ends_and_can_be_resumed(root, rank):
    flags = driver(root, '--checkpoint_every', '1')
    mpirun(2, *flags)
    whole = ending(root)
    ended = subprocess.run(command(2, *with_action(rank, 'os.kill(os.getpid(), signal.SIGKILL)', flags)),
                           env=environment(), capture_output=True, timeout=SECONDS, check=False)
    assert ended.returncode not in (0, 2) and last_of(root)['it'] == 2
    mpirun(2, *flags, '--resume', 'auto')
    assert largest_difference(whole, ending(root)) == 0


def test_an_error_of_one_rank_ends_all(root):
    _, err = mpirun(2, *with_action(1, 'raise OSError(5, "Input/output error", "features")', driver(root)), code=2)
    assert err.count('error: features: Input/output error') == 1
    _, err = mpirun(2, *with_action(1, 'wrong', driver(root)), code=1)
    assert "NameError: name 'wrong' is not defined" in err
    mpirun(2, *with_action(1, 'raise KeyboardInterrupt', driver(root)), code=130)


@pytest.mark.skipif(platform.machine() != 'x86_64', reason='needs a processor with several kinds of kernels')
def test_ranks_on_unlike_processors_stay_the_same(root):
    """The norm by which gradients are clipped has other last bits with other kernels of the BLAS."""
    flags = driver(root, '--grad_clip_by', 'norm', '--grad_clip', '.1')
    action = """
digest = lambda state: hashlib.sha256(b''.join(w.tobytes() for w in state.model.values())).hexdigest()
driver_step = Stepper.step
def step(self, model, *more):
    driver_step(self, model, *more)
    self._state.extra['digests'] = world().gather([digest(self._state)])
Stepper.step = step
"""
    program = PROGRAM.replace('import os,', 'import hashlib, os,').replace('import at,', 'import Stepper, at,').replace(
        'if world().rank == chosen:\n        exec', 'if True:\n        exec')
    mpirun(2, '-c', 'import os\nrank = os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK"))\n'
           'os.environ["OPENBLAS_CORETYPE"] = ["Haswell", "Sandybridge"][int(rank)]\n' + program, 0, action, *flags[1:])
    assert len(set(last_of(root)['digests'])) == 1


FULL = '''
checkpoints.RETRY_SECONDS = 0
write, tries = checkpoints.write_checkpoint, iter(range(3))
def full(path, contents):
    if next(tries, None) is not None:
        raise checkpoints.InputError(f'{path}: cannot be written (No space left on device)')
    write(path, contents)
checkpoints.write_checkpoint = full
'''


def test_a_full_disk_costs_nothing_once_there_is_room(root):
    flags = driver(root, '--checkpoint_every', '1')
    mpirun(2, *flags)
    whole = ending(root)
    _, err = mpirun(2, *with_action(0, FULL, flags))
    assert err.count('No space left on device') == 3
    assert largest_difference(whole, ending(root)) == 0


def test_a_mistake_is_reported_once(root):
    _, err = mpirun(3, *driver(root, '--resume', root / 'nothing.h5'), code=2)
    assert err.count('error: ') == 1


def test_ranks_that_read_other_data_are_named(root):
    write_tiny_dataset(root / 'other')
    features = root / 'other' / 'tiny' / 'vgg_feats.npy'
    np.save(features, np.load(features) + 1)
    program = '''
import os, sys, driver
flags = sys.argv[2:]
if os.environ.get('OMPI_COMM_WORLD_RANK', os.environ.get('PMI_RANK')) == '1':
    os.chdir(sys.argv[1])
sys.exit(driver.main(flags))
'''
    flags = driver(root)[1:]
    flags[flags.index('--data_root') + 1] = '.'
    ended = subprocess.run(command(2, '-c', program, root / 'other', *flags), cwd=root, env=environment(),
                           capture_output=True, text=True, timeout=SECONDS, check=False)
    assert ended.returncode == 2 and 'the training data of rank 1' in ended.stderr


def test_without_mpi4py_the_ranks_do_not_start_as_many_runs(root):
    (root / 'mpi4py.py').write_text('raise ImportError("No module named mpi4py")')
    ended = subprocess.run([sys.executable, *map(str, driver(root))], capture_output=True, text=True, check=False,
                           env={**environment(OMPI_COMM_WORLD_SIZE='2'), 'PYTHONPATH': f'{root}{os.pathsep}{ROOT}'})
    assert ended.returncode == 2 and 'mpi]' in ended.stderr and not (root / 'cv').exists()


def test_mpirun_with_one_process_needs_no_mpi4py(root):
    (root / 'mpi4py.py').write_text('raise ImportError')
    mpirun(1, *driver(root), PYTHONPATH=f'{root}{os.pathsep}{ROOT}')
    assert checkpoint_named(root, 'last').exists()

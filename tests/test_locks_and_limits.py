"""Files that are valid, and that a lock, a limit, the system or a dead child process keeps from being read.

None of these may read as a damaged file: the files load, or the message names the reason. As another user than root, a
process cannot raise its own hard limits.
"""

import codecs
import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from datasets import checkpoint_named, train_flags, write_tiny_dataset

import driver
import eval_sentence_predictions
from imagernn import publish
from imagernn.corpus.features import open_features
from imagernn.errors import InputError, NotChecked
from imagernn.formats import hdf5
from imagernn.formats.weight_files import stored_arrays
from imagernn.runs.checkpoint_file import checkpoint_bytes, load_checkpoint, save_checkpoint

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='a child process meets the file first on Linux alone')
NOBODY = 65534
MIB = 1 << 20
DAMAGE = 'damage|truncat|cut short|extract it again|copy or download|another kind|altered'


@pytest.fixture
def folder():
    """A folder that any user may enter, unlike tmp_path."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def write_files(folder):
    """A valid file of each kind that the HDF5 library reads -> its path, and how it is read."""
    W = np.ones((30, 40), np.float32)
    with h5py.File(folder / 'feats.h5', 'w') as file:
        file['feats'] = W
    with h5py.File(folder / 'chunks.h5', 'w') as file:
        file.create_dataset('feats', data=W, chunks=(3, 40), compression='gzip')
    with h5py.File(folder / 'v73.mat', 'w', userblock_size=512) as file:
        file['feats'] = W
    with h5py.File(folder / 'weights.h5', 'w') as file:
        file['conv1_1/kernel'] = W
    save_checkpoint(folder / 'model.h5', {'model': {'We': W}, 'params': {}})
    files = {name: lambda path: open_features(path).rows([0, 29]) for name in ('feats.h5', 'chunks.h5', 'v73.mat')}
    files = {**files, 'weights.h5': lambda path: stored_arrays(path)[1]['conv1_1/kernel'].read(),
             'model.h5': load_checkpoint}
    return {folder / name: read for name, read in files.items()}


NAMES = ['feats.h5', 'chunks.h5', 'v73.mat', 'weights.h5', 'model.h5']


def holding(code, path):
    """A process that has run this code, with path in sys.argv[1], and waits."""
    code = f'import fcntl, h5py, sys, time\n{code}\nprint("held", flush=True)\ntime.sleep(60)'
    process = subprocess.Popen([sys.executable, '-c', code, path], stdout=subprocess.PIPE)
    assert process.stdout.readline()
    return process


def ended(process):
    process.kill()
    process.wait()
    process.stdout.close()


def message(read, path):
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).startswith(f'{path}: ')
    return str(caught.value)


# ---- locks

HELD = {
    'open for writing': 'file = h5py.File(sys.argv[1], "r+")',
    'locked': 'file = open(sys.argv[1], "r+"); fcntl.flock(file, fcntl.LOCK_EX)',
    'open for reading': 'file = h5py.File(sys.argv[1])',
}


@pytest.mark.parametrize('held', HELD)
@pytest.mark.parametrize('name', NAMES)
def test_a_file_that_another_program_has_open_or_locked_is_read(folder, name, held):
    """So no lock is asked for, which a file system without locks would refuse (errno 37)."""
    read = write_files(folder)[folder / name]
    process = holding(HELD[held], folder / name)
    try:
        if (name, held) == ('model.h5', 'open for writing'):    # the library has changed its first bytes already
            assert 'is open for writing elsewhere' in message(read, folder / name)
        else:
            read(folder / name)
    finally:
        ended(process)


@pytest.mark.parametrize('libver', ['None', '"latest"'])
@pytest.mark.parametrize('name', NAMES)
def test_a_file_that_is_being_written_is_no_damaged_file(folder, name, libver):
    path = folder / name
    read = write_files(folder)[path]
    process = holding(f'file = h5py.File(sys.argv[1], "w", libver={libver}); file["x"] = [1.]', path)
    try:
        said = message(read, path)
    finally:
        ended(process)
    assert 'is open for writing elsewhere; close it there' in said and not re.search(DAMAGE, said)


def test_a_file_of_which_a_part_is_written_is_not_called_incomplete(folder):
    path = folder / 'feats.h5'
    read = write_files(folder)[path]
    process = holding('file = h5py.File(sys.argv[1], "w"); file["x"] = [1.]; file.flush()', path)
    try:
        assert 'is open for writing elsewhere' in message(read, path)
    finally:
        ended(process)
    assert "no array called 'feats'" in message(read, path)


@pytest.mark.parametrize('name', ['feats.h5', 'weights.h5'])
def test_a_file_that_its_writer_did_not_close_says_so(folder, name):
    """HDF5 marks a file of its newest format as open, and the mark outlives a program that is killed."""
    path = folder / name
    read = write_files(folder)[path]
    ended(holding('file = h5py.File(sys.argv[1], "w", libver="latest"); file["feats"] = [[1.]]; file.flush()', path))
    said = message(read, path)
    assert 'was not closed by the program that wrote it' in said and f'h5clear -s {path}' in said
    assert not re.search(DAMAGE, said)


@pytest.mark.parametrize('forced', ['TRUE', 'FALSE', ''])
def test_locks_that_the_environment_forces_are_named(folder, forced):
    """HDF5_USE_FILE_LOCKING comes before what a program asks for."""
    path = next(iter(write_files(folder)))
    process = holding(HELD['locked'], path)
    code = 'import sys; from imagernn.corpus.features import open_features; open_features(sys.argv[1])'
    try:
        done = subprocess.run([sys.executable, '-c', code, path], capture_output=True, text=True,
                              env={**os.environ, 'HDF5_USE_FILE_LOCKING': forced},
                              cwd=Path(__file__).resolve().parents[1])
    finally:
        ended(process)
    if forced == 'TRUE':
        assert 'is open for writing elsewhere' in done.stderr and not re.search(DAMAGE, done.stderr.splitlines()[-1])
    else:
        assert done.returncode == 0, done.stderr


def test_the_commands_work_while_a_notebook_has_the_files_open(tmp_path, capsys):
    data = write_tiny_dataset(tmp_path)
    with h5py.File(data / 'f.h5', 'w') as file:
        file['feats'] = np.load(data / 'vgg_feats.npy')
    held = [holding(HELD['locked'], data / 'f.h5')]
    try:
        assert driver.main(train_flags(tmp_path, '--features', 'f.h5')) == 0
        last = checkpoint_named(tmp_path, 'last')
        held.append(holding(HELD['locked'], last))
        assert driver.main([*train_flags(tmp_path), '--resume', 'auto', '--max_epochs', '3']) == 0
        held.append(holding(HELD['open for reading'], checkpoint_named(tmp_path, '')))
        for checkpoint in last, checkpoint_named(tmp_path, ''):
            assert eval_sentence_predictions.main([
                str(checkpoint), '--data_root', str(tmp_path),
                '--result_struct_filename', str(tmp_path / 'result.json')]) == 0
            assert publish.main([str(checkpoint), str(tmp_path / 'small.h5')]) == 0
    finally:
        for process in held:
            ended(process)


def test_auto_starts_no_new_run_where_the_checkpoint_is_being_written(tmp_path, capsys):
    write_tiny_dataset(tmp_path)
    assert driver.main(train_flags(tmp_path)) == 0
    last, best = checkpoint_named(tmp_path, 'last'), checkpoint_named(tmp_path, '')
    best.unlink()
    process = holding('file = h5py.File(sys.argv[1], "r+"); file["x"] = [1.]; file.flush()', last)
    try:
        assert driver.main([*train_flags(tmp_path), '--resume', 'auto']) == 2
    finally:
        ended(process)
    said = capsys.readouterr().err
    assert f'{last}: is open for writing elsewhere' in said and not re.search(DAMAGE, said)


# ---- limits, as another user

def as_nobody(function, limits=()):
    """What function() returns, or its InputError as a text, in a process of another user with these hard limits.

    limits: pairs of a limit and a number, or a function that gives the number in that process.
    """
    codecs.lookup('ascii')    # which the other user may not be able to load
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            for limit, number in limits:
                resource.setrlimit(limit, (number() if callable(number) else number,) * 2)
            try:
                answer = f'read: {function()}'
            except InputError as error:
                answer = str(error)
            except BaseException as error:
                answer = f'failed: {error!r}'
            os.write(writing, answer.encode('utf-8', 'replace'))
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, encoding='utf-8') as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return answer


def in_use():
    return int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()


@pytest.mark.parametrize('limit', ['RLIMIT_AS', 'RLIMIT_DATA'])
@pytest.mark.parametrize('name', NAMES)
def test_under_a_hard_limit_on_memory_a_file_that_fits_is_read(folder, name, limit):
    """`ulimit -v` sets the hard limit, which another user than root cannot raise again."""
    path = folder / name
    read = write_files(folder)[path]
    said = as_nobody(lambda: read(path) is not None, [(getattr(resource, limit), lambda: in_use() + 100 * MIB)])
    assert said == 'read: True'


@pytest.mark.parametrize('name', NAMES)
def test_too_little_memory_is_no_damage(folder, name):
    path, rooms = folder / name, (0, 1, 2, 3, 4, 6, 8)
    read = write_files(folder)[path]
    said = [as_nobody(lambda: read(path) is not None, [(resource.RLIMIT_AS, lambda room=room: in_use() + room * MIB)])
            for room in rooms]
    for answer in said:
        assert answer == 'read: True' or 'emory' in answer and not re.search(DAMAGE, answer)


def test_a_checkpoint_that_memory_does_not_suffice_to_build_says_so():
    """HDF5 continues when memory is refused to the file in memory, and fails elsewhere for other reasons."""
    model = {f'W{number}': np.ones((1024, 1024)) for number in range(6)}    # 8 MB each: more than is free
    checkpoint = {'kind': 'captioning', 'model': model, 'params': {}, 'wordtoix': {}, 'ixtoword': {}}
    said = [as_nobody(lambda: len(checkpoint_bytes(checkpoint)) > 0,
                      [(resource.RLIMIT_AS, lambda room=room: in_use() + room * MIB)])
            for room in (0, 4, 10, 20, 35, 50, 300)]
    assert said[-1] == 'read: True' and any(answer.startswith('failed: MemoryError(') for answer in said)
    for answer in said:
        assert answer == 'read: True' or answer.startswith('failed: MemoryError(')


def next_descriptor():
    """The number that the next file to be opened gets."""
    number = os.dup(0)
    os.close(number)
    return number


LIMITS = {
    'processes': ([(resource.RLIMIT_NPROC, 0)], 'no process can be started to read it', 'ulimit -u'),
    'open files': ([(resource.RLIMIT_NOFILE, lambda: next_descriptor() + 1)],
                   'Too many open files', 'ulimit -n'),
}


@pytest.mark.parametrize('limit', LIMITS)
@pytest.mark.parametrize('name', NAMES)
def test_a_limit_on_processes_or_files_is_named(folder, name, limit):
    limits, *words = LIMITS[limit]
    if os.getuid() and limit == 'processes':
        pytest.skip('this user has other processes')
    path = folder / name
    read = write_files(folder)[path]
    said = as_nobody(lambda: read(path) is not None, limits)
    assert said.startswith(f'{path}: ') and all(word in said for word in words) and not re.search(DAMAGE, said)


@pytest.mark.skipif(os.getuid() != 0, reason='needs a file of another user')
@pytest.mark.parametrize('name', NAMES)
def test_a_file_of_another_user_is_no_damaged_file(folder, name):
    path = folder / name
    read = write_files(folder)[path]
    path.chmod(0o600)
    said = as_nobody(lambda: read(path))
    assert said == f'{path}: cannot be read (Permission denied); make it readable for this user'


def test_a_disk_that_fails_is_no_damaged_file():
    """Reading the first bytes of a process's memory is an input/output error."""
    said = message(load_checkpoint, Path('/proc/self/mem'))
    assert 'Input/output error' in said and 'check the disk' in said and not re.search(DAMAGE, said)


@pytest.mark.parametrize('number', [errno.ENOLCK, errno.EAGAIN, errno.EACCES, errno.EIO, errno.ESTALE, errno.ENOMEM])
def test_an_error_of_the_system_inside_the_library_keeps_its_name(folder, number):
    """h5py gives most of them their errno, and all of them in the text."""
    def fails():
        raise OSError(number, f'Unable to read (file read failed, errno = {number})')

    with pytest.raises(OSError) as caught:
        hdf5.in_child(fails)
    assert caught.value.errno == number and caught.value.strerror == os.strerror(number)

    def fails_inside():
        with hdf5.opened(path):
            raise RuntimeError(f'Unable to read (file read failed, errno = {number}, error message = x)')

    path = folder / 'feats.h5'
    write_files(folder)
    with pytest.raises(InputError) as caught:
        hdf5.in_child(fails_inside)
    assert str(caught.value).startswith(f'{path}: cannot be read ({os.strerror(number)}); ')


# ---- a child process that ends early

ENDINGS = {'SIGKILL': 'memory runs out', 'SIGTERM': 'ended by SIGTERM', 'SIGINT': 'ended by SIGINT',
           'SIGHUP': 'ended by SIGHUP', 'SIGXCPU': 'ulimit -t|processor time', 'SIGALRM': 'could not be read in',
           'SIGPROF': 'does not finish'}


@pytest.mark.parametrize('ending', ENDINGS)
def test_a_child_that_is_ended_says_nothing_about_the_file(ending):
    with pytest.raises(NotChecked, match=ENDINGS[ending]) as caught:
        hdf5.in_child(lambda: os.kill(os.getpid(), getattr(signal, ending)) or signal.pause())
    assert caught.value.advice and not re.search(DAMAGE, str(caught.value))


def test_a_crash_where_memory_is_short_says_nothing_about_the_file():
    def crash():
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGSEGV)

    def run():
        with pytest.raises(NotChecked, match='not enough memory'):
            hdf5.in_child(crash)
        return 'right'

    assert as_nobody(run, [(resource.RLIMIT_AS, lambda: in_use() + 100 * MIB)]) == 'read: right'
    with pytest.raises(ValueError, match='crash'):
        hdf5.in_child(crash)


def test_where_children_are_not_waited_for_the_answer_counts(folder):
    """A parent that ignores SIGCHLD, as some services do, leaves that to the programs it starts."""
    files = write_files(folder)
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        for path, read in files.items():
            read(path)
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_ctrl_c_ends_a_child_too():
    """Its parent's handler, which lets a run end its step first, would keep it alive."""
    before = signal.signal(signal.SIGINT, lambda *args: None)
    try:
        with pytest.raises(NotChecked, match='SIGINT'):
            hdf5.in_child(lambda: os.kill(os.getpid(), signal.SIGINT) or signal.pause())
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_limits_of_a_user_are_kept():
    """The child has the lower of its own limit and the user's, and the same hard limit."""
    def limits():
        return hdf5.in_child(lambda: resource.getrlimit(resource.RLIMIT_AS))

    room = 50 * MIB
    assert as_nobody(lambda: limits() == list(resource.getrlimit(resource.RLIMIT_AS)),
                     [(resource.RLIMIT_AS, lambda: in_use() + room)]) == 'read: True'
    soft, hard = limits()
    assert hard == resource.getrlimit(resource.RLIMIT_AS)[1] and abs(soft - in_use() - hdf5.MAX_MEMORY) < 100 * MIB

"""A run that is stopped, killed, or cannot write goes on and ends as if nothing had been."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import kill_driver
import numpy as np
import pytest
from datasets import checkpoint_named, train_flags, write_tiny_dataset
from driving import Provider, at, drive, nothing, signalling, stop
from faults import in_a_child

import driver
from imagernn.captioning import start
from imagernn.errors import InputError
from imagernn.formats.writing import claimed
from imagernn.runs import checkpoints
from imagernn.runs.checkpoint_file import load_checkpoint, save_checkpoint
from imagernn.runs.names import checkpoint_stem, status_path

TESTS = Path(__file__).resolve().parent


@pytest.fixture
def root(tmp_path):
    write_tiny_dataset(tmp_path)
    return tmp_path


class Killed(BaseException):
    pass


def kill(*args):
    """As kill -9 would."""
    raise Killed


def last_of(root):
    return load_checkpoint(checkpoint_named(root, 'last'))


def test_killed_at_random_moments_it_ends_as_if_never_stopped():
    """The quick form: tests/kill_driver.py, which `make soak` runs with 200 kills."""
    command = [sys.executable, TESTS / 'kill_driver.py', '--kills', '4', '--variants', '2', '--seed', '1']
    if os.access('/dev/shm', os.W_OK):    # where nothing waits for a disk
        command += ['--folder', '/dev/shm']
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and '4 of 4 killed runs ended' in done.stdout, done.stdout + done.stderr


def test_the_comparison_of_endings_sees_a_single_bit(root):
    driver.main(train_flags(root))
    whole, other = kill_driver.ending(root), kill_driver.ending(root)
    assert kill_driver.differences(whole, other) == []
    other['model']['Wd'].view(np.uint32)[0, 0] ^= 1
    other['rng_state']['state']['state'] += 1
    assert kill_driver.differences(whole, other) == ['/model/Wd', '/rng_state/state/state']


@pytest.mark.parametrize('every', ['1', '3', '0.00001m'])
def test_saving_changes_no_numbers_and_a_kill_costs_what_came_after_the_last_one(root, every):
    driver.main(train_flags(root, '--max_epochs', '3'))
    whole = kill_driver.ending(root)
    shutil.rmtree(root / 'cv')
    flags = train_flags(root, '--max_epochs', '3', '--checkpoint_every', every)
    with pytest.raises(Killed):
        drive(flags, step=at(12, kill))
    assert last_of(root)['it'] == 12
    assert driver.main([*flags, '--resume', 'auto']) == 0
    assert kill_driver.differences(whole, kill_driver.ending(root)) == ['/params/checkpoint_every']


@pytest.mark.parametrize('killed_in', [2, 5, 9, 14, 25])
def test_going_back_does_not_depend_on_the_clock_nor_on_a_kill(root, monkeypatch, killed_in):
    """Whatever has been saved when, it goes back from the same place to the same place."""
    driver.main(train_flags(root, *kill_driver.DIVERGING, '--max_epochs', '2'))
    whole = kill_driver.ending(root)
    assert whole['rollbacks'] > 1
    shutil.rmtree(root / 'cv')
    flags = train_flags(root, *kill_driver.DIVERGING, '--max_epochs', '2', '--checkpoint_every', '0.00001m')
    monkeypatch.setattr(checkpoints, 'RETRY_SECONDS', 0)
    with pytest.raises(Killed):
        drive(flags, step=at(killed_in, kill))
    monkeypatch.undo()
    assert driver.main([*flags, '--resume', 'auto']) == 0
    assert kill_driver.differences(whole, kill_driver.ending(root)) == ['/params/checkpoint_every']


@pytest.mark.parametrize(('every', 'code'), [('0.00001m', 0), ('10m', 0), ('3', 1)])
def test_the_clock_ends_no_run(root, every, code):
    """What seems to have diverged when the clock wants a file is not saved; only what every run looks at ends one."""
    flags = train_flags(root, '--checkpoint_every', every)
    state, solver, rng, provider, params = driver.prepare(driver.build_parser(), flags)
    it = []

    class Late:
        """A model that is not finite after the third step, and finite when the fourth begins."""
        def step(self, model, *args):
            solver.step(model, *args)
            it.append(1)
            if len(it) == 3:
                self.kept = float(model['bd'][0, 0])
                model['bd'][0, 0] = np.nan

        def __getattr__(self, name):
            return getattr(solver, name)

    late = Late()

    def repair(state):
        if len(it) == 3:
            state.model['bd'][0, 0] = late.kept

    watched = Provider(provider, state, rng, repair, nothing)
    assert driver.train(state, late, rng, watched, params) == code


def test_without_checkpoint_every_there_is_one_every_ten_minutes(root, monkeypatch):
    now, saves, save = [1000.], [], checkpoints.Checkpoints.save
    monkeypatch.setattr(checkpoints.time, 'monotonic', lambda: now[0])
    monkeypatch.setattr(checkpoints.Checkpoints, 'save',
                        lambda self, state, *args: saves.append(state.it) or save(self, state, *args))
    drive(train_flags(root, '--eval_period', '100', '--max_epochs', '3'),
          step=lambda state: now.__setitem__(0, now[0] + 100))
    assert saves == [6, 12, 18, 21]


@pytest.mark.parametrize('every', ['0', '-1', '1.5', 'm', '0m', '10', '1h', '', '²'])
def test_checkpoint_every_is_iterations_or_minutes(root, every, capsys):
    assert driver.main(train_flags(root, '--checkpoint_every', every)) == (0 if every == '10' else 2)
    said = '--checkpoint_every' + (f' {every}: ' if every else ' is empty')
    assert every == '10' or said in capsys.readouterr().err


# ---- --resume auto


def test_auto_starts_anew_where_there_is_nothing_and_says_so(root, capsys):
    assert driver.main(train_flags(root, '--resume', 'auto')) == 0
    assert 'a new run starts' in capsys.readouterr().out and last_of(root)['it'] == 14


@pytest.mark.parametrize('spoil', [
    lambda path: os.truncate(path, path.stat().st_size // 2),
    lambda path: path.write_bytes(path.read_bytes()[:-100] + b'x' + path.read_bytes()[-99:]),
    lambda path: path.write_bytes(b''),
    lambda path: save_checkpoint(path, {**load_checkpoint(path), 'solver': None}),
], ids=['cut', 'altered', 'empty', 'not resumable'])
def test_auto_passes_over_what_is_not_sound_and_says_so(root, spoil, capsys):
    driver.main(train_flags(root, '--max_epochs', '4'))
    whole = kill_driver.ending(root)
    last, best = checkpoint_named(root, 'last'), checkpoint_named(root, '')
    os.utime(best, ns=(0, last.stat().st_mtime_ns - 1))
    spoil(last)
    os.utime(last)
    capsys.readouterr()
    assert driver.main(train_flags(root, '--max_epochs', '4', '--resume', 'auto')) == 0
    said = capsys.readouterr()
    assert f'skipped {last}: ' in said.err and f'resumes from {best}, iteration ' in said.out
    assert kill_driver.differences(whole, kill_driver.ending(root)) == []


def test_auto_takes_the_newest_and_no_other_runs(root):
    flags = train_flags(root)
    driver.main(flags)
    driver.main([*flags, '--fappend', 'test_9.99', '--max_epochs', '3'])
    driver.main([*flags, '--fappend', 'test_x', '--max_epochs', '3'])
    params = vars(driver.build_parser().parse_args(flags))
    assert checkpoints.newest_resumable(params, start.load_resumable)[0] == str(checkpoint_named(root, '_test_last'))


def test_auto_is_not_led_astray_by_a_clock_set_back(root):
    flags = train_flags(root, '--checkpoint_every', '3')
    driver.main(flags)
    last, params = checkpoint_named(root, 'last'), vars(driver.build_parser().parse_args(flags))
    checkpoint = {**load_checkpoint(last), 'it': 20}    # one that is further on than the best
    save_checkpoint(last, checkpoint)
    os.utime(last, ns=(0, 0))
    assert checkpoints.newest_resumable(params, start.load_resumable)[1]['it'] == 20
    save_checkpoint(last, {**checkpoint, 'history': []})    # of an earlier run of the same name
    os.utime(last, ns=(0, 0))
    assert checkpoints.newest_resumable(params, start.load_resumable)[1]['it'] < 20


def test_auto_starts_no_new_run_where_a_checkpoint_cannot_be_read(root):
    driver.main(train_flags(root))

    def broken_disk(path):
        raise InputError(f'{path}: cannot be read') from OSError(5, 'Input/output error')

    with pytest.raises(InputError, match='cannot be read'):
        checkpoints.newest_resumable(vars(driver.build_parser().parse_args(train_flags(root))), broken_disk)


def test_killed_between_the_best_and_the_last_checkpoint_it_writes_the_last_one(root, monkeypatch):
    write = checkpoints.write_checkpoint

    def killed(path, contents):
        if 'last' in Path(path).name:
            raise Killed
        write(path, contents)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoints, 'write_checkpoint', killed)
        driver.main(train_flags(root, '--max_epochs', '1'))
    assert driver.main(train_flags(root, '--max_epochs', '1', '--resume', 'auto')) == 0
    assert last_of(root)['it'] == 7


def test_a_run_that_ended_early_does_not_go_on_by_itself(root, capsys):
    flags = train_flags(root, '--min_ppl_or_abort', '1.5', '--resume', 'auto')
    for _ in range(2):
        assert driver.main(flags) == 1
        assert 'aborted at iteration 7: perplexity ' in capsys.readouterr().err and last_of(root)['it'] == 7
    assert driver.main([*flags, '--min_ppl_or_abort', '-1']) == 0


def test_auto_may_stand_beside_the_checkpoint_to_start_from(root):
    driver.main(train_flags(root))
    start = ['--init_model_from', str(checkpoint_named(root, '')), '--fappend', 'second', '--resume', 'auto']
    for epochs in '1', '2':
        assert driver.main(train_flags(root, *start, '--max_epochs', epochs)) == 0
    assert load_checkpoint(checkpoint_named(root, 'second_last'))['it'] == 14


def test_a_checkpoint_of_before_these_flags_is_gone_on_with(root):
    driver.main(train_flags(root, '--max_epochs', '4'))
    whole = kill_driver.ending(root)
    driver.main(train_flags(root))
    old = last_of(root)
    for name in ('trend', 'rollbacks', 'good'):
        del old[name]
    for name in ('checkpoint_every', 'on_divergence'):
        del old['params'][name]
    save_checkpoint(checkpoint_named(root, 'last'), old)
    assert driver.main(['--resume', str(checkpoint_named(root, 'last')), '--max_epochs', '4']) == 0
    assert set(kill_driver.differences(whole, kill_driver.ending(root))) <= {
        '/history', '/trend/recent', '/trend/slow', '/trend/lowest'}    # the history names --max_epochs


# ---- names that outlive a host


@pytest.fixture
def on_host(monkeypatch):
    """on_host(name): what follows runs on the host of this name, as after a container was started again."""
    return lambda name: monkeypatch.setattr(socket, 'gethostname', lambda: name)


def names(root):
    """The files of all runs, without the score of a best checkpoint, and without the rest of the data set."""
    return {re.sub(r'_[0-9.]+\.h5', '_BEST.h5', path.name) for folder in ('cv', 'status')
            for path in (root / folder).iterdir()}


@pytest.mark.parametrize('hosts', [['3f2a', '9c01', '3f2a', 'd4'], ['box_1', 'box_2', 'third']])
@pytest.mark.parametrize('which', ['auto', 'last'])
def test_a_container_that_is_started_again_under_another_name_finds_its_run(root, on_host, hosts, which, capsys):
    """It ends as if never stopped, with one set of files, whose name is that of the host on which it began."""
    on_host(hosts[0])
    assert driver.main(train_flags(root, '--max_epochs', '4')) == 0
    whole, files = kill_driver.ending(root), names(root)
    shutil.rmtree(root / 'cv')
    shutil.rmtree(root / 'status')
    flags = train_flags(root, '--max_epochs', '4', '--checkpoint_every', '1')
    for number, host in enumerate(hosts):
        on_host(host)
        resume = ['--resume', 'auto' if which == 'auto' or not number else str(checkpoint_named(root, 'last'))]
        if host != hosts[-1]:
            with pytest.raises(Killed):
                drive([*flags, *resume], step=at(4, kill))
            assert last_of(root)['it'] == 4 * (number + 1)
        else:
            assert driver.main([*flags, *resume]) == 0
        said = capsys.readouterr()
        assert which != 'auto' or not number or f'resumes from {root / "cv"}' in said.out
        if host != hosts[0]:
            assert f'this run began on {hosts[0]}; its files keep that name' in said.err
            assert which != 'auto' or f'{host} has no checkpoint of this name' in said.out
    assert names(root) == files and all(hosts[0] in name for name in files)
    assert kill_driver.differences(whole, kill_driver.ending(root)) == ['/params/checkpoint_every']


def test_machines_that_share_a_folder_keep_runs_of_their_own(root, on_host):
    flags = train_flags(root)
    for host in 'one', 'two':
        on_host(host)
        assert driver.main(flags) == 0
    contents = {path: path.read_bytes() for path in (root / 'cv').glob('*_one_*')}
    assert len(contents) > 1 and len(list((root / 'cv').glob('*_two_*'))) == len(contents)
    assert driver.main([*flags, '--resume', 'auto', '--max_epochs', '3']) == 0    # its own, though one is there too
    assert {path: path.read_bytes() for path in contents} == contents
    assert load_checkpoint(checkpoint_named(root, '_two_test_last'))['it'] == 21


def test_a_run_that_is_alive_on_another_machine_is_not_resumed(root, on_host, capsys):
    flags = train_flags(root)
    on_host('one')
    assert driver.main(flags) == 0
    before, params = checkpoint_named(root, 'last').read_bytes(), vars(driver.build_parser().parse_args(flags))
    stem = checkpoint_stem(params)
    on_host('two')
    with claimed(stem, ''):
        capsys.readouterr()
        assert driver.main([*flags, '--resume', 'auto']) == 0
        said = capsys.readouterr()
        assert f'skipped {stem}: is in use by a run that is alive (process {os.getpid()} on ' in said.err
        assert 'a new run starts' in said.out
        assert driver.main([*flags, '--resume', f'{stem}_last.h5']) == 2
        assert 'is in use by a run that is alive' in capsys.readouterr().err
        assert driver.main(['--resume', f'{stem}_last.h5', '--fappend', 'fork', '--max_epochs', '3']) == 0
    assert Path(f'{stem}_last.h5').read_bytes() == before
    assert {'model_checkpoint_tiny_two_test_last.h5', 'model_checkpoint_tiny_two_fork_last.h5'} <= names(root)
    assert not list(root.rglob('.*'))


def test_of_two_hosts_that_take_over_a_run_at_once_one_does(root, on_host):
    on_host('gone')
    driver.main(train_flags(root, '--max_epochs', '3'))
    flags = train_flags(root, '--max_epochs', '40', '--checkpoint_every', '1', '--resume', 'auto')
    children = []
    for host in 'one', 'two':
        on_host(host)
        children.append(kill_driver.start(root, flags))
    codes = sorted(kill_driver.ended(pid) for pid in children)
    assert codes[0] == 0 and codes[1] in (0, 2)
    assert last_of(root)['it'] == 280 or codes == [0, 0]
    last = load_checkpoint(checkpoint_named(root, '_gone_test_last'))
    assert last['it'] == 280 and len({report['time'] for report in last['history']}) == len(last['history'])


def test_the_newest_of_other_hosts_runs_is_taken_and_no_other_run(root, on_host, capsys):
    flags = train_flags(root)
    for host, more in (('old', []), ('new', []), ('any', ['--fappend', 'x_test']), ('any', ['--fappend', 'test_x'])):
        on_host(host)
        driver.main([*flags, *more])
    on_host('here')
    params = vars(driver.build_parser().parse_args(flags))
    assert checkpoints.newest_resumable(params, start.load_resumable)[0] == str(
        checkpoint_named(root, '_new_test_last'))
    for path in (root / 'cv').glob('*_new_*'):
        path.write_bytes(b'')
    assert checkpoints.newest_resumable(params, start.load_resumable)[0] == str(
        checkpoint_named(root, '_old_test_last'))
    for path in (root / 'cv').glob('*_old_*'):
        path.unlink()
    capsys.readouterr()
    assert checkpoints.newest_resumable(params, start.load_resumable) == ('', None)
    assert 'a new run starts' in capsys.readouterr().out


def test_a_checkpoint_from_another_folder_does_not_write_over_the_run_of_its_name(root, on_host):
    """A copy that was brought along continues under this host's name, beside the runs that are there."""
    on_host('one')
    driver.main(train_flags(root))
    shutil.copytree(root / 'cv', root / 'brought')
    before = {path: path.read_bytes() for path in (root / 'cv').iterdir()}
    on_host('two')
    last, = (root / 'brought').glob('*_last.h5')
    assert driver.main(['--resume', str(last), '--max_epochs', '3', '-o', str(root / 'cv')]) == 0
    assert {path: path.read_bytes() for path in before} == before
    assert load_checkpoint(checkpoint_named(root, '_two_test_last'))['it'] == 21


def test_another_fappend_on_the_same_host_is_another_run(root, on_host):
    """Also where it is the end of the old one: the name then reads like that of another host, here_x."""
    on_host('here')
    driver.main(train_flags(root, '--fappend', 'x_test'))
    last = checkpoint_named(root, 'last')
    before = last.read_bytes()
    assert driver.main(['--resume', str(last), '--fappend', 'test', '--max_epochs', '3']) == 0
    assert last.read_bytes() == before and (root / 'cv' / 'model_checkpoint_tiny_here_test_last.h5').exists()


def test_the_best_checkpoint_is_found_in_a_folder_that_was_moved(root, capsys):
    driver.main(train_flags(root))
    best = Path(last_of(root)['best_checkpoint'])
    (root / 'cv').rename(root / 'kept')
    last, = (root / 'kept').glob('*_last.h5')
    capsys.readouterr()
    assert driver.main(['--resume', str(last), '-o', str(root / 'kept')]) == 0    # there is nothing left to do
    said = capsys.readouterr().out
    assert f'in {root / "kept" / best.name}\n' in said and str(best) not in said
    (root / 'kept' / best.name).unlink()
    assert driver.main(['--resume', str(last), '-o', str(root / 'kept')]) == 0
    assert f'in {best}\n' in capsys.readouterr().out    # where it was


# ---- a disk that does not take it


@pytest.fixture
def full_disk(monkeypatch):
    """full_disk(which): writes of checkpoints fail where which(number of the write) says so."""
    monkeypatch.setattr(checkpoints, 'RETRY_SECONDS', 0)

    def set_up(which):
        write, count = checkpoints.write_checkpoint, iter(range(10 ** 6))

        def writes(path, contents):
            if which(next(count)):
                raise InputError(f'{path}: cannot be written (No space left on device)')
            write(path, contents)

        monkeypatch.setattr(checkpoints, 'write_checkpoint', writes)
    return set_up


def test_a_full_disk_is_said_and_tried_again_and_costs_nothing(root, full_disk, monkeypatch, capsys):
    driver.main(train_flags(root, '--max_epochs', '3'))
    whole = kill_driver.ending(root)
    shutil.rmtree(root / 'cv')
    full_disk(lambda number: number < 4)
    assert driver.main(train_flags(root, '--max_epochs', '3')) == 0
    err = capsys.readouterr().err
    assert err.count('No space left on device') == 4 and 'tried again in 0 s' in err
    assert kill_driver.differences(whole, kill_driver.ending(root)) == []


def test_what_cannot_be_saved_at_the_end_is_an_exit_code(root, full_disk, capsys):
    driver.main(train_flags(root))
    before = checkpoint_named(root, 'last').read_bytes()
    full_disk(lambda number: True)
    assert driver.main(train_flags(root, '--resume', 'auto', '--max_epochs', '3')) == 1
    assert 'its last state could not be saved' in capsys.readouterr().err
    assert checkpoint_named(root, 'last').read_bytes() == before


def test_a_disk_that_has_room_again_when_the_run_has_ended_gets_the_best_one_too(root, full_disk):
    full_disk(lambda number: number < 12)
    assert driver.main(train_flags(root)) == 0
    last = last_of(root)
    assert last['it'] == 14 and load_checkpoint(last['best_checkpoint'])['perplexity'] == last['top_val_ppl2']


def test_a_signal_ends_the_waiting_for_room(root, full_disk, monkeypatch, capsys):
    full_disk(lambda number: True)
    monkeypatch.setattr(checkpoints, 'RETRY_SECONDS', 3600)
    monkeypatch.setattr(checkpoints.time, 'sleep', lambda seconds: os.kill(os.getpid(), signal.SIGTERM))
    assert driver.main(train_flags(root)) == 1
    assert 'could not be saved' in capsys.readouterr().err


def test_a_folder_that_vanishes_is_made_again(root):
    assert drive(train_flags(root), evaluation=lambda state: shutil.rmtree(root / 'cv')) == 0
    assert last_of(root)['it'] == 14


# ---- signals


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_any_second_signal_leaves_at_once_and_the_next_run_cleans_up(root, number):
    def run():
        def again(path, contents):
            (Path(path).parent / f'.{Path(path).name}.0123abcd.tmp').write_bytes(contents[:100])
            os.kill(os.getpid(), number)

        signal.signal(signal.SIGHUP, signal.SIG_DFL)    # also where these tests run under nohup
        checkpoints.write_checkpoint = again
        return drive(train_flags(root), step=stop)

    assert in_a_child(run) == -number
    assert len(list(root.rglob('*.tmp'))) == 1
    assert driver.main(train_flags(root, '--resume', 'auto')) == 0
    assert not list(root.rglob('.*'))


def test_a_signal_in_the_last_step_finds_a_finished_run(root):
    assert drive(train_flags(root, '--max_epochs', '1'), evaluation=stop) == 0
    assert last_of(root)['it'] == 7


def test_nohup_is_respected(root):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert drive(train_flags(root), evaluation=signalling(signal.SIGHUP)) == 0


# ---- many at once


def test_a_second_run_of_the_same_name_is_refused_while_the_first_lives(root, capsys):
    flags, cv = train_flags(root), root / 'cv'
    cv.mkdir()
    half = cv / '.model_checkpoint_tiny_x_test_last.h5.0123abcd.tmp'
    half.write_bytes(b'half')
    params = vars(driver.build_parser().parse_args(flags))
    for path in status_path(params), checkpoint_stem(params):
        with claimed(path, ''):
            assert driver.main(flags) == 2
        err = capsys.readouterr().err
        assert f'process {os.getpid()} on ' in err and '--fappend' in err and 'is alive' in err
    assert half.exists() and not list(cv.glob('*.h5'))
    assert driver.main([*flags, '--fappend', 'other']) == 0
    assert driver.main(flags) == 0


def test_two_runs_at_the_same_time_with_the_same_name_do_not_harm_each_other(root):
    driver.main(train_flags(root, '--max_epochs', '5'))
    whole = kill_driver.ending(root)
    shutil.rmtree(root / 'cv')
    flags = train_flags(root, '--max_epochs', '5', '--checkpoint_every', '1')
    children = [kill_driver.start(root, flags) for _ in range(2)]
    codes = sorted(kill_driver.ended(pid) for pid in children)
    assert codes.count(0) >= 1 and set(codes) <= {0, 2}
    assert kill_driver.differences(whole, kill_driver.ending(root)) == ['/params/checkpoint_every']
    assert not list(root.rglob('.*'))

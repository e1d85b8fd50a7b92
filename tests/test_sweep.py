"""Sweeps: what is drawn, how one that was killed goes on, successive halving, MPI, Slurm, and specs that cannot be."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from datasets import SMALL, assert_same_model, write_tiny_dataset
from programs import REPOSITORY, running
from ranks import mpirun, needs_mpi

from imagernn.formats.writing import claimed
from imagernn.runs.checkpoint_file import load_checkpoint
from imagernn.runs.signals import Stop
from imagernn.sweep import runs as sweep_runs
from imagernn.sweep.__main__ import main
from imagernn.sweep.runs import SweepRun, promoted, ranked, status_of
from imagernn.sweep.spec import PLAN, draw
from imagernn.textgen import train
from imagernn.web.status_folder import StatusFolder, parse_status

SPEC = {'command': 'train-text', 'search': 'random', 'seed': 3, 'num_runs': 3,
        'flags': {'text': 'book.txt', 'hidden_sizes': '8', 'embedding_size': 4, 'batch_size': 4, 'window': 10,
                  'max_epochs': 12, 'eval_period': 2},
        'values': {'learning_rate': {'loguniform': [1e-3, 3e-2]}, 'drop_prob': {'uniform': [0, .5]}}}


def write_spec(folder, spec=None, **changes):
    (folder / 'lr.json').write_text(json.dumps({**(spec or SPEC), **changes}), encoding='utf-8')


def enter(folder, monkeypatch):
    """Make folder the working directory, with a text and a spec; the runs get the modules of the checkout."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv('PYTHONPATH', str(REPOSITORY))
    (folder / 'book.txt').write_text('the cat sat on the mat.\nthe dog ate the cat.\n' * 45, encoding='utf-8')
    write_spec(folder)


@pytest.fixture
def place(tmp_path, monkeypatch):
    enter(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A folder in which the sweep ran without a break: all of it is in lr_runs/ and table.json."""
    folder = tmp_path_factory.mktemp('whole')
    with pytest.MonkeyPatch.context() as monkeypatch:
        enter(folder, monkeypatch)
        assert main(['lr.json', '--json', 'table.json']) == 0
    return folder


def table_of(folder):
    return json.loads((folder / 'table.json').read_text(encoding='utf-8'))


def last_of(folder, name):
    path, = Path(folder).glob(f'*_{name}_last.h5')
    return load_checkpoint(path, 'textgen')


# ---- what is drawn

def test_draws_are_repeatable_and_within_their_ranges():
    spec = {'search': 'random', 'seed': 0, 'num_runs': 400, 'values': {
        'learning_rate': {'loguniform': [1e-4, 1e-2]}, 'drop_prob': {'uniform': [.1, .3]}, 'seed': {'randint': [2, 5]},
        'hidden_size, word_encoding_size': {'choice': [32, 64, 'all']}}}
    runs = draw(spec)
    assert runs == draw(spec) != draw({**spec, 'seed': 1})
    assert runs[:7] == draw({**spec, 'num_runs': 7})
    rates, shares = (np.array([run[name] for run in runs]) for name in ('learning_rate', 'drop_prob'))
    assert 1e-4 <= rates.min() < 2e-4 and 5e-3 < rates.max() <= 1e-2
    assert .4 < (rates < 1e-3).mean() < .6    # half of them below the geometric mean
    assert .1 <= shares.min() < .11 and .29 < shares.max() <= .3
    assert {run['seed'] for run in runs} == {2, 3, 4}
    assert {run['hidden_size'] for run in runs} == {32, 64, 'all'}
    assert all(run['hidden_size'] == run['word_encoding_size'] for run in runs)
    assert max(len(str(value)) for value in rates) <= 11    # commands stay short


def test_a_grid_is_the_product():
    runs = draw({'search': 'grid', 'values': {'a': {'choice': [1, 2]}, 'b': {'choice': ['x', 'y', 'z']}}})
    assert [(run['a'], run['b']) for run in runs] == [(a, b) for a in (1, 2) for b in 'xyz']


# ---- a sweep from beginning to end

def test_a_sweep_ends_with_the_table_the_best_model_and_its_command(whole, monkeypatch, capsys):
    monkeypatch.chdir(whole)
    assert main(['lr.json']) == 0    # trains none again
    out = capsys.readouterr().out
    assert '3 have ended before' in out and not re.search('^lr-0: ', out, re.MULTILINE)
    found, runs = table_of(whole), draw(SPEC)
    scores = [run['score'] for run in found['runs']]
    assert scores == sorted(scores) and len(set(scores)) == 3
    assert all(run['ending'] == 'finished' and run['epoch'] == 12 for run in found['runs'])
    best = found['best']
    flags = runs[int(best['name'][-1])]
    assert f'{scores[0]:.4f}.h5' in best['checkpoint'] and best['checkpoint'] in out and best['command'] in out
    assert best['command'].endswith(
        'train-text book.txt --hidden_sizes=8 --embedding_size=4 --batch_size=4 --window=10 --max_epochs=12 '
        f'--eval_period=2 --learning_rate={flags["learning_rate"]} --drop_prob={flags["drop_prob"]} --num_threads=1')
    assert [line.split()[:2] for line in out.splitlines()[2:6]] == [
        ['rank', 'run'], *([str(rank), run['name']] for rank, run in enumerate(found['runs'], 1))]

    seen = StatusFolder('lr_runs').look()    # as in the monitor
    assert len(seen['workers']) == 3 and seen['problems'] == []


def test_killed_and_stopped_in_the_middle_it_ends_as_without_a_break(whole, place, capsys):
    command = ['-m', 'imagernn.sweep', 'lr.json', '--jobs', '2']
    with running(*command, cwd=place) as process:
        await_that(lambda: (found := status_of('lr_runs', 'lr-0')) and found['epoch'], process)
        os.kill(process.pid, signal.SIGSTOP)    # it starts no other run
        await_that(lambda: all(status_of('lr_runs', log.stem) for log in Path('lr_runs').glob('*.log')), process)
        for lock in Path('lr_runs').glob('.*_status.json.lock'):
            with suppress(FileNotFoundError, ProcessLookupError):    # it has ended by itself
                os.kill(int(re.match('process ([0-9]+)', lock.read_text())[1]), signal.SIGKILL)
        process.kill()
    with running(*command, cwd=place) as process:
        assert '3 runs of' in process.stdout.readline()
        logged = size_of_logs()
        await_that(lambda: size_of_logs() > logged, process)
        process.terminate()
        assert 'to go on: python -m imagernn sweep lr.json --jobs 2' in process.stdout.read()
        assert process.wait() == 143
    assert main(['lr.json', '--jobs', '2', '--json', 'table.json']) == 0
    assert table_of(place)['runs'] == table_of(whole)['runs']
    for name in ('lr-0', 'lr-1', 'lr-2'):
        assert_same_model(last_of('lr_runs', name)['model'], last_of(whole / 'lr_runs', name)['model'])


def size_of_logs():
    return sum(log.stat().st_size for log in Path('lr_runs').glob('*.log'))


def await_that(question, process):
    """Wait until the answer is yes, while the sweep lives."""
    while not question():
        assert process.poll() is None, process.communicate()
        time.sleep(.02)


def test_halving_finds_the_same_best_and_its_survivors_are_full_runs(whole, place, capsys):
    assert main(['lr.json', '--halving', '3', '--min_epochs', '2', '--json', 'table.json']) == 0
    found, best = table_of(place), table_of(whole)['best']['name']
    assert found['best']['name'] == best and 'epoch 2: the best 1 of 3 go on' in capsys.readouterr().out
    ours, theirs = (last_of(folder, best) for folder in ('lr_runs', whole / 'lr_runs'))
    assert ours['it'] == theirs['it'] and ours['val_nats'] == theirs['val_nats']
    assert_same_model(ours['model'], theirs['model'])
    # the others, those that were not fast enough to finish, can be resumed by hand, like any run
    for name in (run['name'] for run in found['runs'] if run['ending'].startswith('stopped at epoch')):
        path, = Path('lr_runs').glob(f'*_{name}_last.h5')
        assert train.main(['--resume', str(path)]) == 0
        assert last_of('lr_runs', name)['val_nats'] == last_of(whole / 'lr_runs', name)['val_nats']


def test_halving_stops_where_a_run_failed(place, capsys):
    write_spec(place, {'command': 'train-text', 'search': 'grid', 'flags': {**SPEC['flags'], 'max_epochs': 4},
                       'values': {'learning_rate': {'choice': [.01, 'nan']}}})
    assert main(['lr.json', '--halving', '2', '--min_epochs', '2']) == 1
    out = capsys.readouterr().out
    assert 'failed: exit code 2, --learning_rate nan' in out and 'go on\n' not in out
    assert re.search('runs have not ended: (lr-0, )?lr-1\nto go on: ', out)    # lr-0 may be fast enough to finish


TRAINER = """
import json, os, sys, signal, time
def stop(*_):
    print('one more line')
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
for epoch in range(1, 4):
    with open('new', 'w') as file:
        json.dump({'history': [{'epoch': [epoch, 9], 'iter': [epoch, 9], 'mpi': 'PMIX_RANK' in os.environ}]}, file)
    os.rename('new', 'host_x_status.json')
    time.sleep(.05)
time.sleep(30)
"""


def test_a_run_waits_at_the_rung_as_one_that_sigterm_stopped(place, monkeypatch):
    monkeypatch.setenv('PMIX_RANK', '0')
    status, problem = sweep_runs.train(Stop(), 'x', [sys.executable, '-c', TRAINER], place, 3)
    assert problem is None and status['epoch'] == 3 and Path('x.log').read_text() == 'one more line\n'
    assert json.loads(Path('host_x_status.json').read_text())['history'][0]['mpi'] is False
    stop = Stop()
    stop.signal = signal.SIGINT
    assert sweep_runs.train(stop, 'x', [sys.executable, '-c', TRAINER], place, None)[1] is None
    fails = [sys.executable, '-c', 'import sys; sys.exit("error: no disk")']
    assert sweep_runs.train(Stop(), 'y', fails, place, 3) == (None, f'exit code 1, no disk ({place / "y.log"})')
    # another process of this name, whose sweep was killed, prints there, too
    fails[-1] = 'import sys; print("error: no disk\\nepoch 3", file=sys.stderr); sys.exit(2)'
    assert sweep_runs.train(Stop(), 'y', fails, place, 3)[1].startswith('exit code 2, no disk (')
    assert sweep_runs.train(Stop(), 'y', [*fails[:2], 'raise SystemExit(3)'], place, 3)[1].startswith(
        'exit code 3, it printed nothing (')
    assert 'cannot be started' in sweep_runs.train(Stop(), 'y', ['./absent'], place, 3)[1]


def run_with(values, higher_is_better=False, state='stopped'):
    """A SweepRun with evaluations at epochs 1, 2, …"""
    history = [{'epoch': [epoch, 9], 'iter': [epoch, 9], 'val_x': value, 'evaluated': True}
               for epoch, value in enumerate(values, 1)]
    score = {'name': 'x', 'val': 'val_x', 'train': 'train_x', 'higher_is_better': higher_is_better}
    status = parse_status(json.dumps({'state': state, 'reason': None, 'score': score, 'history': history}).encode())
    return SweepRun(str(values), {}, {}, [], [], status)


def test_what_a_run_did_beyond_the_rung_does_not_count():
    late, good, bad, early = runs = [run_with(values) for values in ([5, 4, 1, 1], [4, 3], [7, 6], [1])]
    assert promoted(runs, 2, 2) == [good, late] and promoted(runs, 2, 3) == [good] and promoted(runs, 2, 9) == [good]
    assert promoted(runs, 1, 2) == [early, good] and promoted([early], 2, 2) == [] and bad.best == 6
    assert promoted([run_with([3, 2], True), run_with([2, 3], True)], 2, 2)[0].name == '[2, 3]'


def test_runs_without_a_score_come_last():
    runs = [SweepRun('none', {}, {}, [], []), run_with([None]), run_with([3, None]), run_with([2])]
    assert [run.name for run in ranked(runs, lambda run: run.best)] == ['[2]', '[3, None]', 'none', '[None]']
    runs = [SweepRun('none', {}, {}, [], []), run_with([3], True), run_with([4], True)]
    assert [run.name for run in ranked(runs, lambda run: run.best)] == ['[4]', '[3]', 'none']


def test_aborted_and_failed_runs_are_listed_with_their_reasons(place, capsys):
    write_tiny_dataset('data')
    values = {'min_ppl_or_abort': {'choice': [-1, 1.01, 'nan']}}
    sizes = dict(zip((flag[2:] for flag in SMALL[::2]), map(int, SMALL[1::2]), strict=True))
    write_spec(place, {'command': 'train', 'search': 'grid', 'values': values,
                       'flags': {'dataset': 'tiny', 'max_epochs': 2, **sizes}})
    assert main(['lr.json', '--json', 'table.json']) == 1
    endings = {run['name']: run['ending'] for run in table_of(place)['runs']}
    assert endings['lr-0'] == 'finished' and 'to go on: ' in capsys.readouterr().out
    assert re.fullmatch(r'aborted at epoch 1: perplexity .* on val is not below --min_ppl_or_abort 1.01',
                        endings['lr-1'])
    assert re.fullmatch(r'failed: exit code 2, --min_ppl_or_abort nan: must be a finite number \(.*lr-2.log\)',
                        endings['lr-2'])


# ---- elsewhere

SHORT = {**SPEC['flags'], 'max_epochs': 1, 'eval_period': 1}


def score_alone(number):
    """The score of a run of the short sweep, trained by itself."""
    flags = {**SHORT, **draw(SPEC)[number]}
    text = flags.pop('text')
    assert train.main([text, '--fappend=alone', '--num_threads=1', *(f'--{k}={v}' for k, v in flags.items())]) == 0
    return last_of('cv', 'alone')['val_nats']


def test_the_tasks_of_an_array_job_are_the_runs(place):
    write_spec(place, flags=SHORT)
    assert main(['lr.json', '--slurm', 'job.sh', '--jobs', '2']) == 0
    script = Path('job.sh').read_text(encoding='utf-8')
    assert '#SBATCH --array=0-2%2\n' in script
    environment = {**os.environ, 'SLURM_ARRAY_TASK_ID': '1'}
    for _ in range(2):    # the second time there is nothing left to do
        done = subprocess.run(['bash', 'job.sh'], env=environment, capture_output=True, text=True, check=True)
    assert 'lr-1: ' in done.stdout and done.stdout.endswith('finished\n') and Path('lr_runs/lr-1.log').exists()
    table, = re.findall('^#     (.*)', script, re.MULTILINE)
    done = subprocess.run(['bash', '-c', table], capture_output=True, text=True, check=True)
    assert done.stdout.count('finished') == 1 and done.stdout.count('not started') == 2
    assert status_of('lr_runs', 'lr-1')['best_val'] == score_alone(1)


@needs_mpi
def test_over_mpi_the_runs_are_the_same(place):
    write_spec(place, flags=SHORT, num_runs=2)
    out, _ = mpirun(3, '-m', 'mpi4py.futures', '-m', 'imagernn.sweep', 'lr.json', '--executor', 'mpi', '--json',
                    'table.json')
    assert '2 runs of imagernn train-text, 2 at a time' in out
    assert {run['name']: run['score'] for run in table_of(place)['runs']} == {
        'lr-0': score_alone(0), 'lr-1': score_alone(1)}


@needs_mpi
def test_mpirun_without_the_executor_is_an_error(place):
    _, err = mpirun(2, '-m', 'imagernn.sweep', 'lr.json', code=2)
    assert 'give --executor mpi' in err and not Path('lr_runs').exists()


# ---- what cannot be

BAD = [
    ({'command': 'evaluate'}, 'its "command" is "evaluate"; choose one of train, train-ranker'),
    ({'command': None}, 'its "command" is null; expected a string'), ({'flgs': {}}, 'has an entry "flgs"'),
    ({'num_runs': 0}, 'its "num_runs" is 0'), ({'num_runs': True}, 'expected a number'), ({'seed': -1}, 'is -1'),
    ({'values': {}}, '"values" is empty'), ({'search': 'bayes'}, 'choose one of random, grid'),
    ({'search': 'grid'}, 'leave it out'),
    ({'flags': {'lerning_rate': 1}}, 'no flag --lerning_rate; did you mean learning_rate?'),
    ({'flags': {'l': 1}}, 'no flag --l;'), ({'flags': {'help': True}}, 'no flag --help'),
    ({'flags': {'window': 'wide'}}, "--window: invalid int value: 'wide'"),
    ({'flags': {'layer': 'cnn'}}, "invalid choice: 'cnn'"), ({'flags': {'window': None}}, 'its window is null'),
    ({'flags': {'lines': 1}}, 'its lines is 1; expected true or false'),
    ({'flags': {'fappend': 'x'}}, 'gives fappend; leave it out'), ({'flags': {'num_threads': 2}}, 'gives num_threads'),
    ({'flags': {'learning_rate': .1}}, 'gives learning_rate twice'),
    ({'values': {'seed': {'uniform': [2, 9]}}}, '--seed: invalid int value'),
    ({'values': {'regc': {'normal': [0, 1]}}}, 'one of choice, uniform, loguniform, randint'),
    ({'values': {'regc': [8, 9]}}, 'such as {"choice": [32, 64]}'),
    ({'values': {'regc': {'choice': []}}}, 'choice needs a list of values'),
    ({'values': {'regc': {'uniform': [1, 1]}}}, 'uniform needs a list of two numbers'),
    ({'values': {'regc': {'loguniform': [0, 1]}}}, 'above 0'), ({'values': {'seed': {'randint': [0, 1.5]}}}, 'whole'),
    ({'values': {'regc': {'uniform': [0, float('inf')]}}}, 'uniform needs'),
]


@pytest.mark.parametrize(('changes', 'words'), BAD, ids=[words for _, words in BAD])
def test_a_spec_that_cannot_be_is_one_line(place, changes, words, capsys):
    write_spec(place, **changes)
    assert main(['lr.json']) == 2
    err = capsys.readouterr().err
    assert err.startswith('error: lr.json: ') and words in err and err.count('\n') == 1
    assert not Path('lr_runs').exists()


@pytest.mark.parametrize(('options', 'words'), [
    (['--halving', '1'], '--halving 1: must be at least 2'), (['--jobs', '0'], '--jobs 0'),
    (['--only', '3'], '0 to 2'), (['--halving', '2', '--only', '0'], 'leave it out'),
    (['--halving', '2', '--min_epochs', 'nan'], '--min_epochs nan'),
    (['--halving', '2', '--min_epochs', '12'], 'must be below max_epochs, 12'),
    (['--halving', '2', '--min_epochs', '3'], 'epoch 3, which is no multiple of eval_period, 2'),
    (['--only', '0', '--list'], '--only, --list: exclude'), (['--only', '0', '--slurm', 'job'], '--only, --slurm:'),
    (['--list', '--slurm', 'job'], '--slurm, --list:'), (['--only', '0', '--executor', 'mpi'], '--only, --executor'),
    (['--slurm', 'job', '--executor', 'mpi'], '--slurm, --executor mpi: exclude'),
    (['--executor', 'mpi', '--jobs', '2'], 'leave it out'), (['--json', 'lr.json'], 'is an input file')])
def test_options_that_cannot_be(place, options, words, capsys):
    assert main(['lr.json', *options]) == 2
    assert words in capsys.readouterr().err and not list(place.rglob('*.log'))


def test_a_grid_is_counted_before_it_is_made(place, capsys):
    values = {name: {'choice': list(range(1000))} for name in ('seed', 'window', 'batch_size', 'embedding_size')}
    write_spec(place, {'command': 'train-text', 'search': 'grid', 'values': values})
    assert main(['lr.json']) == 2
    assert f'its grid has {1000 ** 4} combinations; give 1 to 500' in capsys.readouterr().err


def test_a_name_given_twice_is_an_error(place, capsys):
    Path('lr.json').write_text(json.dumps(SPEC).replace('drop_prob', 'learning_rate'), encoding='utf-8')
    assert main(['lr.json']) == 2 and 'lr.json: gives learning_rate twice' in capsys.readouterr().err


def test_halving_needs_the_same_epochs_in_all_runs(place, capsys):
    write_spec(place, values={'eval_period': {'choice': [1, 2]}}, flags={})
    assert main(['lr.json', '--halving', '2']) == 2 and 'varies eval_period' in capsys.readouterr().err
    write_spec(place, command='train-convnet', flags={})
    assert main(['lr.json', '--halving', '2']) == 2 and 'has no max_epochs in "flags"' in capsys.readouterr().err


def test_a_folder_belongs_to_one_spec_and_one_sweep(whole, place, capsys):
    Path('lr_runs').mkdir()
    shutil.copy(whole / 'lr_runs' / PLAN, 'lr_runs')
    write_spec(place, seed=4)
    assert main(['lr.json']) == 2
    assert 'has changed since the runs in lr_runs began; restore it' in capsys.readouterr().err
    write_spec(place)
    with claimed(Path('lr_runs', PLAN), ''):
        assert main(['lr.json']) == 2 and 'is in use' in capsys.readouterr().err
    with claimed(Path('lr_runs', 'host_lr-1_status.json'), ''):    # as by a run of a sweep that was killed alone
        assert main(['lr.json']) == 2
        assert f'still alive: lr-1 (process {os.getpid()} on ' in capsys.readouterr().err
    Path('lr_runs', PLAN).rename('lr_runs/other')
    assert main(['lr.json']) == 2 and 'holds other files' in capsys.readouterr().err

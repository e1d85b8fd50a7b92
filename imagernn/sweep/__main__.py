"""Search over the flags of a trainer: imagernn sweep SPEC.json

Trains a model with each of many settings, on this machine, over MPI, or as an array job of Slurm, and ranks them. The
same command continues a sweep that was stopped, however it was: each run is an ordinary run.
"""

import argparse
import functools
import math
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shlex import join, quote

from imagernn.__main__ import module_of
from imagernn.errors import InputError, command, install_command, loading, script
from imagernn.nn.blas import cores

MPIRUN = 'mpirun -n {} python -m mpi4py.futures -m imagernn.sweep'


def build_parser():
    parser = argparse.ArgumentParser(prog='imagernn sweep', description='Search over the flags of a trainer.')
    add = parser.add_argument_group('search').add_argument
    add('spec', metavar='SPEC.json',
        help='What to try, as a JSON object: "command", such as train; "flags", those that all runs have; "values", '
             'those that vary, with a distribution each; "search", random or grid; for random, "num_runs" and "seed".')
    add('--halving', type=int, metavar='FACTOR',
        help='End runs early by successive halving: all runs go to the epoch of --min_epochs, the best 1/FACTOR of '
             'them to FACTOR times that epoch, and so on to max_epochs. Give 2 or 3 if the runs take long.')
    add('--min_epochs', type=float, default=1, metavar='EPOCH',
        help='The epoch at which halving first compares the runs (default: 1). Raise it if the order of the runs still '
             'changes then.')

    add = parser.add_argument_group('system').add_argument
    add('--jobs', type=int, metavar='N',
        help='How many runs to train at a time; by default as many as this machine has cores for.')
    add('--num_threads', type=int, default=1,
        help='How many threads each run has (default: 1). Raise it if there are more cores than runs.')
    add('--executor', choices=('local', 'mpi'), default='local',
        help='Where to train: "local" is this machine (the default); "mpi" is every process of an MPI job but the '
             f'first, one run at a time in each: {MPIRUN.format(5)} SPEC.json --executor mpi.')
    add('--slurm', metavar='FILE.sh',
        help='Train nothing, but write a script that trains all runs as an array job of Slurm, --jobs at a time.')
    add('--only', type=int, metavar='NUMBER',
        help='Train this run alone, counted from 0, as each task of an array job does.')
    add('--list', action='store_true',
        help='Train nothing, and print the table of the runs as they are now. Give it to see what a spec would run, or '
             'how far an array job is.')

    add = parser.add_argument_group('output').add_argument
    add('-o', '--output_directory', metavar='FOLDER',
        help='The folder for checkpoints, status files and logs of all runs; by default SPEC_runs, beside the spec.')
    add('--json', metavar='OUT', help='Write the table to this JSON file, too.')
    return parser


with loading(__name__, build_parser):    # --help does not wait for these
    from imagernn.formats.writing import claimed, refuse_to_replace, require_writable
    from imagernn.runs.ranks import world
    from imagernn.runs.signals import stop_signals
    from imagernn.runs.terminal import say
    from imagernn.sweep.report import line_of, report
    from imagernn.sweep.runs import (
        SweepRun,
        in_turn,
        owner_of,
        prepare_rank,
        status_of,
        train,
        train_all,
        train_in_rank,
    )
    from imagernn.sweep.slurm import write_script
    from imagernn.sweep.spec import PLAN, arguments_of, draw, names_in, planned, write_plan


@script
def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    args = build_parser().parse_args(argv)
    check_options(args)
    manager, num_workers = executor_of(args)
    with manager as executor:
        if executor is None:    # this process has trained for the first one, which has left now
            return 0
        return sweep(args, executor, num_workers, argv)


def check_options(args):
    """Raise InputError for invalid options. Sets the folder where none was given."""
    for name, least in (('jobs', 1), ('num_threads', 1), ('halving', 2), ('only', 0)):
        if (value := getattr(args, name)) is not None and value < least:
            raise InputError(f'--{name} {value}: must be at least {least}')
    if not 0 < args.min_epochs < math.inf:
        raise InputError(f'--min_epochs {args.min_epochs}: must be a number above 0')
    if args.halving and (args.slurm or args.only is not None):
        raise InputError(f'--halving {args.halving}: compares runs, and a task of an array job knows only its own; '
                         'leave it out, or train with --executor mpi')
    if args.jobs and args.executor == 'mpi':
        raise InputError(f'--jobs {args.jobs}: over MPI, mpirun -n says how many; leave it out')
    modes = {'--only': args.only is not None, '--slurm': args.slurm is not None, '--list': args.list,
             '--executor mpi': args.executor == 'mpi' and not args.list}
    if len(given := [flag for flag, is_given in modes.items() if is_given]) > 1:
        raise InputError(f'{given[0]}, {given[1]}: exclude each other; leave one of them out')
    outputs = [path for path in (args.slurm, args.json) if path is not None]
    refuse_to_replace([args.spec], outputs)
    for path in outputs:
        require_writable(path)
    args.output_directory = Path(args.output_directory or f'{args.spec.removesuffix(".json")}_runs')


def executor_of(args):
    """An executor of concurrent.futures, in a context manager, and how many runs it trains at a time.

    Over MPI, the manager gives None in all processes but the first, after they have worked for that one.
    """
    if args.executor == 'local':
        if args.only is None and world().size > 1:    # with --only they become the ranks of one run
            raise InputError('mpirun started several processes, and each of them would train all runs; give --executor '
                             'mpi')
        num_workers = args.jobs or max(1, cores() // args.num_threads)
        return ThreadPoolExecutor(num_workers), num_workers
    try:
        from mpi4py import MPI
        from mpi4py.futures import MPICommExecutor
    except (ImportError, RuntimeError) as error:    # RuntimeError: there is no MPI library
        raise InputError(f'--executor mpi: mpi4py cannot be used ({error}); run: {install_command("mpi")}') from None
    if MPI.COMM_WORLD.size == 1:
        raise InputError('--executor mpi: there is no second process to train in; start it with '
                         f'{MPIRUN.format(5)} {quote(args.spec)} --executor mpi')
    return MPICommExecutor(initializer=prepare_rank), MPI.COMM_WORLD.size - 1


def sweep(args, executor, num_workers, argv):
    """Do what the options say. Returns the exit code."""
    folder = args.output_directory
    spec, drawn = planned(args.spec, folder)
    values, parser = drawn or draw(spec), module_of(spec['command']).build_parser()
    parser.exit_on_error = False    # its errors become those of the spec
    runs = [run_of(args, spec, parser, number, len(values), value) for number, value in enumerate(values)]
    rungs = rungs_of(args, spec, parser, runs[0]) if args.halving else []
    if drawn is None and not args.list:
        write_plan(folder, spec, values)
    if args.slurm:
        write_script(args.slurm, args.spec, folder, len(runs), args.jobs, args.num_threads)
        say(f'written: {args.slurm}; submit it with: sbatch {quote(args.slurm)}')
        return 0
    if args.only is not None:
        return become(args, runs)

    for run in runs:
        run.status = status_of(folder, run.name)
    going, stopped_by = [], None
    if not args.list:
        before = f'; {ended} have ended before' if (ended := sum(run.ended for run in runs)) else ''
        with claimed(folder / PLAN, 'wait until that sweep has ended, or stop it'), stop_signals() as stop:
            refuse_alive(folder, runs)
            say(f'{len(runs)} runs of imagernn {spec["command"]}, {num_workers} at a time{before}\n'
                f'watch them: {command("monitor")} {quote(str(folder))}')
            going = train_all(runs, rungs, args.halving, trainer_of(args, executor, num_workers, stop), stop)
            stopped_by = stop.signal
    for line in report(folder, spec['command'], runs, args.num_threads, args.json):
        say(line)
    if left := [run.name for run in going if not run.ended]:
        start = MPIRUN.format(num_workers + 1) if args.executor == 'mpi' else command('sweep')
        say(f'{len(left)} runs have not ended: {", ".join(left)}\nto go on: {start} {join(argv)}')
    return 128 + stopped_by if stopped_by else int(bool(left))


def refuse_alive(folder, runs):
    """Raise InputError if a run is alive: those of a sweep that was killed alone live on, and keep their names."""
    if alive := [f'{run.name} ({owner})' for run in runs if not run.ended and (owner := owner_of(folder, run.name))]:
        raise InputError(f'{folder}: these runs are still alive: {", ".join(alive)}; wait until they have ended, or '
                         'stop them')


def run_of(args, spec, parser, number, num_runs, values):
    """The SweepRun of this number. InputError where the trainer's parser does not take its values."""
    folder = args.output_directory
    name = f'{Path(args.spec).stem}-{number:0{len(str(num_runs - 1))}}'
    flags = {**spec['flags'], **values}
    arguments = arguments_of(args.spec, spec['command'], parser, flags)
    own = [f'--fappend={name}', f'--checkpoint_output_directory={folder}', f'--worker_status_output_directory={folder}']
    if parser.get_default('output_directory') is not None:    # for the weights and plots of a convolutional network
        own.append(f'--output_directory={folder / name}')
    argv = [sys.executable, '-m', 'imagernn', spec['command'], *arguments, f'--num_threads={args.num_threads}',
            *own, '--resume=auto']
    varying = {first: values[first] for first, *_ in map(names_in, spec['values'])}
    return SweepRun(name, varying, flags, arguments, argv)


def rungs_of(args, spec, parser, run):
    """The epochs at which halving compares runs, in their order. InputError where no evaluation is due at one."""
    if found := {'max_epochs', 'eval_period'} & run.flags.keys() - spec['flags'].keys():
        raise InputError(f'{args.spec}: varies {min(found)}, and halving compares runs at the same epochs; move it to '
                         '"flags", or leave --halving out')
    params = vars(parser.parse_known_args(run.arguments)[0])
    if 'max_epochs' not in params:    # its default is that of the data
        raise InputError(f'{args.spec}: has no max_epochs in "flags", and halving needs it; add it')
    rungs, period = [], params['eval_period']
    while (rung := args.min_epochs * args.halving ** len(rungs)) < params['max_epochs']:
        rungs.append(rung)
    if not rungs:
        raise InputError(f'--min_epochs {args.min_epochs:g}: must be below max_epochs, {params["max_epochs"]:g}')
    if wrong := [rung for rung in rungs if not math.isclose(rung / period, round(rung / period) or 1)]:
        raise InputError(f'--min_epochs {args.min_epochs:g}: halving compares runs at epoch {wrong[0]:g}, which is no '
                         f'multiple of eval_period, {period:g}; change one of them')
    return rungs


def trainer_of(args, executor, num_workers, stop):
    """train_until of sweep.runs.train_all: with this executor, and a line on each run as it returns."""
    task = train_in_rank if args.executor == 'mpi' else functools.partial(train, stop)

    def train_until(runs, epoch):
        def submit(run):
            return executor.submit(task, run.name, run.argv, args.output_directory, epoch)

        for run in in_turn(submit, num_workers, runs, stop):
            say(line_of(run))

    return train_until


def become(args, runs):
    """Run one of the runs in place of this process, with its log; if it has ended before, print its line."""
    if args.only >= len(runs):
        raise InputError(f'--only {args.only}: the runs are 0 to {len(runs) - 1}')
    run = runs[args.only]
    run.status = status_of(args.output_directory, run.name)
    say(line_of(run))
    if run.ended:
        return 0
    with (args.output_directory / f'{run.name}.log').open('ab') as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        os.execv(run.argv[0], run.argv)


if __name__ == '__main__':
    sys.exit(main())

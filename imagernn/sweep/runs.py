"""The runs of a sweep: each is trained in a process of its own, and known by its status file.

Knows how many run at a time, how a signal stops them, and successive halving. Knows nothing of what they train.
"""

import dataclasses
import os
import signal
import subprocess
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import suppress
from pathlib import Path

from imagernn.errors import InputError
from imagernn.formats.json_files import contents_of
from imagernn.formats.writing import claimed
from imagernn.runs.signals import stop_signals
from imagernn.runs.terminal import say
from imagernn.web.status_folder import SUFFIX, parse_status

MPI_VARIABLES = ('OMPI_', 'PMIX_', 'PMI_', 'PRTE_')    # with these, a process believes that mpirun started it
POLL_SECONDS = .2
SAME_EPOCH = 1e-9    # epochs that differ by less are the same


@dataclasses.dataclass
class SweepRun:
    """A run, as far as it has got."""

    name: str                      # its --fappend
    values: dict                   # the flags that vary; of several that have the same value, the first one
    flags: dict                    # all that the spec gives
    arguments: list                # the same as the trainer takes them
    argv: list                     # the command line that starts or resumes it
    status: dict | None = None     # what status_folder.parse_status makes of its status file; None without one
    problem: str | None = None     # why its process failed

    @property
    def ended(self):
        """Whether nothing is left to do: it has finished, or was aborted for a reason that will not pass."""
        return has_ended(self.status)

    @property
    def best(self):
        """Its best score on val, or None."""
        return self.status and self.status['best_val']

    def score_at(self, epoch):
        """The score of its last evaluation at or before an epoch, or None."""
        points = self.status['points'] if self.status else {'epoch': [], 'val': []}
        return next((val for at, val in zip(points['epoch'][::-1], points['val'][::-1], strict=True)
                     if val is not None and at is not None and at <= epoch + SAME_EPOCH), None)

    def ending(self):
        """How it ended, or how far it is."""
        if self.problem:
            return f'failed: {self.problem}'
        if self.status is None:
            return 'not started'
        state = self.status['state']
        if state == 'finished':
            return state
        epoch = self.status['epoch']
        place = f'{state} before the first report' if epoch is None else f'{state} at epoch {epoch:.4g}'
        return f'{place}: {self.status["reason"]}' if self.ended else place


def has_ended(status):
    """Whether a run has finished or was aborted. One that was killed may have diverged by then, and says no reason."""
    return bool(status) and (status['state'] == 'finished'
                             or status['state'] in ('aborted', 'diverged') and status['reason'] is not None)


def has_reached(status, epoch):
    """Whether a run has reported on this epoch or a later one, so that the scores up to it are known."""
    return bool(status and status['epoch'] is not None and status['epoch'] >= epoch - SAME_EPOCH)


def status_of(folder, name):
    """What the status file of the run of this name says, the newest one if several hosts wrote one; None without one.

    A file that cannot be read is none: the run that resumes writes it again.
    """
    try:
        paths = [path for path in Path(folder).iterdir() if path.name.endswith(f'_{name}{SUFFIX}')]
        path = max(paths, key=lambda path: path.stat().st_mtime_ns, default=None)
        return path and parse_status(contents_of(path))
    except (InputError, OSError):
        return None


def owner_of(folder, name):
    """The process that trains the run of this name, as its lock names it, or None if none is alive."""
    for lock in Path(folder).iterdir():
        if lock.name.endswith(f'_{name}{SUFFIX}.lock'):
            try:
                with claimed(lock.with_name(lock.name[1:].removesuffix('.lock')), ''):
                    pass
            except InputError:    # or the lock is another user's
                owner = ''
                with suppress(OSError):
                    owner = lock.read_text(encoding='utf-8', errors='replace')[:200].strip()
                return owner or 'an unknown process'
    return None


def train(stop, name, argv, folder, until):
    """Train a run in a process of its own until it ends, or has reported on the epoch until, or stop.signal is set.

    until: None for the end. Returns the run's status; and why its process failed, or None. What it prints is appended
    to NAME.log in the folder.
    """
    environment = {variable: value for variable, value in os.environ.items() if not variable.startswith(MPI_VARIABLES)}
    log, told = Path(folder, f'{name}.log'), False
    try:
        with log.open('ab') as file:
            start = file.tell()
            # in a session of its own: else Ctrl-C in the terminal reaches it, too, and a second signal kills it
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment,
                                       start_new_session=True)
    except OSError as error:
        return status_of(folder, name), f'cannot be started: {error}'
    while True:
        try:
            code = process.wait(POLL_SECONDS)
            break
        except subprocess.TimeoutExpired:
            if not told and (stop.signal or until is not None and has_reached(status_of(folder, name), until)):
                process.terminate()    # it saves, and ends with exit code 143
                told = True
    status = status_of(folder, name)
    stopped = code > 128 or code < 0 and told    # below 0: before the first step
    return status, None if code == 0 or stopped or has_ended(status) else why_failed(code, log, start)


def train_in_rank(*arguments):
    """train, in a process of an MPI job, which gets the signals itself."""
    with stop_signals() as stop:
        return train(stop, *arguments)


def prepare_rank():
    """What each process of an MPI job calls first: SIGUSR1, which mpirun hands on, does not end one that is idle."""
    if hasattr(signal, 'SIGUSR1'):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def why_failed(code, log, start):
    """The last error, or else the last line, that a process printed before it ended with this exit code.

    start: where in the log it began. Another process of this name may print lines there, too.
    """
    lines = log.read_bytes()[start:][-10_000:].decode(errors='replace').split('\n')
    lines = [line.strip() for line in lines if line.strip()] or ['it printed nothing']
    last = next((line for line in reversed(lines) if line.startswith('error: ')), lines[-1])
    return f'exit code {code}, {last.removeprefix("error: ")} ({log})'


def in_turn(submit, num_workers, runs, stop):
    """Have runs trained, num_workers at a time, and yield each when its training returns. A signal lets no more begin.

    submit(run) -> a Future of what train returns.
    """
    waiting, working = list(runs), {}
    while working or waiting and not stop.signal:
        while waiting and len(working) < num_workers and not stop.signal:
            run = waiting.pop(0)
            working[submit(run)] = run
        for future in wait(working, return_when=FIRST_COMPLETED).done:
            run = working.pop(future)
            run.status, run.problem = future.result()
            yield run


def ranked(runs, score_of):
    """Runs from the best score_of(run) to the worst; those where it is None come last."""
    def key(run):
        score = score_of(run)
        if score is None:
            return True, 0.
        return False, -score if run.status['score']['higher_is_better'] else score

    return sorted(runs, key=key)


def promoted(runs, rung, factor):
    """The runs that go on from a rung of successive halving: the best 1/factor by their scores up to its epoch.

    What a run did beyond that epoch does not count.
    """
    reached = [run for run in runs if has_reached(run.status, rung) and run.score_at(rung) is not None]
    return ranked(reached, lambda run: run.score_at(rung))[:max(1, len(runs) // factor)]


def train_all(runs, rungs, factor, train_until, stop):
    """Train runs to the end; with rungs, by successive halving (Jamieson & Talwalkar 2016).

    rungs: the epochs at which runs are compared, and the best 1/factor go on. train_until(runs, epoch): trains these
    runs, to the end if epoch is None. Returns those that were to be trained to the end; all if a signal came before, or
    a run failed, which cannot be compared.
    """
    going = runs
    for rung in rungs:
        if len(going) > 1:
            train_until([run for run in going if not run.ended and not has_reached(run.status, rung)], rung)
            if stop.signal or not all(run.ended or has_reached(run.status, rung) for run in going):
                return runs
            going, before = promoted(going, rung, factor), len(going)
            say(f'epoch {rung:g}: the best {len(going)} of {before} go on')
    train_until([run for run in going if not run.ended], None)
    return going

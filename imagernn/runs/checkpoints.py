"""The checkpoint files of a training run: which to resume from, when one is due, what becomes of one that cannot be
written.

Knows when and where a RunState is saved, not how it is trained.
"""

import re
import socket
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from imagernn.errors import InputError, shown
from imagernn.formats.writing import claimed, remove_leftovers, require_writable
from imagernn.runs.checkpoint_file import checkpoint_bytes, write_checkpoint
from imagernn.runs.flags import checkpoint_period
from imagernn.runs.names import checkpoint_names, checkpoint_path, checkpoint_stem, host_in, run_host
from imagernn.runs.terminal import warn

RETRY_SECONDS = 60    # after this a checkpoint that could not be written is tried again
LAST_TRIES = 10       # as often at the end of a run, where nothing comes after


def newest_resumable(params, load):
    """(path, checkpoint) of the newest checkpoint of this name that a run can resume from, or ('', None).

    load(path) gives a checkpoint that was checked, or raises InputError. Where there is none with this host's name, the
    newest of another host's run is taken, unless that run is alive: a container that is started again has another name.
    Checkpoints that are passed over are reported, those of another user among them. An InputError of any other one that
    cannot be read at all is raised, because it may be valid.
    """
    by_host = {}    # host -> the paths of its checkpoints of this data set and --fappend
    with suppress(FileNotFoundError):
        for path in Path(params['checkpoint_output_directory']).iterdir():
            if host := host_in(path.name, params):
                by_host.setdefault(host, []).append(path)
    newest_first = sorted(by_host, key=lambda host: max(map(_time, by_host[host])), reverse=True)
    own = socket.gethostname()
    for host in sorted(newest_first, key=lambda host: host != own):
        stem = checkpoint_stem(params, host)
        if host != own and _is_alive(stem):
            continue
        path, checkpoint = _furthest(by_host[host], stem.with_name(f'{stem.name}_last.h5'), load, host == own)
        if checkpoint and (host == own or _is_of(checkpoint, params)):
            others = f'; {own} has no checkpoint of this name' if host != own else ''
            print(f'--resume auto: resumes from {path}, iteration {checkpoint["it"]}{others}')
            return str(path), checkpoint
    print(f'--resume auto: there is no checkpoint to resume from, {checkpoint_path(params, "…")}; a new run starts')
    return '', None


def _time(path):
    return path.stat().st_mtime_ns


def _is_of(checkpoint, params):
    """Whether a checkpoint is of this data set and --fappend: the name of another run may read like one of these."""
    saved = checkpoint['params']
    return (Path(str(saved.get('dataset'))).name == Path(params['dataset']).name
            and saved.get('fappend') == params['fappend'])


def _is_alive(stem):
    """Whether the run whose checkpoints begin with this stem is alive, which is then reported."""
    try:
        with claimed(stem, 'it is not resumed here'):
            return False
    except InputError as error:    # or its lock is another user's
        print(f'--resume auto: skipped {shown(str(error))}', file=sys.stderr)
        return True


def _furthest(paths, last, load, own):
    """(path, checkpoint) of the newest of one run's checkpoints that can be resumed from, or (None, None).

    Where that is a best one, but the last one is further on, as after a clock was set back, it is the last one. own:
    whether the run is this host's, so that a checkpoint which may not be read is not passed over.
    """
    found = []
    # of two that were written within the same tick of the clock, 'last' is the later one
    for path in sorted(paths, key=lambda path: (_time(path), path == last), reverse=True):
        if found and path != last:
            continue
        try:
            checkpoint = load(path)
        except InputError as error:
            cause = error.__cause__
            if isinstance(cause, (OSError, MemoryError)) and (own or not isinstance(cause, PermissionError)):
                raise
            print(f'--resume auto: skipped {shown(str(error))}', file=sys.stderr)
            continue
        if not found or _continues(checkpoint, found[0][1]):
            found = [(path, checkpoint)]
    return found[0] if found else (None, None)


def _continues(later, earlier):
    """Whether one checkpoint is of the same run as the other, and further on."""
    reports = earlier.get('history') or []
    return later['it'] > earlier['it'] and (later.get('history') or [])[:len(reports)] == reports


@contextmanager
def claimed_names(params, status_path):
    """While the with-block runs, no other run has these names. Removes what a run of these names left half-written."""
    advice = 'give this run another --fappend, or end that one first'
    with claimed(checkpoint_stem(params), advice), claimed(status_path, advice):
        remove_leftovers(params['checkpoint_output_directory'], checkpoint_names(params))
        remove_leftovers(status_path.parent, re.escape(status_path.name))
        yield


class Checkpoints:
    """Saves a run's last checkpoint and its best ones. InputError, at once, where they cannot be written.

    Later on, one that cannot be written costs a warning: it is tried again after RETRY_SECONDS, and until then a best
    one stays in memory.
    """

    def __init__(self, params, state):
        self._params = params
        self._iterations, self._seconds = checkpoint_period(params['checkpoint_every'])
        self._saved_at, self._failed_at = time.monotonic(), None
        self.written = False    # whether this process has written any
        self._best = None       # the path and the bytes of a best one that is not on the disk yet
        self.last_path = checkpoint_path(params, 'last')
        if (host := run_host(params)) != socket.gethostname():
            print(f'note: this run began on {host}; its files keep that name', file=sys.stderr)
        self._find_best(state)
        resumes_last = bool(params['resume']) and self.last_path.exists() and self.last_path.samefile(params['resume'])
        # a run that resumes from a best one, and is killed before it writes the last one, has saved nothing yet
        self._saved = self._moment(state) if resumes_last or not params['resume'] else None
        if self.last_path.exists() and not resumes_last:
            print(f'note: {self.last_path} of an earlier run will be replaced', file=sys.stderr)
        require_writable(self.last_path)

    def _find_best(self, state):
        """Correct where the best checkpoint is, in state, of a run whose folder was moved, or is seen from another."""
        best = Path(state.best_checkpoint or '')
        moved = self.last_path.parent / best.name
        if best.name and not best.is_file() and moved.is_file():
            state.best_checkpoint = str(moved)

    def counted(self, it):
        """Whether --checkpoint_every, given in iterations, wants one at this iteration, whatever the clock says."""
        return self._iterations is not None and it % self._iterations == 0

    def due(self):
        """Whether the clock wants the last checkpoint: by --checkpoint_every, or because it failed a while ago."""
        if self._failed_at is not None:
            return time.monotonic() - self._failed_at >= RETRY_SECONDS
        return self._seconds is not None and time.monotonic() - self._saved_at >= self._seconds

    def put_off(self, reason):
        """Report why nothing is saved. The last checkpoint stays; a new one is due again after RETRY_SECONDS."""
        self._failed_at = time.monotonic()
        warn(f'not saved, the last checkpoint stays: {reason}')

    def unsaved(self, state):
        """Whether there is anything that is not on the disk."""
        return self._best is not None or self._moment(state) != self._saved

    @staticmethod
    def _moment(state):
        return state.it, state.rollbacks

    def save(self, state, solver, rng, is_best=False):
        """The last checkpoint and, if is_best, one named by its score. Returns whether they are on the disk."""
        if is_best:
            state.best_checkpoint = str(checkpoint_path(self._params, state.score.in_file_name(state.val)))
        try:
            contents = checkpoint_bytes({**state.entries(), 'params': self._params, 'solver': solver.state_dict(),
                                         'rng_state': rng.bit_generator.state})
            if is_best:
                self._best = state.best_checkpoint, contents
            self._save_best()
            write_checkpoint(self.last_path, contents)
        except (InputError, MemoryError) as error:
            self.put_off(f'iteration {state.it}, {error}; it is tried again in {RETRY_SECONDS} s')
            return False
        self._saved, self._saved_at, self._failed_at = self._moment(state), time.monotonic(), None
        self.written = True
        return True

    def _save_best(self):
        if self._best:
            write_checkpoint(*self._best)
            self._best = None

    def save_best_at_the_end(self, state):
        """The best checkpoint, where it could not be written before, of a run that has diverged since."""
        try:
            self._save_best()
        except InputError as error:
            state.best_checkpoint = None
            warn(f'the best checkpoint is lost: {error}')

    def save_at_the_end(self, state, solver, rng, stop):
        """save; where that fails, LAST_TRIES times, unless stop.signal asks to leave. Returns what save does."""
        for _ in range(LAST_TRIES):
            if self.save(state, solver, rng):
                return True
            tried = time.monotonic()
            while time.monotonic() - tried < RETRY_SECONDS:
                if stop.signal:
                    return False
                time.sleep(min(1, RETRY_SECONDS))
        return False


class NoCheckpoints:
    """What stands for Checkpoints where another process saves them: it says the same of each iteration."""

    written = False

    def __init__(self, params, state):
        self._iterations, _ = checkpoint_period(params['checkpoint_every'])
        self.last_path = checkpoint_path(params, 'last')

    counted = Checkpoints.counted

    def due(self):
        return False

    def put_off(self, reason):
        pass

    def unsaved(self, state):
        return True

    def save(self, state, solver, rng, is_best=False):
        return True

    def save_best_at_the_end(self, state):
        pass

    def save_at_the_end(self, state, solver, rng, stop):
        return True

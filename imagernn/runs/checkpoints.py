"""The checkpoint files of a training run: their names, whose they are, which one to go on from, when one is due, and
what becomes of one that cannot be written.

A run is the dict that a checkpoint holds; how it is trained is not known here.
"""

import re
import socket
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

from imagernn.captioning.load import load_captioner
from imagernn.errors import InputError
from imagernn.formats.writing import claimed, remove_leftovers, require_writable
from imagernn.runs.checkpoint_file import checkpoint_bytes, write_checkpoint
from imagernn.runs.flags import checkpoint_period, require_resumable

RETRY_SECONDS = 60    # after this a checkpoint that could not be written is tried again
LAST_TRIES = 10       # as often at the end of a run, where nothing comes after


def checkpoint_path(params, which):
    """The file of a run: which is 'last', or for a best one its perplexity."""
    return _stem(params).with_name(f'{_stem(params).name}_{which}.h5')


def _stem(params):
    name = f'model_checkpoint_{Path(params["dataset"]).name}_{socket.gethostname()}_{params["fappend"]}'
    return Path(params['checkpoint_output_directory']) / name


def _names(params):
    """A pattern of all names that checkpoint_path gives: other runs' names may begin alike."""
    return re.escape(_stem(params).name) + r'_(last|[0-9]+\.[0-9]{2}|inf)\.h5'


def newest_sound(params):
    """(path, checkpoint) of the newest checkpoint of this name that a run can go on from, or ('', None).

    Those passed over are said. InputError for one that cannot be read at all: it may be sound. Where the newest is a
    best one, but the last one goes on from there, as after a clock was set back, it is the last one.
    """
    last, sound = checkpoint_path(params, 'last'), []
    paths = []
    with suppress(FileNotFoundError):
        paths = [path for path in Path(params['checkpoint_output_directory']).iterdir()
                 if re.fullmatch(_names(params), path.name)]
    # written within the same tick of the clock, 'last' is the later one
    for path in sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path == last), reverse=True):
        if sound and path != last:
            continue
        try:
            checkpoint = load_captioner(path)
            require_resumable(path, checkpoint)
            if not sound or _goes_on_from(checkpoint, sound[0][1]):
                sound = [(path, checkpoint)]
        except InputError as error:
            if isinstance(error.__cause__, OSError):
                raise
            print(f'--resume auto: passed over {error}', file=sys.stderr)
    for path, checkpoint in sound:
        print(f'--resume auto: goes on from {path}, iteration {checkpoint["it"]}')
        return str(path), checkpoint
    print(f'--resume auto: no checkpoint to go on from, {checkpoint_path(params, "…")}; the run starts anew')
    return '', None


def _goes_on_from(later, earlier):
    """Whether one checkpoint is of the same run as the other, and further on."""
    reports = earlier.get('history') or []
    return later['it'] > earlier['it'] and (later.get('history') or [])[:len(reports)] == reports


@contextmanager
def claimed_names(params, status_path):
    """For the time of the with-block no other run has these names; what a run of these names left half-written goes."""
    way_out = 'give this run another --fappend, or end that one first'
    with claimed(_stem(params), way_out), claimed(status_path, way_out):
        remove_leftovers(params['checkpoint_output_directory'], _names(params))
        remove_leftovers(status_path.parent, re.escape(status_path.name))
        yield


class Checkpoints:
    """Saves a run's last checkpoint and its best ones. InputError, at once, where they cannot be written.

    Later on, one that cannot be written costs a warning: it is tried again after RETRY_SECONDS, and until then a best
    one stays in memory.
    """

    def __init__(self, params, features, run):
        self._params = params
        self._features = {'file': params['features'] or features.path.name, 'dim': features.dim, **features.origin}
        self._iterations, self._seconds = checkpoint_period(params['checkpoint_every'])
        self._saved_at, self._failed_at = time.monotonic(), None
        self.written = False    # whether this process has written any
        self._best = None    # the path and the bytes of a best one that is not on the disk yet
        self.last_path = checkpoint_path(params, 'last')
        goes_on = bool(params['resume']) and self.last_path.exists() and self.last_path.samefile(params['resume'])
        # of a run that goes on from a best one, killed before it wrote the last one, nothing is saved yet
        self._saved = self._moment(run) if goes_on or not params['resume'] else None
        if self.last_path.exists() and not goes_on:
            print(f'note: {self.last_path} of an earlier run will be replaced', file=sys.stderr)
        require_writable(self.last_path)

    def counted(self, it):
        """Whether --checkpoint_every, given in iterations, wants one at this iteration, whatever the clock says."""
        return self._iterations is not None and it % self._iterations == 0

    def due(self):
        """Whether the clock wants the last checkpoint: by --checkpoint_every, or because it failed a while ago."""
        if self._failed_at is not None:
            return time.monotonic() - self._failed_at >= RETRY_SECONDS
        return self._seconds is not None and time.monotonic() - self._saved_at >= self._seconds

    def put_off(self, reason):
        """Not saved for this reason: the last one stays, and is due again after RETRY_SECONDS."""
        self._failed_at = time.monotonic()
        warn(f'not saved, the last checkpoint stays: {reason}')

    def unsaved(self, run):
        """Whether there is anything that is not on the disk."""
        return self._best is not None or self._moment(run) != self._saved

    @staticmethod
    def _moment(run):
        return run['it'], run['rollbacks']

    def save(self, run, solver, rng, is_best=False):
        """The last checkpoint and, if is_best, one named by its perplexity. Returns whether they are on the disk."""
        if is_best:
            run['best_checkpoint'] = str(checkpoint_path(self._params, f'{run["val_ppl2"]:.2f}'))
        good = run['good'] if run['good'] and run['good']['it'] != run['it'] else None    # else this is it
        try:
            contents = checkpoint_bytes({
                **run, 'good': good, 'params': self._params, 'solver': solver.state_dict(),
                'rng_state': rng.bit_generator.state, 'features': self._features, 'perplexity': run['val_ppl2']})
            if is_best:
                self._best = run['best_checkpoint'], contents
            self._save_best()
            write_checkpoint(self.last_path, contents)
        except (InputError, MemoryError) as error:
            self.put_off(f'iteration {run["it"]}, {error}; it is tried again in {RETRY_SECONDS} s')
            return False
        self._saved, self._saved_at, self._failed_at = self._moment(run), time.monotonic(), None
        self.written = True
        return True

    def _save_best(self):
        if self._best:
            write_checkpoint(*self._best)
            self._best = None

    def save_best_at_the_end(self, run):
        """The best checkpoint, where it could not be written before, of a run whose last state is no good."""
        try:
            self._save_best()
        except InputError as error:
            run['best_checkpoint'] = None
            warn(f'the best checkpoint is lost: {error}')

    def save_at_the_end(self, run, solver, rng, stop):
        """save; where that fails, LAST_TRIES times, unless stop.signal asks to leave. Returns what save does."""
        for _ in range(LAST_TRIES):
            if self.save(run, solver, rng):
                return True
            tried = time.monotonic()
            while time.monotonic() - tried < RETRY_SECONDS:
                if stop.signal:
                    return False
                time.sleep(min(1, RETRY_SECONDS))
        return False


def warn(text):
    """A line on stderr. A terminal that is gone does not cost the run."""
    with suppress(OSError):
        tqdm.write(f'warning: {text}', file=sys.stderr)

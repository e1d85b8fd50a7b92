"""The status file of a training run, which the monitor reads: its flags, its state and the history of its reports."""

import datetime
import time

from imagernn.errors import InputError
from imagernn.formats.json_files import write_json
from imagernn.formats.writing import require_writable
from imagernn.runs.terminal import warn

REPORT_SECONDS = 60    # between two reports where no evaluation comes first
SHARE = .01            # of the running time that writing the file may take


class NoStatusFile:
    """What stands for a StatusFile where another process writes it, and reports evaluations alone."""

    def __init__(self, params, score, path):
        pass

    def report_is_due(self):
        return False

    def add_to_history(self, state, report):
        pass

    def write(self, state, name='running', reason=None):
        pass


class StatusFile:
    """The file at status_path(params). InputError, before the first step, where it cannot be written.

    It is JSON: params; state, one of running, finished, stopped and aborted; reason, of the last two; score, the name
    of the validation score, its keys in history and whether higher is better; and history, a list of reports. A report
    whose evaluated is not true repeats the validation score of an earlier one; one with a sample has a text that the
    model wrote.
    """

    def __init__(self, params, score, path):
        self._params, self._score, self.path = params, score, path
        self._reported_at = time.monotonic()
        self._next_write = 0.
        require_writable(path)

    def report_is_due(self):
        """Whether the last report was made REPORT_SECONDS ago."""
        return time.monotonic() - self._reported_at > REPORT_SECONDS

    def add_to_history(self, state, report):
        """Append a report on the last batch, with the scores of state, to state's history."""
        self._reported_at = time.monotonic()
        state.history.append({'time': datetime.datetime.now().isoformat(), **report, **state.scores()})

    def write(self, state, name='running', reason=None):
        """Write the file. One that cannot be written costs a warning, not the run.

        name: of the run's state. The file holds the whole history, so while the run goes on it is only written as often
        as takes no more than SHARE of the time.
        """
        started = time.monotonic()
        if name == 'running' and started < self._next_write:
            return
        score = {'name': self._score.name, 'val': f'val_{self._score.key}',
                 'train': f'smooth_train_{self._score.train_key}', 'higher_is_better': self._score.higher_is_better}
        try:
            write_json(self.path, {'params': self._params, 'state': name, 'reason': reason, 'score': score,
                                   'history': state.history})
        except InputError as error:
            warn(str(error))
        ended = time.monotonic()
        self._next_write = ended + (ended - started) / SHARE

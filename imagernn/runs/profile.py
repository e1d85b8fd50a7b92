"""Where the time of the training steps goes: how long each function of this package takes, in all threads.

Python calls a hook at each call and return of a function, so that nothing in the functions themselves changes.
"""

import sys
import threading
import time
from collections import Counter
from pathlib import Path

PACKAGE = str(Path(__file__).resolve().parents[1])
SHOWN = 16    # functions in the table


class Profile:
    """Seconds that the functions of the package take while a step is timed, without what they call of it in turn.

    What numpy or the standard library take counts for the function that called them. To be started before the threads
    that are to be watched.
    """

    def __init__(self):
        self._seconds, self._steps = Counter(), []
        self._lock, self._thread = threading.Lock(), threading.local()
        self._started = None    # when the step began that is being timed

    def start(self):
        """Watch this thread, and those that start later."""
        threading.setprofile(self._event)
        sys.setprofile(self._event)

    def stop(self):
        """Watch no more."""
        sys.setprofile(None)
        threading.setprofile(None)

    def begin_step(self):
        """A training step begins."""
        self._started = time.perf_counter()

    def end_step(self):
        """The step has ended. Returns its seconds."""
        seconds = time.perf_counter() - self._started
        self._started = None
        self._steps.append(seconds)
        return seconds

    def _event(self, frame, event, _):
        """Charge the time since this thread's last event to the function that was running."""
        if event not in ('call', 'return'):
            return
        now, thread = time.perf_counter(), self._thread
        if not hasattr(thread, 'running'):
            thread.running, thread.since = [], now
        if self._started is not None and thread.running and thread.running[-1]:
            with self._lock:
                self._seconds[thread.running[-1]] += now - max(thread.since, self._started)
        thread.since = now
        if event == 'call':
            thread.running.append(_name(frame.f_code) or (thread.running[-1] if thread.running else None))
        elif thread.running:
            thread.running.pop()

    @property
    def num_steps(self):
        return len(self._steps)

    def table(self):
        """The lines of the report: milliseconds a step of every function and their share; the peak of memory."""
        steps = max(1, len(self._steps))
        total = sum(self._seconds.values()) or 1
        lines = [f'{len(self._steps)} steps, {1e3 * sum(self._steps) / steps:.2f} ms each; of which, all threads '
                 'added up:', f'{"function":44}{"ms":>10}{"share":>8}']
        lines += [f'{name:44}{1e3 * seconds / steps:10.2f}{seconds / total:8.1%}'
                  for name, seconds in self._seconds.most_common(SHOWN)]
        memory = peak_memory()
        return '\n'.join(lines + ([f'peak memory {memory / 2 ** 20:.0f} MiB'] if memory else []))


def _name(code):
    """nn.lstm.forward of a function of this package, None of any other."""
    if not code.co_filename.startswith(PACKAGE):
        return None
    module = code.co_filename[len(PACKAGE) + 1:].removesuffix('.py').replace('/', '.').replace('\\', '.')
    return f'{module}.{getattr(code, "co_qualname", code.co_name)}'


def peak_memory():
    """The largest memory that this process has had, in bytes; None where the system does not say (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)

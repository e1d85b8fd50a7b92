"""Ctrl-C and other signals that ask a run to stop: it finishes its step and saves first."""

import os
import signal
from contextlib import contextmanager, suppress


class Stop:
    """signal: the number of the signal that asked the run to stop, or None."""

    signal = None


@contextmanager
def stop_signals():
    """While the with-block runs, Ctrl-C, SIGTERM, SIGUSR1 or the end of the terminal set the signal of the Stop that it
    gives. mpirun hands SIGUSR1 on to its processes; the others it takes as a reason to end them within a second.

    A second signal ends the process at once. Afterwards the handlers are as they were before.
    """
    stop, numbers = Stop(), [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, 'SIGUSR1'):
        numbers.append(signal.SIGUSR1)
    if hasattr(signal, 'SIGHUP') and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:    # as nohup sets it
        numbers.append(signal.SIGHUP)

    def note(number, frame):
        stop.signal = number
        for other in numbers:
            signal.signal(other, signal.SIG_DFL)
        with suppress(OSError):
            os.write(2, b'\nstopping after this step, saving first; press Ctrl-C once more to leave at once\n')

    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""The commands that serve a page until Ctrl-C, as their tests run them."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
MOST_SECONDS = 60


@contextmanager
def running(*command, cwd):
    """The Popen of python COMMAND in cwd, which has the checkout's modules. It is ended with the with-block, or before.

    It hears Ctrl-C even where the tests do not: the background jobs of a shell script ignore it, and so do theirs.
    """
    environment = {**os.environ, 'PYTHONPATH': str(REPOSITORY)}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen([sys.executable, *command], cwd=cwd, env=environment, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    finally:
        signal.signal(signal.SIGINT, before)
    limit = threading.Timer(MOST_SECONDS, process.kill)
    limit.start()
    with process:
        try:
            yield process
        finally:
            limit.cancel()
            process.kill()

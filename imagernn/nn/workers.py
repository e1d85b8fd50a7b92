"""Threads that share work, and scratch memory for each. Knows nothing of models.

numpy releases the GIL while it computes, so as many threads compute at once as there are cores.
"""

from collections import deque
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import count
from queue import SimpleQueue
from threading import Event

from imagernn.nn.scratch import Scratch


class Workers:
    """num_threads threads; a single one is the calling thread itself. scratches: a Scratch for each thread."""

    def __init__(self, num_threads=1):
        self.scratches = [Scratch() for _ in range(num_threads)]
        self._free, self._leaving = SimpleQueue(), Event()
        for scratch in self.scratches:
            self._free.put(scratch)
        self._pool = ThreadPoolExecutor(num_threads) if num_threads > 1 else None

    def map(self, function, items):
        """Yield function(item) of each item, in order. It is lazy, and never far ahead of what is consumed.

        An exception of function is raised here. Then no further item is started, and those that were have ended.
        """
        if self._pool is None:
            yield from map(function, items)
            return
        pending = deque()
        try:
            for item in items:
                pending.append(self._pool.submit(function, item))
                if len(pending) > 2 * len(self.scratches):
                    yield pending[0].result()
                    pending.popleft()
            while pending:
                yield pending[0].result()
                pending.popleft()
        finally:
            self._leaving.set()
            for future in pending:
                future.cancel()
            wait(pending)
            self._leaving.clear()

    def run(self, function, items):
        """[function(item), …] of a list of items. The calling thread works, too.

        An exception of function is raised here. Then no further item is started, and those that were have ended.
        """
        results, turns, errors = [None] * len(items), count(), []

        def take_turns():
            try:
                while (turn := next(turns)) < len(items) and not errors:    # next: one thread at a time
                    results[turn] = function(items[turn])
            except BaseException as error:
                errors.append(error)
                self._leaving.set()

        others = [self._pool.submit(take_turns) for _ in range(min(len(self.scratches), len(items)) - 1)]
        take_turns()
        wait(others)
        self._leaving.clear()
        if errors:
            raise errors[0]
        return results

    def go_on(self):
        """To be called now and then by long functions: raises CancelledError if their result is no longer wanted."""
        if self._leaving.is_set():
            raise CancelledError

    @contextmanager
    def scratch(self):
        """A Scratch of its own for a thread, while the with-block runs."""
        borrowed = self._free.get()
        try:
            yield borrowed
        finally:
            self._free.put(borrowed)

"""Threads that share out work, and scratch memory for each. Knows nothing of models.

numpy lets go of the interpreter while it computes, so that as many threads compute at once as there are cores.
"""

from collections import deque
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import count
from queue import SimpleQueue
from threading import Event

from imagernn.nn.scratch import Scratch


class Workers:
    """num_threads threads; one alone is the thread that asks. scratches: as many Scratch as threads."""

    def __init__(self, num_threads=1):
        self.scratches = [Scratch() for _ in range(num_threads)]
        self._free, self._leaving = SimpleQueue(), Event()
        for scratch in self.scratches:
            self._free.put(scratch)
        self._pool = ThreadPoolExecutor(num_threads) if num_threads > 1 else None

    def map(self, function, items):
        """function(item) of each, in the items' order; lazy, never far ahead of what is asked for.

        What a function raises is raised here, no more items are begun, and those begun have ended.
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
        """[function(item), …] of a list; the thread that asks takes its turn with the others.

        What a function raises is raised here, no more items are begun, and those begun have ended.
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
        """Long functions call it now and then: it raises CancelledError where nobody waits for them any more."""
        if self._leaving.is_set():
            raise CancelledError

    @contextmanager
    def scratch(self):
        """A Scratch for the time of a with-block in one of the threads."""
        borrowed = self._free.get()
        try:
            yield borrowed
        finally:
            self._free.put(borrowed)

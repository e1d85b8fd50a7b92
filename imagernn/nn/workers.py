"""Threads that share work, and scratch memory for each; under mpirun, processes that share it. Knows nothing of models.

numpy releases the GIL while it computes, so as many threads compute at once as there are cores.
"""

from collections import deque
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import count, islice
from queue import SimpleQueue
from threading import Event

from imagernn.nn.scratch import Scratch


class Alone:
    """What runs.ranks.Ranks are for a process that shares its work with no other one."""

    rank, size = 0, 1
    no_bars = None    # for tqdm's disable: a bar on a terminal alone

    def gather(self, values):
        return values

    def in_turn(self, own, stop=None):
        return own

    def add_up(self, flat, scratch):
        pass

    def first_signal(self, number):
        return number

    def from_first(self, function):
        return function()

    def on_all(self, function):
        return function()

    def require_same(self, what, value):
        pass


ALONE = Alone()


class Workers:
    """num_threads threads; a single one is the calling thread itself. scratches: a Scratch for each thread.

    ranks: the processes that share the work, each with so many threads. num_parts: the number of all their threads.
    """

    def __init__(self, num_threads=1, ranks=ALONE):
        self.ranks, self.num_parts = ranks, ranks.size * num_threads
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

    def share_of(self, parts):
        """This process's share of a sequence of at most num_parts parts: one for each of its threads."""
        first = self.ranks.rank * len(self.scratches)
        return parts[first:first + len(self.scratches)]

    def run_share(self, function, parts):
        """[function((part, scratch)), …] of this process's share of the parts."""
        return self.run(function, list(zip(self.share_of(parts), self.scratches, strict=False)))

    def map_shared(self, function, items, prepare=None):
        """As map, and the processes take turns: each computes a share, and all yield all results, in order.

        prepare(item): what function gets in place of an item of this process's share; the calling thread computes it.
        """
        items, size = iter(items), self.ranks.size
        if size == 1:
            yield from self.map(function, map(prepare, items) if prepare else items)
            return
        while some := list(islice(items, 2 * self.num_parts)):
            own = some[self.ranks.rank::size]
            of_ranks = self.ranks.gather([list(self.map(function, map(prepare, own) if prepare else own))])
            for turn in range(len(some)):
                yield of_ranks[turn % size][turn // size]

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

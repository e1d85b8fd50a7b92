"""The processes that mpirun started together, its ranks: what they add up, hand on and decide together.

All ranks run the same program with the same random numbers. Each computes its share of a batch or of a split
(nn.workers), and the first one alone writes files and speaks. Needs mpi4py, the extra [mpi], but only where there is
more than one rank.
"""

import functools
import hashlib
import os
import sys
import traceback
from contextlib import redirect_stderr
from itertools import islice

from imagernn.errors import ON_ERROR, InputError, install_command
from imagernn.nn.workers import ALONE

# what mpirun or srun tells its processes: their number (Open MPI; MPICH, Intel MPI, Slurm), or a rank (PMIx)
NUMBER_OF_RANKS, SOME_RANK = ('OMPI_COMM_WORLD_SIZE', 'PMI_SIZE'), 'PMIX_RANK'


@functools.cache
def world():
    """The Ranks of this mpirun; ALONE in a process that was started by itself. InputError where mpi4py is missing."""
    numbers = {os.environ.get(name, '') for name in NUMBER_OF_RANKS} - {''}
    if numbers <= {'1'} and (numbers or SOME_RANK not in os.environ):
        return ALONE
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:    # RuntimeError: there is no MPI library
        raise InputError(f'several processes were started together, and they cannot talk to each other ({error}); run: '
                         f'{install_command("mpi")}') from None
    if MPI.COMM_WORLD.size == 1:
        if numbers:    # mpirun of one MPI, mpi4py for another
            raise InputError(f'mpirun started {max(numbers)} processes, and mpi4py sees one: it was built for another '
                             f'MPI ({MPI.Get_library_version().split(",")[0]}); use the mpirun of that one')
        return ALONE
    return Ranks(MPI)


class Ranks:
    """The ranks of one mpirun. MPI: the module of mpi4py. See nn.workers.Alone for what a single process does."""

    def __init__(self, MPI):
        self._MPI, self._comm = MPI, MPI.COMM_WORLD
        self.rank, self.size = self._comm.rank, self._comm.size
        self.no_bars = True if self.rank else None
        ON_ERROR.append(self._end_all)
        sys.excepthook = self._show_and_end_all
        if self.rank:
            sys.stdout = open(os.devnull, 'w', encoding='utf-8')

    def _end_all(self, code):
        """End the other ranks, too: they would wait for this one for ever."""
        sys.stderr.flush()
        self._comm.Abort(code)

    def _show_and_end_all(self, kind, error, trace):
        traceback.print_exception(kind, error, trace)
        self._end_all(1)

    def gather(self, values):
        """The values of all ranks in one list, on all of them, those of the first rank first."""
        return [value for of_one in self._comm.allgather(list(values)) for value in of_one]

    def in_turn(self, own, stop=None):
        """Yield the items of all ranks on the first one, an item of each rank in turn; nothing on the others.

        own: this rank's items, every size-th of the whole. The ranks compute the next ones at the same time, each of
        them one ahead at most. Once the caller on the first rank takes no more, the others end, too. All end where
        stop.signal is set on any of them, and it is then set on all.
        """
        own = iter(own)
        if self.rank:
            some = list(islice(own, 1))
            while self._go_on(True, stop):
                self._comm.send(some, 0)
                some = list(islice(own, 1))
            return
        others, going = iter(()), True
        try:
            for item in own:
                if not (going := self._go_on(True, stop)):
                    return
                others = iter(range(1, self.size))
                yield item
                for rank in others:
                    yield from self._comm.recv(source=rank)
        finally:
            for rank in others:    # what they have sent already
                self._comm.recv(source=rank)
            if going:
                self._go_on(False, stop)

    def _go_on(self, more, stop):
        """Whether the first rank has more items, and no rank a signal to stop. All ranks call it at the same turn."""
        if stop:
            stop.signal = self.first_signal(stop.signal)
        return self._comm.bcast(more) and not (stop and stop.signal)

    def add_up(self, flat, scratch):
        """Replace an array (K,) by its sum over the ranks, the same bits on all of them.

        Each rank adds up one part of it for all, in the order of the ranks. So the bits depend on no timing, and the
        bytes that each sends and gets are those of a ring allreduce, 2 (size - 1) / size of the array's.
        """
        size = -(-len(flat) // self.size)    # of a part
        own, parts = flat, scratch('parts of the ranks', (self.size, size), flat.dtype)
        if own.size < parts.size:
            own = scratch('filled up', (parts.size,), flat.dtype)
            own[:len(flat)], own[len(flat):] = flat, 0
        self._comm.Alltoall(own, parts)
        total = parts[0]
        for part in parts[1:]:
            total += part
        self._comm.Allgather(total, own)
        if own is not flat:
            flat[:] = own[:len(flat)]

    def first_signal(self, number):
        """The largest number of a signal that any rank has got; None if none has."""
        return max(self._comm.allgather(number or 0)) or None

    def from_first(self, function):
        """What function() returns on the first rank, on all. Where it raises, the other ranks end with exit code 2."""
        found, ended = None, True
        try:
            if self.rank == 0:
                found, ended = function(), False
        finally:
            found, ended = self._comm.bcast((found, ended))
        if ended:
            sys.exit(2)
        return found

    def on_all(self, function):
        """What function() returns on this rank, as all call it. Its notes on stderr are those of the first one.

        Where it raises on the first rank, the others end with exit code 2, whether it raised there or not.
        """
        if self.rank == 0:
            kept = []
            self.from_first(lambda: kept.append(function()))
            return kept[0]
        error = None
        with open(os.devnull, 'w', encoding='utf-8') as nowhere, redirect_stderr(nowhere):
            try:
                found = function()
            except (Exception, SystemExit) as raised:
                error = raised
        self.from_first(None)
        if error:
            raise error
        return found

    def require_same(self, what, value):
        """InputError unless the value, which repr tells all about, is the same on all ranks."""
        digest = hashlib.blake2b(repr(value).encode(), digest_size=16).digest()
        found = self.gather([(self._MPI.Get_processor_name(), digest)])
        for rank, (host, other) in enumerate(found):
            if other != found[0][1]:
                raise InputError(f'the {what} of rank {rank}, on {host}, are not those of rank 0, on {found[0][0]}; '
                                 'give all hosts the same files and versions, as on a shared folder')

"""Every system call of a file's write, one by one: to be counted, to fail, or to be the process's last."""

import contextlib
import errno
import io
import os
import signal
from unittest import mock

from imagernn.formats import writing

ERRORS = ('ENOSPC', 'EIO', 'EROFS', 'EDQUOT', 'EACCES')
CALLS = ('lstat', 'stat', 'mkdir', 'open', 'fsync', 'close', 'chmod', 'replace', 'unlink')
CHUNK = 1 << 14


class Faults:
    """Counts the calls made while installed(); at number `at` calls act(name). lasting: at all later ones too."""

    def __init__(self, at=None, act=None, lasting=False):
        self.calls, self._at, self._act, self._lasting = [], at, act, lasting

    def call(self, name):
        number = len(self.calls)
        self.calls.append(name)
        if self._at is not None and (number == self._at or self._lasting and number > self._at):
            self._act(name)

    @contextlib.contextmanager
    def installed(self):
        """Meanwhile, the system calls by which files.py writes go through here first."""
        faults = self

        class File(io.FileIO):
            """Writes CHUNK bytes at a time, so that it can fail in between."""

            def write(self, data):
                faults.call('write')
                return super().write(memoryview(data).cast('B')[:CHUNK])

            def close(self):
                if not self.closed:
                    super().close()
                    faults.call('close')

        def open_file(path, mode):
            faults.call('open')
            return io.BufferedWriter(File(path, mode))

        def counted(name, function):
            def call(*args, **kwargs):
                faults.call(name)
                return function(*args, **kwargs)
            return call

        with contextlib.ExitStack() as patches:
            patches.enter_context(mock.patch.object(writing, 'open', open_file, create=True))
            for name in CALLS:
                patches.enter_context(mock.patch.object(os, name, counted(name, getattr(os, name))))
            yield


def fail_with(name):
    """An act: the call fails with this error."""
    def act(call):
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))
    return act


def kill(call):
    """An act: the process ends here, as by kill -9."""
    os.kill(os.getpid(), signal.SIGKILL)


def in_a_child(function):
    """Run function in a fork of this process. Returns its exit code, or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = function() or 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

"""For all tests: matrix products take one thread, as they do in the scripts; signals are what they were before."""

import signal

import pytest

import imagernn.nn.blas  # noqa: F401  before numpy


@pytest.fixture(autouse=True)
def signals():
    """The driver takes over Ctrl-C and others, and leaves them to end the process at once: give them back."""
    numbers = {getattr(signal, name, signal.SIGINT) for name in ('SIGINT', 'SIGTERM', 'SIGHUP', 'SIGUSR1')}
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)

"""Where a training step's time goes: the functions that its parts are, timed from outside, so that they stay plain."""

import sys
import threading
import time
from collections import Counter

from imagernn.captioning import model

# in the order of a step; a part of the batch is on a thread of its own from the encoders forward to the encoders back
ENCODERS, DECODER = 'encoders, dropout', 'decoder, softmax'
PARTS = {
    'deal': 'batch', 'draw_dropout': 'batch',
    'affine_forward': f'{ENCODERS}: forward', 'embedding_forward': f'{ENCODERS}: forward',
    'dropout_forward': f'{ENCODERS}: forward',
    'softmax_cost_forward': f'{DECODER}: forward', 'softmax_cost_backward': f'{DECODER}: backward',
    'dropout_backward': f'{ENCODERS}: backward', 'embedding_backward': f'{ENCODERS}: backward',
    'affine_parameters_backward': f'{ENCODERS}: backward',
    'cost_of': 'cost of the weights', 'add_up': 'adding up the gradients',
}
THREADED = (ENCODERS, DECODER, 'generator')


class Profile:
    """Seconds of each part of the training steps; of a part on several threads their mean.

    What is watched stays so until the program ends.
    """

    def __init__(self, num_threads):
        self._seconds, self._steps, self._lock = Counter(), [], threading.Lock()
        self._num_threads, self._in_step = num_threads, False

    def watch_steps(self, owner, name, at_first):
        """From now on, owner's function of that name is a step; at_first() is called when the first one is over."""
        step = getattr(owner, name)

        def timed(*args, **kwargs):
            self._in_step, start = True, time.perf_counter()
            try:
                return step(*args, **kwargs)
            finally:
                self._in_step = False
                self._steps.append(time.perf_counter() - start)
                if len(self._steps) == 1:
                    at_first()

        setattr(owner, name, timed)

    def watch(self, owner, name, part):
        """From now on, what owner's function of that name takes in a step counts as that part of it."""
        function = getattr(owner, name)

        def timed(*args, **kwargs):
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                if self._in_step:
                    with self._lock:
                        self._seconds[part] += time.perf_counter() - start

        setattr(owner, name, staticmethod(timed) if isinstance(owner, type) else timed)

    def watch_captioner(self, generator):
        """Watch all parts of cost_and_grads."""
        for name, part in PARTS.items():
            self.watch(model, name, part)
        for name in ('forward', 'backward'):
            self.watch(generator, name, f'generator: {name}')

    def table(self):
        """The lines of the report: milliseconds a step of every part, and their share; the peak of memory."""
        steps = max(1, len(self._steps))
        of_part = {part: seconds / steps / (self._num_threads if part.startswith(THREADED) else 1)
                   for part, seconds in self._seconds.items()}
        total = sum(self._steps) / steps
        of_part['waiting, all else'] = max(0., total - sum(of_part.values()))
        of_part['a step'] = total
        lines = [f'{"mean of " + str(len(self._steps)) + " steps":32}        ms   share']
        lines += [f'{part:32}{1e3 * seconds:10.2f}{seconds / (total or 1):8.1%}' for part, seconds in of_part.items()]
        memory = peak_memory()
        return '\n'.join(lines + ([f'peak memory {memory / 2 ** 20:.0f} MiB'] if memory else []))


def peak_memory():
    """The largest memory that this process has had, in bytes; None where the system does not say (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)

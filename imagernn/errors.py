"""The one exception for a user's mistake, and how a script turns it into exit code 2.

Knows nothing of images, words or models.
"""

import functools
import sys


class InputError(Exception):
    """A mistake in what the user gave: a file, a flag, a size.

    The message names the file or flag, the offending value, what was expected and the way out.
    """


def script(main):
    """Decorate a script's main(argv=None) -> int: an InputError becomes one line on stderr and exit code 2."""

    @functools.wraps(main)
    def guarded(argv=None):
        try:
            return main(argv)
        except InputError as error:
            print(f'error: {error}', file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print('interrupted', file=sys.stderr)
            return 130

    return guarded

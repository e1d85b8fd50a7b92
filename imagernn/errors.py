"""The one exception for a user's mistake, and how a script turns it into exit code 2.

Knows nothing of images, words or models.
"""

import functools
import os
import re
import sys


class InputError(Exception):
    """A mistake in what the user gave: a file, a flag, a size.

    The message names the file or flag, the offending value, what was expected and the way out.
    """


def shown(text):
    """Text from a file, for a terminal: control characters, which it would obey, as escapes."""
    return re.sub('[\x00-\x1f\x7f-\x9f]', lambda found: ascii(found[0])[1:-1], text)


def script(main):
    """Decorate a script's main(argv=None) -> int: a user's mistake becomes one line on stderr and exit code 2.

    So does a file that the operating system refuses, and memory that is not there. What the terminal cannot show is
    printed as an escape.
    """

    @functools.wraps(main)
    def guarded(argv=None):
        for name in ('stdout', 'stderr'):
            if getattr(sys, name) is None:    # closed; else the next file would get its number, and what is said there
                setattr(sys, name, open(os.devnull, 'w', encoding='utf-8'))
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, 'reconfigure'):
                stream.reconfigure(errors='backslashreplace')
        try:
            return main(argv)
        except BrokenPipeError:    # the reader of our output has left, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except InputError as error:
            message = str(error)
        except OSError as error:
            message = (f'{error.filename}: {error.strerror or error}; mend its name or permissions' if error.filename
                       else f'standard output, or a file, cannot be written: {error.strerror or error}')
        except MemoryError as error:
            message = f'not enough memory ({error}); use smaller sizes or batches'
        except KeyboardInterrupt:
            print('interrupted', file=sys.stderr)
            return 130
        print('error:', shown(' '.join(message.splitlines())), file=sys.stderr)
        return 2

    return guarded

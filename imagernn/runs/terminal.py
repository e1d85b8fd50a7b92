"""Lines on the terminal beside a progress bar. A terminal or reader that is gone does not end a run."""

import sys
from contextlib import suppress

from tqdm import tqdm

from imagernn.errors import shown
from imagernn.runs.ranks import world


def say(text):
    """Lines on stdout; control characters in them are shown as escapes."""
    with suppress(OSError):
        tqdm.write('\n'.join(map(shown, text.split('\n'))), file=sys.stdout)
        sys.stdout.flush()


def warn(text):
    """A line on stderr, of the first rank alone; control characters in it are shown as escapes."""
    if world().rank:
        return
    with suppress(OSError):
        tqdm.write(f'warning: {shown(text)}', file=sys.stderr)


def report(line, warnings):
    """A line on stdout, and warnings on stderr."""
    say(line)
    for warning in warnings:
        warn(warning)

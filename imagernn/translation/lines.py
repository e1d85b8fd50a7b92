"""Lines of text from files and from standard input, one sentence each, in UTF-8."""

import sys
from pathlib import Path

from imagernn.errors import InputError, unreadable

LONGEST_LINE = 10 ** 6    # in bytes


def lines_of_file(path):
    """The lines of a file without their ends, a list of str; - is standard input. InputError as of text_lines."""
    if path == '-':
        return list(text_lines(standard_input(), 'standard input'))
    if Path(path).is_dir():
        raise InputError(f'{path}: is a folder; name a text file')
    try:
        with open(path, 'rb') as file:
            return list(text_lines(file, path))
    except OSError as error:
        raise unreadable(path, error) from None


def standard_input():
    """The bytes of standard input, a file. InputError where it is closed."""
    if sys.stdin is None:
        raise InputError('standard input is closed; give it text, as in: < text.fr')
    return sys.stdin.buffer


def text_lines(file, name):
    """The lines of a binary file as they arrive, without their ends.

    InputError names a line that is not text, or longer than LONGEST_LINE.
    """
    for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b''), start=1):
        if len(line) > LONGEST_LINE:
            raise InputError(f'{name}: line {number} has more than 1 MB; expected a sentence on each line')
        try:
            text = line.decode('utf-8-sig' if number == 1 else 'utf-8')
        except UnicodeDecodeError:
            raise InputError(f'{name}: line {number} is not UTF-8; convert it first, with iconv for example') from None
        if '\0' in text:
            raise InputError(f'{name}: line {number} has a zero byte, as binary files do; expected plain text')
        yield text.rstrip('\r\n')

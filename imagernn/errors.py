"""The one exception for a user's mistake, how a script turns it into exit code 2, and what to type next.

Knows nothing of images, words or models.
"""

import errno
import functools
import os
import re
import signal
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
SCRIPTS = {    # subcommands of imagernn that are scripts: their files in a checkout
    'train': 'driver.py',
    'caption': 'predict_on_images.py',
    'evaluate': 'eval_sentence_predictions.py',
    'score': 'eval/score_captions.py',
    'prepare-coco': 'data/prepare_coco.py',
    'prepare-flickr': 'data/prepare_flickr.py',
    'pictures-from-words': 'data/pictures_from_words.py',
    'make-scenes': 'data/make_scenes.py',
}


CONNECT = 'connect its drive or network folder again, and change to the folder again'
CLOSE = 'close the program that uses it, or try again later'
ADVICE = {    # what to do about an error of the operating system while a file is read, and while it is written
    errno.ENOENT: ('check its name', 'name another place'),
    errno.EACCES: ('make it readable for this user', 'make the folder writable, or name another place'),
    errno.EPERM: ('make it readable for this user', 'make the folder writable, or name another place'),
    errno.EROFS: ('copy it to another file system', 'name a place on another file system'),
    errno.ENOSPC: ('free some disk space',) * 2,
    errno.EDQUOT: ('free some disk space',) * 2,
    errno.EFBIG: ('raise the limit on the size of files (ulimit -f), or name a place on another file system',) * 2,
    errno.EISDIR: ('name a file, not a folder',) * 2,
    errno.ENOTDIR: ('correct the path: a part of it is a file, not a folder',) * 2,
    errno.EEXIST: ('correct the path: a part of it is a file, not a folder',) * 2,
    errno.ELOOP: ('its links lead in a circle: name the file itself',) * 2,
    errno.EMFILE: ('close other programs, or raise the limit on open files (ulimit -n)',) * 2,
    errno.ENFILE: ('close other programs, or raise the limit on open files (ulimit -n)',) * 2,
    errno.ENOMEM: ('close other programs, raise the limit on memory (ulimit -v), or use smaller sizes or batches',) * 2,
    errno.EINVAL: ('check its name: the file system does not allow it',) * 2,
    errno.EILSEQ: ('check its name: the file system does not allow it',) * 2,
    errno.EIO: ('check the disk or the network, or use a copy elsewhere', 'check the disk or the network, or name '
                                                                          'another place'),
    **dict.fromkeys((errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN,
                     errno.EHOSTUNREACH), (CONNECT,) * 2),
    **dict.fromkeys((errno.EBUSY, errno.ETXTBSY, errno.EAGAIN, errno.EDEADLK, errno.ENOLCK), (CLOSE,) * 2),
}
MAY_BE_DAMAGE = {errno.EINVAL, errno.EFBIG, errno.EILSEQ}    # of addresses and names that a damaged file holds
OUTPUT_FLAG = r'-o|--(\w*output\w*|html|json|csv|export|coco_results|result_struct\w*|dump\w*)'    # to be written
LONGEST_NAME, LONGEST_PATH = 255, 4095    # in bytes, on common file systems
ON_ERROR = []    # functions of the exit code that script() calls where it does not return main's: see runs.ranks


class InputError(Exception):
    """A mistake in what the user gave: a file, a flag, a size.

    The message names the file or flag, the offending value, what was expected and what to do.
    """


class NotChecked(OSError):
    """That a file could not be checked, because of a limit or because the process that read it ended.

    This says nothing about what is in the file. advice: what to do about it.
    """

    def __init__(self, reason, advice):
        super().__init__(reason)
        self.advice = advice


def from_system(error):
    """Whether an exception is of the operating system or of a limit, and not one that a damaged file can cause."""
    return isinstance(error, NotChecked) or isinstance(error, OSError) and error.errno in ADVICE.keys() - MAY_BE_DAMAGE


def command(name):
    """What the user can type to run a subcommand of imagernn: for the hints in messages.

    command('train') is 'python driver.py' in the root of the checkout, 'imagernn train' where the console script was
    started, else 'python -m imagernn train'.
    """
    file = SCRIPTS.get(name)
    if file and os.path.exists(file) and Path(file).resolve() == PACKAGE.parent / file:
        return f'python {file}'
    started = Path(sys.argv[0])    # .../bin/imagernn; imagernn/__main__.py appends the subcommand to either
    by_console_script = started.name.partition(' ')[0] == 'imagernn' and started.parent.resolve() != PACKAGE
    return f'imagernn {name}' if by_console_script else f'python -m imagernn {name}'


def install_command(extra=''):
    """What the user can type to install an optional extra of setup.py, or what is always needed: for hints."""
    root, extra = PACKAGE.parent, f'[{extra}]' if extra else ''
    if not (root / 'setup.py').is_file():
        return f"pip install 'imagernn{extra}'"
    here = os.path.exists('setup.py') and Path.cwd() == root
    return f"pip install -e '{'.' if here else root}{extra}'"


def web_address(path):
    """A path as the web address that it is, for a message, or None. Path turns https://x/y into https:/x/y."""
    found = re.fullmatch(r'([A-Za-z][A-Za-z0-9+.-]+):/+(.+)', str(path), re.DOTALL)
    return f'{found[1]}://{found[2]}' if found else None


def unreadable(path, error):
    """An InputError for the OSError that came of reading the file at path, with the advice that fits it."""
    return InputError(f'{web_address(path) or path}: cannot be read ({error.strerror or error}); '
                      f'{_advice(error, path)}')


def unwritable(path, error):
    """An InputError for the OSError that came of writing the file at path, with the advice that fits it."""
    return InputError(f'{path}: cannot be written ({error.strerror or error}); {_advice(error, path, writing=True)}')


def _advice(error, path, writing=False):
    """What to do about an OSError: the end of a message."""
    if isinstance(error, NotChecked):
        return error.advice
    if error.errno == errno.ENAMETOOLONG:
        return _shorten(path)
    if error.errno == errno.ENOENT and not writing:
        return _correct(str(path))
    read, write = ADVICE.get(error.errno, ('check its name and permissions', 'name another place'))
    return write if writing else read


def _shorten(path):
    """What to do about a path that is too long. The limits count bytes, of which a letter may take up to four."""
    longest = max(re.split(r'[\\/]', str(path)), key=lambda part: len(os.fsencode(part)))
    if len(os.fsencode(longest)) > LONGEST_NAME:
        return (f'shorten {longest:.20}…, which takes {len(os.fsencode(longest))} bytes: a name may have '
                f'{LONGEST_NAME}, and a letter outside English takes 2 to 4')
    return f'shorten the path, which takes {len(os.fsencode(str(path)))} bytes: it may have {LONGEST_PATH}'


def _correct(path):
    """What to do about a path that leads to no file."""
    if web_address(path):
        return 'it is a web address: download the file first, and name the copy'
    if not os.path.isabs(path) and not _has_working_directory():
        return 'change to the working directory again: it was removed or replaced'
    if path.startswith('~'):
        return 'write the home folder in full: ~ stands for it only where a shell has replaced it'
    if re.search('[*?[]', path):
        return 'no file has such a name: check the pattern'
    if '\\' in path and os.name != 'nt':
        return 'check its name: folders are separated by / here'
    return 'check its name'


def _has_working_directory():
    try:
        return bool(os.getcwd())
    except OSError:
        return False


def shown(text):
    """Text from a file, for a terminal: control characters, which it would obey, as escapes."""
    return re.sub('[\x00-\x1f\x7f-\x9f]', lambda found: ascii(found[0])[1:-1], text)


def script(main):
    """Decorate a script's main(argv=None) -> int: a user's mistake becomes one line on stderr and exit code 2.

    An argument that is empty or a web address, an error of the operating system, such as a file that may not be read,
    and a lack of memory are reported in the same way. What the terminal cannot show is printed as an escape.
    """

    @functools.wraps(main)
    def guarded(argv=None):
        _make_ready()
        try:
            _check_arguments(sys.argv[1:] if argv is None else argv)
            return main(argv)
        except BrokenPipeError:    # the reader of our output has left, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _ended_early(141)
        except InputError as error:
            message = str(error)
        except OSError as error:
            message = _os_message(error)
        except MemoryError as error:
            message = _memory_message(error)
        except KeyboardInterrupt:
            print('interrupted', file=sys.stderr)
            return _ended_early(130)
        print('error:', shown(' '.join(message.splitlines())), file=sys.stderr)
        return _ended_early(2)

    return guarded


def _ended_early(code):
    for function in ON_ERROR:
        function(code)
    return code


@contextmanager
def loading(name, build_parser):
    """A with-block for the imports of a script that take long, below its parser.

    name: the script's __name__. If the script is being started, as a file or as a subcommand of imagernn, --help does
    not wait for the block, and Ctrl-C in it ends the process as it does in main. So does a package that is missing.
    """
    if name != '__main__' and not Path(sys.argv[0]).name.startswith('imagernn '):    # it is imported
        yield
        return
    _make_ready()
    if {'-h', '--help'} & {*sys.argv[1:]}:
        build_parser().parse_known_args()    # prints the help and exits, unless they are the values of flags
    hears = signal.getsignal(signal.SIGINT) is signal.default_int_handler    # not if it is a background job
    if hears:
        signal.signal(signal.SIGINT, _leave)
    try:
        yield
    except ModuleNotFoundError as error:
        if not error.name or error.name.partition('.')[0] == PACKAGE.name:    # a mistake of ours
            raise
        print(f'error: {error.name} is not installed; run: {install_command()}', file=sys.stderr)
        sys.exit(2)
    finally:
        if hears:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(*signal_and_frame):
    """End the process at once: an exception could be lost in the modules that are being imported."""
    os.write(2, b'interrupted\n')
    os._exit(130)


def _make_ready():
    """Let stdout and stderr take any text, even where they are closed or know few characters."""
    for name in ('stdout', 'stderr'):
        if getattr(sys, name) is None:    # closed: the next file to be opened would get its number, and our output
            setattr(sys, name, open(os.devnull, 'w', encoding='utf-8'))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors='backslashreplace')


def _check_arguments(argv):
    """Raise InputError for an argument that is empty, a web address, or in a home folder ~ that no shell replaced.

    No command takes any of them. A quoted ~ would become a folder of that name, in the current one.
    """
    for before, argument in zip(['', *argv], argv, strict=False):
        flag, is_pair, value = argument.partition('=') if argument.startswith('--') else ('', '', argument)
        if not value and (is_pair or not flag):
            place = f'the argument after {before}' if before.startswith('-') else 'an argument'
            raise InputError(f'{flag or place} is empty, as an unset variable of the shell is; give a value, or omit '
                             'it')
        if re.match(r'[A-Za-z][A-Za-z0-9+.-]+://', value):
            raise InputError(f'{value}: {_advice_on_address(value, flag or before)}')
        if (home := re.match('~[^/]*(?=/)', value)) and not os.path.lexists(home[0]):
            raise InputError(f'{value}: begins with {home[0]}, which the shell replaces only at the start of a word '
                             'without quotes; write the home folder in full')


def _memory_message(error):
    """A MemoryError as a message, which names the limits on memory that are set."""
    limits = []
    with suppress(ImportError):    # Windows
        import resource
        limits = [f'ulimit {flag}' for flag, limit in (('-v', resource.RLIMIT_AS), ('-d', resource.RLIMIT_DATA))
                  if resource.getrlimit(limit)[0] != resource.RLIM_INFINITY]
    reason = f' ({error})' if str(error) else ''
    raised = f'raise the limit on memory ({", ".join(limits)}), or ' if limits else ''
    return f'not enough memory{reason}; {raised}use smaller sizes or batches'


def _advice_on_address(address, flag):
    """What is wrong with a web address given after a flag, or after another argument."""
    if address.lower().startswith('file:'):
        return 'is an address, and a path is expected; write the path alone, without file://'
    if re.fullmatch(OUTPUT_FLAG, flag):
        return 'is a web address, where nothing can be written; name a file or folder on this computer'
    return 'is a web address; download the file first, and name the copy'


def _os_message(error):
    """An OSError that nothing has turned into an InputError, as a message."""
    reason = error.strerror or error
    if error.filename is not None:
        return f'{error.filename}: {reason}; {_advice(error, error.filename)}'
    if error.errno in (errno.ENOENT, errno.ESTALE):
        return f'the working directory: {reason}; it was removed or replaced: change to it again'
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN):
        return f'the operating system refuses: {reason}; {_advice(error, "")}'
    return f'standard output, or a file, cannot be written: {reason}; {_advice(error, "", writing=True)}'

"""The one exception for a user's mistake, how a script turns it into exit code 2, and what to type next.

Knows nothing of images, words or models.
"""

import functools
import os
import re
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
SCRIPTS = {    # subcommands of imagernn that are scripts: their files in a checkout
    'train': 'driver.py',
    'caption': 'predict_on_images.py',
    'evaluate': 'eval_sentence_predictions.py',
    'score': 'eval/score_captions.py',
    'prepare-coco': 'data/prepare_coco.py',
    'prepare-flickr': 'data/prepare_flickr.py',
    'make-scenes': 'data/make_scenes.py',
}


class InputError(Exception):
    """A mistake in what the user gave: a file, a flag, a size.

    The message names the file or flag, the offending value, what was expected and what to do.
    """


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


def install_command(extra):
    """What the user can type to install an optional extra of setup.py: for the hints in messages."""
    root = PACKAGE.parent
    if not (root / 'setup.py').is_file():
        return f"pip install 'imagernn[{extra}]'"
    here = os.path.exists('setup.py') and Path.cwd() == root
    return f"pip install -e '{'.' if here else root}[{extra}]'"


def shown(text):
    """Text from a file, for a terminal: control characters, which it would obey, as escapes."""
    return re.sub('[\x00-\x1f\x7f-\x9f]', lambda found: ascii(found[0])[1:-1], text)


def script(main):
    """Decorate a script's main(argv=None) -> int: a user's mistake becomes one line on stderr and exit code 2.

    An error of the operating system, such as a file that may not be read, and a lack of memory are reported in the same
    way. What the terminal cannot show is printed as an escape.
    """

    @functools.wraps(main)
    def guarded(argv=None):
        for name in ('stdout', 'stderr'):
            if getattr(sys, name) is None:    # closed: the next file to be opened would get its number, and our output
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
            message = (f'{error.filename}: {error.strerror or error}; check its name and permissions' if error.filename
                       else f'standard output, or a file, cannot be written: {error.strerror or error}')
        except MemoryError as error:
            message = f'not enough memory ({error}); use smaller sizes or batches'
        except KeyboardInterrupt:
            print('interrupted', file=sys.stderr)
            return 130
        print('error:', shown(' '.join(message.splitlines())), file=sys.stderr)
        return 2

    return guarded

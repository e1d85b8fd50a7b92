"""METEOR, by the Java program that pycocoevalcap carries; optional.

Starts that program itself, with a fixed locale and encoding, because pycocoevalcap's own wrapper takes both from the
machine, sends references on unchecked, and waits for ever on a program that has died. Nothing else here needs Java.
"""

import importlib.util
import shutil
import subprocess
import tempfile
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from imagernn.metrics.ngrams import check_captions

TIMEOUT = 120  # seconds the program may take over one answer; the first takes some ten, to load its paraphrases


class MeteorUnavailable(Exception):
    """METEOR cannot be computed here; the message says what is missing and how to get it."""


def meteor(candidates, references):
    """METEOR 1.5 (English) of the corpus and of each caption.

    candidates, references: n token lists, n lists of token lists, of str (see ngrams.check_captions). White space and
    "|||" inside a token, which the program would take for its own punctuation, are turned into spaces.
    Returns score (float) and per_caption (n,), fractions. The score comes from statistics summed over the captions, as
    in pycocoevalcap; it is not the mean of per_caption. An empty candidate scores 0.
    Raises ValueError for input that cannot be scored; MeteorUnavailable without pycocoevalcap, without Java, or when
    Java stops answering. The Java process has ended when this returns or raises.
    Source: Denkowski & Lavie, WMT 2014; pycocoevalcap 1.2, Meteor (meteor-1.5.jar -stdio -l en -norm).
    """
    check_captions(candidates, references)
    jar = find_jar()
    with running(meteor_command(jar), jar.parent) as ask:
        statistics = []
        for candidate, image_references in zip(candidates, references, strict=True):
            fields = ['SCORE', *map(plain, image_references), plain(candidate)]
            statistics += ask(' ||| '.join(fields), 1)
        *per_caption, score = ask(' ||| '.join(['EVAL', *statistics]), len(candidates) + 1)
    return float(score), np.array(per_caption, dtype=float)  # (n,)


def plain(tokens):
    """The tokens on one line, free of the program's separator."""
    return ' '.join(' '.join(tokens).replace('|||', ' ').split())


def find_jar():
    """The path of meteor-1.5.jar. Raises MeteorUnavailable where it, or Java, is missing; names both if both are."""
    package = importlib.util.find_spec('pycocoevalcap')
    folders = package.submodule_search_locations if package else []
    jars = [path for folder in folders or [] if (path := Path(folder) / 'meteor' / 'meteor-1.5.jar').is_file()]
    missing = []
    if not jars:
        missing.append("pycocoevalcap is not installed (pip install 'imagernn[metrics]', or in a checkout "
                       "pip install -e '.[metrics]')")
    if shutil.which('java') is None:
        missing.append('no Java runtime: there is no `java` on the PATH (install one, e.g. apt install '
                       'default-jre-headless, or from https://adoptium.net)')
    if missing:
        raise MeteorUnavailable('METEOR is left out: ' + '; and '.join(missing))
    return jars[0]


def meteor_command(jar):
    """The command that serves METEOR on its standard input: options as in pycocoevalcap, locale and encoding fixed."""
    locale = ['-Dfile.encoding=UTF-8', '-Duser.language=en', '-Duser.country=US']
    return ['java', '-Xmx2G', *locale, '-jar', str(jar), '-', '-', '-stdio', '-l', 'en', '-norm']


@contextmanager
def running(command, folder):
    """Run a program that answers lines with lines; give ask(line, n) -> its n lines of answer.

    The program is killed, and waited for, on leaving. Its complaints go to a file, so that they cannot fill a pipe.
    ask raises MeteorUnavailable when the program ends, answers "Error…", or is silent for TIMEOUT seconds.
    """
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=complaints, encoding='utf-8', errors='replace')

        def ask(line, n):
            answer = []
            watchdog = threading.Timer(TIMEOUT, process.kill)  # a read from a pipe has no time limit of its own
            watchdog.start()
            try:
                process.stdin.write(line + '\n')
                process.stdin.flush()
                answer = [process.stdout.readline().strip() for _ in range(n)]
            except BrokenPipeError:
                pass  # it has ended: told below, with its own words
            finally:
                watchdog.cancel()
            if len(answer) < n or not all(answer) or answer[0].startswith('Error'):
                complaints.seek(0)
                words = [*answer, *complaints.read().decode('utf-8', 'replace').splitlines()]
                reason = next((text for text in words if text), f'it ended, or said nothing for {TIMEOUT} s')
                raise MeteorUnavailable(f'METEOR is left out: {command[0]} did not answer as it should: {reason}')
            return answer

        try:
            yield ask
        finally:
            process.kill()
            with suppress(BrokenPipeError):  # of a line that it did not live to read
                process.stdin.close()
            process.stdout.close()
            process.wait()

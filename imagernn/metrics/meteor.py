"""METEOR, computed by the Java program that pycocoevalcap contains. Optional: no other metric needs Java.

This module runs that program directly, with a fixed locale and encoding. pycocoevalcap's own wrapper takes both from
the environment, does not check the references, and waits forever for a program that has died.
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

# The parameters of METEOR 1.5 for English
ALPHA = 0.85  # weight of recall in the F-measure
BETA = 0.2  # exponent of the fragmentation penalty
GAMMA = 0.6  # weight of the fragmentation penalty
DELTA = 0.75  # weight of content words; function words have 1 - DELTA
MATCHER_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # exact matches, stems, synonyms, paraphrases

NUMBERS = 23  # how many numbers the program prints for a caption
TIMEOUT = 120  # seconds to wait for an answer; the first takes about ten, because the program loads its paraphrases


class MeteorUnavailable(Exception):
    """METEOR cannot be computed; the message says what is missing and how to install it, or what went wrong."""


def meteor(candidates, references):
    """METEOR 1.5 (English) of the corpus and of each caption.

    candidates, references: n token lists, n lists of token lists (see ngrams.check_captions); the tokens must be str.
    White space and "|||" inside a token become spaces, because the program would read them as separators.
    Returns score (float) and per_caption (n,), fractions. The score comes from statistics summed over the captions, as
    in pycocoevalcap; it is not the mean of per_caption. An empty candidate scores 0.
    Raises ValueError for input that cannot be scored, and MeteorUnavailable if pycocoevalcap or Java is missing or Java
    stops answering. When this function returns or raises, the Java process has ended.
    Source: Denkowski & Lavie, WMT 2014; pycocoevalcap 1.2, Meteor (meteor-1.5.jar -stdio -l en -norm).
    """
    statistics = meteor_statistics(candidates, references)
    return float(meteor_of(statistics.sum(axis=0))), meteor_of(statistics)


def meteor_statistics(candidates, references):
    """All that METEOR needs of each image, for the reference that gives its candidate the best score: (n, 6).

    The rows can be summed over images. Columns: weighted matches in the candidate and in the reference; weighted length
    of the candidate and of the reference; chunks (runs of matches that are in the same order in both); matched words in
    both together. Arguments and errors as in meteor.
    """
    check_captions(candidates, references)
    jar = find_jar()
    with running(meteor_command(jar), jar.parent) as ask:
        answers = [ask(' ||| '.join(['SCORE', *map(plain, image_references), plain(candidate)]), 1)[0].split()
                   for candidate, image_references in zip(candidates, references, strict=True)]
    malformed = [answer for answer in answers if len(answer) != NUMBERS]
    if malformed:
        raise MeteorUnavailable(f'METEOR cannot be computed: unexpected answer from java: {" ".join(malformed[0])}')
    numbers = np.array(answers, dtype=float)  # (n, 23)
    lengths = numbers[:, :2]  # (n, 2) of candidate and reference
    function_words = numbers[:, 2:4]  # (n, 2) the same
    matches = numbers[:, 4:20].reshape(-1, 4, 2, 2)  # matcher; content or function words; candidate or reference
    weights = MATCHER_WEIGHTS[:, None] * [DELTA, 1 - DELTA]  # (4, 2)
    weighted_matches = np.einsum('nmwc,mw->nc', matches, weights)  # (n, 2)
    weighted_lengths = DELTA * (lengths - function_words) + (1 - DELTA) * function_words  # (n, 2)
    # as in the Java program: a candidate equal to its reference has no penalty and adds no chunk to the sum
    chunks = numbers[:, 20]  # (n,)
    equal = (matches.sum(axis=(1, 2)) == lengths).all(axis=1)  # (n,)
    chunks = np.where(equal & (chunks == 1), 0, chunks)
    return np.column_stack([weighted_matches, weighted_lengths, chunks, numbers[:, 21:].sum(axis=1)])


def meteor_of(statistics):
    """METEOR of rows of meteor_statistics, or of sums of rows: (..., 6) -> fractions (...).

    Source: Denkowski & Lavie, WMT 2014, section 2: the F-measure of weighted words and the fragmentation penalty.
    """
    matches, other_matches, length, other_length, chunks, matched_words = np.moveaxis(statistics, -1, 0)
    with np.errstate(divide='ignore', invalid='ignore'):
        precision, recall = matches / length, other_matches / other_length
        f_mean = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
        scores = f_mean * (1 - GAMMA * (chunks / (matched_words / 2)) ** BETA)
    return np.where(matched_words > 0, scores, 0)


def plain(tokens):
    """The tokens joined to one line without the program's separator."""
    return ' '.join(' '.join(tokens).replace('|||', ' ').split())


def find_jar():
    """The path of meteor-1.5.jar. Raises MeteorUnavailable, naming what is missing, without that file or Java."""
    package = importlib.util.find_spec('pycocoevalcap')
    folders = package.submodule_search_locations if package else []
    jars = [path for folder in folders or [] if (path := Path(folder) / 'meteor' / 'meteor-1.5.jar').is_file()]
    missing = []
    if not jars:
        missing.append("pycocoevalcap is not installed (pip install 'imagernn[metrics]', or in a checkout "
                       "pip install -e '.[metrics]')")
    if shutil.which('java') is None:
        missing.append('there is no Java runtime: no `java` on the PATH (install one, for example by apt install '
                       'default-jre-headless, or from https://adoptium.net)')
    if missing:
        raise MeteorUnavailable('METEOR cannot be computed: ' + '; and '.join(missing))
    return jars[0]


def meteor_command(jar):
    """The command that runs METEOR as a filter: pycocoevalcap's options, with the locale and the encoding fixed."""
    locale = ['-Dfile.encoding=UTF-8', '-Duser.language=en', '-Duser.country=US']
    return ['java', '-Xmx2G', *locale, '-jar', str(jar), '-', '-', '-stdio', '-l', 'en', '-norm']


@contextmanager
def running(command, folder):
    """Run a program that answers lines with lines, in folder. Yields ask(line, n) -> the n lines of the answer.

    On leaving the with-block the program is killed and waited for. ask raises MeteorUnavailable when the program ends,
    answers "Error…", or does not answer for TIMEOUT seconds.
    """
    with tempfile.TemporaryFile() as stderr:  # a file, because a pipe that nobody reads could fill up
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=stderr, encoding='utf-8', errors='replace')

        def ask(line, n):
            answer = []
            watchdog = threading.Timer(TIMEOUT, process.kill)  # a read from a pipe has no time limit of its own
            watchdog.start()
            try:
                process.stdin.write(line + '\n')
                process.stdin.flush()
                answer = [process.stdout.readline().strip() for _ in range(n)]
            except BrokenPipeError:
                pass  # the program has ended; the error below quotes what it printed
            finally:
                watchdog.cancel()
            if len(answer) < n or not all(answer) or answer[0].startswith('Error'):
                stderr.seek(0)
                printed = [*answer, *stderr.read().decode('utf-8', 'replace').splitlines()]
                reason = next((line for line in printed if line), f'it ended, or gave no answer within {TIMEOUT} s')
                raise MeteorUnavailable(f'METEOR cannot be computed: {command[0]} failed: {reason}')
            return answer

        try:
            yield ask
        finally:
            process.kill()
            with suppress(BrokenPipeError):  # closing flushes a line that the program can no longer read
                process.stdin.close()
            process.stdout.close()
            process.wait()

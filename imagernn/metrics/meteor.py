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

# English, of METEOR 1.5: F-measure's bias to recall, the penalty's shape and weight, and what a content word counts
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
MATCHER_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # matches exact, of the same stem, synonyms, paraphrases
NUMBERS = 23  # in the program's answer for a caption

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
    statistics = meteor_statistics(candidates, references)
    return float(meteor_of(statistics.sum(axis=0))), meteor_of(statistics)


def meteor_statistics(candidates, references):
    """What METEOR needs of each image, of the reference that suits its candidate best: (n, 6). Rows may be summed.

    Columns: weighted matches in the candidate and in the reference, weighted lengths of both, chunks (runs of matches
    in the same order in both), matched words of both together. Arguments and errors as in meteor.
    """
    check_captions(candidates, references)
    jar = find_jar()
    with running(meteor_command(jar), jar.parent) as ask:
        answers = [ask(' ||| '.join(['SCORE', *map(plain, image_references), plain(candidate)]), 1)[0].split()
                   for candidate, image_references in zip(candidates, references, strict=True)]
    strange = [answer for answer in answers if len(answer) != NUMBERS]
    if strange:
        raise MeteorUnavailable(f'METEOR cannot be computed: java did not answer as it should: {" ".join(strange[0])}')
    numbers = np.array(answers, dtype=float)  # (n, 23)
    lengths, function_words = numbers[:, :2], numbers[:, 2:4]  # of candidate and reference, (n, 2) each
    matches = numbers[:, 4:20].reshape(-1, 4, 2, 2)  # by matcher; of content, of function words; candidate, reference
    weights = MATCHER_WEIGHTS[:, None] * [DELTA, 1 - DELTA]  # (4, 2)
    weighted_matches = np.einsum('nmwc,mw->nc', matches, weights)  # (n, 2)
    weighted_lengths = DELTA * (lengths - function_words) + (1 - DELTA) * function_words  # (n, 2)
    # as in the program: a candidate equal to the reference has no penalty, and adds no chunk to the sum
    chunks, equal = numbers[:, 20], (matches.sum(axis=(1, 2)) == lengths).all(axis=1)
    chunks = np.where(equal & (chunks == 1), 0, chunks)
    return np.column_stack([weighted_matches, weighted_lengths, chunks, numbers[:, 21:].sum(axis=1)])


def meteor_of(statistics):
    """METEOR (...) of rows, or sums of rows, of meteor_statistics (..., 6): fractions.

    Source: Denkowski & Lavie, WMT 2014, section 2: the F-measure of weighted words, and the penalty on many chunks.
    """
    matches, other_matches, length, other_length, chunks, matched_words = np.moveaxis(statistics, -1, 0)
    with np.errstate(divide='ignore', invalid='ignore'):
        precision, recall = matches / length, other_matches / other_length
        f_mean = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
        scores = f_mean * (1 - GAMMA * (chunks / (matched_words / 2)) ** BETA)
    return np.where(matched_words > 0, scores, 0)


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
        raise MeteorUnavailable('METEOR cannot be computed: ' + '; and '.join(missing))
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
                raise MeteorUnavailable(f'METEOR cannot be computed: {command[0]} did not answer as it should: '
                                        f'{reason}')
            return answer

        try:
            yield ask
        finally:
            process.kill()
            with suppress(BrokenPipeError):  # of a line that it did not live to read
                process.stdin.close()
            process.stdout.close()
            process.wait()

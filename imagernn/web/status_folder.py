"""The status files of training runs, read again as they change, of this project and of NeuralTalk.

Knows what a history says about a run: its state, speed, remaining time and curves. Trusts nothing in the files. Knows
nothing of how the page draws them.
"""

import hashlib
import json
import math
import os
import statistics
import threading
import time
from datetime import datetime
from pathlib import Path

from imagernn.errors import InputError
from imagernn.web.server import open_plain, real_file

SUFFIX = '_status.json'
STATES = ('running', 'finished', 'stopped', 'aborted')
MOST_FILES = 500
MOST_BYTES = 2 ** 25           # of a file: months of reports
MOST_POINTS = 5000             # of a curve on the page; a longer history is thinned out
MOST_SETTINGS = 200
MOST_TEXT = 300                # characters of a setting or a reason
MOST_SAMPLES = 20              # texts that the model wrote, the last ones
MOST_SAMPLE = 1000             # characters of one
MOST_NAME = 60                 # characters of a score's name, and of its keys
PERPLEXITY = {'name': 'perplexity', 'val': 'val_ppl2', 'train': 'smooth_train_ppl2', 'higher_is_better': False}
RECENT = 20                    # reports from which the speed of a run is estimated
SILENT_GAPS = 5                # a run counts as silent after this many times its usual interval between reports,
LEAST_SILENT_SECONDS = 300     # but not before this time


class StatusFolder:
    """The runs (workers) whose status files are in a folder. Safe to use from several threads."""

    def __init__(self, folder):
        self._folder = Path(folder)
        self._lock = threading.Lock()
        self._files = {}         # name -> what is known of the file; a name keeps its number while this object exists

    def look(self):
        """Read what has changed -> {folder, workers: [{number, name, version, age}], problems: [{file, problem}]}.

        number: for worker(). version: changes whenever the worker's data does. age: seconds since the file was written.
        """
        with self._lock:
            problems = self._read_all()
            workers = []
            shown = {}           # digest of the contents -> the name of the first file that has them
            for name, file in sorted(self._files.items()):
                twin = shown.setdefault(file['digest'] or name, name)
                problem = file['problem'] if twin == name else f'has the same contents as {twin}, which is shown'
                if problem:
                    problems.append({'file': name, 'problem': problem})
                if file['worker'] and twin == name:
                    workers.append({'number': file['number'], 'name': name.removesuffix(SUFFIX),
                                    'version': file['version'], 'age': max(0., time.time() - file['written'])})
            return {'folder': str(self._folder), 'workers': workers, 'problems': problems}

    def worker(self, number):
        """The data of a worker: {version, **parse_status}; an empty dict if its file is gone."""
        with self._lock:
            file, = (file for file in self._files.values() if file['number'] == number)
            return {'version': file['version'], **file['worker']} if file['worker'] else {}

    def _read_all(self):
        """Update what is known of all files. Returns the problems of the folder itself."""
        try:
            names = sorted(entry.name for entry in os.scandir(self._folder) if entry.name.endswith('.json'))
        except OSError as error:
            names, problem = [], f'cannot be read: {error.strerror}'
        else:
            problem = (f'holds {len(names)} JSON files; only the first {MOST_FILES} are shown'
                       if len(names) > MOST_FILES else None)
        for name in names[:MOST_FILES]:
            self._read(name)
        for name in self._files.keys() - set(names):
            self._files[name].update(stamp=None, worker=None, digest=None, problem='is no longer there')
        return [{'file': str(self._folder), 'problem': problem}] if problem else []

    def _read(self, name):
        """Update what is known of a file. If it can no longer be read, the data of its worker is kept."""
        file = self._files.setdefault(name, {'number': len(self._files), 'version': 0, 'stamp': None, 'written': 0.,
                                             'worker': None, 'digest': None, 'problem': None})
        try:
            real = real_file(self._folder / name, self._folder)
            if real is None:
                file['stamp'] = None
                raise InputError('is not a readable file in this folder; links out of the folder are not followed')
            descriptor = open_plain(real)
            with open(descriptor, 'rb') as opened:
                about = os.fstat(descriptor)
                stamp = (about.st_ino, about.st_size, about.st_mtime_ns)
                if stamp == file['stamp']:
                    return
                if about.st_size > MOST_BYTES:
                    raise InputError(f'has {about.st_size:,} bytes; at most {MOST_BYTES:,} are read')
                content = opened.read(MOST_BYTES)
            file.update(stamp=stamp, written=about.st_mtime)
            worker = parse_status(content)
        except OSError as error:
            file.update(stamp=None, problem=f'cannot be read: {error.strerror or error}')
        except InputError as error:
            file.update(problem=str(error) + ('; its previous contents are shown' if file['worker'] else ''))
        else:
            # without reports, two different runs may have the same contents
            digest = hashlib.sha256(content).hexdigest() if worker['points']['iter'] else None
            file.update(worker=worker, digest=digest, version=file['version'] + 1, problem=worker.pop('problem'))


def parse_status(content):
    """The bytes of a status file -> what the page shows of its run.

    Returns {settings: {name: text}, state: one of STATES or 'diverged', reason, iter, max_iter, epoch, max_epoch,
    score: {name, train_name, higher_is_better}, best_val, best_epoch, val, train, seconds_per_batch, seconds_left,
    silent_after, silent_end, problem, samples: [{epoch, val, text}, …], points: {iter, epoch, hours, batch, train,
    val}}, with None for what is missing. val is a value of the score, and train what train_name says; points.val is
    None where the report repeats the previous evaluation. After silent_after seconds without a report, the state of a
    running run becomes silent_end. Raises InputError, worded to follow the file's name, if the bytes are not a status
    file.
    """
    if not content.strip():
        raise InputError('is empty, or is being written')
    try:
        status = json.loads(content)
    except (ValueError, RecursionError) as error:        # invalid UTF-8 raises a ValueError, too
        raise InputError(f'is not JSON, or only partly written ({str(error)[:100]})') from None
    if not isinstance(status, dict) or not isinstance(status.get('history'), list):
        raise InputError('is not a status file: expected a JSON object with a list "history"')
    score = score_of(status)
    rows = [row_of(entry, score) for entry in status['history'] if isinstance(entry, dict)]
    unusable = len(status['history']) - len(rows)
    last = rows[-1] if rows else row_of({}, score)
    speed = pace(rows)
    best_of = max if score['higher_is_better'] else min
    best = best_of((row for row in rows if row['val'] is not None), key=lambda row: row['val'],
                   default=row_of({}, score))
    return {
        'settings': settings_of(status.get('params')),
        'score': {'name': score['name'], 'train_name': train_name_of(score),
                  'higher_is_better': score['higher_is_better']},
        'state': state_of(status, rows, score),
        'reason': text_of(status['reason']) if status.get('reason') else None,
        **{key: last[key] for key in ('iter', 'max_iter', 'epoch', 'max_epoch', 'val', 'train')},
        'best_val': best['val'], 'best_epoch': best['epoch'],
        **speed,
        # as in NeuralTalk: the last report comes up to a minute before the end, and does not say that it is the last
        'silent_end': 'silent' if status.get('state') in STATES or not near_end(speed) else 'finished',
        'problem': f'{unusable} of its {len(status["history"])} history entries are not objects' if unusable else None,
        'samples': samples_of(status['history'], rows),
        'points': points_of(rows),
    }


def score_of(status):
    """What the run is judged by, as runs/status.py writes it: {name, val, train, higher_is_better}, checked.

    Files of NeuralTalk, and older ones, do not give it: perplexity. Raises InputError if what they give is none.
    """
    score = status.get('score', PERPLEXITY)
    texts = [score.get(key) for key in ('name', 'val', 'train')] if isinstance(score, dict) else [None]
    right = all(isinstance(text, str) and text.strip() and text.isprintable() and len(text) <= MOST_NAME
                for text in texts)
    if not right or not isinstance(score.get('higher_is_better'), bool):
        raise InputError('is not a status file: its "score" is not an object with "name", "val", "train", short texts, '
                         'and "higher_is_better", true or false')
    return score


def train_name_of(score):
    """The name of the values of training: that of the score, or their own where it differs, such as loss."""
    key = score['train'].removeprefix('smooth_').removeprefix('train_')
    return score['name'] if key == score['val'].removeprefix('val_') else key


def row_of(entry, score):
    """One entry of a history as numbers, None for what is missing or not a number; time in seconds since 1970."""
    iteration, most = pair(entry.get('iter'))
    epoch, most_epochs = pair(entry.get('epoch'))
    smooth = entry.get(score['train'])
    train = entry.get(score['train'].removeprefix('smooth_')) if smooth is None else smooth
    val = entry.get(score['val'])
    if score == PERPLEXITY and isinstance(val, int):
        val = None    # as in NeuralTalk: the vocabulary's size, an integer, until the first evaluation
    return {'iter': iteration, 'max_iter': most, 'epoch': epoch, 'max_epoch': most_epochs,
            'time': seconds_of(entry.get('time')), 'batch': above_zero(entry.get('time_per_batch')),
            'train': value_of(train, score), 'val': value_of(val, score), 'evaluated': entry.get('evaluated') is True,
            'exploded': isinstance(train, float) and not math.isfinite(train)}


def value_of(value, score):
    """A value of the score, or None: it is -1 until the first evaluation. Only where higher is better it may be 0."""
    value = number(value)
    return 0. if value == 0 and score['higher_is_better'] else above_zero(value)


def number(value):
    """A finite float, or None."""
    try:
        value = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def above_zero(value):
    """A finite float above 0, or None."""
    value = number(value)
    return value if value and value > 0 else None


def pair(value):
    """A list of two numbers as a tuple, each None if it is not a finite number."""
    return tuple(map(number, value)) if isinstance(value, list) and len(value) == 2 else (None, None)


def seconds_of(value):
    """A time in ISO format as seconds since 1970, or None."""
    try:
        return datetime.fromisoformat(value).timestamp()
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def text_of(value):
    """A JSON value as text for the page, shortened to MOST_TEXT characters; whole floats without a decimal point."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= MOST_TEXT else text[:MOST_TEXT] + '…'


def settings_of(params):
    """The flags of a run as {name: text}; empty if they are not a dict."""
    if not isinstance(params, dict):
        return {}
    return {text_of(name): text_of(value) for name, value in list(params.items())[:MOST_SETTINGS]}


def state_of(status, rows, score):
    """One of STATES, or 'diverged' if the score is a perplexity, and that of training exploded.

    NeuralTalk's files do not give a state and count iterations from 0: a run has finished after its last iteration.
    """
    last = rows[-1] if rows else row_of({}, score)
    done = None not in (last['iter'], last['max_iter']) and last['iter'] + 1 >= last['max_iter']
    state = status.get('state')
    if state not in STATES:
        state = 'finished' if done else 'running'
    if score['name'] != PERPLEXITY['name']:
        return state
    trained = [row['train'] for row in rows if row['train']]
    exploded = last['exploded'] or (trained and trained[-1] > 2 * trained[0])
    return 'diverged' if exploded and state in ('running', 'aborted') else state


def pace(rows):
    """Seconds per batch, seconds left, and the seconds without a report after which the run counts as silent."""
    recent = rows[-RECENT:]
    steps = [(later['time'] - row['time'], later['iter'] - row['iter'])
             for row, later in zip(recent[:-1], recent[1:], strict=True)
             if None not in (row['time'], later['time'], row['iter'], later['iter'])]
    steps = [(seconds, iterations) for seconds, iterations in steps if seconds > 0 and iterations > 0]
    batch = statistics.median(batches) if (batches := [row['batch'] for row in recent if row['batch']]) else None
    usual = statistics.median(seconds for seconds, _ in steps) if steps else 0.
    counted = [step for step in steps if step[0] <= 10 * usual]    # without the pause before a run was resumed
    each = sum(seconds for seconds, _ in counted) / sum(done for _, done in counted) if counted else batch
    last = rows[-1] if rows else row_of({}, PERPLEXITY)
    left = None
    if each and None not in (last['iter'], last['max_iter']):
        left = each * max(0., last['max_iter'] - last['iter'])
    return {'seconds_per_batch': batch, 'seconds_left': number(left),
            'silent_after': max(LEAST_SILENT_SECONDS, SILENT_GAPS * usual)}


def near_end(speed):
    """Whether a run is expected to end before its next report."""
    return speed['seconds_left'] is not None and speed['seconds_left'] < speed['silent_after'] / SILENT_GAPS


def samples_of(history, rows):
    """What the model wrote as it learned, the latest first. rows: row_of the entries that are objects."""
    entries = [entry for entry in history if isinstance(entry, dict)]
    found = [{'epoch': row['epoch'], 'val': row['val'], 'text': entry['sample'][:MOST_SAMPLE]}
             for entry, row in zip(entries, rows, strict=True) if isinstance(entry.get('sample'), str)]
    return found[:-MOST_SAMPLES - 1:-1]


def points_of(rows):
    """The curves, one list per column: at most MOST_POINTS reports, and the last one."""
    step = math.ceil(len(rows) / MOST_POINTS) or 1
    kept = [row for index, row in enumerate(rows) if index % step == 0 or index == len(rows) - 1]
    start = next((row['time'] for row in kept if row['time'] is not None), None)
    points = {key: [row[key] for row in kept] for key in ('iter', 'epoch', 'batch', 'train')}
    points['hours'] = [None if row['time'] is None else (row['time'] - start) / 3600 for row in kept]
    before = [None, *(row['val'] for row in kept)]
    points['val'] = [row['val'] if row['evaluated'] or row['val'] != old else None
                     for row, old in zip(kept, before, strict=False)]
    return points

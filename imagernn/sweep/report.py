"""What a sweep says of its runs: a line on each, the ranked table, the best model and the command that trains it."""

import re
from pathlib import Path
from shlex import join

from imagernn.errors import command
from imagernn.formats.json_files import write_json
from imagernn.runs.names import WHICH
from imagernn.sweep.runs import ranked


def line_of(run):
    """A line on a run: its flags that vary, its best score, and how it ended."""
    values = ', '.join(f'{name} {shown_value(value)}' for name, value in run.values.items())
    return f'{run.name}: {values}: {score_text(run)}{run.ending()}'


def score_text(run):
    if run.best is None:
        return ''
    return f'{run.status["score"]["name"]} {run.best:.5g} at epoch {run.status["best_epoch"]:.4g}, '


def shown_value(value):
    return f'{value:.4g}' if isinstance(value, float) else str(value)


def table(runs):
    """The lines of the table of ranked runs."""
    name = next((run.status['score']['name'] for run in runs if run.status), 'score')
    rows = [['rank', 'run', *runs[0].values, name, 'epoch', 'ended']]
    for rank, run in enumerate(runs, 1):
        scored = ['-', '-'] if run.best is None else [f'{run.best:.5g}', f'{run.status["best_epoch"]:.4g}']
        rows.append([str(rank), run.name, *map(shown_value, run.values.values()), *scored, run.ending()])
    *widths, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    return ['  '.join([*(f'{cell:>{width}}' for cell, width in zip(row, widths, strict=False)), row[-1]])
            for row in rows]


def best_checkpoint(folder, run):
    """The checkpoint of a run's best score; its last one where that was not saved; None where there is none."""
    found = [(match[1], path) for path in Path(folder).iterdir()
             if (match := re.fullmatch(rf'model_checkpoint_.+_{re.escape(run.name)}_({WHICH})', path.name))]
    scores = {path: float(re.sub('[a-z]*', '', which.removesuffix('.h5'))) for which, path in found
              if which not in ('last.h5', 'inf.h5')}
    # the names have rounded scores
    return min(scores, key=lambda path: abs(scores[path] - run.best), default=dict(found).get('last.h5'))


def report(folder, trainer, runs, num_threads, json_path=None):
    """The lines on all runs, the best model and the command that trains it; the same as JSON in a file, if named."""
    runs = ranked(runs, lambda run: run.best)
    lines, best = table(runs), runs[0]
    entries = [{'name': run.name, 'flags': run.flags, 'score': run.best,
                **{key: run.status and run.status[key] for key in ('best_epoch', 'epoch', 'state', 'reason')},
                'ending': run.ending()} for run in runs]
    found = {'command': trainer, 'score': best.status and best.status['score'], 'runs': entries, 'best': None}
    if best.best is not None:
        path = best_checkpoint(folder, best)
        again = f'{command(trainer)} {join(best.arguments)} --num_threads={num_threads}'
        found['best'] = {'name': best.name, 'checkpoint': path and str(path), 'command': again}
        lines += [f'the best one is {best.name}: {path or "its checkpoint is gone"}',
                  f'the command that trains it: {again}']
    if json_path:
        write_json(json_path, found)
    return lines

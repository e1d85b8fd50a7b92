"""Kills the driver at random moments, lets it go on with --resume auto, and compares its ending, bit for bit, with that
of a run that was never stopped: python tests/kill_driver.py

Each trial is a run that is killed at least once: at a random time, at a random system call of what it writes, or by
SIGTERM or SIGINT and, while it is saving, again. Exit code 1 unless all endings are the same.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets import checkpoint_named, train_flags, write_tiny_dataset
from faults import Faults, kill

import driver
from imagernn.runs.checkpoint_file import load_checkpoint

DIVERGING = ['--solver', 'vanilla', '--grad_clip', '0', '-l', '60', '--on_divergence', 'rollback']
VARIANTS = [
    ['--checkpoint_every', '1'],
    ['--checkpoint_every', '3', *DIVERGING],
    ['--checkpoint_every', '0.0003m', '--dtype', 'float64', '--eval_period', '.5'],
    ['--checkpoint_every', '5', '--generator', 'rnn', '--solver', 'adam', '--num_threads', '2'],
    ['--checkpoint_every', '0.0003m', *DIVERGING],
    ['--checkpoint_every', '2', '--weight_average', '.9', '--learning_rate_schedule', 'cosine', '--warmup', '.5',
     '--label_smoothing', '.1'],
]
WAYS = ('time', 'call', 'signal')
WRITING = ('open', 'write', 'fsync', 'close', 'chmod', 'replace', 'unlink')


def build_parser():
    parser = argparse.ArgumentParser(description='Kill the driver at random moments, and compare its endings.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--kills', type=int, default=200, help='how many')
    parser.add_argument('--seed', type=int, default=0, help='of the moments')
    parser.add_argument('--folder', default=None, help='where the runs write, for example /dev/shm')
    parser.add_argument('--variants', type=int, default=len(VARIANTS), help='how many kinds of runs to try')
    return parser


def start(root, flags, at=None):
    """A child that runs the driver, killed at file system call number `at` if one is given. Returns its process id.

    What it says goes to root/log, and when it ends by itself, the names of its file system calls to root/calls.
    """
    pid = os.fork()
    if pid == 0:
        log = os.open(root / 'log', os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code, faults = 99, Faults(at, kill)
        try:
            with faults.installed():
                code = driver.main(flags)
            (root / 'calls').write_text(' '.join(faults.calls), encoding='utf-8')
        except KeyboardInterrupt:    # before main catches it
            code = 130
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    return pid


def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed(root, flags, rng, way, seconds, calls):
    """One run in root, killed. Returns its exit code: a negative one, or that of a run that stopped or ended before."""
    if way == 'call':
        return ended(start(root, flags, rng.choice([at for at, name in enumerate(calls) if name in WRITING])))
    pid = start(root, flags)
    time.sleep(rng.uniform(0, seconds))
    if way == 'signal':
        os.kill(pid, rng.choice([signal.SIGTERM, signal.SIGINT]))
        time.sleep(rng.choice([0, .002, .01, 1]))
    os.kill(pid, signal.SIGKILL)
    return ended(pid)


def ending(root):
    """All that a run comes to, but for the times of its history; and the name and model of its best checkpoint."""
    last = load_checkpoint(checkpoint_named(root, 'last'))
    best = load_checkpoint(root / 'cv' / Path(last['best_checkpoint']).name)
    params = {name: value for name, value in last['params'].items() if name not in ('resume', 'features')}
    evaluations = [(entry['iter'], entry['val_ppl2'], entry['train_ppl2']) for entry in last['history']]
    last['best_checkpoint'] = Path(last['best_checkpoint']).name
    return {**last, 'params': {name: value for name, value in params.items() if str(root) not in str(value)},
            'history': evaluations, 'best model': best['model'], 'best solver': best['solver']}


def differences(one, other, name=''):
    """The names of what differs, by a bit, between two dicts of dicts, arrays and values."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [found for key in {**one, **other}
                for found in differences(one.get(key), other.get(key), f'{name}/{key}')]
    if hasattr(one, 'tobytes') and hasattr(other, 'tobytes'):
        same = one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    else:
        same = repr(one) == repr(other)
    return [] if same else [name]


def leftovers(root):
    return [path for path in root.rglob('.*') if path.is_file()]


class Kind:
    """One of VARIANTS, never stopped: how it ends, how long it takes, and what it asks of the file system."""

    def __init__(self, flags, root):
        self.flags = flags
        root.mkdir()
        write_tiny_dataset(root)
        started = time.perf_counter()
        if ended(start(root, train_flags(root, *flags, '--max_epochs', '5'))) != 0:
            raise SystemExit((root / 'log').read_text(encoding='utf-8'))
        self.seconds = time.perf_counter() - started
        self.calls = (root / 'calls').read_text(encoding='utf-8').split()
        self.ending = ending(root)


def trial(kind, root, rng, counts):
    """Kill a run until it has been killed once at least, let it end. Returns what differs from a run never stopped."""
    write_tiny_dataset(root)
    flags = train_flags(root, *kind.flags, '--max_epochs', '5', '--resume', 'auto')
    kills = 0
    while not kills or rng.random() < .3:
        way = rng.choice(WAYS)
        code = killed(root, flags, rng, way, kind.seconds, kind.calls)
        if code == -signal.SIGKILL:
            kills += 1
            counts[f'by {way}'] += 1
            counts['within a write, half a file left'] += any(path.suffix == '.tmp' for path in leftovers(root))
        elif code in (128 + signal.SIGTERM, 128 + signal.SIGINT, -signal.SIGTERM, -signal.SIGINT):
            kills += 1
            counts['stopped by a signal, saved'] += 1
        elif code != 0:
            return [f'exit code {code}: {(root / "log").read_text(encoding="utf-8")[-2000:]}']
        elif not kills:    # it ended before: another run, killed earlier
            shutil.rmtree(root / 'cv')
    counts['kills'] += kills
    if (code := ended(start(root, flags))) != 0:
        return [f'exit code {code}: {(root / "log").read_text(encoding="utf-8")[-2000:]}']
    return differences(kind.ending, ending(root)) + [str(path) for path in leftovers(root)]


def main(argv=None):
    args = build_parser().parse_args(argv)
    rng, counts, bad, trials = random.Random(args.seed), Counter(), 0, 0
    with tempfile.TemporaryDirectory(prefix='kill_driver_', dir=args.folder) as workshop:
        kinds = [Kind(flags, Path(workshop) / f'whole{number}')
                 for number, flags in enumerate(VARIANTS[:args.variants])]
        while trials < args.kills:
            root = Path(workshop) / f'trial{trials}'
            root.mkdir()
            different = trial(kinds[trials % len(kinds)], root, rng, counts)
            trials += 1
            if different:
                bad += 1
                print(f'trial {trials} (--seed {args.seed}), {" ".join(kinds[(trials - 1) % len(kinds)].flags)}: '
                      f'{", ".join(different)}', flush=True)
            shutil.rmtree(root)
    print(', '.join(f'{name}: {count}' for name, count in counts.items()))
    print(f'{trials - bad} of {trials} killed runs ended as the one never stopped, bit for bit')
    return 1 if bad else 0


if __name__ == '__main__':
    sys.exit(main())

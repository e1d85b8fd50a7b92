"""Loads spoilt files by the hundred thousand: python tests/soak.py

Each loader runs in a child process that may take no more than 1 GB of memory, nor 5 s of processor time for a file, and
is told by an audit hook when it begins to run something or to write. Where one is killed, the file that killed it is
known and kept, and another child goes on behind it. Exit code 1 where anything was found.

The loaders of HDF5 leave it to a child of their own to open a file, as that library can crash. Here, to be quick, the
library opens it in the loader's process; where that ends badly, the file is loaded once more, with a child of its own,
and only what is found then counts. The others are told of as contained.
"""

import argparse
import codecs
import mmap
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
MAX_MEMORY, MAX_SECONDS, MAX_WAIT = 1 << 30, 5, 60
MAX_SHOWN, MAX_FOUND = 5, 200
FORBIDDEN = re.compile(r'os\.(system|exec|posix_spawn|spawn|startfile|putenv|kill)|subprocess|socket|pickle\.|'
                       r'shutil|ctypes\.(dlopen|dlsym|call)|exec$|cpython\.run|code\.|webbrowser|urllib|import$')
CHANGES = ('os.remove', 'os.rename', 'os.mkdir', 'os.rmdir', 'os.link', 'os.symlink', 'os.chmod', 'os.truncate')


def build_parser():
    parser = argparse.ArgumentParser(description='Load spoilt files of every format for a while.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--files', type=int, default=100_000, help='spoilt files a loader')
    parser.add_argument('--minutes', type=float, default=28, help='at most in all')
    parser.add_argument('--processes', type=int, default=2, help='at the same time')
    parser.add_argument('--loaders', nargs='*', default=[], help='only these')
    parser.add_argument('--seed', type=int, default=0, help='another one spoils otherwise')
    parser.add_argument('--output', type=Path, default=Path(tempfile.gettempdir()) / 'soak',
                        help='where the files go that something was found with')
    parser.add_argument('--child', default='', help=argparse.SUPPRESS)
    parser.add_argument('--start', type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument('--fork', action='store_true', help=argparse.SUPPRESS)
    return parser


# ---- the child

def child(args):
    """Loads the spoilt files from args.start on; writes the number of each into args.output / counter beforehand."""
    folder = args.output
    import fuzzing
    loader = fuzzing.loaders()[args.child]
    fuzzing.unchecked()
    if not args.fork:
        fuzzing.without_forks()
    path = folder / 'work' / loader.name
    path.parent.mkdir(exist_ok=True)
    problem_of, spoilt = fuzzing.problem_of, fuzzing.spoilt
    path.write_bytes(loader.seeds[0].wrap(loader.seeds[0].content))
    problem_of(loader, path)    # what is imported late is imported now
    for encoding in ('raw-unicode-escape', 'unicode-escape', 'latin-1', 'ascii', 'utf-8-sig', 'utf-16', 'utf-32'):
        codecs.lookup(encoding)
    expected = {item.name for item in path.parent.iterdir()}
    told = []
    sys.addaudithook(lambda event, values: watch(event, values, path.parent, told))
    in_use = int(Path('/proc/self/statm').read_text().split()[0]) * mmap.PAGESIZE
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MAX_MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with (folder / 'counter').open('r+b') as file:
        counter = mmap.mmap(file.fileno(), 8)
    for number in range(args.start, args.files):
        counter[:8] = number.to_bytes(8, 'little')
        content = spoilt(loader, number, args.seed)
        path.write_bytes(content)
        told.clear()
        before = peak_memory()
        signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)    # whose signal ends the process, whatever it is doing
        signal.setitimer(signal.ITIMER_REAL, MAX_WAIT)
        problem = problem_of(loader, path)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        problem = problem or (told and told[0])
        if not problem and set(os.listdir(path.parent)) != expected:
            problem = f'left a file: {set(os.listdir(path.parent)) - expected}'
        if not problem and peak_memory() > max(before, MAX_MEMORY):
            problem = f'took {peak_memory() >> 20} MB'
        if problem:
            print(f'{number}\t{problem!r}', flush=True)
    counter[:8] = args.files.to_bytes(8, 'little')
    os._exit(0)


def watch(event, values, folder, told):
    """Notes what no loader has any business to do."""
    if event == 'open':
        name, mode, flags = values
        if isinstance(name, str | bytes | os.PathLike) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and \
                Path(os.fsdecode(name)).absolute().parent != folder.absolute():
            told.append(f'opens {name!r} for writing')
    elif event in CHANGES or FORBIDDEN.match(event):
        told.append(f'{event} {values!r:.100}')


def peak_memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


# ---- the parent

class Run:
    """The children of one loader, one after the other."""

    def __init__(self, name, args):
        self.name, self.args, self.found, self.started = name, args, [], time.monotonic()
        self.folder = Path(args.work) / name
        self.folder.mkdir(parents=True)
        (self.folder / 'counter').write_bytes(bytes(8))
        self.contained = 0
        self.start(0, args.files)

    def start(self, first, stop, *more):
        command = [sys.executable, __file__, '--child', self.name, '--start', str(first), '--seed',
                   str(self.args.seed), '--files', str(stop), '--output', str(self.folder), *more]
        environment = {**os.environ, 'OPENBLAS_NUM_THREADS': '1', 'PYTHONPATH': f'{HERE.parent}:{HERE}',
                       'PYTHONWARNINGS': 'ignore', 'PYTHONFAULTHANDLER': '1'}
        self.output = (self.folder / 'found').open('w+')
        self.process = subprocess.Popen(command, stdout=self.output, stderr=(self.folder / 'errors').open('w'),
                                        env=environment)

    def done(self):
        return int.from_bytes((self.folder / 'counter').read_bytes(), 'little')

    def over(self):
        """Whether it has come to its end; a child that was killed is noted, and the next one begun."""
        if self.process.poll() is None:
            return False
        done = self.note_end(self.args.files)
        if done == self.args.files or len(self.found) > MAX_FOUND or self.process.returncode > 0 and done == 0:
            return True
        self.start(done + 1, self.args.files)
        return False

    def note_end(self, stop):
        """What the child found, its own end among it, if that was before its time. Returns how far it came."""
        self.note()
        done, status = self.done(), self.process.returncode
        if done == stop:
            return done
        name = signal.Signals(-status).name if status < 0 else f'exit code {status}'
        said = (self.folder / 'errors').read_text(errors='replace').strip().splitlines()
        said = next((line.strip() for line in said if line.startswith('  File')), said[-1] if said else '')
        self.found.append((done, {'SIGPROF': f'hangs: more than {MAX_SECONDS} s of processor time',
                                  'SIGALRM': f'waits for more than {MAX_WAIT} s'}.get(name, f'{name}: {said}')))
        return done

    def confirm(self):
        """Loads what something was found with once more, where HDF5 was opened without a child of its own."""
        if not self.name.endswith('.h5'):
            return
        numbers, self.found = sorted({number for number, _ in self.found}), []
        for number in numbers:
            self.start(number, number + 1, '--fork')
            self.process.wait()
            self.note_end(number + 1)
        self.contained = len(numbers) - len({number for number, _ in self.found})

    def note(self):
        """What the child has said that it found."""
        self.output.seek(0)
        for line in self.output.read().splitlines():
            number, _, problem = line.partition('\t')
            self.found.append((int(number), problem))
        self.output.close()

    def stop(self):
        """Ends it, and says how far it came and how long that took."""
        self.process.kill()
        self.process.wait()
        if not self.output.closed:
            self.note()
        self.files, self.seconds = self.done(), time.monotonic() - self.started
        self.confirm()

    def save(self, loaders):
        import fuzzing
        for number, _ in self.found[:MAX_SHOWN]:
            path = self.args.output / f'{number}_{self.name}'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(fuzzing.spoilt(loaders[self.name], number, self.args.seed))


def main():
    args = build_parser().parse_args()
    if args.child:
        return child(args)
    import fuzzing
    loaders = fuzzing.loaders()
    waiting, running, finished = [name for name in loaders if name in args.loaders or not args.loaders], [], []
    args.work = Path('/dev/shm' if Path('/dev/shm').is_dir() else tempfile.gettempdir()) / f'soak_{os.getpid()}'
    try:
        end, told = time.monotonic() + 60 * args.minutes, time.monotonic()
        while (waiting or running) and time.monotonic() < end:
            while waiting and len(running) < args.processes:
                running.append(Run(waiting.pop(0), args))
            time.sleep(.2)
            for run in [run for run in running if run.over()]:
                running.remove(run)
                run.stop()
                finished.append(run)
            if time.monotonic() - told > 20:
                told = time.monotonic()
                print('; '.join(f'{run.name} {run.done():,}' for run in running), file=sys.stderr, flush=True)
        for run in running:
            run.stop()
            finished.append(run)
        print('| loader | files | a second | found | contained |\n|---|---|---|---|---|')
        for run in sorted(finished, key=lambda run: list(loaders).index(run.name)):
            print(f'| {run.name} | {run.files:,} | {run.files / run.seconds:,.0f} | {len(run.found) or "nothing"} | '
                  f'{run.contained or ""} |')
        for run in finished:
            run.save(loaders)
            for number, problem in run.found[:MAX_SHOWN]:
                print(f'{args.output / f"{number}_{run.name}"}: {problem}')
    finally:
        shutil.rmtree(args.work, ignore_errors=True)
    if waiting:
        print('no time was left for:', ', '.join(waiting))
    return int(any(run.found for run in finished))


if __name__ == '__main__':
    sys.exit(main())

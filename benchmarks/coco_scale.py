"""Time and peak memory of the commands that a user would type, at COCO's size: training, captioning and scoring.

    python benchmarks/coco_scale.py [--data_root data] [--json FILE] [--iterations 500] [--images 123287] [--runs warm]

Makes the data set if it does not exist (coco_shaped.py). `driver.py` then trains on it, and
`eval_sentence_predictions.py -b 5` computes perplexity and captions on test and scores them. Each runs twice: cold,
without the cached integer form of dataset.json, and warm, with it. For comparison, training steps on batches in memory
are timed too. All output goes to a temporary folder.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))    # a checkout need not be installed

import imagernn.nn.blas  # noqa: F401  before numpy, as the timed script does

# isort: split
import coco_shaped
import numpy as np
from machine import describe_cpu
from ours import Ours
from work import SIZES, random_batch

from imagernn.corpus.captioned_images import getDataProvider
from imagernn.corpus.dataset_file import STORE_NAME
from imagernn.errors import InputError, script
from imagernn.formats.json_files import write_json
from imagernn.formats.writing import require_writable

ROOT = Path(__file__).resolve().parents[1]
BATCH = 100
SIZE = 512      # of the encodings and of the hidden state
BEAM = 5
LEARNING_RATE = 1e-4    # with driver.py's default, 1e-3, the cost explodes within a few steps on these features
# functions of eval_sentence_predictions that are timed one by one
PARTS = ('open_data', 'caption_images', 'split_perplexity', 'score')
COLUMNS = {'job': 'job', 'seconds': 'seconds', 'first_step': 'to the first step', 'load': 'loading the data',
           'iterations': 'iterations/s', 'captions': 'captions/s', 'sentences': 'perplexity, sentences/s',
           'scoring': 'scoring', 'perplexity': 'perplexity', 'peak_mb': 'peak memory, MB'}


def run(command):
    """Run a Python command in the root folder and print its output: (seconds, peak memory in bytes, its stdout).

    The peak is the resident memory that the operating system counted for that process. A child process starts with the
    memory of its parent, so this process keeps nothing large. Raises InputError if the command fails.
    """
    print('$ python', *command, file=sys.stderr)
    with tempfile.TemporaryFile('w+', encoding='utf-8') as file:
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT, stdout=file)
        _, status, usage = os.wait4(process.pid, 0)
        seconds, process.returncode = time.perf_counter() - started, os.waitstatus_to_exitcode(status)
        file.seek(0)
        text = file.read()
    print(text, file=sys.stderr)
    if process.returncode:
        raise InputError(f'{command[0]} failed with exit code {process.returncode}; see its output above')
    return seconds, usage.ru_maxrss * (1 if sys.platform == 'darwin' else 1024), text


def train(data_root, images, iterations, folder):
    """Train with driver.py: the row of the table, without its name, and the path of the last checkpoint."""
    per_epoch = max(1, coco_shaped.SENTENCES * coco_shaped.split_sizes(images)['train'] // BATCH)
    command = ['driver.py', '-d', name_of(images), '--data_root', data_root, '-b', BATCH,
               '-m', iterations / per_epoch, '--image_encoding_size', SIZE, '--word_encoding_size', SIZE,
               '--hidden_size', SIZE, '-l', LEARNING_RATE, '-p', iterations, '--eval_max_images', 1000,
               '--fappend', 'scale', '-o', folder, '--worker_status_output_directory', folder, '--profile']
    seconds, peak, printed = run(command)

    def number_in_output(pattern):
        return float(re.search(pattern, printed, re.MULTILINE)[1])

    checkpoint, = folder.glob('*_last.h5')
    job = {'seconds': seconds,
           'first_step': number_in_output(r'^first step after ([\d.]+) s'),    # counted from the end of the imports
           'peak_mb': peak / 1e6, 'iterations': 1000 / number_in_output(r'^\d+ steps, ([\d.]+) ms'),
           'perplexity': number_in_output(r'perplexity ([\d.]+) on val')}
    return job, checkpoint


def caption(data_root, images, checkpoint, folder):
    """Caption and score test with eval_sentence_predictions.py: the row of the table, without its name."""
    parts = folder / 'parts.json'
    result = folder / 'result_struct.json'
    test = coco_shaped.split_sizes(images)['test']
    seconds, peak, _ = run([__file__, '--timed', parts, checkpoint, '--data_root', data_root, '-b', BEAM,
                            '--result_struct_filename', result])
    took = json.loads(parts.read_text(encoding='utf-8'))
    return {'seconds': seconds, 'load': took['open_data'], 'captions': test / took['caption_images'],
            'sentences': coco_shaped.SENTENCES * test / took['split_perplexity'], 'scoring': took['score'],
            'peak_mb': peak / 1e6, 'perplexity': json.loads(result.read_text(encoding='utf-8'))['gtppl']}


def timed_evaluation(path, argv):
    """Run eval_sentence_predictions.py with argv, and write the seconds that each of its PARTS took to path."""
    sys.path.insert(0, str(ROOT))
    import eval_sentence_predictions

    def timed(name, function):
        def call(*args, **more):
            start = time.perf_counter()
            result = function(*args, **more)
            if name == 'caption_images':    # yields the captions one by one
                result = list(result)
            took[name] = time.perf_counter() - start
            return result
        return call

    took = {}
    for name in PARTS:
        setattr(eval_sentence_predictions, name, timed(name, getattr(eval_sentence_predictions, name)))
    code = eval_sentence_predictions.main(argv)
    write_json(path, took)
    return code


def in_memory(steps=40, warm_up=5):
    """Time training steps on random batches of COCO's size, in this process: the row of the table."""
    rng = np.random.default_rng(0)
    ours = Ours(SIZES['coco'], 'lstm', rng)
    batches = [random_batch(SIZES['coco'], rng) for _ in range(10)]
    for step in range(steps + warm_up):
        if step == warm_up:
            started = time.perf_counter()
        ours.train_step(batches[step % len(batches)])
    seconds = time.perf_counter() - started
    return {'job': f'{steps} iterations, in memory', 'seconds': seconds, 'iterations': steps / seconds}


def name_of(images):
    return 'coco_shaped' if images == coco_shaped.IMAGES else f'coco_shaped_{images}'


def table(jobs):
    """The jobs as a Markdown table."""
    lines = [list(COLUMNS.values()), ['---', *['---:'] * (len(COLUMNS) - 1)]]
    lines += [[cell(job.get(key)) for key in COLUMNS] for job in jobs]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def cell(value):
    if isinstance(value, float):
        return f'{value:,.0f}' if value >= 100 else f'{value:.1f}' if value >= 10 else f'{value:.2f}'
    return value or ''


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    group = parser.add_argument_group('data')
    group.add_argument('--data_root', type=Path, default=ROOT / 'data',
                       help='The folder of data sets, in which coco_shaped is made or found.')
    group.add_argument('--images', type=int, default=coco_shaped.IMAGES,
                       help='The number of images in the data set. Use a few thousand for a quick trial.')
    group = parser.add_argument_group('what to time')
    group.add_argument('--iterations', type=int, default=500,
                       help='The number of training iterations. More of them make the start count less.')
    group.add_argument('--runs', nargs='+', choices=('cold', 'warm'), default=('cold', 'warm'),
                       help='cold deletes the cached integer form of dataset.json first, so that reading the data is '
                            'timed in full. warm uses it, as every later run of a user does.')
    group = parser.add_argument_group('output')
    group.add_argument('--json', default=str(ROOT / 'benchmarks/coco_scale.json'),
                       help='The file for all values. Name another one to keep the published results.')
    return parser


@script
def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ['--timed']:    # this is how caption() calls this script
        return timed_evaluation(argv[1], argv[2:])
    args = build_parser().parse_args(argv)
    require_writable(args.json)
    data_root = args.data_root.absolute()
    data = data_root / name_of(args.images)
    jobs = []
    with tempfile.TemporaryDirectory(prefix='coco_scale_') as workshop:
        run(['benchmarks/coco_shaped.py', '--output', data, '--images', args.images])
        for temperature in args.runs:
            folder = Path(workshop) / temperature
            folder.mkdir()
            if temperature == 'cold':
                (data / STORE_NAME).unlink(missing_ok=True)
            elif not (data / STORE_NAME).exists():
                getDataProvider(data.name, data_root)
            trained, checkpoint = train(data_root, args.images, args.iterations, folder)
            if temperature == 'cold':
                (data / STORE_NAME).unlink(missing_ok=True)
            captioned = caption(data_root, args.images, checkpoint, folder)
            jobs += [{'job': f'{args.iterations} iterations, {temperature}', **trained},
                     {'job': f'perplexity, captions and scores, {temperature}', **captioned}]
    jobs.append(in_memory())
    print(table(jobs))
    write_json(args.json, {'machine': describe_cpu(), 'images': args.images, 'batch_size': BATCH, 'size': SIZE,
                           'beam_size': BEAM, 'jobs': jobs})
    return 0


if __name__ == '__main__':
    sys.exit(main())

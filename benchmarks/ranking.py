"""Time the ranking models: training beside PyTorch, memory at COCO's size, the album's search and indexing.

    python benchmarks/ranking.py [--only step,memory,search,indexing] [--pairs 7] [--pictures FOLDER] [--output FILE]

step: training steps of both rankers and of the same models in PyTorch (ranking_peer.py), as in compare.py: both sides
must compute the same, PyTorch's options are tried, then all take turns in one process. memory: `imagernn train-ranker
--ranker regions` on made-up data with COCO's numbers of images, sentences and words. search: sentences in albums of
made-up photos. indexing: photos a second, beside `imagernn extract` on the same pictures. Prints Markdown tables; all
data goes to a temporary folder, up to 7 GB.
"""

import argparse
import functools
import math
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))    # a checkout need not be installed

import imagernn.nn.blas  # noqa: F401  before numpy

# isort: split
import coco_shaped
import h5py
import machine
import numpy as np
import report
from coco_scale import run
from compare import WARM_UP, check_training, chosen, contest, fastest_way, job_row, measure, summary
from machine import seconds_of
from report import bold, spread, table
from work import RANKERS, WORD_ENCODING, random_ranking_batch

from imagernn import extract_features
from imagernn.convnet.extraction import boxes_of, parse_regions
from imagernn.errors import InputError, script
from imagernn.formats.json_files import write_json
from imagernn.formats.writing import require_writable
from imagernn.gallery import flags
from imagernn.gallery.index import SHARD, Entry, Index, read_shards, write_shard
from imagernn.gallery.models import Models
from imagernn.gallery.opening import open_album
from imagernn.gallery.search import Search
from imagernn.nn.solver import Solver
from imagernn.nn.workers import Workers
from imagernn.ranking import train
from imagernn.ranking.model import cost_and_grads, init_model
from imagernn.ranking.ranker import Ranker

THREADS = 2             # of either side
REGIONS, D = 20, 1280   # of each image of the job memory, and the features of each region
DATA = 'coco_regions'   # the name of its data set
PHOTOS = (1000, 10_000, 100_000)    # in the albums of the job search
WINDOWS = 'windows'     # their regions
QUERIES, QUERY_WORDS = 50, 8
QUERY_WARM_UP = 5


@script
def main(argv=None):
    args = parse(argv)
    for package in ('torch', 'threadpoolctl', 'matplotlib') if 'step' in args.only else ():
        report.require(package)
    if args.output:
        require_writable(args.output)
    found = {'machine': machine.describe_cpu()}
    with tempfile.TemporaryDirectory(prefix='ranking_', dir=args.workshop) as workshop:
        for name in args.only:
            found[name] = JOBS[name](args, Path(workshop))
            print(f'{TABLES[name](found[name])}\n', flush=True)
    if args.output:
        write_json(args.output, found)
    return 0


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--only', default=','.join(name for name in JOBS if name != 'indexing'),
                        help=f'The jobs, separated by commas, of {",".join(JOBS)} (default: all but indexing, which '
                             'needs --pictures).')
    parser.add_argument('--pairs', type=int, default=7,
                        help='The number of timed turns (default: 7). More give a steadier median.')
    parser.add_argument('--iterations', type=int, default=300,
                        help='The training steps of the job memory (default: 300).')
    parser.add_argument('--photos', type=int, nargs='+', default=PHOTOS,
                        help='The numbers of photos of the job search (default: 1000 10000 100000).')
    parser.add_argument('--pictures', type=Path,
                        help='A folder of photos for the job indexing, such as data/flickr8k/imgs.')
    parser.add_argument('--max_pictures', type=int, default=512, help='How many of them to index (default: 512).')
    parser.add_argument('--sentences_ranker', help="The album's first ranker in the job indexing (default: the "
                                                   'pretrained one).')
    parser.add_argument('--regions_ranker', help="The album's second ranker in the job indexing (default: the "
                                                 'pretrained one).')
    parser.add_argument('--workshop', help='The folder for temporary data (default: that of the system).')
    parser.add_argument('--output', type=Path, help='A file for all values, as JSON (default: none).')
    args = parser.parse_args(argv)
    args.only = chosen('--only', args.only, JOBS)
    for name in ('pairs', 'iterations', 'max_pictures'):
        if getattr(args, name) < 1:
            raise InputError(f'--{name} {getattr(args, name)}: must be at least 1')
    if 'indexing' in args.only and args.pictures is None:
        raise InputError('--only indexing: needs photos; name a folder of them with --pictures')
    return args


# ---- training beside PyTorch ----------------------------------------------------------------------------------------

class Ours:
    """Our side: a ranker with the defaults of train-ranker, its solver and its threads."""

    def __init__(self, kind, size, rng):
        self.params = vars(train.build_parser().parse_args([
            '--ranker', kind, '--hidden_size', str(size.hidden), '--word_encoding_size', str(WORD_ENCODING)]))
        self.model = init_model(self.params, size.features, size.V, rng)
        self.rng, self.workers, self.solver = rng, Workers(THREADS), Solver(self.params)

    def train_step(self, batch):
        """Make one update, with dropout. Returns the cost."""
        cost, grads, _ = cost_and_grads(batch, self.model, self.params, self.rng, self.workers)
        self.solver.step(self.model, grads, workers=self.workers)
        return cost

    def cost_and_grads(self, batch):
        """The cost of a batch and its gradients, without dropout and weight decay."""
        return cost_and_grads(batch, self.model, {**self.params, 'regc': 0}, workers=self.workers)[:2]


def contestants(kind, size):
    """Our side and PyTorch's with the same initial weights, and a random number generator."""
    from ranking_peer import RankingPeer

    rng = np.random.default_rng(0)
    ours = Ours(kind, size, rng)
    return ours, RankingPeer(ours.model, ours.params), rng


def step_job(kind, pairs, size, rounds=3):
    """Time training steps of a kind of ranker: forward, backward and update, with dropout, in milliseconds."""
    ours, peer, rng = contestants(kind, size)
    batches = [random_ranking_batch(size, rng) for _ in range(WARM_UP + pairs)]
    choices = [name for name in peer.options if kind == 'regions' or name != 'scores']
    checks = check_training(ours, peer, batches[0], choices)
    way = fastest_way(peer, choices, lambda: peer.train_step(batches[0]), rounds)
    runs = contest(peer, way, lambda i: ours.train_step(batches[i]), lambda i: peer.train_step(batches[i]))
    seconds, _ = measure(runs, pairs, report.STEPS)
    if not all(math.isfinite(who.cost_and_grads(batches[0])[0]) for who in (ours, peer)):
        raise RuntimeError(f'{kind}: the weights exploded, so the times mean nothing')
    return {**job_row(size, seconds), 'way': way, 'checks': checks}


def step_jobs(args, _):
    import torch

    torch.set_num_threads(THREADS)
    return [step_job(kind, args.pairs, size) for kind, size in RANKERS.items()]


def step_table(rows):
    head = ('training step', 'ours, ms', 'PyTorch as usual, ms', 'times as fast', 'PyTorch at its best, ms',
            'times as fast', 'its best way')
    differences = '; '.join(f'{row["size"]}: cost {row["checks"]["cost"]:.0e}, gradients '
                            f'{row["checks"]["gradients"]:.0e}' for row in rows)
    return table(head, [(row['size'], spread(row['ours']), spread(row['usual']), bold(row['usual_ratio']),
                         spread(row['torch']), bold(row['ratio']), report.way(row)) for row in rows]) + (
        f'\n\nLargest relative differences from PyTorch: {differences}.')


# ---- memory at COCO's size ------------------------------------------------------------------------------------------

def memory_job(args, workshop):
    """Train words and regions on data of COCO's size: peak memory of the process in MB, and milliseconds a step."""
    data = workshop / DATA
    data.mkdir()
    places = np.random.default_rng(0).random(coco_shaped.IMAGES)
    coco_shaped.write_sentences(data / 'dataset.json', places, np.random.default_rng(1))
    write_regions(data / 'regions.h5', len(places))
    batch = RANKERS['regions'].sentences
    epoch = coco_shaped.SENTENCES * coco_shaped.split_sizes(len(places))['train'] // batch
    _, peak, printed = run(['-m', 'imagernn', 'train-ranker', '-d', DATA, '--data_root', workshop, '--features',
                            'regions.h5', '--ranker', 'regions', '--hidden_size', RANKERS['regions'].hidden, '-m',
                            args.iterations / epoch, '-p', args.iterations, '-o', workshop,
                            '--worker_status_output_directory', workshop, '--profile'])
    shutil.rmtree(data)
    return {'iterations': args.iterations, 'peak_mb': peak / 1e6,
            'step_ms': float(re.search(r'^\d+ steps, ([\d.]+) ms', printed, re.MULTILINE)[1])}


def write_regions(path, images, block=1024):
    """Write a feature file with REGIONS regions of each image, laid out as extract does. Images repeat after a block.
    """
    noise = np.random.default_rng(2).random((block, 1 + REGIONS, D), np.float32).astype(np.float16)
    with h5py.File(path, 'w') as file:
        feats = file.create_dataset('feats', (images, D), np.float16)
        regions = file.create_dataset('regions', (images, REGIONS, D), np.float16)
        for start in range(0, images, block):
            some = noise[:min(block, images - start)]
            feats[start:start + block], regions[start:start + block] = some[:, 0], some[:, 1:]


def memory_table(found):
    return (f'Words and regions at COCO\'s size: peak memory {found["peak_mb"]:,.0f} MB in {found["iterations"]:,} '
            f'training steps of {found["step_ms"]:.0f} ms and an evaluation.')


# ---- the album ------------------------------------------------------------------------------------------------------

def search_jobs(args, workshop):
    """Time searches in albums of made-up photos: a row for each number of photos, in milliseconds."""
    rng = np.random.default_rng(0)
    models = made_up_models(rng)
    rows = []
    for number in args.photos:
        folder = workshop / f'album_{number}'
        folder.mkdir()
        index = made_up_index(folder, number, models, rng)
        started = time.perf_counter()
        search = Search(index, models)
        opening, words = time.perf_counter() - started, sorted(models.by_sentence.checkpoint['wordtoix'])
        queries = [' '.join(rng.choice(words, QUERY_WORDS)) for _ in range(QUERY_WARM_UP + QUERIES)]
        times = [seconds_of(functools.partial(search.find, query)) for query in queries]
        encoding = [seconds_of(functools.partial(encode, models, query)) for query in queries]
        rows.append({'photos': number, 'opening': opening,
                     **{name: summary([1e3 * second for second in some[QUERY_WARM_UP:]])
                        for name, some in (('search', times), ('encoding', encoding))}})
        shutil.rmtree(folder)
    return rows


def encode(models, query):
    """What a search does with its sentence first, by both models."""
    for ranker in (models.by_sentence, models.by_region):
        ranker.encode_sentences([query.split()])


def made_up_models(rng):
    """Models with random weights, of the sizes of the training steps above. The network and captioner are missing."""
    regions = parse_regions(WINDOWS)
    rankers = []
    for kind, size in RANKERS.items():
        ours = Ours(kind, size, rng)
        wordtoix = {word: ix for ix, word in enumerate(coco_shaped.word_names(size.words).tolist(), 1)}
        standard = {'mean': np.zeros((1, D), np.float32), 'scale': np.ones((1, D), np.float32)}
        rankers.append(Ranker({'params': ours.params, 'model': ours.model, 'wordtoix': wordtoix,
                               'standard': standard}))
    return Models(None, '', regions, None, *rankers, {})


def made_up_index(folder, number, models, rng):
    """An Index of photos that do not exist, whose shards are on disk like those of real ones."""
    E, R = models.by_sentence.dim, len(boxes_of(models.regions))
    rows = rng.standard_normal((SHARD, models.width), np.float32)
    rows[:, E:] /= np.linalg.norm(rows[:, E:].reshape(SHARD, R, -1), axis=2).repeat(models.by_region.dim, axis=1)
    rows, photos = rows.astype(np.float16), []
    for start in range(0, number, SHARD):
        some = rows[:min(SHARD, number - start)]
        vectors = rng.standard_normal((len(some), E), np.float32)    # those of regions are the same in each shard
        some[:, :E] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        entries = [Entry(f'{start + k:06}.jpg', 1, 1, 'a photo', 500, 375, '') for k in range(len(some))]
        write_shard(folder, entries, some, models)
        photos += [entry.photo for entry in entries]
    return Index(read_shards(folder, models)[0], photos)


def search_table(rows):
    head = ('photos', 'search, ms', 'of which encoding the sentence, ms', 'opening the album, s')
    return table(head, [(f'{row["photos"]:,}', bold(row['search'], '{:.1f}'), bold(row['encoding'], '{:.1f}'),
                         f'{row["opening"]:.1f}') for row in rows])


def indexing_job(args, workshop):
    """Index pictures and extract their features by turns: photos a second of each, and the ratio."""
    pictures = sorted(args.pictures.iterdir())[:args.max_pictures]
    photos = workshop / 'photos'
    photos.mkdir()
    for path in pictures:
        shutil.copy(path, photos)
    parser = argparse.ArgumentParser()
    flags.add_album_flags(parser)
    index_folder, features = workshop / 'index', workshop / 'features.h5'
    rankers = {name: getattr(args, name) for name in ('sentences_ranker', 'regions_ranker')}
    params = vars(parser.parse_args([str(photos), '--index_folder', str(index_folder)])) | rankers
    runs = {'indexing': lambda: open_album(params),
            'extracting': lambda: extract_features.main([str(photos), '--output', str(features)])}
    rates = {name: [] for name in runs}
    for turn in range(1 + args.pairs):
        for name, work in list(runs.items())[::1 if turn % 2 else -1]:
            shutil.rmtree(index_folder, ignore_errors=True)
            features.unlink(missing_ok=True)
            rates[name].append(len(pictures) / seconds_of(work))
    rates = {name: values[1:] for name, values in rates.items()}
    ratio = [a / b for a, b in zip(rates['indexing'], rates['extracting'], strict=True)]
    return {'pictures': len(pictures), 'ratio': summary(ratio), **{name: summary(some) for name, some in rates.items()}}


def indexing_table(found):
    head = ('pictures', 'indexing, photos/s', 'extract, photos/s', 'ratio')
    return table(head, [(str(found['pictures']), spread(found['indexing']), spread(found['extracting']),
                         bold(found['ratio']))])


JOBS = {'memory': memory_job, 'step': step_jobs, 'search': search_jobs, 'indexing': indexing_job}
TABLES = {'memory': memory_table, 'step': step_table, 'search': search_table, 'indexing': indexing_table}


if __name__ == '__main__':
    sys.exit(main())

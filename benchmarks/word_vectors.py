"""Train captioners with word vectors from elsewhere and without, on all training images and on a tenth of them.

    python benchmarks/word_vectors.py data/flickr8k glove.6B.100d.txt --output FOLDER [--seeds 0 1 2] [--only_table]

Three arms for each share of the images and each seed: words learned from scratch, started from the vectors and fixed,
and started from them and trained further. Each run trains with driver.py, and its best checkpoint on val captions the
test images; FOLDER keeps a small result file and the captions. A run whose result is there is skipped, and one that was
interrupted is resumed. Prints means over the seeds and the differences from scratch, with two 95 % intervals:

seeds   Other seeds would give other means: Student's t interval, with the variance pooled over the three arms.
images  Other test images would give other scores: the bootstrap of imagernn.metrics.bootstrap over the images, of the
        difference between the arms' means over the same seeds.
"""

import argparse
import json
import re
import shutil
import sys
from pathlib import Path

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))    # a checkout need not be installed

import imagernn.nn.blas  # noqa: F401  before numpy

# isort: split
import numpy as np
from coco_scale import run
from report import table
from scipy import stats

from imagernn.errors import InputError, script
from imagernn.formats.json_files import write_json
from imagernn.formats.writing import require_folder
from imagernn.metrics import caption_statistics
from imagernn.metrics.bootstrap import interval, resampled

ARMS = {'scratch': [], 'fixed': ['--word_vectors', '--fix_word_vectors'], 'fine-tuned': ['--word_vectors']}
SIZE, BEAM, LEVEL, DRAWS = 100, 4, .95, 1000    # SIZE: of the vectors
MODEL = ['--solver', 'adam', '--tanhC_version', 1, '--image_at', 'both', '--hidden_size', 256, '--image_encoding_size',
         SIZE, '--word_encoding_size', SIZE, '--learning_rate_schedule', 'cosine', '--warmup', .5]
# by the share of the training images; a few sentences need smaller batches, and more of their words are rare
TRAINING = {1: ['-m', 12], .1: ['-m', 24, '-b', 25, '--word_count_threshold', 2]}
MEASURES = {'perplexity on val': 'val_perplexity', 'on test': 'test_perplexity', 'BLEU-4': 'Bleu_4', 'CIDEr': 'CIDEr'}
SCORES = ('Bleu_4', 'CIDEr')    # of the captions, times 100 in the table


@script
def main(argv=None):
    args = parse(argv)
    require_folder(args.output)
    for seed in () if args.only_table else args.seeds:
        for share in args.shares:
            folder = data_of(args, share)
            for arm in ARMS:
                if not result_path(args, share, arm, seed).exists():
                    train_and_score(args, folder, share, arm, seed)
    for share in args.shares:
        print(share_table(args, share))
    return 0


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('dataset', type=Path, help='The folder of dataset.json, such as data/flickr8k.')
    parser.add_argument('vectors', type=Path, help=f'A file of word vectors of {SIZE} numbers.')
    parser.add_argument('--features', default='lite0_feats.h5',
                        help='The feature file: a name in that folder, or a path (default: lite0_feats.h5).')
    parser.add_argument('--output', type=Path, required=True, help='The folder for results, and for runs under way.')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='The seeds (default: 0 1 2).')
    parser.add_argument('--shares', type=float, nargs='+', choices=tuple(TRAINING), default=list(TRAINING),
                        help='The shares of the training images (default: 1 and 0.1).')
    parser.add_argument('--num_threads', type=int, default=2, help='The threads of each run (default: 2).')
    parser.add_argument('--only_table', action='store_true', help='Train nothing; print the table of what is there.')
    args = parser.parse_args(argv)
    args.dataset, args.vectors, args.output = (path.resolve() for path in (args.dataset, args.vectors, args.output))
    args.features = (args.dataset / args.features).resolve()    # which an absolute path replaces
    return args


def data_of(args, share):
    """The folder of the data set with this share of its training images, always the same ones; writes it if need be."""
    if share == 1:
        return args.dataset
    data = json.loads((args.dataset / 'dataset.json').read_text(encoding='utf-8'))
    train = [image['imgid'] for image in data['images'] if image['split'] == 'train']
    kept = set(np.random.default_rng(0).permutation(train)[:round(share * len(train))].tolist())
    folder = args.output / f'{args.dataset.name}_{share}'
    folder.mkdir(exist_ok=True)
    write_json(folder / 'dataset.json', {**data, 'images': [
        image for image in data['images'] if image['split'] != 'train' or image['imgid'] in kept]})
    return folder


def train_and_score(args, folder, share, arm, seed):
    """Train a captioner of this arm, caption the test images, and write the result file. The weights are not kept."""
    path = result_path(args, share, arm, seed)
    runs = path.with_suffix('')
    vectors = [part for flag in ARMS[arm] for part in ([flag, args.vectors] if flag == '--word_vectors' else [flag])]
    _, _, printed = run(['driver.py', '-d', folder.name, '--data_root', folder.parent, '--features', args.features,
                         *MODEL, *TRAINING[share], *vectors, '--seed', seed, '--num_threads', args.num_threads,
                         '--fappend', path.stem, '-o', runs, '--worker_status_output_directory', runs,
                         '--resume', 'auto'])
    perplexity, checkpoint = re.search(r'^best perplexity on val: ([\d.]+), in (.+)$', printed, re.MULTILINE).groups()
    captions = captions_path(args, share, arm, seed)
    run(['eval_sentence_predictions.py', checkpoint, '--data_root', folder.parent, '-b', BEAM, '--num_threads',
         args.num_threads, '--result_struct_filename', captions])
    result = json.loads(captions.read_text(encoding='utf-8'))
    write_json(path, {'val_perplexity': float(perplexity), 'test_perplexity': result['gtppl'],
                      **{name: result['scores'][name] for name in SCORES}})
    shutil.rmtree(runs)


def result_path(args, share, arm, seed):
    return args.output / f'{arm}_{share:g}_seed{seed}.json'


def captions_path(args, share, arm, seed):
    return args.output / f'{arm}_{share:g}_seed{seed}_captions.json'


# ---- the table ------------------------------------------------------------------------------------------------------

def share_table(args, share):
    """The Markdown table of a share of the images, from the seeds that all arms have results of."""
    seeds = [seed for seed in args.seeds if all(result_path(args, share, arm, seed).exists() for arm in ARMS)]
    if not seeds:
        return f'{share:.0%} of the training images: no seed has results of all arms yet\n'
    results = {arm: [json.loads(result_path(args, share, arm, seed).read_text(encoding='utf-8')) for seed in seeds]
               for arm in ARMS}
    images = image_intervals({arm: [read_statistics(captions_path(args, share, arm, seed)) for seed in seeds]
                              for arm in ARMS})
    rows = []
    for title, name in MEASURES.items():
        unit = 100 if name in SCORES else 1
        values = {arm: [unit * result[name] for result in results[arm]] for arm in ARMS}
        for arm in ARMS:
            rows.append((title if arm == 'scratch' else '', arm, f'{np.mean(values[arm]):.2f}',
                         *(('', '', '') if arm == 'scratch' else
                           (f'{np.mean(values[arm]) - np.mean(values["scratch"]):+.2f}',
                            interval_text(seed_interval(values, arm)),
                            interval_text(unit * np.array(images[arm][name])) if name in images[arm] else ''))))
    head = ('measure', 'words', 'mean', 'difference', 'its interval, seeds', 'its interval, images')
    return (f'{share:.0%} of the training images; seeds: {", ".join(map(str, seeds))}\n\n'
            f'{table(head, rows)}\n')


def seed_interval(values, arm):
    """Student's t interval (low, high) of an arm's mean minus that of scratch; (nan, nan) of a single seed.

    values: {arm: a number for each seed}. The variance of the runs is taken to be the same in all arms.
    """
    k = len(values[arm])
    if k < 2:
        return np.nan, np.nan
    difference = np.mean(values[arm]) - np.mean(values['scratch'])
    pooled = np.mean([np.var(numbers, ddof=1) for numbers in values.values()])
    half = stats.t.ppf((1 + LEVEL) / 2, len(values) * (k - 1)) * np.sqrt(pooled * 2 / k)
    return difference - half, difference + half


def image_intervals(statistics):
    """The bootstrap's interval of each arm's mean score minus that of scratch: {arm: {score: (low, high)}}.

    statistics: {arm: the CaptionStatistics of each seed}, all of the same images.
    """
    arms, k = list(statistics), len(statistics['scratch'])
    found = resampled([some for arm in arms for some in statistics[arm]], DRAWS, seed=0)
    means = {name: [values.reshape(len(arms), k, *values.shape[1:]).mean(axis=1) for values in found[name]]
             for name in SCORES}    # (arms, …)
    return {arm: {name: interval(*(values[i] - values[arms.index('scratch')] for values in means[name]), LEVEL)
                  for name in SCORES} for i, arm in enumerate(arms) if arm != 'scratch'}


def read_statistics(path):
    """The CaptionStatistics of a result_struct.json."""
    blobs = json.loads(path.read_text(encoding='utf-8'))['imgblobs']
    if not blobs:
        raise InputError(f'{path}: has no captions; remove it and its result file, and run the benchmark again')
    return caption_statistics([blob['candidate']['text'].split() for blob in blobs],
                              [[reference['text'].split() for reference in blob['references']] for blob in blobs])


def interval_text(bounds):
    return 'unknown' if np.isnan(bounds[0]) else f'{bounds[0]:+.2f} to {bounds[1]:+.2f}'


if __name__ == '__main__':
    sys.exit(main())

"""Benchmark the caption scores: against pycocoevalcap, at the size of COCO's val2014, and how reliable intervals are.

    python benchmarks/scores.py captions_val2017.json [--jobs peer large coverage] [--pairs 5]

The file contains COCO's caption annotations. All times include tokenization; METEOR is left out. The jobs are:

peer      The first 5,000 images with all their references; candidates are drawn from the captions of all images. Both
          sides must give equal scores for several systems. Then pairs are timed, and the side that goes first
          alternates. Needs the extra [metrics] (pycocoevalcap) and Java, for its tokenizer.
large     40,504 images with five references each, the size of val2014, made of the file's captions, in a new process:
          the time of each part, and peak memory.
coverage  Samples of 500 images, drawn with replacement: how often the 95 % interval of a sample contains the score of
          all images, for three systems, and how often two systems that differ only by chance have p below .05.
"""

import argparse
import importlib.util
import json
import random
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))    # a checkout need not be installed

import imagernn.nn.blas  # noqa: F401  before numpy

# isort: split
import numpy as np
from compare import summary
from machine import describe_cpu, seconds_of

from imagernn.corpus.tokenize import ptb_tokenize
from imagernn.errors import InputError, script
from imagernn.metrics import CaptionStatistics, caption_statistics, compare, intervals, per_image, scores_of

IMAGES = 5000        # peer: images to score
VAL2014 = 40_504     # large: images to score
REFERENCES = 5       # large: references per image
SAMPLES = 1000       # coverage: how many samples
SAMPLE = 500         # coverage: images in each sample
PEER_NAMES = ('Bleu_1', 'Bleu_2', 'Bleu_3', 'Bleu_4', 'ROUGE_L', 'CIDEr')    # the scores that both sides compute
SAME = 1e-9                     # the largest difference that is accepted on the same tokens
SAME_AFTER_TOKENIZERS = 1e-4    # and if each side uses its own tokenizer


@script
def main(argv=None):
    args = build_parser().parse_args(argv)
    references = read_references(args.captions)
    if args.large_here:
        print(json.dumps(large_here(references)))
        return 0
    if 'peer' in args.jobs:
        require_peer()
    print('machine:', describe_cpu())
    for job in args.jobs:
        print(f'\n{job}', flush=True)
        {'peer': peer, 'large': large, 'coverage': coverage}[job](references, args)
    return 0


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    jobs = ('peer', 'large', 'coverage')
    parser.add_argument('captions', type=Path, help="COCO's caption annotations, such as captions_val2017.json")
    parser.add_argument('--jobs', nargs='+', choices=jobs, default=jobs,
                        help='peer compares with pycocoevalcap, large measures time and memory at the size of val2014, '
                             'and coverage checks how often intervals contain the true score.')
    parser.add_argument('--pairs', type=int, default=5,
                        help='The number of timed pairs in the job peer. More give a steadier median.')
    parser.add_argument('--large_here', action='store_true', help=argparse.SUPPRESS)    # used by large()
    return parser


def read_references(path):
    """The captions of each image of a COCO annotation file: a list of lists of str."""
    try:
        captions = {}
        for annotation in json.loads(path.read_text(encoding='utf-8'))['annotations']:
            captions.setdefault(annotation['image_id'], []).append(annotation['caption'])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f'{path}: is not a file of COCO caption annotations ({type(error).__name__}: {error}); '
                         'name one such as captions_val2017.json') from None
    if len(captions) < 2 or min(map(len, captions.values())) < 2:
        raise InputError(f'{path}: has {len(captions)} images; expected at least two, with two or more captions each')
    return list(captions.values())


# ------------------------------------------------------------------------------------------------ systems to score

def noise(references, seed=0):
    """For every image a caption drawn from those of all images."""
    pool = [caption for image in references for caption in image]
    return random.Random(seed).choices(pool, k=len(references))


def systems(references):
    """Systems of different quality: name → (candidates, references).

    In "a person", the candidate is an image's first caption, which is then not among its references.
    """
    others = [image[1:] for image in references]
    odd = noise(references, seed=2)
    for start, caption in enumerate(('', 'dog', '.', ' '.join(odd[:50]), 'a man a man a man')):
        odd[start::50] = [caption] * len(odd[start::50])    # the fourth has about 500 words
    by_people = [image[0] for image in references]
    return {'noise': (noise(references), references), 'a person': (by_people, others),
            'a person, or noise': ([random.Random(index).choice(pair) for index, pair in
                                    enumerate(zip(by_people, noise(references), strict=True))], others),
            'copied': (by_people, references), 'odd': (odd, references)}


# ------------------------------------------------------------------------------------------------ both sides in pairs

def require_peer():
    """Raise InputError unless pycocoevalcap can run."""
    if importlib.util.find_spec('pycocoevalcap') is None:
        raise InputError('pycocoevalcap is not installed, and the job peer needs it; install the extra: '
                         "pip install -e '.[metrics]', or choose other --jobs")
    if shutil.which('java') is None:
        raise InputError('there is no `java` on the PATH, and the tokenizer of pycocoevalcap needs it; install Java, '
                         'or choose other --jobs')


def our_scores(candidates, references):
    """Our scores of captions, tokenization included: name → float."""
    tokens, token_references = tokenized(candidates, references)
    return scores_of(caption_statistics(tokens, token_references))


def tokenized(candidates, references):
    """The token lists of candidates, and for each image the token lists of its references."""
    tokens = iter(ptb_tokenize([caption for image in references for caption in image]))
    return ptb_tokenize(candidates), [[next(tokens) for _ in image] for image in references]


def peer_tokens(candidates, references):
    """References and candidates after pycocoevalcap's tokenizer: two dicts image → captions."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    return [PTBTokenizer().tokenize({index: [{'caption': caption} for caption in image]
                                     for index, image in enumerate(images)})
            for images in (references, [[candidate] for candidate in candidates])]


def peer_scores(references, candidates):
    """pycocoevalcap's scores of tokenized captions: two dicts by name, of all images and of each image."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    bleu, bleu_each = Bleu(4).compute_score(references, candidates, verbose=0)
    (rouge, rouge_each), (cider, cider_each) = (scorer.compute_score(references, candidates)
                                                for scorer in (Rouge(), Cider()))
    return [dict(zip(PEER_NAMES, found, strict=True))
            for found in ([*bleu, rouge, cider], [*map(np.array, bleu_each), rouge_each, cider_each])]


def check(candidates, references):
    """The largest differences between both sides: on pycocoevalcap's tokens, and with each side's own tokenizer."""
    tokens = peer_tokens(candidates, references)
    expected, _ = peer_scores(*tokens)
    ours = our_scores(candidates, references)
    after = max(abs(ours[name] - expected[name]) for name in PEER_NAMES)
    # pycocoevalcap's BLEU and CIDEr take a token with a no-break space, such as "22 3/4", for two words; its ROUGE-L
    # takes it for one
    tokens = [{image: [caption.replace('\xa0', '_') for caption in found] for image, found in captions.items()}
              for captions in tokens]
    expected, expected_each = peer_scores(*tokens)
    peer_references, peer_candidates = ([[caption.split() for caption in image] for image in captions.values()]
                                        for captions in tokens)
    found = caption_statistics([image[0] for image in peer_candidates], peer_references)
    scores, each = scores_of(found), per_image(found)
    same = max(max(abs(scores[name] - expected[name]), np.abs(each[name] - expected_each[name]).max())
               for name in PEER_NAMES)
    return same, after


def peer(references, args):
    """The job peer: check that both sides agree, then time them."""
    references = references[:IMAGES]
    print('largest difference between the scores: on the same tokens, single images included; with each side\'s own '
          'tokenizer')
    for name, pair in systems(references).items():
        same, after = check(*pair)
        print(f'  {name}: {same:.1e}; {after:.1e}', flush=True)
        if same > SAME or after > SAME_AFTER_TOKENIZERS:
            raise InputError(f'{name}: the scores differ by more than {SAME} on the same tokens, or by more than '
                             f'{SAME_AFTER_TOKENIZERS} with different tokenizers, so nothing is timed; fix that first')
    candidates = noise(references)
    sides = {'ours': lambda: our_scores(candidates, references),
             'pycocoevalcap': lambda: peer_scores(*peer_tokens(candidates, references))}
    seconds = {name: [] for name in sides}
    for pair in range(args.pairs):
        for name in sorted(sides, reverse=pair % 2):
            seconds[name].append(seconds_of(sides[name]))
    ratio = summary([theirs / ours for ours, theirs in zip(*seconds.values(), strict=True)])
    for name, found in seconds.items():
        print(f'{name}: {statistics.median(found):.2f} s ({min(found):.2f} to {max(found):.2f}) for {len(references)} '
              f'images and {sum(map(len, references))} references')
    print(f'ratio: {ratio["median"]:.1f} ({ratio["low"]:.1f} to {ratio["high"]:.1f}), median of {args.pairs} pairs')


# ------------------------------------------------------------------------------------------------ val2014's size

def large(references, args):
    """The job large: measure in a new process, and print the result."""
    command = [sys.executable, __file__, str(args.captions), '--large_here']
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    print(f'{VAL2014} images × {REFERENCES} references, {found["words"]} words: '
          f'{sum(found["seconds"].values()):.1f} s, peak memory {found["peak"] / 1e9:.2f} GB, of which '
          f'{found["before"] / 1e9:.2f} GB before scoring began')
    for part, seconds in found['seconds'].items():
        print(f'  {part}: {seconds:.2f} s')


def large_here(references):
    """Score a set of val2014's size: the seconds of each part, peak memory in bytes before and after, and words."""
    pool = [caption for image in references for caption in image]
    random.Random(0).shuffle(pool)
    pool = (pool * (VAL2014 * REFERENCES // len(pool) + 1))[:VAL2014 * REFERENCES]
    pool = json.loads(json.dumps(pool))    # copies, so that repeated captions do not share memory
    references = [pool[start:start + REFERENCES] for start in range(0, len(pool), REFERENCES)]
    candidates = noise(references)
    before = peak_memory()
    seconds = {}
    start = time.perf_counter()

    def lap(part):
        nonlocal start
        seconds[part], start = time.perf_counter() - start, time.perf_counter()

    tokens, token_references = tokenized(candidates, references)
    lap('tokenization')
    found = caption_statistics(tokens, token_references)
    lap('statistics per image')
    scores_of(found)
    lap('scores')
    intervals(found)
    lap('intervals, 1,000 draws')
    return {'seconds': seconds, 'before': before, 'peak': peak_memory(),
            'words': sum(len(caption) for image in token_references for caption in image)}


def peak_memory():
    """The peak memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)


# ------------------------------------------------------------------------------------------------ intervals

def coverage(references, args):
    """The job coverage: the percentage of intervals that contain the true score, and of p values below .05."""
    sorts = systems(references)
    population = {name: caption_statistics(*tokenized(*sorts[name]))
                  for name in ('a person', 'a person, or noise', 'noise')}
    rng = np.random.default_rng(0)
    n = len(references)
    names = list(scores_of(population['noise']))
    print(f'95 % intervals that contain the true score, of {SAMPLES} samples of {SAMPLE} images:')
    print(f'  {"":20}', *(f'{name:>12}' for name in names))
    for sort, found in population.items():
        true = scores_of(found)
        covered = dict.fromkeys(names, 0)
        for seed in range(SAMPLES):
            ends = intervals(chosen(found, rng.integers(n, size=SAMPLE)), seed=seed)
            for name, (low, high) in ends.items():
                covered[name] += low <= true[name] <= high
        print(f'  {sort:20}', *(f'{100 * count / SAMPLES:10.1f} %' for count in covered.values()), flush=True)
    below = dict.fromkeys(names, 0)
    one, other = list(population.values())[:2]
    for seed in range(SAMPLES):
        images = rng.integers(n, size=SAMPLE)
        swapped = rng.random(SAMPLE) < .5
        pair = [exchanged(chosen(one, images), chosen(other, images), which) for which in (swapped, ~swapped)]
        for name, comparison in compare(pair, seed=seed)[0].items():
            below[name] += comparison.p < .05
    print('p below .05, of as many pairs of systems that differ only by chance:')
    print(f'  {"":20}', *(f'{100 * count / SAMPLES:10.1f} %' for count in below.values()))


def chosen(found, images):
    """The CaptionStatistics of these images."""
    return CaptionStatistics(*(None if columns is None else columns[images] for columns in found))


def exchanged(one, other, which):
    """The CaptionStatistics of one, with those of other for the images where which (n,) is True."""
    images = np.arange(len(which)) + len(which) * which
    both = (None if a is None else np.concatenate([a, b]) for a, b in zip(one, other, strict=True))
    return chosen(CaptionStatistics(*both), images)


if __name__ == '__main__':
    sys.exit(main())

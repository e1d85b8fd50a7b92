"""Make `coco_shaped`, a synthetic data set with the size and statistics of MS COCO, for benchmarks.

    python benchmarks/coco_shaped.py [--output data/coco_shaped] [--images 123287] [--force]

It has Karpathy's split (113,287 / 5,000 / 5,000 images) and five sentences per image, with COCO's sentence lengths and
word frequencies: 8,800 words occur at least five times in training. The features are 4,096 wide, float16, and as sparse
as VGG-16's fc7. There are no pictures, and the words mean nothing; but each word depends on the one before and each
sentence on its image, so that a model has something to learn. The same command always makes the same files.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))    # a checkout need not be installed

import h5py
import numpy as np
from tqdm import tqdm

from imagernn.errors import InputError, script

MADE_BY = 'benchmarks/coco_shaped.py'
SEED = 0
IMAGES = 123287
HELD_OUT = 5000     # images each in val and test
SENTENCES = 5       # per image
FEATURES = 4096     # numbers per image
BLOCK = 2048        # images whose features are written at once
FILES = ('dataset.json', 'vgg_feats.h5')

# length in words: how many of the 25,014 captions of MS COCO's captions_val2017.json have it, with the tokens of
# corpus/tokenize.py's karpathy_tokenize
LENGTHS = {7: 211, 8: 4071, 9: 5580, 10: 5341, 11: 3812, 12: 2470, 13: 1446, 14: 829, 15: 460, 16: 266, 17: 173,
           18: 110, 19: 71, 20: 46, 21: 28, 22: 25, 23: 22, 24: 12, 25: 14, 26: 6, 27: 2, 28: 3, 29: 3, 30: 2, 31: 1,
           32: 1, 33: 2, 34: 1, 36: 2, 38: 2, 44: 1, 49: 1}
# rank of a word: how often it occurs in a million words of that file. Beyond rank 2,000, the values are chosen so that,
# as in all of COCO, about 8,800 words occur five times in the 5.9 million words of training, and there are rarer ones.
FREQUENCIES = {1: 157542, 2: 34757, 5: 29339, 10: 11159, 20: 5438, 50: 2612, 100: 1432, 200: 743, 500: 222, 1000: 74,
               2000: 23, 8800: .675, 30000: .08}
STEP = .382     # on the circle of draw_sentences, whose circumference is 1: how far on the next word is, at least
SPREAD = .1     # and how much that varies


def split_sizes(images):
    """Sizes of the splits of a number of images, in Karpathy's proportions: {'val', 'test', 'train'}."""
    held_out = max(1, round(images * HELD_OUT / IMAGES))
    return {'val': held_out, 'test': held_out, 'train': images - 2 * held_out}


def word_names(number):
    """Made-up words for the ranks 0 to number - 1, all different. The more frequent a word, the shorter it is."""
    syllables = [consonant + vowel for consonant in 'bdkl' for vowel in 'aeiou']

    def name(rank):
        return (name(rank // 20 - 1) if rank >= 20 else '') + syllables[rank % 20]

    return np.array([name(rank) for rank in range(number)], object)


def word_shares():
    """The relative frequency of the word of each rank: they sum to 1.

    Between the ranks of FREQUENCIES, the logarithm of the frequency is linear in that of the rank.
    """
    ranks = np.arange(1, max(FREQUENCIES) + 1)
    shares = np.exp(np.interp(np.log(ranks), np.log(list(FREQUENCIES)), np.log(list(FREQUENCIES.values()))))
    return shares / shares.sum()


def draw_sentences(places, rng):
    """Draw S sentences: the ranks of their words, one sentence after the other (P,), and their lengths (S,).

    places: the place of each sentence's image on a circle, from 0 to 1, (S,). The words are arcs of this circle, in
    random order and as long as the word is frequent. A sentence begins near the place of its image and moves on by STEP
    plus a random bit with each word. So each word depends on the one before, and words still have their frequencies.
    """
    lengths = rng.choice(list(LENGTHS), len(places), p=np.array(list(LENGTHS.values())) / sum(LENGTHS.values()))
    shares = word_shares()
    order = rng.permutation(len(shares))
    ends = np.cumsum(shares[order])
    steps = STEP + SPREAD * rng.random((len(places), lengths.max()), np.float32)                    # (S, longest)
    points = (places[:, None] + np.cumsum(steps, axis=1, dtype=np.float64)) % 1
    points = points[np.arange(lengths.max()) < lengths[:, None]]                                    # (P,)
    return order[np.searchsorted(ends[:-1], points, side='right')], lengths


def write_sentences(path, places, rng):
    """Write dataset.json with the fields of Karpathy's files, one image at a time. places: of the images, (n,)."""
    n = len(places)
    sizes = split_sizes(n)
    splits = rng.permutation(np.repeat(list(sizes), list(sizes.values()))).tolist()
    ranks, lengths = draw_sentences(np.repeat(places, SENTENCES), rng)
    words = word_names(max(FREQUENCIES))[ranks]                                                     # (P,)
    ends = np.cumsum(lengths).tolist()
    starts = [0, *ends]
    with path.open('w', encoding='utf-8') as file:
        file.write('{"dataset": "coco_shaped", "images": [')
        for imgid in tqdm(range(n), desc='sentences', unit='image', disable=None):
            sentids = list(range(SENTENCES * imgid, SENTENCES * (imgid + 1)))
            sentences = [words[starts[k]:ends[k]].tolist() for k in sentids]
            filename = f'COCO_train2014_{imgid:012d}.jpg'
            file.write(('' if imgid == 0 else ', ') + json.dumps({
                'filepath': 'train2014', 'sentids': sentids, 'filename': filename, 'imgid': imgid,
                'split': splits[imgid], 'cocoid': imgid, 'sentences': [
                    {'tokens': tokens, 'raw': ' '.join(tokens).capitalize() + '.', 'imgid': imgid, 'sentid': sentid}
                    for tokens, sentid in zip(sentences, sentids, strict=True)]}))
        file.write(']}')


def write_features(path, places, rng):
    """Write vgg_feats.h5: noise and a weak signal of each image's place, after a ReLU that leaves 30 % positive."""
    angles = 2 * np.pi * places[:, None]
    traces = np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)            # (N, 2)
    weights = rng.standard_normal((2, FEATURES), np.float32)
    with h5py.File(path, 'w') as file:
        feats = file.create_dataset('feats', (len(places), FEATURES), np.float16)
        feats.attrs['made_by'] = MADE_BY
        for start in tqdm(range(0, len(places), BLOCK), desc='features', unit='block', disable=None):
            some = traces[start:start + BLOCK] @ weights - 1
            some += 2 * rng.standard_normal(some.shape, np.float32)
            feats[start:start + BLOCK] = np.maximum(some, 0, out=some).astype(np.float16)


def images_there(folder):
    """The number of images of the data set that this script made in the folder; 0 if it is empty or does not exist.

    Raises InputError if the folder contains anything else.
    """
    if not folder.exists() or folder.is_dir() and not any(folder.iterdir()):
        return 0
    try:
        with h5py.File(folder / 'vgg_feats.h5', 'r') as file:
            if file['feats'].attrs['made_by'] == MADE_BY and all((folder / name).is_file() for name in FILES):
                return len(file['feats'])
    except (OSError, KeyError):
        pass
    raise InputError(f'--output {folder}: exists and was not made by this script; choose another name, or move it')


def make_folder(folder, images):
    """Make the data set in a temporary folder and rename that, replacing an earlier one. A failure leaves no trace."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{folder.name}.', dir=folder.parent) as workshop:
        new = Path(workshop) / folder.name
        new.mkdir()
        places = np.random.default_rng([SEED, 0]).random(images)
        write_sentences(new / 'dataset.json', places, np.random.default_rng([SEED, 1]))
        write_features(new / 'vgg_feats.h5', places, np.random.default_rng([SEED, 2]))
        if folder.exists():
            shutil.rmtree(folder)
        new.rename(folder)


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--output', type=Path, default=Path('data/coco_shaped'),
                        help='The folder to make (default: data/coco_shaped).')
    parser.add_argument('--images', type=int, default=IMAGES,
                        help='The number of images (default: 123287, as in COCO). Use fewer for a quick trial.')
    parser.add_argument('--force', action='store_true',
                        help='Replace a data set that this script made in that folder.')
    return parser


@script
def main(argv=None):
    args = build_parser().parse_args(argv)
    if args.images < 3:
        raise InputError(f'--images {args.images}: must be at least 3, one for each split')
    folder = args.output.absolute()
    there = images_there(folder)
    if there == args.images and not args.force:
        print(f'{args.output}: exists already with {there} images; nothing to do')
        return 0
    if there and not args.force:
        raise InputError(f'--output {args.output}: contains {there} images, but --images is {args.images}; '
                         'add --force to replace it, or choose another name')
    make_folder(folder, args.images)
    print(f'{args.output}: {args.images} images, {args.images * SENTENCES} sentences, {FEATURES} features each')
    return 0


if __name__ == '__main__':
    sys.exit(main())

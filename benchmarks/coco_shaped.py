"""Make `coco_shaped`, a data set of MS COCO's size and statistics for benchmarks: no pictures, nothing to be said.

    python benchmarks/coco_shaped.py [--output data/coco_shaped] [--images 123287] [--force]

Karpathy's split (113,287 / 5,000 / 5,000 images), five sentences an image, of COCO's lengths and word frequencies:
8,800 words occur at least five times in training. Features 4096 wide, float16, of the sparsity of VGG-16's fc7.
A word narrows down the next one, and an image its sentences, so that there is something to learn. Always the same.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
from tqdm import tqdm

from imagernn.errors import InputError, script

MADE_BY = 'benchmarks/coco_shaped.py'
SEED, IMAGES, HELD_OUT, SENTENCES, FEATURES, BLOCK = 0, 123287, 5000, 5, 4096, 2048
FILES = ('dataset.json', 'vgg_feats.h5')

# how many of the 25,014 captions of MS COCO's captions_val2017.json have so many words (dataset_writer.tokenize)
LENGTHS = {7: 211, 8: 4071, 9: 5580, 10: 5341, 11: 3812, 12: 2470, 13: 1446, 14: 829, 15: 460, 16: 266, 17: 173,
           18: 110, 19: 71, 20: 46, 21: 28, 22: 25, 23: 22, 24: 12, 25: 14, 26: 6, 27: 2, 28: 3, 29: 3, 30: 2, 31: 1,
           32: 1, 33: 2, 34: 1, 36: 2, 38: 2, 44: 1, 49: 1}
# rank of a word: its occurrences in a million words of that file; beyond rank 2,000 so that about 8,800 words occur
# five times in the 5.9 million words of the training sentences, and rarer ones besides, as in the whole of COCO
FREQUENCIES = {1: 157542, 2: 34757, 5: 29339, 10: 11159, 20: 5438, 50: 2612, 100: 1432, 200: 743, 500: 222, 1000: 74,
               2000: 23, 8800: .675, 30000: .08}
STEP, SPREAD = .382, .1    # of the frequencies' whole: how far on the next word lies, and how uncertain that is


def split_sizes(images):
    """How many of so many images are val, test and train, in Karpathy's proportions."""
    held_out = max(1, round(images * HELD_OUT / IMAGES))
    return {'val': held_out, 'test': held_out, 'train': images - 2 * held_out}


def word_names(number):
    """As many words; the more frequent, the shorter."""
    syllables = [consonant + vowel for consonant in 'bdkl' for vowel in 'aeiou']

    def name(rank):
        return (name(rank // 20 - 1) if rank >= 20 else '') + syllables[rank % 20]

    return np.array([name(rank) for rank in range(number)], object)


def word_shares():
    """How frequent the word of each rank is, together 1: between the ranks of FREQUENCIES, a power of the rank."""
    ranks = np.arange(1, max(FREQUENCIES) + 1)
    shares = np.exp(np.interp(np.log(ranks), np.log(list(FREQUENCIES)), np.log(list(FREQUENCIES.values()))))
    return shares / shares.sum()


def draw_sentences(places, rng):
    """The ranks of all words of all sentences in a row, (P,), and the sentences' lengths, (S,).

    places: in 0..1, (S,), where each sentence's image stands. Words lie on a circle in a random order, each as wide as
    it is frequent. A sentence begins near its image and goes on by STEP and a bit, so each word depends on the one
    before, and yet all in all the words keep their frequencies.
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
    """dataset.json with the fields of Karpathy's, image by image."""
    n, sizes = len(places), split_sizes(len(places))
    splits = rng.permutation(np.repeat(list(sizes), list(sizes.values()))).tolist()
    ranks, lengths = draw_sentences(np.repeat(places, SENTENCES), rng)
    words, ends = word_names(max(FREQUENCIES))[ranks], np.cumsum(lengths).tolist()
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
    """vgg_feats.h5: noise and a trace of the image's place, of which a ReLU leaves some three in ten."""
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
    """How many images a data set of this script's in the folder has: 0 if it is empty or absent.

    InputError where anything else stands there.
    """
    if not folder.exists() or folder.is_dir() and not any(folder.iterdir()):
        return 0
    try:
        with h5py.File(folder / 'vgg_feats.h5', 'r') as file:
            if file['feats'].attrs['made_by'] == MADE_BY and all((folder / name).is_file() for name in FILES):
                return len(file['feats'])
    except (OSError, KeyError):
        pass
    raise InputError(f'--output {folder}: is there already and was not made by this script; '
                     'choose another name, or move it away')


def make_folder(folder, images):
    """The whole data set, or nothing of it; what this script made there before is replaced."""
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
    parser.add_argument('--output', type=Path, default=Path('data/coco_shaped'), help='the folder to make')
    parser.add_argument('--images', type=int, default=IMAGES, help='how many images')
    parser.add_argument('--force', action='store_true', help='make it afresh where this script made it')
    return parser


@script
def main(argv=None):
    args = build_parser().parse_args(argv)
    if args.images < 3:
        raise InputError(f'--images {args.images}: must be at least 3, one for each split')
    folder = args.output.absolute()
    there = images_there(folder)
    if there == args.images and not args.force:
        print(f'{args.output}: complete already, {there} images; left as it is')
        return 0
    if there and not args.force:
        raise InputError(f'--output {args.output}: holds {there} images, and {args.images} are asked for; '
                         'add --force to replace it, or choose another name')
    make_folder(folder, args.images)
    print(f'{args.output}: {args.images} images, {args.images * SENTENCES} sentences, {FEATURES} features each')
    return 0


if __name__ == '__main__':
    sys.exit(main())

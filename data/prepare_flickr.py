r"""Make dataset.json of Flickr8K or Flickr30K, or of pictures of your own, from a file of captions.

    python data/prepare_flickr.py --tokens Flickr8k.token.txt --train Flickr_8k.trainImages.txt \
        --val Flickr_8k.devImages.txt --test Flickr_8k.testImages.txt --output data/flickr8k
    python data/prepare_flickr.py --tokens captions.txt --output data/flickr8k

The file of captions is one of these; its first line tells which:

    picture.jpg#0<TAB>A child in a pink dress .      Flickr8k.token.txt, results_20130124.token of Flickr30K
    image,caption                                    Kaggle's captions.txt of Flickr8K, and other tables (CSV) whose
                                                     first line names the columns
    image_name| comment_number| comment              Kaggle's results.csv of Flickr30K

A line of a list is `picture.jpg` or `picture`. Without lists, the split is the one in the table's column `split`, or
else it is drawn. imgids follow the order of the file names, as in NeuralTalk's own dataset.json, so that its feature
files fit. Pictures that are in no list are left out and counted, such as the stray `2258277193_586949ec62.jpg.1` of
Flickr8K.
"""

import argparse
import sys
from pathlib import Path

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))    # a checkout need not be installed

from imagernn.corpus.dataset_writer import add_tokenizer_flag, draw_splits, make_dataset, summary, write_dataset
from imagernn.corpus.names import SPLITS
from imagernn.errors import InputError, script
from imagernn.formats.caption_tables import numbered_lines, read_table

HELD_OUT = 1000    # images in val and in test if the split is drawn, as in Flickr8K; or a tenth, if that is less


@script
def main(argv=None):
    args = build_parser().parse_args(argv)
    lists = {'train': args.train, 'val': args.val, 'test': args.test}
    drawing = (args.val_images, args.test_images, args.seed)
    require_lists_or_a_draw(lists, drawing)
    captions, splits, notes = read_table(args.tokens, SPLITS)
    if any(lists.values()):
        splits = read_splits(lists, captions, args.tokens)
    elif not splits or drawing != (None, None, None):
        splits, note = drawn_splits(captions, *drawing)
        notes.append(note)
    images = [({'filename': name, 'split': splits[name]}, captions[name]) for name in sorted(splits)]
    dataset, left_out = make_dataset(args.output.resolve().name, images, args.tokenizer)
    notes += left_out
    unlisted = sorted(captions.keys() - splits.keys())
    if unlisted:
        notes.append(f'left out: {len(unlisted)} images with captions that are in no list, such as {unlisted[0]}')
    done = write_dataset(args.output, dataset)
    print('\n'.join([*summary(dataset), *notes, done]))
    return 0


def build_parser():
    parser = argparse.ArgumentParser(description='Make dataset.json of Flickr8K or Flickr30K, or of pictures of your '
                                                 'own, from a file of captions.')

    group = parser.add_argument_group('input')
    group.add_argument('--tokens', type=Path, required=True,
        help="The file of captions: Flickr8k.token.txt, results_20130124.token of Flickr30K, Kaggle's captions.txt or "
             'results.csv, or a table of your own whose first line is image,caption.')
    add_tokenizer_flag(group)

    group = parser.add_argument_group('split', 'either from three lists, or drawn')
    group.add_argument('--train', type=Path,
        help='The list of the training pictures, one file name per line, such as Flickr_8k.trainImages.txt. Give the '
             'lists to compare with published results.')
    group.add_argument('--val', type=Path, help='The list of the validation pictures.')
    group.add_argument('--test', type=Path, help='The list of the test pictures.')
    group.add_argument('--val_images', type=int,
        help=f'Without lists: how many validation pictures to draw (default: {HELD_OUT}, or a tenth if that is less).')
    group.add_argument('--test_images', type=int, help='How many test pictures to draw (default: as for validation).')
    group.add_argument('--seed', type=int, help='The seed of the draw. Change it for another split (default: 0).')

    group = parser.add_argument_group('output')
    group.add_argument('--output', type=Path, required=True,
        help='The folder for dataset.json, such as data/flickr8k. A dataset.json that is already there is replaced.')
    return parser


# ---- splits

def require_lists_or_a_draw(lists, drawing):
    """Raise InputError unless all three lists are given, or none of them."""
    given = [f'--{split}' for split, path in lists.items() if path]
    missing = [f'--{split}' for split, path in lists.items() if not path]
    if given and missing:
        raise InputError(f'{" and ".join(given)} given without {" and ".join(missing)}: give all three lists, or none '
                         'of them to draw the split')
    if given and drawing != (None, None, None):
        raise InputError(f'{", ".join(given)} settle the split, and --val_images, --test_images and --seed draw one; '
                         'give the one or the others')


def drawn_splits(captions, val, test, seed):
    """A split drawn from the names of the pictures, a dict of file name -> split, and a note that says so.

    None stands for the default. Raises InputError if no picture is left for train.
    """
    val = max(1, min(HELD_OUT, len(captions) // 10)) if val is None else val
    test = val if test is None else test
    seed = 0 if seed is None else seed
    if min(val, test) < 0 or val + test >= len(captions):
        raise InputError(f'--val_images {val} and --test_images {test} do not fit {len(captions)} pictures; expected '
                         'numbers from 0 that leave some pictures for train: give smaller ones')
    return draw_splits(captions, val, test, seed), (
        f'split: drawn with --seed {seed}, {val:,} val and {test:,} test; to compare with published scores, give the '
        'lists of the published split')


def read_splits(lists, captions, tokens_path):
    """The split of each picture, a dict of file name -> split, from lists, a dict of split -> path.

    Raises InputError if a picture has no captions or is in two lists, or if a list is empty.
    """
    placed = {}    # file name -> (split, path, line)
    for split, path in lists.items():
        for line, text in numbered_lines(path):
            name = next((n for n in (text.strip(), text.strip() + '.jpg') if n in captions), None)
            if name is None:
                raise InputError(f'{path}, line {line}: {text.strip()[:60]!r} has no captions in {tokens_path}. '
                                 'Name the lists and the token file of the same data set, or remove the line.')
            earlier_split, earlier_path, earlier_line = placed.setdefault(name, (split, path, line))
            if earlier_split != split:
                raise InputError(f'{path}, line {line}: {name} is already in the {earlier_split} split '
                                 f'({earlier_path}, line {earlier_line}); expected each picture in one list. Remove '
                                 'one of the two lines.')
        if split not in {found for found, _, _ in placed.values()}:
            raise InputError(f'{path}: names no pictures; expected one per line, for the {split} split. Name another '
                             'list.')
    return {name: split for name, (split, _, _) in placed.items()}


if __name__ == '__main__':
    sys.exit(main())

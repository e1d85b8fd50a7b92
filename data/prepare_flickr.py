r"""Make dataset.json of Flickr8K or Flickr30K from its token file and the lists of its splits.

    python data/prepare_flickr.py --tokens Flickr8k.token.txt --train Flickr_8k.trainImages.txt \
        --val Flickr_8k.devImages.txt --test Flickr_8k.testImages.txt --output data/flickr8k

A line of the token file (results_20130124.token for Flickr30K) is `picture.jpg#0<TAB>A child in a pink dress .`; a
line of a list is `picture.jpg` or `picture`. imgids follow the order of the file names, as in NeuralTalk's own
dataset.json, so that its feature files fit. Pictures that are in no list are left out and counted, such as the stray
`2258277193_586949ec62.jpg.1` of Flickr8K.
"""

import argparse
import re
import sys
from pathlib import Path

from imagernn.corpus.dataset_writer import make_dataset, summary, write_dataset
from imagernn.errors import InputError, script


@script
def main(argv=None):
    args = build_parser().parse_args(argv)
    captions = read_captions(args.tokens)
    splits = read_splits({'train': args.train, 'val': args.val, 'test': args.test}, captions, args.tokens)
    images = [({'filename': name, 'split': splits[name]}, captions[name]) for name in sorted(splits)]
    dataset, notes = make_dataset(args.output.resolve().name, images)
    unlisted = sorted(captions.keys() - splits.keys())
    if unlisted:
        notes.append(f'left out: {len(unlisted)} images with captions that are in no list, such as {unlisted[0]}')
    done = write_dataset(args.output, dataset)
    print('\n'.join([*summary(dataset), *notes, done]))
    return 0


def build_parser():
    parser = argparse.ArgumentParser(description='Make dataset.json of Flickr8K or Flickr30K from its token file and '
                                                 'the lists of its splits.')

    group = parser.add_argument_group('input')
    group.add_argument('--tokens', type=Path, required=True,
        help='The file of captions: Flickr8k.token.txt, or results_20130124.token of Flickr30K.')
    group.add_argument('--train', type=Path, required=True,
        help='The list of the training pictures, one file name per line, such as Flickr_8k.trainImages.txt.')
    group.add_argument('--val', type=Path, required=True, help='The list of the validation pictures.')
    group.add_argument('--test', type=Path, required=True, help='The list of the test pictures.')

    group = parser.add_argument_group('output')
    group.add_argument('--output', type=Path, required=True,
        help='The folder for dataset.json, such as data/flickr8k. A dataset.json that is already there is replaced.')
    return parser


def read_captions(path):
    """The captions of a token file: a dict of file name -> list of captions in the order of their numbers.

    Raises InputError if the file is not as expected.
    """
    numbered = {}    # file name -> {number: (line, caption)}
    for line, text in numbered_lines(path):
        match = re.fullmatch(r'([^\t]+)#(\d+)[ ]*\t(.*)', text)
        if match is None:
            raise InputError(f'{path}, line {line}: expected picture.jpg#0<TAB>caption, found {text[:60]!r}. '
                             'Name the token file as it was distributed, or correct that line.')
        name = match[1].strip()
        number = int(match[2])
        caption = match[3]
        earlier, _ = numbered.setdefault(name, {}).setdefault(number, (line, caption))
        if earlier != line:
            raise InputError(f'{path}, line {line}: {name}#{number} is already on line {earlier}; expected each once. '
                             'Remove one of the two lines.')
    if not numbered:
        raise InputError(f'{path}: holds no captions; expected lines of picture.jpg#0<TAB>caption. Name the token file '
                         'as it was distributed.')
    return {name: [found[number][1] for number in sorted(found)] for name, found in numbered.items()}


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


def numbered_lines(path):
    """The lines of a UTF-8 text file that are not blank, as (line number, text). A line may end in CRLF.

    Raises InputError if the file cannot be read.
    """
    try:
        text = path.read_text(encoding='utf-8-sig')
    except UnicodeDecodeError as error:
        line = path.read_bytes()[:error.start].count(b'\n') + 1
        raise InputError(f'{path}, line {line}: not UTF-8 ({error.reason}). Save it as UTF-8.') from None
    except OSError as error:
        raise InputError(f'{path}: cannot be read ({error.strerror}). Check its name and permissions.') from None
    return [(number, line) for number, line in enumerate(text.split('\n'), 1) if line.strip()]


if __name__ == '__main__':
    sys.exit(main())

r"""Flickr8K or Flickr30K, from its token file and split lists -> a folder with dataset.json.

    python data/prepare_flickr.py --tokens Flickr8k.token.txt --train Flickr_8k.trainImages.txt \
        --val Flickr_8k.devImages.txt --test Flickr_8k.testImages.txt --output data/flickr8k

A line of the token file (results_20130124.token for Flickr30K) is `picture.jpg#0<TAB>A child in a pink dress .`; a
line of a list is `picture.jpg` or `picture`. imgids count up in the order of the file names, as in NeuralTalk's own
dataset.json, so its feature files fit. Captions of pictures that are in no list are left out and counted, such as
the stray `2258277193_586949ec62.jpg.1` of Flickr8K.
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
    parser = argparse.ArgumentParser(description='Make dataset.json of Flickr8K or Flickr30K.')
    parser.add_argument('--tokens', type=Path, required=True, help='Flickr8k.token.txt or results_20130124.token')
    parser.add_argument('--train', type=Path, required=True, help='list of the training pictures, one a line')
    parser.add_argument('--val', type=Path, required=True, help='list of the validation pictures')
    parser.add_argument('--test', type=Path, required=True, help='list of the test pictures')
    parser.add_argument('--output', type=Path, required=True, help='folder for dataset.json, such as data/flickr8k')
    return parser


def read_captions(path):
    """The captions of a token file: dict of file name -> list of captions in the order of their numbers."""
    numbered = {}  # file name -> {number: (line, caption)}
    for line, text in numbered_lines(path):
        match = re.fullmatch(r'([^\t]+)#(\d+)[ ]*\t(.*)', text)
        if match is None:
            raise InputError(f'{path}, line {line}: expected picture.jpg#0<TAB>caption, found {text[:60]!r}. '
                             'Give the token file as it was distributed, or mend that line.')
        name, number, caption = match[1].strip(), int(match[2]), match[3]
        earlier, _ = numbered.setdefault(name, {}).setdefault(number, (line, caption))
        if earlier != line:
            raise InputError(f'{path}, line {line}: {name}#{number} is on line {earlier} already; expected each once. '
                             'Take one of them out.')
    if not numbered:
        raise InputError(f'{path}: holds no captions; expected lines of picture.jpg#0<TAB>caption.')
    return {name: [found[number][1] for number in sorted(found)] for name, found in numbered.items()}


def read_splits(lists, captions, tokens_path):
    """The lists of split -> path: dict of file name -> split. Every name must have captions, and be in one list."""
    placed = {}  # file name -> (split, path, line)
    for split, path in lists.items():
        for line, text in numbered_lines(path):
            name = next((n for n in (text.strip(), text.strip() + '.jpg') if n in captions), None)
            if name is None:
                raise InputError(f'{path}, line {line}: {text.strip()[:60]!r} has no captions in {tokens_path}. '
                                 'Give the lists and the token file of the same set, or take the line out.')
            earlier_split, earlier_path, earlier_line = placed.setdefault(name, (split, path, line))
            if earlier_split != split:
                raise InputError(f'{path}, line {line}: {name} is in the {earlier_split} split already '
                                 f'({earlier_path}, line {earlier_line}); expected each picture in one list.')
        if split not in {found for found, _, _ in placed.values()}:
            raise InputError(f'{path}: names no pictures; expected one a line, for the {split} split.')
    return {name: split for name, (split, _, _) in placed.items()}


def numbered_lines(path):
    """(line number, text) of the lines of a UTF-8 text file that are not blank; the line ends may be CRLF."""
    try:
        text = path.read_text(encoding='utf-8-sig')
    except UnicodeDecodeError as error:
        line = path.read_bytes()[:error.start].count(b'\n') + 1
        raise InputError(f'{path}, line {line}: not UTF-8 ({error.reason}). Save it with encoding UTF-8.') from None
    except OSError as error:
        raise InputError(f'{path}: cannot be read ({error.strerror}). Check its name and permissions.') from None
    return [(number, line) for number, line in enumerate(text.split('\n'), 1) if line.strip()]


if __name__ == '__main__':
    sys.exit(main())

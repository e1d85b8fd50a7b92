r"""MS COCO, from its official caption annotations -> a folder with dataset.json.

    python data/prepare_coco.py --annotations captions_train2014.json captions_val2014.json \
        --karpathy_split dataset_coco.json --output data/coco
    python data/prepare_coco.py --annotations captions_train2017.json captions_val2017.json \
        --val 5000 --test 5000 --seed 0 --output data/coco

The split comes from a file: Karpathy's dataset_coco.json, or plainly {"train": [...], "val": [...], ...} with the
ids or file names of COCO. imgids then follow the order of Karpathy's file, so his feature files fit when all its
images are annotated here; in every other case they follow the COCO id.
Or the split is drawn: images are put in the order of the SHA-256 digest of "<seed> <COCO id>", the first --val are
val, the next --test are test, the rest train. So an image's place depends on nothing but its id and the seed.

An image keeps its COCO id as `cocoid`, which the official results format asks for, and the folder of its picture as
`filepath` (train2014, val2017, ...) where its own name or that of the annotation file tells it.
"""

import argparse
import hashlib
import re
import sys
from pathlib import Path

from imagernn.corpus.captioned_images import SPLITS
from imagernn.corpus.dataset_writer import make_dataset, summary, write_dataset
from imagernn.errors import InputError, script
from imagernn.formats.json_files import load_json


@script
def main(argv=None):
    args = build_parser().parse_args(argv)
    images = {}  # cocoid -> (fields, captions)
    for path in args.annotations:
        read_annotations(path, images)
    if args.karpathy_split is None:
        splits, notes = drawn_split(images, args.val, args.test, args.seed), []
    else:
        if (args.val, args.test, args.seed) != (None, None, None):
            raise InputError('--karpathy_split settles the split; --val, --test and --seed draw one. '
                             'Give the one or the others.')
        splits, notes = read_split(args.karpathy_split, images)
    entries = [({**images[cocoid][0], 'split': split}, images[cocoid][1]) for cocoid, split in splits.items()]
    dataset, left_out = make_dataset(args.output.resolve().name, entries)
    done = write_dataset(args.output, dataset)
    print('\n'.join([*summary(dataset), *left_out, *notes, done]))
    return 0


def build_parser():
    parser = argparse.ArgumentParser(description='Make dataset.json of MS COCO.')
    parser.add_argument('--annotations', type=Path, nargs='+', required=True, help='captions_train2014.json and so on')
    parser.add_argument('--karpathy_split', type=Path, help='dataset_coco.json, or {"train": [ids or names], ...}')
    parser.add_argument('--val', type=int, help='without a split file: number of validation images (5000)')
    parser.add_argument('--test', type=int, help='without a split file: number of test images (5000)')
    parser.add_argument('--seed', type=int, help='without a split file: another seed, another split (0)')
    parser.add_argument('--output', type=Path, required=True, help='folder for dataset.json, such as data/coco')
    return parser


def read_annotations(path, images):
    """Add the images of a caption annotation file to `images`: cocoid -> (fields, list of captions)."""
    data = load_json(path)
    for key in ('images', 'annotations'):
        if not isinstance(data.get(key), list):
            raise InputError(f'{path}: there is no list "{key}"; found: {", ".join(sorted(data)) or "nothing"}. '
                             'Give one of the official caption files, such as captions_train2014.json.')
    here = {}
    for index, image in enumerate(data['images']):
        check_entry(path, f'images[{index}]', image, {'id': int, 'file_name': str})
        if image['id'] in here or image['id'] in images:
            raise InputError(f"{path}: images[{index}]: id {image['id']} is there already; expected each image once. "
                             'Give every annotation file once, and of one year only.')
        here[image['id']] = (fields_of(image, path), [])
    for index, annotation in enumerate(data['annotations']):
        place = f'annotations[{index}]'
        check_entry(path, place, annotation, {'image_id': int, 'caption': str})
        if annotation['image_id'] not in here:
            raise InputError(f"{path}: {place}: image_id {annotation['image_id']} is not in the list \"images\". "
                             'Take the annotation out, or get the file again.')
        here[annotation['image_id']][1].append(annotation['caption'])
    images.update(here)


def check_entry(path, place, entry, types):
    """Raise InputError unless an entry is an object whose fields have these types."""
    if not isinstance(entry, dict):
        raise InputError(f'{path}: {place} is {entry!r:.60}; expected an object with {" and ".join(types)}.')
    for key, kind in types.items():
        if type(entry.get(key)) is not kind:
            found = f'is {entry[key]!r:.60}' if key in entry else 'is missing'
            raise InputError(f"{path}: {place}: '{key}' {found}; expected {kind.__name__}. Get the file again, "
                             'or mend that entry.')


def fields_of(image, path):
    fields = {'filename': image['file_name'], 'cocoid': image['id']}
    told = re.search(r'(train|val|test)20\d\d', image['file_name']) or re.search(r'(train|val|test)20\d\d', path.stem)
    return {'filepath': told[0], **fields} if told else fields


def drawn_split(images, val, test, seed):
    """dict of cocoid -> split, by ascending cocoid, drawn as the head of this file says."""
    val, test, seed = (5000 if val is None else val), (5000 if test is None else test), seed or 0
    if min(val, test) < 0 or val + test >= len(images):
        raise InputError(f'--val {val} and --test {test} do not fit: there are {len(images)} images; expected numbers '
                         'of 0 or more that leave some to train on. Give smaller ones.')
    digests = {cocoid: hashlib.sha256(f'{seed} {cocoid}'.encode()).digest() for cocoid in images}
    order = sorted(images, key=digests.get)
    splits = dict.fromkeys(order[:val], 'val') | dict.fromkeys(order[val:val + test], 'test')
    return {cocoid: splits.get(cocoid, 'train') for cocoid in sorted(images)}


def read_split(path, images):
    """A split file: dict of cocoid -> split in the order for the imgids, and notes on what did not match."""
    data = load_json(path)
    if isinstance(data.get('images'), list):
        listed = karpathy_entries(path, data['images'])
    else:
        listed = plain_entries(path, data)
    by_name = {fields['filename']: cocoid for cocoid, (fields, _) in images.items()}
    splits, unknown = {}, 0
    for place, key, split in listed:
        cocoid = by_name.get(key, key)
        if cocoid not in images:
            unknown += 1
        elif cocoid in splits:
            raise InputError(f'{path}: {place}: {key} is listed already; expected each image once. Take one out.')
        else:
            splits[cocoid] = split
    if not splits:
        raise InputError(f'{path}: none of its {unknown} images is in the annotation files. Give the annotations '
                         'that the split was made for (Karpathy: train2014 and val2014).')
    notes = [f'left out: {count:,} images {why}' for count, why in
             ((unknown, f'of {path.name} that have no annotations here'),
              (len(images) - len(splits), f'with annotations that {path.name} does not list')) if count]
    return (splits if isinstance(data.get('images'), list) else dict(sorted(splits.items()))), notes


def karpathy_entries(path, entries):
    """(place, cocoid or file name, split) of the images of Karpathy's file."""
    for index, entry in enumerate(entries):
        place = f'images[{index}]'
        by_id = isinstance(entry, dict) and 'cocoid' in entry
        key, kind = ('cocoid', int) if by_id else ('filename', str)
        check_entry(path, place, entry, {key: kind, 'split': str})
        if entry['split'] not in SPLITS:
            raise InputError(f"{path}: {place}: split is '{entry['split']}'; expected one of {', '.join(SPLITS)}.")
        yield place, entry[key], entry['split']


def plain_entries(path, data):
    """(place, cocoid or file name, split) of a file {"train": [...], "val": [...], ...}."""
    if not data or not data.keys() <= set(SPLITS):
        raise InputError(f'{path}: expected a list "images" as in Karpathy\'s dataset_coco.json, or lists called '
                         f'{", ".join(SPLITS)}; found: {", ".join(sorted(data)) or "nothing"}.')
    for split, keys in data.items():
        if not isinstance(keys, list):
            raise InputError(f'{path}: {split} is not a list; expected one of COCO ids or file names.')
        for index, key in enumerate(keys):
            if type(key) not in (int, str):
                raise InputError(f'{path}: {split}[{index}] is {key!r:.60}; expected a COCO id or a file name.')
            yield f'{split}[{index}]', key, split


if __name__ == '__main__':
    sys.exit(main())

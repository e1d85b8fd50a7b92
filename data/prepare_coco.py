r"""Make dataset.json of MS COCO from its official caption annotations.

    python data/prepare_coco.py --annotations captions_train2014.json captions_val2014.json \
        --karpathy_split dataset_coco.json --output data/coco
    python data/prepare_coco.py --annotations captions_train2017.json captions_val2017.json \
        --val 5000 --test 5000 --seed 0 --output data/coco

The split comes from a file, such as Karpathy's dataset_coco.json, or is drawn from a seed. Each image keeps its COCO
id as `cocoid`, which the official results format needs, and the folder of its picture as `filepath` (train2014,
val2017, ...) if its own name or that of the annotation file contains it.
"""

import argparse
import re
import sys
from pathlib import Path

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))    # a checkout need not be installed

from imagernn.corpus.dataset_writer import add_tokenizer_flag, draw_splits, make_dataset, summary, write_dataset
from imagernn.corpus.names import SPLITS
from imagernn.errors import InputError, script
from imagernn.formats.caption_files import coco_number
from imagernn.formats.json_files import load_json
from imagernn.formats.names import parts_of, picture_name

FOLDER = r'(train|val|test)20\d\d'    # the names of COCO's folders of pictures


@script
def main(argv=None):
    args = build_parser().parse_args(argv)
    images = {}    # cocoid -> (fields, captions)
    for path in args.annotations:
        read_annotations(path, images)
    if args.karpathy_split is None:
        splits = drawn_split(images, args.val, args.test, args.seed)
        notes = []
    elif (args.val, args.test, args.seed) != (None, None, None):
        raise InputError(f'--karpathy_split {args.karpathy_split}: settles the split, and --val, --test and --seed '
                         'draw one; give the one or the others')
    else:
        splits, notes = read_split(args.karpathy_split, images)
    entries = [({**images[cocoid][0], 'split': split}, images[cocoid][1]) for cocoid, split in splits.items()]
    dataset, left_out = make_dataset(args.output.resolve().name, entries, args.tokenizer)
    done = write_dataset(args.output, dataset)
    print('\n'.join([*summary(dataset), *left_out, *notes, done]))
    return 0


def build_parser():
    parser = argparse.ArgumentParser(description='Make dataset.json of MS COCO from its official caption annotations.')

    group = parser.add_argument_group('input')
    group.add_argument('--annotations', type=Path, nargs='+', required=True,
        help='The official caption files, such as captions_train2014.json captions_val2014.json.')
    add_tokenizer_flag(group)

    group = parser.add_argument_group('split', 'either from a file, or drawn')
    group.add_argument('--karpathy_split', type=Path,
        help='The file that says which image is in which split: Karpathy\'s dataset_coco.json, or {"train": [...], '
             '"val": [...], ...} with COCO ids or file names. Give it to compare with published results, or to use '
             'Karpathy\'s feature files (default: the split is drawn).')
    group.add_argument('--val', type=int, help='How many validation images to draw (default: 5000).')
    group.add_argument('--test', type=int, help='How many test images to draw (default: 5000).')
    group.add_argument('--seed', type=int, help='The seed of the draw. Change it for another split (default: 0).')

    group = parser.add_argument_group('output')
    group.add_argument('--output', type=Path, required=True,
        help='The folder for dataset.json, such as data/coco. A dataset.json that is already there is replaced.')
    return parser


def read_annotations(path, images):
    """Add the images of a caption annotation file to images, a dict of cocoid -> (fields, list of captions).

    Raises InputError if the file is not as expected; images is unchanged then.
    """
    data = load_json(path)
    for key in ('images', 'annotations'):
        if not isinstance(data.get(key), list):
            raise InputError(f'{path}: there is no list "{key}"; found: {", ".join(sorted(data)) or "nothing"}. '
                             'Name one of the official caption files, such as captions_train2014.json.')
    here = {}
    for index, image in enumerate(data['images']):
        check_entry(path, f'images[{index}]', image, {'file_name': str})
        cocoid = number_of(path, f'images[{index}]', image, 'id')
        if cocoid in here or cocoid in images:
            raise InputError(f'{path}: images[{index}]: id {cocoid} occurs a second time; expected each image '
                             'once. Name every annotation file once, and those of one year only.')
        here[cocoid] = ({**fields_of(image, path), 'cocoid': cocoid}, [])
    for index, annotation in enumerate(data['annotations']):
        place = f'annotations[{index}]'
        check_entry(path, place, annotation, {'caption': str})
        cocoid = number_of(path, place, annotation, 'image_id')
        if cocoid not in here:
            raise InputError(f'{path}: {place}: image_id {cocoid} is not in the list "images". '
                             'Remove the annotation, or download the file again.')
        here[cocoid][1].append(annotation['caption'])
    images.update(here)


def number_of(path, place, entry, key):
    """The COCO id under this key of an entry as an int, even if it is a string there. InputError for anything else."""
    found = coco_number(entry.get(key))
    if found is None:
        check_entry(path, place, entry, {key: int})    # it raises the error
    return found


def check_entry(path, place, entry, types):
    """Raise InputError unless the entry at this place of a file is an object whose fields have these types."""
    if not isinstance(entry, dict):
        raise InputError(f'{path}: {place} is {entry!r:.60}; expected an object with {" and ".join(types)}.')
    for key, kind in types.items():
        if type(entry.get(key)) is not kind:
            found = f'is {entry[key]!r:.60}' if key in entry else 'is missing'
            raise InputError(f"{path}: {place}: '{key}' {found}; expected {kind.__name__}. "
                             'Correct that entry.')


def fields_of(image, path):
    """The fields of dataset.json for an image of the annotation file at path.

    A file_name with folders, such as "val2017/x.jpg", gives these as the filepath: from one of COCO's folders on, if
    there is one, and none for a path that is absolute or has "..", because it means nothing on another computer.
    """
    *folders, filename = parts_of(image['file_name']) or [image['file_name']]
    known = [i for i, name in enumerate(folders) if re.fullmatch(FOLDER, name)]
    if known:
        folders = folders[known[-1]:]
    elif '..' in folders or re.match(r'[\\/]|[A-Za-z][A-Za-z0-9+.-]*:[\\/]', image['file_name']):
        folders = []
    if not folders and (found := re.search(FOLDER, filename) or re.search(FOLDER, path.stem)):
        folders = [found[0]]
    return {**({'filepath': '/'.join(folders)} if folders else {}), 'filename': filename}


def drawn_split(images, val, test, seed):
    """Draw the splits of images: a dict of cocoid -> split, by ascending cocoid.

    It depends on the seed and the cocoids alone; see draw_splits. None stands for the default. Raises InputError if no
    image is left for train.
    """
    val = 5000 if val is None else val
    test = 5000 if test is None else test
    seed = 0 if seed is None else seed
    if min(val, test) < 0 or val + test >= len(images):
        raise InputError(f'--val {val} and --test {test} do not fit {len(images)} images; expected numbers from 0 that '
                         'leave some images for train: give smaller ones')
    return draw_splits(sorted(images), val, test, seed)


def read_split(path, images):
    """Read a split file: a dict of cocoid -> split, in the order of the imgids, and notes on what did not match.

    The order is that of Karpathy's file, so that his feature files fit if all its images have annotations here. For a
    plain file it is the order of the cocoids. Raises InputError if the file is not as expected.
    """
    data = load_json(path)
    is_karpathys = isinstance(data.get('images'), list)
    listed = karpathy_entries(path, data['images']) if is_karpathys else plain_entries(path, data)
    by_name = names_of(images)
    splits = {}
    unknown = 0
    for place, key, split in listed:
        cocoid = cocoid_of(key, by_name)
        if cocoid not in images:
            unknown += 1
        elif cocoid in splits:
            raise InputError(f'{path}: {place}: {key} is listed a second time; expected each image once. Remove one.')
        else:
            splits[cocoid] = split
    if not splits:
        raise InputError(f'{path}: none of its {unknown} images is in the annotation files. Name the annotation files '
                         'that the split was made for: for Karpathy\'s, those of train2014 and val2014.')
    notes = [f'left out: {count:,} images {why}' for count, why in
             ((unknown, f'of {path.name} that have no annotations here'),
              (len(images) - len(splits), f'with annotations that {path.name} does not list')) if count]
    return (splits if is_karpathys else dict(sorted(splits.items()))), notes


def names_of(images):
    """Dict of name -> cocoid: each image's file name, unless others have it too, and that after its last folder."""
    found, shared = {}, set()
    for cocoid, (fields, _) in images.items():
        shared.update(found.keys() & {fields['filename']})
        found[fields['filename']] = cocoid
    with_folder = {'/'.join(parts_of(picture_name(fields))[-2:]): cocoid for cocoid, (fields, _) in images.items()}
    return {name: cocoid for name, cocoid in found.items() if name not in shared} | with_folder


def cocoid_of(key, by_name):
    """The cocoid of an image in a split file, from an id or a file name; None for a name that is not in by_name."""
    if isinstance(key, str):
        parts = parts_of(key)
        for name in ('/'.join(parts[-2:]), *parts[-1:]):
            if name in by_name:
                return by_name[name]
    return coco_number(key)


def karpathy_entries(path, entries):
    """Yield (place, cocoid or file name, split) for the images of Karpathy's file."""
    for index, entry in enumerate(entries):
        place = f'images[{index}]'
        has_id = isinstance(entry, dict) and 'cocoid' in entry
        check_entry(path, place, entry, {'split': str} if has_id else {'filename': str, 'split': str})
        key = number_of(path, place, entry, 'cocoid') if has_id else entry['filename']
        if entry['split'] not in SPLITS:
            raise InputError(f"{path}: {place}: split is '{entry['split']}'; expected one of {', '.join(SPLITS)}. "
                             'Correct that entry.')
        yield place, key, entry['split']


def plain_entries(path, data):
    """Yield (place, cocoid or file name, split) for a file {"train": [...], "val": [...], ...}."""
    if not data or not data.keys() <= set(SPLITS):
        raise InputError(f'{path}: expected a list "images" as in Karpathy\'s dataset_coco.json, or lists called '
                         f'{", ".join(SPLITS)}; found: {", ".join(sorted(data)) or "nothing"}. Name a split file.')
    for split, keys in data.items():
        if not isinstance(keys, list):
            raise InputError(f'{path}: {split} is not a list; expected a list of COCO ids or file names. Correct it.')
        for index, key in enumerate(keys):
            if type(key) not in (int, str):
                raise InputError(f'{path}: {split}[{index}] is {key!r:.60}; expected a COCO id or a file name. '
                                 'Correct that entry.')
            yield f'{split}[{index}]', key, split


if __name__ == '__main__':
    sys.exit(main())

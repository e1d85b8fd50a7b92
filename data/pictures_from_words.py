r"""Add images to a data set of which only captions are known, with features imagined from these words.

    python data/pictures_from_words.py --dataset data/flickr8k --features lite0_feats.h5 \
        --captions captions_train2017.json --output data/flickr8k_and_words

A captioner that is trained on the result knows more words and more kinds of things than the pictures alone teach. The
files of captions may be COCO's annotations, a dataset.json (its splits train and restval), a table with the columns
image and caption, or plain text with a caption on each line. imagernn/convnet/imagined.py has the formula. The images
made in this way are marked "imagined": true in dataset.json; no picture of them exists, and they are for training only.
If the feature file has regions, as with extract --regions windows, those of the new images are imagined, too.
"""

import argparse
import re
import sys
from collections import Counter
from pathlib import Path
from shlex import quote
from typing import NamedTuple

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))    # a checkout need not be installed

from imagernn.corpus.dataset_writer import add_tokenizer_flag, make_dataset, summary, write_dataset
from imagernn.errors import InputError, command, loading, script, unreadable


def build_parser():
    parser = argparse.ArgumentParser(description='Add images to a data set of which only captions are known, with '
                                                 'features imagined from these words.')
    add_data_flags(parser)
    add_imagination_flags(parser)

    group = parser.add_argument_group('output')
    group.add_argument('--output', type=Path, required=True,
        help='The folder for dataset.json and the feature file, such as data/flickr8k_and_words. Files of these names '
             'that are already there are replaced.')
    group.add_argument('--dtype', choices=('float16', 'float32'), default='float16',
        help='The type of the stored features. float32 keeps those of the data set exact if they are stored so '
             '(default: %(default)s).')
    return parser


def add_data_flags(parser):
    group = parser.add_argument_group('data')
    group.add_argument('--dataset', type=Path, required=True,
        help='The folder of the data set with pictures, such as data/flickr8k. All its images become part of the new '
             'one; features of its training images show how words and features go together.')
    group.add_argument('--features', default=None,
        help='Its feature file: a name in that folder, or a path (default: vgg_feats.mat, .h5 or .npy there).')
    group.add_argument('--captions', type=Path, nargs='+', required=True,
        help="The captions without pictures: COCO's annotations, a dataset.json, of which the splits train and restval "
             'are used, a table with the columns image and caption, or text with a caption on each line.')
    group.add_argument('--captions_per_image', type=int, default=1,
        help='For text: how many lines in a row describe the same image. Set it to 5 for a file that lists the five '
             'captions of each image together (default: %(default)s).')
    group.add_argument('--leave_out', type=Path, default=None,
        help='A text file with the COCO ids of images to leave out, one on each line. Name the images here on whose '
             'pictures the model is to be evaluated (default: none; images of the data set are left out anyway).')
    add_tokenizer_flag(group)


def add_imagination_flags(parser):
    group = parser.add_argument_group('network', 'the one that the features come from')
    group.add_argument('--weights', default=None,
        help='The weight file of the network, with its classifier: .h5 (Keras), .mat (MatConvNet), .npz, .pth '
             '(torchvision), .caffemodel or .onnx. Give the one that the features were extracted with (default: the '
             'weights of lite0 that the extra [lite0] installs).')
    group.add_argument('--class_words', type=Path, default=None,
        help='The table of words and the ImageNet classes that they name. Copy and change '
             'imagernn/convnet/words_of_classes.txt for captions in another language (default: that file).')

    group = parser.add_argument_group('imagination')
    group.add_argument('--strength', type=float, default=None,
        help='How far features move in the direction of a class that all captions name. Raise it if things that only '
             'the captions without pictures name are not recognized, lower it if they are seen everywhere (default: '
             '0.356 of the root mean square distance of the features from their mean, which is 5 for lite0 on '
             'Flickr8K).')
    group.add_argument('--ridge', type=float, default=3,
        help='The penalty on the weights of the regression from words to features. Raise it for a data set with few '
             'images (default: %(default)s).')
    group.add_argument('--residual', type=float, default=.8,
        help='How much of the residual of a real picture is added, from 0 to 1, so that imagined features spread as '
             'real ones do. 0 gives the expected features (default: %(default)s).')
    group.add_argument('--min_images', type=int, default=15,
        help='The regression uses the words that the captions of at least this many training images have. Lower it '
             'for a small data set (default: %(default)s).')
    group.add_argument('--seed', type=int, default=0,
        help='The seed of the classes and residuals that are drawn. Change it for other features (default: '
             '%(default)s).')


with loading(__name__, build_parser):    # --help does not wait for these
    import numpy as np
    from tqdm import tqdm

    from imagernn.convnet import imagined
    from imagernn.convnet.classes import class_names
    from imagernn.convnet.extraction import boxes_of, open_network, parse_regions
    from imagernn.corpus.captioned_images import getDataProvider
    from imagernn.corpus.feature_writer import create_file, write_rows
    from imagernn.corpus.features import ORIGIN, ORIGIN_OF_REGIONS
    from imagernn.formats.caption_files import REFERENCES, RESULTS, coco_number, parse
    from imagernn.formats.json_files import load_json
    from imagernn.formats.names import parts_of, picture_name
    from imagernn.formats.writing import refuse_to_replace, require_writable

FORMAT = 'imagernn features, partly imagined'    # not that of extract, so that no extraction replaces them
RARE = .025              # a word gives a class only if fewer of the training images have it: the others, B knows better
STRENGTH = .356          # of the features' root mean square distance from their mean
KNOWN = 'that the data set has, by COCO id or file name'
TRAINING_SPLITS = ('train', 'restval')    # of a dataset.json with captions
FEWEST_TERMS, LEAST_AGREEMENT = 10, .75    # below which features seem to be of another network
SHOWN = 20               # the most frequent words with a class that are printed
PLACING = 1              # after --seed, the seed of the classes' places


@script
def main(argv=None):
    args = checked(build_parser().parse_args(argv))
    data = read_real(args)
    features_path = args.output / f'{data.provider.features.path.stem}.h5'
    refuse_to_replace([args.dataset / 'dataset.json', data.provider.features.path, *args.captions],
                      [args.output / 'dataset.json', features_path])
    table = imagined.read_table(args.class_words or imagined.TABLE, class_names())

    # captions of images that have no picture here
    entries, notes = read_captions(args, data.images)
    added, left_out = make_dataset(args.output.resolve().name, entries, args.tokenizer, *data.next_numbers())
    for image in added['images']:
        image['filename'] = f"imagined-{image['imgid']}"    # of no picture
    notes += [*left_out, data.note]

    # what the pictures teach: the regression, and which words need a class
    require_writable(features_path)
    directions = classifier_directions(args.weights, data.provider.features)
    world = learn(args, data, table, directions)
    captions = [[sentence['tokens'] for sentence in image['sentences']] for image in added['images']]
    require_common_words(captions, world)

    # the features are complete before dataset.json names their images
    terms = [imagined.named_terms(each, world.table) for each in captions]
    write_features(features_path, args, data, world, added['images'], captions, terms)
    dataset = {**data.contents, **added, 'images': data.images + added['images']}
    done = write_dataset(args.output, dataset)
    print('\n'.join([*summary(dataset), *report(added['images'], terms, world), *notes, done,
                     f'wrote {features_path}', how_to_train(args.output, features_path.name)]))
    return 0


class Real(NamedTuple):
    """The data set with pictures."""

    contents: dict      # of its dataset.json, without "images"
    images: list        # as they are in dataset.json
    provider: object    # a DataProvider
    there: dict         # imgid -> image, of the images that have features
    features: object    # a Features, with regions if those of imagined images can be imagined
    note: str           # on whether they can

    def next_numbers(self):
        """The first imgid and the first sentid that are free."""
        sentids = [number for image in self.images for sentence in image['sentences']
                   if type(number := sentence.get('sentid')) is int]
        return max(image['imgid'] for image in self.images) + 1, max(sentids, default=-1) + 1


class World(NamedTuple):
    """What is known of words and features: it makes the features of an image from its captions."""

    regression: object         # an imagined.Regression
    X: object                  # (n, W) sparse, the shares of words of the n training images
    imgids: np.ndarray         # (n,) of the training images
    table: dict                # term -> classes, of those terms that few training images have
    agrees: np.ndarray         # (T,) bool, see imagined.agreement
    directions: np.ndarray     # (classes, D)
    strength: float
    regions: object            # a Regions, or None


class Regions(NamedTuple):
    """What is known of the R regions of a picture."""

    means: np.ndarray       # (R, D), of the training images
    presence: np.ndarray    # (R, P), see imagined.presence_in, for each place that a class can have


def checked(args):
    """The arguments. Raises InputError unless they are valid."""
    for name, least in (('captions_per_image', 1), ('min_images', 1), ('seed', 0)):
        if getattr(args, name) < least:
            raise InputError(f'--{name} {getattr(args, name)}: must be at least {least}')
    for name, is_valid, expected in (
            ('strength', args.strength is None or 0 <= args.strength < np.inf, 'a number from 0'),
            ('ridge', 0 < args.ridge < np.inf, 'a number above 0'),
            ('residual', 0 <= args.residual <= 1, 'a number from 0 to 1')):
        if not is_valid:
            raise InputError(f'--{name} {getattr(args, name):g}: must be {expected}')
    return args


# ---- what is read

def read_real(args):
    """The data set with pictures and its features. InputError if they are not as expected."""
    if not (args.dataset / 'dataset.json').is_file():
        raise InputError(f'--dataset {args.dataset}: there is no dataset.json in it; name the folder of a data set, '
                         'such as data/flickr8k')
    folder = args.dataset.resolve()
    provider = getDataProvider(folder.name, folder.parent, args.features)
    contents = load_json(folder / 'dataset.json')
    images = contents.pop('images')
    there = {image['imgid']: image for split in provider.getSplitSizes() for image in provider.iterImages(split)}
    if max(image['imgid'] for image in images) > 100 * len(images) + 1000:
        raise InputError(f'{args.dataset / "dataset.json"}: its imgids are up to '
                         f'{max(image["imgid"] for image in images)} for {len(images)} images, and each imgid is a row '
                         'of the feature file; number the images from 0')
    return Real(contents, images, provider, there, *with_regions(provider.features))


def with_regions(features):
    """The same features with those of regions, if these can be imagined for other images, and a note for the report."""
    try:
        found = features.with_regions()
    except InputError as error:
        return features, f'without regions: {error}'
    if found.boxes is None:
        return features, f'without regions: {features.path} does not say where they are, as it has no boxes'
    if found.region_dim != features.dim:
        return features, (f'without regions: those in {features.path} have {found.region_dim} numbers each, and whole '
                          f'pictures {features.dim}, so that they come from another layer than the classifier reads')
    return found, f'with features of {found.num_regions} regions of each image'


def classifier_directions(weights, features):
    """The directions of the classes (classes, D) in the network that a feature file comes from.

    Raises InputError where the network has no classifier, or the features are not what its classifier reads.
    """
    network = open_network(weights, None)
    what = weights or 'the installed weights of lite0'
    if network.classifier is None:
        raise InputError(f'{what}: holds no fully connected layers, so that it cannot tell what speaks for a class; '
                         'name a file with all layers of the network')
    ours = {'network': network.name, 'layer': network.default_output, 'weights_sha256': network.checksum}
    for key, value in ours.items():
        if features.origin.get(key, value) != value:
            raise InputError(f'{features.path}: its features are of {key} {features.origin[key]}, but {what} have '
                             f'{key} {value}; name the weights of that network with --weights, or extract the '
                             'features with these')
    W, _ = network.classifier                                                   # (D, classes)
    if len(W) != features.dim:
        raise InputError(f'{features.path}: holds {features.dim} numbers an image, but the classifier of '
                         f'{network.name} reads the {len(W)} of layer {network.default_output}; name the weights of '
                         'the network that the features come from with --weights, or other features with --features')
    return imagined.class_directions(W)


def read_captions(args, images):
    """The images of the files of captions as pairs (fields of dataset.json, captions), and notes on what is left out.

    An image that the data set has, by its COCO id or its file name, is left out, whatever its split.
    """
    unwanted = read_ids(args.leave_out) if args.leave_out else set()
    known = {key for image in images for key in keys_of(image.get('cocoid'), image['filename'])}
    entries, left_out, seen = [], Counter(), set()
    for path in args.captions:
        for source, name, captions in read_images(path, args.captions_per_image):
            keys = keys_of(source.get('cocoid'), name)
            reason = next((reason for reason, listed in (('that --leave_out lists', unwanted), (KNOWN, known),
                                                         ('that are listed before', seen)) if keys & listed), None)
            if reason:
                left_out[reason] += 1
                continue
            seen |= keys
            fields = {'filename': '', 'split': 'train', 'imagined': True, 'source': path.name, **source}
            entries.append((fields, captions))
    if unwanted and not left_out['that --leave_out lists']:
        left_out['that --leave_out lists'] = 0
    if not entries:
        raise InputError(f'{" and ".join(map(str, args.captions))}: no image is left; left out were '
                         + ', '.join(f'{count:,} {reason}' for reason, count in left_out.items())
                         + '. Name captions of other images.')
    return entries, [f'left out: {count:,} images {reason}' for reason, count in left_out.items()]


def keys_of(cocoid, name):
    """What identifies an image across files: a set of its COCO id as an int, its file name, and its number at Flickr.

    Flickr8K calls the picture 1000268201_693b08cb0e.jpg that Flickr30K calls 1000268201.jpg.
    """
    name = ''.join(parts_of(name or '')[-1:]) or None
    photo = name and re.fullmatch(r'([1-9]\d{5,})(_[0-9a-f]+)?\.jpe?g', name)
    return {coco_number(cocoid), name, photo and f'photo {photo[1]}'} - {None}


def read_images(path, captions_per_image):
    """Yield (fields that say where it is from, name of its picture or None, captions) for each image in a file."""
    kind, contents = parse(path)
    if kind in RESULTS:
        raise InputError(f'{path}: holds captions that a system generated; expected captions that people wrote: '
                         "COCO's annotations, a dataset.json, a table or text")
    if kind == 'text':
        lines = [(number, line) for number, line in enumerate(contents, 1) if line.strip()]
        if len(lines) % captions_per_image:
            raise InputError(f'{path}: has {len(lines):,} lines, which is no multiple of --captions_per_image '
                             f'{captions_per_image}; give the number of captions that each image has there')
        for start in range(0, len(lines), captions_per_image):
            group = lines[start:start + captions_per_image]
            yield {'source_line': group[0][0]}, None, [line for _, line in group]
        return
    for split in splits_of(kind, contents):
        found = REFERENCES[kind](path, contents, split)
        nothing = [None] * len(found.captions)
        ids, names = (found.ids.get(key, nothing) for key in ('cocoid', 'filename'))
        for cocoid, name, captions in zip(ids, names, found.captions, strict=True):
            number = coco_number(cocoid)
            yield ({'source_image': name} if number is None else {'cocoid': number}), name, captions


def splits_of(kind, contents):
    """Which splits of a file of captions to read: of a dataset.json those of TRAINING_SPLITS that it has."""
    listed = contents['images'] if kind == 'dataset' and isinstance(contents['images'], list) else []
    there = {image.get('split') for image in listed if isinstance(image, dict) and isinstance(image.get('split'), str)}
    return [split for split in TRAINING_SPLITS if split in there] or ['train']


def read_ids(path):
    """The COCO ids in a text file, a set of ints. InputError that names the line where there is no such id."""
    try:
        lines = path.read_text(encoding='utf-8-sig').split('\n')
    except OSError as error:
        raise unreadable(path, error) from None
    except UnicodeDecodeError as error:
        raise InputError(f'{path}: is not UTF-8 at byte {error.start}; expected a text file with a COCO id on each '
                         'line') from None
    ids = set()
    for number, line in enumerate(map(str.strip, lines), 1):
        if line and coco_number(line) is None:
            raise InputError(f'{path}, line {number}: {line!r:.60} is no COCO id; expected a number on each line. '
                             'Correct that line.')
        ids |= {coco_number(line)} if line else set()
    return ids


# ---- what is learned and made

def learn(args, data, table, directions):
    """The World that the training images show. Raises InputError if they are too few, or their features do not fit."""
    training = [image for image in data.there.values() if image['split'] == 'train' and not image.get('imagined')]
    captions = [[sentence['tokens'] for sentence in image['sentences']] for image in training]
    column_of = imagined.frequent_words(captions, args.min_images)
    path = args.dataset / 'dataset.json'
    if not column_of:
        raise InputError(f'{path}: no word is in the captions of {args.min_images} of its {len(training)} training '
                         'images; use more images with pictures, or lower --min_images')
    imgids = np.array([image['imgid'] for image in training])
    X = imagined.shares_of(captions, column_of)                                 # (n, W)
    features = data.provider.features

    def features_of(numbers):
        F = features.rows(imgids[numbers], np.float64)                          # (k, D)
        if F.min() < 0:
            raise InputError(f'{features.path}: has values below 0, as the layer that the classifier reads never has; '
                             'name features as extract writes them, not standardized ones or those of another layer')
        return F

    regression = imagined.fit(column_of, X, features_of, args.ridge)
    counts = [imagined.counts_of(each, table) for each in captions]
    agrees = imagined.agreement(counts, table, directions, features_of, args.min_images)
    if len(agrees) >= FEWEST_TERMS and agrees.mean() < LEAST_AGREEMENT:
        print(f'warning: {features.path}: features of images with a word such as those in the table of classes lie in '
              f'the direction of its classes for {agrees.mean():.0%} of {len(agrees)} words; half would be chance. '
              'They may come from another network than the weights: check --weights and --features', file=sys.stderr)
    frequency = Counter(term for each in counts for term in each)
    rare = {term: classes for term, classes in table.items() if frequency[term] < RARE * len(training)}
    strength = STRENGTH * regression.deviation if args.strength is None else args.strength
    return World(regression, X, imgids, rare, agrees, directions, strength, learn_regions(data.features, imgids))


def learn_regions(features, imgids):
    """What the training images imgids (n,) show of regions: Regions, or None if there are none."""
    if not features.num_regions:
        return None
    total, size = 0, block_size(features)
    for start in range(0, len(imgids), size):
        total = total + read_rows(features, imgids[start:start + size], np.float64)['regions'].sum(axis=0)
    windows = boxes_of(parse_regions('windows'))                                # (26, 4)
    places = windows[imagined.areas(windows) >= imagined.SMALLEST_PLACE]        # (P, 4)
    return Regions(total / len(imgids), imagined.presence_in(features.boxes, places))


def block_size(features):
    """How many images have their features in memory at once."""
    return max(1, imagined.BLOCK // (1 + features.num_regions))


def read_rows(features, imgids, dtype):
    """The features of n images as write_rows takes them: 'feats' (n, D) and, if there are any, 'regions' (n, R, D)."""
    rows = features.rows(imgids, dtype).reshape(len(imgids), 1 + features.num_regions, -1)    # the whole picture first
    return {'feats': rows[:, 0]} | ({'regions': rows[:, 1:]} if features.num_regions else {})


def require_common_words(captions, world):
    """Raise InputError if none of the captions has a word that the regression or the table knows."""
    if not any(word in world.regression.column_of for each in captions for tokens in each for word in tokens):
        raise InputError('the captions without pictures have no word in common with the '
                         f'{len(world.regression.column_of):,} of the data set that enough images have; name captions '
                         'in the same language, and the --tokenizer of the data set')


def write_features(path, args, data, world, added, captions, terms):
    """Write the feature file at path: row = imgid, the data set's rows as they are, and after them the imagined ones.

    added: the n imagined images; captions, terms: a list for each of them.
    """
    features = data.features
    names = [''] * (added[-1]['imgid'] + 1)
    for image in [*data.images, *added]:
        names[image['imgid']] = picture_name(image)
    settings = {**{key: features.origin[key] for key in (*ORIGIN, ORIGIN_OF_REGIONS) if key in features.origin},
                'format': FORMAT}

    def write(file):
        imgids, size = sorted(data.there), block_size(features)
        for start in range(0, len(imgids), size):
            block = imgids[start:start + size]
            write_rows(file, block, read_rows(features, block, features.dtype), names)
        with tqdm(total=len(added), unit='image', disable=None) as progress:
            for numbers, arrays in imagined_rows(args, features, world, captions, terms):
                write_rows(file, [added[number]['imgid'] for number in numbers], arrays, names)
                progress.update(len(numbers))

    example = read_rows(features, world.imgids[:1], features.dtype)
    create_file(path, settings, names, args.dtype, example, features.boxes, write)


def imagined_rows(args, features, world, captions, terms):
    """Yield (numbers of k images, their features as of read_rows), a block at a time. Its size changes nothing."""
    regression, regions, size = world.regression, world.regions, block_size(features)
    rng = np.random.default_rng(args.seed)
    place_rng = np.random.default_rng([args.seed, PLACING])    # of its own: regions do not change whole pictures
    for start in range(0, len(captions), size):
        numbers = range(start, min(start + size, len(captions)))
        weights, donors = [], []
        for number in numbers:
            weights.append(imagined.draw_classes(terms[number], world.table, rng))
            donors.append(rng.integers(len(world.imgids)))
        X = imagined.shares_of([captions[number] for number in numbers], regression.column_of)    # (k, W)
        real, X_real = read_rows(features, world.imgids[donors], np.float64), world.X[donors]
        residuals = args.residual * (real['feats'] - regression.predict(X_real))                    # (k, D)
        made = {'feats': imagined.imagine(regression, X, weights, world.directions, residuals, world.strength)}
        if regions:
            presence = [regions.presence[:, place_rng.integers(regions.presence.shape[1], size=len(pairs))]
                        for pairs in weights]                                   # of each image: (R, its classes)
            residuals = args.residual * (real['regions'] - regression.predict_regions(X_real, regions.means))
            made['regions'] = imagined.imagine_regions(regression, regions.means, X, weights, presence,
                                                       world.directions, residuals, world.strength)
        yield numbers, made


# ---- what is printed

def report(added, terms, world):
    """Lines on the imagined images and on what they were made from."""
    used = Counter(term for each in terms for term, _ in each)
    shown = ', '.join(f'{term} {count:,}' for term, count in used.most_common(SHOWN))
    return [f'{len(added):,} images imagined from their captions, split train',
            f'{len(world.regression.column_of):,} words of {len(world.imgids):,} training images explain '
            f'{world.regression.explained:.0%} of the variance of their features',
            f'for {np.count_nonzero(world.agrees)} of {len(world.agrees)} words of the table of classes, the real '
            'images with the word lie in the direction of its classes (chance: half)',
            f'{sum(map(bool, terms)):,} imagined images name an ImageNet class, with strength {world.strength:.2f}'
            + (f': {shown}' if shown else '')]


def how_to_train(folder, features):
    """The command that trains on the new data set."""
    folder = folder.resolve()
    root = '' if folder.parent == Path('data').resolve() else f' --data_root {quote(str(folder.parent))}'
    return (f'to train on it: {command("train")} -d {quote(folder.name)}{root} --features {quote(features)} '
            '--solver adam --tanhC_version 1 --image_encoding_size 512 --word_encoding_size 512 --hidden_size 512 '
            '--learning_rate_decay_start 4 --learning_rate_decay_every 3 -m 12')


if __name__ == '__main__':
    sys.exit(main())

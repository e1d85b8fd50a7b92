"""Caption a folder of pictures whose features are at hand.

    python predict_on_images.py cv/CHECKPOINT.h5 -r example_images

The folder holds tasks.txt, one picture's file name a line, and a feature file with a row (in .mat a column) for each
line. Writes result_struct.json and result.html there.
"""

import argparse
import sys
from pathlib import Path

import imagernn.blas  # noqa: F401  before numpy

# isort: split
from imagernn.errors import InputError, script
from imagernn.evaluation import (
    add_search_flags,
    caption_images,
    check_feature_size,
    check_search_flags,
    load_captioner,
    refuse_to_replace,
    result_blob,
)
from imagernn.features import default_features, open_features
from imagernn.files import require_writable, write_json
from imagernn.pages import write_gallery
from imagernn.workers import Workers


def build_parser():
    parser = argparse.ArgumentParser(description='Caption a folder of pictures.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add('checkpoint_path', help='a checkpoint of driver.py, or one of the original NeuralTalk (.p)')
    add('-r', '--root_path', default='example_images', help='folder with tasks.txt, the pictures and their features')
    add('--features', default=None,
        help='feature file, in root_path or a path (default: the first of vgg_feats.mat, .h5, .npy there)')
    add_search_flags(parser)
    return parser


@script
def main(argv=None):
    params = vars(build_parser().parse_args(argv))
    check_search_flags(params)
    root = Path(params['root_path'])
    checkpoint = load_captioner(params['checkpoint_path'], params['dtype'])
    names = read_tasks(root / 'tasks.txt')
    features = open_features(feature_file(root, params['features']))
    if features.num_images != len(names):
        raise InputError(f'{root / "tasks.txt"} lists {len(names)} pictures, but {features.path} has features of '
                         f'{features.num_images}: there must be one for each line, in the same order')
    check_feature_size(features, checkpoint['model'])
    outputs = [root / 'result_struct.json', root / 'result.html']
    refuse_to_replace([params['checkpoint_path'], features.path], outputs)
    for path in outputs:
        require_writable(path)

    captions = caption_images(lambda i, j: features.rows(range(i, j), dtype=params['dtype']), len(names),
                              checkpoint['model'], checkpoint['params'], checkpoint['ixtoword'], params,
                              Workers(params['num_threads']))
    blobs = [result_blob(name, found) for name, found in zip(names, captions, strict=True)]
    write_json(outputs[0], {'params': params, 'checkpoint_params': checkpoint['params'], 'imgblobs': blobs})
    write_gallery(outputs[1], f'{root.resolve().name}: {len(names)} pictures', blobs, base=root)
    for blob in blobs:
        print(f'{blob["img_path"]}: {blob["candidate"]["text"]}')
    print(f'written: {outputs[0]}, {outputs[1]}')
    return 0


def feature_file(root, name):
    """The feature file of that name in root, or else at that path; without a name, the usual ones in root."""
    if name is None:
        return default_features(root)
    return root / name if (root / name).is_file() else Path(name)


def read_tasks(path):
    """The picture names of a tasks.txt, one a line, in order; blank lines do not count."""
    try:
        lines = path.read_text(encoding='utf-8-sig').splitlines()
    except OSError as error:
        raise InputError(f'{path}: cannot be read ({error.strerror}); it must list the pictures, a file name a line, '
                         'in the order of the features') from None
    except UnicodeDecodeError as error:
        raise InputError(f'{path}: not UTF-8 at byte {error.start}; save it again with that encoding') from None
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise InputError(f'{path}: is empty; it must list the pictures, a file name a line')
    return names


if __name__ == '__main__':
    sys.exit(main())

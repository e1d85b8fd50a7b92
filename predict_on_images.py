"""Caption a folder of pictures whose features are at hand.

    python predict_on_images.py cv/CHECKPOINT.h5 -r example_images

The folder holds tasks.txt, one picture's file name a line, and a feature file with a row (in .mat a column) for each
line. Writes result_struct.json and result.html there.
"""

import argparse
import sys
from pathlib import Path

from imagernn.errors import InputError, script
from imagernn.evaluation import (
    add_search_flags,
    caption_images,
    check_feature_size,
    check_search_flags,
    load_captioner,
)
from imagernn.features import default_features, open_features
from imagernn.files import write_json
from imagernn.pages import write_gallery


def build_parser():
    parser = argparse.ArgumentParser(description='Caption a folder of pictures.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add('checkpoint_path', help='a checkpoint of driver.py, or one of the original NeuralTalk (.p)')
    add('-r', '--root_path', default='example_images', help='folder with tasks.txt, the pictures and their features')
    add('--features', default=None, help='feature file in root_path (default: the first of vgg_feats.mat, .h5, .npy)')
    add_search_flags(parser)
    return parser


@script
def main(argv=None):
    params = vars(build_parser().parse_args(argv))
    check_search_flags(params)
    root = Path(params['root_path'])
    checkpoint = load_captioner(params['checkpoint_path'], params['dtype'])
    names = read_tasks(root / 'tasks.txt')
    features = open_features(root / params['features'] if params['features'] else default_features(root))
    if features.num_images != len(names):
        raise InputError(f'{root / "tasks.txt"} lists {len(names)} pictures, but {features.path} has features of '
                         f'{features.num_images}: there must be one for each line, in the same order')
    check_feature_size(features, checkpoint['model'])

    captions = caption_images(lambda i, j: features.rows(range(i, j), dtype=params['dtype']), len(names),
                              checkpoint['model'], checkpoint['params'], checkpoint['ixtoword'], params)
    blobs = []
    for name, found in zip(names, captions, strict=True):
        print(f'{name}: {found[0]["text"]}')
        blobs.append({'img_path': name, 'candidate': found[0]} | ({'nbest': found} if params['nbest'] > 1 else {}))
    write_json(root / 'result_struct.json', {'params': params, 'checkpoint_params': checkpoint['params'],
                                             'imgblobs': blobs})
    write_gallery(root / 'result.html', f'{root.resolve().name}: {len(names)} pictures', blobs, base=root)
    print(f'written: {root / "result_struct.json"}, {root / "result.html"}')
    return 0


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

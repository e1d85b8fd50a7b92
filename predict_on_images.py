"""Say what is in pictures.

    python predict_on_images.py cv/CHECKPOINT.h5 photo.jpg more/

takes photos and folders of photos: they go through the convolutional network that the checkpoint was trained with, and
`path: caption` is printed of each.

    python predict_on_images.py cv/CHECKPOINT.h5 -r example_images

takes a folder with tasks.txt, one picture's file name a line, and a feature file with a row (in .mat a column) for each
line; without a feature file it takes the pictures themselves. Writes result_struct.json and result.html there.
"""

import argparse
import sys
from pathlib import Path

import imagernn.nn.blas  # noqa: F401  before numpy

# isort: split
import numpy as np
from tqdm import tqdm

from imagernn.captioning.evaluate import caption_images, word_logprobs
from imagernn.captioning.flags import add_search_flags, check_search_flags
from imagernn.captioning.load import check_feature_size, load_captioner
from imagernn.captioning.results import result_blob
from imagernn.convnet.extraction import chosen_layer, extract, open_network
from imagernn.convnet.preprocess import PREPROCESSING, description
from imagernn.convnet.sources import expanded, read_tasks
from imagernn.corpus.features import READERS, default_features, open_features
from imagernn.errors import InputError, script, shown
from imagernn.formats.json_files import write_json
from imagernn.formats.writing import refuse_to_replace, require_writable
from imagernn.nn.workers import Workers
from imagernn.web.results_page import Places, checked_result, view_command, write_page

ROOT = 'example_images'
GUESSES = {1280: ('lite0', 'features'), 4096: ('vgg16', 'fc7')}    # of checkpoints that do not say: size -> network


def build_parser():
    parser = argparse.ArgumentParser(description='Caption pictures.')
    add = parser.add_argument
    add('checkpoint_path', help='a checkpoint of driver.py, or one of the original NeuralTalk (.p)')
    add('pictures', nargs='*', help='pictures, and folders of pictures')
    add('-r', '--root_path', default=ROOT,
        help='without pictures: folder with tasks.txt, the pictures or their features (default: %(default)s)')
    add('--features', default=None,
        help='feature file, in root_path or a path (default: the first of vgg_feats.mat, .h5, .npy there)')
    add('--weights', default=None, help='weight file of the convolutional network (default: for lite0 the installed '
                                        'package, [lite0])')
    add('--on_error', choices=('skip', 'stop'), default='skip',
        help='a broken picture is named, or ends the run (default: %(default)s)')
    add('--result_struct_filename', default=None, help='JSON to write (default: result_struct.json in root_path, none '
                                                       'of named pictures)')
    add('--html', default=None, help='page to write, the pictures in it (default: result.html in root_path, none of '
                                   'named pictures)')
    add_search_flags(parser)
    return parser


@script
def main(argv=None):
    params = vars(build_parser().parse_intermixed_args(argv))    # flags may stand before pictures
    check_search_flags(params)
    if params['pictures'] and (params['root_path'] != ROOT or params['features']):
        raise InputError('pictures are named, and --root_path or --features too: give one or the other')
    checkpoint = load_captioner(params['checkpoint_path'], params['dtype'])
    root, names, paths = wanted_pictures(params)
    features = feature_file(root, params['features']) if root else None
    outputs = output_files(params, root)
    inputs = [params['checkpoint_path'], params['weights'], features, *paths]
    refuse_to_replace([path for path in inputs if path], outputs.values())
    for path in outputs.values():
        require_writable(path)

    workers = Workers(params['num_threads'])
    if features:
        rows = rows_of_file(features, root, names, checkpoint, params)
    else:
        names, rows = rows_of_pictures(names, paths, checkpoint, params, workers)
    captions = caption_images(rows, len(names), checkpoint['model'], checkpoint['params'], checkpoint['ixtoword'],
                              params, workers)
    logprobs = word_logprobs(rows, captions, checkpoint['model'], checkpoint['params'], checkpoint['ixtoword'], workers)
    blobs = [result_blob(*each) for each in zip(names, captions, logprobs, strict=True)]
    result = {'params': params, 'checkpoint_params': checkpoint['params'], 'imgblobs': blobs}
    if 'json' in outputs:
        write_json(outputs['json'], result)
    if 'html' in outputs:
        write_page(outputs['html'], [checked_result(outputs.get('json', ''), result)], Places((root or Path(),), None))
    for blob in blobs:
        for found in [blob['candidate']] if root else blob.get('nbest', [blob['candidate']]):
            print(shown(f'{blob["img_path"]}: {found["text"]}'))
    if outputs:
        print(f'written: {", ".join(map(str, outputs.values()))}')
    if 'json' in outputs:
        print(f'to look at them: {view_command(outputs["json"], names, root or Path())}')
    return 0


def wanted_pictures(params):
    """The folder of -r, or None where pictures are named; the pictures' names, and their paths."""
    if not params['pictures']:
        root = Path(params['root_path'])
        if params['root_path'] == ROOT and not root.is_dir():
            raise InputError('no pictures: name them, or their folder; or by -r a folder with tasks.txt')
        names = read_tasks(root / 'tasks.txt')
        return root, names, [root / name for name in names]
    paths = [picture for name in params['pictures'] for picture in expanded(Path(name))]
    return None, [str(path) for path in paths], paths


def feature_file(root, name):
    """The feature file of that name in root, or else at that path; without a name, the usual ones in root.

    None where root has no feature file at all.
    """
    if name is None:
        if any(path.suffix.lower() in READERS for path in root.iterdir()):
            return default_features(root)
        print(f'note: {root}: has no feature file; its pictures go through the convolutional network', file=sys.stderr)
        return None
    return root / name if (root / name).is_file() else Path(name)


def output_files(params, root):
    """Which results are written, and where."""
    asked = {'json': params['result_struct_filename'], 'html': params['html']}
    if root:
        asked = {'json': asked['json'] or root / 'result_struct.json', 'html': asked['html'] or root / 'result.html'}
    outputs = {kind: Path(path) for kind, path in asked.items() if path}
    if len({path.resolve() for path in outputs.values()}) < len(outputs):
        raise InputError(f'two results would go to the same file, {outputs["html"]}; give each its own')
    return outputs


def rows_of_file(path, root, names, checkpoint, params):
    """rows(i, j): the features of pictures i to j, from a file with a row for each."""
    features = open_features(path)
    if features.num_images != len(names):
        raise InputError(f'{root / "tasks.txt"} lists {len(names)} pictures, but {features.path} has features of '
                         f'{features.num_images}: there must be one for each line, in the same order')
    check_feature_size(features, checkpoint['model'])
    return lambda i, j: features.rows(range(i, j), dtype=params['dtype'])


def rows_of_pictures(names, paths, checkpoint, params, workers):
    """The names of the pictures that can be read, and rows(i, j): their features, from the checkpoint's network.

    A broken picture is named on stderr, or with --on_error stop an InputError; so it is if all are broken.
    """
    network, layer = network_of(checkpoint, params)
    good, found = [], []
    with tqdm(total=len(paths), desc='pictures', unit='picture', disable=None) as progress:
        for numbers, arrays, broken in extract(paths, network, layer, workers):
            for _, error in broken:
                if params['on_error'] == 'stop':
                    raise error
                tqdm.write(f'skipped: {error}', file=sys.stderr)
            if numbers:
                check_size(arrays['feats'], network, layer, checkpoint['model'])
                good += [names[number] for number in numbers]
                found.append(arrays['feats'])
            progress.update(len(numbers) + len(broken))
    if not good:
        raise InputError(f'none of the {len(names)} pictures can be read; what is wrong stands above')
    features = np.concatenate(found).astype(params['dtype'])                    # (n, D)
    return good, lambda i, j: features[i:j]


def check_size(feats, network, layer, model):
    """InputError unless the model was made for features (n, D) of this size."""
    if feats.shape[1] != len(model['We']):
        raise InputError(f'{network.name} gives features of size {feats.shape[1]} by its layer {layer}, but the '
                         f'checkpoint was trained on size {len(model["We"])}; give a feature file of the right network '
                         'by -r')


def network_of(checkpoint, params):
    """The network and the layer that the checkpoint's features came from; a guess, and that is said, if it is mute.

    InputError where no network is known to give such features, or its weights are missing or another's.
    """
    said, D = checkpoint.get('features'), len(checkpoint['model']['We'])
    said = said if isinstance(said, dict) else {}
    name, layer = said.get('network'), said.get('layer')
    if name is None and D in GUESSES:
        name, layer = GUESSES[D]
        print(f'note: the checkpoint does not say which network its features came from; of size {D}, they may be '
              f'those of {name}, layer {layer}', file=sys.stderr)
    if name not in tuple(PREPROCESSING):
        raise InputError(f'{params["checkpoint_path"]}: its features, {D} numbers, came from '
                         f'{f"the network {name!r}" if name else "a network that it does not name"}, which is none of '
                         f'{", ".join(PREPROCESSING)}; give a folder with tasks.txt and a feature file by -r')
    network = open_network(params['weights'], said.get('network') or (None if params['weights'] else name))
    for key, ours in (('weights_sha256', network.checksum), ('preprocessing', description(network.name))):
        if said.get(key, ours) != ours:
            print(f'note: {key} is {ours}, but the features that the checkpoint was trained on had {said[key]}: '
                  'expect worse captions', file=sys.stderr)
    return network, chosen_layer(network, layer)


if __name__ == '__main__':
    sys.exit(main())

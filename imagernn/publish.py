"""Make a small checkpoint to give away: python -m imagernn.publish CHECKPOINT cv/NAME.h5

Keeps the model as float16, the vocabulary, the flags and where the features came from; leaves out what only a run that
goes on needs: the solver's and the random state, the history.
"""

import argparse
import sys

import numpy as np

from imagernn.captioning.load import check_feature_size, load_captioner
from imagernn.corpus.features import open_features
from imagernn.errors import InputError, command, script
from imagernn.formats.writing import refuse_to_replace
from imagernn.runs.checkpoint_file import save_checkpoint

KEPT = ('wordtoix', 'ixtoword', 'it', 'epoch', 'perplexity', 'features')
OF_A_MACHINE = ('data_root', 'checkpoint_output_directory', 'worker_status_output_directory', 'init_model_from',
                'resume')


@script
def main(argv=None):
    parser = argparse.ArgumentParser(prog='imagernn publish',
                                     description='Make a small checkpoint to give away.')
    parser.add_argument('checkpoint_path', help='a checkpoint that imagernn train wrote')
    parser.add_argument('output', help='the file to write')
    parser.add_argument('--features', help='a file of extract_features, of the network that was trained with, where '
                                           'the one that was trained with does not name it')
    args = parser.parse_args(argv)
    checkpoint = load_captioner(args.checkpoint_path)
    refuse_to_replace([args.checkpoint_path], [args.output])
    small = {key: checkpoint[key] for key in KEPT if key in checkpoint}
    small['model'] = {name: to_float16(name, w) for name, w in checkpoint['model'].items()}
    small['params'] = {name: value for name, value in checkpoint['params'].items() if name not in OF_A_MACHINE}
    if args.features:
        said = checkpoint.get('features')
        small['features'] = {**(said if isinstance(said, dict) else {}), **origin(args.features, checkpoint['model'])}
    save_checkpoint(args.output, small)
    print(f'written: {args.output}')
    return 0


def origin(path, model):
    """Where the features in a file come from. InputError where it does not say, or they do not fit the model."""
    features = open_features(path)
    check_feature_size(features, model)
    if not features.origin:
        raise InputError(f'{path}: does not say which network its features came from; name a file that '
                         f'{command("extract")} wrote')
    return features.origin


def to_float16(name, w):
    with np.errstate(over='ignore'):
        small = w.astype(np.float16)
    if not np.isfinite(small).all():
        raise InputError(f'{name}: holds a number that is too large for float16, {np.abs(w).max():.3g}; '
                         'this checkpoint cannot be made small')
    return small


if __name__ == '__main__':
    sys.exit(main())

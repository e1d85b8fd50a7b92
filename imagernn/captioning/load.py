"""Opening what a captioning model needs: its checkpoint, its data set and its features.

Knows what a captioning checkpoint must hold beyond what every checkpoint holds.
"""

from imagernn.captioning.model import check_model
from imagernn.corpus.vocab import check_vocab
from imagernn.errors import InputError
from imagernn.runs.checkpoint_file import load_checkpoint

KIND = 'captioning'


def load_captioner(path, dtype=None):
    """A checkpoint whose model and vocabulary were checked, its arrays in dtype (default: as they are).

    InputError names the file and what is wrong with it.
    """
    checkpoint = load_checkpoint(path, KIND)
    try:
        check_vocab(checkpoint)
        check_model(checkpoint['model'], checkpoint['params'], len(checkpoint['ixtoword']))
    except (InputError, ValueError) as error:
        raise InputError(f'{path}: {error}; use another copy of the checkpoint') from None
    checkpoint['model'] = {name: w.astype(dtype or w.dtype) for name, w in checkpoint['model'].items()}
    return checkpoint


def trained_data(checkpoint, dataset, features):
    """The data set and feature file to use: the ones given, else those that the checkpoint was trained with.

    The feature file of the training belongs to its own data set alone: with another one it is None, the usual names.
    """
    trained_on = checkpoint['params'].get('dataset')
    trained_with = checkpoint.get('features')
    dataset = dataset or trained_on
    if not isinstance(dataset, str):
        raise InputError('the checkpoint does not say what data set it was trained on; name one with --dataset')
    if features is None and dataset == trained_on and isinstance(trained_with, dict):
        features = trained_with.get('file')
    if not isinstance(features, str | None):
        raise InputError(f'the checkpoint names {features!r} as its feature file; name the right one with --features')
    return dataset, features


def check_feature_size(features, model):
    """InputError unless the model was made for features of this size."""
    D = len(model['We'])
    if features.dim != D:
        raise InputError(f'{features.path}: features of size {features.dim}, but the checkpoint was trained on '
                         f'size {D}; name the right file with --features')

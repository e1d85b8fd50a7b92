"""Opening what a ranking model needs: its checkpoint and its features."""

import numpy as np

from imagernn.corpus.features import open_features
from imagernn.corpus.vocab import check_vocab
from imagernn.errors import InputError
from imagernn.ranking.model import check_model
from imagernn.ranking.names import ENCODERS, POOLS, RANKERS, SIMILARITIES
from imagernn.runs.checkpoint_file import load_checkpoint

KIND = 'ranking'
CHOICES = {'ranker': RANKERS, 'encoder': ENCODERS, 'similarity': SIMILARITIES, 'pool': POOLS}


def load_ranker(path, dtype=None):
    """A checkpoint whose model, vocabulary and `standard` were checked, its arrays in dtype (default: as they are).

    InputError names the file and what is wrong with it.
    """
    checkpoint = load_checkpoint(path, KIND)
    params, model = checkpoint['params'], checkpoint['model']
    try:
        check_vocab(checkpoint)
        for name, known in CHOICES.items():
            if params.get(name) not in known:
                raise ValueError(f'its {name} is {params.get(name)!r:.60}, expected one of {", ".join(known)}')
        check_model(model, params, len(checkpoint['ixtoword']))
        _check_standard(checkpoint.get('standard'), len(model['We']))
    except (InputError, ValueError) as error:
        raise InputError(f'{path}: {error}; use another copy of the checkpoint') from None
    checkpoint['model'] = {name: w.astype(dtype or w.dtype) for name, w in model.items()}
    return checkpoint


def _check_standard(standard, D):
    """ValueError unless these are what standard_of gives for features of size D."""
    names = ('mean', 'scale')
    if not (isinstance(standard, dict) and all(
            isinstance(standard.get(name), np.ndarray) and standard[name].shape == (1, D)
            and standard[name].dtype.kind == 'f' and np.isfinite(standard[name]).all() for name in names)
            and (standard['scale'] > 0).all()):
        raise ValueError(f"its 'standard' holds no mean and scale of {D} features")


def check_feature_size(features, checkpoint, path):
    """InputError unless the model in the checkpoint at path was made for features of this size, a Features'."""
    regions = checkpoint['params']['ranker'] == 'regions'
    size, expected = features.region_dim if regions else features.whole_dim, len(checkpoint['model']['We'])
    if size != expected:
        raise InputError(f'{features.path}: features{" of regions" if regions else ""} of size {size}, but {path} was '
                         f'trained on size {expected}; name the right file with --features')


def features_for(checkpoint, path):
    """The Features in the file at path, with those of regions if the checkpoint's ranker takes them.

    InputError for a file that cannot be used, or whose features do not have the size that the model was made for.
    """
    features = open_features(path)
    if checkpoint['params']['ranker'] == 'regions':
        features = features.with_regions()
    check_feature_size(features, checkpoint, 'the checkpoint')
    return features

"""Opening what a captioning model needs: its checkpoint, its data set and its features.

Knows what a captioning checkpoint must hold beyond what every checkpoint holds.
"""

from imagernn.captioning.model import attends_to_regions, check_model
from imagernn.corpus.features import open_features
from imagernn.corpus.trained_on import note_other_origin, provider_for
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


def load_ensemble(paths, checkpoint, path, dtype):
    """The (model, params) of further checkpoints.

    InputError unless they have the vocabulary and the sizes of features of the checkpoint at path, and attend to
    regions only if that one does; a note where their features are of another origin.
    """
    members = []
    for other_path in paths:
        other = load_captioner(other_path, dtype)
        if other['ixtoword'] != checkpoint['ixtoword']:
            raise InputError(f'{other_path}: has another vocabulary than {path}; an ensemble needs checkpoints of the '
                             'same data set and --word_count_threshold')
        if len(other['model']['We']) != len(checkpoint['model']['We']):
            raise InputError(f'{other_path}: was trained on features of size {len(other["model"]["We"])}, and {path} '
                             f'on size {len(checkpoint["model"]["We"])}; an ensemble needs the same features')
        if attends_to_regions(other['params']):
            if not attends_to_regions(checkpoint['params']):
                raise InputError(f'{other_path}: attends to regions, and {path} does not; name it first, as the '
                                 'checkpoint, and the others with --ensemble')
            sizes = [len(each['model']['Wregion']) for each in (other, checkpoint)]
            if sizes[0] != sizes[1]:
                raise InputError(f'{other_path}: was trained on features of regions of size {sizes[0]}, and {path} on '
                                 f'size {sizes[1]}; an ensemble needs the same features')
        recorded = checkpoint.get('features')
        note_other_origin(other, recorded if isinstance(recorded, dict) else {}, other_path)
        members.append((other['model'], other['params']))
    return members


def check_feature_size(features, model):
    """InputError unless the model was made for features of these sizes, of the whole pictures and of any regions."""
    sizes = [('features', features.whole_dim, 'We')]
    if 'Wregion' in model:
        sizes.append(('features of regions', features.region_dim, 'Wregion'))
    for what, size, name in sizes:
        if size != len(model[name]):
            raise InputError(f'{features.path}: {what} of size {size}, but the checkpoint was trained on size '
                             f'{len(model[name])}; name the right file with --features')


def features_for(checkpoint, path):
    """The Features in the file at path, with those of regions if the checkpoint's model attends to them.

    InputError for a file that cannot be used, or whose features do not have the sizes that the model was made for.
    """
    features = open_features(path)
    if attends_to_regions(checkpoint['params']):
        features = features.with_regions()
    check_feature_size(features, checkpoint['model'])
    return features


def open_data(params, run):
    """The DataProvider of params, see trained_on.provider_for; with features of regions if run's generator attends to
    them.
    """
    return provider_for(params, run, attends_to_regions(run))

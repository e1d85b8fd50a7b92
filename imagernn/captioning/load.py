"""Opening what a captioning model needs: its checkpoint, its data set and its features.

Knows what a captioning checkpoint must hold beyond what every checkpoint holds, and compares what it records of its
training data with the data at hand.
"""

import sys

from imagernn.captioning.model import attends_to_regions, check_model
from imagernn.corpus.captioned_images import getDataProvider
from imagernn.corpus.features import ORIGIN, ORIGIN_OF_REGIONS, open_features
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


def trained_data(checkpoint, path, dataset, features):
    """The data set and feature file to use: the ones given, else those that the checkpoint at path was trained with.

    The feature file of the training belongs to its own data set alone: with another one it is None, the usual names.
    """
    trained_on = checkpoint['params'].get('dataset')
    trained_with = checkpoint.get('features')
    dataset = dataset or trained_on
    if not isinstance(dataset, str):
        raise InputError(f'{path}: does not say what data set it was trained on; name one with --dataset')
    if features is None and dataset == trained_on and isinstance(trained_with, dict):
        features = trained_with.get('file')
    if not isinstance(features, str | None):
        raise InputError(f'{path}: names {features!r:.60} as its feature file; name the right one with --features')
    return dataset, features


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
    """The DataProvider of params' dataset, data_root, features and on_error; with features of regions if the generator
    of run attends to them.

    run: the flags of a training run, params themselves or a checkpoint's. If it took its val split from the training
    images of this data set, with --val_share, the provider has the same val split, unless the data set has one by now.
    """
    provider = getDataProvider(params['dataset'], params['data_root'], params['features'], params['on_error'],
                               attends_to_regions(run))
    share, seed = run.get('val_share', 0), run.get('seed')
    if share and run.get('dataset') == params['dataset'] and (run is params or 'val' not in provider.getSplitSizes()):
        if not isinstance(share, float) or not 0 < share < 1 or not isinstance(seed, int) or seed < 0:
            raise InputError(f'--val_share {share!r:.60} with --seed {seed!r:.60}: expected a share between 0 and 1, '
                             'and a seed of 0 or more; use another checkpoint')
        provider.hold_out_val(share, seed)
    return provider


def origin_changes(recorded, ours):
    """How the origin of features, a dict of some of ORIGIN, differs from the recorded one: a list of texts.

    What either of them does not say is not compared.
    """
    return [f'{key} is {ours[key]}, but was {recorded[key]} when the checkpoint was trained'
            for key in (*ORIGIN, ORIGIN_OF_REGIONS) if key in ours and key in recorded and ours[key] != recorded[key]]


def note_other_origin(checkpoint, ours, file=None):
    """Notes on stderr where features have another origin than those that the checkpoint was trained on."""
    recorded = checkpoint.get('features')
    for change in origin_changes(recorded if isinstance(recorded, dict) else {}, ours):
        print(f'note: {f"{file}: " if file else ""}{change}: expect worse captions', file=sys.stderr)


def require_same_data(path, checkpoint, fingerprint, allowed):
    """Whether the checkpoint at path was trained on the data with this fingerprint, as DataProvider gives it.

    If not, InputError says what has changed, or a note if that is allowed. A checkpoint without a fingerprint, of an
    early version, counts as trained on the same data; notes report that, and an origin of the features that differs.
    """
    recorded = checkpoint.get('fingerprint')
    if not isinstance(recorded, dict):
        print(f'note: {path}: does not record its training data; whether they have changed cannot be checked',
              file=sys.stderr)
        note_other_origin(checkpoint, fingerprint['features']['origin'])
        return True
    changes = data_changes(recorded, fingerprint)
    if not changes:
        return True
    message = f'{path}: the training data have changed since: {"; ".join(changes)}'
    if not allowed:
        raise InputError(f'{message}. Restore them, start a new run with --init_model_from, or resume on the changed '
                         'data with --allow_changed_data')
    print(f'note: {message}. Scores before and after cannot be compared, so the best one is looked for again',
          file=sys.stderr)
    return False


def data_changes(recorded, now):
    """How the data differ from those with the recorded fingerprint: a list of texts."""
    changes = []
    for split in ('train', 'val'):
        before, after = (_dict_in(each, split) for each in (recorded, now))
        counts = [f'{after.get(what, 0)} {what}, not {before.get(what, 0)!r:.60}'
                  for what in ('images', 'sentences', 'tokens') if after.get(what) != before.get(what)]
        if counts:
            changes.append(f'{split} has {", ".join(counts)}')
        elif before.get('text') != after.get('text'):
            changes.append(f'{split} has other sentences, or in another order')
        if before.get('images') == after.get('images') and before.get('pictures') != after.get('pictures'):
            changes.append(f'{split} has other pictures, or in another order')
    before, after = (_dict_in(each, 'features') for each in (recorded, now))
    origins = origin_changes(_dict_in(before, 'origin'), after['origin'])
    if not origins and before.get('values') != after['values']:
        origins = ['the features have other values']
    return changes + origins


def _dict_in(recorded, key):
    found = recorded.get(key)
    return found if isinstance(found, dict) else {}

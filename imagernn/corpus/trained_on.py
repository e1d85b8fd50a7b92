"""What a checkpoint records of its training data and features, compared with those at hand.

Knows nothing of models: a checkpoint is a dict with the entries params, features and fingerprint.
"""

import sys
from shlex import quote

from imagernn.corpus.captioned_images import getDataProvider
from imagernn.corpus.features import ORIGIN, ORIGIN_OF_REGIONS
from imagernn.errors import InputError, command


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


def provider_for(params, run, regions=False):
    """The DataProvider of params' dataset, data_root, features and on_error; regions: whether with features of regions.

    run: the flags of a training run, params themselves or a checkpoint's. If it took its val split from the training
    images of this data set, with --val_share, the provider has the same val split, unless the data set has one by now.
    """
    provider = getDataProvider(params['dataset'], params['data_root'], params['features'], params['on_error'], regions)
    share, seed = run.get('val_share', 0), run.get('seed')
    if share and run.get('dataset') == params['dataset'] and (run is params or 'val' not in provider.getSplitSizes()):
        if not isinstance(share, float) or not 0 < share < 1 or not isinstance(seed, int) or seed < 0:
            raise InputError(f'--val_share {share!r:.60} with --seed {seed!r:.60}: expected a share between 0 and 1, '
                             'and a seed of 0 or more; use another checkpoint')
        provider.hold_out_val(share, seed)
    return provider


def require_splits(provider):
    """InputError unless there are images to train on and to validate on: reported now, not in an hour."""
    provider.require_split('train', "Mark the images to train on with the split 'train' in dataset.json.")
    provider.require_split('val', 'Take some of the training images as val with --val_share .1, or mark images with '
                                  "the split 'val' in dataset.json.")


def evaluation_step(subcommand, path, params, provider):
    """What to type when a run has finished, to evaluate its best checkpoint: a line that begins with "next: "."""
    root = '' if params['data_root'] == 'data' else f' --data_root {quote(params["data_root"])}'
    split = '' if 'test' in provider.getSplitSizes() else ' --split val'
    return f'next: {command(subcommand)} {quote(path)}{root}{split}'


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
        print(f'note: {f"{file}: " if file else ""}{change}: expect worse results', file=sys.stderr)


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

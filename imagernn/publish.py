"""Make a small copy of a checkpoint to share: python -m imagernn.publish CHECKPOINT cv/NAME.h5

It takes captioners and rankers. It keeps the model as float16, the vocabulary, the flags, the mean and scale by which a
ranker standardizes features, and where the features came from. It leaves out what only a resumed run needs: the state
of the solver and of the random stream, and the history. Of a path it keeps the name alone: the folders are those of the
machine of the training.
"""

import argparse
import sys

from imagernn.errors import InputError, command, loading, script


def build_parser():
    parser = argparse.ArgumentParser(prog='imagernn publish', description='Make a small copy of a checkpoint to share.')
    parser.add_argument('checkpoint_path', help='A checkpoint that imagernn train or train-ranker wrote.')
    parser.add_argument('output', help='The file to write.')
    parser.add_argument('--features',
                        help='A feature file that imagernn extract wrote with the network of the training. Give it '
                             'when the checkpoint does not name that network.')
    return parser


with loading(__name__, build_parser):    # --help does not wait for these
    import numpy as np

    from imagernn.captioning import load as captioning
    from imagernn.corpus.trained_on import origin_changes
    from imagernn.formats.names import without_folders
    from imagernn.formats.writing import refuse_to_replace
    from imagernn.ranking import load as ranking
    from imagernn.runs.checkpoint_file import load_checkpoint, save_checkpoint

    TASKS = {    # kind of a checkpoint -> what loads it, and what opens features for it
        captioning.KIND: (captioning.load_captioner, captioning.features_for),
        ranking.KIND: (ranking.load_ranker, ranking.features_for),
    }

KEPT = ('wordtoix', 'ixtoword', 'standard', 'it', 'epoch', 'perplexity', 'recall sum', 'features')
# flags that only mean something on the machine of the training
LOCAL_PARAMS = ('data_root', 'checkpoint_output_directory', 'worker_status_output_directory', 'init_model_from',
                'resume')


@script
def main(argv=None):
    args = build_parser().parse_args(argv)
    kind = load_checkpoint(args.checkpoint_path, *TASKS).get('kind', captioning.KIND)
    load, features_for = TASKS[kind]
    checkpoint = load(args.checkpoint_path)
    refuse_to_replace([args.checkpoint_path], [args.output])
    small = {'kind': kind, **{key: checkpoint[key] for key in KEPT if key in checkpoint}}
    small['model'] = {name: to_float16(name, w) for name, w in checkpoint['model'].items()}
    small['params'] = {name: value for name, value in checkpoint['params'].items() if name not in LOCAL_PARAMS}
    if args.features:
        recorded = checkpoint['features'] if isinstance(checkpoint.get('features'), dict) else {}
        found = origin(features_for(checkpoint, args.features))
        if changes := origin_changes(recorded, found):
            raise InputError(f'{args.features}: was not made as the features of the training: {"; ".join(changes)}; '
                             'leave --features out, as the checkpoint names their network, or name the right file')
        small['features'] = {**recorded, **found}
    for entry in [name for name in ('params', 'features') if name in small]:
        small[entry] = without_folders(small[entry])
    save_checkpoint(args.output, small)
    print(f'written: {args.output}')
    return 0


def origin(features):
    """Where Features come from. InputError where their file does not say."""
    if 'network' not in features.origin:
        raise InputError(f'{features.path}: does not say which network its features came from; name a file that '
                         f'{command("extract")} wrote')
    return features.origin


def to_float16(name, w):
    """An array as float16. InputError where a number is too large for it."""
    with np.errstate(over='ignore'):
        small = w.astype(np.float16)
    if not np.isfinite(small).all():
        raise InputError(f'{name}: holds a number that is too large for float16, {np.abs(w).max():.3g}; '
                         'this checkpoint cannot be made small')
    return small


if __name__ == '__main__':
    sys.exit(main())

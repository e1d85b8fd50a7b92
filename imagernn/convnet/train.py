"""Train a small VGGNet from scratch: python -m imagernn.convnet.train --data digits

It learns scikit-learn's handwritten digits, or which object and which colour the scenes of data/make_scenes.py show.
The loop is in plain sight in train(). As driver.py does, it writes checkpoints and a status file as it runs, and
resumes with --resume. At the end it writes the weights, the learning curve, and pictures of the first filters and of
the activation maps of one picture.
"""

import argparse
import hashlib
import json
import math
import sys
from pathlib import Path
from typing import NamedTuple

from imagernn.errors import InputError, command, install_command, loading, script
from imagernn.nn.names import SOLVERS
from imagernn.runs.flags import (
    HelpWithDefaults,
    add_output_flags,
    add_schedule_flags,
    add_system_flags,
    check_run_params,
    require_between,
    require_near,
    require_same,
    require_shares,
    sound_params,
)

# what the flags of each data set are where they are not given
RECIPES = {
    'digits': {'filters': [32, 64], 'last_pool': '2x2', 'drop_prob': .5, 'max_epochs': 15, 'batch_size': 25,
               'learning_rate': 2e-3},
    'scenes': {'filters': [16, 32, 64, 64], 'last_pool': 'all', 'drop_prob': .2, 'max_epochs': 20, 'batch_size': 10,
               'learning_rate': 1e-3},
}


def by_data(add, *names, help, **options):
    """A flag whose default is that of the data set's recipe."""
    values = (f'{data} {str(recipe[names[-1][2:]]).strip("[]").replace(",", "")}'
              for data, recipe in RECIPES.items())
    add(*names, default=argparse.SUPPRESS, help=f'{help.removesuffix(".")} (default: {", ".join(values)}).',
        **options)


def build_parser():
    parser = argparse.ArgumentParser(prog='imagernn train-convnet',
                                     description='Train a small VGGNet from scratch.',
                                     formatter_class=HelpWithDefaults)

    add = parser.add_argument_group('data').add_argument
    add('-d', '--data', '--dataset', dest='dataset', choices=tuple(RECIPES), default='digits',
        help='What to train on: scikit-learn\'s digits, or the scenes of make-scenes.')
    add('--data_root', default='data', help='The folder that holds scenes/. Change it if they are elsewhere.')
    add('--size', type=int, default=64,
        help='Scenes are read as pictures of size × size pixels. Lower it to train faster.')
    add('--allow_changed_data', action='store_true',
        help='Let --resume continue although the pictures or their labels have changed. Give it if you changed them on '
             'purpose.')

    add = parser.add_argument_group('model').add_argument
    by_data(add, '--filters', type=int, nargs='+',
            help='The number of filters of each stage of two convolutions; each stage halves the picture. Give more '
                 'for harder data.')
    add('--hidden_size', type=int, default=128,
        help='The size of the fully connected layer. Raise it for harder data.')
    by_data(add, '--last_pool', choices=('2x2', 'all'),
            help='What the last max pool takes. Give all if it does not matter where in the picture a thing is.')

    add = parser.add_argument_group('training, regularization and evaluation').add_argument
    by_data(add, '-m', '--max_epochs', type=float,
            help='The number of passes over the training pictures. Raise it if accuracy on val still rises.')
    by_data(add, '-b', '--batch_size', type=int,
            help='The number of pictures per batch. Lower it if memory runs out.')
    by_data(add, '--drop_prob', type=float,
            help='The dropout probability of the fully connected layer. Raise it if the network overfits.')
    add('-p', '--eval_period', type=float, default=1,
        help='The number of epochs between evaluations on val. Raise it if evaluations take long.')

    add = parser.add_argument_group('optimizer').add_argument
    add('--solver', choices=SOLVERS, default='adam',
        help='The update rule. Choose another one to compare them.')
    by_data(add, '-l', '--learning_rate', type=float,
            help='The step size at first. Lower it when the cost explodes.')
    add_schedule_flags(add, 'cosine')

    output = add_output_flags(parser, short_o=False)
    output.add_argument('-o', '--output_directory', default='',
        help='The folder for the weights and the plots; by default demo/convnet_ and the name of the data.')
    add_system_flags(parser)
    # not the default of driver.py, which may train on the same scenes
    parser.set_defaults(fappend='convnet')
    return parser


with loading(__name__, build_parser):    # --help does not wait for these
    import numpy as np
    from PIL import Image
    from tqdm import tqdm

    from imagernn.convnet.plots import write_activations, write_filters, write_learning_curve
    from imagernn.convnet.small import (
        Labelled,
        Sizes,
        check_model,
        cost_and_grads,
        cost_of,
        forward,
        init_model,
        predict,
    )
    from imagernn.formats.names import path_inside, picture_name
    from imagernn.formats.pictures import load_picture
    from imagernn.formats.writing import replacing, require_writable
    from imagernn.nn.schedules import schedule_of
    from imagernn.nn.solver import Solver
    from imagernn.nn.workers import Workers
    from imagernn.runs.checkpoint_file import load_checkpoint
    from imagernn.runs.checkpoints import newest_resumable
    from imagernn.runs.divergence import cost_not_finite
    from imagernn.runs.ranks import world
    from imagernn.runs.run import Run
    from imagernn.runs.state import ACCURACY, RunState, require_resumable, resumed
    from imagernn.runs.terminal import say

KIND = 'convnet'
SPLITS = ('train', 'val', 'test')
OUTPUTS = ('model.npz', 'learning_curve.svg', 'filters.png', 'activations.png')
SMOOTHING = {'decay_rate': .999, 'smooth_eps': 1e-8}    # of the solver's moving means
ANOTHER = 'use another checkpoint, or start a new run'
# what a run that resumes cannot choose: the checkpoint's arrays and its place within an epoch were made with it
FIXED = ('dataset', 'seed', 'size', 'filters', 'hidden_size', 'last_pool', 'batch_size', 'solver')
# what the seed draws besides the run's own stream, each from a stream of its own
SPLITTING, SAMPLING, ORDERING = 1, 2, 3
PROBED = 100    # pictures whose cost must be finite before a checkpoint is written


# ---- the data -------------------------------------------------------------------------------------------------------

class Data(NamedTuple):
    """Labelled pictures. splits: name -> Labelled; the pictures are (n, h, w, c) float32, 0 to 1."""

    splits: dict
    names: dict         # head -> the name of each class
    mirrored: bool      # whether a picture's mirror image has the same labels
    shift: int          # by how many pixels a picture can be moved about
    files: dict = {}    # split -> the name of each picture's file, where they have files


def read_digits(params):
    """scikit-learn's 1,797 digits of 8 × 8: the head `digit`. A sixth each is val and test, drawn by the seed."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError('--data digits: needs scikit-learn, which is not installed; run '
                         f'{install_command("demo")}, or choose --data scenes') from None
    found = load_digits()
    pictures, classes = found.images[..., None].astype(np.float32) / 16, found.target
    order = np.random.default_rng([params['seed'], SPLITTING]).permutation(len(pictures))
    sixth = len(pictures) // 6
    parts = dict(zip(SPLITS, (order[2 * sixth:], order[:sixth], order[sixth:2 * sixth]), strict=True))
    return Data({split: Labelled(pictures[part], {'digit': classes[part]}) for split, part in parts.items()},
                {'digit': [str(digit) for digit in found.target_names]}, mirrored=False, shift=0)


def read_scenes(params):
    """The scenes in which all objects are alike: the heads `object` and `colour`, of what dataset.json says was drawn.

    Of two different things in a picture neither would be the answer; such scenes, two in five, are left out.
    InputError where there are no scenes, or not those of data/make_scenes.py.
    """
    folder = Path(params['data_root']) / 'scenes'
    make = f'make them with: {command("make-scenes")} --output {folder}'
    try:
        images = json.loads((folder / 'dataset.json').read_text(encoding='utf-8'))['images']
        alike = [image for image in images if len(image['scene']['groups']) == 1]
        groups = [image['scene']['groups'][0] for image in alike]
        labels = {'object': [group['kind'] for group in groups], 'colour': [group['colour'] for group in groups]}
        split_of = np.array([image['split'] for image in alike])
        files = np.array([picture_name(image) for image in alike])
        paths = [path_inside(folder / 'imgs', name) for name in files.tolist()]
    except FileNotFoundError:
        raise InputError(f'--data scenes: there is no {folder / "dataset.json"}; {make}') from None
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f'{folder / "dataset.json"}: does not say what the scenes show ({error!r}); {make}') from None
    if missing := [split for split in SPLITS if split not in split_of]:
        raise InputError(f'{folder / "dataset.json"}: has no scene of one kind of object in {missing[0]}; '
                         f'{make} --images 3000')
    names = {head: sorted(set(values)) for head, values in labels.items()}
    classes = {head: np.array([names[head].index(value) for value in values]) for head, values in labels.items()}
    pictures = np.stack([small_picture(path, params['size']) for path in tqdm(paths, 'reading', disable=None)])
    scenes = Labelled(pictures, classes)
    return Data({split: taken(scenes, split_of == split) for split in SPLITS}, names, mirrored=True, shift=4,
                files={split: files[split_of == split].tolist() for split in SPLITS})


def small_picture(path, size):
    """The picture at path, squashed to (size, size, 3) float32, 0 to 1."""
    image = Image.fromarray(load_picture(path)).resize((size, size), Image.Resampling.BOX)
    return np.asarray(image, np.float32) / 255


def taken(labelled, which):
    """Those of the Labelled pictures that which selects: indices, a mask or a slice."""
    return Labelled(labelled.pictures[which], {head: classes[which] for head, classes in labelled.labels.items()})


def fingerprint(data):
    """What identifies the Data: split -> the number of pictures, and digests of their files' names, labels and pixels.

    A checkpoint records it, so that a run does not resume on other data.
    """
    return {split: {'number': len(part.pictures), 'names': digest(json.dumps(data.files.get(split, [])).encode()),
                    'labels': digest(*(np.asarray(part.labels[head], np.int64) for head in sorted(part.labels))),
                    'pixels': digest(part.pictures)} for split, part in data.splits.items()}


def digest(*parts):
    """A checksum of bytes or arrays, as text."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(np.ascontiguousarray(part) if isinstance(part, np.ndarray) else part)
    return found.hexdigest()


# how each data set is read
READERS = {'digits': read_digits, 'scenes': read_scenes}


# ---- the flags ------------------------------------------------------------------------------------------------------

def main_params(argv):
    """The command line as a dict, checked; and the checkpoint that the run resumes from, or None."""
    parser = build_parser()
    params, checkpoint = with_recipe(parser.parse_args(argv)), None
    if params['resume'] == 'auto':
        params['resume'], checkpoint = newest_resumable(params, load_resumable)
    elif params['resume']:
        checkpoint = load_resumable(params['resume'])
    if checkpoint:
        params = with_saved_params(parser, argv, params, checkpoint)
    check_params(params)
    return params, checkpoint


def with_recipe(args):
    """The flags as a dict, with the recipe of the data set for those that were not given."""
    params = {**RECIPES[args.dataset], **vars(args)}
    return {**params, 'output_directory': params['output_directory'] or f'demo/convnet_{args.dataset}'}


def with_saved_params(parser, argv, given, checkpoint):
    """The command line, with the flags of the checkpoint to resume from as defaults. given: without these defaults."""
    path = given['resume']
    keep = given.keys() - {'resume', 'profile', 'allow_changed_data'}
    saved = {name: value for name, value in checkpoint['params'].items() if name in keep}
    parser.set_defaults(**sound_params(parser, path, saved))
    params = {**with_recipe(parser.parse_args(argv)), 'resume': path}
    require_same(params, saved, path, FIXED)
    require_near(params, given, path)
    return params


def check_params(params):
    """Raise InputError for invalid values of the flags."""
    check_run_params(params)
    require_between(params, {'size': (1, 1000), 'hidden_size': (1, 10 ** 5), 'batch_size': (1, 10 ** 6)})
    require_shares(params, ('drop_prob',))
    if not 1 <= min(params['filters'], default=0) <= max(params['filters'], default=0) <= 10 ** 5:
        raise InputError(f'--filters {" ".join(map(str, params["filters"]))}: each must be from 1 to 100000')
    side = {'digits': 8, 'scenes': params['size']}[params['dataset']]
    if side >> len(params['filters']) < 1:
        raise InputError(f'--filters {" ".join(map(str, params["filters"]))}: {len(params["filters"])} stages halve a '
                         f'picture of {side} × {side} to nothing; give fewer')


# ---- training -------------------------------------------------------------------------------------------------------

@script
def main(argv=None):
    state, solver, rng, data, params = prepare(argv)
    exit_code = train(state, solver, rng, data, params)
    if exit_code == 0 and world().rank == 0:
        write_outputs(state, data, params)
    return exit_code


def train(state, solver, rng, data, params):
    """The training loop. Returns the exit code: 0, 1 if the run was aborted, 130 or 143 if it was stopped."""
    workers = Workers(params['num_threads'], world())    # with mpirun, its processes share each batch
    splits = {name: standardized(part, state.extra) for name, part in data.splits.items()}
    num_pictures = len(splits['train'].pictures)
    watched = {'train': taken(splits['train'], sample(num_pictures, len(splits['val'].pictures), params['seed'])),
               'val': splits['val']}
    if not state.extra['curves']:
        extend_curves(state, watched, workers)
    say(', '.join(f'{len(part.pictures)} {name}' for name, part in splits.items()) + ' pictures of '
        + ' × '.join(map(str, splits['train'].pictures.shape[1:]))
        + f', {sum(w.size for w in state.model.values()):,} parameters')

    def probe():
        """Whether the parameters, though finite, have become too large for a finite cost."""
        return cost_not_finite(cost_of(taken(watched['train'], slice(PROBED)), state.model), state.model, {})

    iters_per_epoch = -(-num_pictures // params['batch_size'])
    # a large cost is no divergence: the first step of rmsprop can raise it a hundredfold, and the network recovers
    with Run(state, solver, rng, params, iters_per_epoch, schedule_of(params, iters_per_epoch), probe=probe,
             subcommand='train-convnet') as run:
        for _ in run.iterations():
            # the next pictures in the order of this epoch, shifted and mirrored at random where that changes no label
            batch = taken(splits['train'], batch_at(state.it, num_pictures, params))
            batch = batch._replace(pictures=moved(batch.pictures, data, rng))

            # forward and backward pass: the cost, and its gradient by every parameter
            cost, grads, stats = cost_and_grads(batch, state.model, params, rng, workers)

            # learn from it, unless it shows that the run has diverged: then it rolls back or aborts
            if run.passes(cost, grads, stats):
                run.update(grads, workers)

            # after each epoch, see how well the network does on pictures that it was not trained on
            if run.evaluates():
                run.evaluated(extend_curves(state, watched, workers))
    return run.exit_code


def batch_at(it, num_pictures, params):
    """The indices of the pictures of iteration it, from 0: a part of the permutation of its epoch.

    That depends on the seed and the epoch alone, so that a run that resumes needs no memory of it.
    """
    epoch, place = divmod(it, -(-num_pictures // params['batch_size']))
    order = np.random.default_rng([params['seed'], ORDERING, epoch]).permutation(num_pictures)
    return order[place * params['batch_size']:(place + 1) * params['batch_size']]


def sample(num_pictures, number, seed):
    """The indices of a number of the pictures, drawn by the seed without replacement."""
    return np.random.default_rng([seed, SAMPLING]).permutation(num_pictures)[:number]


def standardized(labelled, extra):
    """The Labelled pictures minus the mean of the training pictures and divided by their deviation, by channel."""
    return labelled._replace(pictures=(labelled.pictures - extra['mean']) / extra['deviation'])


def moved(x, data, rng):
    """Pictures x (n, h, w, c), each shifted by up to data.shift pixels, and half of them mirrored if that is right."""
    n, h, w, _ = x.shape
    s = data.shift
    padded = np.pad(x, ((0, 0), (s, s), (s, s), (0, 0)), mode='edge')
    out = np.empty_like(x)
    for k, (down, right) in enumerate(rng.integers(0, 2 * s + 1, (n, 2))):
        out[k] = padded[k, down:down + h, right:right + w]
    if data.mirrored:
        mirror = rng.random(n) < .5
        out[mirror] = out[mirror, :, ::-1]
    return out


def accuracies(model, labelled, workers):
    """The share of the Labelled pictures for which each head names the right class: head -> 0 to 1."""
    found = predict(labelled.pictures, model, labelled.labels, workers)
    return {head: float((found[head] == classes).mean()) for head, classes in labelled.labels.items()}


def extend_curves(state, watched, workers):
    """Append the epoch and the accuracies on watched, split -> Labelled, to state.extra['curves'].

    Returns the accuracy on val: the mean over the heads.
    """
    curves = state.extra['curves']
    curves.setdefault('epoch', []).append(state.epoch)
    found = {split: accuracies(state.evaluated_model, part, workers) for split, part in watched.items()}
    for split, shares in found.items():
        for head, share in shares.items():
            curves.setdefault(f'{split}, {head}', []).append(share)
    return sum(found['val'].values()) / len(found['val'])


# ---- how a run starts -----------------------------------------------------------------------------------------------

def prepare(argv):
    """What train() takes, from the command line and the files that it names."""
    params, checkpoint = world().from_first(lambda: main_params(argv))
    for name in OUTPUTS:    # reported now, not after the training
        require_writable(Path(params['output_directory']) / name)
    data = READERS[params['dataset']](params)
    return *start(params, checkpoint, data), data, params


def start(params, checkpoint, data):
    """The RunState, solver and random stream of a new run, or as the checkpoint left them."""
    rng, solver = np.random.default_rng(params['seed']), Solver({**SMOOTHING, 'solver': params['solver']})
    x = data.splits['train'].pictures
    sizes = Sizes(x.shape[1:], params['filters'], params['hidden_size'],
                  {head: len(names) for head, names in data.names.items()}, params['last_pool'] == 'all')
    now = fingerprint(data)
    if checkpoint is None:
        extra = {'kind': KIND, 'classes': data.names, 'fingerprint': now, 'mean': x.mean(axis=(0, 1, 2)),    # (c,)
                 'deviation': x.std(axis=(0, 1, 2)) + 1e-6, 'curves': {}}                        # (c,)
        state = RunState(init_model(sizes, rng), ACCURACY, extra)
    else:
        path = params['resume']
        check_checkpoint(path, checkpoint, data, sizes)
        same = require_same_data(path, checkpoint, now, params['allow_changed_data'])
        model = {name: array.astype(np.float32) for name, array in checkpoint['model'].items()}
        extra = {name: checkpoint[name] for name in ('kind', 'classes', 'mean', 'deviation', 'curves')}
        state = resumed(path, checkpoint, model, ACCURACY, {**extra, 'fingerprint': now}, solver, rng, ANOTHER)
        if not same:
            state.forget_scores()
    state.keep_average_where(params['weight_average'])
    state.keep_good_where(params['on_divergence'], solver, rng)
    return state, solver, rng


def load_resumable(path):
    """The checkpoint at path; InputError unless a run can resume from it, as far as is seen without its data."""
    checkpoint = load_checkpoint(path, KIND)
    require_resumable(path, checkpoint, ACCURACY, ANOTHER)
    return checkpoint


def check_checkpoint(path, checkpoint, data, sizes):
    """InputError unless the checkpoint at path is one of these data and of a model of these sizes."""
    if checkpoint.get('classes') != data.names:
        raise InputError(f'{path}: was trained to name other classes than those of the data, '
                         f'{", ".join(data.names)}; train on the data that it was made with')
    channels = sizes.picture[-1:]
    for name in ('mean', 'deviation'):
        array = checkpoint.get(name)
        if not isinstance(array, np.ndarray) or array.shape != channels or array.dtype != np.float32 \
                or not np.isfinite(array).all() or name == 'deviation' and not (array > 0).all():
            raise InputError(f'{path}: holds no valid {name} of the pictures; {ANOTHER}')
    curves = checkpoint.get('curves')
    names = ['epoch', *(f'{split}, {head}' for split in ('train', 'val') for head in sizes.heads)]
    if not isinstance(curves, dict) or list(curves) != names or not all(map(is_curve, curves.values())) \
            or len(set(map(len, curves.values()))) != 1:
        raise InputError(f'{path}: holds no valid learning curves; {ANOTHER}')
    try:
        check_model(checkpoint['model'], sizes)
    except ValueError as error:
        raise InputError(f'{path}: {error}; {ANOTHER}') from None


def require_same_data(path, checkpoint, now, allowed):
    """Whether the checkpoint at path was trained on the data with the fingerprint now.

    If not, InputError says what has changed, or a note if that is allowed. A checkpoint without a fingerprint, of an
    early version, counts as trained on the same data, with a note.
    """
    recorded = checkpoint.get('fingerprint')
    if not isinstance(recorded, dict):
        print(f'note: {path}: does not record its training data; whether they have changed cannot be checked',
              file=sys.stderr)
        return True
    changes = []
    for split, ours in now.items():
        theirs = recorded[split] if isinstance(recorded.get(split), dict) else {}
        if theirs.get('number') != ours['number']:
            changes.append(f'{split} has {ours["number"]} pictures, not {theirs.get("number")!r:.60}')
        elif other := [what for what in ('names', 'labels', 'pixels') if theirs.get(what) != ours[what]]:
            changes.append(f'{split} has pictures with other {" and ".join(other)}, or in another order')
    if not changes:
        return True
    message = f'{path}: the training data have changed since: {"; ".join(changes)}'
    if not allowed:
        raise InputError(f'{message}. Restore them, start a new run, or resume on the changed data with '
                         '--allow_changed_data')
    print(f'note: {message}. Scores before and after cannot be compared, so the best one is looked for again',
          file=sys.stderr)
    return False


def is_curve(values):
    """Whether values is a list of finite floats, not empty."""
    return isinstance(values, list) and values and all(isinstance(v, float) and math.isfinite(v) for v in values)


# ---- what a run leaves ----------------------------------------------------------------------------------------------

@np.errstate(over='ignore', invalid='ignore')    # of a network that has not learned, but blown up
def write_outputs(state, data, params):
    """The weights and the plots; and on stdout, the accuracies. Each file is written whole or not at all."""
    folder, extra, workers = Path(params['output_directory']), state.extra, Workers(params['num_threads'])
    model = state.evaluated_model
    with replacing(folder / 'model.npz') as file:
        names = {f'names_{head}': np.array(of) for head, of in data.names.items()}
        np.savez(file, mean=extra['mean'], deviation=extra['deviation'], **names, **model)
    curves = {name: values for name, values in extra['curves'].items() if name != 'epoch'}
    write_learning_curve(folder / 'learning_curve.svg', extra['curves']['epoch'], curves, 'accuracy')
    write_filters(folder / 'filters.png', model['Wconv1_1'])
    first = taken(data.splits['test'], slice(1))
    (convs, *_) = forward(standardized(first, extra).pictures, model)[1]
    write_activations(folder / 'activations.png', first.pictures[0],
                      {name: maps[0] for name, (_, maps) in convs.items()})
    for split in SPLITS:
        found = accuracies(model, standardized(data.splits[split], extra), workers)
        say(f'{split:5}  ' + ', '.join(f'{head} {share:.2%}' for head, share in found.items())
            + f' of {len(data.splits[split].pictures)}')
    say(f'in {folder}: ' + ', '.join(OUTPUTS))


if __name__ == '__main__':
    sys.exit(main())

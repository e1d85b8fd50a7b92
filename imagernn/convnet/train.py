"""Train a small VGGNet from nothing: python -m imagernn.convnet.train --data digits

On scikit-learn's handwritten digits, or on the scenes that data/make_scenes.py draws: which object, which colour.
Leaves the weights, the learning curve, and pictures of the first filters and of what they make of a picture.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import NamedTuple

import imagernn.nn.blas  # before numpy

# isort: split
import numpy as np
from PIL import Image
from tqdm import tqdm

from imagernn.convnet.plots import write_activations, write_filters, write_learning_curve
from imagernn.convnet.small import cost_and_grads, forward, init_model, predict
from imagernn.errors import InputError, command, install_command, script
from imagernn.formats.pictures import load_picture
from imagernn.formats.writing import replacing, require_writable
from imagernn.nn.solver import SOLVERS, Solver
from imagernn.nn.workers import Workers

SPLITS = ('train', 'val', 'test')
OUTPUTS = ('model.npz', 'learning_curve.svg', 'filters.png', 'activations.png')
MOST_THREADS = 4
SMOOTHING = {'decay_rate': .999, 'smooth_eps': 1e-8}    # of the solver's moving means


class Data(NamedTuple):
    """Labelled pictures. splits: name -> (pictures (n, h, w, c) float32 in 0 to 1, {head: classes (n,)})."""

    splits: dict
    names: dict         # head -> the name of each class
    mirrored: bool      # whether a picture's mirror image has the same labels
    shift: int          # by how many pixels a picture can be moved about


def read_digits(params):
    """scikit-learn's 1,797 digits of 8 × 8: the head `digit`. A sixth each is val and test, drawn by the seed."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError('--data digits: needs scikit-learn, which is not installed; run '
                         f'{install_command("demo")}, or choose --data scenes') from None
    found = load_digits()
    pictures, classes = found.images[..., None].astype(np.float32) / 16, found.target
    order, sixth = np.random.default_rng([params['seed'], 1]).permutation(len(pictures)), len(pictures) // 6
    parts = dict(zip(SPLITS, (order[2 * sixth:], order[:sixth], order[sixth:2 * sixth]), strict=True))
    return Data({split: (pictures[part], {'digit': classes[part]}) for split, part in parts.items()},
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
        paths = [folder / 'imgs' / image['filename'] for image in alike]
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
    return Data({split: (pictures[split_of == split], {head: of[split_of == split] for head, of in classes.items()})
                 for split in SPLITS}, names, mirrored=True, shift=4)


def small_picture(path, size):
    """The picture at path, squashed to (size, size, 3) float32, 0 to 1."""
    image = Image.fromarray(load_picture(path)).resize((size, size), Image.Resampling.BOX)
    return np.asarray(image, np.float32) / 255


# how each data set is read, and what its flags are where they are not given
READERS = {'digits': read_digits, 'scenes': read_scenes}
RECIPES = {
    'digits': {'filters': [32, 64], 'last_pool': '2x2', 'drop_prob': .5, 'max_epochs': 15, 'batch_size': 25,
               'learning_rate': 2e-3},
    'scenes': {'filters': [16, 32, 64, 64], 'last_pool': 'all', 'drop_prob': .2, 'max_epochs': 20, 'batch_size': 10,
               'learning_rate': 1e-3},
}


def build_parser():
    parser = argparse.ArgumentParser(prog='imagernn train-convnet',
                                     description='Train a small VGGNet from nothing.')
    add = parser.add_argument

    def by_data(flag):
        return 'default: ' + ', '.join(f'{data} {str(recipe[flag]).strip("[]").replace(",", "")}'
                                       for data, recipe in RECIPES.items())

    add('--data', choices=tuple(READERS), default='digits', help='what to train on (default: %(default)s)')
    add('--data_root', default='data', help='the folder that holds scenes/ (default: %(default)s)')
    add('-o', '--output_directory', default='', help='where the files go (default: demo/convnet_<data>)')
    add('--seed', type=int, default=0, help='of the weights, the batches, the dropout (default: %(default)s)')
    add('--num_threads', type=int, default=min(imagernn.nn.blas.NUM_THREADS, MOST_THREADS),
        help='threads that share out each batch; another number rounds otherwise (default: %(default)s)')
    add('--size', type=int, default=64, help='scenes: pictures of size × size pixels (default: %(default)s)')
    add('--filters', type=int, nargs='+', help=f'of each stage of two convolutions; {by_data("filters")}')
    add('--hidden_size', type=int, default=128, help='of the fully connected layer (default: %(default)s)')
    add('--last_pool', choices=('2x2', 'all'), help=f'what the last max pool takes; {by_data("last_pool")}')
    add('--drop_prob', type=float, help=f'dropout of the fully connected layer; {by_data("drop_prob")}')
    add('-m', '--max_epochs', type=int, help=f'passes over the training pictures; {by_data("max_epochs")}')
    add('-b', '--batch_size', type=int, help=f'pictures a batch; {by_data("batch_size")}')
    add('--solver', choices=SOLVERS, default='adam', help='update rule (default: %(default)s)')
    add('-l', '--learning_rate', type=float,
        help=f'step size at first; it falls along a cosine to 0; {by_data("learning_rate")}')
    return parser


def main_params(argv):
    """The command line as a dict, with what the data set's recipe fills in; InputError for what cannot be."""
    params = vars(build_parser().parse_args(argv))
    for name, value in RECIPES[params['data']].items():
        if params[name] is None:
            params[name] = value
    params['output_directory'] = Path(params['output_directory'] or f'demo/convnet_{params["data"]}')
    for name in ('num_threads', 'size', 'hidden_size', 'max_epochs', 'batch_size'):
        if params[name] < 1:
            raise InputError(f'--{name} {params[name]}: must be at least 1')
    if min(params['filters']) < 1:
        raise InputError(f'--filters {min(params["filters"])}: must be at least 1')
    if params['seed'] < 0:
        raise InputError(f'--seed {params["seed"]}: must not be negative')
    if not 0 <= params['drop_prob'] < 1:
        raise InputError(f'--drop_prob {params["drop_prob"]}: must be at least 0 and below 1')
    if not 0 <= params['learning_rate'] < math.inf:
        raise InputError(f'--learning_rate {params["learning_rate"]}: must be a number from 0')
    side = {'digits': 8, 'scenes': params['size']}[params['data']]
    if side >> len(params['filters']) < 1:
        raise InputError(f'--filters {" ".join(map(str, params["filters"]))}: {len(params["filters"])} stages halve a '
                         f'picture of {side} × {side} to nothing; give fewer')
    return params


@script
def main(argv=None):
    params = main_params(argv)
    for name in OUTPUTS:
        require_writable(params['output_directory'] / name)
    data = READERS[params['data']](params)
    x = data.splits['train'][0]
    rng = np.random.default_rng(params['seed'])
    mean, deviation = x.mean(axis=(0, 1, 2)), x.std(axis=(0, 1, 2)) + 1e-6       # (c,)
    splits = {split: ((pictures - mean) / deviation, labels) for split, (pictures, labels) in data.splits.items()}
    heads = {head: len(names) for head, names in data.names.items()}
    model = init_model(x.shape[1:], params['filters'], params['hidden_size'], heads, rng,
                       pool_all=params['last_pool'] == 'all')
    print(', '.join(f'{len(pictures)} {split}' for split, (pictures, _) in splits.items()) + ' pictures of '
          + ' × '.join(map(str, x.shape[1:])) + f', {sum(w.size for w in model.values()):,} parameters')
    workers = Workers(params['num_threads'])
    curves = train(model, splits, data, params, rng, workers)
    write_outputs(params['output_directory'], model, mean, deviation, data, curves, workers)
    for split in SPLITS:
        found = accuracies(model, *splits[split], workers)
        print(f'{split:5}  ' + ', '.join(f'{head} {share:.2%}' for head, share in found.items())
              + f' of {len(splits[split][0])}')
    print('in ' + str(params['output_directory']) + ': ' + ', '.join(OUTPUTS))
    return 0


def train(model, splits, data, params, rng, workers):
    """Trains model in place. Returns its accuracy at first and after each epoch: '<split>, <head>' -> list of shares.

    That on train is of as many pictures as val has.
    """
    x, labels = splits['train']
    sample = rng.permutation(len(x))[:len(splits['val'][0])]
    watched = {'train': (x[sample], {head: of[sample] for head, of in labels.items()}), 'val': splits['val']}
    solver, curves = Solver({**SMOOTHING, 'solver': params['solver']}), {}

    def watch():
        for split, part in watched.items():
            for head, share in accuracies(model, *part, workers).items():
                curves.setdefault(f'{split}, {head}', []).append(share)

    watch()
    iters_per_epoch = -(-len(x) // params['batch_size'])
    it, max_iters = 0, params['max_epochs'] * iters_per_epoch    # counted here: a tqdm that is silent does not count
    with tqdm(total=max_iters, unit='it', disable=None, dynamic_ncols=True) as progress:
        for _ in range(params['max_epochs']):
            order, cost_sum = rng.permutation(len(x)), 0.
            for start in range(0, len(x), params['batch_size']):
                batch = order[start:start + params['batch_size']]
                pictures = moved(x[batch], data, rng)
                cost, grads = cost_and_grads(pictures, {head: of[batch] for head, of in labels.items()}, model,
                                             params['drop_prob'], rng, workers)
                if not math.isfinite(cost):
                    raise InputError(f'the cost is {cost} after {it} steps; try a smaller --learning_rate than '
                                     f'{params["learning_rate"]}')
                learning_rate = params['learning_rate'] * .5 * (1 + math.cos(math.pi * it / max_iters))
                solver.step(model, grads, learning_rate, workers)
                cost_sum, it = cost_sum + cost * len(batch), it + 1
                progress.update()
            watch()
            progress.set_postfix(cost=f'{cost_sum / len(x):.3f}',
                                 **{head: f'{curves[f"val, {head}"][-1]:.1%}' for head in labels})
    return curves


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


def accuracies(model, x, labels, workers):
    """The share of pictures x for which each head names the right class: head -> 0 to 1."""
    found = predict(x, model, labels, workers)
    return {head: float((found[head] == right).mean()) for head, right in labels.items()}


def write_outputs(folder, model, mean, deviation, data, curves, workers):
    """The weights and the pictures. Each file is written whole or not at all."""
    with replacing(folder / 'model.npz') as file:
        names = {f'names_{head}': np.array(of) for head, of in data.names.items()}
        np.savez(file, mean=mean, deviation=deviation, **names, **model)
    write_learning_curve(folder / 'learning_curve.svg', curves, 'accuracy')
    write_filters(folder / 'filters.png', model['Wconv1_1'])
    picture = data.splits['test'][0][0]                                          # (h, w, c)
    (convs, *_) = forward((picture[None] - mean) / deviation, model)[1]
    write_activations(folder / 'activations.png', picture, {name: maps[0] for name, (_, maps) in convs.items()})


if __name__ == '__main__':
    sys.exit(main())

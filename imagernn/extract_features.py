"""Pictures -> a feature file: python -m imagernn.extract_features data/flickr8k/dataset.json

The story from pictures through a network to rows on the disk, in plain sight; the parts are in imagernn/convnet.
A run that was stopped goes on where it was when the same command is given again.

The .h5 holds `feats` (N, D), a row for each picture; with --regions `regions` (N, R, D'); `pictures` (N,), the names;
`extracted` (N,), 1 where the row holds features and 0 where it is zero because the picture is broken or there is none;
and as attributes network, layer, regions, weights (the file's name), weights_sha256, preprocessing (JSON) and skipped
(how many). A .mat holds the same, but `feats` D x N.
"""

import argparse
import sys
from pathlib import Path

from imagernn.nn.blas import NUM_THREADS  # before numpy

# isort: split
import numpy as np
from tqdm import tqdm

from imagernn.convnet.extraction import (
    BATCH_SIZE,
    LITE0_PACKAGE,
    chosen_layer,
    extract,
    open_network,
    parse_regions,
    prepared_views,
    through_network,
)
from imagernn.convnet.networks import ARCHITECTURES
from imagernn.convnet.preprocess import PREPROCESSING, description
from imagernn.convnet.sources import read_source, shortened
from imagernn.corpus.feature_writer import (
    MAT_BYTES,
    completeness,
    create_file,
    feature_file,
    finish,
    require_same_settings,
    write_rows,
)
from imagernn.errors import InputError, script
from imagernn.formats.writing import refuse_to_replace, require_writable
from imagernn.nn.workers import Workers

OUTPUT_NAMES = {'vgg16': 'vgg_feats.h5'}    # the name that driver.py looks for; of others <network>_feats.h5


def build_parser():
    parser = argparse.ArgumentParser(prog='python -m imagernn.extract_features',
                                     description='Turn pictures into a feature file by a convolutional network.')
    add = parser.add_argument
    add('source', help='a folder of pictures (rows in the order of their names); a tasks.txt (a row for each line); '
                       'or a dataset.json with the pictures in imgs/ beside it (row = imgid)')
    add('--network', choices=tuple(PREPROCESSING), default=None,
        help='the network (default: told from --weights; lite0 without)')
    add('--weights', default=None, help='its weight file (default: for lite0 the installed package, [lite0])')
    add('--layer', default=None, help='the output to keep (default: fc7 of a VGG, pool5 where its file has no fully '
                                      'connected layers; features of lite0)')
    add('--regions', default='', metavar='KIND',
        help='regions as well: grid (each cell of the last convolutional grid), grid:RxC (averaged to R x C cells), or '
             'crops:RxC (the picture cut into R x C, each through the network)')
    add('--output', default=None, help='.h5 or .mat (default: <network>_feats.h5 in the source\'s folder, vgg_feats.h5 '
                                       'for vgg16)')
    add('--dtype', choices=('float16', 'float32'), default=None, help='of the file (default: float16; .mat: float32)')
    add('--on_error', choices=('skip', 'stop'), default='skip',
        help='a broken picture is named and its row left zero, or ends the run (default: %(default)s)')
    add('--batch_size', type=int, default=BATCH_SIZE,
        help='pictures, their crops counted, that go through the network at once (default: %(default)s)')
    add('--num_threads', type=int, default=NUM_THREADS,
        help='threads that share out the pictures (default: %(default)s)')
    add('--force', action='store_true', help='begin anew, and replace a file that is there')
    return parser


# ---- the run --------------------------------------------------------------------------------------------------------

def checked_params(argv):
    params = vars(build_parser().parse_args(argv))
    for name in ('batch_size', 'num_threads'):
        if params[name] < 1:
            raise InputError(f'--{name} {params[name]}: must be at least 1')
    params['regions'] = parse_regions(params['regions'])
    suffix = '.h5' if params['output'] is None else Path(params['output']).suffix
    if suffix not in ('.h5', '.hdf5', '.mat'):
        raise InputError(f"--output {params['output']}: ends in '{suffix}'; name a file that ends in .h5 or .mat")
    if suffix == '.mat' and (params['dtype'] == 'float16' or params['regions'].kind):
        raise InputError('--output with .mat: holds no float16 and no regions; use .h5 for these')
    params['dtype'] = params['dtype'] or ('float32' if suffix == '.mat' else 'float16')
    return params


@script
def main(argv=None):
    params = checked_params(argv)
    source, regions = read_source(params['source']), params['regions']
    network = open_network(params['weights'], params['network'])
    layer = chosen_layer(network, params['layer'])
    if params['layer'] is None and layer != next(iter(ARCHITECTURES[network.name].outputs)):
        print(f'note: {params["weights"]}: holds no fully connected layers; the features are those of layer {layer}',
              file=sys.stderr)
    output = Path(params['output'] or source.folder / OUTPUT_NAMES.get(network.name, f'{network.name}_feats.h5'))
    partial = output.with_name(f'{output.name}.partial.h5')
    refuse_to_replace(filter(None, [params['weights']]), [output, partial])
    require_writable(output)

    settings = {'network': network.name, 'layer': layer, 'regions': str(regions),
                'weights': Path(params['weights']).name if params['weights'] else LITE0_PACKAGE,
                'weights_sha256': network.checksum, 'preprocessing': description(network.name)}
    how, workers = (settings, source.names, params['dtype']), Workers(params['num_threads'])
    if partial.exists() and not params['force']:    # before output, which a run with --force leaves until it has ended
        require_same_settings(partial, *how)
    elif output.exists() and not params['force']:
        if output.suffix == '.mat':
            raise InputError(f'{output}: is there already; --force replaces it, or name another --output')
        require_same_settings(output, *how)
        print(f'{output}: is there already, and {completeness(output)}; --force extracts anew')
        return 0
    else:
        nothing = prepared_views(np.zeros((1, 1, 3), np.uint8), network, regions)
        example = through_network(nothing[None], network, layer, regions, workers)
        if output.suffix == '.mat' and len(source.names) * example['feats'].nbytes >= MAT_BYTES:
            raise InputError(f'{output}: {len(source.names)} pictures of {example["feats"].size} numbers are more than '
                             'the 2 GB that a .mat holds; use .h5')
        create_file(partial, *how, example)

    try:
        with feature_file(partial) as file:
            skipped = fill(file, source, network, layer, params, workers)
            extracted, (_, D) = int(file['extracted'][:].sum()), file['feats'].shape
    except KeyboardInterrupt:
        print(f'stopped; {partial} keeps what is done, and {way_on(params)} there', file=sys.stderr)
        return 130
    if not extracted:
        partial.unlink()
        raise InputError(f'{params["source"]}: none of its {len(skipped)} pictures can be read; what is wrong stands '
                         'above')
    finish(partial, output, len(skipped))
    if skipped:
        print(f'skipped {len(skipped)} broken pictures, whose rows are zero: {shortened(skipped)}', file=sys.stderr)
    print(f'written: {output}, {extracted} pictures, {D} numbers each ({network.name}, {layer}, {params["dtype"]})')
    return 0


def way_on(params):
    """How a run that ends early is gone on with: --force would begin anew."""
    return f'the same command{" without --force" if params["force"] else ""} goes on'


def fill(file, source, network, layer, params, workers):
    """Extract what is not in the file yet. Returns the names of the broken pictures, whose rows stay zero."""
    done = file['extracted'][:]                                                 # (N,)
    todo = [number for number, name in enumerate(source.names) if name and not done[number]]
    skipped = []
    with tqdm(total=int(done.sum()) + len(todo), initial=int(done.sum()), unit='picture', disable=None) as progress:
        for numbers, arrays, broken in extract(source.paths, network, layer, workers, params['regions'],
                                               params['batch_size'], todo):
            write_rows(file, numbers, arrays, source.names)
            for number, error in broken:
                if params['on_error'] == 'stop':
                    raise InputError(f'{error} (row {number}). Once it is mended, {way_on(params)}; '
                                     '--on_error skip leaves its row zero')
                tqdm.write(f'skipped: {error}', file=sys.stderr)
                skipped.append(source.names[number])
            progress.update(len(numbers) + len(broken))
    return skipped


if __name__ == '__main__':
    sys.exit(main())

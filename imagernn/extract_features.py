"""Extract features of pictures: python -m imagernn.extract_features data/flickr8k/dataset.json

Knows the command line and the order of the steps. The network and what goes into it are in imagernn/convnet, the
feature file is in imagernn/corpus/feature_writer.py. The same command, given again, resumes after an interruption, and
extracts only what a complete file lacks: pictures that were broken and have been replaced, and new ones. Rows of
pictures that are no longer in the list are dropped. Under mpirun its processes share the batches of pictures, and the
first one alone has the file.
"""

import argparse
import signal
import sys
from contextlib import nullcontext
from pathlib import Path

from imagernn.convnet.inputs import BATCH_SIZE, PREPROCESSING
from imagernn.errors import InputError, loading, script
from imagernn.nn.blas import NUM_THREADS


def build_parser():
    parser = argparse.ArgumentParser(prog='imagernn extract',
                                     description='Extract features of pictures with a convolutional network.')

    group = parser.add_argument_group('input')
    group.add_argument('source',
        help='A folder of pictures (one row each, sorted by file name), a tasks.txt (one row per line), or a '
             'dataset.json with its pictures in imgs/ beside it (row = imgid).')
    group.add_argument('--on_error', choices=('skip', 'stop'), default='skip',
        help='What to do about a picture that cannot be read: "skip" reports it and leaves its row zero, which the '
             'same command fills once you have replaced the picture; "stop" ends the run, so that you can replace the '
             'picture and resume (default: %(default)s).')

    group = parser.add_argument_group('network')
    group.add_argument('--weights', default=None,
        help='The weight file of the network: .h5 (Keras), .mat (MatConvNet), .npz, .pth (torchvision), .caffemodel '
             'or .onnx. Give one to use VGG-16, as NeuralTalk does, or VGG-19 (default: the weights of lite0 that the '
             'extra [lite0] installs).')
    group.add_argument('--network', choices=tuple(PREPROCESSING), default=None,
        help='The network that the weight file must hold. Give it to stop with an error if it holds another one '
             '(default: whichever network is in --weights).')
    group.add_argument('--layer', default=None,
        help='The layer whose activations become the features. Change it if the model to be trained expects another '
             'one (default: features for lite0; fc7 for a VGG, or pool5 if its file has no fully connected layers).')
    group.add_argument('--regions', default='', metavar='KIND',
        help='Also store features of regions, and where these are; train --generator attention needs them. "windows", '
             'a good first choice, is for 26 windows of several sizes and shapes, averaged from the last convolutional '
             'grid; "grid" for each cell of that grid; "grid:RxC" for that grid averaged to R x C cells; "crops:RxC" '
             'for R x C equal parts of the picture, each passed through the network (default: no regions).')

    group = parser.add_argument_group('output')
    group.add_argument('--output', default=None,
        help='The feature file, .h5 or .mat. Choose .mat to read it in MATLAB (default: <network>_feats.h5 in the '
             'folder of the source, vgg_feats.h5 for vgg16).')
    group.add_argument('--dtype', choices=('float16', 'float32'), default=None,
        help='The type of the stored values. float32 keeps them exact in a file twice as large (default: float16 in '
             'an .h5, float32 in a .mat).')
    group.add_argument('--force', action='store_true',
        help='Start over, and replace an output file that exists. Without it, only the rows that the file lacks are '
             'extracted: those of an interrupted run, of broken pictures that were replaced, and of new pictures.')

    group = parser.add_argument_group('system')
    group.add_argument('--batch_size', type=int, default=BATCH_SIZE,
        help='How many pictures, counting their crops, go through the network at once. Lower it if memory runs out '
             '(default: %(default)s).')
    group.add_argument('--num_threads', type=int, default=NUM_THREADS,
        help='How many threads share the pictures. Lower it to leave cores to other programs (default: %(default)s).')
    return parser


with loading(__name__, build_parser):    # --help does not wait for these
    from tqdm import tqdm

    from imagernn.convnet.extraction import (
        any_can_be_read,
        blank_features,
        boxes_of,
        chosen_layer,
        extract,
        open_network,
        parse_regions,
    )
    from imagernn.convnet.networks import ARCHITECTURES
    from imagernn.convnet.preprocess import description
    from imagernn.convnet.sources import read_source, shortened
    from imagernn.convnet.weights import LITE0_PACKAGE
    from imagernn.corpus.feature_writer import (
        MAT_BYTES,
        copy_begun,
        create_file,
        feature_file,
        finish,
        read_begun,
        refuse_to_lose,
        write_rows,
    )
    from imagernn.formats.writing import refuse_to_replace, require_writable
    from imagernn.nn.workers import Workers
    from imagernn.runs.ranks import world
    from imagernn.runs.signals import Stop, stop_signals

OUTPUT_NAMES = {'vgg16': 'vgg_feats.h5'}    # the name that driver.py looks for; other networks: <network>_feats.h5


def checked_params(argv):
    """The command line as a dict, with `regions` parsed and `dtype` filled in. Raises InputError if it is invalid."""
    params = vars(build_parser().parse_args(argv))
    for name in ('batch_size', 'num_threads'):
        if params[name] < 1:
            raise InputError(f'--{name} {params[name]}: must be at least 1')
    params['regions'] = parse_regions(params['regions'])
    output = params['output']
    suffix = '.h5' if output is None else Path(output).suffix
    if suffix not in ('.h5', '.hdf5', '.mat'):
        raise InputError(f"--output {output}: ends in '{suffix}'; name a file that ends in .h5 or .mat")
    if suffix == '.mat' and params['dtype'] == 'float16':
        raise InputError(f'--output {output}: a .mat holds no float16; use --dtype float32, or name an .h5')
    if suffix == '.mat' and params['regions'].kind:
        raise InputError(f'--output {output}: a .mat is written without regions; omit --regions, or name an .h5')
    params['dtype'] = params['dtype'] or ('float32' if suffix == '.mat' else 'float16')
    return params


@script
def main(argv=None):
    ranks = world()
    params, source, network, layer = ranks.on_all(lambda: opened(argv))
    ranks.require_same('pictures and weights', (source.names, network.checksum))
    workers = Workers(params['num_threads'], ranks)    # with mpirun, its processes share the pictures

    # the file is written under a temporary name, and gets its own once it is complete
    output = Path(params['output'] or source.folder / OUTPUT_NAMES.get(network.name, f'{network.name}_feats.h5'))
    partial = output.with_name(f'{output.name}.partial.h5')

    # resume an unfinished file, leave a complete one, or start a new one
    if complete := ranks.from_first(lambda: begin(output, partial, source, network, layer, params, workers)):
        print(complete)
        return 0

    # extract what is missing; Ctrl-C keeps the rows that are written, a signal to any process of mpirun as well
    try:
        with stop_signals() if ranks.size > 1 else nullcontext(Stop()) as stop:
            if ranks.rank:    # the first one alone has the file
                fill(None, source, network, layer, params, workers, stop)
                return 0
            with feature_file(partial) as file:
                skipped = fill(file, source, network, layer, params, workers, stop)
                num_extracted = int(file['extracted'][:].sum())
                dim = file['feats'].shape[1]
    except KeyboardInterrupt:
        stop = Stop()
        stop.signal = signal.SIGINT
    if stop.signal:
        print(f'stopped; {partial} keeps the rows extracted so far, and {how_to_resume(params)}', file=sys.stderr)
        return 128 + stop.signal

    # a complete file gets its final name, but not if it would hold zeros alone
    if not num_extracted:
        partial.unlink()
        raise InputError(f'{params["source"]}: none of its {len(skipped)} pictures can be read, for the reasons '
                         'printed above; replace them')
    finish(partial, output, len(skipped))
    if skipped:
        print(f'skipped {len(skipped)} broken pictures, whose rows are zero: {shortened(skipped)}', file=sys.stderr)
    print(f'wrote {output}: {num_extracted} pictures, {dim} numbers each ({network.name}, {layer}, {params["dtype"]})')
    return 0


def opened(argv):
    """The checked params, the source, the network, and the layer to extract."""
    params = checked_params(argv)
    source = read_source(params['source'])
    network = open_network(params['weights'], params['network'])
    return params, source, network, layer_to_extract(network, params)


def begin(output, partial, source, network, layer, params, workers):
    """Create the unfinished file at partial, unless it exists already, or there is nothing to extract.

    It starts with the rows of the output, if that exists. The output itself stays as it is until the run has ended.
    Returns a message if the output is complete, else None. Raises InputError if what exists was made in another way, or
    if the output cannot be written.
    """
    refuse_to_replace([params['weights']] if params['weights'] else [], [output, partial])
    require_writable(output)
    settings = settings_to_record(network, layer, params)
    found = next((path for path in (partial, output) if path.exists()), None)    # partial first: it is the later one
    if params['force']:
        for path in (path for path in (partial, output) if path.exists()):
            refuse_to_lose(path)
    if found is None or params['force']:
        example = blank_features(network, layer, params['regions'], workers)
        require_room(output, len(source.names), example['feats'])
        create_file(partial, settings, source.names, params['dtype'], example, boxes_of(params['regions']))
        return None
    begun = read_begun(found, settings, source.names, params['dtype'])
    lacking = begun.lacking(source.names)
    if found == output and begun.same_list and not any_can_be_read(source.paths[number] for number in lacking):
        state = f'complete but for {len(lacking)} broken pictures, whose rows are zero' if lacking else 'complete'
        return (f'{output}: exists already and is {state}; '
                + ('the same command fills them once the pictures are replaced; ' if lacking else '')
                + 'to extract it again, add --force')
    dropped = (f'; rows dropped, because their pictures are not in {params["source"]}: {begun.num_dropped:,}'
               if begun.num_dropped else '')
    if found == output or not begun.same_list:
        print(f'note: {found}: has features of {int(begun.extracted.sum()):,} of the pictures, which are kept; those '
              f'of the other {len(lacking):,} are extracted' + dropped, file=sys.stderr)
        copy_begun(begun, partial, settings, source.names, params['dtype'], boxes_of(params['regions']))
    return None


def layer_to_extract(network, params):
    """The layer of --layer, or the network's default; a note on stderr if the weight file lacks the usual default."""
    layer = chosen_layer(network, params['layer'])
    usual = next(iter(ARCHITECTURES[network.name].outputs))
    if params['layer'] is None and layer != usual:
        print(f'note: {params["weights"]}: holds no fully connected layers; the features are those of layer {layer}',
              file=sys.stderr)
    return layer


def settings_to_record(network, layer, params):
    """How the features are made, as attributes of their file; an unfinished file is resumed only with the same ones."""
    return {
        'network': network.name,
        'layer': layer,
        'regions': str(params['regions']),
        'weights': Path(params['weights']).name if params['weights'] else LITE0_PACKAGE,
        'weights_sha256': network.checksum,
        'preprocessing': description(network.name),
    }


def require_room(output, num_pictures, row):
    """Raise InputError if output is a .mat, and num_pictures rows like row are more than a .mat can hold."""
    if output.suffix == '.mat' and num_pictures * row.nbytes >= MAT_BYTES:
        raise InputError(f'{output}: {num_pictures} pictures of {row.size} numbers exceed the 2 GB that a .mat can '
                         'hold; name an .h5')


def how_to_resume(params):
    """The part of a message that says how to continue a run that stops early."""
    return f'the same command{" without --force" if params["force"] else ""} resumes'


def fill(file, source, network, layer, params, workers, stop):
    """Extract the rows that the file lacks. Returns the names of the broken pictures, whose rows stay zero.

    Raises InputError at the first broken picture if --on_error is 'stop'.
    """
    done = workers.ranks.from_first(lambda: file['extracted'][:])               # (N,)
    num_done = int(done.sum())
    todo = [number for number, name in enumerate(source.names) if name and not done[number]]
    skipped = []
    batches = extract(source.paths, network, layer, workers, params['regions'], params['batch_size'], todo)
    with tqdm(total=num_done + len(todo), initial=num_done, unit='picture', disable=workers.ranks.no_bars) as progress:
        for numbers, arrays, broken in workers.ranks.in_turn(batches, stop):
            write_rows(file, numbers, arrays, source.names)
            for number, error in broken:
                if params['on_error'] == 'stop':
                    raise InputError(f'{error} (row {number}). Once the picture is replaced, {how_to_resume(params)}; '
                                     'with --on_error skip its row stays zero')
                tqdm.write(f'skipped: {error}', file=sys.stderr)
                skipped.append(source.names[number])
            progress.update(len(numbers) + len(broken))
    return skipped


if __name__ == '__main__':
    sys.exit(main())

"""Caption pictures: python predict_on_images.py cv/CHECKPOINT.h5 photo.jpg more/

Takes photos and folders of photos, extracts their features with the convolutional network that the checkpoint was
trained with, and prints `path: caption` for each, a batch of photos at a time. Without a checkpoint the pretrained
captioner is used. If the run is stopped, by Ctrl-C for example, the files get the captions that were found by then.
Under mpirun its processes share the photos, and the first one prints and writes.

    python predict_on_images.py cv/CHECKPOINT.h5 -r example_images

takes a folder with tasks.txt, one picture's file name per line, and a feature file with a row (in .mat a column) for
each line; without a feature file it takes the pictures themselves. Writes result_struct.json and result.html there.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

from imagernn.captioning.flags import add_search_flags, check_search_flags
from imagernn.errors import InputError, loading, script, shown
from imagernn.runs.flags import HelpWithDefaults

ROOT = 'example_images'
ROWS_AT_ONCE = 400    # of a feature file, to find the classes


def build_parser():
    parser = argparse.ArgumentParser(description='Caption pictures with a trained model.',
                                     formatter_class=HelpWithDefaults)

    group = parser.add_argument_group('model')
    group.add_argument('checkpoint_path', nargs='?', metavar='CHECKPOINT',
        help='A checkpoint that training wrote, or one of the original NeuralTalk (.p). Leave it out to use the '
             'pretrained captioner.')
    group.add_argument('--weights', default=None,
        help='The weight file of the convolutional network. Give it if the checkpoint was trained on features of VGG '
             '(default: the weights of lite0 that the extra [lite0] installs).')

    group = parser.add_argument_group('input')
    group.add_argument('pictures', nargs='*', metavar='PICTURES', help='Pictures to caption, and folders of pictures.')
    group.add_argument('-r', '--root_path', default=ROOT,
        help='Used if no pictures are named: a folder with tasks.txt, which lists pictures, one file name per line, '
             'and with these pictures or a feature file (default: %(default)s).')
    group.add_argument('--features', default=None,
        help='The feature file for -r, a name in that folder or a path. Give it if the features have another name '
             '(default: the first of vgg_feats.mat, vgg_feats.h5 and vgg_feats.npy there).')
    group.add_argument('--on_error', choices=('skip', 'stop'), default='skip',
        help='What to do about a picture that cannot be read, or has no features in the feature file: "skip" reports '
             'it and captions the others; "stop" ends with an error (default: %(default)s).')

    group = parser.add_argument_group('output')
    group.add_argument('--result_struct_filename', default=None,
        help='The JSON file to write the captions to, with their log-probabilities. Without it, named pictures get '
             'none (default for -r: result_struct.json in that folder).')
    group.add_argument('--html', default=None,
        help='The page to write, which shows the pictures with their captions. Without it, named pictures get none '
             '(default for -r: result.html in that folder).')
    group.add_argument('--classes', type=int, default=0, metavar='K',
        help='Print beside each caption the K most probable ImageNet classes that the convolutional network finds in '
             'the picture. Give 3 to see whether a wrong caption comes from the network or from the language model; 0 '
             'prints none (default: %(default)s).')
    add_search_flags(parser)
    return parser


with loading(__name__, build_parser):    # --help does not wait for these
    import numpy as np
    from tqdm import tqdm

    from imagernn.captioner import check_size, features_of, network_of, pretrained_path, regions_of
    from imagernn.captioning.evaluate import caption_images
    from imagernn.captioning.load import features_for, load_captioner, load_ensemble
    from imagernn.captioning.results import result_blob
    from imagernn.convnet.classes import class_names, classifier_of, described
    from imagernn.convnet.extraction import boxes_of, extract, open_network
    from imagernn.convnet.sources import expanded, read_tasks
    from imagernn.corpus.features import READERS, default_features
    from imagernn.corpus.trained_on import note_other_origin
    from imagernn.formats.json_files import write_json
    from imagernn.formats.names import path_inside
    from imagernn.formats.pictures import SUFFIXES
    from imagernn.formats.writing import refuse_to_replace, require_writable
    from imagernn.nn.workers import ALONE, Workers
    from imagernn.runs.ranks import world
    from imagernn.runs.signals import stop_signals
    from imagernn.web.results_page import ANYWHERE, Places, checked_result, view_command, write_page


def parsed(argv):
    """The command line as a dict, checked; with the pretrained captioner as its checkpoint if it names none."""
    params = vars(build_parser().parse_intermixed_args(argv))    # flags may stand before pictures
    check_search_flags(params)
    if not 0 <= params['classes'] <= len(class_names()):
        raise InputError(f'--classes {params["classes"]}: must be from 0 to {len(class_names())}')
    first = params['checkpoint_path']
    if first and is_picture(first):
        params['pictures'].insert(0, first)
        first = None
    if pictures := [name for name in params['ensemble'] if is_picture(name)]:
        raise InputError(f'{pictures[0]}: stands among the checkpoints of --ensemble, which takes all names up to the '
                         'next flag; name pictures before it')
    if not first:
        require_pictures(params)
        params['checkpoint_path'] = str(pretrained_path())
        print(f'note: captioned by the pretrained captioner, {params["checkpoint_path"]}; to use another one, name its '
              'checkpoint before the pictures', file=sys.stderr)
    if params['pictures'] and (params['root_path'] != ROOT or params['features']):
        raise InputError('pictures are named, and --root_path or --features too: give one or the other')
    return params


def is_picture(name):
    """Whether an argument that may be a checkpoint is a picture, or a folder of pictures."""
    return Path(name).suffix.lower() in SUFFIXES or Path(name).is_dir()


def require_pictures(params):
    """Raise InputError where neither pictures are named nor a folder."""
    if not params['pictures'] and params['root_path'] == ROOT and not Path(ROOT).is_dir():
        raise InputError('name at least one picture, or with -r a folder with tasks.txt')


@script
def main(argv=None):
    ranks = world()
    params, (checkpoint, ensemble), (root, names, paths), (features, boxes), outputs = ranks.on_all(
        lambda: opened(argv))
    ranks.require_same('pictures', names)
    workers = Workers(params['num_threads'], ranks)    # with mpirun, its processes share the pictures
    params['num_threads'] = workers.num_parts    # in all, which the results record

    def entries_of(pictures, rows, classes, ranks):
        """See entries. rows(i, j): the features of pictures i to j; ranks: the processes that share these pictures."""
        return entries(pictures, caption_images(
            rows, len(pictures), checkpoint['model'], checkpoint['params'], checkpoint['ixtoword'], params, workers,
            ensemble, boxes is not None, ranks), classes)

    blobs = []
    with stop_signals() as stop:
        if features:
            batch = ranks.on_all(lambda: rows_of_file(features, root, names, checkpoint, params))
            found = entries_of(*batch, ranks)
        else:
            found = entries_of_pictures(names, paths, checkpoint, params, workers, stop, entries_of)
        try:
            for blob in found:
                blobs.append(blob)
                print_captions(blob, root, outputs)
                if stop.signal and features:    # the single batch may be a long one
                    break
        except KeyboardInterrupt:    # Ctrl-C where it could not be taken over
            stop.signal = signal.SIGINT
        finally:    # whatever ended the run
            if stop.signal and not ranks.rank:
                print(f'stopped: {len(blobs)} of the {len(names)} pictures have captions', file=sys.stderr)
            if blobs and outputs:
                write_results(outputs, blobs, root, checkpoint, params, boxes)
    return 128 + stop.signal if stop.signal else 0


def opened(argv):
    """What main needs, checked: the params, the models, the pictures, their Features or None, the outputs.

    Beside the Features are the boxes (R, 4) of the regions that the model attends to; None for one without attention.
    """
    params = parsed(argv)
    checkpoint = load_captioner(params['checkpoint_path'], params['dtype'])
    ensemble = load_ensemble(params['ensemble'], checkpoint, params['checkpoint_path'], params['dtype'])
    root, names, paths = wanted_pictures(params)
    features_path = feature_file(root, params['features']) if root else None
    outputs = output_files(params, root)
    inputs = [params['checkpoint_path'], *params['ensemble'], params['weights'], features_path, *paths]
    refuse_to_replace([path for path in inputs if path], outputs.values())
    for path in outputs.values() if world().rank == 0 else ():    # the first process alone writes
        require_writable(path)
    features = features_for(checkpoint, features_path) if features_path else None
    boxes = features.boxes if features else boxes_of(regions_of(checkpoint, params['checkpoint_path']))
    return params, (checkpoint, ensemble), (root, names, paths), (features, boxes), outputs


def entries(names, captions, classes):
    """Yields an entry of result_struct.json for each of n pictures; none where captions, of other processes, are none.

    classes: n lists of classes, as convnet.classes finds them, or None.
    """
    for name, found, seen in zip(names, captions, classes or [None] * len(names), strict=False):
        yield result_blob(name, found, **({} if seen is None else {'classes': [
            {'name': each, 'probability': round(probability, 6)} for each, probability in seen]}))


def print_captions(blob, root, outputs):
    """Print the lines of a picture at once, also into a pipe. Once its reader has left, only files are written."""
    classes = described([(each['name'], each['probability']) for each in blob.get('classes', [])])
    try:
        with tqdm.external_write_mode():    # not into a progress bar
            for found in [blob['candidate']] if root else blob.get('nbest', [blob['candidate']]):
                print(shown(f'{blob["img_path"]}: {found["text"]}{f" ({classes})" if classes else ""}'), flush=True)
    except BrokenPipeError:
        if not outputs:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def write_results(outputs, blobs, root, checkpoint, params, boxes):
    """Write the files of outputs, and print their names and how to look at them.

    boxes (R, 4): where the regions are that the model attended to; None for a model without attention.
    """
    regions = {} if boxes is None else {'regions': boxes.tolist()}
    result = {'params': params, 'checkpoint_params': checkpoint['params'], **regions, 'imgblobs': blobs}
    if 'json' in outputs:
        write_json(outputs['json'], result)
    if 'html' in outputs:
        places = Places((root,), (root,), f'put the pictures into {root}') if root else ANYWHERE
        write_page(outputs['html'], [checked_result(outputs.get('json', ''), result)], places)
    print(f'written: {", ".join(map(str, outputs.values()))}')
    if 'json' in outputs:
        names = [blob['img_path'] for blob in blobs]
        print(f'to look at them: {view_command(outputs["json"], names, root or Path(), root and (root,))}')


def wanted_pictures(params):
    """The folder of -r, or None if pictures are named; the names of the pictures; their paths."""
    require_pictures(params)
    if not params['pictures']:
        root = Path(params['root_path'])
        names = read_tasks(root / 'tasks.txt')
        return root, names, [path_inside(root, name) for name in names]
    paths = [picture for name in params['pictures'] for picture in expanded(Path(name))]
    return None, [str(path) for path in paths], paths


def feature_file(root, name):
    """The path of the feature file: name in root, else name as a path; without a name, the first usual one in root.

    None if no name is given and root has no feature file at all: a note on stderr says so.
    """
    if name is None:
        if any(path.suffix.lower() in READERS for path in root.iterdir()):
            return default_features(root)
        print(f'note: {root}: has no feature file; features are extracted from its pictures', file=sys.stderr)
        return None
    return root / name if (root / name).is_file() else Path(name)


def output_files(params, root):
    """The files to write: a dict with 'json' or 'html' or both -> Path. InputError if both are the same file."""
    asked = {'json': params['result_struct_filename'], 'html': params['html']}
    if root:
        asked = {'json': asked['json'] or root / 'result_struct.json', 'html': asked['html'] or root / 'result.html'}
    outputs = {kind: Path(path) for kind, path in asked.items() if path}
    if len({path.resolve() for path in outputs.values()}) < len(outputs):
        raise InputError(f'two results would go to the same file, {outputs["html"]}; give each its own')
    return outputs


def rows_of_file(features, root, names, checkpoint, params):
    """The names of the n pictures that have features in a file, opened as Features; rows(i, j), the features (j - i, D)
    of i to j; and n lists of classes, as convnet.classes finds them, or None.

    The file has a row for each picture: of that name where the file lists its pictures, else in the order of tasks.txt.
    A picture whose row is marked as not extracted is reported on stderr. Raises InputError instead with --on_error
    stop, if no picture has features, and if the file has features of other pictures.
    """
    tasks = root / 'tasks.txt'
    if features.pictures is None and features.num_images != len(names):
        raise InputError(f'{tasks} lists {len(names)} pictures, but {features.path} has features of '
                         f'{features.num_images}; expected a row for each line, in the same order')
    note_other_origin(checkpoint, features.origin, features.path)
    rows = np.arange(len(names))
    if features.pictures is not None:
        rows = features.rows_of_pictures(names, rows)
        if (rows < 0).any():
            raise features.lacks(names, rows, tasks)
    there = features.extracted[rows]
    for number in np.flatnonzero(~there).tolist():
        reason = (f'{names[number]}: has no features in {features.path}, where row {rows[number]} is marked as not '
                  f'extracted; put a picture that can be read in its place and extract again: {features.again(tasks)}')
        if params['on_error'] == 'stop':
            raise InputError(reason)
        print(f'skipped: {shown(reason)}', file=sys.stderr)
    if not there.any():
        raise InputError(f'{features.path}: has no features of any picture in {tasks}; extract them again: '
                         f'{features.again(tasks)}')
    rows = rows[there]
    classes = classes_of_file(features, rows, checkpoint, params) if params['classes'] else None
    return ([name for name, has in zip(names, there, strict=True) if has],
            lambda i, j: features.rows(rows[i:j], dtype=params['dtype']), classes)


def classes_of_file(features, rows, checkpoint, params):
    """The classes of the pictures in these rows, one after another, from their features; no picture is read.

    Raises InputError at once if the network that the features came from cannot be had or does not classify. Which
    network that is, the feature file says, else the checkpoint.
    """
    recorded = checkpoint.get('features')
    recorded = (recorded if isinstance(recorded, dict) else {}) | {
        name: features.origin[name] for name in ('network', 'layer') if name in features.origin}
    try:
        network, layer = network_of({**checkpoint, 'features': recorded}, params['checkpoint_path'], params['weights'],
                                    open_network)
    except InputError as error:
        raise InputError(f'--classes {params["classes"]}: {error}; or leave --classes out') from None
    classify = classifier(network, layer, checkpoint, params)
    return (found for start in range(0, len(rows), ROWS_AT_ONCE)
            for found in classify(features.rows(rows[start:start + ROWS_AT_ONCE])))


def classifier(network, layer, checkpoint, params):
    """The function that convnet.classes.classifier_of gives for --classes, or None without it."""
    if not params['classes']:
        return None
    try:
        return classifier_of(network, layer, len(checkpoint['model']['We']), params['classes'])
    except InputError as error:
        raise InputError(f'--classes {params["classes"]}: {error}; or leave --classes out') from None


def entries_of_pictures(names, paths, checkpoint, params, workers, stop, entries_of):
    """Yields the entries of the pictures that can be read, until a signal asks to stop after a batch.

    entries_of(names, rows, classes, ranks) captions those of a batch. Under mpirun each process does so with the
    pictures whose features it extracts, and the first one yields the entries of all. Raises InputError where no picture
    can be read, and if the checkpoint's network cannot be had or gives features of another size than the model's.
    """
    network, layer, classify = workers.ranks.on_all(lambda: open_network_of(checkpoint, params))
    batches = features_of_pictures(names, paths, network, layer, checkpoint, params, workers)

    def captioned(pairs):
        pictures, rows = zip(*pairs, strict=True)
        features = np.array(rows, params['dtype'])                              # (n, D)
        return entries_of(pictures, lambda i, j: features[i:j], classify and classify(features), ALONE)

    if params['temperature'] == 0 or params['mbr_samples']:
        batches = ((list(captioned(pairs)) if pairs else [], broken) for pairs, broken in batches)
        yield from reported(workers.ranks.in_turn(batches, stop), len(paths), params, workers, stop)
    # else the draws depend on which pictures are drawn together
    elif pairs := list(reported(workers.ranks.in_turn(batches, stop), len(paths), params, workers, stop)):
        yield from captioned(pairs)


def open_network_of(checkpoint, params):
    """The network that the checkpoint's features come from, the layer, and what classifier gives."""
    try:
        network, layer = network_of(checkpoint, params['checkpoint_path'], params['weights'], open_network)
    except InputError as error:
        raise InputError(f'{error}; or give a folder with tasks.txt and a feature file with -r') from None
    return network, layer, classifier(network, layer, checkpoint, params)


def features_of_pictures(names, paths, network, layer, checkpoint, params, workers):
    """Yields for each batch of this process's pictures a list of pairs, the name and the features (D,) of a picture,
    and a list of errors, of the pictures that cannot be read.
    """
    for numbers, arrays, broken in extract(paths, network, layer, workers,
                                           regions_of(checkpoint, params['checkpoint_path'])):
        if numbers:
            check_size(arrays, network, layer, checkpoint['model'])
        rows = features_of(arrays) if numbers else ()
        yield [(names[number], row) for number, row in zip(numbers, rows, strict=True)], [
            error for _, error in broken]


def reported(batches, num_pictures, params, workers, stop):
    """Yields what is found of each picture, one after another, until a signal asks to stop after a batch.

    batches: of each a list of what was found, and a list of errors, of pictures that cannot be read. These are reported
    on stderr. Raises InputError instead with --on_error stop, and if no picture can be read.
    """
    any_good = False
    with tqdm(total=num_pictures, desc='pictures', unit='picture', disable=workers.ranks.no_bars) as progress:
        for good, broken in batches:
            for error in broken:
                if params['on_error'] == 'stop':
                    raise error
                tqdm.write(f'skipped: {error}', file=sys.stderr)
            any_good |= bool(good)
            yield from good
            progress.update(len(good) + len(broken))
            if stop.signal:
                return
    if not any_good and not stop.signal and not workers.ranks.rank:
        raise InputError(f'none of the {num_pictures} pictures can be read, for the reasons printed above; name other '
                         'pictures')


if __name__ == '__main__':
    sys.exit(main())

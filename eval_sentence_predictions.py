"""Caption a split and score the captions: python eval_sentence_predictions.py cv/CHECKPOINT.h5 -b 3

Prints perplexity, BLEU as NeuralTalk printed it, and the COCO scores; writes result_struct.json. Under mpirun its
processes share the images, and the first one computes the scores and writes.
"""

import argparse
import os
import sys
from pathlib import Path

from imagernn.captioning.flags import add_search_flags, check_search_flags
from imagernn.corpus.flags import add_on_error_flag
from imagernn.errors import InputError, loading, script, unreadable
from imagernn.runs.flags import HelpWithDefaults


def build_parser():
    parser = argparse.ArgumentParser(description='Caption a split of a data set and score the captions.',
                                     formatter_class=HelpWithDefaults)
    parser.add_argument('checkpoint_path',
                        help='A checkpoint that training wrote, or one of the original NeuralTalk (.p).')
    add = parser.add_argument_group('data').add_argument
    add('--split', default='test',
        help='The split to caption. Use val while you choose settings, so that test stays unseen.')
    add('-m', '--max_images', type=int, default=-1,
        help='How many images to caption. Give a number for a quick look; -1 takes all.')
    add('--data_root', default='data', help='The folder of data sets. Change it if yours are elsewhere.')
    add('--dataset', default=None,
        help='The data set. Give it to see how the model does on another one (default: the one that the checkpoint was '
             'trained on).')
    add('--features', default=None,
        help='The feature file. Give it if the file has another name now (default: the one of the name that the '
             'checkpoint was trained with).')
    add_on_error_flag(add)
    add = parser.add_argument_group('output').add_argument
    add('--result_struct_filename', default='result_struct.json',
        help='The file for captions and scores, which the results page shows. Name another one to keep the results of '
             'several models.')
    add('--html', default='',
        help='The file for a page of pictures and captions. Give it to share or to keep them.')
    add('--coco_results', default='',
        help='The file for the captions in the format of the COCO evaluation. Give it if another program is to score '
             'them.')
    add('-d', '--dump_folder', default='',
        help='A folder to copy the pictures to. Give it to have the captioned ones together.')
    add_search_flags(parser)
    return parser


with loading(__name__, build_parser):    # --help does not wait for these
    from imagernn.captioning.evaluate import caption_images, split_perplexity
    from imagernn.captioning.load import check_feature_size, load_captioner, load_ensemble, open_data
    from imagernn.captioning.results import result_blob
    from imagernn.corpus.known_words import known_words
    from imagernn.corpus.trained_on import note_other_origin, trained_data
    from imagernn.corpus.vocab import MOST_DROPPED, lookup_table
    from imagernn.formats.json_files import write_json
    from imagernn.formats.names import NOT_OPENED, Refused, parts_of, stays_inside
    from imagernn.formats.writing import refuse_to_replace, replacing, require_folder, require_writable
    from imagernn.metrics import MeteorUnavailable, caption_statistics, multi_bleu_of, per_image, scores_of
    from imagernn.metrics.meteor import meteor_statistics
    from imagernn.nn.workers import Workers
    from imagernn.runs.ranks import world
    from imagernn.runs.signals import stop_signals
    from imagernn.web.results_page import Places, checked_result, view_command, write_page

COCO_SCORES = ('Bleu_1', 'Bleu_2', 'Bleu_3', 'Bleu_4', 'METEOR', 'ROUGE_L', 'CIDEr')


@script
def main(argv=None):
    ranks = world()
    params, outputs, checkpoint, provider, images = ranks.on_all(lambda: opened(argv))
    ranks.require_same('images and features', (images, provider.features.dim, provider.features.origin))
    paths, pictures = [provider.image_path(image) for image in images], provider.folder / 'imgs'
    dumped = copies(paths, pictures, params['dump_folder']) if params['dump_folder'] else {}
    ranks.from_first(lambda: require_outputs(outputs, dumped, paths, provider, params))
    ranks.from_first(lambda: note_unknown_words(provider, checkpoint, params))
    members = ranks.on_all(lambda: load_ensemble(params['ensemble'], checkpoint, params['checkpoint_path'],
                                                 params['dtype']))

    workers = Workers(params['num_threads'], ranks)    # with mpirun, its processes share the images
    params['num_threads'] = workers.num_parts    # in all, which the results record
    with stop_signals() as stop:
        blobs = captioned(checkpoint, members, provider, images, params, workers, stop)
    stopped_by = ranks.from_first(lambda: stop.signal)
    result = {'params': params, 'checkpoint_params': checkpoint['params'], 'imgblobs': blobs}
    if provider.features.boxes is not None:
        result['regions'] = provider.features.boxes.tolist()
    if blobs:    # before the scores, so that nothing that happens to these costs the captions
        write_results(result, images, params, pictures)
    if not stopped_by:
        result['gtppl'] = split_perplexity(provider, params['split'], checkpoint['model'], checkpoint['params'],
                                           checkpoint['wordtoix'], params['max_images'], workers=workers,
                                           ensemble=members)
    if ranks.rank:    # the first one alone has the captions
        return 0
    if stopped_by:
        print(f'stopped: {len(blobs)} of the {len(images)} images have captions, without scores'
              + (f'; written: {", ".join(outputs)}' if blobs else ''), file=sys.stderr)
        return 128 + stopped_by
    report = add_scores(result, images)
    write_results(result, images, params, pictures)
    print(f'perplexity of the {params["split"]} sentences: {result["gtppl"]:.4f}', *report,
          f'written: {", ".join(outputs)}', sep='\n')
    if params['dump_folder']:
        dump_pictures(dumped, paths, params['dump_folder'])
    img_paths = [blob['img_path'] for blob in result['imgblobs']]
    print(f'to look at them: {view_command(params["result_struct_filename"], img_paths)}')
    return 0


def opened(argv):
    """The checked params, the outputs, the checkpoint, the DataProvider, and the images to caption."""
    params = vars(build_parser().parse_args(argv))
    outputs = checked_outputs(params)
    checkpoint = load_captioner(params['checkpoint_path'], params['dtype'])
    dataset, features = trained_data(checkpoint, params['checkpoint_path'], params['dataset'], params['features'])
    provider = open_data({**params, 'dataset': dataset, 'features': features}, checkpoint['params'])
    check_feature_size(provider.features, checkpoint['model'])
    provider.require_split(params['split'], 'Choose one of these with --split.')
    provider.leave_out_imagined(params['split'])
    note_other_origin(checkpoint, provider.features.origin, provider.features.path)
    return params, outputs, checkpoint, provider, list(provider.iterImages(params['split'], params['max_images']))


def require_outputs(outputs, dumped, paths, provider, params):
    """Raise InputError where an output cannot be written, or would replace an input. A note on pictures not opened."""
    inputs = [params['checkpoint_path'], *params['ensemble'], provider.folder / 'dataset.json', provider.features.path,
              *dumped.values()]
    refuse_to_replace(inputs, outputs)
    refuse_to_replace([*inputs, *outputs], dumped)
    note_refused(paths)
    for path in outputs:
        require_writable(path)
    require_places(dumped, params['dump_folder'])


def checked_outputs(params):
    """The files that will be written. Raises InputError for invalid flags."""
    check_search_flags(params)
    if params['max_images'] == 0:
        raise InputError('--max_images 0: no image to evaluate; give a number, or -1 for all')
    outputs = [params[name] for name in ('result_struct_filename', 'coco_results', 'html') if params[name]]
    if len({os.path.realpath(path) for path in outputs}) < len(outputs):
        raise InputError(f'two results would be written to the same file: {", ".join(outputs)}; give each its own')
    return outputs


def note_unknown_words(provider, checkpoint, params):
    """A note on stderr where much of the split's text is not in the vocabulary; InputError where all of it is not."""
    lookup = lookup_table(provider.words, checkpoint['wordtoix'])
    found = known_words(provider, params['split'], lookup, params['max_images'])
    if found.unknown_share > MOST_DROPPED:
        print(f'note: {found.unknown_tokens} of {found.num_tokens} tokens of the {params["split"]} split '
              f'({found.unknown_share:.1%}) are not in the vocabulary; perplexity does not count them', file=sys.stderr)


def captioned(checkpoint, members, provider, images, params, workers, stop):
    """The images' entries of result_struct.json, without scores; only the first ones where a signal asks to stop.

    Under mpirun the first process alone has them.
    """
    imgids, blobs = [image['imgid'] for image in images], []

    def rows(i, j):
        return provider.features.rows(imgids[i:j], dtype=params['dtype'])

    captions = caption_images(rows, len(images), checkpoint['model'], checkpoint['params'], checkpoint['ixtoword'],
                              params, workers, members, provider.features.boxes is not None, stop=stop)
    for image, found in zip(images, captions, strict=False):
        blobs.append(result_blob(shown_path(provider.image_path(image)), found, imgid=image['imgid'], references=[
            {'text': ' '.join(sentence['tokens'])} for sentence in image['sentences']]))
        if stop.signal:
            break
    return blobs


def add_scores(result, images):
    """Add the scores to the dict of result_struct.json and to its images. Returns the lines that report them."""
    candidates = [blob['candidate']['text'].split(' ') if blob['candidate']['text'] else []
                  for blob in result['imgblobs']]
    result['scores'], image_scores, report = score(candidates, [
        [sentence['tokens'] for sentence in image['sentences']] for image in images])
    for blob, its_scores in zip(result['imgblobs'], image_scores, strict=True):
        blob['scores'] = its_scores
    return report


def shown_path(path):
    """A picture's path for result_struct.json, which other programs open: of one that must not be, no path at all.

    The last part of such a path alone could be the name of a file in the working directory.
    """
    return NOT_OPENED + ''.join(parts_of(str(path))[-1:]) if isinstance(path, Refused) else str(path)


def coco_id(image):
    """An image's id in the COCO annotations, as a number also where dataset.json has it as text."""
    found = image.get('cocoid', image['imgid'])
    return int(found) if isinstance(found, str) and found.isdecimal() else found


def write_results(result, images, params, pictures):
    """result_struct.json, and the further files that were asked for. pictures: the folder of all pictures."""
    write_json(params['result_struct_filename'], result)
    if params['coco_results']:
        write_json(params['coco_results'], [
            {'image_id': coco_id(image), 'caption': blob['candidate']['text']}
            for image, blob in zip(images, result['imgblobs'], strict=False)])    # the first ones, after a stop
    if params['html']:
        places = Places((Path(),), (pictures.resolve(),), f'put the pictures into {pictures}')
        write_page(params['html'], [checked_result(params['result_struct_filename'], result)], places)


def score(candidates, references):
    """All scores as a dict of numbers; the COCO scores of each image, a list of dicts; the lines that report them."""
    statistics = caption_statistics(candidates, references)
    report = [f'as NeuralTalk (no brevity penalty): {multi_bleu_of(statistics.bleu.sum(axis=0))}']
    try:
        statistics = statistics._replace(meteor=meteor_statistics(candidates, references))
    except MeteorUnavailable as reason:
        report.append(str(reason))
    scores = scores_of(statistics)
    report.append(f'as COCO: {in_percent(scores)}')
    columns = {name: values.tolist() for name, values in per_image(statistics).items() if name in COCO_SCORES}
    return scores, [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)], report


def in_percent(scores):
    """The COCO scores on one line, times 100."""
    return '  '.join(f'{name} {100 * scores[name]:.1f}' for name in COCO_SCORES if name in scores) + '  (times 100)'


def note_refused(paths):
    """Report on stderr the pictures whose names in dataset.json lead out of the folder of pictures."""
    refused = [path for path in paths if isinstance(path, Refused)]
    if refused:
        print(f'note: {len(refused)} of {len(paths)} pictures are not opened; the first: {refused[0].problem}',
              file=sys.stderr)


def copies(paths, pictures, folder):
    """Where --dump_folder copies pictures: a dict of target -> picture, with the subfolders of their own folder."""
    return {Path(folder, path.relative_to(pictures)): path for path in paths if not isinstance(path, Refused)}


def require_places(targets, folder):
    """Create the folders of --dump_folder. Raises InputError if one leads out of it or cannot be written to."""
    there = [target for target, path in targets.items() if os.path.isfile(path)]
    for place in dict.fromkeys([*([Path(folder)] if folder else []), *(target.parent for target in there)]):
        if not stays_inside(place, folder):
            raise InputError(f'{place}: is a link out of {folder}, and pictures are not copied through it; remove the '
                             'link, or name another --dump_folder')
        require_folder(place)
    if taken := [target for target in there if target.is_dir() and not target.is_symlink()]:
        raise InputError(f'{taken[0]}: is a folder, where a picture is to be copied; name another --dump_folder')


def dump_pictures(targets, paths, folder):
    """Copy the pictures, as copies() says, and report how many were copied, and how many not, and why."""
    there = {target: path for target, path in targets.items() if os.path.isfile(path)}
    for target, path in there.items():
        copy_picture(path, target)
    refused = sum(isinstance(path, Refused) for path in paths)
    counts = {'were not there': len(targets) - len(there), 'were listed more than once':
              len(paths) - refused - len(targets), 'were not opened': refused}
    print('; '.join([f'{len(there)} pictures copied to {folder}',
                     *(f'{count} {what}' for what, count in counts.items() if count)]))


def copy_picture(path, target):
    """Copy a file; a link at the target is replaced. Raises InputError that names the file that the error is about."""
    try:
        contents = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None
    with replacing(target, follow_links=False) as file:
        file.write(contents)


if __name__ == '__main__':
    sys.exit(main())

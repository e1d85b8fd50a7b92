"""Caption a split and score the captions: python eval_sentence_predictions.py cv/CHECKPOINT.h5 -b 3

Prints perplexity, BLEU as NeuralTalk printed it, and the COCO scores; writes result_struct.json.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

from imagernn.captioning.evaluate import caption_images, split_perplexity
from imagernn.captioning.flags import add_search_flags, check_search_flags
from imagernn.captioning.load import check_feature_size, load_captioner, trained_data
from imagernn.captioning.results import result_blob
from imagernn.corpus.captioned_images import getDataProvider
from imagernn.errors import InputError, script
from imagernn.formats.json_files import write_json
from imagernn.formats.writing import refuse_to_replace, require_writable
from imagernn.metrics import MeteorUnavailable, caption_statistics, multi_bleu_of, per_image, scores_of
from imagernn.metrics.meteor import meteor_statistics
from imagernn.nn.workers import Workers
from imagernn.web.results_page import ANYWHERE, checked_result, view_command, write_page

COCO_SCORES = ('Bleu_1', 'Bleu_2', 'Bleu_3', 'Bleu_4', 'METEOR', 'ROUGE_L', 'CIDEr')


def build_parser():
    parser = argparse.ArgumentParser(description='Caption a split of a data set and score the captions.')
    parser.add_argument('checkpoint_path',
                        help='A checkpoint that training wrote, or one of the original NeuralTalk (.p).')
    add = parser.add_argument_group('data').add_argument
    add('--split', default='test', help='The split to caption. (default: %(default)s)')
    add('-m', '--max_images', type=int, default=-1, help='Caption so many images only; -1 takes all. '
                                                         '(default: %(default)s)')
    add('--data_root', default='data', help='The folder of data sets. (default: %(default)s)')
    add('--dataset', default=None, help='The data set. By default the one that the checkpoint was trained on.')
    add('--features', default=None,
        help='The feature file. By default the one of the name that the checkpoint was trained with.')
    add = parser.add_argument_group('output').add_argument
    add('--result_struct_filename', default='result_struct.json',
        help='The file for captions and scores, which the results page shows. (default: %(default)s)')
    add('--html', default='', help='Also write a page of pictures and captions as this one file.')
    add('--coco_results', default='', help='Also write the captions in the format of the COCO evaluation to this file.')
    add('-d', '--dump_folder', default='', help='Also copy the pictures to this folder.')
    add_search_flags(parser)
    return parser


@script
def main(argv=None):
    params = vars(build_parser().parse_args(argv))
    outputs = checked_outputs(params)
    checkpoint = load_captioner(params['checkpoint_path'], params['dtype'])
    dataset, features = trained_data(checkpoint, params['dataset'], params['features'])
    provider = getDataProvider(dataset, params['data_root'], features)
    check_feature_size(provider.features, checkpoint['model'])
    images = list(provider.iterImages(params['split'], params['max_images']))
    refuse_to_replace([params['checkpoint_path'], provider.folder / 'dataset.json', provider.features.path], outputs)
    for path in outputs:
        require_writable(path)

    result, report = evaluate(checkpoint, provider, images, params)
    write_results(result, images, params)
    print(f'perplexity of the {params["split"]} sentences: {result["gtppl"]:.4f}', *report,
          f'written: {", ".join(outputs)}', sep='\n')
    if params['dump_folder']:
        dump_pictures(provider, images, Path(params['dump_folder']))
    pictures = [blob['img_path'] for blob in result['imgblobs']]
    print(f'to look at them: {view_command(params["result_struct_filename"], pictures)}')
    return 0


def checked_outputs(params):
    """The files that will be written. InputError for flags that cannot be."""
    check_search_flags(params)
    if not params['result_struct_filename']:
        raise InputError('--result_struct_filename: is empty; name the file for the captions')
    if params['max_images'] == 0:
        raise InputError('--max_images 0: no image to evaluate; give a number, or -1 for all')
    outputs = [params[name] for name in ('result_struct_filename', 'coco_results', 'html') if params[name]]
    if len({os.path.realpath(path) for path in outputs}) < len(outputs):
        raise InputError(f'two results would be written to the same file: {", ".join(outputs)}; give each its own')
    return outputs


def evaluate(checkpoint, provider, images, params):
    """The dict of result_struct.json, and the lines that report its scores."""
    model, model_params = checkpoint['model'], checkpoint['params']
    imgids, workers = [image['imgid'] for image in images], Workers(params['num_threads'])

    def rows(i, j):
        return provider.features.rows(imgids[i:j], dtype=params['dtype'])

    captions = list(caption_images(rows, len(images), model, model_params, checkpoint['ixtoword'], params, workers))
    gtppl = split_perplexity(provider, params['split'], model, model_params, checkpoint['wordtoix'],
                             params['max_images'], workers=workers)
    scores, image_scores, report = score([found[0].words for found in captions], [
        [sentence['tokens'] for sentence in image['sentences']] for image in images])
    blobs = [result_blob(str(provider.image_path(image)), found, imgid=image['imgid'],
                         references=[{'text': ' '.join(sentence['tokens'])} for sentence in image['sentences']],
                         scores=its_scores)
             for image, found, its_scores in zip(images, captions, image_scores, strict=True)]
    result = {'params': params, 'checkpoint_params': model_params, 'imgblobs': blobs, 'gtppl': gtppl, 'scores': scores}
    return result, report


def write_results(result, images, params):
    """result_struct.json, and the further files that were asked for."""
    write_json(params['result_struct_filename'], result)
    if params['coco_results']:
        write_json(params['coco_results'], [
            {'image_id': image.get('cocoid', image['imgid']), 'caption': blob['candidate']['text']}
            for image, blob in zip(images, result['imgblobs'], strict=True)])
    if params['html']:
        write_page(params['html'], [checked_result(params['result_struct_filename'], result)], ANYWHERE)


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


def dump_pictures(provider, images, folder):
    """Copy the pictures to folder, and report how many were not there."""
    paths = [provider.image_path(image) for image in images]
    there = [path for path in paths if path.is_file()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in there:
            shutil.copy(path, folder / path.name)
    except OSError as error:
        raise InputError(f'{folder}: the pictures cannot be copied there ({error.strerror or error}); '
                         'name another folder with --dump_folder') from None
    print(f'{len(there)} pictures copied to {folder}' +
          (f'; {len(paths) - len(there)} were not there' if len(there) < len(paths) else ''))


if __name__ == '__main__':
    sys.exit(main())

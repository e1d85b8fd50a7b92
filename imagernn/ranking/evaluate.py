"""Evaluate ranking models: imagernn evaluate-ranker CHECKPOINT

Ranks the images of a split by its sentences, and the sentences by the images; writes a ranking_struct.json, which
imagernn view shows. With the boxes that people drew for phrases, it says how often the model points at the same place.
"""

import argparse
import sys
from pathlib import Path

from imagernn.corpus.flags import add_on_error_flag
from imagernn.errors import InputError, command, loading, script
from imagernn.nn.blas import NUM_THREADS
from imagernn.runs.flags import HelpWithDefaults


def build_parser():
    parser = argparse.ArgumentParser(prog='imagernn evaluate-ranker', formatter_class=HelpWithDefaults,
                                     description='Rank the images of a split by its sentences, and the sentences by '
                                                 'its images.')
    add = parser.add_argument_group('input').add_argument
    add('checkpoints', nargs='+', metavar='CHECKPOINT',
        help='A checkpoint that train-ranker wrote. The scores of several ones, of either kind, are averaged.')
    add('-d', '--dataset', default=None,
        help='The data set, a folder below data_root (default: the one that the first checkpoint was trained on).')
    add('--data_root', default='data', help='The folder of data sets. Change it if yours are elsewhere.')
    add('--features', default=None,
        help='The feature file: a name in the folder of the data set, or a path (default: the one of the training).')
    add('--split', default='test', choices=('train', 'val', 'test', 'restval'), help='The split to rank.')
    add('--max_images', type=int, default=-1, help='How many images of it to rank; -1 takes all.')
    add_on_error_flag(add)

    add = parser.add_argument_group('evaluation').add_argument
    add('--fold', type=int, default=0,
        help='Rank in folds of this many images, and average. Give 1000 for a split of COCO, as papers do; 0 ranks all '
             'images at once.')
    add('--entities', default='', metavar='FILE',
        help='Phrases and boxes of Flickr30k Entities for the images of the data set, as JSON Lines. Give them to see '
             'how often a model of regions points at what people mean.')
    add('--beta', type=float, nargs='+', default=[0.],
        help='How strongly neighbouring words keep to the same region: the score that each such pair adds. The first '
             'one is used for the page (default: 0).')
    add('--region_contrast', type=float, default=.7,
        help='How much of the mean score over the words of the sentence is subtracted before each word takes a region: '
             '0 is the model as it is, and lets the words of a sentence drift to the same region.')
    add('--region_temperature', type=float, default=.02,
        help='How --entities chooses the region of a phrase: above 0, each region counts by exp(score / temperature), '
             'and the one that is expected to be nearest is taken; with 0, the one with the highest score.')

    add = parser.add_argument_group('output').add_argument
    add('--result_struct_filename', default='ranking_struct.json',
        help='The file for imagernn view. Change it to keep the results of several models.')
    add('--num_threads', type=int, default=NUM_THREADS, help='How many threads share the work.')
    return parser


with loading(__name__, build_parser):    # --help does not wait for these
    import numpy as np

    from imagernn.corpus.trained_on import note_other_origin, provider_for, trained_data
    from imagernn.corpus.vocab import lookup_table
    from imagernn.formats.entities import read_entities
    from imagernn.formats.json_files import write_json
    from imagernn.formats.names import NOT_OPENED, Refused, parts_of
    from imagernn.formats.writing import refuse_to_replace, require_writable
    from imagernn.metrics.retrieval import ranks_in_folds, retrieval_intervals, retrieval_scores
    from imagernn.nn.workers import Workers
    from imagernn.ranking.grounding import align, contrasted, pointing
    from imagernn.ranking.load import check_feature_size, load_ranker
    from imagernn.ranking.results import ranking_struct
    from imagernn.ranking.split import combined, encode_split, score_matrix
    from imagernn.runs.ranks import world

WAYS = {'image to sentence': 'image_to_sentence', 'sentence to image': 'sentence_to_image'}
COLUMNS = {'R@1': 'R1', 'R@5': 'R5', 'R@10': 'R10', 'median rank': 'median_rank'}


@script
def main(argv=None):
    params, checkpoints, provider, entities = world().on_all(lambda: opened(argv))
    workers = Workers(params['num_threads'], world())    # with mpirun, its processes share the images
    params['num_threads'] = workers.num_parts    # in all, which the results record
    encoded = [encode_split(provider, params['split'], checkpoint, params['max_images'], workers)
               for checkpoint in checkpoints]
    image_of = encoded[0][2]
    if len(encoded[0][0]) < 2:
        raise InputError(f'{provider.folder}: the {params["split"]} split has one image, and ranking needs two at '
                         'least; choose another one with --split')
    if world().rank:    # the first one goes on alone
        return 0
    scores = combined([score_matrix(images, sentences, checkpoint['params'], workers)
                       for (images, sentences, _), checkpoint in zip(encoded, checkpoints, strict=True)])
    measures = report_recalls(ranks_in_folds(scores, image_of, params['fold'] or None))

    grounded = next((number for number, checkpoint in enumerate(checkpoints)
                     if checkpoint['params']['ranker'] == 'regions'), None)
    sight = None if grounded is None else WordsInRegions(*encoded[grounded][:2], provider, checkpoints[grounded])
    if entities:
        report_pointing(entities, provider, params, sight, image_of)
    write_page(params['result_struct_filename'], scores, image_of, provider, params, checkpoints, sight, measures)
    return 0


def opened(argv):
    """The checked params, the checkpoints, the DataProvider of the split, and the entities where they are asked for."""
    params = checked_params(argv)
    paths, output = params['checkpoints'], params['result_struct_filename']
    checkpoints = [load_ranker(path, 'float32') for path in paths]
    provider = open_split(params, checkpoints)
    entities = params['entities'] and read_entities(Path(params['entities']))
    refuse_to_replace([*paths, provider.folder / 'dataset.json', provider.features.path,
                       *filter(None, [params['entities']])], [output])
    if world().rank == 0:    # the first process alone writes
        require_writable(output)
    return params, checkpoints, provider, entities


def checked_params(argv):
    params = vars(build_parser().parse_args(argv))
    if params['max_images'] in (0, 1) or params['fold'] == 1 or params['fold'] < 0:
        raise InputError(f'--max_images {params["max_images"]} --fold {params["fold"]}: nothing to rank; give 2 or '
                         'more, or -1 and 0 for all')
    if params['num_threads'] < 1:
        raise InputError(f'--num_threads {params["num_threads"]}: must be at least 1')
    if not all(0 <= beta < np.inf for beta in params['beta']):
        raise InputError(f'--beta {" ".join(map(str, params["beta"]))}: must be finite numbers of at least 0')
    for name in ('region_contrast', 'region_temperature'):
        if not 0 <= params[name] < np.inf:
            raise InputError(f'--{name} {params[name]}: must be a finite number of at least 0')
    return params


def open_split(params, checkpoints):
    """The DataProvider of the split, with features that fit all checkpoints. InputError where there is none."""
    first, path = checkpoints[0], params['checkpoints'][0]
    dataset, features = trained_data(first, path, params['dataset'], params['features'])
    regions = any(checkpoint['params']['ranker'] == 'regions' for checkpoint in checkpoints)
    if params['entities'] and not regions:
        raise InputError(f'--entities {params["entities"]}: needs a checkpoint with --ranker regions, which knows '
                         'where words are; give one, too')
    provider = provider_for({**params, 'dataset': dataset, 'features': features}, first['params'], regions)
    provider.require_split(params['split'], 'Choose one of these with --split.')
    provider.leave_out_imagined(params['split'])
    if params['entities'] and provider.features.boxes is None:
        raise InputError(f'{provider.features.path}: does not say where its regions are, which --entities needs; '
                         'extract the features again with --regions windows')
    for path, checkpoint in zip(params['checkpoints'], checkpoints, strict=True):
        check_feature_size(provider.features, checkpoint, path)
        note_other_origin(checkpoint, provider.features.origin, provider.features.path)
    return provider


class WordsInRegions:
    """Where a model of regions sees the words of a split's sentences."""

    def __init__(self, images, sentences, provider, checkpoint):
        """images (M, R, E) and sentences: as encode_split gives them."""
        self._images, (self._vectors, self._starts) = images, sentences
        self.boxes = provider.features.boxes
        self.wordtoix = checkpoint['wordtoix']
        self._lookup = lookup_table(provider.words, self.wordtoix)

    def scores(self, image, sentence):
        """The scores of a sentence's known words and of END with each region of an image: (T, R)."""
        return self._vectors[self._starts[sentence]:self._starts[sentence + 1]] @ self._images[image].T

    def align(self, image, sentence, beta, contrast):
        """The region of each of these words in the best chain, and the score of the word with it: (T,), (T,)."""
        S = self.scores(image, sentence)
        regions = align(contrasted(S, contrast), beta)
        return regions, S[np.arange(len(S)), regions]

    def known(self, tokens):
        """Which tokens, places in provider.words, are known: (T,) bool."""
        return self._lookup[tokens] >= 0


def report_recalls(folds):
    """Print the recalls with their intervals. Returns the measures of the page: way → {name: value}."""
    found, intervals = retrieval_scores(folds), retrieval_intervals(folds)
    print(f'{"":18}' + ''.join(f'{name:>24}' for name in COLUMNS))
    for way, prefix in WAYS.items():
        cells = []
        for name in COLUMNS.values():
            key = f'{prefix}_{name}'
            low_high = '{:.1f} to {:.1f}'.format(*intervals[key]) if key in intervals else ''
            cells.append(f'{found[key]:.1f}' + (f' ({low_high})' if low_high else ''))
        print(f'{way:18}' + ''.join(f'{cell:>24}' for cell in cells))
    print('recall sum {:.1f} ({:.1f} to {:.1f}); in brackets, 95 % intervals over images'.format(
        found['recall_sum'], *intervals['recall_sum']))
    return {**{way: {name: round(found[f'{prefix}_{key}'], 2) for name, key in COLUMNS.items()}
               for way, prefix in WAYS.items()}, 'recall sum': round(found['recall_sum'], 1)}


def report_pointing(entities, provider, params, sight, image_of):
    """Print how often the model points at the boxes of phrases, by type of phrase; beside the baselines."""
    images = list(provider.iterImages(params['split'], params['max_images']))
    first = np.searchsorted(image_of, np.arange(len(images)))    # the first sentence of each image
    marked = {image.filename: image for image in entities}    # each data set has an image of every imgid
    pairs = [(number, image) for number, image in enumerate(images) if image['filename'] in marked]
    if not pairs:
        raise InputError(f'{params["entities"]}: has none of the images of the {params["split"]} split; name the file '
                         'that was made for this data set')
    tokens = [[sentence['tokens'] for sentence in image['sentences']] for _, image in pairs]
    place_of = {word: place for place, word in enumerate(provider.words)}

    def word_scores(number, place):
        image = pairs[number][0]
        known = sight.known([place_of[token] for token in tokens[number][place]])
        return sight.scores(image, first[image] + place), known

    found = pointing([(marked[image['filename']], tokens[number]) for number, (_, image) in enumerate(pairs)],
                     sight.boxes, word_scores, params['beta'], params['region_temperature'],
                     params['region_contrast'])
    print_pointing(found)


def print_pointing(found):
    names = [f'beta {beta:g}' for beta in found.chains]
    print(f'\npointing accuracy in %, {found.counts["all"]} phrases with boxes; {found.unmatched} of them are not in '
          f'the data set\'s text, of {found.unknown} no word is known: these point at the centre')
    print(f'{"":12}{"phrases":>9}' + ''.join(f'{name:>22}' for name in (*names, *found.baselines)))
    for kind, count in found.counts.items():
        accuracies = [each.get(kind, np.nan) for each in (*found.chains.values(), *found.baselines.values())]
        print(f'{kind:12}{count:>9}' + ''.join(f'{accuracy:>22.1f}' for accuracy in accuracies))


def write_page(output, scores, image_of, provider, params, checkpoints, sight, measures):
    """Write ranking_struct.json, and print how to look at it."""
    images = list(provider.iterImages(params['split'], params['max_images']))
    tokens = [sentence['tokens'] for image in images for sentence in image['sentences']]
    wordtoix = checkpoints[0]['wordtoix'] if sight is None else sight.wordtoix
    known = [[place for place, token in enumerate(each) if wordtoix.get(token, 0) > 0] for each in tokens]
    beta, contrast = params['beta'][0], params['region_contrast']
    ground = sight and (lambda image, sentence: sight.align(image, sentence, beta, contrast))
    write_json(output, ranking_struct(
        scores, image_of, [shown_path(provider.image_path(image)) for image in images], tokens, known, ground,
        sight and sight.boxes, {**params, 'checkpoint_path': ', '.join(params['checkpoints'])},
        checkpoints[0]['params'], measures))
    print(f'written: {output}\nto look at it: {command("view")} {output}')


def shown_path(path):
    """A picture's path for ranking_struct.json; of one that must not be opened, no path at all."""
    return NOT_OPENED + ''.join(parts_of(str(path))[-1:]) if isinstance(path, Refused) else str(path)


if __name__ == '__main__':
    sys.exit(main())

"""Ranking files -> the data of the ranking page, which imagernn.view serves, or the page as one self-contained file.

Trusts the files as little as results_page.py does, which knows which pictures may be shown. The page itself is
vis/ranking.html with its scripts.
"""

from typing import NamedTuple

import numpy as np

from imagernn.errors import InputError
from imagernn.formats.caption_files import described, field, nonempty
from imagernn.formats.names import without_folders
from imagernn.formats.writing import write_text
from imagernn.web import THUMBNAIL
from imagernn.web.results_page import as_text, checked_boxes, embedded_pictures, number, numbers, single_file

PAGE = 'ranking.html'
FILES = ('common.css', 'feed.css', 'ranking.css', 'common.js', 'feed.js', 'attention.js', 'ranking.js', 'search.js')
AGAIN = 'create the file again'
TYPICAL = 95    # percentile of the words' scores at which the shade of a word is the strongest


class Ranking(NamedTuple):
    """The validated contents of a ranking_struct.json."""

    name: str          # for the page: the path of the file
    params: dict       # how the split was ranked
    trained: dict      # how the model was trained: checkpoint_params
    measures: dict     # direction -> {name: number}, or name -> number
    images: list       # of {'img_path', 'rank', 'sentences': [pair, ...]}; see _pair
    sentences: list    # of {'tokens', 'known', 'image', 'rank', 'images': [pair, ...]}, maybe with a 'true_image'
    regions: list      # the boxes [x0, y0, x1, y1] of the regions


def is_ranking(data):
    """Whether the contents of a JSON file are those of a ranking_struct.json."""
    return isinstance(data, dict) and {'images', 'sentences'} <= data.keys()


def checked_ranking(name, data):
    """Validate the contents of a ranking_struct.json -> Ranking. name: for messages and the page.

    Raises InputError that names the file and the place that is wrong.
    """
    groups = {key: data[key] if isinstance(data.get(key), dict) else {}
              for key in ('params', 'checkpoint_params', 'measures')}
    measures = {**numbers(groups['measures']),
                **{key: found for key, value in groups['measures'].items() if (found := numbers(value))}}
    regions = checked_boxes(name, data.get('regions'))
    images, sentences = (nonempty(name, key, data[key]) for key in ('images', 'sentences'))
    sizes = len(images), len(sentences), len(regions)
    found = [_sentence(name, f'sentences[{i}]', sentence, sizes) for i, sentence in enumerate(sentences)]
    lengths = [len(sentence['known']) for sentence in found]
    return Ranking(str(name), groups['params'], groups['checkpoint_params'], measures,
                   [_image(name, f'images[{i}]', image, sizes, lengths) for i, image in enumerate(images)],
                   found, regions)


def _sentence(name, place, sentence, sizes):
    """A sentence, validated: its tokens, which are known, its image, the rank of that, and its best images."""
    tokens, known = (field(name, place, sentence, key, list) for key in ('tokens', 'known'))
    if not {str}.issuperset(map(type, tokens)):
        raise InputError(f'{name}: {place}.tokens has a value that is not a string; {AGAIN}')
    if not {int}.issuperset(map(type, known)) or known != sorted({*known} & {*range(len(tokens))}):
        raise InputError(f'{name}: {place}.known: expected the places of the known tokens, different integers from 0 '
                         f'to {len(tokens) - 1} in rising order; {AGAIN}')
    pairs = [_pair(name, f'{place}.images[{i}]', pair, 'image', sizes[0], len(known), sizes[2])
             for i, pair in enumerate(nonempty(name, f'{place}.images', sentence.get('images')))]
    true = {'true_image': _pair(name, f'{place}.true_image', sentence['true_image'], 'image', sizes[0], len(known),
                                sizes[2])} if 'true_image' in sentence else {}
    return {'tokens': tokens, 'known': known, 'image': _whole(name, place, sentence, 'image', 0, sizes[0] - 1),
            'rank': _whole(name, place, sentence, 'rank', 1, sizes[0]), 'images': pairs, **true}


def _image(name, place, image, sizes, lengths):
    """An image, validated: its path, the rank of its best sentence or None, and the sentences that fit it best.

    lengths: how many known tokens each sentence has.
    """
    pairs = nonempty(name, f'{place}.sentences', field(name, place, image, 'sentences', list))
    at = [_whole(name, f'{place}.sentences[{i}]', pair, 'sentence', 0, sizes[1] - 1) for i, pair in enumerate(pairs)]
    return {'img_path': field(name, place, image, 'img_path', str),
            'rank': None if image.get('rank') is None else _whole(name, place, image, 'rank', 1, sizes[1]),
            'sentences': [_pair(name, f'{place}.sentences[{i}]', pair, 'sentence', sizes[1], lengths[s], sizes[2])
                          for i, (s, pair) in enumerate(zip(at, pairs, strict=True))]}


def _pair(name, place, pair, key, size, num_known, num_regions):
    """An image of a sentence, or a sentence of an image, validated: its index under key, and its score.

    With 'scores' if the file has the words' scores, one for each known token and maybe one for END, and with 'regions',
    the index of the region that each fits best.
    """
    found = {key: _whole(name, place, pair, key, 0, size - 1), 'score': number(pair.get('score'))}
    if found['score'] is None:
        raise InputError(f'{name}: {place}.score is {described(pair.get("score"))}; expected a number; {AGAIN}')
    if 'scores' in pair:
        scores = field(name, place, pair, 'scores', list)
        found['scores'] = [number(score) for score in scores]
        if None in found['scores'] or len(scores) - num_known not in (0, 1):
            raise InputError(f'{name}: {place}.scores: expected {num_known} numbers, one for each known token, or one '
                             f'more for END; {AGAIN}')
    if 'regions' in pair:
        chosen = field(name, place, pair, 'regions', list)
        if not ({int}.issuperset(map(type, chosen)) and all(0 <= region < num_regions for region in chosen)
                and len(chosen) == len(found.get('scores', ()))):
            raise InputError(f'{name}: {place}.regions: expected as many integers as there are scores, each from 0 to '
                             f'{num_regions - 1}, the places of boxes in "regions" of the file; {AGAIN}')
        found['regions'] = chosen
    return found


def _whole(name, place, entry, key, lowest, highest):
    """The integer entry[key], validated."""
    value = field(name, place, entry, key, int)
    if not lowest <= value <= highest:
        raise InputError(f'{name}: {place}.{key} is {described(value)}; expected {lowest} to {highest}; {AGAIN}')
    return value


# ---- the page

def page_data(rankings, pictures):
    """The data that vis/ranking.js shows, ready for JSON, of a list of one Ranking.

    pictures: for each image (its URL or None, what is wrong with it or None).
    """
    ranking, = rankings
    return {
        'title': title_of(ranking), 'name': ranking.name, 'about': about(ranking), 'measures': ranking.measures,
        'settings': [[part, name, as_text(value)] for part, values in (
            ('ranking', ranking.params), ('training', ranking.trained)) for name, value in values.items()],
        'regions': ranking.regions, 'typical': typical_score(ranking), 'sentences': ranking.sentences,
        'images': [{'name': image['img_path'], 'picture': url, 'problem': problem, 'rank': image['rank'],
                    'sentences': image['sentences']}
                   for image, (url, problem) in zip(ranking.images, pictures, strict=True)]}


def typical_score(ranking):
    """A high score of a word in this file, above 0, against which the words are shaded; None if it has no such."""
    scores = [score for sentence in ranking.sentences for score in sentence['images'][0].get('scores', ()) if score > 0]
    return (round(float(np.percentile(scores, TYPICAL)), 4) or None) if scores else None


def title_of(ranking):
    """The title of the page: the data set, its split, and how many images and sentences there are."""
    dataset = ranking.params.get('dataset') or ranking.trained.get('dataset')
    split = f'{as_text(dataset)} {as_text(ranking.params.get("split", ""))}'.strip() if dataset else ''
    counts = ', '.join(f'{n:,} {thing}{"s" * (n != 1)}' for thing, n in (
        ('image', len(ranking.images)), ('sentence', len(ranking.sentences))))
    return f'{split}: {counts}' if split else counts


def about(ranking):
    """One line on the model."""
    trained = ranking.trained
    parts = (trained.get('ranker'), trained.get('encoder'), trained.get('hidden_size'), trained.get('loss'),
             ranking.params.get('checkpoint_path'))
    return ' · '.join(as_text(part) for part in parts if part)


def write_page(path, rankings, places, size=THUMBNAIL):
    """Write the page of a list of one Ranking as a single file, with thumbnails of at most `size` pixels inside."""
    ranking, = rankings
    pictures = embedded_pictures([image['img_path'] for image in ranking.images], places, size)
    # the page may be given to others: it names no folders of this computer
    shared = ranking._replace(params=without_folders(ranking.params, ()), trained=without_folders(ranking.trained, ()))
    write_text(path, single_file(page_data([shared], pictures), PAGE, FILES))

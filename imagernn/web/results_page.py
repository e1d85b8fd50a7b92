"""Result files -> the data of the results page, which imagernn.view serves, or the page as one self-contained file.

Knows which pictures may be shown. Trusts neither the result files nor the pictures that they list. The page itself is
vis/results.html with its scripts; how it is served is in web/server.py.
"""

import base64
import hashlib
import io
import json
import math
import os
import re
import shlex
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from imagernn.errors import InputError, command, web_address
from imagernn.formats.caption_files import described, field, nonempty, parse
from imagernn.formats.names import NOT_OPENED, can_be_name, parts_of, stays_inside, without_folders
from imagernn.formats.pictures import load_picture
from imagernn.formats.writing import write_text
from imagernn.web import THUMBNAIL
from imagernn.web.server import VIS

PAGE = 'results.html'
SEARCH = 'search.js'
FILES = ('common.css', 'feed.css', 'results.css', 'common.js', 'feed.js', 'attention.js', 'results.js', SEARCH)
JPEG_QUALITY = 75
MOST_REGIONS = 1000


class Result(NamedTuple):
    """The validated contents of a result_struct.json."""

    name: str         # for the page: the path of the file
    params: dict      # how the captions were generated
    trained: dict     # how the model was trained: checkpoint_params
    measures: dict    # name -> perplexity or score over all images
    images: list      # of {'img_path', 'references': [str], 'caption'}; see _image
    regions: list = []    # the boxes [x0, y0, x1, y1] that the words looked at; see checked_boxes


class Places(NamedTuple):
    """Where to look for pictures, and which may be read."""

    bases: tuple           # folders that a relative path may start from; the first in which it exists is used
    roots: tuple | None    # folders outside which no file is read; None: any file may be read
    advice: str | None = None         # for a picture that cannot be shown; None: how to use view's --root
    searched: Path | None = None      # the folder to search for a picture that is not there, by the end of its path


ANYWHERE = Places((Path(),), None)


def read_result(path):
    """Read a result_struct.json, of NeuralTalk or of this project -> Result.

    Raises InputError that names the file and the place that is wrong.
    """
    kind, data = parse(path)
    if kind != 'result_struct':
        raise InputError(f'{path}: has no "imgblobs", the pictures with captions; expected a result_struct.json of '
                         f'{command("evaluate")} or {command("caption")}')
    return checked_result(path, data)


def checked_result(name, data):
    """Validate the contents of a result_struct.json -> Result; see read_result. name: for messages and the page."""
    groups = {key: data[key] if isinstance(data.get(key), dict) else {}
              for key in ('params', 'checkpoint_params', 'scores')}
    measures = {'perplexity': number(data.get('gtppl')), **numbers(groups['scores'])}
    regions = checked_boxes(name, data.get('regions'))
    images = [_image(name, f'imgblobs[{i}]', blob, len(regions))
              for i, blob in enumerate(nonempty(name, 'imgblobs', data['imgblobs']))]
    return Result(str(name), groups['params'], groups['checkpoint_params'],
                  {key: value for key, value in measures.items() if value is not None}, images, regions)


def _image(name, place, blob, num_regions):
    """An entry of imgblobs, validated. 'caption' is from _caption, with 'nbest' (a list of such) and 'scores'."""
    candidate = field(name, place, blob, 'candidate', dict)
    caption = {**_caption(name, f'{place}.candidate', candidate, num_regions), 'scores': numbers(blob.get('scores'))}
    caption['nbest'] = [_caption(name, f'{place}.nbest[{i}]', found, num_regions)
                        for i, found in enumerate(optional_list(name, f'{place}.nbest', blob.get('nbest')))]
    references = [field(name, f'{place}.references[{i}]', reference, 'text', str)
                  for i, reference in enumerate(optional_list(name, f'{place}.references', blob.get('references')))]
    return {'img_path': field(name, place, blob, 'img_path', str), 'references': references, 'caption': caption}


def _caption(name, place, found, num_regions):
    """A caption, validated: its text, its log probability in nats or None, and those of its words and of END.

    With 'attention', as packed_attention gives it, if the file says where the words looked.
    """
    text = field(name, place, found, 'text', str)
    words = [number(one) for one in optional_list(name, f'{place}.word_logprobs', found.get('word_logprobs'))]
    caption = {'text': text, 'logprob': number(found.get('logprob')), 'words': words}
    rows = optional_list(name, f'{place}.attention', found.get('attention'))
    if rows:
        num_words = len(text.split(' ')) if text else 0
        if len(rows) not in (num_words, num_words + 1) or words and len(words) != len(rows):
            raise InputError(f'{name}: {place}.attention has {len(rows)} entries for {num_words} words and '
                             f'{len(words)} word_logprobs; expected one for each word and one for END, as there are '
                             'word_logprobs, or one for each word alone; create the file again')
        caption['attention'] = packed_attention(_attention(name, f'{place}.attention', rows, num_regions))
    return caption


def checked_boxes(name, value):
    """The boxes of the regions, validated: [] or lists x0, y0, x1, y1, as shares of the picture's width and height."""
    boxes = optional_list(name, 'regions', value)
    if len(boxes) > MOST_REGIONS:
        raise InputError(f'{name}: regions has {len(boxes):,} boxes; at most {MOST_REGIONS:,} can be shown')
    for i, box in enumerate(boxes):
        if not (isinstance(box, list) and len(box) == 4 and {int, float}.issuperset(map(type, box))
                and all(0 <= low < high <= 1 + 1e-6 for low, high in (box[::2], box[1::2]))):
            raise InputError(f'{name}: regions[{i}] is not a box: expected [x0, y0, x1, y1] with 0 <= x0 < x1 <= 1 and '
                             '0 <= y0 < y1 <= 1, shares of the width and height of the picture; create the file again')
    return [[round(min(one, 1), 4) for one in box] for box in boxes]


def _attention(name, place, rows, num_regions):
    """Where each word looked, validated -> (words, num_regions), weights that sum to 1 for each word."""
    if not num_regions:
        raise InputError(f'{name}: {place} is there, but the file has no "regions", the boxes that its weights belong '
                         'to; create the file again')
    slack = .001 + .5e-4 * num_regions    # each weight is rounded to four decimals
    for i, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != num_regions:
            found = f'has {len(row)} weights' if isinstance(row, list) else f'is {described(row)}'
            raise InputError(f'{name}: {place}[{i}] {found}; expected {num_regions} weights, one for each box of '
                             '"regions"; create the file again')
        if not ({int, float}.issuperset(map(type, row)) and min(row) >= 0 and max(row) <= 1
                and abs(sum(row) - 1) <= slack):    # no sum of a NaN passes
            raise InputError(f'{name}: {place}[{i}]: expected numbers from 0 to 1 that sum to 1; create the file again')
    return np.array(rows, float)


def packed_attention(weights):
    """Weights (words, R) as the page gets them: text, base64, R + 2 bytes for each word.

    The first two are the word's largest weight in units of 1/65535, the high byte first, and the others its R weights
    in units of 1/255 of the largest one. That is a fifth of what the decimals take in JSON.
    """
    largest = weights.max(axis=1, keepdims=True)    # (words, 1); above 0, since a row sums to 1
    heads = np.rint(65535 * largest).astype('>u2').view(np.uint8)    # (words, 2)
    levels = np.rint(255 * weights / largest).astype(np.uint8)       # (words, R)
    return base64.b64encode(np.hstack([heads, levels]).tobytes()).decode()


def optional_list(name, place, value):
    """A list that may be absent or empty. Raises InputError for anything else."""
    return nonempty(name, place, value) if value else []


def number(value):
    """A finite number, rounded to the four decimals that the page shows and sorts by; None for anything else."""
    valid = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9
    return round(value, 4) if valid and math.isfinite(value) else None


def numbers(values):
    """The finite numbers in a dict; empty for anything else."""
    found = {name: number(value) for name, value in values.items()} if isinstance(values, dict) else {}
    return {name: value for name, value in found.items() if value is not None}


# ---- pictures

def find_pictures(img_paths, places):
    """For each of several pictures what find_picture gives; those that are not there are searched for by name.

    That is how the pictures of a result file from another computer are found, if places.searched is the folder that
    holds them: a picture there whose path has the most last parts in common with img_path is taken, if there is just
    one, and if no other of img_paths ends in these parts. A note on stderr counts them.
    """
    found = [find_picture(img_path, places) for img_path in img_paths]
    missing = [i for i, img_path in enumerate(img_paths)
               if found[i][0] is None and _is_path(img_path) and not _first_there(img_path, places)]
    if places.searched is None or not missing:
        return found
    wanted = {parts[-1] for i in missing if (parts := parts_of(img_paths[i]))}
    all_parts = {tuple(parts_of(img_path)) for img_path in img_paths}
    ending_count = cache(lambda length: Counter(parts[-length:] for parts in all_parts))    # how many have an ending
    files = {}    # file name -> the paths of the files in the folder that have it
    for folder, _, names in os.walk(places.searched):
        for name in wanted.intersection(names):
            files.setdefault(name, []).append(Path(folder, name))
    matches = {i: _longest_match(img_paths[i], files, places, ending_count) for i in missing}
    found = [matches.get(i, one) for i, one in enumerate(found)]
    if moved := [i for i, (path, _) in matches.items() if path]:
        print(f'note: {len(moved):,} pictures are not at their paths, and were found by the end of the path in '
              f'{places.searched}; the first: {img_paths[moved[0]]} as {found[moved[0]][0]}', file=sys.stderr)
    return found


def find_picture(img_path, places):
    """Look for a picture at its path -> that path with all links resolved, None; or None, what is wrong with it."""
    advice = places.advice or 'name the folder of the pictures with --root'
    if address := web_address(img_path):
        return None, f'{address}: is a web address, which is not opened; download the picture, and {advice}'
    if img_path.startswith(NOT_OPENED):
        return None, f'{img_path}: its name in the data set leads out of the folder of pictures; correct it there'
    try:
        path = _first_there(img_path, places)
        real = path and path.resolve(strict=True)
    except (OSError, ValueError, RuntimeError) as error:    # a broken or circular link, a zero byte, no permission
        return None, f'{img_path}: cannot be found ({getattr(error, "strerror", None) or error})'
    if real is None:
        return None, f'{img_path}: is not there; {advice}'
    if places.roots is not None and not any(stays_inside(real, root) for root in places.roots):
        # only the file asks for a folder elsewhere, such as /etc: it is not for us to suggest it
        if not places.advice and any(stays_inside(real.parent, base) for base in places.bases):
            advice = f'{"give" if places.searched else "add"} --root {shlex.quote(str(real.parent))}'
        return None, f'{img_path}: is outside the folders that may be shown; {advice}'
    return real, None


def _first_there(img_path, places):
    """The first path that a picture may have and at which there is a file, even one that must not be shown, or None.

    Raises ValueError for a null character.
    """
    names = [img_path, img_path.replace('\\', '/')]    # the other as Windows means it
    return next((path for base in places.bases for name in names if os.path.lexists(path := Path(base, name))), None)


def _is_path(img_path):
    """Whether an img_path can be the path of a file."""
    return can_be_name(img_path) and not img_path.startswith(NOT_OPENED)


def _longest_match(img_path, files, places, ending_count):
    """Of the files with the name of a picture, the one whose path ends most as img_path does; as find_picture.

    ending_count: from a number of last parts to a dict that counts the pictures whose paths end in them.
    """
    parts = parts_of(img_path)
    candidates = {path: _num_common(path.parts, parts) for path in files.get((parts or [''])[-1], ())}
    longest = max(candidates.values(), default=0)
    best = sorted(path for path, number in candidates.items() if number == longest)
    if not best:
        return None, (f'{img_path}: is neither at its path nor, under its name, in {places.searched}; '
                      'name the folder that holds it with --root')
    if len(best) > 1:
        return None, (f'{img_path}: is not at its path, and {places.searched} holds {len(best)} pictures of that name, '
                      f'such as {best[0]} and {best[1]}; name a folder that holds one of them with --root')
    if ending_count(longest)[tuple(parts[-longest:])] > 1:
        return None, (f'{img_path}: is not at its path, and {best[0]} could be this picture or another one of the same '
                      'name; name the folder that holds both with --root')
    return find_picture(str(best[0].absolute()), places)


def _num_common(one, other):
    """How many last parts two paths have in common."""
    return next((i for i, (a, b) in enumerate(zip(reversed(one), reversed(other), strict=False)) if a != b),
                min(len(one), len(other)))


def thumbnail(path, size):
    """The picture as the bytes of an upright JPEG with sides of at most `size` pixels. Raises as load_picture does."""
    image = Image.fromarray(load_picture(path))
    file = io.BytesIO()
    image.thumbnail((size, size))
    image.save(file, 'JPEG', quality=JPEG_QUALITY)
    return file.getvalue()


def note_problems(problems):
    """Report on stderr how many pictures cannot be shown. problems: for each picture what is wrong, or None."""
    if wrong := [problem for problem in problems if problem]:
        print(f'note: {len(wrong):,} of {len(problems):,} pictures cannot be shown; the first: {wrong[0]}',
              file=sys.stderr)


def view_command(path, img_paths, base='.', roots=None):
    """The command that shows the result file at path, with --root if its pictures need it.

    img_paths: the paths of its pictures. base: the folder that they are relative to. roots: as in Places; a picture
    outside of them is no reason to add --root.
    """
    real = [find_picture(name, Places((base,), roots))[0] for name in img_paths]
    parents = [str(picture.parent) for picture in real if picture]
    view = f'{command("view")} {shlex.quote(str(path))}'
    for root in (None, base, *([os.path.commonpath(parents)] if parents else [])):
        places = default_places(path, root)
        if all(picture in (None, find_picture(name, places)[0]) for name, picture in zip(img_paths, real, strict=True)):
            break
    return view if root is None else f'{view} --root {shlex.quote(str(root))}'


def default_places(path, root=None):
    """Where imagernn.view looks for the pictures of the result file at path -> Places."""
    if root is not None and not Path(root).is_dir():
        raise InputError(f'--root {root}: is not a folder; name the folder of the pictures')
    folders = [Path(path).parent, Path.cwd()]
    roots = folders if root is None else [Path(root)]
    roots = tuple(one.resolve() for one in roots)
    return Places(tuple(folders), roots) if root is None else Places((Path(root), *folders), roots, searched=roots[0])


# ---- the page

def page_data(results, pictures):
    """The data that vis/results.js shows, ready for JSON, of one Result or of two to compare.

    pictures: for each image of the first Result (its URL or None, what is wrong with it or None). For pictures that
    both have, the captions of both are shown; raises InputError if they have none in common.
    """
    first, *others = results
    twins = same_images(first, others[0]) if others else []
    return {'title': title_of(first), 'files': [
        {'name': result.name, 'about': about(result), 'measures': result.measures,
         **({'regions': result.regions} if result.regions else {}),
         'settings': [[part, name, as_text(value)] for part, values in (
             ('all images', result.measures), ('captions', result.params), ('training', result.trained))
             for name, value in values.items()]} for result in results],
        'left_out': [len(other.images) - sum(twin is not None for twin in twins) for other in others],
        'images': [{'name': image['img_path'], 'picture': url, 'problem': problem, 'references': image['references'],
                    'captions': [image['caption'], *(twin and twin['caption'] for twin in twins[i:i + 1])]}
                   for i, (image, (url, problem)) in enumerate(zip(first.images, pictures, strict=True))]}


def same_images(one, other):
    """For each image of a Result, the image of the other with the same path or, if that matches more, file name.

    An image without a match gives None. Raises InputError if there is no match at all.
    """
    best = []
    most = 0
    for name_of in (str, lambda path: (parts_of(path) or [''])[-1]):
        names, others = ([name_of(image['img_path']) for image in result.images] for result in (one, other))
        there = dict(zip(others, other.images, strict=True))
        found = [there.get(name) for name in names]
        shared = sum(image is not None for image in found)
        if shared > most and len(there) == len(others) and len(set(names)) == len(names):
            best, most = found, shared
    if not most:
        raise InputError(f'{other.name}: cannot be compared with {one.name}: it has none of its pictures, such as '
                         f'{one.images[0]["img_path"]}, or several with the same name; expected results for the same '
                         'pictures')
    return best


def title_of(result):
    """The title of the page: the data set, its split and the number of images, or just the number of pictures."""
    n = len(result.images)
    dataset = result.params.get('dataset') or result.trained.get('dataset')
    if any(image['references'] for image in result.images) and isinstance(dataset, str):
        return f'{dataset} {as_text(result.params.get("split", ""))}'.strip() + f': {n:,} image{"s" * (n != 1)}'
    return f'{n:,} picture{"s" * (n != 1)}'


def about(result):
    """One line on the model and the beam size."""
    params, trained = result.params, result.trained
    size = trained.get('hidden_size')
    beam = params.get('beam_size')
    checkpoint = params.get('checkpoint_path')
    generator = f'{as_text(trained["generator"])} {as_text(size or "")}' if 'generator' in trained else ''
    known = [generator.strip().upper(), f'beam {as_text(beam)}' if beam else '',
             as_text(checkpoint) if checkpoint else '']
    return ' · '.join(filter(None, known))


def as_text(value):
    """A setting as text, at most 300 characters of it."""
    return f'{value if isinstance(value, str) else json.dumps(value):.300}'


def write_page(path, results, places, size=THUMBNAIL):
    """Write the page of one Result or of two as a single file, with thumbnails of at most `size` pixels inside."""
    pictures = embedded_pictures([image['img_path'] for image in results[0].images], places, size)
    # the page may be given to others: it names no folders of this computer
    shared = [result._replace(params=without_folders(result.params, ()), trained=without_folders(result.trained, ()))
              for result in results]
    write_text(path, single_file(page_data(shared, pictures)))


def embedded_pictures(img_paths, places, size):
    """For each of several pictures a data URL with its thumbnail, None; or None, what is wrong with it."""
    found = find_pictures(img_paths, places)
    pictures = [_embedded(path, problem, size)
                for path, problem in tqdm(found, desc='thumbnails', unit='picture', disable=None, leave=False)]
    note_problems([problem for _, problem in pictures])
    return pictures


def _embedded(picture, problem, size):
    """What find_picture gave, with the picture as a data URL in place of its path."""
    if problem:
        return None, problem
    try:
        return f'data:image/jpeg;base64,{base64.b64encode(thumbnail(picture, size)).decode()}', None
    except InputError as error:
        return None, str(error)


def single_file(data, page=PAGE, files=FILES):
    """A page as HTML with its styles, scripts and data inside. It runs no other script and loads nothing.

    page: its file in vis/; files: those that it loads. search.js, the script of a worker, becomes text for one.
    """
    text = {name: (VIS / name).read_text(encoding='utf-8') for name in (page, *files)}
    styles = [f'\n{text[name]}' for name in files if name.endswith('.css')]
    scripts = [f'\n{text[name]}' for name in files if name.endswith('.js') and name != SEARCH]
    worker = [f'<script type="text/plain" id="{SEARCH}">\n{text[SEARCH]}</script>'] if SEARCH in files else []
    # a "<" in the data could end the script element; as an escape it means the same in JSON
    embedded = json.dumps(data, separators=(',', ':')).replace('<', '\\u003c')
    policy = (f"default-src 'none'; img-src data:; worker-src blob:; style-src {_hashes(styles)}; "
              f'script-src {_hashes(scripts)}')
    head = [f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            *(f'<style>{style}</style>' for style in styles)]
    body = [f'<script type="application/json" id="data">{embedded}</script>',
            *worker, *(f'<script>{script}</script>' for script in scripts)]
    html = re.sub(r'<link rel="stylesheet".*\n', '', text[page])
    html = re.sub(r'<script src=.*\n', '', html)
    return html.replace('</head>', '\n'.join([*head, '</head>'])).replace('</body>', '\n'.join([*body, '</body>']))


def _hashes(texts):
    """Inline texts as a content security policy lists them: by their SHA-256."""
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
    return ' '.join(f"'sha256-{digest}'" for digest in digests)

"""Result files -> what the results page shows: served by imagernn.view, or as one file that needs nothing beside it.

Trusts neither the result files nor the pictures that they list. The page itself is vis/results.html.
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
from pathlib import Path, PurePath
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

from imagernn.errors import InputError, command
from imagernn.formats.caption_files import field, nonempty, parse
from imagernn.formats.pictures import load_picture
from imagernn.formats.writing import write_text
from imagernn.web.server import VIS

PAGE, FILES = 'results.html', ('common.css', 'results.css', 'common.js', 'results.js', 'search.js')
THUMBNAIL, JPEG_QUALITY = 400, 75    # pixels of the longer side, in a page of one file


class Result(NamedTuple):
    """A result_struct.json, checked."""

    name: str         # as the page calls it: its path
    params: dict
    trained: dict     # checkpoint_params
    measures: dict    # of all its images: name -> number
    images: list      # of {'img_path', 'references': [str], 'caption'}, see _image


class Places(NamedTuple):
    """Where pictures are looked for, and what lies inside: no other file is read. root None: anything."""

    bases: tuple      # what relative paths may be relative to, the first where it exists
    roots: tuple | None


ANYWHERE = Places((Path(),), None)


def read_result(path):
    """A result file, NeuralTalk's or ours -> Result. InputError names the file and the place that is wrong."""
    kind, data = parse(path)
    if kind != 'result_struct':
        raise InputError(f'{path}: holds no "imgblobs", pictures with captions; expected a result_struct.json of '
                         f'{command("evaluate")} or {command("caption")}')
    return checked_result(path, data)


def checked_result(name, data):
    """What is in a result_struct.json -> Result; see read_result."""
    groups = {key: data[key] if isinstance(data.get(key), dict) else {}
              for key in ('params', 'checkpoint_params', 'scores')}
    measures = {'perplexity': _number(data.get('gtppl')), **_numbers(groups['scores'])}
    images = [_image(name, f'imgblobs[{i}]', blob)
              for i, blob in enumerate(nonempty(name, 'imgblobs', data['imgblobs']))]
    return Result(str(name), groups['params'], groups['checkpoint_params'],
                  {key: value for key, value in measures.items() if value is not None}, images)


def _image(name, place, blob):
    """An entry of imgblobs, checked. Its caption is that of _caption, with 'nbest', a list of such, and 'scores'."""
    candidate = field(name, place, blob, 'candidate', dict)
    caption = {**_caption(name, f'{place}.candidate', candidate), 'scores': _numbers(blob.get('scores'))}
    caption['nbest'] = [_caption(name, f'{place}.nbest[{i}]', found)
                        for i, found in enumerate(_optional_list(name, f'{place}.nbest', blob.get('nbest')))]
    references = [field(name, f'{place}.references[{i}]', reference, 'text', str)
                  for i, reference in enumerate(_optional_list(name, f'{place}.references', blob.get('references')))]
    return {'img_path': field(name, place, blob, 'img_path', str), 'references': references, 'caption': caption}


def _caption(name, place, found):
    """Text, logprob (None where it is not known), and those of its words, END's last where it came to its end."""
    words = [_number(one) for one in _optional_list(name, f'{place}.word_logprobs', found.get('word_logprobs'))
             ] if isinstance(found, dict) else []
    return {'text': field(name, place, found, 'text', str), 'logprob': _number(found.get('logprob')), 'words': words}


def _optional_list(name, place, value):
    return nonempty(name, place, value) if value else []


def _number(value):
    """A finite number, or None. Its 17 digits as four: that is what a page shows, and sorts by."""
    sound = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9
    return round(value, 4) if sound and math.isfinite(value) else None


def _numbers(values):
    found = {name: _number(value) for name, value in values.items()} if isinstance(values, dict) else {}
    return {name: value for name, value in found.items() if value is not None}


# ---- pictures

def find_picture(img_path, places):
    """The picture's real path, and None; or None, and what is wrong."""
    try:
        path = next((path for base in places.bases if os.path.lexists(path := Path(base, img_path))), None)
        real = path and path.resolve(strict=True)
    except (OSError, ValueError, RuntimeError) as error:    # a link to nothing or in a circle, a zero byte, no right
        return None, f'{img_path}: cannot be found ({getattr(error, "strerror", None) or error})'
    if real is None:
        return None, f'{img_path}: is not there; name the folder that the pictures are in by --root'
    if places.roots is not None and not any(real.is_relative_to(root) for root in places.roots):
        return None, f'{img_path}: lies outside the folders to show; add --root {shlex.quote(str(real.parent))}'
    return real, None


def thumbnail(path, size):
    """The picture as the bytes of a JPEG of at most size pixels a side, upright. InputError where it is none."""
    image, file = Image.fromarray(load_picture(path)), io.BytesIO()
    image.thumbnail((size, size))
    image.save(file, 'JPEG', quality=JPEG_QUALITY)
    return file.getvalue()


def note_problems(problems):
    """A line on stderr of how many pictures cannot be shown. problems: of each what is wrong, or None."""
    if wrong := [problem for problem in problems if problem]:
        print(f'note: {len(wrong):,} of {len(problems):,} pictures cannot be shown; the first: {wrong[0]}',
              file=sys.stderr)


def view_command(path, img_paths, base='.'):
    """The command that shows the result file at path, with --root where its pictures need it.

    img_paths: its pictures' paths; base: what they are relative to.
    """
    real = [find_picture(name, Places((base,), None))[0] for name in img_paths]
    parents = [str(picture.parent) for picture in real if picture]
    view = f'{command("view")} {shlex.quote(str(path))}'
    for root in (None, base, *([os.path.commonpath(parents)] if parents else [])):
        places = default_places(path, root)
        if all(picture in (None, find_picture(name, places)[0]) for name, picture in zip(img_paths, real, strict=True)):
            break
    return view if root is None else f'{view} --root {shlex.quote(str(root))}'


def default_places(path, root=None):
    """Where imagernn.view looks for the pictures of the result file at path."""
    if root is not None and not Path(root).is_dir():
        raise InputError(f'--root {root}: is no folder; name the one that the pictures are in')
    folders = [Path(path).parent, Path.cwd()]
    roots = folders if root is None else [Path(root)]
    return Places(tuple(folders if root is None else [Path(root), *folders]), tuple(one.resolve() for one in roots))


# ---- the page

def page_data(results, pictures):
    """What vis/results.js shows, ready for JSON, of one Result or of two to compare.

    pictures: for each image of the first (its URL or None, what is wrong with it or None). The second's captions stand
    beside the first's where both have the picture; InputError where they have none in common.
    """
    first, *others = results
    twins = same_images(first, others[0]) if others else []
    return {'title': title_of(first), 'files': [
        {'name': result.name, 'about': about(result), 'measures': result.measures,
         'settings': [[part, name, _shown(value)] for part, values in (
             ('all images', result.measures), ('captions', result.params), ('training', result.trained))
             for name, value in values.items()]} for result in results],
        'left_out': [len(other.images) - sum(twin is not None for twin in twins) for other in others],
        'images': [{'name': image['img_path'], 'picture': url, 'problem': problem, 'references': image['references'],
                    'captions': [image['caption'], *(twin and twin['caption'] for twin in twins[i:i + 1])]}
                   for i, (image, (url, problem)) in enumerate(zip(first.images, pictures, strict=True))]}


def same_images(one, other):
    """For each image of a Result that of the other with the same path, or the same file name where those tell more."""
    best, most = [], 0
    for name_of in (str, lambda path: PurePath(path).name):
        names, others = ([name_of(image['img_path']) for image in result.images] for result in (one, other))
        there = dict(zip(others, other.images, strict=True))
        found = [there.get(name) for name in names]
        shared = sum(image is not None for image in found)
        if shared > most and len(there) == len(others) and len(set(names)) == len(names):
            best, most = found, shared
    if not most:
        raise InputError(f'{other.name}: has no picture of {one.name}, such as {one.images[0]["img_path"]}, or several '
                         'of one name; expected results of the same pictures')
    return best


def title_of(result):
    """The data set and how many of its images, or how many pictures."""
    n, dataset = len(result.images), result.params.get('dataset') or result.trained.get('dataset')
    if any(image['references'] for image in result.images) and isinstance(dataset, str):
        return f'{dataset} {_shown(result.params.get("split", ""))}'.strip() + f': {n:,} image{"s" * (n != 1)}'
    return f'{n:,} picture{"s" * (n != 1)}'


def about(result):
    """The model and how it was asked, in a line."""
    params, trained = result.params, result.trained
    size, beam, checkpoint = trained.get('hidden_size'), params.get('beam_size'), params.get('checkpoint_path')
    known = [f'{_shown(trained["generator"])} {_shown(size or "")}'.strip().upper() if 'generator' in trained else None,
             f'beam {_shown(beam)}' if beam else None, _shown(checkpoint) if checkpoint else None]
    return ' · '.join(filter(None, known))


def _shown(value):
    return f'{value if isinstance(value, str) else json.dumps(value):.300}'


def write_page(path, results, places, size=THUMBNAIL):
    """Write the page of one Result, or of two, as a single file with thumbnails of at most size pixels in it."""
    pictures = [_embedded(image['img_path'], places, size)
                for image in tqdm(results[0].images, desc='thumbnails', unit='picture', disable=None, leave=False)]
    note_problems([problem for _, problem in pictures])
    write_text(path, single_file(page_data(results, pictures)))


def _embedded(img_path, places, size):
    picture, problem = find_picture(img_path, places)
    if problem:
        return None, problem
    try:
        return f'data:image/jpeg;base64,{base64.b64encode(thumbnail(picture, size)).decode()}', None
    except InputError as error:
        return None, str(error)


def single_file(data):
    """The page with its style, its scripts and its data inside. No other script runs in it, and it loads nothing."""
    text = {name: (VIS / name).read_text(encoding='utf-8') for name in (PAGE, *FILES)}
    styles, scripts = [f'\n{text[name]}' for name in FILES if name.endswith('.css')], [
        f'\n{text[name]}' for name in ('common.js', 'results.js')]
    # in a script element < would be able to end it; as an escape it is the same JSON
    embedded = json.dumps(data, separators=(',', ':')).replace('<', '\\u003c')
    policy = (f"default-src 'none'; img-src data:; worker-src blob:; style-src {_hashes(styles)}; "
              f'script-src {_hashes(scripts)}')
    head = [f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            *(f'<style>{style}</style>' for style in styles)]
    body = [f'<script type="application/json" id="data">{embedded}</script>',
            f'<script type="text/plain" id="search.js">\n{text["search.js"]}</script>',
            *(f'<script>{script}</script>' for script in scripts)]
    page = re.sub(r'<link rel="stylesheet".*\n', '', text[PAGE])
    page = re.sub(r'<script src=.*\n', '', page)
    return page.replace('</head>', '\n'.join([*head, '</head>'])).replace('</body>', '\n'.join([*body, '</body>']))


def _hashes(texts):
    """As a content security policy names inline text: by its SHA-256."""
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
    return ' '.join(f"'sha256-{digest}'" for digest in digests)

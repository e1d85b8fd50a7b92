"""Files of captions as people have them: what systems said of images, and what people said of the same images.

Knows the formats, tells them apart by what is in a file, checks them, and brings results and references together image
by image. Knows nothing of tokens or scores.

Results:    COCO's results format   [{"image_id": 42, "caption": "a dog runs"}, …]
            result_struct.json      {"imgblobs": [{"img_path", "imgid", "candidate": {"text"}, "references"}, …]}
References: COCO's annotations      {"images": [{"id", "file_name"}, …], "annotations": [{"image_id", "caption"}, …]}
            dataset.json, a split   {"images": [{"filename", "imgid", "split", "sentences": [{"raw"}]}, …]}
Either:     plain text              a caption a line; several such files are several references of each line's image
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

from imagernn.errors import InputError

FORMATS = ('expected results (COCO\'s list of {"image_id", "caption"}, or a result_struct.json with "imgblobs") or '
           'references (COCO\'s annotations, or a dataset.json)')


class CaptionSet(NamedTuple):
    """The captions of n images. ids: kind of id → n ids; none for plain text, whose images are known by their order."""

    path: str          # or several, as they are to be named in a message
    captions: list     # n lists of str: of results one caption each, of references any number but 0
    ids: dict


def read_captions(paths, references=(), split=None):
    """Read files and tell what they are -> a list of CaptionSet (the results, in order), a CaptionSet (the references).

    paths: files of results and of references, in any order. Plain text is references where a JSON file is results, and
    results where a JSON file is references; if all is plain text, the first file is the results. references: files that
    are references; then paths are results alone. Where no file is references, those that a result_struct.json holds are
    taken. split: of a dataset.json; default test.
    Raises InputError naming the file and the place.
    """
    results, sources = [(str(path), *parse(path)) for path in paths], [(str(path), *parse(path)) for path in references]
    if not sources:
        results, sources = told_apart(results)
    for path, kind, _ in results:
        if kind in REFERENCES:
            raise InputError(f'{path}: holds references, but stands among the results; name it behind --references')
    for path, kind, _ in sources:
        if kind in RESULTS:
            raise InputError(f'{path}: holds results, but stands behind --references; name it before that')
    if not results:
        raise InputError(f'{names(sources)}: references alone; name the results to score too')
    if split is not None and not any(kind == 'dataset' for _, kind, _ in sources):
        raise InputError(f'--split {split}: only a dataset.json has splits, and none is named as references; '
                         'leave --split out')
    found = [RESULTS.get(kind, text_results)(path, data) for path, kind, data in results]
    return found, joined_references(sources, split or 'test') if sources else own_references(results)


def told_apart(files):
    """Results and references among files, each (path, kind, data)."""
    kinds = [kind for _, kind, _ in files]
    if REFERENCES.keys() & kinds:
        is_reference = [kind in REFERENCES for kind in kinds]
    elif RESULTS.keys() & kinds:
        is_reference = [kind == 'text' for kind in kinds]
    else:
        is_reference = [place > 0 for place in range(len(files))]
    return [[file for file, reference in zip(files, is_reference, strict=True) if reference is wanted]
            for wanted in (False, True)]


def names(files):
    return ' and '.join(path for path, _, _ in files)


def read_training(paths):
    """All captions of files of references, of a dataset.json those of its split train -> a list of str."""
    found = []
    for path in paths:
        kind, data = parse(path)
        if kind in RESULTS:
            raise InputError(f'{path}: holds results; --training expects the captions that a system was trained on, as '
                             'references come')
        read = text_results(path, data) if kind == 'text' else REFERENCES[kind](path, data, 'train')
        found += [caption for image in read.captions for caption in image]
    return found


def parse(path):
    """A file's kind, a key of RESULTS or REFERENCES or 'text', and what is in it: JSON's values, or lines."""
    try:
        text = Path(path).read_bytes().decode('utf-8-sig')
    except OSError as error:
        raise InputError(f'{path}: cannot be read ({error.strerror}); check its name and permissions') from None
    except UnicodeDecodeError as error:
        raise InputError(f'{path}: not UTF-8 at byte {error.start} ({error.reason}); '
                         'save it again with encoding UTF-8') from None
    if not text:
        raise InputError(f'{path}: is empty; expected captions')
    if not (str(path).lower().endswith('.json') or re.match(r'\s*(\[\s*[{\]]|\{\s*["}])', text)):
        return 'text', [line.removesuffix('\r') for line in text.removesuffix('\n').split('\n')]
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f'{path}: not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}; '
                         'mend that place, or make the file again') from None
    except (ValueError, RecursionError) as error:      # a number of 5,000 digits, brackets 10,000 deep
        raise InputError(f'{path}: cannot be read as JSON ({error}); make the file again') from None
    return json_kind(path, data), data


def json_kind(path, data):
    if isinstance(data, list):
        return 'coco results'
    if isinstance(data, dict):
        for key, kind in (('imgblobs', 'result_struct'), ('annotations', 'coco'), ('images', 'dataset')):
            if key in data:
                return kind
    found = f'an object with {", ".join(data)[:100] or "nothing"}' if isinstance(data, dict) else shown(data)
    raise InputError(f'{path}: is {found}; {FORMATS}')


# ---- results

def coco_results(path, data):
    entries = nonempty(path, '', data)
    ids = [field(path, f'[{index}]', entry, 'image_id', int, str) for index, entry in enumerate(entries)]
    captions = [[field(path, f'[{index}]', entry, 'caption', str)] for index, entry in enumerate(entries)]
    check_unique(path, 'image_id', ids)
    return CaptionSet(path, captions, dict.fromkeys(('cocoid', 'imgid', 'filename'), ids))   # they may be any of these


def result_struct(path, data):
    blobs = blobs_of(path, data)
    captions = [[field(path, f'{place}.candidate', field(path, place, blob, 'candidate', dict), 'text', str)]
                for place, blob in blobs]
    return CaptionSet(path, captions, blob_ids(path, blobs))


def blobs_of(path, data):
    """A list of place and blob."""
    return [(f'imgblobs[{index}]', blob) for index, blob in enumerate(nonempty(path, 'imgblobs', data['imgblobs']))]


def blob_ids(path, blobs):
    """The kinds of id that every blob has; the name of the picture is what COCO's annotations know, too."""
    ids = {}
    if all('imgid' in blob for _, blob in blobs):
        ids['imgid'] = [field(path, place, blob, 'imgid', int, str) for place, blob in blobs]
        check_unique(path, 'imgid', ids['imgid'])
    if all('img_path' in blob for _, blob in blobs):
        ids['filename'] = [re.split(r'[\\/]', field(path, place, blob, 'img_path', str))[-1] for place, blob in blobs]
        if len(ids) == 1:      # else pictures of one name may lie in several folders
            check_unique(path, 'img_path', ids['filename'])
    return ids


def text_results(path, lines):
    return CaptionSet(path, [[line] for line in lines], {})


# ---- references

def joined_references(files, split):
    """Files of one kind as one: plain text side by side, annotations one after the other."""
    kinds = {kind for _, kind, _ in files}
    if len(kinds) > 1 or kinds == {'dataset'} and len(files) > 1:
        raise InputError(f'{names(files)}: cannot be references together; give plain text files alone, or COCO '
                         'annotations alone, or one dataset.json')
    if kinds == {'text'}:
        return text_references(files)
    read = [REFERENCES[kind](path, data, split) for path, kind, data in files]
    path = ' and '.join(some.path for some in read)
    ids = {kind: [one for some in read for one in some.ids[kind]] for kind in read[0].ids}
    for kind in ids.keys() - {'filename'} or ids:
        check_unique(path, kind, ids[kind])
    return CaptionSet(path, [image for some in read for image in some.captions], ids)


def text_references(files):
    """Line i of every file is a reference of image i, unless it is empty."""
    (first, _, lines), *others = files
    for path, _, more in others:
        if len(more) != len(lines):
            raise InputError(f'{path}: has {len(more)} lines, but {first} has {len(lines)}; line i of every file must '
                             'be of the same image (an image with fewer captions: an empty line)')
    captions = [[line for line in image if line.strip()] for image in zip(*(lines for *_, lines in files), strict=True)]
    if not all(captions):
        raise InputError(f'{names(files)}: line {captions.index([]) + 1} is empty; '
                         'expected at least one reference of each image')
    return CaptionSet(names(files), captions, {})


def coco_annotations(path, data, _=None):
    """Images without a caption are left out: what is said of them cannot be scored."""
    by_id, named = {}, {}
    for index, entry in enumerate(nonempty(path, 'annotations', data['annotations'])):
        place = f'annotations[{index}]'
        by_id.setdefault(str(field(path, place, entry, 'image_id', int, str)), []).append(
            field(path, place, entry, 'caption', str))
    images = data.get('images') or [{'id': one} for one in by_id]
    for index, image in enumerate(nonempty(path, 'images', images)):
        one = field(path, f'images[{index}]', image, 'id', int, str)
        if str(one) in named:
            raise InputError(f'{path}: images[{index}]: id {one!r:.60} is there already; expected each image once')
        named[str(one)] = one, image.get('file_name', str(one))
    if strangers := by_id.keys() - named.keys():
        raise InputError(f'{path}: annotations of image_id {min(strangers):.60}, which is not in the list "images"; '
                         'take them out, or get the file again')
    kept = [one for one in named if one in by_id]
    return CaptionSet(path, [by_id[one] for one in kept],
                    {'cocoid': [named[one][0] for one in kept], 'filename': [named[one][1] for one in kept]})


def dataset(path, data, split):
    entries = [(f'images[{index}]', image) for index, image in enumerate(nonempty(path, 'images', data['images']))]
    splits = [field(path, place, image, 'split', str) for place, image in entries]
    if split not in splits:
        there = ', '.join(f'{name} ({splits.count(name)} images)' for name in dict.fromkeys(splits))
        raise InputError(f"{path}: there are no images in split '{split}'; it has {there}; choose with --split "
                         '(--training reads train alone)')
    entries = [entry for entry, name in zip(entries, splits, strict=True) if name == split]
    captions = [[spoken(path, f'{place}.sentences[{index}]', sentence) for index, sentence in
                 enumerate(nonempty(path, f'{place}.sentences', field(path, place, image, 'sentences', list)))]
                for place, image in entries]
    ids = {}
    for kind in 'cocoid', 'imgid', 'filename':
        if all(kind in image for _, image in entries):
            ids[kind] = [field(path, place, image, kind, int, str) for place, image in entries]
    return CaptionSet(f'{path} (split {split})', captions, ids)


def spoken(path, place, sentence):
    """A sentence as it was written down; without that, its tokens."""
    if isinstance(sentence, dict) and 'raw' in sentence:
        return field(path, place, sentence, 'raw', str)
    tokens = field(path, place, sentence, 'tokens', list)
    if not {str}.issuperset(map(type, tokens)):
        raise InputError(f'{path}: {place}: tokens that are not strings; mend that entry')
    return ' '.join(tokens)


def own_references(files):
    """The references within result_struct.json: of the first file; those of the others must be the same."""
    found = []
    for path, kind, data in files:
        if kind != 'result_struct':
            continue
        blobs = blobs_of(path, data)
        captions = [[field(path, f'{place}.references[{index}]', reference, 'text', str) for index, reference in
                     enumerate(nonempty(path, f'{place}.references', blob.get('references')))]
                    for place, blob in blobs if blob.get('references') is not None]
        if len(captions) == len(blobs):
            found.append(CaptionSet(path, captions, blob_ids(path, blobs)))
    if not found:
        raise InputError(f'{names(files)}: results alone; name the references too: '
                         "COCO's annotations, a dataset.json or text files")
    first, *others = found
    for other in others:
        places = match(other, first)
        if any(place is not None and other.captions[place] != captions
               for captions, place in zip(first.captions, places, strict=True)):
            raise InputError(f'{other.path}: its references of an image are not those of {first.path}; '
                             'name a file of references for all')
    return first


RESULTS = {'coco results': coco_results, 'result_struct': result_struct}
REFERENCES = {'coco': coco_annotations, 'dataset': dataset}


# ---- bringing them together

def align(results, references, allow_missing=False):
    """The images that the references and all results have, in the references' order.

    results: a list of CaptionSet; references: a CaptionSet. Returns a list of n captions for each of the results, the n
    lists of references, the n ids, and a list of notes on what is left out. InputError names an image that is missing
    on either side; with allow_missing only if nothing is left.
    """
    places, notes = [match(some, references) for some in results], []
    for some, found in zip(results, places, strict=True):
        lacking = [index for index, place in enumerate(found) if place is None]
        strangers = sorted(set(range(len(some.captions))) - set(found) - {None})
        if lacking:
            notes.append(f'{some.path}: has no caption of {len(lacking):,} of the {len(found):,} images of '
                         f'{references.path}, such as {ids_of(references)[lacking[0]]!r:.60}')
        if strangers:
            notes.append(f'{some.path}: {len(strangers):,} of its {len(some.captions):,} images have no references in '
                         f'{references.path}, such as {ids_of(some)[strangers[0]]!r:.60}')
    if notes and not allow_missing:
        raise InputError(f'{notes[0]}; mend the file, or score what is there with --allow_missing')
    kept = [index for index in range(len(references.captions)) if all(found[index] is not None for found in places)]
    if not kept:
        raise InputError(f'{" and ".join(some.path for some in results)}: have no image in common; '
                         'score them one by one')
    first = results[0] if results[0].ids else references
    at = places[0] if results[0].ids else range(len(references.captions))
    return ([[some.captions[found[index]][0] for index in kept] for some, found in zip(results, places, strict=True)],
            [references.captions[index] for index in kept], [ids_of(first)[at[index]] for index in kept],
            [f'{note}: left out' for note in notes])


def ids_of(captions):
    """How its images are to be called: by the first kind of id, or by line from 1."""
    return next(iter(captions.ids.values()), range(1, len(captions.captions) + 1))


def match(results, references):
    """For each image of the references its place in results, or None, by the kind of id that most images share.

    By their order where either is plain text. 42 and "42" are the same id. Raises InputError where nothing fits.
    """
    if not (results.ids and references.ids):
        here, there = len(results.captions), len(references.captions)
        if here != there:
            raise InputError(f'{results.path}: has captions of {here:,} images, but {references.path} has references '
                             f'of {there:,}; text has no ids, so line i must be of the i-th image of the other file')
        return list(range(here))
    best, most = None, 0
    for kind in results.ids:
        places = {str(one): place for place, one in enumerate(results.ids[kind])}
        wanted = [str(one) for one in references.ids.get(kind, ())]
        shared = len(places.keys() & set(wanted))
        if shared > most and len(places) == len(results.captions) and len(set(wanted)) == len(wanted):
            best, most = [places.get(one) for one in wanted], shared
    if best is None:
        raise InputError(f'{results.path}: none of its images, such as {ids_of(results)[0]!r:.60}, is in '
                         f'{references.path}, which has such as {ids_of(references)[0]!r:.60}; name the references of '
                         'these images')
    return best


# ---- checks

def nonempty(path, place, value):
    """value, or InputError unless it is a list with something in it."""
    where = f'{path}: {place or "its list"}'
    if not isinstance(value, list):
        raise InputError(f'{where} is {shown(value)}; expected a list; make the file again')
    if not value:
        raise InputError(f'{where} is empty; expected at least one entry')
    return value


def field(path, place, entry, key, *types):
    """entry[key], or InputError unless it is there and of one of these types."""
    wanted = ' or '.join(TYPES[kind] for kind in types)
    if type(entry) is not dict or key not in entry:
        found = 'has no such field' if type(entry) is dict else f'is {shown(entry)}'
        raise InputError(f'{path}: {place} {found}; expected an object with "{key}", {wanted}; mend that entry')
    if type(entry[key]) not in types:      # a bool is no int here
        raise InputError(f'{path}: {place}: "{key}" is {shown(entry[key])}; expected {wanted}; mend that entry')
    return entry[key]


def check_unique(path, name, ids):
    """InputError unless each id is there once. 42 and "42" are the same."""
    first = {}
    for index, one in enumerate(ids):
        if (before := first.setdefault(str(one), index)) != index:
            raise InputError(f'{path}: {name} {one!r:.60} is in the entries {before} and {index}; expected each image '
                             'once; take one out')


def shown(value):
    """A value from JSON as a message shows it."""
    return TYPES[type(value)] if isinstance(value, (dict, list)) else json.dumps(value)[:60]


TYPES = {dict: 'an object', list: 'a list', str: 'a string', int: 'an integer'}

"""Caption files: results, the captions that systems generated, and references, the captions that people wrote.

Recognizes a file's format from its contents, validates it, and matches results with references image by image. Knows
nothing of tokens or scores.

Results:    COCO's results format   [{"image_id": 42, "caption": "a dog runs"}, …], or an object on each line (.jsonl)
            result_struct.json      {"imgblobs": [{"img_path", "imgid", "candidate": {"text"}, "references"}, …]}
References: COCO's annotations      {"images": [{"id", "file_name"}, …], "annotations": [{"image_id", "caption"}, …]}
            dataset.json, a split   {"images": [{"filename", "imgid", "split", "sentences": [{"raw"}]}, …]}
            a table, as of Kaggle   image,caption; Flickr8k.token.txt: see caption_tables
Either:     plain text              one caption per line; several such files give several references per image
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

from imagernn.errors import InputError, unreadable
from imagernn.formats.caption_tables import is_table, read_table, require_unpacked

COCO_ID = re.compile(r'(\d{1,18})|(?:COCO_(?:train|val|test)20\d\d_)?(\d{12})(?:\.jpg)?', re.ASCII)
FORMATS = ('expected results (COCO\'s list of {"image_id", "caption"}, or a result_struct.json with "imgblobs") or '
           'references (COCO\'s annotations, or a dataset.json)')


class CaptionSet(NamedTuple):
    """The captions of n images."""

    path: str          # for messages; it may name several files
    captions: list     # n lists of str: one caption each for results, at least one for references
    ids: dict          # kind of id -> n ids; empty for plain text, whose images are identified by their order
    partly: bool = False    # whether results may cover a part of these references: as in COCO's evaluation, of COCO's


def read_captions(paths, references=(), split=None):
    """Read caption files -> a list of CaptionSet (the results, in order), a CaptionSet (the references).

    paths: files of results and of references, in any order; their contents decide which is which. Plain text counts as
    references beside JSON results, and as results beside JSON references; if all files are plain text, the first one
    holds the results. references: files of references; then paths are results only. If no file holds references, those
    inside a result_struct.json are used. split: which split of a dataset.json to use; default test.
    Raises InputError that names the file and the place in it.
    """
    results = [(str(path), *parse(path)) for path in paths]
    sources = [(str(path), *parse(path)) for path in references]
    if not sources:
        results, sources = results_and_references(results)
    for path, kind, _ in results:
        if kind in REFERENCES:
            raise InputError(f'{path}: holds references, but was given as results; name it after --references')
    for path, kind, _ in sources:
        if kind in RESULTS:
            raise InputError(f'{path}: holds results, but was given as references; name it before --references')
    if not results:
        raise InputError(f'{names(sources)}: only references were given; name the results to score as well')
    if split is not None and not any(kind == 'dataset' or kind == 'table' and data[1] for _, kind, data in sources):
        raise InputError(f'--split {split}: only a dataset.json has splits, and none was given as references; '
                         'omit --split')
    found = [RESULTS.get(kind, text_results)(path, data) for path, kind, data in results]
    return found, joined_references(sources, split or 'test') if sources else own_references(results)


def results_and_references(files):
    """Separate files, each (path, kind, data), into [results, references]; see read_captions."""
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
    """The paths of files, each (path, kind, data), for a message."""
    return ' and '.join(path for path, _, _ in files)


def read_training(paths):
    """All captions in files of references -> a list of str. Of a dataset.json, only the split train is read."""
    found = []
    for path in paths:
        kind, data = parse(path)
        if kind in RESULTS:
            raise InputError(f'{path}: holds results; --training expects the captions that a system was trained on, '
                             'in a format of references')
        read = text_results(path, data) if kind == 'text' else REFERENCES[kind](path, data, 'train')
        found += [caption for image in read.captions for caption in image]
    return found


def parse(path):
    """Read a caption file -> its kind, a key of RESULTS or REFERENCES or 'text', and its contents, JSON or lines."""
    try:
        text = Path(path).read_bytes().decode('utf-8-sig')
    except OSError as error:
        raise unreadable(path, error) from None
    except UnicodeDecodeError as error:
        require_unpacked(path)
        raise InputError(f'{path}: is not UTF-8 at byte {error.start} ({error.reason}); save it as UTF-8') from None
    if not text:
        raise InputError(f'{path}: is empty; expected captions')
    if not (str(path).lower().endswith('.json') or re.match(r'\s*(\[\s*[{\]]|\{\s*["}])', text)):
        if is_table(text):
            return 'table', read_table(Path(path))
        require_plain_text(path, text)
        return 'text', [line.removesuffix('\r') for line in text.removesuffix('\n').split('\n')]
    try:
        data = objects_on_lines(text) or json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f'{path}: is not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}; '
                         'correct that place, or create the file again') from None
    except (ValueError, RecursionError) as error:      # for example 5,000 digits, or brackets nested 10,000 deep
        raise InputError(f'{path}: cannot be read as JSON ({error}); create the file again') from None
    return json_kind(path, data), data


def require_plain_text(path, text):
    """Raise InputError if the text has the names of pictures in it, as captions would be scored together with them."""
    if re.match(r'\s*"?[^\t,;|]*\.(jpe?g|png|gif|bmp|webp)"?\s*[\t,;|#]', text, re.IGNORECASE):
        raise InputError(f'{path}: names pictures beside the captions; write image,caption as its first line, so that '
                         'it can be read as a table, or remove the names')


def objects_on_lines(text):
    """A list of the objects in JSON Lines, where each line is one; [] if that is not what the text is."""
    lines = text.split('\n')
    if sum(map(bool, lines)) < 2 or not all(line[0] == '{' and line.rstrip()[-1] == '}' for line in lines if line):
        return []
    found, start = [], 0
    for line in lines:
        try:
            found += [json.loads(line)] if line else []
        except json.JSONDecodeError as error:
            raise json.JSONDecodeError(error.msg, text, start + error.pos) from None    # its place in the whole text
        start += len(line) + 1
    return found


def json_kind(path, data):
    """The kind of a JSON file: a key of RESULTS or REFERENCES. Raises InputError if it is neither."""
    if isinstance(data, list):
        return 'coco results'
    if isinstance(data, dict):
        for key, kind in (('imgblobs', 'result_struct'), ('annotations', 'coco'), ('images', 'dataset')):
            if key in data:
                return kind
    found = f'an object with {", ".join(data)[:100] or "nothing"}' if isinstance(data, dict) else described(data)
    raise InputError(f'{path}: is {found}; {FORMATS}')


# ---- results

def coco_results(path, data):
    entries = nonempty(path, '', data)
    ids = [field(path, f'[{index}]', entry, 'image_id', int, str) for index, entry in enumerate(entries)]
    captions = [[field(path, f'[{index}]', entry, 'caption', str)] for index, entry in enumerate(entries)]
    check_unique(path, 'image_id', ids)
    return CaptionSet(path, captions, dict.fromkeys(('cocoid', 'imgid', 'filename'), ids))   # it may be any of these


def result_struct(path, data):
    blobs = blobs_of(path, data)
    captions = [[field(path, f'{place}.candidate', field(path, place, blob, 'candidate', dict), 'text', str)]
                for place, blob in blobs]
    return CaptionSet(path, captions, blob_ids(path, blobs))


def blobs_of(path, data):
    """[(place, blob), ...]: the entries of imgblobs, each with its place for messages."""
    return [(f'imgblobs[{index}]', blob) for index, blob in enumerate(nonempty(path, 'imgblobs', data['imgblobs']))]


def blob_ids(path, blobs):
    """{kind of id: ids} for the kinds that every blob has. COCO's annotations have the picture's file name, too."""
    ids = {}
    if all('imgid' in blob for _, blob in blobs):
        ids['imgid'] = [field(path, place, blob, 'imgid', int, str) for place, blob in blobs]
        check_unique(path, 'imgid', ids['imgid'])
    if all('img_path' in blob for _, blob in blobs):
        ids['filename'] = [re.split(r'[\\/]', field(path, place, blob, 'img_path', str))[-1] for place, blob in blobs]
        if len(ids) == 1:      # with an imgid, pictures in different folders may have the same name
            check_unique(path, 'img_path', ids['filename'])
    return ids


def text_results(path, lines):
    return CaptionSet(path, [[line] for line in lines], {})


# ---- references

def joined_references(files, split):
    """Combine files of one kind: plain text line by line, annotations one after the other -> a CaptionSet."""
    kinds = {kind for _, kind, _ in files}
    if len(kinds) > 1 or kinds == {'dataset'} and len(files) > 1:
        raise InputError(f'{names(files)}: cannot be combined as references; give only plain text files, or only '
                         'COCO annotations, or only tables, or one dataset.json')
    if kinds == {'text'}:
        return text_references(files)
    read = [REFERENCES[kind](path, pictured(data) if kind == 'dataset' else data, split) for path, kind, data in files]
    path = ' and '.join(some.path for some in read)
    ids = {kind: [one for some in read for one in some.ids[kind]] for kind in read[0].ids}
    for kind in ids.keys() - {'filename'} or ids:
        check_unique(path, kind, ids[kind])
    return CaptionSet(path, [image for some in read for image in some.captions], ids, read[0].partly)


def text_references(files):
    """Line i of every file is a reference of image i, unless it is empty."""
    (first, _, lines), *others = files
    for path, _, more in others:
        if len(more) != len(lines):
            raise InputError(f'{path}: has {len(more)} lines, but {first} has {len(lines)}; line i of every file must '
                             'describe the same image (leave it empty where an image has fewer captions)')
    captions = [[line for line in image if line.strip()] for image in zip(*(lines for *_, lines in files), strict=True)]
    if not all(captions):
        raise InputError(f'{names(files)}: line {captions.index([]) + 1} is empty; '
                         'expected at least one reference for each image')
    return CaptionSet(names(files), captions, {})


def coco_annotations(path, data, _=None):
    """COCO's annotations. Images without a caption are skipped, since results for them cannot be scored.

    An image_id may be written in another way than the id in the list "images": "000000000139" is 139.
    """
    by_id = {}    # id of an image -> its captions
    named = {}    # id of an image -> (id as it is in the file, file name)
    for index, entry in enumerate(nonempty(path, 'annotations', data['annotations'])):
        place = f'annotations[{index}]'
        by_id.setdefault(str(field(path, place, entry, 'image_id', int, str)), []).append(
            field(path, place, entry, 'caption', str))
    images = data.get('images') or [{'id': one} for one in by_id]
    for index, image in enumerate(nonempty(path, 'images', images)):
        one = field(path, f'images[{index}]', image, 'id', int, str)
        if str(one) in named:
            raise InputError(f'{path}: images[{index}]: id {one!r:.60} is a duplicate; expected each image once')
        named[str(one)] = one, image.get('file_name', str(one))
    by_id = respelled(by_id, named)
    if strangers := by_id.keys() - named.keys():
        raise InputError(f'{path}: has annotations of image_id {min(strangers):.60}, which is not in the list '
                         '"images"; remove them, or download the file again')
    kept = [one for one in named if one in by_id]
    ids = {'cocoid': [named[one][0] for one in kept], 'filename': [named[one][1] for one in kept]}
    return CaptionSet(path, [by_id[one] for one in kept], ids, partly=True)


def respelled(by_id, named):
    """by_id, id -> list of captions, with the ids as they are spelled in named, which are found by their numbers."""
    if by_id.keys() <= named.keys():
        return by_id
    spelled = {}    # number -> the ids that it may stand for
    for one in named:
        spelled.setdefault(coco_number(one), []).append(one)
    found = {}
    for one, captions in by_id.items():
        candidates = [one] if one in named or coco_number(one) is None else spelled.get(coco_number(one), [])
        found.setdefault(candidates[0] if len(candidates) == 1 else one, []).extend(captions)
    return found


def dataset(path, data, split):
    """The images of one split of a dataset.json."""
    entries = [(f'images[{index}]', image) for index, image in enumerate(nonempty(path, 'images', data['images']))]
    splits = [field(path, place, image, 'split', str) for place, image in entries]
    if split not in splits:
        there = ', '.join(f'{name} ({splits.count(name)} images)' for name in dict.fromkeys(splits))
        raise InputError(f"{path}: has no images in split '{split}'; it has {there}; choose one with --split "
                         '(--training reads only train)')
    entries = [entry for entry, name in zip(entries, splits, strict=True) if name == split]
    captions = [[sentence_text(path, f'{place}.sentences[{index}]', sentence) for index, sentence in
                 enumerate(nonempty(path, f'{place}.sentences', field(path, place, image, 'sentences', list)))]
                for place, image in entries]
    ids = {}
    for kind in 'cocoid', 'imgid', 'filename':
        if all(kind in image for _, image in entries):
            ids[kind] = [field(path, place, image, kind, int, str) for place, image in entries]
    return CaptionSet(f'{path} (split {split})', captions, ids)


def pictured(data):
    """A dataset.json without the images that are marked as imagined: of these there is no picture to caption."""
    images = data['images']
    if not isinstance(images, list):
        return data
    return {**data, 'images': [image for image in images if not isinstance(image, dict) or image.get('imagined') is not
                               True]}


def table(path, data, split):
    """A table of captions by the names of pictures; those of one split if it has a column for it."""
    captions, splits, _ = data
    if splits and split not in splits.values():
        raise InputError(f"{path}: has no images in split '{split}'; it has {', '.join(sorted({*splits.values()}))}; "
                         'choose one with --split (--training reads only train)')
    listed = [name for name in captions if not splits or splits.get(name) == split]
    return CaptionSet(f'{path} (split {split})' if splits else path, [captions[name] for name in listed],
                      {'filename': listed})


def sentence_text(path, place, sentence):
    """A sentence as it was written ('raw'), or else its tokens joined by spaces."""
    if isinstance(sentence, dict) and 'raw' in sentence:
        return field(path, place, sentence, 'raw', str)
    tokens = field(path, place, sentence, 'tokens', list)
    if not {str}.issuperset(map(type, tokens)):
        raise InputError(f'{path}: {place}: "tokens" has a value that is not a string; correct that entry')
    return ' '.join(tokens)


def own_references(files):
    """The references inside the first result_struct.json; those in the others must be the same."""
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
        raise InputError(f'{names(files)}: only results were given; name the references as well: '
                         "COCO's annotations, a dataset.json or text files")
    first, *others = found
    for other in others:
        places = match(other, first)
        if any(place is not None and other.captions[place] != captions
               for captions, place in zip(first.captions, places, strict=True)):
            raise InputError(f'{other.path}: its references for an image differ from those in {first.path}; '
                             'name one file of references for all results')
    return first


RESULTS = {'coco results': coco_results, 'result_struct': result_struct}
REFERENCES = {'coco': coco_annotations, 'dataset': dataset, 'table': table}


# ---- matching results with references

def align(results, references, allow_missing=False):
    """The n images that the references and all results have in common, in the order of the references.

    results: a list of CaptionSet. references: a CaptionSet.
    Returns captions, references, ids, notes: for each of the results a list of n captions; n lists of references; n
    ids; and a list of notes on the images that were left out.
    Raises InputError that names an image missing on either side; with allow_missing, only if no image is left. Images
    of COCO's annotations may be missing in the results if all results lack the same ones.
    """
    places = [match(some, references) for some in results]
    covered = {tuple(place is not None for place in found) for found in places}
    may_lack = references.partly and len(covered) == 1    # all results have the same images
    notes, problems = [], []
    for some, found in zip(results, places, strict=True):
        lacking = [index for index, place in enumerate(found) if place is None]
        strangers = sorted(set(range(len(some.captions))) - set(found) - {None})
        if lacking:
            notes.append(f'{some.path}: has no caption for {len(lacking):,} of the {len(found):,} images of '
                         f'{references.path}, such as {ids_of(references)[lacking[0]]!r:.60}')
            problems += [] if may_lack else notes[-1:]
        if strangers:
            notes.append(f'{some.path}: {len(strangers):,} of its {len(some.captions):,} images have no references in '
                         f'{references.path}, such as {ids_of(some)[strangers[0]]!r:.60}')
            problems += notes[-1:]
    if problems and not allow_missing:
        raise InputError(f'{problems[0]}; correct the file, or score only the images in common with --allow_missing')
    kept = [index for index in range(len(references.captions)) if all(found[index] is not None for found in places)]
    if not kept:
        raise InputError(f'{" and ".join(some.path for some in results)}: have no image in common; '
                         'score them separately')
    first = results[0] if results[0].ids else references
    at = places[0] if results[0].ids else range(len(references.captions))
    return ([[some.captions[found[index]][0] for index in kept] for some, found in zip(results, places, strict=True)],
            [references.captions[index] for index in kept], [ids_of(first)[at[index]] for index in kept],
            [f'{note}; these are left out' for note in notes])


def ids_of(captions):
    """What to call its images: by the first kind of id, or by line number from 1."""
    return next(iter(captions.ids.values()), range(1, len(captions.captions) + 1))


def match(results, references):
    """For each image of the references its index in results, or None, by the kind of id that most images share.

    If either is plain text, images are matched by their order. The ids 42 and "42" are the same, and if that matches
    more images and each number occurs once, so are 42, "000000000042" and "COCO_val2014_000000000042.jpg". Raises
    InputError if no image matches.
    """
    if not (results.ids and references.ids):
        here, there = len(results.captions), len(references.captions)
        if here != there:
            raise InputError(f'{results.path}: has captions for {here:,} images, but {references.path} has references '
                             f'for {there:,}; plain text has no ids, so line i must describe image i of the other file')
        return list(range(here))
    best = None
    most = 0
    spellings = [(str, kind, kind) for kind in results.ids]
    spellings += [(number_or_name, kind, 'cocoid') for kind in ('cocoid', 'filename') if kind in results.ids]
    for spelled, kind, other_kind in spellings:
        places = {spelled(one): place for place, one in enumerate(results.ids[kind])}
        wanted = [spelled(one) for one in references.ids.get(other_kind, ())]
        shared = len(places.keys() & set(wanted))
        if shared > most and len(places) == len(results.captions) and len(set(wanted)) == len(wanted):
            best, most = [places.get(one) for one in wanted], shared
    if best is None:
        raise InputError(f'{results.path}: shares no image with {references.path}: it has ids such as '
                         f'{ids_of(results)[0]!r:.60}, and the references have ids such as '
                         f'{ids_of(references)[0]!r:.60}; name the references for these images')
    return best


def coco_number(one):
    """The number of an image of COCO as an int, from 42, "42", "000000000042" or "COCO_val2014_000000000042".

    A file name of such a form gives it, too; anything else gives None.
    """
    if type(one) is not str:
        return one if type(one) is int else None    # not a bool
    found = COCO_ID.fullmatch(one)
    return found and int(found[1] or found[2])


def number_or_name(one):
    """coco_number as a str, or the id itself as a str if it has none."""
    number = coco_number(one)
    return str(one if number is None else number)


# ---- checks

def nonempty(path, place, value):
    """Return value if it is a list with at least one entry; otherwise raise InputError."""
    where = f'{path}: {place or "its list"}'
    if not isinstance(value, list):
        raise InputError(f'{where} is {described(value)}; expected a list; create the file again')
    if not value:
        raise InputError(f'{where} is empty; expected at least one entry')
    return value


def field(path, place, entry, key, *types):
    """Return entry[key] if entry has that key and the value is of one of these types; otherwise raise InputError."""
    wanted = ' or '.join(TYPES[kind] for kind in types)
    if type(entry) is not dict or key not in entry:
        found = f'has no "{key}"' if type(entry) is dict else f'is {described(entry)}'
        raise InputError(f'{path}: {place} {found}; expected an object whose "{key}" is {wanted}; correct that entry')
    if type(entry[key]) not in types:      # not isinstance: a bool does not count as an int here
        raise InputError(f'{path}: {place}: "{key}" is {described(entry[key])}; expected {wanted}; correct that entry')
    return entry[key]


def check_unique(path, name, ids):
    """Raise InputError if an id occurs twice. The ids 42 and "42" are the same."""
    first = {}
    for index, one in enumerate(ids):
        if (before := first.setdefault(str(one), index)) != index:
            raise InputError(f'{path}: {name} {one!r:.60} is in the entries {before} and {index}; expected each image '
                             'once; remove one of them')


def described(value):
    """A value from JSON, for a message: what kind it is if it has contents of its own, otherwise its start."""
    return TYPES[type(value)] if isinstance(value, (dict, list)) else json.dumps(value)[:60]


TYPES = {dict: 'an object', list: 'a list', str: 'a string', int: 'an integer'}

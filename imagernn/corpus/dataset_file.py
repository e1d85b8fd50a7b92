"""dataset.json: read, checked in full, and held as an ImageStore.

Knows what must be true of every entry. Knows nothing of features, splits that are asked for, or models.
"""

from imagernn.corpus.names import SPLITS
from imagernn.corpus.token_store import build_store, fingerprint, load_store, save_store
from imagernn.errors import InputError
from imagernn.formats.json_files import contents_of, json_type, parsed

STORE_NAME = 'dataset.cache.npz'    # beside dataset.json, which may be changed or replaced at any time
STORE_FROM = 16 << 20               # bytes of dataset.json: a smaller one is read each time, in about a second
MAX_NESTING = 100                   # of fields that are kept as they are


def read_dataset(path):
    """dataset.json as an ImageStore. That of a large file is kept in a file beside it, and taken from there next time.

    Raises InputError naming the file and the place where an entry is not as it should be.
    """
    contents = contents_of(path)
    if len(contents) < STORE_FROM:
        return build_store(_checked_images(path, parsed(path, contents)))
    stored, key = path.with_name(STORE_NAME), fingerprint(contents)
    store = load_store(stored, key)
    if store is None:
        store = build_store(_checked_images(path, parsed(path, contents)))
        save_store(stored, store, key)
    return store


def _checked_images(path, data):
    """The list of images; all of each entry is checked, except whether its imgid is within the feature file.

    An empty token list is allowed, because a caption whose words are all rare becomes empty as well. 'raw', 'filepath'
    and 'imagined' are optional; other fields are kept as they are.
    """
    images = data.get('images')
    if not isinstance(images, list):
        found = ascii(', '.join(sorted(data)))[1:-1] or 'nothing'
        raise InputError(f'{path}: there is no list "images" at the top level; found: {found:.300}. '
                         'Expected {"images": [{"filename", "imgid", "split", "sentences"}, ...]}.')
    if not images:
        raise InputError(f'{path}: the list "images" is empty; expected at least one image.')
    first_with = {}  # imgid -> index of the image that has it
    for index, image in enumerate(images):
        problem = _image_problem(image)
        if problem is None and image['imgid'] in first_with:
            first = first_with[image['imgid']]
            problem = (f"imgid {image['imgid']!s:.60} is that of {place_of(first, images[first])} too; "
                       'expected each imgid once')
        if problem is not None:
            raise InputError(f'{path}: {place_of(index, image)}: {problem}. Correct that entry or remove it.')
        first_with[image['imgid']] = index
    return images


def _image_problem(image):
    """What is wrong with an image's entry, or None."""
    if not isinstance(image, dict):
        return f'is {json_type(image)}; expected an object'
    missing = [key for key in ('filename', 'imgid', 'split', 'sentences') if key not in image]
    if missing:
        return f"has no '{missing[0]}'; expected filename, imgid, split and sentences"
    for key in ('filename', 'filepath'):
        if not isinstance(image.get(key, ''), str):
            return f"'{key}' is {json_type(image[key])}; expected a string"
    if problem := imagined_problem(image):
        return problem
    if type(image['imgid']) is not int:  # bool is an int to isinstance
        return f"imgid is {image['imgid']!r:.60}; expected an integer, the image's row in the feature file"
    if image['imgid'] < 0:
        return f"imgid is {image['imgid']!s:.60}; expected 0 or more, the image's row in the feature file"
    if image['split'] not in SPLITS:
        return f"split is {image['split']!r:.60}; expected one of {', '.join(SPLITS)}"
    if not isinstance(image['sentences'], list):
        return f"'sentences' is {json_type(image['sentences'])}; expected a list"
    if not image['sentences']:
        return 'has no sentences; expected at least one'
    if deep := _too_deep(image, 'sentences'):
        return f'{deep!r:.60} is nested more than {MAX_NESTING} deep'
    for number, sentence in enumerate(image['sentences']):
        problem = _sentence_problem(sentence)
        if problem is not None:
            return f'sentence {number} {problem}'
    return None


def imagined_problem(image):
    """What is wrong with the mark of an image that has features imagined from words and no picture, or None."""
    if type(image.get('imagined', False)) is not bool:
        return f"'imagined' is {image['imagined']!r:.60}; expected true or false"
    return None


def _sentence_problem(sentence):
    if not isinstance(sentence, dict):
        return f'is {json_type(sentence)}; expected an object with a list "tokens"'
    if 'tokens' not in sentence:
        return "has no 'tokens'; expected a list of strings"
    tokens = sentence['tokens']
    if not isinstance(tokens, list):
        return f"'tokens' is {json_type(tokens)}; expected a list of strings"
    if not {str}.issuperset(map(type, tokens)):
        number, token = next((n, t) for n, t in enumerate(tokens) if type(t) is not str)
        return f'token {number} is {json_type(token)}, {token!r:.60}; expected a string'
    if deep := _too_deep(sentence, 'tokens'):
        return f'{deep!r:.60} is nested more than {MAX_NESTING} deep'
    return None


def _too_deep(fields, besides):
    """The first key whose value is so nested that to write or read it again may fail; or None."""
    return next((key for key, value in fields.items()
                 if type(value) in (dict, list) and key != besides and _deeper(value, MAX_NESTING)), None)


def _deeper(value, levels):
    return type(value) in (dict, list) and (levels == 0 or any(
        _deeper(inner, levels - 1) for inner in (value.values() if type(value) is dict else value)))


def place_of(index, image):
    """An entry in words, for messages."""
    name = image.get('filename') if isinstance(image, dict) else None
    return f'image {index}' + (f' ({name!r:.100})' if isinstance(name, str) else '')

"""Captions of images -> a dataset.json in NeuralTalk's layout.

Knows the layout of the file, what is lost when captions become tokens, and how to draw a split. Knows none of the
formats in which data sets are published: data/prepare_*.py read those.
"""

import hashlib
from pathlib import Path

from imagernn.corpus.names import SPLITS
from imagernn.corpus.tokenize import TOKENIZERS, notes_on_letters, tokenize
from imagernn.errors import InputError
from imagernn.formats.json_files import write_json


def add_tokenizer_flag(group):
    """--tokenizer, for scripts that make a data set."""
    group.add_argument('--tokenizer', choices=tuple(TOKENIZERS), default='karpathy',
        help='How captions are split into words. karpathy, for English, gives the tokens of Karpathy\'s published data '
             'sets: lower case, no apostrophes, everything outside a-z, 0-9, # and & separates words. words, for other '
             'languages, keeps letters and digits of every script; each Chinese or Japanese character becomes a word. '
             'ptb splits as the COCO evaluation does ("dog \'s"). none splits at white space: use it for text that is '
             'divided into words already (default: %(default)s).')


def make_dataset(name, images, tokenizer='karpathy', first_imgid=0, first_sentid=0):
    """Build the contents of a dataset.json from a pair (fields, captions) for each image.

    fields: a dict with filename, split and anything else to keep; captions: a list of strings. tokenizer: a key of
    TOKENIZERS. Images and sentences are numbered in the given order, with imgid from first_imgid and sentid from
    first_sentid. Captions that have no words are left out, and so are images that have no captions.
    Returns the dict, and a list of notes on what was left out or lost.
    Raises InputError if the tokenizer loses most letters of all captions, as karpathy does with Chinese, and if no
    caption has a word.
    """
    images = [(fields, list(map(str.strip, captions))) for fields, captions in images]
    raws = [raw for _, captions in images for raw in captions]
    all_tokens = tokenize(raws, tokenizer)
    notes = notes_on_letters(raws, all_tokens, tokenizer)
    tokens_of = iter(all_tokens)
    entries = []
    num_sentences = num_wordless = num_bare = 0
    for fields, captions in images:
        imgid = first_imgid + len(entries)
        sentences = []
        for raw in captions:
            if tokens := next(tokens_of):
                sentid = first_sentid + num_sentences + len(sentences)
                sentences.append({'tokens': tokens, 'raw': raw, 'imgid': imgid, 'sentid': sentid})
        num_wordless += len(captions) - len(sentences)
        if not sentences:
            num_bare += 1
            continue
        num_sentences += len(sentences)
        entries.append({**fields, 'imgid': imgid, 'sentids': [s['sentid'] for s in sentences], 'sentences': sentences})
    if not entries:
        raise InputError(f'none of the {num_wordless:,} captions has a word; name the file with the captions')
    notes += [f'left out: {count} {what}' for count, what in
              ((num_wordless, 'captions without a word'), (num_bare, 'images without a caption')) if count]
    return {'dataset': name, 'images': entries}, notes


def draw_splits(keys, val, test, seed):
    """Draw a split: a dict of key -> 'train', 'val' or 'test', in the order of keys.

    Sorted by the SHA-256 digest of "<seed> <key>", the first `val` keys are val, the next `test` are test, and the rest
    are train. So it does not depend on the order of keys. There must be more of them than val + test.
    """
    order = sorted(keys, key=lambda key: hashlib.sha256(f'{seed} {key}'.encode()).digest())
    held_out = dict.fromkeys(order[:val], 'val') | dict.fromkeys(order[val:val + test], 'test')
    return {key: held_out.get(key, 'train') for key in keys}


def write_dataset(folder, dataset):
    """Write folder/dataset.json, whole or not at all. Returns a line that says whether it replaced an older one.

    Raises InputError if it cannot be written.
    """
    if Path(folder).suffix.lower() == '.json' and not Path(folder).is_dir():
        raise InputError(f'{folder}: is the name of a file; name the folder for dataset.json, such as '
                         f'{Path(folder).parent}')
    path = Path(folder) / 'dataset.json'
    done = f'replaced {path}' if path.exists() else f'wrote {path}'
    write_json(path, dataset)
    return done


def summary(dataset):
    """The lines of a table with the numbers of images, sentences and words in each split of a dataset.json's dict."""
    lines = [f"{'split':8}{'images':>10}{'sentences':>12}{'words':>12}"]
    for split in SPLITS:
        images = [image for image in dataset['images'] if image['split'] == split]
        sentences = [sentence for image in images for sentence in image['sentences']]
        if images:
            words = sum(len(sentence['tokens']) for sentence in sentences)
            lines.append(f'{split:8}{len(images):>10,}{len(sentences):>12,}{words:>12,}')
    distinct = {word for image in dataset['images'] for s in image['sentences'] for word in s['tokens']}
    return [*lines, f'{len(distinct):,} different words']

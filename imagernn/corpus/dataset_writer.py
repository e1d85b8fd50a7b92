"""Captions of images -> a dataset.json in NeuralTalk's layout.

Knows the layout of the file, and tokenizes captions as NeuralTalk's data sets were. Knows none of the formats in which
data sets are published: data/prepare_*.py read those.
"""

from pathlib import Path

from imagernn.corpus.dataset_file import SPLITS
from imagernn.corpus.tokenize import karpathy_tokenize
from imagernn.formats.json_files import write_json


def make_dataset(name, images):
    """Build the contents of a dataset.json from a pair (fields, captions) for each image.

    fields: a dict with filename, split and anything else to keep; captions: a list of strings. imgid and sentid count
    from 0 in the given order. Captions without a word are left out, and so are images without captions.
    Returns the dict, and a list of notes on what was left out.
    """
    entries = []
    num_sentences = num_wordless = num_bare = 0
    for fields, captions in images:
        imgid = len(entries)
        sentences = []
        for raw in map(str.strip, captions):
            tokens = karpathy_tokenize(raw)
            if tokens:
                sentid = num_sentences + len(sentences)
                sentences.append({'tokens': tokens, 'raw': raw, 'imgid': imgid, 'sentid': sentid})
        num_wordless += len(captions) - len(sentences)
        if not sentences:
            num_bare += 1
            continue
        num_sentences += len(sentences)
        entries.append({**fields, 'imgid': imgid, 'sentids': [s['sentid'] for s in sentences], 'sentences': sentences})
    notes = [f'left out: {count} {what}' for count, what in
             ((num_wordless, 'captions without a word'), (num_bare, 'images without a caption')) if count]
    return {'dataset': name, 'images': entries}, notes


def write_dataset(folder, dataset):
    """Write folder/dataset.json, whole or not at all. Returns a line that says whether it replaced an older one.

    Raises InputError if it cannot be written.
    """
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

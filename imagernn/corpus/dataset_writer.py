"""Captions as they come -> a dataset.json in NeuralTalk's layout.

Knows how the file is laid out and written; metrics/ptb.py knows how a caption becomes tokens. Knows no source's own
format: those are read by data/prepare_*.py.
"""

from pathlib import Path

from imagernn.corpus.captioned_images import SPLITS
from imagernn.corpus.tokenize import karpathy_tokenize as tokenize
from imagernn.formats.json_files import write_json


def make_dataset(name, images):
    """(fields, captions) of each image -> the dict of a dataset.json, and a list of notes on what was left out.

    fields: a dict with filename, split and whatever else is to be kept; captions: a list of strings. imgid and sentid
    count up from 0 in the order given. A caption without a word is left out, and an image without captions.
    """
    entries, sentid, wordless, bare = [], 0, 0, 0
    for fields, captions in images:
        imgid, sentences = len(entries), []
        for raw in map(str.strip, captions):
            tokens = tokenize(raw)
            if tokens:
                sentences.append({'tokens': tokens, 'raw': raw, 'imgid': imgid, 'sentid': sentid + len(sentences)})
        wordless += len(captions) - len(sentences)
        if not sentences:
            bare += 1
            continue
        sentid += len(sentences)
        entries.append({**fields, 'imgid': imgid, 'sentids': [s['sentid'] for s in sentences], 'sentences': sentences})
    notes = [f'left out: {count} {what}' for count, what in
             ((wordless, 'captions without a word'), (bare, 'images without a caption')) if count]
    return {'dataset': name, 'images': entries}, notes


def write_dataset(folder, dataset):
    """Write folder/dataset.json, all or nothing, and return the line that says so.

    Raises InputError where it cannot be written. A dataset.json that was there is replaced, and the line tells.
    """
    path = Path(folder) / 'dataset.json'
    done = f'replaced {path}' if path.exists() else f'wrote {path}'
    write_json(path, dataset)
    return done


def summary(dataset):
    """The lines of a table of images, sentences and words in each split of a dataset.json's dict."""
    lines = [f"{'split':8}{'images':>10}{'sentences':>12}{'words':>12}"]
    for split in SPLITS:
        images = [image for image in dataset['images'] if image['split'] == split]
        sentences = [sentence for image in images for sentence in image['sentences']]
        if images:
            words = sum(len(sentence['tokens']) for sentence in sentences)
            lines.append(f'{split:8}{len(images):>10,}{len(sentences):>12,}{words:>12,}')
    distinct = {word for image in dataset['images'] for s in image['sentences'] for word in s['tokens']}
    return [*lines, f'{len(distinct):,} different words']

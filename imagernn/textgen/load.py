"""Opening a checkpoint of a language model, and the text of its run."""

import hashlib
from pathlib import Path

from imagernn.corpus.text import encode_texts, texts_of
from imagernn.corpus.vocab import check_vocab
from imagernn.errors import InputError
from imagernn.runs.checkpoint_file import load_checkpoint
from imagernn.textgen.flags import split_shares
from imagernn.textgen.model import LAYERS, check_model, sizes_of
from imagernn.textgen.names import LEVELS

KIND = 'textgen'


def load_text_model(path, dtype=None):
    """A checkpoint whose model and vocabulary were checked, its arrays in dtype (default: as they are).

    InputError names the file and what is wrong with it.
    """
    checkpoint = load_checkpoint(path, KIND)
    params, model = checkpoint['params'], checkpoint['model']
    try:
        check_vocab(checkpoint)
        if params.get('layer') not in LAYERS or params.get('level') not in LEVELS:
            raise ValueError(f'its layer is {params.get("layer")!r:.60} and its level {params.get("level")!r:.60}')
        if not isinstance(params.get('lines'), bool):
            raise ValueError(f'its lines is {params.get("lines")!r:.60}')
        try:
            sizes_of(params)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise ValueError(f'its hidden_sizes are {params.get("hidden_sizes")!r:.60}') from None
        if not isinstance(params.get('embedding_size'), int):
            raise ValueError(f'its embedding_size is {params.get("embedding_size")!r:.60}')
        check_model(model, params, len(checkpoint['ixtoword']))
    except (InputError, ValueError) as error:
        raise InputError(f'{path}: {error}; use another copy of the checkpoint') from None
    checkpoint['model'] = {name: w.astype(dtype or w.dtype) for name, w in model.items()}
    return checkpoint


def text_of(params, ixtoword=None):
    """The Text of a run with these flags, with its vocabulary or that of a checkpoint. InputError for a bad file."""
    files = {split: params[split] for split in ('val', 'test') if params[split]}
    texts = texts_of(params['text'], split_shares(params), files)
    return encode_texts(texts, params['level'], params['lines'], params['word_count_threshold'], ixtoword)


def fingerprint_of(text):
    """What tells whether a text has changed: the entry 'fingerprint' of a checkpoint."""
    digest = hashlib.blake2b(b''.join(tokens.tobytes() for tokens, _ in text.splits.values()), digest_size=16)
    return {'text': digest.hexdigest()}


def trained_text(path, checkpoint, elsewhere=''):
    """The Text that the checkpoint at path was trained on. elsewhere: where its file is now, unless it is still there.

    InputError where it is absent or has changed since.
    """
    params = checkpoint['params']
    if not all(isinstance(params.get(name), str) for name in ('text', 'val', 'test', 'split_shares')):
        raise InputError(f'{path}: does not say which text it was trained on; name one with --score')
    params = {**params, 'text': elsewhere or params['text']}
    for name in ('text', 'val', 'test'):
        if params[name] and not Path(params[name]).is_file():
            advice = 'say with --text where it is' if name == 'text' else 'put it back, or name a text with --score'
            raise InputError(f'{params[name]}: is not a file here, but {path} was trained with it; {advice}')
    text = text_of(params, checkpoint['ixtoword'])
    if checkpoint.get('fingerprint') != fingerprint_of(text):
        raise InputError(f'{params["text"]}: is not as it was when {path} was trained on it; restore it, or name a '
                         'text with --score')
    return text

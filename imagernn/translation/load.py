"""Opening a checkpoint of a translation model."""

from imagernn.corpus.vocab import check_vocab
from imagernn.errors import InputError
from imagernn.runs.checkpoint_file import load_checkpoint
from imagernn.translation.model import check_model, sizes_of
from imagernn.translation.names import LAYER_NAMES, SOURCE_ORDERS, TOKENIZER_NAMES
from imagernn.translation.text import UNKNOWN_INDEX

KIND = 'translation'
CHOICES = {'layer': LAYER_NAMES, 'source_order': SOURCE_ORDERS, 'tokenizer': TOKENIZER_NAMES}
KINDS_OF_PARAMS = {'attention': bool, 'lower_case': bool, 'embedding_size': int, 'source': str, 'target': str}


def load_translator(path, dtype=None):
    """A checkpoint whose model and vocabularies were checked, its arrays in dtype (default: as they are).

    Its source_ixtoword, index -> word, is made from source_words, the list that the file has. InputError names the file
    and what is wrong with it.
    """
    checkpoint = load_checkpoint(path, KIND)
    params, model = checkpoint['params'], checkpoint['model']
    try:
        check_vocab(checkpoint)
        words = checkpoint.get('source_words')
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError('its source_words are no list of words')
        if min(len(words), len(checkpoint['ixtoword'])) <= UNKNOWN_INDEX:
            raise ValueError('its vocabularies have no word')
        _check_params(params)
        check_model(model, params, len(words), len(checkpoint['ixtoword']))
    except (InputError, ValueError) as error:
        raise InputError(f'{path}: {error}; use another copy of the checkpoint') from None
    checkpoint['source_ixtoword'] = dict(enumerate(words))
    checkpoint['model'] = {name: w.astype(dtype or w.dtype) for name, w in model.items()}
    return checkpoint


def _check_params(params):
    """ValueError unless params has what the model reads, of the right kind."""
    for name, known in CHOICES.items():
        if params.get(name) not in known:
            raise ValueError(f'its {name} is {params.get(name)!r:.60}, expected one of {", ".join(known)}')
    for name, kind in KINDS_OF_PARAMS.items():
        if type(params.get(name)) is not kind:
            raise ValueError(f'its {name} is {params.get(name)!r:.60}')
    try:
        sizes_of(params)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError(f'its hidden_sizes are {params.get("hidden_sizes")!r:.60}') from None

"""Opening a checkpoint of a language model."""

from imagernn.corpus.vocab import check_vocab
from imagernn.errors import InputError
from imagernn.runs.checkpoint_file import load_checkpoint
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

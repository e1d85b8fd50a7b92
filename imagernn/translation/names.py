"""The names that flags offer: for the flags as well, and so without numpy."""

LAYER_NAMES = ('lstm', 'gru')    # the keys of model.LAYERS
SOURCE_ORDERS = ('reversed', 'forward')
TOKENIZER_NAMES = ('none', 'words', 'sacremoses')    # the keys of text.TOKENIZERS

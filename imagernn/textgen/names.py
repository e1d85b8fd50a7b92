"""The names of levels and layers: for the flags as well, and so without numpy."""

LEVELS = ('char', 'word')
LAYER_NAMES = ('lstm', 'gru', 'rnn')    # the keys of model.LAYERS

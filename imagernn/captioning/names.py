"""The names of the generators and of their sizes: for the flags as well, and so without numpy."""

GENERATOR_NAMES = ('lstm', 'rnn', 'attention')    # the keys of generators.GENERATORS
SIZES = ('image_encoding_size', 'word_encoding_size', 'hidden_size')

"""The names of the rankers, encoders, similarities and losses: for the flags as well, and so without numpy."""

RANKERS = ('sentences', 'regions')
ENCODERS = ('gru', 'lstm', 'rnn')              # the keys of model.ENCODERS
SIMILARITIES = ('cosine', 'dot')
POOLS = ('mean', 'sum')
LOSSES = ('infonce', 'hinge', 'hardest')       # the keys of losses.LOSSES
SIZES = ('word_encoding_size', 'hidden_size')

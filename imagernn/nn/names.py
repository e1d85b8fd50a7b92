"""The names of the update rules and of the ways to clip: for the flags as well, and so without numpy."""

SOLVERS = ('vanilla', 'adagrad', 'adadelta', 'rmsprop', 'adam')
CLIPS = ('value', 'norm')

"""The names of update rules, ways to clip and schedules: for the flags as well, and so without numpy."""

SOLVERS = ('vanilla', 'adagrad', 'adadelta', 'rmsprop', 'adam')
CLIPS = ('value', 'norm')
SCHEDULES = ('halving', 'cosine')    # the keys of schedules.BY_FLAGS

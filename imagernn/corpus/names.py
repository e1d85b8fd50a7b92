"""The names of the splits: for the scripts that write a dataset.json as well, and so without numpy."""

SPLITS = ('train', 'val', 'test', 'restval')

"""Search over the flags of a trainer: many ordinary runs, each known by its flags and its status file alone."""

"""What a training run is."""

import copy

# ---- going back

MOST_ROLLBACKS = 10    # the learning rate is then a thousandth
TRAINED = ('it', 'epoch', 'smooth_train_ppl2', 'trend')    # what a step changes, besides the model, solver and rng


def good_state(run, solver, rng):
    """A copy of all that a step changes, to go back to."""
    return copy.deepcopy({**{key: run[key] for key in TRAINED}, 'model': run['model'], 'solver': solver.state_dict(),
                          'rng_state': rng.bit_generator.state})


def roll_back(run, solver, rng):
    """Back to run['good'], with one more rollback, each of which halves the learning rate.

    KeyError, TypeError, ValueError or InputError where it is not what good_state gave of such a run.
    """
    good = run['good']
    model = {name: good['model'][name].astype(w.dtype) for name, w in run['model'].items()}
    if any(model[name].shape != w.shape for name, w in run['model'].items()):
        raise ValueError('the good state is of another model')
    solver.load_state_dict(good['solver'], model)
    rng.bit_generator.state = good['rng_state']
    run.update(copy.deepcopy({key: good[key] for key in TRAINED}), model=model, rollbacks=run['rollbacks'] + 1)

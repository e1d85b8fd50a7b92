"""RunState: what a training run is at one moment, as a checkpoint holds it; new, resumed, or rolled back.

Knows the entries of a checkpoint that any task needs to resume, and checks them. Knows nothing of files or of what the
parameters mean.
"""

import copy
import dataclasses
import math
from typing import NamedTuple

import numpy as np

from imagernn.errors import InputError
from imagernn.nn.solver import OtherSolver, average_weights

MOST_ROLLBACKS = 10    # the learning rate is then a thousandth
NOT_YET = -1.          # in files, as in NeuralTalk: a validation score before the first evaluation
NEW_RUN = 'start a new run from its weights with --init_model_from'


class Score(NamedTuple):
    """What a run is judged by on its validation split."""

    name: str                 # in messages: perplexity, accuracy, recall sum
    key: str                  # small letters, in files: of val_<key>, top_val_<key>
    train_key: str            # in a batch's stats and in files: of train_<key>, smooth_train_<key>
    higher_is_better: bool
    digits: int               # after the point, in messages and in the names of checkpoints

    def better(self, one, other):
        """Whether one value is better than the other. Any number is better than None; NaN is never better."""
        if math.isnan(one):
            return False
        return other is None or (one > other if self.higher_is_better else one < other)

    def text(self, value):
        return f'{value:.{self.digits}f}'

    def in_file_name(self, value):
        """How the name of a best checkpoint shows its score. As in NeuralTalk: a perplexity stands alone."""
        return self.text(value) if self == PERPLEXITY else self.key + self.text(value)


PERPLEXITY = Score('perplexity', 'ppl2', 'ppl2', False, 2)
CIDER = Score('CIDEr', 'cider', 'reward', True, 4)
RECALL_SUM = Score('recall sum', 'rsum', 'loss', True, 1)    # of R@1, 5 and 10 both ways, in percent
NATS = Score('nats', 'nats', 'nats', False, 4)    # of a character or word: the mean of -ln p
ACCURACY = Score('accuracy', 'accuracy', 'accuracy', True, 4)


@dataclasses.dataclass
class RunState:
    """What changes during a run. Scores are None before the first one is known."""

    model: dict                         # parameter name -> array
    score: Score
    extra: dict                         # further entries of every checkpoint, the task's own: kind, vocabulary, …
    it: int = 0                         # updates made
    epoch: float = 0.
    history: list = dataclasses.field(default_factory=list)    # reports, as in the status file
    smooth_train: float | None = None   # moving mean of the batches' own score
    val: float | None = None            # the last validation score
    best: float | None = None
    cost0: float | None = None          # of the first batch
    best_checkpoint: str | None = None
    trend: dict = dataclasses.field(default_factory=dict)      # memory of divergence.perplexity_rose
    rollbacks: int = 0                  # each halves the learning rate
    average: dict | None = None         # the moving average of the model's arrays; kept only where that is wanted
    good: dict | None = None            # to roll back to; kept only where that is wanted

    @property
    def evaluated_model(self):
        """What is evaluated, and is the model of checkpoints: the average of the weights where there is one."""
        return self.model if self.average is None else self.average

    def update_average(self, decay, workers=None):
        """Let the average follow the model after a step, in place.

        Its decay at update t, from 0, is (1 + t) / (10 + t) as long as that is less than decay, so that the first
        weights do not count for long. (As in TensorFlow's ExponentialMovingAverage.)
        """
        average_weights(self.average, self.model, min(decay, (1 + self.it) / (10 + self.it)), workers)

    def scores(self):
        """The scores under their names in files."""
        return {f'smooth_train_{self.score.train_key}': self.smooth_train,
                f'val_{self.score.key}': NOT_YET if self.val is None else self.val}

    def entries(self):
        """The entries of a checkpoint, but for those of the solver and the random stream.

        Its model is the one to use. Where that is the average of the weights, raw_model is the one that trains.
        """
        val, best = (NOT_YET if value is None else value for value in (self.val, self.best))
        good = self.good if self.good and self.good['it'] != self.it else None    # else this is the good state
        raw = {} if self.average is None else {'raw_model': self.model}
        return {**self.extra, 'model': self.evaluated_model, **raw, 'it': self.it, 'epoch': self.epoch,
                'history': self.history, **self.scores(), f'top_val_{self.score.key}': best, self.score.name: val,
                'cost0': self.cost0, 'best_checkpoint': self.best_checkpoint, 'trend': self.trend,
                'rollbacks': self.rollbacks, 'good': good}

    def keep_good(self, solver, rng):
        """Copy all that a step changes, to roll back to it."""
        average = {} if self.average is None else {'average': self.average}
        self.good = copy.deepcopy({
            'it': self.it, 'epoch': self.epoch, f'smooth_train_{self.score.train_key}': self.smooth_train,
            'trend': self.trend, 'model': self.model, **average, 'solver': solver.state_dict(),
            'rng_state': rng.bit_generator.state})

    def keep_good_where(self, on_divergence, solver, rng):
        """At the start of a run: keep a good state if on_divergence is 'rollback', and none if it is 'stop'."""
        if on_divergence == 'stop':
            self.good = None
        elif not self.good:
            self.keep_good(solver, rng)

    def keep_average_where(self, decay):
        """At the start of a run: keep an average of the weights, the one it has or a new one, if decay is above 0."""
        if not decay:
            self.average = None
        elif self.average is None:
            self.average = {name: w.copy() for name, w in self.model.items()}

    def forget_scores(self):
        """Look for the best score again: the data are others, so scores before and after cannot be compared."""
        self.best, self.best_checkpoint, self.trend = None, None, {}

    def roll_back(self, solver, rng):
        """Return to the good state, and count it.

        KeyError, TypeError or ValueError where it is not what keep_good kept of such a run.
        """
        good = self.good
        model, average = _as_model(good['model'], self.model), None
        if self.average is not None:    # a good state of before the run kept an average has none
            average = _as_model(good.get('average') or model, self.model)
        solver.load_state_dict(good['solver'], model)
        rng.bit_generator.state = good['rng_state']
        self.model, self.average, self.it, self.epoch = model, average, good['it'], good['epoch']
        self.smooth_train = good[f'smooth_train_{self.score.train_key}']
        self.trend = copy.deepcopy(good['trend'])
        self.rollbacks += 1


def resumed(path, checkpoint, model, score, extra, solver, rng, otherwise=NEW_RUN):
    """The RunState that the checkpoint at path left, with this model; solver and rng continue from there, too.

    InputError where the checkpoint does not hold what is needed: see require_resumable, also for otherwise.
    """
    state = RunState(model, score, extra)
    if checkpoint.get('raw_model') is not None:    # see RunState.entries
        state.model, state.average = _as_model(checkpoint['raw_model'], model), model
    for name in ('it', 'epoch', 'history', 'cost0', 'best_checkpoint'):
        setattr(state, name, checkpoint[name])
    state.smooth_train = checkpoint[f'smooth_train_{score.train_key}']
    state.val, state.best = (None if (value := checkpoint[key]) < 0 else value
                             for key in (f'val_{score.key}', f'top_val_{score.key}'))
    # checkpoints of early versions do not have these
    state.trend = checkpoint.get('trend', {})
    state.rollbacks = checkpoint.get('rollbacks', 0)
    state.good = checkpoint.get('good')
    try:
        solver.load_state_dict(checkpoint['solver'], state.model)
        rng.bit_generator.state = checkpoint['rng_state']
        if state.good:    # try whether it can be rolled back to
            dataclasses.replace(state).roll_back(copy.copy(solver), np.random.default_rng())
    except OtherSolver as error:
        raise InputError(f'{path}: {error}; leave the flags of the solver out, or {otherwise}') from None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f'{path}: its solver or random state is damaged ({error!r}); '
                         'use another checkpoint') from None
    return state


def require_resumable(path, checkpoint, score, otherwise=NEW_RUN):
    """InputError unless the checkpoint holds valid values of all that a run needs to resume.

    otherwise: what to do with a checkpoint that does not.
    """
    number, perhaps = (int, float), (int, float, type(None))
    trained = {'solver': dict, 'rng_state': dict, 'it': int, 'epoch': number,
               f'smooth_train_{score.train_key}': perhaps}
    kinds = {**trained, 'history': list, f'val_{score.key}': number, f'top_val_{score.key}': number, 'cost0': perhaps,
             'best_checkpoint': (str, type(None))}
    wrong = [key for key, kind in kinds.items() if not _is(checkpoint.get(key), kind)]
    good = checkpoint.get('good')
    wrong += [f'good {key}' for key, kind in (trained if good is not None else {}).items()
              if not isinstance(good, dict) or not _is(good.get(key), kind)]
    trends = [checkpoint.get('trend', {}), good.get('trend', {}) if isinstance(good, dict) else {}]
    if not all(isinstance(trend, dict) and all(_is(value, number) for value in trend.values()) for trend in trends):
        wrong.append('trend')
    wrong += [name for name, arrays in (('raw_model', checkpoint.get('raw_model')),
                                        ('good average', good.get('average') if isinstance(good, dict) else None))
              if arrays is not None and not _fits(arrays, checkpoint['model'])]
    rollbacks = checkpoint.get('rollbacks', 0)
    if not isinstance(rollbacks, int) or not 0 <= rollbacks <= 1000:
        wrong.append('rollbacks')
    if wrong or checkpoint['it'] < 0:
        raise InputError(f'{path}: cannot be resumed, because it holds no valid {", ".join(wrong) or "it"}; '
                         f'{otherwise}')


def _fits(arrays, model):
    """Whether arrays, read from a file, are finite floats with the names and shapes of the model's."""
    return (isinstance(arrays, dict) and arrays.keys() == model.keys()
            and all(isinstance(array, np.ndarray) and array.dtype.kind == 'f' and array.shape == model[name].shape
                    and np.isfinite(array).all() for name, array in arrays.items()))


def _as_model(arrays, model):
    """A copy of arrays in the order and dtypes of model. ValueError where they are those of another model."""
    found = {name: arrays[name].astype(w.dtype) for name, w in model.items()}
    if any(found[name].shape != w.shape for name, w in model.items()):
        raise ValueError('the arrays are those of another model')
    return found


def _is(value, kind):
    """Whether value is of this kind, and no whole number so large that no float can hold it."""
    return isinstance(value, kind) and not (isinstance(value, int) and abs(value) >> 63)

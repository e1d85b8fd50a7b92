"""One training run of any model: its names, signals, checkpoints, divergence, status and ending.

A trainer's loop shows the training alone. Knows nothing of images, words or networks.

    with Run(state, solver, rng, params, iters_per_epoch, learning_rate_at) as run:
        for _ in run.iterations():
            cost, grads, stats = …                   # of one batch
            if run.passes(cost, grads, stats):       # else the run rolls back or aborts
                run.update(grads, workers)           # solver.step with the learning rate of this epoch
            if run.evaluates():
                run.evaluated(…)                     # the score of state.evaluated_model on val
                run.sampled(…)                       # where a model writes: a text that it wrote
    return run.exit_code                             # 0; 1: aborted; 130, 143: stopped by a signal
"""

import signal
import sys
import time
from contextlib import ExitStack
from shlex import quote

from tqdm import tqdm

from imagernn.errors import InputError, command, shown
from imagernn.nn.blas import cores
from imagernn.runs.checkpoints import Checkpoints, NoCheckpoints, claimed_names
from imagernn.runs.divergence import cost_not_finite, state_not_finite
from imagernn.runs.names import status_path
from imagernn.runs.profile import Profile
from imagernn.runs.ranks import world
from imagernn.runs.signals import stop_signals
from imagernn.runs.state import MOST_ROLLBACKS
from imagernn.runs.status import NoStatusFile, StatusFile
from imagernn.runs.terminal import say, warn

STARTED = time.perf_counter()
MOST_SAMPLE = 1000    # characters of a text that the model wrote: reports stay small


class Run:
    """A context manager around a trainer's loop.

    state: a RunState, changed in place. params: the flags of runs.flags, besides dataset, max_epochs and eval_period.
    iters_per_epoch: updates per epoch. learning_rate_at(epoch) -> the learning rate. checks: those of runs.divergence,
    besides that all numbers must be finite. probe(): why the weights as they are should not be saved, or None; asked
    before every checkpoint. worth_saving(value): whether a score on val deserves a best checkpoint. hopeless(value):
    why a run with this score on val should be aborted, or None. subcommand: the one of imagernn that resumes the run.
    next_step(best_checkpoint): a line to print when the run has finished, or ''.
    """

    def __init__(self, state, solver, rng, params, iters_per_epoch, learning_rate_at, *, checks=(),
                 probe=lambda: None, worth_saving=lambda value: True, hopeless=lambda value: None,
                 subcommand='train', next_step=lambda path: ''):
        self.state, self.solver, self.rng, self._params = state, solver, rng, params
        self._learning_rate_at = learning_rate_at
        self._checks, self._probe = checks, probe
        self._worth_saving, self._hopeless = worth_saving, hopeless
        self._subcommand, self._next_step, self._ranks = subcommand, next_step, world()
        self.iters_per_epoch = iters_per_epoch
        self.max_iters = max(1, round(params['max_epochs'] * iters_per_epoch))
        self._eval_period = max(1, int(params['eval_period'] * iters_per_epoch))
        # a run that ended because it was hopeless, and is resumed, still is
        self._problem = None if state.val is None else hopeless(state.val)
        self._profile = Profile() if params['profile'] else None
        self.exit_code = None
        # of the present iteration: when it began, its batch's own score and, once the step is taken, the report on it
        self._started, self._train, self._report = None, None, None
        # what is due after it
        self._evaluates, self._counted, self._saves, self._is_best = False, False, False, False

    def __enter__(self):
        first = self._ranks.rank == 0    # the others write nothing
        path = status_path(self._params)
        self._status = (StatusFile if first else NoStatusFile)(self._params, self.state.score, path)
        with ExitStack() as stack:
            if first:
                stack.enter_context(claimed_names(self._params, path))
            self._checkpoints = (Checkpoints if first else NoCheckpoints)(self._params, self.state)
            self._ranks.require_same('training data', self.state.extra.get('fingerprint'))
            if self._ranks.size > 1 and self._params['num_threads'] > cores():
                warn(f'a process may use {cores()} of the cores, and has {self._params["num_threads"]} threads: give '
                     'mpirun --bind-to none, or lower --num_threads')
            self._stop = stack.enter_context(stop_signals())
            say(f'{self.iters_per_epoch} iterations per epoch, {self.max_iters} in all\n'
                f'watch it: {command("monitor")} {quote(self._params["worker_status_output_directory"])}')
            self._status.write(self.state)
            self._progress = stack.enter_context(tqdm(
                total=self.max_iters, initial=self.state.it, unit='it', disable=None if first else True, smoothing=.05,
                dynamic_ncols=True))
            if self._profile:
                self._profile.start()
                stack.callback(self._profile.stop)
            self._stack = stack.pop_all()
        return self

    # ---- what the loop calls

    def iterations(self):
        """Yield the number of each iteration until the last one, a stop signal, or a reason to abort.

        Between two of them it reports and saves what is due.
        """
        while self.state.it < self.max_iters and not self._problem and not self._stopped():
            self._started = time.perf_counter()
            self._report, self._evaluates, self._is_best = None, False, False
            self.state.epoch = (self.state.it + 1) / self.iters_per_epoch
            if self._profile:
                self._profile.begin_step()
            yield self.state.it + 1
            if self._report:
                self._report_and_save()

    def _stopped(self):
        """Whether a signal asks the run to stop. One that any rank got counts for all."""
        self._stop.signal = self._ranks.first_signal(self._stop.signal)
        return self._stop.signal

    def passes(self, cost, grads, stats):
        """Whether the batch may be learned from. If it shows divergence, the run rolls back or aborts instead."""
        state = self.state
        reason = cost_not_finite(cost, state.model, grads)
        if reason is None:
            if state.cost0 is None:
                state.cost0 = cost
            reason = next(filter(None, (check(state, cost, stats) for check in self._checks)), None)
        if reason:
            self._diverged(reason)
            return False
        self._train = stats.get(state.score.train_key)    # None where the batch had another objective
        return True

    def update(self, grads, workers=None):
        """solver.step on the model with the learning rate of this epoch, halved at each rollback.

        The average of the weights follows, where one is kept. Then it decides what is due, and looks for divergence
        again before anything is saved.
        """
        state, train = self.state, self._train
        learning_rate = self._learning_rate_at(state.epoch) * .5 ** state.rollbacks
        try:
            self.solver.step(state.model, grads, learning_rate, workers)
        except FloatingPointError as error:
            self._diverged(str(error))
            return
        if state.average is not None:
            state.update_average(self._params['weight_average'], workers)
        if train is not None:
            state.smooth_train = .99 * (train if state.smooth_train is None else state.smooth_train) + .01 * train
        state.it += 1
        if self._profile:
            self._profile.end_step()
            if self._profile.num_steps == 1:
                say(f'first step after {time.perf_counter() - STARTED:.1f} s')
        self._report = {'iter': [state.it, self.max_iters], 'epoch': [state.epoch, self._params['max_epochs']],
                        'time_per_batch': time.perf_counter() - self._started,
                        f'train_{state.score.train_key}': train}
        train, val = ('-' if value is None else f'{value:.4g}' for value in (state.smooth_train, state.val))
        self._progress.set_postfix_str(f'epoch {state.epoch:.2f}, train {train}, val {val}', False)
        self._progress.update()
        self._decide()

    def evaluates(self):
        """Whether it is time to evaluate."""
        return self._evaluates

    def evaluated(self, value):
        """Take the score on val: report it, and compare it with the best so far."""
        state = self.state
        state.val = value
        self._is_best = state.score.better(value, state.best) and self._worth_saving(value)
        if self._is_best:
            state.best = value
        self._problem = self._hopeless(value)
        key = state.score.train_key
        own = '' if key == state.score.key else f'{key} '    # such as the loss of a ranker
        train = 'not trained on' if state.smooth_train is None else f'{own}{state.smooth_train:.4f} on train (smoothed)'
        say(f'epoch {state.epoch:.2f}: {state.score.name} {value:.4f} on val, {train}')

    def sampled(self, text):
        """Show a text that the evaluated model wrote, on the terminal and in the report on this evaluation."""
        self._report['sample'] = text[:MOST_SAMPLE]
        say('\n'.join(f'  {line}' for line in self._report['sample'].split('\n')))

    # ---- between the steps

    def _decide(self):
        """What is due after this step; and, before anything is saved, whether the model has diverged."""
        it = self.state.it
        # as in NeuralTalk: none right before the last one
        self._evaluates = it == self.max_iters or (it % self._eval_period == 0 and it < self.max_iters - 4)
        self._counted = self._evaluates or self._checkpoints.counted(it)
        self._saves = self._counted or self._checkpoints.due()
        if self._saves and (reason := self._not_to_be_saved()):
            if self._counted:
                self._diverged(reason)
            else:
                self._saves = False    # the clock decides when a file is written, and nothing else
                self._checkpoints.put_off(reason)

    def _report_and_save(self):
        if self._evaluates or self._status.report_is_due():
            self._status.add_to_history(self.state, {**self._report, 'evaluated': self._evaluates})
            self._status.write(self.state)
        if self.state.good and self._counted:
            self.state.keep_good(self.solver, self.rng)
        if self._saves:
            self._checkpoints.save(self.state, self.solver, self.rng, self._is_best)

    def _not_to_be_saved(self):
        state = self.state
        return state_not_finite(state.model, self.solver.state_dict(), state.average) or self._probe()

    def _diverged(self, reason):
        """Roll back to the last good state where --on_divergence wants that; else abort for this reason."""
        state, self._report, self._evaluates = self.state, None, False
        if not state.good:
            self._problem = reason
        elif state.rollbacks == MOST_ROLLBACKS:
            self._problem = f'{reason}; it rolled back {MOST_ROLLBACKS} times before'
        else:
            found_at = state.it
            state.roll_back(self.solver, self.rng)
            self._progress.n = state.it
            warn(f'after iteration {found_at}: {reason}; rolled back to iteration {state.it}, with '
                 f'1/{2 ** state.rollbacks} of the learning rate')

    # ---- the end

    def __exit__(self, kind, error, traceback):
        with self._stack:
            self._progress.close()
            if kind is None:
                if self._profile:
                    say(self._profile.table())
                self._save_at_the_end()
                self._say_ending()
            else:
                self._checkpoints.save_best_at_the_end(self.state)
                self._status.write(self.state, 'aborted', f'{kind.__name__}: {error}')
            if kind and issubclass(kind, InputError):    # data that are not finite, or cannot be read any more
                raise InputError(f'iteration {self.state.it + 1}: {error}') from error

    def _save_at_the_end(self):
        state, checkpoints = self.state, self._checkpoints
        if checkpoints.unsaved(state) and not self._problem:    # the run was stopped, or the disk was full
            reason = self._not_to_be_saved()
            if reason:    # the last checkpoint stays; a run that resumes from there and has a good state rolls back
                self._problem = None if state.good else reason
            elif not checkpoints.save_at_the_end(state, self.solver, self.rng, self._stop):
                self._problem = f'its last state could not be saved in {checkpoints.last_path}'
        if self._problem:
            checkpoints.save_best_at_the_end(state)

    def _say_ending(self):
        """Report how the run ended, where the best model is, and what to type next; sets the exit code."""
        state, last_path = self.state, self._checkpoints.last_path
        stopped_by = self._stop.signal if state.it < self.max_iters else None
        if self._problem:
            self._status.write(state, 'aborted', self._problem)
            if self._ranks.rank == 0:
                print(shown(f'aborted at iteration {state.it}: {self._problem}; the best checkpoint so far: '
                            f'{state.best_checkpoint or "none"}'), file=sys.stderr)
            self.exit_code = 1
        elif stopped_by:
            self._status.write(state, 'stopped', f'by {signal.Signals(stopped_by).name}')
            resume = f'resume with: {command(self._subcommand)} --resume {quote(str(last_path))}'
            say(f'stopped at iteration {state.it}; '
                f'{resume if self._checkpoints.written else "there was nothing new to save"}')
            self.exit_code = 128 + stopped_by
        else:
            self._status.write(state, 'finished')
            if state.best_checkpoint:
                say(f'best {state.score.name} on val: {state.score.text(state.best)}, in {state.best_checkpoint}')
                if next_step := self._next_step(state.best_checkpoint):
                    say(next_step)
            elif state.val is None:    # resumed with a smaller --max_epochs than it had reached
                say(f'there was nothing left to do, and no evaluation before; the last model is in {last_path}')
            else:
                say(f'{state.score.name} on val: {state.score.text(state.val)}, for which no best checkpoint was to be '
                    f'saved; the last model is in {last_path}')
            self.exit_code = 0

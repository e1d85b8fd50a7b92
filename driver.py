"""Train a captioning model: python driver.py -d flickr8k

The loop in plain sight; the parts are in imagernn/. Writes checkpoints and a status file as it goes; stopped by Ctrl-C
or SIGTERM it saves first, and however it was stopped it goes on with --resume.
"""

import argparse
import datetime
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from shlex import quote

from imagernn.nn.blas import NUM_THREADS  # before numpy

# isort: split
import numpy as np
from tqdm import tqdm

from imagernn.captioning.batch import make_batch
from imagernn.captioning.evaluate import split_perplexity
from imagernn.captioning.load import check_feature_size, load_captioner, trained_data
from imagernn.captioning.model import (
    GENERATORS,
    check_model,
    cost_and_grads,
    cost_of,
    draw_dropout,
    forward,
    init_model,
)
from imagernn.corpus.captioned_images import getDataProvider
from imagernn.corpus.vocab import build_vocab
from imagernn.errors import InputError, script, shown
from imagernn.formats.json_files import write_json
from imagernn.formats.writing import require_writable
from imagernn.nn import gradcheck
from imagernn.nn.solver import CLIPS, SOLVERS, Solver
from imagernn.nn.workers import Workers
from imagernn.runs.checkpoints import Checkpoints, claimed_names, newest_sound, warn
from imagernn.runs.divergence import ran_away, spoiled_cost, spoiled_state
from imagernn.runs.flags import (
    MODEL_PARAMS,
    RUN_PARAMS,
    check_ranges,
    require_near,
    require_resumable,
    require_same,
    sound_params,
)
from imagernn.runs.profile import Profile
from imagernn.runs.state import MOST_ROLLBACKS, good_state, roll_back

STATUS_SECONDS = 60
STATUS_SHARE = .01
GRAD_CHECK_PAIRS = 5
GRAD_CHECK_BOUND = 1e-6
STARTED = time.perf_counter()
MOST_THREADS = 4    # by default: a batch of 100 in more parts makes small matrices


def build_parser():
    parser = argparse.ArgumentParser(description='Train an image captioning model.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument

    add('-d', '--dataset', default='flickr8k', help='the folder under data_root that holds dataset.json and features')
    add('--data_root', default='data', help='the folder of data sets')
    add('--features', default=None, help='feature file, in the data set\'s folder or a path (default: the first of '
                                         'vgg_feats.mat, vgg_feats.h5, vgg_feats.npy)')
    add('-a', '--do_grad_check', type=int, default=0, help='1: check every gradient, dropout on, and leave')
    add('--fappend', default='baseline', help='goes into the names of checkpoints and of the status file')
    add('-o', '--checkpoint_output_directory', default='cv/', help='where checkpoints go')
    add('--worker_status_output_directory', default='status/', help='where the status file goes')
    add('--write_checkpoint_ppl_threshold', type=float, default=-1,
        help='save the best checkpoint only below this validation perplexity; -1: always')
    add('--init_model_from', default='', help='start from the model and vocabulary of this checkpoint')
    add('--resume', default='', help='go on from this checkpoint as if never stopped; flags given beside it win; auto: '
                                     'from the newest sound one of this name, or from the start if there is none')
    add('--checkpoint_every', default='10m', help='save the last checkpoint after so many iterations (500) or minutes '
                                                  '(10m), besides at every evaluation')
    add('--on_divergence', choices=('stop', 'rollback'), default='stop',
        help='when the cost explodes or a number is not finite; rollback: to the last good state, the learning rate '
             'halved')
    add('--seed', type=int, default=0, help='of the initial weights, the batches and the dropout')
    add('--dtype', choices=('float32', 'float64'), default='float32', help='of all arithmetic')
    add('--profile', action='store_true', help='say where a step\'s time went when the run ends')
    add('--num_threads', type=int, default=min(NUM_THREADS, MOST_THREADS),
        help='threads that share out each batch; another number rounds otherwise')

    add('--generator', choices=tuple(GENERATORS), default='lstm', help='the recurrent network')
    add('--image_encoding_size', type=int, default=256, help='lstm: must equal word_encoding_size; rnn: hidden_size')
    add('--word_encoding_size', type=int, default=256, help='size of a word\'s encoding')
    add('--hidden_size', type=int, default=256, help='size of the hidden state')
    add('--tanhC_version', type=int, default=0, help='lstm, 1: h = o*tanh(c) instead of o*c')
    add('--rnn_relu_encoders', type=int, default=0, help='rnn, 1: a ReLU on both encodings')
    add('--rnn_feed_once', type=int, default=0, help='rnn, 1: the image enters at the first step alone')

    add('-c', '--regc', type=float, default=1e-8, help='strength of the L2 regularization')
    add('-m', '--max_epochs', type=float, default=50, help='passes over the training sentences')
    add('--solver', choices=SOLVERS, default='rmsprop', help='update rule')
    add('--momentum', type=float, default=0., help='vanilla solver: momentum')
    add('--decay_rate', type=float, default=.999, help='adadelta, rmsprop: decay of the mean of squares; adam: beta2')
    add('--smooth_eps', type=float, default=1e-8, help='what keeps adaptive solvers from dividing by 0')
    add('--adam_beta1', type=float, default=.9, help='adam: decay of the mean gradient')
    add('-l', '--learning_rate', type=float, default=1e-3, help='step size')
    add('--learning_rate_decay_start', type=float, default=-1,
        help='epoch from which the learning rate falls; -1: never')
    add('--learning_rate_decay_every', type=float, default=5, help='epochs in which it then halves, smoothly')
    add('-b', '--batch_size', type=int, default=100, help='image-sentence pairs a batch')
    add('--grad_clip', type=float, default=5, help='bound of the gradients; 0: none')
    add('--grad_clip_by', choices=CLIPS, default='value', help='clip each element, or the norm of all together')
    add('--drop_prob_encoder', type=float, default=.5, help='dropout of the encoded image and words')
    add('--drop_prob_decoder', type=float, default=.5, help='dropout of the hidden state before the decoder')
    add('--word_count_threshold', type=int, default=5, help='a word that occurs less often is dropped')

    add('-p', '--eval_period', type=float, default=1, help='epochs between evaluations on val')
    add('--eval_batch_size', type=int, default=100, help='pairs a batch in evaluation')
    add('--eval_max_images', type=int, default=-1, help='evaluate on this many val images; -1: all')
    add('--min_ppl_or_abort', type=float, default=-1,
        help='abort when a validation perplexity is not below this; -1: never')
    return parser


def main_params(argv):
    """The command line as a dict, checked; and the checkpoint that the run starts from, or None."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.resume not in ('', 'auto') and args.init_model_from:
        raise InputError('--resume and --init_model_from exclude each other: the first goes on with a run, '
                         'the second starts a new one')
    checkpoint = None
    if args.resume == 'auto':
        args.resume, checkpoint = newest_sound(vars(args))
    source = args.resume or args.init_model_from
    if source and checkpoint is None:
        checkpoint = load_captioner(source)
    if args.resume:
        require_resumable(source, checkpoint)
        keep = set(vars(args)) - {'features', 'resume', 'init_model_from', 'profile'}
    elif source:
        keep = {*MODEL_PARAMS, 'word_count_threshold'}
    if checkpoint:
        saved = {name: value for name, value in checkpoint['params'].items() if name in keep}
        parser.set_defaults(**sound_params(parser, source, saved))
    params = {**vars(parser.parse_args(argv)), 'resume': args.resume}
    if checkpoint:
        require_same(params, checkpoint['params'], source, (*MODEL_PARAMS, *(RUN_PARAMS if args.resume else ())))
        # the vocabulary is the checkpoint's
        params['word_count_threshold'] = saved.get('word_count_threshold', params['word_count_threshold'])
    if args.resume:
        require_near(params, vars(args), source)
    check_ranges(params)
    return params, checkpoint


def start_run(params, checkpoint, provider):
    """All that a run is, as the dict that a checkpoint holds; new, or as the checkpoint left it."""
    dtype = np.dtype(params['dtype'])
    rng = np.random.default_rng(params['seed'])
    if checkpoint is None:
        tokens = (sentence['tokens'] for sentence in provider.iterSentences('train'))
        wordtoix, ixtoword, bias_init_vector = build_vocab(tokens, params['word_count_threshold'])
        model = init_model(params, provider.features.dim, bias_init_vector, rng, dtype)
    else:
        wordtoix, ixtoword = checkpoint['wordtoix'], checkpoint['ixtoword']
        model = {name: array.astype(dtype) for name, array in checkpoint['model'].items()}
        check_feature_size(provider.features, model)
    run = {'model': model, 'wordtoix': wordtoix, 'ixtoword': ixtoword, 'it': 0, 'epoch': 0., 'history': [],
           'smooth_train_ppl2': None, 'val_ppl2': -1., 'top_val_ppl2': -1., 'cost0': None,
           'best_checkpoint': None, 'trend': {}, 'rollbacks': 0, 'good': None}
    solver = Solver(params)
    if params['resume']:
        run.update({key: checkpoint[key] for key in run if key in checkpoint and key != 'model'})
        try:
            solver.load_state_dict(checkpoint['solver'], model)
            rng.bit_generator.state = checkpoint['rng_state']
            if run['good']:
                check_model(run['good']['model'], params, len(ixtoword))
                roll_back(dict(run), Solver(params), np.random.default_rng())    # that it could be done
        except InputError as error:
            raise InputError(f'{params["resume"]}: {error}') from None
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(f'{params["resume"]}: its solver or random state is damaged ({error!r}); '
                             'use another checkpoint') from None
    if params['on_divergence'] == 'stop':
        run['good'] = None
    elif not run['good']:
        run['good'] = good_state(run, solver, rng)
    return run, solver, rng


def learning_rate_at(epoch, params):
    """As given up to learning_rate_decay_start; then halved every learning_rate_decay_every epochs."""
    start = params['learning_rate_decay_start']
    late = max(0., epoch - start) if start >= 0 else 0.
    return params['learning_rate'] * .5 ** (late / params['learning_rate_decay_every'])


class Stop:
    """Whether Ctrl-C, SIGTERM or the end of the terminal asked the loop to end; a second signal ends it at once."""

    def __init__(self):
        self.signal = None
        self._numbers = [signal.SIGINT, signal.SIGTERM]
        if hasattr(signal, 'SIGHUP') and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:    # as nohup sets it
            self._numbers.append(signal.SIGHUP)
        for number in self._numbers:
            signal.signal(number, self._note)

    def _note(self, number, frame):
        self.signal = number
        for other in self._numbers:
            signal.signal(other, signal.SIG_DFL)
        with suppress(OSError):
            os.write(2, b'\nstopping after this step, saving first; once more to leave at once\n')


@script
def main(argv=None):
    params, checkpoint = main_params(argv)
    if checkpoint:
        _, params['features'] = trained_data(checkpoint, params['dataset'], params['features'])
    provider = getDataProvider(params['dataset'], params['data_root'], params['features'])
    provider.getSplitSize('val')                                   # a missing split is said now, not in an hour
    if params['do_grad_check']:
        params['dtype'] = 'float64'
    run, solver, rng = start_run(params, checkpoint, provider)
    if params['do_grad_check']:
        return grad_check(run, provider, params, rng)
    status = StatusFile(params)
    with claimed_names(params, status.path):
        checkpoints = Checkpoints(params, provider.features, run)
        try:
            return train(run, solver, rng, provider, params, checkpoints, status)
        except InputError as error:    # features that are not finite, or cannot be read any more
            status.write(run, 'aborted', str(error))
            raise InputError(f'iteration {run["it"] + 1}: {error}') from error


def train(run, solver, rng, provider, params, checkpoints, status):
    """The training loop. Returns the exit code: 0, 1 if the run was aborted, 130 or 143 if it was stopped."""
    stop, workers = Stop(), Workers(params['num_threads'])
    iters_per_epoch = max(1, provider.getSplitSize('train', 'sentences') // params['batch_size'])
    max_iters = max(1, round(params['max_epochs'] * iters_per_epoch))
    eval_period = max(1, int(params['eval_period'] * iters_per_epoch))
    say(f'{provider.getSplitSize("train")} training sentences, {len(run["ixtoword"])} words with END, '
        f'{sum(w.size for w in run["model"].values()):,} parameters; {iters_per_epoch} iterations an epoch, '
        f'{max_iters} in all\n'
        f'watch it: python -m imagernn.monitor {quote(params["worker_status_output_directory"])}')
    profile = profiled(solver, provider, params) if params['profile'] else None
    problem = too_perplexed(run, params)    # of a run that had ended for that reason, and is resumed
    status.write(run)
    progress = tqdm(total=max_iters, initial=run['it'], unit='it', disable=None, smoothing=.05, dynamic_ncols=True)

    while run['it'] < max_iters and not problem and not stop.signal:
        started = time.perf_counter()
        run['epoch'] = (run['it'] + 1) / iters_per_epoch
        train_ppl2, diverged = training_step(run, solver, rng, provider, params, workers)
        if diverged:
            problem = rolled_back(run, solver, rng, diverged, progress)
            continue
        run['it'] += 1
        report = {'iter': [run['it'], max_iters], 'epoch': [run['epoch'], params['max_epochs']],
                  'time_per_batch': time.perf_counter() - started, 'train_ppl2': train_ppl2}
        progress.set_postfix(epoch=f'{run["epoch"]:.2f}', ppl=f'{run["smooth_train_ppl2"]:.2f}',
                             val=f'{run["val_ppl2"]:.2f}', refresh=False)
        progress.update()

        evaluates = run['it'] == max_iters or (run['it'] % eval_period == 0 and run['it'] < max_iters - 4)
        counted = evaluates or checkpoints.counted(run['it'])
        saves, is_best = counted or checkpoints.due(), False
        if saves and (diverged := exploded(run, solver, provider, params)):
            if counted:
                problem = rolled_back(run, solver, rng, diverged, progress)
                continue
            saves = False    # the clock decides nothing but when a file is written
            checkpoints.put_off(diverged)
        if evaluates:
            is_best, problem = evaluate(run, provider, params, workers)
            say(f'epoch {run["epoch"]:.2f}: perplexity {run["val_ppl2"]:.4f} on val, '
                f'{run["smooth_train_ppl2"]:.4f} on train (smoothed)')
        if evaluates or status.seconds_since_report() > STATUS_SECONDS:
            status.add_to_history(run, report)
            status.write(run)
        if run['good'] and counted:
            run['good'] = good_state(run, solver, rng)
        if saves:
            checkpoints.save(run, solver, rng, is_best)
    progress.close()
    if profile:
        say(profile.table())

    if checkpoints.unsaved(run) and not problem:    # it was stopped, or the disk was full
        diverged = exploded(run, solver, provider, params)
        if diverged:    # the last checkpoint stays; with a good state to go back to, the run that goes on will do that
            problem = None if run['good'] else diverged
        elif not checkpoints.save_at_the_end(run, solver, rng, stop):
            problem = f'its last state could not be saved in {checkpoints.last_path}'
    if problem:
        checkpoints.save_best_at_the_end(run)
    stopped_by = stop.signal if run['it'] < max_iters else None
    return say_ending(run, problem, stopped_by, checkpoints, status, params)


def profiled(solver, provider, params):
    """A Profile that watches the steps and all that they call."""
    here, profile = sys.modules[__name__], Profile(min(params['num_threads'], params['batch_size']))
    profile.watch_steps(here, 'training_step', lambda: say(f'first step after {time.perf_counter() - STARTED:.1f} s'))
    profile.watch(provider, 'sampleImageSentencePairs', 'batch')
    profile.watch(here, 'make_batch', 'batch')
    profile.watch_captioner(GENERATORS[params['generator']])
    profile.watch(solver, 'step', 'update')
    return profile


def say(text):
    """A line on stdout. A reader that has left, or a full disk behind it, does not cost the run."""
    with suppress(OSError):
        tqdm.write('\n'.join(map(shown, text.split('\n'))), file=sys.stdout)
        sys.stdout.flush()


def say_ending(run, problem, stopped_by, checkpoints, status, params):
    """How it ended, where the best model is, and what to type next. Returns the exit code."""
    if problem:
        status.write(run, 'aborted', problem)
        best = run['best_checkpoint'] or 'none'
        print(f'aborted at iteration {run["it"]}: {problem}; the best checkpoint so far: {best}', file=sys.stderr)
        return 1
    if stopped_by:
        status.write(run, 'stopped', f'by {signal.Signals(stopped_by).name}')
        how = f'go on with: python driver.py --resume {quote(str(checkpoints.last_path))}'
        say(f'stopped at iteration {run["it"]}; {how if checkpoints.written else "there was nothing new to save"}')
        return 128 + stopped_by
    status.write(run, 'finished')
    if run['best_checkpoint']:
        root = '' if params['data_root'] == 'data' else f' --data_root {quote(params["data_root"])}'
        say(f'best perplexity on val: {run["top_val_ppl2"]:.2f}, in {run["best_checkpoint"]}\n'
            f'next: python eval_sentence_predictions.py {quote(run["best_checkpoint"])}{root}')
    else:
        say(f'perplexity on val: {run["val_ppl2"]:.2f}, no checkpoint below --write_checkpoint_ppl_threshold; '
            f'the last model is in {checkpoints.last_path}')
    return 0


def rolled_back(run, solver, rng, reason, progress):
    """Go back to the last good state where --on_divergence wants that: None. Else the reason to end the run."""
    if not run['good']:
        return reason
    if run['rollbacks'] == MOST_ROLLBACKS:
        return f'{reason}; it went back {MOST_ROLLBACKS} times before'
    found_at = run['it']
    roll_back(run, solver, rng)
    progress.n = run['it']
    warn(f'after iteration {found_at}: {reason}; back to iteration {run["it"]}, with 1/{2 ** run["rollbacks"]} of the '
         'learning rate')
    return None


def exploded(run, solver, provider, params):
    """The reason to end a run whose weights are no good any more, before they are saved; or None.

    Every number must be finite; and the rule of training_step, on a batch without dropout that is drawn apart, so that
    the run's own stream stays.
    """
    if problem := spoiled_state(run['model'], solver.state_dict()):
        return problem
    rng = np.random.default_rng(0)
    pairs = provider.sampleImageSentencePairs('train', params['batch_size'], rng)
    batch = make_batch(pairs, provider.features, run['wordtoix'], np.dtype(params['dtype']))
    with np.errstate(all='ignore'):
        logprobs, _ = forward(batch, run['model'], params)
        return too_costly(cost_of(logprobs, batch.num_sentences, run['model'], params)[0], run)


def too_costly(cost, run):
    """The reason to end the run, as in NeuralTalk: a cost of more than twice the first one. NaN is one, too."""
    if cost <= 2 * run['cost0']:
        return None
    return (f'the cost, {cost:.4g}, is more than twice the first one, {run["cost0"]:.4g}; try a smaller '
            '--learning_rate or --grad_clip, or a larger --batch_size')


def training_step(run, solver, rng, provider, params, workers):
    """One batch, one update of run. Returns the batch's perplexity and, where training must end, the reason."""
    pairs = provider.sampleImageSentencePairs('train', params['batch_size'], rng)
    batch = make_batch(pairs, provider.features, run['wordtoix'], np.dtype(params['dtype']))
    cost, grads, stats = cost_and_grads(batch, run['model'], params, rng, workers)
    if problem := spoiled_cost(cost, run['model'], grads):
        return stats['ppl2'], problem
    if run['cost0'] is None:
        run['cost0'] = cost
    if problem := too_costly(cost, run) or ran_away(run['trend'], stats['ppl2'], params['batch_size']):
        return stats['ppl2'], problem
    learning_rate = learning_rate_at(run['epoch'], params) * .5 ** run['rollbacks']
    try:
        solver.step(run['model'], grads, learning_rate, workers)
    except FloatingPointError as error:
        return stats['ppl2'], str(error)
    before = run['smooth_train_ppl2'] or stats['ppl2']
    run['smooth_train_ppl2'] = .99 * before + .01 * stats['ppl2']
    return stats['ppl2'], None


def evaluate(run, provider, params, workers):
    """Perplexity on val into run. Returns whether it is the best so far and, where training must end, the reason."""
    run['val_ppl2'] = split_perplexity(provider, 'val', run['model'], params, run['wordtoix'],
                                       params['eval_max_images'], params['eval_batch_size'], workers)
    threshold = params['write_checkpoint_ppl_threshold']
    is_best = ((run['top_val_ppl2'] < 0 or run['val_ppl2'] < run['top_val_ppl2'])
               and (threshold < 0 or run['val_ppl2'] < threshold))
    if is_best:
        run['top_val_ppl2'] = run['val_ppl2']
    return is_best, too_perplexed(run, params)


def too_perplexed(run, params):
    """The reason to end the run after its last evaluation, or None."""
    limit = params['min_ppl_or_abort']
    if 0 < limit <= run['val_ppl2']:
        return f'perplexity {run["val_ppl2"]:.2f} on val is not below --min_ppl_or_abort {limit}'
    return None


class StatusFile:
    """The file that a monitor reads, at path. InputError before the first step where it cannot be written."""

    def __init__(self, params):
        self._params, self._last_report, self._next_status = params, time.monotonic(), 0.
        self.path = (Path(params['worker_status_output_directory'])
                     / f'{socket.gethostname()}_{params["fappend"]}_status.json')
        require_writable(self.path)

    def seconds_since_report(self):
        return time.monotonic() - self._last_report

    def add_to_history(self, run, report):
        """One more entry of run's history: the report on the last batch, and the perplexities."""
        self._last_report = time.monotonic()
        run['history'].append({'time': datetime.datetime.now().isoformat(), **report,
                               'smooth_train_ppl2': run['smooth_train_ppl2'], 'val_ppl2': run['val_ppl2']})

    def write(self, run, state='running', reason=None):
        """Write it. A file that cannot be written does not stop the training.

        state: running, finished, stopped or aborted, the last two with the reason. It holds the whole history, so while
        running it is left for later where writing it would take more than STATUS_SHARE of the time.
        """
        started = time.monotonic()
        if state == 'running' and started < self._next_status:
            return
        try:
            write_json(self.path, {'params': self._params, 'state': state, 'reason': reason,
                                           'history': run['history']})
        except InputError as error:
            warn(str(error))
        ended = time.monotonic()
        self._next_status = ended + (ended - started) / STATUS_SHARE


def grad_check(run, provider, params, rng):
    """Compare all gradients with finite differences, dropout on, its masks fixed. Returns the exit code.

    Zeros (the biases of a new model) are moved off 0: a unit of which all inputs are dropped would else sit on the very
    kink of its ReLU, where there is no derivative to compare with.
    """
    model = run['model']
    for w in model.values():
        w[w == 0] = rng.uniform(-.1, .1, np.count_nonzero(w == 0))
    batch = make_batch(provider.sampleImageSentencePairs('train', GRAD_CHECK_PAIRS, rng), provider.features,
                       run['wordtoix'], np.float64)
    state = rng.bit_generator.state
    dropout = draw_dropout(batch, model, params, rng)

    def cost():
        return cost_of(forward(batch, model, params, dropout)[0], batch.num_sentences, model, params)[0]

    rng.bit_generator.state = state
    _, grads, _ = cost_and_grads(batch, model, params, rng, Workers(params['num_threads']))
    chooser, all_right = np.random.default_rng(params['seed'] + 1), True
    print(f'dropout {params["drop_prob_encoder"]} / {params["drop_prob_decoder"]}, float64; '
          f'largest relative error of 10 elements, bound {GRAD_CHECK_BOUND:g}')
    for name in model:
        error = gradcheck.element_errors(cost, model[name], grads[name], chooser).max()
        right = bool(error < GRAD_CHECK_BOUND)                     # NaN is not
        all_right &= right
        shape = '×'.join(map(str, model[name].shape))
        print(f'{name:6} {shape:12} {error:.1e}  {"ok" if right else "WRONG"}', flush=True)
    return 0 if all_right else 1


if __name__ == '__main__':
    sys.exit(main())

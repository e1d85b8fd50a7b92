"""Train a language model on a text: imagernn train-text book.txt

The loop is in plain sight in train(). Writes checkpoints and a status file as it runs. Stopped by Ctrl-C or SIGTERM it
saves first; however it was stopped, it resumes with --resume.
"""

import argparse
import sys
from pathlib import Path
from shlex import quote

from imagernn.corpus.flags import NO_WORD_VECTORS
from imagernn.errors import InputError, command, loading, script
from imagernn.runs.flags import HelpWithDefaults, add_optimizer_flags, add_output_flags, add_system_flags
from imagernn.textgen.flags import (
    MODEL_PARAMS,
    RUN_PARAMS,
    add_data_flags,
    add_model_flags,
    add_training_flags,
    check_training_flags,
)


def build_parser():
    parser = argparse.ArgumentParser(prog='imagernn train-text', formatter_class=HelpWithDefaults,
                                     description='Train a language model on a text, by characters or words.')
    add_data_flags(parser)
    add_model_flags(parser)
    add_training_flags(parser)
    add_optimizer_flags(parser)
    add_output_flags(parser)
    add_system_flags(parser)
    parser.set_defaults(fappend='text', solver='adam', learning_rate=2e-3, learning_rate_schedule='cosine',
                        grad_clip_by='norm')
    return parser


with loading(__name__, build_parser):    # --help does not wait for these
    import numpy as np

    from imagernn.corpus.text import LINE_END
    from imagernn.corpus.word_vectors import word_vectors_for
    from imagernn.nn import stacked
    from imagernn.nn.packing import pack
    from imagernn.nn.schedules import schedule_of
    from imagernn.nn.solver import Solver
    from imagernn.nn.workers import Workers
    from imagernn.runs.ranks import world
    from imagernn.runs.run import Run
    from imagernn.runs.start import chosen_params
    from imagernn.runs.state import NATS, RunState, require_resumable, resumed
    from imagernn.runs.terminal import report, say
    from imagernn.textgen.evaluate import lines_from, nats_of
    from imagernn.textgen.load import KIND, fingerprint_of, load_text_model, text_of
    from imagernn.textgen.model import LAYERS, cost_and_grads, init_model, num_windows, window
    from imagernn.textgen.sample import written

SAMPLE_LENGTH = {'char': 200, 'word': 40}    # of what is shown after each evaluation
SAMPLE_TEMPERATURE = .7


@script
def main(argv=None):
    return train(*prepare(argv))


def prepare(argv):
    """What train() needs, from the command line: state, solver, rng, the Text and params."""
    parser = build_parser()
    parser.set_defaults(dataset=Path(parser.parse_args(argv).text).stem)    # names the run's files
    params, checkpoint = chosen_params(parser, argv, load_text_model, load_resumable, MODEL_PARAMS, RUN_PARAMS,
                                       NO_WORD_VECTORS)
    check_training_flags(params)
    if params['test'] and not params['val']:
        raise InputError(f'--test {params["test"]}: needs --val, or leave both out to take shares of the text')
    text = text_of(params, checkpoint and checkpoint['ixtoword'])
    return *start(params, checkpoint, text), text, params


def load_resumable(path):
    """The checkpoint at path; InputError unless a run can resume from it."""
    checkpoint = load_text_model(path)
    require_resumable(path, checkpoint, NATS)
    return checkpoint


def start(params, checkpoint, text):
    """The RunState, solver and random stream of a new run, or as the checkpoint left them."""
    dtype, rng = np.dtype(params['dtype']), np.random.default_rng(params['seed'])
    solver = Solver(params, ['Ws'] if params['fix_word_vectors'] else [])
    extra = {'kind': KIND, 'ixtoword': text.ixtoword, 'wordtoix': {unit: ix for ix, unit in text.ixtoword.items()},
             'fingerprint': fingerprint_of(text), 'carried': {}}
    if checkpoint is None:
        state = RunState(init_model(params, len(text.ixtoword), rng, dtype), NATS, extra)
        if params['word_vectors']:
            state.model['Ws'][:] = word_vectors(params, text, rng)
    else:
        model = {name: array.astype(dtype) for name, array in checkpoint['model'].items()}
        if params['resume']:
            if checkpoint.get('fingerprint') != extra['fingerprint']:
                raise InputError(f'{params["resume"]}: the text has changed since; restore it, or start a new run from '
                                 'the weights with --init_model_from')
            extra['carried'] = checkpoint.get('carried') or {}
            state = resumed(params['resume'], checkpoint, model, NATS, extra, solver, rng)
        else:
            state = RunState(model, NATS, extra)
    state.keep_average_where(params['weight_average'])
    state.keep_good_where(params['on_divergence'], solver, rng)
    return state, solver, rng


def word_vectors(params, text, rng):
    """Ws (V, embedding_size) of a new run from the file of --word_vectors; reports what was found."""
    counts = np.bincount(text.splits['train'][0], minlength=len(text.ixtoword))                  # (V,)
    # word2vec's files have a vector for the end of a line, under this name
    words = {ix: '</s>' if word == LINE_END else word for ix, word in text.ixtoword.items()}
    Ws, *found = word_vectors_for(params['word_vectors'], words, np.log(np.maximum(counts, 1)),
                                  params['embedding_size'], rng, ['embedding_size'])
    report(*found)
    return Ws


def train(state, solver, rng, text, params):
    """The training loop. Returns the exit code: 0, 1 if the run was aborted, 130 or 143 if it was stopped."""
    workers = Workers(params['num_threads'], world())    # with mpirun, its processes share each batch
    layer = LAYERS[params['layer']]
    tokens, lengths = text.splits['train']
    N, T = params['batch_size'], params['window']
    iters_per_epoch = max(1, len(lengths) // N) if params['lines'] else num_windows(len(tokens), N, T)
    if not params['lines'] and len(tokens) <= N * T:
        raise InputError(f'{params["text"]}: has {len(tokens):,} {params["level"]}s to train on, too few for '
                         f'--batch_size {N} parts with a --window of {T}; lower these')
    say(f'{len(tokens):,} {params["level"]}s to train on, a vocabulary of {len(text.ixtoword):,}; '
        f'{sum(w.size for w in state.model.values()):,} parameters')

    with Run(state, solver, rng, params, iters_per_epoch, schedule_of(params, iters_per_epoch),
             subcommand='train-text', next_step=lambda path: next_step(path, 'test' in text.splits)) as run:
        for _ in run.iterations():
            if params['lines']:
                # lines, drawn with replacement; each starts from zeros
                batch, before = pack(*lines_from(tokens, lengths, rng.integers(len(lengths), size=N))), None
            else:
                # the next window of every part of the stream; it starts from the state that the last one left
                place = state.it % iters_per_epoch
                batch = window(tokens, N, T, place)
                before = carried(state, layer, N, place)

            # forward and backward pass: the cost, and its gradient by every parameter
            cost, grads, stats, last = cost_and_grads(batch, state.model, params, before, rng, workers)

            # learn from it, unless it shows that the run has diverged: then it rolls back or aborts
            if run.passes(cost, grads, stats):
                carry(state, [] if params['lines'] else last)
                run.update(grads, workers)

            # now and then, and at the end, see how well it predicts text that it was not trained on
            if run.evaluates():
                run.evaluated(nats_of(text.splits['val'], state.evaluated_model, params, workers))
                run.sampled(sample_of(state, params))
    return run.exit_code


def carried(state, layer, N, place):
    """The state that the window before this place left; zeros at the beginning, or where there is none that fits."""
    zeros = stacked.zero_state(layer, N, state.model, state.model['Wd'].dtype)
    arrays = state.extra['carried'] if place and isinstance(state.extra['carried'], dict) else {}
    found = [tuple(arrays.get(f'{k}_{i}', zero) for i, zero in enumerate(parts)) for k, parts in enumerate(zeros)]
    fits = all(np.shape(array) == zero.shape and np.isfinite(array).all()
               for parts, ours in zip(zeros, found, strict=True) for zero, array in zip(parts, ours, strict=True))
    return found if fits else zeros


def carry(state, last):
    """Keep the layers' states after a window where checkpoints save them."""
    state.extra['carried'] = {f'{k}_{i}': array for k, parts in enumerate(last) for i, array in enumerate(parts)}


def sample_of(state, params):
    """A short text that the evaluated model writes. Its random stream is its own, so that training keeps its bits."""
    checkpoint = {'model': state.evaluated_model, 'params': params, 'ixtoword': state.extra['ixtoword']}
    rng = np.random.default_rng([params['seed'], state.it])
    return written(checkpoint, '', SAMPLE_LENGTH[params['level']], 1, SAMPLE_TEMPERATURE, rng)[0]


def next_step(path, has_test):
    """What to type when the run has finished."""
    next_step = f'next: {command("sample-text")} {quote(path)}'
    return f'{next_step}\nits score on test: {next_step.removeprefix("next: ")} --split test' if has_test else next_step


if __name__ == '__main__':
    sys.exit(main())

"""Train a translation model: imagernn train-translator --source train.fr --target train.en …

The loop is in plain sight in train(). Writes checkpoints and a status file as it runs. Stopped by Ctrl-C or SIGTERM it
saves first; however it was stopped, it resumes with --resume.
"""

import argparse
import sys
from pathlib import Path
from shlex import quote

from imagernn.errors import InputError, command, loading, script
from imagernn.runs.flags import HelpWithDefaults, add_optimizer_flags, add_output_flags, add_system_flags
from imagernn.translation.flags import (
    EARLIER,
    MODEL_PARAMS,
    RUN_PARAMS,
    add_data_flags,
    add_model_flags,
    add_training_flags,
    check_training_flags,
)


def build_parser():
    parser = argparse.ArgumentParser(prog='imagernn train-translator', formatter_class=HelpWithDefaults,
                                     description='Train a translation model on pairs of sentences.')
    add_data_flags(parser)
    add_model_flags(parser)
    add_training_flags(parser)
    add_optimizer_flags(parser)
    add_output_flags(parser)
    add_system_flags(parser)
    parser.set_defaults(fappend='translation', solver='adam', learning_rate=1e-3, learning_rate_schedule='cosine',
                        grad_clip_by='norm')
    return parser


with loading(__name__, build_parser):    # --help does not wait for these
    import hashlib

    import numpy as np

    from imagernn.corpus.vocab import START
    from imagernn.corpus.word_vectors import word_vectors_for
    from imagernn.metrics.perplexity import perplexity
    from imagernn.nn.schedules import schedule_of
    from imagernn.nn.solver import Solver
    from imagernn.nn.workers import Workers
    from imagernn.runs.ranks import world
    from imagernn.runs.run import Run
    from imagernn.runs.start import chosen_params
    from imagernn.runs.state import PERPLEXITY, RunState, require_resumable, resumed
    from imagernn.runs.terminal import report, say, warn
    from imagernn.translation.batch import make_batch
    from imagernn.translation.evaluate import nats_of
    from imagernn.translation.load import KIND, load_translator
    from imagernn.translation.model import cost_and_grads, init_model
    from imagernn.translation.text import (
        END,
        LONGEST_SIDE,
        Pairs,
        batch_chooser,
        chosen,
        detokenize,
        encode,
        language_of,
        read_pairs,
        unknown_share,
        vocabulary,
    )
    from imagernn.translation.translator import Translator

WORD_VECTORS = {'source_word_vectors': 'source_Ws', 'word_vectors': 'Ws'}    # flag -> parameter, source and target


@script
def main(argv=None):
    return train(*prepare(argv))


def prepare(argv):
    """What train() needs, from the command line: state, solver, rng, the Pairs of each split, and params."""
    parser = build_parser()
    given = parser.parse_args(argv)
    parser.set_defaults(dataset=f'{Path(given.source).name}-'
                                f'{language_of(given.target) or Path(given.target).name}')    # train.fr-en
    params, checkpoint = chosen_params(parser, argv, load_translator, load_resumable, MODEL_PARAMS, RUN_PARAMS,
                                       EARLIER)
    check_training_flags(params)
    vocabularies, splits = read_splits(params, checkpoint)
    return *start(params, checkpoint, vocabularies, splits), splits, params


def load_resumable(path):
    """The checkpoint at path; InputError unless a run can resume from it."""
    checkpoint = load_translator(path)
    require_resumable(path, checkpoint, PERPLEXITY)
    return checkpoint


def read_splits(params, checkpoint):
    """The two vocabularies, source and target, those of the checkpoint if there is one; and {'train', 'val'} -> Pairs.

    Reports how much was read, and how much of it is unknown.
    """
    texts, vocabularies = {}, None
    languages = language_of(params['source']), language_of(params['target'])
    for split, prefix in (('train', ''), ('val', 'val_')):
        *texts[split], num_empty, num_long = read_pairs(params[f'{prefix}source'], params[f'{prefix}target'],
                                                        params['tokenizer'], params['lower_case'], languages)
        without = f'; {num_empty:,} with an empty side were left out' if num_empty else ''
        if num_long:
            without += f'; {num_long:,} with more than {LONGEST_SIDE} words on a side were left out'
        say(f'{split}: {len(texts[split][0]):,} pairs of sentences{without}')
    if checkpoint:
        vocabularies = checkpoint['source_ixtoword'], checkpoint['ixtoword']
    else:
        vocabularies = [vocabulary(sentences, params['word_count_threshold'], first)
                        for sentences, first in zip(texts['train'], (START, END), strict=True)]
    splits = {split: Pairs(*map(encode, sides, vocabularies)) for split, sides in texts.items()}
    for side, ixtoword, *encoded in zip(Pairs._fields, vocabularies, *splits.values(), strict=True):
        of_train, of_val = map(unknown_share, encoded)
        say(f'{side}: {len(ixtoword):,} words with the special ones; {100 * of_train:.1f} % of the training text and '
            f'{100 * of_val:.1f} % of val are unknown')
        for name, share in (side, of_train), (f'val_{side}', of_val):
            if share == 1:
                raise InputError(f'{params[name]}: no word is in the vocabulary; give sentences like those of the '
                                 'training')
        if of_val > .5:
            warn(f'{params[f"val_{side}"]}: {100 * of_val:.0f} % of its words are unknown to the model; is it in the '
                 f'language of {params[side]}?')
    return vocabularies, splits


def start(params, checkpoint, vocabularies, splits):
    """The RunState, solver and random stream of a new run, or as the checkpoint left them."""
    dtype, rng = np.dtype(params['dtype']), np.random.default_rng(params['seed'])
    solver = Solver(params, fixed(params))
    source_ixtoword, ixtoword = vocabularies
    digest = hashlib.blake2b(b''.join(array.tobytes() for pairs in splits.values() for side in pairs
                                      for array in side), digest_size=16)
    extra = {'kind': KIND, 'ixtoword': ixtoword, 'wordtoix': {word: ix for ix, word in ixtoword.items()},
             'source_words': list(source_ixtoword.values()), 'fingerprint': {'text': digest.hexdigest()}}
    if checkpoint is None:
        model = init_model(params, len(source_ixtoword), len(ixtoword), rng, dtype)
        take_word_vectors(model, vocabularies, splits['train'], params, rng)
    else:
        model = {name: array.astype(dtype) for name, array in checkpoint['model'].items()}
    if params['resume']:
        if checkpoint.get('fingerprint') != extra['fingerprint']:
            raise InputError(f'{params["resume"]}: the sentences have changed since; restore them, or start a new run '
                             'from the weights with --init_model_from')
        state = resumed(params['resume'], checkpoint, model, PERPLEXITY, extra, solver, rng)
    else:
        state = RunState(model, PERPLEXITY, extra)
    state.keep_average_where(params['weight_average'])
    state.keep_good_where(params['on_divergence'], solver, rng)
    return state, solver, rng


def take_word_vectors(model, vocabularies, pairs, params, rng):
    """Change a new model by the files of --source_word_vectors and --word_vectors; reports what was found."""
    for (flag, name), ixtoword, (tokens, _) in zip(WORD_VECTORS.items(), vocabularies, pairs, strict=True):
        if params[flag]:
            counts = np.bincount(tokens, minlength=len(ixtoword))                                # (V,)
            model[name][:], *found = word_vectors_for(params[flag], ixtoword, np.log(np.maximum(counts, 1)),
                                                      params['embedding_size'], rng, ['embedding_size'])
            report(*found)


def fixed(params):
    """The parameters that --fix_word_vectors leaves as they are: those that began as vectors of a file, else both."""
    if not params['fix_word_vectors']:
        return []
    return [name for flag, name in WORD_VECTORS.items() if params[flag]] or [*WORD_VECTORS.values()]


def train(state, solver, rng, splits, params):
    """The training loop. Returns the exit code: 0, 1 if the run was aborted, 130 or 143 if it was stopped."""
    workers = Workers(params['num_threads'], world())    # with mpirun, its processes share each batch
    numbers_at, iters_per_epoch = batch_chooser(splits['train'], params['batch_size'], params['seed'])
    say(f'{sum(w.size for w in state.model.values()):,} parameters')

    with Run(state, solver, rng, params, iters_per_epoch, schedule_of(params, iters_per_epoch),
             subcommand='train-translator', next_step=next_step) as run:
        for _ in run.iterations():
            # pairs of similar lengths; an epoch has every pair once
            pairs = chosen(splits['train'], numbers_at(state.it))
            batch = make_batch(*pairs.source, *pairs.target)

            # forward and backward pass: the cost, and its gradient by every parameter
            cost, grads, stats = cost_and_grads(batch, state.model, params, rng, workers)

            # learn from it, unless it shows that the run has diverged: then it rolls back or aborts
            if run.passes(cost, grads, stats):
                run.update(grads, workers)

            # now and then, and at the end, see how well it predicts translations that it was not trained on
            if run.evaluates():
                run.evaluated(perplexity(-nats_of(splits['val'], state.evaluated_model, params, workers), 1))
                run.sampled(sample_of(state, splits['val'], params))
    return run.exit_code


def sample_of(state, pairs, params):
    """A sentence, what the evaluated model makes of it by greedy search, and the reference: three lines.

    pairs: the Pairs of val, of which each evaluation shows the next. No random stream is used.
    """
    number = sum(past['evaluated'] for past in state.history) % len(pairs.source[1])
    (source, _), (reference, _) = chosen(pairs, np.array([number]))
    checkpoint = {'model': state.evaluated_model, 'params': params, 'ixtoword': state.extra['ixtoword'],
                  'source_ixtoword': dict(enumerate(state.extra['source_words']))}
    words = [checkpoint['source_ixtoword'][ix] for ix in source]
    (best,), = Translator([checkpoint], beam_size=1).translate([words])
    line, = detokenize([words], params['tokenizer'], language_of(params['source']))
    other, = detokenize([[checkpoint['ixtoword'][ix] for ix in reference]], params['tokenizer'],
                        language_of(params['target']))
    return f'source: {line}\ntranslation: {best.text}\nreference: {other}'


def next_step(path):
    """What to type when the run has finished."""
    return f'next: {command("translate")} {quote(path)}'


if __name__ == '__main__':
    sys.exit(main())

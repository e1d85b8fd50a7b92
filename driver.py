"""Train a captioning model: python driver.py -d flickr8k

The loop is in plain sight in train(); what it calls is in imagernn/. Writes checkpoints and a status file as it runs.
Stopped by Ctrl-C or SIGTERM it saves first; however it was stopped, it resumes with --resume.
"""

import argparse
import sys
from shlex import quote

from imagernn.captioning.flags import (
    MODEL_PARAMS,
    RUN_PARAMS,
    add_data_flags,
    add_evaluation_flags,
    add_model_flags,
    add_training_flags,
    check_training_flags,
)
from imagernn.errors import InputError, command, loading, script
from imagernn.runs.flags import (
    add_optimizer_flags,
    add_output_flags,
    add_system_flags,
    require_near,
    require_same,
    sound_params,
)


def build_parser():
    parser = argparse.ArgumentParser(description='Train an image captioning model.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_data_flags(parser)
    add_model_flags(parser)
    add_training_flags(parser)
    add_optimizer_flags(parser)
    add_evaluation_flags(parser)
    add_output_flags(parser)
    add_system_flags(parser)
    return parser


with loading(__name__, build_parser):    # --help does not wait for these
    import numpy as np

    from imagernn.captioning.batch import batch_of_pairs
    from imagernn.captioning.evaluate import known_words, split_perplexity
    from imagernn.captioning.load import (
        KIND,
        check_feature_size,
        load_captioner,
        note_other_origin,
        open_data,
        require_same_data,
        trained_data,
    )
    from imagernn.captioning.model import check_model, cost_and_grads, cost_of, draw_dropout, forward, init_model
    from imagernn.corpus.vocab import MOST_DROPPED, build_vocab, lookup_table, threshold_for
    from imagernn.nn import gradcheck
    from imagernn.nn.schedules import halving
    from imagernn.nn.solver import Solver
    from imagernn.nn.workers import Workers
    from imagernn.runs.checkpoints import newest_resumable
    from imagernn.runs.divergence import cost_doubled, perplexity_rose
    from imagernn.runs.run import Run
    from imagernn.runs.state import PERPLEXITY, RunState, require_resumable, resumed
    from imagernn.runs.terminal import say, warn

GRAD_CHECK_PAIRS = 5
GRAD_CHECK_BOUND = 1e-6


@script
def main(argv=None):
    state, solver, rng, provider, params = prepare(argv)
    if params['do_grad_check']:
        return grad_check(state.model, provider, state.extra['wordtoix'], params, rng)
    return train(state, solver, rng, provider, params)


def train(state, solver, rng, provider, params):
    """The training loop. Returns the exit code: 0, 1 if the run was aborted, 130 or 143 if it was stopped."""
    workers, dtype = Workers(params['num_threads']), np.dtype(params['dtype'])
    lookup = lookup_table(provider.words, state.extra['wordtoix'])
    num_sentences = provider.getSplitSize('train', 'sentences')
    say(f'{num_sentences} training sentences, {len(state.extra["ixtoword"])} words with END, '
        f'{sum(w.size for w in state.model.values()):,} parameters')
    report_words(provider, lookup, params)

    def probe():
        """As in the loop, on a batch drawn apart and without dropout: whether the cost has exploded."""
        pairs = provider.sample_pairs('train', params['batch_size'], np.random.default_rng(0))
        with np.errstate(all='ignore'):
            logprobs, _ = forward(batch_of_pairs(pairs, provider, lookup, dtype), state.model, params)
            return cost_doubled(state, cost_of(logprobs, params['batch_size'], state.model, params)[0])

    iters_per_epoch = max(1, num_sentences // params['batch_size'])
    learning_rate_at = halving(params['learning_rate'], params['learning_rate_decay_start'],
                               params['learning_rate_decay_every'])
    checks = cost_doubled, perplexity_rose(params['batch_size'])
    with Run(state, solver, rng, params, iters_per_epoch, learning_rate_at, checks=checks, probe=probe,
             next_step=lambda path: next_step(path, params, provider)) as run:
        for _ in run.iterations():
            # a batch of image-sentence pairs, drawn with replacement; the words are integers already
            pairs = provider.sample_pairs('train', params['batch_size'], rng)
            batch = batch_of_pairs(pairs, provider, lookup, dtype)

            # forward and backward pass: the cost, and its gradient by every parameter
            cost, grads, stats = cost_and_grads(batch, state.model, params, rng, workers)

            # learn from it, unless it shows that the run has diverged: then it rolls back or aborts
            if run.passes(cost, grads, stats):
                run.update(grads, workers)

            # now and then, and at the end, see how well the model predicts sentences that it was not trained on
            if run.evaluates():
                run.evaluated(split_perplexity(provider, 'val', state.model, params, state.extra['wordtoix'],
                                               params['eval_max_images'], params['eval_batch_size'], workers))
    return run.exit_code


def report_words(provider, lookup, params):
    """Print how much of the text the vocabulary drops; with a warning where it is much, of the val split too."""
    train = known_words(provider, 'train', lookup)
    val = known_words(provider, 'val', lookup, params['eval_max_images'])
    say(f'{train.unknown_words} of {train.num_words} different words are not in the vocabulary; '
        f'{train.unknown_share:.1%} of the text, which they make, is dropped')
    for split, found in (('train', train), ('val', val)):
        if found.unknown_share > MOST_DROPPED:
            lower = threshold_for(provider.word_counts('train'), MOST_DROPPED)
            helps = lower < params['word_count_threshold'] and not params['resume'] and not params['init_model_from']
            warn(f'{found.unknown_tokens} of {found.num_tokens} tokens of the {split} split are not in the vocabulary; '
                 'perplexity does not count them' + (f'. Try --word_count_threshold {lower}' if helps else ''))


def next_step(path, params, provider):
    """What to type when the run has finished."""
    root = '' if params['data_root'] == 'data' else f' --data_root {quote(params["data_root"])}'
    split = '' if 'test' in provider.getSplitSizes() else ' --split val'
    return f'next: {command("evaluate")} {quote(path)}{root}{split}'


# ---- how a run starts: the command line, a new model or a checkpoint -----------------------------------------------

def prepare(argv):
    """What train() takes, from the command line and the files that it names."""
    params, checkpoint = main_params(argv)
    if checkpoint:
        _, params['features'] = trained_data(checkpoint, params['dataset'], params['features'])
    provider = open_data(params, params)
    # a missing split is reported now, not in an hour
    provider.require_split('train', 'Give the images to train on the split train.')
    provider.require_split('val', 'Take some of the training images as val with --val_share .1, or give them that '
                                  'split in dataset.json.')
    if params['do_grad_check']:
        params['dtype'] = 'float64'
    return *start(params, checkpoint, provider), provider, params


def main_params(argv):
    """The command line as a dict, checked; and the checkpoint that the run starts from, or None."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.resume not in ('', 'auto') and args.init_model_from:
        raise InputError('--resume and --init_model_from exclude each other: the first continues a run, the second '
                         'starts a new one')
    checkpoint = None
    if args.resume == 'auto':
        args.resume, checkpoint = newest_resumable(vars(args), load_resumable)
    elif args.resume:
        checkpoint = load_resumable(args.resume)
    elif args.init_model_from:
        checkpoint = load_captioner(args.init_model_from)
    if checkpoint is None:
        params = {**vars(args)}
    else:
        params = with_saved_params(parser, argv, args, checkpoint)
    check_training_flags(params)
    return params, checkpoint


def load_resumable(path):
    """The checkpoint at path; InputError unless a run can resume from it."""
    checkpoint = load_captioner(path)
    require_resumable(path, checkpoint, PERPLEXITY)
    if checkpoint.get('good'):
        try:
            check_model(checkpoint['good']['model'], checkpoint['params'], len(checkpoint['ixtoword']))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(f'{path}: the state that it would roll back to is damaged ({error}); use another '
                             'checkpoint') from None
    return checkpoint


def with_saved_params(parser, argv, args, checkpoint):
    """The command line, with a checkpoint's flags as defaults: all of a run, or with --init_model_from the model's."""
    path = args.resume or args.init_model_from
    if args.resume:
        keep = set(vars(args)) - {'features', 'resume', 'init_model_from', 'profile', 'allow_changed_data'}
    else:
        keep = {*MODEL_PARAMS, 'word_count_threshold'}
    saved = {name: value for name, value in checkpoint['params'].items() if name in keep}
    parser.set_defaults(**sound_params(parser, path, saved))
    params = {**vars(parser.parse_args(argv)), 'resume': args.resume}
    require_same(params, checkpoint['params'], path, (*MODEL_PARAMS, *(RUN_PARAMS if args.resume else ())), RUN_PARAMS)
    # the vocabulary is the checkpoint's
    params['word_count_threshold'] = saved.get('word_count_threshold', params['word_count_threshold'])
    if args.resume:
        require_near(params, vars(args), path)
    return params


def start(params, checkpoint, provider):
    """The RunState, solver and random stream of a new run, or as the checkpoint left them."""
    dtype, rng, solver = np.dtype(params['dtype']), np.random.default_rng(params['seed']), Solver(params)
    if checkpoint is None:
        tokens, num_sentences = provider.tokens('train')
        wordtoix, ixtoword, bias_init_vector = build_vocab(tokens, provider.words, num_sentences,
                                                           params['word_count_threshold'])
        model = init_model(params, provider.features.dim, bias_init_vector, rng, dtype)
    else:
        wordtoix, ixtoword = checkpoint['wordtoix'], checkpoint['ixtoword']
        model = {name: array.astype(dtype) for name, array in checkpoint['model'].items()}
        check_feature_size(provider.features, model)
    features = {'file': params['features'] or provider.features.path.name, 'dim': provider.features.dim,
                **provider.features.origin}
    extra = {'kind': KIND, 'wordtoix': wordtoix, 'ixtoword': ixtoword, 'features': features,
             'fingerprint': provider.fingerprint()}
    if params['resume']:
        state = resumed(params['resume'], checkpoint, model, PERPLEXITY, extra, solver, rng)
        if not require_same_data(params['resume'], checkpoint, extra['fingerprint'], params['allow_changed_data']):
            state.best, state.trend = None, {}
    else:
        if checkpoint:
            note_other_origin(checkpoint, provider.features.origin)
        state = RunState(model, PERPLEXITY, extra)
    if params['on_divergence'] == 'stop':
        state.good = None
    elif not state.good:
        state.keep_good(solver, rng)
    return state, solver, rng


# ---- the gradient check ---------------------------------------------------------------------------------------------

def grad_check(model, provider, wordtoix, params, rng):
    """Compare all gradients with finite differences, with dropout on and its masks fixed. Returns the exit code.

    Zeros, the biases of a new model, are moved away from 0 first: a unit whose inputs are all dropped would otherwise
    lie exactly at the kink of its ReLU, where there is no derivative to compare with.
    """
    for w in model.values():
        w[w == 0] = rng.uniform(-.1, .1, np.count_nonzero(w == 0))
    pairs = provider.sample_pairs('train', GRAD_CHECK_PAIRS, rng)
    batch = batch_of_pairs(pairs, provider, lookup_table(provider.words, wordtoix), np.float64)
    rng_state = rng.bit_generator.state
    dropout = draw_dropout(batch, model, params, rng)

    def cost():
        return cost_of(forward(batch, model, params, dropout)[0], GRAD_CHECK_PAIRS, model, params)[0]

    rng.bit_generator.state = rng_state
    _, grads, _ = cost_and_grads(batch, model, params, rng, Workers(params['num_threads']))
    chooser, all_right = np.random.default_rng(params['seed'] + 1), True
    print(f'dropout {params["drop_prob_encoder"]} / {params["drop_prob_decoder"]}, float64; '
          f'largest relative error of 10 elements, bound {GRAD_CHECK_BOUND:g}')
    for name in model:
        error = gradcheck.element_errors(cost, model[name], grads[name], chooser).max()
        right = bool(error < GRAD_CHECK_BOUND)    # NaN is not
        all_right &= right
        shape = '×'.join(map(str, model[name].shape))
        print(f'{name:6} {shape:12} {error:.1e}  {"ok" if right else "WRONG"}', flush=True)
    return 0 if all_right else 1


if __name__ == '__main__':
    sys.exit(main())

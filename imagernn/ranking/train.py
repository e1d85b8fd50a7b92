"""Train a ranking model: imagernn train-ranker -d flickr8k

The loop is in plain sight in train(). Writes checkpoints and a status file as it runs. Stopped by Ctrl-C or SIGTERM it
saves first; however it was stopped, it resumes with --resume.
"""

import argparse
import sys

from imagernn.corpus.flags import NO_WORD_VECTORS, add_data_flags
from imagernn.errors import loading, script
from imagernn.ranking.flags import (
    MODEL_PARAMS,
    RUN_PARAMS,
    add_evaluation_flags,
    add_model_flags,
    add_training_flags,
    check_training_flags,
)
from imagernn.runs.flags import HelpWithDefaults, add_optimizer_flags, add_output_flags, add_system_flags


def build_parser():
    parser = argparse.ArgumentParser(prog='imagernn train-ranker', formatter_class=HelpWithDefaults,
                                     description='Train a model that ranks images by sentences, and sentences by '
                                                 'images.')
    add_data_flags(parser)
    add_model_flags(parser)
    add_training_flags(parser)
    add_optimizer_flags(parser)
    add_evaluation_flags(parser)
    add_output_flags(parser)
    add_system_flags(parser)
    parser.set_defaults(fappend='ranker', solver='adam', learning_rate=2e-4, learning_rate_schedule='cosine',
                        grad_clip=2., grad_clip_by='norm')
    return parser


with loading(__name__, build_parser):    # --help does not wait for these
    import numpy as np

    from imagernn.corpus.known_words import words_report
    from imagernn.corpus.trained_on import (
        evaluation_step,
        note_other_origin,
        provider_for,
        require_same_data,
        require_splits,
        trained_data,
    )
    from imagernn.corpus.vocab import build_vocab, lookup_table
    from imagernn.corpus.word_vectors import word_vectors_for
    from imagernn.nn.schedules import schedule_of
    from imagernn.nn.solver import Solver
    from imagernn.nn.workers import Workers
    from imagernn.ranking.batch import batch_of_pairs, features_of, standard_of
    from imagernn.ranking.load import KIND, check_feature_size, load_ranker
    from imagernn.ranking.model import cost_and_grads, init_model
    from imagernn.ranking.split import split_recall_sum
    from imagernn.runs.ranks import world
    from imagernn.runs.run import Run
    from imagernn.runs.start import chosen_params
    from imagernn.runs.state import RECALL_SUM, RunState, require_resumable, resumed
    from imagernn.runs.terminal import report, say


@script
def main(argv=None):
    return train(*prepare(argv))


def prepare(argv):
    """What train() needs, from the command line: state, solver, rng, provider and params."""
    params, checkpoint = chosen_params(build_parser(), argv, load_ranker, load_resumable, MODEL_PARAMS, RUN_PARAMS,
                                       NO_WORD_VECTORS)
    check_training_flags(params)
    if checkpoint:
        path = params['resume'] or params['init_model_from']
        _, params['features'] = trained_data(checkpoint, path, params['dataset'], params['features'])
    provider = provider_for(params, params, params['ranker'] == 'regions')
    require_splits(provider)
    return *start(params, checkpoint, provider), provider, params


def load_resumable(path):
    """The checkpoint at path; InputError unless a run can resume from it."""
    checkpoint = load_ranker(path)
    require_resumable(path, checkpoint, RECALL_SUM)
    return checkpoint


def start(params, checkpoint, provider):
    """The RunState, solver and random stream of a new run, or as the checkpoint left them."""
    dtype, rng = np.dtype(params['dtype']), np.random.default_rng(params['seed'])
    solver = Solver(params, ['Ws'] if params['fix_word_vectors'] else [])
    features, ranker = provider.features, params['ranker']
    origin = {'file': params['features'] or features.path.name, 'dim': features.whole_dim, **features.origin}
    extra = {'kind': KIND, 'features': origin, 'fingerprint': provider.fingerprint()}
    if checkpoint is None:
        tokens, num_sentences = provider.tokens('train')
        extra['wordtoix'], extra['ixtoword'], log_frequencies = build_vocab(
            tokens, provider.words, num_sentences, params['word_count_threshold'])
        extra['standard'] = standard_of(provider, ranker)
        D = features.region_dim if ranker == 'regions' else features.whole_dim
        state = RunState(init_model(params, D, len(extra['ixtoword']), rng, dtype), RECALL_SUM, extra)
        if params['word_vectors']:
            state.model['Ws'][:], *found = word_vectors_for(params['word_vectors'], extra['ixtoword'], log_frequencies,
                                                            params['word_encoding_size'], rng)
            report(*found)
    else:
        path = params['resume'] or params['init_model_from']
        check_feature_size(features, checkpoint, path)
        extra |= {name: checkpoint[name] for name in ('wordtoix', 'ixtoword', 'standard')}
        model = {name: array.astype(dtype) for name, array in checkpoint['model'].items()}
        if params['resume']:
            state = resumed(path, checkpoint, model, RECALL_SUM, extra, solver, rng)
            if not require_same_data(path, checkpoint, extra['fingerprint'], params['allow_changed_data']):
                state.forget_scores()
        else:
            note_other_origin(checkpoint, features.origin)
            state = RunState(model, RECALL_SUM, extra)
    state.keep_average_where(params['weight_average'])
    state.keep_good_where(params['on_divergence'], solver, rng)
    return state, solver, rng


def train(state, solver, rng, provider, params):
    """The training loop. Returns the exit code: 0, 1 if the run was aborted, 130 or 143 if it was stopped."""
    workers = Workers(params['num_threads'], world())    # with mpirun, its processes share each batch
    dtype = np.dtype(params['dtype'])
    lookup = lookup_table(provider.words, state.extra['wordtoix'])
    num_sentences = provider.getSplitSize('train', 'sentences')
    regions = features_of(provider, provider.image_numbers('val', 1), params['ranker']).shape[1]
    say(f'{num_sentences} training sentences, {len(state.extra["ixtoword"])} words with END, {regions} regions an '
        f'image, {sum(w.size for w in state.model.values()):,} parameters')
    report(*words_report(provider, lookup, params))

    batch_size = min(params['batch_size'], provider.getSplitSize('train', 'images'))    # no image twice
    iters_per_epoch = max(1, num_sentences // batch_size)
    with Run(state, solver, rng, params, iters_per_epoch, schedule_of(params, iters_per_epoch),
             subcommand='train-ranker',
             next_step=lambda path: evaluation_step('evaluate-ranker', path, params, provider)) as run:
        for _ in run.iterations():
            # different images, each with one of its sentences: the others of the batch are what does not fit
            pairs = provider.sample_pairs('train', batch_size, rng, distinct=True)
            batch = batch_of_pairs(pairs, provider, lookup, params['ranker'], state.extra['standard'], dtype)

            # forward and backward pass: the cost, and its gradient by every parameter
            cost, grads, stats = cost_and_grads(batch, state.model, params, rng, workers)

            # learn from it, unless it shows that the run has diverged: then it rolls back or aborts
            if run.passes(cost, grads, stats):
                run.update(grads, workers)

            # now and then, and at the end, see how well it ranks images and sentences that it was not trained on
            if run.evaluates():
                checkpoint = {**state.extra, 'model': state.evaluated_model, 'params': params}
                run.evaluated(split_recall_sum(provider, 'val', checkpoint, params['eval_max_images'], workers))
    return run.exit_code


if __name__ == '__main__':
    sys.exit(main())

"""Train a captioning model: python driver.py -d flickr8k

The loop is in plain sight in train(); what it calls is in imagernn/. Writes checkpoints and a status file as it runs.
Stopped by Ctrl-C or SIGTERM it saves first; however it was stopped, it resumes with --resume.
"""

import argparse
import sys

from imagernn.captioning.flags import (
    add_evaluation_flags,
    add_model_flags,
    add_self_critical_flags,
    add_training_flags,
)
from imagernn.corpus.flags import add_data_flags
from imagernn.errors import loading, script
from imagernn.runs.flags import HelpWithDefaults, add_optimizer_flags, add_output_flags, add_system_flags


def build_parser():
    parser = argparse.ArgumentParser(description='Train an image captioning model.',
                                     formatter_class=HelpWithDefaults)
    add_data_flags(parser)
    add_model_flags(parser)
    add_training_flags(parser)
    add_self_critical_flags(parser)
    add_optimizer_flags(parser)
    add_evaluation_flags(parser)
    add_output_flags(parser)
    add_system_flags(parser)
    return parser


with loading(__name__, build_parser):    # --help does not wait for these
    import numpy as np

    from imagernn.captioning.batch import batch_of_pairs
    from imagernn.captioning.evaluate import split_cider, split_perplexity
    from imagernn.captioning.grad_check import grad_check
    from imagernn.captioning.model import cost_and_grads, cost_of, forward
    from imagernn.captioning.self_critical import SelfCritical
    from imagernn.captioning.start import perplexity_limits, prepare
    from imagernn.corpus.known_words import words_report
    from imagernn.corpus.trained_on import evaluation_step
    from imagernn.corpus.vocab import lookup_table
    from imagernn.nn.schedules import schedule_of
    from imagernn.nn.workers import Workers
    from imagernn.runs.divergence import cost_doubled, perplexity_rose
    from imagernn.runs.ranks import world
    from imagernn.runs.run import Run
    from imagernn.runs.terminal import report, say


@script
def main(argv=None):
    state, solver, rng, provider, params = prepare(build_parser(), argv)
    if params['do_grad_check']:
        return grad_check(state.model, provider, state.extra['wordtoix'], params, rng)
    return train(state, solver, rng, provider, params)


def train(state, solver, rng, provider, params):
    """The training loop. Returns the exit code: 0, 1 if the run was aborted, 130 or 143 if it was stopped."""
    workers = Workers(params['num_threads'], world())    # with mpirun, its processes share each batch
    dtype = np.dtype(params['dtype'])
    wordtoix, ixtoword = state.extra['wordtoix'], state.extra['ixtoword']
    lookup = lookup_table(provider.words, wordtoix)
    num_sentences = provider.getSplitSize('train', 'sentences')
    say(f'{num_sentences} training sentences, {len(ixtoword)} words with END, '
        f'{sum(w.size for w in state.model.values()):,} parameters')
    report(*words_report(provider, lookup, params))

    def probe():
        """As in the loop, on a batch drawn apart and without dropout: whether the cost has exploded."""
        pairs = provider.sample_pairs('train', params['batch_size'], np.random.default_rng(0))
        with np.errstate(all='ignore'):
            logprobs, _ = forward(batch_of_pairs(pairs, provider, lookup, dtype), state.model, params,
                                  smoothing=params['label_smoothing'])
            return cost_doubled(state, cost_of(logprobs, params['batch_size'], state.model, params)[0])

    iters_per_epoch = max(1, num_sentences // params['batch_size'])
    self_critical, watch = None, {'checks': (cost_doubled, perplexity_rose(params['batch_size'])), 'probe': probe,
                                  **perplexity_limits(params)}
    if params['self_critical_after'] >= 0:    # rewards take the place of the next word: perplexity may rise
        self_critical, watch = SelfCritical(provider, lookup, params), {}
    with Run(state, solver, rng, params, iters_per_epoch, schedule_of(params, iters_per_epoch), **watch,
             next_step=lambda path: evaluation_step('evaluate', path, params, provider)) as run:
        for _ in run.iterations():
            if self_critical and state.epoch > params['self_critical_after']:
                # captions that the model draws itself: those with a high reward become likelier
                cost, grads, stats = self_critical.step(state.model, rng, workers)
            else:
                # a batch of image-sentence pairs, drawn with replacement; the words are integers already
                pairs = provider.sample_pairs('train', params['batch_size'], rng)
                batch = batch_of_pairs(pairs, provider, lookup, dtype)

                # forward and backward pass: the cost, and its gradient by every parameter
                cost, grads, stats = cost_and_grads(batch, state.model, params, rng, workers)

            # learn from it, unless it shows that the run has diverged: then it rolls back or aborts
            if run.passes(cost, grads, stats):
                run.update(grads, workers)

            # now and then, and at the end, see how good the model is on images that it was not trained on
            if run.evaluates() and self_critical:
                run.evaluated(split_cider(provider, 'val', state.evaluated_model, params, ixtoword,
                                          params['eval_max_images'], workers))
            elif run.evaluates():
                run.evaluated(split_perplexity(provider, 'val', state.evaluated_model, params, wordtoix,
                                               params['eval_max_images'], params['eval_batch_size'], workers))
    return run.exit_code


if __name__ == '__main__':
    sys.exit(main())

"""Our side of the benchmark: every call into imagernn that is timed.

Has the same methods as torch_peer.Peer, so that compare.py can treat both sides alike.
"""

import contextlib
import io

import numpy as np
from machine import Stopwatch

from imagernn.captioning.evaluate import batches_perplexity, caption_images
from imagernn.captioning.model import cost_and_grads, init_model, logprobs_and_grads
from imagernn.captioning.self_critical import Reward, draw_captions, self_critical_cost_and_grads
from imagernn.corpus.captioned_images import DataProvider
from imagernn.corpus.token_store import build_store
from imagernn.corpus.vocab import lookup_table
from imagernn.nn.solver import Solver
from imagernn.nn.workers import Workers

THREADS = 2
PARAMS = {'regc': 1e-8, 'drop_prob_encoder': .5, 'drop_prob_decoder': .5, 'solver': 'rmsprop', 'decay_rate': .999,
          'smooth_eps': 1e-8, 'adam_beta1': .9, 'grad_clip': 5,
          'learning_rate': 1e-5,     # low, so that the weights do not explode on random sentences
          'tanhC_version': 1}        # h = o·tanh(c), as in nn.LSTM


class Ours:
    """A model, its solver and its threads. flags: those of training that differ from PARAMS."""

    def __init__(self, size, generator, rng, flags=None):
        self.params = {**PARAMS, 'generator': generator, 'image_encoding_size': size.hidden,
                       'word_encoding_size': size.hidden, 'hidden_size': size.hidden, 'attention_size': size.attention,
                       **(flags or {})}
        self.model = init_model(self.params, size.features, np.zeros(size.V), rng, D_region=size.features)
        self.rng, self.workers, self.solver = rng, Workers(THREADS), Solver(self.params)
        self.ixtoword = {ix: str(ix) for ix in range(size.V)}

    def train_step(self, batch):
        """Make one update, with dropout. Returns the cost."""
        cost, grads, _ = cost_and_grads(batch, self.model, self.params, self.rng, self.workers)
        self.solver.step(self.model, grads, workers=self.workers)
        return cost

    def self_critical_step(self, images, features, num_samples, reward):
        """Make one update on captions that the model draws. Returns a Stopwatch's seconds, and the captions' lengths.

        images (M,): their numbers, for the reward; features (M, D).
        """
        watch, seen = Stopwatch(), []

        def timed_reward(images, words, lengths):
            watch.lap('drawing')
            rewards = reward(images, words, lengths)
            watch.lap('reward')
            seen.append(lengths)
            return rewards

        _, grads, _ = self_critical_cost_and_grads(images, features, timed_reward, num_samples, self.model, self.params,
                                                   self.rng, self.workers)
        self.solver.step(self.model, grads, workers=self.workers)
        watch.lap('gradients and update')
        return watch.seconds, seen[0]

    def sample(self, features, num_samples):
        """num_samples captions of each row of features (M, D): their words with END (K,), their lengths."""
        return draw_captions(features, num_samples, self.model, self.params, self.rng, self.workers)

    def weighted_grads(self, batch, weights):
        """The gradients of -sum(weights · ln p), without dropout. weights (P,): of the words of the batch."""
        return logprobs_and_grads(batch, self.model, self.params, weights, workers=self.workers)[1]

    def cost_and_grads(self, batch):
        """The cost of a batch and its gradients, without dropout."""
        return cost_and_grads(batch, self.model, self.params, workers=self.workers)[:2]

    def learn(self, batch, ppl, max_steps=200):
        """Train on one batch, without dropout, until its perplexity is at most ppl. Returns the perplexity."""
        solver = Solver({**self.params, 'solver': 'adam', 'learning_rate': 3e-3})
        for _ in range(max_steps):
            _, grads, stats = cost_and_grads(batch, self.model, self.params, workers=self.workers)
            if stats['ppl2'] <= ppl:
                break
            solver.step(self.model, grads, workers=self.workers)
        return stats['ppl2']

    def perplexity(self, batches):
        """The perplexity per word of all batches together."""
        return batches_perplexity(batches, self.model, self.params, self.workers)

    def greedy(self, features):
        """The caption of each row of features (n, D) by greedy search: n lists of word indices."""
        return self.beam(features, 1)

    def beam(self, features, beam_size):
        """The best caption of each row of features (n, D) by beam search: n lists of word indices."""
        options = {'beam_size': beam_size, 'temperature': 0, 'nbest': 1, 'seed': 0}
        with contextlib.redirect_stderr(io.StringIO()):    # no progress bar
            found = list(caption_images(lambda start, stop: features[start:stop], len(features), self.model,
                                        self.params, self.ixtoword, options, self.workers))
        return [[int(word) for word in best.words] for best, in found]


def our_reward(references, words, bleu_weight):
    """The Reward of a split of images.

    references: of each image, its sentences as lists of word indices. words: the largest index in the vocabulary.
    """
    images = [{'filename': f'{image}.jpg', 'imgid': image, 'split': 'train',
               'sentences': [{'tokens': [str(ix) for ix in sentence]} for sentence in sentences]}
              for image, sentences in enumerate(references)]
    provider = DataProvider(None, build_store(images), None)
    lookup = lookup_table(provider.words, {str(ix): ix for ix in range(1, words + 1)})
    return Reward(provider, 'train', lookup, bleu_weight)

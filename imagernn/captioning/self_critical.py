"""Self-critical training: the model draws captions of its own, and those that score above its average become likelier.

(Rennie et al. 2017; the average over the image's other samples as the baseline: Luo 2020.) The reward is CIDEr-D, with
the document frequencies of the training references, plus BLEU-4 by a weight; END counts as a token of both. Knows how a
reward becomes a gradient; the formulas of the scores are those of metrics.
"""

import numpy as np

from imagernn.captioning.batch import make_batch
from imagernn.captioning.model import encode_images, logprobs_and_grads, make_tick
from imagernn.metrics.bleu import bleu_counts, geometric_means
from imagernn.metrics.cider import cider_scores
from imagernn.metrics.ngrams import ORDERS, Captions, count_ngrams
from imagernn.nn.search import sample_search
from imagernn.nn.workers import Workers


class Reward:
    """The rewards of captions of a split's images.

    provider: a DataProvider; lookup: vocab.lookup_table of its words. Words of the references outside the vocabulary
    keep a number of their own, so that a caption cannot match them. bleu_weight: how much BLEU-4 (0 to 1) adds to
    CIDEr-D (0 to 10).
    """

    def __init__(self, provider, split, lookup, bleu_weight):
        self._bleu_weight, self._size = bleu_weight, int(lookup.max(initial=0)) + 2 + len(lookup)
        unknown = lookup.max(initial=0) + 1 + np.arange(len(lookup))
        numbers = np.where(lookup < 0, unknown, lookup)
        pairs, = provider.iter_pairs(split, batch_size=provider.getSplitSize(split))
        words, lengths = provider.indices(pairs.sentences, numbers)
        self._words, self._lengths = _with_end(words, lengths)
        self._starts = np.cumsum(self._lengths) - self._lengths
        self.images, first = np.unique(pairs.images, return_index=True)         # (N,), sorted: the numbers of images
        order = np.argsort(pairs.images, kind='stable')
        counts = np.bincount(np.searchsorted(self.images, pairs.images))
        self._sentences = np.split(order, np.cumsum(counts)[:-1])               # of each image, its references
        self._documents = [self._document_frequencies(n) for n in ORDERS]

    def _document_frequencies(self, n):
        """The keys of the n-grams of all references, sorted, and in the references of how many images each occurs."""
        sentence = np.repeat(np.arange(len(self._lengths)), self._lengths)
        left = (self._starts + self._lengths)[sentence] - np.arange(len(self._words))
        keys = self._keys(self._words, np.flatnonzero(left >= n), n)
        image_of = np.empty(len(self._lengths), np.int64)
        for image, sentences in enumerate(self._sentences):
            image_of[sentences] = image
        seen, number = np.unique(keys, return_inverse=True)
        images = image_of[sentence[left >= n]]
        distinct = np.unique(number * len(self.images) + images)
        return seen, np.bincount(distinct // len(self.images), minlength=len(seen))

    def _keys(self, words, places, n):
        """A number for the n-gram that begins at each of the places, equal for equal n-grams."""
        keys = np.zeros(len(places), np.uint64)
        for k in range(n):    # beyond 65,000 words the keys of 4-grams wrap around, and collide very rarely
            keys = keys * np.uint64(self._size) + words[places + k].astype(np.uint64)
        return keys

    def __call__(self, images, words, lengths):
        """The reward of each of n captions (n,).

        images (n,): their images' numbers in the provider; words (K,): word indices, one caption after another, with
        END where a caption came to its end; lengths (n,).
        """
        references = [self._sentences[place] for place in np.searchsorted(self.images, images)]
        captions = self._captions(words, lengths, references)
        ngrams = count_ngrams(captions)
        scores, _ = cider_scores(captions, ngrams, [self._inverse_frequencies(captions, found, n)
                                                    for n, found in zip(ORDERS, ngrams, strict=True)])
        if self._bleu_weight:
            scores = scores + self._bleu_weight * sentence_bleu(bleu_counts(captions, ngrams))
        return scores

    def _captions(self, words, lengths, references):
        """metrics' Captions of each caption followed by the references of its image."""
        sizes = np.array([1 + len(each) for each in references])
        is_candidate = np.zeros(sizes.sum(), bool)
        is_candidate[np.cumsum(sizes) - sizes] = True
        chosen = np.concatenate(references)
        all_lengths = np.empty(len(is_candidate), np.int64)
        all_lengths[is_candidate], all_lengths[~is_candidate] = lengths, self._lengths[chosen]
        all_words = np.empty(all_lengths.sum(), np.int64)
        of_candidate = np.repeat(is_candidate, all_lengths)
        all_words[of_candidate] = words
        all_words[~of_candidate] = self._words[_ranges(self._starts[chosen], self._lengths[chosen])]
        return Captions(all_words, all_lengths, np.repeat(np.arange(len(sizes)), sizes), is_candidate)

    def _inverse_frequencies(self, captions, ngrams, n):
        """ln(training images / training images with the n-gram), by the n-gram's number; a count of 0 is taken as 1."""
        keys = self._keys(captions.words, ngrams.first, n)
        seen, documents = self._documents[n - 1]
        place = np.minimum(np.searchsorted(seen, keys), len(seen) - 1)
        found = np.where(seen[place] == keys, documents[place], 0)
        return np.log(len(self.images)) - np.log(np.maximum(found, 1))


class SelfCritical:
    """Self-critical training of a run: the rewards of its training split, and its flags."""

    def __init__(self, provider, lookup, params):
        self._provider, self._params = provider, params
        self._reward = Reward(provider, 'train', lookup, params['bleu_weight'])

    def step(self, model, rng, workers):
        """The cost, gradients and stats of one batch of images, drawn with replacement."""
        images = self._reward.images[rng.integers(len(self._reward.images), size=self._params['self_critical_images'])]
        features = self._provider.features.rows(self._provider.imgids[images], dtype=model['Wd'].dtype)
        return self_critical_cost_and_grads(images, features, self._reward, self._params['self_critical_samples'],
                                            model, self._params, rng, workers)


def sentence_bleu(counts):
    """BLEU-4 of each caption by itself, without smoothing: rows of bleu_counts (n, 10) -> (n,), 0 to 1."""
    bleu = geometric_means(counts[:, :4], counts[:, 4:8])[:, 3]
    return bleu * np.exp(np.minimum(1 - counts[:, 9] / np.maximum(counts[:, 8], 1), 0))


def draw_captions(features, num_samples, model, params, rng, workers=None):
    """num_samples captions of each image, drawn word by word from the model, without dropout.

    features (M, D). Returns words (K,), with END where a caption came to its end, and lengths (M · num_samples,), the
    samples of an image one after another. Each thread draws the captions of a part of the images.
    """
    workers = workers or Workers()
    tick = make_tick(model, params, workers)
    shares = np.array_split(np.arange(len(features)), min(workers.num_parts, len(features)))
    seeds = rng.integers(2 ** 63, size=len(shares))

    def draw(work):
        (share, seed), scratch = work
        state = encode_images(features[share], model, params)
        each = np.repeat(np.arange(len(share)), num_samples)
        state = tuple(rows[each] for rows in state)
        drawn = sample_search(lambda words, state: tick(words, state, scratch), state, np.random.default_rng(seed))
        return [sentence.words for sentence, in drawn]

    found = workers.ranks.gather(workers.run_share(draw, list(zip(shares, seeds, strict=True))))
    drawn = [words for of_share in found for words in of_share]
    return np.array([word for words in drawn for word in words]), np.array(list(map(len, drawn)))


def weights_of(rewards, num_samples, lengths):
    """The weight of each drawn word in the cost (K,): the caption's advantage over the number of all words.

    The advantage is a caption's reward minus the mean reward of its image's other samples; its expectation leaves the
    gradient of the expected reward unbiased. rewards, lengths (M · num_samples,).
    """
    by_image = rewards.reshape(-1, num_samples)
    others = (by_image.sum(axis=1, keepdims=True) - by_image) / (num_samples - 1)
    return np.repeat((by_image - others).ravel() / lengths.sum(), lengths)


def self_critical_cost_and_grads(images, features, reward, num_samples, model, params, rng, workers=None):
    """One step of self-critical training on M images: the cost, its gradients and stats.

    images (M,): their numbers, for the reward; features (M, D). The cost is minus the mean reward. The gradients
    estimate its gradients, but are divided by the number of drawn words, not of captions, as in Luo's program; those of
    the regularization are added.
    """
    words, lengths = draw_captions(features, num_samples, model, params, rng, workers)
    rewards = reward(np.repeat(images, num_samples), words, lengths)
    batch, weights = weighted_batch(features, num_samples, words, lengths, weights_of(rewards, num_samples, lengths))
    _, grads = logprobs_and_grads(batch, model, params, weights.astype(features.dtype), workers=workers)
    mean = float(rewards.mean())
    return -mean, grads, {'reward': mean, 'length': float(lengths.mean())}


def weighted_batch(features, num_samples, words, lengths, weights):
    """The Batch of drawn captions, and the weights (P,) of its target words.

    A caption without END was cut off at search.MAX_LENGTH, where no END was drawn; so its END has the weight 0.
    """
    ends = np.cumsum(lengths) - 1
    is_end = np.zeros(len(words), bool)
    is_end[ends] = words[ends] == 0
    batch = make_batch(features, np.repeat(np.arange(len(features)), num_samples), words[~is_end],
                       lengths - is_end[ends])
    steps = lengths - is_end[ends] + 1                                          # of each caption, END included
    table = np.zeros((len(lengths), steps.max()), weights.dtype)                # (N, T), 0 where nothing was drawn
    table[np.arange(steps.max()) < lengths[:, None]] = weights
    packed = table[batch.sentences.order]
    alive = np.arange(steps.max()) < steps[batch.sentences.order][:, None]
    return batch, packed.T[alive.T]


def _with_end(words, lengths):
    """Append END, 0, to each sentence."""
    ends = np.cumsum(lengths + 1) - 1
    out = np.zeros(len(words) + len(lengths), words.dtype)
    is_word = np.ones(len(out), bool)
    is_word[ends] = False
    out[is_word] = words
    return out, lengths + 1


def _ranges(starts, lengths):
    """The numbers start, start + 1, … of each range, one range after another."""
    return np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())

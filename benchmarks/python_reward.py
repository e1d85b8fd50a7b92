"""The reward of self-critical training in plain Python, as the usual programs compute it: CIDEr-D and BLEU-4.

Captions are lists of word indices with END; n-grams are tuples, counted in dicts. The formulas are those of
imagernn.captioning.self_critical, written independently, so the rewards are equal.
"""

import math
from collections import defaultdict

import numpy as np

ORDERS = range(1, 5)
SIGMA = 6.    # of CIDEr-D's penalty on a difference in length, in words


class PythonReward:
    """The rewards of captions of a split's images.

    references: of each image, its sentences as lists of word indices, without END. keep: count the n-grams of an
    image's references once and for all; otherwise again for each caption, as the usual programs do.
    """

    def __init__(self, references, bleu_weight, keep):
        self._references = [[[*sentence, 0] for sentence in sentences] for sentences in references]
        self._bleu_weight, self._keep, self._kept = bleu_weight, keep, {}
        self._documents = defaultdict(int)
        for sentences in self._references:
            for ngram in {ngram for sentence in sentences for ngram in count_ngrams(sentence)}:
                self._documents[ngram] += 1
        self._log_images = math.log(len(references))

    def __call__(self, images, words, lengths):
        """The reward of each of n captions (n,): images (n,), words (K,) one caption after another, lengths (n,)."""
        captions = [caption.tolist() for caption in np.split(words, np.cumsum(lengths)[:-1])]
        return np.array([self._reward(image, caption) for image, caption in zip(images.tolist(), captions,
                                                                                strict=True)])

    def _reward(self, image, caption):
        references, limits, lengths = self._kept.get(image) or self._counted(image)
        counts = count_ngrams(caption)
        weighted = self._weighted(counts)
        reward = 10 / len(references) * sum(cider_d(weighted, len(caption), *reference) for reference in references)
        if self._bleu_weight:
            reward += self._bleu_weight * bleu_4(counts, len(caption), limits, lengths)
        return reward

    def _counted(self, image):
        """What CIDEr-D needs of each of an image's references; and what BLEU needs of them all."""
        counts = [count_ngrams(sentence) for sentence in self._references[image]]
        lengths = [len(sentence) for sentence in self._references[image]]
        limits = defaultdict(int)
        for each in counts:
            for ngram, count in each.items():
                limits[ngram] = max(limits[ngram], count)
        found = [(self._weighted(each), length) for each, length in zip(counts, lengths, strict=True)], limits, lengths
        if self._keep:
            self._kept[image] = found
        return found

    def _weighted(self, counts):
        """For each n: {n-gram: tf-idf}, and the norm of these values."""
        values = [{} for _ in ORDERS]
        squares = [0.] * len(ORDERS)
        for ngram, count in counts.items():
            value = count * (self._log_images - math.log(max(1, self._documents.get(ngram, 0))))
            values[len(ngram) - 1][ngram] = value
            squares[len(ngram) - 1] += value * value
        return values, [math.sqrt(each) for each in squares]


def count_ngrams(sentence):
    """{n-gram: how often it occurs} for n = 1 to 4."""
    counts = defaultdict(int)
    for n in ORDERS:
        for start in range(len(sentence) - n + 1):
            counts[tuple(sentence[start:start + n])] += 1
    return counts


def cider_d(weighted, length, reference, reference_length):
    """CIDEr-D of a caption with one reference, 0 to 1. weighted, reference: as PythonReward._weighted gives them."""
    total = 0.
    for own, norm, other, other_norm in zip(*weighted, *reference, strict=True):
        dot = sum(min(value, other[ngram]) * other[ngram] for ngram, value in own.items() if ngram in other)
        if norm and other_norm:
            total += dot / (norm * other_norm)
    return total / len(ORDERS) * math.exp(-((length - reference_length) ** 2) / (2 * SIGMA ** 2))


def bleu_4(counts, length, limits, lengths):
    """BLEU-4 of a caption by itself, without smoothing, 0 to 1.

    limits: how often each n-gram occurs at most in a reference; lengths: of the references.
    """
    matches, totals = [0] * len(ORDERS), [0] * len(ORDERS)
    for ngram, count in counts.items():
        totals[len(ngram) - 1] += count
        matches[len(ngram) - 1] += min(count, limits.get(ngram, 0))
    if not all(matches):
        return 0.
    precision = math.exp(sum(math.log(match / total) for match, total in zip(matches, totals, strict=True)) / 4)
    closest = min(lengths, key=lambda other: (abs(other - length), other))
    return precision * math.exp(min(0., 1 - closest / length))

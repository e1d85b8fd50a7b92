"""CIDEr-D: tf-idf n-gram agreement with the references; rare n-grams weigh more.

The document frequencies come from the very references that are scored, so a score belongs to its set of images.
"""

import math
from collections import Counter

import numpy as np

from imagernn.metrics.ngrams import ORDERS, check_captions, ngram_counts

SIGMA = 6.0  # spread of the penalty on a difference in length, in words


def cider(candidates, references):
    """CIDEr-D of each caption and its mean.

    candidates, references: n token lists, n lists of token lists (see ngrams.check_captions).
    Returns mean (float) and per_caption (n,), on the scale of pycocoevalcap: 10 is a perfect match and 1.0 what is
    commonly printed as 100. A single image scores 0: every n-gram occurs in all images and weighs ln 1.
    Raises ValueError for input that cannot be scored.
    Source: Vedantam et al., CVPR 2015, equations 1-3 (CIDEr) and the section on gameability (CIDEr-D);
    pycocoevalcap 1.2, Cider: no stemming, and ln(images / documents) with a document count of at least 1.
    """
    check_captions(candidates, references)
    counted = [[ngram_counts(caption) for caption in image] for image in references]
    weights = inverse_frequencies(counted)
    default = math.log(len(counted))  # of an n-gram that no reference has
    per_caption = np.empty(len(candidates))  # (n,)
    for index, (candidate, image) in enumerate(zip(candidates, counted, strict=True)):
        vector = tfidf(ngram_counts(candidate), weights, default)
        scores = [similarity(vector, tfidf(counts, weights, default)) for counts in image]
        per_caption[index] = 10 * sum(scores) / len(scores)
    return float(per_caption.mean()), per_caption


def inverse_frequencies(counted):
    """For n = 1..4, a dict n-gram → ln(images / images with the n-gram in some reference).

    counted: for each image, for each reference, its ngram_counts.
    """
    weights = []
    for order in range(len(ORDERS)):
        documents = Counter()
        for image in counted:
            documents.update(set().union(*(counts[order] for counts in image)))
        weights.append({ngram: math.log(len(counted)) - math.log(found) for ngram, found in documents.items()})
    return weights


def tfidf(counts, weights, default):
    """One caption's vectors for n = 1..4 as dicts n-gram → count · weight, their Euclidean norms, and its length."""
    vectors = [{ngram: count * known.get(ngram, default) for ngram, count in found.items()}
               for found, known in zip(counts, weights, strict=True)]
    norms = [math.sqrt(sum(value * value for value in vector.values())) for vector in vectors]
    # as in pycocoevalcap: length is the number of bigrams, so captions of no word and of one word are equally long
    return vectors, norms, sum(counts[1].values())


def similarity(candidate, reference):
    """Mean over n = 1..4 of the clipped cosine of two captions, times the penalty on their difference in length.

    candidate, reference: what tfidf returns. A fraction.
    """
    vectors, norms, length = candidate
    other_vectors, other_norms, other_length = reference
    total = 0.0
    for vector, norm, other, other_norm in zip(vectors, norms, other_vectors, other_norms, strict=True):
        if norm and other_norm:
            shared = [(value, other[ngram]) for ngram, value in vector.items() if ngram in other]
            total += sum(min(mine, theirs) * theirs for mine, theirs in shared) / (norm * other_norm)
    return total / len(ORDERS) * math.exp(-((length - other_length) ** 2) / (2 * SIGMA**2))

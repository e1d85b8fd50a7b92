"""BLEU twice: as the COCO tools compute it, and as NeuralTalk's multi-bleu.perl prints it.

Both count clipped n-gram matches alike; they differ in the brevity penalty, the smoothing and the unit.
"""

import math
from typing import NamedTuple

import numpy as np

from imagernn.metrics.ngrams import check_captions, ngram_counts

# The COCO tools' smoothing: matches + TINY over n-grams + SMALL, so that nothing divides by zero.
TINY, SMALL = 1e-15, 1e-9


class MultiBleu(NamedTuple):
    """What multi_bleu found; str() gives the very line that multi-bleu.perl prints."""

    bleu: tuple  # BLEU-1..4, percent
    hyp_len: int  # tokens in all candidates
    ref_len: int  # tokens in the references closest in length, one an image

    def __str__(self):
        if not self.ref_len:  # as in NeuralTalk: every reference is empty
            return 'BLEU = 0, 0/0/0/0 (BP=0, ratio=0, hyp_len=0, ref_len=0)'
        scores = '/'.join(f'{score:.1f}' for score in self.bleu)
        ratio = self.hyp_len / self.ref_len
        return f'BLEU = {scores} (BP=1.000, ratio={ratio:.3f}, hyp_len={self.hyp_len}, ref_len={self.ref_len})'


def multi_bleu(candidates, references):
    """Corpus BLEU without a brevity penalty, as in NeuralTalk: short captions are not punished.

    candidates, references: n token lists, n lists of token lists (see ngrams.check_captions).
    Returns a MultiBleu, BLEU in percent. A BLEU whose precisions include a zero is 0.
    Raises ValueError for input that cannot be scored.
    Source: Papineni et al., ACL 2002, section 2.3, its brevity penalty left out; eval/multi-bleu.perl of NeuralTalk,
    where the penalty is commented out. Of two references equally close in length, the shorter counts.
    """
    counts = corpus_counts(candidates, references).sum(axis=0)  # (10,)
    bleu = geometric_means(counts[:4].tolist(), counts[4:8].tolist())
    return MultiBleu(tuple(100 * score for score in bleu), hyp_len=int(counts[8]), ref_len=int(counts[9]))


def coco_bleu(candidates, references):
    """Corpus BLEU-1..4 and BLEU-1..4 of each caption, with the brevity penalty of the closest reference length.

    candidates, references: n token lists, n lists of token lists (see ngrams.check_captions).
    Returns bleu (4,) and per_caption (n, 4), fractions. The corpus BLEU comes from counts summed over images and is not
    the mean of per_caption. Smoothing makes "nothing matched" a very small number instead of 0.
    Raises ValueError for input that cannot be scored.
    Source: Papineni et al., ACL 2002, section 2.3; pycocoevalcap 1.2, Bleu(4), its option "closest".
    """
    counts = corpus_counts(candidates, references)  # (n, 10)
    per_caption = np.array([penalised_bleu(row) for row in counts.tolist()])  # (n, 4)
    return np.array(penalised_bleu(counts.sum(axis=0).tolist())), per_caption


def corpus_counts(candidates, references):
    """Everything BLEU needs of each image, as integers (n, 10).

    Columns: clipped matches for n = 1..4, n-grams in the candidate for n = 1..4, length of the candidate, length of the
    reference closest to it (of two equally close, the shorter). Rows may be summed.
    Raises ValueError for input that cannot be scored.
    """
    check_captions(candidates, references)
    return np.array([image_counts(*pair) for pair in zip(candidates, references, strict=True)])  # (n, 10)


def image_counts(candidate, references):
    """One row of corpus_counts, as a list of 10."""
    found = [ngram_counts(reference) for reference in references]
    matches, totals = [], []
    for order, counts in enumerate(ngram_counts(candidate)):
        limits = [reference[order] for reference in found]
        matches.append(sum(min(count, max(limit.get(ngram, 0) for limit in limits))
                           for ngram, count in counts.items()))
        totals.append(sum(counts.values()))
    length = len(candidate)
    closest = min((abs(len(reference) - length), len(reference)) for reference in references)[1]
    return [*matches, *totals, length, closest]


def geometric_means(matches, totals, tiny=0.0, small=0.0):
    """Papineni's equation without the penalty, for N = 1..4 with equal weights: exp of the mean ln precision.

    matches, totals: 4 numbers each. Returns 4 fractions; 0 where a precision is 0, or where there are no n-grams.
    """
    means, log_sum = [], 0.0
    for order, (match, total) in enumerate(zip(matches, totals, strict=True), start=1):
        numerator, denominator = match + tiny, total + small
        log_sum += math.log(numerator / denominator) if numerator and denominator else -math.inf
        means.append(math.exp(log_sum / order))
    return means


def penalised_bleu(counts):
    """Smoothed BLEU-1..4 times the brevity penalty exp(1 − reference length / candidate length), if that is below 1.

    counts: 10 numbers, a row of corpus_counts or a sum of rows. Returns 4 fractions.
    """
    ratio = (counts[8] + TINY) / (counts[9] + SMALL)
    penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    return [penalty * mean for mean in geometric_means(counts[:4], counts[4:8], TINY, SMALL)]

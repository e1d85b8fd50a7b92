"""BLEU twice: as the COCO tools compute it, and as NeuralTalk's multi-bleu.perl prints it.

Both count clipped n-gram matches alike; they differ in the brevity penalty, the smoothing and the unit.
"""

from typing import NamedTuple

import numpy as np

from imagernn.metrics.ngrams import ORDERS, begins, count_ngrams, read_captions

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
    captions = read_captions(candidates, references)
    return multi_bleu_of(bleu_counts(captions, count_ngrams(captions)).sum(axis=0))


def coco_bleu(candidates, references):
    """Corpus BLEU-1..4 and BLEU-1..4 of each caption, with the brevity penalty of the closest reference length.

    candidates, references: n token lists, n lists of token lists (see ngrams.check_captions).
    Returns bleu (4,) and per_caption (n, 4), fractions. The corpus BLEU comes from counts summed over images and is not
    the mean of per_caption. Smoothing makes "nothing matched" a very small number instead of 0.
    Raises ValueError for input that cannot be scored.
    Source: Papineni et al., ACL 2002, section 2.3; pycocoevalcap 1.2, Bleu(4), its option "closest".
    """
    captions = read_captions(candidates, references)
    counts = bleu_counts(captions, count_ngrams(captions))
    return penalised_bleu(counts.sum(axis=0)), penalised_bleu(counts)


def bleu_counts(captions, ngrams):
    """Everything BLEU needs of each image, as integers (n, 10). Rows may be summed.

    captions: Captions; ngrams: what count_ngrams makes of them.
    Columns: clipped matches for n = 1..4, n-grams in the candidate for n = 1..4, length of the candidate, length of the
    reference closest to it (of two equally close, the shorter).
    """
    lengths = captions.lengths[captions.is_candidate]  # (n,)
    matches = [clipped_matches(captions, found) for found in ngrams]
    totals = [np.maximum(lengths - n + 1, 0) for n in ORDERS]
    return np.stack([*matches, *totals, lengths, closest_lengths(captions)], axis=1)


def clipped_matches(captions, ngrams):
    """Matches of each image's candidate (n,): an n-gram counts at most as often as in the reference with most of it."""
    is_candidate, n = captions.is_candidate[ngrams.caption], captions.is_candidate.sum()  # (K,), images
    own = np.where(is_candidate, ngrams.count, 0)[ngrams.starts]  # (G,) the candidate comes first
    limits = np.maximum.reduceat(np.where(is_candidate, 0, ngrams.count), ngrams.starts)  # (G,)
    image = captions.image[ngrams.caption[ngrams.starts]]  # (G,)
    return np.bincount(image, np.minimum(own, limits), n).astype(np.int64)


def closest_lengths(captions):
    """The length of the reference closest to each candidate's, the shorter of two equally close: (n,)."""
    image, lengths = captions.image[~captions.is_candidate], captions.lengths[~captions.is_candidate]
    apart = np.abs(lengths - captions.lengths[captions.is_candidate][image])
    order = np.lexsort((lengths, apart, image))
    return lengths[order][begins(image)]  # image is in order already


def geometric_means(matches, totals):
    """Papineni's equation without the penalty, for N = 1..4 with equal weights: exp of the mean ln precision.

    matches, totals: (..., 4). Returns fractions (..., 4); 0 where a precision is 0, or where there are no n-grams.
    """
    precisions = np.divide(matches, totals, out=np.zeros(np.shape(matches)), where=np.asarray(totals) > 0)
    with np.errstate(divide='ignore'):
        return np.exp(np.cumsum(np.log(precisions), axis=-1) / np.array(ORDERS))


def penalised_bleu(counts):
    """Smoothed BLEU-1..4 times the brevity penalty exp(1 − reference length / candidate length), if that is below 1.

    counts: (..., 10), rows of bleu_counts or sums of rows. Returns fractions (..., 4).
    """
    ratio = (counts[..., 8:9] + TINY) / (counts[..., 9:] + SMALL)
    return np.exp(np.minimum(1 - 1 / ratio, 0)) * geometric_means(counts[..., :4] + TINY, counts[..., 4:8] + SMALL)


def multi_bleu_of(counts):
    """The MultiBleu of summed counts (10,)."""
    bleu = 100 * geometric_means(counts[:4], counts[4:8])
    return MultiBleu(tuple(bleu.tolist()), hyp_len=int(counts[8]), ref_len=int(counts[9]))

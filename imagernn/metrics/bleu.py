"""BLEU in three variants: as the COCO tools compute it, as NeuralTalk's multi-bleu.perl prints it, and as sacrebleu
computes it for translations.

All count clipped n-gram matches in the same way. They differ in the brevity penalty, the smoothing and the scale.
"""

from typing import NamedTuple

import numpy as np

from imagernn.metrics.ngrams import ORDERS, begins, count_ngrams, read_captions

# The COCO tools add TINY to the number of matches and SMALL to the number of n-grams, so that nothing divides by zero.
TINY = 1e-15
SMALL = 1e-9


class MultiBleu(NamedTuple):
    """The result of multi_bleu; str() gives exactly the line that multi-bleu.perl prints."""

    bleu: tuple  # BLEU-1 to 4, in percent
    hyp_len: int  # tokens in all candidates
    ref_len: int  # tokens in the references, counting for each image only the one closest in length

    def __str__(self):
        if not self.ref_len:  # as in NeuralTalk: this line is printed when every reference is empty
            return 'BLEU = 0, 0/0/0/0 (BP=0, ratio=0, hyp_len=0, ref_len=0)'
        scores = '/'.join(f'{score:.1f}' for score in self.bleu)
        ratio = self.hyp_len / self.ref_len
        return f'BLEU = {scores} (BP=1.000, ratio={ratio:.3f}, hyp_len={self.hyp_len}, ref_len={self.ref_len})'


class CorpusBleu(NamedTuple):
    """The result of corpus_bleu."""

    bleu: float  # in percent
    precisions: tuple  # smoothed, of n-grams with n = 1 to 4, in percent
    brevity_penalty: float  # at most 1, which is no penalty
    hyp_len: int  # tokens in all translations
    ref_len: int  # tokens in the references, counting for each sentence only the one closest in length


def multi_bleu(candidates, references):
    """Corpus BLEU-1 to 4 as NeuralTalk printed it.

    as in NeuralTalk: there is no brevity penalty, so captions may be too short at no cost. These values are higher than
    those of coco_bleu and cannot be compared with them.

    candidates, references: n token lists, n lists of token lists (see ngrams.check_captions).
    Returns a MultiBleu, with BLEU in percent. BLEU-N is 0 if any of the precisions for 1 to N is 0.
    Raises ValueError for input that cannot be scored.
    Source: Papineni et al., ACL 2002, section 2.3; NeuralTalk's eval/multi-bleu.perl, where the brevity penalty is
    commented out. Of two references equally close in length, the shorter counts.
    """
    captions = read_captions(candidates, references)
    return multi_bleu_of(bleu_counts(captions, count_ngrams(captions)).sum(axis=0))


def coco_bleu(candidates, references):
    """Corpus BLEU-1 to 4 and the BLEU-1 to 4 of each caption, with a brevity penalty.

    candidates, references: n token lists, n lists of token lists (see ngrams.check_captions).
    Returns bleu (4,) and per_caption (n, 4), fractions. The corpus BLEU comes from counts summed over the images; it is
    not the mean of per_caption. Because of the smoothing, a caption without any match scores slightly above 0.
    Raises ValueError for input that cannot be scored.
    Source: Papineni et al., ACL 2002, section 2.3; pycocoevalcap 1.2, Bleu(4) with its option "closest": the reference
    length is that of the reference closest in length.
    """
    captions = read_captions(candidates, references)
    counts = bleu_counts(captions, count_ngrams(captions))
    return penalised_bleu(counts.sum(axis=0)), penalised_bleu(counts)


def corpus_bleu(candidates, references):
    """Corpus BLEU as sacrebleu computes it with --tokenize none: the BLEU that papers on translation report.

    candidates, references: n token lists, n lists of token lists (see ngrams.check_captions).
    Returns a CorpusBleu. Raises ValueError for input that cannot be scored.
    Source: Papineni et al., ACL 2002; Post, "A Call for Clarity in Reporting BLEU Scores", WMT 2018; sacrebleu 2.6 with
    its default smoothing "exp": of the n for which no n-gram matches, the first counts half a match, the next a quarter
    of one, and so on. BLEU is 0 if nothing matches at all, or if no translation has four tokens.
    """
    captions = read_captions(candidates, references)
    return corpus_bleu_of(bleu_counts(captions, count_ngrams(captions)).sum(axis=0))


def bleu_counts(captions, ngrams):
    """All that BLEU needs of each image: integers (n, 10), whose rows can be summed over images.

    captions: Captions; ngrams: the result of count_ngrams for them.
    Columns: clipped matches for n = 1 to 4; n-grams in the candidate for n = 1 to 4; length of the candidate; length of
    the reference closest to it (the shorter one, if two are equally close).
    """
    lengths = captions.lengths[captions.is_candidate]  # (n,)
    matches = [clipped_matches(captions, found) for found in ngrams]
    totals = [np.maximum(lengths - n + 1, 0) for n in ORDERS]
    return np.stack([*matches, *totals, lengths, closest_lengths(captions)], axis=1)


def clipped_matches(captions, ngrams):
    """Clipped matches of each image's candidate, (n,).

    Each n-gram counts at most as often as it occurs in the reference that contains it most often.
    """
    num_images = captions.is_candidate.sum()
    is_candidate = captions.is_candidate[ngrams.caption]  # (K,)
    own = np.where(is_candidate, ngrams.count, 0)[ngrams.starts]  # (G,) the candidate's entry is the first of its group
    limits = np.maximum.reduceat(np.where(is_candidate, 0, ngrams.count), ngrams.starts)  # (G,)
    image = captions.image[ngrams.caption[ngrams.starts]]  # (G,)
    return np.bincount(image, np.minimum(own, limits), num_images).astype(np.int64)


def closest_lengths(captions):
    """For each image, the length of the reference closest in length to the candidate, (n,). Ties go to the shorter."""
    is_reference = ~captions.is_candidate
    image = captions.image[is_reference]  # (R,) sorted
    lengths = captions.lengths[is_reference]  # (R,)
    differences = np.abs(lengths - captions.lengths[captions.is_candidate][image])
    order = np.lexsort((lengths, differences, image))
    return lengths[order][begins(image)]


def geometric_means(matches, totals):
    """BLEU-1 to 4 without the brevity penalty: exp of the mean of ln precision over n = 1 to N, for N = 1 to 4.

    matches, totals: (..., 4). Returns fractions (..., 4); 0 where a precision is 0, or where there are no n-grams.
    """
    precisions = np.divide(matches, totals, out=np.zeros(np.shape(matches)), where=np.asarray(totals) > 0)
    with np.errstate(divide='ignore'):
        return np.exp(np.cumsum(np.log(precisions), axis=-1) / np.array(ORDERS))


def penalised_bleu(counts):
    """Smoothed BLEU-1 to 4 with the brevity penalty min(1, exp(1 − reference length / candidate length)).

    counts: (..., 10), rows of bleu_counts or sums of rows. Returns fractions (..., 4).
    """
    ratio = (counts[..., 8:9] + TINY) / (counts[..., 9:] + SMALL)
    return np.exp(np.minimum(1 - 1 / ratio, 0)) * geometric_means(counts[..., :4] + TINY, counts[..., 4:8] + SMALL)


def multi_bleu_of(counts):
    """The MultiBleu of counts (10,): a row of bleu_counts, or a sum of rows."""
    bleu = 100 * geometric_means(counts[:4], counts[4:8])
    return MultiBleu(tuple(bleu.tolist()), hyp_len=int(counts[8]), ref_len=int(counts[9]))


def corpus_bleu_of(counts):
    """The CorpusBleu of counts (10,): a row of bleu_counts, or a sum of rows."""
    matches, totals = smoothed_matches(counts), counts[4:8]
    precisions = 100 * np.divide(matches, totals, out=np.zeros(4), where=totals > 0)
    return CorpusBleu(float(translation_bleu(counts)), tuple(precisions.tolist()), float(brevity_penalty(counts)),
                      hyp_len=int(counts[8]), ref_len=int(counts[9]))


def translation_bleu(counts):
    """The BLEU of corpus_bleu, in percent: (...,). counts: (..., 10), rows of bleu_counts or sums of rows."""
    return 100 * brevity_penalty(counts) * geometric_means(smoothed_matches(counts), counts[..., 4:8])[..., 3]


def smoothed_matches(counts):
    """The clipped matches of counts (..., 10), where a k-th 0 is replaced by 1 / 2^k: (..., 4). All 0 stay 0."""
    matches = counts[..., :4].astype(float)
    zeros = (matches == 0) & matches.any(axis=-1, keepdims=True)
    return np.where(zeros, 0.5 ** np.cumsum(zeros, axis=-1), matches)


def brevity_penalty(counts):
    """min(1, exp(1 − reference length / candidate length)), (...,); 0 if all candidates are empty. counts (..., 10)."""
    hyp_len, ref_len = counts[..., 8].astype(float), counts[..., 9]
    with np.errstate(divide='ignore', invalid='ignore'):
        return np.exp(np.where(hyp_len < ref_len, 1 - ref_len / hyp_len, 0))

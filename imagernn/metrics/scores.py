"""All scores at once, from per-image statistics that can be summed over any selection of images.

Knows how the scores of a set of images follow from sums over them; each metric's own module has its formula.
"""

from typing import NamedTuple

import numpy as np

from imagernn.metrics.bleu import bleu_counts, geometric_means, penalised_bleu
from imagernn.metrics.cider import cider_scores
from imagernn.metrics.meteor import meteor_of, meteor_statistics
from imagernn.metrics.ngrams import ORDERS, count_ngrams, read_captions
from imagernn.metrics.rouge import rouge_scores

COCO_NAMES = ('Bleu_1', 'Bleu_2', 'Bleu_3', 'Bleu_4', 'ROUGE_L', 'CIDEr')


class CaptionStatistics(NamedTuple):
    """All that the scores of n images are computed from."""

    bleu: np.ndarray  # (n, 10) integers, see bleu.bleu_counts
    rouge_l: np.ndarray  # (n,)
    cider: np.ndarray  # (n,) CIDEr-D
    cider_plain: np.ndarray  # (n,) CIDEr
    meteor: np.ndarray | None = None  # (n, 6), see meteor.meteor_statistics


def caption_scores(candidates, references):
    """The scores of the COCO evaluation, except METEOR and SPICE, which need Java.

    candidates, references: n token lists, n lists of token lists (see ngrams.check_captions).
    Returns a dict of floats: Bleu_1 to Bleu_4 and ROUGE_L as fractions, CIDEr (which is CIDEr-D) from 0 to 10.
    Raises ValueError for input that cannot be scored.
    Source: the names and conventions of pycocoevalcap 1.2; each metric's module names its paper.

    >>> references = [['a', 'dog', 'runs', 'on', 'grass'], ['the', 'brown', 'dog', 'is', 'running']]
    >>> round(caption_scores([['a', 'dog', 'runs']], [references])['ROUGE_L'], 3)
    0.718
    """
    scores = scores_of(caption_statistics(candidates, references))
    return {name: scores[name] for name in COCO_NAMES}


def caption_statistics(candidates, references, with_meteor=False):
    """The CaptionStatistics of n images. This is the slow part of scoring; what remains are sums.

    candidates, references: n token lists, n lists of token lists (see ngrams.check_captions).
    with_meteor: compute METEOR too, which needs Java.
    Raises ValueError for input that cannot be scored, and with_meteor MeteorUnavailable, as meteor.meteor does.
    """
    captions = read_captions(candidates, references)
    ngrams = count_ngrams(captions)
    return CaptionStatistics(bleu_counts(captions, ngrams), rouge_scores(candidates, references),
                             *cider_scores(captions, ngrams),
                             meteor_statistics(candidates, references) if with_meteor else None)


def scores_of(statistics, weights=None):
    """Every score of a set of images: name → float.

    statistics: CaptionStatistics of n images; weights: how often each image counts, (n,), by default once.
    The names are Bleu_1 to Bleu_4, METEOR (if it was computed), ROUGE_L, CIDEr (pycocoevalcap's name for CIDEr-D) and
    CIDEr_plain (the paper's CIDEr), all in the units of the metrics' own functions, and multi_bleu_1 to multi_bleu_4 in
    percent. BLEU and METEOR are computed from sums over the images; the others are means. CIDEr keeps the document
    frequencies of all n images, whatever the weights.
    Raises ValueError unless weights are n finite numbers that are not negative and not all 0.
    """
    rows = rows_of(statistics)
    weights = np.ones(len(rows)) if weights is None else np.asarray(weights, float)
    if weights.shape != (len(rows),) or not weights.min() >= 0 or not 0 < weights.sum() < np.inf:
        raise ValueError(f'weights of shape {weights.shape} for {len(rows)} images: give one number per image, none of '
                         'them negative and at least one positive')
    return {name: float(score) for name, score in scores_of_sums(weights @ rows, weights.sum()).items()}


def per_image(statistics):
    """Every score of each image as if it were scored alone: name → (n,). Names and units are those of scores_of."""
    return scores_of_sums(rows_of(statistics), 1)


def rows_of(statistics):
    """All statistics side by side, one row per image: (n, 13), or (n, 19) with METEOR."""
    return np.column_stack([columns for columns in statistics if columns is not None])


def scores_of_sums(sums, images):
    """Scores from rows of rows_of summed over a number of images: name → (...).

    sums: (..., 13 or 19); images: how many images each sum covers.
    """
    bleu = penalised_bleu(sums[..., :10])  # (..., 4)
    multi_bleu = 100 * geometric_means(sums[..., :4], sums[..., 4:8])  # (..., 4)
    scores = {f'Bleu_{n}': bleu[..., n - 1] for n in ORDERS}
    if sums.shape[-1] > 13:
        scores['METEOR'] = meteor_of(sums[..., 13:])
    for column, name in enumerate(('ROUGE_L', 'CIDEr', 'CIDEr_plain'), start=10):
        scores[name] = sums[..., column] / images
    return scores | {f'multi_bleu_{n}': multi_bleu[..., n - 1] for n in ORDERS}

"""All scores at once, from statistics of each image that may be summed over images, in any mixture.

Knows how the scores of a set follow from sums over its images; the formulas stand with each metric.
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
    """What the scores of n images are made of."""

    bleu: np.ndarray  # (n, 10) integers, see bleu.bleu_counts
    rouge_l: np.ndarray  # (n,)
    cider: np.ndarray  # (n,) CIDEr-D
    cider_plain: np.ndarray  # (n,) CIDEr
    meteor: np.ndarray | None = None  # (n, 6), see meteor.meteor_statistics


def caption_scores(candidates, references):
    """The COCO scores of a set of captions that need nothing but Python.

    candidates, references: n token lists, n lists of token lists (see ngrams.check_captions).
    Returns a dict of floats: Bleu_1..Bleu_4 and ROUGE_L as fractions; CIDEr, of which 10 is the most.
    Raises ValueError for input that cannot be scored.
    Source: the names and conventions of pycocoevalcap 1.2; the papers stand with each metric.
    """
    scores = scores_of(caption_statistics(candidates, references))
    return {name: scores[name] for name in COCO_NAMES}


def caption_statistics(candidates, references, with_meteor=False):
    """The CaptionStatistics of n images: all the work of scoring; what follows is sums.

    candidates, references: n token lists, n lists of token lists (see ngrams.check_captions).
    Raises ValueError for input that cannot be scored; with_meteor, MeteorUnavailable as meteor.meteor does.
    """
    captions = read_captions(candidates, references)
    ngrams = count_ngrams(captions)
    return CaptionStatistics(bleu_counts(captions, ngrams), rouge_scores(candidates, references),
                             *cider_scores(captions, ngrams),
                             meteor_statistics(candidates, references) if with_meteor else None)


def scores_of(statistics, weights=None):
    """Every score of a set of images: name → float.

    statistics: CaptionStatistics of n images; weights: (n,) how often each image counts, by default once.
    Names: Bleu_1..4, METEOR (where it was computed), ROUGE_L, CIDEr (it is CIDEr-D, as pycocoevalcap calls it) and
    CIDEr_plain (the paper's), on the scales of the single metrics; multi_bleu_1..4 in percent. BLEU and METEOR follow
    from sums over the images, the others are means. CIDEr's document frequencies stay those of all n images.
    Raises ValueError unless weights are n numbers, none negative and some positive.
    """
    rows = rows_of(statistics)
    weights = np.ones(len(rows)) if weights is None else np.asarray(weights, float)
    if weights.shape != (len(rows),) or not weights.min() >= 0 or not 0 < weights.sum() < np.inf:
        raise ValueError(f'weights of shape {weights.shape} for {len(rows)} images: give each image one number, '
                         'none negative and some positive')
    return {name: float(score) for name, score in scores_of_sums(weights @ rows, weights.sum()).items()}


def per_image(statistics):
    """Every score of each image as if it were alone: name → (n,). Names and units as in scores_of."""
    return scores_of_sums(rows_of(statistics), 1)


def rows_of(statistics):
    """All that is summed over images, side by side: (n, 13), or with METEOR (n, 19)."""
    return np.column_stack([columns for columns in statistics if columns is not None])


def scores_of_sums(sums, images):
    """Scores of sums (..., 13 or 19) of rows over so many images: name → (...)."""
    bleu, multi_bleu = penalised_bleu(sums[..., :10]), 100 * geometric_means(sums[..., :4], sums[..., 4:8])
    scores = {f'Bleu_{n}': bleu[..., n - 1] for n in ORDERS}
    if sums.shape[-1] > 13:
        scores['METEOR'] = meteor_of(sums[..., 13:])
    for column, name in enumerate(('ROUGE_L', 'CIDEr', 'CIDEr_plain'), start=10):
        scores[name] = sums[..., column] / images
    return scores | {f'multi_bleu_{n}': multi_bleu[..., n - 1] for n in ORDERS}

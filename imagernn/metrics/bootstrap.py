"""Confidence intervals of the scores, and paired comparisons of systems on the same images.

Other images would have given other scores. The bootstrap simulates such samples: each draw takes n of the n images with
replacement and computes every score from the draw's summed statistics. BLEU and METEOR are thus corpus scores of the
draw, not means over its images. CIDEr keeps the document frequencies of all n images.

Sources: Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 14, for the BCa interval. (Intervals from
plain percentiles miss the true score too often where few images contribute to it, as with BLEU-4 of poor captions.)
Riezler & Maxwell, "On Some Pitfalls in Automatic Evaluation and Significance Testing for MT", 2005, for p: the test by
approximate randomization.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

from imagernn.metrics.scores import rows_of, scores_of_sums

WEIGHTS_AT_ONCE = 2_000_000  # draws × images that are summed in one matrix product: 16 MB


class Comparison(NamedTuple):
    """One score of a system compared with the same score of the first system."""

    difference: float  # this system's score minus the first system's
    low: float  # the confidence interval of the difference
    high: float
    p: float  # two-sided


def intervals(statistics, level=0.95, draws=1000, seed=0):
    """A confidence interval of each score: name → (low, high).

    statistics: CaptionStatistics of n images. level: the share of such intervals that contain the true score, which is
    the score of infinitely many images like these. Names and units are those of scores.scores_of.
    A single image says nothing about others: its intervals are (nan, nan).
    Raises ValueError for a level outside (0, 1) or fewer than 1 draw.
    """
    return intervals_of_rows(rows_of(statistics), scores_of_sums, level, draws, seed)


def intervals_of_rows(rows, score_sums, level=0.95, draws=1000, seed=0):
    """intervals of any scores of sums. rows: (n, k), one of each image or sentence; score_sums: as scores_of_sums."""
    found = resampled_rows(rows[None], score_sums, draws, seed)
    return {name: interval(*(values[0] for values in found[name]), level) for name in found}


def compare(systems, level=0.95, draws=1000, seed=0):
    """Compare every later system with the first one: a list of dicts name → Comparison, one for each later system.

    systems: a list of CaptionStatistics, all of the same images in the same order, scored against the same references.
    All systems share the draws, so whatever makes an image hard for all of them cancels out. METEOR is left out unless
    all systems have it. p comes from a randomization test (see p_values), not from the interval: where the systems
    differ in only a few images, the interval of the difference is too narrow.
    Raises ValueError for systems with different numbers of images, and as intervals does.
    """
    if len({len(statistics.bleu) for statistics in systems}) > 1:
        raise ValueError('the systems were scored on different numbers of images, '
                         f'{", ".join(str(len(statistics.bleu)) for statistics in systems)}: score the same images')
    if any(statistics.meteor is None for statistics in systems):
        systems = [statistics._replace(meteor=None) for statistics in systems]
    return compare_rows([rows_of(statistics) for statistics in systems], scores_of_sums, level, draws, seed)


def compare_rows(systems, score_sums, level=0.95, draws=1000, seed=0):
    """compare by any scores of sums. systems: a list of rows (n, k); score_sums: as scores_of_sums."""
    found = resampled_rows(np.stack(systems), score_sums, draws, seed)
    comparisons = []
    for later in range(1, len(systems)):
        differences = {name: [values[later] - values[0] for values in found[name]] for name in found}
        p = p_values(systems[0], systems[later], score_sums, draws, seed)
        comparisons.append({name: Comparison(float(values[0]), *interval(*values, level), p[name])
                            for name, values in differences.items()})
    return comparisons


def resampled(systems, draws, seed):
    """The scores of S systems on the same draws: name → (scores, drawn, left_out).

    scores: of all n images, (S,); drawn: of each draw, (S, draws); left_out: with each image left out in turn, (S, n).
    """
    return resampled_rows(np.stack([rows_of(statistics) for statistics in systems]), scores_of_sums, draws, seed)


def resampled_rows(rows, score_sums, draws, seed):
    """resampled for any scores of sums. rows: (S, n, k); score_sums: as scores_of_sums."""
    if draws < 1:
        raise ValueError(f'draws {draws}: must be at least 1')
    n = rows.shape[1]
    rng = np.random.default_rng(seed)
    step = max(1, WEIGHTS_AT_ONCE // n)
    sums = []
    for start in range(0, draws, step):
        weights = np.array([np.bincount(rng.integers(n, size=n), minlength=n)
                            for _ in range(min(step, draws - start))], float)  # (draws in this step, n)
        sums.append(weights @ rows)  # (S, draws in this step, k)
    whole = rows.sum(axis=1)  # (S, k)
    scores = score_sums(whole, n)
    drawn = score_sums(np.concatenate(sums, axis=1), n)
    left_out = score_sums(whole[:, None] - rows, max(n - 1, 1))
    return {name: (scores[name], drawn[name], left_out[name]) for name in scores}


def interval(score, drawn, left_out, level):
    """The BCa interval (low, high) of a score or of a difference of scores: corrected percentiles of its draws.

    score: of all images; drawn: of each draw, (draws,); left_out: with each image left out in turn, (n,).
    """
    if not 0 < level < 1:
        raise ValueError(f'level {level}: must lie between 0 and 1')
    if len(left_out) < 2:
        return np.nan, np.nan
    bias, acceleration = corrections(score, drawn, left_out)
    z = bias + ndtri([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(drawn, ndtr(bias + z / np.maximum(1 - acceleration * z, 1e-9)))
    return float(low), float(high)


def p_values(one, other, score_sums, draws, seed):
    """Two-sided p of every score of two systems by approximate randomization: name → p.

    one, other: rows (n, k) of each; score_sums: as scores_of_sums.
    In each draw, the two systems swap their captions of randomly chosen images. p is the share of draws in which their
    scores then differ at least as much as observed. The observed difference counts as one more draw, so p is at least
    1 / (draws + 1).
    """
    n = len(one)
    rng = np.random.default_rng(seed)
    step = max(1, WEIGHTS_AT_ONCE // n)
    moved = np.concatenate([rng.integers(2, size=(min(step, draws - start), n)).astype(float) @ (other - one)
                            for start in range(0, draws, step)])  # (draws, k) what the swaps add to the first system
    firsts = score_sums(one.sum(axis=0) + moved, n)
    laters = score_sums(other.sum(axis=0) - moved, n)
    scores = score_sums(one.sum(axis=0), n)
    others = score_sums(other.sum(axis=0), n)
    found = {name: abs(others[name] - scores[name]) for name in scores}
    # the factor keeps rounding from turning a tie into a smaller difference
    return {name: float((np.sum(abs(laters[name] - firsts[name]) >= found[name] * (1 - 1e-9)) + 1) / (draws + 1))
            for name in found}


def corrections(score, drawn, left_out):
    """BCa's two corrections: bias, how far the score is from the median of the draws, and acceleration.

    bias is in standard deviations of a normal distribution; acceleration is how fast the score's standard deviation
    changes with the score, estimated from left_out. Arguments as in interval.
    """
    deviations = left_out.mean() - left_out
    spread = (deviations**2).sum() ** 1.5
    return ndtri(share_below(drawn, score)), (deviations**3).sum() / (6 * spread) if spread else 0.0


def share_below(drawn, value):
    """The share of draws below value, where each tie counts half. Always strictly between 0 and 1."""
    return ((drawn < value).sum() + (drawn == value).sum() / 2 + 0.5) / (len(drawn) + 1)

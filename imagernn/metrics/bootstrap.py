"""How sure the scores are: the bootstrap over images, and the paired comparison of systems on the same images.

Another set of images would have given other scores. The bootstrap draws such sets: n images with replacement out of the
n that there are, again and again, and computes every score anew from each draw's summed statistics (so BLEU and METEOR
are those of the draw as a set, and no means). CIDEr's document frequencies stay those of the evaluated references.

Source: Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 14: the BCa interval. The plain
percentiles of the draws miss too often where few images bear a score, as they do BLEU-4 of poor captions. For p, the
test by approximate randomization: Riezler & Maxwell, "On Some Pitfalls in Automatic Evaluation and Significance Testing
for MT", 2005.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

from imagernn.metrics.scores import rows_of, scores_of, scores_of_sums

WEIGHTS_AT_ONCE = 2_000_000  # numbers, 16 MB: how often each image counts in the draws that are summed together


class Comparison(NamedTuple):
    """One score of one system against that of the first: a difference above 0 says that the first is lower."""

    difference: float
    low: float  # the interval of the difference
    high: float
    p: float  # two-sided


def intervals(statistics, level=0.95, draws=1000, seed=0):
    """For each score the interval that covers the true one with probability level: name → (low, high).

    statistics: CaptionStatistics of n images; names and units as in scores.scores_of. The true score is that of
    endlessly many images like these. One image tells nothing of others: its intervals are (nan, nan).
    Raises ValueError for a level outside of (0, 1), or no draws.
    """
    found = resampled([statistics], draws, seed)
    return {name: interval(*(values[0] for values in found[name]), level) for name in found}


def compare(systems, level=0.95, draws=1000, seed=0):
    """Every later system against the first, on the same images: a list, one shorter, of dicts name → Comparison.

    systems: a list of CaptionStatistics, all of the same images in the same order, against the same references. A draw
    is the same for all systems, so what makes an image hard for all of them cancels out. A score that is not there for
    all (METEOR) is left out. p comes from swaps (p_values), not from the interval: where the systems differ in a few
    images alone, the draws of the bootstrap are too sure of themselves.
    Raises ValueError for systems of different numbers of images; else as intervals.
    """
    if len({len(statistics.bleu) for statistics in systems}) > 1:
        raise ValueError('the systems have statistics of different numbers of images, '
                         f'{", ".join(str(len(statistics.bleu)) for statistics in systems)}: score the same images')
    if any(statistics.meteor is None for statistics in systems):
        systems = [statistics._replace(meteor=None) for statistics in systems]
    found = resampled(systems, draws, seed)
    comparisons = []
    for later in range(1, len(systems)):
        differences = {name: [values[later] - values[0] for values in found[name]] for name in found}
        p = p_values(systems[0], systems[later], draws, seed)
        comparisons.append({name: Comparison(float(values[0]), *interval(*values, level), p[name])
                            for name, values in differences.items()})
    return comparisons


def resampled(systems, draws, seed):
    """S systems on the same draws: name → scores of all images (S,), of the draws (S, draws), of all but one (S, n)."""
    if draws < 1:
        raise ValueError(f'{draws} draws: at least one is needed')
    rows = np.stack([rows_of(statistics) for statistics in systems])  # (S, n, k)
    n, rng = rows.shape[1], np.random.default_rng(seed)
    whole, sums, step = rows.sum(axis=1), [], max(1, WEIGHTS_AT_ONCE // n)
    for start in range(0, draws, step):
        weights = np.array([np.bincount(rng.integers(n, size=n), minlength=n)
                            for _ in range(min(step, draws - start))], float)  # (some draws, n): multinomial counts
        sums.append(weights @ rows)  # (S, some draws, k)
    scores, drawn = scores_of_sums(whole, n), scores_of_sums(np.concatenate(sums, axis=1), n)
    left_out = scores_of_sums(whole[:, None] - rows, max(n - 1, 1))
    return {name: (scores[name], drawn[name], left_out[name]) for name in scores}


def interval(score, drawn, left_out, level):
    """The BCa interval (low, high) of a score, or a difference of scores: percentiles of drawn, corrected.

    score: of all images; drawn: (draws,); left_out: with one image left out, (n,).
    """
    if not 0 < level < 1:
        raise ValueError(f'level {level}: must lie between 0 and 1')
    if len(left_out) < 2:
        return np.nan, np.nan
    bias, acceleration = corrections(score, drawn, left_out)
    z = bias + ndtri([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(drawn, ndtr(bias + z / np.maximum(1 - acceleration * z, 1e-9)))
    return float(low), float(high)


def p_values(first, later, draws, seed):
    """How often two systems, their captions swapped at random image by image, differ by as much: name → p, two-sided.

    No p is below 1 / (draws + 1): what was found is counted among the draws.
    """
    one, other = rows_of(first), rows_of(later)
    n, rng, step = len(one), np.random.default_rng(seed), max(1, WEIGHTS_AT_ONCE // len(one))
    moved = np.concatenate([rng.integers(2, size=(min(step, draws - start), n)).astype(float) @ (other - one)
                            for start in range(0, draws, step)])  # (draws, k)
    firsts, laters = scores_of_sums(one.sum(axis=0) + moved, n), scores_of_sums(other.sum(axis=0) - moved, n)
    scores, others = scores_of(first), scores_of(later)
    found = {name: abs(others[name] - scores[name]) for name in scores}
    return {name: float((np.sum(abs(laters[name] - firsts[name]) >= found[name] * (1 - 1e-9)) + 1) / (draws + 1))
            for name in found}


def corrections(score, drawn, left_out):
    """How far the score lies from the draws' median, in standard deviations, and how its variance grows with it."""
    deviations = left_out.mean() - left_out
    spread = (deviations**2).sum() ** 1.5
    return ndtri(share_below(drawn, score)), (deviations**3).sum() / (6 * spread) if spread else 0.0


def share_below(drawn, value):
    """The share of draws below value, ties by half; never quite 0 or 1."""
    return ((drawn < value).sum() + (drawn == value).sum() / 2 + 0.5) / (len(drawn) + 1)

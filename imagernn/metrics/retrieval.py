"""Scores of retrieval: how far up the right sentences come for an image, and the right image for a sentence.

Knows a matrix of scores and which image each sentence describes; knows nothing of models.

An equal score counts as if the other candidate came first, and so does a score that is not a number: a model that gives
everything the same score gets the worst ranks, not the best.

Sources: Hodosh, Young & Hockenmaier, "Framing Image Description as a Ranking Task", JAIR 2013, for the scores; Karpathy
& Fei-Fei, "Deep Visual-Semantic Alignments for Generating Image Descriptions", CVPR 2015, for the folds.
"""

from typing import NamedTuple

import numpy as np

from imagernn.metrics.bootstrap import interval

COMPARED_AT_ONCE = 1 << 24    # scores in one block of rows: 16 MB of booleans
RECALLS = (1, 5, 10)


class Ranks(NamedTuple):
    """The ranks, from 1, among M images and N sentences."""

    images: np.ndarray       # (M,) of the best of each image's own sentences; 0 for an image without sentences
    sentences: np.ndarray    # (N,) of each sentence's own image
    image_of: np.ndarray     # (N,) each sentence's own image


def ranks(scores, image_of):
    """The Ranks of a matrix of scores.

    scores (M, N): of every image with every sentence, the higher the better. image_of (N,): the number of the image
    that each sentence describes. An image may have any number of sentences. One without any is not ranked, but remains
    a candidate for all sentences. The image's other sentences never count against the best one.
    Raises ValueError for arrays that do not fit together, and if there are no sentences.
    """
    scores, image_of = np.asarray(scores), np.asarray(image_of)
    if scores.ndim != 2 or image_of.shape != scores.shape[1:]:
        raise ValueError(f'scores {scores.shape} and image_of {image_of.shape}: expected (M, N) and (N,)')
    M, N = scores.shape
    if not N or image_of.dtype.kind not in 'iu' or image_of.min() < 0 or image_of.max() >= M:
        raise ValueError(f'image_of: expected the numbers of images, from 0 to {M - 1}, for at least one sentence')
    own = scores[image_of, np.arange(N)]                                        # (N,)
    best = np.full(M, -np.inf if own.dtype.kind == 'f' else own.min(), own.dtype)
    with np.errstate(invalid='ignore'):    # a best score that is not a number is below no other, and ranks last
        np.maximum.at(best, image_of, own)                                      # (M,)
    # how many candidates are not below, itself included
    ahead_of_images, ahead_of_sentences = np.zeros(M, int), np.zeros(N, int)
    step = max(1, COMPARED_AT_ONCE // N)
    for start in range(0, M, step):
        block = scores[start:start + step]                                      # (rows, N)
        ahead_of_images[start:start + step] = N - (block < best[start:start + step, None]).sum(axis=1)
        ahead_of_sentences += len(block) - (block < own).sum(axis=0)
    own_ahead = np.bincount(image_of, ~(own < best[image_of]), minlength=M).astype(int)
    found = np.where(np.bincount(image_of, minlength=M) > 0, ahead_of_images - own_ahead + 1, 0)
    return Ranks(found, ahead_of_sentences, image_of)


def ranks_in_folds(scores, image_of, fold=None):
    """The Ranks within each fold of the images, a list. Arguments as in ranks.

    fold: how many consecutive images a fold has; their sentences are its only sentences. None: all images are one fold.
    COCO's 1K protocol is a fold of 1,000 of its 5,000 test images. An incomplete last fold is left out, unless it is
    the only one. Raises ValueError as ranks does, for each fold.
    """
    if fold is None:
        return [ranks(scores, image_of)]
    if fold < 1:
        raise ValueError(f'fold {fold}: must be at least 1')
    scores, image_of = np.asarray(scores), np.asarray(image_of)
    found = []
    for start in range(0, max(1, len(scores) // fold) * fold, fold):
        columns = np.flatnonzero((start <= image_of) & (image_of < start + fold))
        found.append(ranks(scores[start:start + fold, columns], image_of[columns] - start))
    return found


def retrieval_scores(folds):
    """The scores that a table shows: a dict name → float, each the mean over a list of Ranks, one for each fold.

    image_to_sentence_R1, _R5 and _R10: for how many images, in percent, one of their own sentences is among the first
    1, 5 or 10. image_to_sentence_median_rank: the median of the ranks, from 1. sentence_to_image_...: the same for the
    sentences' own images. recall_sum: the sum of the six recalls. The median of an even number of ranks can end in .5,
    which some published tables round down.
    """
    found = []
    for fold in folds:
        recalls = _recalls(_hits(fold).sum(axis=0))
        medians = {'image_to_sentence_median_rank': np.median(fold.images[fold.images > 0]),
                   'sentence_to_image_median_rank': np.median(fold.sentences)}
        found.append(recalls | medians)
    return {name: float(np.mean([scores[name] for scores in found])) for name in found[0]}


def retrieval_intervals(folds, level=0.95, draws=1000, seed=0):
    """A confidence interval of each recall and of their sum: name → (low, high), by the bootstrap over images.

    Arguments as in retrieval_scores and bootstrap.intervals. A draw takes images with replacement, in each fold as many
    as it has; an image comes with all its sentences. They are drawn as queries only: the candidates among which they
    were ranked stay what they are, as a candidate that occurs twice would tie with itself. The median rank has no
    interval: it is a small whole number in almost every draw. Raises ValueError as bootstrap.intervals does.
    """
    if draws < 1:
        raise ValueError(f'draws {draws}: must be at least 1')
    rng = np.random.default_rng(seed)
    of_folds = []    # for each fold: the recalls of all its images, of each draw, with each image left out
    for fold in folds:
        rows = _hits(fold)                                                      # (n, 8)
        n = len(rows)
        weights = rng.multinomial(n, np.full(n, 1 / n), size=draws)             # (draws, n)
        of_folds.append([_recalls(sums) for sums in (rows.sum(axis=0), weights @ rows, rows.sum(axis=0) - rows)])
    found = {}
    for name in of_folds[0][0]:
        scores, drawn, left_out = zip(*([part[name] for part in parts] for parts in of_folds), strict=True)
        score = np.mean(scores)
        # leaving an image out changes the recall of its own fold alone
        left_out = np.concatenate([score + (others - own) / len(folds)
                                   for own, others in zip(scores, left_out, strict=True)])
        found[name] = interval(score, np.mean(drawn, axis=0), left_out, level)
    return found


def _hits(fold):
    """What each of the n images with sentences adds to the recalls, (n, 8).

    Columns: whether its rank is at most 1, 5, 10; 1; how many of its sentences have such ranks; how many it has.
    """
    images = (fold.images[:, None] <= RECALLS).astype(float)                    # (M, 3)
    sentences = [np.bincount(fold.image_of, fold.sentences <= k, minlength=len(images)) for k in (*RECALLS, np.inf)]
    rows = np.column_stack([images, np.ones(len(images)), *sentences])
    return rows[fold.images > 0]


def _recalls(sums):
    """Sums of rows of _hits, (..., 8) → the recalls in percent and their sum, a dict name → (...)."""
    found = {}
    for way, first in (('image_to_sentence', 0), ('sentence_to_image', 4)):
        count = np.maximum(sums[..., first + 3], 1)    # 0 where the only image is left out
        found |= {f'{way}_R{k}': 100 * sums[..., first + place] / count for place, k in enumerate(RECALLS)}
    return found | {'recall_sum': sum(found.values())}

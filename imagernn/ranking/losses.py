"""Ranking losses: in a batch, an image and its sentence should score higher than either does with any other.

Of a score matrix S (N, N), whose image k and sentence k belong together, each loss returns the mean cost over k and its
gradient by S. Knows nothing of models.
"""

import numpy as np


def hinge(S, params):
    """The sum of all violations of the margin, both ways (Karpathy & Fei-Fei 2015, equation 9):

    Σ_l max(0, S_kl - S_kk + margin) over the other sentences, and Σ_l max(0, S_lk - S_kk + margin) over other images.
    """
    over_sentences, over_images = _violations(S, params['margin'])
    dS = (over_sentences > 0).astype(S.dtype)
    dS += over_images > 0
    dS[np.diag_indices(len(S))] = -((over_sentences > 0).sum(axis=1) + (over_images > 0).sum(axis=0))
    return _mean(over_sentences.sum() + over_images.sum(), dS)


def hardest(S, params):
    """The largest violation alone, both ways: hardest negatives (Faghri et al. 2018, VSE++)."""
    over_sentences, over_images = _violations(S, params['margin'])
    k, dS = np.arange(len(S)), np.zeros_like(S)
    sentence, image = over_sentences.argmax(axis=1), over_images.argmax(axis=0)    # the hardest of each k
    rows, columns = over_sentences[k, sentence], over_images[image, k]
    dS[k, sentence] += rows > 0
    dS[image, k] += columns > 0
    dS[k, k] -= (rows > 0).astype(S.dtype) + (columns > 0)
    return _mean(rows.sum() + columns.sum(), dS)


def infonce(S, params):
    """The cross entropy of the right one among all, both ways (van den Oord et al. 2018; Radford et al. 2021, CLIP):

    half of -ln softmax(S / temperature) over the sentences, and half of that over the images.
    """
    scaled = S / params['temperature']
    k, cost, dS = np.arange(len(S)), 0., 0.
    for axis in (0, 1):
        logits = scaled - scaled.max(axis=axis, keepdims=True)
        exps = np.exp(logits)
        sums = exps.sum(axis=axis, keepdims=True)
        cost += .5 * float((np.log(sums).ravel() - logits[k, k]).sum())
        dS = dS + exps / sums
    dS[k, k] -= 2
    return _mean(cost, dS * (.5 / params['temperature']))


LOSSES = {'infonce': infonce, 'hinge': hinge, 'hardest': hardest}


def _violations(S, margin):
    """By how much the margin is violated by other sentences and by other images: two arrays (N, N), 0 where it is not.
    """
    own = np.diagonal(S)
    over_sentences, over_images = (np.maximum(0, S - against + margin) for against in (own[:, None], own))
    for over in (over_sentences, over_images):
        np.fill_diagonal(over, 0)
    return over_sentences, over_images


def _mean(cost, dS):
    return float(cost) / len(dS), dS / len(dS)

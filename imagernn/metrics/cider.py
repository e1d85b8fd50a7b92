"""CIDEr-D and CIDEr: how well the n-grams of caption and references agree, weighted by tf-idf.

Rare n-grams weigh more. How rare an n-gram is comes from the references that are being scored, so scores of different
sets of images cannot be compared.
"""

import numpy as np

from imagernn.metrics.ngrams import ORDERS, count_ngrams, read_captions

SIGMA = 6.0  # in words: the standard deviation of CIDEr-D's Gaussian penalty on a difference in length
SCALE = 10.0  # the score of a perfect match


def cider(candidates, references):
    """CIDEr-D of each caption and its mean.

    candidates, references: n token lists, n lists of token lists (see ngrams.check_captions).
    Returns mean (float) and per_caption (n,), on the scale of pycocoevalcap: 10 is a perfect match, and 1.0 is what
    papers print as 100. A single image scores 0, because each of its n-grams occurs in all images and so weighs ln 1.
    Raises ValueError for input that cannot be scored.
    Source: Vedantam et al., CVPR 2015, equations 1-3 (CIDEr) and the section on gameability (CIDEr-D);
    pycocoevalcap 1.2, Cider: no stemming, and ln(images / documents) with a document count of at least 1.
    """
    captions = read_captions(candidates, references)
    per_caption, _ = cider_scores(captions, count_ngrams(captions))
    return float(per_caption.mean()), per_caption


def cider_scores(captions, ngrams, frequencies=None):
    """CIDEr-D and CIDEr of each image: two arrays (n,), both on the scale of cider.

    captions: Captions; ngrams: the result of count_ngrams for them; frequencies: for each n, the inverse document
    frequency of every n-gram, by default that in the references of these captions (inverse_frequencies).
    CIDEr is the cosine between the tf-idf vectors of candidate and reference, averaged over references and over
    n = 1 to 4. CIDEr-D clips the candidate's values to the reference's and penalizes a difference in length. The factor
    10 belongs to the paper's CIDEr-D; the paper's CIDEr has none, but the authors' program (github.com/vrama91/cider)
    multiplies both by 10, and so does this function. Words are not stemmed, as in that program.
    """
    image = captions.image  # (C,)
    is_reference = ~captions.is_candidate  # (C,)
    candidate = np.flatnonzero(captions.is_candidate)[image]  # (C,) the candidate of the same image
    clipped = np.zeros(len(image))  # (C,) CIDEr-D between caption and candidate, summed over n
    plain = np.zeros(len(image))  # (C,) the same for CIDEr
    if frequencies is None:
        frequencies = [inverse_frequencies(captions, found) for found in ngrams]
    for found, inverse in zip(ngrams, frequencies, strict=True):
        values = found.count * inverse[found.ngram]  # (K,) tf-idf
        own = candidate_values(captions, found, values)  # (K,)
        norms = np.sqrt(np.bincount(found.caption, values**2, len(image)))  # (C,)
        norms = norms * norms[candidate]
        for total, products in (clipped, np.minimum(own, values) * values), (plain, own * values):
            dots = np.bincount(found.caption, products, len(image))
            total += np.divide(dots, norms, out=np.zeros(len(image)), where=norms > 0)
    clipped *= np.exp(-((captions.lengths - captions.lengths[candidate]) ** 2) / (2 * SIGMA**2))
    image = image[is_reference]
    return [SCALE * np.bincount(image, total[is_reference]) / (len(ORDERS) * np.bincount(image))
            for total in (clipped, plain)]


def pairwise_cider(captions, ngrams, frequencies):
    """CIDEr-D of each of C captions with each of them as its only reference: (C, C), a row for each candidate.

    Arguments, scale and values as in cider_scores; which images the captions belong to makes no difference. An n-gram's
    first occurrence in a caption, its second and so on are elements of their own, so that the clipped products of all
    pairs, min(own count, other count) · other count, are one matrix product.
    """
    C = len(captions.lengths)
    total = np.zeros((C, C))
    for found, inverse in zip(ngrams, frequencies, strict=True):
        entry = np.repeat(np.arange(len(found.count)), found.count)  # (O,) of each occurrence
        occurrence = np.arange(len(entry)) - (np.cumsum(found.count) - found.count)[entry]  # (O,) from 0
        column = found.ngram[entry] * found.count.max(initial=0) + occurrence
        own, other = np.zeros((2, C, column.max(initial=-1) + 1))
        own[found.caption[entry], column] = 1
        other[found.caption[entry], column] = (found.count * inverse[found.ngram] ** 2)[entry]
        norms = np.sqrt(np.bincount(found.caption, (found.count * inverse[found.ngram]) ** 2, C))
        norms = norms[:, None] * norms  # (C, C)
        total += np.divide(own @ other.T, norms, out=np.zeros((C, C)), where=norms > 0)
    total *= np.exp(-((captions.lengths[:, None] - captions.lengths) ** 2) / (2 * SIGMA**2))
    return SCALE * total / len(ORDERS)


def inverse_frequencies(captions, ngrams):
    """For each n-gram, ln(images / images with the n-gram in a reference); a count of 0 is taken as 1."""
    entries = np.diff(ngrams.starts, append=len(ngrams.ngram))  # (G,) captions of the image with the n-gram
    in_reference = entries > captions.is_candidate[ngrams.caption[ngrams.starts]]  # (G,)
    documents = np.bincount(ngrams.ngram[ngrams.starts], in_reference)
    return np.log(captions.is_candidate.sum()) - np.log(np.maximum(documents, 1))


def candidate_values(captions, ngrams, values):
    """For each entry, the value of the same n-gram in the same image's candidate, or 0 if it is not there: (K,)."""
    # the candidate's entry is the first of its group
    own = np.where(captions.is_candidate[ngrams.caption], values, 0)[ngrams.starts]  # (G,)
    return np.repeat(own, np.diff(ngrams.starts, append=len(values)))

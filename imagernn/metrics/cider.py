"""CIDEr-D and CIDEr: tf-idf n-gram agreement with the references; rare n-grams weigh more.

The document frequencies come from the very references that are scored, so a score belongs to its set of images.
"""

import numpy as np

from imagernn.metrics.ngrams import ORDERS, count_ngrams, read_captions

SIGMA = 6.0  # spread of CIDEr-D's penalty on a difference in length, in words
SCALE = 10.0  # the score of a perfect match


def cider(candidates, references):
    """CIDEr-D of each caption and its mean.

    candidates, references: n token lists, n lists of token lists (see ngrams.check_captions).
    Returns mean (float) and per_caption (n,), on the scale of pycocoevalcap: 10 is a perfect match and 1.0 what is
    commonly printed as 100. A single image scores 0: every n-gram occurs in all images and weighs ln 1.
    Raises ValueError for input that cannot be scored.
    Source: Vedantam et al., CVPR 2015, equations 1-3 (CIDEr) and the section on gameability (CIDEr-D);
    pycocoevalcap 1.2, Cider: no stemming, and ln(images / documents) with a document count of at least 1.
    """
    captions = read_captions(candidates, references)
    per_caption, _ = cider_scores(captions, count_ngrams(captions))
    return float(per_caption.mean()), per_caption


def cider_scores(captions, ngrams):
    """CIDEr-D and CIDEr of each image, two arrays (n,), both on the scale of cider.

    captions: Captions; ngrams: what count_ngrams makes of them.
    CIDEr is the mean over references, and over n = 1..4, of the cosine between the tf-idf vectors of candidate and
    reference. CIDEr-D cuts the candidate's values down to the reference's, and punishes a difference in length. The
    factor 10 is a part of the paper's CIDEr-D; its CIDEr has none, but the authors' program (github.com/vrama91/cider)
    multiplies both by 10, and so does this one. Words are not stemmed, here as there.
    """
    image, is_reference = captions.image, ~captions.is_candidate  # (C,)
    candidate = np.flatnonzero(captions.is_candidate)[image]  # (C,) the candidate of the same image
    clipped, plain = np.zeros((2, len(image)))  # (C,) sums over n of the agreement with that candidate
    for found in ngrams:
        values = found.count * inverse_frequencies(captions, found)[found.ngram]  # (K,) tf-idf
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


def inverse_frequencies(captions, ngrams):
    """ln(images / images with the n-gram in some reference) of each n-gram; in none counts as in one."""
    entries = np.diff(ngrams.starts, append=len(ngrams.ngram))  # (G,) captions of the image with the n-gram
    in_reference = entries > captions.is_candidate[ngrams.caption[ngrams.starts]]  # (G,)
    documents = np.bincount(ngrams.ngram[ngrams.starts], in_reference)
    return np.log(captions.is_candidate.sum()) - np.log(np.maximum(documents, 1))


def candidate_values(captions, ngrams, values):
    """For each entry, the candidate's value of the same n-gram in the same image, 0 if it has none: (K,)."""
    own = np.where(captions.is_candidate[ngrams.caption], values, 0)[ngrams.starts]  # (G,) the candidate comes first
    return np.repeat(own, np.diff(ngrams.starts, append=len(values)))

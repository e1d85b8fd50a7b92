"""ROUGE-L: how long a subsequence of words the candidate shares with its references.

Each image is scored by itself; nothing depends on the other images.
"""

import numpy as np

from imagernn.metrics.ngrams import check_captions

BETA = 1.2  # recall weighs BETA² times as much as precision


def rouge_l(candidates, references):
    """ROUGE-L of each caption and its mean.

    candidates, references: n token lists, n lists of token lists (see ngrams.check_captions).
    Returns mean (float) and per_caption (n,), fractions.
    Raises ValueError for input that cannot be scored.
    Source: Lin, "ROUGE", ACL workshop 2004, section 3 (equations 2-4); pycocoevalcap 1.2, Rouge: the best precision and
    the best recall may come from two different references.
    """
    per_caption = rouge_scores(candidates, references)
    return float(per_caption.mean()), per_caption


def rouge_scores(candidates, references):
    """ROUGE-L of each caption, (n,). Arguments and errors as in rouge_l."""
    check_captions(candidates, references)
    return np.array([caption_rouge(*pair) for pair in zip(candidates, references, strict=True)])


def caption_rouge(candidate, references):
    """F-measure of the longest common subsequence of one candidate and its references, a fraction."""
    candidate = candidate or ['']  # as in pycocoevalcap: an empty caption is one empty word
    places = {}  # token → an integer whose bit i is set if the token is word i of the candidate
    for place, token in enumerate(candidate):
        places[token] = places.get(token, 0) | 1 << place
    precision = recall = 0.0
    for reference in references:
        reference = reference or ['']
        common = common_length(places, len(candidate), reference)
        precision = max(precision, common / len(candidate))
        recall = max(recall, common / len(reference))
    if not precision:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def common_length(places, length, tokens):
    """Length of the longest common subsequence of two captions.

    places: token → an integer whose bit i is set if the token is word i of the first caption; length: how many words
    that caption has; tokens: the second caption.
    Source: Hyyrö, "Bit-parallel LCS-length computation revisited", 2004. One integer holds a row of the dynamic
    programming table: a bit that is 0 marks a place where the row increases by 1.
    """
    full = (1 << length) - 1
    row = full
    for token in tokens:
        matches = row & places.get(token, 0)
        row = (row + matches | row - matches) & full
    return length - row.bit_count()

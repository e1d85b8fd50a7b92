"""What BLEU and CIDEr count, and the check that all metrics make of their input.

Knows captions as lists of tokens, compared as they are: no lower-casing, no stemming. Knows no score.
"""

from collections import Counter

ORDERS = range(1, 5)  # every metric here uses 1- to 4-grams


def ngram_counts(tokens):
    """Count the n-grams of one caption.

    tokens: list of hashable tokens, possibly empty.
    Returns a list of four Counters, for n = 1..4: n-gram (tuple of n tokens) → occurrences.
    """
    return [Counter(zip(*(tokens[start:] for start in range(n)), strict=False)) for n in ORDERS]


def check_captions(candidates, references):
    """Refuse what no metric can score.

    candidates: list of n token lists, one an image (a token list may be empty).
    references: list of n lists of token lists; at least one an image, any number.
    Raises ValueError: no candidates; lists of different length; an image without references; a string where a token
    list belongs (its letters would be scored as words). The message names the index of the image.
    """
    if len(candidates) != len(references):
        raise ValueError(f'{len(candidates)} candidates but references for {len(references)} images: '
                         'give one candidate and one list of references for each image')
    if len(candidates) == 0:
        raise ValueError('no candidates to score: give at least one caption')
    for index, (candidate, image_references) in enumerate(zip(candidates, references, strict=True)):
        if not image_references:
            raise ValueError(f'image {index} has no references: each image needs at least one')
        if isinstance(image_references, str) or any(isinstance(caption, str)
                                                    for caption in [candidate, *image_references]):
            raise ValueError(f'image {index} has a caption that is a string, not a list of tokens: split it first')

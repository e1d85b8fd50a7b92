"""How varied captions are: figures that BLEU and CIDEr do not show, and that training on rewards lowers."""


def variety(candidates, known=()):
    """Figures of captions, as a dict of numbers.

    candidates: a list of token lists, one for each image. known: the token lists of the training sentences.
    distinct: the share of the captions that are different ones. novel: the share that is no training sentence, word for
    word; left out where known is empty. words: how many different words the captions use. length: their mean length.
    (As in Devlin et al. 2015, "Language models for image captioning: the quirks and what works".)
    """
    captions = list(map(tuple, candidates))
    found = {'distinct': len(set(captions)) / len(captions)}
    if sentences := set(map(tuple, known)):
        found['novel'] = sum(caption not in sentences for caption in captions) / len(captions)
    found['words'] = len({word for caption in captions for word in caption})
    found['length'] = sum(map(len, captions)) / len(captions)
    return found


def described(found):
    """What variety gives, as a line of text."""
    novel = f', {found["novel"]:.1%} are no training sentence' if 'novel' in found else ''
    return (f'variety: {found["distinct"]:.1%} of the captions are distinct{novel}; they use {found["words"]} words, '
            f'{found["length"]:.1f} each')

"""Grounding: which region each word of a sentence stands for, and whether people would point at the same place.

Takes scores of words with regions as arrays, and the phrases and boxes of Flickr30k Entities; knows nothing of models.
Boxes are x0, y0, x1, y1 as fractions of width and height.

Source: Karpathy & Fei-Fei, "Deep Visual-Semantic Alignments for Generating Image Descriptions", CVPR 2015, section
3.1.3: words t = 1..T take regions a_t such that the energy E(a) = sum_t S(t, a_t) + beta * sum_t [a_t = a_(t+1)] is
largest. A larger beta keeps neighbouring words on the same region.
"""

from difflib import SequenceMatcher
from typing import NamedTuple

import numpy as np

SHORTEST_MATCH = 3    # letters: fewer in a row are alike in any two sentences
CONTRAST, TEMPERATURE = .7, .02    # of contrasted and regions_of_phrases; chosen on the val split of Flickr8K
BASELINES = ('centre of the picture', 'random region', 'random point')


# ---- the chain of words ----------------------------------------------------------------------------------------------

def contrasted(S, contrast=CONTRAST):
    """S (T, R) minus a share of its mean over the words: what a word says of a region beyond what its sentence does.

    The words of a network that reads in both directions all carry the sentence, which draws them to the same region.
    """
    return S - contrast * S.mean(axis=0) if len(S) else S


def align(S, beta):
    """The regions of the words for which the energy is largest, (T,): Viterbi's algorithm in O(T R).

    S (T, R): the score of each word with each region, T >= 1. Of several best chains, the one with the first regions,
    compared word by word. Raises ValueError for a negative beta or an S of another form.
    """
    S = _checked(S, beta)
    best = S + _energy_after(S, beta)    # (T, R) of the rest of the chain, if this word takes this region
    regions = [best[0].argmax()]
    for following in best[1:]:
        following[regions[-1]] += beta
        regions.append(following.argmax())
    return np.array(regions)


def energies_of_phrases(S, spans, beta):
    """For each phrase and region, the energy of the best chain in which all of its words take that region, (P, R).

    S, beta: as in align. spans: (start, end) of each phrase among the words, end excluded. The words outside of the
    phrase are free. Left out is beta * (end - start - 1), the same for all regions. Raises ValueError as align does,
    and for a span without words.
    """
    S = _checked(S, beta)
    if any(not 0 <= start < end <= len(S) for start, end in spans):
        raise ValueError(f'spans {spans}: expected 0 <= start < end <= {len(S)}')
    after, before = _energy_after(S, beta), _energy_after(S[::-1], beta)[::-1]    # (T, R) each
    return np.array([before[start] + S[start:end].sum(axis=0) + after[end - 1] for start, end in spans])


def regions_of_phrases(S, spans, beta, temperature=0., centres=None):
    """The region of each phrase, (P,): the one with the largest of energies_of_phrases; of equal ones, the first.

    With a temperature above 0, the one that is expected to be nearest: region i has the probability
    exp(energy_i / number of words / temperature), normalised, and the region is the one whose centre has the smallest
    expected squared distance from the others', centres (R, 2). This is the decision with minimum Bayes risk; where many
    windows overlap, it asks them all. With beta 0, the energy is the sum of the scores of the phrase's words.
    """
    energies = energies_of_phrases(S, spans, beta)
    if not temperature:
        return energies.argmax(axis=1)
    lengths = np.array([end - start for start, end in spans])
    logits = energies / (lengths[:, None] * temperature)
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))          # (P, R), not normalised
    squares = ((centres[:, None] - centres) ** 2).sum(axis=2)                   # (R, R)
    return (probabilities @ squares).argmin(axis=1)


def _energy_after(S, beta):
    """The largest energy that the words after each word can have, if it takes each region, (T, R)."""
    energy = np.zeros_like(S)
    for t in range(len(S) - 2, -1, -1):
        following = S[t + 1] + energy[t + 1]    # (R,)
        energy[t] = np.maximum(following + beta, following.max())
    return energy


def _checked(S, beta):
    S = np.asarray(S, float)    # in float64, in which the order of additions hardly ever separates equal sums
    if S.ndim != 2 or not S.size:
        raise ValueError(f'S {S.shape}: expected (T, R), at least one word and one region')
    if not beta >= 0:
        raise ValueError(f'beta {beta}: must be at least 0')
    return S


# ---- words of Entities, tokens of a data set -------------------------------------------------------------------------

def places_of_sentences(marked, sentences):
    """Which of an image's token lists is the text of each of its marked sentences: a list of numbers.

    marked: a list of MarkedSentence; sentences: the image's token lists in a data set. A sentence without a place is a
    corrected version of one of those that no other has; it takes the most similar one, None if all have been taken.
    """
    places = [sentence.place for sentence in marked]
    free = [place for place in range(len(sentences)) if place not in places]
    letters = [_letters(tokens)[0] for tokens in sentences]
    for number, sentence in enumerate(marked):
        if sentence.place is None and free:
            own, _ = _letters(sentence.words)
            places[number] = max(free, key=lambda place: SequenceMatcher(None, own, letters[place], False).ratio())
            free.remove(places[number])
    return [place if place is not None and place < len(sentences) else None for place in places]


def spans_of_phrases(words, phrases, tokens):
    """Where each phrase, words[start:end], is among the tokens of the same sentence: a list of (start, end) or None.

    Words keep case and punctuation, which tokens have lost in one way or another: "T-shirt's" may be tshirts, t shirts
    or t shirt s. Therefore letters and digits are matched, not words. The two texts may differ in a few letters. None
    for a phrase without a counterpart.
    """
    letters, word_of = _letters(words)
    others, token_of = _letters(tokens)
    counterparts = [[] for _ in words]    # for each word, the tokens that have letters of it
    for start, other, size in SequenceMatcher(None, letters, others, autojunk=False).get_matching_blocks():
        if size >= min(SHORTEST_MATCH, len(others)):
            for place in range(size):
                counterparts[word_of[start + place]].append(token_of[other + place])
    found = [sum(counterparts[phrase.start:phrase.end], []) for phrase in phrases]
    return [(places[0], places[-1] + 1) if places else None for places in found]


def _letters(words):
    """The letters and digits of words in lower case, a string, and for each of them the number of its word."""
    found = [(letter, number) for number, word in enumerate(words) for letter in word.lower() if letter.isalnum()]
    return ''.join(letter for letter, _ in found), [number for _, number in found]


# ---- pointing accuracy -----------------------------------------------------------------------------------------------

class Pointing(NamedTuple):
    """Pointing accuracies in percent, each a dict of 'all' and the types of phrases → accuracy."""

    chains: dict       # beta → accuracies of the model
    baselines: dict    # 'centre of the picture', 'random region', 'random point' → accuracies
    counts: dict       # 'all' and the types → how many phrases have boxes
    unmatched: int     # how many of them have no counterpart among the tokens of the data set
    unknown: int       # of how many others the model knows no word


def pointing(images, boxes, word_scores, betas, temperature=0., contrast=0.):
    """The Pointing of a model: how often the centre of a phrase's best region is in one of the phrase's boxes.

    images: a list of (MarkedImage, its token lists in the data set). boxes (R, 4): of the regions. betas: of the chain,
    at least one. word_scores(number of the image, number of the sentence) -> S (K + 1, R), known (T,) bool: the scores
    of the K known words among the sentence's T tokens, and of END, with each region; and which of the tokens are known.
    END is no word and is left out of the chain. temperature: as in regions_of_phrases; contrast: as in contrasted.

    A phrase that is unmatched or unknown points at the centre of the picture, so that all models are scored on the same
    phrases. A phrase with several types counts for each. Baselines: always the centre of the picture; a region, or a
    point, drawn uniformly (their expected accuracy). Raises ValueError if no phrase has boxes, or S has another shape.
    """
    points = np.vstack([(boxes[:, :2] + boxes[:, 2:]) / 2, (.5, .5)])           # (R + 1, 2): centres; the picture's
    rows, types, unmatched, unknown = [], [], 0, 0
    for number, place, phrases, spans in _boxed_phrases(images):
        matched = [phrase for phrase, span in enumerate(spans) if span]
        chosen = np.full((len(phrases), len(betas)), len(boxes))                # at first, the picture's centre
        if matched:
            S, known = word_scores(number, place)
            if np.shape(S) != (np.sum(known) + 1, len(boxes)):
                raise ValueError(f'S {np.shape(S)}: expected {np.sum(known)} known words and END, {len(boxes)} regions')
            spans = [spans[phrase] for phrase in matched]
            chosen[matched] = _regions_of_known(contrasted(S[:-1], contrast), known, spans, betas, temperature,
                                                points[:-1])
        unmatched += len(phrases) - len(matched)
        unknown += int((chosen[matched, 0] == len(boxes)).sum())
        for (its_types, truth), regions in zip(phrases, chosen, strict=True):
            hits = inside(points, truth)                                        # (R + 1,)
            rows.append([*hits[regions], hits[-1], hits[:-1].mean(), area(truth)])
            types.append(its_types)
    if not rows:
        raise ValueError('no phrase has boxes')
    values = zip([*betas, *BASELINES], np.transpose(rows), strict=True)
    accuracies = {name: by_type(each, types) for name, each in values}
    counts = {name: sum(name in each for each in types) for name in accuracies[BASELINES[0]]} | {'all': len(types)}
    return Pointing({beta: accuracies[beta] for beta in betas}, {name: accuracies[name] for name in BASELINES}, counts,
                    unmatched, unknown)


def _regions_of_known(S, known, spans, betas, temperature, centres):
    """The regions of phrases by the known words alone, (P, len(betas)): R for a phrase that has no known word.

    S (K, R): of the known words. known (T,): which tokens these are. spans: of the phrases among all tokens. centres
    (R, 2): of the regions.
    """
    before = np.cumsum([0, *known])    # how many known words stand before each token
    spans = [(before[start], before[end]) for start, end in spans]
    some = [phrase for phrase, (start, end) in enumerate(spans) if start < end]
    chosen = np.full((len(spans), len(betas)), S.shape[1])
    if some:
        spans = [spans[phrase] for phrase in some]
        chosen[some] = np.transpose([regions_of_phrases(S, spans, beta, temperature, centres) for beta in betas])
    return chosen


def _boxed_phrases(images):
    """Yield the sentences of images, as in pointing, with their phrases that have boxes.

    Each is: the number of the image, the number of the sentence or None, a list of (types, boxes) of its phrases, and
    a list of their spans as spans_of_phrases gives them.
    """
    for number, (image, sentences) in enumerate(images):
        places = places_of_sentences(image.sentences, sentences)
        for sentence, place in zip(image.sentences, places, strict=True):
            phrases = [phrase for phrase in sentence.phrases if phrase.entity in image.boxes]
            tokens = [] if place is None else sentences[place]
            yield (number, place, [(phrase.types, image.boxes[phrase.entity]) for phrase in phrases],
                   spans_of_phrases(sentence.words, phrases, tokens))


def inside(points, boxes):
    """Which of the points (n, 2) lie in one of the boxes (k, 4), edges included: (n,) bool."""
    points = np.asarray(points)[:, None]                                        # (n, 1, 2)
    return ((boxes[:, :2] <= points) & (points <= boxes[:, 2:])).all(axis=2).any(axis=1)


def area(boxes):
    """The area of the union of boxes (k, 4): the share of the picture that they cover."""
    x, y = np.unique(boxes[:, ::2]), np.unique(boxes[:, 1::2])    # every edge; no edge crosses a cell between two
    middles = np.stack(np.meshgrid((x[1:] + x[:-1]) / 2, (y[1:] + y[:-1]) / 2), axis=-1)    # (rows, columns, 2)
    covered = inside(middles.reshape(-1, 2), boxes).reshape(middles.shape[:2])
    return float(np.diff(y) @ covered @ np.diff(x))


def by_type(values, types):
    """The mean of values (P,) in percent, of all phrases and of those of each type: 'all' and the types → float.

    types: a list of the types of each phrase, a tuple; a phrase counts for each of them.
    """
    values = np.asarray(values, float)
    found = {'all': float(100 * values.mean())}
    for name in sorted({name for each in types for name in each}):
        found[name] = float(100 * values[[name in each for each in types]].mean())
    return found

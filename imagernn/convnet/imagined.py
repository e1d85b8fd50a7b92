"""Features imagined from words: what the features of a picture might be of which only captions are known.

    f = max(0, μ + (x − x̄)·B + S · Σ_w share(w)·d_w + ρ·r)

x holds, for each word, the share of the image's captions that have it; B is a ridge regression from x to the features
of real pictures, whose means are x̄ and μ; d_w is the direction of an ImageNet class that the word w names; r is the
regression's residual of a real picture, drawn at random. The features of a region have the same formula, with the mean
and the residual of that region, and with directions that are stronger or weaker than in the whole picture: each class
has a place in it. Knows words and arrays; opens no file but the table of words.
"""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import sparse

from imagernn.errors import InputError, unreadable

TABLE = Path(__file__).with_name('words_of_classes.txt')
LONGEST = 3            # words in a row that make a term of the table
BLOCK = 1000           # images whose features are in memory at once
MOST_CLASSES = 3       # of one image: those of the words that most of its captions have
SEVERAL = 1.3          # by which the directions of an image are divided if there is more than one
MENTIONS = 2           # captions of an image that must have a word before its class counts; fewer if it has fewer
SMALLEST_PLACE = .25   # of a class, as a share of the picture's area
MOST_PRESENCE = 2.5    # of a class in a region


# ---- the table: {term: numbers of classes}, where a term is a word or several words in a row, joined by spaces -----

def read_table(path, class_names):
    """The table of words and classes in a file: a dict of term -> list of the numbers of its classes.

    A line is `term, term: class; class`; empty lines and those that begin with # are skipped. Raises InputError that
    names the line for anything else, for a class that is not in class_names, and for a term that occurs twice.
    """
    number_of = {name: number for number, name in enumerate(class_names)}
    table = {}
    for line, text in enumerate(_text_of(path).split('\n'), 1):
        if not text.strip() or text.startswith('#'):
            continue
        terms, colon, classes = text.partition(':')
        terms, classes = ([part.strip() for part in side.split(separator)]
                          for side, separator in ((terms, ','), (classes, ';')))
        if not colon or not all(terms) or not all(classes):
            raise InputError(f'{path}, line {line}: {text.strip()!r:.60}; expected "word, word: class; class". Correct '
                             'that line.')
        if unknown := [name for name in classes if name not in number_of]:
            raise InputError(f'{path}, line {line}: {unknown[0]!r:.60} is no class of ImageNet; expected a name as in '
                             'imagernn/convnet/imagenet_classes.txt. Correct that line.')
        for term in (' '.join(term.split()) for term in terms):
            if term.count(' ') >= LONGEST:
                raise InputError(f'{path}, line {line}: {term!r:.60} has more than {LONGEST} words; shorten it.')
            if term in table:
                raise InputError(f'{path}, line {line}: {term!r:.60} is on an earlier line, too; remove one of them.')
            table[term] = [number_of[name] for name in classes]
    if not table:
        raise InputError(f'{path}: lists no words; expected lines such as "pizza, pizzas: pizza"')
    return table


def _text_of(path):
    try:
        return Path(path).read_text(encoding='utf-8-sig')
    except OSError as error:
        raise unreadable(path, error) from None
    except UnicodeDecodeError as error:
        raise InputError(f'{path}: is not UTF-8 at byte {error.start}; expected a text file with lines such as '
                         '"pizza, pizzas: pizza"') from None


def terms_of(tokens, table):
    """The terms of a table in a sentence: a list of different ones in their order.

    Where several begin at the same word, the longest one counts, and its words count for nothing else: a hot dog is no
    dog.
    """
    found = {}
    place = 0
    while place < len(tokens):
        length = next((length for length in range(LONGEST, 0, -1) if ' '.join(tokens[place:place + length]) in table),
                      None)
        if length:
            found[' '.join(tokens[place:place + length])] = None
        place += length or 1
    return list(found)


def counts_of(captions, table):
    """In how many of an image's captions, lists of tokens, each term of a table occurs: a Counter."""
    return Counter(term for tokens in captions for term in terms_of(tokens, table))


# ---- the regression from words to features -------------------------------------------------------------------------

class Regression(NamedTuple):
    """Ridge regression from the shares of W words to D features."""

    column_of: dict         # word -> its column in the matrices of shares
    x_mean: np.ndarray      # (W,)
    f_mean: np.ndarray      # (D,)
    B: np.ndarray           # (W, D)
    explained: float        # the share of the variance of all features that it explains, from 0 to 1
    deviation: float        # the root mean square distance of the features from their mean

    def predict(self, X):
        """Features for shares X (n, W): (n, D)."""
        return self.f_mean + X @ self.B - self.x_mean @ self.B

    def predict_regions(self, X, means):
        """Features of regions for shares X (n, W): (n, R, D). means (R, D): of each region's features."""
        return means + (self.predict(X) - self.f_mean)[:, None]


def frequent_words(images, least):
    """The words that the captions of at least this many images have, as a dict of word -> column, sorted by word.

    images: an iterable of lists of captions, which are lists of tokens.
    """
    counts = Counter(word for captions in images for word in {word for tokens in captions for word in tokens})
    return {word: column for column, word in enumerate(sorted(word for word, n in counts.items() if n >= least))}


def shares_of(images, column_of):
    """The share of each image's captions that have a word: a sparse matrix (n, W) float64.

    images: n lists of at least one caption, which is a list of tokens. column_of: a dict of word -> column.
    """
    values, columns, ends = [], [], [0]
    for captions in images:
        counts = Counter(column_of[word] for tokens in captions for word in {*tokens} if word in column_of)
        values += [count / len(captions) for count in counts.values()]
        columns += counts
        ends.append(len(columns))
    return sparse.csr_matrix((values, columns, ends), (len(ends) - 1, len(column_of)))


def fit(column_of, X, features_of, ridge):
    """The ridge regression from shares X (n, W) to the features of n images: a Regression.

    It minimizes Σ_i ‖f_i − μ − (x_i − x̄)·B‖² + ridge · ‖B‖². features_of(numbers (k,)) -> (k, D) float64; it is
    called for a block of images at a time.
    """
    n = X.shape[0]
    f_sum, products, squares = 0, 0, 0
    for start in range(0, n, BLOCK):
        block = np.arange(start, min(start + BLOCK, n))
        F = features_of(block)                                                  # (k, D)
        f_sum = f_sum + F.sum(axis=0)
        squares += (F * F).sum()
        products = products + X[block].T @ F                                    # (W, D)
    x_mean, f_mean = np.asarray(X.mean(axis=0)).ravel(), f_sum / n
    gram = (X.T @ X).toarray() - n * np.outer(x_mean, x_mean)                   # (W, W)
    products -= n * np.outer(x_mean, f_mean)
    B = np.linalg.solve(gram + ridge * np.eye(len(x_mean)), products)           # (W, D)
    total = squares - n * (f_mean @ f_mean)
    left = total - 2 * (B * products).sum() + (B * (gram @ B)).sum()            # Σ ‖residual‖²
    return Regression(column_of, x_mean, f_mean, B, 1 - left / total if total > 0 else 0., (max(total, 0) / n) ** .5)


# ---- the directions of the classes ---------------------------------------------------------------------------------

def class_directions(W):
    """The direction in which features grow that speak for a class: W (D, classes) -> unit vectors (classes, D).

    It is that of the class's weights minus the mean over all classes. In a network trained to the end, the mean feature
    of a class lies in that direction (neural collapse, Papyan, Han & Donoho 2020).
    """
    centred = (W - W.mean(axis=1, keepdims=True)).T.astype(np.float64)          # (classes, D)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), np.finfo(np.float64).tiny)


def agreement(counts, table, directions, features_of, least):
    """How well real images fit the directions: a bool for each term of a table that at least this many images have.

    It is True if the mean feature of the images with the term lies further than that of all images in the mean
    direction of the term's classes. In the features of another network it is True for half of the terms.
    counts: what counts_of gives for each of n images; features_of as for fit.
    """
    frequency = Counter(term for each in counts for term in each)
    terms = [term for term in table if frequency[term] >= least]
    column_of = {term: column for column, term in enumerate(terms)}
    has = [[column_of[term] for term in each if term in column_of] for each in counts]
    ends = np.cumsum([0, *map(len, has)])
    has = sparse.csr_matrix((np.ones(ends[-1]), [column for each in has for column in each], ends),
                            (len(counts), len(terms)))
    total, sums = np.zeros(directions.shape[1]), np.zeros((len(terms), directions.shape[1]))    # (D,), (T, D)
    for start in range(0, len(counts), BLOCK):
        block = np.arange(start, min(start + BLOCK, len(counts)))
        F = features_of(block)                                                  # (k, D)
        total += F.sum(axis=0)
        sums += has[block].T @ F
    towards = np.array([directions[table[term]].mean(axis=0) for term in terms]).reshape(sums.shape)
    means = sums / np.array([[frequency[term]] for term in terms]).reshape(-1, 1)
    return ((means - total / len(counts)) * towards).sum(axis=1) > 0


def named_terms(captions, table):
    """The terms of a table whose classes an image gets: a list of at most MOST_CLASSES pairs (term, share of captions).

    They are those that most of its captions have, and at least MENTIONS of them.
    """
    counts = counts_of(captions, table)
    least = min(MENTIONS, len(captions))
    terms = sorted((term for term, count in counts.items() if count >= least), key=lambda term: (-counts[term], term))
    return [(term, counts[term] / len(captions)) for term in terms[:MOST_CLASSES]]


def draw_classes(terms, table, rng):
    """One class for each of an image's named terms, drawn among the term's: a list of (number of the class, weight)."""
    return [(table[term][rng.integers(len(table[term]))], share / (1 if len(terms) == 1 else SEVERAL))
            for term, share in terms]


def imagine(regression, X, weights, directions, residuals, strength):
    """Imagined features (n, D); none is negative, as behind a ReLU.

    X (n, W): the shares of words; weights: a list of n lists of (class, weight); directions (classes, D): those of
    class_directions; residuals: (n, D), or 0; strength: the length of a direction that all captions of an image name.
    """
    values = [weight for pairs in weights for _, weight in pairs]
    columns = [number for pairs in weights for number, _ in pairs]
    ends = np.cumsum([0, *map(len, weights)])
    classes = sparse.csr_matrix((values, columns, ends), (len(weights), len(directions)))
    return np.maximum(regression.predict(X) + strength * (classes @ directions) + residuals, 0)


# ---- regions: their boxes are x0, y0, x1, y1, as shares of the picture's width and height ---------------------------

def areas(boxes):
    """The areas of boxes (..., 4), as shares of the picture's: (...)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def presence_in(boxes, places):
    """How present a thing at each place is in each region: (R, P). In the whole picture it is 1.

    It is the share of the region that the place covers, divided by the same share of the whole picture, and at most
    MOST_PRESENCE. boxes (R, 4): of the regions; places (P, 4).
    """
    one, other = boxes[:, None], places[None]
    corners = np.maximum(one[..., :2], other[..., :2]), np.minimum(one[..., 2:], other[..., 2:])
    overlap = np.prod(np.maximum(corners[1] - corners[0], 0), axis=-1)          # (R, P)
    return np.minimum(overlap / areas(one) / areas(other), MOST_PRESENCE)


def imagine_regions(regression, means, X, weights, presence, directions, residuals, strength):
    """Imagined features of regions (n, R, D); arguments that are not named here are those of imagine.

    means (R, D): of each region's features; presence: for each image, an array (R, its number of classes), how present
    each class is in each region; residuals: (n, R, D).
    """
    out = regression.predict_regions(X, means) + residuals                      # (n, R, D)
    for rows, pairs, factors in zip(out, weights, presence, strict=True):
        for (number, weight), factor in zip(pairs, factors.T, strict=True):
            rows += strength * weight * np.outer(factor, directions[number])
    return np.maximum(out, 0)

"""A ranking model put to use on a split: vectors, scores, and how far up the right ones come.

Joins data provider, model and retrieval scores.
"""

import numpy as np
from tqdm import tqdm

from imagernn.corpus.known_words import known_words
from imagernn.corpus.vocab import lookup_table
from imagernn.metrics.retrieval import ranks_in_folds, retrieval_scores
from imagernn.nn.workers import Workers
from imagernn.ranking.batch import features_of, standardized
from imagernn.ranking.model import encode_images, encode_sentences
from imagernn.ranking.scores import scores_of

IMAGES_AT_ONCE = 100
SENTENCES_AT_ONCE = 500


def encode_split(provider, split, checkpoint, max_images=-1, workers=None):
    """The vectors of a split's images (M, R, E), the Sentences of all theirs, and image_of (N,), each sentence's image.

    checkpoint: model, params, wordtoix and standard, as load_ranker gives them. InputError where the vocabulary has no
    word of the split.
    """
    workers = workers or Workers()
    lookup = lookup_table(provider.words, checkpoint['wordtoix'])
    known_words(provider, split, lookup, max_images)
    images = provider.image_numbers(split, max_images)
    image_of, numbers = provider.sentences_of(images)
    words, lengths = provider.indices(numbers, lookup)
    sentences = encode_sentences(words, lengths, checkpoint['model'], checkpoint['params'], workers)
    return images_of(provider, images, checkpoint, workers), sentences, image_of


def images_of(provider, images, checkpoint, workers):
    """The vectors of images, by number (n,): (n, R, E)."""
    model, params, dtype = checkpoint['model'], checkpoint['params'], checkpoint['model']['We'].dtype

    def encode(features):
        return encode_images(standardized(features, checkpoint['standard']), model, params)

    blocks = (features_of(provider, images[start:start + IMAGES_AT_ONCE], params['ranker'], dtype)
              for start in range(0, len(images), IMAGES_AT_ONCE))
    return np.concatenate(list(workers.map_shared(encode, blocks)))


def score_matrix(images, sentences, params, workers=None, progress=True):
    """The scores of vectors of images (M, R, E) with Sentences, in blocks: (M, N)."""
    workers = workers or Workers()
    mean, (vectors, starts) = params['pool'] == 'mean', sentences
    S = np.empty((len(images), len(starts) - 1), images.dtype)

    def fill(first):
        some = slice(first, min(first + SENTENCES_AT_ONCE, S.shape[1]))
        begin, end = starts[some.start], starts[some.stop]
        S[:, some] = scores_of(images, vectors[begin:end], starts[some.start:some.stop + 1] - begin, mean)

    blocks = range(0, S.shape[1], SENTENCES_AT_ONCE)
    for _ in tqdm(workers.map(fill, blocks), 'scores', len(blocks), leave=False, disable=None if progress else True):
        pass
    return S


def combined(matrices):
    """The scores of an ensemble: the mean of score matrices (M, N), each divided by its own standard deviation."""
    if len(matrices) == 1:
        return matrices[0]
    return sum(S / max(float(S.std()), 1e-30) for S in matrices) / len(matrices)


def split_recall_sum(provider, split, checkpoint, max_images, workers):
    """The recall sum, R@1, 5 and 10 both ways in percent, among the images of a split."""
    images, sentences, image_of = encode_split(provider, split, checkpoint, max_images, workers)
    S = score_matrix(images, sentences, checkpoint['params'], workers)
    return retrieval_scores(ranks_in_folds(S, image_of))['recall_sum']

"""A trained ranker in a few calls: vectors of images and of sentences, and their scores.

    ranker = Ranker.load('cv/ranker_regions_lite0.h5')
    images = ranker.encode_images(features)
    sentences = ranker.encode_sentences([['two', 'dogs', 'play']])
    ranker.scores(images, sentences)

Knows nothing of pictures: features come from a feature file or from convnet.extraction.
"""

import itertools

import numpy as np

from imagernn.nn.workers import Workers
from imagernn.ranking.batch import split_rows, standardized
from imagernn.ranking.load import load_ranker
from imagernn.ranking.model import encode_images, encode_sentences
from imagernn.ranking.split import score_matrix


class Ranker:
    """checkpoint: what load_ranker returns. kind: 'sentences' or 'regions'; dim: the size E of the vectors."""

    def __init__(self, checkpoint, num_threads=1):
        self.checkpoint = checkpoint
        self.params = checkpoint['params']
        self.kind = self.params['ranker']
        self.dim = checkpoint['model']['We'].shape[1]
        self.whole_dim = len(checkpoint['model']['We'])    # the size of the features of a picture, and of a region
        self.workers = Workers(num_threads)

    @classmethod
    def load(cls, path, num_threads=1):
        """The ranker in a checkpoint, in float32. InputError for a file that is missing, damaged or of another kind."""
        return cls(load_ranker(path, 'float32'), num_threads)

    def encode_images(self, features):
        """Vectors (n, R, E) of images by their features: rows (n, D + R·D) as corpus.features gives them, first those
        of the whole picture. A ranker of sentences has R = 1, and takes rows (n, D) as well. ValueError for rows of
        another size.
        """
        size = np.shape(features)[1]
        if size % self.whole_dim or size < (2 if self.kind == 'regions' else 1) * self.whole_dim:
            raise ValueError(f'features {np.shape(features)}: expected rows of {self.whole_dim} features of the whole '
                             'picture, and of as many of each region')
        features = split_rows(np.array(features, np.float32), self.whole_dim, self.whole_dim, self.kind)
        return encode_images(standardized(features, self.checkpoint['standard']), self.checkpoint['model'], self.params)

    def encode_sentences(self, sentences):
        """The Sentences of N lists of tokens: the vectors (P, E), and where each sentence begins, (N + 1,).

        Unknown words are dropped. A ranker of regions has a vector for each known word, and then one for END; a ranker
        of sentences has one.
        """
        wordtoix = self.checkpoint['wordtoix']
        words = [[wordtoix[token] for token in self.known(tokens)[0]] for tokens in sentences]
        return encode_sentences(np.array(list(itertools.chain.from_iterable(words)), np.int64),
                                np.array(list(map(len, words)), np.int64), self.checkpoint['model'], self.params,
                                self.workers)

    def known(self, tokens):
        """The tokens that the ranker knows, and those that it does not: two lists."""
        wordtoix = self.checkpoint['wordtoix']
        knows = [wordtoix.get(token, 0) > 0 for token in tokens]
        return (list(itertools.compress(tokens, knows)),
                [token for token, known in zip(tokens, knows, strict=True) if not known])

    def scores(self, images, sentences):
        """The scores of vectors of images (n, R, E) with N Sentences: (n, N)."""
        return score_matrix(images, sentences, self.params, self.workers, progress=False)

    def word_scores(self, image, vectors):
        """The score of each word with each region: vectors of an image (R, E) and of a sentence (T, E) -> (T, R)."""
        return vectors @ image.T

"""Sentences find photos, and a photo finds sentences.

The first stage compares one vector of the sentence with one of each photo; the second compares words and regions of the
best candidates. Knows nothing of the files of the index, or of web pages.
"""

import math
from difflib import get_close_matches
from functools import lru_cache
from threading import Lock

import numpy as np

from imagernn.corpus.tokenize import tokenize
from imagernn.errors import InputError, install_command
from imagernn.ranking.grounding import align, contrasted

CANDIDATES = 100           # photos, or sentences, that the second stage orders
SIMILAR = 1000             # photos whose captions may be among the candidates for a photo
WEIGHTS = (1., 1.)         # of the standardised scores by sentence vectors and by words and regions
BETA = 0.                  # how much neighbouring words prefer the same region: see grounding.align
MOST_WORDS = 100           # of a query
LONGEST_WORD = 40          # letters; no longer word gets suggestions
EXACT = 100_000            # photos; for more, --index faiss is recommended
SENTENCES_SHOWN = 5
SAMPLE = 200               # sentences that measure the recall of an approximate index
PROBED, LEAST = 1 / 8, 5_000    # such an index looks at this share of the photos, and at no fewer than these


class Search:
    """The search in an Index of photos. All methods may be called from several threads at once."""

    def __init__(self, index, models, approximate=False):
        """approximate: whether the first stage uses faiss. Raises InputError if it is not installed."""
        self.index, self.models = index, models
        self._lock = Lock()    # models reuse their memory
        E, R = models.by_sentence.dim, len(models.boxes)
        self._region_columns, self._shape = slice(E, models.width), (-1, R, models.by_region.dim)
        self.vectors = index.vectors(np.arange(len(index.entries)), slice(0, E))    # (N, E)
        self._approximate = approximate_index(self.vectors) if approximate else None
        words = [word for word, number in models.by_sentence.checkpoint['wordtoix'].items() if number]    # not START
        self._tokenizer = 'karpathy' if all(map(str.isascii, words)) else 'words'    # as for dataset.json
        self._nearest_words = lru_cache(10_000)(lambda word: get_close_matches(word, words, 3, .6))

    def find(self, text, number=CANDIDATES):
        """The photos that fit a text best, as a dict for JSON.

        'query', 'known' and 'unknown': the text and its words; 'nearest': unknown word -> known words that look like
        it; 'error': why there are no results, or None; 'results': at most `number` of {'photo': its number in the
        index, 'score'}, best first. Scores of one query can be compared, those of two cannot.
        """
        tokens, = tokenize([text], self._tokenizer)
        known, unknown = self.models.by_sentence.known(tokens[:MOST_WORDS])
        unknown = list(dict.fromkeys(unknown))
        nearest = {word: self._nearest_words(word) for word in unknown if len(word) <= LONGEST_WORD}
        answer = {'query': text, 'known': known, 'unknown': unknown, 'nearest': nearest, 'error': None, 'results': []}
        if len(tokens) > MOST_WORDS:
            answer['error'] = f'The sentence has {len(tokens):,} words; at most {MOST_WORDS} can be searched for.'
        elif not tokens:
            answer['error'] = 'The sentence is empty. Describe what the photo shows, as in: a dog runs on the beach.'
        elif not known:
            answer['error'] = all_unknown(unknown, nearest)
        else:
            with self._lock:
                photos, scores = self._ranked(tokens, max(number, CANDIDATES))
            answer['results'] = [{'photo': photo, 'score': round(score, 4)}
                                 for photo, score in zip(photos[:number].tolist(), scores.tolist(), strict=False)]
        return answer

    def _ranked(self, tokens, number):
        """The numbers of the photos that fit tokens best, best first, and their scores; each at most (number,)."""
        candidates, first = self._candidates(self._sentence_vectors([tokens])[0], number)
        scores = self.models.by_region.scores(self._regions(candidates),
                                              self.models.by_region.encode_sentences([tokens]))    # (k, 1)
        scores = combined(first, scores[:, 0])
        order = np.argsort(-scores, kind='stable')
        return candidates[order], scores[order]

    def _candidates(self, vector, number):
        """The photos with the largest scores of the first stage: their numbers and scores, each (k,), best first."""
        if self._approximate is None:
            return largest(self.vectors @ vector, number)
        scores, photos = self._approximate.search(vector[None], number)
        return photos[0][photos[0] >= 0], scores[0][photos[0] >= 0]

    def recall(self):
        """The share of the exact search's CANDIDATES that the approximate one finds, for a sample of the captions."""
        captions = sorted({entry.caption for entry in self.index.entries})
        sample = np.random.default_rng(0).permutation(len(captions))[:SAMPLE]
        shares = []
        for vector in self._sentence_vectors([captions[number].split() for number in sample]):
            exact, _ = largest(self.vectors @ vector, CANDIDATES)
            shares.append(np.isin(exact, self._candidates(vector, CANDIDATES)[0]).mean())
        return float(np.mean(shares))

    def grounded(self, photo, text):
        """Where a photo shows the words of a text: a list of {'word', 'score', 'box'} for the known words in order.

        photo: its number. The box is x0, y0, x1, y1 as shares of the photo's width and height.
        """
        tokens, = tokenize([text], self._tokenizer)
        known, _ = self.models.by_region.known(tokens[:MOST_WORDS])
        if not known:
            return []
        with self._lock:
            vectors = self.models.by_region.encode_sentences([known]).vectors
            scores = self.models.by_region.word_scores(self._regions([photo])[0], vectors)[:len(known)]    # without END
        regions = align(contrasted(scores), BETA)
        return [{'word': word, 'score': round(float(row[region]), 4), 'box': self.models.boxes[region].tolist()}
                for word, row, region in zip(known, scores, regions, strict=True)]

    def sentences(self, photo):
        """The captions of the album that fit a photo best: a list of SENTENCES_SHOWN {'text', 'score'}, best first.

        Candidates are the captions of the photos that are most similar to it: with few photos, all captions.
        """
        texts = {}    # as an ordered set
        for other in largest(self.vectors @ self.vectors[photo], SIMILAR)[0]:
            texts[self.index.entries[other].caption] = None
            if len(texts) == CANDIDATES:
                break
        tokens = [text.split() for text in texts]
        with self._lock:
            by_sentence = self._sentence_vectors(tokens) @ self.vectors[photo]
            by_region = self.models.by_region.scores(self._regions([photo]),
                                                     self.models.by_region.encode_sentences(tokens))[0]
        best, scores = largest(combined(by_sentence, by_region), SENTENCES_SHOWN)
        return [{'text': list(texts)[place], 'score': round(score, 4)}
                for place, score in zip(best, scores.tolist(), strict=True)]

    def _sentence_vectors(self, sentences):
        return self.models.by_sentence.encode_sentences(sentences).vectors    # (n, E)

    def _regions(self, photos):
        """The vectors of the regions of photos with these numbers, (k, R, E')."""
        return self.index.vectors(np.asarray(photos), self._region_columns).reshape(self._shape)


def combined(by_sentence, by_region):
    """The scores of candidates by both models, each (k,): the weighted sum of the two after standardisation."""
    return sum(weight * (scores - scores.mean()) / (scores.std() or 1)
               for weight, scores in zip(WEIGHTS, (by_sentence, by_region), strict=True))


def largest(scores, number):
    """The places of the largest of scores (N,), and these, each at most (number,), largest first."""
    places = np.arange(len(scores))
    if len(scores) > number:
        places = np.argpartition(-scores, number)[:number]
    places = places[np.lexsort((places, -scores[places]))]
    return places, scores[places]


def all_unknown(unknown, nearest):
    """What to say of a query without known words."""
    similar = list(dict.fromkeys(word for words in nearest.values() for word in words))
    return (f'The models know none of these words: {", ".join(unknown):.200}. '
            + (f'Known words that look like them: {", ".join(similar[:10])}.' if similar
               else 'Use plain English words for what the photo shows.'))


def approximate_index(vectors):
    """A faiss index of vectors (N, E), in lists around 4·√N centres, of which a search looks at a share.

    Source: https://github.com/facebookresearch/faiss/wiki/Guidelines-to-choose-an-index. Raises InputError if faiss is
    not installed.
    """
    try:
        import faiss
    except ModuleNotFoundError:
        raise InputError(f'--index faiss: faiss is not installed; run {install_command("faiss")}, or leave --index '
                         'out') from None
    lists = max(1, min(int(4 * len(vectors) ** .5), len(vectors) // 39))    # 39: with fewer, faiss warns
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(vectors.shape[1]), vectors.shape[1], lists,
                               faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    index.nprobe = math.ceil(lists * min(1, max(PROBED, LEAST / len(vectors))))
    return index

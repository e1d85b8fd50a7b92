"""Minimum Bayes risk decoding: the same order as by scoring each drawn caption against all others, one at a time."""

import numpy as np
import pytest
from models import make_model, make_params

from imagernn.captioning.consensus import by_expected_cider, word_rarity
from imagernn.metrics.cider import cider, cider_scores, inverse_frequencies, pairwise_cider
from imagernn.metrics.ngrams import ORDERS, count_ngrams, read_captions
from imagernn.nn.search import Sentence

RNG = np.random.default_rng(0)
RARITY = RNG.uniform(1, 9, 12)    # of twelve words


def drawn_sentences(num_sentences, num_words, rng):
    """Sentences of few words, so that n-grams and whole sentences recur; some of them empty, some without END."""
    found = []
    for _ in range(num_sentences):
        words = rng.integers(1, num_words, rng.integers(0, 7)).tolist()
        found.append(Sentence(-float(len(words)), words if len(words) == 6 else [*words, 0], []))
    return found


def spoken(sentence):
    return [word for word in sentence.words if word]


def cider_by_rarity(candidate, references):
    """CIDEr-D of one caption, as metrics.cider computes it, with n-grams that weigh as much as their words together."""
    captions = read_captions([candidate], [references])
    word_of = dict(zip(captions.words.tolist(), [word for each in (candidate, *references) for word in each],
                       strict=True))
    ngrams = count_ngrams(captions)
    weights = [np.array([sum(RARITY[word_of[number]] for number in captions.words[place:place + n].tolist())
                         for place in found.first]) for n, found in zip(ORDERS, ngrams, strict=True)]
    return cider_scores(captions, ngrams, weights)[0][0]


@pytest.mark.parametrize('num_sentences, num_words', [(2, 3), (5, 3), (30, 4), (30, 12)])
def test_the_order_is_that_of_the_mean_scores_against_all_others(num_sentences, num_words):
    for seed in range(5):
        sentences = drawn_sentences(num_sentences, num_words, np.random.default_rng(seed))
        scores = {}    # of each different sentence, by the first time that it was drawn
        for i, sentence in enumerate(sentences):
            others = [spoken(other) for j, other in enumerate(sentences) if j != i]
            scores.setdefault(tuple(sentence.words), round(cider_by_rarity(spoken(sentence), others), 9))
        found = by_expected_cider(sentences, RARITY)
        assert sorted(tuple(sentence.words) for sentence in found) == sorted(scores)
        keys = [(-scores[tuple(sentence.words)], -sentence.logprob) for sentence in found]
        assert keys == sorted(keys)


def test_of_equal_scores_the_higher_logprob_wins():
    sentences = [Sentence(logprob, [word, 0], []) for logprob, word in ((-3., 1), (-1., 2), (-2., 3))]
    assert by_expected_cider(sentences, RARITY) == [sentences[1], sentences[2], sentences[0]]
    empty = [Sentence(-1., [0], [])] * 2
    assert by_expected_cider(empty, RARITY) == empty[:1]


def test_pairwise_cider_is_cider_of_each_pair():
    words = [[str(word) for word in RNG.integers(0, 4, length)] for length in (0, 1, 3, 7, 11, 12)]
    candidates, references = zip(*[(one, [other]) for one in words for other in words], strict=True)
    captions = read_captions(candidates, references)    # each candidate with its reference behind it
    ngrams = count_ngrams(captions)
    found = pairwise_cider(captions, ngrams, [inverse_frequencies(captions, each) for each in ngrams])
    np.testing.assert_allclose(found.diagonal(1)[::2], cider(candidates, references)[1], rtol=1e-12)


def test_the_rarity_of_words_is_what_the_models_predict_without_a_hidden_state():
    models = [make_model(make_params('rnn'), seed=seed) for seed in (1, 2)]
    for some in models[:1], models:
        probabilities = [np.exp(model['bd'][0]) / np.exp(model['bd']).sum() for model in some]
        np.testing.assert_allclose(np.exp(-word_rarity(some)), np.mean(probabilities, axis=0), rtol=1e-12)

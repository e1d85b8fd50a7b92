"""The searches against plain Python: every sentence enumerated, and NeuralTalk's beam search an image at a time.

Most models here are tables: log-probabilities looked up by a number that follows from the image and all words so far.
Their rows do not depend on one another, so that what is compared can be compared exactly.
"""

import itertools
import math

import numpy as np
import pytest
from models import ROW, VARIANTS, make_model, make_params

from imagernn.captioning.model import encode_images, make_tick
from imagernn.nn import search as searches
from imagernn.nn.layers import log_softmax
from imagernn.nn.search import MAX_LENGTH

KEYS = 997


# ---- the searches, their results as (logprob, words), after a look at the words' own logprobs

def as_pairs(found):
    for sentence in (sentence for sentences in found for sentence in sentences):
        assert len(sentence.word_logprobs) == len(sentence.words)
        assert math.fsum(sentence.word_logprobs) == pytest.approx(sentence.logprob, rel=1e-6, abs=1e-12)
    return [[(sentence.logprob, sentence.words) for sentence in sentences] for sentences in found]


def beam_search(*args, **options):
    return as_pairs(searches.beam_search(*args, **options))


def pooled_beam_search(*args, **options):
    return as_pairs(searches.pooled_beam_search(*args, **options))


def greedy_search(*args, **options):
    return as_pairs(searches.greedy_search(*args, **options))


def sample_search(*args, **options):
    return as_pairs(searches.sample_search(*args, **options))


class Table:
    """A random model: tick, the state of n images, and the number of rows of each tick so far."""

    def __init__(self, seed, V, sharpness=2., dtype=np.float64, ties=None, end=0.):
        y = np.random.default_rng(seed).normal(scale=sharpness, size=(KEYS, V))
        y[:, 0] += end
        self.logprobs = (np.round(log_softmax(y) / ties) * ties if ties else log_softmax(y)).astype(dtype)
        self.rows = []

    def images(self, n, first=0):
        return (np.arange(first, first + n) * 101 % KEYS, np.zeros((n, 2)))

    def tick(self, words, state):
        keys, others = state
        assert len(words) == len(keys) == len(others)
        self.rows.append(len(words))
        keys = (keys * 31 + words * 7 + 1) % KEYS
        return self.logprobs[keys].copy(), (keys, others)

    def of(self, image):
        """This model for one image, in plain Python: words so far -> list of V log-probabilities."""
        def logprobs(words):
            key = image * 101 % KEYS
            for word in [0, *words]:
                key = (key * 31 + word * 7 + 1) % KEYS
            return self.logprobs[key].tolist()
        return logprobs


# ---- plain Python

def plain_beam_search(logprobs_after, beam_size, max_length=MAX_LENGTH):
    """NeuralTalk's, for one image: tuples of score and word list, sorted from large to small."""
    beams = [(0., [])]
    for _ in range(max_length):
        candidates = []
        for score, words in beams:
            if words and words[-1] == 0:
                candidates.append((score, words))
                continue
            logprobs = logprobs_after(words)
            likeliest = sorted(range(len(logprobs)), key=lambda ix: (-logprobs[ix], ix))
            candidates += [(score + logprobs[ix], [*words, ix]) for ix in likeliest[:beam_size]]
        beams = sorted(candidates, reverse=True)[:beam_size]
    return beams


def every_sentence(logprobs_after, V, max_length):
    """All that can be said: sentences with END, and those of max_length without; likeliest first."""
    found = []
    for length in range(max_length + 1):
        for words in itertools.product(range(1, V), repeat=length):
            words = list(words) + [0] * (length < max_length)
            score = 0.
            for i, word in enumerate(words):
                score += logprobs_after(words[:i])[word]
            found.append((score, words))
    return sorted(found, reverse=True)


def score_of(words, logprobs_after):
    return pytest.approx(sum(logprobs_after(words[:i])[word] for i, word in enumerate(words)), rel=1e-12)


def plain_greedy(logprobs_after, max_length=MAX_LENGTH):
    score, words = 0., []
    while len(words) < max_length and (not words or words[-1] != 0):
        logprobs = logprobs_after(words)
        words.append(logprobs.index(max(logprobs)))
        score += logprobs[words[-1]]
    return [(score, words)]


# ---- beam search

@pytest.mark.parametrize('seed', range(6))
def test_a_beam_that_is_wide_enough_finds_every_sentence(seed):
    table = Table(seed, V=4)
    found = beam_search(table.tick, table.images(2), 200, max_length=4)
    assert len(found[0]) == 1 + 3 + 9 + 27 + 81
    assert found == [every_sentence(table.of(image), 4, 4) for image in range(2)]


@pytest.mark.parametrize('variant', VARIANTS)
def test_a_beam_that_is_wide_enough_finds_every_sentence_of_a_real_model(variant):
    params = make_params(variant)
    model = make_model(params, seed=1)
    for name in ('Ws', 'Wd', 'bd'):
        model[name] = model[name][:4] if name == 'Ws' else model[name][:, :4]
    tick, state = make_tick(model, params), encode_images(np.ones((1, ROW)), model, params)

    def logprobs_after(words):
        logprobs, now = tick(np.zeros(1, np.int64), state)
        for word in words:
            logprobs, now = tick(np.array([word]), now)
        return logprobs[0].tolist()

    found, = beam_search(tick, state, 40, max_length=3)
    expected = every_sentence(logprobs_after, 4, 3)
    assert [words for _, words in found] == [words for _, words in expected]
    np.testing.assert_allclose([score for score, _ in found], [score for score, _ in expected], rtol=1e-12)


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('beam_size', [1, 2, 3, 7, 20])
@pytest.mark.parametrize('size, end', [(2, 0), (5, 0), (30, 2), (300, 4)])
def test_beam_search_is_that_of_neuraltalk(size, end, beam_size, dtype):
    for seed in range(4):
        table = Table(seed, size, dtype=dtype, end=end)
        found = beam_search(table.tick, table.images(3), beam_size)
        assert found == [plain_beam_search(table.of(image), beam_size) for image in range(3)]


@pytest.mark.parametrize('ties', [.5, 2., 100.])
@pytest.mark.parametrize('beam_size', [1, 2, 5, 20])
@pytest.mark.parametrize('size', [3, 12, 150])
def test_beam_search_breaks_ties_as_neuraltalk_did(size, beam_size, ties):
    """Scores are multiples of a large number, so that most of them are equal, and exactly so."""
    for seed in range(4):
        table = Table(seed, size, ties=ties, dtype=np.float32, end=1)
        found = beam_search(table.tick, table.images(3), beam_size, max_length=7)
        assert found == [plain_beam_search(table.of(image), beam_size, 7) for image in range(3)]


@pytest.mark.parametrize('ties', [None, 1., 100.])
@pytest.mark.parametrize('beam_size, nbest', [(2, 1), (5, 1), (5, 3), (5, 5), (20, 1), (20, 7)])
def test_the_nbest_alone_are_found_sooner_and_are_the_same(beam_size, nbest, ties):
    for seed in range(6):
        whole, early = (Table(seed, 30, sharpness=1.5, ties=ties, end=3.) for _ in range(2))
        expected = beam_search(whole.tick, whole.images(4), beam_size)
        found = beam_search(early.tick, early.images(4), beam_size, nbest=nbest)
        assert [sentences[:nbest] for sentences in found] == [sentences[:nbest] for sentences in expected]
        assert sum(early.rows) <= sum(whole.rows)
        if nbest == 1 and not ties:
            assert sum(early.rows) < sum(whole.rows)


def constant_tick(words, state):
    return np.full((len(words), 4), -1.), state


def test_ties_are_settled_by_the_documented_rule():
    """Of a beam's words the smaller index is offered first; of equal sentences the lexicographically larger wins."""
    found, = beam_search(constant_tick, (np.zeros((1, 1)),), 2, max_length=3)
    # words 0 and 1 are offered; of the two, 1 stands first; it offers [1, 0] and [1, 1], and [0] has the better score
    assert found == [(-1., [0]), (-3., [1, 1, 1])]
    found, = beam_search(constant_tick, (np.zeros((1, 1)),), 3, max_length=1)
    assert found == [(-1., [2]), (-1., [1]), (-1., [0])]
    assert greedy_search(constant_tick, (np.zeros((1, 1)),)) == [[(-1., [0])]]


@pytest.mark.parametrize('beam_size', [1, 3, 20])
def test_many_images_together_are_each_alone(beam_size):
    table = Table(3, 20, end=2)
    together = beam_search(table.tick, table.images(9), beam_size)
    assert together == [beam_search(table.tick, table.images(1, first=i), beam_size)[0] for i in range(9)]


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
@pytest.mark.parametrize('variant', VARIANTS)
def test_many_images_together_are_each_alone_with_a_real_model(variant, dtype):
    params = make_params(variant)
    model = {name: 3 * W for name, W in make_model(params, seed=4, dtype=dtype).items()}
    tick, features = make_tick(model, params), np.random.default_rng(0).normal(size=(5, ROW)).astype(dtype)
    for search in (lambda state: beam_search(tick, state, 3), lambda state: greedy_search(tick, state)):
        together = search(encode_images(features, model, params))
        for i in range(5):
            alone, = search(encode_images(features[i:i + 1], model, params))
            assert [words for _, words in alone] == [words for _, words in together[i]]
            np.testing.assert_allclose([score for score, _ in alone], [score for score, _ in together[i]], rtol=1e-5)


@pytest.mark.parametrize('seed', range(5))
def test_beam_one_is_greedy(seed):
    table = Table(seed, 15, end=1)
    greedy = greedy_search(table.tick, table.images(6))
    assert beam_search(table.tick, table.images(6), 1) == greedy
    assert greedy == [plain_greedy(table.of(image)) for image in range(6)]


@pytest.mark.parametrize('beam_size', [2, 5, 50])
def test_the_n_best_are_distinct_sorted_whole_and_scored_by_the_model(beam_size):
    table = Table(7, 12, end=1)
    for image, sentences in enumerate(beam_search(table.tick, table.images(4), beam_size)):
        scores = [score for score, _ in sentences]
        assert len(sentences) == beam_size and scores == sorted(scores, reverse=True)
        assert len({tuple(words) for _, words in sentences}) == beam_size
        for score, words in sentences:
            assert 0 not in words[:-1] and len(words) <= MAX_LENGTH
            assert words[-1] == 0 or len(words) == MAX_LENGTH
            assert score == score_of(words, table.of(image))
            assert type(score) is float and all(type(word) is int for word in words)


def test_a_beam_wider_than_the_vocabulary():
    table = Table(0, 3)
    for max_length in (1, 2, 6):
        found = beam_search(table.tick, table.images(2), 10, max_length)
        assert found == [plain_beam_search(table.of(image), 10, max_length) for image in range(2)]
    assert len(beam_search(table.tick, table.images(1), 10, 1)[0]) == 3


def test_a_vocabulary_of_end_alone():
    table = Table(0, 1)
    for found in (beam_search(table.tick, table.images(2), 5), greedy_search(table.tick, table.images(2))):
        assert found == [[(0., [0])], [(0., [0])]]


def test_a_sentence_that_does_not_end_is_cut_and_has_no_end():
    table = Table(0, 6, end=-100)
    for found in (beam_search(table.tick, table.images(2), 4), greedy_search(table.tick, table.images(2)),
                  sample_search(table.tick, table.images(2), np.random.default_rng(0))):
        assert len(found) == 2
        for _, words in itertools.chain(*found):
            assert len(words) == MAX_LENGTH == 20 and 0 not in words


# ---- work

def test_what_is_finished_costs_nothing_more():
    """Each image says as many words as its number, then END: rows leave one by one, and the search stops."""
    def tick(words, state):
        left, = state
        rows.append(len(left))
        logprobs = np.full((len(left), 3), -50.)
        logprobs[np.arange(len(left)), np.where(left == 0, 0, 1)] = 0
        return logprobs, (left - 1,)

    for search in (greedy_search, lambda tick, state: sample_search(tick, state, np.random.default_rng(0)),
                   lambda tick, state: beam_search(tick, state, 1)):
        rows = []
        found = search(tick, (np.array([2, 0, 4, 2]),))
        assert rows == [4, 3, 3, 1, 1]
        assert [words for (_, words), in found] == [[1, 1, 0], [0], [1, 1, 1, 1, 0], [1, 1, 0]]


def test_finished_beams_are_not_stepped():
    table = Table(5, 10, end=2)
    beam_search(table.tick, table.images(3), 4)
    alive = [3] + [0] * (MAX_LENGTH - 1)
    for image in range(3):
        for step in range(1, MAX_LENGTH):
            alive[step] += sum(words[-1] != 0 for _, words in plain_beam_search(table.of(image), 4, step))
    assert table.rows == [n for n in alive if n]


def test_no_images():
    table = Table(0, 5)
    for search in (greedy_search, lambda tick, state: sample_search(tick, state, np.random.default_rng(0)),
                   lambda tick, state: beam_search(tick, state, 3)):
        assert search(table.tick, table.images(0)) == []


# ---- sampling

def test_the_seed_decides_the_words():
    table = Table(1, 20)
    one, same, other = (sample_search(table.tick, table.images(8), np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert one == same and one != other


@pytest.mark.parametrize('temperature', [.5, 1., 2.])
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_words_are_drawn_as_often_as_their_probability_says(temperature, dtype):
    n, p = 20000, np.array([.05, .4, .25, .2, .1])
    found = sample_search(lambda words, state: (np.tile(np.log(p), (n, 1)).astype(dtype), state), (np.zeros((n, 1)),),
                          np.random.default_rng(0), temperature, max_length=1)
    counts = np.bincount([words[0] for (_, words), in found], minlength=5)
    expected = n * p ** (1 / temperature) / (p ** (1 / temperature)).sum()
    assert ((counts - expected) ** 2 / expected).sum() < 18.5        # chi-square, 4 degrees of freedom: p = 0.001


def test_the_score_of_a_sample_is_the_models_own():
    table = Table(2, 8)
    for image, [(score, words)] in enumerate(sample_search(table.tick, table.images(10), np.random.default_rng(0), 3.)):
        assert score == score_of(words, table.of(image))


def test_a_low_temperature_is_greedy():
    table = Table(4, 20)
    found = sample_search(table.tick, table.images(10), np.random.default_rng(0), temperature=1e-6)
    assert found == greedy_search(table.tick, table.images(10))


def test_scores_are_added_up_in_double_precision():
    """A hundred float32 log-probabilities of -0.1: in float32 the sum would drift."""
    def tick(words, state):
        return np.tile(np.float32([-50, -.1]), (len(words), 1)), state

    state, expected = (np.zeros((1, 1)),), math.fsum([float(np.float32(-.1))] * 100)
    for found in (greedy_search(tick, state, 100), beam_search(tick, state, 2, 100),
                  sample_search(tick, state, np.random.default_rng(0), 1e-3, 100)):
        score, words = found[0][0]
        assert words == [1] * 100 and score == pytest.approx(expected, rel=1e-14)


# ---- beam search with a pool

@pytest.mark.parametrize('length_penalty', [0., .5, 1., 2.])
@pytest.mark.parametrize('seed', range(4))
def test_a_pool_that_is_wide_enough_finds_the_best_sentences_by_their_ranking(seed, length_penalty):
    table = Table(seed, V=4)
    for image in range(2):
        expected = sorted(every_sentence(table.of(image), 4, 4),
                          key=lambda found: -found[0] / len(found[1]) ** length_penalty)
        found, = pooled_beam_search(table.tick, table.images(1, first=image), 200, max_length=4,
                                    length_penalty=length_penalty, nbest=10)
        assert found == expected[:10]


@pytest.mark.parametrize('length_penalty', [0., 1.])
@pytest.mark.parametrize('beam_size', [1, 3, 10])
def test_images_are_searched_alone_as_together_in_a_pool(beam_size, length_penalty):
    table = Table(3, V=40)
    together = pooled_beam_search(table.tick, table.images(6), beam_size, nbest=1, length_penalty=length_penalty)
    alone = [pooled_beam_search(table.tick, table.images(1, first=image), beam_size, nbest=1,
                                length_penalty=length_penalty)[0] for image in range(6)]
    assert together == alone and all(len(found) == 1 for found in together)


def test_asking_for_few_ends_a_pool_sooner_with_the_same_best():
    one, all_of_them = Table(5, V=30, end=1.), Table(5, V=30, end=1.)
    few = pooled_beam_search(one.tick, one.images(8), 10, nbest=1)
    many = pooled_beam_search(all_of_them.tick, all_of_them.images(8), 10)
    assert [found[0] for found in few] == [found[0] for found in many]
    assert sum(one.rows) < sum(all_of_them.rows)


def test_the_penalty_makes_sentences_longer():
    table = Table(7, V=30, end=1.)
    lengths = [sum(len(found[0][1]) for found in pooled_beam_search(
        table.tick, table.images(30), 10, nbest=1, length_penalty=penalty)) for penalty in (0., 1.)]
    assert lengths[0] < lengths[1]

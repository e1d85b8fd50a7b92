"""Ranks against sorting by hand, ties, folds, and the intervals against scipy."""

import inspect

import numpy as np
import pytest
from scipy import stats

from imagernn.metrics import retrieval
from imagernn.metrics.retrieval import ranks, ranks_in_folds, retrieval_intervals, retrieval_scores

NAMES = [f'{way}_R{k}' for way in ('image_to_sentence', 'sentence_to_image') for k in (1, 5, 10)] + ['recall_sum']


def example(seed=0, M=12, N=40, ties=False):
    """Scores in which own pairs are a little better, and image_of in any order; image 3 has no sentence."""
    rng = np.random.default_rng(seed)
    image_of = rng.choice(np.delete(np.arange(M), 3), size=N)
    scores = rng.standard_normal((M, N)) + 1.5 * (image_of == np.arange(M)[:, None])
    return (scores.round() if ties else scores), image_of


def ranks_by_hand(scores, image_of):
    images, sentences = [], []
    for image, row in enumerate(scores):
        own = row[image_of == image]
        images.append(1 + sum(row[image_of != image] >= own.max()) if len(own) else 0)
    for sentence, image in enumerate(image_of):
        sentences.append(1 + sum(np.delete(scores[:, sentence], image) >= scores[image, sentence]))
    return images, sentences


@pytest.mark.parametrize('dtype', [np.float64, np.float32, np.float16, np.int64])
@pytest.mark.parametrize('ties', [False, True])
def test_ranks_are_those_counted_by_hand(dtype, ties, monkeypatch):
    for seed in range(5):
        scores, image_of = example(seed, ties=ties)
        scores = scores.astype(dtype)
        expected = ranks_by_hand(scores, image_of)
        for block in (1, 100, 1 << 20):    # one row, two rows, all rows at once
            monkeypatch.setattr(retrieval, 'COMPARED_AT_ONCE', block)
            found = ranks(scores, image_of)
            assert (found.images.tolist(), found.sentences.tolist()) == expected


@pytest.mark.parametrize('value', [0., np.nan, -np.inf])
def test_scores_that_say_nothing_get_the_worst_ranks(value):
    image_of = np.repeat(np.arange(20), 5)
    found = ranks(np.full((20, 100), value), image_of)
    assert (found.images == 96).all() and (found.sentences == 20).all()    # the image's other four are not against it
    assert retrieval_scores([found])['recall_sum'] == 0


def test_scores_of_a_perfect_and_of_a_known_ranking():
    image_of = np.arange(4).repeat(2)
    perfect = (image_of == np.arange(4)[:, None]) * 1.
    assert retrieval_scores([ranks(perfect, image_of)]) == pytest.approx(
        dict.fromkeys(NAMES, 100) | {'recall_sum': 600, 'image_to_sentence_median_rank': 1,
                                     'sentence_to_image_median_rank': 1})
    scores = perfect.copy()
    scores[0, 7] = 2    # image 0 finds a sentence of image 3 first, and that sentence finds image 0 first
    found = retrieval_scores([ranks(scores, image_of)])
    assert (found['image_to_sentence_R1'], found['sentence_to_image_R1'], found['recall_sum']) == (75, 87.5, 562.5)


def test_an_image_without_sentences_is_no_query_but_a_candidate():
    found = ranks(np.array([[1., 0], [0, 1], [0, 2]]), [0, 1])
    assert found.images.tolist() == [1, 1, 0] and found.sentences.tolist() == [1, 2]
    assert retrieval_scores([found])['image_to_sentence_R1'] == 100


@pytest.mark.parametrize('scores, image_of', [
    (np.zeros((2, 3)), [0, 1]), (np.zeros(3), [0, 0, 0]), (np.zeros((2, 0)), []), (np.zeros((2, 1)), [2]),
    (np.zeros((2, 1)), [-1]), (np.zeros((2, 1)), [.5])])
def test_arrays_that_do_not_fit_together_are_an_error(scores, image_of):
    with pytest.raises(ValueError, match='expected'):
        ranks(scores, image_of)


def test_folds_are_ranked_among_themselves_and_an_incomplete_one_is_left_out():
    scores, image_of = example(M=10, N=60)
    folds = ranks_in_folds(scores, image_of, fold=4)
    assert [len(fold.images) for fold in folds] == [4, 4]
    second = (4 <= image_of) & (image_of < 8)
    alone = ranks(scores[4:8, second], image_of[second] - 4)
    np.testing.assert_array_equal(folds[1].images, alone.images)
    np.testing.assert_array_equal(folds[1].sentences, alone.sentences)
    found, each = retrieval_scores(folds), [retrieval_scores([fold]) for fold in folds]
    assert found == pytest.approx({name: (each[0][name] + each[1][name]) / 2 for name in found})
    assert retrieval_scores(ranks_in_folds(scores, image_of, 11)) == retrieval_scores([ranks(scores, image_of)])
    with pytest.raises(ValueError, match='fold 0'):
        ranks_in_folds(scores, image_of, 0)


def test_intervals_are_those_of_scipy():
    """The recall of images is a mean over them; scipy uses other draws, so the ends agree to a few percent."""
    scores, image_of = example(M=100, N=500)
    found = ranks(scores, image_of)
    intervals = retrieval_intervals([found], draws=5000)
    hits = 100. * (found.images[found.images > 0] <= 10)
    # SciPy 1.15 renamed the argument
    generator = 'rng' if 'rng' in inspect.signature(stats.bootstrap).parameters else 'random_state'
    other = stats.bootstrap([hits], np.mean, n_resamples=5000, method='BCa',
                            **{generator: np.random.default_rng(1)}).confidence_interval
    low, high = intervals['image_to_sentence_R10']
    assert (low, high) == pytest.approx((other.low, other.high), abs=1.1)    # an image counts for 1 percent
    assert list(intervals) == NAMES
    values = retrieval_scores([found])
    assert all(low < values[name] < high for name, (low, high) in intervals.items())


def test_sentences_are_drawn_with_their_image():
    """Sentences of an image that succeed or fail together say less than as many of different images."""
    rng = np.random.default_rng(0)
    easy = rng.random(200) < .5

    def width(image_of):
        scores = (image_of == np.arange(len(easy))[:, None]) * np.where(easy[image_of], 1., -1)
        low, high = retrieval_intervals([ranks(scores, image_of)])['sentence_to_image_R10']
        return high - low

    assert width(np.arange(200).repeat(5)) == pytest.approx(width(np.arange(200)), rel=.1)


def test_intervals_of_folds_are_narrower_than_those_of_one_and_repeatable():
    scores, image_of = example(M=120, N=600)
    folds = ranks_in_folds(scores, image_of, 30)
    first, of_one = retrieval_intervals(folds), retrieval_intervals(folds[:1])
    assert first == retrieval_intervals(folds, seed=0) != retrieval_intervals(folds, seed=1)
    for name, (low, high) in first.items():
        assert low < retrieval_scores(folds)[name] < high and high - low < of_one[name][1] - of_one[name][0]


def test_intervals_of_one_image_say_nothing():
    for low, high in retrieval_intervals([ranks(np.ones((1, 2)), [0, 0])]).values():
        assert np.isnan(low) and np.isnan(high)
    with pytest.raises(ValueError, match='draws 0'):
        retrieval_intervals([ranks(np.ones((1, 2)), [0, 0])], draws=0)

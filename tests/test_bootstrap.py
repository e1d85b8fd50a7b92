"""The bootstrap against scores of each draw's images, against scipy, and its coverage in simulations."""

import inspect

import numpy as np
import pytest
from scipy import stats

from imagernn.metrics import CaptionStatistics, bootstrap, caption_statistics, compare, intervals, scores_of
from imagernn.metrics.bootstrap import resampled

pytestmark = pytest.mark.filterwarnings('error')

NAMES = [*(f'Bleu_{n}' for n in range(1, 5)), 'ROUGE_L', 'CIDEr', 'CIDEr_plain',
         *(f'multi_bleu_{n}' for n in range(1, 5))]


def population(seed=0, quality=0.3, size=20_000):
    """Statistics of synthetic images: the captions differ in length, and some images are much easier than others."""
    rng = np.random.default_rng(seed)
    ease, lengths = rng.beta(8 * quality, 8 * (1 - quality), size), rng.integers(6, 16, size)
    totals = np.stack([lengths - n for n in range(4)], axis=1)
    matches = rng.binomial(totals, np.stack([ease ** (1 + n / 2) for n in range(4)], axis=1))
    closest = lengths + rng.integers(-1, 3, size)
    cider = 3 * ease**2 * rng.exponential(size=size)
    return CaptionStatistics(np.column_stack([matches, totals, lengths, closest]), ease, cider, cider + ease)


def chosen(statistics, images):
    return CaptionStatistics(*(None if columns is None else columns[images] for columns in statistics))


@pytest.fixture
def hundred():
    return chosen(population(), slice(100))


def test_a_draw_has_the_scores_of_its_images(hundred):
    """A draw's BLEU, for example, is the corpus BLEU of its images, not a mean over them."""
    found, rng = resampled([hundred], 20, seed=3), np.random.default_rng(3)
    assert list(found) == NAMES
    draws = [scores_of(chosen(hundred, rng.integers(100, size=100))) for _ in range(20)]
    without = [scores_of(chosen(hundred, np.arange(100) != image)) for image in range(100)]
    for name, (score, drawn, left_out) in found.items():
        np.testing.assert_allclose(score, [scores_of(hundred)[name]], rtol=1e-12)
        np.testing.assert_allclose(drawn, [[draw[name] for draw in draws]], rtol=1e-12)
        np.testing.assert_allclose(left_out, [[others[name] for others in without]], rtol=1e-12)


def test_a_seed_fixes_the_draws_whatever_the_block_size(hundred, monkeypatch):
    first = intervals(hundred, draws=50)
    assert intervals(hundred, draws=50, seed=0) == first != intervals(hundred, draws=50, seed=1)
    monkeypatch.setattr(bootstrap, 'WEIGHTS_AT_ONCE', 700)    # seven draws per block
    for name, ends in intervals(hundred, draws=50).items():
        assert ends == pytest.approx(first[name], rel=1e-12)


def test_intervals_are_those_of_scipy(hundred):
    """The mean of a skewed score. scipy uses other draws, so the ends agree to a few percent of the width."""
    low, high = intervals(hundred, draws=20_000)['CIDEr']
    # SciPy 1.15 renamed the argument
    generator = 'rng' if 'rng' in inspect.signature(stats.bootstrap).parameters else 'random_state'
    other = stats.bootstrap([hundred.cider], np.mean, n_resamples=20_000, batch=1000, method='BCa',
                            **{generator: np.random.default_rng(1)}).confidence_interval
    middle = (low + high) / 2
    assert abs(low - other.low) < .03 * (high - low) > abs(high - other.high)
    assert hundred.cider.mean() < middle - .02 * (high - low)    # so the interval is not symmetric


def test_a_higher_level_gives_a_wider_interval(hundred):
    inner, outer = intervals(hundred, level=.5)['Bleu_4'], intervals(hundred, level=.99)['Bleu_4']
    assert outer[0] < inner[0] < scores_of(hundred)['Bleu_4'] < inner[1] < outer[1]


def test_meteor_has_an_interval_where_it_was_computed(hundred):
    meteor = np.column_stack([np.full((100, 4), [[3, 3, 6, 6]]), np.arange(100) % 4 + 1, np.full(100, 12)])
    low, high = intervals(hundred._replace(meteor=meteor))['METEOR']
    assert .3 * .4 < low < scores_of(hundred._replace(meteor=meteor))['METEOR'] < high < .3
    comparison, = compare([hundred._replace(meteor=meteor), hundred])
    assert list(comparison) == NAMES


def test_one_image_says_nothing_about_others():
    one = caption_statistics([['a', 'dog']], [[['a', 'cat']]])
    assert np.isnan(list(intervals(one).values())).all()
    comparison, = compare([one, one])
    assert comparison['Bleu_1'].difference == 0 and np.isnan(comparison['Bleu_1'][1:3]).all()
    assert comparison['Bleu_1'].p == 1


def test_a_system_against_itself(hundred):
    for comparison in compare([hundred] * 3):
        assert all(values == (0, 0, 0, 1) for values in comparison.values())


def test_a_better_system_is_found_better(hundred):
    rng = np.random.default_rng(5)
    better = hundred._replace(rouge_l=hundred.rouge_l + .02 + .01 * rng.random(100), cider=hundred.cider[::-1])
    comparison, reverse = compare([hundred, better, hundred])[0], compare([better, hundred])[0]
    difference, low, high, p = comparison['ROUGE_L']
    assert difference == pytest.approx((better.rouge_l - hundred.rouge_l).mean(), rel=1e-12)
    assert .02 < low < difference < high < .03
    assert high - low < .1 * np.subtract(*intervals(hundred)['ROUGE_L'][::-1])    # what is hard for both cancels out
    assert p == 1 / 1001
    assert comparison['CIDEr'].difference == pytest.approx(0, abs=1e-12) and comparison['CIDEr'].p > .8
    assert comparison['Bleu_4'] == (0, 0, 0, 1)
    assert reverse['ROUGE_L'].difference == -difference and reverse['ROUGE_L'].high < 0


def test_p_is_that_of_scipys_permutation_test(hundred):
    other = hundred.rouge_l + np.random.default_rng(3).normal(.005, .04, 100)
    p = compare([hundred, hundred._replace(rouge_l=other)], draws=20_000)[0]['ROUGE_L'].p
    expected = stats.permutation_test([other, hundred.rouge_l], lambda a, b: (a - b).mean(), n_resamples=20_000,
                                      permutation_type='samples').pvalue
    assert .05 < p < .95 and p == pytest.approx(expected, abs=.02)


@pytest.mark.parametrize('images', [1, 2, 3, 4])
def test_systems_that_differ_in_few_images(hundred, images):
    """If m images all favour the same system, chance alone would do that with probability 2 / 2 ** m."""
    better = hundred._replace(rouge_l=hundred.rouge_l + np.where(np.arange(100) < images, .1, 0))
    for pair, sign in ([hundred, better], 1), ([better, hundred], -1):
        difference, _, _, p = compare(pair, draws=4000)[0]['ROUGE_L']
        assert sign * difference > 0 and p == pytest.approx(2 / 2 ** images, abs=.03)


def test_invalid_input(hundred):
    for level in (0, 1, 95, float('nan')):
        with pytest.raises(ValueError, match=f'level {level}: must lie between 0 and 1'):
            intervals(hundred, level=level)
    with pytest.raises(ValueError, match='draws 0: must be at least 1'):
        intervals(hundred, draws=0)
    with pytest.raises(ValueError, match='different numbers of images, 100, 7: score the same images'):
        compare([hundred, chosen(hundred, slice(7))])


def test_intervals_cover_the_true_score():
    """How often 95 % intervals of 300 samples of 500 images cover the population's score. The bounds are nearly three
    standard deviations away. benchmarks/scores.py --jobs coverage does the same with more samples, on real captions.
    """
    images, rng = population(), np.random.default_rng(1)
    true, covered = scores_of(images), dict.fromkeys(NAMES, 0)
    for seed in range(300):
        sample = chosen(images, rng.integers(len(images.bleu), size=500))
        for name, (low, high) in intervals(sample, draws=300, seed=seed).items():
            covered[name] += low <= true[name] <= high
    assert all(.915 < count / 300 < .985 for count in covered.values()), covered


def test_p_values_of_equal_systems_are_uniform():
    """300 pairs of systems that differ only by chance: about 5 % should have p below .05, and half p below .5."""
    one, other, rng = population(1), population(2), np.random.default_rng(1)
    p = {name: [] for name in NAMES}
    for seed in range(300):
        swapped, images = rng.random(500) < .5, rng.integers(len(one.bleu), size=500)
        pair = [CaptionStatistics(*(np.where(which if a.ndim == 1 else which[:, None], a[images], b[images])
                                    for a, b in zip(one[:4], other[:4], strict=True))) for which in (swapped, ~swapped)]
        for name, comparison in compare(pair, draws=300, seed=seed)[0].items():
            p[name].append(comparison.p)
    for name, values in p.items():
        assert .02 < np.mean(np.array(values) < .05) < .09 and .42 < np.mean(np.array(values) < .5) < .58, name

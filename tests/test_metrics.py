"""The metrics against hand arithmetic, against the values of the reference tools, and on invalid input."""

import copy
import doctest
import importlib
import json
import math
import os
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from imagernn.metrics import (
    MeteorUnavailable,
    caption_scores,
    caption_statistics,
    cider,
    coco_bleu,
    meteor,
    multi_bleu,
    multi_bleu_of,
    per_image,
    rouge_l,
    scores_of,
)
from imagernn.metrics.ngrams import count_ngrams, read_captions
from imagernn.metrics.perplexity import perplexity

pytestmark = pytest.mark.filterwarnings('error')

SHARED = Path(__file__).resolve().parents[1].parent / 'shared'
SYSTEMS = ['nearest', 'random_truncated', 'constant']
SCORED = [multi_bleu, coco_bleu, rouge_l, cider, caption_scores, caption_statistics, meteor]
meteor_module = importlib.import_module('imagernn.metrics.meteor')  # the name imagernn.metrics.meteor is the function


def words(*captions):
    return [caption.split() for caption in captions]


# ---------------------------------------------------------------------------------------------- the reference tools

@pytest.fixture(scope='module')
def golden():
    numbers, dataset = SHARED / 'golden' / 'metrics_val.json', SHARED / 'data' / 'flickr8k' / 'dataset.json'
    if not (numbers.is_file() and dataset.is_file()):
        pytest.skip('no shared folder beside the checkout with golden/metrics_val.json and data/flickr8k/dataset.json')
    images = json.loads(dataset.read_text(encoding='utf-8'))['images']
    references = [[sentence['tokens'] for sentence in image['sentences']]
                  for image in images if image['split'] == 'val']
    return json.loads(numbers.read_text(encoding='utf-8'))['systems'], references


@pytest.mark.parametrize('name', SYSTEMS)
def test_multi_bleu_prints_the_line_of_the_perl_script(golden, name):
    systems, references = golden
    assert str(multi_bleu(words(*systems[name]['captions']), references)) == systems[name]['multi_bleu_perl']


@pytest.mark.parametrize('name', SYSTEMS)
def test_scores_equal_pycocoevalcap(golden, name):
    systems, references = golden
    expected, candidates = systems[name], words(*systems[name]['captions'])
    bleu, bleu_each = coco_bleu(candidates, references)
    rouge, rouge_each = rouge_l(candidates, references)
    cider_mean, cider_each = cider(candidates, references)
    for got, want in [(bleu, expected['coco_bleu']), (bleu_each[:20, 3], expected['per_caption']['bleu4']),
                      (rouge, expected['coco_rouge_l']), (rouge_each[:20], expected['per_caption']['rouge_l']),
                      (cider_mean, expected['coco_cider']), (cider_each[:20], expected['per_caption']['cider'])]:
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-13)
    assert bleu_each.shape == (1000, 4) and rouge_each.shape == cider_each.shape == (1000,)


# ---------------------------------------------------------------------------------------------- BLEU by hand

@pytest.mark.parametrize('name', SYSTEMS)
def test_scores_equal_pycocoevalcap_on_an_excerpt(name):
    excerpt = json.loads((Path(__file__).parent / 'metrics_excerpt.json').read_text(encoding='utf-8'))
    candidates, expected = words(*excerpt['systems'][name]['captions']), excerpt['systems'][name]
    references = [words(*captions) for captions in excerpt['references']]
    bleu, bleu_each = coco_bleu(candidates, references)
    np.testing.assert_allclose(bleu, expected['bleu'], rtol=1e-9)
    np.testing.assert_allclose(bleu_each[:, 3], expected['bleu4_each'], rtol=1e-9)
    for metric, key in (cider, 'cider'), (rouge_l, 'rouge_l'):
        score, each = metric(candidates, references)
        assert score == pytest.approx(expected[key], rel=1e-9)
        np.testing.assert_allclose(each, expected[f'{key}_each'], rtol=1e-9, atol=1e-12)


def test_matches_are_clipped_by_the_reference_that_has_most():
    # The example of Papineni et al.: one reference contains "the" twice, so 2 of 7 words count.
    # No reference contains "the the", so BLEU-2 to 4 are 0. The references have 6 and 7 words; the closest to 7 is 7.
    candidates = words('the the the the the the the')
    references = [words('the cat is on the mat', 'there is a cat on the mat')]
    result = multi_bleu(candidates, references)
    assert result.bleu == pytest.approx((200 / 7, 0, 0, 0))
    assert str(result) == 'BLEU = 28.6/0.0/0.0/0.0 (BP=1.000, ratio=1.000, hyp_len=7, ref_len=7)'
    assert coco_bleu(candidates, references)[0][0] == pytest.approx(2 / 7, rel=1e-8)


def test_only_the_coco_bleu_penalizes_brevity():
    # The precisions are 3/3, 2/2 and 1/1; there is no 4-gram. The lengths are 3 and 5, so the penalty is exp(1 − 5/3).
    # Without 4-grams the COCO precision is 1e-15 / 1e-9 = 1e-6, so BLEU-4 is penalty · 1e-6 ** (1/4).
    candidates, references = words('a dog runs'), [words('a dog runs on grass')]
    assert multi_bleu(candidates, references).bleu == pytest.approx((100, 100, 100, 0))
    penalty = math.exp(-2 / 3)
    bleu, per_caption = coco_bleu(candidates, references)
    np.testing.assert_allclose(bleu, [penalty, penalty, penalty, penalty * 10**-1.5], rtol=1e-7)
    np.testing.assert_allclose(per_caption, [bleu], rtol=1e-15)


def test_bleu_of_two_images_sums_counts_before_dividing():
    # Image 0: 1 of 2 words, 0 of 1 bigrams. Image 1: 4 of 4 words, 3 of 3 bigrams.
    # Together 5/6 and 3/4: BLEU-1 = 5/6, BLEU-2 = √(5/6 · 3/4) = √(5/8). The mean BLEU-1 of the two would be 3/4.
    candidates = words('a cat', 'two dogs run fast')
    references = [words('a dog'), words('two dogs run fast', 'dogs')]
    bleu, per_caption = coco_bleu(candidates, references)
    np.testing.assert_allclose(bleu[:2], [5 / 6, math.sqrt(5 / 8)], rtol=1e-8)
    np.testing.assert_allclose(per_caption[:, 0], [1 / 2, 1], rtol=1e-8)
    assert multi_bleu(candidates, references).bleu[:2] == pytest.approx((500 / 6, 100 * math.sqrt(5 / 8)))


@pytest.mark.parametrize('captions', [('a b c', 'a b c d e'), ('a b c d e', 'a b c')])
def test_of_two_reference_lengths_equally_close_the_shorter_counts(captions):
    # The candidate has 4 words, the references 3 and 5. The reference length is 3, so there is no penalty; with 5 it
    # would be exp(1 − 5/4).
    candidates, references = words('a b c d'), [words(*captions)]
    assert multi_bleu(candidates, references).ref_len == 3
    assert coco_bleu(candidates, references)[0][0] == pytest.approx(1, rel=1e-8)


def test_tokens_are_compared_as_they_are():
    assert multi_bleu(words('A Dog'), [words('a dog')]).bleu[0] == 0


def test_multi_bleu_of_empty_references_prints_what_the_perl_script_prints():
    assert str(multi_bleu([[]], [[[]]])) == 'BLEU = 0, 0/0/0/0 (BP=0, ratio=0, hyp_len=0, ref_len=0)'


# ---------------------------------------------------------------------------------------------- ROUGE-L by hand

def test_rouge_of_one_reference():
    # Common subsequence "a dog runs": 3 of 3 candidate words, 3 of 6 reference words.
    # F = (1 + 1.44) · 1 · 0.5 / (0.5 + 1.44 · 1) = 1.22 / 1.94
    mean, per_caption = rouge_l(words('a dog runs'), [words('a big dog runs fast now')])
    assert mean == per_caption[0] == pytest.approx(1.22 / 1.94, rel=1e-14)


def test_rouge_depends_on_the_order():
    # Lin's example: "police kill the gunman" shares "police the gunman", 3 of 4 words; the other shares "the gunman".
    mean, per_caption = rouge_l(words('police kill the gunman', 'the gunman kill police'),
                                [words('police killed the gunman')] * 2)
    np.testing.assert_allclose(per_caption, [3 / 4, 2 / 4], rtol=1e-14)
    assert mean == pytest.approx(5 / 8)


def test_rouge_takes_precision_and_recall_from_different_references():
    # "a b c d" has P = 3/4 and R = 3/6 with "a b c x y z", and P = 1/4 and R = 1/1 with "a". The best are 3/4 and 1:
    # F = 2.44 · 0.75 / (1 + 1.44 · 0.75) = 1.83 / 2.08
    assert rouge_l(words('a b c d'), [words('a b c x y z', 'a')])[0] == pytest.approx(1.83 / 2.08, rel=1e-14)


def test_common_subsequence_equals_the_dynamic_programming_table():
    rng = np.random.default_rng(0)
    for _ in range(50):
        first, second = (rng.integers(0, 4, size=rng.integers(1, 80)).tolist() for _ in range(2))
        table = np.zeros((len(first) + 1, len(second) + 1), dtype=int)
        for i, a in enumerate(first):
            for j, b in enumerate(second):
                table[i + 1, j + 1] = table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
        precision, recall = table[-1, -1] / len(first), table[-1, -1] / len(second)
        expected = 2.44 * precision * recall / (recall + 1.44 * precision) if precision else 0
        assert rouge_l([first], [[second]])[0] == pytest.approx(expected, rel=1e-13)


# ---------------------------------------------------------------------------------------------- CIDEr by hand

def test_cider_weighs_rare_ngrams_more():
    # "a" is in both images, with weight ln(2/2) = 0. "dog" and "a dog" are in one, with weight ln 2.
    # Image 0: the cosine is 1 for n = 1 and 2; there are no 3- or 4-grams: 10 · (1 + 1 + 0 + 0) / 4 = 5.
    # Image 1 shares only "a", so it scores 0.
    mean, per_caption = cider(words('a dog', 'a bird'), [words('a dog'), words('a cat')])
    np.testing.assert_allclose(per_caption, [5, 0], rtol=1e-14)
    assert mean == pytest.approx(2.5)


def test_cider_clips_and_penalizes_length():
    # Weights in units of ln 2: 0 for "a", 1 for everything else.
    # Words: candidate {dog: 3}, reference {dog: 1}: min(3, 1) · 1 / (3 · 1).
    # Bigrams: candidate {dog dog, dog a, a dog}, reference {a dog}: 1 / (√3 · 1). Lengths 4 and 2: exp(−2² / (2 · 6²)).
    _, per_caption = cider(words('dog dog a dog', ''), [words('a dog'), words('a cat')])
    np.testing.assert_allclose(per_caption, [2.5 * (1 / 3 + 1 / math.sqrt(3)) * math.exp(-1 / 18), 0], rtol=1e-13)


def test_cider_is_the_mean_over_references():
    # With "a dog" the score is 5, as above; with "two cats" it shares nothing.
    _, per_caption = cider(words('a dog', 'x'), [words('a dog', 'two cats'), words('a y')])
    np.testing.assert_allclose(per_caption, [5 / 2, 0], rtol=1e-14)


def test_cider_counts_bigrams_as_length():
    # With "dog" there is no bigram on either side and so no penalty. The cosine for words is 1: 10 · 1 / 4 = 2.5.
    # With "dog b c" (two bigrams): words 1 / √3, penalty exp(−2² / 72). The score is the mean of the two references.
    _, per_caption = cider(words('dog', 'x'), [words('dog', 'dog b c'), words('y')])
    assert per_caption[0] == pytest.approx((2.5 + 2.5 / math.sqrt(3) * math.exp(-4 / 72)) / 2, rel=1e-13)


def test_cider_of_a_single_image_is_zero():
    assert cider(words('a dog runs fast'), [words('a dog runs fast')])[0] == 0  # all weights are ln(1/1)


def test_the_papers_cider_neither_clips_nor_penalizes_length():
    # As in test_cider_clips_and_penalizes_length, but words 3 · 1 / (3 · 1), bigrams 1 / (√3 · 1), and no penalty.
    statistics = caption_statistics(words('dog dog a dog', ''), [words('a dog'), words('a cat')])
    np.testing.assert_allclose(statistics.cider_plain, [2.5 * (1 + 1 / math.sqrt(3)), 0], rtol=1e-13)


# ---------------------------------------------------------------------------------------------- slow definitions

def odd_captions(seed=0, images=25):
    """Unusual captions of words by Zipf's law: empty, one or 500 words long, identical, 300 references of one image."""
    rng = np.random.default_rng(seed)

    def caption(length):
        return [f'w{int(rng.integers(1, 40) ** rng.random())}' for _ in range(length)]

    candidates = [caption(length) for length in [0, 1, 2, 3, 4, 500, *rng.integers(0, 14, images - 6)]]
    references = [[caption(length) for length in rng.integers(0, 14, rng.integers(1, 7))] for _ in candidates]
    references[7] = [caption(9) for _ in range(300)]
    references[8] = [candidates[8]] * 3 + [[]]
    references[9], candidates[9] = references[10], candidates[10]    # two images with identical captions
    references[11] = [caption(500)]
    return candidates, references


def grams(caption, n):
    return Counter(tuple(caption[start:start + n]) for start in range(len(caption) - n + 1))


def common_length(one, other):
    row = [0] * (len(other) + 1)
    for token in one:
        above, row = row, [0]
        for place, theirs in enumerate(other):
            row.append(above[place] + 1 if token == theirs else max(row[-1], above[place + 1]))
    return row[-1]


def slow_bleu(candidate, references):
    matches = [sum(min(count, max(grams(reference, n)[gram] for reference in references))
                   for gram, count in grams(candidate, n).items()) for n in range(1, 5)]
    totals = [max(len(candidate) - n + 1, 0) for n in range(1, 5)]
    _, closest = min((abs(len(reference) - len(candidate)), len(reference)) for reference in references)
    return [*matches, *totals, len(candidate), closest]


def slow_rouge(candidate, references):
    pairs = [(common_length(candidate or [''], reference or ['']), max(len(reference), 1)) for reference in references]
    precision = max(common for common, _ in pairs) / max(len(candidate), 1)
    recall = max(common / length for common, length in pairs)
    return 2.44 * precision * recall / (recall + 1.44 * precision) if precision else 0


def slow_cider(candidates, references):
    """CIDEr-D and CIDEr of each image, term by term. The latter's term frequencies are shares of a caption."""
    documents = [Counter(gram for image in references
                         for gram in set().union(*(grams(reference, n) for reference in image))) for n in range(1, 5)]

    def tfidf(caption, n):
        counts = grams(caption, n)
        return {gram: count * math.log(len(references) / max(documents[n - 1][gram], 1))
                for gram, count in counts.items()}, counts.total()

    def cosine(dot, *vectors):
        norms = [math.sqrt(sum(value * value for value in vector.values())) for vector in vectors]
        return dot / math.prod(norms) if all(norms) else 0

    clipped, plain = [], []
    for candidate, image in zip(candidates, references, strict=True):
        parts = []
        for reference in image:
            for n in range(1, 5):
                (own, total), (other, other_total) = tfidf(candidate, n), tfidf(reference, n)
                own_share, other_share = ({gram: value / size for gram, value in vector.items()}
                                          for vector, size in ((own, total), (other, other_total)))
                dot = sum(own_share[gram] * other_share.get(gram, 0) for gram in own)
                min_dot = sum(min(own[gram], other.get(gram, 0)) * other.get(gram, 0) for gram in own)
                difference = max(len(candidate) - 1, 0) - max(len(reference) - 1, 0)    # in bigrams
                parts.append((cosine(min_dot, own, other) * math.exp(-difference**2 / 72),
                              cosine(dot, own_share, other_share)))
        clipped.append(10 * np.mean([part for part, _ in parts]))
        plain.append(10 * np.mean([part for _, part in parts]))
    return clipped, plain


@pytest.mark.parametrize('seed', range(3))
def test_every_statistic_by_its_definition(seed):
    candidates, references = odd_captions(seed)
    statistics = caption_statistics(candidates, references)
    pairs = list(zip(candidates, references, strict=True))
    np.testing.assert_array_equal(statistics.bleu, [slow_bleu(*pair) for pair in pairs])
    np.testing.assert_allclose(statistics.rouge_l, [slow_rouge(*pair) for pair in pairs], rtol=1e-13)
    clipped, plain = slow_cider(candidates, references)
    np.testing.assert_allclose(statistics.cider, clipped, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(statistics.cider_plain, plain, rtol=1e-12, atol=1e-14)
    assert statistics.cider.max() > 1 < statistics.cider_plain.max()    # so not only zeros were compared
    assert statistics.bleu.dtype.kind == 'i' and statistics.meteor is None


def test_statistics_of_one_image_and_of_no_words():
    statistics = caption_statistics([['a', 'b']], [[['a']]])
    assert statistics.bleu.tolist() == [[1, 0, 0, 0, 2, 1, 0, 0, 2, 1]]
    assert statistics.cider.tolist() == statistics.cider_plain.tolist() == [0]
    statistics = caption_statistics([[], []], [[[]], [[], []]])
    assert not statistics.bleu.any() and not statistics.cider.any() and statistics.rouge_l.tolist() == [1, 1]
    assert scores_of(statistics)['multi_bleu_1'] == 0


@pytest.mark.parametrize('seed', range(3))
def test_statistics_equal_pycocoevalcap(seed, capsys):
    reason = "pycocoevalcap is not installed; it comes with the extra [metrics]"
    bleu = pytest.importorskip('pycocoevalcap.bleu.bleu', reason=reason)
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    candidates, references = odd_captions(seed)
    gts = {index: [' '.join(caption) for caption in image] for index, image in enumerate(references)}
    res = {index: [' '.join(caption)] for index, caption in enumerate(candidates)}
    statistics = caption_statistics(candidates, references)
    scores, each = scores_of(statistics), per_image(statistics)
    expected, expected_each = bleu.Bleu(4).compute_score(gts, res, verbose=0)
    for n in range(1, 5):
        assert scores[f'Bleu_{n}'] == pytest.approx(expected[n - 1], rel=1e-12)
        np.testing.assert_allclose(each[f'Bleu_{n}'], expected_each[n - 1], rtol=1e-12, atol=1e-14)
    for name, scorer in ('ROUGE_L', Rouge()), ('CIDEr', Cider()):
        expected, expected_each = scorer.compute_score(gts, res)
        assert scores[name] == pytest.approx(expected, rel=1e-12)
        np.testing.assert_allclose(each[name], expected_each, rtol=1e-12, atol=1e-14)


def test_ngrams_are_counted_once_for_each_caption():
    found = count_ngrams(read_captions([words('a b a b')[0], ['b']], [words('b a', 'c'), words('b')]))
    entries = [np.column_stack(part[:3]).tolist() for part in found]    # ngram, caption, count
    # The captions are 0 "a b a b", 1 "b a", 2 "c", 3 "b", 4 "b". Each list is sorted by n-gram, then by caption.
    assert entries[0] == [[0, 0, 2], [0, 1, 1], [1, 0, 2], [1, 1, 1], [1, 3, 1], [1, 4, 1], [2, 2, 1]]
    assert entries[1] == [[0, 0, 2], [1, 0, 1], [1, 1, 1]]
    assert entries[2] == [[0, 0, 1], [1, 0, 1]] and entries[3] == [[0, 0, 1]]
    assert [part.starts.tolist() for part in found] == [[0, 2, 4, 6], [0, 1], [0, 1], [0]]


# ---------------------------------------------------------------------------------------------- all of them

def test_scores_of_statistics_are_those_of_the_single_metrics():
    candidates, references = odd_captions()
    statistics = caption_statistics(candidates, references)
    scores, each = scores_of(statistics), per_image(statistics)
    assert list(scores) == list(each) and all(type(score) is float for score in scores.values())
    assert caption_scores(candidates, references).items() <= scores.items()
    bleu, bleu_each = coco_bleu(candidates, references)
    np.testing.assert_array_equal([scores[f'Bleu_{n}'] for n in range(1, 5)], bleu)
    np.testing.assert_array_equal(np.transpose([each[f'Bleu_{n}'] for n in range(1, 5)]), bleu_each)
    np.testing.assert_array_equal(each['ROUGE_L'], rouge_l(candidates, references)[1])
    np.testing.assert_array_equal(each['CIDEr'], cider(candidates, references)[1])
    assert scores['CIDEr_plain'] == pytest.approx(statistics.cider_plain.mean(), rel=1e-14)
    multi = multi_bleu(candidates, references)
    assert tuple(scores[f'multi_bleu_{n}'] for n in range(1, 5)) == multi.bleu
    assert multi_bleu_of(statistics.bleu.sum(axis=0)) == multi


def test_an_image_of_weight_two_counts_as_two_images():
    candidates, references = odd_captions()
    statistics = caption_statistics(candidates, references)._replace(
        meteor=np.random.default_rng(0).random((len(candidates), 6)))
    weights = np.arange(len(candidates)) % 3
    repeated = type(statistics)(*(np.repeat(columns, weights, axis=0) for columns in statistics))
    assert scores_of(statistics, weights) == pytest.approx(scores_of(repeated), rel=1e-12)
    assert 'METEOR' in scores_of(statistics)
    for unfit in ([1], weights - 0.5, np.zeros(len(candidates)), np.full(len(candidates), np.nan)):
        with pytest.raises(ValueError, match=f'weights of shape .* for {len(candidates)} images'):
            scores_of(statistics, unfit)


def test_identical_captions_get_the_best_scores():
    captions = words('a dog runs on grass', 'two men sit at table')
    references = [[captions[0], ['x']], [captions[1]]]
    scores = caption_scores(captions, references)
    assert list(scores) == ['Bleu_1', 'Bleu_2', 'Bleu_3', 'Bleu_4', 'ROUGE_L', 'CIDEr']
    assert all(type(score) is float for score in scores.values())
    assert scores['ROUGE_L'] == 1
    assert [scores[f'Bleu_{n}'] for n in range(1, 5)] == pytest.approx([1] * 4, rel=1e-8)
    assert cider(captions, references)[1][1] == pytest.approx(10, rel=1e-14)
    assert multi_bleu(captions, references).bleu == pytest.approx((100,) * 4)


def test_an_empty_candidate_scores_zero_and_does_not_affect_others():
    candidates, references = words('a dog', ''), [words('a dog'), words('a cat', 'b')]
    bleu, bleu_each = coco_bleu(candidates, references)
    # 2 of 2 words match. The candidates have 2 words, the closest references 2 + 1: the penalty is exp(1 − 3/2).
    assert bleu[0] == pytest.approx(math.exp(-1 / 2), rel=1e-8)
    assert bleu_each[1].tolist() == [0, 0, 0, 0]
    assert rouge_l(candidates, references)[1].tolist() == [1, 0]
    np.testing.assert_allclose(cider(candidates, references)[1], [5, 0])
    result = multi_bleu(candidates, references)
    assert (result.hyp_len, result.ref_len) == (2, 3) and result.bleu[0] == 100


def test_rouge_of_an_empty_caption_with_an_empty_reference():
    assert rouge_l([[]], [[[]]])[0] == 1  # as in pycocoevalcap: both are one empty word


def test_the_order_of_references_does_not_matter_and_arguments_are_not_changed():
    rng = np.random.default_rng(1)
    references = [[rng.integers(0, 6, size=rng.integers(1, 12)).tolist() for _ in range(rng.integers(1, 7))]
                  for _ in range(8)]
    candidates = [rng.integers(0, 6, size=rng.integers(0, 12)).tolist() for _ in range(8)]
    before = copy.deepcopy((candidates, references))
    forwards = caption_scores(candidates, references)
    assert (candidates, references) == before
    assert caption_scores(candidates, [image[::-1] for image in references]) == pytest.approx(forwards, rel=1e-12)


@pytest.mark.parametrize('score', SCORED)
def test_input_that_cannot_be_scored(score):
    with pytest.raises(ValueError, match='2 candidates but references for 1 images'):
        score(words('a', 'b'), [words('a')])
    with pytest.raises(ValueError, match='no candidates'):
        score([], [])
    with pytest.raises(ValueError, match='image 1 has no references'):
        score(words('a', 'b', 'c'), [words('a'), [], words('c')])
    with pytest.raises(ValueError, match='image 0 .* string'):
        score(['a dog'], [words('a dog')])
    with pytest.raises(ValueError, match='image 1 .* string'):
        score(words('a dog', 'a cat'), [words('a dog'), ['a', 'cat']])


def test_the_example_in_the_docstring_is_right():
    assert doctest.testmod(importlib.import_module('imagernn.metrics.scores')) == (0, 2)


# ---------------------------------------------------------------------------------------------- perplexity

def test_perplexity_is_two_to_the_mean_bits_per_word():
    # three words with probabilities 1/2, 1/4 and 1/8: 1 + 2 + 3 bits, 2 per word
    assert perplexity(math.log(1 / 2 * 1 / 4 * 1 / 8), 3) == pytest.approx(4, rel=1e-14)
    assert perplexity(0, 5) == 1 and perplexity(-1e6, 1) == math.inf
    with pytest.raises(ZeroDivisionError):
        perplexity(0, 0)


# ---------------------------------------------------------------------------------------------- METEOR

# A stand-in for meteor-1.5.jar -stdio: it answers line by line in the same form, but reports as many matches as the
# caption has words, as many chunks as it has references, only content words, and a length of 100 for both captions.
STAND_IN = '''
import sys
for line in sys.stdin:
    kind, *fields = line.rstrip('\\n').split('|||')
    words = len(fields[-1].split())
    print(100, 100, 0, 0, words, words, *[0] * 14, len(fields) - 1, words, words, flush=True)
'''


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """A function that makes the metric run a given Python program instead of the one in Java."""
    monkeypatch.setattr(meteor_module, 'find_jar', lambda: tmp_path / 'meteor.jar')
    return lambda program: monkeypatch.setattr(meteor_module, 'meteor_command',
                                               lambda jar: [sys.executable, '-c', program])


def test_meteor_pairs_each_caption_with_its_answer(stand_in):
    stand_in(STAND_IN)
    candidates = [['a', 'dog'], [], ['|||', 'a\nb', 'c|||d\r\ne'], ['caf\u00e9', '\u2028', '\n'], ['x'] * 60]
    references = [words('a'), words('a', 'b'), [['|||'], ['\n'], []], words('caf\u00e9'), words('x', 'y', 'z', 'x')]
    score, per_caption = meteor(candidates, references)
    # n words and m references
    expected = [n / 100 * (1 - .6 * (m / n) ** .2) for n, m in ((2, 1), (5, 3), (1, 1), (60, 4))]
    np.testing.assert_allclose(per_caption, [expected[0], 0, *expected[1:]])
    assert score == pytest.approx(.68 / 5 * (1 - .6 * (11 / 68) ** .2))


@pytest.mark.parametrize('program, reason', [
    ('import sys; sys.exit("Could not create the Java Virtual Machine")', 'Could not create the Java Virtual Machine'),
    ('print("Error: specify hypothesis")', 'Error: specify hypothesis'),
    ('import time; time.sleep(30)', 'gave no answer within 0.3 s'),
    ('input(); print("1.0 2.0", flush=True); input()', '1.0 2.0'),
    ('input()', 'it ended'),
])
def test_meteor_reports_why_java_failed(stand_in, monkeypatch, program, reason):
    stand_in(program)
    monkeypatch.setattr(meteor_module, 'TIMEOUT', 0.3 if 'sleep' in program else 60)
    with pytest.raises(MeteorUnavailable, match=f'METEOR cannot be computed: .*{reason}'):
        meteor(words('a dog'), [words('a dog')])


@pytest.mark.skipif(os.name != 'posix', reason='checks for a process by its id, as on POSIX')
def test_the_process_ends_even_after_an_exception(tmp_path):
    tell_pid = [sys.executable, '-c', 'import os\nwhile input(): print(os.getpid(), flush=True)']
    with pytest.raises(KeyError), meteor_module.running(tell_pid, tmp_path) as ask:
        pid = int(ask('who', 1)[0])
        os.kill(pid, 0)  # raises nothing: the process is running
        raise KeyError
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize('package, java, named, unnamed', [
    (False, True, r"pip install 'imagernn\[metrics\]'.*pip install -e '\.\[metrics\]'", 'Java'),
    (True, False, 'no Java runtime', 'pip install'),
    (False, False, 'pycocoevalcap is not installed.*no Java runtime', None),
])
def test_meteor_names_what_is_missing(monkeypatch, tmp_path, package, java, named, unnamed):
    (tmp_path / 'meteor').mkdir()
    (tmp_path / 'meteor' / 'meteor-1.5.jar').touch()
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)]) if package else None
    monkeypatch.setattr(meteor_module.importlib.util, 'find_spec', lambda name: spec)
    monkeypatch.setattr(meteor_module.shutil, 'which', lambda name: '/usr/bin/java' if java else None)
    with pytest.raises(MeteorUnavailable, match=named) as caught:
        meteor(words('a dog'), [words('a dog')])
    assert unnamed is None or unnamed not in str(caught.value)


@pytest.fixture(scope='module')
def java():
    try:
        meteor_module.find_jar()
    except MeteorUnavailable as error:
        pytest.skip(str(error))


def test_meteor_equals_pycocoevalcap(java, golden):
    systems, references = golden
    score, per_caption = meteor(words(*systems['constant']['captions']), references)
    assert score == pytest.approx(systems['constant']['coco_meteor'], rel=1e-11)
    assert per_caption.shape == (1000,)


def test_meteor_of_statistics_equals_what_the_program_computes(java, golden, monkeypatch):
    systems, references = golden
    answers, expected, running = [], [], meteor_module.running

    @contextmanager
    def overheard(command, folder):
        with running(command, folder) as ask:
            yield lambda line, n: answers.extend(ask(line, n)) or answers[-1:]
            expected.extend(map(float, ask(' ||| '.join(['EVAL', *answers]), len(answers) + 1)))

    monkeypatch.setattr(meteor_module, 'running', overheard)
    copied = [image[0] for image in references[:2]]
    candidates = [*copied, [], *words(*systems['random_truncated']['captions'][3:150])]
    statistics = caption_statistics(candidates, references[:150], with_meteor=True)
    np.testing.assert_allclose(per_image(statistics)['METEOR'], expected[:-1], rtol=1e-12)
    assert scores_of(statistics)['METEOR'] == pytest.approx(expected[-1], rel=1e-12)
    assert expected[:3] == [1, 1, 0] and len(expected) == 151


def test_meteor_of_awkward_captions(java):
    candidates = [['a', 'man'], [], ['|||', 'a', 'dog\nruns'], ['caf\u00e9', 'x'], ['.']]
    references = [words('a man'), [['a', 'b'], []], [['a', 'dog', 'runs'], ['|||']], words('caf\u00e9 x'), [[]]]
    _, per_caption = meteor(candidates, references)
    np.testing.assert_allclose(per_caption, [1, 0, 1, 1, 0])

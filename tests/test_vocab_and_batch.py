"""Which words a model knows and where they stand, and the packed layout, written out by hand."""

import numpy as np
import pytest
from models import Rows, batch_of, flat, vocab_of

from imagernn.captioning.batch import deal
from imagernn.corpus.vocab import END, START, check_vocab, coverage, decode, lookup_table, threshold_for
from imagernn.errors import InputError
from imagernn.nn.packing import pack, unpack


def words(*sentences):
    return [sentence.split() for sentence in sentences]


def encode(tokens, wordtoix):
    """Tokens as indices, by way of the lookup table; words outside the vocabulary are dropped."""
    return [ix for ix in lookup_table(tokens, wordtoix).tolist() if ix >= 0]


# ---- vocabulary

def test_words_stand_in_the_order_of_their_first_occurrence():
    wordtoix, ixtoword, _ = vocab_of(words('the dog', 'a dog the cat', 'a cat'), 1)
    assert list(wordtoix.items()) == [(START, 0), ('the', 1), ('dog', 2), ('a', 3), ('cat', 4)]
    assert list(ixtoword.items()) == [(0, END), (1, 'the'), (2, 'dog'), (3, 'a'), (4, 'cat')]


@pytest.mark.parametrize('threshold, kept', [(0, 'rare dog a'), (1, 'rare dog a'), (2, 'dog a'), (3, 'a')])
def test_a_word_stays_if_it_occurs_at_least_as_often_as_the_threshold(threshold, kept):
    wordtoix, ixtoword, bias_init_vector = vocab_of(words('rare dog a', 'dog a a'), threshold)
    assert list(wordtoix) == [START, *kept.split()]
    assert len(ixtoword) == len(bias_init_vector) == len(wordtoix)


def test_a_threshold_that_no_word_meets_is_refused():
    for sentences, highest in ((words('rare dog a', 'dog a a'), 3), ([[], []], 0)):
        with pytest.raises(InputError, match=f'--word_count_threshold 4: .* {highest} times'):
            vocab_of(sentences, 4)


def test_how_much_a_vocabulary_knows():
    counts, lookup = np.array([5, 1, 0, 2, 2]), np.array([1, -1, -1, -1, 2])
    found = coverage(counts, lookup)
    assert found == (4, 2, 10, 3) and found.unknown_share == .3
    assert coverage(np.zeros(2, np.int64), lookup[:2]).unknown_share == 0


@pytest.mark.parametrize(('counts', 'most', 'threshold'), [
    ([1, 1, 2, 6], .1, 1), ([1, 1, 2, 6], .2, 2), ([1, 1, 2, 6], .39, 2), ([1, 1, 2, 6], .4, 3), ([0, 3, 3], .1, 1),
    ([1, 2, 97], .03, 3), ([1] * 50, .1, 1), ([], .1, 1)])
def test_the_threshold_that_drops_at_most_a_share(counts, most, threshold):
    counts = np.array(counts, np.int64)
    assert threshold_for(counts, most) == threshold
    assert counts[counts < threshold].sum() <= most * counts.sum()


def test_the_first_bias_is_the_log_frequency_and_counts_end_once_a_sentence():
    _, _, bias_init_vector = vocab_of(words('a a b', 'a a b', 'a', 'once'), 2)
    assert bias_init_vector.dtype == np.float64
    np.testing.assert_allclose(bias_init_vector, np.log(np.array([4, 5, 2]) / 5), rtol=1e-14, atol=1e-15)


def test_sentences_may_be_empty():
    wordtoix, _, bias_init_vector = vocab_of([['a'], [], ['a']], 1)
    assert wordtoix == {START: 0, 'a': 1}
    np.testing.assert_allclose(bias_init_vector, np.log(np.array([3, 2]) / 3), rtol=1e-14)


def test_the_word_start_in_the_data_is_never_a_word():
    sentences = [[START, 'a', START], ['a', START]]
    wordtoix, ixtoword, bias_init_vector = vocab_of(sentences, 1)
    assert wordtoix == {START: 0, 'a': 1} and ixtoword == {0: END, 1: 'a'}
    np.testing.assert_allclose(bias_init_vector, [0, 0])
    assert encode(sentences[0], wordtoix) == [1]


def test_a_full_stop_in_the_data_is_a_word_and_not_the_end():
    sentences = [['a', '.', 'b', '.'], ['a', '.']]
    wordtoix, ixtoword, bias_init_vector = vocab_of(sentences, 1)
    assert wordtoix == {START: 0, 'a': 1, '.': 2, 'b': 3}
    assert encode(sentences[0], wordtoix) == [1, 2, 3, 2]
    assert decode([1, 2, 3, 2, 0], ixtoword) == ['a', '.', 'b', '.']
    np.testing.assert_allclose(bias_init_vector, np.log(np.array([2, 2, 3, 1]) / 3), rtol=1e-14, atol=1e-15)


def test_unknown_words_are_dropped_not_replaced():
    assert encode(['a', 'zebra', 'b', 'zebra'], {START: 0, 'a': 1, 'b': 2}) == [1, 2]
    assert encode(['zebra'], {START: 0, 'a': 1}) == encode([], {START: 0, 'a': 1}) == []


def test_a_sentence_comes_back_without_its_end():
    wordtoix, ixtoword, _ = vocab_of(words('a naïve 犬 runs'), 1)
    assert decode(encode(['a', 'naïve', '犬', 'runs'], wordtoix) + [0], ixtoword) == ['a', 'naïve', '犬', 'runs']
    assert decode([0], ixtoword) == decode([], ixtoword) == []


@pytest.mark.parametrize('change, reason', [
    ({'wordtoix': {'dog': 99}}, "its word 'dog' has an index that ixtoword lacks"),
    ({'wordtoix': {'dog': '1'}}, "pairs 'dog' with '1', expected a word and a whole number"),
    ({'ixtoword': {0: '.', 1: 5}}, 'expected a word and a whole number'),
    ({'ixtoword': {0: '.', True: 'a'}}, None),
    ({'ixtoword': {0: '.', 2: 'a'}, 'wordtoix': {}}, 'its 2 words are not numbered from 0 to 1'),
    ({'ixtoword': {0: '.', -1: 'a'}}, 'a whole number'),
    ({'wordtoix': None}, "its 'wordtoix' is a NoneType"),
])
def test_a_checkpoints_vocabulary_is_checked(change, reason):
    right = {'wordtoix': {START: 0, 'a': 1}, 'ixtoword': {0: END, 1: 'a'}}
    check_vocab(right)
    with pytest.raises(InputError, match=reason):
        check_vocab({**right, **change})
    for name in right:
        with pytest.raises(InputError, match=f'has no {name!r}'):
            check_vocab({key: value for key, value in right.items() if key != name})


# ---- packing

def assert_packed(sentences, inputs, targets, batch_sizes, order):
    packed = pack(*flat(sentences))
    assert [part.tolist() for part in packed] == [inputs, targets, batch_sizes, order]
    assert all(part.dtype.kind == 'i' for part in packed)


def test_what_is_unpacked_stands_as_it_was_given():
    sentences = [[3], [1, 2, 4], [], [5, 6, 7], [8, 9]]
    packed = pack(*flat(sentences))
    assert [words.tolist() for words in unpack(packed.targets, packed)] == [[*words, 0] for words in sentences]


def test_sentences_are_packed_step_by_step_the_longest_first():
    assert_packed([[5], [7, 8, 9], [6, 4]],
                  # step 0: all three     step 1    step 2  step 3
                  inputs=[0, 0, 0,        7, 6, 5,  8, 4,   9],
                  targets=[7, 6, 5,       8, 4, 0,  9, 0,   0],
                  batch_sizes=[3, 3, 2, 1], order=[1, 2, 0])


def test_sentences_of_equal_length_stay_in_their_order():
    assert_packed([[1], [2, 3], [4], [5, 6]],
                  inputs=[0, 0, 0, 0, 2, 5, 1, 4, 3, 6], targets=[2, 5, 1, 4, 3, 6, 0, 0, 0, 0],
                  batch_sizes=[4, 4, 2], order=[1, 3, 0, 2])
    assert pack(*flat([[1]] * 300)).order.tolist() == list(range(300))
    assert pack(*flat([[1], [2, 3]] * 150)).order.tolist() == [*range(1, 300, 2), *range(0, 300, 2)]


def test_an_empty_sentence_is_start_and_end():
    assert_packed([[]], [0], [0], [1], [0])
    assert_packed([[], [3], []], inputs=[0, 0, 0, 3], targets=[3, 0, 0, 0], batch_sizes=[3, 1], order=[1, 0, 2])


def test_one_sentence():
    assert_packed([[2, 2, 1]], [0, 2, 2, 1], [2, 2, 1, 0], [1, 1, 1, 1], [0])


def test_any_sentences_can_be_read_back():
    rng = np.random.default_rng(0)
    for _ in range(20):
        sentences = [rng.integers(1, 9, rng.integers(0, 7)).tolist() for _ in range(rng.integers(1, 9))]
        inputs, targets, batch_sizes, order = pack(*flat(sentences))
        assert len(inputs) == len(targets) == batch_sizes.sum() == sum(len(sentence) + 1 for sentence in sentences)
        starts = np.concatenate([[0], np.cumsum(batch_sizes)])
        for row, index in enumerate(order):
            rows = [start + row for start, size in zip(starts, batch_sizes, strict=False) if row < size]
            assert inputs[rows].tolist() == [0, *sentences[index]]
            assert targets[rows].tolist() == [*sentences[index], 0]


# ---- the batch

def pair(imgid, sentence):
    return {'image': {'imgid': imgid}, 'sentence': {'tokens': sentence.split()}}


FEATURES = Rows({imgid: [imgid, imgid / 2] for imgid in (3, 8, 40)})
WORDTOIX = {START: 0, 'a': 1, 'dog': 2, 'runs': 3}


def test_a_batch_of_pairs():
    batch = batch_of([pair(40, 'a'), pair(3, 'a dog runs'), pair(40, 'unknown dog runs')], FEATURES, WORDTOIX)
    assert batch.sentences.inputs.tolist() == [0, 0, 0, 1, 2, 1, 2, 3, 3]
    assert batch.sentences.targets.tolist() == [1, 2, 1, 2, 3, 0, 3, 0, 0]
    assert batch.sentences.batch_sizes.tolist() == [3, 3, 2, 1]
    assert batch.sentences.order.tolist() == [1, 2, 0] and len(batch.image_rows) == 3
    assert batch.features[batch.image_rows].tolist() == [[3, 1.5], [40, 20], [40, 20]]


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_an_image_is_read_once_for_all_its_sentences(dtype):
    batch = batch_of([pair(8, 'a'), pair(3, 'a'), pair(8, 'dog'), pair(8, '')], FEATURES, WORDTOIX, dtype)
    assert batch.features.shape == (2, 2) and batch.features.dtype == dtype
    assert batch.features[batch.image_rows, 0].tolist() == [8, 3, 8, 8]
    assert batch.sentences.order.tolist() == [0, 1, 2, 3]


def test_a_sentence_of_unknown_words_is_an_empty_one():
    batch = batch_of([pair(3, 'zebra zebra')], FEATURES, WORDTOIX)
    assert [part.tolist() for part in batch.sentences] == [[0], [0], [1], [0]]


# ---- dealing it out

@pytest.mark.parametrize('n', [1, 2, 3, 7])
def test_a_dealt_batch_has_every_sentence_once_with_its_image_and_its_words(n):
    sentences = ['a', 'dog runs a', '', 'a dog a runs', 'runs', 'dog dog']
    batch = batch_of([pair((3, 8, 40)[i % 3], text) for i, text in enumerate(sentences)], FEATURES, WORDTOIX)
    parts, rows = deal(batch, n), np.arange(len(batch.sentences.inputs))
    assert len(parts) == min(n, 6)
    assert sorted(index for part, _, _ in parts for index in part.sentences.order) == list(range(6))
    assert sorted(row for _, _, words in parts for row in rows[words]) == rows.tolist()
    sizes = [len(part.image_rows) for part, _, _ in parts]
    assert max(sizes) - min(sizes) <= 1
    for part, chosen, words in parts:
        again = batch_of([pair((3, 8, 40)[i % 3], sentences[i]) for i in part.sentences.order], FEATURES, WORDTOIX)
        for array, expected in zip((*part[:2], *part.sentences[:3]), (*again[:2], *again.sentences[:3]), strict=True):
            np.testing.assert_array_equal(array, expected)          # a batch like any other
        assert batch.sentences.inputs[words].tolist() == part.sentences.inputs.tolist()
        assert batch.sentences.order[chosen].tolist() == part.sentences.order.tolist()

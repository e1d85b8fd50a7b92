"""The chain of words against enumeration, phrases among tokens, and pointing accuracy counted by hand."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from imagernn.formats.entities import MarkedImage, MarkedSentence, Phrase, read_entities
from imagernn.ranking.grounding import (
    align,
    area,
    by_type,
    contrasted,
    inside,
    places_of_sentences,
    pointing,
    regions_of_phrases,
    spans_of_phrases,
)

DATA = Path(__file__).resolve().parents[2] / 'shared' / 'data'


# ---- the chain of words

def energy(S, beta, regions):
    return sum(S[t][region] for t, region in enumerate(regions)) + beta * sum(np.diff(regions) == 0)


def chains(S, beta):
    """All chains with their energies, in the order in which the first of equal ones wins."""
    return {regions: energy(S, beta, regions) for regions in product(range(S.shape[1]), repeat=len(S))}


def examples():
    """Random scores; those that are whole numbers have many equal chains."""
    rng = np.random.default_rng(0)
    for T, R, beta in product((1, 2, 5), (1, 2, 4), (0, .5, 1, 2)):
        yield rng.integers(0, 3, (T, R)).astype(np.float32), beta
        yield rng.standard_normal((T, R)), beta


def test_alignment_is_the_first_of_the_best_chains():
    for S, beta in examples():
        energies = chains(S, beta)
        assert tuple(align(S, beta)) == max(energies, key=energies.get)


def test_the_region_of_a_phrase_is_that_of_the_best_chain_in_which_its_words_share_one():
    for S, beta in examples():
        energies = chains(S, beta)
        spans = [(start, end) for start in range(len(S)) for end in range(start + 1, len(S) + 1)]
        expected = []
        for start, end in spans:
            shared = [max(value for regions, value in energies.items() if {*regions[start:end]} == {region})
                      for region in range(S.shape[1])]
            expected.append(np.argmax(np.round(shared, 9)))    # sums in another order
        assert regions_of_phrases(S, spans, beta).tolist() == expected


def test_without_smoothing_words_and_phrases_are_independent():
    S = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
    np.testing.assert_array_equal(align(S, 0), S.argmax(axis=1))
    assert regions_of_phrases(S, [(1, 4)], 0)[0] == S[1:4].sum(axis=0).argmax()


def test_smoothing_moves_words_to_the_region_of_their_neighbours():
    S = np.array([[2., 0, 0], [.9, 1, 0], [2, 0, 0], [0, 0, 3]])
    assert [align(S, beta).tolist() for beta in (0, .1, 9)] == [[0, 1, 0, 2], [0, 0, 0, 2], [0, 0, 0, 0]]
    assert [regions_of_phrases(S, [(1, 2)], beta)[0] for beta in (0, .1)] == [1, 0]
    unchanged = S.copy()
    align(S, 1)
    np.testing.assert_array_equal(S, unchanged)


def test_contrast_leaves_what_a_word_says_beyond_its_sentence():
    S = np.array([[3., 1, 0], [3, 0, 2]])
    np.testing.assert_array_equal(contrasted(S, 0), S)
    assert align(contrasted(S, 0), 0).tolist() == [0, 0] and align(contrasted(S, 1), 0).tolist() == [1, 2]
    assert contrasted(S[:0], 1).shape == (0, 3)


def test_with_a_temperature_the_region_is_the_one_expected_to_be_nearest():
    centres = np.array([[0, 0], [.9, .9], [1, 1], [.8, .8]])
    S = np.array([[1., .9, .9, .9], [1, .9, .9, .9]])
    assert regions_of_phrases(S, [(0, 2)], 0).tolist() == [0]
    assert regions_of_phrases(S, [(0, 2)], 0, 1e-3, centres).tolist() == [0]    # all but certain
    weights = np.exp(S[0] / .1)
    distances = [weights @ ((centres - centre) ** 2).sum(axis=1) for centre in centres]
    # of the three that agree, the one that is least far from the first
    assert regions_of_phrases(S, [(0, 2)], 0, .1, centres).tolist() == [np.argmin(distances)] == [3]


@pytest.mark.parametrize('S, beta, words', [
    (np.zeros((2, 3)), -.1, 'beta -0.1'), (np.zeros((2, 3)), np.nan, 'beta nan'), (np.zeros((0, 3)), 0, r'S \(0, 3\)'),
    (np.zeros(3), 0, r'S \(3,\)')])
def test_arguments_that_make_no_chain_are_an_error(S, beta, words):
    for function in (align, lambda S, beta: regions_of_phrases(S, [(0, 1)], beta)):
        with pytest.raises(ValueError, match=words):
            function(S, beta)


@pytest.mark.parametrize('span', [(0, 0), (1, 3), (-1, 1)])
def test_a_phrase_has_words(span):
    with pytest.raises(ValueError, match='spans'):
        regions_of_phrases(np.zeros((2, 3)), [span], 0)


# ---- words of Entities, tokens of a data set

WORDS = ['The', 'black-and-white', "dog's", 'T-shirt', ',', 'size', '8', '.']


@pytest.mark.parametrize('tokens, expected', [
    ('the black and white dogs t shirt size 8', [(0, 5), (5, 7), (8, 9)]),
    ("the black-and-white dog 's t-shirt size 8", [(0, 4), (4, 5), (6, 7)]),
    ('the blackandwhite dogs tshirt size', [(0, 3), (3, 4), None]),
    ('the black and wite dogs tee shirt size 8', [(0, 5), (5, 7), (8, 9)]),    # the texts differ
    ('size', [None, None, None]),
    ('', [None, None, None])])
def test_phrases_are_found_among_tokens_that_were_made_in_other_ways(tokens, expected):
    phrases = [Phrase('1', ('animals',), 0, 3), Phrase('2', ('clothing',), 3, 4), Phrase('3', ('other',), 6, 7)]
    assert spans_of_phrases(WORDS, phrases, tokens.split()) == expected


def test_a_phrase_of_punctuation_alone_has_no_counterpart():
    assert spans_of_phrases(['Go', '!'], [Phrase('1', ('other',), 1, 2)], ['go']) == [None]
    assert spans_of_phrases(['A', 'b'], [Phrase('1', ('other',), 1, 2)], ['a', 'b']) == [(1, 2)]    # a short sentence


def test_a_corrected_sentence_takes_the_most_similar_one_that_is_left():
    sentences = [text.split() for text in ('a dog runs', 'a grey dog', 'two mans sit', 'a bird')]
    marked = [MarkedSentence(text.split(), place, []) for text, place in
              (('Two men sit', None), ('A bird', 3), ('A gray dog', None), ('A dog runs', 0), ('A frog', None))]
    assert places_of_sentences(marked, sentences) == [2, 3, 1, 0, None]
    assert places_of_sentences(marked[1:2], sentences[:3]) == [None]


# ---- pointing accuracy

def test_points_on_an_edge_are_inside():
    boxes = np.array([[0, 0, .5, .5], [.75, .5, 1, 1]])
    points = [(.25, .25), (.5, .5), (.5, .6), (.75, 1), (.8, .4)]
    assert inside(points, boxes).tolist() == [True, True, False, True, False]


def test_the_area_of_boxes_counts_their_overlap_once():
    assert area(np.array([[.1, .2, .6, .4]])) == pytest.approx(.1)
    assert area(np.array([[0, 0, .5, .5], [.25, .25, .75, .75], [.3, .3, .4, .4]])) == pytest.approx(.25 + .25 - .0625)
    rng = np.random.default_rng(0)
    boxes = np.sort(rng.random((4, 2, 2)), axis=1).reshape(4, 4)
    assert area(boxes) == pytest.approx(inside(rng.random((100_000, 2)), boxes).mean(), abs=.01)


def test_a_phrase_counts_for_each_of_its_types():
    found = by_type([1, 0, .5], [('people',), ('people', 'scene'), ()])
    assert found == {'all': 50, 'people': 50, 'scene': 0}


REGIONS = np.array([[0, 0, 1, 1], [0, 0, .5, 1], [.5, 0, 1, 1]])    # the centres: x = .5, .25, .75
IMAGE = MarkedImage(0, 'a.jpg', 'test', {'1': np.array([[.5, 0, 1, 1]]), '2': np.array([[0, 0, .4, 1]])}, [
    MarkedSentence(['A', 'dog', 'and', 'a', 'frog', '.'], 1, [
        Phrase('1', ('animals',), 0, 2), Phrase('2', ('animals', 'other'), 3, 5), Phrase('3', ('other',), 2, 3)]),
    MarkedSentence(['Frogs', '!'], 0, [Phrase('2', ('animals',), 0, 1)]),
    MarkedSentence(['One', 'more'], None, [Phrase('1', ('other',), 1, 2)])])
SENTENCES = [['frogs'], ['a', 'dog', 'and', 'a', 'frog']]


def word_scores(number, place):
    """The model knows neither "a" nor "frogs". Its END belongs to region 0."""
    assert number == 0
    of_words = {'dog': (0, 0, 2), 'and': (0, 0, 1.), 'frog': (0, 1, .5)}
    S = [of_words[token] for token in SENTENCES[place] if token in of_words]
    return np.array([*S, (9, 0, 0)]), [token in of_words for token in SENTENCES[place]]


def test_pointing_accuracy_counted_by_hand():
    found = pointing([(IMAGE, SENTENCES)], REGIONS, word_scores, [0, 1.])
    assert found.counts == {'all': 4, 'animals': 3, 'other': 2}
    assert (found.unmatched, found.unknown) == (1, 1)
    # "frogs", unknown, points at the centre, which is no hit; "more", without a sentence, too, which is one
    assert found.chains[0] == pytest.approx({'all': 75, 'animals': 200 / 3, 'other': 100})
    assert found.chains[1.] == pytest.approx({'all': 50, 'animals': 100 / 3, 'other': 50})    # "frog" follows "and"
    assert found.baselines == {
        'centre of the picture': pytest.approx({'all': 50, 'animals': 100 / 3, 'other': 50}),
        'random region': pytest.approx({'all': 50, 'animals': 400 / 9, 'other': 50}),
        'random point': pytest.approx({'all': 45, 'animals': 130 / 3, 'other': 45})}


def test_pointing_needs_phrases_with_boxes_and_scores_of_every_region():
    with pytest.raises(ValueError, match='no phrase has boxes'):
        pointing([(IMAGE._replace(boxes={}), SENTENCES)], REGIONS, word_scores, [0])
    with pytest.raises(ValueError, match=r'S \(4, 3\): expected 3 known words and END, 2 regions'):
        pointing([(IMAGE, SENTENCES)], REGIONS[:2], word_scores, [0])


# ---- the test split of Flickr8K

@pytest.fixture(scope='module')
def flickr8k():
    """The images of the test split as pointing takes them, with the tokens of a data set by its name."""
    path = DATA / 'flickr8k' / 'entities.jsonl.gz'
    if not path.is_file():
        pytest.skip('needs shared/data/flickr8k/entities.jsonl.gz beside the checkout')
    marked = [image for image in read_entities(path) if image.split == 'test']

    def images(name):
        dataset = DATA / name / 'dataset.json'
        if not dataset.is_file():
            pytest.skip(f'needs shared/data/{name}/dataset.json beside the checkout')
        entries = json.loads(dataset.read_text(encoding='utf-8'))['images']
        tokens = {entry['filename']: [sentence['tokens'] for sentence in entry['sentences']] for entry in entries}
        return [(image, tokens[image.filename]) for image in marked]

    return images


@pytest.mark.parametrize('name', ['flickr8k', 'flickr8k_karpathy'])
def test_every_phrase_is_found_among_the_tokens(flickr8k, name):
    num_changed = 0
    for image, sentences in flickr8k(name):
        places = places_of_sentences(image.sentences, sentences)
        for sentence, place in zip(image.sentences, places, strict=True):
            phrases = [phrase for phrase in sentence.phrases if phrase.entity in image.boxes]
            for phrase, span in zip(phrases, spans_of_phrases(sentence.words, phrases, sentences[place]), strict=True):
                words = ''.join(sentence.words[phrase.start:phrase.end]).lower()
                num_changed += ''.join(filter(str.isalnum, words)) != ''.join(sentences[place][slice(*span)])
    assert num_changed < 70    # as "gray", which Entities corrected from "grey"


def test_the_baselines_are_those_published(flickr8k):
    images = flickr8k('flickr8k')

    def right_half(number, place):
        known = [True] * len(images[number][1][place])
        return np.tile([0., 0, 1], (len(known) + 1, 1)), known

    found = pointing(images, REGIONS, right_half, [0])
    assert (found.counts['all'], found.unmatched, found.unknown) == (13_063, 0, 0)
    assert found.baselines['centre of the picture']['all'] == pytest.approx(54.8, abs=.05)
    assert found.baselines['random point']['all'] == pytest.approx(31.1, abs=.05)
    assert 30 < found.chains[0]['all'] < 45

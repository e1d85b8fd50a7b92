"""imagernn.find: what a sentence finds is what comparing it with every photo finds; and what it says of bad input."""

import importlib.util
import json
import re

import numpy as np
import pytest
from albums import use_stub, write_models, write_photo

from imagernn import find
from imagernn.convnet.extraction import average_regions, parse_regions
from imagernn.formats.pictures import load_picture
from imagernn.gallery.opening import open_album
from imagernn.gallery.search import CANDIDATES, combined, largest
from imagernn.ranking.grounding import contrasted
from imagernn.ranking.ranker import Ranker
from imagernn.runs.checkpoint_file import save_checkpoint

NUM_PHOTOS = CANDIDATES + 5


@pytest.fixture(scope='module')
def flags(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp('models'))


@pytest.fixture(scope='module')
def photos(tmp_path_factory, flags):
    """A folder of more photos than are candidates, indexed."""
    folder = tmp_path_factory.mktemp('photos')
    for number in range(NUM_PHOTOS):
        write_photo(folder / str(number % 3) / f'{number:03}.png', number)
    with pytest.MonkeyPatch.context() as patch:
        use_stub(patch)
        assert find.main([str(folder), 'a dog', *flags]) == 0
    return folder


@pytest.fixture(autouse=True)
def network(monkeypatch):
    return use_stub(monkeypatch)


def opened(photos, flags, *more):
    params = vars(find.build_parser().parse_args([str(photos), 'x', *flags, *more]))
    return open_album(params)


def test_the_first_are_those_that_both_models_prefer(photos, flags, network):
    tokens = 'two cats in the red car'.split()
    index, search = opened(photos, flags)
    rankers = [Ranker.load(path) for path in (flags[3], flags[5])]
    found = search.find(' '.join(tokens))['results']

    pictures = [load_picture(photos / entry.name) for entry in index.entries]
    whole = np.stack([network.of([picture])[0] for picture in pictures])        # (N, D)
    grids = np.concatenate([network.of([picture], 'grid') for picture in pictures])
    regions = average_regions(grids, parse_regions('windows')).reshape(len(whole), -1)
    features = np.concatenate([whole, regions], axis=1)
    by_sentence, by_region = (ranker.scores(ranker.encode_images(features), ranker.encode_sentences([tokens]))[:, 0]
                              for ranker in rankers)
    candidates = np.argsort(-by_sentence)[:CANDIDATES]
    scores = combined(by_sentence[candidates], by_region[candidates])
    expected = dict(zip(candidates.tolist(), scores.tolist(), strict=True))
    assert {result['photo'] for result in found} == expected.keys()
    assert np.allclose([result['score'] for result in found], sorted(scores)[::-1], atol=.02)    # float16
    assert all(abs(result['score'] - expected[result['photo']]) < .02 for result in found)


def test_more_results_than_candidates_are_given_where_more_are_asked_for(photos, flags, capsys):
    assert find.main([str(photos), 'dog', '-n', '1000', '--json', *flags]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len({row['path'] for row in rows}) == NUM_PHOTOS and [row['rank'] for row in rows] == [
        *range(1, NUM_PHOTOS + 1)]
    assert all((photos / row['path']).is_file() and row['caption'] for row in rows)
    scores = [row['score'] for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert find.main([str(photos), '-n', '3', *flags, 'dog']) == 0    # flags may stand first
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines] == [row['path'] for row in rows[:3]]
    for words in ['the red car'], ['the', 'red', 'car']:    # with quotes or without
        assert find.main([str(photos), *words, '-n', '3', *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == lines[3:]


def test_unknown_words_are_named_with_those_that_look_like_them(photos, flags, capsys):
    assert find.main([str(photos), 'A Dogg, in the snow zebra zebra', *flags]) == 0
    found = capsys.readouterr()
    assert 'do not know the word "dogg", which is left out; known words that look like it: dog' in found.err
    assert 'do not know the word "zebra", which is left out\n' in found.err and len(found.out.splitlines()) == 10
    assert found.err.count('zebra') == 1
    assert find.main([str(photos), 'in the snow', '--json', *flags]) == 0
    assert find.main([str(photos), 'dogg in the zebra snow', '--json', *flags]) == 0
    both = capsys.readouterr().out.split(']\n')
    assert both[0] == both[1]


@pytest.mark.parametrize('sentence, words', [
    (' ', ['empty', 'Describe']), ('?!', ['empty']), ('dogg snowy', ['dogg, snowy', 'look like them: dog, snow']),
    ('zebra', ['none', 'zebra', 'plain English']), ('#start#', ['none', '#start#']), ('.', ['empty']),
    ('dog ' * 101, ['101 words', 'at most 100']), ('x' * 10_000, ['none'])], ids=range(8))
def test_a_sentence_without_known_words_is_an_error_that_helps(photos, flags, capsys, sentence, words):
    assert find.main([str(photos), sentence, *flags]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith('error: ') and all(word in error for word in words) and len(error) < 500


@pytest.mark.parametrize('more, words', [
    (['-n', '0'], ['-n 0']), (['-n', '1000000'], ['-n 1000000']), (['--num_threads', '0'], ['--num_threads 0']),
    (['--captioner', '{regions}'], ['regions.h5', 'of the kind ranking', 'captioning']),
    (['--regions_ranker', '{sentences}'], ['sentences.h5', 'kind sentences, expected regions', '--regions_ranker']),
    (['--sentences_ranker', '{regions}'], ['regions.h5', 'kind regions, expected sentences', '--sentences_ranker']),
    (['--sentences_ranker', 'no.h5'], ['no.h5']),
    (['--index_folder', '{regions}'], ['--index_folder', 'regions.h5'])], ids=range(8))
def test_a_mistake_is_a_message_and_exit_code_2(photos, flags, capsys, more, words):
    more = [text.format(sentences=flags[3], regions=flags[5]) for text in more]
    assert find.main([str(photos), 'dog', *flags, *more]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith('error: ') and all(word in error for word in words), error


@pytest.mark.parametrize('kind, features, words', [
    ('regions', {'network': 'lite0', 'layer': 'features'}, ['does not say which regions', '--regions_ranker']),
    ('regions', {'network': 'vgg16', 'layer': 'fc7', 'regions': 'windows'}, ['vgg16 fc7', 'lite0 features']),
    ('sentences', {'network': 'lite0', 'layer': 'grid'}, ['lite0 grid', '--sentences_ranker']),
    ('sentences', None, ['network and layer None None'])], ids=range(4))
def test_models_of_other_features_are_refused(photos, flags, capsys, tmp_path, kind, features, words):
    checkpoint = Ranker.load(flags[3 if kind == 'sentences' else 5]).checkpoint
    save_checkpoint(tmp_path / 'other.h5', {**checkpoint, 'features': features})
    assert find.main([str(photos), 'dog', *flags, f'--{kind}_ranker', str(tmp_path / 'other.h5')]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert 'other.h5' in error and all(word in error for word in words), error


def test_words_are_seen_where_they_score_most_and_sentences_come_from_the_album(photos, flags):
    index, search = opened(photos, flags)
    by_region = search.models.by_region
    words = search.grounded(7, 'the zebra dog')
    assert [word['word'] for word in words] == ['the', 'dog'] and search.grounded(7, 'zebra') == search.grounded(7, '')
    assert search.grounded(7, '') == []
    shape = len(search.models.boxes), by_region.dim
    image = index.vectors(np.array([7]), slice(search.models.by_sentence.dim, search.models.width)).reshape(shape)
    scores = by_region.word_scores(image, by_region.encode_sentences([['the', 'dog']]).vectors)    # END is the third
    regions = contrasted(scores[:2]).argmax(axis=1)
    assert np.allclose([word['score'] for word in words], scores[[0, 1], regions], atol=1e-4)
    assert [word['box'] for word in words] == search.models.boxes[regions].tolist()

    sentences = search.sentences(7)
    captions = {entry.caption for entry in index.entries}
    assert len({each['text'] for each in sentences} & captions) == len(sentences) == min(5, len(captions))
    assert [each['score'] for each in sentences] == sorted((each['score'] for each in sentences), reverse=True)


def test_the_largest_are_found_in_order_and_the_first_of_equals_comes_first():
    rng = np.random.default_rng(0)
    for n, k in (1, 5), (5, 5), (50, 5), (50, 49), (50, 100):
        scores = rng.permutation(n).astype(np.float32)
        places, found = largest(scores, k)
        assert found.tolist() == sorted(scores, reverse=True)[:k] and (scores[places] == found).all()
    assert largest(np.zeros(4), 9)[0].tolist() == [0, 1, 2, 3]


def test_scores_of_one_photo_or_of_equal_photos_can_be_combined():
    assert combined(np.ones(1), np.ones(1)).tolist() == [0] and combined(np.ones(3), np.ones(3)).tolist() == [0, 0, 0]


@pytest.mark.skipif(not importlib.util.find_spec('faiss'), reason='the extra [faiss] is not installed')
def test_the_approximate_index_says_how_much_it_finds(photos, flags, capsys):
    index, search = opened(photos, flags, '--index', 'faiss')
    share = float(re.search(r'--index faiss finds ([\d.]+) % of the 100 best', capsys.readouterr().err)[1])
    assert 0 < share <= 100
    exact = opened(photos, flags)[1]
    found = search.find('a dog plays in the snow')['results']
    scores = {each['photo'] for each in exact.find('a dog plays in the snow')['results']}
    assert len(scores & {each['photo'] for each in found}) > 0


@pytest.mark.skipif(importlib.util.find_spec('faiss') is not None, reason='the extra [faiss] is installed')
def test_without_faiss_the_error_names_the_extra(photos, flags, capsys):
    assert find.main([str(photos), 'dog', '--index', 'faiss', *flags]) == 2
    assert '[faiss]' in capsys.readouterr().err

"""The ranker's parts: scores by the formula, sentences in their order, standardization, checkpoints, and Ranker."""

import numpy as np
import pytest
from albums import WORDS, D, write_models
from datasets import write_tiny_dataset
from models import flat

from imagernn.corpus.captioned_images import Pairs, getDataProvider
from imagernn.corpus.vocab import lookup_table
from imagernn.errors import InputError
from imagernn.nn.packing import unpack
from imagernn.nn.workers import Workers
from imagernn.ranking import model as ranking
from imagernn.ranking import scores, split
from imagernn.ranking.batch import batch_of_pairs, split_rows, standard_of, standardized
from imagernn.ranking.load import check_feature_size, load_ranker
from imagernn.ranking.model import Sentences, encode_images, encode_sentences, init_model
from imagernn.ranking.names import ENCODERS, RANKERS
from imagernn.ranking.ranker import Ranker
from imagernn.ranking.split import combined, score_matrix
from imagernn.runs.checkpoint_file import load_checkpoint, save_checkpoint

R = 3
TOKENS = [['a', 'dog'], [], ['two', 'cats', 'in', 'the', 'red', 'car'], ['snow'], ['cats', 'two'], ['unheard', 'dog']]


@pytest.fixture(scope='module')
def paths(tmp_path_factory):
    """Checkpoints of random weights: ranker -> path, and 'captioner'."""
    flags = write_models(tmp_path_factory.mktemp('models'))
    return {flag.strip('-').removesuffix('_ranker'): path for flag, path in zip(flags[::2], flags[1::2], strict=True)}


@pytest.fixture(params=RANKERS)
def ranker(request, paths):
    return Ranker.load(paths[request.param])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def make_features(rng, n=4):
    """Rows as Features has them: of the whole picture, then of the regions."""
    return rng.normal(size=(n, D + R * D)).astype(np.float32)


# ---- scores

def plain_scores(images, sentences, mean):
    """Karpathy & Fei-Fei (2015), equation 8, by loops."""
    S = np.zeros((len(images), len(sentences)))
    for k, image in enumerate(images):
        for n, words in enumerate(sentences):
            total = sum(max(float(v @ s) for v in image) for s in words)
            S[k, n] = total / len(words) if mean else total
    return S


@pytest.mark.parametrize('num_threads', [1, 2])
@pytest.mark.parametrize('pool', ['mean', 'sum'])
@pytest.mark.parametrize('num_regions', [1, R])
def test_scores_are_the_formula(rng, num_regions, pool, num_threads, monkeypatch):
    monkeypatch.setattr(scores, 'BLOCK_BYTES', 100)         # several blocks of images
    monkeypatch.setattr(split, 'SENTENCES_AT_ONCE', 3)      # and of sentences
    lengths = [2, 1, 5, 1, 3, 2, 1]
    images, words = rng.normal(size=(4, num_regions, 6)), rng.normal(size=(sum(lengths), 6))
    sentences = Sentences(words, np.concatenate([[0], np.cumsum(lengths)]))
    found = score_matrix(images, sentences, {'pool': pool}, Workers(num_threads))
    np.testing.assert_allclose(found, plain_scores(images, np.split(words, sentences.starts[1:-1]), pool == 'mean'))


def test_an_ensemble_weighs_its_members_alike(rng):
    S, other = rng.normal(size=(3, 6)), rng.normal(size=(3, 6))
    assert combined([S]) is S
    np.testing.assert_allclose(combined([S, other]), (S / S.std() + other / other.std()) / 2)
    np.testing.assert_allclose(combined([S, 100 * other]), combined([S, other]))
    assert np.isfinite(combined([S, np.zeros_like(S)])).all()


# ---- sentences in their order

def make_model(kind, encoder, similarity='cosine'):
    params = {'ranker': kind, 'encoder': encoder, 'similarity': similarity, 'pool': 'mean', 'word_encoding_size': 5,
              'hidden_size': 6}
    rng = np.random.default_rng(3)
    model = init_model(params, D, 12, rng, np.float64)
    return {name: rng.uniform(-.6, .6, w.shape) for name, w in model.items()}, params


@pytest.mark.parametrize('num_threads', [1, 2])
@pytest.mark.parametrize('encoder', ENCODERS)
@pytest.mark.parametrize('kind', RANKERS)
def test_sentences_come_back_in_the_given_order(kind, encoder, num_threads, monkeypatch):
    monkeypatch.setattr(ranking, 'SENTENCES_AT_ONCE', 3)
    model, params = make_model(kind, encoder)
    sentences = [[3, 1], [2, 5, 5, 9, 1, 4], [], [7], [10, 8, 6], [1, 1], [1, 3], []]
    found = encode_sentences(*flat(sentences), model, params, Workers(num_threads))
    counts = [len(words) + 1 if kind == 'regions' else 1 for words in sentences]
    assert found.starts.tolist() == [0, *np.cumsum(counts)]
    for i, words in enumerate(sentences):
        alone = encode_sentences(*flat([words]), model, params)
        np.testing.assert_allclose(found.vectors[found.starts[i]:found.starts[i + 1]], alone.vectors, rtol=1e-10)
    first, second = (found.vectors[found.starts[i]:found.starts[i + 1]] for i in (0, 6))    # the same words, turned
    assert not np.allclose(first, second) and not np.allclose(first, second[::-1])
    np.testing.assert_allclose((found.vectors ** 2).sum(axis=1), 1)


def test_each_vector_of_a_sentence_belongs_to_its_word():
    """With layers that see one word only, equal words have equal vectors; END's is the last."""
    model, params = make_model('regions', 'rnn', 'dot')
    model = {name: np.zeros_like(w) if name.endswith('Whh') else w for name, w in model.items()}
    vectors, _ = encode_sentences(*flat([[4, 7], [7, 4, 4]]), model, params)
    np.testing.assert_allclose(vectors[[0, 1, 1, 2]], vectors[[4, 3, 3, 6]])
    assert not np.allclose(vectors[0], vectors[1]) and not np.allclose(vectors[0], vectors[2])


@pytest.mark.parametrize('kind', RANKERS)
def test_no_sentences_have_no_vectors(kind):
    model, params = make_model(kind, 'gru')
    vectors, starts = encode_sentences(np.empty(0, np.int64), np.empty(0, np.int64), model, params)
    assert vectors.shape == (0, 6) and starts.tolist() == [0]
    assert score_matrix(np.ones((2, 1, 6)), Sentences(vectors, starts), params).shape == (2, 0)


# ---- features

@pytest.fixture(scope='module')
def provider(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    folder = write_tiny_dataset(root)
    features = np.load(folder / 'vgg_feats.npy')
    features[:, 3] = 7                                  # never varies
    features[14:] = 1e6                                 # what is no training image does not count
    np.save(folder / 'vgg_feats.npy', features)
    return getDataProvider('tiny', root)


def test_the_standard_is_the_mean_and_the_scale_of_the_training_images(provider):
    features, standard = provider.features.rows(np.arange(14), np.float64), standard_of(provider, 'sentences')
    varies = np.arange(20) != 3
    np.testing.assert_allclose(standard['mean'][0], features.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(standard['scale'][0, varies], features.std(axis=0)[varies], rtol=1e-5)
    assert standard['scale'][0, 3] == 1 and standard['mean'].shape == standard['scale'].shape == (1, 20)
    found = standardized(features[:, None].copy(), standard)[:, 0]
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(found.std(axis=0)[varies], 1, rtol=1e-5)


def test_a_ranker_takes_its_part_of_the_rows(rng):
    rows = make_features(rng)
    np.testing.assert_array_equal(split_rows(rows, D, D, 'sentences'), rows[:, None, :D])
    regions = split_rows(rows, D, D, 'regions')
    assert regions.shape == (4, R, D)
    np.testing.assert_array_equal(regions[2, 1], rows[2, 2 * D:3 * D])


def test_in_a_batch_each_image_stands_where_its_sentence_does(provider):
    lookup = lookup_table(provider.words, {word: number + 1 for number, word in enumerate(provider.words)})
    standard = standard_of(provider, 'sentences')
    pairs = Pairs(np.array([5, 0, 9, 3]), np.array([26, 2, 45, 19]))
    batch = batch_of_pairs(pairs, provider, lookup, 'sentences', standard, np.float64)
    features = standardized(provider.features.rows(pairs.images, np.float64)[:, None], standard)
    np.testing.assert_array_equal(batch.features, features[batch.sentences.order])
    for words, sentence in zip(unpack(batch.sentences.targets, batch.sentences), pairs.sentences, strict=True):
        expected, _ = provider.indices(np.array([sentence]), lookup)
        assert words.tolist() == [*expected.tolist(), 0]


def test_features_of_another_size_name_the_file_and_both_sizes(provider, paths):
    checkpoint = load_ranker(paths['sentences'])
    check_feature_size(provider.features, checkpoint, 'c.h5')
    checkpoint['model']['We'] = checkpoint['model']['We'][:7]
    with pytest.raises(InputError, match=r'vgg_feats.npy: features of size 20, but c.h5 was trained on size 7'):
        check_feature_size(provider.features, checkpoint, 'c.h5')


# ---- checkpoints

def without(*names):
    def change(checkpoint):
        for name in names[:-1]:
            checkpoint = checkpoint[name]
        del checkpoint[names[-1]]
    return change


def with_value(value, *names):
    def change(checkpoint):
        for name in names[:-1]:
            checkpoint = checkpoint[name]
        checkpoint[names[-1]] = value
    return change


def float32(*shape):
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(('kind', 'change', 'words'), [
    ('sentences', with_value('captioning', 'kind'), 'of the kind captioning, and one of the kind ranking is needed'),
    ('sentences', with_value('convnet', 'kind'), 'train-convnet'),
    ('sentences', with_value(float32(D, 7), 'model', 'We'), 'do not fit each other or its 11 words: be (1, 6)'),
    ('sentences', with_value(float32(6, 18), 'model', 'UGRU'), 'do not fit each other or its 11 words: UGRU (6, 18)'),
    ('sentences', with_value(float32(12, 5), 'model', 'Ws'), 'do not fit each other or its 11 words: Ws (12, 5)'),
    ('regions', with_value(float32(7, 6), 'model', 'backward_UGRU'), 'backward_UGRU (7, 6)'),
    ('regions', with_value(float32(1, 1, 6), 'model', 'bd'), 'its bd is not a matrix of finite numbers'),
    ('sentences', with_value(float32(0, 6), 'model', 'We'), 'its We is not a matrix of finite numbers'),
    ('sentences', with_value(np.full((1, 6), np.nan, np.float32), 'model', 'be'), 'its be is not a matrix of finite'),
    ('regions', without('model', 'bd'), 'its parameters are We, be, Ws, '),
    ('sentences', with_value(float32(1, 1), 'model', 'more'), 'more, but this ranker has '),
    ('sentences', with_value('regions', 'params', 'ranker'), 'but this ranker has We, be, Ws, forward_WGRU'),
    ('sentences', with_value('lstm', 'params', 'encoder'), 'but this ranker has We, be, Ws, WLSTM'),
    ('sentences', with_value('transformer', 'params', 'encoder'),
     "its encoder is 'transformer', expected one of gru, lstm, rnn"),
    ('sentences', with_value(['gru'], 'params', 'encoder'), "its encoder is ['gru'], expected one of"),
    ('sentences', with_value('words', 'params', 'ranker'), "its ranker is 'words', expected one of sentences, regions"),
    ('sentences', without('params', 'similarity'), 'its similarity is None, expected one of cosine, dot'),
    ('sentences', with_value('max', 'params', 'pool'), "its pool is 'max', expected one of mean, sum"),
    ('sentences', without('standard'), f"its 'standard' holds no mean and scale of {D} features"),
    ('sentences', without('standard', 'mean'), "its 'standard' holds no mean and scale"),
    ('sentences', with_value([1.] * D, 'standard', 'mean'), "its 'standard' holds no mean and scale"),
    ('sentences', with_value(float32(D), 'standard', 'scale'), "its 'standard' holds no mean and scale"),
    ('sentences', with_value(float32(1, D - 1), 'standard', 'scale'), "its 'standard' holds no mean and scale"),
    ('sentences', with_value(np.zeros((1, D), np.float32), 'standard', 'scale'), "its 'standard' holds no mean"),
    ('sentences', with_value(np.full((1, D), np.inf, np.float32), 'standard', 'mean'), "its 'standard' holds no mean"),
    ('sentences', with_value(np.ones((1, D), int), 'standard', 'scale'), "its 'standard' holds no mean and scale"),
    ('sentences', without('wordtoix'), 'wordtoix'),
    ('sentences', with_value({0: '.', 1: 'a'}, 'ixtoword'), "its word 'dog' has an index that ixtoword lacks"),
])
def test_a_checkpoint_that_does_not_hold_a_ranker_is_refused(paths, tmp_path, kind, change, words):
    checkpoint = load_checkpoint(paths[kind], 'ranking')
    change(checkpoint)
    save_checkpoint(tmp_path / 'c.h5', checkpoint)
    for load in (load_ranker, Ranker.load):
        with pytest.raises(InputError) as caught:
            load(tmp_path / 'c.h5')
        assert str(caught.value).startswith(f'{tmp_path / "c.h5"}: ') and words in str(caught.value)


def test_a_captioner_and_a_missing_file_are_refused(paths, tmp_path):
    with pytest.raises(InputError, match='captioner.h5: is a checkpoint of the kind captioning, and one of the kind '
                                         'ranking is needed here; use it with: .*driver.py'):
        Ranker.load(paths['captioner'])
    with pytest.raises(InputError, match='absent.h5: no such file'):
        Ranker.load(tmp_path / 'absent.h5')


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_a_checkpoint_is_loaded_in_the_wanted_precision(paths, tmp_path, dtype):
    checkpoint = load_checkpoint(paths['regions'], 'ranking')
    checkpoint['model'] = {name: w.astype(np.float16) for name, w in checkpoint['model'].items()}
    save_checkpoint(tmp_path / 'c.h5', checkpoint)
    assert {w.dtype for w in load_ranker(tmp_path / 'c.h5', dtype)['model'].values()} == {np.dtype(dtype)}
    assert {w.dtype for w in load_ranker(tmp_path / 'c.h5')['model'].values()} == {np.dtype('float16')}
    assert Ranker.load(tmp_path / 'c.h5').encode_images(float32(1, D + R * D)).dtype == np.float32


# ---- Ranker

def test_images_are_standardized_projected_and_of_length_1(ranker, rng):
    rows = make_features(rng).astype(np.float64)
    before, found = rows.copy(), ranker.encode_images(rows)
    model, standard = ranker.checkpoint['model'], ranker.checkpoint['standard']
    parts = rows[:, D:].reshape(4, R, D) if ranker.kind == 'regions' else rows[:, None, :D]
    vectors = (parts - standard['mean'][0]) / standard['scale'][0] @ model['We'] + model['be'][0]
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    assert found.shape == (4, R if ranker.kind == 'regions' else 1, ranker.dim) and found.dtype == np.float32
    np.testing.assert_allclose(found, vectors, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(rows, before)
    if ranker.kind == 'sentences':
        np.testing.assert_array_equal(ranker.encode_images(rows[:, :D]), found)
    np.testing.assert_allclose(encode_images(parts.astype(np.float32), model, {**ranker.params, 'similarity': 'dot'}),
                               parts @ model['We'] + model['be'][0], rtol=1e-3, atol=1e-4)


def test_unknown_words_are_dropped(ranker):
    assert ranker.known(['unheard', 'dog', 'of', '#START#', '.', 'dog']) == (['dog', 'dog'],
                                                                             ['unheard', 'of', '#START#', '.'])
    assert ranker.known([]) == ([], [])
    found, known = ranker.encode_sentences(TOKENS), ranker.encode_sentences([*TOKENS[:-1], ['dog']])
    np.testing.assert_array_equal(found.vectors, known.vectors)
    counts = [3, 1, 7, 2, 3, 2] if ranker.kind == 'regions' else [1] * 6
    assert np.diff(found.starts).tolist() == counts and found.vectors.shape == (sum(counts), ranker.dim)


def test_scores_are_the_means_of_the_words_best_scores(ranker, rng):
    images, sentences = ranker.encode_images(make_features(rng)), ranker.encode_sentences(TOKENS)
    S = ranker.scores(images, sentences)
    assert S.shape == (4, 6) and S.dtype == np.float32
    for i, start, stop in zip(range(6), sentences.starts, sentences.starts[1:], strict=False):
        for k in range(4):
            words = ranker.word_scores(images[k], sentences.vectors[start:stop])
            assert words.shape == (stop - start, images.shape[1])
            assert S[k, i] == pytest.approx(words.max(axis=1).mean(), abs=1e-5)
    none = ranker.encode_sentences([])
    assert len(none.vectors) == 0 and ranker.scores(images, none).shape == (4, 0)


def test_it_says_what_it_is(paths):
    for kind in RANKERS:
        found = Ranker.load(paths[kind], num_threads=2)
        assert (found.kind, found.dim, found.whole_dim) == (kind, 6, D)
        assert set(WORDS) < set(found.checkpoint['wordtoix'])

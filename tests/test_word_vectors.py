"""Word vectors from elsewhere: every form of file, damaged and hostile files, and training with them."""

import re
import resource
import shutil
from pathlib import Path

import kill_driver
import numpy as np
import pytest
from datasets import TINY, checkpoint_named, last_of, train_flags, write_tiny_dataset
from driving import Provider, at, nothing, stop
from test_train_ranker import ranker_flags, write_dataset

import driver
from imagernn.corpus.word_vectors import LONGEST_LINE, read_vectors, word_vectors_for
from imagernn.errors import InputError
from imagernn.ranking import train
from imagernn.runs.checkpoint_file import load_checkpoint

DATA = Path(__file__).resolve().parents[2] / 'shared' / 'data' / 'vectors'
WORDS, D = ['the', 'a', 'Hund', 'ünder'], 5
VECTORS = np.random.default_rng(0).normal(size=(len(WORDS), D)).astype(np.float32)
KNOWN = sorted({word for sentences in TINY['train_sentences'].values() for tokens in sentences for word in tokens})[::2]


def rows_of_text(words, vectors, end='\n'):
    return ''.join(f'{word} {" ".join(map(str, vector))}{end}'
                   for word, vector in zip(words, vectors.tolist(), strict=True)).encode()


def rows_of_bin(words, vectors, end=b''):
    return b''.join(word.encode() + b' ' + vector.astype('<f4').tobytes() + end
                    for word, vector in zip(words, vectors, strict=True))


def header(vectors):
    return '{} {}\n'.format(*vectors.shape).encode()


def save_npy(path, words, vectors, list_name='words.txt', end='\n'):
    np.save(path, vectors)
    path.with_name(list_name).write_text(''.join(f'{word}{end}' for word in words), encoding='utf-8')


FORMS = {    # name -> (file, write(path, words, vectors))
    'glove': ('a.txt', lambda p, w, v: p.write_bytes(rows_of_text(w, v))),
    'glove, CRLF and a blank line': ('a.txt', lambda p, w, v: p.write_bytes(rows_of_text(w, v, '\r\n') + b'\r\n')),
    'glove, no newline at the end': ('a.txt', lambda p, w, v: p.write_bytes(rows_of_text(w, v)[:-1])),
    'word2vec text': ('a.vec', lambda p, w, v: p.write_bytes(header(v) + rows_of_text(w, v, ' \n'))),
    'word2vec .bin': ('a.bin', lambda p, w, v: p.write_bytes(header(v) + rows_of_bin(w, v, b'\n'))),
    '.bin without newlines': ('a.bin', lambda p, w, v: p.write_bytes(header(v) + rows_of_bin(w, v))),
    'npy': ('a.npy', save_npy),
    'npy, vocab.txt with counts': ('a.npy', lambda p, w, v: save_npy(p, w, v, 'vocab.txt', ' 17\n')),
    'npy, a.txt': ('a.npy', lambda p, w, v: save_npy(p, w, np.asfortranarray(v, '>f8'), 'a.txt')),
}


@pytest.fixture(params=FORMS)
def saved(request, tmp_path):
    """save(words, vectors) -> the path of a file of each form."""
    name, write = FORMS[request.param]

    def save(words, vectors):
        write(tmp_path / name, words, vectors)
        return tmp_path / name

    return save


def refusal(path, *words, size=D):
    """The one-line message that names the file and has these words."""
    with pytest.raises(InputError) as caught:
        read_vectors(path, WORDS, size)
    message = str(caught.value)
    assert str(path) in message and '\n' not in message and len(message) < 1000
    for part in words:
        assert part in message
    return message


# ---- reading

def test_every_form_gives_the_vectors_of_the_words_that_are_asked_for(saved):
    found, notes = read_vectors(saved(WORDS, VECTORS), ['a', 'ünder', 'absent', '\ud800'], D)
    assert found.keys() == {'a', 'ünder'} and notes == []
    np.testing.assert_array_equal([found['a'], found['ünder']], VECTORS[[1, 3]])


def test_a_word_is_looked_up_as_it_is_and_then_in_lower_case(saved):
    found, _ = read_vectors(saved(WORDS, VECTORS), ['Hund', 'hund', 'The', 'Ünder'], D)
    assert {word: VECTORS.tolist().index(vector.tolist()) for word, vector in found.items()} == {
        'Hund': 2, 'The': 0, 'Ünder': 3}


def test_the_first_of_duplicates_counts_with_a_note(saved):
    path = saved([*WORDS, 'a', 'a', 'other', 'other'], np.concatenate([VECTORS, 9 * VECTORS]))
    found, (note,) = read_vectors(path, WORDS, D)
    np.testing.assert_array_equal(found['a'], VECTORS[1])
    assert note.startswith(f"{path}: has 1 of the words more than once, such as 'a', again at ")


def test_vectors_of_another_size_name_the_flags_and_the_right_number(saved):
    path = saved(WORDS, VECTORS)
    refusal(path, 'has vectors of 5 numbers, but --word_encoding_size is 6; give --word_encoding_size 5', size=6)


@pytest.mark.parametrize('number', [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_refused_where_it_is_needed(saved, number):
    vectors = VECTORS.copy()
    vectors[1, 2] = number
    path = saved(WORDS, vectors)
    assert read_vectors(path, ['the'], D)[0].keys() == {'the'}
    assert any(place in refusal(path, "of 'a' has a number that is not finite") for place in ('line', 'byte', 'row'))


def test_glove_has_words_with_spaces(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_bytes(rows_of_text(['the', 'at name@domain.com', '. . .', 'a\xa0b', 'a'], VECTORS[[0, 1, 2, 3, 1]]))
    np.testing.assert_array_equal(read_vectors(path, ['a'], D)[0]['a'], VECTORS[1])


@pytest.mark.parametrize(('name', 'size'), [
    ('glove.6B.100d.captions.txt', 100), ('w2v_c_100d.bin', 100), ('gensim_euclidean_10d.bin', 10)])
def test_real_files(name, size):
    if not (DATA / name).exists():
        pytest.skip(f'needs shared/data/vectors/{name} beside the checkout')
    found, notes = read_vectors(DATA / name, ['dogs', 'men', 'Water', 'the', 'no such word'], size)
    assert found.keys() >= {'the', 'Water'} and 'no such word' not in found and notes == []
    assert all(.5 < np.linalg.norm(vector) < 20 for vector in found.values())


# ---- the vectors of a vocabulary

def test_words_without_a_vector_are_drawn_with_the_mean_and_spread_of_the_others(tmp_path):
    known = np.random.default_rng(1).normal([5, 0, -3, 0, 1], [1, 2, .1, 1, 3], (2000, D))
    words = [f'w{k}' for k in range(6000)]
    (tmp_path / 'a.txt').write_bytes(rows_of_text([*words[:2000], '.'], np.concatenate([known, np.full((1, D), 99.)])))
    ixtoword = {0: '.', **dict(enumerate(words, start=1))}
    Ws, line, warnings = word_vectors_for(tmp_path / 'a.txt', ixtoword, np.zeros(6001), D, np.random.default_rng(0))
    assert Ws.shape == (6001, D) and warnings == []
    np.testing.assert_array_equal(Ws[1:2001], known.astype(np.float32))
    np.testing.assert_allclose(Ws[2001:].mean(axis=0), known.mean(axis=0), atol=.2)
    np.testing.assert_allclose(Ws[2001:].std(axis=0), known.std(axis=0), rtol=.1)
    assert abs(Ws[0]).max() < 20    # START and END are not the full stop
    again = word_vectors_for(tmp_path / 'a.txt', ixtoword, np.zeros(6001), D, np.random.default_rng(0))[0]
    np.testing.assert_array_equal(Ws, again)


def test_the_line_says_how_many_words_were_found_and_names_the_most_frequent_others(tmp_path):
    (tmp_path / 'a.txt').write_bytes(rows_of_text(WORDS, VECTORS))
    ixtoword = {0: '.', 1: 'rare', 2: 'the', 3: 'frequent', 4: 'a'}
    frequencies = np.log([50, 1, 6, 2, 1])
    _, line, _ = word_vectors_for(tmp_path / 'a.txt', ixtoword, frequencies, D, np.random.default_rng(0))
    assert line == (f'{tmp_path / "a.txt"}: has vectors of 2 of the 4 words of the vocabulary; those of the others, '
                    '30.0% of the text, are drawn at random: frequent, rare')
    _, line, _ = word_vectors_for(tmp_path / 'a.txt', {0: '.', 1: 'a'}, np.zeros(2), D, np.random.default_rng(0))
    assert line.endswith('has vectors of 1 of the 1 words of the vocabulary')


def test_a_file_with_none_of_the_words_is_refused(tmp_path):
    (tmp_path / 'a.txt').write_bytes(rows_of_text(WORDS, VECTORS))
    with pytest.raises(InputError, match='has none of the 1 words of the vocabulary'):
        word_vectors_for(tmp_path / 'a.txt', {0: '.', 1: 'x'}, np.zeros(2), D, np.random.default_rng(0))


# ---- files that are damaged, or made to do harm

TEXT, BIN = rows_of_text(WORDS, VECTORS), rows_of_bin(WORDS, VECTORS, b'\n')
DAMAGED = {    # content, what the message says
    'empty': (b'', 'is empty'),
    'prose': (b'It was a dark and stormy night.\n', "line 1: begins with b'It was a dark"),
    'one word': (b'the\n', 'line 1: begins with'),
    'binary rubbish': (bytes(range(256)) * 99, 'line 1: begins with'),
    'a fastText model': (b'\xba\x16\x4f\x2f\x0c\0\0\0', 'line 1: begins with'),
    'a zip': (b'PK\x03\x04' + bytes(99), 'is compressed; unpack it'),
    'a gzip': (b'\x1f\x8b\x08' + bytes(99), 'is compressed; unpack it'),
    'text, a number missing': (TEXT.replace(b'a ', b'a'), 'line 2: has 5 columns; expected a word and 5 numbers'),
    'text, cut in a row': (TEXT[:-len(TEXT) // 8], 'line 4: has ', 'columns; expected a word and 5 numbers'),
    'text, a number too many': (TEXT.replace(b'a ', b'a 1 '), 'line 2: has 7 columns'),
    'text, no number': (TEXT.replace(b'a ', b'a x'), "line 2: has something other than numbers after 'a'"),
    'text, huge': (re.sub(rb'\na -?[\d.]+', b'\na 1e99', TEXT), "line 2: the vector of 'a' has a number"),
    'text, a line without end': (TEXT + b'x' * (LONGEST_LINE + 9), 'line 5: has 1 columns'),
    'text, blanks without end': (TEXT + b' ' * (LONGEST_LINE + 9), 'line 5: has 0 columns'),
    'word2vec text, cut': (b'5 5\n' + TEXT, 'line 5: is where it ends, after 4 words, but line 1 says 5'),
    'word2vec text, too many': (b'3 5\n' + TEXT, 'after 4 words, but line 1 says 3'),
    'word2vec text, wrong size': (b'4 4\n' + TEXT, 'has vectors of 4 numbers'),
    'bin, cut': (b'4 5\n' + BIN[:-2], 'byte 77: no word with 5 numbers of 4 bytes follows, the one after 3 of the 4'),
    'bin, cut long before': (b'4 5\n' + BIN[:50], 'line 1: says 4 words of 5 numbers, which take 88 bytes or more'),
    'bin, too many': (b'3 5\n' + BIN, 'byte 77: more follows than the 3 words of 5 numbers'),
    'bin, 10 GB': (b'25000000 100\n' + BIN, 'says 25,000,000 words of 100 numbers, which take 10,050,000,000 bytes'),
    'bin, one vector of 10 GB': (b'1 2500000000\n' + BIN, 'which take 10,000,000,002 bytes or more'),
    'text, 10 GB': (b'25000000 100\n' + TEXT, 'which take 5,025,000,000 bytes or more'),
    'numbers without end': (b'9' * 99 + b' 5\n' + TEXT, ''),
    'no words': (b'0 5\n' + BIN, 'line 1: says 0 words of 5 numbers'),
    'no numbers': (b'4 0\n' + BIN, 'line 1: says 4 words of 0 numbers'),
    'bin, no space': (b'4 5\n' + b'\0' * 999, 'byte 4: no word'),
    'bin, no word': (b'4 5\n ' + BIN, 'byte 4: no word'),
}


@pytest.mark.parametrize('name', DAMAGED)
def test_damaged_files_are_refused_with_the_place(tmp_path, name):
    content, *words = DAMAGED[name]
    (tmp_path / 'a').write_bytes(content)
    refusal(tmp_path / 'a', *words)


@pytest.mark.parametrize(('change', 'words'), [
    (lambda path: path.with_name('words.txt').unlink(), 'expected a.txt, words.txt or vocab.txt in its folder'),
    (lambda path: path.with_name('words.txt').write_text('the\n'), 'words.txt: has 1 lines, but '),
    (lambda path: path.with_name('words.txt').write_text('x\n' * 9), 'words.txt: has 9 lines, but '),
    (lambda path: path.with_name('words.txt').write_text(''), 'words.txt: has 0 lines, but '),
    (lambda path: path.write_bytes(path.read_bytes()[:-1]), 'byte 128: an array of shape (4, 5) takes 80 bytes,'),
    (lambda path: path.write_bytes(path.read_bytes()[:50]), 'cannot be read as .npy'),
    (lambda path: path.write_bytes(path.read_bytes().replace(b'<f4', b'<q9')), 'cannot be read as .npy'),
    (lambda path: path.write_bytes(path.read_bytes().replace(b'(4, 5)', b'(9999999999, 5)')), '.npy'),
    (lambda path: np.save(path, np.ones((4, 5), int)), 'type int64; expected a matrix'),
    (lambda path: np.save(path, np.ones(4)), 'expected a matrix'),
    (lambda path: np.save(path, np.ones((0, 5))), 'expected a matrix'),
    (lambda path: np.save(path, np.array([['the', None]]), allow_pickle=True), '.npy'),
], ids=range(12))
def test_damaged_npy(tmp_path, change, words):
    path = tmp_path / 'a.npy'
    save_npy(path, WORDS, VECTORS)
    change(path)
    refusal(path, words)


@pytest.mark.parametrize('start', [b'', b'25000000 100\n', b'9000000 100\nthe ', None], ids=repr)
def test_a_file_of_10_gb_takes_little_memory(tmp_path, start):
    path = tmp_path / 'a.npy'
    save_npy(path, WORDS, VECTORS)
    with open(path, 'r+b') as file:
        if start is None:
            shape = b"{'descr': '<f4', 'fortran_order': False, 'shape': (25000000, 100)}"
            start = b'\x93NUMPY\1\0\x76\0' + shape.ljust(0x76)
        file.write(start)
        file.truncate(len(start) + 10 ** 10)    # of zeros, which take no room on the disk
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refusal(path, size=100)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


def test_files_that_cannot_be_opened(tmp_path):
    refusal(tmp_path / 'absent.txt', 'cannot be read')
    refusal(tmp_path, 'cannot be read')


# ---- training

def captioner_flags(root, *more):
    return train_flags(root, *more)


def sentence_flags(root, *more):
    return ranker_flags(root, 'sentences', *more)


def region_flags(root, *more):
    return ranker_flags(root, 'regions', *more)


MODELS = {'captioner': (driver.main, captioner_flags), 'sentences': (train.main, sentence_flags),
          'regions': (train.main, region_flags)}
SIZE = 6    # of these models' encoded words


@pytest.fixture
def root(tmp_path):
    write_dataset(tmp_path)
    vectors = np.random.default_rng(3).normal(size=(len(KNOWN), SIZE)).astype(np.float32)
    (tmp_path / 'v.txt').write_bytes(rows_of_text(KNOWN, vectors))
    return tmp_path


def prepared(root, flags):
    if flags[flags.index('--fappend') + 1] == 'test':
        return driver.prepare(driver.build_parser(), flags)
    return train.prepare(flags)


def vectors_in(root, state):
    """The indices of the words that are in v.txt, and their vectors there."""
    found, _ = read_vectors(root / 'v.txt', state.extra['wordtoix'], SIZE)
    return [state.extra['wordtoix'][word] for word in found], list(found.values())


@pytest.mark.parametrize('name', MODELS)
def test_a_new_model_starts_from_the_vectors(root, name, capsys):
    flags = MODELS[name][1]
    state, *_ = prepared(root, flags(root, '--word_vectors', str(root / 'v.txt')))
    places, vectors = vectors_in(root, state)
    np.testing.assert_array_equal(state.model['Ws'][places], vectors)
    assert len(places) >= 5 and state.model['Ws'].std() > .5 and np.isfinite(state.model['Ws']).all()
    assert f'{root / "v.txt"}: has vectors of {len(places)} of the ' in capsys.readouterr().out
    plain, *_ = prepared(root, flags(root))
    assert plain.model['Ws'].dtype == state.model['Ws'].dtype
    assert kill_driver.differences({**plain.model, 'Ws': 0}, {**state.model, 'Ws': 0}) == []


@pytest.mark.parametrize('name', MODELS)
def test_fixed_vectors_do_not_change_and_the_others_learn(root, name):
    main, flags = MODELS[name]
    flags = flags(root, '--word_vectors', str(root / 'v.txt'), '--regc', '.1', '--weight_average', '.9')
    first = prepared(root, flags)[0].model
    for fixed in ([], ['--fix_word_vectors']):
        assert main([*flags, *fixed]) == 0
        last = load_checkpoint(checkpoint_named(root, 'last'), 'captioning', 'ranking')
        same = {weights: np.array_equal(w, first[weights]) for weights, w in last['model'].items()}
        assert [weights for weights in same if same[weights]] == (['Ws'] if fixed else [])
        assert np.array_equal(last['raw_model']['Ws'], first['Ws']) == bool(fixed)
        assert all(('Ws' in arrays) != bool(fixed) for arrays in last['solver']['cache'].values())


@pytest.mark.parametrize('more', [[], ['--on_divergence', 'rollback', '--weight_average', '.9']], ids=' '.join)
def test_a_run_with_fixed_vectors_resumes_exactly_and_without_the_file(tmp_path, root, more):
    flags = train_flags(root, '--word_vectors', str(root / 'v.txt'), '--fix_word_vectors', '--grad_clip_by', 'norm',
                        '--max_epochs', '3', *more)
    assert driver.main(flags) == 0
    whole = last_of(root)
    shutil.rmtree(root / 'cv')
    state, solver, rng, provider, params = driver.prepare(driver.build_parser(), flags)
    assert driver.train(state, solver, rng, Provider(provider, state, rng, at(9, stop), nothing), params) == 143
    (root / 'v.txt').unlink()
    assert driver.main(['--resume', str(checkpoint_named(root, 'last'))]) == 0
    found = last_of(root)
    for entry in ('model', 'solver', 'rng_state', 'it'):
        assert kill_driver.differences(whole[entry], found[entry]) == []
    assert found['params']['fix_word_vectors'] is True
    assert driver.main([*flags, '--resume', 'auto']) == 0


@pytest.mark.parametrize('name', ['captioner', 'sentences'])
def test_flags_that_do_not_go_together(root, name, capsys):
    main, flags = MODELS[name]

    def refused(*more):
        capsys.readouterr()
        assert main([*map(str, more)]) == 2
        message, = capsys.readouterr().err.splitlines()
        return message

    assert 'name a file of vectors with --word_vectors' in refused(*flags(root, '--fix_word_vectors'))
    with_vectors = flags(root, '--word_vectors', root / 'v.txt')
    sizes = ['--word_encoding_size', 7, *(['--image_encoding_size', 7] if name == 'captioner' else [])]
    advice = 'give --image_encoding_size 6 --word_encoding_size 6' if name == 'captioner' else '--word_encoding_size 6'
    assert advice in refused(*with_vectors, *sizes)
    assert main([*map(str, with_vectors)]) == 0
    last = checkpoint_named(root, 'last')
    message = refused('--resume', last, '--fix_word_vectors')
    assert '--fix_word_vectors True: ' in message and 'was made with False' in message
    for start in ('--resume', '--init_model_from'):
        message = refused(start, last, '--word_vectors', 'other.txt', '-d', 'tiny', '--data_root', root)
        assert message.endswith(f'was made with {root / "v.txt"}; leave the flag out')
    assert main([*map(str, flags(root)[6:]), '--fix_word_vectors', '--init_model_from', str(last), '-d', 'tiny',
                 '--data_root', str(root), '--fappend', 'next']) == 0


def test_the_rnn_needs_the_size_of_words_alone(root, capsys):
    write_tiny_dataset(root, 'other')
    flags = train_flags(root, '--generator', 'rnn', '--word_vectors', str(root / 'v.txt'))
    assert driver.main([*flags, '--word_encoding_size', '7']) == 2
    assert 'word_encoding_size is 7; give --word_encoding_size 6\n' in capsys.readouterr().err
    assert driver.main(flags) == 0


def test_a_run_of_before_these_flags_takes_no_vectors(root, capsys):
    assert driver.main(train_flags(root)) == 0
    last = checkpoint_named(root, 'last')
    assert driver.main(['--resume', str(last), '--word_vectors', 'v.txt']) == 2
    assert f'--word_vectors v.txt: {last} was made with none; leave the flag out\n' in capsys.readouterr().err

"""What train-text and sample-text refuse, in one line and with exit code 2; samples as it learns; word vectors."""

import json
import subprocess
import sys

import numpy as np
import pytest

from imagernn.corpus.text import LONGEST_LINE, read_text
from imagernn.corpus.word_vectors import read_vectors
from imagernn.runs.checkpoint_file import load_checkpoint
from imagernn.textgen import sample, train

TEXT = 'the cat sat on the mat.\nthe dog ate the cat.\n' * 60
WORDS = ('the', 'cat', 'dog', 'sat')
FLAGS = ['--hidden_sizes', '6', '--embedding_size', '4', '-b', '4', '--window', '10', '--num_threads', '1', '-m', '1']
OF_WORDS = [*FLAGS, '--level', 'word', '--word_vectors', 'v.txt']


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'book.txt').write_text(TEXT, encoding='utf-8')
    vectors = np.random.default_rng(0).normal(size=(len(WORDS), 4))
    rows = [f'{word} {" ".join(map(str, vector))}\n' for word, vector in zip(WORDS, vectors, strict=True)]
    (tmp_path / 'v.txt').write_text(''.join(rows))
    return tmp_path


def refusal(capsys, main, *argv):
    """The one line that main says when it ends with exit code 2."""
    capsys.readouterr()
    assert main([*argv]) == 2
    message, = capsys.readouterr().err.splitlines()
    assert message.startswith('error: ') and len(message) < 400
    return message


def last_checkpoint(folder):
    path, = (folder / 'cv').glob('*_last.h5')
    return str(path), load_checkpoint(path, 'textgen')


# ---- texts

@pytest.mark.parametrize(('contents', 'flags', 'words'), [
    (b'', [], 'x.txt: is empty'), (b'\xef\xbb\xbf\r\n', [], 'x.txt: is empty'), (b'a', [], 'none are left for val'),
    (b'one line', [], 'none are left for test'), (b'one line\n', ['--lines'], 'none are left for val'),
    (b'\x7fELF\x02\x01\x00', [], 'zero byte'), (b'\x89PNG\r\n', [], 'not UTF-8 at byte 0'),
    ('the cat'.encode('utf-16'), [], 'not UTF-8'), (b'ab' * 20, [], 'too few for --batch_size 4 parts'),
    (b'ab' * 20, ['--split_shares', '70,15,2.5'], 'the test text has a single'),
    (b'ab' * 20, ['--split_shares', '90,2.5,0'], 'the val text has a single'),
    (b'a b\n' * 20 + b'cccc', ['--lines'], 'of the test text no character or word'),
    (b'ab ' * LONGEST_LINE, ['--lines'], 'a line of the train text has'),
    (b'ab ' * LONGEST_LINE * 2, ['--lines', '--level', 'word'], 'a line of the train text has 18,000'),
    (b'ab\n' * 99, ['--word_count_threshold', '1000'], 'lower --word_count_threshold')])
def test_a_text_that_cannot_be_learned_from(folder, contents, flags, words, capsys):
    (folder / 'x.txt').write_bytes(contents)
    assert words in refusal(capsys, train.main, 'x.txt', *FLAGS, *flags)


@pytest.mark.parametrize('shares', ['', '90', '90,5', '90,5,5,5', '0,50,50', '90,0,10', '-90,5,5', 'a,b,c', '90;5;5',
                                    'nan,5,5', '1e9,5,5', '90, 5, 5', '9' * 99 + ',5,5'])
def test_shares_that_are_none(shares, capsys):
    assert '--split_shares' in refusal(capsys, train.main, 'book.txt', *FLAGS, f'--split_shares={shares}')


@pytest.mark.parametrize(('argv', 'words'), [
    (['.'], 'is a folder'), (['absent.txt'], 'absent.txt: cannot be read'), ([], 'no text: name the file'),
    (['book.txt', '--val', '.'], 'is a folder'), (['book.txt', '--val', 'absent.txt'], 'absent.txt: cannot be read'),
    (['book.txt', '--test', 'book.txt'], '--test book.txt: needs --val'),
    (['book.txt', '--val', 'book.txt', '--test', 'cv'], 'cv: cannot be read'),
    (['book.txt', '--lines', '--val', 'long.txt'], 'a line of the val text has')])
def test_files_that_are_not_texts(folder, argv, words, capsys):
    (folder / 'long.txt').write_text('the cat ' * LONGEST_LINE)
    assert words in refusal(capsys, train.main, *argv, *FLAGS)


def test_the_ends_of_lines_are_those_of_any_system(folder):
    (folder / 'crlf.txt').write_bytes(TEXT.replace('\n', '\r\n').encode('utf-8-sig'))
    assert read_text('crlf.txt') == read_text('book.txt') == TEXT


def test_a_stream_may_be_one_long_line(folder):
    (folder / 'long.txt').write_text('the cat ' * LONGEST_LINE)
    assert train.main(['long.txt', *FLAGS, '-m', '.01']) == 0


def test_a_mistake_is_one_line_in_a_process_of_its_own():
    done = subprocess.run([sys.executable, '-m', 'imagernn', 'train-text', 'absent.txt'], capture_output=True,
                          text=True, check=False)
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr == 'error: absent.txt: cannot be read (No such file or directory); check its name\n'


def test_texts_that_cannot_be_scored(folder, capsys):
    assert train.main(['book.txt', *FLAGS, '--split_shares', '90,10,0']) == 0
    path, _ = last_checkpoint(folder)
    for contents, words in (b'', 'is empty'), (b'a', 'x.txt: the scored text has a single'), (b'\0', 'zero byte'):
        (folder / 'x.txt').write_bytes(contents)
        assert words in refusal(capsys, sample.main, path, '--score', 'x.txt')
    assert 'was trained without one' in refusal(capsys, sample.main, path, '--split', 'test')


@pytest.mark.parametrize(('flags', 'words'), [([], 'scored as <unk>'), (['--lines'], 'left out')])
def test_what_the_model_does_not_know_of_a_scored_text_is_counted(folder, flags, words, capsys):
    assert train.main(['book.txt', *FLAGS, *flags]) == 0
    path, _ = last_checkpoint(folder)
    capsys.readouterr()
    for text, warning in ('the Ä cat\nÖ', 'x.txt: 2 of 1'), ('the cat', ''):
        (folder / 'x.txt').write_text(text)
        assert sample.main([path, '--score', 'x.txt']) == 0
        err = capsys.readouterr().err
        assert warning in err and (words in err) == bool(warning)


def test_numbers_that_cannot_be_drawn_with(folder, capsys):
    assert train.main(['book.txt', *FLAGS]) == 0
    path, _ = last_checkpoint(folder)
    assert '--seed -1: must be at least 0' in refusal(capsys, sample.main, path, '--seed', '-1')
    assert '--temperature nan' in refusal(capsys, sample.main, path, '--temperature', 'nan')
    texts = []
    for temperature in '0', '1e-300':
        assert sample.main([path, '--length', '20', '--temperature', temperature]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


# ---- samples as it learns

@pytest.mark.parametrize('more', [[], ['--lines', '--layer', 'gru'], ['--level', 'word', '--dtype', 'float64'],
                                  ['--weight_average', '.9']], ids=' '.join)
def test_every_evaluation_shows_a_sample(folder, more, capsys):
    assert train.main(['book.txt', *FLAGS, *more, '-m', '2', '-l', '.02']) == 0
    status, = (folder / 'status').glob('*.json')
    samples = [report['sample'] for report in json.loads(status.read_text())['history'] if report['evaluated']]
    assert len(samples) == 2 and all(len(text) <= 400 for text in samples) and samples[0] != samples[1]
    out = capsys.readouterr().out
    assert all(f'\n  {line}' in out for text in samples for line in text.split('\n'))
    _, checkpoint = last_checkpoint(folder)
    rng = np.random.default_rng([0, checkpoint['it']])
    length = train.SAMPLE_LENGTH[checkpoint['params']['level']]
    assert sample.written(checkpoint, '', length, 1, train.SAMPLE_TEMPERATURE, rng) == [samples[1]]


def test_a_run_whose_texts_were_moved_resumes_with_their_new_names(folder, capsys):
    (folder / 'val.txt').write_text(TEXT[:200])
    assert train.main(['book.txt', *FLAGS, '--val', 'val.txt']) == 0
    path, _ = last_checkpoint(folder)
    for name in 'book', 'val':
        (folder / f'{name}.txt').rename(f'{name}.moved')
    assert train.main(['book.moved', '--val', 'val.moved', '--resume', path, '-m', '1.1']) == 0
    again, checkpoint = last_checkpoint(folder)
    assert again == path and checkpoint['params']['dataset'] == 'book'    # the run keeps its name
    assert 'the text has changed' in refusal(capsys, train.main, 'val.moved', '--resume', path)


# ---- word vectors

def test_a_new_model_starts_from_word_vectors_which_may_be_fixed(folder, capsys):
    vectors, _ = read_vectors('v.txt', WORDS, 4)
    for fixed in ([], ['--fix_word_vectors']):
        assert train.main(['book.txt', *OF_WORDS, *fixed]) == 0
        assert 'v.txt: has vectors of 4 of the 9 words of the vocabulary' in capsys.readouterr().out
        path, checkpoint = last_checkpoint(folder)
        same = [np.array_equal(checkpoint['model']['Ws'][checkpoint['wordtoix'][word]], vectors[word])
                for word in WORDS]
        assert same == [bool(fixed)] * 4
    (folder / 'v.txt').unlink()
    assert train.main(['--resume', path, '-m', '2']) == 0
    np.testing.assert_array_equal(last_checkpoint(folder)[1]['model']['Ws'], checkpoint['model']['Ws'])
    assert 'was made with v.txt' in refusal(capsys, train.main, '--resume', path, '--word_vectors', 'w.txt')
    assert '--fix_word_vectors' in refusal(capsys, train.main, 'book.txt', *FLAGS, '--level', 'word',
                                           '--fix_word_vectors')


def test_the_end_of_a_line_has_the_vector_that_word2vec_has_for_it(folder):
    with open('v.txt', 'a') as file:
        file.write('</s> 9 8 7 6\n')
    assert train.main(['book.txt', *OF_WORDS, '--fix_word_vectors']) == 0
    _, checkpoint = last_checkpoint(folder)
    assert checkpoint['model']['Ws'][checkpoint['wordtoix']['\n']].tolist() == [9, 8, 7, 6]


@pytest.mark.parametrize(('flags', 'contents', 'words'), [
    (['--embedding_size', '5'], None, 'vectors of 4 numbers, but --embedding_size is 5; give --embedding_size 4'),
    (['--level', 'char'], None, 'it needs --level word'), ([], b'', 'v.txt: is empty'),
    ([], b'the 1 2 3 4\ncat 1 2', 'line 2: has 3 columns'), ([], b'9 4\nthe 1 2 3 4\n', 'line 1: says 9 words'),
    ([], b'25000000 100\nthe 1 2', 'which take 5,025,000,000 bytes'), ([], b'Hund 1 2 3 4\n', 'has none of the 9'),
    (['--word_vectors', 'absent.txt'], None, 'absent.txt: cannot be read'), (['--word_vectors', '.'], None, '.: ')])
def test_word_vectors_that_cannot_be_used(folder, flags, contents, words, capsys):
    if contents is not None:
        (folder / 'v.txt').write_bytes(contents)
    assert words in refusal(capsys, train.main, 'book.txt', *OF_WORDS, *flags)


def test_of_duplicate_words_the_first_counts_with_a_warning(folder, capsys):
    with open('v.txt', 'a') as file:
        file.write('the 1 2 3 4\n')
    assert train.main(['book.txt', *OF_WORDS]) == 0
    assert "has 1 of the words more than once, such as 'the'" in capsys.readouterr().err

"""Sentence pairs: tokenizers and their way back, vocabularies, files that do not fit, and the batches of an epoch."""

import importlib.util
import unicodedata

import numpy as np
import pytest

from imagernn.errors import InputError
from imagernn.translation.lines import LONGEST_LINE, lines_of_file
from imagernn.translation.text import (
    LONGEST_SIDE,
    TOKENIZERS,
    Pairs,
    batch_chooser,
    chosen,
    detokenize,
    encode,
    read_pairs,
    tokenize,
    unknown_share,
    vocabulary,
)

ORDINARY = [
    '', 'A dog.', "L'eau, ici, c'est l'homme qu'elle aime !", 'He said: "I don\'t know (yet)..."', '« Où ? » dit-il.',
    "Aujourd'hui, 1 000,50 € ou 3.5 % de 1,000.50 dollars à 12:30.", 'a well-known, black-and-white T-shirt',
    "the dogs' rock'n'roll “quote” ‘inside’ — and – dashes…", 'snake_case a/b 50% #1 user@example.org', '???!!!',
    'Été\u0301',
]
PIECES = ['dog', "l'", "'s", '12', '3.5', ',', '.', '"', '(', ')', '-', ' ', ' ', ' ', 'é', '?', '«', '»', '_', "'",
          '…']


def test_words_can_be_put_together_again():
    rng = np.random.default_rng(0)
    made = [' '.join(''.join(rng.choice(PIECES, rng.integers(1, 25))).split()) for _ in range(2000)]
    lines = [*ORDINARY, *made]
    tokens = tokenize(lines, 'words')
    assert detokenize(tokens, 'words') == lines
    assert all(words == ' '.join(words).split(' ') or not words for words in tokens)    # no word has a space in it


def test_words_and_marks():
    assert tokenize(["L'eau, ici."], 'words') == [['L', '￭\'￭', 'eau', '￭,', 'ici', '￭.']]
    assert tokenize(['Say "No" 1,000.50'], 'words', lower_case=True) == [['say', '"￭', 'no', '￭"', '1,000.50']]
    assert detokenize([['￭,￭', 'a￭', '￭b', '￭']], 'words') == [',ab']    # what only a model writes
    assert tokenize(['a￭b'], 'words') == [['a', 'b']]


def test_combining_marks_belong_to_the_word_before_them():
    assert tokenize([unicodedata.normalize('NFD', 'Été, ça')], 'words') == [['Été', '￭,', 'ça']]    # in NFC
    assert tokenize(['हिन्दी भाषा।', 'x\u0301y'], 'words') == [['हिन्दी', 'भाषा', '￭।'], ['x\u0301y']]
    assert tokenize(['❤\ufe0fa'], 'words') == [['❤', '￭\ufe0f￭', 'a']]    # before this one is no word


def test_tokens_that_spaces_separate():
    assert tokenize([' L\'  eau&apos;\t. '], 'none') == [["L'", 'eau&apos;', '.']]
    assert detokenize([['a', '.']], 'none') == ['a .']


def test_sacremoses():
    if importlib.util.find_spec('sacremoses') is None:
        with pytest.raises(InputError, match=r'--tokenizer sacremoses needs.*translation'):
            tokenize(['a'], 'sacremoses', 'en')
        pytest.skip('needs the extra [translation]')
    assert tokenize(["L'eau, c'est bon."], 'sacremoses', 'fr') == [["L'", 'eau', ',', "c'", 'est', 'bon', '.']]
    assert tokenize(["It isn't."], 'sacremoses', 'en') == [['It', 'isn', "'t", '.']]
    for language, line in ('fr', "L'eau, c'est bon."), ('en', "It isn't good."), ('', 'A dog.'):
        assert detokenize(tokenize([line], 'sacremoses', language), 'sacremoses', language) == [line]


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def files(source, target):
        for name, contents in (('a.fr', source), ('a.en', target)):
            (tmp_path / name).write_bytes(contents if isinstance(contents, bytes) else contents.encode())
        return 'a.fr', 'a.en'

    return files


@pytest.mark.parametrize('how', TOKENIZERS)
def test_pairs_with_an_empty_side_are_left_out_and_counted(write, how):
    if how == 'sacremoses':
        pytest.importorskip('sacremoses')
    found = read_pairs(*write('un chien\n\n  \nun chat\r\nrien\n', 'a dog\nx\n\na cat\n \n'), how)
    assert found == ([['un', 'chien'], ['un', 'chat']], [['a', 'dog'], ['a', 'cat']], 3, 0)


def test_pairs_with_a_long_side_are_left_out_and_counted(write):
    longest, longer = 'a ' * LONGEST_SIDE, 'a ' * (LONGEST_SIDE + 1)
    files = write(f'b\n{longest}\n{longer}\n{longer}\n', f'{longer}\nc\nd\n\n')
    assert read_pairs(*files, 'none') == ([longest.split()], [['c']], 1, 2)


def test_lines_end_at_line_ends_alone(write):
    source, target, *_ = read_pairs(*write('\ufeffun\u2028deux\x0btrois\nquatre', 'a b\nc\n'), 'none')
    assert source == [['un', 'deux', 'trois'], ['quatre']] and target == [['a', 'b'], ['c']]


@pytest.mark.parametrize(('source', 'target', 'words'), [
    ('a\n' * 1200, 'a\n' * 3, 'a.fr has 1,200 lines, and a.en has 3'),
    ('a\n', b'a\n\xff\n', 'a.en: line 2 is not UTF-8'),
    ('', 'a', 'a.fr: is empty'), ('a', '\n \n', 'a.en: is empty'), ('a\n\n', '\nb\n', 'none of the 2 lines'),
    ('a\0b', 'a', 'a.fr: line 1 has a zero byte'),
    ('a\n', 'a\n' + 'b' * (LONGEST_LINE + 1), 'a.en: line 2 has more than 1 MB')])
def test_files_that_do_not_fit_are_named(write, source, target, words):
    with pytest.raises(InputError) as raised:
        read_pairs(*write(source, target), 'none')
    assert words in str(raised.value)


def test_the_longest_line_is_read(write):
    assert lines_of_file(write('a' * (LONGEST_LINE - 1) + '\nb', 'a')[0])[1:] == ['b']


def test_vocabularies_and_unknown_words():
    sentences = [['a', 'b', 'a'], ['c', '<unk>', '#START#', '<unk>', '#START#'], ['b']]
    ixtoword = vocabulary(sentences, 2, '#END#')
    assert ixtoword == {0: '#END#', 1: '<unk>', 2: 'a', 3: 'b'}
    tokens, lengths = encode([*sentences, [], ['x', '#END#']], ixtoword)
    assert tokens.tolist() == [2, 3, 2, 1, 1, 1, 1, 1, 3, 1, 1] and lengths.tolist() == [3, 5, 1, 0, 2]
    assert unknown_share((tokens, lengths)) == pytest.approx(7 / 11) and unknown_share(encode([], ixtoword)) == 0
    with pytest.raises(InputError, match=r'--word_count_threshold 9: .*2 times'):
        vocabulary([['a', 'a']], 9, '#END#')


def random_pairs(rng, N):
    """Pairs whose source and target words are all their number, so that they can be recognized."""
    lengths = rng.integers(1, 30, N)
    return Pairs(*((np.repeat(np.arange(N), sizes), sizes) for sizes in (lengths, lengths + rng.integers(0, 3, N))))


def test_an_epoch_has_every_pair_once_in_batches_of_similar_lengths():
    pairs = random_pairs(np.random.default_rng(0), 1005)
    numbers_at, num_batches = batch_chooser(pairs, 10, seed=3)
    assert num_batches == 101
    epochs = [[numbers_at(epoch * num_batches + it).tolist() for it in range(num_batches)] for epoch in (0, 1)]
    for batches in epochs:
        assert sorted(sum(batches, [])) == list(range(1005)) and max(map(len, batches)) == 10
        spread = [np.ptp(pairs.source[1][batch]) for batch in batches]
        assert np.mean(spread) < 2
    assert epochs[0] != epochs[1]
    # the batches depend on the seed and the place alone, so a run that resumes finds them again
    again, _ = batch_chooser(pairs, 10, seed=3)
    assert [again(it).tolist() for it in (150, 7)] == [epochs[1][49], epochs[0][7]]
    other, _ = batch_chooser(pairs, 10, seed=4)
    assert other(7).tolist() != epochs[0][7]


def test_pairs_are_chosen_by_their_numbers():
    pairs = random_pairs(np.random.default_rng(1), 50)
    part = chosen(pairs, np.array([7, 0, 49]))
    for (tokens, lengths), (_, all_lengths) in zip(part, pairs, strict=True):
        assert lengths.tolist() == all_lengths[[7, 0, 49]].tolist()
        assert tokens.tolist() == np.repeat([7, 0, 49], lengths).tolist()

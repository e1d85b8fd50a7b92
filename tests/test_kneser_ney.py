"""benchmarks/kneser_ney.py: probabilities that sum to 1, and those of a small text as computed by hand."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from imagernn.corpus.text import encode_texts

BENCHMARKS = str(Path(__file__).resolve().parents[1] / 'benchmarks')


@pytest.fixture
def kneser_ney(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module('kneser_ney')


def counted(kneser_ney, text, lines):
    """The levels of a text, its trigrams, and {word: index}."""
    found = encode_texts({'train': text}, 'word', lines, 1)
    V = len(found.ixtoword)
    grams = kneser_ney.trigrams(*found.splits['train'], V, lines)
    return kneser_ney.count(grams, V), grams, {word: ix for ix, word in found.ixtoword.items()}


def test_probabilities_of_lines_are_those_computed_by_hand(kneser_ney):
    levels, grams, ix = counted(kneser_ney, 'a b\na b\na c\n', lines=True)
    START, END = len(ix), 0
    assert grams.tolist() == [row for w in 'bbc' for row in (
        [START, START, ix['a']], [START, ix['a'], ix[w]], [ix['a'], ix[w], END])]

    # the discounts are .5, 1 and 1.5; b follows 1 different word, as a and c do, END 2
    b = (1 - .5) / 5 + (3 * .5 + 1) / 5 / 4
    b_after_a = (1 - .5) / 2 + (.5 + .5) / 2 * b
    b_after_start_a = (2 - 1) / 3 + (1 + .5) / 3 * b_after_a
    wanted = np.array([[START, ix['a'], ix['b']], [ix['c'], ix['a'], ix['b']], [ix['c'], ix['c'], ix['b']]])
    # no trigram begins with c a; none begins with c c, and the bigrams of c have END alone
    b_after_c = (.5 / 1) * b
    np.testing.assert_allclose(kneser_ney.probabilities(levels, wanted), [b_after_start_a, b_after_a, b_after_c])


@pytest.mark.parametrize('lines', [True, False])
def test_probabilities_sum_to_1_after_any_context(kneser_ney, lines):
    rng = np.random.default_rng(0)
    text = '\n'.join(' '.join(f'w{int(20 ** rng.random())}' for _ in range(rng.integers(1, 9))) for _ in range(300))
    levels, _, ix = counted(kneser_ney, text, lines)
    V = len(ix)
    assert min(map(min, (level.left_over for level in levels))) > 0
    for context in ((V, V), (V, 1), (1, 2), (2, 1), (0, 3)):
        words = np.column_stack([np.tile(context, (V, 1)), np.arange(V)])
        p = kneser_ney.probabilities(levels, words)
        assert p.min() > 0 and abs(p.sum() - 1) < 1e-12


def test_discounts_follow_from_the_counts_of_counts(kneser_ney):
    counts = np.repeat([1, 2, 3, 4, 9], [40, 20, 10, 5, 3])
    np.testing.assert_allclose(kneser_ney.discounts(counts), (1 - 2 * .5 * 20 / 40, 2 - 3 * .5 * 10 / 20,
                                                              3 - 4 * .5 * 5 / 10))
    assert kneser_ney.discounts(np.array([1, 1, 2])) == kneser_ney.FALLBACK


def test_the_stream_predicts_all_but_its_first_word(kneser_ney):
    _, grams, ix = counted(kneser_ney, 'a b a', lines=False)
    assert grams.tolist() == [[len(ix), ix['a'], ix['b']], [ix['a'], ix['b'], ix['a']]]


def test_perplexity_is_printed_for_each_split(kneser_ney, tmp_path, capsys):
    (tmp_path / 'text.txt').write_text('the dog runs\nthe cat runs\nthe dog sits\n' * 20, encoding='utf-8')
    assert kneser_ney.main([str(tmp_path / 'text.txt'), '--lines', '--split_shares', '80,10,10']) == 0
    printed = capsys.readouterr().out
    assert '| val |' in printed and '| test |' in printed
    assert kneser_ney.main([]) == 2

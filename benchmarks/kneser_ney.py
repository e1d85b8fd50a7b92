"""Compute the perplexity of a trigram model of words, a floor for the language models.

    python benchmarks/kneser_ney.py book.txt [the flags of train-text about the text]

Interpolated, with modified Kneser-Ney smoothing: Chen & Goodman, "An Empirical Study of Smoothing Techniques for
Language Modeling", 1998. The discounts are theirs, from how many n-grams occur once to four times. Vocabulary, unknown
words and ends of lines are those of train-text with the same flags; with --lines, END counts as a word.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))    # a checkout need not be installed

import numpy as np
from report import table

from imagernn.errors import InputError, script
from imagernn.metrics.perplexity import perplexity
from imagernn.textgen.flags import add_data_flags
from imagernn.textgen.load import text_of

# for counts of 1, 2, and 3 or more, where a text is too short to estimate them; as KenLM's --discount_fallback
FALLBACK = (.5, 1., 1.5)
CHECKED = 100    # contexts of test whose probabilities must sum to 1


class Level(NamedTuple):
    """The n-grams of one length. A key is the number that their word indices form in base `base`."""

    base: int
    keys: np.ndarray        # (M,) of the n-grams, sorted
    shares: np.ndarray      # (M,) discounted count / total count of the context
    contexts: np.ndarray    # (C,) keys of the contexts, sorted: n-grams without their last word
    left_over: np.ndarray   # (C,) what the discounts leave to the shorter n-grams


@script
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_flags(parser)
    parser.set_defaults(level='word')
    params = vars(parser.parse_args(argv))
    if not params['text']:
        raise InputError('no text: name the file to count, as in: python benchmarks/kneser_ney.py book.txt')
    text = text_of(params)
    V = len(text.ixtoword)
    levels = count(trigrams(*text.splits['train'], V, params['lines']), V)
    rows = []
    for split, part in text.splits.items():
        if split != 'train':
            grams = trigrams(*part, V, params['lines'])
            check_sums(levels, grams, V)
            logprobs = np.log(probabilities(levels, grams))
            rows.append((split, f'{len(grams):,}', f'{-logprobs.mean():.4f}',
                         f'{perplexity(logprobs.sum(), len(grams)):.2f}'))
    print(f'{params["text"]}: {V:,} different {params["level"]}s with the first, '
          f'{", ".join(f"{len(level.keys):,}" for level in levels)} n-grams of 3, 2 and 1\n')
    print(table(('split', f'{params["level"]}s', 'nats each', 'perplexity'), rows))
    return 0


def trigrams(tokens, lengths, V, lines):
    """Each word of a split with the two before it (P, 3). V stands for START, before the first word.

    tokens, lengths: as in imagernn.corpus.text.Text. Lines end with END, 0. The first word of a stream is left out, as
    train-text does not predict it either.
    """
    if not lines:
        padded = np.concatenate([[V], tokens])
        return np.stack([padded[:-2], padded[1:-1], padded[2:]], axis=1)
    starts = np.cumsum(lengths + 3) - lengths - 3                               # of START, START, words, END
    padded = np.zeros(len(tokens) + 3 * len(lengths), np.int64)
    line = np.repeat(np.arange(len(lengths)), lengths)
    padded[np.arange(len(tokens)) + 3 * line + 2] = tokens
    padded[starts] = padded[starts + 1] = V
    last = np.ones(len(padded), bool)
    last[starts] = last[starts + 1] = False
    last = np.flatnonzero(last)
    return np.stack([padded[last - 2], padded[last - 1], padded[last]], axis=1)


def count(grams, V):
    """The Levels of n-grams of three words, two and one, from trigrams (P, 3) of words 0 to V, V being START.

    A shorter n-gram counts as often as different words precede it. One that begins with START, which nothing but START
    precedes, counts as often as it occurs.
    """
    base = V + 1
    keys, counts = np.unique((grams[:, 0] * base + grams[:, 1]) * base + grams[:, 2], return_counts=True)
    levels = [_level(keys, counts, base)]
    for size in (2, 1):
        shorter = keys % base ** size
        found, where, types = np.unique(shorter, return_inverse=True, return_counts=True)
        occurrences = np.bincount(where, counts).astype(np.int64)
        counts = np.where(found // base ** (size - 1) == V, occurrences, types)
        keys = found
        levels.append(_level(keys, counts, base))
    return levels


def _level(keys, counts, base):
    contexts, starts, of = np.unique(keys // base, return_index=True, return_inverse=True)
    totals = np.add.reduceat(counts, starts)
    taken = np.array([0, *discounts(counts)])[np.minimum(counts, 3)]
    return Level(base, keys, (counts - taken) / totals[of], contexts, np.add.reduceat(taken, starts) / totals)


def discounts(counts):
    """What is taken from counts of 1, 2, and 3 or more: in the paper D1, D2 and D3+."""
    n1, n2, n3, n4 = (np.count_nonzero(counts == k) for k in range(1, 5))
    if 0 in (n1, n2, n3, n4):
        return FALLBACK
    Y = n1 / (n1 + 2 * n2)
    found = 1 - 2 * Y * n2 / n1, 2 - 3 * Y * n3 / n2, 3 - 4 * Y * n4 / n3
    return found if min(found) > 0 else FALLBACK


def probabilities(levels, grams):
    """p of the last word of each trigram (P, 3), given the two before; the shortest n-grams fall back on 1/V."""
    p = np.full(len(grams), 1 / (levels[0].base - 1))
    for size, level in zip((1, 2, 3), reversed(levels), strict=True):
        keys = np.zeros(len(grams), np.int64)
        for column in range(3 - size, 3):
            keys = keys * level.base + grams[:, column]
        known, where = _find(level.contexts, keys // level.base)
        seen, place = _find(level.keys, keys)
        p = np.where(known, level.left_over[where] * p + np.where(seen, level.shares[place], 0), p)
    return p


def _find(keys, wanted):
    """Which of the wanted keys are among the sorted keys, and where."""
    where = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return keys[where] == wanted, where


def check_sums(levels, grams, V):
    """RuntimeError unless the probabilities of all V words sum to 1 after some contexts of these trigrams."""
    for context in np.random.default_rng(0).permutation(grams)[:CHECKED, :2]:
        words = np.column_stack([np.tile(context, (V, 1)), np.arange(V)])
        total = probabilities(levels, words).sum()
        if abs(total - 1) > 1e-9:
            raise RuntimeError(f'after {context.tolist()}, the probabilities sum to {total}')


if __name__ == '__main__':
    sys.exit(main())

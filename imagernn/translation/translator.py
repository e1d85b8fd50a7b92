"""A trained translation model, or an ensemble of several: lines to translations, by greedy or beam search."""

from typing import NamedTuple

import numpy as np

from imagernn.errors import InputError
from imagernn.nn.search import greedy_search, make_mean_tick, pooled_beam_search
from imagernn.nn.workers import Workers
from imagernn.translation.load import load_translator
from imagernn.translation.model import make_tick, read_sources
from imagernn.translation.text import UNKNOWN_INDEX, detokenize, encode, language_of, tokenize

STEP = 8                    # sentences are searched together whose lengths are equal after rounding up to a multiple
EXTRA = 10                  # a translation has at most 2 words for each of the source's, rounded up, and so many more
MOST_WORDS = 1000           # of a source that is translated
MOST_WRITTEN = 500          # of a translation
WORDS_AT_ONCE = 20_000      # of the sources that a thread searches together, counted once for each beam


class Translation(NamedTuple):
    """A translation that the search found."""

    text: str
    score: float            # the sum of ln p over its words and END, divided by their number ** length_penalty
    words: list             # indices, without END
    word_logprobs: list     # ln p of each, and of END if it ends within the limit


class Translator:
    """checkpoints: what load_translator returns; the probabilities of several models are averaged at each word.

    beam_size: how many sentences the search keeps; 1 is greedy. length_penalty: see nn.search.pooled_beam_search.
    """

    def __init__(self, checkpoints, beam_size=5, length_penalty=1., num_threads=1):
        self.checkpoint = checkpoints[0]
        self.beam_size, self.length_penalty = beam_size, length_penalty
        self._members = [(checkpoint['model'], checkpoint['params']) for checkpoint in checkpoints]
        ticks = [make_tick(model, params) for model, params in self._members]
        nothing = np.zeros(0, np.int64), np.zeros(1, np.int64)    # an empty sentence
        parts = [len(read_sources(*nothing, model, params)) for model, params in self._members]
        self._tick = ticks[0] if len(ticks) == 1 else make_mean_tick(ticks, parts)
        self._workers = Workers(num_threads)

    @classmethod
    def load(cls, paths, **options):
        """The ensemble of the checkpoints at these paths, in float32. InputError unless they have the same words."""
        checkpoints = [load_translator(path, 'float32') for path in paths]
        first = checkpoints[0]
        for path, other in zip(paths, checkpoints, strict=True):
            for name in 'ixtoword', 'source_ixtoword':
                if other[name] != first[name]:
                    raise InputError(f'{path}: has another vocabulary than {paths[0]}; an ensemble needs models of the '
                                     'same training files and --word_count_threshold')
            for name in 'tokenizer', 'lower_case':
                if other['params'][name] != first['params'][name]:
                    raise InputError(f'{path}: has --{name} {other["params"][name]}, and {paths[0]} '
                                     f'{first["params"][name]}; an ensemble needs the same')
        translator = cls(checkpoints, **options)
        translator.words_of([''])    # whether the tokenizer's package is installed
        return translator

    def words_of(self, lines):
        """The words of lines as the models read them, a list of lists of str."""
        params = self.checkpoint['params']
        return tokenize(lines, params['tokenizer'], language_of(params['source']), params['lower_case'])

    def indices_of(self, words):
        """The indices of words, a list of lists of str: a list of arrays. Unknown ones are UNKNOWN_INDEX."""
        tokens, lengths = encode(words, self.checkpoint['source_ixtoword'])
        return np.split(tokens, np.cumsum(lengths)[:-1])

    def translate(self, words, nbest=1):
        """The nbest best Translations of sentences, best first, a list of lists; fewer where no more were found.

        words: a list of lists of at most MOST_WORDS str, as of words_of. nbest: at most beam_size. The translation of
        an empty sentence is empty. The threads share the sentences. Apart from rounding, neither their number nor the
        other sentences change a translation.
        """
        sources = self.indices_of(words)
        found = [[Translation('', 0., [], [])] for _ in sources]
        groups = self._groups(np.array([len(source) for source in sources], np.int64))
        for group, results in zip(groups, self._workers.run(lambda group: self._search(
                [sources[n] for n in group], nbest), groups), strict=True):
            for n, sentences in zip(group, results, strict=True):
                found[n] = self._as_translations(sentences)
        return found

    def _groups(self, lengths):
        """Which sentences to search together, arrays of numbers, the longest first; empty sentences are in none."""
        rounded, groups = -(-lengths // STEP) * STEP, []
        for length in np.unique(rounded[rounded > 0])[::-1]:
            numbers = np.flatnonzero(rounded == length)
            count = max(-(-len(numbers) * int(length) * self.beam_size // WORDS_AT_ONCE),
                        min(len(self._workers.scratches), len(numbers)))
            groups += np.array_split(numbers, min(count, len(numbers)))
        return groups

    def _search(self, sources, nbest):
        """The Sentences of sources, arrays of indices whose lengths are equal when rounded."""
        words, lengths = np.concatenate(sources), np.array([len(source) for source in sources])
        state = tuple(part for model, params in self._members for part in read_sources(words, lengths, model, params))
        longest = min(-(-int(lengths.max()) // STEP) * STEP * 2 + EXTRA, MOST_WRITTEN)

        def tick(words, state):
            self._workers.go_on()
            return self._tick(words, state)

        if self.beam_size == 1:
            return greedy_search(tick, state, longest)
        return pooled_beam_search(tick, state, self.beam_size, longest, nbest, self.length_penalty)

    def _as_translations(self, sentences):
        """Sentences of the search as Translations. One with the unknown word, of the probability 0, is left out."""
        params, ixtoword = self.checkpoint['params'], self.checkpoint['ixtoword']
        found = []
        for logprob, words, word_logprobs in sentences:
            if UNKNOWN_INDEX in words:
                continue
            score, words = logprob / len(words) ** self.length_penalty, [word for word in words if word]
            text, = detokenize([[ixtoword[word] for word in words]], params['tokenizer'], language_of(params['target']))
            found.append(Translation(text, score, words, word_logprobs))
        return found

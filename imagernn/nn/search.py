"""Finding a sentence: greedy, beam search, sampling. Knows only tick().

tick(words (n,), state) -> logprobs (n, V), state; state is a tuple of arrays with n rows. Many images are searched at
once; an image that is finished leaves. Every search returns, for each image, a list of (logprob, [ix, …]), best first:
the sum of ln p over the words and, where the sentence came to its end within max_length, over END (0), its last index.
"""

import numpy as np

MAX_LENGTH = 20    # words and END, as in NeuralTalk


def greedy_search(tick, state, max_length=MAX_LENGTH):
    """The likeliest word at every step; the smaller index where two are equally likely.

    tick may give, in place of all logprobs, the pair (the likeliest words (n,), their logprobs (n,)).
    """

    def choose(found):
        return found if isinstance(found, tuple) else _with_logprobs(found.argmax(axis=1), found)

    return _single_path_search(tick, state, max_length, choose)


def sample_search(tick, state, rng, temperature=1., max_length=MAX_LENGTH):
    """Words drawn from p^(1/temperature), renormalised; temperature > 0. The logprob is the model's own, at 1.

    (The Gumbel-max trick: the largest of ln p / temperature plus Gumbel noise falls on a word with its probability.)
    """

    def draw(logprobs):
        return _with_logprobs((logprobs / temperature + rng.gumbel(size=logprobs.shape)).argmax(axis=1), logprobs)

    return _single_path_search(tick, state, max_length, draw)


def _with_logprobs(words, logprobs):
    return words, logprobs[np.arange(len(words)), words]


def _single_path_search(tick, state, max_length, choose):
    n = len(state[0])
    live, words = np.arange(n), np.zeros(n, np.int64)
    scores, sentences = np.zeros(n), [[] for _ in range(n)]
    for _ in range(max_length):
        found, state = tick(words, state)
        words, logprobs = choose(found)
        scores[live] += logprobs
        for image, word in zip(live.tolist(), words.tolist(), strict=True):
            sentences[image].append(word)
        going = np.flatnonzero(words)
        if not len(going):
            break
        if len(going) < len(live):
            live, words, state = live[going], words[going], tuple(rows[going] for rows in state)
    return [[(float(score), sentence)] for score, sentence in zip(scores, sentences, strict=True)]


def beam_search(tick, state, beam_size, max_length=MAX_LENGTH, nbest=None):
    """Beam search, beam_size sentences an image, as in NeuralTalk.

    At each step every live beam offers its beam_size likeliest continuations; finished beams keep their place and
    compete with the score they have; the best beam_size of them all go on. It stops when all are finished, or at
    max_length. As in NeuralTalk: of a beam's equally likely words the smaller index is offered first, but of equal
    scores the sentence that is larger in lexicographic order wins (it sorted tuples of score and word list).

    Where no more than the nbest best are asked for, a live beam is given up once nbest finished ones are better: its
    score can only fall, and whatever would take its place is worse still. They are the same sentences, found sooner;
    fewer may come beside them.
    """
    n, nbest = len(state[0]), nbest or beam_size
    # the beams of all images in one list: sorted by image, then best first; place orders the word lists
    image, score, place = np.arange(n), np.zeros(n), np.zeros(n, np.int64)
    word, finished = np.zeros(n, np.int64), np.zeros(n, bool)
    history = []                                      # of each step: its beams' parents, words and who had ended before
    for _ in range(max_length):
        live, ended = np.flatnonzero(~finished), np.flatnonzero(finished)
        if not len(live):
            break
        logprobs, state = tick(word[live], state)
        row, next_word = _candidates(logprobs, image[live], score[live], beam_size)
        next_score = score[live[row]] + logprobs[row, next_word]
        offered = _first_of_each(row, (-next_score, next_word), beam_size)

        parent = np.concatenate([ended, live[row[offered]]])
        next_word = np.concatenate([np.zeros_like(ended), next_word[offered]])
        next_score = np.concatenate([score[ended], next_score[offered]])
        best = _first_of_each(image[parent], (-next_score, -place[parent], -next_word), beam_size)
        best = best[~_hopeless(image[parent[best]], next_score[best], next_word[best] == 0, nbest)]
        parent, word, score = parent[best], next_word[best], next_score[best]
        history.append((parent, word, finished[parent]))

        lexicographic = np.lexsort((word, place[parent]))
        image, finished, place = image[parent], word == 0, np.empty_like(parent)
        place[lexicographic] = np.arange(len(parent))
        row_of = np.zeros(len(live) + len(ended), np.int64)
        row_of[live] = np.arange(len(live))
        state = tuple(rows[row_of[parent[~finished]]] for rows in state)
    return _read_back(history, image, score, n)


def _candidates(logprobs, image, score, beam_size):
    """Row and word of all continuations that may be among an image's best beam_size, and few others.

    logprobs (R, V), image (R,) sorted, score (R,). The words are cut into groups; the beam_size-th largest of the
    groups' maxima over an image's rows bounds its beam_size-th best continuation from below. Nothing is sorted in full.
    """
    R, V = logprobs.shape
    groups = min(V, max(4 * beam_size, 64))
    maxima = np.maximum.reduceat(logprobs, np.arange(groups) * V // groups, axis=1) + score[:, None]   # (R, groups)
    starts = np.flatnonzero(np.diff(image, prepend=-1))
    threshold = np.empty(R)
    for start, stop in zip(starts, np.append(starts[1:], R), strict=True):
        largest = maxima[start:stop].ravel()
        k = max(len(largest) - beam_size, 0)
        threshold[start:stop] = np.partition(largest, k)[k]
    # a hair below, so that rounding keeps the bound's own words
    bound = threshold - score
    bound -= 1e-5 * (1 + np.abs(bound) + np.abs(score))
    flat = np.flatnonzero(logprobs >= bound.astype(logprobs.dtype)[:, None])
    return flat // V, flat % V


def _first_of_each(group, keys, n):
    """Indices of the first n of each group, sorted by group, then by keys, the most significant first."""
    order = np.lexsort((*reversed(keys), group))
    return order[_rank_in_group(group[order]) < n]


def _rank_in_group(group):
    """Of sorted groups, each element's place in its own: [3, 3, 5] -> [0, 1, 0]."""
    first = np.flatnonzero(np.diff(group, prepend=-1))
    return np.arange(len(group)) - np.repeat(first, np.diff(np.append(first, len(group))))


def _hopeless(image, score, finished, nbest):
    """Which beams, sorted by image and then best first, cannot come to be among their image's nbest any more.

    They are the live ones with a lower score than the nbest-th finished one.
    """
    ended = np.flatnonzero(finished)
    last_best = ended[_rank_in_group(image[ended]) == nbest - 1]
    bound = np.full(image.max(initial=0) + 1, -np.inf)
    bound[image[last_best]] = score[last_best]
    return ~finished & (score < bound[image])


def _read_back(history, image, score, n):
    """Follow every last beam to its beginning, for all beams at once."""
    beams, words = np.arange(len(image)), []
    for parent, word, had_ended in reversed(history):
        words.append(np.where(had_ended[beams], -1, word[beams]))               # -1: nothing was added
        beams = parent[beams]
    words = np.array(words[::-1], np.int64).reshape(len(words), len(image)).T     # (beams, steps)
    results = [[] for _ in range(n)]
    for which, logprob, row in zip(image.tolist(), score.tolist(), words.tolist(), strict=True):
        results[which].append((logprob, [ix for ix in row if ix >= 0]))
    return results

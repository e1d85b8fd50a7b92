"""Finding a sentence: greedy search, beam search, sampling. Knows only tick().

tick(words (n,), state) -> logprobs (n, V), state; state is a tuple with n rows in each part, one for each item (an
image) or beam: arrays, or what is indexed by rows as they are, such as attention.Sight. Many items are searched at
once; an item that is finished leaves. Every search returns, for each item, a list of Sentence, best first.
"""

from typing import NamedTuple

import numpy as np

from imagernn.nn.layers import row_blocks

MAX_LENGTH = 20    # words and END, as in NeuralTalk


class Sentence(NamedTuple):
    """A sentence that a search found."""

    logprob: float          # the sum of ln p over its words, END among them if it ends within max_length
    words: list             # their indices; END is 0, the last one if it ends within max_length
    word_logprobs: list     # ln p of each


def greedy_search(tick, state, max_length=MAX_LENGTH):
    """The likeliest word at every step; the smaller index where two are equally likely.

    tick may give, in place of all logprobs, the pair (the likeliest words (n,), their logprobs (n,)).
    """

    def choose(found):
        return found if isinstance(found, tuple) else _with_logprobs(found.argmax(axis=1), found)

    return _single_path_search(tick, state, max_length, choose)


def sample_search(tick, state, rng, temperature=1., max_length=MAX_LENGTH):
    """Words drawn from p^(1/temperature), renormalised; temperature > 0. The logprobs are the model's own, at 1."""

    def draw(logprobs):
        words = np.empty(len(logprobs), np.int64)
        for rows in row_blocks(logprobs):
            words[rows] = draw_words(logprobs[rows] / temperature, rng)
        return _with_logprobs(words, logprobs)

    return _single_path_search(tick, state, max_length, draw)


def draw_words(y, rng):
    """A word of each row of y (R, V), drawn from softmax(y); uses up y.

    With p = exp(y), the largest p / e falls on a word with its probability where the e are exponentially distributed,
    e = -ln(1 - u) for uniform u. (This is the Gumbel-max trick without logarithms.) Only few e are computed: since
    e >= u, a word whose p / u is below some p / e cannot be the largest.
    """
    y -= y.max(axis=1, keepdims=True)
    p, u, row = np.exp(y, out=y), rng.random(y.shape), np.arange(len(y))
    with np.errstate(divide='ignore', invalid='ignore'):    # u may be 0, which is the largest p / e
        bounds = p / u                                                          # (R, V)
        best = bounds.argmax(axis=1)
        reached = p[row, best] / -np.log1p(-u[row, best])                       # (R,)
        reached *= 1 - 1e-9                                                     # a hair below, because of rounding
        row, word = np.divmod(np.flatnonzero(bounds >= reached[:, None]), y.shape[1])
        return word[_first_of_each(row, (p[row, word] / np.log1p(-u[row, word]),), 1)]


def _with_logprobs(words, logprobs):
    return words, logprobs[np.arange(len(words)), words]


def _single_path_search(tick, state, max_length, choose):
    n = len(state[0])
    live = np.arange(n)
    words = np.zeros(n, np.int64)
    scores, lengths = np.zeros(n), np.zeros(n, np.int64)
    all_words = np.zeros((n, max_length), np.int64)
    all_logprobs = np.zeros((n, max_length))
    for step in range(max_length):
        found, state = tick(words, state)
        words, logprobs = choose(found)
        scores[live] += logprobs
        lengths[live] += 1
        all_words[live, step] = words
        all_logprobs[live, step] = logprobs
        going = np.flatnonzero(words)
        if not len(going):
            break
        if len(going) < len(live):
            live, words, state = live[going], words[going], tuple(rows[going] for rows in state)
    return [[Sentence(score, words[:length], logprobs[:length])] for score, length, words, logprobs in
            zip(scores.tolist(), lengths.tolist(), all_words.tolist(), all_logprobs.tolist(), strict=True)]


def beam_search(tick, state, beam_size, max_length=MAX_LENGTH, nbest=None):
    """Beam search, beam_size sentences for each item, as in NeuralTalk.

    At each step every live beam offers its beam_size likeliest continuations; finished beams keep their place and
    compete with the score they have; the best beam_size of them all continue. The search stops when all beams are
    finished, or at max_length. As in NeuralTalk: of a beam's equally likely words the smaller index is offered first,
    but of equal scores the sentence that is larger in lexicographic order wins (it sorted tuples of score and words).

    nbest: how many sentences are wanted (default: beam_size). A live beam is dropped once nbest finished ones are
    better, because its score can only fall, so the same sentences are found sooner.
    """
    n, nbest = len(state[0]), nbest or beam_size
    # the beams of all items in one list, sorted by item, then best first; place orders their word lists
    item, score, place = np.arange(n), np.zeros(n), np.zeros(n, np.int64)
    word, finished = np.zeros(n, np.int64), np.zeros(n, bool)
    history = []    # of each step: its beams' parents, words and their logprobs, and which had finished before
    for _ in range(max_length):
        live, ended = np.flatnonzero(~finished), np.flatnonzero(finished)
        if not len(live):
            break
        # the continuations that may be among the best
        logprobs, state = tick(word[live], state)
        row, next_word = _candidates(logprobs, item[live], score[live], beam_size)
        next_logprob = logprobs[row, next_word]
        next_score = score[live[row]] + next_logprob
        offered = _first_of_each(row, (-next_score, next_word), beam_size)

        # they compete with the finished beams
        parent = np.concatenate([ended, live[row[offered]]])
        next_word = np.concatenate([np.zeros_like(ended), next_word[offered]])
        next_logprob = np.concatenate([np.zeros(len(ended)), next_logprob[offered]])
        next_score = np.concatenate([score[ended], next_score[offered]])
        best = _first_of_each(item[parent], (-next_score, -place[parent], -next_word), beam_size)
        best = best[~_hopeless(item[parent[best]], next_score[best], next_word[best] == 0, nbest)]
        parent, word, score = parent[best], next_word[best], next_score[best]
        history.append((parent, word, next_logprob[best], finished[parent]))

        # the state follows the beams that are alive
        lexicographic = np.lexsort((word, place[parent]))
        item, finished, place = item[parent], word == 0, np.empty_like(parent)
        place[lexicographic] = np.arange(len(parent))
        row_of = np.zeros(len(live) + len(ended), np.int64)
        row_of[live] = np.arange(len(live))
        state = tuple(rows[row_of[parent[~finished]]] for rows in state)
    return _read_back(history, item, score, n, np.flatnonzero(_rank_in_group(item) < nbest))


def pooled_beam_search(tick, state, beam_size, max_length=MAX_LENGTH, nbest=None, length_penalty=0.):
    """Beam search that keeps finished sentences in a pool, beside beam_size live beams.

    Sentences are ranked by logprob / length ** length_penalty (END counts in the length), which keeps long ones from
    losing for their length alone. Of the continuations at each step, an END among the beam_size best goes to the pool.
    An item is finished when no live beam can still come among its nbest best (default: beam_size).
    (The rules of fairseq, Ott et al. 2019; NeuralTalk's own search is beam_search.)
    """
    nbest, n = nbest or beam_size, len(state[0])
    item, score, last = np.arange(n), np.zeros(n), np.zeros(n, np.int64)    # of the live beams
    words, logprobs = np.zeros((n, max_length), np.int64), np.zeros((n, max_length))
    pools = [[] for _ in range(n)]    # of each item: (ranking score, Sentence)
    for step in range(max_length):
        # the continuations of each item, best first; twice as many as beams, because some of them end
        found, state = tick(last, state)
        row, word = _candidates(found, item, score, 2 * beam_size)
        next_score = score[row] + found[row, word]
        best = _first_of_each(item[row], (-next_score, word), 2 * beam_size)
        row, word, score = row[best], word[best], next_score[best]
        item, words, logprobs = item[row], words[row], logprobs[row]
        words[:, step], logprobs[:, step] = word, found[row, word]

        # those that end go to the pool, the best of the others live on
        ends = (word == 0) | (step == max_length - 1)
        for beam in np.flatnonzero(ends & (_rank_in_group(item) < beam_size)):
            rank, length = score[beam] / (step + 1) ** length_penalty, slice(step + 1)
            pools[item[beam]].append((rank, Sentence(float(score[beam]), words[beam, length].tolist(),
                                                     logprobs[beam, length].tolist())))
        live = np.flatnonzero(~ends)
        live = live[_first_of_each(item[live], (-score[live],), beam_size)]

        # an item is finished when its pool cannot improve: a live beam's logprob can only fall
        enough = np.array([sorted(rank for rank, _ in pool)[-nbest] if len(pool) >= nbest else -np.inf
                           for pool in pools])
        live = live[score[live] / max_length ** length_penalty > enough[item[live]]]
        if not len(live):
            break
        item, score, last, words, logprobs = item[live], score[live], word[live], words[live], logprobs[live]
        state = tuple(rows[row[live]] for rows in state)
    return [[sentence for _, sentence in sorted(pool, key=lambda found: -found[0])[:nbest]] for pool in pools]


def make_mean_tick(ticks, parts):
    """The tick of several models with the same vocabulary: the mean of their probabilities at each word.

    ticks: of each model; parts: how many parts its state has. The state is the models' states one after another. Where
    the new tick is given a scratch, each model's tick gets a part of it.
    """
    starts = np.cumsum([0, *parts])

    def tick(words, state, scratch=None):
        states, found = (), []
        for number, one in enumerate(ticks):
            own = state[starts[number]:starts[number + 1]]
            logprobs, own = one(words, own, *([scratch.part(f'member {number}')] if scratch else []))
            found.append(logprobs)                                              # (n, V)
            states += own
        # relative to the largest, as probabilities may be too small for their dtype; all may be 0
        largest = np.maximum(np.maximum.reduce(found), np.finfo(found[0].dtype).min)
        with np.errstate(divide='ignore'):
            return largest + np.log(sum(np.exp(logprobs - largest) for logprobs in found) / len(found)), states

    return tick


def _candidates(logprobs, item, score, beam_size):
    """Row and word of all continuations that may be among an item's best beam_size, and few others.

    logprobs (R, V), item (R,) sorted, score (R,). The words are cut into groups; the beam_size-th largest of the
    groups' maxima over an item's rows bounds its beam_size-th best continuation from below. Nothing is sorted in full.
    """
    R, V = logprobs.shape
    groups = min(V, max(4 * beam_size, 64))
    maxima = np.maximum.reduceat(logprobs, np.arange(groups) * V // groups, axis=1) + score[:, None]   # (R, groups)
    starts = np.flatnonzero(np.diff(item, prepend=-1))
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


def _hopeless(item, score, finished, nbest):
    """Which beams, sorted by item and then best first, can no longer be among their item's nbest.

    They are the live ones with a lower score than the nbest-th finished one.
    """
    ended = np.flatnonzero(finished)
    last_best = ended[_rank_in_group(item[ended]) == nbest - 1]
    bound = np.full(item.max(initial=0) + 1, -np.inf)
    bound[item[last_best]] = score[last_best]
    return ~finished & (score < bound[item])


def _read_back(history, item, score, n, beams):
    """Follow some of the last beams back to their beginning, all at once: the sentences of each of n items."""
    item, score = item[beams], score[beams]
    words, logprobs = [], []
    for parent, word, logprob, had_ended in reversed(history):
        words.append(np.where(had_ended[beams], -1, word[beams]))               # -1: nothing was added
        logprobs.append(logprob[beams])
        beams = parent[beams]
    words = np.array(words[::-1], np.int64).reshape(len(words), len(item)).T    # (beams, steps)
    logprobs = np.array(logprobs[::-1]).reshape(len(logprobs), len(item)).T
    lengths = (words >= 0).sum(axis=1)                                          # a finished beam adds nothing any more
    results = [[] for _ in range(n)]
    for which, total, length, row, of_row in zip(item.tolist(), score.tolist(), lengths.tolist(), words.tolist(),
                                                 logprobs.tolist(), strict=True):
        results[which].append(Sentence(total, row[:length], of_row[:length]))
    return results

"""What a language model makes of a text, step by step: what it draws, how likely each token was, what its units do.

Knows tokens, the characters or words that they stand for, and arrays; nothing of pages.
"""

from itertools import islice
from typing import NamedTuple

import numpy as np

from imagernn.corpus.text import LINE_END, units_of
from imagernn.errors import InputError
from imagernn.nn import stacked
from imagernn.nn.search import draw_words
from imagernn.textgen.model import LAYERS

LIKELIEST = 5
LEAST_TEMPERATURE = 1e-9    # ln p divided by less may overflow
ACTIVATIONS = {    # of a unit, from the state of its layer: the name, and a function whose values are within ±1
    'lstm': ('tanh(c)', lambda h, c: np.tanh(c)),    # the cell remembers; h is what its output gate lets through
    'gru': ('h', lambda h: h),
    'rnn': ('tanh(h)', lambda h, context: np.tanh(h)),
}


class Reading(NamedTuple):
    """T tokens, one after another, K of the likeliest in the place of each, and the U units of all layers."""

    tokens: np.ndarray                # (T,)
    logprobs: np.ndarray              # (T,), ln p of each token
    likeliest: np.ndarray             # (T, K), tokens, the likeliest first
    likeliest_logprobs: np.ndarray    # (T, K)
    activations: np.ndarray           # (T, U), after the model has read each token; it never reads an END: zeros


def first_token(checkpoint):
    """What the model reads first: START of a line; a stream begins as if after the end of a line, if it has lines."""
    ixtoword, lines = checkpoint['ixtoword'], checkpoint['params']['lines']
    if lines:
        return 0
    return next((ix for ix, unit in ixtoword.items() if unit == LINE_END), min(1, len(ixtoword) - 1))


def tokens_of(text, checkpoint):
    """The tokens of a text, a list. InputError where the model has never seen one of its characters or words."""
    params = checkpoint['params']
    index_of = {unit: ix for ix, unit in checkpoint['ixtoword'].items() if ix or not params['lines']}
    units = units_of(text, params['level']) if text else []
    if unknown := [unit for unit in units if unit not in index_of]:
        raise InputError(f'the beginning {text!r:.60}: the model has never seen {unknown[0]!r:.40}; begin in another '
                         'way')
    return [index_of[unit] for unit in units]


def steps(tick, words, state, choose):
    """Yield step after step, without end, logprobs (n, V), the next words (n,) that choose(logprobs) gives, the state.

    words (n,): what the first step reads. The state is that after a step has read, before the next words.
    """
    while True:
        logprobs, state = tick(words, state)
        words = choose(logprobs)
        yield logprobs, words, state


def drawing(temperature, rng):
    """For steps: draws from p^(1/temperature), renormalised; 0, or nearly 0, takes the likeliest."""
    if temperature < LEAST_TEMPERATURE:
        return lambda logprobs: logprobs.argmax(axis=1)
    return lambda logprobs: draw_words(logprobs / temperature, rng)


def following(tokens):
    """For steps: one given token after another."""
    rest = iter(tokens)
    return lambda logprobs: np.array([next(rest)])


def read_on(checkpoint, tick, before, count, choose):
    """The Reading of the next count tokens after those in the list before, or fewer if a line ends. choose: see steps.

    tick: make_tick of the checkpoint's model. What was before is read again, in one packed pass.
    """
    model, params = checkpoint['model'], checkpoint['params']
    layer, (*past, word) = LAYERS[params['layer']], [first_token(checkpoint), *before]
    state = stacked.zero_state(layer, 1, model, model['Ws'].dtype)
    if past:
        _, state, _ = stacked.forward(layer, model['Ws'][past], np.ones(len(past), np.int64), model, params)
    tokens, found, activations = [], [], []
    for logprobs, words, after in islice(steps(tick, np.array([word]), state, choose), count):
        if tokens:
            activations.append(_activations(after, params))
        tokens.append(int(words[0]))
        found.append(_choices(logprobs[0], tokens[-1]))
        if params['lines'] and not tokens[-1]:
            break
    if tokens:
        last = _activations(tick(np.array(tokens[-1:]), after)[1], params)
        activations.append(last if tokens[-1] or not params['lines'] else np.zeros_like(last))
    logprobs, likeliest, likeliest_logprobs = zip(*found, strict=True) if found else ((), (), ())
    return Reading(*map(np.array, (tokens, logprobs, likeliest, likeliest_logprobs, activations)))


def _choices(logprobs, token):
    """ln p of a token; the likeliest tokens, the smaller first of two that are equally likely; ln p of each."""
    likeliest = np.argpartition(-logprobs, min(LIKELIEST, len(logprobs)) - 1)[:LIKELIEST]
    likeliest = likeliest[np.lexsort((likeliest, -logprobs[likeliest]))]
    return logprobs[token], likeliest, logprobs[likeliest]


def _activations(state, params):
    """The units of all layers: the state of one text -> (U,)."""
    _, shown = ACTIVATIONS[params['layer']]
    return np.concatenate([shown(*layer)[0] for layer in state])


# ---- which units follow what

def properties(units):
    """What a unit may follow: name -> numbers (T,) of a list of characters or words. Omits what is the same everywhere.
    """
    places, place = [], 0
    for unit in units:
        place = 0 if unit == LINE_END else place + 1
        places.append(place)
    found = {'position in the line': places, 'inside quotes': _inside_quotes(units),
             'spaces': [unit.isspace() for unit in units], 'capitals': [unit[:1].isupper() for unit in units]}
    return {name: np.array(values, float) for name, values in found.items() if len({*values}) > 1}


def _inside_quotes(units):
    """Whether a quotation is open after each unit."""
    inside, found = False, []
    for unit in units:
        for character in unit:
            if character in '"“”':
                inside = not inside if character == '"' else character == '“'
        found.append(inside)
    return found


def correlations(values, activations):
    """Pearson's correlation of values (T,) with each column of activations (T, U); 0 for a constant column -> (U,)."""
    values, activations = values - values.mean(), activations - activations.mean(axis=0, dtype=np.float64)
    norms = np.linalg.norm(values) * np.linalg.norm(activations, axis=0)
    return np.divide(values @ activations, norms, out=np.zeros(len(norms)), where=norms > 1e-9)

"""The language model: an embedding, stacked recurrent layers, a decoder; cost, gradients and the step of sampling.

model is a flat dict of 2-D arrays, params the dict of the command line's flags. A batch is packed: N sequences, which
are lines of unequal lengths, or windows of a stream, all of the same length, whose states are carried over from window
to window (truncated backpropagation through time). Knows nothing of files, characters or words.
"""

from typing import NamedTuple

import numpy as np

from imagernn.metrics.perplexity import perplexity
from imagernn.nn import gru, lstm, rnn, stacked
from imagernn.nn.layers import (
    affine_forward,
    dropout_backward,
    dropout_draw,
    dropout_forward,
    embedding_backward,
    embedding_forward,
    log_softmax,
    softmax_cost_backward,
    softmax_cost_forward,
)
from imagernn.nn.packing import Packed, split
from imagernn.nn.scratch import Scratch
from imagernn.nn.sharing import add_up
from imagernn.nn.workers import Workers

LAYERS = {'lstm': lstm, 'rnn': rnn, 'gru': gru}
# the standard deviation of new embeddings: characters that start smaller learn a short text hardly at all, and many
# words are too rare to leave a start that is larger
SPREAD = {'char': 1., 'word': .3}


def sizes_of(params):
    """The sizes of the layers, from the bottom: '256,128' -> [256, 128]."""
    return [int(size) for size in params['hidden_sizes'].split(',')]


def shapes(params, V):
    """Parameter name -> shape, with V characters or words."""
    F, sizes = params['embedding_size'], sizes_of(params)
    return {'Ws': (V, F), **stacked.shapes(LAYERS[params['layer']], F, sizes), 'Wd': (sizes[-1], V), 'bd': (1, V)}


def init_model(params, V, rng, dtype=np.float32):
    """A new model: embeddings normal, as large as SPREAD has it; the recurrent layers as they have it; the decoder
    uniform in ±0.1; biases 0.
    """
    F, sizes = params['embedding_size'], sizes_of(params)
    model = {'Ws': rng.normal(scale=SPREAD[params['level']], size=(V, F)),
             **stacked.init(LAYERS[params['layer']], F, sizes, rng),
             'Wd': rng.uniform(-.1, .1, (sizes[-1], V)), 'bd': np.zeros((1, V))}
    return {name: w.astype(dtype) for name, w in model.items()}


def check_model(model, params, V):
    """ValueError unless model has the parameters that params ask for with V words, all finite."""
    expected = shapes(params, V)
    if {name: w.shape for name, w in model.items()} != expected:
        raise ValueError(f'its parameters are not those of {params["layer"]} layers of {params["hidden_sizes"]} with '
                         f'{V} characters or words')
    if wrong := [name for name, w in model.items() if not np.isfinite(w).all()]:
        raise ValueError(f'its {wrong[0]} holds numbers that are not finite')


def regularized(params):
    """Names of the parameters that weight decay acts on."""
    return ('Ws', *stacked.regularized(LAYERS[params['layer']], sizes_of(params)), 'Wd')


class Dropout(NamedTuple):
    """What dropout keeps of the embeddings, between the layers (a list), and of the top; where it is None, all."""

    inputs: np.ndarray | None
    between: list | None
    top: np.ndarray | None

    def part(self, rows):
        """What belongs to these packed rows."""
        return Dropout(_rows(self.inputs, rows), self.between and [_rows(kept, rows) for kept in self.between],
                       _rows(self.top, rows))


EVERYTHING = Dropout(None, None, None)


def draw_dropout(P, params, rng):
    """Draw what dropout keeps in P packed rows; without an rng (prediction) everything."""
    prob = params.get('drop_prob', 0)
    *between, top = [dropout_draw(P, size, prob, rng) for size in sizes_of(params)]
    inputs = dropout_draw(P, params['embedding_size'], params.get('input_drop_prob', 0), rng)
    return Dropout(inputs, between, top)


def _rows(array, rows):
    return None if array is None else array[rows]


def forward(batch, model, params, start=None, dropout=EVERYTHING, scratch=None):
    """ln p of each target of a Packed batch (P,); last, the layers' states after it; and the cache."""
    scratch, prob = scratch or Scratch(), params.get('drop_prob', 0)
    layer = LAYERS[params['layer']]
    X, word_cache = embedding_forward(model['Ws'], batch.inputs)                                 # (P, F)
    X, input_mask = dropout_forward(X, dropout.inputs, params.get('input_drop_prob', 0))
    H, last, cache = stacked.forward(layer, X, batch.batch_sizes, model, params, start, dropout.between, prob, scratch)
    H, top_mask = dropout_forward(H, dropout.top, prob)
    logprobs, decoder_cache = softmax_cost_forward(H, model['Wd'], model['bd'], batch.targets, scratch)
    return logprobs, last, (word_cache, input_mask, cache, top_mask, decoder_cache)


def backward(scale, cache):
    """The gradients of -scale · sum(logprobs) by every parameter, the large ones in scratch. Overwrites the cache.

    No gradient goes through the state that a window starts from.
    """
    word_cache, input_mask, cache, top_mask, decoder_cache = cache
    dH, dWd, dbd = softmax_cost_backward(scale, decoder_cache)                                   # (P, H)
    dX, _, grads = stacked.backward(dropout_backward(dH, top_mask), cache)
    dX = dropout_backward(dX, input_mask)
    return {'Ws': embedding_backward(dX, word_cache), **grads, 'Wd': dWd, 'bd': dbd}


def cost_and_grads(batch, model, params, start=None, rng=None, workers=None):
    """The cost of a Packed batch, its gradients by every parameter, stats {'nats', 'ppl2'} of a character or word, and
    last, the states after it.

    The cost is the mean of -ln p over all targets in a stream, and their sum over the number of lines where batches are
    of lines; plus ½·regc·‖W‖² over that number. The gradients live in the workers' memory: they are valid until the
    next call. Each thread takes a part of the sequences; their number changes nothing but the rounding.
    """
    workers = workers or Workers()
    P, N = len(batch.targets), int(batch.batch_sizes[0])
    divisor = N if params['lines'] else P
    dropout = draw_dropout(P, params, rng)

    def run(part_and_scratch):
        (part, sequences, rows), scratch = part_and_scratch
        states = start and [tuple(array[sequences] for array in state) for state in start]
        logprobs, last, cache = forward(part, model, params, states, dropout.part(rows), scratch)
        return (float(logprobs.sum(dtype=np.float64)), last), backward(1 / divisor, cache)

    parts = split(batch, workers.num_parts)
    found = workers.run_share(run, parts)
    sums, lasts = zip(*workers.ranks.gather([sum_and_last for sum_and_last, _ in found]), strict=True)
    last = [tuple(_together([one[k][i] for one in lasts], parts, N) for i in range(len(lasts[0][k])))
            for k in range(len(lasts[0]))]
    regc = params.get('regc', 0)
    squares = sum(float(np.vdot(model[name], model[name])) for name in regularized(params)) if regc else 0.
    decay = dict.fromkeys(regularized(params), regc / divisor)
    total = sum(sums)
    return (-total + .5 * regc * squares) / divisor, add_up([grads for _, grads in found], model, decay, workers), {
        'nats': -total / P, 'ppl2': perplexity(total, P)}, last


def _together(arrays, parts, N):
    """The rows of all sequences (N, …) from those of each part."""
    whole = np.empty((N, *arrays[0].shape[1:]), arrays[0].dtype)
    for array, (_, sequences, _) in zip(arrays, parts, strict=True):
        whole[sequences] = array
    return whole


def windows(tokens, num_sequences, length):
    """A stream cut into windows: yields Packed batches whose sequences continue those of the batch before.

    tokens (K,): divided into num_sequences equal parts, of which each is read length tokens at a time; the last window
    is shorter. What is left over at the end, fewer tokens than there are sequences, is not read.
    """
    for place in range(num_windows(len(tokens), num_sequences, length)):
        yield window(tokens, num_sequences, length, place)


def window(tokens, num_sequences, length, place):
    """The batch of windows() at a place, from 0."""
    steps = (len(tokens) - 1) // num_sequences
    times = np.arange(place * length, min((place + 1) * length, steps))
    rows = np.arange(num_sequences) * steps + times[:, None]                                     # (T, N)
    return Packed(tokens[rows].ravel(), tokens[rows + 1].ravel(), np.full(len(rows), num_sequences),
                  np.arange(num_sequences))


def num_windows(num_tokens, num_sequences, length):
    """How many batches windows() gives."""
    return -(-((num_tokens - 1) // num_sequences) // length)


def make_tick(model, params):
    """The function that sampling and search step: tick(words (n,), state) -> logprobs (n, V), state.

    The state is a list of the layers' states; what each word adds to the lowest layer is computed here, once.
    """
    layer = LAYERS[params['layer']]
    words_in = stacked.project(layer, model['Ws'], model, params)

    def tick(words, state):
        h, state = stacked.tick(layer, words_in[words], state, model, params)
        y, _ = affine_forward(h, model['Wd'], model['bd'])
        return log_softmax(y), state

    return tick

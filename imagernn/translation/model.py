"""The translation model: an encoder reads the source, a decoder writes the target; cost, gradients, the step of search.

Without attention all that the decoder gets of the source is the encoder's last state, from which it starts (Sutskever,
Vinyals & Le 2014); the source is read backwards, so that its beginning is the nearest. With attention two encoders read
it in both directions, and each state of the decoder looks at theirs before it predicts a word (Luong, Pham & Manning
2015; see nn.global_attention).

model is a flat dict of 2-D arrays, params the dict of the command line's flags. Index 0 is START and END, 1 is an
unknown word. Knows nothing of files or words.
"""

from typing import NamedTuple

import numpy as np

from imagernn.metrics.perplexity import perplexity
from imagernn.nn import global_attention, gru, lstm, stacked
from imagernn.nn.global_attention import Memory
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
from imagernn.nn.packing import columns_and_steps, pack, reversing, unpack
from imagernn.nn.scratch import Scratch
from imagernn.nn.sharing import add_up
from imagernn.nn.workers import Workers
from imagernn.translation.batch import deal, target_places

LAYERS = {'lstm': lstm, 'gru': gru}
UNKNOWN = 1

# ---- the parameters -------------------------------------------------------------------------------------------------

def sizes_of(params):
    """The sizes of the layers of encoder and decoder, from the bottom: '512,256' -> [512, 256]."""
    return [int(size) for size in params['hidden_sizes'].split(',')]


def directions_of(params):
    """The directions in which encoders read the source. The decoder starts from the last state of the first."""
    first, other = ('backward', 'forward') if params['source_order'] == 'reversed' else ('forward', 'backward')
    return (first, other) if params['attention'] else (first,)


def shapes(params, source_V, V):
    """Parameter name -> shape, with source_V words in the source and V in the target."""
    F, sizes, layer = params['embedding_size'], sizes_of(params), LAYERS[params['layer']]
    one = stacked.shapes(layer, F, sizes)
    encoders = {f'{direction}_{name}': shape for direction in directions_of(params) for name, shape in one.items()}
    decoder = {f'decoder_{name}': shape for name, shape in one.items()}
    attention = global_attention.shapes(2 * sizes[-1], sizes[-1]) if params['attention'] else {}
    return {'source_Ws': (source_V, F), **encoders, 'Ws': (V, F), **decoder,
            **{f'attention_{name}': shape for name, shape in attention.items()}, 'Wd': (sizes[-1], V), 'bd': (1, V)}


def init_model(params, source_V, V, rng, dtype=np.float32):
    """A new model: embeddings normal with variance 1; the recurrent layers and the attention as they have it; the
    readout uniform in ±0.1, its bias 0.
    """
    F, sizes, layer = params['embedding_size'], sizes_of(params), LAYERS[params['layer']]
    model = {name: rng.normal(size=shape) if name in ('source_Ws', 'Ws') else rng.uniform(-.1, .1, shape)
             for name, shape in shapes(params, source_V, V).items()}
    model['bd'][:] = 0
    for part in (*directions_of(params), 'decoder'):
        model |= {f'{part}_{name}': w for name, w in stacked.init(layer, F, sizes, rng).items()}
    if params['attention']:
        model |= {f'attention_{name}': w for name, w in global_attention.init(2 * sizes[-1], sizes[-1], rng).items()}
    return {name: w.astype(dtype) for name, w in model.items()}


def check_model(model, params, source_V, V):
    """ValueError unless model has the parameters that params ask for with so many words, all finite."""
    expected = shapes(params, source_V, V)
    if missing := [name for name in expected if name not in model]:
        raise ValueError(f'it has no {missing[0]}, which models with its flags have')
    if {name: w.shape for name, w in model.items()} != expected:
        raise ValueError(f'its parameters are not those of {params["layer"]} layers of {params["hidden_sizes"]} with '
                         f'{source_V} source words and {V} target words')
    if wrong := [name for name, w in model.items() if not np.isfinite(w).all()]:
        raise ValueError(f'its {wrong[0]} holds numbers that are not finite')


def regularized(params):
    """Names of the parameters that weight decay acts on."""
    one = stacked.regularized(LAYERS[params['layer']], sizes_of(params))
    attention = global_attention.REGULARIZE if params['attention'] else ()
    return ('source_Ws', *(f'{direction}_{name}' for direction in directions_of(params) for name in one), 'Ws',
            *(f'decoder_{name}' for name in one), *(f'attention_{name}' for name in attention), 'Wd')


def part_of(model, name):
    """The parameters of a part, 'forward', 'backward', 'decoder' or 'attention', under its own names."""
    return {key.removeprefix(f'{name}_'): w for key, w in model.items() if key.startswith(f'{name}_')}


class Dropout(NamedTuple):
    """What dropout keeps, bits as of layers.dropout_draw; all parts are None where it keeps all."""

    source: np.ndarray | None     # of the embedded source words
    encoders: list | None         # for each encoder, of the inputs of its layers 1, 2, …, a list
    target: np.ndarray | None     # of the embedded target words
    decoder: list | None          # of the inputs of its layers 1, 2, …
    top: np.ndarray | None        # of the decoder's top, or of what attention makes of it

    def part(self, source_rows, target_rows):
        """What belongs to these packed rows."""
        if self.source is None:
            return self
        return Dropout(self.source[source_rows], [[kept[source_rows] for kept in one] for one in self.encoders],
                       self.target[target_rows], [kept[target_rows] for kept in self.decoder], self.top[target_rows])


EVERYTHING = Dropout(None, None, None, None, None)


def draw_dropout(batch, params, rng):
    """Draw what dropout keeps in a Batch; without an rng (prediction) everything."""
    prob = params.get('drop_prob', 0)
    if not prob or rng is None:
        return EVERYTHING
    F, sizes, num_source, num_target = (params['embedding_size'], sizes_of(params), len(batch.source.inputs),
                                        len(batch.target.inputs))
    return Dropout(
        dropout_draw(num_source, F, prob, rng),
        [[dropout_draw(num_source, size, prob, rng) for size in sizes[:-1]] for _ in directions_of(params)],
        dropout_draw(num_target, F, prob, rng), [dropout_draw(num_target, size, prob, rng) for size in sizes[:-1]],
        dropout_draw(num_target, sizes[-1], prob, rng))

# ---- the encoder ----------------------------------------------------------------------------------------------------

def encode_forward(source, model, params, dropout=EVERYTHING, scratch=None):
    """Packed sources through the encoders.

    Returns the hidden states of each direction, a list of (P, H) whose rows belong to the rows of source; last, the
    first direction's state after its last step, for each packed sentence; and the cache.
    """
    scratch, prob = scratch or Scratch(), params.get('drop_prob', 0)
    X, word_cache = embedding_forward(model['source_Ws'], source.inputs)                         # (P, F)
    X, mask = dropout_forward(X, dropout.source, prob)
    hidden, lasts, caches, turned = [], [], [], reversing(source.batch_sizes)
    for number, direction in enumerate(directions_of(params)):
        rows = turned if direction == 'backward' else slice(None)
        H, last, cache = stacked.forward(
            LAYERS[params['layer']], X[rows], source.batch_sizes, part_of(model, direction), params, None,
            dropout.encoders and dropout.encoders[number], prob, scratch.part(direction))
        hidden.append(H[rows])
        lasts.append(last)
        caches.append((direction, rows, cache))
    return hidden, lasts[0], (word_cache, mask, X.shape, caches)


def encode_backward(dhidden, dlast, cache):
    """The mirror of encode_forward: dhidden, a list of (P, H) or None, and dlast -> the encoders' gradients."""
    word_cache, mask, shape, caches = cache
    grads, dX = {}, 0
    for number, (direction, rows, encoder_cache) in enumerate(caches):
        dH = dhidden[number][rows]
        dX_one, _, own = stacked.backward(dH, encoder_cache, dlast if number == 0 else None)
        dX = dX + dX_one[rows]
        grads |= {f'{direction}_{name}': grad for name, grad in own.items()}
    return {'source_Ws': embedding_backward(dropout_backward(dX, mask), word_cache), **grads}


def memory_forward(hidden, source, places, scratch=None):
    """What attention looks at: hidden, each direction's states (P, H), side by side for each word of a sentence.

    places (N,): the row that each packed sentence gets. Returns values (N, R, 2H), in scratch; absent (N, R), True
    behind the end of a sentence; and the cache.
    """
    T, N, H = len(source.batch_sizes), len(places), hidden[0].shape[1]
    columns, steps = columns_and_steps(source.batch_sizes)
    rows = places[columns]                                                                       # (P,)
    values = (scratch or Scratch())('memory', (N, T, len(hidden) * H), hidden[0].dtype)
    values[:] = 0
    absent = np.ones((N, T), bool)
    for number, H_one in enumerate(hidden):
        values[rows, steps, number * H:(number + 1) * H] = H_one
    absent[rows, steps] = False
    return values, absent, (rows, steps, len(hidden))


def memory_backward(dvalues, cache):
    """The mirror of memory_forward: dvalues (N, R, 2H) -> dhidden, a list of (P, H)."""
    rows, steps, number = cache
    return np.split(dvalues[rows, steps], number, axis=1)

# ---- the decoder, and both together ---------------------------------------------------------------------------------

def forward(batch, model, params, dropout=EVERYTHING, scratch=None, smoothing=0.):
    """A Batch through encoder and decoder.

    Returns logprobs (P,), ln p of each target word in packed order, with label smoothing (2, P) as of
    layers.softmax_cost_forward; where each step looked, (P, R), or None without attention; and the cache.
    """
    scratch, prob = scratch or Scratch(), params.get('drop_prob', 0)
    source, target = batch
    hidden, last, encoder_cache = encode_forward(source, model, params, dropout, scratch.part('encoder'))

    # the bridge: each decoder starts where the encoder of its pair ended; packed sources and targets differ in order
    places = target_places(batch)
    back = np.argsort(places)
    start = [tuple(part[back] for part in state) for state in last]
    X, word_cache = embedding_forward(model['Ws'], target.inputs)                                # (P, F)
    X, input_mask = dropout_forward(X, dropout.target, prob)
    H, _, decoder_cache = stacked.forward(LAYERS[params['layer']], X, target.batch_sizes, part_of(model, 'decoder'),
                                          params, start, dropout.decoder, prob, scratch.part('decoder'))
    weights = attention_cache = None
    if params['attention']:
        values, absent, memory_cache = memory_forward(hidden, source, places, scratch)
        H, weights, own_cache = global_attention.forward(H, target.batch_sizes, values, absent,
                                                         part_of(model, 'attention'), scratch.part('attention'))
        attention_cache = memory_cache, own_cache
    H, top_mask = dropout_forward(H, dropout.top, prob)
    logprobs, softmax_cache = softmax_cost_forward(H, model['Wd'], model['bd'], target.targets, scratch, smoothing)
    return logprobs, weights, (encoder_cache, [(H_one.shape, H_one.dtype) for H_one in hidden], places, word_cache,
                               input_mask, decoder_cache, attention_cache, top_mask, softmax_cache)


def backward(scale, cache):
    """The gradients of -scale · sum(logprobs) by every parameter, the large ones in scratch. Overwrites the cache."""
    (encoder_cache, like_hidden, places, word_cache, input_mask, decoder_cache, attention_cache, top_mask,
     softmax_cache) = cache
    dH, dWd, dbd = softmax_cost_backward(scale, softmax_cache)                                   # (P, H)
    dH = dropout_backward(dH, top_mask)
    attention_grads = {}
    if attention_cache is None:
        dhidden = [np.zeros(*one) for one in like_hidden]
    else:
        memory_cache, own_cache = attention_cache
        dH, dvalues, attention_grads = global_attention.backward(dH, own_cache)
        dhidden = memory_backward(dvalues, memory_cache)
    dX, dstart, grads = stacked.backward(dH, decoder_cache)
    dX = dropout_backward(dX, input_mask)

    # back over the bridge
    dlast = [tuple(part[places] for part in state) for state in dstart]
    return {**encode_backward(dhidden, dlast, encoder_cache), 'Ws': embedding_backward(dX, word_cache),
            **{f'decoder_{name}': grad for name, grad in grads.items()},
            **{f'attention_{name}': grad for name, grad in attention_grads.items()}, 'Wd': dWd, 'bd': dbd}


def cost_and_grads(batch, model, params, rng=None, workers=None):
    """The cost of a Batch, its gradients by every parameter, and stats {'nats', 'ppl2'} of a target word.

    The cost is the mean of -ln p over all target words, END among them, or of what label smoothing makes of it, plus
    ½·regc·‖W‖² over their number. The gradients live in the workers' memory: they are valid until the next call. Each
    thread takes a part of the pairs; their number changes nothing but the rounding.
    """
    workers = workers or Workers()
    P, smoothing, dropout = len(batch.target.inputs), params.get('label_smoothing', 0), draw_dropout(batch, params, rng)

    def run(part_and_scratch):
        (part, source_rows, target_rows), scratch = part_and_scratch
        logprobs, _, cache = forward(part, model, params, dropout.part(source_rows, target_rows), scratch, smoothing)
        sums = np.atleast_2d(logprobs).sum(axis=1, dtype=np.float64)
        return (float(sums[0]), float(sums[-1])), backward(1 / P, cache)

    found = workers.run_share(run, deal(batch, workers.num_parts))
    sums, smoothed = zip(*workers.ranks.gather([sums for sums, _ in found]), strict=True)
    regc = params.get('regc', 0)
    grads = add_up([grads for _, grads in found], model, dict.fromkeys(regularized(params), regc / P), workers)
    squares = sum(float(np.vdot(model[name], model[name])) for name in regularized(params)) if regc else 0.
    return (-sum(smoothed) + .5 * regc * squares) / P, grads, {
        'nats': -sum(sums) / P, 'ppl2': perplexity(sum(sums), P)}


def sum_of_logprobs(batch, model, params, workers=None):
    """The sum of ln p over the target words of a Batch, END among them, and their number."""
    workers = workers or Workers()

    def run(part_and_scratch):
        (part, _, _), scratch = part_and_scratch
        return float(forward(part, model, params, scratch=scratch)[0].sum(dtype=np.float64))

    sums = workers.ranks.gather(workers.run_share(run, deal(batch, workers.num_parts)))
    return sum(sums), len(batch.target.inputs)


def attention_of(batch, model, params):
    """Where each step of the decoder looked, for each pair in the order given: a list of (target words + END, START +
    source words), whose rows sum to 1.
    """
    _, weights, _ = forward(batch, model, params)
    lengths = (np.arange(batch.source.batch_sizes[0]) < batch.source.batch_sizes[:, None]).sum(axis=0)
    lengths = lengths[np.argsort(batch.source.order)]
    return [one[:, :length] for one, length in zip(unpack(weights, batch.target), lengths, strict=True)]

# ---- decoding -------------------------------------------------------------------------------------------------------

def read_sources(words, lengths, model, params):
    """The state before the first target word, for N sources in the order given: a tuple for search, N rows in each
    part. words (K,): their word indices one after another; lengths (N,).
    """
    source = pack(words, lengths)
    hidden, last, _ = encode_forward(source, model, params)
    back = np.argsort(source.order)
    state = tuple(part[back] for layer in last for part in layer)
    if not params['attention']:
        return state
    values, absent, _ = memory_forward(hidden, source, source.order)
    return *state, Memory(values, absent, part_of(model, 'attention'))


def make_tick(model, params):
    """The function that search steps: tick(words (n,), state) -> logprobs (n, V), state.

    The state is a tuple as of read_sources. An unknown word has the logprob -inf, so that no search writes it.
    """
    layer, decoder = LAYERS[params['layer']], part_of(model, 'decoder')
    words_in = stacked.project(layer, model['Ws'], decoder, params)
    number = len(layer.zero_state(0, stacked.part_of(decoder, 0), model['Wd'].dtype))    # parts of a layer's state
    end = number * len(sizes_of(params))

    def tick(words, state):
        layers = [state[i:i + number] for i in range(0, end, number)]
        h, layers = stacked.tick(layer, words_in[words], layers, decoder, params)
        if params['attention']:
            h = state[end].look(h)
        y, _ = affine_forward(h, model['Wd'], model['bd'])
        y = log_softmax(y)
        y[:, UNKNOWN] = -np.inf
        return y, (*(part for one in layers for part in one), *state[end:])

    return tick

"""The captioning model: encoders of images and words around a generator; its cost and gradients; its decoding.

model is a flat dict of 2-D arrays, params the dict of the command line's flags. Knows nothing of files, training
loops or how words are searched for.
"""

from typing import NamedTuple

import numpy as np

from imagernn.captioning.batch import deal
from imagernn.errors import InputError
from imagernn.metrics.perplexity import perplexity
from imagernn.nn.layers import (
    affine_forward,
    affine_parameters_backward,
    dropout_backward,
    dropout_draw,
    dropout_forward,
    embedding_backward,
    embedding_forward,
    likeliest_words,
    log_softmax,
    row_blocks,
    softmax_cost_backward,
    softmax_cost_forward,
)
from imagernn.nn.lstm import LSTMGenerator
from imagernn.nn.rnn import RNNGenerator
from imagernn.nn.scratch import Scratch
from imagernn.nn.sharing import add_up
from imagernn.nn.workers import Workers

GENERATORS = {'lstm': LSTMGenerator, 'rnn': RNNGenerator}
SIZES = ('image_encoding_size', 'word_encoding_size', 'hidden_size')


def get_generator(params):
    """The generator that params names; InputError lists the known ones."""
    name = params.get('generator')
    if not isinstance(name, str) or name not in GENERATORS:
        raise InputError(f'--generator {name}: not known; choose one of {", ".join(GENERATORS)}')
    return GENERATORS[name]


def init_model(params, D, bias_init_vector, rng, dtype=np.float32):
    """A new model: uniform in ±0.1, biases 0 but bd, which starts at bias_init_vector (V,).

    params: generator and the three sizes; D: the features' size. InputError where the sizes cannot work together.
    """
    generator = get_generator(params)
    sizes = {name: params[name] for name in SIZES}
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f'--{name} {size}: must be at least 1')
    if clash := generator.check_sizes(sizes):
        one, other = clash
        raise InputError(f'--{one} {sizes[one]} and --{other} {sizes[other]}: the {params["generator"]} generator '
                         f'needs them equal; set both to the same value')
    V = len(bias_init_vector)
    model = {'We': rng.uniform(-.1, .1, (D, sizes['image_encoding_size'])),
             'be': np.zeros((1, sizes['image_encoding_size'])),
             'Ws': rng.uniform(-.1, .1, (V, sizes['word_encoding_size'])),
             **generator.init(sizes, V, rng)}
    model['bd'][:] = bias_init_vector
    return {name: w.astype(dtype) for name, w in model.items()}


def check_model(model, params, V):
    """InputError unless model has the parameters of params' generator with V words, of fitting shapes, all finite."""
    generator = get_generator(params)
    expected = {'We', 'be', 'Ws', *generator.shapes(dict.fromkeys(SIZES, 1), 1)}
    if set(model) != expected:
        raise InputError(f'its parameters are {", ".join(model)}, but a {params["generator"]} model has '
                         f'{", ".join(sorted(expected))}')
    D, E = model['We'].shape
    sizes = dict(zip(SIZES, (E, model['Ws'].shape[1], model['Wd'].shape[0]), strict=True))
    shapes = {'We': (D, E), 'be': (1, E), 'Ws': (V, sizes['word_encoding_size']), **generator.shapes(sizes, V)}
    wrong = [name for name, shape in shapes.items() if model[name].shape != shape]
    if infinite := [name for name, w in model.items() if not np.isfinite(w).all()]:
        raise InputError(f'its {infinite[0]} holds numbers that are not finite')
    if wrong or generator.check_sizes(sizes):
        found = ', '.join(f'{name} {model[name].shape}' for name in wrong or ('We', 'Ws', 'Wd'))
        raise InputError(f'its parameters do not fit each other or its {V} words: {found}')


def regularized(params):
    """Names of the parameters that weight decay acts on."""
    return ('We', 'Ws', *get_generator(params).REGULARIZE)


class Dropout(NamedTuple):
    """What dropout keeps, as layers.dropout_draw gives it, a row for each packed sentence or word; None: all."""

    images: np.ndarray | None    # (N, …), of the encoded images
    words: np.ndarray | None     # (P, …), of the encoded words
    hidden: np.ndarray | None    # (P, …), of the hidden states on their way to the decoder

    def part(self, sentences, words):
        """The rows of a part of the batch, as batch.deal names them."""
        return Dropout(*(bits if bits is None else bits[rows]
                         for bits, rows in zip(self, (sentences, words, words), strict=True)))


EVERYTHING = Dropout(None, None, None)


def draw_dropout(batch, model, params, rng):
    """Draws what dropout keeps in a Batch; without an rng (prediction) everything."""
    encoder, decoder = params.get('drop_prob_encoder', 0), params.get('drop_prob_decoder', 0)
    N, P = batch.num_sentences, len(batch.inputs)
    return Dropout(dropout_draw(N, model['We'].shape[1], encoder, rng),
                   dropout_draw(P, model['Ws'].shape[1], encoder, rng),
                   dropout_draw(P, model['Wd'].shape[0], decoder, rng))


def forward(batch, model, params, dropout=EVERYTHING, scratch=None):
    """ln p of each target word of a Batch -> logprobs (P,), cache."""
    scratch = scratch or Scratch()
    drop_encoder, drop_decoder = params.get('drop_prob_encoder', 0), params.get('drop_prob_decoder', 0)

    encoded, image_cache = affine_forward(batch.features, model['We'], model['be'])          # (M, E)
    Xs, word_cache = embedding_forward(model['Ws'], batch.inputs)                            # (P, E)
    Xi, image_mask = dropout_forward(encoded[batch.image_rows], dropout.images, drop_encoder)    # (N, E)
    Xs, word_mask = dropout_forward(Xs, dropout.words, drop_encoder)

    H, generator_cache = get_generator(params).forward(Xi, Xs, batch.batch_sizes, model, params, scratch)
    H, hidden_mask = dropout_forward(H, dropout.hidden, drop_decoder)                        # (P, H)
    logprobs, decoder_cache = softmax_cost_forward(H, model['Wd'], model['bd'], batch.targets, scratch)
    return logprobs, (image_cache, word_cache, image_mask, word_mask, batch.image_rows, generator_cache,
                      hidden_mask, decoder_cache, scratch)


def backward(scale, cache, params):
    """Gradients of -scale · sum(logprobs) by every parameter, the large ones in scratch. Uses up the cache.

    That by Ws is (the words that occur (U,), their rows (U, E)): it is 0 in all other rows.
    """
    (image_cache, word_cache, image_mask, word_mask, image_rows,
     generator_cache, hidden_mask, decoder_cache, scratch) = cache
    grads = {}
    dH, grads['Wd'], grads['bd'] = softmax_cost_backward(scale, decoder_cache)
    dH = dropout_backward(dH, hidden_mask)
    dXi, dXs, generator_grads = get_generator(params).backward(dH, generator_cache)
    grads.update(generator_grads)

    _, dencoded = embedding_backward(dropout_backward(dXi, image_mask), image_rows)          # (M, E): all images occur
    grads['Ws'] = embedding_backward(dropout_backward(dXs, word_mask), word_cache)
    features, We = image_cache
    grads['We'], grads['be'] = affine_parameters_backward(dencoded, image_cache,
                                                          scratch('dWe', We.shape, We.dtype))
    return grads


def cost_of(logprobs, N, model, params):
    """(sum of -ln p, plus ½·regc·‖W‖² over the regularized parameters) / N sentences.

    Returns the cost and stats {'loss_cost', 'reg_cost', 'ppl2'}: its two parts and the perplexity a word.
    """
    regc, total = params.get('regc', 0), float(logprobs.sum(dtype=np.float64))
    squares = sum(float(np.vdot(model[name], model[name])) for name in regularized(params)) if regc else 0.
    stats = {'loss_cost': -total / N, 'reg_cost': .5 * regc * squares / N, 'ppl2': perplexity(total, len(logprobs))}
    return stats['loss_cost'] + stats['reg_cost'], stats


def cost_and_grads(batch, model, params, rng=None, workers=None):
    """Cost of a Batch, its gradient by every parameter (names and shapes of model), and cost_of's stats.

    rng draws the dropout; without one nothing is dropped. Each of the workers' threads takes a part of the sentences
    forward and back, then all add up the parts. The gradients are in the workers' memory: valid until they are asked
    again. The number of threads changes nothing but the rounding.
    """
    workers, N = workers or Workers(), batch.num_sentences
    dropout = draw_dropout(batch, model, params, rng)

    def run(part_and_scratch):
        (part, sentences, words), scratch = part_and_scratch
        logprobs, cache = forward(part, model, params, dropout.part(sentences, words), scratch)
        return logprobs, backward(1 / N, cache, params)

    parts = deal(batch, len(workers.scratches))
    logprobs, grads = zip(*workers.run(run, list(zip(parts, workers.scratches, strict=False))), strict=True)
    cost, stats = cost_of(np.concatenate(logprobs), N, model, params)
    decay = dict.fromkeys(regularized(params), params.get('regc', 0) / N)
    return cost, add_up(grads, model, decay, workers), stats


def encode_images(features, model, params):
    """The generator's state before the first word, a tuple of arrays (n, …), from image features (n, D)."""
    encoded, _ = affine_forward(features, model['We'], model['be'])
    return get_generator(params).start(encoded, model, params)


def make_tick(model, params, workers=None, likeliest=False):
    """The function that search steps: tick(words (n,), state) -> logprobs (n, V), state.

    With likeliest, tick -> (the likeliest words (n,), their logprobs (n,)), state: all that a greedy search asks for.
    What every word adds to the generator's sums is computed here once for the whole vocabulary. Where tick is given a
    scratch of its own thread, logprobs are in it: valid until the next step.
    """
    generator, Ws, workers = get_generator(params), model['Ws'], workers or Workers()
    words_in = np.concatenate(workers.run(lambda rows: generator.project(Ws[rows], model, params),
                                          row_blocks(Ws)))                                   # (V, …)

    def tick(words, state, scratch=None):
        h, state = generator.tick(words_in[words], state, model, params)
        y = None if scratch is None else scratch('y', (len(h), len(words_in)), h.dtype)
        y, _ = affine_forward(h, model['Wd'], model['bd'], out=y)                            # (n, V)
        return (likeliest_words(y) if likeliest else log_softmax(y)), state

    return tick

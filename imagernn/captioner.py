"""The captioning model: encoders of images and words around a generator; its cost and gradients; its decoding.

model is a flat dict of 2-D arrays, params the dict of the command line's flags. Knows nothing of files, training
loops or how words are searched for.
"""

import math

import numpy as np

from imagernn.errors import InputError
from imagernn.layers import (
    Scratch,
    affine_forward,
    affine_parameters_backward,
    dropout_backward,
    dropout_forward,
    embedding_backward,
    embedding_forward,
    log_softmax,
    softmax_cost_backward,
    softmax_cost_forward,
)
from imagernn.lstm_generator import LSTMGenerator
from imagernn.rnn_generator import RNNGenerator

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


def forward(batch, model, params, rng=None, scratch=None):
    """ln p of each target word of a Batch -> logprobs (P,), cache.

    rng draws the dropout masks; without one (prediction) nothing is dropped.
    """
    scratch = scratch or Scratch()
    drop_encoder, drop_decoder = params.get('drop_prob_encoder', 0), params.get('drop_prob_decoder', 0)

    encoded, image_cache = affine_forward(batch.features, model['We'], model['be'])          # (M, E)
    Xs, word_cache = embedding_forward(model['Ws'], batch.inputs)                            # (P, E)
    Xi, image_mask = dropout_forward(encoded[batch.image_rows], drop_encoder, rng)           # (N, E)
    Xs, word_mask = dropout_forward(Xs, drop_encoder, rng)

    H, generator_cache = get_generator(params).forward(Xi, Xs, batch.batch_sizes, model, params, scratch)
    H, hidden_mask = dropout_forward(H, drop_decoder, rng)                                   # (P, H)
    logprobs, decoder_cache = softmax_cost_forward(H, model['Wd'], model['bd'], batch.targets, scratch)
    return logprobs, (image_cache, word_cache, image_mask, word_mask, batch.image_rows, generator_cache,
                      hidden_mask, decoder_cache)


def backward(scale, cache, params):
    """Gradients of -scale · sum(logprobs) by every parameter. Uses up the cache."""
    (image_cache, word_cache, image_mask, word_mask, image_rows,
     generator_cache, hidden_mask, decoder_cache) = cache
    grads = {}
    dH, grads['Wd'], grads['bd'] = softmax_cost_backward(scale, decoder_cache)
    dH = dropout_backward(dH, hidden_mask)
    dXi, dXs, generator_grads = get_generator(params).backward(dH, generator_cache)
    grads.update(generator_grads)

    M = len(image_cache[0])
    dencoded = embedding_backward(dropout_backward(dXi, image_mask), (image_rows, M))        # (M, E)
    grads['Ws'] = embedding_backward(dropout_backward(dXs, word_mask), word_cache)
    grads['We'], grads['be'] = affine_parameters_backward(dencoded, image_cache)
    return grads


def cost_of(logprobs, N, model, params):
    """(sum of -ln p, plus ½·regc·‖W‖² over the regularized parameters) / N sentences.

    Returns the cost and stats {'loss_cost', 'reg_cost', 'ppl2'}: its two parts and the perplexity a word.
    """
    regc, total = params.get('regc', 0), float(logprobs.sum(dtype=np.float64))
    squares = sum(float(np.vdot(model[name], model[name])) for name in regularized(params)) if regc else 0.
    stats = {'loss_cost': -total / N, 'reg_cost': .5 * regc * squares / N, 'ppl2': perplexity(total, len(logprobs))}
    return stats['loss_cost'] + stats['reg_cost'], stats


def cost_and_grads(batch, model, params, rng=None, scratch=None):
    """Cost of a Batch, its gradient by every parameter (names and shapes of model), and cost_of's stats.

    rng draws the dropout masks; without one nothing is dropped.
    """
    N, regc = batch.num_sentences, params.get('regc', 0)
    logprobs, cache = forward(batch, model, params, rng, scratch)
    cost, stats = cost_of(logprobs, N, model, params)
    grads = backward(1 / N, cache, params)
    if regc:
        for name in regularized(params):
            grads[name] += model[name] * model[name].dtype.type(regc / N)
    return cost, {name: grads[name] for name in model}, stats


def perplexity(logprob, num_words):
    """2 to the mean −log2 p a word (END among them), from the sum of ln p. Infinite where a float cannot hold it."""
    mean = -logprob / num_words
    return math.exp(mean) if mean < 700 else math.inf


def encode_images(features, model, params):
    """The generator's state before the first word, a tuple of arrays (n, …), from image features (n, D)."""
    encoded, _ = affine_forward(features, model['We'], model['be'])
    return get_generator(params).start(encoded, model, params)


def make_tick(model, params):
    """The function that search steps: tick(words (n,), state) -> logprobs (n, V), state.

    What every word adds to the generator's sums is computed here once for the whole vocabulary.
    """
    generator = get_generator(params)
    words_in = generator.project(model['Ws'], model, params)

    def tick(words, state):
        h, state = generator.tick(words_in[words], state, model, params)
        y, _ = affine_forward(h, model['Wd'], model['bd'])                                   # (n, V)
        return log_softmax(y), state

    return tick


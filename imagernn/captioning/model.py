"""The captioning model: encoders of image and words, a recurrent layer, a decoder; cost, gradients and decoding.

model is a flat dict of 2-D arrays, params the dict of the command line's flags. The recurrent layers, and how an image
enters them, are in generators.py. An image comes as one row of features: those of the whole picture and, for the
generator that attends to regions, those of each region after them. Knows nothing of files, training loops or how search
chooses words.
"""

from typing import NamedTuple

import numpy as np

from imagernn.captioning.batch import deal
from imagernn.captioning.generators import get_generator, regions_backward, regions_forward, sees_image
from imagernn.captioning.names import SIZES
from imagernn.metrics.perplexity import perplexity
from imagernn.nn import attention as soft_attention
from imagernn.nn import lstm
from imagernn.nn.attention import Sight
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
from imagernn.nn.scratch import Scratch
from imagernn.nn.search import make_mean_tick
from imagernn.nn.sharing import add_up
from imagernn.nn.workers import Workers

# ---- the parameters -------------------------------------------------------------------------------------------------

def shapes(params, D, sizes, V, D_region=0):
    """Parameter name -> shape. D, D_region: the sizes of the features of a picture and of a region; sizes: as sizes_of
    gives them; V: the number of words.
    """
    E, F, H = (sizes[name] for name in SIZES)
    image = {'Wimage': (E, 4 * H)} if has_image_rows(params) else {}
    regions = {}
    if attends_to_regions(params):
        regions = {'Wregion': (D_region, E), 'bregion': (1, E),
                   **soft_attention.shapes(E, H, sizes['attention_size'], 4 * H)}
    return {'We': (D, E), 'be': (1, E), 'Ws': (V, F), **get_generator(params).layer.shapes(F, H), **image, **regions,
            'Wd': (H, V), 'bd': (1, V)}


def has_image_rows(params):
    """Whether the model has input weights of the image's own: the LSTM's that sees it at every step."""
    return get_generator(params).layer is lstm and sees_image(params)[1]


def attends_to_regions(params):
    """Whether the generator needs features of regions."""
    return get_generator(params).attends_to_regions


def sizes_of(params):
    """The sizes that params give a model: SIZES and, where it attends to regions, attention_size."""
    return {name: params[name] for name in (*SIZES, *(['attention_size'] if attends_to_regions(params) else []))}


def require_sizes(params, sizes):
    """ValueError unless the sizes are positive, and equal where the generator's equations need that."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f'--{name} {size}: must be at least 1')
    one, other = equal_sizes(params)
    if sizes[one] != sizes[other]:
        raise ValueError(f'--{one} {sizes[one]} and --{other} {sizes[other]}: the {params["generator"]} generator '
                         'needs them to be equal; set both to the same value')


def equal_sizes(params):
    """The two of SIZES that must be equal; the same one twice where none must."""
    if get_generator(params).layer is lstm and not sees_image(params)[0]:
        return 'hidden_size', 'hidden_size'
    return get_generator(params).equal_sizes


def init_model(params, D, bias_init_vector, rng, dtype=np.float32, D_region=0):
    """A new model: uniform in ±0.1 (the RNN's Wd in ±0.01), biases 0, except that bd starts at bias_init_vector (V,).

    params: generator and its sizes; D, D_region: the sizes of the features of a picture and of a region. ValueError
    where the sizes do not fit.
    """
    generator = get_generator(params)
    sizes = sizes_of(params)
    require_sizes(params, sizes)
    E, F, H = (sizes[name] for name in SIZES)
    V = len(bias_init_vector)
    regions = {}
    if generator.attends_to_regions:
        regions = {'Wregion': rng.uniform(-.1, .1, (D_region, E)), 'bregion': np.zeros((1, E)),
                   **soft_attention.init(E, H, sizes['attention_size'], 4 * H, rng)}
    model = {'We': rng.uniform(-.1, .1, (D, E)),
             'be': np.zeros((1, E)),
             'Ws': rng.uniform(-.1, .1, (V, F)),
             **generator.layer.init(F, H, rng),
             **({'Wimage': rng.uniform(-.1, .1, (E, 4 * H))} if has_image_rows(params) else {}),
             **regions,
             'Wd': rng.uniform(-.1, .1, (H, V)) * generator.decoder_scale,
             'bd': rng.uniform(-.1, .1, (1, V))}    # drawn for the sake of the random stream, which runs rely on
    model['bd'][:] = bias_init_vector
    return {name: w.astype(dtype) for name, w in model.items()}


def check_model(model, params, V):
    """ValueError unless model has the parameters of params' generator with V words, of fitting shapes, all finite."""
    expected = shapes(params, 1, dict.fromkeys((*SIZES, 'attention_size'), 1), 1)
    if model.keys() != expected.keys():
        raise ValueError(f'its parameters are {", ".join(model)}, but a {params["generator"]} model has '
                         f'{", ".join(sorted(expected))}')
    for name, w in model.items():
        if w.ndim != 2:
            raise ValueError(f'its {name} has {w.ndim} axes, expected 2')
        if not w.size:
            raise ValueError(f'its {name} is empty, of shape {w.shape}')
        if not np.isfinite(w).all():
            raise ValueError(f'its {name} holds numbers that are not finite')
    D, E = model['We'].shape
    sizes = dict(zip(SIZES, (E, model['Ws'].shape[1], model['Wd'].shape[0]), strict=True))
    D_region = 0
    if attends_to_regions(params):
        D_region, sizes['attention_size'] = len(model['Wregion']), model['Wkey'].shape[1]
    wrong = [name for name, shape in shapes(params, D, sizes, V, D_region).items() if model[name].shape != shape]
    one, other = equal_sizes(params)
    if wrong or sizes[one] != sizes[other]:
        found = ', '.join(f'{name} {model[name].shape}' for name in wrong or ('We', 'Ws', 'Wd'))
        raise ValueError(f'its parameters do not fit each other or its {V} words: {found}')


def regularized(params):
    """Names of the parameters that weight decay acts on."""
    image = ('Wimage',) if has_image_rows(params) else ()
    regions = ('Wregion', *soft_attention.REGULARIZE) if attends_to_regions(params) else ()
    return ('We', 'Ws', *get_generator(params).layer.REGULARIZE, *image, *regions, 'Wd')


# ---- cost and gradients ---------------------------------------------------------------------------------------------

class Dropout(NamedTuple):
    """What dropout keeps, as layers.dropout_draw gives it: a row for each packed sentence or word; None keeps all."""

    images: np.ndarray | None    # (N, …), of the encoded images
    words: np.ndarray | None     # (P, …), of the encoded words
    hidden: np.ndarray | None    # (P, …), of the hidden states on their way to the decoder
    regions: np.ndarray | None   # (N, …), of the encoded regions, the same for all regions of a sentence

    def part(self, sentences, rows):
        """What belongs to a part of the batch, as batch.deal names it."""
        return Dropout(*(kept if kept is None else kept[part]
                         for kept, part in zip(self, (sentences, rows, rows, sentences), strict=True)))


EVERYTHING = Dropout(None, None, None, None)


def draw_dropout(batch, model, params, rng):
    """Draw what dropout keeps in a Batch; without an rng (prediction) everything."""
    encoder = params.get('drop_prob_encoder', 0)
    decoder = params.get('drop_prob_decoder', 0)
    N, P = len(batch.image_rows), len(batch.sentences.inputs)
    return Dropout(dropout_draw(N, model['We'].shape[1], encoder, rng),
                   dropout_draw(P, model['Ws'].shape[1], encoder, rng),
                   dropout_draw(P, model['Wd'].shape[0], decoder, rng),
                   dropout_draw(N, model['We'].shape[1], encoder, rng) if attends_to_regions(params) else None)


def forward(batch, model, params, dropout=EVERYTHING, scratch=None, smoothing=0.):
    """ln p of each target word of a Batch -> logprobs (P,), cache.

    With smoothing, a share of label smoothing, logprobs are (2, P) as in layers.softmax_cost_forward.
    """
    scratch = scratch or Scratch()
    H, _, hidden_cache = hidden_forward(batch, model, params, dropout, scratch)                  # (P, H)
    H, mask = dropout_forward(H, dropout.hidden, params.get('drop_prob_decoder', 0))
    logprobs, decoder_cache = softmax_cost_forward(H, model['Wd'], model['bd'], batch.sentences.targets, scratch,
                                                   smoothing)
    return logprobs, (hidden_cache, mask, decoder_cache)


def backward(scale, cache, params):
    """The gradients of -sum(scale · logprobs) by every parameter, the large ones in scratch. Overwrites the cache.

    scale is one number, or a weight for each word (P,). The gradient by Ws is SparseRows: only words that occur have
    one.
    """
    hidden_cache, mask, decoder_cache = cache
    dH, dWd, dbd = softmax_cost_backward(scale, decoder_cache)                                   # (P, H)
    dH = dropout_backward(dH, mask, out=dH)
    return {'Wd': dWd, 'bd': dbd, **hidden_backward(dH, hidden_cache, params)}


def hidden_forward(batch, model, params, dropout, scratch):
    """All before the decoder: encoders and recurrent layer. Returns H (P, H), the hidden state after each word of a
    Batch; the attention before each word, the weights of the regions (P, R), or None; and the cache.
    """
    drop_prob = params.get('drop_prob_encoder', 0)
    inputs, _, batch_sizes, _ = batch.sentences

    features, regions = split_features(batch.features, model)                                    # (M, D), (M, R, D')
    encoded, image_cache = affine_forward(features, model['We'], model['be'])                    # (M, E)
    Xi, image_mask = dropout_forward(encoded[batch.image_rows], dropout.images, drop_prob)       # (N, E)
    Xs, word_cache = embedding_forward(model['Ws'], inputs)                                      # (P, F)
    Xs, word_mask = dropout_forward(Xs, dropout.words, drop_prob)
    values, region_cache = None, None
    if attends_to_regions(params):    # values (N, R, E)
        values, region_cache = regions_forward(regions, batch.image_rows, dropout.regions, drop_prob, model)

    H, attention, recurrent_cache = get_generator(params).forward(Xi, Xs, values, batch_sizes, model, params, scratch)
    return H, attention, (image_cache, batch.image_rows, image_mask, word_cache, word_mask, region_cache,
                          recurrent_cache, scratch)


def hidden_backward(dH, cache, params):
    """dH (P, H), overwritten -> the gradients by all parameters but the decoder's."""
    image_cache, image_rows, image_mask, word_cache, word_mask, region_cache, recurrent_cache, scratch = cache
    dXi, dXs, dvalues, grads = get_generator(params).backward(dH, recurrent_cache)               # (N, E), (P, F)

    if region_cache is not None:
        grads.update(regions_backward(dvalues, region_cache))
    grads['Ws'] = embedding_backward(dropout_backward(dXs, word_mask), word_cache)
    _, dencoded = embedding_backward(dropout_backward(dXi, image_mask), image_rows)              # (M, E)
    features, We = image_cache
    dWe = scratch('dWe', We.shape, We.dtype)
    grads['We'], grads['be'] = affine_parameters_backward(dencoded, image_cache, out=dWe)
    return grads


def split_features(features, model):
    """Rows of features (M, D + R·D') -> those of the whole pictures (M, D), and of their regions (M, R, D').

    A model without attention needs no regions: None.
    """
    D = len(model['We'])
    if 'Wregion' not in model:
        return features[:, :D], None
    D_region = len(model['Wregion'])
    return features[:, :D], features[:, D:].reshape(len(features), (features.shape[1] - D) // D_region, D_region)


def cost_of(logprobs, N, model, params):
    """(sum of -ln p, plus ½·regc·‖W‖² over the regularized parameters) / N sentences.

    logprobs: as forward gives them; the second row of label smoothing, where there is one, takes the place of ln p.
    Returns the cost and stats {'loss_cost', 'reg_cost', 'ppl2'}: its two parts and the perplexity a word, which is that
    of the words themselves.
    """
    rows = np.atleast_2d(logprobs)                                              # (1 or 2, P)
    total, total_of_words = (float(row.sum(dtype=np.float64)) for row in (rows[-1], rows[0]))
    regc = params.get('regc', 0)
    squares = sum(float(np.vdot(model[name], model[name])) for name in regularized(params)) if regc else 0.
    stats = {'loss_cost': -total / N, 'reg_cost': .5 * regc * squares / N,
             'ppl2': perplexity(total_of_words, rows.shape[1])}
    return stats['loss_cost'] + stats['reg_cost'], stats


def cost_and_grads(batch, model, params, rng=None, workers=None):
    """The cost of a Batch, its gradients by every parameter (names and shapes of model), and cost_of's stats.

    rng draws the dropout; without one nothing is dropped. params' label_smoothing is the share of label smoothing. The
    gradients live in the workers' memory: they are valid until the next call. The number of threads changes nothing but
    the rounding.
    """
    N = len(batch.image_rows)
    dropout = draw_dropout(batch, model, params, rng)
    logprobs, grads = logprobs_and_grads(batch, model, params, 1 / N, dropout, workers,
                                         params.get('label_smoothing', 0))
    cost, stats = cost_of(logprobs, N, model, params)
    return cost, grads, stats


def logprobs_and_grads(batch, model, params, weights, dropout=EVERYTHING, workers=None, smoothing=0.):
    """ln p of each target word of a Batch (P,), in the order of the threads' parts; and the gradients of
    -sum(weights · ln p), plus those of the regularization, by every parameter. smoothing: as for forward.

    weights: one number, or one for each word (P,) in the order of the batch. Each of the workers' threads takes a part
    of the sentences forward and back, then all of them add up the gradients.
    """
    workers = workers or Workers()

    def run(part_and_scratch):
        (part, sentences, rows), scratch = part_and_scratch
        logprobs, cache = forward(part, model, params, dropout.part(sentences, rows), scratch, smoothing)
        return logprobs, backward(weights if np.ndim(weights) == 0 else weights[rows], cache, params)

    found = workers.run_share(run, deal(batch, workers.num_parts))
    logprobs = workers.ranks.gather([logprobs for logprobs, _ in found])
    decay = dict.fromkeys(regularized(params), params.get('regc', 0) / len(batch.image_rows))
    return np.concatenate(logprobs, axis=-1), add_up([grads for _, grads in found], model, decay, workers)


def weights_of_regions(batch, model, params, scratch=None):
    """Where an attention model looks before each word of a Batch: the weights of the regions (P, R)."""
    _, weights, _ = hidden_forward(batch, model, params, EVERYTHING, scratch or Scratch())
    return weights


# ---- decoding -------------------------------------------------------------------------------------------------------

def encode_images(features, model, params):
    """The state before START, a tuple of arrays (n, …) and perhaps a Sight, from image features (n, D + R·D')."""
    features, regions = split_features(features, model)
    encoded, _ = affine_forward(features, model['We'], model['be'])
    sight = None
    if attends_to_regions(params):
        values, _ = regions_forward(regions, slice(None), None, 0, model)
        sight = Sight(values, model)
    return get_generator(params).start(encoded, sight, model, params)


def make_tick(model, params, workers=None, likeliest=False):
    """The function that search steps: tick(words (n,), state) -> logprobs (n, V), state.

    With likeliest, tick -> (the likeliest words (n,), their logprobs (n,)), state, which is all that a greedy search
    needs. What each word adds to the sums of the recurrent layer is computed here, once for the whole vocabulary. Where
    tick is given a scratch of its own thread, logprobs live in it: they are valid until the next step.
    """
    layer, Ws = get_generator(params).layer, model['Ws']
    workers = workers or Workers()
    words_in = np.concatenate(workers.run(lambda rows: layer.project(Ws[rows], model, params), row_blocks(Ws)))

    def tick(words, state, scratch=None):
        h, state = layer.tick(words_in[words], state, model, params)                             # (n, H)
        y = None if scratch is None else scratch('y', (len(h), len(words_in)), h.dtype)
        y, _ = affine_forward(h, model['Wd'], model['bd'], out=y)                                # (n, V)
        return (likeliest_words(y) if likeliest else log_softmax(y)), state

    return tick


def make_ensemble_tick(members, workers=None, likeliest=False):
    """make_tick of several models with the same vocabulary: the mean of their probabilities at each word.

    members: a list of (model, params). The state is that of ensemble_start.
    """
    if len(members) == 1:
        return make_tick(*members[0], workers, likeliest)
    mean_tick = make_mean_tick([make_tick(model, params, workers) for model, params in members],
                               [num_parts_of_state(model, params) for model, params in members])

    def tick(words, state, scratch=None):
        y, state = mean_tick(words, state, scratch)                                              # (n, V)
        return (likeliest_words(y) if likeliest else y), state

    return tick


def num_parts_of_state(model, params):
    """The length of the tuple that encode_images gives."""
    width = len(model['We']) + len(model.get('Wregion', ()))    # as with one region
    return len(encode_images(np.zeros((1, width), model['We'].dtype), model, params))


def ensemble_start(features, members):
    """encode_images of every member, the parts of their states one after another."""
    return tuple(part for model, params in members for part in encode_images(features, model, params))

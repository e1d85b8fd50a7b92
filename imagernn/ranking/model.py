"""The ranking model: vectors of images and of sentences in one space; scores, cost and gradients.

model is a flat dict of 2-D arrays, params the dict of the command line's flags. There are two rankers, which differ in
how many vectors there are:

    sentences   an image is one vector, a sentence is one: the last state of a recurrent layer (Kiros et al. 2014)
    regions     an image has a vector for each region, a sentence one for each word and for END, by a recurrent layer in
                both directions (Karpathy & Fei-Fei 2015)

Knows nothing of files, training loops or text.
"""

from typing import NamedTuple

import numpy as np

from imagernn.nn import bidirectional, gru, lstm, rnn
from imagernn.nn.layers import (
    affine_backward,
    affine_forward,
    affine_parameters_backward,
    dropout_backward,
    dropout_draw,
    dropout_forward,
    embedding_backward,
    embedding_forward,
    normalize_backward,
    normalize_forward,
    relu_backward,
    relu_forward,
)
from imagernn.nn.packing import Packed, by_sentence, last_rows, pack, split, unpack
from imagernn.nn.sharing import add_up
from imagernn.nn.workers import Workers
from imagernn.ranking.losses import LOSSES
from imagernn.ranking.scores import scores_backward, scores_forward

ENCODERS = {'gru': gru, 'lstm': lstm, 'rnn': rnn}
SENTENCES_AT_ONCE = 200    # in encode_sentences, by each thread


class Batch(NamedTuple):
    """N images and a sentence of each, packed; image k belongs to packed sentence k."""

    features: np.ndarray     # (N, R, D)
    sentences: Packed


class Sentences(NamedTuple):
    """The vectors of N sentences, one sentence after another."""

    vectors: np.ndarray      # (P, E)
    starts: np.ndarray       # (N + 1,), where each sentence begins, and the end of the last


# ---- the parameters -------------------------------------------------------------------------------------------------

def shapes(params, D, F, H, V):
    """Parameter name -> shape. D: the size of an image's features, F of an encoded word, H of the hidden state and of
    the common space; V: the number of words.
    """
    layer = ENCODERS[params['encoder']]
    if params['ranker'] == 'sentences':
        return {'We': (D, H), 'be': (1, H), 'Ws': (V, F), **layer.shapes(F, H)}
    return {'We': (D, H), 'be': (1, H), 'Ws': (V, F), **bidirectional.shapes(layer, F, H), 'Wd': (H, H), 'bd': (1, H)}


def init_model(params, D, V, rng, dtype=np.float32):
    """A new model: uniform in ±0.1, or as the recurrent layer has it; biases 0."""
    layer, F, H = ENCODERS[params['encoder']], params['word_encoding_size'], params['hidden_size']
    regions = params['ranker'] == 'regions'
    model = {'We': rng.uniform(-.1, .1, (D, H)), 'be': np.zeros((1, H)), 'Ws': rng.uniform(-.1, .1, (V, F)),
             **(bidirectional.init(layer, F, H, rng) if regions else layer.init(F, H, rng)),
             **({'Wd': rng.uniform(-.1, .1, (H, H)), 'bd': np.zeros((1, H))} if regions else {})}
    return {name: w.astype(dtype) for name, w in model.items()}


def check_model(model, params, V):
    """ValueError unless model has the parameters of params' ranker and encoder with V words, of fitting shapes, all
    finite.
    """
    expected = shapes(params, 1, 1, 1, 1)
    if model.keys() != expected.keys():
        raise ValueError(f'its parameters are {", ".join(model)}, but this ranker has {", ".join(expected)}')
    for name, w in model.items():
        if w.ndim != 2 or not w.size or not np.isfinite(w).all():
            raise ValueError(f'its {name} is not a matrix of finite numbers')
    (D, H), F = model['We'].shape, model['Ws'].shape[1]
    if wrong := [name for name, shape in shapes(params, D, F, H, V).items() if model[name].shape != shape]:
        found = ', '.join(f'{name} {model[name].shape}' for name in wrong)
        raise ValueError(f'its parameters do not fit each other or its {V} words: {found}')


def regularized(params):
    """Names of the parameters that weight decay acts on."""
    layer = ENCODERS[params['encoder']]
    if params['ranker'] == 'sentences':
        return ('We', 'Ws', *layer.REGULARIZE)
    return ('We', 'Ws', *bidirectional.regularized(layer), 'Wd')


# ---- vectors of images and of sentences -----------------------------------------------------------------------------

def images_forward(features, kept, model, params):
    """features (M, R, D) -> vectors (M, R, E), cache. Dropout keeps the same features in all regions of an image."""
    M, R, D = features.shape
    _, mask = dropout_forward(features[:, 0], kept, params.get('drop_prob_image', 0))            # (M, D)
    if mask is not None:
        features = features * mask[:, None]
    vectors, cache = affine_forward(features.reshape(M * R, D), model['We'], model['be'])        # (M·R, E)
    vectors, norms = _similarity_forward(vectors, params)
    return vectors.reshape(M, R, -1), (cache, norms)


def images_backward(dvectors, cache):
    """dvectors (M, R, E) -> grads."""
    cache, norms = cache
    dvectors = _similarity_backward(dvectors.reshape(-1, dvectors.shape[2]), norms)
    dWe, dbe = affine_parameters_backward(dvectors, cache)
    return {'We': dWe, 'be': dbe}


def sentences_forward(sentences, kept, model, params, scratch):
    """Packed sentences -> vectors, cache: of each sentence (N, E), or of each packed word and END (P, E)."""
    layer = ENCODERS[params['encoder']]
    X, word_cache = embedding_forward(model['Ws'], sentences.targets)                            # w1, …, END: (P, F)
    X, mask = dropout_forward(X, kept, params.get('drop_prob_word', 0))
    on, affine_cache = None, None
    if params['ranker'] == 'sentences':
        _, last, cache = layer.forward(X, sentences.batch_sizes, model, params, scratch=scratch)
        vectors = last[0]                                                                        # (N, E)
    else:
        H, cache = bidirectional.forward(layer, X, sentences.batch_sizes, model, params, scratch)
        vectors, affine_cache = affine_forward(H, model['Wd'], model['bd'])                      # (P, E)
        if layer is rnn:    # the paper's network has a ReLU here, too
            vectors, on = relu_forward(vectors)
    vectors, norms = _similarity_forward(vectors, params)
    return vectors, (layer, word_cache, mask, cache, affine_cache, on, norms, sentences.batch_sizes)


def sentences_backward(dvectors, cache):
    """dvectors (N, E) or (P, E) -> grads. That by Ws is SparseRows: only words that occur have one."""
    layer, word_cache, mask, cache, affine_cache, on, norms, batch_sizes = cache
    dvectors = _similarity_backward(dvectors, norms)
    if affine_cache is None:
        dH = np.zeros((sum(batch_sizes), dvectors.shape[1]), dvectors.dtype)
        dH[last_rows(batch_sizes)] = dvectors
        dX, _, grads = layer.backward(dH, cache)
    else:
        if on is not None:
            dvectors = relu_backward(dvectors, on)
        dH, dWd, dbd = affine_backward(dvectors, affine_cache)
        dX, grads = bidirectional.backward(dH, cache)
        grads |= {'Wd': dWd, 'bd': dbd}
    grads['Ws'] = embedding_backward(dropout_backward(dX, mask), word_cache)
    return grads


def _similarity_forward(vectors, params):
    """Vectors whose dot products are the similarity: as they are, or of length 1 for the cosine."""
    return normalize_forward(vectors) if params['similarity'] == 'cosine' else (vectors, None)


def _similarity_backward(dvectors, cache):
    return dvectors if cache is None else normalize_backward(dvectors, cache)


def encode_images(features, model, params):
    """features (n, R, D) -> vectors (n, R, E), for prediction."""
    return images_forward(features, None, model, params)[0]


def encode_sentences(words, lengths, model, params, workers=None):
    """The Sentences of word indices: words (K,) holds N sentences one after another, lengths (N,) their numbers of
    words. A sentence has one vector, or one for each word and for END.
    """
    workers = workers or Workers()
    starts = np.concatenate([[0], np.cumsum(lengths)])

    def encode(first):
        some = slice(first, first + SENTENCES_AT_ONCE)
        packed = pack(words[starts[first]:starts[min(some.stop, len(lengths))]], lengths[some])
        with workers.scratch() as scratch:
            vectors, _ = sentences_forward(packed, None, model, params, scratch)
            if params['ranker'] == 'sentences':
                return vectors[np.argsort(packed.order)]
            return np.concatenate(unpack(vectors, packed))

    found = list(workers.map(encode, range(0, len(lengths), SENTENCES_AT_ONCE)))
    counts = np.ones(len(lengths), np.int64) if params['ranker'] == 'sentences' else np.asarray(lengths) + 1
    empty = np.empty((0, model['We'].shape[1]), model['We'].dtype)
    return Sentences(np.concatenate([empty, *found]), np.concatenate([[0], np.cumsum(counts)]))


# ---- cost and gradients ---------------------------------------------------------------------------------------------

class Dropout(NamedTuple):
    """What dropout keeps, as layers.dropout_draw gives it; None keeps all."""

    images: np.ndarray | None    # (N, …), of the features of each image
    words: np.ndarray | None     # (P, …), of the encoded words


def draw_dropout(batch, model, params, rng):
    """Draw what dropout keeps in a Batch; without an rng (prediction) everything."""
    return Dropout(dropout_draw(len(batch.features), batch.features.shape[2], params.get('drop_prob_image', 0), rng),
                   dropout_draw(len(batch.sentences.targets), model['Ws'].shape[1], params.get('drop_prob_word', 0),
                                rng))


def cost_and_grads(batch, model, params, rng=None, workers=None):
    """The cost of a Batch, its gradients by every parameter (names and shapes of model), and stats {'loss'}.

    The cost is params' loss plus ½·regc·‖W‖² / N over the regularized parameters. rng draws the dropout; without one
    nothing is dropped. The gradients live in the workers' memory: they are valid until the next call. Each thread takes
    a part of the images and of the sentences; their number changes nothing but the rounding.
    """
    workers = workers or Workers()
    dropout = draw_dropout(batch, model, params, rng)
    N, num_parts = len(batch.features), min(workers.num_parts, len(batch.features))
    parts = split(batch.sentences, num_parts)
    blocks = [slice(N * k // num_parts, N * (k + 1) // num_parts) for k in range(num_parts)]
    own = workers.share_of(range(num_parts))
    scratches = dict(zip(own, workers.scratches, strict=False))

    def run(function):
        return dict(zip(own, workers.run(function, own), strict=True))

    # the vectors of each thread's images, and of its sentences
    def encode(k):
        part, _, rows = parts[k]
        some = [kept if kept is None else kept[which]
                for kept, which in zip(dropout, (blocks[k], rows), strict=True)]
        return (images_forward(batch.features[blocks[k]], some[0], model, params),
                sentences_forward(part, some[1], model, params, scratches[k].part('encoder')))

    encoded = run(encode)
    vectors = workers.ranks.gather([vectors for _, (vectors, _) in encoded.values()])
    words, places, order, starts = _gathered(vectors, parts, batch.sentences, params)

    # the scores of each thread's images with all sentences; what they cost
    mean = params['pool'] == 'mean'
    scored = run(lambda k: scores_forward(encoded[k][0][0], words, starts, mean, scratches[k].part('scores')))
    loss, dS = LOSSES[params['loss']](np.concatenate(workers.ranks.gather([S for S, _ in scored.values()])), params)

    # and back: through the scores, then through the encoders
    dvectors = run(lambda k: scores_backward(dS[blocks[k]], scored[k][1]))
    dwords = np.zeros_like(words)
    dwords[order] = sum(dwords_of_block for _, dwords_of_block in dvectors.values())
    workers.ranks.add_up(dwords.reshape(-1), workers.scratches[0])

    def back(k):
        images, sentences = encoded[k]
        return images_backward(dvectors[k][0], images[1]) | sentences_backward(dwords[places[k]], sentences[1])

    grads = [*run(back).values()]
    regc = params.get('regc', 0)
    squares = sum(float(np.vdot(model[name], model[name])) for name in regularized(params)) if regc else 0.
    decay = dict.fromkeys(regularized(params), regc / N)
    return loss + .5 * regc * squares / N, add_up(grads, model, decay, workers), {'loss': loss}


def _gathered(vectors, parts, sentences, params):
    """The vectors of all parts, sentence by sentence: words (P, E), and what leads back to the parts.

    places: of each part, its rows among all in packed order; order: the packed row of each of words; starts (N + 1,).
    """
    if params['ranker'] == 'sentences':
        places = [part_sentences for _, part_sentences, _ in parts]
        order, starts = np.arange(len(sentences.order)), np.arange(len(sentences.order) + 1)
    else:
        places = [rows for _, _, rows in parts]
        order, starts = by_sentence(sentences.batch_sizes)
    packed = np.empty((len(order), vectors[0].shape[1]), vectors[0].dtype)
    for place, some in zip(places, vectors, strict=True):
        packed[place] = some
    return packed[order], places, order, starts

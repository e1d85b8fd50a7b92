"""What the scripts share to judge a model on a split: perplexity of the true sentences, captions by a search.

Glues data provider, batch, captioner and search; computes no score of its own.
"""

import numpy as np
from tqdm import tqdm

from imagernn.batch import make_batch
from imagernn.captioner import encode_images, forward, make_tick, perplexity
from imagernn.errors import InputError
from imagernn.layers import Scratch
from imagernn.search import beam_search, greedy_search, sample_search
from imagernn.vocab import decode

ROWS_AT_ONCE = 400    # beams that go through one tick: enough to keep the matrix products busy


def split_perplexity(provider, split, model, params, wordtoix, max_images=-1, batch_size=100, progress=True):
    """Perplexity a word (END among them) of a split's sentences under the model; words outside wordtoix are dropped.

    max_images: negative is all, 0 is none (InputError: there would be nothing to measure).
    """
    dtype, scratch = model['Wd'].dtype, Scratch()
    logprob = num_words = 0
    pairs = provider.iterImageSentencePairBatch(split, max_images, batch_size)
    batches = tqdm(pairs, desc=f'perplexity on {split}', unit='batch', leave=False, disable=None if progress else True)
    for batch in (make_batch(pairs, provider.features, wordtoix, dtype) for pairs in batches):
        logprobs, _ = forward(batch, model, params, scratch=scratch)
        logprob += float(logprobs.sum(dtype=np.float64))
        num_words += len(logprobs)
    if not num_words:
        raise InputError(f'the {split} split has no sentences to evaluate within {max_images} images; '
                         'allow more images, or -1 for all')
    return perplexity(logprob, num_words)


def find_sentences(features, model, params, beam_size=1, temperature=0., rng=None):
    """Sentences for images, by the search that was asked for.

    features (n, D). temperature > 0 samples with rng; else beam_size 1 is greedy and more is a beam search.
    Yields, for each image, a list of (logprob, [ix, …]), best first.
    """
    tick = make_tick(model, params)
    step = max(1, ROWS_AT_ONCE // beam_size)
    for start in range(0, len(features), step):
        state = encode_images(features[start:start + step], model, params)
        if temperature > 0:
            yield from sample_search(tick, state, rng, temperature)
        elif beam_size == 1:
            yield from greedy_search(tick, state)
        else:
            yield from beam_search(tick, state, beam_size)


def texts(sentences, ixtoword, nbest=1):
    """A search's list for one image -> [{'text', 'logprob'}, …], the first nbest."""
    return [{'text': decode(words, ixtoword), 'logprob': logprob} for logprob, words in sentences[:nbest]]

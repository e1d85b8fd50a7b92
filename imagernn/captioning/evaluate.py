"""A model put to use: its perplexity on a split, captions by a search."""

import numpy as np
from tqdm import tqdm

from imagernn.captioning.batch import Batch, make_batch
from imagernn.captioning.model import encode_images, forward, make_tick
from imagernn.corpus.vocab import decode
from imagernn.errors import InputError
from imagernn.metrics.perplexity import perplexity
from imagernn.nn.packing import pack, unpack
from imagernn.nn.search import MAX_LENGTH, beam_search, greedy_search, sample_search
from imagernn.nn.workers import Workers

LOG_TINY = float(np.log(1e-20))    # as in NeuralTalk: a word's probability counts as p + 1e-20 in a split's perplexity
ROWS_AT_ONCE = 400    # beams that go through one tick: enough to keep the matrix products busy
CAPTIONS_AT_ONCE = 100    # that go through one pass, with a row of the vocabulary's size for each word


def split_perplexity(provider, split, model, params, wordtoix, max_images=-1, batch_size=100, workers=None):
    """Perplexity a word (END among them) of a split's sentences under the model; words outside wordtoix are dropped.

    max_images: negative is all, 0 is none (InputError: there would be nothing to measure).
    """
    pairs = provider.iterImageSentencePairBatch(split, max_images, batch_size)
    batches = (make_batch(some, provider.features, wordtoix, model['Wd'].dtype)
               for some in tqdm(pairs, desc=f'perplexity on {split}', unit='batch', leave=False, disable=None))
    found = batches_perplexity(batches, model, params, workers or Workers())
    if found is None:
        raise InputError(f'of the {split} split {max_images} images are to be evaluated: allow more, or -1 for all')
    return found


def batches_perplexity(batches, model, params, workers):
    """Perplexity a word of an iterable of Batches; None where there are none. Each thread takes a batch at a time."""

    def logprob_of(batch):
        with workers.scratch() as scratch:
            logprobs, _ = forward(batch, model, params, scratch=scratch)
            return float(np.logaddexp(logprobs, LOG_TINY).sum(dtype=np.float64)), len(logprobs)

    sums = list(workers.map(logprob_of, batches))
    return perplexity(*map(sum, zip(*sums, strict=True))) if sums else None


def caption_images(rows, num_images, model, params, ixtoword, options, workers=None):
    """Captions of images, in order: for each the list of (logprob, [word, …]), the options['nbest'] best first.

    rows(i, j) gives the features (j - i, D) of images i to j. options: beam_size (1 is greedy), temperature (above 0:
    one caption drawn at random, by seed), nbest. InputError where the model's numbers overflow. Each of the workers'
    threads takes a group of images at a time.
    """
    workers, captions = workers or Workers(), []
    beam_size, temperature = options['beam_size'], options['temperature']
    greedy = beam_size == 1 and temperature == 0
    tick = make_tick(model, params, workers, likeliest=greedy)
    step = max(1, ROWS_AT_ONCE // beam_size)
    if temperature == 0:    # else the draws follow the groups: the same for any number of threads
        step = max(1, min(step, -(-num_images // len(workers.scratches))))

    def search(group):
        first_image, features = group
        state = encode_images(features, model, params)
        with workers.scratch() as scratch:

            def step_tick(words, state):
                workers.go_on()
                return tick(words, state, scratch)

            if greedy:
                return greedy_search(step_tick, state)
            if temperature > 0:
                return sample_search(step_tick, state, np.random.default_rng([options['seed'], first_image]),
                                     temperature)
            return beam_search(step_tick, state, beam_size, nbest=options['nbest'])

    groups = ((start, rows(start, min(start + step, num_images))) for start in range(0, num_images, step))
    with tqdm(total=num_images, desc='captions', unit='image', disable=None) as progress:
        for found in workers.map(search, groups):
            if not all(sentences and np.isfinite(sentences[0][0]) for sentences in found):
                raise InputError('the model finds no sentence: its numbers overflow; use a checkpoint from before '
                                 'its weights exploded')
            captions += [[(logprob, decode(indices, ixtoword)) for logprob, indices in sentences[:options['nbest']]]
                         for sentences in found]
            progress.update(len(found))
    return captions


def word_logprobs(rows, captions, model, params, ixtoword, workers=None):
    """ln p of each word of the captions that caption_images found, and of END, last, where a caption came to it.

    rows, model, params, ixtoword, workers as there. Returns for each image and each of its captions a list whose sum is
    the caption's logprob, to rounding: one more pass forward, as in training.
    """
    wordtoix, workers = {word: ix for ix, word in ixtoword.items()}, workers or Workers()

    def logprobs_of(group):
        features, found = group
        image_rows = np.repeat(np.arange(len(found)), [len(some) for some in found])
        sentences = [words for some in found for _, words in some]
        inputs, targets, batch_sizes, order = pack([[wordtoix[word] for word in words] for words in sentences])
        batch = Batch(features, image_rows[order], inputs, targets, batch_sizes, order)
        with workers.scratch() as scratch:
            logprobs, _ = forward(batch, model, params, scratch=scratch)
        each = iter(unpack(logprobs, batch_sizes, order))
        # a caption that was cut off at MAX_LENGTH words has no END
        return [[next(each)[:MAX_LENGTH].tolist() for _ in some] for some in found]

    step = max(1, CAPTIONS_AT_ONCE // max(map(len, captions), default=1))
    groups = ((rows(start, min(start + step, len(captions))), captions[start:start + step])
              for start in range(0, len(captions), step))
    return [image for found in workers.map(logprobs_of, groups) for image in found]

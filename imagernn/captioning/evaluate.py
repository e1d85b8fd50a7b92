"""A captioning model put to use: its perplexity on a split, and captions by a search.

Joins data provider, batch, model and search; computes no score of captions.
"""

from itertools import chain
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from imagernn.captioning.batch import batch_of_pairs, make_batch
from imagernn.captioning.consensus import by_expected_cider, word_rarity
from imagernn.captioning.model import (
    attends_to_regions,
    ensemble_start,
    forward,
    make_ensemble_tick,
    weights_of_regions,
)
from imagernn.corpus.known_words import known_words
from imagernn.corpus.vocab import decode, lookup_table
from imagernn.errors import InputError
from imagernn.metrics.cider import cider
from imagernn.metrics.perplexity import perplexity
from imagernn.nn.packing import unpack
from imagernn.nn.search import beam_search, greedy_search, pooled_beam_search, sample_search
from imagernn.nn.workers import Workers

LOG_TINY = float(np.log(1e-20))    # as in NeuralTalk: a word's probability counts as p + 1e-20 in a split's perplexity
ROWS_AT_ONCE = 400    # beams that go through one tick: enough to keep the matrix products busy
SENTENCES_AT_ONCE = 100    # that are read again for their attention: as many as a batch in training, which fits memory


class Caption(NamedTuple):
    """A caption as words."""

    logprob: float          # the sum of ln p over its words, and over END where it came to its end
    words: list             # without END
    word_logprobs: list     # ln p of each word, and last that of END where it came to its end
    attention: list | None = None    # before each of these, the weights of the regions that the model attended to


def split_perplexity(provider, split, model, params, wordtoix, max_images=-1, batch_size=100, workers=None,
                     ensemble=()):
    """Perplexity per word (END among them) of a split's sentences; words outside wordtoix are dropped.

    ensemble: as for caption_images. max_images: negative is all, 0 is none. InputError where there would be nothing to
    measure: no images, or no word that wordtoix has.
    """
    lookup = lookup_table(provider.words, wordtoix)
    known_words(provider, split, lookup, max_images)
    workers = workers or Workers()
    pairs = tqdm(provider.iter_pairs(split, max_images, batch_size), desc=f'perplexity on {split}', unit='batch',
                 leave=False, disable=workers.ranks.no_bars)
    found = batches_perplexity(pairs, model, params, workers, ensemble,
                               lambda some: batch_of_pairs(some, provider, lookup, model['Wd'].dtype))
    if found is None:
        raise InputError(f'of the {split} split {max_images} images are to be evaluated: allow more, or -1 for all')
    return found


def split_cider(provider, split, model, params, ixtoword, max_images=-1, workers=None):
    """The mean CIDEr-D of greedy captions of a split's images, on the scale of metrics.cider: 1 is what papers print
    as 100. max_images as for split_perplexity.
    """
    images, workers = list(provider.iterImages(split, max_images)), workers or Workers()
    imgids, dtype = [image['imgid'] for image in images], model['Wd'].dtype
    options = {'beam_size': 1, 'temperature': 0, 'nbest': 1, 'seed': 0}
    captions = list(caption_images(lambda i, j: provider.features.rows(imgids[i:j], dtype=dtype), len(images), model,
                                   params, ixtoword, options, workers))
    references = [[sentence['tokens'] for sentence in image['sentences']] for image in images]
    return workers.ranks.from_first(lambda: cider([found[0].words for found in captions], references)[0])


def batches_perplexity(batches, model, params, workers, ensemble=(), prepare=None):
    """Perplexity per word of an iterable of Batches; None where there are none. Each thread takes a batch at a time.

    prepare(item): makes a Batch of an item of batches, where these are none yet.
    """
    members = [(model, params), *ensemble]

    def logprob_of(batch):
        with workers.scratch() as scratch:
            logprobs = [forward(batch, *member, scratch=scratch)[0] for member in members]    # each (P,)
        mean = np.logaddexp.reduce(logprobs) - np.log(len(members)) if ensemble else logprobs[0]
        return float(np.logaddexp(mean, LOG_TINY).sum(dtype=np.float64)), len(mean)

    sums = list(workers.map_shared(logprob_of, batches, prepare))
    return perplexity(*map(sum, zip(*sums, strict=True))) if sums else None


def caption_images(rows, num_images, model, params, ixtoword, options, workers=None, ensemble=(), attention=False,
                   ranks=None, stop=None):
    """Captions of images: yields for each image, in order, the list of its options['nbest'] best Captions.

    rows(i, j) gives the features (j - i, D) of images i to j. options: beam_size (1 is greedy), temperature (above 0:
    one caption drawn at random, by seed), nbest; beam_kind ('neuraltalk' or 'pool'), length_penalty and mbr_samples,
    which may be left out: above 1, so many captions are drawn, by seed and temperature, and ordered by
    consensus.by_expected_cider. ensemble: further (model, params) with the same vocabulary and features, whose
    probabilities are averaged with those of the first. attention: whether to add to the Captions the attention of the
    first model, if it attends to regions. Each of the workers' threads searches a group of images at a time. ranks: the
    processes that share the images (default: those of the workers), of which the first alone yields captions. stop: as
    for their in_turn. Raises InputError where the model's numbers overflow.
    """
    workers, members = workers or Workers(), [(model, params), *ensemble]
    ranks = ranks or workers.ranks
    beam_size, temperature, samples = options['beam_size'], options['temperature'], options.get('mbr_samples', 0)
    greedy = beam_size == 1 and temperature == 0 and options.get('beam_kind') != 'pool'
    tick = make_ensemble_tick(members, workers, likeliest=greedy)
    rarity = word_rarity([model for model, _ in members]) if samples else None

    def search(first_image, features, scratch):
        state = ensemble_start(features, members)

        def step_tick(words, state):
            workers.go_on()
            return tick(words, state, scratch)

        if samples:
            return [best_of_drawn(step_tick, state, features[0], options, rarity)]
        if greedy:
            return greedy_search(step_tick, state)
        if temperature > 0:
            return sample_search(step_tick, state, np.random.default_rng([options['seed'], first_image]), temperature)
        return best_of_beam(step_tick, state, options)

    def captions_of(group):
        first_image, features = group
        with workers.scratch() as scratch:
            found = [sentences[:options['nbest']] for sentences in search(first_image, features, scratch)]
            captions = [as_captions(sentences, ixtoword) for sentences in found]
            if attention and attends_to_regions(params):
                captions = with_attention(captions, found, features, model, params, scratch)
            return captions

    starts = range(0, num_images, step := images_at_once(num_images, options, workers.num_parts))
    groups = ((start, rows(start, min(start + step, num_images))) for start in starts[ranks.rank::ranks.size])
    with tqdm(total=num_images, desc='captions', unit='image', leave=None, disable=ranks.no_bars) as progress:
        for captions in ranks.in_turn(workers.map(captions_of, groups), stop):
            yield from captions
            progress.update(len(captions))


def images_at_once(num_images, options, num_parts):
    """The size of the groups in which caption_images searches."""
    if options.get('mbr_samples', 0):    # an image's draws depend on no other image at all
        return 1
    most = max(1, ROWS_AT_ONCE // options['beam_size'])
    if options['temperature'] > 0:    # the draws depend on the groups, which must not depend on the number of threads
        return most
    return max(1, min(most, -(-num_images // num_parts)))


def largest_features(features, number=8):
    """The places of an image's largest features (D,), largest first: a seed of its own, which rounding leaves alone."""
    return np.argsort(-features, kind='stable')[:number].tolist()


def best_of_drawn(tick, state, features, options, rarity):
    """The sentences drawn for one image with these features (D,), ordered by minimum Bayes risk."""
    state = tuple(rows[np.zeros(options['mbr_samples'], np.int64)] for rows in state)    # one image, many times
    rng = np.random.default_rng([options['seed'], *largest_features(features)])
    drawn = sample_search(tick, state, rng, options['temperature'])
    return by_expected_cider([sentence for sentence, in drawn], rarity)


def best_of_beam(tick, state, options):
    """The options['nbest'] best sentences of each image by the beam search that options name."""
    beam_size, nbest, penalty = options['beam_size'], options['nbest'], options.get('length_penalty', 0.)
    if options.get('beam_kind') == 'pool':
        return pooled_beam_search(tick, state, beam_size, nbest=nbest, length_penalty=penalty)
    if not penalty:
        return beam_search(tick, state, beam_size, nbest=nbest)
    return [sorted(found, key=lambda sentence: -sentence.logprob / len(sentence.words) ** penalty)
            for found in beam_search(tick, state, beam_size)]


def with_attention(captions, found, features, model, params, scratch):
    """The same lists of Captions with their attention. The model reads the captions that it has found once more.

    captions, found: of each image, its Captions and the search.Sentences that they were; features (n, D + R·D').
    """
    images = np.repeat(np.arange(len(found)), list(map(len, found)))            # (K,), of each sentence
    sentences = [[word for word in sentence.words if word] for each in found for sentence in each]
    weights = []    # of each sentence, (length + 1, R)
    for start in range(0, len(sentences), SENTENCES_AT_ONCE):
        some = sentences[start:start + SENTENCES_AT_ONCE]
        rows, image_rows = np.unique(images[start:start + SENTENCES_AT_ONCE], return_inverse=True)
        batch = make_batch(features[rows], image_rows, np.array(list(chain.from_iterable(some)), np.int64),
                           np.array(list(map(len, some))))
        weights += unpack(weights_of_regions(batch, model, params, scratch), batch.sentences)
    following = iter(weights)
    return [[caption._replace(attention=next(following)[:len(caption.word_logprobs)].tolist()) for caption in each]
            for each in captions]


def as_captions(sentences, ixtoword):
    """What a search found of one image, a list of search.Sentence, as Captions. InputError where it found none."""
    if not sentences or not np.isfinite(sentences[0].logprob):
        raise InputError('the model finds no sentence: its numbers overflow; use a checkpoint from before its weights '
                         'exploded')
    return [Caption(logprob, decode(words, ixtoword), word_logprobs) for logprob, words, word_logprobs in sentences]

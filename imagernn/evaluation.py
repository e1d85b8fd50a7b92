"""What the scripts share to put a model to use: loading it, its perplexity on a split, captions by a search.

Glues checkpoint, data provider, batch, captioner and search; computes no score of its own.
"""

import os

import numpy as np
from tqdm import tqdm

from imagernn.batch import Batch, make_batch, pack, unpack
from imagernn.blas import NUM_THREADS
from imagernn.captioner import check_model, encode_images, forward, make_tick, perplexity
from imagernn.checkpoint import load_checkpoint
from imagernn.errors import InputError
from imagernn.search import MAX_LENGTH, beam_search, greedy_search, sample_search
from imagernn.vocab import decode
from imagernn.workers import Workers

LOG_TINY = float(np.log(1e-20))    # as in NeuralTalk: a word's probability counts as p + 1e-20 in a split's perplexity
MAX_BEAM_SIZE, MAX_THREADS = 10_000, 1000
ROWS_AT_ONCE = 400    # beams that go through one tick: enough to keep the matrix products busy
CAPTIONS_AT_ONCE = 100    # that go through one pass, with a row of the vocabulary's size for each word


def load_captioner(path, dtype=None):
    """A checkpoint whose model is known to be whole, its arrays in dtype (default: as they are).

    InputError names the file and what is wrong with it.
    """
    checkpoint = load_checkpoint(path)
    try:
        V = len(checkpoint['ixtoword'])
        if set(checkpoint['ixtoword']) != set(range(V)):
            raise InputError(f'its {V} words are not numbered from 0 to {V - 1}')
        check_model(checkpoint['model'], checkpoint['params'], V)
    except InputError as error:
        raise InputError(f'{path}: {error}; use another copy of the checkpoint') from None
    checkpoint['model'] = {name: w.astype(dtype or w.dtype) for name, w in checkpoint['model'].items()}
    return checkpoint


def trained_data(checkpoint, dataset, features):
    """Data set and feature file to use: the ones given, else those that the checkpoint was trained with.

    The feature file that was trained with goes with its own data set alone: None, the usual names, with another.
    """
    trained_on, trained_with = checkpoint['params'].get('dataset'), checkpoint.get('features')
    dataset = dataset or trained_on
    if not isinstance(dataset, str):
        raise InputError('the checkpoint does not say what data set it was trained on; name one with --dataset')
    if features is None and dataset == trained_on and isinstance(trained_with, dict):
        features = trained_with.get('file')
    if not isinstance(features, str | None):
        raise InputError(f'the checkpoint names {features!r} as its feature file; name the right one with --features')
    return dataset, features


def refuse_to_replace(inputs, outputs):
    """InputError when a result would take the place of a file that is read."""
    read = {os.path.realpath(path) for path in inputs}
    if lost := [path for path in outputs if os.path.realpath(path) in read]:
        raise InputError(f'{lost[0]}: is read here, and would be replaced by a result; name another file')


def check_feature_size(features, model):
    """InputError unless the model was made for features of this size."""
    D = len(model['We'])
    if features.dim != D:
        raise InputError(f'{features.path}: features of size {features.dim}, but the checkpoint was trained on '
                         f'size {D}; name the right file with --features')


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


def result_blob(img_path, captions, logprobs, **more):
    """One image's entry in result_struct.json, with its n-best list where there is more than one caption.

    captions and logprobs: what caption_images and word_logprobs found of it.
    """
    texts = [{'text': ' '.join(words), 'logprob': logprob, 'word_logprobs': [round(each, 6) for each in of_words]}
             for (logprob, words), of_words in zip(captions, logprobs, strict=True)]
    return {'img_path': img_path, **more, 'candidate': texts[0]} | ({'nbest': texts} if len(texts) > 1 else {})


def add_search_flags(parser):
    """The flags of caption_images' options, and the dtype."""
    add = parser.add_argument
    add('-b', '--beam_size', type=int, default=1, help='beams of the search; 1 is greedy (default: %(default)s)')
    add('--nbest', type=int, default=1, help='captions to keep of each image, at most beam_size (default: %(default)s)')
    add('--temperature', type=float, default=0.,
        help='above 0: draw the caption at random, sharper below 1 (default: %(default)s)')
    add('--seed', type=int, default=0, help='of that draw (default: %(default)s)')
    add('--dtype', choices=('float32', 'float64'), default='float32', help='of all arithmetic (default: %(default)s)')
    add('--num_threads', type=int, default=NUM_THREADS, help='threads that share out the images (default: %(default)s)')


def check_search_flags(params):
    """InputError for search flags that cannot be."""
    for name, least in (('beam_size', 1), ('nbest', 1), ('temperature', 0), ('seed', 0),
                        ('num_threads', 1)):
        if not params[name] >= least:
            raise InputError(f'--{name} {params[name]}: must be at least {least}')
    if params['num_threads'] > MAX_THREADS:
        raise InputError(f'--num_threads {params["num_threads"]}: must be at most {MAX_THREADS}')
    if params['beam_size'] > MAX_BEAM_SIZE:
        raise InputError(f'--beam_size {params["beam_size"]}: must be at most {MAX_BEAM_SIZE}')
    if params['nbest'] > params['beam_size']:
        raise InputError(f'--nbest {params["nbest"]}: a beam of {params["beam_size"]} finds no more than that; '
                         'raise --beam_size')
    if params['temperature'] > 0 and params['beam_size'] > 1:
        raise InputError(f'--temperature {params["temperature"]} draws a single caption, --beam_size '
                         f'{params["beam_size"]} searches for the best: use one of them')

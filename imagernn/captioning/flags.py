"""The flags of the captioning scripts: of the model, of its training, and of the search for captions."""

import math

from imagernn.captioning.names import GENERATOR_NAMES, SIZES
from imagernn.errors import InputError
from imagernn.nn.blas import NUM_THREADS
from imagernn.runs.flags import check_run_params, require_above_zero, require_between, require_shares

# what a checkpoint's arrays were made for: a run that starts or resumes from one cannot choose these
MODEL_PARAMS = ('generator', *SIZES, 'image_at', 'tanhC_version', 'rnn_relu_encoders', 'rnn_feed_once')
# what a run that resumes cannot choose either
RUN_PARAMS = ('self_critical_after', 'dataset', 'val_share', 'seed', 'word_count_threshold', 'batch_size')
MAX_BEAM_SIZE = 10_000
MAX_THREADS = 1000
TEMPERATURES = (1e-6, 1e6)    # where the likeliest word, or any word, is certain already; far beyond, float32 overflows
SIZE_LIMITS = (1, 10 ** 5)
BATCH_LIMITS = (1, 10 ** 6)


def add_data_flags(parser):
    """Which data set and features to train on."""
    add = parser.add_argument_group('data').add_argument
    add('-d', '--dataset', default='flickr8k',
        help='The folder below data_root that holds dataset.json and the features.')
    add('--data_root', default='data', help='The folder of data sets.')
    add('--features', default=None,
        help='The feature file: a name in the folder of the data set, or a path. By default the first of '
             'vgg_feats.mat, vgg_feats.h5 and vgg_feats.npy.')
    add('--word_count_threshold', type=int, default=5,
        help='Words that occur less often in the training sentences are dropped. Lower it for a small data set.')
    add('--val_share', type=float, default=0.,
        help='For a data set without a val split: the share of the training images, such as .1, that becomes one. The '
             'seed determines which.')
    add_on_error_flag(add)
    add('--allow_changed_data', action='store_true',
        help='With --resume: resume although the sentences, the pictures or the features have changed since.')


def add_on_error_flag(add):
    """For any script that reads the features of a data set. add: add_argument of a group of flags."""
    add('--on_error', choices=('skip', 'stop'), default='skip',
        help='What to do about images without features, because their pictures could not be extracted: "skip" leaves '
             'them out with a warning, "stop" ends with an error.')


def add_model_flags(parser):
    """The model's architecture."""
    add = parser.add_argument_group('model').add_argument
    add('--generator', choices=GENERATOR_NAMES, default='lstm', help='The recurrent layer.')
    add('--image_encoding_size', type=int, default=256,
        help='The size of the encoded image: for the LSTM equal to word_encoding_size, for the RNN to hidden_size.')
    add('--word_encoding_size', type=int, default=256, help='The size of an encoded word.')
    add('--hidden_size', type=int, default=256,
        help='The size of the hidden state. 512 learns better and takes longer.')
    add('--image_at', choices=('first', 'every', 'both'), default='first',
        help='Where the LSTM sees the image: as its first input, as in NeuralTalk, at every step, or both, which gives '
             'better captions. (The RNN sees it at every step; see --rnn_feed_once.)')
    add('--tanhC_version', type=int, default=0, help='1: the LSTM computes h = o·tanh(c) in place of o·c.')
    add('--rnn_relu_encoders', type=int, default=0, help='1: the RNN has a ReLU on both encodings.')
    add('--rnn_feed_once', type=int, default=0,
        help='1: the RNN sees the image at the first step only, which overfits less.')
    add('--init_model_from', default='', help='Start from the weights and the vocabulary of this checkpoint.')


def add_training_flags(parser):
    """Epochs, batches and regularization."""
    add = parser.add_argument_group('training and regularization').add_argument
    add('-m', '--max_epochs', type=float, default=50, help='Passes over the training sentences.')
    add('-b', '--batch_size', type=int, default=100, help='Image-sentence pairs per batch.')
    add('-c', '--regc', type=float, default=1e-8, help='The strength of the L2 regularization.')
    add('--drop_prob_encoder', type=float, default=.5, help='Dropout of the encoded image and words.')
    add('--drop_prob_decoder', type=float, default=.5, help='Dropout of the hidden state on its way to the decoder.')
    add('--dtype', choices=('float32', 'float64'), default='float32',
        help='The precision of all arithmetic; float64 is for checks.')
    add('-a', '--do_grad_check', type=int, default=0,
        help='1: compare every gradient with finite differences, with dropout on, and exit.')


def add_self_critical_flags(parser):
    """Training on rewards of whole captions, in place of the next word."""
    add = parser.add_argument_group('self-critical training').add_argument
    add('--self_critical_after', type=float, default=-1,
        help='From this epoch on, captions that the model draws itself are rewarded (Rennie et al. 2017), and the run '
             'is judged by CIDEr-D on val; -1 never does. It improves a trained model: give 0 and --init_model_from.')
    add('--self_critical_images', type=int, default=100, help='Images per batch of this training.')
    add('--self_critical_samples', type=int, default=5,
        help='Captions drawn for each image. More give a steadier gradient and take longer.')
    add('--bleu_weight', type=float, default=3.,
        help='The reward is CIDEr-D, from 0 to 10, plus this times BLEU-4, from 0 to 1.')


def add_evaluation_flags(parser):
    """When and on what a training run evaluates, and what follows from it."""
    add = parser.add_argument_group('evaluation').add_argument
    add('-p', '--eval_period', type=float, default=1, help='Epochs between evaluations on val.')
    add('--eval_batch_size', type=int, default=100, help='Image-sentence pairs per batch in evaluation.')
    add('--eval_max_images', type=int, default=-1, help='Evaluate on so many val images; -1 takes all.')
    add('--write_checkpoint_ppl_threshold', type=float, default=-1,
        help='Save the best checkpoint only below this validation perplexity; -1 saves it always.')
    add('--min_ppl_or_abort', type=float, default=-1,
        help='Abort when a validation perplexity is not below this; -1 never does. For searches over many settings.')


def check_training_flags(params):
    """InputError for values of the flags above, and of runs.flags, that cannot be."""
    check_run_params(params)
    require_between(params, {'batch_size': BATCH_LIMITS, 'eval_batch_size': BATCH_LIMITS, 'regc': (0, math.inf),
                             'word_count_threshold': (1, math.inf), **dict.fromkeys(SIZES, SIZE_LIMITS)})
    require_shares(params, ('drop_prob_encoder', 'drop_prob_decoder', 'val_share'))
    require_above_zero(params, ('eval_period',))
    if params['eval_max_images'] == 0:
        raise InputError('--eval_max_images 0: nothing to evaluate on; give a number, or -1 for all')
    require_between(params, {'self_critical_images': BATCH_LIMITS, 'self_critical_samples': (2, 1000),
                             'bleu_weight': (0, math.inf)})
    if params['generator'] != 'lstm' and params['image_at'] != 'first':
        raise InputError(f'--image_at {params["image_at"]}: is a flag of the LSTM; the RNN sees the image at every '
                         'step, or at the first one with --rnn_feed_once 1')
    from imagernn.captioning.model import require_sizes  # here, so that --help does without numpy
    try:
        require_sizes(params, {name: params[name] for name in SIZES})
    except ValueError as error:
        raise InputError(str(error)) from None


def add_search_flags(parser):
    """The options of evaluate.caption_images, the precision and the threads."""
    add = parser.add_argument_group('search').add_argument
    add('-b', '--beam_size', type=int, default=1,
        help='How many sentences the beam search keeps; 1 is greedy. 3 to 5 give better captions. '
             '(default: %(default)s)')
    add('--nbest', type=int, default=1,
        help='How many captions to keep of each image, at most beam_size. (default: %(default)s)')
    add('--beam_kind', choices=('neuraltalk', 'pool'), default='neuraltalk',
        help='In NeuralTalk\'s beam, finished sentences keep their place; with pool they leave it to others, which '
             'finds better sentences for large beams. (default: %(default)s)')
    add('--length_penalty', type=float, default=0.,
        help='Rank sentences by log-probability / length to this power. 0 prefers short ones, 1 the best mean per '
             'word. (default: %(default)s)')
    add('--ensemble', nargs='+', default=[], metavar='CHECKPOINT',
        help='Further checkpoints, trained on the same vocabulary and features, whose probabilities are averaged with '
             'those of the first. Several models caption better than one.')
    add('--temperature', type=float, default=0.,
        help='Above 0, the caption is drawn at random: below 1 from the likelier words, at 1 as the model has it. '
             '(default: %(default)s)')
    add('--seed', type=int, default=0, help='Determines what is drawn at random. (default: %(default)s)')
    add = parser.add_argument_group('system').add_argument
    add('--dtype', choices=('float32', 'float64'), default='float32',
        help='The precision of all arithmetic. (default: %(default)s)')
    add('--num_threads', type=int, default=NUM_THREADS,
        help='Threads that share the images. (default: %(default)s)')


def check_search_flags(params):
    """InputError for search flags that cannot be."""
    for name, least in (('beam_size', 1), ('nbest', 1), ('temperature', 0), ('seed', 0), ('num_threads', 1)):
        if not params[name] >= least:
            raise InputError(f'--{name} {params[name]}: must be at least {least}')
    if params['num_threads'] > MAX_THREADS:
        raise InputError(f'--num_threads {params["num_threads"]}: must be at most {MAX_THREADS}')
    if params['beam_size'] > MAX_BEAM_SIZE:
        raise InputError(f'--beam_size {params["beam_size"]}: must be at most {MAX_BEAM_SIZE}')
    if params['nbest'] > params['beam_size']:
        raise InputError(f'--nbest {params["nbest"]}: a beam of {params["beam_size"]} finds no more than that; '
                         'raise --beam_size')
    if not 0 <= params['length_penalty'] <= 10:
        raise InputError(f'--length_penalty {params["length_penalty"]}: must be from 0 to 10')
    low, high = TEMPERATURES
    if params['temperature'] and not low <= params['temperature'] <= high:
        raise InputError(f'--temperature {params["temperature"]}: must be from {low:g} to {high:g}, or 0 for the '
                         'likeliest words')
    if params['temperature'] > 0 and params['beam_size'] > 1:
        raise InputError(f'--temperature {params["temperature"]} draws a single caption, --beam_size '
                         f'{params["beam_size"]} searches for the best: use one of them')

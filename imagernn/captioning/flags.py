"""The flags of the captioning scripts: of the model, of its training, and of the search for captions."""

import math

from imagernn.captioning.names import GENERATOR_NAMES, SIZES
from imagernn.corpus.flags import add_word_vector_flags, check_word_vector_flags
from imagernn.errors import InputError
from imagernn.nn.blas import NUM_THREADS
from imagernn.runs.flags import FLOAT32_MAX, check_run_params, require_above_zero, require_between, require_shares

# what a checkpoint's arrays were made for: a run that starts or resumes from one cannot choose these
MODEL_PARAMS = ('generator', *SIZES, 'attention_size', 'image_at', 'tanhC_version', 'rnn_relu_encoders',
                'rnn_feed_once', 'word_vectors')
# what a run that resumes cannot choose either
RUN_PARAMS = ('self_critical_after', 'label_smoothing', 'dataset', 'val_share', 'seed', 'word_count_threshold',
              'batch_size', 'fix_word_vectors')
MAX_BEAM_SIZE = 10_000
MAX_THREADS = 1000
MAX_SAMPLES = 1000
TEMPERATURES = (1e-6, 1e6)    # where the likeliest word, or any word, is certain already; far beyond, float32 overflows
SIZE_LIMITS = (1, 10 ** 5)
BATCH_LIMITS = (1, 10 ** 6)


def add_model_flags(parser):
    """The model's architecture."""
    add = parser.add_argument_group('model').add_argument
    add('--generator', choices=GENERATOR_NAMES, default='lstm',
        help='The recurrent layer: the LSTM of Vinyals et al. (2015), or, for comparison, the simpler ReLU network of '
             'Karpathy & Fei-Fei (2015). "attention" is the LSTM that also attends to regions of the picture (Xu et '
             'al. 2015): try it if you have a feature file that extract wrote with --regions.')
    add('--image_encoding_size', type=int, default=256,
        help='The size of the encoded image. Change it along with the size that it must equal: word_encoding_size for '
             'the LSTM, hidden_size for the RNN.')
    add('--word_encoding_size', type=int, default=256,
        help='The size of an encoded word. Raise it, along with the hidden size, for a large data set.')
    add('--hidden_size', type=int, default=256,
        help='The size of the hidden state. Raise it to 512 for a model that learns better and takes longer.')
    add('--attention_size', type=int, default=256,
        help='The size of the keys by which the attention generator weighs regions. Lower it if training takes too '
             'long.')
    add('--image_at', choices=('first', 'every', 'both'), default='first',
        help='Where the LSTM, with attention or without, sees the whole image: "first" as its first input, as in '
             'NeuralTalk; "every" at every step; "both". Try both if captions have little to do with their pictures. '
             'For the RNN, see --rnn_feed_once.')
    add('--tanhC_version', type=int, default=0,
        help='With 1, the LSTM computes h = o·tanh(c), not o·c. Give 1 for the usual LSTM, 0 for NeuralTalk\'s.')
    add('--rnn_relu_encoders', type=int, default=0,
        help='With 1, the RNN has a ReLU on both encodings. Give 1 to reproduce a NeuralTalk model that has it.')
    add('--rnn_feed_once', type=int, default=0,
        help='With 1, the RNN sees the image at the first step only. Try it if the run overfits.')
    add_word_vector_flags(add)
    add('--init_model_from', default='',
        help='A checkpoint whose weights and vocabulary a new run starts from. Give it to adapt a trained model to '
             'other data, or to train it further with other flags.')


def add_training_flags(parser):
    """Epochs, batches and regularization."""
    add = parser.add_argument_group('training and regularization').add_argument
    add('-m', '--max_epochs', type=float, default=50,
        help='The number of passes over the training sentences. Lower it if perplexity on val stops falling earlier.')
    add('-b', '--batch_size', type=int, default=100,
        help='The number of image-sentence pairs per batch. Lower it for a small data set, which otherwise gives few '
             'updates per epoch, or if memory runs out.')
    add('-c', '--regc', type=float, default=1e-8,
        help='The strength of the L2 regularization. Raise it if perplexity falls in training and rises on val.')
    add('--drop_prob_encoder', type=float, default=.5,
        help='The dropout probability of the encoded image and words. Lower it if the model fits even the training '
             'sentences badly; raise it if it overfits.')
    add('--drop_prob_decoder', type=float, default=.5,
        help='The dropout probability of the hidden state on its way to the decoder; change it as the one above.')
    add('--label_smoothing', type=float, default=0.,
        help='The share of the target distribution, such as .1, that is spread evenly over the vocabulary (Szegedy et '
             'al. 2016). Try it if the model overfits. Perplexity stays that of the words themselves, and '
             'self-critical training does not use it.')
    add('--dtype', choices=('float32', 'float64'), default='float32',
        help='The precision of all arithmetic. float64 takes longer; use it to compare results exactly.')
    add('-a', '--do_grad_check', type=int, default=0,
        help='With 1, compare every gradient with finite differences, with dropout on, and exit. Use it after changing '
             'the model\'s code.')


def add_self_critical_flags(parser):
    """Training on rewards of whole captions, in place of the next word."""
    add = parser.add_argument_group('self-critical training').add_argument
    add('--self_critical_after', type=float, default=-1,
        help='The epoch after which the model learns from rewards for captions that it draws itself (Rennie et al. '
             '2017); the run is then judged by CIDEr-D on val. Use it to improve a trained model: give 0, and the '
             'model with --init_model_from. -1 turns it off.')
    add('--self_critical_images', type=int, default=100,
        help='The number of images per batch of this training. Lower it if memory runs out.')
    add('--self_critical_samples', type=int, default=5,
        help='How many captions are drawn for each image. Raise it for a steadier gradient; each step takes longer.')
    add('--bleu_weight', type=float, default=3.,
        help='The weight of BLEU-4 (0 to 1) in the reward, beside CIDEr-D (0 to 10). Lower it to 0 to train for '
             'CIDEr-D alone; raise it if captions become less fluent.')


def add_evaluation_flags(parser):
    """When and on what a training run evaluates, and what follows from it."""
    add = parser.add_argument_group('evaluation').add_argument
    add('-p', '--eval_period', type=float, default=1,
        help='The number of epochs between evaluations on val. Lower it if an epoch takes long: only evaluations find '
             'the best checkpoint.')
    add('--eval_batch_size', type=int, default=100,
        help='The number of image-sentence pairs per batch in evaluation. Lower it if memory runs out.')
    add('--eval_max_images', type=int, default=-1,
        help='How many val images to evaluate on. Give a number to save time on a large data set; -1 takes all.')
    add('--write_checkpoint_ppl_threshold', type=float, default=-1,
        help='Save best checkpoints only below this validation perplexity. Set it to save disk space; -1 saves them '
             'all.')
    add('--min_ppl_or_abort', type=float, default=-1,
        help='Abort the run if a validation perplexity is not below this. Set it to end bad runs early in a search '
             'over many settings; -1 turns it off.')


def check_training_flags(params):
    """Raise InputError for invalid values of the flags above and of runs.flags."""
    check_run_params(params)
    check_word_vector_flags(params)
    require_between(params, {'batch_size': BATCH_LIMITS, 'eval_batch_size': BATCH_LIMITS, 'regc': (0, FLOAT32_MAX),
                             'word_count_threshold': (1, math.inf), 'attention_size': SIZE_LIMITS,
                             **dict.fromkeys(SIZES, SIZE_LIMITS)})
    require_shares(params, ('drop_prob_encoder', 'drop_prob_decoder', 'val_share'))
    # beyond one half, the word itself could weigh less than all others together
    require_between(params, {'label_smoothing': (0, .5)})
    require_above_zero(params, ('eval_period',))
    if params['eval_max_images'] == 0:
        raise InputError('--eval_max_images 0: nothing to evaluate on; give a number, or -1 for all')
    if params['self_critical_after'] < 0 and params['self_critical_after'] != -1:
        raise InputError(f'--self_critical_after {params["self_critical_after"]}: must be an epoch from 0, or -1 for '
                         'none')
    if params['self_critical_after'] >= params['max_epochs']:
        raise InputError(f'--self_critical_after {params["self_critical_after"]:g}: must be below --max_epochs '
                         f'{params["max_epochs"]:g}, or no step would be trained on rewards')
    require_between(params, {'self_critical_images': BATCH_LIMITS, 'self_critical_samples': (2, 1000),
                             'bleu_weight': (0, math.inf)})
    if params['generator'] == 'rnn' and params['image_at'] != 'first':
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
        help='How many sentences the beam search keeps. Give 3 to 5 for better captions; 1 is greedy search, which is '
             'faster.')
    add('--nbest', type=int, default=1,
        help='How many captions to keep of each image, at most beam_size, or mbr_samples if these are drawn. Raise it '
             'to see what else the model would say.')
    add('--beam_kind', choices=('neuraltalk', 'pool'), default='neuraltalk',
        help='In NeuralTalk\'s beam, finished sentences keep their place. With "pool", as in most other programs, they '
             'make room for others: try it with beams of 5 or more.')
    add('--length_penalty', type=float, default=0.,
        help='Rank the sentences of the beam by log-probability / length to this power. Raise it, up to 1 for the mean '
             'per word, if captions are too short.')
    add('--ensemble', nargs='+', default=[], metavar='CHECKPOINT',
        help='Further checkpoints, trained on the same vocabulary and features, whose probabilities are averaged with '
             'those of the first. Give some if you have trained a model from several seeds.')
    add('--temperature', type=float, default=0.,
        help='Above 0, captions are drawn at random. Set it to see how captions vary: 1 draws as the model has it, '
             'less from the likelier words.')
    add('--mbr_samples', type=int, default=0, metavar='N',
        help='Draw N captions of each image and choose the one with the highest mean CIDEr-D against the others: the '
             'minimum Bayes risk (Kumar & Byrne 2004). Try it in place of the beam search, with 20 or more samples and '
             '--temperature .5; without a temperature it is 1. 0 turns it off.')
    add('--seed', type=int, default=0, help='The seed of what is drawn at random. Change it for other captions.')
    add = parser.add_argument_group('system').add_argument
    add('--dtype', choices=('float32', 'float64'), default='float32',
        help='The precision of all arithmetic. float64 takes longer; use it to compare results exactly.')
    add('--num_threads', type=int, default=NUM_THREADS,
        help='How many threads share the images. Lower it to leave cores to other programs.')


def check_search_flags(params):
    """Raise InputError for invalid search flags. Changes a temperature of 0 to 1 where mbr_samples are to be drawn."""
    for name, least in (('beam_size', 1), ('nbest', 1), ('temperature', 0), ('seed', 0), ('num_threads', 1)):
        if not params[name] >= least:
            raise InputError(f'--{name} {params[name]}: must be at least {least}')
    if params['num_threads'] > MAX_THREADS:
        raise InputError(f'--num_threads {params["num_threads"]}: must be at most {MAX_THREADS}')
    if params['beam_size'] > MAX_BEAM_SIZE:
        raise InputError(f'--beam_size {params["beam_size"]}: must be at most {MAX_BEAM_SIZE}')
    if params['mbr_samples'] and not 2 <= params['mbr_samples'] <= MAX_SAMPLES:
        raise InputError(f'--mbr_samples {params["mbr_samples"]}: must be from 2 to {MAX_SAMPLES}, or 0 for none')
    if params['mbr_samples'] and params['beam_size'] > 1:
        raise InputError(f'--mbr_samples {params["mbr_samples"]} chooses among captions drawn at random, --beam_size '
                         f'{params["beam_size"]} searches for the most probable: use one of them')
    limit = 'mbr_samples' if params['mbr_samples'] else 'beam_size'
    if params['nbest'] > params[limit]:
        raise InputError(f'--nbest {params["nbest"]}: --{limit} {params[limit]} finds no more captions than that; '
                         f'raise --{limit}')
    if not 0 <= params['length_penalty'] <= 10:
        raise InputError(f'--length_penalty {params["length_penalty"]}: must be from 0 to 10')
    low, high = TEMPERATURES
    if params['temperature'] and not low <= params['temperature'] <= high:
        raise InputError(f'--temperature {params["temperature"]}: must be from {low:g} to {high:g}, or 0 for the '
                         'likeliest words')
    if params['temperature'] > 0 and params['beam_size'] > 1:
        raise InputError(f'--temperature {params["temperature"]} draws a single caption, --beam_size '
                         f'{params["beam_size"]} searches for the best: use one of them')
    if params['temperature'] or params['mbr_samples']:
        for name in ('beam_kind', 'length_penalty'):
            if params[name] not in ('neuraltalk', 0):
                raise InputError(f'--{name} {params[name]}: is a flag of the beam search, but captions are drawn at '
                                 'random; leave it out, or --temperature and --mbr_samples')
    if params['mbr_samples'] and not params['temperature']:
        params['temperature'] = 1.

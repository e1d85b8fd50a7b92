"""The flags of the ranking commands."""

import math

from imagernn.corpus.flags import add_word_vector_flags, check_word_vector_flags
from imagernn.errors import InputError
from imagernn.ranking.names import ENCODERS, LOSSES, POOLS, RANKERS, SIMILARITIES, SIZES
from imagernn.runs.flags import FLOAT32_MAX, check_run_params, require_above_zero, require_between, require_shares

# what a checkpoint's arrays were made for: a run that starts or resumes from one cannot choose these
MODEL_PARAMS = ('ranker', 'encoder', 'similarity', 'pool', 'tanhC_version', 'word_vectors', *SIZES)
# what a run that resumes cannot choose either
RUN_PARAMS = ('loss', 'dataset', 'val_share', 'seed', 'word_count_threshold', 'batch_size', 'fix_word_vectors')
MOST = 10 ** 5    # of a size or a batch


def add_model_flags(parser):
    """The model's architecture."""
    add = parser.add_argument_group('model').add_argument
    add('--ranker', choices=RANKERS, default='sentences',
        help='"sentences" has one vector for an image and one for a sentence, which is fast. "regions" has one for '
             'each region and each word (Karpathy & Fei-Fei 2015): choose it to see which word belongs to which '
             'region. It needs a feature file that extract wrote with --regions windows.')
    add('--encoder', choices=ENCODERS, default='gru',
        help='The recurrent layer that reads the sentence; for regions it reads it in both directions. "rnn" is the '
             'ReLU network of Karpathy & Fei-Fei.')
    add('--similarity', choices=SIMILARITIES, default='cosine',
        help='How two vectors are compared: by their cosine (VSE++, Faghri et al. 2018), or by their dot product, as '
             'Karpathy & Fei-Fei do.')
    add('--pool', choices=POOLS, default='mean',
        help='For regions, whether the score of a sentence is the mean or the sum over its words. The sum is that of '
             'Karpathy & Fei-Fei; with it, longer sentences score higher.')
    add('--word_encoding_size', type=int, default=300,
        help='The size of an encoded word. Lower it for a small data set or a small file.')
    add('--hidden_size', type=int, default=1024,
        help='The size of the hidden state, and of the space of images and sentences. Lower it to train faster.')
    add('--tanhC_version', type=int, default=1,
        help='With 1, an LSTM computes h = o·tanh(c), not o·c as in NeuralTalk.')
    add_word_vector_flags(add)
    add('--init_model_from', default='',
        help='A checkpoint whose weights and vocabulary a new run starts from. Give it to adapt a trained model to '
             'other data, or to train it further with other flags.')


def add_training_flags(parser):
    """The loss, epochs, batches and regularization."""
    add = parser.add_argument_group('training and regularization').add_argument
    add('--loss', choices=LOSSES, default='infonce',
        help='"infonce" is the cross entropy of the right one among the batch, with a temperature (CLIP, Radford et '
             'al. 2021); "hinge" the sum of all violations of the margin (Karpathy & Fei-Fei 2015); "hardest" the '
             'largest violation alone (VSE++, Faghri et al. 2018).')
    add('--temperature', type=float, default=.05,
        help='What infonce divides the scores by. Raise it if the model overfits.')
    add('--margin', type=float, default=.2,
        help='By how much hinge and hardest want the right pair to score higher. Karpathy & Fei-Fei have 1, with dot '
             'products.')
    add('-m', '--max_epochs', type=float, default=13,
        help='The number of passes over the training sentences. Lower it if the recall on val stops rising earlier.')
    add('-b', '--batch_size', type=int, default=128,
        help='The number of images per batch, each with one of its sentences; the others of the batch are what the '
             'right pair is compared with. Lower it for a small data set.')
    add('-c', '--regc', type=float, default=1e-8,
        help='The strength of the L2 regularization. Raise it if the recall on val falls while the loss falls.')
    add('--drop_prob_image', type=float, default=.2,
        help='The dropout probability of the features. Raise it if the model overfits.')
    add('--drop_prob_word', type=float, default=.2,
        help='The dropout probability of the encoded words. Raise it if the model overfits.')
    add('--dtype', choices=('float32', 'float64'), default='float32',
        help='The precision of all arithmetic. float64 takes longer; use it to compare results exactly.')


def add_evaluation_flags(parser):
    """When and on what a training run evaluates."""
    add = parser.add_argument_group('evaluation').add_argument
    add('-p', '--eval_period', type=float, default=1,
        help='The number of epochs between evaluations on val. Lower it if an epoch takes long: only evaluations find '
             'the best checkpoint.')
    add('--eval_max_images', type=int, default=1000,
        help='How many val images to evaluate on. Lower it to save time, above all for regions; -1 takes all, but '
             'among more images recalls are lower.')


def check_training_flags(params):
    """Raise InputError for invalid values of the flags above and of runs.flags."""
    check_run_params(params)
    check_word_vector_flags(params)
    require_between(params, {'batch_size': (2, MOST), 'regc': (0, FLOAT32_MAX), 'word_count_threshold': (1, math.inf),
                             'margin': (0, 1e6), **dict.fromkeys(SIZES, (1, MOST))})
    require_shares(params, ('drop_prob_image', 'drop_prob_word', 'val_share'))
    require_above_zero(params, ('eval_period', 'temperature'))
    if -1 < params['eval_max_images'] < 2:
        raise InputError(f'--eval_max_images {params["eval_max_images"]}: nothing to rank; give a number of 2 or more, '
                         'or -1 for all')

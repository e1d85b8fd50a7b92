"""The flags of the language models."""

import math
import re

from imagernn.corpus.flags import NO_WORD_VECTORS, add_word_vector_flags, check_word_vector_flags
from imagernn.errors import InputError
from imagernn.runs.flags import FLOAT32_MAX, check_run_params, require_above_zero, require_between, require_shares
from imagernn.textgen.names import LAYER_NAMES, LEVELS

# what a checkpoint's arrays were made for: a run that starts or resumes from one cannot choose these
MODEL_PARAMS = ('level', 'lines', 'layer', 'embedding_size', 'hidden_sizes', 'tanhC_version', 'word_vectors')
# what a run that resumes cannot choose either
RUN_PARAMS = ('split_shares', 'seed', 'word_count_threshold', 'batch_size', 'window', 'fix_word_vectors')
MOST = 10 ** 5    # of a size or a batch


def add_data_flags(parser):
    """The text, and how it is cut."""
    add = parser.add_argument_group('text').add_argument
    add('text', nargs='?', default='', metavar='FILE.txt', help='The text to learn from, in UTF-8.')
    add('--val', default='', metavar='FILE', help='A text of its own to validate on, in place of a share of FILE.txt.')
    add('--test', default='', metavar='FILE', help='A text of its own to test on.')
    add('--split_shares', default='90,5,5',
        help='The shares of the text, in its order, for training, validation and test, unless --val names a file.')
    add('--level', choices=LEVELS, default='char',
        help='Whether the text is read character by character or word by word. Words are what spaces separate.')
    add('--lines', action='store_true',
        help='Each line is a text of its own, with a start and an end, as in RecurrentJS. Give it for a file of '
             'sentences or names. Without it, the text is one stream, and the state is carried from window to window.')
    add('--word_count_threshold', type=int, default=1,
        help='Characters or words that occur less often are not in the vocabulary. Raise it for words: 2 or 5.')


def add_model_flags(parser):
    """The model's architecture."""
    add = parser.add_argument_group('model').add_argument
    add('--layer', choices=LAYER_NAMES, default='lstm', help='The recurrent layer.')
    add('--embedding_size', type=int, default=128, help='The size of an encoded character or word.')
    add('--hidden_sizes', default='256,256',
        help='The sizes of the recurrent layers, from the bottom, separated by commas. Larger and more layers learn '
             'better from a long text, and take longer.')
    add('--tanhC_version', type=int, default=1,
        help='With 1, an LSTM computes h = o·tanh(c), not o·c as in NeuralTalk.')
    add_word_vector_flags(add, 'embedding_size')
    add('--init_model_from', default='',
        help='A checkpoint whose weights and vocabulary a new run starts from. Give it to adapt a model to another '
             'text.')


def add_training_flags(parser):
    """Epochs, batches and regularization."""
    add = parser.add_argument_group('training and regularization').add_argument
    add('-m', '--max_epochs', type=float, default=15,
        help='The number of passes over the training text. Lower it if the score on val stops falling earlier.')
    add('-b', '--batch_size', type=int, default=64,
        help='How many parts of the text are read side by side, or how many lines a batch has. Lower it for a short '
             'text.')
    add('--window', type=int, default=50,
        help='How many characters or words the gradient reaches back in a stream.')
    add('-c', '--regc', type=float, default=0., help='The strength of the L2 regularization.')
    add('--drop_prob', type=float, default=.4,
        help='The dropout probability between the layers and of the top. Lower it for a long text.')
    add('--input_drop_prob', type=float, default=0.,
        help='The dropout probability of the encoded characters or words. Raise it for words, to .3 or so, where the '
             'text is short; for characters it does more harm than good.')
    add('--dtype', choices=('float32', 'float64'), default='float32',
        help='The precision of all arithmetic. float64 takes longer; use it to compare results exactly.')
    add('-p', '--eval_period', type=float, default=1, help='The number of epochs between evaluations on val.')


def check_training_flags(params):
    """Raise InputError for invalid values of the flags above and of runs.flags."""
    if not params['text']:
        raise InputError('no text: name the file to learn from, as in: imagernn train-text book.txt')
    check_run_params(params)
    check_word_vector_flags(params)
    if chars := [name for name in NO_WORD_VECTORS if params[name] and params['level'] == 'char']:
        raise InputError(f'--{chars[0]} {params[chars[0]]}: characters have no word vectors; it needs --level word')
    if not re.fullmatch(r'[1-9][0-9]{0,4}(,[1-9][0-9]{0,4}){0,9}', params['hidden_sizes']):
        raise InputError(f'--hidden_sizes {params["hidden_sizes"]}: expected the sizes of one to ten layers, separated '
                         'by commas, as in 256,256')
    split_shares(params)
    require_between(params, {'batch_size': (1, MOST), 'window': (1, MOST), 'regc': (0, FLOAT32_MAX),
                             'embedding_size': (1, MOST), 'word_count_threshold': (1, math.inf)})
    require_shares(params, ('drop_prob', 'input_drop_prob'))
    require_above_zero(params, ('eval_period',))


def split_shares(params):
    """The three shares of --split_shares. InputError where they are not."""
    found = re.fullmatch(r'([0-9]{1,9}(?:\.[0-9]{1,9})?),([0-9]{1,9}(?:\.[0-9]{1,9})?),([0-9]{1,9}(?:\.[0-9]{1,9})?)',
                         params['split_shares'])
    shares = [float(share) for share in found.groups()] if found else []
    if not shares or not shares[0] or not shares[1] and not params['val']:
        raise InputError(f'--split_shares {params["split_shares"]}: expected three numbers, for train, val and test, '
                         'as in 90,5,5; only that of test may be 0')
    return shares

"""The flags of the translation models."""

import math
import re
from pathlib import Path

from imagernn.corpus.flags import NO_WORD_VECTORS, add_word_vector_flags, check_word_vector_flags
from imagernn.errors import InputError
from imagernn.nn.blas import NUM_THREADS
from imagernn.runs.flags import FLOAT32_MAX, check_run_params, require_above_zero, require_between, require_shares
from imagernn.translation.names import LAYER_NAMES, SOURCE_ORDERS, TOKENIZER_NAMES

FILES = ('source', 'target', 'val_source', 'val_target')
# what a checkpoint's arrays were made for: a run that starts or resumes from one cannot choose these
MODEL_PARAMS = ('tokenizer', 'lower_case', 'layer', 'embedding_size', 'hidden_sizes', 'source_order', 'attention',
                'tanhC_version', 'word_vectors', 'source_word_vectors')
# what a run that resumes cannot choose either
RUN_PARAMS = ('seed', 'word_count_threshold', 'batch_size', 'label_smoothing', 'fix_word_vectors')
EARLIER = {**NO_WORD_VECTORS, 'source_word_vectors': ''}    # what a run has without these flags
MOST = 10 ** 5    # of a size or a batch
MOST_BEAMS = 1000


def add_data_flags(parser):
    """The files of sentence pairs, and how their lines become words."""
    add = parser.add_argument_group('data').add_argument
    add('--source', default='', metavar='FILE',
        help='The sentences to translate from, in UTF-8, one a line, such as train.fr.')
    add('--target', default='', metavar='FILE',
        help='Their translations: line n translates line n of the source, as in train.en.')
    add('--val_source', default='', metavar='FILE', help='The source sentences to validate on.')
    add('--val_target', default='', metavar='FILE', help='The translations of these.')
    add('--tokenizer', choices=TOKENIZER_NAMES, default='none',
        help='How lines become words: "none" takes what spaces separate, so choose it for files that are tokenized; '
             '"words" separates words and punctuation so that a translation can be put together again; '
             '"sacremoses" follows the Moses tokenizer (extra [translation]) and takes the language from the name of '
             'the file, fr for train.fr.')
    add('--lower_case', action='store_true',
        help='Read all words in lower case. Give it for a small data set; translations are in lower case, too.')
    add('--word_count_threshold', type=int, default=2,
        help='Words that occur less often in the training sentences are read and learned as one, the unknown word. '
             'Raise it for large files.')


def add_model_flags(parser):
    """The model's architecture."""
    add = parser.add_argument_group('model').add_argument
    add('--layer', choices=LAYER_NAMES, default='lstm', help='The recurrent layer of the encoder and the decoder.')
    add('--embedding_size', type=int, default=256, help='The size of an encoded word.')
    add('--hidden_sizes', default='512',
        help='The sizes of the recurrent layers, from the bottom, separated by commas, as in 512,512; encoder and '
             'decoder have the same. Larger and more layers learn better from many sentences, and take longer.')
    add('--source_order', choices=SOURCE_ORDERS, default='reversed',
        help='The order in which the encoder reads the source sentence. "reversed" brings the first words of both '
             'sentences close together (Sutskever et al. 2014).')
    add('--attention', action='store_true',
        help='Let each step of the decoder weigh the states of an encoder that reads in both directions (Luong et al. '
             '2015). Give it for better translations, above all of long sentences; a step takes longer.')
    add('--tanhC_version', type=int, default=1,
        help='With 1, an LSTM computes h = o·tanh(c), not o·c as in NeuralTalk.')
    add_word_vector_flags(add, 'embedding_size')
    add('--source_word_vectors', default='', metavar='FILE',
        help='The same for the words of the source; those of --word_vectors are for the words of the target.')
    add('--init_model_from', default='',
        help='A checkpoint whose weights and vocabularies a new run starts from. Give it to adapt a model to other '
             'sentences of the same languages.')


def add_training_flags(parser):
    """Epochs, batches and regularization."""
    add = parser.add_argument_group('training and regularization').add_argument
    add('-m', '--max_epochs', type=float, default=12,
        help='The number of passes over the training pairs. Lower it if perplexity on val stops falling earlier.')
    add('-b', '--batch_size', type=int, default=100,
        help='The number of sentence pairs per batch. Lower it for few pairs, which otherwise give few updates per '
             'epoch, or if memory runs out.')
    add('-c', '--regc', type=float, default=0., help='The strength of the L2 regularization.')
    add('--drop_prob', type=float, default=.4,
        help='The dropout probability of the encoded words, between the layers, and of the top. Lower it for many '
             'sentences.')
    add('--label_smoothing', type=float, default=0.,
        help='The share of the target distribution, such as .1, that is spread evenly over the vocabulary (Szegedy et '
             'al. 2016). Try it if the model overfits. Perplexity stays that of the words themselves.')
    add('--dtype', choices=('float32', 'float64'), default='float32',
        help='The precision of all arithmetic. float64 takes longer; use it to compare results exactly.')
    add('-p', '--eval_period', type=float, default=1, help='The number of epochs between evaluations on val.')


def check_training_flags(params):
    """Raise InputError for invalid values of the flags above and of runs.flags."""
    if missing := [name for name in FILES if not params[name]]:
        raise InputError(f'--{missing[0]} is missing: name four files of sentences, one a line, as in: '
                         '--source train.fr --target train.en --val_source val.fr --val_target val.en')
    for name in FILES:
        if params[name] == '-':
            raise InputError(f'--{name} -: a run that resumes reads its sentences again; name a file, not standard '
                             'input')
    for name in 'source', 'target':
        if params['tokenizer'] == 'sacremoses' and not re.fullmatch('[.][a-z]{2}', Path(params[name]).suffix):
            raise InputError(f'--{name} {params[name]}: --tokenizer sacremoses takes the language from the end of the '
                             'name; rename the file so that it ends with two lower-case letters, as train.fr does')
    check_run_params(params)
    if not params['source_word_vectors']:
        check_word_vector_flags(params)
    if not re.fullmatch(r'[1-9][0-9]{0,4}(,[1-9][0-9]{0,4}){0,9}', params['hidden_sizes']):
        raise InputError(f'--hidden_sizes {params["hidden_sizes"]}: expected the sizes of one to ten layers, separated '
                         'by commas, as in 512,512')
    require_between(params, {'batch_size': (1, MOST), 'regc': (0, FLOAT32_MAX), 'embedding_size': (1, MOST),
                             'word_count_threshold': (1, math.inf), 'label_smoothing': (0, .5)})
    require_shares(params, ('drop_prob',))
    require_above_zero(params, ('eval_period',))


def add_search_flags(parser):
    """How translations are found."""
    add = parser.add_argument_group('search').add_argument
    add('-b', '--beam_size', type=int, default=5,
        help='How many sentences the beam search keeps. 1 is greedy search, which is faster.')
    add('--length_penalty', type=float, default=1.,
        help='Rank translations by log-probability / length to this power. Raise it if they are too short, lower it if '
             'they are too long.')
    add('--num_threads', type=int, default=NUM_THREADS, help='How many threads share the lines.')


def check_search_flags(params):
    """Raise InputError for invalid values of add_search_flags."""
    for name, most in ('beam_size', MOST_BEAMS), ('num_threads', 1000):
        if not 1 <= params[name] <= most:
            raise InputError(f'--{name} {params[name]}: must be at least 1 and at most {most}')
    if not 0 <= params['length_penalty'] <= 10:
        raise InputError(f'--length_penalty {params["length_penalty"]}: must be at least 0 and at most 10')

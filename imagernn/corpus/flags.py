"""The flags that choose a data set and word vectors, for every script that trains on sentences."""

from imagernn.errors import InputError

NO_WORD_VECTORS = {'word_vectors': '', 'fix_word_vectors': False}    # what a run has without these flags


def add_data_flags(parser):
    """Which data set and features to train on."""
    add = parser.add_argument_group('data').add_argument
    add('-d', '--dataset', default='flickr8k',
        help='The data set to train on: the folder below data_root that holds dataset.json and the features.')
    add('--data_root', default='data', help='The folder of data sets. Change it if yours are elsewhere.')
    add('--features', default=None,
        help='The feature file: a name in the folder of the data set, or a path. Give it if the features have another '
             'name (default: the first of vgg_feats.mat, vgg_feats.h5 and vgg_feats.npy).')
    add('--word_count_threshold', type=int, default=5,
        help='Words that occur less often in the training sentences are dropped. Lower it for a small data set.')
    add('--val_share', type=float, default=0.,
        help='The share of the training images, such as .1, that becomes the val split. Give it for a data set that '
             'has none. The seed determines which images.')
    add_on_error_flag(add)
    add('--allow_changed_data', action='store_true',
        help='Let --resume continue although the sentences, the pictures or the features have changed. Give it if you '
             'changed them on purpose.')


def add_on_error_flag(add):
    """For any script that reads the features of a data set. add: add_argument of a group of flags."""
    add('--on_error', choices=('skip', 'stop'), default='skip',
        help='What to do about images without features, because their pictures could not be extracted: "skip" leaves '
             'them out with a warning, "stop" ends with an error.')


def add_word_vector_flags(add, size='word_encoding_size'):
    """For any script that trains a model of words. add: add_argument of a group of flags; size: the name of another."""
    add('--word_vectors', default='', metavar='FILE',
        help='A file of word vectors, of GloVe or word2vec for example, from which the encoded words of a new run '
             f'start. Give it if there are few training sentences; the size of its vectors is then the {size}.')
    add('--fix_word_vectors', action='store_true',
        help='Leave the encoded words as they are, and train the rest of the model. Try it with --word_vectors if the '
             'model overfits.')


def check_word_vector_flags(params):
    """Raise InputError where a new run would not learn its random word vectors."""
    if params['fix_word_vectors'] and not any(params.get(name) for name in ('word_vectors', 'resume',
                                                                           'init_model_from')):
        raise InputError('--fix_word_vectors: the words would keep random vectors; name a file of vectors with '
                         '--word_vectors, or leave it out')

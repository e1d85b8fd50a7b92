"""The flags that imagernn.album and imagernn.find share. Imports nothing that takes long."""

from imagernn.errors import InputError
from imagernn.nn.blas import NUM_THREADS


def add_album_flags(parser):
    """The folder of photos, the index and the models. Returns the argument group of the photos."""
    photos = parser.add_argument_group('photos')
    photos.add_argument('photos', metavar='PHOTOS',
        help='The folder of the photos. Those in its subfolders belong to it; hidden folders, and links that lead out '
             'of it, do not.')
    photos.add_argument('--index_folder', default=None, metavar='FOLDER',
        help='The folder for the index. Name one if the folder of the photos cannot be written (default: '
             '.imagernn-album in the folder of the photos).')

    group = parser.add_argument_group('models', 'With other models than before, all photos are indexed again.')
    group.add_argument('--captioner', default=None, metavar='CHECKPOINT',
        help='The checkpoint that captions the photos. Name one of your own for captions in another language or style '
             '(default: the pretrained captioner).')
    group.add_argument('--sentences_ranker', default=None, metavar='CHECKPOINT',
        help='The checkpoint of the ranking model that compares whole sentences with whole photos, and finds the '
             'candidates (default: the pretrained one).')
    group.add_argument('--regions_ranker', default=None, metavar='CHECKPOINT',
        help='The checkpoint of the ranking model that compares words with regions, reorders the candidates, and shows '
             'which word was seen where (default: the pretrained one).')
    group.add_argument('--weights', default=None,
        help='The weight file of the convolutional network that the features of these models came from. Name it if '
             'they came from a VGG (default: the weights of lite0 that the extra [lite0] installs).')

    group = parser.add_argument_group('system')
    group.add_argument('--index', choices=('exact', 'faiss'), default='exact',
        help='How candidates are found. "exact" compares a sentence with every photo. Choose "faiss" for more than '
             '100,000 photos: it is approximate, says how many candidates it misses, and needs the extra [faiss] '
             '(default: %(default)s).')
    group.add_argument('--num_threads', type=int, default=NUM_THREADS,
        help='How many threads index the photos. Lower it to leave cores to other programs (default: %(default)s).')
    return photos


def check_album_flags(params):
    """Raises InputError for a value out of range."""
    if params['num_threads'] < 1:
        raise InputError(f'--num_threads {params["num_threads"]}: must be at least 1')

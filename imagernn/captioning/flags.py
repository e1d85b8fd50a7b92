"""The flags of the captioning scripts, and what they may be."""

from imagernn.errors import InputError
from imagernn.nn.blas import NUM_THREADS

MAX_BEAM_SIZE, MAX_THREADS = 10_000, 1000


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

"""Image captioning with recurrent networks in numpy, every gradient written by hand.

    from imagernn import Captioner
    print(Captioner.load().caption('photo.jpg'))
"""

from imagernn.nn import blas  # noqa: F401  it holds matrix products to one thread each, so it comes before numpy

__version__ = '0.1.0'


def __getattr__(name):
    """Captioner, imported when it is first asked for: it needs h5py, scipy and Pillow."""
    if name == 'Captioner':
        from imagernn.captioner import Captioner
        return Captioner
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

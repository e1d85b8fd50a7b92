"""Image captioning with recurrent networks in numpy, every gradient written by hand."""

from imagernn.nn import blas  # noqa: F401  it holds matrix products to one thread each, so it comes before numpy

__version__ = '0.1.0'

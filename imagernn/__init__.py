"""Image captioning with recurrent networks in numpy, every gradient written by hand."""

__version__ = '0.1.0'

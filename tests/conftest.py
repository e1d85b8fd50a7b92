"""Matrix products take one thread in the tests, as they do in the scripts."""

import imagernn.blas  # noqa: F401  before numpy

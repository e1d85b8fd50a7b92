"""RGB pixels -> the input that each pretrained network expects.

The size, the channel order, the mean and the scale are those that each network was trained with: see inputs.py. Knows
nothing of files.
"""

import json

import numpy as np
from PIL import Image

from imagernn.convnet.inputs import PREPROCESSING
from imagernn.errors import InputError


def prepare(picture, network_name):
    """A picture (h, w, 3) uint8 RGB, resized and normalized for the network: (224, 224, 3) float32.

    Raises InputError for a network that is not in PREPROCESSING.
    """
    if network_name not in PREPROCESSING:
        raise InputError(f"unknown network '{network_name}': its preprocessing is not known; "
                         f'expected one of {", ".join(PREPROCESSING)}')
    how = PREPROCESSING[network_name]
    image = Image.fromarray(picture).resize((how['size'], how['size']), Image.Resampling.BICUBIC)
    x = np.asarray(image, np.float32)                                           # (224, 224, 3)
    if how['channels'] == 'BGR':
        x = x[..., ::-1]
    return (x - np.float32(how['mean'])) / np.float32(how['scale'])


def description(network_name):
    """The entry of PREPROCESSING for a network as JSON, for files that record it."""
    return json.dumps(PREPROCESSING[network_name], sort_keys=True)

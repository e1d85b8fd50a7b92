"""RGB pixels -> the input that each pretrained network expects.

Knows the size, the channel order, the mean and the scale that each network was trained with. Knows nothing of files.
"""

import json

import numpy as np
from PIL import Image

from imagernn.errors import InputError

RESIZE = {'size': 224, 'resize': 'Pillow bicubic, antialiased, the aspect ratio not kept'}
VGG = {**RESIZE, 'channels': 'BGR', 'mean': [103.939, 116.779, 123.68], 'scale': 1.}    # Simonyan & Zisserman 2015
LITE0 = {**RESIZE, 'channels': 'RGB', 'mean': [127., 127., 127.], 'scale': 128.}
PREPROCESSING = {'vgg16': VGG, 'vgg19': VGG, 'lite0': LITE0}    # a network's input is (pixels - mean) / scale


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

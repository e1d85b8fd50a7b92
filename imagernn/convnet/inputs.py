"""What goes into each pretrained network: for the flags as well, and so without numpy and Pillow."""

RESIZE = {'size': 224, 'resize': 'Pillow bicubic, antialiased, the aspect ratio not kept'}
VGG = {**RESIZE, 'channels': 'BGR', 'mean': [103.939, 116.779, 123.68], 'scale': 1.}    # Simonyan & Zisserman 2015
LITE0 = {**RESIZE, 'channels': 'RGB', 'mean': [127., 127., 127.], 'scale': 128.}
PREPROCESSING = {'vgg16': VGG, 'vgg19': VGG, 'lite0': LITE0}    # a network's input is (pixels - mean) / scale
BATCH_SIZE = 32    # pictures that go through a network at once

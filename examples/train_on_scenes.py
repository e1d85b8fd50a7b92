"""Draw pictures, train a captioner on them, and caption pictures it has not seen: python examples/train_on_scenes.py

It takes about half a minute. driver.py does the same for any data set, with checkpoints and many more options.
"""

import argparse
import sys
import tempfile

sys.path.insert(0, f'{sys.path[0]}/..')    # a checkout need not be installed
from imagernn.__main__ import main as imagernn  # isort: skip (before numpy: matrix products take one thread each)

import numpy as np

from imagernn.captioning.batch import batch_of_pairs
from imagernn.captioning.evaluate import caption_images, split_perplexity
from imagernn.captioning.model import cost_and_grads, init_model
from imagernn.corpus.captioned_images import getDataProvider
from imagernn.corpus.vocab import build_vocab, lookup_table
from imagernn.nn.solver import Solver

parser = argparse.ArgumentParser(description='Train a captioner on scenes that a program draws.')
parser.add_argument('--images', type=int, default=900, help='How many scenes to draw.')
parser.add_argument('--epochs', type=int, default=12, help='How often to go through the training sentences.')
flags = parser.parse_args()
rng = np.random.default_rng(0)
with tempfile.TemporaryDirectory() as folder:
    # The data: pictures, five sentences about each, and 4,096 features of each, as a convolutional network would give.
    if imagernn(['make-scenes', '--output', f'{folder}/scenes', '--images', str(flags.images)]) != 0:
        raise SystemExit(2)
    data = getDataProvider('scenes', folder)

    # The vocabulary: the words that occur at least five times in training, numbered from 1; 0 ends a sentence.
    tokens, num_sentences = data.tokens('train')
    wordtoix, ixtoword, word_bias = build_vocab(tokens, data.words, num_sentences, word_count_threshold=5)
    lookup = lookup_table(data.words, wordtoix)

    # The model: an LSTM reads the image, then one word after another, and predicts the next word at each step.
    params = {'generator': 'lstm', 'image_encoding_size': 128, 'word_encoding_size': 128, 'hidden_size': 128,
              'drop_prob_encoder': .3, 'drop_prob_decoder': .3}
    model = init_model(params, data.features.dim, word_bias, rng)

    # Training: draw a batch, compute the gradients of its cost, and let Adam take a small step against them.
    solver = Solver({'solver': 'adam', 'learning_rate': 2e-3, 'decay_rate': .999, 'smooth_eps': 1e-8})
    for epoch in range(1, flags.epochs + 1):
        for _ in range(max(1, num_sentences // 50)):
            batch = batch_of_pairs(data.sample_pairs('train', 50, rng), data, lookup)
            cost, grads, stats = cost_and_grads(batch, model, params, rng)
            solver.step(model, grads)
        # Perplexity: among how many equally likely words the model wavers, on sentences that it was not trained on.
        print(f'epoch {epoch}: perplexity {split_perplexity(data, "val", model, params, wordtoix):.2f}')

    # Captions of test pictures: a beam search keeps the three best beginnings of a sentence at every step.
    images = list(data.iterImages('test', 5))
    features = data.features.rows([image['imgid'] for image in images], dtype=np.float32)
    found = caption_images(lambda i, j: features[i:j], len(images), model, params, ixtoword,
                           {'beam_size': 3, 'nbest': 1, 'temperature': 0})
    for image, captions in zip(images, found, strict=True):
        print(f'\nmodel:   {" ".join(captions[0].words)}\nperson:  {" ".join(image["sentences"][0]["tokens"])}')

"""Folders of photos, and small models that index and search them."""

import numpy as np
from PIL import Image
from stub_network import StubNetwork, loader

from imagernn.captioning.model import init_model
from imagernn.convnet import extraction
from imagernn.corpus.vocab import START
from imagernn.ranking import model as ranking
from imagernn.runs.checkpoint_file import save_checkpoint

WORDS = ['a', 'dog', 'plays', 'in', 'the', 'snow', 'red', 'car', 'two', 'cats']
VOCABULARY = {'wordtoix': {START: 0, **{word: ix for ix, word in enumerate(WORDS, 1)}},
              'ixtoword': dict(enumerate(['.', *WORDS]))}
D = 20    # the stub's features
ORIGIN = {'network': 'lite0', 'layer': 'features', 'regions': 'windows'}
CAPTIONER = {'generator': 'lstm', 'image_encoding_size': 8, 'word_encoding_size': 8, 'hidden_size': 8}
RANKER = {'encoder': 'gru', 'similarity': 'cosine', 'pool': 'mean', 'word_encoding_size': 5, 'hidden_size': 6}


def write_models(folder):
    """Checkpoints of random weights. Returns the flags that name them."""
    rng = np.random.default_rng(0)

    def save(name, params, model, **more):
        model = {key: rng.normal(size=w.shape).astype(np.float32) for key, w in model.items()}
        save_checkpoint(folder / name, {'model': model, 'params': params, 'features': ORIGIN, **VOCABULARY, **more})
        return str(folder / name)

    flags = ['--captioner', save('captioner.h5', CAPTIONER, init_model(CAPTIONER, D, np.zeros(len(WORDS) + 1), rng))]
    for kind in ('sentences', 'regions'):
        params = {**RANKER, 'ranker': kind}
        standard = {'mean': np.full((1, D), .1, np.float32), 'scale': np.full((1, D), .2, np.float32)}
        flags += [f'--{kind}_ranker', save(f'{kind}.h5', params, ranking.init_model(params, D, len(WORDS) + 1, rng),
                                           kind='ranking', standard=standard)]
    return flags


def use_stub(monkeypatch, on_forward=None, checksum='0' * 64):
    """Commands take a new StubNetwork, which is returned, for the network of their checkpoints."""
    network = StubNetwork(D, checksum=checksum, on_forward=on_forward)
    monkeypatch.setattr(extraction, 'load_network', loader(network))
    return network


def write_photo(path, seed, size=(32, 24)):
    """A photo of nine coloured fields."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(path)

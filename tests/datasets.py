"""A data set small enough to train on in a test: the words and features of tests/tiny."""

import json
from pathlib import Path

import numpy as np

from imagernn.runs.checkpoint_file import load_checkpoint

TINY = json.loads((Path(__file__).parent / 'tiny' / 'golden.json').read_text(encoding='utf-8'))
SMALL = ['--image_encoding_size', '6', '--word_encoding_size', '6', '--hidden_size', '6', '--batch_size', '10',
         '--word_count_threshold', '2']


def write_tiny_dataset(root, name='tiny'):
    """root/name/ with dataset.json and vgg_feats.npy: 14 training images, 3 of val, 3 of test, five sentences each."""
    folder = Path(root) / name
    folder.mkdir(parents=True)
    sentences = {**TINY['train_sentences'], **TINY['test_sentences']}
    splits = ['train'] * len(TINY['train_sentences']) + ['val'] * 3 + ['test'] * 3
    images = [{'filename': f'{imgid}.jpg', 'imgid': imgid, 'split': split,
               'sentences': [{'tokens': tokens, 'raw': ' '.join(tokens)} for tokens in sentences[key]]}
              for imgid, (key, split) in enumerate(zip(sentences, splits, strict=True))]
    (folder / 'dataset.json').write_text(json.dumps({'dataset': name, 'images': images}), encoding='utf-8')
    features = np.array([TINY['features'][key] for key in sentences], np.float32)
    np.save(folder / 'vgg_feats.npy', features)
    return folder


def train_flags(root, *more):
    """The flags of a short training run whose every file goes under root."""
    return ['--dataset', 'tiny', '--data_root', str(root), '--fappend', 'test', '-o', str(root / 'cv'),
            '--worker_status_output_directory', str(root / 'status'), *SMALL, '--max_epochs', '2', *more]


def checkpoint_named(root, which):
    """The one checkpoint of a run under root whose name ends so: 'last', or '' for the best."""
    paths = sorted((root / 'cv').glob(f'*{which}.h5'), key=lambda path: path.stat().st_mtime_ns)
    return [path for path in paths if which or 'last' not in path.name][-1]


def last_of(root):
    """What the last checkpoint of a run under root holds."""
    return load_checkpoint(checkpoint_named(root, 'last'))


def assert_same_model(one, other):
    """The same parameters, in the same order, to the last bit."""
    assert list(one) == list(other)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)

"""Small sound files of every format that is loaded, and ways to spoil them; shared by the suite and by soak.py.

A file is spoilt by bytes changed anywhere, and by what its structure suggests: a length made to lie, a block cut out,
doubled or moved, a number made extreme. Checksums would hide what lies behind them, so where a format has any, they
are made right again (Seed.wrap), or the check is switched off (unchecked).
"""

import gzip
import io
import json
import random
import re
import struct
import sys
import tempfile
import types
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import h5py
import numpy as np
import odd_pictures
import test_checkpoint
import test_convnet_weights as by_framework
import test_entities
import test_features
import test_ranking_page
from PIL import Image

from imagernn.captioning.load import load_captioner
from imagernn.captioning.model import init_model
from imagernn.convnet import weights
from imagernn.convnet.networks import Architecture, vgg
from imagernn.convnet.preprocess import prepare
from imagernn.convnet.sources import read_tasks
from imagernn.corpus.captioned_images import getDataProvider
from imagernn.corpus.features import open_features
from imagernn.corpus.token_store import build_store, fingerprint, load_store, save_store
from imagernn.corpus.word_vectors import read_vectors
from imagernn.errors import InputError
from imagernn.formats import hdf5
from imagernn.formats.entities import read_entities
from imagernn.formats.json_files import load_json
from imagernn.formats.pictures import load_picture
from imagernn.runs import checkpoint_file
from imagernn.runs.checkpoint_file import save_checkpoint
from imagernn.web.ranking_page import checked_ranking, is_ranking

EXTREMES = (0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 1000, 32767, 32768, 65535, 65536, 1 << 20, (1 << 24) - 1, 1 << 28,
            (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40, (1 << 48) - 1, (1 << 63) - 1, 1 << 63,
            (1 << 64) - 1)
NUMBERS_IN_TEXT = (b'0', b'-1', b'1', b'255', b'65536', b'2147483647', b'4294967296', b'1000000000000',
                   b'18446744073709551615', b'9' * 60, b'1e999', b'-0.0', b'NaN')
BLOCKS = (b'(' * 300, b'[' * 300, b'{"a":' * 200, b'\x00' * 64, b'\xff' * 64, b')' * 50, b'\x80' * 20, b'}' * 50)


class Seed(NamedTuple):
    """What is to be spoilt, and what makes a file of it again."""

    content: bytes
    wrap: object = bytes


class Loader(NamedTuple):
    """load(path) of a file called name; it may give anything back, or raise InputError, and nothing else."""

    name: str
    seeds: list
    load: object


# ---- ways to spoil a file

def spoilt(loader, number, seed=0):
    """The bytes of the loader's spoilt file of this number: always the same ones."""
    rng = random.Random(f'{seed} {loader.name} {number}')
    chosen = rng.choice(loader.seeds)
    content = bytearray(chosen.content)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5, 10))):
        rng.choice(WAYS)(content, rng)
    return chosen.wrap(bytes(content))


def change_bytes(content, rng):
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if content:
            content[rng.randrange(len(content))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))


def flip_a_bit(content, rng):
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def cut_short(content, rng):
    del content[rng.randrange(len(content) + 1):]


def a_block(content, rng):
    start = rng.randrange(len(content) + 1)
    return start, start + rng.choice((1, 2, 4, 8, 16, 64, 256, 1024))


def cut_out(content, rng):
    start, stop = a_block(content, rng)
    del content[start:stop]


def double(content, rng):
    start, stop = a_block(content, rng)
    content[start:start] = content[start:stop] * rng.choice((1, 1, 2, 50))


def move(content, rng):
    start, stop = a_block(content, rng)
    part = content[start:stop]
    place = rng.randrange(len(content) + 1)
    content[place:place + len(part) * rng.randrange(2)] = part


def insert(content, rng):
    place = rng.randrange(len(content) + 1)
    content[place:place] = rng.choice(BLOCKS)


def extreme_number(content, rng):
    size = rng.choice((1, 2, 4, 4, 8, 8))
    if len(content) >= size:
        place = rng.randrange(len(content) - size + 1) // size * size
        value = rng.choice(EXTREMES) + rng.choice((0, 0, 0, -1, 1))
        content[place:place + size] = (value % 256 ** size).to_bytes(size, rng.choice(('little', 'big')))


def lying_length(content, rng):
    """A number that could be a length or a place in this file becomes another one."""
    size, order = rng.choice((2, 4, 8)), rng.choice(('little', 'little', 'big'))
    for place in (rng.randrange(max(1, len(content) - size)) for _ in range(40)):
        value = int.from_bytes(content[place:place + size], order)
        if 0 < value <= len(content) and len(content) >= place + size:
            new = rng.choice((value - 1, value + 1, 2 * value, len(content), rng.choice(EXTREMES)))
            content[place:place + size] = (new % 256 ** size).to_bytes(size, order)
            return


def number_in_text(content, rng):
    found = [match.span() for match in re.finditer(rb'-?\d+(\.\d+)?', content)]
    if found:
        start, stop = rng.choice(found)
        content[start:stop] = rng.choice(NUMBERS_IN_TEXT)


WAYS = (change_bytes, flip_a_bit, cut_short, cut_out, double, move, insert, extreme_number, extreme_number,
        lying_length, lying_length, number_in_text)


# ---- checksums made right again

def png(content):
    """The chunks of a spoilt PNG with the checksums that belong to them."""
    out, place = bytearray(content[:8]), 8
    while place + 12 <= len(content):
        size = int.from_bytes(content[place:place + 4], 'big')
        part = content[place + 4:place + 8 + size]
        out += content[place:place + 4] + part + struct.pack('>I', zlib.crc32(part))
        place += 12 + size
    return bytes(out + content[place:])


def zip_of(members, changed, compression=zipfile.ZIP_STORED):
    """A zip of these members, of which one is spoilt."""
    def wrap(content):
        file = io.BytesIO()
        with zipfile.ZipFile(file, 'w', compression) as archive:
            for name, data in members.items():
                archive.writestr(name, content if name == changed else data)
        return file.getvalue()

    return wrap


def zip_seeds(data, compression=zipfile.ZIP_STORED):
    """The whole of a zip, and each of its members."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    return [Seed(data), Seed(data), *(Seed(content, zip_of(members, name, compression))
                                      for name, content in members.items())]


def mat_seeds(data):
    """A compressed MATLAB file, and each of its elements before it was compressed."""
    place, seeds = 128, [Seed(data)]
    while place < len(data):
        kind, size = struct.unpack_from('<2I', data, place)
        head, tail, element = data[:place], data[place + 8 + size:], data[place + 8:place + 8 + size]

        def wrap(content, head=head, tail=tail):
            content = zlib.compress(content, 1)
            return head + struct.pack('<2I', 15, len(content)) + content + tail

        seeds.append(Seed(zlib.decompress(element), wrap))
        place += 8 + size
    return seeds


NO_CRC = mock.patch.object(checkpoint_file, 'zlib', types.SimpleNamespace(crc32=lambda data, start=0: 0))


def unchecked():
    """Makes the checks of checksums pass, so that what lies behind them is met, and networks small. Returns what undoes
    it.
    """
    patches = [mock.patch.object(zipfile.ZipExtFile, '_update_crc', lambda self, data: None),
               mock.patch.object(weights, 'ARCHITECTURES', ARCHITECTURES), NO_CRC,
               mock.patch.object(weights, 'SIZE', 8)]
    for patch in patches:
        patch.start()
    return lambda: [patch.stop() for patch in patches]


def without_forks():
    """Makes the loaders read HDF5 in this very process, which is quicker."""
    for module in (hdf5, checkpoint_file):
        module.in_child = lambda function: json.loads(json.dumps(function()))


# ---- sound files

LAYERS = vgg((1, 1), (2, 2), 2)
ARCHITECTURES = {'vgg16': Architecture(LAYERS, {'pool2': 'pool2'}), 'vgg19': Architecture(LAYERS, {'pool2': 'pool2'}),
                 'lite0': weights.ARCHITECTURES['lite0']}
TORCHVISION = {'conv1_1': 'features.0', 'conv2_1': 'features.3'}
IMAGES = [{'filename': 'a.jpg', 'imgid': 0, 'split': 'train', 'filepath': 'x', 'cocoid': 7, 'sentences': [
              {'tokens': ['a', 'dog', 'ü'], 'raw': 'A dog ü.'}, {'tokens': []}]},
          {'filename': 'b.jpg', 'imgid': 1, 'split': 'val', 'box': [1.5, None, True, {'a': []}], 'sentences': [
              {'tokens': ['a', 'cat']}]}]


def written(write, name='file'):
    """The bytes of a file that write(path) writes."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / name)
        return (Path(folder) / name).read_bytes()


def a_checkpoint(generator):
    params = {'generator': generator, 'image_encoding_size': 2, 'word_encoding_size': 2, 'hidden_size': 2,
              'attention_size': 2, 'dataset': 'tiny', 'seed': 0}
    rng = np.random.default_rng(0)
    model = init_model(params, 2, np.zeros(3), rng, np.float32, D_region=2)
    return {'model': model, 'params': params, 'wordtoix': {'#START#': 0, 'a': 1, 'dog': 2},
            'ixtoword': {0: '.', 1: 'a', 2: 'dog'}, 'it': 1, 'epoch': .5, 'history': [{'iter': [1, 2]}],
            'solver': {'step': 1, 'cache': {'We': model['We']}}, 'rng_state': rng.bit_generator.state}


def rewritten(data, libver):
    """An HDF5 file written again by another version of the format: the oldest has no checksums."""
    file = io.BytesIO()
    with h5py.File(io.BytesIO(data)) as source, h5py.File(file, 'w', libver=libver) as target:
        target.attrs.update(source.attrs)
        for name in source:
            source.copy(name, target)
    return file.getvalue()


def sealed(content):
    return content + checkpoint_file.SEAL % 0


def checkpoint_seeds():
    """As it is written, and in HDF5's oldest form, which has no checksums of its own; the seal put on afterwards."""
    with NO_CRC:
        new = [written(lambda path, kind=kind: save_checkpoint(path, a_checkpoint(kind)))[:-checkpoint_file.SEAL_BYTES]
               for kind in ('lstm', 'rnn', 'attention')]
    old = rewritten(new[0], 'earliest')
    first = io.BytesIO(old)
    with h5py.File(first, 'r+') as file:
        file.attrs.modify('version', 1)
        file.visititems(lambda name, item: item.attrs.update({'crc32': np.uint32(0)})
                        if isinstance(item, h5py.Dataset) else None)
    return [*(Seed(content, sealed) for content in (*new, old, old)), Seed(first.getvalue()), Seed(first.getvalue())]


def pickle_seeds():
    original = {key: value for key, value in a_checkpoint('lstm').items()
                if key in ('model', 'params', 'wordtoix', 'ixtoword', 'it', 'epoch')}
    return [Seed(test_checkpoint.python2(original) + b'.'),
            *(Seed(test_checkpoint.pickle.dumps(original, protocol)) for protocol in (0, 2, 4, 5))]


def feature_seeds(*names):
    feats = np.linspace(0, 1, 6 * 4, dtype=np.float32).reshape(6, 4)
    forms = {**test_features.FORMATS,
             'compressed.h5': lambda path, feats: test_features.save_h5(path, feats, chunks=(2, 4), compression='gzip',
                                                                        shuffle=True),
             'new.h5': lambda path, feats: h5py.File(path, 'w', libver='latest').create_dataset(
                 'feats', data=feats, chunks=(2, 4), compression='gzip')}
    return [Seed(written(lambda path, name=name: forms[name](path, feats), name)) for name in names]


def region_seeds():
    boxes = [[0, 0, 1, 1], [0, 0, .5, 1], [.25, .5, 1, 1]]
    return [Seed(written(lambda path, more=more: test_features.save_regions(
        path, np.linspace(0, 1, 6 * 3 * 2, dtype=np.float16).reshape(6, 3, 2), boxes, feats=np.eye(6, 4, dtype='f4'),
        **more))) for more in ({}, {'chunks': (2, 3, 2), 'compression': 'gzip'}, {'chunks': (4, 2, 1)})]


def conv_weights():
    rng = np.random.default_rng(0)
    return {'conv1_1': (rng.random((3, 3, 3, 2), np.float32), rng.random((1, 2), np.float32)),
            'conv2_1': (rng.random((3, 3, 2, 2), np.float32), rng.random((1, 2), np.float32))}


def weights_of(save, *more):
    return written(lambda path: save(path, conv_weights(), *more), 'a.npz')    # numpy would add this ending


def torch_weights(save):
    modules = {'torch': types.ModuleType('torch'), 'torch._utils': types.ModuleType('torch._utils')}
    modules['torch'].FloatStorage = type('FloatStorage', (), {'__module__': 'torch', '__qualname__': 'FloatStorage'})

    def _rebuild_tensor_v2():
        pass

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = 'torch._utils', '_rebuild_tensor_v2'
    modules['torch._utils']._rebuild_tensor_v2 = _rebuild_tensor_v2
    with mock.patch.dict(sys.modules, modules):
        return written(lambda path: save(path, by_framework.torch_state(conv_weights(), TORCHVISION), modules))


def picture_seeds():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16, 3)).astype(np.uint8))
    palette = noise.quantize(8)
    made = {'JPEG': {'quality': 50}, 'PNG': {}, 'GIF': {}, 'TIFF': {'compression': 'tiff_lzw'},
            'WEBP': {'lossless': True}, 'BMP': {}, 'PPM': {}, 'JPEG2000': {}}
    seeds = [Seed(odd_pictures.encoded(noise, kind, **options), png if kind == 'PNG' else bytes)
             for kind, options in made.items()]
    more = [odd_pictures.encoded(noise, 'JPEG', progressive=True, exif=odd_pictures.exif(6)),
            odd_pictures.encoded(noise, 'GIF', save_all=True, append_images=[noise.rotate(90)]),
            odd_pictures.encoded(noise, 'TIFF'), odd_pictures.encoded(noise, 'WEBP')]
    pngs = [odd_pictures.encoded(palette, 'PNG', transparency=3), odd_pictures.encoded(noise.convert('LA'), 'PNG'),
            odd_pictures.encoded(Image.fromarray(np.arange(192, dtype=np.uint16).reshape(12, 16)), 'PNG')]
    return seeds + [Seed(data) for data in more] + [Seed(data, png) for data in pngs]


# ---- the loaders, each with all that a script would do with such a file before it trusts it

def load_features(path):
    features = open_features(path)
    features.rows(range(min(features.num_images, 8)))
    features.rows([features.num_images - 1])


def load_regions(path):
    features = open_features(path).with_regions()
    features.rows(range(min(features.num_images, 8)))
    features.rows([features.num_images - 1])


def load_weights(path):
    weights.load_network(path)


def load_dataset(path):
    np.save(path.with_name('vgg_feats.npy'), np.ones((2, 2), np.float32))
    provider = getDataProvider('.', path.parent)
    for split in provider.getSplitSizes():
        for pair in provider.iterImageSentencePair(split):
            provider.image_path(pair['image'])
        provider.sampleImageSentencePairs(split, 3, np.random.default_rng(0))


KEY = fingerprint(b'')


def load_vectors(path):
    path.with_name('words.txt').write_text('a\ndog\nü\n', encoding='utf-8')
    read_vectors(path, ['a', 'dog', 'ü'], 2)


def vector_seeds(kind):
    numbers = np.array([[.5, -1], [2e-3, 1], [7, -.25]], np.float32)
    rows = list(zip(['a', 'dog', 'ü'], numbers, strict=True))
    text = ''.join(f'{word} {one} {other}\n' for word, (one, other) in rows).encode()
    packed = [b''.join(word.encode() + b' ' + vector.tobytes() + end for word, vector in rows) for end in (b'', b'\n')]
    return [Seed(content) for content in {'txt': [text, b'3 2\n' + text], 'bin': [b'3 2\n' + rows for rows in packed],
                                          'npy': [written(lambda path: np.save(path, numbers), 'a.npy')]}[kind]]


def load_picture_prepared(path):
    prepare(load_picture(path), 'lite0')


def entities_seeds():
    lines = 2 * f'{json.dumps(test_entities.LINE)}\n'.encode()
    return [Seed(lines), Seed(gzip.compress(lines)), Seed(lines, gzip.compress)]


def load_ranking(path):
    data = load_json(path)
    return checked_ranking(path, data) if is_ranking(data) else None


def loaders():
    """name -> Loader."""
    store = written(lambda path: save_store(path, build_store(json.loads(json.dumps(IMAGES))), KEY))
    compressed = weights_of(by_framework.save_npz, np.savez_compressed)
    mat = written(lambda path: test_features.FORMATS['v5 compressed.mat'](path, np.eye(3, 4)), 'a.mat')
    matconvnet = [weights_of(lambda path, ours, options=options: by_framework.save_matconvnet(path, ours, **options))
                  for options in ({'do_compression': True}, {'old': True}, {'within': True})]
    state = by_framework.torch_state(conv_weights(), TORCHVISION)
    onnx = [written(lambda path, raw=raw: by_framework.save_onnx(path, state, raw)) for raw in (True, False)]
    found = [
        Loader('checkpoint.h5', checkpoint_seeds(), load_captioner),
        Loader('checkpoint.p', pickle_seeds(), load_captioner),
        Loader('features.h5', feature_seeds('contiguous.h5', 'compressed.h5', 'tiled.h5', 'compact.h5', 'new.h5',
                                            'named.h5', 'named with fixed length.h5', 'v7.3.mat',
                                            'v7.3 compressed.mat'), load_features),
        Loader('regions.h5', region_seeds(), load_regions),
        Loader('features_v5.mat', [*feature_seeds('v5.mat', 'v5 named.mat'), *mat_seeds(mat)], load_features),
        Loader('features.npy', feature_seeds('plain.npy', 'fortran.npy'), load_features),
        Loader('weights.h5', [Seed(weights_of(by_framework.save_keras))], load_weights),
        Loader('weights.mat', [*mat_seeds(matconvnet[0]), *map(Seed, matconvnet[1:])], load_weights),
        Loader('weights.npz', [*zip_seeds(weights_of(by_framework.save_npz)),
                               *zip_seeds(compressed, zipfile.ZIP_DEFLATED)], load_weights),
        Loader('weights.pth', zip_seeds(torch_weights(by_framework.save_pth)), load_weights),
        Loader('weights_old.pth', [Seed(torch_weights(by_framework.save_old_pth))], load_weights),
        Loader('weights.caffemodel', [Seed(weights_of(save)) for save in (by_framework.save_caffe,
                                                                           by_framework.save_old_caffe)], load_weights),
        Loader('weights.onnx', list(map(Seed, onnx)), load_weights),
        Loader('dataset.json', [Seed(json.dumps({'images': IMAGES}, ensure_ascii=False).encode())], load_dataset),
        Loader('dataset.cache.npz', zip_seeds(store), lambda path: load_store(path, KEY)),
        Loader('entities.jsonl', entities_seeds(), read_entities),
        Loader('a_ranking_struct.json', [Seed(json.dumps(test_ranking_page.struct()).encode())], load_ranking),
        Loader('tasks.txt', [Seed('a.jpg\r\nb c.png\n\nü/../d.gif\n'.encode())], read_tasks),
        Loader('picture.jpg', picture_seeds(), load_picture_prepared),
        *(Loader(f'vectors.{kind}', vector_seeds(kind), load_vectors) for kind in ('txt', 'bin', 'npy')),
    ]
    return {loader.name: loader for loader in found}


def problem_of(loader, path):
    """What loading this file shows to be wrong, or None."""
    try:
        loader.load(path)
    except InputError as error:
        if '\n' in str(error) or len(str(error)) > 2000:
            return f'a message of {len(str(error)):,} characters'
    except Exception as error:
        return f'{type(error).__name__}: {error}'[:200]
    return None

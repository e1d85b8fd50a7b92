"""Checkpoints come back exactly, are never half-written, and a bad or hostile file is refused with a reason."""

import io
import json
import os
import pickle
import random
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from imagernn.errors import InputError
from imagernn.formats.pickles import read_pickle
from imagernn.runs.checkpoint_file import SEAL, SEAL_BYTES, load_checkpoint, save_checkpoint

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / 'shared' / 'golden' / 'neuraltalk'
WORDS = ['a', '"quoted"', 'and/or', '..', 'back\\slash', 'naïve', '犬', '🏄', '\u200d', ' ', '', '\x00', '\udc80', "'"]


@pytest.fixture
def checkpoint():
    rng = np.random.default_rng(0)
    model = {name: rng.standard_normal((3, 4), np.float32) for name in ('Ws', 'We', 'be', 'WLSTM')}
    model['Wd'] = rng.standard_normal((4, 2))
    cache = {name: rng.random(W.shape).astype(W.dtype) for name, W in model.items()}
    solver = {'step': 7, 'cache': {'squares': cache, 'rows': {'Ws': np.arange(5)}, 'none': {}}, 'lr': 0.1}
    return {
        'it': 12,
        'epoch': 0.1 + 0.2,
        'perplexity': float('inf'),
        'smooth_train_ppl2': 1e-300,
        'model': model,
        'params': {'zeta': 1, 'alpha': 'lstm', 'regc': 1e-8, 'none': None, 'nested': {'b': [1, 'x'], 'a': True}},
        'wordtoix': {'#START#': 0} | {word: ix for ix, word in enumerate(WORDS, 1)},
        'ixtoword': {0: '.'} | dict(enumerate(WORDS, 1)),
        'solver': solver,
        'history': [{'iter': [1, 10], 'val_ppl2': 20.25}, {}],
        'rng_state': rng.bit_generator.state,
        'features': {'file': 'data/flickr8k/vgg_feats.mat', 'dim': 3},
    }


def assert_same(a, b):
    """Equal to the last bit, of the same types and in the same order."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    else:
        assert a == b


def refusal(path):
    """The message of the InputError that loading the file raises; it names the file and is one line."""
    with pytest.raises(InputError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f'{path}: ') and '\n' not in message
    return message


# ---- our own files


def test_round_trip(tmp_path, checkpoint):
    path = tmp_path / 'new' / 'folders' / 'model.h5'
    save_checkpoint(path, checkpoint)
    assert_same(load_checkpoint(path), checkpoint)
    assert_same(load_checkpoint(str(path)), checkpoint)
    assert [file.name for file in path.parent.iterdir()] == ['model.h5']


def test_an_old_file_is_replaced_and_equal_checkpoints_make_equal_files(tmp_path, checkpoint):
    save_checkpoint(tmp_path / 'a', checkpoint | {'it': 1})
    save_checkpoint(tmp_path / 'a', checkpoint)
    save_checkpoint(tmp_path / 'b', load_checkpoint(tmp_path / 'a'))
    assert (tmp_path / 'a').read_bytes() == (tmp_path / 'b').read_bytes()


@pytest.mark.parametrize('solver', [None, {}, {'step': 0, 'cache': {}}, {'W': np.zeros((0, 3))}, {'x': np.array(2.5)}])
def test_solver_states_of_every_size(tmp_path, checkpoint, solver):
    save_checkpoint(tmp_path / 'c', checkpoint | {'solver': solver, 'history': [], 'rng_state': None})
    assert_same(load_checkpoint(tmp_path / 'c')['solver'], solver)
    del checkpoint['solver']
    save_checkpoint(tmp_path / 'c', checkpoint)
    assert 'solver' not in load_checkpoint(tmp_path / 'c')


def test_dtypes_orders_and_numpy_numbers(tmp_path, checkpoint):
    arrays = {kind: np.arange(6).reshape(2, 3).astype(kind) for kind in ('?', 'i1', 'u8', 'f2', 'f4', 'f8', '>f8')}
    checkpoint['solver'] = {'arrays': arrays, 'transposed': np.arange(6.0).reshape(2, 3).T}
    save_checkpoint(tmp_path / 'c', checkpoint | {'it': np.int64(3), 'epoch': np.float64(0.1), 'done': np.True_})
    loaded = load_checkpoint(tmp_path / 'c')
    assert_same(loaded['solver'], checkpoint['solver'])
    assert (loaded['it'], loaded['epoch'], loaded['done']) == (3, 0.1, True)


@pytest.mark.parametrize('bits', [np.random.PCG64, np.random.MT19937])
def test_the_random_stream_goes_on(tmp_path, checkpoint, bits):
    rng = np.random.Generator(bits(3))
    rng.integers(7, size=5, dtype=np.int32)  # leaves half a draw in the generator
    save_checkpoint(tmp_path / 'c', checkpoint | {'rng_state': rng.bit_generator.state})
    again = np.random.Generator(bits())
    again.bit_generator.state = load_checkpoint(tmp_path / 'c')['rng_state']
    assert np.array_equal(again.integers(9, size=50, dtype=np.int32), rng.integers(9, size=50, dtype=np.int32))
    assert np.array_equal(again.random(20), rng.random(20))


@pytest.mark.parametrize(
    'change, reason',
    [
        ({'model': {'a/b': np.zeros((1, 1))}}, 'a/b'),
        ({'model': {'.': np.zeros((1, 1))}}, 'cannot be a name'),
        ({'model': {'': np.zeros((1, 1))}}, 'cannot be a name'),
        ({'model': {'a\x00b': np.zeros((1, 1))}}, 'cannot be a name'),
        ({'model': {}}, 'no parameters'),
        ({'model': {'W': np.zeros(())}}, '1 to 4 axes'),
        ({'model': {'W': np.zeros((1,) * 5)}}, '1 to 4 axes'),
        ({'model': {'W': np.zeros((3, 3), int)}}, 'float32'),
        ({'model': {'W': [[1.0]]}}, 'is list'),
        ({'params': {1: 2}}, 'not text'),
        ({'params': {'p': Path('x')}}, 'JSON'),
        ({'history': [np.zeros(3)]}, 'JSON'),
        ({'solver': {'W': np.array([None])}}, 'object'),
        ({'ixtoword': {-1: 'dog'}}, 'whole number'),
        ({'ixtoword': {True: 'dog'}}, 'whole number'),
        ({'params': None}, 'dict'),
        ({3: 4}, 'name'),
    ],
)
def test_what_could_not_be_read_back_is_not_written(tmp_path, checkpoint, change, reason):
    with pytest.raises(ValueError, match=reason):
        save_checkpoint(tmp_path / 'c', checkpoint | change)
    assert not list(tmp_path.iterdir())


# ---- a save that fails


@pytest.mark.parametrize('function', ['replace', 'fsync'])
@pytest.mark.parametrize('error', [OSError(28, 'No space left on device'), KeyboardInterrupt()])
def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, checkpoint, monkeypatch, function, error):
    path = tmp_path / 'model.h5'
    save_checkpoint(path, checkpoint)
    before = path.read_bytes()

    def fail(*args):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, function, fail)
        with pytest.raises(InputError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
            save_checkpoint(path, checkpoint | {'it': 99})
    if isinstance(error, OSError):
        assert 'model.h5' in str(caught.value) and 'No space left' in str(caught.value)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_places_that_cannot_hold_a_checkpoint(tmp_path, checkpoint):
    (tmp_path / 'file').write_text('x')
    (tmp_path / 'folder').mkdir()
    for path in (tmp_path / 'file' / 'model.h5', tmp_path / 'folder', tmp_path / ('n' * 300)):
        with pytest.raises(InputError, match='cannot be written'):
            save_checkpoint(path, checkpoint)
    assert sorted(file.name for file in tmp_path.iterdir()) == ['file', 'folder']


# ---- files that are no checkpoint


def test_missing_folder_empty(tmp_path):
    assert 'no such file' in refusal(tmp_path / 'nothing.h5')
    assert 'is a folder' in refusal(tmp_path)
    (tmp_path / 'empty').touch()
    assert 'is empty' in refusal(tmp_path / 'empty')


def test_foreign_files(tmp_path):
    path = tmp_path / 'x.h5'
    archive = io.BytesIO()
    zipfile.ZipFile(archive, 'w').close()
    for content in (
        b'hello, world\n',
        b'{"model": 1}',
        b'\xff\xd8\xff\xe0\x00\x10JFIF',
        archive.getvalue(),
        b'\0' * 99,
    ):
        path.write_bytes(content)
        assert 'a checkpoint is HDF5' in refusal(path)
    for content in (b'(see below)\n', b'captions\nare here\n', b'\x80\x04', b'(dp0\n'):
        path.write_bytes(content)
        assert 'pickle' in refusal(path)
    path.write_bytes(b'\x89HDF\r\n\x1a\n' + b'\0' * 500)
    assert 'damaged or cut short' in refusal(path)
    with h5py.File(path, 'w') as root:
        root['feats'] = np.zeros(3)
    assert 'no checkpoint' in refusal(path)
    with h5py.File(path, 'w') as root:
        root.attrs['format'] = 'imagernn checkpoint'  # of variable length, which needs more of HDF5 than is trusted
    assert 'no checkpoint' in refusal(path)


def seal(path):
    """Put a right checksum under whatever is in the file, as one who means harm would."""
    contents = path.read_bytes()
    path.write_bytes(contents + SEAL % zlib.crc32(contents))


def make_version_1(path):
    """A checkpoint as it was written before there was a seal: a checksum beside each dataset."""
    os.truncate(path, path.stat().st_size - SEAL_BYTES)

    def add_checksum(name, item):
        if isinstance(item, h5py.Dataset):
            value = item[()]
            item.attrs['crc32'] = np.uint32(zlib.crc32(value if isinstance(value, bytes) else np.asarray(value)))

    with h5py.File(path, 'r+') as root:
        root.attrs.modify('version', np.int64(1))
        root.visititems(add_checksum)


def put(group, name, value):
    """Write a dataset as save_checkpoint would."""
    if name in group:
        del group[name]
    group.create_dataset(name, data=np.bytes_(value) if isinstance(value, bytes) else value)


def link_to_itself(root):
    root['model/loop'] = root['model']


def second_name(root):
    root['model/We2'] = root['model/We']


def soft_link(root):
    root['model/We2'] = h5py.SoftLink('/model/We')


def external_link(root):
    root['model/We2'] = h5py.ExternalLink('other.h5', '/secret')


def external_storage(root):
    folder = Path(root.filename).parent
    root['model'].create_dataset('X', (2, 8), 'f4', external=[(str(folder / 'other.h5'), 0, 64)])


def virtual(root):
    layout = h5py.VirtualLayout((2, 2), 'f4')
    layout[:] = h5py.VirtualSource(str(Path(root.filename).parent / 'other.h5'), 'secret', (2, 2))
    root['model'].create_virtual_dataset('X', layout)


def named_type(root):
    root['model/X'] = np.dtype('f4')


HOSTILE = {
    'newer': (lambda root: root.attrs.modify('version', 3), 'update the program'),
    'version 0': (lambda root: root.attrs.modify('version', 0), 'version 0'),
    'no version': (lambda root: root.attrs.pop('version'), 'version None'),
    'no model': (lambda root: root.pop('model'), "no 'model'"),
    'no params': (lambda root: root.pop('params'), "no 'params'"),
    'JSON cut': (lambda root: put(root, 'params', b'{"a": '), 'not JSON'),
    'JSON deep': (lambda root: put(root, 'params', b'[' * 100_000), 'not JSON'),
    'JSON of another kind': (lambda root: put(root, 'params', b'[]'), 'expected a dict'),
    'not UTF-8': (lambda root: put(root, 'params', b'"\xff"'), 'not JSON'),
    'index': (lambda root: put(root, 'ixtoword', b'{"x": "dog"}'), "index 'x'"),
    'big index': (lambda root: put(root, 'ixtoword', b'{"%s": "dog"}' % (b'9' * 5000)), 'index'),
    'scalar': (lambda root: put(root, 'model/We', np.zeros((), 'f4')), '1 to 4 axes'),
    'kind': (lambda root: put(root, 'kind', b'"novel"'), "of the kind 'novel', which this version does not know"),
    'kind of another type': (lambda root: put(root, 'kind', b'[1]'), 'which this version does not know'),
    'integers': (lambda root: put(root, 'model/We', np.zeros((3, 3), 'i4')), 'int32'),
    'text in the model': (lambda root: put(root, 'model/We', b'"text"'), 'is str'),
    'array of text': (lambda root: put(root, 'model/We', np.full((2, 2), b'x')), 'type'),
    'objects': (lambda root: root.create_dataset('x', data=['text']), 'type object'),
    'no data': (lambda root: root.create_dataset('x', data=h5py.Empty('f4')), 'no data'),
    'a terabyte': (lambda root: root['model'].create_dataset('X', (2**18, 2**20), 'f4'), 'claims'),
    'a zip bomb': (lambda root: root.create_dataset('x', data=np.zeros(10**5), compression='gzip'), 'compressed'),
    'chunks': (lambda root: root.create_dataset('x', (2**30, 2**20), 'f4', chunks=(8, 8)), 'chunks'),
    'loop': (link_to_itself, 'second name'),
    'second name': (second_name, 'second name'),
    'soft link': (soft_link, 'link'),
    'external link': (external_link, 'link'),
    'external storage': (external_storage, 'elsewhere'),
    'virtual': (virtual, 'elsewhere'),
    'named type': (named_type, 'no data'),
}


@pytest.mark.parametrize('name', HOSTILE)
def test_hdf5_that_is_not_as_it_should_be(tmp_path, checkpoint, name):
    change, reason = HOSTILE[name]
    with h5py.File(tmp_path / 'other.h5', 'w') as root:
        root['secret'] = np.ones((2, 2), 'f4')
    save_checkpoint(tmp_path / 'c', checkpoint)
    with h5py.File(tmp_path / 'c', 'r+') as root:
        change(root)
    seal(tmp_path / 'c')
    assert reason in refusal(tmp_path / 'c')


@pytest.mark.parametrize('change', [
    lambda root: root.create_dataset('x', data=np.zeros(3)),
    lambda root: root['model/We'].attrs.modify('crc32', np.uint32(1)),
])
def test_version_1_is_read_and_its_own_checksums_are_believed(tmp_path, checkpoint, change):
    path = tmp_path / 'c'
    save_checkpoint(path, checkpoint)
    make_version_1(path)
    assert_same(load_checkpoint(path), checkpoint)
    with h5py.File(path, 'r+') as root:
        change(root)
    assert 'CRC-32 differs' in refusal(path)


def test_a_checkpoint_of_another_kind_names_the_commands_that_take_it(tmp_path, checkpoint):
    save_checkpoint(tmp_path / 'c', {**checkpoint, 'kind': 'convnet', 'model': {'W': np.zeros((2, 3, 3, 1))}})
    assert load_checkpoint(tmp_path / 'c', 'convnet')['model']['W'].shape == (2, 3, 3, 1)
    reason = refusal(tmp_path / 'c')
    assert 'of the kind convnet, and one of the kind captioning is needed' in reason and 'train-convnet' in reason
    save_checkpoint(tmp_path / 'd', checkpoint)    # without a kind: as all were before there were kinds
    with pytest.raises(InputError, match='of the kind captioning, .* use it with: .*driver.py, .*publish'):
        load_checkpoint(tmp_path / 'd', 'convnet')


def test_the_checkpoint_that_is_given_away_loads():
    assert load_checkpoint(REPOSITORY / 'cv/captioner_lite0.h5')['model']['Wd'].dtype == np.float16


def damaged(data, count, seed):
    """That many copies of data, each cut somewhere or with some bytes changed."""
    rng = random.Random(seed)
    for _ in range(count):
        copy = bytearray(data)
        if rng.random() < 0.3:
            del copy[rng.randrange(len(copy)) :]
        else:
            for _ in range(rng.choice([1, 2, 8])):
                copy[rng.randrange(len(copy))] = rng.choice([0, 255, rng.randrange(256)])
        yield bytes(copy)


@pytest.mark.parametrize('version', [1, 2])
def test_a_damaged_file_is_refused_or_in_version_1_comes_back_unchanged(tmp_path, checkpoint, version):
    path = tmp_path / 'c'
    save_checkpoint(path, checkpoint)
    if version == 1:
        make_version_1(path)
    whole, refused = path.read_bytes(), 0
    for data in damaged(whole, 100, seed=1):
        path.write_bytes(data)
        try:
            loaded = load_checkpoint(path)
        except InputError as error:
            assert '\n' not in str(error) and str(path) in str(error)
            refused += 1
        else:
            assert version == 1 or data == whole
            assert_same(loaded, checkpoint)
    assert refused > 50


def test_not_a_bit_may_differ_and_not_a_byte_be_missing_or_too_many(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setattr('imagernn.runs.checkpoint_file.in_child', lambda function: function())    # else 400 children
    path = tmp_path / 'c'
    save_checkpoint(path, checkpoint)
    whole = path.read_bytes()
    places = [*range(0, len(whole) - 40, len(whole) // 300), *range(len(whole) - 40, len(whole))]
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1:])
        refusal(path)
        path.write_bytes(whole[:place])
        refusal(path)
    path.write_bytes(whole + b'\n')
    refusal(path)


# ---- the original's pickles


def python2(value):
    """A pickle as Python 2.7 wrote it: protocol 0, byte strings, numpy.core paths."""
    if isinstance(value, dict):
        return b'(d' + b''.join(python2(key) + python2(item) + b's' for key, item in value.items())
    if isinstance(value, np.ndarray):
        shape = b'(' + b''.join(python2(size) for size in value.shape) + b't'
        return (
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n"
            + shape
            + python2_dtype(value.dtype)
            + (b'I01\n' if value.flags.f_contiguous else b'I00\n')
            + python2(value.tobytes('A'))
            + b'tb'
        )
    if isinstance(value, np.generic):
        data = python2(value.tobytes())
        return b'cnumpy.core.multiarray\nscalar\n(' + python2_dtype(value.dtype) + data + b'tR'
    if isinstance(value, bool):
        return b'I01\n' if value else b'I00\n'
    if isinstance(value, int):
        return b'I%d\n' % value if abs(value) < 2**63 else b'L%dL\n' % value
    if isinstance(value, float):
        return b'F%s\n' % repr(value).encode()
    if value is None:
        return b'N'
    raw = value.encode() if isinstance(value, str) else value
    return b'S' + repr(raw)[1:].encode() + b'\n'


def python2_dtype(dtype):
    order = b'>' if dtype.byteorder == '>' else b'<'
    return b"cnumpy\ndtype\n(S'%s'\nI0\nI1\ntR(I3\nS'%s'\nNNNI-1\nI-1\nI0\ntb" % (dtype.str[1:].encode(), order)


@pytest.fixture
def original(checkpoint):
    words = {'#START#': 0, 'dog': 1, 'café': 2, '"': 3, "it's": 4, 'new\nline': 5}
    model = {'We': checkpoint['model']['We'], 'Wd': np.asfortranarray(checkpoint['model']['Wd'])}
    return {
        'it': 30,
        'epoch': 1.5,
        'model': model,
        'params': {
            'generator': 'lstm',
            'regc': 1e-8,
            'tanhC_version': 0,
            'init_model_from': '',
            'x': None,
            'big': 2**70,
        },
        'perplexity': 17.25,
        'wordtoix': words,
        'ixtoword': {0: '.'} | {ix: word for word, ix in words.items() if ix},
    }


REST = {'history': [], 'solver': None, 'rng_state': None, 'features': None}


def test_a_python_2_pickle(tmp_path, original):
    path = tmp_path / 'model.p'
    path.write_bytes(python2(original | {'perplexity': np.float64(17.25)}) + b'.')
    assert_same(load_checkpoint(path), original | REST)
    save_checkpoint(tmp_path / 'model.h5', load_checkpoint(path))
    assert_same(load_checkpoint(tmp_path / 'model.h5'), original | REST)


def test_byte_order_becomes_native_and_latin_1_words_are_read(tmp_path, original):
    swapped = original['model']['We'].astype('>f4')
    changed = original | {'model': {'We': swapped}, 'wordtoix': {b'caf\xe9': 1}, 'ixtoword': {1: b'caf\xe9'}}
    (tmp_path / 'model.p').write_bytes(python2(changed) + b'.')
    loaded = load_checkpoint(tmp_path / 'model.p')
    assert_same(loaded['model']['We'], original['model']['We'])
    assert loaded['wordtoix'] == {'café': 1}


@pytest.mark.parametrize('protocol', range(6))
def test_python_3_pickles(tmp_path, original, protocol):
    data = pickle.dumps(original | {'it': np.int64(30), 'perplexity': np.float64(17.25)}, protocol)
    numpy1 = data.replace(b'\x16numpy._core', b'\x15numpy.core').replace(b'\x13numpy._core', b'\x12numpy.core')
    for written in (data, numpy1.replace(b'numpy._core', b'numpy.core')):
        (tmp_path / 'model.p').write_bytes(written)
        assert_same(load_checkpoint(tmp_path / 'model.p'), original | REST)


@pytest.mark.parametrize('variant', ['lstm_tanhC', 'rnn_relu'])
def test_the_original_checkpoints(variant):
    path = SHARED / f'original_checkpoint_{variant}.p'
    if not path.exists():
        pytest.skip('the golden checkpoints of the original, which are large, are not beside this checkout')
    loaded = load_checkpoint(path)
    with np.load(SHARED / f'{variant}.npz') as golden:
        assert {f'model/{name}' for name in loaded['model']} == {name for name in golden if name.startswith('model/')}
        assert all(np.array_equal(W, golden[f'model/{name}']) for name, W in loaded['model'].items())
    golden = json.loads((SHARED / 'golden.json').read_text(encoding='utf-8'))
    assert loaded['wordtoix'] == golden['wordtoix']
    assert loaded['ixtoword'] == {int(ix): word for ix, word in golden['ixtoword'].items()}
    assert loaded['params']['tanhC_version'] == (variant == 'lstm_tanhC')
    assert (loaded['it'], loaded['epoch']) == (1, 1.0)


class Calls:
    """Pickles into a call of the function with these arguments, and then a state to be set."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def hostile_objects(sentinel):
    touch = f'open({str(sentinel)!r}, "w")'
    return {
        'os.system': Calls(os.system, f'echo > "{sentinel}"'),
        'eval': Calls(eval, touch),
        'exec': Calls(exec, touch),
        'open': Calls(open, str(sentinel), 'w'),
        'import': Calls(__import__, 'os'),
        'getattr': Calls(getattr, Calls(__import__, 'os'), 'system'),
        'arguments': Calls(np.dtype, Calls(eval, touch)),
        'state': Calls(np.dtype, 'f8', state=(3, '<', Calls(eval, touch))),
        'runstring': Calls(np.load, str(sentinel)),
        'class': Calls(Path, 'x'),
        'fromfile': Calls(np.fromfile, str(sentinel)),
        'objects': np.array([[None, 1]], dtype=object),
        'records': np.zeros((1, 1), [('a', 'f4')]),
        'strings': np.array([['text']]),
        'set': {1, 2},
        'complex': 1j,
        'ufunc': np.add,
    }


@pytest.mark.parametrize('name', hostile_objects(Path('x')))
@pytest.mark.parametrize('protocol', [0, 2, 4, 5])
def test_pickles_that_would_run_code(tmp_path, original, name, protocol):
    sentinel = tmp_path / 'sentinel'
    path = tmp_path / 'model.p'
    evil = hostile_objects(sentinel)[name]
    for value in (evil, original | {'params': evil}, original | {'model': {'We': evil}}):
        path.write_bytes(pickle.dumps(value, protocol))
        assert 'NeuralTalk' in refusal(path)
        assert not sentinel.exists()


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
F8 = b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR"

PROGRAMS = {
    'posix system': (b"cposix\nsystem\n(S'echo'\ntR.", 'posix.system'),
    'nt system': (b"cnt\nsystem\n(S'echo'\ntR.", 'nt.system'),
    'python 2 eval': (b"c__builtin__\neval\n(S'1'\ntR.", '__builtin__.eval'),
    'copy_reg': (b'ccopy_reg\n_reconstructor\n(tR.', 'copy_reg._reconstructor'),
    'dotted': (b'\x80\x04\x8c\x05numpy\x8c\x0cdtype.__mro_\x93.', 'numpy.dtype.__mro_'),
    'odd name': (b'\x80\x04\x8c\x03a\nb\x8c\x04\x1b[2J\x93.', r'a\nb.\x1b[2J'),
    'submodule': (b'cnumpy.core.multiarray\nfromfile\n.', 'fromfile'),
    'instance': (b"(S'echo'\nios\nsystem\n.", "b'i'"),
    'object': (b'(cnumpy\ndtype\no.', "b'o'"),
    'newobj': (b'\x80\x02cnumpy\nndarray\n)\x81.', "b'\\x81'"),
    'persistent id': (b'\x80\x02(Pid\n.', "b'P'"),
    'extension': (b'\x80\x02\x82\x01.', "b'\\x82'"),
    'call of a string': (b"(S'numpy.dtype'\n(tR.", 'not a function'),
    'call of an array type': (b'cnumpy\nndarray\n((I9\ntt.', 'dict'),
    'ndarray called': (b'cnumpy\nndarray\n((I9\nttR.', 'not a function'),
    'state of a dict': (b'}}b.', 'state'),
    'state of a dtype': (F8 + b"}S'code'\nS'O'\nsb.", 'state'),
    'object dtype': (b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR.", 'O8'),
    'void dtype': (b"cnumpy\ndtype\n(S'V9999999'\nI0\nI1\ntR.", 'V9999999'),
    'a terabyte of array': (ARRAY + b'(I1\n(I1000000\nI1000000\nt' + F8 + b"I00\nS'abc'\ntb.", '1000000'),
    'negative shape': (ARRAY + b'(I1\n(I-1\nI-8\nt' + F8 + b"I00\nS'abcdefgh'\ntb.", 'shape'),
    'array without state': (ARRAY + b'.', 'plain data'),
    'a terabyte of bytes': (b'\x80\x04\x8e\0\0\0\0\0\1\0\0.', 'truncated'),
    'a terabyte of bytearray': (b'\x80\x05\x96\0\0\0\0\0\1\0\0.', 'truncated'),
    'a frame of a terabyte': (b'\x80\x04\x95\0\0\0\0\0\1\0\0}.', "no 'model'"),
    'a far memo place': (b'\x80\x02}r\xff\xff\xff\xff.', "no 'model'"),
    'a farther one': (b'}p' + b'9' * 50 + b'\n.', 'memo'),
    'an unknown memo place': (b'(g7\n.', 'KeyError'),
    'digits': (b'(I' + b'9' * 10**6 + b'\n.', 'digits'),
    'a list in itself': (b'(lp0\ng0\na.', 'deep'),
    'a dict in itself': (b"(dp0\nS'a'\ng0\ns" + b'K\0N' * 40 + b'g0\n.', 'deep'),
    'a tree without end': (b']' + b''.join(b'q%c(h%ch%cl' % (i, i, i) for i in range(30)) + b'.', 'more memory'),
    'a key without end': (b'}()' + b''.join(b'q%ch%c\x86' % (i, i) for i in range(60)) + b'Nu.', 'key of type tuple'),
    'one array many times': (
        b'(l' + ARRAY + b'(I1\n(I500\nt' + F8 + b"I00\nS'" + b'x' * 4000 + b"'\ntbp0\na" + b'g0\na' * 5000 + b'.',
        'more memory',
    ),
    'one text many times': (
        b"(lc_codecs\nencode\np0\n(V" + b'x' * 5000 + b'\nVlatin1\ntp1\nRa' + b'g0\ng1\nRa' * 5000 + b'.',
        'more memory',
    ),
    'not a dict': (b'(l.', 'pickle of a list'),
    'keys that read the same': (b"(dS'a'\nI1\nsVa\nI2\ns.", 'same'),
    'no end': (b'(d', 'truncated'),
}  # fmt: skip


@pytest.mark.parametrize('name', PROGRAMS)
def test_pickle_programs(tmp_path, name):
    program, reason = PROGRAMS[name]
    path = tmp_path / 'model.p'
    path.write_bytes(program)
    assert reason in refusal(path)


def test_a_pickle_without_its_parts(tmp_path, original):
    for name in ('model', 'params'):
        (tmp_path / 'model.p').write_bytes(python2({k: v for k, v in original.items() if k != name}) + b'.')
        assert f'no {name!r}' in refusal(tmp_path / 'model.p')
    (tmp_path / 'model.p').write_bytes(python2(original | {'model': {'We': np.zeros((1,) * 5)}}) + b'.')
    assert '1 to 4 axes' in refusal(tmp_path / 'model.p')


@pytest.mark.filterwarnings('ignore:invalid escape')
@pytest.mark.parametrize('protocol', ['python 2', 2, 5])
def test_damaged_pickles(tmp_path, original, protocol):
    whole = python2(original) + b'.' if protocol == 'python 2' else pickle.dumps(original, protocol)
    path = tmp_path / 'model.p'
    for data in damaged(whole, 100, seed=2):
        path.write_bytes(data)
        try:
            load_checkpoint(path)
        except InputError as error:
            assert '\n' not in str(error)


def test_the_pickle_reader_agrees_with_pickle_on_plain_data():
    value = {
        'a': [1, -1, 255, 65536, 2**40, -(2**70), 1.5, float('inf'), True, None, 'ü🏄', [[]], {}],
        'b' * 300: {3: ''},
    }
    for protocol in range(6):
        assert read_pickle(pickle.dumps(value, protocol)) == value

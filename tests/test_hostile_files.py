"""Files made to do harm: none runs, none fills the memory or turns in circles, each is refused with a message.

First known attacks, by hand; then some hundred spoilt files a loader (the long form is tests/soak.py); then what the
long form found.
"""

import faulthandler
import io
import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import textwrap
import threading
import zipfile
import zlib
from pathlib import Path

import fuzzing
import h5py
import numpy as np
import pytest
from odd_pictures import encoded, png_header, png_of
from PIL import Image

from imagernn.captioning.load import load_captioner
from imagernn.convnet.sources import read_tasks
from imagernn.convnet.weights import load_network
from imagernn.corpus.captioned_images import getDataProvider
from imagernn.corpus.features import open_features
from imagernn.corpus.token_store import _seal, build_store, fingerprint, load_store, save_store
from imagernn.errors import InputError, NotChecked
from imagernn.formats import hdf5, matlab, npy, pickles, pictures, weight_files
from imagernn.formats.pickles import read_pickle
from imagernn.formats.pictures import load_picture
from imagernn.runs.checkpoint_file import load_checkpoint

ROOT = Path(__file__).resolve().parents[1]
FEW = 10_000    # in place of the millions that are allowed, to be quick


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path, monkeypatch):
    """Fails where a file did what it is made to: to leave `ran` behind, here or where the tests run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pickles, 'MAX_STEPS', FEW)
    monkeypatch.setattr(weight_files, 'MAX_FIELDS', FEW)
    yield
    assert not list(tmp_path.rglob('ran*'))


def refusal(load, path):
    """The one-line message that names the file."""
    with pytest.raises(InputError) as caught:
        load(path)
    message = str(caught.value)
    assert str(path) in message and '\n' not in message and len(message) < 1000
    return message


# ---- pickles, as checkpoints and as .pth

SYSTEM = b"cos\nsystem\n(S'touch ran'\ntR."
REDUCE = b"c__builtin__\neval\n(S'open(\"ran\", \"w\")'\ntR"
F8 = b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR"
RECONSTRUCT = b'cnumpy.core.multiarray\n_reconstruct\n'
MALICIOUS = {
    'os.system': SYSTEM,
    'posix.system': b"cposix\nsystem\n(S'touch ran'\ntR.",
    'nt.system': b"cnt\nsystem\n(S'touch ran'\ntR.",
    'subprocess.Popen': b"csubprocess\nPopen\n(S'touch ran'\ntR.",
    'builtins.eval': b"cbuiltins\neval\n(S'open(\"ran\", \"w\")'\ntR.",
    'builtins.exec': b"cbuiltins\nexec\n(S'open(\"ran\", \"w\")'\ntR.",
    'builtins.getattr': b"cbuiltins\ngetattr\n(cos\nS'system'\ntR.",
    'builtins.__import__': b"cbuiltins\n__import__\n(S'os'\ntR.",
    'importlib': b"cimportlib\nimport_module\n(S'os'\ntR.",
    'runpy': b"crunpy\n_run_code\n(S'open(\"ran\", \"w\")'\n}tR.",
    'code objects': b"ctypes\nFunctionType\n(ctypes\nCodeType\ntR.",
    'marshal': b"cmarshal\nloads\n(S'c'\ntR.",
    'pickle in a pickle': b'cpickle\nloads\n(S"' + SYSTEM.replace(b'"', b'').replace(b'\n', b'\\n') + b'"\ntR.',
    'torch.load in a pickle': b"ctorch\nload\n(S'x.pth'\ntR.",
    'numpy.load': b"cnumpy\nload\n(S'x.npy'\nNI01\ntR.",
    'numpy.testing runstring': b"cnumpy.testing._private.utils\nrunstring\n(S'open(\"ran\", \"w\")'\n}tR.",
    'numpy.f2py': b"cnumpy.f2py.crackfortran\nmyeval\n(S'1'\ntR.",
    'operator.attrgetter': b"coperator\nattrgetter\n(S'system'\ntR(cos\nosystem\n.",
    'functools.partial': b"cfunctools\npartial\n(cos\nsystem\nS'touch ran'\ntR.",
    'webbrowser': b"cwebbrowser\nopen\n(S'x'\ntR.",
    'copyreg': b'ccopyreg\n_reconstructor\n(cos\n_wrap_close\nc__builtin__\nobject\nNtR.',
    'nested reduce': F8[:-3] + b'(' + REDUCE + b'tR.',
    'reduce as an argument': b'cnumpy\ndtype\n(' + REDUCE + b'I0\nI1\ntR.',
    'reduce as a state': F8 + b'(I3\n' + REDUCE + b'NNNI-1\nI-1\nI0\ntb.',
    'reduce as a key': b'(d' + REDUCE + b'I1\ns.',
    'reduce of what was reduced': b'(' + REDUCE + b'(tR.',
    'STACK_GLOBAL': b'\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\ttouch ran\x85R.',
    'STACK_GLOBAL from the memo': b'\x80\x04\x8c\x06system\x94\x8c\x02os\x940h\x01h\x00\x93\x8c\ttouch ran\x85R.',
    'STACK_GLOBAL of computed names': b'\x80\x04c_codecs\nencode\n\x8c\x02os\x8c\x06latin1\x86R\x8c\x06system\x93.',
    'a dotted name': b'\x80\x04\x8c\x05numpy\x8c\x11f2py.os.system\x93\x8c\ttouch ran\x85R.',
    'a dotted module': b"cnumpy.f2py.os\nsystem\n(S'touch ran'\ntR.",
    'a name with a space': b"cos \nsystem\n(S'touch ran'\ntR.",
    'INST': b"(S'touch ran'\nios\nsystem\n.",
    'OBJ': b"(cos\nsystem\nS'touch ran'\no.",
    'NEWOBJ': b"\x80\x02cos\nsystem\nS'touch ran'\n\x85\x81.",
    'NEWOBJ_EX': b"\x80\x04cos\nsystem\nS'touch ran'\n\x85}\x92.",
    'EXT1': b'\x80\x02\x82\x01)R.',
    'EXT2': b'\x80\x02\x83\x01\x00)R.',
    'EXT4': b'\x80\x02\x84\x01\x00\x00\x00)R.',
    'PERSID': b'Pos.system\n.',
    'BINPERSID': b'\x80\x02X\x02\x00\x00\x00osQ.',
    'NEXT_BUFFER': b'\x80\x05\x97.',
    'BUILD of a type': b'cnumpy\ndtype\n}b.',
    'BUILD of an array type': b"cnumpy\nndarray\n}S'__setstate__'\nS'x'\nsb.",
    'BUILD of a dict': b"}}S'__class__'\nS'x'\nsb.",
    'BUILD with slots': F8 + b"N}S'fields'\nS'x'\ns\x86b.",
    'an array of objects': RECONSTRUCT + b"(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\ntcnumpy\ndtype\n(S'O8'\nI0\nI1\ntR"
                           b"I00\n(l" + REDUCE + b'atb.',
    'reconstruct of another type': RECONSTRUCT + b"(cos\nsystem\n(I0\ntS'touch ran'\ntR.",
    'a huge array': RECONSTRUCT + b"(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1000000\nI1000000\nt" + F8
                    + b"I00\nS'abc'\ntb.",
    'a huge initial shape': RECONSTRUCT + b"(cnumpy\nndarray\n(I1000000000000\ntS'b'\ntR.",
    'a huge array of nothing': RECONSTRUCT + b"(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I0\nL" + b'9' * 60 + b'L\nt' + F8
                               + b"I00\nS''\ntb.",
    'a huge bytearray by call': b'cbuiltins\nbytearray\n(I1000000000000\ntR.',
    'a huge bytearray': b'\x80\x05\x96\x00\x00\x00\x00\x00\x01\x00\x00x.',
    'huge bytes': b'\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fx.',
    'huge text': b'\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xffx.',
    'text of negative length': b'T\xff\xff\xff\xffx.',
    'a huge frame': b'\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xff' + SYSTEM,
    'a huge memo place': b'(dr\xff\xff\xff\xffp' + b'9' * 64 + b'\n.',
    'a huge power': b"cbuiltins\npow\n(I9\nI999999999\ntR.",
    'a repeated string by call': b"coperator\nmul\n(S'x'\nI1000000000000\ntR.",
    'many digits': b'I' + b'9' * 1_000_000 + b'\n.',
    'many digits, LONG4': b'\x80\x02\x8b\x40\x42\x0f\x00' + b'\x7f' * 1_000_000 + b'.',
    'marks': b'(' * 300_000,
    'lists': b']' * FEW + b'.',
    'dicts': b'}' * FEW + b'.',
    'memo': b']' + b'\x94' * FEW + b'.',
    'billion laughs of tuples': b'\x80\x02)' + b'q\x00h\x00h\x00\x87' * 40 + b'.',
    'billion laughs of lists': b']' + b''.join(b'q%c(h%ch%cl' % (i, i, i) for i in range(40)) + b'.',
    'the same dict many times': b'(}q\x00' + b'h\x00' * (FEW - 100) + b'l' + b'.',
    'a list in itself': b']q\x00h\x00a.',
    'a tuple in a list in it': b']q\x00h\x00\x85a.',
    'deep lists': b']' * 1000 + b'a' * 999 + b'.',
    'deep tuples': b')' + b'\x85' * 100_000 + b'.',
    'a key that hashes for ever': b'}()' + b''.join(b'q%ch%c\x86' % (i, i) for i in range(60)) + b'Nu.',
    'a stack that is empty': b'\x80\x02R.',
    'POP of nothing': b'0.',
    'POP_MARK': b'(1.',
    'DUP': b'(d22222.',
    'no end': b'}',
}


@pytest.mark.parametrize('name', MALICIOUS)
def test_a_malicious_pickle_is_refused_as_a_checkpoint(tmp_path, name):
    (tmp_path / 'a.p').write_bytes(MALICIOUS[name])
    refusal(load_checkpoint, tmp_path / 'a.p')


def test_what_is_malicious_would_run(tmp_path):
    """By pickle itself: so the list is no paper tiger."""
    for name in ('os.system', 'builtins.eval', 'STACK_GLOBAL', 'STACK_GLOBAL from the memo', 'OBJ', 'INST',
                 'reduce as a key', 'builtins.exec'):
        try:
            pickle.loads(MALICIOUS[name])
        except TypeError:    # of a key that cannot be one: when it has run
            pass
        assert (tmp_path / 'ran').exists(), name
        (tmp_path / 'ran').unlink()


def as_new_pth(program):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr('archive/data.pkl', program)
        archive.writestr('archive/data/0', bytes(16))
    return file.getvalue()


def as_old_pth(program):
    start = b''.join(pickle.dumps(value, 2) for value in (0x1950a86a20f9469cfc6c, 1001, {'little_endian': True}))
    return start + program + pickle.dumps([], 2)


@pytest.mark.parametrize('wrap', [as_new_pth, as_old_pth])
@pytest.mark.parametrize('name', MALICIOUS)
def test_a_malicious_pickle_is_refused_as_a_pth(tmp_path, name, wrap):
    (tmp_path / 'a.pth').write_bytes(wrap(MALICIOUS[name]))
    refusal(load_network, tmp_path / 'a.pth')


def torch_program(tensor):
    """A state_dict of one tensor, whose arguments are given as a pickle."""
    storage = (b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ")
    return (b'\x80\x02}X\x0f\x00\x00\x00features.0.biasctorch._utils\n_rebuild_tensor_v2\n(' + storage + tensor
            + b'\x89}tRs.')


@pytest.mark.parametrize('tensor', [
    b'K\x00(J\x00\x00\x00\x40K\x01t(K\x01K\x01t',                                      # larger than its storage
    b'K\x00(J\x00\x00\x00\x40K\x01t(K\x00K\x00t',                                      # by strides of 0
    b'J\x00\x00\x00\x40(K\x04t(K\x01t',                                                # beyond it
    b'J\xff\xff\xff\xff(K\x04t(K\x01t',                                                # before it
    b'K\x00(K\x04t(J\xff\xff\xff\xfft',                                                # backwards
    b'K\x00(' + b'\x8a\x06\x00\x00\x00\x00\x00\x40' * 60_000 + b't(' + b'K\x00' * 60_000 + b't',    # axes without end
    b'K\x00(\x88t(K\x01t', b'K\x00}}', b'NNN', b'K\x00]]'],
                         ids=range(10))
def test_a_tensor_that_lies_is_refused(tmp_path, tensor):
    (tmp_path / 'a.pth').write_bytes(as_new_pth(torch_program(tensor)))
    refusal(load_network, tmp_path / 'a.pth')


def test_an_honest_pickle_is_far_from_the_limits(monkeypatch):
    monkeypatch.setattr(pickles, 'MAX_STEPS', 200_000)    # a tenth
    words = {f'word{i}': i for i in range(8800)}
    value = {'wordtoix': words, 'ixtoword': {i: word for word, i in words.items()}, 'We': np.zeros((10, 10))}
    for protocol in (0, 2, 5):
        found = read_pickle(pickle.dumps(value, protocol))
        assert found['wordtoix'] == words and found['We'].shape == (10, 10)


# ---- HDF5

def write_h5(path, name='feats', write=None, **options):
    with h5py.File(path, 'w') as file:
        write(file) if write else file.create_dataset(name, **options)
    return path


def external_link(file):
    h5py.File('other.h5', 'w').create_dataset('feats', data=np.ones((2, 2)))
    file['feats'] = h5py.ExternalLink('other.h5', 'feats')


def external_link_behind_a_soft_one(file):
    external_link(file)
    file.move('feats', 'there')
    file['feats'] = h5py.SoftLink('/there')


def external_storage(file):
    Path('other').write_bytes(bytes(32))
    file.create_dataset('feats', (2, 2), 'f8', external=[('other', 0, 32)])


def virtual(file):
    h5py.File('other.h5', 'w').create_dataset('feats', data=np.ones((2, 2)))
    layout = h5py.VirtualLayout((2, 2), 'f8')
    layout[:] = h5py.VirtualSource('other.h5', 'feats', (2, 2))
    file.create_virtual_dataset('feats', layout)


def huge_chunk(file):
    """32 KB that HDF5 itself would unpack to 32 MB, to fill a chunk of 64 KB."""
    dataset = file.create_dataset('feats', (128, 128), 'f4', chunks=(128, 128), compression='gzip')
    packer = zlib.compressobj(9)
    block = bytes(1 << 24)
    data = b''.join(packer.compress(block) for _ in range(2)) + packer.flush()
    dataset.id.write_direct_chunk((0, 0), data)


def packed_by_lzf(data):
    def write(file):
        dataset = file.create_dataset('feats', (9, 9), 'f4', chunks=(9, 9), compression='lzf')
        dataset.id.write_direct_chunk((0, 0), data)
    return {'write': write}


HOSTILE_HDF5 = {
    'a fill value of a terabyte': ({'shape': (1 << 20, 1 << 18), 'dtype': 'f4', 'chunks': (1, 1 << 10)}, 'claims'),
    'a terabyte in one piece': ({'shape': (1 << 20, 1 << 18), 'dtype': 'f4'}, 'claims'),
    'a bomb': ({'data': np.zeros((2200, 2200), 'f4'), 'chunks': (100, 2200), 'compression': 'gzip'}, 'claims'),
    'lzf that repeats what is not there': (packed_by_lzf(b'\0a\x20\1'), 'before its start'),
    'lzf that ends within a repeat': (packed_by_lzf(b'\0a\xe0'), 'IndexError'),
    'lzf that ends early': (packed_by_lzf(b'\0a\x20\0'), 'has 4 bytes, expected 324'),
    'lzf without end': (packed_by_lzf(b'\0a' + b'\xe0\xff\0' * 1000), 'has 529 bytes, expected 324'),
    'scale and offset': ({'data': np.zeros((9, 9), 'i4'), 'scaleoffset': 4}, 'not supported'),
    'an external link': ({'write': external_link}, 'link'),
    'a soft link': ({'write': external_link_behind_a_soft_one}, 'link'),
    'external storage': ({'write': external_storage}, 'other files'),
    'virtual': ({'write': virtual}, 'other files'),
    'chunks that are not there': ({'shape': (9, 9), 'dtype': 'f4', 'chunks': (3, 9)}, 'missing'),
    'a chunk that unpacks without end': ({'write': huge_chunk}, 'expected 65,536'),
}


def read_features(path):
    return open_features(path).rows([0])


@pytest.mark.parametrize('options, words', HOSTILE_HDF5.values(), ids=HOSTILE_HDF5)
def test_hostile_features_in_hdf5(tmp_path, options, words):
    assert words in refusal(read_features, write_h5(tmp_path / 'a.h5', **options))


def read_regions(path):
    return open_features(path).with_regions().rows([0])


def virtual_copy(file, name, shape):
    layout = h5py.VirtualLayout(shape, 'f4')
    layout[...] = h5py.VirtualSource('other.h5', name, shape)
    file.create_virtual_dataset(name, layout)


def in_another_file(file, name, shape):
    Path('other').write_bytes(bytes(1000))
    file.create_dataset(name, shape, 'f4', external=[('other', 0, 1000)])


def in_a_chunk_of_gigabytes(file, name, shape):
    chunks = (1 << 16, 1 << 14, 4)[:len(shape)]
    dataset = file.create_dataset(name, shape, 'f4', maxshape=[None] * len(shape), chunks=chunks, compression='gzip')
    dataset.id.write_direct_chunk((0,) * len(shape), zlib.compress(bytes(1000)))


BESIDE_FEATURES = {
    'an external link': (lambda file, name, shape: file.update({name: h5py.ExternalLink('other.h5', name)}), 'link'),
    'a soft link': (lambda file, name, shape: file.update({name: h5py.SoftLink('/feats')}), 'link'),
    'external storage': (in_another_file, 'other files'),
    'virtual': (virtual_copy, 'other files'),
    'chunks that are not there': (lambda file, name, shape: file.create_dataset(name, shape, 'f4', chunks=shape),
                                  'missing'),
    'a chunk of gigabytes': (in_a_chunk_of_gigabytes, 'decompress'),
}


@pytest.mark.parametrize('name, shape', [('regions', (2, 3, 4)), ('boxes', (3, 4))])
@pytest.mark.parametrize('write, words', BESIDE_FEATURES.values(), ids=BESIDE_FEATURES)
def test_hostile_regions_and_boxes_in_hdf5(tmp_path, name, shape, write, words):
    with h5py.File('other.h5', 'w') as other:
        other[name] = np.ones(shape, 'f4')
    with h5py.File(tmp_path / 'a.h5', 'w') as file:
        file['feats'], others = np.ones((2, 5), 'f4'), {'regions': np.ones((2, 3, 4)), 'boxes': [[0, 0, 1, 1]] * 3}
        del others[name]
        file.update(others)
        write(file, name, shape)
    assert words in refusal(read_regions, tmp_path / 'a.h5')


@pytest.mark.parametrize('options', [
    {'shape': (2, 1000, 1 << 27), 'dtype': 'f4'},
    {'shape': (2, 1000, 1 << 27), 'dtype': 'f4', 'chunks': (1, 1, 1 << 10)},
    {'data': np.zeros((2, 1000, 2500), 'f4'), 'chunks': (1, 1000, 2500), 'compression': 'gzip'},
], ids=['a terabyte in one piece', 'a fill value of a terabyte', 'a bomb'])
def test_regions_that_claim_more_than_the_file_holds(tmp_path, options):
    path = write_h5(tmp_path / 'a.h5', 'regions', **options)
    with h5py.File(path, 'r+') as file:
        file['feats'] = np.ones((2, 5), 'f4')
    assert 'claims' in refusal(read_regions, path)


def test_hostile_weights_in_hdf5(tmp_path):
    for name, (options, _) in HOSTILE_HDF5.items():
        path = tmp_path / f'{name}.h5'
        write_h5(path, **options)
        with h5py.File(path, 'r+') as file:
            if isinstance(file.get('feats', getlink=True), h5py.HardLink):
                file['conv1_1/kernel'] = file['feats']
        refusal(load_network, path)


def test_the_other_way_to_read_hdf5_gives_the_same(tmp_path):
    """Chunks at the edges, kept as they are, filters left out, a block of the user's own."""
    feats = np.random.default_rng(0).standard_normal((11, 7)).astype('f4')
    for number, options in enumerate(({'chunks': (4, 3)}, {'chunks': (4, 3), 'compression': 'gzip', 'shuffle': True},
                                      {'chunks': (1, 7), 'shuffle': True}, {'chunks': (11, 7), 'compression': 9})):
        for more in ({}, {'userblock_size': 512}, {'libver': 'latest'}):
            path = tmp_path / f'{number}.h5'
            with h5py.File(path, 'w', **more) as file:
                file.create_dataset('feats', data=feats, **options)
            assert np.array_equal(open_features(path).rows(range(11)), feats)
            with h5py.File(path) as file:
                assert np.array_equal(hdf5.Numbers(path, hdf5.describe(file['feats'])).whole(), feats)


def test_a_crash_a_circle_and_a_hunger_of_the_library_are_errors(monkeypatch):
    def dies(number):
        faulthandler.disable()
        os.kill(os.getpid(), number)

    def circle():
        while True:
            pass

    monkeypatch.setattr(hdf5, 'MAX_SECONDS', .1)
    for function, error, words in ((lambda: dies(11), ValueError, 'crash .SIGSEGV'),
                                   (lambda: dies(6), ValueError, 'SIGABRT'),
                                   (circle, NotChecked, 'does not finish'),
                                   (lambda: bytes(1 << 30), NotChecked, 'takes the HDF5 library more than 512 MB'),
                                   (lambda: os._exit(3), NotChecked, 'ended without an answer')):
        with pytest.raises(error, match=words):
            hdf5.in_child(function)
    with pytest.raises(InputError, match='as it is'):
        hdf5.in_child(lambda: (_ for _ in ()).throw(InputError('as it is')))
    assert hdf5.in_child(lambda: {'a': (1, 'ü\udcff')}) == {'a': [1, 'ü\udcff']}


def test_a_child_is_made_beside_threads_too():
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert hdf5.in_child(os.getpid) != os.getpid()
    finally:
        done.set()
        thread.join()


# ---- numpy, zip, MATLAB

def npy_header(text, version=1):
    size = struct.pack('<H' if version == 1 else '<I', len(text))
    return b'\x93NUMPY' + bytes([version, 0]) + size + text


@pytest.mark.parametrize('content', [
    npy_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 4), }"),
    npy_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (%s, 4), }" % (b'9' * 400)),
    npy_header(b"{'descr': '|O', 'fortran_order': False, 'shape': (1, 1), }") + pickle.dumps(1),
    npy_header(b"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1, 1), }") + bytes(4),
    npy_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (__import__('os').system('touch ran'), 1), }"),
    npy_header(b'(' * 9000), npy_header(b'-' * 9000 + b'1'), npy_header(b'[' * 9000),
    b'\x93NUMPY\x02\x00\xff\xff\xff\x7f' + bytes(100),
    b'\x93NUMPY\x09\x00', b'\x93NUMPY'], ids=range(11))
def test_hostile_npy(tmp_path, content):
    (tmp_path / 'a.npy').write_bytes(content)
    refusal(read_features, tmp_path / 'a.npy')
    with zipfile.ZipFile(tmp_path / 'a.npz', 'w') as archive:
        archive.writestr('conv1_1_W.npy', content)
    refusal(load_network, tmp_path / 'a.npz')


def test_a_zip_member_that_claims_more_bytes_than_the_file_has(tmp_path):
    """Found by tests/soak.py: Python makes room for that many before it reads."""
    path = tmp_path / 'a.npz'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('a.npy', b'0' * 385)
    data = bytearray(path.read_bytes())
    entry = data.index(b'PK\x01\x02')
    data[entry + 20:entry + 24] = (0x7f000001).to_bytes(4, 'little')    # its size as it is packed
    path.write_bytes(data)
    with pytest.raises(ValueError, match='a.npy.* claims 2,130,706,433 bytes of a file of'):
        npy.open_archive(path)


def test_zip_bombs(tmp_path, monkeypatch):
    monkeypatch.setattr(npy, 'ALWAYS_ALLOWED', 1 << 20)
    path = tmp_path / 'a.npz'
    for kind in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(path, 'w', kind) as archive:
            archive.writestr('conv1_1_W.npy', bytes(2 << 20))
        assert 'claims to decompress' in refusal(load_network, path)
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_BZIP2) as archive:
        archive.writestr('conv1_1_W.npy', bytes(1000))
    assert 'unsupported compression' in refusal(load_network, path)
    member = b'PK\1\2' + bytes(42)
    path.write_bytes(member * 20_000 + b'PK\5\6' + bytes(4) + struct.pack('<2H2IH', 20_000, 20_000, 46 * 20_000, 0, 0))
    assert 'more than 10,000 members' in refusal(load_network, path)


def test_a_member_that_unpacks_to_more_than_it_says(tmp_path):
    path = tmp_path / 'a.npz'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('conv1_1_W.npy', bytes(8 << 20))
    data = path.read_bytes().replace(struct.pack('<I', 8 << 20), struct.pack('<I', 100))
    path.write_bytes(data)
    refusal(load_network, path)
    with npy.open_archive(path) as archive, pytest.raises(zipfile.BadZipFile):
        archive.read('conv1_1_W.npy')


def mat_element(kind, data):
    return struct.pack('<2I', kind, len(data)) + data + bytes(-len(data) % 8)


def mat_matrix(name, shape, numbers, kind=7, flags=7):
    head = mat_element(6, struct.pack('<2I', flags, 0)) + mat_element(5, np.array(shape, '<i4').tobytes())
    return mat_element(14, head + mat_element(1, name) + mat_element(kind, numbers))


def mat_file(*elements):
    return b'MATLAB 5.0 MAT-file'.ljust(124) + b'\0\1IM' + b''.join(elements)


HOSTILE_MAT = {
    'a terabyte': mat_matrix(b'feats', (1 << 20, 1 << 18), bytes(8)),
    'a negative size': mat_matrix(b'feats', (-1, -2), bytes(8)),
    'an overflowing size': mat_matrix(b'feats', (1 << 30,) * 8, bytes(0)),
    'axes without end': mat_matrix(b'feats', (1,) * 100_000, bytes(4)),
    'a long name': mat_matrix(b'feats' * 1000, (1, 1), bytes(4)),
    'a bomb': mat_element(15, zlib.compress(mat_matrix(b'feats', (1 << 10, 1 << 13), bytes(1 << 25)), 9)),
    'a length that lies': struct.pack('<2I', 14, 0xfffffff0) + bytes(64),
    'a packed length that lies': struct.pack('<2I', 15, 0xfffffff0) + zlib.compress(bytes(64)),
    'not packed': mat_element(15, b'no zlib at all'),
    'packed twice': mat_element(15, zlib.compress(mat_element(15, zlib.compress(bytes(999))))),
    'sparse': mat_matrix(b'feats', (1 << 20, 1 << 20), bytes(8), flags=5),
    'a cell of 2 ** 60': mat_matrix(b'feats', (1 << 30, 1 << 30), b'', flags=1),
    'a struct of no fields': mat_matrix(b'feats', (1 << 30, 1 << 30), b'', kind=5, flags=2),
    'a function': mat_matrix(b'feats', (1, 1), bytes(8), flags=16),
    'elements without end': mat_element(14, b'') * 200_000,
}


@pytest.mark.parametrize('name', HOSTILE_MAT)
def test_hostile_mat(tmp_path, name):
    (tmp_path / 'a.mat').write_bytes(mat_file(HOSTILE_MAT[name]))
    refusal(read_features, tmp_path / 'a.mat')
    (tmp_path / 'b.mat').write_bytes(mat_file(HOSTILE_MAT[name].replace(b'feats', b'layer')))
    refusal(load_network, tmp_path / 'b.mat')


def test_a_cell_in_a_cell_in_a_cell(tmp_path):
    nest = mat_matrix(b'', (1, 1), bytes(4))
    for _ in range(2000):
        nest = mat_element(14, mat_element(6, struct.pack('<2I', 1, 0)) + mat_element(5, struct.pack('<2I', 1, 1))
                           + mat_element(1, b'layers') + nest)
    (tmp_path / 'a.mat').write_bytes(mat_file(nest))
    refusal(load_network, tmp_path / 'a.mat')
    assert matlab.read_variables(tmp_path / 'a.mat')['layers']()    # as deep as is read


# ---- protocol buffers

def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


HOSTILE_PROTOBUF = {
    'groups in groups': bytes([1 << 3 | 3]) * 100_000,
    'messages in messages': None,
    'axes without end': field(7, field(5, field(1, 1 << 62) * 5000 + field(2, 1) + field(8, b'x')
                                       + field(9, b'abcd'))),
    'packed axes without end': field(7, field(5, field(1, varint(1 << 62) * 50_000) + field(2, 1) + field(8, b'x')
                                              + field(9, b'abcd'))),
    'a terabyte': field(7, field(5, field(1, 1 << 38) + field(2, 1) + field(8, b'x') + field(9, b'abcd'))),
    'a length of 2^63': b'\x3a' + varint(1 << 63),
    'a number without end': b'\x38' + b'\xff' * 100_000,
    'fields without end': b'\x08\x00' * (FEW + 1),
    'one name, again and again': field(100, field(1, b'n' * 100_000) + field(7, field(5, b'')
                                                                          + field(7, field(1, 0))) * 10_000),
}


@pytest.mark.parametrize('name', HOSTILE_PROTOBUF)
@pytest.mark.parametrize('suffix', ['.caffemodel', '.onnx'])
def test_hostile_protocol_buffers(tmp_path, name, suffix):
    content = HOSTILE_PROTOBUF[name]
    if content is None:
        content = b''
        for _ in range(5000):
            content = field(7, field(5, content))
    (tmp_path / f'a{suffix}').write_bytes(content)
    refusal(load_network, tmp_path / f'a{suffix}')


def test_names_so_long_that_to_look_through_them_would_take_for_ever(tmp_path):
    with zipfile.ZipFile(tmp_path / 'a.npz', 'w') as archive:
        file = io.BytesIO()
        np.save(file, np.zeros(1))
        for i in range(200):
            archive.writestr(f'{"conv1_1x" * 1000}{i}.npy', file.getvalue())
    assert 'very long names' in refusal(load_network, tmp_path / 'a.npz')


# ---- JSON, the store beside it, tasks.txt

IMAGE = {'filename': 'a.jpg', 'imgid': 0, 'split': 'train', 'sentences': [{'tokens': ['a']}]}


@pytest.mark.parametrize('content', [
    b'[' * 100_000, b'{"images":' * 100_000, b'{"images": ' + b'9' * 100_000 + b'}',
    json.dumps({'images': [{**IMAGE, 'imgid': 'x' * 1_000_000}]}).encode(),
    json.dumps({'images': [{**IMAGE, 'split': ['x'] * 100_000}]}).encode(),
    json.dumps({'images': [{**IMAGE, 'filename': '\x1b[2J' * 1000, 'imgid': -1}]}).encode(),
    json.dumps({'images': [{**IMAGE, 'sentences': [{'tokens': [['x'] * 100_000]}]}]}).encode(),
    json.dumps({'images': [IMAGE]}).replace('"a.jpg"', f'"a.jpg", "x": {"[" * 500}{"]" * 500}').encode(),
    json.dumps({'images': [IMAGE]}).replace('["a"]', f'["a"], "x": {"[" * 500}{"]" * 500}').encode(),
    json.dumps({'images': [{**IMAGE, 'imgid': 10 ** 4000}]}).encode(),
    b'{"images": [{"filename": "\xff"}]}', b'\xff\xfe{\x00}\x00', b'null', b'', b'\0' * 100, b'{"x' * 100_000],
    ids=range(16))
def test_hostile_json(tmp_path, content):
    (tmp_path / 'dataset.json').write_bytes(content)
    np.save(tmp_path / 'vgg_feats.npy', np.ones((1, 2)))
    message = refusal(lambda path: getDataProvider('.', path.parent), tmp_path / 'dataset.json')
    assert '\x1b' not in message


KEY = fingerprint(b'')


@pytest.fixture
def store(tmp_path):
    """The members of a store's file, and how to write them again under a right seal."""
    save_store(tmp_path / 'dataset.cache.npz', build_store([json.loads(json.dumps(IMAGE)) for _ in range(3)]), KEY)
    with np.load(tmp_path / 'dataset.cache.npz') as file:
        arrays = {name: file[name] for name in file if name != 'seal'}

    def forged(**changes):
        found = {**arrays, **changes}
        np.savez(tmp_path / 'dataset.cache.npz', seal=_seal(found, KEY), **found)
        return load_store(tmp_path / 'dataset.cache.npz', KEY)

    return forged


def test_a_forged_store_names_no_place_that_is_not_there(store):
    assert store().num_sentences(np.arange(3)).tolist() == [1, 1, 1]
    for changes in ({'tokens': np.array([0, 0, 1], np.int32)}, {'tokens': np.array([0, 0, -1], np.int32)},
                    {'token_starts': np.array([0, 2, 1, 3])}, {'token_starts': np.array([0, 1, 2, 4])},
                    {'image_starts': np.array([1, 1, 2, 3])}, {'image_starts': np.array([0, 3])},
                    {'image_texts': np.array([0, 0, 10 ** 9])}, {'sentence_texts': np.array([0, 0, -5])},
                    {'imgids': np.array([0, 1])}, {'imgids': np.array([0., 1, 2])}, {'splits': np.array(['train'])},
                    {'words': np.frombuffer(b'[1]', np.uint8)}, {'words': np.frombuffer(b'{"a": 1}', np.uint8)},
                    {'tokens': np.array([0., 0, 0])}, {'image_texts': np.zeros((3, 1), int)}):
        assert store(**changes) is None, changes


def test_a_store_that_is_a_bomb_is_not_taken(tmp_path):
    path = tmp_path / 'dataset.cache.npz'
    np.savez_compressed(path, tokens=np.zeros(1 << 23))
    assert load_store(path, KEY) is None
    np.savez(path, tokens=np.array([None]), words=np.array([print]))
    assert load_store(path, KEY) is None


def test_hostile_tasks(tmp_path):
    path = tmp_path / 'tasks.txt'
    for content in (b'a\0b.jpg\n', b'\xff\xfea\0', b'', b'\n \r\n'):
        path.write_bytes(content)
        refusal(read_tasks, path)
    path.write_bytes('a\u2028b.jpg\r\n\x0bc.jpg\r-d.jpg'.encode())
    assert read_tasks(path) == ['a\u2028b.jpg', 'c.jpg', '-d.jpg']


# ---- pictures

def test_pictures_that_unpack_to_fill_the_memory(tmp_path):
    rows = zlib.compress(bytes(1 + 8192 // 8) * 8192, 9)    # of 1 bit a pixel
    bombs = {'a.png': png_of(png_header(8192, 8192, 1, 0), (b'IDAT', rows), (b'IEND', b'')),
             'b.png': png_of(png_header(2 ** 31 - 1, 2 ** 31 - 1), (b'IEND', b'')),
             'c.gif': b'GIF89a' + struct.pack('<2H', 65535, 65535) + bytes(3) + b','
                      + struct.pack('<4H', 0, 0, 65535, 65535) + b'\0\2\2\x4c\1\0;',
             'd.bmp': b'BM' + struct.pack('<IIIIiiHHIIiiII', 54, 0, 54, 40, 30000, 30000, 1, 24, 0, 0, 0, 0, 0, 0),
             'e.ppm': b'P6 40000 40000 255\n'}
    for name, content in bombs.items():
        (tmp_path / name).write_bytes(content)
        assert len(content) < 10_000
        assert 'too large' in refusal(load_picture, tmp_path / name)


def test_a_jpeg_of_so_many_scans_that_it_takes_for_ever(tmp_path, monkeypatch):
    image = Image.new('RGB', (64, 64))
    data = encoded(image, 'JPEG', progressive=True)
    last = data.rindex(b'\xff\xda')
    (tmp_path / 'a.jpg').write_bytes(data[:last] + data[last:-2] * 20_000 + data[-2:])
    monkeypatch.setattr(pictures, 'MAX_SCANNED', 10_000_000)
    assert 'scans' in refusal(load_picture, tmp_path / 'a.jpg')
    (tmp_path / 'b.jpg').write_bytes(data)
    assert load_picture(tmp_path / 'b.jpg').shape == (64, 64, 3)


@pytest.mark.parametrize('start', [b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n',
                                   b'SIMPLE  =                    T', b'\x00\x00\x01\x00\x01\x00', b'8BPS\x00\x01'])
def test_kinds_of_pictures_that_nobody_needs_are_not_even_tried(tmp_path, start):
    (tmp_path / 'a.jpg').write_bytes(start + bytes(1000))
    assert 'is not a picture, or is of an unsupported kind' in refusal(load_picture, tmp_path / 'a.jpg')


# ---- spoilt files

FILES = {'checkpoint.h5': 40, 'features.h5': 40, 'regions.h5': 40, 'weights.h5': 40}    # each with a child process


@pytest.fixture(scope='module')
def loaders():
    return fuzzing.loaders()


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', [
    'checkpoint.h5', 'checkpoint.p', 'features.h5', 'regions.h5', 'features_v5.mat', 'features.npy', 'weights.h5',
    'weights.mat', 'weights.npz', 'weights.pth', 'weights_old.pth', 'weights.caffemodel', 'weights.onnx',
    'dataset.json', 'dataset.cache.npz', 'entities.jsonl', 'a_ranking_struct.json', 'tasks.txt', 'picture.jpg',
    'vectors.txt', 'vectors.bin', 'vectors.npy'])
def test_spoilt_files(tmp_path, loaders, name):
    loader, path = loaders[name], tmp_path / name
    undo = fuzzing.unchecked()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        for seed in loader.seeds:
            path.write_bytes(seed.wrap(seed.content))
            loader.load(path)
        beside = set(tmp_path.iterdir())
        for number in range(FILES.get(name, 200)):
            path.write_bytes(fuzzing.spoilt(loader, number))
            problem = fuzzing.problem_of(loader, path)
            assert problem is None, f'number {number}: {problem}'
        assert set(tmp_path.iterdir()) == beside
    finally:
        undo()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20


def test_the_fuzzer_sees_what_is_wrong(tmp_path, loaders):
    """A loader that trusts its file: numpy.load, without a word on what it raises."""
    trusting = fuzzing.Loader('features.npy', loaders['features.npy'].seeds, np.load)
    problems = []
    for number in range(50):
        (tmp_path / 'a.npy').write_bytes(fuzzing.spoilt(trusting, number))
        problems.append(fuzzing.problem_of(trusting, tmp_path / 'a.npy'))
    assert any(problems) and not all(problems)


def test_the_long_form_notes_what_goes_wrong(tmp_path):
    """tests/soak.py with a loader that does each of these."""
    bad = textwrap.dedent('''
        import os, fuzzing
        from pathlib import Path
        def misbehave(path):
            number = int(path.read_bytes())
            if number == 3: os.kill(os.getpid(), 11)
            if number == 23: Path('ran_here').write_text('x')
            if number == 33: bytes(1 << 31)
            if number == 43: raise KeyError('x')
            if number == 53: os.system('true')
        loader = fuzzing.Loader('bad', [fuzzing.Seed(b'0')], misbehave)
        fuzzing.loaders = lambda: {'bad': loader}
        fuzzing.spoilt = lambda loader, number, seed=0: b'%d' % number
        import soak
        soak.__file__ = __file__
        if __name__ == '__main__':
            import sys
            sys.exit(soak.main())
    ''')
    (tmp_path / 'bad_soak.py').write_text(bad, encoding='utf-8')
    done = subprocess.run([sys.executable, 'bad_soak.py', '--files', '60', '--minutes', '1', '--output', 'out'],
                          cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
                          env={**os.environ, 'PYTHONPATH': f'{ROOT}:{ROOT / "tests"}'})
    assert done.returncode == 1, done.stderr
    assert '| bad | 60 |' in done.stdout and '| 5 |' in done.stdout, done.stdout
    for words in ('SIGSEGV', 'for writing', 'MemoryError', 'KeyError'):
        assert words in done.stdout, done.stdout
    (tmp_path / 'ran_here').unlink()


# ---- what the long form found


def test_a_message_is_one_line_even_where_an_array_is_in_the_vocabulary(tmp_path):
    words = {'wordtoix': {'a': 1}, 'ixtoword': {1: np.zeros((5, 2))}}
    (tmp_path / 'a.p').write_bytes(pickle.dumps({'model': {'We': np.zeros((1, 1))}, 'params': {}, **words}, 2))
    assert 'pairs array' in refusal(load_captioner, tmp_path / 'a.p')


@pytest.mark.skipif(sys.platform != 'linux', reason='a child process meets the file first on Linux alone')
@pytest.mark.parametrize('form', ['compressed.h5', 'tiled.h5'])
def test_a_circle_in_a_heap_does_not_fill_the_memory(tmp_path, monkeypatch, form):
    """The list of free places in the heap of a group's names goes in a circle, and the library follows it."""
    monkeypatch.setattr(hdf5, 'MAX_MEMORY', 1 << 25)
    content = bytearray(fuzzing.feature_seeds(form)[0].content)
    content[content.index(b'feats\0\0\0') + 8] = 16    # the next free place is this one
    (tmp_path / 'a.h5').write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refusal(read_features, tmp_path / 'a.h5')
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 16

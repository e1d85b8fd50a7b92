"""Feature files: every format gives the same rows; the error for a damaged one says what is wrong and what to do."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse

from imagernn.corpus import features
from imagernn.corpus.features import default_features, open_features
from imagernn.errors import InputError

SHARED = Path(__file__).resolve().parents[1].parent / 'shared'
N, D = 23, 7
IDS = [5, 0, 22, 5, 21, 11]


def numbers(dtype=np.float64):
    return np.random.default_rng(0).standard_normal((N, D)).astype(dtype)    # (N, D)


def save_mat5(path, feats, **options):
    scipy.io.savemat(path, {'feats': feats.T, 'other': np.ones(2)}, **options)


def save_mat73(path, feats, **options):
    with h5py.File(path, 'w', userblock_size=512) as file:
        dataset = file.create_dataset('feats', data=feats, **options)
        dataset.attrs['MATLAB_class'] = np.bytes_('single')
    with path.open('r+b') as file:
        file.write(b'MATLAB 7.3 MAT-file, Platform: GLNXA64')


def save_h5(path, feats, **options):
    with h5py.File(path, 'w') as file:
        file.create_dataset('feats', data=feats, **options)


def save_compact_h5(path, feats):
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5py.h5d.COMPACT)
    with h5py.File(path, 'w') as file:
        space, kind = h5py.h5s.create_simple(feats.shape), h5py.h5t.py_create(feats.dtype)
        h5py.h5d.create(file.id, b'feats', kind, space, creation).write(h5py.h5s.ALL, h5py.h5s.ALL, feats)


def save_named_mat(path, feats):
    """With the names that extract_features writes, one of them empty, as of a row without a picture."""
    names = ['', *(f'grün {row}.jpg' for row in range(1, len(feats)))]
    extracted = np.arange(len(feats)) > 0
    scipy.io.savemat(path, {'feats': feats.T, 'pictures': np.array(names, object), 'extracted': extracted.astype('u1')})


def save_named_h5(path, feats, kind=None):
    names = ['', *(f'grün {row}.jpg' for row in range(1, len(feats)))]
    with h5py.File(path, 'w') as file:
        file['feats'], file['extracted'] = feats, np.arange(len(feats)) > 0
        file.create_dataset('pictures', data=[name.encode() for name in names], dtype=kind or h5py.string_dtype())


FORMATS = {
    'v5.mat': save_mat5,
    'v5 named.mat': save_named_mat,
    'named.h5': save_named_h5,
    'named with fixed length.h5': lambda path, feats: save_named_h5(path, feats, h5py.string_dtype('utf-8', 20)),
    'v5 compressed.mat': lambda path, feats: save_mat5(path, feats, do_compression=True),
    'v7.3.mat': save_mat73,
    'v7.3 compressed.mat': lambda path, feats: save_mat73(path, feats, chunks=(4, 3), compression='gzip'),
    'contiguous.h5': save_h5,
    'contiguous.hdf5': save_h5,
    'compressed.h5': lambda path, feats: save_h5(path, feats, chunks=(5, D), compression='gzip', shuffle=True),
    'lzf.h5': lambda path, feats: save_h5(path, feats, chunks=(5, D), compression='lzf', shuffle=True),
    'with checksums.h5': lambda path, feats: save_h5(path, feats, compression='gzip', fletcher32=True),
    'tiled.h5': lambda path, feats: save_h5(path, feats, chunks=(1, 2)),
    'compact.h5': save_compact_h5,
    'plain.npy': np.save,
    'fortran.npy': lambda path, feats: np.save(path, np.asfortranarray(feats)),
    'UPPER.NPY': lambda path, feats: np.save(path.open('wb'), feats),
}


@pytest.mark.parametrize('name, dtype', [
    (name, dtype) for name in FORMATS for dtype in ('<f2', '<f4', '<f8', '>f4', '>f8')
    if not (name.startswith('v5') and dtype == '<f2')])    # MATLAB has no float16
def test_every_format_gives_exact_rows(tmp_path, name, dtype):
    feats = numbers(dtype)
    FORMATS[name](tmp_path / name, feats)
    opened = open_features(tmp_path / name)
    assert (opened.num_images, opened.dim, opened.path) == (N, D, tmp_path / name)
    assert opened.dtype == np.dtype(dtype).newbyteorder('=') and opened.dtype.isnative
    rows = opened.rows(IDS)
    assert type(rows) is np.ndarray and rows.dtype == np.float32 and rows.dtype.isnative and rows.flags.c_contiguous
    np.testing.assert_array_equal(rows, feats[IDS].astype(np.float32))
    np.testing.assert_array_equal(opened.rows(np.array(IDS), np.float64), feats[IDS].astype(np.float64))
    np.testing.assert_array_equal(opened.rows(range(N), opened.dtype), feats)


@pytest.mark.parametrize('name', [name for name in FORMATS if 'named' in name])
def test_names_and_which_rows_are_extracted(tmp_path, name):
    FORMATS[name](tmp_path / name, numbers(np.float32))
    opened = open_features(tmp_path / name)
    assert opened.pictures == ['', *(f'grün {row}.jpg' for row in range(1, N))]
    assert opened.extracted.dtype == bool and opened.extracted.tolist() == [False] + [True] * (N - 1)
    names = ['grün 3.jpg', 'gru\u0308n 1.jpg', 'x/grün 2.jpg', '', 'grün']
    rows = opened.rows_of_pictures(names, [3, 3, 3, 0, -1])
    assert rows.tolist() == [3, 1, 2, -1, -1]
    np.save(tmp_path / 'plain.npy', numbers())
    plain = open_features(tmp_path / 'plain.npy')
    assert plain.pictures is None and plain.extracted.all()


def test_rows_by_the_numbers_of_a_data_set(tmp_path):
    save_named_h5(tmp_path / 'a.h5', numbers(np.float32))
    imgids, rows = np.array([40, 7, 10 ** 15]), np.array([2, 22, 5])
    opened = open_features(tmp_path / 'a.h5').numbered(imgids, rows)
    np.testing.assert_array_equal(opened.rows([10 ** 15, 40, 7, 40]), numbers(np.float32)[[5, 2, 22, 2]])
    for imgid in (0, 2, 8, -1, 10 ** 15 + 1):
        with pytest.raises(InputError, match=f'no features of imgid {imgid}; the data set has 3 imgids from 7 to 10'):
            opened.rows([40, imgid])


def test_a_fingerprint_is_that_of_the_values_and_not_of_the_file(tmp_path):
    found = []
    for name in ('contiguous.h5', 'compressed.h5', 'plain.npy', 'v5.mat'):
        FORMATS[name](tmp_path / name, numbers(np.float32))
        found.append(open_features(tmp_path / name).fingerprint(np.arange(N)))
    np.save(tmp_path / 'other.npy', numbers(np.float32)[::-1])
    assert found == [found[0]] * 4 and found[0] != open_features(tmp_path / 'other.npy').fingerprint(np.arange(N))
    assert found[0] != open_features(tmp_path / 'plain.npy').fingerprint(np.arange(N)[::-1])


def test_lzf_with_repeats_near_and_far_short_and_long(tmp_path):
    rng = np.random.default_rng(0)
    sparse = np.maximum(rng.standard_normal((60, 200), np.float32), 1)
    for feats in (np.zeros((60, 200)), np.repeat(np.arange(60.), 200).reshape(60, 200), np.tile(sparse, 3), sparse):
        save_h5(tmp_path / 'a.h5', feats, chunks=(60, feats.shape[1]), compression='lzf')
        np.testing.assert_array_equal(open_features(tmp_path / 'a.h5').rows(range(60), feats.dtype), feats)


@pytest.mark.parametrize('name', FORMATS)
def test_rows_belong_to_the_caller(tmp_path, name):
    FORMATS[name](tmp_path / name, numbers(np.float32))
    opened = open_features(str(tmp_path / name))
    opened.rows(IDS)[:] = 0
    np.testing.assert_array_equal(opened.rows(IDS), numbers(np.float32)[IDS])
    assert opened.rows([]).shape == (0, D) and opened.rows([], np.float64).dtype == np.float64
    with pytest.raises(TypeError, match='sequence of ints'):
        opened.rows([0.0, 1.0])


def test_one_image_and_integers(tmp_path):
    save_mat5(tmp_path / 'one.mat', np.arange(6.)[None])
    assert open_features(tmp_path / 'one.mat').rows([0]).tolist() == [[0, 1, 2, 3, 4, 5]]
    np.save(tmp_path / 'bytes.npy', np.arange(6, dtype=np.uint8).reshape(2, 3))
    assert open_features(tmp_path / 'bytes.npy').rows([1]).tolist() == [[3, 4, 5]]


def test_uncompressed_files_are_memory_mapped(tmp_path):
    for name in ('v7.3.mat', 'contiguous.h5', 'plain.npy'):
        FORMATS[name](tmp_path / name, numbers())
        assert isinstance(open_features(tmp_path / name)._source, np.memmap)


def test_chunks_are_decompressed_once_and_the_cache_is_bounded(tmp_path, monkeypatch):
    FORMATS['compressed.h5'](tmp_path / 'a.h5', numbers())
    opened = open_features(tmp_path / 'a.h5')
    opened.rows(range(N))
    (tmp_path / 'a.h5').rename(tmp_path / 'moved.h5')    # everything is in memory by now
    np.testing.assert_array_equal(opened.rows(IDS, np.float64), numbers()[IDS])

    monkeypatch.setattr(features, 'CACHE_BYTES', 2 * 5 * D * 8)    # two blocks
    opened = open_features(tmp_path / 'moved.h5')
    for _ in range(3):
        np.testing.assert_array_equal(opened.rows(IDS, np.float64), numbers()[IDS])
        assert opened._source._cached_bytes == sum(b.nbytes for b in opened._source._cache.values())
        assert opened._source._cached_bytes <= features.CACHE_BYTES


@pytest.mark.parametrize('name', FORMATS)
@pytest.mark.parametrize('value, dtype, words', [
    (np.nan, np.float64, 'is nan'), (-np.inf, np.float64, 'is -inf'), (1e300, np.float32, r'is 1e\+300')])
def test_values_that_are_not_finite_name_the_image(tmp_path, name, value, dtype, words):
    feats = numbers()
    feats[5, 2] = feats[11, 0] = value
    FORMATS[name](tmp_path / name, feats)
    opened = open_features(tmp_path / name)
    assert opened.rows([4, 6], dtype).shape == (2, D)
    with pytest.raises(InputError, match=f'{name}: the features of imgid 11 .* number 0 {words}.* Extract'):
        opened.rows([4, 11, 5], dtype)


@pytest.mark.parametrize('name', FORMATS)
@pytest.mark.parametrize('imgid', [-1, N, 10 ** 6])
def test_imgids_outside_the_file(tmp_path, name, imgid):
    FORMATS[name](tmp_path / name, numbers())
    with pytest.raises(InputError, match=f'{name}: there are no features of imgid {imgid}; .* 0 to {N - 1}'):
        open_features(tmp_path / name).rows([0, imgid])


def save_group(path):
    with h5py.File(path, 'w') as file:
        file.create_group('feats')


def save_attrs(path, data, **attrs):
    with h5py.File(path, 'w', userblock_size=512) as file:
        file['feats'] = data
        file['feats'].attrs.update(attrs)


def save_truncated(path, name):
    FORMATS[name](path, numbers())
    path.write_bytes(path.read_bytes()[:-600])    # more than what else may follow the features


BROKEN = {
    'wrong suffix': ('a.csv', lambda p: p.write_text('1,2'), ["kind of feature file '.csv'", '.npy', 'Store']),
    'no suffix': ('feats', lambda p: p.write_text('1,2'), ["kind of feature file ''", '.mat']),
    'missing': ('a.mat', lambda p: None, ['there is no such feature file', '--features']),
    'a folder': ('a.npy', lambda p: p.mkdir(), ['is a folder', 'name the feature file in it']),
    'empty file .mat': ('a.mat', lambda p: p.touch(), ['cannot be read', 'again']),
    'empty file .h5': ('a.h5', lambda p: p.touch(), ['cannot be read', 'again']),
    'empty file .npy': ('a.npy', lambda p: p.touch(), ['cannot be read', 'again']),
    'text .mat': ('a.mat', lambda p: p.write_text('text ' * 99), ['cannot be read']),
    'text .h5': ('a.h5', lambda p: p.write_text('text ' * 99), ['cannot be read']),
    'text .npy': ('a.npy', lambda p: p.write_text('text ' * 99), ['cannot be read']),
    'truncated .mat': ('a.mat', lambda p: save_truncated(p, 'v5 compressed.mat'), ['cannot be read', 'truncated']),
    'truncated plain .mat': ('a.mat', lambda p: save_truncated(p, 'v5.mat'), ['cannot be read', 'truncated']),
    'truncated v7.3 .mat': ('a.mat', lambda p: save_truncated(p, 'v7.3.mat'), ['cannot be read', 'truncated']),
    'truncated .h5': ('a.h5', lambda p: save_truncated(p, 'contiguous.h5'), ['cannot be read', 'truncated']),
    'truncated .npy': ('a.npy', lambda p: save_truncated(p, 'plain.npy'), ['cannot be read', 'truncated']),
    'no feats .mat': ('a.mat', lambda p: scipy.io.savemat(p, {'fc7': np.ones(2), 'a': 1}), ["'feats'", 'a, fc7']),
    'no feats .h5': ('a.h5', lambda p: h5py.File(p, 'w').create_dataset('fc7', data=[1.]), ["'feats'", 'found: fc7']),
    'nothing .h5': ('a.h5', lambda p: h5py.File(p, 'w').close(), ["'feats'", 'found: nothing']),
    'a group': ('a.h5', save_group, ['is a group', 'full']),
    'sparse': ('a.mat', lambda p: scipy.io.savemat(p, {'feats': scipy.sparse.eye(3).tocsc()}), ['full matrix']),
    'one axis .npy': ('a.npy', lambda p: np.save(p, np.ones(4)), ['(4,), 1 axes', 'N x D']),
    'three axes .npy': ('a.npy', lambda p: np.save(p, np.ones((2, 2, 2))), ['3 axes', 'N x D']),
    'three axes .h5': ('a.h5', lambda p: save_h5(p, np.ones((2, 2, 2))), ['3 axes', 'N x D']),
    'three axes .mat': ('a.mat', lambda p: scipy.io.savemat(p, {'feats': np.ones((2, 3, 4))}), ['3 axes', 'D x N']),
    'scalar .h5': ('a.h5', lambda p: save_h5(p, 1.0), ['0 axes']),
    'null .h5': ('a.h5', lambda p: save_h5(p, h5py.Empty('f4')), ['0 axes']),
    'object .npy': ('a.npy', lambda p: np.save(p, np.array([[{}]])), ['type object', 'real numbers']),
    'string .npy': ('a.npy', lambda p: np.save(p, np.array([['a']])), ['type <U1', 'real numbers']),
    'complex .npy': ('a.npy', lambda p: np.save(p, np.ones((2, 2), complex)), ['complex128', 'real numbers']),
    'bool .npy': ('a.npy', lambda p: np.save(p, np.ones((2, 2), bool)), ['bool', 'real numbers']),
    'complex .h5': ('a.h5', lambda p: save_h5(p, np.ones((2, 2), complex)), ['complex128', 'real numbers']),
    'string .h5': ('a.h5', lambda p: save_h5(p, [['a']]), ['type object', 'real numbers']),
    'cell .mat': ('a.mat', lambda p: scipy.io.savemat(p, {'feats': np.array([[{}, 1]], object)}), ['a cell']),
    'string .mat': ('a.mat', lambda p: scipy.io.savemat(p, {'feats': 'abc'}), ['real numbers']),
    'complex .mat': ('a.mat', lambda p: scipy.io.savemat(p, {'feats': np.ones((2, 2)) * 1j}), ['complex']),
    'char v7.3': ('a.mat', lambda p: save_attrs(p, np.ones((2, 2), 'u2'), MATLAB_class=b'char'), ['real numbers']),
    'empty v7.3': ('a.mat', lambda p: save_attrs(p, np.array([0, 4096], 'u8'), MATLAB_empty=1), ['empty', '(0, 4096)']),
    'empty .mat': ('a.mat', lambda p: scipy.io.savemat(p, {'feats': np.ones((3, 0))}), ['empty', '(3, 0)']),
    'empty .h5': ('a.h5', lambda p: save_h5(p, np.ones((0, 3))), ['empty', '(0, 3)']),
    'empty .npy': ('a.npy', lambda p: np.save(p, np.ones((0, 3))), ['empty', '(0, 3)']),
}


@pytest.mark.parametrize('name, make, words', BROKEN.values(), ids=BROKEN)
def test_the_error_for_a_broken_file_says_what_is_wrong(tmp_path, name, make, words):
    make(tmp_path / name)
    with pytest.raises(InputError) as caught:
        open_features(tmp_path / name)
    message = str(caught.value)
    assert message.startswith(f'{tmp_path / name}: ') and '\n' not in message
    assert [part for part in words if part not in message] == []


def test_a_pickle_is_never_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / 'ran',)

    np.save(tmp_path / 'a.npy', np.array([[Trap()]]), allow_pickle=True)
    with pytest.raises(InputError):
        open_features(tmp_path / 'a.npy')
    assert not (tmp_path / 'ran').exists()


def test_a_damaged_chunk_is_reported_when_it_is_read(tmp_path):
    FORMATS['compressed.h5'](tmp_path / 'a.h5', numbers())
    with h5py.File(tmp_path / 'a.h5') as file:
        chunk = file['feats'].id.get_chunk_info(0)
    with (tmp_path / 'a.h5').open('r+b') as file:
        file.seek(chunk.byte_offset)
        file.write(bytes(chunk.size))
    opened = open_features(tmp_path / 'a.h5')
    np.testing.assert_array_equal(opened.rows([5], np.float64), numbers()[[5]])
    with pytest.raises(InputError, match='a.h5: cannot be read'):
        opened.rows([0])


def test_default_features(tmp_path):
    with pytest.raises(InputError, match='vgg_feats.mat, vgg_feats.h5, vgg_feats.npy .* no feature file at all'):
        default_features(tmp_path)
    for name in ('lite0_feats.h5', 'a.npy', 'notes.txt'):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match='It has a.npy, lite0_feats.h5: .* --features a.npy'):
        default_features(tmp_path)
    for name in ('vgg_feats.npy', 'vgg_feats.h5', 'vgg_feats.mat'):
        (tmp_path / name).touch()
        assert default_features(tmp_path) == tmp_path / name


def test_the_feature_file_of_the_original_neuraltalk():
    path = SHARED / 'data' / 'example_images' / 'vgg_feats.mat'
    if not path.is_file():
        pytest.skip('needs shared/data/example_images beside the checkout')
    opened = open_features(path)
    assert (opened.num_images, opened.dim, opened.dtype) == (16, 4096, np.float32)
    np.testing.assert_array_equal(opened.rows([3, 15]), scipy.io.loadmat(path)['feats'].T[[3, 15]])


# ---- the lists of pictures and of extracted rows, in the forms in which other programs write them

NAMED = ['a.jpg', 'grün 2.jpg', 'ccc.jpg']
MARKS = np.array([0, 1, 1])


def save_lists(path, pictures=None, extracted=None):
    """Three rows with these lists, in the form that h5py or scipy gives them."""
    lists = {name: value for name, value in (('pictures', pictures), ('extracted', extracted)) if value is not None}
    if path.suffix == '.mat':
        scipy.io.savemat(path, {'feats': numbers(np.float32)[:3].T, **lists})
        return
    with h5py.File(path, 'w') as file:
        file['feats'] = numbers(np.float32)[:3]
        for name, value in lists.items():
            if isinstance(value, list):    # of texts
                value = np.array([text.encode() for text in value], h5py.string_dtype())
            file[name] = value


def texts(shape):
    return np.array([name.encode() for name in NAMED], object).reshape(shape).astype(h5py.string_dtype())


@pytest.mark.parametrize('name, pictures, extracted', [
    ('a.h5', texts((3, 1)), MARKS.astype(float)),
    ('a.h5', texts((1, 3)), MARKS[None].astype('f4')),
    ('a.h5', NAMED, MARKS[:, None].astype(bool)),
    ('a.mat', np.array(NAMED), MARKS.astype(float)),
    ('a.mat', np.array(NAMED, object)[:, None], MARKS[:, None].astype(float)),
    ('a.mat', np.array(NAMED, object)[None], MARKS.astype(bool)),
])
def test_lists_of_other_shapes_and_types_are_read(tmp_path, name, pictures, extracted, capsys):
    save_lists(tmp_path / name, pictures, extracted)
    opened = open_features(tmp_path / name)
    assert opened.pictures == NAMED and opened.extracted.tolist() == [False, True, True]
    assert not capsys.readouterr().err


def test_a_char_matrix_of_matlab_7_3_is_read(tmp_path, capsys):
    save_mat73(tmp_path / 'a.mat', numbers(np.float32)[:3])
    with h5py.File(tmp_path / 'a.mat', 'r+') as file:
        letters = np.array([[ord(letter) for letter in name.ljust(10)] for name in NAMED], np.uint16)
        file.create_dataset('pictures', data=letters.T).attrs['MATLAB_class'] = np.bytes_('char')
        file['extracted'] = MARKS[:, None].astype(float)
    opened = open_features(tmp_path / 'a.mat')
    assert opened.pictures == NAMED and opened.extracted.tolist() == [False, True, True]
    assert not capsys.readouterr().err


@pytest.mark.parametrize('name, lists, words', [
    ('a.h5', {'pictures': np.arange(3)}, 'list of pictures cannot be read (it is of type int64)'),
    ('a.h5', {'pictures': texts((3, 1)).repeat(2, 1)}, 'list of pictures cannot be read (its shape is (3, 2))'),
    ('a.mat', {'pictures': np.arange(3)}, 'list of pictures cannot be read (it is not a list)'),
    ('a.mat', {'pictures': np.array(['a.jpg', 2, 'c.jpg'], object)}, 'list of pictures cannot be read (it holds no'),
    ('a.mat', {'pictures': 'a.jpg'}, 'list of pictures cannot be read (it is not a list)'),
    ('a.h5', {'extracted': MARKS * .5}, "'extracted' cannot be read (it holds other values"),
    ('a.h5', {'extracted': np.array([1, np.nan, 1])}, "'extracted' cannot be read (it holds other values"),
    ('a.h5', {'extracted': NAMED}, "'extracted' cannot be read (it is of type object"),
    ('a.h5', {'extracted': np.ones((3, 2))}, "'extracted' cannot be read (its shape is (3, 2)"),
    ('a.mat', {'extracted': MARKS * 2}, "'extracted' cannot be read (it holds other values"),
    ('a.mat', {'extracted': 'yes'}, "'extracted' cannot be read (text"),
    ('a.mat', {'extracted': scipy.sparse.csc_matrix(MARKS * 1.)}, "'extracted' cannot be read ("),
])
def test_a_list_that_cannot_be_used_is_noted(tmp_path, name, lists, words, capsys):
    save_lists(tmp_path / name, **lists)
    opened = open_features(tmp_path / name)
    assert opened.pictures is None and opened.extracted.all()
    note = capsys.readouterr().err
    assert note.startswith(f'note: {tmp_path / name}: its list ') and words in note and note.count('\n') == 1


def test_a_cell_of_matlab_7_3_is_noted(tmp_path, capsys):
    save_mat73(tmp_path / 'a.mat', numbers(np.float32)[:3])
    with h5py.File(tmp_path / 'a.mat', 'r+') as file:
        texts = [file.create_dataset(f'#refs#/{name}', data=np.frombuffer(name.encode('utf-16-le'), np.uint16)).ref
                 for name in NAMED]
        file.create_dataset('pictures', data=np.array(texts, h5py.ref_dtype)[None], dtype=h5py.ref_dtype)
    assert open_features(tmp_path / 'a.mat').pictures is None
    assert 'pictures = char(pictures)' in capsys.readouterr().err


# ---- features of regions

R, D_REGION = 3, 5
BOXES = np.array([[0, 0, 1, 1], [0, 0, .5, 1], [.25, .5, 1, 1]])


def regions_of(dtype=np.float32):
    return np.random.default_rng(1).standard_normal((N, R, D_REGION)).astype(dtype)


def save_regions(path, regions=None, boxes=None, kind='windows', feats=None, **options):
    """A feature file with regions; options: of the dataset of regions."""
    with h5py.File(path, 'w') as file:
        file['feats'] = numbers(np.float32) if feats is None else feats
        file.create_dataset('regions', data=regions_of() if regions is None else regions, **options)
        if boxes is not None:
            file['boxes'] = boxes
        if kind:
            file.attrs['regions'] = kind
    return path


@pytest.mark.parametrize('dtype', ['<f2', '<f4', '<f8', '>f4'])
@pytest.mark.parametrize('options', [{}, {'chunks': (4, 2, 3)}, {'chunks': (1, R, D_REGION), 'compression': 'gzip'},
                                     {'chunks': (9, R, D_REGION), 'compression': 'lzf', 'shuffle': True}], ids=str)
def test_a_row_has_the_features_of_the_regions_after_those_of_the_picture(tmp_path, dtype, options):
    path = save_regions(tmp_path / 'a.h5', regions_of(dtype), BOXES, **options)
    plain = open_features(path)
    assert (plain.dim, plain.whole_dim, plain.num_regions, plain.region_dim, plain.boxes) == (D, D, 0, 0, None)
    assert 'regions' not in plain.origin and plain.rows(IDS).shape == (len(IDS), D)
    opened = plain.with_regions()
    assert (opened.num_images, opened.dim, opened.whole_dim) == (N, D + R * D_REGION, D)
    assert (opened.num_regions, opened.region_dim, opened.origin) == (R, D_REGION, {'regions': 'windows'})
    assert opened.boxes.dtype == np.float32 and opened.boxes.tolist() == BOXES.tolist() and opened.dtype.isnative
    rows = opened.rows(IDS, np.float64)
    np.testing.assert_array_equal(rows[:, :D], numbers(np.float32)[IDS])
    np.testing.assert_array_equal(rows[:, D:].reshape(-1, R, D_REGION), regions_of(dtype)[IDS])
    assert opened.rows([]).shape == (0, opened.dim) and opened.rows(IDS).dtype == np.float32
    np.testing.assert_array_equal(plain.rows(IDS), numbers(np.float32)[IDS])    # which stay as they were


def test_a_file_need_not_say_where_its_regions_are_nor_of_which_kind(tmp_path):
    opened = open_features(save_regions(tmp_path / 'a.h5', kind=None)).with_regions()
    assert opened.boxes is None and opened.origin == {}


def test_features_of_matlab_7_3_have_regions_too(tmp_path):
    save_mat73(tmp_path / 'a.mat', numbers(np.float32))
    with h5py.File(tmp_path / 'a.mat', 'r+') as file:
        file['regions'] = regions_of()
    rows = open_features(tmp_path / 'a.mat').with_regions().rows([3])
    np.testing.assert_array_equal(rows[0, D:].reshape(R, D_REGION), regions_of()[3])


def test_rows_with_regions_by_the_numbers_of_a_data_set_and_their_fingerprint(tmp_path):
    path = save_regions(tmp_path / 'a.h5')
    imgids, rows = np.array([40, 7, 10 ** 15]), np.array([2, 22, 5])
    opened = open_features(path).with_regions().numbered(imgids, rows)
    np.testing.assert_array_equal(opened.rows([10 ** 15, 7])[:, D:].reshape(2, R, D_REGION), regions_of()[[5, 22]])
    before = opened.fingerprint(imgids)
    assert before == opened.fingerprint(imgids) != open_features(path).numbered(imgids, rows).fingerprint(imgids)
    changed = regions_of()
    changed[rows] += 1
    save_regions(path, changed)
    assert open_features(path).with_regions().numbered(imgids, rows).fingerprint(imgids) != before


def test_a_region_that_is_not_finite_names_the_image(tmp_path):
    regions = regions_of()
    regions[11, 1, 2] = np.nan
    opened = open_features(save_regions(tmp_path / 'a.h5', regions)).with_regions()
    assert opened.rows([10, 12]).shape == (2, D + R * D_REGION)
    with pytest.raises(InputError, match=f'features of imgid 11 .* number {D + D_REGION + 2} is nan'):
        opened.rows([10, 11])


def test_damage_among_the_regions_is_reported_when_it_is_read(tmp_path):
    save_regions(tmp_path / 'a.h5', chunks=(5, R, D_REGION), compression='gzip')
    with h5py.File(tmp_path / 'a.h5') as file:
        chunk = file['regions'].id.get_chunk_info(0)
    with (tmp_path / 'a.h5').open('r+b') as file:
        file.seek(chunk.byte_offset)
        file.write(bytes(chunk.size))
    opened = open_features(tmp_path / 'a.h5').with_regions()
    assert opened.rows([5]).shape == (1, D + R * D_REGION)
    with pytest.raises(InputError, match='a.h5: cannot be read'):
        opened.rows([0])


@pytest.mark.parametrize('name', FORMATS)
def test_a_file_without_regions_says_how_to_get_them(tmp_path, name):
    FORMATS[name](tmp_path / name, numbers(np.float32))
    with pytest.raises(InputError, match=f'{name}: has no features of regions, .* --regions windows .* --features'):
        open_features(tmp_path / name).with_regions()


REGIONS_SHAPE = ["'regions' have shape", f'N = {N} images', 'R from 1 to 1000']
WRONG_REGIONS = {
    'two axes': ({'regions': np.ones((N, R))}, REGIONS_SHAPE),
    'four axes': ({'regions': np.ones((N, R, 2, 2))}, REGIONS_SHAPE),
    'scalar': ({'regions': 1.}, REGIONS_SHAPE),
    'null': ({'regions': h5py.Empty('f4')}, REGIONS_SHAPE),
    'of other images': ({'regions': np.ones((N - 1, R, D_REGION))}, REGIONS_SHAPE),
    'none': ({'regions': np.ones((N, 0, D_REGION))}, REGIONS_SHAPE),
    'of no numbers': ({'regions': np.ones((N, R, 0))}, REGIONS_SHAPE),
    'too many': ({'regions': np.ones((N, 1001, 1))}, REGIONS_SHAPE),
    'texts': ({'regions': np.full((N, R, 2), b'a')}, ['real numbers']),
    'complex': ({'regions': np.ones((N, R, 2), complex)}, ['complex128', 'real numbers']),
    'boxes of too few regions': ({'boxes': BOXES[:2]}, ["'boxes'", '3 rows']),
    'boxes of many regions': ({'boxes': np.ones((4001, 4))}, ["'boxes'", '3 rows']),
    'boxes of three numbers': ({'boxes': BOXES[:, :3]}, ["'boxes'", '3 rows']),
    'a box as one row': ({'boxes': BOXES[0]}, ["'boxes'", '3 rows']),
    'boxes of nothing': ({'boxes': h5py.Empty('f4')}, ["'boxes'", '3 rows']),
    'boxes of text': ({'boxes': np.full((R, 4), b'0')}, ["'boxes'", '3 rows']),
    'boxes of truths': ({'boxes': np.ones((R, 4), bool)}, ["'boxes'", '3 rows']),
    'boxes in pixels': ({'boxes': BOXES * 224}, ["'boxes'", 'shares of the width']),
    'a box below 0': ({'boxes': BOXES - .1}, ["'boxes'", 'shares of the width']),
    'a box that is not finite': ({'boxes': np.where(BOXES == .5, np.nan, BOXES)}, ["'boxes'", '0 <= x0 < x1 <= 1']),
    'a huge box': ({'boxes': BOXES * 1e300}, ["'boxes'", 'shares of the width']),
    'a box of no width': ({'boxes': BOXES * [0, 1, 0, 1]}, ["'boxes'", '0 <= x0 < x1 <= 1']),
    'a box upside down': ({'boxes': BOXES[:, [0, 3, 2, 1]]}, ["'boxes'", '0 <= y0 < y1 <= 1']),
}


@pytest.mark.parametrize('options, words', WRONG_REGIONS.values(), ids=WRONG_REGIONS)
def test_the_error_for_wrong_regions_says_what_is_wrong(tmp_path, options, words):
    path = save_regions(tmp_path / 'a.h5', **options)
    assert open_features(path).rows([0]).shape == (1, D)    # to models that need no regions they do no harm
    with pytest.raises(InputError) as caught:
        open_features(path).with_regions()
    message = str(caught.value)
    assert message.startswith(f'{path}: ') and '\n' not in message
    assert [part for part in words if part not in message] == []


def test_a_group_in_place_of_regions_or_boxes(tmp_path):
    with h5py.File(tmp_path / 'a.h5', 'w') as file:
        file['feats'] = numbers()
        file.create_group('regions')
    with pytest.raises(InputError, match='has no features of regions'):
        open_features(tmp_path / 'a.h5').with_regions()
    with h5py.File(save_regions(tmp_path / 'b.h5'), 'r+') as file:
        file.create_group('boxes')
    with pytest.raises(InputError, match="'boxes'"):
        open_features(tmp_path / 'b.h5').with_regions()


def test_the_command_that_extracts_again_names_the_regions(tmp_path):
    """Also to a model that needs none, as the file is filled with the flags that it was made with alone."""
    opened = open_features(save_regions(tmp_path / 'a.h5', kind='grid:2x2'))
    for each in opened, opened.with_regions():
        assert ' --regions grid:2x2 ' in each.again('d.json')
    save_h5(tmp_path / 'b.h5', numbers())
    assert '--regions' not in open_features(tmp_path / 'b.h5').again('d.json')

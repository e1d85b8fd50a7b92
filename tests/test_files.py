import errno
import json
import os
import resource
import signal

import pytest
from faults import in_a_child, kill

from imagernn.errors import InputError, script
from imagernn.formats.json_files import write_json
from imagernn.formats.writing import claimed, remove_leftovers, replacing, require_writable, write_text


def test_json_is_what_any_reader_takes(tmp_path):
    write_json(tmp_path / 'new' / 'x.json', {'a': [1, float('inf'), float('nan'), ('é', '\ud83d')]})
    text = (tmp_path / 'new' / 'x.json').read_text(encoding='utf-8')
    assert json.loads(text) == {'a': [1, None, None, ['é', '\ud83d']]}


def test_a_failure_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / 'x.txt'
    write_text(path, 'old')
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(b'half')
        raise ZeroDivisionError
    for call in 'fsync', 'replace':
        with monkeypatch.context() as patch:
            patch.setattr(os, call, lambda *args: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
            with pytest.raises(InputError, match='x.txt: cannot be written .No space left'):
                write_text(path, 'new')
    assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]


def test_a_link_is_followed_and_a_device_is_written(tmp_path):
    (tmp_path / 'link').symlink_to(tmp_path / 'target')
    write_text(tmp_path / 'link', 'text')
    assert (tmp_path / 'link').is_symlink() and (tmp_path / 'target').read_text() == 'text'
    os.mkfifo(tmp_path / 'pipe')
    reader = os.open(tmp_path / 'pipe', os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / 'pipe', 'text')
    assert os.read(reader, 9) == b'text' and (tmp_path / 'pipe').is_fifo()
    os.close(reader)


def test_require_writable_changes_nothing(tmp_path):
    (tmp_path / 'old').write_text('old')
    require_writable(tmp_path / 'old')
    require_writable(tmp_path / 'folder' / 'new')
    assert (tmp_path / 'old').read_text() == 'old' and list((tmp_path / 'folder').iterdir()) == []
    for path in tmp_path, tmp_path / 'old' / 'x', tmp_path / ('x' * 300):
        with pytest.raises(InputError):
            require_writable(path)


def test_a_folder_that_cannot_be_synced_does_not_matter_and_one_that_fails_does(tmp_path, monkeypatch):
    fsync = os.fsync

    def refuse(number):
        def of_a_folder(descriptor):
            if os.path.isdir(f'/proc/self/fd/{descriptor}'):
                raise OSError(number, os.strerror(number))
            fsync(descriptor)
        return of_a_folder

    if not os.path.isdir('/proc/self/fd'):
        pytest.skip('no /proc to tell a folder by')
    monkeypatch.setattr(os, 'fsync', refuse(errno.EINVAL))
    write_text(tmp_path / 'x', 'text')
    monkeypatch.setattr(os, 'fsync', refuse(errno.EIO))
    with pytest.raises(InputError, match='Input/output'):
        write_text(tmp_path / 'x', 'new text')
    assert (tmp_path / 'x').read_text() == 'new text'


def test_the_longest_name_there_is_can_be_written(tmp_path):
    for name in 'x' * 255, 'ü' * 127:
        write_text(tmp_path / name, 'text')
    assert len(list(tmp_path.iterdir())) == 2


def test_leftovers_go_by_their_files_names_alone(tmp_path):
    names = ['.a_last.h5.0123abcd.tmp', '.a_b_last.h5.0123abcd.tmp', '.a_last.h5.tmp', 'a_last.h5.0123abcd.tmp',
             '.a_last.h5.0123abcx.tmp', 'a_last.h5']
    for name in names:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path, r'a_last\.h5')
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])
    remove_leftovers(tmp_path / 'absent', '.*')


def test_a_claim_keeps_others_out_and_leaves_nothing(tmp_path):
    path = tmp_path / 'new' / 'name'
    with claimed(path, 'wait'):
        with pytest.raises(InputError, match=f'name: is in use .* alive .process {os.getpid()} on .*; wait'):
            with claimed(path, 'wait'):
                pass
        with claimed(tmp_path / 'new' / 'other', 'wait'):
            pass
    with claimed(path, 'wait'):
        pass
    assert list(path.parent.iterdir()) == []


def test_a_claim_ends_with_its_process_however_that_ends(tmp_path):
    def killed():
        with claimed(tmp_path / 'name', ''):
            kill('')

    assert in_a_child(killed) == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ['.name.lock']
    with claimed(tmp_path / 'name', ''):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_claim_that_its_owner_gives_up_in_between_is_made_on_a_new_file(tmp_path, monkeypatch):
    """Else two would have one each: on the file that was removed, and on the next of its name."""
    import fcntl
    flock, path = fcntl.flock, tmp_path / '.name.lock'

    def late(*args):
        monkeypatch.undo()
        path.unlink()
        flock(*args)

    monkeypatch.setattr(fcntl, 'flock', late)
    with claimed(tmp_path / 'name', ''):
        with pytest.raises(InputError), claimed(tmp_path / 'name', ''):
            pass


def test_of_many_who_claim_at_once_there_is_one_at_a_time(tmp_path):
    """Each holds the claim for a moment; whoever has it writes a file that must not be there yet."""
    def claim():
        done = 0
        while done < 20:
            try:
                with claimed(tmp_path / 'name', ''):
                    (tmp_path / 'mine').open('x').close()
                    (tmp_path / 'mine').unlink()
                    done += 1
            except InputError:
                pass

    def four():
        pids = []
        for _ in range(4):
            pids.append(os.fork())
            if not pids[-1]:
                code = 1
                try:
                    claim()
                    code = 0
                finally:
                    os._exit(code)
        return max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids)

    assert in_a_child(four) == 0


def test_where_there_are_no_locks_that_is_said(tmp_path, monkeypatch, capsys):
    import fcntl

    def unsupported(*args):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, 'flock', unsupported)
    with claimed(tmp_path / 'name', ''), claimed(tmp_path / 'name', ''):
        pass
    assert 'cannot be locked (No locks' in capsys.readouterr().err


@pytest.mark.parametrize(('error', 'code', 'words'), [
    (InputError('--flag 3: too much'), 2, 'error: --flag 3: too much\n'),
    (PermissionError(13, 'Permission denied', 'secret.h5'), 2, 'error: secret.h5: Permission denied'),
    (MemoryError('Unable to allocate 9 TiB'), 2, 'error: not enough memory (Unable to allocate 9 TiB)'),
    (KeyboardInterrupt(), 130, 'interrupted\n'),
])
def test_a_script_turns_what_is_not_its_fault_into_a_line_and_a_code(error, code, words, capsys):
    @script
    def main(argv):
        raise error

    assert main([]) == code
    assert capsys.readouterr().err.startswith(words)


@pytest.mark.parametrize(('limited', 'named'), [
    ([], ''), (['RLIMIT_AS'], 'raise the limit on memory (ulimit -v), or '),
    (['RLIMIT_DATA'], 'raise the limit on memory (ulimit -d), or '),
    (['RLIMIT_AS', 'RLIMIT_DATA'], 'raise the limit on memory (ulimit -v, ulimit -d), or ')])
@pytest.mark.parametrize(('error', 'reason'), [(MemoryError(), ''), (MemoryError('for x'), ' (for x)')])
def test_a_lack_of_memory_names_the_limits_that_are_set(limited, named, error, reason, monkeypatch, capsys):
    @script
    def main(argv):
        raise error

    set_ones = [getattr(resource, name) for name in limited]
    monkeypatch.setattr(resource, 'getrlimit', lambda limit: (10 ** 9 if limit in set_ones else -1, -1))
    assert main([]) == 2
    assert capsys.readouterr().err == f'error: not enough memory{reason}; {named}use smaller sizes or batches\n'


def test_our_own_faults_are_shown_in_full():
    @script
    def main(argv):
        return 1 // 0

    with pytest.raises(ZeroDivisionError):
        main([])

import json
import os

import pytest

from imagernn.errors import InputError, script
from imagernn.files import replacing, require_writable, write_json, write_text


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


def test_our_own_faults_are_shown_in_full():
    @script
    def main(argv):
        return 1 // 0

    with pytest.raises(ZeroDivisionError):
        main([])

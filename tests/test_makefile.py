"""The steps of `make demo`, in a checkout whose path has a space."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(not shutil.which('make') or sys.platform == 'win32', reason='needs make and a shell')
@pytest.mark.parametrize('name', ['with a space', "with a ' quote", 'plain'])
def test_the_photos_of_the_demo_are_found_in_any_folder(tmp_path, name):
    """Its python is a stub, which notes its arguments; where packages are, a virtual environment's real one says."""
    folder = tmp_path / name
    folder.mkdir()
    shutil.copy(ROOT / 'Makefile', folder)
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', '.venv'], cwd=folder, check=True)
    python = folder / '.venv' / 'bin' / 'python'
    python.unlink()
    python.write_text('#!/bin/sh\nif [ "$1" = -c ]; then exec .venv/bin/python3 "$@"; fi\n'
                      'for argument; do printf "%s\\n" "$argument"; done >> calls\n')
    python.chmod(0o755)
    python3 = python.with_name('python3')    # may be a link to the one that was replaced
    python3.unlink()
    python3.symlink_to(sys.executable if not Path(sys.executable).is_symlink() else Path(sys.executable).resolve())
    for made in ('setup.py', 'pyproject.toml', '.venv/installed', '.venv/demo'):
        (folder / made).touch()
    site, = (folder / '.venv').glob('lib/*/site-packages')
    photos = subprocess.run(['make', '-s', '-p', '-n', 'help'], cwd=folder, capture_output=True, text=True).stdout
    photos = next(line for line in photos.splitlines() if line.startswith('SAMPLES = ')).split()[2:]
    for photo in photos:
        (site / photo).parent.mkdir(parents=True, exist_ok=True)
        (site / photo).touch()
    done = subprocess.run(['make', '-s', 'demo'], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    calls = (folder / 'calls').read_text().split('predict_on_images.py\n')[1].splitlines()
    given = [argument for argument in calls if argument.endswith(('.jpg', '.png'))]
    assert [(folder / argument).resolve() for argument in given] == [(site / photo).resolve() for photo in photos]


@pytest.mark.skipif(not shutil.which('make') or sys.platform == 'win32', reason='needs make and a shell')
def test_make_album_opens_the_folder_that_it_is_given(tmp_path):
    shutil.copy(ROOT / 'Makefile', tmp_path)
    (tmp_path / '.venv' / 'bin').mkdir(parents=True)
    python = tmp_path / '.venv' / 'bin' / 'python'
    python.write_text('#!/bin/sh\nfor argument; do printf "%s\\n" "$argument"; done > calls\n')
    python.chmod(0o755)
    for made in ('setup.py', 'pyproject.toml', '.venv/installed', '.venv/lite0'):
        (tmp_path / made).touch()
    subprocess.run(['make', '-s', 'album', "PHOTOS=my 'photos'"], cwd=tmp_path, check=True)
    assert (tmp_path / 'calls').read_text().splitlines() == ['-m', 'imagernn.album', "my 'photos'"]
    done = subprocess.run(['make', '-s', 'album'], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode and 'make album PHOTOS=folder' in done.stdout

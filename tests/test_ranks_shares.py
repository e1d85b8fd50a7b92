"""mpirun: several processes share the images, and write what one process with as many threads in all writes."""

import json
import re
import shutil
import signal
import subprocess

import numpy as np
import pytest
from datasets import checkpoint_named, train_flags
from PIL import Image
from ranks import SECONDS, command, environment, mpirun, needs_mpi
from stub_network import StubNetwork, loader
from test_train_ranker import ranker_flags
from test_train_ranker import write_dataset as write_ranking_dataset

import driver
from imagernn.__main__ import module_of
from imagernn.convnet import extraction
from imagernn.ranking import train
from imagernn.runs.checkpoint_file import load_checkpoint, save_checkpoint

pytestmark = needs_mpi
COUNT = 7
BROKEN = '3.png'

# commands, one after another, with a stub of a network; sys.argv: what each rank does at a call of it, a folder, and
# the commands as JSON
PROGRAM = '''
import json, os, signal, sys, time
from stub_network import StubNetwork, loader
from imagernn.__main__ import module_of
from imagernn.convnet import extraction
from imagernn.runs.ranks import world
action, folder, commands = sys.argv[1:]
def act(call):
    exec(action, {**globals(), 'rank': world().rank, 'call': call})
extraction.load_network = loader(StubNetwork(on_forward=act))
os.chdir(folder)
for name, *flags in json.loads(commands):
    if code := module_of(name).main(flags):
        sys.exit(code)
'''


def program(folder, *commands, action=''):
    return ['-c', PROGRAM, action, folder, json.dumps([[*map(str, each)] for each in commands])]


def with_threads(n, commands):
    return [[*each, '--num_threads', n] for each in commands]


@pytest.fixture
def one_process(monkeypatch, capsys):
    """Run commands with n threads in a folder; returns what they wrote to stdout and stderr."""

    def run(n, folder, commands):
        monkeypatch.setattr(extraction, 'load_network', loader(StubNetwork()))
        monkeypatch.chdir(folder)
        capsys.readouterr()
        for name, *flags in with_threads(n, commands):
            assert module_of(name).main([*map(str, flags)]) == 0
        return capsys.readouterr()

    return run


@pytest.fixture(scope='module')
def given(tmp_path_factory):
    """A folder with photos/, of which one is broken, with a tasks.txt and a feature file; a data set, and models."""
    root = tmp_path_factory.mktemp('given')
    (root / 'photos').mkdir()
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        pixels = rng.integers(0, 256, (20 + number, 30, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((90, 60)).save(root / 'photos' / f'{number}.png')
    np.save(root / 'photos' / 'vgg_feats.npy', rng.random((COUNT, 20), np.float32))
    (root / 'photos' / 'tasks.txt').write_text('\n'.join(f'{number}.png' for number in range(COUNT)))
    (root / 'photos' / BROKEN).write_bytes(b'broken')
    write_ranking_dataset(root)
    assert driver.main(train_flags(root, '--max_epochs', '15', '--solver', 'adam', '-l', '.02')) == 0
    assert train.main(ranker_flags(root, 'regions')) == 0
    captioner = load_checkpoint(checkpoint_named(root, '_test_last'))
    features = {'file': 'f.h5', 'dim': 20, 'network': 'lite0', 'layer': 'features'}
    save_checkpoint(root / 'captioner.h5', {**captioner, 'features': features})
    shutil.copy(checkpoint_named(root, '_regions_last'), root / 'ranker.h5')
    return root


def commands(given):
    """Commands whose outputs go to the working directory."""
    photos, captioner, data = given / 'photos', given / 'captioner.h5', ['--data_root', given]
    page = ['--result_struct_filename', 'r.json', '--html', 'r.html']
    return {
        'features': ['extract', photos, '--batch_size', 2, '--output', 'f.h5'],
        'matlab': ['extract', photos, '--batch_size', 2, '--output', 'f.mat'],
        'regions': ['extract', photos, '--batch_size', 3, '--output', 'w.h5', '--regions', 'windows', '--dtype',
                    'float32'],
        'photos': ['caption', captioner, photos, '-b', 3, '--nbest', 2, *page],
        'draws': ['caption', captioner, photos, '--temperature', 1, '--result_struct_filename', 'draws.json'],
        'folder': ['caption', captioner, '-r', photos, '--result_struct_filename', 'folder.json', '--html', 'f.html'],
        'evaluate': ['evaluate', captioner, *data, '--features', 'vgg_feats.npy', '-b', 2, '--coco_results',
                     'coco.json', '--result_struct_filename', 'e.json'],
        'ranker': ['evaluate-ranker', given / 'ranker.h5', *data, '--result_struct_filename', 'ranking.json']}


def contents(folder):
    """The files in a folder, without the date at the beginning of a .mat."""
    return {path.name: path.read_bytes()[128 if path.suffix == '.mat' else 0:] for path in folder.iterdir()}


def folders(tmp_path, *names):
    for name in names:
        (tmp_path / name).mkdir()
    return [tmp_path / name for name in names]


@pytest.mark.parametrize('n', [1, 2, 3])
def test_the_outputs_are_those_of_one_process(given, one_process, tmp_path, n):
    alone, together = folders(tmp_path, 'alone', 'together')
    every = commands(given).values()
    expected = one_process(n, alone, every)
    out, err = mpirun(n, *program(together, *with_threads(1, every)))
    assert out == expected.out and 'r.html' in contents(alone)
    assert contents(together) == contents(alone)
    assert err.count(f'skipped: {given / "photos" / BROKEN}') == expected.err.count('skipped: ') == 5


def test_fewer_images_than_ranks(given, one_process, tmp_path):
    photos, alone, together = folders(tmp_path, 'photos', 'alone', 'together')
    shutil.copy(given / 'photos' / '1.png', photos)
    some = [['extract', photos, '--output', 'f.h5'], ['caption', given / 'captioner.h5', photos],
            [*commands(given)['evaluate'], '--max_images', 1]]
    expected = one_process(3, alone, some)
    out, _ = mpirun(3, *program(together, *with_threads(1, some)))
    assert out == expected.out and contents(together) == contents(alone)


@pytest.mark.parametrize('rank', [0, 1])
def test_an_extraction_of_which_a_rank_is_killed_is_resumed(given, one_process, tmp_path, rank):
    alone, together = folders(tmp_path, 'alone', 'together')
    extract = ['extract', given / 'photos', '--batch_size', 1, '--output', 'f.h5', '--num_threads', 1]
    one_process(1, alone, [extract])
    call = (4, 2)[rank]    # when rows of both are written; the first rank has begun with a blank picture
    kill = f'if rank == {rank} and call == {call}: time.sleep(.3); os.kill(os.getpid(), signal.SIGKILL)'
    ended = subprocess.run(command(2, *program(together, extract, action=kill)), env=environment(), capture_output=True,
                           timeout=SECONDS, check=False)
    assert ended.returncode not in (0, 2) and list(contents(together)) == ['f.h5.partial.h5']
    _, err = mpirun(3, *program(together, extract, action='print("call", file=sys.stderr)'))
    assert 0 < err.count('call') < COUNT - 1 and contents(together) == contents(alone)


def test_a_signal_keeps_the_captions_that_there_are(given, tmp_path):
    """mpirun gets it, and hands it on to its ranks."""
    photos = [shutil.copy(given / 'photos' / '1.png', tmp_path / f'{number:03}.png') for number in range(150)]
    caption = ['caption', given / 'captioner.h5', *photos, '--num_threads', 1, '--result_struct_filename', 'r.json']
    action = 'if rank == 1 and call == 2: os.kill(os.getppid(), signal.SIGUSR1)\ntime.sleep(.5)'
    out, err = mpirun(2, *program(tmp_path, caption, action=action), code=128 + signal.SIGUSR1)
    count = int(re.search('stopped: ([0-9]+) of the 150 pictures have captions', err)[1])
    assert 0 < count < 150 and out.count('.png: ') == count
    assert len(json.loads((tmp_path / 'r.json').read_text(encoding='utf-8'))['imgblobs']) == count


def test_a_signal_to_any_rank_keeps_the_rows_that_there_are(given, tmp_path):
    """The same command goes on, and the file is that of an extraction without a break."""
    flags = [*commands(given)['features'], '--batch_size', 1]
    action = 'if rank == 1 and call == 1: os.kill(os.getpid(), signal.SIGTERM)'
    _, err = mpirun(2, *program(tmp_path, flags, action=action), code=128 + signal.SIGTERM)
    assert 'keeps the rows extracted so far' in err
    mpirun(2, *program(tmp_path, flags))
    (tmp_path / 'whole').mkdir()
    mpirun(2, *program(tmp_path / 'whole', flags))
    assert (tmp_path / 'f.h5').read_bytes() == (tmp_path / 'whole' / 'f.h5').read_bytes()


def test_a_mistake_is_reported_once(given, tmp_path):
    every = commands(given)
    for flags in [*every['evaluate'], '--split', 'nonsense'], [*every['features'], '--on_error', 'stop']:
        _, err = mpirun(2, *program(tmp_path, flags), code=2)
        assert err.count('error: ') == 1
    assert list(contents(tmp_path)) == ['f.h5.partial.h5']


def test_an_error_of_one_rank_ends_all(given, tmp_path):
    action = 'if rank == 1: raise OSError(5, "Input/output error", "weights")'
    _, err = mpirun(2, *program(tmp_path, commands(given)['features'], action=action), code=2)
    assert err.count('error: weights: Input/output error') == 1

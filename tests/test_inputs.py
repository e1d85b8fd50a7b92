"""What people really have: words, captions, file names, line ends and disks, through the scripts as they use them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import checkpoint_named, train_flags, write_tiny_dataset
from PIL import Image

import driver
import eval_sentence_predictions
import predict_on_images
from imagernn.runs.checkpoint_file import load_checkpoint, save_checkpoint

ROOT = Path(__file__).resolve().parents[1]
NAMES = ['with spaces.jpg', "it's.jpg", '"quoted".jpg', '-dash.jpg', '--html.jpg', 'new\nline.jpg', 'ünï 犬 🐕.jpg',
         '$(x).jpg', '<b>&amp;.jpg', 'back\\slash.jpg', '%41.jpg', 'a;b.jpg', '..jpg', '*.jpg', 'tab\t.jpg', '#1?.jpg']


def data_set(root, images, feats=None):
    """root/tiny with these images: (split, [tokens, …]) or whole dicts."""
    folder = root / 'tiny'
    folder.mkdir()
    entries = []
    for imgid, image in enumerate(images):
        if not isinstance(image, dict):
            split, sentences = image
            image = {'filename': f'{imgid}.jpg', 'split': split, 'sentences': [
                {'tokens': tokens, 'raw': ' '.join(tokens)} for tokens in sentences]}
        entries.append({**image, 'imgid': imgid})
    text = json.dumps({'images': entries}, ensure_ascii=False)
    (folder / 'dataset.json').write_bytes(text.encode('utf-8', 'backslashreplace'))    # half a pair as JSON's escape
    feats = np.random.default_rng(0).random((len(entries), 6), np.float32) if feats is None else feats
    np.save(folder / 'vgg_feats.npy', feats)
    return folder


def train(root, *more):
    """A short training run and an evaluation of its model -> result_struct.json."""
    assert driver.main(train_flags(root, '--max_epochs', '1', '--num_threads', '1', *more)) == 0
    result = root / 'result.json'
    assert eval_sentence_predictions.main([
        str(checkpoint_named(root, 'last')), '--data_root', str(root), '--num_threads', '1',
        '--result_struct_filename', str(result), '--html', str(root / 'page.html')]) == 0
    return json.loads(result.read_text(encoding='utf-8'))


FEW = ('--word_count_threshold', '1', '--batch_size', '2')


def splits(sentences):
    return [(split, sentences) for split in ('train', 'train', 'val', 'test')]


CAPTIONS = {
    'unicode': [['ein', 'großer', 'Hund'], ['一只', '狗'], ['🐕', '👩\u200d👩\u200d👧', 'café', 'cafe\u0301'],
                ['\u202eabc', 'a\u200bb', '"', '</script>', '\\', '#START#']],
    'an empty sentence': [[], ['a', 'dog']],
    '500 words': [['long'] + [f'w{i % 50}' for i in range(499)]],
    'a vocabulary of one': [['one']],
    'the same caption, 2,000 times': [['a', 'man', 'a']] * 2000,
    'blank words': [['\n', '\t', ' ', '', '\x00', '\ud83d'], ['.', '.']],
}


@pytest.mark.parametrize('sentences', CAPTIONS.values(), ids=CAPTIONS)
def test_captions_of_every_kind(tmp_path, sentences):
    data_set(tmp_path, splits(sentences))
    result = train(tmp_path, *FEW, *(['--batch_size', '1000'] if len(sentences) > 100 else []))
    words = {word for tokens in sentences for word in tokens}
    assert set(load_checkpoint(checkpoint_named(tmp_path, 'last'))['wordtoix']) == {'#START#', *words}
    assert np.isfinite(result['gtppl']) and len(result['imgblobs']) == 1


def test_one_image_in_each_split_and_a_batch_larger_than_all(tmp_path):
    data_set(tmp_path, [(split, [['a', 'dog']]) for split in ('train', 'val', 'test')])
    train(tmp_path, *FEW, '--batch_size', '1000', '--eval_batch_size', '1000')


def test_captions_that_are_all_empty_are_an_error_that_says_so(tmp_path, capsys):
    data_set(tmp_path, splits([[], []]))
    assert driver.main(train_flags(tmp_path, *FEW)) == 2
    assert 'error: ' in capsys.readouterr().err


def test_windows_line_ends_and_a_byte_order_mark(tmp_path):
    folder = data_set(tmp_path, splits([['a', 'dog'], ['a', 'cat']]))
    path = folder / 'dataset.json'
    plain = train(tmp_path, *FEW)
    text = json.dumps(json.loads(path.read_text(encoding='utf-8')), indent=2).replace('\n', '\r\n')
    path.write_bytes(b'\xef\xbb\xbf' + text.encode())
    again = train(tmp_path, *FEW)
    assert again['gtppl'] == plain['gtppl'] and again['imgblobs'] == plain['imgblobs']


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """The folder of a small run, and its checkpoint."""
    root = tmp_path_factory.mktemp('trained')
    write_tiny_dataset(root)
    assert driver.main(train_flags(root, '--max_epochs', '1', '--num_threads', '1')) == 0
    return root, checkpoint_named(root, 'last')


def test_file_names_of_every_kind_in_a_data_set(tmp_path, monkeypatch):
    names = [*NAMES, '../outside.jpg', '/absolute.jpg', '']
    images = [{'filename': name, 'split': split, 'sentences': [{'tokens': ['a', 'dog']}]}
              for split in ('train', 'val', 'test') for name in names]
    folder = data_set(tmp_path, images)
    (folder / 'imgs').mkdir()
    for name in NAMES:
        Image.new('RGB', (4, 4)).save(folder / 'imgs' / name, 'JPEG')
    Image.new('RGB', (4, 4)).save(folder / 'outside.jpg')
    train(tmp_path, *FEW)
    dump, before = tmp_path / 'dump', set(tmp_path.rglob('*'))
    assert eval_sentence_predictions.main([
        str(checkpoint_named(tmp_path, 'last')), '--data_root', str(tmp_path), '--dump_folder', str(dump),
        '--result_struct_filename', str(tmp_path / 'result.json')]) == 0
    written = set(tmp_path.rglob('*')) - before
    assert written == {dump, *(dump / name for name in NAMES)}


def test_file_names_of_every_kind_in_tasks(trained, tmp_path):
    root, checkpoint = trained
    names = [name for name in NAMES if '\n' not in name] + ['../up.jpg', 'sub/in.jpg', '/abs.jpg']
    (tmp_path / 'tasks.txt').write_bytes(b'\xef\xbb\xbf' + ''.join(f'{name}\r\n' for name in names).encode())
    D = load_checkpoint(checkpoint)['model']['We'].shape[0]
    np.save(tmp_path / 'vgg_feats.npy', np.ones((len(names), D), np.float32))
    assert predict_on_images.main([str(checkpoint), '-r', str(tmp_path), '--num_threads', '1']) == 0
    result = json.loads((tmp_path / 'result_struct.json').read_text(encoding='utf-8'))
    assert [blob['img_path'] for blob in result['imgblobs']] == names
    page = (tmp_path / 'result.html').read_text(encoding='utf-8')
    assert '<b>&amp;.jpg' not in page.replace('&lt;b&gt;&amp;amp;.jpg', '')


def test_pictures_with_such_names_on_the_command_line(trained, tmp_path):
    """None is taken for a flag behind --, none runs; what cannot be read is named in one line."""
    for name in NAMES:
        (tmp_path / name).write_bytes(b'no picture')
    done = subprocess.run([sys.executable, str(ROOT / 'predict_on_images.py'), str(trained[1]), '--', *NAMES],
                          cwd=tmp_path, capture_output=True, text=True, encoding='utf-8', check=False,
                          env={**os.environ, 'PYTHONPATH': str(ROOT), 'PYTHONIOENCODING': 'utf-8'})
    assert done.returncode == 2 and 'Traceback' not in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1].startswith('error: ')
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES)


@pytest.mark.parametrize('name', ['with spaces', 'ünï 犬', "it's", '-dash', '$(x)'])
def test_folders_of_such_names(tmp_path, name):
    root = tmp_path / name
    root.mkdir()
    write_tiny_dataset(root, name)
    flags = train_flags(root, '--max_epochs', '1')
    flags[flags.index('tiny') - 1:flags.index('tiny') + 1] = [f'--dataset={name}']
    assert driver.main(flags) == 0
    last = checkpoint_named(root, 'last')
    assert driver.main(['--resume', str(last), '--max_epochs', '2']) == 0
    assert eval_sentence_predictions.main([str(last), '--data_root', str(root), '--result_struct_filename',
                                           str(root / 'result.json')]) == 0


def test_features_as_a_memory_map_in_a_folder_that_may_only_be_read(tmp_path):
    folder = write_tiny_dataset(tmp_path)
    for path in (folder / 'dataset.json', folder / 'vgg_feats.npy'):
        path.chmod(0o444)
    folder.chmod(0o555)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    try:
        train(tmp_path)
        assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    finally:
        folder.chmod(0o755)


def test_a_large_data_set_in_a_folder_that_may_only_be_read(tmp_path, monkeypatch):
    """Its encoded form cannot be kept beside it: then it is not, whoever runs this."""
    monkeypatch.setattr('imagernn.corpus.dataset_file.STORE_FROM', 1)
    monkeypatch.setattr('imagernn.formats.writing._temporary', lambda target: Path('/proc/none') / target.name
                        if target.suffix == '.npz' else target.with_name(f'.{target.name}.tmp'))
    folder = write_tiny_dataset(tmp_path)
    train(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ['dataset.json', 'vgg_feats.npy']


def test_a_checkpoint_does_not_send_the_run_s_files_far_away(trained, tmp_path, monkeypatch, capsys):
    root, last = trained
    far = tmp_path / 'far' / 'away'
    mine = tmp_path / 'here' / 'cv' / 'a.h5'
    for name in ('checkpoint_output_directory', 'worker_status_output_directory'):
        checkpoint = load_checkpoint(last)
        checkpoint['params'][name] = str(far)
        checkpoint['params'].update({other: str(mine.parent) for other in ('checkpoint_output_directory',
                                                                           'worker_status_output_directory')
                                     if other != name})
        save_checkpoint(mine, checkpoint)
        assert driver.main(['--resume', str(mine), '--max_epochs', '2']) == 2
        assert f'--{name}' in capsys.readouterr().err
        assert not far.exists()
    assert driver.main(['--resume', str(mine), '--max_epochs', '2', f'--{name}', str(far)]) == 0
    assert far.exists()

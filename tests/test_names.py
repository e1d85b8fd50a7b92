"""Names in other people's files lead to no file outside the folder they belong to, whatever command reads them."""

import json
import os
import re
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from datasets import checkpoint_named, train_flags, write_tiny_dataset
from PIL import Image
from stub_network import StubNetwork, loader

import driver
import eval_sentence_predictions
import predict_on_images
from imagernn import extract_features, view
from imagernn.__main__ import module_of
from imagernn.convnet import extraction, train
from imagernn.corpus.captioned_images import getDataProvider
from imagernn.formats.names import Refused, parts_of, path_inside, picture_name
from imagernn.runs.checkpoint_file import load_checkpoint, save_checkpoint

UP = '../../../../private/secret.jpg'    # of data/tiny/imgs in work
OUTSIDE = [UP, f'sub/../{UP}', UP.replace('/', '\\'),
           'link.jpg', 'linked/secret.jpg', 'C:\\private\\secret.jpg', '\\\\server\\private\\secret.jpg',
           'https://example.org/private/secret.jpg']
INSIDE = ['a.jpg', 'sub/a.jpg', 'sub\\b.jpg', 'sub/../c.jpg', 'inner.jpg']


# ---- which files a command opens

OPENED = []


def note_opened(event, arguments):
    if event == 'open' and isinstance(arguments[0], (str, bytes, os.PathLike)):
        OPENED.append(os.path.realpath(os.fsdecode(arguments[0])))


sys.addaudithook(note_opened)    # it cannot be removed


@contextmanager
def opening_nothing_in(folder):
    OPENED.clear()
    yield
    assert OPENED and not [path for path in OPENED if Path(path).is_relative_to(folder)]


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    root = tmp_path_factory.mktemp('trained')
    write_tiny_dataset(root)
    assert driver.main(train_flags(root, '--max_epochs', '1', '--num_threads', '1')) == 0
    return checkpoint_named(root, 'last')


@pytest.fixture
def place(tmp_path, monkeypatch):
    """work/data/tiny/imgs with pictures, and private/secret.jpg beside work, which nothing may open."""
    work, private = tmp_path / 'work', tmp_path / 'private'
    imgs = write_tiny_dataset(work / 'data') / 'imgs'
    for folder in private, imgs, imgs / 'sub':
        folder.mkdir()
    for path in private / 'secret.jpg', imgs / 'a.jpg', imgs / 'c.jpg', imgs / 'sub' / 'a.jpg', imgs / 'sub' / 'b.jpg':
        Image.new('RGB', (40, 30), 'red').save(path)
    (imgs / 'inner.jpg').symlink_to('a.jpg')
    (imgs / 'link.jpg').symlink_to(private / 'secret.jpg')
    (imgs / 'linked').symlink_to(private)
    monkeypatch.chdir(work)
    monkeypatch.setattr(extraction, 'load_network', loader(StubNetwork()))
    return tmp_path


def all_outside(place):
    return [*OUTSIDE, str(place / 'private' / 'secret.jpg')]


def rename(names, split='test'):
    """Give the first images of a split of data/tiny these file names; drop its others. Returns the data set's path."""
    path = Path('data/tiny/dataset.json')
    data = json.loads(path.read_text(encoding='utf-8'))
    images = [image for image in data['images'] if image['split'] == split]
    last = len(data['images'])
    data['images'] += [{**images[0], 'imgid': last + i} for i in range(len(names) - len(images))]
    for image, name in zip([image for image in data['images'] if image['split'] == split], names, strict=False):
        image.update(name if isinstance(name, dict) else {'filename': name})
    path.write_text(json.dumps(data), encoding='utf-8')
    np.save(path.with_name('vgg_feats.npy'), np.ones((len(data['images']), 20), np.float32))
    return path


def data_of(page):
    return json.loads(re.search('id="data">(.*?)</script>', page.read_text(encoding='utf-8'))[1])


# ---- the function

def test_a_name_stays_in_its_folder_or_is_refused(place):
    imgs = Path('data/tiny/imgs')
    found = {name: path_inside(imgs, name) for name in INSIDE}
    assert not any(isinstance(path, Refused) for path in found.values())
    assert {name: str(path.relative_to(imgs)) for name, path in found.items()} == {
        'a.jpg': 'a.jpg', 'sub/a.jpg': 'sub/a.jpg', 'sub\\b.jpg': 'sub/b.jpg', 'sub/../c.jpg': 'c.jpg',
        'inner.jpg': 'inner.jpg'}
    for name in all_outside(place):
        path = path_inside(imgs, name)
        assert isinstance(path, Refused) and '; ' in path.problem, name
        assert (name if '://' in name else parts_of(name)[-1]) in path.problem
    for name in 'not there.jpg', '..jpg', '...', '', '.', 'x' * 300, 'C:a.jpg':
        assert not isinstance(path_inside(imgs, name), Refused), name


@pytest.mark.parametrize('name', ['a\0b.jpg', 'a\ud800.jpg'])
def test_a_name_that_no_file_can_have_is_refused(place, checkpoint, name, capsys):
    assert 'has a character that no file name can have; correct the name' in path_inside('imgs', name).problem
    path = rename([name, 'a.jpg'])
    with opening_nothing_in(place / 'private'):
        assert dump(checkpoint, '-d', 'dump', '--html', 'p.html') == 0
    out, err = capsys.readouterr()
    assert '1 pictures copied to dump; 1 were not there; 1 were not opened' in out and 'no file name can have' in err
    assert view.main(['result_struct.json', '--root', 'data', '--export', 'view.html']) == 0
    assert extract_features.main([str(path), '--num_threads', '1']) == 0


def test_an_absolute_name_inside_the_folder_is_that_file(place):
    imgs = Path('data/tiny/imgs')
    assert path_inside(imgs, str((imgs / 'sub' / 'a.jpg').resolve())) == imgs / 'sub' / 'a.jpg'


def test_a_backslash_in_a_file_name_of_this_system_is_none_of_windows(place):
    path = Path('data/tiny/imgs/..\\x.jpg')
    path.touch()
    assert path_inside(path.parent, path.name) == path


def test_the_folder_itself_may_be_a_link(place):
    Path('data/tiny/imgs').rename('elsewhere')
    Path('data/tiny/imgs').symlink_to(Path('elsewhere').resolve())
    assert path_inside(Path('data/tiny/imgs'), 'sub/a.jpg') == Path('data/tiny/imgs/sub/a.jpg')
    assert isinstance(path_inside(Path('data/tiny/imgs'), 'link.jpg'), Refused)


@pytest.mark.parametrize('image, name', [
    ({'filename': 'x.jpg'}, 'x.jpg'), ({'filepath': 'val2017', 'filename': 'x.jpg'}, 'val2017/x.jpg'),
    ({'filepath': 'val2017', 'filename': 'val2017/x.jpg'}, 'val2017/x.jpg'),
    ({'filepath': 'a/b/', 'filename': 'a/b/x.jpg'}, 'a/b/x.jpg'), ({'filepath': '', 'filename': 'a/x.jpg'}, 'a/x.jpg'),
    ({'filepath': 'a', 'filename': 'b/x.jpg'}, 'a/b/x.jpg'), ({'filepath': 'x.jpg', 'filename': 'x.jpg'},
                                                              'x.jpg/x.jpg')])
def test_the_folder_of_a_picture_is_named_once(image, name):
    assert picture_name(image) == name


# ---- the commands

def test_evaluation_copies_embeds_and_lists_only_pictures_of_the_data_set(place, checkpoint, capsys):
    names = [*all_outside(place), *INSIDE]
    rename(names)
    with opening_nothing_in(place / 'private'):
        assert eval_sentence_predictions.main([str(checkpoint), '--data_root', 'data', '--html', 'page.html',
                                               '--dump_folder', 'dump', '--num_threads', '1']) == 0
    out, err = capsys.readouterr()
    assert f'note: {len(names) - 5} of {len(names)} pictures are not opened; the first: data/tiny/imgs/{UP}: is' in err
    assert f'5 pictures copied to dump; {len(names) - 5} were not opened' in out
    assert sorted(str(path.relative_to('dump')) for path in Path('dump').rglob('*.jpg')) == [
        'a.jpg', 'c.jpg', 'inner.jpg', 'sub/a.jpg', 'sub/b.jpg']
    shown = [image['picture'] is not None for image in data_of(Path('page.html'))['images']]
    assert shown == [False] * (len(names) - 5) + [True] * 5
    # what the evaluation writes leads no other command there, even where the working directory holds everything
    os.chdir(place)
    with opening_nothing_in(place / 'private'):
        assert view.main(['work/result_struct.json', '--export', 'view.html']) == 0
    assert '--root' not in out.splitlines()[-1] or str(place / 'work' / 'data') in out.splitlines()[-1]


@pytest.mark.parametrize('source', ['dataset.json', 'tasks.txt'])
def test_extraction_skips_and_names_what_is_outside(place, source, capsys):
    imgs = Path('data/tiny/imgs')
    names = [*all_outside(place), *INSIDE]
    if source == 'dataset.json':
        path = rename(names)
        path.write_text(json.dumps({'images': [{'filename': name, 'imgid': i} for i, name in enumerate(names)]}),
                        encoding='utf-8')
    else:
        path = imgs / source
        path.write_text('\n'.join(names), encoding='utf-8')
    with opening_nothing_in(place / 'private'):
        assert extract_features.main([str(path), '--num_threads', '1']) == 0
    err = capsys.readouterr().err
    assert f'skipped {len(names) - 5} broken pictures' in err and names[0] in err.splitlines()[-1]
    assert err.count('skipped: ') == len(names) - 5
    with opening_nothing_in(place / 'private'):
        assert extract_features.main([str(path), '--on_error', 'stop', '--force']) == 2
    assert 'private/secret.jpg: is outside of data/tiny/imgs' in capsys.readouterr().err


@pytest.mark.parametrize('features', [False, True])
def test_captions_of_a_folder_with_tasks(place, checkpoint, features, capsys):
    imgs = Path('data/tiny/imgs')
    names = [*all_outside(place), *INSIDE]
    (imgs / 'tasks.txt').write_text('\n'.join(names), encoding='utf-8')
    if features:
        np.save(imgs / 'vgg_feats.npy', np.ones((len(names), 20), np.float32))
    from_stub = place / 'c.h5'
    change_origin(checkpoint, from_stub)
    with opening_nothing_in(place / 'private'):
        assert predict_on_images.main([str(from_stub), '-r', str(imgs), '--num_threads', '1']) == 0
    out, err = capsys.readouterr()
    images = data_of(imgs / 'result.html')['images']
    assert sum(image['picture'] is not None for image in images) == 5
    assert 'is outside' in err and ('--root' not in out)
    assert len(images) == (len(names) if features else 5)


def change_origin(checkpoint, path):
    """A copy of a checkpoint whose features came from the stub network."""
    save_checkpoint(path, {**load_checkpoint(checkpoint), 'features': {'network': 'lite0', 'layer': 'features'}})


@pytest.mark.parametrize('name', OUTSIDE[:5])
def test_training_on_scenes(place, name, capsys):
    scene = {'groups': [{'kind': 'cat', 'colour': 'red'}]}
    folder = Path('data/scenes')
    Path('data/tiny').rename(folder)
    (folder / 'dataset.json').write_text(json.dumps({'images': [
        {'filename': name, 'split': split, 'scene': scene} for split in ('train', 'val', 'test')]}), encoding='utf-8')
    with opening_nothing_in(place / 'private'):
        assert train.main(['--data', 'scenes', '-o', 'out']) == 2
    assert 'secret.jpg' in (err := capsys.readouterr().err) or name in err


def test_scores_open_no_picture(place, capsys):
    path = rename(names := all_outside(place))
    images = json.loads(path.read_text(encoding='utf-8'))['images']
    imgids = [image['imgid'] for image in images if image['split'] == 'test']
    blobs = [{'img_path': name, 'imgid': imgid, 'candidate': {'text': 'a dog'}}
             for name, imgid in zip(names, imgids, strict=True)]
    Path('r.json').write_text(json.dumps({'imgblobs': blobs}), encoding='utf-8')
    with opening_nothing_in(place / 'private'):
        assert module_of('score').main(['r.json', str(path), '--draws', '0']) == 0


def test_view_shows_only_what_is_in_the_folder_of_the_results(place, capsys):
    imgs = Path('data/tiny/imgs').resolve()
    names = [*all_outside(place), *INSIDE]
    (imgs / 'r.json').write_text(json.dumps({'imgblobs': [
        {'img_path': name, 'candidate': {'text': 'a'}} for name in names]}), encoding='utf-8')
    for flags in [], ['--root', str(imgs)]:
        with opening_nothing_in(place / 'private'):
            assert view.main([str(imgs / 'r.json'), '--export', 'page.html', *flags]) == 0
        shown = [image['name'] for image in data_of(Path('page.html'))['images'] if image['picture']]
        assert shown == INSIDE


def test_pictures_that_the_user_names_may_be_anywhere(place, checkpoint):
    from_stub = place / 'c.h5'
    change_origin(checkpoint, from_stub)
    secret = str(place / 'private' / 'secret.jpg')
    assert predict_on_images.main([str(from_stub), secret, 'data/tiny/imgs/link.jpg', '--html', 'p.html']) == 0
    assert all(image['picture'] for image in data_of(Path('p.html'))['images'])


def test_a_refused_picture_is_not_taken_for_one_of_its_name_elsewhere(place, checkpoint):
    rename(['../secret.jpg', 'link.jpg', 'a.jpg'])
    Image.new('RGB', (40, 30), 'blue').save('secret.jpg')    # in the working directory
    Image.new('RGB', (40, 30), 'blue').save('link.jpg')
    assert eval_sentence_predictions.main([str(checkpoint), '--data_root', 'data', '--num_threads', '1']) == 0
    for flags in [], ['--root', '.'], ['--root', 'data']:
        assert view.main(['result_struct.json', '--export', 'page.html', *flags]) == 0
        images = data_of(Path('page.html'))['images']
        assert [image['picture'] is not None for image in images] == [False, False, True]
        assert [image['name'] for image in images[:2]] == ['not opened: secret.jpg', 'not opened: link.jpg']
        assert 'leads out of the folder of pictures' in images[0]['problem']


@pytest.mark.parametrize('flags', [[], ['--root', 'data']])
def test_view_suggests_no_folder_that_only_a_result_file_names(place, flags, capsys):
    secret = place / 'private' / 'secret.jpg'
    Path('r.json').write_text(json.dumps({'imgblobs': [
        {'img_path': name, 'candidate': {'text': 'a'}} for name in (str(secret), '../private/secret.jpg')]}),
        encoding='utf-8')
    assert view.main(['r.json', '--export', 'page.html', *flags]) == 0
    problems = [image['problem'] for image in data_of(Path('page.html'))['images']]
    assert not [problem for problem in problems if f'--root {secret.parent}' in problem], problems
    assert f'--root {secret.parent}' not in capsys.readouterr().err


# ---- --dump_folder

def dump(checkpoint, *flags):
    return eval_sentence_predictions.main([str(checkpoint), '--data_root', 'data', '--num_threads', '1', *flags])


def test_subfolders_are_kept_and_copies_are_counted(place, checkpoint, capsys):
    coco = {'filepath': 'sub', 'filename': 'sub/b.jpg'}    # named twice, as COCO's file_name and folder may be
    rename(['a.jpg', 'sub/a.jpg', 'a.jpg', coco, 'absent.jpg'])
    assert dump(checkpoint, '-d', 'dump') == 0
    assert '3 pictures copied to dump; 1 were not there; 1 were listed more than once\n' in capsys.readouterr().out
    assert sorted(str(path.relative_to('dump')) for path in Path('dump').rglob('*.jpg')) == [
        'a.jpg', 'sub/a.jpg', 'sub/b.jpg']
    assert dump(checkpoint, '-d', 'dump') == 0    # again, over the copies


@pytest.mark.parametrize('folder, names', [('data/tiny/imgs', ['a.jpg', 'c.jpg', 'x.jpg']),
                                           ('data/tiny', ['vgg_feats.npy', 'a.jpg', 'c.jpg']),
                                           ('.', ['result_struct.json', 'a.jpg', 'c.jpg'])])
def test_no_copy_replaces_an_input_or_a_result(place, checkpoint, folder, names, capsys):
    rename(names)
    (Path('data/tiny/imgs') / names[0]).write_bytes(b'other')
    before = {path: path.read_bytes() for path in Path('data').rglob('*') if path.is_file()}
    assert dump(checkpoint, '-d', folder) == 2
    assert f'{Path(folder, names[0])}: ' in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in Path('data').rglob('*') if path.is_file()}
    assert not Path('result_struct.json').exists()


def test_a_folder_that_is_a_link_to_the_pictures_is_no_place_for_copies(place, checkpoint, capsys):
    rename(['sub/a.jpg', 'sub/b.jpg', 'a.jpg'])
    Path('dump').mkdir()
    (Path('dump') / 'sub').symlink_to(Path('data/tiny/imgs/sub').resolve())
    assert dump(checkpoint, '-d', 'dump') == 2 and 'dump/sub/a.jpg' in capsys.readouterr().err


@pytest.mark.parametrize('hard', [False, True])
def test_copies_replace_links_and_leave_what_these_lead_to(place, checkpoint, hard, capsys):
    rename(['a.jpg', 'sub/a.jpg', 'sub/b.jpg'])
    Path('dump').mkdir()
    Path('precious').write_bytes(b'precious')
    (os.link if hard else os.symlink)(Path('precious').resolve(), 'dump/a.jpg')
    assert dump(checkpoint, '-d', 'dump') == 0
    assert Path('precious').read_bytes() == b'precious'
    assert Path('dump/a.jpg').read_bytes() == Path('data/tiny/imgs/a.jpg').read_bytes()


@pytest.mark.parametrize('prepare, folder', [
    (lambda: (Path('dump').mkdir(), Path('dump/sub').symlink_to(Path('../private').resolve())), 'dump'),
    (lambda: Path('dump').touch(), 'dump'), (lambda: Path('dump').touch(), 'dump/below'),
    (lambda: (Path('dump').mkdir(), Path('dump/sub').touch()), 'dump'),
    (lambda: Path('dump/a.jpg').mkdir(parents=True), 'dump'), (lambda: None, 'x' * 300), (lambda: None, '/proc/dump')])
def test_a_folder_for_copies_that_cannot_be_used_costs_no_captions(place, checkpoint, prepare, folder, capsys):
    rename(['a.jpg', 'sub/a.jpg', 'sub/b.jpg'])
    prepare()
    assert dump(checkpoint, '-d', folder) == 2
    assert folder[:20] in (err := capsys.readouterr().err) and '; ' in err
    assert not Path('result_struct.json').exists() and len(list((place / 'private').iterdir())) == 1


def test_a_folder_for_copies_may_itself_be_a_link(place, checkpoint):
    rename(['a.jpg', 'sub/a.jpg', 'sub/b.jpg'])
    Path('elsewhere').mkdir()
    Path('dump').symlink_to('elsewhere')
    assert dump(checkpoint, '-d', 'dump') == 0 and Path('elsewhere/sub/b.jpg').is_file()


def test_a_data_set_whose_imgs_is_a_link_works_throughout(place, checkpoint, capsys):
    Path('data/tiny/imgs').rename(place / 'photos')
    Path('data/tiny/imgs').symlink_to(place / 'photos')
    path = rename(['a.jpg', 'sub/a.jpg', 'c.jpg'])
    assert dump(checkpoint, '-d', 'dump', '--html', 'p.html') == 0
    assert '3 pictures copied' in (out := capsys.readouterr().out)
    assert all(image['picture'] for image in data_of(Path('p.html'))['images'])
    assert getDataProvider('tiny', 'data').image_path({'filename': 'a.jpg'}) == Path('data/tiny/imgs/a.jpg')
    assert extract_features.main([str(path)]) == 0
    assert out.splitlines()[-1].endswith(f'--root {place / "photos"}')

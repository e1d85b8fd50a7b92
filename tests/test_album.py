"""imagernn.album: the index keeps up with the folder through every interruption, and the server shows nothing else."""

import io
import json
import os
import re
import shutil
import signal
import threading
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from albums import use_stub, write_models, write_photo
from PIL import Image
from programs import running
from test_page_server import answer

from imagernn import album
from imagernn.formats.json_files import load_json
from imagernn.gallery import index as gallery_index
from imagernn.gallery.index import FOLDER, photos_in
from imagernn.gallery.opening import open_album
from imagernn.gallery.pages import album_routes
from imagernn.web.server import serving

SHARD = 8


@pytest.fixture(scope='module')
def flags(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp('models'))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(gallery_index, 'SHARD', SHARD)
    monkeypatch.setattr(gallery_index, 'SPARSE', SHARD * 3 // 4)


@pytest.fixture
def network(monkeypatch):
    return use_stub(monkeypatch)


def write_photos(folder):
    for number in range(10):
        write_photo(folder / f'{number}.png', number)
    for number in range(2):
        write_photo(folder / 'more' / f'{number}.jpg', 100 + number, size=(24, 32))
    return folder


@pytest.fixture
def photos(tmp_path):
    """A folder of photos, two of them in a subfolder."""
    return write_photos(tmp_path / 'photos')


def opened(folder, flags, *more):
    params = vars(album.build_parser().parse_args([str(folder), '--num_threads', '1', *flags, *more]))
    return open_album(params)


def vectors(index):
    """name -> vectors of all photos in an Index."""
    return {entry.name: index.vectors([number], slice(0, 100))[0].tolist()
            for number, entry in enumerate(index.entries)}


def shards(folder):
    """The entries of each shard in the index folder, which has nothing else."""
    files = {path.name for path in (folder / FOLDER).iterdir()}
    names = sorted(name for name in files if name.endswith('.json'))
    assert files == {*names, *(name.replace('.json', '.npy') for name in names)}
    return [load_json(folder / FOLDER / name)['photos'] for name in names]


# ---- which files are photos ------------------------------------------------------------------------------------------

def test_photos_are_those_in_the_folder_and_no_link_leads_out_of_it(photos, tmp_path):
    write_photo(tmp_path / 'outside' / 'secret.png', 1)
    write_photo(photos / '.hidden' / 'a.png', 1)
    write_photo(photos / '.b.png', 1)
    for name, target in {'out.png': tmp_path / 'outside' / 'secret.png', 'nowhere.png': 'no.png', 'in.png': '0.png',
                         'annex.png': '.hidden/a.png', 'circle.png': 'circle.png', 'folder': tmp_path / 'outside',
                         'again': '.', 'up': '..'}.items():
        (photos / name).symlink_to(target)
    (photos / 'notes.txt').write_text('x')
    (photos / 'folder.png').mkdir()
    if hasattr(os, 'mkfifo'):
        os.mkfifo(photos / 'pipe.png')
    assert sorted(photo.name for photo in photos_in(photos)) == sorted(
        [f'{number}.png' for number in range(10)] + ['more/0.jpg', 'more/1.jpg', 'in.png', 'annex.png'])


@pytest.mark.parametrize('make, words', [
    (lambda folder: None, ['is not a folder', 'name the folder']), (Path.mkdir, ['holds no photos', '.jpg']),
    (lambda folder: folder.write_text('x'), ['is not a folder']),
    (lambda folder: [write_photo(folder / '.x' / 'a.png', 1)], ['holds no photos'])], ids=range(4))
def test_a_folder_without_photos_is_an_input_error(tmp_path, flags, network, capsys, make, words):
    folder = tmp_path / 'folder'
    make(folder)
    assert album.main([str(folder), '--no_browser', *flags]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f'error: {folder}: ') and all(word in error for word in words)
    assert network.calls == 0 and not (folder / FOLDER).exists()


# ---- the index keeps up ----------------------------------------------------------------------------------------------

def test_a_photo_goes_through_the_network_once(photos, flags, network):
    index, _ = opened(photos, flags)
    assert network.calls == 2 and [len(shard) for shard in shards(photos)] in ([8, 4], [4, 8])
    assert [entry.name for entry in index.entries] == sorted(str(path.relative_to(photos)) for path in
                                                            photos.rglob('*.*g') if FOLDER not in path.parts)
    assert {(entry.width, entry.height) for entry in index.entries if 'more' in entry.name} == {(24, 32)}
    before = {path: path.stat().st_mtime_ns for path in (photos / FOLDER).iterdir()}
    again, _ = opened(photos, flags)
    assert network.calls == 2 and again.entries == index.entries and vectors(again) == vectors(index)
    assert before == {path: path.stat().st_mtime_ns for path in (photos / FOLDER).iterdir()}


def test_new_changed_and_removed_photos_are_followed(photos, flags, network, capsys):
    before, _ = opened(photos, flags)
    write_photo(photos / 'new.png', 50)
    write_photo(photos / '3.png', 51, size=(90, 60))
    (photos / '4.png').unlink()
    shutil.rmtree(photos / 'more')
    capsys.readouterr()
    after, _ = opened(photos, flags)
    assert network.calls == 3 and 'indexing 2 of 10 photos' in capsys.readouterr().err
    old, new = vectors(before), vectors(after)
    assert new.keys() == old.keys() - {'4.png', 'more/0.jpg', 'more/1.jpg'} | {'new.png'}
    assert all((old[name] == new[name]) == (name != '3.png') for name in new.keys() & old.keys())
    assert next(entry for entry in after.entries if entry.name == '3.png').width == 90
    assert sorted(map(len, shards(photos))) == [4, 8]    # two of the 8 are gone, a quarter
    assert vectors(opened(photos, flags)[0]) == new


def test_a_few_gone_photos_leave_a_shard_as_it_is(photos, flags, network):
    for path in photos.glob('more/*'):
        path.unlink()
    opened(photos, flags)
    (photos / '5.png').unlink()
    index, _ = opened(photos, flags)
    assert sorted(map(len, shards(photos))) == [2, 8] and len(index.entries) == 9
    (photos / '4.png').unlink()
    (photos / '3.png').unlink()
    assert len(opened(photos, flags)[0].entries) == 7 and sorted(map(len, shards(photos))) == [7]


@pytest.mark.parametrize('call', [1, 2])
def test_an_interrupted_run_is_continued(photos, flags, monkeypatch, capsys, call):
    def interrupt(number):
        if number == call:
            raise KeyboardInterrupt

    use_stub(monkeypatch, interrupt)
    assert album.main([str(photos), '--no_browser', '--num_threads', '1', *flags]) == 130
    assert 'stopped; the same command continues' in capsys.readouterr().err
    assert len([path for path in (photos / FOLDER).iterdir() if path.suffix == '.json']) == call - 1
    network = use_stub(monkeypatch)
    assert len(opened(photos, flags)[0].entries) == 12 and network.calls == 3 - call


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs processes that are killed')
def test_a_killed_run_is_continued_and_leaves_nothing_behind(photos, flags, monkeypatch):
    def kill(number):
        if number == 2:
            (photos / FOLDER / f'.{"0" * 16}.npy.{"0" * 8}.tmp').touch()    # as if it had been writing
            (photos / FOLDER / f'{"0" * 16}.npy').touch()
            os.kill(os.getpid(), signal.SIGKILL)

    use_stub(monkeypatch, kill)
    child = os.fork()
    if not child:
        try:
            opened(photos, flags)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    network = use_stub(monkeypatch)
    (photos / FOLDER / 'mine.json').write_text('{}')
    assert len(opened(photos, flags)[0].entries) == 12 and network.calls == 1
    (photos / FOLDER / 'mine.json').unlink()    # it was left alone
    assert sorted(map(len, shards(photos))) == [4, 8]


def test_broken_photos_are_named_and_tried_again_only_when_they_change(photos, flags, network, capsys):
    for name in '3.png', 'more/0.jpg':
        (photos / name).write_bytes((photos / name).read_bytes()[:60])
    (photos / '4.png').write_bytes(b'')
    index, _ = opened(photos, flags)
    error = capsys.readouterr().err
    assert all(f'skipped: {photos / name}: ' in error for name in ('3.png', '4.png', 'more/0.jpg'))
    assert [entry.name for entry in index.broken] == ['3.png', '4.png', 'more/0.jpg'] and len(index.entries) == 9
    again, _ = opened(photos, flags)
    assert network.calls == 2 and again.broken == index.broken and 'skipped' not in capsys.readouterr().err
    write_photo(photos / '4.png', 4)
    after, _ = opened(photos, flags)
    assert network.calls == 3 and len(after.broken) == 2 and len(after.entries) == 10


def test_broken_photos_alone_are_an_input_error(tmp_path, flags, network, capsys):
    (tmp_path / 'photos').mkdir()
    (tmp_path / 'photos' / 'a.jpg').write_bytes(b'x')
    assert album.main([str(tmp_path / 'photos'), *flags]) == 2
    assert 'none of its 1 photos can be read, such as' in capsys.readouterr().err


def test_other_models_index_everything_again(photos, flags, monkeypatch, capsys):
    use_stub(monkeypatch)
    opened(photos, flags)
    capsys.readouterr()
    network = use_stub(monkeypatch, checksum='1' * 64)
    assert len(opened(photos, flags)[0].entries) == 12
    assert 'is of other models, or damaged, in 2 of 2 files' in capsys.readouterr().err
    assert network.calls == 2 and len(shards(photos)) == 2


@pytest.mark.parametrize('damage', [
    lambda path: path.write_bytes(b''), lambda path: path.write_bytes(path.read_bytes()[:-2]),
    lambda path: path.write_bytes(b'x' * 100), Path.unlink,
    lambda path: path.write_bytes(path.read_bytes().replace(b'[["', b'[[1, "').replace(b'<f2', b'|O8')),
], ids=range(5))
@pytest.mark.parametrize('suffix', ['json', 'npy'])
def test_a_damaged_shard_is_made_again(photos, flags, network, damage, suffix):
    before = vectors(opened(photos, flags)[0])
    damage(min((photos / FOLDER).glob(f'*.{suffix}')))
    after, _ = opened(photos, flags)
    assert vectors(after) == before and network.calls == 3
    assert sorted(map(len, shards(photos))) == [4, 8]


def test_an_index_folder_elsewhere_leaves_the_photos_alone(photos, flags, network, tmp_path):
    opened(photos, flags, '--index_folder', str(tmp_path / 'index'))
    assert not (photos / FOLDER).exists() and len(list((tmp_path / 'index').iterdir())) == 4
    opened(photos, flags, '--index_folder', str(tmp_path / 'index'))
    assert network.calls == 2


def test_a_run_at_the_same_time_is_refused_with_advice(photos, flags, monkeypatch, capsys):
    errors = []

    def another(number):
        if number == 1:
            errors.append(album.main([str(photos), '--no_browser', '--num_threads', '1', *flags]))

    network = use_stub(monkeypatch, another)
    assert len(opened(photos, flags)[0].entries) == 12 and errors == [2] and network.calls == 2
    assert 'is in use by a run that is alive' in capsys.readouterr().err


# ---- what is served --------------------------------------------------------------------------------------------------

EVIL = ['<img src=x onerror=alert(1)>.png', '"\'& ;.png', 'é\u2028日.png', '%2e%2e%2f.png', 'a\nb.png', '-rf.png',
        os.fsdecode(b'\xff.png')]


@pytest.fixture(scope='module')
def served(tmp_path_factory, flags):
    """The folder, its Index, and the address of the album."""
    folder = write_photos(tmp_path_factory.mktemp('served') / 'photos')
    for number, name in enumerate(EVIL):
        write_photo(folder / name, 200 + number, size=(2000, 500) if name == EVIL[0] else (32, 24))
    (folder / 'broken.jpg').write_bytes(b'<script>')
    with pytest.MonkeyPatch.context() as patch:
        use_stub(patch)
        index, search = opened(folder, flags)
    with serving(album_routes(folder, index, search)) as address:
        yield folder, index, address


def get(address, path, **parameters):
    """The status and the body of a URL, parsed if it is JSON."""
    line = f'GET {path}{"?" if parameters else ""}{urlencode(parameters)} HTTP/1.1'
    status, headers, body = answer(address, line.encode())
    return status, json.loads(body) if headers['Content-Type'] == 'application/json' else body


def test_the_page_and_its_data_are_served(served):
    folder, index, address = served
    assert get(address, '/')[0] == 200
    for name in re.findall(r'(?:href|src)="(?!data:|#)(.*?)"', get(address, '/')[1].decode()):
        assert get(address, f'/{name}')[0] == 200, name
    data = get(address, '/album.json')[1]
    assert data['folder'] == 'photos' and [photo['name'] for photo in data['photos']] == [
        entry.name for entry in index.entries]
    assert {photo['name'] for photo in data['photos']} >= set(EVIL) and len(data['photos']) == 12 + len(EVIL)
    assert data['photos'][0].keys() == {'name', 'caption', 'width', 'height'}
    assert len(data['problems']) == 1 and 'broken.jpg' in data['problems'][0]


def test_pictures_are_served_smaller_and_never_as_files(served):
    folder, index, address = served
    sizes = {}
    for number, entry in enumerate(index.entries):
        for path in '/thumbnail', '/picture':
            status, body = get(address, path, photo=number)
            picture = Image.open(io.BytesIO(body))
            assert status == 200 and picture.format == 'JPEG'
            sizes[entry.name, path] = picture.size
    assert sizes[EVIL[0], '/thumbnail'] == (320, 80) and sizes[EVIL[0], '/picture'] == (1600, 400)
    assert sizes['0.png', '/thumbnail'] == sizes['0.png', '/picture'] == (32, 24)


def test_a_search_and_a_photo_are_answered_as_json(served):
    folder, index, address = served
    found = get(address, '/search', q='A dogg: red car')[1]
    assert found['known'] == ['a', 'red', 'car'] and found['unknown'] == ['dogg'] and found['error'] is None
    assert found['nearest'] == {'dogg': ['dog']} and found['query'] == 'A dogg: red car'
    assert sorted(result['photo'] for result in found['results']) == list(range(len(index.entries)))
    assert 'empty' in get(address, '/search')[1]['error'] and get(address, '/search', q='zebra')[1]['results'] == []
    details = get(address, '/photo', photo=3, q='A dogg: red car')[1]
    assert [word['word'] for word in details['words']] == ['a', 'red', 'car'] and 0 < len(details['sentences']) <= 5
    assert all(0 <= word['box'][0] < word['box'][2] <= 1 for word in details['words'])
    assert get(address, '/photo', photo=3)[1] == {'words': [], 'sentences': details['sentences']}


@pytest.mark.parametrize('path', [
    '/thumbnail', '/thumbnail?photo=', '/thumbnail?photo=-1', '/thumbnail?photo=x', '/thumbnail?photo=99',
    '/picture?photo=../../etc/passwd', '/photo?photo=1e3', f'/photo?photo={"9" * 5000}', '/photo?q=dog',
    f'/photo?photo={quote("²")}', f'/photo?photo={quote("٣")}', '/search?q=%ff', '/search?q', '/search?&&',
    '/photo?photo=1%00', '/picture?photo=+1'])
def test_malformed_requests_are_refused(served, path):
    address = served[2]
    assert answer(address, f'GET {path} HTTP/1.1'.encode())[0] == 400


@pytest.mark.parametrize('path', [
    '/0.png', '/more/0.jpg', '/.imagernn-album/', '/picture/0', '/album.json?x=1', '/../0.png', '/search/',
    '/thumbnail/?photo=1'])
def test_nothing_else_is_served(served, path):
    assert answer(served[2], f'GET {path} HTTP/1.1'.encode())[0] == 404


def test_a_photo_that_is_gone_or_leads_out_by_now_is_not_found(photos, flags, network, tmp_path, capsys):
    write_photo(photos / 'a\n\x1b[1m.png', 1)
    index, search = opened(photos, flags)
    names = [entry.name for entry in index.entries]
    write_photo(tmp_path / 'secret.png', 1)
    for name in 'a\n\x1b[1m.png', '0.png', '1.png':
        (photos / name).unlink()
    (photos / '1.png').symlink_to(tmp_path / 'secret.png')
    (photos / '2.png').write_bytes(b'x')
    shutil.move(photos / 'more', tmp_path / 'moved')
    (photos / 'more').symlink_to(tmp_path / 'moved')
    with serving(album_routes(photos, index, search)) as address:
        for name in '0.png', '1.png', '2.png', 'more/0.jpg':
            for path in '/thumbnail', '/picture':
                assert get(address, path, photo=names.index(name))[0] == 404
        assert get(address, '/thumbnail', photo=names.index('3.png'))[0] == 200
        assert get(address, '/search', q='dog')[0] == 200
        capsys.readouterr()
        assert get(address, '/picture', photo=names.index('a\n\x1b[1m.png'))[0] == 404
        assert r'a\n\x1b[1m.png: is not there any more' in capsys.readouterr().err    # as text, not as commands


def test_200_searches_at_once_are_answered_alike(served):
    address = served[2]
    texts, found = ['a dog', 'two cats', 'the red car', 'zebra'], {}

    def ask(number):
        found[number] = get(address, '/search', q=texts[number % 4])

    threads = [threading.Thread(target=ask, args=[number]) for number in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 200
    for number, (status, body) in found.items():
        assert status == 200 and body == found[number % 4][1]


def test_the_program_says_where_it_serves_and_ends_quietly(photos, flags, tmp_path):
    """With a stub for the network, which the program takes from a module that runs before it."""
    (tmp_path / 'start.py').write_text(
        f'import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n'
        'from stub_network import StubNetwork, loader\nfrom imagernn.convnet import extraction\n'
        'extraction.load_network = loader(StubNetwork())\nfrom imagernn import album\nsys.exit(album.main())\n')
    with running('start.py', str(photos), '--no_browser', *flags, cwd=tmp_path) as process:
        assert process.stdout.readline() == f'{photos}: 12 photos\n'
        address = re.match(r'open (http://127\.0\.0\.1:\d+)/ in a browser', process.stdout.readline())[1]
        assert len(get(address, '/album.json')[1]['photos']) == 12
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0 and 'Traceback' not in process.stderr.read()

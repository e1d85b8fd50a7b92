"""The attention generator from end to end: trained, resumed, rewarded, evaluated, published, and used on photos."""

import json
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest
from datasets import checkpoint_named, train_flags, write_tiny_dataset
from driving import at, drive, signalling
from PIL import Image
from stub_network import StubNetwork, loader

import driver
import eval_sentence_predictions
import predict_on_images
from imagernn import Captioner, extract_features, publish, view
from imagernn.captioning import model as captioning_model
from imagernn.captioning.load import load_captioner
from imagernn.captioning.names import SIZES
from imagernn.convnet import extraction
from imagernn.convnet.extraction import boxes_of, parse_regions
from imagernn.corpus.features import open_features
from imagernn.errors import InputError
from imagernn.runs.checkpoint_file import load_checkpoint, save_checkpoint
from imagernn.web.results_page import page_data, read_result

KIND = 'grid:1x3'
BOXES = boxes_of(parse_regions(KIND))
ATTENTION = ['--generator', 'attention', '--attention_size', '5', '--features', 'regions.h5']
ORIGIN = {'network': 'lite0', 'layer': 'features'}


def write_regions(path, feats, dim=20, boxes=BOXES, order=None, **attributes):
    """A feature file with three regions for each row of feats; with order it lists the pictures, in that order."""
    regions = np.random.default_rng(5).random((len(feats), 3, dim), np.float32)
    rows = np.arange(len(feats)) if order is None else order
    with h5py.File(path, 'w') as file:
        file['feats'], file['regions'] = feats[rows], regions[rows]
        if boxes is not None:
            file['boxes'] = boxes
        if order is not None:
            file['pictures'] = [f'{row}.jpg' for row in rows]
        file.attrs.update({**ORIGIN, 'regions': KIND, **attributes})
    return path


def write_dataset(root):
    folder = write_tiny_dataset(root)
    write_regions(folder / 'regions.h5', np.load(folder / 'vgg_feats.npy'))
    return folder


@pytest.fixture
def root(tmp_path):
    write_dataset(tmp_path)
    return tmp_path


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Two models trained on the same words: with attention and without."""
    root = tmp_path_factory.mktemp('trained')
    write_dataset(root)
    flags = '--max_epochs', '15', '--solver', 'adam', '-l', '.02'
    assert driver.main(train_flags(root, *ATTENTION, *flags, '--tanhC_version', '1')) == 0
    assert driver.main(train_flags(root, '--features', 'regions.h5', *flags, '--fappend', 'plain')) == 0
    return root


@pytest.fixture
def checkpoint(trained):
    return checkpoint_named(trained, '_test_last')


@pytest.fixture
def plain(trained):
    return checkpoint_named(trained, '_plain_last')


# ---- training

def test_a_run_records_the_regions_and_counts_their_weights(trained, checkpoint):
    found = load_checkpoint(checkpoint)
    assert found['features'].items() >= {**ORIGIN, 'file': 'regions.h5', 'dim': 20, 'regions': KIND}.items()
    assert found['model']['Wregion'].shape == (20, 6) and found['model']['Wkey'].shape == (6, 5)
    assert found['history'][-1]['val_ppl2'] < found['history'][0]['val_ppl2']


def assert_same_ending(one, other):
    assert one['it'] == other['it'] and one['rng_state'] == other['rng_state']
    assert [h.get('val_ppl2') for h in one['history']] == [h.get('val_ppl2') for h in other['history']]
    for before, after in ((one['model'], other['model']), *((arrays, other['solver']['cache'][slot])
                                                           for slot, arrays in one['solver']['cache'].items())):
        assert before.keys() == after.keys()
        for name, w in before.items():
            np.testing.assert_array_equal(after[name], w, err_msg=name)


@pytest.mark.parametrize('more', [[], ['--self_critical_after', '0', '--self_critical_images', '6']],
                         ids=['words', 'rewards'])
def test_a_run_that_is_stopped_resumes_to_the_bit(root, trained, checkpoint, more):
    """Self-critical training begins with the trained model."""
    more = more and [*more, '--init_model_from', str(checkpoint)]
    flags = train_flags(root, *ATTENTION, *more)
    assert driver.main(flags) == 0
    last = checkpoint_named(root, 'last')
    whole = load_checkpoint(last)
    for path in last.parent.iterdir():
        path.unlink()
    assert drive(flags, before_update=at(9, signalling(signal.SIGTERM))) == 143
    assert load_checkpoint(last)['it'] == 10
    assert driver.main(['--resume', str(last)]) == 0
    assert_same_ending(whole, load_checkpoint(last))
    if more:
        assert np.isfinite([h['train_reward'] for h in whole['history']]).all()


def test_rows_are_found_by_the_names_of_the_pictures(root):
    feats = np.load(root / 'tiny' / 'vgg_feats.npy')
    write_regions(root / 'tiny' / 'shuffled.h5', feats, order=np.random.default_rng(0).permutation(len(feats)))
    for name in 'regions', 'shuffled':
        assert driver.main(train_flags(root, *ATTENTION, '--features', f'{name}.h5', '--fappend', name)) == 0
    assert_same_ending(*(load_checkpoint(checkpoint_named(root, f'_{name}_last')) for name in ('regions', 'shuffled')))


@pytest.mark.parametrize('image_at', ['first', 'every', 'both'])
def test_the_gradient_check_is_passed(root, image_at, capsys):
    assert driver.main(train_flags(root, *ATTENTION, '--image_at', image_at, '-a', '1')) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    names = captioning_model.shapes({'generator': 'attention', 'image_at': image_at}, 20,
                                    dict.fromkeys((*SIZES, 'attention_size'), 6), 9, 20)
    assert sorted(line.split()[0] for line in lines) == sorted(names)
    assert all(line.endswith('ok') for line in lines) and not (root / 'cv').exists()


@pytest.mark.parametrize('flags, words', [
    (['--features', 'vgg_feats.npy'], ['vgg_feats.npy: has no features of regions', '--regions windows', '--features']),
    (['--features', 'feats.h5'], ['feats.h5: has no features of regions']),
    (['--features', 'wide.h5'], ["'regions' have shape (20, 3)"]),
    (['--attention_size', '0'], ['--attention_size 0: must be at least 1']),
    (['--attention_size', '1000000'], ['--attention_size 1000000', 'at most 100000']),
    (['--word_encoding_size', '7'], ['--image_encoding_size 6 and --word_encoding_size 7', 'attention']),
])
def test_a_mistake_is_an_error_before_the_training(root, flags, words, capsys):
    with h5py.File(root / 'tiny' / 'feats.h5', 'w') as file:
        file['feats'] = np.load(root / 'tiny' / 'vgg_feats.npy')
    with h5py.File(root / 'tiny' / 'wide.h5', 'w') as file:
        file['feats'], file['regions'] = np.load(root / 'tiny' / 'vgg_feats.npy'), np.ones((20, 3))
    assert driver.main(train_flags(root, *ATTENTION, *flags)) == 2
    message = capsys.readouterr().err
    assert message.startswith('error: ') and all(word in message for word in words), message
    assert not (root / 'cv').exists()


def test_what_a_checkpoint_was_made_for_cannot_be_changed(root, trained, checkpoint, plain, capsys):
    flags = ['-o', str(root / 'cv'), '--worker_status_output_directory', str(root / 'status')]
    for more, words in ((['--resume', checkpoint, '--attention_size', '6'], '--attention_size 6'),
                        (['--resume', checkpoint, '--generator', 'lstm'], '--generator lstm'),
                        (['--init_model_from', plain, '--generator', 'attention'], '--generator attention'),
                        (['--init_model_from', checkpoint, '--attention_size', '6'], '--attention_size 6')):
        assert driver.main([*map(str, more), *flags, '-d', 'tiny', '--data_root', str(root)]) == 2
        assert f'error: {words}: {more[1]} was made with' in capsys.readouterr().err


def test_a_run_does_not_resume_on_other_regions(root, capsys):
    assert driver.main(train_flags(root, *ATTENTION)) == 0
    feats, last = np.load(root / 'tiny' / 'vgg_feats.npy'), str(checkpoint_named(root, 'last'))
    write_regions(root / 'tiny' / 'regions.h5', feats, regions='grid:3x1')
    assert driver.main(['--resume', last, '--max_epochs', '3']) == 2
    assert f'regions is grid:3x1, but was {KIND}' in capsys.readouterr().err
    write_regions(root / 'tiny' / 'regions.h5', feats, dim=21)
    assert driver.main(['--resume', last, '--max_epochs', '3']) == 2
    assert 'features of regions of size 21, but the checkpoint was trained on size 20' in capsys.readouterr().err


def test_a_model_without_attention_ignores_the_regions(root):
    for name in 'regions.h5', 'vgg_feats.npy':
        assert driver.main(train_flags(root, '--features', name, '--fappend', name[:3])) == 0
    found = [load_checkpoint(checkpoint_named(root, f'_{name}_last')) for name in ('reg', 'vgg')]
    assert_same_ending(*found)
    assert 'regions' not in found[0]['features']


# ---- evaluation

@pytest.fixture
def evaluate(trained, tmp_path):
    """Run the script; gives its result_struct, which the results page takes."""

    def run(checkpoint, *flags):
        path = tmp_path / 'result_struct.json'
        assert eval_sentence_predictions.main([str(checkpoint), '--data_root', str(trained), '--result_struct_filename',
                                               str(path), *map(str, flags)]) == 0
        read_result(path)
        return json.loads(path.read_text(encoding='utf-8'))

    return run


def captions_in(result):
    return [found for blob in result['imgblobs'] for found in blob.get('nbest', [blob['candidate']])]


@pytest.mark.parametrize('flags', [
    [], ['-b', '3'], ['-b', '4', '--nbest', '3'], ['-b', '4', '--beam_kind', 'pool', '--nbest', '2'],
    ['--temperature', '1'], ['--mbr_samples', '6', '--nbest', '2'], ['--num_threads', '3', '-b', '2']], ids=' '.join)
def test_a_result_says_where_each_word_looked(evaluate, checkpoint, flags):
    result = evaluate(checkpoint, *flags)
    assert result['regions'] == BOXES.tolist() and result['gtppl'] > 1
    captions = captions_in(result)
    assert len(captions) >= 3
    for caption in captions:
        weights = np.array(caption['attention'])
        assert weights.shape == (len(caption['word_logprobs']), 3) and (weights >= 0).all()
        np.testing.assert_allclose(weights.sum(axis=1), 1, atol=2e-4)
    assert len({json.dumps(caption['attention']) for caption in captions}) > 1


def test_with_several_captions_each_has_its_own_attention(evaluate, checkpoint):
    """The best of them has the one that it has alone."""
    alone, several = (evaluate(checkpoint, '-b', '4', '--nbest', nbest) for nbest in (1, 3))
    for one, blob in zip(captions_in(alone), several['imgblobs'], strict=True):
        assert blob['nbest'][0]['text'] == one['text']
        np.testing.assert_allclose(blob['nbest'][0]['attention'], one['attention'], atol=1.1e-4)
        assert blob['candidate'] == blob['nbest'][0]


def test_an_ensemble_looks_where_its_first_member_looks(evaluate, trained, checkpoint, plain, tmp_path, capsys):
    result = evaluate(checkpoint, '--ensemble', plain, '-b', '3')
    assert result['regions'] == BOXES.tolist() and all('attention' in caption for caption in captions_in(result))
    alone = [evaluate(one)['gtppl'] for one in (checkpoint, plain)]
    assert evaluate(checkpoint, '--ensemble', plain)['gtppl'] < max(alone)
    twice = evaluate(checkpoint, '--ensemble', checkpoint)
    assert twice['gtppl'] == pytest.approx(alone[0], rel=1e-5)
    assert [one['text'] for one in captions_in(twice)] == [one['text'] for one in captions_in(evaluate(checkpoint))]

    flags = ['--data_root', str(trained), '--result_struct_filename', str(tmp_path / 'r.json')]
    assert eval_sentence_predictions.main([str(plain), '--ensemble', str(checkpoint), *flags]) == 2
    assert f'{checkpoint}: attends to regions, and {plain} does not; name it first' in capsys.readouterr().err
    other = load_checkpoint(checkpoint)
    other['model']['Wregion'] = np.ones((21, 6), np.float32)
    save_checkpoint(tmp_path / 'other.h5', other)
    assert eval_sentence_predictions.main([str(checkpoint), '--ensemble', str(tmp_path / 'other.h5'), *flags]) == 2
    assert 'features of regions of size 21' in capsys.readouterr().err and not (tmp_path / 'r.json').exists()


def test_a_model_without_attention_says_nothing_of_regions(evaluate, plain):
    result = evaluate(plain)
    assert 'regions' not in result and not any('attention' in caption for caption in captions_in(result))


def test_regions_without_boxes_cannot_be_shown(evaluate, trained, checkpoint):
    write_regions(trained / 'tiny' / 'no boxes.h5', np.load(trained / 'tiny' / 'vgg_feats.npy'), boxes=None)
    result, usual = evaluate(checkpoint, '--features', 'no boxes.h5'), evaluate(checkpoint)
    assert 'regions' not in result and not any('attention' in caption for caption in captions_in(result))
    assert [one['text'] for one in captions_in(result)] == [one['text'] for one in captions_in(usual)]


def test_other_features_are_noted_or_refused(evaluate, trained, checkpoint, tmp_path, capsys):
    feats = np.load(trained / 'tiny' / 'vgg_feats.npy')
    write_regions(tmp_path / 'other.h5', feats, regions='grid:3x1')
    evaluate(checkpoint, '--features', tmp_path / 'other.h5')
    assert f'regions is grid:3x1, but was {KIND} when the checkpoint was trained' in capsys.readouterr().err
    flags = [str(checkpoint), '--data_root', str(trained), '--result_struct_filename', str(tmp_path / 'r.json')]
    write_regions(tmp_path / 'other.h5', feats, dim=19)
    assert eval_sentence_predictions.main([*flags, '--features', str(tmp_path / 'other.h5')]) == 2
    assert 'other.h5: features of regions of size 19, but' in capsys.readouterr().err
    assert eval_sentence_predictions.main([*flags, '--features', 'vgg_feats.npy']) == 2
    assert 'vgg_feats.npy: has no features of regions' in capsys.readouterr().err


def test_the_results_page_gets_the_regions(evaluate, checkpoint, tmp_path):
    result = evaluate(checkpoint, '-b', '2', '--nbest', '2', '--html', tmp_path / 'page.html')
    page = page_data([read_result(tmp_path / 'result_struct.json')], [(None, 'x')] * 3)
    np.testing.assert_allclose(page['files'][0]['regions'], result['regions'], atol=1e-4)
    assert all(image['captions'][0]['attention'] for image in page['images'])
    assert view.main([str(tmp_path / 'result_struct.json'), '--export', str(tmp_path / 'view.html')]) == 0
    for name in 'page.html', 'view.html':
        assert '"attention":"' in (tmp_path / name).read_text(encoding='utf-8')


# ---- photos

@pytest.fixture
def photos(tmp_path):
    """A folder of three pictures whose parts differ, with a tasks.txt that lists them."""
    folder, rng = tmp_path / 'photos', np.random.default_rng(0)
    folder.mkdir()
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (4, 6, 3), np.uint8)).resize((90, 60)).save(folder / f'{number}.png')
    (folder / 'tasks.txt').write_text('2.png\n0.png\n1.png', encoding='utf-8')
    return folder


@pytest.fixture(autouse=True)
def network(monkeypatch):
    """A stub of a network, in place of the one that scripts load."""
    network = StubNetwork()
    network.classifier = np.random.default_rng(0).normal(size=(20, 1000)).astype(np.float32), np.zeros((1, 1000))
    monkeypatch.setattr(extraction, 'load_network', loader(network))
    return network


def extracted(photos, *flags):
    assert extract_features.main([str(photos / 'tasks.txt'), '--output', str(photos / 'vgg_feats.h5'), '--dtype',
                                  'float32', *flags]) == 0
    return photos / 'vgg_feats.h5'


def test_photos_have_the_captions_of_their_extracted_features(photos, checkpoint, tmp_path, capsys):
    flags = ['-b', '3', '--nbest', '2', '--classes', '2', '--result_struct_filename', str(tmp_path / 'r.json')]
    assert predict_on_images.main([str(checkpoint), str(photos), *flags]) == 0
    direct = json.loads((tmp_path / 'r.json').read_text(encoding='utf-8'))
    extracted(photos, '--regions', KIND)
    assert predict_on_images.main([str(checkpoint), '-r', str(photos), *flags, '--html', str(tmp_path / 'r.html')]) == 0
    by_file = json.loads((tmp_path / 'r.json').read_text(encoding='utf-8'))
    assert direct['regions'] == by_file['regions'] == BOXES.tolist() and len(direct['imgblobs']) == 3
    one, other = ({Path(blob['img_path']).name: blob for blob in result['imgblobs']} for result in (direct, by_file))
    for name, blob in one.items():
        assert [each['name'] for each in blob['classes']] == [each['name'] for each in other[name]['classes']]
        for a, b in zip(blob['nbest'], other[name]['nbest'], strict=True):
            assert a['text'] == b['text'] and a['logprob'] == pytest.approx(b['logprob'], rel=1e-4)
            np.testing.assert_allclose(a['attention'], b['attention'], atol=1.1e-4)
    assert len(read_result(tmp_path / 'r.json').regions) == 3
    assert '"attention":"' in (tmp_path / 'r.html').read_text(encoding='utf-8')


@pytest.mark.parametrize('recorded, words', [
    (None, 'regions that it does not name'), ('', 'regions that it does not name'), (7, 'the regions 7, which are not'),
    ('crops:99x9', "the regions 'crops:99x9', which are not known")])
def test_photos_need_a_checkpoint_that_names_its_regions(photos, checkpoint, tmp_path, recorded, words, capsys):
    found = load_checkpoint(checkpoint)
    save_checkpoint(tmp_path / 'c.h5', {**found, 'features': {**ORIGIN, 'regions': recorded}})
    assert predict_on_images.main([str(tmp_path / 'c.h5'), str(photos)]) == 2
    assert f'c.h5: attends to {words}' in capsys.readouterr().err
    with pytest.raises(InputError, match=f'c.h5: attends to {words}'):
        Captioner.load(tmp_path / 'c.h5')
    extracted(photos, '--regions', KIND)    # with features it is as good as any other
    assert predict_on_images.main([str(tmp_path / 'c.h5'), '-r', str(photos)]) == 0
    assert len(read_result(photos / 'result_struct.json').regions) == 3


def test_a_folder_needs_features_of_the_right_regions(photos, checkpoint, capsys):
    path = extracted(photos)
    assert predict_on_images.main([str(checkpoint), '-r', str(photos)]) == 2
    assert f'{path}: has no features of regions' in capsys.readouterr().err
    extracted(photos, '--regions', 'grid:2x1', '--force')
    assert predict_on_images.main([str(checkpoint), '-r', str(photos)]) == 0
    assert f'{path}: regions is grid:2x1, but was {KIND} when' in capsys.readouterr().err
    with h5py.File(path, 'r+') as file:
        wide = np.ones((3, 2, 21), np.float32)
        del file['regions']
        file['regions'] = wide
    assert predict_on_images.main([str(checkpoint), '-r', str(photos)]) == 2
    assert 'features of regions of size 21, but the checkpoint was trained on size 20' in capsys.readouterr().err


def test_a_network_whose_regions_have_another_size_is_refused(photos, checkpoint, tmp_path, capsys):
    found = load_checkpoint(checkpoint)
    found['model']['Wregion'] = np.ones((19, 6), np.float32)
    save_checkpoint(tmp_path / 'c.h5', found)
    assert predict_on_images.main([str(tmp_path / 'c.h5'), str(photos)]) == 2
    assert 'lite0 gives regions of size 20 by its layer' in capsys.readouterr().err


def test_the_captioner_of_the_api_attends_to_regions(photos, checkpoint, network, capsys):
    assert predict_on_images.main([str(checkpoint), str(photos), '-b', '3']) == 0
    lines = capsys.readouterr().out.splitlines()
    captioner, paths = Captioner(load_captioner(checkpoint), network, 'features'), sorted(photos.glob('*.png'))
    assert [f'{path}: {captioner.caption(path, beam_size=3)}' for path in paths] == lines
    features = captioner.features(paths)
    np.testing.assert_allclose(features, open_features(extracted(photos, '--regions', KIND)).with_regions().rows(
        [1, 2, 0]), rtol=1e-5)
    assert captioner.features([]).shape == (0, 20 + 3 * 20) and captioner.captions([]) == []
    assert len(captioner.classes(paths, top=2)[0]) == 2


# ---- checkpoints

def test_a_published_checkpoint_keeps_its_regions(trained, checkpoint, photos, tmp_path, capsys):
    small, features = tmp_path / 'small.h5', trained / 'tiny' / 'regions.h5'
    assert publish.main([str(checkpoint), str(small)]) == 0
    assert load_captioner(small)['features'] == load_captioner(checkpoint)['features']
    assert predict_on_images.main([str(small), str(photos)]) == 0

    save_checkpoint(tmp_path / 'mute.h5', {**load_checkpoint(checkpoint), 'features': None})
    assert publish.main([str(tmp_path / 'mute.h5'), str(small), '--features', str(features)]) == 0
    assert load_captioner(small)['features'] == {**ORIGIN, 'regions': KIND}
    small.unlink()
    for change, words in (({'regions': 'grid:3x1'}, f'regions is grid:3x1, but was {KIND}'),
                          ({'dim': 19}, 'features of regions of size 19')):
        path = write_regions(tmp_path / 'other.h5', np.load(trained / 'tiny' / 'vgg_feats.npy'), **change)
        assert publish.main([str(checkpoint), str(small), '--features', str(path)]) == 2
        assert words in capsys.readouterr().err and not small.exists()


@pytest.mark.parametrize('name, w, words', [
    ('Wregion', np.ones((0, 6)), 'its Wregion is empty, of shape (0, 6)'),
    ('Wregion', np.ones((20, 7)), 'do not fit each other'),
    ('Wkey', np.ones((6, 4)), 'do not fit each other'),
    ('Wscore', np.ones((5, 2)), 'do not fit each other'),
    ('Wcontext', np.full((6, 24), np.nan), 'Wcontext holds numbers that are not finite'),
    ('Wquery', None, 'its parameters are')])
def test_a_checkpoint_whose_attention_does_not_fit_is_refused(checkpoint, tmp_path, name, w, words):
    found = load_checkpoint(checkpoint)
    del found['model'][name]
    if w is not None:
        found['model'][name] = w.astype(np.float32)
    save_checkpoint(tmp_path / 'c.h5', found)
    with pytest.raises(InputError) as caught:
        load_captioner(tmp_path / 'c.h5')
    assert f'{tmp_path / "c.h5"}: ' in str(caught.value) and words in str(caught.value)

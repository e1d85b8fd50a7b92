"""What feature files and checkpoints record of their data is compared with the data at hand, in every command."""

import json
import shutil

import h5py
import numpy as np
import pytest
from datasets import TINY, checkpoint_named, train_flags, write_tiny_dataset

import driver
import eval_sentence_predictions
import predict_on_images
from imagernn.corpus.captioned_images import getDataProvider
from imagernn.corpus.feature_writer import create_file, feature_file, finish, write_rows
from imagernn.corpus.features import open_features
from imagernn.errors import InputError
from imagernn.runs.checkpoint_file import load_checkpoint, save_checkpoint

VGG16 = {'network': 'vgg16', 'layer': 'fc7', 'weights': 'vgg16.npz', 'weights_sha256': '1' * 64, 'preprocessing': 'BGR'}
VGG19 = {**VGG16, 'network': 'vgg19', 'weights_sha256': '2' * 64}


def write_features(path, names, rows, missing=(), settings=VGG16):
    """A feature file as extract_features writes it, in which the rows of some pictures are not extracted."""
    partial = path.with_name(f'{path.name}.partial.h5')
    rows = np.asarray(rows, np.float32)
    create_file(partial, settings, names, 'float32', {'feats': rows[:1]})
    numbers = [number for number, name in enumerate(names) if name and name not in missing]
    with feature_file(partial) as file:
        write_rows(file, numbers, {'feats': rows[numbers]}, names)
    finish(partial, path, len(missing))
    return path


def images_of(root):
    return json.loads((root / 'tiny' / 'dataset.json').read_text(encoding='utf-8'))['images']


def write_images(root, images):
    (root / 'tiny' / 'dataset.json').write_text(json.dumps({'images': images}), encoding='utf-8')


def renumbered(images):
    """As a data set that is made again: imgid counts from 0."""
    return [{**image, 'imgid': imgid} for imgid, image in enumerate(images)]


@pytest.fixture
def root(tmp_path):
    """The tiny data set, with features that name their pictures."""
    folder = write_tiny_dataset(tmp_path)
    rows = np.load(folder / 'vgg_feats.npy')
    write_features(folder / 'vgg_feats.h5', [image['filename'] for image in images_of(tmp_path)], rows)
    (folder / 'vgg_feats.npy').unlink()
    return tmp_path


FEATURES = {f'{imgid}.jpg': np.array(TINY['features'][key], np.float32)
            for imgid, key in enumerate({**TINY['train_sentences'], **TINY['test_sentences']})}


def assert_features_are_the_pictures(root, **options):
    """Each image has the features of its own picture."""
    provider = getDataProvider('tiny', root, **options)
    for split in provider.getSplitSizes():
        for image in provider.iterImages(split):
            rows = provider.features.rows([image['imgid']])
            np.testing.assert_array_equal(rows[0], FEATURES[image['filename']])
    return provider


def evaluated(root, *flags, checkpoint=None):
    """The exit code of eval_sentence_predictions.py."""
    checkpoint = checkpoint or checkpoint_named(root, '')
    return eval_sentence_predictions.main([str(checkpoint), '--data_root', str(root), '--result_struct_filename',
                                           str(root / 'result.json'), *flags])


def result_of(root):
    return json.loads((root / 'result.json').read_text(encoding='utf-8'))


def assert_close(one, other):
    """The same model, but for rounding: the images of a batch are in the order of their numbers."""
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-3, atol=1e-5)


# ---- rows by name: data sets


CHANGES = {
    'other order': lambda images: images[::-1],
    'one picture fewer': lambda images: images[1:],
    'another split first': lambda images: sorted(images, key=lambda image: image['split']),
    'every third one': lambda images: images[::3],
}


@pytest.mark.parametrize('change', CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize('suffix', ['.h5', '.mat'])
def test_a_data_set_that_is_made_again_finds_its_rows_by_name(root, change, suffix):
    if suffix == '.mat':
        (root / 'tiny' / 'vgg_feats.h5').unlink()
        write_features(root / 'tiny' / 'vgg_feats.mat', list(FEATURES), list(FEATURES.values()))
    write_images(root, renumbered(change(images_of(root))))
    assert_features_are_the_pictures(root)


def test_training_sees_the_same_features_whatever_the_numbers(root):
    driver.main(train_flags(root))
    before = load_checkpoint(checkpoint_named(root, 'last'))
    images = images_of(root)
    write_images(root, [{**image, 'imgid': 1000 - image['imgid']} for image in images])
    assert driver.main(train_flags(root)) == 0
    after = load_checkpoint(checkpoint_named(root, 'last'))
    assert_close(before['model'], after['model'])
    assert evaluated(root) == 0
    found = [blob['candidate'] for blob in result_of(root)['imgblobs']]
    write_images(root, images)
    assert evaluated(root) == 0
    assert [blob['candidate'] for blob in result_of(root)['imgblobs']] == found


def test_a_picture_that_the_features_lack_is_an_error_in_every_command(root, capsys):
    driver.main(train_flags(root))
    images = images_of(root)
    images[3]['filename'] = 'new.jpg'
    write_images(root, images)
    capsys.readouterr()
    for command in (lambda: driver.main(train_flags(root)), lambda: evaluated(root),
                    lambda: driver.main(['--resume', str(checkpoint_named(root, 'last'))])):
        assert command() == 2
        message = capsys.readouterr().err
        assert "1 of the 20 pictures" in message and "'new.jpg'" in message
        assert "row 0 is of '0.jpg'" in message and f'extract {root}/tiny/dataset.json --weights' in message


def test_the_advice_keeps_the_features_that_are_there(root, capsys):
    images = images_of(root)
    write_images(root, [*images, {**images[0], 'imgid': 20, 'filename': 'new.jpg'}])
    assert driver.main(train_flags(root)) == 2
    message = capsys.readouterr().err
    assert 'Extract the missing ones: ' in message and '--force' not in message and '--dtype float32' in message


def named(*names):
    return [{'filename': name, 'imgid': imgid, 'split': 'train', 'sentences': [{'tokens': ['a']}]}
            for imgid, name in enumerate(names)]


SPELLINGS = {    # names in the feature file, images; the row of each
    'folder on one side': (['b.jpg', 'a.jpg'], [{**each, 'filepath': 'val2014'} for each in named('a.jpg', 'b.jpg')],
                           [1, 0]),
    'folder in the file': (['x/b.jpg', 'x/a.jpg'], named('a.jpg', 'b.jpg'), [1, 0]),
    'absolute in the file': (['/home/her/b.jpg', '/home/her/a.jpg'], named('a.jpg', 'b.jpg'), [1, 0]),
    'of Windows': (['x\\b.jpg', 'x\\a.jpg'], named('x/a.jpg', 'x/b.jpg'), [1, 0]),
    'dots': (['./b.jpg', 'x/../a.jpg'], named('a.jpg', './b.jpg'), [1, 0]),
    'of macOS': (['b.jpg', 'u\u0308.jpg'], named('\u00fc.jpg', 'b.jpg'), [1, 0]),
    'the same name in two folders': (['y/a.jpg', 'x/a.jpg'], named('x/a.jpg', 'y/a.jpg'), [1, 0]),
    'a picture twice': (['a.jpg', 'b.jpg', 'a.jpg'], named('b.jpg', 'a.jpg', 'a.jpg'), [1, 0, 2]),
    'gaps': (['', 'b.jpg', '', 'a.jpg'], named('a.jpg', 'b.jpg'), [3, 1]),
    'upper case': (['a.JPG', 'a.jpg'], named('a.jpg', 'a.JPG'), [1, 0]),
}


@pytest.mark.parametrize(('names', 'images', 'rows'), SPELLINGS.values(), ids=SPELLINGS)
def test_the_same_picture_in_another_spelling(tmp_path, names, images, rows):
    (tmp_path / 'tiny').mkdir()
    write_images(tmp_path, images)
    write_features(tmp_path / 'tiny' / 'vgg_feats.h5', names, np.arange(len(names), dtype=np.float32)[:, None] + 1)
    provider = getDataProvider('tiny', tmp_path)
    assert provider.features.rows([image['imgid'] for image in images]).ravel().tolist() == [row + 1 for row in rows]


STRANGERS = {
    'another folder': (['val/1.jpg', 'val/2.jpg'], ['train/1.jpg', 'train/2.jpg']),
    'which of two': (['1.jpg', '2.jpg'], ['x/1.jpg', 'y/1.jpg']),
    'which of the two in the file': (['x/1.jpg', 'y/1.jpg'], ['1.jpg']),
    'another ending': (['1.png'], ['1.jpg']),
    'the end of a name': (['a1.jpg'], ['1.jpg']),
    'rows without pictures': (['', '2.jpg'], ['']),
}


@pytest.mark.parametrize(('names', 'wanted'), STRANGERS.values(), ids=STRANGERS)
def test_another_picture_is_never_taken_for_it(tmp_path, names, wanted):
    (tmp_path / 'tiny').mkdir()
    write_images(tmp_path, named(*wanted))
    write_features(tmp_path / 'tiny' / 'vgg_feats.h5', names, np.ones((len(names), 1)))
    with pytest.raises(InputError, match=r'vgg_feats.h5: has no features of . of the . pictures .* is of '):
        getDataProvider('tiny', tmp_path)


def test_an_imgid_may_be_large_but_no_larger_than_it_can_be(root):
    images = images_of(root)
    for number, imgid in enumerate((2 ** 62, 10 ** 30)):
        images[number]['imgid'] = imgid
        write_images(root, images)
        if number == 0:
            assert_features_are_the_pictures(root)
    with pytest.raises(InputError, match='imgid 1000000.* too large'):
        getDataProvider('tiny', root)


def test_a_list_of_pictures_that_does_not_fit_the_rows_is_an_error(root):
    path = root / 'tiny' / 'vgg_feats.h5'
    with h5py.File(path, 'r+') as file:
        rows = file['feats'][1:]
        del file['feats']
        file['feats'] = rows
    with pytest.raises(InputError, match="of 19 images, but 'pictures' has 20"):
        open_features(path)


@pytest.mark.parametrize('pictures', [np.zeros((20, 4, 4)), np.arange(20), np.bytes_('a.jpg')])
def test_pictures_of_another_program_are_no_names(root, pictures):
    path = root / 'tiny' / 'vgg_feats.h5'
    with h5py.File(path, 'r+') as file:
        del file['pictures']
        file['pictures'] = pictures
    assert open_features(path).pictures is None
    assert_features_are_the_pictures(root)    # by imgid


@pytest.mark.parametrize('claim', ['pictures', 'extracted'])
def test_a_list_that_claims_more_than_the_file_holds_is_refused(root, claim):
    path = root / 'tiny' / 'vgg_feats.h5'
    with h5py.File(path, 'r+') as file:
        del file[claim]
        file.create_dataset(claim, (10 ** 12,), 'S8' if claim == 'pictures' else np.uint8, chunks=(10 ** 6,),
                            compression='gzip')
    with pytest.raises(InputError, match='claims'):
        open_features(path)


# ---- rows by name: a folder with tasks.txt


@pytest.fixture
def trained(root):
    assert driver.main(train_flags(root, '--max_epochs', '8', '--solver', 'adam', '-l', '.02')) == 0
    return root


def predicted(root, folder, *flags):
    """The exit code of predict_on_images.py -r."""
    return predict_on_images.main([str(checkpoint_named(root, '')), '-r', str(folder), *flags])


def captions_of(folder):
    result = json.loads((folder / 'result_struct.json').read_text(encoding='utf-8'))
    return {blob['img_path']: blob['candidate'] for blob in result['imgblobs']}


@pytest.fixture
def folder(tmp_path):
    """A folder with tasks.txt and the features of its pictures."""
    folder = tmp_path / 'photos'
    folder.mkdir()
    names = list(FEATURES)[:5]
    (folder / 'tasks.txt').write_text('\n'.join(names), encoding='utf-8')
    write_features(folder / 'vgg_feats.h5', names, [FEATURES[name] for name in names])
    return folder


@pytest.mark.parametrize('lines', [[3, 1, 0, 4, 2], [4, 2], [1, 1, 0]])
def test_captions_stay_with_their_pictures_when_tasks_txt_changes(trained, folder, lines, capsys):
    assert predicted(trained, folder) == 0
    before = captions_of(folder)
    names = list(before)
    (folder / 'tasks.txt').write_text('\n'.join(names[line] for line in lines), encoding='utf-8')
    assert predicted(trained, folder) == 0
    assert captions_of(folder) == {names[line]: before[names[line]] for line in lines}
    capsys.readouterr()
    np.save(folder / 'v.npy', [FEATURES[names[line]] for line in lines])    # the same from a file without names
    assert predicted(trained, folder, '--features', 'v.npy') == 0
    for name, found in captions_of(folder).items():
        assert found['text'] == before[name]['text'] and found['logprob'] == pytest.approx(before[name]['logprob'])


def test_a_line_without_features_names_the_first_rows_picture(trained, folder, capsys):
    (folder / 'tasks.txt').write_text('0.jpg\nkoala.jpg\n', encoding='utf-8')
    assert predicted(trained, folder) == 2
    message = capsys.readouterr().err
    assert "1 of the 2 pictures" in message and "'koala.jpg'" in message and "row 0 is of '0.jpg'" in message
    assert f'extract {folder}/tasks.txt' in message and '--force' in message
    assert not (folder / 'result_struct.json').exists()


# ---- rows that were not extracted


def without(root, *missing):
    write_features(root / 'tiny' / 'vgg_feats.h5', list(FEATURES), list(FEATURES.values()), missing)


def test_images_without_features_are_left_out_with_a_count(root, capsys):
    without(root, '0.jpg', '5.jpg', '14.jpg', '17.jpg')
    provider = assert_features_are_the_pictures(root)
    assert provider.getSplitSizes() == {'train': 12, 'val': 2, 'test': 2}
    message = capsys.readouterr().err
    assert '4 of the 20 images' in message and '(2 of train, 1 of val, 1 of test)' in message
    assert "'0.jpg'" in message and f'extract {root}/tiny/dataset.json' in message and '--force' not in message
    assert driver.main(train_flags(root)) == 0
    out, err = capsys.readouterr()
    assert 'warning: ' in err and '4 of the 20 images' in err and '60 training sentences' in out
    assert evaluated(root) == 0
    assert '4 of the 20 images' in capsys.readouterr().err
    assert [blob['imgid'] for blob in result_of(root)['imgblobs']] == [18, 19]


def test_they_are_an_error_with_on_error_stop(root, capsys):
    driver.main(train_flags(root))
    without(root, '19.jpg')
    capsys.readouterr()
    for command in (lambda: driver.main(train_flags(root, '--on_error', 'stop')),
                    lambda: evaluated(root, '--on_error', 'stop')):
        assert command() == 2
        message = capsys.readouterr().err
        assert message.startswith('error: ') and '1 of the 20 images' in message


def test_without_any_features_or_a_whole_split_nothing_is_trained(root, capsys):
    without(root, '14.jpg', '15.jpg', '16.jpg')
    assert driver.main(train_flags(root)) == 2
    assert "no images in split 'val'" in capsys.readouterr().err
    without(root, *FEATURES)
    assert driver.main(train_flags(root)) == 2
    assert '20 of the 20 images' in capsys.readouterr().err


def test_rows_of_zeros_count_where_the_file_does_not_say_that_they_are_none(root):
    shutil.rmtree(root / 'tiny')
    folder = write_tiny_dataset(root)
    rows = np.load(folder / 'vgg_feats.npy')
    rows[:3] = 0
    np.save(folder / 'vgg_feats.npy', rows)
    assert getDataProvider('tiny', root).getSplitSizes() == {'train': 14, 'val': 3, 'test': 3}


@pytest.mark.parametrize('suffix', ['.h5', '.mat'])
def test_a_photo_without_features_is_skipped_and_named(trained, folder, suffix, capsys):
    assert predicted(trained, folder) == 0
    before = captions_of(folder)
    capsys.readouterr()
    (folder / 'vgg_feats.h5').unlink()
    names = list(before)
    features = folder / f'vgg_feats{suffix}'
    write_features(features, names, [FEATURES[name] for name in names], ['1.jpg'])
    assert predicted(trained, folder) == 0
    del before['1.jpg']
    assert captions_of(folder) == before
    out, err = capsys.readouterr()
    assert 'skipped: 1.jpg: ' in err and 'row 1' in err and '1.jpg: ' not in out
    assert predicted(trained, folder, '--on_error', 'stop') == 2
    assert capsys.readouterr().err.startswith('error: 1.jpg: ')
    features.unlink()
    write_features(folder / 'vgg_feats.h5', names, [FEATURES[name] for name in names], names)
    assert predicted(trained, folder) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith('error: ')


# ---- features of another network


OTHERS = {'network': VGG19, 'layer': {**VGG16, 'layer': 'fc6'}, 'weights_sha256': {**VGG16, 'weights_sha256': '3' * 64},
          'preprocessing': {**VGG16, 'preprocessing': 'RGB'}}


@pytest.mark.parametrize('key', OTHERS)
def test_features_of_another_origin_are_noted(trained, folder, key, capsys):
    settings = OTHERS[key]
    names = list(FEATURES)
    write_features(trained / 'tiny' / 'other.h5', names, list(FEATURES.values()), settings=settings)
    write_features(folder / 'vgg_feats.h5', names, list(FEATURES.values()), settings=settings)
    start = ['--init_model_from', str(checkpoint_named(trained, '')), '--features', 'other.h5', '--fappend', 'second']
    capsys.readouterr()
    for command in (lambda: evaluated(trained, '--features', 'other.h5'), lambda: predicted(trained, folder),
                    lambda: driver.main(train_flags(trained, *start))):
        assert command() == 0
        notes = [line for line in capsys.readouterr().err.splitlines() if 'but was' in line]
        assert f'{key} is {settings[key]}, but was {VGG16[key]} when the checkpoint was trained' in '\n'.join(notes)
        assert len(notes) == len([name for name in OTHERS if settings[name] != VGG16[name]])


def test_the_same_origin_and_an_unknown_one_are_not_noted(trained, capsys):
    np.save(trained / 'tiny' / 'other.npy', list(FEATURES.values()))
    capsys.readouterr()
    assert evaluated(trained) == evaluated(trained, '--features', 'other.npy') == 0
    assert 'but was' not in capsys.readouterr().err


# ---- resuming on changed data


def other_sentences(images):
    for image in images:
        image['sentences'] = [{'tokens': ['autre', 'phrase', str(image['imgid'])]}]


def one_word(images):
    images[2]['sentences'][1]['tokens'][0] = 'zebra'


def other_split(images):
    images[0]['split'], images[14]['split'] = 'val', 'train'


def other_order(images):
    images[0], images[1] = images[1], images[0]


def fewer_sentences(images):
    images[4]['sentences'].pop()


def other_pictures(images):
    images[0]['filename'], images[1]['filename'] = '1.jpg', '0.jpg'


CHANGED = {
    'other sentences': (other_sentences, ['train has 14 sentences, not 70', 'val has 3 sentences, not 15']),
    'one word': (one_word, ['train has other sentences']),
    'other split': (other_split, ['train', 'val has other']),
    'other order': (other_order, ['train has other sentences', 'train has other pictures, or in another order']),
    'fewer sentences': (fewer_sentences, ['train has 69 sentences, not 70']),
    'other pictures': (other_pictures, ['train has other pictures, or in another order']),
}


@pytest.mark.parametrize('resume', ['auto', 'last'])
@pytest.mark.parametrize(('change', 'told'), CHANGED.values(), ids=CHANGED)
def test_a_run_does_not_resume_on_changed_data_unless_told_to(root, change, told, resume, capsys):
    driver.main(train_flags(root))
    last, best = checkpoint_named(root, 'last'), checkpoint_named(root, '')
    before = {path: path.read_bytes() for path in (root / 'cv').iterdir()}
    images = images_of(root)
    change(images)
    write_images(root, images)
    flags = train_flags(root, '--max_epochs', '3', '--resume', 'auto' if resume == 'auto' else str(last))
    capsys.readouterr()
    assert driver.main(flags) == 2
    message = capsys.readouterr().err
    assert message.startswith('error: ') and '--allow_changed_data' in message
    assert str(last) in message or str(best) in message
    assert [words for words in told if words not in message] == []
    assert {path: path.read_bytes() for path in (root / 'cv').iterdir() if path.suffix == '.h5'} == {
        path: contents for path, contents in before.items() if path.suffix == '.h5'}


def test_told_to_it_resumes_and_looks_for_the_best_again(root, capsys):
    driver.main(train_flags(root))
    images = images_of(root)
    one_word(images)
    write_images(root, images)
    last = checkpoint_named(root, 'last')
    checkpoint = load_checkpoint(last)
    save_checkpoint(last, {**checkpoint, 'top_val_ppl2': 1.5})    # better than anything on the changed data
    assert driver.main(['--resume', str(last), '--max_epochs', '3', '--allow_changed_data']) == 0
    assert 'note: ' in (err := capsys.readouterr().err) and 'train has other sentences' in err
    assert load_checkpoint(last)['top_val_ppl2'] > 1.5 and load_checkpoint(last)['it'] == 21
    assert driver.main(['--resume', str(last), '--max_epochs', '4']) == 0    # these are its data by now


def test_a_finished_run_has_no_best_model_on_changed_data(root, capsys):
    driver.main(train_flags(root))
    images = images_of(root)
    one_word(images)
    write_images(root, images)
    capsys.readouterr()
    assert driver.main(['--resume', str(checkpoint_named(root, 'last')), '--allow_changed_data']) == 0
    assert 'best perplexity' not in capsys.readouterr().out


def test_a_data_set_of_which_no_word_is_known_never_gives_the_best_checkpoint(root, capsys):
    driver.main(train_flags(root))
    images = images_of(root)
    other_sentences(images)
    write_images(root, images)
    best = {path.name for path in (root / 'cv').glob('*.h5')}
    flags = ['--resume', str(checkpoint_named(root, 'last')), '--max_epochs', '3', '--allow_changed_data']
    assert driver.main(flags) == 2
    assert 'the vocabulary has none of the' in capsys.readouterr().err
    assert {path.name for path in (root / 'cv').glob('*.h5')} == best


@pytest.mark.parametrize('settings', [VGG19, VGG16], ids=['another network', 'other values'])
def test_changed_features_stop_a_resumed_run(root, settings, capsys):
    driver.main(train_flags(root))
    write_features(root / 'tiny' / 'vgg_feats.h5', list(FEATURES), np.array(list(FEATURES.values()))[:, ::-1],
                   settings=settings)
    assert driver.main(['--resume', str(checkpoint_named(root, 'last')), '--max_epochs', '3']) == 2
    message = capsys.readouterr().err
    assert ('network is vgg19, but was vgg16' if settings is VGG19 else 'the features have other values') in message


def test_so_do_images_that_have_lost_their_features(root, capsys):
    driver.main(train_flags(root))
    without(root, '3.jpg')
    assert driver.main(['--resume', str(checkpoint_named(root, 'last')), '--max_epochs', '3']) == 2
    assert 'train has 13 images, not 14' in capsys.readouterr().err


def harmless(images):
    """Nothing that training reads: the test split, other fields, and numbers where the features have names."""
    images[-1]['sentences'].pop()
    del images[-2]
    for image in images:
        image.update(imgid=500 - image['imgid'], cocoid=7)


def test_what_training_does_not_read_may_change(root, capsys):
    driver.main(train_flags(root, '--max_epochs', '3'))
    whole = load_checkpoint(checkpoint_named(root, 'last'))
    shutil.rmtree(root / 'cv')
    driver.main(train_flags(root))
    images = images_of(root)
    harmless(images)
    write_images(root, images)
    last = checkpoint_named(root, 'last')
    features = {image['filename']: FEATURES[image['filename']] for image in images[::-1]}
    write_features(root / 'tiny' / 'vgg_feats.h5', list(features), list(features.values()))
    assert driver.main(['--resume', str(last), '--max_epochs', '3']) == 0
    assert_close(whole['model'], load_checkpoint(last)['model'])


def test_a_checkpoint_without_a_fingerprint_resumes_with_a_note(root, capsys):
    driver.main(train_flags(root))
    last = checkpoint_named(root, 'last')
    old = load_checkpoint(last)
    del old['fingerprint'], old['params']['val_share'], old['params']['on_error']
    save_checkpoint(last, old)
    write_features(root / 'tiny' / 'vgg_feats.h5', list(FEATURES), list(FEATURES.values()), settings=VGG19)
    assert driver.main(['--resume', str(last), '--max_epochs', '3']) == 0
    err = capsys.readouterr().err
    assert f'note: {last}: does not record its training data' in err and 'network is vgg19, but was vgg16' in err


@pytest.mark.parametrize('fingerprint', [
    {}, {'train': 3}, {'train': {'images': 'x' * 1000}}, {'features': {'origin': [], 'values': None}},
    {'val': {'text': {'a': [1]}}}])
def test_a_forged_fingerprint_is_other_data(root, fingerprint, capsys):
    driver.main(train_flags(root))
    last = checkpoint_named(root, 'last')
    save_checkpoint(last, {**load_checkpoint(last), 'fingerprint': fingerprint})
    assert driver.main(['--resume', str(last), '--max_epochs', '3']) == 2
    message = capsys.readouterr().err
    assert 'the training data have changed' in message and len(message) < 1500


# ---- words outside the vocabulary


def test_training_reports_what_the_vocabulary_drops_and_suggests_a_threshold(root, capsys):
    images = images_of(root)
    tokens = [word for image in images if image['split'] == 'train' for s in image['sentences'] for word in s['tokens']]
    rare = [word for word in tokens if tokens.count(word) < 8]
    assert driver.main(train_flags(root, '--word_count_threshold', '8')) == 0
    out, err = capsys.readouterr()
    num_words = len(set(tokens))
    assert f'the vocabulary has {num_words - len(set(rare))} of {num_words} different words' in out
    assert f'{len(rare) / len(tokens):.1%} of the text' in out
    assert f'{len(rare)} of {len(tokens)} tokens of the train split' in err
    suggested = int(err.partition('--word_count_threshold ')[2].split()[0])
    kept = [[word for word in tokens if tokens.count(word) >= threshold] for threshold in (suggested, suggested + 1)]
    assert len(kept[0]) >= .9 * len(tokens) > len(kept[1])
    assert driver.main(train_flags(root, '--word_count_threshold', str(suggested))) == 0
    assert 'of the train split' not in capsys.readouterr().err


def test_where_no_word_stays_a_threshold_is_suggested(root, capsys):
    assert driver.main(train_flags(root, '--word_count_threshold', '100000')) == 2
    assert 'lower it to 1' in capsys.readouterr().err


def test_a_perplexity_that_leaves_out_many_tokens_says_so(root, capsys):
    driver.main(train_flags(root))
    images = images_of(root)
    tokens = [image['sentences'][0]['tokens'] for image in images if image['split'] == 'test']
    for image in images:
        image['sentences'] = image['sentences'][:1]
    for words in tokens:
        words[1:] = ['zebra'] * 3
    write_images(root, images)
    assert load_checkpoint(checkpoint_named(root, ''))['wordtoix'].keys() >= {words[0] for words in tokens}
    capsys.readouterr()
    assert evaluated(root) == 0
    assert 'note: 9 of 12 tokens of the test split (75.0%)' in capsys.readouterr().err
    assert evaluated(root, '-m', '1') == 0
    assert 'note: 3 of 4 tokens' in capsys.readouterr().err


def test_a_perplexity_of_no_known_word_is_an_error_before_the_work(root, capsys):
    driver.main(train_flags(root))
    images = images_of(root)
    other_sentences(images)
    write_images(root, images)
    start = ['--init_model_from', str(checkpoint_named(root, '')), '--fappend', 'second']
    capsys.readouterr()
    for command in (lambda: evaluated(root), lambda: driver.main(train_flags(root, *start))):
        assert command() == 2 and 'the vocabulary has none of the' in capsys.readouterr().err
    assert not (root / 'result.json').exists() and not list((root / 'cv').glob('*second*.h5'))


def test_captions_without_words_are_no_unknown_words(root):
    images = images_of(root)
    for image in images:
        if image['split'] != 'train':
            image['sentences'] = [{'tokens': []}]
    write_images(root, images)
    assert driver.main(train_flags(root)) == 0 and evaluated(root) == 0


# ---- a data set without a val split


@pytest.fixture
def unsplit(root):
    """All images are training images."""
    write_images(root, [{**image, 'split': 'train'} for image in images_of(root)])
    return root


def test_a_missing_val_split_is_reported_with_the_flag_that_takes_one(unsplit, capsys):
    assert driver.main(train_flags(unsplit)) == 2
    message = capsys.readouterr().err
    assert "no images in split 'val'" in message and '--val_share .1' in message and 'Choose' not in message


def test_val_share_takes_one_by_the_seed_and_evaluation_knows_it(unsplit, capsys):
    assert driver.main(train_flags(unsplit, '--val_share', '.2')) == 0
    out = capsys.readouterr().out
    assert '80 training sentences' in out
    assert f'{checkpoint_named(unsplit, "")} --data_root {unsplit} --split val' in out
    params = load_checkpoint(checkpoint_named(unsplit, ''))['params']
    assert params['val_share'] == .2
    assert evaluated(unsplit, '--split', 'val') == 0
    val = [blob['imgid'] for blob in result_of(unsplit)['imgblobs']]
    history = load_checkpoint(checkpoint_named(unsplit, ''))['history'][-1]
    assert result_of(unsplit)['gtppl'] == pytest.approx(history['val_ppl2'], rel=1e-6)
    assert evaluated(unsplit, '--split', 'train') == 0
    assert sorted(val + [blob['imgid'] for blob in result_of(unsplit)['imgblobs']]) == list(range(20)) and len(val) == 4
    assert evaluated(unsplit) == 2
    assert "'test'" in (message := capsys.readouterr().err) and '--split' in message
    driver.main(train_flags(unsplit, '--val_share', '.2', '--seed', '1'))
    assert evaluated(unsplit, '--split', 'val') == 0
    assert [blob['imgid'] for blob in result_of(unsplit)['imgblobs']] != val


def test_a_resumed_run_has_the_same_val_split(unsplit, capsys):
    driver.main(train_flags(unsplit, '--val_share', '.2', '--max_epochs', '3'))
    whole = load_checkpoint(checkpoint_named(unsplit, 'last'))
    shutil.rmtree(unsplit / 'cv')
    driver.main(train_flags(unsplit, '--val_share', '.2'))
    last = checkpoint_named(unsplit, 'last')
    assert driver.main(['--resume', str(last), '--max_epochs', '3', '--val_share', '.3']) == 2
    assert '--val_share 0.3' in capsys.readouterr().err
    assert driver.main(['--resume', str(last), '--max_epochs', '3']) == 0
    resumed = load_checkpoint(last)
    assert all(np.array_equal(whole['model'][name], resumed['model'][name]) for name in whole['model'])


@pytest.mark.parametrize(('share', 'words'), [
    ('1', 'below 1'), ('-.1', 'at least 0'), ('nan', 'finite'), ('.99', 'leaves none to train on')])
def test_a_share_that_cannot_be(unsplit, share, words, capsys):
    assert driver.main(train_flags(unsplit, f'--val_share={share}')) == 2
    assert words in capsys.readouterr().err


def test_a_data_set_with_a_val_split_keeps_it(root, capsys):
    assert driver.main(train_flags(root, '--val_share', '.2')) == 2
    assert 'has a val split of 3 images' in capsys.readouterr().err


def test_a_tiny_share_takes_one_image(unsplit):
    provider = getDataProvider('tiny', unsplit)
    provider.hold_out_val(1e-9, 0)
    assert provider.getSplitSizes() == {'train': 19, 'val': 1}


@pytest.mark.parametrize('forged', [
    {'val_share': 'x'}, {'val_share': 3.}, {'val_share': .2, 'seed': 'x'}, {'val_share': -.5}])
def test_a_forged_share_is_an_error(unsplit, forged, capsys):
    driver.main(train_flags(unsplit, '--val_share', '.2'))
    best = load_checkpoint(checkpoint_named(unsplit, ''))
    best['params'].update(forged)
    save_checkpoint(unsplit / 'forged.h5', best)
    assert evaluated(unsplit, '--split', 'val', checkpoint=unsplit / 'forged.h5') == 2
    assert 'expected a share between 0 and 1' in capsys.readouterr().err

"""train-ranker and evaluate-ranker, as users run them: what a run learns, how it resumes, and what they refuse."""

import json
import re
import shutil

import h5py
import kill_driver
import numpy as np
import pytest
from datasets import checkpoint_named, train_flags, write_tiny_dataset
from driving import Provider, at, nothing, stop

import driver
from imagernn import view
from imagernn.corpus.captioned_images import getDataProvider
from imagernn.metrics.retrieval import ranks, retrieval_scores
from imagernn.ranking import evaluate, train
from imagernn.ranking.names import RANKERS
from imagernn.ranking.ranker import Ranker
from imagernn.runs.checkpoint_file import load_checkpoint, save_checkpoint
from imagernn.web.ranking_page import checked_ranking

BOXES = np.float32([[0, 0, 1, 1], [0, 0, .5, 1], [.5, 0, 1, 1]])
ORIGIN = {'network': 'lite0', 'layer': 'features', 'regions': 'windows'}
D = 20


def write_regions(path, whole, boxes=BOXES, **attributes):
    """A feature file with three regions for each row of whole: the whole picture, and a half of its features each."""
    left = np.arange(whole.shape[1]) < whole.shape[1] // 2
    with h5py.File(path, 'w') as file:
        file['feats'], file['regions'] = whole, np.stack([whole, whole * left, whole * ~left], axis=1)
        if boxes is not None:
            file['boxes'] = boxes
        file.attrs.update({**ORIGIN, **attributes})
    return path


def write_dataset(root):
    folder = write_tiny_dataset(root)
    write_regions(folder / 'regions.h5', np.load(folder / 'vgg_feats.npy'))
    return folder


def ranker_flags(root, ranker, *more):
    """The flags of a short run whose every file goes under root."""
    return ['--dataset', 'tiny', '--data_root', str(root), '--features', 'regions.h5', '--ranker', ranker, '--fappend',
            ranker, '-o', str(root / 'cv'), '--worker_status_output_directory', str(root / 'status'),
            '--word_encoding_size', '6', '--hidden_size', '8', '--batch_size', '10', '--word_count_threshold', '2',
            '--learning_rate', '.02', '--max_epochs', '2', *more]


@pytest.fixture
def root(tmp_path):
    write_dataset(tmp_path)
    return tmp_path


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Both rankers and a captioner, trained on the same data set."""
    root = tmp_path_factory.mktemp('trained')
    write_dataset(root)
    for ranker in RANKERS:
        assert train.main(ranker_flags(root, ranker, '--max_epochs', '15')) == 0
    assert driver.main(train_flags(root, '--max_epochs', '1', '--fappend', 'captioner')) == 0
    return root


@pytest.fixture
def last(trained):
    """ranker -> its last checkpoint."""
    return {ranker: checkpoint_named(trained, f'_{ranker}_last') for ranker in RANKERS}


def load(path):
    return load_checkpoint(path, 'ranking')


def refused(main, flags, capsys):
    """The one line that a command prints when it refuses these flags."""
    capsys.readouterr()
    assert main([*map(str, flags)]) == 2
    message, = capsys.readouterr().err.splitlines()
    assert message.startswith('error: ')
    return message


# ---- training

@pytest.mark.parametrize('ranker', RANKERS)
def test_a_run_learns_its_training_images(trained, last, ranker, tmp_path, capsys):
    """On them a random model has a recall sum of about 210."""
    losses = [report['train_loss'] for report in load(last[ranker])['history']]
    assert np.mean(losses[-3:]) < .5 * np.mean(losses[:3])
    found = evaluated(trained, tmp_path, [last[ranker]], '--split', 'train')
    assert found['measures']['recall sum'] > 500


@pytest.mark.parametrize('ranker', RANKERS)
def test_a_checkpoint_holds_what_using_it_needs(trained, last, ranker):
    found = load(last[ranker])
    assert found['kind'] == 'ranking' and found['features'].items() >= {'file': 'regions.h5', 'dim': D}.items()
    assert found['features'].items() >= ({'network': 'lite0'} if ranker == 'sentences' else ORIGIN).items()
    assert found['model']['We'].shape == (D, 8) and found['standard']['mean'].shape == (1, D)
    assert found['history'][-1]['val_rsum'] == found['recall sum'] > 0
    best = checkpoint_named(trained, f'rsum{found["top_val_rsum"]:.1f}')
    assert load(best)['recall sum'] == found['top_val_rsum']


def ending(root):
    """All that a run comes to, but for times."""
    last = load(checkpoint_named(root, 'last'))
    best = load(last['best_checkpoint'])
    return {**last, 'params': {name: value for name, value in last['params'].items() if name != 'resume'},
            'history': [(report['iter'], report['val_rsum'], report['train_loss']) for report in last['history']],
            'best model': best['model'], 'best it': best['it']}


def run_until(it, flags):
    """train-ranker with these flags, stopped by SIGTERM after `it` updates."""
    state, solver, rng, provider, params = train.prepare(flags)
    watched = Provider(provider, state, rng, at(it - 1 - state.it, stop), nothing)
    assert train.train(state, solver, rng, watched, params) == 143 and state.it == it


@pytest.mark.parametrize('more', [[], ['--weight_average', '.9'], ['--dtype', 'float64', '--num_threads', '2']],
                         ids=' '.join)
@pytest.mark.parametrize('ranker', RANKERS)
def test_a_run_that_is_stopped_within_an_epoch_resumes_to_the_bit(root, ranker, more, capsys):
    flags = ranker_flags(root, ranker, '--max_epochs', '3', *more)
    assert train.main(flags) == 0
    whole = ending(root)
    shutil.rmtree(root / 'cv')
    run_until(10, flags)
    last = checkpoint_named(root, 'last')
    assert f'train-ranker --resume {last}' in capsys.readouterr().out
    run_until(12, ['--resume', str(last)])
    assert train.main(['--resume', 'auto', *flags]) == 0
    assert kill_driver.differences(whole, ending(root)) == []


def test_the_average_of_the_weights_is_what_is_evaluated_and_saved(root):
    assert train.main(ranker_flags(root, 'sentences', '--weight_average', '.9')) == 0
    found = load(checkpoint_named(root, 'last'))
    assert not np.array_equal(found['model']['We'], found['raw_model']['We'])


def test_a_diverging_run_is_aborted_or_rolled_back(root, capsys):
    flags = ranker_flags(root, 'sentences', '--encoder', 'rnn', '--similarity', 'dot', '--loss', 'hinge', '--solver',
                         'vanilla', '--grad_clip', '0', '--learning_rate', '1e30', '--num_threads', '1')
    with np.errstate(all='ignore'):
        assert train.main(flags) == 1
        assert 'aborted at iteration 1: ' in capsys.readouterr().err
        assert train.main([*flags, '--on_divergence', 'rollback']) == 1
    said = capsys.readouterr().err
    assert 'rolled back to iteration 0, with 1/2 of' in said and 'it rolled back 10 times before' in said


# ---- a run that starts from a checkpoint

def test_a_new_run_starts_from_weights_vocabulary_and_standard(root, last):
    np.save(root / 'tiny' / 'other.npy', 3 * np.load(root / 'tiny' / 'vgg_feats.npy'))
    old, flags = load(last['sentences']), ['--init_model_from', str(last['sentences']), '--dataset', 'tiny',
                                           '--data_root', str(root), '--features', 'other.npy']
    state, _, _, _, params = train.prepare([*flags, '--loss', 'hinge', '--margin', '.5'])
    assert kill_driver.differences(state.model, old['model']) == []
    assert state.it == 0 and state.history == [] and state.best is None
    for name in 'wordtoix', 'ixtoword', 'standard':
        assert kill_driver.differences(state.extra[name], old[name]) == []
    expected = {'ranker': 'sentences', 'hidden_size': 8, 'word_count_threshold': 2, 'loss': 'hinge', 'margin': .5}
    assert params.items() >= expected.items()
    assert train.main([*flags, *ranker_flags(root, 'sentences', '--max_epochs', '1')[6:]]) == 0


@pytest.mark.parametrize(('start', 'change', 'words'), [
    ('--resume', ['--hidden_size', '9'], '--hidden_size 9: '),
    ('--resume', ['--ranker', 'regions'], '--ranker regions: '),
    ('--resume', ['--encoder', 'lstm'], '--encoder lstm: '),
    ('--resume', ['--similarity', 'dot'], '--similarity dot: '),
    ('--resume', ['--pool', 'sum'], '--pool sum: '),
    ('--resume', ['--loss', 'hinge'], '--loss hinge: '),
    ('--resume', ['--batch_size', '11'], '--batch_size 11: '),
    ('--resume', ['--seed', '4'], '--seed 4: '),
    ('--resume', ['--solver', 'vanilla'], 'leave the flags of the solver out'),
    ('--init_model_from', ['--word_encoding_size', '7'], '--word_encoding_size 7: '),
    ('--init_model_from', ['--encoder', 'rnn'], '--encoder rnn: '),
])
def test_what_a_checkpoint_decides_cannot_be_changed(last, start, change, words, capsys):
    message = refused(train.main, [start, last['sentences'], *change], capsys)
    assert words in message and str(last['sentences']) in message


def test_a_run_does_not_resume_on_other_data(root, capsys):
    assert train.main(ranker_flags(root, 'regions')) == 0
    last, whole = checkpoint_named(root, 'last'), np.load(root / 'tiny' / 'vgg_feats.npy')
    write_regions(root / 'tiny' / 'regions.h5', whole, regions='grid:3x1')
    resume = ['--resume', last, '--max_epochs', '3']
    assert 'regions is grid:3x1, but was windows' in refused(train.main, resume, capsys)
    write_regions(root / 'tiny' / 'regions.h5', np.pad(whole, ((0, 0), (0, 1))))
    assert f'features of regions of size {D + 1}, but {last} was trained on size {D}' in refused(
        train.main, resume, capsys)
    write_regions(root / 'tiny' / 'regions.h5', 2 * whole)
    assert 'the training data have changed' in refused(train.main, resume, capsys)
    assert train.main([*map(str, resume), '--allow_changed_data']) == 0


# ---- data and flags that cannot be used

def rewrite(root, change):
    path = root / 'tiny' / 'dataset.json'
    data = json.loads(path.read_text(encoding='utf-8'))
    change(data['images'])
    path.write_text(json.dumps(data), encoding='utf-8')


def without_val(images):
    for image in images:
        image['split'] = 'train' if image['split'] == 'val' else image['split']


def test_a_data_set_without_val_can_give_a_share(root, capsys):
    rewrite(root, without_val)
    assert '--val_share .1' in refused(train.main, ranker_flags(root, 'sentences'), capsys)
    assert train.main(ranker_flags(root, 'sentences', '--val_share', '.3')) == 0
    last = checkpoint_named(root, 'last')
    found = evaluated(root, root, [last], '--split', 'val')    # the same images
    assert len(found['images']) == 5 and found['measures']['recall sum'] == round(load(last)['recall sum'], 1)


def test_an_epoch_of_few_images_has_as_many_iterations_as_sentences_of_each(root, capsys):
    """A batch has every image once at most."""
    assert train.main(ranker_flags(root, 'sentences', '--batch_size', '1000', '--max_epochs', '1')) == 0
    images = json.loads((root / 'tiny' / 'dataset.json').read_text(encoding='utf-8'))['images']
    counts = [len(image['sentences']) for image in images if image['split'] == 'train']
    assert f'{sum(counts) // len(counts)} iterations per epoch' in capsys.readouterr().out


def test_regions_need_features_of_regions(root, capsys):
    message = refused(train.main, ranker_flags(root, 'regions', '--features', 'vgg_feats.npy'), capsys)
    assert 'vgg_feats.npy: has no features of regions' in message and '--regions windows' in message
    assert train.main(ranker_flags(root, 'sentences', '--features', 'vgg_feats.npy', '--max_epochs', '1')) == 0


@pytest.mark.parametrize('ranker', RANKERS)
def test_features_that_are_not_finite_are_refused(root, ranker, capsys):
    whole = np.load(root / 'tiny' / 'vgg_feats.npy')
    whole[4, 7] = np.nan
    write_regions(root / 'tiny' / 'regions.h5', whole)
    assert 'regions.h5: the features of imgid 4 hold a value that is not finite' in refused(
        train.main, ranker_flags(root, ranker), capsys)


@pytest.mark.parametrize(('flags', 'words'), [
    (['--batch_size', '1'], '--batch_size 1'),
    (['--temperature', '0'], '--temperature 0'),
    (['--margin', '-1'], '--margin -1'),
    (['--drop_prob_image', '1'], '--drop_prob_image 1'),
    (['--hidden_size', '0'], '--hidden_size 0'),
    (['--eval_max_images', '1'], '--eval_max_images 1'),
    (['--dataset', 'absent'], 'absent'),
    (['--word_count_threshold', '1000'], '--word_count_threshold'),
])
def test_a_wrong_flag_is_a_message_and_exit_code_2(trained, flags, words, capsys):
    assert words in refused(train.main, ranker_flags(trained, 'sentences', *flags), capsys)


def test_each_trainer_names_the_commands_for_the_other_ones_checkpoints(trained, last, capsys):
    captioner = checkpoint_named(trained, 'captioner_last')
    for start in '--resume', '--init_model_from':
        message = refused(driver.main, [start, last['regions']], capsys)
        assert f'{last["regions"]}: is a checkpoint of the kind ranking' in message and 'train-ranker' in message
        message = refused(train.main, [start, captioner], capsys)
        assert f'{captioner}: is a checkpoint of the kind captioning' in message and 'driver.py' in message


# ---- evaluation

def evaluated(root, folder, checkpoints, *flags):
    """Run evaluate-ranker; gives its ranking_struct, which the page takes."""
    path = folder / 'ranking_struct.json'
    assert evaluate.main([*map(str, checkpoints), '--data_root', str(root), '--result_struct_filename', str(path),
                          *map(str, flags)]) == 0
    found = json.loads(path.read_text(encoding='utf-8'))
    checked_ranking(path, found)
    return found


@pytest.mark.parametrize('ranker', RANKERS)
def test_the_table_and_the_file_have_the_ranks_of_the_scores(trained, last, ranker, tmp_path, capsys):
    found = evaluated(trained, tmp_path, [last[ranker]])
    out = capsys.readouterr().out

    ranking, provider = Ranker.load(last[ranker]), getDataProvider('tiny', trained, 'regions.h5', regions=True)
    images = list(provider.iterImages('test'))
    sentences = [sentence['tokens'] for image in images for sentence in image['sentences']]
    image_of = np.repeat(np.arange(3), 5)
    S = ranking.scores(ranking.encode_images(provider.features.rows([17, 18, 19])),
                       ranking.encode_sentences(sentences))
    expected = retrieval_scores([ranks(S, image_of)])
    recalls = found['measures']
    assert recalls['recall sum'] == pytest.approx(expected['recall_sum'], abs=.06)
    for way in 'image to sentence', 'sentence to image':
        for name, key in (('R@1', 'R1'), ('R@5', 'R5'), ('R@10', 'R10'), ('median rank', 'median_rank')):
            value = expected[f'{way.replace(" ", "_")}_{key}']
            assert recalls[way][name] == pytest.approx(value, abs=.01)
            line, = re.findall(f'^{way} .*$', out, re.MULTILINE)
            assert f' {value:.1f}' in line
    assert f'recall sum {expected["recall_sum"]:.1f} (' in out

    assert [sentence['tokens'] for sentence in found['sentences']] == sentences
    for number, sentence in enumerate(found['sentences']):
        assert [sentence['tokens'][place] for place in sentence['known']] == ranking.known(sentences[number])[0]
        order = np.argsort(-S[:, number])
        assert [each['image'] for each in sentence['images']] == order.tolist()
        assert [each['score'] for each in sentence['images']] == pytest.approx(S[order, number], abs=1e-4)
    assert view.main([str(tmp_path / 'ranking_struct.json'), '--export', str(tmp_path / 'page.html')]) == 0
    assert 'tiny test: 3 images, 15 sentences' in (tmp_path / 'page.html').read_text(encoding='utf-8')


def test_columns_of_the_table_do_not_touch(trained, last, tmp_path, capsys):
    """Not even where all intervals are as wide as can be."""
    evaluated(trained, tmp_path, [last['sentences']], '--split', 'train')
    lines = capsys.readouterr().out.splitlines()
    assert all(line.count('  ') >= 3 and ')1' not in line for line in lines[:3])


def test_a_ranker_of_regions_says_where_it_sees_each_word(trained, last, tmp_path):
    found = evaluated(trained, tmp_path, [last['regions']])
    assert found['regions'] == BOXES.tolist()
    sentence = found['sentences'][0]
    pair = sentence['images'][0]
    assert len(pair['regions']) == len(pair['scores']) == len(sentence['known']) + 1    # and END
    assert np.mean(pair['scores']) == pytest.approx(pair['score'], abs=1e-3)
    kept = evaluated(trained, tmp_path, [last['regions']], '--beta', '100', '0')['sentences'][0]['images'][0]
    assert len(set(kept['regions'])) == 1
    assert 'scores' not in evaluated(trained, tmp_path, [last['sentences']])['sentences'][0]['images'][0]

    write_regions(tmp_path / 'no boxes.h5', np.load(trained / 'tiny' / 'vgg_feats.npy'), boxes=None)
    blind = evaluated(trained, tmp_path, [last['regions']], '--features', tmp_path / 'no boxes.h5')
    assert blind['regions'] == [] and blind['measures'] == found['measures']


def test_an_ensemble_of_both_kinds_averages_their_scores(trained, last, tmp_path):
    alone = [evaluated(trained, tmp_path, [last[ranker]]) for ranker in RANKERS]
    both = evaluated(trained, tmp_path, [last[ranker] for ranker in RANKERS])
    assert both['params']['checkpoints'] == [str(last[ranker]) for ranker in RANKERS]
    assert both['regions'] == BOXES.tolist()    # of the one that has them
    assert both['sentences'][0]['images'][0]['scores']
    assert all(both['sentences'] != one['sentences'] for one in alone)
    twice = evaluated(trained, tmp_path, [last['regions']] * 2)
    assert twice['measures'] == alone[1]['measures']
    assert evaluated(trained, tmp_path, [last['regions']], '--num_threads', '3')['images'] == alone[1]['images']


def test_images_are_ranked_in_folds(trained, last, tmp_path):
    whole, folds = (evaluated(trained, tmp_path, [last['sentences']], '--split', 'train', '--fold', fold)['measures']
                    for fold in (0, 7))
    assert folds['recall sum'] >= whole['recall sum']
    test, folded = (evaluated(trained, tmp_path, [last['sentences']], '--fold', fold)['measures'] for fold in (0, 2))
    assert folded['sentence to image']['R@5'] == 100 and folded != test    # two images; the third is left out


# ---- evaluation with the boxes of Entities

def write_entities(path, imgids, root):
    """The first two words of each sentence are people, on the left; the last one is an animal, anywhere."""
    images = json.loads((root / 'tiny' / 'dataset.json').read_text(encoding='utf-8'))['images']
    lines = [{'imgid': imgid, 'filename': f'{imgid}.jpg', 'split': 'test', 'boxes': {'1': [[0, 0, .5, 1]],
                                                                                   '2': [[0, 0, 1, 1]]},
              'sentences': [{'words': sentence['tokens'], 'sentid': 5 * imgid + number, 'phrases': [
                  {'id': 1, 'type': ['people'], 'start': 0, 'end': 2},
                  {'id': 2, 'type': ['animals'], 'start': len(sentence['tokens']) - 1,
                   'end': len(sentence['tokens'])}]}
                  for number, sentence in enumerate(images[imgid % len(images)]['sentences'])]} for imgid in imgids]
    path.write_text('\n'.join(map(json.dumps, lines)), encoding='utf-8')
    return path


def accuracies(out):
    """kind of phrase -> (number of phrases, accuracies) of the table of pointing."""
    _, table = out.split('pointing accuracy in %')
    return {kind: (int(count), [float(each) for each in rest.split()])
            for kind, count, rest in re.findall(r'^(all|people|animals) +(\d+)((?: +[\d.]+)+)$', table, re.MULTILINE)}


def test_pointing_accuracy_of_phrases(trained, last, tmp_path, capsys):
    path = write_entities(tmp_path / 'entities.jsonl', [19, 17, 3], trained)    # 3 is no test image
    evaluated(trained, tmp_path, [last['sentences'], last['regions']], '--entities', path, '--beta', '0', '1')
    found = accuracies(capsys.readouterr().out)
    assert {kind: count for kind, (count, _) in found.items()} == {'all': 20, 'people': 10, 'animals': 10}
    assert found['animals'][1] == [100] * 5      # beta 0, beta 1, and three baselines
    assert found['people'][1][3:] == [66.7, 50]    # the centres of two of three regions are in the box; half the points
    for betas in range(5):
        assert found['all'][1][betas] == pytest.approx((found['people'][1][betas] + 100) / 2, abs=.06)


def test_pointing_is_that_of_the_regions_that_words_fit_best(trained, last, tmp_path, capsys):
    """A model in which all words see what has the features of one half of the picture."""
    found = load(last['regions'])
    found['standard'] = {'mean': np.zeros((1, D), np.float32), 'scale': np.ones((1, D), np.float32)}
    left = np.arange(D)[:, None] < D // 2
    path = write_entities(tmp_path / 'entities.jsonl', [17], trained)
    for side, sees in ((left, 'left'), (~left, 'right')):
        direction = found['model']['bd'] = np.eye(1, 8, dtype=np.float32)
        found['model'] |= {'We': (np.where(side, 10, -10) * direction).astype(np.float32),
                           'Wd': np.zeros((8, 8), np.float32), 'be': np.zeros((1, 8), np.float32)}
        found['params'] |= {'similarity': 'dot'}
        save_checkpoint(tmp_path / f'{sees}.h5', found)
        sure = evaluated(trained, tmp_path, [tmp_path / f'{sees}.h5'], '--entities', path)
        region = 1 if sees == 'left' else 2
        assert {place for each in sure['sentences'][0]['images'] for place in each['regions']} == {region}
        assert accuracies(capsys.readouterr().out)['people'][1][0] == (100 if sees == 'left' else 0)


def test_what_pointing_needs_is_said(trained, last, tmp_path, capsys):
    path = write_entities(tmp_path / 'entities.jsonl', [17, 18], trained)
    flags = ['--data_root', trained, '--result_struct_filename', tmp_path / 'r.json', '--entities']
    message = refused(evaluate.main, [last['sentences'], *flags, path], capsys)
    assert f'--entities {path}: needs a checkpoint with --ranker regions' in message
    other = write_entities(tmp_path / 'other.jsonl', [5, 400], trained)
    assert f'{other}: has none of the images of the test split' in refused(
        evaluate.main, [last['regions'], *flags, other], capsys)
    text = path.read_text(encoding='utf-8').replace('.jpg', '.png')    # of another data set, with the same imgids
    (tmp_path / 'foreign.jsonl').write_text(text, encoding='utf-8')
    assert 'foreign.jsonl: has none of the images' in refused(
        evaluate.main, [last['regions'], *flags, tmp_path / 'foreign.jsonl'], capsys)
    write_regions(tmp_path / 'no boxes.h5', np.load(trained / 'tiny' / 'vgg_feats.npy'), boxes=None)
    assert 'no boxes.h5: does not say where its regions are' in refused(
        evaluate.main, [last['regions'], *flags, path, '--features', tmp_path / 'no boxes.h5'], capsys)
    (tmp_path / 'broken.jsonl').write_text('{}', encoding='utf-8')
    assert 'broken.jsonl, line 1: ' in refused(
        evaluate.main, [last['regions'], *flags, tmp_path / 'broken.jsonl'], capsys)
    before = path.read_bytes()
    assert f'{path}: is an input file' in refused(
        evaluate.main, [last['regions'], *flags, path, '--result_struct_filename', path], capsys)
    assert not (tmp_path / 'r.json').exists() and path.read_bytes() == before


@pytest.mark.parametrize(('flags', 'words'), [
    (['--max_images', '1'], '--max_images 1'),
    (['--max_images', '0'], '--max_images 0'),
    (['--fold', '1'], '--fold 1'),
    (['--fold', '-3'], '--fold -3'),
    (['--num_threads', '0'], '--num_threads 0'),
    (['--beta', '-1'], '--beta -1'),
    (['--beta', 'nan'], '--beta nan'),
    (['--split', 'restval'], 'test (3 images)'),
    (['--dataset', 'absent'], 'absent'),
    (['--features', 'absent.h5'], 'absent.h5'),
    (['--features', 'vgg_feats.npy'], 'vgg_feats.npy: has no features of regions'),
    (['--result_struct_filename', '.'], 'is a folder'),
    (['--result_struct_filename', ''], 'the argument after --result_struct_filename is empty'),
])
def test_an_evaluation_that_makes_no_sense_is_refused(trained, last, tmp_path, monkeypatch, flags, words, capsys):
    monkeypatch.chdir(tmp_path)
    assert words in refused(evaluate.main, [last['regions'], '--data_root', trained, *flags], capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_split_of_one_image_is_refused(root, last, capsys):
    rewrite(root, lambda images: images.__delitem__(slice(18, None)))
    message = refused(evaluate.main, [last['sentences'], '--data_root', root, '--result_struct_filename',
                                      root / 'r.json'], capsys)
    assert 'the test split has one image' in message and not (root / 'r.json').exists()


def test_checkpoints_and_features_that_do_not_fit_are_refused(trained, last, tmp_path, capsys):
    flags = ['--data_root', trained, '--result_struct_filename', tmp_path / 'r.json']
    captioner = checkpoint_named(trained, 'captioner_last')
    for checkpoints in ([captioner], [last['regions'], captioner]):
        message = refused(evaluate.main, [*checkpoints, *flags], capsys)
        assert f'{captioner}: is a checkpoint of the kind captioning' in message and 'eval_sentence' in message
    write_regions(tmp_path / 'wide.h5', np.ones((20, D + 1), np.float32))
    for ranker, what in (('sentences', 'features of size'), ('regions', 'features of regions of size')):
        message = refused(evaluate.main, [last[ranker], *flags, '--features', tmp_path / 'wide.h5'], capsys)
        assert f'wide.h5: {what} {D + 1}, but {last[ranker]} was trained on size {D}' in message
    assert f'{last["regions"]}: is an input file' in refused(
        evaluate.main, [last['regions'], *flags, '--result_struct_filename', last['regions']], capsys)
    assert not (tmp_path / 'r.json').exists()


def test_features_of_another_origin_are_noted(trained, last, tmp_path, capsys):
    write_regions(tmp_path / 'other.h5', np.load(trained / 'tiny' / 'vgg_feats.npy'), regions='grid:1x3')
    evaluated(trained, tmp_path, [last['regions']], '--features', tmp_path / 'other.h5')
    assert 'regions is grid:1x3, but was windows when the checkpoint was trained' in capsys.readouterr().err

"""The moving average of the weights: what it is, what it is used for, and that a run with it resumes and rolls back."""

import json
import shutil

import kill_driver
import numpy as np
import pytest
from datasets import assert_same_model, checkpoint_named, last_of, train_flags, write_tiny_dataset
from driving import at, drive, signalling, stop

import driver
import eval_sentence_predictions
from imagernn import publish
from imagernn.captioning.evaluate import split_perplexity
from imagernn.corpus.captioned_images import getDataProvider
from imagernn.nn.solver import BLOCK, average_weights
from imagernn.nn.workers import Workers
from imagernn.runs.checkpoint_file import load_checkpoint, save_checkpoint
from imagernn.runs.divergence import state_not_finite

AVERAGED = ['--weight_average', '.9', '-l', '.01']
ALL = [*AVERAGED, '--learning_rate_schedule', 'cosine', '--warmup', '.5', '--label_smoothing', '.1']
DIVERGING = [*kill_driver.DIVERGING, '--weight_average', '.9']


@pytest.fixture
def root(tmp_path):
    write_tiny_dataset(tmp_path)
    return tmp_path


def plain_average(models, decay):
    """The average after each of the models, the first of which is where it begins."""
    average = {name: w.copy() for name, w in models[0].items()}
    yield {name: a.copy() for name, a in average.items()}
    for t, model in enumerate(models[1:]):
        rate = min(decay, (1 + t) / (10 + t))
        for name, w in model.items():
            average[name] += (w - average[name]) * (1 - rate)
        yield {name: a.copy() for name, a in average.items()}


def watched(flags):
    """driver.main(flags), and the weights at its start and after each step."""
    models = []

    def keep(state):
        models.append({name: w.copy() for name, w in state.model.items()})

    code = drive(flags, step=lambda state: models or keep(state), after_update=keep)
    return code, models


# ---- the average

@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('workers', [None, Workers(2)], ids=['alone', 'two threads'])
def test_it_is_the_moving_mean_in_place(dtype, workers):
    rng = np.random.default_rng(0)
    model = {name: rng.normal(size=shape).astype(dtype) for name, shape in (('W', (3, BLOCK)), ('b', (1, 5)))}
    average = {name: rng.normal(size=w.shape).astype(dtype) for name, w in model.items()}
    before, arrays = {name: a.copy() for name, a in average.items()}, dict(average)
    weights = {name: w.copy() for name, w in model.items()}
    average_weights(average, model, .75, workers)
    for name, w in weights.items():
        assert average[name] is arrays[name] and average[name].dtype == dtype
        np.testing.assert_allclose(average[name], .75 * before[name] + .25 * w, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(model[name], w)


def test_it_stays_where_the_weights_stay():
    model = {'W': np.float32([[.1, 1e30, -3e-40]])}
    average = {'W': model['W'].copy()}
    for _ in range(50):
        average_weights(average, model, .9)
    assert_same_model(average, model)


@pytest.mark.parametrize('decay', ['.2', '.9', '.999'])
def test_a_run_saves_the_average_and_trains_on_from_the_weights(root, decay):
    """The average is that of all steps with its ramp; training, its costs and its random stream are as without it."""
    assert driver.main(train_flags(root, '-l', '.01')) == 0
    without = last_of(root)
    shutil.rmtree(root / 'cv')
    code, models = watched(train_flags(root, '-l', '.01', '--weight_average', decay))
    last = last_of(root)
    assert code == 0 and len(models) == 15
    assert_same_model(last['raw_model'], without['model'])
    *_, expected = plain_average(models, float(decay))
    assert_same_model(last['model'], expected)
    assert not np.array_equal(last['model']['Wd'], last['raw_model']['Wd'])
    assert last['rng_state'] == without['rng_state'] and last['cost0'] == without['cost0']
    assert last['smooth_train_ppl2'] == without['smooth_train_ppl2'] and last['val_ppl2'] != without['val_ppl2']
    for slot, arrays in last['solver']['cache'].items():
        assert_same_model(arrays, without['solver']['cache'][slot])


def test_without_the_flag_checkpoints_hold_no_second_set_of_weights(root):
    driver.main(train_flags(root, '--on_divergence', 'rollback', '--checkpoint_every', '5', '--eval_period', '9'))
    assert 'raw_model' not in last_of(root) and 'average' not in (last_of(root)['good'] or {})


# ---- what it is used for

def test_scores_and_captions_are_those_of_the_average(root):
    driver.main(train_flags(root, *AVERAGED))
    best = load_checkpoint(checkpoint_named(root, ''))
    provider = getDataProvider('tiny', str(root), None, 'skip')
    found = [split_perplexity(provider, 'val', best[which], best['params'], best['wordtoix'])
             for which in ('model', 'raw_model')]
    assert best['perplexity'] == pytest.approx(found[0], rel=1e-6) != pytest.approx(found[1], rel=1e-3)

    def captions(checkpoint):
        save_checkpoint(root / 'c.h5', checkpoint)
        assert eval_sentence_predictions.main([
            str(root / 'c.h5'), '--data_root', str(root), '--result_struct_filename', str(root / 'r.json')]) == 0
        return [blob['candidate'] for blob in json.loads((root / 'r.json').read_text(encoding='utf-8'))['imgblobs']]

    plain = {key: best[key] for key in ('kind', 'params', 'wordtoix', 'ixtoword', 'features')}
    assert captions(best) == captions({**plain, 'model': best['model']})
    assert captions(best) != captions({**plain, 'model': best['raw_model']})


def test_a_new_run_starts_from_the_average_and_a_published_copy_holds_it_alone(root):
    driver.main(train_flags(root, *AVERAGED))
    path = checkpoint_named(root, '')
    best = load_checkpoint(path)
    _, models = watched(train_flags(root, '--init_model_from', str(path), '--fappend', 'second'))
    assert_same_model(models[0], best['model'])
    assert publish.main([str(path), str(root / 'small.h5')]) == 0
    small = load_checkpoint(root / 'small.h5')
    assert 'raw_model' not in small
    assert_same_model(small['model'], {name: w.astype(np.float16) for name, w in best['model'].items()})


def test_a_self_critical_run_is_judged_by_the_average_too(root):
    code, models = watched(train_flags(root, *AVERAGED, '--self_critical_after', '1', '--self_critical_images', '6'))
    *_, expected = plain_average(models, .9)
    assert code == 0 and len(models) == 15
    assert_same_model(last_of(root)['model'], expected)


# ---- stopping, resuming, rolling back

@pytest.mark.parametrize('moment', [0, 6, 7, 12])
@pytest.mark.parametrize('flags', [[], ['--generator', 'rnn', '--solver', 'adam', '--num_threads', '2']])
def test_with_schedule_smoothing_and_average_a_stopped_run_ends_as_if_never_stopped(root, flags, moment):
    flags = train_flags(root, *ALL, *flags, '--max_epochs', '3')
    assert driver.main(flags) == 0
    whole = kill_driver.ending(root)
    assert {'model', 'raw_model'} <= whole.keys()
    shutil.rmtree(root / 'cv')
    assert drive(flags, step=at(moment, stop)) == 143
    assert last_of(root)['it'] == moment + 1
    assert driver.main(['--resume', str(checkpoint_named(root, 'last'))]) == 0
    assert kill_driver.differences(whole, kill_driver.ending(root)) == []


def test_a_best_checkpoint_holds_all_that_a_run_needs_to_resume(root):
    """As without an average: what has come after it is trained once more, bit for bit."""
    flags = train_flags(root, *ALL, '--max_epochs', '3')
    driver.main(flags)
    whole, best = kill_driver.ending(root), load_checkpoint(checkpoint_named(root, ''))
    assert_same_model(best['model'], whole['best model'])
    shutil.rmtree(root / 'cv')
    assert drive(flags, evaluation=signalling(15)) == 143    # in the first evaluation, whose score is the best so far
    checkpoint_named(root, 'last').unlink()
    assert driver.main(['--resume', str(checkpoint_named(root, ''))]) == 0
    assert kill_driver.differences(whole, kill_driver.ending(root)) == []


@pytest.mark.parametrize('moment', [2, 5, 9, 14, 25])
def test_a_rollback_returns_to_the_weights_and_to_their_average(root, moment):
    flags = train_flags(root, *DIVERGING, '--checkpoint_every', '3')
    assert driver.main(flags) == 0
    whole = kill_driver.ending(root)
    assert whole['rollbacks'] > 1
    shutil.rmtree(root / 'cv')
    assert drive(flags, step=at(moment, stop)) in (0, 143)
    assert driver.main([*flags, '--resume', 'auto']) == 0
    assert kill_driver.differences(whole, kill_driver.ending(root)) == []


def test_a_rollback_undoes_what_the_average_has_seen(root):
    """One batch with a gradient that is not finite, after the average has moved on from the last good state."""
    averages = {}

    def spoil(grads, workers):
        grads['Wd'][0, 0] = np.nan

    def note(state):
        averages.setdefault(state.it, []).append({name: a.copy() for name, a in state.average.items()})

    flags = train_flags(root, *AVERAGED, '--on_divergence', 'rollback', '--checkpoint_every', '5')
    assert drive(flags, step=note, before_update=at(12, spoil)) == 0
    assert last_of(root)['rollbacks'] == 1 and [len(averages[it]) for it in (9, 10, 11, 12)] == [1, 2, 2, 2]
    assert_same_model(*averages[10])
    assert not np.array_equal(averages[11][0]['Wd'], averages[11][1]['Wd'])    # half the learning rate


def test_a_run_of_before_the_flag_can_begin_an_average_and_end_it_again(root):
    driver.main(train_flags(root, '-l', '.01', '--max_epochs', '4', '--on_divergence', 'rollback'))
    never = last_of(root)
    shutil.rmtree(root / 'cv')
    driver.main(train_flags(root, '-l', '.01', '--max_epochs', '1', '--on_divergence', 'rollback'))
    path = checkpoint_named(root, 'last')
    old = load_checkpoint(path)
    del old['params']['weight_average']
    old['good'] = {key: old[key] for key in ('it', 'epoch', 'smooth_train_ppl2', 'trend', 'model', 'solver',
                                             'rng_state')}
    save_checkpoint(path, old)
    assert driver.main(['--resume', str(path), '--weight_average', '.9', '--max_epochs', '2']) == 0
    averaged = last_of(root)
    assert averaged['it'] == 14 and not np.array_equal(averaged['model']['Wd'], averaged['raw_model']['Wd'])
    assert driver.main(['--resume', str(path), '--weight_average', '0', '--max_epochs', '4']) == 0
    assert 'raw_model' not in last_of(root)
    assert_same_model(last_of(root)['model'], never['model'])


def test_an_average_that_begins_late_begins_with_the_weights(root):
    driver.main(train_flags(root, '--max_epochs', '1'))
    path = str(checkpoint_named(root, 'last'))
    state, *_ = driver.prepare(driver.build_parser(), ['--resume', path, '--weight_average', '.9'])
    assert_same_model(state.average, state.model)
    assert not any(np.shares_memory(state.average[name], w) for name, w in state.model.items())


# ---- mistakes

@pytest.mark.parametrize('value', ['-.1', '1', '2', 'nan'])
def test_a_decay_that_it_cannot_be_is_refused(root, value, capsys):
    assert driver.main(train_flags(root, f'--weight_average={value}')) == 2
    err = capsys.readouterr().err
    assert f'--weight_average {float(value)}: must be ' in err and err.count('\n') == 1 and not (root / 'cv').exists()


@pytest.mark.parametrize(('change', 'said'), [
    (lambda c: c.update(raw_model=[]), 'raw_model'),
    (lambda c: c.update(raw_model={}), 'raw_model'),
    (lambda c: c['raw_model'].pop('Wd'), 'raw_model'),
    (lambda c: c['raw_model'].update(Wd=c['raw_model']['Wd'][1:]), 'raw_model'),
    (lambda c: c['raw_model'].update(Wd=c['raw_model']['Wd'].astype(int)), 'raw_model'),
    (lambda c: c['raw_model']['Wd'].fill(np.nan), 'raw_model'),
    (lambda c: c['good'].update(average=3), 'good average'),
    (lambda c: c['good']['average'].update(Wd=np.ones((2, 2), np.float32)), 'good average'),
])
def test_a_checkpoint_whose_second_set_of_weights_is_damaged_is_refused(root, change, said, capsys):
    flags = train_flags(root, *AVERAGED, '--on_divergence', 'rollback')
    assert drive(flags, step=at(9, stop)) == 143
    checkpoint = last_of(root)
    assert checkpoint['good']['average'].keys() == checkpoint['model'].keys()
    change(checkpoint)
    save_checkpoint(root / 'bad.h5', checkpoint)
    capsys.readouterr()
    assert driver.main(['--resume', str(root / 'bad.h5')]) == 2
    err = capsys.readouterr().err
    assert 'bad.h5' in err and f'holds no valid {said}' in err and err.count('\n') == 1


def test_an_average_that_is_not_finite_is_not_saved(root, capsys):
    good, bad = {'W': np.ones((1, 2))}, {'W': np.array([[1, np.inf]])}
    assert state_not_finite(good, {'cache': {}}, good) is None
    assert state_not_finite(good, {'cache': {}}, bad) == ('the average of the parameter W holds numbers that are not '
                                                          'finite')

    def spoil(state):
        state.average['Wd'][0, 0] = np.inf

    assert drive(train_flags(root, *AVERAGED), step=at(10, spoil)) == 1
    assert 'the average of the parameter Wd' in capsys.readouterr().err and last_of(root)['it'] == 7

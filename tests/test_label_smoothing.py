"""Label smoothing in training: what it changes, and what it must not change. Its gradients: test_gradients.py."""

import numpy as np
import pytest
from datasets import assert_same_model, checkpoint_named, last_of, train_flags, write_tiny_dataset
from driving import at, drive
from models import VARIANTS, make_model, make_pairs, make_params, pack_pairs

import driver
from imagernn.captioning.model import cost_and_grads, forward
from imagernn.nn.workers import Workers
from imagernn.runs.checkpoint_file import load_checkpoint, save_checkpoint

SMOOTHED = ['--label_smoothing', '.2']


@pytest.fixture
def root(tmp_path):
    write_tiny_dataset(tmp_path)
    return tmp_path


@pytest.mark.parametrize('num_threads', [1, 3])
@pytest.mark.parametrize('variant', VARIANTS)
def test_the_cost_is_smoothed_and_the_perplexity_is_that_of_the_words(variant, num_threads):
    params, batch = make_params(variant), pack_pairs(make_pairs())
    model, workers = make_model(params, seed=1), Workers(num_threads)
    _, _, plain = cost_and_grads(batch, model, params, workers=workers)
    cost, _, stats = cost_and_grads(batch, model, {**params, 'label_smoothing': .2}, workers=workers)
    (words, smoothed), _ = forward(batch, model, params, smoothing=.2)
    assert stats['ppl2'] == plain['ppl2'] and stats['reg_cost'] == plain['reg_cost']
    assert stats['loss_cost'] == pytest.approx(-smoothed.sum() / 6) != pytest.approx(plain['loss_cost'])
    assert cost == stats['loss_cost'] + stats['reg_cost']
    np.testing.assert_array_equal(words, forward(batch, model, {**params, 'label_smoothing': .2})[0])


def test_a_run_reports_the_perplexities_of_the_words(root):
    """Without learning, all perplexities are those of a run without label smoothing; the cost is another."""
    found = []
    for flags in [], SMOOTHED:
        assert driver.main(train_flags(root, '-l', '0', *flags)) == 0
        found.append(last_of(root))
    for key in 'val_ppl2', 'top_val_ppl2', 'smooth_train_ppl2', 'trend':
        assert found[0][key] == found[1][key]
    assert found[0]['cost0'] < found[1]['cost0']


def test_it_changes_what_is_learned_and_captions_with_no_flag_of_its_own(root):
    models = []
    for flags in [], SMOOTHED, ['--label_smoothing', '0']:
        driver.main(train_flags(root, *flags))
        models.append(last_of(root)['model'])
    assert_same_model(models[0], models[2])
    assert not np.array_equal(models[0]['Wd'], models[1]['Wd'])


def test_self_critical_training_does_not_smooth(root):
    models = []
    for flags in [], SMOOTHED:
        driver.main(train_flags(root, '--self_critical_after', '0', '--self_critical_images', '6', *flags))
        models.append(last_of(root)['model'])
    assert_same_model(*models)


def test_the_gradients_of_a_run_can_be_checked(root, capsys):
    assert driver.main(train_flags(root, '-a', '1', *SMOOTHED)) == 0
    assert capsys.readouterr().out.count('  ok') == 6


# ---- divergence

@pytest.mark.parametrize('number, flags, code', [(13, SMOOTHED, 1), (13, [], 0), (5, SMOOTHED, 1)])
def test_divergence_is_that_of_the_smoothed_cost(root, number, flags, code, capsys):
    """A word becomes all but impossible. That is seen before a checkpoint is written, or by the next batch."""
    def lose_a_word(state):
        state.model['bd'][0, -1] -= 1e4    # it does not occur in the batch that is drawn before a checkpoint

    assert drive(train_flags(root, *flags), after_update=at(number, lose_a_word)) == code
    said = capsys.readouterr().err
    assert code == 0 or f'aborted at iteration {number + 1}' in said and 'twice the first one' in said


def test_a_run_that_explodes_rolls_back(root, capsys):
    flags = ['--solver', 'vanilla', '--grad_clip', '0', '-l', '60', '--on_divergence', 'rollback']
    assert driver.main(train_flags(root, *flags, *SMOOTHED)) == 0
    assert 'rolled back' in capsys.readouterr().err and last_of(root)['rollbacks'] > 0


# ---- the flag

@pytest.mark.parametrize('value', ['-.1', '.6', '1', 'nan'])
def test_a_share_that_it_cannot_be_is_refused(root, value, capsys):
    assert driver.main(train_flags(root, f'--label_smoothing={value}')) == 2
    err = capsys.readouterr().err
    assert f'--label_smoothing {float(value)}: must be ' in err and err.count('\n') == 1 and not (root / 'cv').exists()


def test_a_run_keeps_its_objective_and_so_does_one_of_before_the_flag(root, capsys):
    """Its costs are compared with the first one."""
    driver.main(train_flags(root, *SMOOTHED))
    path = checkpoint_named(root, 'last')
    assert driver.main(['--resume', str(path), '--max_epochs', '3']) == 0
    capsys.readouterr()
    assert driver.main(['--resume', str(path), '--label_smoothing', '0']) == 2
    assert 'was made with 0.2; leave the flag out, or start a new run' in capsys.readouterr().err
    old = load_checkpoint(path)
    del old['params']['label_smoothing']
    save_checkpoint(path, old)
    assert driver.main(['--resume', str(path), *SMOOTHED]) == 2
    assert 'was made with 0.0' in capsys.readouterr().err
    assert driver.main(['--resume', str(path), '--max_epochs', '4']) == 0
    assert last_of(root)['params']['label_smoothing'] == 0
    assert driver.main(train_flags(root, '--init_model_from', str(path), '--fappend', 'second', *SMOOTHED)) == 0

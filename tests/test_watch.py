"""What is not finite, and a perplexity that runs away, end a run or send it back; and nothing else does."""


import numpy as np
import pytest
from datasets import last_of, train_flags, write_tiny_dataset
from driving import Stepper, at, drive, nothing

import driver
from imagernn.nn.solver import BLOCK, SOLVERS, Solver
from imagernn.nn.workers import Workers
from imagernn.runs.checkpoint_file import save_checkpoint
from imagernn.runs.divergence import RISE, cost_not_finite, perplexity_rose, state_not_finite
from imagernn.runs.state import MOST_ROLLBACKS, PERPLEXITY, RunState
from imagernn.runs.terminal import say, warn


@pytest.fixture
def root(tmp_path):
    write_tiny_dataset(tmp_path)
    return tmp_path


# ---- the parts


def test_the_parameter_to_blame_is_named():
    good, bad = np.ones((2, 3)), np.array([[1, np.inf]])
    assert cost_not_finite(3., {'We': bad}, {}) is None    # the solver's step looks at these
    assert 'parameter Wd' in cost_not_finite(np.nan, {'We': good, 'Wd': bad}, {'We': bad})
    assert 'gradient of Wd' in cost_not_finite(np.inf, {'We': good, 'Wd': good}, {'We': good, 'Wd': -bad})
    assert 'too large' in cost_not_finite(np.inf, {'We': good}, {'We': good})
    assert state_not_finite({'We': good}, {'cache': {'squares': {'We': good}}}) is None
    assert 'parameter Wd' in state_not_finite({'We': good, 'Wd': bad}, {'cache': {}})
    assert 'squares of Wd' in state_not_finite({'We': good}, {'cache': {'squares': {'Wd': bad}}})


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('place', [0, BLOCK, 2 * BLOCK + 6])
@pytest.mark.parametrize('clip', ['value', 'norm'])
@pytest.mark.filterwarnings('ignore::RuntimeWarning')
def test_a_step_stops_at_any_number_that_is_not_finite(value, place, clip):
    rng = np.random.default_rng(0)
    for spoilt, said in ('weights', 'the parameter W'), ('gradients', 'the gradient of W'):
        for workers in None, Workers(2):
            weights, gradients = rng.normal(size=(2, 1, 2 * BLOCK + 7)).astype(np.float32)
            weights[0, place] = gradients[0, place] = 0    # 0 times infinity must be seen, too
            {'weights': weights, 'gradients': gradients}[spoilt][0, place] = value
            solver = Solver({'solver': 'rmsprop', 'learning_rate': .1, 'decay_rate': .9, 'smooth_eps': 1e-8,
                             'grad_clip': 5, 'grad_clip_by': clip})
            with pytest.raises(FloatingPointError, match=said):
                solver.step({'W': weights}, {'W': gradients}, workers=workers)


@pytest.mark.parametrize('name', SOLVERS)
def test_large_and_tiny_numbers_are_no_fault(name):
    solver = Solver({'solver': name, 'learning_rate': 1e-9, 'decay_rate': .9, 'smooth_eps': 1e-8, 'grad_clip': 5})
    model = {'W': np.array([[1e30, -1e30, 1e-40]], np.float32)}
    solver.step(model, {'W': np.array([[1e30, 1e30, 1e-40]], np.float32)})
    assert np.isfinite(model['W']).all()


def trend_of(perplexities, batch_size=100):
    """Where in a list of perplexities it is said to have run away, or None."""
    check, state = perplexity_rose(batch_size), RunState({}, PERPLEXITY, {})
    return next((at for at, ppl2 in enumerate(perplexities) if check(state, 1., {'ppl2': ppl2})), None)


def test_the_run_of_the_originals_tracker_is_stopped():
    """Thread 4: perplexity 29, then 237,360 at iteration 255. The cost need not be twice the first one."""
    falling = list(np.geomspace(2500, 29, 255))
    assert 255 < trend_of([*falling, *[237360] * 50]) < 265
    assert trend_of([*falling, *[29] * 1000]) is None
    assert trend_of([*falling, 237360, *[29] * 100]) is None    # one batch proves nothing
    assert trend_of([np.inf]) == 0 and trend_of([29, np.inf]) == 1


@pytest.mark.parametrize('batch_size', [1, 10, 100, 1000])
def test_noise_is_no_divergence(batch_size):
    """A sentence's mean of ln p varies by about 1; a batch's by as much less as it has more sentences."""
    rng = np.random.default_rng(0)
    for scale in 1, 1.5:
        nats = 3 + rng.normal(size=5000) * scale / np.sqrt(batch_size)
        assert trend_of(np.exp(nats), batch_size) is None
    assert trend_of(np.exp(np.r_[nats, nats + 1.5 * np.log(RISE)]), batch_size) is not None


# ---- the driver


def spoil(number, name, value, what):
    """A hook for drive: from iteration `number` on, an element of the gradient or the parameter `name` is value."""
    count = iter(range(10 ** 6))

    def spoil_weights(state):
        if next(count) >= number - 1:
            state.model[name][0, 0] = value

    def spoil_gradients(grads, workers):
        if next(count) >= number - 1:
            grads[name][0, 0] = value

    return {'step': spoil_weights} if what == 'weights' else {'before_update': spoil_gradients}


@pytest.mark.parametrize(('name', 'what', 'said'), [
    ('Wd', 'gradients', 'the gradient of Wd holds numbers that are not finite'),
    ('Ws', 'weights', 'the parameter Ws holds numbers that are not finite'),
    ('bd', 'weights', 'the parameter bd holds numbers that are not finite'),
])
@pytest.mark.filterwarnings('ignore::RuntimeWarning')
def test_numbers_that_are_not_finite_end_the_run_and_spare_the_last_checkpoint(root, capsys, name, what, said):
    flags = train_flags(root, '--max_epochs', '3', '--checkpoint_every', '1')
    assert drive(flags, **spoil(10, name, np.nan, what)) == 1
    err = capsys.readouterr().err
    assert 'aborted at iteration 9: ' in err and said in err
    assert last_of(root)['it'] == 9 and all(np.isfinite(w).all() for w in last_of(root)['model'].values())


def test_features_that_are_not_finite_end_the_run_with_the_iteration(root, capsys):
    features = np.load(root / 'tiny' / 'vgg_feats.npy')
    features[3, 2] = np.inf
    np.save(root / 'tiny' / 'vgg_feats.npy', features)
    assert driver.main(train_flags(root, '--batch_size', '2')) == 2
    err = capsys.readouterr().err
    assert '\nerror: iteration ' in err and 'imgid 3' in err and 'number 2 is inf' in err


def test_a_solver_state_that_is_not_finite_is_not_saved(root, capsys):
    flags = train_flags(root, '--checkpoint_every', '1')
    state, solver, rng, provider, params = driver.prepare(driver.build_parser(), flags)

    def spoil_the_solver(state):
        solver.state_dict()['cache']['squares']['We'][0, 0] = np.inf

    stepper = Stepper(solver, state, nothing, at(8, spoil_the_solver))
    assert driver.train(state, stepper, rng, provider, params) == 1
    assert 'squares of We' in capsys.readouterr().err and last_of(root)['it'] == 8


def test_a_rising_perplexity_ends_the_run(root, capsys):
    """The rule of the twofold cost is met sooner with a model this small, so it starts from a worse one."""
    count = iter(range(10 ** 6))

    def rise(state):
        number = next(count)
        state.model['bd'][:] = 0 if 0 < number < 100 else np.where(np.arange(state.model['bd'].size) % 2, -9, 0)

    assert drive(train_flags(root, '--batch_size', '500', '--max_epochs', '140', '--eval_period', '20', '-l', '0'),
                 step=rise) == 1
    assert f'is more than {RISE} times' in capsys.readouterr().err and last_of(root)['it'] == 100


EXPLODING = ['--solver', 'vanilla', '--grad_clip', '0', '-l', '60', '--on_divergence', 'rollback', '--max_epochs', '4']


def test_rollback_halves_the_learning_rate_until_it_trains(root, capsys):
    assert driver.main(train_flags(root, *EXPLODING)) == 0
    last, err = last_of(root), capsys.readouterr().err
    assert 1 < last['rollbacks'] < MOST_ROLLBACKS and err.count('rolled back to iteration') == last['rollbacks']
    assert 'with 1/2 of the learning rate' in err and f'with 1/{2 ** last["rollbacks"]} of' in err
    assert last['it'] == 28 and last['good'] is None and np.isfinite(last['val_ppl2'])


def test_without_rollback_the_same_run_is_aborted(root, capsys):
    flags = EXPLODING[:EXPLODING.index('--on_divergence')]
    assert driver.main(train_flags(root, *flags)) == 1
    assert 'twice the first one' in capsys.readouterr().err


def test_rolling_back_has_an_end(root, capsys):
    flags = train_flags(root, *EXPLODING[4:], '-l', '.001')
    assert drive(flags, **spoil(9, 'Wd', np.nan, 'gradients')) == 1
    err = capsys.readouterr().err
    assert f'it rolled back {MOST_ROLLBACKS} times before' in err
    assert err.count('; rolled back to iteration 7') == MOST_ROLLBACKS
    assert last_of(root)['it'] == 7


def test_rollback_without_a_learning_rate_is_a_mistake(root, capsys):
    assert driver.main(train_flags(root, '--on_divergence', 'rollback', '--solver', 'adadelta')) == 2
    assert '--on_divergence rollback' in capsys.readouterr().err


def test_a_good_state_that_does_not_fit_is_refused(root, capsys):
    flags = train_flags(root, *EXPLODING, '--checkpoint_every', '0.00001m')
    assert driver.main(flags) == 0
    last = last_of(root)
    good = {**{key: last[key] for key in ('it', 'epoch', 'smooth_train_ppl2', 'trend', 'model', 'solver', 'rng_state')}}
    few = {**last['model'], 'We': np.ones((2, 6), np.float32)}
    for change in ({'good': []}, {'good': {'it': 1}}, {'good': {**good, 'model': {'We': np.ones((2, 2))}}},
                   {'good': {**good, 'model': few}}, {'good': {**good, 'trend': {'recent': 'x'}}},
                   {'good': {**good, 'rng_state': {}}}, {'trend': {'recent': None}}, {'trend': []},
                   {'rollbacks': 10 ** 400}, {'rollbacks': -1}):
        checkpoint = {**last, **change}
        save_checkpoint(root / 'bad.h5', checkpoint)
        assert driver.main(['--resume', str(root / 'bad.h5')]) == 2, change
        assert 'bad.h5' in capsys.readouterr().err


def test_messages_beside_a_progress_bar_do_not_command_the_terminal(capsys):
    warn('a\x1b[2J\nb')
    say('one\ntwo\x07')
    out, err = capsys.readouterr()
    assert out == 'one\ntwo\\x07\n' and err == 'warning: a\\x1b[2J\\nb\n'

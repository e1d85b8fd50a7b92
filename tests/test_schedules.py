"""How the learning rate changes: the schedules by themselves, and the rates at which a run takes its steps."""

import math

import pytest
from datasets import checkpoint_named, train_flags, write_tiny_dataset

import driver
from imagernn.convnet import train as convnet_train
from imagernn.nn.names import SCHEDULES
from imagernn.nn.schedules import BY_FLAGS, cosine, halving, schedule_of, warmed_up
from imagernn.runs.checkpoint_file import load_checkpoint, save_checkpoint

PER_EPOCH = 7    # iterations of the tiny data set
FLAGS = {'learning_rate': .8, 'learning_rate_schedule': 'halving', 'learning_rate_decay_start': 10,
         'learning_rate_decay_every': 5, 'warmup': 0., 'max_epochs': 20}


@pytest.fixture
def root(tmp_path):
    write_tiny_dataset(tmp_path)
    return tmp_path


def test_it_halves_after_its_start():
    at = halving(.8, 10, 5)
    assert [at(epoch) for epoch in (0, 10, 15, 20)] == [.8, .8, .4, .2]
    assert halving(.8, -1, 5)(99) == .8


def test_it_falls_along_a_cosine_and_stays_at_0():
    at = cosine(.8, 20)
    assert [at(epoch) for epoch in (0, 10, 20, 30)] == pytest.approx([.8, .4, 0, 0])


def test_it_rises_from_0_and_is_then_the_schedule_itself():
    at = warmed_up(halving(.8, 2, 5), 4)
    assert [at(epoch) for epoch in (0, 1, 4, 7)] == pytest.approx([0, .2, .8 * .5 ** .4, .4])
    assert warmed_up(at, 0) is at


def test_without_further_flags_it_is_the_plain_schedule_to_the_bit():
    at, plain = schedule_of(FLAGS, 300), halving(.8, 10, 5)
    assert all(at(it / 300) == plain(it / 300) for it in range(1, 6001))


def test_the_names_for_the_flags_are_those_of_the_schedules():
    assert tuple(BY_FLAGS) == SCHEDULES
    with pytest.raises(ValueError, match='--learning_rate_schedule steps: not known; choose one of halving, cosine'):
        schedule_of({**FLAGS, 'learning_rate_schedule': 'steps'}, 300)


@pytest.mark.parametrize('max_epochs', [20, 1.06, 1.05, .01])
@pytest.mark.parametrize('schedule', SCHEDULES)
def test_no_step_is_wasted_on_a_learning_rate_of_0(schedule, max_epochs):
    at = schedule_of({**FLAGS, 'learning_rate_schedule': schedule, 'max_epochs': max_epochs, 'warmup': .5}, 10)
    rates = [at(it / 10) for it in range(1, max(1, round(10 * max_epochs)) + 1)]
    assert min(rates) > 0 and max(rates) <= .8


# ---- in a run

class Rates:
    """A Solver that notes the learning rate of each step."""

    def __init__(self, solver):
        self._solver, self.rates = solver, []

    def step(self, model, grads, learning_rate, workers):
        self.rates.append(learning_rate)
        self._solver.step(model, grads, learning_rate, workers)

    def __getattr__(self, name):
        return getattr(self._solver, name)


def rates_of(flags):
    state, solver, rng, provider, params = driver.prepare(driver.build_parser(), flags)
    solver = Rates(solver)
    assert driver.train(state, solver, rng, provider, params) == 0
    return solver.rates


def test_a_run_without_these_flags_has_one_learning_rate(root):
    assert rates_of(train_flags(root, '-l', '.002')) == [.002] * 14


def test_a_run_along_a_cosine_with_a_warm_up(root):
    rates = rates_of(train_flags(root, '-l', '.002', '--learning_rate_schedule', 'cosine', '--warmup', '.5'))
    assert rates == pytest.approx([.001 * (1 + math.cos(math.pi * it / 14)) * min(1, (it + 1) / 3.5)
                                   for it in range(14)])
    assert rates[0] < rates[1] < rates[3] > rates[4] > rates[-1] > 0


def test_a_run_that_halves_after_a_warm_up(root):
    flags = ['-l', '.002', '--warmup', '1', '--learning_rate_decay_start', '1', '--learning_rate_decay_every', '1']
    rates = rates_of(train_flags(root, *flags))
    assert rates[:7] == pytest.approx([.002 * it / 7 for it in range(1, 8)])
    assert rates[-1] == pytest.approx(.001)


@pytest.mark.parametrize('flags, said', [
    (['--warmup', '-1'], '--warmup -1.0: must be at least 0'),
    (['--warmup', 'nan'], '--warmup nan: must be a finite number'),
    (['--warmup', '1e300'], '--warmup 1e+300: must be at least 0 and at most'),
    (['--warmup', '1', '--solver', 'adadelta'], '--solver adadelta has none'),
])
def test_what_no_schedule_can_be_is_refused(root, flags, said, capsys):
    assert driver.main(train_flags(root, *flags)) == 2
    err = capsys.readouterr().err
    assert said in err and err.count('\n') == 1 and not (root / 'cv').exists()


def test_a_checkpoint_of_before_these_flags_resumes_at_the_rate_it_had(root):
    driver.main(train_flags(root, '-l', '.002'))
    path = checkpoint_named(root, 'last')
    old = load_checkpoint(path)
    for name in ('learning_rate_schedule', 'warmup'):
        del old['params'][name]
    save_checkpoint(path, old)
    assert rates_of(['--resume', str(path), '--max_epochs', '3']) == [.002] * 7


def test_the_convolutional_network_keeps_its_cosine_and_can_have_another():
    parse = convnet_train.build_parser().parse_args
    assert parse([]).learning_rate_schedule == 'cosine' and parse([]).warmup == 0
    assert parse(['--learning_rate_schedule', 'halving']).learning_rate_decay_start == -1

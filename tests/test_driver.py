import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import SMALL, assert_same_model, checkpoint_named, train_flags, write_tiny_dataset
from driving import at, drive, signalling

import driver
from imagernn.captioning import model
from imagernn.errors import InputError
from imagernn.runs import status
from imagernn.runs.checkpoint_file import load_checkpoint, save_checkpoint

REPOSITORY = Path(__file__).resolve().parents[1]
DEFAULTS = {  # those of the original's driver.py
    'dataset': 'flickr8k', 'do_grad_check': 0, 'fappend': 'baseline', 'checkpoint_output_directory': 'cv/',
    'worker_status_output_directory': 'status/', 'write_checkpoint_ppl_threshold': -1, 'init_model_from': '',
    'generator': 'lstm', 'image_encoding_size': 256, 'word_encoding_size': 256, 'hidden_size': 256, 'tanhC_version': 0,
    'rnn_relu_encoders': 0, 'rnn_feed_once': 0, 'regc': 1e-8, 'max_epochs': 50, 'solver': 'rmsprop', 'momentum': 0,
    'decay_rate': .999, 'smooth_eps': 1e-8, 'learning_rate': 1e-3, 'batch_size': 100, 'grad_clip': 5,
    'drop_prob_encoder': .5, 'drop_prob_decoder': .5, 'word_count_threshold': 5, 'eval_period': 1,
    'eval_batch_size': 100, 'eval_max_images': -1, 'min_ppl_or_abort': -1}


@pytest.fixture
def root(tmp_path):
    write_tiny_dataset(tmp_path)
    return tmp_path


def test_flags_have_the_originals_defaults():
    defaults = vars(driver.build_parser().parse_args([]))
    assert {name: defaults[name] for name in DEFAULTS} == DEFAULTS


def test_short_flags_are_the_originals():
    args = vars(driver.build_parser().parse_args(
        '-d x -a 1 -o there -c .1 -m 3 -l .2 -b 7 -p .5'.split()))
    assert (args['dataset'], args['do_grad_check'], args['checkpoint_output_directory']) == ('x', 1, 'there')
    assert [args[name] for name in ('regc', 'max_epochs', 'learning_rate', 'batch_size', 'eval_period')] == [
        .1, 3, .2, 7, .5]


@pytest.mark.parametrize('generator', ['lstm', 'rnn'])
def test_training_leaves_checkpoints_and_a_status(root, generator, capsys):
    assert driver.main(train_flags(root, '--generator', generator, '--max_epochs', '6')) == 0
    best, last = load_checkpoint(checkpoint_named(root, '')), load_checkpoint(checkpoint_named(root, 'last'))
    assert best['perplexity'] == last['top_val_ppl2'] <= last['history'][0]['val_ppl2']
    assert f'{best["perplexity"]:.2f}.h5' in checkpoint_named(root, '').name
    assert last['it'] == 6 * 7 and last['params']['generator'] == generator
    assert last['features'] == {'file': 'vgg_feats.npy', 'dim': 20}
    assert all(array.dtype == np.float32 for array in last['model'].values())

    status = json.loads(next((root / 'status').glob('*_status.json')).read_text(encoding='utf-8'))
    assert set(status) >= {'params', 'history'}
    entry = status['history'][-1]
    assert set(entry) >= {'time', 'iter', 'epoch', 'time_per_batch', 'smooth_train_ppl2', 'val_ppl2', 'train_ppl2'}
    assert entry['iter'] == [42, 42] and entry['epoch'] == [6, 6]
    out = capsys.readouterr().out
    assert 'eval_sentence_predictions.py' in out and checkpoint_named(root, '').name in out
    assert not list(root.rglob('*.tmp'))


def test_training_lowers_the_perplexity(root):
    driver.main(train_flags(root, '--max_epochs', '20', '-l', '.01', '--drop_prob_encoder', '0'))
    history = load_checkpoint(checkpoint_named(root, 'last'))['history']
    assert min(h['val_ppl2'] for h in history) < .7 * history[0]['val_ppl2']


def test_the_same_seed_gives_the_same_model_and_another_another(root):
    models = []
    for seed in '1', '1', '2':
        driver.main(train_flags(root, '--seed', seed))
        models.append(load_checkpoint(checkpoint_named(root, 'last'))['model'])
    assert_same_model(models[0], models[1])
    assert not np.array_equal(models[0]['Ws'], models[2]['Ws'])


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('flags', [[], ['--generator', 'rnn', '--solver', 'adam', '--dtype', 'float64']])
def test_a_stopped_run_resumes_as_if_never_stopped(root, capsys, number, flags):
    flags = train_flags(root, '--max_epochs', '3', *flags)
    assert driver.main(flags) == 0
    whole = load_checkpoint(checkpoint_named(root, 'last'))
    for path in (root / 'cv').iterdir():
        path.unlink()

    assert drive(flags, step=at(9, signalling(number))) == 128 + number
    last = checkpoint_named(root, 'last')
    assert load_checkpoint(last)['it'] == 10
    assert f'--resume {last}' in capsys.readouterr().out
    assert driver.main(['--resume', str(last)]) == 0

    resumed = load_checkpoint(last)
    assert_same_model(whole['model'], resumed['model'])
    assert whole['rng_state'] == resumed['rng_state']
    for key in 'it', 'epoch', 'val_ppl2', 'top_val_ppl2', 'smooth_train_ppl2', 'cost0', 'wordtoix':
        assert whole[key] == resumed[key]
    assert [h['val_ppl2'] for h in whole['history']] == [h['val_ppl2'] for h in resumed['history']]
    for slot, arrays in whole['solver']['cache'].items():
        assert_same_model(arrays, resumed['solver']['cache'][slot])


def test_resume_trains_longer_when_told_to(root):
    driver.main(train_flags(root))
    last = checkpoint_named(root, 'last')
    assert driver.main(['--resume', str(last), '--max_epochs', '4']) == 0
    assert load_checkpoint(last)['it'] == 4 * 7


def test_resume_of_a_finished_run_does_nothing(root, capsys):
    driver.main(train_flags(root))
    last = checkpoint_named(root, 'last')
    before = load_checkpoint(last)['model']
    assert driver.main(['--resume', str(last)]) == 0
    assert_same_model(before, load_checkpoint(last)['model'])
    assert 'best perplexity' in capsys.readouterr().out


def test_init_model_from_keeps_the_vocabulary_and_the_sizes(root):
    driver.main(train_flags(root))
    best = load_checkpoint(checkpoint_named(root, ''))
    flags = train_flags(root, '--init_model_from', str(checkpoint_named(root, '')), '--word_count_threshold', '9', '-l',
                        '0', '--fappend', 'second')
    for name in SMALL[:6:2]:                                       # the sizes come from the checkpoint
        at = flags.index(name)
        del flags[at:at + 2]
    assert driver.main(flags) == 0
    second = load_checkpoint(checkpoint_named(root, 'second_last'))
    assert second['wordtoix'] == best['wordtoix'] and second['ixtoword'] == best['ixtoword']
    assert_same_model(best['model'], second['model'])
    assert second['it'] == 14


@pytest.mark.parametrize('generator', ['lstm', 'rnn'])
def test_grad_check_prints_a_line_a_parameter(root, generator, capsys):
    assert driver.main(train_flags(root, '-a', '1', '--generator', generator)) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert 'dropout 0.5 / 0.5' in first
    names = model.shapes({'generator': generator}, 20, dict.fromkeys(model.SIZES, 6), 9)
    assert sorted(line.split()[0] for line in lines) == sorted(names)
    assert all(line.endswith('ok') for line in lines)
    assert not (root / 'cv').exists()


def test_grad_check_fails_on_a_wrong_gradient(root, monkeypatch, capsys):
    right = model.softmax_cost_backward

    def wrong(scale, cache):
        dx, dW, db = right(scale, cache)
        dW[:, 3] *= 1.001
        return dx, dW, db

    monkeypatch.setattr(model, 'softmax_cost_backward', wrong)
    assert driver.main(train_flags(root, '-a', '1', '--word_count_threshold', '20')) == 1
    verdicts = {line.split()[0]: line.split()[-1] for line in capsys.readouterr().out.splitlines()[1:]}
    assert verdicts.pop('Wd') == 'WRONG'
    assert set(verdicts.values()) == {'ok'}


def test_an_exploding_run_is_aborted_and_its_last_good_checkpoint_stays(root, capsys):
    flags = train_flags(root, '--solver', 'vanilla', '--grad_clip', '0', '--max_epochs', '50')
    assert driver.main([*flags, '-l', '1e-9', '--max_epochs', '1']) == 0
    last = checkpoint_named(root, 'last')
    before = last.read_bytes()
    assert driver.main([*flags, '-l', '1e3']) == 1
    assert 'twice the first one' in capsys.readouterr().err
    assert last.read_bytes() == before


def test_an_explosion_right_before_an_evaluation_saves_nothing(root, capsys):
    flags = train_flags(root, '--solver', 'vanilla', '--grad_clip', '0', '-l', '1e30', '--max_epochs', '.01')
    assert driver.main(flags) == 1
    assert 'aborted at iteration 1: the cost, ' in capsys.readouterr().err
    assert list((root / 'cv').iterdir()) == []


def test_a_stop_right_after_an_explosion_keeps_the_last_good_checkpoint(root, capsys):
    driver.main(train_flags(root))
    last = checkpoint_named(root, 'last')
    before = last.read_bytes()

    def explode_and_stop(state):
        state.model['Wd'] *= 1e30
        os.kill(os.getpid(), signal.SIGINT)

    assert drive(['--resume', str(last), '--max_epochs', '4'], after_update=explode_and_stop) == 1
    assert 'aborted at iteration 15' in capsys.readouterr().err
    assert last.read_bytes() == before


def test_a_stop_before_the_first_step_saves_nothing(root, monkeypatch, capsys):
    driver.main(train_flags(root))
    last = checkpoint_named(root, 'last')
    before, write = last.read_bytes(), status.StatusFile.write

    def stop_at_once(self, state, *ending):
        write(self, state, *ending)
        if not ending:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(status.StatusFile, 'write', stop_at_once)
    assert driver.main(train_flags(root)) == 130
    assert 'nothing new to save' in capsys.readouterr().out and last.read_bytes() == before


def test_a_run_that_is_stopped_during_an_evaluation_resumes_exactly(root):
    flags = train_flags(root, '--max_epochs', '3')
    assert driver.main(flags) == 0
    whole = load_checkpoint(checkpoint_named(root, 'last'))
    assert drive(flags, evaluation=signalling(signal.SIGTERM)) == 143
    last = checkpoint_named(root, 'last')
    assert load_checkpoint(last)['it'] == 7
    assert driver.main(['--resume', str(last)]) == 0
    resumed = load_checkpoint(last)
    assert_same_model(whole['model'], resumed['model'])
    assert [h['val_ppl2'] for h in whole['history']] == [h['val_ppl2'] for h in resumed['history']]


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs a shell with pipes')
def test_a_reader_that_leaves_does_not_cost_the_run(root):
    command = [sys.executable, str(REPOSITORY / 'driver.py'), *train_flags(root)]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait() in (0, 141, 120), process.stderr.read()
    assert load_checkpoint(checkpoint_named(root, 'last'))['it'] == 14


@pytest.mark.parametrize('flag', ['-o', '--worker_status_output_directory'])
def test_a_folder_that_cannot_be_written_is_said_before_the_training(root, flag, capsys):
    (root / 'file').touch()
    assert driver.main(train_flags(root, flag, str(root / 'file' / 'x'))) == 2
    captured = capsys.readouterr()
    assert str(root / 'file' / 'x') in captured.err and 'perplexity' not in captured.out


def test_a_status_that_cannot_be_written_costs_a_warning_and_not_the_run(root, monkeypatch, capsys):
    def full_disk(path, value):
        raise InputError(f'{path}: no space')

    monkeypatch.setattr(status, 'write_json', full_disk)
    assert driver.main(train_flags(root)) == 0
    assert 'warning: ' in (err := capsys.readouterr().err) and 'no space' in err
    assert load_checkpoint(checkpoint_named(root, 'last'))['it'] == 14


def test_an_earlier_runs_last_checkpoint_is_not_replaced_in_silence(root, capsys):
    driver.main(train_flags(root))
    assert 'will be replaced' not in capsys.readouterr().err
    driver.main(train_flags(root))
    assert f'{checkpoint_named(root, "last")} of an earlier run will be replaced' in capsys.readouterr().err


def test_features_trained_with_are_not_taken_for_another_data_set(root):
    write_tiny_dataset(root, 'other')
    features = root / 'elsewhere.npy'
    np.save(features, np.ones((20, 20), np.float32))
    driver.main(train_flags(root, '--features', str(features)))
    start = ['--init_model_from', str(checkpoint_named(root, '')), '--fappend', 'second']
    for dataset, expected in ('tiny', str(features)), ('other', 'vgg_feats.npy'):
        assert driver.main(train_flags(root, *start, '--dataset', dataset)) == 0
        assert load_checkpoint(checkpoint_named(root, 'second_last'))['features']['file'] == expected


def test_one_word_one_image_a_split_and_a_batch_larger_than_all(tmp_path):
    folder = write_tiny_dataset(tmp_path)
    images = [{'filename': f'{i}.jpg', 'imgid': i, 'split': split, 'sentences': [{'tokens': ['hello']}]}
              for i, split in enumerate(('train', 'val', 'test'))]
    (folder / 'dataset.json').write_text(json.dumps({'images': images}), encoding='utf-8')
    assert driver.main(train_flags(tmp_path, '--word_count_threshold', '1', '--batch_size', '50')) == 0
    assert load_checkpoint(checkpoint_named(tmp_path, 'last'))['ixtoword'] == {0: '.', 1: 'hello'}


def test_min_ppl_or_abort(root, capsys):
    assert driver.main(train_flags(root, '--min_ppl_or_abort', '1.5')) == 1
    assert '--min_ppl_or_abort 1.5' in capsys.readouterr().err
    assert load_checkpoint(checkpoint_named(root, 'last'))['it'] == 7


def test_checkpoints_below_the_threshold_only(root, capsys):
    assert driver.main(train_flags(root, '--write_checkpoint_ppl_threshold', '1.5')) == 0
    assert [path.name[-7:] for path in (root / 'cv').iterdir()] == ['last.h5']
    assert 'last.h5' in capsys.readouterr().out


@pytest.mark.parametrize(('flags', 'words'), [
    (['--dataset', 'absent'], ['absent', 'tiny']),
    (['--features', 'absent.mat'], ['absent.mat']),
    (['--image_encoding_size', '8'], ['--image_encoding_size 8', '--word_encoding_size 6']),
    (['--generator', 'rnn', '--hidden_size', '8'], ['--image_encoding_size 6', '--hidden_size 8']),
    (['--hidden_size', '0'], ['--hidden_size 0']),
    (['--batch_size', '0'], ['--batch_size 0']),
    (['--eval_batch_size', '0'], ['--eval_batch_size 0']),
    (['--drop_prob_decoder', '1'], ['--drop_prob_decoder 1']),
    (['--decay_rate', '2'], ['--decay_rate 2']),
    (['--max_epochs', '0'], ['--max_epochs 0']),
    (['--learning_rate', 'nan'], ['--learning_rate nan']),
    (['--grad_clip', 'nan'], ['--grad_clip nan']),
    (['--smooth_eps', 'inf'], ['--smooth_eps inf']),
    (['--fappend', '../x'], ['--fappend ../x']),
    (['--eval_max_images', '0'], ['--eval_max_images 0', '-1 for all']),
    (['--fappend', ''], ['--fappend']),
    (['--fappend', 'x' * 300], ['--fappend x']),
    (['--hidden_size', '1000000000000'], ['--hidden_size 1000000000000']),
    (['--batch_size', '100000000000'], ['--batch_size 100000000000']),
    (['--eval_period', '1e308'], ['--eval_period 1e+308']),
    (['--resume', 'x' * 300], ['x' * 300]),
    (['--dataset', 'x' * 300], ['x' * 300]),
    (['--features', 'x' * 300], ['x' * 300]),
    (['--word_count_threshold', '1000'], ['--word_count_threshold 1000']),
    (['--resume', 'absent.h5'], ['absent.h5']),
    (['--init_model_from', 'absent.h5'], ['absent.h5']),
    (['--resume', 'a', '--init_model_from', 'b'], ['--resume', '--init_model_from']),
])
def test_a_mistake_is_a_message_and_exit_code_2(root, flags, words, capsys):
    assert driver.main(train_flags(root, *flags)) == 2
    message = capsys.readouterr().err
    assert message.startswith('error: ') and message.count('\n') == 1
    assert all(word in message for word in words), message
    assert not (root / 'cv').exists()


def test_unknown_choices_are_refused_with_the_known_ones(root, capsys):
    with pytest.raises(SystemExit) as exit:
        driver.main(train_flags(root, '--solver', 'sgd'))
    assert exit.value.code == 2 and 'rmsprop' in capsys.readouterr().err


@pytest.mark.parametrize(('change', 'words'), [
    (lambda c: c.pop('solver'), ['solver', '--init_model_from']),
    (lambda c: c['model'].update(Wd=c['model']['Wd'][:, :-1]), ['Wd']),
    (lambda c: c['model'].pop('WLSTM'), ['WLSTM']),
    (lambda c: c['model']['We'].fill(np.nan), ['We', 'not finite']),
    (lambda c: c['params'].update(generator='gru'), ['gru', 'lstm']),
    (lambda c: c['params'].update(generator=['lstm']), ['lstm']),
    (lambda c: c.update(it='x'), ['it', '--init_model_from']),
    (lambda c: c.update(it=-5), ['it', '--init_model_from']),
    (lambda c: c.update(top_val_ppl2='x'), ['top_val_ppl2']),
    (lambda c: c['params'].update(batch_size=10.5), ['batch_size is 10.5']),
    (lambda c: c['params'].update(grad_clip='abc'), ['grad_clip']),
    (lambda c: c['params'].update(dtype='x'), ['dtype']),
    (lambda c: c['params'].update(regc=None), ['regc']),
    (lambda c: c.update(features={'file': 5}), ['5', '--features']),
    (lambda c: c['rng_state'].update(bit_generator='nonsense'), ['random state']),
    (lambda c: c['rng_state']['state'].update(state=-1), ['random state']),
    (lambda c: c['solver'].update(step='x'), ['random state']),
    (lambda c: c.update(smooth_train_ppl2=10 ** 400), ['smooth_train_ppl2']),
    (lambda c: c['solver']['cache']['squares'].pop('Wd'), ['squares', '--init_model_from']),
    (lambda c: (c['ixtoword'].update({999: c['ixtoword'].pop(5)}), c['wordtoix'].update({c['ixtoword'][999]: 999})),
     ['not numbered']),
])
def test_a_checkpoint_that_cannot_be_gone_on_with(root, change, words, capsys):
    driver.main(train_flags(root))
    checkpoint = load_checkpoint(checkpoint_named(root, 'last'))
    change(checkpoint)
    bad = root / 'bad.h5'
    save_checkpoint(bad, checkpoint)
    capsys.readouterr()
    assert driver.main(['--resume', str(bad)]) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words) and message.startswith('error: '), message


def test_resume_refuses_other_sizes_and_other_features(root, capsys):
    driver.main(train_flags(root))
    last = str(checkpoint_named(root, 'last'))
    assert driver.main(['--resume', last, '--hidden_size', '7']) == 2
    assert '--hidden_size 7' in capsys.readouterr().err
    assert driver.main(['--resume', last, '--solver', 'adagrad', '--max_epochs', '3']) == 2
    assert '--solver adagrad' in capsys.readouterr().err
    for name, value in ('dataset', 'other'), ('seed', '9'), ('batch_size', '5'), ('word_count_threshold', '4'):
        assert driver.main(['--resume', last, f'--{name}', value]) == 2
        assert f'--{name} {value}' in (err := capsys.readouterr().err) and '--init_model_from' in err
    np.save(root / 'tiny' / 'other.npy', np.ones((20, 3), np.float32))
    assert driver.main(['--resume', last, '--features', 'other.npy']) == 2
    assert 'other.npy' in capsys.readouterr().err


def test_the_script_itself_ends_with_2_and_without_a_traceback(tmp_path):
    done = subprocess.run([sys.executable, str(REPOSITORY / 'driver.py'), '--data_root', str(tmp_path)], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith('error: ') and 'Traceback' not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('flags', [['--num_threads', '1'], ['--num_threads', '2', '--generator', 'rnn']])
def test_the_profile_names_the_functions_and_adds_up(root, flags):
    command = [sys.executable, REPOSITORY / 'driver.py', *train_flags(root, '--profile', *flags)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert any(line.startswith('first step after ') for line in lines)
    start = next(i for i, line in enumerate(lines) if line.startswith('14 steps, '))
    stop = next(i for i, line in enumerate(lines) if line.startswith('peak memory '))
    parts = {line.split()[0]: [float(figure.rstrip('%')) for figure in line.split()[1:]]
             for line in lines[start + 2:stop]}
    recurrent = 'nn.rnn' if 'rnn' in flags else 'nn.lstm'
    assert {f'{recurrent}.forward', f'{recurrent}.backward'} <= set(parts)
    threads, whole = int(flags[1]), float(lines[start].split()[2])
    assert .5 * whole < sum(ms for ms, _ in parts.values()) <= 1.02 * threads * whole
    assert sum(share for _, share in parts.values()) <= 100.5


def test_a_run_goes_on_with_the_number_of_threads_that_it_began_with(root):
    """So that it is the same to the last bit on a machine with more cores, or fewer."""
    driver.main(train_flags(root, '--num_threads', '3', '--max_epochs', '4'))
    whole = load_checkpoint(checkpoint_named(root, 'last'))
    driver.main(train_flags(root, '--num_threads', '3'))
    driver.main(['--resume', str(checkpoint_named(root, 'last')), '--max_epochs', '4'])
    resumed = load_checkpoint(checkpoint_named(root, 'last'))
    assert resumed['params']['num_threads'] == 3
    assert_same_model(resumed['model'], whole['model'])


@pytest.mark.parametrize('num_threads', [1, 3])
def test_the_batch_is_shared_out_to_as_many_threads_as_the_flag_says(root, num_threads):
    used = set()
    drive(train_flags(root, '--num_threads', str(num_threads)),
          before_update=lambda grads, workers: used.add(len(workers.scratches)))
    assert used == {num_threads}

"""Values at the edge of what numbers and file names can be: a message, or the same result as any other value."""

import json

import pytest
from datasets import checkpoint_named, train_flags, write_tiny_dataset

import driver
import eval_sentence_predictions
import predict_on_images


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('flags')
    write_tiny_dataset(root)
    assert driver.main(train_flags(root)) == 0
    return root


@pytest.mark.parametrize('flag', ['regc', 'smooth_eps', 'learning_rate'])
@pytest.mark.parametrize('value', ['1e39', '3.5e38', '1e300'])
def test_a_number_that_float32_cannot_hold_is_refused(tmp_path, flag, value, capsys):
    write_tiny_dataset(tmp_path)
    assert driver.main(train_flags(tmp_path, f'--{flag}={value}')) == 2
    assert f'--{flag} {float(value)}: must be at least 0 and at most 3.4e+38' in capsys.readouterr().err


@pytest.mark.parametrize('main', [eval_sentence_predictions.main, predict_on_images.main])
@pytest.mark.parametrize('value', ['1e-39', '1e-320', '1e-7', '1e7', '1e39', 'inf', '-inf', 'nan', '-1e-320'])
def test_a_temperature_that_no_arithmetic_can_use_is_refused(main, value, capsys):
    """float32 cannot hold 1 / 1e-39; at infinity all words would be equally likely, END among them."""
    assert main(['checkpoint.h5', f'--temperature={value}']) == 2
    err = capsys.readouterr().err
    assert err.startswith(f'error: --temperature {float(value)}: must be ') and err.count('\n') == 1


@pytest.mark.parametrize('value', ['0', '1e-6', '1e-3', '1e3', '1e6'])
def test_the_extreme_temperatures_that_are_allowed_give_captions(root, tmp_path, value):
    def captions(*flags):
        path = tmp_path / 'result.json'
        assert eval_sentence_predictions.main([str(checkpoint_named(root, 'last')), '--data_root', str(root),
                                               '--result_struct_filename', str(path), *flags]) == 0
        return [blob['candidate'] for blob in json.loads(path.read_text(encoding='utf-8'))['imgblobs']]

    found = captions('--temperature', value)
    assert all(caption['logprob'] > -1e4 for caption in found)
    if float(value) <= 1e-3:
        assert [caption['text'] for caption in found] == [caption['text'] for caption in captions()]
    if float(value) >= 1e3:
        assert any(caption['text'] for caption in found)


def test_a_photo_captioner_needs_pictures_but_no_checkpoint(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert predict_on_images.main([]) == 2
    assert capsys.readouterr().err == 'error: name at least one picture, or with -r a folder with tasks.txt\n'
    assert predict_on_images.main(['-r', 'absent']) == 2
    note, error = capsys.readouterr().err.splitlines()
    assert note.startswith('note: captioned by the pretrained captioner, ') and 'absent/tasks.txt: there is' in error


@pytest.mark.parametrize('name', ['x' * 100, 'ü' * 50, '猫' * 33, '🐈' * 25, 'a b', '--x', "'; rm"])
def test_a_name_of_a_hundred_bytes_fits_into_every_file_name(root, name):
    assert driver.main([*train_flags(root), f'--fappend={name}', '--max_epochs', '1']) == 0
    assert driver.main([*train_flags(root), f'--fappend={name}', '--resume', 'auto']) == 0
    assert any(name in path.name for path in (root / 'cv').glob('*_last.h5'))


@pytest.mark.parametrize('name', ['x' * 101, 'ü' * 51, 'ü' * 100, '猫' * 34, '🐈' * 100, 'x\ty', '\ud800', 'a\\b'])
def test_a_name_that_takes_more_bytes_is_refused_before_anything_is_written(root, tmp_path, name, capsys):
    assert driver.main([*train_flags(root), f'--fappend={name}', '-o', str(tmp_path / 'cv')]) == 2
    assert '--fappend' in (err := capsys.readouterr().err) and '1 to 100 characters' in err and err.count('\n') == 1
    assert not list(tmp_path.iterdir())

"""The command that translates: searches, ensembles, n-best lists, its streams, and what it refuses."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from imagernn.nn.search import greedy_search, make_mean_tick, pooled_beam_search
from imagernn.runs.checkpoint_file import save_checkpoint
from imagernn.translation import translate
from imagernn.translation.load import load_translator
from imagernn.translation.model import make_tick, read_sources, shapes
from imagernn.translation.translator import MOST_WORDS, Translator

SOURCE_WORDS = ['#START#', '<unk>', *'abcdefg']
WORDS = ['#END#', '<unk>', *'TUVWXYZ']
LINES = ['a b c', '', 'g', 'd e f g a b c d e f', 'c b', '? ! ?', 'a b c d']


def checkpoint_of(path, seed=1, words=WORDS, **params):
    """Write a checkpoint of a small model with large weights, so that its translations differ -> its path."""
    params = {'layer': 'lstm', 'embedding_size': 8, 'hidden_sizes': '12', 'attention': False,
              'source_order': 'reversed', 'tokenizer': 'none', 'lower_case': False, 'source': 'train.xx',
              'target': 'train.yy', 'tanhC_version': 1, **params}
    rng = np.random.default_rng(seed)
    model = {name: rng.uniform(-.1, .1, shape) for name, shape in
             shapes(params, len(SOURCE_WORDS), len(words)).items()}
    model['bd'][:] = 0
    for name, w in model.items():
        w *= 40 if name in ('source_Ws', 'Wd') else 8 if name == 'Ws' else 10 if name.startswith('decoder') else 6
    model['bd'][0, 0] = 1
    ixtoword = dict(enumerate(words))
    save_checkpoint(path, {'kind': 'translation', 'model': model, 'params': params, 'ixtoword': ixtoword,
                           'wordtoix': {word: ix for ix, word in ixtoword.items()}, 'source_words': SOURCE_WORDS})
    return str(path)


@pytest.fixture
def path(tmp_path):
    return checkpoint_of(tmp_path / 'a.h5', attention=True)


@pytest.fixture
def run(monkeypatch, capsys):
    """A function: arguments and the bytes of standard input -> the exit code, lines of output, errors."""
    def run(*arguments, given=None):
        given = '\n'.join(LINES).encode() if given is None else given
        monkeypatch.setattr('sys.stdin', io.TextIOWrapper(io.BytesIO(given)))
        code = translate.main(list(map(str, arguments)))
        said = capsys.readouterr()
        return code, said.out.split('\n')[:-1], said.err
    return run


def members_of(*paths):
    return [(found['model'], found['params']) for found in (load_translator(path, 'float64') for path in paths)]


def start_of(line, members):
    """The state before the first word of the translations of one line, of several models."""
    words = np.array([SOURCE_WORDS.index(word) if word in SOURCE_WORDS else 1 for word in line.split()])
    return tuple(part for model, params in members for part in read_sources(words, np.array([len(words)]), model,
                                                                            params))


def text_of(sentence):
    return ' '.join(WORDS[word] for word in sentence.words if word)


@pytest.mark.parametrize('more', [{}, {'attention': True}, {'layer': 'gru', 'source_order': 'forward'}])
def test_translations_are_those_of_the_search_alone(tmp_path, run, more):
    """Greedy and by beam, of each line by itself; an empty line stays empty, and all are in order."""
    path = checkpoint_of(tmp_path / 'a.h5', **more)
    members = members_of(path)
    tick = make_tick(*members[0])
    for beam_size, search in ((1, lambda state, most: greedy_search(tick, state, most)),
                              (3, lambda state, most: pooled_beam_search(tick, state, 3, most, 1, .7))):
        expected = []
        for line in LINES:
            most = 2 * -(-len(line.split()) // 8) * 8 + 10
            expected.append(text_of(search(start_of(line, members), most)[0][0]) if line else '')
        assert len(set(expected)) > 3
        for size in 1, 2, 100:
            code, found, _ = run(path, '--beam_size', beam_size, '--length_penalty', .7, '--batch_size', size)
            assert code == 0 and found == expected


def test_threads_change_nothing(path, run):
    assert run(path, '--num_threads', 3) == run(path, '--num_threads', 1)


def test_nbest_lists_have_numbers_and_scores(path, run):
    code, found, _ = run(path, '--beam_size', 4, '--nbest', 3, '--length_penalty', .5)
    members = members_of(path)
    sentences = pooled_beam_search(make_tick(*members[0]), start_of(LINES[0], members), 4, 26, 3, .5)[0]
    assert code == 0 and len(sentences) == 3
    expected = [f'1\t{each.logprob / len(each.words) ** .5:.4f}\t{text_of(each)}' for each in sentences]
    assert found[:4] == [*expected, '2\t0.0000\t']
    numbers = [int(line.split('\t')[0]) for line in found]
    assert numbers == sorted(numbers) and set(numbers) == {*range(1, len(LINES) + 1)}


def test_an_ensemble_averages_probabilities(tmp_path, run):
    paths = [checkpoint_of(tmp_path / f'{seed}.h5', seed, attention=seed == 2) for seed in (1, 2, 3)]
    members = members_of(*paths)
    ticks = [make_tick(*member) for member in members]
    states = [start_of('a b', [member]) for member in members]
    tick = make_mean_tick(ticks, list(map(len, states)))
    words, state = np.zeros(1, np.int64), sum(states, ())
    for _ in range(3):
        logprobs, state = tick(words, state)
        each = [one(words, own) for one, own in zip(ticks, states, strict=True)]
        states = [own for _, own in each]
        mean = np.mean([np.exp(found) for found, _ in each], axis=0)
        np.testing.assert_allclose(np.exp(logprobs), mean, rtol=1e-12)
        assert logprobs[0, 1] == -np.inf    # the unknown word is never written
        words = logprobs.argmax(axis=1)
    alone, twice, all_of_them = (run(*some)[1] for some in (paths[:1], paths[:1] * 2, paths))
    assert alone == twice != all_of_them


def test_very_small_probabilities_have_a_mean():
    ticks = [lambda words, state: (np.array([[-1000., -np.inf, 0]], np.float32), state),
             lambda words, state: (np.array([[-1001., -np.inf, 0]], np.float32), state)]
    found, state = make_mean_tick(ticks, [1, 2])(None, ('a', 'b', 'c'))
    np.testing.assert_allclose(found, [[-1000 + np.log((1 + np.exp(-1)) / 2), -np.inf, 0]], rtol=1e-6)
    assert state == ('a', 'b', 'c')


@pytest.mark.parametrize('more, expected', [
    ({'words': [*WORDS, 'S']}, 'has another vocabulary than'), ({'lower_case': True}, 'has --lower_case True, and')])
def test_an_ensemble_needs_one_vocabulary(tmp_path, path, run, more, expected):
    code, found, message = run(path, checkpoint_of(tmp_path / 'b.h5', **more))
    assert code == 2 and not found and f'b.h5: {expected}' in message


def test_text_is_tokenized_and_put_together_as_in_training(tmp_path, run):
    path = checkpoint_of(tmp_path / 'a.h5', seed=2, words=['#END#', '<unk>', 'I', '￭\'￭', 'm', '￭.'], tokenizer='words',
                         lower_case=True)
    checkpoint = load_translator(path)
    translator = Translator([checkpoint])
    assert translator.words_of(['A b, C.']) == [['a', 'b', '￭,', 'c', '￭.']]
    texts = [best.text for best, in translator.translate(translator.words_of(['a b', 'b', 'g', 'a f']))]
    assert run(path, given=b'A B\nB\nG\nA F')[1] == texts
    assert "'" in ''.join(texts) and not any(part in text for text in texts for part in ('￭', " '", "' ", ' .'))


def test_unknown_words_are_counted_once(path, run):
    code, found, message = run(path, given=b'a zig\nzag zig\n\n')
    assert code == 0 and len(found) == 3 and found[1]
    assert message == ('warning: 3 of 4 words are unknown to the model and were read as one unknown word, such as '
                       "'zig', 'zag'\n")
    assert run(path, given=b'a b\n')[2] == ''


def test_long_lines_are_translated_as_far_as_can_be(path, run):
    code, found, message = run(path, '--beam_size', 1, given=b'a ' * (MOST_WORDS + 5) + b'\nb')
    assert code == 0 and len(found) == 2 and all(len(line.split()) <= 500 for line in found)
    assert f'line 1 has 1,005 words; its first {MOST_WORDS:,} are translated' in message


def test_lines_before_one_that_is_not_text_are_translated(path, run):
    code, found, message = run(path, given=b'a b\ncaf\xe9\n')
    assert code == 2 and len(found) == 1 and 'standard input: line 2 is not UTF-8' in message


def test_closed_standard_input_is_reported(path, monkeypatch, capsys):
    monkeypatch.setattr('sys.stdin', None)    # as with <&-
    assert translate.main([path]) == 2
    assert capsys.readouterr().err == 'error: standard input is closed; give it text, as in: < text.fr\n'


def test_nothing_gives_nothing(path, run):
    assert run(path, given=b'') == (0, [], '')


@pytest.mark.parametrize('flags', ['--beam_size 0', '--beam_size 1001', '--nbest 0', '--nbest 6', '--length_penalty -1',
                                   '--length_penalty nan', '--num_threads 0', '--batch_size 0'])
def test_bad_flags_are_named(path, run, flags):
    code, found, message = run(path, *flags.split())
    assert code == 2 and not found and message.startswith(f'error: {flags}'.replace('-1', '-1.0'))


def test_each_batch_is_written_at_once_and_a_reader_may_leave(path):
    """As a program that waits for each answer does: it writes a line, reads one, and closes early."""
    process = subprocess.Popen([sys.executable, '-m', 'imagernn', 'translate', path, '--batch_size', '1'],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               cwd=Path(__file__).parents[1], env={**os.environ, 'PYTHONUNBUFFERED': ''})
    for line in b'a b c\n', b'\n', b'd e\n':
        process.stdin.write(line)
        process.stdin.flush()
        assert process.stdout.readline().endswith(b'\n')
    process.stdout.close()
    process.stdin.write(b'a b c\n' * 3)
    process.stdin.close()
    assert process.wait(30) == 141 and process.stderr.read() == b''
    process.stderr.close()

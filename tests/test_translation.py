"""Translation models from the command line: a copy task, exact resuming, adapting, samples as a model learns, word
vectors, and what cannot be trained on.
"""

import json

import numpy as np
import pytest
from driving import Stepper, nothing

from imagernn.corpus.word_vectors import read_vectors
from imagernn.errors import InputError
from imagernn.nn.search import greedy_search
from imagernn.nn.workers import Workers
from imagernn.runs.checkpoint_file import load_checkpoint, save_checkpoint
from imagernn.translation import train
from imagernn.translation.batch import make_batch
from imagernn.translation.evaluate import nats_of
from imagernn.translation.load import load_translator
from imagernn.translation.model import attention_of, make_tick, read_sources
from imagernn.translation.text import Pairs, detokenize, encode, tokenize

WORDS = 'abcdef'
FILES = ['--source', 'train.xx', '--target', 'train.yy', '--val_source', 'val.xx', '--val_target', 'val.yy']
TINY = [*FILES, '--embedding_size', '8', '--hidden_sizes', '8', '-b', '60', '-m', '2', '--num_threads', '1']


@pytest.fixture
def copies(tmp_path, monkeypatch):
    """Sentences of one to four letters; their translations are the same letters in upper case."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for split, n in ('train', 1200), ('val', 30):
        lines = [' '.join(rng.choice(list(WORDS), rng.integers(1, 5))) for _ in range(n)]
        (tmp_path / f'{split}.xx').write_text('\n'.join(lines), encoding='utf-8')
        (tmp_path / f'{split}.yy').write_text('\n'.join(lines).upper(), encoding='utf-8')
    return tmp_path


def last_of(folder):
    path, = (folder / 'cv').glob('*_last.h5')
    return path


def translations(checkpoint, lines):
    """What greedy search writes for lines of words."""
    model, params = checkpoint['model'], checkpoint['params']
    tokens, lengths = encode([line.split() for line in lines], checkpoint['source_ixtoword'])
    state = read_sources(tokens, lengths, model, params)
    return [' '.join(checkpoint['ixtoword'][ix] for ix in best.words if ix)
            for best, in greedy_search(make_tick(model, params), state)]


@pytest.mark.parametrize('more', [[], ['--attention'], ['--layer', 'gru', '--source_order', 'forward'],
                                  ['--layer', 'gru', '--attention', '-l', '.005']])
def test_a_copy_task_is_learned(copies, more):
    flags = [*TINY, '--hidden_sizes', '48', '--embedding_size', '24', '--drop_prob', '0', '-l', '.01',
             '-b', '20', '-m', '12', '--eval_period', '4', *more]
    assert train.main(flags) == 0
    checkpoint = load_translator(last_of(copies))
    lines = (copies / 'val.xx').read_text(encoding='utf-8').split('\n')
    assert translations(checkpoint, lines) == [line.upper() for line in lines]
    assert checkpoint['perplexity'] < 1.1 and checkpoint['params']['dataset'] == 'train.xx-yy'
    # a source of unknown words alone, and an empty one, have translations, too
    assert len(translations(checkpoint, ['? ?', ''])) == 2
    if '--attention' in more:    # each word is found in the word that it copies
        sides = encode([list('bfad')], checkpoint['source_ixtoword']), encode([list('BFAD')], checkpoint['ixtoword'])
        weights, = attention_of(make_batch(*sides[0], *sides[1]), checkpoint['model'], checkpoint['params'])
        assert weights[:4].argmax(axis=1).tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize('more', [[], ['--tokenizer', 'words', '--attention'], ['--weight_average', '.9']],
                         ids=' '.join)
def test_every_evaluation_shows_the_translation_of_the_next_pair_of_val(copies, more, capsys):
    for split, lines in ('train', ['a, b.', 'c d.'] * 300), ('val', ['a, b.', '? d.']):
        (copies / f'{split}.xx').write_text('\n'.join(lines), encoding='utf-8')
        (copies / f'{split}.yy').write_text('\n'.join(lines).upper(), encoding='utf-8')
    assert train.main([*TINY, '-m', '3', '-l', '.05', *more]) == 0
    status, = (copies / 'status').glob('*.json')
    samples = [report['sample'] for report in json.loads(status.read_text())['history'] if report['evaluated']]
    assert len(samples) == 3
    out = capsys.readouterr().out
    assert all(f'\n  {line}\n' in out for text in samples for line in text.split('\n'))
    rows = [text.split('\n') for text in samples]
    sources, references = ['a, b.', '<unk> d.', 'a, b.'], ['A, B.', '<unk> D.', 'A, B.']
    assert [row[0] for row in rows] == [f'source: {line}' for line in sources]
    assert [row[2] for row in rows] == [f'reference: {line}' for line in references]
    # what greedy search writes with the model of the checkpoint, put together again
    checkpoint = load_translator(last_of(copies))
    words, = tokenize(sources[-1:], checkpoint['params']['tokenizer'])
    written, = translations(checkpoint, [' '.join(words)])
    assert rows[-1][1:2] == [f'translation: {line}' for line in detokenize([written.split()],
                                                                           checkpoint['params']['tokenizer'])]


def vectors_of(path, words, size=8):
    """Write a file of word vectors, and return them: a dict word -> (size,)."""
    rows = np.random.default_rng(len(path)).normal(size=(len(words), size))
    with open(path, 'w', encoding='utf-8') as file:
        file.writelines(f'{word} {" ".join(map(str, row))}\n' for word, row in zip(words, rows, strict=True))
    return read_vectors(path, words, size)[0]


@pytest.mark.parametrize('flags', [['--word_vectors', 'y.txt'], ['--source_word_vectors', 'source.txt'],
                                   ['--word_vectors', 'y.txt', '--source_word_vectors', 'source.txt']])
def test_a_new_model_starts_from_word_vectors_which_may_be_fixed(copies, flags, capsys):
    vectors = {'word_vectors': ('Ws', 'ixtoword', vectors_of('y.txt', WORDS.upper()[:4])),
               'source_word_vectors': ('source_Ws', 'source_ixtoword', vectors_of('source.txt', WORDS[:3]))}

    def taken(checkpoint):
        """The parameters that still have the vectors of a file."""
        rows = {name: {word: checkpoint['model'][name][ix] for ix, word in checkpoint[words].items()}
                for name, words, _ in vectors.values()}
        return {name for name, _, of in vectors.values() if all((rows[name][word] == of[word]).all() for word in of)}

    given = {name for flag, (name, _, _) in vectors.items() if f'--{flag}' in flags}
    state, *_ = train.prepare([*TINY, *flags])
    assert taken({'model': state.model, 'ixtoword': state.extra['ixtoword'],
                  'source_ixtoword': dict(enumerate(state.extra['source_words']))}) == given
    for fixed in ([], ['--fix_word_vectors']):
        capsys.readouterr()
        assert train.main([*TINY, '-m', '.3', '-c', '.01', *flags, *fixed]) == 0
        out = capsys.readouterr().out
        assert ('y.txt: has vectors of 4 of the 7 words' in out) == ('Ws' in given)
        assert ('source.txt: has vectors of 3 of the 7 words' in out) == ('source_Ws' in given)
        checkpoint = load_translator(last_of(copies))
        assert taken(checkpoint) == (given if fixed else set())
    # a run that resumes, or starts from the weights, has no need of the files
    for name in 'y.txt', 'source.txt':
        (copies / name).unlink()
    path = str(last_of(copies))
    assert train.main([*FILES, '--resume', path, '-m', '.4']) == 0
    assert taken(load_translator(path)) == given
    assert train.main(['--resume', path, flags[0], 'other.txt']) == 2
    assert f'was made with {flags[1]}' in capsys.readouterr().err
    assert train.main([*FILES, '--init_model_from', path, '--fix_word_vectors', '-m', '.1', '--fappend', 'x']) == 0
    assert taken(load_translator(next(copies.glob('cv/*_x_last.h5')))) == given


def test_words_that_began_at_random_may_be_fixed_in_a_run_that_starts_from_their_weights(copies):
    assert train.main([*TINY, '-m', '.1']) == 0
    path = last_of(copies)
    assert train.main([*FILES, '--init_model_from', str(path), '--fix_word_vectors', '-m', '.1', '--fappend', 'x']) == 0
    before, after = (load_translator(one)['model'] for one in (path, next(copies.glob('cv/*_x_last.h5'))))
    assert {name for name in before if (before[name] == after[name]).all()} == {'Ws', 'source_Ws'}


@pytest.mark.parametrize(('flags', 'contents', 'words'), [
    (['--word_vectors', 'v.txt'], 'A 1 2\n', '2 numbers, but --embedding_size is 8; give --embedding_size 2'),
    (['--source_word_vectors', 'v.txt'], 'a 1 2\n', 'but --embedding_size is 8; give --embedding_size 2'),
    (['--source_word_vectors', 'v.txt'], 'A 1 2 3 4 5 6 7 8\n', 'v.txt: has none of the 7 words'),
    (['--source_word_vectors', 'absent.txt'], '', 'absent.txt: cannot be read'),
    (['--fix_word_vectors'], '', '--fix_word_vectors: the words would keep random vectors')])
def test_word_vectors_that_cannot_be_used(copies, flags, contents, words, capsys):
    (copies / 'v.txt').write_text(contents, encoding='utf-8')
    assert train.main([*TINY, *flags]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count('\n') == 1


@pytest.mark.parametrize('more', [[], ['--attention', '--hidden_sizes', '8,6'], ['--layer', 'gru'],
                                  ['--weight_average', '.9', '--tokenizer', 'words', '--lower_case']])
def test_resumed_equals_uninterrupted(copies, more):
    flags = [*TINY, *more, '--checkpoint_every', '7']
    assert train.main(flags) == 0
    path = last_of(copies)
    whole = load_translator(path)
    values = [report['val_ppl2'] for report in whole['history'] if report['evaluated']]
    assert whole['it'] == 40 and values[-1] < values[0]
    # again, and resumed from the middle of the second epoch
    path.unlink()
    state, solver, *rest = train.prepare(flags)

    def halt(state):
        if state.it == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train.train(state, Stepper(solver, state, nothing, halt), *rest)
    assert load_translator(path)['it'] == 28
    assert train.main([*FILES, '--resume', 'auto']) == 0
    resumed = load_translator(path)
    assert resumed['val_ppl2'] == whole['val_ppl2']
    for name, w in whole['model'].items():
        np.testing.assert_array_equal(resumed['model'][name], w, err_msg=name)


def test_a_run_that_resumes_needs_the_same_sentences_and_flags(copies, capsys):
    assert train.main([*TINY, '-m', '.1']) == 0
    path = str(last_of(copies))
    for flags, words in ((['--source_order', 'forward'], 'leave the flag out'), (['-b', '3'], '--init_model_from')):
        assert train.main(['--resume', path, *flags]) == 2 and words in capsys.readouterr().err
    with open('val.yy', 'a', encoding='utf-8') as file:
        file.write(' A')
    assert train.main(['--resume', path]) == 2
    assert 'the sentences have changed since' in capsys.readouterr().err
    # a new run from its weights has its vocabularies
    assert train.main([*FILES, '--init_model_from', path, '-m', '.1', '--fappend', 'more']) == 0
    assert (copies / 'train.xx').write_text('? ?\n' * 1200) and train.main(
        [*FILES, '--init_model_from', path, '--fappend', 'other']) == 2
    assert 'train.xx: no word is in the vocabulary' in capsys.readouterr().err


def test_a_run_whose_files_were_moved_resumes_with_their_new_names(copies):
    assert train.main([*TINY, '-m', '.1']) == 0
    path = last_of(copies)
    (copies / 'moved').mkdir()
    for name in FILES[1::2]:
        (copies / name).rename(copies / 'moved' / f'new_{name}')
    moved = [word if word.startswith('--') else f'moved/new_{word}' for word in FILES]
    assert train.main(['--resume', str(path), *moved, '-m', '.2']) == 0
    assert last_of(copies) == path    # the run keeps its name
    checkpoint = load_translator(path)
    assert checkpoint['it'] == 4 and checkpoint['params']['dataset'] == 'train.xx-yy'
    assert train.main(['--resume', str(path), '-m', '.3']) == 0    # and remembers where the files are


def test_a_run_is_named_by_files_without_a_suffix_as_well(copies):
    for name in 'xx', 'yy':
        (copies / f'train.{name}').rename(copies / name)
    *_, params = train.prepare([*TINY, '--source', 'xx', '--target', 'yy'])
    assert params['dataset'] == 'xx-yy'


def test_val_files_in_another_language_are_noticed(copies, capsys):
    (copies / 'val.yy').write_text('\n'.join(['A x y', *'ZYX' * 9, 'A', 'B']), encoding='utf-8')
    train.prepare(TINY)
    assert capsys.readouterr().err == ('warning: val.yy: 91 % of its words are unknown to the model; is it in the '
                                       'language of train.yy?\n')
    assert train.main([*TINY, '--val_source', 'val.yy', '--val_target', 'val.xx']) == 2
    assert 'error: val.yy: no word is in the vocabulary' in capsys.readouterr().err


def test_val_files_have_the_languages_of_the_training_files(copies):
    pytest.importorskip('sacremoses')
    for split, n in ('train', 30), ('val', 3):
        (copies / f'{split}.fr').write_text("l'eau\n" * n, encoding='utf-8')
        (copies / f'{split}.en').write_text("it isn't\n" * n, encoding='utf-8')
    (copies / 'val.fr').rename('val.txt')
    _, _, _, splits, _ = train.prepare(['--source', 'train.fr', '--target', 'train.en', '--val_source', 'val.txt',
                                        '--val_target', 'val.en', '--tokenizer', 'sacremoses'])
    assert splits['val'].source[0].tolist() == [2, 3] * 3    # l' and eau


def test_nats_do_not_depend_on_the_batches(copies):
    state, _, _, splits, params = train.prepare(TINY)
    pairs = splits['train']
    whole = nats_of(pairs, state.model, params)
    assert whole == pytest.approx(nats_of(pairs, state.model, params, Workers(3)), rel=1e-6)
    assert whole == pytest.approx(np.log(len(state.extra['ixtoword'])), rel=.1)    # of weights that know nothing
    # each word counts once: two halves weigh as much as they have words, END included
    count, halves = 0, 0.
    for numbers in np.array_split(np.arange(1200), [150]):
        part = Pairs(*((np.concatenate([sentences[k] for k in numbers]), lengths[numbers])
                       for lengths, sentences in ((lengths, np.split(tokens, np.cumsum(lengths)[:-1]))
                                                  for tokens, lengths in pairs)))
        n = int(part.target[1].sum()) + len(numbers)
        halves, count = halves + n * nats_of(part, state.model, params), count + n
    assert halves / count == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize(('change', 'words'), [
    ({'source_words': ['#START#', '<unk>', 3]}, 'source_words'), ({'source_words': ['#START#']}, 'have no word'),
    ({'source_words': ['#START#', '<unk>', 'a']}, 'parameters are not those'), ({'layer': 'rnn'}, 'its layer'),
    ({'attention': 1}, 'its attention'), ({'attention': True}, 'has no forward_layer0_WLSTM'),
    ({'hidden_sizes': 8}, 'its hidden_sizes'),
    ({'kind': 'textgen'}, 'of the kind textgen')])
def test_checkpoints_that_are_not_what_they_should_be(copies, change, words):
    assert train.main([*TINY, '-m', '.05']) == 0
    checkpoint = load_checkpoint(last_of(copies), 'translation')
    place = checkpoint if change.keys() <= checkpoint.keys() else checkpoint['params']
    place.update(change)
    save_checkpoint('x.h5', checkpoint)
    with pytest.raises(InputError, match=f'^x.h5: .*{words}'):
        load_translator('x.h5')


@pytest.mark.parametrize(('flags', 'words'), [
    (['--val_target', 'train.yy'], 'val.xx has 30 lines, and train.yy has 1,200'), (['--source', 'no.xx'], 'no.xx'),
    (['--hidden_sizes', '8,'], '--hidden_sizes 8,'), (['--drop_prob', '1'], '--drop_prob 1'),
    (['--label_smoothing', '.6'], '--label_smoothing'),
    (['--source', '-'], '--source -: '), (['--val_target', '-'], '--val_target -: '),
    (['--tokenizer', 'sacremoses', '--target', 'train.eng'], '--target train.eng: --tokenizer sacremoses takes'),
    (['-b', '0'], '--batch_size 0'), (['--word_count_threshold', '9999'], 'lower it')])
def test_flags_that_cannot_be(copies, flags, words, capsys):
    assert train.main([*TINY, *flags]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count('\n') == 1


def test_all_four_files_are_needed(copies, capsys):
    assert train.main(['--source', 'train.xx', '--target', 'train.yy']) == 2
    assert '--val_source is missing' in capsys.readouterr().err


def test_pairs_that_are_left_out_are_reported(copies, capsys):
    lines = (copies / 'train.yy').read_text(encoding='utf-8').split('\n')
    (copies / 'train.yy').write_text('\n'.join(['', 'A ' * 251, *lines[2:]]), encoding='utf-8')
    train.prepare(TINY)
    assert ('train: 1,198 pairs of sentences; 1 with an empty side were left out; 1 with more than 250 words on a side '
            'were left out\n') in capsys.readouterr().out

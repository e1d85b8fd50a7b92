"""Corpus BLEU of translations against sacrebleu, and the command that prints it."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest

from imagernn.metrics import corpus_bleu
from imagernn.metrics.bleu import bleu_counts, corpus_bleu_of, translation_bleu
from imagernn.metrics.ngrams import count_ngrams, read_captions
from imagernn.translation import score

RECORDED = json.loads((Path(__file__).parent / 'sacrebleu_values.json').read_text(encoding='utf-8'))['cases']
REFERENCES = RECORDED['three references']['references']
GOOD, BAD = REFERENCES[0], RECORDED['three references']['hypotheses']


def tokens_of(hypotheses, references):
    """Lines, and files of lines -> token lists, and lists of token lists, as corpus_bleu takes them."""
    return [line.split() for line in hypotheses], [[line.split() for line in lines]
                                                   for lines in zip(*references, strict=True)]


def check(found, expected):
    """CorpusBleu against a dict of its fields."""
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize('name', RECORDED)
def test_bleu_equals_what_sacrebleu_gave(name):
    case = RECORDED[name]
    found = corpus_bleu(*tokens_of(case['hypotheses'], case['references']))
    check(found, {field: case[field] for field in found._fields})


@pytest.mark.parametrize('seed', range(20))
def test_bleu_equals_sacrebleu_on_random_sentences(seed):
    sacrebleu = pytest.importorskip('sacrebleu', reason='sacrebleu is not installed')
    rng = np.random.default_rng(seed)

    def lines():
        return [' '.join(rng.choice(list('abcdef'), rng.integers(0, 9))) for _ in range(n)]

    n, hypotheses = rng.integers(1, 6), None
    hypotheses, references = lines(), [lines() for _ in range(rng.integers(1, 4))]
    other = sacrebleu.corpus_bleu(hypotheses, references, tokenize='none', force=True)
    check(corpus_bleu(*tokens_of(hypotheses, references)), {
        'bleu': other.score, 'precisions': other.precisions, 'brevity_penalty': other.bp, 'hyp_len': other.sys_len,
        'ref_len': other.ref_len})


def test_bleu_by_hand():
    """4 of 5 words, 2 of 4 pairs, 1 of 3 triples, none of 2 fours, which count half; one word shorter."""
    found = corpus_bleu(*tokens_of(['a dog runs in a'], [['a dog runs on a lawn']]))
    precisions = 4 / 5, 2 / 4, 1 / 3, .5 / 2
    check(found, {'precisions': [100 * p for p in precisions], 'brevity_penalty': math.exp(-1 / 5), 'hyp_len': 5,
                  'ref_len': 6, 'bleu': 100 * math.exp(-1 / 5) * math.prod(precisions) ** (1 / 4)})


def test_bleu_of_many_sums_is_that_of_each():
    captions = read_captions(*tokens_of(BAD, REFERENCES))
    counts = bleu_counts(captions, count_ngrams(captions))
    assert translation_bleu(counts[:, None]).ravel().tolist() == [corpus_bleu_of(row).bleu for row in counts]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with files of translations and references."""
    monkeypatch.chdir(tmp_path)
    for name, lines in {'good.en': GOOD, 'bad.en': BAD, 'ref0.en': REFERENCES[1], 'ref1.en': REFERENCES[2],
                        'short.en': GOOD[:-1]}.items():
        Path(name).write_text(''.join(f'{line}\n' for line in lines), encoding='utf-8')
    return tmp_path


def test_the_command_prints_bleu_with_its_interval_and_writes_it(folder, capsys):
    assert score.main(['bad.en', 'ref0.en', 'ref1.en', '--json', 'out.json', '--draws', '200']) == 0
    report = json.loads(Path('out.json').read_text(encoding='utf-8'))
    result, = report['results']
    check(corpus_bleu(*tokens_of(BAD, REFERENCES[1:])), {
        name: result[name] for name in ('bleu', 'precisions', 'brevity_penalty', 'hyp_len', 'ref_len')})
    low, high = result['interval']
    assert low < result['bleu'] < high and report['sentences'] == len(BAD)
    assert capsys.readouterr().out == (
        f'BLEU = {result["bleu"]:.1f} ({"/".join(f"{p:.1f}" for p in result["precisions"])}, brevity penalty '
        f'{result["brevity_penalty"]:.3f}, 95 % interval {low:.1f} to {high:.1f})\n')


def test_systems_are_compared_with_the_first(folder, capsys):
    assert score.main(['bad.en', 'ref0.en', '--compare', 'good.en', 'bad.en', '--json', 'out.json']) == 0
    first, better, same = json.loads(Path('out.json').read_text(encoding='utf-8'))['results']
    assert better['against_first']['difference'] == pytest.approx(better['bleu'] - first['bleu'])
    assert better['against_first']['low'] < better['against_first']['difference'] < better['against_first']['high']
    assert same['against_first'] == {'difference': 0, 'low': 0, 'high': 0, 'p': 1}
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(': BLEU = ')[0] for line in lines] == ['bad.en', 'good.en', 'bad.en']
    assert 'against' not in lines[0] and '+0.0 against bad.en' in lines[2]


def test_lower_case_reads_all_in_lower_case(folder, capsys):
    Path('upper.en').write_text(Path('good.en').read_text(encoding='utf-8').upper(), encoding='utf-8')
    for flags, expected in ([], 'BLEU = 1.8 '), (['--lower_case'], 'BLEU = 100.0'):
        assert score.main(['upper.en', 'good.en', '--draws', '0', *flags]) == 0
        assert capsys.readouterr().out.startswith(expected)


def test_lines_are_read_as_they_are(folder, capsys, monkeypatch):
    """A mark of the byte order, ends as on Windows, a separator of lines that is none in a file, and standard input."""
    Path('windows.en').write_bytes(b'\xef\xbb\xbfa dog runs home\r\nb\xe2\x80\xa8c\r\n')
    Path('plain.en').write_bytes(b'a dog runs home\nb c')
    monkeypatch.setattr('sys.stdin', io.TextIOWrapper(io.BytesIO(b'a dog runs home\nb c\n')))
    for name in 'windows.en', '-':
        assert score.main([name, 'plain.en', '--draws', '0']) == 0
        assert capsys.readouterr().out == 'BLEU = 100.0 (100.0/100.0/100.0/100.0, brevity penalty 1.000)\n'


def test_a_single_sentence_has_no_interval(folder, capsys):
    Path('one.en').write_text('a dog runs home\n')
    assert score.main(['one.en', 'one.en']) == 0
    assert 'interval' not in capsys.readouterr().out


@pytest.mark.parametrize('arguments, expected', [
    ('bad.en short.en', 'bad.en has 12 lines, but short.en has 11;'),
    ('bad.en ref0.en --compare short.en', 'short.en has 11 lines, but ref0.en has 12;'),
    ('bad.en empty.en', 'but empty.en has 0'),
    ('empty.en empty.en', 'empty.en: is empty'),
    ('bad.en latin.en', 'latin.en: line 2 is not UTF-8'),
    ('bad.en utf16.en', 'utf16.en: line 1 has a zero byte'),
    ('bad.en absent.en', 'absent.en: cannot be read'),
    ('bad.en .', '.: is a folder'),
    ('- ref0.en --compare -', '- is given more than once'),
    ('bad.en ref0.en --level 1', '--level 1.0: must be between 0 and 1'),
    ('bad.en ref0.en --draws -1', '--draws -1: must be between 0'),
    ('bad.en ref0.en --seed -1', '--seed -1: must be at least 0'),
    ('bad.en ref0.en --json ref0.en', 'ref0.en: is an input file'),
])
def test_what_cannot_be_scored_is_named(folder, arguments, expected, capsys):
    Path('empty.en').write_bytes(b'')
    Path('latin.en').write_bytes('a dog\nun caf\xe9\n'.encode('latin-1'))
    Path('utf16.en').write_bytes('a dog\n'.encode('utf-16-le'))
    assert score.main(arguments.split()) == 2
    assert expected in capsys.readouterr().err

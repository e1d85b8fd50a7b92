"""The tokenizers. tests/ptb_examples.json holds captions and the tokens that Stanford's Java program makes of them.

benchmarks/ptb_check.py wrote it, and compares the two programs on any other captions.
"""

import hashlib
import importlib
import json
import random
import string
import subprocess
import sys
from pathlib import Path

import pytest

from imagernn.corpus import tokenize as ptb
from imagernn.corpus.tokenize import ptb_tokenize, tokenize

BENCHMARKS = str(Path(__file__).resolve().parents[1] / 'benchmarks')
sys.path.append(BENCHMARKS)
ptb_check = importlib.import_module('ptb_check')
sys.path.remove(BENCHMARKS)

DATA = Path(__file__).resolve().parents[1].parent / 'shared' / 'data'
EXAMPLES = json.loads(Path(__file__).with_name('ptb_examples.json').read_text(encoding='utf-8'))
# of the Java program's tokens: joined by spaces, and captions by line ends
SHA256 = {'coco/captions_val2017.json': '9da43c339600f891a139ae36b35d1b37fe172eee418e9cc868d3e7169a641a3c',
          'flickr8k/dataset.json': 'fff157d39956dcf67fc4817ee2889ff4e42729de2db3a1b54cd5768f4bb6ce15'}
MARKS = ' .,;:!?\'"`-_/\\&@#$%*+=~^|()[]{}<>’“½é日🐶\t\xa0\xad'


def joined(captions):
    return [' '.join(tokens) for tokens in ptb_tokenize(captions)]


def test_tokens_are_those_of_the_java_program():
    captions = [caption for caption, _ in EXAMPLES]
    for caption, ours, (_, java) in zip(captions, joined(captions), EXAMPLES, strict=True):
        assert ours == java, caption


@pytest.mark.parametrize('name', SHA256)
def test_tokens_of_whole_data_sets_are_those_of_the_java_program(name):
    if not (DATA / name).is_file():
        pytest.skip(f'needs shared/data/{name} beside the checkout')
    captions = ptb_check.read_captions(str(DATA / name))
    assert hashlib.sha256('\n'.join(joined(captions)).encode()).hexdigest() == SHA256[name]


@pytest.mark.skipif(not ptb_check.java_is_there(), reason='needs Java and the extra [metrics]')
def test_tokens_are_those_of_the_installed_java_program():
    captions = ptb_check.hard_captions(3000, seed=random.randrange(10**9)) + [caption for caption, _ in EXAMPLES]
    for caption, ours, java in zip(captions, ptb_tokenize(captions), ptb_check.java_tokens(captions), strict=True):
        assert ours == java, caption


@pytest.mark.parametrize('captions, tokens', [
    ([], []),
    (['', ' ', '.', '\n', ' . , ! '], ['', '', '', '', '']),
    (['a\nb', 'a\r\n b\x0bc\x0cd\u2028e\u2029f'], ['a b', 'a b c d e f']),    # in Java the others are line ends
    (['a \ud83d dog \udc36', 'a\0b'], ['a dog', 'a b']),
    (['plan B.', 'The end'], ['plan b', 'the end']),    # the next caption may begin a sentence
    (['plan B.', '', ' \t', 'The end'], ['plan b', '', '', 'the end']),
    (['plan B.', 'the end'], ['plan b.', 'the end']),
    (['see fig.', '5 dogs'], ['see fig.', '5 dogs']),
    (['see fig.', 'five dogs'], ['see fig', 'five dogs']),
    ([':)', 'a'], [':-rrb-', 'a']),
    ([':)'], ['-rrb-']),    # nothing follows, not even a line end
    ([':)', ''], [':-rrb-', '']),
])
def test_line_ends_and_the_next_caption(captions, tokens):
    assert joined(captions) == tokens


def test_the_short_way_for_plain_captions_agrees_with_the_rules():
    """And most captions take the short way."""
    rng = random.Random(0)
    plain = 0
    words = [*ptb.SPLIT_WORDS, *ptb.KEEP_FULL_STOP, 'Dog', 'T-shirt', 'x-Y-z', 'Cannot', 'INC', 'pro', *'aTs'] * 2
    words += [''.join(rng.choices(string.ascii_letters, k=rng.randint(1, 9))) for _ in words]
    for _ in range(2000):
        start = ''.join(rng.choice(words) + rng.choice([' ', ' ', ', ', '  ']) for _ in range(rng.randint(0, 5)))
        caption = start + rng.choice(words) + rng.choice(['', '.', ' .', '. ', ' '])
        tokens = ptb._plain_tokens(caption)
        if tokens is not None:
            plain += 1
            assert tokens == ptb._tokens(caption, '\n'), caption
    assert plain > 1000


@pytest.mark.parametrize('part, reach', [
    ('<!a', r'<[!?][^>\n]*'), ('a,', ptb.HYPHENED_START), ('a,', ptb.EMAIL_START), ('www.%-%', ptb.HOST_START),
    ('5a.', ptb.FILE_NAME), ('a%.', rf'(?:{ptb.DOMAIN}+\.)*{ptb.DOMAIN}*')])
def test_a_rule_that_looks_far_is_not_tried_again_within_its_reach(monkeypatch, part, reach):
    """Otherwise each of a thousand such parts would make it look at all that follow: quadratic time."""
    tries = []

    def counting(match, number):
        return lambda text, place: tries.append(number) or match(text, place)

    rules = [(kind, counting(match, number), far) for number, (kind, match, far) in enumerate(ptb._compiled())]
    monkeypatch.setattr(ptb, '_compiled', lambda: rules)
    ptb_tokenize([part * 1000])
    numbers = [number for number, rule in enumerate(ptb.RULES) if rule[2:] == (reach,)]
    assert numbers and len(tries) > 10_000
    assert all(1 <= tries.count(number) <= 3 for number in numbers)


def test_no_text_takes_more_than_linear_time():
    """It runs in a process of its own, with a very generous time limit."""
    program = """
import sys
from imagernn.corpus.tokenize import ptb_tokenize
marks = sys.argv[1]
parts = [*marks, *(mark + x for mark in marks for x in 'a5'), *(f'a{x}a{y}' for x, y in zip(marks, marks[7:]))]
parts += ['<a b="', '<a b=\\'', '<a b ', "a'a ", '&eacute;', 'a@b.', 'http://.', 'www.a/', 'a.com/(', 'I. The']
for part in parts:
    ptb_tokenize([part * (800 // len(part))])
for part in ('a', '5', ' ', '-', 'a.', 'a-', 'A&', 'a@', '<a ', 'é', '\\xad', 'n\\'t'):
    ptb_tokenize([part * (100_000 // len(part))])
"""
    subprocess.run([sys.executable, '-c', program, MARKS], check=True, timeout=300)


@pytest.mark.parametrize('how, tokens', [
    ('ptb', ['two', 'dogs', "n't", 'run/jump', 't-shirts']),
    ('karpathy', ['two', 'dogs', 'nt', 'run', 'jump', 't', 'shirts']),
    ('words', ['two', 'dogs', 'nt', 'run', 'jump', 't', 'shirts']),
    ('none', ['Two', 'dogs', "n't", 'run/jump,', 'T-shirts', '.']),
])
def test_tokenize(how, tokens):
    assert tokenize(["Two dogs  n't run/jump, T-shirts ."], how) == [tokens]


@pytest.mark.parametrize('captions, how, named', [
    (['a'], 'PTB', 'ptb, karpathy, words, none'), ('a dog', 'ptb', 'a list')])
def test_tokenize_names_what_it_accepts(captions, how, named):
    with pytest.raises(ValueError, match=named):
        tokenize(captions, how)

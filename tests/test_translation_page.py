"""The page of a translation model: its data, its requests, the exported file, and what a browser shows of it."""

import json
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import numpy as np
import pytest
from browser import CONTRASTS, chromium_or_skip, watched_page
from test_translate import SOURCE_WORDS, WORDS, checkpoint_of

from imagernn.translation import page as page_module
from imagernn.translation.batch import make_batch
from imagernn.translation.load import load_translator
from imagernn.translation.model import attention_of, forward
from imagernn.translation.page import MOST_CHARACTERS, MOST_WORDS, about, shown, translation_routes
from imagernn.translation.translator import Translator
from imagernn.web.server import serving

EVIL = '<img/src=x/onerror=alert(1)>'
LINE = f'a b {EVIL} d'


@pytest.fixture(params=[True, False], ids=['attention', 'plain'])
def path(request, tmp_path):
    words = [EVIL if word == 'X' else word for word in WORDS]
    return checkpoint_of(tmp_path / f'{request.param}.h5', words=words, attention=request.param, dataset=EVIL)


@pytest.fixture
def attention(path):
    return 'True' in path


def translator_of(path):
    return Translator([load_translator(path, 'float64')])


@contextmanager
def served(path):
    """The address of the page of the checkpoint at path."""
    translator = translator_of(path)
    with serving(translation_routes(translator, about(translator, path))) as address:
        yield address


# ---- the data

def test_what_is_shown_is_what_one_pass_of_the_model_gives(path, attention):
    """Probabilities and weights of every translation, from a batch of it alone."""
    made, checkpoint = shown(translator_of(path), LINE), load_translator(path, 'float64')
    assert made['source'] == [['a', True], ['b', True], [EVIL, False], ['d', True]] and len(made['found']) == 3
    assert [one['score'] for one in made['found']] == sorted((one['score'] for one in made['found']), reverse=True)
    source = np.array([SOURCE_WORDS.index(word) if known else 1 for word, known in made['source']])
    for one in made['found']:
        words = [word for word, _ in one['words'] if word != 'END']
        assert one['text'] == ' '.join(words)
        target = np.array([checkpoint['wordtoix'][word] for word in words], np.int64)
        batch = make_batch(source, np.array([4]), target, np.array([len(target)]))
        logprobs, _, _ = forward(batch, checkpoint['model'], checkpoint['params'])
        count = len(one['words'])
        np.testing.assert_allclose([p for _, p in one['words']], np.exp(logprobs[:count]), rtol=1e-3)
        if attention:
            weights, = attention_of(batch, checkpoint['model'], checkpoint['params'])
            assert np.shape(one['weights']) == (count, 5)
            np.testing.assert_allclose(one['weights'], weights[:count], atol=1e-4)
        else:
            assert one['weights'] is None
    json.dumps(made)


def test_a_model_is_described(path, attention):
    made = about(translator_of(path), path)
    assert made['title'] == f'{EVIL}: LSTM, 12 units{", attention" if attention else ""}'
    assert made['attention'] is attention and made['name'] == Path(path).name


# ---- requests

@pytest.mark.parametrize('line, expected', [
    ('', '0 words; expected 1 to 100'), (' \n ', '0 words'), ('a ' * (MOST_WORDS + 1), '101 words'),
    ('ü' * (MOST_CHARACTERS + 1), '2,001 characters; expected at most 2,000'), (None, '0 words')])
def test_sentences_that_cannot_be_shown_are_refused(path, line, expected):
    with served(path) as address, pytest.raises(HTTPError) as error:
        urlopen(f'{address}/translate?{"" if line is None else urlencode({"line": line})}')
    assert error.value.code == 400 and expected in error.value.read().decode()


def test_the_longest_sentences_fit_into_an_address(path):
    for line in '語' * MOST_CHARACTERS, 'a ' * MOST_WORDS:
        with served(path) as address, urlopen(f'{address}/translate?{urlencode({"line": line})}') as answer:
            assert len(json.load(answer)['source']) in (1, MOST_WORDS)


# ---- the command

@pytest.mark.parametrize('arguments, expected', [
    ('--export out.html', '--export and --lines belong together'), ('--lines l.txt', '--export and --lines'),
    ('--export l.txt --lines l.txt', 'l.txt: is an input file'), ('--export o.html --lines empty.txt', 'has 0 lines'),
    ('--export o.html --lines many.txt', 'has 201 lines'), ('--export o.html --lines absent.txt', 'cannot be read'),
    ('--export o.html --lines long.txt', 'long.txt: line 2: the sentence has 101 words'),
    ('--beam_size 0', '--beam_size 0'), ('--port 70000', '--port 70000')])
def test_what_cannot_be_done_is_named(path, arguments, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, text in {'l.txt': 'a\n', 'empty.txt': '\n \n', 'many.txt': 'a\n' * 201,
                       'long.txt': '\n' + 'a ' * 101}.items():
        Path(name).write_text(text)
    assert page_module.main([path, *arguments.split()]) == 2
    assert expected in capsys.readouterr().err and not Path('o.html').exists()


# ---- in a browser

@pytest.fixture(scope='module')
def browser():
    with chromium_or_skip() as browser:
        yield browser


@contextmanager
def opened(browser, path, **options):
    with served(path) as address, watched_page(browser, **options) as page:
        page.goto(address)
        page.wait_for_selector('#controls:not([hidden])')
        yield page


def translate(page, line=LINE):
    page.fill('#line', line)
    page.keyboard.press('Enter')
    page.wait_for_selector('#main:not([hidden])')


def test_a_sentence_is_translated_and_its_words_are_shown(browser, path, attention):
    made = shown(translator_of(path), LINE)
    with opened(browser, path) as page:
        assert page.title().startswith(f'{EVIL}: LSTM')
        translate(page)
        assert page.locator('.unknown').all_inner_texts() == [EVIL]
        assert '1 word unknown' in page.inner_text('#source')
        assert page.locator('#translations .text').all_inner_texts() == [one['text'] for one in made['found']]
        for number in 0, 2:
            page.locator('#translations button').nth(number).click()
            words = made['found'][number]['words']
            assert page.locator('#scroll tbody th').all_inner_texts() == [word for word, _ in words]
            assert page.locator('.likely').all_inner_texts() == [f'{p:.3f}' for _, p in words]
        heads = page.locator('#scroll .column span').all_inner_texts()
        assert heads == (['START', 'a', 'b', EVIL, 'd'] if attention else [])
        assert page.locator('.weight').count() == (5 * len(words) if attention else 0)
        assert ('Only models trained with --attention' in page.inner_text('#legend')) is not attention


def test_the_grid_works_by_keyboard_and_pointer(browser, tmp_path):
    path = checkpoint_of(tmp_path / 'a.h5', attention=True)
    found = shown(translator_of(path), 'a b c')['found'][0]
    with opened(browser, path) as page:
        translate(page, 'a b c')
        page.locator('.weight').first.focus()
        for key, row, column in (('ArrowRight', 0, 1), ('ArrowDown', 1, 1), ('End', 1, 3), ('ArrowRight', 1, 3),
                                 ('ArrowUp', 0, 3), ('ArrowUp', 0, 3), ('ArrowLeft', 0, 2), ('Home', 0, 0)):
            page.keyboard.press(key)
            said = (f'{found["words"][row][0]} looked at {["START", "a", "b", "c"][column]}: '
                    f'{found["weights"][row][column]:.3f}')
            assert page.inner_text('#place') == said
            assert page.evaluate('document.activeElement.innerText') == f'{found["weights"][row][column]:.2f}'
        assert page.locator('.weight[tabindex="0"]').count() == 1
        page.locator('.weight').nth(6).hover()
        assert page.inner_text('#place').startswith(f'{found["words"][1][0]} looked at b: ')
        assert page.locator('#scroll .here').all_inner_texts() == ['b', found['words'][1][0]]


def test_what_the_server_refuses_is_said(browser, tmp_path):
    path = checkpoint_of(tmp_path / 'a.h5')
    with served(path) as address, browser.new_context() as context:    # the console reports the status 400
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector('#controls:not([hidden])')
        page.fill('#line', 'a ' * 101)
        page.keyboard.press('Enter')
        page.wait_for_selector('.notice')
        assert page.inner_text('#notices') == 'the sentence has 101 words; expected 1 to 100'
        assert not page.is_visible('#main')
        translate(page)
        assert page.inner_text('#notices') == ''


def test_the_exported_page_needs_no_server(browser, path, tmp_path, attention):
    lines, out = tmp_path / 'lines.txt', tmp_path / 'out.html'
    lines.write_text(f'a b c\n\n{LINE}\n', encoding='utf-8')
    assert page_module.main([path, '--export', str(out), '--lines', str(lines), '--beam_size', '2']) == 0
    with watched_page(browser) as page:
        page.goto(out.as_uri())
        page.wait_for_selector('#main:not([hidden])')
        assert page.locator('#samples option').all_inner_texts() == ['a b c', LINE]
        assert page.inner_text('#source').strip() == 'a b c' and not page.is_visible('#controls')
        page.select_option('#samples', label=LINE)
        assert EVIL in page.inner_text('#source') and page.locator('#translations button').count() == 2
        assert (page.locator('.weight').count() > 0) is attention


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('width', [320, 1280])
def test_the_page_is_legible(browser, tmp_path, scheme, width):
    path = checkpoint_of(tmp_path / 'a.h5', attention=True)
    with opened(browser, path, color_scheme=scheme, viewport={'width': width, 'height': 700}) as page:
        translate(page, 'a b c d e f g zig a b c d e f')
        page.locator('.weight').nth(3).focus()
        assert [found for found in page.evaluate(CONTRASTS) if found[0] < 4.5] == []
        assert page.evaluate('document.documentElement.scrollWidth') <= width

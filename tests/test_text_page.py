"""The page of a language model: its readings and random stream, its requests, and what a browser shows of it."""

import base64
import json
import re
from contextlib import contextmanager
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import numpy as np
import pytest
from browser import CONTRASTS, chromium_or_skip, watched_page

from imagernn.errors import InputError
from imagernn.nn import stacked
from imagernn.nn.packing import Packed
from imagernn.runs.checkpoint_file import save_checkpoint
from imagernn.textgen import page as page_module
from imagernn.textgen.load import load_text_model
from imagernn.textgen.model import LAYERS, forward, init_model, make_tick
from imagernn.textgen.page import MOST, about, followers, shown, text_routes
from imagernn.textgen.reading import correlations, drawing, first_token, following, properties, read_on, tokens_of
from imagernn.textgen.sample import written
from imagernn.web.server import serving

EVIL = '<img/src=x/onerror=alert(1)>'
CHARACTERS = ['<unk>', *'\n abcdeTHO".:']
WORDS = ['<unk>', '\n', 'the', 'cat', 'sat', EVIL]


def model_of(layer='lstm', level='char', lines=False, dtype=np.float32, units=None):
    """A checkpoint of a small model with large weights, so that its probabilities differ."""
    units = units or {'char': CHARACTERS, 'word': WORDS}[level]
    params = {'layer': layer, 'level': level, 'lines': lines, 'embedding_size': 4, 'hidden_sizes': '6,5',
              'dataset': 'tiny'}
    rng = np.random.default_rng(1)
    model = init_model(params, len(units), rng, dtype)
    for name, w in model.items():
        w *= {'Ws': 10, 'Wd': 50}.get(name, 4)
    model['bd'] += 2 * rng.normal(size=model['bd'].shape)
    ixtoword = dict(enumerate(['.', *units[1:]] if lines else units))
    return {'kind': 'textgen', 'model': model, 'params': params, 'ixtoword': ixtoword,
            'wordtoix': {unit: ix for ix, unit in ixtoword.items()}}


def tick_of(checkpoint):
    return make_tick(checkpoint['model'], checkpoint['params'])


def read(checkpoint, tokens, before=()):
    return read_on(checkpoint, tick_of(checkpoint), list(before), len(tokens), following(tokens))


# ---- readings

@pytest.mark.parametrize('layer', LAYERS)
def test_a_reading_is_that_of_one_packed_pass(layer):
    checkpoint = model_of(layer, dtype=np.float64)
    tokens = tokens_of('The cat.\n'.replace('t', 'd').replace('h', 'e'), checkpoint)
    reading = read(checkpoint, tokens)
    batch = Packed(np.array([first_token(checkpoint), *tokens[:-1]]), np.array(tokens), np.ones(len(tokens), int),
                   np.zeros(1, int))
    logprobs, _, _ = forward(batch, checkpoint['model'], checkpoint['params'])
    np.testing.assert_allclose(reading.logprobs, logprobs, atol=1e-12)
    assert (np.diff(reading.likeliest_logprobs) <= 0).all() and reading.likeliest.shape == (len(tokens), 5)
    # the activation of a token is what the model's state shows once it has read the token
    X = checkpoint['model']['Ws'][[first_token(checkpoint), *tokens]]
    _, last, _ = stacked.forward(LAYERS[layer], X, np.ones(len(X), int), checkpoint['model'], checkpoint['params'])
    last = [np.tanh(state[1]) if layer == 'lstm' else state[0] if layer == 'gru' else np.tanh(state[0])
            for state in last]
    np.testing.assert_allclose(reading.activations[-1], np.concatenate(last, axis=1)[0], atol=1e-12)


@pytest.mark.parametrize('layer', LAYERS)
def test_a_text_read_in_parts_is_the_text_read_at_once(layer):
    checkpoint = model_of(layer, dtype=np.float64)
    tokens = tokens_of('bad dad', checkpoint)
    parts = zip(read(checkpoint, tokens[:3]), read(checkpoint, tokens[3:], tokens[:3]), strict=True)
    for whole, part in zip(read(checkpoint, tokens), parts, strict=True):
        np.testing.assert_allclose(whole, np.concatenate(part), atol=1e-12)


def test_a_line_ends_at_its_end_which_is_never_read():
    checkpoint = model_of(lines=True, units=['.', 'a'])
    checkpoint['model']['bd'][0, 0] = 100
    reading = read_on(checkpoint, tick_of(checkpoint), [1], 50, drawing(0, None))
    assert reading.tokens.tolist() == [0] and not reading.activations.any() and reading.likeliest.shape == (1, 2)
    made = shown(reading, checkpoint)
    assert made['ended'] and made['units'] == ['END'] and made['p'] == [1]
    assert followers(reading, checkpoint) == {}


def test_an_empty_reading_is_shown_as_one():
    assert shown(read(model_of(), []), model_of()) == {
        'tokens': [], 'units': [], 'p': [], 'likely': [], 'activations': '', 'ended': False}


def test_properties_of_a_text():
    text = list('a "b c" D\n\nEf')
    found = {name: values.astype(int).tolist() for name, values in properties(text).items()}
    assert found == {'position in the line': [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0, 1, 2],
                     'inside quotes': [0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
                     'spaces': [0, 1, 0, 0, 1, 0, 0, 1, 0, 1, 1, 0, 0],
                     'capitals': [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0]}
    assert properties(['“a', 'b”', 'c'])['inside quotes'].tolist() == [1, 0, 0]
    assert properties(['a']) == {}


def test_correlations_are_pearsons():
    rng = np.random.default_rng(0)
    values, activations = rng.normal(size=30), rng.normal(size=(30, 3))
    activations[:, 2] = .3
    expected = [np.corrcoef(values, activations[:, unit])[0, 1] for unit in range(2)]
    np.testing.assert_allclose(correlations(values, activations), [*expected, 0])


# ---- requests

@contextmanager
def served(checkpoint, prime=''):
    """The address of the page, and a function that asks it for JSON."""
    with serving(text_routes(checkpoint, about(checkpoint, 'some/model.h5', prime))) as address:
        def ask(name, **parameters):
            with urlopen(f'{address}/{name}' + (f'?{urlencode(parameters)}' if parameters else '')) as answer:
                return json.load(answer)

        yield address, ask


def write(ask, prime, count, step, **more):
    """A text as the page gets it: the beginning, then step units with each request."""
    begun = ask('begin', text=prime)
    tokens, units = begun['tokens'], begun['units']
    while len(tokens) < len(begun['tokens']) + count:
        made = ask('write', tokens=' '.join(map(str, tokens)), begun=len(begun['tokens']), count=step, **more)
        tokens, units = tokens + made['tokens'], units + made['units']
    return units


@pytest.mark.parametrize('temperature', [0, .7, 2.5])
@pytest.mark.parametrize('step', [7, 21])
def test_the_page_writes_what_sample_text_writes(temperature, step):
    checkpoint = model_of()
    expected, = written(checkpoint, 'be', 42, 1, temperature, np.random.default_rng(3))
    with served(checkpoint) as (_, ask):
        assert ''.join(write(ask, 'be', 42, step, temperature=temperature, seed=3)) == expected


def test_what_the_page_asks_for_first_and_which_units_follow_what():
    checkpoint = model_of('gru')
    with served(checkpoint, 'be') as (_, ask):
        model = ask('model.json')
        assert model == {'title': 'tiny: GRU, 6 + 5 units', 'name': 'model.h5', 'level': 'char', 'lines': False,
                         'sizes': [6, 5], 'activation': 'h', 'prime': 'be', 'most': MOST}
        made = ask('begin', text='a b\nHe')
        rows = np.frombuffer(base64.b64decode(made['activations']), np.int8).reshape(6, 11)
        reading = read(checkpoint, made['tokens'])
        np.testing.assert_allclose(rows / 127, reading.activations, atol=.5 / 127 + 1e-6)
        found = ask('follow', tokens=' '.join(map(str, made['tokens'])))
        assert set(found) == {'position in the line', 'spaces', 'capitals'}
        strengths = correlations(properties(made['units'])['spaces'], reading.activations)
        best = int(np.abs(strengths).argmax())
        assert found['spaces'][0] == [best, pytest.approx(strengths[best], abs=1e-3)] and len(found['spaces']) == 11


GOOD = {'tokens': '1 2', 'begun': 1, 'count': 5, 'temperature': 1, 'seed': 0}


@pytest.mark.parametrize('name, parameters, words', [
    ('begin', {'text': 'aß'}, "the model has never seen 'ß'; begin in another way"),
    ('begin', {'text': 'a' * MOST}, 'the beginning has 2,000 characters or words; expected fewer than 2,000'),
    ('write', {**GOOD, 'tokens': '1 99'}, 'numbers below 14'), ('write', {**GOOD, 'tokens': '1 -1'}, 'numbers below'),
    ('write', {**GOOD, 'tokens': '1 ' * (MOST + 1)}, 'at most 2000'), ('write', {**GOOD, 'tokens': 'x'}, 'at most'),
    ('write', {**GOOD, 'begun': 3}, 'begun must be a number from 0 to 2'), ('write', {**GOOD, 'count': 1e9}, 'count'),
    ('write', {**GOOD, 'temperature': 'nan'}, 'temperature must be a number from 0 to 10'),
    ('write', {**GOOD, 'temperature': -1}, 'temperature must'), ('write', {**GOOD, 'seed': 2 ** 32}, 'seed must'),
    ('write', {'tokens': '1'}, 'begun must'), ('follow', {'tokens': '99'}, 'numbers below'),
])
def test_a_request_that_asks_for_something_impossible_is_refused(name, parameters, words):
    with served(model_of()) as (_, ask), pytest.raises(HTTPError) as refused:
        ask(name, **parameters)
    assert refused.value.code == 400 and words in refused.value.read().decode()


def test_a_text_has_a_greatest_length():
    with served(model_of()) as (_, ask):
        assert len(ask('write', **{**GOOD, 'tokens': '1 ' * (MOST - 2)})['tokens']) == 2
        assert ask('write', **{**GOOD, 'tokens': '1 ' * MOST})['tokens'] == []


# ---- the command

@pytest.fixture
def checkpoint_path(tmp_path):
    path = tmp_path / 'model.h5'
    rng_state = np.random.default_rng(0).bit_generator.state
    save_checkpoint(path, {**model_of(), 'it': 0, 'epoch': 0., 'rng_state': rng_state})
    return str(path)


@pytest.mark.parametrize('flags, words', [
    (['--prime', 'ß'], "the model has never seen 'ß'"), (['--prime', 'a' * MOST], 'expected fewer than 2,000'),
    (['--export', 'p.html', '--length', '0'], '--length 0: must be at least 1 and at most 2000'),
    (['--seed', '-1'], '--seed -1'), (['--temperatures', '1', 'nan'], '--temperatures nan: must be at least 0'),
    (['--export', '{}'], 'would overwrite it'), (['--port', '70000'], '--port 70000')])
def test_a_mistake_is_one_line(checkpoint_path, tmp_path, monkeypatch, capsys, flags, words):
    monkeypatch.chdir(tmp_path)
    assert page_module.main([checkpoint_path, *(flag.replace('{}', checkpoint_path) for flag in flags)]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count('\n') == 1 and not (tmp_path / 'p.html').exists()


def test_an_exported_page_has_its_samples_inside(checkpoint_path, tmp_path):
    export = tmp_path / 'page.html'
    assert page_module.main([checkpoint_path, '--export', str(export), '--prime', 'be', '--length', '30', '--seed', '4',
                             '--temperatures', '0', '1']) == 0
    page = export.read_text(encoding='utf-8')
    assert str(tmp_path) not in page and not re.search('<link rel="stylesheet"|<script src', page)
    samples = json.loads(re.search('id="data">(.*?)</script>', page)[1])['samples']
    checkpoint = load_text_model(checkpoint_path)
    for sample, temperature in zip(samples, (0, 1), strict=True):
        text, = written(checkpoint, 'be', 30, 1, temperature, np.random.default_rng(4))
        assert ''.join(sample['units']) == text and sample['begun'] == 2 and sample['temperature'] == temperature
        assert len(base64.b64decode(sample['activations'])) == 32 * 11 and 'position in the line' in sample['followers']


def test_a_beginning_with_an_unknown_word_is_an_error():
    with pytest.raises(InputError, match="never seen 'dog'"):
        tokens_of('the dog sat', model_of(level='word'))


# ---- the page

@pytest.fixture(scope='module')
def browser():
    with chromium_or_skip() as browser:
        yield browser


@contextmanager
def opened(browser, checkpoint, prime='', **options):
    """A watched page of a model."""
    options = {'viewport': {'width': 1300, 'height': 900}, 'reduced_motion': 'reduce', **options}
    with served(checkpoint, prime) as (address, _), watched_page(browser, **options) as page:
        page.goto(address)
        page.wait_for_selector('#controls:not([hidden])')
        yield page
        page.goto('about:blank')


def press(page, button='start'):
    page.click(f'#{button}')
    page.wait_for_function('() => view.run === null')


def text_of(page):
    return page.evaluate('view.units.join("")')


def length_of(page):
    return page.evaluate('view.tokens.length')


def test_a_text_is_written_shaded_and_continued(browser):
    checkpoint = model_of()
    with opened(browser, checkpoint, 'be') as page:
        assert page.title() == 'tiny: LSTM, 6 + 5 units – language model'
        page.fill('#seed', '3')
        page.focus('#temperature')
        page.keyboard.press('Home')
        assert page.inner_text('#degrees') == '0.00'
        page.evaluate('document.getElementById("temperature").value = 1')
        press(page)
        expected = [written(checkpoint, 'be', length, 1, 1., np.random.default_rng(3))[0] for length in (500, 1000)]
        assert text_of(page) == expected[0] and page.inner_text('#count').startswith('500 characters written, ')
        assert page.inner_text('#text .given >> nth=0') == 'b' and page.locator('#text .given').count() == 2
        shades = page.evaluate('view.p.every((p, t) => [.5, .2, .05, .01].filter(bound => p < bound).length === '
                               'Number(view.spans[t].className.match(/s(\\d)/)?.[1] ?? 0))')
        assert shades and page.locator('#text .s4').count()
        press(page, 'continue')
        assert text_of(page) == expected[1]
        page.evaluate('document.getElementById("temperature").value = 0')
        press(page)
        assert text_of(page) == written(checkpoint, 'be', 500, 1, 0, None)[0]


def test_a_place_shows_its_probability_and_what_else_was_likely(browser):
    checkpoint = model_of()
    with opened(browser, checkpoint, 'bed\n') as page:
        press(page)
        reading = shown(read(checkpoint, page.evaluate('view.tokens')), checkpoint)
        page.locator('#text span').nth(1).hover()
        assert page.inner_text('#place h2').startswith('e') and f'{reading["p"][1]:.4f}' in page.inner_text('#place h2')
        rows = [row.split('\t') for row in page.locator('#place tr').all_inner_texts()]
        units = [{' ': '␣ space', '\n': '↵ new line'}.get(unit, unit) for unit, _ in reading['likely'][1]]
        assert [row[0].strip() for row in rows[:5]] == units
        page.focus('#text')
        for key in 'Home', 'ArrowRight', 'ArrowRight', 'ArrowRight':
            page.keyboard.press(key)
        assert page.text_content('#said').startswith('↵ new line, probability ')
        page.keyboard.press('ArrowUp')
        assert page.evaluate('view.at') == 3                                    # there is no line above
        page.keyboard.press('ArrowDown')
        page.keyboard.press('ArrowUp')
        assert page.evaluate('view.at') < 4
        page.keyboard.press('End')
        assert page.evaluate('view.at') == 503


def test_a_unit_is_shown_over_the_text(browser):
    checkpoint = model_of()
    with opened(browser, checkpoint, 'He "bed" ad') as page:
        press(page)
        activations = read(checkpoint, page.evaluate('view.tokens')).activations
        assert page.locator('.grid').count() == 2 and page.locator('.grid .unit').count() == 11
        page.locator('#text span').first.hover()
        page.get_by_label('unit 2 in layer 2').click()
        assert 'tanh(c) of unit 2 in layer 2' in page.inner_text('#legend')
        signs = page.evaluate('view.spans.map(one => one.matches(".plus") - one.matches(".minus"))')
        np.testing.assert_array_equal(signs, np.sign(np.rint(127 * activations[:, 7])))
        said = page.inner_text('#place h2').rpartition(' ')[2].replace('−', '-')
        assert float(said) == pytest.approx(activations[0, 7], abs=.01)
        page.keyboard.press('ArrowLeft')
        page.keyboard.press('Enter')
        assert page.get_by_label('unit 1 in layer 2').get_attribute('aria-pressed') == 'true'
        page.keyboard.press('Escape')
        assert page.evaluate('view.unit') is None and page.locator('#text .plus').count() == 0
        page.select_option('#order', 'inside quotes')
        page.wait_for_selector('.list .unit')
        strengths = [float(text.replace('−', '-')) for text in page.locator('.list b').all_inner_texts()]
        assert len(strengths) == 11 and np.all(np.diff(np.abs(strengths)) <= 0)
        page.locator('.list .unit').first.click()
        assert page.locator('#text :is(.plus, .minus)').count() > 100


def test_what_the_model_does_not_know_is_said_and_the_next_start_works(browser):
    with served(model_of()) as (address, _), browser.new_context() as context:    # the console reports the status 400
        page = context.new_page()
        page.goto(address)
        page.fill('#prime', 'ß')
        press(page)
        assert page.inner_text('#notices') == (
            "the beginning 'ß': the model has never seen 'ß'; begin in another way")
        page.fill('#prime', 'a')
        press(page)
        assert page.inner_text('#notices') == '' and length_of(page) == 501
        page.goto('about:blank')


def test_stop_stops(browser):
    with opened(browser, model_of()) as page:
        page.evaluate('() => { document.getElementById("start").click(); document.getElementById("stop").click(); }')
        page.wait_for_function('() => view.run === null')
        assert length_of(page) < 500 and page.is_disabled('#stop')


def test_words_are_text_and_lines_end(browser):
    with opened(browser, model_of(level='word'), 'the cat') as page:
        press(page)
        assert page.inner_text('#text').startswith('the cat') and EVIL in page.inner_text('#text')
        assert page.locator('#text img, #place img').count() == 0
    checkpoint = model_of(lines=True)
    checkpoint['model']['bd'][0, 0] = 3
    with opened(browser, checkpoint) as page:
        press(page)
        assert page.inner_text('#text .end') == 'END' and page.inner_text('#count').endswith('the line has ended')
        assert page.is_disabled('#continue')


def test_an_exported_page_works_without_a_server(browser, checkpoint_path, tmp_path):
    export = tmp_path / 'page.html'
    page_module.main([checkpoint_path, '--export', str(export), '--length', '60', '--temperatures', '0', '1.5'])
    with watched_page(browser) as page:
        page.goto(export.as_uri())
        page.get_by_text('Temperature 1.5').click()
        assert length_of(page) == 60 and page.is_hidden('#controls')
        page.select_option('#order', 'position in the line')
        page.locator('.list .unit').first.click()
        page.locator('#text span').nth(3).hover()
        assert page.locator('#place tr').count() >= 5 and page.locator('#text .plus').count()


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_on_a_phone_all_fits_and_the_contrast_is_enough(browser, scheme):
    options = {'viewport': {'width': 360, 'height': 700}, 'has_touch': True, 'color_scheme': scheme}
    with opened(browser, model_of(), 'be', **options) as page:
        press(page)
        page.locator('#text span').nth(5).tap()
        for _ in range(2):
            assert page.evaluate('document.documentElement.scrollWidth') <= 360
            assert not [one for one in page.evaluate(CONTRASTS) if one[0] < 4.5]
            page.get_by_label('unit 2 in layer 1').tap()

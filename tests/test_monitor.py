"""The training monitor: what it makes of status files, sound and unsound, and its page in a real browser."""

import json
import math
import os
import re
import signal
from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest
from browser import chromium_or_skip, watched_page
from datasets import train_flags, write_tiny_dataset
from driving import drive, signalling
from programs import running

import driver
from imagernn import monitor
from imagernn.errors import InputError
from imagernn.monitor import monitor_routes
from imagernn.runs import status as status_file
from imagernn.runs.state import PERPLEXITY, RunState
from imagernn.web import status_folder
from imagernn.web.server import serving
from imagernn.web.status_folder import StatusFolder, parse_status

HOSTILE = ['<script>document.title="taken"</script>', '<img src=x onerror=alert(1)>', '"\'&amp;`${1}',
           'Zürich 日本 🐕', 'مرحبا בוקר']


def entry(i, val, most=100, seconds=60., **more):
    """An entry of a history, a minute after the one before it, as driver.py writes them."""
    return {'time': (datetime(2026, 1, 2, 3) + timedelta(seconds=seconds * i)).isoformat(), 'iter': [10 * i, 10 * most],
            'epoch': [i / 10, most / 10], 'time_per_batch': .25, 'train_ppl2': 30 - .1 * i,
            'smooth_train_ppl2': 40 - .1 * i, 'val_ppl2': val, **more}


def status(reports=3, params=None, best=20., **more):
    history = [entry(i, best + reports - i) for i in range(1, reports + 1)]
    return {'params': params or {'learning_rate': .001, 'solver': 'adam', 'fappend': 'a'}, 'history': history, **more}


ACCURACY = {'name': 'accuracy', 'val': 'val_accuracy', 'train': 'smooth_train_accuracy', 'higher_is_better': True}


def scored(values, score=ACCURACY, params=None, **more):
    """The status of a run judged by another score than perplexity: an evaluation in each of its reports."""
    def report(i, value):
        kept = {name: item for name, item in entry(i, 0.).items() if 'ppl2' not in name}
        return {**kept, score['val']: value, score['train']: value / 2, 'evaluated': True}

    return {'params': params or {'solver': 'adam'}, 'score': score,
            'history': [report(i, value) for i, value in enumerate(values, start=1)], **more}


def write(folder, name, value):
    """As driver.py does: under another name first."""
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    (folder / '.writing').write_bytes(content)
    os.replace(folder / '.writing', folder / name)


def parsed(value):
    return parse_status(json.dumps(value).encode())


def test_what_driver_writes_says_how_it_ended(tmp_path):
    write_tiny_dataset(tmp_path)

    def state():
        name, = (tmp_path / 'status').glob('*_status.json')
        return parse_status(name.read_bytes())

    assert driver.main(train_flags(tmp_path)) == 0
    run = state()
    assert run['state'] == 'finished' and run['reason'] is None and run['seconds_left'] == 0
    assert run['settings']['learning_rate'] == '0.001' and run['settings']['max_epochs'] == '2'
    assert (run['iter'], run['max_iter'], run['epoch'], run['max_epoch']) == (14, 14, 2, 2)
    assert run['best_val'] == min(run['points']['val']) and len(run['points']['val']) == 2
    assert driver.main(train_flags(tmp_path, '--min_ppl_or_abort', '1.5')) == 1
    assert state()['state'] == 'aborted' and '--min_ppl_or_abort 1.5' in state()['reason']

    assert drive(train_flags(tmp_path), evaluation=signalling(signal.SIGTERM)) == 143
    assert (state()['state'], state()['reason']) == ('stopped', 'by SIGTERM')


def test_driver_does_not_rewrite_a_long_history_all_the_time(tmp_path, monkeypatch):
    written, clock = [], [1000.]

    def slow_write(path, value):
        written.append(value['state'])
        clock[0] += 2.

    monkeypatch.setattr(status_file, 'write_json', slow_write)
    monkeypatch.setattr(status_file, 'time', SimpleNamespace(monotonic=lambda: clock[0]))
    file, state = status_file.StatusFile({}, PERPLEXITY, tmp_path / 'x_status.json'), RunState({}, PERPLEXITY, {})
    for _ in range(1000):
        file.write(state)
        clock[0] += 1.
    assert 4 <= len(written) <= 6                          # 2 s in 200
    file.write(state, 'stopped', 'at once')
    assert written[-1] == 'stopped'


def test_a_run_as_numbers():
    run = parsed(status(3))
    assert [run[key] for key in ('iter', 'max_iter', 'epoch', 'max_epoch')] == [30, 1000, .3, 10]
    assert (run['best_val'], run['best_epoch'], run['val'], run['train']) == (20, .3, 20, 39.7)
    assert run['seconds_per_batch'] == .25
    assert run['seconds_left'] == 970 * 6                  # 10 iterations a minute
    assert run['state'] == 'running' and run['silent_after'] == status_folder.LEAST_SILENT_SECONDS
    assert run['points']['hours'] == pytest.approx([0, 1 / 60, 2 / 60])
    assert run['settings'] == {'learning_rate': '0.001', 'solver': 'adam', 'fappend': 'a'}


def test_a_run_is_silent_after_several_times_its_usual_interval():
    history = [entry(i, 20., seconds=600) for i in range(9)]
    assert parsed({'params': {}, 'history': history})['silent_after'] == 5 * 600
    history[4:] = [entry(i + 1000, 20., seconds=600) for i in range(5)]    # it was stopped for a week, and resumed
    assert parsed({'params': {}, 'history': history})['silent_after'] == 5 * 600


def test_neuraltalks_files():
    """No state; iterations from 0; until the first evaluation val_ppl2 is the vocabulary's size; NaN in JSON."""
    history = [entry(i, 2540) for i in range(3)] + [entry(3, 21.5), entry(4, 21.5), entry(5, 20.5)]
    history[1]['smooth_train_ppl2'] = math.nan
    run = parsed({'params': {'dataset': 'flickr8k'}, 'history': history})
    assert run['points']['val'] == [None, None, None, 21.5, None, 20.5]
    assert run['points']['train'][1] is None and run['points']['train'][2] == 39.8
    assert run['state'] == 'running' and run['silent_end'] == 'silent' and run['best_val'] == 20.5
    history.append(entry(6, 20.5, iter=[995, 1000]))       # the last report before an end that is not told
    assert parsed({'params': {}, 'history': history})['silent_end'] == 'finished'
    assert parsed({'params': {}, 'history': history, 'state': 'running'})['silent_end'] == 'silent'
    history.append(entry(7, 20.5, iter=[999, 1000]))
    assert parsed({'params': {}, 'history': history})['state'] == 'finished'


@pytest.mark.parametrize('last', [math.nan, math.inf, 81.])
@pytest.mark.parametrize(('said', 'shown'), [(None, 'diverged'), ('aborted', 'diverged'), ('stopped', 'stopped')])
def test_a_run_that_blew_up_has_diverged(last, said, shown):
    history = [entry(1, 20.), entry(2, 20., smooth_train_ppl2=last)]
    more = {'state': said, 'reason': 'it burst'} if said else {}
    run = parsed({'params': {}, 'history': history, **more})
    assert run['state'] == shown and run['reason'] == ('it burst' if said else None)


def test_a_run_is_read_by_the_score_that_its_file_names():
    run = parsed(scored([.5, 0., .75, .75, .7]))
    assert run['score'] == {'name': 'accuracy', 'train_name': 'accuracy', 'higher_is_better': True}
    assert (run['best_val'], run['best_epoch'], run['val'], run['train']) == (.75, .3, .7, .35)
    assert run['points']['val'] == [.5, 0, .75, .75, .7] and run['points']['train'] == [.25, 0, .375, .375, .35]
    loss = {**ACCURACY, 'name': 'loss', 'higher_is_better': False}
    assert parsed(scored([.5, 0., .75, .25, .7], loss))['best_val'] == .25
    assert parsed(status(3))['score'] == {'name': 'perplexity', 'train_name': 'perplexity', 'higher_is_better': False}
    assert parsed(scored([.5], {**ACCURACY, 'train': 'smooth_train_loss'}))['score']['train_name'] == 'loss'
    run = parsed(scored([-1., -1.]))                       # before the first evaluation
    assert run['best_val'] is run['val'] is None and run['points']['val'] == [None, None]


def test_a_report_that_repeats_an_evaluation_is_no_point_of_the_curve():
    run = scored([.5, .5, .5])
    run['history'][1]['evaluated'] = False
    assert parsed(run)['points']['val'] == [.5, None, .5]


def test_only_a_perplexity_diverges_by_its_values():
    for values, score in (([.1, .9], ACCURACY), ([1., 9.], {**ACCURACY, 'name': 'loss', 'higher_is_better': False})):
        assert parsed(scored(values, score))['state'] == 'running'
        assert parsed(scored(values, score, state='aborted', reason='it burst'))['state'] == 'aborted'
    perplexity = {**ACCURACY, 'name': 'perplexity', 'higher_is_better': False}
    assert parsed(scored([1., 9.], perplexity))['state'] == 'diverged'


def test_the_last_samples_are_shown_the_latest_first():
    run = scored([.5, .6, .7])
    run['history'][0]['sample'], run['history'][2]['sample'] = 'a b', 'x' * 2000
    run['history'][1]['sample'] = ['no text']
    first, second = parsed(run)['samples']
    assert second == {'epoch': .1, 'val': .5, 'text': 'a b'} and first['epoch'] == .3 and len(first['text']) == 1000
    many = scored([.5] * 30)
    for number, report in enumerate(many['history']):
        report['sample'] = str(number)
    assert [sample['text'] for sample in parsed(many)['samples']] == [str(number) for number in range(29, 9, -1)]


@pytest.mark.parametrize('wrong', [
    None, 'accuracy', 1, [], {}, {**ACCURACY, 'name': None}, {**ACCURACY, 'name': ''}, {**ACCURACY, 'name': '  '},
    {**ACCURACY, 'name': 'x' * 61}, {**ACCURACY, 'name': 'a\nb'}, {**ACCURACY, 'name': 'a\u202eb'},
    {**ACCURACY, 'val': 5}, {**ACCURACY, 'train': ['a']}, {**ACCURACY, 'higher_is_better': 1},
    {name: value for name, value in ACCURACY.items() if name != 'val'}])
def test_a_file_whose_score_is_not_valid_is_refused(wrong):
    with pytest.raises(InputError, match='its "score" is not'):
        parsed({**scored([.5]), 'score': wrong})


@pytest.mark.parametrize('strange', [None, 'NaN', True, [], [1], {}, 10 ** 400, -1, math.nan, -math.inf])
def test_values_of_a_score_may_be_of_any_kind(strange):
    run = scored([.5, .6])
    run['history'][1].update({'val_accuracy': strange, 'smooth_train_accuracy': strange, 'evaluated': strange})
    run = parsed(run)
    json.dumps(run, allow_nan=False)
    assert run['best_val'] == .5 and run['points']['val'] == [.5, None]
    odd = {**scored([.5]), 'score': {**ACCURACY, 'val': 'time', 'train': 'iter'}}    # keys of something else
    assert parsed(odd)['best_val'] is parsed(odd)['train'] is None


def test_fields_may_be_missing_null_or_of_any_kind():
    strange = [None, 'NaN', True, [], [1], {}, 10 ** 400, -1, 0, math.nan, -math.inf, '2026', [1, 2, 3], ['a', 'b']]
    keys = entry(1, 20.).keys()
    for key in keys:
        for value in strange:
            json.dumps(parsed({'history': [entry(1, 20.), {**entry(2, 19.), key: value}]}), allow_nan=False)
        run = parsed({'history': [{name: value for name, value in entry(1, 20.).items() if name != key}]})
        json.dumps(run, allow_nan=False)
    empty = parsed({'history': []})
    assert empty['state'] == 'running' and empty['best_val'] is empty['seconds_left'] is empty['iter'] is None
    assert parsed({'history': [{}, {}]})['points']['iter'] == [None, None]
    for params in strange:
        assert parsed({'params': params, 'history': []})['settings'] == {}
    odd = parsed({'params': {'a': None, 'b': [1, {'c': 2}], 'd': 'x' * 1000, 'e': 2.5, 'f': True}, 'history': []})
    assert odd['settings'] == {'a': 'null', 'b': '[1, {"c": 2}]', 'd': 'x' * 300 + '…', 'e': '2.5', 'f': 'true'}
    for state in strange:
        assert parsed({'history': [], 'state': state, 'reason': state})['state'] == 'running'
    assert parsed({'history': [1, None, entry(1, 20.)]})['problem'] == '2 of its 3 history entries are not objects'


def test_a_long_history_is_thinned_and_keeps_its_last_and_its_best(monkeypatch):
    monkeypatch.setattr(status_folder, 'MOST_POINTS', 10)
    history = [entry(i, 10. if i == 37 else 100. - i) for i in range(95)]
    run = parsed({'params': {}, 'history': history})
    assert len(run['points']['iter']) == 11 and run['points']['iter'][-1] == 940 and run['best_val'] == 6
    assert {len(column) for column in run['points'].values()} == {11}
    assert parsed({'params': {}, 'history': history[:60]})['best_val'] == 10


@pytest.mark.parametrize(('content', 'words'), [
    (b'', 'is empty'), (b' \n', 'is empty'), (b'{"params": {}, "hist', 'only partly written'),
    (b'\xff\xfe\x00', 'not JSON'), (b'\x80\x81', 'not JSON'), (b'hello', 'not JSON'), (b'[' * 10 ** 6, 'not JSON'),
    (b'9' * 10000, 'not JSON'), (b'{"history": [' + b'[' * 10 ** 5, 'not JSON'), (b'[]', 'not a status file'),
    (b'{"history": {}}', 'not a status file'), (b'1', 'not a status file'), (b'null', 'not a status file'),
    (b'{"params": {}}', 'not a status file')])
def test_what_is_no_status_file_is_said(content, words):
    with pytest.raises(InputError, match=words):
        parse_status(content)


def test_settings_nested_as_deep_as_json_allows():
    for depth in 100, 900, 990, 995:
        try:
            parse_status(b'{"history": [], "params": {"a": ' + b'[' * depth + b']' * depth + b'}}')
        except InputError as error:
            assert 'not JSON' in str(error)


def numbers(listing):
    return {worker['name']: worker['number'] for worker in listing['workers']}


def problems(listing):
    return {problem['file']: problem['problem'] for problem in listing['problems']}


def test_only_what_changed_gets_a_new_version(tmp_path):
    for name in 'a', 'b':
        write(tmp_path, f'{name}_status.json', status(3, {'name': name}))
    watched = StatusFolder(tmp_path)
    first, second = watched.look(), watched.look()
    assert [worker['version'] for worker in first['workers'] + second['workers']] == [1, 1, 1, 1]
    write(tmp_path, 'a_status.json', status(4, {'name': 'a'}))
    write(tmp_path, 'c.json', status(5))
    listing = watched.look()
    assert [(worker['name'], worker['version']) for worker in listing['workers']] == [('a', 2), ('b', 1), ('c.json', 1)]
    assert numbers(first).items() <= numbers(listing).items()
    run = watched.worker(numbers(listing)['a'])
    assert run['version'] == 2 and run['iter'] == 40
    assert all(0 <= worker['age'] < 60 for worker in listing['workers']) and not listing['problems']


def test_unsound_files_are_said_and_stop_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(status_folder, 'MOST_BYTES', 5000)
    folder = tmp_path / 'status'
    folder.mkdir()
    write(folder, 'good_status.json', status(3))
    for name, content in [('empty', b''), ('half', json.dumps(status(3)).encode()[:100]), ('text', b'hello'),
                          ('huge', b' ' * 5001), ('list', b'[]')]:
        write(folder, f'{name}.json', content)
    write(folder, 'same_status.json', status(3))
    write(folder, 'new1.json', status(0))                  # alike, but these have not reported yet
    write(folder, 'new2.json', status(0))
    (folder / 'folder.json').mkdir()
    (folder / 'notes.txt').write_text('not asked')
    (tmp_path / 'outside.json').write_text(json.dumps(status(9)))
    (folder / 'link.json').symlink_to(tmp_path / 'outside.json')
    (folder / 'dangling.json').symlink_to('nowhere')
    os.mkfifo(folder / 'pipe.json')
    listing = StatusFolder(folder).look()
    assert sorted(numbers(listing)) == ['good', 'new1.json', 'new2.json']
    found = problems(listing)
    assert found.keys() == {f'{name}.json' for name in ('empty', 'half', 'text', 'huge', 'list', 'folder', 'link',
                                                        'dangling', 'pipe')} | {'same_status.json'}
    assert 'empty' in found['empty.json'] and 'only partly written' in found['half.json']
    assert '5,001' in found['huge.json']
    assert 'good_status.json' in found['same_status.json'] and 'links out of' in found['link.json']


def test_a_file_that_goes_bad_keeps_its_curve_and_one_that_goes_away_is_said(tmp_path):
    write(tmp_path, 'a_status.json', status(3))
    write(tmp_path, 'b_status.json', status(5))
    watched = StatusFolder(tmp_path)
    version = watched.look()['workers'][0]['version']
    (tmp_path / 'a_status.json').write_bytes(b'{"params": {')           # as NeuralTalk writes, in place
    listing = watched.look()
    assert listing['workers'][0]['version'] == version and 'shown' in problems(listing)['a_status.json']
    (tmp_path / 'b_status.json').unlink()
    listing = watched.look()
    assert list(numbers(listing)) == ['a'] and problems(listing)['b_status.json'] == 'is no longer there'
    assert watched.worker(1) == {}
    write(tmp_path, 'a_status.json', status(4))
    write(tmp_path, 'b_status.json', status(5))
    listing = watched.look()
    assert list(numbers(listing)) == ['a', 'b'] and not listing['problems']
    assert watched.worker(0)['iter'] == 40


@pytest.mark.skipif(os.name != 'posix' or not hasattr(os, 'geteuid') or os.geteuid() == 0, reason='root may read all')
def test_a_file_that_may_not_be_read_is_said(tmp_path):
    write(tmp_path, 'a_status.json', status(3))
    (tmp_path / 'a_status.json').chmod(0)
    assert 'cannot be read' in problems(StatusFolder(tmp_path).look())['a_status.json']


def test_too_many_files_and_a_folder_that_goes_away(tmp_path, monkeypatch):
    monkeypatch.setattr(status_folder, 'MOST_FILES', 3)
    folder = tmp_path / 'status'
    folder.mkdir()
    for name in range(5):
        write(folder, f'{name}.json', status(name))
    watched = StatusFolder(folder)
    listing = watched.look()
    assert len(listing['workers']) == 3 and 'holds 5 JSON files' in problems(listing)[str(folder)]
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    listing = watched.look()
    assert not listing['workers'] and 'cannot be read' in problems(listing)[str(folder)]


def test_names_of_any_kind_and_all_that_is_sent_is_json(tmp_path):
    for i, name in enumerate([*(name.replace('/', '|').encode() for name in HOSTILE), b'\xff\xfe']):
        content = b'{"history": [{"val_ppl2": NaN, "time_per_batch": 1e999, "iter": [%d, 9]}]}' % i
        (tmp_path / os.fsdecode(name + b'_status.json')).write_bytes(content)
    routes = monitor_routes(tmp_path)
    kind, content = routes['/status.json']()
    listing = json.loads(content)
    assert kind == 'application/json' and len(listing['workers']) == len(HOSTILE) + 1
    for worker in listing['workers']:
        run = json.loads(routes[f'/worker/{worker["number"]}.json']()[1], parse_constant=pytest.fail)
        assert run['points']['val'] == [None]


def test_a_folder_that_is_not_there_is_said(tmp_path, capsys):
    assert monitor.main([str(tmp_path / 'absent'), '--no_browser']) == 2
    error = capsys.readouterr().err
    assert 'absent' in error and '--worker_status_output_directory' in error


def test_the_command_names_an_address_and_ends_with_ctrl_c(tmp_path):
    with running('-m', 'imagernn.monitor', '.', '--port', '0', '--no_browser', cwd=tmp_path) as process:
        assert re.match(r'open http://127\.0\.0\.1:\d+/ in a browser', process.stdout.readline())
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0 and not process.stderr.read()


# the page


@pytest.fixture(scope='module')
def browser():
    with chromium_or_skip() as browser:
        yield browser


@pytest.fixture
def folder(tmp_path):
    """Four runs: b is the best; c has ended, d was aborted; they differ in solver and learning rate."""
    for name, best, params, more in [
            ('host_a', 21., {'solver': 'adam', 'learning_rate': .001}, {}),
            ('host_b', 17.5, {'solver': 'rmsprop', 'learning_rate': .001}, {}),
            ('host_c', 19., {'solver': 'adam', 'learning_rate': .01}, {'state': 'finished'}),
            ('host_d', 60., {'solver': 'adagrad', 'learning_rate': .1}, {'state': 'aborted', 'reason': 'it exploded'})]:
        write(tmp_path, f'{name}_status.json', status(30, {**params, 'batch_size': 100}, best, **more))
    return tmp_path


@pytest.fixture
def page(browser, folder):
    with serving(monitor_routes(folder)) as address, \
            watched_page(browser, viewport={'width': 1200, 'height': 900}) as page:
        page.goto(address)
        page.wait_for_selector('#table tbody tr')
        yield page
        page.goto('about:blank')                           # it would ask on, and complain that nobody answers


def names(page):
    return page.locator('#table tbody .run').all_inner_texts()


def look_again(page):
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


def column(page, title):
    titles = page.locator('#table thead th').all_inner_texts()
    at = next(i for i, text in enumerate(titles) if text.startswith(title))
    return [row.locator('> *').nth(at).inner_text() for row in page.locator('#table tbody tr').all()]


def place(page, chart, part_x, part_y):
    """Where in the window a point of a chart's plot lies, given as parts of its width and height."""
    box = page.locator('.charts figure').nth(chart).locator('.u-over').bounding_box()
    return box['x'] + part_x * box['width'], box['y'] + part_y * box['height']


def place_of(page, name, at):
    """Where in the window the at-th point of a run's validation curve is drawn."""
    return page.evaluate('''([name, at]) => {
        const {chart} = charts[0], curve = chart.curves.find(curve => curve.name === name);
        const box = chart.uplot.over.getBoundingClientRect();
        return [box.x + chart.uplot.valToPos(curve.xs[at], 'x'), box.y + chart.uplot.valToPos(curve.ys[at], 'y')];
    }''', [name, at])


def test_the_page_shows_the_runs_best_first(page):
    assert names(page) == ['host_b', 'host_c', 'host_a', 'host_d']
    assert column(page, 'Best val') == ['17.50', '19', '21', '60']
    assert [text.split()[1] for text in column(page, 'State')] == ['running', 'finished', 'running', 'aborted']
    assert 'it exploded' in column(page, 'State')[3]
    assert column(page, 'solver') == ['rmsprop', 'adam', 'adam', 'adagrad']
    assert 'batch_size' not in page.locator('#table thead').inner_text()
    assert column(page, 'Left')[0].split()[1:] == ['h', '10', 'min'] or column(page, 'Left')[0] == '70 min'
    summary = page.locator('#summary').inner_text()
    assert '4 runs' in summary and '2 running, 1 finished, 1 aborted' in summary and 'host_b' in summary
    assert page.title().startswith('2 running, 1 finished, 1 aborted, best 17.50')
    label = page.locator('.plot').first.get_attribute('aria-label')
    assert label.startswith('Perplexity on val of 4 runs by epoch; host_b 17.50; host_c 19; ')


def test_sorting_by_any_column_both_ways(page):
    page.get_by_role('button', name='Run', exact=True).click()
    assert names(page) == ['host_a', 'host_b', 'host_c', 'host_d']
    assert page.locator('[aria-sort=ascending]').inner_text().startswith('Run')
    page.get_by_role('button', name='learning_rate').click()
    assert column(page, 'learning_rate') == ['0.001', '0.001', '0.01', '0.1']
    page.get_by_role('button', name='learning_rate').press('Enter')
    assert column(page, 'learning_rate') == ['0.1', '0.01', '0.001', '0.001']
    assert page.locator('[aria-sort=descending]').count() == 1
    assert page.locator('#runs-title').inner_text() == 'Runs, by learning_rate'


def test_the_filter(page):
    for text, found in [
            ('host_c', 'c'), ('HOST', 'bcad'), ('running', 'ba'), ('solver=adam', 'ca'), ('solver=ada', 'cad'),
            ('solver=', 'bcad'), ('learning_rate=1e-3', 'ba'), ('learning_rate=0.001 solver=adam', 'a'),
            ('batch_size=10', ''), ('depth=3', ''), ('finished host', 'c'), ('.*', ''), ('<b>', ''), ('=', ''),
            ('  ', 'bcad')]:
        page.fill('#filter', text)
        assert names(page) == [f'host_{letter}' for letter in found], text
        assert page.evaluate('charts[0].chart.curves.length') == len(found)
        assert page.locator('#shown').inner_text() == ('' if len(found) == 4 else f'{len(found)} of 4 runs')


@pytest.fixture
def mixed(folder):
    """The four runs, and three that are judged by their accuracy, of which z is the best."""
    for name, values in ('x', [.2, .5, .5]), ('y', [.1, .2, .3, .4]), ('z', [.25, .5, .9375]):
        write(folder, f'net_{name}_status.json', scored(values, params={'solver': 'adam', 'batch_size': 10}))
    return folder


@pytest.fixture
def mixed_page(browser, mixed):
    with serving(monitor_routes(mixed)) as address, \
            watched_page(browser, viewport={'width': 1200, 'height': 900}) as page:
        page.goto(address)
        page.wait_for_selector('#table tbody tr')
        yield page
        page.goto('about:blank')


def titles(page):
    return [text for text in page.locator('.charts figure:visible h2').all_inner_texts() if 'Time' not in text]


OF_ACCURACY = ['Accuracy on val', 'Training accuracy, smoothed']
OF_PERPLEXITY = ['Perplexity on val', 'Training perplexity, smoothed']


def test_runs_of_each_score_are_ranked_and_drawn_among_themselves(mixed_page):
    page = mixed_page
    assert names(page) == ['net_z', 'net_x', 'net_y', 'host_b', 'host_c', 'host_a', 'host_d']
    assert column(page, 'Score') == ['accuracy'] * 3 + ['perplexity'] * 4
    assert column(page, 'Best val') == ['0.9375', '0.5000', '0.4000', '17.50', '19', '21', '60']
    assert titles(page) == OF_ACCURACY + OF_PERPLEXITY
    drawn = page.evaluate('charts.map(({chart}) => chart.curves.map(curve => curve.name).sort())')
    nets, hosts = [f'net_{letter}' for letter in 'xyz'], [f'host_{letter}' for letter in 'abcd']
    assert drawn == [nets, nets, hosts, hosts, [*hosts, *nets]]
    assert [page.evaluate(f'charts[{i}].chart.uplot.scales.y.distr') for i in range(5)] == [1, 1, 3, 3, 3]
    summary = page.locator('#summary').inner_text()
    assert summary.endswith('of each score: net_z, accuracy 0.9375 on val; host_b, perplexity 17.50 on val')
    assert ', best accuracy 0.9375, perplexity 17.50 – ' in page.title()
    label = page.locator('.plot').first.get_attribute('aria-label')
    assert label.startswith('Accuracy on val of 3 runs by epoch; net_z 0.9375; net_x 0.5000')
    # the colours go to the best of each score, then to the second ones, …
    assert set(page.evaluate('[...slots.keys()].map(key => runs.get(key).name)')) == {'net_z', 'net_x', 'net_y',
                                                                                       'host_b', 'host_c'}


def test_sorting_by_a_score_stays_within_it_and_by_anything_else_does_not(mixed_page):
    page = mixed_page
    heading = page.locator('#runs-title')
    assert heading.inner_text() == 'Runs of each score, best first'
    assert page.locator('[aria-sort=other]').inner_text().startswith('Best val')
    page.get_by_role('button', name='Best val').click()
    assert names(page) == ['net_y', 'net_x', 'net_z', 'host_d', 'host_a', 'host_c', 'host_b']
    assert heading.inner_text() == 'Runs of each score, by Best val'
    page.get_by_role('button', name='Training').click()
    assert names(page) == ['net_z', 'net_x', 'net_y', 'host_a', 'host_b', 'host_c', 'host_d']
    page.get_by_role('button', name='Run', exact=True).click()
    assert names(page) == ['host_a', 'host_b', 'host_c', 'host_d', 'net_x', 'net_y', 'net_z']
    page.get_by_role('button', name='Best val').click()
    page.fill('#filter', 'net_')
    assert names(page) == ['net_z', 'net_x', 'net_y'] and heading.inner_text() == 'Runs, best first'
    assert page.locator('[aria-sort=descending]').inner_text().startswith('Best val')
    page.get_by_role('button', name='Best val').click()
    assert names(page) == ['net_y', 'net_x', 'net_z'] and page.locator('[aria-sort=ascending]').count() == 1


def test_the_filter_knows_the_score_and_hides_the_charts_of_others(mixed_page):
    page = mixed_page
    of_both = OF_ACCURACY + OF_PERPLEXITY
    for text, count, shown in (('score=accuracy', 3, OF_ACCURACY), ('perplexity', 4, OF_PERPLEXITY),
                               ('score=acc solver=adam', 3, OF_ACCURACY), ('accuracy host', 0, of_both),
                               ('', 7, of_both)):
        page.fill('#filter', text)
        assert len(names(page)) == count and titles(page) == shown, text
    page.fill('#filter', 'score=perplexity')
    page.get_by_role('button', name='Zoom in').click()     # of a chart that is shown
    assert page.evaluate('charts[2].chart.zoom.x') == pytest.approx([.75, 2.25])


def test_values_are_shown_with_the_name_of_their_score(mixed_page):
    page = mixed_page
    page.locator('.plot').first.focus()
    page.keyboard.press('ArrowDown')
    assert page.locator('.tip').first.inner_text().replace('\xa0', ' ').split('\n')[:2] == ['net_z', 'accuracy 0.9375']
    page.keyboard.press('ArrowLeft')
    spoken = page.locator('.charts figure').first.locator('[aria-live]').inner_text()
    assert spoken.startswith('net_z, accuracy 0.5000, epoch')
    page.keyboard.press('Enter')
    assert page.locator('tr.picked .run').all_inner_texts() == ['net_z']
    page.get_by_text('All values and settings of a run').click()
    assert page.locator('#values caption').inner_text() == '3 of 3 reports, latest first; Val and Training: accuracy'
    first = page.locator('#values tbody tr').first.locator('td').all_inner_texts()
    assert first == ['0.30', '30', '2 min', '0.9375', '0.4688', '250 ms']


def test_what_a_model_wrote_is_shown_as_text(mixed_page, mixed):
    page = mixed_page
    panel = page.locator('#samples')
    assert panel.is_hidden()
    for name, texts in ('x', ['one', HOSTILE[0]]), ('y', ['two\n  lines', HOSTILE[1]]):
        run = scored([.2, .25], params={'name': name})
        for report, text in zip(run['history'], texts, strict=True):
            report['sample'] = text
        write(mixed, f'net_{name}_status.json', run)
    look_again(page)
    panel.wait_for()
    assert page.locator('#samples-title').inner_text() == 'Samples of net_x'
    assert panel.locator('.sample').all_text_contents() == [HOSTILE[0], 'one']
    page.locator('.run', has_text='net_y').click()
    assert panel.locator('.sample').all_text_contents() == [HOSTILE[1], 'two\n  lines']
    assert panel.locator('li .soft').all_inner_texts() == ['epoch 0.20, accuracy 0.2500 on val',
                                                           'epoch 0.10, accuracy 0.2000 on val']
    assert page.locator('main img, main script').count() == 0
    page.fill('#filter', 'host')
    assert panel.is_hidden()


def test_a_score_that_appears_later_gets_its_charts_in_order(page, folder):
    shown = OF_PERPLEXITY
    for at, name, train in (2, 'recall sum', 'loss'), (0, 'accuracy', 'accuracy'):
        write(folder, f'{name}_status.json', scored([.5, .75], {**ACCURACY, 'name': name,
                                                                'train': f'smooth_train_{train}'}))
        look_again(page)
        page.wait_for_selector(f'#table td:text-is("{name}")')
        shown = [*shown[:at], f'{name.capitalize()} on val', f'Training {train}, smoothed', *shown[at:]]
        assert titles(page) == shown
    assert page.locator('.charts figure').last.inner_text().startswith('Time per batch')
    (folder / 'accuracy_status.json').unlink()
    look_again(page)
    page.wait_for_selector('.notice:has-text("accuracy_status.json is no longer there")')
    assert titles(page) == [*OF_PERPLEXITY, 'Recall sum on val', 'Training loss, smoothed']


def test_of_many_scores_some_are_drawn_and_the_others_named(browser, tmp_path):
    for i in range(8):
        write(tmp_path, f'{i}_status.json', scored([.5, .75], {**ACCURACY, 'name': f'score {i} {HOSTILE[0]}'}))
    with serving(monitor_routes(tmp_path)) as address, watched_page(browser) as page:
        page.goto(address)
        page.wait_for_selector('#table tbody tr')
        assert len(titles(page)) == 12 and page.locator('body img, body script').count() == 0
        left = page.locator('#undrawn').inner_text()
        assert left.startswith('Filter by the score') and 'score 6 ' in left and 'score 7 ' in left and '5' not in left
        assert HOSTILE[0] in titles(page)[0]
        page.fill('#filter', '7')
        assert [title[:7] for title in titles(page)] == ['Score 7', 'Trainin'] and page.locator('#undrawn').is_hidden()
        page.goto('about:blank')


def test_it_follows_the_files(page, folder):
    focused = page.get_by_role('button', name='host_a')
    focused.focus()
    write(folder, 'host_a_status.json', status(40, {'solver': 'adam', 'learning_rate': .001}, 9.5))
    write(folder, 'host_new_status.json', status(30, {'solver': 'adam'}, 18.))
    (folder / 'host_d_status.json').unlink()
    (folder / 'broken.json').write_text('{')
    look_again(page)
    page.wait_for_selector('.notice:has-text("broken.json")')
    assert names(page) == ['host_a', 'host_b', 'host_new', 'host_c']
    assert focused.evaluate('node => node === document.activeElement')     # though its row has moved
    assert '9.50' in page.title() and 'host_d_status.json is no longer there' in page.locator('#notices').inner_text()
    assert page.evaluate("charts[0].chart.curves.find(curve => curve.name === 'host_a').xs.length") == 40
    (folder / 'broken.json').unlink()                      # this time it comes by itself
    page.wait_for_selector('.notice:has-text("broken.json is no longer there")')


def test_what_does_not_change_is_not_fetched_again(page, folder):
    asked = []
    page.on('request', lambda request: asked.append(request.url.rpartition('/')[2]))
    write(folder, 'host_b_status.json', status(31, {'solver': 'rmsprop', 'learning_rate': .001}, 16.))
    look_again(page)
    page.wait_for_selector('#summary:has-text("perplexity 16")')
    assert set(asked) == {'status.json', '1.json'}


def test_a_silent_run_is_marked(browser, folder):
    for name, age in ('host_a', 1000), ('host_b', 10), ('host_c', 1000):
        path = folder / f'{name}_status.json'
        written = path.stat().st_mtime - age
        os.utime(path, (written, written))
    with serving(monitor_routes(folder)) as address, watched_page(browser) as page:
        page.goto(address)
        page.wait_for_selector('.state.silent')
        assert [text.split()[1] for text in column(page, 'State')] == ['running', 'finished', 'silent', 'aborted']
        assert 'no report for 17 min' in column(page, 'State')[2] and column(page, 'Left')[2] == '–'
        page.goto('about:blank')


def test_pointing_at_a_curve_tells_its_name_and_values(page):
    page.mouse.move(*place_of(page, 'host_c', 20))
    tip = page.locator('.charts figure').first.locator('.tip')
    assert tip.inner_text().replace('\xa0', ' ').split('\n') == ['host_c', 'perplexity 28',
                                                                'epoch 2.10 · iteration 210 · 20 min']
    assert page.locator('#table tr.hovered .run').inner_text() == 'host_c'
    stands_out = 'charts.map(({chart}) => chart.hovered?.curve.name)'
    assert page.evaluate(stands_out) == ['host_c'] * 3 and page.locator('.tip:visible').count() == 1
    page.mouse.move(*place(page, 0, .999, .01))
    assert tip.is_hidden() and page.locator('#table tr.hovered').count() == 0
    page.locator('.run', has_text='host_a').hover()
    assert page.evaluate(stands_out) == ['host_a'] * 3 and tip.is_hidden()


def test_a_click_on_a_row_or_a_curve_singles_a_run_out(page):
    page.locator('#table tbody td').first.click()
    assert page.locator('tr.picked .run').all_inner_texts() == ['host_b']
    strong = 'charts[0].chart.curves.filter(curve => curve.strong).map(curve => curve.name)'
    assert page.evaluate(strong) == ['host_b']
    page.mouse.click(*place_of(page, 'host_c', 20))
    assert page.evaluate(strong) == ['host_b', 'host_c']
    assert page.get_by_role('button', name='host_c').get_attribute('aria-pressed') == 'true'
    page.get_by_role('button', name='Clear the selection').click()
    assert len(page.evaluate(strong)) == 4 and page.locator('tr.picked').count() == 0


def test_dragging_zooms_all_charts_and_a_double_click_shows_all_again(page):
    zooms = 'charts.map(({chart}) => [chart.uplot.scales.x.min, chart.uplot.scales.x.max])'
    whole = page.evaluate(zooms)
    page.mouse.move(*place(page, 0, .25, .5))
    page.mouse.down()
    page.mouse.move(*place(page, 0, .4, .51))
    page.mouse.move(*place(page, 0, .5, .5))
    page.mouse.up()
    for (low, high), (least, most) in zip(page.evaluate(zooms), whole, strict=True):
        assert low == pytest.approx(least + .25 * (most - least), abs=.02)
        assert high == pytest.approx(least + .5 * (most - least), abs=.02)
    assert page.locator('tr.picked').count() == 0
    page.mouse.dblclick(*place(page, 0, .5, .05))
    assert page.evaluate(zooms) == whole
    page.mouse.move(*place(page, 0, .1, .1))
    page.mouse.down()
    page.mouse.move(*place_of(page, 'host_c', 19))
    page.mouse.move(*place_of(page, 'host_c', 20))
    page.mouse.up()                                        # on a curve, which is not meant
    assert page.locator('tr.picked').count() == 0 and page.evaluate(zooms) != whole
    page.get_by_role('button', name='Show all of the curves').click()
    page.get_by_role('button', name='Zoom in').click()
    low, high = page.evaluate(zooms)[2]
    assert high - low == pytest.approx((whole[2][1] - whole[2][0]) / 2)
    page.get_by_role('button', name='Show all of the curves').click()
    assert page.evaluate(zooms) == whole


def test_the_log_scale_and_the_axis(page):
    assert page.evaluate('charts[0].chart.uplot.scales.y.distr') == 3
    page.uncheck('#log')
    assert page.evaluate('charts[0].chart.uplot.scales.y.distr') == 1
    page.select_option('#axis', label='iterations')
    assert page.evaluate("charts.map(({chart}) => chart.uplot.scales.x.max)") == [300, 300, 300]
    page.select_option('#axis', label='time')
    assert page.evaluate("charts[1].chart.uplot.scales.x.max") == pytest.approx(29 / 60)


def test_the_keyboard_reaches_all(page):
    plot = page.locator('.plot').first
    plot.focus()
    plot.press('ArrowDown')
    assert page.locator('.tip').first.inner_text().startswith('host_b')
    plot.press('ArrowDown')
    plot.press('ArrowLeft')
    spoken = page.locator('.charts figure').first.locator('[aria-live]').inner_text()
    assert spoken.startswith('host_c, perplexity 20, epoch\xa02.90')
    plot.press('Enter')
    assert page.locator('tr.picked .run').all_inner_texts() == ['host_c']
    plot.press('+')
    assert page.evaluate('charts[1].chart.zoom.x') is not None
    plot.press('0')
    assert page.evaluate('charts[1].chart.zoom.x') is None
    run = page.get_by_role('button', name='host_a')
    run.focus()
    run.press('Enter')
    assert page.locator('tr.picked').count() == 2
    assert run.evaluate('node => node === document.activeElement')
    outline = 'node => getComputedStyle(node).outlineStyle'
    page.keyboard.press('Tab')
    assert page.evaluate(f'({outline})(document.activeElement)') == 'solid'


def test_the_values_of_a_run_as_a_table(page):
    page.get_by_text('All values and settings of a run').click()
    page.select_option('#values-run', label='host_d')
    table = page.locator('#values table')
    assert table.locator('tbody tr').count() == 30
    first = table.locator('tbody tr').first.locator('td').all_inner_texts()
    assert first == ['3', '300', '29 min', '60', '37', '250 ms']
    assert page.locator('#values-about').inner_text() == 'host_d: aborted, it exploded'
    assert 'adagrad' in page.locator('#values dl').inner_text()


def test_what_comes_from_files_is_text(browser, tmp_path):
    for i, text in enumerate(HOSTILE):
        params = {text: text, 'solver': text, 'fappend': 'x'}
        write(tmp_path, f'{text.replace("/", "|")}_status.json', status(5 + i, params, state='aborted', reason=text))
        (tmp_path / f'{text.replace("/", "|")}.json').write_text(text, encoding='utf-8')
    with serving(monitor_routes(tmp_path)) as address, watched_page(browser) as page:
        page.goto(address)
        page.wait_for_selector('#notices li')
        assert sorted(names(page)) == sorted(text.replace('/', '|') for text in HOSTILE)
        assert sorted(column(page, 'solver')) == sorted(HOSTILE)
        for text in HOSTILE:
            assert text in page.locator('#table thead').inner_text() and text in ' '.join(column(page, 'State'))
            assert f'{text.replace("/", "|")}.json' in page.locator('#notices').inner_text()
        page.get_by_text('All values and settings of a run').click()
        assert HOSTILE[0].replace('/', '|') in page.locator('#values-run').inner_text()
        page.locator('.plot').first.press('ArrowDown')
        assert page.locator('body img, body script').count() == 0 and 'taken' not in page.title().split()
        page.goto('about:blank')


def test_an_empty_folder_is_waited_for(browser, tmp_path):
    with serving(monitor_routes(tmp_path)) as address, watched_page(browser) as page:
        page.goto(address)
        page.wait_for_selector('#summary:has-text("No status file")')
        write(tmp_path, 'first_status.json', status(0))
        look_again(page)
        page.wait_for_selector('#table tbody tr')
        assert column(page, 'Best val') == ['–'] and column(page, 'Epoch') == ['–']
        page.goto('about:blank')


def test_a_monitor_that_was_ended_is_said(browser, folder):
    context = browser.new_context()
    with serving(monitor_routes(folder)) as address:
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector('#table tbody tr')
    look_again(page)
    page.wait_for_selector('.notice.bad:has-text("does not answer")')
    assert names(page) == ['host_b', 'host_c', 'host_a', 'host_d']
    context.close()


def test_contrast_is_aa_on_a_phone_and_nothing_is_wider_than_it(browser, mixed):
    with serving(monitor_routes(mixed)) as address, \
            watched_page(browser, viewport={'width': 360, 'height': 740}) as page:
        page.goto(address)
        page.wait_for_selector('#table tbody tr')
        assert page.evaluate('document.documentElement.scrollWidth') == 360
        for scheme in 'light', 'dark':
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate(CONTRASTS) == [], scheme
        page.goto('about:blank')


# of the colours of common.css and monitor.css, as the browser resolves them, those too weak on their grounds:
# [ink, ground, least contrast]
CONTRASTS = '''() => {
    const probe = document.body.appendChild(document.createElement('i'));
    const painter = document.createElement('canvas').getContext('2d');
    const light = name => {
        probe.style.color = `var(--${name})`;
        painter.fillStyle = getComputedStyle(probe).color;
        painter.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...painter.getImageData(0, 0, 1, 1).data].map(part => part / 255)
            .map(part => part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4);
        return .2126 * r + .7152 * g + .0722 * b;
    };
    const wanted = [];
    for (const ground of ['page', 'card', 'raised'])
        for (const ink of ['ink', 'soft', 'accent', 'good', 'warn', 'bad']) wanted.push([ink, ground, 4.5]);
    for (let slot = 0; slot < COLORS; slot++) wanted.push([`curve-${slot}`, 'card', 4.5]);    // of labels, too
    wanted.push(['on-accent', 'accent', 4.5], ['curve-other', 'card', 3], ['edge', 'card', 3], ['edge', 'page', 3]);
    return wanted.filter(([ink, ground, least]) => {
        const [low, high] = [light(ink), light(ground)].sort((a, b) => a - b);
        return !((high + .05) / (low + .05) >= least);
    });
}'''


def test_the_switch_between_light_and_dark(page):
    ground = 'getComputedStyle(document.documentElement).backgroundColor'
    switch = page.get_by_role('button', name='Colours')
    assert switch.inner_text() == 'Colours: system'
    light = page.evaluate(ground)
    switch.click()
    assert page.evaluate(ground) == light
    switch.click()
    assert page.evaluate(ground) != light
    assert page.evaluate('charts[0].chart.colors.ink') == page.evaluate('getComputedStyle(document.body).color')
    page.reload()
    page.wait_for_selector('#table tbody tr')
    assert switch.inner_text() == 'Colours: dark'

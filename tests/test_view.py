"""What imagernn.view reads, serves and writes: only what is named, and a message for everything that is wrong."""

import base64
import hashlib
import http.client
import io
import json
import math
import os
import re
import signal
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from programs import running

from imagernn import view
from imagernn.errors import InputError
from imagernn.web.results_page import (
    ANYWHERE,
    Places,
    checked_result,
    default_places,
    find_picture,
    find_pictures,
    packed_attention,
    page_data,
    read_result,
    same_images,
    single_file,
    title_of,
    view_command,
    write_page,
)
from imagernn.web.server import serving

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / 'shared' / 'data' / 'example_images'
BLOB = {'img_path': 'a.jpg', 'candidate': {'text': 'a dog', 'logprob': -1.5}}


def struct(*img_paths, **more):
    return {'params': {}, 'checkpoint_params': {}, **more,
            'imgblobs': [{'img_path': path, 'candidate': {'text': f'of {path}', 'logprob': -1.}} for path in img_paths]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Pictures in and out of the folder that is shown, and the result file that lists them."""
    inside, outside = tmp_path / 'in side', tmp_path / 'outside'
    for one in inside, outside:
        one.mkdir()
        Image.new('RGB', (1000, 500), 'red').save(one / 'a.jpg')
    (inside / 'link.jpg').symlink_to(outside / 'a.jpg')
    (inside / 'inner.jpg').symlink_to('a.jpg')
    (inside / 'circle.jpg').symlink_to('circle.jpg')
    (inside / 'page.jpg').write_text('<script>', encoding='utf-8')
    monkeypatch.chdir(inside)
    (inside / 'r.json').write_text(json.dumps(struct(
        'a.jpg', str(inside / 'a.jpg'), 'inner.jpg', '../in side/a.jpg', 'link.jpg', '../outside/a.jpg',
        str(outside / 'a.jpg'), '/etc/passwd', 'page.jpg', 'r.json', '.', '', 'circle.jpg', 'no.jpg', 'zero\0.jpg')),
        encoding='utf-8')
    return inside


def get(address, path):
    """Status, type and body; the path goes out as it is."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=10)
    connection.putrequest('GET', path)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.headers['Content-Type'], answer.read()


def test_only_pictures_inside_the_folder_are_served(folder, capsys):
    with serving(view.routes([read_result('r.json')], default_places('r.json'))) as address:
        images = json.loads(get(address, '/results.json')[2])['images']
        for image in images[:4]:
            status, kind, body = get(address, image['picture'])
            assert (status, kind) == (200, 'image/jpeg') and Image.open(io.BytesIO(body)).size == (800, 400)
        problems = {image['name']: image['problem'] for image in images if image['problem']}
        names = 'link.jpg', '../outside/a.jpg', str(folder.parent / 'outside' / 'a.jpg')
        outside = [problems.pop(name) for name in names]
        for problem in outside:    # no folder is suggested that only a result file, or a link beside it, names
            assert problem.endswith('may be shown; name the folder of the pictures with --root'), problem
        assert '/etc' not in problems.pop('/etc/passwd').removeprefix('/etc/passwd')
        assert 'zero' in problems.pop('zero\0.jpg')
        assert problems.keys() == {'circle.jpg', 'no.jpg'} and 'no.jpg: is not there' in problems['no.jpg']
        for image in images[8:12]:                                              # they are there, but no pictures
            status, kind, body = get(address, image['picture'])
            assert (status, kind) == (200, 'text/plain; charset=utf-8'), image
            assert b'not a picture' in body or b'is a folder' in body
        for path in ('/picture/4', '/picture/15', '/picture/-1', '/picture/00', '/picture/0/', '/picture/', '/r.json',
                     '/a.jpg', '/../outside/a.jpg', '/picture/../results.json', '/picture/%30', '/etc/passwd',
                     '//etc/passwd', '/picture/0?x', '/vis/results.js', '/monitor.html'):
            assert get(address, path)[0] == 404, path
    assert 'cannot be shown' in capsys.readouterr().err


def test_a_picture_that_turns_into_a_link_outward_is_not_served(folder):
    with serving(view.routes([read_result('r.json')], default_places('r.json'))) as address:
        assert get(address, '/picture/0')[1] == 'image/jpeg'
        (folder / 'a.jpg').unlink()
        (folder / 'a.jpg').symlink_to(folder.parent / 'outside' / 'a.jpg')
        status, kind, body = get(address, '/picture/0')
        assert kind.startswith('text/plain') and b'outside the folders that may be shown' in body


def test_root_is_where_pictures_are_looked_for_and_what_may_be_shown(folder):
    outside = folder.parent / 'outside'
    places = default_places('r.json', outside)
    assert find_picture('a.jpg', places) == (outside / 'a.jpg', None)
    assert find_picture('link.jpg', places) == (outside / 'a.jpg', None)
    assert '--root' in find_picture('page.jpg', places)[1]
    with pytest.raises(InputError, match='--root r.json: is not a folder'):
        default_places('r.json', 'r.json')


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """photos/ as it is on this computer, and the working directory beside it, without pictures."""
    for name in 'a.jpg', 'x/a.jpg', 'x/b.jpg', 'y/b.jpg', 'x/y/c d.jpg', 'ü.jpg':
        path = tmp_path / 'photos' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (40, 30), 'red').save(path)
    (tmp_path / 'desk').mkdir()
    monkeypatch.chdir(tmp_path / 'desk')
    return tmp_path / 'photos'


@pytest.mark.parametrize('img_path, found', [
    ('/home/somebody/photos/x/a.jpg', 'x/a.jpg'), ('/home/somebody/photos/a.jpg', 'a.jpg'), ('x/a.jpg', 'x/a.jpg'),
    ('data/somewhere/imgs/x/y/c d.jpg', 'x/y/c d.jpg'), ('/media/c d.jpg', 'x/y/c d.jpg'), ('ü.jpg', 'ü.jpg'),
    (r'C:\Users\me\photos\x\b.jpg', 'x/b.jpg'), (r'photos\y\b.jpg', 'y/b.jpg'), (r'x\a.jpg', 'x/a.jpg'),
    (r'\\server\share\x\y\c d.jpg', 'x/y/c d.jpg'), ('D:/y/b.jpg', 'y/b.jpg'), ('../photos/x/b.jpg', 'x/b.jpg'),
    ('https://example.org/photos/x/b.jpg?size=1', None), ('https://example.org/y/b.jpg', 'y/b.jpg'),
    ('/home/somebody/b.jpg', None), ('/home/somebody/z.jpg', None), ('/home/somebody/a.JPG', None), ('/a.jpg', None)])
def test_a_root_holds_the_pictures_of_another_computer(elsewhere, img_path, found):
    (picture, problem), = find_pictures([img_path], default_places('r.json', elsewhere))
    assert picture == (found and elsewhere / found) and (problem is None) == (found is not None)


def test_what_is_not_found_in_a_root_is_reported_with_advice_that_helps(elsewhere, capsys):
    places = default_places('r.json', elsewhere)
    (_, twice), (_, never), (_, absent) = find_pictures(['/old/b.jpg', '/old/z.jpg', '/old/photos/x/z.jpg'], places)
    assert f'{elsewhere} holds 2 pictures of that name, such as {elsewhere}/x/b.jpg and {elsewhere}/y/b.jpg' in twice
    for problem in never, absent:
        assert f'is neither at its path nor, under its name, in {elsewhere}; name the folder that holds it' in problem
    assert capsys.readouterr().err == ''
    find_pictures(['/old/x/b.jpg', '/old/c d.jpg', 'a.jpg'], places)
    note = 'note: 2 pictures are not at their paths, and were found by the end of the path in'
    assert capsys.readouterr().err == f'{note} {elsewhere}; the first: /old/x/b.jpg as {elsewhere}/x/b.jpg\n'


def test_an_ending_that_several_paths_share_finds_no_picture(elsewhere):
    places = default_places('r.json', elsewhere)
    wanted = ['/old/one/c d.jpg', '/old/two/c d.jpg', '/old/x/b.jpg', '/new/x/b.jpg', 'old/y/b.jpg', 'ü.jpg', 'v/ü.jpg']
    found = find_pictures(wanted, places)
    assert [path and str(path.relative_to(elsewhere)) for path, _ in found] == [
        None, None, None, None, 'y/b.jpg', 'ü.jpg', None]
    assert f'{elsewhere}/x/y/c d.jpg could be this picture or another one of the same name' in found[0][1]
    twice = find_pictures(['/old/c d.jpg', r'\old\c d.jpg'], places)    # one path, twice
    assert [path for path, _ in twice] == [elsewhere / 'x/y/c d.jpg'] * 2


def test_pictures_from_another_computer_are_on_the_page_and_served(elsewhere, capsys):
    Path('r.json').write_text(json.dumps(struct(r'C:\me\x\b.jpg', '/old/x/a.jpg', '/old/z.jpg')), encoding='utf-8')
    Path('s.json').write_text(json.dumps(struct('x/b.jpg', 'a.jpg')), encoding='utf-8')
    assert view.main(['r.json', 's.json', '--root', '../photos', '--export', 'p.html']) == 0
    data = json.loads(re.search('id="data">(.*?)</script>', Path('p.html').read_text(encoding='utf-8'))[1])
    assert [image['picture'] is not None for image in data['images']] == [True, True, False]
    assert data['images'][0]['captions'][1]['text'] == 'of x/b.jpg'    # the same picture, by its file name
    with serving(view.routes([read_result('r.json')], default_places('r.json', '../photos'))) as address:
        assert get(address, '/picture/0')[1] == 'image/jpeg' and get(address, '/picture/2')[0] == 404
        (elsewhere / 'x' / 'b.jpg').unlink()
        (elsewhere / 'x' / 'b.jpg').symlink_to(elsewhere.parent / 'desk' / 'r.json')
        assert b'outside the folders that may be shown' in get(address, '/picture/0')[2]


def test_a_picture_that_is_there_but_may_not_be_shown_is_not_replaced_by_another_of_its_name(elsewhere):
    Image.new('RGB', (40, 30), 'blue').save('a.jpg')
    places = default_places('elsewhere/r.json', elsewhere / 'x')
    (picture, problem), = find_pictures([str(Path('a.jpg').resolve())], places)
    assert picture is None and f'is outside the folders that may be shown; give --root {Path.cwd()}' in problem


def test_the_command_that_shows_a_result_shows_its_pictures(folder, tmp_path):
    outside = tmp_path / 'outside'
    assert view_command('r.json', ['a.jpg', 'no.jpg'], folder) == 'python -m imagernn view r.json'
    assert view_command('r.json', ['link.jpg']).endswith(f'r.json --root {outside}')
    assert view_command('r.json', ['link.jpg', 'a.jpg']).endswith(f'--root {tmp_path}')
    os.chdir(tmp_path)
    # a relative name whose file only its base finds
    assert view_command('x.json', ['a.jpg'], 'outside') == 'python -m imagernn view x.json --root outside'
    assert view_command('in side/r.json', ['a.jpg'], 'in side') == "python -m imagernn view 'in side/r.json'"


@pytest.mark.parametrize('change, words', [
    (lambda data: data.pop('imgblobs'), ['imgblobs']),
    (lambda data: data.update(imgblobs=[]), ['imgblobs is empty']),
    (lambda data: data.update(imgblobs={}), ['imgblobs', 'expected a list']),
    (lambda data: data['imgblobs'].append(3), ['imgblobs[1]', '3']),
    (lambda data: data['imgblobs'][0].pop('candidate'), ['imgblobs[0]', 'candidate']),
    (lambda data: data['imgblobs'][0].pop('img_path'), ['imgblobs[0]', 'img_path']),
    (lambda data: data['imgblobs'][0]['candidate'].update(text=None), ['imgblobs[0].candidate', 'null']),
    (lambda data: data['imgblobs'][0].update(references='x'), ['imgblobs[0].references', 'expected a list']),
    (lambda data: data['imgblobs'][0].update(references=[{'txt': 'x'}]), ['imgblobs[0].references[0]', 'text']),
    (lambda data: data['imgblobs'][0].update(nbest=[[]]), ['imgblobs[0].nbest[0]']),
], ids=range(10))
def test_a_result_file_that_is_wrong_is_named_with_the_place(tmp_path, change, words):
    data = {'imgblobs': [json.loads(json.dumps(BLOB))], 'x': 1}
    change(data)
    (tmp_path / 'r.json').write_text(json.dumps(data), encoding='utf-8')
    with pytest.raises(InputError) as raised:
        read_result(tmp_path / 'r.json')
    assert all(word in str(raised.value) for word in (str(tmp_path / 'r.json'), *words)), raised.value


BOXES = [[0, 0, 1, 1], [0, 0, .5, .5], [.25, .25, 1, .75]]
LOOKS = [[.5, .25, .25], [0, 1, 0], [.3333, .3333, .3333]]    # of two words and END


def attentive(regions=BOXES, attention=LOOKS, **candidate):
    blob = {'img_path': 'a.jpg', 'candidate': {'text': 'a dog', 'logprob': -1., 'word_logprobs': [-.5, -.3, -.2],
                                               'attention': attention, **candidate}}
    return {'imgblobs': [blob], 'regions': regions}


def unpacked(text, num_regions):
    """What vis/attention.js reads from an attention in the data of the page -> (words, num_regions)."""
    rows = np.frombuffer(base64.b64decode(text), np.uint8).reshape(-1, num_regions + 2).astype(float)
    largest = (256 * rows[:, :1] + rows[:, 1:2]) / 65535
    return rows[:, 2:] / 255 * largest


def test_where_words_looked_is_packed_into_a_byte_for_each_weight():
    rng = np.random.default_rng(0)
    for num_regions, spread in (1, 1), (49, 1), (49, 9), (1000, 1), (1000, 9):
        weights = np.exp(spread * rng.normal(size=(13, num_regions)))
        weights = (weights / weights.sum(axis=1, keepdims=True)).round(4)
        text = packed_attention(weights)
        found = unpacked(text, num_regions)
        largest = weights.max(axis=1, keepdims=True)
        assert len(text) <= 13 * (num_regions + 2) * 4 / 3 + 3
        assert (abs(found - weights) <= largest / 500 + 1e-5).all()
        assert (abs(found.max(axis=1, keepdims=True) - largest) <= 1e-5).all()


def test_the_data_of_the_page_says_where_words_looked_if_the_file_does():
    data = attentive()
    best = data['imgblobs'][0]['candidate']
    data['imgblobs'][0]['nbest'] = [best, {'text': 'a', 'attention': LOOKS[:1]}, {'text': 'b'}]
    data['imgblobs'].append(struct('b.jpg')['imgblobs'][0])
    page = page_data([checked_result('r', data)], [(None, 'x')] * 2)
    assert page['files'][0]['regions'] == BOXES
    first, second = (image['captions'][0] for image in page['images'])
    for text, rows in (first['attention'], LOOKS), (first['nbest'][0]['attention'], LOOKS), (
            first['nbest'][1]['attention'], LOOKS[:1]):
        assert np.allclose(unpacked(text, 3), rows, atol=.002)
    assert 'attention' not in first['nbest'][2] and 'attention' not in second
    for one in checked_result('r', struct('b.jpg')), checked_result('r', {**struct('b.jpg'), 'regions': None}):
        assert 'regions' not in page_data([one], [(None, 'x')])['files'][0]


@pytest.mark.parametrize('regions, attention', [
    ([[0, 0, 1 / 3 + 2 / 3 + 1e-9, 1]], [[1], [1.0], [1]]), (BOXES, [[1, 0, 0]] * 3), (BOXES, None), (BOXES, []),
    ([[i / 1000, 0, (i + 1) / 1000, 1] for i in range(1000)], [[.001] * 1000] * 3),
    ([[i / 700, 0, (i + 1) / 700, 1] for i in range(700)], [[.0014] * 700] * 3)],    # 1/700, rounded to four decimals
    ids=range(6))
def test_attention_that_is_valid_is_taken(regions, attention):
    assert len(checked_result('r', attentive(regions, attention)).regions) == len(regions)


@pytest.mark.parametrize('data, words', [
    (attentive(regions={}), ['imgblobs[0].candidate.attention', 'no "regions"']),
    (attentive(regions='x'), ['regions', 'expected a list']),
    (attentive(regions=[*BOXES, 3]), ['regions[3]', 'is not a box']),
    (attentive(regions=[*BOXES, [0, 0, 1]]), ['regions[3]', 'is not a box']),
    (attentive(regions=[*BOXES, [0, 0, 1, '1']]), ['regions[3]', 'is not a box']),
    (attentive(regions=[*BOXES, [False, 0, 1, 1]]), ['regions[3]', 'is not a box']),
    (attentive(regions=[*BOXES, [-.1, 0, 1, 1]]), ['regions[3]', 'is not a box']),
    (attentive(regions=[*BOXES, [0, 0, 1, 1.01]]), ['regions[3]', 'is not a box']),
    (attentive(regions=[*BOXES, [0, 0, 375, 500]]), ['regions[3]', 'shares of the width and height']),
    (attentive(regions=[*BOXES, [.5, 0, .5, 1]]), ['regions[3]', 'is not a box']),
    (attentive(regions=[*BOXES, [0, 1, 1, 0]]), ['regions[3]', 'is not a box']),
    (attentive(regions=[*BOXES, [0, 0, 1, math.nan]]), ['regions[3]', 'is not a box']),
    (attentive(regions=[*BOXES, [0, 0, 1, 10 ** 400]]), ['regions[3]', 'is not a box']),
    (attentive(regions=[[0, 0, 1, 1]] * 1001), ['regions has 1,001 boxes', '1,000']),
    (attentive(attention='x'), ['candidate.attention', 'expected a list']),
    (attentive(attention=LOOKS[:1]), ['candidate.attention has 1 entries for 2 words and 3 word_logprobs']),
    (attentive(attention=LOOKS[:2]), ['candidate.attention has 2 entries for 2 words and 3 word_logprobs']),
    (attentive(attention=LOOKS * 2, word_logprobs=None), ['candidate.attention has 6 entries']),
    (attentive(attention=[*LOOKS[:2], 'x']), ['candidate.attention[2]', 'expected 3 weights']),
    (attentive(attention=[*LOOKS[:2], [.5, .5]]), ['candidate.attention[2] has 2 weights', 'expected 3 weights']),
    (attentive(attention=[*LOOKS[:2], [.5, .5, '0']]), ['candidate.attention[2]', 'that sum to 1']),
    (attentive(attention=[*LOOKS[:2], [.5, .5, None]]), ['candidate.attention[2]', 'that sum to 1']),
    (attentive(attention=[*LOOKS[:2], [True, 0, 0]]), ['candidate.attention[2]', 'that sum to 1']),
    (attentive(attention=[*LOOKS[:2], [1.5, -.5, 0]]), ['candidate.attention[2]', 'from 0 to 1']),
    (attentive(attention=[*LOOKS[:2], [.5, .4, 0]]), ['candidate.attention[2]', 'that sum to 1']),
    (attentive(attention=[*LOOKS[:2], [0, 0, 0]]), ['candidate.attention[2]', 'that sum to 1']),
    (attentive(attention=[*LOOKS[:2], [1, 0, math.nan]]), ['candidate.attention[2]', 'that sum to 1']),
    (attentive(attention=[*LOOKS[:2], [1, 0, math.inf]]), ['candidate.attention[2]', 'from 0 to 1']),
    (attentive(attention=[*LOOKS[:2], [1, 0, 10 ** 400]]), ['candidate.attention[2]', 'from 0 to 1']),
    (attentive(attention=[*LOOKS[:2], [math.nan, 10 ** 400, 0]]), ['candidate.attention[2]', 'from 0 to 1']),
    (attentive(attention=[*LOOKS[:2], [[1], 0, 0]]), ['candidate.attention[2]', 'from 0 to 1']),
], ids=range(31))
def test_attention_that_is_wrong_is_named_with_the_place(tmp_path, data, words):
    (tmp_path / 'r.json').write_text(json.dumps(data), encoding='utf-8')
    with pytest.raises(InputError) as raised:
        read_result(tmp_path / 'r.json')
    assert all(word in str(raised.value) for word in (str(tmp_path / 'r.json'), *words)), raised.value
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize('value', [None, 'x', True, 'NaN', [], {}, 1e300, -1e400, 10 ** 400])
def test_what_should_be_a_number_and_is_none_is_unknown(value):
    data = {'gtppl': value, 'scores': {'CIDEr': value, 'Bleu_4': .5}, 'params': value, 'imgblobs': [
        {**BLOB, 'candidate': {'text': 'a', 'logprob': value, 'word_logprobs': [value, -.1]}, 'scores': {'x': value}}]}
    result = checked_result('r', data)
    assert result.measures == {'Bleu_4': .5} and result.params == (value if value == {} else {})
    assert result.images[0]['caption'] == {'text': 'a', 'logprob': None, 'words': [None, -.1], 'scores': {},
                                           'nbest': []}
    json.dumps(page_data([result], [(None, 'x')]), allow_nan=False)


def test_images_of_two_files_are_matched_by_path_or_else_by_file_name():
    def result(*paths):
        return checked_result('r', struct(*paths))

    def matched(one, other):
        return [image and image['img_path'] for image in same_images(one, other)]

    assert matched(result('x/a', 'x/b', 'c'), result('y/b', 'y/a', 'd')) == ['y/a', 'y/b', None]
    assert matched(result('x/a', 'y/a'), result('y/a', 'x/a')) == ['x/a', 'y/a']
    for one, other in (['a'], ['b']), (['x/a', 'y/a'], ['z/a']), (['a', 'a'], ['a']), (['z/a'], ['x/a', 'y/a']):
        with pytest.raises(InputError, match='expected results for the same pictures'):
            same_images(result(*one), result(*other))


def test_the_page_of_one_file_holds_its_data_as_text_and_runs_only_its_own_scripts(tmp_path):
    evil = '</script><script>alert(1)</script><!--<script> \u2028 "\' \ud83d é'
    result = checked_result('r', struct(evil, dataset=evil))
    write_page(tmp_path / 'p.html', [result], ANYWHERE)
    page = (tmp_path / 'p.html').read_text(encoding='utf-8')
    scripts = re.findall(r'<script([^>]*)>(.*?)</script>', page, re.S)
    assert [attributes for attributes, _ in scripts] == [' type="application/json" id="data"',
                                                         ' type="text/plain" id="search.js"', *[''] * 4]
    data = json.loads(scripts[0][1])
    assert data['images'][0]['name'] == evil and evil not in page and 'alert(1)' not in page.replace(scripts[0][1], '')
    policy = re.search(r'Content-Security-Policy" content="(.*?)">', page)[1]
    styles = re.findall('<style>(.*?)</style>', page, re.S)
    for text in [*styles, *(text for _, text in scripts[2:])]:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy
    assert len(styles) == 3 and "default-src 'none'" in policy and 'unsafe' not in policy
    assert not re.search(r'<link rel="stylesheet"|<script src', page)
    assert single_file({}).count('<script') == len(scripts)


def test_thumbnails_are_inside_and_small(folder, capsys):
    assert view.main(['r.json', '--export', 'p.html', '--thumbnail_size', '100']) == 0
    data = json.loads(re.search('id="data">(.*?)</script>', Path('p.html').read_text(encoding='utf-8'))[1])
    picture = base64.b64decode(data['images'][0]['picture'].removeprefix('data:image/jpeg;base64,'))
    assert Image.open(io.BytesIO(picture)).size == (100, 50)
    assert 'page.jpg: is not a picture' in data['images'][8]['problem'] and data['images'][4]['picture'] is None
    assert 'note: 11 of 15 pictures cannot be shown; the first: link.jpg: is outside' in capsys.readouterr().err


def test_the_title_says_what_one_sees():
    def title(params, n, **blob):
        return title_of(checked_result('r', {'params': params, 'imgblobs': [{**BLOB, **blob}] * n}))

    references = [{'text': 'a'}]
    assert title({'dataset': 'coco', 'split': 'val'}, 2000, references=references) == 'coco val: 2,000 images'
    assert title({'dataset': 'coco'}, 1, references=references) == 'coco: 1 image'
    assert title({'dataset': 'coco'}, 2) == '2 pictures'


@pytest.mark.parametrize('flags, words', [
    (['absent.json'], ['absent.json']),
    (['r.json', 'r.json', 'r.json'], ['3 result files']),
    (['r.json', '--export', 'r.json'], ['r.json', 'would overwrite it']),
    (['r.json', '--export', '.'], ['is a folder']),
    (['r.json', '--thumbnail_size', '0'], ['--thumbnail_size 0']),
    (['r.json', '--root', 'nowhere'], ['--root nowhere']),
    (['r.json', '--port', '99999', '--no_browser'], ['--port 99999']),
    (['a.jpg'], ['a.jpg']),
    (['coco.json'], ['coco.json', 'imgblobs']),
], ids=str)
def test_a_mistake_is_a_message_and_exit_code_2(folder, capsys, flags, words):
    (folder / 'coco.json').write_text('[{"image_id": 1, "caption": "a"}]', encoding='utf-8')
    before = (folder / 'r.json').read_bytes()
    assert view.main(flags) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith('error: ') and all(word in error for word in words), error
    assert (folder / 'r.json').read_bytes() == before


def test_the_program_says_where_it_serves_and_ends_quietly(folder):
    with running('-m', 'imagernn.view', 'r.json', '--no_browser', cwd=folder) as process:
        address = re.match(r'open (http://127\.0\.0\.1:\d+)/ in a browser', process.stdout.readline())[1]
        assert get(address, '/')[0] == 200
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0 and 'Traceback' not in process.stderr.read()


def test_the_originals_result_file_shows(tmp_path):
    if not SHARED.is_dir():
        pytest.skip('no shared folder beside the checkout with data/example_images')
    result = read_result(SHARED / 'original_result_struct.json')
    assert title_of(result) == '16 pictures' and result.trained['hidden_size'] == 550
    places = Places((SHARED,), (SHARED,))
    assert all(find_picture(image['img_path'], places)[0] for image in result.images)


def test_an_exported_page_names_no_folder_of_its_flags(tmp_path):
    result = struct('a.jpg')
    result['params'] = {'checkpoint_path': '/home/me/cv/model.h5', 'data_root': '/home/me/data', 'beam_size': 3}
    result['checkpoint_params'] = {'dataset': '/home/me/flickr8k', 'features': r'C:\me\feats.h5', 'generator': 'lstm'}
    (tmp_path / 'r.json').write_text(json.dumps(result), encoding='utf-8')
    assert view.main([str(tmp_path / 'r.json'), '--export', str(tmp_path / 'p.html')]) == 0
    page = (tmp_path / 'p.html').read_text(encoding='utf-8')
    assert 'model.h5' in page and 'feats.h5' in page and 'home/me' not in page and r'C:\\me' not in page

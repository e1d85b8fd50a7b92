"""Files of Flickr30k Entities: what is read, and what is wrong in a damaged one."""

import copy
import gzip
import json
from pathlib import Path

import pytest

from imagernn.errors import InputError
from imagernn.formats import entities
from imagernn.formats.entities import Phrase, read_entities

FILE = Path(__file__).resolve().parents[2] / 'shared' / 'data' / 'flickr8k' / 'entities.jsonl.gz'
LINE = {'imgid': 3, 'filename': 'a.jpg', 'split': 'test', 'width': 500, 'height': 375,
        'boxes': {'7': [[0, .25, .5, 1], [.5, 0, 1, 1.0]], '9': []}, 'flags': {'8': 'nobox'},
        'sentences': [{'words': ['A', 'dog', 'runs', '.'], 'sentid': 17,
                       'phrases': [{'id': 7, 'type': ['animals'], 'start': 0, 'end': 2, 'phrase': 'A dog'}]},
                      {'words': ['Mud', '!'],
                       'phrases': [{'id': 8, 'type': ['scene', 'other'], 'start': 0, 'end': 1}]}]}


def changed(*path, to):
    """LINE with another value at a path of keys."""
    line = copy.deepcopy(LINE)
    place = line
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return line


@pytest.mark.parametrize('name', ['a.jsonl', 'a.jsonl.gz'])
@pytest.mark.parametrize('newline', ['\n', '\r\n'])
def test_a_file_is_read_compressed_or_not(tmp_path, name, newline):
    text = newline.join([json.dumps(LINE), json.dumps(changed('sentences', 0, 'sentid', to=None)), '', '']).encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith('gz') else text)
    first, second = read_entities(tmp_path / name)
    assert (first.imgid, first.filename, first.split) == (3, 'a.jpg', 'test')
    assert {entity: boxes.tolist() for entity, boxes in first.boxes.items()} == {'7': [[0, .25, .5, 1], [.5, 0, 1, 1]]}
    assert first.sentences == [(['A', 'dog', 'runs', '.'], 2, [Phrase('7', ('animals',), 0, 2)]),
                               (['Mud', '!'], None, [Phrase('8', ('scene', 'other'), 0, 1)])]
    assert second.sentences[0].place is None


@pytest.mark.parametrize('line, words', [
    ([LINE], "a list is where an object with 'imgid' was expected"),
    (changed('imgid', to=True), "'imgid' is a boolean; expected an integer"),
    (changed('filename', to=None), "'filename' is null; expected a string"),
    ({key: value for key, value in LINE.items() if key != 'split'}, "'split' is missing; expected a string"),
    (changed('boxes', to=[]), "'boxes' is a list; expected an object"),
    (changed('boxes', '7', to=5), "a box of entity '7' is 5; expected [x0, y0, x1, y1]"),
    (changed('boxes', '7', 0, to=[0, 0, 1]), "a box of entity '7' is [0, 0, 1]; expected"),
    (changed('boxes', '7', 0, to=[0, 0, 1, '1']), "a box of entity '7' is [0, 0, 1, '1']; expected"),
    (changed('boxes', '7', 0, to=[0, 0, 375, 500]), "a box of entity '7' is [0, 0, 375, 500]; expected"),
    (changed('boxes', '7', 0, to=[.5, 0, .5, 1]), "a box of entity '7' is [0.5, 0, 0.5, 1]; expected"),
    (changed('boxes', '7', 0, to=[float('nan'), 0, 1, 1]), "a box of entity '7' is [nan, 0, 1, 1]; expected"),
    (changed('sentences', 1, to='Mud!'), "a string is where an object with 'words' was expected"),
    (changed('sentences', 1, 'words', 0, to=5), "'words' is [5, '!']; expected a list of strings"),
    (changed('sentences', 0, 'sentid', to=20), 'sentid is 20; expected 5 times the imgid 3, plus 0 to 4'),
    (changed('sentences', 0, 'sentid', to='17'), "'sentid' is a string; expected an integer"),
    (changed('sentences', 0, 'phrases', to=None), "'phrases' is null; expected a list"),
    (changed('sentences', 0, 'phrases', 0, 'type', to='people'), "'type' is a string; expected a list"),
    (changed('sentences', 0, 'phrases', 0, 'start', to=2), 'a phrase has start 2 and end 2; expected'),
    (changed('sentences', 0, 'phrases', 0, 'end', to=5), '<= 4, the number of words'),
    (changed('sentences', 0, 'phrases', 0, 'start', to=-1), 'a phrase has start -1'),
    (changed('sentences', 0, 'phrases', 0, 'id', to=7.5), "'id' is a number; expected an integer"),
    (b'{"imgid": 3,', 'is not valid JSON at column 13'),
    (b'\xff', 'codec can\'t decode'),
    (b'[' * 100_000, 'Correct that line'),
    (b'{"imgid": ' + b'9' * 5000 + b'}', 'Correct that line'),
])
def test_a_line_that_is_wrong_is_named(tmp_path, line, words):
    path = tmp_path / 'a.jsonl'
    path.write_bytes(json.dumps(LINE).encode() + b'\n' + (line if type(line) is bytes else json.dumps(line).encode())
                     + b'\n')
    with pytest.raises(InputError) as error:
        read_entities(path)
    assert str(error.value).startswith(f'{path}, line 2: ') and words in str(error.value)
    assert len(str(error.value)) < 300 + len(str(path))


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    path = tmp_path / 'a.jsonl.gz'
    packed = gzip.compress(json.dumps(LINE).encode() * 50)
    for contents, words in ((b'', 'is empty'), (packed[:-20], 'its compression is damaged'),
                            (packed[:30] + b'\0\0\0' + packed[33:], 'its compression is damaged'),
                            (gzip.compress(b' ' * (entities.LONGEST_LINE + 1)), 'has a line of more than 1,048,576')):
        path.write_bytes(contents)
        with pytest.raises(InputError, match=words):
            read_entities(path)
    for unreadable in (tmp_path, tmp_path / 'none'):
        with pytest.raises(InputError, match='cannot be read'):
            read_entities(unreadable)
    monkeypatch.setattr(entities, 'MOST_BYTES', 1000)
    path.write_bytes(gzip.compress((json.dumps(LINE) + '\n').encode() * 50))
    with pytest.raises(InputError, match='more than 1,000 bytes in all'):
        read_entities(path)


def test_flickr8k():
    if not FILE.is_file():
        pytest.skip('needs shared/data/flickr8k/entities.jsonl.gz beside the checkout')
    images = read_entities(FILE)
    assert len(images) == 8000 and all(len(image.sentences) == 5 for image in images)
    counts = {split: sum(phrase.entity in image.boxes for image in images if image.split == split
                         for sentence in image.sentences for phrase in sentence.phrases)
              for split in ('train', 'val', 'test')}
    assert counts == {'train': 77_911, 'val': 13_123, 'test': 13_063}
    assert sum(sentence.place is None for image in images for sentence in image.sentences) == 563

"""Results and references as people have them: what a file is, what is wrong in it, which caption is of which image."""

import gzip
import json

import pytest

from imagernn.errors import InputError
from imagernn.formats.caption_files import align, read_captions, read_training

RESULTS = [{'image_id': 7, 'caption': 'a dog'}, {'image_id': 3, 'caption': ''}]
STRUCT = {'imgblobs': [
    {'img_path': 'imgs/c.jpg', 'imgid': 1, 'candidate': {'text': 'a cat', 'logprob': -1.5},
     'references': [{'text': 'one cat'}, {'text': 'cats'}]},
    {'img_path': 'imgs\\g.jpg', 'imgid': 0, 'candidate': {'text': 'two dogs'}, 'references': [{'text': 'dogs'}]}]}
COCO = {'images': [{'id': 3, 'file_name': 'c.jpg'}, {'id': 5, 'file_name': 'e.jpg'}, {'id': 7, 'file_name': 'g.jpg'}],
        'annotations': [{'image_id': 7, 'caption': 'A dog.'}, {'image_id': 3, 'caption': 'A cat.'},
                        {'image_id': 7, 'caption': 'Two dogs.'}]}
DATASET = {'images': [
    {'filename': 'x.jpg', 'imgid': 2, 'split': 'train', 'sentences': [{'tokens': ['a', 'pig'], 'raw': 'A pig!'}]},
    {'filename': 'g.jpg', 'imgid': 0, 'cocoid': 7, 'split': 'test', 'sentences': [{'tokens': ['a', 'dog']}]},
    {'filename': 'c.jpg', 'imgid': 1, 'cocoid': 3, 'split': 'test', 'sentences': [{'raw': 'A cat.', 'tokens': ['a']}]}]}


@pytest.fixture
def files(tmp_path):
    """Write files by name: text as it is, anything else as JSON. Gives their paths."""

    def write(**contents):
        paths = []
        for name, content in contents.items():
            paths.append(tmp_path / name.replace('_json', '.json'))
            text = content if isinstance(content, (str, bytes)) else json.dumps(content)
            paths[-1].write_bytes(text.encode() if isinstance(text, str) else text)
        return [str(path) for path in paths]

    return write


def aligned(paths, references=(), split=None, allow_missing=False):
    """What is scored: for each image its id, the captions of all results, the references; and the notes."""
    results, references = read_captions(paths, references, split)
    captions, references, ids, notes = align(results, references, allow_missing)
    return list(zip(ids, *captions, references, strict=True)), notes


# ---------------------------------------------------------------------------------------------- what a file is

def test_coco_results_against_coco_annotations(files):
    # in the order of the annotations; an image without a caption (5) is nobody's concern
    expected = [(3, '', ['A cat.']), (7, 'a dog', ['A dog.', 'Two dogs.'])]
    assert aligned(files(r=RESULTS, a=COCO)) == (expected, [])
    assert aligned(files(a=COCO, r=RESULTS)) == (expected, [])          # what a file is stands in it, not in its place
    assert aligned(files(r=RESULTS), files(a=COCO)) == (expected, [])


def test_ids_may_be_written_as_strings_and_be_names_of_files(files):
    strings = [{'image_id': str(entry['image_id']), 'caption': entry['caption']} for entry in RESULTS]
    assert [row[1:] for row in aligned(files(r=strings, a=COCO))[0]] == [('', ['A cat.']),
                                                                         ('a dog', ['A dog.', 'Two dogs.'])]
    named = [{'image_id': 'c.jpg', 'caption': 'C'}, {'image_id': 'g.jpg', 'caption': 'G'}]
    assert [row[:2] for row in aligned(files(r=named, a=COCO))[0]] == [('c.jpg', 'C'), ('g.jpg', 'G')]


FORMS = ['{}', '{:012}', 'COCO_val2014_{:012}']


@pytest.mark.parametrize('form', [*FORMS, 'COCO_val2014_{:012}.jpg', '{:012}.jpg'])
def test_results_may_spell_the_numbers_of_coco_in_any_of_its_forms(files, form):
    spelled = [{**entry, 'image_id': form.format(entry['image_id'])} for entry in RESULTS]
    expected = [('', ['A cat.']), ('a dog', ['A dog.', 'Two dogs.'])]
    assert [row[1:] for row in aligned(files(r=spelled, a=COCO))[0]] == expected
    by_cocoid = [row[1:] for row in aligned(files(r=spelled, d=DATASET))[0]]
    assert by_cocoid == [('a dog', ['a dog']), ('', ['A cat.'])]


@pytest.mark.parametrize('images', ['{}', '{:012}'])
@pytest.mark.parametrize('form', FORMS)
def test_annotations_may_spell_them_so_too(files, form, images):
    spelled = {'images': [{**image, 'id': images.format(image['id'])} for image in COCO['images']],
               'annotations': [{**entry, 'image_id': form.format(entry['image_id'])} for entry in COCO['annotations']]}
    expected = [('', ['A cat.']), ('a dog', ['A dog.', 'Two dogs.'])]
    assert [row[1:] for row in aligned(files(r=RESULTS, a=spelled))[0]] == expected
    del spelled['images']
    assert sorted(row[1:] for row in aligned(files(r=RESULTS, a=spelled))[0]) == expected


def test_pictures_of_2014_are_those_of_2017(files):
    struct = {'imgblobs': [{'img_path': f'val2014/COCO_val2014_{number:012}.jpg', 'candidate': {'text': text}}
                           for number, text in ((7, 'a dog'), (3, 'a cat'))]}
    later = {**COCO, 'images': [{'id': number, 'file_name': f'{number:012}.jpg'} for number in (3, 5, 7)]}
    assert [row[:2] for row in aligned(files(s=struct, a=later))[0]] == [
        ('COCO_val2014_000000000003.jpg', 'a cat'), ('COCO_val2014_000000000007.jpg', 'a dog')]


def test_a_number_that_two_ids_may_mean_is_matched_as_it_is_spelled(files):
    both = [*RESULTS, {'image_id': '03', 'caption': 'x'}]
    with pytest.raises(InputError, match="r: 1 of its 3 images have no references in .*, such as '03'"):
        aligned(files(r=both, a=COCO))
    twice = {'images': [{'id': '3'}, {'id': '03'}], 'annotations': [{'image_id': '0003', 'caption': 'x'}]}
    with pytest.raises(InputError, match='annotations of image_id 0003, which is not in the list'):
        aligned(files(r=RESULTS, a=twice))
    photos = {'imgblobs': [{'img_path': '3.jpg', 'candidate': {'text': 'a beach'}}]}    # not COCO's, only numbered
    with pytest.raises(InputError, match='shares no image'):
        aligned(files(s=photos, a=COCO))


def test_results_as_json_lines(files):
    lines = ''.join(f'{json.dumps(entry)}\n' for entry in RESULTS)
    expected = aligned(files(r=RESULTS, a=COCO))
    for text in lines, lines.replace('\n', '\r\n'), lines.rstrip(), lines.replace('\n', '\n\n'):
        assert aligned(files(r=text, a=COCO)) == expected
    with pytest.raises(InputError, match='r: is not valid JSON at line 2, column 14'):
        aligned(files(r=lines.replace('"image_id": 3', '"image_id": x'), a=COCO))


def test_a_dataset_by_any_of_its_ids(files):
    by_cocoid = [(7, 'a dog', ['a dog']), (3, '', ['A cat.'])]     # 'raw' where there is one, else the tokens
    assert aligned(files(r=RESULTS, d=DATASET))[0] == by_cocoid
    assert aligned(files(r=RESULTS, d=DATASET), split='test')[0] == by_cocoid
    by_imgid = [{'image_id': 1, 'caption': 'C'}, {'image_id': 0, 'caption': 'G'}]
    assert [row[:2] for row in aligned(files(r=by_imgid, d=DATASET))[0]] == [(0, 'G'), (1, 'C')]
    assert [row[:2] for row in aligned(files(s=STRUCT, d=DATASET))[0]] == [(0, 'two dogs'), (1, 'a cat')]
    other = [{'image_id': 2, 'caption': 'P'}]
    assert aligned(files(r=other, d=DATASET), split='train')[0] == [(2, 'P', ['A pig!'])]


def test_result_struct_with_its_own_references_and_with_others(files):
    assert aligned(files(s=STRUCT))[0] == [(1, 'a cat', ['one cat', 'cats']), (0, 'two dogs', ['dogs'])]
    # COCO knows no imgid: by the names of the pictures
    assert [row[1:] for row in aligned(files(s=STRUCT, a=COCO))[0]] == [('a cat', ['A cat.']),
                                                                        ('two dogs', ['A dog.', 'Two dogs.'])]


def test_results_beside_a_result_struct_take_its_references(files):
    beside = [{'image_id': 0, 'caption': 'G'}, {'image_id': 1, 'caption': 'C'}]
    assert aligned(files(s=STRUCT, r=beside))[0] == [(1, 'a cat', 'C', ['one cat', 'cats']),
                                                     (0, 'two dogs', 'G', ['dogs'])]


def test_plain_text_is_what_the_other_files_are_not(files):
    said, ref0, ref1 = files(said='a dog\r\n\r\n', ref0='A dog.\nA cat.\n', ref1='\nCats')
    expected = [(1, 'a dog', ['A dog.']), (2, '', ['A cat.', 'Cats'])]      # an empty line: one reference fewer
    assert aligned([said, ref0, ref1])[0] == aligned([said], [ref0, ref1])[0] == expected
    results, coco = files(r=RESULTS, a=COCO)
    assert aligned([ref0, results, ref1])[0] == [(7, 'a dog', ['A dog.']), (3, '', ['A cat.', 'Cats'])]
    assert aligned([said, coco])[0] == [(3, 'a dog', ['A cat.']), (7, '', ['A dog.', 'Two dogs.'])]
    assert aligned([said, ref0], [ref1, ref0])[0][0] == (1, 'a dog', 'A dog.', ['A dog.'])


def test_a_line_ends_where_a_line_ends(files):
    said, ref = files(said='a\x0bdog\u2028runs\x85\n[a dog]\n', ref='\ufeff"a dog" {\nx\n')
    assert aligned([said, ref])[0] == [(1, 'a\x0bdog\u2028runs\x85', ['"a dog" {']), (2, '[a dog]', ['x'])]


def test_several_annotation_files_are_one(files):
    train = {'annotations': [{'image_id': 9, 'caption': 'A pig.'}]}     # without "images"
    nine = [*RESULTS, {'image_id': 9, 'caption': 'pig'}]
    assert aligned(files(r=nine, a=COCO, b=train))[0][-1] == (9, 'pig', ['A pig.'])


def test_training_captions(files):
    assert read_training(files(a=COCO, t='x\ny\n', d=DATASET)) == ['A cat.', 'A dog.', 'Two dogs.', 'x', 'y', 'A pig!']


# ---------------------------------------------------------------------------------------------- what is missing

TABLES = {
    'captions.txt': 'image,caption\na.jpg,A dog .\na.jpg,"A dog, brown,\nruns ."\nb.jpg,A cat .\n',
    'results.csv': 'image_name| comment_number| comment\na.jpg| 0| A dog .\na.jpg| 1| A dog, brown, runs .\n'
                   'b.jpg| 0| A cat .\n',
    'Flickr8k.token.txt': 'a.jpg#0\tA dog .\r\na.jpg#1\tA dog, brown, runs .\r\nb.jpg#0\tA cat .\r\n'}


@pytest.mark.parametrize('name', TABLES)
def test_tables_of_pictures_and_captions_are_references(files, name, tmp_path):
    path = tmp_path / name
    path.write_text(TABLES[name], encoding='utf-8', newline='')
    assert read_training([str(path)]) == ['A dog .', 'A dog, brown, runs .', 'A cat .']
    results = tmp_path / 'results.json'
    results.write_text(json.dumps([{'image_id': 'b.jpg', 'caption': 'x'}, {'image_id': 'a.jpg', 'caption': 'y'}]))
    captions, references, ids, _ = align(*read_captions([str(results), str(path)]))
    found = dict(zip(ids, references, strict=True))
    assert found['a.jpg'] == ['A dog .', 'A dog, brown, runs .'] and found['b.jpg'] == ['A cat .']


def test_a_table_with_splits_is_read_by_split(files, tmp_path):
    path = tmp_path / 'table.csv'
    path.write_text('filename,split,caption\na.jpg,train,A dog\nb.jpg,test,A cat\nc.jpg,val,A cow\n')
    assert read_training([str(path)]) == ['A dog']
    (tmp_path / 'results.json').write_text(json.dumps([{'image_id': 'c.jpg', 'caption': 'x'}]))
    _, references = read_captions([str(tmp_path / 'results.json'), str(path)], split='val')
    assert references.captions == [['A cow']]
    path.write_text('filename,split,caption\na.jpg,train,A dog\n')
    with pytest.raises(InputError, match="no images in split 'test'"):
        read_captions([str(tmp_path / 'results.json'), str(path)])


@pytest.mark.parametrize('text', ['a.jpg,A dog .\n', 'x/a b.png\tA dog\n', '"a.jpeg";"A dog"\n', 'a.jpg#0 A dog\n'])
def test_names_of_pictures_are_not_read_as_captions(tmp_path, text):
    (tmp_path / 'x.txt').write_text(text)
    with pytest.raises(InputError, match='names pictures beside the captions; write image,caption'):
        read_training([str(tmp_path / 'x.txt')])


def test_a_compressed_file_is_to_be_unpacked(tmp_path):
    (tmp_path / 'x.txt.gz').write_bytes(gzip.compress(b'A dog .'))
    with pytest.raises(InputError, match='is compressed; unpack it'):
        read_training([str(tmp_path / 'x.txt.gz')])


def test_missing_images_are_an_error_or_a_note(files):
    one, extra = [RESULTS[0]], [*RESULTS, {'image_id': 5, 'caption': 'x'}, {'image_id': '8', 'caption': 'x'}]
    coco, one, extra = files(a=COCO, one=one, extra=extra)
    rows, notes = aligned([one, coco])      # as the official evaluation does with COCO's annotations
    assert rows == [(7, 'a dog', ['A dog.', 'Two dogs.'])]
    assert 'one: has no caption for 1 of the 2 images of ' in notes[0] and notes[0].endswith('these are left out')
    assert aligned([one, one, coco]) == ([(7, 'a dog', 'a dog', ['A dog.', 'Two dogs.'])], notes * 2)
    two, = files(two=RESULTS)
    with pytest.raises(InputError, match='one: has no caption for 1 of the 2 images of .*/a, such as 3; .*--allow_m'):
        aligned([one, two, coco])           # a comparison in which one system has captions that another lacks
    dataset, = files(d=DATASET)
    with pytest.raises(InputError, match='one: has no caption for 1 of the 2 images of .*/d .*--allow_m'):
        aligned([one, dataset])
    with pytest.raises(InputError, match='extra: 2 of its 4 images have no references in .*/a, such as 5; '):
        aligned([extra, coco])
    rows, notes = aligned([one, extra, coco], allow_missing=True)
    assert rows == [(7, 'a dog', 'a dog', ['A dog.', 'Two dogs.'])]     # a comparison needs images that all have
    assert [note.split('; ')[-1] for note in notes] == ['these are left out'] * 2
    assert 'has no caption for 1 of the 2' in notes[0] and '2 of its 4 images' in notes[1]


def test_nothing_in_common_is_an_error_all_the_same(files):
    stranger, coco = files(r=[{'image_id': 99, 'caption': 'x'}], a=COCO)
    with pytest.raises(InputError, match='/r: shares no image with .*/a: it has ids such as 99, and .* such as 3;'):
        aligned([stranger, coco], allow_missing=True)
    left, right, coco = files(left=RESULTS[:1], right=RESULTS[1:], a=COCO)
    with pytest.raises(InputError, match='left and .*right: have no image in common'):
        aligned([left, right, coco], allow_missing=True)


def changed(content, *path, to):
    """A deep copy with the value at path replaced; DELETE takes it out."""
    copy = json.loads(json.dumps(content))
    place = copy
    for key in path[:-1]:
        place = place[key]
    if to is DELETE:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return copy


DELETE = object()
TWICE = 'image_id 7 is in the entries 0 and 1'
BAD = {    # contents of results and references, and what the message says
    'empty file': ('', COCO, ['/r: is empty']),
    'nothing but a byte order mark': (b'\xef\xbb\xbf', COCO, ['/r: is empty']),
    'not UTF-8': (b'a \xe9t\xe9\n', COCO, ['/r: is not UTF-8 at byte 2']),
    'UTF-16': ('a dog'.encode('utf-16'), COCO, ['/r: is not UTF-8 at byte 0']),
    'cut off': (json.dumps(RESULTS)[:-5], COCO, ['/r: is not valid JSON at line 1']),
    'two values': (json.dumps(RESULTS) * 2, COCO, ['/r: is not valid JSON', 'Extra data']),
    'deep': ('[[' + '{"a":' * 100_000, COCO, ['/r: ']),
    'deep objects': ('{"a":' * 100_000 + '1' + '}' * 100_000, COCO, ['/r: cannot be read as JSON']),
    'deep and whole': ('[{"image_id":' + '[' * 900 + ']' * 900 + ',"caption":""}]', COCO, ['"image_id" is a list']),
    'a huge integer': ('[{"image_id": 1' + '0' * 5000 + '}]', COCO, ['/r: cannot be read as JSON']),
    'a huge float': ('[{"image_id": 1e999, "caption": ""}]', COCO, ['[0]: "image_id" is Infinity', 'integer']),
    'not a number': ('[{"image_id": NaN, "caption": ""}]', COCO, ['[0]: "image_id" is NaN']),
    'a boolean': (changed(RESULTS, 0, 'image_id', to=True), COCO, ['[0]: "image_id" is true']),
    'no id': (changed(RESULTS, 1, 'image_id', to=DELETE), COCO, ['[1] has no "image_id"; expected an object']),
    'no caption': (changed(RESULTS, 1, 'caption', to=None), COCO, ['[1]: "caption" is null; expected a string']),
    'captions in a list': (changed(RESULTS, 1, 'caption', to=['a dog']), COCO, ['"caption" is a list']),
    'a number in the list': ([*RESULTS, 3], COCO, ['[2] is 3; expected an object']),
    'twice': (changed(RESULTS, 1, 'image_id', to=7), COCO, [TWICE]),
    'twice, once as a string': (changed(RESULTS, 1, 'image_id', to='7'), COCO, ["image_id '7' is in the entries 0"]),
    'no results in the list': ([], COCO, ['/r: its list is empty']),
    'another object': ({'info': {}, 'x': []}, COCO, ['/r: is an object with info, x', 'image_id', 'imgblobs']),
    'an empty object': ({}, COCO, ['/r: is an object with nothing']),
    'no blobs': ({'imgblobs': []}, COCO, ['imgblobs is empty']),
    'blobs of another kind': ({'imgblobs': {}}, COCO, ['imgblobs is an object; expected a list']),
    'no candidate': (changed(STRUCT, 'imgblobs', 1, 'candidate', to=DELETE), COCO, ['imgblobs[1]', '"candidate"']),
    'a null text': (changed(STRUCT, 'imgblobs', 1, 'candidate', 'text', to=None), COCO,
                    ['imgblobs[1].candidate: "text" is null']),
    'imgid twice': (changed(STRUCT, 'imgblobs', 1, 'imgid', to=1), COCO, ['imgid 1 is in the entries 0 and 1']),
    'a picture twice, and no imgid': ({'imgblobs': [{'img_path': path, 'candidate': {'text': 'x'}} for path in
                                                    ('a/c.jpg', 'g.jpg', 'c.jpg')]}, COCO,
                                      ["img_path 'c.jpg' is in the entries 0 and 2"]),
    'a name twice in a dataset': (RESULTS, {'images': [{'filename': 'c.jpg', 'split': 'test', 'sentences': [
        {'raw': 'x'}]}] * 2}, ["filename 'c.jpg' is in the entries 0 and 1"]),
    'the name of two pictures': ([{'image_id': 'c.jpg', 'caption': 'x'}], changed(COCO, 'images', 2, 'file_name',
                                                                                  to='c.jpg'), ['shares no image']),
    'references alone': (DATASET, COCO, ['/r and ', '/a: only references']),
    'results alone': (RESULTS, RESULTS, ['only results']),
    'instances': (RESULTS, changed(COCO, 'annotations', 0, 'caption', to=DELETE), ['annotations[0]', '"caption"']),
    'images without an id': (RESULTS, changed(COCO, 'images', 0, 'id', to=DELETE), ['images[0]', '"id"']),
    'an image twice': (RESULTS, changed(COCO, 'images', 0, 'id', to=7), ['images[2]: id 7 is a duplicate']),
    'an annotation of nothing': (RESULTS, changed(COCO, 'annotations', 0, 'image_id', to=77), ['image_id 77']),
    'no annotations': (RESULTS, changed(COCO, 'annotations', to=[]), ['annotations is empty']),
    'a split that is not there': (RESULTS, {'images': DATASET['images'][:1]}, ["split 'test'", 'train (1 images)']),
    'an image without a split': (RESULTS, changed(DATASET, 'images', 0, 'split', to=DELETE), ['images[0]', '"split"']),
    'an image without sentences': (RESULTS, changed(DATASET, 'images', 1, 'sentences', to=[]), ['sentences is empty']),
    'tokens of another kind': (RESULTS, changed(DATASET, 'images', 1, 'sentences', 0, 'tokens', 0, to=1),
                               ['images[1].sentences[0]', '"tokens" has a value that is not a string']),
    'more lines': ('a\nb\nc\n', COCO, ['/r: has captions for 3 images', 'references for 2']),
    'more lines in a reference': ('a\nb\n', 'x\ny\nz\n', ['/r: has captions for 2 images', 'references for 3']),
    'an image without a reference': ('a\nb\n', 'x\n \n', ['/a: line 2 is empty']),
}


@pytest.mark.parametrize(('results', 'references', 'words'), BAD.values(), ids=BAD)
def test_a_bad_file_is_a_message_that_names_it(files, results, references, words):
    with pytest.raises(InputError) as caught:
        aligned(files(r=results, a=references))
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert len(message) < 700 and message.count('\n') == 0


@pytest.mark.parametrize(('contents', 'references', 'split', 'words'), [
    ({'a': COCO}, {}, None, ['/a: only references']),
    ({'a': COCO, 's': STRUCT}, {'r': RESULTS}, None, ['/a: holds references', '--references']),
    ({'s': STRUCT}, {'r': RESULTS}, None, ['/r: holds results', '--references']),
    ({'r': RESULTS, 'a': COCO}, {}, 'val', ['--split val', 'dataset.json']),
    ({'said': 'a\nb\n'}, {}, None, ['/said: only results']),
    ({'p': {'imgblobs': [{'img_path': 'x', 'candidate': {'text': 'a'}}]}}, {}, None, ['/p: only results']),
    ({'s': STRUCT, 't': changed(STRUCT, 'imgblobs', 0, 'references', 1, 'text', to='dogs')}, {}, None,
     ['/t: its references for an image differ from those in', '/s']),
    ({'said': 'a\n', 'ref0': 'a\n', 'ref1': 'a\nb\n'}, {}, None, ['ref1: has 2 lines', 'ref0 has 1']),
    ({'r': RESULTS}, {'a': COCO, 'd': DATASET}, None, ['/a and ', '/d: cannot be combined as references']),
    ({'r': RESULTS}, {'d': DATASET, 'e': DATASET}, None, ['/d and ', '/e: cannot be combined as references']),
    ({'r': RESULTS}, {'a': COCO, 'b': COCO}, None, ['/a and ', 'cocoid 3 is in the entries']),
    ({'r_json': 'a dog\na cat\n', 'a': COCO}, {}, None, ['r.json: is not valid JSON at line 1']),
])
def test_files_that_do_not_fit_together(files, contents, references, split, words):
    with pytest.raises(InputError) as caught:
        aligned(files(**contents), files(**references), split)
    assert all(word in str(caught.value) for word in words), caught.value


def test_folders_absent_files_and_training_of_the_wrong_kind(files, tmp_path):
    coco, results = files(a=COCO, r=RESULTS)
    for path, words in (tmp_path, 'cannot be read'), (tmp_path / 'absent', 'absent: cannot be read'):
        with pytest.raises(InputError, match=words):
            aligned([path, coco])
    with pytest.raises(InputError, match='/r: holds results; --training expects'):
        read_training([results])
    with pytest.raises(InputError, match=r"no images in split 'train'; it has test \(2 images\); .*--training reads"):
        read_training(files(d={'images': DATASET['images'][1:]}))

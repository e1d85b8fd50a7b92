"""The preparation scripts, run through main(): the dataset.json they write, and their errors for bad inputs."""

import csv
import gzip
import importlib.util
import io
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from imagernn.corpus.captioned_images import getDataProvider
from imagernn.corpus.tokenize import karpathy_tokenize as tokenize
from imagernn.corpus.tokenize import tokenize as tokenize_list

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / 'shared'


def load_script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / 'data' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


flickr = load_script('prepare_flickr')
coco = load_script('prepare_coco')


def read(folder):
    return json.loads((folder / 'dataset.json').read_text(encoding='utf-8'))


def need_shared(*parts):
    path = SHARED.joinpath('data', *parts)
    if not path.is_file():
        pytest.skip(f'needs {"/".join(("shared/data", *parts))} beside the checkout')
    return path


@pytest.mark.parametrize('caption, tokens', [
    ('A child in a pink dress is climbing up .', 'a child in a pink dress is climbing up'),
    ("A tri-colored dog's t-shirt ; it's red !", 'a tri colored dogs t shirt its red'),
    ('An S.C.U.B.A. diver at AT&T #12 & 3.5', 'an s c u b a diver at at&t #12 & 3 5'),
    ('a toilet,wash basin and tub/shower--nice', 'a toilet wash basin and tub shower nice'),
    ("'Café', naïve “Größe” 犬\t\n x_y", 'caf na ve gr e x y'),
    (' . " -- ', ''), ('', '')])
def test_tokenize(caption, tokens):
    assert tokenize(caption) == tokens.split()


@pytest.mark.parametrize('caption, tokens', [
    ("A tri-colored dog's t-shirt ; it’s red, no. 12 !", 'a tri colored dogs t shirt its red no 12'),
    ('Zwei Männer, „groß“', 'zwei männer groß'), ('Cafe\u0301 x_y AT&T', 'café x y at t'),
    ('两只狗，在海滩上奔跑。', '两 只 狗 在 海 滩 上 奔 跑'), ('犬がスーパーで', '犬 が ス ー パ ー で'),
    ('दो कुत्ते दौड़ते हैं।', 'दो कुत्ते दौड़ते हैं'), ('می\u200cدود؛ سگ', 'می\u200cدود سگ'.replace('\u200c', '')),
    (' . " -- ', ''), ('', '')])
def test_words_of_other_languages(caption, tokens):
    assert tokenize_list([unicodedata.normalize('NFC', caption)], 'words') == tokenize_list([caption], 'words') == [
        unicodedata.normalize('NFC', tokens).split()]


def test_tokens_of_karpathys_flickr8k_are_reproduced():
    data = json.loads(need_shared('flickr8k_karpathy', 'dataset.json').read_text(encoding='utf-8'))
    sentences = [sentence for image in data['images'] for sentence in image['sentences']]
    assert len(sentences) == 40000
    assert sum(tokenize(sentence['raw']) == sentence['tokens'] for sentence in sentences) == 40000


# ---- Flickr

TOKENS = ('b.jpg#1\tTwo dogs .\nb.jpg#0\tA dog , running .\na.jpg#0\tA child .\n\nd.jpg#0 \tÉté !\n'
          'c.jpg#0\tA cat .\nc.jpg#1\t . \nx.jpg.1#0\tStray .\ne.jpg#0\t.\n')
LISTS = {'train': 'b.jpg\nd\n', 'val': 'a\n', 'test': 'c.jpg\ne.jpg\n'}


def run_flickr(folder, tokens=TOKENS, encoding='utf-8', **lists):
    """Write the inputs and run the script. An input whose text is None is missing."""
    for name, text in {'tokens': tokens, **LISTS, **lists}.items():
        if text is not None:
            (folder / f'{name}.txt').write_bytes(text.encode(encoding))
    flags = [part for name in ('tokens', 'train', 'val', 'test') for part in (f'--{name}', str(folder / f'{name}.txt'))]
    return flickr.main([*flags, '--output', str(folder / 'out' / 'flickr')])


def flickr_images():
    """What the inputs above should give: (filename, split, [raw]) of each image, in the order of the imgids."""
    return [('a.jpg', 'val', ['A child .']), ('b.jpg', 'train', ['A dog , running .', 'Two dogs .']),
            ('c.jpg', 'test', ['A cat .']), ('d.jpg', 'train', ['Été !'])]


def expected_dataset(name, images, **more):
    """The contents of a dataset.json, from (filename, split, [raw]) for each image."""
    entries = []
    sentid = 0
    for imgid, (filename, split, raws) in enumerate(images):
        sentids = list(range(sentid, sentid + len(raws)))
        sentid += len(raws)
        entries.append({'filename': filename, 'imgid': imgid, 'split': split, 'sentids': sentids, 'sentences': [
            {'tokens': tokenize(raw), 'raw': raw, 'imgid': imgid, 'sentid': i}
            for i, raw in zip(sentids, raws, strict=True)]})
    return {'dataset': name, 'images': entries}


@pytest.mark.parametrize('change', [str, lambda text: text.replace('\n', '\r\n'), lambda text: '\ufeff' + text])
def test_flickr_writes_the_layout_of_neuraltalk(tmp_path, capsys, change):
    assert run_flickr(tmp_path, change(TOKENS), **{k: change(v) for k, v in LISTS.items()}) == 0
    assert read(tmp_path / 'out' / 'flickr') == expected_dataset('flickr', flickr_images())
    assert [p.name for p in (tmp_path / 'out' / 'flickr').iterdir()] == ['dataset.json']
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[:4] == [['split', 'images', 'sentences', 'words'], ['train', '2', '3', '6'], ['val', '1', '1', '2'],
                         ['test', '1', '1', '2']]
    text = [' '.join(line) for line in lines[4:]]
    assert text == ['8 different words', '1 of 7 captions lose letters that the tokenizer karpathy does not keep, 1 of '
                    'them most of their letters: "Été !" becomes "t"; to keep them, choose --tokenizer words, which '
                    'keeps letters of every script',
                    'left out: 2 captions without a word', 'left out: 1 images without a caption',
                    'left out: 1 images with captions that are in no list, such as x.jpg.1',
                    f"wrote {tmp_path / 'out' / 'flickr' / 'dataset.json'}"]


def test_flickr_output_loads(tmp_path):
    assert run_flickr(tmp_path) == 0
    np.save(tmp_path / 'out' / 'flickr' / 'vgg_feats.npy', np.ones((4, 3)))
    provider = getDataProvider('flickr', tmp_path / 'out')
    assert provider.getSplitSizes('sentences') == {'train': 3, 'val': 1, 'test': 1}


def test_a_second_run_says_that_it_replaces(tmp_path, capsys):
    assert [run_flickr(tmp_path), run_flickr(tmp_path)] == [0, 0]
    assert 'replaced ' in capsys.readouterr().out


BAD_FLICKR = {
    'no token file': ({'tokens': None}, ['tokens.txt: cannot be read (No such file']),
    'no list': ({'val': None}, ['val.txt: cannot be read (No such file']),
    'no tab': ({'tokens': 'a.jpg#0\tA .\nb.jpg#0 A dog\n'}, ['tokens.txt, line 2', 'expected picture.jpg#0<TAB>']),
    'no number': ({'tokens': 'a.jpg\tA .\n'}, ['tokens.txt, line 1', "'a.jpg"]),
    'empty tokens': ({'tokens': '\n\n'}, ['tokens.txt: holds no captions']),
    'caption twice': ({'tokens': TOKENS + 'b.jpg#0\tAgain .\n'}, ['tokens.txt, line 10: b.jpg#0 is already on line 2']),
    'name without captions': ({'val': 'a\r\nz.jpg\r\n'}, ["val.txt, line 2: 'z.jpg' has no captions in", 'tokens.txt']),
    'in two lists': ({'test': 'c.jpg\n\nb\n'}, ['test.txt, line 3: b.jpg is already in the train split',
                                                'train.txt, line 1)']),
    'empty list': ({'test': ''}, ['test.txt: names no pictures', 'test split']),
    'not UTF-8': ({'encoding': 'latin-1'}, ['tokens.txt, line 5: not UTF-8']),
}


@pytest.mark.parametrize('change, words', BAD_FLICKR.values(), ids=BAD_FLICKR)
def test_flickr_refuses_bad_inputs(tmp_path, capsys, change, words):
    assert run_flickr(tmp_path, **change) == 2
    message = capsys.readouterr().err
    assert message.startswith('error: ') and message.count('\n') == 1
    assert [part for part in words if part not in message] == []
    assert not (tmp_path / 'out').exists()


def test_output_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / 'out').write_text('a file where the folder should be')
    assert run_flickr(tmp_path) == 2
    assert 'dataset.json: cannot be written' in capsys.readouterr().err


def test_a_failed_write_leaves_the_old_file_unchanged(tmp_path, monkeypatch, capsys):
    assert run_flickr(tmp_path) == 0
    before = read(tmp_path / 'out' / 'flickr')

    def fail(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('os.replace', fail)
    assert run_flickr(tmp_path, val='x.jpg.1\n') == 2
    assert 'cannot be written (No space left' in capsys.readouterr().err
    assert read(tmp_path / 'out' / 'flickr') == before
    assert [p.name for p in (tmp_path / 'out' / 'flickr').iterdir()] == ['dataset.json']


@pytest.mark.parametrize('form', ['token file', 'captions.txt', 'results.csv'])
def test_flickr8k_is_reproduced(tmp_path, form):
    """The raw sentences and the split, written as they are distributed, give Karpathy's own dataset.json."""
    images = json.loads(need_shared('flickr8k_karpathy', 'dataset.json').read_text(encoding='utf-8'))['images'][:1500]
    rows = [(image['filename'], k, sentence['raw']) for image in images[::-1]
            for k, sentence in enumerate(image['sentences'])]
    file = io.StringIO()
    if form == 'captions.txt':
        csv.writer(file).writerows([('image', 'caption'), *((name, raw) for name, _, raw in rows)])
        assert any('""' in line for line in file.getvalue().splitlines())
    else:
        line = '{}#{}\t{}\r\n' if form == 'token file' else '{}| {}| {}\n'
        file.write('' if form == 'token file' else NUMBERED)
        file.writelines(line.format(*row) for row in rows)
    tokens = file.getvalue()
    lists = {split: ''.join(image['filename'] + '\n' for image in images if image['split'] == split) for split in LISTS}
    assert run_flickr(tmp_path, tokens, **lists) == 0
    assert read(tmp_path / 'out' / 'flickr')['images'] == images


# ---- the forms in which Kaggle distributes Flickr8K and Flickr30K, and tables of one's own

KAGGLE_8K = (r"""image,caption
b.jpg,A dog runs .
b.jpg,"Two dogs , running ."
a.jpg,"A sign says ""stop , please"" ."
c.jpg,A cat .
c.jpg, .
""")
KAGGLE_30K = """image_name| comment_number| comment
b.jpg| 1| Two dogs , running .
b.jpg| 0| A dog runs .
a.jpg| 0| A sign says "stop , please" .
c.jpg| 0   A cat .
c.jpg| 1| .
"""
OTHER_TABLES = {
    'with an index': ',image,caption\n0,b.jpg,A dog runs .\n1,b.jpg,"Two dogs , running ."\n'
                     '2,a.jpg,"A sign says ""stop , please"" ."\n3,c.jpg,A cat .\n',
    'quotes missing': 'Image, Caption\nb.jpg, A dog runs .\nb.jpg, Two dogs , running .\n'
                      'a.jpg, A sign says "stop , please" .\nc.jpg, A cat .\n',
    'semicolons': '"filename";"caption"\n"b.jpg";"A dog runs ."\n"b.jpg";"Two dogs , running ."\n'
                  'a.jpg;"A sign says ""stop , please"" ."\nc.jpg;A cat .\n',
    'tabs': 'caption\timage\nA dog runs .\tb.jpg\nTwo dogs , running .\tb.jpg\n'
            'A sign says "stop , please" .\ta.jpg\nA cat .\tc.jpg\n',
    'numbers and commas': 'image_name,comment_number,comment\nb.jpg,1,"Two dogs , running ."\n'
                          'b.jpg,0, A dog runs .\n'
                          'a.jpg,0,"A sign says ""stop , please"" ."\nc.jpg,0   A cat .,\n',
    'lists': 'raw,sentids,split,filename,img_id\n'
             '"[""A dog runs ."", ""Two dogs , running .""]","[0, 1]",train,b.jpg,0\n'
             '"[""A sign says \\""stop , please\\"" .""]",[2],val,a.jpg,1\n"[""A cat .""]",[3],test,c.jpg,2\n'}
SAID = {'a.jpg': ['A sign says "stop , please" .'], 'b.jpg': ['A dog runs .', 'Two dogs , running .'],
        'c.jpg': ['A cat .']}


def run_table(folder, table, *flags):
    (folder / 'table.csv').write_text(table, encoding='utf-8')
    return flickr.main(['--tokens', str(folder / 'table.csv'), '--output', str(folder / 'out'), *map(str, flags)])


@pytest.mark.parametrize('table', [KAGGLE_8K, KAGGLE_30K, *OTHER_TABLES.values()],
                         ids=['captions.txt', 'results.csv', *OTHER_TABLES])
@pytest.mark.parametrize('ends', ['\n', '\r\n'])
def test_tables_are_read_and_without_lists_a_split_is_drawn(tmp_path, table, ends):
    assert run_table(tmp_path, table.replace('\n', ends)) == 0
    images = read(tmp_path / 'out')['images']
    assert {image['filename']: [sentence['raw'] for sentence in image['sentences']] for image in images} == SAID
    assert [image['imgid'] for image in images] == [0, 1, 2]
    assert sorted(image['split'] for image in images) == ['test', 'train', 'val']


def test_a_table_with_lists_gives_what_the_token_file_gives(tmp_path):
    tokens = ''.join(f'{name}#{number}\t{raw}\n' for name, raws in SAID.items() for number, raw in enumerate(raws))
    lists = {'train': 'b.jpg\n', 'val': 'a\n', 'test': 'c.jpg\n'}
    assert run_flickr(tmp_path, tokens, **lists) == 0
    expected = read(tmp_path / 'out' / 'flickr')
    for table in KAGGLE_8K, KAGGLE_30K:
        assert run_flickr(tmp_path, table, **lists) == 0
        assert read(tmp_path / 'out' / 'flickr') == expected


def test_the_broken_line_of_kaggles_results_is_reported(tmp_path, capsys):
    broken = '2199200615.jpg| 4   A dog runs across the grass .\n'
    assert run_table(tmp_path, f'{KAGGLE_30K}{broken}d.jpg| 0\ne.jpg\n', '--seed', 0) == 0
    out = capsys.readouterr().out
    assert ('line 7: the delimiter after the number of the caption is missing; '
            'read as 2199200615.jpg | 4 | A dog runs across the grass .\n') in out
    assert 'left out: 2 lines of table.csv without a caption, such as line 8\n' in out
    images = {image['filename']: image for image in read(tmp_path / 'out')['images']}
    assert images['2199200615.jpg']['sentences'][0]['tokens'] == 'a dog runs across the grass'.split()


def test_a_line_break_in_quotes_belongs_to_the_caption(tmp_path, capsys):
    table = ('image,caption\na.jpg,"A dog\n\nruns ."\na.jpg,"Two\ndogs, ""both"" brown"\n'
             'b.jpg,A "big" cat\n').replace('\n', '\r\n')
    assert run_table(tmp_path, table, '--val_images', '0', '--test_images', '0') == 0
    sentences = [each['tokens'] for image in read(tmp_path / 'out')['images'] for each in image['sentences']]
    assert sentences == [['a', 'dog', 'runs'], ['two', 'dogs', 'both', 'brown'], ['a', 'big', 'cat']]


@pytest.mark.parametrize('contents, words', [
    (json.dumps({'images': [], 'annotations': []}, indent=1).encode(), ['is JSON', 'prepare', 'coco', '--annotations']),
    (b'[{"image_id": 1, "caption": "a"}]', ['is JSON', 'coco']),
    (b'{"file_name": "a.jpg", "text": "A dog"}\n', ['metadata.jsonl', 'image,caption']),
    (gzip.compress(b'image,caption', mtime=0), ['is compressed; unpack it'])])
def test_a_file_of_another_kind_is_named(tmp_path, capsys, contents, words):
    (tmp_path / 'in').write_bytes(contents)
    assert flickr.main(['--tokens', str(tmp_path / 'in'), '--output', str(tmp_path / 'out')]) == 2
    message = capsys.readouterr().err
    assert [part for part in words if part not in message] == []


def test_the_split_of_a_table_is_used(tmp_path, capsys):
    def splits(*flags):
        assert run_table(tmp_path, OTHER_TABLES['lists'], *flags) == 0
        return {image['filename']: image['split'] for image in read(tmp_path / 'out')['images']}

    assert splits() == {'a.jpg': 'val', 'b.jpg': 'train', 'c.jpg': 'test'} and 'drawn' not in capsys.readouterr().out
    assert len({tuple(splits('--seed', seed).values()) for seed in range(6)}) > 1
    assert 'split: drawn with --seed 5, 1 val and 1 test' in capsys.readouterr().out


def test_a_drawn_split_depends_on_the_names_and_the_seed_alone(tmp_path):
    names = [f'{number}.jpg' for number in range(40)]

    def splits(names, *flags):
        assert run_table(tmp_path, 'image,caption\n' + ''.join(f'{name},A dog .\n' for name in names), *flags) == 0
        return {image['filename']: image['split'] for image in read(tmp_path / 'out')['images']}

    drawn = splits(names)
    assert sorted(drawn.values()) == ['test'] * 4 + ['train'] * 32 + ['val'] * 4    # a tenth each
    assert splits(names[::-1], '--seed', 0) == drawn != splits(names, '--seed', 1)
    chosen = splits(names, '--val_images', 7, '--test_images', 0)
    assert sorted(chosen.values()) == ['train'] * 33 + ['val'] * 7


NUMBERED = 'image_name| comment_number| comment\n'


@pytest.mark.parametrize('table, flags, words', [
    (KAGGLE_8K, ['--train', 'x'], ['--train given without --val and --test', 'or none']),
    (KAGGLE_8K, ['--train', 'x', '--val', 'x', '--test', 'x', '--seed', '1'], ['settle the split', 'or the others']),
    (KAGGLE_8K, ['--val_images', '2', '--test_images', '1'], ['--val_images 2 and --test_images 1', 'fit 3 pictures']),
    (KAGGLE_8K, ['--val_images', '-1'], ['--val_images -1']),
    ('image,caption\na.jpg,A dog .\n', [], ['do not fit 1 pictures']),
    ('image,caption\n', [], ['table.csv: holds no captions']),
    ('image,description\na.jpg,A dog .\n', [], ['table.csv, line 1: expected', 'image,caption', "description'"]),
    ('image,caption\na.jpg,"A dog .\nb.jpg,"A cat ."\n', [], ['table.csv, line 2: is not valid CSV', 'with quotes as']),
    ('image,caption,x\na.jpg,A dog,x,y,z\n', [], ['line 2: has 5 cells, but the first line names 3 columns']),
    (f'{NUMBERED}a.jpg| one| A dog .\n', [], ["line 2: the number of the caption is 'one'"]),
    (f'{NUMBERED}a.jpg| 0| A .\na.jpg| 0| B .\n', [], ['line 3: a.jpg#0 is already on line 2']),
    ('image,caption,split\na.jpg,A dog,dev\n', [], ["line 2: split is 'dev'; expected one of train, val"]),
    ('image,caption,split\na.jpg,A dog,val\na.jpg,A cat,test\n', [], ['line 3: a.jpg is in the test split, but']),
    ('image,caption\n,A dog .\n', [], ['line 2: the name of the picture is empty']),
    ('\n{"images": [], "dataset": "flickr8k"}', [], ['table.csv: is JSON', 'dataset_flickr8k.json', 'dataset.json']),
    ('image,caption\na.jpg,两只狗。\nb.jpg,A dog .\nc.jpg,一个孩子在海滩上。\n', [],
     ['the tokenizer karpathy would lose 73 % of the letters', '"两只狗。" becomes ""', '--tokenizer words']),
    ('image,caption\na.jpg,!\nb.jpg,.\nc.jpg,?\n', [], ['none of the 3 captions has a word']),
])
def test_a_bad_table_is_refused(tmp_path, capsys, table, flags, words):
    assert run_table(tmp_path, table, *flags) == 2
    message = capsys.readouterr().err
    assert message.startswith('error: ') and message.count('\n') == 1
    assert [part for part in words if part not in message] == []
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('tokenizer, tokens', [
    ('words', ['两 只 狗', 'ein hund läuft']), ('ptb', ['两只狗 。', 'ein hund läuft']),
    ('none', ['两只狗。', 'Ein Hund läuft .'])])
def test_captions_in_other_languages_need_another_tokenizer(tmp_path, capsys, tokenizer, tokens):
    table = 'image,caption\na.jpg,两只狗。\nb.jpg,Ein Hund läuft .\nc.jpg,Ein Hund läuft .\n'
    assert run_table(tmp_path, table, '--tokenizer', tokenizer) == 0
    images = read(tmp_path / 'out')['images']
    assert [' '.join(image['sentences'][0]['tokens']) for image in images] == [*tokens, tokens[1]]
    assert 'lose letters' not in capsys.readouterr().out


# ---- COCO

def annotations(name, ids):
    """An official caption file: two captions per image, the annotations unordered."""
    return {'info': {}, 'images': [{'id': i, 'file_name': name.format(i)} for i in ids],
            'annotations': [{'image_id': i, 'id': 10 * i + k, 'caption': f' Picture {i}, no. {k}.\n'}
                            for k in range(2) for i in reversed(ids)]}


COCO = {'captions_train2014.json': annotations('COCO_train2014_{:012}.jpg', [9, 3, 30]),
        'captions_val2014.json': annotations('COCO_val2014_{:012}.jpg', [7, 21])}
KARPATHY = {'dataset': 'coco', 'images': [
    {'cocoid': 21, 'filename': 'renamed.jpg', 'split': 'test', 'imgid': 0, 'sentences': []},
    {'cocoid': 9, 'filename': 'COCO_train2014_000000000009.jpg', 'split': 'train', 'imgid': 1},
    {'filename': 'COCO_train2014_000000000003.jpg', 'split': 'train', 'imgid': 2},
    {'cocoid': 7, 'split': 'restval'}, {'cocoid': 404, 'split': 'val'}]}


def run_coco(folder, flags, files=COCO, **split_files):
    for name, content in {**files, **{f'{k}.json': v for k, v in split_files.items()}}.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text, encoding='utf-8')
    given = [str(folder / flag) if flag.endswith('.json') else flag for flag in flags]
    paths = [str(folder / name) for name in files]
    return coco.main(['--annotations', *paths, *given, '--output', str(folder / 'out' / 'coco')])


def test_coco_with_karpathys_split(tmp_path, capsys):
    assert run_coco(tmp_path, ['--karpathy_split', 'split.json'], split=KARPATHY) == 0
    images = read(tmp_path / 'out' / 'coco')['images']
    assert [(i['cocoid'], i['split'], i['imgid'], i['filepath']) for i in images] == [
        (21, 'test', 0, 'val2014'), (9, 'train', 1, 'train2014'), (3, 'train', 2, 'train2014'),
        (7, 'restval', 3, 'val2014')]
    assert images[0] == {
        'filepath': 'val2014', 'filename': 'COCO_val2014_000000000021.jpg', 'cocoid': 21, 'split': 'test', 'imgid': 0,
        'sentids': [0, 1], 'sentences': [
            {'tokens': ['picture', '21', 'no', str(k)], 'raw': f'Picture 21, no. {k}.', 'imgid': 0, 'sentid': k}
            for k in range(2)]}
    out = capsys.readouterr().out
    assert 'left out: 1 images of split.json that have no annotations here' in out
    assert 'left out: 1 images with annotations that split.json does not list' in out


def test_coco_with_a_plain_split(tmp_path):
    split = {'val': [9], 'train': [30, 'COCO_val2014_000000000007.jpg'], 'test': [3]}
    assert run_coco(tmp_path, ['--karpathy_split', 'split.json'], split=split) == 0
    images = read(tmp_path / 'out' / 'coco')['images']
    assert [(i['cocoid'], i['split']) for i in images] == [(3, 'test'), (7, 'train'), (9, 'val'), (30, 'train')]


def test_coco_with_a_drawn_split(tmp_path):
    def splits(*flags, files=COCO):
        assert run_coco(tmp_path, flags, files) == 0
        return {image['cocoid']: image['split'] for image in read(tmp_path / 'out' / 'coco')['images']}

    drawn = splits('--val', '1', '--test', '2')
    assert list(drawn) == [3, 7, 9, 21, 30]
    assert sorted(drawn.values()) == ['test', 'test', 'train', 'train', 'val']
    assert drawn == splits('--val', '1', '--test', '2', '--seed', '0', files=dict(reversed(COCO.items())))
    assert drawn == {3: 'train', 7: 'val', 9: 'test', 21: 'test', 30: 'train'}    # from sha256sum; this must not change
    assert len({tuple(splits('--val', '1', '--test', '2', '--seed', str(seed)).items()) for seed in range(8)}) > 3


@pytest.mark.parametrize('file, name, filepath', [
    ('captions_val2017.json', '000000000139.jpg', 'val2017'),
    ('captions_val2014.json', 'COCO_train2014_000000000139.jpg', 'train2014'),
    ('mine.json', '139.jpg', None)])
def test_coco_filepath_if_a_name_contains_it(tmp_path, file, name, filepath):
    assert run_coco(tmp_path, ['--val', '0', '--test', '0'], {file: annotations(name, [139])}) == 0
    image, = read(tmp_path / 'out' / 'coco')['images']
    assert image.get('filepath') == filepath and image['filename'] == name


def test_coco_ids_may_be_strings(tmp_path):
    """In the annotations, in Karpathy's file and in a plain split file; the dataset.json is that of numbers."""
    split = {'val': [9], 'train': [30, 7], 'test': [3]}
    assert run_coco(tmp_path, SPLIT, split=split) == 0
    expected = read(tmp_path / 'out' / 'coco')
    files = json.loads(json.dumps(COCO))
    for content in files.values():
        for image in content['images']:
            image['id'] = f"{image['id']:012}"
        for annotation in content['annotations']:
            annotation['image_id'] = f"COCO_val2014_{annotation['image_id']:012}"
    assert run_coco(tmp_path, SPLIT, files, split={'val': ['9'], 'train': ['30', 'COCO_val2014_000000000007'],
                                                   'test': ['000000000003']}) == 0
    assert read(tmp_path / 'out' / 'coco') == expected
    karpathys = {'images': [{'cocoid': f'{cocoid}', 'split': split} for cocoid, split in
                            ((3, 'test'), (7, 'train'), (9, 'val'), (30, 'train'))]}
    assert run_coco(tmp_path, SPLIT, files, split=karpathys) == 0
    assert read(tmp_path / 'out' / 'coco') == expected


def test_coco_annotations_that_are_compressed_are_to_be_unpacked(tmp_path, capsys):
    (tmp_path / 'c.json.gz').write_bytes(gzip.compress(b'{}'))
    assert coco.main(['--annotations', str(tmp_path / 'c.json.gz'), '--output', str(tmp_path / 'out')]) == 2
    assert 'c.json.gz: is compressed. Unpack it' in capsys.readouterr().err


def test_the_output_is_a_folder_and_not_the_file_in_it(tmp_path, capsys):
    assert run_table(tmp_path, KAGGLE_8K) == 0
    assert flickr.main(['--tokens', str(tmp_path / 'table.csv'), '--output', str(tmp_path / 'x' / 'dataset.json')]) == 2
    assert f'name the folder for dataset.json, such as {tmp_path / "x"}' in capsys.readouterr().err
    assert not (tmp_path / 'x').exists()


def test_coco_with_captions_in_another_language(tmp_path, capsys):
    files = {'a.json': {**annotations('{}.jpg', [1, 2, 3]), 'annotations': [
        {'image_id': number, 'caption': '两只狗。'} for number in (1, 2, 3)]}}
    assert run_coco(tmp_path, DRAW, files) == 2 and '--tokenizer words' in capsys.readouterr().err
    assert run_coco(tmp_path, [*DRAW, '--tokenizer', 'words'], files) == 0
    assert read(tmp_path / 'out' / 'coco')['images'][0]['sentences'][0]['tokens'] == ['两', '只', '狗']


@pytest.mark.parametrize('name, filepath, filename', [
    ('val2017/1.jpg', 'val2017', '1.jpg'), ('images/val2017/1.jpg', 'val2017', '1.jpg'), ('a/b/1.jpg', 'a/b', '1.jpg'),
    (r'val2017\\1.jpg', 'val2017', '1.jpg'), ('/data/coco/val2017/1.jpg', 'val2017', '1.jpg'),
    (r'D:\\coco\\val2017\\1.jpg', 'val2017', '1.jpg'), ('/data/coco/1.jpg', 'val2014', '1.jpg'),
    ('../../1.jpg', 'val2014', '1.jpg'), ('http://images.cocodataset.org/val2017/1.jpg', 'val2017', '1.jpg'),
    ('http://images.example.org/1.jpg', 'val2014', '1.jpg'), ('1.jpg', 'val2014', '1.jpg')])
def test_coco_folders_in_a_file_name_are_the_filepath(tmp_path, name, filepath, filename):
    files = {'captions_val2014.json': json.loads(json.dumps(annotations('{}', [1, 2])).replace('"2"', '"x.jpg"')
                                                 .replace('"1"', f'"{name}"'))}
    split = {'train': ['1.jpg'], 'val': [name, 2]}
    assert run_coco(tmp_path, ['--karpathy_split', 'split.json'], files, split=split) == 2    # it is the same picture
    split = {'train': [2], 'val': [name]}
    assert run_coco(tmp_path, ['--karpathy_split', 'split.json'], files, split=split) == 0
    image, _ = read(tmp_path / 'out' / 'coco')['images']
    assert (image['filepath'], image['filename'], image['split']) == (filepath, filename, 'val')
    np.save(tmp_path / 'out' / 'coco' / 'vgg_feats.npy', np.ones((2, 3)))
    path = getDataProvider('coco', tmp_path / 'out').image_path(image)
    assert path == tmp_path / 'out' / 'coco' / 'imgs' / filepath / filename


def test_coco_pictures_of_one_name_in_two_folders(tmp_path, capsys):
    files = {'captions_val2014.json': json.loads(json.dumps(annotations('{}/1.jpg', [1, 2])).replace('"1/', '"a/')
                                                 .replace('"2/', '"b/'))}
    split = {'train': ['a/1.jpg'], 'val': ['b/1.jpg']}
    assert run_coco(tmp_path, ['--karpathy_split', 'split.json'], files, split=split) == 0
    assert [(image['filepath'], image['split']) for image in read(tmp_path / 'out' / 'coco')['images']] == [
        ('a', 'train'), ('b', 'val')]
    assert run_coco(tmp_path, ['--karpathy_split', 'split.json'], files, split={'train': ['1.jpg'], 'val': []}) == 2
    assert 'none of its 1 images' in capsys.readouterr().err


def changed(path, value):
    """The two caption files, with one entry of the first set to value, or removed if value is the function changed."""
    files = json.loads(json.dumps(COCO))
    place = files['captions_train2014.json']
    for key in path[:-1]:
        place = place[key]
    if value is changed:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return files


DRAW = ['--val', '1', '--test', '1']
SPLIT = ['--karpathy_split', 'split.json']
BAD_COCO = {
    'not JSON': (DRAW, {'a.json': '{"images":\n }'}, None, ['a.json: is not valid JSON at line 2, column 2']),
    'a list': (DRAW, {'a.json': []}, None, ['a.json: the top level is a list']),
    'no annotations': (DRAW, changed(['annotations'], changed), None, ['no list "annotations"', 'found: images, info']),
    'no images': (DRAW, changed(['images'], {}), None, ['no list "images"', 'captions_train2014.json']),
    'image not an object': (DRAW, changed(['images', 1], 3), None, ['images[1] is 3; expected an object']),
    'no id': (DRAW, changed(['images', 1, 'id'], changed), None, ["images[1]: 'id' is missing; expected int"]),
    'id a word': (DRAW, changed(['images', 1, 'id'], 'three'), None, ["images[1]: 'id' is 'three'; expected int"]),
    'id twice, once as a string': (DRAW, changed(['images', 1, 'id'], '09'), None, ['images[1]: id 9 occurs a second']),
    'id true': (DRAW, changed(['images', 1, 'id'], True), None, ["images[1]: 'id' is True; expected int"]),
    'no file name': (DRAW, changed(['images', 1, 'file_name'], changed), None, ["images[1]: 'file_name' is missing"]),
    'id twice': (DRAW, changed(['images', 1, 'id'], 9), None, ['images[1]: id 9 occurs a second time']),
    'id in two files': (DRAW, {**COCO, 'b.json': COCO['captions_val2014.json']}, None, ['b.json', 'id 7 occurs']),
    'no caption': (DRAW, changed(['annotations', 2, 'caption'], changed), None, ["annotations[2]: 'caption' is miss"]),
    'caption null': (DRAW, changed(['annotations', 2, 'caption'], None), None, ["annotations[2]: 'caption' is None"]),
    'unknown image': (DRAW, changed(['annotations', 2, 'image_id'], 77), None, ['annotations[2]: image_id 77 is not']),
    'too few images': (['--val', '3', '--test', '2'], COCO, None, ['--val 3 and --test 2', 'do not fit 5 images']),
    'the defaults': ([], COCO, None, ['--val 5000 and --test 5000', 'do not fit 5 images']),
    'negative': (['--val', '-1'], COCO, None, ['--val -1']),
    'both ways': ([*SPLIT, '--seed', '1'], COCO, KARPATHY, ['split.json: settles the split', 'one or the others']),
    'no split file': (SPLIT, COCO, None, ['split.json: cannot be read (No such file']),
    'split not JSON': (SPLIT, COCO, '{', ['split.json: is not valid JSON at line 1']),
    'neither form': (SPLIT, COCO, {'dev': []}, ['split.json: expected a list "images"', 'found: dev']),
    'empty object': (SPLIT, COCO, {}, ['split.json: expected a list "images"', 'found: nothing']),
    'no match': (SPLIT, COCO, {'train': [1, 2]}, ['split.json: none of its 2 images']),
    'listed twice': (SPLIT, COCO, {'train': [9], 'val': [3, 9]}, ['split.json: val[1]: 9 is listed a second time']),
    'not a list': (SPLIT, COCO, {'train': 9}, ['split.json: train is not a list']),
    'not an id': (SPLIT, COCO, {'train': [9, None]}, ['split.json: train[1] is None']),
    'unknown split': (SPLIT, COCO, {'images': [{'cocoid': 9, 'split': 'dev'}]}, ["images[0]: split is 'dev'"]),
    'no split': (SPLIT, COCO, {'images': [{'cocoid': 9}]}, ["images[0]: 'split' is missing"]),
    'neither id nor name': (SPLIT, COCO, {'images': [{'split': 'val'}]}, ["images[0]: 'filename' is missing"]),
    'split entry a number': (SPLIT, COCO, {'images': [9]}, ['images[0] is 9; expected an object']),
}


@pytest.mark.parametrize('flags, files, split, words', BAD_COCO.values(), ids=BAD_COCO)
def test_coco_refuses_bad_inputs(tmp_path, capsys, flags, files, split, words):
    split_files = {} if split is None else {'split': split}
    assert run_coco(tmp_path, flags, files, **split_files) == 2
    message = capsys.readouterr().err
    assert message.startswith('error: ') and message.count('\n') == 1
    assert [part for part in words if part not in message] == []
    assert not (tmp_path / 'out').exists()


def test_the_official_val2017(tmp_path, capsys):
    path = need_shared('coco', 'captions_val2017.json')
    flags = ['--annotations', str(path), '--val', '500', '--test', '1000', '--output', str(tmp_path)]
    assert coco.main(flags) == 0
    images = read(tmp_path)['images']
    assert len(images) == 5000 and sum(len(image['sentences']) for image in images) == 25014
    assert [image['cocoid'] for image in images] == sorted(image['cocoid'] for image in images)
    assert {image['filepath'] for image in images} == {'val2017'}
    assert 'left out' not in capsys.readouterr().out
    np.save(tmp_path / 'vgg_feats.npy', np.ones((5000, 1), np.float32))
    assert getDataProvider(tmp_path.name, tmp_path.parent).getSplitSizes() == {'train': 3500, 'val': 500, 'test': 1000}

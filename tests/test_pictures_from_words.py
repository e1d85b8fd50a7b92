"""data/pictures_from_words.py: its formula, the data set it writes, and that imagined images count as no pictures."""

import importlib
import importlib.util
import json
import re
import sys
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from datasets import SMALL
from PIL import Image
from stub_network import StubNetwork, loader

import driver
import eval_sentence_predictions
from imagernn import extract_features
from imagernn.convnet import extraction, imagined, weights
from imagernn.convnet.classes import class_names
from imagernn.convnet.networks import VGG_OUTPUTS, Architecture, vgg, weight_shapes
from imagernn.convnet.sources import read_source
from imagernn.corpus.captioned_images import getDataProvider
from imagernn.corpus.dataset_file import read_dataset
from imagernn.corpus.features import open_features
from imagernn.corpus.tokenize import karpathy_tokenize
from imagernn.errors import InputError
from imagernn.formats.caption_files import read_captions, read_training
from imagernn.formats.names import Refused

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / 'shared' / 'data'
D, WIDTHS = 24, (2,) * 5    # the size of the small network's layer fc7, the channels of its convolutions
NOUNS = 'dog boy girl ball river horse'.split()
SEEN = 30                  # training images

spec = importlib.util.spec_from_file_location('pictures_from_words', ROOT / 'data' / 'pictures_from_words.py')
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)
sys.path.append(str(ROOT / 'benchmarks'))
benchmark = importlib.import_module('imagined')
sys.path.remove(str(ROOT / 'benchmarks'))


# ---- the table

def test_every_class_of_the_table_exists_and_its_words_are_tokens():
    table = imagined.read_table(imagined.TABLE, class_names())
    assert len(table) > 1000 and all(classes for classes in table.values())
    assert [term for term in table if ' '.join(karpathy_tokenize(term)) != term] == []
    names = class_names()
    assert [names[number] for number in table['pizza']] == ['pizza']
    assert {names[number] for number in table['kitchen']} >= {'refrigerator', 'stove', 'microwave'}
    assert table['cats'] == table['cat'] and 'orange' not in table


@pytest.mark.parametrize('text, words', [
    ('pizza\n', ["line 1: 'pizza'", 'expected "word, word: class; class"']),
    ('# x\n\npizza: pizza\ncat: pussycat\n', ["line 4: 'pussycat' is no class of ImageNet"]),
    ('cat: tabby; \n', ['line 1']), (', cat: tabby\n', ['line 1']), (': tabby\n', ['line 1']),
    ('cat: tabby\ncats, cat: tabby\n', ["line 2: 'cat' is on an earlier line"]),
    ('cat: tabby\na cat on a mat: tabby\n', ["line 2: 'a cat on a mat' has more than 3 words"]),
    ('# nothing\n', ['lists no words']), (b'\xff', ['not UTF-8 at byte 0'])])
def test_a_table_that_is_not_as_expected_is_refused(tmp_path, text, words):
    path = tmp_path / 'table.txt'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as error:
        imagined.read_table(path, class_names())
    assert [part for part in [str(path), *words] if part not in str(error.value)] == []


def test_the_longest_term_counts_and_its_words_count_for_nothing_else():
    table = {'dog': [1], 'hot dog': [2], 'bear': [3], 'teddy bear': [4], 'pick up truck': [5], 'truck': [6]}
    assert imagined.terms_of('a dog eats a hot dog'.split(), table) == ['dog', 'hot dog']
    assert imagined.terms_of('a teddy bear'.split(), table) == ['teddy bear']
    assert imagined.terms_of('a bear a bear near a pick up truck'.split(), table) == ['bear', 'pick up truck']
    assert imagined.terms_of('hot truck a hot'.split(), table) == ['truck']
    assert imagined.terms_of([], table) == imagined.terms_of(['dog'], {}) == []


def test_the_terms_of_an_image_are_those_that_most_captions_have():
    table = {name: [i] for i, name in enumerate('abcde')}
    captions = [text.split() for text in ('b a c d', 'b a c d', 'd b a', 'e')]
    assert imagined.named_terms(captions, table) == [('a', .75), ('b', .75), ('d', .75)]
    assert imagined.named_terms([['e'], ['a'], ['a']], table) == [('a', 2 / 3)]    # e is in one caption only
    assert imagined.named_terms([['e', 'x']], table) == [('e', 1)]                 # where there is no other


# ---- the formula

def test_the_regression_is_that_of_the_normal_equations():
    rng = np.random.default_rng(0)
    n, ridge = 2 * imagined.BLOCK + 7, 3
    words = [f'w{i}' for i in range(9)]
    images = [[list(rng.choice(words, 4)) for _ in range(rng.integers(1, 4))] for _ in range(n)]
    column_of = imagined.frequent_words(images, 10)
    assert column_of == {word: i for i, word in enumerate(words)}
    X = imagined.shares_of(images, column_of)
    plain = np.array([[np.mean([word in tokens for tokens in captions]) for word in words] for captions in images])
    assert np.allclose(X.toarray(), plain)
    F = plain @ rng.standard_normal((9, 5)) + rng.standard_normal((n, 5)) + 4
    found = imagined.fit(column_of, X, lambda numbers: F[numbers], ridge)
    centred, targets = plain - plain.mean(axis=0), F - F.mean(axis=0)
    rows, answers = np.vstack([centred, ridge ** .5 * np.eye(9)]), np.vstack([targets, np.zeros((9, 5))])
    assert np.allclose(found.B, np.linalg.lstsq(rows, answers, rcond=None)[0])
    residual = targets - centred @ found.B
    assert np.allclose(F - residual, found.predict(X))
    assert found.explained == pytest.approx(1 - (residual ** 2).sum() / (targets ** 2).sum())
    assert found.deviation == pytest.approx(np.sqrt((targets ** 2).sum(axis=1).mean()))


def test_only_words_of_enough_images_are_used():
    images = [[['a', 'b', 'b']], [['a'], ['b']], [['a', 'c']]]
    assert imagined.frequent_words(images, 2) == {'a': 0, 'b': 1}
    assert imagined.shares_of([[['z']], [['a'], ['b', 'a', 'a']]], {'a': 0, 'b': 1}).toarray().tolist() == [
        [0, 0], [1, .5]]


def test_directions_are_unit_vectors_away_from_the_mean():
    W = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32) + 3
    directions = imagined.class_directions(W)
    assert np.allclose(np.linalg.norm(directions, axis=1), 1)
    for number in range(5):
        d = W[:, number].astype(float) - W.astype(float).mean(axis=1)
        assert np.allclose(directions[number], d / np.linalg.norm(d))


def test_agreement_tells_features_of_this_network_from_others():
    rng = np.random.default_rng(0)
    directions = imagined.class_directions(rng.standard_normal((40, 60)))
    table = {f't{i}': [i] for i in range(60)}
    counts = [Counter({f't{rng.integers(60)}': 1}) for _ in range(imagined.BLOCK + 300)]
    F = np.array([directions[table[next(iter(each))][0]] for each in counts]) + .3 * rng.standard_normal((1300, 40))
    agrees = imagined.agreement(counts, table, directions, lambda numbers: F[numbers], 5)
    assert len(agrees) > 50 and agrees.all()
    others = imagined.agreement(counts, table, directions, lambda numbers: F[numbers][:, ::-1], 5)
    assert .25 < others.mean() < .75
    assert len(imagined.agreement(counts, {}, directions, lambda numbers: F[numbers], 5)) == 0


# ---- the data

class Small:
    """A data set with features, a weight file of a small VGG that they fit, and files of captions."""

    def __init__(self, folder):
        self.folder, rng = folder, np.random.default_rng(0)
        (folder / 'real').mkdir()
        layers = vgg((2, 2, 3, 3, 3), WIDTHS, D)
        shapes = weight_shapes(layers, 32)
        arrays = {}
        for name, shape in shapes.items():
            arrays |= {f'{name}_W': rng.standard_normal(shape, np.float32),
                       f'{name}_b': rng.standard_normal(shape[-1:], np.float32)}
        np.savez(folder / 'vgg16.npz', **arrays)
        self.W = arrays['fc8_W'].astype(float)
        self.images, looks = [], rng.standard_normal((len(NOUNS), D))
        for imgid in range(SEEN + 8):
            nouns = rng.permutation(len(NOUNS))[:2]
            sentences = [f'A {NOUNS[i]} .' for i in nouns] + [f'The {NOUNS[nouns[0]]} runs .']
            self.images.append({
                'filename': f'{1000000 + imgid}_abc.jpg', 'imgid': imgid, 'cocoid': 500 + imgid, 'mine': [imgid],
                'split': 'train' if imgid < SEEN else 'val' if imgid < SEEN + 4 else 'test',
                'sentences': [{'tokens': karpathy_tokenize(raw), 'raw': raw, 'sentid': 3 * imgid + k}
                              for k, raw in enumerate(sentences)]})
            self.images[-1]['look'] = nouns.tolist()
        self.F = np.maximum(np.array([looks[image['look']].sum(axis=0) for image in self.images])
                            + .3 * rng.standard_normal((len(self.images), D)), 0).astype(np.float32)
        self.write(folder / 'real' / 'dataset.json', {'images': self.images, 'dataset': 'real', 'info': 1})
        self.write_features()
        self.coco = folder / 'captions_val2017.json'
        captions = {139: ['A pizza on a table.', 'A pizza and a dog', 'The cat sees a pizza!'],
                    285: ['A zebra runs'] * 2, 632: ['A boy runs.'], 700: ['A girl with pizza.', 'A girl, a zebra.']}
        self.write_coco(captions)

    def write(self, path, value):
        path.write_text(value if isinstance(value, str) else json.dumps(value), encoding='utf-8')

    def write_coco(self, captions):
        self.write(self.coco, {
            'images': [{'id': one, 'file_name': f'{one:012}.jpg'} for one in captions],
            'annotations': [{'image_id': one, 'caption': each} for one in captions for each in captions[one]]})

    def write_features(self, F=None, **attributes):
        with h5py.File(self.folder / 'real' / 'vgg_feats.h5', 'w') as file:
            file['feats'] = self.F if F is None else F
            file.attrs.update(attributes)

    def run(self, *flags, captions=None, output='mix'):
        """The exit code of the script, and the folder that it writes."""
        folder = self.folder / output
        return script.main(['--dataset', str(self.folder / 'real'), '--captions', *map(str, captions or [self.coco]),
                            '--weights', str(self.folder / 'vgg16.npz'), '--min_images', '3',
                            '--output', str(folder), *map(str, flags)]), folder

    def made(self, *flags, **more):
        """The images in the dataset.json that it writes, and the features."""
        code, folder = self.run(*flags, **more)
        assert code == 0
        return (json.loads((folder / 'dataset.json').read_text(encoding='utf-8'))['images'],
                open_features(folder / 'vgg_feats.h5'))


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, 'ARCHITECTURES', {
        **weights.ARCHITECTURES, 'vgg16': Architecture(vgg((2, 2, 3, 3, 3), WIDTHS, D), VGG_OUTPUTS)})
    monkeypatch.setattr(weights, 'SIZE', 32)
    return Small(tmp_path)


def test_the_new_data_set_has_the_old_images_and_then_the_imagined_ones(small, capsys):
    origin = {'network': 'vgg16', 'layer': 'fc7', 'preprocessing': 'squashed'}
    small.write_features(**origin)
    images, features = small.made('--dtype', 'float32')
    assert images[:len(small.images)] == small.images
    assert features.origin == origin and features.extracted.all()
    added = images[len(small.images):]
    first = len(small.images)
    assert [(image['imgid'], image['cocoid']) for image in added] == [
        (first, 139), (first + 1, 285), (first + 2, 632), (first + 3, 700)]
    assert added[1] == {
        'filename': f'imagined-{first + 1}', 'split': 'train', 'imagined': True, 'source': 'captions_val2017.json',
        'cocoid': 285, 'imgid': first + 1, 'sentids': [3 * first + 3, 3 * first + 4],
        'sentences': [{'tokens': ['a', 'zebra', 'runs'], 'raw': 'A zebra runs', 'imgid': first + 1,
                       'sentid': 3 * first + 3 + k} for k in range(2)]}
    assert np.array_equal(features.rows(range(first)), small.F)
    assert features.pictures[first - 1:first + 1] == [small.images[-1]['filename'], f'imagined-{first}']
    contents = json.loads((small.folder / 'mix' / 'dataset.json').read_text(encoding='utf-8'))
    assert (contents['dataset'], contents['info']) == ('mix', 1)
    out = capsys.readouterr().out
    assert f'train{SEEN + 4:>13}' in out and '4 images imagined from their captions, split train' in out
    assert re.search(r'9 words of 30 training images explain \d+% of the variance', out)
    assert '2 imagined images name an ImageNet class' in out and 'zebra 2' not in out and 'zebra 1' in out
    assert '-d mix --data_root' in out and '--features vgg_feats.h5' in out and '--solver adam' in out


def test_the_features_are_those_of_the_formula(small):
    """Step by step in plain numpy, with the draws in their order: the classes of an image, then its residual."""
    images, features = small.made('--dtype', 'float32', '--seed', 4, '--strength', 2, '--ridge', 1.5, '--residual', .5)
    training = [image for image in small.images if image['split'] == 'train']
    counts = Counter(word for image in training for word in {w for s in image['sentences'] for w in s['tokens']})
    words = sorted(word for word in counts if counts[word] >= 3)

    def shares(image):
        return [np.mean([word in s['tokens'] for s in image['sentences']]) for word in words]

    X, F = np.array([*map(shares, training)]), small.F[:SEEN].astype(float)
    centred, targets = X - X.mean(axis=0), F - F.mean(axis=0)
    B = np.linalg.solve(centred.T @ centred + 1.5 * np.eye(len(words)), centred.T @ targets)
    table, rng = imagined.read_table(imagined.TABLE, class_names()), np.random.default_rng(4)
    named = {139: [('pizza', 1)], 285: [('zebra', 1)], 632: [], 700: []}    # dog, boy, girl are frequent; cat is once
    for image in images[len(small.images):]:
        f = F.mean(axis=0) + (np.array(shares(image)) - X.mean(axis=0)) @ B
        for term, share in named[image['cocoid']]:
            W = small.W[:, table[term][rng.integers(len(table[term]))]] - small.W.mean(axis=1)
            f = f + 2 * share * W / np.linalg.norm(W)
        donor = rng.integers(SEEN)
        f = np.maximum(f + .5 * (targets[donor] - centred[donor] @ B), 0)
        assert np.allclose(features.rows([image['imgid']])[0], f, atol=1e-5)


def test_several_classes_are_drawn_and_share_the_strength():
    rng = np.random.default_rng(0)
    drawn = [imagined.draw_classes([('cat', .6), ('dog', .4)], {'cat': [3, 5], 'dog': [7]}, rng) for _ in range(40)]
    assert {pairs[0][0] for pairs in drawn} == {3, 5} and {pairs[1] for pairs in drawn} == {(7, .4 / 1.3)}
    assert {pairs[0][1] for pairs in drawn} == {.6 / 1.3}
    assert imagined.draw_classes([], {}, rng) == []


def test_a_seed_gives_the_same_files_and_another_one_other_features(small):
    _, a = small.run(output='a/mix')
    _, b = small.run(output='b/mix')
    for name in ('dataset.json', 'vgg_feats.h5'):
        assert (a / name).read_bytes() == (b / name).read_bytes()
    _, c = small.run('--seed', 1, output='c/mix')
    assert (a / 'dataset.json').read_bytes() == (c / 'dataset.json').read_bytes()
    assert (a / 'vgg_feats.h5').read_bytes() != (c / 'vgg_feats.h5').read_bytes()


def test_more_files_of_captions_leave_the_earlier_features_as_they_are(small, monkeypatch):
    """Also where a block ends after each image."""
    images, features = small.made()
    monkeypatch.setattr(imagined, 'BLOCK', 1)
    (small.folder / 'more.txt').write_text('A dog runs\nA zebra\n')
    more, more_features = small.made(captions=[small.coco, small.folder / 'more.txt'], output='more')
    assert more[:len(images)] == images and len(more) == len(images) + 2
    assert np.allclose(more_features.rows(range(len(images))), features.rows(range(len(images))), atol=2e-3)


def test_captions_of_every_kind(small):
    folder = small.folder
    small.write(folder / 'karpathy.json', {'images': [
        {'filename': f'{split}.jpg', 'imgid': 0, 'split': split, 'sentences': [{'tokens': ['a', 'dog']}]}
        for split in ('restval', 'val', 'train', 'test')]})
    small.write(folder / 'lines.txt', 'A dog\nA boy\n\nA girl\nA horse\n')
    small.write(folder / 'table.csv', 'image,caption\nx.jpg,A dog\nx.jpg,Two dogs\ny.jpg,A ball\n')
    images, _ = small.made('--captions_per_image', 2, captions=[
        folder / name for name in ('karpathy.json', 'lines.txt', 'table.csv')])
    found = [(image['source'], image.get('source_image', image.get('source_line')), len(image['sentences']))
             for image in images[len(small.images):]]
    assert found == [('karpathy.json', 'train.jpg', 1), ('karpathy.json', 'restval.jpg', 1), ('lines.txt', 1, 2),
                     ('lines.txt', 4, 2), ('table.csv', 'x.jpg', 2), ('table.csv', 'y.jpg', 1)]


def test_images_that_are_listed_or_known_are_left_out(small, capsys):
    small.write_coco({139: ['A pizza'], 285: ['A zebra'], 501: ['Of the data set'], 700: ['Kept']})
    small.write(small.folder / 'ids.txt', '139\n\n000000000285\n77\n')
    small.write(small.folder / 'flickr.csv', 'image,caption\n1000003.jpg,Photo 1000003_abc.jpg of the data set\n'
                                             f'{small.images[-1]["filename"]},Of its test split\nz.jpg,A dog\n')
    images, _ = small.made('--leave_out', small.folder / 'ids.txt',
                           captions=[small.coco, small.folder / 'flickr.csv', small.coco])
    assert [image.get('cocoid', image.get('source_image')) for image in images[len(small.images):]] == [700, 'z.jpg']
    out = capsys.readouterr().out
    assert 'left out: 4 images that --leave_out lists' in out    # two, in a file that is named twice
    assert 'left out: 4 images that the data set has, by COCO id or file name' in out
    assert 'left out: 1 images that are listed before' in out


def test_imagined_images_of_the_data_set_stay_and_teach_nothing(small):
    """The result can be added to."""
    images, features = small.made()
    small.write(small.folder / 'more.txt', 'A dog runs\nA zebra\n')
    code = script.main(['--dataset', str(small.folder / 'mix'), '--captions', str(small.folder / 'more.txt'),
                        '--weights', str(small.folder / 'vgg16.npz'), '--min_images', '3',
                        '--output', str(small.folder / 'twice')])
    assert code == 0
    twice = json.loads((small.folder / 'twice' / 'dataset.json').read_text(encoding='utf-8'))['images']
    assert twice[:len(images)] == images and [image['imgid'] for image in twice] == [*range(len(images) + 2)]
    again = open_features(small.folder / 'twice' / 'vgg_feats.h5')
    assert np.array_equal(again.rows(range(len(images))), features.rows(range(len(images))))
    once, first = small.made(captions=[small.folder / 'more.txt'], output='once')
    assert np.allclose(first.rows([len(once) - 1]), again.rows([len(twice) - 1]), atol=.01)    # rounded to float16


def test_rows_that_were_not_extracted_stay_marked(small, capsys):
    with h5py.File(small.folder / 'real' / 'vgg_feats.h5', 'a') as file:
        file['pictures'] = [image['filename'] for image in reversed(small.images)]
        file['extracted'] = np.arange(len(small.images)) != 2
        del file['feats']
        file['feats'] = small.F[::-1]
    images, features = small.made('--dtype', 'float32')
    gone = len(small.images) - 3
    assert np.flatnonzero(~features.extracted).tolist() == [gone] and not features.rows([gone]).any()
    assert np.array_equal(features.rows([0]), small.F[:1]) and 'are left out' in capsys.readouterr().err
    assert getDataProvider('mix', small.folder).getSplitSizes() == {'train': SEEN + 4, 'val': 4, 'test': 3}


def test_a_warning_if_the_features_seem_to_be_of_another_network(small, monkeypatch, capsys):
    monkeypatch.setattr(script, 'FEWEST_TERMS', 4)
    small.write(small.folder / 'all.txt', ''.join(f'{noun}: pizza; zebra; tabby\n' for noun in NOUNS))
    monkeypatch.setattr(script, 'LEAST_AGREEMENT', 1.1)
    small.made('--class_words', small.folder / 'all.txt')
    assert 'may come from another network than the weights' in capsys.readouterr().err


# ---- what is refused

BAD = {    # flags, what is changed before, parts of the message
    'no data set': (['--dataset', '/nowhere'], None, ['--dataset /nowhere: there is no dataset.json']),
    'no features': (['--features', 'x.h5'], None, ['x.h5: there is no such feature file']),
    'the same folder': (['--output', '{}/real'], None, ['dataset.json: is an input file']),
    'over the captions': (['--captions', '{}/mix/dataset.json'],
                          lambda small: small.run(), ['dataset.json: is an input file']),
    'size': ([], lambda small: small.write_features(small.F[:, :7]),
             ['holds 7 numbers an image', 'vgg16 reads the 24 of layer fc7', '--weights']),
    'another network': ([], lambda small: small.write_features(network='lite0'),
                        ['its features are of network lite0, but', 'vgg16.npz have network vgg16']),
    'another layer': ([], lambda small: small.write_features(layer='fc6'), ['of layer fc6', 'layer fc7']),
    'other weights': ([], lambda small: small.write_features(weights_sha256='0' * 64), ['of weights_sha256 000']),
    'negative': ([], lambda small: small.write_features(small.F - 1), ['has values below 0']),
    'no such weights': (['--weights', '/nowhere.npz'], None, ['/nowhere.npz: there is no such weight file']),
    'few images': (['--min_images', '99'], None, ['no word is in the captions of 99 of its 30 training images']),
    'another language': ([], lambda small: small.write_coco({1: ['Ein Hund'], 2: ['Zwei Hunde']}),
                         ['have no word in common with the 9 of the data set', '--tokenizer']),
    'ids that are words': (['--leave_out', '{}/ids.txt'],
                           lambda small: small.write(small.folder / 'ids.txt', '139\nx\n'),
                           ["ids.txt, line 2: 'x' is no COCO id"]),
    'ids that are binary': (['--leave_out', '{}/vgg16.npz'], None, ['vgg16.npz: is not UTF-8']),
    'no ids': (['--leave_out', '/nowhere'], None, ['/nowhere: cannot be read']),
    'nothing is left': (['--leave_out', '{}/ids.txt'],
                        lambda small: small.write(small.folder / 'ids.txt', '139\n285\n632\n700\n'),
                        ['no image is left; left out were 4 that --leave_out lists']),
    'results': (['--captions', '{}/r.json'],
                lambda small: small.write(small.folder / 'r.json', [{'image_id': 1, 'caption': 'a dog'}]),
                ['r.json: holds captions that a system generated']),
    'lines that do not divide': (['--captions', '{}/x.txt', '--captions_per_image', '2'],
                                 lambda small: small.write(small.folder / 'x.txt', 'a\nb\nc\n'),
                                 ['x.txt: has 3 lines', '--captions_per_image 2']),
    'no captions': (['--captions', '/nowhere'], None, ['/nowhere: cannot be read']),
    'only held out': (['--captions', '{}/d.json'], lambda small: small.write(small.folder / 'd.json', {'images': [
        {'filename': 'x', 'imgid': 0, 'split': 'val', 'sentences': [{'tokens': ['a']}]}]}),
        ["d.json: has no images in split 'train'"]),
    'no such class': (['--class_words', '{}/t.txt'], lambda small: small.write(small.folder / 't.txt', 'cat: x\n'),
                      ['t.txt, line 1']),
    'strength': (['--strength', '-1'], None, ['--strength -1: must be a number from 0']),
    'strength nan': (['--strength', 'nan'], None, ['--strength nan: must be']),
    'ridge': (['--ridge', '0'], None, ['--ridge 0: must be a number above 0']),
    'residual': (['--residual', '1.5'], None, ['--residual 1.5: must be a number from 0 to 1']),
    'seed': (['--seed', '-1'], None, ['--seed -1: must be at least 0']),
    'lines': (['--captions_per_image', '0'], None, ['--captions_per_image 0: must be at least 1']),
    'half': (['--dtype', 'float16'], lambda small: small.write_features(small.F * 1e6), ['not finite in float16']),
    'sparse imgids': ([], lambda small: small.write(small.folder / 'real' / 'dataset.json', {
        'images': [{**small.images[0], 'imgid': 10 ** 6}]}), ['imgid 1000000']),
}


@pytest.mark.parametrize('flags, change, words', BAD.values(), ids=BAD)
def test_mistakes_are_named_and_nothing_is_written(small, capsys, flags, change, words):
    if change:
        change(small)
    before = {path: path.read_bytes() for path in small.folder.rglob('*') if path.is_file()}
    code, _ = small.run(*(flag.replace('{}', str(small.folder)) for flag in flags))
    message = capsys.readouterr().err.splitlines()[-1]
    assert code == 2 and message.startswith('error: '), message
    assert [part for part in words if part not in message] == [], message
    assert {path: path.read_bytes() for path in small.folder.rglob('*') if path.is_file()} == before


def test_weights_without_a_classifier_are_refused(small, capsys):
    with np.load(small.folder / 'vgg16.npz') as file:
        kept = {name: file[name] for name in file if not name.startswith('fc')}
    np.savez(small.folder / 'vgg16.npz', **kept)
    assert small.run()[0] == 2 and 'vgg16.npz: holds no fully connected layers' in capsys.readouterr().err


# ---- imagined images are taken for no pictures

@pytest.fixture
def mixed(small):
    """The folder of a data set with imagined images."""
    return small.run()[1]


def change_images(folder, change):
    path = folder / 'dataset.json'
    data = json.loads(path.read_text(encoding='utf-8'))
    change(data['images'])
    path.write_text(json.dumps(data), encoding='utf-8')


def test_a_captioner_trains_on_them_and_is_evaluated_on_pictures_alone(mixed, capsys):
    root = mixed.parent
    flags = ['-d', 'mix', '--data_root', root, '-o', root / 'cv', '--worker_status_output_directory', root / 'status',
             *SMALL, '-m', '1', '--fappend', 'x']
    assert driver.main([*map(str, flags)]) == 0
    assert f'{3 * SEEN + 8} training sentences' in capsys.readouterr().out
    checkpoint = next(path for path in (root / 'cv').glob('*.h5') if 'last' not in path.name)
    result = root / 'result.json'

    def evaluate(*more):
        return eval_sentence_predictions.main([str(checkpoint), '--data_root', str(root), '--result_struct_filename',
                                               str(result), *more])

    assert evaluate() == 0 and 'imagined' not in capsys.readouterr().err
    assert evaluate('--split', 'train') == 0
    assert f'note: 4 of the {SEEN + 4} images in split train are imagined' in capsys.readouterr().err
    blobs = json.loads(result.read_text(encoding='utf-8'))['imgblobs']
    assert [blob['imgid'] for blob in blobs] == [*range(SEEN)]
    change_images(mixed, lambda images: [image.update(imagined=True) for image in images if image['split'] == 'train'])
    assert evaluate('--split', 'train') == 2
    assert f"all {SEEN + 4} images in split 'train' are imagined" in capsys.readouterr().err


def test_they_are_in_no_split_but_train(mixed, capsys):
    change_images(mixed, lambda images: [image.update(split='val') for image in images[-2:]])
    provider = getDataProvider('mix', mixed.parent)
    assert provider.getSplitSizes() == {'train': SEEN + 2, 'val': 4, 'test': 4}
    assert 'dataset.json: 2 images imagined from words are in other splits than train' in capsys.readouterr().err
    change_images(mixed, lambda images: [image.update(split='train') for image in images if image['split'] == 'val'])
    provider = getDataProvider('mix', mixed.parent)
    provider.hold_out_val(.9, 0)
    assert provider.getSplitSizes() == {'train': SEEN + 8 - 31, 'val': 31, 'test': 4}    # 31 of 34 real ones
    assert not any(image.get('imagined') for image in provider.iterImages('val'))
    assert sum(image.get('imagined', False) for image in provider.iterImages('train')) == 4
    with pytest.raises(InputError, match='takes 34 of the 34 training images'):
        getDataProvider('mix', mixed.parent).hold_out_val(.999, 0)


def test_the_store_of_a_large_dataset_json_keeps_the_mark(mixed, monkeypatch):
    monkeypatch.setattr('imagernn.corpus.dataset_file.STORE_FROM', 0)
    for _ in range(2):    # built, then read
        store = read_dataset(mixed / 'dataset.json')
        assert store.imagined.dtype == bool and np.flatnonzero(store.imagined).tolist() == [*range(SEEN + 8, SEEN + 12)]
    assert (mixed / 'dataset.cache.npz').exists()


@pytest.mark.parametrize('value', ['yes', 1, 0, None, [True]])
def test_a_mark_that_is_no_boolean_is_an_error_that_names_the_image(mixed, capsys, value):
    change_images(mixed, lambda images: images[-1].update(imagined=value))
    (mixed / 'imgs').mkdir()
    expected = rf"image {SEEN + 11} \('imagined-{SEEN + 11}'\): 'imagined' is .*; expected true or false"
    with pytest.raises(InputError, match=expected):
        getDataProvider('mix', mixed.parent)
    with pytest.raises(InputError, match=expected):
        read_source(mixed / 'dataset.json')


def test_extraction_gives_them_no_row_and_does_not_replace_their_features(mixed, monkeypatch, capsys):
    monkeypatch.setattr(extraction, 'load_network', loader(StubNetwork(name='vgg16')))
    (mixed / 'imgs').mkdir()
    for imgid in range(SEEN + 8):
        Image.new('RGB', (30, 30), (imgid, 5, 5)).save(mixed / 'imgs' / f'{1000000 + imgid}_abc.jpg')
    before = (mixed / 'vgg_feats.h5').read_bytes()
    for flags in ([], ['--force']):
        assert extract_features.main([str(mixed / 'dataset.json'), *flags]) == 2
        assert 'partly imagined' in capsys.readouterr().err and (mixed / 'vgg_feats.h5').read_bytes() == before
    assert extract_features.main([str(mixed / 'dataset.json'), '--output', str(mixed / 'again.h5')]) == 0
    out, err = capsys.readouterr()
    assert f'{SEEN + 8} pictures' in out and 'skipped' not in err
    assert open_features(mixed / 'again.h5').pictures == [f'{1000000 + imgid}_abc.jpg' for imgid in range(SEEN + 8)]
    with pytest.raises(InputError, match='4 of its images are imagined from words, and .*again.h5 has no'):
        getDataProvider('mix', mixed.parent, 'again.h5')
    change_images(mixed, lambda images: [image.update(imagined=True) for image in images])
    with pytest.raises(InputError, match='all its images are imagined from words'):
        read_source(mixed / 'dataset.json')


def test_no_picture_of_theirs_is_opened_and_no_caption_scored(mixed, small, tmp_path):
    provider = getDataProvider('mix', mixed.parent)
    *_, image = provider.iterImages('train')
    path = provider.image_path(image)
    assert isinstance(path, Refused) and 'has no picture' in path.problem
    result = tmp_path / 'r.json'
    small.write(result, [{'image_id': imgid, 'caption': 'a dog'} for imgid in range(SEEN)])
    _, references = read_captions([result, mixed / 'dataset.json'], split='train')
    assert references.ids['imgid'] == [*range(SEEN)]
    assert len(read_training([mixed / 'dataset.json'])) == 3 * SEEN + 8    # a system was trained on these, too


# ---- the benchmark, and the real thing

def test_the_benchmark_finds_photos_by_their_captions(small, capsys):
    photos = small.folder / 'photos'
    photos.mkdir()
    small.write(photos / 'dataset.json', {'images': [{**image, 'split': 'test'} for image in small.images[:12]]})
    np.save(photos / 'vgg_feats.npy', small.F[:12])
    flags = ['--dataset', str(small.folder / 'real'), '--photos', str(photos), '--weights',
             str(small.folder / 'vgg16.npz'), '--draws', '3']
    assert benchmark.main(flags) == 2 and 'has 12 photos, and --among is 80' in capsys.readouterr().err
    assert benchmark.main([*flags, '--among', '12']) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)['found']
    assert [line[:40].strip() for line in lines] == list(found) == list(benchmark.WAYS)
    assert all(0 <= first <= five <= 1 for first, five in found.values())


def test_coco_beside_flickr8k(tmp_path):
    """On real features: the numbers printed, and that imagined features name what the captions say. No file is written.
    """
    needed = [SHARED / 'flickr8k_karpathy', SHARED / 'flickr8k' / 'lite0_feats.h5', SHARED / 'coco' /
              'captions_val2017.json', SHARED / 'coco' / 'keep_out_ids.txt']
    if missing := [path for path in needed if not path.exists()]:
        pytest.skip(f'needs {missing[0]}')
    try:
        network = weights.load_network(name='lite0')
    except InputError as error:
        pytest.skip(str(error))
    coco = json.loads(needed[2].read_text(encoding='utf-8'))
    some = {image['id'] for image in coco['images'][:300]}
    (tmp_path / 'some.json').write_text(json.dumps({
        'images': coco['images'][:300],
        'annotations': [each for each in coco['annotations'] if each['image_id'] in some]}), encoding='utf-8')
    args = script.checked(script.build_parser().parse_args([
        '--dataset', str(needed[0]), '--features', str(needed[1]), '--captions', str(tmp_path / 'some.json'),
        '--leave_out', str(needed[3]), '--residual', '0', '--output', str(tmp_path / 'mix')]))

    data, table = script.read_real(args), imagined.read_table(imagined.TABLE, class_names())
    entries, _ = script.read_captions(args, data.images)
    kept_out = {int(line) for line in needed[3].read_text().split()}
    assert [fields['cocoid'] for fields, _ in entries] == [
        image['id'] for image in coco['images'][:300] if image['id'] not in kept_out]
    captions = [[karpathy_tokenize(raw) for raw in raws] for _, raws in entries]
    world = script.learn(args, data, table, script.classifier_directions(args.weights, data.features))
    terms = [imagined.named_terms(each, world.table) for each in captions]
    said = '\n'.join(script.report(captions, terms, world))
    assert '1,086 words of 6,000 training images explain 31% of the variance of their features' in said
    assert 'for 136 of 137 words' in said and 'with strength 5.00' in said

    features = np.concatenate([made['feats'] for _, made in script.imagined_rows(args, data.features, world, captions,
                                                                                 terms)])
    W, b = network.classifier
    with_pizza = [number for number, each in enumerate(captions) if sum('pizza' in tokens for tokens in each) > 3]
    best = (features[with_pizza] @ W + b).argsort(axis=1)[:, -5:]
    assert with_pizza and (best == table['pizza'][0]).any(axis=1).all()

"""eval/score_captions.py as users run it: scores, by hand and against pycocoevalcap; the table; the files."""

import contextlib
import csv
import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from imagernn.corpus.tokenize import tokenize
from imagernn.metrics import caption_statistics, intervals, per_image, scores_of

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / 'shared' / 'data'
SCRIPT = ROOT / 'eval' / 'score_captions.py'
spec = importlib.util.spec_from_file_location('score_captions', SCRIPT)
score_captions = importlib.util.module_from_spec(spec)
spec.loader.exec_module(score_captions)

SAID = ['a dog runs', 'two men play guitar']                                  # the example of eval/README.md
REFERENCES = [['a dog runs on grass', 'the brown dog is running'],
              ['two men play guitars', 'a man and another man play music']]
NAMES = [*(f'Bleu_{n}' for n in range(1, 5)), 'ROUGE_L', 'CIDEr', 'CIDEr_plain',
         *(f'multi_bleu_{n}' for n in range(1, 5))]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with the example of eval/README.md as plain text, and as COCO's files under other ids."""
    monkeypatch.chdir(tmp_path)
    Path('captions.txt').write_text('\n'.join(SAID) + '\n')
    for number in 0, 1:
        Path(f'ref{number}.txt').write_text(''.join(image[number] + '\n' for image in REFERENCES))
    write('coco.json', {'images': [{'id': 5}, {'id': 4}], 'annotations': [
        {'image_id': 5 - image, 'caption': caption} for image in (1, 0) for caption in REFERENCES[image]]})
    write('results.json', [{'image_id': 4, 'caption': SAID[1]}, {'image_id': 5, 'caption': SAID[0]}])
    write('worse.json', [{'image_id': 4, 'caption': 'two'}, {'image_id': 5, 'caption': '=a dog'}])
    return tmp_path


def write(name, value):
    Path(name).write_text(json.dumps(value), encoding='utf-8')


def run(*flags):
    assert score_captions.main(list(map(str, flags))) == 0


def report(*flags):
    run(*flags, '--json', 'report.json')
    return json.loads(Path('report.json').read_text(encoding='utf-8'))


# ---------------------------------------------------------------------------------------------- scores

def test_the_worked_example_in_the_readme_is_what_the_script_prints(folder, capsys):
    run('captions.txt', 'ref0.txt', 'ref1.txt', '--draws', 0)
    out = capsys.readouterr().out
    page = (ROOT / 'eval' / 'README.md').read_text(encoding='utf-8')
    shown = re.search(r'prints\n\n```\n(.*?)```', page, re.DOTALL)[1].splitlines()
    assert len(shown) == 7 and set(shown) - {'…'} <= set(out.splitlines())
    # and by hand, as in the README: BLEU-1, BLEU-2, ROUGE-L, and CIDEr-D of the first caption
    scores = report('captions.txt', 'ref0.txt', 'ref1.txt')['results'][0]['scores']
    penalty = np.exp(1 - 9 / 7)
    assert scores['Bleu_1'] == pytest.approx(penalty * 6 / 7, rel=1e-8)
    assert scores['Bleu_2'] == pytest.approx(penalty * np.sqrt(6 / 7 * 4 / 5), rel=1e-8)
    assert scores['multi_bleu_1'] == pytest.approx(600 / 7)
    assert scores['ROUGE_L'] == pytest.approx((2.44 * .6 / 2.04 + .75) / 2)
    run('captions.txt', 'ref0.txt', 'ref1.txt', '--csv', 'images.csv')
    length, root = np.exp(-4 / 72), np.sqrt
    by_hand = length * (2 / root(8) + 2 / root(8) + 1 / root(3)) / 4 + length / root(10) / 4
    assert float(read_csv()[0]['CIDEr']) == pytest.approx(5 * by_hand)


def test_all_forms_of_the_same_captions_score_the_same(folder):
    write('struct.json', {'imgblobs': [
        {'img_path': f'{name}.jpg', 'imgid': name, 'candidate': {'text': said},
         'references': [{'text': text} for text in texts]} for name, said, texts in zip('xy', SAID, REFERENCES,
                                                                                        strict=True)]})
    write('dataset.json', {'images': [
        {'filename': f'{name}.jpg', 'imgid': name, 'split': 'val', 'sentences': [{'raw': text} for text in texts]}
        for name, texts in zip('xy', REFERENCES, strict=True)]})
    forms = [['captions.txt', 'ref0.txt', 'ref1.txt'], ['results.json', 'coco.json'], ['struct.json'],
             ['struct.json', 'dataset.json', '--split', 'val'], ['--split', 'val', 'captions.txt', 'dataset.json'],
             ['captions.txt', 'coco.json'], ['captions.txt', '--references', 'ref1.txt', 'ref0.txt']]
    found = [report(*form)['results'][0]['scores'] for form in forms]
    assert list(found[0]) == NAMES
    for scores in found[1:]:
        assert scores == pytest.approx(found[0], rel=1e-12)


def test_the_report_says_by_which_search_the_captions_were_found(folder):
    params = {'beam_size': 5, 'beam_kind': 'pool', 'length_penalty': .5, 'ensemble': ['other.h5'], 'mbr_samples': 0}
    blobs = [{'img_path': f'{number}.jpg', 'candidate': {'text': said}} for number, said in enumerate(SAID)]
    write('with.json', {'params': params, 'imgblobs': blobs})
    write('without.json', {'imgblobs': blobs})
    found = report('with.json', 'without.json', 'captions.txt', '--references', 'ref0.txt', 'ref1.txt')['results']
    assert found[0]['params'] == params and not any('params' in some for some in found[1:])


def test_the_tokenizer_can_be_chosen(folder):
    Path('captions.txt').write_text("A dog's, run\nx\n")
    Path('ref0.txt').write_text("A DOG's run.\ny\n")
    precision = {how: report('captions.txt', 'ref0.txt', '--tokenizer', how)['results'][0]['scores']['multi_bleu_1']
                 for how in ('ptb', 'karpathy', 'words', 'none')}
    # 4 of a, dog, 's, run, x; 3 of a, dogs, run, x; 1 of A, dog's, and so on
    assert precision == pytest.approx({'ptb': 80, 'karpathy': 75, 'words': 75, 'none': 25})


def test_a_note_says_that_a_tokenizer_loses_letters(folder, capsys):
    Path('captions.txt').write_text('两只狗。\na dog\n', encoding='utf-8')
    Path('ref0.txt').write_text('三只狗。\nein Hündchen\n', encoding='utf-8')
    found = {how: report('captions.txt', 'ref0.txt', '--tokenizer', how) for how in ('ptb', 'karpathy', 'words')}
    assert found['ptb']['notes'] == found['words']['notes'] == []
    assert found['karpathy']['notes'] == [
        '3 of 4 captions lose letters that the tokenizer karpathy does not keep, 2 of them most of their letters: '
        '"两只狗。" becomes ""; to keep them, choose --tokenizer words, which keeps letters of every script']
    assert found['words']['results'][0]['scores']['multi_bleu_1'] == pytest.approx(40)    # 只, 狗 of five words
    assert 'captions lose letters' in capsys.readouterr().out


def test_scores_and_intervals_are_those_of_the_metrics(folder):
    rng = np.random.default_rng(0)
    captions = [' '.join(rng.choice(list('abcdef'), size)) for size in rng.integers(1, 9, 20)]
    Path('captions.txt').write_text('\n'.join(captions))
    Path('ref0.txt').write_text('\n'.join(captions[1:] + captions[:1]))
    found = report('captions.txt', 'ref0.txt', '--level', .9, '--draws', 50, '--seed', 3)
    statistics = caption_statistics([caption.split() for caption in captions],
                                    [[caption.split()] for caption in captions[1:] + captions[:1]])
    result, = found['results']
    assert result['scores'] == scores_of(statistics)
    expected = [{name: list(ends) for name, ends in intervals(statistics, .9, 50, seed).items()} for seed in (3, 0)]
    assert result['intervals'] == expected[0] != expected[1]
    assert (found['level'], found['draws'], found['seed'], found['images']) == (.9, 50, 3, 20)
    assert 'against_first' not in result


def test_several_results_are_compared_with_the_first(folder, capsys):
    found = report('results.json', 'results.json', 'worse.json', 'coco.json', '--draws', 20)
    first, same, worse = found['results']
    for name in NAMES:
        difference = worse['against_first'][name]
        assert difference['difference'] == pytest.approx(worse['scores'][name] - first['scores'][name])
        assert difference['low'] <= difference['high']
        assert same['against_first'][name] == {'difference': 0, 'low': 0, 'high': 0, 'p': 1}
    out = capsys.readouterr().out
    assert 'difference from 1' in out and [line.split()[-1] for line in out.splitlines()[4:7]] == [
        'results.json', 'results.json', 'worse.json']


def test_the_table_is_aligned_and_fits(folder, capsys):
    run('results.json', 'worse.json', 'coco.json', '--training', 'ref0.txt')
    lines = capsys.readouterr().out.splitlines()
    table = lines[lines.index('', 3) + 1:]
    assert len(table) == 1 + 2 * len(NAMES) and max(map(len, lines)) <= 120
    assert len({len(line) for line in table[1::2]}) == 1 and len({len(line) for line in table[0::2]}) == 1
    assert [line.split()[0] for line in table[1::2]] == [
        'BLEU-1', 'BLEU-2', 'BLEU-3', 'BLEU-4', 'ROUGE-L', 'CIDEr-D', 'CIDEr', 'multi-bleu-1', 'multi-bleu-2',
        'multi-bleu-3', 'multi-bleu-4']


def test_statistics_of_the_captions_by_themselves(folder, capsys):
    Path('captions.txt').write_text('a dog runs\n\nA dog runs .\na cat\n')
    Path('ref0.txt').write_text('x\n' * 4)
    Path('training.txt').write_text('A cat!\nx y\n')
    found = report('captions.txt', 'ref0.txt', '--training', 'training.txt', 'ref0.txt')
    facts = {name: found['results'][0][name] for name in ('captions', 'empty', 'length', 'vocabulary', 'distinct',
                                                          'novel')}
    assert facts == {'captions': 4, 'empty': 1, 'length': 2, 'vocabulary': 4, 'distinct': .75, 'novel': .75}
    assert found['reference_captions'] == {'captions': 4, 'empty': 0, 'length': 1, 'vocabulary': 1, 'distinct': .25,
                                           'novel': 0}
    line, = [line for line in capsys.readouterr().out.splitlines() if line.endswith('   captions.txt')]
    assert line.split() == ['1', '4', '1', '2.00', '4', '75.0', '%', '75.0', '%', 'captions.txt']
    assert 'novel' not in report('captions.txt', 'ref0.txt')['results'][0]


def test_allow_missing_scores_the_common_images_and_reports_the_others(folder, capsys):
    write('one.json', [{'image_id': '5', 'caption': SAID[0]}, {'image_id': 6, 'caption': 'x'}])
    assert score_captions.main(['one.json', 'coco.json']) == 2
    assert 'one.json: 1 of its 2 images have no references in coco.json, such as 6;' in capsys.readouterr().err
    assert score_captions.main(['results.json', 'one.json', 'coco.json']) == 2
    assert 'one.json: has no caption for 1 of the 2 images of coco.json, such as 4;' in capsys.readouterr().err
    found = report('one.json', 'results.json', 'coco.json', '--allow_missing')
    assert found['images'] == 1 and len(found['notes']) == 2
    assert found['results'][0]['scores'] == found['results'][1]['scores']
    assert '1 images, 2 references from coco.json' in (out := capsys.readouterr().out)
    assert 'one.json: 1 of its 2 images have no references in coco.json, such as 6; these are left out' in out


def test_results_that_cover_a_part_of_cocos_annotations_are_scored(folder, capsys):
    """As the official evaluation scores the 5,000 test images of Karpathy's split with captions_val2014.json."""
    write('part.json', [{'image_id': 'COCO_val2014_000000000005', 'caption': SAID[0]}])
    run('part.json', 'coco.json')
    out = capsys.readouterr().out.splitlines()
    assert out[:2] == ['1 images, 2 references from coco.json, tokenizer ptb',
                       'part.json: has no caption for 1 of the 2 images of coco.json, such as 4; these are left out']
    write('one.json', {'annotations': [{'image_id': 5, 'caption': caption} for caption in REFERENCES[0]]})
    part, alone = (report('part.json', name)['results'][0]['scores'] for name in ('coco.json', 'one.json'))
    assert part == alone


# ---------------------------------------------------------------------------------------------- files

def read_csv(name='images.csv'):
    with open(name, encoding='utf-8', newline='') as file:
        return list(csv.DictReader(file))


def test_the_csv_has_each_image_of_each_result(folder):
    run('results.json', 'worse.json', 'coco.json', '--csv', 'images.csv')
    rows = read_csv()
    assert list(rows[0]) == ['results', 'id', 'caption', 'length', *NAMES]
    assert [tuple(row[name] for name in ('results', 'id', 'length')) for row in rows] == [
        ('results.json', '5', '3'), ('results.json', '4', '4'), ('worse.json', '5', '3'), ('worse.json', '4', '1')]
    each = per_image(caption_statistics(tokenize(SAID, 'ptb'), [tokenize(image, 'ptb') for image in REFERENCES]))
    for name in NAMES:
        assert [float(row[name]) for row in rows[:2]] == each[name].tolist()


@pytest.mark.parametrize('caption', ['=1+1', '+1', '-1', '@x', '\t=1', '\r\n=HYPERLINK("http://x","y")', ' \u2028=1',
                                     '\0\x1b=1', '＝1'])
def test_no_caption_is_a_formula_in_a_spreadsheet(folder, caption):
    write('evil.json', [{'image_id': 4, 'caption': caption}, {'image_id': 5, 'caption': 'a "dog", x=1'}])
    run('evil.json', 'coco.json', '--csv', 'images.csv')
    dog, evil = read_csv()
    assert evil['caption'] == "'" + caption.strip('\0\x1b \t\r\n\u2028') and dog['caption'] == 'a "dog", x=1'
    assert score_captions.as_text('=id') == "'=id"


def test_files_are_written_even_if_nobody_reads_the_table(folder):
    done = subprocess.run(f'"{sys.executable}" "{SCRIPT}" results.json coco.json --json report.json | true', shell=True,
                          capture_output=True, text=True)
    assert done.stderr == '' and json.loads(Path('report.json').read_text())['images'] == 2


def test_it_runs_from_the_checkout_without_being_installed(folder):
    """-I ignores the current folder, PYTHONPATH and the user's packages; an editable install is switched off too."""
    program = ('import runpy, sys\n'
               'sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]\n'
               f'sys.path[:] = [path for path in sys.path if path != {str(ROOT)!r}]\n'
               'try:\n    import imagernn\nexcept ImportError:\n    print("not installed")\n'
               f'sys.argv = ["score_captions.py", "captions.txt", "ref0.txt"]\nrunpy.run_path({str(SCRIPT)!r}, None, '
               '"__main__")')
    done = subprocess.run([sys.executable, '-I', '-c', program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('not installed\n2 images, 2 references from ref0.txt')


# ---------------------------------------------------------------------------------------------- mistakes

@pytest.mark.parametrize(('flags', 'words'), [
    (['absent.json', 'coco.json'], ['absent.json: cannot be read']),
    (['.', 'coco.json'], ['.: cannot be read']),
    (['captions.txt', 'ref0.txt', '--level', '95'], ['--level 95', '0.95']),
    (['captions.txt', 'ref0.txt', '--level', 'nan'], ['--level nan']),
    (['captions.txt', 'ref0.txt', '--draws', '-1'], ['--draws -1']),
    (['captions.txt', 'ref0.txt', '--draws', '10000000000'], ['--draws 10000000000']),
    (['captions.txt', 'ref0.txt', '--seed', '-1'], ['--seed -1']),
    (['captions.txt', 'ref0.txt', '--json', 'x', '--csv', './x'], ['same file']),
    (['captions.txt', 'ref0.txt', '--csv', 'ref0.txt'], ['ref0.txt: is an input file']),
    (['captions.txt', '--references', 'ref0.txt', '--json', 'ref0.txt'], ['ref0.txt: is an input file']),
    (['captions.txt', 'ref0.txt', '--training', 'ref1.txt', '--csv', 'ref1.txt'], ['ref1.txt: is an input file']),
    (['captions.txt', 'ref0.txt', '--json', ''], ['the argument after --json is empty']),
    (['captions.txt', 'ref0.txt', '--json', '.'], ['.: is a folder']),
    (['captions.txt', 'ref0.txt', '--training', 'results.json'], ['results.json: holds results']),
    (['captions.txt', 'ref0.txt', '--split', 'val'], ['--split val']),
])
def test_a_mistake_is_one_line_and_exit_code_2(folder, flags, words, capsys):
    before = sorted(path.name for path in folder.iterdir())
    assert score_captions.main(flags) == 2
    out, message = capsys.readouterr()
    assert out == '' and message.startswith('error: ') and message.count('\n') == 1
    assert all(word in message for word in words), message
    assert sorted(path.name for path in folder.iterdir()) == before


def test_meteor_without_java_is_an_error(folder, monkeypatch, capsys):
    monkeypatch.setenv('PATH', '')
    assert score_captions.main(['captions.txt', 'ref0.txt', '--meteor']) == 2
    assert 'error: --meteor: METEOR cannot be computed: ' in (message := capsys.readouterr().err) and 'java' in message


# ---------------------------------------------------------------------------------------------- beside pycocoevalcap

def test_every_score_equals_pycocoevalcap_with_its_own_tokenizer(folder):
    """Both tokenize and score captions of val2017: random words, another image's captions, empty and very long ones."""
    annotations = SHARED / 'coco' / 'captions_val2017.json'
    pytest.importorskip('pycocoevalcap', reason='pycocoevalcap is not installed')
    if not shutil.which('java'):
        pytest.skip('no java on the PATH')
    if not annotations.is_file():
        pytest.skip('no shared folder beside the checkout with data/coco')
    data = json.loads(annotations.read_text(encoding='utf-8'))
    references = {image['id']: [] for image in data['images'][:300]}
    for annotation in data['annotations']:
        if annotation['image_id'] in references:
            references[annotation['image_id']].append(annotation['caption'])
    rng, ids = np.random.default_rng(0), list(references)
    words = [word for captions in references.values() for word in captions[0].split()]
    said = [' '.join(rng.choice(words, size)) for size in rng.integers(0, 25, 100)]
    said += ['', 'dog', '.', ' '.join(rng.choice(words, 2000)), "It's the dog's (own) \"ball\" -- isn't it?", '-']
    said += [references[one][-1] for one in ids[len(said) + 1:]] + ['the end']
    write('coco.json', {'images': [{'id': one} for one in ids], 'annotations': [
        {'image_id': one, 'caption': caption} for one in ids for caption in references[one]]})
    write('said.json', [{'image_id': one, 'caption': caption} for one, caption in zip(ids, said, strict=True)])
    result, = report('said.json', 'coco.json', '--draws', 0, '--csv', 'images.csv')['results']
    expected = pycocoevalcap_scores(references, dict(zip(ids, said, strict=True)))
    for name, (score, each) in expected.items():
        assert result['scores'][name] == pytest.approx(score, abs=1e-4), name
        same = np.isclose([float(row[name]) for row in read_csv()], each, rtol=0, atol=1e-9)
        assert same.mean() > .98, name      # a few captions get other tokens, see corpus/tokenize.py


def pycocoevalcap_scores(references, captions):
    """name → (score, scores of each image)."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
    with contextlib.redirect_stdout(io.StringIO()):
        gts = PTBTokenizer().tokenize({one: [{'caption': text} for text in texts]
                                       for one, texts in references.items()})
        res = PTBTokenizer().tokenize({one: [{'caption': text}] for one, text in captions.items()})
        bleu, bleu_each = Bleu(4).compute_score(gts, res, verbose=0)
        return {**{f'Bleu_{n}': (bleu[n - 1], bleu_each[n - 1]) for n in range(1, 5)},
                'ROUGE_L': Rouge().compute_score(gts, res), 'CIDEr': Cider().compute_score(gts, res)}

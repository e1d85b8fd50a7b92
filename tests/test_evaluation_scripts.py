"""eval_sentence_predictions.py and predict_on_images.py, run as users run them."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from datasets import checkpoint_named, train_flags, write_tiny_dataset
from PIL import Image

import driver
import eval_sentence_predictions
import predict_on_images
from imagernn.captioning.evaluate import split_perplexity
from imagernn.corpus.captioned_images import getDataProvider
from imagernn.corpus.features import Features
from imagernn.metrics import caption_scores, caption_statistics, multi_bleu, per_image
from imagernn.runs.checkpoint_file import load_checkpoint, save_checkpoint

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp('trained')
    write_tiny_dataset(root)
    assert driver.main(train_flags(root, '--max_epochs', '15', '--solver', 'adam', '-l', '.02')) == 0
    return root


@pytest.fixture
def checkpoint(trained):
    return checkpoint_named(trained, '')


@pytest.fixture
def evaluate(trained, checkpoint, tmp_path):
    """Run the script on the trained checkpoint; gives its result_struct."""

    def run(*flags, checkpoint=checkpoint):
        result = tmp_path / 'result_struct.json'
        assert eval_sentence_predictions.main([str(checkpoint), '--data_root', str(trained),
                                               '--result_struct_filename', str(result), *flags]) == 0
        return json.loads(result.read_text(encoding='utf-8'))

    return run


def test_flags_have_the_originals_defaults():
    args = vars(eval_sentence_predictions.build_parser().parse_args(['c']))
    assert args.items() >= {'checkpoint_path': 'c', 'beam_size': 1, 'result_struct_filename': 'result_struct.json',
                            'max_images': -1, 'dump_folder': '', 'split': 'test'}.items()
    args = vars(predict_on_images.build_parser().parse_args(['c']))
    assert args.items() >= {'checkpoint_path': 'c', 'root_path': 'example_images', 'beam_size': 1}.items()


def test_the_result_struct_is_neuraltalks(evaluate, trained, checkpoint):
    result = evaluate()
    provider = getDataProvider('tiny', trained)
    images = list(provider.iterImages('test'))
    assert set(result) >= {'params', 'checkpoint_params', 'imgblobs', 'gtppl'}
    assert result['checkpoint_params']['generator'] == 'lstm'
    assert [blob['imgid'] for blob in result['imgblobs']] == [image['imgid'] for image in images]
    for blob, image in zip(result['imgblobs'], images, strict=True):
        assert blob['img_path'] == str(trained / 'tiny' / 'imgs' / image['filename'])
        assert [r['text'] for r in blob['references']] == [' '.join(s['tokens']) for s in image['sentences']]
        assert set(blob['candidate']) >= {'text', 'logprob'} and blob['candidate']['logprob'] < 0
        assert blob['candidate']['text']


def test_perplexity_and_scores_are_those_of_the_parts(evaluate, trained, checkpoint, capsys):
    result = evaluate('-b', '3')
    loaded = load_checkpoint(checkpoint)
    assert result['gtppl'] == split_perplexity(getDataProvider('tiny', trained), 'test', loaded['model'],
                                               loaded['params'], loaded['wordtoix'])
    candidates = [blob['candidate']['text'].split() for blob in result['imgblobs']]
    references = [[r['text'].split() for r in blob['references']] for blob in result['imgblobs']]
    assert result['scores'].items() >= caption_scores(candidates, references).items()
    out = capsys.readouterr().out
    assert str(multi_bleu(candidates, references)) in out and f'{result["gtppl"]:.4f}' in out


def test_each_image_has_its_own_scores(evaluate):
    blobs = evaluate()['imgblobs']
    each = per_image(caption_statistics([blob['candidate']['text'].split() for blob in blobs],
                                        [[r['text'].split() for r in blob['references']] for blob in blobs]))
    for name in 'Bleu_1', 'Bleu_2', 'Bleu_3', 'Bleu_4', 'ROUGE_L', 'CIDEr':
        assert [blob['scores'][name] for blob in blobs] == each[name].tolist()


def test_meteor_is_among_the_scores_where_it_can_be_had(evaluate, monkeypatch):
    monkeypatch.setattr(eval_sentence_predictions, 'meteor_statistics',
                        lambda candidates, references: np.ones((len(candidates), 6)))
    result = evaluate()
    assert [blob['scores']['METEOR'] for blob in result['imgblobs']] == [result['imgblobs'][0]['scores']['METEOR']] * 3
    assert result['scores']['METEOR'] > 0


def test_a_wider_beam_finds_likelier_sentences(evaluate):
    total = [sum(blob['candidate']['logprob'] for blob in evaluate('-b', beam)['imgblobs']) for beam in ('1', '8')]
    assert total[0] <= total[1]


def test_float64_agrees_with_float32(evaluate):
    one, other = evaluate('-b', '3'), evaluate('-b', '3', '--dtype', 'float64')
    assert one['gtppl'] == pytest.approx(other['gtppl'], rel=1e-5)
    for a, b in zip(one['imgblobs'], other['imgblobs'], strict=True):
        assert a['candidate']['text'] == b['candidate']['text']
        assert a['candidate']['logprob'] == pytest.approx(b['candidate']['logprob'], rel=1e-4)


def test_nbest_keeps_that_many_best_first(evaluate):
    for blob in evaluate('-b', '5', '--nbest', '4')['imgblobs']:
        logprobs = [found['logprob'] for found in blob['nbest']]
        assert len(logprobs) == 4 and logprobs == sorted(logprobs, reverse=True)
        assert blob['nbest'][0] == blob['candidate']


def test_sampling_repeats_with_its_seed(evaluate):
    def texts(seed):
        return [blob['candidate']['text'] for blob in evaluate('--temperature', '1', '--seed', seed)['imgblobs']]

    assert texts('1') == texts('1') != texts('2')


def test_captions_by_minimum_bayes_risk_are_repeatable_and_recorded(evaluate):
    flags = ['--mbr_samples', '12', '--nbest', '3']
    result = evaluate(*flags, '--seed', '1')
    assert result['params'].items() >= {'mbr_samples': 12, 'temperature': 1., 'seed': 1, 'nbest': 3}.items()
    for blob in result['imgblobs']:
        texts = [found['text'] for found in blob.get('nbest', [blob['candidate']])]
        assert texts[0] == blob['candidate']['text'] and 1 <= len(set(texts)) == len(texts) <= 3
    assert evaluate(*flags, '--seed', '1', '--num_threads', '2')['imgblobs'] == result['imgblobs']
    first, = evaluate(*flags, '--seed', '1', '-m', '1')['imgblobs']
    assert first['candidate'] == result['imgblobs'][0]['candidate']
    assert evaluate(*flags, '--temperature', '.5')['params']['temperature'] == .5


def test_max_images_and_split(evaluate):
    assert len(evaluate('-m', '2')['imgblobs']) == 2
    assert len(evaluate('--split', 'train')['imgblobs']) == 14


def test_coco_results_carry_the_official_ids(evaluate, trained, tmp_path):
    file = tmp_path / 'coco.json'
    result = evaluate('--coco_results', str(file))
    assert json.loads(file.read_text(encoding='utf-8')) == [
        {'image_id': blob['imgid'], 'caption': blob['candidate']['text']} for blob in result['imgblobs']]
    dataset = trained / 'tiny' / 'dataset.json'
    original = dataset.read_text(encoding='utf-8')
    changed = json.loads(original)
    for image in changed['images']:
        image['cocoid'] = 1000 + image['imgid']
    try:
        dataset.write_text(json.dumps(changed), encoding='utf-8')
        evaluate('--coco_results', str(file))
    finally:
        dataset.write_text(original, encoding='utf-8')
    assert [entry['image_id'] for entry in json.loads(file.read_text(encoding='utf-8'))] == [1017, 1018, 1019]


def test_pictures_are_dumped_and_missing_ones_counted(evaluate, trained, tmp_path, capsys):
    (trained / 'tiny' / 'imgs').mkdir(exist_ok=True)
    Image.new('RGB', (4, 4)).save(trained / 'tiny' / 'imgs' / '17.jpg')
    evaluate('-d', str(tmp_path / 'dump it'))
    assert [path.name for path in (tmp_path / 'dump it').iterdir()] == ['17.jpg']
    assert '1 pictures copied' in (out := capsys.readouterr().out) and '2 were not there' in out


class Page(HTMLParser):
    """What a page's elements hold: (tag, attributes) -> text, and its data."""

    def __init__(self, path):
        super().__init__()
        self.elements = []
        self.feed(path.read_text(encoding='utf-8'))
        self.data, = (json.loads(text) for _, attributes, text in self.elements if attributes.get('id') == 'data')
        self.captions = [image['captions'][0]['text'] for image in self.data['images']]

    def handle_starttag(self, tag, attributes):
        self.elements.append([tag, dict(attributes), ''])

    def handle_data(self, data):
        if self.elements:
            self.elements[-1][2] += data


def test_the_page_shows_every_picture_with_its_caption(evaluate, trained, tmp_path):
    folder = trained / 'tiny' / 'imgs'
    folder.mkdir(exist_ok=True)
    Image.new('RGB', (400, 300)).save(folder / '18.jpg')
    result = evaluate('--html', str(tmp_path / 'page.html'))
    page = Page(tmp_path / 'page.html')
    (folder / '18.jpg').unlink()
    assert page.captions == [blob['candidate']['text'] for blob in result['imgblobs']]
    assert page.data['images'][1]['picture'].startswith('data:image/jpeg;base64,')
    assert f'{folder / "19.jpg"}: is not there' in page.data['images'][2]['problem']
    assert page.data['images'][0]['references'] == [each['text'] for each in result['imgblobs'][0]['references']]


def test_it_ends_by_naming_the_command_that_shows_the_result(evaluate, trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = trained / 'tiny' / 'imgs'
    folder.mkdir(exist_ok=True)
    Image.new('RGB', (4, 4)).save(folder / '17.jpg')
    evaluate()
    said, _, command = capsys.readouterr().out.splitlines()[-1].partition(': ')
    assert said == 'to look at them' and command.endswith(f'{tmp_path / "result_struct.json"} --root {folder}')
    done = subprocess.run([sys.executable, *shlex.split(command)[1:], '--export', str(tmp_path / 'p.html')],
                          cwd=REPOSITORY)
    assert done.returncode == 0
    page = Page(tmp_path / 'p.html')
    assert len(page.captions) == 3 and page.data['images'][0]['picture']


def test_the_words_log_probabilities_add_up_to_the_captions(evaluate):
    for blob in evaluate('-b', '5', '--nbest', '4')['imgblobs']:
        for found in blob['nbest']:
            assert sum(found['word_logprobs']) == pytest.approx(found['logprob'], abs=1e-4)
            words = len(found['text'].split())
            assert len(found['word_logprobs']) == (words if words == 20 else words + 1)


def test_a_dump_folder_that_cannot_be_is_said_before_the_work(trained, checkpoint, tmp_path, capsys):
    (tmp_path / 'file').touch()
    assert eval_sentence_predictions.main([str(checkpoint), '--data_root', str(trained), '-d', str(tmp_path / 'file'),
                                           '--result_struct_filename', str(tmp_path / 'result.json')]) == 2
    assert str(tmp_path / 'file') in capsys.readouterr().err
    assert not (tmp_path / 'result.json').exists()


@pytest.mark.parametrize(('flags', 'words'), [
    (['--beam_size', '0'], ['--beam_size 0']),
    (['--beam_size', '1000000000'], ['--beam_size 1000000000']),
    (['--nbest', '3'], ['--nbest 3', '--beam_size']),
    (['--temperature', '-1'], ['--temperature -1']),
    (['--max_images', '0'], ['--max_images 0']),
    (['--split', 'nonsense'], ['nonsense', 'test (3 images)']),
    (['--dataset', 'absent'], ['absent', 'tiny']),
    (['--features', 'absent.npy'], ['absent.npy']),
    (['--result_struct_filename', '.'], ['is a folder']),
    (['--result_struct_filename', ''], ['the argument after --result_struct_filename is empty']),
    (['--coco_results', '../checkpoint/x/r.json'], ['../checkpoint/x/r.json']),
    (['--coco_results', './result_struct.json'], ['same file']),
    (['--temperature', '1', '-b', '3'], ['--temperature 1', '--beam_size 3']),
    (['--mbr_samples', '1'], ['--mbr_samples 1', 'from 2 to 1000']),
    (['--mbr_samples', '20', '-b', '3'], ['--mbr_samples 20', '--beam_size 3']),
    (['--mbr_samples', '4', '--nbest', '5'], ['--nbest 5', 'raise --mbr_samples']),
    (['--mbr_samples', '4', '--beam_kind', 'pool'], ['--beam_kind pool', 'drawn at random']),
    (['--temperature', '1', '--length_penalty', '.5'], ['--length_penalty 0.5', 'drawn at random']),
])
def test_a_mistake_is_a_message_and_exit_code_2(trained, checkpoint, tmp_path, monkeypatch, flags, words, capsys):
    (tmp_path / 'checkpoint').touch()
    (tmp_path / 'work').mkdir()
    monkeypatch.chdir(tmp_path / 'work')
    assert eval_sentence_predictions.main([str(checkpoint), '--data_root', str(trained), *flags]) == 2
    message = capsys.readouterr().err
    assert message.startswith('error: ') and all(word in message for word in words), message
    assert list((tmp_path / 'work').iterdir()) == []


@pytest.mark.parametrize('change', [
    lambda c: c['params'].pop('dataset'),
    lambda c: c['model'].update({name: np.full_like(w, 3e38) for name, w in c['model'].items()}),
])
def test_a_checkpoint_that_cannot_be_used_is_said(trained, checkpoint, tmp_path, change, capsys):
    loaded = load_checkpoint(checkpoint)
    change(loaded)
    save_checkpoint(tmp_path / 'bad.h5', loaded)
    with np.errstate(all='ignore'):
        assert eval_sentence_predictions.main([str(tmp_path / 'bad.h5'), '--data_root', str(trained), '-b', '2',
                                               '--result_struct_filename', str(tmp_path / 'r.json')]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith('error: ')
    assert not (tmp_path / 'r.json').exists()


def test_a_result_never_replaces_what_is_read(trained, checkpoint, capsys):
    member = trained / 'member.h5'
    shutil.copy(checkpoint, member)
    for path in checkpoint, member, trained / 'tiny' / 'dataset.json', trained / 'tiny' / 'vgg_feats.npy':
        before = path.read_bytes()
        assert eval_sentence_predictions.main([str(checkpoint), '--ensemble', str(member), '--data_root', str(trained),
                                               '--html', str(path)]) == 2
        assert str(path) in capsys.readouterr().err and path.read_bytes() == before


def test_results_are_written_before_anything_is_printed(trained, checkpoint, tmp_path):
    command = [sys.executable, str(REPOSITORY / 'eval_sentence_predictions.py'), str(checkpoint), '--data_root',
               str(trained), '--result_struct_filename', str(tmp_path / 'r.json')]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env={**os.environ, 'PYTHONUNBUFFERED': '1'}) as process:
        process.stdout.close()                                     # as when `head` has had enough
        process.wait()
    assert len(json.loads((tmp_path / 'r.json').read_text(encoding='utf-8'))['imgblobs']) == 3


def test_results_may_go_to_a_device(trained, checkpoint):
    assert eval_sentence_predictions.main([str(checkpoint), '--data_root', str(trained), '--result_struct_filename',
                                           '/dev/null']) == 0
    assert Path('/dev/null').is_char_device()


# predict_on_images.py

@pytest.fixture
def pictures(tmp_path):
    root = tmp_path / 'my pictures'
    root.mkdir()
    names = ['a b.jpg', '<b>&"x\'.png', 'ü 🙂.jpg']
    (root / 'tasks.txt').write_text('\ufeff' + '\r\n'.join(names) + '\r\n\r\n', encoding='utf-8')
    np.save(root / 'vgg_feats.npy', np.random.default_rng(0).random((3, 20), np.float32))
    return root, names


def test_predict_writes_struct_and_page(pictures, checkpoint, capsys):
    root, names = pictures
    assert predict_on_images.main([str(checkpoint), '-r', str(root), '-b', '2', '--nbest', '2']) == 0
    result = json.loads((root / 'result_struct.json').read_text(encoding='utf-8'))
    assert [blob['img_path'] for blob in result['imgblobs']] == names
    assert all(len(blob['nbest']) == 2 for blob in result['imgblobs'])
    out = capsys.readouterr().out
    assert all(f'{name}: {blob["candidate"]["text"]}\n' in out
               for name, blob in zip(names, result['imgblobs'], strict=True))
    page = Page(root / 'result.html')
    assert page.captions == [blob['candidate']['text'] for blob in result['imgblobs']]
    assert [image['name'] for image in page.data['images']] == names
    assert 'b' not in [tag for tag, _, _ in page.elements]
    assert out.splitlines()[-1] == f"to look at them: python -m imagernn view '{root / 'result_struct.json'}'"


def test_captions_are_text_in_the_page_never_markup(pictures, checkpoint, tmp_path):
    root, _ = pictures
    loaded = load_checkpoint(checkpoint)
    evil = {ix: f'<script>alert({ix})</script>"\'&' if ix else word for ix, word in loaded['ixtoword'].items()}
    loaded.update(ixtoword=evil, wordtoix={word: ix for ix, word in evil.items()})
    save_checkpoint(tmp_path / 'evil.h5', loaded)
    assert predict_on_images.main([str(tmp_path / 'evil.h5'), '-r', str(root)]) == 0
    page = Page(root / 'result.html')
    assert '<script>alert(' in page.captions[0]
    assert not any('alert(' in text for _, attributes, text in page.elements if attributes.get('id') != 'data')


@pytest.mark.parametrize('count', [2, 4])
def test_more_or_fewer_pictures_than_features_is_said(pictures, checkpoint, count, capsys):
    root, _ = pictures
    np.save(root / 'vgg_feats.npy', np.ones((count, 20), np.float32))
    assert predict_on_images.main([str(checkpoint), '-r', str(root)]) == 2
    message = capsys.readouterr().err
    assert 'lists 3 pictures' in message and f'features of {count}' in message
    assert not (root / 'result_struct.json').exists()


def test_features_of_another_size_are_said(pictures, checkpoint, capsys):
    root, _ = pictures
    np.save(root / 'vgg_feats.npy', np.ones((3, 21), np.float32))
    assert predict_on_images.main([str(checkpoint), '-r', str(root)]) == 2
    assert 'size 21' in (message := capsys.readouterr().err) and 'size 20' in message


@pytest.mark.parametrize('break_it', [
    lambda root: (root / 'tasks.txt').unlink(),
    lambda root: (root / 'tasks.txt').write_text('\n'),
    lambda root: (root / 'tasks.txt').write_bytes(b'\xff.jpg'),
    lambda root: (root / 'vgg_feats.npy').unlink(),
    lambda root: (root / 'vgg_feats.npy').write_bytes(b'\x93NUMPY'),
    lambda root: np.save(root / 'vgg_feats.npy', np.full((3, 20), np.nan)),
])
def test_a_broken_folder_is_a_message_and_exit_code_2(pictures, checkpoint, break_it, capsys):
    root, _ = pictures
    break_it(root)
    assert predict_on_images.main([str(checkpoint), '-r', str(root)]) == 2
    message = capsys.readouterr().err
    assert message.splitlines()[-1].startswith('error: ') and str(root) in message
    assert not (root / 'result_struct.json').exists() and not (root / 'result.html').exists()


@pytest.mark.parametrize('variant', ['lstm_tanhC', 'rnn_relu'])
def test_a_checkpoint_of_the_original_captions_its_example_images(variant, tmp_path):
    shared = REPOSITORY.parent / 'shared'
    pickled = shared / 'golden' / 'neuraltalk' / f'original_checkpoint_{variant}.p'
    if not pickled.is_file():
        pytest.skip('no shared folder beside the checkout with golden/neuraltalk')
    for name in 'tasks.txt', 'vgg_feats.mat':
        shutil.copyfile(shared / 'data' / 'example_images' / name, tmp_path / name)
    assert predict_on_images.main([str(pickled), '-r', str(tmp_path), '-b', '3']) == 0
    result = json.loads((tmp_path / 'result_struct.json').read_text(encoding='utf-8'))
    assert len(result['imgblobs']) == 16 and all(blob['candidate']['text'] for blob in result['imgblobs'])


@pytest.mark.parametrize('name', ['eval_sentence_predictions.py', 'predict_on_images.py'])
def test_the_scripts_end_with_2_and_without_a_traceback(name, tmp_path):
    (tmp_path / 'foreign.h5').write_bytes(b'GIF89a')
    for checkpoint in 'absent.h5', 'foreign.h5':
        done = subprocess.run([sys.executable, str(REPOSITORY / name), checkpoint], cwd=tmp_path, capture_output=True,
                              text=True)
        assert done.returncode == 2
        assert done.stderr.startswith('error: ') and checkpoint in done.stderr and 'Traceback' not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ['foreign.h5']


# ---- ensembles

def test_an_ensemble_of_checkpoints_in_both_scripts(evaluate, trained, tmp_path, capsys):
    assert driver.main(train_flags(trained, '--fappend', 'other', '--generator', 'rnn', '--seed', '1')) == 0
    other = checkpoint_named(trained, '_other_last')
    alone = evaluate('-b', '3')
    result = evaluate('-b', '3', '--ensemble', str(other), '--beam_kind', 'pool', '--length_penalty', '.5')
    assert result['params'].items() >= {'ensemble': [str(other)], 'beam_kind': 'pool', 'length_penalty': .5}.items()
    assert result['gtppl'] != alone['gtppl']
    assert result['imgblobs'][0]['candidate']['logprob'] != alone['imgblobs'][0]['candidate']['logprob']

    folder = tmp_path / 'photos'
    folder.mkdir()
    (folder / 'tasks.txt').write_text('a.jpg\nb.jpg\n', encoding='utf-8')
    np.save(folder / 'vgg_feats.npy', np.load(trained / 'tiny' / 'vgg_feats.npy')[-2:])
    capsys.readouterr()
    assert predict_on_images.main([str(checkpoint_named(trained, '_test_last')), '-r', str(folder), '--ensemble',
                                   str(other)]) == 0
    assert capsys.readouterr().out.count('.jpg: ') == 2


def test_an_ensemble_needs_one_vocabulary(trained, checkpoint, tmp_path, capsys):
    assert driver.main(train_flags(trained, '--fappend', 'few', '--word_count_threshold', '9')) == 0
    other = checkpoint_named(trained, '_few_last')
    assert eval_sentence_predictions.main([str(checkpoint), '--data_root', str(trained), '--ensemble', str(other),
                                           '--result_struct_filename', str(tmp_path / 'r.json')]) == 2
    err = capsys.readouterr().err
    assert str(other) in err and 'has another vocabulary' in err


# ---- an evaluation that is stopped

def test_a_stopped_evaluation_writes_the_captions_that_it_has(trained, checkpoint, tmp_path, monkeypatch, capsys):
    result, page = tmp_path / 'r.json', tmp_path / 'r.html'
    rows = Features.rows

    def stopping(self, imgids, dtype):
        os.kill(os.getpid(), signal.SIGTERM)
        return rows(self, imgids, dtype)

    monkeypatch.setattr(Features, 'rows', stopping)
    assert eval_sentence_predictions.main([str(checkpoint), '--data_root', str(trained), '--html', str(page),
                                           '--result_struct_filename', str(result), '--num_threads', '1']) == 143
    found = json.loads(result.read_text(encoding='utf-8'))
    assert len(found['imgblobs']) == 1 and 'scores' not in found and page.is_file()
    assert 'stopped: 1 of the 3 images have captions, without scores' in capsys.readouterr().err


def test_scores_that_fail_do_not_cost_the_captions(trained, checkpoint, tmp_path, monkeypatch):
    result = tmp_path / 'r.json'
    monkeypatch.setattr(eval_sentence_predictions, 'score', lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    assert eval_sentence_predictions.main([str(checkpoint), '--data_root', str(trained),
                                           '--result_struct_filename', str(result)]) == 130
    assert len(json.loads(result.read_text(encoding='utf-8'))['imgblobs']) == 3

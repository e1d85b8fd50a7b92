"""Score captions against what people said of the same images; compare systems, and say how sure it is.

    python eval/score_captions.py RESULTS.json [MORE.json …] REFERENCES [MORE …]

    python eval/score_captions.py captions.json captions_val2014.json              # COCO's results and annotations
    python eval/score_captions.py beam1.json beam5.json data/flickr8k/dataset.json --split test
    python eval/score_captions.py result_struct.json                               # with the references that it holds
    python eval/score_captions.py said.txt ref0.txt ref1.txt ref2.txt              # a caption a line

What a file is stands in it: results are COCO's format or result_struct.json, references COCO's annotations or a
dataset.json, and plain text either (see --references). Several results are compared with the first of them, image by
image. eval/README.md says what each score measures, and where the traps are.
"""

import argparse
import csv
import io
import os
import sys
from pathlib import Path

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))    # a checkout need not be installed

import imagernn.nn.blas  # noqa: F401  before numpy

# isort: split
from imagernn.corpus.tokenize import tokenize
from imagernn.errors import InputError, command, script
from imagernn.formats.caption_files import align, read_captions, read_training
from imagernn.formats.json_files import write_json
from imagernn.formats.writing import refuse_to_replace, require_writable, write_text
from imagernn.metrics import MeteorUnavailable, caption_statistics, compare, intervals, per_image, scores_of

LABELS = {'ROUGE_L': 'ROUGE-L', 'CIDEr': 'CIDEr-D', 'CIDEr_plain': 'CIDEr'}    # pycocoevalcap's name, and what it is
MAX_DRAWS = 1_000_000
CONTROLS = {code: ' ' for code in (*range(32), 127)}    # such as NUL, at which many readers of CSV stop
FORMULA = tuple('=+-@＝＋－＠')    # what a spreadsheet takes for the beginning of a formula


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__.replace('python eval/score_captions.py', command('score')),
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('files', nargs='+', metavar='FILE', help='results, one or more, and references')
    add('--references', nargs='+', default=[], metavar='FILE',
        help='references, named as such: then the files before are all results. Without it, plain text files are '
             'references beside results in JSON, results beside references in JSON, and among themselves the first is '
             'the results')
    add('--split', help='of a dataset.json (test)')
    add('--tokenizer', choices=('ptb', 'karpathy', 'none'), default='ptb',
        help="ptb: as the official COCO evaluation; karpathy: NeuralTalk's, letters and digits alone; none: words are "
             'what white space separates (ptb)')
    add('--meteor', action='store_true', help='METEOR too: needs Java and the extra [metrics], and a minute or so for '
                                              '10,000 images')
    add('--training', nargs='+', default=[], metavar='FILE',
        help='captions that the system was trained on, to tell how many of its own are novel: as references come, of a '
             'dataset.json the split train')
    add('--allow_missing', action='store_true', help='score the images that all files have, and say how many are not')
    add('--json', metavar='OUT', help='write all of it to this file')
    add('--csv', metavar='OUT', help="write each image's scores to this file; a caption that a spreadsheet would take "
                                     'for a formula gets an apostrophe in front')
    add('--level', type=float, default=0.95, help='how often an interval is to cover the true score (0.95)')
    add('--draws', type=int, default=1000, help='of the bootstrap; 0: no intervals (1000)')
    add('--seed', type=int, default=0, help='of the bootstrap (0)')
    return parser


@script
def main(argv=None):
    args = build_parser().parse_intermixed_args(argv)
    check_flags(args)
    results, references = read_captions(args.files, args.references, args.split)
    captions, reference_captions, ids, notes = align(results, references, args.allow_missing)
    candidates = [tokenize(some, args.tokenizer) for some in captions]
    reference_tokens = tokenize_lists(reference_captions, args.tokenizer)
    training = {' '.join(tokens) for tokens in tokenize(read_training(args.training), args.tokenizer)}
    statistics = [statistics_of(some, reference_tokens, args.meteor) for some in candidates]

    report = {'references': references.path, 'images': len(ids), 'tokenizer': args.tokenizer, 'notes': notes,
              'level': args.level, 'draws': args.draws, 'seed': args.seed,
              'reference_captions': facts([tokens for image in reference_tokens for tokens in image], training),
              'results': [{'file': some.path, **facts(tokens, training), 'scores': scores_of(counted)}
                          for some, tokens, counted in zip(results, candidates, statistics, strict=True)]}
    if args.draws:
        add_how_sure(report, statistics, (args.level, args.draws, args.seed))
    if args.json:
        write_json(args.json, report)
    if args.csv:
        write_text(args.csv, images_csv(results, ids, captions, candidates, statistics))
    print('\n'.join(table(report)))
    if args.json or args.csv:
        print(f'\nwritten: {", ".join(path for path in (args.json, args.csv) if path)}')
    return 0


def check_flags(args):
    """InputError for flags that cannot be, before anything is read."""
    if not 0 < args.level < 1:
        raise InputError(f'--level {args.level}: must lie between 0 and 1, such as 0.95')
    if not 0 <= args.draws <= MAX_DRAWS:
        raise InputError(f'--draws {args.draws}: must be from 0, which is no intervals, to {MAX_DRAWS}')
    if args.seed < 0:
        raise InputError(f'--seed {args.seed}: must be at least 0')
    for flag, path in ('--json', args.json), ('--csv', args.csv):
        if path == '':
            raise InputError(f'{flag}: is empty; name the file to write')
    outputs = [path for path in (args.json, args.csv) if path]
    if len({os.path.realpath(path) for path in outputs}) < len(outputs):
        raise InputError(f'two results would go to the same file: {", ".join(outputs)}; give each its own')
    refuse_to_replace([*args.files, *args.references, *args.training], outputs)
    for path in outputs:
        require_writable(path)


def tokenize_lists(captions, tokenizer):
    """n lists of captions -> n lists of token lists."""
    tokens = iter(tokenize([caption for image in captions for caption in image], tokenizer))
    return [[next(tokens) for _ in image] for image in captions]


def statistics_of(candidates, references, with_meteor):
    try:
        return caption_statistics(candidates, references, with_meteor)
    except MeteorUnavailable as reason:
        raise InputError(f'--meteor: {reason}') from None


def facts(captions, training):
    """What token lists are like, whatever is true of the images. Without training captions, nothing is said of novelty.

    length: mean number of tokens; vocabulary: different tokens; distinct: different captions, as a share of all; novel:
    share of the captions that are not among those of training.
    """
    sentences = [' '.join(tokens) for tokens in captions]
    found = {'captions': len(captions), 'empty': sentences.count(''),
             'length': sum(map(len, captions)) / len(captions),
             'vocabulary': len({token for tokens in captions for token in tokens}),
             'distinct': len(set(sentences)) / len(sentences)}
    if training:
        found['novel'] = sum(sentence not in training for sentence in sentences) / len(sentences)
    return found


def add_how_sure(report, statistics, options):
    """Add to each of the results its 'intervals', and to all but the first how they differ 'against_first'."""
    for some, counted in zip(report['results'], statistics, strict=True):
        some['intervals'] = intervals(counted, *options)
    for some, found in zip(report['results'][1:], compare(statistics, *options), strict=True):
        some['against_first'] = {name: comparison._asdict() for name, comparison in found.items()}


# ---- the table

def table(report):
    """The lines to print: what was scored, what the captions are like, the scores. At most 120 columns of figures."""
    references, results = report['reference_captions'], report['results']
    lines = [f'{report["images"]:,} images, {references["captions"]:,} references of {report["references"]}, '
             f'tokenizer {report["tokenizer"]}', *report['notes'], '']
    heading = f'{"":12}{"captions":>10}{"empty":>8}{"length":>8}{"vocabulary":>12}{"distinct":>10}'
    lines.append(heading + (f'{"novel":>9}' if 'novel' in references else ''))
    lines.append(facts_line('references', references))
    lines += [f'{facts_line(str(number), some)}   {some["file"]}' for number, some in enumerate(results, start=1)]
    interval = f'{100 * report["level"]:g} % interval'
    heading = f'{"score, x 100":14}{"of":>4}{"":9}'
    if report['draws']:
        heading += f'{interval:>20}' + (f'{"difference from 1":>20}{interval:>20}{"p":>9}' if len(results) > 1 else '')
    lines += ['', heading.rstrip()]
    for name in results[0]['scores']:
        for number, some in enumerate(results, start=1):
            label = LABELS.get(name, name.replace('Bleu_', 'BLEU-').replace('multi_bleu_', 'multi-bleu-'))
            lines.append(score_line(label if number == 1 else '', number, name, some))
    return lines


def facts_line(label, found):
    novel = f'{100 * found["novel"]:7.1f} %' if 'novel' in found else ''
    return (f'{label:12}{found["captions"]:10,}{found["empty"]:8,}{found["length"]:8.2f}{found["vocabulary"]:12,}'
            f'{100 * found["distinct"]:8.1f} %{novel}')


def score_line(label, number, name, some):
    scale = 1 if name.startswith('multi_bleu') else 100    # as in NeuralTalk: it is percent already
    line = f'{label:14}{number:>4}{scale * some["scores"][name]:9.2f}'
    if 'intervals' in some:
        line += spread(*some['intervals'][name], scale)
    if 'against_first' in some:
        found = some['against_first'][name]
        line += f'{scale * found["difference"]:+20.2f}{spread(found["low"], found["high"], scale)}{found["p"]:9.4f}'
    return line


def spread(low, high, scale):
    return f'{scale * low:9.2f} to {scale * high:7.2f}'


# ---- each image

def images_csv(results, ids, captions, candidates, statistics):
    """A line for each image of each of the results. length: in tokens; scores: names and units as in scores_of."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator='\n')
    for number, (some, said, tokens, counted) in enumerate(zip(results, captions, candidates, statistics, strict=True)):
        scores = per_image(counted)
        if number == 0:
            writer.writerow(['results', 'id', 'caption', 'length', *scores])
        columns = zip(*(score.tolist() for score in scores.values()), strict=True)
        for one, caption, words, row in zip(ids, said, tokens, columns, strict=True):
            writer.writerow([as_text(some.path), as_text(one), as_text(caption), len(words), *row])
    return out.getvalue()


def as_text(value):
    """A value on one line that a spreadsheet shows and never computes: what looks like a formula gets an apostrophe."""
    line = ' '.join(str(value).translate(CONTROLS).split())
    return f"'{line}" if line.startswith(FORMULA) else line


if __name__ == '__main__':
    sys.exit(main())

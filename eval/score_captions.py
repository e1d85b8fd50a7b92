"""Score captions against reference captions of the same images, with confidence intervals, and compare systems.

    python eval/score_captions.py RESULTS [MORE RESULTS …] REFERENCES [MORE REFERENCES …] [FLAGS]

    python eval/score_captions.py captions.json captions_val2014.json                # COCO's results and annotations
    python eval/score_captions.py beam1.json beam5.json data/flickr8k/dataset.json   # compare two systems
    python eval/score_captions.py result_struct.json                                 # with the references inside it
    python eval/score_captions.py captions.txt ref0.txt ref1.txt ref2.txt            # plain text, one caption per line

Each file is recognized by its content. Results are a list in COCO's results format or a result_struct.json; references
are COCO's annotations, a dataset.json, or a table such as Kaggle's; plain text can be either (see --references). If
there are several files of results, each is compared with the first. The output is a table; eval/README.md explains its
columns and scores.
"""

import argparse
import csv
import io
import os
import sys
from pathlib import Path

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))    # a checkout need not be installed

from imagernn.corpus.tokenize import TOKENIZERS, notes_on_letters, tokenize
from imagernn.errors import InputError, command, loading, script


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__.replace('python eval/score_captions.py', command('score')),
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument_group('data').add_argument
    add('files', nargs='+', metavar='FILE', help='Files of results and files of references, one or more of each.')
    add('--references', nargs='+', default=[], metavar='FILE',
        help='Files of references; the files before this flag are then all results. Use it where plain text could be '
             'either. Without it, plain text counts as references beside JSON results and as results beside JSON '
             'references; if all files are plain text, the first holds the results.')
    add('--split', help='The split of a dataset.json that the references come from (default: test). Use val while you '
                        'choose settings.')
    add('--allow_missing', action='store_true',
        help='Score only the images that all files contain and report how many are left out. Without it, an image that '
             "is missing in one file is an error; but results may cover a part of the images of COCO's annotations, as "
             'in the official evaluation.')
    add('--training', nargs='+', default=[], metavar='FILE',
        help='Captions that the system was trained on, in the formats of references. Use it to see which share of the '
             'captions is novel. Of a dataset.json, the split train is read.')

    add = parser.add_argument_group('scores').add_argument
    add('--tokenizer', choices=tuple(TOKENIZERS), default='ptb',
        help='How captions are split into words (default: ptb). ptb does it as the official COCO evaluation does: use '
             "it for any score that you publish. karpathy keeps only a to z, digits, # and &, as in Karpathy's data "
             'sets. words keeps letters and digits of every script; each Chinese or Japanese character is a word. none '
             'splits at white space: use it for captions that are tokenized already.')
    add('--meteor', action='store_true',
        help='Compute METEOR too. It needs Java and the extra [metrics], and about a minute for 10,000 images.')

    add = parser.add_argument_group('confidence intervals').add_argument
    add('--level', type=float, default=0.95,
        help='The share of intervals that contain the true score (default: 0.95). A higher level gives wider ones.')
    add('--draws', type=int, default=1000,
        help='The number of bootstrap draws (default: 1000). 0 computes no intervals, which is faster. Use more for '
             'intervals that depend less on the seed, or for a p below 0.001.')
    add('--seed', type=int, default=0,
        help='The seed of the draws (default: 0). Change it to see how much the intervals depend on the draws.')

    add = parser.add_argument_group('output').add_argument
    add('--json', metavar='OUT', help='Write all results to this JSON file, unrounded.')
    add('--csv', metavar='OUT', help='Write the scores of each image to this CSV file. A caption that a spreadsheet '
                                     'would take for a formula gets an apostrophe in front.')
    return parser


with loading(__name__, build_parser):    # --help does not wait for these
    from imagernn.formats.caption_files import align, parse, read_captions, read_training
    from imagernn.formats.json_files import write_json
    from imagernn.formats.writing import refuse_to_replace, require_writable, write_text
    from imagernn.metrics import MeteorUnavailable, caption_statistics, compare, intervals, per_image, scores_of

LABELS = {'ROUGE_L': 'ROUGE-L', 'CIDEr': 'CIDEr-D', 'CIDEr_plain': 'CIDEr'}    # pycocoevalcap's name: printed name
MAX_DRAWS = 1_000_000
CONTROLS = {code: ' ' for code in (*range(32), 127)}    # many CSV readers stop at NUL, for example
FORMULA = tuple('=+-@＝＋－＠')    # a spreadsheet takes these for the start of a formula


@script
def main(argv=None):
    args = build_parser().parse_intermixed_args(argv)
    check_flags(args)
    results, references = read_captions(args.files, args.references, args.split)
    captions, reference_captions, ids, notes = align(results, references, args.allow_missing)
    candidates = [tokenize(some, args.tokenizer) for some in captions]
    reference_tokens = tokenize_lists(reference_captions, args.tokenizer)
    notes += notes_on_letters([text for some in [*captions, *reference_captions] for text in some],
                              [tokens for some in [*candidates, *reference_tokens] for tokens in some], args.tokenizer)
    training = {' '.join(tokens) for tokens in tokenize(read_training(args.training), args.tokenizer)}
    statistics = [statistics_of(some, reference_tokens, args.meteor) for some in candidates]
    made_by = [flags_of(some.path) if args.json else {} for some in results]

    report = {'references': references.path, 'images': len(ids), 'tokenizer': args.tokenizer, 'notes': notes,
              'level': args.level, 'draws': args.draws, 'seed': args.seed,
              'reference_captions': facts([tokens for image in reference_tokens for tokens in image], training),
              'results': [{'file': some.path, **flags, **facts(tokens, training), 'scores': scores_of(counted)}
                          for some, flags, tokens, counted in zip(results, made_by, candidates, statistics,
                                                                  strict=True)]}
    if args.draws:
        add_intervals(report, statistics, (args.level, args.draws, args.seed))
    if args.json:
        write_json(args.json, report)
    if args.csv:
        write_text(args.csv, images_csv(results, ids, captions, candidates, statistics))
    print('\n'.join(table(report)))
    if args.json or args.csv:
        print(f'\nwritten: {", ".join(path for path in (args.json, args.csv) if path)}')
    return 0


def check_flags(args):
    """Raise InputError for invalid flags and for outputs that cannot be written, before anything is read."""
    if not 0 < args.level < 1:
        raise InputError(f'--level {args.level}: must be between 0 and 1, for example 0.95')
    if not 0 <= args.draws <= MAX_DRAWS:
        raise InputError(f'--draws {args.draws}: must be between 0 (no intervals) and {MAX_DRAWS}')
    if args.seed < 0:
        raise InputError(f'--seed {args.seed}: must be at least 0')
    for flag, path in ('--json', args.json), ('--csv', args.csv):
        if path == '':
            raise InputError(f'{flag}: the file name is empty; name the file to write')
    outputs = [path for path in (args.json, args.csv) if path]
    if len({os.path.realpath(path) for path in outputs}) < len(outputs):
        raise InputError(f'--json {args.json} and --csv {args.csv} are the same file; give each its own')
    refuse_to_replace([*args.files, *args.references, *args.training], outputs)
    for path in outputs:
        require_writable(path)


def tokenize_lists(captions, tokenizer):
    """n lists of captions -> n lists of token lists. All captions are tokenized together, as the tokenizers ask."""
    tokens = iter(tokenize([caption for image in captions for caption in image], tokenizer))
    return [[next(tokens) for _ in image] for image in captions]


def statistics_of(candidates, references, with_meteor):
    """caption_statistics, where METEOR that cannot be computed is the user's mistake."""
    try:
        return caption_statistics(candidates, references, with_meteor)
    except MeteorUnavailable as reason:
        raise InputError(f'--meteor: {reason}') from None


def flags_of(path):
    """{'params': the flags of the command that wrote a result_struct.json, with those of its search}; else {}."""
    kind, contents = parse(path) if Path(path).is_file() else (None, None)    # a pipe cannot be read again
    return {'params': contents['params']} if kind == 'result_struct' and 'params' in contents else {}


def facts(captions, training):
    """Statistics of captions by themselves, without references: name → number.

    captions: token lists; training: a set of captions, as strings of tokens joined by spaces. The names are captions
    and empty (how many there are), length (mean number of tokens), vocabulary (number of different tokens), distinct
    (different captions as a share of all) and, if training is not empty, novel (share of captions not in training).
    """
    sentences = [' '.join(tokens) for tokens in captions]
    found = {'captions': len(captions), 'empty': sentences.count(''),
             'length': sum(map(len, captions)) / len(captions),
             'vocabulary': len({token for tokens in captions for token in tokens}),
             'distinct': len(set(sentences)) / len(sentences)}
    if training:
        found['novel'] = sum(sentence not in training for sentence in sentences) / len(sentences)
    return found


def add_intervals(report, statistics, options):
    """Change report: add 'intervals' to each of its results, and 'against_first' to all but the first.

    statistics: the CaptionStatistics of each; options: level, draws and seed.
    """
    for some, counted in zip(report['results'], statistics, strict=True):
        some['intervals'] = intervals(counted, *options)
    for some, found in zip(report['results'][1:], compare(statistics, *options), strict=True):
        some['against_first'] = {name: comparison._asdict() for name, comparison in found.items()}


# ---- the table

def table(report):
    """The lines to print: what was scored, statistics of the captions, and the scores. At most 120 columns wide."""
    references = report['reference_captions']
    results = report['results']
    lines = [f'{report["images"]:,} images, {references["captions"]:,} references from {report["references"]}, '
             f'tokenizer {report["tokenizer"]}', *report['notes'], '']
    heading = f'{"":12}{"captions":>10}{"empty":>8}{"length":>8}{"vocabulary":>12}{"distinct":>10}'
    lines.append(heading + (f'{"novel":>9}' if 'novel' in references else ''))
    lines.append(facts_line('references', references))
    lines += [f'{facts_line(str(number), some)}   {some["file"]}' for number, some in enumerate(results, start=1)]
    interval = f'{100 * report["level"]:g} % interval'
    heading = f'{"score, x 100":14}{"file":>4}{"":9}'
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
    scale = 1 if name.startswith('multi_bleu') else 100    # as in NeuralTalk: in percent already
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
    """CSV text with a line for each image of each of the results. length is in tokens; scores are as in scores_of."""
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
    """A value as one line of text that no spreadsheet executes: what looks like a formula gets an apostrophe."""
    line = ' '.join(str(value).translate(CONTROLS).split())
    return f"'{line}" if line.startswith(FORMULA) else line


if __name__ == '__main__':
    sys.exit(main())

"""Score translations by corpus BLEU, with intervals: imagernn score-translations HYPOTHESES REFERENCES [MORE …]"""

import argparse
import sys

from imagernn.errors import InputError, loading, script

MAX_DRAWS = 1_000_000


def build_parser():
    parser = argparse.ArgumentParser(
        prog='imagernn score-translations',
        description='Score translations by corpus BLEU, as sacrebleu computes it with --tokenize none. All files are '
                    'text in UTF-8, one sentence a line, and words are what spaces separate.')
    add = parser.add_argument_group('data').add_argument
    add('hypotheses', metavar='HYPOTHESES', help='The translations to score; - reads them from standard input.')
    add('references', metavar='REFERENCES', nargs='+',
        help='Translations by people, line n of the same sentence as line n of the hypotheses. Give several files if '
             'each sentence has several.')
    add('--compare', metavar='FILE', nargs='+', default=[],
        help='Translations of the same sentences by other systems. Each is compared with HYPOTHESES.')
    add('--lower_case', action='store_true',
        help='Read everything in lower case. Give it if the translations are in lower case and the references are not.')

    add = parser.add_argument_group('confidence intervals').add_argument
    add('--level', type=float, default=0.95,
        help='The share of intervals that contain the true score (default: 0.95). A higher level gives wider ones.')
    add('--draws', type=int, default=1000,
        help='The number of bootstrap draws (default: 1000). 0 computes no intervals. Use more for intervals that '
             'depend less on the seed, or for a p below 0.001.')
    add('--seed', type=int, default=0, help='The seed of the draws (default: 0).')

    add = parser.add_argument_group('output').add_argument
    add('--json', metavar='OUT', help='Write all results to this JSON file, unrounded.')
    return parser


with loading(__name__, build_parser):    # --help does not wait for these
    from imagernn.formats.json_files import write_json
    from imagernn.formats.writing import refuse_to_replace, require_writable
    from imagernn.metrics.bleu import bleu_counts, corpus_bleu_of, translation_bleu
    from imagernn.metrics.bootstrap import compare_rows, intervals_of_rows
    from imagernn.metrics.ngrams import count_ngrams, read_captions
    from imagernn.translation.lines import lines_of_file


@script
def main(argv=None):
    args = build_parser().parse_intermixed_args(argv)
    check_flags(args)
    systems = [args.hypotheses, *args.compare]
    words = read_words([*systems, *args.references], args.lower_case)
    references = list(map(list, zip(*words[len(systems):], strict=True)))
    counts = []    # of each system, (n, 10)
    for candidates in words[:len(systems)]:
        captions = read_captions(candidates, references)
        counts.append(bleu_counts(captions, count_ngrams(captions)))
    report = {'references': args.references, 'sentences': len(references), 'lower_case': args.lower_case,
              'level': args.level, 'draws': args.draws, 'seed': args.seed,
              'results': [{'file': path, **corpus_bleu_of(rows.sum(axis=0))._asdict()}
                          for path, rows in zip(systems, counts, strict=True)]}
    if args.draws and len(references) > 1:    # a single sentence says nothing about others
        add_intervals(report, counts, (args.level, args.draws, args.seed))
    if args.json:
        write_json(args.json, report)
    for result in report['results']:
        print(summary(result, report))
    return 0


def check_flags(args):
    """Raise InputError for invalid flags and for an output that cannot be written, before anything is read."""
    if not 0 < args.level < 1:
        raise InputError(f'--level {args.level}: must be between 0 and 1, for example 0.95')
    if not 0 <= args.draws <= MAX_DRAWS:
        raise InputError(f'--draws {args.draws}: must be between 0 (no intervals) and {MAX_DRAWS}')
    if args.seed < 0:
        raise InputError(f'--seed {args.seed}: must be at least 0')
    files = [args.hypotheses, *args.references, *args.compare]
    if files.count('-') > 1:
        raise InputError('- is given more than once, but standard input can be read once; name files for the others')
    if args.json is not None:
        refuse_to_replace(files, [args.json])
        require_writable(args.json)


def read_words(paths, lower_case):
    """The sentences of each file, lists of words. InputError unless all files have equally many lines, one or more."""
    files = [lines_of_file(path) for path in paths]
    for path, lines in zip(paths, files, strict=True):
        if not lines:
            raise InputError(f'{path}: is empty; expected sentences, one a line')
        if len(lines) != len(files[-1]):
            raise InputError(f'{path} has {len(lines):,} lines, but {paths[-1]} has {len(files[-1]):,}; line n of both '
                             'must belong to the same sentence, and an empty translation is an empty line')
    return [[(line.lower() if lower_case else line).split() for line in lines] for lines in files]


def add_intervals(report, counts, options):
    """Change report: add 'interval' to each of its results, and 'against_first' to all but the first.

    counts: of each system, rows of bleu_counts; options: level, draws and seed.
    """
    for result, rows in zip(report['results'], counts, strict=True):
        result['interval'] = intervals_of_rows(rows, scores_of, *options)['bleu']
    for result, found in zip(report['results'][1:], compare_rows(counts, scores_of, *options), strict=True):
        result['against_first'] = found['bleu']._asdict()


def scores_of(sums, sentences):
    """The scores of the bootstrap, name → (...), of sums of rows of bleu_counts, (..., 10)."""
    return {'bleu': translation_bleu(sums)}


def summary(result, report):
    """The line to print about a system: BLEU with its parts and interval, and the difference from the first system."""
    level, several = f'{100 * report["level"]:g} % interval', len(report['results']) > 1
    precisions = '/'.join(f'{precision:.1f}' for precision in result['precisions'])
    parts = [precisions, f'brevity penalty {result["brevity_penalty"]:.3f}']
    if 'interval' in result:
        low, high = result['interval']
        parts.append(f'{level} {low:.1f} to {high:.1f}')
    line = f'{result["file"]}: ' if several else ''
    line += f'BLEU = {result["bleu"]:.1f} ({", ".join(parts)})'
    if 'against_first' in result:
        found = result['against_first']
        line += (f'; {found["difference"]:+.1f} against {report["results"][0]["file"]} ({level} {found["low"]:+.1f} to '
                 f'{found["high"]:+.1f}, p = {found["p"]:.4f})')
    return line


if __name__ == '__main__':
    sys.exit(main())

"""Translate lines of text with a trained model: imagernn translate CHECKPOINT [CHECKPOINT …] < text.fr

Reads standard input, writes standard output, line by line in order. Several checkpoints are an ensemble.
"""

import argparse
import itertools
import sys

from imagernn.errors import InputError, loading, script
from imagernn.runs.flags import HelpWithDefaults
from imagernn.translation.flags import add_search_flags, check_search_flags

EXAMPLES = 5    # of unknown words, in the warning


def build_parser():
    parser = argparse.ArgumentParser(prog='imagernn translate', formatter_class=HelpWithDefaults,
                                     description='Translate standard input, a sentence on each line, to standard '
                                                 'output. An empty line stays empty.')
    parser.add_argument('checkpoint_paths', metavar='CHECKPOINT', nargs='+',
        help='A checkpoint that train-translator wrote. Give several, trained on the same files from several seeds, to '
             'average their probabilities at each word: they translate better, and take longer.')
    add_search_flags(parser)

    add = parser.add_argument_group('output').add_argument
    add('--nbest', type=int, default=None, metavar='N',
        help='Write the N best translations of each line, at most --beam_size, in place of the best alone. Each is a '
             'line of three fields, separated by tabs: the number of the source line, from 1; the score, which is the '
             'sum of ln p divided by length ** length_penalty; the translation.')
    add('--batch_size', type=int, default=64,
        help='How many lines are read before they are translated together and written. Give 1 where another program '
             'waits for each translation. At a terminal it is 1.')
    return parser


with loading(__name__, build_parser):    # --help does not wait for these
    from imagernn.translation.lines import standard_input, text_lines
    from imagernn.translation.text import UNKNOWN_INDEX
    from imagernn.translation.translator import MOST_WORDS, Translator


@script
def main(argv=None):
    params = checked_params(argv)
    translator = Translator.load(params['checkpoint_paths'],
                                 **{name: params[name] for name in ('beam_size', 'length_penalty', 'num_threads')})
    unknown, total, first = {}, 0, 1    # unknown words as a dict, for their order; the number of the next line
    for lines in chunks(text_lines(standard_input(), 'standard input'), params['batch_size']):
        sentences = [shortened(words, number) for number, words in enumerate(translator.words_of(lines), start=first)]
        total += count_unknown(sentences, translator, unknown)
        for number, found in enumerate(translator.translate(sentences, params['nbest'] or 1), start=first):
            for best in found:
                print(best.text if params['nbest'] is None else f'{number}\t{best.score:.4f}\t{best.text}')
        sys.stdout.flush()
        first += len(lines)
    if unknown:
        print(f'warning: {sum(unknown.values()):,} of {total:,} words are unknown to the model and were read as one '
              f'unknown word, such as {", ".join(map(repr, itertools.islice(unknown, EXAMPLES)))}', file=sys.stderr)
    return 0


def checked_params(argv):
    params = vars(build_parser().parse_args(argv))
    check_search_flags(params)
    if params['nbest'] is not None and not 1 <= params['nbest'] <= params['beam_size']:
        raise InputError(f'--nbest {params["nbest"]}: must be at least 1 and at most --beam_size, which is '
                         f'{params["beam_size"]}')
    if not 1 <= params['batch_size'] <= 10 ** 6:
        raise InputError(f'--batch_size {params["batch_size"]}: must be at least 1 and at most 1000000')
    if standard_input().isatty():
        params['batch_size'] = 1
    return params


def chunks(lines, size):
    """Lists of up to size lines, each as soon as its lines have arrived. Lines before an error come before it."""
    chunk = []
    try:
        for line in lines:
            chunk.append(line)
            if len(chunk) == size:
                yield chunk
                chunk = []
    except InputError:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk


def shortened(words, number):
    """The words of a line, or the first MOST_WORDS of them, with a warning."""
    if len(words) > MOST_WORDS:
        print(f'warning: line {number} has {len(words):,} words; its first {MOST_WORDS:,} are translated. Put each '
              'sentence on a line of its own', file=sys.stderr)
    return words[:MOST_WORDS]


def count_unknown(sentences, translator, unknown):
    """Change unknown, word -> count, by the unknown words of sentences. Returns the number of all of their words."""
    for words, indices in zip(sentences, translator.indices_of(sentences), strict=True):
        for word, index in zip(words, indices.tolist(), strict=True):
            if index == UNKNOWN_INDEX:
                unknown[word] = unknown.get(word, 0) + 1
    return sum(map(len, sentences))


if __name__ == '__main__':
    sys.exit(main())

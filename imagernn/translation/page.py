"""Watch a model translate, with its attention: imagernn translation-page CHECKPOINT

Serves a page (vis/translation.html) to a browser on this computer, or writes it as a single file with fixed sentences.
"""

import argparse
import json
import sys
from pathlib import Path

from imagernn.errors import InputError, loading, script
from imagernn.runs.flags import HelpWithDefaults
from imagernn.translation.flags import add_search_flags, check_search_flags
from imagernn.web.flags import add_server_flags

PAGE = 'translation.html'
FILES = ('common.css', 'translation.css', 'common.js', 'translation.js')    # what the page loads
MOST_CHARACTERS = 2000    # of a sentence, so that it fits into an address
MOST_WORDS = 100          # of a sentence, for the grid
MOST_LINES = 200          # of an exported page
MOST_SHOWN = 3            # translations of a sentence


def build_parser():
    parser = argparse.ArgumentParser(prog='imagernn translation-page', formatter_class=HelpWithDefaults,
                                     description='Type a sentence and see its translation, the probability of each '
                                                 'word and, of a model with attention, where each word looked.')
    parser.add_argument('checkpoint_path', metavar='CHECKPOINT', help='A checkpoint that train-translator wrote.')
    add_search_flags(parser)

    add = parser.add_argument_group('export').add_argument
    add('--export', default=None, metavar='FILE.html',
        help='Write the page to this file, with the sentences of --lines inside, instead of serving it. Use it to '
             'share or keep the page.')
    add('--lines', default=None, metavar='FILE',
        help=f'The sentences of the exported page: a text file with at most {MOST_LINES} lines that are not empty.')
    add_server_flags(parser)
    return parser


with loading(__name__, build_parser):    # --help does not wait for these
    import numpy as np

    from imagernn.formats.writing import refuse_to_replace, require_writable, write_text
    from imagernn.translation.batch import make_batch
    from imagernn.translation.lines import lines_of_file
    from imagernn.translation.model import attention_of, sizes_of
    from imagernn.translation.text import UNKNOWN_INDEX
    from imagernn.translation.translator import Translator
    from imagernn.web.results_page import single_file
    from imagernn.web.server import BadRequest, page_routes, serve


@script
def main(argv=None):
    params = vars(build_parser().parse_args(argv))
    check_search_flags(params)
    path, export = params['checkpoint_path'], params['export']
    if bool(export) != bool(params['lines']):
        raise InputError('--export and --lines belong together: name the page to write and the file of its sentences')
    if export:
        refuse_to_replace([path, params['lines']], [export])
        require_writable(export)
    translator = Translator.load([path], **{name: params[name] for name in ('beam_size', 'length_penalty',
                                                                            'num_threads')})
    data = about(translator, path)
    if export:
        write_text(export, single_file({**data, 'samples': samples(translator, params['lines'])}, PAGE, FILES))
        print(f'written: {export}')
    else:
        serve(translation_routes(translator, data), params['port'], not params['no_browser'])
    return 0


def about(translator, path):
    """What vis/translation.js shows of a model, ready for JSON."""
    params = translator.checkpoint['params']
    kind = f'{params["layer"].upper()}, {" + ".join(map(str, sizes_of(params)))} units'
    return {'title': f'{str(params.get("dataset") or "Translation"):.100}: {kind}'
                     f'{", attention" if params["attention"] else ""}',
            'name': Path(path).name, 'attention': params['attention'], 'most': MOST_CHARACTERS}


def samples(translator, path):
    """The sentences in a file, each as shown. InputError where there are none or too many, or one is too long."""
    lines = [(number, line) for number, line in enumerate(lines_of_file(path), start=1) if line.strip()]
    if not 1 <= len(lines) <= MOST_LINES:
        raise InputError(f'{path}: has {len(lines):,} lines that are not empty; expected 1 to {MOST_LINES}')
    found = []
    for number, line in lines:
        try:
            found.append(shown(translator, line))
        except ValueError as error:
            raise InputError(f'{path}: line {number}: {error}') from None
    return found


def shown(translator, line):
    """The best translations of a line, ready for JSON; their weights, of a model with attention: a row for each word.

    ValueError unless the line has 1 to MOST_WORDS words.
    """
    words, = translator.words_of([line])
    if not 1 <= len(words) <= MOST_WORDS:
        raise ValueError(f'the sentence has {len(words)} words; expected 1 to {MOST_WORDS}')
    indices, = translator.indices_of([words])
    found, = translator.translate([words], min(MOST_SHOWN, translator.beam_size))
    model, params, ixtoword = (translator.checkpoint[name] for name in ('model', 'params', 'ixtoword'))
    weights = [None] * len(found)
    if params['attention']:
        batch = make_batch(np.tile(indices, len(found)), np.full(len(found), len(indices)),
                           np.array([word for each in found for word in each.words], np.int64),
                           np.array([len(each.words) for each in found]))
        # without the row of END where the search was cut off before it
        weights = [np.round(own[:len(each.word_logprobs)].astype(float), 4).tolist()
                   for each, own in zip(found, attention_of(batch, model, params), strict=True)]
    return {'line': ' '.join(line.split()),
            'source': [[word, bool(index != UNKNOWN_INDEX)] for word, index in zip(words, indices, strict=True)],
            'found': [{'text': each.text, 'score': round(each.score, 4), 'weights': own,
                       'words': [[ixtoword[word] if word else 'END', float(f'{np.exp(logprob):.4g}')] for word, logprob
                                 in zip([*each.words, 0], each.word_logprobs, strict=False)]}
                      for each, own in zip(found, weights, strict=True)]}


def translation_routes(translator, data):
    """The routes of the page of a model, for web.server. data: about() of it."""

    def translated(parameters):
        line = parameters.get('line', '')
        if len(line) > MOST_CHARACTERS:
            raise BadRequest(f'the sentence has {len(line):,} characters; expected at most {MOST_CHARACTERS:,}')
        try:
            return as_json(shown(translator, line))
        except ValueError as error:
            raise BadRequest(str(error)) from None

    return {**page_routes(PAGE, *FILES), '/model.json': lambda: as_json(data), '/translate?': translated}


def as_json(value):
    """A value as (content type, bytes) of JSON."""
    return 'application/json', json.dumps(value, separators=(',', ':')).encode()


if __name__ == '__main__':
    sys.exit(main())

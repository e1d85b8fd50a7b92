"""Watch a language model write: imagernn text-page CHECKPOINT

Serves a page (vis/text.html) to a browser on this computer, or writes it as a single file with fixed samples. Each
request brings the text so far, and the model reads it again: nothing is kept between requests.
"""

import argparse
import base64
import json
import sys
from pathlib import Path

from imagernn.errors import InputError, loading, script
from imagernn.runs.flags import HelpWithDefaults
from imagernn.web.flags import add_server_flags

PAGE = 'text.html'
FILES = ('common.css', 'text.css', 'common.js', 'text.js')    # what the page loads
MOST = 2000          # characters or words of a text, so that its indices fit into an address
MOST_AT_ONCE = 100
MOST_TEMPERATURE = 10
MOST_SEED = 2 ** 32 - 1
UNITS_SHOWN = 40     # of those that follow a property of the text


def build_parser():
    parser = argparse.ArgumentParser(prog='imagernn text-page', formatter_class=HelpWithDefaults,
                                     description='Watch a language model write, with the probability of each character '
                                                 'or word and the activations of its hidden units.')
    parser.add_argument('checkpoint_path', metavar='CHECKPOINT', help='A checkpoint that train-text wrote.')
    parser.add_argument('--prime', default='', metavar='TEXT', help='How the text begins; the page can change it.')

    add = parser.add_argument_group('export').add_argument
    add('--export', default=None, metavar='FILE.html',
        help='Write the page to this file, with fixed samples inside, instead of serving it. Use it to share or keep '
             'the page.')
    add('--temperatures', type=float, nargs='+', default=[0, .5, .8, 1, 1.3], metavar='T',
        help='Write a sample at each of these temperatures; 0 always takes the likeliest.')
    add('--length', type=int, default=500, help='How many characters or words to write; a line ends at its end.')
    add('--seed', type=int, default=0, help='The seed of what is drawn.')
    add_server_flags(parser)
    return parser


with loading(__name__, build_parser):    # --help does not wait for these
    import numpy as np

    from imagernn.formats.writing import refuse_to_replace, require_writable, write_text
    from imagernn.textgen.load import load_text_model
    from imagernn.textgen.model import make_tick, sizes_of
    from imagernn.textgen.reading import ACTIVATIONS, correlations, drawing, following, properties, read_on, tokens_of
    from imagernn.web.results_page import single_file
    from imagernn.web.server import BadRequest, page_routes, serve


@script
def main(argv=None):
    params = checked_params(argv)
    path, export = params['checkpoint_path'], params['export']
    if export:
        refuse_to_replace([path], [export])
        require_writable(export)
    checkpoint = load_text_model(path, 'float32')
    beginning = tokens_of(params['prime'], checkpoint)
    if len(beginning) >= MOST:
        raise InputError(f'--prime {params["prime"]!r:.60}: has {len(beginning):,} characters or words; expected fewer '
                         f'than {MOST:,}')
    data = about(checkpoint, path, params['prime'])
    if export:
        samples = [sample(checkpoint, beginning, temperature, params) for temperature in params['temperatures']]
        write_text(export, single_file({**data, 'samples': samples}, PAGE, FILES))
        print(f'written: {export}')
    else:
        serve(text_routes(checkpoint, data), params['port'], not params['no_browser'])
    return 0


def checked_params(argv):
    params = vars(build_parser().parse_args(argv))
    for name, least, most in ('length', 1, MOST), ('seed', 0, MOST_SEED):
        if not least <= params[name] <= most:
            raise InputError(f'--{name} {params[name]}: must be at least {least} and at most {most}')
    if bad := [one for one in params['temperatures'] if not 0 <= one <= MOST_TEMPERATURE]:
        raise InputError(f'--temperatures {bad[0]}: must be at least 0 and at most {MOST_TEMPERATURE}')
    return params


# ---- what the page shows

def about(checkpoint, path, prime):
    """What vis/text.js shows of a model, ready for JSON."""
    params = checkpoint['params']
    sizes = sizes_of(params)
    dataset = str(params.get('dataset') or 'Language model')
    return {'title': f'{dataset:.100}: {params["layer"].upper()}, {" + ".join(map(str, sizes))} units',
            'name': Path(path).name, 'level': params['level'], 'lines': bool(params['lines']), 'sizes': sizes,
            'activation': ACTIVATIONS[params['layer']][0], 'prime': prime, 'most': MOST}


def shown(reading, checkpoint):
    """A Reading, ready for JSON: activations as 127ths in base64, T rows of U signed bytes."""
    likely = [[[_unit(token, checkpoint), _probability(logprob)] for token, logprob in zip(*row, strict=True)]
              for row in zip(reading.likeliest.tolist(), reading.likeliest_logprobs.tolist(), strict=True)]
    tokens, params = reading.tokens.tolist(), checkpoint['params']
    return {'tokens': tokens, 'units': [_unit(token, checkpoint) for token in tokens],
            'p': [_probability(logprob) for logprob in reading.logprobs.tolist()], 'likely': likely,
            'activations': base64.b64encode(np.rint(127 * reading.activations).astype(np.int8).tobytes()).decode(),
            'ended': bool(params['lines'] and tokens and tokens[-1] == 0)}


def _unit(token, checkpoint):
    """The character or word that a token stands for."""
    return 'END' if checkpoint['params']['lines'] and not token else checkpoint['ixtoword'][token]


def _probability(logprob):
    return float(f'{np.exp(logprob):.4g}')


def followers(reading, checkpoint):
    """The units that follow each property of a text best: name -> [[unit, correlation], ...], the strongest first."""
    kept = slice(len(reading.tokens) - (checkpoint['params']['lines'] and reading.tokens[-1:].tolist() == [0]))
    units = [checkpoint['ixtoword'][token] for token in reading.tokens[kept].tolist()]
    found = {}
    for name, values in properties(units).items():
        strengths = correlations(values, reading.activations[kept])
        best = np.argsort(-np.abs(strengths), kind='stable')[:UNITS_SHOWN]
        found[name] = [[unit, round(float(strengths[unit]), 3)] for unit in best.tolist()]
    return found


def generator(seed, drawn, checkpoint):
    """The random stream of one text after so many draws: sample-text with this seed draws the same."""
    rng = np.random.default_rng(seed)
    rng.bit_generator.advance(drawn * len(checkpoint['ixtoword']))
    return rng


def sample(checkpoint, beginning, temperature, params):
    """A fixed sample for the exported page: what it was made with, its reading, and which units follow what."""
    tick = make_tick(checkpoint['model'], checkpoint['params'])
    length = min(params['length'], MOST - len(beginning))
    choose = drawing(temperature, generator(params['seed'], 0, checkpoint))
    written = read_on(checkpoint, tick, beginning, length, choose)
    whole = read_on(checkpoint, tick, [], len(beginning) + len(written.tokens),
                    following([*beginning, *written.tokens.tolist()]))
    return {'temperature': temperature, 'seed': params['seed'], 'begun': len(beginning), **shown(whole, checkpoint),
            'followers': followers(whole, checkpoint)}


# ---- requests

def text_routes(checkpoint, data):
    """The routes of the page of a model, for web.server. data: about() of it."""
    tick = make_tick(checkpoint['model'], checkpoint['params'])

    def begin(parameters):
        try:
            tokens = tokens_of(parameters.get('text', ''), checkpoint)
        except InputError as error:
            raise BadRequest(str(error)) from None
        if len(tokens) >= MOST:
            raise BadRequest(f'the beginning has {len(tokens):,} characters or words; expected fewer than {MOST:,}')
        return as_json(shown(read_on(checkpoint, tick, [], len(tokens), following(tokens)), checkpoint))

    def write(parameters):
        tokens = _tokens(parameters, checkpoint)
        begun = _number(parameters, 'begun', len(tokens))
        count = min(_number(parameters, 'count', MOST_AT_ONCE), MOST - len(tokens))
        temperature = _number(parameters, 'temperature', MOST_TEMPERATURE, float)
        rng = generator(_number(parameters, 'seed', MOST_SEED), len(tokens) - begun, checkpoint)
        return as_json(shown(read_on(checkpoint, tick, tokens, count, drawing(temperature, rng)), checkpoint))

    def follow(parameters):
        tokens = _tokens(parameters, checkpoint)
        return as_json(followers(read_on(checkpoint, tick, [], len(tokens), following(tokens)), checkpoint))

    return {**page_routes(PAGE, *FILES), '/model.json': lambda: as_json(data),
            '/begin?': begin, '/write?': write, '/follow?': follow}


def _tokens(parameters, checkpoint):
    """The indices in the parameter tokens, separated by spaces, a list. Raises BadRequest."""
    words, V = parameters.get('tokens', '').split(), len(checkpoint['ixtoword'])
    if len(words) > MOST or not all(word.isascii() and word.isdecimal() and len(word) < 10 and int(word) < V
                                    for word in words):
        raise BadRequest(f'tokens must be at most {MOST} numbers below {V}')
    return [int(word) for word in words]


def _number(parameters, name, most, kind=int):
    """A parameter as a number from 0 to most. Raises BadRequest."""
    try:
        value = kind(parameters.get(name, ''))
    except ValueError:
        value = -1
    if not 0 <= value <= most:
        raise BadRequest(f'{name} must be a number from 0 to {most}')
    return value


def as_json(value):
    """A value as (content type, bytes) of JSON."""
    return 'application/json', json.dumps(value, separators=(',', ':')).encode()


if __name__ == '__main__':
    sys.exit(main())

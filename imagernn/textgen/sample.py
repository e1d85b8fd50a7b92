"""Write text with a trained language model, or score a text: imagernn sample-text CHECKPOINT"""

import argparse
import math
import sys

from imagernn.errors import InputError, loading, script
from imagernn.nn.blas import NUM_THREADS
from imagernn.runs.flags import HelpWithDefaults

MOST_LENGTH = 10 ** 6
MOST_SAMPLES = 1000
MOST_SEED = 2 ** 32 - 1


def build_parser():
    parser = argparse.ArgumentParser(prog='imagernn sample-text', formatter_class=HelpWithDefaults,
                                     description='Write text with a trained language model, or score a text.')
    parser.add_argument('checkpoint_path', metavar='CHECKPOINT', help='A checkpoint that train-text wrote.')

    add = parser.add_argument_group('samples').add_argument
    add('--prime', default='', metavar='TEXT', help='How the text begins. The model reads it first.')
    add('--length', type=int, default=500, help='How many characters or words to write; a line ends at its end.')
    add('-n', '--samples', type=int, default=1, help='How many texts to write.')
    add('--temperature', type=float, default=1.,
        help='Draws from p^(1/temperature), renormalised: lower is safer, higher is bolder. 0 always takes the '
             'likeliest.')
    add('--bias', type=float, nargs='+', default=[], metavar='B',
        help='Write a text for each of these biases, in place of the temperature: it draws from p^(1 + B), '
             'renormalised, as in the table of Graves (2013). Try 0 .1 .5 2 5 10.')
    add('--seed', type=int, default=0, help='The seed of what is drawn.')

    add = parser.add_argument_group('scoring').add_argument
    add('--score', default='', metavar='FILE', help='Do not write; print how well the model predicts this text.')
    add('--split', nargs='+', choices=('val', 'test'), default=[],
        help='Do not write; print how well the model predicts this split of the text that it was trained on, or both '
             'splits as one.')
    add('--text', default='', metavar='FILE',
        help='Where that text is now. Give it with --split if it was moved since the training.')
    add('--num_threads', type=int, default=NUM_THREADS, help='How many threads may work.')
    return parser


with loading(__name__, build_parser):    # --help does not wait for these
    from itertools import islice

    import numpy as np

    from imagernn.corpus.text import UNKNOWN, encode_texts, lines_of, read_text
    from imagernn.nn import stacked
    from imagernn.nn.workers import Workers
    from imagernn.runs.terminal import warn
    from imagernn.textgen.evaluate import nats_of
    from imagernn.textgen.load import load_text_model, trained_text
    from imagernn.textgen.model import LAYERS, make_tick
    from imagernn.textgen.reading import drawing, first_token, steps, tokens_of


@script
def main(argv=None):
    params = checked_params(argv)
    checkpoint = load_text_model(params['checkpoint_path'], 'float32')
    if params['score'] or params['split']:
        return score(checkpoint, params)
    temperatures = [1 / (1 + bias) for bias in params['bias']] or [params['temperature']]
    for number, temperature in enumerate(temperatures):
        rng = np.random.default_rng(params['seed'])
        if params['bias']:
            print(f'{"" if number == 0 else chr(10)}bias {params["bias"][number]:g}:')
        for place, text in enumerate(written(checkpoint, params['prime'], params['length'], params['samples'],
                                             temperature, rng)):
            # lines are apart by themselves; the texts of a stream have lines of their own
            print(f'\n{text}' if place and not checkpoint['params']['lines'] else text)
    return 0


def checked_params(argv):
    params = vars(build_parser().parse_args(argv))
    for name, least, most in (('length', 1, MOST_LENGTH), ('samples', 1, MOST_SAMPLES), ('seed', 0, MOST_SEED),
                              ('num_threads', 1, 1000)):
        if not least <= params[name] <= most:
            raise InputError(f'--{name} {params[name]}: must be at least {least} and at most {most}')
    if not 0 <= params['temperature'] <= 1e6:
        raise InputError(f'--temperature {params["temperature"]}: must be at least 0 and at most 1e6')
    if bad := [bias for bias in params['bias'] if not 0 <= bias <= 1e6]:
        raise InputError(f'--bias {bad[0]}: must be at least 0 and at most 1e6')
    if params['score'] and params['split']:
        raise InputError(f'--score {params["score"]}: is a text of its own, and --split a part of the text of the '
                         'training; give one of them')
    if params['text'] and not params['split']:
        raise InputError(f'--text {params["text"]}: says where the text of the training is, for --split; to score any '
                         'other text give --score')
    return params


def score(checkpoint, params):
    """Print how well the model predicts the text in a file, or splits of the text that it was trained on."""
    trained, path = checkpoint['params'], params['checkpoint_path']
    if params['split']:
        splits = trained_text(path, checkpoint, params['text']).splits
        if missing := [split for split in params['split'] if split not in splits]:
            raise InputError(f'--split {missing[0]}: {path} was trained without one; name a text with --score')
        chosen = [splits[split] for split in splits if split in params['split']]
        part = tuple(map(np.concatenate, zip(*chosen, strict=True)))
    else:
        part = text_to_score(params['score'], checkpoint)
    nats = nats_of(part, checkpoint['model'], trained, Workers(params['num_threads']))
    count = len(part[0])
    if trained['level'] == 'char':
        print(f'{count:,} characters: {nats:.4f} nats, {nats / math.log(2):.4f} bits a character')
    else:
        print(f'{count:,} words: perplexity {math.exp(nats):.2f} a word')
    return 0


def text_to_score(path, checkpoint):
    """The tokens and lengths of the text in a file. Warns of characters or words that the model does not know."""
    params, text = checkpoint['params'], read_text(path)
    level, lines = params['level'], params['lines']
    try:
        part = encode_texts({'scored': text}, level, lines, 1, checkpoint['ixtoword']).splits['scored']
    except InputError as error:
        raise InputError(f'{path}: {error}') from None
    count = sum(map(len, lines_of(text, level))) if lines else len(part[0])
    if unknown := count - np.count_nonzero(part[0]):
        warn(f'{path}: {unknown:,} of {count:,} {"characters" if level == "char" else "words"} are not in the '
             f'vocabulary; {"they are left out" if lines else f"each is scored as {UNKNOWN}"}')
    return part


def written(checkpoint, prime, length, samples, temperature, rng):
    """Texts that the model writes: a list of strings, which begin with prime.

    temperature 0 takes the likeliest character or word. In lines a text ends at its END. InputError where a part of
    the prime is unknown.
    """
    model, params, ixtoword = (checkpoint[name] for name in ('model', 'params', 'ixtoword'))
    known = tokens_of(prime, checkpoint)
    tick, state = make_tick(model, params), stacked.zero_state(LAYERS[params['layer']], samples, model)
    words = np.full(samples, first_token(checkpoint))
    for word in known:
        _, state = tick(words, state)
        words = np.full(samples, word)
    found, alive = [], np.ones(samples, bool)
    for _, drawn, _ in islice(steps(tick, words, state, drawing(temperature, rng)), length):
        if params['lines']:
            alive &= drawn != 0
            if not alive.any():
                break
        found.append(np.where(alive, drawn, -1))
    separator = '' if params['level'] == 'char' else ' '
    columns = np.transpose(found).tolist() if found else [[]] * samples
    return [_joined([ixtoword[ix] for ix in (*known, *column) if ix >= 0], separator) for column in columns]


def _joined(units, separator):
    """Characters or words as text; the end of a line, a word of its own, has no spaces around it."""
    text = separator.join(units)
    return text.replace(' \n ', '\n').replace(' \n', '\n').replace('\n ', '\n') if separator else text


if __name__ == '__main__':
    sys.exit(main())

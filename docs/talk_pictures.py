"""Draw the two pictures of talk.md that show what a trained model does.

    python docs/talk_pictures.py unit CHECKPOINT "ROMEO:"                   a unit of a language model, over a text
    python docs/talk_pictures.py attention CHECKPOINT "un chien blanc ."    where each word of a translation looked

Writes talk_unit.svg or talk_attention.svg into --output. The checkpoints are those of train-text and of
train-translator --attention.
"""

import argparse
import sys
from html import escape
from pathlib import Path

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))    # a checkout need not be installed

import numpy as np

from imagernn.corpus.text import LINE_END
from imagernn.errors import InputError, script
from imagernn.formats.writing import write_text
from imagernn.nn.search import greedy_search
from imagernn.textgen.load import load_text_model
from imagernn.textgen.model import make_tick as make_text_tick
from imagernn.textgen.reading import correlations, drawing, following, properties, read_on, tokens_of
from imagernn.translation.batch import make_batch
from imagernn.translation.load import load_translator
from imagernn.translation.model import attention_of, make_tick, read_sources
from imagernn.translation.text import encode, language_of, tokenize

STYLE = '''<style>
  .page { fill: #ffffff } text { fill: #1d1f22; font: 14px sans-serif } .mono { font: 13px monospace }
  .soft { fill: #5d6066 } .on { fill: #1a5fb4 } .off { fill: #c23b3b } .cell { stroke: #dcdcd5 }
  @media (prefers-color-scheme: dark) {
    .page { fill: #15171a } text { fill: #e9e8e4 } .soft { fill: #a5abb3 } .on { fill: #5b9bf0 } .off { fill: #e0675e }
    .cell { stroke: #363b42 }
  }
</style>'''
WRITTEN, LINES = 1900, 14        # characters that the units are compared over; how many of their lines are drawn
CHARACTER, LINE = 8, 20          # the width of a character and the height of a line, in pixels
SIDE, LONGEST = 44, 50           # of a cell of the attention; words of a translation


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('picture', choices=PICTURES, help='Which picture to draw.')
    parser.add_argument('checkpoint', help='A language model of characters, or a translation model with attention.')
    parser.add_argument('text', help='How the text begins, or the sentence to translate.')
    parser.add_argument('--output', default='docs/', help='The folder for the picture.')
    return parser


@script
def main(argv=None):
    args = build_parser().parse_args(argv)
    path = Path(args.output) / f'talk_{args.picture}.svg'
    write_text(path, PICTURES[args.picture](args.checkpoint, args.text))
    print(path)
    return 0


def svg(width, height, parts):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">\n{STYLE}\n'
            '<rect class="page" width="100%" height="100%"/>\n' + '\n'.join(parts) + '\n</svg>\n')


def unit(path, beginning):
    """The unit that follows the position in the line best, over a text that the model writes at temperature .5."""
    checkpoint = load_text_model(path, 'float32')
    tick, first = make_text_tick(checkpoint['model'], checkpoint['params']), tokens_of(beginning, checkpoint)
    written = read_on(checkpoint, tick, first, WRITTEN, drawing(.5, np.random.default_rng(0)))
    tokens = [*first, *written.tokens.tolist()]
    activations = read_on(checkpoint, tick, [], len(tokens), following(tokens)).activations          # (T, U)
    characters = [checkpoint['ixtoword'][token] for token in tokens]
    strengths = correlations(properties(characters)['position in the line'], activations)
    best = int(np.argmax(np.abs(strengths)))

    parts = [f'<text class="soft" x="10" y="22">unit {best} of {len(strengths)}; its correlation with the position in '
             f'the line, over {len(tokens):,} characters: {strengths[best]:.2f}</text>']
    ends = [place for place, character in enumerate(characters) if character == LINE_END][:LINES]
    starts, longest = [0, *(end + 1 for end in ends[:-1])], 0
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        y, longest = 40 + LINE * number, max(longest, end - start)
        parts += [f'<rect class="{"on" if value > 0 else "off"}" x="{10 + CHARACTER * place}" y="{y}" '
                  f'width="{CHARACTER}" height="{LINE - 2}" opacity="{.75 * abs(value):.2f}"/>'
                  for place, value in enumerate(activations[start:end, best].tolist())]
        if line := ''.join(characters[start:end]):
            parts.append(f'<text class="mono" x="10" y="{y + 14}" textLength="{CHARACTER * (end - start)}" '
                         f'xml:space="preserve">{escape(line)}</text>')
    return svg(max(20 + CHARACTER * longest, 560), 50 + LINE * len(ends), parts)


def attention(path, sentence):
    """The weights of the source's words (columns) for each word of a greedy translation (rows)."""
    checkpoint = load_translator(path, 'float32')
    model, params, ixtoword = checkpoint['model'], checkpoint['params'], checkpoint['ixtoword']
    if not params['attention']:
        raise InputError(f'{path}: was trained without --attention; it has no weights to draw')
    words = tokenize([sentence], params['tokenizer'], language_of(params['source']), params['lower_case'])
    source = encode(words, checkpoint['source_ixtoword'])
    (found,), = greedy_search(make_tick(model, params), read_sources(*source, model, params), LONGEST)
    target = np.array([word for word in found.words if word], np.int64)
    weights, = attention_of(make_batch(*source, target, np.array([len(target)])), model, params)

    rows, columns = [*(ixtoword[word] for word in target.tolist()), 'END'], ['START', *words[0]]
    parts = [f'<text x="{105 + SIDE * i}" y="104" transform="rotate(-45 {105 + SIDE * i} 104)">{escape(word)}</text>'
             for i, word in enumerate(columns)]
    for t, word in enumerate(rows):
        y = 112 + SIDE // 2 * t
        parts.append(f'<text x="80" y="{y + 16}" text-anchor="end">{escape(word)}</text>')
        parts += [f'<rect class="on cell" x="{88 + SIDE * i}" y="{y}" width="{SIDE}" height="{SIDE // 2}" '
                  f'fill-opacity="{weight:.2f}"/>' for i, weight in enumerate(weights[t].tolist())]
    return svg(88 + SIDE * len(columns) + 60, 122 + SIDE // 2 * len(rows), parts)


PICTURES = {'unit': unit, 'attention': attention}

if __name__ == '__main__':
    sys.exit(main())

"""The results of compare.py as text, as a Markdown page and as plots. Measures nothing.

    python benchmarks/report.py benchmarks/results.json [more.json …] [--output docs] [--json benchmarks/results.json]

Writes the page and the plots again from the results of one run, or of several runs that measured a part each. What two
runs measured, the later one in the list decides.
"""

import argparse
import importlib.util
import io
import json
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))    # a checkout need not be installed

from imagernn.errors import InputError, script
from imagernn.formats.json_files import write_json
from imagernn.formats.writing import require_writable, write_text

TITLES = {'step': 'training step, LSTM', 'rnn': 'training step, RNN', 'perplexity': 'perplexity', 'greedy': 'greedy',
          'beam5': 'beam 5', 'beam20': 'beam 20', 'attention': 'training step, attention',
          'self_critical': 'self-critical step'}
UNITS = {'step': 'ms', 'rnn': 'ms', 'perplexity': 'sentences/s', 'greedy': 'captions/s', 'beam5': 'captions/s',
         'beam20': 'captions/s', 'attention': 'ms', 'self_critical': 'ms'}
# what the page says of the jobs that have one size of their own
SETTINGS = {
    'attention': """The step of the attention generator chooses from 26 regions of an image, each with 1,280 features
        like the whole image, by keys of 256 numbers; the image is the first input, and the update is Adam's. PyTorch as
        usual gives an LSTM cell the word and the context of each step. At its best it computes what all words add to
        the gates in one product before the steps, and slices the regions only where sentences end. Both compute the
        keys of the regions once for all steps.""",
    'self_critical': """A self-critical step draws five captions of each of 100 images with 1,280 features, by an LSTM
        that gets the image as its first input and at every step; it rewards each with CIDEr-D plus three times BLEU-4
        against the image's five references, with the document frequencies of 6,000 images; and updates by Adam with the
        gradients of the captions' advantages, without dropout. The images are always the same 100, a sentence of each
        of which the model has overfitted; references are those of `coco_shaped.py`. PyTorch as usual draws with
        gradients, carries captions that have ended along until all have, draws by `torch.multinomial` and computes the
        reward in plain Python. At its best it may drop those captions, draw without gradients and make a second, packed
        pass for them, draw from cumulative sums, and keep the n-grams of references. A turn is one
        step.""",
}
STEPS = 3    # training steps that are timed in a turn, after one that is not
PRODUCTS = {'one': 'numpy, one thread', 'two': 'numpy, two threads',
            'one_and_one': 'numpy, two products at once, one thread each', 'mkl': 'PyTorch, MKL, two threads',
            'onednn': 'PyTorch, oneDNN, two threads'}
SWEEPS = {'words': 'words in the vocabulary', 'hidden': 'hidden size', 'sentences': 'sentences in a batch',
          'beam': 'beam size'}
BLUE, ORANGE, GREY = '#2a6fbb', '#e0782f', '#555555'
STYLE = {'svg.fonttype': 'none', 'svg.hashsalt': 'benchmarks', 'font.family': 'sans-serif', 'font.size': 9,
         'axes.spines.top': False, 'axes.spines.right': False}


def require(package):
    """Raise InputError unless the package is installed."""
    if importlib.util.find_spec(package) is None:
        raise InputError(f'{package} is not installed, and the benchmark needs it; install the extra: '
                         "pip install -e '.[bench]'")


@script
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('results', type=Path, nargs='+',
                        help='The results.json of one run, or of several that measured a part each.')
    parser.add_argument('--output', type=Path, default=Path('docs'),
                        help='The folder for the page and the plots (default: docs).')
    parser.add_argument('--json', type=Path,
                        help='A file for the results of all runs together, which can be read again like that of one '
                             'run (default: none).')
    args = parser.parse_args(argv)
    require('matplotlib')
    runs = [json.loads(path.read_text(encoding='utf-8')) for path in args.results]
    write_tables(merged(runs), args.output)
    if args.json:
        write_json(args.json, merged(runs))
    return 0


def merged(runs):
    """The results of several runs that measured a part each, as one; of what is there twice, the last."""
    jobs = {(row['job'], row['size']): row for run in runs for row in run['jobs']}
    busy = {row['size']: row for run in runs for row in run['busy']}
    return {'runs': [part for run in runs for part in parts_of(run)], 'jobs': list(jobs.values()),
            'busy': list(busy.values()),
            'sweeps': {what: points for run in runs for what, points in run['sweeps'].items()}}


def parts_of(results):
    """The runs that results were measured in: their command, date, machine and pairs."""
    return results.get('runs') or [{name: results[name] for name in ('command', 'date', 'machine', 'pairs')}]


def require_writable_folders(pages, numbers):
    """Raise InputError before anything is measured if write could not write to these folders."""
    require_writable(pages / 'benchmarks.md')
    require_writable(numbers / 'results.json')


def write(results, pages, numbers):
    """Write benchmarks.md and the plots to the folder pages, and results.json to the folder numbers."""
    write_json(numbers / 'results.json', results)
    write_tables(results, pages)


def write_tables(results, folder):
    """Write benchmarks.md and the plots to a folder."""
    texts = {'benchmarks.md': markdown(results)}
    if results['jobs']:
        texts['benchmarks.svg'] = ratio_plot(results['jobs'])
    if results['sweeps']:
        texts['benchmark_sweeps.svg'] = sweep_plot(results['sweeps'])
    for name, text in texts.items():
        write_text(folder / name, text)


def job_line(row):
    """The result of a job in one line, for the terminal."""
    unit = UNITS[row['job']]
    return (f'{TITLES[row["job"]]}, {row["size"]}: ours {spread(row["ours"])} {unit}, PyTorch {spread(row["torch"])} '
            f'{unit}, ratio {spread(row["ratio"])} [{way(row)}]')


def sweep_line(what, point):
    """One point of a sweep in one line, for the terminal."""
    return (f'{point["x"]} {SWEEPS[what]}: ours {spread(point["ours"])}, PyTorch {spread(point["torch"])}, '
            f'ratio {spread(point["ratio"])} [{way(point)}]')


def busy_line(row):
    """The result of the job busy in one line, for the terminal."""
    return (f'next to two busy loops, {row["size"]}: ours takes {spread(row["ours"]["ratio"])} times as long as on a '
            f'quiet machine, PyTorch {spread(row["torch"]["ratio"])} times')


def spread(found):
    """'median (lowest to highest)'"""
    return f'{number(found["median"])} ({number(found["low"])} to {number(found["high"])})'


def number(value):
    """A number with about three digits."""
    return f'{value:,.0f}' if value >= 100 else f'{value:.3g}' if value >= 10 else f'{value:.2f}'


def bold(found, form='{:.2f}'):
    """'**median** (lowest to highest)', each in this format."""
    median, low, high = (form.format(found[name]) for name in ('median', 'low', 'high'))
    return f'**{median}** ({low} to {high})'


def way(row):
    """PyTorch's fastest options for a job."""
    return ', '.join(row['way'].values())


def markdown(results):
    """The page docs/benchmarks.md."""
    parts = [_heading(results)]
    if results['jobs']:
        parts.append(_jobs(results['jobs']))
        parts.append(_checks(results['jobs']))
    parts += [_self_critical(row) for row in results['jobs'] if row['job'] == 'self_critical']
    if trained := [row for row in results['jobs'] if 'share' in row]:
        parts.append(_shares(trained))
    if results['busy']:
        parts.append(_busy(results['busy']))
    if results['sweeps']:
        parts.append(_sweeps(results['sweeps']))
    return '\n\n'.join(parts) + '\n'


def table(head, rows):
    """A Markdown table."""
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in (head, ['---'] * len(head), *rows))


def paragraph(text):
    """Text wrapped at 120 columns."""
    return textwrap.fill(' '.join(text.split()), 120, break_on_hyphens=False, break_long_words=False)


def _heading(results):
    places, runs = {}, parts_of(results)
    for run in runs:
        it = run['machine']
        place = (f"on {run['date']}: {it['cpu']}, {it['cores']} cores; Python {it['python']}, numpy {it['numpy']} with "
                 f"{it['blas']}; PyTorch {it['torch']}.")
        places.setdefault(place, []).append(run['command'])
    commands = ' '.join(f'`{"; ".join(some)}` {place}' for place, some in places.items())
    pairs = ' or '.join(str(number) for number in sorted({run['pairs'] for run in runs}))
    return '# Benchmarks\n\n' + paragraph(f"""
        {commands} Both sides have two threads and take turns in one process, on the same batches, drawn with seed 0.
        Values are medians of {pairs} turns, with the lowest and the highest in parentheses. A turn of training is
        {STEPS} timed steps after one that is not timed. `benchmarks/results.json` has all values.""")


def _jobs(jobs):
    head = ('job', 'size', 'ours', 'PyTorch as usual', 'times as fast', 'PyTorch at its best', 'times as fast',
            'its best way')
    rows = [(f'{TITLES[row["job"]]}, {UNITS[row["job"]]}', row['size'], spread(row['ours']), spread(row['usual']),
             bold(row['usual_ratio']), spread(row['torch']), bold(row['ratio']), way(row)) for row in jobs]
    of_their_own = [paragraph(text) for job, text in SETTINGS.items() if any(row['job'] == job for row in jobs)]
    sizes = {row['size']: f'{row["size"]}: {row["words"]:,} words, encodings and hidden state of {row["hidden"]}'
             for row in jobs}
    lengths = [row['length'] for row in jobs if 'length' in row]
    captions = (f'The captions have {min(lengths):.1f} to {max(lengths):.1f} words on average: the model has '
                'overfitted random sentences, and it captions blends of their images.' if lengths else '')
    setting = paragraph(f"""
        {'; '.join(sizes.values())}. A batch has 100 sentences of random words, 10.5 on average, each with an image of
        its own, which has 4,096 features. {captions} "Times as fast" is the median over the pairs of PyTorch's time
        divided by ours.""")
    peer = paragraph("""
        Both sides compute the same. The LSTM gets the image, START and the words, with h = o·tanh(c); the RNN adds the
        image at every step. Dropout is one half on all inputs and on h before the decoder. The cost is the cross
        entropy of the real words, without padding. The update has weight decay, clipping by value and RMSprop (PyTorch
        adds ε outside the root, which takes the same time).""") + '\n\n' + paragraph("""
        "PyTorch as usual" is nn.LSTM or nn.RNN on a packed sequence with the default library for matrix products (MKL),
        `cross_entropy`, `foreach` updates and a plain `topk`. "PyTorch at its best" uses the fastest of several
        options, which are tried in the same run for each job and size and are named in the last column: nn.LSTM or
        nn.RNN on a packed sequence or on padded input, or a loop over the packed rows, plain or as TorchScript; the
        other matrix products by MKL or, with `to_mkldnn`, by oneDNN; `cross_entropy` or the chunked
        `linear_cross_entropy`; RMSprop and clipping with or without `foreach`. Perplexity and captions run in inference
        mode. torch.compile was not tried.""") + '\n\n' + paragraph("""
        PyTorch's search is built like ours: all word encodings go through the input weights once; the live beams of
        many images are the rows of one matrix product; a beam is dropped when a finished one has a better score; and
        the best words of a beam are found by `topk`, either among all words or within the groups with the largest
        maxima. nn.RNN cannot add an image at every step, so it gets the sum through input weights that are the
        identity, which costs one more product.""")
    paragraphs = '\n\n'.join([setting, peer, *of_their_own])
    return f"""## Ours against PyTorch

![How much faster ours is, by job and size](benchmarks.svg)

{table(head, rows)}

{paragraphs}"""


def _self_critical(row):
    head = ('', 'ours', 'PyTorch as usual', 'PyTorch at its best', 'the same with our reward')
    sides = ('ours', 'usual', 'torch', 'our_reward')
    names = [name for name in row['parts']['ours'] if name != 'length']
    cells = [(f'{name}, ms', *(spread(row['parts'][who][name]) for who in sides)) for name in names]
    cells += [('the whole step, ms', *(spread(row[who]) for who in sides)),
              ('times as long as ours', '', *(bold(row[name]) for name in
                                                         ('usual_ratio', 'ratio', 'our_reward_ratio'))),
              ('words and END in a caption', *(spread(row['parts'][who]['length']) for who in sides))]
    text = paragraph(f"""
        The reward takes {bold(row['reward_share'], '{:.1%}')} of our step. In plain Python it counts n-grams in dicts,
        as the usual programs do: as usual those of an image's references again for each of its captions, at its best
        once for all of training. Where PyTorch makes one pass, the drawing includes the forward pass whose gradients
        are then computed; ours draws without it and makes a second pass over the drawn captions.""")
    return f"""## Self-critical training, part by part

{table(head, cells)}

{text}"""


def _checks(jobs):
    worst = {}
    for row in jobs:
        for what, difference in row['checks'].items():
            worst[what] = max(worst.get(what, 0), difference)
    found = [f'{what} {difference:.0e}' for what, difference in worst.items() if what != 'captions']
    text = 'Before a job is timed, both sides must agree, with the same weights and without dropout.'
    if found:
        text += f' The largest relative differences were: {", ".join(found)}.'
    if 'captions' in worst:
        text += f' {worst["captions"]:.1%} of the captions differed.'
    return paragraph(text)


def _shares(rows):
    head = ('', *(f'{TITLES[row["job"]]}, {row["size"]}' for row in rows))
    cells = [(title, *(spread(row['products'][name]) for row in rows)) for name, title in PRODUCTS.items()]
    cells += [(f'our step, as a share of: {PRODUCTS[name]}', *(bold(row['share'][name], '{:.0%}') for row in rows))
              for name in ('two', 'one_and_one')]
    text = paragraph("""
        The upper rows are the rate in GFLOP/s of a float32 product of two 2048 × 2048 matrices, measured after each
        pair of turns. The rate of our step is the number of operations in its matrix products divided by its whole
        time.""")
    return f"""## Our training step relative to the machine's speed at matrix products

{table(head, cells)}

{text}"""


def _busy(rows):
    head = ('size', 'ours, quiet', 'ours, busy', 'busy / quiet', 'PyTorch, quiet', 'PyTorch, busy', 'busy / quiet')
    cells = [(row['size'], *(cell for who in ('ours', 'torch') for cell in (
        spread(row[who]['quiet']), spread(row[who]['busy']), bold(row[who]['ratio'])))) for row in rows]
    return f"""## Next to two busy loops

{table(head, cells)}

Milliseconds of the LSTM's training step, measured in turn on a quiet machine and while two other processes spin."""


def _sweeps(sweeps):
    hidden = next(points for what, points in sweeps.items() if what != 'hidden')[0]['hidden']
    factors = [f'{points[0]["x"]:,} to {points[-1]["x"]:,} {SWEEPS[what]}: '
               f'{", ".join(number(point["ratio"]["median"]) for point in points)}' for what, points in sweeps.items()]
    text = paragraph(f"""
        The time of the LSTM's training step and of a caption, medians of 3 turns. What does not vary is {hidden} for
        the encodings and the hidden state, 100 sentences in a batch, and the vocabulary that belongs to this size. Ours
        is this many times as fast as PyTorch: {'; '.join(factors)}.""")
    return f"""## What a larger problem costs

![Time by vocabulary, hidden size, batch and beam](benchmark_sweeps.svg)

{text}"""


@contextmanager
def _figure(width, height):
    """A figure of this size in inches, and a function that returns its SVG. Equal values give equal text."""
    import matplotlib
    from matplotlib.figure import Figure

    def save():
        text = io.StringIO()
        figure.savefig(text, format='svg', facecolor='white', metadata={'Date': None, 'Creator': None})
        return text.getvalue()

    with matplotlib.rc_context(STYLE):
        figure = Figure((width, height), layout='constrained')
        yield figure, save


def ratio_plot(jobs):
    """SVG of a bar chart: how many times as fast as PyTorch ours is, by job and size.

    The whiskers range from the lowest to the highest pair.
    """
    names = list(dict.fromkeys(row['job'] for row in jobs))
    sizes = list(dict.fromkeys(row['size'] for row in jobs))
    measured = {(row['job'], row['size']) for row in jobs}
    width = .8 / max(sum(job == name for job, _ in measured) for name in names)
    top = 1.4 * max(1, *(row['ratio']['median'] for row in jobs))
    with _figure(9, 3.4) as (figure, save):
        axes = figure.subplots()
        for k, size in enumerate(sizes):
            rows = [row for row in jobs if row['size'] == size]
            beside = [[one for one in sizes if (row['job'], one) in measured] for row in rows]
            x = [names.index(row['job']) + (some.index(size) - (len(some) - 1) / 2) * width
                 for row, some in zip(rows, beside, strict=True)]
            ratios = [row['ratio'] for row in rows]
            medians = [ratio['median'] for ratio in ratios]
            whiskers = [[ratio['median'] - ratio['low'] for ratio in ratios],
                        [ratio['high'] - ratio['median'] for ratio in ratios]]
            axes.bar(x, medians, .92 * width, color=BLUE, alpha=(1., .7, .45, .25)[k % 4], label=size, yerr=whiskers,
                     error_kw={'ecolor': GREY, 'elinewidth': .8, 'capsize': 2})
            for place, ratio in zip(x, ratios, strict=True):
                axes.annotate(f'{ratio["median"]:.2f}', (place, min(ratio['high'], .93 * top)), (0, 3),
                              textcoords='offset points', ha='center', fontsize=8)
        axes.axhline(1, color=ORANGE, linewidth=1.5, label='PyTorch')
        axes.set_ylim(0, top)
        axes.set_xticks(range(len(names)), [textwrap.fill(TITLES[name], 14) for name in names])
        axes.set_ylabel('times as fast as PyTorch')
        axes.legend(frameon=False, ncols=len(sizes) + 1, loc='upper left', bbox_to_anchor=(0, 1.15))
        return save()


def sweep_plot(sweeps):
    """SVG of the time of a training step by vocabulary, hidden size and batch, and of a caption by beam size."""
    from matplotlib.ticker import LogLocator

    with _figure(9, 2.7) as (figure, save):
        for axes, (what, points) in zip(figure.subplots(1, len(sweeps)), sweeps.items(), strict=True):
            x = [point['x'] for point in points]
            for who, label, color in (('ours', 'ours', BLUE), ('torch', 'PyTorch', ORANGE)):
                times = [1e3 / point[who]['median'] if what == 'beam' else point[who]['median'] for point in points]
                axes.plot(x, times, 'o-', color=color, label=label, linewidth=1.5, markersize=3.5)
            axes.set(xscale='log', yscale='log', xlabel=SWEEPS[what],
                     ylabel='ms per caption' if what == 'beam' else 'ms per training step')
            axes.set_xticks(x, [f'{value // 1000}k' if value >= 1000 and what == 'words' else str(value)
                                for value in x], minor=False)
            axes.minorticks_off()
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter('{x:g}')
            axes.grid(alpha=.25)
        figure.axes[0].legend(frameon=False)
        return save()


if __name__ == '__main__':
    sys.exit(main())

"""Compare the translation models with PyTorch's nn.LSTM: a training step, and the scores of a whole recipe.

    python benchmarks/translation.py [--only step] [SOURCE TARGET VAL_SOURCE VAL_TARGET] [--pairs 7] [--output FILE]
    python benchmarks/translation.py --only recipe SOURCE TARGET VAL_SOURCE VAL_TARGET TEST_SOURCE TEST_TARGET
        [--side torch] [--seed 0] [--max_epochs 12] [--attention]

step: as in compare.py, both sides must compute the same cost and gradients without dropout, PyTorch's options are tried
(translation_peer.py), then all take turns in one process, with the same number of threads. The batches are those that
train-translator would make of the files; without files, of random pairs as long as Multi30K's. recipe: trains one side
with the very batches, initial weights and schedule of train-translator, saves a checkpoint whenever perplexity on val
improves, and scores its translations of the test by BLEU. imagernn translate takes the checkpoint of either side. All
flags of train-translator set the model and its training. Prints a Markdown table or a line of scores.
"""

import json
import math
import sys
import time
from pathlib import Path
from typing import NamedTuple

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))    # a checkout need not be installed

import imagernn.nn.blas  # noqa: F401  before numpy

# isort: split
import machine
import numpy as np
import report
from compare import WARM_UP, agree, check_training, contest, fastest_way, job_row, measure
from report import bold, spread, table

from imagernn.errors import InputError, script
from imagernn.formats.json_files import write_json
from imagernn.formats.writing import require_writable, write_text
from imagernn.metrics.perplexity import perplexity
from imagernn.nn.schedules import schedule_of
from imagernn.nn.solver import Solver
from imagernn.nn.workers import Workers
from imagernn.runs.checkpoint_file import save_checkpoint
from imagernn.runs.names import checkpoint_path
from imagernn.runs.terminal import say
from imagernn.translation import score, train
from imagernn.translation.batch import make_batch
from imagernn.translation.evaluate import nats_of
from imagernn.translation.flags import FILES, check_training_flags
from imagernn.translation.lines import lines_of_file
from imagernn.translation.model import cost_and_grads, init_model
from imagernn.translation.text import Pairs, batch_chooser, chosen
from imagernn.translation.translator import Translator

SAME = 1e-4              # the largest relative difference of the cost and of any gradient from PyTorch's
WORDS = 6000             # in either vocabulary of the random pairs
LENGTH = 2.6, .32        # of Multi30K's French sentences, tokenized: mean and standard deviation of the logarithm
RATIO = -.076, .15       # of their translations' lengths by theirs
OWN_FLAGS = ('files', 'only', 'side', 'pairs', 'output')
# what PyTorch's side does: other values of these flags are refused
FIXED = {'layer': 'lstm', 'tanhC_version': 1, 'solver': 'adam', 'grad_clip_by': 'norm', 'regc': 0, 'weight_average': 0,
         'dtype': 'float32', 'fix_word_vectors': False, 'resume': '', 'init_model_from': ''}


class Size(NamedTuple):
    name: str
    words: int        # in the target's vocabulary
    hidden: str
    sentences: int


@script
def main(argv=None):
    args = parse(argv)
    for package in ('torch', 'threadpoolctl', 'matplotlib') if args.only == 'step' else ('torch',):
        report.require(package)
    if args.output:
        require_writable(args.output)
    import torch

    torch.set_num_threads(args.num_threads)
    found = JOBS[args.only](args)
    if args.output:
        write_json(args.output, found)
    return 0


def parse(argv):
    parser = train.build_parser()
    parser.prog, parser.description = Path(__file__).name, __doc__.splitlines()[0]
    parser.set_defaults(num_threads=2)
    add = parser.add_argument_group('benchmark').add_argument
    add('files', nargs='*', metavar='FILE',
        help='The source and target of the training, of val and, for the recipe, of the test: sentences, one a line.')
    add('--only', choices=JOBS, default='step', help='What to measure.')
    add('--side', choices=('ours', 'torch'), default='torch', help='The side that the recipe trains.')
    add('--pairs', type=int, default=7, help='The number of timed turns. More give a steadier median.')
    add('--output', type=Path, help='A file for all values, as JSON (default: none).')
    args = parser.parse_args(argv)
    if len(args.files) not in ((6,) if args.only == 'recipe' else (0, 4)):
        raise InputError(f'{len(args.files)} files: --only recipe needs six, the source and target of the training, of '
                         'val and of the test; --only step the first four, or none')
    for name, value in FIXED.items():
        if getattr(args, name) != value:
            raise InputError(f"--{name} {getattr(args, name)}: PyTorch's side has only {value or 'none'}")
    if len({*args.hidden_sizes.split(',')}) > 1:
        raise InputError(f'--hidden_sizes {args.hidden_sizes}: the layers of nn.LSTM have the same size')
    for name in ('pairs', 'num_threads'):
        if getattr(args, name) < 1:
            raise InputError(f'--{name} {getattr(args, name)}: must be at least 1')
    check_training_flags(params_of(args))
    return args


def params_of(args):
    """The flags of train-translator, with names for the files of a run."""
    params = {name: value for name, value in vars(args).items() if name not in OWN_FLAGS}
    files = args.files[:4] or ['random'] * 4
    return {**params, **dict(zip(FILES, files, strict=True)), 'dataset': args.side,
            'fappend': f'{args.fappend}_seed{args.seed}'}

# ---- a training step ------------------------------------------------------------------------------------------------

class Ours:
    """Our side: a translation model, its solver and its threads."""

    def __init__(self, params, source_words, words, rng):
        self.params, self.model = params, init_model(params, source_words, words, rng)
        self.rng, self.workers, self.solver = rng, Workers(params['num_threads']), Solver(params)

    def train_step(self, batch):
        """Make one update, with dropout. Returns the cost."""
        cost, grads, _ = cost_and_grads(batch, self.model, self.params, self.rng, self.workers)
        self.solver.step(self.model, grads, workers=self.workers)
        return cost

    def cost_and_grads(self, batch):
        """The cost of a batch and its gradients, without dropout."""
        return cost_and_grads(batch, self.model, self.params, workers=self.workers)[:2]


def contestants(params, source_words, words, larger=1):
    """Our side and PyTorch's with the same initial weights, larger times those of train-translator."""
    from translation_peer import TranslationPeer

    ours = Ours(params, source_words, words, np.random.default_rng(params['seed']))
    for w in ours.model.values():
        w *= larger
    return ours, TranslationPeer(ours.model, params)


def random_pairs(words, count, rng):
    """Pairs with the lengths of Multi30K's and words 2, 3, … whose probabilities are about proportional to 1/rank."""
    lengths = np.exp(rng.normal(*LENGTH, count))
    sides = []
    for some in (lengths, lengths * np.exp(rng.normal(*RATIO, count))):
        some = np.maximum(1, np.rint(some)).astype(np.int64)
        sides.append((np.floor((words - 1) ** rng.random(some.sum())).astype(np.int64) + 1, some))
    return Pairs(*sides)


def batches_of(pairs, params, count):
    """The first batches of a training run; where it has fewer, they come again in another order."""
    numbers_at, _ = batch_chooser(pairs, params['batch_size'], params['seed'])
    parts = [chosen(pairs, numbers_at(it)) for it in range(count)]
    return [make_batch(*part.source, *part.target) for part in parts]


def step_job(params, pairs, vocabulary_sizes, turns, rounds=3):
    """Time training steps of a model: forward, backward and update, with dropout, in milliseconds."""
    name = 'with attention' if params['attention'] else 'without attention'
    size = Size(name, vocabulary_sizes[1], params['hidden_sizes'], params['batch_size'])
    batches, (ours, peer) = batches_of(pairs, params, WARM_UP + turns), contestants(params, *vocabulary_sizes)
    choices = list(peer.options)
    checks = check_training(ours, peer, batches[0], choices)
    checks = {what: agree(f'{name}: {what}', difference, SAME) for what, difference in checks.items()}
    way = fastest_way(peer, choices, lambda: peer.train_step(batches[0]), rounds)
    runs = contest(peer, way, lambda i: ours.train_step(batches[i]), lambda i: peer.train_step(batches[i]))
    seconds, _ = measure(runs, turns, report.STEPS)
    if not all(math.isfinite(who.cost_and_grads(batches[0])[0]) for who in (ours, peer)):
        raise RuntimeError(f'{name}: the weights exploded, so the times mean nothing')
    return {**job_row(size, seconds), 'way': way, 'checks': checks}


def step(args):
    """Time the models without and with attention; with --attention, the second alone. Prints a Markdown table."""
    params = params_of(args)
    if args.files:
        vocabularies, splits = train.read_splits(params, None)
        pairs, sizes = splits['train'], [len(words) for words in vocabularies]
    else:
        count = params['batch_size'] * (WARM_UP + args.pairs)
        pairs, sizes = random_pairs(WORDS, count, np.random.default_rng(params['seed'])), [WORDS, WORDS]
    rows = [step_job({**params, 'attention': attention}, pairs, sizes, args.pairs)
            for attention in ([True] if args.attention else [False, True])]
    print(step_table(rows))
    return {'machine': machine.describe(machine.Products()), 'params': params, 'vocabularies': sizes, 'step': rows}


def step_table(rows):
    head = ('training step', 'ours, ms', 'PyTorch as usual, ms', 'times as fast', 'PyTorch at its best, ms',
            'times as fast', 'its best way')
    differences = '; '.join(f'{row["size"]}: cost {row["checks"]["cost"]:.0e}, gradients '
                            f'{row["checks"]["gradients"]:.0e}' for row in rows)
    return table(head, [(row['size'], spread(row['ours']), spread(row['usual']), bold(row['usual_ratio']),
                         spread(row['torch']), bold(row['ratio']), report.way(row)) for row in rows]) + (
        f'\n\nLargest relative differences from PyTorch: {differences}.')

# ---- the recipe -----------------------------------------------------------------------------------------------------

def recipe(args):
    """Train one side, translate the test by beam search and print its BLEU. Returns the scores."""
    params, began = params_of(args), time.perf_counter()
    vocabularies, splits = train.read_splits(params, None)
    started = *train.start(params, None, vocabularies, splits), splits, params
    state = started[0]
    if args.side == 'torch':
        path = train_torch(*started)
    elif train.train(*started):
        raise InputError(f'the run did not finish; resume it with: imagernn train-translator --resume '
                         f'{checkpoint_path(params, "last")}')
    else:
        path = state.best_checkpoint
    seconds = time.perf_counter() - began
    say(f'{args.side}: trained in {seconds / 60:.1f} minutes, {path}')
    test_source, test_target = args.files[4:]
    bleu = score_test(path, test_source, test_target, params)
    return {'machine': machine.describe_cpu(), 'side': args.side, 'params': params, 'seconds': seconds,
            'checkpoint': str(path), 'perplexity': state.best, 'bleu': bleu}


def train_torch(state, solver, rng, splits, params):
    """train.train for PyTorch's side: the same batches, schedule and evaluations, and PyTorch's own dropout.

    Before it trains, the options that are fastest for the first batch are chosen. Returns the path of the best
    checkpoint; changes state.
    """
    import torch
    from translation_peer import TranslationPeer

    torch.manual_seed(params['seed'])
    peer, workers = TranslationPeer(state.model, params), Workers(params['num_threads'])
    numbers_at, iters_per_epoch = batch_chooser(splits['train'], params['batch_size'], params['seed'])
    learning_rate_at = schedule_of(params, iters_per_epoch)
    max_iters = max(1, round(params['max_epochs'] * iters_per_epoch))
    eval_period = max(1, int(params['eval_period'] * iters_per_epoch))
    first, = batches_of(splits['train'], params, 1)
    say(', '.join(fastest_way(peer, [name for name in peer.options if name != 'adam'],
                              lambda: peer.cost_and_grads(first), 3).values()))
    path, began = checkpoint_path(params, 'best'), time.perf_counter()
    while state.it < max_iters:
        pairs = chosen(splits['train'], numbers_at(state.it))
        state.epoch = (state.it + 1) / iters_per_epoch
        peer.train_step(make_batch(*pairs.source, *pairs.target), learning_rate_at(state.epoch))
        state.it += 1
        # as Run: none right before the last one
        if state.it == max_iters or state.it % eval_period == 0 and state.it < max_iters - 4:
            state.model = peer.weights()
            state.val = perplexity(-nats_of(splits['val'], state.model, params, workers), 1)
            say(f'epoch {state.epoch:.2f}: perplexity {state.val:.4f} on val, {time.perf_counter() - began:.0f} s')
            if state.score.better(state.val, state.best):
                state.best, state.best_checkpoint = state.val, str(path)
                save_checkpoint(path, {**state.entries(), 'params': params})
    return path


def score_test(path, source, target, params):
    """BLEU of a checkpoint's translations by beam search with the defaults of imagernn translate, printed and returned.

    The translations go to a file beside the checkpoint. InputError where they and the target differ in lines.
    """
    translator = Translator.load([path], num_threads=params['num_threads'])
    best = [sentences[0].text if sentences else ''
            for sentences in translator.translate(translator.words_of(lines_of_file(source)))]
    translations = Path(path).with_suffix('.translations.txt')
    write_text(translations, ''.join(f'{text}\n' for text in best))
    scores = translations.with_suffix('.json')
    score.main([str(translations), target, '--json', str(scores), *(['--lower_case'] if params['lower_case'] else [])])
    return json.loads(scores.read_text(encoding='utf-8'))['results'][0]


JOBS = {'step': step, 'recipe': recipe}


if __name__ == '__main__':
    sys.exit(main())

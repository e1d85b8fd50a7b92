"""How a captioning run starts: from the command line, a new model or a checkpoint, and the data.

Knows which flags a checkpoint decides, and what must be checked before the first step. The loop is driver.py's.
"""

import numpy as np

from imagernn.captioning.evaluate import known_words
from imagernn.captioning.flags import MODEL_PARAMS, RUN_PARAMS, check_training_flags
from imagernn.captioning.load import (
    KIND,
    check_feature_size,
    load_captioner,
    note_other_origin,
    open_data,
    require_same_data,
    trained_data,
)
from imagernn.captioning.model import check_model, init_model
from imagernn.corpus.vocab import MOST_DROPPED, build_vocab, threshold_for
from imagernn.errors import InputError
from imagernn.nn.solver import Solver
from imagernn.runs.checkpoints import newest_resumable
from imagernn.runs.flags import require_near, require_same, sound_params
from imagernn.runs.state import CIDER, PERPLEXITY, RunState, require_resumable, resumed
from imagernn.runs.terminal import say, warn


def prepare(parser, argv):
    """What driver.train takes: a RunState, a Solver, the random stream, a DataProvider, and the flags as a dict.

    They are those of a new run or of a checkpoint, as the command line says. InputError for mistakes in it or in files.
    """
    params, checkpoint = main_params(parser, argv)
    if checkpoint:
        path = params['resume'] or params['init_model_from']
        _, params['features'] = trained_data(checkpoint, path, params['dataset'], params['features'])
    provider = open_data(params, params)
    # a missing split is reported now, not in an hour
    provider.require_split('train', "Mark the images to train on with the split 'train' in dataset.json.")
    provider.require_split('val', 'Take some of the training images as val with --val_share .1, or mark images with '
                                  "the split 'val' in dataset.json.")
    if params['do_grad_check']:
        params['dtype'] = 'float64'
    return *start(params, checkpoint, provider), provider, params


def main_params(parser, argv):
    """The command line as a dict, checked; and the checkpoint that the run starts from, or None."""
    args = parser.parse_args(argv)
    if args.resume not in ('', 'auto') and args.init_model_from:
        raise InputError('--resume and --init_model_from exclude each other: the first continues a run, the second '
                         'starts a new one')
    checkpoint = None
    if args.resume == 'auto':
        args.resume, checkpoint = newest_resumable(vars(args), load_resumable)
    elif args.resume:
        checkpoint = load_resumable(args.resume)
    elif args.init_model_from:
        checkpoint = load_captioner(args.init_model_from)
    if checkpoint is None:
        params = {**vars(args)}
    else:
        params = with_saved_params(parser, argv, args, checkpoint)
    check_training_flags(params)
    return params, checkpoint


def load_resumable(path):
    """The checkpoint at path; InputError unless a run can resume from it."""
    checkpoint = load_captioner(path)
    require_resumable(path, checkpoint, score_of(checkpoint['params']))
    if checkpoint.get('good'):
        try:
            check_model(checkpoint['good']['model'], checkpoint['params'], len(checkpoint['ixtoword']))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(f'{path}: the state that it would roll back to is damaged ({error}); use another '
                             'checkpoint') from None
    return checkpoint


def with_saved_params(parser, argv, args, checkpoint):
    """The command line, with a checkpoint's flags as defaults: all of a run, or with --init_model_from the model's."""
    path = args.resume or args.init_model_from
    if args.resume:
        keep = set(vars(args)) - {'features', 'resume', 'init_model_from', 'profile', 'allow_changed_data'}
    else:
        keep = {*MODEL_PARAMS, 'word_count_threshold'}
    saved = {name: value for name, value in checkpoint['params'].items() if name in keep}
    parser.set_defaults(**sound_params(parser, path, saved))
    params = {**vars(parser.parse_args(argv)), 'resume': args.resume}
    # early versions had one objective
    require_same(params, {'self_critical_after': -1, 'label_smoothing': 0., **checkpoint['params']}, path,
                 (*MODEL_PARAMS, *(RUN_PARAMS if args.resume else ())), RUN_PARAMS)
    # the vocabulary is the checkpoint's
    params['word_count_threshold'] = saved.get('word_count_threshold', params['word_count_threshold'])
    if args.resume:
        require_near(params, vars(args), path)
    return params


def start(params, checkpoint, provider):
    """The RunState, solver and random stream of a new run, or as the checkpoint left them."""
    dtype, rng, solver = np.dtype(params['dtype']), np.random.default_rng(params['seed']), Solver(params)
    if checkpoint is None:
        tokens, num_sentences = provider.tokens('train')
        wordtoix, ixtoword, bias_init_vector = build_vocab(tokens, provider.words, num_sentences,
                                                           params['word_count_threshold'])
        model = init_model(params, provider.features.whole_dim, bias_init_vector, rng, dtype,
                           provider.features.region_dim)
    else:
        wordtoix, ixtoword = checkpoint['wordtoix'], checkpoint['ixtoword']
        model = {name: array.astype(dtype) for name, array in checkpoint['model'].items()}
        check_feature_size(provider.features, model)
    features = {'file': params['features'] or provider.features.path.name, 'dim': provider.features.whole_dim,
                **provider.features.origin}
    extra = {'kind': KIND, 'wordtoix': wordtoix, 'ixtoword': ixtoword, 'features': features,
             'fingerprint': provider.fingerprint()}
    if params['resume']:
        state = resumed(params['resume'], checkpoint, model, score_of(params), extra, solver, rng)
        if not require_same_data(params['resume'], checkpoint, extra['fingerprint'], params['allow_changed_data']):
            state.forget_scores()
    else:
        if checkpoint:
            note_other_origin(checkpoint, provider.features.origin)
        state = RunState(model, score_of(params), extra)
    state.keep_average_where(params['weight_average'])
    state.keep_good_where(params['on_divergence'], solver, rng)
    return state, solver, rng


def score_of(params):
    """What a run with these flags is judged by on val: captions by CIDEr-D if it trains on rewards, else perplexity."""
    return CIDER if params.get('self_critical_after', -1) >= 0 else PERPLEXITY


def perplexity_limits(params):
    """What the flags ask of validation perplexities: Run's worth_saving and hopeless."""
    threshold, limit = params['write_checkpoint_ppl_threshold'], params['min_ppl_or_abort']

    def hopeless(value):
        if 0 < limit <= value:
            return f'perplexity {value:.2f} on val is not below --min_ppl_or_abort {limit}'
        return None

    return {'worth_saving': lambda value: threshold < 0 or value < threshold, 'hopeless': hopeless}


def report_words(provider, lookup, params):
    """Print how much of the text the vocabulary drops; with a warning where it is much, of the val split too."""
    train = known_words(provider, 'train', lookup)
    val = known_words(provider, 'val', lookup, params['eval_max_images'])
    say(f'the vocabulary has {train.num_words - train.unknown_words} of {train.num_words} different words; '
        f'the others, {train.unknown_share:.1%} of the text, are dropped')
    for split, found in (('train', train), ('val', val)):
        if found.unknown_share > MOST_DROPPED:
            lower = threshold_for(provider.word_counts('train'), MOST_DROPPED)
            helps = lower < params['word_count_threshold'] and not params['resume'] and not params['init_model_from']
            warn(f'{found.unknown_tokens} of {found.num_tokens} tokens of the {split} split are not in the vocabulary; '
                 'perplexity does not count them' + (f'. Try --word_count_threshold {lower}' if helps else ''))

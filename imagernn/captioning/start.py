"""How a captioning run starts: from the command line, a new model or a checkpoint, and the data.

Knows which flags a checkpoint decides, and what must be checked before the first step. The loop is driver.py's.
"""

import numpy as np

from imagernn.captioning.flags import MODEL_PARAMS, RUN_PARAMS, check_training_flags
from imagernn.captioning.load import KIND, check_feature_size, load_captioner, open_data
from imagernn.captioning.model import check_model, equal_sizes, init_model
from imagernn.corpus.flags import NO_WORD_VECTORS
from imagernn.corpus.trained_on import note_other_origin, require_same_data, require_splits, trained_data
from imagernn.corpus.vocab import build_vocab
from imagernn.corpus.word_vectors import word_vectors_for
from imagernn.errors import InputError
from imagernn.nn.solver import Solver
from imagernn.runs.start import chosen_params
from imagernn.runs.state import CIDER, PERPLEXITY, RunState, require_resumable, resumed
from imagernn.runs.terminal import report


def prepare(parser, argv):
    """What driver.train takes: a RunState, a Solver, the random stream, a DataProvider, and the flags as a dict.

    They are those of a new run or of a checkpoint, as the command line says. InputError for mistakes in it or in files.
    """
    params, checkpoint = main_params(parser, argv)
    if checkpoint:
        path = params['resume'] or params['init_model_from']
        _, params['features'] = trained_data(checkpoint, path, params['dataset'], params['features'])
    provider = open_data(params, params)
    require_splits(provider)
    if params['do_grad_check']:
        params['dtype'] = 'float64'
    return *start(params, checkpoint, provider), provider, params


def main_params(parser, argv):
    """The command line as a dict, checked; and the checkpoint that the run starts from, or None."""
    params, checkpoint = chosen_params(parser, argv, load_captioner, load_resumable, MODEL_PARAMS, RUN_PARAMS,
                                       {'self_critical_after': -1, 'label_smoothing': 0., **NO_WORD_VECTORS})
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


def start(params, checkpoint, provider):
    """The RunState, solver and random stream of a new run, or as the checkpoint left them."""
    dtype, rng = np.dtype(params['dtype']), np.random.default_rng(params['seed'])
    solver = Solver(params, ['Ws'] if params['fix_word_vectors'] else [])
    if checkpoint is None:
        tokens, num_sentences = provider.tokens('train')
        wordtoix, ixtoword, bias_init_vector = build_vocab(tokens, provider.words, num_sentences,
                                                           params['word_count_threshold'])
        model = init_model(params, provider.features.whole_dim, bias_init_vector, rng, dtype,
                           provider.features.region_dim)
        if params['word_vectors']:
            equal = equal_sizes(params)
            flags = equal if 'word_encoding_size' in equal else ['word_encoding_size']
            model['Ws'][:], *found = word_vectors_for(params['word_vectors'], ixtoword, bias_init_vector,
                                                      params['word_encoding_size'], rng, flags)
            report(*found)
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

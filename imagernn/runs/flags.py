"""What the flags of a training run may be: on the command line, in a checkpoint, and between the two."""

import math
import re
from pathlib import Path

from imagernn.errors import InputError

# what a checkpoint's arrays were made for: a run that goes on from one cannot choose these anew
MODEL_PARAMS = ('generator', 'image_encoding_size', 'word_encoding_size', 'hidden_size', 'tanhC_version',
                'rnn_relu_encoders', 'rnn_feed_once')
# what a run that goes on cannot choose anew, besides
RUN_PARAMS = ('dataset', 'seed', 'word_count_threshold', 'batch_size')

# what a checkpoint of an earlier version of this program does not hold, and what a run has there in its stead
NEW_ENTRIES = {'rollbacks': 0, 'trend': {}, 'good': None}


def sound_params(parser, path, saved):
    """The flags that a checkpoint saved; InputError where one is not what the parser would have given."""
    kinds = {int: int, float: (int, float)}
    for action in parser._actions:
        if action.dest in saved:
            value = saved[action.dest]
            sound = isinstance(value, kinds.get(action.type, str)) and not isinstance(value, bool)
            if not sound or (action.choices and value not in action.choices):
                raise InputError(f'{path}: its {action.dest} is {value!r:.60}, which the flag cannot be; '
                                 'use another checkpoint')
    return saved


def require_resumable(path, checkpoint):
    """InputError unless the checkpoint holds all that a run needs to go on as if never stopped."""
    number, perhaps = (int, float), (int, float, type(None))
    trained = {'solver': dict, 'rng_state': dict, 'it': int, 'epoch': number, 'smooth_train_ppl2': perhaps}
    kinds = {**trained, 'history': list, 'val_ppl2': number, 'top_val_ppl2': number, 'cost0': perhaps,
             'best_checkpoint': (str, type(None))}
    unsound = [key for key, kind in kinds.items() if not _is(checkpoint.get(key), kind)]
    rollbacks, trend, good = (checkpoint.get(key, new) for key, new in NEW_ENTRIES.items())
    unsound += [f'good {key}' for key, kind in (trained if good is not None else {}).items()
                if not isinstance(good, dict) or not _is(good.get(key), kind)]
    for each in (trend, good['trend'] if isinstance(good, dict) and 'trend' in good else {}):
        if not isinstance(each, dict) or not all(_is(value, number) for value in each.values()):
            unsound.append('trend')
    if not isinstance(rollbacks, int) or not 0 <= rollbacks <= 1000:
        unsound.append('rollbacks')
    if unsound or checkpoint['it'] < 0:
        raise InputError(f'{path}: cannot be resumed, it holds no sound {", ".join(unsound) or "it"}; '
                         'start a new run from its weights with --init_model_from')


def _is(value, kind):
    """Whether value is of this kind, and no whole number so large that it has no float."""
    return isinstance(value, kind) and not (isinstance(value, int) and abs(value) >> 63)


def require_near(params, given, path):
    """InputError where the checkpoint at path, and not the command line, sends the run's files far away: to a folder
    that is neither below this one, nor below the one beside which the checkpoint's own lies.
    """
    near = [Path.cwd(), Path(path).resolve().parent.parent]
    for name in ('checkpoint_output_directory', 'worker_status_output_directory'):
        folder = Path(params[name].replace('\0', '?')).resolve()
        if params[name] != given[name] and not any(folder.is_relative_to(place) for place in near):
            raise InputError(f'{path}: says that its run writes to {folder}; if it is to go on there, say so with '
                             f'--{name}')


def require_same(params, saved, path, names):
    """InputError where one of the named flags differs from what the checkpoint at path was made with."""
    for name in names:
        if params[name] != saved.get(name, params[name]):
            raise InputError(f'--{name} {params[name]}: {path} was made with {saved[name]}; leave the flag out'
                             + (', or start a new run with --init_model_from' if name in RUN_PARAMS else ''))


def check_ranges(params):
    """InputError for a flag whose value cannot be."""
    for name, value in params.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f'--{name} {value}: must be a finite number')
    between = {'batch_size': (1, 10 ** 6), 'eval_batch_size': (1, 10 ** 6), 'word_count_threshold': (1, math.inf),
               'image_encoding_size': (1, 10 ** 5), 'word_encoding_size': (1, 10 ** 5), 'hidden_size': (1, 10 ** 5),
               'seed': (0, math.inf), 'num_threads': (1, 1000), 'regc': (0, math.inf), 'learning_rate': (0, math.inf),
               'smooth_eps': (0, math.inf)}
    for name, (least, most) in between.items():
        if not least <= params[name] <= most:
            raise InputError(f'--{name} {params[name]}: must be at least {least}'
                             + (f' and at most {most}' if most < math.inf else ''))
    for name in ('drop_prob_encoder', 'drop_prob_decoder', 'decay_rate', 'momentum', 'adam_beta1'):
        if not 0 <= params[name] < 1:
            raise InputError(f'--{name} {params[name]}: must be at least 0 and below 1')
    for name in ('max_epochs', 'eval_period', 'learning_rate_decay_every'):
        if not 0 < params[name] <= 1e9:
            raise InputError(f'--{name} {params[name]}: must be above 0 and at most 1e9')
    if params['eval_max_images'] == 0:
        raise InputError('--eval_max_images 0: nothing to evaluate on; give a number, or -1 for all')
    checkpoint_period(params['checkpoint_every'])
    if params['on_divergence'] == 'rollback' and params['solver'] == 'adadelta':
        raise InputError('--on_divergence rollback: halves the learning rate, and --solver adadelta has none; '
                         'choose another solver')
    if not re.fullmatch(r'[^/\\\x00-\x1f\ud800-\udfff]{1,100}', params['fappend']):
        raise InputError(f'--fappend {params["fappend"]}: becomes a part of file names, so give 1 to 100 characters, '
                         'without / or \\')


def checkpoint_period(text):
    """--checkpoint_every -> (iterations, None), from '500', or (None, seconds), from minutes, '10m'. InputError."""
    if re.fullmatch(r'[0-9]{1,9}', text) and int(text):
        return int(text), None
    if re.fullmatch(r'[0-9]{1,6}(\.[0-9]{1,6})?m', text) and float(text[:-1]):
        return None, 60 * float(text[:-1])
    raise InputError(f'--checkpoint_every {text}: give a number of iterations, as 500, or of minutes, as 10m')

"""The flags that every training run has, what they may be, and how they relate to those saved in a checkpoint."""

import argparse
import math
import re
from pathlib import Path

from imagernn.errors import InputError
from imagernn.nn.blas import NUM_THREADS
from imagernn.nn.names import CLIPS, SCHEDULES, SOLVERS

FLOAT32_MAX = 3.4e38    # a number beyond it becomes inf in training
MOST_BYTES = 100    # of --fappend: file names have at most 255, of which others take a part
MOST_THREADS = 4    # by default: a batch of 100 in more parts makes small matrices
FOLDERS = ('checkpoint_output_directory', 'worker_status_output_directory', 'output_directory')    # of a run's files


class HelpWithDefaults(argparse.HelpFormatter):
    """Each flag's help ends in its default, unless the help names it itself or there is none to show."""

    def _get_help_string(self, action):
        default = action.default
        if (isinstance(default, (bool, list)) or default in (None, '', argparse.SUPPRESS)
                or re.search(r'\(default|%\(default\)', action.help)):
            return action.help
        return f'{action.help.removesuffix(".")} (default: %(default)s).'


def add_optimizer_flags(parser):
    """Solver, learning rate and clipping: the parameters of nn.solver.Solver and nn.schedules.schedule_of."""
    add = parser.add_argument_group('optimizer').add_argument
    add('--solver', choices=SOLVERS, default='rmsprop',
        help='The update rule. rmsprop is NeuralTalk\'s; adam learns faster.')
    add('-l', '--learning_rate', type=float, default=1e-3,
        help='The step size. Lower it when the cost explodes.')
    add_schedule_flags(add)
    add('--momentum', type=float, default=0.,
        help='The momentum of the solver vanilla, which other solvers ignore. Set it to .9, for example, to speed up '
             'vanilla.')
    add('--decay_rate', type=float, default=.999,
        help='How slowly rmsprop and adadelta forget old squared gradients; beta2 of adam. Lower it if the gradients '
             'change quickly, as in short runs.')
    add('--smooth_eps', type=float, default=1e-8,
        help='The small number that keeps the adaptive solvers from dividing by 0. Raise it if parameters with tiny '
             'gradients take too large steps.')
    add('--adam_beta1', type=float, default=.9,
        help='How slowly adam forgets old gradients. Raise it if the cost is noisy, lower it if the cost oscillates.')
    add('--grad_clip', type=float, default=5,
        help='The bound of the gradients. Lower it if updates explode; 0 does not clip.')
    add('--grad_clip_by', choices=CLIPS, default='value',
        help='What the bound holds for: "value" clips each element of a gradient, as in NeuralTalk; "norm" scales all '
             'gradients together, so choose it to keep their direction.')


def add_schedule_flags(add, schedule='halving'):
    """The parameters of nn.schedules.schedule_of, but for the learning rate; and the average of the weights.

    schedule: the default one.
    """
    add('--learning_rate_schedule', choices=SCHEDULES, default=schedule,
        help='How the learning rate falls: "halving" follows the flags --learning_rate_decay_start and '
             '--learning_rate_decay_every; "cosine" falls along half a cosine to 0 at --max_epochs and ignores these '
             'two. Choose cosine if you know how long the run will be.')
    add('--learning_rate_decay_start', type=float, default=-1,
        help='With halving, the epoch from which the learning rate falls. Set it, to a third of the epochs for '
             'example, for a better model at the end; -1 keeps the rate constant.')
    add('--learning_rate_decay_every', type=float, default=5,
        help='With halving, the number of epochs in which it then halves, smoothly. Lower it for a shorter run.')
    add('--warmup', type=float, default=0.,
        help='The number of epochs, such as .5, in which the learning rate of either schedule first rises from 0. Set '
             'it if the first steps make the cost explode, as with a large learning rate.')
    add('--weight_average', type=float, default=0.,
        help='The decay, such as .999, of a moving average of the weights, which is then what is evaluated and saved; '
             'the training itself continues from the weights. Set it for a better model at the end, above all if the '
             'learning rate stays high; 0 keeps no average.')


def add_output_flags(parser, short_o=True):
    """Names and folders of what a run writes, and how it resumes. Returns the argument group.

    short_o: whether -o is the folder of checkpoints, as in NeuralTalk, and not free for another flag.
    """
    group = parser.add_argument_group('output and resuming')
    add = group.add_argument
    add('--fappend', default='baseline',
        help='A name for the run, a part of the names of its checkpoints and of its status file. Runs at the same time '
             'need different ones.')
    add(*(['-o'] if short_o else []), '--checkpoint_output_directory', default='cv/',
        help='The folder for checkpoints. Change it to keep them on a disk with more space, for example.')
    add('--worker_status_output_directory', default='status/',
        help='The folder for the status file, which the monitor shows. Give the runs that you want to compare there '
             'the same one.')
    add('--checkpoint_every', default='10m',
        help='How often to save the last checkpoint, in iterations (500) or in minutes (10m); it is saved at every '
             'evaluation as well. Save more often if the machine may be switched off.')
    add('--resume', default='',
        help='The checkpoint to resume from, as if the run had never stopped; flags given beside it take precedence. '
             'With "auto", the newest valid checkpoint of this data set and --fappend is found, from this machine if '
             'it has one; where there is none, a new run starts.')
    return group


def add_system_flags(parser):
    """Seed, threads, profiling, and what happens on divergence."""
    add = parser.add_argument_group('system').add_argument
    add('--seed', type=int, default=0,
        help='The seed of the initial weights, the batches and the dropout. Change it to see how much a score depends '
             'on chance.')
    add('--num_threads', type=int, default=min(NUM_THREADS, MOST_THREADS),
        help='How many threads share each batch. Lower it to leave cores to other programs. The same number gives the '
             'same bits; another one rounds differently.')
    add('--profile', action='store_true',
        help='Print, when the run ends, where the time of a step went. Use it to see what makes a run slow.')
    add('--on_divergence', choices=('stop', 'rollback'), default='stop',
        help='What to do when the cost explodes or a value is not finite: "stop" ends the run; "rollback" returns to '
             'the last good state and halves the learning rate, for runs that nobody watches.')


def sound_params(parser, path, saved):
    """The flags that a checkpoint saved; InputError where one is not what the parser would have given."""
    kinds = {int: int, float: (int, float)}
    for action in parser._actions:
        if action.dest in saved:
            value = saved[action.dest]
            values = value if isinstance(value, list) and action.nargs else [value]
            if action.const is True:    # a flag without a value
                right = isinstance(value, bool)
            else:
                right = all(isinstance(each, kinds.get(action.type, str)) and not isinstance(each, bool)
                            for each in values)
            if not right or (action.choices and value not in action.choices):
                raise InputError(f'{path}: its {action.dest} is {value!r:.60}, which is invalid for this flag; '
                                 'use another checkpoint')
    return saved


def require_near(params, given, path):
    """InputError where the checkpoint at path, and not the command line, sends the run's files far away.

    Near is a folder below this one, or below the one beside which the checkpoint's own folder lies.
    """
    near = [Path.cwd(), Path(path).resolve().parent.parent]
    for name in [name for name in FOLDERS if name in params]:
        folder = Path(params[name].replace('\0', '?')).resolve()
        if params[name] != given[name] and not any(folder.is_relative_to(place) for place in near):
            raise InputError(f'{path}: says that its run writes to {folder}; to resume there, give that folder with '
                             f'--{name}')


def require_same(params, saved, path, fixed, with_new_run=()):
    """InputError where a flag named in fixed differs from what the checkpoint at path was made with.

    with_new_run: those of them that a new run from the checkpoint's weights could choose.
    """
    for name in fixed:
        if params[name] != saved.get(name, params[name]):
            before = 'none' if saved[name] == '' else saved[name]
            raise InputError(f'--{name} {params[name]}: {path} was made with {before}; leave the flag out'
                             + (', or start a new run with --init_model_from' if name in with_new_run else ''))


def check_run_params(params):
    """Raise InputError for an invalid value of the flags above."""
    require_finite(params)
    require_between(params, {'seed': (0, math.inf), 'num_threads': (1, 1000), 'learning_rate': (0, FLOAT32_MAX),
                             'smooth_eps': (0, FLOAT32_MAX)})
    require_shares(params, ('decay_rate', 'momentum', 'adam_beta1', 'weight_average'))
    require_above_zero(params, ('max_epochs', 'eval_period', 'learning_rate_decay_every'))
    require_between(params, {'warmup': (0, 1e9)})
    checkpoint_period(params['checkpoint_every'])
    if params['on_divergence'] == 'rollback' and params['solver'] == 'adadelta':
        raise InputError('--on_divergence rollback: halves the learning rate, and --solver adadelta has none; '
                         'choose another solver')
    if params.get('warmup') and params['solver'] == 'adadelta':
        raise InputError(f'--warmup {params["warmup"]}: changes the learning rate, and --solver adadelta has none; '
                         'leave it out, or choose another solver')
    allowed = re.fullmatch(r'[^/\\\x00-\x1f\ud800-\udfff]+', params['fappend'])
    if not allowed or len(params['fappend'].encode()) > MOST_BYTES:
        raise InputError(f'--fappend {params["fappend"]}: becomes a part of file names, so give 1 to {MOST_BYTES} '
                         'characters, without / or \\; a letter outside English counts as 2 to 4')


def require_finite(params):
    for name, value in params.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f'--{name} {value}: must be a finite number')


def require_between(params, limits):
    """limits: name -> (least, most), both allowed. Flags that params does not have are passed over."""
    for name, (least, most) in limits.items():
        if not least <= params.get(name, least) <= most:
            raise InputError(f'--{name} {params[name]}: must be at least {least}'
                             + (f' and at most {most}' if most < math.inf else ''))


def require_shares(params, names):
    for name in names:
        if not 0 <= params.get(name, 0) < 1:
            raise InputError(f'--{name} {params[name]}: must be at least 0 and below 1')


def require_above_zero(params, names):
    for name in names:
        if not 0 < params.get(name, 1) <= 1e9:
            raise InputError(f'--{name} {params[name]}: must be above 0 and at most 1e9')


def checkpoint_period(text):
    """--checkpoint_every -> (iterations, None), from '500', or (None, seconds), from minutes, '10m'. InputError."""
    if re.fullmatch(r'[0-9]{1,9}', text) and int(text):
        return int(text), None
    if re.fullmatch(r'[0-9]{1,6}(\.[0-9]{1,6})?m', text) and float(text[:-1]):
        return None, 60 * float(text[:-1])
    raise InputError(f'--checkpoint_every {text}: give a number of iterations, such as 500, or of minutes, such as 10m')

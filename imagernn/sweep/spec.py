"""The file that says what a sweep tries: the trainer, its flags, and the distributions of those that vary.

Checks it, draws the values of each run, and turns them into arguments that the trainer's own parser takes.
"""

import argparse
import difflib
import itertools
import json
import math
from pathlib import Path

import numpy as np

from imagernn.__main__ import COMMANDS
from imagernn.errors import InputError, command
from imagernn.formats.json_files import contents_of, json_type, load_json, parsed, write_json
from imagernn.formats.writing import require_folder
from imagernn.web.status_folder import MOST_FILES

TRAINERS = [name for name in COMMANDS if name.startswith('train')]
ENTRIES = {'command': str, 'flags': dict, 'search': str, 'num_runs': int, 'seed': int, 'values': dict}
SET_BY_SWEEP = {    # flags that a spec cannot have -> why
    **dict.fromkeys(('fappend', 'checkpoint_output_directory', 'worker_status_output_directory', 'output_directory'),
                    'all runs write to the --output_directory of the sweep, each under a name of its own'),
    'resume': 'a run that was stopped is always resumed',
    'num_threads': 'the sweep has a flag --num_threads itself',
}
PLAN = 'sweep.plan'    # JSON, but not called so: the monitor takes every .json in the folder for a status file


def rounded(value, low, high):
    """A float with six significant digits, so that commands stay short, from low to high."""
    return min(max(float(f'{value:.6g}'), low), high)


# how a value is drawn, by the names of scikit-learn and scipy.stats
DISTRIBUTIONS = {
    'choice': lambda rng, *options: options[rng.integers(len(options))],
    'uniform': lambda rng, low, high: rounded(rng.uniform(low, high), low, high),
    'loguniform': lambda rng, low, high: rounded(math.exp(rng.uniform(math.log(low), math.log(high))), low, high),
    'randint': lambda rng, low, high: int(rng.integers(low, high)),    # below high
}


def planned(path, folder):
    """The spec at path, and the values of each run, flag -> value: those in the folder's plan, where there is one.

    Otherwise the second one is None. InputError where the folder has runs of another spec.
    """
    spec, plan = read_spec(path), folder / PLAN
    if plan.exists():
        before = load_json(plan)
        if before.get('spec') != spec or not isinstance(before.get('runs'), list):
            raise InputError(f'{path}: has changed since the runs in {folder} began; restore it, as {plan} has it '
                             'under "spec", or name another folder with --output_directory')
        return spec, before['runs']
    if folder.is_dir() and any(not other.name.startswith('.') for other in folder.iterdir()):
        raise InputError(f'{folder}: holds other files, and no {PLAN} of a sweep; name another folder with '
                         '--output_directory')
    return spec, None


def write_plan(folder, spec, runs):
    """Keep a spec and the values of its runs in the folder of the sweep, which is created."""
    require_folder(folder)
    write_json(folder / PLAN, {'spec': spec, 'runs': runs})


def read_spec(path):
    """The dict in a spec file, with defaults for what it leaves out. InputError unless a sweep can be made of it."""
    contents = contents_of(Path(path))
    spec = {'flags': {}, 'search': 'random', 'seed': 0, **parsed(path, contents)}
    check_names(path, contents)
    grid = spec['search'] == 'grid'
    if grid and 'num_runs' not in spec:
        spec['num_runs'] = 1    # replaced below, once the choices are known to be lists
    elif grid:
        raise InputError(f'{path}: has num_runs, and a grid has as many runs as combinations; leave it out')
    if unknown := sorted(spec.keys() - ENTRIES.keys()):
        raise InputError(f'{path}: has an entry "{unknown[0]}"; those of a spec are {", ".join(ENTRIES)}')
    for name, kind in ENTRIES.items():
        if not isinstance(spec.get(name), kind) or isinstance(spec[name], bool):
            found = f'is {json_type(spec[name])}' if name in spec else 'is missing'
            raise InputError(f'{path}: its "{name}" {found}; expected {json_type(kind())}')
    for name, allowed in (('command', TRAINERS), ('search', ('random', 'grid'))):
        if spec[name] not in allowed:
            raise InputError(f'{path}: its "{name}" is "{spec[name]}"; choose one of {", ".join(allowed)}')
    if spec['seed'] < 0:
        raise InputError(f'{path}: its "seed" is {spec["seed"]}; give a number from 0')
    check_values(path, spec)
    if grid:
        spec['num_runs'] = math.prod(len(distribution['choice']) for distribution in spec['values'].values())
    if not 1 <= (number := spec['num_runs']) <= MOST_FILES:
        found = f'its grid has {number} combinations' if grid else f'its "num_runs" is {number}'
        raise InputError(f'{path}: {found}; give 1 to {MOST_FILES}, which is as many as the monitor shows')
    return spec


def check_names(path, contents):
    """Raise InputError where an object in the JSON of a spec has a name twice: json would keep the last value."""
    def check(pairs):
        names = [name for name, _ in pairs]
        if twice := [name for name in names if names.count(name) > 1]:
            raise InputError(f'{path}: gives {twice[0]} twice; leave one of them out')
        return dict(pairs)

    json.loads(contents.decode('utf-8-sig'), object_pairs_hook=check)


def check_values(path, spec):
    """Raise InputError unless each flag is given once, and those that vary have a distribution."""
    if not spec['values']:
        raise InputError(f'{path}: its "values" is empty; give at least one flag and its distribution')
    names = [*spec['flags'], *(name for key in spec['values'] for name in names_in(key))]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f'{path}: gives {twice[0]} twice; leave one of them out')
    for key, distribution in spec['values'].items():
        check_distribution(f'{path}: the values of {key}', distribution, spec['search'])


def names_in(key):
    """The flags in a key of "values", which commas separate: in each run they all have the same value."""
    return [name.strip() for name in key.split(',')]


def check_distribution(place, distribution, search):
    """Raise InputError unless it is {the name of a distribution that this search knows: what that needs}."""
    known = ['choice'] if search == 'grid' else list(DISTRIBUTIONS)
    kind, given = next(iter(distribution.items()), (None, None)) if isinstance(distribution, dict) else (None, None)
    if kind not in known or len(distribution) != 1:
        raise InputError(f'{place} are {json.dumps(distribution):.100}; for a {search} search, give an object with one '
                         f'of {", ".join(known)}, such as {{"choice": [32, 64]}}')
    if kind == 'choice':
        fits, needed = isinstance(given, list) and given, 'a list of values'
    else:
        whole = kind == 'randint'
        fits = (isinstance(given, list) and len(given) == 2 and all(is_number(bound, whole) for bound in given)
                and given[0] < given[1] and (kind != 'loguniform' or given[0] > 0))
        needed = (f'a list of two {"whole " * whole}numbers{", above 0" * (kind == "loguniform")}, the lowest and the '
                  f'highest{", which is not drawn itself" * whole}')
    if not fits:
        raise InputError(f'{place} are {json.dumps(distribution):.100}; {kind} needs {needed}')


def is_number(value, whole):
    """Whether a JSON value is a number that a float can hold, or, with whole, such an integer."""
    return isinstance(value, int if whole else (int, float)) and not isinstance(value, bool) and abs(value) < 2 ** 53


def draw(spec):
    """The values of each run -> [{flag: value}, …]. A run has the same ones whatever num_runs is."""
    distributions = list(spec['values'].values())
    if spec['search'] == 'grid':
        found = itertools.product(*(distribution['choice'] for distribution in distributions))
    else:
        rngs = (np.random.default_rng([spec['seed'], number]) for number in range(spec['num_runs']))
        found = [[DISTRIBUTIONS[kind](rng, *given) for distribution in distributions
                  for kind, given in distribution.items()] for rng in rngs]
    return [{name: value for key, value in zip(spec['values'], values, strict=True) for name in names_in(key)}
            for values in found]


def arguments_of(path, trainer, parser, flags):
    """Flags, {name: value}, as a list of arguments. InputError, naming the spec, where the trainer's parser takes none.

    parser: one that raises its errors (exit_on_error=False).
    """
    known = {option.removeprefix('--'): action for action in parser._actions if action.dest != 'help'
             for option in action.option_strings or [f'--{action.dest}'] if option.startswith('--')}
    found = []
    for name, value in flags.items():
        if name in SET_BY_SWEEP:
            raise InputError(f'{path}: gives {name}; leave it out: {SET_BY_SWEEP[name]}')
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise InputError(f'{path}: imagernn {trainer} has no flag --{name}; '
                             + (f'did you mean {near[0]}?' if near else f'{command(trainer)} --help lists them'))
        found += arguments(f'{path}: its {name}', name, value, known[name])
    try:
        parser.parse_known_args(found)
    except argparse.ArgumentError as error:
        raise InputError(f'{path}: {error}; {command(trainer)} --help explains the flag') from None
    return found


def arguments(place, name, value, action):
    """One flag as arguments. action: that of the parser. InputError for a value that no argument stands for."""
    switch, several = action.nargs == 0, action.nargs in ('+', '*')
    each = value if several and isinstance(value, list) else [value]
    right = all(isinstance(one, bool) if switch else isinstance(one, (str, int, float)) for one in each)
    if not right:
        expected = 'true or false' if switch else 'a number or a string' + ', or a list of them' * several
        raise InputError(f'{place} is {json.dumps(value):.100}; expected {expected}')
    if switch:
        return [f'--{name}'] * value
    if several:
        return [f'--{name}', *map(str, each)]
    return [f'--{name}={value}' if action.option_strings else str(value)]

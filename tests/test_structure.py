"""The house's plan: imports go down the floors, and the packages that run it are the five that setup.py names."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'imagernn'
RUN_TIME = {'numpy', 'scipy', 'h5py', 'PIL', 'tqdm'}
IMPORT_NAMES = {'pillow': 'PIL'}    # where it differs from the name to install

# each package, from the ground up, and what of ours it may import besides itself
GROUND, FILES_FLOOR = {'errors'}, {'errors', 'formats'}
MATERIAL = {*FILES_FLOOR, 'nn', 'metrics', 'corpus', 'runs', 'web'}
MAY_IMPORT = {
    'errors': set(),
    'nn': set(),
    'metrics': set(),
    'formats': GROUND,
    'corpus': FILES_FLOOR,
    'runs': {*FILES_FLOOR, 'nn'},
    'web': FILES_FLOOR,
    'captioning': MATERIAL,
    'convnet': MATERIAL,
    'ranking': MATERIAL,
    'textgen': MATERIAL,
    'translation': MATERIAL,
    # joins the tasks for a folder of photos
    'gallery': {*MATERIAL, 'captioning', 'convnet', 'ranking', 'captioner'},
    # knows the trainers by the table of commands
    'sweep': {*MATERIAL, '__main__'},
}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob('*.py'))}


def tree_of(name):
    return ast.parse(FILES[name].read_text(encoding='utf-8'))


def nodes(tree, inside_functions):
    """All nodes of a module, or those that run when it is imported."""
    for node in ast.iter_child_nodes(tree):
        yield node
        if inside_functions or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from nodes(node, inside_functions)


def imported(name, inside_functions=True):
    """Full names of the modules that a module of ours imports."""
    package = name if FILES[name].name == '__init__.py' else name.rpartition('.')[0]
    found = set()
    for node in nodes(tree_of(name), inside_functions):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split('.')[:len(package.split('.')) - node.level + 1] if node.level else []
            module = '.'.join([*above, *([node.module] if node.module else [])])
            found.update(full if (full := f'{module}.{alias.name}') in FILES else module for alias in node.names)
    return found


def room(name):
    """imagernn.metrics.bleu -> metrics; imagernn itself -> ''."""
    return (name.split('.') + [''])[1]


def ours(name):
    return {other for other in imported(name) if other.split('.')[0] == 'imagernn'}


@pytest.mark.parametrize('name', [name for name in FILES if room(name) in MAY_IMPORT])
def test_imports_go_down_the_floors(name):
    assert {room(other) for other in ours(name)} <= MAY_IMPORT[room(name)] | {room(name)}


def test_every_package_has_its_place_in_the_table():
    """Flat modules besides errors and captioner are commands: they may import anything, and nothing imports them."""
    packages = {room(name) for name, path in FILES.items() if path.parent != PACKAGE}
    assert packages | {'errors'} == MAY_IMPORT.keys()
    commands = {name for name, path in FILES.items() if path.parent == PACKAGE}
    commands -= {'imagernn', 'imagernn.errors', 'imagernn.captioner', 'imagernn.__main__'}
    for name in FILES:
        if room(name) in MAY_IMPORT:
            assert not ours(name) & commands, name


def test_the_package_stays_small_enough_to_be_read_in_order():
    """What lies directly under imagernn/ has at most 21 entries, the floors' table 14; the README has 8 KiB."""
    entries = {name.split('.')[1] for name in FILES if '.' in name} - {'__main__'}
    assert len(entries) <= 21 and len(MAY_IMPORT) <= 14
    assert (ROOT / 'README.md').stat().st_size <= 8192


def test_no_imports_go_round_in_a_circle():
    left = {name: {other for other in ours(name) if not name.startswith(f'{other}.')} & set(FILES) for name in FILES}
    while left:
        free = {name for name, others in left.items() if not others & left.keys()}
        assert free, f'these import one another: {sorted(left)}'
        left = {name: others for name, others in left.items() if name not in free}


@pytest.mark.parametrize('name', FILES)
def test_a_module_needs_the_run_time_packages_alone(name):
    """An extra may be imported where it is used, inside a function of a task, a command, metrics, gallery or sweep."""
    everywhere = room(name) in MAY_IMPORT.keys() - {'metrics', 'convnet', 'gallery', 'translation', 'sweep'}
    everywhere &= name != 'imagernn.runs.ranks'
    packages = {other.split('.')[0] for other in imported(name, inside_functions=everywhere)}
    assert packages - set(sys.stdlib_module_names) <= RUN_TIME | {'imagernn'}


def test_no_function_is_longer_than_a_screen():
    product = [*FILES.values(), *ROOT.glob('*.py'), *ROOT.glob('data/*.py'), *ROOT.glob('eval/*.py')]
    long = [f'{path.name}: {node.name}' for path in product
            for node in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 50]
    assert not long


def test_the_training_loop_fits_on_a_page():
    """driver.py has at most 280 lines, and its loop at most 30."""
    text = (ROOT / 'driver.py').read_text(encoding='utf-8')
    assert len(text.splitlines()) <= 280
    loop, = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.For)
             and re.search(r'\.iterations\(', ast.get_source_segment(text, node.iter)))
    assert loop.end_lineno - loop.lineno < 30


def test_setup_asks_for_the_run_time_packages_and_no_more():
    call, = (node for node in ast.walk(ast.parse((ROOT / 'setup.py').read_text(encoding='utf-8')))
             if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'setup')
    required, = (ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg == 'install_requires')
    names = [requirement.partition('>=')[0] for requirement in required]
    assert sorted(IMPORT_NAMES.get(name, name) for name in names) == sorted(RUN_TIME)


def test_every_run_time_package_is_used():
    assert {other.split('.')[0] for name in FILES for other in imported(name)} >= RUN_TIME


def test_the_import_reader_sees_every_way_to_import(tmp_path, monkeypatch):
    text = ('import a.b, c\nfrom d.e import f\nfrom . import errors\nfrom .nn import lstm\n'
            'from imagernn import nn\nif c:\n    import g\n\n\ndef h():\n    import i\n')
    (tmp_path / 'x.py').write_text(text, encoding='utf-8')
    monkeypatch.setitem(FILES, 'imagernn.x', tmp_path / 'x.py')
    at_once = {'a.b', 'c', 'd.e', 'imagernn.errors', 'imagernn.nn.lstm', 'imagernn.nn', 'g'}
    assert imported('imagernn.x', inside_functions=False) == at_once
    assert imported('imagernn.x') == at_once | {'i'}

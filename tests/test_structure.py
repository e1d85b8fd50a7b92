"""The house's plan: imports flow one way, and the packages that run it are the five that setup.py names."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'imagernn'
RUN_TIME = {'numpy', 'scipy', 'h5py', 'PIL', 'tqdm'}
IMPORT_NAMES = {'pillow': 'PIL'}    # where it differs from the name to install

# what each module of the core may import of ours; `metrics` and `convnet` stand for all that is in them
MAY_IMPORT = {
    'errors': set(),
    'layers': set(),
    'lstm_generator': {'layers'},
    'rnn_generator': {'layers'},
    'workers': {'layers'},
    'captioner': {'lstm_generator', 'rnn_generator', 'layers', 'batch', 'workers', 'errors'},
    'blas': set(),
    'vocab': {'errors'},
    'batch': {'vocab', 'errors'},
    'search': {'errors'},
    'solver': {'errors'},
    'gradcheck': {'errors'},
    'files': {'errors'},
    'watch': set(),
    'run_files': {'checkpoint', 'evaluation', 'flags', 'files', 'errors'},
    'hdf5': {'errors'},
    'matlab': set(),
    'npy': set(),
    'features': {'hdf5', 'matlab', 'npy', 'errors'},
    'image_store': {'npy', 'files', 'errors'},
    'data_provider': {'image_store', 'features', 'errors'},
    'checkpoint': {'legacy_pickle', 'files', 'errors', 'hdf5'},
    'legacy_pickle': {'errors'},
    'page_server': {'errors'},
    'monitor': {'page_server', 'errors'},
    'metrics': {'metrics', 'files', 'errors'},
    'caption_files': {'errors'},
}
LATER_ROOMS = {'ranking', 'textgen', 'parallel', 'convnet'}


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
def test_a_module_imports_only_what_lies_before_it(name):
    assert {room(other) for other in ours(name)} <= MAY_IMPORT[room(name)]


def test_the_modules_of_the_plan_are_there():
    assert set(MAY_IMPORT) <= {room(name) for name in FILES}


def test_no_imports_go_round_in_a_circle():
    left = {name: {other for other in ours(name) if not name.startswith(f'{other}.')} & set(FILES) for name in FILES}
    while left:
        free = {name for name, others in left.items() if not others & left.keys()}
        assert free, f'these import one another: {sorted(left)}'
        left = {name: others for name, others in left.items() if name not in free}


def test_the_core_does_not_need_the_later_rooms():
    for name in FILES:
        if room(name) in MAY_IMPORT:
            assert not {room(other) for other in ours(name)} & LATER_ROOMS, name


@pytest.mark.parametrize('name', FILES)
def test_a_module_needs_the_run_time_packages_alone(name):
    """The core wherever it imports; other rooms when they are imported: an extra may be imported where it is used."""
    everywhere = room(name) in MAY_IMPORT and room(name) != 'metrics'
    packages = {other.split('.')[0] for other in imported(name, inside_functions=everywhere)}
    assert packages - set(sys.stdlib_module_names) <= RUN_TIME | {'imagernn'}


def test_setup_asks_for_the_run_time_packages_and_no_more():
    call, = (node for node in ast.walk(ast.parse((ROOT / 'setup.py').read_text(encoding='utf-8')))
             if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'setup')
    required, = (ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg == 'install_requires')
    names = [requirement.partition('>=')[0] for requirement in required]
    assert sorted(IMPORT_NAMES.get(name, name) for name in names) == sorted(RUN_TIME)


def test_every_run_time_package_is_used():
    scripts = [ast.parse(path.read_text(encoding='utf-8')) for path in ROOT.glob('*.py')]
    used = {other.split('.')[0] for name in FILES for other in imported(name)}
    used |= {alias.name.split('.')[0] for tree in scripts for node in ast.walk(tree) if isinstance(node, ast.Import)
             for alias in node.names}
    used |= {node.module.split('.')[0] for tree in scripts for node in ast.walk(tree)
             if isinstance(node, ast.ImportFrom) and node.module}
    assert used >= RUN_TIME - {'PIL'}    # pictures are read by the convolutional network's room


def test_the_import_reader_sees_every_way_to_import(tmp_path, monkeypatch):
    text = ('import a.b, c\nfrom d.e import f\nfrom . import layers\nfrom .vocab import START\n'
            'from imagernn import batch\nif c:\n    import g\n\n\ndef h():\n    import i\n')
    (tmp_path / 'x.py').write_text(text, encoding='utf-8')
    monkeypatch.setitem(FILES, 'imagernn.x', tmp_path / 'x.py')
    at_once = {'a.b', 'c', 'd.e', 'imagernn.layers', 'imagernn.vocab', 'imagernn.batch', 'g'}
    assert imported('imagernn.x', inside_functions=False) == at_once
    assert imported('imagernn.x') == at_once | {'i'}

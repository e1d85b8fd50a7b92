"""Python in the processes of one mpirun, and in a process of its own. Tests of mpirun need needs_mpi."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MPIRUN = shutil.which('mpirun', path=f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}')
SECONDS = 60


# in a process of its own: what MPI sets up must not be in the way of the other tests
USABLE = subprocess.run([sys.executable, '-c', 'import mpi4py.MPI'], capture_output=True, text=True, check=False)
needs_mpi = pytest.mark.skipif(MPIRUN is None or USABLE.returncode != 0, reason='needs mpirun and the extra [mpi]')
OPEN_MPI = MPIRUN and 'Open' in subprocess.run([MPIRUN, '--version'], capture_output=True, text=True,
                                               check=False).stdout


def environment(**more):
    return {**os.environ, 'PYTHONPATH': f'{ROOT}{os.pathsep}{ROOT / "tests"}', 'OMPI_ALLOW_RUN_AS_ROOT': '1',
            'OMPI_ALLOW_RUN_AS_ROOT_CONFIRM': '1',
            'OMPI_MCA_mpi_yield_when_idle': '1',    # tests have more processes than cores
            **more}


def command(n, *arguments):
    options = ['--oversubscribe', '--bind-to', 'none'] if OPEN_MPI else []
    return [MPIRUN, *options, '-n', str(n), sys.executable, *map(str, arguments)]


def mpirun(n, *arguments, code=0, **more):
    """Run python with these arguments in n processes; returns what they wrote to stdout and stderr."""
    ended = subprocess.run(command(n, *arguments), env=environment(**more), capture_output=True, text=True,
                           timeout=SECONDS, check=False)
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended.stdout, ended.stderr


def python(*arguments):
    """The same in one process."""
    ended = subprocess.run([sys.executable, *map(str, arguments)], env=environment(), capture_output=True, text=True,
                           timeout=SECONDS, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr

"""The sweep as an array job of Slurm: a script in which each task becomes one of the runs."""

import sys
from shlex import join, quote

from imagernn.formats.writing import write_text

SCRIPT = '''#!/bin/bash
# The {num_runs} runs of {spec}, one in each task: sbatch {path}
# Add what your cluster asks for, such as --time, --mem and --partition. Two minutes before a time limit a run is saved
# and stopped; it goes on when the same script is submitted again. The table of the runs, at any time:
#     {table}
#SBATCH --job-name={name}
#SBATCH --array=0-{last}{at_a_time}
#SBATCH --cpus-per-task={num_threads}
#SBATCH --signal=B:USR1@120
#SBATCH --output={output}
exec {become} \\
    --only "$SLURM_ARRAY_TASK_ID"
'''


def write_script(path, spec, folder, num_runs, jobs, num_threads):
    """Write the script to path. spec: the path of the file; jobs: how many tasks may run at a time, None for all."""
    become = [sys.executable, '-m', 'imagernn.sweep', spec, f'--output_directory={folder}',
              f'--num_threads={num_threads}']
    write_text(path, SCRIPT.format(
        num_runs=num_runs, spec=spec, path=quote(path), table=f'{join(become)} --list', name=quote(folder.name),
        last=num_runs - 1, at_a_time=f'%{jobs}' if jobs else '', num_threads=num_threads,
        output=quote(str(folder / 'slurm_%a.out')), become=join(become)))

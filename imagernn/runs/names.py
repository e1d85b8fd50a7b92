"""The names of a run's files: its checkpoints and its status file.

They are made of the data set, the host and --fappend, so that machines which share a folder do not write to the same
files. A run keeps its name for as long as it is resumed in its folder, on whatever machine that is: a container gets
another host name each time that it is started.
"""

import os
import re
import socket
from pathlib import Path

WHICH = r'(?:last|[a-z]*-?[0-9]+\.[0-9]{1,4}|inf)\.h5'    # ends a name: the last checkpoint, or a best one's score


def checkpoint_path(params, which):
    """The checkpoint file of a run: which is 'last', or for a best one its score."""
    stem = checkpoint_stem(params)
    return stem.with_name(f'{stem.name}_{which}.h5')


def checkpoint_stem(params, host=None):
    """What the paths of all checkpoints of a run begin with. params: its flags; host: another one than run_host's."""
    before, after = _around_host(params)
    return Path(params['checkpoint_output_directory']) / f'{before}{host or run_host(params)}{after}'


def checkpoint_names(params):
    """A pattern of all names that checkpoint_path gives: other runs' names may begin alike."""
    return f'{re.escape(checkpoint_stem(params).name)}_{WHICH}'


def status_path(params):
    """The status file of a run: one for each host and --fappend."""
    return (Path(params['worker_status_output_directory'])
            / f'{run_host(params)}_{params["fappend"]}_status.json')


def run_host(params):
    """The host in the names of a run: that of the checkpoint in its folder that it resumes from, or this one."""
    path, own = Path(params.get('resume') or ''), socket.gethostname()
    host = host_in(path.name, params)
    here = os.path.realpath(path.parent) == os.path.realpath(params['checkpoint_output_directory'])
    # model_checkpoint_<dataset>_<own>_x_<fappend>_last.h5 is of this host, and of --fappend x_<fappend>
    return own if not host or not here or host.startswith(f'{own}_') else host


def host_in(name, params):
    """The host in the name of a checkpoint of this data set and --fappend; None if it does not look like one."""
    before, after = map(re.escape, _around_host(params))
    found = re.fullmatch(f'{before}(.+){after}_{WHICH}', name)
    return found and found[1]


def _around_host(params):
    """What stands before and after the host in the names of a run's checkpoints."""
    return f'model_checkpoint_{Path(params["dataset"]).name}_', f'_{params["fappend"]}'

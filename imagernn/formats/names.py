"""Names in other people's files: which file of ours a name leads to, and whether it stays in the folder it belongs to.

A dataset.json, a tasks.txt or a result file may come from somebody else, so that a name in it is only a wish. Whatever
opens, copies or shows a file by such a name asks path_inside or stays_inside first. Opens no file itself.
"""

import os
import re
from pathlib import Path, PureWindowsPath

from imagernn.errors import web_address

NOT_OPENED = 'not opened: '    # begins the name of such a picture in a result file, so that it leads to no file
# entries of flags and features that are paths, or names
PATHS = ('dataset', 'features', 'file', 'word_vectors', 'checkpoint_path')


class Refused(type(Path())):
    """The path of a file that must not be opened, in place of a Path. problem: a message with the reason and advice."""

    problem = ''


def path_inside(folder, name):
    """The path of the file called name in folder -> Path, or Refused if that would lead out of the folder.

    A name leads out of it by being absolute, by `..`, or through a link in the folder; the folder may itself be a link.
    Backslashes, which Windows writes, separate folders unless a file has them in its name. A file that does not exist
    is no reason to refuse its name, but that no file can have the name is one.
    """
    if not can_be_name(name):
        return refused(folder, name, f'{name}: has a character that no file name can have; correct the name')
    if address := web_address(name):
        return refused(folder, name, f'{address}: is a web address; download the picture to {folder}, and write its '
                                     'name instead')
    path = Path(folder, name)
    if '\\' in name and not os.path.lexists(path.as_posix()):
        if PureWindowsPath(name).drive:
            return refused(folder, name, f'{name}: is a path on another computer; copy the picture to {folder}, and '
                                         'write its name instead')
        path = Path(folder, name.replace('\\', '/'))
    below = path.relative_to(folder).parts if path.is_relative_to(folder) else ('..',)
    if '..' not in below and not _passes_a_link(folder, below):
        return path
    if not stays_inside(path, folder):
        return refused(folder, name, f'{path}: {_how_it_leads_out(path, folder)}')
    if '..' not in below:
        return path
    return Path(folder, Path(os.path.realpath(path)).relative_to(os.path.realpath(folder)))


def can_be_name(name):
    """Whether a file can have a name: not with a null character, or with half of a surrogate pair, as JSON may have."""
    try:
        return b'\0' not in os.fsencode(name)
    except UnicodeEncodeError:
        return False


def _passes_a_link(folder, parts):
    """Whether any of the parts of a path below folder is a link."""
    path = str(folder)
    for part in parts:
        path = os.path.join(path, part)
        if os.path.islink(path):
            return True
    return False


def stays_inside(path, folder):
    """Whether a path, with all links resolved, is in folder or is the folder itself. The file need not exist."""
    try:
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
    except ValueError:    # a null character: no such file can exist, as whoever opens it reports
        return '..' not in Path(path).parts and Path(path).is_relative_to(folder)


def picture_name(image):
    """The name of an image's picture in the folder imgs/ of a data set: [filepath/]filename.

    image: its dict in dataset.json. A filename that begins with the filepath, as COCO's "val2017/x.jpg" may, is the
    whole name.
    """
    folder, name = image.get('filepath', ''), image['filename']
    if folder and parts_of(name)[:-1][:len(parts_of(folder))] == parts_of(folder):
        folder = ''
    return str(Path(folder, name))


def parts_of(name):
    """A path from any system as a list of its parts, without the root, a drive or empty parts."""
    parts = re.split(r'[\\/]', re.sub(r'^[A-Za-z][A-Za-z0-9+.-]*:(?=[\\/])', '', name))    # C:\\ or https://
    return [part for part in parts if part not in ('', '.')]


def refused(folder, name, problem):
    """The path of the file called name in folder that must not be opened, for the reason in problem -> Refused."""
    path = Refused(folder, name)
    path.problem = problem
    return path


def _how_it_leads_out(path, folder):
    """Why path_inside refuses a path, and what to do, for a message."""
    if Path(os.path.normpath(path)).is_relative_to(os.path.normpath(folder)):
        return (f'is reached by a link out of {folder}, and such a link is not followed; move the pictures there, or '
                f'make {folder} itself the link')
    return (f'is outside of {folder}, and is not opened; move the picture there, correct its name, or move the list to '
            'a folder that holds all its pictures')


def without_folders(value, paths=PATHS, is_path=False):
    """A JSON value in which each path of a file or folder, in a form of any system, is its name alone.

    A text is a path if it looks like one: if it starts at a root, a drive, the home or the working folder. paths: the
    keys of a dict under which every text is one, also a relative path.
    """
    if isinstance(value, dict):
        return {without_folders(key, paths): without_folders(item, paths, key in paths) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_folders(item, paths, is_path) for item in value]
    if not isinstance(value, str):
        return value
    looks_like_path = re.match(r'[/\\~]|\.\.?[/\\]|[A-Za-z]:[/\\]|file:', value)
    return PureWindowsPath(value).name if is_path or looks_like_path else value    # which knows both / and \\

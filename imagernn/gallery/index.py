"""The index of a folder of photos: what the models say of each, on disk in shards.

Knows which photos are new, changed or gone, and keeps the shards so that an interrupted run loses one at most. Knows
nothing of models but the identity and the number of values that they give each photo.

A shard is a file NAME.npy of vectors, a row for each photo, and a file NAME.json, which is written last, as only then
the shard counts. Rows of photos that are gone stay, unread, until the shard is rewritten.
"""

import os
import re
import secrets
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from imagernn.convnet.sources import shortened
from imagernn.errors import InputError, shown
from imagernn.formats.json_files import load_json, write_json
from imagernn.formats.names import stays_inside
from imagernn.formats.npy import read_header
from imagernn.formats.pictures import SUFFIXES
from imagernn.formats.writing import claimed, remove_leftovers, replacing, require_folder

FOLDER = '.imagernn-album'    # the usual index folder, in the folder of the photos
SHARD = 256                   # photos in a shard
SPARSE = SHARD * 3 // 4       # a shard with fewer photos is put together with others


class Photo(NamedTuple):
    """A photo file as it was when it was indexed. It counts as the same one as long as all three are the same."""

    name: str       # its path in the folder, with / between folders
    size: int       # in bytes
    mtime_ns: int


class Entry(NamedTuple):
    """What the index knows of a photo besides its vectors. It is a row of the shard's .json."""

    name: str
    size: int
    mtime_ns: int
    caption: str
    width: int      # in pixels, upright
    height: int
    problem: str    # why it cannot be read, and has no caption and no vectors; or ''

    @property
    def photo(self):
        return Photo(*self[:3])


class Shard(NamedTuple):
    """A file of the index."""

    path: Path           # of the .json
    entries: list
    rows: np.ndarray     # (len(entries), width) float16, memory-mapped


class Index:
    """The photos of a folder that are in the index, sorted by name, which is what their numbers count.

    entries: the N Entries of those that could be read. broken: those of the others. missing: the Photos that are not in
    the index. shards: the Shards. alive: for each Shard the numbers of its rows that count.
    """

    def __init__(self, shards, photos):
        """photos: those that are in the folder now."""
        wanted, found = set(photos), []
        self.shards, self.alive = shards, []
        for number, shard in enumerate(shards):
            rows = []
            for row, entry in enumerate(shard.entries):
                if entry.photo in wanted:
                    wanted.remove(entry.photo)    # a photo that is in two shards counts once
                    rows.append(row)
                    found.append((entry, number, row))
            self.alive.append(rows)
        self.missing = sorted(wanted)
        found.sort()
        self.broken = [entry for entry, *_ in found if entry.problem]
        self.entries = [entry for entry, *_ in found if not entry.problem]
        self._places = np.array([place for entry, *place in found if not entry.problem], int).reshape(-1, 2)

    def vectors(self, numbers, columns):
        """These columns, a slice, of the vectors of the photos with these numbers: (k, …) float32."""
        shards, rows = self._places[numbers].T
        found = np.empty((len(shards), columns.stop - columns.start), np.float32)
        for shard in np.unique(shards):
            here = np.flatnonzero(shards == shard)
            found[here] = self.shards[shard].rows[rows[here], columns]
        return found


def photos_in(folder):
    """The photos in a folder and its subfolders, a list of Photos. Raises InputError if there are none.

    Hidden files and folders are left out, and links that lead out of the folder. Folders that are links are not
    entered: what they hold is elsewhere in the folder as well.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f'{folder}: is not a folder; name the folder of your photos')
    found, left_out, folders = [], [], ['']
    while folders:
        place = folders.pop()
        try:
            entries = [entry for entry in os.scandir(folder / place) if not entry.name.startswith('.')]
        except OSError:
            left_out.append(place or '.')
            continue
        for entry in entries:
            name = f'{place}/{entry.name}' if place else entry.name
            if entry.is_dir(follow_symlinks=False):
                folders.append(name)
            elif Path(name).suffix.lower() in SUFFIXES:
                with suppress(OSError):    # a link that leads nowhere, or a photo that has just been removed
                    if not os.access(entry.path, os.R_OK):    # not indexed as broken: permissions change no mtime
                        left_out.append(name)
                    elif entry.is_file() and (not entry.is_symlink() or stays_inside(entry.path, folder)):
                        found.append(Photo(name, entry.stat().st_size, entry.stat().st_mtime_ns))
    if left_out:
        print(shown(f'note: left out, as this user may not read them: {shortened(sorted(left_out))}'), file=sys.stderr)
    if not found:
        raise InputError(f'{folder}: holds no photos, nor do its subfolders; their names must end in '
                         f'{", ".join(SUFFIXES)}')
    return found


def open_index(folder, index_folder, models, describe):
    """The Index of the photos in a folder, after those that are new or changed have been indexed.

    models: with identity and width; describe(paths, progress): as models.describe does. Notes on stderr say what is
    done, and which photos cannot be read. Raises InputError if there are no photos, if none can be read, if the index
    cannot be written, and if another process is writing it.
    """
    photos, index_folder = photos_in(folder), Path(index_folder)
    shards, outdated = read_shards(index_folder, models)
    index = Index(shards, photos)
    if index.missing or outdated or sparse_shards(index):
        try:
            require_folder(index_folder)
        except InputError as error:
            raise InputError(f'--index_folder {error}') from None
        with claimed(index_folder / 'index', 'wait until it has ended'):
            clean(index_folder)
            shards, outdated = read_shards(index_folder, models)
            if outdated:
                print(f'note: {index_folder}: is of other models, or damaged, in {len(outdated):,} of '
                      f'{len(outdated) + len(shards):,} files; their photos are indexed again', file=sys.stderr)
            add_missing(Index(shards, photos), folder, index_folder, models, describe)
            tidy(Index(read_shards(index_folder, models)[0], photos), index_folder, models)
            remove_shards(outdated)
        index = Index(read_shards(index_folder, models)[0], photos)
    if not index.entries:
        raise InputError(f'{folder}: none of its {len(photos):,} photos can be read, such as '
                         f'{index.broken[0].problem if index.broken else index.missing[0].name}; replace them')
    return index


# ---- shards ----------------------------------------------------------------------------------------------------------

def shard_files(index_folder, suffix):
    """The files of shards that end in suffix, sorted. Others in the folder are not ours to remove."""
    return sorted(path for path in index_folder.glob(f'*{suffix}') if re.fullmatch('[0-9a-f]{16}', path.stem))


def read_shards(index_folder, models):
    """The Shards in a folder that can be used, and the paths of the others: damaged ones, and those of other models."""
    shards, others = [], []
    for path in shard_files(index_folder, '.json'):
        try:
            shards.append(read_shard(path, models))
        except (InputError, OSError, ValueError):
            others.append(path)
    return shards, others


def read_shard(path, models):
    """The Shard whose .json is at path. Raises InputError, OSError or ValueError if it is damaged, or of other models.
    """
    data = load_json(path)
    entries = data.get('photos')
    if data.get('models') != models.identity or not isinstance(entries, list):
        raise ValueError('of other models')
    kinds = list(Entry.__annotations__.values())
    if not entries or any(not isinstance(entry, list) or list(map(type, entry)) != kinds for entry in entries):
        raise ValueError('damaged entries')
    vectors = path.with_suffix('.npy')
    with open(vectors, 'rb') as file:
        header = read_header(file)
    if (header.shape, header.dtype, header.order) != ((len(entries), models.width), np.float16, 'C') \
            or header.offset + header.size != os.path.getsize(vectors):
        raise ValueError('damaged vectors')
    rows = np.memmap(vectors, np.float16, 'r', header.offset, header.shape)
    return Shard(path, [Entry(*entry) for entry in entries], np.asarray(rows))


def write_shard(index_folder, entries, rows, models):
    """Write a new shard of n Entries and their rows (n, width)."""
    path = index_folder / secrets.token_hex(8)
    with replacing(path.with_suffix('.npy')) as file:
        np.lib.format.write_array(file, rows)
    write_json(path.with_suffix('.json'), {'models': models.identity, 'photos': entries})


def remove_shards(paths):
    """Remove the shards whose .json files are at paths. One that is in use, on Windows, stays."""
    for path in paths:
        with suppress(OSError):
            path.unlink(missing_ok=True)
            path.with_suffix('.npy').unlink(missing_ok=True)


def clean(index_folder):
    """Remove what killed runs left behind: temporary files, and vectors without their .json."""
    remove_leftovers(index_folder, r'[0-9a-f]{16}\.(npy|json)')
    remove_shards([path.with_suffix('.json') for path in shard_files(index_folder, '.npy')
                   if not path.with_suffix('.json').exists()])


# ---- what is new, and what is gone -----------------------------------------------------------------------------------

def add_missing(index, folder, index_folder, models, describe):
    """Index the photos that are missing, a shard at a time. Each photo that cannot be read is named on stderr."""
    if not index.missing:
        return
    num_known = len(index.entries) + len(index.broken)
    total = num_known + len(index.missing)
    print(f'indexing {len(index.missing):,} of {total:,} photos', file=sys.stderr)
    with tqdm(total=total, initial=num_known, unit='photo', disable=None) as progress:
        for start in range(0, len(index.missing), SHARD):
            photos = index.missing[start:start + SHARD]
            found = describe([Path(folder, photo.name) for photo in photos], progress.update)
            entries, rows = [], np.zeros((len(photos), models.width), np.float16)
            for row, (photo, one) in enumerate(zip(photos, found, strict=True)):
                if isinstance(one, InputError):
                    tqdm.write(shown(f'skipped: {one}'), file=sys.stderr)
                    entries.append(Entry(*photo, '', 0, 0, str(one)))
                else:
                    entries.append(Entry(*photo, one.caption, *one.size, ''))
                    rows[row] = one.vectors
            write_shard(index_folder, entries, rows, models)


def sparse_shards(index):
    """The numbers of the shards that should be rewritten: those with few photos left or never more than a few.

    The last one of a run is rarely full, so that a single one stays as it is unless rows of it are gone.
    """
    sparse = [number for number, rows in enumerate(index.alive) if len(rows) < SPARSE]
    if len(sparse) == 1 and len(index.alive[sparse[0]]) == len(index.shards[sparse[0]].entries):
        return []
    return sparse


def tidy(index, index_folder, models):
    """Put the photos of sparse shards together in full ones, and remove the sparse ones."""
    sparse = sparse_shards(index)
    places = [(index.shards[number], row) for number in sparse for row in index.alive[number]]
    for start in range(0, len(places), SHARD):
        some = places[start:start + SHARD]
        write_shard(index_folder, [shard.entries[row] for shard, row in some],
                    np.stack([shard.rows[row] for shard, row in some]), models)
    remove_shards([index.shards[number].path for number in sparse])

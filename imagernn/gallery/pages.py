"""The routes of the album's page, for web.server: its files, photos, searches.

Knows the JSON that vis/album.js reads. Shows photos made smaller, never their files.
"""

import json
from functools import lru_cache
from pathlib import Path
from threading import BoundedSemaphore

from imagernn.errors import InputError
from imagernn.web.results_page import thumbnail
from imagernn.web.server import BadRequest, page_routes, real_file

FILES = ('common.css', 'album.css', 'common.js', 'attention.js', 'album.js')    # what the page loads
SMALL, LARGE = 320, 1600    # pixels of the longer side of a photo
MOST_SMALL = 4000           # small photos in memory, about 60 MB
DECODED_AT_ONCE = 4         # a large photo may take 1 GB while it is decoded


def album_routes(folder, index, search):
    """The routes of the page of a folder of photos. index: its Index; search: a Search in it."""
    listing = as_json({'folder': Path(folder).resolve().name,
                       'photos': [{'name': entry.name, 'caption': entry.caption, 'width': entry.width,
                                   'height': entry.height} for entry in index.entries],
                       'problems': [entry.problem for entry in index.broken]})
    decoding = BoundedSemaphore(DECODED_AT_ONCE)

    def photo_of(parameters):
        """The number that the parameter photo is. Raises BadRequest if it is none."""
        text = parameters.get('photo', '')
        if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) < len(index.entries)):
            raise BadRequest(f'photo must be a number below {len(index.entries)}')
        return int(text)

    def jpeg(path, size):
        with decoding:
            return thumbnail(path, size)

    small = lru_cache(MOST_SMALL)(lambda path, photo: jpeg(path, SMALL))    # a photo that changes is another one

    def picture(parameters, make):
        entry = index.entries[photo_of(parameters)]
        path = real_file(Path(folder, entry.name), folder)
        if path is None:
            raise FileNotFoundError(f'{entry.name}: is not there any more')
        try:
            return 'image/jpeg', make(path)
        except InputError as error:
            raise FileNotFoundError(str(error)) from None

    def details(parameters):
        photo = photo_of(parameters)
        return as_json({'words': search.grounded(photo, parameters.get('q', '')), 'sentences': search.sentences(photo)})

    return {**page_routes('album.html', *FILES),
            '/album.json': lambda: listing,
            '/thumbnail?': lambda parameters: picture(parameters, lambda path: small(path, path.stat().st_mtime_ns)),
            '/picture?': lambda parameters: picture(parameters, lambda path: jpeg(path, LARGE)),
            '/search?': lambda parameters: as_json(search.find(parameters.get('q', ''))),
            '/photo?': details}


def as_json(value):
    """A value as (content type, bytes) of JSON."""
    return 'application/json', json.dumps(value, separators=(',', ':')).encode()

"""Picture files of any common kind -> RGB pixels.

Knows what people's pictures are like (orientation, transparency, 16-bit grey) and what may be wrong with them. Knows
nothing of networks, except that colour profiles must not be applied: networks are trained without them.
"""

import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from imagernn.errors import InputError, unreadable
from imagernn.formats.names import Refused

FORMATS = ('JPEG', 'PNG', 'GIF', 'WEBP', 'BMP', 'TIFF', 'PPM', 'JPEG2000', 'AVIF', 'MPO', 'DIB')    # Pillow's names
SUFFIXES = ('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.gif', '.webp', '.bmp', '.dib', '.tif', '.tiff', '.ppm', '.pgm',
            '.pbm', '.pnm', '.jp2', '.avif', '.mpo', '.heic', '.heif')    # HEIC cannot be read, but is reported
ORIENTATION = 0x0112    # the EXIF tag that says how the camera was held
UPRIGHT = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
           5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
           8: Image.Transpose.ROTATE_90}
# keeps decoding below 1 GB of memory: a pixel takes 8 bytes in a JPEG while it is decoded, up to 18 in other formats
MAX_PIXELS = 50_000_000
MAX_PIXELS_OF = {'JPEG': 110_000_000, 'MPO': 110_000_000}
SCAN = b'\xff\xda'            # the marker of a scan in a JPEG
MAX_SCANNED = 2_000_000_000    # pixels times scans of a JPEG: about a minute's work
WHITES = {'I': (65535,), 'F': (1, 255, 65535)}    # for 32-bit values: white is the first of these that none exceeds

# what Pillow warns about is harmless (odd EXIF data, a picture that is merely large) or raises an error afterwards
warnings.filterwarnings('ignore', module=r'PIL\.')


def load_picture(path):
    """Decode a picture file -> (h, w, 3) uint8, RGB, rotated upright according to its EXIF data.

    Transparent parts become white; an animation gives its first frame; 16-bit grey is scaled to 8 bits. The kind of
    file is recognized from its contents.
    Raises InputError that names the file and what is wrong: the picture is missing, truncated, of an unsupported kind,
    or has more than 50 million pixels (JPEG: 110 million), since a few bytes can decompress to fill the memory.
    A Refused path is not opened; its problem is the message.
    A large JPEG is always decoded at full size: at a reduced one, which Pillow offers, its features would differ.
    """
    if isinstance(path, Refused):
        raise InputError(path.problem)
    if not str(path):
        raise InputError('the name of a picture is empty; name a picture')
    path = Path(path)
    _require_file(path)
    try:
        Image.init()
        known = [kind for kind in FORMATS if kind in Image.OPEN]    # MPO is opened as JPEG; AVIF may be absent
        with path.open('rb') as file, Image.open(file, formats=known) as image:
            _require_size(path, image)
            image.load()
            return pixels_of(image)
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f'{path}: is not a picture, or is of an unsupported kind, or is damaged at its start; '
                         'save it as JPEG or PNG') from None
    except Image.DecompressionBombError as error:
        raise InputError(f'{path}: is too large ({error}); make it smaller') from None
    except Exception as error:    # decoders raise anything from SyntaxError to struct.error for a damaged file
        if isinstance(error, OSError) and error.errno:    # of the operating system, not of a decoder
            raise unreadable(path, error) from None
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise InputError(f'{path}: cannot be read as a picture ({reason:.200}); it may be truncated or damaged: '
                         'copy it again, or save it as JPEG or PNG') from None


def pixels_of(image):
    """The pixels of a loaded Pillow image of any mode, (h, w, 3) uint8, RGB: what load_picture returns for its file."""
    turn = _orientation(image)
    image = _rgb(image)
    return np.asarray(image.transpose(turn) if turn is not None else image)    # (h, w, 3)


def _require_file(path):
    """Raise InputError unless path is a regular file that is not empty. Reading from a pipe could block forever."""
    try:
        found = path.stat()
    except OSError as error:
        raise unreadable(path, error) from None
    except ValueError as error:    # a name that cannot exist
        raise InputError(f'{path}: cannot be read ({error}); correct its name') from None
    if stat.S_ISDIR(found.st_mode):
        raise InputError(f'{path}: is a folder, not a picture; name a picture')
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f'{path}: is not a regular file; name a picture')
    if found.st_size == 0:
        raise InputError(f'{path}: is empty; copy it again')


def _require_size(path, image):
    """Raise InputError if decoding an image would take too much memory or time."""
    pixels = image.width * image.height
    most = MAX_PIXELS_OF.get(image.format, MAX_PIXELS)
    if pixels > most:
        raise InputError(f'{path}: is too large ({pixels} pixels; a {image.format} may have {most}); make it smaller')
    if image.format in ('JPEG', 'MPO') and pixels * (scans := path.read_bytes().count(SCAN)) > MAX_SCANNED:
        raise InputError(f'{path}: has {scans} scans of {pixels} pixels, which would take too long to decode; '
                         'save it again')


def _orientation(image):
    """The transposition that turns a loaded picture upright, or None."""
    if image.format == 'TIFF':    # Pillow rotates a TIFF when it loads it
        return None
    try:
        return UPRIGHT.get(image.getexif().get(ORIENTATION))
    except Exception:    # EXIF data is often damaged where the picture is not
        return None


def _rgb(image):
    """A loaded image of any mode as RGB, composited on white if it has transparency."""
    if image.mode == 'F' or image.mode.startswith('I'):
        image = _eight_bits(image)
    if 'transparency' in image.info or image.mode in ('LA', 'PA', 'RGBA', 'RGBa'):
        image = image.convert('RGBA')
        white = Image.new('RGB', image.size, 'white')
        white.paste(image, mask=image)
        return white
    return image.convert('RGB')


def _eight_bits(image):
    """A grey image of 16 or 32 bits, integers or floats -> one of 8 bits, scaled: Pillow would clip it at 255."""
    values = np.nan_to_num(np.asarray(image, np.float32), posinf=0, neginf=0)    # (h, w)
    low, high = min(0, values.min()), values.max()
    white = next((white for white in WHITES.get(image.mode, (65535,)) if high <= white), high)
    with np.errstate(all='ignore'):    # the difference of 1e38 and -1e38 overflows: black
        grey = Image.fromarray(np.rint((values - low) * (255 / (white - low))).astype(np.uint8))
    if 'transparency' in image.info:    # the one grey value that is transparent
        grey.putalpha(Image.fromarray(np.where(np.asarray(image) == image.info['transparency'], 0, 255)
                                      .astype(np.uint8)))
    return grey

"""Picture files of every kind -> RGB pixels.

Knows what people's pictures are like and what may be wrong with them. Colour profiles are not applied: the networks
were trained without them.
"""

import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from imagernn.errors import InputError

FORMATS = ('JPEG', 'PNG', 'GIF', 'WEBP', 'BMP', 'TIFF', 'PPM', 'JPEG2000', 'AVIF', 'MPO', 'DIB')    # Pillow's names
SUFFIXES = ('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.gif', '.webp', '.bmp', '.dib', '.tif', '.tiff', '.ppm', '.pgm',
            '.pbm', '.pnm', '.jp2', '.avif', '.mpo', '.heic', '.heif')    # the last two to be named, not passed over
ORIENTATION = 0x0112    # the EXIF tag: how the camera was held
UPRIGHT = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
           5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
           8: Image.Transpose.ROTATE_90}
# so that none takes 1 GB: a pixel of a JPEG takes 8 bytes while it is read, of the others up to 18
MAX_PIXELS, MAX_PIXELS_OF = 50_000_000, {'JPEG': 110_000_000, 'MPO': 110_000_000}
SCAN, MAX_SCANNED = b'\xff\xda', 2_000_000_000    # of a JPEG: the mark of a scan; pixels times scans, a minute's work
WHITES = {'I': (65535,), 'F': (1, 255, 65535)}    # of numbers of 32 bits: the first that none exceeds is white

# what Pillow warns of is harmless (odd EXIF data, a picture that is merely large), or is raised as an error next
warnings.filterwarnings('ignore', module=r'PIL\.')


def load_picture(path):
    """The picture in a file -> (h, w, 3) uint8, RGB, turned upright as its EXIF data say.

    Transparent parts are white; an animation is its first frame; 16-bit grey is scaled to 8 bits. The kind of file is
    told from its content. Raises InputError naming the file and what is wrong: a picture that is missing, cut short, of
    no known kind, or of more than 50 million pixels, a JPEG 110: a few bytes can unpack to fill the memory.
    A large JPEG is decoded in full: at a fraction of its size, which Pillow offers, prepare would give other numbers.
    """
    path = Path(path)
    _require_file(path)
    try:
        Image.init()
        known = [kind for kind in FORMATS if kind in Image.OPEN]    # MPO is a JPEG that is opened; AVIF may be absent
        with path.open('rb') as file, Image.open(file, formats=known) as image:
            _require_size(path, image)
            image.load()
            turn = _orientation(image)
            image = _rgb(image)
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f'{path}: is not a picture, or of a kind that is not read here, or broken from its start; '
                         'save it as JPEG or PNG') from None
    except Image.DecompressionBombError as error:
        raise InputError(f'{path}: is too large ({error}); make it smaller') from None
    except Exception as error:    # a broken file makes the decoders raise anything from SyntaxError to struct.error
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise InputError(f'{path}: cannot be read as a picture ({reason:.200}); it may be cut short or damaged: '
                         'copy it again, or save it as JPEG or PNG') from None
    return np.asarray(image.transpose(turn) if turn is not None else image)    # (h, w, 3)


def _require_file(path):
    """InputError unless there is a file with something in it. A pipe would be waited for without end."""
    try:
        found = path.stat()
    except (OSError, ValueError) as error:    # ValueError: such a name cannot be
        raise InputError(f'{path}: cannot be read ({getattr(error, "strerror", None) or error}); '
                         'check its name and permissions') from None
    if stat.S_ISDIR(found.st_mode):
        raise InputError(f'{path}: is a folder, not a picture; name a picture')
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f'{path}: is not a regular file; name a picture')
    if found.st_size == 0:
        raise InputError(f'{path}: is empty; copy it again')


def _require_size(path, image):
    """InputError where an image that is not loaded yet would take too much memory, or time."""
    pixels, most = image.width * image.height, MAX_PIXELS_OF.get(image.format, MAX_PIXELS)
    if pixels > most:
        raise InputError(f'{path}: is too large ({pixels} pixels; a {image.format} may have {most}); make it smaller')
    if image.format in ('JPEG', 'MPO') and pixels * (scans := path.read_bytes().count(SCAN)) > MAX_SCANNED:
        raise InputError(f'{path}: has {scans} scans of {pixels} pixels, which would take too long; save it again')


def _orientation(image):
    """How a loaded picture must be turned to stand upright, or None."""
    if image.format == 'TIFF':    # Pillow turned it as it loaded it
        return None
    try:
        return UPRIGHT.get(image.getexif().get(ORIENTATION))
    except Exception:    # EXIF data are often damaged, and the picture is none the worse for it
        return None


def _rgb(image):
    """A loaded image of any mode as RGB, composited on white where it has transparency."""
    if image.mode == 'F' or image.mode.startswith('I'):
        image = _eight_bits(image)
    if 'transparency' in image.info or image.mode in ('LA', 'PA', 'RGBA', 'RGBa'):
        image = image.convert('RGBA')
        white = Image.new('RGB', image.size, 'white')
        white.paste(image, mask=image)
        return white
    return image.convert('RGB')


def _eight_bits(image):
    """Grey of 16 or 32 bits, whole numbers or not -> a grey image of 8, scaled: Pillow itself would clip it at 255."""
    values = np.nan_to_num(np.asarray(image, np.float32), posinf=0, neginf=0)    # (h, w)
    low, high = min(0, values.min()), values.max()
    white = next((white for white in WHITES.get(image.mode, (65535,)) if high <= white), high)
    with np.errstate(all='ignore'):    # numbers of 1e38 and -1e38 are too far apart: black
        grey = Image.fromarray(np.rint((values - low) * (255 / (white - low))).astype(np.uint8))
    if 'transparency' in image.info:    # the one value that is transparent
        grey.putalpha(Image.fromarray(np.where(np.asarray(image) == image.info['transparency'], 0, 255)
                                      .astype(np.uint8)))
    return grey

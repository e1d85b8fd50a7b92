"""About fifty odd and broken pictures, as people have them, and what should become of each.

The sound ones show the same four quarters: red and green above blue and white; grey ones the greys of these.
"""

import io
import struct
import sys
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 48, 32
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255))    # above left, above right, below left, below right
GREYS = tuple((grey,) * 3 for grey in (76, 150, 29, 255))
TRANSPOSED = {2: (1, 0, 3, 2), 3: (3, 2, 1, 0), 4: (2, 3, 0, 1), 5: (0, 2, 1, 3), 6: (1, 3, 0, 2), 7: (3, 1, 2, 0),
              8: (2, 0, 3, 1)}    # EXIF orientation: which quarter of the upright picture lies where in the file


class Outcome(NamedTuple):
    """Of a sound picture the quarters' colours, how far each may be off, and its size; of a broken one, the words."""

    colours: tuple = COLOURS
    off_by: int = 0
    size: tuple = (WIDTH, HEIGHT)
    words: tuple = ()

    @property
    def broken(self):
        return bool(self.words)


def quarters(colours=COLOURS, size=(WIDTH, HEIGHT)):
    """An RGB image of four quarters."""
    image = Image.new('RGB', (2, 2))
    image.putdata([tuple(colour) for colour in colours])
    return image.resize(size, Image.Resampling.NEAREST)


def encoded(image, kind, **options):
    """The bytes of a file of that kind."""
    contents = io.BytesIO()
    image.save(contents, kind, **options)
    return contents.getvalue()


def png_of(*chunks):
    """A PNG put together by hand from (name, data) pairs, with the right checksums."""
    return b'\x89PNG\r\n\x1a\n' + b''.join(struct.pack('>I', len(data)) + name + data
                                           + struct.pack('>I', zlib.crc32(name + data)) for name, data in chunks)


def png_header(width, height, depth=8, colour_type=2):
    return b'IHDR', struct.pack('>IIBBBBB', width, height, depth, colour_type, 0, 0, 0)


def exif(orientation):
    data = Image.Exif()
    data[0x0112] = orientation
    return data


def sound():
    """name -> (bytes, Outcome) of the pictures that can be read."""
    base, grey = quarters(), quarters().convert('L')
    deep = np.asarray(grey).astype(np.uint16) * 257    # 16 bits
    hole = Image.new('L', base.size, 255)
    hole.paste(0, (0, 0, WIDTH // 2, HEIGHT // 2))    # above left is transparent
    with_hole, holed = base.copy(), (COLOURS[3], *COLOURS[1:])
    with_hole.putalpha(hole)
    palette = base.quantize(4)
    hole_index = palette.getpixel((0, 0))
    noisy = Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8))
    rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in deep)    # each begins with PNG's filter 0
    deep_transparent = png_of(png_header(WIDTH, HEIGHT, 16, 0), (b'tRNS', struct.pack('>H', 76 * 257)),
                              (b'IDAT', zlib.compress(rows)), (b'IEND', b''))
    lossy, other = Outcome(off_by=12), [base, noisy, noisy]
    found = {
        'plain.jpg': (encoded(base, 'JPEG', quality=95, subsampling=0), lossy),
        'progressive.JPG': (encoded(base, 'JPEG', quality=95, subsampling=0, progressive=True), lossy),
        'grey.jpg': (encoded(grey, 'JPEG', quality=95), Outcome(GREYS, 12)),
        'cmyk.jpg': (encoded(base.convert('CMYK'), 'JPEG', quality=95), lossy),
        'cmyk.tif': (encoded(base.convert('CMYK'), 'TIFF'), Outcome()),
        'plain.png': (encoded(base, 'PNG'), Outcome()),
        'plain.gif': (encoded(base, 'GIF'), Outcome()),
        'plain.bmp': (encoded(base, 'BMP'), Outcome()),
        'plain.tiff': (encoded(base, 'TIFF'), Outcome()),
        'compressed.tif': (encoded(base, 'TIFF', compression='tiff_lzw'), Outcome()),
        'plain.ppm': (encoded(base, 'PPM'), Outcome()),
        'plain.webp': (encoded(base, 'WEBP', lossless=True), Outcome()),
        'lossy.webp': (encoded(base, 'WEBP', quality=90), Outcome(off_by=40)),
        'grey.png': (encoded(grey, 'PNG'), Outcome(GREYS)),
        'grey_alpha.png': (encoded(Image.merge('LA', (grey, hole)), 'PNG'), Outcome((COLOURS[3], *GREYS[1:]))),
        'grey_transparent.png': (encoded(grey, 'PNG', transparency=76), Outcome((COLOURS[3], *GREYS[1:]))),
        'alpha.png': (encoded(with_hole, 'PNG'), Outcome(holed)),
        'alpha.webp': (encoded(with_hole, 'WEBP', lossless=True), Outcome(holed)),
        'alpha.tif': (encoded(with_hole, 'TIFF'), Outcome(holed)),
        'transparent_colour.png': (encoded(base, 'PNG', transparency=(255, 0, 0)), Outcome(holed)),
        'palette.png': (encoded(palette, 'PNG'), Outcome()),
        'palette_transparent.png': (encoded(palette, 'PNG', transparency=hole_index), Outcome(holed)),
        'palette_alphas.png': (encoded(palette, 'PNG', transparency=bytes(0 if i == hole_index else 255
                                                                          for i in range(4))), Outcome(holed)),
        'palette_transparent.gif': (encoded(palette, 'GIF', transparency=hole_index), Outcome(holed)),
        'black_and_white.png': (encoded(base.convert('1', dither=Image.Dither.NONE), 'PNG'),
                                Outcome(tuple((255 * (grey[0] >= 128),) * 3 for grey in GREYS))),
        'grey_16_bits.png': (encoded(Image.fromarray(deep), 'PNG'), Outcome(GREYS)),
        'grey_16_bits_transparent.png': (deep_transparent, Outcome((COLOURS[3], *GREYS[1:]))),
        'grey_16_bits.tif': (encoded(Image.fromarray(deep), 'TIFF'), Outcome(GREYS)),
        'grey_32_bits.tif': (encoded(Image.fromarray(deep.astype(np.int32)), 'TIFF'), Outcome(GREYS)),
        'grey_large_numbers.tif': (encoded(Image.fromarray(deep.astype(np.int32) * 1000), 'TIFF'), Outcome(GREYS)),
        'grey_real_numbers.tif': (encoded(Image.fromarray((deep / 65535).astype(np.float32)), 'TIFF'), Outcome(GREYS)),
        'animated.gif': (encoded(other[0], 'GIF', save_all=True, append_images=other[1:]), Outcome()),
        'animated.webp': (encoded(other[0], 'WEBP', save_all=True, append_images=other[1:], lossless=True), Outcome()),
        'animated.png': (encoded(other[0], 'PNG', save_all=True, append_images=other[1:]), Outcome()),
        'pages.tif': (encoded(other[0], 'TIFF', save_all=True, append_images=other[1:]), Outcome()),
        'one_pixel.png': (encoded(Image.new('RGB', (1, 1), 'red'), 'PNG'), Outcome((COLOURS[0],) * 4, size=(1, 1))),
        'a_line.png': (encoded(quarters(size=(4000, 2)), 'PNG'), Outcome(size=(4000, 2))),
        'wrong_ending.jpg': (encoded(base, 'PNG'), Outcome()),
        'damaged_exif.jpg': (encoded(base, 'JPEG', quality=95, subsampling=0, exif=b'Exif\0\0II*\0\xff\xff\xff\xff'),
                             lossy),
        'orientation_unknown.jpg': (encoded(base, 'JPEG', quality=95, subsampling=0, exif=exif(77)), lossy),
        'a name with spaces, ünï & <b>.png': (encoded(base, 'PNG'), Outcome()),
    }
    for orientation, places in TRANSPOSED.items():
        size = (WIDTH, HEIGHT) if orientation < 5 else (HEIGHT, WIDTH)
        turned = quarters([COLOURS[place] for place in places], size)
        found[f'orientation_{orientation}.jpg'] = (encoded(turned, 'JPEG', quality=95, subsampling=0,
                                                           exif=exif(orientation)), lossy)
    on_its_side = quarters([COLOURS[place] for place in TRANSPOSED[6]], (HEIGHT, WIDTH))
    found['orientation_6.tif'] = encoded(on_its_side, 'TIFF', exif=exif(6)), Outcome()
    found['orientation_6_compressed.tif'] = (encoded(on_its_side, 'TIFF', exif=exif(6), compression='tiff_lzw'),
                                             Outcome())
    found['orientation_6.webp'] = encoded(on_its_side, 'WEBP', exif=exif(6), lossless=True), Outcome()
    found['orientation_6.png'] = encoded(on_its_side, 'PNG', exif=exif(6)), Outcome()
    return found


def broken():
    """name -> (bytes, Outcome) of those that cannot."""
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (200, 200, 3)).astype(np.uint8))
    jpeg, png, gif, tiff, webp = (encoded(noise, kind) for kind in ('JPEG', 'PNG', 'GIF', 'TIFF', 'WEBP'))
    unreadable, no_picture = Outcome(words=('cannot be read as a picture',)), Outcome(words=('is not a picture',))
    return {
        'truncated.jpg': (jpeg[:len(jpeg) // 2], unreadable),
        'truncated.png': (png[:len(png) // 2], unreadable),
        'truncated.gif': (gif[:len(gif) // 2], unreadable),
        'truncated.tif': (tiff[:len(tiff) // 2], Outcome(words=('truncated.tif',))),
        'truncated.webp': (webp[:len(webp) // 2], Outcome(words=('truncated.webp',))),
        'truncated_in_its_header.jpg': (jpeg[:15], unreadable),
        'damaged.png': (png[:80] + bytes(40) + png[120:], unreadable),
        'empty.jpg': (b'', Outcome(words=('is empty',))),
        'text.jpg': (b'not a picture at all\n', no_picture),
        'page.png': (b'<!doctype html><title>404 Not Found</title>', no_picture),
        'zeros.jpg': (bytes(1000), no_picture),
        'drawing.eps.png': (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n',
                            Outcome(words=('of an unsupported kind', 'save it as'))),
        'huge.png': (png_of(png_header(50_000, 50_000), (b'IDAT', zlib.compress(bytes(1000))), (b'IEND', b'')),
                     Outcome(words=('too large', '2500000000 pixels', 'make it smaller'))),
        'no_pixels.png': (png_of(png_header(16, 16), (b'IEND', b'')), unreadable),
        'phone.heic': (b'\0\0\0\x18ftypheic\0\0\0\0mif1heic', no_picture),
    }


def make(folder):
    """Writes all of them into a folder. Returns name -> Outcome."""
    folder = Path(folder)
    outcomes = {}
    for name, (contents, outcome) in {**sound(), **broken()}.items():
        (folder / name).write_bytes(contents)
        outcomes[name] = outcome
    (folder / 'folder.jpg').mkdir()
    (folder / 'nowhere.jpg').symlink_to('gone.jpg')
    (folder / 'circle.jpg').symlink_to('circle.jpg')
    return outcomes | {'folder.jpg': Outcome(words=('is a folder',)), 'nowhere.jpg': Outcome(words=('No such file',)),
                       'circle.jpg': Outcome(words=('cannot be read',)), 'absent.jpg': Outcome(words=('No such file',))}


if __name__ == '__main__':
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    print(f'{len(make(sys.argv[1]))} pictures in {sys.argv[1]}')

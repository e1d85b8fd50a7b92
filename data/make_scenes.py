"""Make `scenes`, a small data set in NeuralTalk's layout: pictures drawn from a seed, and sentences from a grammar.

Knows how a scene is composed, drawn and described, and computes 4096 features of a picture by fixed formulas. Knows
nothing of models: the folder that it writes is read like those of flickr8k and coco.
"""

import argparse
import functools
import json
import math
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))    # a checkout need not be installed

from imagernn.errors import InputError, loading, script, unwritable


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])

    group = parser.add_argument_group('data')
    group.add_argument('--images', type=int, default=3000,
        help='How many pictures to draw, with five sentences each. Lower it for a quick try (default: %(default)s).')
    group.add_argument('--seed', type=int, default=0,
        help='The seed that determines all pictures, sentences and splits. Change it for another data set '
             '(default: %(default)s).')

    group = parser.add_argument_group('output')
    group.add_argument('--output', type=Path, default=Path('data/scenes'),
        help='The folder to create (default: %(default)s).')
    group.add_argument('--force', action='store_true',
        help='Replace the folder if this script made it. Without it, a complete folder is left as it is.')
    return parser


with loading(__name__, build_parser):    # --help does not wait for these
    import numpy as np
    from PIL import Image, ImageDraw
    from scipy.io import savemat
    from tqdm import tqdm

    from imagernn.corpus.dataset_writer import make_dataset
    from imagernn.formats.json_files import write_json

MADE_BY = 'data/make_scenes.py'
SIDE = 160          # pictures are SIDE × SIDE pixels
OVERSAMPLE = 3      # they are drawn larger by this factor and then reduced, for smooth edges
SENTENCES = 5       # per picture


# ---- drawing --------------------------------------------------------------------------------------------------------

class Pen:
    """Draws in a box of an image (x, y, width, height in pixels), in coordinates from 0 to 1; y points down.

    flip: whether to mirror the drawing, left to right.
    """

    def __init__(self, image, box, flip=False):
        self.image = image
        self.draw = ImageDraw.Draw(image, 'RGBA')
        self.x, self.y, self.w, self.h = (OVERSAMPLE * value for value in box)
        self.flip = flip

    def at(self, points):
        return [(self.x + self.w * (1 - px if self.flip else px), self.y + self.h * py) for px, py in points]

    def polygon(self, points, fill, outline=True):
        self.draw.polygon(self.at(points), fill, shade(fill, 0.6) if outline else None, width=OVERSAMPLE)

    def rectangle(self, x0, y0, x1, y1, fill, outline=True):
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill, outline)

    def ellipse(self, x, y, rx, ry, fill, outline=True):
        (cx, cy), = self.at([(x, y)])
        box = [cx - rx * self.w, cy - ry * self.h, cx + rx * self.w, cy + ry * self.h]
        self.draw.ellipse(box, fill, shade(fill, 0.6) if outline else None, width=OVERSAMPLE)

    def line(self, points, fill, width=1.0):
        """A line through points. width is in pixels of the finished picture."""
        self.draw.line(self.at(points), fill, max(1, round(width * OVERSAMPLE)), joint='curve')


def shade(colour, factor):
    """A colour made darker by a factor below 1, or mixed with white by a factor from 1 to 2 (white). Keeps alpha."""
    mixed = [c * factor if factor <= 1 else c + (255 - c) * (factor - 1) for c in colour[:3]]
    return (*(round(min(255, c)) for c in mixed), *colour[3:])


def arc(x, y, rx, ry, start, end, steps=24):
    """Points on an ellipse between two angles in degrees, 0 to the right, 90 downwards."""
    angles = np.radians(np.linspace(start, end, steps))
    return [(x + rx * math.cos(angle), y + ry * math.sin(angle)) for angle in angles]


WOOD = (120, 78, 45)
DARK = (40, 38, 45)
GLASS = (205, 232, 245)
LEAF = (60, 140, 60)
CREAM = (255, 244, 214)


def draw_house(pen, colour):
    pen.rectangle(0.72, 0.04, 0.84, 0.35, shade(colour, 0.55))
    pen.rectangle(0.08, 0.42, 0.92, 1, colour)
    pen.polygon([(0, 0.45), (0.5, 0), (1, 0.45)], shade(colour, 0.6))
    pen.rectangle(0.42, 0.66, 0.6, 1, WOOD)
    for x in (0.17, 0.69):
        pen.rectangle(x, 0.56, x + 0.15, 0.74, CREAM)


def draw_tree(pen, colour):
    pen.polygon([(0.43, 0.5), (0.57, 0.5), (0.62, 1), (0.38, 1)], WOOD)
    for x, y, r in ((0.25, 0.45, 0.24), (0.75, 0.45, 0.24), (0.5, 0.25, 0.27), (0.5, 0.5, 0.25)):
        pen.ellipse(x, y, r, r, colour)
    for x, y in ((0.38, 0.22), (0.66, 0.38), (0.28, 0.46), (0.52, 0.52)):
        pen.ellipse(x, y, 0.09, 0.07, shade(colour, 1.25), outline=False)


def draw_car(pen, colour):
    pen.polygon([(0.2, 0.45), (0.32, 0.05), (0.7, 0.05), (0.84, 0.45)], colour)
    pen.polygon([(0.28, 0.43), (0.36, 0.13), (0.49, 0.13), (0.49, 0.43)], GLASS)
    pen.polygon([(0.54, 0.43), (0.54, 0.13), (0.66, 0.13), (0.76, 0.43)], GLASS)
    pen.polygon([(0, 0.8), (0.02, 0.45), (0.86, 0.42), (0.98, 0.55), (1, 0.8)], colour)
    pen.rectangle(0.93, 0.56, 0.98, 0.66, (255, 240, 150), outline=False)
    for x in (0.24, 0.77):
        pen.ellipse(x, 0.8, 0.12, 0.2, DARK)
        pen.ellipse(x, 0.8, 0.05, 0.09, (200, 200, 205), outline=False)


def draw_boat(pen, colour):
    pen.rectangle(0.47, 0, 0.51, 0.75, WOOD, outline=False)
    pen.polygon([(0.54, 0.02), (0.54, 0.66), (0.95, 0.66)], shade(colour, 1.3))
    pen.polygon([(0.44, 0.14), (0.44, 0.66), (0.12, 0.66)], shade(colour, 1.55))
    pen.polygon([(0, 0.72), (1, 0.72), (0.82, 1), (0.16, 1)], colour)


def draw_ball(pen, colour):
    pen.ellipse(0.5, 0.5, 0.5, 0.5, colour)
    band = arc(0.5, 0.5, 0.47, 0.18, 0, 180) + arc(0.5, 0.36, 0.45, 0.16, 180, 0)
    pen.polygon(band, shade(colour, 1.7), outline=False)
    pen.ellipse(0.33, 0.22, 0.1, 0.07, (255, 255, 255, 170), outline=False)


def draw_star(pen, colour):
    angles = np.radians(np.arange(10) * 36 - 90)
    radii = np.where(np.arange(10) % 2, 0.22, 0.53)
    pen.polygon([(0.5 + r * math.cos(a), 0.53 + r * math.sin(a)) for r, a in zip(radii, angles, strict=True)], colour)


def draw_cat(pen, colour):
    pen.line(arc(0.78, 0.8, 0.2, 0.25, 110, -70), shade(colour, 0.75), 3)
    pen.ellipse(0.48, 0.75, 0.32, 0.26, colour)
    for x in (0.2, 0.52):
        pen.polygon([(x, 0.28), (x + 0.04, 0), (x + 0.24, 0.18)] if x < 0.5 else
                    [(x, 0.18), (x + 0.2, 0), (x + 0.24, 0.28)], colour)
    pen.ellipse(0.48, 0.36, 0.31, 0.23, colour)
    for x in (0.36, 0.6):
        pen.ellipse(x, 0.33, 0.055, 0.055, (235, 245, 160), outline=False)
        pen.ellipse(x, 0.33, 0.025, 0.05, DARK, outline=False)
        pen.line([(0.48, 0.44), (0.48 + 3 * (x - 0.48), 0.42)], DARK, 0.6)
    pen.polygon([(0.44, 0.41), (0.52, 0.41), (0.48, 0.46)], (225, 120, 130), outline=False)


def draw_bird(pen, colour):
    pen.polygon([(0.3, 0.6), (0, 0.38), (0.02, 0.72)], shade(colour, 0.75))
    pen.ellipse(0.5, 0.64, 0.3, 0.2, colour)
    pen.polygon([(0.88, 0.42), (1, 0.5), (0.86, 0.55)], (245, 160, 40))
    pen.ellipse(0.76, 0.46, 0.15, 0.18, colour)
    pen.polygon([(0.32, 0.62), (0.22, 0.02), (0.62, 0.58)], shade(colour, 0.8))
    pen.ellipse(0.8, 0.42, 0.03, 0.04, DARK, outline=False)


def draw_fish(pen, colour):
    pen.polygon([(0.3, 0.5), (0, 0.12), (0.06, 0.5), (0, 0.88)], shade(colour, 0.8))
    pen.polygon([(0.4, 0.2), (0.62, 0), (0.72, 0.22)], shade(colour, 0.8))
    pen.ellipse(0.6, 0.52, 0.4, 0.38, colour)
    for x in (0.42, 0.56):
        pen.line(arc(x, 0.52, 0.08, 0.28, -70, 70), shade(colour, 1.5), 1.2)
    pen.ellipse(0.82, 0.42, 0.06, 0.09, (255, 255, 255), outline=False)
    pen.ellipse(0.83, 0.42, 0.03, 0.05, DARK, outline=False)


def draw_flower(pen, colour):
    pen.rectangle(0.46, 0.4, 0.54, 1, LEAF, outline=False)
    pen.polygon(arc(0.7, 0.78, 0.22, 0.09, 0, 360), LEAF)
    for angle in range(0, 360, 60):
        x, y = arc(0.5, 0.3, 0.3, 0.19, angle, angle, 1)[0]
        pen.ellipse(x, y, 0.2, 0.125, colour)
    pen.ellipse(0.5, 0.3, 0.17, 0.11, (110, 70, 40))


def draw_balloon(pen, colour):
    pen.line([(0.5, 0.66), (0.42, 0.78), (0.56, 0.88), (0.48, 1)], DARK, 0.8)
    pen.polygon([(0.42, 0.7), (0.58, 0.7), (0.5, 0.62)], shade(colour, 0.8))
    pen.ellipse(0.5, 0.33, 0.45, 0.33, colour)
    pen.ellipse(0.33, 0.18, 0.09, 0.08, (255, 255, 255, 190), outline=False)


def draw_umbrella(pen, colour):
    pen.line([(0.5, 0.02), (0.5, 0.9), *arc(0.59, 0.9, 0.09, 0.09, 180, 0, 12)], DARK, 2.2)
    pen.polygon(arc(0.5, 0.5, 0.5, 0.45, 180, 360), colour)
    pen.polygon([(0.5, 0.05), (0.33, 0.5), (0.67, 0.5)], shade(colour, 1.45), outline=False)


def draw_kite(pen, colour):
    tail = [(0.5, 0.62), (0.58, 0.72), (0.44, 0.82), (0.56, 0.92), (0.5, 1)]
    pen.line(tail, DARK, 0.8)
    for x, y in tail[1:4]:
        pen.ellipse(x, y, 0.07, 0.03, shade(colour, 0.8), outline=False)
    pen.polygon([(0.5, 0), (0.95, 0.24), (0.5, 0.66), (0.05, 0.24)], colour)
    pen.polygon([(0.5, 0), (0.95, 0.24), (0.5, 0.24)], shade(colour, 1.5), outline=False)
    pen.polygon([(0.5, 0.66), (0.05, 0.24), (0.5, 0.24)], shade(colour, 1.5), outline=False)


def draw_cup(pen, colour):
    pen.line(arc(0.72, 0.6, 0.22, 0.2, -80, 80), shade(colour, 0.7), 3)
    pen.polygon([(0.04, 0.3), (0.76, 0.3), (0.68, 1), (0.12, 1)], colour)
    pen.ellipse(0.4, 0.3, 0.36, 0.09, shade(colour, 1.5))
    pen.ellipse(0.4, 0.31, 0.28, 0.06, (90, 55, 35), outline=False)
    for x in (0.3, 0.5):
        pen.line([(x, 0.2), (x + 0.05, 0.14), (x - 0.03, 0.08), (x + 0.02, 0)], (235, 235, 240), 1)


# ---- backgrounds, each of which fills the picture -------------------------------------------------------------------

HORIZON = 0.58    # the height of the horizon, as a share of the picture's, from the top


def gradient(pen, top, bottom, y0, y1, rng):
    """Fill between the heights y0 and y1 with a gradient from colour top to bottom, both varied a little at random."""
    top, bottom = (np.array(colour) + rng.normal(0, 6, 3) for colour in (top, bottom))
    start = round(pen.h * y0)
    end = round(pen.h * y1)
    column = np.clip(np.linspace(top, bottom, end - start), 0, 255).astype(np.uint8)      # (rows, 3)
    pen.image.paste(Image.fromarray(column[:, None]).resize((round(pen.w), end - start)), (0, start))


def specks(pen, colour, count, y0, y1, rng, length=0.02, slope=0.0):
    """Draw short strokes between the heights y0 and y1: blades of grass, waves, sand, stars."""
    for x, y in zip(rng.uniform(0, 1, count), rng.uniform(y0, y1, count), strict=True):
        pen.line([(x, y), (x + length, y + slope)], shade(colour, rng.uniform(0.85, 1)), 0.8)


def cloud(pen, rng, colour=(255, 255, 255, 50)):
    x, y = rng.uniform(0.1, 0.9), rng.uniform(0.06, 0.3)
    for dx, dy, r in ((-0.07, 0.01, 0.05), (0, 0, 0.06), (0.08, 0.01, 0.05)):
        pen.ellipse(x + dx, y + dy, r * 1.3, r * 0.6, colour, outline=False)


def hills(pen, colour, rng, height=0.1):
    phase = rng.uniform(0, 6.28)
    bumps = rng.uniform(4, 9)
    ridge = [(x, HORIZON - height * (0.5 + 0.5 * math.sin(bumps * x + phase))) for x in np.linspace(0, 1, 40)]
    pen.polygon([*ridge, (1, HORIZON + 0.02), (0, HORIZON + 0.02)], colour, outline=False)


def paint_meadow(pen, rng):
    gradient(pen, (120, 190, 240), (185, 224, 246), 0, HORIZON, rng)
    cloud(pen, rng)
    cloud(pen, rng)
    hills(pen, (150, 200, 140), rng)
    gradient(pen, (140, 195, 95), (95, 160, 65), HORIZON, 1, rng)
    specks(pen, (80, 140, 55), 90, HORIZON + 0.03, 1, rng, 0.006, -0.025)


def paint_night(pen, rng):
    gradient(pen, (14, 18, 50), (42, 50, 96), 0, HORIZON, rng)
    specks(pen, (220, 220, 240), 30, 0, HORIZON - 0.1, rng, 0.004)
    pen.ellipse(0.99, rng.uniform(0, 0.05), 0.17, 0.17, (248, 236, 180), outline=False)
    hills(pen, (26, 34, 62), rng)
    gradient(pen, (36, 52, 62), (22, 32, 42), HORIZON, 1, rng)
    specks(pen, (55, 75, 80), 60, HORIZON + 0.03, 1, rng, 0.006, -0.02)


def paint_sunset(pen, rng):
    gradient(pen, (110, 80, 140), (250, 165, 100), 0, HORIZON, rng)
    pen.polygon(arc(rng.integers(2), HORIZON, 0.2, 0.2, 180, 360), (255, 225, 140), outline=False)
    gradient(pen, (215, 130, 105), (85, 60, 110), HORIZON, 1, rng)
    specks(pen, (255, 190, 140), 45, HORIZON + 0.01, 1, rng, 0.06)


def paint_sea(pen, rng):
    gradient(pen, (140, 200, 242), (195, 226, 246), 0, HORIZON, rng)
    cloud(pen, rng)
    gradient(pen, (70, 150, 205), (25, 85, 150), HORIZON, 1, rng)
    specks(pen, (190, 225, 245), 45, HORIZON + 0.03, 1, rng, 0.05)


def paint_beach(pen, rng):
    gradient(pen, (135, 205, 238), (190, 228, 244), 0, 0.45, rng)
    cloud(pen, rng)
    gradient(pen, (60, 160, 200), (110, 200, 210), 0.45, HORIZON + 0.02, rng)
    gradient(pen, (245, 225, 170), (228, 200, 140), HORIZON + 0.02, 1, rng)
    specks(pen, (235, 248, 250), 14, 0.47, HORIZON + 0.02, rng, 0.07)
    specks(pen, (205, 175, 120), 80, HORIZON + 0.05, 1, rng, 0.006)


def paint_snow(pen, rng):
    gradient(pen, (150, 166, 188), (192, 204, 220), 0, HORIZON, rng)
    hills(pen, (210, 220, 234), rng, 0.14)
    gradient(pen, (222, 231, 244), (198, 212, 234), HORIZON, 1, rng)
    for x, y in rng.uniform(0, 1, (60, 2)):
        pen.ellipse(x, y, 0.007, 0.007, (255, 255, 255), outline=False)


def paint_room(pen, rng):
    wall = tuple(int(c) for c in np.array((226, 212, 196)) + rng.integers(-8, 9, 3))
    pen.rectangle(0, 0, 1, 1, wall, outline=False)
    for x in np.arange(rng.uniform(0, 0.06), 1, 0.1):
        pen.rectangle(x, 0, x + 0.045, HORIZON + 0.06, shade(wall, 0.96), outline=False)
    gradient(pen, (176, 128, 88), (150, 104, 68), HORIZON + 0.06, 1, rng)
    pen.rectangle(0, HORIZON + 0.03, 1, HORIZON + 0.06, (245, 240, 232), outline=False)
    for y in (0.72, 0.82, 0.93):
        pen.line([(0, y), (1, y)], (128, 88, 58), 0.8)


def paint_desert(pen, rng):
    gradient(pen, (245, 214, 160), (252, 236, 200), 0, HORIZON, rng)
    hills(pen, (222, 170, 112), rng, 0.16)
    gradient(pen, (214, 158, 98), (184, 124, 72), HORIZON, 1, rng)
    specks(pen, (165, 110, 62), 30, HORIZON + 0.04, 1, rng, 0.07, 0.008)


# ---- the things in the world, and their words -----------------------------------------------------------------------

@dataclass(frozen=True)
class Kind:
    """A kind of object: how it is drawn, where it can be, and how it is described."""

    draw: object            # a function of a Pen and a colour
    shape: tuple            # its width and height in units of its size
    level: str              # where it is: 'ground', 'air', 'water' (afloat) or 'under' (in the water)
    backgrounds: str        # the names of those where it occurs
    nouns: tuple            # of pairs: singular, plural
    verbs: tuple            # of triples: it …, they …, …ing


STAND = ('stands', 'stand', 'standing')
LIE = ('lies', 'lie', 'lying')
SIT = ('sits', 'sit', 'sitting')
WAIT = ('waits', 'wait', 'waiting')
FLY = ('flies', 'fly', 'flying')
FLOAT = ('floats', 'float', 'floating')
GROW = ('grows', 'grow', 'growing')

KINDS = {
    'house': Kind(draw_house, (1.0, 1.0), 'ground', 'meadow night beach snow desert', (('house', 'houses'),), (STAND,)),
    'tree': Kind(draw_tree, (0.85, 1.2), 'ground', 'meadow night snow desert', (('tree', 'trees'),), (STAND, GROW)),
    'car': Kind(draw_car, (1.3, 0.7), 'ground', 'meadow night beach snow desert', (('car', 'cars'),),
                (STAND, ('is parked', 'are parked', 'parked'))),
    'boat': Kind(draw_boat, (1.05, 1.05), 'water', 'sea sunset', (('boat', 'boats'), ('sailboat', 'sailboats')),
                 (('sails', 'sail', 'sailing'), FLOAT)),
    'ball': Kind(draw_ball, (0.85, 0.85), 'ground', 'meadow beach snow room', (('ball', 'balls'),), (LIE,)),
    'star': Kind(draw_star, (1.05, 1.05), 'air', 'night sunset snow room', (('star', 'stars'),),
                 (('shines', 'shine', 'shining'), ('hangs', 'hang', 'hanging'))),
    'cat': Kind(draw_cat, (0.9, 1.15), 'ground', 'meadow night beach snow room', (('cat', 'cats'),), (SIT, WAIT)),
    'bird': Kind(draw_bird, (1.2, 0.95), 'air', 'meadow sea sunset beach snow', (('bird', 'birds'),), (FLY,)),
    'fish': Kind(draw_fish, (1.2, 0.75), 'under', 'sea sunset', (('fish', 'fish'),), (('swims', 'swim', 'swimming'),)),
    'flower': Kind(draw_flower, (0.8, 1.25), 'ground', 'meadow night desert room', (('flower', 'flowers'),),
                   (GROW, ('blooms', 'bloom', 'blooming'))),
    'balloon': Kind(draw_balloon, (0.8, 1.25), 'air', 'meadow sea beach desert room', (('balloon', 'balloons'),),
                    (FLOAT,)),
    'umbrella': Kind(draw_umbrella, (1.1, 1.0), 'ground', 'meadow beach snow room', (('umbrella', 'umbrellas'),),
                     (STAND,)),
    'kite': Kind(draw_kite, (0.85, 1.25), 'air', 'meadow sea beach desert', (('kite', 'kites'),), (FLY,)),
    'cup': Kind(draw_cup, (1.0, 0.95), 'ground', 'meadow beach snow room', (('cup', 'cups'), ('mug', 'mugs')),
                (STAND, SIT)),
}

COLOURS = {
    'red': (215, 40, 40), 'orange': (245, 135, 25), 'yellow': (250, 220, 40), 'green': (30, 160, 70),
    'blue': (40, 80, 215), 'purple': (130, 50, 170), 'pink': (250, 135, 185), 'white': (248, 248, 250),
}

SIZES = {   # pixels from, to; adjectives
    'small': (26, 31, ('small', 'little', 'tiny')), 'medium': (40, 46, ()), 'large': (60, 70, ('big', 'large', 'huge')),
}

NUMBERS = {1: 'one', 2: 'two', 3: 'three', 4: 'four'}

BACKGROUNDS = {   # a function that paints it; phrases that say when, where (at any level), and where at one level
    'meadow': (paint_meadow, {'when': ('on a sunny day',), 'any': ('in a meadow',),
                              'ground': ('on the grass', 'in a green field'),
                              'air': ('over a green field', 'above the grass')}),
    'night': (paint_night, {'when': ('at night',), 'any': (), 'ground': ('in the dark', 'in the moonlight'),
                            'air': ('in the night sky', 'in the dark sky')}),
    'sunset': (paint_sunset, {'when': ('at sunset', 'in the evening'), 'any': (), 'water': ('on the sea at sunset',),
                              'under': ('in the sea at sunset',),
                              'air': ('in the evening sky', 'over the sea at sunset')}),
    'sea': (paint_sea, {'when': (), 'any': ('at sea',), 'water': ('on the sea', 'on the blue water'),
                        'under': ('in the sea', 'in the blue water'), 'air': ('over the sea', 'above the blue water')}),
    'beach': (paint_beach, {'when': (), 'any': ('at the beach', 'at the seaside'),
                            'ground': ('on the beach', 'on the sand by the sea'), 'air': ('over the beach',)}),
    'snow': (paint_snow, {'when': ('in winter', 'on a snowy day'), 'any': (), 'ground': ('in the snow', 'on the snow'),
                          'air': ('over the snow', 'in the falling snow')}),
    'room': (paint_room, {'when': (), 'any': ('in a room', 'indoors'), 'ground': ('on the floor', 'on a wooden floor'),
                          'air': ('inside a room',)}),
    'desert': (paint_desert, {'when': (), 'any': ('in the desert', 'in a hot desert'),
                              'ground': ('on the desert sand',), 'air': ('over the desert', 'above the desert sand')}),
}

RELATIONS = {   # phrases for the first group in relation to the second, and for the second in relation to the first
    'left': (('to the left of', 'left of', 'next to', 'beside'), ('to the right of', 'right of', 'next to', 'beside')),
    'above': (('above', 'over'), ('below', 'under', 'beneath')),
    'on': (('on top of', 'on'), ()),
}
RIDERS = ('cat', 'bird', 'ball', 'star', 'cup')
BASES = {'house': 0.04, 'car': 0.06, 'tree': 0.05}   # how far a rider sinks into them, as a share of their height

# Templates of sentences. {a} is a noun phrase, {the} one without adjectives, {spot} says where, {where} where or when,
# {place} on the left, at the top …, or nothing.
ALONE = (
    '{a} {verb} {spot}', '{a} {verb} {place} {where}', '{a} {doing} {where}', '{a} {place} {where}',
    '{where} {a} {verb} {place}', 'there {are} {a} {spot}', 'there {are} {a} {doing} {where}',
    '{where} there {are} {a} {place}', '{spot} {invert} {a}', 'the picture shows {a} {where}',
    'a picture of {a} {doing} {where}', 'the {the} {spot} {are} {colour}', '{a} {are} {doing} {where}',
)
TOGETHER = (   # {a} is in the relation {to} to {b}
    '{a} {verb} {to} {b}', '{a} {verb} {to} {b} {where}', '{a} {to} {b} {where}', '{a} {are} {to} {b}',
    'there {are} {a} {to} {b}', 'there {are} {a} {to} {b} {where}', '{where} {a} {verb} {to} {b}',
    '{to} {b} {invert} {a}', '{a} and {b} {where}', 'the picture shows {a} {to} {b}',
    'the picture shows {a} and {b} {where}', '{where} there {are} {a} {to} {b}',
)
WITH = ('{b} with {a} {to} it', '{b} {where} with {a} {to} it')   # only if {b} is a single object
PLACES = {
    'left': ('on the left', 'on the left of the picture'), 'right': ('on the right', 'on the right of the picture'),
    'middle': ('in the middle', 'in the center', 'in the middle of the picture'),
    'top left': ('at the top left', 'in the top left corner'), 'top middle': ('at the top', 'near the top'),
    'top right': ('at the top right', 'in the top right corner'), 'row': ('in a row', 'side by side'), '': ('',),
}


# ---- composing a scene ----------------------------------------------------------------------------------------------

@dataclass
class Group:
    """One or more objects of one kind, colour and size."""

    kind: str
    colour: str
    size: str
    count: int
    boxes: list             # (x, y, width, height) of each object, in pixels
    place: str = ''         # a key of PLACES


@dataclass
class Scene:
    """A background with one group, or with two groups in a relation."""

    background: str         # a key of BACKGROUNDS
    groups: list
    relation: str = ''      # a key of RELATIONS


def pick(rng, options):
    """One of the options, each with the same probability."""
    return options[rng.integers(len(options))]


def compose(rng):
    """A random Scene."""
    kind = pick(rng, list(KINDS))
    background = pick(rng, KINDS[kind].backgrounds.split())
    if rng.random() < 0.6:
        return Scene(background, [compose_alone(kind, rng)])
    pairs = {'left': [], 'above': [], 'on': []}
    for other in KINDS:
        if other != kind and background in KINDS[other].backgrounds.split():
            for pair in ((kind, other), (other, kind)):
                for relation in relations_of(*pair):
                    pairs[relation].append(pair)
    relation = pick(rng, [name for name, found in pairs.items() if found])
    compose_pair = {'left': compose_left, 'above': compose_above, 'on': compose_on}[relation]
    return Scene(background, compose_pair(*pick(rng, pairs[relation]), rng), relation)


def relations_of(kind, other):
    """Yield the relations in which objects of the first kind can be to those of the second."""
    level = KINDS[kind].level
    other_level = KINDS[other].level
    if level == other_level:
        yield 'left'
    if level == 'air' != other_level:
        yield 'above'
    if kind in RIDERS and other in BASES:
        yield 'on'


def random_group(kind, sizes, counts, rng, colour_not=None):
    """A group that has no boxes yet, and the width and height of one of its objects in pixels."""
    size = pick(rng, sizes)
    colour = pick(rng, [name for name in COLOURS if name != colour_not])
    scale = rng.uniform(*SIZES[size][:2])
    return Group(kind, colour, size, pick(rng, counts), []), [scale * side for side in KINDS[kind].shape]


def height_of(kind, h, rng):
    """A random y that suits the kind: that of an object's upper edge, in pixels. h: the object's height."""
    level = KINDS[kind].level
    if level == 'air':
        return rng.uniform(6, max(7, 0.62 * SIDE - h))
    if level == 'under':
        return rng.uniform(max(0.62 * SIDE, 0.8 * SIDE - h / 2), 0.97 * SIDE - h)
    return rng.uniform(0.74, 0.94) * SIDE - h


def spread(group, w, h, x0, x1, rng, level_row=False):
    """Give a group boxes side by side between x0 and x1, shrunk if they do not fit. Changes group."""
    slot = (x1 - x0) / group.count
    fit = min(1, 0.97 * slot / w)
    w *= fit
    h *= fit
    y = height_of(group.kind, h, rng)
    for i in range(group.count):
        x = x0 + slot * i + rng.uniform(0, slot - w)
        group.boxes.append((x, y if level_row else height_of(group.kind, h, rng), w, h))


def compose_alone(kind, rng):
    """A group of 1 to 4 objects that has the picture to itself."""
    count = pick(rng, (1, 1, 1, 2, 2, 3, 3, 4))
    sizes = {1: tuple(SIZES), 2: tuple(SIZES), 3: ('small', 'medium'), 4: ('small',)}[count]
    group, (w, h) = random_group(kind, sizes, (count,), rng)
    if count > 1:
        level_row = count > 2 and rng.random() < 0.5
        spread(group, w, h, 4, SIDE - 4, rng, level_row)
        group.place = 'row' if level_row else ''
        return group
    column = pick(rng, ('left', 'middle', 'right'))
    centre = {'left': 0.22, 'middle': 0.5, 'right': 0.78}[column] + rng.uniform(-0.06, 0.06)
    x = np.clip(centre * SIDE - w / 2, 4, SIDE - 4 - w)
    y = height_of(kind, h, rng)
    group.boxes.append((x, y, w, h))
    group.place = f'top {column}' if y + h / 2 < 0.36 * SIDE else column
    return group


def compose_left(kind, other, rng):
    """Two groups side by side, one of them a single object."""
    while True:
        counts = pick(rng, ((1, 1), (1, 1), (2, 1), (1, 2), (3, 1)))
        first, (w, h) = random_group(kind, tuple(SIZES), counts[:1], rng)
        second, (w2, h2) = random_group(other, tuple(SIZES), counts[1:], rng)
        total = w * first.count
        total2 = w2 * second.count
        if total + total2 < SIDE - 14:
            break
    split = 4 + (SIDE - 8) * (total + 4) / (total + total2 + 8)
    spread(first, w, h, 4, split - 2, rng)
    spread(second, w2, h2, split + 2, SIDE - 4, rng)
    return [first, second]


def compose_above(flyer, lower, rng):
    """One or two objects in the air, above a single one."""
    second, (w2, h2) = random_group(lower, tuple(SIZES), (1,), rng)
    y2 = height_of(lower, h2, rng)
    while True:
        first, (w, h) = random_group(flyer, tuple(SIZES), (1, 1, 2), rng)
        if h + 6 < y2 and w * first.count < SIDE - 14 and h + h2 < 130:
            break
        y2 = max(y2, height_of(lower, h2, rng))
    width = max(w * first.count + 6, w2)
    left = rng.uniform(4, max(5, SIDE - 4 - width))
    second.boxes.append((left + (width - w2) / 2, y2, w2, h2))
    for i in range(first.count):
        slot = width / first.count
        first.boxes.append((left + slot * i + (slot - w) / 2, rng.uniform(4, y2 - h - 2), w, h))
    return [first, second]


def compose_on(rider, base, rng):
    """A small object on top of a larger one."""
    second, (w2, h2) = random_group(base, ('medium', 'large'), (1,), rng)
    first, (w, h) = random_group(rider, ('small',), (1,), rng, colour_not=second.colour)
    x2 = rng.uniform(4, SIDE - 4 - w2)
    y2 = max(h + 2, rng.uniform(0.78, 0.94) * SIDE - h2)
    second.boxes.append((x2, y2, w2, h2))
    first.boxes.append((x2 + (w2 - w) / 2, y2 + BASES[base] * h2 - h, w, h))
    return [first, second]


def draw_scene(scene, rng):
    """The finished picture, an RGB image of SIDE × SIDE pixels."""
    image = Image.new('RGB', (SIDE * OVERSAMPLE,) * 2)
    BACKGROUNDS[scene.background][0](Pen(image, (0, 0, SIDE, SIDE)), rng)
    for group in reversed(scene.groups):      # a rider is drawn after its base
        kind = KINDS[group.kind]
        for box in sorted(group.boxes, key=lambda box: box[1] + box[3]):      # nearer ones are drawn later
            colour = tuple(int(c) for c in np.clip(np.array(COLOURS[group.colour]) + rng.normal(0, 7, 3), 0, 255))
            if kind.level == 'ground' and not (scene.relation == 'on' and group is scene.groups[0]):
                Pen(image, box).ellipse(0.5, 0.98, 0.55, 0.07, (0, 0, 0, 60), outline=False)
            kind.draw(Pen(image, box, flip=rng.random() < 0.5), colour)
    return image.reduce(OVERSAMPLE)


# ---- describing a scene ---------------------------------------------------------------------------------------------

def noun_phrase(group, rng, short=False):
    """A phrase such as `a small red boat` or `two boats`: always with the number, often with size and colour."""
    one, many = pick(rng, KINDS[group.kind].nouns)
    words = []
    if SIZES[group.size][2] and rng.random() < (0.35 if short else 0.6):
        words.append(pick(rng, SIZES[group.size][2]))
    if rng.random() < 0.85:
        words.append(group.colour)
    words.append(one if group.count == 1 else many)
    number = NUMBERS[group.count] if group.count > 1 else 'an' if words[0][0] in 'aeiou' else 'a'
    return ' '.join([number, *words])


def words_for(scene, rng):
    """Random words for the blanks of the templates, all true of the scene, as a dict; and whether {b} is one object."""
    groups = scene.groups
    swap = scene.relation not in ('', 'on') and rng.random() < 0.4
    subject = groups[-1] if swap else groups[0]
    kind = KINDS[subject.kind]
    many = int(subject.count > 1)
    verb, invert = (SIT, SIT) if scene.relation == 'on' else (pick(rng, kind.verbs), kind.verbs[0])
    where = BACKGROUNDS[scene.background][1]
    one_level = len({KINDS[group.kind].level for group in groups}) == 1 and scene.relation != 'on'
    spots = where['any'] + (where[kind.level] if one_level else ())
    blanks = {
        'a': noun_phrase(subject, rng, short=len(groups) > 1), 'are': ('is', 'are')[many], 'colour': subject.colour,
        'the': ' '.join([NUMBERS[subject.count]] * many + [pick(rng, kind.nouns)[many]]),
        'verb': verb[many], 'doing': verb[2], 'invert': invert[many], 'place': pick(rng, PLACES[subject.place]),
        'spot': pick(rng, spots or where['when']), 'where': pick(rng, spots + where['when']),
    }
    if len(groups) > 1:
        other = groups[0] if swap else groups[-1]
        blanks |= {'b': noun_phrase(other, rng, short=True), 'to': pick(rng, RELATIONS[scene.relation][swap])}
    return blanks, len(groups) > 1 and other.count == 1


def describe(scene, rng):
    """SENTENCES sentences that are true of the scene, each from another template, as lists of 5 to 16 tokens."""
    sentences = []
    used = set()
    while len(sentences) < SENTENCES:
        blanks, single = words_for(scene, rng)
        template = pick(rng, ALONE if len(scene.groups) == 1 else TOGETHER + WITH * single)
        tokens = template.format(**blanks).split()
        if template not in used and 5 <= len(tokens) <= 16 and tokens not in sentences:
            sentences.append(tokens)
            used.add(template)
    return sentences


# ---- features: 4096 numbers by fixed formulas, made for linear models -----------------------------------------------

FEATURES = 4096
GRAIN = 80              # they are computed from GRAIN × GRAIN pixels
TINTS = 4               # levels of red, of green and of blue
ANGLES = 8              # orientations of edges
SHAPE = 192             # numbers that describe the shape of a region
REGION = 426            # all numbers that describe a region
UNITS = 602             # fixed random units whose input is the shape
LEAST_AREA = 40         # in pixels; smaller regions are specks


def image_features(picture):
    """A Pillow image of any size -> (4096,) float32, none negative and about half of them 0. Nothing is learned.

    They are: colours on grids of 1, 4 and 16 cells (1344); edge orientations on 4, 16 and 64 cells (672); the number of
    regions (24); and the mean and the maximum over regions of the description of each (2 · 426) and of random units
    that see its shape (2 · 602). Regions are where the picture differs from its own border. The factors give each part
    about the same weight in distinguishing pictures.
    """
    small = picture.convert('RGB').resize((GRAIN, GRAIN), Image.Resampling.BOX)
    x = np.asarray(small, np.float32) / 255                                    # (80, 80, 3)
    colours = soft_colours(x)                                                  # (80, 80, 64)
    edges = edge_orientations(x)                                               # (80, 80, 8)
    mask = foreground(x)                                                       # (80, 80)
    boxes = [box for box in region_boxes(mask) if mask[box].sum() >= LEAST_AREA]
    regions = np.stack([describe_region(colours[box], edges[box], mask[box], box) for box in boxes]
                       or [np.zeros(REGION, np.float32)])                      # (R, 426)
    units = 2 * shape_units(regions[:, :SHAPE])                                # (R, 602)
    features = np.concatenate([
        2 * np.sqrt(pyramid(colours, (1, 2, 4))), 0.5 * np.sqrt(pyramid(edges, (2, 4, 8))),
        regions.mean(0), regions.max(0), units.mean(0), units.max(0), 8 * np.tile(np.arange(6) < len(boxes), 4),
    ])
    return (np.round(features * 128) / 128).astype(np.float32)    # coarse enough for the file to compress well


def soft_colours(x):
    """A soft histogram of each pixel's colour over 4 × 4 × 4 tints: (h, w, 3) from 0 to 1 -> (h, w, 64)."""
    near = np.maximum(0, 1 - np.abs(x[..., None] * (TINTS - 1) - np.arange(TINTS, dtype=np.float32)))    # (h, w, 3, 4)
    red = near[:, :, 0, :, None, None]
    green = near[:, :, 1, None, :, None]
    blue = near[:, :, 2, None, None, :]
    return (red * green * blue).reshape(*x.shape[:2], TINTS ** 3)


def edge_orientations(x):
    """The edge strength at each pixel, split between the two nearest of 8 orientations: (h, w, 3) -> (h, w, 8)."""
    down = np.zeros_like(x)
    down[1:-1] = x[2:] - x[:-2]
    across = np.zeros_like(x)
    across[:, 1:-1] = x[:, 2:] - x[:, :-2]
    strongest = np.argmax(down ** 2 + across ** 2, axis=2)[..., None]
    down, across = (np.take_along_axis(d, strongest, 2)[..., 0] for d in (down, across))                  # (h, w)
    angle = (np.arctan2(down, across) % np.pi) * (ANGLES / np.pi)
    apart = np.abs((angle[..., None] - np.arange(ANGLES) + ANGLES / 2) % ANGLES - ANGLES / 2)             # (h, w, 8)
    return np.maximum(0, 1 - apart) * np.minimum(np.hypot(down, across), 0.5)[..., None]


def foreground(x):
    """Whether each pixel differs from the left and right borders at about its height, without specks: (h, w) bool."""
    rows = np.arange(GRAIN)
    unlike = np.full(x.shape[:2], np.inf, np.float32)
    planes = np.ascontiguousarray(x.transpose(2, 0, 1))                        # (3, h, w)
    for border in (planes[:, :, :3].mean(2), planes[:, :, -3:].mean(2)):
        for shift in range(-8, 9, 2):
            nearby = border[:, np.clip(rows + shift, 0, GRAIN - 1), None]      # (3, h, 1)
            np.minimum(unlike, np.abs(planes - nearby).max(0), out=unlike)
    mask = unlike > 0.11
    around = np.pad(mask, 1).astype(np.int8)
    around = sum(around[i:i + GRAIN, j:j + GRAIN] for i in range(3) for j in range(3))
    return mask & (around >= 5)


def region_boxes(mask, top=0, left=0, axis=0, whole=False):
    """Divide a mask at its empty columns, then at empty rows, and so on until no part can be divided.

    Yields the box of each part as a pair of slices. The other arguments are for the recursion.
    """
    filled = np.concatenate([[0], mask.any(axis), [0]])
    starts = np.flatnonzero(np.diff(filled) == 1)
    ends = np.flatnonzero(np.diff(filled) == -1)
    for start, end in zip(starts, ends, strict=True):
        alone = len(starts) == 1
        part = mask[:, start:end] if axis == 0 else mask[start:end]
        y, x = (top, left + start) if axis == 0 else (top + start, left)
        if whole and alone:
            yield np.s_[y:y + part.shape[0], x:x + part.shape[1]]
        else:
            yield from region_boxes(part, y, x, 1 - axis, alone)


def describe_region(colours, edges, mask, box):
    """One region's silhouette and edges (SHAPE numbers), then its colours, proportions, size and place: (REGION,)."""
    h, w = mask.shape
    inside = mask[..., None].astype(np.float32)
    edges = pool(edges, 4)
    tints = pool(colours * inside, 2)                                          # (2, 2, 64)
    x = (box[1].start + w / 2) / GRAIN
    y = (box[0].start + h / 2) / GRAIN
    return np.concatenate([
        0.5 * pool(inside, 8).ravel(), np.sqrt(edges / (edges.sum() + 1e-6)).ravel(),
        8 * np.sqrt(tints.mean((0, 1))), 8 * np.sqrt(tints.mean(1)).ravel(),   # of the whole; of upper and lower half
        6 * soft_bins(math.log(w / h), 7, -1, 1), 6 * soft_bins(math.sqrt(mask.sum()), 8, 6, 36),
        6 * soft_bins(max(h, w), 8, 10, 42), 6 * soft_bins(x, 9, 0.1, 0.9), 6 * soft_bins(y, 9, 0.1, 0.9), [6],
    ]).astype(np.float32)


def shape_units(shapes):
    """The activations of the random units for each shape: (R, SHAPE) -> (R, UNITS). The units are always the same."""
    standard = []
    for part in (shapes[:, :64], shapes[:, 64:]):    # silhouettes, edges
        part = part - part.mean(1, keepdims=True)
        standard.append(part / (np.linalg.norm(part, axis=1, keepdims=True) + 1e-6))
    return np.maximum(0, np.concatenate(standard, axis=1) @ random_units() - 2)


def soft_bins(value, n, low, high):
    """A one-hot vector of n bins from low to high, softened: the 1 is split between the two bins nearest to value."""
    return np.maximum(0, 1 - np.abs(np.clip((value - low) / (high - low), 0, 1) * (n - 1) - np.arange(n)))


def pool(maps, g):
    """Means over the cells of a g × g grid: (h, w, C) -> (g, g, C)."""
    for axis in (0, 1):
        n = maps.shape[axis]
        starts = np.arange(g) * n // g
        lengths = np.maximum(1, np.diff(np.append(starts, n))).reshape([-1 if a == axis else 1 for a in range(3)])
        maps = np.add.reduceat(maps, starts, axis=axis) / lengths.astype(np.float32)
    return maps


def pyramid(maps, grids):
    """pool() on several grids, concatenated: (h, w, C) -> (sum of g² · C,). The last grid must be the finest."""
    finest = pool(maps, grids[-1])
    return np.concatenate([pool(finest, g).ravel() for g in grids])


@functools.cache
def random_units():
    """The weights of the random units, (SHAPE, UNITS). They do not depend on --seed."""
    return np.random.default_rng(4096).normal(size=(SHAPE, UNITS)).astype(np.float32)


# ---- the folder -----------------------------------------------------------------------------------------------------

def draw_splits(count, rng):
    """The split of each picture, as a list of names: a sixth is val, a sixth test, the rest train."""
    part = max(1, count // 6)
    splits = np.array(['val'] * part + ['test'] * part + ['train'] * (count - 2 * part))
    return rng.permutation(splits).tolist()


def picture_name(imgid):
    return f'scene_{imgid:04d}.jpg'


def make_folder(folder, seed, count):
    """Fill an empty folder with imgs/, dataset.json and vgg_feats.mat."""
    (folder / 'imgs').mkdir()
    splits = draw_splits(count, np.random.default_rng([seed, 1]))
    images = []
    features = np.empty((FEATURES, count), np.float32, order='F')              # (D, N), as in NeuralTalk
    for imgid in tqdm(range(count), desc='scenes', unit='picture', disable=None):
        rng = np.random.default_rng([seed, 0, imgid])
        scene = compose(rng)
        path = folder / 'imgs' / picture_name(imgid)
        draw_scene(scene, rng).save(path, quality=90)
        with Image.open(path) as picture:      # after JPEG compression, as everybody will read it
            features[:, imgid] = image_features(picture)
        raws = [' '.join(tokens).capitalize() + '.' for tokens in describe(scene, rng)]
        images.append(({'filename': path.name, 'split': splits[imgid], 'scene': facts(scene)}, raws))
    dataset, _ = make_dataset('scenes', images)
    write_json(folder / 'dataset.json', {'made_by': MADE_BY, 'seed': seed, 'count': count, **dataset})
    savemat(folder / 'vgg_feats.mat', {'feats': features}, do_compression=True)


def facts(scene):
    """What a scene shows, for dataset.json."""
    groups = [{name: getattr(group, name) for name in ('kind', 'colour', 'size', 'count', 'place')}
              for group in scene.groups]
    return {'background': scene.background, 'relation': scene.relation, 'groups': groups}


def already_there(folder, seed, count, force):
    """Whether the folder is already complete, with this seed and count.

    Raises InputError if it holds anything else, unless that is the work of this script and force says to replace it.
    """
    if not folder.exists() or folder.is_dir() and not any(folder.iterdir()):
        return False
    try:
        dataset = json.loads((folder / 'dataset.json').read_text(encoding='utf-8'))
        made_by = dataset['made_by']
        made_with = (dataset['seed'], dataset['count'])
    except (OSError, ValueError, KeyError, TypeError):
        made_by = None
    if made_by != MADE_BY:
        raise InputError(f'--output {folder}: exists already and was not made by this script; '
                         'name another folder, or move this one away')
    if force:
        return False
    files = ['vgg_feats.mat', *(f'imgs/{picture_name(imgid)}' for imgid in range(count))]
    if made_with == (seed, count) and all((folder / name).is_file() for name in files):
        return True
    raise InputError(f'--output {folder}: holds {made_with[1]} pictures of seed {made_with[0]}, or not all of them; to '
                     f'replace it by {count} of seed {seed}, add --force, or name another folder')


def replace_folder(new, old):
    """Rename folder new to old. A folder that is already there is removed only once its successor is in place."""
    attic = None
    if old.exists():
        attic = Path(tempfile.mkdtemp(prefix=f'.{old.name}.', dir=old.parent))
        old.rename(attic / old.name)
    new.rename(old)
    if attic:
        shutil.rmtree(attic)


@script
def main(argv=None):
    args = build_parser().parse_args(argv)
    if args.images < 3:
        raise InputError(f'--images {args.images}: must be at least 3, one for each split')
    if args.seed < 0:
        raise InputError(f'--seed {args.seed}: must not be negative')
    folder = args.output.absolute()
    if already_there(folder, args.seed, args.images, args.force):
        print(f'{args.output}: is already complete, {args.images} pictures of seed {args.seed}; left as it is')
        return 0
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f'.{folder.name}.', dir=folder.parent) as temporary:
            new = Path(temporary) / folder.name
            new.mkdir()
            make_folder(new, args.seed, args.images)
            replace_folder(new, folder)
    except OSError as error:
        raise unwritable(args.output, error) from None
    print(f'{args.output}: {args.images} pictures, {args.images * SENTENCES} sentences, '
          f'{FEATURES} features each, seed {args.seed}')
    return 0


if __name__ == '__main__':
    sys.exit(main())

"""Plots of a network: its learning curve, its first filters and its activation maps.

Knows SVG and PNG. Knows nothing of training or data. All functions that write raise InputError if they cannot.
"""

import html
import math

import numpy as np
from PIL import Image, ImageDraw

from imagernn.formats.writing import replacing, write_text

COLOURS = ('#3b6fd4', '#d9822b', '#2e9e5b', '#b04ac0', '#c23b3b', '#6b7280')
INK = (60, 60, 60)
PAPER = (255, 255, 255)
GAP = 4                                        # pixels between the tiles of a mosaic
LEFT, TOP, WIDTH, HEIGHT = 50, 20, 480, 260    # the box of the learning curve's axes, in pixels


def write_learning_curve(path, epochs, curves, label):
    """Write an SVG of curves: name -> shares from 0 to 1, one at each of epochs, which rise from 0.

    label: of the vertical axis.
    """
    last = epochs[-1] or 1
    step = max(1, math.ceil(last / 10))

    def at(epoch, value):
        return f'{LEFT + WIDTH * epoch / last:.1f},{TOP + HEIGHT * (1 - value):.1f}'

    parts = [f'<path d="M{at(0, share)} h{WIDTH}" stroke="#ddd"/>'
             f'<text x="{LEFT - 6}" y="{TOP + HEIGHT * (1 - share) + 4:.0f}" text-anchor="end">{share:.0%}</text>'
             for share in (0, .25, .5, .75, 1)]
    parts += [f'<text x="{LEFT + WIDTH * epoch / last:.0f}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{epoch}'
              '</text>' for epoch in range(0, int(last) + 1, step)]
    parts.append(f'<text x="{LEFT + WIDTH / 2}" y="{TOP + HEIGHT + 38}" text-anchor="middle">epoch</text>')
    parts.append(f'<text x="14" y="{TOP + HEIGHT / 2}" text-anchor="middle" '
                 f'transform="rotate(-90 14 {TOP + HEIGHT / 2})">{html.escape(label)}</text>')
    for k, (name, values) in enumerate(curves.items()):
        colour = COLOURS[k % len(COLOURS)]
        points = ' '.join(at(epoch, value) for epoch, value in zip(epochs, values, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
                     f'<text x="{LEFT + WIDTH + 10}" y="{TOP + 12 + 20 * k}" fill="{colour}">{html.escape(name)} '
                     f'{values[-1]:.1%}</text>')
    write_text(path, f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 150} {TOP + HEIGHT + 50}" '
                     'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>\n'
                     + '\n'.join(parts) + '\n</svg>\n')


def write_filters(path, W, side=48):
    """Write a PNG of the filters W (kh, kw, c, m), each `side` pixels wide and scaled to its own range.

    They are in colour if c is 3; otherwise each shows the mean over its channels.
    """
    filters = W if W.shape[2] == 3 else W.mean(axis=2, keepdims=True)            # (kh, kw, 3 or 1, m)
    save_png(path, mosaic([stretched(filters[..., f]) for f in range(W.shape[3])], side))


def write_activations(path, picture, layers, side=64, most=32):
    """Write a PNG of a picture (h, w, 3 or 1) from 0 to 1, and of the first `most` activation maps of each layer.

    layers: name -> (h', w', m). Each map is scaled to its own range; one that is constant is black.
    """
    blocks = [('the picture', mosaic([(picture * 255).astype(np.uint8)], 2 * side))]
    for name, maps in layers.items():
        height, width, num_maps = maps.shape
        shown = [stretched(maps[:, :, k:k + 1]) for k in range(min(most, num_maps))]
        blocks.append((f'{name}: {len(shown)} of {num_maps} maps of {height} × {width}', mosaic(shown, side, 16)))
    sheet = Image.new('RGB', (max(block.width for _, block in blocks), sum(20 + block.height for _, block in blocks)),
                      PAPER)
    top = 0
    for title, block in blocks:
        ImageDraw.Draw(sheet).text((GAP, top + 5), title.replace('×', 'x'), INK)    # Pillow's built-in font may lack ×
        sheet.paste(block, (0, top + 20))
        top += 20 + block.height
    save_png(path, sheet)


def stretched(values):
    """values (h, w, c) scaled to uint8: the least becomes 0, the largest 255. If all are equal, they become 0."""
    least = values.min()
    largest = values.max()
    return ((values - least) * (255 / (largest - least or 1))).astype(np.uint8)


def mosaic(tiles, side, columns=0):
    """An image of tiles (h, w, 3 or 1) uint8, each resized to side × side, in rows of `columns` (0: about a square)."""
    columns = min(columns or math.ceil(math.sqrt(len(tiles))), len(tiles))
    rows = -(-len(tiles) // columns)
    step = side + GAP
    sheet = Image.new('RGB', (GAP + columns * step, GAP + rows * step), PAPER)
    for k, tile in enumerate(tiles):
        image = Image.fromarray(np.broadcast_to(tile, (*tile.shape[:2], 3)).copy())
        sheet.paste(image.resize((side, side), Image.Resampling.NEAREST),
                    (GAP + k % columns * step, GAP + k // columns * step))
    return sheet


def save_png(path, image):
    """Write a Pillow image as PNG, whole or not at all."""
    with replacing(path) as file:
        image.save(file, 'PNG')

"""3 × 3 convolutions of stride 1 by Winograd's minimal filtering F(4×4, 3×3): forward only, with bias and ReLU.

A tile of 4 × 4 outputs takes 36 multiplications per channel instead of 144: A'[(G g G') · (B' d B)]A for a filter g and
a 6 × 6 patch d of the picture, with constant matrices A, B, G (Lavin & Gray, "Fast Algorithms for Convolutional Neural
Networks", 2015, section 4.1). The sums over channels are 36 matrix products; the rest works on long runs of memory.
"""

import numpy as np

TILE = 4                 # rows, and columns, of a tile of outputs
BLOCK = 224              # tiles at once: with fewer, the matrix products are slow; with more, the data leave the cache
G = np.array([[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6],
              [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]])


def transform_filters(W):
    """W (3, 3, c, m) -> G W G' (36, c, m), which convolve_relu takes."""
    half = np.tensordot(G, W, 1)                                                    # (6, 3, c, m), in float64
    return np.stack([np.tensordot(G, line, 1).astype(W.dtype) for line in half]).reshape(36, *W.shape[2:])


def convolve_relu(x, U, b, out, scratch):
    """ReLU(x ⋆ W + b), with a border of one zero around x, written to out.

    x (n, h, w, c), U = transform_filters(W) (36, c, m), b (1, m), out (n, h, w, m). In float32 it differs from a direct
    convolution by rounding, about 1e-6 of the largest output.
    """
    n, h, w, c = x.shape
    m = U.shape[2]
    # A block of tiles is some rows of tiles of one picture, or a few whole pictures.
    down = -(-h // TILE)                                            # rows of tiles in a picture
    across = -(-w // TILE)                                          # columns of tiles in a picture
    rows = min(down, max(1, BLOCK // across))
    pictures = max(1, BLOCK // (down * across))
    for first in range(0, n, pictures):
        for top in range(0, down, rows):
            pick = slice(first, first + pictures)
            bottom = min(top + rows, down)
            V = _patches(x[pick], top, bottom, across, scratch)     # (36, tiles, c)
            M = scratch('products', (36, V.shape[1], m), x.dtype)
            np.matmul(V, U, out=M)
            M[7] += b                                               # A' M A adds element 7 to every output
            _outputs(M, out[pick, TILE * top:TILE * bottom], bottom - top, across, scratch)
    return out


def _patches(x, top, bottom, across, scratch):
    """B' d B of all patches for the rows of tiles from top to bottom, of all pictures: (36, n · rows · across, c)."""
    n, _, _, c = x.shape
    rows = bottom - top
    run = across * c
    width = TILE * (across + 1) * c
    lines = _sorted_columns(x, top, bottom, across, scratch).reshape(n, TILE * rows + 2, width)
    half = scratch('half', (6, n, rows, width), x.dtype)
    _transform([lines[:, k:k + TILE * rows - 3:TILE] for k in range(6)], half,
               scratch('spare', (2, n, rows, width), x.dtype))
    half = half.reshape(6, n * rows, TILE, run + c)
    V = scratch('patches', (6, 6, n * rows, run), x.dtype)
    _transform([half[:, :, k % TILE, k // TILE * c:k // TILE * c + run] for k in range(6)], V.transpose(1, 0, 2, 3),
               scratch('spare', (2, 6, n * rows, run), x.dtype))
    return V.reshape(36, n * rows * across, c)


def _sorted_columns(x, top, bottom, across, scratch):
    """The padded rows of x that rows of tiles need, columns sorted by k % 4: (n, 4 · rows + 2, 4, across + 1, c).

    Column k of all patches in a row is then one run of memory: [k % 4, k // 4:k // 4 + across].
    """
    n, h, w, c = x.shape
    padded = scratch('padded', (n, TILE * (bottom - top) + 2, TILE, across + 1, c), x.dtype)
    start = TILE * top - 1                                          # the row of x that comes first
    above, below = max(0, start), min(h, TILE * bottom + 1)
    padded[:, :above - start] = 0
    padded[:, below - start:] = 0
    for place in range(TILE):                                       # holds columns place - 1, place + 3, place + 7, …
        here = padded[:, above - start:below - start, place]
        first = (place - 1) % TILE
        skip = int(place == 0)
        stop = skip + len(range(first, w, TILE))
        here[:, :, :skip] = 0
        here[:, :, stop:] = 0
        here[:, :, skip:stop] = x[:, above:below, first::TILE]
    return padded


def _transform(d, out, spare):
    """out = B' d along the first axis: six arrays become six. Overwrites out and spare."""
    even, odd = spare
    np.subtract(d[4], d[2], out=even)
    np.subtract(d[3], d[1], out=odd)
    np.subtract(d[0], d[2], out=out[0])         # 4 d0 - 5 d2 + d4
    out[0] *= 4
    out[0] += even
    odd += odd
    np.add(even, odd, out=out[3])               # -2 d1 - d2 + 2 d3 + d4
    np.subtract(even, odd, out=out[4])          # 2 d1 - d2 - 2 d3 + d4
    odd += odd
    np.subtract(d[5], d[3], out=out[5])         # 4 d1 - 5 d3 + d5
    out[5] -= odd
    np.multiply(d[2], 4, out=even)
    np.subtract(d[4], even, out=even)
    np.multiply(d[1], 4, out=odd)
    np.subtract(d[3], odd, out=odd)
    np.add(even, odd, out=out[1])               # -4 d1 - 4 d2 + d3 + d4
    np.subtract(even, odd, out=out[2])          # 4 d1 - 4 d2 - d3 + d4


def _outputs(M, out, rows, across, scratch):
    """Write ReLU(A' M A) of the tiles M (36, n · rows · across, m) to out (n, at most 4 · rows, w, m)."""
    m = M.shape[2]
    size = M.shape[1] * m
    M = M.reshape(6, 6, size)
    half = scratch('half', (4, 6, size), M.dtype)
    spare = scratch('spare', (3, 6, size), M.dtype)
    _transform_back(M, half, spare)
    Y = scratch('patches', (4, 4, size), M.dtype)
    _transform_back(half.transpose(1, 0, 2), Y.transpose(1, 0, 2), spare[:, :4])
    np.clip(Y, 0, np.inf, out=Y)                # three times as fast as np.maximum(Y, 0)
    n, h, w, _ = out.shape
    whole = out
    if h % TILE or w % TILE:
        whole = scratch('whole', (n, TILE * rows, TILE * across, m), M.dtype)
    tiles = whole.reshape(n, rows, TILE, across, TILE, m).transpose(2, 4, 0, 1, 3, 5)    # a view
    tiles[:] = Y.reshape(tiles.shape)
    if whole is not out:
        out[:] = whole[:, :h, :w]


def _transform_back(m, out, spare):
    """out = A' m along the first axis: six arrays become four. Overwrites out and spare."""
    even, odd, difference = spare
    np.add(m[1], m[2], out=even)
    np.subtract(m[1], m[2], out=difference)
    np.add(m[3], m[4], out=odd)
    np.add(m[0], even, out=out[0])              # m0 + m1 + m2 + m3 + m4
    out[0] += odd
    odd *= 4
    np.add(even, odd, out=out[2])               # m1 + m2 + 4 m3 + 4 m4
    np.subtract(m[3], m[4], out=odd)
    odd += odd
    np.add(difference, odd, out=out[1])         # m1 - m2 + 2 m3 - 2 m4
    odd *= 4
    np.add(difference, odd, out=out[3])         # m1 - m2 + 8 m3 - 8 m4 + m5
    out[3] += m[5]

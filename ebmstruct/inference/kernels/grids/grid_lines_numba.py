"""Lines of pixels labelled exactly, given the labels around them: rows and columns in turn lower the energy."""

from __future__ import annotations

from ebmstruct.inference.kernels import lanes_numba as lanes
from ebmstruct.inference.kernels.compiler import plain
from ebmstruct.inference.kernels.grids.grid_messages_numba import push


@plain
def solve_lines(
    bands, vertical, unary, strength, kind, reach, shape, scratch, rows, columns, labels, memory, token
):  # fmt: skip
    """Relabel every row, or every column if ``vertical``, for the least energy given all others: Viterbi in float32.

    bands: (count, 5), of which first site, height and width are used.  rows, columns: (P * P) V by the earlier and by
    the later pixel's label; kind, reach, shape, scratch: as in ``grid_messages_numba``.  memory: (longest line * P).
    """
    size = 8 * len(token)
    total = labels.size
    for band in range(bands.shape[0]):
        start, height, width = bands[band, 0], bands[band, 1], bands[band, 2]
        lines, count = (width, height) if vertical else (height, width)
        step, side = (width, 1) if vertical else (1, width)
        along, across = (total, 0) if vertical else (0, total)
        for line in range(lines):
            first = start + line * side
            for t in range(count):
                site = first + t * step
                h = lanes.load(unary, site * size, token)
                if line > 0:
                    scale = lanes.splat_at(strength, across + site - side, token)
                    h = lanes.fma(scale, lanes.load(rows, labels[site - side] * size, token), h)
                if line + 1 < lines:
                    scale = lanes.splat_at(strength, across + site, token)
                    h = lanes.fma(scale, lanes.load(columns, labels[site + side] * size, token), h)
                if t > 0:
                    past = lanes.load(memory, (t - 1) * size, token)
                    h = lanes.add(h, push(past, strength[along + site - step], kind, reach, shape, scratch, token))
                lanes.store(memory, t * size, h)
            site = first + (count - 1) * step
            label = lanes.first_least(lanes.load(memory, (count - 1) * size, token))
            labels[site] = label
            for t in range(count - 2, -1, -1):
                site -= step
                scale = lanes.splat_at(strength, along + site, token)
                h = lanes.fma(scale, lanes.load(columns, label * size, token), lanes.load(memory, t * size, token))
                label = lanes.first_least(h)
                labels[site] = label

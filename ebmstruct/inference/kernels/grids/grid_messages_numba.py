"""Sequential message passing over a grid of pixels in float32: one message an edge, kept in place.

The padded layout: a row of states takes P = 8 * len(token) float32, the rest filled with a large number. unary (n * P)
and messages (2, n * P) are flat over the sites of all instances; messages[0] is of the edge (site, right neighbour)
and messages[1] of (site, lower neighbour). After a forward sweep they point right and down, after a backward sweep left
and up. strength: (2, n) weights of those edges. Where there is no neighbour both are 0, which no sweep changes.
gamma: (n,), 1 over the larger of the numbers of earlier and of later neighbours for TRW-S (Kolmogorov 2006, section 3),
1 for min-sum.
"""

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels import lanes_numba as lanes
from ebmstruct.inference.kernels.compiler import inlined, plain

POTTS, LINEAR, WINDOW, DENSE = 0, 1, 2, 3


@plain
def transform(scratch, weight, kind, reach, shape, token):
    """Overwrite the row h in scratch[P : 2 P] by min over l of h[l] + weight * V(l, k) up to a constant; V by kind.

    LINEAR: min(|l - k|, shape[0]), reach doubling steps.  WINDOW: min(shape[1 + |l - k|], shape[0]) where |l - k| <=
    reach, else shape[0].  DENSE: shape holds V in rows of P, and a row of 0 that is
    large in the padding.  Around the row, scratch holds a large number.
    """
    width = 8 * len(token)
    scale = lanes.splat(weight, token)
    h = lanes.load(scratch, width, token)
    if kind == DENSE:
        best = lanes.fma(scale, lanes.load(shape, 0, token), lanes.splat_at(scratch, width, token))
        other = lanes.fma(scale, lanes.load(shape, width, token), lanes.splat_at(scratch, width + 1, token))
        for state in range(2, reach - 1, 2):
            row = state * width
            more = lanes.fma(scale, lanes.load(shape, row, token), lanes.splat_at(scratch, width + state, token))
            best = lanes.minimum(more, best)
            row += width
            more = lanes.fma(scale, lanes.load(shape, row, token), lanes.splat_at(scratch, width + state + 1, token))
            other = lanes.minimum(more, other)
        if reach % 2 == 1:
            row = (reach - 1) * width
            more = lanes.fma(scale, lanes.load(shape, row, token), lanes.splat_at(scratch, width + reach - 1, token))
            best = lanes.minimum(more, best)
        best = lanes.add(lanes.minimum(best, other), lanes.load(shape, reach * width, token))
        lanes.store(scratch, width, lanes.subtract(best, lanes.splat(lanes.least(best), token)))
        return
    low = lanes.least(h)
    best = h
    if kind == LINEAR:
        for step in range(reach):
            far = 1 << step
            cost = lanes.splat(weight * np.float32(far), token)
            before = lanes.load(scratch, width - far, token)
            after = lanes.load(scratch, width + far, token)
            best = lanes.minimum(lanes.add(lanes.minimum(before, after), cost), best)
            lanes.store(scratch, width, best)
    else:
        for far in range(1, reach + 1):
            both = lanes.minimum(lanes.load(scratch, width - far, token), lanes.load(scratch, width + far, token))
            best = lanes.minimum(lanes.fma(scale, lanes.splat_at(shape, 1 + far, token), both), best)
    best = lanes.subtract(best, lanes.splat(low, token))
    best = lanes.minimum(best, lanes.splat(weight * shape[0], token))
    lanes.store(scratch, width, best)


@inlined
def push(h, weight, kind, reach, shape, scratch, token):
    """The message that the row h sends over an edge, its minimum 0."""
    if kind == POTTS:
        low = lanes.splat(lanes.least(h), token)
        return lanes.minimum(lanes.subtract(h, low), lanes.splat(weight, token))
    lanes.store(scratch, 8 * len(token), h)
    transform(scratch, weight, kind, reach, shape, token)
    return lanes.load(scratch, 8 * len(token), token)


@plain
def forward(
    bands, unary, messages, strength, gamma, kind, reach, shape, scratch, table, labels, decode, token
):  # fmt: skip
    """Sweep some bands of rows from left to right and downwards.

    bands: (count, 5) a band's instance: first site, height, width; and its rows, from and to; in order.
    decode: also set labels (n,), each pixel given its left and upper neighbours' labels and the messages from the
    right and below (Kolmogorov 2006, section 3.3). table: (P * P) V(x, k), rows by the earlier neighbour's label.
    """
    size = 8 * len(token)
    total = gamma.size
    zero = lanes.splat(np.float32(0), token)
    for band in range(bands.shape[0]):
        start, width = bands[band, 0], bands[band, 2]
        for i in range(bands[band, 3], bands[band, 4]):
            left = zero
            left_weight = np.float32(0)
            left_label = 0
            for j in range(width):
                site = start + i * width + j
                at = site * size
                right = lanes.load(messages, at, token)
                below = lanes.load(messages, total * size + at, token)
                later = lanes.add(lanes.load(unary, at, token), lanes.add(right, below))
                up = zero
                if i > 0:
                    up = lanes.load(messages, (total + site - width) * size, token)
                belief = lanes.add(lanes.add(later, up), left)
                if decode:
                    scale = lanes.splat(left_weight, token)
                    energy = lanes.fma(scale, lanes.load(table, left_label * size, token), later)
                    if i > 0:
                        row = lanes.load(table, labels[site - width] * size, token)
                        scale = lanes.splat_at(strength, total + site - width, token)
                        energy = lanes.fma(scale, row, energy)
                    left_label = lanes.first_least(energy)
                    labels[site] = left_label
                    left_weight = strength[site]
                part = lanes.splat_at(gamma, site, token)
                h = lanes.fma(part, belief, lanes.subtract(zero, right))
                left = push(h, strength[site], kind, reach, shape, scratch, token)
                lanes.store(messages, at, left)
                h = lanes.fma(part, belief, lanes.subtract(zero, below))
                down = push(h, strength[total + site], kind, reach, shape, scratch, token)
                lanes.store(messages, total * size + at, down)


@plain
def backward(bands, unary, messages, strength, gamma, kind, reach, shape, scratch, token):
    """Sweep some bands of rows, the last one first, from right to left and upwards; for DENSE shape holds V transposed."""
    size = 8 * len(token)
    total = gamma.size
    zero = lanes.splat(np.float32(0), token)
    for band in range(bands.shape[0] - 1, -1, -1):
        start, width = bands[band, 0], bands[band, 2]
        for i in range(bands[band, 4] - 1, bands[band, 3] - 1, -1):
            right = zero
            for j in range(width - 1, -1, -1):
                site = start + i * width + j
                at = site * size
                below = lanes.load(messages, total * size + at, token)
                belief = lanes.add(lanes.load(unary, at, token), below)
                part = lanes.splat_at(gamma, site, token)
                up, left = zero, zero
                if i > 0:
                    up = lanes.load(messages, (total + site - width) * size, token)
                    belief = lanes.add(belief, up)
                if j > 0:
                    left = lanes.load(messages, at - size, token)
                    belief = lanes.add(belief, left)
                belief = lanes.add(belief, right)
                if j > 0:
                    h = lanes.fma(part, belief, lanes.subtract(zero, left))
                    right = push(h, strength[site - 1], kind, reach, shape, scratch, token)
                    lanes.store(messages, at - size, right)
                if i > 0:
                    h = lanes.fma(part, belief, lanes.subtract(zero, up))
                    up = push(h, strength[total + site - width], kind, reach, shape, scratch, token)
                    lanes.store(messages, (total + site - width) * size, up)

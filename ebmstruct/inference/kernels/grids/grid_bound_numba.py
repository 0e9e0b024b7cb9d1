"""The lower bound that the messages of a grid prove, in float64 whatever the precision of the sweeps."""

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels import lanes_numba as lanes
from ebmstruct.inference.kernels.compiler import kernel, plain

POTTS = 0


@plain
def send(h, weight, kind, reach, shape, scratch, token):
    """The message that the float64 row h sends over an edge, its minimum 0, and that minimum."""
    if kind == POTTS:
        low = lanes.least(h)
        row = lanes.subtract(h, lanes.splat(low, token))
        row = lanes.minimum(row, lanes.splat(weight * shape[1], token))
        return row, low + weight * shape[0]
    lanes.store(scratch, 0, h)
    scale = lanes.splat(weight, token)
    row = lanes.fma(scale, lanes.load(shape, 0, token), lanes.splat_at(scratch, 0, token))
    for state in range(1, reach):
        more = lanes.fma(scale, lanes.load(shape, state * 8 * len(token), token), lanes.splat_at(scratch, state, token))
        row = lanes.minimum(more, row)
    row = lanes.add(row, lanes.load(shape, reach * 8 * len(token), token))
    low = lanes.least(row)
    return lanes.subtract(row, lanes.splat(low, token)), low


@plain
def lay_out(row, states, earlier, later, scratch, out):
    """Write both messages of an edge to out[row : row + 2 * states]."""
    lanes.store(scratch, 0, earlier)
    for k in range(states):
        out[row + k] = scratch[k]
    lanes.store(scratch, 0, later)
    for k in range(states):
        out[row + states + k] = scratch[k]


@kernel
def chain_bound(
    start, height, width, unary, messages, weights, gamma, kind, reach, shape, states, horizontal, vertical, out, token
):
    """The bound of messages that a backward sweep left: one more forward pass, in float64, that changes nothing.

    At each pixel s the pass sends F(k) = min over j of part theta(j) - B(j) + w V(j, k), where B is the edge's backward
    message and theta the pixel's energies with all messages to it. Giving F to the later end and B - part theta to the
    earlier one, the edge's own minimum is that of F before it is normalised, and the pixel keeps (1 - edges part) theta:
    the sum of these minima is the bound of the pass's chains (Kolmogorov 2006, section 3.2).

    weights: (2, n) float64, 0 where no message is sent.  shape: POTTS (2,): V's diagonal and how much more it is off it;
    DENSE: V in reach rows of P, and a row of 0 that is large in the padding.  out: written where it has entries: both
    messages of each edge, a row of (2, states), horizontal ones from row ``horizontal`` on, vertical ones from row
    ``vertical`` on.
    """
    size = 8 * len(token)
    total = gamma.size
    zero = lanes.splat(0.0, token)
    above = np.zeros(width * size)
    scratch = np.zeros(2 * size)
    bound = 0.0
    for i in range(height):
        left = zero
        for j in range(width):
            site = start + i * width + j
            right = lanes.widen(lanes.load(messages, site * size, token))
            below = lanes.widen(lanes.load(messages, (total + site) * size, token))
            belief = lanes.add(lanes.widen(lanes.load(unary, site * size, token)), lanes.add(right, below))
            belief = lanes.add(lanes.add(belief, left), lanes.load(above, j * size, token))
            part = np.float64(gamma[site])
            rest = 1.0
            scaled = lanes.fma(lanes.splat(-part, token), belief, zero)
            left, down = zero, zero
            if weights[site] != 0:
                back = lanes.add(right, scaled)
                left, low = send(lanes.subtract(zero, back), weights[site], kind, reach, shape, scratch, token)
                bound += low
                rest -= part
                if out.size > 0:
                    row = 2 * states * (horizontal + i * (width - 1) + j)
                    lay_out(row, states, back, left, scratch, out)
            if weights[total + site] != 0:
                back = lanes.add(below, scaled)
                down, low = send(lanes.subtract(zero, back), weights[total + site], kind, reach, shape, scratch, token)
                bound += low
                rest -= part
                if out.size > 0:
                    row = 2 * states * (vertical + i * width + j)
                    lay_out(row, states, back, down, scratch, out)
            lanes.store(above, j * size, down)
            bound += rest * lanes.least(belief)
    return bound

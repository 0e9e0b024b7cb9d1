"""The loop over instances that judges a step of least squares: taken or lost, how much damping is next, what has ended."""

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.banded.damping_plain import LEAST, MOST, SHORTEST, SHRINK, WARY
from ebmstruct.inference.kernels.compiler import plain


@plain
def settle(
    energy, decrease, foreseen, usable, todo, reach, longest, relative, shortest, whole, none, value, growth, length,
    done, taken,
):  # fmt: skip
    """As ``damping_plain.settle``, which tells what is what."""
    for b in range(energy.size):
        taken[b] = False
        if not todo[b]:
            continue
        gain, hope, limit = decrease[b], foreseen[b], relative * energy[b]
        took = usable[b] and gain > 0.0
        taken[b] = took
        if took:
            reach[b] += longest[b]
        small = (hope <= limit and abs(gain) <= limit) or longest[b] <= shortest * reach[b]
        done[b] = usable[b] and small
        if not took:
            if whole and usable[b]:
                length[b] *= 0.5
            else:
                value[b] = max(value[b] * growth[b], 1e3 * LEAST)
            growth[b] *= 2.0
        elif whole:
            length[b], value[b], growth[b] = 1.0, 0.0, 2.0
        else:
            quality = gain / hope if hope > 0.0 else 1.0
            cube = (2.0 * min(max(quality, 0.0), 1.0) - 1.0) ** 3
            less = value[b] * max(WARY if growth[b] > 2.0 else SHRINK, 1.0 - cube)
            value[b] = less if less >= LEAST else (0.0 if none else LEAST)
            growth[b] = 2.0
        if value[b] > MOST or length[b] < SHORTEST:
            done[b] = True


@plain
def largest_cosine(gradient, diagonal, held, offsets, out):
    """out (B,): the largest |g_i| / sqrt(H_ii) of the unknowns that are not held; held: (N,), or empty."""
    for b in range(offsets.size - 1):
        worst = 0.0
        for i in range(offsets[b], offsets[b + 1]):
            if gradient[i] != 0.0 and not (held.size and held[i]):
                worst = max(worst, abs(gradient[i]) / np.sqrt(diagonal[i]))
        out[b] = worst


@plain
def foresee(step, gradient, product, offsets, foreseen, longest):
    """Of each instance: the decrease by the quadratic model, with product = H step, and the longest entry of the step."""
    for b in range(offsets.size - 1):
        total, most = 0.0, 0.0
        for i in range(offsets[b], offsets[b + 1]):
            total -= step[i] * (gradient[i] + 0.5 * product[i])
            most = max(most, abs(step[i]))
        foreseen[b], longest[b] = total, most

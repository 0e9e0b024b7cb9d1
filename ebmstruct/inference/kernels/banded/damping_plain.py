"""The loops of ``damping_numba`` in plain numpy; same arguments, same effects. What they do is told here."""

from __future__ import annotations

import numpy as np

Array = np.ndarray
LEAST, MOST = 1e-12, 1e12
"""The least damping of what is no quadratic function, and the most before an instance is given up."""
SHRINK, WARY = 0.2, 0.5
"""What is left of the damping after a good step, and after a good step that had to be tried more than once."""
SHORTEST = 1e-12
"""The least part of a whole step that is tried."""


def settle(
    energy: Array, decrease: Array, foreseen: Array, usable: Array, todo: Array, reach: Array, longest: Array,
    relative: float, shortest: float, whole: bool, none: bool, value: Array, growth: Array, length: Array, done: Array,
    taken: Array,
) -> None:  # fmt: skip
    """Judge a step of each instance to do; all arrays are (B,).

    After Nielsen (1999), "Damping parameter in Marquardt's method": a step taken shrinks the damping ``value`` by
    1 - (2 q - 1)^3, q being the decrease over the one foreseen, and each step lost raises it by ``growth``, which then
    doubles. Where ``whole`` (Gauss-Newton), only what has no solution is damped, and ``length``, the part of a step that
    is made, is halved where one is lost. usable: whether there was a step at all.  none: damping may vanish.
    An instance is done after a step that changes its energy by no more than the part ``relative``, as foreseen, or whose
    longest entry is no more than ``shortest`` of all that it has moved (``reach``), or when no step will do.
    """
    taken[:] = todo & usable & (decrease > 0)
    lost = todo & ~taken
    reach[taken] += longest[taken]
    limit = relative * energy
    small = ((foreseen <= limit) & (np.abs(decrease) <= limit)) | (longest <= shortest * reach)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        quality = np.where(foreseen > 0, decrease / foreseen, 1.0).clip(0.0, 1.0)
    less = value * np.maximum(np.where(growth > 2.0, WARY, SHRINK), 1.0 - (2.0 * quality - 1.0) ** 3)
    less = np.where(less < LEAST, 0.0 if none else LEAST, less)
    raised = np.maximum(value * growth, 1e3 * LEAST)
    length[:] = np.where(taken & whole, 1.0, np.where(lost & usable & whole, 0.5 * length, length))
    kept = np.where(lost & ~(usable & whole), raised, value)
    value[:] = np.where(taken, 0.0 if whole else less, kept)
    growth[:] = np.where(taken, 2.0, np.where(lost, 2.0 * growth, growth))
    done[todo] = (usable & small)[todo]
    done[todo & ((value > MOST) | (length < SHORTEST))] = True


def largest_cosine(gradient: Array, diagonal: Array, held: Array, offsets: Array, out: Array) -> None:
    """out (B,): the largest |g_i| / sqrt(H_ii) of the unknowns that are not held."""
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = np.abs(gradient) / np.sqrt(diagonal)
    cosine[(gradient == 0) | (held if held.size else False)] = 0.0
    for b in range(offsets.size - 1):
        out[b] = cosine[offsets[b] : offsets[b + 1]].max(initial=0.0)


def foresee(step: Array, gradient: Array, product: Array, offsets: Array, foreseen: Array, longest: Array) -> None:
    """Of each instance: the decrease by the quadratic model, with product = H step, and the longest entry of the step."""
    terms = -step * (gradient + 0.5 * product)
    for b in range(offsets.size - 1):
        span = slice(offsets[b], offsets[b + 1])
        foreseen[b], longest[b] = terms[span].sum(), np.abs(step[span]).max(initial=0.0)

"""Labellings of a grid: their energies in float64, and the best parts of two; and the padded rows that sweeps work on."""

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.compiler import kernel, plain


@kernel
def any_infinite(values):
    """Whether some entry is plus infinity."""
    found = False
    for at in range(values.size):
        found |= values[at] == np.inf
    return found


@kernel
def absorb(start, height, width, only, right, down, table, unary):
    """Add pairs with a site that has one state left to the other site's energies, and set their weights to 0.

    only: (n,) that state, or -1.  Returns the energy of the pairs of two such sites.
    """
    out = 0.0
    for i in range(height):
        for j in range(width):
            site = start + i * width + j
            for side in range(2):
                if (j + 1 == width) if side == 0 else (i + 1 == height):
                    continue
                weights = right if side == 0 else down
                other = site + (1 if side == 0 else width)
                mine, theirs = only[site], only[other]
                if mine < 0 and theirs < 0:
                    continue
                if mine >= 0 and theirs >= 0:
                    out += weights[site] * table[mine, theirs]
                else:
                    for k in range(table.shape[0]):
                        if mine >= 0:
                            unary[other, k] += weights[site] * table[mine, k]
                        else:
                            unary[site, k] += weights[site] * table[k, theirs]
                weights[site] = 0.0
    return out


@kernel
def pad(unary, states, size, padded, labels):
    """Copy rows of ``states`` energies into float32 rows of ``size``; labels (n,) get each row's cheapest state.

    Padding, and plus infinity, become a large number. Returns whether all other energies are small beside it, whether
    float32 holds them exactly, and whether all are whole numbers.
    """
    finite, exact, whole = True, True, True
    large = np.float32(1e18)
    for site in range(labels.size):
        best = 0
        for k in range(states):
            value = unary[site * states + k]
            if value == np.inf:
                padded[site * size + k] = large
                continue
            single = np.float32(value)
            padded[site * size + k] = single
            if value < unary[site * states + best]:
                best = k
            finite &= np.abs(value) < 1e12
            exact &= np.float64(single) == value
            whole &= value == np.floor(value)
        for k in range(states, size):
            padded[site * size + k] = large
        labels[site] = best
    return finite, exact, whole


@kernel
def weigh(bands, right, down, scale, weights, strength, gamma, trees):
    """Fill weights (2, n) float64 and strength (2, n) float32, scale times that, with 0 where a neighbour is missing.

    gamma (n,): 1 over the larger of the numbers of earlier and later neighbours whose weight is not 0, or 1 where not
    ``trees``.  Returns the least weight.
    """
    total = gamma.size
    lowest = 0.0
    for band in range(bands.shape[0]):
        start, height, width = bands[band, 0], bands[band, 1], bands[band, 2]
        for i in range(bands[band, 3], bands[band, 4]):
            for j in range(width):
                site = start + i * width + j
                weights[site] = right[site] if j + 1 < width else 0.0
                weights[total + site] = down[site] if i + 1 < height else 0.0
                lowest = min(lowest, min(weights[site], weights[total + site]))
                later = (1 if weights[site] != 0 else 0) + (1 if weights[total + site] != 0 else 0)
                earlier = 1 if j > 0 and weights[site - 1] != 0 else 0
                earlier += 1 if i > 0 and weights[total + site - width] != 0 else 0
                gamma[site] = np.float32(1.0) / np.float32(max(earlier, later, 1) if trees else 1)
    for at in range(2 * total):
        strength[at] = np.float32(scale * weights[at])
    return lowest


@kernel
def energy(start, height, width, unary, states, weights, table, labels):
    """The energy of one instance's labels. unary: (n * states,); weights: (2, n); table: (states * states,)."""
    total = labels.size
    out = 0.0
    for i in range(height):
        for j in range(width):
            site = start + i * width + j
            own = labels[site]
            out += unary[site * states + own]
            if j + 1 < width:
                out += weights[site] * table[own * states + labels[site + 1]]
            if i + 1 < height:
                out += weights[total + site] * table[own * states + labels[site + width]]
    return out


@plain
def _change(site, other, direction, unary, states, weights, table, best, trial):
    """How much the pair's energy changes from best to trial; direction 0: other lies right, 1: below."""
    weight = weights[direction * best.size + site]
    return weight * (table[trial[site] * states + trial[other]] - table[best[site] * states + best[other]])


@kernel
def merge(start, height, width, unary, states, weights, table, best, trial, seen, queue):
    """Switch ``best`` to ``trial`` in every connected set of pixels in which they differ where that costs less.

    Such sets do not touch, so each is judged alone and the result is at least as good as either labelling.
    trial becomes best.  seen: (n,) uint8, all 0; queue: (n,) int64.  Returns the change of the energy.
    """
    out = 0.0
    for first in range(start, start + height * width):
        if best[first] == trial[first]:
            continue
        queue[0] = first
        seen[first] = 1
        count, change, at = 1, 0.0, 0
        while at < count:
            site = queue[at]
            at += 1
            change += np.float64(unary[site * states + trial[site]]) - np.float64(unary[site * states + best[site]])
            i, j = (site - start) // width, (site - start) % width
            for side in range(4):
                if side == 0:
                    inside, other = j + 1 < width, site + 1
                elif side == 1:
                    inside, other = i + 1 < height, site + width
                elif side == 2:
                    inside, other = j > 0, site - 1
                else:
                    inside, other = i > 0, site - width
                if not inside:
                    continue
                differs = best[other] != trial[other]
                if differs and seen[other] == 0:
                    seen[other] = 1
                    queue[count] = other
                    count += 1
                if side < 2:
                    change += _change(site, other, side, unary, states, weights, table, best, trial)
                elif not differs:
                    change += _change(other, site, side - 2, unary, states, weights, table, best, trial)
        better = change < 0.0
        if better:
            out += change
        for at in range(count):
            site = queue[at]
            seen[site] = 0
            if better:
                best[site] = trial[site]
            else:
                trial[site] = best[site]
    return out

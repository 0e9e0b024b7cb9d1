"""The segmentation of least energy, a record that proves it, and samples: the loops."""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.chains.chain_sample_numba import choose
from ebmstruct.inference.kernels.compiler import kernel
from ebmstruct.inference.kernels.segments.segments_log_numba import all_energies, sound


@kernel
def energy_of(begin, inside, lengths, segments, site, count, k, width, longest):
    """The energy of one segment: ``count`` sites of label k from ``site`` on."""
    energy = np.float64(begin[site * width + k]) + lengths[(count - 1) * width + k]
    for at in range(site + 1, site + count):
        energy += inside[at * width + k]
    if segments.size:
        energy += segments[(site * longest + count - 1) * width + k]
    return energy


@kernel
def least_site(
    begin, inside, lengths, transition, start, segments, site, low, width, longest, entry, messages, before, sizes
):
    """One step: the least energies of beginnings that end at ``site`` (messages), and how each was reached.

    before: the label of the segment before one that begins here.  sizes: the length of the one that ends here.
    """
    for k in range(width):
        here = site * width + k
        entry[here] = np.inf
        before[here] = 0
        if site == low:
            entry[here] = start[k] if start.size else 0.0
        else:
            for i in range(width):
                found = messages[here - k - width + i] + transition[i * width + k]
                if found < entry[here]:
                    entry[here] = found
                    before[here] = i
        messages[here] = np.inf
        sizes[here] = 1
        within = 0.0
        for back in range(min(longest, site - low + 1)):
            at = (site - back) * width + k
            found = entry[at] + (within + begin[at] + lengths[back * width + k])
            if segments.size:
                found += segments[((site - back) * longest + back) * width + k]
            if found < messages[here]:
                messages[here] = found
                sizes[here] = back + 1
            within += inside[at]
            if within == np.inf:
                break


@kernel
def least_ahead(
    begin, inside, lengths, transition, start, segments, offsets, width, longest, entry, messages, before, sizes, b,
    reached, stop,
):  # fmt: skip
    """Steps for the sites reached ... stop - 1, the first of which is in instance b or later; returns the last one's."""
    for site in range(reached, stop):
        while offsets[b + 1] <= site:
            b += 1
        least_site(
            begin, inside, lengths, transition, start, segments, site, offsets[b], width, longest, entry, messages,
            before, sizes,
        )  # fmt: skip
    return b


@kernel
def trace(messages, end, before, sizes, low, stop, last, width, labels, begins):
    """Labels and beginnings of the sites low ... stop - 1, where the last segment's label minimises message (+ end)."""
    best = np.inf
    k = 0
    for i in range(width):
        found = messages[(stop - 1) * width + i] + (end[i] if last and end.size else 0.0)
        if found < best:
            best = found
            k = i
    at = stop
    while at > low:
        size = sizes[(at - 1) * width + k]
        for site in range(at - size, at):
            labels[site] = k
            begins[site] = site == at - size
        at -= size
        if at > low:
            k = before[at * width + k]
    return best


@kernel
def greedy(
    begin, inside, lengths, transition, start, end, segments, low, site, high, width, longest, energy, labels, begins
):
    """Complete a segmentation of low ... site - 1 by segments of least energy a site; infinite where that fails."""
    while site < high:
        best = np.inf
        label = 0
        count = 0
        gain = np.inf
        for k in range(width):
            if site == low:
                step = np.float64(start[k]) if start.size else 0.0
            else:
                step = np.float64(transition[labels[site - 1] * width + k])
            for size in range(1, min(longest, high - site) + 1):
                found = step + energy_of(begin, inside, lengths, segments, site, size, k, width, longest)
                if site + size == high and end.size:
                    found += end[k]
                if found / size < best:
                    best = found / size
                    gain = found
                    label = k
                    count = size
        if count == 0:
            return np.inf
        energy += gain
        for at in range(site, site + count):
            labels[at] = label
            begins[at] = at == site
        site += count
    return energy


@kernel
def finish_least(
    begin, inside, lengths, transition, start, end, segments, offsets, width, longest, entry, messages, before, sizes,
    reached, labels, begins, least, finished,
):  # fmt: skip
    """Read the answers of all instances; those beyond ``reached`` are completed greedily, or searched if greed fails.

    An instance that holds NaN or -inf gets the energy NaN.
    """
    shared = all_energies(lengths) and all_energies(transition) and all_energies(start) and all_energies(end)
    for b in range(offsets.size - 1):
        low, high = offsets[b], offsets[b + 1]
        finished[b] = high <= reached
        least[b] = 0.0
        if low == high:
            finished[b] = True
            continue
        if not (shared and sound(begin, inside, segments, low, high, width, longest)):
            finished[b] = True
            least[b] = np.nan
            continue
        if not finished[b]:
            stop = max(low, reached)
            energy = 0.0
            if stop > low:
                energy = trace(messages, end, before, sizes, low, stop, False, width, labels, begins)
            least[b] = greedy(
                begin, inside, lengths, transition, start, end, segments, low, stop, high, width, longest, energy,
                labels, begins,
            )  # fmt: skip
            if least[b] < np.inf:
                messages[stop * width : high * width] = np.nan
                continue
            least_ahead(
                begin, inside, lengths, transition, start, segments, offsets, width, longest, entry, messages, before,
                sizes, b, stop, high,
            )  # fmt: skip
            finished[b] = True
        least[b] = trace(messages, end, before, sizes, low, high, True, width, labels, begins)


@kernel
def sample(
    begin, inside, lengths, transition, end, segments, offsets, width, longest, entry, ahead, log_partition, uniforms,
    labels, begins,
):  # fmt: skip
    """Draw segmentations from what ``forward`` kept, from the last segment backwards.

    uniforms: (S * n * 2); those of a segment's last site draw its label and its length. labels, begins: (S * n), zeros
    without a segmentation.
    """
    sites = offsets[offsets.size - 1]
    samples = labels.size // max(sites, 1)
    weights = np.empty(max(width, longest))
    for b in range(offsets.size - 1):
        low, high = offsets[b], offsets[b + 1]
        if low == high or not (log_partition[b] > -np.inf):
            continue
        for s in range(samples):
            at = high
            k = -1
            while at > low:
                site = at - 1
                noise = (s * sites + site) * 2
                peak = -1e308
                for i in range(width):
                    if k < 0:
                        weights[i] = ahead[site * width + i] - (end[i] if end.size else 0.0)
                    else:
                        weights[i] = ahead[site * width + i] - transition[i * width + k]
                    peak = max(peak, weights[i])
                for i in range(width):
                    weights[i] = np.exp(weights[i] - peak)
                k = choose(weights, width, uniforms[noise])
                size = draw_length(
                    begin, inside, lengths, segments, entry, site, low, k, width, longest, weights, uniforms[noise + 1]
                )
                for t in range(at - size, at):
                    labels[s * sites + t] = k
                    begins[s * sites + t] = t == at - size
                at -= size


@kernel
def draw_length(begin, inside, lengths, segments, entry, site, low, k, width, longest, weights, uniform):
    """The length of a segment of label k that ends at ``site``."""
    within = 0.0
    peak = -1e308
    count = 0
    for back in range(min(longest, site - low + 1)):
        at = (site - back) * width + k
        energy = within + begin[at] + lengths[back * width + k]
        if segments.size:
            energy += segments[((site - back) * longest + back) * width + k]
        weights[back] = entry[at] - energy
        peak = max(peak, weights[back])
        count = back + 1
        within += inside[at]
        if within == np.inf:
            break
    for back in range(count):
        weights[back] = np.exp(weights[back] - peak)
    return 1 + choose(weights, count, uniform)

"""Log partitions of segmentations and their gradients, in log space and float64: the loops.

Per site and label, ``entry`` holds the log of the summed weights of all beginnings after which a segment of that label
starts at the site, ``ahead`` of those of which one ends there. Energies of sites within a segment are summed as the segment
grows, so that nothing cancels and infinite ones cost nothing: a label whose next site is forbidden is left at once.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.compiler import kernel

LOWEST = -1e308  # a finite stand-in for a peak of -inf


@kernel
def all_energies(values):
    """Whether each value may be an energy: a number or +inf, not NaN and not -inf."""
    fine = True
    for k in range(values.size):
        fine &= values[k] > -np.inf
    return fine


@kernel
def enter(ahead, at, transition, start, width, out, o_at):
    """out[k] = the log weight of a segment of label k beginning here; ``at`` < 0 at an instance's first site."""
    for k in range(width):
        if at < 0:
            out[o_at + k] = -start[k] if start.size else 0.0
            continue
        peak = LOWEST
        for i in range(width):
            peak = max(peak, ahead[at + i] - transition[i * width + k])
        summed = 0.0
        for i in range(width):
            summed += np.exp(ahead[at + i] - transition[i * width + k] - peak)
        out[o_at + k] = np.log(summed) + peak


@kernel
def leave(entry, begin, inside, lengths, segments, first, site, width, longest, weights, ahead):
    """ahead[site, k] = the log weight of all beginnings of which a segment of label k ends at ``site``."""
    most = min(longest, site - first + 1)
    for k in range(width):
        within = 0.0
        count = 0
        peak = LOWEST
        for back in range(most):
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
        summed = 0.0
        for back in range(count):
            summed += np.exp(weights[back] - peak)
        ahead[site * width + k] = np.log(summed) + peak


@kernel
def sound(begin, inside, segments, first, last, width, longest):
    """Whether an instance's own numbers are energies; entries of segments that reach beyond it are not looked at."""
    fine = all_energies(begin[first * width : last * width]) and all_energies(inside[first * width : last * width])
    if segments.size:
        for site in range(first, last):
            at = site * longest * width
            fine = fine and all_energies(segments[at : at + min(longest, last - site) * width])
    return fine


@kernel
def forward(
    begin, inside, lengths, transition, start, end, segments, offsets, width, longest, entry, ahead, out, first, stop
):
    """Fill entry and ahead (n * K) and the log partitions out (B) of the instances first ... stop - 1.

    An instance that holds NaN or -inf gets NaN, one without a segmentation -inf, an empty one 0.
    """
    weights = np.empty(longest)
    shared = all_energies(lengths) and all_energies(transition) and all_energies(start) and all_energies(end)
    for b in range(first, stop):
        low, high = offsets[b], offsets[b + 1]
        out[b] = 0.0
        if low == high:
            continue
        if not (shared and sound(begin, inside, segments, low, high, width, longest)):
            out[b] = np.nan
            continue
        for site in range(low, high):
            before = (site - 1) * width if site > low else -1
            enter(ahead, before, transition, start, width, entry, site * width)
            leave(entry, begin, inside, lengths, segments, low, site, width, longest, weights, ahead)
        peak = LOWEST
        tail = (high - 1) * width
        for k in range(width):
            peak = max(peak, ahead[tail + k] - (end[k] if end.size else 0.0))
        summed = 0.0
        for k in range(width):
            summed += np.exp(ahead[tail + k] - (end[k] if end.size else 0.0) - peak)
        out[b] = np.log(summed) + peak


@kernel
def spread(
    begin, inside, lengths, segments, entry, behind, log_z, weight, site, high, width, longest, shares,
    begin_out, inside_out, lengths_out, segments_out, onward,
):  # fmt: skip
    """Probabilities of all segments that begin at ``site``, times weight, into the outputs of whatever they use.

    onward[k] becomes the log weight of all endings that begin with a segment of label k here.
    """
    most = min(longest, high - site)
    for k in range(width):
        within = begin[site * width + k]
        coming = entry[site * width + k]
        onward[k] = -np.inf
        if coming == -np.inf or within == np.inf:
            continue
        count = 0
        summed = 0.0
        for more in range(most):
            at = (site + more) * width + k
            if more > 0:
                within += inside[at]
                if within == np.inf:
                    break
            energy = within + lengths[more * width + k]
            if segments.size:
                energy += segments[(site * longest + more) * width + k]
            shares[more] = np.exp(coming - energy + behind[at] - log_z)
            summed += shares[more]
            count = more + 1
        if summed > 0.0:
            onward[k] = np.log(summed) - coming + log_z
        begin_out[site * width + k] = weight * summed
        growing = 0.0
        for more in range(count - 1, -1, -1):
            share = weight * shares[more]
            lengths_out[more * width + k] += share
            if segments_out.size:
                segments_out[(site * longest + more) * width + k] = share
            growing += share
            if more > 0:
                inside_out[(site + more) * width + k] += growing


@kernel
def backward(
    begin, inside, lengths, transition, start, end, segments, offsets, width, longest, entry, ahead, log_partition, weights,
    sign, begin_out, inside_out, lengths_out, transition_out, start_out, end_out, segments_out, first, stop,
):  # fmt: skip
    """Write sign * weights[b] times the probabilities of what instances first ... stop - 1 use.

    begin_out, inside_out (n * K) and segments_out (n * L * K, or empty): per site, zeros before.  lengths_out (L * K),
    transition_out (K * K), start_out, end_out (K): added up. The endings' weights follow from the shares already
    computed (share = entry * weight * ending / Z), so that each segment costs one exponential; what underflows has
    no share.
    """
    shares = np.empty(longest)
    onward = np.empty(width)
    for b in range(first, stop):
        low, high = offsets[b], offsets[b + 1]
        log_z, weight = log_partition[b], sign * weights[b]
        if low == high or log_z == -np.inf:
            continue
        if not (log_z > -np.inf):
            for at in range(low * width, high * width):
                begin_out[at] = np.nan
                inside_out[at] = np.nan
            if segments_out.size:
                segments_out[low * longest * width : high * longest * width] = np.nan
            for sums in (lengths_out, transition_out, start_out, end_out):
                sums[:] = np.nan
            continue
        behind = np.empty((high - low) * width)
        tail = (high - low - 1) * width
        for k in range(width):
            behind[tail + k] = -end[k] if end.size else 0.0
        for site in range(high - 1, low - 1, -1):
            spread(
                begin[low * width :], inside[low * width :], lengths, segments[low * longest * width :],
                entry[low * width :], behind, log_z, weight, site - low, high - low, width, longest, shares,
                begin_out[low * width :], inside_out[low * width :], lengths_out,
                segments_out[low * longest * width :], onward,
            )  # fmt: skip
            if site == low:
                for k in range(width):
                    start_out[k] += begin_out[low * width + k]
                break
            for i in range(width):
                reached = ahead[(site - 1) * width + i]
                here = (site - 1 - low) * width + i
                behind[here] = -np.inf
                if reached == -np.inf:
                    continue
                summed = 0.0
                for k in range(width):
                    share = np.exp(reached - transition[i * width + k] + onward[k] - log_z)
                    transition_out[i * width + k] += weight * share
                    summed += share
                if summed > 0.0:
                    behind[here] = np.log(summed) - reached + log_z
        for k in range(width):
            last = ahead[(high - 1) * width + k] - (end[k] if end.size else 0.0) - log_z
            end_out[k] += weight * np.exp(last)

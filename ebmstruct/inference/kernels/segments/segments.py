"""Exact inference over segmentations of sequences: log partition, marginals, least energy, samples.

All functions speak energies: low is good, and p is proportional to exp(-energy). A segmentation cuts each instance's
sites into segments of 1 to L sites, each with one of K labels. A batch is flat and ragged:

    begin       (n, K)      energy of each label at a site that begins a segment, float32 or float64
    inside      (n, K)      energy of each label at a site that continues one
    lengths     (L, K)      energy of a segment's length
    transition  (K, K)      between successive segments: rows are the earlier label, columns the later
    start, end  (K,)        energy of the first and the last segment's label, or None
    segments    (n, L, K)   energy of a segment by its first site, length and label, or None; what would reach beyond
                            the instance is not read
    offsets     (B + 1,)    long, on the CPU: the sites of instance b are offsets[b] to offsets[b + 1]

+inf forbids. An empty instance has log partition 0 and energy 0. An instance without a segmentation has log partition
-inf, energy +inf and zero marginals and gradients; one that holds NaN or -inf answers NaN, and the others are not
touched. Energies and log partitions come back in float64; all else has the dtype of ``begin``.

The recursions are those of Sarawagi and Cohen 2004 (section 3). Cost: O(n L K + n K^2), whether ``segments`` is given
or not; a label that cannot continue costs one length. On CPU tensors of float32 and float64 compiled loops run;
elsewhere, or without numba, their twin in plain torch (``segments_torch``), which can also be differentiated twice.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebmstruct.errors import GraphError
from ebmstruct.inference.kernels.segments import segments_autograd, segments_ops

SLICE = 100_000  # steps of the inner loop between two looks at the clock: well below a millisecond


class SegmentMarginals(NamedTuple):
    """begin, inside (n, K): of beginning or continuing a segment; segments (n, L, K) or None; log Z (B,)."""

    begin: Tensor
    inside: Tensor
    segments: Tensor | None
    log_partition: Tensor


class SegmentMinimum(NamedTuple):
    """What ``viterbi`` found.

    labels: (n,) long.  begins: (n,) bool.  energy: (B,) float64.  lower_bound: (B,) float64, the energy where finished,
    else -inf.  finished: (B,) bool, False where the deadline cut the search short.
    messages: (n, K) float64, the least energy of a beginning of which a segment of that label ends at the site.
    """

    labels: Tensor
    begins: Tensor
    energy: Tensor
    lower_bound: Tensor
    finished: Tensor
    messages: Tensor


def log_partition(
    begin: Tensor, inside: Tensor, lengths: Tensor, transition: Tensor, start: Tensor | None, end: Tensor | None,
    segments: Tensor | None, offsets: Tensor,
) -> Tensor:  # fmt: skip
    """Log of the sum over all segmentations of exp(-energy), (B,) float64; differentiable, twice by the twin.

    Gradients are analytic: minus the probabilities of beginnings, continuations, lengths, steps and segments.
    """
    inputs = _checked(begin, inside, lengths, transition, start, end, segments, offsets)
    if not _compiled(begin):
        return _twin().log_partition(*inputs)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs):
        return segments_autograd.LogPartition.apply(*inputs)
    return segments_autograd.operator("forward", inputs[0])(*inputs)[0]


def marginals(
    begin: Tensor, inside: Tensor, lengths: Tensor, transition: Tensor, start: Tensor | None, end: Tensor | None,
    segments: Tensor | None, offsets: Tensor, joint: bool = False,
) -> SegmentMarginals:  # fmt: skip
    """Probabilities of beginnings and continuations of each label at each site, and if ``joint`` of every segment."""
    inputs = _detached(_checked(begin, inside, lengths, transition, start, end, segments, offsets))
    if not _compiled(begin):
        first, inner, whole, log_z = _twin().marginals(*inputs)
        return SegmentMarginals(first, inner, whole if joint else None, log_z)
    kept = segments_autograd.operator("forward", inputs[0])(*inputs)
    weight = torch.ones_like(kept[0])
    found = segments_autograd.operator("backward", inputs[0])(*inputs, *kept, weight, 1.0, joint)
    return SegmentMarginals(found[0], found[1], found[6] if joint else None, kept[0])


def viterbi(
    begin: Tensor, inside: Tensor, lengths: Tensor, transition: Tensor, start: Tensor | None, end: Tensor | None,
    segments: Tensor | None, offsets: Tensor, deadline: float | None = None,
) -> SegmentMinimum:  # fmt: skip
    """The segmentation of least energy, and a record that proves it; in float64.

    deadline: an instant of ``time.monotonic()``. The search runs in slices of less than a millisecond; when the deadline
    has passed, the best beginning found so far is completed by the segments of least energy a site, at most L K looks a
    segment (and the search itself where that ends in a forbidden place), and has no bound.
    """
    inputs = _detached(_checked(begin, inside, lengths, transition, start, end, segments, offsets))
    if not _compiled(begin):
        labels, begins, energy, messages = _twin().viterbi(*inputs)
        return SegmentMinimum(labels, begins, energy, energy, torch.ones_like(energy, dtype=torch.bool), messages)
    a = segments_ops.arrays(*inputs)
    b, i, table, steps, head, tail, whole, o = a
    (longest, width), sites = lengths.shape, begin.shape[0]
    entry, messages = torch.empty((2, sites, width), dtype=torch.float64)
    before, sizes = torch.empty((2, sites, width), dtype=torch.int32)
    labels, begins = torch.zeros(sites, dtype=torch.long), torch.zeros(sites, dtype=torch.bool)
    least, finished = torch.empty(o.size - 1, dtype=torch.float64), torch.empty(o.size - 1, dtype=torch.bool)
    record = tuple(segments_ops.flat(x) for x in (entry, messages, before, sizes))
    loops = segments_ops.loops()
    reached = instance = 0
    piece = sites if deadline is None else max(1, SLICE // (width * (longest + width)))
    while reached < sites and (deadline is None or time.monotonic() < deadline):
        stop = min(sites, reached + piece)
        instance = loops.least_ahead(
            b, i, table, steps, head, whole, o, width, longest, *record, instance, reached, stop
        )
        reached = stop
    answers = labels.numpy(), begins.numpy(), least.numpy(), finished.numpy()
    loops.finish_least(b, i, table, steps, head, tail, whole, o, width, longest, *record, reached, *answers)
    return SegmentMinimum(labels, begins, least, least.masked_fill(~finished, -torch.inf), finished, messages)


def sample(
    begin: Tensor, inside: Tensor, lengths: Tensor, transition: Tensor, start: Tensor | None, end: Tensor | None,
    segments: Tensor | None, offsets: Tensor, uniforms: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Exact samples: labels (S, n) long and beginnings (S, n) bool, a function of uniforms (S, n, 2) float64 in [0, 1).

    An instance without a segmentation gets zeros. Cost: that of the log partition, and O(S n (L + K)).
    """
    inputs = _detached(_checked(begin, inside, lengths, transition, start, end, segments, offsets))
    if uniforms.dim() != 3 or uniforms.shape[1:] != (begin.shape[0], 2) or uniforms.dtype != torch.float64:
        raise GraphError(
            f"samples of {begin.shape[0]} sites were asked for with uniforms of shape {tuple(uniforms.shape)} and type "
            f"{uniforms.dtype}: they must be (S, {begin.shape[0]}, 2) of type torch.float64"
        )
    if not _compiled(begin):
        return _twin().sample(*inputs, uniforms)
    log_z, entry, ahead = segments_autograd.operator("forward", inputs[0])(*inputs)
    labels = torch.zeros(uniforms.shape[:2], dtype=torch.long)
    begins = torch.zeros(uniforms.shape[:2], dtype=torch.bool)
    b, i, table, steps, _, tail, whole, o = segments_ops.arrays(*inputs)
    longest, width = lengths.shape
    flat = segments_ops.flat
    segments_ops.loops().sample(
        b, i, table, steps, tail, whole, o, width, longest, flat(entry), flat(ahead), flat(log_z),
        flat(uniforms.contiguous()), flat(labels), flat(begins),
    )  # fmt: skip
    return labels, begins


def _checked(*inputs: Tensor | None) -> tuple[Any, ...]:
    """The arguments, contiguous, after a check of their shapes and types."""
    begin, inside, lengths, transition, start, end, segments, offsets = inputs
    assert begin is not None and lengths is not None and offsets is not None
    sites = begin.shape[0]
    fault = ""
    if lengths.dim() != 2 or not lengths.numel():
        fault = f"lengths has shape {tuple(lengths.shape)}; it must be (L, K), both at least 1"
    elif offsets.dim() != 1 or offsets.dtype is not torch.long or not offsets.is_cpu:
        fault = f"offsets is {offsets.dtype} {tuple(offsets.shape)} on {offsets.device}; it must be (B + 1,) long, CPU"
    else:
        longest, width = lengths.shape
        for name, value, shape in (
            ("begin", begin, (sites, width)),
            ("inside", inside, (sites, width)),
            ("lengths", lengths, (longest, width)),
            ("transition", transition, (width, width)),
            ("start", start, (width,)),
            ("end", end, (width,)),
            ("segments", segments, (sites, longest, width)),
        ):
            if value is None:
                continue
            if tuple(value.shape) != shape:
                fault = f"{name} has shape {tuple(value.shape)}; it must be {shape}"
            elif value.dtype is not begin.dtype or value.device != begin.device:
                fault = f"{name} is {value.dtype} on {value.device}, and begin {begin.dtype} on {begin.device}"
    if fault:
        raise GraphError(f"a kernel of segments was asked for inference, but {fault}")
    return tuple(x if x is None or x.is_contiguous() else x.contiguous() for x in inputs)


def _detached(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(None if x is None else x.detach() for x in inputs)


def _compiled(begin: Tensor) -> bool:
    kinds = (torch.float32, torch.float64)
    return begin.device.type == "cpu" and begin.dtype in kinds and segments_ops.available()


def _twin() -> Any:
    from ebmstruct.inference.kernels.segments import segments_torch

    return segments_torch

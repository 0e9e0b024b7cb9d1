"""The loops over segmentations as torch operators on CPU tensors, with fake rules; what ``chain_ops`` is to chains."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from ebmstruct.errors import GraphError
from ebmstruct.inference.kernels import parallel
from ebmstruct.inference.kernels.chains.chain_ops import available, flat, flat_or_empty, library

__all__ = ["arrays", "available", "backward", "flat", "forward", "loops"]
_SEGMENTS = (
    "Tensor begin, Tensor inside, Tensor lengths, Tensor transition, Tensor? start, Tensor? end, Tensor? segments, "
    "Tensor offsets"
)


@functools.cache
def loops() -> SimpleNamespace:
    """The compiled loops; the first call imports numba."""
    from ebmstruct.inference.kernels.chains.chain_energy_numba import offsets_fault
    from ebmstruct.inference.kernels.segments import segments_log_numba, segments_search_numba

    return SimpleNamespace(
        forward=segments_log_numba.forward,
        backward=segments_log_numba.backward,
        least_ahead=segments_search_numba.least_ahead,
        finish_least=segments_search_numba.finish_least,
        sample=segments_search_numba.sample,
        offsets_fault=offsets_fault,
    )


def arrays(
    begin: Tensor, inside: Tensor, lengths: Tensor, transition: Tensor, start: Tensor | None, end: Tensor | None,
    segments: Tensor | None, offsets: Tensor,
) -> tuple[np.ndarray, ...]:  # fmt: skip
    e, o = flat(begin), flat(offsets)
    if loops().offsets_fault(o, begin.shape[0]):
        raise GraphError(
            f"a kernel of segments was given offsets that do not divide {begin.shape[0]} sites: they must rise from 0 to "
            f"{begin.shape[0]}"
        )
    ends = flat_or_empty(start, e), flat_or_empty(end, e), flat_or_empty(segments, e)
    return e, flat(inside), flat(lengths), flat(transition), *ends, o


def work(lengths: Tensor) -> int:
    """Additions a site, for sharing a batch between threads: an exponential counts as ten."""
    longest, width = lengths.shape
    return 20 * width * (longest + width)


def forward(
    begin: Tensor, inside: Tensor, lengths: Tensor, transition: Tensor, start: Tensor | None, end: Tensor | None,
    segments: Tensor | None, offsets: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    a = arrays(begin, inside, lengths, transition, start, end, segments, offsets)
    longest, width = lengths.shape
    entry = torch.zeros(begin.shape, dtype=torch.float64)
    ahead = torch.zeros(begin.shape, dtype=torch.float64)
    log_z = torch.empty(offsets.shape[0] - 1, dtype=torch.float64)
    kept, out, loop = (flat(entry), flat(ahead)), log_z.numpy(), loops().forward

    def task(part: int, first: int, stop: int) -> None:
        loop(*a, width, longest, *kept, out, first, stop)

    parallel.run(task, parallel.parts(a[-1], work(lengths)))
    return log_z, entry, ahead


def forward_fake(
    begin: Tensor, inside: Tensor, lengths: Tensor, transition: Tensor, start: Tensor | None, end: Tensor | None,
    segments: Tensor | None, offsets: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    def wide(*shape: int) -> Tensor:
        return begin.new_empty(shape, dtype=torch.float64)

    return wide(offsets.shape[0] - 1), wide(*begin.shape), wide(*begin.shape)


def backward(
    begin: Tensor, inside: Tensor, lengths: Tensor, transition: Tensor, start: Tensor | None, end: Tensor | None,
    segments: Tensor | None, offsets: Tensor, log_z: Tensor, entry: Tensor, ahead: Tensor, weight: Tensor,
    sign: float, joint: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    a = arrays(begin, inside, lengths, transition, start, end, segments, offsets)
    longest, width = lengths.shape
    dtype = a[0].dtype
    ranges = parallel.parts(a[-1], work(lengths))
    sites = np.zeros((2, *begin.shape), dtype)
    whole = np.zeros((begin.shape[0], longest, width) if joint else (0, longest, width), dtype)
    sums = [
        (np.zeros((longest, width)), np.zeros((width, width)), np.zeros(width), np.zeros(width)) for _ in ranges
    ]  # added up in float64, part by part, so that the number of threads does not matter
    record = flat(entry), flat(ahead), flat(log_z), flat(weight.double().contiguous())
    first_out, inner_out, loop = sites[0].reshape(-1), sites[1].reshape(-1), loops().backward

    def task(part: int, first: int, stop: int) -> None:
        table, steps, head, tail = sums[part]
        loop(
            *a, width, longest, *record, sign, first_out, inner_out, table.reshape(-1), steps.reshape(-1), head, tail,
            whole.reshape(-1), first, stop,
        )  # fmt: skip

    parallel.run(task, ranges)
    added = [np.sum([part[i] for part in sums], axis=0).astype(dtype) for i in range(4)]
    return tuple(torch.from_numpy(x) for x in (sites[0], sites[1], *added, whole))


def backward_fake(
    begin: Tensor, inside: Tensor, lengths: Tensor, transition: Tensor, start: Tensor | None, end: Tensor | None,
    segments: Tensor | None, offsets: Tensor, log_z: Tensor, entry: Tensor, ahead: Tensor, weight: Tensor,
    sign: float, joint: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    longest, width = lengths.shape
    one = begin.new_empty
    rows = begin.shape[0] if joint else 0
    return (
        one(begin.shape), one(begin.shape), one(lengths.shape), one(transition.shape), one(width), one(width),
        one((rows, longest, width)),
    )  # fmt: skip


library.define(f"segments_forward({_SEGMENTS}) -> (Tensor, Tensor, Tensor)")
library.impl("segments_forward", forward, "CPU")
torch.library.register_fake("ebmstruct::segments_forward", forward_fake, lib=library)
library.define(
    f"segments_backward({_SEGMENTS}, Tensor log_z, Tensor entry, Tensor ahead, Tensor weight, float sign, bool joint)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
library.impl("segments_backward", backward, "CPU")
torch.library.register_fake("ebmstruct::segments_backward", backward_fake, lib=library)

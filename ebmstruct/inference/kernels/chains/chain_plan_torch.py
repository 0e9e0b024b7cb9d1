"""How plain torch goes over a ragged batch of chains, one site of every instance at a time; their energies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """A checked chain in at least float32, with the plan of its steps."""

    emission: Tensor
    transition: Tensor
    own: tuple[Tensor, ...]  # emission, a tensor for each step: split once, so that its gradient is put together once
    into: tuple[Tensor, ...]  # tables of the edges likewise, or empty if one is shared
    start: Tensor
    end: Tensor
    first: Tensor  # first flat site of each instance, longest instance first
    lengths: list[int]  # falling
    order: Tensor  # number of each such instance in the batch
    running: list[int]  # how many instances have a site t

    def rows(self, t: int) -> Tensor:
        """Flat sites at step t."""
        return self.first[: self.running[t]] + t

    def edges(self, t: int) -> Tensor:
        """Tables into the sites at step t: (m, K, K), or (1, K, K) if they share one."""
        return self.into[t] if self.into else self.transition[None]

    def stopping(self, t: int) -> tuple[int, int]:
        """The range of instances whose last site is at step t."""
        return (self.running[t + 1] if t + 1 < len(self.running) else 0), self.running[t]

    def in_order(self, sorted_values: Tensor) -> Tensor:
        """Values per instance, moved from the order of length to that of the batch."""
        return torch.empty_like(sorted_values).index_copy(-1, self.order, sorted_values)

    def back(self) -> Iterator[int]:
        return reversed(range(len(self.running)))


def wide_type(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def plan(
    emission: Tensor, transition: Tensor, start: Tensor | None, end: Tensor | None, offsets: Tensor, wide: bool
) -> Batch:
    dtype = wide_type(emission) if wide else torch.promote_types(emission.dtype, torch.float32)
    device = emission.device
    zero = torch.zeros(emission.shape[1], dtype=dtype, device=device)
    lengths, order = offsets.diff().sort(descending=True, stable=True)
    counts = torch.bincount(lengths, minlength=1)
    running = (counts.sum() - counts.cumsum(0))[:-1].tolist()
    begins = offsets[:-1][order]
    sites = torch.cat([begins[:0], *(begins[:m] + t for t, m in enumerate(running))]).to(device)
    emission, transition = emission.to(dtype), transition.to(dtype)
    return Batch(
        emission,
        transition,
        emission[sites].split(running),
        transition[sites].split(running) if transition.dim() == 3 else (),
        zero if start is None else start.to(dtype),
        zero if end is None else end.to(dtype),
        begins.to(device),
        lengths.tolist(),
        order.to(device),
        running,
    )


def undefined(batch: Batch, offsets: Tensor) -> Tensor:
    """(B,) bool, in the batch's order: whether an instance reads NaN or -inf."""
    instances = offsets.shape[0] - 1
    device = batch.emission.device
    counts = offsets.diff().to(device)
    owner = torch.repeat_interleave(torch.arange(instances, device=device), counts)
    bad_site = ~(batch.emission > -torch.inf).all(1)
    edge = ~(batch.transition > -torch.inf).flatten(-2).all(-1)
    inner = torch.ones_like(bad_site)
    inner[offsets[:-1].to(device)[counts > 0]] = False
    bad_site = bad_site | (edge & inner)
    bad = torch.zeros(instances, dtype=torch.long, device=device).index_add(0, owner, bad_site.long()) > 0
    ends = ~((batch.start > -torch.inf).all() & (batch.end > -torch.inf).all())
    return bad | (ends & (counts > 0))


def log_sum(x: Tensor, dim: int) -> Tensor:
    """log-sum-exp whose gradient is zero, not NaN, where all terms are -inf."""
    peak = x.detach().amax(dim, keepdim=True)
    peak = torch.where(peak.isinf(), torch.zeros_like(peak), peak)
    summed = (x - peak).exp().sum(dim)
    empty = summed == 0
    return torch.where(empty, -torch.inf, torch.where(empty, 1.0, summed).log() + peak.squeeze(dim))


def log_ahead(batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
    """Per step, the log weights of all beginnings, lowered to a peak of 0, and by how much they were lowered in all."""
    ahead: list[Tensor] = []
    lowered: list[Tensor] = []
    for t, running in enumerate(batch.running):
        here = -batch.own[t]
        if t == 0:
            here = here - batch.start
            before = torch.zeros(running, dtype=wide_type(here), device=here.device)
        else:
            here = here + log_sum(ahead[-1][:running, :, None] - batch.edges(t), 1)
            before = lowered[-1][:running]
        peak = here.detach().amax(1)
        peak = torch.where(peak.isfinite(), peak, torch.zeros_like(peak))
        ahead.append(here - peak[:, None])
        lowered.append(before + peak.to(before.dtype))
    return ahead, lowered


def energy(
    states: Tensor, emission: Tensor, transition: Tensor, start: Tensor | None, end: Tensor | None, offsets: Tensor
) -> Tensor:
    """Energy of the given states (n,): (B,); see ``chain.energy``."""
    batch = plan(emission, transition, start, end, offsets, wide=True)
    device = emission.device
    instances = offsets.shape[0] - 1
    counts = offsets.diff()
    filled = torch.arange(instances)[counts > 0].to(device)
    first, last = offsets[:-1][counts > 0].to(device), offsets[1:][counts > 0].to(device) - 1
    owner = torch.repeat_interleave(torch.arange(instances, device=device), counts.to(device))
    out = torch.zeros(instances, dtype=batch.emission.dtype, device=device)
    out = out.index_add(0, owner, batch.emission.gather(1, states[:, None])[:, 0])
    out = out.index_add(0, filled, batch.start[states[first]] + batch.end[states[last]])
    inner = torch.ones_like(states, dtype=torch.bool)
    inner[first] = False
    sites = inner.nonzero()[:, 0]
    before, here = states[sites - 1], states[sites]
    if transition.dim() == 2:
        return out.index_add(0, owner[sites], batch.transition[before, here])
    return out.index_add(0, owner[sites], batch.transition[sites, before, here])

"""The functions of ``chain.py`` in plain torch: any device, any floating type, any number of derivatives.

It runs where the compiled loops cannot, and is what they are tested against. A step handles site t of all instances
that have one, so it costs as many steps as the longest instance has sites. Instances are sorted by length, and those
still running are always the first rows. Path energies and log partitions are summed in float64 where
the device has it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ebmstruct.inference.kernels.chain_plan_torch import log_ahead, log_sum, plan, undefined, wide_type
from ebmstruct.inference.kernels.chain_search_torch import k_best, sample, viterbi

__all__ = ["energy", "k_best", "log_partition", "marginals", "sample", "viterbi"]


def log_partition(
    emission: Tensor, transition: Tensor, start: Tensor | None, end: Tensor | None, offsets: Tensor
) -> Tensor:
    """Log of the sum over all configurations of exp(-energy), (B,); see ``chain.log_partition``."""
    batch = plan(emission, transition, start, end, offsets, wide=False)
    ahead, lowered = log_ahead(batch)
    parts = [torch.zeros(batch.lengths.count(0), dtype=wide_type(emission), device=emission.device)]
    for t in range(len(ahead)):
        low, high = batch.stopping(t)
        parts.append(log_sum(ahead[t][low:high] - batch.end, 1).to(parts[0].dtype) + lowered[t][low:high])
    log_z = batch.in_order(torch.cat(parts[::-1]))
    return log_z.masked_fill(undefined(batch, offsets), torch.nan)


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


def marginals(
    emission: Tensor,
    transition: Tensor,
    start: Tensor | None,
    end: Tensor | None,
    offsets: Tensor,
    pairwise: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Marginals as minus the gradient of the log partition; differentiable where gradients are on."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        unary = emission + torch.zeros_like(emission, requires_grad=True)
        tables = transition
        if pairwise:
            size = (emission.shape[0], *transition.shape[-2:])
            tables = transition + torch.zeros(size, dtype=emission.dtype, device=emission.device, requires_grad=True)
        log_z = log_partition(unary, tables, start, end, offsets)
        inputs = [unary, tables] if pairwise else [unary]
        grads = torch.autograd.grad(log_z.sum(), inputs, create_graph=again, allow_unused=True)
    batch = plan(emission, transition, start, end, offsets, wide=False)
    bad = undefined(batch, offsets).repeat_interleave(offsets.diff().to(emission.device))
    found = [
        torch.zeros_like(x) if g is None else (-g).masked_fill(bad.view(-1, *[1] * (g.dim() - 1)), torch.nan)
        for x, g in zip(inputs, grads, strict=True)
    ]
    return found[0], found[1] if pairwise else None, log_z if again else log_z.detach()

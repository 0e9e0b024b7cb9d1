"""The functions of ``chain.py`` in plain torch: any device, any floating type, any number of derivatives.

It runs where the compiled loops cannot, and is what they are tested against. A step handles site t of all instances
that have one, so it costs as many steps as the longest instance has sites. Instances are sorted by length, and those
still running are always the first rows. Path energies and log partitions are summed in float64 where
the device has it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ebmstruct.inference.kernels.chains.chain_plan_torch import energy, log_ahead, log_sum, plan, undefined, wide_type
from ebmstruct.inference.kernels.chains.chain_search_torch import k_best, sample, viterbi

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

"""Noise on what is known, and how many draws a clip holds: two things that keep trainings by samples from coming apart."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ebmstruct.graph import FactorGraph, Real
from ebmstruct.inference.smooth_energy import clamped
from ebmstruct.learning.losses.chains import Values, chains_of, with_evidence


def noised(graph: FactorGraph, values: Values, size: float, generator: Generator) -> dict[str, Tensor]:
    """The values with normal noise of standard deviation ``size`` on the sites of ``Real`` that are not clamped."""
    out = dict(values)
    for name, block in graph.variables.items():
        if name in values and isinstance(block.domain, Real) and not clamped(graph, name):
            value = values[name]
            moved = value + size * torch.randn(value.shape, dtype=value.dtype, device=value.device, generator=generator)
            out[name] = block.domain.project(moved)
    return with_evidence(graph, out, chains_of(graph, values))


def share_beyond(graph: FactorGraph, values: Values, size: float) -> Tensor:
    """(B,) float64: of the numbers of each instance's open ``Real`` sites, the share of those at ``size`` or beyond it."""
    out, count = torch.zeros(2, graph.num_instances, dtype=torch.float64)
    for name, block in graph.variables.items():
        if isinstance(block.domain, Real) and not clamped(graph, name):
            beyond = (values[name].abs() >= size).double()  # (C, n, d)
            out.index_add_(0, block.instance, beyond.mean(0).sum(-1))
            count.index_add_(0, block.instance, torch.full_like(beyond[0, :, 0], beyond.shape[-1]))
    return out / count.clamp(min=1)

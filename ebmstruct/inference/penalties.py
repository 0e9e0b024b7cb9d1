"""A large finite energy in place of infinite ones, so that gradients exist."""

from __future__ import annotations

import torch

from ebmstruct.graph import ChainFactor, FactorGraph, TableFactor


def penalised(graph: FactorGraph) -> tuple[FactorGraph, float]:
    """The graph with a large finite entry in place of infinite ones, and how large it is; itself and 0 without any.

    Ten times the spread of the finite entries and one more: dear enough to be avoided, small enough to descend on.
    """
    tables = {f.label: f.values() for f in graph.factors if isinstance(f, TableFactor | ChainFactor)}
    entries = [v.detach().double().reshape(-1) for values in tables.values() for v in values if v is not None]
    every = torch.cat(entries) if entries else torch.zeros(0)
    finite = every[every.isfinite()]
    if finite.numel() == every.numel():
        return graph, 0.0
    spread = float(finite.max() - finite.min()) if finite.numel() else 0.0
    penalty = (float(finite.max()) if finite.numel() else 0.0) + 10 * spread + 1
    soft = {
        label: [None if v is None else v.masked_fill(torch.isposinf(v), penalty) for v in values]
        for label, values in tables.items()
    }
    return graph.with_values(soft), penalty

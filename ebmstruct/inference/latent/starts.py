"""Starts of searches over blocks that are not summed out: the same for an instance in whatever batch it comes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, Continuous, FactorGraph
from ebmstruct.inference.markov import default_generator
from ebmstruct.inference.smooth_energy import SmoothEnergy, starting_point


def scattered_copies(
    graph: FactorGraph,
    names: Sequence[str],
    init: Assignment | None,
    starts: int,
    distance: float,
    generator: Generator | None,
) -> dict[str, Tensor]:
    """Block name to (starts, n, d): values of continuous blocks, those in ``names`` scattered from the second start on.

    A step is drawn for each position in an instance, not for each site, so that an instance starts alike alone and in
    a batch.
    """
    source = default_generator(generator)
    out = {}
    for name, value in starting_point(graph, init).items():
        block = graph.variables[name]
        copies = value.expand(starts, *value.shape).clone()
        if name in names and starts > 1 and isinstance(block.domain, Continuous):
            longest = int(block.lengths.max()) if block.num_instances else 0
            drawn = torch.stack(
                [
                    torch.randn(starts, block.domain.tangent_dim, generator=source, dtype=torch.float64)
                    for _ in range(max(1, longest))
                ],
                1,
            )
            position = torch.arange(block.num_sites) - block.offsets[:-1][block.instance]
            step = distance * drawn[1:, position].to(value.dtype)
            known = None if graph.evidence is None else graph.evidence.known.get(name)
            if known is not None:
                step = step.masked_fill(known[:, None], 0.0)
            copies[1:] = block.domain.project(block.domain.retract(copies[1:], step))
        out[name] = copies
    return out


def random_states(
    graph: FactorGraph, names: Sequence[str], init: Assignment | None, starts: int, generator: Generator | None
) -> dict[str, Tensor]:
    """Block name to (starts, n): legal states of discrete blocks, the first start at ``init`` or each site's first state.

    Drawn for each position in an instance, like the steps of ``scattered_copies``.
    """
    source = default_generator(generator)
    out = {}
    for name in names:
        block = graph.variables[name]
        legal = torch.arange(max(1, block.discrete.largest)) < block.state_counts[:, None]
        allowed = graph.allowed(name)
        legal = legal if allowed is None else legal & allowed
        order = (~legal).long().sort(dim=1, stable=True).indices
        longest = int(block.lengths.max()) if block.num_instances else 0
        drawn = [torch.rand(starts, generator=source, dtype=torch.float64) for _ in range(max(1, longest))]
        position = torch.arange(block.num_sites) - block.offsets[:-1][block.instance]
        digit = (torch.stack(drawn, 1)[:, position] * legal.sum(1)).long()
        digit[0] = 0
        states = order[torch.arange(block.num_sites).expand_as(digit), digit]
        given = None if init is None else init.get(name)
        if given is not None:
            states[0] = torch.where(legal.gather(1, given[:, None])[:, 0], given, states[0])
        out[name] = states
    return out


def space_over(graph: FactorGraph, names: Sequence[str], values: dict[str, Tensor]) -> SmoothEnergy:
    """The graph's energy as a function of some continuous blocks, all others at ``values``; for bounds and steps."""
    whole = SmoothEnergy.of(graph, values)
    chosen = [i for i, n in enumerate(whole.names) if n in names]
    picked = tuple(whole.names[i] for i in chosen)
    return SmoothEnergy(
        graph,
        {n: v for n, v in values.items() if n not in picked},
        picked,
        tuple(whole.domains[i] for i in chosen),
        tuple(whole.instances[i] for i in chosen),
        tuple(whole.moving[i] for i in chosen),
    )

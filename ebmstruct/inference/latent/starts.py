"""Starts of searches over blocks that are not summed out: the same for an instance in whatever batch it comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, Continuous, FactorGraph
from ebmstruct.inference.result import Ask, Budget, Marginals, Query
from ebmstruct.inference.sampling.markov import default_generator
from ebmstruct.inference.smooth_energy import SmoothEnergy, starting_point
from ebmstruct.inference.views.table_view import table_refusal

MOST_OPERATIONS = 1e8
"""What marginals may take that only say where a search begins."""


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


def legal_states(graph: FactorGraph, name: str) -> Tensor:
    """(n, K) bool: the states that each site of a discrete block may take."""
    block = graph.variables[name]
    legal = torch.arange(max(1, block.discrete.largest)) < block.state_counts[:, None]
    allowed = graph.allowed(name)
    return legal if allowed is None else legal & allowed


def random_states(
    graph: FactorGraph,
    names: Sequence[str],
    likely: Sequence[Mapping[str, Tensor]],
    starts: int,
    generator: Generator | None,
) -> dict[str, Tensor]:
    """Block name to (starts, n): legal states of discrete blocks, the first starts those in ``likely``.

    Others are drawn for each position in an instance, like the steps of ``scattered_copies``.
    """
    source = default_generator(generator)
    out = {}
    for name in names:
        block = graph.variables[name]
        legal = legal_states(graph, name)
        order = (~legal).long().sort(dim=1, stable=True).indices
        longest = int(block.lengths.max()) if block.num_instances else 0
        drawn = [torch.rand(starts, generator=source, dtype=torch.float64) for _ in range(max(1, longest))]
        position = torch.arange(block.num_sites) - block.offsets[:-1][block.instance]
        digit = (torch.stack(drawn, 1)[:, position] * legal.sum(1)).long()
        states = order[torch.arange(block.num_sites).expand_as(digit), digit]
        for start, given in zip(range(starts), likely, strict=False):
            if name in given:
                told = given[name]
                inside = legal.gather(1, told.clamp(0, legal.shape[1] - 1)[:, None])[:, 0]
                states[start] = torch.where(inside, told, states[start])
        out[name] = states
    return out


def likely_states(
    graph: FactorGraph, names: Sequence[str], budget: Budget, generator: Generator | None
) -> list[dict[str, Tensor]]:
    """States of least energy, and most probable states site by site, of a graph of tables; nothing of other graphs."""
    from ebmstruct.inference.engine import minimize
    from ebmstruct.inference.solvers import JunctionTree, VariableElimination

    if table_refusal(graph) is not None or budget.expired:
        return []
    seconds = budget.within(min(1.0, 0.2 * budget.remaining))
    out = [dict(minimize(graph, budget=seconds, generator=generator).assignment.items())]
    query = Query(Ask.MARGINALS)
    for solver in (VariableElimination(), JunctionTree()):
        if solver.refuse(graph, query) is None:
            cost = solver.cost(graph, query)
            if cost is None or cost.operations <= MOST_OPERATIONS:
                found = solver.solve(graph, query, budget=budget)
                assert isinstance(found, Marginals)
                out.append({n: found.beliefs[n].argmax(1) for n in names if n in found.beliefs})
            break
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

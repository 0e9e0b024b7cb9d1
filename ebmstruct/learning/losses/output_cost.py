"""What a wrong output costs: the task's cost factors, or a plain one where the task has none."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ebmstruct.errors import LossRefusal
from ebmstruct.graph import Assignment, BlockFactor, Continuous, Discrete, Factor, FactorGraph, TableFactor, Variables
from ebmstruct.inference import minimize
from ebmstruct.learning.losses.latent_sites import known_sites

LABEL = "default_cost"
"""How labels of default costs begin."""


def cost_or_default(graph: FactorGraph, target: Assignment, cost: Sequence[Factor], reach: float) -> tuple[Factor, ...]:
    """The task's cost; without one, what each known site adds to a default cost.

    Discrete sites: 1 where the state differs from the target's (Hamming). Continuous ones: r^2 (1 - exp(-d^2 / r^2)), with
    d the length of the step from the target (``Continuous.local``) and r the ``reach``: the square distance as long as that
    is small beside r^2, and never more than r^2, so that an energy that is bounded below stays so when the cost is taken
    off. An infinite reach gives the square distance itself, which needs an energy that rises faster.
    """
    if cost:
        return tuple(cost)
    out: list[Factor] = []
    for name, block in graph.variables.items():
        known = known_sites(graph, target, name)
        if not bool(known.any()):
            continue
        if isinstance(block.domain, Continuous):
            out.append(_distance_cost(name, block, target[name], known, reach))
        else:
            out.append(_hamming_cost(name, block, target[name], known))
    return tuple(out)


def _hamming_cost(name: str, block: Variables, target: Tensor, known: Tensor) -> TableFactor:
    """A table a site: 1 for every state but the target's, 0 where the site is unknown."""
    label = f"{LABEL}_{name}"
    if block.discrete.uniform:
        states = torch.arange(block.discrete.largest, device=target.device)
        wrong = (target[:, None] != states) & known[:, None]
        return TableFactor((name,), label, wrong.double())
    counts = block.state_counts
    starts = counts.cumsum(0) - counts
    owner = torch.repeat_interleave(torch.arange(block.num_sites, device=target.device), counts)
    state = torch.arange(owner.numel(), device=target.device) - starts[owner]
    wrong = (state != target[owner]) & known[owner]
    return TableFactor((name,), label, wrong.double(), starts=starts)


def _distance_cost(name: str, block: Variables, target: Tensor, known: Tensor, reach: float) -> BlockFactor:
    """One cost an instance: bounded square distances of its known sites, summed."""
    domain, sites = block.domain, block.num_sites
    assert isinstance(domain, Continuous)
    legal = target.detach()

    def distance(z: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        times = z.shape[0] // sites  # solvers work on copies of a graph, one after another
        at = known.repeat(times).nonzero()[:, 0]
        rows = reached(domain.local(z[at], legal.repeat(times, 1)[at].to(z.dtype)).square().sum(-1), reach)
        count = offsets[0].numel() - 1
        instance = torch.repeat_interleave(torch.arange(count, device=z.device), offsets[0].diff())
        return rows.new_zeros(count).index_add(0, instance[at], rows)

    return BlockFactor((name,), f"{LABEL}_{name}", distance)


def reached(square: Tensor, reach: float) -> Tensor:
    """r^2 (1 - exp(-s / r^2)) of square distances s; the square itself where r is infinite."""
    if reach == float("inf"):
        return square
    return -(reach**2) * torch.expm1(-square / reach**2)


def scaled_by_instance(factor: Factor, weight: Tensor, variables: Sequence[Variables]) -> Factor:
    """The factor with the energies of instance b multiplied by ``weight[b]``; weight: (B,).

    Tables and functions of whole blocks. Errors: LossRefusal for other kinds.
    """
    if isinstance(factor, BlockFactor):
        function: Callable[..., Tensor] = factor.function
        inputs = (*factor.inputs, weight.to(factor.inputs[0].dtype if factor.inputs else torch.float64))

        def times(*given: Any) -> Tensor:
            *values, own, offsets = given
            return own * function(*values, offsets)

        return dataclasses.replace(factor, function=times, inputs=inputs)
    if not isinstance(factor, TableFactor):
        raise LossRefusal(
            f"the cost factor {factor.label!r} is a {type(factor).__name__}, which cannot be weighed instance by instance; "
            "give the cost as tables or as a function of whole blocks, or take rescaling: margin"
        )
    rows = factor.row_instance(variables)
    assert rows is not None
    own = weight.to(factor.tables.dtype)[rows]
    if factor.starts is None:
        shape = (-1, *[1] * factor.arity)
        tables = factor.tables if not factor.shared else factor.tables.expand(own.numel(), *factor.tables.shape)
        return dataclasses.replace(factor, tables=torch.where(tables.isinf(), tables, tables * own.reshape(shape)))
    size = torch.ones_like(factor.starts)
    for count in factor.sizes(variables):
        size = size * count
    starts = size.cumsum(0) - size
    row = torch.repeat_interleave(torch.arange(own.numel(), device=own.device), size)
    entry = factor.starts[row] + torch.arange(row.numel(), device=own.device) - starts[row]
    tables = factor.tables[entry]
    tables = torch.where(tables.isinf(), tables, tables * own[row])
    return dataclasses.replace(factor, tables=tables, starts=starts)


def cost_of(graph: FactorGraph, cost: Sequence[Factor], y: Assignment) -> Tensor:
    """(B,) float64: what an output costs, without a record."""
    alone = FactorGraph(tuple(graph.variables.values()), cost)
    with torch.no_grad():
        return alone.energy({n: y[n] for n in y} | fillers(graph, y))


def largest_cost(graph: FactorGraph, target: Assignment, cost: Sequence[Factor], reach: float) -> Tensor:
    """(B,) the largest cost of any output, of the task's cost or of the default; infinite where it is not found.

    It is not where the task's cost looks at continuous blocks.
    """
    if cost:
        blocks = [v for v in graph.variables.values() if isinstance(v.domain, Discrete)]
        names = {v.name for v in blocks}
        if not all(names.issuperset(f.scope) for f in cost):
            return torch.full((graph.num_instances,), torch.inf, dtype=torch.float64)
        with torch.no_grad():
            return -minimize(FactorGraph(blocks, [f.scaled(-1.0) for f in cost])).energy
    out = torch.zeros(graph.num_instances, dtype=torch.float64)
    for name, block in graph.variables.items():
        known = known_sites(graph, target, name)
        if isinstance(block.domain, Continuous):
            most = torch.full((block.num_sites,), reach**2, dtype=torch.float64)
        else:
            most = (block.state_counts > 1).double()
        out = out.index_add(0, block.instance, torch.where(known, most, 0.0))
    return out


def fillers(graph: FactorGraph, y: Assignment | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Any values for the blocks that an output lacks: costs do not look at these."""
    out: dict[str, Tensor] = {}
    for name, block in graph.variables.items():
        if name not in y:
            domain = block.domain
            out[name] = (
                domain.start(block.num_sites, torch.float64)
                if isinstance(domain, Continuous)
                else torch.zeros(block.num_sites, dtype=torch.long)
            )
    return out

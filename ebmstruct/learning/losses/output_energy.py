"""The energy of what a target knows, with latent sites summed out exactly and as many derivatives as losses need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ebmstruct.graph import Assignment, Discrete, Factor, FactorGraph
from ebmstruct.inference import Ask, Query, Solver, explain, log_partition
from ebmstruct.inference.latent.free_energy import (
    LISTED,
    CopySum,
    TableSum,
    free_energy,
    free_energy_refusal,
    is_linear,
    latent_blocks,
    table_solver,
)
from ebmstruct.inference.smooth_energy import starting_point
from ebmstruct.inference.views.table_view import TableView, table_view
from ebmstruct.learning.losses.independent_states import independent_states, state_tables, summed_states

WIDEST = 512
"""Coordinates of continuous latents that may hang together: their integral takes a dense factor of that size."""


def open_sites(graph: FactorGraph, block: str) -> Tensor:
    """(n,) bool: the sites of a block that the graph's evidence does not clamp."""
    owner, fixed = graph.variables[block], graph.evidence
    everywhere = torch.ones(owner.num_sites, dtype=torch.bool, device=owner.offsets.device)
    if fixed is None or block not in fixed.values:
        return everywhere
    return ~fixed.known[block] if block in fixed.known else ~everywhere


def output_sites(graph: FactorGraph, target: Assignment, block: str) -> Tensor:
    """(n,) bool: the sites that a target knows and the graph's evidence does not clamp."""
    free = open_sites(graph, block)
    if block not in target:
        return torch.zeros_like(free)
    return free & target.known[block] if block in target.known else free


@dataclass(frozen=True, eq=False)
class OutputEnergy:
    """F(y) = -T log of the sum over latent h of exp(-E(y, h) / T); E itself where the target knows all that is open.

    outputs: block name to (n,) bool, the open sites that the target knows, where there are any.  latent: the blocks
    with open sites that it does not know.  allowed: the states it leaves to some of them.
    """

    graph: FactorGraph
    outputs: Mapping[str, Tensor]
    latent: tuple[str, ...]
    allowed: Mapping[str, Tensor]
    temperature: float

    @classmethod
    def of(cls, graph: FactorGraph, target: Assignment, temperature: float = 1.0) -> OutputEnergy:
        """The energy of the sites that ``target`` knows."""
        known = {n: output_sites(graph, target, n) for n in graph.variables}
        outputs = {n: mask for n, mask in known.items() if bool(mask.any())}
        latent = tuple(n for n, mask in known.items() if bool((open_sites(graph, n) & ~mask).any()))
        return cls(graph, outputs, latent, target.allowed, temperature)

    def repeat(self, times: int) -> OutputEnergy:
        """The same over ``times`` copies of every instance, copy after copy."""
        if times == 1:
            return self
        outputs = {n: mask.repeat(times) for n, mask in self.outputs.items()}
        allowed = {n: mask.repeat(times, 1) for n, mask in self.allowed.items()}
        return replace(self, graph=self.graph.repeat(times), outputs=outputs, allowed=allowed)

    def refuse(self, target: Assignment) -> str | None:
        """Why the latent sites cannot be summed out exactly, in one sentence; None where they can."""
        if not self.latent or self._simple:
            return None
        graph = self.conditioned(self.values(target))
        if self._summing(graph) is not None:
            return None
        reason = free_energy_refusal(graph, self.latent, LISTED, WIDEST)
        if reason is None:
            continuous = latent_blocks(graph, self.latent)[1]
            solver = table_solver(graph, self.latent)
            if continuous and not is_linear(graph, continuous):
                reason = f"{list(continuous)} enter more than linear residuals, so that their integral is not exact"
            elif solver is not None and solver.name == "mean_field":
                reason = "their tables are too wide to be summed exactly"
        if reason is None:
            return None
        return f"the sites of {list(self.latent)} that the target does not know cannot be summed out: {reason}"

    def values(self, target: Assignment) -> dict[str, Tensor]:
        """The target's values, with numbers that do no harm at sites that are latent or clamped."""
        start = starting_point(self.graph, None)
        empty = torch.zeros(0, dtype=torch.long)
        out = {n: start.get(n, empty) for n, block in self.graph.variables.items() if not block.num_sites}
        for name, mask in self.outputs.items():
            value = target[name]
            if not bool(mask.all()):
                other = start[name] if name in start else torch.zeros_like(value)
                value = torch.where(mask.reshape(-1, *[1] * (value.dim() - 1)), value, other.to(value.dtype))
            out[name] = value
        return out

    def conditioned(self, values: Mapping[str, Tensor]) -> FactorGraph:
        """The graph with the outputs clamped to ``values``, derivatives by them included."""
        known = {n: mask for n, mask in self.outputs.items() if not bool(mask.all())}
        chosen = {n: values[n] for n in self.outputs}
        return self.graph.condition(Assignment(chosen, known, self.allowed))

    @cached_property
    def _simple(self) -> bool:
        """Whether the latent sites are states that are independent given the outputs, which are continuous blocks whole."""
        whole = all(bool(mask.all()) for mask in self.outputs.values())
        discrete = any(isinstance(self.graph.variables[n].domain, Discrete) for n in self.outputs)
        return whole and not discrete and not self.allowed and independent_states(self.graph, self.latent)

    def _summing(self, graph: FactorGraph) -> Solver | None:
        """What sums a discrete graph, of tables or of segments, with derivatives; None where nothing does."""
        if not all(isinstance(v.domain, Discrete) for v in graph.variables.values()):
            return None
        choice = explain(graph, Query(Ask.LOG_PARTITION))
        found = choice.entries[0].solver if choice.entries else None
        return None if found is None or type(found).log_partition is Solver.log_partition else found

    def __call__(self, values: Mapping[str, Tensor]) -> Tensor:
        """(B,) float64: +inf where nothing is feasible.

        Differentiable in continuous values and in the factors' values, three times if they are. Cost: that of the energy;
        with latent sites that of summing over them.
        """
        if not self.latent:
            if not self.allowed:
                return self.graph.energy(values)
            return self.graph.condition(Assignment({}, {}, self.allowed)).energy(values)
        if self._simple:
            given = {n: v for n, v in values.items() if n not in self.latent}
            return summed_states(self.graph, *state_tables(self.graph, given), self.temperature)
        graph = self.conditioned(values)
        solver = self._summing(graph)
        if solver is not None:
            return -self.temperature * log_partition(graph, solver, temperature=self.temperature)
        assert graph.evidence is not None
        empty = {n: v for n, v in values.items() if not v.shape[0]}
        given = {**empty, **{n: v for n, v in graph.evidence.values.items() if n not in self.latent}}
        found = free_energy(graph, self.latent, self.temperature, given=given, dense=True)
        if isinstance(found, TableSum):
            return _table_sum(found, given)
        return _copy_sum(found, given)


def _table_sum(found: TableSum, given: Mapping[str, Tensor]) -> Tensor:
    tables = found.tables(given)
    # what no table holds stays outside, since the views of tables do not follow derivatives of a constant
    bare = FactorGraph((), tables.factors, evidence=tables.evidence, topology=tables.topology)
    view = table_view(bare)
    if view.num_rows:
        free = -found.temperature * found.solver.log_partition(bare, found.temperature)
    else:
        free = _independent(view, found.temperature)
    return free if tables.constant is None else tables.constant + free


def _independent(view: TableView, temperature: float) -> Tensor:
    """(B,) the free energy of sites that no row joins: a log sum each."""
    if not view.num_sites:
        return view.constant
    counts, starts = torch.from_numpy(view.num_states), torch.from_numpy(view.starts[:-1])
    states = torch.arange(int(counts.max()))
    at = starts[:, None] + torch.minimum(states, counts[:, None] - 1)
    score = (-view.unary[at] / temperature).masked_fill(states >= counts[:, None], -torch.inf)
    each = -temperature * score.logsumexp(1)
    return view.constant.index_add(0, torch.from_numpy(view.instance), each)


def _copy_sum(found: CopySum, given: Mapping[str, Tensor]) -> Tensor:
    from ebmstruct.inference.latent.free_energy import soft_minimum
    from ebmstruct.inference.latent.integrals import LatentIntegral

    if not isinstance(found.integral, LatentIntegral) or not found.integral.parts.count:
        return found(given)
    each = found.integral.followed(found.spread(given), found.modes(given))
    each = each.reshape(found.states.count, -1).masked_fill(~found.states.real, torch.inf)
    return soft_minimum(each, found.temperature)


def copy_refusal(graph: FactorGraph) -> str | None:
    """Why a graph's instances cannot be copied, in one sentence; None where they can."""
    for factor in graph.factors:
        if type(factor).repeat is Factor.repeat:
            return (
                f"it takes copies of the graph, and factor {factor.label!r}, a {type(factor).__name__}, has no repeat"
            )
    return None


def discrete_outputs(energy: OutputEnergy) -> Sequence[str]:
    """The discrete blocks among the outputs."""
    return [n for n in energy.outputs if isinstance(energy.graph.variables[n].domain, Discrete)]


def continuous_outputs(energy: OutputEnergy) -> Sequence[str]:
    """The continuous blocks among the outputs."""
    return [n for n in energy.outputs if n not in set(discrete_outputs(energy))]

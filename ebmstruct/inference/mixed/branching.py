"""Nodes of a search tree over discrete sites, and lower bounds of them from the residuals that are decided."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebmstruct.graph import Assignment, Discrete, FactorGraph, ResidualFactor, Topology
from ebmstruct.inference.mixed.copies import MOST_STEPS, copies_of
from ebmstruct.inference.mixed.moves import legal_states
from ebmstruct.inference.mixed.parts import discrete_blocks, discrete_part
from ebmstruct.inference.refine import refine
from ebmstruct.inference.result import Budget, Query, Result, Status

Array = np.ndarray
ROUNDING = 1e-9
"""By this part of their size bounds are lowered, for what rounding may have added."""


@dataclass(frozen=True, eq=False)
class Sites:
    """The discrete sites of each instance in the order in which they are decided.

    order: for each instance its open sites, numbered one block after the other (N in all).  options: (N, K) legal states
    before the others.  counts: (N,).  names, sizes: the blocks.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    order: tuple[Array, ...]
    options: Array
    counts: Array

    @classmethod
    def of(cls, graph: FactorGraph) -> Sites:
        """The sites of a graph, those of all blocks side by side from the first to the last."""
        names = discrete_blocks(graph)
        blocks = [graph.variables[n] for n in names]
        width = max((max(1, b.discrete.largest) for b in blocks), default=1)
        legal = torch.cat(
            [torch.nn.functional.pad(m, (0, width - m.shape[1])) for m in (legal_states(graph, n) for n in names)]
        )
        options, counts = (~legal).long().sort(dim=1, stable=True).indices.numpy(), legal.sum(1).numpy()
        instance = torch.cat([b.instance for b in blocks]).numpy()
        along = torch.cat(
            [(torch.arange(b.num_sites) - b.offsets[b.instance]) / b.lengths[b.instance].clamp(min=1) for b in blocks]
        ).numpy()
        order = []
        for i in range(graph.num_instances):
            own = np.nonzero((instance == i) & (counts > 1))[0]
            order.append(own[np.argsort(along[own], kind="stable")])
        return cls(names, tuple(b.num_sites for b in blocks), tuple(order), options, counts)

    def parted(self, joined: Array) -> dict[str, Tensor]:
        """Block name to (..., n), from (..., N)."""
        return dict(zip(self.names, torch.from_numpy(joined).split(self.sizes, -1), strict=True))


@dataclass(order=True, frozen=True)
class Node:
    """States of the first ``depth`` sites in an instance's order, and a lower bound of all that begins so."""

    bound: float
    rank: int
    depth: int = dataclasses.field(compare=False)
    states: Array = dataclasses.field(compare=False)


@dataclass(eq=False)
class Tree:
    """The open nodes of one instance: a heap by bound.  cut: the least bound of what was left out."""

    heap: list[Node]
    cut: float = float("inf")
    made: int = 0

    def pop(self, count: int, below: float) -> list[Node]:
        """Up to ``count`` nodes of least bound under ``below``; where there are none others are cut."""
        out: list[Node] = []
        while self.heap and len(out) < count:
            node = heapq.heappop(self.heap)
            if node.bound >= below:
                self.cut = min(self.cut, node.bound)
                self.heap.clear()
                break
            out.append(node)
        return out

    def push(self, bound: float, depth: int, states: Array) -> None:
        """One more node."""
        self.made += 1
        heapq.heappush(self.heap, Node(bound, -depth * (1 << 40) + self.made, depth, states))

    @property
    def least(self) -> float:
        """A lower bound of everything that is open or was left out."""
        return min(self.cut, self.heap[0].bound if self.heap else float("inf"))


def masked(graph: FactorGraph) -> FactorGraph:
    """The residuals of a graph, those over discrete sites multiplied by one more parameter (m, 1); nothing else."""
    factors = [_masked(f) if isinstance(f, ResidualFactor) and _mixed(graph, f) else f for f in _smooth(graph)]
    blocks = list(graph.variables.values())
    topology = graph.topology.derive("masked", lambda: Topology(blocks, factors))
    return FactorGraph((), factors, evidence=graph.evidence, topology=topology)


def _smooth(graph: FactorGraph) -> list[ResidualFactor]:
    names = set(discrete_blocks(graph))
    return [f for f in graph.factors if isinstance(f, ResidualFactor) and not names.issuperset(f.scope)]


def _mixed(graph: FactorGraph, factor: ResidualFactor) -> bool:
    return any(isinstance(v.domain, Discrete) for v in graph.scope(factor))


def _masked(factor: ResidualFactor) -> ResidualFactor:
    function, jacobian = factor.function, factor.jacobian

    def part(*given: Tensor) -> Tensor:
        return given[-1] * function(*given[:-1])

    def slopes(*given: Tensor) -> Sequence[Tensor | None]:
        assert jacobian is not None
        return [None if j is None else given[-1][:, :, None] * j for j in jacobian(*given[:-1])]

    rows = factor.index.shape[1]
    dtype = next((p.dtype for p in factor.parameters if p.is_floating_point()), torch.float64)
    return dataclasses.replace(
        factor,
        function=part,
        jacobian=None if jacobian is None else slopes,
        parameters=(*factor.parameters, torch.ones(rows, 1, dtype=dtype)),
    )


class Bounding:
    """Bounds of many nodes at once, on copies of a graph."""

    def __init__(self, graph: FactorGraph, points: dict[str, Tensor], budget: Budget) -> None:
        self.graph, self.points = graph, points
        self.budget = Budget(budget.deadline, MOST_STEPS, budget.stopped)
        self.sites = Sites.of(graph)

    def bounds(self, states: Array, decided: Array) -> tuple[Array, dict[str, Tensor], Array]:
        """(S, B) bounds of S nodes of each instance, the points (S * n, d) met, and (S, B) whether the solve was done.

        states: (S, N); decided: (S, N) bool. The bound is the least sum of squares of the rows whose sites are all
        decided, and the least discrete energy of any completion: what both leave out is not negative.
        """
        times = states.shape[0]
        copies = copies_of(self.graph, times)
        given = {n: v.flatten() for n, v in self.sites.parted(states).items()}
        known = {n: v.flatten() for n, v in self.sites.parted(decided).items()}
        relaxed = masked(copies)
        masks: dict[str, Any] = {}
        for factor in relaxed.factors:
            assert isinstance(factor, ResidualFactor)
            if _mixed(relaxed, factor):
                places = [known[n][i] for n, i in zip(factor.scope, factor.index, strict=True) if n in known]
                whole = torch.stack(places).all(0)[:, None].to(factor.parameters[-1])
                masks[factor.label] = [(*factor.parameters[:-1], whole)]
        points = {n: v.repeat(times, *[1] * (v.dim() - 1)) for n, v in self.points.items()}
        solved = refine(relaxed.with_values(masks), Assignment({**points, **given}), self.budget)
        smooth = solved.energy.double() - ROUNDING * solved.energy.double().abs()
        smooth = torch.where(solved.status <= int(Status.CONVERGED), smooth, torch.zeros_like(smooth))
        tables = self._least_discrete(copies, given, known)
        shape = (times, self.graph.num_instances)
        real = {n: solved.assignment[n] for n in points}
        total = (smooth + tables).reshape(shape).numpy()
        return total, real, (solved.status <= int(Status.CONVERGED)).reshape(shape).numpy()

    def _least_discrete(self, copies: FactorGraph, given: dict[str, Tensor], known: dict[str, Tensor]) -> Tensor:
        """(S * B,) the least discrete energy of any completion, or a bound of it."""
        part = discrete_part(copies)
        if not part.factors:
            zero = torch.zeros(copies.num_instances, dtype=torch.float64)
            return zero if part.constant is None else zero + part.constant
        found = bounded_tables(part.condition(Assignment(given, known)), Budget(self.budget.deadline))
        bound = found.lower_bound.double()
        return bound - ROUNDING * bound.abs().clamp(min=1.0).nan_to_num(posinf=0.0)


def bounded_tables(tables: FactorGraph, budget: Budget) -> Result:
    """A lower bound of a graph of tables: exact where the engine has one solver for it, else by dual ascent."""
    from ebmstruct.inference.choice import choose
    from ebmstruct.inference.solvers import SOLVERS

    choice = choose(tables, Query(), budget)
    solver = choice.solver if len(choice.entries) == 1 and choice.solver is not None else SOLVERS["dual_ascent"]()
    answer = solver.solve(tables, Query(), budget=budget)
    assert isinstance(answer, Result)
    return answer

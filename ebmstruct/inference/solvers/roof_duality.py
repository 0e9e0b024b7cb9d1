"""Roof duality: partial optimality, a bound and a labelling for binary pairs of any kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.result import Answer, Ask, Budget, Query, Reparametrization, Result, Status
from ebmstruct.inference.solver import Cost, Solver
from ebmstruct.inference.views.table_view import TableView, table_refusal, table_view


@dataclass(frozen=True)
class RoofDuality(Solver):
    """The part of a least assignment that one flow finds, and a bound, for binary pairs that need not be submodular.

    Sites have two open states at most, factors join two sites at most; tables are free, infinite entries included.
    The flow over the doubled graph labels some sites as they are in a least assignment (``stats["labelled"]``, the
    share of open sites of each instance), and its value bounds the energy from below; the bound is that of the linear
    relaxation over pairs. The other sites are filled in by descent from ``init`` and ``starts`` random assignments.
    An instance whose sites are all labelled is solved; so is one whose pairs are submodular after flipping sites.
    With strong frustration (spin glasses without a field) it labels nothing and its bound is weak.
    Cost: a maximum flow over twice the sites and pairs. Boros and Hammer (2002); Kolmogorov and Rother (2007).
    """

    name: ClassVar[str] = "roof_duality"

    starts: int = 4

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        from ebmstruct.inference.kernels.flows.pairs import shape_refusal

        if query.ask is not Ask.MINIMIZE or query.sum_out or query.k > 1:
            return "roof duality answers minimise for one best assignment, without blocks to sum out"
        reason = table_refusal(graph)
        return shape_refusal(table_view(graph)) if reason is None else reason

    def cost(self, graph: FactorGraph, query: Query) -> Cost | None:
        view = table_view(graph)
        return Cost(80.0 * (view.num_sites + view.num_rows), 4)

    def solve(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: Assignment | None = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> Answer:
        from ebmstruct.inference.kernels.flows.pairs import reparametrized_bound
        from ebmstruct.inference.kernels.flows.roof import roof_dual

        view = table_view(graph)
        budget = budget or Budget()
        roof = roof_dual(view, expired=lambda: budget.expired)
        first = None if init is None else view.compress(graph.complete(init))
        states, energy = self._fill(view, roof.states, first, budget, generator)
        bound = reparametrized_bound(view, roof.messages)
        status = torch.full((view.num_instances,), int(Status.CONVERGED if roof.finished else Status.DEADLINE))
        return Result(
            Assignment(view.expand(states)),
            torch.from_numpy(energy),
            torch.from_numpy(bound),
            status,
            solver=self.name,
            witness=Reparametrization("tables", torch.from_numpy(roof.messages.reshape(-1))),
            stats={"labelled": _share(view, roof.states >= 0), "strong": _share(view, roof.strong)},
        )

    def _fill(
        self, view: TableView, known: np.ndarray, init: np.ndarray | None, budget: Budget, generator: Generator | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """States (n,) that agree with those known at first, others by descent; each instance's best; and the energies."""
        from ebmstruct.inference.kernels.search.icm import polish

        source = torch.Generator().manual_seed(0) if generator is None else generator
        unary = view.arrays[0].reshape(-1, 2)
        trial = (unary[:, 1] < unary[:, 0]).astype(np.int64) if init is None else init
        best = np.where(known >= 0, known, trial)
        energy = view.energy(best)
        if (known >= 0).all():
            return best, energy
        for start in range(max(1, self.starts)):
            if start:
                trial = torch.randint(0, 2, (view.num_sites,), generator=source).numpy()
            trial = np.where(known >= 0, known, trial)
            polish(view, trial)
            now = view.energy(trial)
            wins = now < energy
            best = np.where(wins[view.instance], trial, best)
            energy = np.where(wins, now, energy)
            if budget.expired:
                break
        return best, energy


def _share(view: TableView, which: np.ndarray) -> Tensor:
    """(B,) float64: the share of each instance's open sites; 1 where it has none."""
    count = np.bincount(view.instance, minlength=view.num_instances)
    hits = np.bincount(view.instance, which, view.num_instances)
    return torch.from_numpy(np.where(count > 0, hits / np.maximum(count, 1), 1.0))

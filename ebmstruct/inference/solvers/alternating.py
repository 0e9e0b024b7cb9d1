"""Alternating minimisation of mixed graphs, and a search about its fixed points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.latent.starts import random_states, scattered_copies
from ebmstruct.inference.markov import default_generator
from ebmstruct.inference.mixed.alternation import Walkers
from ebmstruct.inference.mixed.moves import moves_of
from ebmstruct.inference.mixed.parts import discrete_blocks, mixed_refusal
from ebmstruct.inference.result import Answer, Budget, Query, Result, Status
from ebmstruct.inference.smooth_energy import open_continuous
from ebmstruct.inference.solver import Solver


@dataclass(frozen=True)
class Alternating(Solver):
    """Low energy of a mixed graph of any size: block coordinate descent from several starts, then a local search.

    In turns the discrete blocks are minimised at fixed points (``tabulate``, and whatever solver the engine takes for
    the tables), and the continuous blocks at fixed states (``refine``), until nothing gets lower. Half of the starts
    begin at scattered points, half at random states. The ``searches`` lowest fixed points are then searched about:
    every change of one discrete site, and of two neighbouring ones, is tried with the points solved again, and the best
    is made, until none lowers the energy; afterwards ``kicks`` times some random sites change and it begins anew. All
    of it runs side by side, and each instance keeps its own best: starts do not depend on the batch.

    max_moves: of an instance; where doubles would make it more, only single changes are tried.
    start_distance: of scattered starts.  max_rounds: of one alternation.  kicked: the sites that a kick changes.
    Cost: a round is a solve of the tables and a continuous solve for each start, or 32 continuous solves for each search;
    a pass over the neighbourhood is a solve for each move. A budget counts rounds. It gives no bound of its own.
    """

    name: ClassVar[str] = "alternating"

    starts: int = 8
    searches: int = 3
    kicks: int = 2
    kicked: int = 3
    max_moves: int = 512
    max_rounds: int = 50
    start_distance: float = 1.0

    def __post_init__(self) -> None:
        for field, least in (("starts", 1), ("searches", 0), ("kicks", 0), ("kicked", 1), ("max_rounds", 1)):
            if getattr(self, field) < least:
                raise GraphError(f"Alternating: {field} must be at least {least}; found {getattr(self, field)}")

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if query.k != 1:
            return f"it finds one assignment; {query.k} were asked"
        return mixed_refusal(graph, query)

    def solve(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: Assignment | None = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> Answer:
        generator = default_generator(generator)
        walkers = Walkers(graph, self._starts(graph, init, generator), budget or Budget())
        walkers.begin(generator)
        walkers.alternate(self.max_rounds, generator)
        if self.searches and not walkers.over():
            walkers = walkers.best(self.searches)
            self._search(graph, walkers, generator)
        best = walkers.best(1)
        if not best.over():
            best.refine(None)
        return self._result(graph, best)

    def _starts(self, graph: FactorGraph, init: Assignment | None, generator: Generator) -> dict[str, Tensor]:
        """Block name to (W, n, ...): points and states; each block has randomness of its own, whatever the others are."""
        seed = int(torch.randint(1 << 40, (), generator=generator))
        discrete = discrete_blocks(graph)
        real = [v.name for v in open_continuous(graph)]
        values: dict[str, Tensor] = {}
        for number, name in enumerate(graph.variables):
            own = Generator().manual_seed(seed + number)
            if name in discrete:
                likely = [init.values] if init is not None and name in init else []
                states = random_states(graph, (name,), likely, self.starts + 1, own)[name]
                values[name] = states[1:]
                if init is not None and name in init and self.starts > 1:
                    values[name][1] = states[0]
            else:
                values[name] = scattered_copies(graph, real, init, self.starts, self.start_distance, own)[name]
        return values

    def _search(self, graph: FactorGraph, walkers: Walkers, generator: Generator) -> None:
        moves = moves_of(graph, self.max_moves)
        walkers.search(moves, self.max_rounds, generator)
        for _ in range(self.kicks):
            draws = torch.rand(walkers.count, self.kicked, 2, dtype=torch.float64, generator=generator)
            if walkers.over():
                return
            other = walkers.kicked(moves, draws)
            other.search(moves, self.max_rounds, generator)
            walkers.take_lower(other)

    def _result(self, graph: FactorGraph, best: Walkers) -> Result:
        energy = best.energy[0]
        status = torch.full(energy.shape, int(best.stopped or Status.CONVERGED), dtype=torch.long)
        status = torch.where(energy.isfinite(), status, status.clamp(min=int(Status.INFEASIBLE)))
        return Result(
            Assignment({n: v[0] for n, v in best.values.items()}),
            energy,
            torch.full_like(energy, -torch.inf),
            status,
            solver=self.name,
            stats={"rounds": best.rounds, "solves": best.solves},
        )

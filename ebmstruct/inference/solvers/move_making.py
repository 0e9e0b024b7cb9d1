"""Move making: expansions and swaps, each the best of exponentially many changes, by a least cut."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Generator, Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.kernels.flows.moves import GraphMoves, GridMoves
from ebmstruct.inference.kernels.search.icm import unary_minima
from ebmstruct.inference.result import Ask, Claim, Query
from ebmstruct.inference.solver import Cost, IterativeMinimizer, Progress
from ebmstruct.inference.views.plain_grid import PlainGrid, plain_grid
from ebmstruct.inference.views.table_view import TableView, table_refusal, table_view

Move = tuple[int, ...]
SMALL = 2048
"""A graph with fewer sites makes all moves of a round in one step."""


@dataclass(frozen=True, eq=False)
class Moving:
    """Where move making stands.

    field: what is moved.  queue: the moves left of this round.  helped: those of this round that lowered an energy.
    full: whether this round tries every move.  rounds: how many have been begun.  done: nothing is left to do.
    """

    field: _Field
    queue: tuple[Move, ...]
    helped: tuple[Move, ...]
    full: bool
    rounds: int
    done: bool
    values: dict[str, Tensor]
    energy: Tensor


@dataclass(frozen=True)
class AlphaExpansion(IterativeMinimizer[Moving]):
    """A labelling that no expansion (or swap) improves, for pairs of sites with many states.

    An expansion lets every site keep its state or take one given state, a swap lets the sites in one of two states
    choose again; the best such change is a least cut. A round makes every move; later rounds make those that helped in
    the round before, and when none did, a last round with all of them must not help either.
    moves: "expansion" or "swap".  max_rounds: how many rounds at most.
    Expansion is meant for metric tables (Potts, truncated linear): twice the least energy is then the worst case for
    Potts. Swap only needs t(k, k) + t(l, l) <= t(k, l) + t(l, k). With other tables part of the best move is found (by
    roof duality; on grids under a raised energy), and where no move helps, changes of single sites are tried, except on
    grids. Nothing makes things worse. There is no bound; dual ascent gives one, and mostly lower energies.
    It starts at ``init``, or at each site's own least energy. Instances of a grid are moved one by one, those of other
    graphs together, and each keeps what helps it.
    Cost: a least cut a move; K moves a round, or K (K - 1) / 2 swaps. Boykov, Veksler and Zabih (2001).
    """

    name: ClassVar[str] = "alpha_expansion"

    moves: Literal["expansion", "swap"] = "expansion"
    max_rounds: int = 100

    def __post_init__(self) -> None:
        if self.moves not in ("expansion", "swap"):
            raise GraphError(f"alpha_expansion was asked for moves {self.moves!r}; legal are 'expansion' and 'swap'")

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if query.ask is not Ask.MINIMIZE or query.sum_out or query.k > 1:
            return "move making answers minimise for one assignment, without blocks to sum out"
        if plain_grid(graph) is not None:
            return None
        reason = table_refusal(graph)
        if reason is not None:
            return reason
        arity = int(table_view(graph).arity.max(initial=0))
        return f"a factor joins {arity} open sites, and a move pays for pairs only" if arity > 2 else None

    def cost(self, graph: FactorGraph, query: Query) -> Cost | None:
        grid = plain_grid(graph)
        if grid is not None:
            states = grid.num_states
            return Cost(150.0 * grid.block.num_sites * self._count(states), states**2)
        view = table_view(graph)
        states = int(view.num_states.max(initial=1))
        return Cost(150.0 * (view.num_sites + view.num_rows) * self._count(states), states**2)

    def _count(self, states: int) -> int:
        return states if self.moves == "expansion" else states * (states - 1) // 2

    def begin(self, graph: FactorGraph, query: Query, init: Assignment | None, generator: Generator | None) -> Moving:
        grid = plain_grid(graph)
        field: _Field | None = None if grid is None else _GridField.of(grid, init)
        if field is None:
            view = table_view(graph)
            states = unary_minima(view) if init is None else view.compress(graph.complete(init))
            field = _GraphField(view, GraphMoves(view, states))
        state = Moving(field, (), (), True, 0, False, field.values(), field.energy())
        return self._next_round(state, True)

    def step(self, graph: FactorGraph, query: Query, state: Moving) -> Moving:
        queue = state.queue if state.field.num_sites < SMALL else state.queue[:1]
        helped = tuple(move for move in queue if state.field.move(move))
        if helped:
            state = replace(state, values=state.field.values(), energy=state.field.energy())
        state = replace(state, queue=state.queue[len(queue) :], helped=state.helped + helped)
        if state.queue:
            return state
        if state.helped or not state.full:
            return self._next_round(state, not state.helped)
        if not state.field.descend():
            return replace(state, done=True)
        return self._next_round(replace(state, values=state.field.values(), energy=state.field.energy()), True)

    def _next_round(self, state: Moving, full: bool) -> Moving:
        states = range(state.field.num_states)
        every = tuple(combinations(states, 2)) if self.moves == "swap" else tuple((k,) for k in states)
        queue = every if full else state.helped
        over = state.rounds >= self.max_rounds or not queue
        return replace(state, queue=queue, helped=(), full=full, rounds=state.rounds + 1, done=over)

    def progress(self, state: Moving) -> Progress:
        bound = torch.where(torch.isposinf(state.energy) & state.field.infeasible(), torch.inf, -torch.inf).double()
        return Progress(state.values, state.energy, bound, torch.full(state.energy.shape, state.done))

    def witness(self, state: Moving) -> Claim | None:
        return Claim("propagation of hard constraints") if bool(state.field.infeasible().any()) else None


class _GraphField:
    """The instances of a table view, moved together."""

    def __init__(self, view: TableView, moves: GraphMoves) -> None:
        self.view, self.moves = view, moves
        self.num_sites, self.num_states = view.num_sites, moves.num_labels

    def move(self, move: Move) -> bool:
        return bool((self.moves.swap(*move) if len(move) == 2 else self.moves.expand(*move)).any())

    def descend(self) -> bool:
        """Whether changes of single sites lowered an energy."""
        return bool(self.moves.descend().any())

    def values(self) -> dict[str, Tensor]:
        return self.view.expand(self.moves.states)

    def energy(self) -> Tensor:
        return torch.from_numpy(self.view.energy(self.moves.states))

    def infeasible(self) -> Tensor:
        return torch.isposinf(self.view.constant.detach())


class _GridField:
    """The instances of a grid, moved one by one."""

    def __init__(self, grid: PlainGrid, parts: list[GridMoves]) -> None:
        self.grid, self.parts = grid, parts
        self.num_sites, self.num_states = grid.block.num_sites, grid.num_states
        self.settled: dict[tuple[int, Move], int] = {}
        self.changes = [0] * len(parts)

    @classmethod
    def of(cls, grid: PlainGrid, init: Assignment | None) -> _GridField | None:
        """The field of a plain grid; None where an energy is no finite number."""
        unary, right, down = arrays = grid.arrays()
        if not all(np.isfinite(x.sum(dtype=np.float64)) for x in arrays):
            return None
        labels = unary.argmin(1) if init is None else init[grid.block.name].cpu().numpy()
        return cls(
            grid,
            [GridMoves(unary[p], right[p], down[p], grid.table, width, labels[p]) for p, width in grid.parts()],
        )

    def move(self, move: Move) -> bool:
        helped = False
        for b, part in enumerate(self.parts):
            if self.settled.get((b, move)) == self.changes[b]:
                continue  # nothing has changed since this move was last made here
            if part.swap(*move) if len(move) == 2 else part.expand(*move):
                self.changes[b] += 1
                helped = True
            self.settled[b, move] = self.changes[b]
        return helped

    def descend(self) -> bool:
        """Nothing: with metric tables a change of one site is an expansion, and those have been tried."""
        return False

    def values(self) -> dict[str, Tensor]:
        labels = [part.labels for part in self.parts] or [np.zeros(0, np.int32)]
        return {self.grid.block.name: torch.from_numpy(np.concatenate(labels).astype(np.int64))}

    def energy(self) -> Tensor:
        return torch.tensor([part.energy for part in self.parts], dtype=torch.float64) + self.grid.constant

    def infeasible(self) -> Tensor:
        return torch.zeros(len(self.parts), dtype=torch.bool)


_Field = _GraphField | _GridField

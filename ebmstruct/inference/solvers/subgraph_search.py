"""Local search that re-optimises whole subgraphs exactly: strong answers fast, for any tables, without a bound."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Generator

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.graph.assignment import Values
from ebmstruct.inference.local_moves import (
    energy_scale,
    lay_out,
    penalty_of,
    seed_state,
    temperature_range,
    visit_nanoseconds,
)
from ebmstruct.inference.result import Ask, Query, Reparametrization
from ebmstruct.inference.solver import IterativeMinimizer, Progress
from ebmstruct.inference.views.table_view import TableView, table_refusal, table_view

if TYPE_CHECKING:
    from ebmstruct.inference.kernels.search.subgraph_growth_numba import Moves, Work
    from ebmstruct.inference.kernels.search.sweeps_numba import Problem

RANGES = ((5.0, 9.0, 4.0, 8.0), (7.0, 11.0, 6.0, 10.0), (9.0, 13.0, 6.0, 12.0))
"""What a round may draw its moves from: least and greatest log2 of the largest table and of the number of sites."""


REST = 12
"""Rounds without gain after which a lineage gives way, plus one for each lineage before it."""


@dataclass(frozen=True, eq=False)
class Ground:
    """What does not change during a search, save the penalty; ``work`` is scratch, so a search is for one thread.

    hot, cold: temperatures between which starts are cooled.
    """

    view: TableView
    problem: Problem
    work: Work
    energy: np.ndarray
    penalty: float
    hard: bool
    hot: float
    cold: float


@dataclass(frozen=True, eq=False)
class Round:
    """One perturbation of the best labelling and the descent from it.

    region: the sites that it is about.  heat: the temperature of its perturbation.  sweeps: of single sites; 0 for
    noisy subgraph moves.  done: visits or nanoseconds spent perturbing, out of ``total``.
    """

    region: np.ndarray
    moves: Moves
    heat: float
    sweeps: int
    total: float
    done: float = 0.0
    idle: int = -1


@dataclass(frozen=True, eq=False)
class Search:
    """Where a search stands. current: the labelling in work.  best: the best one under penalties.

    found, found_energy: the best labelling by true energy, (n,) and (B,); infinite where nothing feasible is known.
    rounds; stalled: rounds since ``found`` became better; resting: rounds since ``best`` did, in this lineage.
    A lineage that rests gives way to one from a fresh start, and that one to one from ``found``.
    """

    ground: Ground
    current: np.ndarray
    best: np.ndarray
    found: np.ndarray
    found_energy: np.ndarray
    random: np.ndarray
    round: Round
    rounds: int
    stalled: int = 0
    resting: int = 0
    lineage: int = 0


@dataclass(frozen=True)
class SubgraphSearch(IterativeMinimizer[Search]):
    """Large-neighbourhood search: grow connected sets of sites whose induced subgraph is narrow, and minimise over
    each exactly by elimination, the other sites fixed; thousands of such moves a second.

    Rounds perturb the best labelling (heat-bath sweeps, or subgraph moves with Gumbel noise, sometimes from scratch),
    descend again, and keep every connected component of changed sites that lowers the energy.
    Infinite entries count as a finite penalty, raised while nothing feasible is found, so a search may start
    infeasible. There is no lower bound, and no proof even where the answer is optimal.

    log2_table: binary logarithm of the largest table that a move may make.
    patience: rounds over all sites in a row without a lower energy after which it stops; large, where a deadline ends
    the search.  region: in larger graphs a round is about so many sites or fewer.
    Cost: about 1 microsecond a site and 3 nanoseconds a table entry of each move; memory a few hundred bytes a site.
    Source: subgraph moves after Hamze and de Freitas (2004) and Selby (2014); components after Houdayer (2001).
    """

    name: ClassVar[str] = "subgraph_search"

    log2_table: float = 13.0
    patience: int = 40
    region: int = 2000
    step_ms: float = 8.0

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if query.ask is not Ask.MINIMIZE:
            return f"it minimises only, and {query.ask} is asked"
        if query.sum_out or query.k > 1:
            return "it finds one assignment over all variables, not several, and it sums none out"
        if not 4.0 <= self.log2_table <= 24.0 or min(self.patience, self.region) < 1:
            return "log2_table must lie between 4 and 24, and patience and region be at least 1"
        return table_refusal(graph)

    def begin(self, graph: FactorGraph, query: Query, init: Assignment | None, generator: Generator | None) -> Search:
        from ebmstruct.inference.kernels.search.sweeps_numba import settle

        view = table_view(graph)
        random = seed_state(generator)[0]
        start = _lowest_states(view) if init is None else view.compress(graph.complete(init))
        found = start.copy()
        ground = _ground(view, self._limit(view))
        settle(ground.problem, start, ground.energy, 20)
        hot, cold = temperature_range(view, ground.problem, start, ground.penalty)
        ground = replace(ground, hot=hot, cold=cold)
        first = self._round(ground, random, 0)
        state = Search(ground, start, start, found, view.energy(found), random, first, 0)
        state = _record(state, start)
        if init is None and view.num_sites:  # a cooled start is a better one than a settled one
            first = replace(first, heat=2.0 * ground.hot, sweeps=32, total=32.0 * view.num_sites)
            first = replace(first, region=np.arange(view.num_sites))
            return replace(state, round=first)
        return replace(state, round=replace(first, total=0.0, region=np.arange(view.num_sites)))

    def step(self, graph: FactorGraph, query: Query, state: Search) -> Search:
        """About ``step_ms`` of perturbing or of descent; a round's end is folded into its last step."""
        if state.ground.view.num_sites == 0:
            return state
        state = replace(state, current=state.current.copy(), random=state.random.copy())
        if state.round.done < state.round.total:
            return self._perturb(state)
        return self._descend(state)

    def progress(self, state: Search) -> Progress:
        view = state.ground.view
        infeasible = torch.from_numpy(np.isposinf(view.constant.detach().numpy()))
        energy = torch.from_numpy(state.found_energy)
        done = infeasible | (state.stalled >= self.patience * self._regions(view))
        if view.num_sites == 0:
            done = torch.ones_like(done)
        bound = torch.where(infeasible, torch.inf, -torch.inf).double()
        return Progress(view.expand(state.found), energy, bound, done)

    def witness(self, state: Search) -> Reparametrization | None:
        """Messages of zero, where the tables alone show an instance infeasible; nothing else is proven here."""
        view = state.ground.view
        if not bool(torch.isposinf(view.constant).any()):
            return None
        return Reparametrization("tables", torch.zeros(int(view.message_ptr[-1]), dtype=torch.float64))

    def adopt(self, graph: FactorGraph, state: Search, values: Values) -> Search:
        """The search with a labelling found elsewhere: each connected part of it that is better is taken over.

        values: of every block, as in ``FactorGraph.energy``. A worse labelling changes nothing.
        """
        from ebmstruct.inference.kernels.search.subgraph_search_numba import crossover

        view = state.ground.view
        if view.num_sites == 0:
            return state
        other = view.compress(graph.complete(values))
        state = _record(state, other)
        best = state.best.copy()
        gain, _ = crossover(state.ground.problem, state.ground.work, best, other)
        if gain <= 0.0:
            return state
        return _record(replace(state, best=best, stalled=0, resting=0), best)

    def _regions(self, view: TableView) -> int:
        """How many rounds it takes to be about every site once."""
        return max(1, -(-view.num_sites // max(1, self.region)))

    def _limit(self, view: TableView) -> int:
        return max(1 << int(self.log2_table), 2)

    def _perturb(self, state: Search) -> Search:
        from ebmstruct.inference.kernels.search.subgraph_search_numba import descend
        from ebmstruct.inference.kernels.search.sweeps_numba import anneal

        ground, now = state.ground, state.round
        if now.sweeps:
            each = visit_nanoseconds(ground.view)
            visits = int(min(now.total - now.done, max(1000.0, 1e6 * self.step_ms / each)))
            cold = min(ground.cold, now.heat / 3.0)
            temperatures = np.geomspace(now.heat, cold, now.sweeps)
            x, begin = state.current, int(now.done)
            anneal(ground.problem, x, now.region, state.random, temperatures, begin, visits, ground.energy)
            return replace(state, round=replace(now, done=now.done + visits))
        budget = min(now.total - now.done, 1e6 * self.step_ms)
        noisy = now.moves._replace(rest=1e9, noise=now.heat)
        x = state.current
        descend(ground.problem, ground.work, x, x, now.region, noisy, state.random, budget, -1)
        return replace(state, round=replace(now, done=now.done + budget))

    def _descend(self, state: Search) -> Search:
        from ebmstruct.inference.kernels.search.subgraph_search_numba import descend

        ground, now, x = state.ground, state.round, state.current
        budget = 1e6 * self.step_ms
        _, idle = descend(ground.problem, ground.work, x, x, now.region, now.moves, state.random, budget, now.idle)
        if idle >= 0:
            state = replace(state, round=replace(now, idle=idle))
            return _record(state, x) if state.rounds == 0 else state
        return self._close(state)

    def _close(self, state: Search) -> Search:
        """End a round: mix its labelling with the best one, and draw the next round."""
        from ebmstruct.inference.kernels.search.subgraph_growth_numba import FUSE
        from ebmstruct.inference.kernels.search.subgraph_search_numba import crossover, descend

        ground, x = state.ground, state.current
        fuse = state.round.moves._replace(kind=FUSE, low=10.0, high=12.0, fewest=6.0, largest=12.0, rest=1.0)
        everywhere = np.arange(x.size)
        descend(ground.problem, ground.work, x, state.best, everywhere, fuse, state.random, 2e6, -1)
        crossover(ground.problem, ground.work, x, state.best)
        before = state.found_energy
        gain, _ = crossover(ground.problem, ground.work, state.best.copy(), x)
        state = _record(replace(state, best=x), x)
        state = replace(
            state,
            rounds=state.rounds + 1,
            stalled=0 if _fell(before, state.found_energy) else state.stalled + 1,
            resting=0 if gain > 1e-9 else state.resting + 1,
        )
        return self._open(self._raise_penalty(state))

    def _open(self, state: Search) -> Search:
        """Draw the next round, in this lineage or, where it rests, in a new one."""
        from ebmstruct.inference.kernels.search.subgraph_search_numba import crossover

        ground = state.ground
        if state.resting < (REST + state.lineage) * self._regions(ground.view):
            return replace(state, current=state.best.copy(), round=self._round(ground, state.random, state.rounds))
        state = replace(state, resting=0, lineage=state.lineage + 1)
        following = self._round(ground, state.random, state.rounds)
        if state.lineage % 2:
            draw = np.random.default_rng([int(state.random[0]) & 0xFFFFFFFF, state.rounds, 2])
            start = draw.integers(0, ground.view.num_states)
            everywhere = np.arange(start.size)
            cool = replace(following, region=everywhere, heat=2.0 * ground.hot, sweeps=32, total=32.0 * start.size)
            return replace(state, current=start, best=start, round=cool)
        best = state.found.copy()
        crossover(ground.problem, ground.work, best, state.best)
        return replace(state, current=best.copy(), best=best, round=following)

    def _raise_penalty(self, state: Search) -> Search:
        """A dearer penalty where the best labelling under penalties is infeasible, every third round."""
        ground = state.ground
        if not ground.hard or state.rounds % 3:
            return state
        broken = np.isposinf(ground.view.energy(state.best)) & np.isfinite(ground.view.constant.detach().numpy())
        if not broken.any() or ground.penalty > 1e6 * energy_scale(ground.view):
            return state
        penalty = 2.0 * ground.penalty
        return replace(state, ground=replace(ground, penalty=penalty, problem=lay_out(ground.view, penalty)))

    def _round(self, ground: Ground, random: np.ndarray, rounds: int) -> Round:
        """Draw what the next round does."""
        from ebmstruct.inference.kernels.search.subgraph_growth_numba import FULL, SOME, Moves
        from ebmstruct.inference.kernels.search.subgraph_search_numba import balls

        n = ground.view.num_sites
        draw = np.random.default_rng([int(random[0]) & 0xFFFFFFFF, rounds, 1])
        low, high, fewest, largest = RANGES[int(draw.choice(3, p=(0.4, 0.54, 0.06)))]
        top = int(ground.view.num_states.max(initial=1))
        most = int(draw.choice([4, 16, 16, 64])) if top > 16 else top
        if most == 64:
            low, high = self.log2_table - 1.0, self.log2_table
        high = min(high, self.log2_table)
        moves = Moves(SOME if top > most else FULL, most, min(low, high), high, fewest, largest, 1.0, 0.0)
        region = np.arange(n)
        wanted = n if rounds == 0 else min(n, int(self.region * 2.0 ** -draw.integers(0, 3)))
        if n > self.region and wanted < n:
            region = region.copy()
            region = region[: balls(ground.problem, ground.work, random, wanted, region)]
        if draw.random() < 0.2:
            sweeps = int(2.0 ** draw.uniform(3, 7))
            return Round(region, moves, ground.hot * 2.0 ** draw.uniform(-4, 0), sweeps, float(sweeps * region.size))
        return Round(region, moves, ground.hot * 2.0 ** draw.uniform(-5, -1.5), 0, 3000.0 * region.size)


def _lowest_states(view: TableView) -> np.ndarray:
    """(n,) the state of least unary energy of each site."""
    unary, n = view.arrays[0], view.num_sites
    owner = np.repeat(np.arange(n), view.num_states)
    order = np.lexsort((unary, owner))
    return order[view.starts[:-1]] - view.starts[:-1] if n else np.zeros(0, np.int64)


def _ground(view: TableView, limit: int) -> Ground:
    from ebmstruct.inference.kernels.search.subgraph_growth_numba import make_work

    penalty = penalty_of(view)
    most = int(view.num_states.max(initial=1))
    work = make_work(view.num_sites, int(view.starts[-1]), most, limit, 1 << 19)
    hard = bool(np.isposinf(view.arrays[1]).any())
    return Ground(view, lay_out(view, penalty), work, np.zeros(most), penalty, hard, 1.0, 0.01)


def _fell(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether some energy fell by more than rounding."""
    finite = np.isfinite(after)
    return bool((after < before - 1e-12 * np.where(finite, np.abs(after), 0.0)).any())


def _record(state: Search, labelling: np.ndarray) -> Search:
    """Keep a labelling where its true energy is the lowest so far, instance by instance."""
    view = state.ground.view
    energy = view.energy(labelling)
    wins = energy < state.found_energy
    if not wins.any():
        return state
    found = np.where(wins[view.instance], labelling, state.found)
    return replace(state, found=found, found_energy=np.where(wins, energy, state.found_energy))

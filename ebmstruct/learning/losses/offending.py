"""The most offending incorrect answer: the output of least energy among those that differ from the target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, Continuous, Discrete, FactorGraph
from ebmstruct.inference import Query, Solver, explain, minimize
from ebmstruct.learning.losses.latent_sites import completed, known_sites, taking
from ebmstruct.learning.losses.outside_ball import distances, least_outside

Search = Literal["exact", "neighbours"]
SEARCHES = ("exact", "neighbours")
MOST_SITES = 1 << 18
"""Sites of the copies of a graph that are minimised side by side."""
MOST_OPERATIONS = 4e8
"""The second best output is listed where that is expected to take no more, about a second; else sites are forbidden."""


@dataclass(frozen=True, eq=False)
class Offending:
    """An incorrect output for each instance that has one.

    outputs: values of every block, latent ones included.  exists: (B,) bool; where it is False every output is correct.
    """

    outputs: Assignment
    exists: Tensor

    def energy(self, graph: FactorGraph) -> Tensor:
        """(B,) the energy of the incorrect output, differentiable; infinite where there is none."""
        return torch.where(self.exists, graph.energy(self.outputs), torch.inf)


@dataclass(frozen=True, eq=False)
class OffendingSearch:
    """The search for the most offending incorrect answer (LeCun et al. 2006, definitions 1 and 2).

    An output is incorrect where a discrete site that the target knows has another state, or where its continuous sites
    lie ``radius`` or further from the target (``Continuous.local``, the length of the step of all known sites of an
    instance). The least energy of all decides where its output is incorrect. For the other instances:

    - discrete outputs, search "exact": the second best, where everything is known and a solver lists the best quickly; else
      for each site in turn the least energy of outputs that differ from the target there (a graph of so many copies is
      minimised, the target's state forbidden in one site of each), of which the least is taken: as exact as the solver.
    - search "neighbours": the best output that differs from the target in one site, latent sites first held at the target's
      completion and then minimised again: no lower than the true one. For graphs too large to be minimised so often.
    - continuous outputs: descents outside the ball (``least_outside``) from ``starts`` directions; local minima.

    Unknown sites are minimised over.
    """

    graph: FactorGraph
    target: Assignment
    solver: Solver | None
    generator: Generator
    radius: float
    search: Search
    starts: int

    def run(self) -> Offending:
        """The incorrect output of every instance."""
        with torch.no_grad():
            found = dict(minimize(self.graph, self.solver).assignment.items())
            exists = self.incorrect(found)
            if bool(exists.all()):
                return Offending(Assignment(found), exists)
            energy = torch.where(exists, self.graph.energy(found), torch.inf)
            settled = exists
            for other, other_energy in self._candidates(found):
                wins = ~settled & (other_energy < energy)
                found = self._chosen(wins, other, found)
                energy, exists = torch.where(wins, other_energy, energy), exists | wins
            return Offending(Assignment(found), exists)

    def incorrect(self, values: Mapping[str, Tensor]) -> Tensor:
        """(B,) bool: the instances whose output is not the target's."""
        out = torch.zeros(self.graph.num_instances, dtype=torch.bool)
        for name in self.discrete:
            wrong = (values[name] != self.target[name]) & known_sites(self.graph, self.target, name)
            out = out.index_fill(0, self.graph.variables[name].instance[wrong], True)
        return out | (distances(self.graph, self.target, values) >= self.radius * (1 - 1e-6))

    @property
    def discrete(self) -> list[str]:
        """The discrete blocks that the target speaks of."""
        return [n for n, v in self.graph.variables.items() if n in self.target and isinstance(v.domain, Discrete)]

    @property
    def continuous(self) -> list[str]:
        """The continuous blocks that the target speaks of."""
        return [n for n, v in self.graph.variables.items() if n in self.target and isinstance(v.domain, Continuous)]

    def _candidates(self, least: dict[str, Tensor]) -> list[tuple[Mapping[str, Tensor], Tensor]]:
        out: list[tuple[Mapping[str, Tensor], Tensor]] = []
        if self.continuous:
            out += least_outside(self.graph, self.target, least, self.radius, self.starts, self.generator)
        if not self.discrete:
            return out
        if self.search == "neighbours":
            return [*out, self._neighbour()]
        second = None if self.continuous or not self.target.complete(self.graph.topology.names) else self._second()
        return [*out, second if second is not None else self._forbidden()]

    def _second(self) -> tuple[Mapping[str, Tensor], Tensor] | None:
        """The second best output; None where no solver lists it quickly."""
        query = Query(k=2)
        solver = taking(self.solver, self.graph, query)
        if solver is None and self.solver is not None:
            return None
        choice = explain(self.graph, query, solvers=None if solver is None else [solver])
        if not choice.entries or (choice.cost is not None and choice.cost.operations > MOST_OPERATIONS):
            return None
        several = minimize(self.graph, choice.solver, k=2)
        if several.alternative_energies is None:
            return None
        first, second = several.alternatives
        energies = several.alternative_energies
        best_wrong = self.incorrect(dict(first.items()))
        values = self._chosen(best_wrong, dict(first.items()), dict(second.items()))
        return values, torch.where(best_wrong, energies[0], energies[1])

    def _forbidden(self) -> tuple[Mapping[str, Tensor], Tensor]:
        """The best of the least energies with the target's state forbidden at one site after the other."""
        graph, found, energy = self.graph, None, None
        places = self._places()
        at_once = max(1, MOST_SITES // max(1, sum(v.num_sites for v in graph.variables.values())))
        for begin in range(0, len(places), at_once):
            some = places[begin : begin + at_once]
            values, energies = self._without(some)
            for copy in range(len(some)):
                own = {
                    n: v[copy * graph.variables[n].num_sites : (copy + 1) * graph.variables[n].num_sites]
                    for n, v in values.items()
                }
                if found is None or energy is None:
                    found, energy = own, energies[copy]
                    continue
                wins = energies[copy] < energy
                found, energy = self._chosen(wins, own, found), torch.where(wins, energies[copy], energy)
        if found is None or energy is None:
            return self.target.values, torch.full((graph.num_instances,), torch.inf, dtype=torch.float64)
        return found, energy

    def _places(self) -> list[tuple[str, int]]:
        """The blocks with the positions in an instance at which the state of the target is forbidden."""
        out = []
        for name in self.discrete:
            block = self.graph.variables[name]
            known = known_sites(self.graph, self.target, name)
            position = torch.arange(block.num_sites) - block.offsets[block.instance]
            out += [(name, p) for p in position[known].unique().tolist()]
        return out

    def _without(self, places: list[tuple[str, int]]) -> tuple[Mapping[str, Tensor], Tensor]:
        """The least energies (copies, B) of one copy a place, and their values; infinite where the place is missing."""
        graph, count = self.graph, self.graph.num_instances
        copies = graph.repeat(len(places))
        allowed, there = {}, torch.zeros(len(places), count, dtype=torch.bool)
        for name in {n for n, _ in places}:
            block = graph.variables[name]
            mask = torch.ones(len(places), block.num_sites, block.discrete.largest, dtype=torch.bool)
            mask &= torch.arange(block.discrete.largest) < block.state_counts[:, None]
            known = known_sites(graph, self.target, name)
            for copy, (own, place) in enumerate(places):
                if own != name:
                    continue
                here = (block.lengths > place).nonzero()[:, 0]
                sites = block.offsets[here] + place
                usable = known[sites] & (block.state_counts[sites] > 1)
                here, sites = here[usable], sites[usable]
                mask[copy, sites, self.target[name][sites]] = False
                there[copy, here] = True
            allowed[name] = mask.flatten(0, 1)
        left = copies.condition(Assignment({}, allowed=allowed))
        found = minimize(left, taking(self.solver, left, Query()))
        energies = found.energy.reshape(len(places), count)
        return dict(found.assignment.items()), torch.where(there & ~energies.isnan(), energies, torch.inf)

    def _neighbour(self) -> tuple[Mapping[str, Tensor], Tensor]:
        """The best output that differs from the target in one site."""
        graph = self.graph
        _, completion = completed(graph, self.target, self.solver)
        values = dict(completion.items())
        best = torch.full((graph.num_instances,), torch.inf, dtype=torch.float64)
        found = dict(values)
        own = graph.energy(values)
        for name in self.discrete:
            block, at = graph.variables[name], values[name]
            change = graph.conditionals(name, values)
            change = change - change.gather(1, at[:, None])
            change = change.scatter(1, at[:, None], torch.inf)
            change = torch.where(change.isnan(), torch.inf, change)
            change = change.masked_fill(~known_sites(graph, self.target, name)[:, None], torch.inf)
            least, state = change.min(1)
            lowest = torch.full_like(best, torch.inf).scatter_reduce(0, block.instance, least, "amin")
            pick = (least == lowest[block.instance]).nonzero()[:, 0].flip(0)
            site = torch.full((graph.num_instances,), -1).scatter(0, block.instance[pick], pick)
            wins = own + lowest < best
            moved = dict(values)
            here = site[wins]
            moved[name] = at.index_put((here,), state[here])
            found = self._chosen(wins, moved, found)
            best = torch.where(wins, own + lowest, best)
        outputs = Assignment({n: found[n] for n in self.target}, self.target.known)
        energy, completion = completed(graph, outputs, self.solver)
        return dict(completion.items()), torch.where(best.isfinite(), energy, torch.inf)

    def _chosen(self, wins: Tensor, new: Mapping[str, Tensor], old: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """In each instance the new values where ``wins``, else the old ones."""
        out = {}
        for name, value in old.items():
            pick = wins[self.graph.variables[name].instance].reshape(-1, *[1] * (value.dim() - 1))
            out[name] = torch.where(pick, new[name].to(value.dtype), value)
        return out

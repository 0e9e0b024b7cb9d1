"""Best-first search over the discrete sites of a mixed graph, for every instance of a batch at once."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ebmstruct.graph import Assignment, Continuous, FactorGraph
from ebmstruct.inference.mixed.alternation import Alternations
from ebmstruct.inference.mixed.branching import Bounding, Node, Tree
from ebmstruct.inference.mixed.copies import copies_at_once
from ebmstruct.inference.pacing import punctual
from ebmstruct.inference.result import Budget, Claim, Result, Status

Array = np.ndarray
CLOSE = 1e-7
"""Nodes that come below the best by less than this part of it are cut: the engine proves to a gap of 1e-6."""


class TreeSearch:
    """One search in the making. energy: (B,) of the best; values: block name to (n, ...); trees: of each instance."""

    def __init__(self, graph: FactorGraph, best: Alternations, budget: Budget) -> None:
        self.graph, self.budget = graph, budget
        self.values = {n: v[0].clone() for n, v in best.values.items()}
        self.energy = best.energy[0].numpy().copy()
        points = {n: v for n, v in self.values.items() if isinstance(graph.variables[n].domain, Continuous)}
        self.bounding = Bounding(graph, points, budget)
        self.sites = self.bounding.sites
        start = np.concatenate([np.zeros(0, np.int64), *(self.values[n].numpy() for n in self.sites.names)])
        self.trees = [Tree([]) for _ in range(graph.num_instances)]
        for tree in self.trees:
            tree.push(-np.inf, 0, start)
        self.pace = punctual(budget, 0.1)
        self.rounds = self.solves = 0
        self.stopped: Status | None = None

    def limits(self) -> Array:
        """(B,) what a node must come below to be of use."""
        finite = np.where(np.isfinite(self.energy), self.energy, 0.0)
        return self.energy - np.where(np.isfinite(self.energy), CLOSE * np.maximum(1.0, np.abs(finite)), 0.0)

    def run(self, at_once: int, max_nodes: int) -> None:
        """Take nodes apart until none is of use, or the budget ends."""
        together = max(1, min(at_once, copies_at_once(self.graph) // self.sites.options.shape[1]))
        while True:
            if self.pace.expired:
                self.stopped = Status.DEADLINE
            elif self.budget.max_steps is not None and self.rounds >= self.budget.max_steps:
                self.stopped = Status.MAX_STEPS
            if self.stopped is not None:
                return
            taken = [
                tree.pop(together, limit) if tree.made <= max_nodes else []
                for tree, limit in zip(self.trees, self.limits(), strict=True)
            ]
            if not any(taken):
                return
            self.rounds += 1
            self._expand(taken)

    def _expand(self, taken: list[list[Node]]) -> None:
        """The children of some nodes of each instance: bounded, and kept, or taken for the best where all is decided."""
        children = [self._children(i, nodes) for i, nodes in enumerate(taken)]
        most = max(len(own) for own in children)
        times = 1 << (most - 1).bit_length()  # few sizes, so that layouts of copies are used again
        base = np.concatenate([self.values[n].numpy() for n in self.sites.names])
        states = np.tile(base, (times, 1))
        decided = np.ones(states.shape, bool)
        for i, own in enumerate(children):
            for row, (_, depth, new) in enumerate(own):
                mine = self.sites.order[i]
                states[row, mine] = new[mine]
                decided[row, mine[depth:]] = False
        bounds, points, done = self.bounding.bounds(states, decided)
        self.solves += sum(map(len, children))
        for i, own in enumerate(children):
            for row, (above, depth, new) in enumerate(own):
                if depth == self.sites.order[i].size:
                    self._finished(i, row, new, points, bounds[row, i] if done[row, i] else above)
                elif not np.isposinf(bounds[row, i]):
                    bound = max(above, bounds[row, i]) if not np.isnan(bounds[row, i]) else above
                    self.trees[i].push(float(bound), depth, new)

    def _children(self, instance: int, nodes: list[Node]) -> list[tuple[float, int, Array]]:
        out = []
        order = self.sites.order[instance]
        for node in nodes:
            if node.depth == order.size:
                out.append((node.bound, node.depth, node.states))
                continue
            site = order[node.depth]
            for state in self.sites.options[site, : self.sites.counts[site]]:
                new = node.states.copy()
                new[site] = state
                out.append((node.bound, node.depth + 1, new))
        return out

    def _finished(self, instance: int, row: int, states: Array, points: dict[str, Tensor], bound: float) -> None:
        """Everything is decided: the bound is the energy, up to rounding."""
        self.trees[instance].cut = min(self.trees[instance].cut, bound)
        if not bound < self.energy[instance]:
            return
        self.energy[instance] = bound
        parts = self.sites.parted(states)
        for name, value in self.values.items():
            block = self.graph.variables[name]
            own = slice(int(block.offsets[instance]), int(block.offsets[instance + 1]))
            if name in parts:
                value[own] = parts[name][own]
            else:
                value[own] = points[name].reshape(-1, block.num_sites, *value.shape[1:])[row, own]

    def result(self) -> Result:
        """The best of each instance, with the least bound of what is open or was cut."""
        bound = torch.tensor([tree.least for tree in self.trees], dtype=torch.float64)
        energy = torch.from_numpy(self.energy)
        bound = torch.where(energy.isfinite(), torch.minimum(bound, energy), bound)
        opened = torch.tensor([bool(tree.heap) for tree in self.trees])
        status = torch.where(opened, int(self.stopped or Status.MAX_STEPS), int(Status.CONVERGED))
        status = torch.where(torch.isposinf(energy) & ~opened, int(Status.INFEASIBLE), status)
        return Result(
            Assignment(self.values),
            energy,
            bound,
            status,
            witness=Claim("branch and bound"),
            stats={"rounds": self.rounds, "solves": self.solves, "nodes": [tree.made for tree in self.trees]},
        )

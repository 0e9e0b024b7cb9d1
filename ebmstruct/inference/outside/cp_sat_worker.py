"""Run as a program: hand one problem to CP-SAT, and print its solutions and bounds, a JSON object a line."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np


class CostModel:
    """A constraint model of an ``IntegerProblem``: a Boolean a state, and Booleans for what several sites choose."""

    def __init__(self, given: Any, linked: bool) -> None:
        from ortools.sat.python import cp_model

        self.model = cp_model.CpModel()
        self.linked = linked
        self.first: list[int] | None = given["first"].tolist() if given["has_first"] else None
        self.unary = [np.zeros(k, dtype=np.int64) for k in given["num_states"].tolist()]
        self.literals: list[list[Any]] = []
        self.terms: list[Any] = []
        self.weights: list[int] = []
        self.constant = 0
        for count in given["num_states"].tolist():
            if count == 2:
                one = self.model.new_bool_var("")
                self.hint(one, [len(self.literals)], [1])
                self.literals.append([~one, one])
            else:
                row = [self.model.new_bool_var("") for _ in range(count)]
                self.model.add_exactly_one(row)
                for k, literal in enumerate(row):
                    self.hint(literal, [len(self.literals)], [k])
                self.literals.append(row)
        for f in range(given["scope_ptr"].size - 1):
            sites = given["scope"][given["scope_ptr"][f] : given["scope_ptr"][f + 1]].tolist()
            table = given["costs"][given["cost_ptr"][f] : given["cost_ptr"][f + 1]]
            self.add(sites, table.reshape([len(self.literals[s]) for s in sites]))
        for row, costs in zip(self.literals, self.unary, strict=True):
            self.constant += int(costs.min())
            for literal, cost in zip(row, (costs - costs.min()).tolist(), strict=True):
                self.charge(literal, cost)
        self.model.minimize(cp_model.LinearExpr.weighted_sum(self.terms, self.weights))

    def charge(self, literal: Any, cost: int) -> None:
        """The objective grows by ``cost`` where the literal holds."""
        if cost:
            self.terms.append(literal)
            self.weights.append(cost)

    def add(self, sites: list[int], table: np.ndarray) -> None:
        """One function: what single sites can carry goes to them, the rest needs Booleans."""
        allowed = table >= 0
        table = np.where(allowed, table, 0)
        if len(sites) == 1:
            for literal, fine in zip(self.literals[sites[0]], allowed.tolist(), strict=True):
                if not fine:
                    self.model.add_bool_or([~literal])
            self.unary[sites[0]] += table
            return
        if table.size == 4 and len(sites) == 2 and allowed.all():
            return self.product(sites, table)
        for axis, site in enumerate(sites):
            others = tuple(a for a in range(table.ndim) if a != axis)
            least = np.where(allowed, table, np.iinfo(np.int64).max).min(others)
            least[~allowed.any(others)] = 0
            self.unary[site] += least
            table = table - least.reshape([-1 if a == axis else 1 for a in range(table.ndim)])
        if self.linked and table.any():
            self.link(sites, table, allowed)
        else:
            self.imply(sites, table, allowed)

    def product(self, sites: list[int], table: np.ndarray) -> None:
        """Two sites of two states: constants, single terms, and one product."""
        (a, b), (c, d) = table.tolist()
        self.unary[sites[0]] += np.array([a, c])
        self.unary[sites[1]] += np.array([0, b - a])
        weight = d - c - b + a
        if weight:
            x, y = (self.literals[s][1] for s in sites)
            both = self.model.new_bool_var("")
            if weight > 0:
                self.model.add_bool_or([~x, ~y, both])
            else:
                self.model.add_implication(both, x)
                self.model.add_implication(both, y)
            self.charge(both, weight)
            self.hint(both, sites, [1, 1])

    def imply(self, sites: list[int], table: np.ndarray, allowed: np.ndarray) -> None:
        """A clause for each forbidden entry and each one that costs."""
        for entry in np.argwhere(~allowed | (table > 0)).tolist():
            clause = [~self.literals[s][k] for s, k in zip(sites, entry, strict=True)]
            if allowed[tuple(entry)]:
                cost = self.model.new_bool_var("")
                clause.append(cost)
                self.charge(cost, int(table[tuple(entry)]))
                self.hint(cost, sites, entry)
            self.model.add_bool_or(clause)

    def link(self, sites: list[int], table: np.ndarray, allowed: np.ndarray) -> None:
        """A Boolean for each allowed entry, which agree with the sites' own: the local polytope with whole numbers."""
        groups: list[list[list[Any]]] = [[[] for _ in self.literals[s]] for s in sites]
        for entry in np.argwhere(allowed).tolist():
            chosen = self.model.new_bool_var("")
            self.charge(chosen, int(table[tuple(entry)]))
            self.hint(chosen, sites, entry)
            for group, k in zip(groups, entry, strict=True):
                group[k].append(chosen)
        for site, group in zip(sites, groups, strict=True):
            for literal, entries in zip(self.literals[site], group, strict=True):
                self.model.add_exactly_one([*entries, ~literal])

    def hint(self, variable: Any, sites: list[int], states: list[int]) -> None:
        """Begin with a variable that says whether sites take certain states as the first assignment has it."""
        if self.first is not None:
            self.model.add_hint(variable, all(self.first[s] == k for s, k in zip(sites, states, strict=True)))


def tell(**what: Any) -> None:
    """Print one object."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def main(path: str) -> None:
    """Read the arrays of ``IntegerProblem.arrays`` from ``path`` and solve."""
    from ortools.sat.python import cp_model

    given = dict(np.load(path, allow_pickle=False))  # a file read once: it would be read again at each look
    made = CostModel(given, bool(given["linked"]))

    class Watch(cp_model.CpSolverSolutionCallback):
        """Prints every solution."""

        def on_solution_callback(self) -> None:
            """Called at each better solution."""
            states = [next(k for k, v in enumerate(row) if self.boolean_value(v)) for row in made.literals]
            tell(states=states, bound=self.best_objective_bound + made.constant)

    solver = cp_model.CpSolver()
    solver.parameters.num_workers = int(given["workers"])
    solver.parameters.random_seed = int(given["seed"])
    if given["seconds"]:  # for the case that nobody is left to end this process
        solver.parameters.max_time_in_seconds = float(given["seconds"]) + 2
    if made.linked:
        solver.parameters.linearization_level = 2
    solver.best_bound_callback = lambda bound: tell(bound=bound + made.constant)
    status = solver.solve(made.model, Watch())
    if status == cp_model.INFEASIBLE:
        tell(ended=True, infeasible=True)
    else:
        tell(ended=status == cp_model.OPTIMAL, bound=solver.best_objective_bound + made.constant)


if __name__ == "__main__":
    main(sys.argv[1])

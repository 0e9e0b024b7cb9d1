"""Which solvers answer a query: what the graph's structure, its size and the deadline allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ebmstruct.graph import CountFactor, FactorGraph, GaussianFactor
from ebmstruct.inference import solvers as s
from ebmstruct.inference.clamping import tables_left
from ebmstruct.inference.portfolio import Entry
from ebmstruct.inference.result import Ask, Budget, Query
from ebmstruct.inference.smooth_energy import open_continuous
from ebmstruct.inference.solver import Cost, Solver
from ebmstruct.inference.solvers.gaussian import not_quadratic
from ebmstruct.inference.structure import describe

OPERATIONS_PER_SECOND = 4e8
"""What one core does of the elementary operations in which solvers state their cost; from benchmarks/."""
AT_ONCE_SECONDS = 10.0
"""Without a deadline an exact solver that is expected to take no longer answers alone."""
AT_ONCE_SHARE = 0.2
"""With a deadline it does where it is expected to take no more than this part of the time: memory that is touched for
the first time may take several times as long as expected."""
PATIENCE_SECONDS = 120.0
"""Without a deadline an exact solver joins a race where it is expected to take no longer than this."""
HEAD_START_SECONDS = 0.25
"""How long our own solvers work before an outside one is started; most graphs are done by then."""
ENDLESS = 10**9
"""The patience of a search that goes on until the deadline."""


@dataclass(frozen=True, eq=False)
class Choice:
    """Which solvers would answer a query, and why the others would not.

    entries: one solver that answers alone, or those that race, in the order in which they begin.
    refusals: solver name to its reason.  costs: solver name to its expected cost, where it can be said.
    """

    graph: FactorGraph
    query: Query
    entries: tuple[Entry, ...]
    refusals: dict[str, str]
    costs: dict[str, Cost] = field(default_factory=dict)

    @cached_property
    def structure(self) -> str:
        """What was found in the graph, in a sentence."""
        return describe(self.graph)

    @property
    def solver(self) -> Solver | None:
        """The first solver to begin; None where all refuse."""
        return self.entries[0].solver if self.entries else None

    @property
    def cost(self) -> Cost | None:
        """The expected cost of the first solver."""
        return None if self.solver is None else self.costs.get(self.solver.name)

    def __str__(self) -> str:
        lines = [f"query:  {self.query.ask}", f"graph:  {self.structure}"]
        if not self.entries:
            lines.append("chosen: none, every solver refuses")
        for i, entry in enumerate(self.entries):
            cost = self.costs.get(entry.solver.name)
            head = "chosen: " if i == 0 else "   and: "
            lines.append(head + entry.solver.name + (f" ({cost})" if cost else ""))
        if len(self.entries) > 1:
            lines.append("they share the best answer and the highest bound, and stop when these meet")
        lines += [f"refused by {name}: {reason}" for name, reason in self.refusals.items()]
        return "\n".join(lines)


def counts_sets(graph: FactorGraph) -> bool:
    """Whether some energy is one of how many sites are on."""
    return any(isinstance(factor, CountFactor) for factor in graph.factors)


def chooses_gaussians(graph: FactorGraph) -> bool:
    """Whether some factor is a Gaussian that a discrete site chooses."""
    return any(isinstance(factor, GaussianFactor) for factor in graph.factors)


def exact_at_once(graph: FactorGraph, query: Query) -> Solver | None:
    """The solver of chains, forests, segments, counted sets or mixtures, where the graph is one: the most frequent case."""
    solvers: list[Solver] = [s.VariableElimination(), s.SemiMarkovElimination()]
    if counts_sets(graph):
        solvers.append(s.Cardinality())
    if chooses_gaussians(graph):
        solvers.append(s.GaussianMixture())
    return next((solver for solver in solvers if solver.refuse(graph, query) is None), None)


def choose(graph: FactorGraph, query: Query, budget: Budget | None = None) -> Choice:
    """The solvers that answer ``query`` about ``graph`` within ``budget``."""
    return _Choosing(graph, query, budget or Budget()).choice()


def explain_named(graph: FactorGraph, query: Query, named: Sequence[Solver]) -> Choice:
    """The same where only the solvers named are asked: the first that does not refuse answers alone."""
    chosen = _Choosing(graph, query, Budget())
    return chosen.first_of(named)


class _Choosing:
    """One choice in the making: who was asked, and what each said."""

    def __init__(self, graph: FactorGraph, query: Query, budget: Budget) -> None:
        self.graph, self.query, self.budget = tables_left(graph) or graph, query, budget
        self.refusals: dict[str, str] = {}
        self.costs: dict[str, Cost] = {}

    def takes(self, solver: Solver) -> bool:
        """Whether a solver takes the query; its reason or its cost is kept."""
        reason = solver.refuse(self.graph, self.query)
        if reason is not None:
            self.refusals[solver.name] = reason
            return False
        cost = solver.cost(self.graph, self.query)
        if cost is not None:
            self.costs[solver.name] = cost
        return True

    def quick_enough(self, solver: Solver) -> bool:
        """Whether a solver takes the query and is expected to make the deadline."""
        if not self.takes(solver):
            return False
        expected, remaining = self.seconds(solver), self.budget.remaining
        if expected <= 0.8 * remaining:
            return True
        self.refusals[solver.name] = f"it would take about {expected:.2g} s, and {max(remaining, 0):.2g} s are left"
        return False

    def seconds(self, solver: Solver) -> float:
        """How long a solver that was asked is expected to take."""
        cost = self.costs.get(solver.name)
        return 0.0 if cost is None else cost.operations / OPERATIONS_PER_SECOND

    def first_of(self, candidates: Sequence[Solver]) -> Choice:
        """The first solver that does not refuse, alone."""
        for solver in candidates:
            if self.takes(solver):
                return self.done(Entry(solver))
        return self.done()

    def done(self, *entries: Entry) -> Choice:
        """The choice of these solvers."""
        return Choice(self.graph, self.query, entries, self.refusals, self.costs)

    def choice(self) -> Choice:
        """Exact and quick first; else whatever the query allows."""
        query = self.query
        if s.SemiMarkovElimination().refuse(self.graph, query) is None:
            return self.first_of([s.SemiMarkovElimination()])
        if counts_sets(self.graph) and self.takes(s.Cardinality()):
            return self.done(Entry(s.Cardinality()))
        if chooses_gaussians(self.graph) and self.takes(s.GaussianMixture()):
            return self.done(Entry(s.GaussianMixture()))
        if query.ask is Ask.MINIMIZE and query.sum_out:
            return self.summed()
        if open_continuous(self.graph):
            return self.smooth()
        if query.ask is Ask.MINIMIZE and query.k == 1:
            return self.minimum()
        exact: list[Solver] = [s.VariableElimination(), s.JunctionTree(), s.Exhaustive()]
        if query.ask is Ask.MINIMIZE:
            return self.first_of(exact)
        for solver in exact:
            if self.quick_enough(solver):
                return self.done(Entry(solver))
        return self.first_of([s.MiniBucket() if query.ask is Ask.LOG_PARTITION else s.BlockGibbs()])

    def summed(self) -> Choice:
        """Least free energy: tables are eliminated where that is quick, what is left descends."""
        if self.quick_enough(s.MarginalElimination()):
            return self.done(Entry(s.MarginalElimination()))
        if not open_continuous(self.graph) and self.quick_enough(s.Exhaustive()):
            return self.done(Entry(s.Exhaustive()))
        return self.first_of([s.FreeEnergyDescent(), s.MarginalSearch(), s.Exhaustive()])

    def smooth(self) -> Choice:
        """Graphs with open continuous blocks: exact where the energy is quadratic, else the best method for the kind."""
        ask = self.query.ask
        if ask is Ask.MINIMIZE:
            choice = self.first_of([s.Gaussian(), s.LevenbergMarquardt(), s.AugmentedLagrangian(), s.LBFGS()])
            if choice.entries:
                return choice
            if self.quick_enough(s.MixedEnumeration()):
                return self.done(Entry(s.MixedEnumeration()))
            return self.first_of([s.BranchAndBound(), s.Alternating()])
        exact: list[Solver] = [s.Gaussian()] if not_quadratic(self.graph) is None else []
        if self.budget.deadline is None:  # it looks at the curvature before it takes a graph, which costs time
            exact.append(s.ConditionalGaussian())
        if ask is Ask.LOG_PARTITION:
            return self.first_of([*exact, s.AnnealedImportanceSampling()])
        if ask is Ask.MARGINALS:
            return self.first_of([*exact, s.NUTS(), s.MixedGibbs(), s.Gaussian()])
        return self.first_of([*exact, s.NUTS(), s.HMC(), s.MixedGibbs(), s.ReplicaExchange()])

    def minimum(self) -> Choice:
        """One exact solver where one is quick, else a race of everything that takes the graph."""
        for solver in (s.VariableElimination(), s.GraphCut()):
            if self.takes(solver):
                return self.done(Entry(solver))
        tree = s.JunctionTree()
        exact = self.takes(tree)
        remaining = min(self.budget.remaining, PATIENCE_SECONDS)
        timed = self.budget.deadline is not None
        if exact and self.seconds(tree) <= (AT_ONCE_SHARE * remaining if timed else AT_ONCE_SECONDS):
            return self.done(Entry(tree))
        search = s.SubgraphSearch(patience=ENDLESS) if timed else s.SubgraphSearch()
        racing: list[Entry] = [Entry(m) for m in (s.DualAscent(), search) if self.takes(m)]
        if exact and self.seconds(tree) <= 0.8 * remaining:
            racing.append(Entry(tree))
        elif exact:
            self.quick_enough(tree)
        for outside in (s.Toulbar2(), s.CPSAT()):
            if self.takes(outside) and timed:
                racing.append(Entry(outside, HEAD_START_SECONDS))
            elif outside.name not in self.refusals:
                self.refusals[outside.name] = "it may take for ever, so it joins only where there is a deadline"
        if racing:
            return self.done(*racing)
        return self.first_of((s.Exhaustive(), s.MirrorDescent(), s.ICM()))

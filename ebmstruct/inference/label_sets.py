"""What decoders of label sets share: which block is the set, and how probable each label is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, Discrete, FactorGraph
from ebmstruct.inference.result import Ask, Budget, Query, Status
from ebmstruct.inference.solver import Solver


@dataclass(frozen=True)
class Source:
    """Where the probabilities of labels come from.

    inner: the solver that is asked for them, by name; None for the engine's choice.  samples: how many draws to take
    in place of marginals; 0 for marginals.  temperature: of exp(-E / temperature).
    """

    inner: str | None = None
    samples: int = 0
    temperature: float = 1.0

    @property
    def query(self) -> Query:
        """What the inner solver is asked."""
        if self.samples:
            return Query(Ask.SAMPLE, num_samples=self.samples, temperature=self.temperature)
        return Query(Ask.MARGINALS, temperature=self.temperature)

    @property
    def named(self) -> Solver | None:
        """The inner solver that is named, for losses to ask too; None where none is."""
        from ebmstruct.inference.solvers import SOLVERS

        return None if self.inner is None or self.inner not in SOLVERS else SOLVERS[self.inner]()

    def solver(self, graph: FactorGraph) -> Solver | str:
        """The inner solver, or in one sentence why there is none."""
        from ebmstruct.inference.engine import explain
        from ebmstruct.inference.solvers import SOLVERS

        if self.inner is not None:
            if self.inner not in SOLVERS:
                return f"there is no solver {self.inner!r} to ask inside; legal are {', '.join(sorted(SOLVERS))}"
            named = SOLVERS[self.inner]()
            reason = named.refuse(graph, self.query)
            return named if reason is None else f"{self.inner} cannot {self.query.ask.phrase} inside: {reason}"
        choice = explain(graph, self.query)
        if choice.entries:
            return choice.entries[0].solver
        for name in ("cardinality", "gibbs_with_gradients" if self.samples else "relaxed_mean_field"):
            other = SOLVERS[name]()
            if other.refuse(graph, self.query) is None:
                return other
        way = "" if self.samples else "; samples above 0 draws sets instead, which more solvers can"
        return f"no solver can {self.query.ask.phrase} of this graph inside{way}"


@dataclass(frozen=True, eq=False)
class Believed:
    """What is believed of a set. probability: (n,) float64 of each label.  draws: (S, n) long, or None.

    status: (B,) of the inner answer.  by: the inner solver's name.  exact: whether it vouches for them.
    """

    probability: Tensor
    draws: Tensor | None
    status: Tensor
    by: str
    exact: bool


def set_block(graph: FactorGraph, block: str | None) -> str | None:
    """The block that is a set of labels: the one named, or the only one of two states a site; None where none is."""
    names = [n for n, v in graph.variables.items() if _binary(graph, n) and (block is None or n == block)]
    return names[0] if len(names) == 1 else None


def _binary(graph: FactorGraph, name: str) -> bool:
    domain = graph.variables[name].domain
    if not isinstance(domain, Discrete):
        return False
    return bool((domain.counts(graph.variables[name].num_sites) == 2).all()) and domain.largest == 2


def decoding_refusal(graph: FactorGraph, query: Query, block: str | None, source: Source) -> str | None:
    """Why a decoder of label sets cannot answer, in one sentence; None if it can."""
    if query.ask is not Ask.MINIMIZE:
        return f"it decodes one set of labels for each instance, and {query.ask} is asked"
    if query.sum_out:
        return "it takes marginals over all other blocks by itself, so none is to be summed out"
    if query.k > 1:
        return f"it decodes one set of labels, not the {query.k} best"
    if set_block(graph, block) is None:
        blocks = ", ".join(f"{n}: {v.domain}" for n, v in graph.variables.items()) or "none"
        wanted = "one block of two states a site" if block is None else f"a block {block!r} of two states a site"
        return f"it needs {wanted}, the labels that are in the set or not; the blocks are {blocks}"
    found = source.solver(graph)
    return found if isinstance(found, str) else None


def believed(
    graph: FactorGraph, block: str, source: Source, budget: Budget | None, generator: Generator | None
) -> Believed:
    """How probable the labels of a block are under exp(-E / temperature), by the inner solver."""
    from ebmstruct.inference.engine import marginals, sample

    solver = source.solver(graph)
    assert isinstance(solver, Solver)  # refuse was asked before
    t = source.temperature
    if source.samples:
        drawn = sample(graph, solver, num_samples=source.samples, temperature=t, budget=budget, generator=generator)
        draws = drawn.values[block]
        return Believed(draws.double().mean(0), draws, drawn.status, drawn.solver, drawn.exact)
    found = marginals(graph, solver, temperature=t, budget=budget, generator=generator)
    return Believed(found.beliefs[block][:, 1].double(), None, found.status, found.solver, found.exact)


def trusted(graph: FactorGraph, block: str, beliefs: Believed) -> tuple[Tensor, Tensor]:
    """(n,) probabilities with 0 for what is no number, and (B,) statuses, NONFINITE where one was none."""
    broken = ~beliefs.probability.isfinite()
    lost = torch.zeros(graph.num_instances, dtype=torch.bool)
    lost[graph.variables[block].instance[broken].cpu()] = True
    status = beliefs.status.cpu().clamp(min=int(Status.CONVERGED)).masked_fill(lost, int(Status.NONFINITE))
    return beliefs.probability.masked_fill(broken, 0.0).clamp(0.0, 1.0), status


def beside(
    graph: FactorGraph, block: str, states: Tensor, budget: Budget | None, generator: Generator | None
) -> Assignment:
    """The set with, in all other blocks, what has least energy given it."""
    states = graph.complete({**_zeros(graph), block: states})[block]
    if len(graph.variables) == 1:
        return Assignment({block: states})
    from ebmstruct.inference.engine import minimize

    given = FactorGraph((), graph.factors, constant=graph.constant, topology=graph.topology)
    if graph.evidence is not None:
        fixed = graph.evidence
        others = {n: v for n, v in fixed.values.items() if n != block}
        known = {n: v for n, v in fixed.known.items() if n != block}
        given = given.condition(Assignment(others, known, {n: v for n, v in fixed.allowed.items() if n != block}))
    found = minimize(given.condition(Assignment({block: states})), budget=budget, generator=generator)
    return Assignment({n: found.assignment[n] for n in graph.variables})


def _zeros(graph: FactorGraph) -> dict[str, Tensor]:
    """Some value for every discrete block, to be completed by the evidence."""
    return {
        n: torch.zeros(v.num_sites, dtype=torch.long, device=v.offsets.device)
        if isinstance(v.domain, Discrete)
        else torch.zeros(v.num_sites, 1)
        for n, v in graph.variables.items()
    }


def feasible(graph: FactorGraph, y: Assignment, budget: Budget | None) -> Assignment:
    """The same, with the answer of least energy where a decoded set breaks a hard constraint."""
    broken = torch.isposinf(graph.energy(y))
    if not bool(broken.any()):
        return y
    from ebmstruct.inference.engine import minimize

    least = minimize(graph, budget=budget).assignment
    values = {}
    for name, value in y.items():
        swap = broken[graph.variables[name].instance].reshape(-1, *[1] * (value.dim() - 1))
        values[name] = torch.where(swap, least[name].to(value.dtype), value)
    return Assignment(values)


class SetDecoder(Solver):
    """What solvers share that read a set of labels off probabilities, whose sources and block are their fields."""

    inner: str | None
    samples: int
    temperature: float
    block: str | None

    @property
    def source(self) -> Source:
        """Where the probabilities come from."""
        return Source(self.inner, self.samples, self.temperature)

    def least_energy(self) -> Solver | None:
        return self.source.named

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        return decoding_refusal(graph, query, self.block, self.source)

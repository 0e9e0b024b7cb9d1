"""Questions and answers: query, budget, status, result, marginals, samples."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from typing import Any

import torch
from torch import Tensor

from ebmstruct.graph import Assignment


class Status(IntEnum):
    """How an answer ended, for one instance. Later members are worse."""

    OPTIMAL = 0
    CONVERGED = 1
    MAX_STEPS = 2
    DEADLINE = 3
    INFEASIBLE = 4
    NONFINITE = 5

    @property
    def message(self) -> str:
        """The status in a sentence."""
        return _MESSAGES[self]


_MESSAGES = {
    Status.OPTIMAL: "The energy is proven least: it meets its lower bound within tolerance.",
    Status.CONVERGED: "The method has nothing left to improve, but the answer is not proven least.",
    Status.MAX_STEPS: "The budget of steps was used up; this is the best answer found.",
    Status.DEADLINE: "The deadline came; this is the best answer found.",
    Status.INFEASIBLE: "No assignment of finite energy was found: the hard constraints contradict each other "
    "(proven where the lower bound is infinite).",
    Status.NONFINITE: "An energy was NaN or minus infinity, so no answer can be trusted.",
}


class Ask(StrEnum):
    """The kinds of question."""

    MINIMIZE = "minimize"
    MARGINALS = "marginals"
    LOG_PARTITION = "log_partition"
    SAMPLE = "sample"

    @property
    def phrase(self) -> str:
        """What is asked, to follow the word ``cannot``."""
        return {"marginals": "compute marginals", "log_partition": "compute a log partition"}.get(self, str(self))


@dataclass(frozen=True)
class Query:
    """What is asked of a graph.

    sum_out: blocks to be summed out rather than minimised (minimise only).
    temperature: probabilities are proportional to exp(-E / temperature).
    k: how many best assignments.  num_samples: S.
    factors: labels of factors whose joint beliefs are wanted beside those of the variables (marginals only).
    """

    ask: Ask = Ask.MINIMIZE
    sum_out: tuple[str, ...] = ()
    temperature: float = 1.0
    k: int = 1
    num_samples: int = 1
    factors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Budget:
    """How long an answer may take: until an instant of the monotonic clock, and a number of steps.

    stopped: called between steps; where it says True the budget is over at once, as if the deadline had come.
    """

    deadline: float | None = None
    max_steps: int | None = None
    stopped: Callable[[], bool] | None = None

    @classmethod
    def after(cls, seconds: float | None, max_steps: int | None = None) -> Budget:
        """A budget that opens now and ends ``seconds`` later; whoever gets a request calls this first."""
        return cls(None if seconds is None else time.monotonic() + seconds, max_steps)

    def within(self, seconds: float) -> Budget:
        """The same budget, but for ``seconds`` from now at the most."""
        until = time.monotonic() + seconds
        return replace(self, deadline=until if self.deadline is None else min(self.deadline, until))

    @property
    def remaining(self) -> float:
        """Seconds until the deadline; negative when it has passed, infinite when there is none."""
        return float("inf") if self.deadline is None else self.deadline - time.monotonic()

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed, or somebody has stopped the work."""
        return self.remaining <= 0 or (self.stopped is not None and self.stopped())


@dataclass(frozen=True, eq=False)
class Reparametrization:
    """A witness of a lower bound: messages that move energy between terms of an instance.

    Any messages whatever give a valid bound: the sum over terms of each term's own minimum after the move
    (``certificate.bound`` computes it). Those that elimination, dual ascent or a maximum flow end with make it tight.

    kind, and the layout of the messages:
      - ``chain``: (n, K), the forward min-sums up to one constant a site;
      - ``forest``: flat over the states of each site's parent;
      - ``segments``: (n, K) over labels, the least energies of beginnings of which a segment ends at the site;
      - ``tables``: flat over the slots and states of the rows of the graph's table view (``TableView.message_ptr``);
        each message is added to its site's unary energies and taken off its row's table.
    """

    kind: str
    messages: Tensor


@dataclass(frozen=True, eq=False)
class EliminationOrder:
    """A witness of an exact minimum: the order in which eliminating the open sites of the table view stays feasible.

    sites: (n,) long. Checking it repeats the elimination, with plain array operations, in the same memory.
    """

    sites: Tensor


@dataclass(frozen=True)
class Claim:
    """A lower bound for which a solver vouches without a record that could be re-checked."""

    by: str


@dataclass(frozen=True)
class SumOfSquares:
    """A witness that needs no record: every factor is a residual, so no energy lies below the graph's constant."""


@dataclass(frozen=True)
class QuadraticMinimum:
    """A witness that needs no record: the energy is a quadratic function of the open continuous blocks, all residuals
    being affine in them, and its least value is found from any point by one solution of the normal equations."""


SingleWitness = Reparametrization | EliminationOrder | Claim | SumOfSquares | QuadraticMinimum


@dataclass(frozen=True, eq=False)
class Several:
    """Witnesses of several solvers: each instance's bound is the highest that one of them proves."""

    parts: tuple[SingleWitness, ...]


Witness = SingleWitness | Several


@dataclass(frozen=True, eq=False)
class Result:
    """An assignment of low energy, and how good it is; all tensors per instance.

    energy: (B,) float64, recomputed by the engine from the assignment.  lower_bound: (B,) float64, -inf where the
    method gives none.  status: (B,) long, members of Status.
    alternatives: the k best assignments, best first, with their energies (k, B); a slot that does not exist has
    infinite energy.  witness: what proves the bound.  stats: what the solver counted.
    violation: (B,) by how much the worst constraint or bound of an instance is broken, measured by the engine; None for
    a graph that has none.
    integration: how the blocks of ``sum_out`` were summed out ("exact", or the name of the approximation); ``energy`` is
    then the free energy.
    """

    assignment: Assignment
    energy: Tensor
    lower_bound: Tensor
    status: Tensor
    solver: str = ""
    witness: Witness | None = None
    alternatives: tuple[Assignment, ...] = ()
    alternative_energies: Tensor | None = None
    stats: Mapping[str, Any] = field(default_factory=dict)
    violation: Tensor | None = None
    integration: str = ""

    @property
    def gap(self) -> Tensor:
        """(B,) how far the energy may lie above the least one: 0 where proven, inf where there is no bound."""
        gap = torch.where(torch.isposinf(self.lower_bound), 0.0, self.energy - self.lower_bound)
        return gap.clamp(min=0.0)

    @property
    def statuses(self) -> list[Status]:
        """The status of each instance as a member of Status."""
        return [Status(s) for s in self.status.tolist()]

    def __repr__(self) -> str:
        counts = {s.name: n for s in Status if (n := int((self.status == s).sum()))}
        return f"Result({self.assignment}; {counts}; by {self.solver})"


@dataclass(frozen=True, eq=False)
class Marginals:
    """Probabilities of states, from exp(-E / temperature).

    beliefs: block name to (n, K); rows sum to 1, except in infeasible instances, where they are 0.
    factor_beliefs: factor label to joint beliefs: (m, K, K) for pairs, (n, K, K) for a chain, where entry t is the
    edge from site t - 1 to site t; (n, L, K) for segments, by first site, length and label.
    log_partition: (B,); -inf where infeasible.
    means, covariances: continuous block to (n, d) means and (n, t, t) covariances of each site, in steps from the mean.
    exact: whether these are the true marginals.
    """

    beliefs: Mapping[str, Tensor]
    log_partition: Tensor
    exact: bool
    status: Tensor
    solver: str = ""
    factor_beliefs: Mapping[str, Tensor] = field(default_factory=dict)
    stats: Mapping[str, Any] = field(default_factory=dict)
    means: Mapping[str, Tensor] = field(default_factory=dict)
    covariances: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def statuses(self) -> list[Status]:
        """The status of each instance as a member of Status; beliefs of an INFEASIBLE one are 0."""
        return [Status(s) for s in self.status.tolist()]


@dataclass(frozen=True, eq=False)
class Samples:
    """S assignments drawn from exp(-E / temperature).

    values: block name to (S, n) long, or (S, n, d) for a continuous block.  energy: (S, B).
    exact: whether draws are independent and exact.  chains: C; draw s is of chain s % C.
    warnings: what a reader should know before believing the draws, a sentence each.
    """

    values: Mapping[str, Tensor]
    energy: Tensor
    exact: bool
    status: Tensor
    solver: str = ""
    stats: Mapping[str, Any] = field(default_factory=dict)
    chains: int = 1
    warnings: tuple[str, ...] = ()

    def by_chain(self, block: str) -> Tensor:
        """(D, C, n) or (D, C, n, d): the draws of a block, chain by chain; a last round that is not whole is left out."""
        draws = self.values[block]
        whole = draws.shape[0] // self.chains
        return draws[: whole * self.chains].reshape(whole, self.chains, *draws.shape[1:])

    def to_arviz(self) -> Any:
        """An ``arviz.InferenceData`` of the draws; SolverRefusal where the extra ``arviz`` is not installed."""
        from ebmstruct.inference.diagnostics.export import to_arviz

        return to_arviz(self)

    @property
    def statuses(self) -> list[Status]:
        """The status of each instance as a member of Status; draws of an INFEASIBLE one mean nothing."""
        return [Status(s) for s in self.status.tolist()]


Answer = Result | Marginals | Samples

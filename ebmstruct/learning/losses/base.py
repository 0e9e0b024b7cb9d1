"""What a loss is, and the two values that most losses compare: with the target clamped, and free."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from ebmstruct.errors import GraphError, LossRefusal
from ebmstruct.graph import Assignment, Factor, FactorGraph
from ebmstruct.inference import Solver, log_partition, minimize
from ebmstruct.inference.broken import broken_instances
from ebmstruct.learning.losses.targets import check_target, has_open_sites

Margin = Literal["positive", "zero", "none"]
"""The margin class of LeCun et al. 2006, table 1. positive: the loss is least only where the correct answer lies below the
others by a gap. zero: where it lies no higher. none: nothing keeps all energies from becoming equal."""
Latent = Literal["minimised", "summed", "sampled"]
"""What may become of the sites that a target does not know."""

CLIPPED = "clipped"
"""Among a loss's figures: the share of the samples' numbers at a clip, above that of the target's."""


@dataclass(frozen=True, eq=False)
class LossValue:
    """value: (B,) float64, differentiable.  state: what the next call needs (persistent chains, buffers), or None.

    correct, incorrect: (B,) without a record: the energies that were pulled down and pushed up, for whoever watches the
    training; None where a loss compares no two energies.
    figures: name to (B,) without a record: what the inference inside says of its own quality (gaps, stationarity).
    """

    value: Tensor
    state: Any = None
    correct: Tensor | None = None
    incorrect: Tensor | None = None
    figures: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Setting:
    """What a loss may use beside the graph and the target.

    cost: factors whose energy is the task's cost of an output.  solver: what answers the inference inside, None to choose
    by structure.  generator: the source of noise, never None.  state: what the call before returned.
    examples: the number of each instance in the training data, so that chains and completions can be kept for each; None
    where that is not known.  done: the fraction of the training that is behind.
    """

    generator: Generator
    cost: Sequence[Factor] = ()
    solver: Solver | None = None
    state: Any = None
    examples: Sequence[int] | None = None
    done: float = 0.0


class Loss(ABC):
    """A learning objective of a graph and a target, per instance; a frozen object whose fields are YAML keys.

    Sites that the target does not know are latent: ``latent`` says what may become of them; without an entry they are
    refused. A loss that compares energies of an output and of others says of which margin class it is.
    ``by_samples``: the others are draws of the model, so that a training can come apart, and its energies show it.

    A subclass gives ``evaluate``, and ``refuse`` where it does not take every graph and target.
    """

    name: ClassVar[str]
    margin: ClassVar[Margin]
    latent: ClassVar[tuple[Latent, ...]] = ()
    by_samples: ClassVar[bool] = False
    likelihood: ClassVar[bool] = False
    """Whether exp(-loss) is a likelihood of the target, exact or nearly so, as a posterior of weights needs."""

    def __call__(
        self,
        graph: FactorGraph,
        target: Assignment,
        *,
        cost: Sequence[Factor] = (),
        solver: Solver | None = None,
        generator: Generator | None = None,
        state: Any = None,
        examples: Sequence[int] | None = None,
        done: float = 0.0,
    ) -> LossValue:
        """The loss of each instance; the arguments are the fields of ``Setting``.

        generator: one seeded 0 where none is given, the same at every call. Errors: GraphError where the target does not
        fit the graph; LossRefusal, with the reason, where the loss does not take
        this graph and target; SolverRefusal where no solver answers the inference inside.
        """
        check_target(graph, target)
        reason = self.refuse(graph, target) if has_open_sites(graph) else None
        if reason is not None:
            raise LossRefusal(f"{self.name} cannot be used here: {reason}")
        source = generator if generator is not None else torch.Generator().manual_seed(0)
        setting = Setting(source, tuple(cost), solver, state, examples, done)
        found = self.evaluate(graph, target, setting) if has_open_sites(graph) else self.closed(graph, target, setting)
        if not isinstance(found, LossValue) or found.value.shape != (graph.num_instances,):
            what = tuple(found.value.shape) if isinstance(found, LossValue) else type(found).__name__
            raise GraphError(
                f"{self.name} returned {what}; a LossValue with one value for each of the "
                f"{graph.num_instances} instances is needed"
            )
        return found

    def closed(self, graph: FactorGraph, target: Assignment, setting: Setting) -> LossValue:
        """The loss of a graph in which no site is open, so that there is one answer and nothing to learn: 0."""
        return LossValue(torch.zeros(graph.num_instances, dtype=torch.float64), setting.state)

    @abstractmethod
    def evaluate(self, graph: FactorGraph, target: Assignment, setting: Setting) -> LossValue:
        """The loss of each instance, once ``refuse`` has found nothing."""

    def refuse(self, graph: FactorGraph, target: Assignment) -> str | None:
        """Why this loss is not defined for the graph and the target, in one sentence; None where it is.

        Costs nothing that a solver would do: it looks at domains, kinds of factors and known sites.
        """
        if not self.latent and not target.complete(graph.topology.names):
            return "the target leaves sites unknown, and this loss can neither minimise over them nor sum them out"
        return None


def clamped_log_partition(graph: FactorGraph, target: Assignment, temperature: float, solver: Solver | None) -> Tensor:
    """(B,) log of the sum of exp(-E / temperature) over completions of the target; -E / temperature of a full one."""
    if target.complete(graph.topology.names):
        return -graph.energy(target) / temperature
    return log_partition(graph.condition(target), solver, temperature=temperature)


def clamped_minimum(graph: FactorGraph, target: Assignment, solver: Solver | None) -> Tensor:
    """(B,) the least energy over completions of the target, differentiable at that completion."""
    if target.complete(graph.topology.names):
        return graph.energy(target)
    return graph.energy(minimize(graph.condition(target), solver).assignment)


def free_minimum(graph: FactorGraph, solver: Solver | None) -> Tensor:
    """(B,) the least energy, differentiable at the assignment that has it (Danskin's theorem)."""
    return graph.energy(minimize(graph, solver).assignment)


def cost_augmented(graph: FactorGraph, cost: Sequence[Factor], weight: float = 1.0) -> FactorGraph:
    """The graph with ``weight`` times the cost taken from its energy, so that costly outputs look attractive."""
    return graph.add(*(f.scaled(-weight) for f in cost)) if cost else graph


def finite_difference_of(free: Tensor, clamped: Tensor) -> Tensor:
    """free - clamped, and infinite, not NaN, where the target itself is forbidden."""
    return torch.where(torch.isneginf(clamped), torch.inf, free - clamped)


def compared(
    correct: Tensor,
    incorrect: Tensor,
    value: Tensor,
    state: Any = None,
    figures: Mapping[str, Tensor] | None = None,
) -> LossValue:
    """A loss value with the two energies that it compares."""
    return LossValue(value, state, correct.detach().double(), incorrect.detach().double(), figures or {})


def nan_where_broken(graph: FactorGraph, value: Tensor) -> Tensor:
    """The value, and NaN where a table of the instance holds NaN, which comparisons would pass over."""
    broken = broken_instances(graph)
    return value if broken is None else value.masked_fill(broken, torch.nan)


def check_positive(name: str, **options: float) -> None:
    """Raise ValueError unless every option is positive and finite."""
    for option, value in options.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name}: {option} must be above 0 and finite; found {value}")


def check_weight(name: str, weight: float) -> None:
    """Raise ValueError unless a weight is at least 0 and finite."""
    if not 0 <= weight < math.inf:
        raise ValueError(f"{name}: weight must be at least 0 and finite; found {weight}")

"""A loss of the answer given some blocks, and of those blocks themselves: a classifier that knows what it has seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ebmstruct.graph import Assignment, BlockFactor, Continuous, FactorGraph
from ebmstruct.learning.losses.base import (
    Latent,
    Loss,
    LossValue,
    Margin,
    Setting,
    check_positive,
    check_weight,
    compared,
    finite_difference_of,
)
from ebmstruct.learning.losses.contrastive import ChainLoss, ContrastiveDivergence, PersistentContrastiveDivergence
from ebmstruct.learning.losses.independent_states import independent_states, state_tables, summed_states
from ebmstruct.learning.losses.likelihood import NegativeLogLikelihood
from ebmstruct.learning.losses.output_energy import OutputEnergy, open_sites
from ebmstruct.learning.losses.score_matching import ScoreMatching

Term = Literal["denoising", "sliced", "exact", "persistent", "contrastive"]
SCORES: dict[str, Literal["denoising", "sliced", "exact"]] = {
    "denoising": "denoising", "sliced": "sliced", "exact": "exact"
}  # fmt: skip


@dataclass(frozen=True)
class HybridLikelihood(Loss):
    """-log p(y | x) + weight * L(x): x are the blocks ``given``, y is all else, L a loss of x with y summed out.

    A joint energy model (Grathwohl et al. 2020; hybrid objectives: Raina et al. 2003; Larochelle and Bengio 2008). The
    first term is exact: the likelihood of the graph with x clamped. The second looks at F(x) = -log sum_y exp(-E(x, y)):

    - ``denoising``, ``sliced``, ``exact``: score matching of F, without any sampling (`ScoreMatching`); ``sigma`` is the
      noise of the first, in units of x, or several levels;
    - ``persistent``, ``contrastive``: F at x less F where ``steps`` steps of a chain lead, from a replay buffer of ``size``
      points of which the share ``reinitialise`` begins anew, or from x itself (`PersistentContrastiveDivergence`,
      `ContrastiveDivergence`, whose step_size, noise_scale and energy_decay these are).

    given: the names of x's blocks; none: all continuous ones that are open. With ``weight`` 0 it is the likelihood of y
    given x. Unknown sites of y are summed out. Margin class: positive, by the first term. Inference: log partitions of y
    given x. Cost: those, and one gradient of a gradient for ``denoising``, ``steps`` gradients for chains. Not where y
    cannot be summed out exactly.
    """

    name: ClassVar[str] = "hybrid_likelihood"
    margin: ClassVar[Margin] = "positive"
    latent: ClassVar[tuple[Latent, ...]] = ("summed",)

    given: str | tuple[str, ...] | None = None
    weight: float = 0.1
    generative: Term = "denoising"
    sigma: float | tuple[float, ...] = 0.3
    antithetic: bool = False
    steps: int = 20
    step_size: float = 0.01
    noise_scale: float | None = None
    size: int = 10000
    reinitialise: float = 0.05
    energy_decay: float = 0.0

    def __post_init__(self) -> None:
        check_weight(self.name, self.weight)
        check_positive(self.name, step_size=self.step_size)
        if self.generative not in (*SCORES, "persistent", "contrastive"):
            legal = ", ".join((*SCORES, "persistent", "contrastive"))
            raise ValueError(f"{self.name}: generative {self.generative!r}; legal are {legal}")
        _ = self.term  # its own options are checked by itself

    @property
    def term(self) -> ScoreMatching | ChainLoss:
        """The loss of x alone."""
        form = SCORES.get(self.generative)
        if form is not None:
            return ScoreMatching(form=form, sigma=self.sigma, antithetic=self.antithetic)
        walk = {
            "steps": self.steps, "step_size": self.step_size, "noise_scale": self.noise_scale,
            "energy_decay": self.energy_decay,
        }  # fmt: skip
        if self.generative == "contrastive":
            return ContrastiveDivergence(**walk)  # type: ignore[arg-type]
        return PersistentContrastiveDivergence(size=self.size, reinitialise=self.reinitialise, **walk)  # type: ignore[arg-type]

    def blocks(self, graph: FactorGraph) -> tuple[str, ...]:
        """The names of x's blocks in a graph."""
        if self.given is not None:
            return (self.given,) if isinstance(self.given, str) else tuple(self.given)
        names = [n for n, v in graph.variables.items() if isinstance(v.domain, Continuous) and v.num_sites]
        return tuple(n for n in names if bool(open_sites(graph, n).any()))

    def refuse(self, graph: FactorGraph, target: Assignment) -> str | None:
        names = self.blocks(graph)
        if not names:
            return "no continuous block is open that could be given; negative_log_likelihood is for answers alone"
        for name in names:
            if name not in graph.variables:
                return f"given names block {name!r}; the graph's blocks are {list(graph.variables)}"
            if name not in target or name in target.known:
                return f"the target leaves block {name!r} unknown, at least in part, and it is to be given"
        if not any(bool(open_sites(graph, n).any()) for n in graph.variables if n not in names):
            return f"beside {list(names)} nothing is left to tell; score_matching is for these alone"
        seen = _seen(target, names)
        if self._simple(graph, target, names):
            return self.term.refuse(graph, seen) if self.weight and isinstance(self.term, ScoreMatching) else None
        reason = NegativeLogLikelihood().refuse(graph.condition(seen), target)
        if reason is not None or not self.weight:
            return reason
        energy = OutputEnergy.of(graph, seen)
        if isinstance(self.term, ScoreMatching):
            return self.term.refuse(graph, seen)
        return energy.refuse(seen) or self.term.refuse(free_energy_graph(energy, names), seen)

    def _simple(self, graph: FactorGraph, target: Assignment, names: tuple[str, ...]) -> bool:
        """Whether y is discrete sites that the target knows and that are independent given x, as of a classifier."""
        rest = tuple(n for n in graph.variables if n not in names)
        return target.complete(graph.topology.names) and independent_states(graph, rest)

    def evaluate(self, graph: FactorGraph, target: Assignment, setting: Setting) -> LossValue:
        names = self.blocks(graph)
        seen = _seen(target, names)
        if self._simple(graph, target, names):
            answer = _classified(graph, target, names)
        else:
            answer = NegativeLogLikelihood().evaluate(graph.condition(seen), target, setting)
        if not self.weight:
            return answer
        plain = Setting(setting.generator, state=setting.state, examples=setting.examples, done=setting.done)
        if isinstance(self.term, ScoreMatching):
            found = self.term.evaluate(graph, seen, plain)
        else:
            found = self.term.evaluate(free_energy_graph(OutputEnergy.of(graph, seen), names), seen, plain)
        value = finite_difference_of(answer.value + self.weight * found.value, torch.zeros_like(answer.value))
        figures = {"conditional": answer.value.detach(), "generative": found.value.detach().double()}
        return LossValue(value, found.state, answer.correct, answer.incorrect, figures)


@dataclass(frozen=True, eq=False)
class FreeEnergyFunction:
    """F of some blocks as a function of their values alone, everything else summed out or given."""

    energy: OutputEnergy
    names: tuple[str, ...]

    def __call__(self, *given: Any) -> Tensor:
        """(B,) of the blocks' values and their offsets, whose instances may be there several times over."""
        *points, offsets = given
        energy = self.energy.repeat((offsets[0].numel() - 1) // max(1, self.energy.graph.num_instances))
        fixed = energy.graph.evidence
        others = {} if fixed is None else {n: v for n, v in fixed.values.items() if n not in self.names}
        return energy({**others, **dict(zip(self.names, points, strict=True))})


def free_energy_graph(energy: OutputEnergy, names: tuple[str, ...]) -> FactorGraph:
    """The graph over some blocks alone whose energy is the free energy of what is left when all else is summed out.

    Cost of its energy: a sum over the others.
    """
    graph = energy.graph
    blocks = [graph.variables[n] for n in names]
    alone = FactorGraph(blocks, [BlockFactor(names, "free", FreeEnergyFunction(energy, names))])
    fixed = graph.evidence
    if fixed is None:
        return alone
    own = ({k: v for k, v in part.items() if k in names} for part in (fixed.values, fixed.known, fixed.allowed))
    return alone.condition(Assignment(*own))


def _classified(graph: FactorGraph, target: Assignment, names: tuple[str, ...]) -> LossValue:
    """-log p(y | x) where the sites of y are independent given x, by one evaluation of the energy."""
    tables, constant = state_tables(graph, {n: target[n] for n in names})
    free = summed_states(graph, tables, constant, 1.0)
    own = torch.zeros_like(free) if constant is None else constant.double()
    for name, table in tables.items():
        chosen = table.gather(1, target[name][:, None])[:, 0].double()
        own = own.index_add(0, graph.variables[name].instance, chosen)
    return compared(own, free, finite_difference_of(-free, -own))


def _seen(target: Assignment, names: tuple[str, ...]) -> Assignment:
    """The target of the blocks that are given."""
    return Assignment({n: target[n] for n in names})

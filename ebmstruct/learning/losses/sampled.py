"""Losses by draws of the model: the likelihood with both phases sampled, and expectation maximisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from ebmstruct.errors import LossRefusal, SolverRefusal
from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference import Query, Solver, explain, log_partition, marginals, sample
from ebmstruct.inference.result import Ask
from ebmstruct.inference.sampling.table_sweeps import TableSweeps
from ebmstruct.inference.views.table_view import table_refusal
from ebmstruct.learning.losses.base import Latent, Loss, LossValue, Margin, Setting, compared
from ebmstruct.learning.losses.chains import (
    check_positive,
    draw_energies,
    energies_of_both,
    finite_mean,
    independent_draws,
)


@dataclass(frozen=True)
class SampledLikelihood(Loss):
    """mean E over completions of the target, less mean E over the model, both over T and by draws.

    Its gradient is that of -log p(target), as far as the draws are of the model: exact draws where the engine has them
    (chains, forests, narrow tables, Gaussians), else a long run of a sampler, whose bias is what its burn-in leaves
    (``sample`` warns). Sites that the target does not know are drawn given it: Monte Carlo EM with one step (Wei and Tanner
    1990). The value is the difference of mean energies, of either sign; it is no likelihood, whose log partition draws do
    not give. Standard error of the gradient: its spread under the model over the root of ``samples`` (effective ones).
    samples: draws in each phase.  Margin class: positive, as the likelihood. Inference: draws, a second time where sites
    are unknown. Cost: the sampler's, and energies of ``samples`` copies. Where a log partition is exact and quick take
    ``negative_log_likelihood``: the same gradient without noise.
    """

    name: ClassVar[str] = "sampled_likelihood"
    by_samples: ClassVar[bool] = True
    margin: ClassVar[Margin] = "positive"
    latent: ClassVar[tuple[Latent, ...]] = ("sampled",)

    samples: int = 100
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_positive(self, "temperature", whole=("samples",))

    def refuse(self, graph: FactorGraph, target: Assignment) -> str | None:
        return no_sampler(graph)

    def evaluate(self, graph: FactorGraph, target: Assignment, setting: Setting) -> LossValue:
        t = self.temperature
        clamped = drawn_completions(graph, target, self.samples, t, setting.solver, setting.generator)
        free = drawn(graph, self.samples, t, setting.solver, setting.generator)
        correct, incorrect = map(finite_mean, energies_of_both(graph, clamped, free))
        return compared(correct, incorrect, difference(correct, incorrect) / t)


@dataclass(frozen=True)
class ExpectationMaximisation(Loss):
    """mean E over the posterior of the unknown sites, by the weights of some steps ago, over T, plus log Z by today's.

    Expectation maximisation by gradient steps (Dempster, Laird and Rubin 1977; Neal and Hinton 1998): the posterior q of
    the sites that the target does not know is found at the first visit of an example and at every ``refresh``-th after
    that, and kept in between by the example's number. The loss is E_q[E] / T + log Z, less the entropy of q where it is
    known, so it lies above -log p(target) and touches it at a refresh; with refresh 1 its gradient is the likelihood's.
    q is held as exact probabilities of each site where the unknown sites are independent given the target (mixtures,
    RBMs), else as ``samples`` draws (Wei and Tanner 1990), whose entropy is not known and left out.
    free: log Z ``exact``, or by ``samples`` draws (``sampled``: the value then has the mean energy in its place), or
    ``auto``: exact where it can be had.
    Margin class: positive, as the likelihood. Cost: a log partition or draws a step; a posterior at a refresh. State: the
    posteriors of all examples seen. With nothing unknown this is the likelihood. Not needed where the clamped log
    partition is quick: ``negative_log_likelihood`` has the same gradient, never stale.
    """

    name: ClassVar[str] = "expectation_maximisation"
    margin: ClassVar[Margin] = "positive"
    latent: ClassVar[tuple[Latent, ...]] = ("summed", "sampled")

    refresh: int = 1
    samples: int = 20
    free: Literal["auto", "exact", "sampled"] = "auto"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_positive(self, "temperature", whole=("samples", "refresh"))

    def refuse(self, graph: FactorGraph, target: Assignment) -> str | None:
        if self.free == "sampled" or (self.free == "auto" and not _sums(graph)):
            return no_sampler(graph)
        return None if _sums(graph) else "no solver sums over this graph exactly; use free: sampled"

    def evaluate(self, graph: FactorGraph, target: Assignment, setting: Setting) -> LossValue:
        posteriors, state = self._posteriors(graph, target, setting)
        entropy = torch.zeros(graph.num_instances, dtype=torch.float64)
        if posteriors is None:
            correct = graph.energy(target)
        elif any(name.startswith(_BELIEF) for name in posteriors):
            weights = {n.removeprefix(_BELIEF): v for n, v in posteriors.items()}
            correct = _mean_energy(graph.condition(target), weights)
            entropy = _entropy(graph, weights)
        else:
            correct = finite_mean(draw_energies(graph, posteriors))
        t = self.temperature
        if self.free != "sampled" and _sums(graph):
            incorrect = -t * log_partition(graph, setting.solver, temperature=t)
        else:
            free = drawn(graph, self.samples, t, setting.solver, setting.generator)
            incorrect = finite_mean(draw_energies(graph, free))
        return compared(correct, incorrect, difference(correct, incorrect) / t - entropy, state)

    def _posteriors(
        self, graph: FactorGraph, target: Assignment, setting: Setting
    ) -> tuple[dict[str, Tensor] | None, dict[str, Any] | None]:
        """What is held of q for the batch, block name to values by site (None: nothing is unknown); and the state."""
        before: Mapping[str, Any] = setting.state or {"visits": {}, "posteriors": {}}
        if target.complete(graph.topology.names):
            return None, dict(before)
        examples = list(range(graph.num_instances)) if setting.examples is None else [int(e) for e in setting.examples]
        visits, kept = dict(before["visits"]), before["posteriors"]
        if setting.examples is None:
            visits, kept = {}, {}
        due = [visits.get(e, 0) % self.refresh == 0 or e not in kept for e in examples]
        found: dict[str, Tensor] = {}
        if any(due):
            found = self._found(graph, target, setting)
        whole = self._joined(graph, [found if d else kept[e] for d, e in zip(due, examples, strict=True)], due, found)
        if setting.examples is None:
            return whole, None
        own = self._apart(graph, whole)
        for e in examples:
            visits[e] = visits.get(e, 0) + 1
        return whole, {"visits": visits, "posteriors": {**kept, **dict(zip(examples, own, strict=True))}}

    def _found(self, graph: FactorGraph, target: Assignment, setting: Setting) -> dict[str, Tensor]:
        """q at today's weights: probabilities where sites are independent, else draws."""
        t = self.temperature
        held = graph.condition(target)
        if table_refusal(graph) is None and TableSweeps.of(held).independent:
            beliefs = marginals(held, temperature=t).beliefs
            return {_BELIEF + n: v for n, v in beliefs.items()}
        return drawn_completions(graph, target, self.samples, t, setting.solver, setting.generator)

    def _joined(
        self, graph: FactorGraph, parts: list[Mapping[str, Tensor]], due: list[bool], found: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        if all(due):
            return dict(found)
        out = {}
        for name in parts[due.index(False)]:
            axis = 0 if name.startswith(_BELIEF) else 1
            block = graph.variables[name.removeprefix(_BELIEF)]
            new = found[name].split(block.lengths.tolist(), axis) if found else ()
            out[name] = torch.cat([new[b] if d else parts[b][name] for b, d in enumerate(due)], axis)
        return out

    def _apart(self, graph: FactorGraph, whole: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """What belongs to each instance."""
        out: list[dict[str, Tensor]] = [{} for _ in range(graph.num_instances)]
        for name, value in whole.items():
            axis = 0 if name.startswith(_BELIEF) else 1
            lengths = graph.variables[name.removeprefix(_BELIEF)].lengths.tolist()
            for own, part in zip(out, value.split(lengths, axis), strict=True):
                own[name] = part.clone()
        return out


_BELIEF = "belief of "
"""Before a block's name: probabilities (n, K) of its states, and not draws (S, n)."""


def difference(correct: Tensor, incorrect: Tensor) -> Tensor:
    """correct - incorrect, and infinite, not NaN, where the target itself is forbidden."""
    return torch.where(torch.isposinf(correct), torch.inf, correct - incorrect)


def no_sampler(graph: FactorGraph) -> str | None:
    """Why no solver draws samples of a graph, in one sentence; None where one does."""
    choice = explain(graph, Query(Ask.SAMPLE))
    if choice.entries:
        return None
    reasons = "; ".join(f"{name}: {reason}" for name, reason in choice.refusals.items())
    return f"no solver draws samples of it ({reasons})"


def drawn(graph: FactorGraph, count: int, t: float, solver: Solver | None, generator: Generator) -> dict[str, Tensor]:
    """``count`` draws of the model, without gradients; a solver that does not draw is passed over."""
    query = Query(Ask.SAMPLE, temperature=t, num_samples=count)
    named = solver if solver is not None and solver.refuse(graph, query) is None else None
    try:
        return dict(sample(graph, named, num_samples=count, temperature=t, generator=generator, quiet=True).values)
    except SolverRefusal as refusal:
        raise LossRefusal(f"the model cannot be drawn from: {refusal}") from None


def drawn_completions(
    graph: FactorGraph, target: Assignment, count: int, t: float, solver: Solver | None, generator: Generator
) -> dict[str, Tensor]:
    """The target as one draw where it is complete, else ``count`` draws of its completions."""
    if target.complete(graph.topology.names):
        return {n: target[n][None] for n in graph.variables}
    held = graph.condition(target)
    apart = independent_draws(held, count, t, generator)
    if apart is not None:
        return apart
    return drawn(held, count, t, solver, generator)


def _sums(graph: FactorGraph) -> bool:
    """Whether a solver computes an exact and differentiable log partition."""
    entries = explain(graph, Query(Ask.LOG_PARTITION)).entries
    return bool(entries) and type(entries[0].solver).log_partition is not Solver.log_partition


def _mean_energy(graph: FactorGraph, beliefs: Mapping[str, Tensor]) -> Tensor:
    """(B,) float64: the mean energy of independent sites; infinite where the target has no allowed completion."""
    nowhere = torch.zeros(graph.num_instances, dtype=torch.float64)
    for name, p in beliefs.items():
        nowhere = nowhere.index_add(0, graph.variables[name].instance, (p.sum(1) < 0.5).double())
    return torch.where(nowhere > 0, torch.inf, graph.relaxed_energy(beliefs))


def _entropy(graph: FactorGraph, beliefs: Mapping[str, Tensor]) -> Tensor:
    """(B,) float64: the entropy of independent sites with these probabilities; known sites have none."""
    out = torch.zeros(graph.num_instances, dtype=torch.float64)
    for name, p in beliefs.items():
        out = out.index_add(0, graph.variables[name].instance, -torch.special.xlogy(p, p).sum(1).double())
    return out

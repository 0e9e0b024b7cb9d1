"""Losses that train an inference network, with its energy or after it: min-max, SEAL, amortisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, Discrete, Factor, FactorGraph
from ebmstruct.graph.relaxation import relaxation_refusal
from ebmstruct.inference.penalties import penalised
from ebmstruct.learning.losses.base import (
    Latent,
    Loss,
    LossValue,
    Margin,
    Setting,
    clamped_minimum,
    compared,
)

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class InferenceNetwork(Loss):
    """The structured hinge with an inference network in place of the minimiser, both trained by one step.

    With A the network's guess (``FactorGraph.guess``), c the task's cost, E relaxed to weights over states:
    min over the energy, max over the network of [weight * c(A) - E(A) + E(y*)]+ (Tu and Gimpel 2018). The
    energy's parameters see A held fixed; the network's see the derivative of the cost-augmented energy by A, the energy
    held fixed: they go downhill on weight * -c(A) + E(A). The value is the hinge, and its gradient trains both.
    rescaled: "margin" as above, or "slack": c(A) [1 - E(A) + E(y*)]+.  weight: of the cost; 0 is the perceptron.
    local_weight: of the network's cross-entropy at the known sites, which keeps it from drifting; it trains
    the network alone.
    truncated: whether the network rests, as in the original form, where the hinge is 0; without that it goes on
    (Tu, Pang and Gimpel 2020).
    Unknown sites are minimised over. Margin class: positive where the network finds the minimum and the task has a cost.
    Inference: none; a minimisation where sites are unknown. Cost: two energies and a gradient. Not where a solver is
    exact and quick: the network's minimum is too high, so that the hinge is too small.
    """

    name: ClassVar[str] = "inference_network"
    margin: ClassVar[Margin] = "positive"
    latent: ClassVar[tuple[Latent, ...]] = ("minimised",)

    weight: float = 1.0
    local_weight: float = 1.0
    rescaled: Literal["margin", "slack"] = "margin"
    truncated: bool = False

    def __post_init__(self) -> None:
        _at_least_zero(self, "weight", "local_weight")

    def refuse(self, graph: FactorGraph, target: Assignment) -> str | None:
        return _no_guess(graph) or relaxation_refusal(graph)

    def evaluate(self, graph: FactorGraph, target: Assignment, setting: Setting) -> LossValue:
        correct, costs = clamped_minimum(graph, target, setting.solver), _cost_of(graph, setting.cost)
        guess, leaves = _leaves(graph)
        incorrect = relaxed(graph, leaves)
        cost = self.weight * costs({n: x.detach() for n, x in leaves.items()})
        adversary = self.weight * costs(leaves)
        if self.rescaled == "slack":
            hinge = cost * (1.0 - incorrect + correct).clamp(min=0.0)
            objective = adversary * (1.0 - incorrect + correct.detach())
        else:
            hinge = (cost - incorrect + correct).clamp(min=0.0)
            objective = adversary - incorrect
        uphill = through(graph, guess, leaves, objective)
        if self.truncated:
            uphill = uphill * (hinge.detach() > 0)
        # the value goes downhill and the network up: its surrogate is subtracted
        return compared(correct, incorrect, hinge - uphill + self.local_weight * local_loss(graph, target))


@dataclass(frozen=True)
class Seal(Loss):
    """A structured energy as the loss of a task network (SEAL: Lee et al. 2022).

    The network is trained by its cross-entropy at the known sites plus weight * E(A), with A its guess and the energy
    held fixed; the energy, A held fixed, by ``energy``:
      - "ranking": -log of exp s(y*) / sum of exp s(y) over y* and ``samples`` outputs y drawn from the network,
        s(y) = -E(y) - log A(y) (noise-contrastive ranking, Ma and Collins 2018);
      - "margin": [cost_weight * c(A) - E(A) + E(y*)]+ (the margin loss of SEAL-dynamic);
      - "fixed": not at all; it was trained before (SEAL-static).
    Unlike ``InferenceNetwork`` the network is no adversary: what is wanted at the end is the network, and the energy
    tells it how labels go together.
    Unknown sites are minimised over, and refused by "ranking". Margin class: positive. Inference: none, a minimisation
    where sites are unknown. Cost: ``samples`` + 2 energies and a gradient. Not where the energy must be good far from
    the network's answers: it only ever sees those.
    """

    name: ClassVar[str] = "seal"
    margin: ClassVar[Margin] = "positive"
    latent: ClassVar[tuple[Latent, ...]] = ("minimised",)

    weight: float = 1.0
    energy: Literal["ranking", "margin", "fixed"] = "ranking"
    samples: int = 10
    cost_weight: float = 1.0

    def __post_init__(self) -> None:
        _at_least_zero(self, "weight", "cost_weight")
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1; found {self.samples}")

    def refuse(self, graph: FactorGraph, target: Assignment) -> str | None:
        reason = _no_guess(graph) or relaxation_refusal(graph)
        if reason is not None or self.energy != "ranking":
            return reason
        for name, block in graph.variables.items():
            if not isinstance(block.domain, Discrete):
                return f"its ranking draws states, and block {name!r} is {block.domain}; the option energy has margin"
        if not target.complete(graph.topology.names):
            return "its ranking needs a target that knows every site; the option energy has margin, which minimises"
        return None

    def evaluate(self, graph: FactorGraph, target: Assignment, setting: Setting) -> LossValue:
        guess, leaves = _leaves(graph)
        incorrect = relaxed(graph, leaves)
        task = local_loss(graph, target) + self.weight * through(graph, guess, leaves, incorrect)
        if self.energy == "fixed":
            return compared(graph.energy(target), incorrect, task) if _whole(graph, target) else LossValue(task)
        correct = clamped_minimum(graph, target, setting.solver)
        if self.energy == "margin":
            cost = _cost_of(graph, setting.cost)({n: x.detach() for n, x in leaves.items()})
            return compared(correct, incorrect, task + (self.cost_weight * cost - incorrect + correct).clamp(min=0.0))
        ranked, energies = _ranked(graph, target, correct, self.samples, setting.generator)
        return compared(correct, energies.mean(0), task + ranked)


@dataclass(frozen=True)
class Amortisation(Loss):
    """The energy of the network's guess, to be minimised by the network alone: amortisation of a finished energy.

    E(A) - temperature * H(A) + local_weight * cross-entropy of A at the known sites, with A the guess, H the sum of its
    sites' entropies and E held fixed (retrofitting, Tu and Gimpel 2018, section 2.2). At temperature 0 the network
    learns to give the minimum; at another the mean field of the energy at that temperature. The target is read by the
    cross-entropy only, so that it may know nothing. Margin class: none, since no energy is shaped. Inference: none.
    Cost: an energy with its gradient. Not for an energy that is still to be trained: another loss comes first.
    """

    name: ClassVar[str] = "amortisation"
    margin: ClassVar[Margin] = "none"
    latent: ClassVar[tuple[Latent, ...]] = ("minimised",)

    temperature: float = 0.0
    local_weight: float = 0.0

    def __post_init__(self) -> None:
        _at_least_zero(self, "temperature", "local_weight")

    def refuse(self, graph: FactorGraph, target: Assignment) -> str | None:
        return _no_guess(graph) or relaxation_refusal(graph)

    def evaluate(self, graph: FactorGraph, target: Assignment, setting: Setting) -> LossValue:
        guess, leaves = _leaves(graph)
        energy = relaxed(graph, leaves)
        value = energy.detach() + through(graph, guess, leaves, energy)
        if self.temperature:
            value = value - self.temperature * entropy(graph)
        if self.local_weight:
            value = value + self.local_weight * local_loss(graph, target)
        return LossValue(value)


def _leaves(graph: FactorGraph) -> tuple[Weights, Weights]:
    """The graph's guess, and the same numbers without its record, ready to be differentiated by."""
    guess = dict(graph.guess or {})
    return guess, {n: g.detach().requires_grad_(True) for n, g in guess.items()}


def relaxed(graph: FactorGraph, weights: Weights) -> Tensor:
    """(B,) the relaxed energy, with a large finite entry in place of each infinite one: weights are never quite 0."""
    with torch.enable_grad():
        return penalised(graph)[0].relaxed_energy(weights)


def through(graph: FactorGraph, guess: Weights, leaves: Weights, objective: Tensor) -> Tensor:
    """(B,) zeros whose gradient by the guess is that of the objective by ``leaves``, and by nothing else.

    leaves: the guess without its record, of which ``objective`` (B,) was computed. Whatever else the objective depends on,
    such as the energy's parameters, gets no gradient by this.
    """
    out = torch.zeros(graph.num_instances, dtype=torch.float64, device=objective.device)
    if not objective.requires_grad:  # nothing depends on the guess, or nobody records
        return out
    names = list(leaves)
    found = torch.autograd.grad(objective.sum(), [leaves[n] for n in names], retain_graph=True, allow_unused=True)
    for name, gradient in zip(names, found, strict=True):
        if gradient is not None:
            rows = (gradient.detach() * (guess[name] - guess[name].detach())).sum(1)
            out = out.index_add(0, graph.variables[name].instance, rows.double())
    return out


def local_loss(graph: FactorGraph, target: Assignment) -> Tensor:
    """(B,) -log of the guess's weight on the target, summed over the known sites of discrete blocks.

    Over continuous blocks half the squared distance, which is the same for normal noise of width 1.
    """
    out = torch.zeros(graph.num_instances, dtype=torch.float64)
    for name, given in (graph.guess or {}).items():
        wanted = target.get(name)
        if wanted is None:
            continue
        block = graph.variables[name]
        known = target.known.get(name)
        if isinstance(block.domain, Discrete):
            states = wanted if known is None else torch.where(known, wanted, 0)
            here = given.gather(1, states[:, None])[:, 0]
            rows = -here.clamp(min=torch.finfo(given.dtype).tiny).log()
        else:
            rows = 0.5 * (given - wanted).square().sum(1)
        if known is not None:
            rows = torch.where(known, rows, 0.0)
        out = out.to(rows.device).index_add(0, block.instance, rows.double())
    return out


def entropy(graph: FactorGraph) -> Tensor:
    """(B,) the entropies of the guess's weights, summed over the sites of discrete blocks."""
    out = torch.zeros(graph.num_instances, dtype=torch.float64)
    for name, given in (graph.guess or {}).items():
        block = graph.variables[name]
        if isinstance(block.domain, Discrete):
            out = out.index_add(0, block.instance, torch.special.entr(given).sum(1).double())
    return out


def _ranked(
    graph: FactorGraph, target: Assignment, correct: Tensor, samples: int, generator: Generator
) -> tuple[Tensor, Tensor]:
    """(B,) the ranking loss of the target among draws from the guess, and (S, B) the draws' energies."""
    draws, chance = {}, torch.zeros(samples, graph.num_instances, dtype=torch.float64)
    own = torch.zeros(graph.num_instances, dtype=torch.float64)
    for name, given in (graph.guess or {}).items():
        block, weights = graph.variables[name], given.detach()
        floor = torch.finfo(weights.dtype).tiny
        drawn = torch.multinomial(weights, samples, replacement=True, generator=generator) if block.num_sites else None
        states = torch.zeros(0, samples, dtype=torch.long) if drawn is None else drawn
        logs = weights.clamp(min=floor).log()
        chance = chance.index_add(1, block.instance, logs.gather(1, states).T.double())
        own = own.index_add(0, block.instance, logs.gather(1, target[name][:, None])[:, 0].double())
        draws[name] = states.T.reshape(-1)
    energies = graph.repeat(samples).energy(draws).reshape(samples, -1)
    scores = torch.cat([(-correct - own)[None], -energies - chance])
    return torch.logsumexp(scores, 0) - scores[0], energies


def _cost_of(graph: FactorGraph, cost: Sequence[Factor]) -> Callable[[Weights], Tensor]:
    """The task's cost as a function of weights: (B,), 0 where the task has none."""
    if not cost:
        return lambda weights: torch.zeros(graph.num_instances, dtype=torch.float64)
    alone = FactorGraph(tuple(graph.variables.values()), cost)
    others = {} if graph.evidence is None else dict(graph.evidence.values)
    return lambda weights: alone.relaxed_energy({**others, **weights})


def _no_guess(graph: FactorGraph) -> str | None:
    """Why a graph has no guess to train, in a sentence; None where it has."""
    guess, fixed = graph.guess or {}, graph.evidence.values if graph.evidence is not None else {}
    silent = [n for n, v in graph.variables.items() if v.num_sites and n not in guess and n not in fixed]
    if not silent:
        return None
    return (
        f"the graph carries no first guess for blocks {silent}; join the energy to an inference network (Amortised), or "
        "give the graph one (with_guess)"
    )


def _whole(graph: FactorGraph, target: Assignment) -> bool:
    return target.complete(graph.topology.names)


def _at_least_zero(loss: Loss, *names: str) -> None:
    for name in names:
        if not getattr(loss, name) >= 0:
            raise ValueError(f"{name} must be at least 0; found {getattr(loss, name)}")

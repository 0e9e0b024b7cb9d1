"""The outputs at which a value network is taught: the target's, found ones, over-valued ones, scattered ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, Continuous, Discrete, FactorGraph
from ebmstruct.graph.relaxation import relaxation_refusal
from ebmstruct.inference import Solver, minimize
from ebmstruct.inference.descent.simplex_descent import Logs, RelaxedEnergy, normalised
from ebmstruct.inference.penalties import penalised
from ebmstruct.inference.smooth_energy import open_continuous, starting_point
from ebmstruct.learning.losses.base import cost_augmented
from ebmstruct.learning.losses.latent_sites import known_sites
from ebmstruct.learning.losses.output_cost import cost_or_default
from ebmstruct.learning.losses.output_value import OutputValue

Outputs = dict[str, Tensor]
"""Block name to weights (n, K), states (n,) or points (n, d)."""


@dataclass(frozen=True, eq=False)
class OutputMaker:
    """Outputs of every kind for a graph and a target, none of them differentiable in the model's parameters.

    relaxed: whether discrete outputs are weights over states, which gradients move: ``steps`` steps of entropic mirror
    descent, each changing the logarithm of no weight by more than ``rate`` beside those of its site. Otherwise solvers find
    states and points.
    noise: the width of the normal starting logarithms.  reach: the scale of scattered points.
    """

    graph: FactorGraph
    target: Assignment
    value: OutputValue
    solver: Solver | None
    generator: Generator
    relaxed: bool
    steps: int
    rate: float
    noise: float
    reach: float

    def at_target(self) -> Outputs:
        """The target itself; sites that it does not know hold nothing that counts."""
        return dict(self.target.items())

    def at_inference(self) -> Outputs:
        """What few steps of inference find, from a random start."""
        if not self.relaxed:
            return dict(minimize(self.graph, self.solver).assignment.items())
        return self._moved(lambda function, weights: function(weights))

    def at_adversary(self, loss: Callable[[Tensor, Tensor], Tensor]) -> Outputs:
        """Where the model errs most: steps up the loss, a function of energies and values, in the output.

        Without weights to move: the least energy less the cost, the output that the model values too highly.
        """
        if not self.relaxed:
            cost = self.value.cost or cost_or_default(self.graph, self.target, (), self.reach)
            return dict(minimize(cost_augmented(self.graph, cost), self.solver).assignment.items())

        def wrong(function: RelaxedEnergy, weights: tuple[Tensor, ...]) -> Tensor:
            named = {**function.fixed, **dict(zip(function.names, weights, strict=True))}
            return -loss(function(weights), self.value({n: named[n] for n in self.target}))

        return self._moved(wrong)

    def at_random(self) -> Outputs:
        """The target with each site drawn anew with a probability that is drawn for each instance; points get noise."""
        graph, out = self.graph, {}
        share = torch.rand(graph.num_instances, generator=self.generator, dtype=torch.float64)
        for name, value in self.target.items():
            block = graph.variables[name]
            rows = share[block.instance]
            if isinstance(block.domain, Continuous):
                step = torch.randn(
                    block.num_sites, block.domain.tangent_dim, generator=self.generator, dtype=torch.float64
                )
                moved = block.domain.retract(value, (2 * self.reach * rows[:, None] * step).to(value.dtype))
                out[name] = block.domain.project(moved)
                continue
            draw = torch.rand(2, block.num_sites, generator=self.generator, dtype=torch.float64)
            state = (draw[0] * block.state_counts).long()
            out[name] = torch.where(draw[1] < rows, state, value)
        return out

    def rounded(self, outputs: Mapping[str, Tensor]) -> Assignment:
        """Outputs as states and points, known where the target is."""
        values = {}
        for name in self.target:
            value = outputs[name]
            if isinstance(self.graph.variables[name].domain, Discrete) and value.dim() == 2:
                value = value.argmax(1)
            values[name] = value
        return Assignment(values, self.target.known)

    def _moved(self, objective: Callable[[RelaxedEnergy, tuple[Tensor, ...]], Tensor]) -> Outputs:
        """Weights after some steps down an objective (B,)."""
        soft, _ = penalised(self.graph)
        function = RelaxedEnergy.of(soft, starting_point(self.graph, None))
        logs: Logs = tuple(
            normalised(
                (self.noise * torch.randn(a.shape, generator=self.generator, dtype=torch.float64)).to(function.dtype), a
            )
            for a in function.legal
        )
        for _ in range(self.steps):
            with torch.enable_grad():
                weights = tuple(x.detach().exp().requires_grad_(True) for x in logs)
                total = objective(function, weights)
                found = torch.autograd.grad(total, weights, torch.ones_like(total), allow_unused=True)
            logs = _stepped(function, logs, found, self.rate)
        weights = tuple(x.exp() for x in logs)
        return {**function.fixed, **dict(zip(function.names, weights, strict=True))}


def _stepped(function: RelaxedEnergy, logs: Logs, gradient: tuple[Tensor | None, ...], rate: float) -> Logs:
    """One step, its length such that the steepest site of each instance changes by ``rate``."""
    steepest = torch.zeros(function.graph.num_instances, dtype=torch.float64)
    parts = []
    for x, g, legal, owner in zip(logs, gradient, function.legal, function.owners, strict=True):
        part = torch.zeros_like(x) if g is None else torch.where(legal, g, 0.0).nan_to_num(0.0)
        parts.append(part)
        high, low = part.masked_fill(~legal, -torch.inf).amax(1), part.masked_fill(~legal, torch.inf).amin(1)
        steepest = steepest.scatter_reduce(0, owner, (high - low).double().nan_to_num(0.0), "amax")
    lengths = function.spread(rate / steepest.clamp(min=1e-12))
    moved = zip(logs, parts, function.legal, lengths, strict=True)
    return tuple(normalised(x - r.to(x.dtype) * g, legal) for x, g, legal, r in moved)


def weights_move(graph: FactorGraph, value: OutputValue) -> bool:
    """Whether outputs can be weights over states: everything is discrete, and energy and value are defined for them."""
    if open_continuous(graph) or relaxation_refusal(graph) is not None:
        return False
    if not any(isinstance(v.domain, Discrete) and v.num_sites for v in graph.variables.values()):
        return False
    return not value.cost or relaxation_refusal(FactorGraph(tuple(graph.variables.values()), value.cost)) is None


def has_latent(graph: FactorGraph, target: Assignment) -> bool:
    """Whether the target leaves sites unknown."""
    return any(not bool(known_sites(graph, target, n).all()) for n in graph.variables)

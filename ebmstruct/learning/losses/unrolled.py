"""The loss of what a number of steps of descent lead to, with its gradient through the steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.graph.relaxation import relaxation_refusal
from ebmstruct.inference.descent.simplex_descent import RelaxedEnergy, normalised
from ebmstruct.inference.penalties import penalised
from ebmstruct.inference.smooth_energy import SmoothEnergy, constraint_labels, starting_point
from ebmstruct.learning.losses.base import Latent, Loss, LossValue, Margin, Setting
from ebmstruct.learning.losses.output_loss import TaskLoss, check_output_options, output_loss


@dataclass(frozen=True)
class Unrolled(Loss):
    """The task's loss of the output that ``steps`` steps of gradient descent on the energy lead to.

    L = (1 / average) sum over the last ``average`` iterates of task_loss(z_t, target), with the gradient through all steps
    (Domke 2012; for structured prediction energy networks Belanger, Yang and McCallum 2017). The energy is trained to be
    a good one for this very descent; prediction should use as many steps or more.

    Points move by z' = retract(z, -v), v = momentum v + step_size gradient, and are kept inside bounds. Discrete sites
    have weights w over their states that move by entropic mirror descent on the relaxed energy: log w' = (1 - rate T) log w
    - rate gradient, normalised (T = ``temperature``). With rate 1 and temperature 1 that is a step of parallel mean field,
    as in Zheng et al. 2015. Infinite entries of tables count as a large finite penalty. Unknown sites move as all others
    do, and are not judged: they are minimised over along with the output.

    steps: K.  step_size, momentum: of points; the momentum also of weights.  rate: of weights.  The scale of the energy is
    learnt, and acts as a learnt step size.  start_noise: standard deviation of normal noise on the start, which is even
    weights and ``Continuous.start`` without it.  average: how many of the last iterates are judged.  truncate: the
    gradient goes through the last so many steps only; 0 for all.  task_loss: "likelihood" of the target's states under
    the weights (points: half the square distance in units of ``scale``), "squared", or the task's "cost", relaxed.
    Margin class: zero, where the descent arrives: the loss is least where the descent ends at the target.
    Cost: K relaxed energies with gradients, and as many again behind; memory grows with K (or with ``truncate``). Not for
    descents that need hundreds of steps: implicit differentiation costs no memory for them.
    """

    name: ClassVar[str] = "unrolled"
    margin: ClassVar[Margin] = "zero"
    latent: ClassVar[tuple[Latent, ...]] = ("minimised",)

    steps: int = 20
    step_size: float = 0.1
    rate: float = 1.0
    momentum: float = 0.0
    temperature: float = 0.0
    start_noise: float = 0.0
    average: int = 1
    truncate: int = 0
    task_loss: TaskLoss = "likelihood"
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_output_options(self.name, self.task_loss, self.scale)
        if self.steps < 1 or not 1 <= self.average <= self.steps or not 0 <= self.truncate <= self.steps:
            raise ValueError(
                "unrolled: steps must be at least 1, average 1 to steps, truncate 0 to steps; found "
                f"steps {self.steps}, average {self.average}, truncate {self.truncate}"
            )
        if not (self.step_size > 0 and self.rate > 0 and 0 <= self.momentum < 1):
            raise ValueError(
                "unrolled: step_size and rate must be positive, momentum at least 0 and below 1; found "
                f"{self.step_size}, {self.rate} and {self.momentum}"
            )
        if not (self.temperature >= 0 and self.rate * self.temperature <= 1 and self.start_noise >= 0):
            raise ValueError(
                "unrolled: temperature must be at least 0 and at most 1 / rate, start_noise at least 0; found "
                f"{self.temperature} and {self.start_noise}"
            )

    def refuse(self, graph: FactorGraph, target: Assignment) -> str | None:
        """Why there is no descent over the graph."""
        return descent_refusal(graph)

    def evaluate(self, graph: FactorGraph, target: Assignment, setting: Setting) -> LossValue:
        descent = _Descent(self, graph)
        where = descent.start(setting.generator)
        recorded, value = descent.recorded(where), torch.zeros(graph.num_instances, dtype=torch.float64)
        for step in range(self.steps):
            record = recorded and (not self.truncate or step >= self.steps - self.truncate)
            where = descent.step(where, record=record)
            if step >= self.steps - self.average:
                logs, points = descent.named(where)
                value = value + output_loss(
                    graph, target, logs, points, kind=self.task_loss, scale=self.scale, cost=setting.cost
                )
        return LossValue(value / self.average)


def descent_refusal(graph: FactorGraph) -> str | None:
    """Why neither weights of states nor points of a graph can descend; None where they can."""
    labels = constraint_labels(graph)
    if labels:
        return f"factors {labels} are constraints, whose energy has no gradient"
    reason = relaxation_refusal(graph)
    if reason is not None:
        return reason
    values = starting_point(graph, None)
    if not RelaxedEnergy.of(graph, values).names and not SmoothEnergy.of(graph, values).names:
        return "no site is open: there is nothing to move"
    return None


@dataclass(frozen=True, eq=False)
class _Place:
    """logs, points: of the open blocks.  pushes: their velocities."""

    logs: tuple[Tensor, ...]
    points: tuple[Tensor, ...]
    pushes: tuple[Tensor, ...]


class _Descent:
    """The energy of a graph over weights and points, and one step down."""

    def __init__(self, options: Unrolled, graph: FactorGraph) -> None:
        self.options, self.graph = options, penalised(graph)[0]
        self.values = starting_point(graph, None)
        self.relaxed = RelaxedEnergy.of(self.graph, self.values)
        self.smooth = SmoothEnergy.of(self.graph, self.values)

    def start(self, generator: Generator) -> _Place:
        """Even weights and each domain's own start, with noise where that was asked."""
        noise, logs, points = self.options.start_noise, [], []
        dtype = next((self.values[n].dtype for n in self.smooth.names), self.relaxed.dtype)
        for legal in self.relaxed.legal:
            first = torch.zeros(legal.shape, dtype=torch.float64)
            if noise:
                first = noise * torch.randn(legal.shape, generator=generator, dtype=torch.float64)
            logs.append(normalised(first.to(dtype), legal))
        for name, domain in zip(self.smooth.names, self.smooth.domains, strict=True):
            x = self.values[name]
            if noise:
                step = torch.randn(x.shape[0], domain.tangent_dim, generator=generator, dtype=torch.float64)
                x = domain.project(domain.retract(x, (noise * step).to(x.dtype)))
            points.append(x)
        pushes = [torch.zeros_like(x) for x in logs]
        pushes += [x.new_zeros(x.shape[0], d.tangent_dim) for x, d in zip(points, self.smooth.domains, strict=True)]
        return _Place(tuple(logs), tuple(points), tuple(pushes))

    def named(self, where: _Place) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Block to logarithms of weights, and block to points."""
        return (
            dict(zip(self.relaxed.names, where.logs, strict=True)),
            dict(zip(self.smooth.names, where.points, strict=True)),
        )

    def recorded(self, where: _Place) -> bool:
        """Whether somebody wants derivatives in values that the energy depends on."""
        return (
            torch.is_grad_enabled() and self._energy([x.exp() for x in where.logs] + list(where.points)).requires_grad
        )

    def step(self, where: _Place, *, record: bool) -> _Place:
        """One step of all instances; ``record`` keeps it differentiable in the factors' values."""
        o = self.options
        with torch.set_grad_enabled(record):
            gradient = self._gradient(where, record=record)
            count = len(where.logs)
            logs, points, pushes = [], [], []
            for x, g, push, legal in zip(
                where.logs, gradient[:count], where.pushes[:count], self.relaxed.legal, strict=True
            ):
                push = o.momentum * push - o.rate * torch.where(legal, g, 0.0)
                calm = x.masked_fill(~legal, 0.0) * (1 - o.rate * o.temperature)
                logs.append(normalised(calm + push, legal))
                pushes.append(push)
            for i, (x, g, push) in enumerate(zip(where.points, gradient[count:], where.pushes[count:], strict=True)):
                push = o.momentum * push - o.step_size * self._pulled(i, x, g)
                points.append(self._moved(i, x, push))
                pushes.append(push)
            return replace(where, logs=tuple(logs), points=tuple(points), pushes=tuple(pushes))

    def _gradient(self, where: _Place, *, record: bool) -> Sequence[Tensor]:
        """Of the relaxed energy, by weights and by ambient points."""
        with torch.enable_grad():
            leaves = [_leaf(x.exp()) for x in where.logs] + [_leaf(x) for x in where.points]
            energy = self._energy(leaves)
            if not energy.requires_grad:
                return [torch.zeros_like(x) for x in leaves]
            found = torch.autograd.grad(energy.sum(), leaves, create_graph=record, allow_unused=True)
        return [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]

    def _energy(self, moving: Sequence[Tensor]) -> Tensor:
        names = (*self.relaxed.names, *self.smooth.names)
        fixed = {n: v for n, v in self.relaxed.fixed.items() if n not in names}
        return self.graph.relaxed_energy({**fixed, **dict(zip(names, moving, strict=True))})

    def _pulled(self, i: int, x: Tensor, gradient: Tensor) -> Tensor:
        moving = self.smooth.moving[i]
        step = self.smooth.domains[i].pull_back(x, gradient)
        return step if moving is None else step * moving

    def _moved(self, i: int, x: Tensor, step: Tensor) -> Tensor:
        domain = self.smooth.domains[i]
        return domain.project(domain.retract(x, step))


def _leaf(x: Tensor) -> Tensor:
    return x if x.requires_grad else x.detach().requires_grad_(True)

"""Adam: steps of a length that the gradient's own history sets, for energies too rough for a line search."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.descent.gradient_refusal import gradient_refusal, gradient_status
from ebmstruct.inference.descent.multi_start import best_start, of_start, scattered_starts, values_of_start
from ebmstruct.inference.descent.packing import Packing
from ebmstruct.inference.descent.point_function import Bounds, chosen, coordinates
from ebmstruct.inference.pacing import punctual
from ebmstruct.inference.result import Answer, Budget, Query
from ebmstruct.inference.smooth_energy import Point, SmoothEnergy
from ebmstruct.inference.solver import IterativeMinimizer, Progress


@dataclass(frozen=True, eq=False)
class AdamState:
    """Where every start stands; (B,) tensors have one entry for each instance of each start.

    graph: the one that was asked about, without copies.
    mean, square: running means of the gradient and of its square, before they are corrected.  rate: (B,) the share
    of the learning rate in use.  least: (B,) the lowest energy so far; since: steps without a lower one.
    largest: the largest entry of the projected gradient.  steps: how many have been made.
    """

    graph: FactorGraph
    function: SmoothEnergy
    packing: Packing
    bounds: Bounds | None
    point: Point
    energy: Tensor
    gradient: Tensor
    mean: Tensor
    square: Tensor
    rate: Tensor
    least: Tensor
    since: Tensor
    largest: Tensor
    done: Tensor
    gave_up: Tensor
    steps: int = 0


@dataclass(frozen=True)
class Adam(IterativeMinimizer[AdamState]):
    """Least energy over continuous blocks by Adam (Kingma and Ba 2015), each instance with its own rate and end.

    Any differentiable energy; noise and kinks that stop a line search do not stop it, and the best point met is kept.
    Bounds of ``Real`` hold by projection; on manifolds the running means are carried along unchanged.
    The rate of an instance is halved where ``patience`` steps bring nothing lower, and where a trial is NaN or infinite,
    which is never accepted; it is done after ``halvings`` of them, or where no entry of its projected gradient exceeds
    ``tolerance`` (None for 1e-8 in float64, 1e-5 in float32). On smooth energies L-BFGS needs far fewer steps.

    learning_rate: the length of a first step in each coordinate.  decay_steps: steps after which a cosine has brought
    the rate to 0; None for no such decay.  max_iterations: steps; what is not done after so many ends MAX_STEPS.
    starts, start_distance: several descents from scattered starts, of which the best is kept.
    Cost of a step: one energy with its gradient.
    """

    name: ClassVar[str] = "adam"

    learning_rate: float = 0.1
    betas: tuple[float, float] = (0.9, 0.999)
    decay_steps: int | None = None
    patience: int = 100
    halvings: int = 15
    tolerance: float | None = None
    max_iterations: int = 5000
    starts: int = 1
    start_distance: float = 1.0

    def __post_init__(self) -> None:
        if self.starts < 1 or self.patience < 1:
            raise GraphError(f"Adam: starts and patience must be at least 1; found {self.starts} and {self.patience}")
        if not self.learning_rate > 0 or not all(0 <= b < 1 for b in self.betas):
            raise GraphError(
                f"Adam: the learning rate must be positive and betas in [0, 1); found {self.learning_rate}, {self.betas}"
            )

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        return gradient_refusal(graph, query)

    def begin(
        self, graph: FactorGraph, query: Query, init: Assignment | None, generator: Generator | None
    ) -> AdamState:
        function, point = scattered_starts(graph, init, self.starts, self.start_distance, generator)
        energy, parts = function.with_gradient(point)
        packing = Packing.of(parts, function.instances, energy.shape[0])
        gradient, energy = packing.pack(parts), energy.double()
        zero, none = torch.zeros_like(gradient), torch.zeros_like(energy)
        state = AdamState(
            graph,
            function,
            packing,
            Bounds.of(function, packing, point, parts),
            point,
            energy,
            gradient,
            zero,
            zero,
            torch.ones_like(energy),
            energy,
            none.long(),
            none,
            none.bool(),
            none.bool(),
        )
        return self._judged(state)

    def step(self, graph: FactorGraph, query: Query, state: AdamState) -> AdamState:
        """One step of each instance that is not done."""
        packing, count = state.packing, state.steps + 1
        first, second = self.betas
        mean = torch.lerp(state.gradient, state.mean, first)
        square = torch.lerp(state.gradient.square(), state.square, second)
        length = self.learning_rate * self._decay(state.steps) * torch.where(state.done, 0.0, state.rate)
        corrected = (mean / (1 - first**count)) / ((square / (1 - second**count)).sqrt() + 1e-12)
        move = -packing.spread(length).to(mean.dtype) * corrected
        trial = state.function.retract(state.point, packing.unpack(move))
        raw, parts = state.function.with_gradient(trial)
        energy, gradient = raw.double(), packing.pack(parts)
        sound = energy.isfinite() & packing.dot(gradient, gradient).isfinite()
        taken = sound & ~state.done
        pick = packing.spread(taken)
        lower = taken & (energy < state.least - 2 * torch.finfo(raw.dtype).eps * state.least.abs())
        since = torch.where(lower, 0, state.since + 1)
        late = (since >= self.patience) | ~sound
        return self._judged(
            replace(
                state,
                point=chosen(packing, taken, trial, state.point),
                energy=torch.where(taken, energy, state.energy),
                gradient=torch.where(pick, gradient, state.gradient),
                mean=torch.where(pick, mean, 0.0),  # what led to a broken energy is forgotten
                square=torch.where(pick, square, state.square),
                rate=torch.where(late, 0.5 * state.rate, state.rate),
                least=torch.where(lower, energy, state.least),
                since=torch.where(late, 0, since),
                steps=count,
            )
        )

    def _decay(self, steps: int) -> float:
        if self.decay_steps is None:
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, steps / self.decay_steps)))

    def _judged(self, state: AdamState) -> AdamState:
        """The state with what is done, by the gradient, the rate and the count of steps."""
        gradient = state.gradient
        if state.bounds is not None:
            gradient = state.bounds.projected(coordinates(state.function, state.packing, state.point), gradient)
        largest = state.packing.largest(gradient).double()
        least = self.tolerance if self.tolerance is not None else (1e-8 if gradient.dtype == torch.float64 else 1e-5)
        done = ~(largest > least) | ~state.energy.isfinite() | (state.rate < 0.5**self.halvings)
        last = self.max_iterations if self.decay_steps is None else min(self.decay_steps, self.max_iterations)
        gave_up = ~(done | state.done) & (state.steps >= last)
        return replace(state, largest=largest, done=state.done | done | gave_up, gave_up=state.gave_up | gave_up)

    def progress(self, state: AdamState) -> Progress:
        picked = best_start(state.graph, self.starts, state.energy)
        return Progress(
            values_of_start(state.graph, self.starts, picked, state.function.values(state.point)),
            of_start(self.starts, picked, state.energy),
            torch.full((state.graph.num_instances,), -torch.inf, dtype=torch.float64),
            state.done.reshape(self.starts, -1).all(0),
        )

    def solve(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: Assignment | None = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> Answer:
        result, state = self.iterate(graph, query, init=init, budget=punctual(budget, 0.5), generator=generator)
        picked = best_start(graph, self.starts, state.least)
        gradient, gave_up = of_start(self.starts, picked, state.largest), of_start(self.starts, picked, state.gave_up)
        status = gradient_status(result, gradient, gave_up)
        return replace(result, status=status, stats={**result.stats, "gradient": gradient})

"""Descent on any differentiable function of a point: L-BFGS with each instance its own line search, history and end.

``minimize_point`` is the whole loop; ``begin_descent`` and ``descend`` are its parts, one trial a call. The function
is a ``SmoothEnergy``, or any other (B,) function of the same point by ``PointFunction``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ebmstruct.inference.descent.packing import Packing
from ebmstruct.inference.descent.point_function import Bounds, PointFunction, SmoothFunction, chosen, coordinates
from ebmstruct.inference.descent.quasi_newton import Memory, direction, forget, remember, restricted
from ebmstruct.inference.result import Budget
from ebmstruct.inference.smooth_energy import Point

__all__ = ["DescentOptions", "DescentState", "PointFunction", "begin_descent", "descend", "minimize_point"]

ARMIJO = 1e-4
"""The share of the predicted decrease that a step must bring (Nocedal and Wright 2006, (3.4))."""
CURVATURE = 0.9
"""The share of the slope that may be left after a step (Nocedal and Wright 2006, (3.5))."""
TRIALS = {torch.float64: 45, torch.float32: 24}
"""Trials of one line search; its last steps are below what the precision can tell."""
LONGEST = 1e15
"""The largest scale of a step, in lengths of the gradient."""
UNBOUNDED = {torch.float64: -1e20, torch.float32: -1e12}
"""An energy below this is taken to have no least value; the instance gives up."""
PATIENCE = 3
"""Iterations in a row without a decrease beyond rounding, after which an instance is done."""


@dataclass(frozen=True, eq=False)
class DescentOptions:
    """How a descent works.

    history: m, remembered steps.  tolerance: an instance is done where no entry of its (projected) gradient is larger;
    None for 1e-8 in float64 and 1e-5 in float32.  max_iterations: accepted steps, after which an instance gives up.
    """

    history: int = 10
    tolerance: float | None = None
    max_iterations: int = 2000

    def least_gradient(self, dtype: torch.dtype) -> float:
        """The tolerance for numbers of a precision."""
        if self.tolerance is not None:
            return self.tolerance
        return 1e-8 if dtype == torch.float64 else 1e-5


@dataclass(frozen=True, eq=False)
class DescentState:
    """Where a descent stands; (B,) tensors have one entry an instance.

    point: the best so far.  energy: (B,) float64.  slope: the derivative along the direction.  step: the length to be
    tried next, known to lie between ``low`` and ``high``.  trials: of the present line search.  iterations: accepted
    steps.  largest: the largest entry of the (projected) gradient.  done: nothing left to do.  gave_up: those of them
    that used up their iterations, or whose energy falls without end.
    """

    packing: Packing
    bounds: Bounds | None
    point: Point
    energy: Tensor
    gradient: Tensor
    memory: Memory
    direction: Tensor
    slope: Tensor
    step: Tensor
    low: Tensor
    high: Tensor
    trials: Tensor
    stalled: Tensor
    iterations: Tensor
    largest: Tensor
    done: Tensor
    gave_up: Tensor
    evaluations: int = 1


def begin_descent(function: SmoothFunction, point: Point, options: DescentOptions) -> DescentState:
    """The state before the first step; an instance whose energy or gradient is not finite is done at once."""
    energy, gradient = function.with_gradient(point)
    packing = Packing.of(gradient, function.instances, energy.shape[0])
    vector = packing.pack(gradient)
    zero = torch.zeros(energy.shape[0], dtype=torch.float64)
    count = zero.long()
    state = DescentState(
        packing,
        Bounds.of(function, packing, point, gradient),
        tuple(point),
        energy.double(),
        vector,
        Memory.empty(packing, options.history, vector),
        torch.zeros_like(vector),
        zero,
        zero,
        zero,
        zero,
        count,
        count,
        count,
        zero,
        zero.bool(),
        zero.bool(),
    )
    return _aimed(function, state, ~state.done, options)


def falls_without_end(energy: Tensor, dtype: torch.dtype) -> Tensor:
    """(B,) bool: the instances whose finite energy is below all that makes sense in the precision of the point."""
    return (energy < UNBOUNDED.get(dtype, -1e12)) & energy.isfinite()


def minimize_point(
    function: SmoothFunction, point: Point, options: DescentOptions | None = None, budget: Budget | None = None
) -> DescentState:
    """Descend from a point until every instance is done or the budget ends; a step of the budget is a trial."""
    options, budget = options or DescentOptions(), budget or Budget()
    state = begin_descent(function, point, options)
    while not bool(state.done.all()) and not budget.expired:
        if budget.max_steps is not None and state.evaluations > budget.max_steps:
            break
        state = descend(function, state, options)
    return state


def descend(function: SmoothFunction, state: DescentState, options: DescentOptions) -> DescentState:
    """One trial in each instance: accepted by the Wolfe conditions, or the interval of lengths is narrowed.

    Without bounds in the way a step is accepted where the energy falls enough (Armijo) and the slope has risen enough
    (weak Wolfe), by bisection and expansion as in Lewis and Overton (2013), which needs no smoothness; within rounding
    of the energy the slope alone decides (Hager and Zhang 2005). A step bent by a bound needs the first condition only.
    A trial that is NaN or infinite is too long. Cost: one energy with its gradient, a few passes over the memory.
    """
    packing, active = state.packing, ~state.done
    trials = TRIALS.get(state.direction.dtype, 24)
    wanted = packing.spread(state.step.to(state.direction.dtype)) * state.direction
    trial = function.retract(state.point, packing.unpack(wanted))
    raw, parts = function.with_gradient(trial)
    energy, gradient = raw.double(), packing.pack(parts)
    moved, bent = _displacement(function, state, trial, wanted)
    finite = energy.isfinite() & packing.dot(gradient, gradient).isfinite()
    decrease = packing.dot(state.gradient, moved).double()
    slope = packing.dot(gradient, state.direction).double()
    noise = 4 * torch.finfo(gradient.dtype).eps * state.energy.abs()
    flat = (energy <= state.energy + noise) & (slope.abs() <= CURVATURE * state.slope.abs())
    enough = finite & ((energy <= state.energy + ARMIJO * decrease) | flat)
    curved = (slope >= CURVATURE * state.slope) | bent | (state.trials >= trials // 3)
    accepted, longer = active & enough & curved, active & enough & ~curved
    failed = active & ~accepted & (state.trials >= trials)
    state = _narrowed(state, energy, slope, decrease, active & ~enough, longer)
    if bool(accepted.any()):
        state = _accepted(function, state, accepted, trial, energy, gradient, moved, options)
    if bool(failed.any()):
        state = _failed(function, state, failed, options)
    return state


def _displacement(function: SmoothFunction, state: DescentState, trial: Point, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The step that was truly made, and (B,) bool whether a bound has bent it."""
    if state.bounds is None:
        return wanted, torch.zeros_like(state.done)
    made = coordinates(function, state.packing, trial) - coordinates(function, state.packing, state.point)
    inside = torch.isinf(state.bounds.lower) & torch.isinf(state.bounds.upper)
    made = torch.where(inside, wanted, made)
    off = ((made - wanted).abs() > 1e-3 * wanted.abs()).to(made.dtype)
    return made, state.packing.dot(off, off) > 0


def _narrowed(
    state: DescentState, energy: Tensor, slope: Tensor, decrease: Tensor, shorter: Tensor, longer: Tensor
) -> DescentState:
    """The next length to try where the last was too long or too short."""
    changed, evaluations = shorter | longer, state.evaluations + 1
    if not bool(changed.any()):  # most steps of a lonely instance
        return replace(state, evaluations=evaluations)
    step = state.step
    high, low = torch.where(shorter, step, state.high), torch.where(longer, step, state.low)
    excess = energy - state.energy - decrease
    parabola = step * (-0.5 * decrease / excess)
    parabola = torch.where(energy.isfinite() & (excess > 0), parabola, 0.5 * step)
    first = torch.minimum(torch.maximum(parabola, 0.1 * step), 0.5 * step)
    between = torch.where(low > 0, 0.5 * (low + high), first)
    secant = step * state.slope / (state.slope - slope)
    farther = torch.where(slope > state.slope, torch.minimum(torch.maximum(secant, 2 * step), 10 * step), 10 * step)
    tried = torch.where(longer & torch.isinf(high), farther, between)
    return replace(
        state,
        evaluations=evaluations,
        low=low,
        high=high,
        step=torch.where(changed, tried, step),
        trials=state.trials + changed,
    )


def _accepted(
    function: SmoothFunction,
    state: DescentState,
    accepted: Tensor,
    trial: Point,
    energy: Tensor,
    gradient: Tensor,
    moved: Tensor,
    options: DescentOptions,
) -> DescentState:
    """The state at the trial point where it was accepted, with what has been learnt on the way."""
    packing = state.packing
    memory = remember(packing, state.memory, moved, gradient - state.gradient, accepted, state.done)
    straight = accepted & (state.step > 1) & (packing.dot(moved, gradient - state.gradient) <= 0)
    if bool(straight.any()):  # no curvature to scale by: go on with steps as long as the one that was fine
        grown = (memory.scale * state.step.to(memory.scale.dtype)).clamp(max=LONGEST)
        memory = replace(memory, scale=torch.where(straight, grown, memory.scale))
    pick = packing.spread(accepted)
    point = chosen(packing, accepted, trial, state.point)
    rounding = 2 * torch.finfo(gradient.dtype).eps * energy.abs()
    stalled = torch.where(state.energy - energy <= rounding, state.stalled + 1, 0)
    state = replace(
        state,
        point=point,
        energy=torch.where(accepted, energy, state.energy),
        gradient=torch.where(pick, gradient, state.gradient),
        memory=memory,
        stalled=torch.where(accepted, stalled, state.stalled),
        iterations=state.iterations + accepted,
    )
    return _aimed(function, state, accepted, options)


def _failed(function: SmoothFunction, state: DescentState, failed: Tensor, options: DescentOptions) -> DescentState:
    """Where no length was accepted: once more from the gradient alone, or done where it was that already."""
    used = state.memory.steps_changes.diagonal(0, 1, 2).abs().sum(1) > 0
    state = replace(state, done=state.done | (failed & ~used))
    memory = forget(state.packing, state.memory, failed, state.gradient)
    return _aimed(function, replace(state, memory=memory), failed, options)


def _aimed(function: SmoothFunction, state: DescentState, anew: Tensor, options: DescentOptions) -> DescentState:
    """The state with a new direction, and a line search at its beginning, in the instances ``anew`` (B,)."""
    packing, gradient = state.packing, state.gradient
    aim, largest = _aim(function, state)
    slope = packing.dot(gradient, aim)
    ascent = anew & ~((slope < 0) & slope.isfinite())
    if bool((ascent & (largest > 0)).any()):
        state = replace(state, memory=forget(packing, state.memory, ascent, gradient))
        aim, _ = _aim(function, state)
        slope = packing.dot(gradient, aim)
    stopped = (
        ~(largest > options.least_gradient(gradient.dtype)) | ~state.energy.isfinite() | (state.stalled >= PATIENCE)
    )
    endless = falls_without_end(state.energy, gradient.dtype)
    spent = endless | (~stopped & (state.iterations >= options.max_iterations))
    done = state.done | (anew & (stopped | spent))
    return replace(
        state,
        direction=torch.where(packing.spread(anew), torch.where(packing.spread(done), 0.0, aim), state.direction),
        slope=torch.where(anew, slope.double(), state.slope),
        step=torch.where(anew, 1.0, state.step),
        low=torch.where(anew, 0.0, state.low),
        high=torch.where(anew, torch.inf, state.high),
        trials=torch.where(anew, 0, state.trials),
        largest=torch.where(anew, largest.double(), state.largest),
        done=done,
        gave_up=state.gave_up | (anew & spent),
    )


def _aim(function: SmoothFunction, state: DescentState) -> tuple[Tensor, Tensor]:
    """A direction of descent inside the bounds, and (B,) the largest entry of the projected gradient.

    Entries near a bound that the gradient pushes against follow the gradient alone, all others the quasi-Newton
    direction of the subspace that they span (two-metric projection, Bertsekas 1982).
    """
    packing, gradient, bounds = state.packing, state.gradient, state.bounds
    if bounds is None:
        return direction(packing, state.memory, gradient), packing.largest(gradient)
    x = coordinates(function, packing, state.point)
    largest = packing.largest(bounds.projected(x, gradient))
    near = packing.spread(largest.clamp(max=1e-3))
    at_lower, at_upper = (x - bounds.lower <= near) & (gradient > 0), (bounds.upper - x <= near) & (gradient < 0)
    free = (~(at_lower | at_upper)).to(gradient.dtype)
    memory = restricted(packing, state.memory, free)
    aim = free * direction(packing, memory, free * gradient)
    touching = ((x <= bounds.lower) & (gradient > 0)) | ((x >= bounds.upper) & (gradient < 0))
    pushed = torch.where(touching, 0.0, -packing.spread(memory.scale) * gradient)
    return torch.where(free > 0, aim, pushed), largest

"""The loss of an energy's minimiser, with its gradient by the implicit function theorem."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference import Solver, minimize
from ebmstruct.inference.descent.curvature import Curvature, Solution
from ebmstruct.inference.descent.loop import DescentOptions, minimize_point
from ebmstruct.inference.descent.relaxed_free_energy import RelaxedFreeEnergy
from ebmstruct.inference.smooth_energy import Point, starting_point
from ebmstruct.learning.losses.base import Latent, Loss, LossValue, Margin, Setting
from ebmstruct.learning.losses.output_loss import TaskLoss, check_output_options, output_loss
from ebmstruct.learning.losses.unrolled import descent_refusal

logger = logging.getLogger("ebmstruct")

LINEAR_SOLVERS = ("auto", "dense", "conjugate_gradients")
DENSE = 96
"""Coordinates of the largest instance up to which "auto" builds the Hessian."""
FINE = {torch.float64: 1e-12, torch.float32: 1e-6}
"""A Newton step so short, as a share of a point's largest entry or of 1, changes nothing in a precision."""
ESCAPES = 5
"""How often a descent that ended where there is no minimum is pushed on."""
PUSH = 0.3
"""How far, in the units of a step."""
COARSE = {torch.float64: 1e-9, torch.float32: 1e-3}
"""No Newton step can be asked to be shorter in a precision."""


@dataclass(frozen=True)
class Implicit(Loss):
    """The task's loss of z* = argmin_z E(z) - T H(z), differentiated through the condition that the gradient is 0 there.

    dL / dtheta = -v . d(grad_z E)/dtheta with H v = dL/dz* and H the Hessian at z* (Foo, Do and Ng 2008; Gould et al.
    2016; for bounds, Amos and Kolter 2017: entries held at a bound do not move). Memory and time do not depend on how z*
    was found. Points are found by the setting's solver (the engine's choice without one); discrete sites have weights over
    their states, of which the relaxed energy less T times their entropy is minimised from even weights by L-BFGS (with
    T = 1 the fixed point of naive mean field), points beside them jointly from ``Continuous.start``; the setting's solver
    plays no part then. Unknown sites are minimised over jointly, and are not judged.
    What was found is refined by Newton steps as far as the precision goes; a descent that ended at a saddle point is pushed
    off it and goes on. An instance that is then farther than ``tolerance`` from stationarity (measured by the Newton step
    that is left), or whose curvature is not positive (no minimum, or one that is not isolated), gives its value but no
    gradient, and a warning is logged. ``figures`` has "sound" (1 or 0), "distance" (the largest entry of the Newton step
    left), "found_distance" (the same before refinement), and "curvature" (the least seen, or 1 where that is larger); the
    state counts the instances that were not sound.

    temperature: T; it must be positive where a discrete site is open.  task_loss, scale: as for ``unrolled``.
    linear_solver: "dense" builds H (its eigenvalues prove a minimum), "conjugate_gradients" multiplies by it,
    "auto" builds up to 96 coordinates an instance.  damping: added to H's diagonal; biases the gradient.
    refinements: the most Newton steps.  max_iterations: of the descent.
    Margin class: zero: the loss is least where the target is a minimiser. Cost: the minimisation; with D coordinates an
    instance 2 D gradients for "dense", about 2 for each conjugate gradient step. Not where minimisers are not isolated
    (gauge freedom), nor for discrete sites where the relaxed minimum is unlike the true one.
    """

    name: ClassVar[str] = "implicit"
    margin: ClassVar[Margin] = "zero"
    latent: ClassVar[tuple[Latent, ...]] = ("minimised",)

    task_loss: TaskLoss = "likelihood"
    temperature: float = 1.0
    scale: float = 1.0
    linear_solver: Literal["auto", "dense", "conjugate_gradients"] = "auto"
    damping: float = 0.0
    tolerance: float = 1e-6
    refinements: int = 10
    max_iterations: int = 500

    def __post_init__(self) -> None:
        check_output_options(self.name, self.task_loss, self.scale)
        if self.linear_solver not in LINEAR_SOLVERS:
            raise ValueError(f"implicit: linear_solver {self.linear_solver!r}; legal are {LINEAR_SOLVERS}")
        if not self.temperature > 0 or not self.tolerance > 0 or not self.damping >= 0:
            raise ValueError(
                "implicit: temperature and tolerance must be positive, damping at least 0; found "
                f"{self.temperature}, {self.tolerance} and {self.damping}"
            )
        if self.refinements < 0 or self.max_iterations < 1:
            raise ValueError(
                "implicit: refinements must be at least 0 and max_iterations at least 1; found "
                f"{self.refinements} and {self.max_iterations}"
            )

    def refuse(self, graph: FactorGraph, target: Assignment) -> str | None:
        """Why there is no minimiser to differentiate."""
        return descent_refusal(graph)

    def evaluate(self, graph: FactorGraph, target: Assignment, setting: Setting) -> LossValue:
        found = self._minimiser(graph, setting)
        function, curvature = found.function, found.curvature
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_(True) for x in found.point]
            logs, points = function.best_response(leaves), function.points(leaves)
            value = output_loss(graph, target, logs, points, kind=self.task_loss, scale=self.scale, cost=setting.cost)
            right = [torch.zeros_like(x) for x in leaves]
            if value.requires_grad:
                right = list(torch.autograd.grad(value.sum(), leaves, retain_graph=True, materialize_grads=True))
        pulled = [d.pull_back(x, g) for d, x, g in zip(function.domains, found.point, right, strict=True)]
        solution = self._solved(curvature, curvature.packing.pack(curvature.tangent(pulled)))
        sound = found.sound & solution.sound
        weight = torch.where(curvature.packing.spread(sound), solution.x, 0.0)
        through = -curvature.packing.dot(curvature.gradient, weight).double()
        whole = torch.where(sound, value + through - through.detach(), value.detach())
        figures = {
            "sound": sound.double(),
            "distance": found.distance,
            "found_distance": found.found_distance,
            "curvature": torch.minimum(found.lowest, solution.curvature),
        }
        state = _counted(setting.state, sound)
        recorded = torch.is_grad_enabled() and function(found.point).requires_grad
        return LossValue(whole if recorded else whole.detach(), state, figures=figures)

    def _minimiser(self, graph: FactorGraph, setting: Setting) -> _Minimiser:
        values = starting_point(graph, None)
        function = RelaxedFreeEnergy.of(graph, self.temperature, values)
        if function.discrete.names:
            begin = function.start(setting.generator, values)
        else:
            begin = function.start(setting.generator, _answered(graph, setting.solver, values))
        point = self._descended(function, begin)
        found = self._refined(function, point)
        for _ in range(ESCAPES):
            lost = ~found.sound
            if not function.discrete.names:
                lost = lost & (found.curvature.packing.largest(found.bent) > 0)
            if not bool(lost.any()):
                break
            point = self._descended(function, self._pushed(found, lost))
            found = self._refined(function, point)
        return found

    def _descended(self, function: RelaxedFreeEnergy, point: Point) -> Point:
        with torch.no_grad():
            return minimize_point(function, point, DescentOptions(max_iterations=self.max_iterations)).point

    def _pushed(self, found: _Minimiser, lost: Tensor) -> Point:
        """Off saddle points, along what curves down, and off weights of 0; where neither is, the point stays."""
        function, packing = found.function, found.curvature.packing
        step = torch.where(packing.spread(lost), PUSH * found.bent, 0.0)
        moved = function.retract(found.point, packing.unpack(step))
        with torch.enable_grad():
            return function.towards_response([x.detach().requires_grad_(True) for x in moved], lost)

    def _refined(self, function: RelaxedFreeEnergy, point: Point) -> _Minimiser:
        """Newton steps, each kept in the instances where it makes the gradient smaller."""
        curvature = Curvature(function, point, self.damping)
        tolerance = max(self.tolerance, COARSE.get(function.dtype, 1e-3))
        fine = FINE.get(function.dtype, 1e-6)
        first = torch.zeros(0, dtype=torch.float64)
        for count in range(self.refinements + 1):
            packing, gradient = curvature.packing, curvature.gradient.detach()
            newton = self._solved(curvature, -gradient)
            distance = torch.where(newton.sound, packing.largest(newton.x).double(), torch.inf)
            first = distance if count == 0 else first
            sound = newton.sound & (distance <= tolerance)
            going = newton.sound & (distance > fine)
            if count == self.refinements or not bool(going.any()):
                break
            step = torch.where(packing.spread(going), newton.x, 0.0)
            trial = tuple(x.detach() for x in function.retract(point, packing.unpack(step)))
            after = Curvature(function, trial, self.damping)
            worse = going & ~(packing.dot(after.gradient, after.gradient) < packing.dot(gradient, gradient))
            if bool((worse | ~going).all()):
                break
            if bool(worse.any()):
                step = torch.where(packing.spread(worse), 0.0, step)
                trial = tuple(x.detach() for x in function.retract(point, packing.unpack(step)))
                after = Curvature(function, trial, self.damping)
            point, curvature = trial, after
        return _Minimiser(function, point, curvature, sound, distance, first, newton.curvature, newton.bent)

    def _solved(self, curvature: Curvature, right: Tensor) -> Solution:
        wide = curvature.widest
        if self.linear_solver == "dense" or (self.linear_solver == "auto" and wide <= DENSE):
            return curvature.solve_dense(right)
        tolerance = 1e-9 if right.dtype == torch.float64 else 1e-5
        return curvature.solve_conjugate(right, tolerance, 2 * wide + 20)


@dataclass(frozen=True, eq=False)
class _Minimiser:
    """A point with its curvature; (B,) whether it is a minimum, how far it is from one, and was before refinement; the
    least curvature, and a vector along which it is negative.
    """

    function: RelaxedFreeEnergy
    point: Point
    curvature: Curvature
    sound: Tensor
    distance: Tensor
    found_distance: Tensor
    lowest: Tensor
    bent: Tensor


def _answered(graph: FactorGraph, solver: Solver | None, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The values with the solver's answer in place of those of continuous blocks."""
    answer = minimize(graph, solver).assignment
    return {n: answer[n].to(v.dtype) if v.is_floating_point() else v for n, v in values.items()}


def _counted(state: Any, sound: Tensor) -> dict[str, int]:
    """The state with the instances that gave no gradient counted; a warning at the first and when their number doubles."""
    before = int(state["unsound"]) if state else 0
    after = before + int((~sound).sum())
    if after.bit_length() > before.bit_length():
        logger.warning(
            "implicit: instances %s have no isolated minimum that was reached to tolerance; they give no gradient (%d "
            "such so far; curvature and distance are in the figures)",
            (~sound).nonzero()[:, 0].tolist()[:10],
            after,
        )
    return {"unsound": after}

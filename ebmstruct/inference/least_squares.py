"""The loop of nonlinear least squares, every instance of a batch for itself: linearise, solve, try, accept or damp.

Levenberg (1944) and Marquardt (1963), with the damping rule of Nielsen (1999), "Damping parameter in Marquardt's
method"; stopping tests as in MINPACK (More 1978). Bounds: a projected step, with the unknowns held that sit at a bound
and want to leave (Bertsekas 1982, "Projected Newton methods"). A robust loss reweights its rows (iteratively reweighted
least squares): the reweighted square lies above the loss everywhere and touches it at the point, so that no step on it
can go wrong by more than the residuals' curvature; the second-order correction of Triggs and others (2000) gives that up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ebmstruct.graph import Assignment, Continuous, Discrete, FactorGraph, Real, ResidualFactor
from ebmstruct.inference.certificate import sums_squares
from ebmstruct.inference.kernels.banded.banded import loops
from ebmstruct.inference.linearization import Evaluation, ResidualRows, check_differentiable, prepare
from ebmstruct.inference.normal_equations import NOBODY, NONE, normal_equations, segments
from ebmstruct.inference.result import QuadraticMinimum, Several, SumOfSquares, Witness
from ebmstruct.inference.smooth_energy import Point, constraint_labels, smooth_refusal, starting_point
from ebmstruct.inference.solver import Progress
from ebmstruct.inference.views.residual_view import residual_view

Array = np.ndarray
LEAST_DAMPING, MOST_DAMPING = 1e-12, 1e12


@dataclass(frozen=True)
class Steps:
    """How steps are made and when they end.

    damping: the first, as a part of the diagonal of J^T J; 0: none (Gauss-Newton), steps are then halved until the
    energy falls, and only instances whose matrix is singular are damped.
    relative_decrease: an instance ends when a step changes its energy by no more than this part, as foreseen.
    gradient: ... when no column of J makes a larger cosine with the residuals.  step: ... when a step is shorter than
    this part of the largest number in it.
    """

    damping: float = 1e-3
    relative_decrease: float = 1e-10
    gradient: float = 1e-12
    step: float = 1e-12


def residual_refusal(graph: FactorGraph) -> str | None:
    """Why a graph is no least squares problem, in a sentence; None where it is one."""
    reason = smooth_refusal(graph)
    if reason is not None:
        return reason
    constrained = constraint_labels(graph)
    if constrained:
        return f"factors {constrained} are constraints, which AugmentedLagrangian keeps"
    for factor in graph.factors:
        if not isinstance(factor, ResidualFactor) and any(
            isinstance(v.domain, Continuous) for v in graph.scope(factor)
        ):
            kind = type(factor).__name__
            return f"factor {factor.label!r} is a {kind}; every factor over a continuous block must be a ResidualFactor"
    if any(isinstance(f, ResidualFactor) and set(f.scope) for f in graph.factors):
        return None
    return "no factor is a ResidualFactor"


class LeastSquares:
    """One run over a batch: its point, its normal equations, and one ``advance`` after another.

    Everything is the run's own and is overwritten by ``advance``. energy, lower_bound: (B,) float64; the bound is
    that of a quadratic where every row is affine and the last step was not damped, else that of a sum of squares.
    done: (B,) bool.
    """

    def __init__(self, graph: FactorGraph, init: Assignment | None, steps: Steps) -> None:
        self.graph, self.steps = graph, steps
        self.view = residual_view(graph)
        values = starting_point(graph, init)
        names = self.view.names
        self.values = {n: v for n, v in values.items() if n not in names}
        self.point: Point = tuple(values[n] for n in names)
        self.places = _step_places(self.view.positions, self.view.size)
        self.rows = prepare(graph, self.view, self.values)
        self.system = normal_equations(self.view)
        self.constant = _constant(graph, set(self.view.rows), values)
        self.bounded = self.view.lower is not None
        self.iterations = 0
        self._begin()

    @property
    def quadratic(self) -> bool:
        """Whether the energy is a quadratic function without bounds: one step then leads to the minimum."""
        return not self.bounded and all(r.constant and r.factor.loss is None for r in self.rows)

    def _begin(self) -> None:
        count = self.graph.num_instances
        at = [rows.evaluate(self.point, record=not rows.constant) for rows in self.rows]
        if self.rows and not any(r.constant for r in self.rows):
            check_differentiable(self.rows, at)
        self.fixed_jacobians = [
            r.jacobian(r.evaluate(self.point, record=True)) if r.constant else None for r in self.rows
        ]
        self.residuals = [e.numbers for e in at]
        self.energy = self._energies(self.residuals)
        damping = 0.0 if self.quadratic else self.steps.damping
        self.damping, self.growth = np.full(count, damping), np.full(count, 2.0)
        self.length = np.ones(count)
        self.reach = np.zeros(count)
        self.squares = sums_squares(self.graph)
        self.lower_bound = np.full(count, 0.0 if self.squares else -np.inf)
        self.done = ~np.isfinite(self.energy) | (np.diff(self.view.offsets) == 0)
        everyone = np.ones(count, bool)
        for rows, jacobian in zip(self.rows, self.fixed_jacobians, strict=True):
            if jacobian is not None and rows.factor.loss is None:
                self.system.add_matrix(rows.places, jacobian, NONE, everyone)
        self.system.keep()
        self._linearise(at, ~self.done)

    def _energies(self, residuals: Sequence[Array]) -> Array:
        """(B,) energies of the rows; of instances whose rows were put aside it says nothing."""
        out = np.zeros(self.graph.num_instances)
        with np.errstate(over="ignore", invalid="ignore"):
            for rows, residual in zip(self.rows, residuals, strict=True):
                loss = rows.factor.loss
                if loss is None:
                    loops().add_squares(residual, rows.places.owner, out)
                else:
                    each = loss.energy(torch.from_numpy(np.square(residual).sum(1))).numpy()
                    out += np.bincount(rows.places.owner, each, out.size)
        return out

    def _linearise(self, at: Sequence[Evaluation | None], todo: Array) -> None:
        """Normal equations at the point just reached, of the instances to do."""
        if not todo.any():
            return
        self.system.clear(todo)
        for rows, fixed, residual, evaluation in zip(self.rows, self.fixed_jacobians, self.residuals, at, strict=True):
            jacobian = fixed
            if jacobian is None:
                assert evaluation is not None
                jacobian = rows.jacobian(evaluation)
            weight, loss = NONE, rows.factor.loss
            if loss is not None:
                weight = loss.weight(torch.from_numpy(np.square(residual).sum(1))).numpy()
            if fixed is None or loss is not None:
                self.system.add_matrix(rows.places, jacobian, weight, todo)
            self.system.add_gradient(rows.places, jacobian, residual, weight, todo)
        self._look_at_gradient(todo)

    def _look_at_gradient(self, todo: Array) -> None:
        gradient = self.system.gradient
        if self.bounded:
            self.frozen = self._held(gradient)
            gradient = np.where(self.frozen, 0.0, gradient)
        diagonal = self.system.diagonal()
        with np.errstate(invalid="ignore", divide="ignore"):
            cosine = np.abs(gradient) / np.sqrt(diagonal)
        cosine[gradient == 0.0] = 0.0
        worst = segments(np.maximum, cosine, self.view.offsets, 0.0)
        self.done |= todo & (worst <= self.steps.gradient * np.sqrt(2 * self.energy))

    def _held(self, gradient: Array) -> Array:
        """(N,) bool: unknowns at a bound that would leave the box downhill."""
        assert self.view.lower is not None and self.view.upper is not None
        x = self._coordinates()
        return ((x <= self.view.lower) & (gradient > 0)) | ((x >= self.view.upper) & (gradient < 0))

    def _coordinates(self) -> Array:
        """(N,) values of the unknowns of bounded blocks; 0 elsewhere."""
        out = np.zeros(self.view.size + 1)
        for x, domain, position in zip(self.point, self.view.domains, self.view.positions, strict=True):
            if isinstance(domain, Real):
                out[position] = x.double().cpu().numpy()
        return out[:-1]

    def advance(self) -> None:
        """One step of every instance that is not done; each takes it, or is damped more."""
        self.iterations += 1
        todo = ~self.done
        frozen = self.frozen if self.bounded else NOBODY
        step, failed = self.system.solve(self.damping, -self.system.gradient, todo, frozen)
        usable = todo & ~failed
        step = np.where(np.repeat(usable, np.diff(self.view.offsets)), step, 0.0) if not usable.all() else step
        if self.steps.damping == 0:
            step = step * np.repeat(self.length, np.diff(self.view.offsets))
        trial, step = self._moved(step)
        at, residuals = self._trial(trial, step)
        energy = self._energies(residuals)
        with np.errstate(invalid="ignore", over="ignore"):
            foreseen = -self.system.inner(step, self.system.gradient + 0.5 * self.system.multiply(step, todo))
            decrease = np.where(usable & np.isfinite(energy), self.energy - energy, -np.inf)
        taken = usable & (decrease > 0)
        exact = taken & (self.damping == 0)
        self._settle(
            todo, usable, taken, foreseen, decrease, segments(np.maximum, np.abs(step), self.view.offsets, 0.0)
        )
        if not taken.any():
            return
        self._take(taken, trial, residuals, energy)
        self._linearise(at, taken if self.quadratic else taken & ~self.done)
        if self.quadratic and exact.any():
            self._bound(exact)
        self._put_aside()

    def _moved(self, step: Array) -> tuple[Point, Array]:
        """The point that a step leads to, inside bounds, and the step that was really made."""
        padded = torch.from_numpy(np.append(step, 0.0))
        trial = []
        for x, domain, place in zip(self.point, self.view.domains, self.places, strict=True):
            part = padded[place].view(x.shape[0], domain.tangent_dim) if isinstance(place, slice) else padded[place]
            part = part.to(x)
            trial.append(domain.project(x + part) if isinstance(domain, Real) else domain.retract(x, part))
        if not self.bounded:
            return tuple(trial), step
        made = np.append(step, 0.0)
        for new, old, domain, position in zip(trial, self.point, self.view.domains, self.view.positions, strict=True):
            if isinstance(domain, Real) and domain.bounded:
                made[position] = (new - old).double().cpu().numpy()
        return tuple(trial), made[:-1]

    def _trial(self, trial: Point, step: Array) -> tuple[list[Evaluation | None], list[Array]]:
        """Residuals at a trial point: affine rows by their derivatives, the others by their functions."""
        at: list[Evaluation | None] = []
        residuals = []
        for rows, fixed, residual in zip(self.rows, self.fixed_jacobians, self.residuals, strict=True):
            if fixed is None:
                evaluation = rows.evaluate(trial, record=True)
                at.append(evaluation)
                residuals.append(evaluation.numbers)
            else:
                at.append(None)
                out = np.empty_like(residual)
                loops().advance(fixed, residual, rows.places.columns, step, out)
                residuals.append(out)
        return at, residuals

    def _bound(self, todo: Array) -> None:
        """The minimum of a quadratic lies g^T H^-1 g / 2 below its value; told once that is little beside the value."""
        step = self.system.solve_again(-self.system.gradient, todo)
        below = -0.5 * self.system.inner(self.system.gradient, step)
        known = todo & (below >= 0) & (below <= 1e-6 * self.energy)
        self.lower_bound = np.where(known, self.energy - below, self.lower_bound)

    def _settle(
        self, todo: Array, usable: Array, taken: Array, foreseen: Array, decrease: Array, longest: Array
    ) -> None:
        """New damping, and which instances have come to their end."""
        limit = self.steps.relative_decrease * self.energy
        self.reach = np.where(taken, self.reach + longest, self.reach)
        ended = usable & (foreseen <= limit) & (np.abs(decrease) <= limit)
        ended |= usable & (longest <= self.steps.step * self.reach)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            quality = np.where(foreseen > 0, decrease / foreseen, 1.0)
            shrink = np.maximum(0.1, 1.0 - (2.0 * np.clip(quality, 0.0, 1.0) - 1.0) ** 3)
        lost = todo & ~taken
        undamped = self.steps.damping == 0
        more = np.maximum(self.damping * self.growth, LEAST_DAMPING * 1e3)
        if undamped:
            self.length = np.where(taken, 1.0, np.where(usable, 0.5 * self.length, self.length))
            more = np.where(usable, self.damping, more)
            less = np.zeros_like(self.damping)
            ended |= self.length < 1e-12
        else:
            less = np.where(
                self.damping * shrink < LEAST_DAMPING, 0.0 if self.quadratic else LEAST_DAMPING, self.damping * shrink
            )
        self.damping = np.where(taken, less, np.where(lost, more, self.damping))
        self.growth = np.where(taken, 2.0, np.where(lost, 2.0 * self.growth, self.growth))
        self.done |= todo & (ended | (self.damping > MOST_DAMPING))

    def _take(self, taken: Array, trial: Point, residuals: list[Array], energy: Array) -> None:
        self.energy = np.where(taken, energy, self.energy)
        if taken.all():
            self.point, self.residuals = trial, residuals
            return
        mask = torch.from_numpy(taken)
        point = []
        for name, new, old in zip(self.view.names, trial, self.point, strict=True):
            here = mask.to(new.device)[self.graph.variables[name].instance]
            point.append(torch.where(here[:, None], new, old))
        self.point = tuple(point)
        self.residuals = [
            np.where(taken[rows.places.owner][:, None], new, old)
            for rows, new, old in zip(self.rows, residuals, self.residuals, strict=True)
        ]

    def _put_aside(self) -> None:
        """Leave out the rows of instances that are done, once they are half of all rows."""
        working = ~self.done
        total = sum(rows.places.owner.size for rows in self.rows)
        if not self.done.any() or not working.any():
            return
        kept = [np.nonzero(working[rows.places.owner])[0] for rows in self.rows]
        if 2 * sum(k.size for k in kept) > total:
            return
        self.rows = [rows.take(k) for rows, k in zip(self.rows, kept, strict=True)]
        self.residuals = [r[k] for r, k in zip(self.residuals, kept, strict=True)]
        self.fixed_jacobians = [
            None if j is None else np.ascontiguousarray(j[k]) for j, k in zip(self.fixed_jacobians, kept, strict=True)
        ]

    def all_rows(self) -> list[ResidualRows]:
        """The rows of every factor that acts on an unknown, those put aside included."""
        return prepare(self.graph, self.view, self.values)

    def linearise_here(self) -> None:
        """Normal equations of every instance of finite energy, at the present point."""
        self.rows = self.all_rows()
        at = [rows.evaluate(self.point, record=True) for rows in self.rows]
        self.fixed_jacobians = [None] * len(self.rows)
        self.residuals = [e.numbers for e in at]
        self.system.base = None
        self._linearise(at, np.isfinite(self.energy))

    def progress(self) -> Progress:
        """Where the run stands."""
        return Progress(
            {**self.values, **dict(zip(self.view.names, self.point, strict=True))},
            torch.from_numpy(self.energy + self.constant),
            torch.from_numpy(self.lower_bound + self.constant),
            torch.from_numpy(self.done.copy()),
        )

    def witness(self) -> Witness | None:
        """What proves the bound: that no square is negative, and the minimum of a quadratic; None where nothing does."""
        if not self.quadratic:
            return SumOfSquares() if self.squares else None
        return Several((SumOfSquares(), QuadraticMinimum())) if self.squares else QuadraticMinimum()


def _step_places(positions: Sequence[Array], size: int) -> list[slice | Tensor]:
    """Where each block's steps lie in the vector of unknowns: one span where they follow each other."""
    out: list[slice | Tensor] = []
    for position in positions:
        flat = position.reshape(-1)
        begin = int(flat[0]) if flat.size else 0
        if flat.size and flat[-1] == begin + flat.size - 1 < size and bool((np.diff(flat) == 1).all()):
            out.append(slice(begin, begin + flat.size))
        else:
            out.append(torch.from_numpy(position))
    return out


def _constant(graph: FactorGraph, moving: set[str], values: dict[str, Tensor]) -> Array:
    """(B,) the energy of everything that no unknown acts on."""
    others = [f for f in graph.factors if f.label not in moving]
    if (
        not others
        and graph.constant is None
        and not any(isinstance(v.domain, Discrete) for v in graph.variables.values())
    ):
        return np.zeros(graph.num_instances)
    rest = FactorGraph((), others, constant=graph.constant, evidence=graph.evidence, topology=graph.topology)
    with torch.no_grad():
        return rest.energy(values).cpu().numpy()

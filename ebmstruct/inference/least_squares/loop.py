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
from ebmstruct.inference.least_squares.linearization import Evaluation, ResidualRows, check_differentiable, prepare
from ebmstruct.inference.least_squares.normal_equations import NOBODY, NONE, normal_equations
from ebmstruct.inference.result import QuadraticMinimum, Several, SumOfSquares, Witness
from ebmstruct.inference.smooth_energy import Point, constraint_labels, smooth_refusal, starting_point
from ebmstruct.inference.solver import Progress
from ebmstruct.inference.views.residual_view import residual_view

Array = np.ndarray
FURTHER, FURTHEST = 1.3, 8.0
"""Where a step gains more than this times what was foreseen, a longer one is tried too: up to so many times as long."""


@dataclass(frozen=True)
class Steps:
    """How steps are made and when they end.

    damping: the first, as a part of the diagonal of J^T J; 0: none (Gauss-Newton), steps are then halved until the
    energy falls, and only instances whose matrix is singular are damped.
    relative_decrease: an instance ends when a step changes its energy by no more than this part, as foreseen.
    gradient: ... when no column of J makes a larger cosine with the residuals.  step: ... when a step is shorter than
    this part of the largest number in it.
    """

    damping: float = 1e-4
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


@dataclass(frozen=True, eq=False)
class Trial:
    """A point that is tried: the step that led to it, evaluations (None for affine rows), residuals, (B,) energies."""

    point: Point
    step: Array
    at: list[Evaluation | None]
    residuals: list[Array]
    energy: Array


class LeastSquares:
    """One run over a batch: its point, its normal equations, and one ``advance`` after another.

    Everything is the run's own and is overwritten by ``advance``. energy, lower_bound: (B,) float64; the bound is
    that of a quadratic where every row is affine and the last step was not damped, else that of a sum of squares.
    done: (B,) bool.  quadratic: whether the energy is a quadratic function without bounds; one step then leads to its
    minimum.
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
        self.counts = np.diff(self.view.offsets)
        self.bounded = self.view.lower is not None
        self.iterations = 0
        self._begin()

    def _begin(self) -> None:
        count = self.graph.num_instances
        at = [rows.evaluate(self.point, record=True) for rows in self.rows]
        check_differentiable(self.rows, at)
        self.waiting: list[Evaluation] | None = at
        self.recorded = {r.factor.label: r.needs_record(e) for r, e in zip(self.rows, at, strict=True)}
        self.residuals = [e.numbers for e in at]
        with np.errstate(over="ignore", invalid="ignore"):
            self.energy = self._energies(self.residuals)
        self.quadratic = not self.bounded and all(r.constant and r.factor.loss is None for r in self.rows)
        self.whole_steps = self.steps.damping == 0
        self.damping = np.full(count, 0.0 if self.quadratic else self.steps.damping)
        self.growth, self.length = np.full(count, 2.0), np.ones(count)
        self.reach = np.zeros(count)
        self.squares = sums_squares(self.graph)
        self.lower_bound = np.full(count, 0.0 if self.squares else -np.inf)
        self.done = ~np.isfinite(self.energy) | (self.counts == 0)

    def _first_linearisation(self, at: Sequence[Evaluation]) -> None:
        """Derivatives at the start; not before the first step, so that no time is spent on them where none is left."""
        everyone = np.ones(self.done.size, bool)
        self.fixed_jacobians = [r.jacobian(e) if r.constant else None for r, e in zip(self.rows, at, strict=True)]
        for rows, jacobian in zip(self.rows, self.fixed_jacobians, strict=True):
            if jacobian is not None and rows.factor.loss is None:
                self.system.add_matrix(rows.places, jacobian, NONE, everyone)
        self.system.keep()
        self._linearise(at, ~self.done)

    def _energies(self, residuals: Sequence[Array]) -> Array:
        """(B,) energies of the rows; of instances whose rows were put aside it says nothing."""
        out = np.zeros(self.graph.num_instances)
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
        gradient, worst = self.system.gradient, np.empty(todo.size)
        self.frozen = self._held(gradient) if self.bounded else NOBODY
        loops().largest_cosine(gradient, self.system.diagonal(), self.frozen, self.view.offsets, worst)
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
        if self.waiting is not None:
            self._first_linearisation(self.waiting)
            self.waiting = None
        todo = ~self.done
        if not todo.any():
            return
        step, failed = self.system.solve(self.damping, -self.system.gradient, todo, self.frozen)
        usable = todo & ~failed
        if not usable.all():
            step = np.where(np.repeat(usable, self.counts), step, 0.0)
        if self.whole_steps:
            step = step * np.repeat(self.length, self.counts)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            trial = self._trial(step)
            foreseen, longest = np.empty(todo.size), np.empty(todo.size)
            product = self.system.multiply(trial.step, todo)
            loops().foresee(trial.step, self.system.gradient, product, self.view.offsets, foreseen, longest)
            decrease = self._decrease(trial, usable)
            longer = usable & (decrease > FURTHER * foreseen) & (foreseen > 0)
            if not self.quadratic and longer.any():
                trial, decrease = self._further(step, trial, foreseen, decrease, longer)
        exact, taken = self.damping == 0, np.empty(todo.size, bool)
        loops().settle(
            self.energy, decrease, foreseen, usable, todo, self.reach, longest, self.steps.relative_decrease,
            self.steps.step, self.whole_steps, self.quadratic, self.damping, self.growth, self.length, self.done, taken,
        )  # fmt: skip
        if taken.any():
            self._take(taken, trial)
            self._linearise(trial.at, taken if self.quadratic else taken & ~self.done)
            if self.quadratic:
                self._bound(taken & exact)
            self._put_aside()

    def _decrease(self, trial: Trial, usable: Array) -> Array:
        """(B,) the decrease of a trial, -inf where it is none."""
        return np.where(usable & np.isfinite(trial.energy), self.energy - trial.energy, -np.inf)

    def _further(
        self, step: Array, trial: Trial, foreseen: Array, decrease: Array, longer: Array
    ) -> tuple[Trial, Array]:
        """A longer step where the energy curves less than J^T J says: to the vertex of the parabola seen so far.

        Along a step p the slope at its beginning is -2 times what was foreseen (undamped), and the decrease at its end
        is known. It costs an evaluation, and saves linearisations where Gauss-Newton crawls at a constant rate.
        """
        vertex = foreseen / (2.0 * foreseen - decrease)
        vertex = np.where((vertex > 0) & (vertex < FURTHEST), vertex, FURTHEST)
        other = self._trial(step * np.repeat(np.where(longer, vertex, 1.0), self.counts))
        gained = self._decrease(other, longer)
        wins = longer & (gained > decrease)
        if not wins.any():
            return trial, decrease
        if not (wins | ~longer).all():
            other = self._trial(step * np.repeat(np.where(wins, vertex, 1.0), self.counts))
        return other, np.where(wins, gained, decrease)

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

    def _trial(self, step: Array) -> Trial:
        """Where a step leads, and the residuals there: affine rows by their derivatives, others by their functions."""
        point, step = self._moved(step)
        at: list[Evaluation | None] = []
        residuals = []
        for rows, fixed, residual in zip(self.rows, self.fixed_jacobians, self.residuals, strict=True):
            if fixed is None:
                evaluation = rows.evaluate(point, record=self.recorded[rows.factor.label])
                at.append(evaluation)
                residuals.append(evaluation.numbers)
            else:
                at.append(None)
                out = np.empty_like(residual)
                loops().advance(fixed, residual, rows.places.columns, step, out)
                residuals.append(out)
        return Trial(point, step, at, residuals, self._energies(residuals))

    def _bound(self, todo: Array) -> None:
        """The minimum of a quadratic lies g^T H^-1 g / 2 below its value; told once that is little beside the value."""
        step = self.system.solve_again(-self.system.gradient, todo)
        below = -0.5 * self.system.inner(self.system.gradient, step)
        known = todo & (below >= 0) & (below <= 1e-6 * self.energy)
        self.lower_bound = np.where(known, self.energy - below, self.lower_bound)

    def _take(self, taken: Array, trial: Trial) -> None:
        self.energy = np.where(taken, trial.energy, self.energy)
        if taken.all():
            self.point, self.residuals = trial.point, trial.residuals
            return
        mask = torch.from_numpy(taken)
        point = []
        for name, new, old in zip(self.view.names, trial.point, self.point, strict=True):
            here = mask.to(new.device)[self.graph.variables[name].instance]
            point.append(torch.where(here[:, None], new, old))
        self.point = tuple(point)
        self.residuals = [
            np.where(taken[rows.places.owner][:, None], new, old)
            for rows, new, old in zip(self.rows, trial.residuals, self.residuals, strict=True)
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
        self.rows, self.waiting = self.all_rows(), None
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
            torch.from_numpy(np.where(self.constant == np.inf, np.inf, self.lower_bound) + self.constant),
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

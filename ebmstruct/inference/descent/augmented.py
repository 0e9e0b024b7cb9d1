"""Constraints as penalties with multipliers: the augmented Lagrangian of a graph, as a graph.

Each constraint c becomes a residual sqrt(mu) * (c + lambda / mu), cut at zero from below for inequalities, so that half
its square is lambda c + 0.5 mu c^2 up to a constant (Rockafellar 1974; Nocedal and Wright 2006, (17.36) and (17.64)).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ebmstruct.graph import FactorGraph, ResidualFactor, Topology
from ebmstruct.inference.solver import IterativeMinimizer

Rows = Mapping[str, Tensor]
"""Constraint label to one number for each entry of its residuals, (m, r)."""
LARGEST_MULTIPLIER = 1e12
INNER_ITERATIONS = 1000


def constraints_of(graph: FactorGraph) -> list[ResidualFactor]:
    """The factors that are constraints."""
    return [f for f in graph.factors if isinstance(f, ResidualFactor) and f.constraint]


@dataclass(frozen=True, eq=False)
class Measured:
    """The constraints at an assignment.

    residuals: c by label.  violation: (B,) by how much the worst is broken, in units of its tolerance.
    progress: (B,) the same with multipliers that push although nothing is touched counted in (Birgin and Martinez 2014).
    square: (B,) half the sum of squares of what is broken, in the residuals' own units.
    """

    residuals: Rows
    violation: Tensor
    progress: Tensor
    square: Tensor


def measured(graph: FactorGraph, values: dict[str, Tensor], multipliers: Rows, penalty: Tensor) -> Measured:
    """Measure the constraints of a graph; penalty: (B,)."""
    if graph.evidence is not None:
        values = graph.complete(values)
    violation = torch.zeros(graph.num_instances, dtype=torch.float64)
    progress, square, residuals = violation, violation, {}
    for factor in constraints_of(graph):
        scope = graph.scope(factor)
        owner = scope[0].instance[factor.index[0]]
        c = residuals[factor.label] = factor.residuals([values[n] for n in factor.scope])
        pressed = c
        if factor.constraint == "inequality":
            pressed = torch.maximum(c, -multipliers[factor.label] / penalty[owner][:, None].to(c.dtype))
        broken = factor.violations_of(c)
        worst = pressed.abs().amax(1) if c.shape[1] else c.new_zeros(c.shape[0])
        violation = violation.scatter_reduce(0, owner, broken.double() / factor.tolerance, "amax")
        progress = progress.scatter_reduce(0, owner, worst.double() / factor.tolerance, "amax")
        part = c if factor.constraint == "equality" else c.clamp(min=0)
        square = square.index_add(0, owner, 0.5 * part.double().square().sum(1))
    return Measured(residuals, violation, progress, square)


def updated(
    graph: FactorGraph, multipliers: Rows, penalty: Tensor, residuals: Rows, taken: Tensor
) -> dict[str, Tensor]:
    """lambda + mu c, not below 0 for inequalities, in the instances ``taken`` (B,) (Hestenes 1969, Powell 1969)."""
    out = {}
    for factor in constraints_of(graph):
        owner = graph.scope(factor)[0].instance[factor.index[0]]
        old, c = multipliers[factor.label], residuals[factor.label]
        new = (old + penalty[owner][:, None].to(c.dtype) * c).clamp(-LARGEST_MULTIPLIER, LARGEST_MULTIPLIER)
        if factor.constraint == "inequality":
            new = new.clamp(min=0)
        out[factor.label] = torch.where(taken[owner][:, None], new, old)
    return out


def augmented(graph: FactorGraph, multipliers: Rows, penalty: Tensor, *, objective: bool = True) -> FactorGraph:
    """The graph with its constraints as penalties.

    objective: False leaves all other factors out. Its topology is made once for a topology of the graph; ``reweighted``
    changes multipliers and penalties.
    """
    constraints = {f.label: _penalty(f) for f in constraints_of(graph)}
    factors = [constraints.get(f.label, f) for f in graph.factors if objective or f.label in constraints]
    for label, factor in constraints.items():
        shape = multipliers[label]
        values = (*factor.parameters, torch.zeros_like(shape), torch.ones_like(shape[:, :1]))
        at = next(i for i, f in enumerate(factors) if f.label == label)
        factors[at] = dataclasses.replace(factor, parameters=values)
    blocks = list(graph.variables.values())
    topology = graph.topology.derive(("augmented", objective), lambda: Topology(blocks, factors))
    constant = graph.constant if objective else None
    made = FactorGraph((), factors, constant=constant, evidence=graph.evidence, topology=topology)
    return reweighted(made, list(constraints), multipliers, penalty)


def reweighted(made: FactorGraph, labels: Sequence[str], multipliers: Rows, penalty: Tensor) -> FactorGraph:
    """An augmented graph with other multipliers and penalties (B,); labels: of its constraints."""
    values: dict[str, Any] = {}
    for factor in made.factors:
        if factor.label in labels and isinstance(factor, ResidualFactor):
            owner = made.scope(factor)[0].instance[factor.index[0]]
            rows = multipliers[factor.label]
            mu = penalty[owner][:, None].to(rows.dtype)
            values[factor.label] = [(*factor.parameters[:-2], rows / mu, mu.sqrt())]
    return made.with_values(values)


def _penalty(factor: ResidualFactor) -> ResidualFactor:
    """The penalty of a constraint; its last two parameters are lambda / mu (m, r) and sqrt(mu) (m, 1)."""
    function, jacobian, one_sided = factor.function, factor.jacobian, factor.constraint == "inequality"

    def pushed(*given: Tensor) -> Tensor:
        *own, shift, root = given
        r = root * (function(*own) + shift)
        return r.clamp(min=0) if one_sided else r

    def slopes(*given: Tensor) -> Sequence[Tensor | None]:
        assert jacobian is not None
        *own, shift, root = given
        weight = root[:, :, None]
        if one_sided:
            weight = weight * (function(*own) + shift > 0)[:, :, None]
        return [None if j is None else weight * j for j in jacobian(*own)]

    return dataclasses.replace(
        factor,
        function=pushed,
        jacobian=None if jacobian is None else slopes,
        constraint="",
        linear=factor.linear and not one_sided,
    )


def objective(graph: FactorGraph, values: Mapping[str, Tensor]) -> Tensor:
    """(B,) float64: the energy of a graph without its constraints."""
    out = torch.zeros(graph.num_instances, dtype=torch.float64)
    for factor in graph.factors:
        if not (isinstance(factor, ResidualFactor) and factor.constraint):
            out = out + factor.instance_energies([values[n] for n in factor.scope], graph.scope(factor)).detach()
    return out


def inner_minimizers(graph: FactorGraph) -> tuple[IterativeMinimizer[Any], IterativeMinimizer[Any] | None]:
    """The minimiser of augmented graphs, and the one to go on with where that is slow.

    Levenberg-Marquardt and then L-BFGS where all is residual, for it does not see how constraints bend; else L-BFGS.
    """
    from ebmstruct.inference.result import Query
    from ebmstruct.inference.solvers import SOLVERS

    lbfgs = SOLVERS["lbfgs"](max_iterations=INNER_ITERATIONS)  # type: ignore[call-arg]
    assert isinstance(lbfgs, IterativeMinimizer)
    squares = SOLVERS["levenberg_marquardt"]()
    if squares.refuse(graph, Query()) is None and isinstance(squares, IterativeMinimizer):
        return squares, lbfgs
    return lbfgs, None

"""Constraints against closed forms, dense algebra and scipy's SLSQP; infeasible sets; bad instances; deadlines."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize as scipy_minimize
from torch import Tensor

import ebmstruct as es
from ebmstruct.graph.manifolds import rotate


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers in float64."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def pulled(target: Tensor, *constraints: es.ResidualFactor, domain: es.Continuous | None = None) -> es.FactorGraph:
    """One site an instance, pulled to a target under constraints."""
    instances, dim = target.shape
    block = es.Variables.of_lengths("x", domain or es.Real(dim), [1] * instances)
    index = torch.arange(instances)[None]
    pull = es.ResidualFactor(("x",), "pull", lambda x, t: x - t, index, (target,), linear=True)
    return es.FactorGraph([block], [pull, *constraints])


def circle(x: Tensor) -> Tensor:
    """(m, 1): 0 on the unit circle."""
    return x.square().sum(1, keepdim=True) - 1


@pytest.mark.parametrize("inner", [None, es.LBFGS()], ids=["default", "lbfgs"])
def test_projection_onto_a_circle(inner: es.LBFGS | None) -> None:
    """The nearest point of the unit circle is the target divided by its length; the multiplier is the one of the theory."""
    target = 3 * normal(8, 2)
    index = torch.arange(8)[None]
    graph = pulled(target, es.ResidualFactor(("x",), "circle", circle, index, constraint="equality"))
    result = es.minimize(graph, es.AugmentedLagrangian(inner=inner))
    truth = target / target.norm(dim=1, keepdim=True)
    assert {s.name for s in result.statuses} == {"CONVERGED"}
    torch.testing.assert_close(result.assignment["x"], truth, atol=1e-6, rtol=0)
    assert result.violation is not None and float(result.violation.max()) <= 1e-6
    multiplier = 0.5 * (target.norm(dim=1) - 1)
    torch.testing.assert_close(result.stats["multipliers"]["circle"][:, 0], multiplier, atol=1e-4, rtol=1e-4)


def test_equality_quadratics_against_dense_algebra() -> None:
    """Least squares under linear equalities is the solution of the Karush-Kuhn-Tucker equations."""
    target, matrix, side = normal(10, 5), normal(10, 2, 5, seed=1), normal(10, 2, seed=2)
    index = torch.arange(10)[None]
    rows = es.ResidualFactor(
        ("x",),
        "rows",
        lambda x, a, b: (a @ x[:, :, None])[:, :, 0] - b,
        index,
        (matrix, side),
        jacobian=lambda x, a, b: [a],
        constraint="equality",
        linear=True,
    )
    result = es.minimize(pulled(target, rows), es.AugmentedLagrangian())
    for b in range(10):
        kkt = torch.zeros(7, 7, dtype=torch.float64)
        kkt[:5, :5] = torch.eye(5)
        kkt[:5, 5:], kkt[5:, :5] = matrix[b].T, matrix[b]
        solution = torch.linalg.solve(kkt, torch.cat([target[b], side[b]]))
        torch.testing.assert_close(result.assignment["x"][b], solution[:5], atol=1e-6, rtol=0)
        torch.testing.assert_close(result.stats["multipliers"]["rows"][b], solution[5:], atol=1e-4, rtol=1e-4)


def test_random_programs_against_scipy() -> None:
    """Quadratic objectives, linear inequalities, a ball and a box: energies are those of SLSQP."""
    instances, dim = 12, 4
    target, a, b = 2 * normal(instances, dim), normal(instances, 3, dim, seed=1), normal(instances, 3, seed=2).abs()
    index = torch.arange(instances)[None]
    halves = es.ResidualFactor(
        ("x",), "halves", lambda x, a, b: (a @ x[:, :, None])[:, :, 0] - b, index, (a, b), constraint="inequality"
    )
    ball = es.ResidualFactor(
        ("x",), "ball", lambda x: x.square().sum(1, keepdim=True) - 2, index, constraint="inequality"
    )
    graph = pulled(target, halves, ball, domain=es.Real(dim, -0.8, 0.8))
    result = es.minimize(graph, es.AugmentedLagrangian())
    assert {s.name for s in result.statuses} == {"CONVERGED"}
    for i in range(instances):
        t, m, c = target[i].numpy(), a[i].numpy(), b[i].numpy()
        rows = [
            {"type": "ineq", "fun": lambda x, m=m, c=c: c - m @ x},
            {"type": "ineq", "fun": lambda x: 2 - x @ x},
        ]
        found = scipy_minimize(
            lambda x, t=t: 0.5 * ((x - t) ** 2).sum(),
            np.zeros(dim),
            method="SLSQP",
            bounds=[(-0.8, 0.8)] * dim,
            constraints=rows,
            options={"ftol": 1e-12, "maxiter": 500},
        )
        assert abs(found.fun - float(result.energy[i])) < 1e-5
    assert result.violation is not None and float(result.violation.max()) <= 1e-6


def test_function_objective() -> None:
    """Rosenbrock's function, no residual, on a disc: as SLSQP finds."""

    def rosenbrock(x: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        return 100 * (x[:, 1] - x[:, 0] ** 2) ** 2 + (1 - x[:, 0]) ** 2

    block = es.Variables.of_lengths("x", es.Real(2), [1] * 3)
    index = torch.arange(3)[None]
    disc = es.ResidualFactor(("x",), "disc", circle, index, constraint="inequality")
    graph = es.FactorGraph([block], [es.BlockFactor(("x",), "banana", rosenbrock), disc])
    start = es.Assignment({"x": normal(3, 2)})
    result = es.minimize(graph, es.AugmentedLagrangian(), init=start)
    assert result.stats["inner"] == "lbfgs"
    torch.testing.assert_close(result.energy, torch.full((3,), 0.0456748, dtype=torch.float64), atol=1e-5, rtol=0)


def chained(lengths: list[int], seed: int) -> es.FactorGraph:
    """Ragged paths of points with smooth steps, ends held by equalities, and a disc that must be kept out of."""
    block = es.Variables.of_lengths("x", es.Real(2), lengths)
    first, last = block.first_sites, block.last_sites
    pairs = torch.tensor(
        [(s, s + 1) for s in range(block.num_sites - 1) if block.instance[s] == block.instance[s + 1]]
    ).T
    goal = torch.tensor([3.0, 0.2], dtype=torch.float64).expand(len(lengths), 2)
    every = torch.arange(block.num_sites)[None]
    return es.FactorGraph(
        [block],
        [
            es.ResidualFactor(("x", "x"), "smooth", lambda x, y: y - x, pairs, linear=True),
            es.ResidualFactor(("x",), "begin", lambda x: x, first[None], constraint="equality", linear=True),
            es.ResidualFactor(
                ("x",), "end", lambda x, g: x - g, last[None], (goal,), constraint="equality", linear=True
            ),
            es.ResidualFactor(
                ("x",),
                "clear",
                lambda x: 0.5 - (x - x.new_tensor([1.5, 0.0])).square().sum(1, keepdim=True),
                every,
                constraint="inequality",
            ),
        ],
    )


def test_ragged_paths_and_batch_equals_loop() -> None:
    """Paths round an obstacle keep all constraints, and each ends where it ends alone."""
    lengths = [8, 5, 12]
    graph = chained(lengths, 0)
    start = torch.cat([torch.linspace(0, 3, n, dtype=torch.float64) for n in lengths])
    init = torch.stack([start, 0.2 + 0 * start], 1)
    result = es.minimize(graph, es.AugmentedLagrangian(), init=es.Assignment({"x": init}))
    assert {s.name for s in result.statuses} == {"CONVERGED"}
    assert result.violation is not None and float(result.violation.max()) <= 1e-6
    for b, n in enumerate(lengths):
        mine = (graph.variables["x"].instance == b).nonzero()[:, 0]
        one = es.minimize(chained([n], 0), es.AugmentedLagrangian(), init=es.Assignment({"x": init[mine]}))
        torch.testing.assert_close(one.energy, result.energy[b : b + 1], atol=1e-6, rtol=1e-6)


def test_infeasible_sets() -> None:
    """Contradicting constraints end INFEASIBLE at the least violation; the other instances are solved as they are alone."""
    target, index = normal(4, 2), torch.arange(4)[None]
    first, second = (
        torch.ones(4, 1, dtype=torch.float64),
        torch.tensor([[1.0], [1.0], [2.0], [1.0]], dtype=torch.float64),
    )
    one, two = (
        es.ResidualFactor(("x",), label, lambda x, c: x[:, :1] - c, index, (c,), constraint="equality")
        for label, c in (("one", first), ("two", second))
    )
    result = es.minimize(pulled(target, one, two), es.AugmentedLagrangian())
    assert [s.name for s in result.statuses] == ["CONVERGED", "CONVERGED", "INFEASIBLE", "CONVERGED"]
    assert result.violation is not None
    assert abs(float(result.violation[2]) - 0.5) < 1e-3 and float(result.violation[[0, 1, 3]].max()) <= 1e-6
    assert float(result.energy[2]) == torch.inf
    assert abs(float(result.assignment["x"][2, 0]) - 1.5) < 1e-3
    truth = 0.5 * (target[:, 0] - 1) ** 2
    torch.testing.assert_close(result.energy[[0, 1, 3]], truth[[0, 1, 3]], atol=1e-5, rtol=0)
    empty = es.ResidualFactor(
        ("x",), "empty", lambda x: x.square().sum(1, keepdim=True) + 1, index, constraint="inequality"
    )
    none = es.minimize(pulled(target, empty), es.AugmentedLagrangian())
    assert {s.name for s in none.statuses} == {"INFEASIBLE"}
    assert none.violation is not None and abs(float(none.violation.max()) - 1) < 1e-3


def test_bad_instances() -> None:
    """NaN in one instance's objective ends NONFINITE there; the others are solved."""
    target, index = normal(3, 2), torch.arange(3)[None]
    target[1] = torch.nan
    graph = pulled(target, es.ResidualFactor(("x",), "circle", circle, index, constraint="equality"))
    result = es.minimize(graph, es.AugmentedLagrangian())
    assert [s.name for s in result.statuses] == ["CONVERGED", "NONFINITE", "CONVERGED"]
    truth = target / target.norm(dim=1, keepdim=True)
    torch.testing.assert_close(result.assignment["x"][[0, 2]], truth[[0, 2]], atol=1e-6, rtol=0)
    assert bool(result.assignment["x"].isfinite().all())


def test_start_where_the_constraint_has_no_slope() -> None:
    """From the centre of the circle, where neither the energy nor the constraint points anywhere, a second start helps."""
    graph = pulled(
        torch.zeros(2, 2, dtype=torch.float64),
        es.ResidualFactor(("x",), "circle", circle, torch.arange(2)[None], constraint="equality"),
    )
    result = es.minimize(graph, es.AugmentedLagrangian())
    torch.testing.assert_close(result.energy, torch.full((2,), 0.5, dtype=torch.float64), atol=1e-5, rtol=0)
    lost = es.minimize(graph, es.AugmentedLagrangian(retries=0))
    assert {s.name for s in lost.statuses} == {"INFEASIBLE"}


def test_rotations_under_a_constraint() -> None:
    """A rotation near a given one that takes one axis to where it is told to."""
    axis = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    goal = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    near = es.SO3().project(normal(1, 4))
    block = es.Variables.of_lengths("q", es.SO3(), [1])
    index = torch.tensor([[0]])
    graph = es.FactorGraph(
        [block],
        [
            es.ResidualFactor(("q",), "near", lambda q, p: es.SO3().local(p, q), index, (near,)),
            es.ResidualFactor(
                ("q",), "axis", lambda q, a, g: rotate(q, a) - g, index, (axis, goal), constraint="equality"
            ),
        ],
    )
    result = es.minimize(graph, es.AugmentedLagrangian(), init=es.Assignment({"q": near}))
    assert result.statuses[0].name == "CONVERGED" and result.violation is not None and float(result.violation) <= 1e-6
    moved = rotate(near, axis)
    angle = torch.arccos((moved * goal).sum())
    assert abs(float(result.energy) - 0.5 * float(angle) ** 2) < 1e-5


def test_budgets_and_refusals() -> None:
    """A budget that ends in the middle says so, with the least violation met; graphs without constraints are refused."""
    graph = chained([30], 0)
    late = es.minimize(graph, es.AugmentedLagrangian(), budget=es.Budget.after(0.0))
    assert late.statuses[0].name == "DEADLINE"
    short = es.minimize(graph, es.AugmentedLagrangian(), budget=es.Budget(max_steps=15))
    assert short.statuses[0].name == "MAX_STEPS"
    assert short.violation is not None and late.violation is not None
    assert float(short.violation) <= float(late.violation)
    few = es.minimize(graph, es.AugmentedLagrangian(max_outer=1))
    assert few.statuses[0].name == "MAX_STEPS"
    bare = pulled(normal(2, 2))
    assert "no factor is a constraint" in (es.AugmentedLagrangian().refuse(bare, es.Query()) or "")


@pytest.mark.parametrize("lengths", [[], [0, 0], [0, 2]])
def test_empty_batches(lengths: list[int]) -> None:
    """No instances, no sites, or an instance without constraints: an answer for each all the same."""
    block = es.Variables.of_lengths("x", es.Real(2), lengths)
    index = torch.arange(block.num_sites)[None]
    pull = es.ResidualFactor(("x",), "pull", lambda x: x - 1, index)
    wall = es.ResidualFactor(("x",), "wall", lambda x: x[:, :1] - 0.5, index, constraint="inequality")
    result = es.minimize(es.FactorGraph([block], [pull, wall]), es.AugmentedLagrangian())
    truth = 0.125 * torch.tensor(lengths, dtype=torch.float64)
    torch.testing.assert_close(result.energy, truth, atol=1e-6, rtol=0)


def test_energies_without_a_least_value() -> None:
    """An energy that falls without end along the constraints is not said to have converged."""
    block, index = es.Variables.of_lengths("x", es.Real(2), [1]), torch.tensor([[0]])
    wall = es.ResidualFactor(("x",), "wall", lambda x: x[:, :1] - 1, index, constraint="equality")
    fall = es.BlockFactor(("x",), "fall", lambda x, o: -x.sum(1))
    result = es.minimize(es.FactorGraph([block], [fall, wall]), es.AugmentedLagrangian())
    assert result.statuses[0].name == "MAX_STEPS"


def test_links_that_begin_collapsed() -> None:
    """A chain of links between two points from a start where all links are zero long, where least squares is slow."""
    n = 12
    block = es.Variables.of_lengths("x", es.Real(2), [n])
    t = torch.linspace(0, 1, n, dtype=torch.float64)
    ends = torch.zeros(n, dtype=torch.bool)
    ends[[0, -1]] = True
    links = torch.stack([torch.arange(n - 1), torch.arange(1, n)])
    square = lambda a, b: (a - b).square().sum(1, keepdim=True) - 0.12**2  # noqa: E731
    graph = es.FactorGraph(
        [block],
        [
            es.ResidualFactor(("x",), "weight", lambda x: 0.3 * (x[:, 1:] + 2), torch.arange(n)[None]),
            es.ResidualFactor(("x", "x"), "link", square, links, constraint="equality"),
        ],
    ).condition(es.Assignment({"x": torch.stack([t, 0 * t], 1)}, {"x": ends}))
    result = es.minimize(graph, es.AugmentedLagrangian())
    assert result.statuses[0].name == "CONVERGED" and result.violation is not None and float(result.violation) <= 1e-6

"""L-BFGS against closed forms and scipy: bounds, manifolds, ragged batches, networks, bad instances, several starts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize as scipy_minimize
from scipy.optimize import rosen, rosen_der
from torch import Tensor

import ebmstruct as es
from ebmstruct.graph.manifolds import rotate
from ebmstruct.inference.descent.loop import DescentOptions, PointFunction, minimize_point
from ebmstruct.inference.smooth_energy import SmoothEnergy, starting_point


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers in float64."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rosenbrock(x: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
    """(B,) Rosenbrock's function of one site an instance."""
    return (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(1)


def whole(function: object, domain: es.Continuous, instances: int) -> es.FactorGraph:
    """A graph of one site an instance and one function."""
    block = es.Variables.of_lengths("x", domain, [1] * instances)
    return es.FactorGraph([block], [es.BlockFactor(("x",), "energy", function)])  # type: ignore[arg-type]


@pytest.mark.parametrize("dimension", [2, 5, 20])
def test_rosenbrock(dimension: int) -> None:
    """The gradient is down to the tolerance from every start, and the energy is that of a local minimum or zero."""
    graph = whole(rosenbrock, es.Real(dimension), 8)
    result = es.minimize(graph, es.LBFGS(), init=es.Assignment({"x": normal(8, dimension)}))
    assert {s.name for s in result.statuses} == {"CONVERGED"}
    assert float(result.energy.max()) < 4.0 and float(result.energy.min()) < 1e-12
    assert float(result.stats["gradient"].max()) < 1e-6


@pytest.mark.parametrize("dimension", [2, 10])
def test_bounds_against_scipy(dimension: int) -> None:
    """In a box the energies are those of scipy's L-BFGS-B from the same starts, and no bound is broken."""
    graph, start = whole(rosenbrock, es.Real(dimension, -0.5, 0.8), 6), normal(6, dimension)
    result = es.minimize(graph, es.LBFGS(), init=es.Assignment({"x": start}))
    for b, x in enumerate(start.clamp(-0.5, 0.8).numpy()):
        box = [(-0.5, 0.8)] * dimension
        options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 5000}
        found = scipy_minimize(rosen, x, jac=rosen_der, method="L-BFGS-B", bounds=box, options=options)
        assert abs(float(result.energy[b]) - found.fun) < 1e-9
    assert result.violation is not None and float(result.violation.max()) == 0.0


def quadratic(lengths: list[int], dim: int, seed: int) -> tuple[es.FactorGraph, list[Tensor]]:
    """A ragged batch of linear least squares problems, and the solution (n, d) of each instance."""
    block = es.Variables.of_lengths("x", es.Real(dim), lengths)
    pairs = [
        (s, s + 1) for a, b in zip(block.offsets, block.offsets[1:], strict=False) for s in range(int(a), int(b) - 1)
    ]
    index = torch.tensor(pairs, dtype=torch.long).T
    anchor, change = normal(block.num_sites, dim, seed=seed), normal(index.shape[1], dim, seed=seed + 1)
    sites = torch.arange(block.num_sites)[None]
    graph = es.FactorGraph(
        [block],
        [
            es.ResidualFactor(("x",), "anchor", lambda x, a: x - a, sites, (anchor,)),
            es.ResidualFactor(("x", "x"), "change", lambda x, y, c: 3 * (y - x - c), index, (change,)),
        ],
    )
    solutions = []
    for a, b in zip(block.offsets.tolist(), block.offsets[1:].tolist(), strict=False):
        n = b - a
        difference = torch.eye(n, dtype=torch.float64).diff(dim=0)
        rows = ((index[0] >= a) & (index[0] < b)).nonzero()[:, 0]
        matrix = torch.eye(n, dtype=torch.float64) + 9 * difference.T @ difference
        solutions.append(torch.linalg.solve(matrix, anchor[a:b] + 9 * difference.T @ change[rows]))
    return graph, solutions


def test_ragged_quadratics() -> None:
    """Least squares over instances of different sizes, an empty one among them, is that of a dense solve."""
    graph, solutions = quadratic([3, 0, 7, 1, 12], 2, 0)
    result = es.minimize(graph, es.LBFGS())
    torch.testing.assert_close(result.assignment["x"], torch.cat(solutions), atol=1e-7, rtol=0)


def test_batch_equals_loop() -> None:
    """Each instance of a batch, of even or uneven sizes, ends where it ends alone."""
    for lengths in ([4, 4, 4], [2, 5, 9]):
        graph, _ = quadratic(lengths, 3, 3)
        together = es.minimize(graph, es.LBFGS())
        torch.testing.assert_close(together.energy, es.minimize(graph.repeat(2), es.LBFGS()).energy[:3])
        for b, n in enumerate(lengths):
            block, other = graph.variables["x"], quadratic(lengths, 3, 3)[0]
            keep = (block.instance == b).nonzero()[:, 0]
            residuals = [f for f in other.factors if isinstance(f, es.ResidualFactor)]
            rows = [(block.instance[f.index[0]] == b).nonzero()[:, 0] for f in residuals]
            factors = [f.with_rows(r) for f, r in zip(residuals, rows, strict=True)]
            shifted = [
                es.ResidualFactor(f.scope, f.label, f.function, f.index - int(keep[0]), f.parameters) for f in factors
            ]
            alone = es.FactorGraph([es.Variables.of_lengths("x", es.Real(3), [n])], shifted)
            one = es.minimize(alone, es.LBFGS())
            torch.testing.assert_close(one.energy, together.energy[b : b + 1], atol=1e-10, rtol=1e-10)
            torch.testing.assert_close(one.assignment["x"], together.assignment["x"][keep], atol=1e-6, rtol=0)


def test_small_network() -> None:
    """A neural energy in float32: energies are those of float64 within its precision, batch as one by one."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))

    def energy(x: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        return net.to(x.dtype)(x)[:, 0] + 0.5 * x.square().sum(1)

    start = normal(9, 6).float()
    graph = whole(energy, es.Real(6), 9)
    result = es.minimize(graph, es.LBFGS(), init=es.Assignment({"x": start}))
    assert {s.name for s in result.statuses} == {"CONVERGED"} and result.assignment["x"].dtype == torch.float32
    for b in range(9):
        one = es.minimize(whole(energy, es.Real(6), 1), es.LBFGS(), init=es.Assignment({"x": start[b : b + 1]}))
        assert abs(float(one.energy - result.energy[b])) < 1e-5
    exact = es.minimize(graph, es.LBFGS(), init=es.Assignment({"x": start.double()}))
    torch.testing.assert_close(result.energy.double(), exact.energy.double(), atol=1e-5, rtol=1e-5)


def test_rotation_against_svd() -> None:
    """The rotation that best takes one cloud of points to another is that of the singular value decomposition."""
    clouds, targets = normal(5, 10, 3), normal(5, 10, 3, seed=1)

    def misfit(q: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return (rotate(q[:, None].expand(-1, 10, -1), a) - b).reshape(-1, 30)

    block = es.Variables.of_lengths("q", es.SO3(), [1] * 5)
    factor = es.ResidualFactor(("q",), "misfit", misfit, torch.arange(5)[None], (clouds, targets))
    result = es.minimize(es.FactorGraph([block], [factor]), es.LBFGS(starts=4))
    for b in range(5):
        u, s, vh = torch.linalg.svd(clouds[b].T @ targets[b])
        s[2] *= torch.sign(torch.linalg.det(u @ vh))
        least = 0.5 * (clouds[b].square().sum() + targets[b].square().sum()) - s.sum()
        assert abs(float(result.energy[b] - least)) < 1e-9


def test_bad_instances_harm_nobody() -> None:
    """NaN at the start ends NONFINITE, a region of NaN is never entered, and the others end as they do alone."""

    def energy(x: Tensor, bad: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        return (
            (x - 3).square().sum(1) + torch.where(bad > 0, torch.nan, 0.0) + torch.where(x[:, 0] < -5, torch.nan, 0.0)
        )

    block = es.Variables.of_lengths("x", es.Real(2), [1] * 4)
    bad = torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    graph = es.FactorGraph([block], [es.BlockFactor(("x",), "energy", energy, (bad,))])
    result = es.minimize(graph, es.LBFGS())
    assert [s.name for s in result.statuses] == ["CONVERGED", "NONFINITE", "CONVERGED", "CONVERGED"]
    assert float(result.energy[[0, 2, 3]].max()) < 1e-12 and bool(result.assignment["x"].isfinite().all())

    def logarithm(x: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        return (x - 0.01 * x.log()).sum(1)  # NaN below zero, least at 0.01

    start = es.Assignment({"x": torch.tensor([[5.0], [0.5]], dtype=torch.float64)})
    found = es.minimize(whole(logarithm, es.Real(1), 2), es.LBFGS(), init=start)
    torch.testing.assert_close(found.assignment["x"], torch.full((2, 1), 0.01, dtype=torch.float64), atol=1e-6, rtol=0)


def test_two_wells() -> None:
    """Of two wells the deeper is found by several starts where one ends in the other; the same seed, the same answer."""

    def wells(x: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        return ((x.square() - 4).square() + x).sum(1)

    graph, start = whole(wells, es.Real(1), 3), es.Assignment({"x": torch.full((3, 1), 1.5, dtype=torch.float64)})
    one = es.minimize(graph, es.LBFGS(), init=start)
    solver = es.LBFGS(starts=8, start_distance=3.0)
    many = [es.minimize(graph, solver, init=start, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
    assert bool((one.assignment["x"] > 0).all()) and bool((many[0].assignment["x"] < 0).all())
    assert torch.equal(many[0].assignment["x"], many[1].assignment["x"])


def test_budgets() -> None:
    """More steps never give a higher energy; a deadline that is over gives the start, and so says the status."""
    graph, start = whole(rosenbrock, es.Real(10), 4), es.Assignment({"x": normal(4, 10)})
    last = graph.energy(start)
    for steps in (0, 1, 5, 20, 80):
        result = es.minimize(graph, es.LBFGS(), init=start, budget=es.Budget(max_steps=steps))
        assert bool((result.energy <= last).all()) and result.statuses[0].name in ("MAX_STEPS", "CONVERGED")
        last = result.energy
    late = es.minimize(graph, es.LBFGS(), init=start, budget=es.Budget.after(0.0))
    assert late.statuses[0].name == "DEADLINE" and torch.equal(late.energy, graph.energy(start))
    short = es.minimize(graph, es.LBFGS(max_iterations=3), init=start)
    assert {s.name for s in short.statuses} == {"MAX_STEPS"}


@pytest.mark.parametrize("lengths", [[], [0, 0], [0, 2]])
def test_empty_batches(lengths: list[int]) -> None:
    """No instances, no sites, or an instance without sites: an answer for each all the same."""
    block = es.Variables.of_lengths("x", es.Real(2), lengths)
    index = torch.arange(block.num_sites)[None]
    pull = es.ResidualFactor(("x",), "pull", lambda x: x - 1, index)
    result = es.minimize(es.FactorGraph([block], [pull]), es.LBFGS())
    assert result.energy.tolist() == [0.0] * len(lengths)
    assert es.minimize(es.FactorGraph([block], [pull]), es.LBFGS(starts=3)).energy.shape == (len(lengths),)


def test_energies_without_a_least_value() -> None:
    """An energy that falls without end is not said to have converged."""
    result = es.minimize(whole(lambda x, o: -x.sum(1), es.Real(2), 2), es.LBFGS())
    assert {s.name for s in result.statuses} == {"MAX_STEPS"}


def test_evidence_and_discrete_blocks() -> None:
    """Clamped sites stay, clamped discrete blocks choose the table; open ones, constraints and other asks are refused."""
    x, y = es.Variables.of_lengths("x", es.Real(1), [2, 2]), es.Variables.of_lengths("y", es.Discrete(2), [1, 1])
    here = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]])
    pull = es.ResidualFactor(("x", "y"), "pull", lambda x, s: x - s[:, None].to(x.dtype), here)
    tie = es.ResidualFactor(("x", "x"), "tie", lambda a, b: a - b, torch.tensor([[0, 2], [1, 3]]))
    graph = es.FactorGraph([x, y], [pull, tie])
    assert "discrete" in es.LBFGS().refuse(graph, es.Query())  # type: ignore[operator]
    known = torch.tensor([True, False, False, False])
    fixed = es.Assignment({"x": torch.full((4, 1), 3.0), "y": torch.tensor([0, 1])}, {"x": known})
    result = es.minimize(graph.condition(fixed), es.LBFGS())
    torch.testing.assert_close(result.assignment["x"][:, 0], torch.tensor([3.0, 1.5, 1.0, 1.0]), atol=1e-4, rtol=0)
    wall = es.ResidualFactor(("x",), "wall", lambda x: x, torch.arange(4)[None], constraint="inequality")
    only = es.FactorGraph([x], [tie, wall])
    assert "wall" in (es.LBFGS().refuse(only, es.Query()) or "")
    assert "block 'y'" in (es.LBFGS().refuse(graph, es.Query()) or "")


def test_any_function_of_a_point() -> None:
    """``minimize_point`` works on a function that is no energy of the graph."""
    graph = whole(rosenbrock, es.Real(3), 4)
    space = SmoothEnergy.of(graph, starting_point(graph, None))
    target = normal(4, 3)
    function = PointFunction(
        space, lambda point: (point[0] - target).pow(4).sum(1) + (point[0] - target).square().sum(1)
    )
    state = minimize_point(function, (torch.zeros(4, 3, dtype=torch.float64),), DescentOptions())
    torch.testing.assert_close(state.point[0], target, atol=1e-7, rtol=0)
    assert bool(state.done.all()) and not bool(state.gave_up.any())


def test_random_convex_functions_against_scipy() -> None:
    """Twenty random log-sum-exp functions end at the energies that scipy's BFGS finds."""
    weights, shift = normal(20, 15, 4), normal(20, 15, seed=1)

    def energy(x: Tensor, w: Tensor, c: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        return ((w @ x[:, :, None])[:, :, 0] + c).logsumexp(1) + 0.05 * x.square().sum(1)

    block = es.Variables.of_lengths("x", es.Real(4), [1] * 20)
    graph = es.FactorGraph([block], [es.BlockFactor(("x",), "energy", energy, (weights, shift))])
    result = es.minimize(graph, es.LBFGS())
    for b in range(20):
        w, c = weights[b].numpy(), shift[b].numpy()
        value = lambda x, w=w, c=c: float(np.logaddexp.reduce(w @ x + c) + 0.05 * x @ x)  # noqa: E731
        assert abs(scipy_minimize(value, np.zeros(4), tol=1e-9).fun - float(result.energy[b])) < 1e-7

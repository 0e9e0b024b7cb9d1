"""Adam against torch's own and closed forms: bounds, per-instance ends, decay, bad instances, several starts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import ebmstruct as es
from ebmstruct.graph.manifolds import rotate


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


def test_steps_are_those_of_torch() -> None:
    """The point after thirty steps is that of torch.optim.Adam."""
    start = normal(4, 3)
    leaf = start.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([leaf], lr=0.01, eps=1e-12)
    for _ in range(30):
        optimiser.zero_grad()
        rosenbrock(leaf, ()).sum().backward()
        optimiser.step()
    solver, graph = es.Adam(learning_rate=0.01), whole(rosenbrock, es.Real(3), 4)
    state = solver.begin(graph, es.Query(), es.Assignment({"x": start}), None)
    for _ in range(30):
        state = solver.step(graph, es.Query(), state)
    torch.testing.assert_close(state.point[0], leaf.detach(), atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    "solver", [es.Adam(), es.Adam(decay_steps=600), es.Adam(starts=3)], ids=["plain", "cosine", "starts"]
)
def test_quadratic_in_a_box(solver: es.Adam) -> None:
    """The point nearest to a target inside bounds is the target cut to them; no bound is broken on the way."""
    target = normal(5, 3)
    block = es.Variables.of_lengths("x", es.Real(3, -0.5, 0.5), [1] * 5)
    factor = es.ResidualFactor(("x",), "pull", lambda x, t: x - t, torch.arange(5)[None], (target,))
    result = es.minimize(es.FactorGraph([block], [factor]), solver)
    torch.testing.assert_close(result.assignment["x"], target.clamp(-0.5, 0.5), atol=1e-5, rtol=0)
    assert result.violation is not None and float(result.violation.max()) == 0.0


def test_rough_energy() -> None:
    """The sum of absolute values, which has a kink at its minimum, comes down to the last rate."""
    result = es.minimize(
        whole(lambda x, o: x.abs().sum(1), es.Real(2), 2), es.Adam(), init=es.Assignment({"x": normal(2, 2)})
    )
    assert float(result.energy.max()) < 1e-2


def test_each_instance_has_its_own_rate_and_end() -> None:
    """NaN at the start ends NONFINITE, a region of NaN is not entered, and the energies of the others are their own."""

    def energy(x: Tensor, bad: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        wall = torch.where(x[:, 0] > 1.05, torch.nan, 0.0)
        return (x - 1).square().sum(1) + torch.where(bad > 0, torch.nan, 0.0) + wall

    block = es.Variables.of_lengths("x", es.Real(2), [1] * 3)
    bad = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    graph = es.FactorGraph([block], [es.BlockFactor(("x",), "energy", energy, (bad,))])
    start = es.Assignment({"x": torch.tensor([[0.0, 0.0], [0.0, 0.0], [-3.0, 2.0]], dtype=torch.float64)})
    result = es.minimize(graph, es.Adam(), init=start)
    assert [s.name for s in result.statuses] == ["CONVERGED", "NONFINITE", "CONVERGED"]
    assert float(result.energy[[0, 2]].max()) < 1e-6
    one = es.FactorGraph(
        [es.Variables.of_lengths("x", es.Real(2), [1])], [es.BlockFactor(("x",), "energy", energy, (bad[:1],))]
    )
    alone = es.minimize(one, es.Adam(), init=es.Assignment({"x": start["x"][2:]}))
    torch.testing.assert_close(alone.assignment["x"][0], result.assignment["x"][2], atol=1e-9, rtol=0)


def test_rotations() -> None:
    """A rotation found by its steps takes the points where they should go; the quaternion stays of unit length."""
    points = normal(4, 3)
    truth = es.SO3().project(normal(1, 4, seed=2))
    moved = rotate(truth, points)

    def misfit(q: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        return (rotate(q, points) - moved).square().sum()[None]

    start = es.Assignment({"x": es.SO3().start(1, torch.float64)})
    result = es.minimize(whole(misfit, es.SO3(), 1), es.Adam(), init=start)
    found = result.assignment["x"]
    assert float(result.energy) < 1e-8 and abs(float(found.norm()) - 1) < 1e-12


def test_two_wells_and_budgets() -> None:
    """Several starts find the deeper well, twice the same; a budget of no steps gives the start."""

    def wells(x: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        return ((x.square() - 4).square() + x).sum(1)

    graph, start = whole(wells, es.Real(1), 2), es.Assignment({"x": torch.full((2, 1), 1.5, dtype=torch.float64)})
    solver = es.Adam(starts=8, start_distance=3.0)
    many = [es.minimize(graph, solver, init=start, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
    assert bool((many[0].assignment["x"] < 0).all()) and torch.equal(many[0].energy, many[1].energy)
    none = es.minimize(graph, es.Adam(), init=start, budget=es.Budget(max_steps=0))
    assert none.statuses[0].name == "MAX_STEPS" and torch.equal(none.energy, graph.energy(start))
    with pytest.raises(es.GraphError, match="learning rate"):
        es.Adam(learning_rate=0.0)

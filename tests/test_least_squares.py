"""Least squares over residual factors, against scipy, dense algebra, and problems whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares
from torch import Tensor

import ebmstruct as es
from ebmstruct.graph import union
from ebmstruct.graph.continuous import scattered
from ebmstruct.graph.manifolds import quaternion_conjugate, quaternion_log, quaternion_product, rotate
from ebmstruct.inference import certificate
from ebmstruct.inference.views.residual_view import residual_view

BOTH: list[es.Solver] = [es.LevenbergMarquardt(), es.GaussNewton()]
FLOAT = torch.float64


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def curve(sizes: list[int], seed: int, **options: object) -> es.FactorGraph:
    """Exponential decays y = a exp(-b t) + noise, each instance with data of its own: one site of 2 numbers each."""
    g = generator(seed)
    x = es.Variables.of_lengths("x", es.Real(2), [1] * len(sizes))
    owner = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    t = torch.rand(len(owner), 1, dtype=FLOAT, generator=g) * 3
    y = 2.0 * (-0.7 * t).exp() + 0.1 * torch.randn(len(owner), 1, dtype=FLOAT, generator=g)
    fit = es.ResidualFactor(("x",), "fit", decay, owner[None], (t, y), **options)  # type: ignore[arg-type]
    return es.FactorGraph([x], [fit])


def decay(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    return x[:, :1] * (-x[:, 1:] * t).exp() - y


def scipy_of(graph: es.FactorGraph, start: Tensor, **options: object) -> tuple[Tensor, float]:
    """What scipy finds for a graph of one instance over one block of real numbers."""
    (factor,) = graph.factors
    assert isinstance(factor, es.ResidualFactor)

    def residuals(x: np.ndarray) -> np.ndarray:
        return factor.residuals([torch.from_numpy(x).reshape(start.shape)] * len(factor.scope)).numpy().ravel()

    found = least_squares(residuals, start.numpy().ravel(), xtol=1e-14, ftol=1e-14, gtol=1e-14, **options)
    return torch.from_numpy(found.x).reshape(start.shape), float(found.cost)


@pytest.mark.parametrize("solver", BOTH, ids=lambda s: s.name)
def test_against_scipy(solver: es.Solver) -> None:
    """Curves are fitted as scipy fits them, alone and in a batch of different sizes."""
    sizes = [5, 30, 12]
    parts = [curve([n], seed) for seed, n in enumerate(sizes)]
    start = torch.tensor([[1.0, 1.0]], dtype=FLOAT)
    whole = es.minimize(union(parts), solver, init=es.Assignment({"x": start.expand(3, 2)}))
    for i, part in enumerate(parts):
        x, cost = scipy_of(part, start)
        alone = es.minimize(part, solver, init=es.Assignment({"x": start}))
        torch.testing.assert_close(alone.assignment["x"], x, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(alone.energy, torch.tensor([cost], dtype=FLOAT), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(whole.assignment["x"][i], alone.assignment["x"][0], rtol=1e-9, atol=1e-10)
    assert whole.statuses == [es.Status.CONVERGED] * 3


@pytest.mark.parametrize("loss", [es.Huber(0.3), es.Cauchy(0.3), es.GemanMcClure(0.5), es.Tukey(1.0)], ids=repr)
def test_robust_losses(loss: object) -> None:
    """At the answer the energy with a robust loss is stationary, and outliers no longer pull it away."""
    g = generator(3)
    x = es.Variables.of_lengths("x", es.Real(2), [1])
    t = torch.linspace(0, 1, 40, dtype=FLOAT)[:, None]
    y = 1.0 + 2.0 * t + 0.02 * torch.randn(40, 1, dtype=FLOAT, generator=g)
    y[::8] += 5.0
    index = torch.zeros(1, 40, dtype=torch.long)
    function = lambda v, t, y: v[:, :1] + v[:, 1:] * t - y  # noqa: E731
    graph = es.FactorGraph([x], [es.ResidualFactor(("x",), "line", function, index, (t, y), loss=loss, linear=True)])  # type: ignore[arg-type]
    init = es.Assignment({"x": torch.tensor([[0.8, 2.2]], dtype=FLOAT)})
    found = es.minimize(graph, es.LevenbergMarquardt(relative_decrease=1e-14), init=init)
    point = found.assignment["x"].clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(graph.energy({"x": point}).sum(), point)
    assert float(slope.abs().max()) < 1e-5
    tolerance = 0.3 if isinstance(loss, es.Huber) else 0.05
    torch.testing.assert_close(found.assignment["x"], torch.tensor([[1.0, 2.0]], dtype=FLOAT), atol=tolerance, rtol=0)


def test_bounds_against_scipy() -> None:
    """With bounds the answer is scipy's, whether they bind or not; the engine measures no violation."""
    for seed in range(4):
        part = curve([20], seed)
        domain = es.Real(2, lower=(0.0, 0.0), upper=(1.8, 10.0) if seed % 2 else 50.0)
        bounded = es.FactorGraph([es.Variables.of_lengths("x", domain, [1])], part.factors)
        start = torch.tensor([[1.0, 1.0]], dtype=FLOAT)
        lower, upper = domain.bounds(FLOAT)
        x, cost = scipy_of(part, start, bounds=(lower.numpy(), upper.numpy()))
        found = es.minimize(bounded, es.LevenbergMarquardt(), init=es.Assignment({"x": start}))
        assert float(found.energy) <= cost * (1 + 1e-8)
        torch.testing.assert_close(found.assignment["x"], x, rtol=1e-4, atol=1e-5)
        assert float(found.violation) == 0.0  # type: ignore[arg-type]


def random_walk(sizes: list[int], seed: int, d: int = 3) -> es.FactorGraph:
    """Kalman smoothers: linear dynamics, noisy observations at two sites of three, a prior at the first."""
    g = generator(seed)
    x = es.Variables.of_lengths("x", es.Real(d), sizes)
    a = torch.eye(d, dtype=FLOAT) + 0.1 * torch.randn(d, d, dtype=FLOAT, generator=g)
    sites = torch.arange(x.num_sites)
    later = sites[x.instance == x.instance.roll(1)] if x.num_sites > 1 else sites[:0]
    later = later[later > 0]
    seen = sites[sites % 3 != 0]
    z = torch.randn(len(seen), d, dtype=FLOAT, generator=g)
    first = x.first_sites
    mean = torch.randn(len(first), d, dtype=FLOAT, generator=g)
    factors = [
        es.ResidualFactor(
            ("x", "x"), "motion", lambda p, q: 3.0 * (q - p @ a.T), torch.stack([later - 1, later]), linear=True
        ),
        es.ResidualFactor(("x",), "seen", lambda p, z: 2.0 * (p - z), seen[None], (z,), linear=True),
        es.ResidualFactor(("x",), "first", lambda p, m: p - m, first[None], (mean,), linear=True),
    ]
    return es.FactorGraph([x], factors)


def dense_minimum(graph: es.FactorGraph, block: str = "x") -> tuple[Tensor, Tensor]:
    """The minimum of a quadratic energy over one block by dense algebra, and its Hessian over the whole batch."""
    owner = graph.variables[block]
    d = owner.domain.dim  # type: ignore[union-attr]
    energy = lambda v: graph.energy({block: v.reshape(-1, d)}).sum()  # noqa: E731
    zero = torch.zeros(owner.num_sites * d, dtype=FLOAT)
    hessian = torch.autograd.functional.hessian(energy, zero)
    gradient = torch.autograd.functional.jacobian(energy, zero)
    return torch.linalg.solve(hessian, -gradient).reshape(-1, d), hessian


@pytest.mark.parametrize("solver", BOTH, ids=lambda s: s.name)
def test_kalman_smoother(solver: es.Solver) -> None:
    """Linear chains end at the dense solution to 1e-8, with the bound that proves it, in one or two steps."""
    graph = random_walk([8, 1, 15], 0)
    found = es.minimize(graph, solver)
    expected, _ = dense_minimum(graph)
    torch.testing.assert_close(found.assignment["x"], expected, rtol=1e-9, atol=1e-9)
    assert found.statuses == [es.Status.OPTIMAL] * 3 and found.stats["steps"] <= 2
    torch.testing.assert_close(certificate.bound(graph, found), found.energy, rtol=1e-9, atol=1e-9)


def pose_graph(domain: es.SE2 | es.SE3, lengths: list[int], seed: int, noise: float) -> tuple[es.FactorGraph, Tensor]:
    """Poses along walks, measured from one to the next and across loops; the first pose of each is held."""
    g = generator(seed)
    x = es.Variables.of_lengths("pose", domain, lengths)
    truth = domain.start(x.num_sites, FLOAT)
    t = domain.tangent_dim
    for i in range(1, x.num_sites):
        step = 0.5 * torch.randn(1, t, dtype=FLOAT, generator=g)
        truth[i] = domain.retract(truth[i - 1 : i], step)[0]
    sites = torch.arange(x.num_sites)
    pairs = []
    for gap in (1, 5):
        later = sites[gap:]
        later = later[x.instance[later] == x.instance[later - gap]]
        pairs.append(torch.stack([later - gap, later]))
    index = torch.cat(pairs, 1)
    relative = planar if isinstance(domain, es.SE2) else spatial
    measured = relative(truth[index[0]], truth[index[1]], torch.zeros(1, t, dtype=FLOAT))
    measured = measured + noise * torch.randn(measured.shape, dtype=FLOAT, generator=g)
    graph = es.FactorGraph([x], [es.ResidualFactor(("pose", "pose"), "between", relative, index, (measured,))])
    known = torch.zeros(x.num_sites, dtype=torch.bool)
    known[x.first_sites] = True
    return graph.condition(es.Assignment({"pose": truth}, {"pose": known})), truth


def planar(a: Tensor, b: Tensor, measured: Tensor) -> Tensor:
    """(m, 3) how pose b looks from pose a, less what was measured."""
    c, s = a[:, 2:3], a[:, 3:4]
    move = b[:, :2] - a[:, :2]
    there = torch.cat([c * move[:, :1] + s * move[:, 1:], c * move[:, 1:] - s * move[:, :1]], 1)
    angle = torch.atan2(a[:, 2] * b[:, 3] - a[:, 3] * b[:, 2], (a[:, 2:] * b[:, 2:]).sum(1))
    return torch.cat([there, angle[:, None]], 1) - measured


def spatial(a: Tensor, b: Tensor, measured: Tensor) -> Tensor:
    """(m, 6) the same in space."""
    back = quaternion_conjugate(a[:, 3:])
    return (
        torch.cat([rotate(back, b[:, :3] - a[:, :3]), quaternion_log(quaternion_product(back, b[:, 3:]))], 1) - measured
    )


@pytest.mark.parametrize("domain", [es.SE2(), es.SE3()], ids=repr)
@pytest.mark.parametrize("solver", BOTH, ids=lambda s: s.name)
def test_pose_graphs(domain: es.SE2 | es.SE3, solver: es.Solver) -> None:
    """Without noise the poses come back; with noise the gradient by steps vanishes at the answer."""
    graph, truth = pose_graph(domain, [12, 7], 0, 0.0)
    g = generator(1)
    start = domain.retract(truth, 0.1 * torch.randn(19, domain.tangent_dim, dtype=FLOAT, generator=g))
    found = es.minimize(graph, solver, init=es.Assignment({"pose": start}))
    assert float(found.energy.max()) < 1e-18
    assert float(domain.local(found.assignment["pose"], truth).abs().max()) < 1e-8
    noisy, truth = pose_graph(domain, [12, 7], 0, 0.05)
    found = es.minimize(noisy, es.LevenbergMarquardt(relative_decrease=1e-13), init=es.Assignment({"pose": start}))
    moved = torch.zeros(19, domain.tangent_dim, dtype=FLOAT, requires_grad=True)
    at = {"pose": domain.retract(found.assignment["pose"], moved)}
    (slope,) = torch.autograd.grad(noisy.energy(at).sum(), moved)
    free = ~noisy.evidence.known["pose"]  # type: ignore[union-attr]
    assert float(slope[free].abs().max()) < 1e-5


def bundle(cameras: int, points: int, seed: int) -> tuple[es.FactorGraph, es.Assignment]:
    """Cameras that see points: two blocks, poses and places, each camera seeing each point with some chance."""
    g = generator(seed)
    pose = es.Variables.of_lengths("camera", es.SE3(), [cameras])
    place = es.Variables.of_lengths("point", es.Real(3), [points])
    where = torch.randn(points, 3, dtype=FLOAT, generator=g)
    where[:, 2] += 6.0
    eyes = es.SE3().retract(es.SE3().start(cameras, FLOAT), 0.2 * torch.randn(cameras, 6, dtype=FLOAT, generator=g))
    seen = (torch.rand(cameras, points, generator=g) < 0.7).nonzero().T
    pixels = project(eyes[seen[0]], where[seen[1]], torch.zeros(1, 2, dtype=FLOAT))
    pixels = pixels + 1e-3 * torch.randn(pixels.shape, dtype=FLOAT, generator=g)
    factor = es.ResidualFactor(("camera", "point"), "sight", project, seen.contiguous(), (pixels,))
    known = torch.zeros(cameras, dtype=torch.bool)
    known[:2] = True
    graph = es.FactorGraph([pose, place], [factor]).condition(es.Assignment({"camera": eyes}, {"camera": known}))
    start = {
        "camera": es.SE3().retract(eyes, 0.02 * torch.randn(cameras, 6, dtype=FLOAT, generator=g)),
        "point": where + 0.05 * torch.randn(points, 3, dtype=FLOAT, generator=g),
    }
    return graph, es.Assignment(start)


def project(camera: Tensor, point: Tensor, pixel: Tensor) -> Tensor:
    """(m, 2) where a camera at a pose sees a point, less the pixel; focal length 1."""
    seen = rotate(quaternion_conjugate(camera[:, 3:]), point - camera[:, :3])
    return seen[:, :2] / seen[:, 2:] - pixel


@pytest.mark.parametrize("size", [(3, 9), (12, 150)], ids=str)
def test_bundle_adjustment(size: tuple[int, int]) -> None:
    """Cameras and points: the gradient vanishes at the answer, by bands where it is small, by a sparse factor else."""
    graph, init = bundle(*size, 0)
    assert (residual_view(graph).sparse is not None) == (size[0] > 3)
    found = es.minimize(graph, es.LevenbergMarquardt(relative_decrease=1e-14), init=init)
    steps = [
        torch.zeros(size[0], 6, dtype=FLOAT, requires_grad=True),
        torch.zeros(size[1], 3, dtype=FLOAT, requires_grad=True),
    ]
    at = {
        "camera": es.SE3().retract(found.assignment["camera"], steps[0]),
        "point": found.assignment["point"] + steps[1],
    }
    slopes = torch.autograd.grad(graph.energy(at).sum(), steps)
    assert float(slopes[0][2:].abs().max()) < 1e-8 and float(slopes[1].abs().max()) < 1e-8
    expected = 0.5 * 1e-6 * (2 * graph.factors[0].index.shape[1] - 6 * (size[0] - 2) - 3 * size[1])  # type: ignore[attr-defined]
    assert 0.6 * expected < float(found.energy) < 1.5 * expected  # degrees of freedom times the noise


def test_author_jacobian_and_forward_mode() -> None:
    """A factor's own Jacobian, backward and forward differentiation lead to the same answer, on manifolds too."""
    g = generator(0)
    x = es.Variables.of_lengths("x", es.SO3(), [3])
    target = scattered(es.SO3(), 3, FLOAT, g)
    wide = torch.randn(9, 4, dtype=FLOAT, generator=g)
    many = lambda q, z: (q - z) @ wide.T  # noqa: E731, 9 residuals of 3 coordinates: forward
    few = lambda q, z: ((q - z) * wide[0]).sum(1, keepdim=True)  # noqa: E731
    own = lambda q, z: [wide.expand(len(q), 9, 4)]  # noqa: E731
    index = torch.arange(3)[None]
    base = [es.ResidualFactor(("x",), "few", few, index, (target,))]
    one = es.FactorGraph([x], [*base, es.ResidualFactor(("x",), "many", many, index, (target,))])
    two = es.FactorGraph([x], [*base, es.ResidualFactor(("x",), "many", many, index, (target,), own)])
    found = [es.minimize(graph, es.LevenbergMarquardt()) for graph in (one, two)]
    torch.testing.assert_close(found[0].assignment["x"], found[1].assignment["x"], rtol=1e-12, atol=1e-12)
    assert float(found[0].energy) < 1e-15 and found[0].stats["steps"] == found[1].stats["steps"]


def test_bad_instances_stay_alone() -> None:
    """An instance with NaN data, one without any data and one of huge numbers leave a fourth as it is alone."""
    parts = [curve([n], seed) for seed, n in enumerate([10, 10, 10])]
    nothing = curve([0], 9)
    graph = union([parts[0], parts[1], nothing, parts[2]])
    factor = graph.factors[0]
    assert isinstance(factor, es.ResidualFactor)
    t, y = factor.parameters
    y = y.clone()
    y[12], y[25] = torch.nan, 1e300
    broken = es.FactorGraph(list(graph.variables.values()), [factor.with_values((t, y))])
    init = torch.ones(4, 2, dtype=FLOAT)
    found = es.minimize(broken, es.LevenbergMarquardt(), init=es.Assignment({"x": init}))
    alone = es.minimize(parts[0], es.LevenbergMarquardt(), init=es.Assignment({"x": init[:1]}))
    assert found.statuses[1] is es.Status.NONFINITE and found.statuses[2] is es.Status.OPTIMAL
    assert found.statuses[3] is es.Status.INFEASIBLE  # its energy is infinite
    torch.testing.assert_close(found.assignment["x"][0], alone.assignment["x"][0])
    assert bool(found.assignment["x"].isfinite().all())


@pytest.mark.parametrize("solver", BOTH, ids=lambda s: s.name)
def test_singular_systems(solver: es.Solver) -> None:
    """Where a direction does not matter the answer is still a minimum, and nothing is NaN."""
    x = es.Variables.of_lengths("x", es.Real(2), [1, 1])
    index = torch.arange(2)[None]
    function = lambda v: v.sum(1, keepdim=True) - 3.0  # noqa: E731
    for linear in (True, False):
        graph = es.FactorGraph([x], [es.ResidualFactor(("x",), "sum", function, index, linear=linear)])
        found = es.minimize(graph, solver, init=es.Assignment({"x": torch.zeros(2, 2, dtype=FLOAT)}))
        assert float(found.energy.max()) < 1e-12 and bool(found.assignment["x"].isfinite().all())


def test_never_worse_than_the_start() -> None:
    """From hard starts of a narrow curved valley no step budget gives a higher energy, and more steps never hurt."""
    x = es.Variables.of_lengths("x", es.Real(2), [1] * 5)
    valley = lambda v: torch.stack([10 * (v[:, 1] - v[:, 0] ** 2), 1 - v[:, 0]], 1)  # noqa: E731
    graph = es.FactorGraph([x], [es.ResidualFactor(("x",), "valley", valley, torch.arange(5)[None])])
    start = torch.randn(5, 2, dtype=FLOAT, generator=generator(0)) * 3
    for solver in BOTH:
        last = graph.energy({"x": start})
        for steps in (0, 1, 2, 5, 20, 200):
            found = es.minimize(graph, solver, init=es.Assignment({"x": start}), budget=es.Budget(max_steps=steps))
            assert bool((found.energy <= last).all())
            last = found.energy
        torch.testing.assert_close(found.assignment["x"], torch.ones(5, 2, dtype=FLOAT), rtol=0, atol=1e-6)


def test_refusals() -> None:
    """Open discrete blocks, other factors over continuous blocks, constraints and other questions are told."""
    graph = random_walk([3], 0)
    solver = es.LevenbergMarquardt()
    with pytest.raises(es.SolverRefusal, match="finds one assignment"):
        es.minimize(graph, solver, k=2)
    constraint = es.ResidualFactor(("x",), "wall", lambda v: v, torch.tensor([[0]]), constraint="inequality")
    with pytest.raises(es.SolverRefusal, match="AugmentedLagrangian"):
        es.minimize(graph.add(constraint), solver)
    other = es.BlockFactor(("x",), "deep", lambda v, o: v.square().sum()[None])
    with pytest.raises(es.SolverRefusal, match="must be a ResidualFactor"):
        es.minimize(graph.add(other), solver)
    detached = es.ResidualFactor(("x",), "cut", lambda v: v.detach(), torch.tensor([[0]]))
    with pytest.raises(es.SolverRefusal, match="differentiate"):
        es.minimize(es.FactorGraph(list(graph.variables.values()), [detached]), solver)


def test_clamped_discrete_and_continuous_blocks() -> None:
    """Tables over clamped discrete blocks are constants; a residual may look at clamped states and values."""
    x = es.Variables.of_lengths("x", es.Real(1), [2, 2])
    s = es.Variables.of_lengths("s", es.Discrete(2), [1, 1])
    tables = torch.tensor([[1.0, 5.0], [2.0, 3.0]], dtype=FLOAT)
    means = torch.tensor([-1.0, 4.0], dtype=FLOAT)
    factors = [
        es.TableFactor(("s",), "prior", tables, torch.arange(2)[None]),
        es.ResidualFactor(
            ("x", "s"), "near", lambda v, k: v - means[k][:, None], torch.tensor([[0, 2], [0, 1]]), linear=True
        ),
        es.ResidualFactor(("x", "x"), "same", lambda a, b: 2 * (a - b), torch.tensor([[0, 2], [1, 3]]), linear=True),
    ]
    graph = es.FactorGraph([x, s], factors).condition(es.Assignment({"s": torch.tensor([1, 0])}))
    found = es.minimize(graph, es.LevenbergMarquardt())
    torch.testing.assert_close(found.assignment["x"][:, 0], torch.tensor([4.0, 4.0, -1.0, -1.0], dtype=FLOAT))
    torch.testing.assert_close(found.energy, torch.tensor([5.0, 2.0], dtype=FLOAT))
    held = graph.condition(
        es.Assignment(
            {"x": torch.tensor([[0.0], [1.0], [0.0], [0.0]], dtype=FLOAT)},
            {"x": torch.tensor([False, True, False, False])},
        )
    )
    found = es.minimize(held, es.LevenbergMarquardt())
    torch.testing.assert_close(found.assignment["x"][:2, 0], torch.tensor([(4.0 + 4.0) / 5, 1.0], dtype=FLOAT))


def test_single_precision_and_many_instances() -> None:
    """In float32 a batch whose members end at different times agrees with each of them by itself to 1e-5."""
    sizes = [6 + 3 * (i % 5) for i in range(24)]
    parts = [curve([n], 20 + i) for i, n in enumerate(sizes)]
    single = []
    for part in parts:
        factor = part.factors[0]
        assert isinstance(factor, es.ResidualFactor)
        values = tuple(p.float() for p in factor.parameters)
        single.append(es.FactorGraph(list(part.variables.values()), [factor.with_values(values)]))
    start = torch.tensor([[1.0, 1.0]])
    whole = es.minimize(union(single), es.LevenbergMarquardt(), init=es.Assignment({"x": start.expand(24, 2)}))
    for i, part in enumerate(single):
        alone = es.minimize(part, es.LevenbergMarquardt(), init=es.Assignment({"x": start}))
        torch.testing.assert_close(whole.energy[i], alone.energy[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(whole.assignment["x"][i], alone.assignment["x"][0], rtol=1e-3, atol=1e-3)


def test_topology_keeps_the_structure() -> None:
    """With other values the view is the same object; other clamped sites make another."""
    graph = random_walk([6], 0)
    other = graph.with_values({"seen": [(torch.ones(4, 3, dtype=FLOAT),)]})  # type: ignore[list-item]
    assert residual_view(other) is residual_view(graph)
    known = torch.tensor([True] + [False] * 5)
    held = graph.condition(es.Assignment({"x": torch.zeros(6, 3, dtype=FLOAT)}, {"x": known}))
    assert residual_view(held) is not residual_view(graph) and residual_view(held).size == 15
    assert math.isfinite(float(es.minimize(held, es.LevenbergMarquardt()).energy))

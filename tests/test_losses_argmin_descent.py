"""Unrolled and implicit differentiation through minimisers: closed forms, finite differences, and warnings."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

import ebmstruct as es
from ebmstruct.testing.parametric import CASES, CONTINUOUS, DISCRETE, Case, assert_gradient, gradient, hamming

LOSSES: dict[str, es.Loss] = {
    "unrolled": es.Unrolled(steps=5, step_size=0.1, rate=0.4),
    "unrolled with momentum": es.Unrolled(steps=5, step_size=0.05, rate=0.3, momentum=0.5, average=2, temperature=0.5),
    "unrolled squared": es.Unrolled(steps=4, step_size=0.1, rate=0.5, task_loss="squared", start_noise=0.3),
    "implicit": es.Implicit(),
    "implicit squared": es.Implicit(task_loss="squared", temperature=0.7, scale=2.0),
    "implicit by conjugate gradients": es.Implicit(linear_solver="conjugate_gradients"),
}


PLAIN, SHORT = ("unrolled", "implicit"), ("chain", "label set", "mixed", "pose")
"""Losses that are held against every graph and unknown sites, and graphs that the others are held against."""
TRIPLES = [(name, case, "all") for name in LOSSES for case in CASES if name in PLAIN or case in SHORT]
TRIPLES += [(name, case, "some") for name in PLAIN for case in CASES]


@pytest.mark.parametrize(("name", "which", "known"), TRIPLES)
def test_the_gradient_equals_finite_differences_of_the_whole(name: str, which: str, known: str) -> None:
    """Differences of the value, descent or minimisation done anew at each end, equal autograd to 1e-4."""
    loss, case = LOSSES[name], CASES[which]
    target = case.full() if known == "all" else case.partly()
    found = loss(case.build(case.parameters), target)
    assert bool(found.value.isfinite().all()) and bool((found.value >= 0).all())
    assert bool((found.figures.get("sound", torch.ones(1)) == 1).all())
    slope = assert_gradient(lambda p: loss(case.build(p), target).value, case.parameters)
    assert float(slope.abs().max()) > 0


@pytest.mark.parametrize("loss", [es.Unrolled(steps=4, task_loss="cost"), es.Implicit(task_loss="cost")])
@pytest.mark.parametrize("case", [*DISCRETE.values(), CASES["mixed"]], ids=[*DISCRETE, "mixed"])
def test_the_relaxed_cost_has_its_gradient(loss: es.Loss, case: Case) -> None:
    """With the task's cost the value is the expected number of wrong sites, and points still count their distance."""
    target = case.partly(1)
    cost = hamming(case, target)
    assert_gradient(lambda p: loss(case.build(p), target, cost=cost).value, case.parameters)
    with pytest.raises(es.LossRefusal, match="gives no cost"):
        loss(case.build(case.parameters), target)


def independent(unary: Tensor) -> es.FactorGraph:
    """Sites that do not know each other."""
    block = es.Variables.of_lengths("y", es.Discrete(3), [2, 2])
    return es.FactorGraph([block], [es.TableFactor(("y",), "unary", unary)])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_independent_sites_give_the_likelihood(temperature: float) -> None:
    """Without neighbours softmax(-E / T) is the relaxed minimiser, and mean field is there after a step of rate 1 / T."""
    unary = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = es.Assignment({"y": torch.tensor([0, 2, 1, 1])})
    exact = es.NegativeLogLikelihood(temperature)
    for loss in (
        es.Implicit(temperature=temperature),
        es.Unrolled(steps=1, rate=1 / temperature, temperature=temperature),
    ):
        assert torch.allclose(loss(independent(unary), target).value, exact(independent(unary), target).value)
        mine = gradient(lambda p: loss(independent(p.reshape(4, 3)), target).value, unary.reshape(-1))  # noqa: B023
        theirs = gradient(lambda p: exact(independent(p.reshape(4, 3)), target).value, unary.reshape(-1))
        assert torch.allclose(mine, theirs, atol=1e-7)


def test_a_weight_of_nothing_keeps_its_logarithm() -> None:
    """A state 200 above the other has loss 200 and the gradient of the likelihood, though its weight is 1e-87."""
    unary = torch.tensor([[0.0, 200.0], [1.0, 0.0]], dtype=torch.float64)
    block = es.Variables.of_lengths("y", es.Discrete(2), [2])
    target = es.Assignment({"y": torch.tensor([1, 1])})

    def value(p: Tensor) -> Tensor:
        graph = es.FactorGraph([block], [es.TableFactor(("y",), "unary", p.reshape(2, 2))])
        return es.Implicit()(graph, target).value

    assert value(unary.reshape(-1)).tolist() == pytest.approx([200.0 + 0.31326168751], abs=1e-6)
    found = gradient(value, unary.reshape(-1))
    assert found.tolist() == pytest.approx([-1.0, 1.0, -0.26894142, 0.26894142], abs=1e-6)


def quadratic(p: Tensor, domain: es.Real | None = None) -> es.FactorGraph:
    """Half of (x - p0)^2 + p1^2 (x - p2)^2 for each of two instances with the same parameters."""
    block = es.Variables.of_lengths("x", domain or es.Real(1), [1, 1])

    def pulled(x: Tensor, where: Tensor, stiff: Tensor) -> Tensor:
        return stiff * (x - where)

    one = torch.ones(2, 1, dtype=torch.float64)
    return es.FactorGraph(
        [block],
        [
            es.ResidualFactor(("x",), "a", pulled, torch.tensor([[0, 1]]), (p[0] * one, one)),
            es.ResidualFactor(("x",), "b", pulled, torch.tensor([[0, 1]]), (p[2] * one, p[1] * one)),
        ],
    )


def test_a_quadratic_by_hand() -> None:
    """x* = (p0 + p1^2 p2) / (1 + p1^2); K steps of length h reach (1 - (1 - h (1 + p1^2))^K) x* from 0."""
    p = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    target = es.Assignment({"x": torch.tensor([[0.0], [2.0]], dtype=torch.float64)})
    least = (1 + 4 * 3) / 5
    value = es.Implicit(scale=0.5)(quadratic(p), target).value
    assert value.tolist() == pytest.approx([0.5 * (least / 0.5) ** 2, 0.5 * ((least - 2) / 0.5) ** 2], rel=1e-9)
    slope = gradient(lambda q: es.Implicit()(quadratic(q), target).value, p)
    pull = least + (least - 2)  # dL/dx summed over both instances
    by_hand = [pull / 5, pull * (2 * 2 * 3 * 5 - (1 + 12) * 4) / 25, pull * 4 / 5]
    assert slope.tolist() == pytest.approx(by_hand, rel=1e-7)
    reached = (1 - (1 - 0.1 * 5) ** 7) * least
    value = es.Unrolled(steps=7, step_size=0.1)(quadratic(p), target).value
    assert value.tolist() == pytest.approx([0.5 * reached**2, 0.5 * (reached - 2) ** 2], rel=1e-12)


def test_momentum_and_averages_by_hand() -> None:
    """Two steps with momentum m on x^2 / 2 about 1 from 0: x1 = h, x2 = h + m h + h (1 - h); both iterates are judged."""
    p = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    target = es.Assignment({"x": torch.zeros(2, 1, dtype=torch.float64)})
    h, m = 0.2, 0.5
    first, second = h, h + m * h + h * (1 - h)
    value = es.Unrolled(steps=2, step_size=h, momentum=m, average=2)(quadratic(p), target).value
    assert value.tolist() == pytest.approx([0.25 * (first**2 + second**2)] * 2, rel=1e-12)


def test_bounds_hold_what_they_press_on() -> None:
    """A minimiser at its bound does not move with the parameters; one inside does."""
    p = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    target = es.Assignment({"x": torch.zeros(2, 1, dtype=torch.float64)})
    at, inside = es.Real(1, upper=2.0), es.Real(1, upper=4.0)
    for loss in (es.Implicit(), es.Unrolled(steps=60, step_size=0.1)):
        assert loss(quadratic(p, at), target).value.tolist() == pytest.approx([2.0, 2.0])
        slope = gradient(lambda q: loss(quadratic(q, at), target).value, p)  # noqa: B023
        assert slope.tolist() == pytest.approx([0.0, 0.0, 0.0], abs=1e-9)
        assert_gradient(lambda q: loss(quadratic(q, inside), target).value, p)  # noqa: B023


def test_steps_enough_reach_the_implicit_loss() -> None:
    """On a convex energy 400 unrolled steps and the implicit function theorem give the same value and gradient."""
    case = CONTINUOUS["network"]
    losses = (es.Unrolled(steps=400, step_size=0.15), es.Implicit())
    values = [loss(case.build(case.parameters), case.full()).value for loss in losses]
    slopes = [gradient(lambda p: m(case.build(p), case.full()).value, case.parameters) for m in losses]  # noqa: B023
    assert torch.allclose(values[0], values[1], rtol=1e-8)
    assert torch.allclose(slopes[0], slopes[1], rtol=1e-6, atol=1e-8)


def test_truncation_keeps_the_value_and_drops_the_early_steps() -> None:
    """With x_K = (1 - r^K) x*, truncating to one step keeps only the last step's own derivative: h times dL/dx for p0."""
    p = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    target = es.Assignment({"x": torch.zeros(2, 1, dtype=torch.float64)})
    whole, last = es.Unrolled(steps=7, step_size=0.1), es.Unrolled(steps=7, step_size=0.1, truncate=1)
    value = last(quadratic(p), target).value
    assert torch.equal(value, whole(quadratic(p), target).value)
    reached = (2 * value.detach()[0]).sqrt()
    slope = gradient(lambda q: last(quadratic(q), target).value, p)
    assert float(slope[0]) == pytest.approx(2 * 0.1 * float(reached), rel=1e-12)


def test_no_isolated_minimum_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """A direction without curvature: a value, no gradient, and figures and a warning that say so; others keep theirs."""
    block = es.Variables.of_lengths("x", es.Real(2), [1, 1])
    p = torch.tensor([1.0, 0.0], dtype=torch.float64)

    def build(q: Tensor) -> es.FactorGraph:
        flat = es.ResidualFactor(
            ("x",), "flat", lambda x: (x.sum(1, keepdim=True) - 3.0) * q[0], torch.tensor([[0, 1]])
        )
        fixing = es.ResidualFactor(("x",), "fixing", lambda x: x - q[1], torch.tensor([[1]]))
        return es.FactorGraph([block], [flat, fixing])

    target = es.Assignment({"x": torch.zeros(2, 2, dtype=torch.float64)})
    for solver in ("dense", "conjugate_gradients"):
        loss = es.Implicit(linear_solver=solver)  # type: ignore[arg-type]
        with caplog.at_level(logging.WARNING, logger="ebmstruct"):
            found = loss(build(p), target)
        if solver == "dense":
            assert found.figures["sound"].tolist() == [0.0, 1.0]
            assert "instances [0]" in caplog.text
            assert float(found.figures["curvature"][0]) == pytest.approx(0.0, abs=1e-9)
        assert bool(found.value.isfinite().all())
    alone = gradient(lambda q: es.Implicit()(build(q), target).value[1:], p)
    both = gradient(lambda q: es.Implicit()(build(q), target).value, p)
    assert torch.allclose(alone, both)


def pose_chain(p: Tensor, count: int) -> tuple[es.FactorGraph, es.Assignment]:
    """A walk in the plane by odometry that parameters scale, pulled to where it was seen; and the true walk."""
    domain, block = es.SE2(), es.Variables.of_lengths("pose", es.SE2(), [count, count // 2])
    total = block.num_sites
    place = torch.arange(total) - block.offsets[block.instance]
    later = (place > 0).nonzero()[:, 0]
    moves = torch.tensor([0.3, 0.1, 0.2], dtype=torch.float64).expand(later.numel(), 3)
    truth = [domain.start(1, torch.float64)]
    for _ in range(count - 1):
        truth.append(domain.retract(truth[-1], moves[:1]))
    walk = torch.cat(truth)[place]
    seen = walk + 0.1 * torch.randn(total, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def stepped(before: Tensor, now: Tensor, move: Tensor) -> Tensor:
        return domain.local(domain.retract(before, move * p[:3]), now) * 3.0

    def faced(at: Tensor, where: Tensor) -> Tensor:
        return (at - where) * p[3]

    odometry = es.ResidualFactor(("pose", "pose"), "odometry", stepped, torch.stack([later - 1, later]), (moves,))
    pulled = es.ResidualFactor(("pose",), "seen", faced, torch.arange(total)[None], (seen,))
    return es.FactorGraph([block], [odometry, pulled]), es.Assignment({"pose": walk})


def test_least_squares_are_preconditioned() -> None:
    """On chains of 12 and 6 poses conjugate gradients give the gradient of the dense solution; clamped poses stay out."""
    p = torch.tensor([1.1, 0.9, 1.05, 1.0], dtype=torch.float64)
    known = {"pose": torch.arange(18) % 12 == 5}

    def slope(solver: str, clamp: bool) -> Tensor:
        loss = es.Implicit(linear_solver=solver)  # type: ignore[arg-type]

        def value(q: Tensor) -> Tensor:
            graph, walk = pose_chain(q, 12)
            graph = graph.condition(es.Assignment(walk.values, known=known)) if clamp else graph
            found = loss(graph, walk)
            assert found.figures["sound"].tolist() == [1.0, 1.0]
            return found.value

        return assert_gradient(value, p, directions=1)

    for clamp in (False, True):
        assert torch.allclose(slope("dense", clamp), slope("conjugate_gradients", clamp), rtol=1e-7)


def test_a_poor_answer_is_refined() -> None:
    """A solver stopped early is brought to stationarity: the same value and gradient as from the exact answer."""
    case = CONTINUOUS["pose"]
    hasty = es.LBFGS(max_iterations=1)
    exact = es.Implicit()(case.build(case.parameters), case.full())
    found = es.Implicit(max_iterations=3)(case.build(case.parameters), case.full(), solver=hasty)
    assert float(found.figures["found_distance"].max()) > 1e-6
    assert float(found.figures["distance"].max()) < 1e-8
    assert torch.allclose(found.value, exact.value, rtol=1e-9)


def test_a_descent_that_may_not_arrive_gives_no_gradient() -> None:
    """Without refinements and with one iteration the point is not stationary: it is not sound, and nothing flows."""
    case = CONTINUOUS["network"]
    loss = es.Implicit(max_iterations=1, refinements=0)
    found = loss(case.build(case.parameters), case.full(), solver=es.LBFGS(max_iterations=1))
    assert found.figures["sound"].tolist() == [0.0, 0.0]
    slope = gradient(
        lambda p: loss(case.build(p), case.full(), solver=es.LBFGS(max_iterations=1)).value, case.parameters
    )
    assert not bool(slope.any())


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_batch_equals_the_loop(loss: es.Loss) -> None:
    """Each instance's value is the same alone and in a union, and no record is kept where nobody wants derivatives."""
    if isinstance(loss, es.Unrolled) and loss.start_noise:
        return
    generator = torch.Generator().manual_seed(5)
    unaries = [torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (2, 4)]
    switch = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    parts = []
    for unary in unaries:
        block = es.Variables.of_lengths("y", es.Discrete(3), [unary.shape[0]])
        parts.append(es.FactorGraph([block], [es.TableFactor(("y",), "u", unary), es.ChainFactor(("y",), "c", switch)]))
    states = [torch.tensor([0, 1]), torch.tensor([2, 2, 1, 0])]
    together = loss(es.union(parts), es.Assignment({"y": torch.cat(states)})).value
    alone = [float(loss(g, es.Assignment({"y": y})).value) for g, y in zip(parts, states, strict=True)]
    assert together.tolist() == pytest.approx(alone, rel=1e-8) and not together.requires_grad


def test_a_saddle_point_is_left() -> None:
    """x^4 / 4 - x^2 / 2 from 0, where the gradient is 0 and the energy highest: a minimum at 1 or -1 is found."""
    block = es.Variables.of_lengths("x", es.Real(1), [1])
    target = es.Assignment({"x": torch.zeros(1, 1, dtype=torch.float64)})

    def value(p: Tensor) -> Tensor:
        def energy(x: Tensor, bend: Tensor, offsets: object) -> Tensor:
            return 0.25 * x[:, 0] ** 4 - 0.5 * bend * x[:, 0] ** 2

        deep = es.BlockFactor(("x",), "deep", energy, (p,))
        return es.Implicit()(es.FactorGraph([block], [deep]), target).value

    p = torch.tensor([1.44], dtype=torch.float64)
    assert value(p).tolist() == pytest.approx([0.72])  # x* = sqrt(p), the loss p / 2
    assert gradient(value, p).tolist() == pytest.approx([0.5])


def test_cold_relaxations_end_at_minima() -> None:
    """At a third of the temperature, where descents meet saddle points, all of 16 random chains end sound."""
    generator = torch.Generator().manual_seed(0)
    block = es.Variables.of_lengths("y", es.Discrete(5), [8] * 16)
    unary = torch.randn(128, 5, generator=generator, dtype=torch.float64)
    switch = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    graph = es.FactorGraph([block], [es.TableFactor(("y",), "u", unary), es.ChainFactor(("y",), "c", switch)])
    target = es.Assignment({"y": torch.randint(5, (128,), generator=generator)})
    found = es.Implicit(temperature=0.3)(graph, target)
    assert bool((found.figures["sound"] == 1).all()) and bool((found.figures["curvature"] > 0).all())


def test_float32_is_near_float64() -> None:
    """A label set in float32 has the loss of float64 to four digits, and finite gradients."""
    block = es.Variables.of_lengths("y", es.Discrete(2), [4])
    layer = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values = []
    for dtype in (torch.float32, torch.float64):
        weight = layer.to(dtype).requires_grad_()

        def energy(w: Tensor, bias: Tensor, offsets: object, weight: Tensor = weight) -> Tensor:
            return torch.nn.functional.softplus(w[:, 1].reshape(-1, 4) @ weight.T + bias).sum(1)

        graph = es.FactorGraph(
            [block], [es.BlockFactor(("y",), "deep", energy, (torch.zeros(1, 3, dtype=dtype),), relaxed=True)]
        )
        for loss in (es.Implicit(), es.Unrolled(steps=5)):
            found = loss(graph, es.Assignment({"y": torch.tensor([0, 1, 1, 0])}))
            found.value.sum().backward()
            assert weight.grad is not None and bool(weight.grad.isfinite().all())
            values.append(float(found.value.detach()))
    assert values[:2] == pytest.approx(values[2:], rel=1e-4)


def test_what_is_refused() -> None:
    """Functions of whole states, segments and constraints have no relaxed energy; a clamped graph has nothing to lose."""
    block = es.Variables.of_lengths("y", es.Discrete(2), [2])
    whole = es.FactorGraph([block], [es.BlockFactor(("y",), "odd", lambda y, offsets: y.sum()[None].double())])
    target = es.Assignment({"y": torch.tensor([0, 1])})
    tables = es.FactorGraph([block], [es.TableFactor(("y",), "u", torch.zeros(2, 2, dtype=torch.float64))])
    for loss in (es.Unrolled(), es.Implicit()):
        with pytest.raises(es.LossRefusal, match="relaxed=True"):
            loss(whole, target)
        assert loss(tables.condition(target), target).value.tolist() == [0.0]
    with pytest.raises(ValueError, match="steps must be at least 1"):
        es.Unrolled(steps=0)
    with pytest.raises(ValueError, match="temperature and tolerance"):
        es.Implicit(temperature=0.0)
    with pytest.raises(ValueError, match="task_loss"):
        es.Implicit(task_loss="nothing")  # type: ignore[arg-type]

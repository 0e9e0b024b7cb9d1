"""Losses on the most offending incorrect answer, against lists of all assignments and closed forms; and who collapses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

import ebmstruct as es
from ebmstruct.learning.losses.incorrect_answer import IncorrectAnswerLoss
from ebmstruct.learning.losses.offending import OffendingSearch
from ebmstruct.testing import oracle
from ebmstruct.testing.outputs import MAKERS, Maker, cases, gradients_agree, hidden_chain, outputs_of, random_target

LOSSES: dict[str, tuple[IncorrectAnswerLoss, Callable[[float, float], float]]] = {
    "hinge": (es.GeneralizedHinge(gap=2.0), lambda e, i: max(0.0, 2.0 + e - i)),
    "log": (es.LogLoss(), lambda e, i: math.log1p(math.exp(e - i))),
    "square_square": (es.SquareSquare(gap=3.0), lambda e, i: e**2 + max(0.0, 3.0 - i) ** 2),
    "square_exponential": (es.SquareExponential(gap=0.5), lambda e, i: e**2 + 0.5 * math.exp(-i)),
    "mce": (es.MinimumClassificationError(sharpness=2.0), lambda e, i: 1 / (1 + math.exp(min(2 * (i - e), 700)))),
    "lvq2": (es.LVQ2(ratio=0.5), lambda e, i: min(1.0, max(0.0, e - i) / (0.5 * abs(i))) if i < math.inf else 0.0),
}


def near_target(graph: es.FactorGraph, known: float, seed: int) -> es.Assignment:
    """The output of least energy in every second instance, anything else in the others."""
    generator = torch.Generator().manual_seed(seed)
    target = random_target(graph, generator, known)
    least = es.minimize(graph).assignment
    values = {}
    for name, value in target.items():
        even = graph.variables[name].instance % 2 == 0
        values[name] = torch.where(even, least[name], value)
    return es.Assignment(values, target.known)


@pytest.mark.parametrize("known", [1.0, 0.6])
@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_values_equal_enumeration(maker: Maker, known: float) -> None:
    """Each loss is its formula of the least energies of correct and of incorrect answers; so is what is reported."""
    graph, _, _ = cases(maker, known, 11)
    target = near_target(graph, known, 12)
    if not any(bool(target.known.get(n, torch.tensor([True])).any()) for n in target):
        target = near_target(graph, 1.0, 12)
    truths = oracle(graph)
    for loss, formula in LOSSES.values():
        found = loss(graph, target)
        assert found.correct is not None and found.incorrect is not None
        for b, truth in enumerate(truths):
            every = outputs_of(graph, target, b, truth, soft=False)
            correct = min(e for c, e in every if c == 0)
            incorrect = min((e for c, e in every if c > 0), default=math.inf)
            assert float(found.correct[b]) == pytest.approx(correct)
            assert float(found.incorrect[b]) == pytest.approx(incorrect)
            assert float(found.value[b]) == pytest.approx(formula(correct, incorrect)), loss.name


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_gradients_equal_finite_differences(maker: Maker) -> None:
    """Autograd agrees with central differences."""
    graph, _, _ = cases(maker, 1.0, 13)
    target = near_target(graph, 1.0, 14)
    for loss in (es.GeneralizedHinge(), es.LogLoss(), es.SquareSquare(gap=9.0), es.MinimumClassificationError()):
        gradients_agree(lambda g, t, own=loss: own(g, t).value.sum(), graph, target)  # type: ignore[misc]


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_neighbours_lie_no_lower_than_the_least(maker: Maker) -> None:
    """``search: neighbours`` gives an incorrect answer of no less energy: the best of those one site away, where the least
    energy of all is the target's."""
    graph, _, generator = cases(maker, 1.0, 15)
    least = es.minimize(graph).assignment
    target = es.Assignment({n: v for n, v in least.items() if n != "h"})
    exact, near = (
        OffendingSearch(graph, target, None, generator, 0.5, search, 2).run() for search in ("exact", "neighbours")
    )
    assert bool((near.energy(graph) >= exact.energy(graph) - 1e-9).all())
    counts = torch.zeros(graph.num_instances)
    for name, value in target.items():
        changed = near.outputs[name] != value
        counts = counts.index_add(0, graph.variables[name].instance, changed.float())
    assert bool((counts[near.exists] == 1).all())


def quadratics(centres: Tensor, lengths: Sequence[int]) -> es.FactorGraph:
    """Points in the plane, E = 2 |z - c|^2 summed over the sites."""
    z = es.Variables.of_lengths("z", es.Real(2), list(lengths))
    near = es.ResidualFactor(("z",), "near", lambda z, c: 2 * (z - c), torch.arange(centres.shape[0])[None], (centres,))
    return es.FactorGraph([z], [near])


def test_continuous_answers_outside_the_radius() -> None:
    """Of 2 |z - c|^2 the least energy at distance r or more from t is 2 (r - d)^2 with d = |c - t| below r, else 0.

    Distance is that of all known sites of an instance together; unknown ones move freely.
    """
    centres = torch.tensor([[0.1, 0.0], [0.0, 0.2], [3.0, 0.0], [0.2, 0.0]], dtype=torch.float64)
    graph = quadratics(centres, [2, 1, 1])
    target = es.Assignment({"z": torch.zeros(4, 2, dtype=torch.float64)})
    found = es.GeneralizedHinge(radius=0.5)(graph, target)
    assert found.incorrect is not None
    distance = math.hypot(0.1, 0.2)
    assert found.incorrect.tolist() == pytest.approx([2 * (0.5 - distance) ** 2, 0.0, 2 * 0.3**2], abs=1e-6)
    partly = es.Assignment(dict(target.items()), {"z": torch.tensor([False, True, True, True])})
    found = es.GeneralizedHinge(radius=0.5)(graph, partly)
    assert found.incorrect is not None
    assert found.incorrect.tolist() == pytest.approx([2 * 0.3**2, 0.0, 2 * 0.3**2], abs=1e-6)
    centre = quadratics(torch.zeros(1, 2, dtype=torch.float64), [1])  # no direction to begin with
    exact = es.GeneralizedHinge(radius=0.5)(centre, es.Assignment({"z": torch.zeros(1, 2, dtype=torch.float64)}))
    assert exact.value.tolist() == pytest.approx([0.5], abs=1e-6)


def test_another_well_outside_the_radius_is_found() -> None:
    """Of (z^2 - 1)^2 + 0.2 z, least near -1, the lowest point half away from there is the other well, near +1."""
    z = es.Variables.of_lengths("z", es.Real(1), [1])
    scale = torch.ones(1, dtype=torch.float64)

    def wells(z: Tensor, scale: Tensor, offsets: object) -> Tensor:
        return scale * ((z[:, 0] ** 2 - 1) ** 2 + 0.2 * z[:, 0])

    graph = es.FactorGraph([z], [es.BlockFactor(("z",), "wells", wells, (scale,))])
    target = es.Assignment({"z": torch.tensor([[-1.02]], dtype=torch.float64)})
    search = OffendingSearch(graph, target, None, torch.Generator().manual_seed(0), 0.5, "exact", 4)
    found = search.run()
    assert float(found.outputs["z"]) == pytest.approx(0.974, abs=1e-2)
    assert float(found.energy(graph)) < 0.2


def test_mixed_answers() -> None:
    """An answer is incorrect by its state or by its point: the least of both kinds, by hand.

    E(y, z) = u_y + 2 |z - m_y|^2: another state has its own point for nothing, u_k; the target's state costs
    u_t + 2 (r - d)^2, with d = |m_t - z_t|.
    """
    generator = torch.Generator().manual_seed(3)
    u = torch.rand(6, 3, generator=generator, dtype=torch.float64)
    m = torch.randn(6, 3, 2, generator=generator, dtype=torch.float64)
    y = es.Variables.of_lengths("y", es.Discrete(3), [1] * 6)
    z = es.Variables.of_lengths("z", es.Real(2), [1] * 6)
    sites = torch.arange(6)

    def near(z: Tensor, y: Tensor, m: Tensor) -> Tensor:
        return 2 * (z - m[torch.arange(len(y)), y])

    index = torch.stack([sites, sites])
    graph = es.FactorGraph(
        [y, z],
        [es.TableFactor(("y",), "u", u), es.ResidualFactor(("z", "y"), "near", near, index, (m,), linear=True)],
    )
    states = u.argmin(1)
    points = m[sites, states] + 0.05
    found = es.GeneralizedHinge(radius=0.4)(graph, es.Assignment({"y": states, "z": points}))
    assert found.incorrect is not None
    others = u.scatter(1, states[:, None], torch.inf).amin(1)
    same = u.amin(1) + 2 * (0.4 - math.hypot(0.05, 0.05)) ** 2
    assert found.incorrect.tolist() == pytest.approx(torch.minimum(others, same).tolist(), abs=1e-6)
    assert bool((others < same).any()) and bool((others > same).any())


SOLVERS: dict[str, es.Solver] = {
    "exhaustive": es.Exhaustive(),
    "icm": es.ICM(),
    "mirror_descent": es.MirrorDescent(),
    "dual_ascent": es.DualAscent(),
    "belief_propagation": es.BeliefPropagation(),
}


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_any_solver_serves_and_inexact_ones_give_lower_bounds(solver: es.Solver) -> None:
    """With a solver that is not exact a loss is what it says at the outputs found: never above the true one."""
    graph, _, _ = cases(MAKERS["forest"], 1.0, 16)
    target = near_target(graph, 1.0, 17)
    for loss in (es.Perceptron(), es.StructuredHinge(), es.StructuredHinge(rescaling="slack"), es.LogLoss(), es.LVQ2()):
        exact, other = loss(graph, target).value, loss(graph, target, solver=solver).value
        assert bool(other.isfinite().all()), loss.name
        if loss.name != "lvq2":  # whose unit is the energy found
            assert bool((other <= exact + 1e-6).all()), loss.name


def test_what_is_refused_and_what_cannot_be_wrong() -> None:
    """A target without a known site is refused; an instance whose only answer is the target loses nothing."""
    graph, _, _ = cases(hidden_chain, 1.0, 1)
    nothing = es.Assignment({"y": torch.zeros(5, dtype=torch.long)}, {"y": torch.zeros(5, dtype=torch.bool)})
    with pytest.raises(es.LossRefusal, match="no site"):
        es.LogLoss()(graph, nothing)
    block = es.Variables.of_lengths("y", es.Discrete(torch.tensor([1, 2])), [1, 1])
    tables = torch.tensor([5.0, 0.0, 1.0], dtype=torch.float64)
    lone = es.FactorGraph([block], [es.TableFactor(("y",), "u", tables, starts=torch.tensor([0, 1]))])
    value = es.GeneralizedHinge(gap=3.0)(lone, es.Assignment({"y": torch.tensor([0, 0])})).value
    assert value.tolist() == pytest.approx([0.0, 2.0])
    with pytest.raises(ValueError, match="gap"):
        es.GeneralizedHinge(gap=0.0)
    with pytest.raises(ValueError, match="search"):
        es.LVQ2(search="all")  # type: ignore[arg-type]


def labelled(noise: float) -> tuple[Tensor, Tensor]:
    """100 points of four numbers, each of three classes, some labels random."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(100, 4, generator=generator, dtype=torch.float64)
    y = (x @ torch.randn(4, 3, generator=generator, dtype=torch.float64)).argmin(1)
    swap = torch.rand(100, generator=generator) < noise
    return x, torch.where(swap, torch.randint(0, 3, (100,), generator=generator), y)


def trained(
    loss: es.Loss, tables: Callable[[], Tensor], parameters: list[Tensor], y: Tensor, steps: int = 150, lr: float = 0.1
) -> tuple[float, Tensor]:
    """The mean loss after training all classes of single sites, and the tables."""
    block = es.Variables.of_lengths("y", es.Discrete(3), [1] * len(y))
    target = es.Assignment({"y": y})
    optimizer = torch.optim.Adam(parameters, lr=lr)
    value = torch.zeros(1)
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(es.FactorGraph([block], [es.TableFactor(("y",), "e", tables())]), target).value.mean()
        value.backward()
        optimizer.step()
    return float(value.detach()), tables().detach()


def two_maps(seed: int) -> tuple[Callable[[Tensor], Tensor], list[Tensor]]:
    """E(x, y) = |A x - b_y|^2 / 2, which can bring every target to 0: by sending everything to one place."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(4, 2, generator=generator, dtype=torch.float64).requires_grad_()
    b = torch.randn(3, 2, generator=generator, dtype=torch.float64).requires_grad_()
    return lambda x: 0.5 * (x @ a)[:, None].sub(b).square().sum(2), [a, b]


POSITIVE: dict[str, es.Loss] = {
    "hinge": es.StructuredHinge(),
    "slack": es.StructuredHinge(rescaling="slack", steps=4, best=1),
    "generalized_hinge": es.GeneralizedHinge(),
    "log": es.LogLoss(),
    "square_square": es.SquareSquare(gap=4.0),
    "square_exponential": es.SquareExponential(gap=4.0),
}


def test_energy_collapses() -> None:
    """On E = |A x - b_y|^2 / 2 the loss `energy` goes to 0 by making all energies 0: what it knows of y is chance."""
    x, y = labelled(0.0)
    model, parameters = two_maps(0)
    value, tables = trained(es.EnergyLoss(), lambda: model(x), parameters, y, steps=200)
    assert value < 1e-4 and float(tables.max()) < 1e-2
    constant = torch.zeros((), dtype=torch.float64, requires_grad=True)
    falling, _ = trained(es.EnergyLoss(), lambda: constant.expand(100, 3), [constant], y, steps=60)
    assert falling < -4  # where energies may be negative there is no end


@pytest.mark.parametrize("loss", POSITIVE.values(), ids=POSITIVE)
def test_positive_margins_do_not_collapse(loss: es.Loss) -> None:
    """The same energy, from the same beginning, learns the classes by every loss with a positive margin."""
    x, y = labelled(0.0)
    model, parameters = two_maps(0)
    _, tables = trained(loss, lambda: model(x), parameters, y, steps=200)
    assert float((tables.argmin(1) == y).double().mean()) > 0.95
    assert float(tables.std()) > 0.5


def test_equal_energies_satisfy_zero_margins_only() -> None:
    """Where all energies are 1, lvq2 and the perceptron lose nothing and lvq2 has no gradient; positive margins do not
    rest, and leave that place for the right one."""
    x, y = labelled(0.0)
    block = es.Variables.of_lengths("y", es.Discrete(3), [1] * 100)
    for loss in (es.LVQ2(), es.Perceptron(), *POSITIVE.values(), es.MinimumClassificationError()):
        w = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
        graph = es.FactorGraph([block], [es.TableFactor(("y",), "e", 1 + x @ w)])
        value = loss(graph, es.Assignment({"y": y})).value.sum()
        (gradient,) = torch.autograd.grad(value, w)
        if loss.margin == "zero":
            assert float(value.detach()) == 0.0
            assert loss.name != "lvq2" or float(gradient.abs().max()) == 0.0
        else:
            assert float(value.detach()) > 0 and float(gradient.abs().max()) > 0
    for margin in (es.GeneralizedHinge(), es.LogLoss(), es.MinimumClassificationError()):
        w = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
        _, tables = trained(margin, lambda w=w: 1 + x @ w, [w], y)  # type: ignore[misc]
        assert float((tables.argmin(1) == y).double().mean()) > 0.95, margin.name


def test_lvq2_escapes_by_a_constant_that_all_energies_share() -> None:
    """On random labels the hinge stays where it is; lvq2 brings its loss near 0 by a constant that says nothing."""
    x, y = labelled(1.0)
    model, _ = two_maps(1)
    fixed, left = model(x).detach(), {}
    for loss in (es.LVQ2(), es.GeneralizedHinge()):
        constant = torch.zeros((), dtype=torch.float64, requires_grad=True)

        def tables(own: Tensor = constant) -> Tensor:
            return fixed + own.exp()

        begin, _ = trained(loss, tables, [constant], y, steps=1)
        value, found = trained(loss, tables, [constant], y)
        left[loss.name] = (begin, value, float(constant.detach()))
        assert float((found.argmin(1) == y).double().mean()) < 0.5
    assert left["lvq2"][1] < 0.02 * left["lvq2"][0] and left["lvq2"][2] > 5
    assert left["generalized_hinge"][1] == pytest.approx(left["generalized_hinge"][0], rel=1e-3)

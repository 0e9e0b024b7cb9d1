"""Energy, hinge with either rescaling, and the concave-convex procedure, against lists of all assignments."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import ebmstruct as es
from ebmstruct.learning.checkpoint import load_tree, save_tree
from ebmstruct.learning.losses.latent_sites import completed
from ebmstruct.learning.losses.output_cost import cost_of, cost_or_default, largest_cost, scaled_by_instance
from ebmstruct.learning.losses.slack import WorstOutput, worst_output
from ebmstruct.testing import oracle, random_chain, random_forest
from ebmstruct.testing.outputs import (
    MAKERS,
    Maker,
    cases,
    gradients_agree,
    hidden_chain,
    label_set,
    outputs_of,
    random_target,
)


def summed(loss: es.Loss) -> Callable[[es.FactorGraph, es.Assignment], torch.Tensor]:
    """The sum of a loss over all instances, numbered as examples."""
    return lambda graph, target: loss(graph, target, examples=range(graph.num_instances)).value.sum()


@pytest.mark.parametrize("known", [1.0, 0.6])
@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_energy_and_hinges_equal_enumeration(maker: Maker, known: float) -> None:
    """E(t), max (c + E(t) - E), max c (1 + E(t) - E) over all outputs, with unknown sites minimised over."""
    graph, target, _ = cases(maker, known, 3)
    energy = es.EnergyLoss()(graph, target).value
    margin = es.StructuredHinge(weight=1.5)(graph, target).value
    slack = es.StructuredHinge(weight=1.5, rescaling="slack", best=32)(graph, target).value
    for b, truth in enumerate(oracle(graph)):
        every = outputs_of(graph, target, b, truth, soft=False)
        correct = min(e for c, e in every if c == 0)
        assert float(energy[b]) == pytest.approx(correct)
        assert float(margin[b]) == pytest.approx(max(1.5 * c + correct - e for c, e in every))
        assert float(slack[b]) == pytest.approx(
            1.5 * max(c * max(0.0, 1 + correct - e) for c, e in every if e < math.inf)
        )


@pytest.mark.parametrize("loss", ["energy", "perceptron", "margin", "slack"])
def test_latent_blocks_summed_out_equal_enumeration(loss: str) -> None:
    """The same of free energies, where the latent block is summed out of both sides."""
    graph, target, _ = cases(hidden_chain, 1.0, 5)
    made: dict[str, es.Loss] = {
        "energy": es.EnergyLoss(latent_sites="sum_out"),
        "perceptron": es.Perceptron(latent_sites="sum_out"),
        "margin": es.StructuredHinge(latent_sites="sum_out"),
        "slack": es.StructuredHinge(latent_sites="sum_out", rescaling="slack"),
    }
    value = made[loss](graph, target).value
    for b, truth in enumerate(oracle(graph)):
        every = outputs_of(graph, target, b, truth, soft=True)
        correct = next(e for c, e in every if c == 0)
        by_hand = {
            "energy": correct,
            "perceptron": correct - min(e for _, e in every),
            "margin": max(c + correct - e for c, e in every),
            "slack": max(c * max(0.0, 1 + correct - e) for c, e in every),
        }
        assert float(value[b]) == pytest.approx(by_hand[loss])


def searched(graph: es.FactorGraph, target: es.Assignment, steps: int, best: int) -> WorstOutput:
    """The slack-rescaled worst output with its bound."""
    cost = cost_or_default(graph, target, (), 1.0)
    correct, completion = completed(graph, target, None)
    most = largest_cost(graph, target, (), 1.0)
    return worst_output(
        graph,
        target,
        cost,
        correct,
        completion,
        most,
        solver=None,
        latent_sites="minimise",
        temperature=1.0,
        steps=steps,
        best=best,
    )


def test_slack_rescaling_says_what_it_has_proven() -> None:
    """On 40 chains of 6 sites the product found never exceeds the maximum, the bound never falls below it, and what is
    called proven is the maximum; most are proven with 8 best outputs, fewer by corners of the hull alone."""
    generator = torch.Generator().manual_seed(1)
    graph = random_chain([6] * 40, 3, generator)
    target = es.Assignment(
        {"y": (es.minimize(graph).assignment["y"] + (torch.rand(240, generator=generator) < 0.2)) % 3}
    )
    truths = oracle(graph)
    shares = []
    for best in (1, 8):
        worst = searched(graph, target, 12, best)
        for b, truth in enumerate(truths):
            every = outputs_of(graph, target, b, truth, soft=False)
            correct = next(e for c, e in every if c == 0)
            most = max(c * max(0.0, 1 + correct - e) for c, e in every)
            assert float(worst.product[b]) <= most + 1e-9
            assert float(worst.bound[b]) >= most - 1e-9
            if bool(worst.proven[b]):
                assert float(worst.product[b]) == pytest.approx(most)
        shares.append(float(worst.proven.double().mean()))
    assert shares[0] < shares[1] and shares[1] >= 0.8, shares


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize(
    "loss",
    [es.EnergyLoss(), es.StructuredHinge(rescaling="slack"), es.StructuredHinge(), es.ConcaveConvex()],
    ids=["energy", "slack", "margin", "concave_convex"],
)
def test_gradients_equal_finite_differences(loss: es.Loss, maker: Maker) -> None:
    """Autograd agrees with central differences in some entries of every value."""
    graph, target, _ = cases(maker, 1.0, 4)
    gradients_agree(summed(loss), graph, target)


def test_gradients_of_free_energies_equal_finite_differences() -> None:
    """The same where latent blocks are summed out."""
    graph, target, _ = cases(hidden_chain, 1.0, 4)
    gradients_agree(summed(es.StructuredHinge(latent_sites="sum_out")), graph, target)
    gradients_agree(summed(es.EnergyLoss(latent_sites="sum_out")), graph, target)


def test_partly_known_blocks_cannot_be_summed_out() -> None:
    """sum_out sums whole blocks: a block known at some sites is refused, in a sentence that says what to do."""
    graph, target, _ = cases(MAKERS["chain"], 0.6, 3)
    for loss in (es.StructuredHinge(latent_sites="sum_out"), es.Perceptron(latent_sites="sum_out")):
        with pytest.raises(es.LossRefusal, match="a block of its own"):
            loss(graph, target)


def test_a_cost_can_be_weighed_instance_by_instance() -> None:
    """Tables of every layout, and functions of blocks, cost weight[b] times as much in instance b."""
    generator = torch.Generator().manual_seed(2)
    weight = torch.tensor([0.5, 3.0], dtype=torch.float64)
    for graph in (random_forest([3, 4], 3, generator), random_forest([3, 4], 2, generator, shared=True)):
        y = es.sample(graph, num_samples=1, generator=generator).values["y"][0]
        alone = list(graph.variables.values())
        for factor in graph.factors:
            plain = es.FactorGraph(alone, [factor]).energy({"y": y})
            scaled = es.FactorGraph(alone, [scaled_by_instance(factor, weight, graph.scope(factor))]).energy({"y": y})
            assert torch.allclose(scaled, weight * plain)
    graph = label_set(generator)
    twice = es.FactorGraph(list(graph.variables.values()), [scaled_by_instance(graph.factors[0], weight, ())])
    y = torch.tensor([0, 1, 1, 1, 0, 1])
    assert torch.allclose(twice.energy({"y": y}), weight * graph.energy({"y": y}))
    assert torch.allclose(twice.repeat(2).energy({"y": y.repeat(2)}), (weight * graph.energy({"y": y})).repeat(2))
    chain = random_chain([3, 4], 3, generator)
    with pytest.raises(es.LossRefusal, match="rescaling: margin"):
        scaled_by_instance(chain.factors[1], weight, chain.scope(chain.factors[1]))


def quadratic(centre: torch.Tensor, precision: float) -> es.FactorGraph:
    """Points in the plane whose energy is precision / 2 times the square distance from a centre, one an instance."""
    z = es.Variables.of_lengths("z", es.Real(2), [1] * centre.shape[0])
    index = torch.arange(centre.shape[0])[None]
    width = torch.full((centre.shape[0], 1), precision, dtype=torch.float64).sqrt()
    return es.FactorGraph([z], [es.ResidualFactor(("z",), "near", lambda x, c, w: w * (x - c), index, (centre, width))])


def test_the_default_cost_of_continuous_outputs() -> None:
    """With an infinite reach the hinge of a quadratic energy is p d^2 / 2 + w p d^2 / (p - 2 w).

    E - w |z - t|^2 with curvature p - 2 w > 0 has its least value - w p d^2 / (p - 2 w) at distance p d / (p - 2 w) from t,
    with d the distance of the centre. A finite reach costs less, and stays finite where the energy is flatter than that.
    """
    centre = torch.tensor([[1.0, 0.0], [0.0, 0.3]], dtype=torch.float64)
    target = es.Assignment({"z": torch.zeros(2, 2, dtype=torch.float64)})
    square = centre.square().sum(1)
    p, w = 6.0, 1.0
    graph = quadratic(centre, p)
    value = es.StructuredHinge(weight=w, reach=math.inf)(graph, target).value
    assert value.tolist() == pytest.approx((p / 2 * square + w * p * square / (p - 2 * w)).tolist(), rel=1e-6)
    bounded = es.StructuredHinge(weight=w)(graph, target).value
    assert bool((bounded < value).all()) and bool((bounded > p / 2 * square).all())
    flat = es.StructuredHinge(weight=3.0)(quadratic(centre, 0.1), target).value
    assert bool(flat.isfinite().all())


def test_costs_of_copies_and_partly_known_points() -> None:
    """The default cost counts known sites only, and each copy of a graph for itself."""
    z = es.Variables.of_lengths("z", es.Real(1), [2, 1])
    graph = es.FactorGraph([z], [])
    target = es.Assignment({"z": torch.zeros(3, 1, dtype=torch.float64)}, {"z": torch.tensor([True, False, True])})
    cost = cost_or_default(graph, target, (), math.inf)
    y = torch.tensor([[2.0], [5.0], [3.0]], dtype=torch.float64)
    assert cost_of(graph, cost, es.Assignment({"z": y})).tolist() == [4.0, 9.0]
    twice = graph.add(*cost).repeat(2).energy({"z": torch.cat([y, 2 * y])})
    assert twice.tolist() == [4.0, 9.0, 16.0, 36.0]


def test_concave_convex_bounds_the_latent_hinge_and_touches_it_when_fresh(tmp_path: Path) -> None:
    """Completions are kept for ``refresh`` visits of an example, through a checkpoint, whatever the batch."""
    generator = torch.Generator().manual_seed(7)
    first, second = hidden_chain(generator), hidden_chain(generator)
    target = random_target(first, generator, 1.0)
    loss, hinge = es.ConcaveConvex(refresh=3), es.StructuredHinge()
    found = loss(first, target, examples=[4, 9])
    assert torch.allclose(found.value, hinge(first, target).value)
    save_tree(tmp_path / "state", found.state)
    state = load_tree(tmp_path / "state")
    for _ in range(2):  # the second and the third visit, by another model
        again = loss(second, target, examples=[4, 9], state=state)
        fresh = hinge(second, target).value
        assert bool((again.value >= fresh - 1e-12).all()) and float((again.value - fresh).max()) > 1e-3
        state = again.state
    assert torch.allclose(loss(second, target, examples=[4, 9], state=state).value, fresh)
    assert state["4"]["age"] == 3 and set(state) == {"4", "9"}
    unnumbered = loss(second, target)
    assert torch.allclose(unnumbered.value, fresh)


def test_the_concave_convex_procedure_lowers_the_hinge() -> None:
    """Descending on the bound until it stands still, then renewing completions, never raises the latent hinge."""
    graph, target, _ = cases(hidden_chain, 1.0, 8)
    values: dict[str, list[torch.Tensor | None]] = {f.label: [*f.values()] for f in graph.factors}
    loss, hinge = es.ConcaveConvex(refresh=10**6), es.StructuredHinge()
    tie = graph.factors[-1].values()[0]
    assert tie is not None
    trail = [float(hinge(graph, target).value.sum())]
    for _ in range(4):
        state = None
        for step in range(60):
            leaf = tie.detach().clone().requires_grad_()
            values["tie"] = [leaf]
            found = loss(graph.with_values(values), target, examples=[0, 1], state=state)
            state = found.state
            (gradient,) = torch.autograd.grad(found.value.sum(), leaf)
            tie = leaf.detach() - 0.3 / (1 + step) * gradient
        values["tie"] = [tie]
        trail.append(float(hinge(graph.with_values(values), target).value.sum()))
    assert all(later <= earlier + 0.05 for earlier, later in zip(trail, trail[1:], strict=False)), trail
    assert trail[-1] < 0.5 * trail[0], trail


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rescaling": "both"}, "rescaling"),
        ({"latent_sites": "drop"}, "latent_sites"),
        ({"temperature": 0.0}, "temperature"),
        ({"reach": -1.0}, "reach"),
        ({"best": 0}, "best"),
    ],
)
def test_options_are_checked(options: dict[str, object], said: str) -> None:
    """A value out of range is named with what is legal."""
    with pytest.raises(ValueError, match=said):
        es.StructuredHinge(**options)  # type: ignore[arg-type]

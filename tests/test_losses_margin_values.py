"""Value matching: values of outputs by hand, the loss by its formula, and energies that come to match those values."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import ebmstruct as es
from ebmstruct.learning.losses.output_value import OutputValue
from ebmstruct.learning.losses.value_outputs import OutputMaker, weights_move
from ebmstruct.testing import oracle, random_chain
from ebmstruct.testing.outputs import MAKERS, Maker, cases, gradients_agree, hidden_chain, label_set

ONLY = {"at_target": 0.0, "at_inference": 0.0, "at_adversary": 0.0, "at_random": 0.0}


def only(kind: str, **options: object) -> es.ValueMatching:
    """The loss at one kind of outputs."""
    return es.ValueMatching(**{**ONLY, kind: 1.0, **options})  # type: ignore[arg-type]


def maker_of(graph: es.FactorGraph, target: es.Assignment, loss: es.ValueMatching, seed: int) -> OutputMaker:
    """What makes the outputs of a loss, with noise of a seed."""
    worth = OutputValue.of(graph, target, loss.value, (), loss.reach)
    noise = torch.Generator().manual_seed(seed)
    moves = weights_move(graph, worth)
    return OutputMaker(graph, target, worth, None, noise, moves, loss.steps, loss.rate, loss.noise, loss.reach)


def test_values_of_label_sets_by_hand() -> None:
    """Of {0, 2} against {0, 1}: cost 2 of 3 wrong, F1 1/2, IoU 1/3; the empty set against itself is worth 1."""
    block = es.Variables.of_lengths("y", es.Discrete(2), [3, 3])
    graph = es.FactorGraph([block], [])
    target = es.Assignment({"y": torch.tensor([1, 1, 0, 0, 0, 0])})
    y = torch.tensor([1, 0, 1, 0, 0, 0])
    for measure, value in (("cost", 1 / 3), ("f1", 1 / 2), ("iou", 1 / 3)):
        worth = OutputValue.of(graph, target, measure, (), 1.0)  # type: ignore[arg-type]
        assert worth({"y": y}).tolist() == pytest.approx([value, 1.0])
        hot = torch.nn.functional.one_hot(y, 2).double()
        assert worth({"y": hot}).tolist() == pytest.approx([value, 1.0])
        assert worth(dict(target.items())).tolist() == [1.0, 1.0]
        half = torch.full((6, 2), 0.5, dtype=torch.float64, requires_grad=True)
        soft = {"cost": [0.5, 0.5], "f1": [2 * 1.0 / 3.5, 0.0], "iou": [1.0 / 2.5, 0.0]}[measure]
        assert worth({"y": half}).tolist() == pytest.approx(soft)
        (gradient,) = torch.autograd.grad(worth({"y": half}).sum(), half)
        assert float(gradient[0, 1] - gradient[0, 0]) > 0 > float(gradient[2, 1] - gradient[2, 0])


def test_the_value_counts_known_sites_and_the_tasks_cost() -> None:
    """Unknown sites do not count; a task's cost is divided by its largest; points lose by their bounded square distance."""
    block = es.Variables.of_lengths("y", es.Discrete(3), [3])
    graph = es.FactorGraph([block], [])
    target = es.Assignment({"y": torch.tensor([1, 2, 0])}, {"y": torch.tensor([True, True, False])})
    y = torch.tensor([1, 1, 2])
    assert OutputValue.of(graph, target, "cost", (), 1.0)({"y": y}).tolist() == [0.5]
    assert OutputValue.of(graph, target, "f1", (), 1.0)({"y": y}).tolist() == [0.5]
    dear = es.TableFactor(("y",), "c", torch.tensor([[3.0, 0.0, 1.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    assert OutputValue.of(graph, target, "cost", (dear,), 1.0)({"y": y}).tolist() == pytest.approx([0.75])
    z = es.Variables.of_lengths("z", es.Real(1), [2])
    points = es.FactorGraph([z], [])
    zero = es.Assignment({"z": torch.zeros(2, 1, dtype=torch.float64)})
    moved = {"z": torch.tensor([[0.0], [2.0]], dtype=torch.float64)}
    half = 1 - (1 - math.exp(-(2.0**2) / 9.0)) / 2
    assert OutputValue.of(points, zero, "cost", (), 3.0)(moved).tolist() == pytest.approx([half])
    unbounded = es.BlockFactor(("z",), "c", lambda z, offsets: z.square().sum()[None])
    with pytest.raises(es.LossRefusal, match="leave the cost out"):
        es.ValueMatching()(points, zero, cost=[unbounded])
    with pytest.raises(es.LossRefusal, match="take cost"):
        es.ValueMatching(value="f1")(points, zero)


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_the_loss_equals_its_formula(maker: Maker) -> None:
    """At the target the divergence is log(1 + exp(E)) and the square E^2; at scattered outputs both are as by hand."""
    graph, target, _ = cases(maker, 1.0, 2)
    energy = es.EnergyLoss()(graph, target).value
    assert torch.allclose(only("at_target")(graph, target).value, torch.nn.functional.softplus(energy))
    assert torch.allclose(only("at_target", link="linear")(graph, target).value, energy.square())
    for link in ("sigmoid", "linear"):
        loss = only("at_random", link=link)
        outputs = maker_of(graph, target, loss, 5).at_random()
        own = loss(graph, target, generator=torch.Generator().manual_seed(5)).value
        for b, truth in enumerate(oracle(graph)):
            known = [
                (int(outputs[n][i]), int(target[n][i])) if n in target else None
                for n, v in graph.variables.items()
                for i in range(int(v.offsets[b]), int(v.offsets[b + 1]))
            ]
            fitting = [
                e
                for s, e in zip(truth.states, truth.energies, strict=True)
                if all(k is None or k[0] == a for k, a in zip(known, s, strict=True))
            ]
            e, sites = (
                min(fitting),
                [k for k, c in zip(known, _counts(graph, b), strict=True) if k is not None and c > 1],
            )
            v = 1 - sum(a != t for a, t in sites) / max(1, len(sites))
            if math.isinf(e):
                by_hand = 0.0
            elif link == "linear":
                by_hand = (e - (1 - v)) ** 2
            else:
                entropy = -sum(p * math.log(p) for p in (v, 1 - v) if p > 0)
                by_hand = v * math.log1p(math.exp(e)) + (1 - v) * math.log1p(math.exp(-e)) - entropy
            assert float(own[b]) == pytest.approx(by_hand, abs=1e-9)


def _counts(graph: es.FactorGraph, instance: int) -> list[int]:
    """The number of states of each site of an instance, in the oracle's order."""
    blocks = graph.variables.values()
    return [
        int(v.state_counts[i]) for v in blocks for i in range(int(v.offsets[instance]), int(v.offsets[instance + 1]))
    ]


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_gradients_equal_finite_differences_at_given_outputs(maker: Maker) -> None:
    """With outputs that do not depend on the energy, autograd agrees with central differences."""
    graph, target, _ = cases(maker, 1.0, 4)
    loss = es.ValueMatching(at_inference=0.0, at_adversary=0.0)

    def value(graph: es.FactorGraph, target: es.Assignment) -> torch.Tensor:
        return loss(graph, target, generator=torch.Generator().manual_seed(3)).value.sum()

    gradients_agree(value, graph, target)


def test_inference_goes_down_and_the_adversary_goes_up() -> None:
    """Steps lower the relaxed energy, in the end to the least; those of the adversary raise the loss."""
    for graph in (
        label_set(torch.Generator().manual_seed(1)),
        random_chain([3, 4], 3, torch.Generator().manual_seed(2)),
    ):
        target = es.Assignment({"y": torch.zeros(graph.variables["y"].num_sites, dtype=torch.long)})
        energies, losses = [], []
        for steps in (1, 60):
            loss = es.ValueMatching(steps=steps)
            maker = maker_of(graph, target, loss, 1)
            assert maker.relaxed
            energies.append(graph.relaxed_energy(maker.at_inference()))
            maker = maker_of(graph, target, loss, 1)
            outputs = maker.at_adversary(loss.mismatch)
            losses.append(loss.mismatch(graph.relaxed_energy(outputs), maker.value(outputs)))
        assert bool((energies[1] < energies[0]).all()) and bool((losses[1] > losses[0]).all())
        assert bool((energies[1] <= es.minimize(graph).energy + 0.5).all())


def test_graphs_without_relaxed_energies_use_minimisers() -> None:
    """Where a function takes states only, the second kind of output is the least, the third the least with cost inside."""
    block = es.Variables.of_lengths("y", es.Discrete(2), [2, 2])
    table = torch.tensor([[0.0, 3.0], [1.0, -0.5]], dtype=torch.float64)

    def energy(y: torch.Tensor, offsets: object) -> torch.Tensor:
        pairs = y.reshape(-1, 2)
        return table[pairs[:, 0], pairs[:, 1]]

    graph = es.FactorGraph([block], [es.BlockFactor(("y",), "pairs", energy)])
    target = es.Assignment({"y": torch.tensor([1, 1, 1, 0])})
    maker = maker_of(graph, target, es.ValueMatching(), 0)
    assert not maker.relaxed
    assert maker.at_inference()["y"].tolist() == [1, 1, 1, 1]
    assert maker.at_adversary(es.ValueMatching().mismatch)["y"].tolist() == [0, 0, 1, 1]
    assert bool(es.ValueMatching()(graph, target).value.isfinite().all())


def test_forbidden_outputs_are_left_out_and_latent_sites_minimised() -> None:
    """Hard constraints give no infinite loss, and the energy of an output is its least completion's."""
    graph = random_chain([4, 4], 3, torch.Generator().manual_seed(4), forbid=0.3)
    target = es.Assignment({"y": es.minimize(graph).assignment["y"]})
    assert bool(es.ValueMatching()(graph, target).value.isfinite().all())
    hidden, aim, _ = cases(hidden_chain, 1.0, 2)
    assert es.ValueMatching()(hidden, aim).value.shape == (2,)


def test_energies_come_to_match_what_outputs_are_worth() -> None:
    """A table of all outputs learns 1 - v* everywhere from scattered outputs (linear), and their order (sigmoid)."""
    block = es.Variables.of_lengths("y", es.Discrete(2), [3] * 32)
    index = torch.arange(96).reshape(32, 3).T.contiguous()
    target = es.Assignment({"y": torch.tensor([1, 1, 0] * 32)})
    for value, link in itertools.product(("cost", "f1"), ("linear", "sigmoid")):
        table = torch.zeros(2, 2, 2, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([table], lr=0.1)
        noise = torch.Generator().manual_seed(0)
        loss = es.ValueMatching(value=value, link=link, at_inference=0.0, at_adversary=0.0)  # type: ignore[arg-type]
        for _ in range(100):
            optimizer.zero_grad()
            graph = es.FactorGraph([block], [es.TableFactor(("y", "y", "y"), "all", table, index=index)])
            loss(graph, target, generator=noise).value.mean().backward()
            optimizer.step()
        worth = OutputValue.of(graph, target, value, (), 1.0)  # type: ignore[arg-type]
        for states in itertools.product(range(2), repeat=3):
            v = float(worth({"y": torch.tensor(list(states) * 32)})[0])
            e = float(table.detach()[states])
            if link == "linear":
                assert e == pytest.approx(1 - v, abs=0.05)
            elif 0 < v < 1:
                assert 1 / (1 + math.exp(e)) == pytest.approx(v, abs=0.05)
        assert states_of_least(table) == (1, 1, 0)


def states_of_least(table: torch.Tensor) -> tuple[int, ...]:
    """Where a table of three binary sites is least."""
    number = int(table.detach().argmin())
    return number // 4, number // 2 % 2, number % 2


@pytest.mark.parametrize(
    ("options", "said"),
    [({"value": "accuracy"}, "value"), ({"link": "log"}, "link"), (ONLY, "at_"), ({"steps": 0}, "steps")],
)
def test_options_are_checked(options: dict[str, object], said: str) -> None:
    """A value out of range is named with what is legal."""
    with pytest.raises(ValueError, match=said):
        es.ValueMatching(**options)  # type: ignore[arg-type]

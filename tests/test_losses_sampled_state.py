"""Persistent chains: the state that a training keeps, checkpoints, and terms that flow through the sampler."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ebmstruct as es
from ebmstruct.learning.checkpoint import load_tree, save_tree
from ebmstruct.learning.losses.sampler_terms import energy_of_moving_draws, entropy_of_draws, langevin_steps
from ebmstruct.testing import random_chain
from ebmstruct.testing.planted import Kind, plant
from ebmstruct.testing.small_models import gaussian, gradient, small_rbm


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same(a: Any, b: Any) -> bool:
    """Whether two trees are the same to the bit."""
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return bool(a == b)


def bowl(count: int) -> es.FactorGraph:
    """Points of 3 coordinates in float32 with a quartic energy."""

    def energy(x: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        return (0.25 * x**4 - 0.5 * x**2).sum(1)

    block = es.Variables.of_lengths("x", es.Real(3), [1] * count)
    return es.FactorGraph([block], [es.BlockFactor(("x",), "bowl", energy)])


CASES: dict[str, tuple[es.PersistentContrastiveDivergence, Any]] = {
    "shared states": (es.PersistentContrastiveDivergence(steps=2, chains=3, size=40), small_rbm(2, seeded(0))),
    "shared points": (es.PersistentContrastiveDivergence(steps=2, chains=3, size=40), bowl(2)),
    "own states": (es.PersistentContrastiveDivergence(steps=2, chains=3), random_chain([3, 5], 3, seeded(0))),
}


def target_of(graph: es.FactorGraph) -> es.Assignment:
    values = {
        n: torch.zeros(v.num_sites, dtype=torch.long)
        if isinstance(v.domain, es.Discrete)
        else torch.full((v.num_sites, 3), 0.5)
        for n, v in graph.variables.items()
    }
    return es.Assignment(values)


@pytest.mark.parametrize("name", CASES)
def test_a_resumed_run_draws_the_same(name: str, tmp_path: Path) -> None:
    """Six steps, or three, a checkpoint, and three more from the file: states and values agree to the bit."""
    loss, graph = CASES[name]
    target = target_of(graph)

    def run(state: Any, steps: range) -> tuple[Any, list[Tensor]]:
        values = []
        for step in steps:
            found = loss(graph, target, generator=seeded(100 + step), state=state, examples=[4, 9])
            state = found.state
            values.append(found.value.detach())
        return state, values

    whole, expected = run(None, range(6))
    whole = copy.deepcopy(whole)
    half, _ = run(None, range(3))
    save_tree(tmp_path / "state.safetensors", half)
    run(half, range(3, 5))  # the run that was killed went on for a while after its last checkpoint
    again, values = run(load_tree(tmp_path / "state.safetensors"), range(3, 6))
    assert same(whole, again) and all(torch.equal(a, b) for a, b in zip(expected[3:], values, strict=True))


def test_the_newest_state_can_be_used_again_and_older_ones_say_so() -> None:
    """A step does not change the state that it is given, as far as results go; one that is older is refused."""
    loss, graph = CASES["shared states"]
    target = target_of(graph)
    first = loss(graph, target, generator=seeded(0)).state
    one = loss(graph, target, generator=seeded(1), state=first)
    two = loss(graph, target, generator=seeded(1), state=first)
    assert torch.equal(one.value, two.value) and same(one.state, two.state)
    other = loss(graph, target, generator=seeded(2), state=first)
    assert not torch.equal(one.value, other.value)
    loss(graph, target, generator=seeded(3), state=one.state)
    for old in (first, other.state):
        with pytest.raises(es.LossRefusal, match="older than the last one used"):
            loss(graph, target, generator=seeded(4), state=old)


def test_a_checkpoint_copied_while_rows_are_written_comes_back_whole() -> None:
    """Whatever part of its pending rows the copied buffer has, the next step of the newest state is the same."""
    loss, graph = CASES["shared points"]
    target = target_of(graph)
    first = loss(graph, target, generator=seeded(0)).state
    torn = copy.deepcopy(first)
    torn["buffer"]["values"]["x"][first["rows"][:4]] = first["pending"]["x"][:4]
    whole = loss(graph, target, generator=seeded(1), state=first)
    mended = loss(graph, target, generator=seeded(1), state=torn)
    assert torch.equal(whole.value, mended.value)


def test_a_large_buffer_is_not_copied() -> None:
    """The buffer of the next state is the one of the state before, in the same memory."""
    loss, graph = CASES["shared points"]
    target = target_of(graph)
    first = loss(graph, target, generator=seeded(0)).state
    second = loss(graph, target, generator=seeded(1), state=first).state
    assert first["buffer"]["values"]["x"].data_ptr() == second["buffer"]["values"]["x"].data_ptr()
    moved = second["buffer"]["values"]["x"][first["rows"]]
    assert torch.equal(moved, first["pending"]["x"])


def test_chains_follow_their_examples() -> None:
    """Ragged batches in any order: each example goes on from where its own chains were, others stay as they are."""
    loss = es.PersistentContrastiveDivergence(steps=1, chains=2, reinitialise=0.0)
    three = random_chain([3, 5, 2], 3, seeded(0))
    state = loss(three, target_of(three), generator=seeded(1), examples=[5, 0, 8]).state
    two = random_chain([2, 3], 3, seeded(0))
    after = loss(two, target_of(two), generator=seeded(2), state=state, examples=[8, 5]).state
    assert torch.equal(after["chains"][0]["y"], state["chains"][0]["y"])
    assert set(after["chains"]) == {0, 5, 8} and after["chains"][8]["y"].shape == (2, 2)
    assert state["chains"][8]["y"].shape == (2, 2) and not same(after["chains"], state["chains"])


def test_auto_goes_over_to_examples_where_sizes_change() -> None:
    """A first batch of equal sizes is kept together; where a later one differs chains are kept by example."""
    loss = es.PersistentContrastiveDivergence(size=10)
    equal, unequal = random_chain([3, 3], 2, seeded(0)), random_chain([2, 4], 2, seeded(0))
    state = loss(equal, target_of(equal), examples=[0, 1]).state
    assert state["layout"] == "shared"
    state = loss(unequal, target_of(unequal), state=state, examples=[2, 3]).state
    assert state["layout"] == "per_example"
    assert loss(equal, target_of(equal), state=state, examples=[0, 1]).state["layout"] == "per_example"


def stiff(a: Tensor, m: Tensor) -> es.FactorGraph:
    return gaussian([2, 3], a, m)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_gradient_through_the_sampler(steps: int) -> None:
    """d/d theta of E(x(theta)) with E's own theta held, x(theta) the end of Langevin steps: by differences, to 1e-4."""
    source = seeded(0)
    begin = {"x": torch.randn(4, 5, 1, generator=source, dtype=torch.float64)}
    at = (torch.tensor(1.3, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64))
    held = stiff(*at)

    def moved(a: Tensor, m: Tensor) -> dict[str, Tensor]:
        return langevin_steps(
            stiff(a, m), begin, steps, step_size=0.1, noise_scale=None, temperature=1.0, generator=seeded(5)
        )

    def by_hand(a: Tensor, m: Tensor) -> float:
        x = moved(a, m)["x"].detach()
        return float(torch.stack([held.energy({"x": own}) for own in x]).mean(0).sum())

    leaves = [t.clone().requires_grad_() for t in at]
    value = energy_of_moving_draws(stiff(*leaves), moved(*leaves))
    assert float(value.detach().sum()) == pytest.approx(by_hand(*at))
    found = torch.autograd.grad(value.sum(), leaves)
    for i, g in enumerate(found):
        up, down = list(at), list(at)
        up[i], down[i] = at[i] + 1e-5, at[i] - 1e-5
        assert float(g) == pytest.approx((by_hand(*up) - by_hand(*down)) / 2e-5, rel=1e-4, abs=1e-8)


def test_the_loss_with_all_terms_equals_differences() -> None:
    """E(target) - E(x) + E_held(x(theta)) - 0.5 H(x(theta)), x's own place held in the second term only."""
    at = (torch.tensor(1.3, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64))
    target = es.Assignment({"x": torch.tensor([[0.5], [1.0], [-1.0], [0.2], [0.1]], dtype=torch.float64)})
    loss = es.ContrastiveDivergence(
        steps=2, chains=6, step_size=0.1, sampler_gradient=1.0, sampler_gradient_steps=2, entropy=0.5
    )
    begin = {"x": target["x"].expand(6, 5, 1)}

    def ends(a: Tensor, m: Tensor) -> Tensor:
        return langevin_steps(
            stiff(a, m), begin, 2, step_size=0.1, noise_scale=None, temperature=1.0, generator=seeded(9)
        )["x"].detach()

    kept, held = ends(*at), stiff(*at)

    def by_hand(a: Tensor, m: Tensor) -> float:
        own, graph = ends(a, m), stiff(a, m)
        mean = torch.stack([graph.energy({"x": x}) for x in kept]).mean(0)
        through = torch.stack([held.energy({"x": x}) for x in own]).mean(0)
        spread = entropy_of_draws(graph, {"x": own}, together=False)
        return float((graph.energy(target) - mean + through - 0.5 * spread).sum())

    leaves = [t.clone().requires_grad_() for t in at]
    value = loss(stiff(*leaves), target, generator=seeded(9)).value
    assert float(value.detach().sum()) == pytest.approx(by_hand(*at))
    for i, g in enumerate(torch.autograd.grad(value.sum(), leaves)):
        up, down = list(at), list(at)
        up[i], down[i] = at[i] + 1e-5, at[i] - 1e-5
        assert float(g) == pytest.approx((by_hand(*up) - by_hand(*down)) / 2e-5, rel=1e-4)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("dimension", [1, 3])
def test_entropy_of_normal_draws(together: bool, dimension: int) -> None:
    """Normal draws of standard deviation 2: H = d / 2 log(2 pi e 4), within 0.15; also where instances pool their draws."""
    count = 1000
    chains = count // 10 if together else count
    instances = 10 if together else 2
    block = es.Variables.of_lengths("x", es.Real(dimension), [1] * instances)
    graph = es.FactorGraph([block], [])
    draws = 2.0 * torch.randn(chains, instances, dimension, generator=seeded(1), dtype=torch.float64)
    found = entropy_of_draws(graph, {"x": draws}, together=together)
    truth = 0.5 * dimension * math.log(2 * math.pi * math.e * 4)
    assert abs(float(found.mean()) - truth) < 0.15


def test_persistent_chains_with_terms() -> None:
    """Terms through the sampler work from a buffer, on a float32 function of whole blocks, pooled over the batch."""
    loss = es.PersistentContrastiveDivergence(
        steps=3, size=20, sampler_gradient=0.3, entropy=0.1, neighbours="batch", energy_decay=0.01
    )
    scale = torch.tensor(1.0, requires_grad=True)

    def energy(x: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        return (scale * x).square().sum(1)

    block = es.Variables.of_lengths("x", es.Real(3), [1] * 8)
    graph = es.FactorGraph([block], [es.BlockFactor(("x",), "bowl", energy)])
    target = es.Assignment({"x": torch.full((8, 3), 0.5)})
    state = None
    for step in range(3):
        found = loss(graph, target, generator=seeded(step), state=state)
        state = found.state
        (slope,) = torch.autograd.grad(found.value.sum(), scale)
        assert bool(found.value.isfinite().all()) and bool(slope.isfinite())


def test_a_machine_learns_its_data() -> None:
    """Persistent contrastive divergence finds the four tables of a chain of two sites: states' shares follow the data's."""
    shares = torch.tensor([[0.1, 0.2], [0.3, 0.4]], dtype=torch.float64)
    rows = torch.tensor([[a, b] for a in (0, 1) for b in (0, 1) for _ in range(round(20 * float(shares[a, b])))])
    block = es.Variables.of_lengths("y", es.Discrete(2), [2] * 20)
    table = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    graph = es.FactorGraph([block], [es.ChainFactor(("y",), "pair", table)])
    target = es.Assignment({"y": rows.reshape(-1)})
    loss = es.PersistentContrastiveDivergence(chains=20, size=400, reinitialise=0.0)
    state, source, averaged = None, seeded(0), torch.zeros(2, 2, dtype=torch.float64)
    for step in range(300):
        found = loss(graph, target, generator=source, state=state)
        state = found.state
        (slope,) = torch.autograd.grad(found.value.mean(), table)
        with torch.no_grad():
            table -= 0.5 * slope
            averaged += table * (step >= 200) / 100
    learnt = torch.softmax(-averaged.reshape(-1), 0).reshape(2, 2)
    assert torch.allclose(learnt, shares, atol=0.02)


def test_gradients_by_all_tables() -> None:
    """The helper that tests rely on: the gradient of an energy is the counts of its entries."""
    graph = small_rbm(1, seeded(0))
    ones = {"v": torch.ones(4, dtype=torch.long), "h": torch.zeros(3, dtype=torch.long)}
    found = gradient(lambda g: g.energy(ones), graph)
    assert found.sum() == 4 + 3 + 12 and set(found.tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("kind", ["grid", "continuous"])
def test_a_resumed_training_ends_with_the_same_weights(kind: Kind, tmp_path: Path) -> None:
    """Two epochs, a checkpoint and two more are four epochs to the bit, with the chains in the checkpoint."""
    own = plant(kind, latent=True, train=40)
    loss = es.PersistentContrastiveDivergence(steps=2, chains=2, size=50, step_size=0.1)

    def trained(epochs: int, path: Path, resume: bool) -> list[Tensor]:
        model = own.fresh()
        options = es.TrainingOptions(epochs=epochs, lr=0.05, batch_size=20)
        es.fit(model, own, None, own.train, loss, options, checkpoint=path, resume=resume)
        return list(model.parameters())

    whole = trained(4, tmp_path / "whole.safetensors", resume=False)
    trained(2, tmp_path / "half.safetensors", resume=False)
    again = trained(4, tmp_path / "half.safetensors", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))


def test_an_energy_that_is_not_a_number_stays_in_its_instance() -> None:
    """Of two instances with a function of whole blocks the one whose energy is NaN does not touch the other's value."""

    def energy(x: Tensor, scale: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        return (scale * x.square()).sum(1)

    block = es.Variables.of_lengths("x", es.Real(2), [1, 1])
    scale = torch.tensor([[1.0], [torch.nan]])
    graph = es.FactorGraph([block], [es.BlockFactor(("x",), "bowl", energy, (scale,))])
    target = es.Assignment({"x": torch.ones(2, 2)})
    for loss in (
        es.ContrastiveDivergence(steps=3, chains=2),
        es.PersistentContrastiveDivergence(steps=3, size=10),
        es.ContrastiveDivergence(steps=3, chains=2, sampler_gradient=1.0, entropy=0.1),
    ):
        value = loss(graph, target).value
        assert bool(value[0].isfinite()) and bool(value[1].isnan()), loss.name


@pytest.mark.parametrize("buffer", ["shared", "per_example"])
def test_chains_of_hard_tables_begin_where_they_are_allowed(buffer: Any) -> None:
    """With a third of all transitions forbidden every kept chain has a finite energy, from the first step on."""
    graph = random_chain([6, 6], 4, seeded(1), forbid=0.35)
    loss = es.PersistentContrastiveDivergence(chains=8, size=60, buffer=buffer)
    target = es.Assignment({"y": es.minimize(graph).assignment["y"]})
    state = None
    for step in range(3):
        found = loss(graph, target, generator=seeded(step), state=state, examples=[0, 1])
        state = found.state
        assert bool(found.value.isfinite().all())
    if buffer == "shared":
        rows = state["buffer"]["values"]["y"]
        assert bool(graph.repeat(30).energy({"y": rows.reshape(-1)}).isfinite().all())

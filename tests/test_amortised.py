"""The model joined to an inference network, and the solver that certifies its guesses or falls back."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ebmstruct as es
from ebmstruct.inference import witness_bound
from ebmstruct.inference.promise import SingleChanges
from ebmstruct.testing import random_chain, random_forest, random_graph, random_grid
from ebmstruct.testing.mixed import switching_systems


def guess_of(graph: es.FactorGraph, states: Tensor, sure: float = 0.9) -> dict[str, Tensor]:
    """Weights of ``sure`` on the states given, the rest even."""
    largest = graph.variables["y"].discrete.largest
    hot = torch.nn.functional.one_hot(states, largest).double()
    return {"y": sure * hot + (1 - sure) / largest}


class Scores(es.EnergyModel):
    """Chains with one emission a site, which is the input itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, inputs: Any) -> es.FactorGraph:
        block = es.Variables.of_lengths("y", es.Discrete(2), [x.shape[0] for x in inputs])
        emission = es.TableFactor(("y",), "emission", self.weight * torch.cat(list(inputs)))
        return es.FactorGraph([block], [emission, es.ChainFactor(("y",), "chain", 1.0 - torch.eye(2))])


class OddsOf(nn.Module):
    """Log-odds of state 1 by a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, inputs: Any) -> Tensor:
        odds: Tensor = self.layer(torch.cat(list(inputs)))
        return odds


def test_the_model_joins_energy_and_network() -> None:
    """Its graphs are the energy's with weights of sum 1; both parts' parameters are its own, and get gradients."""
    model = es.Amortised(Scores(), OddsOf())
    assert {n.split(".")[0] for n, _ in model.named_parameters()} == {"energy", "network"}
    graph = model.graph([torch.randn(3, 2), torch.randn(1, 2)])
    assert graph.guess is not None
    torch.testing.assert_close(graph.guess["y"].sum(1), torch.ones(4))
    states = torch.tensor([0, 1, 0, 1])
    es.InferenceNetwork()(graph, es.Assignment({"y": states})).value.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_factor_may_make_the_guess() -> None:
    """By the label of a unary factor the guess is the softmax of its negative tables; other labels are refused."""
    graph = es.Amortised(Scores(), "emission").graph([torch.tensor([[0.0, 1.0], [2.0, 0.0]])])
    assert graph.guess is not None
    torch.testing.assert_close(graph.guess["y"], torch.tensor([[0.0, -1.0], [-2.0, 0.0]]).softmax(1))
    with pytest.raises(es.GraphError, match=r"labelled 'none'; the labels are \['emission', 'chain'\]"):
        es.Amortised(Scores(), "none").graph([torch.zeros(2, 2)])
    with pytest.raises(es.GraphError, match="a TableFactor over single sites is needed"):
        es.Amortised(Scores(), "chain").graph([torch.zeros(2, 2)])


def test_energy_and_network_may_share_modules() -> None:
    """A parameter in both is one parameter, and gets both gradients."""
    energy = Scores()

    class Shared(nn.Module):
        """Odds by the energy's own weight."""

        def __init__(self) -> None:
            super().__init__()
            self.energy = energy

        def forward(self, inputs: Any) -> Tensor:
            rows = torch.cat(list(inputs))
            return self.energy.weight * (rows[:, 0] - rows[:, 1])

    model = es.Amortised(energy, Shared())
    assert len(list(model.parameters())) == 1
    graph = model.graph([torch.randn(3, 2)])
    es.Amortisation()(graph, es.Assignment({})).value.sum().backward()
    assert energy.weight.grad is not None and float(energy.weight.grad.abs()) > 0


def test_a_sum_keeps_the_guess_and_a_frozen_energy_rests() -> None:
    """Late composition keeps a part's guess; with ``frozen`` the energy evaluates, and no loss reaches its parameters."""
    energy = Scores()
    network = nn.Linear(2, 2).double()
    model = es.Amortised(energy, network, reads="emission", frozen=True).train()
    assert model.training and not energy.training and network.training
    added = es.SumOfEnergies([Scores(), model], [1.0, 0.5])
    graph = added.graph([torch.randn(3, 2, dtype=torch.float64), torch.randn(2, 2, dtype=torch.float64)])
    assert graph.guess is not None and tuple(graph.guess["y"].shape) == (5, 2)
    es.InferenceNetwork()(
        model.graph([torch.randn(3, 2).double()]), es.Assignment({"y": torch.zeros(3).long()})
    ).value.sum().backward()
    assert energy.weight.grad is None and network.weight.grad is not None


def test_a_network_that_does_not_fit_is_refused() -> None:
    """Scores of the wrong number and unknown blocks are named."""

    class Wrong(nn.Module):
        """Says whatever it was given."""

        def __init__(self, said: Any) -> None:
            super().__init__()
            self.said = said

        def forward(self, inputs: Any) -> Any:
            return self.said

    with pytest.raises(es.GraphError, match="which has 2 sites of 2 states"):
        es.Amortised(Scores(), Wrong(torch.zeros(3))).graph([torch.zeros(2, 2)])
    with pytest.raises(es.GraphError, match=r"guesses blocks \['z'\]"):
        es.Amortised(Scores(), Wrong({"z": torch.zeros(2)})).graph([torch.zeros(2, 2)])


def test_promises_are_what_single_changes_bring() -> None:
    """On tables the gain of a site is the energy's fall when it alone takes its best state; the total is their sum."""
    generator = torch.Generator().manual_seed(0)
    for graph in (random_chain([3, 2], 3, generator), random_graph([4, 3], 3, generator)):
        name = next(iter(graph.variables))
        block = graph.variables[name]
        values = {n: torch.zeros(v.num_sites, dtype=torch.long) for n, v in graph.variables.items()}
        found = SingleChanges(graph, {})(values)
        energy = graph.energy(values)
        total = torch.zeros_like(energy)
        for site in range(block.num_sites):
            least = energy.sum()
            for state in range(int(block.state_counts[site])):
                trial = values[name].clone()
                trial[site] = state
                least = torch.minimum(least, graph.energy({**values, name: trial}).sum())
            gain = energy.sum() - least
            assert float(found.gains[name][site]) == pytest.approx(float(gain), abs=1e-9)
            total[block.instance[site]] += gain
        torch.testing.assert_close(found.total, total)


def convex_labels(generator: torch.Generator, count: int = 6, labels: int = 5) -> es.FactorGraph:
    """Label sets whose relaxed energy is convex: scores, and the softplus of sums of labels."""
    block = es.Variables.of_lengths("y", es.Discrete(2), [labels] * count)
    scores = torch.randn(count, labels, generator=generator)
    layer = torch.randn(4, labels, generator=generator)

    def energy(weights: Tensor, scores: Tensor, offsets: object) -> Tensor:
        on = weights[:, 1].reshape(scores.shape)
        return (scores * on).sum(1) + torch.nn.functional.softplus(on @ layer.T).sum(1)

    return es.FactorGraph([block], [es.BlockFactor(("y",), "deep", energy, (scores,), relaxed=True)])


@pytest.mark.parametrize("seed", range(5))
def test_the_measured_gap_of_a_convex_energy_is_a_bound(seed: int) -> None:
    """Wherever the guess is, its energy lies above the least by no more than the measured gap."""
    generator = torch.Generator().manual_seed(seed)
    graph = convex_labels(generator)
    states = torch.randint(0, 2, (30,), generator=generator)
    found = es.minimize(graph.with_guess(guess_of(graph, states)), es.AmortisedInference(tolerance=float("inf")))
    least = es.minimize(graph, es.Exhaustive()).energy
    assert (found.energy - found.stats["measured_gap"] <= least + 1e-4).all()
    assert not found.stats["fell_back"].any() and (found.status == int(es.Status.CONVERGED)).all()


def test_a_right_guess_is_accepted_and_a_wrong_one_falls_back() -> None:
    """Chains: the minimum as a guess costs no fallback; where one instance is guessed wrong, it alone is solved."""
    graph = random_chain([5, 4, 6], 3, torch.Generator().manual_seed(0))
    exact = es.minimize(graph)
    states = exact.assignment["y"]
    solver = es.AmortisedInference(fallback="variable_elimination")
    right = es.minimize(graph.with_guess(guess_of(graph, states)), solver)
    assert not right.stats["fell_back"].any() and (right.stats["measured_gap"] < 1e-9).all()
    assert right.statuses == [es.Status.CONVERGED] * 3
    wrong = states.clone()
    wrong[5:9] = (wrong[5:9] + 1) % 3
    found = es.minimize(graph.with_guess(guess_of(graph, wrong)), solver)
    assert found.stats["fell_back"].tolist() == [False, True, False]
    assert found.stats["fallback"] == "variable_elimination"
    torch.testing.assert_close(found.energy, exact.energy)
    assert found.statuses == [es.Status.CONVERGED, es.Status.OPTIMAL, es.Status.CONVERGED]
    assert torch.equal(found.assignment["y"], states)


def test_cheap_steps_repair_small_mistakes() -> None:
    """One site wrong: the promise is measured, one step mends it, and nothing falls back."""
    graph = random_grid([(3, 3), (4, 3)], 3, torch.Generator().manual_seed(2))
    exact = es.minimize(graph)
    states = exact.assignment["y"].clone()
    states[4] = (states[4] + 1) % 3
    start = graph.with_guess(guess_of(graph, states))
    plain = es.minimize(start, es.AmortisedInference(tolerance=float("inf"), refine=9))
    assert float(plain.energy[0]) > float(exact.energy[0])
    mended = es.minimize(start, es.AmortisedInference(refine=1))
    torch.testing.assert_close(mended.energy, exact.energy)
    assert not mended.stats["fell_back"].any()
    torch.testing.assert_close(mended.stats["guess_energy"], plain.energy)


def nothing_else(graph: es.FactorGraph, solver: es.AmortisedInference) -> Tensor:
    """The energies of the answers when the deadline has come before any fallback."""
    steps = iter(range(solver.refine + 1))
    budget = es.Budget(stopped=lambda: next(steps, None) is None)
    return es.minimize(graph, solver, budget=budget).energy


def test_steps_never_raise_an_energy() -> None:
    """From random guesses, more cheap steps give lower or equal energies, on tables and on functions."""
    generator = torch.Generator().manual_seed(3)
    for graph in (random_graph([6, 5, 0], 3, generator), convex_labels(generator)):
        weights = {
            n: torch.rand(v.num_sites, v.discrete.largest, generator=generator) for n, v in graph.variables.items()
        }
        start = graph.with_guess(weights)
        energies = [nothing_else(start, es.AmortisedInference(tolerance=0.0, refine=steps)) for steps in range(5)]
        assert all(bool((b <= a + 1e-6).all()) for a, b in zip(energies, energies[1:], strict=False))


def test_a_bound_may_prove_the_guess() -> None:
    """With dual ascent below, right guesses on small grids end OPTIMAL, with a witness that holds."""
    graph = random_grid([(3, 3), (2, 4)], 2, torch.Generator().manual_seed(4))
    exact = es.minimize(graph)
    start = graph.with_guess(guess_of(graph, exact.assignment["y"]))
    found = es.minimize(start, es.AmortisedInference(bound="dual_ascent", bound_steps=200))
    assert found.statuses == [es.Status.OPTIMAL] * 2
    assert (witness_bound(graph, found.witness) >= found.energy - 1e-5).all()


def test_a_batch_equals_its_instances() -> None:
    """Energies, gaps and fallbacks are those of the instances one by one."""
    generator = torch.Generator().manual_seed(5)
    graph = convex_labels(generator)
    start = graph.with_guess(guess_of(graph, torch.randint(0, 2, (30,), generator=generator)))
    gaps = es.minimize(start, es.AmortisedInference(tolerance=float("inf")))
    middle = float((gaps.stats["measured_gap"] / gaps.energy.abs().clamp(min=1.0)).median())
    together = es.minimize(start, es.AmortisedInference(tolerance=middle * 1.01, fallback="mirror_descent"))
    assert together.stats["fell_back"].any() and not together.stats["fell_back"].all()
    for refine, tolerance in ((0, middle * 1.01), (1, 0.3 * middle), (2, 0.0)):
        solver = es.AmortisedInference(tolerance=tolerance, refine=refine, fallback="mirror_descent")
        together = es.minimize(start, solver)
        for b in range(6):
            alone = es.minimize(start.select(torch.tensor([b])), solver)
            torch.testing.assert_close(alone.energy[0], together.energy[b], rtol=1e-5, atol=1e-5)
            assert bool(alone.stats["fell_back"][0]) is bool(together.stats["fell_back"][b])


def test_evidence_wins() -> None:
    """Clamped sites keep their states whatever the network says, and the fallback keeps them too."""
    graph = random_forest([4, 3], 3, torch.Generator().manual_seed(6), shared=True)
    start = graph.with_guess(guess_of(graph, torch.zeros(7, dtype=torch.long)))
    known = torch.tensor([True, False, False, False, True, False, False])
    clamped = start.condition(es.Assignment({"y": torch.tensor([2, 0, 0, 0, 1, 0, 0])}, {"y": known}))
    found = es.minimize(clamped, es.AmortisedInference(tolerance=0.0))
    assert found.assignment["y"][known].tolist() == [2, 1]
    torch.testing.assert_close(found.energy, es.minimize(clamped).energy)


def test_one_bad_instance_harms_no_other() -> None:
    """A NaN in one instance's guess makes a bad guess; NaN in its tables makes it NONFINITE; the others are answered."""
    graph = random_chain([3, 3, 3], 2, torch.Generator().manual_seed(7))
    exact = es.minimize(graph)
    guess = guess_of(graph, exact.assignment["y"])
    guess["y"][3:6] = torch.nan
    found = es.minimize(graph.with_guess(guess), es.AmortisedInference())
    torch.testing.assert_close(found.energy, exact.energy)
    emission = next(f for f in graph.factors if isinstance(f, es.TableFactor)).tables.clone()
    emission[4, 0] = torch.nan
    broken = graph.with_values({"emission": emission}).with_guess(guess_of(graph, exact.assignment["y"]))
    found = es.minimize(broken, es.AmortisedInference())
    assert found.statuses[1] == es.Status.NONFINITE
    torch.testing.assert_close(found.energy[[0, 2]], exact.energy[[0, 2]])


def test_nan_from_a_function_is_nonfinite() -> None:
    """A network energy that gives NaN for one instance: NONFINITE there, answers elsewhere."""
    graph = convex_labels(torch.Generator().manual_seed(8))
    factor = graph.factors[0]
    assert isinstance(factor, es.BlockFactor)
    scores = factor.inputs[0].clone()
    scores[2, 1] = torch.nan
    bad = es.FactorGraph(tuple(graph.variables.values()), [dataclasses.replace(factor, inputs=(scores,))])
    start = bad.with_guess(guess_of(bad, torch.zeros(30, dtype=torch.long)))
    found = es.minimize(start, es.AmortisedInference(fallback="mirror_descent"))
    assert found.statuses[2] == es.Status.NONFINITE
    others = [0, 1, 3, 4, 5]
    exact = es.minimize(graph, es.MirrorDescent()).energy
    assert (found.energy[others] <= exact[others] + 1e-5).all()


def test_infeasible_guesses_fall_back() -> None:
    """A guess of infinite energy is never accepted; the fallback finds what is allowed, or proves that nothing is."""
    graph = random_chain([4, 4, 4], 3, torch.Generator().manual_seed(9), forbid=0.4)
    start = graph.with_guess(guess_of(graph, torch.zeros(12, dtype=torch.long)))
    found = es.minimize(start, es.AmortisedInference(tolerance=float("inf")))
    exact = es.minimize(graph)
    assert torch.equal(found.energy.isfinite(), exact.energy.isfinite())


def test_mixed_graphs_are_measured_by_a_short_descent() -> None:
    """The least states and points as a guess are accepted; points far away gain much, and so the instance falls back."""
    graph = switching_systems(2, 4, 2, torch.Generator().manual_seed(0)).graph
    exact = es.minimize(graph, es.MixedEnumeration())
    x, mode = exact.assignment["x"], exact.assignment["mode"]
    weights = torch.nn.functional.one_hot(mode, 2).double()
    solver = es.AmortisedInference(fallback="mixed_enumeration")
    right = es.minimize(graph.with_guess({"x": x, "mode": weights}), solver)
    assert not right.stats["fell_back"].any()
    torch.testing.assert_close(right.energy, exact.energy)
    far = x.clone()
    far[:4] += 5.0
    found = es.minimize(graph.with_guess({"x": far, "mode": weights}), solver)
    assert found.stats["fell_back"].tolist() == [True, False]
    torch.testing.assert_close(found.energy, exact.energy)


def test_a_past_deadline_still_gives_the_guess() -> None:
    """Without time the decoded guess comes back; what is past tolerance says DEADLINE."""
    graph = random_chain([4, 4], 3, torch.Generator().manual_seed(1))
    states = es.minimize(graph).assignment["y"].clone()
    states[4:] = (states[4:] + 1) % 3
    late = es.Budget(deadline=time.monotonic() - 1.0)
    found = es.minimize(graph.with_guess(guess_of(graph, states)), es.AmortisedInference(), budget=late)
    assert found.statuses == [es.Status.CONVERGED, es.Status.DEADLINE]
    assert torch.equal(found.assignment["y"], states)


def test_what_is_refused() -> None:
    """Graphs without a guess, other questions, unknown fallbacks, and what the fallback itself refuses."""
    graph = random_chain([3], 2, torch.Generator().manual_seed(0))
    solver = es.AmortisedInference()
    with pytest.raises(es.SolverRefusal, match=r"carries no first guess for blocks \['y'\]"):
        es.minimize(graph, solver)
    start = graph.with_guess(guess_of(graph, torch.zeros(3, dtype=torch.long)))
    with pytest.raises(es.SolverRefusal, match="it finds one assignment; 2 were asked"):
        es.minimize(start, solver, k=2)
    with pytest.raises(es.SolverRefusal, match="it only minimises"):
        es.marginals(start, solver)
    with pytest.raises(es.SolverRefusal, match="gradients move continuous blocks only"):
        es.minimize(start, es.AmortisedInference(fallback="lbfgs"))
    with pytest.raises(es.GraphError, match="no solver is named 'tabu'; there: variable_elimination"):
        es.AmortisedInference(fallback="tabu")
    with pytest.raises(es.GraphError, match="'icm' does not take these options"):
        es.AmortisedInference(fallback="icm", fallback_options={"heat": 1})
    with pytest.raises(es.GraphError, match="tolerance must be at least 0; found -1"):
        es.AmortisedInference(tolerance=-1)


def test_training_with_the_loop() -> None:
    """``fit`` on tiny tagged chains by the joint loss: the network's guesses become the targets, and few fall back."""
    generator = torch.Generator().manual_seed(0)

    class Pair:
        """An input and its tags."""

        def __init__(self, x: Tensor) -> None:
            self.x, self.y = x, (x[:, 0] > x[:, 1]).long()

    class Tags:
        """Targets as they are; 1 for each wrong site."""

        def encode(self, ys: Any, graph: es.FactorGraph, schema: Any) -> es.Assignment:
            return es.Assignment({"y": torch.cat(list(ys))})

        def cost(self, graph: es.FactorGraph, target: es.Assignment, schema: Any) -> list[es.Factor]:
            return [es.TableFactor(("y",), "cost", 1.0 - torch.nn.functional.one_hot(target["y"], 2))]

    pairs = [Pair(2 * torch.randn(4, 2, generator=generator)) for _ in range(40)]
    model = es.Amortised(Scores(), OddsOf())
    options = es.TrainingOptions(epochs=30, batch_size=10, lr=0.05, optimizer="adam")
    es.fit(model, Tags(), None, pairs, es.InferenceNetwork(), options)
    with torch.no_grad():
        graph = model.graph([p.x for p in pairs])
    wanted = torch.cat([p.y for p in pairs])
    assert graph.guess is not None
    assert float((graph.guess["y"].argmax(1) == wanted).float().mean()) > 0.95


def test_calibration_holds_gaps_against_the_fallback() -> None:
    """By hand: of three instances one guess is right, one errs by 1 and one by 4; tolerances let in one, two, three."""
    block = es.Variables.of_lengths("y", es.Discrete(2), [1, 1, 1])
    tables = torch.tensor([[-1.0, 0.0], [-1.0, 0.0], [-1.0, 3.0]], dtype=torch.float64)
    graph = es.FactorGraph([block], [es.TableFactor(("y",), "u", tables)])
    found = es.gap_calibration(graph.with_guess(guess_of(graph, torch.tensor([0, 1, 1]))))
    torch.testing.assert_close(found.excess, torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64))
    torch.testing.assert_close(found.share, torch.tensor([0.0, 1.0, 4.0 / 3.0], dtype=torch.float64))
    assert [round(3 * found.accepted(t)) for t in (0.0, 1.0, 2.0)] == [1, 2, 3]
    assert found.quantiles(2.0)[0] == 1.0 and found.quantiles(2.0)[-1] == 4.0
    assert found.table([0.0]).splitlines()[-1] == "| 0 | 33.3 % | 0 | 0 | 0 | 0 |"

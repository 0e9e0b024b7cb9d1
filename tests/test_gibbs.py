"""Chains: marginals within Monte Carlo error of enumeration, detailed balance, seeds, and what they say of themselves."""

from __future__ import annotations

import itertools
import math
import time

import pytest
import torch
from torch import Tensor

import ebmstruct as es
from ebmstruct.graph import Assignment, BlockFactor, Discrete, FactorGraph, TableFactor, Variables
from ebmstruct.inference.diagnostics.states import effective_samples, r_hat
from ebmstruct.inference.result import Ask, Budget, Query, Status
from ebmstruct.inference.sampling.markov import MarkovSampler
from ebmstruct.inference.solvers.gibbs import BlockGibbs
from ebmstruct.inference.solvers.gibbs_with_gradients import GibbsWithGradients
from ebmstruct.testing import oracle, random_chain, random_graph, sites_of

SAMPLERS: tuple[MarkovSampler, ...] = (BlockGibbs(), GibbsWithGradients(chains=50))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def name_of(sampler: MarkovSampler) -> str:
    return sampler.name


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name_of)
@pytest.mark.parametrize("seed", range(3))
def test_samples_have_the_right_marginals(sampler: MarkovSampler, seed: int) -> None:
    """Shares of states in samples are the marginals of enumeration, within four standard errors."""
    graph = random_graph([4, 0, 3], 3, seeded(seed), rows=2, blocks=1 + seed % 2, scale=0.7)
    samples = es.sample(graph, sampler, num_samples=3000, generator=seeded(1))
    assert not samples.exact and samples.stats["acceptance"].shape == (3,)
    torch.testing.assert_close(graph.energy({k: v[7] for k, v in samples.values.items()}), samples.energy[7])
    for b, truth in enumerate(oracle(graph)):
        worth = max(30.0, float(samples.stats["effective_samples"][b]) / 2)
        for i, (block, site) in enumerate(sites_of(graph, b)):
            share = float((samples.values[block][:, site] == 0).double().mean())
            exact = truth.marginal(i, 0)
            assert abs(share - exact) < 4 * (max(exact * (1 - exact), 1e-3) / worth) ** 0.5


@pytest.mark.parametrize("forbid", [0.0, 0.1])
def test_averaged_conditionals(forbid: float) -> None:
    """Marginals by averaging conditionals: within 0.03 of enumeration, sum to one, and log Z is bounded from below."""
    graph = random_graph([4, 0, 3], 3, seeded(2), rows=2, forbid=forbid)
    found = es.marginals(graph, BlockGibbs(sweeps=4000), generator=seeded(0), temperature=1.5)
    assert not found.exact and max(found.stats["r_hat"].values()) < 1.1
    for b, truth in enumerate(oracle(graph)):
        assert float(found.log_partition[b]) <= truth.log_partition(1.5) + 1e-9
        for i, (block, site) in enumerate(sites_of(graph, b)):
            assert float(found.beliefs[block][site].sum()) == pytest.approx(1.0)
            for k in range(int(graph.variables[block].state_counts[site])):
                assert float(found.beliefs[block][site, k]) == pytest.approx(truth.marginal(i, k, 1.5), abs=0.03)


def transitions(sampler: MarkovSampler, graph: FactorGraph, states: list[tuple[int, ...]], repeats: int) -> Tensor:
    """How often a step from each state ends in each."""
    copies = graph.repeat(repeats)
    count = torch.zeros(len(states), len(states), dtype=torch.float64)
    generator = seeded(3)
    for i, state in enumerate(states):
        y = torch.tensor(state).repeat(repeats)
        begun = sampler.init(copies, Assignment({"y": y}), generator)
        after, _ = sampler.step(copies, begun, temperature=1.0, generator=generator)
        ends = after.values["y"].reshape(repeats, -1)
        for j, other in enumerate(states):
            count[i, j] = float((ends == torch.tensor(other)).all(1).double().mean())
    return count


@pytest.mark.parametrize("sampler", [GibbsWithGradients(), BlockGibbs()], ids=name_of)
def test_balance(sampler: MarkovSampler) -> None:
    """A step leaves exp(-E) unchanged; that of the Metropolis sampler is also reversible, flow by flow."""
    block = Variables.of_lengths("y", Discrete(torch.tensor([2, 3])), [2])
    table = torch.tensor([[0.0, 1.0, 0.3], [0.7, 0.2, 1.5]], dtype=torch.float64)
    pair = TableFactor(
        ("y", "y"), "pair", table.reshape(-1), index=torch.tensor([[0], [1]]), starts=torch.zeros(1, dtype=torch.long)
    )
    graph = FactorGraph([block], [pair])
    states = list(itertools.product(range(2), range(3)))
    weight = torch.softmax(-torch.tensor([float(table[s]) for s in states], dtype=torch.float64), 0)
    repeats = 20000
    flow = weight[:, None] * transitions(sampler, graph, states, repeats)
    assert (flow.sum(0) - weight).abs().max() < 5 / math.sqrt(repeats)
    if sampler.name == "gibbs_with_gradients":
        assert (flow - flow.T).abs().max() < 5 * 0.2 / math.sqrt(repeats)


def test_deep_energies_are_sampled() -> None:
    """A function of a whole block that wants two sites of three on: states with two on have the right share."""
    block = Variables.of_lengths("y", Discrete(2), [3, 3])

    def two_on(y: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        return 2.0 * (y.reshape(-1, 3).sum(1).double() - 2.0) ** 2

    graph = FactorGraph([block], [BlockFactor(("y",), "two", two_on)])
    samples = es.sample(graph, GibbsWithGradients(chains=50), num_samples=2000, generator=seeded(0))
    share = float((samples.values["y"].reshape(-1, 3).sum(1) == 2).double().mean())
    exact = 3 / (3 + 4 * math.exp(-2) + math.exp(-8))  # one of three on, or all: exp(-2) each; none: exp(-8)
    assert share == pytest.approx(exact, abs=0.05)
    assert BlockGibbs().refuse(graph, Query(Ask.SAMPLE))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name_of)
def test_hard_constraints_and_clamped_sites(sampler: MarkovSampler) -> None:
    """Chains start feasible and stay so; clamped sites keep their values; an infeasible instance is told so."""
    graph = random_chain([4, 3], 3, seeded(4), forbid=0.2)
    known = torch.tensor([True, False, False, False, False, False, True])
    value = es.minimize(graph).assignment["y"]
    graph = graph.condition(Assignment({"y": value}, {"y": known}))
    samples = es.sample(graph, sampler, num_samples=20, generator=seeded(0))
    assert bool(samples.energy.isfinite().all())
    assert bool((samples.values["y"][:, known] == value[known]).all())


@pytest.mark.parametrize("sampler", [BlockGibbs(), GibbsWithGradients()], ids=name_of)
def test_seeds_budgets_and_empty_graphs(sampler: MarkovSampler) -> None:
    """Same seed, same draws; a budget that ends early is told; graphs of nothing are answered."""
    graph = random_graph([4, 0], 3, seeded(0))
    one, two = (es.sample(graph, sampler, num_samples=6, generator=seeded(5)) for _ in range(2))
    assert all(torch.equal(v, two.values[k]) for k, v in one.values.items())
    early = es.sample(graph, sampler, num_samples=6, budget=Budget(max_steps=3))
    assert early.statuses[0] is Status.MAX_STEPS and early.energy.shape == (6, 2)
    empty = random_graph([0], 2, seeded(0))
    assert es.sample(empty, sampler, num_samples=2).energy.tolist() == [[0.0], [0.0]]


def test_refusals() -> None:
    """Questions that a chain cannot answer are refused in a sentence."""
    graph = random_chain([3], 2, seeded(0))
    for sampler in SAMPLERS:
        assert sampler.refuse(graph, Query(Ask.LOG_PARTITION)) and sampler.refuse(graph, Query())
    assert BlockGibbs().refuse(graph, Query(Ask.MARGINALS, factors=("chain",)))
    real = FactorGraph([Variables.of_lengths("x", es.Real(2), [3])], [])
    assert all(s.refuse(real, Query(Ask.SAMPLE)) for s in SAMPLERS)


def test_figures_of_agreement() -> None:
    """Independent draws: R-hat 1 and all of them count; chains that sit apart: R-hat infinite; slow chains count less."""
    independent = torch.randint(0, 2, (500, 4, 3), generator=seeded(0))
    assert r_hat(independent) == pytest.approx(1.0, abs=0.02)
    apart = torch.arange(2).repeat(100, 1)[:, :, None]
    assert r_hat(apart) == math.inf
    noise = torch.randn(1000, 4, 1, dtype=torch.float64, generator=seeded(1))
    assert float(effective_samples(noise)) > 2500
    slow = torch.zeros_like(noise)
    for t in range(1, 1000):
        slow[t] = 0.9 * slow[t - 1] + noise[t]
    assert float(effective_samples(slow)) == pytest.approx(4000 / 19, rel=0.5)  # (1 - 0.9) / (1 + 0.9) of them


def magnet(side: int, coupling: float) -> FactorGraph:
    """A ferromagnet without any field."""
    index = torch.arange(side * side).reshape(side, side)
    pairs = torch.cat(
        [torch.stack([index[:, :-1], index[:, 1:]]).flatten(1), torch.stack([index[:-1], index[1:]]).flatten(1)], 1
    )
    table = torch.tensor([0.0, coupling, coupling, 0.0], dtype=torch.float64)
    starts = torch.zeros(pairs.shape[1], dtype=torch.long)
    return FactorGraph(
        [Variables.of_lengths("y", Discrete(2), [side * side])],
        [TableFactor(("y", "y"), "pair", table, index=pairs, starts=starts)],
    )


def test_chains_that_disagree_are_not_converged() -> None:
    """Chains in different valleys use the whole budget, and say MAX_STEPS or DEADLINE; those that agree stop before."""
    cold, solver = magnet(8, 4.0), BlockGibbs(sweeps=100, patience=7)
    stuck = es.marginals(cold, solver, generator=seeded(0))
    assert stuck.statuses == [Status.MAX_STEPS] and stuck.stats["sweeps"] == 200 + 700
    assert not stuck.stats["r_hat"]["y"] < 1.05 and stuck.log_partition.isfinite().all()
    assert es.sample(cold, solver, num_samples=4, generator=seeded(0)).statuses == [Status.MAX_STEPS]
    began = time.monotonic()
    timed = es.marginals(cold, solver, generator=seeded(0), budget=Budget.after(0.3))
    assert timed.statuses == [Status.DEADLINE] and 0.2 < time.monotonic() - began < 2.0
    torch.testing.assert_close(timed.beliefs["y"].sum(1), torch.ones(64, dtype=torch.float64))
    warm = es.marginals(magnet(8, 0.2), BlockGibbs(), generator=seeded(0), budget=Budget.after(60.0))
    assert warm.statuses == [Status.CONVERGED] and warm.stats["r_hat"]["y"] < 1.05
    assert 10 < float(warm.stats["effective_samples"][0]) <= 800

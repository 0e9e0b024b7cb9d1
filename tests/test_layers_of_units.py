"""Layers of units as products of matrices: the same energies, sums, gradients and draws as the tables of all pairs."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import ebmstruct as es
from ebmstruct.errors import GraphError
from ebmstruct.inference.sampling.layers import LayeredSweeps, layers_of
from ebmstruct.testing.small_models import gradient

SIZES = {"v": (4, 2), "h": (3, 2), "g": (2, 3)}
"""Block to its units an instance and their states; v is joined to h, and h to g."""


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def layered(blocks: str = "vhg", count: int = 2, *, full: bool = False, seed: int = 0) -> es.FactorGraph:
    """``count`` instances of layers in a row, energies of single units their own; full: weights of all states."""
    generator = torch.Generator().manual_seed(seed)
    variables: list[es.Variables] = []
    factors: list[es.Factor] = []
    for name in blocks:
        sites, states = SIZES[name]
        variables.append(es.Variables.of_lengths(name, es.Discrete(states), [sites] * count))
        factors.append(es.TableFactor((name,), name, normal(generator, sites * count, states)))
    for one, other in itertools.pairwise(blocks):
        (v, k), (h, states) = SIZES[one], SIZES[other]
        weight = normal(generator, v, k if full else k - 1, h, states if full else states - 1)
        factors.append(es.BilinearFactor((one, other), one + other, weight))
    return es.FactorGraph(variables, factors)


def listed(graph: es.FactorGraph) -> es.FactorGraph:
    """The same with a table for each pair."""
    factors = []
    for factor in graph.factors:
        if isinstance(factor, es.BilinearFactor):
            scope = graph.scope(factor)
            tables = factor.tables(scope).flatten(0, 1).repeat(graph.num_instances, 1, 1)
            factor = es.TableFactor(factor.scope, factor.label, tables, factor.pairs(scope))
        factors.append(factor)
    out = es.FactorGraph(list(graph.variables.values()), factors)
    return out if graph.evidence is None else out.condition(graph.evidence)


def draws_of(graph: es.FactorGraph, count: int, seed: int = 0) -> dict[str, Tensor]:
    """(C, n) random states of every block."""
    generator = torch.Generator().manual_seed(seed)
    return {
        n: torch.randint(0, v.discrete.largest, (count, v.num_sites), generator=generator)
        for n, v in graph.variables.items()
    }


@pytest.mark.parametrize("full", [False, True])
def test_factor_equals_tables(full: bool) -> None:
    """Energies, conditionals, relaxed energies, copies and selections are those of the tables of all pairs."""
    graph = layered(full=full)
    tables = listed(graph)
    y = {n: v[0] for n, v in draws_of(graph, 1).items()}
    torch.testing.assert_close(graph.energy(y), tables.energy(y))
    for name in SIZES:
        torch.testing.assert_close(graph.conditionals(name, y), tables.conditionals(name, y))
    weights = {n: torch.softmax(normal(torch.Generator().manual_seed(1), v.num_sites, v.discrete.largest), 1)
               for n, v in graph.variables.items()}  # fmt: skip
    torch.testing.assert_close(graph.relaxed_energy(weights), tables.relaxed_energy(weights))
    twice = {n: v.repeat(3) for n, v in y.items()}
    torch.testing.assert_close(graph.repeat(3).energy(twice), tables.energy(y).repeat(3))
    second = graph.select(torch.tensor([1]))
    own = {n: v[graph.variables[n].sites_of(torch.tensor([1]))] for n, v in y.items()}
    torch.testing.assert_close(second.energy(own), graph.energy(y)[1:])
    joined = es.union([graph, graph])
    torch.testing.assert_close(joined.energy({n: v.repeat(2) for n, v in y.items()}), graph.energy(y).repeat(2))


def test_solvers_of_tables_take_it() -> None:
    """Minimum, marginals and log partition by elimination equal those of the listed tables and of enumeration."""
    graph = layered()
    for own in (graph, graph.condition(es.Assignment({"v": torch.tensor([0, 1, 1, 0, 1, 1, 0, 0])}))):
        tables = listed(own)
        torch.testing.assert_close(es.minimize(own).energy, es.minimize(tables, es.Exhaustive()).energy)
        mine, other = es.marginals(own, es.JunctionTree()), es.marginals(tables, es.Exhaustive())
        torch.testing.assert_close(mine.log_partition, other.log_partition)
        for name in SIZES:
            torch.testing.assert_close(mine.beliefs[name], other.beliefs[name])


def test_free_energies_and_their_gradients() -> None:
    """Energies of draws with layers summed out are sums over the tables, and so are gradients; at any temperature."""
    graph = layered()
    values = draws_of(graph, 3)
    every: list[tuple[str, ...]] = [(), ("h",), ("v", "g"), ("g",)]
    for summed, t in itertools.product(every, [1.0, 0.7]):

        def mine(own: es.FactorGraph, summed: tuple[str, ...] = summed, t: float = t) -> Tensor:
            found = LayeredSweeps.of(own)
            assert found is not None
            return (found.free_energies(values, summed, t) * torch.arange(6.0).reshape(3, 2)).sum()

        def by_tables(own: es.FactorGraph, summed: tuple[str, ...] = summed, t: float = t) -> Tensor:
            rows = []
            for c in range(3):
                held = own.condition(es.Assignment({n: v[c] for n, v in values.items() if n not in summed}))
                rows.append(-t * es.log_partition(listed(held), es.JunctionTree(), temperature=t))
            return (torch.stack(rows) * torch.arange(6.0).reshape(3, 2)).sum()

        torch.testing.assert_close(mine(graph), by_tables(graph))
        torch.testing.assert_close(gradient(mine, graph), gradient(by_tables, graph))


@pytest.mark.parametrize("blocks", ["vh", "vhg"])
def test_sweeps_leave_the_distribution(blocks: str) -> None:
    """Long chains have the marginals of enumeration, under evidence too; clamped units stay."""
    graph = layered(blocks, 1)
    known = torch.tensor([True, False, False, True])
    held = graph.condition(es.Assignment({"v": torch.tensor([1, 0, 0, 0])}, known={"v": known}))
    for own in (graph, held):
        sweeps = LayeredSweeps.of(own)
        assert sweeps is not None and not sweeps.independent
        expected = es.marginals(listed(own), es.Exhaustive()).beliefs
        generator = torch.Generator().manual_seed(1)
        x = sweeps.run(draws_of(own, 6000), 60, 1.0, generator)
        for name in blocks:
            shares = torch.nn.functional.one_hot(x[name], SIZES[name][1]).double().mean(0)
            torch.testing.assert_close(shares, expected[name], atol=0.03, rtol=0)
    clamped = LayeredSweeps.of(graph.condition(es.Assignment({"h": torch.tensor([1, 0, 1])})))
    assert clamped is not None and clamped.independent
    assert torch.equal(clamped.run(draws_of(graph, 2), 1, 1.0, generator)["h"], torch.tensor([[1, 0, 1]] * 2))


def test_annealed_importance_sampling() -> None:
    """The log partition of layers is within its error of enumeration, under evidence and at temperatures too."""
    graph = layered("vh", 2)
    allowed = torch.ones(6, 2, dtype=torch.bool)
    allowed[0, 1] = False
    held = graph.condition(es.Assignment({"v": torch.tensor([1, 0, 0, 1, 0, 1, 0, 1])}, {"v": torch.arange(8) > 5},
                                         {"h": allowed}))  # fmt: skip
    solver = es.AnnealedImportanceSampling(particles=200, temperatures=100)
    for own, t in ((graph, 1.0), (held, 1.0), (layered("vhg", 1), 0.6)):
        found = es.bound_log_partition(own, solver, temperature=t, generator=torch.Generator().manual_seed(0))
        expected = es.log_partition(listed(own), es.JunctionTree(), temperature=t)
        assert bool((found.log_partition - expected).abs().max() < 0.1)
        low, high = found.stats["log_partition_interval"]
        assert bool(((low <= expected) & (expected <= high)).all())
    many = es.AnnealedImportanceSampling(particles=2000, temperatures=50)
    beliefs = es.marginals(held, many, generator=torch.Generator().manual_seed(0)).beliefs
    exact = es.marginals(listed(held), es.Exhaustive()).beliefs
    for name in "vh":
        torch.testing.assert_close(beliefs[name], exact[name], atol=0.05, rtol=0)
    nothing = graph.condition(es.Assignment({}, allowed={"h": torch.arange(6)[:, None].expand(6, 2) > 2}))
    found = es.bound_log_partition(nothing, solver)
    assert [s.name for s in found.statuses] == ["INFEASIBLE", "CONVERGED"]


def test_contrastive_divergence_sums_hidden_units_out() -> None:
    """With very many chains the gradient of persistent contrastive divergence is the likelihood's."""
    graph, v = layered("vh", 1, seed=3), torch.tensor([1, 0, 1, 1])
    loss = es.PersistentContrastiveDivergence(chains=20000, size=20000, steps=30, reinitialise=0.0)

    def likelihood(own: es.FactorGraph) -> Tensor:
        return es.NegativeLogLikelihood()(own, es.Assignment({"v": v})).value

    def divergence(own: es.FactorGraph) -> Tensor:
        return loss(own, es.Assignment({"v": v}), generator=torch.Generator().manual_seed(0)).value

    torch.testing.assert_close(gradient(divergence, graph), gradient(likelihood, graph), atol=0.03, rtol=0)


def test_what_is_no_layer() -> None:
    """Other factors make no layers; weights that do not fit, or are not finite, are told."""
    graph = layered("vh")
    assert layers_of(graph) is not None
    more = graph.add(es.TableFactor(("v", "v"), "more", torch.zeros(1, 2, 2), torch.tensor([[0], [1]])))
    assert layers_of(more) is None
    blocks = list(graph.variables.values())
    with pytest.raises(GraphError, match="3 sites of 1 states, or of one more"):
        es.FactorGraph(blocks, [es.BilinearFactor(("v", "h"), "w", torch.zeros(3, 1, 4, 1))])
    with pytest.raises(GraphError, match="infinite or NaN"):
        es.FactorGraph(blocks, [es.BilinearFactor(("v", "h"), "w", torch.full((4, 1, 3, 1), torch.inf))])


def test_gibbs_on_layers() -> None:
    """Samples and marginals by layers are those of enumeration; given every other layer they are exact."""
    graph = layered("vhg", 2)
    expected = es.marginals(listed(graph), es.Exhaustive()).beliefs
    solver = es.BlockGibbs(chains=50, sweeps=400)
    found = es.marginals(graph, solver, generator=torch.Generator().manual_seed(0))
    drawn = es.sample(graph, es.BlockGibbs(chains=4000), num_samples=4000, generator=torch.Generator().manual_seed(0))
    assert not found.exact and found.statuses[0].name == "CONVERGED" and max(found.stats["r_hat"].values()) < 1.05
    for name in SIZES:
        torch.testing.assert_close(found.beliefs[name], expected[name], atol=0.02, rtol=0)
        shares = torch.nn.functional.one_hot(drawn.values[name], SIZES[name][1]).double().mean(0)
        torch.testing.assert_close(shares, expected[name], atol=0.04, rtol=0)
    torch.testing.assert_close(drawn.energy[7], graph.energy({n: v[7] for n, v in drawn.values.items()}))
    held = graph.condition(es.Assignment({"h": torch.tensor([1, 0, 1, 0, 0, 1])}))
    exact, other = es.marginals(held, solver), es.marginals(listed(held), es.Exhaustive())
    assert exact.exact and es.sample(held, solver, num_samples=3).exact
    torch.testing.assert_close(exact.log_partition, other.log_partition)
    for name in SIZES:
        torch.testing.assert_close(exact.beliefs[name], other.beliefs[name])
    cut = es.sample(graph, es.BlockGibbs(), num_samples=8, budget=es.Budget(max_steps=201))
    assert {s.name for s in cut.statuses} == {"MAX_STEPS"} and cut.values["v"].shape == (8, 8)

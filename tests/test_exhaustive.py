"""Exhaustive enumeration against the oracle, which shares no code with it."""

from __future__ import annotations

import pytest
import torch

import ebmstruct as es
from ebmstruct.testing import oracle, random_chain, random_forest, sites_of

GRAPHS = {
    "chain": lambda g: random_chain([3, 0, 1, 4], 3, g),
    "constrained chain": lambda g: random_chain([3, 2], 3, g, forbid=0.3),
    "forest": lambda g: random_forest([4, 0, 3, 1], 3, g),
    "constrained forest": lambda g: random_forest([4, 3], 3, g, forbid=0.3),
    "shared table": lambda g: random_forest([4, 3], 3, g, shared=True),
}


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_answers_equal_the_oracle(name: str, temperature: float) -> None:
    """Minimum, log partition and marginals equal those from a list of all assignments."""
    graph = GRAPHS[name](torch.Generator().manual_seed(1))
    solver = es.Exhaustive()
    result = es.minimize(graph, solver)
    found = es.marginals(graph, solver, temperature=temperature)
    log_z = es.log_partition(graph, solver, temperature=temperature)
    for b, truth in enumerate(oracle(graph)):
        assert float(result.energy[b]) == pytest.approx(truth.minimum)
        assert float(log_z[b]) == pytest.approx(truth.log_partition(temperature))
        assert float(found.log_partition[b]) == pytest.approx(truth.log_partition(temperature))
        if truth.minimum < float("inf"):
            assert result.statuses[b] is es.Status.OPTIMAL
            for i, (block, site) in enumerate(sites_of(graph, b)):
                for k in range(int(graph.variables[block].state_counts[site])):
                    belief = float(found.beliefs[block][site, k])
                    assert belief == pytest.approx(truth.marginal(i, k, temperature), abs=1e-12)


def test_marginal_map_sums_the_latent_block_out() -> None:
    """With h summed out, min over y of -log sum_h exp(-E(y, h)) is found; by hand, y = 1 wins only in the sum."""
    y = es.Variables.of_lengths("y", es.Discrete(2), [1])
    h = es.Variables.of_lengths("h", es.Discrete(3), [1])
    table = torch.tensor([[0.0, 9.0, 9.0], [0.5, 0.5, 0.5]])
    graph = es.FactorGraph(
        [y, h], [es.TableFactor(("y", "h"), "joint", table, index=torch.zeros(2, 1, dtype=torch.long))]
    )
    assert int(es.minimize(graph, es.Exhaustive()).assignment["y"]) == 0
    result = es.minimize(graph, es.Exhaustive(), sum_out=("h",))
    assert int(result.assignment["y"]) == 1
    assert float(result.energy) == pytest.approx(0.5 - float(torch.tensor(3.0).log()))


def test_a_function_of_the_whole_block_can_be_enumerated() -> None:
    """A BlockFactor that wants exactly two sites in state 1 is minimised, and its marginals are 2/3."""
    block = es.Variables.of_lengths("y", es.Discrete(2), [3, 3])

    def two_on(y: torch.Tensor, strength: torch.Tensor, offsets: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return strength * (y.reshape(-1, 3).sum(1) - 2.0) ** 2

    factor = es.BlockFactor(("y",), "two", two_on, inputs=(torch.tensor([100.0, 100.0]),))
    graph = es.FactorGraph([block], [factor])
    assert es.minimize(graph).energy.tolist() == [0.0, 0.0]
    beliefs = es.marginals(graph).beliefs["y"][:, 1]
    assert torch.allclose(beliefs, torch.full_like(beliefs, 2 / 3), atol=1e-6)


def test_a_deadline_that_has_passed_returns_the_best_so_far() -> None:
    """With no time at all the first assignments are looked at, and the status says why it stopped."""
    graph = random_chain([9], 4, torch.Generator().manual_seed(0))
    result = es.minimize(graph, es.Exhaustive(), budget=es.Budget.after(0.0))
    assert result.statuses == [es.Status.DEADLINE]
    assert float(result.gap[0]) == float("inf")
    with pytest.raises(es.InferenceFailed, match="DEADLINE"):
        es.minimize(graph, es.Exhaustive(), budget=es.Budget.after(0.0), throw=True)

"""Marginal MAP over tables against enumeration."""

from __future__ import annotations

import math

import pytest
import torch

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference import Exhaustive, MarginalElimination, Status, log_partition, minimize
from ebmstruct.testing import oracle, random_graph, sites_of


def free_energies(
    graph: FactorGraph, sum_out: tuple[str, ...], temperature: float
) -> list[dict[tuple[int, ...], float]]:
    """For each instance the free energy of each assignment of the other blocks, by listing everything."""
    out = []
    for b, one in enumerate(oracle(graph)):
        kept = [i for i, (name, _) in enumerate(sites_of(graph, b)) if name not in sum_out]
        sums: dict[tuple[int, ...], list[float]] = {}
        for states, energy in zip(one.states, one.energies, strict=True):
            sums.setdefault(tuple(states[i] for i in kept), []).append(-energy / temperature)
        out.append({y: -temperature * _log_sum(terms) for y, terms in sums.items()})
    return out


def _log_sum(terms: list[float]) -> float:
    top = max(terms)
    return top if top == -math.inf else top + math.log(math.fsum(math.exp(t - top) for t in terms))


def model(seed: int) -> tuple[FactorGraph, float]:
    """A random graph of two blocks, with infinite entries in every third and evidence in every fourth."""
    generator = torch.Generator().manual_seed(seed)
    graph = random_graph([3, 0, 5], 3, generator, rows=4, blocks=2, forbid=0.15 if seed % 3 == 0 else 0.0)
    if seed % 4 == 0:
        name, block = next(iter(graph.variables.items()))
        known = torch.rand(block.num_sites, generator=generator) < 0.4
        graph = graph.condition(Assignment({name: torch.zeros(block.num_sites, dtype=torch.long)}, {name: known}))
    return graph, (0.5, 1.0, 2.0)[seed % 3]


@pytest.mark.parametrize("seed", range(20))
def test_is_the_enumerated_minimum(seed: int) -> None:
    """The free energy is that of the enumeration, proven least, and that of the minimiser that comes with it."""
    graph, temperature = model(seed)
    names = list(graph.variables)
    for name in names:
        found = minimize(graph, MarginalElimination(), sum_out=(name,), temperature=temperature)
        truth = free_energies(graph, (name,), temperature)
        fixed = graph.condition(Assignment({n: found.assignment[n] for n in names if n != name}))
        again = -temperature * log_partition(fixed, Exhaustive(), temperature=temperature)
        for b, table in enumerate(truth):
            least = min(table.values())
            if least == math.inf:
                assert found.statuses[b] is Status.INFEASIBLE
                continue
            assert found.statuses[b] is Status.OPTIMAL and found.integration == "exact"
            assert abs(float(found.energy[b]) - least) < 1e-8 and abs(float(again[b]) - least) < 1e-8
            assert abs(float(found.lower_bound[b]) - least) < 1e-6
        latent = minimize(fixed, Exhaustive())
        torch.testing.assert_close(graph.energy(found.assignment), latent.energy)

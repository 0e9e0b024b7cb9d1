"""Samplers of continuous blocks against known moments, and what they do with walls, manifolds, NaN and deadlines."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ebmstruct.graph import (
    BlockFactor,
    Continuous,
    FactorGraph,
    Real,
    Variables,
)
from ebmstruct.inference import HMC, MALA, sample


def energy_graph(function, domain: Continuous, instances: int = 1, sites: int = 1) -> FactorGraph:  # type: ignore[no-untyped-def]
    """One block of one site an instance, and a function of its values (B, d)."""
    block = Variables.of_lengths("x", domain, [sites] * instances)
    return FactorGraph([block], [BlockFactor(("x",), "energy", lambda x, offsets: function(x))])


def gaussian(curvature: Tensor) -> FactorGraph:
    """0.5 * sum of curvature * x^2 in as many dimensions."""
    return energy_graph(lambda x: 0.5 * (curvature * x.square()).sum(-1), Real(curvature.numel()))


SAMPLERS = {
    "mala": MALA(step_size=0.3, chains=32, burn_in=100, thinning=2),
    "hmc": HMC(step_size=0.5, leapfrog_steps=4, chains=32, burn_in=20),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_moments_of_a_gaussian(name: str) -> None:
    """Means 0 and variances 1 / curvature (1, 0.5, 0.25) at the temperature 1, and twice that at 2."""
    graph = gaussian(torch.tensor([1.0, 2.0, 4.0]))
    for temperature in (1.0, 2.0):
        found = sample(graph, SAMPLERS[name], num_samples=32 * 300, temperature=temperature)
        draws = found.values["x"][:, 0]
        torch.testing.assert_close(draws.mean(0), torch.zeros(3), atol=0.08, rtol=0)
        torch.testing.assert_close(draws.var(0), temperature * torch.tensor([1.0, 0.5, 0.25]), atol=0, rtol=0.1)
        assert found.chains == 32 and found.by_chain("x").shape == (300, 32, 1, 3)
        assert found.energy.dtype == torch.float32 and 0.5 < float(found.stats["acceptance"][0]) < 1

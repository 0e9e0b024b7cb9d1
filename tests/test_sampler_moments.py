"""Known moments: twenty independent runs of every sampler agree with the truth within three standard errors.

A batch of twenty instances is twenty runs. Samplers that refuse nothing have the truth of their step: on a Gaussian that
is known exactly, elsewhere the step is so small that what is left of the bias is below a standard error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import ebmstruct as es

RUNS = 20
VARIANCE = torch.logspace(-2, 0, 100)
STEP = 0.004


def sampled(energy: Callable[[Tensor], Tensor], dim: int, sampler: Any, draws: int, start: Tensor) -> Tensor:
    """(S, runs, d)."""
    block = es.Variables.of_lengths("x", es.Real(dim), [1] * RUNS)
    graph = es.FactorGraph([block], [es.BlockFactor(("x",), "energy", lambda x, offsets: energy(x))])
    found = es.sample(
        graph,
        sampler,
        num_samples=draws,
        init=es.Assignment({"x": start}),
        generator=torch.Generator().manual_seed(1),
    )
    return found.values["x"]


def agrees(found: Tensor, truth: float) -> None:
    """found: (runs,) estimates."""
    error = float(found.std()) / math.sqrt(RUNS)
    assert abs(float(found.mean()) - truth) < 3 * error, (float(found.mean()), truth, error)


def kept(**options: Any) -> dict[str, Any]:
    return {"chains": 1, **options}


GAUSSIAN = {
    "langevin": (es.Langevin(step_size=STEP, **kept(burn_in=0, thinning=10)), 2000, True),
    "sgld": (es.SGLD(step_size=STEP, **kept(burn_in=0, thinning=10)), 2000, True),
    "underdamped_langevin": (es.UnderdampedLangevin(0.05, 1.0, **kept(burn_in=200, thinning=5)), 2000, False),
    "mala": (es.MALA(step_size=STEP, **kept(burn_in=0, thinning=10)), 2000, False),
    "hmc": (es.HMC(0.1, 15, jitter=0.3, **kept(burn_in=0)), 300, False),
    "nuts": (es.NUTS(chains=1, warm_up=200), 300, False),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GAUSSIAN)
def test_gaussian(name: str) -> None:
    """The mean of the hundred variances over their truths is 1; for Langevin steps it is that of 1 / (1 - step / 2v)."""
    sampler, draws, biased = GAUSSIAN[name]
    precision = 1 / VARIANCE
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(RUNS, 100, generator=generator) * VARIANCE.sqrt()
    x = sampled(lambda x: 0.5 * (x * x * precision).sum(1), 100, sampler, draws, start)
    truth = 1 / (1 - STEP * precision / 2) if biased else torch.ones(100)
    if biased:
        assert float(truth.mean()) > 1.03  # the bias is there to be seen
    agrees((x.square().mean(0) / VARIANCE).mean(1), float(truth.mean()))


SMALL = {
    "langevin": (es.Langevin(step_size=5e-4, **kept(burn_in=2000, thinning=20)), 3000),
    "sgld": (es.SGLD(step_size=5e-4, **kept(burn_in=2000, thinning=20)), 3000),
    "underdamped_langevin": (es.UnderdampedLangevin(0.03, 1.0, **kept(burn_in=1000, thinning=10)), 3000),
    "mala": (es.MALA(step_size=0.03, **kept(burn_in=1000, thinning=5)), 3000),
    "hmc": (es.HMC(0.15, 10, jitter=0.3, **kept(burn_in=100)), 2000),
    "nuts": (es.NUTS(chains=1, warm_up=200), 2000),
    "replica_exchange": (es.ReplicaExchange(chains=1, replicas=4, warm_up=200), 1000),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_ring(name: str) -> None:
    """The mean radius of p(r) ~ r exp(-(r - 2)^2 / 0.08), by quadrature."""
    sampler, draws = SMALL[name]
    r = torch.linspace(1e-3, 4, 20001, dtype=torch.float64)
    p = r * (-((r - 2) ** 2) / 0.08).exp()
    turn = torch.linspace(0, 6.0, RUNS)
    start = 2 * torch.stack([turn.cos(), turn.sin()], 1)
    x = sampled(lambda x: ((x * x).sum(1).add(1e-12).sqrt() - 2) ** 2 / 0.08, 2, sampler, draws, start)
    agrees(x.norm(dim=2).mean(0), float((r * p).sum() / p.sum()))


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_two_modes(name: str) -> None:
    """Hills of width 0.5 at -1 and 2, the second twice as heavy: its share, and the second moment of all."""
    sampler, draws = SMALL[name]
    logs = torch.tensor([1 / 3, 2 / 3]).log()
    centres = torch.tensor([-1.0, 2.0])

    def energy(x: Tensor) -> Tensor:
        return -torch.logsumexp(logs - (x - centres) ** 2 / 0.5, 1)

    start = torch.where(torch.arange(RUNS) % 3 == 0, -1.0, 2.0)[:, None]
    x = sampled(energy, 1, sampler, draws, start)[:, :, 0]
    agrees((x > 0.5).double().mean(0), 2 / 3 * 0.99865 + 1 / 3 * 0.00135)
    agrees(x.square().mean(0), 1 / 3 * 1.25 + 2 / 3 * 4.25)

"""Diagnostics: the figures of ArviZ and of known processes, and what they say in words."""

from __future__ import annotations

import math
import sys
import time
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ebmstruct as es
from ebmstruct.errors import SolverRefusal
from ebmstruct.graph import FactorGraph, Variables
from ebmstruct.inference.diagnostics import (
    diagnose,
    e_bfmi,
    ess_bulk,
    ess_mean,
    ess_tail,
    figures,
    glance,
    mcse_mean,
    rank_r_hat,
    state_figures,
)
from ebmstruct.inference.result import Samples
from ebmstruct.testing import random_graph


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def autoregressive(phi: float, shape: tuple[int, ...], seed: int) -> Tensor:
    """Draws (D, ...) of x' = phi x + noise, begun in its law: of variance 1, autocorrelation phi ** lag."""
    noise = torch.randn(shape, dtype=torch.float64, generator=seeded(seed))
    rows = [noise[0]]
    for step in noise[1:]:
        rows.append(phi * rows[-1] + math.sqrt(1 - phi * phi) * step)
    return torch.stack(rows)


def arviz_stats() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("arviz")


def cases() -> list[Tensor]:
    """(D, C, 1) draws: even and odd lengths, ties, constants, drifting, antithetic, heavy-tailed, chains apart."""
    out = []
    for seed, (count, chains) in enumerate([(4, 2), (5, 2), (7, 3), (50, 2), (101, 4), (1000, 4), (333, 1)]):
        for phi in (0.0, 0.9, -0.6, 0.995):
            out.append(autoregressive(phi, (count, chains, 1), seed))
    heavy = torch.randn(200, 4, 1, dtype=torch.float64, generator=seeded(3)) / autoregressive(0.3, (200, 4, 1), 4)
    apart = autoregressive(0.5, (300, 4, 1), 5) + torch.arange(4.0)[None, :, None]
    spread = autoregressive(0.5, (300, 4, 1), 6) * (1.0 + torch.arange(4.0)[None, :, None])
    return [*out, heavy, apart, spread, out[5].round(), autoregressive(0.5, (100, 2, 1), 8).round(decimals=1)]


def test_figures_are_those_of_arviz() -> None:
    """R-hat, bulk and tail ESS and MCSE are ArviZ's to 1e-9 (R-hat of one chain: ArviZ gives none)."""
    az = arviz_stats()
    for draws in cases():
        by_chain = draws[:, :, 0].T.numpy()
        found = figures(draws)
        wanted = {
            "ess_bulk": az.ess(by_chain, method="bulk"),
            "ess_tail": az.ess(by_chain, method="tail"),
            "mcse": az.mcse(by_chain, method="mean"),
        }
        if by_chain.shape[0] > 1:
            wanted["r_hat"] = az.rhat(by_chain, method="rank")
        for name, value in wanted.items():
            assert float(getattr(found, name)) == pytest.approx(np.asarray(value).item(), rel=1e-9), (name, draws.shape)
        assert float(ess_mean(draws)) == pytest.approx(np.asarray(az.ess(by_chain, method="mean")).item(), rel=1e-9)
        np.testing.assert_allclose(e_bfmi(draws)[:, 0].numpy(), az.bfmi(by_chain), rtol=1e-9)


def test_pieces_and_shapes() -> None:
    """Many coordinates at once are those one by one, and each function is its part of ``figures``."""
    draws = autoregressive(0.7, (400, 4, 3, 1000), 0)
    found = figures(draws)
    assert found.r_hat.shape == (3, 1000)
    alone = figures(draws[:, :, 1, 17])
    for name, function in (("r_hat", rank_r_hat), ("ess_bulk", ess_bulk), ("ess_tail", ess_tail), ("mcse", mcse_mean)):
        assert float(getattr(found, name)[1, 17]) == pytest.approx(float(getattr(alone, name)), rel=1e-12)
        torch.testing.assert_close(function(draws[:, :, :2, :5]), getattr(found, name)[:2, :5])
    assert figures(draws[:3]).r_hat.isnan().all() and figures(torch.zeros(10, 2, 0)).r_hat.shape == (0,)


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9, -0.3])
def test_known_processes(phi: float) -> None:
    """An AR(1) process is worth S (1 - phi) / (1 + phi) draws for its mean: within 5 % over 200 coordinates, mean taken."""
    draws = autoregressive(phi, (2000, 4, 200), 1)
    worth = 8000 * (1 - phi) / (1 + phi)
    assert float(ess_mean(draws).mean()) == pytest.approx(worth, rel=0.05)
    assert float(ess_bulk(draws).mean()) == pytest.approx(worth, rel=0.06)
    assert float(mcse_mean(draws).mean()) == pytest.approx(worth**-0.5, rel=0.05)
    real_error = float(draws.mean((0, 1)).square().mean().sqrt())
    assert float(mcse_mean(draws).mean()) == pytest.approx(real_error, rel=0.2)
    assert float(rank_r_hat(draws).amax()) < 1.05


def test_what_is_not_a_number() -> None:
    """One coordinate with a NaN or an infinity: its figures are NaN, its neighbours' are unharmed; constants: R-hat 1."""
    draws = autoregressive(0.5, (100, 4, 4), 2)
    clean = figures(draws)
    draws = draws.clone()
    draws[3, 1, 0], draws[5, 2, 1] = torch.nan, torch.inf
    draws[:, :, 2] = 7.0
    found = figures(draws)
    for mine, theirs in zip(found, clean, strict=True):
        assert mine[:2].isnan().all() and float(mine[3]) == float(theirs[3])
    assert float(found.r_hat[2]) == 1.0 and float(found.ess_bulk[2]) == 400.0 and float(found.mcse[2]) == 0.0
    stuck = torch.arange(4.0)[None, :, None].expand(50, 4, 1)
    assert float(rank_r_hat(stuck)) == math.inf


def samples_of(values: dict[str, Tensor], chains: int, **stats: Any) -> Samples:
    """Samples whose energy is half the square of the first block's first coordinate, or the first state itself."""
    first = next(iter(values.values())).double()
    energy = 0.5 * first.reshape(first.shape[0], -1)[:, :1] ** 2
    return Samples(values, energy, False, torch.ones(1, dtype=torch.long), "some", stats, chains)


def test_all_well() -> None:
    """Chains that agree get no warning, and the table names every block."""
    x = autoregressive(0.3, (500 * 4, 3, 2), 3)
    h = torch.randint(0, 3, (500 * 4, 5), generator=seeded(1))
    found = diagnose(samples_of({"x": x, "h": h}, 4, acceptance=torch.tensor([0.6])))
    assert found.warnings == () and found.worst_r_hat < 1.05
    assert found.r_hat["x"].shape == (3, 2) and found.r_hat["h"].shape == (5,) and found.energy.shape == (500, 4, 1)
    assert "x" in str(found) and "acceptance 0.600" in str(found) and "warning" not in str(found)


def test_warnings_in_words() -> None:
    """Each fault has its sentence, which names the block, the site and the figure."""
    x = autoregressive(0.3, (500, 4, 3, 2), 4)
    x[:, 0, 1, 1] += 3.0
    found = diagnose(samples_of({"x": x.reshape(2000, 3, 2)}, 4))
    assert len(found.warnings) == 1
    assert "chains disagree" in found.warnings[0] and "block 'x', site 1, coordinate 1" in found.warnings[0]
    slow = autoregressive(0.9, (1000, 4, 1, 1), 5).reshape(4000, 1, 1)
    assert "too few effective draws" in diagnose(samples_of({"x": slow}, 4), enough=1000).warnings[0]
    fine = autoregressive(0.1, (2000, 3, 2), 6)
    (divergent,) = diagnose(samples_of({"x": fine}, 4, divergences=torch.tensor([3]))).warnings
    assert "3 divergences" in divergent
    total = autoregressive(0.95, (2000, 1), 7)
    (low,) = diagnose(samples_of({"x": fine}, 1, hamiltonian=total)).warnings
    assert "E-BFMI of chain 0 of instance 0" in low
    (stuck,) = diagnose(samples_of({"x": fine}, 4, acceptance=torch.tensor([0.001]))).warnings
    assert "stuck" in stuck and "instance 0" in stuck
    apart = torch.arange(4.0, dtype=torch.float64)[None, :, None, None].expand(50, 4, 1, 1).reshape(200, 1, 1)
    assert any("never changed" in s for s in diagnose(samples_of({"x": apart}, 4)).warnings)
    assert "too few to tell" in diagnose(samples_of({"x": fine[:8]}, 4)).warnings[0]
    broken = fine.clone()
    broken[7, 0, 0] = torch.nan
    assert "not finite" in diagnose(samples_of({"x": broken}, 4)).warnings[0]


def test_the_instance_is_named() -> None:
    """With the graph a warning names the instance whose site it is."""
    block = Variables.of_lengths("x", es.Real(1), [1, 2])
    x = autoregressive(0.1, (500, 4, 3, 1), 8)
    x[:, 1, 2] -= 5.0
    draws = Samples({"x": x.reshape(2000, 3, 1)}, torch.zeros(2000, 2), False, torch.ones(2), "some", {}, 4)
    (warning,) = diagnose(draws, FactorGraph([block], [])).warnings
    assert "site 2 (instance 1)" in warning


def test_repeats_do_not_count() -> None:
    """Draws that an early end repeats are left out."""
    x = autoregressive(0.1, (40, 1, 1), 9).repeat(5, 1, 1)
    assert diagnose(samples_of({"x": x}, 4, distinct=40)).energy.shape == (10, 4, 1)
    assert diagnose(samples_of({"x": x}, 4, distinct=3)).energy.shape == (1, 3, 1)


def test_discrete_sites() -> None:
    """Sites that chains never leave have R-hat infinity; figures of others are those of the commonest state."""
    h = torch.randint(0, 2, (400, 4, 3), generator=seeded(0))
    h[:, :, 1] = torch.tensor([0, 1, 0, 1])
    found = state_figures(h)
    assert float(found.r_hat[1]) == math.inf and float(found.r_hat[0]) < 1.05
    assert float(found.mcse[0]) == pytest.approx(0.5 / 40, rel=0.15)
    assert state_figures(h[:, :, :0]).r_hat.shape == (0,)


def test_every_sampler_can_be_diagnosed() -> None:
    """Draws of the samplers of discrete graphs go through, exact ones without a warning."""
    graph = random_graph([3, 2], 2, seeded(0), rows=2)
    for solver in (es.BlockGibbs(), es.ParallelTempering(), es.GibbsWithGradients(), es.JunctionTree()):
        found = diagnose(es.sample(graph, solver, num_samples=400, generator=seeded(1)), graph)
        assert found.worst_r_hat < 1.3 and str(found)


def test_export_to_arviz(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and energies arrive with chains first; without ArviZ the error names the extra."""
    az = arviz_stats()
    x, h = autoregressive(0.3, (20, 3, 2), 0), torch.randint(0, 3, (20, 5), generator=seeded(1))
    samples = samples_of({"x": x, "h": h}, 4, acceptance=torch.tensor([0.5]), diverging=torch.zeros(20, 1).bool())
    data = samples.to_arviz()
    assert isinstance(data, az.InferenceData)
    assert data.posterior["x"].shape == (4, 5, 3, 2) and data.posterior["h"].shape == (4, 5, 5)
    assert data.sample_stats["energy"].shape == (4, 5, 1) and data.sample_stats["diverging"].dtype == bool
    np.testing.assert_array_equal(data.posterior["x"].values[1, 2], x[2 * 4 + 1].numpy())
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(SolverRefusal, match=r"ebmstruct\[arviz\]"):
        samples.to_arviz()


def test_a_glance() -> None:
    """Every sampler's draws are glanced at: R-hat by block, and a sentence where chains sit in different valleys."""
    centres = torch.tensor([[-8.0], [8.0]], dtype=torch.float64)
    block = Variables.of_lengths("x", es.Real(1), [1, 1])

    def energy(x: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        return -torch.logsumexp(-0.5 * (x[:, None] - centres).square().sum(-1), 1)

    graph = FactorGraph([block], [es.BlockFactor(("x",), "two", energy)])
    starts = torch.tensor([-8.0, -8.0, 8.0, 8.0], dtype=torch.float64)[:, None, None].expand(4, 2, 1)
    stuck = es.sample(graph, es.HMC(), num_samples=400, init=es.Assignment({"x": starts}), generator=seeded(0))
    assert stuck.stats["r_hat"]["x"] > 1.5 and any("disagree" in w and "'x'" in w for w in stuck.warnings)
    many = torch.randn(2000, 50, 100, 3, generator=seeded(0))
    started = time.process_time()
    figures_of, said = glance({"x": many}, None, None, {"h": 1.0})
    assert time.process_time() - started < 0.1 and said == () and set(figures_of) == {"x", "h"}
    frozen, divergent = glance({}, torch.tensor([0.5, 0.0]), torch.tensor([0, 3]), {})[1]
    assert "instance 1 accepts 0 %" in frozen and "3 divergences" in divergent

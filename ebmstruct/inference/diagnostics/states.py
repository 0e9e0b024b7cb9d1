"""How well chains of discrete states agree, by the indicator of each site's commonest state."""

from __future__ import annotations

import torch
from torch import Tensor

from ebmstruct.inference.diagnostics.reals import Figures, figures

R_HAT_FINE = 1.05
"""Below this chains are taken to agree (Gelman and Rubin call 1.1 or 1.2 fine; it is more often too kind than not)."""
_CHUNK = 1 << 21
"""Draws that are looked at together."""


def r_hat(draws: Tensor) -> float:
    """The largest potential scale reduction of a block's sites (Gelman and Rubin 1992), chains split in halves.

    draws: (D, C, n) states; the figure is that of the indicator of each site's commonest state. 1 means that the
    chains agree, above about 1.05 they do not; NaN with fewer than four draws a chain, 1 for a block without sites.
    """
    return float(site_r_hat(draws).amax()) if draws.shape[2] else 1.0


def site_r_hat(draws: Tensor) -> Tensor:
    """(n,) the same for each site. Cost: a few operations for each of the (D, C, n) draws."""
    count, chains, sites = draws.shape
    if count < 4 or not sites:
        return torch.full((sites,), torch.nan, dtype=torch.float64)
    together = max(1, _CHUNK // (count * chains))
    return torch.cat([_r_hat_of(part) for part in draws.split(together, 2)])


def state_figures(draws: Tensor) -> Figures:
    """The figures of each site of states (D, C, n): R-hat as in ``site_r_hat``, the others of the same indicator.

    An indicator has no tails of its own: its tail ESS is its bulk ESS.
    """
    count, chains = draws.shape[:2]
    parts = []
    for piece in draws.split(max(1, _CHUNK // max(1, count * chains)), 2):
        own = figures((piece == _commonest(piece)).double())
        parts.append(Figures(site_r_hat(piece), own.ess_bulk, own.ess_bulk, own.mcse))
    return Figures(*(torch.cat(rows) for rows in zip(*parts, strict=True)))


def _commonest(draws: Tensor) -> Tensor:
    sites = draws.shape[2]
    if not draws.numel():
        return torch.zeros(sites, dtype=torch.long)
    width = int(draws.max()) + 1
    own = draws.reshape(-1, sites).long() + width * torch.arange(sites)
    return torch.bincount(own.reshape(-1), minlength=width * sites).reshape(sites, width).argmax(1)


def _r_hat_of(draws: Tensor) -> Tensor:
    half = draws.shape[0] // 2
    parts = torch.cat([draws[:half], draws[half : 2 * half]], 1)
    hits = (parts == _commonest(parts)).double()
    means, within = hits.mean(0), hits.var(0).mean(0)
    between = half * means.var(0)
    ratio = torch.where(within > 0, ((half - 1) * within + between) / (half * within.clamp(min=1e-300)), torch.inf)
    return torch.where((within == 0) & (between == 0), 1.0, ratio).sqrt()


def effective_samples(energy: Tensor) -> Tensor:
    """(B,) how many independent draws the energies (D, C, B) are worth (Geyer 1992, initial positive pairs).

    0 where an energy is infinite: such a chain is nowhere.
    """
    draws, chains, instances = energy.shape
    out = torch.full((instances,), float(draws * chains), dtype=torch.float64)
    out[~energy.isfinite().all(0).all(0)] = 0.0
    if draws < 4:
        return out
    centred = energy.double()
    centred = centred - centred.mean((0, 1))
    spectrum = torch.fft.rfft(centred, 2 * draws, dim=0)
    covariance = torch.fft.irfft(spectrum.abs().square_(), 2 * draws, dim=0)[: draws // 2 * 2].mean(1) / draws
    variance = covariance[0]
    pairs = (covariance / variance).reshape(-1, 2, instances).sum(1)
    going_on = (pairs > 0).cumprod(0).bool()
    worth = out / (2.0 * torch.where(going_on, pairs, 0.0).sum(0) - 1.0).clamp(min=1.0)
    return torch.where(variance > 0.0, worth, out)  # constant, or not finite

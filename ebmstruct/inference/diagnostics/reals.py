"""How well chains of real numbers agree, and how many independent draws they are worth."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_CHUNK = 1 << 20
"""Draws that are looked at together, so that memory stays bounded however many coordinates there are."""


class Figures(NamedTuple):
    """What draws (D, C, ...) say of themselves, each of the shape of one draw (...), float64.

    r_hat: 1 where chains agree.  ess_bulk, ess_tail: effective draws for the middle and for the tails.
    mcse: standard error of the mean. NaN where a draw is not finite or where there are fewer than four a chain.
    """

    r_hat: Tensor
    ess_bulk: Tensor
    ess_tail: Tensor
    mcse: Tensor


def figures(draws: Tensor) -> Figures:
    """All four figures of each coordinate of draws (D, C, ...), in one pass over bounded pieces.

    Cost: a few sorts and Fourier transforms of each coordinate's D * C draws.
    Source: Vehtari, Gelman, Simpson, Carpenter and Buerkner (2021).
    """
    parts = _by_piece(draws, _all_of, 4)
    return Figures(*(p.reshape(draws.shape[2:]) for p in parts.unbind(0)))


def rank_r_hat(draws: Tensor) -> Tensor:
    """(...): the rank-normalised split R-hat of draws (D, C, ...): the larger of the plain and the folded one.

    The folded one, of the distance from the median, sees chains of equal means and unequal spreads. A coordinate that
    never changes has 1; one whose chains stand still at different places has infinity.
    Source: Vehtari et al. (2021), section 4.1.
    """
    return _one_by_piece(draws, _r_hat_of)


def split_r_hat(draws: Tensor) -> Tensor:
    """(...): the larger split R-hat of the values (D, C, ...) and of their distance from the mean, without ranks.

    Many times quicker than ``rank_r_hat``, and blind where tails are so heavy that there is no variance.
    Source: Gelman, Carlin, Stern, Dunson, Vehtari and Rubin (2013), section 11.4.
    """

    def larger(x: Tensor) -> Tensor:
        halves = _split(x)
        return torch.maximum(_r_hat(halves), _r_hat((halves - halves.mean((1, 2), keepdim=True)).abs()))

    return _one_by_piece(draws, larger)


def ess_bulk(draws: Tensor) -> Tensor:
    """(...): effective draws of the rank-normalised values (D, C, ...); of use for means and medians.

    Source: Vehtari et al. (2021), section 4.2; Geyer (1992) for where the sum of autocorrelations ends.
    """
    return _one_by_piece(draws, lambda x: _ess(_normal_scores(_split(x))))


def ess_tail(draws: Tensor) -> Tensor:
    """(...): effective draws of the 5 % and 95 % quantiles of draws (D, C, ...), the smaller (Vehtari et al. 2021)."""
    return _one_by_piece(draws, _tail_of)


def ess_mean(draws: Tensor) -> Tensor:
    """(...): effective draws of the values themselves (D, C, ...), for the error of their mean."""
    return _one_by_piece(draws, lambda x: _ess(_split(x)))


def mcse_mean(draws: Tensor) -> Tensor:
    """(...): the standard error of the mean of draws (D, C, ...): their spread over the root of ``ess_mean``."""
    return _one_by_piece(draws, _mcse_of)


def e_bfmi(energy: Tensor) -> Tensor:
    """(C, ...): the energy Bayesian fraction of missing information of Hamiltonian energies (D, C, ...).

    The mean square of the change from draw to draw, over the variance. Below 0.3 the momenta that are drawn anew are
    too weak to walk through all levels of energy: the tails are seen too seldom. It says this of chains that draw
    momenta only, and of total energies, kinetic ones included. NaN with fewer than four draws or a constant energy.
    Source: Betancourt (2016).
    """
    if energy.shape[0] < 4:
        return torch.full(energy.shape[1:], torch.nan, dtype=torch.float64)
    energy = energy.double()
    return energy.diff(dim=0).square().mean(0) / energy.var(0)


def _one_by_piece(draws: Tensor, figure: Callable[[Tensor], Tensor]) -> Tensor:
    return _by_piece(draws, lambda x: figure(x)[None], 1).reshape(draws.shape[2:])


def _by_piece(draws: Tensor, figure: Callable[[Tensor], Tensor], rows: int) -> Tensor:
    """(rows, N): figures of draws (D, C, ...), as ``figure`` finds them for pieces (N', C, D) of the coordinates."""
    count, chains = draws.shape[:2]
    flat = draws.reshape(count, chains, -1)
    if count < 4 or not flat.numel():
        return torch.full((rows, flat.shape[2]), torch.nan, dtype=torch.float64)
    out = []
    for piece in flat.split(max(1, _CHUNK // (count * chains)), 2):
        x = piece.detach().double().permute(2, 1, 0).contiguous()
        bad = ~x.isfinite().all(2).all(1)
        out.append(figure(x.masked_fill(bad[:, None, None], 0.0)).masked_fill(bad, torch.nan))
    return torch.cat(out, 1)


def _all_of(x: Tensor) -> Tensor:
    scores = _normal_scores(_split(x))
    folded = _r_hat(_normal_scores(_folded(x)))
    return torch.stack([torch.maximum(_r_hat(scores), folded), _ess(scores), _tail_of(x), _mcse_of(x)])


def _r_hat_of(x: Tensor) -> Tensor:
    return torch.maximum(_r_hat(_normal_scores(_split(x))), _r_hat(_normal_scores(_folded(x))))


def _tail_of(x: Tensor) -> Tensor:
    ordered = x.flatten(1).sort(1).values
    sides = [_ess(_split((x <= _quantile(ordered, p)[:, None, None]).double())) for p in (0.05, 0.95)]
    return torch.minimum(*sides)


def _mcse_of(x: Tensor) -> Tensor:
    return x.flatten(1).std(1) / _ess(_split(x)).sqrt()


def _split(x: Tensor) -> Tensor:
    """(N, 2 C, D // 2): the first and the last half of each chain, as chains."""
    half = x.shape[2] // 2
    return torch.cat([x[:, :, :half], x[:, :, x.shape[2] - half :]], 1)


def _folded(x: Tensor) -> Tensor:
    halves = _split(x)
    ordered = halves.flatten(1).sort(1).values
    size = ordered.shape[1]  # even; the mean of the two in the middle, rounded as others round it, since ties matter
    middle = (ordered[:, size // 2 - 1] + ordered[:, size // 2]) / 2.0
    return (halves - middle[:, None, None]).abs()


def _quantile(ordered: Tensor, share: float) -> Tensor:
    """(N,): a quantile of sorted rows (N, S), by straight lines between order statistics (type 7)."""
    at = share * (ordered.shape[1] - 1)
    low = min(int(at), ordered.shape[1] - 1)
    high = min(low + 1, ordered.shape[1] - 1)
    return ordered[:, low] + (at - low) * (ordered[:, high] - ordered[:, low])


def _normal_scores(x: Tensor) -> Tensor:
    """The normal quantiles of the ranks of all draws of each row of x (N, C, D); ties share their mean rank."""
    rows = x.flatten(1)
    size = rows.shape[1]
    ordered, order = rows.sort(1)
    place = torch.arange(size, dtype=torch.float64).expand_as(ordered)
    differs = ordered[:, 1:] != ordered[:, :-1]
    edge = torch.ones(rows.shape[0], 1, dtype=torch.bool)
    first = torch.where(torch.cat([edge, differs], 1), place, 0.0).cummax(1).values
    last = torch.where(torch.cat([differs, edge], 1), place, float(size)).flip(1).cummin(1).values.flip(1)
    rank = torch.empty_like(place).scatter_(1, order, (first + last) / 2.0 + 1.0)
    return torch.special.ndtri((rank - 0.375) / (size + 0.25)).reshape(x.shape)


def _r_hat(x: Tensor) -> Tensor:
    """(N,): the potential scale reduction of chains x (N, C, D) (Gelman and Rubin 1992)."""
    length = x.shape[2]
    within, between = x.var(2).mean(1), length * x.mean(2).var(1)
    still = within <= 1e-30
    ratio = (between / within.masked_fill(still, 1.0) + length - 1) / length
    apart = torch.where(between > 1e-12, torch.inf, 1.0).double()
    return torch.where(still, apart, ratio.sqrt())


def _ess(x: Tensor) -> Tensor:
    """(N,): effective draws of chains x (N, C, D).

    Autocorrelations at even and odd lags are added in pairs, while the pairs are positive, each counted at most as
    the one before it. Where the sum ends, one more even lag is counted, as Stan and ArviZ do.
    """
    chains, length = x.shape[1:]
    size = chains * length
    centred = x - x.mean(2, keepdim=True)
    padded = _fast_length(2 * length)
    spectrum = torch.fft.rfft(centred, padded, dim=2).abs().square().mean(1)
    covariance = torch.fft.irfft(spectrum, padded, dim=1)[:, :length] / length
    within = covariance[:, 0] * length / (length - 1)
    whole = covariance[:, 0] + (x.mean(2).var(1) if chains > 1 else 0.0)
    constant = (x.amax((1, 2)) - x.amin((1, 2)) < 1e-15) | (whole <= 0)
    rho = 1.0 - (within[:, None] - covariance) / whole.masked_fill(constant, 1.0)[:, None]
    rho[:, 0] = 1.0
    count = max(1, (length - 1) // 2)
    pairs = rho[:, : 2 * count].reshape(-1, count, 2).sum(2)
    ended = pairs <= 0
    last = torch.where(ended.any(1), ended.double().argmax(1), count - 1)
    kept = torch.arange(count) < last[:, None]
    total = (pairs.cummin(1).values * kept).sum(1)
    even, pair = (rows.gather(1, at[:, None])[:, 0] for rows, at in ((rho, 2 * last), (pairs, last)))
    tau = -1.0 + 2.0 * total + torch.where((even > 0) | (pair >= 0), even, 0.0)
    return torch.where(constant, float(size), size / tau.clamp(min=1.0 / math.log10(size)))


def _fast_length(least: int) -> int:
    """The first number from ``least`` on that has no prime factor above 5: Fourier transforms of it are quick."""
    best = 1 << (least - 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            power = three << max(0, (-(-least // three) - 1).bit_length())
            best = min(best, power) if power >= least else best
            three *= 3
        five *= 5
    return best

"""Components of a mixture by k-means and expectation maximisation in closed form: where a training begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from ebmstruct.graph import GaussianFactor

LLOYD = 10
"""Rounds of k-means."""


@dataclass(frozen=True, eq=False)
class Components:
    """log_share (K,), mean (K, D), scale (K, D) or lower triangular (K, D, D), loading (K, D, R) or None; float64."""

    log_share: Tensor
    mean: Tensor
    scale: Tensor
    loading: Tensor | None = None


def fitted(
    x: Tensor,
    components: int,
    covariance: Literal["diagonal", "full", "low_rank"],
    rank: int,
    *,
    rounds: int,
    floor: float,
    generator: Generator,
) -> Components:
    """Components of points (N, D) after k-means from spread seeds (Arthur and Vassilvitskii 2007) and rounds of EM.

    NaN in x is missing, and filled with the coordinate's mean. ``floor``, times each coordinate's variance, is added to
    every covariance, so that no component shrinks to a point. Of ``low_rank``, a round takes the leading directions of
    each component's covariance, which is not quite the maximum (Rubin and Thayer 1982), and the rest as diagonal.
    """
    middle = x.nanmean(0).nan_to_num(0.0)
    x = torch.where(x.isnan(), middle, x)
    ridge = floor * x.var(0, correction=0).clamp(min=1e-6)
    share = _nearest(x, _seeds(x / ridge.sqrt(), x, components, generator), ridge)
    found = _maximised(x, share, covariance, rank, ridge)
    for _ in range(max(0, rounds - 1)):
        gaussians = GaussianFactor(("z", "x"), "component", found.mean, found.scale, found.loading)
        log_joint = gaussians.log_densities(x) + found.log_share
        found = _maximised(x, torch.softmax(log_joint, 1), covariance, rank, ridge)
    return found


def _seeds(scaled: Tensor, x: Tensor, count: int, generator: Generator) -> Tensor:
    """(K, D): points of the data, each chosen by its squared distance to the nearest one chosen before."""
    first = int(torch.randint(x.shape[0], (), generator=generator))
    chosen, distance = [first], (scaled - scaled[first]).square().sum(1)
    while len(chosen) < count:
        weights = distance if float(distance.sum()) > 0 else torch.ones_like(distance)
        after = int(torch.multinomial(weights, 1, generator=generator))
        chosen.append(after)
        distance = torch.minimum(distance, (scaled - scaled[after]).square().sum(1))
    return x[chosen]


def _nearest(x: Tensor, centres: Tensor, ridge: Tensor) -> Tensor:
    """(N, K) weights of 0 and 1: the nearest centre after a few rounds of k-means."""
    scale = ridge.sqrt()
    share = torch.zeros(x.shape[0], centres.shape[0], dtype=x.dtype)
    for _ in range(LLOYD):
        nearest = torch.cdist(x / scale, centres / scale).argmin(1)
        share = torch.nn.functional.one_hot(nearest, centres.shape[0]).to(x.dtype)
        count = share.sum(0)[:, None]
        centres = torch.where(count > 0, share.T @ x / count.clamp(min=1), centres)
    return share


def _maximised(x: Tensor, share: Tensor, covariance: str, rank: int, ridge: Tensor) -> Components:
    """The components that fit points weighed by ``share`` (N, K) best; one that lost all points becomes the whole."""
    count = share.sum(0)
    lost = count < 1e-6 * x.shape[0] / share.shape[1]
    share = torch.where(lost, 1.0 / x.shape[0], share)
    weight = share / share.sum(0)
    mean = weight.T @ x
    log_share = (count / count.sum()).clamp(min=1e-12).log()
    if covariance == "diagonal":
        middle = x.mean(0)
        second = weight.T @ (x - middle).square() - (mean - middle).square()
        return Components(log_share, mean, (second.clamp(min=0) + ridge).sqrt())
    scales, loadings = [], []
    for k in range(share.shape[1]):
        apart = x - mean[k]
        whole = apart.T @ (apart * weight[:, k, None]) + torch.diag(ridge)
        if covariance == "full":
            scales.append(torch.linalg.cholesky(whole))
            continue
        values, directions = torch.linalg.eigh(whole)
        rest = values[:-rank].mean() if values.numel() > rank else values[0] * 0.5
        loading = directions[:, -rank:] * (values[-rank:] - rest).clamp(min=0).sqrt()
        loadings.append(loading)
        scales.append((whole.diagonal() - loading.square().sum(1)).clamp(min=ridge).sqrt())
    loading = torch.stack(loadings) if loadings else None
    return Components(log_share, mean, torch.stack(scales), loading)

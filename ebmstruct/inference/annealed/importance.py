"""Importance weights: log means with honest intervals, effective sizes, and steps of equal conditional size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LEVEL = 0.99
"""The intervals' nominal level: above the 95 % that they promise, since weights have heavier tails than they show."""


@dataclass(frozen=True, eq=False)
class LogMean:
    """The log of a mean of weights, and how far it may be off; all (B,) float64.

    value: -inf where every weight is 0.  error: its standard error.  lower, upper: an interval.
    effective: how many equal weights the weights are worth.
    """

    value: Tensor
    error: Tensor
    lower: Tensor
    upper: Tensor
    effective: Tensor


def log_mean(log_weights: Tensor) -> LogMean:
    """The log of the mean of independent weights exp(log_weights) (P, B), with an interval.

    The interval is symmetric in the logarithm (delta method), by Student's t with as many degrees of freedom as there
    are effective weights; to its upper end Johnson's (1978) correction for skewness is added, since heavy weights that
    did not come up make the mean too low; its lower end is at most log(2 / (1 - LEVEL)) below the mean, as Markov's
    inequality allows. What no particle has met does not show in it.
    """
    from scipy.special import stdtrit

    count = log_weights.shape[0]
    log_weights = torch.where(log_weights.isnan() | torch.isposinf(log_weights), -torch.inf, log_weights.double())
    top = log_weights.amax(0)
    top = torch.where(top.isfinite(), top, 0.0)
    weights = (log_weights - top).exp()
    mean = weights.mean(0)
    alive = mean > 0
    relative = weights / mean.clamp(min=1e-300)
    value = torch.where(alive, top + mean.clamp(min=1e-300).log(), -torch.inf)
    spread = (relative - 1.0).square().sum(0) / max(1, count - 1)
    error = torch.where(alive, (spread / count).sqrt(), torch.inf)
    effective = torch.where(alive, count / relative.square().mean(0).clamp(min=1e-300), 0.0)
    freedom = (effective - 1.0).clamp(min=1.0, max=max(1.0, count - 1.0))
    t = torch.from_numpy(stdtrit(freedom.numpy(), 0.5 + LEVEL / 2))
    skewness = ((relative - 1.0) ** 3).mean(0) / spread.clamp(min=1e-30) ** 1.5
    skewed = skewness.clamp(min=0.0) * (1.0 + 2.0 * t.square()) / (6.0 * count**0.5)
    reach = torch.where(alive & (error > 0), t * error, 0.0)
    rounding = 1e-9 * value.abs().clamp(min=1.0)
    upper = torch.where(alive, value + reach + torch.where(error > 0, skewed * error, 0.0) + rounding, torch.inf)
    most = torch.log(torch.tensor(2.0 / (1.0 - LEVEL), dtype=torch.float64))
    lower = torch.where(alive, value - torch.minimum(reach, most) - rounding, -torch.inf)
    return LogMean(value, error, lower, upper, effective)


def normalised(log_weights: Tensor) -> Tensor:
    """(P, B): weights that sum to 1 in each instance; equal ones where all are 0."""
    log_weights = torch.where(log_weights.isnan() | torch.isposinf(log_weights), -torch.inf, log_weights.double())
    dead = torch.isneginf(log_weights).all(0)
    return torch.softmax(torch.where(dead, 0.0, log_weights), 0)


def next_beta(beta: Tensor, log_weights: Tensor, potential: Tensor, share: float) -> Tensor:
    """(B,): how far each instance may go from ``beta`` towards 1 until the conditional effective size is ``share``.

    potential: (P, B), what a weight's logarithm gains by a step of 1. Particles whose weight would vanish count for
    nothing. Found by bisection. Source: Zhou, Johansen and Aston (2016), equation 3.7.
    """
    usable = potential.isfinite() & log_weights.isfinite()
    weights = normalised(torch.where(usable, log_weights, -torch.inf)) * usable
    potential = torch.where(usable, potential, 0.0)
    top = potential.amax(0)

    def size(step: Tensor) -> Tensor:
        gain = (step * (potential - top)).exp()
        first, second = (weights * gain).sum(0), (weights * gain * gain).sum(0)
        whole = weights.sum(0)
        return torch.where(second > 0, first * first / (second * whole).clamp(min=1e-300), 1.0)

    low, high = torch.zeros_like(beta), 1.0 - beta
    done = size(high) >= share
    for _ in range(40):
        middle = (low + high) / 2
        fine = size(middle) >= share
        low, high = torch.where(fine, middle, low), torch.where(fine, high, middle)
    return torch.where(done, 1.0, (beta + low.clamp(min=1e-6)).clamp(max=1.0))

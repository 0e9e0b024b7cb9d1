"""What samplers learn while they warm up: a step size, the scale of each coordinate, and when to look at it again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

GAIN = 0.05
"""How strongly dual averaging answers an error: gamma of Hoffman and Gelman (2014); smaller is stronger."""
DELAY = 10.0
"""How many updates the first ones are damped as if there had been before them: t_0."""
FORGETTING = 0.75
"""How fast the average of the step sizes forgets: kappa."""
OPTIMISM = 10.0
"""Step sizes are drawn towards this multiple of the first one, since a large one is cheap to try: exp(mu)."""


@dataclass(frozen=True, eq=False)
class DualAveraging:
    """The state of the search for step sizes, one for each of G groups; all tensors (G,) float64.

    log_step: of the step size to use next.  log_average: of the one to keep.  error: damped mean of target less
    acceptance.  pull: the log of what steps are drawn towards.  count: updates so far.
    """

    log_step: Tensor
    log_average: Tensor
    error: Tensor
    pull: Tensor
    count: Tensor

    @property
    def step(self) -> Tensor:
        """(G,) the step sizes to use next."""
        return self.log_step.exp()

    @property
    def average(self) -> Tensor:
        """(G,) the step sizes to keep, once warm-up is over."""
        return self.log_average.exp()


def dual_averaging(step: Tensor) -> DualAveraging:
    """The state before the first update, at step sizes (G,)."""
    log_step = step.double().log()
    zero = torch.zeros_like(log_step)
    return DualAveraging(log_step, log_step, zero, log_step + math.log(OPTIMISM), zero)


def updated(
    state: DualAveraging, acceptance: Tensor, *, target: float = 0.8, where: Tensor | None = None
) -> DualAveraging:
    """One update by acceptance probabilities (G,), so that their mean goes to ``target``.

    where: (G,) bool, the groups to update; all by default. NaN counts as an acceptance of 0.
    Source: Hoffman and Gelman (2014), section 3.2.1, equation 6.
    """
    count = state.count + 1.0
    weight = 1.0 / (count + DELAY)
    error = (1.0 - weight) * state.error + weight * (target - acceptance.double().nan_to_num(nan=0.0))
    log_step = state.pull - count.sqrt() / GAIN * error
    share = count**-FORGETTING
    average = share * log_step + (1.0 - share) * state.log_average
    new = DualAveraging(log_step, average, error, state.pull, count)
    if where is None:
        return new
    names = ("log_step", "log_average", "error", "count")
    return replace(state, **{n: torch.where(where, getattr(new, n), getattr(state, n)) for n in names})


@dataclass(frozen=True)
class Windows:
    """When scales are learnt, in draws: from ``first`` on, looked at and begun anew at each of ``ends``, rising."""

    first: int
    ends: tuple[int, ...]


def windows(warm_up: int, chains: int = 1) -> Windows:
    """Windows of a warm-up, each twice as long as the one before, after a start and before an end for steps alone.

    As in Stan (reference manual, "HMC algorithm parameters"): 75 draws at the start, 50 at the end, a first window of
    25; in a warm-up below 150 the start has 15 % of it and the end 10 %; below 20 there is no window. Where ``chains``
    share what they learn, the first window needs that many times fewer draws of each.
    """
    if warm_up < 20:
        return Windows(warm_up, ())
    short = warm_up < 150
    first = math.ceil(0.15 * warm_up) if short else 75
    last = warm_up - (math.ceil(0.1 * warm_up) if short else 50)
    size, at, ends = max(2, math.ceil(25 / chains)), first, []
    while at < last:
        end = at + size
        end = last if end + 2 * size > last else end
        ends.append(end)
        at, size = end, 2 * size
    return Windows(first, tuple(ends))


@dataclass(frozen=True, eq=False)
class Spread:
    """Running mean and sum of squared deviations of N coordinates: count (N,), mean (N,), squares (N,), float64."""

    count: Tensor
    mean: Tensor
    squares: Tensor


def spread(coordinates: int) -> Spread:
    """The state before the first draw."""
    zero = torch.zeros(coordinates, dtype=torch.float64)
    return Spread(zero, zero, zero)


def seen(state: Spread, draws: Tensor) -> Spread:
    """After draws (C, N) more, all of them at once (Welford 1962; Chan, Golub and LeVeque 1983)."""
    draws = draws.double()
    more = float(draws.shape[0])
    mean = draws.mean(0)
    squares = (draws - mean).square().sum(0)
    count = state.count + more
    apart = mean - state.mean
    return Spread(
        count, state.mean + apart * more / count, state.squares + squares + apart**2 * state.count * more / count
    )


def inverse_mass(state: Spread) -> Tensor:
    """(N,) the variances, drawn a little towards 0.001, as Stan does: what a diagonal inverse mass should be."""
    variance = state.squares / (state.count - 1.0).clamp(min=1.0)
    return (state.count * variance + 5e-3) / (state.count + 5.0)


def initial_step(
    log_acceptance: Callable[[Tensor], Tensor],
    step: Tensor,
    *,
    target: float = 0.8,
    tries: int = 40,
    stopped: Callable[[], bool] | None = None,
) -> Tensor:
    """(G,) step sizes at which one leapfrog step is accepted about as often as ``target``; within a factor of two.

    log_acceptance: of step sizes (G,), the log of the mean acceptance probability of one step of that size; NaN is 0.
    Doubles or halves each group's ``step`` until its acceptance crosses the target (Hoffman and Gelman 2014,
    algorithm 4, with Stan's 0.8 for a half), ``tries`` times at most, or until ``stopped`` says True. Cost: a call a try,
    a handful mostly.
    """
    step, level = step.double(), math.log(target)
    rising = _above(log_acceptance(step), level)
    open_groups = torch.ones_like(rising)
    for _ in range(tries):
        factor = torch.where(rising, 2.0, 0.5).to(step)
        step = torch.where(open_groups, step * factor, step)
        crossed = _above(log_acceptance(step), level) != rising
        open_groups = open_groups & ~crossed
        if not bool(open_groups.any()) or (stopped is not None and stopped()):
            break
    return step


def _above(log_acceptance: Tensor, level: float) -> Tensor:
    return log_acceptance.double().nan_to_num(nan=-torch.inf, neginf=-torch.inf) > level

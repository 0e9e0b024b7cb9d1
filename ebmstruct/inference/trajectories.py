"""A run of the no-U-turn sampler: arrays made once, and the loop of gradients and kernel calls."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Generator, Tensor

from ebmstruct.inference.adaptation import OPTIMISM, Windows, initial_step
from ebmstruct.inference.chain_rows import ChainRows
from ebmstruct.inference.local_moves import seed_state
from ebmstruct.inference.result import Budget, Status

if TYPE_CHECKING:
    from ebmstruct.inference.kernels.sampling.nuts_numba import Chains


@dataclass(frozen=True)
class Plan:
    """What a run is to do. chains: C.  warm_up, draws: of each chain.  pooled: chains of an instance learn together.

    step_size: fixed where given.  learn_mass: whether inverse masses are learnt.
    """

    chains: int
    warm_up: int
    draws: int
    max_depth: int
    target_acceptance: float
    temperature: float
    step_size: float | None
    learn_mass: bool
    pooled: bool
    windows: Windows


@dataclass(eq=False)
class Trajectories:
    """Chains of one run, R = C * B of them, chain c of instance b at c * B + b; changed in place.

    state: the arrays of the kernel.  slots: vectors of a chain.  evaluations: gradients of all chains so far.
    """

    rows: ChainRows
    plan: Plan
    state: Chains
    slots: int
    evaluations: int = 0

    @classmethod
    def begin(cls, rows: ChainRows, plan: Plan, alive: np.ndarray, generator: Generator) -> Trajectories:
        """Chains at rest at the layout's own point; ``alive`` (R,) bool says which have a finite energy there."""
        state, slots = _arrays(rows, plan, generator)
        run = cls(rows, plan, state, slots)
        state.wholes[~alive, 0] = _idle()
        if plan.step_size is None:
            step = run._search(alive, generator)
        else:
            step = np.full(state.shift.shape[0], plan.step_size)
        log = np.log(step)[state.group]
        state.learnt[:] = np.stack([log, log, 0 * log, log + math.log(OPTIMISM), 0 * log, 0 * log], 1)
        state.reals[:, 0] = step[state.group]
        return run

    def go(self, budget: Budget) -> Status:
        """Gradients and kernel calls until all chains have their draws or the budget ends; each gradient is a step."""
        from ebmstruct.inference.kernels.sampling.nuts_numba import advance

        position = torch.from_numpy(self.state.position)
        device = self.rows.base.device
        here = device.type == "cpu" and self.rows.order is None
        point = self.rows.points(position) if here else ()
        timed = budget.deadline is not None or budget.stopped is not None
        most = math.inf if budget.max_steps is None else budget.max_steps
        while True:
            if timed and budget.expired:
                return Status.DEADLINE
            if self.evaluations >= most:
                return Status.MAX_STEPS
            if not here:
                point = self.rows.points(position.to(device))
            energy, gradient = self.rows.evaluate(point)
            if not self.evaluations:
                gradient = np.where(np.isfinite(gradient), gradient, 0)  # at a kink, say: momenta lead away from there
            self.evaluations += 1
            if not advance(self.state, self.slots, energy, gradient):
                return Status.CONVERGED

    def _search(self, alive: np.ndarray, generator: Generator) -> np.ndarray:
        """(G,) step sizes to begin with, by single leapfrog steps of all chains with momenta of unit mass."""
        rows, group, beta = self.rows, torch.from_numpy(self.state.group), 1.0 / self.plan.temperature
        owner, sound = torch.from_numpy(rows.owner), torch.from_numpy(alive)
        x = torch.from_numpy(self.state.position)
        device = rows.base.device
        lower, upper = (torch.from_numpy(side).to(x) for side in self.state.walls)
        p = torch.randn(x.shape, dtype=x.dtype, generator=generator)
        energy, gradient = (torch.from_numpy(part) for part in rows.evaluate(rows.points(x.to(device))))
        gradient = gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        groups = self.state.shift.shape[0]

        def kinetic(momentum: Tensor) -> Tensor:
            return 0.5 * torch.zeros_like(energy).index_add(0, owner, momentum.double().square())

        def log_acceptance(step: Tensor) -> Tensor:
            length = step[group][owner].to(x)
            half = p - 0.5 * beta * length * gradient
            moved = x + length * half
            if lower.numel():
                moved = torch.minimum(torch.maximum(moved, lower), upper)
            above, slope = (torch.from_numpy(part) for part in rows.evaluate(rows.points(moved.to(device))))
            gain = beta * (energy - above) + kinetic(p) - kinetic(half - 0.5 * beta * length * slope)
            share = gain.clamp(max=0.0).exp().nan_to_num(nan=0.0) * sound
            count = torch.zeros(groups, dtype=torch.float64).index_add(0, group, sound.double())
            return (torch.zeros_like(count).index_add(0, group, share) / count.clamp(min=1.0)).log()

        widest = max(1, int(np.diff(rows.start).max(initial=1)))
        first = torch.full((groups,), widest**-0.25, dtype=torch.float64)
        found: np.ndarray = initial_step(log_acceptance, first, target=self.plan.target_acceptance).numpy()
        return np.clip(found, 1e-10, 1e10)

    def finished(self) -> np.ndarray:
        """(C, B) the draws that each chain has finished after its warm-up."""
        done: np.ndarray = self.state.wholes[:, 4].reshape(self.plan.chains, -1) - self.plan.warm_up
        return done

    def resting(self) -> tuple[np.ndarray, np.ndarray]:
        """(N,) where each chain stood when its last trajectory ended, and (R,) the energies over temperature there."""
        from ebmstruct.inference.kernels.sampling.nuts_numba import BEGIN, DRAW_E, DRAW_Q, PHASE

        place, energy = self.state.position.copy(), self.state.reals[:, DRAW_E].copy()
        for r, (first, after) in enumerate(zip(self.rows.start[:-1], self.rows.start[1:], strict=True)):
            if self.state.wholes[r, PHASE] != BEGIN:
                work = self.state.work[first * self.slots : after * self.slots].reshape(self.slots, -1)
                place[first:after] = work[DRAW_Q]
        return place, energy


def _idle() -> int:
    from ebmstruct.inference.kernels.sampling.nuts_numba import IDLE

    return int(IDLE)


def _arrays(rows: ChainRows, plan: Plan, generator: Generator) -> tuple[Chains, int]:
    from ebmstruct.inference.kernels.sampling.adaptation_numba import LEARNT
    from ebmstruct.inference.kernels.sampling.nuts_numba import CHECKPOINTS, REALS, VARIANCE, WHOLES, Chains

    position, start = rows.vector, rows.start
    chains, size = start.size - 1, position.size
    instances = chains // plan.chains
    groups = instances if plan.pooled else chains
    slots = CHECKPOINTS + 2 * plan.max_depth
    work = np.zeros(slots * size, position.dtype)
    for first, after in zip(start[:-1], start[1:], strict=True):
        work[first * slots : after * slots].reshape(slots, -1)[VARIANCE] = 1.0
    group_start = start[: groups + 1].astype(np.int64)
    spread = np.zeros((3, int(group_start[-1])))
    spread[2] = 1.0
    together = plan.chains if plan.pooled else 1
    ends = (plan.windows.first, *plan.windows.ends) if plan.learn_mass else (0,)
    state = Chains(
        position,
        start.astype(np.int64),
        work,
        np.zeros((chains, REALS)),
        np.zeros((chains, WHOLES), np.int64),
        seed_state(generator, chains),
        rows.walls(),
        np.arange(chains) % groups,
        np.zeros((chains, LEARNT)),
        np.zeros((groups, 1)),
        np.zeros((groups, 3), np.int64),
        np.array(ends, np.int64) * together,
        spread,
        group_start,
        np.zeros((plan.draws, size), position.dtype),
        np.zeros((plan.draws, chains, 3)),
        np.zeros((plan.draws, chains, 3), np.int64),
        np.array([plan.max_depth, plan.warm_up, plan.draws], np.int64),
        np.array([1.0 / plan.temperature, plan.target_acceptance, float(plan.step_size is None)]),
    )
    return state, slots

"""A run of the no-U-turn sampler: arrays made once, and the loop of gradients and kernel calls."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Generator, Tensor

from ebmstruct.inference.local_moves import seed_state
from ebmstruct.inference.result import Budget, Status
from ebmstruct.inference.sampling.adaptation import GAIN, OPTIMISM, Windows, initial_step
from ebmstruct.inference.sampling.chain_rows import ChainRows
from ebmstruct.inference.sampling.markov import Collected

if TYPE_CHECKING:
    from ebmstruct.inference.kernels.sampling.nuts_numba import Chains

HANDING_OVER, LOOKING, LOOKING_AT_ONE, PACKING_ONE = 6e-4, 6e-4, 3e-8, 1.5e-9
"""Seconds kept back from a deadline (measured): to hand over, to look at the draws, for each number of those there are, and
for each number that was asked."""

CALMEST = 0.4
"""Many chains that keep the mean of their steps may each answer errors more calmly: gamma grows with their root to this."""
WIDEST, ENOUGH = 256, 8
"""A full inverse mass is learnt of at most this many coordinates, and where there are this many draws for each."""


@dataclass(frozen=True)
class Plan:
    """What a run is to do. chains: C.  warm_up, draws: of each chain.  pooled: chains of an instance learn together.

    step_size: fixed where given.  learn_mass: whether inverse masses are learnt;
    full: as matrices, where there are draws enough.
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
    full: bool
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
    def begin(
        cls, rows: ChainRows, plan: Plan, energy: Tensor, generator: Generator, budget: Budget | None = None
    ) -> Trajectories:
        """Chains at rest at the layout's own point, where their energies are (R,); what is not finite stays there."""
        from ebmstruct.inference.kernels.sampling.nuts_numba import DRAW_E, IDLE, PHASE, STEP

        state, slots = _arrays(rows, plan, generator)
        run = cls(rows, plan, state, slots)
        alive = energy.isfinite().cpu().numpy()
        state.wholes[~alive, PHASE] = IDLE
        state.reals[:, DRAW_E] = energy.double().cpu().numpy() / plan.temperature
        if plan.step_size is not None:
            step = np.full(state.shift.shape[0], plan.step_size)
        else:
            step = run.first_step(alive, generator, budget or Budget()).numpy()
        log = np.log(step)[state.group]
        state.learnt[:] = np.stack([log, log, 0 * log, log + math.log(OPTIMISM), 0 * log, 0 * log], 1)
        state.reals[:, STEP] = step[state.group]
        return run

    def set_scales(self, step: Tensor, variance: Tensor) -> None:
        """Take step sizes (R,) and inverse masses (N,), instead of those that ``begin`` found."""
        from ebmstruct.inference.kernels.sampling.nuts_numba import STEP, VARIANCE

        self.state.reals[:, STEP] = step.cpu().numpy()
        scales = variance.cpu().numpy()
        for first, after in zip(self.state.start[:-1], self.state.start[1:], strict=True):
            work = self.state.work[first * self.slots : after * self.slots].reshape(self.slots, -1)
            work[VARIANCE] = scales[first:after]

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
            if timed and (budget.expired or (not self.evaluations & 7 and budget.remaining < self._reserve())):
                return Status.DEADLINE
            if self.evaluations >= most:
                return Status.MAX_STEPS
            if not self.state.start.size > 1:
                return Status.CONVERGED
            if not here:
                point = self.rows.points(position.to(device))
            energy, gradient = self.rows.evaluate(point)
            if not self.evaluations:
                gradient = np.where(np.isfinite(gradient), gradient, 0)  # at a kink, say: momenta lead away from there
            self.evaluations += 1
            if not advance(self.state, self.slots, energy, gradient):
                return Status.CONVERGED

    def _reserve(self) -> float:
        """About how many seconds it takes to hand over the draws so far, and to look at them."""
        from ebmstruct.inference.kernels.sampling.nuts_numba import DONE

        rounds = int(self.state.wholes[:, DONE].max(initial=0)) - self.plan.warm_up
        packing = HANDING_OVER + PACKING_ONE * self.plan.draws * self.state.position.size
        if rounds < 4:  # too few to be looked at
            return packing
        return packing + LOOKING + LOOKING_AT_ONE * rounds * self.state.position.size

    def first_step(self, alive: np.ndarray, generator: Generator, budget: Budget) -> Tensor:
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
        target = self.plan.target_acceptance
        found = initial_step(log_acceptance, first, target=target, stopped=lambda: budget.expired)
        return found.clamp(1e-10, 1e10)

    def collected(self, status: Status) -> tuple[Collected, Tensor]:
        """The draws so far, and (B,) how many rounds of them each instance has; where there are fewer they repeat.

        An instance without a draw shows where its chains stand.
        """
        from ebmstruct.inference.kernels.sampling import nuts_numba as k

        state, plan = self.state, self.plan
        done = np.clip(state.wholes[:, k.DONE] - plan.warm_up, 0, None).reshape(plan.chains, -1).min(0)
        rounds = max(1, int(done.max(initial=0)))
        for r in np.flatnonzero(np.tile(done < rounds, plan.chains)):
            self._repeat(int(r), int(done[r % done.size]), rounds)
        reals = torch.from_numpy(state.record_reals[:rounds]).unflatten(1, (plan.chains, -1))
        wholes = torch.from_numpy(state.record_wholes[:rounds]).unflatten(1, (plan.chains, -1)).double()
        counts = {
            "tree_depth": wholes[..., k.DRAW_DEPTH].mean((0, 1)),
            "steps_per_draw": wholes[..., k.DRAW_STEPS].mean((0, 1)),
            "deepest": (wholes[..., k.DRAW_DEPTH] >= plan.max_depth).double().mean((0, 1)),
            "step_size": torch.from_numpy(state.reals[:, k.STEP].copy()).unflatten(0, (plan.chains, -1)),
            "hamiltonian": plan.temperature * reals[..., k.HAMILTONIAN],
        }
        smooth = self.rows.smooth
        draws = self.rows.points(torch.from_numpy(state.draws[:rounds]).to(self.rows.base.device))
        found = {n: x.unflatten(1, (plan.chains, -1)) for n, x in zip(smooth.names, draws, strict=True)}
        for name, value in smooth.fixed.items():
            found[name] = value.unflatten(0, (plan.chains, -1)).expand(rounds, *[-1] * (value.dim() + 1))
        values = {name: found[name] for name in smooth.graph.variables if name in found}
        energy = plan.temperature * reals[..., k.ENERGY]
        out = Collected(
            values,
            energy,
            reals[..., k.ACCEPTANCE].mean((0, 1)),
            status,
            wholes[..., k.DIVERGED].sum((0, 1)),
            counts,
            self.evaluations,
        )
        return out, torch.from_numpy(done)

    def _repeat(self, r: int, done: int, rounds: int) -> None:
        """Fill the rows that a chain has not come to with those it has, or with where it stands."""
        from ebmstruct.inference.kernels.sampling.nuts_numba import DRAW_E, DRAW_Q, ENERGY, GROW, PHASE

        state = self.state
        first, after = state.start[r], state.start[r + 1]
        if not done:
            work = state.work[first * self.slots : after * self.slots].reshape(self.slots, after - first)
            moved = state.wholes[r, PHASE] == GROW
            state.draws[:rounds, first:after] = work[DRAW_Q] if moved else state.position[first:after]
            state.record_reals[:rounds, r, ENERGY] = state.reals[r, DRAW_E]
            return
        again = np.arange(rounds) % done
        for record in (state.record_reals, state.record_wholes):
            record[:rounds, r] = record[again, r]
        state.draws[:rounds, first:after] = state.draws[again, first:after]


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
    walls, gain = rows.walls(), min(GAIN * math.sqrt(together), CALMEST)
    full = _full(plan, group_start) if plan.learn_mass and not walls.size else np.zeros(groups, np.int64)
    factor_start = np.concatenate([[0], np.cumsum(full * np.diff(group_start) ** 2)])
    state = Chains(
        position,
        start.astype(np.int64),
        work,
        np.zeros((chains, REALS)),
        np.zeros((chains, WHOLES), np.int64),
        seed_state(generator, chains),
        walls,
        np.arange(chains) % groups,
        np.zeros((chains, LEARNT)),
        np.zeros((groups, 1)),
        np.stack([0 * full, 0 * full, 0 * full, full], 1),
        np.array(ends, np.int64) * together,
        spread,
        group_start,
        np.zeros(int(factor_start[-1])),
        np.zeros(len(plan.windows.ends) * int(factor_start[-1]), position.dtype),
        factor_start,
        np.zeros((plan.draws, size), position.dtype),
        np.zeros((plan.draws, chains, 3)),
        np.zeros((plan.draws, chains, 3), np.int64),
        np.array([plan.max_depth, plan.warm_up, plan.draws, len(plan.windows.ends)], np.int64),
        np.array([1.0 / plan.temperature, plan.target_acceptance, float(plan.step_size is None), gain]),
    )
    return state, slots


def _full(plan: Plan, group_start: np.ndarray) -> np.ndarray:
    """(G,) 0 or 1: the groups whose inverse mass is a full matrix; those whose last window has draws enough for one."""
    size = np.diff(group_start)
    ends = (plan.windows.first, *plan.windows.ends)
    last = (ends[-1] - ends[-2]) * plan.chains if len(ends) > 1 and plan.pooled else 0
    out: np.ndarray = (plan.full & (size > 1) & (size <= WIDEST) & (last >= ENOUGH * size)).astype(np.int64)
    return out

"""The path from the uniform distribution over a table view's states to exp(-E / temperature)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Generator, Tensor

from ebmstruct.inference.annealed.annealed_path import AnnealedPath
from ebmstruct.inference.local_moves import lay_out, penalty_of, seed_state, visit_nanoseconds
from ebmstruct.inference.result import Budget
from ebmstruct.inference.views.table_view import TableView

if TYPE_CHECKING:
    from ebmstruct.inference.kernels.search.sweeps_numba import Problem


def laid_out(view: TableView, temperature: float) -> Problem:
    """The view's rows for sweeps, with finite penalties in place of infinite entries."""
    hard = bool(np.isposinf(view.arrays[1]).any())
    return lay_out(view, penalty_of(view) + 10.0 * temperature if hard else None)


@dataclass(eq=False)
class TablePath(AnnealedPath):
    """P particles over the open sites of a table view; they move by heat-bath sweeps.

    The density at beta is exp(-beta * energy / temperature), where an infinite entry counts as a large finite penalty
    until the end; ``finish`` takes away the weight of particles that still break one.
    x: (P, n), and ``energies`` (P, B) of ``x``, changed in place.  random: (P, 1).
    """

    view: TableView
    problem: Problem
    temperature: float
    sweeps: int
    x: np.ndarray
    random: np.ndarray
    energies: np.ndarray

    @classmethod
    def begin(
        cls,
        view: TableView,
        problem: Problem,
        temperature: float,
        particles: int,
        sweeps: int,
        generator: Generator | None,
    ) -> TablePath:
        """Particles drawn uniformly; ``problem`` is the view ``laid_out``."""
        random = seed_state(generator, particles + 1)
        rng = np.random.default_rng(int(random[-1, 0]))
        x = rng.integers(0, view.num_states, (particles, view.num_sites)).astype(np.int64)
        energies = np.zeros((particles, view.num_instances))
        path = cls(view, problem, temperature, sweeps, x, random[:-1].copy(), energies)
        path._sweep(np.full(view.num_instances, np.inf), 0, Budget())
        return path

    @property
    def potential(self) -> Tensor:
        return torch.from_numpy(-self.energies / self.temperature)

    @property
    def log_start(self) -> Tensor:
        """The log of the number of states, less the energy of closed sites."""
        own = np.bincount(self.view.instance, np.log(self.view.num_states), self.view.num_instances)
        return torch.from_numpy(own) - self.view.constant.detach().double() / self.temperature

    def move(self, beta: Tensor, budget: Budget, *, tune: bool = False) -> None:
        inverse = beta.numpy() / self.temperature
        temperatures = np.where(inverse > 0, 1.0 / np.maximum(inverse, 1e-300), np.inf)
        self._sweep(temperatures, self.sweeps, budget)

    def _sweep(self, temperatures: np.ndarray, sweeps: int, budget: Budget) -> None:
        from ebmstruct.inference.kernels.search.annealed_numba import sweep_particles

        each = visit_nanoseconds(self.view) * max(1, self.view.num_sites) * max(1, sweeps)
        piece, scratch = max(1, int(5e6 / each)), np.zeros(int(self.view.num_states.max(initial=1)))
        for begin in range(0, self.x.shape[0], piece):
            if begin and budget.expired:
                return
            some = slice(begin, begin + piece)
            sweep_particles(
                self.problem, self.x[some], self.view.instance, temperatures, self.random[some], sweeps, scratch,
                self.energies[some],
            )  # fmt: skip

    def finish(self, log_weights: Tensor) -> Tensor:
        if not np.isposinf(self.view.arrays[1]).any():
            return log_weights
        broken = np.stack([np.isposinf(self.view.energy(own)) for own in self.x])
        open_instances = np.isfinite(self.view.constant.detach().numpy())
        return log_weights.masked_fill(torch.from_numpy(broken & open_instances), -torch.inf)

    @property
    def draws(self) -> dict[str, Tensor]:
        return self.view.expand(self.x)

    def expectations(self, weights: Tensor) -> dict[str, Any]:
        own = weights.numpy()[:, self.view.instance]
        states = (self.view.starts[:-1] + self.x).reshape(-1)
        flat = np.bincount(states, own.reshape(-1), int(self.view.starts[-1]))
        return {"beliefs": self.view.expand_beliefs(torch.from_numpy(flat))}

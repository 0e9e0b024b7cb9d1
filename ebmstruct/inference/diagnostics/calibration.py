"""How far the measured gaps of amortised answers can be trusted: against what the solver behind them finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from ebmstruct.graph import FactorGraph
from ebmstruct.inference.result import Budget
from ebmstruct.inference.solvers import AmortisedInference

QUANTILES = (0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True, eq=False)
class GapCalibration:
    """Gaps and losses of guesses, one entry an instance: (B,) float64.

    share: the measured gap as a share of max(1, |energy|), which is what a tolerance is held against.
    excess: the energy of the answer less that of the reference; negative where the guess is better.
    """

    share: Tensor
    excess: Tensor

    def accepted(self, tolerance: float) -> float:
        """The share of the instances that would not fall back."""
        return float((self.share <= tolerance).double().mean()) if self.share.numel() else 1.0

    def quantiles(self, tolerance: float) -> tuple[float, ...]:
        """The median, 90 %, 99 % and largest excess among accepted answers; NaN where none is accepted."""
        kept = self.excess[self.share <= tolerance]
        kept = kept[kept.isfinite()]
        if not kept.numel():
            return (float("nan"),) * len(QUANTILES)
        return tuple(kept.quantile(torch.tensor(QUANTILES, dtype=kept.dtype)).tolist())

    def table(self, tolerances: Sequence[float]) -> str:
        """A markdown table: for each tolerance the share accepted and what the accepted answers lose."""
        names = ["median", "90 %", "99 %", "largest"]
        lines = ["| tolerance | accepted | " + " | ".join(f"excess, {n}" for n in names) + " |"]
        lines.append("|" + " --- |" * (2 + len(names)))
        for tolerance in tolerances:
            cells = [f"{100 * self.accepted(tolerance):.1f} %", *(f"{q:.3g}" for q in self.quantiles(tolerance))]
            lines.append(f"| {tolerance:g} | " + " | ".join(cells) + " |")
        return "\n".join(lines)


def gap_calibration(
    graph: FactorGraph,
    solver: AmortisedInference | None = None,
    *,
    budget: Budget | None = None,
    generator: Generator | None = None,
) -> GapCalibration:
    """Answer by the guess alone and by the solver's fallback alone, and hold one against the other.

    graph: with a first guess; held-out inputs, since a network knows those that it was trained on.
    Cost: the fallback's on every instance. Errors: SolverRefusal where one of both refuses.
    """
    from ebmstruct.inference.engine import minimize
    from ebmstruct.inference.nested import named_solver

    solver = AmortisedInference() if solver is None else solver
    guessed = minimize(graph, replace(solver, tolerance=float("inf")), generator=generator)
    behind = named_solver(solver.fallback, solver.fallback_options)
    reference = minimize(graph.with_guess(None), behind, budget=budget, generator=generator)
    scale = guessed.energy.abs().clamp(min=1.0)
    return GapCalibration(guessed.stats["measured_gap"] / scale, guessed.energy - reference.energy)

"""Gaussian integrals over long linear latents, such as the states of a linear system: by banded or sparse factors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.result import Ask, Query, Result
from ebmstruct.inference.smooth_energy import starting_point

Values = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class LinearIntegral:
    """-T log of the integral of exp(-E / T) over latents in which residuals are stated to be affine.

    The curvature does not depend on other continuous values, so that the derivative by these is that of the energy at the
    mode. Exact; +inf curvature or a singular one makes NaN. Cost: a factor of the latents' J^T J in its band, or sparse.
    """

    graph: FactorGraph
    around: FactorGraph
    names: tuple[str, ...]
    temperature: float

    @classmethod
    def of(cls, graph: FactorGraph, names: tuple[str, ...], temperature: float) -> LinearIntegral:
        """The integral over ``names``; ``around`` is the graph of the factors that look at them."""
        touching = [f for f in graph.factors if set(f.scope) & set(names)]
        around = FactorGraph(tuple(graph.variables.values()), touching, evidence=graph.evidence)
        return cls(graph, around, names, temperature)

    @property
    def exact(self) -> bool:
        """Always: the integral is a Gaussian one."""
        return True

    def conditioned(self, given: Values) -> FactorGraph:
        """The factors that look at the latents, everything else clamped."""
        others = {n: v.detach() for n, v in self.around.complete({**given, **self._nothing()}).items()}
        return self.around.condition(Assignment({n: v for n, v in others.items() if n not in self.names}))

    def mode(self, given: Values, latent: Values) -> dict[str, Tensor]:
        """The latent values of least energy."""
        from ebmstruct.inference.solvers import Gaussian

        start = Assignment({n: latent[n] for n in self.names})
        with torch.no_grad():
            found = Gaussian().solve(self.conditioned(given), Query(Ask.MINIMIZE), init=start)
        assert isinstance(found, Result)
        return {n: found.assignment[n] for n in self.names}

    def free(self, given: Values, mode: Values) -> Tensor:
        """(B,) the free energy, differentiable in ``given``; NaN where the curvature is singular."""
        from ebmstruct.inference.solvers import Gaussian

        energy = self.graph.energy({**given, **mode})
        with torch.no_grad():
            total = -self.temperature * Gaussian().log_partition(self.conditioned(given), self.temperature)
            rest = total - self.around.energy({**given, **mode})
            rest = torch.where(rest.isfinite(), rest, torch.nan)
        out: Tensor = energy + rest
        return out

    def _nothing(self) -> dict[str, Tensor]:
        """Values of the latents, which evidence needs and nothing looks at."""
        return {n: v for n, v in starting_point(self.around, None).items() if n in self.names}

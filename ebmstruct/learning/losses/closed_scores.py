"""Scores and curvature in closed form, of energies whose factors know their derivatives."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ebmstruct.graph import Real, Slope
from ebmstruct.learning.losses.output_energy import OutputEnergy, continuous_outputs
from ebmstruct.learning.losses.scores import by_instance


def closed_objective(energy: OutputEnergy, values: Mapping[str, Tensor]) -> Tensor | None:
    """(B,) float64: the exact objective of score matching, sum_i s_i^2 / 2 + ds_i/dy_i, without a derivative by y.

    Where the only output is one unbounded block of ``Real``, known throughout, and every factor that looks at it offers
    ``slope_and_laplacian``; None elsewhere. Cost: that of the slopes, whatever the number of coordinates.
    """
    names = continuous_outputs(energy)
    if energy.latent or energy.allowed or len(names) != 1 or len(energy.outputs) != 1:
        return None
    name = names[0]
    domain = energy.graph.variables[name].domain
    if not isinstance(domain, Real) or domain.bounded or not bool(energy.outputs[name].all()):
        return None
    found = _summed(energy, name, values[name].detach())
    if found is None:
        return None
    slope, curvature = found
    rows = slope.square().sum(1) * (0.5 / energy.temperature**2) - curvature / energy.temperature
    return by_instance(rows, energy.graph.variables[name])


def _summed(energy: OutputEnergy, name: str, value: Tensor) -> Slope | None:
    """The slopes and Laplacians of all factors that look at a block, added; None where one has none in closed form."""
    total: Slope | None = None
    for factor in energy.graph.factors:
        if name not in factor.scope:
            continue
        part = factor.slope_and_laplacian([value], [energy.graph.variables[n] for n in factor.scope])
        if part is None:
            return None
        total = part if total is None else (total[0] + part[0], total[1] + part[1])
    return total

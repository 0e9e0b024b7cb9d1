"""What an assignment might still gain, by one look at every change of a single discrete site."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ebmstruct.graph import BlockFactor, Discrete, FactorGraph
from ebmstruct.graph.relaxation import relaxation_refusal
from ebmstruct.inference.descent.penalty import penalised
from ebmstruct.inference.descent.simplex_descent import RelaxedEnergy
from ebmstruct.inference.smooth_energy import clamped


@dataclass(frozen=True, eq=False)
class Promise:
    """What single changes promise of an assignment; (B,) float64 and one entry an open discrete site.

    energy: of the assignment.  total: the sum over sites of what the best change of each promises alone; infinite
    where the energy is, NaN where something is not a number.  gains: for each open block (n,) what the best change of
    a site promises, at least 0.  states: for each open block (n,) long, the state that promises it.
    """

    energy: Tensor
    total: Tensor
    gains: dict[str, Tensor]
    states: dict[str, Tensor]


def promise(graph: FactorGraph, values: dict[str, Tensor]) -> Promise:
    """How far the energy of ``values`` would fall if each site alone took its best state, to first order.

    The total is the gap of Frank and Wolfe (Jaggi 2013, section 2) of the relaxed energy at a corner. Where the relaxed
    energy is convex, no assignment lies lower by more; elsewhere it is a measure, not a bound. Tables, chains, grids and
    residuals are linear in the weights of each site, so that each gain is that of the change itself.
    Cost: for functions of weights one relaxed energy with its gradient; else one look-up for each state of each site.
    """
    names = [
        n
        for n, v in graph.variables.items()
        if isinstance(v.domain, Discrete) and v.num_sites and not clamped(graph, n)
    ]
    functions = any(isinstance(f, BlockFactor) and set(f.scope) & set(names) for f in graph.factors)
    if functions and relaxation_refusal(graph) is None:
        energy, rows = _by_gradient(graph, values, names)
    else:
        energy = graph.energy(values)
        rows = {name: graph.conditionals(name, values) for name in names}
    total = torch.zeros(graph.num_instances, dtype=torch.float64)
    gains, states = {}, {}
    for name, row in rows.items():
        here = row.gather(1, values[name][:, None])[:, 0]
        least, best = row.nan_to_num(nan=-torch.inf).min(1)
        gain = torch.where(torch.isposinf(here), torch.where(torch.isposinf(least), 0.0, torch.inf), here - least)
        gains[name], states[name] = gain.double().clamp(min=0.0), best
        total = total.index_add(0, graph.variables[name].instance, gains[name])
    total = torch.where(torch.isposinf(energy), torch.inf, total)
    return Promise(energy, total.masked_fill(energy.isnan() | torch.isneginf(energy), torch.nan), gains, states)


def _by_gradient(graph: FactorGraph, values: dict[str, Tensor], names: list[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """The energy, and the gradient of the relaxed energy at a corner; infinite at states that are not legal."""
    soft, penalty = penalised(graph)
    function = RelaxedEnergy.of(soft, {n: v for n, v in values.items() if n not in names})
    corner = [
        torch.nn.functional.one_hot(values[n], legal.shape[1]).to(function.dtype)
        for n, legal in zip(function.names, function.legal, strict=True)
    ]
    relaxed, gradient = function.with_gradient(corner)
    rows = {
        n: g.masked_fill(~legal, torch.inf)
        for n, g, legal in zip(function.names, gradient, function.legal, strict=True)
    }
    return (graph.energy(values) if penalty else relaxed.double()), rows

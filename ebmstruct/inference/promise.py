"""What an assignment might still gain, by one look at every change of a single discrete site."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ebmstruct.graph import BlockFactor, Discrete, FactorGraph
from ebmstruct.graph.factors import indicators
from ebmstruct.graph.relaxation import relaxation_refusal
from ebmstruct.inference.descent.simplex_descent import RelaxedEnergy
from ebmstruct.inference.penalties import penalised
from ebmstruct.inference.smooth_energy import ENGINE, clamped


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


class SingleChanges:
    """How far the energy of an assignment would fall if each site alone took its best state, to first order.

    The total is the gap of Frank and Wolfe (Jaggi 2013, section 2) of the relaxed energy at a corner. Where the relaxed
    energy is convex, no assignment lies lower by more; elsewhere it is a measure, not a bound. Tables, chains, grids and
    residuals are linear in the weights of each site, so that each gain is that of the change itself.
    Made once for a graph. Cost of a look: for functions of weights one relaxed energy with its gradient; else one
    look-up for each state of each site.

    continuous: values of the continuous blocks, which stay as they are.
    """

    def __init__(self, graph: FactorGraph, continuous: Mapping[str, Tensor]) -> None:
        self.graph = graph
        self.names = tuple(
            n
            for n, v in graph.variables.items()
            if isinstance(v.domain, Discrete) and v.num_sites and not clamped(graph, n)
        )
        self.function: RelaxedEnergy | None = None
        self.exact = True
        self.direct = _only_function(graph)
        opened = set(self.names)
        functions = any(isinstance(f, BlockFactor) and opened.intersection(f.scope) for f in graph.factors)
        if self.direct is None and functions and relaxation_refusal(graph) is None:
            soft, penalty = penalised(graph)
            self.function = RelaxedEnergy.of(soft, dict(continuous))
            self.exact = not penalty

    def __call__(self, values: Mapping[str, Tensor]) -> Promise:
        """The promise of an assignment with values of every block."""
        energy, rows = self._measured(values)
        total: Tensor | None = None
        gains, states = {}, {}
        for name, row in zip(self.names, rows, strict=True):
            here = row.gather(1, values[name][:, None])[:, 0]
            least, states[name] = row.min(1)
            gains[name] = (here - least).double()
            part = self.graph.variables[name].sum_sites(gains[name])
            total = part if total is None else total + part
        if total is None:
            total = torch.zeros_like(energy)
        if not math.isfinite(float((energy + total).sum())):  # forbidden states, or no numbers at all, somewhere
            gains, total = self._without_forbidden(values, rows, gains, energy)
        return Promise(energy, total, gains, states)

    def _without_forbidden(
        self, values: Mapping[str, Tensor], rows: list[Tensor], gains: dict[str, Tensor], energy: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Gains and totals once more: a site with no legal state promises nothing, and odd energies mark the total."""
        total = torch.zeros_like(energy)
        out = {}
        for name, row in zip(self.names, rows, strict=True):
            here = row.gather(1, values[name][:, None])[:, 0]
            none = torch.isposinf(here) & torch.isposinf(row.amin(1))
            out[name] = torch.where(none, 0.0, gains[name])
            total = total + self.graph.variables[name].sum_sites(out[name])
        odd = torch.where(torch.isposinf(energy), torch.inf, torch.nan)
        return out, torch.where(energy.isfinite(), total, odd)

    def _measured(self, values: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The energy and, for each block, what the states of each site cost."""
        if self.direct is not None:
            return self._of_one_function(self.direct, values)
        return self._by_look_up(values) if self.function is None else self._by_gradient(self.function, values)

    def _of_one_function(self, factor: BlockFactor, values: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The energy and its gradient, where nothing but one function of one open block counts: a few operations."""
        (name,) = factor.scope
        block = self.graph.variables[name]
        with torch.enable_grad():
            corner = indicators(values[name], block, factor.precision).requires_grad_(True)
            energy = factor.relaxed_instance_energies([corner], (block,))
            if not energy.requires_grad:
                return energy.double(), [torch.zeros_like(corner)]
            # torch.autograd.grad does no more than this; its checks are felt where instances come one by one
            (gradient,) = ENGINE.run_backward(
                (energy,),
                (torch.ones_like(energy),),
                False,
                False,
                (corner,),
                allow_unreachable=True,
                accumulate_grad=False,
            )
        return energy.detach().double(), [torch.zeros_like(corner) if gradient is None else gradient]

    def _by_look_up(self, values: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The energy and, for each block, the energies of each site's states given the rest."""
        return self.graph.energy(values), [self.graph.conditionals(name, values) for name in self.names]

    def _by_gradient(self, function: RelaxedEnergy, values: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The energy and the gradient of the relaxed energy at a corner, infinite at states that are not legal."""
        corner = []
        for name, legal in zip(function.names, function.legal, strict=True):
            none = torch.zeros(legal.shape, dtype=function.dtype)
            corner.append(none.scatter_(1, values[name][:, None], 1.0))
        relaxed, gradient = function.with_gradient(corner)
        rows = [torch.where(legal, g, torch.inf) for g, legal in zip(gradient, function.legal, strict=True)]
        return (relaxed.double() if self.exact else self.graph.energy(values)), rows


def _only_function(graph: FactorGraph) -> BlockFactor | None:
    """The function of weights that is the whole energy of a graph of one open block of equal sites; None elsewhere."""
    if graph.evidence is not None or graph.constant is not None or len(graph.factors) != 1 or len(graph.variables) != 1:
        return None
    (factor,) = graph.factors
    (block,) = graph.variables.values()
    fits = isinstance(block.domain, Discrete) and block.domain.uniform and block.num_sites > 0
    return factor if fits and isinstance(factor, BlockFactor) and factor.relaxed and len(factor.scope) == 1 else None

"""The energy of a graph as a smooth function of its open continuous blocks, everything else being clamped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Variable

from ebmstruct.errors import GraphError, SolverRefusal
from ebmstruct.graph import (
    Assignment,
    BlockFactor,
    Continuous,
    Discrete,
    FactorGraph,
    FunctionTableFactor,
    Real,
    ResidualFactor,
    Variables,
)

ENGINE = Variable._execution_engine  # type: ignore[attr-defined]
"""What computes gradients for ``torch.autograd.grad``, without its checks."""

Point = tuple[Tensor, ...]
"""Values of the open continuous blocks, (n, d) each, in the order of ``SmoothEnergy.names``."""
Step = tuple[Tensor, ...]
"""Tangent vectors at a point, (n, t) each."""


def open_continuous(graph: FactorGraph) -> list[Variables]:
    """The continuous blocks that the evidence does not clamp whole."""
    return [v for v in graph.variables.values() if isinstance(v.domain, Continuous) and not clamped(graph, v.name)]


def clamped(graph: FactorGraph, block: str) -> bool:
    """Whether the evidence clamps every site of a block."""
    fixed = graph.evidence
    return fixed is not None and block in fixed.values and (block not in fixed.known or bool(fixed.known[block].all()))


def smooth_refusal(graph: FactorGraph) -> str | None:
    """Why no gradient method can work on a graph as it is; None where it has open continuous blocks and nothing else."""
    for block in graph.variables.values():
        if isinstance(block.domain, Discrete) and block.num_sites and not clamped(graph, block.name):
            return f"block {block.name!r} is discrete and not clamped; gradients move continuous blocks only"
    if not open_continuous(graph):
        return "no continuous block is open: there is nothing to move"
    return None


def constraint_labels(graph: FactorGraph) -> list[str]:
    """Labels of the factors that are constraints."""
    return [f.label for f in graph.factors if isinstance(f, ResidualFactor) and f.constraint]


def starting_point(graph: FactorGraph, init: Assignment | None) -> dict[str, Tensor]:
    """Values of every block that is continuous or clamped: ``init`` where it speaks, else each domain's own start.

    The precision is that of ``init``, else that of the factors' values, else float64 (float32 where a function
    without inputs hides its own). Values outside a domain are brought into it.
    """
    dtype = precision(graph)
    out: dict[str, Tensor] = {}
    for name, block in graph.variables.items():
        if isinstance(block.domain, Discrete):
            continue
        given = init.get(name) if init is not None else None
        if given is not None:
            if given.shape[0] != block.num_sites:
                raise GraphError(f"init has {given.shape[0]} values for block {name!r}; it has {block.num_sites} sites")
            block.domain.check(name, given)
        value = block.domain.start(block.num_sites, dtype) if given is None else block.domain.project(given.detach())
        out[name] = value.to(block.offsets.device)
    fixed = graph.evidence
    for name in fixed.values if fixed is not None else ():
        assert fixed is not None
        clamp, mask = fixed.values[name], fixed.known.get(name)
        if mask is None or name not in out:
            out[name] = clamp
        else:
            out[name] = torch.where(mask[:, None], clamp.to(out[name].dtype), out[name])
    return out


def precision(graph: FactorGraph) -> torch.dtype:
    """The precision of a graph's continuous values: that of the evidence, else of the factors' values, else float64."""
    if graph.evidence is not None:
        for name, value in graph.evidence.values.items():
            if value.is_floating_point() and isinstance(graph.variables[name].domain, Continuous):
                return value.dtype
    found: torch.dtype | None = None
    hidden = False
    for factor in graph.factors:
        held: tuple[Any, ...] = factor.values()
        for value in held:
            for tensor in value if isinstance(value, tuple) else (value,):
                if tensor is not None and tensor.is_floating_point():
                    found = tensor.dtype if found is None else torch.promote_types(found, tensor.dtype)
        hidden = hidden or (isinstance(factor, (BlockFactor, FunctionTableFactor)) and not factor.inputs)
    if found is not None:
        return found
    return torch.get_default_dtype() if hidden else torch.float64


@dataclass(frozen=True, eq=False)
class SmoothEnergy:
    """E as a function of a point; built once a run, so that a step costs little beside the energy itself.

    fixed: values of all blocks that are not in ``names``. names, domains: the open continuous blocks.
    instances: for each of them (n,) long, or None where site b belongs to instance b.
    moving: for each of them (n, 1) bool of the sites that may move, or None where all may.
    """

    graph: FactorGraph
    fixed: dict[str, Tensor]
    names: tuple[str, ...]
    domains: tuple[Continuous, ...]
    instances: tuple[Tensor | None, ...]
    moving: tuple[Tensor | None, ...]

    @classmethod
    def of(cls, graph: FactorGraph, values: dict[str, Tensor]) -> SmoothEnergy:
        """The energy of a graph whose blocks other than the open continuous ones have ``values``."""
        blocks = open_continuous(graph)
        names = tuple(b.name for b in blocks)
        instances: list[Tensor | None] = []
        moving: list[Tensor | None] = []
        for block in blocks:
            same = block.num_sites == block.num_instances and bool((block.lengths == 1).all())
            instances.append(None if same else block.instance)
            known = None if graph.evidence is None else graph.evidence.known.get(block.name)
            moving.append(None if known is None or not bool(known.any()) else ~known[:, None])
        fixed = {n: v for n, v in values.items() if n not in names}
        domains = tuple(b.domain for b in blocks if isinstance(b.domain, Continuous))
        return cls(graph, fixed, names, domains, tuple(instances), tuple(moving))

    @cached_property
    def flat(self) -> bool:
        """Whether every block is a vector space without bounds, all of it open: steps are plain additions."""
        free = all(isinstance(d, Real) and not d.bounded for d in self.domains)
        return free and all(m is None for m in self.moving)

    @cached_property
    def _direct(self) -> BlockFactor | None:
        """The only factor, where it is a function of the open blocks in their order and nothing is added to it."""
        if len(self.graph.factors) != 1 or self.graph.constant is not None or self.graph.evidence is not None:
            return None
        (factor,) = self.graph.factors
        return factor if isinstance(factor, BlockFactor) and factor.scope == self.names else None

    @cached_property
    def _call(self) -> tuple[Callable[..., Tensor], tuple[object, ...]] | None:
        """The function of the only factor, and what it takes beside the point; None where there is more than that."""
        direct = self._direct
        return None if direct is None else (direct.function, (*direct.inputs, self._offsets))

    @cached_property
    def _offsets(self) -> tuple[Tensor, ...]:
        return tuple(v.offsets for v in self.graph.scope(self.graph.factors[0]))

    def __call__(self, point: Sequence[Tensor]) -> Tensor:
        """(B,) energies, in the model's own precision, differentiable in the point."""
        if self._call is not None:
            return self._call[0](*point, *self._call[1])
        return self.graph.energy({**self.fixed, **dict(zip(self.names, point, strict=True))})

    def with_gradient(self, point: Sequence[Tensor]) -> tuple[Tensor, Step]:
        """(B,) energies without a record, and their gradient by a step from the point; zero at clamped sites.

        Errors: SolverRefusal where the energy has no gradient.
        """
        if not torch.is_grad_enabled():  # entering the context costs as much as a small tensor operation
            with torch.enable_grad():
                return self.with_gradient(point)
        leaves = tuple([x.detach().requires_grad_() for x in point])
        direct = self._call
        energy: Tensor = self(leaves) if direct is None else direct[0](*leaves, *direct[1])
        if not energy.requires_grad:
            raise SolverRefusal(self._not_differentiable())
        # torch.autograd.grad does no more than this, but its checks cost a tenth of the gradient of a small energy
        found = ENGINE.run_backward(
            (energy,), (self._ones(energy),), False, False, leaves, allow_unreachable=True, accumulate_grad=False
        )
        if self.flat and found[0] is not None and (len(found) == 1 or not any([g is None for g in found])):
            return energy.detach(), found
        gradient = []
        for x, g, domain, moving in zip(point, found, self.domains, self.moving, strict=True):
            part = torch.zeros_like(x) if g is None else g
            if not isinstance(domain, Real):
                part = domain.pull_back(x, part)
            gradient.append(part if moving is None else part * moving)
        return energy.detach(), tuple(gradient)

    def _ones(self, energy: Tensor) -> Tensor:
        ones: Tensor | None = self.__dict__.get("ones")
        if ones is None or ones.dtype != energy.dtype or ones.shape != energy.shape:
            ones = torch.ones_like(energy)
            self.__dict__["ones"] = ones
        return ones

    def _not_differentiable(self) -> str:
        labels = [f.label for f in self.graph.factors if set(f.scope) & set(self.names)]
        return (
            f"the energy does not depend on {list(self.names)} in a way that torch can differentiate (factors {labels}); "
            "a gradient method needs an energy written in torch operations, without detach or numpy"
        )

    def retract(self, point: Sequence[Tensor], step: Sequence[Tensor]) -> Point:
        """The point that a step leads to, inside the bounds of its blocks."""
        if self.flat:
            return tuple(x + s for x, s in zip(point, step, strict=True))
        return tuple(
            d.project(d.retract(x, s)) if isinstance(d, Real) else d.retract(x, s)
            for d, x, s in zip(self.domains, point, step, strict=True)
        )

    def dot(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """(B,) inner products of two tangent vectors, instance by instance."""
        out: Tensor | None = None
        for x, y, instance in zip(a, b, self.instances, strict=True):
            part = (x * y).sum(-1)
            if instance is not None:
                part = part.new_zeros(self.graph.num_instances).index_add(0, instance, part)
            out = part if out is None else out + part
        assert out is not None
        return out

    def spread(self, rows: Tensor) -> list[Tensor]:
        """For each block (n, 1): the entry of ``rows`` (B,) that belongs to each site's instance."""
        return [(rows if i is None else rows[i])[:, None] for i in self.instances]

    def where(self, taken: Tensor, new: Sequence[Tensor], old: Sequence[Tensor]) -> Point:
        """In each instance the new values where ``taken`` (B,) bool, else the old ones."""
        return tuple(torch.where(t, x, y) for t, x, y in zip(self.spread(taken), new, old, strict=True))

    def values(self, point: Sequence[Tensor]) -> dict[str, Tensor]:
        """Values of every block: the point's and the fixed ones, clamped sites at what they are clamped to."""
        return {**self.fixed, **dict(zip(self.names, point, strict=True))}

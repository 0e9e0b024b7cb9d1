"""The score of an energy: its derivatives by steps of the continuous outputs, and what of its curvature losses need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ebmstruct.errors import LossRefusal
from ebmstruct.graph import SE2, SE3, SO2, SO3, Continuous, FactorGraph, Real, ResidualFactor, Variables
from ebmstruct.learning.losses.output_energy import OutputEnergy, continuous_outputs, discrete_outputs

GROUPS = (SO2, SO3, SE2, SE3)
"""Domains whose steps are one-parameter groups and whose volume is invariant, so that integration by parts holds."""


def score_refusal(energy: OutputEnergy) -> str | None:
    """Why an energy's outputs have no score, in one sentence; None where they have one."""
    graph = energy.graph
    discrete = discrete_outputs(energy)
    if discrete:
        return (
            f"the target knows discrete block {discrete[0]!r}, which has no score; clamp it by graph.condition where it is "
            "given, leave it unknown to sum it out, or take noise_contrastive_estimation"
        )
    names = continuous_outputs(energy)
    if not names:
        return "the target knows no open continuous block; ratio_matching is for discrete ones"
    for name in names:
        domain = graph.variables[name].domain
        if not isinstance(domain, (Real, *GROUPS)):
            return f"block {name!r} holds points of {domain}, on which integration by parts is not known to hold"
    for factor in graph.factors:
        if isinstance(factor, ResidualFactor) and factor.constraint and set(factor.scope) & set(names):
            return f"factor {factor.label!r} is a constraint, at whose border a density ends and the formula fails"
    return None


def by_instance(rows: Tensor, block: Variables) -> Tensor:
    """(B,) float64: sums over each instance's sites of ``rows`` (n,), with a record for any number of derivatives."""
    if rows.shape[0] == block.num_instances and bool((block.lengths == 1).all()):
        return rows.double()
    return rows.new_zeros(block.num_instances, dtype=torch.float64).index_add(0, block.instance, rows.double())


def normal_like(step: Tensor, generator: Generator) -> Tensor:
    """Standard normal numbers of a tensor's shape and type, drawn where the generator lives."""
    drawn = torch.randn(step.shape, generator=generator, dtype=step.dtype, device=generator.device)
    return drawn.to(step.device)


def signs_like(step: Tensor, generator: Generator) -> Tensor:
    """Numbers -1 and 1, each as likely, of a tensor's shape and type."""
    drawn = torch.randint(2, step.shape, generator=generator, device=generator.device)
    return (2 * drawn - 1).to(step)


@dataclass(frozen=True, eq=False)
class Scored:
    """An energy with its derivative at a point.

    values: where, of all blocks.  names: the continuous outputs.  steps: what was differentiated by, a leaf (n, t) each.
    gradient: (n, t) each, the derivative of E / T by a step, 0 at sites that are no outputs; with a record.
    """

    energy: OutputEnergy
    values: Mapping[str, Tensor]
    names: tuple[str, ...]
    steps: tuple[Tensor, ...]
    gradient: tuple[Tensor, ...]

    @classmethod
    def at(cls, energy: OutputEnergy, values: Mapping[str, Tensor]) -> Scored:
        """The derivative at ``values``. Errors: LossRefusal where the energy has none."""
        names = tuple(continuous_outputs(energy))
        with torch.enable_grad():
            steps, moved = [], dict(values)
            for name in names:
                domain, value = _domain(energy.graph, name), values[name].detach()
                if isinstance(domain, Real):  # a step is an addition: the point itself serves as the leaf
                    steps.append(value.requires_grad_())
                    moved[name] = steps[-1]
                else:
                    steps.append(value.new_zeros(value.shape[0], domain.tangent_dim).requires_grad_())
                    moved[name] = domain.retract(value, steps[-1])
            total = energy(moved).sum() / energy.temperature
            if not total.requires_grad:
                raise LossRefusal(
                    f"the energy has no derivative by {list(names)}; write it in torch, without detach or numpy"
                )
            found = _derivatives(total, steps, names)
        gradient = []
        for name, part in zip(names, found, strict=True):
            mask = energy.outputs[name]
            gradient.append(part if bool(mask.all()) else part * mask[:, None])
        return cls(energy, dict(values), names, tuple(steps), tuple(gradient))

    @property
    def blocks(self) -> list[Variables]:
        """The blocks of ``names``."""
        return [self.energy.graph.variables[n] for n in self.names]

    def sums(self, parts: Sequence[Tensor]) -> Tensor:
        """(B,) float64: sums over each instance's coordinates of (n, t) tensors, one for each block."""
        pieces = [by_instance(p.sum(1), b) for p, b in zip(parts, self.blocks, strict=True)]
        return torch.stack(pieces).sum(0) if len(pieces) > 1 else pieces[0]

    def product(self, along: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The Hessian of E / T times a direction (n, t) each, with a record. Errors: LossRefusal where there is none."""
        with torch.enable_grad():
            total = torch.stack([(g * v).sum() for g, v in zip(self.gradient, along, strict=True)]).sum()
            if not total.requires_grad:
                self._check_linear(along)
                return tuple(torch.zeros_like(s) for s in self.steps)
            return tuple(_derivatives(total, self.steps, self.names))

    def _check_linear(self, along: Sequence[Tensor]) -> None:
        """Raise LossRefusal unless the slope, which came without a record, is the same a step away."""
        moved = dict(self.values)
        for name, v in zip(self.names, along, strict=True):
            moved[name] = _domain(self.energy.graph, name).retract(moved[name].detach(), 0.1 * v)
        other = Scored.at(self.energy, moved).gradient
        if not all(torch.allclose(a, b, 1e-4, 1e-6) for a, b in zip(self.gradient, other, strict=True)):
            raise LossRefusal(_ONCE.format(list(self.names)))


_ONCE = "the energy can be differentiated once only by {}, and scores need more; write it in plain torch operations"


def released(value: Tensor, *made_of: Scored) -> Tensor:
    """A value made of gradients, without its record where that leads to no parameter but only back to the steps."""
    steps = {id(s) for scored in made_of for s in scored.steps}
    seen: set[object] = set()
    todo = [value.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in steps:
            return value
        todo += [following for following, _ in node.next_functions]
    return value.detach()


def _domain(graph: FactorGraph, name: str) -> Continuous:
    domain = graph.variables[name].domain
    assert isinstance(domain, Continuous)
    return domain


def _derivatives(total: Tensor, steps: Sequence[Tensor], names: Sequence[str]) -> list[Tensor]:
    try:
        found = torch.autograd.grad(total, steps, create_graph=True, allow_unused=True)
    except RuntimeError as fault:
        if "differentiate twice" not in str(fault):
            raise
        raise LossRefusal(_ONCE.format(list(names))) from fault
    return [torch.zeros_like(s) if f is None else f for f, s in zip(found, steps, strict=True)]

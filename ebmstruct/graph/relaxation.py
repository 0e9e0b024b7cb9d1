"""Weights over states in place of states: the relaxed energy of a graph, and which graphs have one."""

from __future__ import annotations

import torch
from torch import Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph.assignment import Values
from ebmstruct.graph.domains import Discrete
from ebmstruct.graph.factor_graph import FactorGraph
from ebmstruct.graph.factors import BlockFactor, Factor, indicators


def relaxation_refusal(graph: FactorGraph) -> str | None:
    """Why a graph has no relaxed energy, in one sentence; None where it has one."""
    for factor in graph.factors:
        if not any(isinstance(v.domain, Discrete) for v in graph.scope(factor)):
            continue
        if isinstance(factor, BlockFactor):
            if not factor.relaxed:
                return (
                    f"the function of factor {factor.label!r} takes states, not weights over them; one that takes weights "
                    "says so by relaxed=True"
                )
        elif type(factor).relaxed_energies is Factor.relaxed_energies:
            return f"factor {factor.label!r} is a {type(factor).__name__}, which has no relaxed energies"
    return None


def relaxed_energy(graph: FactorGraph, weights: Values) -> Tensor:
    """(B,) float64: the energy of each instance where discrete blocks have weights over states."""
    values = _complete(graph, weights)
    out = _forbidden(graph, values)
    for factor in graph.factors:
        scope = graph.scope(factor)
        given = [values[n] for n in factor.scope]
        if any(isinstance(v.domain, Discrete) for v in scope):
            part = factor.relaxed_instance_energies(given, scope)
        else:
            part = factor.instance_energies(given, scope)
        out = out + part.double()
    return out if graph.constant is None else out + graph.constant.double()


def _complete(graph: FactorGraph, given: Values) -> dict[str, Tensor]:
    """Weights or values of every block; clamped sites have weight 1 on what they are clamped to."""
    out: dict[str, Tensor] = {}
    clamped = graph.evidence.values if graph.evidence is not None else {}
    soft = [w.dtype for n, w in given.items() if isinstance(graph.variables[n].domain, Discrete) and w.dim() == 2]
    dtype = soft[0] if soft else torch.float64
    for name, block in graph.variables.items():
        value = given.get(name)
        known = graph.evidence.known.get(name) if graph.evidence is not None else None
        if name in clamped and (value is None or known is None):
            value = clamped[name]
        if value is None:
            raise GraphError(f"no weights for block {name!r}; weights were given for {list(given)}")
        if isinstance(block.domain, Discrete):
            value = indicators(value, block, dtype)
            shape = (block.num_sites, block.discrete.largest)
            if tuple(value.shape) != shape:
                raise GraphError(f"block {name!r} needs weights {shape}, or states; found shape {tuple(value.shape)}")
        if name in clamped and known is not None:
            fixed = indicators(clamped[name], block, value.dtype)
            value = torch.where(known[:, None], fixed.to(value.dtype), value)
        out[name] = value
    return out


def _forbidden(graph: FactorGraph, values: dict[str, Tensor]) -> Tensor:
    """(B,) zero, or infinite where a state that the evidence excludes has weight."""
    out = torch.zeros(graph.num_instances, dtype=torch.float64)
    for name, allowed in (graph.evidence.allowed if graph.evidence is not None else {}).items():
        bad = ((values[name] > 0) & ~allowed).any(1)
        out = out.index_add(0, graph.variables[name].instance, torch.where(bad, torch.inf, 0.0).double())
    return out

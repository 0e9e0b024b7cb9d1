"""Discrete sites that are independent of each other once all else is given: sums over them are log sums, a site each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ebmstruct.graph import Discrete, Factor, FactorGraph, FunctionTableFactor, TableFactor, tabulate


def independent_states(graph: FactorGraph, names: Sequence[str]) -> bool:
    """Whether the discrete blocks ``names`` are all the discrete ones, open, and no factor joins two of their sites.

    So it is for a classifier's scores (`FunctionTableFactor`) and for tables of single sites. O(factors).
    """
    blocks = [v for v in graph.variables.values() if isinstance(v.domain, Discrete)]
    if {v.name for v in blocks} != set(names) or not all(v.discrete.uniform for v in blocks):
        return False
    fixed = graph.evidence
    if fixed is not None and any(n in fixed.values or n in fixed.allowed for n in names):
        return False
    return all(_single(f) for f in graph.factors if set(f.scope) & set(names))


def _single(factor: Factor) -> bool:
    if isinstance(factor, FunctionTableFactor):
        return True
    plain = isinstance(factor, TableFactor) and factor.starts is None and factor.index is None
    return plain and len(factor.scope) == 1


def state_tables(graph: FactorGraph, given: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor | None]:
    """The energies (n, K) of the states of each discrete block, and the (B,) energy of what is given alone.

    given: values of the continuous blocks, in which all is differentiable.
    """
    left = tabulate(graph, given)
    tables: dict[str, Tensor] = {}
    for factor in left.factors:
        assert isinstance(factor, TableFactor)
        (name,) = factor.scope
        own = factor.tables.expand(graph.variables[name].num_sites, -1)
        tables[name] = own if name not in tables else tables[name] + own
    return tables, left.constant


def summed_states(
    graph: FactorGraph, tables: Mapping[str, Tensor], constant: Tensor | None, temperature: float
) -> Tensor:
    """(B,) float64: the energy with all states summed out, -T log sum exp(-E / T) of each site."""
    out = torch.zeros(graph.num_instances, dtype=torch.float64) if constant is None else constant.double()
    for name, block in graph.variables.items():
        if not isinstance(block.domain, Discrete):
            continue
        if name in tables:
            each = -temperature * (-tables[name] / temperature).logsumexp(1).double()
        else:
            each = -temperature * block.state_counts.double().log()
        one = block.num_sites == graph.num_instances and bool((block.lengths == 1).all())
        out = out.to(each.device) + each if one else out.to(each.device).index_add(0, block.instance, each)
    return out

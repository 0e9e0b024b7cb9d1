"""Moving a graph from one device to another."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from ebmstruct.graph.assignment import Assignment
from ebmstruct.graph.domains import Discrete
from ebmstruct.graph.factor_graph import FactorGraph
from ebmstruct.graph.variables import Variables


def move(graph: FactorGraph, device: torch.device) -> FactorGraph:
    """A copy of the graph with every tensor on ``device``."""
    blocks = []
    for block in graph.variables.values():
        domain = block.domain
        if isinstance(domain, Discrete) and isinstance(domain.num_states, Tensor):
            domain = Discrete(domain.num_states.to(device))
        blocks.append(Variables(block.name, domain, block.offsets.to(device)))
    factors = [
        dataclasses.replace(f, **{x.name: _moved(getattr(f, x.name), device) for x in dataclasses.fields(f)})
        for f in graph.factors
    ]
    evidence = None
    if graph.evidence is not None:
        e = graph.evidence
        evidence = Assignment(*({k: v.to(device) for k, v in p.items()} for p in (e.values, e.known, e.allowed)))
    guess = None if graph.guess is None else {n: g.to(device) for n, g in graph.guess.items()}
    return FactorGraph(blocks, factors, constant=_moved(graph.constant, device), evidence=evidence, guess=guess)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(_moved(v, device) for v in value)
    return value

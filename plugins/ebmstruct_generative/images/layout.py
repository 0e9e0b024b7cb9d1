"""Which of a graph's blocks are known, and which of them hold the record."""

from __future__ import annotations

from ebmstruct import FactorGraph
from ebmstruct_generative.records import RECORD, UNITS


def record_block(graph: FactorGraph) -> str:
    """The block that holds records: numbers, or discrete units."""
    return UNITS if UNITS in graph.variables else RECORD


def all_known(graph: FactorGraph, block: str) -> bool:
    """Whether the evidence clamps every site of a block."""
    fixed = graph.evidence
    return fixed is not None and block in fixed.values and (block not in fixed.known or bool(fixed.known[block].all()))


def open_blocks(graph: FactorGraph) -> list[str]:
    """The blocks that have sites which nothing clamps."""
    return [n for n, v in graph.variables.items() if v.num_sites and not all_known(graph, n)]

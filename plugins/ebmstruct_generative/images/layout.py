"""Records as values of a graph's block: whole vectors, or one site for each number so that parts may be known."""

from __future__ import annotations

import torch
from torch import Tensor

from ebmstruct import Assignment, FactorGraph, Real
from ebmstruct.errors import DataError
from ebmstruct_generative.records import RECORD


def encoded(rows: Tensor, graph: FactorGraph) -> tuple[Tensor, Tensor | None]:
    """Values of the block of records for rows (B, dim), and which sites are known where NaN says that some are not.

    Errors: DataError where parts of records are unknown, and the energy takes each record as a single site.
    """
    block = graph.variables[RECORD]
    known = ~rows.isnan()
    whole = bool(known.all())
    rows = rows.to(block.offsets.device)
    if whole and _by_number(graph):
        return rows.reshape(-1, 1), None
    if _by_number(graph):
        return rows.nan_to_num().reshape(-1, 1), known.reshape(-1).to(rows.device)
    one = known.all(1)
    if bool((known.any(1) & ~one).any()):
        raise DataError(
            "part of a picture is given, and this energy takes each picture as a single site; energies with a site for "
            "each pixel (generative.denoiser, generative.joint_classifier) draw the rest"
        )
    return rows.nan_to_num(), None if whole else one.to(rows.device)


def rows_of(values: Assignment, graph: FactorGraph) -> Tensor:
    """(B, dim) of an assignment's records, on the CPU."""
    return values[RECORD].detach().reshape(graph.num_instances, -1).cpu()


def _by_number(graph: FactorGraph) -> bool:
    domain = graph.variables[RECORD].domain
    return isinstance(domain, Real) and domain.dim == 1 and graph.variables[RECORD].num_sites != graph.num_instances


def all_known(graph: FactorGraph, block: str) -> bool:
    """Whether the evidence clamps every site of a block."""
    fixed = graph.evidence
    return fixed is not None and block in fixed.values and (block not in fixed.known or bool(fixed.known[block].all()))


def open_blocks(graph: FactorGraph) -> list[str]:
    """The blocks that have sites which nothing clamps."""
    return [n for n, v in graph.variables.items() if v.num_sites and not all_known(graph, n)]


def empty_rows(count: int, dim: int) -> Tensor:
    """(count, dim) of which nothing is known."""
    return torch.full((count, dim), torch.nan)

"""A graph's energies as a plain list of tables, for writing model files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ebmstruct.errors import DataError
from ebmstruct.graph import ChainFactor, Factor, FactorGraph, GridFactor, TableFactor, Variables
from ebmstruct.run.formats.model import only_instance


@dataclass(frozen=True, eq=False)
class Table:
    """One table. sites: its variables, in file numbers.  energies: flat, row-major over them, float64."""

    sites: tuple[int, ...]
    energies: np.ndarray


def tables_of(graph: FactorGraph, path: Path) -> tuple[list[int], list[Table], float]:
    """The state counts of all variables (block after block), every row's own table, and the constant energy.

    path: the file that is being written, for messages. Errors: DataError where a file of tables cannot hold the graph.
    """
    only_instance(graph, path)
    first: dict[str, int] = {}
    counts: list[int] = []
    for name, block in graph.variables.items():
        first[name] = len(counts)
        counts += block.state_counts.tolist()
    tables = [table for factor in graph.factors for table in _rows(factor, graph.scope(factor), first, path)]
    for table in tables:
        if np.isnan(table.energies).any() or np.isneginf(table.energies).any():
            raise DataError(
                f"{path}: the table over variables {table.sites} holds NaN or -inf; energies are finite or inf"
            )
    constant = 0.0 if graph.constant is None else float(graph.constant)
    return counts, tables, constant


def _rows(factor: Factor, scope: tuple[Variables, ...], first: dict[str, int], path: Path) -> Iterator[Table]:
    if isinstance(factor, TableFactor):
        plain = factor.flat(scope)
        assert plain.index is not None and plain.starts is not None
        values = plain.tables.detach().cpu().double().numpy()
        shift = np.array([[first[name]] for name in factor.scope], dtype=np.int64)
        sizes = np.stack(
            [b.state_counts.cpu().numpy()[i] for b, i in zip(scope, plain.index.cpu().numpy(), strict=True)]
        )
        lengths = np.multiply.reduce(sizes, axis=0)
        for sites, start, length in zip(
            (plain.index.cpu().numpy() + shift).T.tolist(), plain.starts.tolist(), lengths.tolist(), strict=True
        ):
            yield Table(tuple(sites), values[start : start + length])
    elif isinstance(factor, GridFactor):
        (block,) = scope
        index, weights = factor.pairs(block)
        table = factor.table.detach().double().numpy().reshape(-1)
        shifted = (index + first[block.name]).T.tolist()
        for sites, weight in zip(shifted, weights.double().tolist(), strict=True):
            yield Table(tuple(sites), weight * table)
    elif isinstance(factor, ChainFactor):
        yield from _chain(factor, scope[0], first[factor.scope[0]])
    else:
        raise DataError(f"{path}: factor {factor.label!r} is a {type(factor).__name__}; a model file holds tables only")


def _chain(factor: ChainFactor, block: Variables, first: int) -> Iterator[Table]:
    transition = factor.transition.detach().double().numpy()
    for site in range(1, block.num_sites):
        table = transition if transition.ndim == 2 else transition[site]
        yield Table((first + site - 1, first + site), table.reshape(-1))
    for ends, site in ((factor.start, 0), (factor.end, block.num_sites - 1)):
        if ends is not None and block.num_sites:
            yield Table((first + site,), ends.detach().double().numpy())

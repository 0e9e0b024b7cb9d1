"""A model as a file gives it: a factor graph with names, and evidence about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from ebmstruct.errors import DataError
from ebmstruct.graph import Assignment, Discrete, FactorGraph, TableFactor, Variables


@dataclass(frozen=True, eq=False)
class Model:
    """A factor graph of one instance and one block of discrete variables, in the order of the file.

    kind: ``markov``, ``bayes`` (both UAI), ``bif`` or ``grid``.
    names, states: of the variables and of each one's states; empty where the format has none.
    path, sha256: where it was read from, and the hash of the unpacked content (of the file itself for .npz).
    """

    graph: FactorGraph
    kind: str
    names: tuple[str, ...] = ()
    states: tuple[tuple[str, ...], ...] = ()
    path: Path | None = None
    sha256: str = ""

    @property
    def block(self) -> Variables:
        """The block of variables."""
        (block,) = self.graph.variables.values()
        return block

    @property
    def num_variables(self) -> int:
        """How many variables the file has, observed ones included."""
        return self.block.num_sites


@dataclass(frozen=True, eq=False)
class Evidence:
    """Observed states: variable to state, both numbered from 0; where it was read from, and the content's hash."""

    states: Mapping[int, int] = field(default_factory=dict)
    path: Path | None = None
    sha256: str = ""

    def condition(self, model: Model) -> FactorGraph:
        """The model's graph with the observed variables clamped; all variables keep their numbers."""
        if not self.states:
            return model.graph
        values = torch.zeros(model.num_variables, dtype=torch.long)
        known = torch.zeros(model.num_variables, dtype=torch.bool)
        sites = torch.tensor(list(self.states), dtype=torch.long)
        values[sites] = torch.tensor(list(self.states.values()), dtype=torch.long)
        known[sites] = True
        name = model.block.name
        return model.graph.condition(Assignment({name: values}, {name: known}))


def domain_of(counts: np.ndarray) -> Discrete:
    """Discrete states: one number where all variables have as many."""
    if not counts.size or (counts == counts[0]).all():
        return Discrete(int(counts[0]) if counts.size else 1)
    return Discrete(torch.from_numpy(counts.astype(np.int64)))


def energies_of(values: np.ndarray) -> np.ndarray:
    """-log of non-negative table entries, in float64; a zero gives +inf."""
    with np.errstate(divide="ignore"):
        return 0.0 - np.log(values)


def graph_of(counts: np.ndarray, arity: np.ndarray, members: np.ndarray, values: Sequence[np.ndarray]) -> FactorGraph:
    """A graph over one block ``x``: a TableFactor for each arity, tables flat; the sum of arity 0 is the constant.

    counts: (n,) states of the variables.  arity: (m,) of each table, whose variables lie in turn in ``members``.
    values: a table's entries each, row-major over its variables: what exp(-energy) is.
    """
    ptr = np.concatenate([[0], np.cumsum(arity)])
    block = Variables.of_lengths("x", domain_of(counts), [counts.size])
    factors, constant = [], None
    for size in np.nonzero(np.bincount(arity))[0].tolist():  # np.unique would first import masked arrays
        rows = np.nonzero(arity == size)[0]
        tables = energies_of(np.concatenate([values[row] for row in rows.tolist()]))
        if size == 0:
            constant = torch.tensor([float(tables.sum())], dtype=torch.float64)
            continue
        lengths = np.array([values[row].size for row in rows.tolist()], dtype=np.int64)
        index = members[ptr[rows][None, :] + np.arange(size)[:, None]].astype(np.int64)
        factors.append(
            TableFactor(
                ("x",) * size,
                f"tables_{size}",
                torch.from_numpy(tables),
                index=torch.from_numpy(np.ascontiguousarray(index)),
                starts=torch.from_numpy(np.cumsum(lengths) - lengths),
            )
        )
    return FactorGraph([block], factors, constant=constant)


def only_instance(graph: FactorGraph, path: Path | str) -> None:
    """DataError unless a graph can be written as a model file: one instance, discrete, without evidence."""
    if graph.num_instances != 1:
        raise DataError(f"{path}: a model file holds one instance; the graph has {graph.num_instances}")
    if graph.evidence is not None:
        raise DataError(
            f"{path}: the graph carries evidence, which a model file cannot hold; write the graph before it was "
            f"conditioned, and the evidence to a file of its own"
        )
    for block in graph.variables.values():
        if not isinstance(block.domain, Discrete):
            raise DataError(f"{path}: a model file holds discrete variables; block {block.name!r} is {block.domain}")

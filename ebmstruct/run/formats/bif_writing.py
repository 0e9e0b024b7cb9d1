"""The text of a Bayesian network in the interchange format."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np

from ebmstruct.errors import DataError
from ebmstruct.run.formats.flattening import Table, tables_of
from ebmstruct.run.formats.model import Model

_PLAIN = re.compile(r'[^\s{}()\[\];,|"/]+')


def bif_text(path: Path, model: Model) -> str:
    """A network as text; DataError where the model is none. path: the file meant, for messages."""
    counts, tables, constant = tables_of(model.graph, path)
    if abs(constant) > 1e-9:
        raise DataError(f"{path}: the graph has a constant energy of {constant:.6g}, which BIF cannot hold; write .uai")
    own = _tables_by_child(path, len(counts), tables)
    names = [_quoted(path, n) for n in model.names] or [f"x{i}" for i in range(len(counts))]
    states = [[_quoted(path, s) for s in row] for row in model.states]
    states = states or [[f"s{k}" for k in range(count)] for count in counts]
    lines = ["network unknown {", "}"]
    for name, row in zip(names, states, strict=True):
        lines += [f"variable {name} {{", f"  type discrete [ {len(row)} ] {{ {', '.join(row)} }};", "}"]
    for child, table in enumerate(own):
        parents = table.sites[:-1]
        rows = np.exp(-table.energies).reshape(-1, counts[child])
        if not np.allclose(rows.sum(1), 1.0, rtol=0, atol=1e-6):
            raise DataError(f"{path}: the table of {names[child]} has rows that do not add up to 1; write .uai")
        texts = [", ".join(map(repr, row)) for row in rows.tolist()]
        if not parents:
            lines += [f"probability ( {names[child]} ) {{", f"  table {texts[0]};", "}"]
            continue
        lines.append(f"probability ( {names[child]} | {', '.join(names[p] for p in parents)} ) {{")
        given = itertools.product(*(states[p] for p in parents))
        lines += [f"  ({', '.join(case)}) {text};" for case, text in zip(given, texts, strict=True)]
        lines.append("}")
    return "\n".join(lines) + "\n"


def _tables_by_child(path: Path, n: int, tables: list[Table]) -> list[Table]:
    own: dict[int, Table] = {}
    for table in tables:
        if not table.sites or table.sites[-1] in own:
            raise DataError(
                f"{path}: not a Bayesian network: two tables end in variable {table.sites[-1:]}, and BIF has one table "
                f"for each variable, given its parents; write .uai"
            )
        own[table.sites[-1]] = table
    for child in range(n):
        if child not in own:
            raise DataError(f"{path}: not a Bayesian network: no table ends in variable {child}; write .uai")
    return [own[child] for child in range(n)]


def _quoted(path: Path, name: str) -> str:
    if _PLAIN.fullmatch(name):
        return name
    if '"' in name or "\n" in name:
        raise DataError(f"{path}: the name {name!r} cannot be written as BIF")
    return f'"{name}"'

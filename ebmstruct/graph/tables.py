"""Energies looked up in tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph.expectation import expected
from ebmstruct.graph.factors import Factor, check_index, repeat_index, select_rows, states_of, uniform_states
from ebmstruct.graph.variables import Variables


@dataclass(frozen=True, eq=False)
class TableFactor(Factor):
    """Energies looked up in tables: row j has energy table_j[y_index[0, j], ..., y_index[arity - 1, j]].

    tables, in one of three layouts:
      - (m, K_1, ..., K_arity): a table for each row;
      - (K_1, ..., K_arity): one table that all rows share;
      - (size,) with ``starts`` (m,) long: row j's table begins at starts[j] and is row-major over its own sites'
        state counts, so that state counts may differ and rows may share tables.
    An infinite entry forbids its configuration; an instance with no configuration left ends as INFEASIBLE.
    index: (arity, m) long, the sites of each row; None for one row at each site of a single block.
    """

    value_fields: ClassVar[tuple[str, ...]] = ("tables",)

    tables: Tensor
    index: Tensor | None = None
    starts: Tensor | None = None

    @property
    def arity(self) -> int:
        """The number of sites that each row looks at."""
        return len(self.scope)

    @property
    def shared(self) -> bool:
        """Whether one table serves all rows."""
        return self.starts is None and self.tables.dim() == self.arity

    def num_rows(self, variables: Sequence[Variables]) -> int:
        """m."""
        return variables[0].num_sites if self.index is None else self.index.shape[1]

    def sizes(self, variables: Sequence[Variables]) -> list[int | Tensor]:
        """For each slot the number of states of its sites: a number, or (m,) long where they differ."""
        out: list[int | Tensor] = []
        for slot, block in enumerate(variables):
            uniform = uniform_states(block)
            if uniform is not None:
                out.append(uniform)
            else:
                out.append(block.state_counts if self.index is None else block.state_counts[self.index[slot]])
        return out

    def row_starts(self, variables: Sequence[Variables]) -> Tensor | int:
        """Where each row's table begins in ``tables.reshape(-1)``: (m,) long, or 0 for a shared table."""
        if self.starts is not None:
            return self.starts
        if self.shared:
            return 0
        size = self.tables[0].numel() if self.tables.shape[0] else 0
        return torch.arange(self.tables.shape[0], device=self.tables.device) * size

    def energies(self, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        if self.index is None and self.starts is None and self.tables.dim() == 2:
            return self.tables.gather(1, values[0][:, None])[:, 0]
        code = states_of(values, 0, self.index)
        for slot, size in enumerate(self.sizes(variables)[1:], 1):
            code = code * size + states_of(values, slot, self.index)
        return self.tables.reshape(-1).index_select(0, code + self.row_starts(variables))

    def row_instance(self, variables: Sequence[Variables]) -> Tensor | None:
        return variables[0].instance if self.index is None else variables[0].instance[self.index[0]]

    def instance_energies(self, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        if self.index is None:
            return variables[0].sum_sites(self.energies(values, variables))
        return super().instance_energies(values, variables)

    def conditionals(self, block: str, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        out: Tensor | None = None
        sizes = self.sizes(variables)
        for slot, name in enumerate(self.scope):
            if name == block:
                part = self._slot_conditionals(slot, sizes, values, variables)
                out = part if out is None else out + part
        assert out is not None
        return out

    def _slot_conditionals(
        self, slot: int, sizes: list[int | Tensor], values: Sequence[Tensor], variables: Sequence[Variables]
    ) -> Tensor:
        columns = variables[slot].discrete.largest
        stride: int | Tensor = 1
        code: Tensor | int = self.row_starts(variables)
        stride_here: int | Tensor = 1
        for other in reversed(range(self.arity)):
            if other == slot:
                stride_here = stride
            else:
                code = code + states_of(values, other, self.index) * stride
            stride = stride * sizes[other]
        rows = self.num_rows(variables)
        states = torch.arange(columns, device=self.tables.device)
        code = torch.as_tensor(code, device=self.tables.device).expand(rows)
        step = torch.as_tensor(stride_here, device=self.tables.device).expand(rows)
        size = torch.as_tensor(sizes[slot], device=self.tables.device).expand(rows)
        at = code[:, None] + torch.minimum(states, size[:, None] - 1) * step[:, None]
        energy = self.tables.reshape(-1).index_select(0, at.reshape(-1)).reshape(rows, columns)
        if self.index is None:
            return energy
        return energy.new_zeros(variables[slot].num_sites, columns).index_add(0, self.index[slot], energy)

    def relaxed_energies(self, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        weights = [w if self.index is None else w.index_select(0, self.index[i]) for i, w in enumerate(values)]
        return expected(self._dense(variables), weights)

    def _dense(self, variables: Sequence[Variables]) -> Tensor:
        """(m, K_1, ..., K_arity), or (K_1, ..., K_arity) where one is shared; states that are not there repeat others."""
        if self.starts is None:
            return self.tables
        rows = self.num_rows(variables)
        code = self.starts.reshape(rows, *[1] * self.arity)
        stride: int | Tensor = 1
        for slot, size in reversed(list(enumerate(self.sizes(variables)))):
            states = torch.arange(variables[slot].discrete.largest, device=code.device)
            if isinstance(size, Tensor):
                states = torch.minimum(states, size[:, None] - 1)
            steps = states.expand(rows, -1) * (stride[:, None] if isinstance(stride, Tensor) else stride)
            shape = [rows, *[1] * self.arity]
            shape[slot + 1] = states.shape[-1]
            code = code + steps.reshape(shape)
            stride = stride * size
        return self.tables[code]

    def check(self, variables: Sequence[Variables]) -> None:
        if self.index is not None:
            check_index(self, self.index, variables)
        elif self.arity != 1:
            raise GraphError(f"factor {self.label!r}: a scope of {self.arity} blocks needs an index ({self.arity}, m)")
        self.check_values(variables)

    def check_values(self, variables: Sequence[Variables]) -> None:
        if not self.tables.is_floating_point():
            raise GraphError(f"factor {self.label!r}: tables must be floating point; found {self.tables.dtype}")
        if self.starts is None:
            self._check_dense(variables)
        else:
            self._check_flat(self.starts, variables)

    def _check_dense(self, variables: Sequence[Variables]) -> None:
        sizes = tuple(uniform_states(v) for v in variables)
        rows = self.num_rows(variables)
        found = tuple(self.tables.shape)
        if found not in (sizes, (rows, *sizes)):
            raise GraphError(
                f"factor {self.label!r}: tables of shape {found}; legal are {(rows, *sizes)} (one for each row) and "
                f"{sizes} (shared)"
                + ("; blocks with differing state counts need flat tables with starts" if None in sizes else "")
            )

    def _check_flat(self, starts: Tensor, variables: Sequence[Variables]) -> None:
        rows = self.num_rows(variables)
        if self.tables.dim() != 1 or starts.dtype != torch.long or starts.shape != (rows,):
            raise GraphError(
                f"factor {self.label!r}: flat tables are 1-D with starts ({rows},) long; found tables "
                f"{tuple(self.tables.shape)} and starts {starts.dtype} of shape {tuple(starts.shape)}"
            )
        if not rows:
            return
        size: Tensor | int = 1
        for s in self.sizes(variables):
            size = size * s
        end = int((starts + size).max())
        if int(starts.min()) < 0 or end > self.tables.numel():
            raise GraphError(
                f"factor {self.label!r}: a row's table ends at entry {end}, but tables has {self.tables.numel()} entries"
            )

    def scaled(self, weight: float | Tensor) -> TableFactor:
        return dataclasses.replace(self, tables=scale_table(self.tables, weight))

    def flat(self, variables: Sequence[Variables]) -> TableFactor:
        """The same factor in the flat layout with explicit index and starts; shares the table storage."""
        rows = self.num_rows(variables)
        starts = torch.as_tensor(self.row_starts(variables), device=self.tables.device).expand(rows)
        index = self.index if self.index is not None else torch.arange(rows, device=self.tables.device)[None]
        return dataclasses.replace(self, tables=self.tables.reshape(-1), index=index, starts=starts)

    def repeat(self, times: int, variables: Sequence[Variables]) -> TableFactor:
        if self.shared and self.index is None:
            return self
        flat = self.flat(variables)
        assert flat.index is not None and flat.starts is not None
        return dataclasses.replace(
            flat, index=repeat_index(flat.index, times, variables), starts=flat.starts.repeat(times)
        )

    def select(self, instances: Tensor, variables: Sequence[Variables]) -> TableFactor:
        index = None
        if self.index is None:
            rows = variables[0].sites_of(instances)
        else:
            rows, index = select_rows(self.index, instances, variables)
        if self.starts is not None:
            return dataclasses.replace(self, index=index, starts=self.starts[rows])
        return dataclasses.replace(self, tables=self.tables if self.shared else self.tables[rows], index=index)

    def concatenate(self, others: Sequence[Self], variables: Sequence[Sequence[Variables]]) -> TableFactor:
        parts = [f.flat(v) for f, v in zip((self, *others), variables, strict=True)]
        shift = torch.zeros(self.arity, dtype=torch.long, device=self.tables.device)
        indices, starts, begin = [], [], 0
        for part, blocks in zip(parts, variables, strict=True):
            assert part.index is not None and part.starts is not None
            indices.append(part.index + shift[:, None])
            starts.append(part.starts + begin)
            shift = shift + torch.tensor([v.num_sites for v in blocks], device=shift.device)
            begin += part.tables.numel()
        tables = torch.cat([p.tables for p in parts])
        return dataclasses.replace(parts[0], tables=tables, index=torch.cat(indices, 1), starts=torch.cat(starts))


def scale_table(table: Tensor, weight: float | Tensor) -> Tensor:
    """``table * weight`` with infinite entries kept as they are, so that a weight of 0 does not make NaN."""
    return torch.where(table.isinf(), table, table * weight)

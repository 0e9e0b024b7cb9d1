"""Residuals: energies that are half a squared norm, robust forms of them, and constraints."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph.cells import cells_of
from ebmstruct.graph.continuous import Continuous
from ebmstruct.graph.factors import Factor, check_index, repeat_index, select_rows
from ebmstruct.graph.robust import RobustLoss
from ebmstruct.graph.variables import Variables

CONSTRAINTS = ("", "equality", "inequality")


@dataclass(frozen=True, eq=False)
class ResidualFactor(Factor):
    """Half the squared norm of a residual: row j has energy 0.5 * |r(x_index[0, j], ..., parameters_j)|^2.

    function(*sites, *parameters) -> (m, r): each of ``sites`` is the values at one row of ``index`` (arity, m):
    (m, d) of a continuous block, (m,) long states of a discrete one; each of ``parameters`` has m rows. Row j of the
    answer depends on row j of what is given only. This is the form that Gauss-Newton needs.

    jacobian(*sites, *parameters): for each place in the scope the derivative (m, r, d) by the ambient values there,
    None at discrete places; without it torch.func differentiates.
    loss: a robust loss of |r|^2 in place of the square.
    constraint: "equality" (r = 0) or "inequality" (r <= 0, entry by entry): such a row costs nothing while no entry
    breaks it by more than ``tolerance``, and is infinite beyond.
    linear: r is affine in the continuous sites, whatever the discrete ones are; solvers take the author's word.
    """

    value_fields: ClassVar[tuple[str, ...]] = ("parameters",)

    function: Callable[..., Tensor]
    index: Tensor
    parameters: tuple[Tensor, ...] = ()
    jacobian: Callable[..., Sequence[Tensor | None]] | None = None
    loss: RobustLoss | None = None
    constraint: str = ""
    tolerance: float = 1e-6
    linear: bool = False

    def __post_init__(self) -> None:
        if self.constraint not in CONSTRAINTS:
            raise GraphError(f"factor {self.label!r}: constraint {self.constraint!r}; legal are {CONSTRAINTS}")
        if self.constraint and self.loss is not None:
            raise GraphError(f"factor {self.label!r}: a constraint takes no robust loss")

    def residuals(self, values: Sequence[Tensor]) -> Tensor:
        """(m, r) residuals at the given values of the scope's blocks."""
        r = self.function(*(v[i] for v, i in zip(values, self.index, strict=True)), *self.parameters)
        if r.dim() != 2 or r.shape[0] != self.index.shape[1]:
            raise GraphError(
                f"factor {self.label!r}: the function returned shape {tuple(r.shape)}; ({self.index.shape[1]}, r) is "
                "needed, a row of residuals for each row of the index"
            )
        return r

    def energies(self, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        r = self.residuals(values)
        if self.constraint:
            broken = self.violations_of(r)
            return torch.where(broken <= self.tolerance, 0.0, torch.inf).masked_fill(broken.isnan(), torch.nan)
        square = r.square().sum(-1)
        return 0.5 * square if self.loss is None else self.loss.energy(square)

    def relaxed_energies(self, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        cells = cells_of(self.index, variables)
        if not cells.states:
            return self.energies(values, variables)
        spread = self.with_rows(cells.row)
        own = torch.arange(cells.row.numel(), device=cells.row.device).expand(len(variables), -1)
        weight: Tensor | None = None
        sites = []
        for place, value in enumerate(values):
            at = spread.index[place]
            if place in cells.states:
                part = value[at, cells.states[place]]
                weight = part if weight is None else weight * part
            sites.append(cells.states[place] if place in cells.states else value[at])
        assert weight is not None
        energy = dataclasses.replace(spread, index=own).energies(sites, variables)
        mean = torch.where(weight > 0, energy, 0.0 if self.constraint else energy) * weight
        return mean.new_zeros(self.index.shape[1]).index_add(0, cells.row, mean)

    def violations_of(self, r: Tensor) -> Tensor:
        """(m,) by how much the worst entry of each row of residuals breaks the constraint; 0 where none is set."""
        if not self.constraint or not r.shape[1]:
            return r.new_zeros(r.shape[0])
        worst = r.abs() if self.constraint == "equality" else r.clamp(min=0)
        return worst.amax(1)

    def row_instance(self, variables: Sequence[Variables]) -> Tensor | None:
        return variables[0].instance[self.index[0]]

    def check(self, variables: Sequence[Variables]) -> None:
        check_index(self, self.index, variables)
        for p in self.parameters:
            if not p.dim() or p.shape[0] != self.index.shape[1]:
                raise GraphError(
                    f"factor {self.label!r}: a parameter of shape {tuple(p.shape)}; its first axis must be the "
                    f"{self.index.shape[1]} rows of the index (expand what is shared)"
                )

    def scaled(self, weight: float | Tensor) -> ResidualFactor:
        if self.constraint:
            return self
        root, function, jacobian = torch.as_tensor(weight).sqrt(), self.function, self.jacobian
        # 0.5 w c^2 rho(s / c^2), with s scaled by w, needs the scale times the root
        loss = None if self.loss is None else dataclasses.replace(self.loss, scale=self.loss.scale * float(root))

        def times(*sites: Tensor) -> Sequence[Tensor | None]:
            assert jacobian is not None
            return [None if j is None else root * j for j in jacobian(*sites)]

        return dataclasses.replace(
            self,
            function=lambda *a: root * function(*a),
            jacobian=None if jacobian is None else times,
            loss=loss,
        )

    def repeat(self, times: int, variables: Sequence[Variables]) -> ResidualFactor:
        parameters = tuple(p.repeat(times, *[1] * (p.dim() - 1)) for p in self.parameters)
        return dataclasses.replace(self, index=repeat_index(self.index, times, variables), parameters=parameters)

    def select(self, instances: Tensor, variables: Sequence[Variables]) -> ResidualFactor:
        rows, index = select_rows(self.index, instances, variables)
        return dataclasses.replace(self.with_rows(rows), index=index)

    def concatenate(self, others: Sequence[Self], variables: Sequence[Sequence[Variables]]) -> ResidualFactor:
        parts = (self, *others)
        alike = ("function", "jacobian", "loss", "constraint", "tolerance", "linear")
        if any(getattr(p, field) != getattr(self, field) for p in others for field in alike):
            raise GraphError(f"factor {self.label!r}: a union needs the same function and options in every part")
        shift = torch.zeros(len(self.scope), 1, dtype=torch.long, device=self.index.device)
        index = []
        for part, blocks in zip(parts, variables, strict=True):
            index.append(part.index + shift)
            shift = shift + torch.tensor([[v.num_sites] for v in blocks], device=shift.device)
        parameters = tuple(torch.cat(p) for p in zip(*(part.parameters for part in parts), strict=True))
        return dataclasses.replace(self, index=torch.cat(index, 1), parameters=parameters)

    def with_rows(self, rows: Tensor) -> ResidualFactor:
        """The factor with some of its rows only; rows: long positions."""
        parameters = tuple(p[rows] for p in self.parameters)
        return dataclasses.replace(self, index=self.index[:, rows], parameters=parameters)


def continuous_places(factor: Factor, variables: Sequence[Variables]) -> list[int]:
    """The positions in a factor's scope whose block is continuous."""
    return [i for i, v in enumerate(variables) if isinstance(v.domain, Continuous)]

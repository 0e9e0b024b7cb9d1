"""Tables of discrete sites that a function computes from continuous blocks: a classifier as an energy of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph.domains import Discrete
from ebmstruct.graph.factors import Factor, uniform_states
from ebmstruct.graph.variables import Variables


@dataclass(frozen=True, eq=False)
class FunctionTableFactor(Factor):
    """Row j has energy table[j, y_j], where the tables of all sites of one discrete block are a function of other blocks.

    scope: the discrete block, whose sites all have K states, then the continuous blocks that the function looks at.
    function(*points, *inputs, offsets) -> (n, K) energies of each state of each of the n sites; ``points`` are the values
    of the continuous blocks, ``inputs`` are tensors whose first axis is the instance, and ``offsets`` is the tuple of
    each block's (B + 1,) offsets. Instances must not influence each other.

    One call gives the energies of all states, so that sums over them, as in a joint energy model of a picture and its
    class (Grathwohl et al. 2020), cost one evaluation. Once the continuous blocks are clamped it is a `TableFactor`.
    """

    value_fields: ClassVar[tuple[str, ...]] = ("inputs",)

    function: Callable[..., Tensor]
    inputs: tuple[Tensor, ...] = ()

    def table(self, points: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        """(n, K) energies of the states of each site; points: values of the continuous blocks, in the scope's order."""
        table = self.function(*points, *self.inputs, tuple(v.offsets for v in variables))
        states = uniform_states(variables[0])
        if table.shape != (variables[0].num_sites, states):
            raise GraphError(
                f"factor {self.label!r}: the function returned shape {tuple(table.shape)}; energies of the {states} states "
                f"of each of {variables[0].num_sites} sites of {variables[0].name!r} are needed"
            )
        return table

    def energies(self, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        return self.table(values[1:], variables).gather(1, values[0][:, None])[:, 0]

    def row_instance(self, variables: Sequence[Variables]) -> Tensor | None:
        one = variables[0].num_sites == variables[0].num_instances and bool((variables[0].lengths == 1).all())
        return None if one else variables[0].instance

    def conditionals(self, block: str, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        return self.table(values[1:], variables)

    def relaxed_energies(self, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        table = self.table(values[1:], variables)
        weights = values[0].to(table.dtype)
        return torch.where(weights == 0, torch.zeros_like(table), weights * table).sum(1)

    def check(self, variables: Sequence[Variables]) -> None:
        first, *others = variables
        if not isinstance(first.domain, Discrete) or uniform_states(first) is None:
            raise GraphError(
                f"factor {self.label!r}: the first block of its scope must be discrete with as many states at each site; "
                f"{first.name!r} is {first.domain}"
            )
        for block in others:
            if isinstance(block.domain, Discrete):
                raise GraphError(
                    f"factor {self.label!r}: the blocks behind {first.name!r} must be continuous; {block.name!r} is "
                    f"{block.domain}"
                )

    def scaled(self, weight: float | Tensor) -> FunctionTableFactor:
        function = self.function

        def times(*given: Any) -> Tensor:
            table = function(*given)
            return torch.where(torch.isposinf(table), table, weight * table)

        return dataclasses.replace(self, function=times)

    def repeat(self, times: int, variables: Sequence[Variables]) -> FunctionTableFactor:
        if not self.inputs:
            return self
        return dataclasses.replace(self, inputs=tuple(x.repeat(times, *[1] * (x.dim() - 1)) for x in self.inputs))

    def select(self, instances: Tensor, variables: Sequence[Variables]) -> FunctionTableFactor:
        return dataclasses.replace(self, inputs=tuple(x[instances] for x in self.inputs)) if self.inputs else self

    def concatenate(self, others: Sequence[Self], variables: Sequence[Sequence[Variables]]) -> FunctionTableFactor:
        if any(o.function is not self.function for o in others):
            raise GraphError(f"factor {self.label!r}: a union needs the same function in every part")
        inputs = tuple(torch.cat(parts) for parts in zip(self.inputs, *(o.inputs for o in others), strict=True))
        return dataclasses.replace(self, inputs=inputs)

"""Energy terms over blocks of variables: the base class, and functions of whole blocks."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph.domains import Discrete
from ebmstruct.graph.variables import Variables

Slope = tuple[Tensor, Tensor]
"""(n, d) a gradient by each site, and (n,) the sum of the second derivatives by the coordinates of each site."""


@dataclass(frozen=True, eq=False)
class Factor(ABC):
    """m like energy terms over a scope of blocks.

    The tensors named in ``value_fields`` are values: they change from one training step to the next and carry
    gradients. All other fields are structure, which graphs of one topology share.

    ``energies`` and ``row_instance`` are all that a new kind of factor must give.
    """

    value_fields: ClassVar[tuple[str, ...]] = ()

    scope: tuple[str, ...]
    label: str

    @abstractmethod
    def energies(self, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        """(m,) energies of the rows; ``values`` and ``variables`` follow the scope."""

    @abstractmethod
    def row_instance(self, variables: Sequence[Variables]) -> Tensor | None:
        """(m,) long: the instance of each row; None where row b is the energy of instance b."""

    def instance_energies(self, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        """(B,) float64 where rows are summed, else in the factor's own precision: the energy of each instance."""
        rows = self.energies(values, variables)
        instance = self.row_instance(variables)
        if instance is None:
            return rows
        return rows.new_zeros(variables[0].num_instances, dtype=torch.float64).index_add(0, instance, rows.double())

    def conditionals(self, block: str, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        """(n, K): this factor's energy if one site of ``block`` took each state and all others kept theirs.

        Each site's row is right up to a constant. This default evaluates the factor once for each state and each
        position in an instance: K times the longest instance.
        """
        slot = self.scope.index(block)
        owner = variables[slot]
        sites, offsets = owner.num_sites, owner.offsets
        columns = owner.discrete.largest
        out = torch.zeros(sites, columns, dtype=torch.float64, device=offsets.device)
        for position in range(int(owner.lengths.max()) if owner.num_instances else 0):
            here = (owner.lengths > position).nonzero()[:, 0]
            at = offsets[:-1][here] + position
            for state in range(columns):
                changed = values[slot].clone()
                changed[at] = torch.clamp(owner.state_counts[at] - 1, max=state)
                trial = [changed if i == slot else v for i, v in enumerate(values)]
                energy = self.instance_energies(trial, variables).double()
                out = out.index_put((at, torch.full_like(at, state)), energy[here])
        return out

    def relaxed_energies(self, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        """(m,) energies of the rows where discrete places hold weights (n, K) over the states of each site.

        The mean of ``energies`` when every site draws its state by its weights, independently of the others: linear in
        the weights of each site, and equal to ``energies`` where all weights are 0 or 1. An infinite entry counts where
        it has any weight. A factor may define another extension, as ``BlockFactor`` does.
        """
        raise GraphError(f"factor {self.label!r}: a {type(self).__name__} has no relaxed energies")

    def relaxed_instance_energies(self, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        """(B,) the relaxed energy of each instance."""
        rows = self.relaxed_energies(values, variables)
        instance = self.row_instance(variables)
        if instance is None:
            return rows
        return rows.new_zeros(variables[0].num_instances, dtype=torch.float64).index_add(0, instance, rows.double())

    def slope_and_laplacian(self, values: Sequence[Tensor], variables: Sequence[Variables]) -> Slope | None:
        """The derivative of the summed energies by the sites of a scope of one continuous block, in closed form.

        (n, d) the gradient by each site, and (n,) the sum of the second derivatives by the coordinates of each site, both
        differentiable in the factor's values. None, as here, where the factor has no closed form: derivatives are then
        taken by autograd.
        """
        return None

    def check(self, variables: Sequence[Variables]) -> None:  # noqa: B027 - nothing to check by default
        """Raise GraphError where shapes or indices do not fit the blocks."""

    def check_values(self, variables: Sequence[Variables]) -> None:
        """The same where only the values are new: structure that was checked before need not be looked at again."""
        self.check(variables)

    def values(self) -> tuple[Tensor | None, ...]:
        """The value tensors, in the order of ``value_fields``."""
        return tuple(getattr(self, f) for f in self.value_fields)

    def with_values(self, *values: Tensor | None) -> Self:
        """The same structure with other values of the same shapes."""
        changed: dict[str, Any] = dict(zip(self.value_fields, values, strict=True))
        return dataclasses.replace(self, **changed)

    def scaled(self, weight: float | Tensor) -> Factor:
        """The factor with every energy multiplied by ``weight``; an infinite entry stays infinite."""
        raise GraphError(f"factor {self.label!r}: a {type(self).__name__} cannot be scaled")

    def repeat(self, times: int, variables: Sequence[Variables]) -> Factor:
        """The factor over blocks whose instances are ``times`` over."""
        raise GraphError(f"factor {self.label!r}: a {type(self).__name__} cannot be repeated")

    def select(self, instances: Tensor, variables: Sequence[Variables]) -> Factor:
        """The factor over the blocks of some instances (b,) only, in their order."""
        raise GraphError(f"factor {self.label!r}: a {type(self).__name__} cannot be taken apart")

    def concatenate(self, others: Sequence[Self], variables: Sequence[Sequence[Variables]]) -> Factor:
        """One factor over the disjoint union of blocks; ``variables[i]`` are factor i's own, this one's first."""
        raise GraphError(f"factor {self.label!r}: a {type(self).__name__} cannot be part of a union")


@dataclass(frozen=True, eq=False)
class BlockFactor(Factor):
    """Any torch function of whole blocks: one energy an instance, no index.

    function(*values, *inputs, offsets) -> (B,); ``values`` follow the scope, ``inputs`` are tensors whose first
    axis is the instance, and ``offsets`` is the tuple of each block's (B + 1,) offsets. Instances must not
    influence each other. Such an energy has no structure that a solver could use, so it has no bound.
    A function that knows its derivatives in closed form offers ``slope_and_laplacian``, a method with the same arguments
    and the answer of ``Factor.slope_and_laplacian``.
    relaxed: the function takes weights (n, K) over the states of each site in place of the states of discrete blocks;
    whole states are handed to it as weights of 0 and 1, in the precision of the inputs (float32 without any).
    """

    value_fields: ClassVar[tuple[str, ...]] = ("inputs",)

    function: Callable[..., Tensor]
    inputs: tuple[Tensor, ...] = ()
    relaxed: bool = False

    def energies(self, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        if self.relaxed:
            values = [indicators(x, v, self.precision) for x, v in zip(values, variables, strict=True)]
        return self._called(values, variables)

    def _called(self, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        energy = self.function(*values, *self.inputs, tuple(v.offsets for v in variables))
        if energy.shape != (variables[0].num_instances,):
            raise GraphError(
                f"factor {self.label!r}: the function returned shape {tuple(energy.shape)}; one energy for each of "
                f"{variables[0].num_instances} instances is needed"
            )
        return energy

    @property
    def precision(self) -> torch.dtype:
        """Of the weights in which whole states are handed to a function of weights."""
        found = [x.dtype for x in self.inputs if x.is_floating_point()]
        return found[0] if found else torch.get_default_dtype()

    def relaxed_energies(self, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        """(B,) the function's own extension; not linear in the weights, unless the function is."""
        if not self.relaxed and any(isinstance(v.domain, Discrete) for v in variables):
            raise GraphError(
                f"factor {self.label!r}: its function takes states; one that takes weights over them is said to do so by "
                "relaxed=True"
            )
        return self._called(values, variables)

    def row_instance(self, variables: Sequence[Variables]) -> Tensor | None:
        return None

    def slope_and_laplacian(self, values: Sequence[Tensor], variables: Sequence[Variables]) -> Slope | None:
        offered = getattr(self.function, "slope_and_laplacian", None)
        if offered is None or len(self.scope) != 1:
            return None
        found: Slope | None = offered(*values, *self.inputs, tuple(v.offsets for v in variables))
        return found

    def scaled(self, weight: float | Tensor) -> BlockFactor:
        return dataclasses.replace(self, function=_Scaled(self.function, weight))

    def repeat(self, times: int, variables: Sequence[Variables]) -> BlockFactor:
        if not self.inputs:
            return self
        inputs = tuple(x.repeat(times, *[1] * (x.dim() - 1)) for x in self.inputs)
        return dataclasses.replace(self, inputs=inputs)

    def select(self, instances: Tensor, variables: Sequence[Variables]) -> BlockFactor:
        return dataclasses.replace(self, inputs=tuple(x[instances] for x in self.inputs)) if self.inputs else self

    def concatenate(self, others: Sequence[Self], variables: Sequence[Sequence[Variables]]) -> BlockFactor:
        if any(o.function is not self.function or o.relaxed != self.relaxed for o in others):
            raise GraphError(f"factor {self.label!r}: a union needs the same function in every part")
        inputs = tuple(torch.cat(parts) for parts in zip(self.inputs, *(o.inputs for o in others), strict=True))
        return dataclasses.replace(self, inputs=inputs)


@dataclass(frozen=True, eq=False)
class _Scaled:
    """A function of blocks with its energies multiplied by a number, or by one for each instance."""

    function: Callable[..., Tensor]
    weight: float | Tensor

    def __call__(self, *given: Any) -> Tensor:
        energy = self.function(*given)
        return torch.where(torch.isposinf(energy), energy, self.weight * energy)

    def slope_and_laplacian(self, *given: Any) -> Slope | None:
        """That of the function, multiplied; None where it offers none or each instance has a number of its own."""
        offered = getattr(self.function, "slope_and_laplacian", None)
        found: Slope | None = None if offered is None else offered(*given)
        if found is None or (isinstance(self.weight, Tensor) and self.weight.dim()):
            return None
        return self.weight * found[0], self.weight * found[1]


def check_index(factor: Factor, index: Tensor, variables: Sequence[Variables]) -> None:
    """Raise GraphError unless ``index`` is (arity, m) long, in range, and no row joins two instances."""
    if index.dtype != torch.long or index.dim() != 2 or index.shape[0] != len(variables):
        raise GraphError(
            f"factor {factor.label!r}: index must be long of shape ({len(variables)}, m), one row for each block of its "
            f"scope {factor.scope}; found {index.dtype} of shape {tuple(index.shape)}"
        )
    if not index.shape[1]:
        return
    for sites, block in zip(index, variables, strict=True):
        low, high = int(sites.min()), int(sites.max())
        if low < 0 or high >= block.num_sites:
            raise GraphError(
                f"factor {factor.label!r}: site {low if low < 0 else high} of {block.name!r} does not exist; it has "
                f"sites 0 to {block.num_sites - 1}"
            )
    owners = torch.stack([v.instance[i] for v, i in zip(variables, index, strict=True)])
    if bool((owners != owners[0]).any()):
        row = int((owners != owners[0]).any(0).nonzero()[0])
        raise GraphError(f"factor {factor.label!r}: row {row} joins sites of different instances of the batch")
    for later, block in enumerate(variables):
        for earlier in range(later):
            if variables[earlier] is block and bool((index[earlier] == index[later]).any()):
                row = int((index[earlier] == index[later]).nonzero()[0])
                raise GraphError(
                    f"factor {factor.label!r}: row {row} names site {int(index[later, row])} of {block.name!r} twice; a "
                    "row looks at each site once"
                )


def repeat_index(index: Tensor, times: int, variables: Sequence[Variables]) -> Tensor:
    """(arity, times * m): the index over blocks whose instances are ``times`` over."""
    sizes = torch.tensor([v.num_sites for v in variables], device=index.device)
    shift = torch.arange(times, device=index.device)[:, None] * sizes[:, None, None]
    return (index[:, None, :] + shift).reshape(index.shape[0], -1)


def select_rows(index: Tensor, instances: Tensor, variables: Sequence[Variables]) -> tuple[Tensor, Tensor]:
    """(r,) long, the rows that belong to some instances (b,), and (arity, r) their sites among those instances' own."""
    places = []
    for block in variables:
        sites = block.sites_of(instances)
        place = torch.full((block.num_sites,), -1, device=sites.device)
        place[sites] = torch.arange(sites.numel(), device=sites.device)
        places.append(place)
    rows = (places[0][index[0]] >= 0).nonzero()[:, 0]
    return rows, torch.stack([place[i[rows]] for place, i in zip(places, index, strict=True)])


def states_of(values: Sequence[Tensor], slot: int, index: Tensor | None) -> Tensor:
    """(m,) long: the states in one slot of a table factor's rows."""
    return values[slot] if index is None else values[slot].index_select(0, index[slot])


def uniform_states(variables: Variables) -> int | None:
    """The one number of states of a discrete block, or None where its sites differ."""
    domain = variables.discrete
    return domain.num_states if isinstance(domain, Discrete) and isinstance(domain.num_states, int) else None


def indicators(states: Tensor, variables: Variables, dtype: torch.dtype) -> Tensor:
    """(n, K): weight 1 on each site's state, where a discrete block's states (n,) are given; anything else as it is."""
    if not isinstance(variables.domain, Discrete) or states.dim() != 1:
        return states
    return (states[:, None] == torch.arange(variables.discrete.largest, device=states.device)).to(dtype)

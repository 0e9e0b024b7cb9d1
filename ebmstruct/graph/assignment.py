"""Values of variables, of all sites or of those that somebody knows."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ebmstruct.errors import GraphError


@dataclass(frozen=True, eq=False)
class Assignment:
    """Block name to values: (n,) long for a discrete block, (n, d) for a real one.

    known: block name to a (n,) bool tensor; a block that is not in it is known at every site. Values at unknown
    sites mean nothing.
    allowed: block name to a (n, K) bool tensor of the states a site may take, for evidence weaker than a value;
    such a block needs no values. K is the block's largest number of states.
    """

    values: Mapping[str, Tensor]
    known: Mapping[str, Tensor] = field(default_factory=dict)
    allowed: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.known:
            if name not in self.values:
                raise GraphError(f"assignment: a mask of known sites for {name!r}, which has no values")

    def __getitem__(self, name: str) -> Tensor:
        return self.values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.values)

    def __contains__(self, name: object) -> bool:
        return name in self.values

    def get(self, name: str) -> Tensor | None:
        """The values of a block, or None where there are none."""
        return self.values.get(name)

    def items(self) -> ItemsView[str, Tensor]:
        """Block names with their values."""
        return self.values.items()

    def complete(self, names: tuple[str, ...]) -> bool:
        """Whether every site of these blocks has a known value and nothing else is restricted."""
        return all(n in self.values and (n not in self.known or bool(self.known[n].all())) for n in names) and not (
            self.allowed
        )

    def __repr__(self) -> str:
        parts = [f"{k}: {tuple(v.shape)}" + (" partly known" if k in self.known else "") for k, v in self.items()]
        parts += [f"{k}: allowed states" for k in self.allowed]
        return f"Assignment({', '.join(parts)})"


Values = Mapping[str, Tensor] | Assignment
"""Values of blocks, as a plain mapping or as an assignment."""

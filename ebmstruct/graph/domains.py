"""What a variable may be: one of K states, or a point of a smooth space."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph.continuous import Continuous


@dataclass(frozen=True, eq=False)
class Discrete:
    """States 0 ... K - 1.

    num_states: one number for all sites, or a (n,) long tensor with one for each site.
    """

    num_states: int | Tensor

    def __post_init__(self) -> None:
        if isinstance(self.num_states, Tensor):
            if self.num_states.dim() != 1 or self.num_states.dtype != torch.long:
                raise GraphError(
                    f"Discrete takes a number of states or a (n,) long tensor; found {self.num_states.dtype} of shape "
                    f"{tuple(self.num_states.shape)}"
                )
            if self.num_states.numel() and int(self.num_states.min()) < 1:
                raise GraphError("Discrete: every site needs at least one state; found a site with fewer")
        elif self.num_states < 1:
            raise GraphError(f"Discrete: at least one state is needed; found {self.num_states}")

    @property
    def uniform(self) -> bool:
        """Whether all sites have the same number of states, given as one number."""
        return not isinstance(self.num_states, Tensor)

    @property
    def largest(self) -> int:
        """K, the largest number of states of any site (0 where there are no sites)."""
        if isinstance(self.num_states, Tensor):
            return int(self.num_states.max()) if self.num_states.numel() else 0
        return self.num_states

    def counts(self, num_sites: int) -> Tensor:
        """(n,) long: the number of states of each site."""
        if isinstance(self.num_states, Tensor):
            return self.num_states
        return torch.full((num_sites,), self.num_states, dtype=torch.long)

    def __repr__(self) -> str:
        return f"Discrete({self.num_states if self.uniform else f'up to {self.largest}'})"


Domain = Discrete | Continuous

"""A named block of like unknowns, laid out flat over the instances of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph.domains import Discrete, Domain


@dataclass(frozen=True, eq=False)
class Variables:
    """A block of n like sites with one domain, those of each instance side by side.

    offsets: (B + 1,) long; instance b owns the sites offsets[b] ... offsets[b + 1] - 1. Instances may differ in
    size or be empty: nothing is padded.
    """

    name: str
    domain: Domain
    offsets: Tensor

    def __post_init__(self) -> None:
        if self.offsets.dim() != 1 or self.offsets.dtype != torch.long or not self.offsets.numel():
            raise GraphError(
                f"variables {self.name!r}: offsets must be a (B + 1,) long tensor; found {self.offsets.dtype} of shape "
                f"{tuple(self.offsets.shape)}"
            )
        if isinstance(self.domain, Discrete) and not self.domain.uniform:
            assert isinstance(self.domain.num_states, Tensor)
            if self.domain.num_states.numel() != self.num_sites:
                raise GraphError(
                    f"variables {self.name!r}: {self.num_sites} sites but {self.domain.num_states.numel()} state counts"
                )

    @classmethod
    def of_lengths(cls, name: str, domain: Domain, lengths: Sequence[int] | Tensor) -> Variables:
        """Build a block from the number of sites of each instance."""
        sizes = torch.as_tensor(lengths, dtype=torch.long)
        if sizes.numel() and int(sizes.min()) < 0:
            raise GraphError(f"variables {name!r}: an instance cannot have {int(sizes.min())} sites")
        return cls(name, domain, torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]))

    @cached_property
    def num_sites(self) -> int:
        """n, the number of sites of all instances together."""
        return int(self.offsets[-1])

    @property
    def num_instances(self) -> int:
        """B."""
        return self.offsets.numel() - 1

    @cached_property
    def lengths(self) -> Tensor:
        """(B,) long: the number of sites of each instance."""
        return self.offsets.diff()

    @cached_property
    def instance(self) -> Tensor:
        """(n,) long: the instance of each site."""
        arange = torch.arange(self.num_instances, device=self.offsets.device)
        return torch.repeat_interleave(arange, self.lengths, output_size=self.num_sites)

    @cached_property
    def state_counts(self) -> Tensor:
        """(n,) long: the number of states of each site of a discrete block."""
        return self.discrete.counts(self.num_sites).to(self.offsets.device)

    @cached_property
    def filled(self) -> Tensor | None:
        """(b,) long: the instances that have sites; None where all have."""
        lengths = self.lengths
        if lengths.numel() and int(lengths.min()) > 0:
            return None
        return (lengths > 0).nonzero()[:, 0]

    @cached_property
    def first_sites(self) -> Tensor:
        """(b,) long: the first site of each instance that has sites."""
        return self.offsets[:-1] if self.filled is None else self.offsets[self.filled]

    @cached_property
    def last_sites(self) -> Tensor:
        """(b,) long: the last site of each instance that has sites."""
        return (self.offsets[1:] if self.filled is None else self.offsets[self.filled + 1]) - 1

    def sum_sites(self, rows: Tensor) -> Tensor:
        """(B,) float64: sums over each instance's sites of ``rows`` (n,)."""
        return torch.segment_reduce(rows.double(), "sum", offsets=self.offsets)

    @property
    def discrete(self) -> Discrete:
        """The domain, where it is discrete; GraphError otherwise."""
        if not isinstance(self.domain, Discrete):
            raise GraphError(f"variables {self.name!r} are {self.domain}, and this asks for discrete ones")
        return self.domain

    def repeat(self, times: int) -> Variables:
        """The block with its instances ``times`` over, copy after copy."""
        lengths = self.lengths.repeat(times)
        domain = self.domain
        if isinstance(domain, Discrete) and isinstance(domain.num_states, Tensor):
            domain = Discrete(domain.num_states.repeat(times))
        return Variables.of_lengths(self.name, domain, lengths)

    def sites_of(self, instances: Tensor) -> Tensor:
        """(s,) long: the sites of some instances (b,), one instance after another."""
        lengths = self.lengths[instances]
        begin = torch.repeat_interleave(self.offsets[:-1][instances], lengths)
        ends = lengths.cumsum(0)
        return (
            begin + torch.arange(begin.numel(), device=begin.device) - torch.repeat_interleave(ends - lengths, lengths)
        )

    def select(self, instances: Tensor) -> Variables:
        """The block of some instances (b,) only, in their order."""
        domain = self.domain
        if isinstance(domain, Discrete) and isinstance(domain.num_states, Tensor):
            domain = Discrete(domain.num_states[self.sites_of(instances)])
        return Variables.of_lengths(self.name, domain, self.lengths[instances])

    def __repr__(self) -> str:
        return f"Variables({self.name!r}, {self.domain}, {self.num_sites} sites in {self.num_instances} instances)"

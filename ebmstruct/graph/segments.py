"""Energies of segments: runs of sites of one label, scored as wholes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph.factors import Factor, uniform_states
from ebmstruct.graph.tables import scale_table
from ebmstruct.graph.variables import Variables


@dataclass(frozen=True, eq=False)
class SegmentFactor(Factor):
    """Energies of the segments into which the sites of each instance are cut (Sarawagi and Cohen 2004).

    A segment is a run of sites with one of K labels. Label k has two states of the block: one for the site that
    begins a segment, one for the sites that continue it. A site that continues a segment of another label, or that of
    nobody, is forbidden, so each assignment that is left is one segmentation.

    The energy of a segment of label k over the l sites s ... s + l - 1 is lengths[l - 1, k] + segments[s, l - 1, k].
    Energies of single sites are those of a ``TableFactor`` over the block's states, and add up within a segment.

    lengths: (L, K), where L is the length of the longest segment; longer ones are forbidden.
    transition: (K, K) between successive segments; rows are the earlier label.  start, end: (K,) energies of the
    first and last segment's label, or None.  segments: (n, L, K) energies by first site, length and label, or None;
    entries that would reach beyond their instance are not read.  An infinite entry forbids.
    states: (K, 2) long, the state that begins label k and the one that continues it (-1: segments of this label have
    one site); None for 2 k and 2 k + 1.
    """

    value_fields: ClassVar[tuple[str, ...]] = ("lengths", "transition", "start", "end", "segments")

    lengths: Tensor
    transition: Tensor
    start: Tensor | None = None
    end: Tensor | None = None
    segments: Tensor | None = None
    states: Tensor | None = None

    @property
    def max_length(self) -> int:
        """L, the number of sites of the longest segment."""
        return self.lengths.shape[0]

    @property
    def num_labels(self) -> int:
        """K."""
        return self.lengths.shape[1]

    @property
    def label_states(self) -> Tensor:
        """(K, 2) long: ``states``, also where they were left out."""
        if self.states is not None:
            return self.states
        return torch.arange(2 * self.num_labels, device=self.lengths.device).reshape(-1, 2)

    def spell(self, labels: Tensor, begins: Tensor) -> Tensor:
        """(n,) long: the states of sites whose labels (n,) and whose beginnings (n,) bool are given."""
        return self.label_states[labels, (~begins).long()]

    def read(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """(n,) long labels and (n,) bool beginnings of states (n,); the inverse of ``spell``."""
        states = self.label_states
        code = torch.arange(states.numel(), device=y.device).reshape(states.shape)
        table = torch.zeros(int(states.max()) + 1, dtype=torch.long, device=y.device)
        real = states >= 0
        table[states[real]] = code[real]
        found = table[y]
        return found // 2, found % 2 == 0

    def energies(self, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        """(n,): at each site that begins a segment its energy and that of the step into it; infinite at illegal sites."""
        (y,), (block,) = values, variables
        label, begins = self.read(y)
        first = torch.zeros_like(begins)
        first[block.first_sites] = True
        before = torch.cat([label[:1], label[:-1]])
        illegal = ~begins & (first | (label != before))
        heads = (begins | first).nonzero()[:, 0]
        length = torch.diff(heads, append=heads.new_tensor([block.num_sites]))
        k, fits = label[heads], length <= self.max_length
        row = length.clamp(max=self.max_length) - 1
        energy = self.lengths[row, k].masked_fill(~fits, torch.inf)
        if self.segments is not None:
            energy = energy + self.segments[heads, row, k]
        inner = ~first[heads]
        energy = energy + torch.where(inner, self.transition[before[heads], k], 0.0)
        if self.start is not None:
            energy = energy + torch.where(inner, 0.0, self.start[k])
        if self.end is not None:
            last = torch.isin(heads + length - 1, block.last_sites)
            energy = energy + torch.where(last, self.end[k], 0.0)
        out = energy.new_zeros(block.num_sites).index_put((heads,), energy)
        return out.masked_fill(illegal, torch.inf)

    def row_instance(self, variables: Sequence[Variables]) -> Tensor | None:
        return variables[0].instance

    def check(self, variables: Sequence[Variables]) -> None:
        if len(variables) != 1:
            raise GraphError(f"factor {self.label!r}: segments lie in one block; found the scope {self.scope}")
        (block,) = variables
        states = uniform_states(block)
        if states is None:
            raise GraphError(f"factor {self.label!r}: segments need one number of states for all sites of their block")
        if self.lengths.dim() != 2 or not self.lengths.numel():
            raise GraphError(
                f"factor {self.label!r}: lengths of shape {tuple(self.lengths.shape)}; legal is (L, K), a row a length"
            )
        longest, labels = self.lengths.shape
        for name, shape in (
            ("transition", (labels, labels)),
            ("start", (labels,)),
            ("end", (labels,)),
            ("segments", (block.num_sites, longest, labels)),
        ):
            value: Tensor | None = getattr(self, name)
            if value is not None and tuple(value.shape) != shape:
                raise GraphError(f"factor {self.label!r}: {name} of shape {tuple(value.shape)}; legal is {shape}")
        self._check_states(states)

    def _check_states(self, states: int) -> None:
        of = self.label_states
        fits = of.shape == (self.num_labels, 2) and of.dtype == torch.long
        used = of[of >= 0].sort().values.tolist() if fits else []
        if not fits or used != list(range(states)) or bool((of[:, 0] < 0).any()):
            found = of.tolist() if self.states is not None else f"2 states for each of {self.num_labels} labels"
            raise GraphError(
                f"factor {self.label!r}: states must name each of the block's {states} states once, (K, 2) long: the one "
                f"that begins a label and the one that continues it, or -1; found {found}"
            )

    def scaled(self, weight: float | Tensor) -> SegmentFactor:
        return self.with_values(*(None if v is None else scale_table(v, weight) for v in self.values()))

    def repeat(self, times: int, variables: Sequence[Variables]) -> SegmentFactor:
        if self.segments is None:
            return self
        return dataclasses.replace(self, segments=self.segments.repeat(times, 1, 1))

    def select(self, instances: Tensor, variables: Sequence[Variables]) -> SegmentFactor:
        if self.segments is None:
            return self
        return dataclasses.replace(self, segments=self.segments[variables[0].sites_of(instances)])

    def concatenate(self, others: Sequence[Self], variables: Sequence[Sequence[Variables]]) -> SegmentFactor:
        parts = (self, *others)
        for name in ("lengths", "transition", "start", "end", "states"):
            if not all(_same(getattr(self, name), getattr(p, name)) for p in others):
                raise GraphError(f"factor {self.label!r}: a union needs the same {name} in every part")
        found = [p.segments for p in parts if p.segments is not None]
        if not found:
            return self
        if len(found) < len(parts):
            raise GraphError(f"factor {self.label!r}: a union needs energies of segments in every part or in none")
        return dataclasses.replace(self, segments=torch.cat(found))


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))

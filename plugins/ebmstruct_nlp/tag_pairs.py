"""Pairs of tags as the states of a chain, which makes it one of second order; and back to tags."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ebmstruct import Assignment, FactorGraph
from ebmstruct_nlp.tag_chain import BLOCK, TagSchema

PAIRS = "tag_pairs"
"""The block of a graph whose states are pairs of tags."""


@dataclass(frozen=True, eq=False)
class TagPairs:
    """The P pairs (earlier tag, tag) that the scheme allows; a sentence's first token has nothing (K) before it.

    before, tag: (P,) long.  state: (K + 1, K) long, the state of each pair, -1 where there is none.
    """

    before: Tensor
    tag: Tensor
    state: Tensor

    @classmethod
    def of(cls, schema: TagSchema) -> TagPairs:
        """The pairs of a schema, in a fixed order: those with nothing before come last."""
        legal = torch.cat([schema.transition, schema.start[None]]).cpu()
        before, tag = legal.nonzero().T
        state = torch.full(legal.shape, -1)
        state[before, tag] = torch.arange(len(tag))
        return cls(before, tag, state)

    @property
    def steps(self) -> tuple[Tensor, Tensor]:
        """(M,), (M,) long: the pairs of states that may follow each other, those that share their middle tag."""
        fits = self.tag[:, None] == self.before
        return fits.nonzero(as_tuple=True)  # type: ignore[return-value]

    def encode(self, y: Assignment, offsets: Tensor) -> Assignment:
        """An assignment of tags as one of pairs; a pair is known where both of its tags are."""
        k = self.state.shape[1]
        tags = y[BLOCK]
        allowed = y.allowed.get(BLOCK)
        fine = torch.ones(len(tags), k, dtype=torch.bool) if allowed is None else allowed.clone()
        if BLOCK in y.known:
            fine &= (tags[:, None] == torch.arange(k)) | ~y.known[BLOCK][:, None]
        first = torch.zeros(len(tags), dtype=torch.bool)
        first[offsets[:-1][offsets.diff() > 0]] = True
        if BLOCK not in y.known and allowed is None:
            earlier = torch.where(first, k, torch.cat([tags[:1], tags[:-1]]))
            states = self.state[earlier, tags]
            if bool((states >= 0).all()):
                return Assignment({PAIRS: states})
            fine &= tags[:, None] == torch.arange(k)
        earlier_fine = torch.cat([torch.where(first[:, None], False, fine.roll(1, 0)), first[:, None]], 1)
        pairs = fine[:, self.tag] & earlier_fine[:, self.before]
        return Assignment({PAIRS: pairs.long().argmax(1)}, {PAIRS: pairs.sum(1) == 1}, {PAIRS: pairs})

    def known_tags(self, y: Assignment) -> tuple[Tensor, Tensor | None]:
        """(n,) tags of an assignment of pairs, and (n,) bool which of them are known, None for all."""
        tags = self.tag[y[PAIRS]]
        if PAIRS not in y.allowed:
            return tags, None
        other = y.allowed[PAIRS] & (self.tag != tags[:, None])
        return tags, y.allowed[PAIRS].any(1) & ~other.any(1)


def tags_of(y: Assignment, graph: FactorGraph, schema: TagSchema) -> tuple[Tensor, Tensor]:
    """(n,) long tags and (B + 1,) offsets of a complete assignment of tags or of pairs."""
    if PAIRS in graph.variables:
        return TagPairs.of(schema).tag[y[PAIRS]], graph.variables[PAIRS].offsets
    return y[BLOCK], graph.variables[BLOCK].offsets

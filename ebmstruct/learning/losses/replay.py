"""Where persistent chains stand between the steps of a training, as tensors that a checkpoint can hold.

Two layouts. ``shared``: one buffer of whole instances, from which each step takes some at random; for graphs whose
instances all have the same blocks of the same sizes. ``per_example``: chains of their own for each training example.

A shared buffer may be large, so it is changed in place, and yet no state that somebody holds loses its meaning. A state
is the buffer with *pending* rows, the ones that the step before has moved; they are written at the beginning of the next
step, not at the end of their own. Writing the same rows again changes nothing, so the newest state can be evaluated as
often as one likes, and a checkpoint of it, even one copied while its rows are being written, comes back whole. A state
that is older than the newest one that was used has lost its buffer; that is noticed by a mark in the buffer, and said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from ebmstruct.errors import LossRefusal
from ebmstruct.graph import Discrete, FactorGraph
from ebmstruct.inference.smooth_energy import clamped
from ebmstruct.learning.losses.chains import Values, noise, with_evidence

Layout = Literal["auto", "shared", "per_example"]


@dataclass(frozen=True, eq=False)
class Taken:
    """Chains taken for a step.

    values: block name to (C, n, ...).  buffer, rows: the shared buffer, and (C * B,) long, where in it they come from;
    None where each example has its own.  own: all chains kept for examples.
    """

    values: dict[str, Tensor]
    buffer: Mapping[str, Any] | None = None
    rows: Tensor | None = None
    own: Mapping[int, Mapping[str, Tensor]] | None = None


@dataclass(frozen=True)
class Replay:
    """How chains are kept.

    chains: of each instance.  size: instances in a shared buffer.  reinitialise: the share of chains that begins anew.
    """

    chains: int
    size: int
    reinitialise: float
    layout: Layout

    def take(self, graph: FactorGraph, state: Any, examples: Sequence[int] | None, generator: Generator) -> Taken:
        """The chains of a step; those that begin anew, and all the first time, are at noise. Errors: LossRefusal."""
        if self.layout_of(graph, state, examples) == "shared":
            return self._take_shared(graph, state, generator)
        assert examples is not None
        return self._take_own(graph, state, examples, generator)

    def put(
        self, graph: FactorGraph, taken: Taken, values: Values, examples: Sequence[int] | None, generator: Generator
    ) -> dict[str, Any]:
        """The state after a step that moved the chains taken to ``values``."""
        kept = {n: values[n].detach() for n in _kept_blocks(graph)}
        if taken.buffer is not None:
            pending = {n: v.reshape(-1, _each(graph, n), *v.shape[2:]) for n, v in kept.items()}
            mark = int(torch.randint(1, 1 << 62, (), generator=generator))
            before = int(taken.buffer["mark"])
            return {
                "layout": "shared", "buffer": taken.buffer, "pending": pending, "rows": taken.rows, "before": before,
                "mark": mark,
            }  # fmt: skip
        assert examples is not None and taken.own is not None
        parts = {n: v.split(graph.variables[n].lengths.tolist(), 1) for n, v in kept.items()}
        own = {int(e): {n: p[b].clone() for n, p in parts.items()} for b, e in enumerate(examples)}
        return {"layout": "per_example", "chains": {**taken.own, **own}}

    def layout_of(self, graph: FactorGraph, state: Any, examples: Sequence[int] | None) -> str:
        """Which of the two layouts a batch is kept in."""
        alike = all(bool((graph.variables[n].lengths == _each(graph, n)).all()) for n in _kept_blocks(graph))
        if self.layout == "shared" and not alike:
            raise LossRefusal(
                "a shared buffer needs instances that all have the same sizes, and these differ; use buffer: per_example"
            )
        if self.layout == "shared" or (self.layout == "auto" and alike and not _is(state, "per_example")):
            if not _is(state, "shared") or _fits(graph, state["buffer"]["values"]):
                return "shared"
            if self.layout == "shared":
                raise LossRefusal(
                    "the shared buffer holds instances of other sizes than those of this batch; use buffer: per_example"
                )
        if examples is None:
            raise LossRefusal(
                "chains of each example are kept by its number, and the numbers of these instances are not known; give "
                "examples, or use buffer: shared where all instances have the same sizes"
            )
        return "per_example"

    def _take_shared(self, graph: FactorGraph, state: Any, generator: Generator) -> Taken:
        count, wanted = self.chains, self.chains * graph.num_instances
        buffer = _written(state) if _is(state, "shared") else None
        if buffer is None or wanted > _length(buffer["values"]):
            buffer = self._fresh(graph, generator)
        rows = torch.randperm(_length(buffer["values"]), generator=generator)[:wanted]
        values = {n: v.index_select(0, rows).reshape(count, -1, *v.shape[2:]) for n, v in buffer["values"].items()}
        return Taken(self._renewed(graph, values, generator), buffer, rows)

    def _fresh(self, graph: FactorGraph, generator: Generator) -> dict[str, Any]:
        """A buffer of noise."""
        each = max(self.chains, -(-self.size // max(1, graph.num_instances)))
        length = max(self.size, self.chains * graph.num_instances)
        drawn = noise(graph, each, generator)
        values = {}
        for name in _kept_blocks(graph):
            own = drawn[name].reshape(-1, _each(graph, name), *drawn[name].shape[2:])
            values[name] = own[:length].contiguous()
        return {"values": values, "mark": torch.zeros(1, dtype=torch.long)}

    def _take_own(self, graph: FactorGraph, state: Any, examples: Sequence[int], generator: Generator) -> Taken:
        stored = state["chains"] if _is(state, "per_example") else {}
        lengths = {n: graph.variables[n].lengths.tolist() for n in _kept_blocks(graph)}
        parts: dict[str, list[Tensor]] = {n: [] for n in lengths}
        unknown = torch.zeros(graph.num_instances, dtype=torch.bool)
        for b, example in enumerate(examples):
            own = stored.get(int(example), {})
            unknown[b] = not all(n in own and own[n].shape[:2] == (self.chains, c[b]) for n, c in lengths.items())
            if not unknown[b]:
                for name, part in parts.items():
                    part.append(own[name])
        some = {n: torch.cat(p, 1) for n, p in parts.items() if p}
        return Taken(self._renewed(graph, some, generator, unknown), own=stored)

    def _renewed(
        self, graph: FactorGraph, found: Mapping[str, Tensor], generator: Generator, unknown: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Values of all blocks: what was found, of all instances that are not ``unknown`` (B,), and noise for the rest.

        Some of the (C, B) chains that were found begin anew at noise too.
        """
        anew = torch.rand(self.chains, graph.num_instances, generator=generator) < self.reinitialise
        anew = anew if unknown is None else anew | unknown
        if len(found) < len(graph.variables) or ((self.reinitialise > 0 or unknown is not None) and bool(anew.any())):
            chosen = noise(graph, self.chains, generator)
            for name, value in found.items():
                owner, other = graph.variables[name].instance, chosen[name]
                if unknown is not None:
                    value = other.index_copy(1, (~unknown[owner]).nonzero()[:, 0], value.to(other.dtype))
                mask = anew[:, owner].reshape(self.chains, -1, *[1] * (other.dim() - 2))
                chosen[name] = torch.where(mask, other.to(value.dtype), value)
        else:
            chosen = dict(found)
        for name, block in graph.variables.items():
            if isinstance(block.domain, Discrete):  # an instance may have fewer states than the one that left this
                chosen[name] = torch.minimum(chosen[name], (block.state_counts - 1).clamp(min=0))
        return with_evidence(graph, chosen, self.chains)


def _is(state: Any, layout: str) -> bool:
    return isinstance(state, Mapping) and state.get("layout") == layout


def _kept_blocks(graph: FactorGraph) -> list[str]:
    return [n for n in graph.variables if not clamped(graph, n)]


def _each(graph: FactorGraph, name: str) -> int:
    """How many sites the first instance has of a block."""
    lengths = graph.variables[name].lengths
    return int(lengths[0]) if lengths.numel() else 0


def _length(values: Mapping[str, Tensor]) -> int:
    return next((v.shape[0] for v in values.values()), 0)


def _fits(graph: FactorGraph, values: Mapping[str, Tensor]) -> bool:
    """Whether a buffer holds the blocks of a graph in their sizes."""
    names = _kept_blocks(graph)
    return set(names) == set(values) and all(values[n].shape[1] == _each(graph, n) for n in names)


def _written(state: Mapping[str, Any]) -> dict[str, Any]:
    """The buffer of a state with its pending rows written, in place."""
    buffer = state["buffer"]
    mark = int(buffer["mark"])
    if mark not in (state["before"], state["mark"]):
        raise LossRefusal(
            "this state of persistent chains is older than the last one used, and its buffer has gone on in place; keep a "
            "deep copy of a state to which you mean to return"
        )
    if mark != state["mark"]:
        for name, value in buffer["values"].items():
            value.index_copy_(0, state["rows"], state["pending"][name].to(value.dtype))
        buffer["mark"].fill_(state["mark"])
    return dict(buffer)

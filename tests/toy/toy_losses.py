"""A loss that remembers: a chain of labels for every example, and a buffer of random numbers, from step to step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.learning import Loss, LossValue
from ebmstruct.learning.losses.base import Margin, Setting, compared


@dataclass(frozen=True)
class Replay(Loss):
    """E(target) - E(chain), the chain of each example kept from visit to visit and moved by a Gibbs sweep at each.

    buffer: rows of a tensor that is kept too, a few of which change at each step and lend the sweep its noise.
    """

    name: ClassVar[str] = "replay"
    margin: ClassVar[Margin] = "none"

    buffer: int = 1000

    def evaluate(self, graph: FactorGraph, target: Assignment, setting: Setting) -> LossValue:
        """The difference of the energies, and the chains as they are now."""
        state: dict[str, Any] = setting.state or {
            "chains": {},
            "buffer": torch.rand(self.buffer, 16, generator=setting.generator),
            "calls": 0,
        }
        block = graph.variables["y"]
        keys = list(setting.examples or range(graph.num_instances))
        kept = state["chains"]
        parts = [
            kept.get(key, torch.randint(2, (length,), generator=setting.generator))
            for key, length in zip(keys, block.lengths.tolist(), strict=True)
        ]
        chain = self._sweep(graph, torch.cat(parts), setting, state["buffer"])
        correct, incorrect = graph.energy(target), graph.energy(Assignment({"y": chain}))
        chains = {**kept, **dict(zip(keys, chain.split(block.lengths.tolist()), strict=True))}
        calls = state["calls"] + 1
        buffer = state["buffer"].clone()
        buffer[calls % self.buffer] = torch.rand(16, generator=setting.generator)
        kept = {"chains": chains, "buffer": buffer, "calls": calls}
        return compared(correct, incorrect, correct - incorrect, kept)

    def _sweep(self, graph: FactorGraph, chain: Tensor, setting: Setting, buffer: Tensor) -> Tensor:
        """Every even, then every odd site drawn anew given the others; a row of the buffer tilts the draw."""
        place = torch.arange(chain.numel()) - graph.variables["y"].offsets[:-1].repeat_interleave(
            graph.variables["y"].lengths
        )
        tilt = buffer[int(torch.randint(buffer.shape[0], (), generator=setting.generator))].mean()
        with torch.no_grad():
            for parity in (0, 1):
                rates = torch.softmax(-graph.conditionals("y", Assignment({"y": chain})).double() * (0.5 + tilt), 1)
                drawn = torch.multinomial(rates, 1, generator=setting.generator)[:, 0]
                chain = torch.where(place % 2 == parity, drawn, chain)
        return chain

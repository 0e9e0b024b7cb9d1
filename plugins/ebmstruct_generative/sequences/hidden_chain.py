"""The energy ``generative.hidden_chain``: a chain of hidden states, each of which prefers some symbols."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ebmstruct import Discrete, EnergyModel, FactorGraph, TableFactor, Variables
from ebmstruct.energies.chain import Transitions
from ebmstruct_generative.sequences.schema import SYMBOLS, SequenceSchema

STATES = "states"
"""The latent block: one site a place of a sequence."""


class HiddenChain(EnergyModel):
    """E(h, y) = sum_t A[h_{t-1}, h_t] + start[h_1] + end[h_T] + B[h_t, y_t]: a hidden Markov field over symbols.

    The hidden states h are latent: the loss sums them out, ``ebmstruct latents`` infers them. Sums, minima and draws are
    exact, given the length of a sequence and whatever of its symbols is known. Weights need no normalisation, unlike those
    of a hidden Markov model (Rabiner 1989); the distributions over sequences of one length are the same family.

    states: how many hidden ones.  scale: of the random weights at the start, without which all states stay alike.
    Cost: O(length states^2).
    """

    def __init__(self, schema: SequenceSchema, *, states: int = 32, scale: float = 0.5) -> None:
        super().__init__()
        if states < 1:
            raise ValueError(f"states must be at least 1; found {states}")
        self.transition = Transitions(states)
        self.emission = nn.Parameter(scale * torch.randn(states, len(schema.symbols)))
        with torch.no_grad():
            self.transition.transition.copy_(scale * torch.randn(states, states))
        self.states, self.symbols, self.lengths = states, len(schema.symbols), (schema.lengths, schema.shares)

    def forward(self, inputs: Any) -> FactorGraph:
        lengths = torch.tensor([x["length"] for x in inputs], dtype=torch.long, device=self.device)
        hidden = Variables.of_lengths(STATES, Discrete(self.states), lengths)
        symbols = Variables(SYMBOLS, Discrete(self.symbols), hidden.offsets)
        each = torch.arange(hidden.num_sites, device=self.device)
        index = torch.stack([each, each])
        emission = TableFactor((STATES, SYMBOLS), "emission", self.emission.reshape(-1), index, torch.zeros_like(each))
        return FactorGraph([hidden, symbols], [self.transition.factor(STATES, "transition"), emission])

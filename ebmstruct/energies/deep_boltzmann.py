"""Deep Boltzmann machines: layers of hidden units above the visible ones, each joined to its neighbours only."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor, nn

from ebmstruct.energies.model import EnergyModel
from ebmstruct.energies.rbm import log_odds
from ebmstruct.energies.shared_topology import graph_of
from ebmstruct.graph import Assignment, BilinearFactor, Discrete, Factor, FactorGraph, TableFactor, Variables


class DeepBoltzmannMachine(EnergyModel):
    """E(v, h1, h2, ...) = -sum_l b_l x_l - sum_l (x_l - m_l)^T W_l (x_{l+1} - m_{l+1}), x_0 = v and x_l = h_l of 0 and 1.

    Salakhutdinov and Hinton 2009. Units enter their products less the offsets m (1/2 above, the data's means below, which a
    training finds at its start): without that the upper layers do not learn from random weights (Montavon and Mueller
    2012). What that adds to the energies of all states alike is left out.
    With ``states`` K > 2 visible units are categorical, as in ``BoltzmannMachine``.

    visible: how many units.  hidden: units of each hidden layer, from the visible ones up; two or more layers.
    Blocks: ``visible_block``, and ``hidden_block`` with 1, 2, ... behind it, which are latent.
    An input may be anything: only how many there are counts. Parameters: visible_bias, bias1 ..., weight1 ....
    Inference: block Gibbs sampling by odd and even layers; annealed importance sampling, which sums out every other layer.
    Train by ``persistent_contrastive_divergence``: one hidden layer is summed out, the others are drawn given the data.
    Posterior means of hidden units are estimates: given v, two layers still depend on each other.
    """

    def __init__(
        self,
        visible: int,
        hidden: Sequence[int],
        *,
        states: int = 2,
        weight_spread: float = 0.01,
        visible_block: str = "v",
        hidden_block: str = "h",
    ) -> None:
        super().__init__()
        free = 1 if states == 2 else states
        self.visible, self.hidden, self.states = visible, tuple(hidden), states
        self.visible_bias = nn.Parameter(torch.zeros(visible, free))
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(count)) for count in self.hidden)
        widths = [visible * free, *self.hidden]
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(a, b) * weight_spread) for a, b in pairwise(widths))
        self.visible_offset: Tensor
        self.register_buffer("visible_offset", torch.full((visible, free), 1.0 / states))
        self.blocks = (visible_block, *(f"{hidden_block}{level}" for level in range(1, len(self.hidden) + 1)))

    def forward(self, inputs: Any) -> FactorGraph:
        count, free = len(inputs), self.visible_bias.shape[1]
        factors: list[Factor] = []
        for name, bias in zip(self.blocks, self._plain_biases(), strict=True):
            table = -bias if bias.shape[1] == self._states(name) else torch.cat([torch.zeros_like(bias), -bias], 1)
            starts = torch.arange(0, table.numel(), table.shape[1], device=table.device).repeat(count)
            factors.append(TableFactor((name,), f"bias of {name}", table.reshape(-1), starts=starts))
        for (a, b), weight, width in zip(
            pairwise(self.blocks), self.weights, (free, *(1 for _ in self.hidden)), strict=False
        ):
            shape = (weight.shape[0] // width, width, weight.shape[1], 1)
            factors.append(BilinearFactor((a, b), f"{a} to {b}", -weight.reshape(shape)))
        return graph_of(self, (count, self.device), factors, lambda: self._variables(count))

    def _variables(self, count: int) -> list[Variables]:
        steps = torch.arange(count + 1, device=self.device)
        sizes = (self.visible, *self.hidden)
        return [Variables(n, Discrete(self._states(n)), steps * s) for n, s in zip(self.blocks, sizes, strict=True)]

    def _states(self, name: str) -> int:
        return self.states if name == self.blocks[0] else 2

    def _plain_biases(self) -> list[Tensor]:
        """(n, k) of each layer: the biases of units without offsets."""
        offsets = [self.visible_offset.reshape(-1), *(torch.full_like(b, 0.5) for b in self.biases)]
        plain = [self.visible_bias.reshape(-1), *self.biases]
        for level, weight in enumerate(self.weights):
            plain[level] = plain[level] - weight @ offsets[level + 1]
            plain[level + 1] = plain[level + 1] - offsets[level] @ weight
        return [plain[0].reshape(self.visible_bias.shape), *(b[:, None] for b in plain[1:])]

    @property
    def initialises(self) -> bool:
        return True

    @torch.no_grad()
    def initialise(self, graph: FactorGraph, target: Assignment, generator: Generator) -> None:
        """Put visible biases at the log odds of the target's units, and their offsets at the means."""
        bias, chance = log_odds(target, self.blocks[0], self.visible, self.states, self.visible_bias.dtype)
        self.visible_bias.copy_(bias + (self.weights[0].sum(1) * 0.5).reshape(bias.shape))
        self.visible_offset.copy_(chance)

    def filters(self) -> Tensor:
        """(H, V): the weights of the units of the first hidden layer."""
        weight = self.weights[0].detach()
        if self.states == 2:
            return weight.T
        steps = torch.linspace(-1, 1, self.states).to(weight)
        return torch.einsum("vkh,k->hv", weight.reshape(self.visible, self.states, -1), steps)

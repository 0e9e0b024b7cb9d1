"""Restricted Boltzmann machines: visible and hidden units, joined to each other and not among themselves."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from ebmstruct.energies.experts import vectors
from ebmstruct.energies.model import EnergyModel
from ebmstruct.energies.shared_topology import graph_of
from ebmstruct.errors import GraphError
from ebmstruct.graph import (
    Assignment,
    BilinearFactor,
    BlockFactor,
    Discrete,
    Factor,
    FactorGraph,
    ResidualFactor,
    TableFactor,
    Variables,
)

Form = Literal["joint", "free"]


class BoltzmannMachine(EnergyModel):
    """A restricted Boltzmann machine with binary or categorical visible units and binary hidden ones.

    E(v, h) = -sum_i b_i[v_i] - sum_j c_j h_j - sum_ij W_ij[v_i] h_j (Smolensky 1986; softmax visible units:
    Salakhutdinov, Mnih and Hinton 2007). With two states b_i[0] and W_ij[0] are zero, so that b, c, W are the usual ones.

    visible, hidden: how many units.  states: K of a visible unit.
    form: ``joint``, a graph of two blocks, of which ``hidden_block`` is latent: a target does not know it, a query sums it
    out, Gibbs sampling draws the blocks in turn; ``free``, the visible block alone with the free energy
    F(v) = -sum_i b_i[v_i] - sum_j softplus(c_j + sum_i W_ij[v_i]), also of weights in place of states.
    centred: units enter the energy less what they are on average, v - m and h - 1/2, with m found at the start of a
    training (Montavon and Mueller 2012): the same distributions by other parameters, whose gradients disturb each other
    less; what that adds to the energies of all states alike is left out.
    weight_spread: standard deviation of the first weights.
    An input may be anything: only how many there are counts. Parameters: visible_bias, hidden_bias, weight. A training
    begins with visible biases at the log odds of the training data (``initialise``).
    Cost: a product of matrices in both forms. Log partition: exact where the fewer units of either side are about 20.
    """

    def __init__(
        self,
        visible: int,
        hidden: int,
        *,
        states: int = 2,
        form: Form = "joint",
        centred: bool = False,
        weight_spread: float = 0.01,
        visible_block: str = "v",
        hidden_block: str = "h",
    ) -> None:
        super().__init__()
        if min(visible, hidden) < 1 or states < 2 or not 0 <= weight_spread < math.inf:
            raise GraphError(
                "a Boltzmann machine needs visible and hidden units, two states or more, and weight_spread from 0 up; "
                f"found {visible}, {hidden}, {states} and {weight_spread}"
            )
        free = 1 if states == 2 else states
        self.visible_bias = nn.Parameter(torch.zeros(visible, free))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        self.weight = nn.Parameter(torch.randn(visible, free, hidden) * weight_spread)
        self.visible_offset: Tensor | None
        self.register_buffer("visible_offset", torch.full((visible, free), 1.0 / states) if centred else None)
        self.visible, self.hidden, self.states, self.form = visible, hidden, states, form
        self.visible_block, self.hidden_block = visible_block, hidden_block
        self.free_energy = FreeEnergyOfHidden()

    def forward(self, inputs: Any) -> FactorGraph:
        count = len(inputs)
        v, h = self.visible_block, self.hidden_block
        visible, hidden = self.biases()
        factors: list[Factor] = [self._single(v, "visible", -self._of_states(visible), count)]
        if self.form == "free":
            given = tuple(t.expand(count, *t.shape) for t in (hidden, self._of_states(self.weight).flatten(0, 1)))
            factors.append(BlockFactor((v,), "hidden", self.free_energy, given, relaxed=True))
        else:
            own = torch.stack([torch.zeros_like(hidden), -hidden], 1)
            factors.append(self._single(h, "hidden", own, count))
            factors.append(BilinearFactor((v, h), "weight", -self.weight[..., None]))
        return graph_of(self, (count, self.device, self.form, v, h), factors, lambda: self._variables(count))

    def _single(self, block: str, label: str, tables: Tensor, count: int) -> TableFactor:
        """One table a site (n, K), shared by the instances."""
        starts = torch.arange(0, tables.numel(), tables.shape[1], device=tables.device).repeat(count)
        return TableFactor((block,), label, tables.reshape(-1), starts=starts)

    def _variables(self, count: int) -> list[Variables]:
        steps = torch.arange(count + 1, device=self.device)
        v = Variables(self.visible_block, Discrete(self.states), steps * self.visible)
        return [v] if self.form == "free" else [v, Variables(self.hidden_block, Discrete(2), steps * self.hidden)]

    def biases(self) -> tuple[Tensor, Tensor]:
        """(V, k) and (H,): the biases of units that are not centred, k being 1 with two states."""
        if self.visible_offset is None:
            return self.visible_bias, self.hidden_bias
        hidden = self.hidden_bias - torch.einsum("vk,vkh->h", self.visible_offset, self.weight)
        return self.visible_bias - 0.5 * self.weight.sum(2), hidden

    @property
    def initialises(self) -> bool:
        return True

    @torch.no_grad()
    def initialise(self, graph: FactorGraph, target: Assignment, generator: Generator) -> None:
        """Put visible biases at the log odds of the target's units, and the offsets of centred units at their means."""
        bias, chance = log_odds(target, self.visible_block, self.visible, self.states, self.weight.dtype)
        self.visible_bias.copy_(bias)
        if self.visible_offset is not None:
            self.visible_offset.copy_(chance)
            self.visible_bias.add_(0.5 * self.weight.sum(2))

    def filters(self) -> Tensor:
        """(H, V): the weights of each hidden unit, to be drawn; of categorical units the slope over their states."""
        weight = self.weight.detach()
        if self.states == 2:
            return weight[:, 0].T
        steps = torch.linspace(-1, 1, self.states).to(weight)
        return torch.einsum("vkh,k->hv", weight - weight.mean(1, keepdim=True), steps / steps.square().sum())

    def _of_states(self, parameter: Tensor) -> Tensor:
        """A parameter (visible, K, ...): with two states the first has none."""
        if self.states != 2:
            return parameter
        return torch.cat([torch.zeros_like(parameter), parameter], 1)


def log_odds(target: Assignment, block: str, units: int, states: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(V, k) the log odds of the units that a target knows, a count of one added, and (V, k) their chances.

    k is 1 with two states, for the odds of the second; else the log chances of all K.
    """
    seen = torch.nn.functional.one_hot(target[block].reshape(-1, units), states).to(dtype)
    known = target.known.get(block)
    if known is not None:
        seen = seen * known.reshape(-1, units, 1)
    count = seen.sum(0)
    chance = (count + 1.0 / states) / (count.sum(1, keepdim=True) + 1.0)
    if states == 2:
        return (chance[:, 1:] / chance[:, :1]).log(), chance[:, 1:]
    return chance.log(), chance


class FreeEnergyOfHidden(nn.Module):
    """-sum_j softplus(c_j + sum_ik w_ik W_ikj): hidden units summed out, visible weights w (B V, K)."""

    def forward(self, weights: Tensor, bias: Tensor, weight: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        """(B,) of weights (B V, K), bias (B, H) and weight (B, V K, H), the same in every instance."""
        flat = weights.reshape(bias.shape[0], weight.shape[1]).to(weight.dtype)
        answer = torch.einsum("bv,bvh->bh", flat, weight)
        return -nn.functional.softplus(bias + answer).sum(1)


class GaussianBoltzmannMachine(EnergyModel):
    """A restricted Boltzmann machine with Gaussian visible units and binary hidden ones.

    E(v, h) = sum_i (v_i - b_i)^2 / (2 s_i^2) - sum_j c_j h_j - sum_ij (v_i / s_i) W_ij h_j (Hinton and Salakhutdinov 2006;
    spreads s as Krizhevsky 2009).

    dim, hidden: how many units. The visible block is one site of ``Real(dim)``.
    form: ``joint``, two blocks. The square of v is shared out among the hidden units, so that the energy is a sum of
    squares that are linear in v and of tables over h: solvers of conditional Gaussians are exact on it (given h, v is
    Gaussian), and Gibbs sampling draws the blocks in turn.
    ``free``: F(v) = sum_i (v_i - b_i)^2 / (2 s_i^2) - sum_j softplus(c_j + sum_i v_i W_ij / s_i), smooth.
    An input may be anything: only how many there are counts. Parameters: visible_bias (d,), log_spread (d,), hidden_bias
    (H,), weight (d, H).
    """

    def __init__(
        self, dim: int, hidden: int, *, form: Form = "joint", visible_block: str = "v", hidden_block: str = "h"
    ) -> None:
        super().__init__()
        if min(dim, hidden) < 1:
            raise GraphError(f"a Boltzmann machine needs visible and hidden units; found {dim} and {hidden}")
        self.visible_bias = nn.Parameter(torch.zeros(dim))
        self.log_spread = nn.Parameter(torch.zeros(dim))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        self.weight = nn.Parameter(torch.randn(dim, hidden) * 0.01)
        self.dim, self.hidden, self.form = dim, hidden, form
        self.visible_block, self.hidden_block = visible_block, hidden_block
        self.squares, self.free_energy = ShareOfSquare(), GaussianFreeEnergy()

    def forward(self, inputs: Any) -> FactorGraph:
        count, device = len(inputs), self.device
        v = vectors(self.visible_block, self.dim, count, device)
        spread = self.log_spread.exp()
        if self.form == "free":
            given = (self.visible_bias, spread, self.hidden_bias, self.weight)
            function = BlockFactor(
                (v.name,), "hidden", self.free_energy, tuple(t.expand(count, *t.shape) for t in given)
            )
            return FactorGraph([v], [function])
        h = Variables(self.hidden_block, Discrete(2), torch.arange(count + 1, device=device) * self.hidden)
        index, rows = all_pairs(count, 1, self.hidden, device)
        # sum_i ((v_i - b_i) / (s_i r) - r W_ij h_j)^2 / 2 with r^2 hidden units has terms of h alone, which go back here
        root = self.hidden**0.5
        alone = (self.visible_bias / spread) @ self.weight + 0.5 * self.hidden * self.weight.square().sum(0)
        hidden = torch.stack([torch.zeros_like(alone), -self.hidden_bias - alone], 1)
        shared = (self.visible_bias, 1 / (spread * root))
        parameters = (*(t.expand(rows.numel(), -1) for t in shared), (root * self.weight.T).repeat(count, 1))
        squares = ResidualFactor((v.name, h.name), "weight", self.squares, index, parameters, linear=True)
        return FactorGraph([v, h], [TableFactor((h.name,), "hidden", hidden.repeat(count, 1)), squares])

    @property
    def initialises(self) -> bool:
        return True

    @torch.no_grad()
    def initialise(self, graph: FactorGraph, target: Assignment, generator: Generator) -> None:
        """Put visible biases and spreads at the means and standard deviations of the target's vectors."""
        x, known = target[self.visible_block], target.known.get(self.visible_block)
        x = x if known is None else x[known]
        if x.shape[0] > 1:
            self.visible_bias.copy_(x.mean(0))
            self.log_spread.copy_(x.std(0).clamp(min=1e-2).log())

    def filters(self) -> Tensor:
        """(H, d): the weights of each hidden unit times the spreads: what it adds to the mean of the visible units."""
        return (self.weight * self.log_spread.exp()[:, None]).detach().T


class ShareOfSquare(nn.Module):
    """(v - b) p - h w: what one hidden unit sees of the visible units, affine in v."""

    def forward(self, v: Tensor, h: Tensor, bias: Tensor, precision: Tensor, weight: Tensor) -> Tensor:
        """(m, d) of v (m, d) and states h (m,)."""
        return (v - bias) * precision - h[:, None].to(v.dtype) * weight


class GaussianFreeEnergy(nn.Module):
    """sum_i (v_i - b_i)^2 / (2 s_i^2) - sum_j softplus(c_j + sum_i v_i W_ij / s_i)."""

    def forward(
        self, v: Tensor, bias: Tensor, spread: Tensor, hidden: Tensor, weight: Tensor, offsets: tuple[Tensor, ...]
    ) -> Tensor:
        """(B,) of v (B, d); the others are the same in every instance."""
        answer = hidden + torch.einsum("bd,bdh->bh", v / spread, weight.to(v.dtype))
        return 0.5 * ((v - bias) / spread).square().sum(1) - nn.functional.softplus(answer).sum(1)


def all_pairs(count: int, first: int, second: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(2, count * first * second) long: all pairs of sites of two blocks; and the number of each within its instance."""
    rows = torch.arange(first * second, device=device)
    instance = torch.arange(count, device=device)[:, None]
    left, right = instance * first + rows // second, instance * second + rows % second
    return torch.stack([left.reshape(-1), right.reshape(-1)]), rows.repeat(count)

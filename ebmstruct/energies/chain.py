"""Linear chains: energies of sites from their features, and energies of neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ebmstruct.energies.encoders import encoded
from ebmstruct.energies.inputs import Sites
from ebmstruct.energies.model import EnergyModel
from ebmstruct.graph import ChainFactor, Discrete, FactorGraph, TableFactor, Variables


class Transitions(nn.Module):
    """Energies of neighbouring states and of both ends: learned where they are allowed, infinite where they are not.

    Parameters, all zero at first: transition (K, K), rows are the earlier site; start (K,); end (K,).
    allowed_start, allowed_transition, allowed_end: bool tensors of these shapes; None allows everything.
    """

    forbidden_start: Tensor | None
    forbidden_transition: Tensor | None
    forbidden_end: Tensor | None

    def __init__(
        self,
        states: int,
        *,
        allowed_start: Tensor | None = None,
        allowed_transition: Tensor | None = None,
        allowed_end: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.transition = nn.Parameter(torch.zeros(states, states))
        self.start = nn.Parameter(torch.zeros(states))
        self.end = nn.Parameter(torch.zeros(states))
        for name, mask in (("start", allowed_start), ("transition", allowed_transition), ("end", allowed_end)):
            self.register_buffer(f"forbidden_{name}", None if mask is None else ~mask, persistent=False)

    def factor(self, block: str, label: str, extra: Tensor | None = None) -> ChainFactor:
        """The chain factor over a block; extra: (n, K, K) energies added to each site's step from the one before."""
        transition = self.transition if extra is None else self.transition + extra
        return ChainFactor(
            (block,),
            label,
            _forbid(transition, self.forbidden_transition),
            _forbid(self.start, self.forbidden_start),
            _forbid(self.end, self.forbidden_end),
        )

    def graph(
        self, sites: Tensor, offsets: Tensor, block: str, *, label: str = "site", extra: Tensor | None = None
    ) -> FactorGraph:
        """One chain an instance.

        sites: (n, K) energies of each site's states, the factor ``label``.  offsets: (B + 1,) long, where each begins.
        """
        variables = Variables(block, Discrete(sites.shape[1]), offsets)
        return FactorGraph([variables], [TableFactor((block,), label, sites), self.factor(block, "transition", extra)])


def _forbid(energy: Tensor, forbidden: Tensor | None) -> Tensor:
    return energy if forbidden is None else energy.masked_fill(forbidden, torch.inf)


class ChainEnergy(EnergyModel):
    """A linear-chain conditional random field (Lafferty, McCallum and Pereira 2001).

    E(x, y) = sum_t (W h_t + b)[y_t] + sum_t A[y_{t-1}, y_t] + start[y_1] + end[y_T],  h = encoder(x).

    width: of the vectors h_t, which are the features themselves without an encoder.  states: K.
    encoder: any module that maps features (n, F) to (n, width), or a `ContextEncoder`, which sees the sites around.
    transitions: ``shared``, one table A for all steps; ``sites``, A + V [h_{t-1}, h_t] for each step, where V starts at
    zero.  transition: made with `Transitions`, where some steps are forbidden.
    block: the name of the block of outputs.  An input is a tensor (n, F).
    Inference: exact, by the chain kernel. Cost of the energy O(n K width), for ``sites`` O(n K^2 width).
    """

    def __init__(
        self,
        width: int,
        states: int,
        *,
        encoder: nn.Module | None = None,
        transitions: Literal["shared", "sites"] = "shared",
        transition: Transitions | None = None,
        block: str = "y",
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.output = nn.Linear(width, states)
        self.transition = Transitions(states) if transition is None else transition
        self.step = nn.Linear(2 * width, states * states, bias=False) if transitions == "sites" else None
        if self.step is not None:
            nn.init.zeros_(self.step.weight)
        self.states, self.block = states, block

    def prepare(self, xs: Sequence[Any]) -> Sites:
        return Sites.of(xs)

    def forward(self, inputs: Sites) -> FactorGraph:
        sites = inputs.to(self.device)
        h = encoded(self.encoder, sites.features, sites.offsets)
        return self.graph_of(h, sites.offsets)

    def graph_of(self, h: Tensor, offsets: Tensor) -> FactorGraph:
        """The chain over sites with vectors h (n, width)."""
        extra = None
        if self.step is not None:
            before = torch.cat([h[:1], h[:-1]])
            extra = self.step(torch.cat([before, h], 1)).reshape(-1, self.states, self.states)
        return self.transition.graph(self.output(h), offsets, self.block, extra=extra)

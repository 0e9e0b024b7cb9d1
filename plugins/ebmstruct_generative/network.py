"""The plainest energy of records: a network from a vector to a number, kept near the data by a square."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ebmstruct import BlockFactor, EnergyModel, FactorGraph, Real, Variables
from ebmstruct.errors import GraphError
from ebmstruct_generative.records import RECORD, RecordSchema

Activation = Literal["silu", "softplus", "gelu", "tanh", "leaky_relu"]
"""All but the last have derivatives of every order."""

ACTIVATIONS: dict[str, type[nn.Module]] = {
    **{"silu": nn.SiLU, "softplus": nn.Softplus, "gelu": nn.GELU, "tanh": nn.Tanh, "leaky_relu": nn.LeakyReLU},
}


class ScalarNetwork(nn.Module):
    """(B,) energies of vectors (B, d): E(x) = f(x) + |x|^2 / (2 spread^2), f a multi-layer perceptron.

    frequencies: so many waves sin(w^T x) and cos(w^T x), w normal with standard deviation ``frequency``, are given to f
    beside x (Tancik et al. 2020): without them a perceptron is slow to learn valleys that are narrow.
    spectral: every layer is divided by an estimate of its largest singular value (Miyato et al. 2018) and the output
    multiplied by ``slope``, which then bounds the slope of f up to that of the activations (at most 1.13 each) and of the
    waves. In training the estimate is improved at each evaluation. Cost: depth * width^2 multiplications an instance.
    """

    def __init__(
        self,
        dim: int,
        *,
        width: int,
        depth: int,
        activation: Activation,
        spread: float,
        spectral: bool,
        slope: float,
        frequencies: int,
        frequency: float,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.waves: Tensor | None
        self.register_buffer("waves", frequency * torch.randn(dim, frequencies) if frequencies else None)
        layers: list[nn.Module] = []
        for k in range(depth):
            layers += [nn.Linear(dim + 2 * frequencies if k == 0 else width, width), ACTIVATIONS[activation]()]
        layers.append(nn.Linear(width, 1))
        if spectral:
            layers = [spectral_norm(m) if isinstance(m, nn.Linear) else m for m in layers]
        self.layers = nn.Sequential(*layers)
        self.pull = 0.5 / spread**2
        self.slope = slope if spectral else 1.0

    def forward(self, x: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        """(B,) of x: (B, d), one site an instance, or (B d, 1)."""
        x = x.to(next(self.parameters()).dtype).reshape(-1, self.dim)
        seen = x
        if self.waves is not None:
            turn = x @ self.waves
            seen = torch.cat([x, turn.sin(), turn.cos()], 1)
        out: Tensor = self.layers(seen)[:, 0]
        if self.slope != 1.0:
            out = self.slope * out
        return torch.add(out, x.square().sum(1), alpha=self.pull)


class Network(EnergyModel):
    """E(x) = f(x) + |x|^2 / (2 spread^2) over records as vectors, f a multi-layer perceptron with one output.

    width, depth: of the hidden layers.  activation: smooth ones make an energy whose slope samplers can follow; with
    ``leaky_relu`` it has kinks.  spread: of the normal density that the network bends; wide against the data.
    frequencies, frequency: waves beside x (see ``ScalarNetwork``); none: 16 for records of up to four numbers, else 0.
    sites: whether parts of a record may be known (each number a site of its own), which makes steps a little slower.
    spectral, slope: bound the slope of f (see ``ScalarNetwork``); without them nothing does.
    Inference: minimisers and samplers of smooth energies. Trained by ``persistent_contrastive_divergence``.
    """

    def __init__(
        self,
        schema: RecordSchema,
        *,
        width: int = 128,
        depth: int = 2,
        activation: Activation = "silu",
        spread: float = 1.5,
        spectral: bool = False,
        slope: float = 30.0,
        frequencies: int | None = None,
        frequency: float = 2.0,
        sites: bool = False,
    ) -> None:
        super().__init__()
        if min(width, depth) < 1 or not (spread > 0 and slope > 0 and max(spread, slope) < math.inf):
            raise GraphError(
                "width and depth must be at least 1, spread and slope positive and finite; found "
                f"{width}, {depth}, {spread}, {slope}"
            )
        if activation not in ACTIVATIONS:
            raise GraphError(f"activation must be one of {', '.join(ACTIVATIONS)}; found {activation!r}")
        self.dim, self.sites = schema.dim, sites
        self.network = ScalarNetwork(
            schema.dim, width=width, depth=depth, activation=activation, spread=spread, spectral=spectral, slope=slope,
            frequencies=_waves(schema.dim) if frequencies is None else frequencies, frequency=frequency,
        )  # fmt: skip

    def forward(self, inputs: Any) -> FactorGraph:
        each, size = (self.dim, 1) if self.sites else (1, self.dim)
        block = Variables(RECORD, Real(size), each * torch.arange(len(inputs) + 1, device=self.device))
        return FactorGraph([block], [BlockFactor((RECORD,), "network", self.network)])


def _waves(dim: int) -> int:
    """How many waves are usual: enough to lay a pattern over a space of few dimensions, none where they cannot."""
    return 16 if dim <= 4 else 0

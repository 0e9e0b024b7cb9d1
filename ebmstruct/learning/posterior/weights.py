"""The weights of a model as one vector, and draws of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ebmstruct.errors import ConfigError, GraphError
from ebmstruct.inference.diagnostics import Figures, figures


@dataclass(frozen=True)
class WeightLayout:
    """How the trained weights of a model lie in a vector of P numbers: one parameter after the other.

    names, shapes: of the parameters that are in it.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, model: nn.Module, patterns: Sequence[str] = ("*",)) -> WeightLayout:
        """The layout of the parameters that can be trained and whose name a pattern means.

        Errors: ConfigError where a pattern means none, or where there is none at all.
        """
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        idle = [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in trained)]
        if idle or not trained:
            have = ", ".join(trained) or "none"
            raise ConfigError([f"posterior.parameters: {', '.join(idle)} means no trained weights; there are {have}"])
        kept = {n: p for n, p in trained.items() if any(fnmatchcase(n, pattern) for pattern in patterns)}
        return cls(tuple(kept), tuple(tuple(p.shape) for p in kept.values()))

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many numbers each parameter has."""
        return tuple(prod(shape) for shape in self.shapes)

    @property
    def size(self) -> int:
        """P."""
        return sum(self.sizes)

    def vector(self, model: nn.Module) -> Tensor:
        """(P,) float64: a copy of the weights as they are now."""
        own = dict(model.named_parameters())
        return torch.cat([own[name].detach().reshape(-1).double().cpu() for name in self.names])

    def parts(self, vectors: Tensor) -> dict[str, Tensor]:
        """Name to (..., *shape): the parameters in vectors (..., P)."""
        pieces = vectors.split(self.sizes, -1)
        return {
            n: v.unflatten(-1, s) if s else v[..., 0] for n, s, v in zip(self.names, self.shapes, pieces, strict=True)
        }


@dataclass(frozen=True, eq=False)
class WeightDraws:
    """S draws of the weights of a model from their posterior.

    values: (S, P) float32; draw s is of chain s % chains.  layout: what the numbers are.  chains: C.
    centre: (P,) float64, the weights about which the chains ran.  scale: (P,) the spread that curvature there promises.
    facts: sampler, step size, gradients, seconds and the like, JSON values.  warnings: what a reader should know.
    """

    values: Tensor
    layout: WeightLayout
    chains: int
    centre: Tensor | None = None
    scale: Tensor | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.values.shape[0]

    def tensors(self) -> dict[str, Tensor]:
        """Name of a parameter to (S, *shape), as a run keeps them."""
        return self.layout.parts(self.values)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], chains: int, facts: Mapping[str, Any]) -> WeightDraws:
        """The draws that ``tensors`` gave; GraphError where they are not of one number."""
        counts = {t.shape[0] if t.dim() else 0 for t in tensors.values()}
        if len(counts) != 1 or 0 in counts:
            raise GraphError(f"draws of weights need one number of draws for every parameter; found {sorted(counts)}")
        layout = WeightLayout(tuple(tensors), tuple(tuple(t.shape[1:]) for t in tensors.values()))
        values = torch.cat([t.reshape(t.shape[0], -1) for t in tensors.values()], 1)
        return cls(values, layout, chains, facts=facts, warnings=tuple(facts.get("warnings", ())))

    def by_chain(self) -> Tensor:
        """(D, C, P): the draws chain by chain."""
        whole = len(self) // self.chains
        return self.values[: whole * self.chains].reshape(whole, self.chains, -1)

    @property
    def mean(self) -> Tensor:
        """(P,) float64: means over draws."""
        return self.values.double().mean(0)

    @property
    def spread(self) -> Tensor:
        """(P,) float64: standard deviations over draws."""
        return self.values.double().std(0) if len(self) > 1 else torch.zeros(self.layout.size, dtype=torch.float64)

    def diagnose(self) -> Figures:
        """R-hat, effective draws and standard errors of every weight, (P,) each; NaN where they cannot be told."""
        return figures(self.by_chain().double())

    def spaced(self, count: int) -> Tensor:
        """(count,) long: numbers of draws, all different, of which any first few lie far apart in every chain.

        They go through the chains in turn, and through each chain in the order of van der Corput (1935).
        """
        rounds = -(-len(self) // self.chains)
        order = sorted(range(rounds), key=_radical_inverse)
        picked = [r * self.chains + c for r in order for c in range(self.chains) if r * self.chains + c < len(self)]
        return torch.tensor(picked[:count], dtype=torch.long)


def _radical_inverse(number: int) -> float:
    """The binary digits of a number, mirrored at the point."""
    out, share = 0.0, 0.5
    while number:
        out += share * (number & 1)
        number, share = number >> 1, share / 2
    return out

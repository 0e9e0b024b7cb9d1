"""Energies of many chains of layers, some layers summed out, with gradients as products of matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ebmstruct.graph.bilinear import padded, state_features


@dataclass(frozen=True, eq=False)
class LayerTerms:
    """What a free energy is made of. states: block to (L, V) of those not summed.  summed: the others that count.

    counts: block to its number of states.  unaries: blocks in the order of the unary tensors.  pairs: the two blocks of
    each weight, in the order of the weights.  instances: B; chain c of instance b is row c B + b.
    """

    states: Mapping[str, Tensor]
    summed: Sequence[str]
    counts: Mapping[str, int]
    unaries: Sequence[str]
    pairs: Sequence[tuple[str, str]]
    instances: int
    temperature: float


def free_energies(terms: LayerTerms, unaries: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """(L,): -T log of the sum of exp(-E / T) over the summed blocks, of which no two are joined.

    unaries: (B or 1, V, K) of each block.  weights: (V, k, H, l) of each pair, as in a ``BilinearFactor``.
    Differentiable once in both. The gradient is the mean of the energy's over the summed units, in closed form, which
    leaves autograd one step where it would record some twenty.
    """
    found: Tensor = _FreeEnergies.apply(terms, len(unaries), *unaries, *weights)  # type: ignore[no-untyped-call]
    return found


class _FreeEnergies(torch.autograd.Function):
    """``free_energies``; what is kept are the indicators of the states, and probabilities of the summed units."""

    @staticmethod
    def forward(ctx: Any, terms: LayerTerms, count: int, *given: Tensor) -> Tensor:
        """(L,) of the unary tensors and the weights."""
        unaries, weights = dict(zip(terms.unaries, given[:count], strict=True)), given[count:]
        features: dict[tuple[str, int], Tensor] = {}

        def feature(name: str, width: int, kind: torch.dtype) -> Tensor:
            key = name, width
            if key not in features:
                features[key] = state_features(terms.states[name], width, terms.counts[name], kind)
            return features[key]

        fields: dict[str, Tensor] = {}
        total: Tensor | None = None
        for (a, b), weight in zip(terms.pairs, weights, strict=True):
            matrix = weight.reshape(weight.shape[0] * weight.shape[1], -1)
            if a in terms.summed or b in terms.summed:
                place = 0 if a in terms.summed else 1
                name, other = (a, b) if place == 0 else (b, a)
                if other in terms.summed:
                    raise AssertionError(f"blocks {a!r} and {b!r} are joined, and both are summed out")
                seen = feature(other, weight.shape[3 if place == 0 else 1], weight.dtype)
                part = seen @ (matrix.T if place == 0 else matrix)
                part = padded(part.reshape(part.shape[0], *weight.shape[2 * place : 2 * place + 2]), terms.counts[name])
                fields[name] = fields[name] + part if name in fields else part
            else:
                seen = feature(a, weight.shape[1], weight.dtype) @ matrix
                part = (seen * feature(b, weight.shape[3], weight.dtype)).sum(1)
                total = part if total is None else total + part
        rows = next(iter(terms.states.values())).shape[0] if terms.states else terms.instances
        chances: dict[str, Tensor] = {}
        for name, own in unaries.items():
            if name in terms.summed:
                energy = by_instance(fields[name], own) if name in fields else own.expand(rows, -1, -1)
                scaled = -energy if terms.temperature == 1.0 else -energy / terms.temperature
                log_sum = torch.logsumexp(scaled, 2)
                chances[name] = (scaled - log_sum[..., None]).exp()
                part = -terms.temperature * log_sum.sum(1)
            else:
                part = _at(own, terms.states[name])
            total = part if total is None else total + part
        ctx.kept = terms, count, given, features, chances
        assert total is not None
        return total

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        """The gradients by every unary tensor and weight."""
        terms, count, given, features, chances = ctx.kept
        out: list[Tensor | None] = []
        for name, own in zip(terms.unaries, given[:count], strict=True):
            s = slope.to(own.dtype)
            if name in terms.summed:
                out.append(_spread(own, chances[name], s))
            elif own.shape[0] == 1 and own.shape[2] == 2:
                on = s @ terms.states[name].to(own.dtype)
                out.append(torch.stack([s.sum() - on, on], 1)[None])
            else:
                indicator = state_features(terms.states[name], own.shape[2], own.shape[2], own.dtype)
                out.append(_spread(own, indicator.reshape(indicator.shape[0], *own.shape[1:]), s))
        for (a, b), weight in zip(terms.pairs, given[count:], strict=True):
            s = slope.to(weight.dtype)
            left, right = (
                chances[n][..., chances[n].shape[2] - k :].flatten(1) if n in terms.summed else features[n, k]
                for n, k in ((a, weight.shape[1]), (b, weight.shape[3]))
            )
            out.append(((left * s[:, None]).T @ right).reshape(weight.shape))
        return None, None, *out


def by_instance(field: Tensor, own: Tensor) -> Tensor:
    """(L, V, K): energies of chains (L, V, K) with those of single sites (B or 1, V, K) added."""
    if own.shape[0] in (1, field.shape[0]):
        return field + own
    return (field.reshape(-1, *own.shape) + own).flatten(0, 1)


def _at(own: Tensor, x: Tensor) -> Tensor:
    """(L,) the sums over sites of energies (B or 1, V, K) at states (L, V)."""
    if own.shape[0] == 1 and own.shape[2] == 2 and bool(own.isfinite().all()):
        low, high = own[0, :, 0], own[0, :, 1]
        return x.to(own.dtype) @ (high - low) + low.sum()
    rows = own.expand(x.shape[0], -1, -1) if own.shape[0] == 1 else own.repeat(x.shape[0] // own.shape[0], 1, 1)
    return rows.gather(2, x[..., None].long())[..., 0].sum(1)


def _spread(own: Tensor, weights: Tensor, slope: Tensor) -> Tensor:
    """The gradient by energies (B or 1, V, K) of which row l counts ``weights`` (L, V, K) times slope (L,)."""
    if own.shape[0] == 1:
        return (slope @ weights.flatten(1)).reshape(own.shape)
    return (weights * slope[:, None, None]).reshape(-1, *own.shape).sum(0)

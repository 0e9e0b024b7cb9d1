"""What the targets of a training so far look like: counts of states, means and covariances."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ebmstruct.graph import Discrete, Real, Variables

Statistics = Mapping[str, Mapping[str, Tensor]]
"""Block name to its tensors; the first axis is the place in an instance, of length 1 where instances differ in size.

Discrete: counts (L, K).  Real: count (L,), mean (L, d), scatter about the mean, (L, d, d) or its diagonal (L, d). All
float64.
"""


def updated(
    block: Variables, values: Tensor, output: Tensor, before: Mapping[str, Tensor] | None, *, diagonal: bool = False
) -> dict[str, Tensor]:
    """The statistics of a block with one more batch of targets.

    output: (n,) bool, the sites that count.  diagonal: only the diagonal of the scatter is kept, at d numbers, not d^2.
    Sites are told apart by their place in the instance as long as all instances have the same number of them.
    """
    places = _places(block, before)
    place = torch.arange(block.num_sites) % places
    seen = values.detach().cpu()
    chosen = output.cpu() & seen.reshape(block.num_sites, -1).isfinite().all(1)  # one bad target must not spoil all
    seen = seen[chosen]
    fresh = (
        _counts(place[chosen], seen, places, block.discrete.largest)
        if isinstance(block.domain, Discrete)
        else _moments(place[chosen], seen.double(), places, diagonal)
    )
    return fresh if before is None else _joined(before, fresh, places)


def _places(block: Variables, before: Mapping[str, Tensor] | None) -> int:
    """L: the common size of instances, those seen before included; 1 where they differ."""
    lengths = block.lengths
    if not lengths.numel() or bool((lengths != lengths[0]).any()) or not int(lengths[0]):
        return 1
    size = int(lengths[0])
    return size if before is None or next(iter(before.values())).shape[0] == size else 1


def _counts(place: Tensor, states: Tensor, places: int, largest: int) -> dict[str, Tensor]:
    flat = torch.bincount(place * largest + states, minlength=places * largest)
    return {"counts": flat.reshape(places, largest).double()}


def _moments(place: Tensor, x: Tensor, places: int, diagonal: bool) -> dict[str, Tensor]:
    d = x.shape[1]
    count = torch.bincount(place, minlength=places).double()
    mean = x.new_zeros(places, d).index_add(0, place, x) / count.clamp(min=1)[:, None]
    apart = x - mean[place]
    if diagonal:
        scatter = x.new_zeros(places, d).index_add(0, place, apart.square())
    elif places == 1:
        scatter = (apart.T @ apart)[None]
    else:
        scatter = x.new_zeros(places, d, d).index_add(0, place, apart[:, :, None] * apart[:, None, :])
    return {"count": count, "mean": mean, "scatter": scatter}


def _joined(before: Mapping[str, Tensor], fresh: Mapping[str, Tensor], places: int) -> dict[str, Tensor]:
    """Both together, place by place, or all places as one (Chan, Golub and LeVeque 1983)."""
    if "counts" in before:
        old, new = before["counts"], fresh["counts"]
        width = max(old.shape[1], new.shape[1])
        both = [torch.nn.functional.pad(c, (0, width - c.shape[1])) for c in (old, new)]
        if old.shape[0] != places:
            both[0] = both[0].sum(0, keepdim=True)
        return {"counts": both[0] + both[1]}
    if before["count"].shape[0] != places:
        before = _pooled({k: v[:, None] for k, v in before.items()})
    return _pooled({k: torch.stack([before[k], fresh[k]]) for k in before})


def _pooled(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Moments of several samples, on the first axis, as those of one."""
    count = parts["count"].sum(0)
    share = parts["count"] / count.clamp(min=1)
    mean = (share[..., None] * parts["mean"]).sum(0)
    apart = parts["mean"] - mean
    if parts["scatter"].dim() == apart.dim():
        between = parts["count"][..., None] * apart.square()
    else:
        between = parts["count"][..., None, None] * apart[..., :, None] * apart[..., None, :]
    return {"count": count, "mean": mean, "scatter": (parts["scatter"] + between).sum(0)}


def covariance(statistics: Mapping[str, Tensor]) -> Tensor:
    """(L, d, d) float64: the covariance, drawn towards its diagonal as if by d + 1 more observations.

    A coordinate that never varied has variance 1.
    """
    count, scatter = statistics["count"][:, None, None], statistics["scatter"]
    d = scatter.shape[-1]
    return (scatter + (d + 1) * torch.diag_embed(spread(statistics).square())) / (count + d + 1)


def spread(statistics: Mapping[str, Tensor]) -> Tensor:
    """(L, d) float64: the standard deviation of each coordinate; 1 where it never varied."""
    scatter = statistics["scatter"]
    own = scatter.diagonal(dim1=-2, dim2=-1) if scatter.dim() == 3 else scatter
    own = own / statistics["count"].clamp(min=1)[:, None]
    return torch.where(own > 0, own, 1.0).sqrt()


def kept(block: Variables) -> bool:
    """Whether a block has statistics: a discrete one, or one of vectors."""
    return isinstance(block.domain, (Discrete, Real))


def restored(state: Any) -> Statistics:
    """The statistics in a loss's state; none at the first call."""
    return state if isinstance(state, Mapping) else {}

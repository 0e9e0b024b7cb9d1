"""The functions of ``segments.py`` in plain torch: any device, any floating type, any number of derivatives.

It runs where the compiled loops cannot, and is what they are tested against. A step handles site t of all instances
at once, those that have ended beside the others, with energies of 0 that are not looked at; so it costs as many steps as
the longest instance has sites.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ebmstruct.inference.kernels.chains.chain_plan_torch import log_sum, wide_type


class _Padded(NamedTuple):
    """The energies with an axis of instances, in float64: (B, T, ...)."""

    begin: Tensor
    inside: Tensor
    lengths: Tensor
    transition: Tensor
    start: Tensor
    end: Tensor
    segments: Tensor | None
    sizes: Tensor

    def segment(self, site: int, size: int) -> Tensor:
        """(B, K) energies of segments of ``size`` sites from ``site`` on."""
        out = self.begin[:, site] + self.lengths[size - 1]
        for t in range(site + 1, site + size):
            out = out + self.inside[:, t]
        return out if self.segments is None else out + self.segments[:, site, size - 1]


def log_partition(
    begin: Tensor, inside: Tensor, lengths: Tensor, transition: Tensor, start: Tensor | None, end: Tensor | None,
    segments: Tensor | None, offsets: Tensor,
) -> Tensor:  # fmt: skip
    """See ``segments.log_partition``."""
    batch = _padded(begin, inside, lengths, transition, start, end, segments, offsets)
    _, ahead = _log_ahead(batch)
    return _log_z(batch, ahead).masked_fill(_undefined(batch), torch.nan)


def marginals(
    begin: Tensor, inside: Tensor, lengths: Tensor, transition: Tensor, start: Tensor | None, end: Tensor | None,
    segments: Tensor | None, offsets: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Probabilities as minus the gradient of the log partition; see ``segments.marginals``."""
    with torch.enable_grad():
        inputs = [x.detach().clone().requires_grad_() for x in (begin, inside)]
        shape = (begin.shape[0], *lengths.shape)
        whole = begin.new_zeros(shape) if segments is None else segments.detach().clone()
        inputs.append(whole.requires_grad_())
        log_z = log_partition(inputs[0], inputs[1], lengths, transition, start, end, inputs[2], offsets)
        found = torch.autograd.grad(log_z.sum(), inputs, allow_unused=True)
    parts = [torch.zeros_like(x) if g is None else -g for x, g in zip(inputs, found, strict=True)]
    bad = log_z.detach().isnan().to(begin.device).repeat_interleave(offsets.diff().to(begin.device))
    parts = [p.masked_fill(bad.reshape(-1, *[1] * (p.dim() - 1)), torch.nan) for p in parts]
    return parts[0], parts[1], parts[2], log_z.detach()


def viterbi(
    begin: Tensor, inside: Tensor, lengths: Tensor, transition: Tensor, start: Tensor | None, end: Tensor | None,
    segments: Tensor | None, offsets: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Labels (n,), beginnings (n,) bool, least energies (B,) and messages (n, K); no deadline."""
    batch = _padded(begin, inside, lengths, transition, start, end, segments, offsets)
    entry: list[Tensor] = []
    messages: list[Tensor] = []
    before: list[Tensor] = []
    sizes: list[Tensor] = []
    longest = lengths.shape[0]
    for t in range(batch.begin.shape[1]):
        if t == 0:
            entry.append(batch.start.expand_as(batch.begin[:, 0]))
            before.append(torch.zeros_like(entry[0], dtype=torch.long))
        else:
            best = (messages[-1][:, :, None] + batch.transition).min(1)
            entry.append(best.values)
            before.append(best.indices)
        found = torch.stack([entry[t + 1 - n] + batch.segment(t + 1 - n, n) for n in range(1, min(longest, t + 1) + 1)])
        least = found.min(0)
        messages.append(least.values)
        sizes.append(least.indices + 1)
    labels = torch.zeros(begin.shape[0], dtype=torch.long)
    begins = torch.zeros(begin.shape[0], dtype=torch.bool)
    energy = torch.zeros(offsets.shape[0] - 1, dtype=torch.float64)
    rows = begin.new_zeros(begin.shape, dtype=torch.float64)
    for b, count in enumerate(batch.sizes.tolist()):
        if not count:
            continue
        low = int(offsets[b])
        rows[low : low + count] = torch.stack([m[b] for m in messages[:count]])
        total = messages[count - 1][b] + batch.end
        energy[b] = total.min()
        k, at = int(total.argmin()), count
        while at > 0:
            size = int(sizes[at - 1][b, k])
            labels[low + at - size : low + at] = k
            begins[low + at - size] = True
            at -= size
            k = int(before[at][b, k]) if at else k
    return labels, begins, energy.masked_fill(_undefined(batch), torch.nan), rows


def sample(
    begin: Tensor, inside: Tensor, lengths: Tensor, transition: Tensor, start: Tensor | None, end: Tensor | None,
    segments: Tensor | None, offsets: Tensor, uniforms: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Labels (S, n) and beginnings (S, n) from uniforms (S, n, 2)."""
    batch = _padded(begin, inside, lengths, transition, start, end, segments, offsets)
    entry, ahead = _log_ahead(batch)
    log_z = _log_z(batch, ahead)
    labels = torch.zeros(uniforms.shape[:2], dtype=torch.long)
    begins = torch.zeros(uniforms.shape[:2], dtype=torch.bool)
    for b, count in enumerate(batch.sizes.tolist()):
        if not bool(log_z[b] > -torch.inf):
            continue
        low = int(offsets[b])
        for s in range(uniforms.shape[0]):
            k, at = -1, count
            while at > 0:
                noise = uniforms[s, low + at - 1].tolist()
                k = _choose(ahead[at - 1][b] - (batch.end if k < 0 else batch.transition[:, k]), noise[0])
                most = range(1, min(lengths.shape[0], at) + 1)
                size = 1 + _choose(
                    torch.stack([entry[at - n][b, k] - batch.segment(at - n, n)[b, k] for n in most]), noise[1]
                )
                labels[s, low + at - size : low + at] = k
                begins[s, low + at - size] = True
                at -= size
    return labels, begins


def _choose(logits: Tensor, uniform: float) -> int:
    weights = (logits - logits.max()).exp()
    summed = weights.cumsum(0)
    found = int((summed <= uniform * summed[-1]).sum())
    return min(found, int(weights.nonzero()[-1]))


def _padded(
    begin: Tensor, inside: Tensor, lengths: Tensor, transition: Tensor, start: Tensor | None, end: Tensor | None,
    segments: Tensor | None, offsets: Tensor,
) -> _Padded:  # fmt: skip
    wide, device = wide_type(begin), begin.device
    count = offsets.diff()
    most = int(count.max()) if count.numel() else 0
    place = torch.arange(most)
    inside_of = place < count[:, None]
    at = (offsets[:-1, None] + place).clamp(max=max(0, begin.shape[0] - 1)).to(device)
    real = inside_of.to(device)

    def spread(x: Tensor) -> Tensor:
        if not x.shape[0]:
            return x.new_zeros(at.shape[0], 0, *x.shape[1:], dtype=wide)
        found = x.to(wide)[at]
        return torch.where(real.reshape(*real.shape, *[1] * (x.dim() - 1)), found, 0.0)

    zero = torch.zeros(lengths.shape[1], dtype=wide, device=device)
    ends = [zero if x is None else x.to(wide) for x in (start, end)]
    whole = None
    if segments is not None:
        sizes = torch.arange(1, lengths.shape[0] + 1)
        fits = (place[None, :, None] + sizes <= count[:, None, None]).to(device)
        whole = torch.where(fits[..., None], spread(segments), 0.0)
    return _Padded(
        spread(begin), spread(inside), lengths.to(wide), transition.to(wide), ends[0], ends[1], whole, count.to(device)
    )


def _log_ahead(batch: _Padded) -> tuple[list[Tensor], list[Tensor]]:
    entry: list[Tensor] = []
    ahead: list[Tensor] = []
    for t in range(batch.begin.shape[1]):
        if t == 0:
            entry.append(-batch.start.expand_as(batch.begin[:, 0]))
        else:
            entry.append(log_sum(ahead[-1][:, :, None] - batch.transition, 1))
        within = torch.zeros_like(batch.begin[:, 0])
        found = []
        for site in range(t, max(-1, t - batch.lengths.shape[0]), -1):
            energy = within + batch.begin[:, site] + batch.lengths[t - site]
            if batch.segments is not None:
                energy = energy + batch.segments[:, site, t - site]
            found.append(entry[site] - energy)
            within = within + batch.inside[:, site]
        ahead.append(log_sum(torch.stack(found), 0))
    return entry, ahead


def _log_z(batch: _Padded, ahead: list[Tensor]) -> Tensor:
    if not ahead:
        return batch.begin.new_zeros(batch.sizes.shape[0])
    last = torch.stack(ahead, 1)[torch.arange(batch.sizes.shape[0]), (batch.sizes - 1).clamp(min=0)]
    return torch.where(batch.sizes > 0, log_sum(last - batch.end, 1), 0.0)


def _undefined(batch: _Padded) -> Tensor:
    """(B,) bool: whether an instance reads NaN or -inf."""
    bad = ~(batch.begin > -torch.inf).flatten(1).all(1) | ~(batch.inside > -torch.inf).flatten(1).all(1)
    if batch.segments is not None:
        bad = bad | ~(batch.segments > -torch.inf).flatten(1).all(1)
    shared = (batch.lengths, batch.transition, batch.start, batch.end)
    broken = not all(bool((x > -torch.inf).all()) for x in shared)
    return (bad | broken) & (batch.sizes > 0)

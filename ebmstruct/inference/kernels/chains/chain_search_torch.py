"""Least energies, k best and samples of chains in plain torch; the rest of the twin is in ``chain_torch``."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from ebmstruct.inference.kernels.chains.chain_plan_torch import Batch, energy, log_ahead, log_sum, plan, undefined


def viterbi(
    emission: Tensor,
    transition: Tensor,
    start: Tensor | None,
    end: Tensor | None,
    offsets: Tensor,
    deadline: float | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """States, energy, lower bound, finished and messages; see ``chain.viterbi``.

    The deadline is looked at before each step, which takes a site of every instance.
    """
    chain = emission, transition, start, end, offsets
    batch = plan(*chain, wide=True)
    messages = torch.empty_like(batch.emission)
    bound = torch.zeros(len(batch.lengths), dtype=messages.dtype, device=messages.device)
    done = len(batch.running)
    for t in range(len(batch.running)):
        rows = batch.rows(t)
        if deadline is not None and done > t and time.monotonic() >= deadline:
            done = t
        if t == 0:
            moved = batch.start
        elif t < done:
            moved = (messages[rows - 1][:, :, None] + batch.edges(t)).amin(1)
        else:
            moved = messages[rows - 1].amin(1, keepdim=True) + batch.edges(t).flatten(1).amin(1)[:, None]
        messages[rows] = moved + batch.own[t]
        low, high = batch.stopping(t)
        bound[low:high] = (messages[rows[low:high]] + batch.end).amin(1)
    states = _complete(batch, messages, done)
    finished = torch.tensor([length <= done for length in batch.lengths], device=messages.device)
    value = energy(states, *chain).detach()
    bound, finished = batch.in_order(bound.detach()), batch.in_order(finished)
    stuck = ~finished & (value == torch.inf)
    if stuck.any():
        whole = viterbi(*chain)
        sites = stuck.repeat_interleave(offsets.diff().to(stuck.device))
        states, value = torch.where(sites, whole[0], states), torch.where(stuck, whole[1], value)
    bad = undefined(batch, offsets)
    value, bound = value.masked_fill(bad, torch.nan), torch.minimum(bound, value).masked_fill(bad, torch.nan)
    return states, value, bound, finished, messages.detach()


def _complete(batch: Batch, messages: Tensor, done: int) -> Tensor:
    """States (n,): least energy over the first ``done`` sites of each instance, then the cheapest next one."""
    states = torch.zeros(messages.shape[0], dtype=torch.long, device=messages.device)
    for t in reversed(range(min(done, len(batch.running)))):
        rows = batch.rows(t)
        ends = torch.tensor([length == t + 1 for length in batch.lengths[: len(rows)]], device=messages.device)
        value = messages[rows] + torch.where(ends[:, None], batch.end, 0.0)
        if t + 1 < min(done, len(batch.running)):
            after = batch.running[t + 1]
            column = batch.edges(t + 1).expand(after, -1, -1)
            column = column.gather(2, states[rows[:after] + 1][:, None, None].expand(-1, column.shape[1], 1))
            value[:after] = messages[rows[:after]] + column[:, :, 0]
        states[rows] = value.argmin(1)
    for t in range(done, len(batch.running)):
        rows = batch.rows(t)
        ends = torch.tensor([length == t + 1 for length in batch.lengths[: len(rows)]], device=messages.device)
        value = batch.own[t] + torch.where(ends[:, None], batch.end, 0.0)
        if t == 0:
            value = value + batch.start
        else:
            tables = batch.edges(t).expand(len(rows), -1, -1)
            value = value + tables.gather(1, states[rows - 1][:, None, None].expand(-1, 1, tables.shape[2]))[:, 0]
        states[rows] = value.argmin(1)
    return states


def k_best(
    emission: Tensor, transition: Tensor, start: Tensor | None, end: Tensor | None, offsets: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """States (k, n) and energies (k, B); see ``chain.k_best``."""
    batch = plan(emission, transition, start, end, offsets, wide=True)
    width = emission.shape[1]
    device = emission.device
    energies = torch.full((k, len(batch.lengths)), torch.inf, dtype=batch.emission.dtype, device=device)
    if batch.lengths and batch.lengths[-1] == 0:
        energies[0, -batch.lengths.count(0) :] = 0
    states = torch.zeros((k, emission.shape[0]), dtype=torch.long, device=device)
    values: Tensor | None = None
    sources: list[Tensor] = []
    finals: list[Tensor] = []
    for t, running in enumerate(batch.running):
        own = batch.own[t][:, :, None]
        if values is None:
            values = torch.full((running, width, k), torch.inf, dtype=own.dtype, device=device)
            values[:, :, :1] = own + batch.start[:, None]
            sources.append(torch.empty(0))
        else:
            moved = values[:running, :, :, None] + batch.edges(t)[:, :, None, :]
            best = moved.reshape(running, width * k, width).topk(k, dim=1, largest=False)
            values = best.values.transpose(1, 2) + own
            sources.append(best.indices.transpose(1, 2))
        low, high = batch.stopping(t)
        last = (values[low:high] + batch.end[:, None]).reshape(high - low, width * k)
        best = last.topk(k, dim=1, largest=False)
        energies[:, low:high] = best.values.T
        finals.append(best.indices)
    slots = torch.empty((0, k), dtype=torch.long, device=device)
    for t in batch.back():
        slots = torch.cat([slots, finals[t]])
        rows = batch.rows(t)
        states[:, rows] = torch.where(energies[:, : len(rows)] < torch.inf, slots.T // k, 0)
        if t:
            chosen = sources[t].gather(1, (slots // k)[:, :, None].expand(-1, -1, k))
            slots = chosen.gather(2, (slots % k)[:, :, None])[:, :, 0]
    return states, batch.in_order(energies).masked_fill(undefined(batch, offsets), torch.nan)


def sample(
    emission: Tensor,
    transition: Tensor,
    start: Tensor | None,
    end: Tensor | None,
    offsets: Tensor,
    num_samples: int,
    uniforms: Tensor,
) -> Tensor:
    """States (S, n); see ``chain.sample``."""
    batch = plan(emission, transition, start, end, offsets, wide=True)
    ahead, _ = log_ahead(batch)
    states = torch.zeros((num_samples, emission.shape[0]), dtype=torch.long, device=emission.device)
    lost = torch.ones(len(batch.lengths), dtype=torch.bool, device=emission.device)
    for t in batch.back():
        rows = batch.rows(t)
        low, high = batch.stopping(t)
        score = ahead[t].detach().expand(num_samples, -1, -1).clone()
        score[:, low:high] -= batch.end
        lost[low:high] = ~(log_sum(ahead[t][low:high] - batch.end, 1) > -torch.inf)
        if low:
            tables = batch.edges(t + 1).expand(low, -1, -1)
            after = states[:, rows[:low] + 1]
            score[:, :low] -= tables[torch.arange(low, device=after.device), :, after]
        peak = score.amax(2, keepdim=True)
        running = (score - torch.where(peak.isfinite(), peak, 0.0)).exp().cumsum(2)
        target = uniforms[:, rows].to(running)[:, :, None] * running[:, :, -1:]
        drawn = (running <= target).sum(2).clamp(max=emission.shape[1] - 1)
        states[:, rows] = torch.where(lost[: len(rows)], 0, drawn)
    return states

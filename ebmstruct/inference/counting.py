"""Graphs of independent sites of two states with one energy of their count: what solvers of such graphs read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ebmstruct.graph import CountFactor, Discrete, FactorGraph, TableFactor, Variables
from ebmstruct.graph.counts import count_chances

TINY = 1e-300


@dataclass(frozen=True, eq=False)
class Counted:
    """log odds and counts. score: (n,) float64, energy of "out" less energy of "in".  out: (B,) energy of the empty set.

    table: (B, K) float64 energies of counts, the last entry for K - 1 or more.
    """

    block: Variables
    score: Tensor
    out: Tensor
    table: Tensor

    def log_partition(self, temperature: float) -> Tensor:
        """(B,) float64, differentiable; -inf where no count is allowed."""
        odds = self.score / temperature
        chance = count_chances(torch.sigmoid(odds), self.block, self.table.shape[1])
        logs = chance.clamp(min=TINY).log().masked_fill(chance <= 0, -torch.inf) - self.table / temperature
        held = torch.isposinf(odds)  # their energy is in ``out`` already
        sites = self.block.sum_sites(torch.nn.functional.softplus(odds.masked_fill(held, 0.0)).masked_fill(held, 0.0))
        return sites + _log_sum(logs) - self.out / temperature


def _log_sum(logs: Tensor) -> Tensor:
    """logsumexp along the last axis whose gradient is 0, not NaN, where all are -inf."""
    none = torch.isneginf(logs).all(1)
    return torch.logsumexp(logs.masked_fill(none[:, None], 0.0), 1).masked_fill(none, -torch.inf)


def counting_refusal(graph: FactorGraph) -> str | None:
    """Why a graph is none of independent sites with an energy of their count, in one sentence; None where it is one."""
    if len(graph.variables) != 1:
        return f"it takes one block of two states a site; the blocks are {list(graph.variables)}"
    (block,) = graph.variables.values()
    if not isinstance(block.domain, Discrete) or not block.domain.uniform or block.domain.num_states != 2:
        return f"it takes one block of two states a site; block {block.name!r} is {block.domain}"
    counts = [f for f in graph.factors if isinstance(f, CountFactor)]
    for factor in graph.factors:
        if isinstance(factor, CountFactor):
            if factor.state != 1:
                return f"factor {factor.label!r} counts state {factor.state}, and it takes counts of state 1"
        elif not isinstance(factor, TableFactor) or factor.arity != 1 or factor.index is not None:
            return f"factor {factor.label!r} is a {type(factor).__name__}; it takes one row a site, and counts"
    if len({f.tables.shape[-1] for f in counts}) > 1:
        return "its counts have tables of several lengths"
    return None


def counted(graph: FactorGraph) -> Counted:
    """The scores and tables of a graph that was not refused; evidence is an infinite score."""
    (block,) = graph.variables.values()
    unary = torch.zeros(block.num_sites, 2, dtype=torch.float64, device=block.offsets.device)
    table: Tensor | None = None
    for factor in graph.factors:
        if isinstance(factor, CountFactor):
            rows = factor.rows(block).double()
            table = rows if table is None else table + rows
        else:
            assert isinstance(factor, TableFactor)
            unary = unary + factor.tables.double()
    allowed = graph.allowed(block.name)
    if allowed is not None:
        unary = torch.where(allowed, unary, torch.inf)
    lost = torch.isposinf(unary).all(1)
    low = unary.masked_fill(torch.isposinf(unary), 0.0)
    score = torch.where(torch.isposinf(unary[:, 1]), -torch.inf, low[:, 0] - low[:, 1])
    score = torch.where(torch.isposinf(unary[:, 0]), torch.inf, score).masked_fill(lost, 0.0)
    # Where a site cannot be out, its energy of being in is what the empty set has, and softplus adds nothing.
    held = torch.where(torch.isposinf(unary[:, 0]), low[:, 1], low[:, 0]).masked_fill(lost, torch.inf)
    out = block.sum_sites(held)
    if graph.constant is not None:
        out = out + graph.constant.double()
    if table is None:
        table = out.new_zeros(block.num_instances, 1)
    return Counted(block, score, out, table)


def marginal_chances(graph: Counted, temperature: float) -> tuple[Tensor, Tensor]:
    """(n,) the probability of each site to be in, and (B,) log partitions: the gradient of the latter by the scores."""
    with torch.enable_grad():
        score = graph.score.detach().requires_grad_(True)
        log_z = Counted(graph.block, score, graph.out.detach(), graph.table.detach()).log_partition(temperature)
        feasible = log_z.detach().isfinite()
        (slope,) = torch.autograd.grad(log_z[feasible].sum(), score, allow_unused=True)
    chance = torch.zeros_like(graph.score) if slope is None else slope.detach() * temperature
    chance = torch.where(torch.isposinf(graph.score), 1.0, torch.where(torch.isneginf(graph.score), 0.0, chance))
    return chance.clamp(0.0, 1.0).masked_fill(~feasible[graph.block.instance], 0.0), log_z.detach()


def least(graph: Counted) -> tuple[Tensor, Tensor]:
    """(n,) states and (B,) energies of the minimum: of k sites in the set those with the k best scores. O(n log n)."""
    block, length = graph.block, graph.table.shape[1]
    instances = block.num_instances
    states = torch.zeros(block.num_sites, dtype=torch.long, device=graph.score.device)
    longest = int(block.lengths.max()) if instances else 0
    place = torch.arange(block.num_sites, device=states.device) - block.offsets[block.instance]
    scores = graph.score.new_full((instances, longest), -torch.inf)
    scores[block.instance, place] = graph.score
    ordered, order = scores.sort(dim=1, descending=True, stable=True)
    forced, possible = torch.isposinf(ordered).sum(1), (~torch.isneginf(ordered)).sum(1)
    gains = ordered.masked_fill(torch.isinf(ordered), 0.0).cumsum(1)
    size = torch.arange(longest + 1, device=states.device)
    energy = graph.out[:, None] - torch.nn.functional.pad(gains, (1, 0))
    energy = energy + graph.table[:, size.clamp(max=length - 1)]
    energy = energy.masked_fill((size < forced[:, None]) | (size > possible[:, None]), torch.inf)
    best, chosen = energy.min(1)
    inside = torch.zeros(instances, longest, dtype=torch.long, device=states.device)
    inside.scatter_(1, order, (size[:-1] < chosen[:, None]).long())
    return inside[block.instance, place], best


def drawn(graph: Counted, temperature: float, count: int, generator: Generator) -> Tensor:
    """(S, n) long exact draws: chances of counts of beginnings forwards, then sites backwards given what is left to count.

    O(L K) rounds forwards and O(S) numbers a site backwards, over the longest instance L.
    """
    block, length = graph.block, graph.table.shape[1]
    instances = block.num_instances
    longest = int(block.lengths.max()) if instances else 0
    place = torch.arange(block.num_sites) - block.offsets[block.instance]
    inside = torch.zeros(instances, longest, dtype=torch.float64)
    inside[block.instance, place] = torch.sigmoid(graph.score / temperature)
    chance = torch.zeros(instances, length, dtype=torch.float64)
    chance[:, 0] = 1.0
    beginnings = [chance]
    for i in range(longest):
        p = inside[:, i : i + 1]
        following = chance * (1 - p)
        following[:, 1:] += chance[:, :-1] * p
        following[:, -1:] += chance[:, -1:] * p
        chance = following
        beginnings.append(chance)
    weight = chance * torch.exp(-(graph.table - graph.table.min(1, keepdim=True).values) / temperature).nan_to_num(0.0)
    empty = weight.sum(1) <= 0
    weight[empty, 0] = 1.0
    left = torch.multinomial(weight, count, replacement=True, generator=generator)
    out = torch.zeros(count, instances, longest, dtype=torch.long)
    last = length - 1
    for i in range(longest - 1, -1, -1):
        p, before = inside[:, i : i + 1], beginnings[i]
        stay = before.gather(1, left) * (1 - p)
        move = torch.where(left > 0, before.gather(1, (left - 1).clamp(min=0)) * p, 0.0)
        full = torch.where(left == last, before[:, last:] * p, 0.0)
        noise = torch.rand(left.shape, generator=generator, dtype=torch.float64) * (stay + move + full)
        hit = noise >= stay
        out[:, :, i] = hit.T.long()
        left = left - (hit & (noise < stay + move) & (left > 0)).long()
    return out[:, block.instance, place]

"""Changes of one discrete site, and of two neighbouring ones: the neighbourhood that searches of mixed graphs look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ebmstruct.graph import ChainFactor, FactorGraph
from ebmstruct.inference.mixed.parts import discrete_blocks

Array = np.ndarray
AROUND = 8
"""Discrete sites about one continuous site count as neighbours of each other where there are no more than this."""


@dataclass(frozen=True, eq=False)
class Moves:
    """M changes of each instance's states; instances that have fewer do nothing in the others.

    blocks, sizes: names and sites of the discrete blocks, whose N sites are numbered one block after the other.
    options: (N, K) the legal states of each site before the others.  counts: (N,) how many are legal.
    instance: (N,) the instance of each site.
    site, shift: (M, 2, B) the one or two sites that change, -1 for none, and how many places down its list each goes.
    """

    blocks: tuple[str, ...]
    sizes: tuple[int, ...]
    options: Tensor
    counts: Tensor
    instance: Tensor
    site: Tensor
    shift: Tensor

    @property
    def count(self) -> int:
        """M."""
        return self.site.shape[0]

    def joined(self, states: Mapping[str, Tensor]) -> Tensor:
        """(..., N) from the states (..., n) of the blocks."""
        return torch.cat([states[name] for name in self.blocks], -1)

    def parted(self, joined: Tensor) -> dict[str, Tensor]:
        """Block name to (..., n), from (..., N)."""
        return dict(zip(self.blocks, joined.split(self.sizes, -1), strict=True))

    def applied(self, current: Tensor, begin: int, end: int) -> Tensor:
        """(end - begin, W, N): the states (W, N) of W walkers after each of some moves."""
        walkers = current.shape[0]
        rank = (self.options == current[:, :, None]).long().argmax(-1)
        out = current.expand(end - begin, *current.shape).clone()
        for place in (0, 1):
            move, instance = (self.site[begin:end, place] >= 0).nonzero().unbind(1)
            site = self.site[begin:end, place][move, instance]
            shift = self.shift[begin:end, place][move, instance]
            for w in range(walkers):
                place_now = (rank[w, site] + shift) % self.counts[site]
                out[move, w, site] = self.options[site, place_now]
        return out

    def kicked(self, current: Tensor, draws: Tensor) -> Tensor:
        """(W, N): some random sites of each walker's instances in other legal states; draws: (W, c, 2) in [0, 1)."""
        out = current.clone()
        able = (self.counts > 1).nonzero()[:, 0]
        counts = torch.bincount(self.instance[able], minlength=self.site.shape[2])
        order = self.instance[able].argsort(stable=True)
        some = (counts > 0).nonzero()[:, 0]
        first = (counts.cumsum(0) - counts)[some]
        for w in range(current.shape[0]):
            for place, shift in draws[w].tolist():
                site = able[order[first + (place * counts[some]).long()]]
                rank = (self.options[site] == out[w, site, None]).long().argmax(1)
                rank = (rank + 1 + (shift * (self.counts[site] - 1)).long()) % self.counts[site]
                out[w, site] = self.options[site, rank]
        return out


def legal_states(graph: FactorGraph, name: str) -> Tensor:
    """(n, K) bool: the states that each site of a block may take."""
    block = graph.variables[name]
    legal = torch.arange(max(1, block.discrete.largest)) < block.state_counts[:, None]
    allowed = graph.allowed(name)
    return legal if allowed is None else legal & allowed


def moves_of(graph: FactorGraph, most: int) -> Moves:
    """Single changes, and double ones of neighbours while no instance has more than ``most`` moves in all."""
    blocks = discrete_blocks(graph)
    width = max((max(1, graph.variables[n].discrete.largest) for n in blocks), default=1)
    legal = torch.cat([_padded(legal_states(graph, n), width) for n in blocks])
    options, counts = (~legal).long().sort(dim=1, stable=True).indices, legal.sum(1)
    instance = torch.cat([graph.variables[n].instance for n in blocks]).numpy()
    number = counts.numpy()
    singles = _crossed(np.arange(number.size)[:, None], number)
    doubles = _crossed(_neighbours(graph, blocks), number)
    whole = np.bincount(instance[singles[0][:, 0]], minlength=graph.num_instances)
    extra = np.bincount(instance[doubles[0][:, 0]], minlength=graph.num_instances)
    few = (whole + extra <= most)[instance[doubles[0][:, 0]]]
    alone = -np.ones((singles[0].shape[0], 1), np.int64)
    site = np.concatenate([np.concatenate([singles[0], alone], 1), doubles[0][few]])
    shift = np.concatenate([np.concatenate([singles[1], 0 * alone], 1), doubles[1][few]])
    return Moves(
        blocks,
        tuple(graph.variables[n].num_sites for n in blocks),
        options,
        counts,
        torch.from_numpy(instance),
        *_laid_out(site, shift, instance, graph.num_instances),
    )


def _padded(legal: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(legal, (0, width - legal.shape[1]))


def _crossed(sites: Array, counts: Array) -> tuple[Array, Array]:
    """For each row of sites (m, a), every combination of shifts that changes all of them: (M, a) sites and shifts."""
    others = np.maximum(counts[sites] - 1, 0)
    total = others.prod(1)
    row = np.repeat(np.arange(sites.shape[0]), total)
    code = np.arange(row.size) - np.repeat(np.cumsum(total) - total, total)
    shifts = np.empty((row.size, sites.shape[1]), np.int64)
    for place in range(sites.shape[1]):
        size = np.maximum(others[row, place], 1)
        shifts[:, place] = code % size + 1
        code = code // size
    return sites[row], shifts


def _laid_out(site: Array, shift: Array, instance: Array, num_instances: int) -> tuple[Tensor, Tensor]:
    """(M, 2, B) tables of each instance's own moves in their order."""
    owner = instance[site[:, 0]]
    order = np.argsort(owner, kind="stable")
    counts = np.bincount(owner, minlength=num_instances)
    rank = np.arange(order.size) - np.repeat(np.cumsum(counts) - counts, counts)
    out = np.full((2, int(counts.max(initial=0)), 2, num_instances), -1, np.int64)
    out[0, rank, :, owner[order]] = site[order]
    out[1, rank, :, owner[order]] = shift[order]
    return torch.from_numpy(out[0]), torch.from_numpy(out[1])


def _neighbours(graph: FactorGraph, blocks: tuple[str, ...]) -> Array:
    """(p, 2) pairs of discrete sites in a row of a factor, next to each other in a chain, or about a continuous site."""
    base, begin = {}, 0
    for name in blocks:
        base[name] = begin
        begin += graph.variables[name].num_sites
    pairs = [np.zeros((0, 2), np.int64)]
    about: dict[str, list[Array]] = {}
    for factor in graph.factors:
        index = getattr(factor, "index", None)
        if isinstance(factor, ChainFactor):
            block = graph.variables[factor.scope[0]]
            later = (block.instance.diff() == 0).nonzero()[:, 0].numpy() + base[factor.scope[0]]
            pairs.append(np.stack([later, later + 1], 1))
        if not isinstance(index, Tensor):
            continue
        rows = index.cpu().numpy()
        columns = [rows[i] + base[n] for i, n in enumerate(factor.scope) if n in base]
        pairs += [np.stack([a, b], 1) for i, a in enumerate(columns) for b in columns[:i]]
        for i, name in enumerate(factor.scope):
            if name not in base:
                about.setdefault(name, []).extend(np.stack([rows[i], c], 1) for c in columns)
    for parts in about.values():
        pairs.append(_around(np.unique(np.concatenate(parts), axis=0)) if parts else pairs[0])
    both = np.sort(np.concatenate(pairs), 1)
    return np.unique(both[both[:, 0] < both[:, 1]], axis=0)


def _around(links: Array) -> Array:
    """Pairs of the discrete sites that are linked to one continuous site; links: (l, 2), sorted by the latter."""
    out = [np.zeros((0, 2), np.int64)]
    counts = np.bincount(links[:, 0])
    few = (counts <= AROUND)[links[:, 0]]
    links = links[few]
    for apart in range(1, AROUND):
        same = links[apart:, 0] == links[:-apart, 0] if apart < links.shape[0] else np.zeros(0, bool)
        out.append(np.stack([links[:-apart, 1][same], links[apart:, 1][same]], 1) if same.size else out[0])
    return np.concatenate(out)

"""How chains of a graph of tables become lanes: with all instances in each, or one a lane where all are alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ebmstruct.inference.views.table_gathering import Gathered

if TYPE_CHECKING:
    from ebmstruct.inference.kernels.sampling.lane_sweeps_numba import Rows, Terms


@dataclass(frozen=True, eq=False)
class Layout:
    """What does not change with the tables' values.

    alike: whether all instances have the same rows over the same tables, so that each is a lane of its own over the
    sites of one (lane c * B + b); else a lane is a chain of all instances.  sites: how many a lane has, block after block.
    instances: B.  inside: instances in a lane.  states, most: of all sites of a lane, and of one site at most.
    rows, terms: the rows by site and by row.  scale: where each row's weight is.  joins: pairs of sites that share a row.
    wide: W, how many columns energies of single sites have.  to, source: their entries and where they are in the flat
    tables.  all_starts: where each site's states begin among those of all instances.
    """

    alike: bool
    names: tuple[str, ...]
    sites: tuple[int, ...]
    instances: int
    inside: int
    states: int
    most: int
    rows: Rows
    terms: Terms
    scale: Tensor
    joins: np.ndarray
    wide: int
    to: Tensor
    source: Tensor
    all_starts: np.ndarray

    def lanes(self, values: Mapping[str, Tensor]) -> np.ndarray:
        """(n, L) int32: a lane a column, from block name to (C, N_block) values."""
        parts = [values[n].reshape(-1, s) for n, s in zip(self.names, self.sites, strict=True)]
        return np.ascontiguousarray(torch.cat(parts, 1).to(torch.int32).numpy().T)

    def values(self, x: np.ndarray) -> dict[str, Tensor]:
        """Block name to (C, N_block) long, from lanes."""
        own = torch.from_numpy(x.T.astype(np.int64))
        chains = own.shape[0] // self.instances if self.alike else own.shape[0]
        parts = own.split(self.sites, 1)
        return {n: p.reshape(chains, -1) for n, p in zip(self.names, parts, strict=True)}

    def by_lane(self, flat: Tensor) -> Tensor:
        """(states, B or 1): a flat tensor over the states of all sites, block after block, as columns of lanes."""
        if not self.alike:
            return flat[:, None]
        ends = np.cumsum([0, *self.sites])
        counts = np.diff(self.rows.starts)
        own = [int(counts[a:b].sum()) for a, b in zip(ends[:-1], ends[1:], strict=True)]
        parts = flat.split([c * self.instances for c in own])
        return torch.cat([p.reshape(self.instances, c) for p, c in zip(parts, own, strict=True)], 1).T


def lay_out_lanes(rows: Gathered) -> Layout:
    """The layout of a graph's rows; cost: a sort of their slots, and only those of one instance where all are alike."""
    from ebmstruct.inference.kernels.sampling.lane_sweeps_numba import Rows, Terms

    one = _of_one_instance(rows)
    own = rows if one is None else one
    arity = np.diff(own.ptr)
    stride = np.ones(own.sites.size, np.int64)
    for place in range(2, int(arity.max(initial=0)) + 1):
        slot = own.ptr[1:][arity >= place] - place
        stride[slot] = stride[slot + 1] * own.counts[own.sites[slot + 1]]
    order = np.argsort(own.sites, kind="stable")
    inc_ptr = np.concatenate([[0], np.cumsum(np.bincount(own.sites, minlength=own.counts.size))])
    row = np.repeat(np.arange(arity.size), arity)[order]
    others = arity[row]
    slots = np.repeat(own.ptr[row] - (np.cumsum(others) - others), others) + np.arange(int(others.sum()))
    mine = np.repeat(order, others)
    away = slots != mine
    starts = np.concatenate([[0], np.cumsum(own.counts)])
    oth_ptr = np.concatenate([[0], np.cumsum(others - 1)])
    oth_site, oth_stride = own.sites[slots[away]], stride[slots[away]]
    wide, to, source = _single_entries(rows, own, one is not None)
    return Layout(
        alike=one is not None,
        names=rows.names,
        sites=rows.sizes if one is None else tuple(s // rows.instances for s in rows.sizes),
        instances=rows.instances,
        inside=rows.instances if one is None else 1,
        states=int(starts[-1]),
        most=int(own.counts.max(initial=1)),
        rows=Rows(starts, inc_ptr, own.start[row], stride[order], row, oth_ptr, oth_site, oth_stride),
        terms=Terms(own.ptr, own.sites, stride, own.start, own.instance[own.sites[own.ptr[:-1]]], own.instance),
        scale=torch.from_numpy(own.scale),
        joins=np.stack([own.sites[mine[away]], own.sites[slots[away]]]),
        wide=wide,
        to=torch.from_numpy(to),
        source=torch.from_numpy(source),
        all_starts=np.concatenate([[0], np.cumsum(rows.counts)]),
    )


def _single_entries(rows: Gathered, own: Gathered, alike: bool) -> tuple[int, np.ndarray, np.ndarray]:
    """How many columns the energies of single sites have, which of their entries get energy, and from where."""
    if not alike:
        return 1, rows.to, rows.source
    count = rows.instances
    site = np.repeat(np.arange(rows.counts.size), rows.counts)[rows.to]
    first = np.concatenate([[0], np.cumsum(rows.counts)])
    local_first = np.concatenate([[0], np.cumsum(own.counts)])
    state = local_first[_local(rows)[site]] + rows.to - first[site]
    owner = rows.instance[site]
    order = np.argsort(owner, kind="stable")
    each = order.size // count
    if each * count == order.size and (np.bincount(owner, minlength=count) == each).all():
        tidy = np.lexsort((rows.source, state, owner))
        states, sources = state[tidy].reshape(count, each), rows.source[tidy].reshape(count, each)
        if (states == states[0]).all() and (sources == sources[0]).all():
            return 1, states[0].copy(), sources[0].copy()
    return count, state * count + owner, rows.source


def _local(rows: Gathered) -> np.ndarray:
    """(N,) each site's number within its instance, block after block; instances have the same sizes."""
    count, parts, before = rows.instances, [], 0
    for size in rows.sizes:
        parts.append(np.tile(np.arange(size // count), count) + before)
        before += size // count
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _of_one_instance(rows: Gathered) -> Gathered | None:
    """The rows of the first instance with sites numbered within it, where all instances are alike; else None."""
    count = rows.instances
    if count < 2 or rows.scale.any() or any(s % count for s in rows.sizes):
        return None
    local, first = _local(rows), 0
    for size in rows.sizes:
        if (rows.instance[first : first + size] != np.repeat(np.arange(count), size // count)).any():
            return None
        first += size
    sites_each = rows.counts.size // count
    states = np.zeros(sites_each, np.int64)
    states[local[rows.instance == 0]] = rows.counts[rows.instance == 0]
    if (rows.counts != states[local]).any():
        return None
    owner = rows.instance[rows.sites[rows.ptr[:-1]]]
    arity = np.diff(rows.ptr)
    each = owner.size // count
    if owner.size != each * count or (np.bincount(owner, minlength=count) != each).any():
        return None
    order = np.argsort(owner, kind="stable")
    start, width = rows.start[order].reshape(count, each), arity[order].reshape(count, each)
    if (start != start[0]).any() or (width != width[0]).any():
        return None
    slot_order = np.argsort(np.repeat(owner, arity), kind="stable")
    sites = local[rows.sites[slot_order]].reshape(count, -1)
    if (sites != sites[0]).any():
        return None
    ptr = np.concatenate([[0], np.cumsum(width[0])])
    return replace(
        rows, counts=states, instance=np.zeros(sites_each, np.int64), ptr=ptr, sites=sites[0].copy(),
        start=start[0].copy(), scale=np.zeros(each, np.int64),
    )  # fmt: skip

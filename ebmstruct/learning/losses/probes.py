"""Directions whose products with a Hessian reveal its diagonal: few where an energy's terms look at few sites."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ebmstruct.graph import Continuous, FactorGraph
from ebmstruct.learning.losses.output_energy import OutputEnergy


def probes(energy: OutputEnergy, names: Sequence[str]) -> list[tuple[Tensor, ...]]:
    """Directions, (n, t) for each block, with entries 0 and 1, whose sum is 1 in every coordinate of an output.

    No two coordinates that some term joins are in one direction, so that the product of the Hessian with it holds the
    diagonal in its places (Curtis, Powell and Reid 1974). The number of directions is that of the colours of a greedy
    colouring of sites times the widest step: a few for chains and grids; all coordinates of an instance where one
    term looks at all of them or where latent sites are summed out.
    """
    graph = energy.graph
    key = ("probes", tuple(names))
    if energy.latent or any(not bool(m.all()) for m in energy.outputs.values()):
        return _directions(energy, names, _colours(energy, names))
    found: list[tuple[Tensor, ...]] = graph.topology.derive(
        key, lambda: _directions(energy, names, _colours(energy, names))
    )
    return found


def _directions(energy: OutputEnergy, names: Sequence[str], colours: np.ndarray) -> list[tuple[Tensor, ...]]:
    graph, out = energy.graph, []
    sizes = [graph.variables[n].num_sites for n in names]
    parts = [torch.from_numpy(c) for c in np.split(colours, np.cumsum(sizes)[:-1])]
    widths = [_width(graph, n) for n in names]
    for colour in range(int(colours.max(initial=-1)) + 1):
        for j in range(max(widths)):
            direction = []
            for part, width, name in zip(parts, widths, names, strict=True):
                mask = energy.outputs[name]
                one = torch.zeros(part.shape[0], width, device=mask.device)
                if j < width:
                    one[:, j] = ((part.to(mask.device) == colour) & mask).to(one)
                direction.append(one)
            if any(bool(one.any()) for one in direction):
                out.append(tuple(direction))
    return out


def _width(graph: FactorGraph, name: str) -> int:
    domain = graph.variables[name].domain
    assert isinstance(domain, Continuous)
    return domain.tangent_dim


def _colours(energy: OutputEnergy, names: Sequence[str]) -> np.ndarray:
    """(sites,) a colour for each site of the blocks, one after the other; -1 at sites that are no outputs."""
    graph = energy.graph
    blocks = [graph.variables[n] for n in names]
    first = dict(zip(names, np.cumsum([0, *(b.num_sites for b in blocks)])[:-1].tolist(), strict=True))
    output = np.concatenate([energy.outputs[n].cpu().numpy() for n in names])
    instance = np.concatenate([b.instance.cpu().numpy() for b in blocks])
    factors = [f for f in graph.factors if set(f.scope) & set(names)]
    if energy.latent or any(getattr(f, "index", None) is None for f in factors):
        return _ranks(instance, output)
    pairs = []
    for factor in factors:
        places = [(i, first[n]) for i, n in enumerate(factor.scope) if n in first]
        index = getattr(factor, "index").cpu().numpy()  # noqa: B009 - a field of some factors only
        pairs += [(index[i] + a, index[j] + b) for i, a in places for j, b in places if i < j]
    if not pairs:
        return np.where(output, 0, -1)
    return _greedy(np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs]), output)


def _ranks(instance: np.ndarray, output: np.ndarray) -> np.ndarray:
    """The place of each output among those of its instance."""
    colours = np.full(instance.size, -1)
    sites = np.nonzero(output)[0]
    order = sites[np.argsort(instance[sites], kind="stable")]
    owners = instance[order]
    begins = np.searchsorted(owners, owners, side="left")
    colours[order] = np.arange(order.size) - begins
    return colours


def _greedy(a: np.ndarray, b: np.ndarray, output: np.ndarray) -> np.ndarray:
    """Each site the least colour that none of its neighbours has, in the order of sites."""
    both = output[a] & output[b]
    ends = np.concatenate([np.stack([a[both], b[both]]), np.stack([b[both], a[both]])], 1)
    order = np.argsort(ends[0], kind="stable")
    pointers = np.searchsorted(ends[0][order], np.arange(output.size + 1)).tolist()
    neighbours = ends[1][order].tolist()
    colours = [-1] * output.size
    for site in np.nonzero(output)[0].tolist():
        taken = {colours[k] for k in neighbours[pointers[site] : pointers[site + 1]]}
        colours[site] = next(c for c in range(len(taken) + 1) if c not in taken)
    return np.array(colours, dtype=np.int64)

"""Layers of units joined each with each: sweeps, energies and sums of many chains as products of matrices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ebmstruct.graph import BilinearFactor, Discrete, FactorGraph, TableFactor
from ebmstruct.graph.bilinear import padded, state_features
from ebmstruct.inference.sampling.layer_energies import LayerTerms, by_instance, free_energies


@dataclass(frozen=True)
class Join:
    """What joins a block to another: the position of the factor in the graph, the other block, and its place there."""

    factor: int
    other: str
    place: int


@dataclass(frozen=True)
class Layers:
    """A graph's layers. sizes: block to (sites an instance, states).  joins: block to what joins it.  colours: block to a
    number that differs between blocks that are joined; where the layers are a chain or a tree, 0 or 1.
    """

    sizes: Mapping[str, tuple[int, int]]
    joins: Mapping[str, tuple[Join, ...]]
    colours: Mapping[str, int]

    def apart(self, blocks: Iterable[str]) -> bool:
        """Whether none of the blocks is joined to another of them."""
        mine = set(blocks)
        return not any(join.other in mine for name in mine for join in self.joins[name])


def layers_of(graph: FactorGraph) -> Layers | None:
    """The layers of a graph; None where it has other factors than ``BilinearFactor``s and a table row for each site."""
    if not any(isinstance(f, BilinearFactor) for f in graph.factors):
        return None
    return graph.topology.derive("layers", lambda: _layers(graph))


def _layers(graph: FactorGraph) -> Layers | None:
    sizes: dict[str, tuple[int, int]] = {}
    for name, block in graph.variables.items():
        if not isinstance(block.domain, Discrete) or not block.discrete.uniform or not block.num_instances:
            return None
        if not bool((block.lengths == block.lengths[0]).all()):
            return None
        sizes[name] = int(block.lengths[0]), block.discrete.largest
    joins: dict[str, list[Join]] = {n: [] for n in sizes}
    for position, factor in enumerate(graph.factors):
        if isinstance(factor, BilinearFactor):
            for place, name in enumerate(factor.scope):
                joins[name].append(Join(position, factor.scope[1 - place], place))
        elif not isinstance(factor, TableFactor) or factor.arity != 1 or factor.index is not None:
            return None
        elif factor.starts is not None:
            sites, states = sizes[factor.scope[0]]
            once = torch.arange(sites, device=factor.starts.device) * states
            if not torch.equal(factor.starts.reshape(-1, sites), once.expand(graph.num_instances, -1)):
                return None
    colours: dict[str, int] = {}
    for name in sizes:
        taken = {colours.get(join.other) for join in joins[name]}
        colours[name] = next(c for c in range(len(sizes)) if c not in taken)
    return Layers(sizes, {n: tuple(j) for n, j in joins.items()}, colours)


@dataclass(frozen=True, eq=False)
class LayeredSweeps:
    """Block Gibbs sweeps over layers, and their energies, for as many chains as are handed in.

    Each block is drawn at once given all others, blocks of the higher colours first (even and odd layers in turns;
    Salakhutdinov and Hinton 2009). Chains of all instances are rows: L = C B of them.
    unary: block to (B, V, K) energies of single sites, infinite for states that the evidence excludes; (1, V, K) where all
    instances have the same.  moving: blocks that the evidence leaves open.
    All is differentiable in the factors' values, where this was made with gradients on, and in their precision.
    """

    graph: FactorGraph
    layers: Layers
    unary: Mapping[str, Tensor]
    moving: tuple[str, ...]

    @classmethod
    def of(cls, graph: FactorGraph) -> LayeredSweeps | None:
        """The sweeps of a graph with its present values; None where it has no layers."""
        layers = layers_of(graph)
        if layers is None:
            return None
        unary: dict[str, Tensor] = {}
        for factor in graph.factors:
            if isinstance(factor, TableFactor):
                (name,) = factor.scope
                sites, states = layers.sizes[name]
                own = factor.tables
                if factor.starts is not None:
                    own = own[: sites * states]
                own = own.expand(1, sites, -1) if factor.shared else own.reshape(-1, sites, states)
                unary[name] = unary[name] + own if name in unary else own
        kind = next(f.weight for f in graph.factors if isinstance(f, BilinearFactor))
        moving = []
        for name, size in layers.sizes.items():
            found = unary.get(name)
            found = kind.new_zeros(1, *size) if found is None else found
            allowed = graph.allowed(name)
            if allowed is None or bool((allowed.sum(1) > 1).any()):
                moving.append(name)
            if allowed is not None:
                found = found.masked_fill(~allowed.reshape(-1, *size), torch.inf)
            unary[name] = found
        return cls(graph, layers, unary, tuple(moving))

    @property
    def independent(self) -> bool:
        """Whether no two open sites are joined: then one sweep draws them exactly, from any start."""
        return self.layers.apart(self.moving)

    @property
    def finite(self) -> bool:
        """Whether nothing is forbidden, but for what the evidence excludes."""
        return not any(
            bool(torch.isposinf(f.tables.detach()).any()) for f in self.graph.factors if isinstance(f, TableFactor)
        )

    def rows(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Block to (L, V) states, from (C, n)."""
        return {n: values[n].reshape(-1, v) for n, (v, _) in self.layers.sizes.items() if n in values}

    def field(self, name: str, x: Mapping[str, Tensor]) -> Tensor:
        """(L, V, K) energies that the other layers at states x give each state of a block, without its own."""
        count, out = self.layers.sizes[name][1], None
        for join in self.layers.joins[name]:
            factor = self.graph.factors[join.factor]
            assert isinstance(factor, BilinearFactor)
            width = factor.weight.shape[2 * (1 - join.place) + 1]
            other = x[join.other]
            if not other.is_floating_point():
                other = state_features(other, width, self.layers.sizes[join.other][1], factor.weight.dtype)
            part = padded(factor.field(other, join.place), count)
            out = part if out is None else out + part
        return self.unary[name].new_zeros(1, *self.layers.sizes[name]) if out is None else out

    def conditionals(self, name: str, x: Mapping[str, Tensor]) -> Tensor:
        """(L, V, K) energies of each state of the sites of a block, all other layers at x."""
        return by_instance(self.field(name, x), self.unary[name])

    def drawn(self, name: str, x: Mapping[str, Tensor], temperature: float, generator: Generator) -> Tensor:
        """(L, V) states of a block drawn given the other layers."""
        return draw_states(self.conditionals(name, x), temperature, generator)

    def run(
        self, values: Mapping[str, Tensor], sweeps: int, temperature: float, generator: Generator
    ) -> dict[str, Tensor]:
        """Block name to (C, n) long: where chains that stand at ``values`` (C, n) are after some sweeps."""
        x = self.pinned(self.rows(values))
        order = sorted(self.moving, key=lambda n: -self.layers.colours[n])
        for _ in range(sweeps):
            for name in order:
                x[name] = self.drawn(name, x, temperature, generator)
        return {n: x[n].reshape(values[n].shape).long() for n in self.graph.variables}

    def pinned(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The states with blocks that the evidence clamps at what it says, where no sweep goes."""
        out = dict(x)
        for name in x:
            if name not in self.moving:
                only = (~torch.isposinf(self.unary[name])).long().argmax(2)
                out[name] = only.expand(x[name].shape[0] // only.shape[0], *only.shape).reshape(x[name].shape)
        return out

    def energies(self, values: Mapping[str, Tensor]) -> Tensor:
        """(C, B) float64: the energy of each instance in each chain."""
        return self.free_energies(values, ())

    def partial_energies(self, values: Mapping[str, Tensor]) -> Tensor:
        """(C, B) float64: what the blocks named contribute by themselves and among each other, without the constant."""
        x = self.rows(values)
        chosen = [f for f in self.graph.factors if isinstance(f, BilinearFactor) and all(n in x for n in f.scope)]
        return self._summed(x, (), 1.0, [n for n in self.unary if n in x], chosen)

    def _summed(
        self,
        x: Mapping[str, Tensor],
        summed: Sequence[str],
        temperature: float,
        unaries: Sequence[str],
        bilinear: Sequence[BilinearFactor],
    ) -> Tensor:
        pairs = [(f.scope[0], f.scope[1]) for f in bilinear]
        counts = {n: k for n, (_, k) in self.layers.sizes.items()}
        terms = LayerTerms(x, summed, counts, unaries, pairs, self.graph.num_instances, temperature)
        total = free_energies(terms, [self.unary[n] for n in unaries], [f.weight for f in bilinear])
        return total.double().reshape(-1, self.graph.num_instances)

    def free_energies(self, values: Mapping[str, Tensor], summed: Sequence[str], temperature: float = 1.0) -> Tensor:
        """(C, B) float64: -T log of the sum of exp(-E / T) over the sites of some blocks, the others at ``values`` (C, n).

        No two of the blocks ``summed`` may be joined: given the others their sites are independent, so that the sum is one
        of each site by itself (and its gradient the mean of the energy's: Rao and Blackwell).
        """
        x = self.rows({n: v for n, v in values.items() if n not in summed})
        bilinear = [f for f in self.graph.factors if isinstance(f, BilinearFactor)]
        out = self._summed(x, summed, temperature, tuple(self.unary), bilinear)
        return out if self.graph.constant is None else out + self.graph.constant.double()


def draw_states(energy: Tensor, temperature: float, generator: Generator) -> Tensor:
    """(...,) long: a state of each site by exp(-E / T), from energies (..., K)."""
    uniform = torch.rand(energy.shape[:-1], generator=generator, dtype=energy.dtype, device=energy.device)
    if energy.shape[-1] == 2:
        # on where u < sigmoid((E_0 - E_1) / T)
        chance = torch.sigmoid((energy[..., 0] - energy[..., 1]) / temperature)
        return (uniform < chance).long()
    cumulative = torch.softmax(-energy / temperature, -1).cumsum(-1)
    return (uniform[..., None] >= cumulative).sum(-1).clamp(max=energy.shape[-1] - 1)

"""Every assignment, one after another: the oracle for small graphs of any kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph import Assignment, ChainFactor, Discrete, FactorGraph, TableFactor
from ebmstruct.inference.result import Answer, Ask, Budget, Claim, Marginals, Query, Result, Samples, Status
from ebmstruct.inference.solver import Cost, IterativeMinimizer, Progress
from ebmstruct.inference.structure import joint_sizes


@dataclass(frozen=True, eq=False)
class Enumeration:
    """The joint assignments of each instance, numbered 0 ... size - 1, and how many have been evaluated.

    Site i takes state options[i, (number // stride[i]) % count[i]]. energies: (evaluated, B) float64.
    """

    blocks: tuple[str, ...]
    instance: Tensor
    options: Tensor
    count: Tensor
    stride: Tensor
    size: Tensor
    inner: Tensor
    copies: FactorGraph
    chunk: int
    fixed: Mapping[str, Tensor]
    energies: Tensor

    def states(self, number: Tensor) -> Tensor:
        """(..., n) states of all sites; ``number`` is (..., B)."""
        digit = (number[..., self.instance] // self.stride) % self.count.clamp(min=1)
        site = torch.arange(self.count.numel()).expand_as(digit)
        return self.options[site, digit]

    def values(self, graph: FactorGraph, number: Tensor) -> dict[str, Tensor]:
        """Block name to (..., n) values; ``number`` is (..., B)."""
        states = self.states(number)
        sizes = [graph.variables[b].num_sites for b in self.blocks]
        return dict(zip(self.blocks, states.split(sizes, -1), strict=True))


@dataclass(frozen=True)
class Exhaustive(IterativeMinimizer[Enumeration]):
    """Evaluate every assignment: exact for any factors over discrete variables, where there are few assignments.

    Cost: the product of the sites' state counts, an instance; the limit is ``max_assignments`` (times B in memory).
    It answers every query, with any factor; use it to check other solvers, not on real graphs.
    """

    name: ClassVar[str] = "exhaustive"

    max_assignments: int = 1 << 18

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        for block in graph.variables.values():
            if not isinstance(block.domain, Discrete) and not _clamped(graph, block.name):
                return f"block {block.name!r} is {block.domain}; only discrete variables can be enumerated"
        for name in query.sum_out:
            if name not in graph.variables:
                return f"the block {name!r} to sum out does not exist"
        log_size = joint_sizes(graph) if graph.evidence is None else _log_sizes(graph)
        largest = float(log_size.max()) if log_size.numel() else 0.0
        if largest > torch.tensor(float(self.max_assignments)).log() + 1e-9:
            return f"an instance has about 1e{largest / 2.302585:.0f} assignments, more than {self.max_assignments:,}"
        for label in query.factors:
            factor = next((f for f in graph.factors if f.label == label), None)
            if not isinstance(factor, ChainFactor) and not (isinstance(factor, TableFactor) and factor.arity == 2):
                return f"joint beliefs are given for chains and tables of pairs; {label!r} is neither"
        return None

    def cost(self, graph: FactorGraph, query: Query) -> Cost | None:
        sizes = _log_sizes(graph).exp()
        return Cost(float(sizes.sum()) * max(1, len(graph.factors)), round(float(sizes.max())) if sizes.numel() else 0)

    def begin(
        self, graph: FactorGraph, query: Query, init: Assignment | None, generator: Generator | None
    ) -> Enumeration:
        names = [n for n, v in graph.variables.items() if isinstance(v.domain, Discrete)]
        blocks = tuple([n for n in names if n in query.sum_out] + [n for n in names if n not in query.sum_out])
        instance = torch.cat([graph.variables[n].instance for n in blocks] or [torch.zeros(0, dtype=torch.long)])
        options, count = _options(graph, blocks)
        stride, size = _strides(instance, count, graph.num_instances)
        summed = sum(graph.variables[n].num_sites for n in blocks if n in query.sum_out)
        inner = _strides(instance[:summed], count[:summed], graph.num_instances)[1]
        fixed = {n: graph.evidence.values[n] for n in graph.variables if n not in blocks and graph.evidence is not None}
        chunk = max(1, min(1 << 12, (1 << 17) // max(1, instance.numel()), int(size.max()) if size.numel() else 1))
        try:
            copies = graph.repeat(chunk)
        except GraphError:
            chunk, copies = 1, graph
        energies = torch.zeros(0, graph.num_instances, dtype=torch.float64)
        state = Enumeration(blocks, instance, options, count, stride, size, inner, copies, chunk, fixed, energies)
        return self.step(graph, query, state)

    def step(self, graph: FactorGraph, query: Query, state: Enumeration) -> Enumeration:
        number = state.energies.shape[0] + torch.arange(state.chunk)
        inside = number[:, None] < state.size
        number = torch.minimum(number[:, None], (state.size - 1).clamp(min=0))
        values = {n: v.reshape(-1) for n, v in state.values(graph, number).items()}
        values |= {n: v.repeat(state.chunk, *[1] * (v.dim() - 1)) for n, v in state.fixed.items()}
        energy = state.copies.energy(values).reshape(state.chunk, graph.num_instances)
        energy = energy.masked_fill(~inside, torch.inf)
        return replace(state, energies=torch.cat([state.energies, energy]))

    def witness(self, state: Enumeration) -> Claim:
        return Claim("enumeration")

    def progress(self, state: Enumeration) -> Progress:
        raw = state.energies.detach()
        seen = raw.shape[0]
        energy, number = torch.where(raw.isnan(), torch.inf, raw).min(0)
        energy = torch.where(raw.isnan().any(0), torch.nan, energy)
        done = state.size <= seen
        states = state.states(number)
        values = dict(zip(state.blocks, states.split([self._sites(state, b) for b in state.blocks]), strict=True))
        bound = torch.where(done, energy, -torch.inf)
        return Progress({**values, **state.fixed}, energy, bound, done)

    @staticmethod
    def _sites(state: Enumeration, block: str) -> int:
        return state.copies.variables[block].num_sites // state.chunk

    def solve(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: Assignment | None = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> Answer:
        result, state = self.iterate(graph, query, budget=budget, generator=generator)
        if query.ask is Ask.MINIMIZE:
            return _marginal_map(graph, query, state, result) if query.sum_out else _k_best(graph, query, state, result)
        finished = result.status == int(Status.CONVERGED)
        log_z = safe_logsumexp(-state.energies / query.temperature)
        status = torch.where(finished, int(Status.OPTIMAL), result.status)
        status = torch.where(torch.isneginf(log_z), int(Status.INFEASIBLE), status)
        status = torch.where(log_z.isnan(), int(Status.NONFINITE), status)
        exact = bool(finished.all())
        weights = (-state.energies / query.temperature - log_z).exp().nan_to_num(0.0)
        if query.ask is Ask.SAMPLE:
            return _draw(graph, query, state, weights, exact, status, generator)
        beliefs = {n: _beliefs(graph, state, weights, n) for n in state.blocks}
        joint = {label: _joint(graph, state, weights, label) for label in query.factors}
        return Marginals(beliefs, log_z, exact, status, self.name, joint)

    def log_partition(self, graph: FactorGraph, temperature: float = 1.0) -> Tensor:
        query = Query(Ask.LOG_PARTITION, temperature=temperature)
        state = self.begin(graph, query, None, None)
        while not bool((state.size <= state.energies.shape[0]).all()):
            state = self.step(graph, query, state)
        return safe_logsumexp(-state.energies / temperature)


def safe_logsumexp(x: Tensor) -> Tensor:
    """log-sum-exp over axis 0, whose gradient is zero, not NaN, where all entries are -inf."""
    dead = torch.isneginf(x).all(0)
    return torch.where(dead, -torch.inf, torch.where(dead, 0.0, x).logsumexp(0))


def _clamped(graph: FactorGraph, block: str) -> bool:
    fixed = graph.evidence
    return fixed is not None and block in fixed.values and (block not in fixed.known or bool(fixed.known[block].all()))


def _options(graph: FactorGraph, blocks: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """(n, K) the states that each site may take, first those and then the others; (n,) how many it may take."""
    width = max((graph.variables[n].discrete.largest for n in blocks), default=1)
    rows, counts = [], []
    for name in blocks:
        block = graph.variables[name]
        states = torch.arange(width)
        legal = states < block.state_counts[:, None]
        allowed = graph.allowed(name)
        if allowed is not None:
            legal = legal & torch.nn.functional.pad(allowed, (0, width - allowed.shape[1]))
        rows.append((~legal).long().sort(dim=1, stable=True).indices)
        counts.append(legal.sum(1))
    if not rows:
        return torch.zeros(0, width, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    return torch.cat(rows), torch.cat(counts)


def _log_sizes(graph: FactorGraph) -> Tensor:
    blocks = tuple(n for n, v in graph.variables.items() if isinstance(v.domain, Discrete))
    _, count = _options(graph, blocks)
    instance = torch.cat([graph.variables[n].instance for n in blocks] or [torch.zeros(0, dtype=torch.long)])
    return torch.zeros(graph.num_instances, dtype=torch.float64).index_add(0, instance, count.double().log())


def _strides(instance: Tensor, count: Tensor, num_instances: int) -> tuple[Tensor, Tensor]:
    """(n,) the place value of each site's digit; (B,) the number of assignments of each instance."""
    place = [1] * num_instances
    stride = []
    for b, c in zip(instance.tolist(), count.tolist(), strict=True):
        stride.append(max(1, place[b]))
        place[b] *= c
    return torch.tensor(stride, dtype=torch.long), torch.tensor(place, dtype=torch.long)


def _k_best(graph: FactorGraph, query: Query, state: Enumeration, result: Result) -> Result:
    if query.k == 1:
        return result
    energies, number = torch.sort(state.energies, dim=0, stable=True)
    missing = max(0, query.k - energies.shape[0])
    energies = torch.nn.functional.pad(energies[: query.k], (0, 0, 0, missing), value=torch.inf)
    number = torch.nn.functional.pad(number[: query.k], (0, 0, 0, missing))
    found = state.values(graph, number)
    several = tuple(Assignment({**{n: v[i] for n, v in found.items()}, **state.fixed}) for i in range(query.k))
    return replace(result, alternatives=several, alternative_energies=energies)


def _marginal_map(graph: FactorGraph, query: Query, state: Enumeration, result: Result) -> Result:
    """Minimise the free energy -T log sum exp(-E / T) over the summed-out blocks, instance by instance."""
    energy, number = torch.zeros(graph.num_instances, dtype=torch.float64), []
    for b, (size, inner) in enumerate(zip(state.size.tolist(), state.inner.tolist(), strict=True)):
        table = state.energies[:size, b].reshape(-1, inner) if inner and size else torch.full((1, 1), torch.inf)
        free = -query.temperature * safe_logsumexp(-table.T / query.temperature)
        best = int(free.argmin())
        energy[b] = free[best]
        number.append(best * max(1, inner) + int(table[best].argmin()))
    done = result.status == int(Status.CONVERGED)
    values = state.values(graph, torch.tensor(number, dtype=torch.long))
    status = torch.where(done, int(Status.OPTIMAL), result.status)
    status = torch.where(torch.isposinf(energy), int(Status.INFEASIBLE), status)
    bound = torch.where(done, energy, -torch.inf)
    assignment = Assignment({**values, **state.fixed})
    return replace(result, assignment=assignment, energy=energy, lower_bound=bound, status=status, integration="exact")


def _draw(
    graph: FactorGraph,
    query: Query,
    state: Enumeration,
    weights: Tensor,
    exact: bool,
    status: Tensor,
    generator: Generator | None,
) -> Samples:
    uniform = torch.rand(query.num_samples, graph.num_instances, dtype=torch.float64, generator=generator)
    total = weights.cumsum(0)
    number = torch.searchsorted(total.T.contiguous(), (uniform * total[-1]).T.contiguous(), right=True).T
    number = number.clamp(max=weights.shape[0] - 1)
    energy = state.energies.gather(0, number)
    return Samples(state.values(graph, number), energy, exact, status, Exhaustive.name)


def _beliefs(graph: FactorGraph, state: Enumeration, weights: Tensor, block: str) -> Tensor:
    """(n, K) probabilities of one block's states, summed over all assignments in pieces."""
    owner = graph.variables[block]
    out = torch.zeros(owner.num_sites, owner.discrete.largest, dtype=torch.float64)
    for begin in range(0, weights.shape[0], state.chunk):
        piece = weights[begin : begin + state.chunk]
        number = (begin + torch.arange(piece.shape[0]))[:, None].expand_as(piece)
        y = state.values(graph, number)[block]
        out.scatter_add_(1, y.T, piece[:, owner.instance].T)
    return out


def _joint(graph: FactorGraph, state: Enumeration, weights: Tensor, label: str) -> Tensor:
    """(m, K, L) joint probabilities of a factor of pairs; for a chain entry t is the edge from t - 1 to t."""
    factor = next(f for f in graph.factors if f.label == label)
    scope = graph.scope(factor)
    if isinstance(factor, ChainFactor):
        (block,) = scope
        later = (block.instance.diff(prepend=torch.tensor([-1])) == 0).nonzero()[:, 0]
        index, names, rows = torch.stack([later - 1, later]), (block.name, block.name), later
        total, sizes = block.num_sites, (block.discrete.largest,) * 2
    else:
        assert isinstance(factor, TableFactor) and factor.index is not None
        index, names, rows = factor.index, (factor.scope[0], factor.scope[1]), torch.arange(factor.index.shape[1])
        total, sizes = rows.numel(), (scope[0].discrete.largest, scope[1].discrete.largest)
    out = torch.zeros(total, sizes[0] * sizes[1], dtype=torch.float64)
    owner = scope[0].instance[index[0]]
    for begin in range(0, weights.shape[0], state.chunk):
        piece = weights[begin : begin + state.chunk]
        number = (begin + torch.arange(piece.shape[0]))[:, None].expand_as(piece)
        y = state.values(graph, number)
        cell = y[names[0]][:, index[0]] * sizes[1] + y[names[1]][:, index[1]]
        part = torch.zeros(rows.numel(), out.shape[1], dtype=torch.float64).scatter_add_(1, cell.T, piece[:, owner].T)
        out.index_add_(0, rows, part)
    return out.reshape(total, *sizes)

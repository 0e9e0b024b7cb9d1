"""Exact marginals, log partition and samples where the energy is quadratic once the discrete states are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, Discrete, FactorGraph
from ebmstruct.inference.latent.components import components
from ebmstruct.inference.latent.free_energy import CopySum, free_energy, free_energy_refusal, soft_minimum
from ebmstruct.inference.latent.integrals import LatentIntegral
from ebmstruct.inference.result import Answer, Ask, Budget, Marginals, Query, Samples, Status
from ebmstruct.inference.sampling.markov import default_generator
from ebmstruct.inference.smooth_energy import constraint_labels, open_continuous
from ebmstruct.inference.solver import Solver


@dataclass(frozen=True)
class ConditionalGaussian(Solver):
    """Mixtures of Gaussians, all exact: a Gaussian over the continuous blocks for each joint state of the discrete ones.

    Any factors, residuals or functions of whole blocks, whose sum is quadratic in the open continuous blocks once the
    discrete ones are given, which is found by comparing curvatures at scattered points; without discrete blocks it is
    one Gaussian (as Gaussian answers where residuals are stated to be affine, and longer systems). Every joint state is
    listed. Source: Lauritzen 1992, section 2.

    max_states: joint states of the discrete blocks.  max_dimension: coordinates that hang together.
    Cost: D products with the Hessian and a dense factor of each component, for each joint state.
    """

    name: ClassVar[str] = "conditional_gaussian"

    max_states: int = 1024
    max_dimension: int = 400

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if query.ask is Ask.MINIMIZE:
            return "it computes marginals, log partitions and samples, and does not minimise"
        if query.factors:
            return "it gives no joint beliefs of factors"
        if not open_continuous(graph):
            return "no continuous block is open: tables have solvers of their own"
        labels = constraint_labels(graph)
        if labels:
            return f"factors {labels} are constraints, within which nothing is Gaussian"
        reason = free_energy_refusal(graph, _everything(graph), self.max_states, self.max_dimension)
        if reason is not None:
            return reason
        widest = components(graph, tuple(v.name for v in open_continuous(graph))).largest
        if widest > self.max_dimension:
            return f"{widest} continuous coordinates hang together, more than {self.max_dimension}"
        if not _sum(graph, 1.0).exact:
            return "the energy is not quadratic in the continuous blocks, or these are bounded or on manifolds"
        return None

    def log_partition(self, graph: FactorGraph, temperature: float = 1.0) -> Tensor:
        return -_sum(graph, temperature)({}) / temperature

    def solve(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: Assignment | None = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> Answer:
        with torch.no_grad():
            total = _sum(graph, query.temperature)
            modes = total.modes({})
            each = total.each({}, modes)
            free = soft_minimum(each, query.temperature)
        status = torch.full_like(free, int(Status.OPTIMAL), dtype=torch.long)
        status = torch.where(torch.isposinf(free), int(Status.INFEASIBLE), status)
        status = torch.where(free.isnan() | torch.isneginf(free), int(Status.NONFINITE), status)
        weights = ((free - each) / query.temperature).exp().nan_to_num(0.0)
        log_z = -free / query.temperature
        stats = {"joint_states": total.states.count}
        if query.ask is Ask.LOG_PARTITION:
            return Marginals({}, log_z, True, status, self.name, stats=stats)
        posterior = _Posterior(graph, total, modes, weights, query.temperature)
        if query.ask is Ask.SAMPLE:
            values = posterior.draw(query.num_samples, default_generator(generator))
            energy = torch.stack([graph.energy({n: v[s] for n, v in values.items()}) for s in range(query.num_samples)])
            return Samples(values, energy, True, status, self.name, stats)
        means, covariances = posterior.moments()
        return Marginals(
            posterior.beliefs(), log_z, True, status, self.name, stats=stats, means=means, covariances=covariances
        )


def _everything(graph: FactorGraph) -> tuple[str, ...]:
    moving = {v.name for v in open_continuous(graph)}
    return tuple(n for n, v in graph.variables.items() if isinstance(v.domain, Discrete) or n in moving)


def _sum(graph: FactorGraph, temperature: float) -> CopySum:
    found = free_energy(graph, _everything(graph), temperature, dense=True)
    assert isinstance(found, CopySum)
    return found


@dataclass(frozen=True, eq=False)
class _Posterior:
    """The Gaussians of all joint states and their weights (C, B); modes are values of the C copies."""

    graph: FactorGraph
    total: CopySum
    modes: dict[str, Tensor]
    weights: Tensor
    temperature: float

    @property
    def integral(self) -> LatentIntegral:
        """The integral over the continuous blocks of all copies."""
        assert isinstance(self.total.integral, LatentIntegral)
        return self.total.integral

    def factor(self) -> Tensor:
        """(components, D, D) lower factors L of the curvatures H = L L^T; the identity where H has none."""
        with torch.no_grad():
            hessian = self.integral.expand(self.total.spread({}), self.modes).hessian
        sound = torch.where(hessian.isfinite().all(-1, keepdim=True).all(-2, keepdim=True), hessian, 0.0)
        factor, broken = torch.linalg.cholesky_ex(sound)
        return torch.where((broken > 0)[:, None, None], torch.eye(hessian.shape[-1], dtype=hessian.dtype), factor)

    def copies_of(self, name: str, value: Tensor) -> Tensor:
        """(C, n, ...): the values of a block in each copy."""
        return value.reshape(self.total.states.count, self.graph.variables[name].num_sites, *value.shape[1:])

    def beliefs(self) -> dict[str, Tensor]:
        """Discrete block to (n, K) probabilities."""
        out = {}
        for name, states in self.total.states.values.items():
            block = self.graph.variables[name]
            table = torch.zeros(block.num_sites, block.discrete.largest, dtype=torch.float64)
            out[name] = table.scatter_add(1, states.T, self.weights[:, block.instance].T)
        return out

    def moments(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Continuous block to (n, d) means, and to (n, t, t) covariances of each site."""
        inverse = self.temperature * torch.cholesky_inverse(self.factor())
        inverse = torch.cat([inverse, inverse.new_zeros(1, *inverse.shape[1:])])
        component, column = self.integral.parts.places
        means, covariances, begin = {}, {}, 0
        for name, value in self.modes.items():
            width, count = value.shape[1], value.shape[0]
            places = torch.arange(begin, begin + count * width).reshape(count, width)
            begin += count * width
            within = inverse[component[places][:, :1, None], column[places][:, :, None], column[places][:, None, :]]
            weight = self.weights[:, self.graph.variables[name].instance]
            modes = self.copies_of(name, value.double())
            mean = (weight[..., None] * modes).sum(0)
            apart = modes - mean
            spread = self.copies_of(name, within) + apart[..., :, None] * apart[..., None, :]
            means[name] = mean.to(value.dtype)
            covariances[name] = (weight[..., None, None] * spread).sum(0).to(value.dtype)
        return means, covariances

    def draw(self, count: int, generator: Generator) -> dict[str, Tensor]:
        """Block name to (S, n, ...): a joint state by its weight, then the Gaussian of that state."""
        parts, owner = self.integral.parts, torch.arange(self.graph.num_instances)
        uniform = torch.rand(count, owner.numel(), generator=generator, dtype=torch.float64)
        cumulative = self.weights.cumsum(0)
        chosen = (uniform[:, None] * cumulative[-1] >= cumulative).sum(1).clamp(max=self.total.states.count - 1)
        noise = torch.randn(count, *parts.coordinate.shape, generator=generator, dtype=torch.float64)
        steps = torch.linalg.solve_triangular(self.factor().mT, noise[..., None], upper=True)[..., 0]
        steps = self.temperature**0.5 * torch.cat([steps, steps.new_zeros(count, 1, steps.shape[2])], 1)
        component, column = parts.places
        flat = steps[:, component, column]
        out = {}
        for name, states in self.total.states.values.items():
            block = self.graph.variables[name]
            out[name] = states[chosen[:, block.instance], torch.arange(block.num_sites)]
        begin = 0
        for name, value in self.modes.items():
            block, size = self.graph.variables[name], value.numel()
            moved = value + flat[:, begin : begin + size].reshape(count, *value.shape).to(value.dtype)
            begin += size
            copies = moved.reshape(count, self.total.states.count, block.num_sites, value.shape[1])
            rows = torch.arange(count)[:, None]
            out[name] = copies[rows, chosen[:, block.instance], torch.arange(block.num_sites)]
        fixed = self.graph.evidence
        for name in self.graph.variables:
            if name not in out and fixed is not None:
                out[name] = fixed.values[name].expand(count, *fixed.values[name].shape)
        return out

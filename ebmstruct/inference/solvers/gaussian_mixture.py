"""Mixtures of Gaussians and of independent discrete columns: everything exact, whatever is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, FactorGraph, GaussianFactor
from ebmstruct.inference.mixture_parts import MixtureParts, mixture_refusal
from ebmstruct.inference.result import Answer, Ask, Budget, Marginals, Query, Result, Samples, Status
from ebmstruct.inference.sampling.markov import default_generator
from ebmstruct.inference.solver import Solver

MOST_COVARIANCES = 1 << 26
"""Entries of the covariances of all sites; marginals of more are refused."""


@dataclass(frozen=True)
class GaussianMixture(Solver):
    """Mixtures whose component is a discrete site z: given z, Gaussian vectors and discrete sites are independent.

    Takes graphs of ``GaussianFactor``s, if any, all over one block z, and of tables over z, over single sites, and over
    pairs of z and another site (latent class models). Any coordinates and sites may be known, others at each instance.
    Every query is answered exactly: the log partition and its gradient, marginals (means and covariances beside beliefs),
    draws, and the least energy over z and all the rest together (the mode of the tallest component, not of the mixture).

    Cost: K densities an instance; with full covariances a factorisation of each of K for every set of coordinates that
    some instance knows. Draws cost no more than one of those. Source: Lauritzen (1992), section 2; Little and Rubin
    (1987) for parts that are missing.
    """

    name: ClassVar[str] = "gaussian_mixture"

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if query.k != 1 or query.sum_out or query.factors:
            return (
                "it gives one minimum, marginals of sites and draws; no alternatives, sums over blocks or joint beliefs"
            )
        reason = mixture_refusal(graph)
        if reason is not None or query.ask is not Ask.MARGINALS:
            return reason
        sizes = [v.num_sites * v.domain.dim**2 for v in graph.variables.values() if hasattr(v.domain, "dim")]
        if sum(sizes) > MOST_COVARIANCES:
            return f"its covariances would have {sum(sizes):,} entries, more than {MOST_COVARIANCES:,}; draw samples"
        return None

    def log_partition(self, graph: FactorGraph, temperature: float = 1.0) -> Tensor:
        return (-MixtureParts.of(graph, temperature).soft / temperature).logsumexp(1)

    def solve(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: Assignment | None = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> Answer:
        if query.ask is Ask.MINIMIZE:
            return self._minimum(graph)
        with torch.no_grad():
            parts = MixtureParts.of(graph, query.temperature)
        log_z = (-parts.soft / query.temperature).logsumexp(1)
        status = torch.full(log_z.shape, int(Status.OPTIMAL))
        status = status.masked_fill(torch.isneginf(log_z), int(Status.INFEASIBLE))
        status = status.masked_fill(log_z.isnan() | torch.isposinf(log_z), int(Status.NONFINITE))
        weights = torch.softmax(-parts.soft / query.temperature, 1).nan_to_num(0.0)
        if query.ask is Ask.LOG_PARTITION:
            return Marginals({}, log_z, True, status, self.name)
        if query.ask is Ask.SAMPLE:
            values = parts.draws(weights, query.num_samples, default_generator(generator))
            energy = torch.stack([graph.energy({n: v[s] for n, v in values.items()}) for s in range(query.num_samples)])
            return Samples(values, energy, True, status, self.name)
        beliefs = parts.beliefs(weights)
        means, covariances = {}, {}
        for factor in parts.gaussians:
            name = factor.scope[1]
            means[name], covariances[name] = _moments(parts, factor, weights)
        return Marginals(beliefs, log_z, True, status, self.name, means=means, covariances=covariances)

    def _minimum(self, graph: FactorGraph) -> Result:
        """The least energy over each component's own best completion."""
        with torch.no_grad():
            best, energy = None, None
            for y in _completions(graph):
                own = graph.energy(y)
                if best is None or energy is None:
                    best, energy = y, own
                    continue
                better = own < energy
                energy = torch.where(better, own, energy)
                best = {n: _chosen(graph, n, better, y[n], best[n]) for n in best}
        assert best is not None and energy is not None
        status = torch.full(energy.shape, int(Status.CONVERGED))
        status = status.masked_fill(torch.isposinf(energy), int(Status.INFEASIBLE))
        status = status.masked_fill(energy.isnan() | torch.isneginf(energy), int(Status.NONFINITE))
        return Result(Assignment(best), energy, torch.full_like(energy, -torch.inf), status, self.name)


def _completions(graph: FactorGraph) -> Iterator[dict[str, Tensor]]:
    """For each state of z the values of least energy of everything else."""
    parts = MixtureParts.of(graph, 1.0)
    for k in range(parts.states):
        y = {parts.chooser: torch.full((graph.num_instances,), k)}
        for name in parts.columns:
            y[name] = parts.column(name, k).argmin(1)
        for factor in parts.gaussians:
            block = graph.variables[factor.scope[1]]
            whole = torch.zeros(graph.num_instances, factor.mean.shape[1], dtype=torch.float64)
            for rows, given in parts.given(factor):
                whole[rows] = given.mean[k]
            y[block.name] = whole.reshape(block.num_sites, -1).to(factor.mean.dtype)
        yield graph.complete(y)


def _chosen(graph: FactorGraph, name: str, better: Tensor, new: Tensor, old: Tensor) -> Tensor:
    mine = better[graph.variables[name].instance]
    return torch.where(mine.reshape(-1, *[1] * (new.dim() - 1)), new, old)


def _moments(parts: MixtureParts, factor: GaussianFactor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(n, d) means and (n, d, d) covariances of the sites of a Gaussian block under component weights (B, K)."""
    block, kind = parts.graph.variables[factor.scope[1]], factor.mean.dtype
    sites, d = block.num_sites // max(1, block.num_instances), factor.mean.shape[1]
    width = d // max(1, sites)
    means = torch.zeros(block.num_instances, d, dtype=torch.float64)
    covariances = torch.zeros(block.num_instances, sites, width, width, dtype=torch.float64)
    for rows, given in parts.given(factor):
        own = weights[rows]
        mean = torch.einsum("bk,kbd->bd", own, given.mean)
        apart = (given.mean - mean).reshape(own.shape[1], rows.numel(), sites, width)
        whole = given.covariance().reshape(own.shape[1], sites, width, sites, width)
        within = torch.einsum("bk,kiuv->biuv", own, whole.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2))
        within = within * parts.temperature
        means[rows] = mean
        covariances[rows] = within + torch.einsum("bk,kbiu,kbiv->biuv", own, apart, apart)
    shape = (block.num_sites, width)
    return means.reshape(shape).to(kind), covariances.reshape(*shape, width).to(kind)

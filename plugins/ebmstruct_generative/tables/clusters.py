"""Exact answers where everything is independent once the latent cluster is known, but numbers, which are Gaussian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from ebmstruct import Assignment, FactorGraph, Solver, TableFactor
from ebmstruct.inference import Ask, Budget, Marginals, Query, Result, Samples, Status
from ebmstruct.inference.result import Answer
from ebmstruct_generative.tables.gaussians import ClusterGaussian, Gaussians, patterns
from ebmstruct_generative.tables.layout import CATEGORY, CLUSTER, NUMBERS


@dataclass(frozen=True)
class Clusters(Solver):
    """Log partitions, marginals, draws and least energies of ``generative.table_mixture``, all exact.

    Given the cluster its categories are independent of each other and of the numbers, which are Gaussian; what is not
    known is summed out in closed form, whatever is missing of each row (Little and Rubin 2002, section 13). Drawing is
    ancestral: the cluster by its weight given the evidence, then the rest. Least energies are over cluster, categories
    and numbers together; they are exact, but no bound is stated.

    Cost: K (d^2 + c) a row, and K d^3 for each pattern of known numbers.
    """

    name: ClassVar[str] = "generative.clusters"

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if CLUSTER not in graph.variables:
            return f"it answers about graphs of generative.table_mixture, and there is no block {CLUSTER!r}"
        ours = {"share": TableFactor, "categories": TableFactor, "numbers": ClusterGaussian}
        for factor in graph.factors:
            if not isinstance(factor, ours.get(factor.label, ())):
                return f"the factor {factor.label!r} is none of a mixture of rows"
        if query.k > 1 or query.sum_out:
            return "it finds one answer, and sums out nothing in a minimisation"
        return "it gives no joint beliefs of factors" if query.factors else None

    def log_partition(self, graph: FactorGraph, temperature: float = 1.0) -> Tensor:
        return _View(graph, temperature).log_weights.logsumexp(1)

    def solve(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: Assignment | None = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> Answer:
        from ebmstruct.inference.sampling.markov import default_generator

        with torch.no_grad():
            view = _View(graph, query.temperature)
            if query.ask is Ask.MINIMIZE:
                return view.least(self.name)
            log_z = view.log_weights.logsumexp(1)
            status = torch.where(log_z.isfinite(), int(Status.OPTIMAL), int(Status.INFEASIBLE))
            status = torch.where(log_z.isnan() | torch.isposinf(log_z), int(Status.NONFINITE), status)
            if query.ask is Ask.LOG_PARTITION:
                return Marginals({}, log_z, True, status, self.name)
            if query.ask is Ask.MARGINALS:
                beliefs, means, covariances = view.marginals()
                return Marginals(beliefs, log_z, True, status, self.name, means=means, covariances=covariances)
            source = default_generator(generator)
            draws = [view.draw(source) for _ in range(query.num_samples)]
            values = {name: torch.stack([d[name] for d in draws]) for name in draws[0]}
            energy = torch.stack([graph.energy(d) for d in draws])
            return Samples(values, energy, True, status, self.name)


class _View:
    """The parts of a mixture's graph, and the weights of its clusters under what is known.

    log_weights: (B, K) log of the sum over everything but the cluster of exp(-E / T).
    """

    def __init__(self, graph: FactorGraph, temperature: float) -> None:
        self.graph, self.temperature, self.count = graph, temperature, graph.num_instances
        parts: dict[str, Any] = {f.label: f for f in graph.factors}
        self.share: Tensor = parts["share"].tables.double()
        self.tables = _tables(graph, parts.get("categories"), len(self.share))
        numbers = parts.get("numbers")
        self.gaussians = None if numbers is None else Gaussians.of(numbers)
        self.allowed = [a.reshape(self.count, -1) for a in self._allowed()]
        self.x, self.known = self._numbers()
        self.log_weights = self._weights()

    def _allowed(self) -> list[Tensor]:
        """For each discrete column (B, m) bool, which states the evidence leaves; empty without evidence on any."""
        mask = self.graph.allowed(CATEGORY) if CATEGORY in self.graph.variables else None
        if mask is None:
            return []
        columns = mask.reshape(self.count, len(self.tables), -1)
        return [columns[:, j, : t.shape[1]] for j, t in enumerate(self.tables)]

    def _numbers(self) -> tuple[Tensor, Tensor]:
        """(B, d) values and (B, d) bool, which of them are known."""
        d = 0 if self.gaussians is None else self.gaussians.mean.shape[1]
        fixed = self.graph.evidence
        device = self.share.device
        if fixed is None or NUMBERS not in fixed.values:
            nothing = torch.zeros(self.count, d, dtype=torch.float64, device=device)
            return nothing, nothing.bool()
        x = fixed.values[NUMBERS].reshape(self.count, d).double()
        known = fixed.known.get(NUMBERS)
        return x, torch.ones_like(x, dtype=torch.bool) if known is None else known.reshape(self.count, d)

    def _weights(self) -> Tensor:
        out = (-self.share / self.temperature).expand(self.count, -1)
        for j, table in enumerate(self.tables):
            out = out + self._column_sum(j, -table / self.temperature)
        if self.gaussians is not None:
            out = out + self.gaussians.log_integrals(self.x, self.known, self.temperature)
        cluster = self.graph.allowed(CLUSTER)
        return out if cluster is None else out.masked_fill(~cluster, -torch.inf)

    def _column_sum(self, j: int, logits: Tensor) -> Tensor:
        """(B, K) or (K,) log of the sum over the states that are left to column j of exp(logits), (K, m)."""
        if not self.allowed:
            return logits.logsumexp(1)
        mask = self.allowed[j]
        if bool((mask.sum(1) == 1).all()):  # all known: a look-up
            return logits.T[mask.to(torch.uint8).argmax(1)]
        if bool(mask.all()):
            return logits.logsumexp(1)
        one = mask.sum(1) == 1
        out = logits.new_zeros(self.count, len(logits))
        rows = one.nonzero()[:, 0]
        out = out.index_copy(0, rows, logits.T[mask[rows].to(torch.uint8).argmax(1)])
        rest = (~one).nonzero()[:, 0]
        wide = torch.where(mask[rest][:, None], logits, -torch.inf).logsumexp(2)
        return out.index_copy(0, rest, wide)

    def draw(self, generator: Generator) -> dict[str, Tensor]:
        """One assignment an instance, by its probability."""
        uniform = torch.rand(self.count, 1 + len(self.tables), generator=generator, dtype=torch.float64)
        uniform = uniform.to(self.share.device)
        cluster = _chosen(self.log_weights.softmax(1).nan_to_num(1.0), uniform[:, 0])
        out = {CLUSTER: cluster}
        if self.tables:
            drawn = [self._drawn(j, cluster, uniform[:, 1 + j]) for j in range(len(self.tables))]
            out[CATEGORY] = torch.stack(drawn, 1).reshape(-1)
        if self.gaussians is not None:
            noise = torch.randn(self.x.shape, generator=generator, dtype=torch.float64).to(self.share.device)
            draws = self.gaussians.draw(cluster, noise * self.temperature**0.5)
            out[NUMBERS] = self.gaussians.corrected(self.x, draws, cluster, self.known).float().reshape(-1, 1)
        return self.graph.complete(out)

    def _drawn(self, j: int, cluster: Tensor, uniform: Tensor) -> Tensor:
        """(B,) a state of column j for each cluster (B,)."""
        shares = (-self.tables[j] / self.temperature).softmax(1)
        if self.allowed and not bool(self.allowed[j].all()):
            return _chosen(torch.where(self.allowed[j], shares[cluster], 0.0), uniform)
        # one sorted list of all clusters' distribution functions, that of cluster k between k and k + 1
        flat = (shares.cumsum(1).clamp(max=1.0) + torch.arange(len(shares), device=shares.device)[:, None]).reshape(-1)
        at = torch.searchsorted(flat, cluster + uniform, right=True) - cluster * shares.shape[1]
        return at.clamp(0, shares.shape[1] - 1)

    def least(self, name: str) -> Result:
        """The assignment of least energy of each instance."""
        energy = self.share.expand(self.count, -1)
        best = []
        for j, table in enumerate(self.tables):
            wide = table.expand(self.count, -1, -1)
            if self.allowed:
                wide = torch.where(self.allowed[j][:, None], table, torch.inf)
            found = wide.min(2)
            energy = energy + found.values
            best.append(found.indices)
        if self.gaussians is not None:
            energy = energy + self.gaussians.distances(self.x, self.known)
        cluster_allowed = self.graph.allowed(CLUSTER)
        if cluster_allowed is not None:
            energy = energy.masked_fill(~cluster_allowed, torch.inf)
        least, cluster = energy.min(1)
        values = {CLUSTER: cluster}
        if best:
            values[CATEGORY] = torch.stack([b.gather(1, cluster[:, None])[:, 0] for b in best], 1).reshape(-1)
        if self.gaussians is not None:
            means = self.gaussians.mean[cluster]
            values[NUMBERS] = self.gaussians.corrected(self.x, means, cluster, self.known).float().reshape(-1, 1)
        status = torch.where(least.isfinite(), int(Status.CONVERGED), int(Status.INFEASIBLE))
        none = torch.full_like(least, -torch.inf)
        return Result(Assignment(self.graph.complete(values)), least, none, status, name)

    def marginals(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Beliefs of clusters and categories, and means and variances (n, 1, 1) of numbers."""
        weight = self.log_weights.softmax(1).nan_to_num(0.0)
        beliefs = {CLUSTER: weight}
        means, covariances = {}, {}
        if self.tables:
            widest = max(t.shape[1] for t in self.tables)
            out = weight.new_zeros(self.count, len(self.tables), widest)
            for j, table in enumerate(self.tables):
                shares = (-table / self.temperature).softmax(1).expand(self.count, -1, -1)
                if self.allowed:
                    shares = torch.where(self.allowed[j][:, None], shares, 0.0)
                    shares = shares / shares.sum(2, keepdim=True).clamp(min=1e-300)
                out[:, j, : table.shape[1]] = (weight[:, :, None] * shares).sum(1)
            beliefs[CATEGORY] = out.reshape(-1, widest)
        if self.gaussians is not None:
            first, second = self._moments(self.gaussians, weight)
            means[NUMBERS] = first.float().reshape(-1, 1)
            covariances[NUMBERS] = second.float().reshape(-1, 1, 1)
        return beliefs, means, covariances

    def _moments(self, gaussians: Gaussians, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(B, d) means and variances of the numbers, over clusters by their weights (B, K); 0 variance where known."""
        clusters = range(len(self.share))
        own = [torch.full((self.count,), k, device=self.x.device) for k in clusters]
        means = torch.stack([gaussians.corrected(self.x, gaussians.mean[k], k, self.known) for k in own], 1)
        first = (weight[..., None] * means).sum(1)
        second = (weight[..., None] * (means - first[:, None]).square()).sum(1)
        for rows, mask in patterns(self.known):
            within = self.temperature * gaussians.variances(mask)
            second = second.index_add(0, rows, weight[rows] @ within)
        return first, second


def _tables(graph: FactorGraph, factor: TableFactor | None, clusters: int) -> list[Tensor]:
    """For each discrete column (K, m) energies, cut out of the flat tables of the factor."""
    if factor is None:
        return []
    block = graph.variables[CATEGORY]
    columns = int(block.lengths[0]) if graph.num_instances else 0
    assert factor.starts is not None
    out = []
    for start, width in zip(factor.starts[:columns].tolist(), block.state_counts[:columns].tolist(), strict=True):
        out.append(factor.tables[start : start + clusters * width].reshape(clusters, width).double())
    return out


def _chosen(shares: Tensor, uniform: Tensor) -> Tensor:
    """(B,) a column of each row of shares (B, K), by its share, from uniform numbers (B,)."""
    cumulative = shares.cumsum(1)
    return (uniform[:, None] * cumulative[:, -1:] >= cumulative).sum(1).clamp(max=shares.shape[1] - 1)

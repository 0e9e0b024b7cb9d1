"""The energy ``generative.table_mixture``: rows of mixed columns that are independent given a latent cluster."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Generator, Tensor, nn

from ebmstruct import Assignment, ConfigError, Discrete, EnergyModel, FactorGraph, Real, TableFactor, Variables
from ebmstruct_generative.tables.expectation import Mixture, Observed, maximised
from ebmstruct_generative.tables.gaussians import ClusterGaussian
from ebmstruct_generative.tables.layout import CATEGORY, CLUSTER, NUMBERS
from ebmstruct_generative.tables.schema import TableSchema

log = logging.getLogger(__name__)

ROWS_A_CLUSTER = 100
"""Rows for each cluster, where their number is left open ..."""
MOST_CLUSTERS = 64
"""... and the most that are then taken."""
MOST_PARAMETERS = 20_000_000
"""Entries of all tables of categories together that are allowed."""


class TableMixture(EnergyModel):
    """E(z, c, x) = -log share_z - sum_j log p_zj(c_j) + |W_z (x - m_z)|^2 / 2 - log det W_z over a cluster z, the discrete
    states c of a row and the normal scores x of its numbers.

    Summed over z it is the negative logarithm of a mixture, but for the constant (d / 2) log 2 pi: numbers are Gaussian
    with a full covariance in each cluster; categories (and whether a number is missing, or a mass point) are independent
    given it. What is missing is summed out exactly. Solver: ``generative.clusters``.

    clusters: K; left out, one for each 100 rows, from 1 to 64.
    passes: of expectation maximisation on rows of the training data, which give the first weights (0: none); training
    goes on from there over all rows.
    Cost: K (d^2 + c) a row. Source: McLachlan and Peel 2000; the location model of Olkin and Tate 1961 within clusters.
    """

    def __init__(self, schema: TableSchema, *, clusters: int | None = None, passes: int = 30) -> None:
        super().__init__()
        if (clusters is not None and clusters < 1) or passes < 0:
            raise ConfigError([f"clusters {clusters}, passes {passes}: at least 1 and 0 are needed"])
        self.schema, self.passes = schema, passes
        count = min(max(schema.rows // ROWS_A_CLUSTER, 1), MOST_CLUSTERS) if clusters is None else clusters
        if clusters is None and sum(schema.widths) * count > MOST_PARAMETERS:
            count = max(1, MOST_PARAMETERS // sum(schema.widths))
        d = len(schema.numbers)
        self.logit = nn.Parameter(torch.zeros(count))
        self.mean = nn.Parameter(torch.randn(count, d))
        self.log_diagonal = nn.Parameter(torch.zeros(count, d))
        self.lower = nn.Parameter(torch.zeros(count, d, d))
        shares = [torch.tensor(c.counts).float().add(1e-3).log() for c in schema.discrete]
        self.states = nn.ParameterList([s + 0.1 * torch.randn(count, len(s)) for s in shares])

    @property
    def whitening(self) -> Tensor:
        """(K, d, d) W, lower triangular with a positive diagonal."""
        return self.lower.tril(-1) + torch.diag_embed(self.log_diagonal.exp())

    @property
    def initialises(self) -> bool:
        return self.passes > 0

    def initialise(self, graph: FactorGraph, target: Assignment, generator: Generator) -> None:
        """Weights of high likelihood by expectation maximisation on examples of the training data, see ``maximised``."""
        rows = self._rows(graph, target)
        self._take(maximised(rows, len(self.logit), self.schema.blur.double(), self.passes, generator))
        log.info("first weights: %d clusters, by expectation maximisation over %d rows", len(self.logit), len(rows))

    def _rows(self, graph: FactorGraph, target: Assignment) -> Observed:
        count = graph.num_instances
        c, d = len(self.schema.discrete), len(self.schema.numbers)
        states = torch.zeros(count, c, dtype=torch.long)
        scores, known = torch.zeros(count, d, dtype=torch.float64), torch.ones(count, d, dtype=torch.bool)
        if c:
            states = target[CATEGORY].reshape(count, c).cpu()
            if CATEGORY in target.known:
                states = states.masked_fill(~target.known[CATEGORY].reshape(count, c).cpu(), -1)
        if d:
            scores = target[NUMBERS].reshape(count, d).double().cpu()
            if NUMBERS in target.known:
                known = target.known[NUMBERS].reshape(count, d).cpu()
        return Observed(states, scores, known, self.schema.widths)

    @torch.no_grad()
    def _take(self, found: Mixture) -> None:
        whitening = found.gaussians.whitening
        self.logit.copy_(found.share.log())
        self.mean.copy_(found.mean)
        self.log_diagonal.copy_(whitening.diagonal(dim1=1, dim2=2).log())
        self.lower.copy_(whitening.tril(-1))
        for parameter, table in zip(self.states, found.tables, strict=True):
            parameter.copy_(table.log())

    def forward(self, inputs: Any) -> FactorGraph:
        count, device = len(inputs), self.device
        c, d = len(self.schema.discrete), len(self.schema.numbers)
        one = torch.arange(count + 1, device=device)
        blocks = [Variables(CLUSTER, Discrete(len(self.logit)), one)]
        share = self.log_diagonal.new_zeros(len(self.logit)) - self.logit.log_softmax(0) - self.log_diagonal.sum(1)
        factors: list[Any] = [TableFactor((CLUSTER,), "share", share)]
        if c:
            widths = torch.tensor(self.schema.widths, device=device)
            blocks.append(Variables(CATEGORY, Discrete(widths.repeat(count)), one * c))
            tables = [-p.log_softmax(1).reshape(-1) for p in self.states]
            ends = (widths * len(self.logit)).cumsum(0)
            starts = (ends - widths * len(self.logit)).repeat(count)
            index = torch.stack([one[:-1].repeat_interleave(c), torch.arange(count * c, device=device)])
            factors.append(
                TableFactor((CLUSTER, CATEGORY), "categories", torch.cat(tables), index=index, starts=starts)
            )
        if d:
            blocks.append(Variables(NUMBERS, Real(1), one * d))
            factors.append(ClusterGaussian((CLUSTER, NUMBERS), "numbers", self.mean, self.whitening))
        return FactorGraph(blocks, factors)

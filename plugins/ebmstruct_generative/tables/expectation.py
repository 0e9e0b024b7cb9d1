"""First weights of a mixture of rows by expectation maximisation, with what is missing of each row summed out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ebmstruct_generative.tables.gaussians import Gaussians, patterns

PIECE = 4096
"""Rows whose weights are computed at a time."""
CATEGORY_PRIOR = 2.5
"""Rows of the whole table's shares of categories that are added to those of each cluster."""
SCATTER_PRIOR = 1.0
"""(d + 1) times so many rows of the mean scatter within clusters are added to that of each cluster."""
GAIN = 1e-4
"""The passes end once the mean log likelihood of a row rises by less."""
WIDE = 50
"""Columns of more categories do not count in the distances between first centres."""
ROUNDS = 8
"""Rounds of k-means that the first weights start from."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """share: (K,).  mean: (K, d).  covariance: (K, d, d).  tables: for each discrete column (K, m) shares of its states."""

    share: Tensor
    mean: Tensor
    covariance: Tensor
    tables: tuple[Tensor, ...]

    @property
    def gaussians(self) -> Gaussians:
        """The Gaussians over the numbers."""
        root = torch.linalg.cholesky(self.covariance)
        eye = torch.eye(self.mean.shape[1], dtype=torch.float64)
        return Gaussians(self.mean, torch.linalg.solve_triangular(root, eye.expand_as(root), upper=False))


@dataclass(frozen=True, eq=False)
class Observed:
    """states: (n, c) long, -1 where unknown.  scores: (n, d) float64.  known: (n, d) bool.  widths: (c,)."""

    states: Tensor
    scores: Tensor
    known: Tensor
    widths: Sequence[int]

    def __len__(self) -> int:
        return len(self.states)

    def take(self, rows: Tensor) -> Observed:
        """Some of the rows."""
        return Observed(self.states[rows], self.scores[rows], self.known[rows], self.widths)

    def pieces(self) -> Iterator[Observed]:
        """The rows, PIECE at a time."""
        for begin in range(0, len(self), PIECE):
            yield self.take(torch.arange(begin, min(begin + PIECE, len(self))))


def maximised(rows: Observed, clusters: int, blur: Tensor, passes: int, generator: Generator) -> Mixture:
    """A mixture of high likelihood of the rows, from k-means clusters.

    blur: (d,) the variance that is added to each number's in every cluster, for rounding hides it.
    Every cluster has something of the whole table mixed in (a prior), so that none shrinks onto a few rows.
    Cost: n K (d^2 + c) a pass. Source: Dempster, Laird and Rubin 1977; with missing values Ghahramani and Jordan 1994.
    """
    overall = [_shares(rows.states[:, j], width) for j, width in enumerate(rows.widths)]
    totals = _Totals(rows, clusters)
    weight = _first(rows, clusters, generator)
    for begin, piece in enumerate(rows.pieces()):
        totals.add(piece, weight[begin * PIECE : (begin + 1) * PIECE], None)
    found = totals.mixture(overall, blur)
    before = -torch.inf
    for _ in range(passes):
        totals, value = _Totals(rows, clusters), 0.0
        for piece in rows.pieces():
            logs = log_joint(found, piece)
            log_z = logs.logsumexp(1)
            value += float(log_z.sum()) / len(rows)
            totals.add(piece, (logs - log_z[:, None]).exp(), found.gaussians)
        found = totals.mixture(overall, blur)
        if value - before < GAIN:
            break
        before = value
    return found


def log_joint(mixture: Mixture, rows: Observed) -> Tensor:
    """(n, K) log of the probability of a cluster together with what is known of a row."""
    out = mixture.share.log().expand(len(rows), -1)
    for j, table in enumerate(mixture.tables):
        states = rows.states[:, j]
        out = out + torch.where((states >= 0)[:, None], table.log().T[states.clamp(min=0)], 0.0)
    if rows.scores.shape[1]:
        constant = 0.5 * rows.scores.shape[1] * torch.log(torch.tensor(2 * torch.pi, dtype=torch.float64))
        gaussians = mixture.gaussians
        out = out + gaussians.log_integrals(rows.scores, rows.known) - gaussians.log_scale - constant
    return out


def _shares(states: Tensor, width: int) -> Tensor:
    counts = torch.bincount(states[states >= 0], minlength=width).double() + 1e-3
    return counts / counts.sum()


class _Totals:
    """Sums over rows of what the mixture is made of, weighted by their clusters."""

    def __init__(self, rows: Observed, clusters: int) -> None:
        d = rows.scores.shape[1]
        self.count = torch.zeros(clusters, dtype=torch.float64)
        self.first = torch.zeros(clusters, d, dtype=torch.float64)
        self.second = torch.zeros(clusters, d, d, dtype=torch.float64)
        self.tables = [torch.zeros(clusters, width, dtype=torch.float64) for width in rows.widths]

    def add(self, rows: Observed, weight: Tensor, gaussians: Gaussians | None) -> None:
        """Count rows in; numbers that are unknown by their means and covariances under the Gaussians (0 and 1 at first)."""
        self.count += weight.sum(0)
        for j, table in enumerate(self.tables):
            states = rows.states[:, j]
            some = states >= 0
            table.index_add_(1, states[some], weight[some].T)
        for own, mask in patterns(rows.known) if rows.scores.shape[1] else ():
            self._add_numbers(rows.scores[own], weight[own], mask, gaussians)

    def _add_numbers(self, x: Tensor, weight: Tensor, mask: Tensor, gaussians: Gaussians | None) -> None:
        clusters, d = self.first.shape
        filled = torch.where(mask, x, 0.0).expand(clusters, -1, -1)
        spread = torch.diag_embed((~mask).double()).expand(clusters, d, d)
        if gaussians is not None and not bool(mask.all()):
            part = gaussians.of_known(mask)
            between = torch.where(mask[:, None], gaussians.covariance, 0.0)  # (K, known, all)
            gain = torch.cholesky_solve(between, part.factor)
            apart = torch.where(mask, x - gaussians.mean[:, None], 0.0)
            filled = gaussians.mean[:, None] + apart @ gain
            filled = torch.where(mask, x, filled)
            spread = gaussians.covariance - between.mT @ gain
            spread = torch.where(mask[:, None] | mask[None, :], 0.0, spread)
        weighted = weight.T[:, :, None] * filled
        self.first += weighted.sum(1)
        self.second += weighted.mT @ filled + weight.sum(0)[:, None, None] * spread

    def mixture(self, overall: Sequence[Tensor], blur: Tensor) -> Mixture:
        """The mixture of the most likely weights under the priors."""
        count = self.count + 1e-9
        d = self.first.shape[1]
        mean = self.first / count[:, None]
        scatter = self.second - count[:, None, None] * mean[:, :, None] * mean[:, None, :]
        within = scatter.sum(0) / count.sum()
        prior = SCATTER_PRIOR * (d + 1)
        covariance = (scatter + prior * within) / (count + prior)[:, None, None] + torch.diag(blur + 1e-6)
        tables = tuple(
            (table + CATEGORY_PRIOR * shares) / (count + CATEGORY_PRIOR)[:, None]
            for table, shares in zip(self.tables, overall, strict=True)
        )
        share = (count + 1.0) / (count + 1.0).sum()
        return Mixture(share, mean, 0.5 * (covariance + covariance.mT), tables)


def _first(rows: Observed, clusters: int, generator: Generator) -> Tensor:
    """(n, K) weights of k-means clusters of the numbers, and of indicators of categories."""
    parts = [torch.where(rows.known, rows.scores, 0.0)]
    for j, width in enumerate(rows.widths):
        if 1 < width <= WIDE:
            states = rows.states[:, j]
            one = torch.nn.functional.one_hot(states.clamp(min=0), width).double()
            parts.append(torch.where((states >= 0)[:, None], one, 0.0))
    points = torch.cat(parts, 1)
    if not points.shape[1]:
        points = torch.rand(len(rows), 1, generator=generator, dtype=torch.float64)
    centres = points[torch.randperm(len(points), generator=generator)[:clusters]]
    for _ in range(ROUNDS):
        nearest = _nearest(points, centres)
        sums = torch.zeros_like(centres).index_add(0, nearest, points)
        counts = torch.bincount(nearest, minlength=clusters).double()[:, None]
        centres = torch.where(counts > 0, sums / counts.clamp(min=1.0), centres)
    own = torch.nn.functional.one_hot(_nearest(points, centres), clusters).double()
    return 0.98 * own + 0.02 / clusters


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    """(n,) long, PIECE points at a time."""
    return torch.cat([torch.cdist(p, centres).argmin(1) for p in points.split(PIECE)])

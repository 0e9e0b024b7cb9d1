"""Distances to the nearest training row: whether generated rows are new, and whether they give training rows away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ebmstruct_generative.quality.learners import learner
from ebmstruct_generative.quality.samples import check, subset

COPY = 1e-6
"""Two rows are the same that lie no farther apart than this, in the rows' units."""


@dataclass(frozen=True)
class NearestRecord:
    """How near generated rows lie to training rows, beside real rows that the model has not seen.

    generated, held_out: (m,) and (n,) distances to the nearest training row.
    index: (m,) which training row that is, of those that were searched.
    """

    generated: np.ndarray
    held_out: np.ndarray
    index: np.ndarray

    @property
    def ratio(self) -> float:
        """The median distance of generated rows over that of held-out rows: 1 is right, far below it they copy.

        Infinite where the median of the held-out rows alone is 0; 1 where both are.
        """
        ours, theirs = float(np.median(self.generated)), float(np.median(self.held_out))
        if theirs > COPY:
            return ours / theirs
        return 1.0 if ours <= COPY else float("inf")

    @property
    def copies(self) -> float:
        """The share of generated rows that are training rows."""
        return float((self.generated <= COPY).mean())

    @property
    def held_out_copies(self) -> float:
        """The share of held-out rows that stand among the training rows too: how often that happens by itself."""
        return float((self.held_out <= COPY).mean())

    @property
    def near(self) -> float:
        """The share of generated rows nearer to a training row than 95 % of held-out rows are; 0.05 is right.

        Rows as near as the nearest 5 % count half, so that ties (copies among the held-out rows) do not distort it.
        """
        return _below(self.generated, float(np.quantile(self.held_out, 0.05)))

    @property
    def held_out_near(self) -> float:
        """The same share of the held-out rows themselves: 0.05, but for ties."""
        return _below(self.held_out, float(np.quantile(self.held_out, 0.05)))


def nearest_record(
    generated: np.ndarray,
    held_out: np.ndarray,
    train: np.ndarray,
    *,
    rows: int = 5000,
    train_rows: int = 200_000,
    seed: int = 0,
) -> NearestRecord:
    """The distances of generated and of held-out rows to the nearest training row.

    At most ``rows`` of each of the former and ``train_rows`` training rows are looked at; copies of rows that were left
    out of the latter are not found. Cost O(rows train_rows d) at worst, in pieces; less in few dimensions, by a tree.
    Source: distance to the closest record, as in Zhao et al. 2021, section 4.
    """
    generated, train_ = check(generated, train, least=1)
    held_out, train_ = check(held_out, train_, least=1)
    train_ = subset(train_, train_rows, seed)
    search = learner("neighbors", "NearestNeighbors")(n_neighbors=1).fit(train_)
    queries = [subset(generated, rows, seed + 1), subset(held_out, rows, seed + 2)]
    found = [search.kneighbors(query, return_distance=False)[:, 0] for query in queries]
    # Distances by matrix products lose digits where rows are nearly equal, which is where it matters: from the rows again.
    ours, theirs = (np.linalg.norm(q - train_[i], axis=1) for q, i in zip(queries, found, strict=True))
    return NearestRecord(ours, theirs, found[0])


def _below(distances: np.ndarray, mark: float) -> float:
    return float((distances < mark).mean() + (distances == mark).mean() / 2)

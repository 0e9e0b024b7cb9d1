"""How like the data drawn rows are, in one number, and the numbers that it is made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ebmstruct_generative.tables.columns import CATEGORICAL, Array
from ebmstruct_generative.tables.table import Table

MOST = 1000
"""Rows of each kind that are compared."""
NEIGHBOURS = 5
WIDE = 200
"""Columns of more categories count by their codes' equality alone, which costs no coordinate a category."""


def measures(train: Table, real: Table, drawn: Table) -> dict[str, float]:
    """coverage: the share of real rows that have a drawn one within the distance of their 5th real neighbour (Naeem et al.
    2020).  nearest_ratio: the median distance of drawn rows to the training row next to them, over that of held-out rows:
    near 1 is right, near 0 means copies.  shapes: mean over columns of 1 less the distance of the distribution functions,
    or of the shares of categories.  fidelity: coverage times shapes times the ratio where it is below 1.
    """
    parts = [_some(t) for t in (train, real, drawn)]
    base, own, made = vectors(parts[0], parts)
    shape = float(np.mean([_shape(a.name, real, drawn) for a in real.columns])) if real.columns else 1.0
    coverage = _coverage(own, made)
    far, near = float(_nearest(own, base).median()), float(_nearest(made, base).median())
    ratio = near / far if far > 1e-9 else 1.0
    return {
        "fidelity": coverage * shape * min(1.0, ratio),
        "coverage": coverage,
        "nearest_ratio": ratio,
        "column_shapes": shape,
    }


def _some(table: Table) -> Table:
    if len(table) <= MOST:
        return table
    return table.take((np.arange(MOST) * len(table)) // MOST)


def vectors(reference: Table, tables: Sequence[Table]) -> list[torch.Tensor]:
    """(n, D) float64 each: numbers over the reference's standard deviation, 0 where missing with an indicator beside;
    categories as indicators.
    """
    blocks: list[list[Array]] = [[] for _ in tables]
    for column in reference.columns:
        own = [t.by_name[column.name] for t in tables]
        if column.kind == CATEGORICAL:
            names = [c.texts for c in own]
            texts = [np.array([*n, ""], dtype=object)[c.values] for n, c in zip(names, own, strict=True)]
            kept = sorted(set(texts[0]))[:WIDE]
            for block, t in zip(blocks, texts, strict=True):
                block.append(np.stack([(t == k) for k in kept], 1).astype(float) if kept else np.zeros((len(t), 0)))
            continue
        base = column.values[np.isfinite(column.values)].astype(float)
        unit = float(np.abs(base).max(initial=0.0)) or 1.0  # squares of the largest numbers would overflow
        mean, spread = ((base / unit).mean(), (base / unit).std() + 1e-9) if base.size else (0.0, 1.0)
        for block, c in zip(blocks, own, strict=True):
            value = (np.where(np.isfinite(c.values), c.values / unit, mean).astype(float) - mean) / spread
            block.append(np.stack([value, np.isnan(c.values).astype(float)], 1))
    return [torch.from_numpy(np.concatenate(b, 1) if b else np.zeros((0, 0))) for b in blocks]


def _coverage(real: torch.Tensor, drawn: torch.Tensor) -> float:
    if len(real) < 2 or not len(drawn):
        return 0.0
    k = min(NEIGHBOURS, len(real) - 1)
    radius = torch.cdist(real, real).topk(k + 1, dim=1, largest=False).values[:, -1]
    return float((torch.cdist(real, drawn).min(1).values <= radius + 1e-9).double().mean())


def _nearest(rows: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    return torch.cdist(rows, base).min(1).values


def _shape(name: str, real: Table, drawn: Table) -> float:
    a, b = real.by_name[name], drawn.by_name[name]
    if a.kind == CATEGORICAL:
        texts = [np.array([*c.texts, ""], dtype=object)[c.values] for c in (a, b)]
        names = sorted(set(texts[0]) | set(texts[1]))
        shares = [np.array([(t == n).mean() for n in names]) for t in texts] if len(names) <= WIDE else _counted(texts)
        return 1.0 - 0.5 * float(np.abs(shares[0] - shares[1]).sum())
    values = [np.sort(c.values[~np.isnan(c.values)]) for c in (a, b)]
    if not (values[0].size and values[1].size):
        return float(values[0].size == values[1].size)
    grid = np.concatenate(values)
    steps = [np.searchsorted(v, grid, side="right") / v.size for v in values]
    return 1.0 - float(np.abs(steps[0] - steps[1]).max())


def _counted(texts: Sequence[Array]) -> list[Array]:
    together, codes = np.unique(np.concatenate(texts).astype(str), return_inverse=True)
    first = len(texts[0])
    counts = [np.bincount(c, minlength=len(together)) for c in (codes[:first], codes[first:])]
    return [c / max(c.sum(), 1) for c in counts]

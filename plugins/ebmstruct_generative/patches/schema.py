"""What is learned of patches before any energy is trained: their principal components, and how to get back from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebmstruct.errors import DataError
from ebmstruct_generative.records import RecordSchema

TINY = 1e-9
"""Of the largest variance: a direction with less is none."""


@dataclass(frozen=True)
class PatchSchema(RecordSchema):
    """Patches of size x size pixels as k whitened principal components: shape is (k,).

    mean: (D,) the mean patch, D = size^2.  whitening: (D, k), pixels to components of unit variance.  colouring: (k, D),
    back to pixels.  kept: the share of the variance that the components hold.
    """

    size: int = 0
    kept: float = 1.0
    mean: Tensor = torch.zeros(0)  # noqa: RUF009 - fields with defaults, as those of the base have them
    whitening: Tensor = torch.zeros(0, 0)  # noqa: RUF009
    colouring: Tensor = torch.zeros(0, 0)  # noqa: RUF009

    def encoded(self, patches: Sequence[Any]) -> Tensor:
        """(B, k) float32 components of patches, each (s, s) numbers."""
        pixels = np.asarray(patches, dtype=np.float32).reshape(len(patches), -1)
        return (torch.from_numpy(pixels) - self.mean) @ self.whitening

    def decoded(self, components: Tensor) -> np.ndarray:
        """(B, s, s) patches of components (B, k)."""
        pixels = components.detach().to(self.colouring) @ self.colouring + self.mean
        return pixels.reshape(-1, self.size, self.size).numpy()


def principal_components(patches: np.ndarray, components: int) -> PatchSchema:
    """The schema of patches (n, s, s), with ``components`` by falling variance. Errors: DataError where there are fewer."""
    size = patches.shape[1]
    pixels = patches.reshape(len(patches), -1).astype(np.float64)
    mean = pixels.mean(0)
    variance, directions = np.linalg.eigh(np.cov(pixels.T))
    order = np.argsort(variance)[::-1]
    real = int((variance > TINY * max(variance.max(), 1e-30)).sum())
    if not 1 <= components <= real:
        raise DataError(
            f"components is {components}; patches of {size} x {size} pixels vary in {real} directions, so that 1 to {real} "
            "are legal"
        )
    chosen = order[:components]
    root = np.sqrt(variance[chosen])
    return PatchSchema(
        shape=(components,),
        size=size,
        kept=round(float(variance[chosen].sum() / variance.sum()), 6),
        mean=_tensor(mean),
        whitening=_tensor(directions[:, chosen] / root),
        colouring=_tensor((directions[:, chosen] * root).T),
    )


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))

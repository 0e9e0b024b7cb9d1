"""The kernel of segments against its twin in plain torch: CPU milliseconds, one thread, float32."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor

from benchmarks.timing import interleaved, table
from ebmstruct.inference.kernels.segments import segments, segments_torch

SHAPES = ((32, 16, 4, 6), (32, 40, 4, 16), (1, 2000, 4, 16), (32, 40, 9, 8))
"""Instances, sites of each, labels, longest segment."""


def energies(instances: int, sites: int, labels: int, longest: int) -> tuple[Any, ...]:
    """Normal energies of all kinds, in the kernels' order."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw).requires_grad_()

    n = instances * sites
    ends = normal(labels), normal(labels), normal(n, longest, labels)
    offsets = torch.arange(0, n + 1, sites)
    return normal(n, labels), normal(n, labels), normal(longest, labels), normal(labels, labels), *ends, offsets


def gradient(function: Callable[..., Tensor], inputs: tuple[Any, ...]) -> Callable[[], Any]:
    """The log partitions with the gradients of all energies."""
    return lambda: torch.autograd.grad(function(*inputs).sum(), inputs[:-1])


def main() -> None:
    """A row for each shape."""
    torch.set_num_threads(1)
    rows = []
    for shape in SHAPES:
        inputs = energies(*shape)
        found = interleaved(
            {
                "kernel": gradient(segments.log_partition, inputs),
                "twin": gradient(segments_torch.log_partition, inputs),
                "least": lambda given=inputs: segments.viterbi(*given),  # type: ignore[misc]
            },
            seconds=1.0,
        )
        rows.append(
            [
                ", ".join(map(str, shape)),
                found["kernel"],
                found["twin"],
                found["twin"] / found["kernel"],
                found["least"],
            ]
        )
    heads = [
        "instances, sites, labels, longest",
        "log partition and gradient, ms",
        "twin, ms",
        "ratio",
        "least energy, ms",
    ]
    sys.stdout.write(table(heads, rows) + "\n")


if __name__ == "__main__":
    main()

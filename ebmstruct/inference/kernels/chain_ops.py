"""The chain loops as torch operators on CPU tensors, with fake rules, so that torch's tools can trace through them.

Registered in the library ``ebmstruct``. numba is imported when an operator first runs. The operators take what
``chain.py`` has checked; gradients are attached there.
"""

from __future__ import annotations

import functools
import importlib.util
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from ebmstruct.errors import GraphError

library = torch.library.Library("ebmstruct", "DEF")
LANES = 16
_CHAIN = "Tensor emission, Tensor transition, Tensor? start, Tensor? end, Tensor offsets"


@functools.cache
def available() -> bool:
    """Whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


@functools.cache
def loops() -> SimpleNamespace:
    """The compiled loops; the first call imports numba, the first use of each loop compiles it or reads its cache."""
    from ebmstruct.inference.kernels import (
        chain_energy_numba,
        chain_numba,
        chain_sample_numba,
        chain_search_numba,
    )

    return SimpleNamespace(
        forward=chain_numba.forward,
        backward=chain_numba.backward,
        sample=chain_sample_numba.sample,
        least_ahead=chain_search_numba.least_ahead,
        finish_least=chain_search_numba.finish_least,
        k_best=chain_search_numba.k_best,
        energy=chain_energy_numba.energy,
        energy_backward=chain_energy_numba.energy_backward,
        offsets_fault=chain_energy_numba.offsets_fault,
        states_fault=chain_energy_numba.states_fault,
    )


def flat(tensor: Tensor) -> np.ndarray:
    """The numbers of a CPU tensor in one row, without a copy if it is contiguous."""
    return tensor.detach().numpy().reshape(-1)


def flat_or_empty(tensor: Tensor | None, like: np.ndarray) -> np.ndarray:
    return like[:0] if tensor is None else flat(tensor)


def padded_width(width: int) -> int:
    """K rounded up to whole vectors."""
    return -(-width // LANES) * LANES


def _edge_size(emission: Tensor, transition: Tensor) -> int:
    """Numbers that one edge's padded table takes, 0 for a shared table."""
    width = emission.shape[1]
    return -(-width // 4) * 4 * padded_width(width) if transition.dim() == 3 else 0


def arrays(
    emission: Tensor, transition: Tensor, start: Tensor | None, end: Tensor | None, offsets: Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    e = flat(emission)
    o = flat(offsets)
    if loops().offsets_fault(o, emission.shape[0]):
        raise GraphError(
            f"a chain kernel was given offsets that do not divide {emission.shape[0]} sites: they must rise from 0 "
            f"to {emission.shape[0]}, and are {_shortened(offsets)}"
        )
    return e, flat(transition), flat_or_empty(start, e), flat_or_empty(end, e), o


def _shortened(values: Tensor) -> str:
    numbers = values.tolist()
    return str(numbers) if len(numbers) <= 8 else f"{numbers[:4]} ... {numbers[-3:]}".replace("] ... [", " ... ")


def _forward(
    emission: Tensor, transition: Tensor, start: Tensor | None, end: Tensor | None, offsets: Tensor, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    e, tr, s, t, o = arrays(emission, transition, start, end, offsets)
    sites, width = emission.shape
    padded = padded_width(width)
    instances = o.size - 1
    log_partition = torch.empty(instances, dtype=torch.float64)
    status = torch.empty(instances, dtype=torch.int8)
    kept = torch.empty((3, sites * padded if keep else 0), dtype=emission.dtype)
    # Zeros: the rows that fill a table up to a multiple of four are multiplied, if by zero.
    edges = torch.zeros(sites * _edge_size(emission, transition) if keep else 0, dtype=emission.dtype)
    alpha, beta, onward = kept.numpy()
    loops().forward(
        e, tr, s, t, o, width, padded, transition.dim() == 3, keep, alpha, beta, onward, edges.numpy(),
        log_partition.numpy(), status.numpy(), 0, instances,
    )  # fmt: skip
    return log_partition, kept, edges, status


def _forward_fake(
    emission: Tensor, transition: Tensor, start: Tensor | None, end: Tensor | None, offsets: Tensor, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sites, width = emission.shape
    instances = offsets.shape[0] - 1
    return (
        emission.new_empty(instances, dtype=torch.float64),
        emission.new_empty((3, sites * padded_width(width) if keep else 0)),
        emission.new_empty(sites * _edge_size(emission, transition) if keep else 0),
        emission.new_empty(instances, dtype=torch.int8),
    )


def _backward(
    emission: Tensor, transition: Tensor, start: Tensor | None, end: Tensor | None, offsets: Tensor,
    kept: Tensor, edges: Tensor, status: Tensor, weight: Tensor, pairs: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    e, tr, s, t, o = arrays(emission, transition, start, end, offsets)
    width = emission.shape[1]
    unary, per_edge, *_ = _backward_fake(
        emission, transition, start, end, offsets, kept, edges, status, weight, pairs if pairs == 2 else 0
    )
    sums = torch.zeros(width * width + 2 * width, dtype=torch.float64)
    alpha, beta, onward = kept.numpy()
    loops().backward(
        e, tr, s, t, o, width, padded_width(width), transition.dim() == 3, pairs, alpha, beta, onward, edges.numpy(),
        status.numpy(), flat(weight), flat(unary), flat(per_edge), sums.numpy(), 0, o.size - 1,
    )  # fmt: skip
    parts = sums.to(emission.dtype)
    ends = parts[width * width :]
    table = parts[: width * width].view(width, width) if pairs == 1 else per_edge
    return unary, table, ends[:width], ends[width:]


def _backward_fake(
    emission: Tensor, transition: Tensor, start: Tensor | None, end: Tensor | None, offsets: Tensor,
    kept: Tensor, edges: Tensor, status: Tensor, weight: Tensor, pairs: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    sites, width = emission.shape
    shape = {0: (0,), 1: (width, width), 2: (sites, width, width)}[pairs]
    return (
        torch.empty_like(emission),
        emission.new_empty(shape),
        emission.new_empty(width),
        emission.new_empty(width),
    )


library.define(f"chain_forward({_CHAIN}, bool keep) -> (Tensor, Tensor, Tensor, Tensor)")
library.impl("chain_forward", _forward, "CPU")
torch.library.register_fake("ebmstruct::chain_forward", _forward_fake, lib=library)
library.define(
    f"chain_backward({_CHAIN}, Tensor kept, Tensor edges, Tensor status, Tensor weight, int pairs)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)
library.impl("chain_backward", _backward, "CPU")
torch.library.register_fake("ebmstruct::chain_backward", _backward_fake, lib=library)


def _energy(
    states: Tensor, emission: Tensor, transition: Tensor, start: Tensor | None, end: Tensor | None, offsets: Tensor
) -> Tensor:
    e, tr, s, t, o = arrays(emission, transition, start, end, offsets)
    width = emission.shape[1]
    y = flat(states)
    fault = loops().states_fault(y, width)
    if fault >= 0:
        raise GraphError(
            f"the energy of a chain was asked for state {y[fault]} at site {fault}: "
            f"states are whole numbers from 0 to {width - 1}"
        )
    out = torch.empty(o.size - 1, dtype=torch.float64)
    stride = width * width if transition.dim() == 3 else 0
    loops().energy(y, e, tr, s, t, o, width, stride, out.numpy())
    return out


def _energy_fake(
    states: Tensor, emission: Tensor, transition: Tensor, start: Tensor | None, end: Tensor | None, offsets: Tensor
) -> Tensor:
    return emission.new_empty(offsets.shape[0] - 1, dtype=torch.float64)


def _energy_backward(
    states: Tensor, emission: Tensor, transition: Tensor, offsets: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    width = emission.shape[1]
    per_edge = transition.dim() == 3
    unary = torch.zeros(emission.shape, dtype=emission.dtype)
    table = torch.zeros(transition.shape, dtype=emission.dtype if per_edge else torch.float64)
    ends = torch.zeros((2, width), dtype=torch.float64)
    start, end = ends.numpy()
    stride = width * width if per_edge else 0
    loops().energy_backward(flat(states), flat(offsets), flat(weight), width, stride, flat(unary), flat(table), start, end)
    ends = ends.to(emission.dtype)
    return unary, table.to(emission.dtype), ends[0], ends[1]


def _energy_backward_fake(
    states: Tensor, emission: Tensor, transition: Tensor, offsets: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    width = emission.shape[1]
    return (
        torch.empty_like(emission),
        torch.empty_like(transition),
        emission.new_empty(width),
        emission.new_empty(width),
    )


library.define("chain_energy(Tensor states, " + _CHAIN + ") -> Tensor")
library.impl("chain_energy", _energy, "CPU")
torch.library.register_fake("ebmstruct::chain_energy", _energy_fake, lib=library)
library.define(
    "chain_energy_backward(Tensor states, Tensor emission, Tensor transition, Tensor offsets, Tensor weight)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)
library.impl("chain_energy_backward", _energy_backward, "CPU")
torch.library.register_fake("ebmstruct::chain_energy_backward", _energy_backward_fake, lib=library)

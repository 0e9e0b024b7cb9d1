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
from ebmstruct.inference.kernels import parallel

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
    from ebmstruct.inference.kernels.chains import (
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
    return (tensor.detach() if tensor.requires_grad else tensor).numpy().reshape(-1)


def flat_or_empty(tensor: Tensor | None, like: np.ndarray) -> np.ndarray:
    return like[:0] if tensor is None else flat(tensor)


def padded_width(width: int) -> int:
    """K rounded up to whole vectors."""
    return -(-width // LANES) * LANES


def kept_size(emission: Tensor, transition: Tensor, offsets: Tensor) -> int:
    """How many numbers ``chain_forward`` keeps for ``chain_backward``."""
    sites, width = emission.shape
    padded = padded_width(width)
    stride = -(-width // 4) * 4 * padded if transition.dim() == 3 else 0
    return sites * (3 * padded + stride) + offsets.shape[0] - 1


def arrays(
    emission: Tensor,
    transition: Tensor,
    start: Tensor | None,
    end: Tensor | None,
    offsets: Tensor,
    checked: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    e = flat(emission)
    o = flat(offsets)
    if not checked and loops().offsets_fault(o, emission.shape[0]):
        raise GraphError(
            f"a chain kernel was given offsets that do not divide {emission.shape[0]} sites: they must rise from 0 "
            f"to {emission.shape[0]}, and are {_shortened(offsets)}"
        )
    return e, flat(transition), flat_or_empty(start, e), flat_or_empty(end, e), o


def _shortened(values: Tensor) -> str:
    numbers = values.tolist()
    return str(numbers) if len(numbers) <= 8 else f"{numbers[:4]} ... {numbers[-3:]}".replace("] ... [", " ... ")


def forward(
    emission: Tensor, transition: Tensor, start: Tensor | None, end: Tensor | None, offsets: Tensor, keep: bool
) -> tuple[Tensor, Tensor]:
    e, tr, s, t, o = arrays(emission, transition, start, end, offsets)
    width = emission.shape[1]
    per_edge = transition.dim() == 3
    size = kept_size(emission, transition, offsets) if keep else 0
    kept = torch.empty(size, dtype=emission.dtype)
    log_partition = torch.empty(o.size - 1, dtype=torch.float64)
    padded = padded_width(width)
    record, out = kept.numpy(), log_partition.numpy()
    loop = loops().forward

    def task(part: int, first: int, stop: int) -> None:
        loop(e, tr, s, t, o, width, padded, per_edge, record, out, first, stop)

    parallel.run(task, parallel.parts(o, width * padded))
    return log_partition, kept


def forward_fake(
    emission: Tensor, transition: Tensor, start: Tensor | None, end: Tensor | None, offsets: Tensor, keep: bool
) -> tuple[Tensor, Tensor]:
    return (
        emission.new_empty(offsets.shape[0] - 1, dtype=torch.float64),
        emission.new_empty(kept_size(emission, transition, offsets) if keep else 0),
    )


def backward(
    emission: Tensor, transition: Tensor, start: Tensor | None, end: Tensor | None, offsets: Tensor,
    kept: Tensor, weight: Tensor, sign: float, pairs: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    e, tr, s, t, o = arrays(emission, transition, start, end, offsets, checked=True)
    sites, width = emission.shape
    padded = padded_width(width)
    per_edge = transition.dim() == 3
    ranges = parallel.parts(o, width * padded)
    shape = (0,) if pairs == 0 else (width, width) if pairs == 1 else (sites, width, width)
    unary = np.empty((sites, width), e.dtype)
    # A sum over instances is taken for each part of a large batch, and the parts are added in order.
    summed = [[np.empty(shape, e.dtype), np.empty(width, e.dtype), np.empty(width, e.dtype)] for _ in ranges]
    if pairs == 2:
        for part in summed[1:]:
            part[0] = summed[0][0]
    record, weights, sites_out, loop = kept.numpy(), flat(weight), unary.reshape(-1), loops().backward

    def task(part: int, first: int, stop: int) -> None:
        table, head, tail = summed[part]
        loop(
            e, tr, s, t, o, width, padded, per_edge, pairs, record, weights, sign, sites_out, table.reshape(-1),
            head, tail, first, stop,
        )  # fmt: skip

    parallel.run(task, ranges)
    whole = summed[0]
    if len(ranges) > 1:
        for k in (1, 2) if pairs != 1 else (0, 1, 2):
            whole[k] = np.sum([part[k] for part in summed], axis=0, dtype=np.float64).astype(e.dtype)
    give = torch.from_numpy
    return give(unary), give(whole[0]), give(whole[1]), give(whole[2])


def backward_fake(
    emission: Tensor, transition: Tensor, start: Tensor | None, end: Tensor | None, offsets: Tensor,
    kept: Tensor, weight: Tensor, sign: float, pairs: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    sites, width = emission.shape
    shape = {0: (0,), 1: (width, width), 2: (sites, width, width)}[pairs]
    one = emission.new_empty
    return one((sites, width)), one(shape), one(width), one(width)


library.define(f"chain_forward({_CHAIN}, bool keep) -> (Tensor, Tensor)")
library.impl("chain_forward", forward, "CPU")
torch.library.register_fake("ebmstruct::chain_forward", forward_fake, lib=library)
library.define(
    f"chain_backward({_CHAIN}, Tensor kept, Tensor weight, float sign, int pairs) -> (Tensor, Tensor, Tensor, Tensor)"
)
library.impl("chain_backward", backward, "CPU")
torch.library.register_fake("ebmstruct::chain_backward", backward_fake, lib=library)


def energy(
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


def energy_fake(
    states: Tensor, emission: Tensor, transition: Tensor, start: Tensor | None, end: Tensor | None, offsets: Tensor
) -> Tensor:
    return emission.new_empty(offsets.shape[0] - 1, dtype=torch.float64)


def energy_backward(
    states: Tensor, emission: Tensor, transition: Tensor, offsets: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sites, width = emission.shape
    per_edge = transition.dim() == 3
    e = flat(emission)
    unary = np.zeros((sites, width), e.dtype)
    # What many sites add to is summed in float64; a table of one edge has one term.
    table = np.zeros(transition.shape, e.dtype if per_edge else np.float64)
    first, last = np.zeros((2, width))
    y, o, stride = flat(states), flat(offsets), width * width if per_edge else 0
    loops().energy_backward(y, o, flat(weight), width, stride, unary.reshape(-1), table.reshape(-1), first, last)
    parts = (unary, table, first, last)
    return tuple(torch.from_numpy(part.astype(e.dtype, copy=False)) for part in parts)  # type: ignore[return-value]


def energy_backward_fake(
    states: Tensor, emission: Tensor, transition: Tensor, offsets: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    one = emission.new_empty
    width = emission.shape[1]
    return one(emission.shape), one(transition.shape), one(width), one(width)


library.define("chain_energy(Tensor states, " + _CHAIN + ") -> Tensor")
library.impl("chain_energy", energy, "CPU")
torch.library.register_fake("ebmstruct::chain_energy", energy_fake, lib=library)
library.define(
    "chain_energy_backward(Tensor states, Tensor emission, Tensor transition, Tensor offsets, Tensor weight)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)
library.impl("chain_energy_backward", energy_backward, "CPU")
torch.library.register_fake("ebmstruct::chain_energy_backward", energy_backward_fake, lib=library)

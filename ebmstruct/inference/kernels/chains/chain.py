"""Exact inference on linear chains: log partition, energies, marginals, least energies, k best, samples.

All functions speak energies: low is good, and p is proportional to exp(-energy). A batch is flat and ragged:

    emission    (n, K)      energy of each state of each site, float32 or float64
    transition  (K, K)      rows are the earlier site, columns the later; one table for all edges, or
                (n, K, K)   one table per edge, entry t for the edge from site t - 1 to site t (an instance's first
                            site has no such edge, and its entry is not read)
    start, end  (K,)        energies added at the first and the last site of each instance, or None
    offsets     (B + 1,)    long, on the CPU: the sites of instance b are offsets[b] to offsets[b + 1]

+inf forbids. An empty instance has log partition 0 and energy 0. An instance without a configuration has log partition
-inf, energy +inf and zero marginals and gradients. NaN and -inf are not energies: an instance that holds one answers
NaN, and the others are not touched. Energies and log partitions come back in float64, whatever the input, because
a sum over a hundred thousand sites would lose its digits in float32; everything else has the dtype of emission.

On CPU tensors of float32 and float64 compiled loops run; elsewhere, or without numba, their twin in plain
torch (``chain_torch``), which can also be differentiated twice. What is written for an instance does not depend on
its neighbours in the batch, bit for bit.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebmstruct.errors import GraphError
from ebmstruct.inference.kernels import parallel
from ebmstruct.inference.kernels.chains import chain_autograd, chain_ops

SLICE = 400_000  # additions between two looks at the clock: well below a millisecond


class ChainMarginals(NamedTuple):
    """unary (n, K); pairwise (n, K, K), entry t for the edge t - 1 to t, zeros at first sites, or None; log Z (B,)."""

    unary: Tensor
    pairwise: Tensor | None
    log_partition: Tensor


class ChainMinimum(NamedTuple):
    """What ``viterbi`` found.

    states: (n,) long. energy: (B,) float64, of those states. lower_bound: (B,) float64; equal to the energy up to
    rounding where finished. finished: (B,) bool, False where the deadline cut the search short.
    messages: (n, K) float64, a proof of the bound: at the first site of an instance at most start + emission, and at
    every later site and state at most emission plus the least, over the states before, of message plus transition. It
    follows by induction that no beginning has less energy than the message at its end, hence no
    configuration less than the least of messages + end at the last site, which is ``lower_bound``. Where finished,
    each message is the least energy of a beginning that ends in that state, +inf if there is none.
    """

    states: Tensor
    energy: Tensor
    lower_bound: Tensor
    finished: Tensor
    messages: Tensor


def log_partition(
    emission: Tensor, transition: Tensor, start: Tensor | None, end: Tensor | None, offsets: Tensor
) -> Tensor:
    """Log of the sum over all configurations of exp(-energy), (B,) float64; differentiable.

    Gradients are analytic: minus the marginals. Where they are to be differentiated again (``create_graph``) the torch
    twin gives them, at many times the cost.
    Cost: O(n K^2).
    """
    chain = _checked(emission, transition, start, end, offsets)
    if not _compiled(emission):
        return _twin().log_partition(*chain)
    if chain_autograd.recorded(chain):
        return chain_autograd.LogPartition.apply(*chain)
    return chain_autograd.operator("forward", emission)(*chain, False)[0]


def energy(
    states: Tensor, emission: Tensor, transition: Tensor, start: Tensor | None, end: Tensor | None, offsets: Tensor
) -> Tensor:
    """Energy of the given states (n,), summed in float64: (B,); differentiable. Cost: O(n)."""
    chain = _checked(emission, transition, start, end, offsets)
    if states.shape != emission.shape[:1] or states.dtype != torch.long:
        raise GraphError(
            f"the energy of a chain was asked for states of shape {tuple(states.shape)} and type {states.dtype}: "
            f"they must be ({emission.shape[0]},), one per site, of type torch.int64"
        )
    if not _compiled(emission):
        return _twin().energy(states, *chain)
    if chain_autograd.recorded(chain):
        return chain_autograd.Energy.apply(states.contiguous(), *chain)
    return chain_autograd.operator("energy", emission)(states.contiguous(), *chain)


def marginals(
    emission: Tensor,
    transition: Tensor,
    start: Tensor | None,
    end: Tensor | None,
    offsets: Tensor,
    pairwise: bool = False,
) -> ChainMarginals:
    """Probabilities of the states of each site and, if asked, of the pairs of states of each edge.

    Not differentiable on the CPU (``chain_torch`` is). Cost: O(n K^2).
    """
    chain = _checked(emission, transition, start, end, offsets)
    if not _compiled(emission):
        return ChainMarginals(*_twin().marginals(*chain, pairwise=pairwise))
    chain = tuple(None if x is None else x.detach() for x in chain)
    log_z, kept = chain_autograd.operator("forward", chain[0])(*chain, True)
    weight = torch.ones_like(log_z)
    unary, joint, _, _ = chain_autograd.operator("backward", emission)(*chain, kept, weight, 1.0, 2 if pairwise else 0)
    return ChainMarginals(unary, joint if pairwise else None, log_z)


def viterbi(
    emission: Tensor,
    transition: Tensor,
    start: Tensor | None,
    end: Tensor | None,
    offsets: Tensor,
    deadline: float | None = None,
) -> ChainMinimum:
    """The states of least energy, their energy, and a proof of it (Viterbi 1967).

    deadline: an instant of ``time.monotonic()``. The search runs in slices of less than a millisecond; when the
    deadline has passed, the best beginnings found so far are completed greedily, at a cost of O(n K) (and of the
    search itself for an instance that greed drives into a forbidden entry), and the bound goes on with the least
    entries of the tables. Cost: O(n K^2), in float64.
    """
    chain = _checked(emission, transition, start, end, offsets)
    if not _compiled(emission):
        return ChainMinimum(*_twin().viterbi(*chain, deadline=deadline))
    return ChainMinimum(*_viterbi(chain, deadline))


def k_best(
    emission: Tensor, transition: Tensor, start: Tensor | None, end: Tensor | None, offsets: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """The k least energies of each instance in rising order: states (k, n) long, energies (k, B) float64.

    The configurations are distinct. Slots that do not exist have energy +inf and states 0. Cost: O(n K^2 k).
    """
    chain = _checked(emission, transition, start, end, offsets)
    if k < 1:
        raise GraphError(f"the {k} best configurations of a chain were asked for: k must be at least 1")
    if not _compiled(emission):
        return _twin().k_best(*chain, k=k)
    arrays = chain_ops.arrays(*chain)
    sites, width = emission.shape
    states = torch.zeros((k, sites), dtype=torch.long)
    energies = torch.empty((k, offsets.shape[0] - 1), dtype=torch.float64)
    stride = width * width if transition.dim() == 3 else 0
    chain_ops.loops().k_best(*arrays, width, stride, k, chain_ops.flat(states), chain_ops.flat(energies))
    return states, energies


def sample(
    emission: Tensor,
    transition: Tensor,
    start: Tensor | None,
    end: Tensor | None,
    offsets: Tensor,
    num_samples: int,
    uniforms: Tensor,
) -> Tensor:
    """Exact samples (S, n) long, a deterministic function of the uniforms (S, n) float64 in [0, 1).

    Forward filtering, backward sampling: uniforms[s, t] draws site t. An instance without a configuration gets
    zeros. Cost: O(n K^2 + S n K).
    """
    chain = _checked(emission, transition, start, end, offsets)
    sites, width = emission.shape
    if uniforms.shape != (num_samples, sites) or uniforms.dtype != torch.float64:
        raise GraphError(
            f"{num_samples} samples of {sites} sites were asked for with uniforms of shape {tuple(uniforms.shape)} "
            f"and type {uniforms.dtype}: they must be ({num_samples}, {sites}) of type torch.float64"
        )
    if not _compiled(emission):
        return _twin().sample(*chain, num_samples=num_samples, uniforms=uniforms)
    chain = tuple(None if x is None else x.detach() for x in chain)
    log_z, kept = chain_autograd.operator("forward", chain[0])(*chain, True)
    states = torch.zeros((num_samples, sites), dtype=torch.long)
    chain_ops.loops().sample(
        *chain_ops.arrays(*chain), width, chain_ops.padded_width(width), transition.dim() == 3,
        kept.numpy(), kept[kept.numel() - log_z.numel() :].numpy(), log_z.numpy(),
        chain_ops.flat(uniforms.contiguous()), chain_ops.flat(states),
    )  # fmt: skip
    return states


def warm() -> None:
    """Compile every loop for float32, or read it from the cache, so that the first answer does not wait for it."""
    if not chain_ops.available():
        return
    emission = torch.zeros(3, 2, requires_grad=True)
    offsets = torch.tensor([0, 3])
    ends = torch.zeros(2)
    for transition in (torch.zeros(2, 2), torch.zeros(3, 2, 2)):
        chain = emission, transition, ends, ends, offsets
        log_partition(*chain).sum().backward()
        states = viterbi(*chain).states
        energy(states, *chain).sum().backward()
        k_best(*chain, k=1)
        sample(*chain, num_samples=1, uniforms=torch.zeros(1, 3, dtype=torch.float64))


def _viterbi(chain: tuple[Any, ...], deadline: float | None) -> tuple[Tensor, ...]:
    e, tr, s, t, o = chain_ops.arrays(*chain)
    sites, width = chain[0].shape
    instances = o.size - 1
    stride = width * width if chain[1].dim() == 3 else 0
    messages = torch.empty((sites, width), dtype=torch.float64)
    states = torch.zeros(sites, dtype=torch.long)
    values = torch.empty((2, instances), dtype=torch.float64)
    finished = torch.empty(instances, dtype=torch.bool)
    record = chain_ops.flat(messages)
    loops = chain_ops.loops()
    least, bounds = values.numpy()

    def finish(reached: int, first: int, stop: int) -> None:
        answers = states.numpy(), least, bounds, finished.numpy()
        loops.finish_least(e, tr, s, t, o, width, stride, record, reached, *answers, first, stop)

    def whole(part: int, first: int, stop: int) -> None:
        loops.least_ahead(e, tr, s, o, width, stride, record, first, o[first], o[stop])
        finish(sites, first, stop)

    if deadline is None:
        parallel.run(whole, parallel.parts(o, width * width))
        return states, values[0], values[1], finished, messages
    reached = instance = 0
    slice_sites = max(1, SLICE // (width * max(width, 16)))
    while reached < sites and time.monotonic() < deadline:
        stop = min(sites, reached + slice_sites)
        instance = loops.least_ahead(e, tr, s, o, width, stride, record, instance, reached, stop)
        reached = stop
    finish(reached, 0, instances)
    return states, values[0], values[1], finished, messages


def _checked(
    emission: Tensor, transition: Tensor, start: Tensor | None, end: Tensor | None, offsets: Tensor
) -> tuple[Any, ...]:
    """The arguments, contiguous, after a check of their shapes and types."""
    chain = emission, transition, start, end, offsets
    dtype, device, width = emission.dtype, emission.device, emission.shape[-1]
    fault = ""
    if emission.dim() != 2 or width < 1:
        fault = f"emission has shape {tuple(emission.shape)}; it must be (n, K) with K at least 1"
    elif transition.shape != (width, width) and transition.shape != (emission.shape[0], width, width):
        fault = (
            f"transition has shape {tuple(transition.shape)}; with emission {tuple(emission.shape)} it must be "
            f"({width}, {width}) or ({emission.shape[0]}, {width}, {width})"
        )
    elif offsets.dim() != 1 or offsets.dtype is not torch.long or not offsets.is_cpu:
        fault = f"offsets is {offsets.dtype} {tuple(offsets.shape)} on {offsets.device}; it must be (B + 1,) long, CPU"
    elif transition.dtype is not dtype or transition.device != device:
        fault = f"transition is {transition.dtype} on {transition.device}, and emission {dtype} on {device}"
    for name, value in (("start", start), ("end", end)):
        if value is None or fault:
            continue
        if value.dim() != 1 or value.shape[0] != width:
            fault = f"{name} has shape {tuple(value.shape)}; it must be ({width},)"
        elif value.dtype is not dtype or value.device != device:
            fault = f"{name} is {value.dtype} on {value.device}, and emission {dtype} on {device}"
    if fault:
        raise GraphError(f"a chain kernel was asked for inference, but {fault}")
    return tuple([x if x is None or x.is_contiguous() else x.contiguous() for x in chain])


def _compiled(emission: Tensor) -> bool:
    kinds = (torch.float32, torch.float64)
    return emission.device.type == "cpu" and emission.dtype in kinds and chain_ops.available()


def _twin() -> Any:
    from ebmstruct.inference.kernels.chains import chain_torch

    return chain_torch

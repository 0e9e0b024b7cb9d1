"""Exact inference on forests of pairwise tables with mixed state counts: sums, minima, k best, samples.

All functions speak energies: low is good, and p is proportional to exp(-energy). They take, in this order:

    unary        (sum of states,)  energies of the states of each site, one site after another
    tables       (any,)            energies of pairs; several edges may share a table
    num_states   (n,) long         states of each site
    starts       (n + 1,) long     where in unary each site begins; num_states summed
    parent       (n,) long         the site above each site, -1 for a root
    order        (n,) long         all sites, each before its parent
    table_start  (n,) long         where in tables the edge from a site to its parent begins, row after row; not read at
                                   roots
    transposed   (n,) bool         False: rows are the site's states, columns the parent's; True: the other way round
    instance     (n,) long         the instance of each site; an instance may have any number of roots, also none
    num_instances                  B

+inf forbids. An instance without sites has log partition 0 and energy 0; one without a configuration has log partition
-inf, energy +inf and zero marginals and gradients. NaN and -inf are not energies: an instance that reads
one answers NaN, and the others are not touched. Everything is computed in log space and float64; results per
instance come back in float64, marginals in the dtype of unary. Cost: the sum over edges of the product of their
state counts.

On the CPU compiled loops run, elsewhere or without numba their twin in plain torch (``forest_torch``), which can
also be differentiated twice.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from ebmstruct.errors import GraphError
from ebmstruct.inference.kernels import recorded
from ebmstruct.inference.kernels.chains import chain_ops
from ebmstruct.inference.kernels.forests import forest_ops

_ops = torch.ops.ebmstruct


class ForestMarginals(NamedTuple):
    """unary: flat as the energies. edges: flat, a joint table for each site that has a parent. log_partition: (B,).

    The joint tables (states, states of the parent) lie one after another in the order of the sites.
    """

    unary: Tensor
    edges: Tensor
    log_partition: Tensor


class ForestMinimum(NamedTuple):
    """What ``minimize`` found.

    states: (n,) long. energy: (B,) float64, of those states. lower_bound: (B,) float64, equal to it up to rounding.
    messages: flat float64, for each site that has a parent, in the order of the sites, an entry for each state of the
    parent: the least energy of the site's subtree with the edge. A proof of the bound: each entry is at most the least,
    over the site's states, of unary + messages of its children + table. By induction no subtree has less
    energy than its message, hence no configuration less than the sum over roots of the least of unary + messages.
    """

    states: Tensor
    energy: Tensor
    lower_bound: Tensor
    messages: Tensor


def log_partition(
    unary: Tensor,
    tables: Tensor,
    num_states: Tensor,
    starts: Tensor,
    parent: Tensor,
    order: Tensor,
    table_start: Tensor,
    transposed: Tensor,
    instance: Tensor,
    num_instances: int,
) -> Tensor:
    """Log of the sum over all configurations of exp(-energy), (B,) float64; differentiable in unary and tables.

    Under ``create_graph`` the torch twin gives the gradients, at many times the cost.
    """
    forest = (unary, tables, num_states, starts, parent, order, table_start, transposed, instance, num_instances)
    forest = _checked(*forest)
    if not _compiled(unary):
        return _twin().log_partition(*forest)
    if torch.is_grad_enabled() and (unary.requires_grad or tables.requires_grad):
        return _LogPartition.apply(*forest)
    return _ops.forest_forward.default(*forest)[0]


def marginals(
    unary: Tensor,
    tables: Tensor,
    num_states: Tensor,
    starts: Tensor,
    parent: Tensor,
    order: Tensor,
    table_start: Tensor,
    transposed: Tensor,
    instance: Tensor,
    num_instances: int,
) -> ForestMarginals:
    """Probabilities of the states of each site and of the pairs of states of each edge."""
    forest = (unary, tables, num_states, starts, parent, order, table_start, transposed, instance, num_instances)
    forest = _checked(*forest)
    if not _compiled(unary):
        return ForestMarginals(*_twin().marginals(*forest))
    forest = (unary.detach(), forest[1].detach(), *forest[2:])
    log_z, inside, messages = _ops.forest_forward.default(*forest)
    weight = torch.ones_like(log_z)
    share, joint, _ = _ops.forest_backward.default(*forest, log_z, inside, messages, weight, 1.0, True)
    return ForestMarginals(share, joint, log_z)


def minimize(
    unary: Tensor,
    tables: Tensor,
    num_states: Tensor,
    starts: Tensor,
    parent: Tensor,
    order: Tensor,
    table_start: Tensor,
    transposed: Tensor,
    instance: Tensor,
    num_instances: int,
) -> ForestMinimum:
    """The states of least energy, their energy, and a proof of it."""
    forest = (unary, tables, num_states, starts, parent, order, table_start, transposed, instance, num_instances)
    forest = _checked(*forest)
    if not _compiled(unary):
        return ForestMinimum(*_twin().minimize(*forest))
    arrays = forest_ops.arrays(*forest[:-1])
    messages = np.empty(forest_ops.loops().message_begins(arrays[2], arrays[4])[-1])
    states = np.zeros(num_states.shape[0], np.int64)
    energies, bounds = np.empty((2, num_instances))
    forest_ops.loops().minimize(*arrays, messages, states, energies, bounds)
    energy = torch.from_numpy(energies)
    bound = torch.minimum(torch.from_numpy(bounds), energy)
    return ForestMinimum(torch.from_numpy(states), energy, bound, torch.from_numpy(messages))


def k_best(
    unary: Tensor,
    tables: Tensor,
    num_states: Tensor,
    starts: Tensor,
    parent: Tensor,
    order: Tensor,
    table_start: Tensor,
    transposed: Tensor,
    instance: Tensor,
    num_instances: int,
    k: int,
) -> tuple[Tensor, Tensor]:
    """The k least energies of each instance in rising order: states (k, n) long, energies (k, B) float64.

    The configurations are distinct. Slots that do not exist have energy +inf and states 0. Cost: k times that of the
    minimum, and k squared for each state of each site that has a child.
    """
    forest = (unary, tables, num_states, starts, parent, order, table_start, transposed, instance, num_instances)
    forest = _checked(*forest)
    if k < 1:
        raise GraphError(f"the {k} best configurations of a forest were asked for: k must be at least 1")
    if not _compiled(unary):
        return _twin().k_best(*forest, k=k)
    states = np.zeros((k, num_states.shape[0]), np.int64)
    energies = np.empty((k, num_instances))
    forest_ops.loops().k_best(*forest_ops.arrays(*forest[:-1]), k, states.reshape(-1), energies.reshape(-1))
    return torch.from_numpy(states), torch.from_numpy(energies)


def sample(
    unary: Tensor,
    tables: Tensor,
    num_states: Tensor,
    starts: Tensor,
    parent: Tensor,
    order: Tensor,
    table_start: Tensor,
    transposed: Tensor,
    instance: Tensor,
    num_instances: int,
    num_samples: int,
    uniforms: Tensor,
) -> Tensor:
    """Exact samples (S, n) long, a deterministic function of the uniforms (S, n) float64 in [0, 1).

    uniforms[s, i] draws site i, from the roots down. An instance without a configuration gets zeros.
    """
    forest = (unary, tables, num_states, starts, parent, order, table_start, transposed, instance, num_instances)
    forest = _checked(*forest)
    sites = num_states.shape[0]
    if uniforms.shape != (num_samples, sites) or uniforms.dtype != torch.float64:
        raise GraphError(
            f"{num_samples} samples of {sites} sites were asked for with uniforms of shape {tuple(uniforms.shape)} "
            f"and type {uniforms.dtype}: they must be ({num_samples}, {sites}) of type torch.float64"
        )
    if not _compiled(unary):
        return _twin().sample(*forest, num_samples=num_samples, uniforms=uniforms)
    forest = (unary.detach(), forest[1].detach(), *forest[2:])
    log_z, inside, _ = _ops.forest_forward.default(*forest)
    states = np.zeros((num_samples, sites), np.int64)
    _, *plan = forest_ops.arrays(*forest[:-1])
    noise = chain_ops.flat(uniforms.contiguous())
    forest_ops.loops().sample(*plan, inside.numpy(), log_z.numpy(), noise, states.reshape(-1))
    return torch.from_numpy(states)


def warm() -> None:
    """Compile every loop for float32, or read it from the cache, so that the first answer does not wait for it."""
    if not chain_ops.available():
        return
    long, unary = torch.tensor, torch.zeros(4, requires_grad=True)
    plan = long([2, 2]), long([0, 2, 4]), long([1, -1]), long([0, 1]), long([0, 0]), long([False] * 2), long([0, 0]), 1
    forest = unary, torch.zeros(4), *plan
    log_partition(*forest).sum().backward()
    marginals(*forest)
    minimize(*forest)
    k_best(*forest, k=1)
    sample(*forest, num_samples=1, uniforms=torch.zeros(1, 2, dtype=torch.float64))


class _LogPartition(Function):
    @staticmethod
    def forward(ctx: Any, *forest: Any) -> Tensor:
        log_z, inside, messages = _ops.forest_forward.default(*forest)
        ctx.save_for_backward(*forest[:-1], log_z, inside, messages)
        ctx.num_instances = forest[-1]
        return log_z

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *forest, log_z, inside, messages = ctx.saved_tensors
        if torch.is_grad_enabled():
            given = (*forest, ctx.num_instances)
            return tuple(recorded.gradients(_twin().log_partition, given, ctx.needs_input_grad, grad))
        unary, _, tables = _ops.forest_backward.default(
            *forest, ctx.num_instances, log_z, inside, messages, grad.contiguous(), -1.0, False
        )
        parts = (unary, tables)
        return (*(part if need else None for part, need in zip(parts, ctx.needs_input_grad, strict=False)), *[None] * 8)


def _checked(unary: Tensor, tables: Tensor, *plan: Any) -> tuple[Any, ...]:
    """The arguments, contiguous, after a check of shapes, types and of everything that a loop uses as an index."""
    *indices, num_instances = plan
    fault = ""
    if unary.dim() != 1 or tables.dim() != 1 or unary.dtype != tables.dtype or unary.device != tables.device:
        fault = (
            f"unary is {unary.dtype} {tuple(unary.shape)} on {unary.device} and tables {tables.dtype} "
            f"{tuple(tables.shape)} on {tables.device}; both must be flat, of one type, on one device"
        )
    sites = indices[0].shape[0]
    for name, value in zip(forest_ops.INDICES, indices, strict=True):
        kind = torch.bool if name == "transposed" else torch.long
        wanted = (sites + 1,) if name == "starts" else (sites,)
        if not fault and (value.dtype != kind or value.shape != wanted or not value.is_cpu):
            fault = (
                f"{name} is {value.dtype} {tuple(value.shape)} on {value.device}; it must be {kind} {wanted} on the CPU"
            )
    if not fault:
        fault = forest_ops.fault(unary, tables, indices, num_instances)
    if fault:
        raise GraphError(f"a forest kernel was asked for inference, but {fault}")
    return (*(x.contiguous() for x in (unary, tables, *indices)), num_instances)


def _compiled(unary: Tensor) -> bool:
    return unary.is_cpu and unary.dtype in (torch.float32, torch.float64) and chain_ops.available()


def _twin() -> Any:
    from ebmstruct.inference.kernels.forests import forest_torch

    return forest_torch

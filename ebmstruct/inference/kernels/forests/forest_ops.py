"""The forest loops as torch operators on CPU tensors, with fake rules; what ``chain_ops`` is to chains."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from ebmstruct.inference.kernels.chains.chain_ops import available, flat, library

INDICES = ("num_states", "starts", "parent", "order", "table_start", "transposed", "instance")
_FAULTS = (
    "",
    "num_states and starts do not fit: each site has at least one state, starts[i + 1] - starts[i] = num_states[i], "
    "and starts ends at the number of unary energies",
    "instance does not fit: it must lie in [0, num_instances), and be that of the parent",
    "parent does not fit: it must be -1 or another site",
    "table_start does not fit: a table of num_states[i] * num_states[parent[i]] entries must lie within tables",
    "order does not fit: it must hold every site once, and each before its parent",
)
_FOREST = (
    "Tensor unary, Tensor tables, Tensor num_states, Tensor starts, Tensor parent, Tensor order, "
    "Tensor table_start, Tensor transposed, Tensor instance, int num_instances"
)


@functools.cache
def loops() -> SimpleNamespace:
    """The compiled loops; the first call imports numba."""
    from ebmstruct.inference.kernels.forests import forest_k_best_numba, forest_numba

    return SimpleNamespace(
        fault=forest_numba.fault,
        message_begins=forest_numba.message_begins,
        joint_begins=forest_numba.joint_begins,
        log_up=forest_numba.log_up,
        posterior=forest_numba.posterior,
        minimize=forest_numba.minimize,
        sample=forest_numba.sample,
        k_best=forest_k_best_numba.k_best,
    )


def arrays(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    return tuple(flat(x) for x in tensors)


def fault(unary: Tensor, tables: Tensor, indices: Sequence[Tensor], num_instances: int) -> str:
    """A sentence about what does not fit in the description of a forest, empty if all does.

    Without numba the twin runs, and torch looks after its own indices.
    """
    if not available():
        return ""
    plan = arrays(*(x.contiguous() for x in indices))
    return _FAULTS[loops().fault(*plan, num_instances, unary.numel(), tables.numel())]


def forward(unary: Tensor, tables: Tensor, *plan: Tensor | int) -> tuple[Tensor, Tensor, Tensor]:
    *indices, num_instances = plan
    forest = arrays(unary, tables, *indices)  # type: ignore[arg-type]
    log_z = torch.empty(num_instances, dtype=torch.float64)  # type: ignore[arg-type]
    inside = torch.empty(unary.shape[0], dtype=torch.float64)
    messages = torch.empty(int(loops().message_begins(forest[2], forest[4])[-1]), dtype=torch.float64)
    loops().log_up(*forest, inside.numpy(), messages.numpy(), log_z.numpy())
    return log_z, inside, messages


def forward_fake(unary: Tensor, tables: Tensor, *plan: Tensor | int) -> tuple[Tensor, Tensor, Tensor]:
    wide = functools.partial(unary.new_empty, dtype=torch.float64)
    return wide(plan[-1]), wide(unary.shape[0]), wide(torch.library.get_ctx().new_dynamic_size())


def backward(unary: Tensor, tables: Tensor, *rest: Tensor | int | float | bool) -> tuple[Tensor, Tensor, Tensor]:
    *indices, _, log_z, inside, messages, weight, sign, edges = rest
    _, *plan = arrays(unary, tables, *indices)  # type: ignore[arg-type]
    share = np.empty(unary.shape[0])
    joint = np.empty(loops().joint_begins(plan[1], plan[3])[-1] if edges else 0)
    table = np.zeros(0 if edges else tables.shape[0])
    record = arrays(inside, messages, log_z, weight)  # type: ignore[arg-type]
    loops().posterior(*plan, *record, sign, share, joint, table)
    parts = (torch.from_numpy(part).to(unary.dtype) for part in (share, joint, table))
    return tuple(parts)  # type: ignore[return-value]


def backward_fake(unary: Tensor, tables: Tensor, *rest: Tensor | int | float | bool) -> tuple[Tensor, Tensor, Tensor]:
    joint = torch.library.get_ctx().new_dynamic_size() if rest[-1] else 0
    return unary.new_empty(unary.shape), unary.new_empty(joint), unary.new_empty(0 if rest[-1] else tables.shape[0])


library.define(f"forest_forward({_FOREST}) -> (Tensor, Tensor, Tensor)")
library.impl("forest_forward", forward, "CPU")
torch.library.register_fake("ebmstruct::forest_forward", forward_fake, lib=library)
library.define(
    f"forest_backward({_FOREST}, Tensor log_z, Tensor inside, Tensor messages, Tensor weight, float sign, bool edges)"
    " -> (Tensor, Tensor, Tensor)"
)
library.impl("forest_backward", backward, "CPU")
torch.library.register_fake("ebmstruct::forest_backward", backward_fake, lib=library)
